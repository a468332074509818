//! Pictures on their way to remote models: brought down to what those take, and as files that all of them read.

use super::base;
use super::decode::{self, DecodeError, Limits};
use super::encode::{self, EncodeError, EncodeOptions};
use super::job::{Chroma, Format};
use crate::kernel::image::Rows as _;
use crate::kernel::resize;

/// Quality of JPEG files that are sent: what is lost here, no model brings back.
const QUALITY: u8 = 95;

/// What a remote model is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    /// Longest side, pixels.
    pub max_dimension: u32,
    /// Most pixels.
    pub max_pixels: u64,
    /// Most pixels that the picture may have itself.
    pub max_source_pixels: u64,
}

/// Why a picture cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The bytes are no picture that can be used.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The picture in `source` within the limits, as a PNG where it has transparency or few colours, else as a JPEG; upright and in
/// sRGB.
///
/// # Errors
/// [`SendError`].
pub fn prepare(source: &[u8], limits: &SendLimits) -> Result<(Vec<u8>, Format), SendError> {
    let most = Limits { max_pixels: limits.max_source_pixels, max_source_bytes: u64::MAX, ..Limits::default() };
    let image = decode::decode(source, &most)?;
    let image = resize::prescale(image, limits.max_dimension, limits.max_pixels);
    let mut raster = base::raster(&image);
    let format = if raster.has_alpha() || raster.palette().is_some() { Format::Png } else { Format::Jpeg };
    let options = EncodeOptions { quality: QUALITY, chroma: Chroma::Full, ..EncodeOptions::new(format) };
    let mut file = Vec::new();
    encode::encode(&mut raster, &options, &mut file)?;
    Ok((file, format))
}

/// Bytes that [`prepare`] holds at most beside the source, for a picture whose decoder holds `decoded` and that has this many
/// pixels.
pub fn peak_bytes(decoded: u64, pixels: u64) -> u64 {
    decoded + 12 * pixels + (8 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_dimension: u32, max_pixels: u64) -> SendLimits {
        SendLimits { max_dimension, max_pixels, max_source_pixels: 50_000_000 }
    }

    #[test]
    fn a_photograph_is_sent_as_a_jpeg_within_both_limits() {
        let photo = std::fs::read("fixtures/images/photo.jpg").unwrap();
        for (max_dimension, max_pixels, size) in
            [(2_048, 2_000_000, (768, 576)), (384, 2_000_000, (384, 288)), (2_048, 110_592, (384, 288))]
        {
            let (file, format) = prepare(&photo, &limits(max_dimension, max_pixels)).unwrap();
            let seen = image::load_from_memory_with_format(&file, image::ImageFormat::Jpeg).unwrap();
            assert_eq!((format, seen.width(), seen.height()), (Format::Jpeg, size.0, size.1));
        }
    }

    #[test]
    fn transparency_is_sent_as_it_is() {
        let logo = std::fs::read("fixtures/images/logo_transparent_garbage.png").unwrap();
        let (file, format) = prepare(&logo, &limits(2_048, 2_000_000)).unwrap();
        assert_eq!(format, Format::Png);
        assert!(image::load_from_memory(&file).unwrap().color().has_alpha());
        assert!(prepare(b"no picture", &limits(64, 4_096)).is_err());
    }
}
