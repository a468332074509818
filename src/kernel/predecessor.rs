//! The predecessor's two looks, `transfer` and `faithful`, made once per picture instead of once per palette.
//!
//! Both moved every pixel by a rule that depends on nothing but its colour, so here they are tables over the picture's
//! distinct colours. The arithmetic is OpenCV's 8-bit arithmetic; the clustering is seeded and gives the same result
//! on any number of threads. The predecessor's own pipeline, run by OpenCV, is the oracle of the `opencv` feature.

mod eight_bit;
mod kmeans;

use rayon::prelude::*;

use self::eight_bit::{EightBit, blend_three_quarters, rgb_of_hsv};
use self::kmeans::{Effort, Weighted};
use super::color::Rgb8;
use super::palette::Palette;

/// Colours a worker thread takes at a time.
const CHUNK: usize = 16 * 1024;
/// Share of a cluster's Lab difference that its colours are moved by, in `transfer`.
const TRANSFER_WEIGHTS: [f32; 3] = [0.7, 1.0, 1.0];
/// Saturation after `transfer`, against before.
const TRANSFER_SATURATION: f32 = 1.2;
/// Where a `transfer` attempt stops, in BGR codes.
const TRANSFER_EPSILON: f32 = 0.2;
/// Where a `faithful` attempt stops, in 8-bit Lab codes.
const FAITHFUL_EPSILON: f32 = 0.1;

/// How hard to look for clusters. The default is the predecessor's: ten attempts of at most 100 iterations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Decides the attempts' starting points; take it from the picture's content.
    pub seed: u64,
    /// Attempts, of which the best is kept; 0 counts as 1.
    pub attempts: u32,
    /// Most iterations of an attempt; 0 leaves the centres where they were seeded.
    pub max_iterations: u32,
}

impl Default for Search {
    fn default() -> Self {
        Self { seed: 0, attempts: 10, max_iterations: 100 }
    }
}

impl Search {
    fn with_epsilon(self, epsilon: f32) -> Effort {
        Effort { seed: self.seed, attempts: self.attempts, max_iterations: self.max_iterations, epsilon }
    }
}

/// Clusters of a picture's distinct colours in one 8-bit colour space.
#[derive(Debug, Clone)]
struct Clusters {
    centres: Vec<[f32; 3]>,
    /// Share of the pixels, 0..=1, per centre.
    shares: Vec<f64>,
    inertia: f64,
}

impl Clusters {
    /// Labels every point and measures the clusters. Labels come back in the order of the points.
    fn label(centres: Vec<[f32; 3]>, points: &[[u8; 3]], counts: &[u32]) -> (Self, Vec<u8>) {
        let labelled: Vec<(u8, f32)> = points
            .par_iter()
            .with_min_len(CHUNK)
            .map(|&point| kmeans::nearest(&centres, point.map(f32::from)))
            .collect();
        let mut shares = vec![0.0; centres.len()];
        let (mut inertia, mut total) = (0.0, 0.0);
        for (&(label, d), &count) in labelled.iter().zip(counts) {
            let weight = f64::from(count);
            inertia += weight * f64::from(d);
            total += weight;
            if let Some(share) = shares.get_mut(usize::from(label)) {
                *share += weight;
            }
        }
        if total > 0.0 {
            shares.iter_mut().for_each(|share| *share /= total);
        }
        (Self { centres, shares, inertia }, labelled.into_iter().map(|(label, _)| label).collect())
    }

    /// From, to and share per cluster, the largest share first.
    fn mapping(&self, from: impl Fn([f32; 3]) -> Rgb8, targets: &[Rgb8]) -> Vec<(Rgb8, Rgb8, f64)> {
        let entries = self.centres.iter().zip(targets).zip(&self.shares);
        let mut mapping: Vec<_> = entries.map(|((&centre, &to), &share)| (from(centre), to, share)).collect();
        mapping.sort_by(|a, b| b.2.total_cmp(&a.2));
        mapping
    }
}

fn weighted<'a>(points: &'a [[u8; 3]], counts: &'a [u32]) -> impl Iterator<Item = Weighted> + Clone + 'a {
    let filled = points.iter().zip(counts).filter(|&(_, &count)| count > 0);
    filled.map(|(point, &count)| (point.map(f32::from), f64::from(count)))
}

