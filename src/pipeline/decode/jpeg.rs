//! JPEG: a walk over its markers, then the samples.
//!
//! Decoders like to fill what is missing with grey. So the walk first makes sure that the file runs up to its end
//! marker, and the decoder runs in its strict mode.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::icc::Conversion;
use super::planes::{Channels, Layout, Planes};
use super::{DecodeError, Limits, Probe, SourceFormat, header, jpeg_scan};

const FORMAT: SourceFormat = SourceFormat::Jpeg;

/// How far [`Header::read`] walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// To the entropy-coded data: enough for sides, orientation and colour.
    UntilFirstScan,
    /// To the end marker, which must be there.
    WholeFile,
}

/// What the markers of a JPEG say.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub width: u32,
    pub height: u32,
    /// 1 grey, 3 colour, 4 CMYK.
    pub components: u8,
    pub progressive: bool,
    pub orientation: u8,
    /// The first scan of a sequential file leaves components to later ones.
    separate_scans: bool,
    /// An Adobe segment is there, by which CMYK files say that they store light instead of ink.
    adobe: bool,
    /// Horizontal × vertical sampling factors: their sum over the components, and the largest of each.
    sampling: (u32, u32, u32),
}

fn broken(detail: impl Into<String>) -> DecodeError {
    DecodeError::Broken { format: FORMAT, detail: detail.into() }
}

fn truncated(detail: &str) -> DecodeError {
    DecodeError::Truncated { format: FORMAT, detail: detail.to_owned() }
}

fn unsupported(detail: impl Into<String>) -> DecodeError {
    DecodeError::UnsupportedFeature { format: FORMAT, detail: detail.into() }
}

