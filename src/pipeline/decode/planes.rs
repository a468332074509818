//! Decoded samples to an 8-bit colour plane and an alpha plane, one row at a time.

use super::icc::{Conversion, Scratch};
use super::{DecodeError, SourceFormat};
use crate::kernel::image::BaseImage;

/// The colour channels of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Gray,
    Rgb,
    /// Ink amounts: 0 is paper.
    Cmyk,
}

/// How a decoder lays out a pixel: colour channels, then alpha, all of one depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub channels: Channels,
    pub alpha: bool,
    /// 16-bit samples instead of 8-bit ones.
    pub deep: bool,
}

impl Layout {
    pub(super) const fn color_samples(self) -> usize {
        match self.channels {
            Channels::Gray => 1,
            Channels::Rgb => 3,
            Channels::Cmyk => 4,
        }
    }

    pub(super) const fn bytes_per_pixel(self) -> usize {
        (self.color_samples() + self.alpha as usize) * if self.deep { 2 } else { 1 }
    }
}

/// Byte order of 16-bit samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endian {
    Big,
    Native,
}

/// The planes of a picture: 3 bytes a pixel of sRGB, and 1 of alpha where the format has it.
pub(super) struct Planes {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
    pub alpha: Option<Vec<u8>>,
}

impl Planes {
    /// Zeroed planes. The sides have passed the limits.
    pub(super) fn new(width: u32, height: u32, alpha: bool) -> Self {
        let pixels = width as usize * height as usize;
        Self { width, height, rgb: vec![0; pixels * 3], alpha: alpha.then(|| vec![0; pixels]) }
    }

    pub(super) fn into_image(self, format: SourceFormat) -> Result<BaseImage, DecodeError> {
        BaseImage::new(self.width, self.height, self.rgb, self.alpha)
            .map_err(|error| DecodeError::Broken { format, detail: error.to_string() })
    }

    /// Takes a decoder's whole raster. Pixels of three bytes or more are rewritten in place, so that there is never
    /// a second colour raster.
    pub(super) fn from_raster(
        mut raster: Vec<u8>,
        (width, height): (u32, u32),
        layout: Layout,
        conversion: &Conversion,
    ) -> Result<Self, DecodeError> {
        let columns = width as usize;
        let stride = columns * layout.bytes_per_pixel();
        let mut writer = RowWriter::new(layout, Endian::Native, conversion);
        if layout == (Layout { channels: Channels::Rgb, alpha: false, deep: false }) {
            conversion.apply_rgb8(&mut raster);
            return Ok(Self { width, height, rgb: raster, alpha: None });
        }
        if layout.bytes_per_pixel() < 3 {
            let mut planes = Self::new(width, height, layout.alpha);
            let rows = planes.rgb.chunks_exact_mut(columns * 3);
            let mut alpha = planes.alpha.as_mut().map(|plane| plane.chunks_exact_mut(columns));
            for (source, rgb) in raster.chunks_exact(stride).zip(rows) {
                writer.write(source, rgb, alpha.as_mut().and_then(Iterator::next));
            }
            return Ok(planes);
        }
        let mut alpha = layout.alpha.then(|| vec![0; columns * height as usize]);
        let mut source = vec![0; stride];
        for y in 0..height as usize {
            // A row's colour is never longer than its samples, so writing stays behind reading.
            source.copy_from_slice(&raster[y * stride..][..stride]);
            let alpha_row = alpha.as_mut().map(|plane| &mut plane[y * columns..][..columns]);
            writer.write(&source, &mut raster[y * columns * 3..][..columns * 3], alpha_row);
        }
        raster.truncate(columns * height as usize * 3);
        raster.shrink_to_fit();
        if !layout.deep && layout.channels == Channels::Rgb {
            conversion.apply_rgb8(&mut raster);
        }
        Ok(Self { width, height, rgb: raster, alpha })
    }
}

