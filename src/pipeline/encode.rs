//! Pictures out: PNG, JPEG and WebP from a stream of rows.
//!
//! Rows are pulled one after another from [`Rows`] and go straight into the encoder, so that a variation never exists
//! as a whole raster. What each encoder holds at its peak, beside the compressed bytes it has not yet handed over:
//!
//! | encoder | memory |
//! |---|---|
//! | PNG, both efforts | a few rows and a 64 KiB chunk |
//! | JPEG, baseline | 8 or 16 rows of three planes |
//! | JPEG, progressive | the whole picture: three planes (3 bytes a pixel) and their coefficients (3 or 6 bytes a pixel) |
//! | JPEG through libjpeg-turbo (`turbojpeg`), baseline | a strip of 64 rows |
//! | JPEG through libjpeg-turbo, progressive | the whole picture at 4 bytes a pixel, and libjpeg's coefficients |
//! | WebP | the whole picture: RGB or RGBA here, 4 bytes a pixel and the working planes inside libwebp |
//!
//! Every output says that it is sRGB: PNG by the `sRGB` chunk, JPEG by a small ICC profile, WebP by carrying no profile
//! (see [`webp`]). Equal input gives equal bytes.

mod chroma;
mod icc;
mod jpeg;
mod planes;
mod png;
#[cfg(feature = "turbojpeg")]
mod turbo;
pub mod webp;

use std::io;

pub use chroma::{ChromaMeter, choose_chroma};
pub use icc::SRGB_PROFILE;

use super::job::{Chroma, Effort, Format};
use crate::kernel::color::Rgb8;
use crate::kernel::image::Rows;

/// How to write one file. Fields that a format does not have are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The file format.
    pub format: Format,
    /// 1 to 100, clamped; JPEG and lossy WebP.
    pub quality: u8,
    /// WebP without loss.
    pub lossless: bool,
    /// Progressive JPEG.
    pub progressive: bool,
    /// JPEG chroma resolution. [`choose_chroma`] resolves [`Chroma::Auto`]; left as it is it means 4:4:4, which can
    /// only cost bytes.
    pub chroma: Chroma,
    /// How hard PNG and WebP are squeezed.
    pub effort: Effort,
    /// What JPEG, which has no alpha, shows behind transparent pixels.
    pub fill: Rgb8,
}

impl EncodeOptions {
    /// The defaults of a format: quality 85, lossy, baseline, 4:4:4, fast, white fill.
    pub const fn new(format: Format) -> Self {
        Self {
            format,
            quality: 85,
            lossless: false,
            progressive: false,
            chroma: Chroma::Full,
            effort: Effort::Fast,
            fill: Rgb8::new(255, 255, 255),
        }
    }
}

/// Why a picture could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A side is longer than the format can say.
    #[error(
        "a {width}×{height} picture does not fit into {name}, whose sides end at {limit} pixels; set max_dimension to \
         {limit} or less, or write PNG",
        name = name(*.format)
    )]
    TooWide {
        /// The format asked for.
        format: Format,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The longest side of the format in pixels.
        limit: u32,
    },
    /// The encoder's output could not be written.
    #[error("cannot write the encoded picture: {0}; check that the destination exists and that there is room")]
    Io(#[from] io::Error),
    /// The encoder refused the picture.
    #[error(
        "the {name} encoder failed: {message}; retry with a smaller max_dimension, or write another format",
        name = name(*.format)
    )]
    Encoder {
        /// The format asked for.
        format: Format,
        /// The encoder's own words.
        message: String,
    },
}

const fn name(format: Format) -> &'static str {
    match format {
        Format::Png => "PNG",
        Format::Jpeg => "JPEG",
        Format::Webp => "WebP",
    }
}

/// The longest side that a format can hold, in pixels.
pub const fn longest_side(format: Format) -> u32 {
    match format {
        Format::Png => i32::MAX as u32,
        Format::Jpeg => u16::MAX as u32,
        Format::Webp => webp::LONGEST_SIDE,
    }
}

/// Reads `rows` to the end and writes them to `out` as one file.
///
/// PNG keeps alpha, and is indexed when `rows` has a palette; WebP keeps alpha; JPEG blends it over `options.fill`.
/// `out` is written in pieces of some 64 KiB and flushed at the end.
///
/// # Errors
/// [`EncodeError::TooWide`] before anything is read or written; [`EncodeError::Io`] when `out` fails;
/// [`EncodeError::Encoder`] when the encoder fails, which for pictures within the limits means that memory ran out.
/// After an error `out` holds an unfinished file.
pub fn encode(rows: &mut dyn Rows, options: &EncodeOptions, out: &mut dyn io::Write) -> Result<(), EncodeError> {
    let (width, height) = (rows.width(), rows.height());
    let limit = longest_side(options.format);
    if width > limit || height > limit {
        return Err(EncodeError::TooWide { format: options.format, width, height, limit });
    }
    match options.format {
        Format::Png => png::encode(rows, options.effort, out),
        Format::Jpeg => jpeg::encode(rows, options, out),
        Format::Webp => webp::encode(rows, options, out),
    }
}
