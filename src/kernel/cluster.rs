//! Weighted k-means in CIELAB over a picture's colours.
//!
//! Sources: S. Lloyd 1982 (k-means); D. Arthur, S. Vassilvitskii 2007 (k-means++ seeding, greedy variant).
//! Colours are first gathered into 32³ RGB bins (mean Lab, summed weight): a photograph has about nine thousand
//! occupied bins, so that clustering costs a few milliseconds whatever the picture's size.

use rayon::prelude::*;

use super::color::Lab;
use super::simd::vectorize;

/// The most clusters a model has.
pub const MAX_CLUSTERS: usize = 10;

/// A weighted colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Its position.
    pub lab: Lab,
    /// How many pixels it stands for, above 0.
    pub weight: f32,
}

/// How clusters are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterOptions {
    /// Most Lloyd iterations, at least 1.
    pub max_iterations: u32,
    /// A further cluster must hold at least this share of the picture, 0..=1.
    pub min_share: f32,
    /// Clusters nearer to each other than this (ΔE 1976) become one.
    pub merge_distance: f32,
    /// Clusters that are tried before `min_share` decides.
    pub min_clusters: usize,
    /// The most clusters, at least 1; a model takes up to [`MAX_CLUSTERS`].
    pub max_clusters: usize,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { max_iterations: 50, min_share: 0.012, merge_distance: 9.0, min_clusters: 4, max_clusters: MAX_CLUSTERS }
    }
}

/// A cluster: its centre and its share of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Weighted mean of its colours.
    pub center: Lab,
    /// Share of the weight, 0..=1; shares add up to 1.
    pub share: f32,
}

/// Gathers colours (packed, with their Lab planes and counts) into 32³ bins, in order of the bins.
pub fn bins(colors: &[u32], labs: [&[f32]; 3], counts: &[u32]) -> Vec<Point> {
    let mut sums = vec![[0f32; 4]; 1 << 15];
    // Colours come in runs of one bin, whose sums are kept at hand.
    let (mut last, mut sum) = (0, [0f32; 4]);
    for (i, (&packed, &count)) in colors.iter().zip(counts).enumerate() {
        let [r, g, b, _] = packed.to_le_bytes();
        let bin = (r as usize >> 3) << 10 | (g as usize >> 3) << 5 | b as usize >> 3;
        if bin != last {
            sums[last] = sum;
            (last, sum) = (bin, sums[bin]);
        }
        let weight = count as f32;
        sum[0] += weight;
        sum[1] += weight * labs[0][i];
        sum[2] += weight * labs[1][i];
        sum[3] += weight * labs[2][i];
    }
    sums[last] = sum;
    sums.iter()
        .filter(|s| s[0] > 0.0)
        .map(|s| Point { lab: Lab { l: s[1] / s[0], a: s[2] / s[0], b: s[3] / s[0] }, weight: s[0] })
        .collect()
}

/// Weighted colours with the centres that k-means++ finds for one cluster, for two, and so on. Any number of
/// clusterings start from it.
///
/// It depends on the points alone: the draws' seed is a hash of them.
pub struct Seeding {
    points: Vec<Point>,
    cloud: Cloud,
    /// After each draw a few of Lloyd's iterations: entry i has i + 1 clusters, or fewer in the last entry when some lost
    /// all their points.
    path: Vec<Vec<Cluster>>,
}

impl Seeding {
    /// Seeds up to `most` clusters of `points`. No points give no clusters.
    pub fn new(points: Vec<Point>, most: usize) -> Self {
        let cloud = Cloud::new(&points);
        let mut random = SplitMix64::from_points(&points);
        let mut nearest = vec![f32::MAX; points.len()];
        let mut path: Vec<Vec<Cluster>> = Vec::with_capacity(most);
        let mut centers: Vec<Lab> = Vec::new();
        while centers.len() < most && !points.is_empty() {
            let Some(next) = cloud.draw(&nearest, centers.is_empty(), &mut random) else { break };
            centers.push(next);
            let clusters = cloud.lloyd(centers, 6);
            centers = clusters.iter().map(|c| c.center).collect();
            cloud.nearest_squared(&centers, &mut nearest);
            path.push(clusters);
            if centers.len() < path.len() {
                break;
            }
        }
        Self { points, cloud, path }
    }

