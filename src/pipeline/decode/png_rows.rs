//! PNG, row by row straight into the planes.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits as PngLimits, Reader, Transformations};

use super::icc::Conversion;
use super::planes::{Channels, Endian, Layout, Planes, RowWriter};
use super::{DecodeError, Probe, SourceFormat, header};

const FORMAT: SourceFormat = SourceFormat::Png;

/// What the decoder may hold beside our planes: rows, text and an unpacked profile.
const BESIDE_BYTES: usize = 32 << 20;

/// Column and row steps and offsets of the seven Adam7 passes: (x offset, x step, y offset, y step).
const ADAM7: [(usize, usize, usize, usize); 7] =
    [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)];

/// Decodes a PNG whose header passed the limits. Of an APNG, the default image.
pub(super) fn decode(bytes: &[u8], probe: &Probe) -> Result<Planes, DecodeError> {
    // The decoder stops at the last row and would not miss what follows it.
    if header::png_chunks(bytes).any(|chunk| chunk.is_none()) {
        return Err(truncated("it has no end chunk"));
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), PngLimits { bytes: BESIDE_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(refusal)?;
    let (color, depth) = reader.output_color_type();
    let (channels, alpha) = match color {
        ColorType::Grayscale => (Channels::Gray, false),
        ColorType::GrayscaleAlpha => (Channels::Gray, true),
        ColorType::Rgb => (Channels::Rgb, false),
        ColorType::Rgba => (Channels::Rgb, true),
        ColorType::Indexed => return Err(broken("its palette cannot be expanded")),
    };
    let layout = Layout { channels, alpha, deep: depth == BitDepth::Sixteen };
    let conversion = Conversion::new(reader.info().icc_profile.as_deref(), layout);
    let mut planes = Planes::new(probe.width, probe.height, alpha);
    let mut writer = RowWriter::new(layout, Endian::Big, &conversion);
    if reader.info().interlaced {
        interlaced(&mut reader, layout, &mut writer, &mut planes)?;
    } else {
        progressive(&mut reader, layout, &mut writer, &mut planes)?;
    }
    // Asking for one row more makes the decoder check the data's end and its checksum.
    let mut spare = vec![0; probe.width as usize * layout.bytes_per_pixel()];
    if reader.read_row(&mut spare).map_err(refusal)?.is_some() {
        return Err(broken("it has more rows than its header says"));
    }
    if !layout.deep && channels == Channels::Rgb {
        conversion.apply_rgb8(&mut planes.rgb);
    }
    Ok(planes)
}

type PngReader<'a> = Reader<Cursor<&'a [u8]>>;

/// Rows in order. 8-bit RGB rows land in the plane without a copy.
fn progressive(
    reader: &mut PngReader<'_>,
    layout: Layout,
    writer: &mut RowWriter<'_>,
    planes: &mut Planes,
) -> Result<(), DecodeError> {
    let width = planes.width as usize;
    let direct = layout == (Layout { channels: Channels::Rgb, alpha: false, deep: false });
    let mut row = vec![0; if direct { 0 } else { width * layout.bytes_per_pixel() }];
    let mut alpha = planes.alpha.as_mut().map(|plane| plane.chunks_exact_mut(width));
    for rgb in planes.rgb.chunks_exact_mut(width * 3) {
        if direct {
            next_row(reader, rgb)?;
        } else {
            next_row(reader, &mut row)?;
            writer.write(&row, rgb, alpha.as_mut().and_then(Iterator::next));
        }
    }
    Ok(())
}

/// The seven passes, each a small picture of every so-manieth pixel.
fn interlaced(
    reader: &mut PngReader<'_>,
    layout: Layout,
    writer: &mut RowWriter<'_>,
    planes: &mut Planes,
) -> Result<(), DecodeError> {
    let (width, height) = (planes.width as usize, planes.height as usize);
    let mut row = vec![0; width * layout.bytes_per_pixel()];
    let (mut rgb, mut alpha) = (vec![0; width * 3], vec![0; if layout.alpha { width } else { 0 }]);
    for (x0, dx, y0, dy) in ADAM7 {
        let columns = width.saturating_sub(x0).div_ceil(dx);
        if columns == 0 {
            continue;
        }
        for y in (y0..height).step_by(dy) {
            next_row(reader, &mut row)?;
            let samples = &row[..columns * layout.bytes_per_pixel()];
            writer.write(samples, &mut rgb[..columns * 3], alpha.get_mut(..columns));
            let target = &mut planes.rgb.as_chunks_mut::<3>().0[y * width..][..width];
            for (&pixel, x) in rgb.as_chunks::<3>().0.iter().take(columns).zip((x0..).step_by(dx)) {
                target[x] = pixel;
            }
            if let Some(plane) = &mut planes.alpha {
                for (&value, x) in alpha.iter().take(columns).zip((x0..).step_by(dx)) {
                    plane[y * width + x] = value;
                }
            }
        }
    }
    Ok(())
}

fn next_row(reader: &mut PngReader<'_>, row: &mut [u8]) -> Result<(), DecodeError> {
    match reader.read_row(row).map_err(refusal)? {
        Some(_) => Ok(()),
        None => Err(truncated("it has fewer rows than its header says")),
    }
}

fn broken(detail: impl Into<String>) -> DecodeError {
    DecodeError::Broken { format: FORMAT, detail: detail.into() }
}

fn truncated(detail: &str) -> DecodeError {
    DecodeError::Truncated { format: FORMAT, detail: detail.to_owned() }
}

fn refusal(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            truncated("it ends within its data")
        }
        DecodingError::LimitsExceeded => broken("it needs more memory beside its pixels than any sound file"),
        other => broken(other.to_string()),
    }
}
