//! Headers: which format, how many pixels, which way up. Parsed from the bytes in place.

use image::ImageDecoder as _;
use image::metadata::Orientation;

use super::{DecodeError, Limits, Probe, SourceFormat, jpeg, raster};

/// Finds the format by its signature.
///
/// # Errors
/// [`DecodeError::Unsupported`] naming what the bytes look like; [`DecodeError::Truncated`] when they end inside a
/// signature.
pub(super) fn sniff(bytes: &[u8]) -> Result<SourceFormat, DecodeError> {
    let cut = |format| {
        let detail = format!("it ends after {} bytes, within its header", bytes.len());
        Err(DecodeError::Truncated { format, detail })
    };
    if bytes.starts_with(b"\x89PNG") {
        return Ok(SourceFormat::Png);
    }
    if bytes.starts_with(b"\xFF\xD8") {
        return Ok(SourceFormat::Jpeg);
    }
    if bytes.starts_with(b"GIF8") {
        return Ok(SourceFormat::Gif);
    }
    if matches!(bytes, [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..]) {
        return Ok(SourceFormat::Tiff);
    }
    if bytes.starts_with(b"RIFF") {
        match bytes.get(8..12) {
            None => return cut(SourceFormat::Webp),
            Some(b"WEBP") => return Ok(SourceFormat::Webp),
            Some(_) => {}
        }
    }
    // Two letters are too weak a signature for text not to match: the size of the second header must fit too.
    if bytes.starts_with(b"BM") {
        match bytes.get(14..18) {
            None if bytes.len() > 2 && bytes.is_ascii() => {}
            None => return cut(SourceFormat::Bmp),
            Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]) => return Ok(SourceFormat::Bmp),
            Some(_) => {}
        }
    }
    Err(DecodeError::Unsupported { found: describe(bytes) })
}

/// Names common files that are not readable pictures, so that the error tells people what they sent.
fn describe(bytes: &[u8]) -> String {
    let name = match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4) {
            Some(b"avif" | b"avis") => "an AVIF picture",
            Some(b"heic" | b"heix" | b"heif" | b"mif1" | b"msf1") => "a HEIC picture",
            _ => "a video or another ISO media file",
        },
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL picture",
        [0, 0, 0, 12, b'j', b'P', ..] => "a JPEG 2000 picture",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop document",
        [b'<', b's', b'v', b'g', ..] => "an SVG drawing",
        [b'<', ..] => "HTML or XML text",
        [b'R', b'I', b'F', b'F', ..] => "a RIFF file other than WebP",
        _ if std::str::from_utf8(&bytes[..bytes.len().min(64)]).is_ok() => "text",
        _ => {
            let start: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            return format!("unknown bytes starting {}", start.join(" "));
        }
    };
    format!("it looks like {name}")
}

/// Reads the header of a file whose format is known, and checks it against the limits.
pub(super) fn probe(format: SourceFormat, bytes: &[u8], limits: &Limits) -> Result<Probe, DecodeError> {
    match format {
        SourceFormat::Png => png(bytes, limits),
        SourceFormat::Jpeg => {
            let header = jpeg::Header::read(bytes, jpeg::Extent::UntilFirstScan)?;
            let pixels = check(format, header.width, header.height, limits)?;
            let raster = pixels * if header.components == 4 { 4 } else { 3 };
            let coefficients = if header.progressive { header.coefficient_bytes() } else { 0 };
            let (width, height) = (header.width, header.height);
            let orientation = header.orientation;
            Ok(Probe {
                format,
                width,
                height,
                orientation,
                peak_bytes: peak(raster, coefficients, 3 * pixels, orientation),
            })
        }
        SourceFormat::Webp | SourceFormat::Gif | SourceFormat::Bmp | SourceFormat::Tiff => {
            if let (SourceFormat::Gif, &[_, _, _, _, _, _, w0, w1, h0, h1, ..]) = (format, bytes) {
                // Its reader wants a frame to be there before it tells the size.
                let (width, height) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]));
                check(format, width.into(), height.into(), limits)?;
            }
            let mut decoder = raster::open(format, bytes)?;
            let (width, height) = decoder.dimensions();
            let pixels = check(format, width, height, limits)?;
            // An orientation that cannot be read is none: the pixels are still good.
            let orientation = decoder.orientation().map_or(1, Orientation::to_exif);
            let stored = pixels * u64::from(decoder.original_color_type().bits_per_pixel().max(8)).div_ceil(8);
            let raster = stored.max(3 * pixels) + pixels;
            // What the decoders hold beside the raster: a frame of planes or colours, or the samples as stored.
            let beside = match format {
                SourceFormat::Bmp => 0,
                SourceFormat::Gif => pixels,
                SourceFormat::Webp => 4 * pixels,
                _ => stored,
            };
            Ok(Probe { format, width, height, orientation, peak_bytes: peak(raster, beside, 4 * pixels, orientation) })
        }
    }
}

/// Peak of decoding (raster and what the decoder holds beside it), or of turning (two finished rasters), bytes.
fn peak(raster: u64, beside: u64, finished: u64, orientation: u8) -> u64 {
    let turning = if orientation >= 5 { 2 * finished } else { 0 };
    (raster + beside).max(turning)
}

