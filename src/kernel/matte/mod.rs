//! Background removal: alpha mattes, and the clean colours of what is in front.
//!
//! [`classic`] cuts out without a model; [`refine`] brings the small map of a neural network to full size; [`clean`]
//! tidies such a matte; [`foreground`] estimates the colours that go with it.

pub mod classic;
pub mod clean;
mod edge;
mod extent;
pub mod foreground;
mod ground;
pub mod refine;
mod ringing;
mod runs;
mod shadow;
mod surface;
