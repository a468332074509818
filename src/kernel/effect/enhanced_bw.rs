//! The effect `enhanced-bw`: a rich black and white, or two tones.
//!
//! Lightness is stretched, equalised within limits (CLAHE, K. Zuiderveld 1994), given contrast by a sigmoid and
//! sharpened by an unsharp mask whose overshoot is bounded, so that edges get no halos.

use std::ops::RangeInclusive;

use super::clahe::Clahe;
use super::field::{Field, histogram, kernel, lightness, paint, scaled};
use super::tone::{self, Levels};
use crate::kernel::cluster::SplitMix64;
use crate::kernel::color::{OkLab, Rgb8, encode_srgb};
use crate::kernel::image::Raster;
use crate::kernel::simd::vectorize;

/// Black and white with full tones, local contrast and crisp detail; toned if asked, or when there are brand colours.
///
/// Without grain and soft alpha the result has at most 256 colours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnhancedBw {
    /// Weights of linear red, green and blue, each in [`Self::MIX`]; they are divided by their sum. `None` is OKLab
    /// lightness.
    pub mix: Option<[f32; 3]>,
    /// Contrast of the midtones, in [`Self::CONTRAST`].
    pub contrast: f32,
    /// Local contrast, in [`Self::CLARITY`]: how much of the equalised lightness is mixed in.
    pub clarity: f32,
    /// Strength of the unsharp mask, in [`Self::SHARPNESS`].
    pub sharpness: f32,
    /// Strength of film grain, in [`Self::GRAIN`]. Its size scales with the picture.
    pub grain: f32,
    /// Colour of shadows and highlights. Brand colours take its place.
    pub tone: Tone,
    /// Seed of the grain.
    pub seed: u64,
}

impl Default for EnhancedBw {
    fn default() -> Self {
        Self { mix: None, contrast: 0.4, clarity: 0.5, sharpness: 0.5, grain: 0.0, tone: Tone::None, seed: 0 }
    }
}

/// Colours that a black and white is printed in: of its shadows and of its highlights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Neutral grey.
    #[default]
    None,
    /// Brown, warm in the highlights.
    Sepia,
    /// Purple-brown shadows and neutral highlights.
    Selenium,
    /// Blue-grey.
    Cool,
    /// Warm grey, as of a platinum print.
    Platinum,
    /// Prussian blue on white.
    Cyanotype,
}

/// Standard deviation of the unsharp mask's blur, as a share of the picture's size.
const MASK_SIZE: f32 = 0.0011;
/// Detail that sharpening approaches but never passes, in lightness.
const MAX_DETAIL: f32 = 0.06;
/// Detail below which there is more noise than detail, in lightness.
const NOISE: f32 = 0.008;

impl EnhancedBw {
    /// Least sum of the weights of [`Self::mix`]: of a smaller one, noise would be all that is left.
    pub const LEAST_SUM: f32 = 0.05;
    /// Range of each weight of [`Self::mix`].
    pub const MIX: RangeInclusive<f32> = -2.0..=2.0;
    /// Range of [`Self::contrast`].
    pub const CONTRAST: RangeInclusive<f32> = 0.0..=1.0;
    /// Range of [`Self::clarity`].
    pub const CLARITY: RangeInclusive<f32> = 0.0..=1.0;
    /// Range of [`Self::sharpness`].
    pub const SHARPNESS: RangeInclusive<f32> = 0.0..=1.0;
    /// Range of [`Self::grain`].
    pub const GRAIN: RangeInclusive<f32> = 0.0..=1.0;

    pub(super) fn apply(&self, picture: &Raster, colors: Option<&[Rgb8]>) -> Raster {
        let unit = |v: f32| if v.is_finite() { v.clamp(0.0, 1.0) } else { 0.0 };
        let mix = self.mix.map(|mix| mix.map(|w| if w.is_finite() { w.clamp(-2.0, 2.0) } else { 0.0 }));
        let light = lightness(picture, mix);
        let levels = Levels::new(&histogram(&light, picture.pixels()));
        let clahe = Clahe::new(&light, picture.pixels(), unit(self.clarity), |v| levels.apply(v));
        let curve = sigmoid(unit(self.contrast));
        let toned = match colors {
            Some(colors) if !colors.is_empty() => tone::duotone(colors),
            _ => tone::table(|l| self.tone.at(l)),
        };
        // From equalised lightness through contrast and the code of grey to colours.
        let table: Vec<u32> =
            (0..=FINE).map(|i| toned[usize::from(grey_code(curve(i as f32 / FINE as f32)))]).collect();
        let grain = Grain::new(unit(self.grain), self.seed, &light);
        let mask = kernel(scaled(light.width, light.height, MASK_SIZE).clamp(0.6, 12.0));
        let amount = 2.0 * unit(self.sharpness);
        let width = light.width;
        paint(picture, |first, out| {
            let mut blurred = vec![0f32; out.len()];
            light.blur_rows(first, &mask, &mut blurred);
            let mut row_tables = clahe.space();
            let mut tones = vec![0f32; width];
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let y = first + i;
                sharpen(light.row(y), &blurred[i * width..], amount, &mut tones);
                clahe.row(y, &mut row_tables, &mut tones);
                if let Some(grain) = &grain {
                    grain.add(y, &mut tones);
                }
                for (out, v) in out.iter_mut().zip(&tones) {
                    // Adding 2^23 leaves the rounded value in the low bits; a cast would saturate.
                    let step = (v.clamp(0.0, 1.0) * FINE as f32 + 8_388_608.0).to_bits() & 0x1fff;
                    *out = table.get(step as usize).copied().unwrap_or(0);
                }
            }
        })
    }
}

