//! A picture as a few flat shapes of rising lightness, with ink lines on their edges.
//!
//! Lightness is smoothed by a guided filter whose coefficients come from a reduced picture (K. He, J. Sun, X. Tang
//! 2013; K. He, J. Sun 2015), divided into levels by the Lloyd–Max quantiser (S. Lloyd 1982), and outlined by a
//! difference of Gaussians (XDoG, H. Winnemöller, J. Kyprianidis, S. Olsen 2012). Fields are reduced, thresholds are
//! applied at full resolution: contours are crisp at any size.

use rayon::prelude::*;

use super::field::{BAND, Enlarged, Field, bin, histogram, kernel, lightness, reduction, scaled};
use crate::kernel::color::{DECODE, Rgb8, encode_srgb};
use crate::kernel::image::Raster;
use crate::kernel::simd::vectorize;

/// The most levels there can be.
pub(super) const MAX_LEVELS: usize = 10;

/// Steps of the share of a second level in a pixel on a contour, and of the share of ink. With five levels all mixtures
/// and the levels themselves are 226 colours, few enough for an indexed picture.
const SHARES: usize = 5;
const INKS: usize = 5;

/// Longer side, in pixels, of the reduced picture that smoothing and lines are worked out on.
const WORKING_SIDE: usize = 1024;
/// Standard deviation of the guided filter's window, as a share of the picture's size.
const WINDOW: f32 = 0.006;
/// Variance of lightness in a window that is half kept.
const KEPT_VARIANCE: f32 = 0.002;
/// Standard deviation of the blur that rounds contours.
const ROUNDING: f32 = 0.0012;
/// How far from an edge its two sides are looked for, to leave out the levels in between.
const REACH: f32 = 0.0020;
/// Standard deviation of the finer Gaussian of the outline, and the ratio to the coarser.
const LINE: f32 = 0.0015;
const LINE_RATIO: f32 = 1.6;
/// Differences of lightness at which a line begins and at which it is full, at outline 0.5.
const LINE_ENDS: (f32, f32) = (0.009, 0.0135);
/// Rise from no ink to full ink over the first difference.
const LINE_STEEPNESS: f32 = LINE_ENDS.0 / (LINE_ENDS.1 - LINE_ENDS.0);
/// Change of lightness per pixel below which a contour is drawn softly: it may be noise.
const LEAST_SLOPE: f32 = 0.003;

/// Which levels, in which shares and under how much ink, every pixel has.
pub(super) struct Shapes {
    levels: usize,
    /// Row-major; indices into [`Shapes::table`].
    states: Vec<u16>,
}

