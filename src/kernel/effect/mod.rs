//! Effects: stylised versions of a picture, each a variation of its own.
//!
//! They take statistics of visible pixels only, keep alpha as it is and lengths in proportion to the picture, so that a
//! preview looks like the picture in full, and give the same bytes on any number of threads.

mod allowed;
mod clahe;
mod dithering;
mod enhanced_bw;
mod field;
mod grade;
mod halftone;
mod lut;
mod pop_art;
mod shapes;
mod tone;

pub use dithering::{DitherAlgorithm, DitherEffect};
pub use enhanced_bw::{EnhancedBw, Tone};
pub use grade::ColorEffect;
pub use pop_art::{PopArt, PopArtStyle};

use super::color::Rgb8;
use super::image::Raster;

/// One of the effects, with its parameters. Values outside their ranges count as the nearest inside.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A rich black and white, or two tones.
    EnhancedBw(EnhancedBw),
    /// Posters, grids of them, halftones.
    PopArt(PopArt),
    /// Few colours in visible dots.
    Dither(DitherEffect),
    /// Livelier, warmer, turned or two-toned colours.
    Color(ColorEffect),
}

/// The picture under an effect, of the same size.
///
/// `picture` has straight alpha; what it hides counts for nothing. The result has its alpha, and 0 where it is hidden;
/// only a Warhol grid repeats the alpha with the picture. `colors` are brand colours to combine with, in any order;
/// none count as not given.
///
/// Takes 4 to 14 bytes a pixel beyond the picture, the result included; up to 60 for pictures of less than two
/// megapixels.
pub fn apply(effect: &Effect, picture: &Raster, colors: Option<&[Rgb8]>) -> Raster {
    match effect {
        Effect::EnhancedBw(effect) => effect.apply(picture, colors),
        Effect::PopArt(effect) => effect.apply(picture, colors),
        Effect::Dither(effect) => effect.apply(picture, colors),
        Effect::Color(effect) => effect.apply(picture, colors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::{Rows as _, pack_rgba};

    fn brand() -> Vec<Rgb8> {
        ["#3A0CA3", "#E5177B", "#FFB703", "#2EC4F1", "#FFF8E7"].iter().map(|c| c.parse().unwrap()).collect()
    }

    /// Every effect in every variant.
    fn effects() -> Vec<Effect> {
        let mut effects = vec![
            Effect::EnhancedBw(EnhancedBw::default()),
            Effect::EnhancedBw(EnhancedBw { grain: 0.5, tone: Tone::Sepia, seed: 7, ..EnhancedBw::default() }),
            Effect::EnhancedBw(EnhancedBw { mix: Some([1.0, 0.2, -0.3]), ..EnhancedBw::default() }),
            Effect::Color(ColorEffect::default()),
            Effect::Color(ColorEffect { hue_degrees: Some(140.0), temperature: Some(-0.6), ..ColorEffect::default() }),
            Effect::Color(ColorEffect {
                duotone: Some([Rgb8::new(20, 0, 60), Rgb8::new(255, 230, 120)]),
                ..ColorEffect::default()
            }),
            Effect::Dither(DitherEffect { levels: 4, grey: false, ..DitherEffect::default() }),
            Effect::Dither(DitherEffect { scale: Some(3), ..DitherEffect::default() }),
        ];
        for style in [PopArtStyle::Poster, PopArtStyle::Warhol, PopArtStyle::Halftone] {
            effects.push(Effect::PopArt(PopArt { style, ..PopArt::default() }));
        }
        for algorithm in [
            DitherAlgorithm::FloydSteinberg,
            DitherAlgorithm::Atkinson,
            DitherAlgorithm::Bayer,
            DitherAlgorithm::BlueNoise,
        ] {
            effects.push(Effect::Dither(DitherEffect { algorithm, ..DitherEffect::default() }));
        }
        effects
    }

    fn both() -> Vec<(Effect, Option<Vec<Rgb8>>)> {
        let one = Some(vec![Rgb8::new(0, 0, 0)]);
        effects()
            .into_iter()
            .flat_map(|e| [(e.clone(), None), (e.clone(), Some(brand())), (e.clone(), one.clone()), (e, Some(vec![]))])
            .collect()
    }

    /// A picture with visible, soft and hidden parts; `hidden` is the colour of the last.
    fn cut_out(hidden: u32) -> Raster {
        let (width, height) = (150u32, 110u32);
        let pixels = (0..width * height).map(|i| {
            let (x, y) = (i % width, i / width);
            let alpha = match (x.abs_diff(80), y.abs_diff(50)) {
                (0..40, 0..30) => 255,
                (40..48, 0..30) => (250 - 30 * (x.abs_diff(80) - 40)) as u8,
                _ => 0,
            };
            let color = pack_rgba((x + y) as u8, (x * 3) as u8, (y * 5 + x * x / 20) as u8, alpha);
            if alpha == 0 { hidden } else { color }
        });
        Raster::new(width, height, pixels.collect()).unwrap()
    }

    fn is_grid(effect: &Effect) -> bool {
        matches!(effect, Effect::PopArt(PopArt { style: PopArtStyle::Warhol, .. }))
    }

    #[test]
    fn alpha_is_kept_and_hidden_pixels_are_nothing_and_count_for_nothing() {
        let (black, garbage) = (cut_out(0), cut_out(0x00a3_57ff));
        for (effect, colors) in both() {
            let out = apply(&effect, &black, colors.as_deref());
            assert_eq!(out.pixels(), apply(&effect, &garbage, colors.as_deref()).pixels(), "{effect:?}");
            assert_eq!((out.width(), out.height()), (150, 110));
            assert!(out.pixels().iter().all(|p| p >> 24 != 0 || *p == 0), "{effect:?}");
            if !is_grid(&effect) {
                assert!(out.pixels().iter().zip(black.pixels()).all(|(x, y)| x >> 24 == y >> 24), "{effect:?}");
            }
        }
    }

    #[test]
    fn visible_pixels_look_the_same_whatever_is_beside_them() {
        // The left half alone visible, and the right half of another colour hidden or cut off.
        let pixel = |x: u32, y: u32| pack_rgba((x * 2) as u8, (y * 3) as u8, 120, 255);
        let half =
            Raster::new(100, 80, (0..8000).map(|i| if i % 100 < 50 { pixel(i % 100, i / 100) } else { 0 }).collect());
        let half = half.unwrap();
        let shown = |effect: &Effect| apply(effect, &half, None).into_pixels();
        let pop = shown(&Effect::PopArt(PopArt { outline: 1.0, ..PopArt::default() }));
        // No line along the edge of what is visible: it is no edge of the picture.
        let ink = pop.chunks(100).filter(|row| Rgb8::from_packed(row[49]).oklab().l < 0.2).count();
        let inside = pop.chunks(100).filter(|row| Rgb8::from_packed(row[40]).oklab().l < 0.2).count();
        assert!(ink <= inside + 4, "{ink} {inside}");
    }

    #[test]
    fn the_bytes_are_the_same_on_one_thread_and_on_four() {
        let picture = cut_out(0);
        let on = |threads: usize, effect: &Effect, colors: Option<&[Rgb8]>| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| apply(effect, &picture, colors)).into_pixels()
        };
        for (effect, colors) in both() {
            assert_eq!(on(1, &effect, colors.as_deref()), on(4, &effect, colors.as_deref()), "{effect:?}");
        }
    }

    #[test]
    fn any_size_and_any_content_goes() {
        for (width, height) in [(1, 1), (3, 1), (1, 5), (2, 2), (7, 300), (65, 3)] {
            for color in [0u32, 0x0000_ff00, 0xff00_0000, 0xffff_ffff, 0x80ff_4020] {
                let picture = Raster::new(width, height, vec![color; (width * height) as usize]).unwrap();
                for (effect, colors) in both() {
                    let out = apply(&effect, &picture, colors.as_deref());
                    assert_eq!((out.width(), out.height()), (width, height));
                    assert!(out.pixels().iter().all(|p| p >> 24 == color >> 24), "{effect:?} {width}×{height}");
                    assert!(color >> 24 != 0 || out.pixels().iter().all(|p| *p == 0));
                }
            }
        }
    }

    #[test]
    fn values_outside_their_ranges_do_no_harm() {
        let picture = cut_out(0);
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e30, 1e30] {
            let bw = EnhancedBw {
                mix: Some([v, v, -v]),
                contrast: v,
                clarity: v,
                sharpness: v,
                grain: v,
                ..EnhancedBw::default()
            };
            let color = ColorEffect {
                vibrance: Some(v),
                saturation: Some(v),
                temperature: Some(v),
                tint: Some(v),
                hue_degrees: Some(v),
                duotone: None,
            };
            let pop = |style| PopArt { style, levels: Some(255), outline: v, grid: 255, dots: u16::MAX };
            for effect in [
                Effect::EnhancedBw(bw),
                Effect::Color(color),
                Effect::PopArt(pop(PopArtStyle::Poster)),
                Effect::PopArt(pop(PopArtStyle::Warhol)),
                Effect::PopArt(PopArt { dots: 0, grid: 0, levels: Some(0), ..pop(PopArtStyle::Halftone) }),
                Effect::Dither(DitherEffect { levels: 0, scale: Some(0), ..DitherEffect::default() }),
                Effect::Dither(DitherEffect { levels: 255, scale: Some(255), grey: false, ..DitherEffect::default() }),
            ] {
                assert_eq!(apply(&effect, &picture, None).pixels().len(), picture.pixels().len());
            }
        }
    }

    #[test]
    fn a_preview_looks_like_the_picture() {
        // A soft landscape at two sizes: averaged over a coarse grid the results agree.
        let at = |side: u32| {
            let pixel = |i: u32| {
                let (x, y) = ((i % side) as f32 / side as f32, (i / side) as f32 / side as f32);
                let v = |phase: f32| (127.0 + 120.0 * (5.0 * x + 3.0 * y * y + phase).sin()) as u8;
                pack_rgba(v(0.0), v(0.5), v(1.2), 255)
            };
            Raster::new(side, side, (0..side * side).map(pixel).collect()).unwrap()
        };
        let means = |raster: &Raster| {
            let side = raster.width() as usize;
            let mut sums = [0f32; 64];
            for (i, p) in raster.pixels().iter().enumerate() {
                sums[i / side * 8 / side * 8 + i % side * 8 / side] += Rgb8::from_packed(*p).lab().l;
            }
            sums.map(|v| v / (side * side / 64) as f32)
        };
        for effect in effects().iter().filter(|e| !is_grid(e)) {
            let (small, large) = (means(&apply(effect, &at(320), None)), means(&apply(effect, &at(960), None)));
            for (x, y) in small.iter().zip(&large) {
                assert!((x - y).abs() < 6.0, "{effect:?}: {x} {y}");
            }
        }
    }
}