/// Blue, green, red: the order in which the predecessor clustered.
fn bgr(color: Rgb8) -> [u8; 3] {
    [color.b, color.g, color.r]
}

/// Centres were stored back into 8 bits by truncation.
fn truncated(centre: [f32; 3]) -> [u8; 3] {
    centre.map(|v| v as u8)
}

fn from_bgr([b, g, r]: [u8; 3]) -> Rgb8 {
    Rgb8 { r, g, b }
}

/// Maps every packed colour, alpha kept, moved from the original by `strength` (0..=1; anything else is clipped to it).
fn mapped(colors: &[u32], strength: f32, map: impl Fn(usize, Rgb8) -> Rgb8 + Sync) -> Vec<u32> {
    if strength.is_nan() || strength <= 0.0 {
        return colors.to_vec();
    }
    let lerp = |old: u8, new: u8| {
        let (old, new) = (f32::from(old), f32::from(new));
        (old + strength.min(1.0) * (new - old)).round() as u8
    };
    let move_color = |(i, &packed): (usize, &u32)| {
        let old = Rgb8::from_packed(packed);
        let new = map(i, old);
        let new =
            if strength < 1.0 { Rgb8::new(lerp(old.r, new.r), lerp(old.g, new.g), lerp(old.b, new.b)) } else { new };
        (new.packed() & 0x00ff_ffff) | (packed & 0xff00_0000)
    };
    colors.par_iter().enumerate().with_min_len(CHUNK).map(move_color).collect()
}

/// Clusters for mode `transfer`: k-means in BGR, then a shift of every colour by its cluster's Lab difference.
#[derive(Debug, Clone)]
pub struct TransferModel {
    clusters: Clusters,
    colors: Vec<u32>,
    /// 8-bit Lab and label per colour.
    codes: Vec<[u8; 4]>,
}

impl TransferModel {
    /// How many clusters the predecessor took for a palette of `palette_len` colours: min(5, n).
    pub fn cluster_count(palette_len: usize) -> usize {
        palette_len.min(5)
    }

    /// Clusters packed RGBA `colors` (distinct, in a fixed order) by how often each occurs, one count per colour. `k`
    /// is 1..=255; pictures of fewer colours get fewer clusters, and no colours make an empty model.
    pub fn new(colors: &[u32], counts: &[u32], k: usize, search: &Search) -> Self {
        let points: Vec<[u8; 3]> = colors.iter().map(|&c| bgr(Rgb8::from_packed(c))).collect();
        let centres = kmeans::centres(weighted(&points, counts), k, &search.with_epsilon(TRANSFER_EPSILON));
        Self::label(colors, counts, &points, centres)
    }

    /// The model of given centres (blue, green, red, 0..=255; at most 255), each colour belonging to the nearest.
    pub fn with_centres(colors: &[u32], counts: &[u32], centres: &[[f32; 3]]) -> Self {
        let points: Vec<[u8; 3]> = colors.iter().map(|&c| bgr(Rgb8::from_packed(c))).collect();
        Self::label(colors, counts, &points, centres.iter().take(255).copied().collect())
    }

    fn label(colors: &[u32], counts: &[u32], points: &[[u8; 3]], centres: Vec<[f32; 3]>) -> Self {
        let (clusters, labels) = Clusters::label(centres, points, counts);
        let space = EightBit::shared();
        let codes = points
            .par_iter()
            .zip(&labels)
            .with_min_len(CHUNK)
            .map(|(&point, &label)| {
                let [l, a, b] = space.lab(from_bgr(point));
                [l, a, b, label]
            })
            .collect();
        Self { clusters, colors: colors.to_vec(), codes }
    }

    /// Blue, green and red of every centre, 0..=255, ordered by their sum unless they were given.
    pub fn centres(&self) -> &[[f32; 3]] {
        &self.clusters.centres
    }

    /// Squared BGR distance to the centres, summed over pixels (OpenCV's compactness).
    pub fn inertia(&self) -> f64 {
        self.clusters.inertia
    }