impl Shapes {
    /// Shapes of `levels` levels, 2..=[`MAX_LEVELS`]; `outline`, 0..=1, is how readily lines are drawn.
    pub fn new(picture: &Raster, levels: usize, outline: f32) -> Self {
        let levels = levels.clamp(2, MAX_LEVELS);
        let light = lightness(picture, None);
        let (width, height) = (light.width, light.height);
        let factor = reduction(width, height, WORKING_SIDE);
        let small = light.reduced(factor);
        let (gain, offset) = guide(&small);
        let lines = (outline > 0.0).then(|| {
            let smooth: Vec<f32> =
                small.values.iter().zip(&gain.values).zip(&offset.values).map(|((v, a), b)| a * v + b).collect();
            outlines(&Field { values: smooth, ..small })
        });
        let smooth = smoothed(&light, &gain, &offset, factor);
        drop(light);
        let thresholds = Thresholds::new(&histogram(&smooth, picture.pixels()), levels);
        let scale = if outline > 0.0 { 1.0 / (LINE_ENDS.0 * 2f32.powf(1.0 - 2.0 * outline)) } else { 0.0 };
        let mut states = vec![0u16; width * height];
        let codes: Vec<u8> = {
            let mut codes = vec![0u8; width * height];
            let piece = BAND * width;
            codes.par_chunks_mut(piece).zip(smooth.values.par_chunks(piece)).for_each(|(codes, values)| {
                codes.iter_mut().zip(values).for_each(|(code, v)| *code = bin(*v) as u8);
            });
            codes
        };
        let reach = (scaled(width, height, REACH).round() as usize).clamp(2, 12);
        let ink = lines.as_ref().map(|lines| Enlarged::new(lines, factor));
        states.par_chunks_mut(BAND * width).enumerate().for_each(|(band, out)| {
            let first = band * BAND;
            let extremes = Extremes::new(&codes, width, height, first, out.len() / width, reach);
            let (mut low, mut high) = (vec![0u8; width], vec![0u8; width]);
            let (mut between, mut line, mut inked) = (Vec::new(), vec![0f32; width], vec![0u16; width]);
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let y = first + i;
                extremes.row(i, &mut low, &mut high);
                if let Some(ink) = &ink {
                    ink.row(y, &mut between, &mut line);
                }
                let (above, row, below) = (smooth.row(y.saturating_sub(1)), smooth.row(y), smooth.row(y + 1));
                vectorize(
                    #[inline(always)]
                    || {
                        for (inked, line) in inked.iter_mut().zip(&line) {
                            let share = ((-line * scale - 1.0) * LINE_STEEPNESS).clamp(0.0, 1.0);
                            // Adding 2^23 leaves the rounded value in the low bits; a cast would saturate.
                            *inked = (share * (INKS - 1) as f32 + 8_388_608.0).to_bits() as u16 & 7;
                        }
                    },
                );
                let extremes = low.iter().zip(&high).zip(&inked);
                for (x, (state, ((&low, &high), &ink))) in out.iter_mut().zip(extremes).enumerate() {
                    let (mut from, mut to) = (thresholds.level(low), thresholds.level(high));
                    let mut share = 0;
                    if from != to {
                        let middle = thresholds.between(from, to, low, high);
                        let (left, right) = (row[x.saturating_sub(1)], row[(x + 1).min(width - 1)]);
                        let (dx, dy) = (0.5 * (right - left), 0.5 * (below[x] - above[x]));
                        let slope = (dx * dx + dy * dy).sqrt().max(LEAST_SLOPE);
                        let at = (0.5 + (row[x] - middle) / slope).clamp(0.0, 1.0);
                        share = (at * SHARES as f32 + 0.5) as usize;
                        if share == 0 {
                            to = from;
                        } else if share == SHARES {
                            (from, share) = (to, 0);
                        }
                    }
                    *state = (((from * levels + to) * SHARES + share) * INKS) as u16 + ink;
                }
            }
        });
        Self { levels, states }
    }

    /// Indices into a [`Shapes::table`], row-major.
    pub fn states(&self) -> &[u16] {
        &self.states
    }

    /// The packed opaque colour of every state, given the colour of each level; of missing ones the last.
    pub fn table(&self, colors: &[Rgb8], ink: Rgb8) -> Vec<u32> {
        let lut = &*DECODE;
        let linear = |c: Rgb8| [c.r, c.g, c.b].map(|v| lut[usize::from(v)]);
        let mix = |x: [f32; 3], y: [f32; 3], t: f32| std::array::from_fn(|c| x[c] + t * (y[c] - x[c]));
        let of_level = |level: usize| linear(colors.get(level).or(colors.last()).copied().unwrap_or_default());
        let count = self.levels * self.levels * SHARES * INKS;
        let color = |state: usize| {
            let (pair, share, inked) = (state / (SHARES * INKS), state / INKS % SHARES, state % INKS);
            let (from, to) = (of_level(pair / self.levels), of_level(pair % self.levels));
            let flat: [f32; 3] = mix(from, to, share as f32 / SHARES as f32);
            let [r, g, b]: [f32; 3] = mix(flat, linear(ink), inked as f32 / (INKS - 1) as f32);
            Rgb8::new(encode_srgb(r), encode_srgb(g), encode_srgb(b)).packed()
        };
        (0..count).map(color).collect()
    }
}

/// Coefficients of a guided filter that guides itself: a smoothed value is gain · value + offset.
fn guide(small: &Field) -> (Field, Field) {
    let sigma = scaled(small.width, small.height, WINDOW).clamp(0.8, 12.0);
    let map = |x: &Field, y: &Field, f: &(dyn Fn(f32, f32) -> f32 + Sync)| Field {
        values: x.values.iter().zip(&y.values).map(|(x, y)| f(*x, *y)).collect(),
        ..*x
    };
    let mean = small.blurred(sigma);
    let square = map(small, small, &|x, _| x * x).blurred(sigma);
    let gain = map(&mean, &square, &|mean, square| {
        let variance = (square - mean * mean).max(0.0);
        variance / (variance + KEPT_VARIANCE)
    });
    let offset = map(&mean, &gain, &|mean, gain| mean * (1.0 - gain));
    (gain.blurred(sigma), offset.blurred(sigma))
}

