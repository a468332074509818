//! What a variation is worth, in figures: tears, fit to the palette, light order, structure, noise, gamut.
//!
//! Everything here is arithmetic on slices. A *colour list* is a slice of packed pixels (red in the lowest byte, see
//! [`super::image::pack_rgba`]) without repeats, in any order; its *counts* and its *mapped* colours are slices in
//! the same order. A *raster* is a slice of packed pixels, row-major. A slice shorter than the one it belongs to is
//! a mistake of the caller and panics like any index; nothing read from a file decides a length.
//!
//! | figure | function | unit |
//! |---|---|---|
//! | mapping gain | [`gain::NeighborPairs`] | ratio of CIELAB distances |
//! | tears in a raster | [`gain::tear`] | the same, over neighbouring pixels |
//! | noise gain | [`noise::noise_gain`] | ratio of standard deviations |
//! | palette distance | [`fit::palette_distance`] | mean ΔE2000 |
//! | coverage | [`fit::coverage`] | share of the area |
//! | fidelity | [`fit::fidelity`] | mean ΔE2000 |
//! | clipping, hue drift | [`fit::gamut_fit`] | share, degrees |
//! | lightness correlation | [`tone::lightness_correlation`] | −1..=1 |
//! | neighbour order | [`tone::neighbor_order`] | pairs kept of pairs |
//! | ramps, banding | [`tone::ramp_inversions`], [`tone::levels_kept`] | steps, share |
//! | structure | [`structure::ssim_l`] | SSIM |
//! | alpha, identity | [`structure::alpha_identical`], [`structure::max_channel_difference`] | yes or no, codes |
//! | mattes | [`matting`] | its own table |
//!
//! [`report::judge`] gathers what can be said of any tool's output, [`examination`] what can be said of mode `soft`. Results do not depend on the number of threads:
//! parallel parts count integers or keep their order.

pub mod examination;
pub mod fit;
pub mod gain;
pub mod matting;
pub mod noise;
pub mod report;
pub mod sample;
pub mod structure;
pub mod tone;

use rayon::prelude::*;

use super::color::{DECODE, Lab};
use super::simd::vectorize;

/// Colours converted together; small enough for registers and the first cache, large enough to vectorise.
const BLOCK: usize = 16;

/// CIELAB planes of one block.
struct LabBlock {
    l: [f32; BLOCK],
    a: [f32; BLOCK],
    b: [f32; BLOCK],
}

impl LabBlock {
    /// Same values as [`super::color::Rgb8::lab`]; table look-ups and arithmetic in separate loops, so that the
    /// second one vectorises.
    #[inline(always)]
    fn new(packed: &[u32; BLOCK]) -> Self {
        let decode = &*DECODE;
        let (mut red, mut green, mut blue) = ([0.0f32; BLOCK], [0.0f32; BLOCK], [0.0f32; BLOCK]);
        for (i, &p) in packed.iter().enumerate() {
            let [r, g, b, _] = p.to_le_bytes();
            red[i] = decode[r as usize];
            green[i] = decode[g as usize];
            blue[i] = decode[b as usize];
        }
        let mut block = Self { l: [0.0; BLOCK], a: [0.0; BLOCK], b: [0.0; BLOCK] };
        for (i, ((&red, &green), &blue)) in red.iter().zip(&green).zip(&blue).enumerate() {
            let lab = Lab::from_linear([red, green, blue]);
            block.l[i] = lab.l;
            block.a[i] = lab.a;
            block.b[i] = lab.b;
        }
        block
    }
}

/// Appends the CIELAB value of every packed pixel.
fn extend_with_labs(packed: &[u32], out: &mut Vec<Lab>) {
    let start = out.len();
    out.resize(start + packed.len(), Lab::default());
    let out = &mut out[start..];
    vectorize(
        #[inline(always)]
        || {
            for (chunk, out) in packed.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
                let mut block = [0u32; BLOCK];
                block[..chunk.len()].copy_from_slice(chunk);
                let lab = LabBlock::new(&block);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = Lab { l: lab.l[i], a: lab.a[i], b: lab.b[i] };
                }
            }
        },
    );
}

/// The nearest-rank quantile, `q` in 0..=1; reorders `values`. `None` when there are none.
fn quantile(values: &mut [f32], q: f64) -> Option<f32> {
    let rank = ((q * values.len() as f64).ceil() as usize).max(1) - 1;
    let last = values.len().checked_sub(1)?;
    let (_, value, _) = values.select_nth_unstable_by(rank.min(last), f32::total_cmp);
    Some(*value)
}

/// Rows handed to one thread at a time; fixed, so that the cut never depends on the machine.
const BAND_ROWS: usize = 32;

/// Two neighbouring pixels of the original, and the same two of the variation.
struct PixelPair {
    before: [Lab; 2],
    after: [Lab; 2],
}

/// Visits every pair of 4-neighbours of which both are visible in the original (alpha above 0), band after band;
/// one accumulator per band, top band first.
fn visit_neighbors<A: Default + Send>(
    original: &[u32],
    variation: &[u32],
    width: usize,
    visit: impl Fn(&mut A, PixelPair) + Sync,
) -> Vec<A> {
    let width = width.max(1);
    let height = original.len().min(variation.len()) / width;
    (0..height.div_ceil(BAND_ROWS))
        .into_par_iter()
        .map(|band| {
            let first = band * BAND_ROWS;
            // One row more than the band owns, for the pairs that cross its lower edge.
            let owned = BAND_ROWS.min(height - first);
            let rows = (BAND_ROWS + 1).min(height - first);
            let span = first * width..(first + rows) * width;
            let source = &original[span.clone()];
            let (mut before, mut after) = (Vec::new(), Vec::new());
            extend_with_labs(source, &mut before);
            extend_with_labs(&variation[span], &mut after);
            let visible = |i: usize| source[i] >> 24 != 0;
            let mut state = A::default();
            let mut pair = |i: usize, j: usize| {
                if visible(i) && visible(j) {
                    visit(&mut state, PixelPair { before: [before[i], before[j]], after: [after[i], after[j]] });
                }
            };
            for y in 0..owned {
                for x in 0..width {
                    let i = y * width + x;
                    if x + 1 < width {
                        pair(i, i + 1);
                    }
                    if y + 1 < rows {
                        pair(i, i + width);
                    }
                }
            }
            state
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;

    #[test]
    fn blocks_convert_as_single_colors_do() {
        let packed: Vec<u32> =
            (0..1000u32).map(|i| Rgb8::new((i * 7) as u8, (i * 13) as u8, (i / 4) as u8).packed()).collect();
        let mut labs = Vec::new();
        extend_with_labs(&packed, &mut labs);
        assert_eq!(labs, packed.iter().map(|&p| Rgb8::from_packed(p).lab()).collect::<Vec<_>>());
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut values: Vec<f32> = (1..=1000).rev().map(|v| v as f32).collect();
        assert_eq!(quantile(&mut values, 0.5), Some(500.0));
        assert_eq!(quantile(&mut values, 0.999), Some(999.0));
        assert_eq!(quantile(&mut values, 1.0), Some(1000.0));
        assert_eq!(quantile(&mut [7.0], 0.999), Some(7.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn every_pair_of_neighbors_is_visited_once_across_bands() {
        let (width, height) = (7, 2 * BAND_ROWS + 5);
        let raster = vec![u32::MAX; width * height];
        let pairs: u64 = visit_neighbors(&raster, &raster, width, |n: &mut u64, _| *n += 1).iter().sum();
        assert_eq!(pairs as usize, (width - 1) * height + width * (height - 1));
    }
}
