//! One base image in, every brand palette out.
//!
//! The crate is two rooms. [`kernel`] is pure colour arithmetic: no files, no clock, no environment.
//! [`pipeline`] carries a [`pipeline::job::Job`] through decode, model, recolour, encode and manifest.
//! Imports go one way: kernel ← pipeline ← (cli, main).

#[cfg(feature = "opencv")]
pub mod baseline;
pub mod config;
pub mod kernel;
pub mod pipeline;

/// The README's example is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
