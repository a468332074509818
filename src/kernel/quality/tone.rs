//! Light: its order, its steps and its levels.

use super::sample::Sample;
use super::{extend_with_labs, visit_neighbors};
use crate::kernel::color::{Lab, Rgb8};

/// What rounding to 8 bits can do to the difference of two lightnesses: half a code each, where a code of grey is at
/// most 0.45 of L.
pub const ROUNDING_L: f32 = 0.45;

/// Steps of L in the original below this are texture and noise, not an order.
pub const ORDERED_STEP_L: f32 = 1.0;

/// Lightness correlation: area-weighted Pearson correlation of CIELAB L before and after.
///
/// `before` and `after` are the list the sample was drawn from and its mapped colours. 1 when the original has one
/// lightness only, because there is no order to lose; 0 when only the variation has.
pub fn lightness_correlation(sample: &Sample, before: &[u32], after: &[u32]) -> f64 {
    let lightness = |i: u32, list: &[u32]| Rgb8::from_packed(list[i as usize]).lab().l;
    let weighed = |&(i, weight): &(u32, f32)| (weight, lightness(i, before), lightness(i, after));
    correlation(&sample.entries().iter().map(weighed).collect::<Vec<_>>())
}

/// Pearson correlation of (weight, x, y); the weights sum to 1.
pub(super) fn correlation(points: &[(f32, f32, f32)]) -> f64 {
    let mean = |value: &dyn Fn(f64, f64) -> f64| -> f64 {
        points.iter().map(|&(w, x, y)| f64::from(w) * value(f64::from(x), f64::from(y))).sum()
    };
    let (mean_x, mean_y) = (mean(&|x, _| x), mean(&|_, y| y));
    let xx = mean(&|x, _| (x - mean_x).powi(2));
    let yy = mean(&|_, y| (y - mean_y).powi(2));
    let xy = mean(&|x, y| (x - mean_x) * (y - mean_y));
    // A spread below a thousandth of L is rounding of a single lightness.
    const FLAT: f64 = 1e-6;
    if xx < FLAT {
        1.0
    } else if yy < FLAT {
        0.0
    } else {
        (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0)
    }
}

/// How many neighbouring pixels kept their order of lightness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NeighborOrder {
    /// Pairs of 4-neighbours whose lightness differed by at least [`ORDERED_STEP_L`].
    pub pairs: u64,
    /// Those of them that are not inverted by more than [`ROUNDING_L`]. Pairs made equal count as kept: that is
    /// banding's concern.
    pub kept: u64,
}

impl NeighborOrder {
    /// Kept pairs of all pairs, 0 to 1; 1 when there are none.
    pub fn share(&self) -> f64 {
        if self.pairs == 0 { 1.0 } else { self.kept as f64 / self.pairs as f64 }
    }
}

/// Neighbour order over a raster; pixels with alpha 0 in `original` are left out.
pub fn neighbor_order(original: &[u32], variation: &[u32], width: usize) -> NeighborOrder {
    let bands = visit_neighbors(original, variation, width, |sum: &mut NeighborOrder, pair| {
        let step = pair.before[1].l - pair.before[0].l;
        if step.abs() >= ORDERED_STEP_L {
            let after = (pair.after[1].l - pair.after[0].l) * step.signum();
            sum.pairs += 1;
            sum.kept += u64::from(after >= -ROUNDING_L);
        }
    });
    bands.into_iter().fold(NeighborOrder::default(), |sum, band| NeighborOrder {
        pairs: sum.pairs + band.pairs,
        kept: sum.kept + band.kept,
    })
}

/// The 256 greys from black to white, packed: the input of ramp measurements.
pub fn grey_ramp() -> [u32; 256] {
    std::array::from_fn(|v| Rgb8::new(v as u8, v as u8, v as u8).packed())
}

/// Ramp inversions: steps of a mapped ramp (lightest input last) that are darker than the lightest step before them by
/// more than [`ROUNDING_L`]. Comparing with the lightest so far finds slow descents too.
pub fn ramp_inversions(mapped: &[u32]) -> usize {
    let mut labs = Vec::new();
    extend_with_labs(mapped, &mut labs);
    inversions(labs.iter().map(|lab| lab.l), ROUNDING_L)
}

/// The same for a map that was not rounded: any descent beyond a hundredth of L counts.
pub fn ramp_inversions_of_lab(mapped: &[Lab]) -> usize {
    inversions(mapped.iter().map(|lab| lab.l), 0.01)
}

fn inversions(lightness: impl Iterator<Item = f32>, tolerance: f32) -> usize {
    let mut lightest = f32::NEG_INFINITY;
    lightness
        .filter(|&l| {
            let inverted = l < lightest - tolerance;
            lightest = lightest.max(l);
            inverted
        })
        .count()
}