/// The smoothed lightness at full resolution.
fn smoothed(light: &Field, gain: &Field, offset: &Field, factor: usize) -> Field {
    let width = light.width;
    let rounding = kernel(scaled(width, light.height, ROUNDING).clamp(0.45, 10.0));
    let (gain, offset) = (Enlarged::new(gain, factor), Enlarged::new(offset, factor));
    let mut values = vec![0f32; light.values.len()];
    values.par_chunks_mut(BAND * width).enumerate().for_each(|(band, out)| {
        light.blur_rows(band * BAND, &rounding, out);
        let (mut between, mut a, mut b) = (Vec::new(), vec![0f32; width], vec![0f32; width]);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            gain.row(band * BAND + i, &mut between, &mut a);
            offset.row(band * BAND + i, &mut between, &mut b);
            for ((v, a), b) in out.iter_mut().zip(&a).zip(&b) {
                *v = a * *v + b;
            }
        }
    });
    Field { values, ..*light }
}

/// The finer Gaussian less the coarser: below 0 on the dark side of edges.
fn outlines(smooth: &Field) -> Field {
    let sigma = scaled(smooth.width, smooth.height, LINE).clamp(0.7, 8.0);
    let mut fine = smooth.blurred(sigma);
    let coarse = smooth.blurred(LINE_RATIO * sigma);
    fine.values.iter_mut().zip(&coarse.values).for_each(|(f, c)| *f -= c);
    fine
}

/// Where one level of lightness ends and the next begins.
struct Thresholds {
    ends: Vec<f32>,
    of_code: [u8; 256],
}

impl Thresholds {
    /// The quantiser of least error, started half-way between even steps and even shares of the pixels.
    fn new(counts: &[u32; 256], levels: usize) -> Self {
        let total: f64 = counts.iter().map(|&c| f64::from(c)).sum();
        let share = |i: usize| (i as f32 + 0.5) / levels as f32;
        let mut centers: Vec<f32> = if total > 0.0 {
            let (low, high) = (super::field::percentile(counts, 0.005), super::field::percentile(counts, 0.995));
            let even = |i: usize| if high - low > 0.1 { low + share(i) * (high - low) } else { share(i) };
            let start = |i| 0.5 * (even(i) + super::field::percentile(counts, f64::from(share(i))));
            (0..levels).map(start).collect()
        } else {
            (0..levels).map(share).collect()
        };
        for _ in 0..12 {
            let mut sums = vec![(0f64, 0f64); levels];
            let mut level = 0;
            for (code, &count) in counts.iter().enumerate() {
                let v = code as f32 / 255.0;
                while level + 1 < levels && v > 0.5 * (centers[level] + centers[level + 1]) {
                    level += 1;
                }
                sums[level].0 += f64::from(count) * f64::from(v);
                sums[level].1 += f64::from(count);
            }
            for (center, (sum, count)) in centers.iter_mut().zip(sums) {
                if count > 0.0 {
                    *center = (sum / count) as f32;
                }
            }
        }
        let ends: Vec<f32> = centers.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        let of_code = std::array::from_fn(|code| ends.iter().filter(|e| code as f32 / 255.0 > **e).count() as u8);
        Self { ends, of_code }
    }

    #[inline(always)]
    fn level(&self, code: u8) -> usize {
        usize::from(self.of_code[usize::from(code)])
    }

    /// Where, between the darkest and the lightest value nearby, one of their levels changes to the other: half-way
    /// across an edge, but at the threshold in a gradient.
    #[inline(always)]
    fn between(&self, from: usize, to: usize, low: u8, high: u8) -> f32 {
        if to - from == 1 { self.ends[from] } else { (f32::from(low) + f32::from(high)) * (0.5 / 255.0) }
    }
}

/// The least and the greatest code within a square around every pixel, for a band of rows.
struct Extremes {
    width: usize,
    reach: usize,
    /// Extremes along each row, with `reach` rows of margin.
    low: Vec<u8>,
    high: Vec<u8>,
}

