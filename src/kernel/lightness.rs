//! Lightness of the soft map: a rising curve through the clusters, soft ends of the scale, and the nearest rising sequence.

use super::color::Lab;

/// Limits of the slope of lightness: flatter than the first loses texture, steeper than the second adds noise.
pub const SLOPE_LIMITS: (f32, f32) = (0.45, 1.15);

/// Soft ends of the lightness scale: what would pass white or black is bent into the room that is left, so that light
/// and dark detail is compressed instead of clipped. Without overshoot nothing bends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Knees {
    /// Lightness where bending starts, and how strongly, at the light end.
    high: (f32, f32),
    /// The same at the dark end.
    low: (f32, f32),
}

/// Lightness that bent colours keep from white and black.
const KNEE_MARGIN: f32 = 0.5;

impl Knees {
    pub(super) const NONE: Self = Self { high: (100.0, 0.0), low: (0.0, 0.0) };

    /// Bends `lowest..=highest` into the scale, leaving everything between the extreme targets straight.
    pub(super) fn new(lowest: f32, highest: f32, targets: &[Lab]) -> Self {
        let top = targets.iter().map(|t| t.l).fold(85.0, f32::max).min(100.0 - 2.0 * KNEE_MARGIN);
        let bottom = targets.iter().map(|t| t.l).fold(15.0, f32::min).max(2.0 * KNEE_MARGIN);
        // Without overshoot nothing bends: a picture's own white and black stay.
        let bend = |over: f32, room: f32| {
            if over > room + KNEE_MARGIN + 0.1 { 1.0 / room - 1.0 / over } else { 0.0 }
        };
        Self {
            high: (top, bend(highest - top, 100.0 - KNEE_MARGIN - top)),
            low: (bottom, bend(bottom - lowest, bottom - KNEE_MARGIN)),
        }
    }

    #[inline(always)]
    pub(super) fn apply(&self, l: f32) -> f32 {
        let over = (l - self.high.0).max(0.0);
        let under = (self.low.0 - l).max(0.0);
        l - over + over / (1.0 + over * self.high.1) + under - under / (1.0 + under * self.low.1)
    }
}

/// Lightness as a function of lightness, in 256 steps of the scale: rising, with bounded slopes, and near to what the
/// clusters' targets ask for. Soft weights add only what is missing.
///
/// Following the targets by weights alone would do too, but their weights depend on hue and chroma, so that noise there
/// would disturb the order of lightness.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve(Box<[f32; 256]>);

/// How much steeper than on the whole the curve may be between two clusters.
const CURVE_STEEPER: f32 = 1.25;
/// Knots of the curve are rounded off over so many steps to either side.
const CURVE_ROUNDING: usize = 6;

impl Curve {
    /// Through lightness, wanted lightness and share of each cluster; beyond the outermost it goes on with `slope`.
    pub(super) fn new(clusters: impl Iterator<Item = (f32, f32, f32)>, slope: f32) -> Self {
        let mut knots: Vec<(f32, f32, f32)> = clusters.collect();
        knots.sort_by(|x, y| x.0.total_cmp(&y.0));
        let least = SLOPE_LIMITS.0;
        let most = (CURVE_STEEPER * slope).clamp(least, SLOPE_LIMITS.1);
        // The nearest sequence that rises fast enough; then each rise is limited, and what is cut off is not made up for
        // (making up for it keeps less order).
        let rest: Vec<(f32, f32)> = knots.iter().map(|&(from, to, share)| (to - least * from, share)).collect();
        let rising: Vec<f32> = isotonic(&rest).iter().zip(&knots).map(|(rest, knot)| rest + least * knot.0).collect();
        let mut line: Vec<f32> = Vec::with_capacity(knots.len());
        for (i, &to) in rising.iter().enumerate() {
            line.push(match line.last() {
                None => to,
                Some(&last) => {
                    let run = knots[i].0 - knots[i - 1].0;
                    last + (to - rising[i - 1]).clamp(least * run, most * run)
                }
            });
        }
        let total: f32 = knots.iter().map(|k| k.2).sum();
        let miss: f32 = knots.iter().zip(&line).map(|(k, at)| k.2 * (k.1 - at)).sum::<f32>() / total.max(1e-9);
        let straight = |l: f32| -> f32 {
            let (Some(first), Some(last)) = (knots.first(), knots.last()) else { return l };
            let (low, high) = (line[0] + miss, line[line.len() - 1] + miss);
            if l <= first.0 {
                return low + slope * (l - first.0);
            }
            if l >= last.0 {
                return high + slope * (l - last.0);
            }
            let i = knots.partition_point(|k| k.0 < l).max(1);
            let run = knots[i].0 - knots[i - 1].0;
            let t = if run > 0.0 { (l - knots[i - 1].0) / run } else { 0.0 };
            line[i - 1] + t * (line[i] - line[i - 1]) + miss
        };
        let steps = 0..256 + 2 * CURVE_ROUNDING;
        let sharp: Vec<f32> = steps.map(|i| straight((i as f32 - CURVE_ROUNDING as f32) / 2.55)).collect();
        let window = 2 * CURVE_ROUNDING + 1;
        let mean = |i: usize| sharp[i..i + window].iter().sum::<f32>() / window as f32;
        Self(Box::new(std::array::from_fn(mean)))
    }

