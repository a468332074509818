//! WebP, GIF, BMP and TIFF, through the `image` crate's decoders.

use std::error::Error;
use std::io::{Cursor, ErrorKind};

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::error::ImageError;
use image::{ColorType, ExtendedColorType, ImageDecoder, Limits as ImageLimits};

use super::icc::Conversion;
use super::planes::{Channels, Layout, Planes};
use super::{DecodeError, Limits, Probe, SourceFormat, header};

/// What a decoder may hold beside the samples of the picture.
const BESIDE_BYTES: u64 = 64 << 20;

/// Opens a decoder, which reads the header only.
pub(super) fn open(format: SourceFormat, bytes: &[u8]) -> Result<Box<dyn ImageDecoder + '_>, DecodeError> {
    let cursor = Cursor::new(bytes);
    let refused = |error| refusal(format, &error);
    Ok(match format {
        SourceFormat::Webp => Box::new(WebPDecoder::new(cursor).map_err(refused)?),
        SourceFormat::Gif => Box::new(GifDecoder::new(cursor).map_err(refused)?),
        SourceFormat::Bmp => Box::new(BmpDecoder::new(cursor).map_err(refused)?),
        SourceFormat::Tiff => Box::new(TiffDecoder::new(cursor).map_err(refused)?),
        SourceFormat::Png | SourceFormat::Jpeg => {
            return Err(DecodeError::Unsupported { found: format!("{format} has a reader of its own") });
        }
    })
}

/// Decodes a picture whose header passed the limits; of an animation, the first frame.
pub(super) fn decode(bytes: &[u8], probe: &Probe, limits: &Limits) -> Result<Planes, DecodeError> {
    let format = probe.format;
    let refused = |error| refusal(format, &error);
    let broken = |detail: &str| DecodeError::Broken { format, detail: detail.to_owned() };
    if format == SourceFormat::Webp {
        whole_riff(bytes)?;
    }
    let mut decoder = open(format, bytes)?;
    if decoder.dimensions() != (probe.width, probe.height) {
        return Err(broken("its headers disagree on the size"));
    }
    let pixels = header::check(format, probe.width, probe.height, limits)?;
    let layout = layout(format, decoder.color_type())?;
    // Before the limits are set: TIFF's reader forgets its tags with them.
    let mut profile = decoder.icc_profile().unwrap_or_default();
    if matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16)
        && profile.take().is_some()
    {
        tracing::warn!(format = format.name(), "the CMYK profile is ignored, the inks are converted without it");
    }
    let mut allowance = ImageLimits::no_limits();
    allowance.max_image_width = Some(limits.max_side);
    allowance.max_image_height = Some(limits.max_side);
    // The result, and the samples as the file stores them (four bytes at most for each of ours).
    allowance.max_alloc = Some(pixels * layout.bytes_per_pixel() as u64 * 5 + BESIDE_BYTES);
    decoder.set_limits(allowance).map_err(refused)?;
    let mut raster = vec![0; pixels as usize * layout.bytes_per_pixel()];
    if decoder.total_bytes() != raster.len() as u64 {
        return Err(broken("its headers disagree on the size"));
    }
    decoder.read_image_boxed(&mut raster).map_err(refused)?;
    let conversion = Conversion::new(profile.as_deref(), layout);
    Planes::from_raster(raster, (probe.width, probe.height), layout, &conversion)
}

fn layout(format: SourceFormat, color: ColorType) -> Result<Layout, DecodeError> {
    let (channels, alpha, deep) = match color {
        ColorType::L8 => (Channels::Gray, false, false),
        ColorType::La8 => (Channels::Gray, true, false),
        ColorType::Rgb8 => (Channels::Rgb, false, false),
        ColorType::Rgba8 => (Channels::Rgb, true, false),
        ColorType::L16 => (Channels::Gray, false, true),
        ColorType::La16 => (Channels::Gray, true, true),
        ColorType::Rgb16 => (Channels::Rgb, false, true),
        ColorType::Rgba16 => (Channels::Rgb, true, true),
        other => {
            let detail = format!("its samples are of the kind {other:?}, only 8 and 16 bits are read");
            return Err(DecodeError::UnsupportedFeature { format, detail });
        }
    };
    Ok(Layout { channels, alpha, deep })
}

/// A WebP says in its first bytes how long it is.
fn whole_riff(bytes: &[u8]) -> Result<(), DecodeError> {
    let promised = bytes.get(4..).and_then(<[u8]>::first_chunk::<4>).map(|&length| u32::from_le_bytes(length));
    let got = bytes.len() as u64;
    match promised.map(|length| u64::from(length) + 8) {
        Some(promised) if promised > got => {
            let detail = format!("it should have {promised} bytes and has {got}");
            Err(DecodeError::Truncated { format: SourceFormat::Webp, detail })
        }
        _ => Ok(()),
    }
}

fn refusal(format: SourceFormat, error: &ImageError) -> DecodeError {
    if ends_early(error) {
        return DecodeError::Truncated { format, detail: "it ends within its data".to_owned() };
    }
    match error {
        ImageError::Unsupported(error) => DecodeError::UnsupportedFeature { format, detail: error.to_string() },
        ImageError::Limits(_) => {
            let detail = "it needs more memory beside its pixels than any sound file".to_owned();
            DecodeError::Broken { format, detail }
        }
        other => DecodeError::Broken { format, detail: other.to_string() },
    }
}

/// Whether the bytes ran out, wherever in the chain of causes that is said.
fn ends_early(error: &ImageError) -> bool {
    let io = |error: &std::io::Error| error.kind() == ErrorKind::UnexpectedEof;
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // The reader of GIF has a variant of its own for it, in a crate that is not ours to name: its text must do.
        if error.downcast_ref().is_some_and(io) || error.to_string() == "Unexpected End of File" {
            return true;
        }
        cause = error.source();
    }
    matches!(error, ImageError::IoError(error) if io(error))
}
