//! Small maps brought to full size: bilinear as PyTorch does it, and along the picture's edges by a guided filter.
//!
//! Sources: torch.nn.functional.interpolate (mode "bilinear"); K. He, J. Sun, X. Tang 2013, "Guided image filtering";
//! K. He, J. Sun 2015, "Fast guided filter": the linear coefficients are found on the small grid and enlarged.

use rayon::prelude::*;

use super::super::image::BaseImage;
use super::super::simd::vectorize;

/// Rows that are enlarged together.
const BAND: usize = 32;
/// Regularisation: a guide whose variance is far below this (values 0..=1) says nothing about edges.
const EPSILON: f32 = 4e-4;
/// Variance that rounding to 8 bits alone brings about; up to here a guide counts as constant.
const ROUNDING: f32 = 2e-5;

/// Where one output sample lies among the input samples.
#[derive(Debug, Clone, Copy)]
struct Tap {
    low: u32,
    high: u32,
    /// Weight of `high`.
    t: f32,
}

/// The taps of an axis, as torch computes them in f32.
fn taps(input: usize, output: usize, align_corners: bool) -> Vec<Tap> {
    let last = input.saturating_sub(1);
    let scale = match align_corners {
        true if output > 1 => last as f32 / (output - 1) as f32,
        true => 0.0,
        false => input as f32 / output.max(1) as f32,
    };
    (0..output)
        .map(|i| {
            let at = if align_corners { i as f32 * scale } else { ((i as f32 + 0.5) * scale - 0.5).max(0.0) };
            let low = (at as usize).min(last);
            Tap { low: low as u32, high: (low + 1).min(last) as u32, t: (at - low as f32).clamp(0.0, 1.0) }
        })
        .collect()
}

/// One row of a map, enlarged sideways.
fn widen(map: &[f32], map_w: usize, y: u32, columns: &[Tap], out: &mut [f32]) {
    let row = &map[y as usize * map_w..][..map_w];
    for (out, tap) in out.iter_mut().zip(columns) {
        let (a, b) = (row[tap.low as usize], row[tap.high as usize]);
        *out = (1.0 - tap.t) * a + tap.t * b;
    }
}

/// The two widened rows between which the output row lies; each map row is widened once a band.
struct Between<'a> {
    map: &'a [f32],
    map_w: usize,
    columns: &'a [Tap],
    rows: [(Option<u32>, Vec<f32>); 2],
}

impl<'a> Between<'a> {
    fn new(map: &'a [f32], map_w: usize, columns: &'a [Tap]) -> Self {
        let empty = || (None, vec![0.0; columns.len()]);
        Self { map, map_w, columns, rows: [empty(), empty()] }
    }

    fn at(&mut self, tap: Tap) -> (&[f32], &[f32]) {
        if self.rows[0].0 != Some(tap.low) && self.rows[1].0 == Some(tap.low) {
            self.rows.swap(0, 1);
        }
        for (slot, y) in self.rows.iter_mut().zip([tap.low, tap.high]) {
            if slot.0 != Some(y) {
                widen(self.map, self.map_w, y, self.columns, &mut slot.1);
                slot.0 = Some(y);
            }
        }
        (&self.rows[0].1, &self.rows[1].1)
    }
}

/// Resizes a `map_w × map_h` map to `width × height` as `torch.nn.functional.interpolate(mode="bilinear")` does,
/// without antialiasing. A map whose length is not `map_w·map_h`, or is 0, counts as zero everywhere.
pub fn bilinear(map: &[f32], map_w: usize, map_h: usize, width: u32, height: u32, align_corners: bool) -> Vec<f32> {
    let (width, height) = (width as usize, height as usize);
    let mut out = vec![0f32; width * height];
    if map.is_empty() || map_w.checked_mul(map_h) != Some(map.len()) || out.is_empty() {
        return out;
    }
    let (columns, rows) = (taps(map_w, width, align_corners), taps(map_h, height, align_corners));
    out.par_chunks_mut(BAND * width).zip(rows.par_chunks(BAND)).for_each(|(band, rows)| {
        let mut between = Between::new(map, map_w, &columns);
        for (out, &tap) in band.chunks_mut(width).zip(rows) {
            let (above, below) = between.at(tap);
            let t = tap.t;
            vectorize(
                #[inline(always)]
                || {
                    for ((out, &a), &b) in out.iter_mut().zip(above).zip(below) {
                        *out = (1.0 - t) * a + t * b;
                    }
                },
            );
        }
    });
    out
}

