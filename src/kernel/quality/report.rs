//! What can be said of any tool's output, from the original, the result and the palette alone.

use super::fit::{TargetColors, View, coverage, palette_distance};
use super::gain::{Gain, NeighborPairs, tear};
use super::sample::Sample;
use super::structure::ssim_l;
use super::tone::{correlation, neighbor_order};
use crate::kernel::color::{DECODE, Lab, Rgb8};
use crate::kernel::color_bits::{ColorBits, color_key};
use crate::kernel::image::RasterError;

/// Figures of one variation.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Mapping gain from each colour of the original to the mean of what became of its pixels; `None` when no two
    /// colours of the original are neighbours.
    pub gain: Option<Gain>,
    /// Mean ΔE2000 of the variation to the nearest palette colour.
    pub distance: f64,
    /// The same of the original.
    pub distance_original: f64,
    /// Palette colours present in the variation.
    pub colors_present: usize,
    /// Palette colours asked for.
    pub colors_wanted: usize,
    /// Correlation of lightness before and after, −1 to 1.
    pub lightness_correlation: f64,
    /// Share of neighbouring pixels whose order of lightness is kept, 0 to 1.
    pub order_kept: f64,
    /// SSIM of lightness, −1 to 1.
    pub ssim_l: f64,
    /// Tear over neighbouring pixels, ratio.
    pub tear_p999: f64,
}

impl Report {
    /// What is left of the original's distance to the palette; 1 when the original had none.
    pub fn distance_share(&self) -> f64 {
        if self.distance_original > 0.0 { self.distance / self.distance_original } else { 1.0 }
    }
}

/// Colours looked at for palette distance; beyond that a weighted sample stands for them.
const SAMPLE: usize = 1 << 16;

/// Judges `variation` against `original`, both `width·height` packed pixels. Pixels with alpha 0 in the original are
/// left out everywhere.
///
/// The mean output of a colour is taken in linear light, as an eye would that looks from afar: dither is judged by
/// the colour it makes (and by [`Report::tear_p999`] for the dots).
///
/// # Errors
/// [`RasterError`] when a side is zero or a raster's length does not match the sides.
pub fn judge(
    original: &[u32],
    variation: &[u32],
    width: u32,
    height: u32,
    palette: &[Rgb8],
) -> Result<Report, RasterError> {
    if width == 0 || height == 0 {
        return Err(RasterError::Empty { width, height });
    }
    let expected = width as usize * height as usize;
    for raster in [original, variation] {
        if raster.len() != expected {
            let got = raster.len() * 4;
            return Err(RasterError::Length { width, height, plane: "colour", expected: expected * 4, got });
        }
    }
    let targets = TargetColors::of_palette(palette);
    let before = Relation::new(original, original, variation);
    let after = Relation::new(original, variation, variation);
    let (sample_before, sample_after) = (Sample::new(&before.counts, SAMPLE), Sample::new(&after.counts, SAMPLE));
    let view = View::new(&sample_after, &after.colors);
    let width = width as usize;
    Ok(Report {
        gain: NeighborPairs::new(&before.colors, usize::MAX).gain_of_lab(&before.means),
        distance: palette_distance(&view, &targets),
        distance_original: palette_distance(&View::new(&sample_before, &before.colors), &targets),
        colors_present: coverage(&view, &targets).present(),
        colors_wanted: palette.len(),
        lightness_correlation: correlation(&before.lightness(&sample_before)),
        order_kept: neighbor_order(original, variation, width).share(),
        ssim_l: ssim_l(original, variation, width),
        tear_p999: tear(original, variation, width),
    })
}

/// The colours of one raster, how often each occurs, and the mean colour of another raster under it.
struct Relation {
    colors: Vec<u32>,
    counts: Vec<u32>,
    means: Vec<Lab>,
}

impl Relation {
    /// `mask` says which pixels count.
    fn new(mask: &[u32], from: &[u32], to: &[u32]) -> Self {
        let visible = || mask.iter().zip(from.iter().zip(to)).filter(|(m, _)| **m >> 24 != 0).map(|(_, pair)| pair);
        let bits = ColorBits::new(visible().map(|(f, _)| *f));
        let colors = bits.colors();
        let mut counts = vec![0u32; colors.len()];
        let mut sums = vec![[0.0f64; 3]; colors.len()];
        let decode = &*DECODE;
        for (&from, &to) in visible() {
            let i = bits.rank(color_key(from)) as usize;
            counts[i] += 1;
            let [r, g, b, _] = to.to_le_bytes();
            for (sum, code) in sums[i].iter_mut().zip([r, g, b]) {
                *sum += f64::from(decode[code as usize]);
            }
        }
        let mean = |(sum, &n): (&[f64; 3], &u32)| Lab::from_linear(sum.map(|v| (v / f64::from(n.max(1))) as f32));
        let means = sums.iter().zip(&counts).map(mean).collect();
        Self { colors, counts, means }
    }