/// Converts rows of samples to rows of the planes.
///
/// Colour of 8-bit RGB is left as it is; [`Conversion::apply_rgb8`] converts the finished plane, in parallel.
pub(super) struct RowWriter<'a> {
    layout: Layout,
    endian: Endian,
    conversion: &'a Conversion,
    /// Colour of a row before and after conversion.
    scratch: Scratch,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(layout: Layout, endian: Endian, conversion: &'a Conversion) -> Self {
        Self { layout, endian, conversion, scratch: Scratch::default() }
    }

    /// Writes one row: `rgb` holds 3 bytes a pixel, `alpha` (given when the layout has it) 1.
    pub(super) fn write(&mut self, row: &[u8], rgb: &mut [u8], alpha: Option<&mut [u8]>) {
        let samples = self.layout.color_samples() + usize::from(self.layout.alpha);
        if self.layout.deep {
            let endian = self.endian;
            let sample = |bytes: [u8; 2]| match endian {
                Endian::Big => u16::from_be_bytes(bytes),
                Endian::Native => u16::from_ne_bytes(bytes),
            };
            if let Some(alpha) = alpha {
                for (pixel, alpha) in row.chunks_exact(samples * 2).zip(alpha) {
                    *alpha = to_8_bits(sample([pixel[samples * 2 - 2], pixel[samples * 2 - 1]]));
                }
            }
            self.write_deep(row, samples, sample, rgb);
        } else {
            if let Some(alpha) = alpha {
                for (pixel, alpha) in row.chunks_exact(samples).zip(alpha) {
                    *alpha = pixel[samples - 1];
                }
            }
            self.write_shallow(row, samples, rgb);
        }
    }

    fn write_shallow(&mut self, row: &[u8], samples: usize, rgb: &mut [u8]) {
        match self.layout.channels {
            Channels::Gray => match self.conversion {
                Conversion::Gray(table) => {
                    for (pixel, rgb) in row.chunks_exact(samples).zip(rgb.as_chunks_mut::<3>().0) {
                        *rgb = table[usize::from(pixel[0])];
                    }
                }
                _ => {
                    for (pixel, rgb) in row.chunks_exact(samples).zip(rgb.as_chunks_mut::<3>().0) {
                        *rgb = [pixel[0]; 3];
                    }
                }
            },
            Channels::Rgb if samples == 3 => rgb.copy_from_slice(row),
            Channels::Rgb => {
                for (pixel, rgb) in row.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
                    *rgb = [pixel[0], pixel[1], pixel[2]];
                }
            }
            Channels::Cmyk => {
                if !self.conversion.apply_cmyk8(row, rgb, &mut self.scratch) {
                    for (pixel, rgb) in row.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
                        *rgb = cmyk_to_rgb(*pixel);
                    }
                }
            }
        }
    }

    fn write_deep(&mut self, row: &[u8], samples: usize, sample: impl Fn([u8; 2]) -> u16, rgb: &mut [u8]) {
        let pixels = row.chunks_exact(samples * 2);
        match (self.layout.channels, self.conversion) {
            (Channels::Gray, Conversion::Gray(table)) => {
                for (pixel, rgb) in pixels.zip(rgb.as_chunks_mut::<3>().0) {
                    *rgb = table[usize::from(sample([pixel[0], pixel[1]]))];
                }
            }
            (Channels::Gray, _) => {
                for (pixel, rgb) in pixels.zip(rgb.as_chunks_mut::<3>().0) {
                    *rgb = [to_8_bits(sample([pixel[0], pixel[1]])); 3];
                }
            }
            (Channels::Rgb | Channels::Cmyk, conversion) => {
                let color = self.layout.color_samples();
                let (before, after) = &mut self.scratch;
                before.clear();
                for pixel in pixels {
                    before.extend(pixel.as_chunks::<2>().0[..color].iter().map(|&bytes| sample(bytes)));
                }
                after.resize(rgb.len(), 0);
                if conversion.apply_16(before, after) {
                    for (rgb, &value) in rgb.iter_mut().zip(&*after) {
                        *rgb = to_8_bits(value);
                    }
                } else if color == 3 {
                    for (rgb, &value) in rgb.iter_mut().zip(&*before) {
                        *rgb = to_8_bits(value);
                    }
                } else {
                    for (pixel, rgb) in before.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
                        *rgb = cmyk_to_rgb(pixel.map(to_8_bits));
                    }
                }
            }
        }
    }
}

/// Rounds a 16-bit sample to 8 bits: value / 257, to the nearest.
pub(super) const fn to_8_bits(value: u16) -> u8 {
    ((value as u32 + 128) / 257) as u8
}

/// Ink to light without a profile: (255 − ink)·(255 − black) / 255, to the nearest.
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    [c, m, y].map(|ink| ((u32::from(255 - ink) * light + 127) / 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_round_to_the_nearest_eight() {
        for value in 0..=u16::MAX {
            assert_eq!(to_8_bits(value), (f64::from(value) / 257.0).round() as u8);
        }
    }

    #[test]
    fn ink_without_a_profile_multiplies_light_away() {
        assert_eq!(cmyk_to_rgb([0, 0, 0, 0]), [255, 255, 255]);
        assert_eq!(cmyk_to_rgb([255, 0, 0, 0]), [0, 255, 255]);
        assert_eq!(cmyk_to_rgb([0, 0, 0, 255]), [0, 0, 0]);
        assert_eq!(cmyk_to_rgb([0, 255, 255, 127]), [128, 0, 0]);
    }

    #[test]
    fn wide_rasters_are_rewritten_in_place() {
        let raster = vec![1, 2, 3, 10, 4, 5, 6, 20, 7, 8, 9, 30, 10, 11, 12, 40];
        let layout = Layout { channels: Channels::Rgb, alpha: true, deep: false };
        let Ok(planes) = Planes::from_raster(raster, (2, 2), layout, &Conversion::None) else { panic!("refused") };
        assert_eq!(planes.rgb, (1..=12).collect::<Vec<u8>>());
        assert_eq!(planes.alpha.as_deref(), Some(&[10, 20, 30, 40][..]));
    }
}
