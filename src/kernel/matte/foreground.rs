//! The colours that go with a matte, so that a cut-out shows no halo of its old ground.
//!
//! Source: M. Forte 2021, "Approximate Fast Foreground Colour Estimation": blur fusion in two passes. Means of
//! foreground and ground colour over a wide window, weighted by α and 1 − α (here by their cubes, so that wide soft
//! edges do not tint them), are corrected by what they fail to explain of the pixel; the result, averaged over a narrow
//! window, is corrected once more. Only pixels of 0 < α < 255 need it, so the wide means come from a reduced grid and
//! the narrow ones are taken around such pixels alone.

use rayon::prelude::*;

use super::super::image::BaseImage;
use super::runs::by_stretch;

/// Blocks of the reduced grid along the picture's longer side.
const BLOCKS: usize = 128;
/// Reach of the wide window in blocks: 11 blocks across, 176 pixels of 2048.
const WIDE: usize = 5;
/// The picture's longer side over the narrow window's reach.
const NARROW: usize = 340;
/// Reach from which on a narrow window is sampled.
const SPARSE: usize = 6;
/// Height and width of the tiles in which pixels are worked on.
const TILE: (usize, usize) = (32, 64);

/// Red, green and blue times weight, the weight: of the foreground, then of the ground.
type Sums = [f32; 8];

/// Foreground colours for a matte of `width·height` values, 3 bytes a pixel: the picture's own where alpha is 255,
/// black where it is 0, estimated between. A matte of another length gives black.
///
/// Needs 3 bytes a pixel for the result and little more.
pub fn estimate(image: &BaseImage, alpha: &[u8]) -> Vec<u8> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgb = image.rgb();
    let mut out = vec![0u8; rgb.len()];
    if alpha.len() != width * height {
        return out;
    }
    let grid = Grid::new(rgb, alpha, width, height);
    let reach = (width.max(height) / NARROW).clamp(3, 12);
    out.par_chunks_mut(TILE.0 * width * 3).enumerate().for_each_init(Scratch::default, |scratch, (band, out)| {
        let top = band * TILE.0;
        let mut soft = vec![None::<[usize; 4]>; width.div_ceil(TILE.1)];
        for (i, out) in out.chunks_mut(width * 3).enumerate() {
            let at = (top + i) * width;
            let (alpha, rgb) = (&alpha[at..at + width], &rgb[at * 3..(at + width) * 3]);
            by_stretch(alpha, TILE.1, |span, kind| match kind {
                Some(0) => {}
                Some(_) => out[span.start * 3..span.end * 3].copy_from_slice(&rgb[span.start * 3..span.end * 3]),
                None => {
                    let tile = &mut soft[span.start / TILE.1];
                    for x in span {
                        match alpha[x] {
                            0 => {}
                            255 => out[x * 3..x * 3 + 3].copy_from_slice(&rgb[x * 3..x * 3 + 3]),
                            _ => {
                                let bounds = tile.get_or_insert([x, i, x, i]);
                                bounds[0] = bounds[0].min(x);
                                bounds[2] = bounds[2].max(x);
                                bounds[3] = i;
                            }
                        }
                    }
                }
            });
        }
        for [left, first, right, last] in soft.into_iter().flatten() {
            let area = Area { left, right: right + 1, top: top + first, bottom: top + last + 1 };
            scratch.fuse(&grid, rgb, alpha, (width, height), area, reach, &mut out[first * width * 3..]);
        }
    });
    out
}

/// Mean foreground and ground colours over wide windows, one per block of the reduced grid.
struct Grid {
    block: usize,
    columns: usize,
    rows: usize,
    means: Vec<Sums>,
}

