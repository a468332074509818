//! Embedded colour profiles to sRGB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use moxcms::{CmsError, ColorProfile, DataColorSpace, Layout as CmsLayout, Transform16BitExecutor, TransformOptions};
use rayon::prelude::*;

use super::planes::{Channels, Layout, to_8_bits};

/// How samples become sRGB.
pub(super) enum Conversion {
    /// They are sRGB.
    None,
    /// Grey samples of 8 or 16 bits, by value.
    Gray(Vec<[u8; 3]>),
    /// 8-bit RGB.
    Rgb8(Shallow),
    /// 8-bit CMYK.
    Cmyk8(Shallow),
    /// RGB or CMYK of 16 bits to RGB of 16 bits.
    Deep(Arc<Transform16BitExecutor>),
}

/// A transform of 8-bit samples that computes with 12 bits: the 8-bit transforms cut off where they should round,
/// which darkens by half a code, and the 16-bit ones take a tenfold time to set up.
pub(super) struct Shallow(Arc<Transform16BitExecutor>);

/// Scratch of [`Shallow::apply`]: 12-bit samples before and after.
pub(super) type Scratch = (Vec<u16>, Vec<u16>);

impl Shallow {
    fn apply(&self, samples: &[u8], rgb: &mut [u8], (before, after): &mut Scratch) -> Result<(), CmsError> {
        widen(samples, before);
        after.resize(rgb.len(), 0);
        self.0.transform(before, after)?;
        narrow(after, rgb);
        Ok(())
    }

    /// The same in place, for RGB.
    fn apply_in_place(&self, rgb: &mut [u8], (before, after): &mut Scratch) -> Result<(), CmsError> {
        widen(rgb, before);
        after.resize(rgb.len(), 0);
        self.0.transform(before, after)?;
        narrow(after, rgb);
        Ok(())
    }
}

fn widen(samples: &[u8], wide: &mut Vec<u16>) {
    wide.clear();
    wide.extend(samples.iter().map(|&v| u16::from(v) << 4 | u16::from(v) >> 4));
}

fn narrow(wide: &[u16], rgb: &mut [u8]) {
    for (rgb, &value) in rgb.iter_mut().zip(wide) {
        *rgb = ((u32::from(value) * 255 + 2047) / 4095) as u8;
    }
}

/// Pixels a task converts at a time: the copies of them stay in the second-level cache.
const TILE: usize = 4096;

impl Conversion {
    /// The conversion for samples of `layout` under an embedded profile.
    ///
    /// A profile that cannot be parsed, is for other channels, or has no usable tables is ignored with a warning. One
    /// that changes no 8-bit colour by more than a code is taken for sRGB and changes nothing at all.
    pub(super) fn new(profile: Option<&[u8]>, layout: Layout) -> Self {
        let Some(profile) = profile.filter(|bytes| !bytes.is_empty()) else { return Self::None };
        // The profile is as untrusted as the picture, but a bad one must not cost the picture.
        match catch_unwind(AssertUnwindSafe(|| build(profile, layout))) {
            Ok(Ok(conversion)) => conversion,
            Ok(Err(reason)) => {
                tracing::warn!(%reason, "the embedded colour profile is ignored, the picture is read as sRGB");
                Self::None
            }
            Err(_) => {
                tracing::warn!(
                    "the embedded colour profile is ignored, its reader gave up; the picture is read as sRGB"
                );
                Self::None
            }
        }
    }

    /// Converts a plane of 8-bit RGB in place; leaves it alone when it needs none.
    pub(super) fn apply_rgb8(&self, rgb: &mut [u8]) {
        let Self::Rgb8(transform) = self else { return };
        rgb.par_chunks_mut(TILE * 3).for_each_init(Scratch::default, |scratch, tile| {
            done(transform.apply_in_place(tile, scratch));
        });
    }

    /// Converts a row of 8-bit CMYK to RGB; false when there is no such conversion.
    pub(super) fn apply_cmyk8(&self, cmyk: &[u8], rgb: &mut [u8], scratch: &mut Scratch) -> bool {
        let Self::Cmyk8(transform) = self else { return false };
        done(transform.apply(cmyk, rgb, scratch))
    }

    /// Converts a row of 16-bit samples to 16-bit RGB; false when there is no such conversion.
    pub(super) fn apply_16(&self, samples: &[u16], rgb: &mut [u16]) -> bool {
        let Self::Deep(transform) = self else { return false };
        done(transform.transform(samples, rgb))
    }
}

/// A transform fails only on lengths that do not match, which the callers rule out.
fn done(result: Result<(), CmsError>) -> bool {
    if let Err(error) = &result {
        tracing::warn!(%error, "a row was left unconverted");
    }
    result.is_ok()
}