    /// The points, as they were given.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Between 1 and `max_clusters` clusters, largest first, at most as many as were seeded; none without points.
    pub fn clusters(&self, options: &ClusterOptions) -> Vec<Cluster> {
        let mut chosen: &[Cluster] = &[];
        for trial in self.path.iter().take(options.max_clusters.max(1)) {
            let smallest = trial.iter().map(|c| c.share).fold(1.0, f32::min);
            let spread = trial.len() == chosen.len() + 1;
            if chosen.len() >= options.min_clusters && (!spread || smallest < options.min_share) {
                break;
            }
            chosen = trial;
        }
        if chosen.is_empty() {
            return Vec::new();
        }
        let centers = chosen.iter().map(|c| c.center).collect();
        let clusters = self.cloud.lloyd(centers, options.max_iterations);
        let mut merged = merge(clusters, options.merge_distance);
        debug_assert!((merged.iter().map(|c| f64::from(c.share)).sum::<f64>() - 1.0).abs() < 1e-3);
        merged.sort_by(|x, y| y.share.total_cmp(&x.share));
        merged
    }
}

/// The index of the nearest centre; the lowest index wins a tie.
pub fn nearest(clusters: &[Cluster], lab: Lab) -> usize {
    let mut best = (f32::MAX, 0);
    for (i, c) in clusters.iter().enumerate() {
        let d = c.center.distance_squared(lab);
        if d < best.0 {
            best = (d, i);
        }
    }
    best.1
}

/// The nearest of `centers` to every colour, given as planes of L, a and b; the lowest index wins a tie.
pub(crate) fn label(centers: &[Lab], [l, a, b]: [&[f32]; 3], labels: &mut [u32]) {
    const BLOCK: usize = 512;
    for (start, labels) in (0..l.len()).step_by(BLOCK).zip(labels.chunks_mut(BLOCK)) {
        let end = start + labels.len();
        let (l, a, b) = (&l[start..end], &a[start..end], &b[start..end]);
        let mut best = [0f32; BLOCK];
        vectorize(
            #[inline(always)]
            || {
                let best = &mut best[..labels.len()];
                best.fill(f32::MAX);
                for (i, &c) in centers.iter().enumerate() {
                    for ((((best, label), &l), &a), &b) in best.iter_mut().zip(&mut *labels).zip(l).zip(a).zip(b) {
                        let d = c.distance_squared(Lab { l, a, b });
                        let nearer = d < *best;
                        *label = if nearer { i as u32 } else { *label };
                        *best = if nearer { d } else { *best };
                    }
                }
            },
        );
    }
}

/// Points per partial sum: fixed, so that sums are added in one order on any number of threads.
const CHUNK: usize = 2048;
/// Sums that are carried side by side in vector loops, whatever the processor's width.
const LANES: usize = 16;

/// Weighted colours, one plane a coordinate, so that loops over them vectorise.
struct Cloud {
    l: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    weight: Vec<f32>,
}

impl Cloud {
    fn new(points: &[Point]) -> Self {
        let plane = |of: fn(&Point) -> f32| points.iter().map(of).collect();
        Self { l: plane(|p| p.lab.l), a: plane(|p| p.lab.a), b: plane(|p| p.lab.b), weight: plane(|p| p.weight) }
    }

    fn len(&self) -> usize {
        self.l.len()
    }

    fn get(&self, i: usize) -> Lab {
        Lab { l: self.l[i], a: self.a[i], b: self.b[i] }
    }