    /// The palette colour of every centre. Centres and palette are ranked by R + G + B. With as many clusters as
    /// colours the ranks pair off, as the predecessor had it; otherwise the clusters take evenly spaced ranks of the
    /// palette, darkest and lightest included, and a lone cluster the middle one.
    fn targets(&self, palette: &Palette) -> Vec<Rgb8> {
        let mut ranked = palette.colors().to_vec();
        ranked.sort_by_key(|c| u16::from(c.r) + u16::from(c.g) + u16::from(c.b));
        let centres = &self.clusters.centres;
        let mut order: Vec<usize> = (0..centres.len()).collect();
        order.sort_by(|&a, &b| centres[a].iter().sum::<f32>().total_cmp(&centres[b].iter().sum()));
        let mut targets = vec![Rgb8::default(); centres.len()];
        let (last_color, last_rank) = (ranked.len() - 1, centres.len().saturating_sub(1));
        for (rank, centre) in order.into_iter().enumerate() {
            // rank / last_rank of the way through the palette, to the nearest rank there.
            let place = match last_rank {
                0 => last_color / 2,
                _ => (2 * rank * last_color + last_rank) / (2 * last_rank),
            };
            targets[centre] = ranked[place];
        }
        targets
    }

    /// The new colour of every colour, in their order. `strength` 0 is the original, 1 the predecessor's result.
    pub fn table(&self, palette: &Palette, strength: f32) -> Vec<u32> {
        let space = EightBit::shared();
        let targets = self.targets(palette);
        let shifts: Vec<[f32; 3]> = self
            .clusters
            .centres
            .iter()
            .zip(&targets)
            .map(|(&centre, &target)| {
                let (from, to) = (space.lab(from_bgr(truncated(centre))), space.lab(target));
                std::array::from_fn(|i| (f32::from(to[i]) - f32::from(from[i])) * TRANSFER_WEIGHTS[i])
            })
            .collect();
        mapped(&self.colors, strength, |i, old| {
            let [l, a, b, label] = self.codes[i];
            let Some(shift) = shifts.get(usize::from(label)) else { return old };
            // Casts from float to u8 clip and truncate, as clip and astype did.
            let moved = [f32::from(l) + shift[0], f32::from(a) + shift[1], f32::from(b) + shift[2]].map(|v| v as u8);
            let [h, s, v] = space.hsv(blend_three_quarters(space.rgb_of_lab(moved), old));
            rgb_of_hsv([h, (f32::from(s) * TRANSFER_SATURATION) as u8, v])
        })
    }

    /// Cluster colour, the palette colour it is moved towards, and its share of the pixels; the largest share first.
    pub fn mapping(&self, palette: &Palette) -> Vec<(Rgb8, Rgb8, f64)> {
        self.clusters.mapping(|centre| from_bgr(truncated(centre)), &self.targets(palette))
    }
}

/// Clusters for mode `faithful`: k-means in 8-bit Lab, then one flat palette colour per cluster.
#[derive(Debug, Clone)]
pub struct FaithfulModel {
    clusters: Clusters,
    colors: Vec<u32>,
    labels: Vec<u8>,
}

impl FaithfulModel {
    /// How many clusters the predecessor took for a palette of `palette_len` colours: min(10, 2n).
    pub fn cluster_count(palette_len: usize) -> usize {
        palette_len.saturating_mul(2).min(10)
    }

    /// Clusters packed RGBA `colors` (distinct, in a fixed order) by how often each occurs, one count per colour. `k`
    /// is 1..=255; pictures of fewer colours get fewer clusters, and no colours make an empty model.
    pub fn new(colors: &[u32], counts: &[u32], k: usize, search: &Search) -> Self {
        let points = Self::points(colors);
        let centres = kmeans::centres(weighted(&points, counts), k, &search.with_epsilon(FAITHFUL_EPSILON));
        Self::label(colors, counts, &points, centres)
    }

    /// The model of given centres (8-bit Lab, 0..=255; at most 255), each colour belonging to the nearest.
    pub fn with_centres(colors: &[u32], counts: &[u32], centres: &[[f32; 3]]) -> Self {
        Self::label(colors, counts, &Self::points(colors), centres.iter().take(255).copied().collect())
    }

    fn points(colors: &[u32]) -> Vec<[u8; 3]> {
        let space = EightBit::shared();
        colors.par_iter().with_min_len(CHUNK).map(|&c| space.lab(Rgb8::from_packed(c))).collect()
    }

    fn label(colors: &[u32], counts: &[u32], points: &[[u8; 3]], centres: Vec<[f32; 3]>) -> Self {
        let (clusters, labels) = Clusters::label(centres, points, counts);
        Self { clusters, colors: colors.to_vec(), labels }
    }