    /// Lightness at 256 steps from 0 to 100.
    pub(super) fn steps(&self) -> &[f32; 256] {
        &self.0
    }

    /// Lightness at `l`, between the steps.
    pub(super) fn at(&self, l: f32) -> f32 {
        let at = (l * 2.55).clamp(0.0, 255.0);
        let low = at.floor();
        let (from, to) = (self.0[low as usize], self.0[(low as usize + 1).min(255)]);
        from + (at - low) * (to - from)
    }
}

/// The nearest non-decreasing sequence to weighted values in the least-squares sense (pool adjacent violators, Ayer et
/// al. 1955).
pub(super) fn isotonic(values: &[(f32, f32)]) -> Vec<f32> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(values.len());
    for &(v, weight) in values {
        let mut pool = (f64::from(v), f64::from(weight.max(1e-6)), 1);
        while let Some(&last) = pools.last()
            && last.0 > pool.0
        {
            pools.pop();
            let weight = last.1 + pool.1;
            pool = ((last.0 * last.1 + pool.0 * pool.1) / weight, weight, last.2 + pool.2);
        }
        pools.push(pool);
    }
    pools.into_iter().flat_map(|(mean, _, count)| std::iter::repeat_n(mean as f32, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_rises_within_its_slopes_and_meets_targets_that_allow_it() {
        // Lightness, wanted lightness, share: in order; against the order; too far apart.
        let reachable = [(20.0, 25.0, 0.5), (50.0, 50.0, 0.3), (90.0, 80.0, 0.2)];
        let against = [(20.0, 70.0, 0.5), (50.0, 30.0, 0.3), (90.0, 80.0, 0.2)];
        let steep = [(40.0, 5.0, 0.5), (50.0, 50.0, 0.3), (60.0, 95.0, 0.2)];
        for knots in [&reachable, &against, &steep] {
            let curve = Curve::new(knots.iter().copied(), 0.8);
            for pair in curve.0.windows(2) {
                let slope = (pair[1] - pair[0]) * 2.55;
                assert!((SLOPE_LIMITS.0 - 1e-3..=SLOPE_LIMITS.1 + 1e-3).contains(&slope), "{knots:?}: {slope}");
            }
        }
        let curve = Curve::new(reachable.into_iter(), 0.8);
        assert!(reachable.iter().all(|k| (curve.at(k.0) - k.1).abs() < 0.6), "{curve:?}");
        // What lies in order already stays as it is.
        let straight = Curve::new([(20.0, 20.0, 0.5), (70.0, 70.0, 0.5)].into_iter(), 1.0);
        assert!((0..=100).all(|l| (straight.at(l as f32) - l as f32).abs() < 1e-3));
    }

    #[test]
    fn pools_of_violators_become_their_mean() {
        assert_eq!(isotonic(&[1.0, 3.0, 2.0, 4.0].map(|v| (v, 1.0))), [1.0, 2.5, 2.5, 4.0]);
        assert_eq!(isotonic(&[(3.0, 1.0), (2.0, 1.0), (0.0, 2.0)]), [1.25, 1.25, 1.25]);
    }
}
