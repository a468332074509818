//! The effect `color`: vibrance, saturation, temperature, tint and hue in OKLab (B. Ottosson 2020), or two tones.

use std::ops::RangeInclusive;

use rayon::prelude::*;

use super::field::{BAND, Counts, DARKEST, LUMINANCE, bin, paint};
use super::lut::ColorTable;
use super::tone::{self, Levels};
use crate::kernel::color::{DECODE, ENCODE, OkLab, Rgb8, encode_index};
use crate::kernel::image::{Raster, Rows as _};

/// Colours made livelier, warmer, cooler, turned, or replaced by two.
///
/// Without any parameter, vibrance 0.35 and a little warmth; or, with brand colours, the two tones of the darkest and
/// the lightest of them. As soon as one is given, those that are not change nothing, and brand colours do not count.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ColorEffect {
    /// Chroma of dull colours, in [`Self::VIBRANCE`]: at 1 it doubles, and hardly grows where it is high already; at −1
    /// dull colours lose all. Skin gains half as much.
    pub vibrance: Option<f32>,
    /// Chroma of all colours, in [`Self::SATURATION`]: at 1 it doubles, at −1 the picture is grey.
    pub saturation: Option<f32>,
    /// From cool, −1, to warm, 1 ([`Self::TEMPERATURE`]). White and black stay nearly as they are.
    pub temperature: Option<f32>,
    /// From green, −1, to magenta, 1 ([`Self::TINT`]).
    pub tint: Option<f32>,
    /// Degrees that hues turn by, in [`Self::HUE_DEGREES`], at constant lightness.
    pub hue_degrees: Option<f32>,
    /// Colours of black and of white, between which all others lie by their lightness. Given these, nothing else
    /// counts.
    pub duotone: Option<[Rgb8; 2]>,
}

/// What is done when nothing is asked for.
const PLEASING: ColorEffect = ColorEffect {
    vibrance: Some(0.35),
    saturation: None,
    temperature: Some(0.15),
    tint: None,
    hue_degrees: None,
    duotone: None,
};

/// Share of an S-shaped curve in the contrast of two tones.
const CONTRAST: f32 = 0.6;
/// Chroma at which vibrance has half its effect.
const DULL_CHROMA: f32 = 0.12;
/// OKLab hue of skin, in degrees, and how far from it vibrance is full again.
const SKIN_HUE: f32 = 55.0;
/// Shift in a and b at full temperature or tint.
const CAST: f32 = 0.07;
/// Hue of warmth, in degrees, and of a magenta tint.
const WARM_HUE: f32 = 70.0;
const MAGENTA_HUE: f32 = 328.0;

impl ColorEffect {
    /// Range of [`Self::vibrance`].
    pub const VIBRANCE: RangeInclusive<f32> = -1.0..=1.0;
    /// Range of [`Self::saturation`].
    pub const SATURATION: RangeInclusive<f32> = -1.0..=1.0;
    /// Range of [`Self::temperature`].
    pub const TEMPERATURE: RangeInclusive<f32> = -1.0..=1.0;
    /// Range of [`Self::tint`].
    pub const TINT: RangeInclusive<f32> = -1.0..=1.0;
    /// Range of [`Self::hue_degrees`].
    pub const HUE_DEGREES: RangeInclusive<f32> = -180.0..=180.0;

    pub(super) fn apply(&self, picture: &Raster, colors: Option<&[Rgb8]>) -> Raster {
        let given = *self != Self::default();
        let effect = if given { *self } else { PLEASING };
        match (effect.duotone, colors) {
            (Some([dark, light]), _) => two_tones(picture, |l| tone::between(tone::oklab(dark), tone::oklab(light), l)),
            (None, Some(colors)) if !given && !colors.is_empty() => {
                let stops = tone::ends(colors);
                two_tones(picture, |l| tone::along(&stops, l))
            }
            _ => {
                let grade = Grade::new(&effect);
                let table = ColorTable::new(|color| grade.linear(color));
                let width = picture.width() as usize;
                paint(picture, |first, out| {
                    table.map(&picture.pixels()[first * width..][..out.len()], out);
                })
            }
        }
    }
}