impl Header {
    /// Walks the markers (ITU-T T.81, annex B).
    ///
    /// # Errors
    /// Truncated when the bytes end early, broken when the markers contradict the format, unsupported for processes
    /// other than 8-bit Huffman-coded baseline, extended and progressive.
    pub(super) fn read(bytes: &[u8], extent: Extent) -> Result<Self, DecodeError> {
        let mut header = Self { orientation: 1, ..Self::default() };
        let mut at = 2;
        loop {
            // Fill bytes before a marker are legal; anything else between segments is skipped as decoders do.
            while *bytes.get(at).ok_or_else(|| truncated("it has no end marker"))? != 0xFF {
                at += 1;
            }
            while bytes.get(at) == Some(&0xFF) {
                at += 1;
            }
            let marker = *bytes.get(at).ok_or_else(|| truncated("it has no end marker"))?;
            at += 1;
            match marker {
                0x00 | 0x01 | 0xD0..=0xD8 => continue,
                0xD9 if header.components == 0 => return Err(broken("it ends before its frame header")),
                0xD9 => return Ok(header),
                _ => {}
            }
            let length =
                bytes.get(at..).and_then(<[u8]>::first_chunk::<2>).map(|&b| usize::from(u16::from_be_bytes(b)));
            let length = length.ok_or_else(|| truncated("it ends within a header segment"))?;
            if length < 2 {
                return Err(broken(format!("its segment {marker:02X} has an impossible length")));
            }
            let segment = bytes.get(at + 2..at + length).ok_or_else(|| truncated("it ends within a header segment"))?;
            at += length;
            match marker {
                0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => header.frame(marker, segment)?,
                0xE1 if segment.starts_with(b"Exif\0\0") => header.orientation = header::exif_orientation(segment),
                0xEE if segment.starts_with(b"Adobe") => header.adobe = true,
                0xDA if header.components == 0 => return Err(broken("its data comes before its frame header")),
                0xDA if extent == Extent::UntilFirstScan => return Ok(header),
                0xDA => {
                    header.separate_scans |= !header.progressive && segment.first() != Some(&header.components);
                    at += entropy_coded(bytes.get(at..).unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    /// Reads a frame header.
    fn frame(&mut self, marker: u8, segment: &[u8]) -> Result<(), DecodeError> {
        let &[precision, h0, h1, w0, w1, components, ref rest @ ..] = segment else {
            return Err(broken("its frame header is too short"));
        };
        match marker {
            0xC0..=0xC2 => {}
            0xC3 => return Err(unsupported("it is coded without loss")),
            _ => return Err(unsupported("it is coded arithmetically or hierarchically")),
        }
        if precision != 8 {
            return Err(unsupported(format!("it has {precision} bits a sample")));
        }
        if !matches!(components, 1 | 3 | 4) {
            return Err(unsupported(format!("it has {components} components")));
        }
        if self.components != 0 {
            return Err(broken("it has two frame headers"));
        }
        self.width = u32::from(u16::from_be_bytes([w0, w1]));
        self.height = u32::from(u16::from_be_bytes([h0, h1]));
        if self.height == 0 {
            return Err(unsupported("it gives its height after its data"));
        }
        self.components = components;
        self.progressive = marker == 0xC2;
        let factors = rest.chunks_exact(3).map(|entry| (u32::from(entry[1] >> 4), u32::from(entry[1] & 15)));
        self.sampling = factors.fold((0, 1, 1), |(sum, wide, high), (h, v)| (sum + h * v, wide.max(h), high.max(v)));
        Ok(())
    }

    /// Bytes of the coefficients that a progressive file needs in memory, 2 each.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        let (sum, wide, high) = self.sampling;
        let units = |side: u32, factor: u32| u64::from(side.div_ceil(8 * factor));
        units(self.width, wide) * units(self.height, high) * u64::from(sum) * 64 * 2
    }
}

/// Length of entropy-coded data: up to the next marker that is neither a stuffed byte nor a restart.
pub(super) fn entropy_coded(data: &[u8]) -> usize {
    let mut at = 0;
    while let Some(offset) = data.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xFF)) {
        at += offset;
        match data.get(at + 1) {
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            _ => return at,
        }
    }
    data.len()
}

/// Decodes a JPEG whose header passed the limits.
pub(super) fn decode(bytes: &[u8], probe: &Probe, limits: &Limits) -> Result<Planes, DecodeError> {
    let header = Header::read(bytes, Extent::WholeFile)?;
    let side = limits.max_side as usize;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(refusal)?;
    let size = (probe.width, probe.height);
    if decoder.dimensions() != Some((size.0 as usize, size.1 as usize)) {
        return Err(broken("its headers disagree on the size"));
    }
    let profile = decoder.icc_profile();

    #[cfg(feature = "turbojpeg")]
    let turbo = if header.components == 4 { None } else { turbo::decode_rgb(bytes, size) };
    #[cfg(not(feature = "turbojpeg"))]
    let turbo: Option<Vec<u8>> = None;
    if turbo.is_none() && header.separate_scans {
        // zune-jpeg 0.5.15 shifts the colours of such files and loses their last rows.
        return Err(unsupported("it is a baseline file that stores its colour channels one after the other"));
    }

    if header.components == 4 {
        // Unconverted, because a profile wants the inks.
        let stored = decoder.input_colorspace().unwrap_or(ColorSpace::CMYK);
        decoder.set_options(options.jpeg_set_out_colorspace(stored));
        let mut inks = decoder.decode().map_err(refusal)?;
        whole(bytes, &inks, size, 4)?;
        if stored == ColorSpace::YCCK {
            ycck_to_cmyk(&mut inks);
        } else if header.adobe {
            inks.iter_mut().for_each(|ink| *ink = 255 - *ink);
        }
        let layout = Layout { channels: Channels::Cmyk, alpha: false, deep: false };
        return Planes::from_raster(inks, size, layout, &Conversion::new(profile.as_deref(), layout));
    }

    let rgb = match turbo {
        Some(rgb) => rgb,
        None => {
            let rgb = decoder.decode().map_err(refusal)?;
            whole(bytes, &rgb, size, 3)?;
            rgb
        }
    };
    let mut planes = Planes { width: size.0, height: size.1, rgb, alpha: None };
    if header.components == 1 {
        let layout = Layout { channels: Channels::Gray, alpha: false, deep: false };
        if let Conversion::Gray(table) = Conversion::new(profile.as_deref(), layout) {
            for pixel in planes.rgb.as_chunks_mut::<3>().0 {
                *pixel = table[usize::from(pixel[0])];
            }
        }
    } else {
        let layout = Layout { channels: Channels::Rgb, alpha: false, deep: false };
        Conversion::new(profile.as_deref(), layout).apply_rgb8(&mut planes.rgb);
    }
    Ok(planes)
}

/// Refuses a picture whose data stops before its last block although the end marker is there.
fn whole(bytes: &[u8], samples: &[u8], (width, height): (u32, u32), channels: usize) -> Result<(), DecodeError> {
    if jpeg_scan::ends_in_repetition(samples, width as usize, height as usize, channels)
        && !jpeg_scan::covers_picture(bytes)
    {
        return Err(truncated(&format!("its data does not fill {width}×{height} pixels")));
    }
    Ok(())
}

/// YCCK to ink amounts, in place.
///
/// Adobe stores 255 − C, 255 − M, 255 − Y as if they were the complement of RGB, so the RGB of Y, Cb, Cr (JFIF, BT.601
/// full range) are the inks themselves; black is stored inverted.
fn ycck_to_cmyk(raster: &mut [u8]) {
    for pixel in raster.as_chunks_mut::<4>().0 {
        let [y, cb, cr, k] = pixel.map(f32::from);
        let (cb, cr) = (cb - 128.0, cr - 128.0);
        let ink = |value: f32| value.round().clamp(0.0, 255.0) as u8;
        *pixel = [ink(y + 1.402 * cr), ink(y - 0.344_136 * cb - 0.714_136 * cr), ink(y + 1.772 * cb), ink(255.0 - k)];
    }
}

fn refusal(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::Unsupported(scheme) => unsupported(format!("{scheme:?}")),
        DecodeErrors::ExhaustedData => truncated("it ends within its data"),
        other => broken(other.to_string()),
    }
}

/// libjpeg-turbo for grey and three-component files.
#[cfg(feature = "turbojpeg")]
mod turbo {
    use turbojpeg::{Decompressor, Image, PixelFormat};