    /// 8-bit Lab of every centre, 0..=255, ordered by their sum unless they were given.
    pub fn centres(&self) -> &[[f32; 3]] {
        &self.clusters.centres
    }

    /// Squared 8-bit Lab distance to the centres, summed over pixels (OpenCV's compactness).
    pub fn inertia(&self) -> f64 {
        self.clusters.inertia
    }

    /// The palette colour nearest to every centre by BGR distance, the first of equals; several may share one.
    fn targets(&self, palette: &Palette) -> Vec<Rgb8> {
        let nearest = |&centre: &[f32; 3]| {
            let from = bgr(EightBit::shared().rgb_of_lab(truncated(centre))).map(i32::from);
            let distance = |to: &Rgb8| from.iter().zip(bgr(*to)).map(|(f, t)| (f - i32::from(t)).pow(2)).sum::<i32>();
            palette.colors().iter().copied().min_by_key(distance).unwrap_or_default()
        };
        self.clusters.centres.iter().map(nearest).collect()
    }

    /// The new colour of every colour, in their order. `strength` 0 is the original, 1 the predecessor's result.
    pub fn table(&self, palette: &Palette, strength: f32) -> Vec<u32> {
        let targets = self.targets(palette);
        mapped(&self.colors, strength, |i, old| {
            let target = targets.get(usize::from(self.labels[i]));
            target.map_or(old, |&target| blend_three_quarters(target, old))
        })
    }