/// Replaces every colour by the one that the gradient `at` has for its lightness, stretched and with some contrast.
fn two_tones(picture: &Raster, at: impl Fn(f32) -> OkLab) -> Raster {
    let width = picture.width() as usize;
    let shares: [[f32; 256]; 3] = LUMINANCE.map(|share| DECODE.map(|v| share * v));
    let encode = &*ENCODE;
    // The code of grey of the same luminance.
    let code = |p: u32| {
        let [r, g, b, _] = p.to_le_bytes();
        let light = shares[0][usize::from(r)] + shares[1][usize::from(g)] + shares[2][usize::from(b)];
        encode[encode_index(light) as usize]
    };
    let parts: Vec<[u32; 256]> = picture
        .pixels()
        .par_chunks(BAND * width)
        .map(|pixels| {
            let mut counts = Counts::new();
            counts.add(pixels.iter().map(|&p| (usize::from(code(p)), p >> 24 != 0)));
            counts.sum()
        })
        .collect();
    let lightness = |code: usize| tone::oklab(Rgb8::new(code as u8, code as u8, code as u8)).l;
    let mut counts = [0u32; 256];
    for part in &parts {
        part.iter().enumerate().for_each(|(code, count)| counts[bin(lightness(code))] += count);
    }
    let levels = Levels::new(&counts);
    let table = tone::table(|l| {
        let t = levels.apply(l);
        at(t + CONTRAST * (t * t * (3.0 - 2.0 * t) - t))
    });
    paint(picture, |first, out| {
        for (out, p) in out.iter_mut().zip(&picture.pixels()[first * width..]) {
            *out = table[usize::from(code(*p))];
        }
    })
}

/// Parameters in the form that colours need.
struct Grade {
    vibrance: f32,
    saturation: f32,
    /// Shift of a and b.
    cast: [f32; 2],
    /// Cosine and sine of the turn.
    turn: [f32; 2],
    /// Cosine and sine of the hue of skin.
    skin: [f32; 2],
}

