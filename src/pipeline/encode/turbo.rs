//! JPEG through libjpeg-turbo, strip by strip.
//!
//! The TurboJPEG interface takes whole pictures. A baseline JPEG may however restart its entropy coding at a fixed
//! interval, and what lies between two restart markers is what a picture of that height would hold. So strips of
//! 64 rows are compressed as pictures of their own and joined by restart markers under one header: the pixels are those
//! of the whole picture, the memory is one strip's, and the strip is still in the cache when it is compressed.

use std::io::Write;

use pulp::Arch;
use turbojpeg::{Compressor, Image, OutputBuf, PixelFormat, Subsamp};

use super::{EncodeError, EncodeOptions, SRGB_PROFILE, jpeg, planes};
use crate::kernel::image::Rows;
use crate::pipeline::job::Format;

/// libjpeg's longest side, in pixels.
const LONGEST_SIDE: u32 = 65_500;

/// Rows in a strip. A multiple of 16, the height of a 4:2:0 block row; at the longest side 64 rows of 8×8 blocks are
/// 65,504, which the 16-bit restart interval just holds.
const STRIP: u32 = 64;

/// Whether libjpeg-turbo can write a picture of this size.
pub(super) fn takes(width: u32, height: u32, progressive: bool) -> bool {
    width <= LONGEST_SIDE && (!progressive || height <= LONGEST_SIDE)
}

/// Writes a JPEG. The sides are within JPEG's limits.
pub(super) fn encode(rows: &mut dyn Rows, options: &EncodeOptions, out: &mut dyn Write) -> Result<(), EncodeError> {
    let (width, height) = (rows.width(), rows.height());
    let halved = jpeg::halved(options.chroma);
    let subsampling = if halved { Subsamp::Sub2x2 } else { Subsamp::None };
    let mut compressor = Compressor::new().map_err(failed)?;
    compressor.set_quality(i32::from(options.quality.clamp(1, 100))).map_err(failed)?;
    compressor.set_subsamp(subsampling).map_err(failed)?;
    compressor.set_progressive(options.progressive).map_err(failed)?;

    // Progressive scans run over the whole picture.
    let strip_rows = if options.progressive { height } else { height.min(STRIP) } as usize;
    let pixels = width as usize;
    let mut strip = Vec::new();
    strip.try_reserve_exact(pixels * strip_rows).map_err(|error| message(&error.to_string()))?;
    strip.resize(pixels * strip_rows, 0);
    let mut jpeg = OutputBuf::new_owned();
    let fill = rows.has_alpha().then_some(options.fill);
    let arch = Arch::new();

    let mut done = 0;
    while done < height as usize {
        let count = strip_rows.min(height as usize - done);
        let strip = &mut strip[..pixels * count];
        for row in strip.chunks_exact_mut(pixels) {
            rows.next_row(row);
            if let Some(fill) = fill {
                planes::flatten(arch, row, fill);
            }
        }
        let image = Image {
            pixels: bytemuck::cast_slice(strip),
            width: pixels,
            pitch: 4 * pixels,
            height: count,
            format: if cfg!(target_endian = "little") { PixelFormat::RGBX } else { PixelFormat::XBGR },
        };
        compressor.compress(image, &mut jpeg).map_err(failed)?;
        let parts = Parts::of(&jpeg)?;
        if done == 0 {
            let blocks = if halved { 16 } else { 8 };
            let interval = width.div_ceil(blocks) * (strip_rows as u32).div_ceil(blocks);
            let restarts = (strip_rows < height as usize).then_some(interval);
            parts.write_header(height, restarts, out)?;
        } else {
            let number = (done / strip_rows - 1) % 8;
            out.write_all(&[0xFF, 0xD0 + number as u8])?;
        }
        out.write_all(parts.scans)?;
        done += count;
    }
    out.write_all(&[0xFF, EOI])?;
    out.flush()?;
    Ok(())
}

fn failed(error: turbojpeg::Error) -> EncodeError {
    message(&error.to_string())
}

fn message(text: &str) -> EncodeError {
    EncodeError::Encoder { format: Format::Jpeg, message: text.to_owned() }
}

const APP0: u8 = 0xE0;
const APP2: u8 = 0xE2;
const DRI: u8 = 0xDD;
const EOI: u8 = 0xD9;
const SOF0: u8 = 0xC0;
const SOF2: u8 = 0xC2;
const SOS: u8 = 0xDA;

/// A JPEG taken apart.
struct Parts<'a> {
    /// Marker and payload of each segment before the first scan's header.
    segments: Vec<(u8, &'a [u8])>,
    /// The first scan's header, and all up to the end marker.
    first_scan: (u8, &'a [u8]),
    /// Entropy-coded data, and for progressive files the further scans.
    scans: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(jpeg: &'a [u8]) -> Result<Self, EncodeError> {
        let odd = || message("libjpeg-turbo wrote a file of an unknown form");
        let mut rest = jpeg.strip_prefix(&[0xFF, 0xD8]).and_then(|r| r.strip_suffix(&[0xFF, EOI])).ok_or_else(odd)?;
        let mut segments = Vec::new();
        loop {
            let &[0xFF, marker, high, low, ..] = rest else { return Err(odd()) };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let payload = rest.get(4..2 + length).ok_or_else(odd)?;
            rest = &rest[2 + length..];
            if marker == SOS {
                return Ok(Self { segments, first_scan: (marker, payload), scans: rest });
            }
            segments.push((marker, payload));
        }
    }

    /// Writes all up to the first scan's data, for a picture of `height` rows: with the sRGB profile after the JFIF
    /// header, and the restart interval, in blocks, before the scan.
    fn write_header(&self, height: u32, restarts: Option<u32>, out: &mut dyn Write) -> Result<(), EncodeError> {
        out.write_all(&[0xFF, 0xD8])?;
        for &(marker, payload) in &self.segments {
            if let (SOF0 | SOF2, &[precision, _, _, ref rest @ ..]) = (marker, payload) {
                let [.., high, low] = height.to_be_bytes();
                segment(marker, &[&[precision, high, low], rest], out)?;
            } else {
                segment(marker, &[payload], out)?;
            }
            if marker == APP0 {
                // One chunk of one.
                segment(APP2, &[b"ICC_PROFILE\0\x01\x01", &SRGB_PROFILE], out)?;
            }
        }
        if let Some(interval) = restarts {
            let [.., high, low] = interval.to_be_bytes();
            segment(DRI, &[&[high, low]], out)?;
        }
        segment(self.first_scan.0, &[self.first_scan.1], out)
    }
}

fn segment(marker: u8, payload: &[&[u8]], out: &mut dyn Write) -> Result<(), EncodeError> {
    let length = 2 + payload.iter().map(|part| part.len()).sum::<usize>();
    let [high, low] = u16::try_from(length).map_err(|_| message("a segment is too long"))?.to_be_bytes();
    out.write_all(&[0xFF, marker, high, low])?;
    for part in payload {
        out.write_all(part)?;
    }
    Ok(())
}
