//! Tears: how much further apart a map throws colours, or pixels, that were close.

use super::{BLOCK, LabBlock, quantile, visit_neighbors};
use crate::kernel::color::{Lab, Rgb8};
use crate::kernel::color_bits::{ColorBits, color_key};
use crate::kernel::simd::vectorize;

/// The least CIELAB distance a pair of neighbouring colours is given. Steps of one code in blue or in the darks can
/// measure a tenth of that, and rounding of the result would pass for a tear.
pub const MIN_STEP: f32 = 0.3;

/// The least CIELAB distance two neighbouring pixels are given by [`tear`]: about one just noticeable difference.
pub const MIN_PIXEL_STEP: f32 = 2.0;

/// How many pairs are plenty for the figures of a manifest: 16 of them lie above the 99.9th percentile.
pub const PAIRS_FOR_MANIFEST: usize = 1 << 14;

/// Pairs of a picture's own colours one 8-bit step apart in exactly one channel. Built once per picture.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborPairs {
    /// Positions in the colour list, and 1/ΔE between them.
    pairs: Vec<(u32, u32, f32)>,
}

/// Mapping gain: ΔE_out/ΔE_in in CIELAB (Euclidean) over [`NeighborPairs`], ΔE_in taken as at least [`MIN_STEP`].
///
/// Rounding to 8 bits alone gives 2.4 to 3.5 at the 99.9th percentile for a map whose true gain is 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
    /// Median.
    pub median: f64,
}

impl NeighborPairs {
    /// All pairs among `colors`, or `limit` evenly spread ones when there are more. Which ones depends on the set of
    /// colours and not on their order; a list that ascends by red, then green, then blue is the quickest.
    pub fn new(colors: &[u32], limit: usize) -> Self {
        Self::among(&ColorBits::new(colors.iter().copied()), colors, limit)
    }

    /// As [`NeighborPairs::new`], where `bits` are those of `colors`.
    pub fn among(bits: &ColorBits, colors: &[u32], limit: usize) -> Self {
        let mut ranks = bits.neighbor_ranks(limit);
        let ascending = colors.is_sorted_by_key(|&c| color_key(c));
        if !ascending {
            let mut position = vec![0u32; bits.len()];
            for (i, &color) in colors.iter().enumerate() {
                position[bits.rank(color_key(color)) as usize] = i as u32;
            }
            for (i, j) in &mut ranks {
                (*i, *j) = (position[*i as usize], position[*j as usize]);
            }
        }
        Self::of(colors, &ranks)
    }

    /// The given pairs of positions in `colors`, which should be one step apart.
    pub fn of(colors: &[u32], positions: &[(u32, u32)]) -> Self {
        let mut of = Self { pairs: positions.iter().map(|&(i, j)| (i, j, 1.0)).collect() };
        let distances = of.ratios(colors);
        for (pair, distance) in of.pairs.iter_mut().zip(distances) {
            pair.2 = 1.0 / distance.max(MIN_STEP);
        }
        of
    }

    /// Per pair the CIELAB distance in `colors` by that of the picture.
    fn ratios(&self, colors: &[u32]) -> Vec<f32> {
        let mut ratios = vec![0f32; self.pairs.len()];
        vectorize(
            #[inline(always)]
            || {
                for (pairs, ratios) in self.pairs.chunks(BLOCK).zip(ratios.chunks_mut(BLOCK)) {
                    let (mut first, mut second, mut inverse) = ([0u32; BLOCK], [0u32; BLOCK], [0f32; BLOCK]);
                    for (n, &(i, j, by)) in pairs.iter().enumerate() {
                        first[n] = colors[i as usize];
                        second[n] = colors[j as usize];
                        inverse[n] = by;
                    }
                    let (x, y) = (LabBlock::new(&first), LabBlock::new(&second));
                    let mut out = [0f32; BLOCK];
                    for n in 0..BLOCK {
                        let (dl, da, db) = (x.l[n] - y.l[n], x.a[n] - y.a[n], x.b[n] - y.b[n]);
                        out[n] = (dl * dl + da * da + db * db).sqrt() * inverse[n];
                    }
                    ratios.copy_from_slice(&out[..ratios.len()]);
                }
            },
        );
        ratios
    }