/// Banding: levels kept on a smooth ramp, 0 to 1, relative to what the mapping's range allows.
///
/// `ramp` is the input in order, `mapped` its result. Allowed are as many levels as there are distinct inputs, but no
/// more than the widest channel of the output has codes between its least and its largest value: an 8-bit result
/// cannot show more. Kept are the distinct colours of the output. A map onto one colour has a range of one and keeps
/// it; its fault is for the other figures to find.
pub fn levels_kept(ramp: &[u32], mapped: &[u32]) -> f64 {
    let distinct = |list: &[u32]| {
        let mut keys: Vec<u32> = list.iter().map(|p| p & 0x00ff_ffff).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    let span = |shift: u32| {
        let codes = || mapped.iter().map(|p| (p >> shift & 255) as usize);
        codes().max().zip(codes().min()).map_or(0, |(high, low)| high - low + 1)
    };
    let allowed = span(0).max(span(8)).max(span(16)).min(distinct(ramp));
    if allowed == 0 { 1.0 } else { (distinct(mapped) as f64 / allowed as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inverted(packed: &u32) -> u32 {
        packed ^ 0x00ff_ffff
    }

    fn posterised(packed: &u32, levels: u32) -> u32 {
        let grey = (packed & 255) * levels / 256 * 255 / (levels - 1);
        Rgb8::new(grey as u8, grey as u8, grey as u8).packed()
    }

    #[test]
    fn inverted_lightness_has_no_order_left() {
        let ramp = grey_ramp();
        let turned = ramp.each_ref().map(inverted);
        let sample = Sample::new(&[1; 256], 256);
        assert!(lightness_correlation(&sample, &ramp, &turned) < -0.99);
        // Neighbours two codes apart, so that every step is an ordered one.
        let raster: Vec<u32> = (0..64 * 16usize).map(|i| ramp[64 + i % 64 * 3]).collect();
        let negative: Vec<u32> = raster.iter().map(inverted).collect();
        let order = neighbor_order(&raster, &negative, 64);
        assert_eq!((order.pairs, order.kept), (63 * 16, 0));
        assert_eq!(order.share(), 0.0);
        // The step from 255 to 254 is smaller than the tolerance; every later grey is below white by more.
        assert_eq!(ramp_inversions(&turned), 254);
    }

    #[test]
    fn the_identity_keeps_all_order_and_every_level() {
        let ramp = grey_ramp();
        let sample = Sample::new(&[1; 256], 256);
        assert!((lightness_correlation(&sample, &ramp, &ramp) - 1.0).abs() < 1e-9);
        let raster: Vec<u32> = (0..1024usize).map(|i| ramp[i.wrapping_mul(97) % 256]).collect();
        assert_eq!(neighbor_order(&raster, &raster, 32).share(), 1.0);
        assert_eq!(ramp_inversions(&ramp), 0);
        assert_eq!(levels_kept(&ramp, &ramp), 1.0);
    }

    #[test]
    fn rounding_alone_is_no_inversion() {
        // A dark, saturated ramp in CIELAB, rounded to codes: its lightness wobbles but never by a code's worth.
        for (a, b) in [(20.0, 10.0), (-15.0, 12.0), (8.0, -25.0), (0.0, 0.0)] {
            let ramp: Vec<u32> = (0..256).map(|i| Lab { l: 20.0 + i as f32 * 0.1, a, b }.to_rgb8().packed()).collect();
            assert_eq!(ramp_inversions(&ramp), 0, "{a} {b}");
        }
    }

    #[test]
    fn a_slow_descent_is_found_though_every_step_is_small() {
        let mut labs: Vec<Lab> = (0..50).map(|i| Lab { l: i as f32, a: 0.0, b: 0.0 }).collect();
        labs.extend((0..50).map(|i| Lab { l: 49.0 - i as f32 * 0.2, a: 0.0, b: 0.0 }));
        let mapped: Vec<u32> = labs.iter().map(|l| l.to_rgb8().packed()).collect();
        assert!(ramp_inversions(&mapped) > 40);
        assert_eq!(ramp_inversions_of_lab(&labs), 49);
    }

    #[test]
    fn four_levels_are_banding_and_a_narrow_range_is_not() {
        let ramp = grey_ramp();
        let four: Vec<u32> = ramp.iter().map(|p| posterised(p, 4)).collect();
        assert!(levels_kept(&ramp, &four) < 0.02);
        let narrow: Vec<u32> = ramp.iter().map(|p| posterised(&(100 + (p & 255) / 4), 256)).collect();
        assert_eq!(levels_kept(&ramp, &narrow), 1.0);
        let half_flat: Vec<u32> = ramp.iter().map(|p| ((p & 255).max(128) - 128) * 2 * 0x0001_0101).collect();
        assert!((levels_kept(&ramp, &half_flat) - 0.5).abs() < 0.01);
        assert_eq!(levels_kept(&ramp, &[0xff12_3456; 256]), 1.0);
        assert_eq!(levels_kept(&[], &[]), 1.0);
    }

    #[test]
    fn a_picture_of_one_lightness_has_no_order_to_lose() {
        let sample = Sample::new(&[1, 1], 2);
        let (flat, two) = ([0xff80_8080; 2], [0xff00_0000, 0xffff_ffff]);
        assert_eq!(lightness_correlation(&sample, &flat, &two), 1.0);
        assert_eq!(lightness_correlation(&sample, &two, &flat), 0.0);
        assert_eq!(neighbor_order(&flat, &two, 2).share(), 1.0);
    }
}