    /// Squared distance from every point to the nearest of `centers`.
    fn nearest_squared(&self, centers: &[Lab], out: &mut [f32]) {
        vectorize(
            #[inline(always)]
            || {
                out.fill(f32::MAX);
                for &c in centers {
                    for (((d, &l), &a), &b) in out.iter_mut().zip(&self.l).zip(&self.a).zip(&self.b) {
                        *d = d.min(c.distance_squared(Lab { l, a, b }));
                    }
                }
            },
        );
    }

    /// Draws the next seed: of eight candidates drawn by weight × squared distance, the one that lowers the sum most.
    fn draw(&self, nearest: &[f32], first: bool, random: &mut SplitMix64) -> Option<Lab> {
        let mut total = 0f64;
        let cumulated: Vec<f64> = self
            .weight
            .iter()
            .zip(nearest)
            .map(|(&weight, &d)| {
                total += f64::from(if first { weight } else { weight * d });
                total
            })
            .collect();
        if total <= 1e-9 {
            return None;
        }
        let mut picks: Vec<usize> = Vec::with_capacity(8);
        for _ in 0..8 {
            let mark = random.unit() * total;
            let pick = cumulated.partition_point(|&sum| sum < mark).min(self.len() - 1);
            if !picks.contains(&pick) {
                picks.push(pick);
            }
        }
        let scores: Vec<f64> = picks.par_iter().map(|&p| self.potential(nearest, self.get(p))).collect();
        let best = (0..picks.len()).min_by(|&x, &y| scores[x].total_cmp(&scores[y]))?;
        Some(self.get(picks[best]))
    }

    /// Weighted sum of squared distances once `center` is among the centres.
    fn potential(&self, nearest: &[f32], center: Lab) -> f64 {
        let mut sums = [0f64; LANES];
        vectorize(
            #[inline(always)]
            || {
                let whole = self.len() / LANES * LANES;
                for i in (0..whole).step_by(LANES) {
                    let (l, a, b) = (&self.l[i..i + LANES], &self.a[i..i + LANES], &self.b[i..i + LANES]);
                    let (weight, nearest) = (&self.weight[i..i + LANES], &nearest[i..i + LANES]);
                    for n in 0..LANES {
                        let lab = Lab { l: l[n], a: a[n], b: b[n] };
                        sums[n] += f64::from(weight[n] * nearest[n].min(center.distance_squared(lab)));
                    }
                }
                for (n, i) in (whole..self.len()).enumerate() {
                    sums[n] += f64::from(self.weight[i] * nearest[i].min(center.distance_squared(self.get(i))));
                }
            },
        );
        sums.iter().sum()
    }

    /// Lloyd's iterations until no centre moves by ΔE 0.01 or more. Centres that lose all their points vanish.
    fn lloyd(&self, mut centers: Vec<Lab>, max_iterations: u32) -> Vec<Cluster> {
        let mut shares = Vec::new();
        for _ in 0..max_iterations.max(1) {
            let k = centers.len();
            let partials: Vec<Vec<[f64; 4]>> = (0..self.len().div_ceil(CHUNK))
                .into_par_iter()
                .map(|chunk| {
                    let points = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.len());
                    let mut labels = [0u32; CHUNK];
                    let labels = &mut labels[..points.len()];
                    let planes = [&self.l, &self.a, &self.b].map(|plane| &plane[points.clone()]);
                    label(&centers, planes, labels);
                    let mut sums = vec![[0f64; 4]; k];
                    for (i, &label) in points.zip(&*labels) {
                        let (w, sum) = (f64::from(self.weight[i]), &mut sums[label as usize]);
                        sum[0] += w;
                        sum[1] += w * f64::from(self.l[i]);
                        sum[2] += w * f64::from(self.a[i]);
                        sum[3] += w * f64::from(self.b[i]);
                    }
                    sums
                })
                .collect();
            let mut sums = vec![[0f64; 4]; k];
            for partial in &partials {
                for (sum, part) in sums.iter_mut().zip(partial) {
                    for (x, y) in sum.iter_mut().zip(part) {
                        *x += y;
                    }
                }
            }
            let total: f64 = sums.iter().map(|s| s[0]).sum();
            let mut moved = 0f32;
            let mut next = Vec::with_capacity(k);
            shares.clear();
            for (sum, &old) in sums.iter().zip(&centers) {
                if sum[0] > 0.0 {
                    let center =
                        Lab { l: (sum[1] / sum[0]) as f32, a: (sum[2] / sum[0]) as f32, b: (sum[3] / sum[0]) as f32 };
                    moved = moved.max(center.distance(old));
                    next.push(center);
                    shares.push((sum[0] / total) as f32);
                } else {
                    moved = f32::MAX;
                }
            }
            centers = next;
            if moved < 0.01 {
                break;
            }
        }
        centers.into_iter().zip(shares).map(|(center, share)| Cluster { center, share }).collect()
    }
}