impl Grid {
    fn new(rgb: &[u8], alpha: &[u8], width: usize, height: usize) -> Self {
        let block = (width.max(height) / BLOCKS).max(8);
        let (columns, rows) = (width.div_ceil(block), height.div_ceil(block));
        // Which blocks hold soft pixels; others are looked at only near those.
        let mut soft = vec![false; columns * rows];
        soft.par_chunks_mut(columns).zip(alpha.par_chunks(block * width)).for_each(|(soft, alpha)| {
            for row in alpha.chunks(width) {
                for (soft, part) in soft.iter_mut().zip(row.chunks(block)) {
                    *soft |= part.iter().fold(false, |any, v| any | (v.wrapping_sub(1) < 254));
                }
            }
        });
        let mut sums = vec![[0f32; 8]; columns * rows];
        let reach = WIDE + 2;
        sums.par_chunks_mut(columns).enumerate().for_each(|(by, sums)| {
            let near = soft[by.saturating_sub(reach) * columns..(by + reach + 1).min(rows) * columns].chunks(columns);
            let mut near_soft = vec![false; columns];
            for row in near {
                for (near, &s) in near_soft.iter_mut().zip(row) {
                    *near |= s;
                }
            }
            for (bx, sum) in sums.iter_mut().enumerate() {
                if !near_soft[bx.saturating_sub(reach)..(bx + reach + 1).min(columns)].iter().any(|&s| s) {
                    continue;
                }
                // Thin strokes must not fall through; sure blocks are sampled.
                let step = if soft[by * columns + bx] { 1 } else { 4 };
                for y in (by * block..((by + 1) * block).min(height)).step_by(step) {
                    for x in (bx * block..((bx + 1) * block).min(width)).step_by(step) {
                        let at = y * width + x;
                        let c = [0, 1, 2].map(|i| f32::from(rgb[at * 3 + i]));
                        // Cubed: means are to be of what is nearly pure, or wide soft edges would tint them.
                        let a = f32::from(alpha[at]) * (1.0 / 255.0);
                        let count = (step * step) as f32;
                        let (a, b) = (a * a * a * count, (1.0 - a) * (1.0 - a) * (1.0 - a) * count);
                        let add = [c[0] * a, c[1] * a, c[2] * a, a, c[0] * b, c[1] * b, c[2] * b, b];
                        sum.iter_mut().zip(add).for_each(|(s, v)| *s += v);
                    }
                }
            }
        });
        let mut means = box_sums(&sums, columns, 1, WIDE);
        means = box_sums(&means, columns, columns, WIDE);
        for m in &mut means {
            let (f, b) = (1.0 / m[3].max(1e-12), 1.0 / m[7].max(1e-12));
            *m = [m[0] * f, m[1] * f, m[2] * f, m[3], m[4] * b, m[5] * b, m[6] * b, m[7]];
        }
        Self { block, columns, rows, means }
    }

    /// The two blocks between whose centres `at` lies, and the second's weight.
    #[inline(always)]
    fn between(&self, at: usize, count: usize) -> (usize, usize, f32) {
        let place = ((at as f32 + 0.5) / self.block as f32 - 0.5).max(0.0);
        let low = (place as usize).min(count - 1);
        (low, (low + 1).min(count - 1), (place - low as f32).min(1.0))
    }
}

/// Sums over `2·reach + 1` neighbours along one axis, the neighbours being `stride` apart.
fn box_sums(sums: &[Sums], columns: usize, stride: usize, reach: usize) -> Vec<Sums> {
    let length = if stride == 1 { columns } else { sums.len() / columns };
    let mut out = vec![[0f32; 8]; sums.len()];
    for (i, out) in out.iter_mut().enumerate() {
        let (place, base) = if stride == 1 { (i % columns, i - i % columns) } else { (i / columns, i % columns) };
        for p in place.saturating_sub(reach)..(place + reach + 1).min(length) {
            out.iter_mut().zip(sums[base + p * stride]).for_each(|(s, v)| *s += v);
        }
    }
    out
}