    /// RGB samples, or nothing when libjpeg-turbo has any complaint, warnings included: then the portable decoder
    /// has the last word, so that both builds accept the same files.
    pub(super) fn decode_rgb(bytes: &[u8], (width, height): (u32, u32)) -> Option<Vec<u8>> {
        let (width, height) = (width as usize, height as usize);
        let mut decompressor = Decompressor::new().ok()?;
        // As many scans as the portable decoder allows: each one costs a pass over the whole picture.
        decompressor.set_scan_limit(100).ok()?;
        let mut pixels = vec![0; width * height * 3];
        let image = Image { pixels: &mut pixels[..], width, pitch: width * 3, height, format: PixelFormat::RGB };
        decompressor.decompress(bytes, image).ok()?;
        Some(pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_bytes_and_restarts_belong_to_the_data() {
        assert_eq!(entropy_coded(&[1, 0xFF, 0, 2, 0xFF, 0xD3, 3, 0xFF, 0xD9]), 7);
        assert_eq!(entropy_coded(&[1, 0xFF, 0xFF, 0xD9]), 2);
        assert_eq!(entropy_coded(&[1, 2, 3]), 3);
        assert_eq!(entropy_coded(&[1, 0xFF]), 1);
    }

    #[test]
    fn processes_that_cannot_be_read_are_named() {
        for (marker, precision, text) in [(0xC3, 8, "without loss"), (0xC9, 8, "arithmetically"), (0xC1, 12, "12 bits")]
        {
            let frame = [0xFF, 0xD8, 0xFF, marker, 0, 11, precision, 0, 1, 0, 1, 1, 1, 0x11, 0];
            let error = Header::read(&frame, Extent::UntilFirstScan).unwrap_err();
            assert_eq!(error.class(), "unsupported-picture");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn coefficients_count_the_subsampling() {
        let header = Header { width: 64, height: 32, sampling: (6, 2, 2), ..Header::default() };
        assert_eq!(header.coefficient_bytes(), 64 * 32 * 3 / 2 * 2);
    }

    #[test]
    fn ycck_with_neutral_chroma_has_equal_inks() {
        let mut raster = [100, 128, 128, 30];
        ycck_to_cmyk(&mut raster);
        assert_eq!(raster, [100, 100, 100, 225]);
    }
}