/// Steps of lightness that codes are tabulated in.
const FINE: usize = 4096;

/// The sRGB code of the grey of an OKLab lightness.
fn grey_code(l: f32) -> u8 {
    encode_srgb(l * l * l)
}

/// A logistic curve through (0, 0) and (1, 1), mixed with the straight line: slope 1 at `contrast` 0, about 1.7 at 1.
fn sigmoid(contrast: f32) -> impl Fn(f32) -> f32 {
    const STEEPNESS: f32 = 6.0;
    let raw = |x: f32| 1.0 / (1.0 + (-STEEPNESS * (x - 0.5)).exp());
    let (low, high) = (raw(0.0), raw(1.0));
    move |x| x + contrast * ((raw(x) - low) / (high - low) - x)
}

/// Writes `light` plus its difference from `blurred`, without what is noise and without overshoot.
fn sharpen(light: &[f32], blurred: &[f32], amount: f32, out: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            for ((out, &v), &mean) in out.iter_mut().zip(light).zip(blurred) {
                let detail = v - mean;
                let size = detail.abs();
                // Rises from 0 for noise to 1, and falls again where an edge would ring.
                let kept = size / (size + NOISE);
                let bounded = detail / (1.0 + size * (1.0 / MAX_DETAIL));
                // What is hardly there, as the steps of 8 bits, gives way to the mean.
                *out = mean + detail * kept + amount * bounded * kept;
            }
        },
    );
}

/// Film grain: a tile of blurred noise, strongest in the midtones.
struct Grain {
    tile: Field,
    strength: f32,
}

/// Side of the tile.
const GRAIN_TILE: usize = 512;

impl Grain {
    fn new(strength: f32, seed: u64, light: &Field) -> Option<Self> {
        if strength == 0.0 {
            return None;
        }
        let mut random = SplitMix64::new(seed);
        let mut uniform = || (random.next() >> 40) as f32 / (1u64 << 24) as f32;
        let values = (0..GRAIN_TILE * GRAIN_TILE).map(|_| uniform() + uniform() + uniform() - 1.5).collect();
        // Repeated edges make the seam of the tile a little coarser than the rest, which cannot be seen in grain.
        let noise = Field { width: GRAIN_TILE, height: GRAIN_TILE, values };
        let sigma = scaled(light.width, light.height, 0.0004);
        let mut tile = if sigma < 0.3 { noise } else { noise.blurred(sigma.min(12.0)) };
        let variance = tile.values.iter().map(|v| v * v).sum::<f32>() / tile.values.len() as f32;
        let gain = 1.0 / variance.sqrt().max(1e-6);
        tile.values.iter_mut().for_each(|v| *v *= gain);
        Some(Self { tile, strength: 0.11 * strength })
    }

    fn add(&self, y: usize, row: &mut [f32]) {
        let noise = self.tile.row(y % GRAIN_TILE);
        for row in row.chunks_mut(GRAIN_TILE) {
            for (v, n) in row.iter_mut().zip(noise) {
                let t = v.clamp(0.0, 1.0);
                *v = t + self.strength * n * (0.15 + 3.4 * t * (1.0 - t));
            }
        }
    }
}

impl Tone {
    /// Every tone.
    pub const ALL: [Self; 6] = [Self::None, Self::Sepia, Self::Selenium, Self::Cool, Self::Platinum, Self::Cyanotype];