    /// At most `limit` evenly spread pairs, as positions in the colour list.
    pub fn spread(&self, limit: usize) -> impl Iterator<Item = (u32, u32)> {
        let step = self.pairs.len().div_ceil(limit.max(1)).max(1);
        self.pairs.iter().step_by(step).map(|p| (p.0, p.1))
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether no two colours are neighbours, as in flat art.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The gain of the map that sends colour i of the list to `mapped[i]`. `None` without pairs: nothing can tear.
    pub fn gain(&self, mapped: &[u32]) -> Option<Gain> {
        Gain::of(&mut self.ratios(mapped))
    }

    /// Of the same gain the 99.9th percentile and the largest, without the median, which costs as much as both.
    pub fn steepness(&self, mapped: &[u32]) -> Option<(f64, f64)> {
        let mut ratios = self.ratios(mapped);
        let max = ratios.iter().copied().max_by(f32::total_cmp)?;
        Some((f64::from(quantile(&mut ratios, 0.999)?), f64::from(max)))
    }

    /// The same for a map that was not rounded to 8 bits.
    pub fn gain_of_lab(&self, mapped: &[Lab]) -> Option<Gain> {
        let ratio = |&(i, j, inverse): &(u32, u32, f32)| mapped[i as usize].distance(mapped[j as usize]) * inverse;
        Gain::of(&mut self.pairs.iter().map(ratio).collect::<Vec<_>>())
    }

    /// Gains of the single pairs, for a look at where a map tears: the two colours and the ratio, steepest first,
    /// `count` of them.
    pub fn steepest(&self, colors: &[u32], mapped: &[u32], count: usize) -> Vec<(Rgb8, Rgb8, f64)> {
        let ratios = self.ratios(mapped).into_iter();
        let mut all: Vec<(f32, u32, u32)> = ratios.zip(&self.pairs).map(|(ratio, p)| (ratio, p.0, p.1)).collect();
        all.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        all.truncate(count);
        let color = |i: u32| Rgb8::from_packed(colors[i as usize]);
        all.into_iter().map(|(ratio, i, j)| (color(i), color(j), f64::from(ratio))).collect()
    }
}

impl Gain {
    fn of(ratios: &mut [f32]) -> Option<Self> {
        let max = ratios.iter().copied().max_by(f32::total_cmp)?;
        let p999 = quantile(ratios, 0.999)?;
        let median = quantile(ratios, 0.5)?;
        Some(Self { p999: f64::from(p999), max: f64::from(max), median: f64::from(median) })
    }
}

/// Bins of a hundredth; the last one takes everything from 163.83 on, which is beyond two colours of sRGB over
/// [`MIN_PIXEL_STEP`].
const TEAR_BINS: usize = 1 << 14;

/// A histogram that starts empty and is only allocated when something falls into it.
#[derive(Default)]
struct Histogram(Vec<u64>);

/// Tear: the 99.9th percentile of ΔE_out / max(ΔE_in, [`MIN_PIXEL_STEP`]) over 4-neighbours of which both are
/// visible in `original`, CIELAB distances, to the next hundredth. 0 when there is no such pair.
///
/// It tells tears of real pictures where the map itself is not known. Dither counts as tearing: it is.
pub fn tear(original: &[u32], variation: &[u32], width: usize) -> f64 {
    let bands = visit_neighbors(original, variation, width, |bins: &mut Histogram, pair| {
        if bins.0.is_empty() {
            bins.0 = vec![0; TEAR_BINS];
        }
        let [b0, b1] = pair.before;
        let [a0, a1] = pair.after;
        let ratio = a0.distance(a1) / b0.distance(b1).max(MIN_PIXEL_STEP);
        bins.0[((ratio * 100.0) as usize).min(TEAR_BINS - 1)] += 1;
    });
    let mut sum = vec![0u64; TEAR_BINS];
    for band in bands {
        for (total, part) in sum.iter_mut().zip(band.0) {
            *total += part;
        }
    }
    let pairs: u64 = sum.iter().sum();
    if pairs == 0 {
        return 0.0;
    }
    let rank = (0.999 * pairs as f64).ceil() as u64;
    let mut below = 0;
    let bin = sum.iter().position(|&n| {
        below += n;
        below >= rank
    });
    (bin.unwrap_or(TEAR_BINS - 1) + 1) as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A solid block of neighbouring colours, shuffled so that nothing may rely on their order.
    fn cloud() -> Vec<u32> {
        let mut colors: Vec<u32> = (0..24u8)
            .flat_map(|r| {
                (0..24u8).flat_map(move |g| (0..24u8).map(move |b| Rgb8::new(90 + r, 100 + g, 80 + b).packed()))
            })
            .collect();
        colors.sort_by_key(|c| c.wrapping_mul(2_654_435_761));
        colors
    }

    #[test]
    fn the_identity_has_gain_one() {
        let colors = cloud();
        let pairs = NeighborPairs::new(&colors, usize::MAX);
        assert_eq!(pairs.len(), 3 * 23 * 24 * 24);
        let gain = pairs.gain(&colors).unwrap();
        assert!((gain.max - 1.0).abs() < 1e-5 && (gain.median - 1.0).abs() < 1e-5, "{gain:?}");
    }

    #[test]
    fn a_doubled_contrast_has_gain_two_and_rounding_adds_to_it() {
        let colors = cloud();
        let pairs = NeighborPairs::new(&colors, usize::MAX);
        let doubled = |p: &u32| {
            let lab = Rgb8::from_packed(*p).lab();
            Lab { l: 50.0 + 2.0 * (lab.l - 50.0), a: 2.0 * lab.a, b: 2.0 * lab.b }
        };
        let wanted: Vec<Lab> = colors.iter().map(doubled).collect();
        let exact = pairs.gain_of_lab(&wanted).unwrap();
        assert!((exact.p999 - 2.0).abs() < 0.01 && (exact.median - 2.0).abs() < 0.01, "{exact:?}");
        let rounded: Vec<u32> = wanted.iter().map(|l| l.to_rgb8().packed()).collect();
        let gain = pairs.gain(&rounded).unwrap();
        assert!(gain.p999 > exact.p999 && gain.p999 < 8.0 && (gain.median - 2.0).abs() < 0.5, "{gain:?}");
    }

    #[test]
    fn a_hard_split_into_two_clusters_tears() {
        let colors = cloud();
        let pairs = NeighborPairs::new(&colors, usize::MAX);
        let split: Vec<u32> = colors
            .iter()
            .map(|&c| if Rgb8::from_packed(c).r < 102 { Rgb8::new(200, 40, 40) } else { Rgb8::new(20, 60, 160) })
            .map(Rgb8::packed)
            .collect();
        let gain = pairs.gain(&split).unwrap();
        assert!(gain.p999 > 60.0 && gain.median == 0.0, "{gain:?}");
        let steepest = pairs.steepest(&colors, &split, 3);
        assert_eq!(steepest.len(), 3);
        for (x, y, ratio) in steepest {
            assert_eq!((x.r.min(y.r), x.r.max(y.r)), (101, 102));
            assert!(ratio > 60.0);
        }
    }

    #[test]
    fn a_subset_of_pairs_tells_nearly_the_same_and_does_not_depend_on_order() {
        let colors = cloud();
        let bend: Vec<u32> = colors
            .iter()
            .map(|&c| {
                let c = Rgb8::from_packed(c);
                Rgb8::new(c.r, 255 - (u32::from(c.g - 100).pow(2) / 4) as u8, c.b).packed()
            })
            .collect();
        let all = NeighborPairs::new(&colors, usize::MAX).gain(&bend).unwrap();
        let some = NeighborPairs::new(&colors, 4_000).gain(&bend).unwrap();
        assert!((all.p999 / some.p999 - 1.0).abs() < 0.15, "{all:?} {some:?}");

        let mut together: Vec<(u32, u32)> = colors.iter().copied().zip(bend.iter().copied()).collect();
        together.sort();
        let (sorted, mapped): (Vec<u32>, Vec<u32>) = together.into_iter().unzip();
        assert_eq!(NeighborPairs::new(&sorted, 4_000).gain(&mapped), Some(some));
    }

    #[test]
    fn flat_art_has_no_pairs_and_no_gain() {
        let colors = [0xff00_0000, 0xffff_ffff, 0xff00_00ff];
        let pairs = NeighborPairs::new(&colors, 100);
        assert!(pairs.is_empty());
        assert_eq!(pairs.gain(&colors), None);
        assert!(NeighborPairs::new(&[], 100).gain(&[]).is_none());
    }

    #[test]
    fn a_tear_shows_in_the_raster_and_the_identity_does_not() {
        let width = 64;
        let smooth: Vec<u32> =
            (0..width * width).map(|i| Rgb8::new(100 + (i % width) as u8, 120, 110).packed()).collect();
        assert!(tear(&smooth, &smooth, width) <= 1.01);
        let torn: Vec<u32> = smooth.iter().map(|&p| if p & 255 < 132 { 0xff20_2020 } else { 0xffe0_e0e0 }).collect();
        assert!(tear(&smooth, &torn, width) > 30.0);
        let hidden: Vec<u32> = smooth.iter().map(|p| p & 0x00ff_ffff).collect();
        assert_eq!(tear(&hidden, &torn, width), 0.0);
        assert_eq!(tear(&[], &[], 0), 0.0);
    }
}