/// Enlarges a matte of values 0..=1 to the picture's size, following the picture's edges; alpha is `trunc(255·p)`.
///
/// A fast guided filter: α = a·luminance + b with a and b found in windows of the small grid (radius a 256th of its
/// longer side) and enlarged bilinearly. Where the guide is constant it has nothing to say, and the result is
/// [`bilinear`]'s. Needs one byte a pixel beside the result, and about 44 bytes for each value of the small map.
pub fn guided(map: &[f32], map_w: usize, map_h: usize, align_corners: bool, image: &BaseImage) -> Vec<u8> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut alpha = vec![0u8; width * height];
    if map.is_empty() || map_w.checked_mul(map_h) != Some(map.len()) {
        return alpha;
    }
    let luma = luminance(image.rgb());
    let guide = reduce(&luma, (width, height), (map_w, map_h), align_corners);
    let (slope, offset) = coefficients(map, &guide, map_w);
    drop(guide);
    let (columns, rows) = (taps(map_w, width, align_corners), taps(map_h, height, align_corners));
    let bands = alpha.par_chunks_mut(BAND * width).zip(luma.par_chunks(BAND * width)).zip(rows.par_chunks(BAND));
    bands.for_each(|((band, luma), rows)| {
        let mut slopes = Between::new(&slope, map_w, &columns);
        let mut offsets = Between::new(&offset, map_w, &columns);
        for ((out, luma), &tap) in band.chunks_mut(width).zip(luma.chunks(width)).zip(rows) {
            let ((a0, a1), (b0, b1)) = (slopes.at(tap), offsets.at(tap));
            let t = tap.t;
            vectorize(
                #[inline(always)]
                || {
                    let coefficients = a0.iter().zip(a1).zip(b0.iter().zip(b1));
                    for ((out, &luma), ((&a0, &a1), (&b0, &b1))) in out.iter_mut().zip(luma).zip(coefficients) {
                        let a = (1.0 - t) * a0 + t * a1;
                        let b = (1.0 - t) * b0 + t * b1;
                        let p = (a * (f32::from(luma) * (1.0 / 255.0)) + b) * 255.0;
                        *out = p.clamp(0.0, 255.0) as i32 as u8;
                    }
                },
            );
        }
    });
    alpha
}

/// Luma of sRGB codes (Rec. 709 weights in 256ths): the guide needs edges, not photometry.
fn luminance(rgb: &[u8]) -> Vec<u8> {
    let mut luma = vec![0u8; rgb.len() / 3];
    luma.par_chunks_mut(1 << 16).zip(rgb.par_chunks(3 << 16)).for_each(|(luma, rgb)| {
        vectorize(
            #[inline(always)]
            || {
                for (luma, c) in luma.iter_mut().zip(rgb.as_chunks::<3>().0) {
                    let sum = 54 * u32::from(c[0]) + 183 * u32::from(c[1]) + 19 * u32::from(c[2]);
                    *luma = ((sum + 128) >> 8) as u8;
                }
            },
        );
    });
    luma
}

/// The ends of the stretch of an axis that sample `i` of the small grid stands for.
fn cell(i: usize, small: usize, large: usize, align_corners: bool) -> (usize, usize) {
    let edge = |i: usize| -> usize {
        if i == 0 {
            0
        } else if align_corners && small > 1 {
            let at = (i as f64 - 0.5) * (large as f64 - 1.0) / (small as f64 - 1.0) + 0.5;
            (at.round() as usize).min(large)
        } else {
            i * large / small
        }
    };
    let start = edge(i).min(large - 1);
    let end = if i + 1 == small { large } else { edge(i + 1) };
    (start, end.clamp(start + 1, large))
}