/// A part of the picture: columns and rows, the ends excluded.
#[derive(Debug, Clone, Copy)]
struct Area {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

/// Working memory of one tile.
#[derive(Default)]
struct Scratch {
    /// First estimates, weighted, of the tile and its margin.
    first: Vec<Sums>,
    /// Sums of the rows around the present one.
    columns: Vec<Sums>,
    /// The grid's means between its two rows.
    line: Vec<Sums>,
    /// For each column, the means between which it lies, and the second's weight.
    taps: Vec<(u32, u32, f32)>,
}

impl Scratch {
    /// Estimates the soft pixels of `area`; `out` begins with its first row, at the picture's left border.
    #[allow(clippy::too_many_arguments)]
    fn fuse(
        &mut self,
        grid: &Grid,
        rgb: &[u8],
        alpha: &[u8],
        (width, height): (usize, usize),
        area: Area,
        reach: usize,
        out: &mut [u8],
    ) {
        let wide = Area {
            left: area.left.saturating_sub(reach),
            right: (area.right + reach).min(width),
            top: area.top.saturating_sub(reach),
            bottom: (area.bottom + reach).min(height),
        };
        // Every pixel of small windows is looked at, every second one both ways of wide ones.
        let step = if reach < SPARSE { 1 } else { 2 };
        let stride = (wide.right - wide.left).div_ceil(step);
        self.first.clear();
        let (first_block, last_block) =
            (grid.between(wide.left, grid.columns).0, grid.between(wide.right, grid.columns).1);
        self.taps.clear();
        self.taps.extend((wide.left..wide.right).step_by(step).map(|x| {
            let (low, high, t) = grid.between(x, grid.columns);
            ((low - first_block) as u32, (high - first_block) as u32, t)
        }));
        for y in (wide.top..wide.bottom).step_by(step) {
            let (above, below, t) = grid.between(y, grid.rows);
            self.line.clear();
            self.line.extend((first_block..=last_block).map(|bx| {
                let (a, b) = (&grid.means[above * grid.columns + bx], &grid.means[below * grid.columns + bx]);
                std::array::from_fn(|i| a[i] + t * (b[i] - a[i]))
            }));
            let at = y * width;
            let pixels = rgb[(at + wide.left) * 3..(at + wide.right) * 3].as_chunks::<3>().0;
            let pixels = pixels.iter().zip(&alpha[at + wide.left..at + wide.right]).step_by(step);
            let line = &self.line;
            self.first.extend(pixels.zip(&self.taps).map(|((c, &a), &(low, high, t))| {
                let (low, high) = (&line[low as usize], &line[high as usize]);
                let mean: Sums = std::array::from_fn(|i| low[i] + t * (high[i] - low[i]));
                let (f, b, a) = corrected(&mean, *c, a);
                let rest = 1.0 - a;
                [f[0] * a, f[1] * a, f[2] * a, a, b[0] * rest, b[1] * rest, b[2] * rest, rest]
            }));
        }
        self.columns.clear();
        self.columns.resize(stride, [0.0; 8]);
        let rows = (wide.bottom - wide.top).div_ceil(step);
        // The samples within reach of a place that is counted from the margin's begin.
        let window = |place: usize, count: usize| {
            place.saturating_sub(reach).div_ceil(step)..((place + reach) / step + 1).min(count)
        };
        let mut summed = 0..0;
        for y in area.top..area.bottom {
            let wanted = window(y - wide.top, rows);
            while summed.end < wanted.end {
                let row = &self.first[summed.end * stride..][..stride];
                self.columns.iter_mut().zip(row).for_each(|(s, v)| (0..8).for_each(|i| s[i] += v[i]));
                summed.end += 1;
            }
            while summed.start < wanted.start {
                let row = &self.first[summed.start * stride..][..stride];
                self.columns.iter_mut().zip(row).for_each(|(s, v)| (0..8).for_each(|i| s[i] -= v[i]));
                summed.start += 1;
            }
            let out = &mut out[(y - area.top) * width * 3..];
            let (mut from, mut to) = (0, 0);
            let mut sum = [0f32; 8];
            for x in area.left..area.right {
                let wanted = window(x - wide.left, stride);
                while to < wanted.end {
                    (0..8).for_each(|i| sum[i] += self.columns[to][i]);
                    to += 1;
                }
                while from < wanted.start {
                    (0..8).for_each(|i| sum[i] -= self.columns[from][i]);
                    from += 1;
                }
                let at = y * width + x;
                if matches!(alpha[at], 0 | 255) {
                    continue;
                }
                let (f, b) = (1.0 / sum[3].max(1e-3), 1.0 / sum[7].max(1e-3));
                let mean = [sum[0] * f, sum[1] * f, sum[2] * f, 0.0, sum[4] * b, sum[5] * b, sum[6] * b, 0.0];
                let (color, ..) = corrected(&mean, [rgb[at * 3], rgb[at * 3 + 1], rgb[at * 3 + 2]], alpha[at]);
                for (out, v) in out[x * 3..x * 3 + 3].iter_mut().zip(color) {
                    *out = (v + 0.5) as u8;
                }
            }
        }
    }
}

/// Foreground and ground corrected by what their blend fails to explain of the pixel, and alpha as a share.
#[inline(always)]
fn corrected(mean: &Sums, c: [u8; 3], alpha: u8) -> ([f32; 3], [f32; 3], f32) {
    let a = f32::from(alpha) * (1.0 / 255.0);
    let rest = 1.0 - a;
    let (mut f, mut b) = ([0f32; 3], [0f32; 3]);
    for i in 0..3 {
        let miss = f32::from(c[i]) - a * mean[i] - rest * mean[4 + i];
        f[i] = (mean[i] + a * miss).clamp(0.0, 255.0);
        b[i] = (mean[4 + i] + rest * miss).clamp(0.0, 255.0);
    }
    (f, b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disc with a soft edge of `soft` pixels, of one colour over another.
    fn disc(side: usize, soft: f32, front: [u8; 3], ground: [u8; 3]) -> (BaseImage, Vec<u8>) {
        let middle = side as f32 / 2.0;
        let alpha: Vec<u8> = (0..side * side)
            .map(|i| {
                let d = ((i % side) as f32 + 0.5 - middle).hypot((i / side) as f32 + 0.5 - middle);
                (((0.35 * side as f32 - d) / soft + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
            })
            .collect();
        let blend = |a: u8, i: usize| {
            let a = f32::from(a) / 255.0;
            (a * f32::from(front[i]) + (1.0 - a) * f32::from(ground[i])).round() as u8
        };
        let rgb = alpha.iter().flat_map(|&a| [blend(a, 0), blend(a, 1), blend(a, 2)]).collect();
        (BaseImage::new(side as u32, side as u32, rgb, None).unwrap(), alpha)
    }

    #[test]
    fn the_tint_of_a_known_ground_is_removed() {
        for (side, soft) in [(64, 2.0), (300, 1.5), (300, 12.0), (700, 40.0)] {
            let (image, alpha) = disc(side, soft, [200, 40, 30], [20, 220, 240]);
            let out = estimate(&image, &alpha);
            let mut worst = 0;
            for (c, &a) in out.chunks(3).zip(&alpha) {
                match a {
                    0 => assert_eq!(c, [0, 0, 0]),
                    255 => assert_eq!(c, [200, 40, 30]),
                    a => {
                        let off = c[0].abs_diff(200).max(c[1].abs_diff(40)).max(c[2].abs_diff(30));
                        worst = worst.max(u32::from(off) * u32::from(a) / 255);
                    }
                }
            }
            // In codes of what is laid over a new ground.
            assert!(worst <= 8, "{side} {soft}: {worst}");
        }
    }

    #[test]
    fn any_size_and_any_matte_is_taken() {
        for (w, h) in [(1u32, 1u32), (2, 2), (1, 300), (300, 1), (65, 33)] {
            let n = (w * h) as usize;
            let image = BaseImage::new(w, h, vec![100; n * 3], None).unwrap();
            for value in [0u8, 1, 128, 255] {
                let out = estimate(&image, &vec![value; n]);
                let expected = if value == 0 { 0 } else { 100 };
                assert!(out.iter().all(|v| v.abs_diff(expected) <= 1), "{w}×{h} {value}: {:?}", &out[..3]);
            }
            assert!(estimate(&image, &[7]).len() == n * 3);
        }
    }

    #[test]
    fn the_result_is_the_same_on_any_number_of_threads() {
        let (image, mut alpha) = disc(333, 20.0, [1, 200, 90], [250, 20, 30]);
        alpha.iter_mut().step_by(7).for_each(|v| *v /= 2);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| estimate(&image, &alpha))
        };
        assert!(run(1) == run(3));
    }
}