    /// Cluster colour, the palette colour it is filled with, and its share of the pixels; the largest share first.
    pub fn mapping(&self, palette: &Palette) -> Vec<(Rgb8, Rgb8, f64)> {
        let from = |centre| EightBit::shared().rgb_of_lab(truncated(centre));
        self.clusters.mapping(from, &self.targets(palette))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smooth field of some ten thousand colours, sorted and counted.
    fn field() -> (Vec<u32>, Vec<u32>) {
        let mut colors: Vec<u32> = Vec::new();
        for y in 0..120 {
            for x in 0..120 {
                let (u, v) = (x as f32 / 19.0, y as f32 / 23.0);
                let code = |phase: f32| (127.0 + 100.0 * (u * phase + v).sin() * (v - phase).cos()) as u8;
                colors.push(Rgb8::new(code(0.9), code(1.4), code(2.2)).packed());
            }
        }
        colors.sort_unstable();
        let counts = colors.chunk_by(|a, b| a == b).map(|run| run.len() as u32).collect();
        colors.dedup();
        (colors, counts)
    }

    fn palette(colors: &[&str]) -> Palette {
        Palette::new("test", colors.iter().map(|c| c.parse().unwrap())).unwrap()
    }

    fn five() -> Palette {
        palette(&["#264653", "#2a9d8f", "#e9c46a", "#f4a261", "#e76f51"])
    }

    #[test]
    fn cluster_counts_are_the_predecessors() {
        assert_eq!([1, 3, 5, 9].map(TransferModel::cluster_count), [1, 3, 5, 5]);
        assert_eq!([1, 3, 5, 9].map(FaithfulModel::cluster_count), [2, 6, 10, 10]);
    }

    #[test]
    fn strength_zero_is_the_original_and_strength_moves_evenly() {
        let (colors, counts) = field();
        let transfer = TransferModel::new(&colors, &counts, 5, &Search::default());
        let faithful = FaithfulModel::new(&colors, &counts, 10, &Search::default());
        let tables = |s| [transfer.table(&five(), s), faithful.table(&five(), s)];
        for none in [0.0, -1.0, f32::NAN] {
            assert_eq!(tables(none), [colors.clone(), colors.clone()]);
        }
        assert_eq!(tables(7.0), tables(1.0));
        for (half, full) in tables(0.5).into_iter().zip(tables(1.0)) {
            for ((&half, &full), &old) in half.iter().zip(&full).zip(&colors) {
                for ((h, f), o) in half.to_le_bytes().into_iter().zip(full.to_le_bytes()).zip(old.to_le_bytes()) {
                    assert!((2 * i32::from(h) - i32::from(f) - i32::from(o)).abs() <= 1);
                }
            }
        }
    }

    #[test]
    fn models_do_not_depend_on_the_number_of_threads() {
        let (colors, counts) = field();
        let made = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let transfer = TransferModel::new(&colors, &counts, 5, &Search::default());
                let faithful = FaithfulModel::new(&colors, &counts, 10, &Search::default());
                (transfer.table(&five(), 1.0), faithful.table(&five(), 1.0), transfer.mapping(&five()))
            })
        };
        let once = made(1);
        assert_eq!(once, made(1));
        assert_eq!(once, made(4));
    }

    #[test]
    fn a_palette_of_one_color_pulls_everything_towards_it() {
        let (colors, counts) = field();
        let lone = palette(&["#e76f51"]);
        let transfer = TransferModel::new(&colors, &counts, TransferModel::cluster_count(1), &Search::default());
        let faithful = FaithfulModel::new(&colors, &counts, FaithfulModel::cluster_count(1), &Search::default());
        assert_eq!(transfer.centres().len(), 1);
        assert_eq!(transfer.mapping(&lone)[0].1, lone.colors()[0]);
        let blend = |&c: &u32| blend_three_quarters(lone.colors()[0], Rgb8::from_packed(c)).packed();
        assert_eq!(faithful.table(&lone, 1.0), colors.iter().map(blend).collect::<Vec<_>>());
    }

    #[test]
    fn pictures_of_one_color_or_none_have_a_defined_result() {
        let grey = Rgb8::new(100, 100, 100).packed();
        let transfer = TransferModel::new(&[grey], &[9], 5, &Search::default());
        // A lone cluster takes the palette's middle rank.
        assert_eq!(transfer.mapping(&five()), [(Rgb8::from_packed(grey), "#e76f51".parse().unwrap(), 1.0)]);
        assert_eq!(transfer.table(&five(), 1.0).len(), 1);
        let faithful = FaithfulModel::new(&[grey], &[9], 10, &Search::default());
        assert_eq!(faithful.mapping(&five())[0].1, "#264653".parse().unwrap());

        let (transfer, faithful) =
            (TransferModel::new(&[], &[], 5, &Search::default()), FaithfulModel::new(&[], &[], 10, &Search::default()));
        assert!(transfer.table(&five(), 1.0).is_empty() && faithful.table(&five(), 1.0).is_empty());
        assert!(transfer.mapping(&five()).is_empty() && faithful.mapping(&five()).is_empty());
    }

    #[test]
    fn fewer_colors_than_clusters_take_the_darkest_and_the_lightest_of_the_palette() {
        let colors = [Rgb8::new(0, 0, 0).packed(), Rgb8::new(255, 255, 255).packed()];
        let mapping = TransferModel::new(&colors, &[3, 1], 5, &Search::default()).mapping(&five());
        assert_eq!(mapping[0], (Rgb8::new(0, 0, 0), "#264653".parse().unwrap(), 0.75));
        assert_eq!(mapping[1], (Rgb8::new(255, 255, 255), "#e9c46a".parse().unwrap(), 0.25));
    }

    #[test]
    fn larger_palettes_are_sampled_at_even_ranks() {
        let greys: Vec<u32> = [10, 70, 130, 190, 250].map(|v| Rgb8::new(v, v, v).packed()).to_vec();
        let nine = Palette::new("nine", (0..9).map(|i| Rgb8::new(i * 30, i * 30, 0))).unwrap();
        let mut mapping = TransferModel::new(&greys, &[1; 5], 5, &Search::default()).mapping(&nine);
        mapping.sort_by_key(|m| m.0);
        assert_eq!(mapping.iter().map(|m| m.1.r / 30).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    }

    #[test]
    fn shares_add_up_and_come_largest_first() {
        let (colors, counts) = field();
        for mapping in [
            TransferModel::new(&colors, &counts, 5, &Search::default()).mapping(&five()),
            FaithfulModel::new(&colors, &counts, 10, &Search::default()).mapping(&five()),
        ] {
            assert!(mapping.is_sorted_by(|a, b| a.2 >= b.2));
            assert!((mapping.iter().map(|m| m.2).sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn alpha_bytes_come_back_as_they_went_in() {
        let colors = [0x80_10_20_30, 0xff_a0_b0_c0];
        let table = TransferModel::new(&colors, &[1, 1], 2, &Search::default()).table(&five(), 1.0);
        assert_eq!(table.iter().map(|c| c >> 24).collect::<Vec<_>>(), [0x80, 0xff]);
    }
}