impl Grade {
    fn new(effect: &ColorEffect) -> Self {
        let value = |v: Option<f32>, range: RangeInclusive<f32>| {
            v.filter(|v| v.is_finite()).map_or(0.0, |v| v.clamp(*range.start(), *range.end()))
        };
        let direction = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            [cos, sin]
        };
        let warm = CAST * value(effect.temperature, ColorEffect::TEMPERATURE);
        let magenta = CAST * value(effect.tint, ColorEffect::TINT);
        let ([wa, wb], [ma, mb]) = (direction(WARM_HUE), direction(MAGENTA_HUE));
        Self {
            vibrance: value(effect.vibrance, ColorEffect::VIBRANCE),
            saturation: value(effect.saturation, ColorEffect::SATURATION),
            cast: [warm * wa + magenta * ma, warm * wb + magenta * mb],
            turn: direction(value(effect.hue_degrees, ColorEffect::HUE_DEGREES)),
            skin: direction(SKIN_HUE),
        }
    }

    /// The graded colour, linear sRGB, possibly outside the gamut.
    fn linear(&self, color: [f32; 3]) -> [f32; 3] {
        let lab = OkLab::from_linear(color.map(|v| v.max(DARKEST)));
        let chroma = lab.chroma();
        let dull = DULL_CHROMA / (DULL_CHROMA + chroma);
        // 1 at the hue of skin, 0 from 45 degrees on.
        let likeness = (lab.a * self.skin[0] + lab.b * self.skin[1]) / chroma.max(1e-4);
        let skin = ((likeness - 0.707) / 0.293).clamp(0.0, 1.0) * (chroma / 0.03).min(1.0);
        let gain = (1.0 + self.vibrance * dull.sqrt() * (1.0 - 0.5 * skin)).max(0.0) * (1.0 + self.saturation);
        // A cast on black or white would lift the one and dirty the other.
        let room = (lab.l / 0.3).clamp(0.0, 1.0) * (1.0 - 0.75 * lab.l.clamp(0.0, 1.0).powi(6));
        let (a, b) = (lab.a * gain, lab.b * gain);
        let [cos, sin] = self.turn;
        OkLab { l: lab.l, a: a * cos - b * sin + room * self.cast[0], b: a * sin + b * cos + room * self.cast[1] }
            .to_linear()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::{delta_e_2000, encode_srgb};
    use crate::kernel::gamut;

    fn ramp() -> Raster {
        Raster::new(256, 1, (0..=255u8).map(|v| Rgb8::new(v, v, v).packed()).collect()).unwrap()
    }

    fn colors() -> Raster {
        let channel = |i: u32, shift: u32| (i.wrapping_mul(2_654_435_761) >> shift) as u8;
        let pixels = (0..64 * 256).map(|i| Rgb8::new(channel(i, 3), channel(i, 11), channel(i, 20)).packed()).collect();
        Raster::new(64, 256, pixels).unwrap()
    }

    #[test]
    fn grey_stays_grey_when_hues_turn_and_colors_get_livelier() {
        for hue in [-180.0, -77.0, 35.0, 180.0] {
            let effect = ColorEffect { hue_degrees: Some(hue), vibrance: Some(0.8), ..ColorEffect::default() };
            assert_eq!(effect.apply(&ramp(), None).pixels(), ramp().pixels(), "{hue}");
        }
    }

    #[test]
    fn the_table_is_as_good_as_the_formula() {
        let picture = colors();
        for effect in [PLEASING, ColorEffect { saturation: Some(-0.5), tint: Some(0.4), ..ColorEffect::default() }] {
            let grade = Grade::new(&effect);
            let out = effect.apply(&picture, None);
            let (mut sum, mut far, mut worst) = (0u32, 0usize, 0f32);
            for (p, q) in picture.pixels().iter().zip(out.pixels()) {
                let [r, g, b, _] = p.to_le_bytes().map(|v| DECODE[usize::from(v)]);
                let [r, g, b] = gamut::fit(grade.linear([r, g, b])).map(encode_srgb);
                let misses = [r, g, b].into_iter().zip(q.to_le_bytes()).map(|(x, y)| u32::from(x.abs_diff(y)));
                sum += misses.clone().sum::<u32>();
                far += misses.filter(|miss| *miss > 2).count();
                worst = worst.max(delta_e_2000(Rgb8::new(r, g, b).lab(), Rgb8::from_packed(*q).lab()));
            }
            let all = 3 * picture.pixels().len();
            let (mean, far) = (sum as f32 / all as f32, far as f32 / all as f32);
            // What is further off is a nearly missing channel of a colour on the surface of the gamut.
            assert!(mean < 0.25 && far < 0.02 && worst < 3.5, "{effect:?}: mean {mean}, far {far}, worst {worst}");
        }
    }

    #[test]
    fn warmth_turns_grey_towards_orange_and_keeps_white() {
        let warm = ColorEffect { temperature: Some(1.0), ..ColorEffect::default() }.apply(&ramp(), None);
        let hue = Rgb8::from_packed(warm.pixels()[128]).oklab();
        assert!((hue.hue_degrees() - WARM_HUE).abs() < 3.0 && hue.chroma() > 0.05, "{hue:?}");
        assert!(Rgb8::from_packed(warm.pixels()[255]).oklab().chroma() < 0.03);
        assert_eq!(warm.pixels()[0], ramp().pixels()[0]);
    }

    #[test]
    fn vibrance_lifts_dull_colors_more_than_vivid_ones() {
        let gain = |color: Rgb8| {
            let raster = Raster::new(1, 1, vec![color.packed()]).unwrap();
            let out = ColorEffect { vibrance: Some(0.8), ..ColorEffect::default() }.apply(&raster, None);
            Rgb8::from_packed(out.pixels()[0]).oklab().chroma() / color.oklab().chroma()
        };
        let (dull, vivid) = (gain(Rgb8::new(110, 130, 140)), gain(Rgb8::new(40, 110, 190)));
        assert!(dull > 1.5 && vivid < dull - 0.1 && vivid > 1.05, "{dull} {vivid}");
    }

    #[test]
    fn brand_colors_make_two_tones_unless_something_else_is_asked_for() {
        let brand = [Rgb8::new(233, 196, 106), Rgb8::new(38, 70, 83), Rgb8::new(42, 157, 143)];
        let toned = ColorEffect::default().apply(&ramp(), Some(&brand));
        assert_eq!((toned.pixels()[0], toned.pixels()[255]), (brand[1].packed(), brand[0].packed()));
        let turned = ColorEffect { hue_degrees: Some(20.0), ..ColorEffect::default() };
        assert_eq!(turned.apply(&colors(), Some(&brand)).pixels(), turned.apply(&colors(), None).pixels());
        let named = ColorEffect { duotone: Some([brand[2], brand[0]]), ..ColorEffect::default() };
        assert_eq!(named.apply(&ramp(), Some(&brand)).pixels()[0], brand[2].packed());
    }

    #[test]
    fn values_out_of_range_count_as_the_nearest_or_as_nothing() {
        let at = |v: f32| ColorEffect { saturation: Some(v), ..ColorEffect::default() }.apply(&colors(), None);
        assert_eq!(at(-9.0).pixels(), at(-1.0).pixels());
        assert_eq!(at(f32::NAN).pixels(), colors().pixels());
    }
}
