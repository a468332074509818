//! Pure colour arithmetic: images in memory in, colour tables and figures out.
//!
//! Nothing in here reads files, the clock or the environment, and nothing can fail once its input was constructed.

pub mod assign;
pub mod cluster;
pub mod color;
pub mod color_bits;
pub mod compose;
pub mod dither;
pub mod effect;
pub mod gamut;
pub mod gather;
pub mod harmony;
pub mod image;
mod lightness;
pub mod matte;
pub mod model;
pub mod palette;
pub mod predecessor;
pub mod quality;
pub mod recolor;
pub mod resample;
pub mod resize;
mod simd;
pub mod tint;
pub mod unique;