fn build(bytes: &[u8], layout: Layout) -> Result<Conversion, String> {
    let profile = ColorProfile::new_from_slice(bytes).map_err(|error| error.to_string())?;
    let srgb = ColorProfile::new_srgb();
    let source = match profile.color_space {
        DataColorSpace::Gray => CmsLayout::Gray,
        DataColorSpace::Rgb => CmsLayout::Rgb,
        DataColorSpace::Cmyk => CmsLayout::Rgba,
        other => return Err(format!("its colour space is {other:?}")),
    };
    // The fixed-point path is off by up to two codes in the dark; the float path is as fast as memory here.
    let options = TransformOptions { rendering_intent: profile.rendering_intent, ..Default::default() };
    let shallow = || {
        let transform = profile.create_transform_12bit(source, &srgb, CmsLayout::Rgb, options);
        transform.map(Shallow).map_err(|error| error.to_string())
    };
    let deep =
        || profile.create_transform_16bit(source, &srgb, CmsLayout::Rgb, options).map_err(|error| error.to_string());
    match (layout.channels, profile.color_space) {
        (Channels::Gray, DataColorSpace::Gray | DataColorSpace::Rgb) => {
            let copies = if source == CmsLayout::Gray { 1 } else { 3 };
            let transform = shallow()?;
            if is_identity(&transform, &ramp(copies), copies)? {
                return Ok(Conversion::None);
            }
            if layout.deep {
                let samples: Vec<u16> = (0..=u16::MAX).flat_map(|v| std::iter::repeat_n(v, copies)).collect();
                let mut rgb = vec![0; 3 << 16];
                deep()?.transform(&samples, &mut rgb).map_err(|error| error.to_string())?;
                Ok(Conversion::Gray(rgb.as_chunks::<3>().0.iter().map(|rgb| rgb.map(to_8_bits)).collect()))
            } else {
                let mut rgb = vec![0; 3 << 8];
                let applied = transform.apply(&ramp(copies), &mut rgb, &mut Scratch::default());
                applied.map_err(|error| error.to_string())?;
                Ok(Conversion::Gray(rgb.as_chunks::<3>().0.to_vec()))
            }
        }
        (Channels::Rgb, DataColorSpace::Rgb) => {
            let transform = shallow()?;
            if is_identity(&transform, &lattice(), 3)? {
                return Ok(Conversion::None);
            }
            Ok(if layout.deep { Conversion::Deep(deep()?) } else { Conversion::Rgb8(transform) })
        }
        (Channels::Cmyk, DataColorSpace::Cmyk) => {
            Ok(if layout.deep { Conversion::Deep(deep()?) } else { Conversion::Cmyk8(shallow()?) })
        }
        (channels, space) => Err(format!("it describes {space:?} colours, the picture has {channels:?} samples")),
    }
}

/// Every grey, `copies` times each.
fn ramp(copies: usize) -> Vec<u8> {
    (0..=255).flat_map(|v| std::iter::repeat_n(v, copies)).collect()
}

/// Greys, the pure ramps, and a lattice through the cube: 15-code steps reach both ends.
fn lattice() -> Vec<u8> {
    let mut rgb = ramp(3);
    for v in 0..=255 {
        rgb.extend([v, 0, 0, 0, v, 0, 0, 0, v]);
    }
    for r in (0..=255).step_by(15) {
        for g in (0..=255).step_by(15) {
            for b in (0..=255).step_by(15) {
                rgb.extend([r, g, b]);
            }
        }
    }
    rgb
}

/// Whether a transform to RGB leaves these samples (1 or 3 a pixel) within a code of where they were.
fn is_identity(transform: &Shallow, samples: &[u8], per_pixel: usize) -> Result<bool, String> {
    let mut rgb = vec![0; samples.len() / per_pixel * 3];
    transform.apply(samples, &mut rgb, &mut Scratch::default()).map_err(|error| error.to_string())?;
    let near = |(pixel, rgb): (&[u8], &[u8; 3])| (0..3).all(|i| pixel[i % per_pixel].abs_diff(rgb[i]) <= 1);
    Ok(samples.chunks_exact(per_pixel).zip(rgb.as_chunks::<3>().0).all(near))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB8: Layout = Layout { channels: Channels::Rgb, alpha: false, deep: false };

    #[test]
    fn srgb_needs_no_conversion() {
        let profile = ColorProfile::new_srgb().encode().unwrap();
        assert!(matches!(Conversion::new(Some(&profile), RGB8), Conversion::None));
    }

    #[test]
    fn a_profile_for_other_channels_is_ignored() {
        let profile = ColorProfile::new_gray_with_gamma(1.8).encode().unwrap();
        assert!(matches!(Conversion::new(Some(&profile), RGB8), Conversion::None));
    }

    #[test]
    fn gray_under_an_rgb_profile_is_read_as_equal_channels() {
        let profile = ColorProfile::new_adobe_rgb().encode().unwrap();
        let layout = Layout { channels: Channels::Gray, ..RGB8 };
        let Conversion::Gray(table) = Conversion::new(Some(&profile), layout) else { panic!("expected a table") };
        assert_eq!((table[0], table[255]), ([0; 3], [255; 3]));
        assert!(table.iter().all(|[r, g, b]| r.abs_diff(*g) <= 1 && g.abs_diff(*b) <= 1));
    }
}