/// Means of the luma under each sample of the small grid, 0..=1.
fn reduce(luma: &[u8], large: (usize, usize), small: (usize, usize), align_corners: bool) -> Vec<f32> {
    let columns: Vec<(usize, usize)> = (0..small.0).map(|x| cell(x, small.0, large.0, align_corners)).collect();
    let mut guide = vec![0f32; small.0 * small.1];
    guide.par_chunks_mut(small.0).enumerate().for_each_init(
        || vec![0u32; large.0],
        |sums, (y, out)| {
            let (top, bottom) = cell(y, small.1, large.1, align_corners);
            sums.fill(0);
            for row in luma[top * large.0..bottom * large.0].chunks_exact(large.0) {
                vectorize(
                    #[inline(always)]
                    || {
                        for (sum, &v) in sums.iter_mut().zip(row) {
                            *sum += u32::from(v);
                        }
                    },
                );
            }
            for (out, &(left, right)) in out.iter_mut().zip(&columns) {
                let sum: u32 = sums[left..right].iter().sum();
                *out = sum as f32 / (255 * (bottom - top) * (right - left)) as f32;
            }
        },
    );
    guide
}

/// Rows and columns of the blocks in which the map is either constant or worked on.
const BLOCK: (usize, usize) = (8, 32);

/// Per row of blocks, the stretches of columns that have anything but one value within `reach`. Elsewhere the linear
/// model is the value itself.
fn uneven(map: &[f32], map_w: usize, reach: usize) -> Vec<Vec<(usize, usize)>> {
    let map_h = map.len() / map_w;
    let (rows, columns) = (map_h.div_ceil(BLOCK.0), map_w.div_ceil(BLOCK.1));
    let mut ranges = vec![(f32::MAX, f32::MIN); rows * columns];
    ranges.par_chunks_mut(columns).zip(map.par_chunks(BLOCK.0 * map_w)).for_each(|(ranges, map)| {
        for row in map.chunks(map_w) {
            for (range, part) in ranges.iter_mut().zip(row.chunks(BLOCK.1)) {
                for &v in part {
                    *range = (range.0.min(v), range.1.max(v));
                }
            }
        }
    });
    let (far_y, far_x) = (reach.div_ceil(BLOCK.0), reach.div_ceil(BLOCK.1));
    let active = |by: usize, bx: usize| {
        let mut range = (f32::MAX, f32::MIN);
        for y in by.saturating_sub(far_y)..(by + far_y + 1).min(rows) {
            for r in &ranges[y * columns + bx.saturating_sub(far_x)..y * columns + (bx + far_x + 1).min(columns)] {
                range = (range.0.min(r.0), range.1.max(r.1));
            }
        }
        range.0 != range.1
    };
    (0..rows)
        .map(|by| {
            let mut spans: Vec<(usize, usize)> = Vec::new();
            for bx in (0..columns).filter(|&bx| active(by, bx)) {
                let (start, end) = (bx * BLOCK.1, ((bx + 1) * BLOCK.1).min(map_w));
                match spans.last_mut() {
                    Some(last) if last.1 == start => last.1 = end,
                    _ => spans.push((start, end)),
                }
            }
            spans
        })
        .collect()
}

