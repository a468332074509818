//! One base image in, every brand palette out.
//!
//! The crate is three rooms. [`kernel`] is pure colour arithmetic: no files, no clock, no environment.
//! [`pipeline`] carries a [`pipeline::job::Job`] through decode, model, recolour, encode and manifest.
//! [`service`] is the worker around it: messages in, objects out.
//! Imports go one way: kernel ← pipeline ← config ← service ← (cli, main).

#[cfg(feature = "opencv")]
pub mod baseline;
pub mod config;
pub mod kernel;
pub mod pipeline;
pub mod service;

/// The README's example is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