    /// The colour at lightness `l`: chroma of the shadows and highlights, at their hues, fading to black and white.
    fn at(self, l: f32) -> OkLab {
        // Chroma and hue in degrees of shadows and of highlights, and lightness of black and white.
        let (shadow, highlight, black, white) = match self {
            Self::None => return OkLab { l, a: 0.0, b: 0.0 },
            Self::Sepia => ((0.055, 55.0), (0.055, 80.0), 0.06, 0.97),
            Self::Selenium => ((0.045, 345.0), (0.012, 40.0), 0.03, 1.0),
            Self::Cool => ((0.04, 255.0), (0.018, 235.0), 0.03, 1.0),
            Self::Platinum => ((0.016, 60.0), (0.026, 85.0), 0.08, 0.975),
            Self::Cyanotype => ((0.13, 256.0), (0.05, 240.0), 0.2, 0.985),
        };
        let lab = |(chroma, hue): (f32, f32)| OkLab::from_lch(0.0, chroma, hue);
        let (dark, light) = (lab(shadow), lab(highlight));
        // Rounded off at both ends, where no chroma would fit anyway.
        let end = if matches!(self, Self::Cyanotype) { (l * 4.0 + 0.6).min(1.0) } else { (l * 4.0).min(1.0) };
        let room = end * ((1.0 - l) * 5.0 + 0.25).min(1.0);
        OkLab {
            l: black + l * (white - black),
            a: room * (dark.a + l * (light.a - dark.a)),
            b: room * (dark.b + l * (light.b - dark.b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::Rows as _;

    fn picture() -> Raster {
        let pixels = (0..120 * 90u32).map(|i| {
            let (x, y) = (i % 120, i / 120);
            Rgb8::new((60 + x) as u8, (40 + y) as u8, (90 + (x * y) % 60) as u8).packed()
        });
        Raster::new(120, 90, pixels.collect()).unwrap()
    }

    #[test]
    fn the_result_is_grey_uses_the_whole_scale_and_few_colors() {
        let out = EnhancedBw::default().apply(&picture(), None);
        let codes: Vec<u8> = out.pixels().iter().map(|p| p.to_le_bytes()[0]).collect();
        assert!(out.pixels().iter().all(|p| {
            let [r, g, b, a] = p.to_le_bytes();
            r == g && g == b && a == 255
        }));
        assert!(codes.iter().any(|&c| c < 20) && codes.iter().any(|&c| c > 235));
        assert!(out.palette().is_some());
    }

    #[test]
    fn one_color_is_left_alone() {
        for code in [0u8, 77, 200, 255] {
            let flat = Raster::new(50, 40, vec![Rgb8::new(code, code, code).packed(); 2000]).unwrap();
            let out = EnhancedBw { contrast: 0.0, ..EnhancedBw::default() }.apply(&flat, None);
            let got = out.pixels()[0].to_le_bytes()[0];
            assert!(out.pixels().iter().all(|p| *p == out.pixels()[0]) && got.abs_diff(code) <= 2, "{code}: {got}");
        }
    }

    #[test]
    fn an_edge_gets_no_halo() {
        let pixels = (0..200 * 200).map(|i| if i % 200 < 100 { 60u8 } else { 190 });
        let edge = Raster::new(200, 200, pixels.map(|v| Rgb8::new(v, v, v).packed()).collect()).unwrap();
        let out = EnhancedBw::default().apply(&edge, None);
        let row: Vec<i32> = out.pixels()[100 * 200..101 * 200].iter().map(|p| i32::from(p.to_le_bytes()[0])).collect();
        assert!(row[60..100].iter().all(|v| (v - row[60]).abs() <= 12), "{:?}", &row[90..110]);
        assert!(row[100..140].iter().all(|v| (v - row[140]).abs() <= 12), "{:?}", &row[90..110]);
    }

    #[test]
    fn tones_go_from_dark_to_light() {
        for tone in Tone::ALL {
            let table = tone::table(|l| tone.at(l)).map(|p| tone::oklab(Rgb8::from_packed(p)).l);
            assert!(table[0] < 0.25 && table[255] > 0.95, "{tone:?}");
            assert!(table.windows(2).all(|pair| pair[0] < pair[1] + 4e-3), "{tone:?}");
        }
    }

    #[test]
    fn grain_follows_its_seed_and_keeps_the_mean() {
        let flat = Raster::new(256, 256, vec![Rgb8::new(128, 128, 128).packed(); 65536]).unwrap();
        let with = |grain, seed| EnhancedBw { grain, seed, ..EnhancedBw::default() }.apply(&flat, None);
        let mean = |r: &Raster| r.pixels().iter().map(|p| u64::from(p & 255)).sum::<u64>() as f64 / 65536.0;
        assert_eq!(with(0.5, 1).pixels(), with(0.5, 1).pixels());
        assert_ne!(with(0.5, 1).pixels(), with(0.5, 2).pixels());
        assert!((mean(&with(0.5, 1)) - mean(&with(0.0, 1))).abs() < 3.0);
    }

    #[test]
    fn brand_colors_are_its_black_and_white() {
        let brand = [Rgb8::new(233, 196, 106), Rgb8::new(38, 70, 83)];
        let out = EnhancedBw::default().apply(&picture(), Some(&brand));
        let range = brand[1].oklab().l - 0.01..brand[0].oklab().l + 0.01;
        assert!(out.pixels().iter().all(|p| range.contains(&Rgb8::from_packed(*p).oklab().l)));
    }
}
