//! Pure colour arithmetic: images in memory in, colour tables and figures out.
//!
//! Nothing in here reads files, the clock or the environment, and nothing can fail once its input was constructed.

pub mod color;
pub mod harmony;
pub mod image;
pub mod palette;
pub mod predecessor;
pub mod quality;
