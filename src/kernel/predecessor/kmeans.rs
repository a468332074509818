//! Weighted k-means for the predecessor's two modes: best of several seeded attempts, over distinct colours.
//!
//! The predecessor ran ten attempts over every pixel. Here the attempts run on a coarse histogram, the most promising
//! are finished on a finer one, and every distinct colour is labelled by its nearest centre. Bins hold the exact
//! mean and weight of their colours, so only colours whose bin straddles a border can weigh on the wrong side.

use rayon::prelude::*;

/// Most samples the attempts run on.
const DRAFT_SAMPLES: usize = 4096;
/// Most samples the best attempts are finished on.
const FINAL_SAMPLES: usize = 16_384;
/// Attempts that are finished.
const FINALISTS: usize = 3;
/// Samples whose distances are computed together, so that the compiler can use vectors.
const BLOCK: usize = 64;

/// A point and its weight.
pub(super) type Weighted = ([f32; 3], f64);

/// How long to search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) seed: u64,
    pub(super) attempts: u32,
    pub(super) max_iterations: u32,
    /// An attempt ends when no centre moves further.
    pub(super) epsilon: f32,
}

/// Steele, Lea, Flood 2014: a full-period generator from one word of state.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 ≤ u < 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Points by coordinate.
struct Samples {
    axes: [Vec<f32>; 3],
    weights: Vec<f64>,
}

impl Samples {
    fn collect(points: impl Iterator<Item = Weighted>) -> Self {
        let mut samples = Self { axes: Default::default(), weights: Vec::new() };
        for (point, weight) in points {
            for (axis, v) in samples.axes.iter_mut().zip(point) {
                axis.push(v);
            }
            samples.weights.push(weight);
        }
        samples
    }

    /// The points themselves while there are at most `limit`, else the means of the finest bins that few are filled of.
    fn at_most(limit: usize, points: impl Iterator<Item = Weighted> + Clone) -> Self {
        if points.clone().take(limit + 1).count() <= limit {
            return Self::collect(points);
        }
        let mut bits = 6;
        loop {
            let binned = Self::binned(bits, points.clone());
            if binned.len() <= limit || bits == 3 {
                return binned;
            }
            bits -= 1;
        }
    }

    /// Means and weights of the filled bins of `bits` bits a coordinate, in order of first appearance.
    fn binned(bits: u32, points: impl Iterator<Item = Weighted>) -> Self {
        let mut slots = vec![u32::MAX; 1 << (3 * bits)];
        let mut sums: Vec<[f64; 4]> = Vec::new();
        for (point, weight) in points {
            let bin = point.iter().fold(0, |bin, &v| (bin << bits) | usize::from(v as u8 >> (8 - bits)));
            if slots[bin] == u32::MAX {
                slots[bin] = sums.len() as u32;
                sums.push([0.0; 4]);
            }
            let sum = &mut sums[slots[bin] as usize];
            for (total, v) in sum.iter_mut().zip(point) {
                *total += weight * f64::from(v);
            }
            sum[3] += weight;
        }
        Self::collect(sums.iter().map(|&[x, y, z, w]| ([x, y, z].map(|v| (v / w) as f32), w)))
    }

    fn len(&self) -> usize {
        self.weights.len()
    }

    fn point(&self, i: usize) -> [f32; 3] {
        std::array::from_fn(|axis| self.axes[axis][i])
    }

    fn iter(&self) -> impl Iterator<Item = Weighted> + Clone {
        (0..self.len()).map(|i| (self.point(i), self.weights[i]))
    }

    /// k-means++ (Arthur, Vassilvitskii 2007): at most `k` centres, fewer when there are fewer distinct points.
    fn seed(&self, k: usize, rng: &mut SplitMix64) -> Vec<[f32; 3]> {
        let mut chances = self.weights.clone();
        let mut nearest = vec![f32::INFINITY; self.len()];
        let mut centres = Vec::with_capacity(k);
        while centres.len() < k {
            let total: f64 = chances.iter().sum();
            if total <= 0.0 {
                break;
            }
            let mut left = rng.unit() * total;
            let chosen = chances.iter().position(|&chance| {
                left -= chance;
                left < 0.0
            });
            // Rounding can leave a crumb; the last point with a chance takes it.
            let Some(chosen) = chosen.or_else(|| chances.iter().rposition(|&chance| chance > 0.0)) else { break };
            let centre = self.point(chosen);
            centres.push(centre);
            for (i, d) in nearest.iter_mut().enumerate() {
                *d = d.min(distance_squared(self.point(i), centre));
                chances[i] = self.weights[i] * f64::from(*d);
            }
        }
        centres
    }