/// The linear model α = slope·guide + offset at every sample of the small grid.
fn coefficients(map: &[f32], guide: &[f32], map_w: usize) -> (Vec<f32>, Vec<f32>) {
    let radius = (map_w.max(map.len() / map_w) / 256).clamp(1, 8);
    let spans = uneven(map, map_w, 2 * radius);
    let box_mean = |plane: &[f32]| box_mean(plane, map_w, radius, &spans);
    let mean_i = box_mean(guide);
    let mean_p = box_mean(map);
    // Products are needed a window's reach beyond the stretches, above and below too.
    let products = |x: &[f32], z: &[f32]| -> Vec<f32> {
        let mut out = vec![0f32; map.len()];
        out.par_chunks_mut(map_w).enumerate().for_each(|(y, part)| {
            let near = y.saturating_sub(radius) / BLOCK.0..=((y + radius) / BLOCK.0).min(spans.len() - 1);
            for &(start, end) in spans[near].iter().flatten() {
                let (start, end) = (start.saturating_sub(radius), (end + radius).min(map_w));
                let at = y * map_w;
                let factors = x[at + start..at + end].iter().zip(&z[at + start..at + end]);
                part[start..end].iter_mut().zip(factors).for_each(|(out, (x, z))| *out = x * z);
            }
        });
        out
    };
    let mut variance = box_mean(&products(guide, guide));
    let mut a = box_mean(&products(guide, map));
    let mut b = map.to_vec();
    let mut says = vec![0f32; map.len()];
    each_span(&spans, map_w, map.len(), |at| {
        let v = (variance[at] - mean_i[at] * mean_i[at]).max(0.0);
        variance[at] = v;
        a[at] = (a[at] - mean_i[at] * mean_p[at]) / (v + EPSILON);
        b[at] = mean_p[at] - a[at] * mean_i[at];
        says[at] = (v - ROUNDING).max(0.0) / (v + EPSILON);
    });
    let (mut slope, mean_b, says) = (box_mean(&a), box_mean(&b), box_mean(&says));
    // A window's mean blurs; how much of it counts is decided by how much the guide has to say there.
    let mut offset = map.to_vec();
    each_span(&spans, map_w, map.len(), |at| {
        slope[at] *= says[at];
        offset[at] += says[at] * (mean_b[at] - map[at]);
    });
    (slope, offset)
}

/// Calls `work` with the index of every sample in the stretches.
fn each_span(spans: &[Vec<(usize, usize)>], width: usize, length: usize, mut work: impl FnMut(usize)) {
    for y in 0..length / width {
        for &(start, end) in &spans[y / BLOCK.0] {
            (y * width + start..y * width + end).for_each(&mut work);
        }
    }
}

