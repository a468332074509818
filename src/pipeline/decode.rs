//! Pictures in: PNG, JPEG, WebP, GIF, BMP and TIFF to straight-alpha 8-bit sRGB.
//!
//! The format is found in the bytes, never in a name. Sides, pixels and file size are checked against [`Limits`]
//! before a raster is allocated. Embedded ICC profiles are converted to sRGB and the EXIF orientation is applied, so
//! a [`BaseImage`] needs neither any more. Of an animation the first frame (of an APNG, the default image) is read.
//!
//! Third-party decoders run behind [`std::panic::catch_unwind`]: a bug in one of them becomes
//! [`DecodeError::Broken`] for that picture and leaves the process alone. (A binary built with `panic = "abort"`
//! gives that protection up.)

mod header;
mod icc;
mod jpeg;
mod jpeg_scan;
mod orient;
mod planes;
mod png_rows;
mod raster;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::kernel::image::BaseImage;

/// What a picture may cost. Checked from the header, before a raster is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels, width × height.
    pub max_pixels: u64,
    /// Longest side, pixels.
    pub max_side: u32,
    /// Longest file, bytes.
    pub max_source_bytes: u64,
}

impl Default for Limits {
    /// 100 megapixels, sides up to 65,535, files up to 256 MiB.
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_side: 65_535, max_source_bytes: 256 << 20 }
    }
}

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// Portable Network Graphics.
    Png,
    /// JPEG, baseline or progressive.
    Jpeg,
    /// WebP, lossy or lossless.
    Webp,
    /// Graphics Interchange Format.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// Tagged Image File Format.
    Tiff,
}

impl SourceFormat {
    /// The short lower-case name, as in the manifest: `"png"`, `"jpeg"`, `"webp"`, `"gif"`, `"bmp"`, `"tiff"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }
}

impl std::fmt::Display for SourceFormat {
    /// The name as people write it: `PNG`, `JPEG`, `WebP`, …
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The format found in the bytes.
    pub format: SourceFormat,
    /// Width as stored, before orientation, pixels.
    pub width: u32,
    /// Height as stored, before orientation, pixels.
    pub height: u32,
    /// EXIF orientation, 1 to 8; 1 when the file names none.
    pub orientation: u8,
    /// Highest number of bytes [`decode`] holds at once for this picture, its rasters and coefficients, without the
    /// source bytes. An estimate from above.
    pub peak_bytes: u64,
}

impl Probe {
    /// Width and height of the decoded picture: orientations 5 to 8 swap the stored sides.
    pub const fn oriented_size(&self) -> (u32, u32) {
        if self.orientation >= 5 { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// Why a picture was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the picture file is empty (0 bytes); check the upload or the path")]
    Empty,
    /// Not one of the formats that can be read.
    #[error("this is not a picture that can be read: {found}; give PNG, JPEG, WebP, GIF, BMP or TIFF")]
    Unsupported {
        /// What the bytes look like.
        found: String,
    },
    /// A known format with a feature that cannot be read.
    #[error("this {format} picture cannot be read: {detail}; save it again as 8-bit RGB {format} or as PNG")]
    UnsupportedFeature {
        /// The format.
        format: SourceFormat,
        /// The feature.
        detail: String,
    },
    /// The header asks for more pixels or longer sides than allowed.
    #[error(
        "the {format} picture has {width}×{height} pixels, more than the limit of {max_pixels} pixels with sides up to \
         {max_side}; scale it down, or raise the limit"
    )]
    TooLarge {
        /// The format.
        format: SourceFormat,
        /// Width as stored, pixels.
        width: u32,
        /// Height as stored, pixels.
        height: u32,
        /// The limit on width × height.
        max_pixels: u64,
        /// The limit on each side.
        max_side: u32,
    },
    /// The file is longer than allowed.
    #[error("the picture file has {bytes} bytes, more than the limit of {limit}; compress it, or raise the limit")]
    SourceTooLarge {
        /// Length of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file ends before the picture does.
    #[error("the {format} picture is cut short: {detail}; transfer or export the file again")]
    Truncated {
        /// The format.
        format: SourceFormat,
        /// What is missing.
        detail: String,
    },
    /// The bytes contradict the format.
    #[error("the {format} picture is damaged: {detail}; open it in an image editor and export it again")]
    Broken {
        /// The format.
        format: SourceFormat,
        /// What was found.
        detail: String,
    },
}

impl DecodeError {
    /// A short, stable class for manifests and metrics: `"unsupported-picture"`, `"picture-too-large"` or
    /// `"broken-picture"`.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unsupported { .. } | Self::UnsupportedFeature { .. } => "unsupported-picture",
            Self::TooLarge { .. } | Self::SourceTooLarge { .. } => "picture-too-large",
            Self::Empty | Self::Truncated { .. } | Self::Broken { .. } => "broken-picture",
        }
    }
}

/// Reads a picture's header: format, stored size and orientation. Allocates no raster.
///
/// A file that is cut short after its header passes here and fails in [`decode`].
///
/// # Errors
/// [`DecodeError`] when the bytes are no readable picture, or the header exceeds `limits`.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Probe, DecodeError> {
    let format = admit(bytes, limits)?;
    guarded(format, || header::probe(format, bytes, limits))
}

/// Decodes a picture to straight-alpha 8-bit sRGB, upright.
///
/// Samples of 16 bits are rounded to 8 after colour conversion. An ICC profile that cannot be used is ignored with a
/// warning in the log; one that is sRGB to within a code leaves the bytes as they are. CMYK without a profile is
/// converted by (255 − ink)·(255 − black)/255.
///
/// # Errors
/// [`DecodeError`] when the bytes are no readable picture, the header exceeds `limits`, or the data is cut short or
/// damaged; part of a picture is never returned.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<BaseImage, DecodeError> {
    let format = admit(bytes, limits)?;
    guarded(format, || {
        let probe = header::probe(format, bytes, limits)?;
        let planes = match format {
            SourceFormat::Png => png_rows::decode(bytes, &probe)?,
            SourceFormat::Jpeg => jpeg::decode(bytes, &probe, limits)?,
            _ => raster::decode(bytes, &probe, limits)?,
        };
        orient::upright(planes, probe.orientation).into_image(format)
    })
}

/// The checks that need no parsing: length, then format.
fn admit(bytes: &[u8], limits: &Limits) -> Result<SourceFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() as u64 > limits.max_source_bytes {
        return Err(DecodeError::SourceTooLarge { bytes: bytes.len() as u64, limit: limits.max_source_bytes });
    }
    header::sniff(bytes)
}

/// Turns a panic of a third-party decoder into an error. Nothing outlives the closure but its result, so no broken
/// state can be seen afterwards.
fn guarded<T>(format: SourceFormat, work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        tracing::error!(format = format.name(), %message, "a decoder panicked");
        Err(DecodeError::Broken { format, detail: format!("its decoder gave up ({message})") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_becomes_a_broken_picture() {
        let result: Result<(), _> = guarded(SourceFormat::Gif, || panic!("index out of bounds"));
        let error = result.unwrap_err();
        assert_eq!(error.class(), "broken-picture");
        assert!(error.to_string().contains("GIF") && error.to_string().contains("index out of bounds"));
    }

    #[test]
    fn orientations_from_five_up_swap_the_sides() {
        let at = |orientation| Probe { format: SourceFormat::Png, width: 3, height: 2, orientation, peak_bytes: 0 };
        assert_eq!(at(4).oriented_size(), (3, 2));
        assert_eq!(at(5).oriented_size(), (2, 3));
    }
}