    /// Calls `visit(sample, label, squared distance)` for every sample, in order.
    fn assign(&self, centres: &[[f32; 3]], mut visit: impl FnMut(usize, usize, f32)) {
        let [xs, ys, zs] = &self.axes;
        let blocks = xs.chunks(BLOCK).zip(ys.chunks(BLOCK)).zip(zs.chunks(BLOCK));
        for (block, ((xs, ys), zs)) in blocks.enumerate() {
            let mut best = [f32::INFINITY; BLOCK];
            let mut labels = [0u32; BLOCK];
            for (label, &[cx, cy, cz]) in centres.iter().enumerate() {
                for ((((x, y), z), best), chosen) in xs.iter().zip(ys).zip(zs).zip(&mut best).zip(&mut labels) {
                    let (dx, dy, dz) = (x - cx, y - cy, z - cz);
                    let d = dx * dx + dy * dy + dz * dz;
                    let closer = d < *best;
                    *best = if closer { d } else { *best };
                    *chosen = if closer { label as u32 } else { *chosen };
                }
            }
            for i in 0..xs.len() {
                visit(block * BLOCK + i, labels[i] as usize, best[i]);
            }
        }
    }

    /// Lloyd's iterations from given centres; the centres reached and the weighted sum of squared distances to them.
    fn lloyd(&self, mut centres: Vec<[f32; 3]>, effort: &Effort) -> (Vec<[f32; 3]>, f64) {
        for _ in 0..effort.max_iterations {
            let mut sums = vec![[0.0f64; 4]; centres.len()];
            let mut farthest = (0.0, 0);
            self.assign(&centres, |i, label, d| {
                let weight = self.weights[i];
                let sum = &mut sums[label];
                for (total, axis) in sum.iter_mut().zip(&self.axes) {
                    *total += weight * f64::from(axis[i]);
                }
                sum[3] += weight;
                let cost = weight * f64::from(d);
                if cost > farthest.0 {
                    farthest = (cost, i);
                }
            });
            let mut moved = 0.0f32;
            for (centre, [x, y, z, weight]) in centres.iter_mut().zip(sums) {
                let next = if weight > 0.0 {
                    [x, y, z].map(|v| (v / weight) as f32)
                } else {
                    // Nobody is left here: start again where the fit is worst.
                    self.point(farthest.1)
                };
                moved = moved.max(distance_squared(*centre, next));
                *centre = next;
            }
            if moved <= effort.epsilon * effort.epsilon {
                break;
            }
        }
        let mut inertia = 0.0;
        self.assign(&centres, |i, _, d| inertia += self.weights[i] * f64::from(d));
        (centres, inertia)
    }
}

#[inline(always)]
fn distance_squared(a: [f32; 3], b: [f32; 3]) -> f32 {
    let (x, y, z) = (a[0] - b[0], a[1] - b[1], a[2] - b[2]);
    x * x + y * y + z * z
}

/// Index of the nearest centre and the squared distance to it; the first of equals, 0 when there are none.
#[inline(always)]
pub(super) fn nearest(centres: &[[f32; 3]], point: [f32; 3]) -> (u8, f32) {
    let mut best = (0u8, f32::INFINITY);
    for (i, &centre) in centres.iter().enumerate() {
        let d = distance_squared(point, centre);
        if d < best.1 {
            best = (i as u8, d);
        }
    }
    best
}