impl Extremes {
    fn new(codes: &[u8], width: usize, height: usize, first: usize, rows: usize, reach: usize) -> Self {
        let length = (rows + 2 * reach) * width;
        let (mut low, mut high) = (vec![0u8; length], vec![0u8; length]);
        let mut padded = vec![0u8; width + 2 * reach];
        for (i, (low, high)) in low.chunks_exact_mut(width).zip(high.chunks_exact_mut(width)).enumerate() {
            let y = (first + i).saturating_sub(reach).min(height - 1);
            let row = &codes[y * width..][..width];
            padded[..reach].fill(row[0]);
            padded[reach..reach + width].copy_from_slice(row);
            padded[reach + width..].fill(row[width - 1]);
            low.copy_from_slice(row);
            high.copy_from_slice(row);
            vectorize(
                #[inline(always)]
                || {
                    for shift in 0..=2 * reach {
                        for ((low, high), &v) in low.iter_mut().zip(high.iter_mut()).zip(&padded[shift..]) {
                            *low = (*low).min(v);
                            *high = (*high).max(v);
                        }
                    }
                },
            );
        }
        Self { width, reach, low, high }
    }

    /// Writes the extremes of the band's row `i`.
    fn row(&self, i: usize, low: &mut [u8], high: &mut [u8]) {
        let row = |plane: &'_ [u8], at: usize| -> std::ops::Range<usize> {
            debug_assert!((at + 1) * self.width <= plane.len());
            at * self.width..(at + 1) * self.width
        };
        low.copy_from_slice(&self.low[row(&self.low, i)]);
        high.copy_from_slice(&self.high[row(&self.high, i)]);
        vectorize(
            #[inline(always)]
            || {
                for at in i + 1..=i + 2 * self.reach {
                    let lows = &self.low[at * self.width..][..self.width];
                    let highs = &self.high[at * self.width..][..self.width];
                    for (out, &v) in low.iter_mut().zip(lows) {
                        *out = (*out).min(v);
                    }
                    for (out, &v) in high.iter_mut().zip(highs) {
                        *out = (*out).max(v);
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_lie_in_the_gaps_between_what_there_is() {
        let mut counts = [0u32; 256];
        for center in [20usize, 90, 160, 240] {
            counts[center - 3..center + 4].fill(100);
        }
        let thresholds = Thresholds::new(&counts, 4);
        let levels = [20u8, 90, 160, 240].map(|code| thresholds.level(code));
        assert_eq!(levels, [0, 1, 2, 3]);
        assert!(thresholds.ends.iter().all(|e| counts[(e * 255.0) as usize] == 0), "{:?}", thresholds.ends);
    }

    #[test]
    fn the_extremes_are_those_of_the_square_around() {
        let (width, height, reach) = (23, 17, 2);
        let codes: Vec<u8> = (0..width * height).map(|i| (i * 97 % 251) as u8).collect();
        let extremes = Extremes::new(&codes, width, height, 5, 6, reach);
        let (mut low, mut high) = (vec![0; width], vec![0; width]);
        for i in 0..6 {
            extremes.row(i, &mut low, &mut high);
            for x in 0..width {
                let near = (0..width * height)
                    .filter(|at| (at % width).abs_diff(x) <= reach && (at / width).abs_diff(5 + i) <= reach)
                    .map(|at| codes[at]);
                assert_eq!((Some(low[x]), Some(high[x])), (near.clone().min(), near.max()));
            }
        }
    }

    #[test]
    fn an_edge_between_far_levels_shows_no_level_in_between() {
        // A blurred edge from dark to light, and areas of every level, so that thresholds lie in between.
        let light = |x: usize, y: usize| match (x, y) {
            (_, 0..60) => (x / 40 * 40 + 20) as u8,
            (0..100, _) => 20,
            (100, _) => 100,
            (101, _) => 170,
            _ => 240,
        };
        let pixels = (0..240 * 160).map(|i| light(i % 240, i / 240)).map(|v| Rgb8::new(v, v, v).packed()).collect();
        let shapes = Shapes::new(&Raster::new(240, 160, pixels).unwrap(), 5, 0.0);
        let row = &shapes.states()[120 * 240..121 * 240];
        let pairs: Vec<usize> = row.iter().map(|s| usize::from(*s) / (SHARES * INKS)).collect();
        assert!(pairs.iter().all(|pair| [0, 4].contains(&(pair / 5)) && [0, 4].contains(&(pair % 5))), "{pairs:?}");
    }
}