/// Merges the two nearest clusters until all are at least `distance` apart.
fn merge(mut clusters: Vec<Cluster>, distance: f32) -> Vec<Cluster> {
    loop {
        let mut best = (distance, 0, 0);
        for i in 0..clusters.len() {
            for j in i + 1..clusters.len() {
                let d = clusters[i].center.distance(clusters[j].center);
                if d < best.0 {
                    best = (d, i, j);
                }
            }
        }
        if best.1 == best.2 {
            return clusters;
        }
        let gone = clusters.remove(best.2);
        let kept = &mut clusters[best.1];
        let share = kept.share + gone.share;
        kept.center = kept.center.lerp(gone.center, gone.share / share);
        kept.share = share;
    }
}

/// The SplitMix64 generator (Steele, Lea, Flood 2014): small, seedable, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn from_points(points: &[Point]) -> Self {
        // FNV-1a over the bits of every point.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for p in points {
            for bits in [p.lab.l, p.lab.a, p.lab.b, p.weight].map(f32::to_bits) {
                hash = (hash ^ u64::from(bits)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Self(hash)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(points: &[Point]) -> Vec<Cluster> {
        Seeding::new(points.to_vec(), MAX_CLUSTERS).clusters(&ClusterOptions::default())
    }

    fn blob(center: Lab, count: usize, radius: f32, seed: u64) -> Vec<Point> {
        let mut random = SplitMix64::new(seed);
        let mut jitter = || (random.unit() as f32 - 0.5) * 2.0 * radius;
        (0..count)
            .map(|_| Point {
                lab: Lab { l: center.l + jitter(), a: center.a + jitter(), b: center.b + jitter() },
                weight: 1.0,
            })
            .collect()
    }

    #[test]
    fn separate_blobs_are_found_with_their_shares() {
        let centers =
            [(20.0, 0.0, 0.0, 100), (60.0, 50.0, 20.0, 200), (90.0, -10.0, 40.0, 300), (50.0, -40.0, 0.0, 400)];
        let points: Vec<Point> =
            centers.iter().flat_map(|&(l, a, b, n)| blob(Lab { l, a, b }, n, 3.0, n as u64)).collect();
        let found = clusters(&points);
        assert_eq!(found.len(), 4);
        for (c, &(l, a, b, n)) in found.iter().zip(centers.iter().rev()) {
            assert!(c.center.distance(Lab { l, a, b }) < 1.0);
            assert!((c.share - n as f32 / 1000.0).abs() < 1e-4);
        }
    }

    #[test]
    fn one_color_is_one_cluster_and_none_is_none() {
        let one = [Point { lab: Lab { l: 40.0, a: 1.0, b: 2.0 }, weight: 9.0 }];
        assert_eq!(clusters(&one).len(), 1);
        assert!(clusters(&[]).is_empty());
    }

    #[test]
    fn the_thread_count_changes_nothing() {
        let points: Vec<Point> = (0..8)
            .flat_map(|i| {
                blob(Lab { l: 10.0 * i as f32, a: (i * 37 % 60) as f32, b: (i * 53 % 70) as f32 }, 3000, 9.0, i)
            })
            .collect();
        let run = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| clusters(&points))
        };
        assert_eq!(run(1), run(4));
    }
}