/// Means over windows of `2·radius + 1` a side, clipped at the borders, in the stretches; 0 elsewhere. Sums are direct,
/// so errors do not build up.
fn box_mean(plane: &[f32], width: usize, radius: usize, spans: &[Vec<(usize, usize)>]) -> Vec<f32> {
    let height = plane.len() / width;
    let mut out = vec![0f32; plane.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0f32; width],
        |sums, (y, out)| {
            let (top, bottom) = (y.saturating_sub(radius), (y + radius + 1).min(height));
            let rows = (bottom - top) as f32;
            for &(start, end) in &spans[y / BLOCK.0] {
                let (left, right) = (start.saturating_sub(radius), (end + radius).min(width));
                sums[left..right].fill(0.0);
                for row in plane[top * width..bottom * width].chunks_exact(width) {
                    let (sums, row) = (&mut sums[left..right], &row[left..right]);
                    vectorize(
                        #[inline(always)]
                        || sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v),
                    );
                }
                // Columns whose window is whole, then those at the borders.
                let whole = (start.max(radius), end.min(width.saturating_sub(radius)));
                if whole.0 < whole.1 {
                    let inner = &mut out[whole.0..whole.1];
                    let scale = 1.0 / (rows * (2 * radius + 1) as f32);
                    for shift in 0..=2 * radius {
                        let part = &sums[whole.0 - radius + shift..];
                        vectorize(
                            #[inline(always)]
                            || inner.iter_mut().zip(part).for_each(|(out, v)| *out += v * scale),
                        );
                    }
                }
                for x in (start..end).filter(|x| !(whole.0..whole.1).contains(x)) {
                    let part = &sums[x.saturating_sub(radius)..(x + radius + 1).min(width)];
                    out[x] = part.iter().sum::<f32>() / (rows * part.len() as f32);
                }
            }
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 1e-6, "{got:?} {expected:?}");
        }
    }

    #[test]
    fn bilinear_is_what_torch_computes() {
        // F.interpolate(torch.tensor([[[[0., 1.], [2., 3.]]]]), size=(4, 4), mode="bilinear", align_corners=False)
        let map = [0.0, 1.0, 2.0, 3.0];
        near(
            &bilinear(&map, 2, 2, 4, 4, false),
            &[0.0, 0.25, 0.75, 1.0, 0.5, 0.75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2.0, 2.25, 2.75, 3.0],
        );
        // … align_corners=True, size=(3, 4)
        let third = 1.0 / 3.0;
        near(
            &bilinear(&map, 2, 2, 4, 3, true),
            &[
                0.0,
                third,
                2.0 * third,
                1.0,
                1.0,
                1.0 + third,
                1.0 + 2.0 * third,
                2.0,
                2.0,
                2.0 + third,
                3.0 - third,
                3.0,
            ],
        );
        // Reducing samples, it does not average: from 4 to 2, positions 0.5 and 2.5; aligned, 0 and 3.
        let line = [0.0, 1.0, 4.0, 9.0];
        near(&bilinear(&line, 4, 1, 2, 1, false), &[0.5, 6.5]);
        near(&bilinear(&line, 4, 1, 2, 1, true), &[0.0, 9.0]);
        near(&bilinear(&line, 4, 1, 1, 1, true), &[0.0]);
        near(&bilinear(&line, 4, 1, 4, 1, false), &line);
    }

    #[test]
    fn maps_of_wrong_length_count_as_empty() {
        assert_eq!(bilinear(&[1.0; 3], 2, 2, 2, 1, false), [0.0, 0.0]);
        assert_eq!(bilinear(&[], 0, 0, 2, 1, true), [0.0, 0.0]);
        let image = BaseImage::new(2, 1, vec![9; 6], None).unwrap();
        assert_eq!(guided(&[1.0; 3], 2, 2, true, &image), [0, 0]);
        let one = BaseImage::new(1, 1, vec![9; 3], None).unwrap();
        assert_eq!(guided(&[0.5], 1, 1, false, &one), [127]);
        assert_eq!(guided(&[0.5; 12], 4, 3, true, &one), [127]);
    }

    #[test]
    fn a_constant_guide_leaves_bilinear() {
        let map: Vec<f32> = (0..24 * 16).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        for align_corners in [false, true] {
            let image = BaseImage::new(97, 50, vec![140; 97 * 50 * 3], None).unwrap();
            let expected = bilinear(&map, 24, 16, 97, 50, align_corners);
            let got = guided(&map, 24, 16, align_corners, &image);
            for (g, e) in got.iter().zip(expected) {
                assert!((f32::from(*g) - 255.0 * e).abs() <= 1.0, "{g} {e}");
            }
        }
    }

    #[test]
    fn the_guide_sharpens_what_the_small_map_blurred() {
        // A disc of 400 pixels across in a map of a 16th of the size.
        let (side, small) = (512usize, 64usize);
        let inside = |x: f32, y: f32| (x - 256.0).hypot(y - 256.0) < 200.0;
        let rgb = (0..side * side)
            .flat_map(|i| [if inside((i % side) as f32 + 0.5, (i / side) as f32 + 0.5) { 210 } else { 40 }; 3])
            .collect();
        let image = BaseImage::new(side as u32, side as u32, rgb, None).unwrap();
        let map: Vec<f32> = (0..small * small)
            .map(|i| {
                let hits = (0..64)
                    .filter(|s| {
                        let (x, y) = ((i % small) as f32 * 8.0, (i / small) as f32 * 8.0);
                        inside(x + (s % 8) as f32 + 0.5, y + (s / 8) as f32 + 0.5)
                    })
                    .count();
                hits as f32 / 64.0
            })
            .collect();
        let error = |alpha: &mut dyn Iterator<Item = f32>| -> f32 {
            alpha
                .enumerate()
                .map(|(i, a)| {
                    let truth = inside((i % side) as f32 + 0.5, (i / side) as f32 + 0.5);
                    (a - f32::from(u8::from(truth))).abs()
                })
                .sum::<f32>()
                / (side * side) as f32
        };
        let plain = error(&mut bilinear(&map, small, small, side as u32, side as u32, false).into_iter());
        let sharp = error(&mut guided(&map, small, small, false, &image).into_iter().map(|a| f32::from(a) / 255.0));
        assert!(sharp < 0.4 * plain, "{sharp} {plain}");
    }
}
