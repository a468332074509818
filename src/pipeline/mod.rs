//! From bytes to bytes: decode, model, recolour, encode, and say what happened.

pub mod background;
pub mod base;
pub mod contact_sheet;
pub mod decode;
pub mod effect;
pub mod encode;
pub mod event;
pub mod footprint;
pub mod gallery;
pub mod identity;
pub mod job;
pub mod manifest;
pub mod outlet;
pub mod output;
mod pages;
pub mod palette_file;
pub mod plan;
mod recall;
pub mod recoloring;
pub mod remote_picture;
pub mod run;
pub mod segment;
mod studio;
pub mod timing;
pub mod variation;