/// Checks sides and pixels; gives the number of pixels.
///
/// # Errors
/// [`DecodeError::Broken`] when a side is zero, [`DecodeError::TooLarge`] beyond a limit.
pub(super) fn check(format: SourceFormat, width: u32, height: u32, limits: &Limits) -> Result<u64, DecodeError> {
    if width == 0 || height == 0 {
        let detail = format!("its header says {width}×{height} pixels");
        return Err(DecodeError::Broken { format, detail });
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels || width.max(height) > limits.max_side {
        let Limits { max_pixels, max_side, .. } = *limits;
        return Err(DecodeError::TooLarge { format, width, height, max_pixels, max_side });
    }
    Ok(pixels)
}

/// Orientation in an EXIF block that starts at its TIFF header, with or without the `Exif\0\0` prefix; 1 when there
/// is none.
pub(super) fn exif_orientation(exif: &[u8]) -> u8 {
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    Orientation::from_exif_chunk(exif).map_or(1, Orientation::to_exif)
}

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1A\n";

/// Walks the chunks of a PNG: type and content, until the end chunk or the end of the bytes.
///
/// Yields `None` once when the bytes end before the end chunk does.
pub(super) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = Option<([u8; 4], &[u8])>> {
    let mut rest = bytes.strip_prefix(PNG_SIGNATURE);
    std::iter::from_fn(move || {
        let here = rest?;
        let chunk = (|| {
            let (length, after) = here.split_first_chunk::<4>()?;
            let (kind, after) = after.split_first_chunk::<4>()?;
            let length = u32::from_be_bytes(*length) as usize;
            // Four bytes of checksum follow the content.
            let next = after.get(length.checked_add(4)?..)?;
            Some((*kind, &after[..length], next))
        })();
        let Some((kind, content, next)) = chunk else {
            rest = None;
            return Some(None);
        };
        rest = (&kind != b"IEND").then_some(next);
        Some(Some((kind, content)))
    })
}

fn png(bytes: &[u8], limits: &Limits) -> Result<Probe, DecodeError> {
    let format = SourceFormat::Png;
    let broken = |detail: &str| DecodeError::Broken { format, detail: detail.to_owned() };
    if !bytes.starts_with(PNG_SIGNATURE) {
        if PNG_SIGNATURE.starts_with(bytes) {
            return Err(DecodeError::Truncated { format, detail: "it ends within its signature".to_owned() });
        }
        return Err(broken("its signature was altered, as by a text-mode transfer"));
    }
    let mut chunks = png_chunks(bytes);
    let Some(([b'I', b'H', b'D', b'R'], content)) = chunks.next().flatten() else {
        let detail = "it ends within its header".to_owned();
        return Err(if bytes.len() < 33 {
            DecodeError::Truncated { format, detail }
        } else {
            broken("it has no header")
        });
    };
    let &[w0, w1, w2, w3, h0, h1, h2, h3, _depth, color, ..] = content else {
        return Err(broken("its header is too short"));
    };
    let (width, height) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let pixels = check(format, width, height, limits)?;
    let (mut orientation, mut alpha) = (1, color & 4 != 0);
    for (kind, content) in chunks.map_while(|chunk| chunk) {
        match &kind {
            b"eXIf" => orientation = exif_orientation(content),
            b"tRNS" => alpha = true,
            _ => {}
        }
    }
    let raster = pixels * if alpha { 4 } else { 3 };
    Ok(Probe { format, width, height, orientation, peak_bytes: peak(raster, 0, raster, orientation) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_decide_the_format() {
        for (bytes, format) in [
            (&b"\x89PNG\r\n\x1A\n"[..], SourceFormat::Png),
            (b"\xFF\xD8\xFF\xE0", SourceFormat::Jpeg),
            (b"GIF89a", SourceFormat::Gif),
            (b"RIFF\0\0\0\0WEBP", SourceFormat::Webp),
            (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", SourceFormat::Bmp),
            (b"II*\0", SourceFormat::Tiff),
            (b"MM\0*", SourceFormat::Tiff),
        ] {
            assert_eq!(sniff(bytes), Ok(format));
        }
    }

    #[test]
    fn foreign_files_are_named() {
        for (bytes, name) in [
            (&b"BMW builds cars, and this is only a sentence."[..], "text"),
            (b"\0\0\0\x1Cftypavif", "AVIF"),
            (b"\0\0\0\x1Cftypheic", "HEIC"),
            (b"%PDF-1.7", "PDF"),
            (b"<!doctype html>", "HTML"),
            (b"RIFF\0\0\0\0WAVE", "RIFF"),
            (b"\x01\x02\xFF\xFE", "01 02 ff fe"),
        ] {
            let error = sniff(bytes).unwrap_err();
            assert_eq!(error.class(), "unsupported-picture");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_chunk_walk_says_when_the_end_is_missing() {
        let mut png = PNG_SIGNATURE.to_vec();
        png.extend(b"\0\0\0\x01tEXtx\0\0\0\0");
        assert_eq!(png_chunks(&png).collect::<Vec<_>>(), [Some((*b"tEXt", &b"x"[..])), None]);
        png.extend(b"\0\0\0\0IEND\0\0\0\0trailer");
        assert_eq!(png_chunks(&png).last(), Some(Some((*b"IEND", &b""[..]))));
    }
}