/// At most `k` centres (1..=255) of weighted points with coordinates 0..=255, ordered by coordinate sum, then by
/// coordinates. Fewer when there are fewer distinct points, none when there are no points. The same for any number of
/// threads.
pub(super) fn centres(points: impl Iterator<Item = Weighted> + Clone, k: usize, effort: &Effort) -> Vec<[f32; 3]> {
    let k = k.clamp(1, 255);
    let fine = Samples::at_most(FINAL_SAMPLES, points);
    let coarse;
    let draft = if fine.len() > DRAFT_SAMPLES {
        coarse = Samples::at_most(DRAFT_SAMPLES, fine.iter());
        &coarse
    } else {
        &fine
    };
    let attempts: Vec<u32> = (0..effort.attempts.max(1)).collect();
    let mut drafts: Vec<(Vec<[f32; 3]>, f64)> = attempts
        .into_par_iter()
        .map(|attempt| {
            let mut rng = SplitMix64(effort.seed ^ (u64::from(attempt) << 32));
            draft.lloyd(draft.seed(k, &mut rng), effort)
        })
        .collect();
    // Stable, so attempts of equal inertia stay in order.
    drafts.sort_by(|a, b| a.1.total_cmp(&b.1));
    drafts.truncate(FINALISTS);
    let finished: Vec<_> = if std::ptr::eq(draft, &fine) {
        drafts
    } else {
        drafts.into_par_iter().map(|(centres, _)| fine.lloyd(centres, effort)).collect()
    };
    let best = finished.into_iter().reduce(|best, next| if next.1 < best.1 { next } else { best });
    let mut centres = best.map(|(centres, _)| centres).unwrap_or_default();
    centres.sort_by(|a, b| {
        let sum = |c: &[f32; 3]| c[0] + c[1] + c[2];
        sum(a).total_cmp(&sum(b)).then_with(|| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
    });
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort { seed: 1, attempts: 10, max_iterations: 100, epsilon: 0.1 };

    #[test]
    fn separate_groups_get_their_weighted_means() {
        let groups: Vec<Weighted> = [(10.0, 1.0), (12.0, 3.0), (200.0, 2.0), (206.0, 2.0)]
            .into_iter()
            .map(|(v, weight)| ([v, v / 2.0, 0.0], weight))
            .collect();
        let found = centres(groups.iter().copied(), 2, &EFFORT);
        assert_eq!(found, [[11.5, 5.75, 0.0], [203.0, 101.5, 0.0]]);
    }

    #[test]
    fn fewer_distinct_points_than_clusters_give_one_centre_each() {
        let twice: Vec<Weighted> = [40.0, 90.0, 40.0].into_iter().map(|v| ([v; 3], 1.0)).collect();
        assert_eq!(centres(twice.into_iter(), 5, &EFFORT), [[40.0; 3], [90.0; 3]]);
        assert_eq!(centres(std::iter::empty(), 5, &EFFORT), <[[f32; 3]; 0]>::default());
    }

    #[test]
    fn bins_keep_the_weight_and_the_mean() {
        let points =
            || (0..40_000u32).map(|i| ([(i % 251) as f32, (i % 241) as f32, (i % 7) as f32], f64::from(i % 3 + 1)));
        let moments = |samples: &Samples| {
            samples.iter().fold([0.0; 4], |[x, y, z, w], (p, weight)| {
                let [px, py, pz] = p.map(|v| f64::from(v) * weight);
                [x + px, y + py, z + pz, w + weight]
            })
        };
        let (all, binned) = (Samples::collect(points()), Samples::at_most(500, points()));
        assert!(binned.len() <= 500 && binned.len() > 100, "{} bins", binned.len());
        for (a, b) in moments(&all).into_iter().zip(moments(&binned)) {
            assert!((a - b).abs() < 1e-5 * a, "{a} became {b}");
        }
    }

    #[test]
    fn an_emptied_cluster_starts_again_where_the_fit_is_worst() {
        let samples = Samples::collect([10.0, 20.0, 240.0].into_iter().map(|v| ([v; 3], 1.0)));
        let (found, inertia) = samples.lloyd(vec![[15.0; 3], [-500.0; 3]], &EFFORT);
        assert_eq!(found, [[15.0; 3], [240.0; 3]]);
        assert_eq!(inertia, 150.0);
    }
}