    /// Weight, lightness and mean lightness of what became of it, for every colour of a sample.
    fn lightness(&self, sample: &Sample) -> Vec<(f32, f32, f32)> {
        let point = |&(i, weight): &(u32, f32)| {
            let i = i as usize;
            (weight, Rgb8::from_packed(self.colors[i]).lab().l, self.means[i].l)
        };
        sample.entries().iter().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: u32 = 96;

    /// A soft two-way gradient: thousands of neighbouring colours.
    fn gradient() -> Vec<u32> {
        (0..SIDE * SIDE)
            .map(|i| {
                let (x, y) = (i % SIDE, i / SIDE);
                Rgb8::new(60 + x as u8, 70 + y as u8, 80 + ((x + y) / 4) as u8).packed()
            })
            .collect()
    }

    fn palette() -> [Rgb8; 2] {
        [Rgb8::new(200, 40, 40), Rgb8::new(20, 60, 160)]
    }

    #[test]
    fn the_original_judged_against_itself_is_perfect() {
        let x = gradient();
        let report = judge(&x, &x, SIDE, SIDE, &palette()).unwrap();
        let gain = report.gain.unwrap();
        assert!((gain.median - 1.0).abs() < 1e-3 && (gain.max - 1.0).abs() < 1e-3, "{gain:?}");
        assert_eq!(report.distance_share(), 1.0);
        assert!((report.lightness_correlation - 1.0).abs() < 1e-6);
        assert_eq!(report.order_kept, 1.0);
        assert!((report.ssim_l - 1.0).abs() < 1e-4);
        assert!(report.tear_p999 <= 1.01);
        assert_eq!((report.colors_present, report.colors_wanted), (0, 2));
    }

    #[test]
    fn a_hard_split_reaches_the_palette_and_tears() {
        let x = gradient();
        let [warm, cold] = palette().map(Rgb8::packed);
        let split: Vec<u32> = x.iter().map(|p| if p & 255 < 108 { warm } else { cold }).collect();
        let report = judge(&x, &split, SIDE, SIDE, &palette()).unwrap();
        assert!(report.gain.unwrap().p999 > 50.0, "{report:?}");
        assert!(report.tear_p999 > 20.0 && report.ssim_l < 0.95, "{report:?}");
        assert!(report.distance_share() < 1e-3);
        assert_eq!(report.colors_present, 2);
    }

    #[test]
    fn dither_is_judged_by_the_color_it_makes_and_the_dots_by_tear() {
        let x = vec![Rgb8::new(127, 127, 127).packed(); (SIDE * SIDE) as usize];
        let dots: Vec<u32> = (0..SIDE * SIDE)
            .map(|i| if (i % SIDE + i / SIDE).is_multiple_of(2) { 0xff00_0000 } else { 0xffff_ffff })
            .collect();
        let report = judge(&x, &dots, SIDE, SIDE, &[Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)]).unwrap();
        assert_eq!((report.gain, report.colors_present), (None, 2));
        assert!(report.tear_p999 > 49.0, "{report:?}");
    }

    #[test]
    fn hidden_pixels_do_not_count() {
        let (mut x, mut y) = (gradient(), gradient());
        for (i, (p, q)) in x.iter_mut().zip(&mut y).enumerate().filter(|(i, _)| i % 5 == 0) {
            *p = (i as u32).wrapping_mul(77_777) & 0x00ff_ffff;
            *q = 0xff00_ff00;
        }
        let report = judge(&x, &y, SIDE, SIDE, &[Rgb8::new(0, 255, 0)]).unwrap();
        assert_eq!((report.colors_present, report.order_kept), (0, 1.0));
        let nothing = vec![0u32; 12];
        let report = judge(&nothing, &nothing, 4, 3, &palette()).unwrap();
        assert_eq!((report.gain, report.distance, report.ssim_l, report.tear_p999), (None, 0.0, 1.0, 0.0));
    }

    #[test]
    fn rasters_of_another_size_are_refused() {
        let x = gradient();
        assert!(matches!(judge(&x, &x[1..], SIDE, SIDE, &palette()), Err(RasterError::Length { .. })));
        assert!(matches!(judge(&[], &[], 0, 4, &palette()), Err(RasterError::Empty { .. })));
    }

    #[test]
    fn the_report_is_the_same_on_any_number_of_threads() {
        let x = gradient();
        let y: Vec<u32> = x.iter().map(|p| p.wrapping_mul(3) | 0xff00_0000).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| judge(&x, &y, SIDE, SIDE, &palette()).unwrap())
        };
        assert_eq!(on(1), on(3));
    }
}
