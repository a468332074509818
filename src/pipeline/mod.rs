//! From bytes to bytes: decode, model, recolour, encode, and say what happened.

pub mod contact_sheet;
pub mod decode;
pub mod encode;
pub mod gallery;
pub mod job;
pub mod manifest;
pub mod palette_file;
pub mod run;
