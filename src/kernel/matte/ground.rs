//! The ground of a picture, judged by its border: one to three flat colours, or a smooth [`Surface`].

use rayon::prelude::*;

use super::surface::{Surface, fit, grow};
use crate::kernel::image::BaseImage;
use crate::kernel::simd::vectorize;

/// Border pixels that are looked at, about.
const SAMPLES: usize = 3000;
/// Distances are kept as bytes in halves of a code.
pub(super) const HALVES: f32 = 2.0;

/// A colour in sRGB codes, 0..=255.
pub(super) type Color = [f32; 3];

/// Rounds what is not negative to a byte, 255 at most. Adding 2²³ leaves the rounded value in the low bits; a cast
/// would saturate, and cost.
#[inline(always)]
fn to_byte(v: f32) -> u8 {
    (v.min(255.0) + 8_388_608.0).to_bits() as u8
}

/// How far two colours are apart, in codes.
#[inline(always)]
pub(super) fn apart(x: Color, y: Color) -> f32 {
    let d = [x[0] - y[0], x[1] - y[1], x[2] - y[2]];
    (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()
}

/// The pixel at `at`.
#[inline(always)]
pub(super) fn color_at(rgb: &[u8], at: usize) -> Color {
    [f32::from(rgb[at * 3]), f32::from(rgb[at * 3 + 1]), f32::from(rgb[at * 3 + 2])]
}

/// What was found at the border.
#[derive(Debug, Clone)]
pub(super) struct Backdrop {
    pub shape: Shape,
    /// Share of the border's pixels that the model explains.
    pub inliers: f32,
    /// Median distance of neighbouring ground pixels, as that from the model: noise, in codes.
    pub noise: f32,
    /// Pixels up to here are ground, in codes.
    pub tight: f32,
    /// Pixels up to here may be ground where they hang together with such.
    pub loose: f32,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// One to three colours, the most frequent first.
    Flat(Vec<Color>),
    Surface(Surface),
}

impl Backdrop {
    /// Looks at the border of `image`. `None` where no model explains a fair part of it.
    pub fn find(image: &BaseImage) -> Option<Self> {
        let (ring, steps) = border(image);
        if ring.len() < 4 {
            return None;
        }
        let noise = median(steps) / std::f32::consts::SQRT_2;
        let tolerance = 3.0 + 3.0 * noise;
        let (colors, shares) = clusters(&ring, tolerance);
        let share_of = |model: &dyn Fn(&Sample) -> Color| {
            ring.iter().filter(|s| apart(s.color, model(s)) <= tolerance).count() as f32 / ring.len() as f32
        };
        let one = shares.first().copied().unwrap_or(0.0);
        let several: f32 = shares.iter().sum();
        // A subject cut by one side can drag a fit along: each side is left out by turns.
        let mut polynomial: Option<(f32, Surface)> = None;
        for side in [None, Some(0), Some(1), Some(2), Some(3)] {
            if let Some(surface) = fit(&ring, image, noise, side) {
                let share = share_of(&|s| surface.polynomial_at(s.x as f64, s.y as f64));
                if polynomial.as_ref().is_none_or(|best| share > best.0 + 0.01) {
                    polynomial = Some((share, surface));
                }
            }
            if one >= 0.97 || polynomial.as_ref().is_some_and(|best| best.0 >= 0.97) {
                break;
            }
        }
        let graded = polynomial.as_ref().map_or(0.0, |best| best.0);
        let (shape, inliers) = if one >= 0.4 && one + 0.03 >= graded && (one + 0.1 >= several || one > 0.75) {
            (Shape::Flat(vec![colors[0]]), one)
        } else if several > graded + 0.05 && several >= 0.8 {
            (Shape::Flat(colors), several)
        } else {
            let (graded, surface) = polynomial.filter(|best| best.0 >= 0.25)?;
            let (surface, share) = grow(surface, image, 5.0 + 3.0 * noise);
            (Shape::Surface(surface), share.max(graded))
        };
        let mut found = Self { shape, inliers, noise, tight: 0.0, loose: 0.0 };
        // Compression makes neighbours equal and still errs; texture, which errs much more, is not to pass for noise.
        let errors = ring.iter().map(|s| apart(s.color, found.at(s.x, s.y, s.color))).filter(|e| *e <= tolerance);
        found.noise = noise.max((median(errors.collect()) - 0.6).clamp(0.0, 2.0));
        found.set_limits();
        Some(found)
    }

    fn set_limits(&mut self) {
        (self.tight, self.loose) = if self.is_noisy() {
            // Of medians, whose noise is less.
            (2.0 + 1.8 * self.noise, 6.0 + 2.2 * self.noise)
        } else {
            (2.0 + 2.6 * self.noise, 6.0 + 4.5 * self.noise)
        };
        if matches!(self.shape, Shape::Surface(_)) {
            // A surface is less certain where it is not seen.
            self.tight += 1.5;
        }
    }

    /// Whether single pixels are too noisy to be judged.
    pub fn is_noisy(&self) -> bool {
        self.noise > 1.2
    }

    /// The ground's colour at a pixel whose own colour is `near`: of several flat ones the nearest.
    pub fn at(&self, x: usize, y: usize, near: Color) -> Color {
        match &self.shape {
            Shape::Surface(surface) => surface.at(x, y),
            Shape::Flat(colors) => {
                let mut best = (f32::MAX, near);
                for &c in colors {
                    let d = apart(c, near);
                    if d < best.0 {
                        best = (d, c);
                    }
                }
                best.1
            }
        }
    }

    /// Writes the ground's colours in row `y` into planes; of several flat ones the most frequent.
    pub fn line(&self, y: usize, planes: &mut [Vec<f32>; 3]) {
        match &self.shape {
            Shape::Surface(surface) => surface.row(y, planes),
            Shape::Flat(colors) => {
                let color = colors.first().copied().unwrap_or_default();
                planes.iter_mut().zip(color).for_each(|(plane, v)| plane.fill(v));
            }
        }
    }

    /// How far every pixel is from the ground, in halves of a code, 255 at most. What lies between two ground colours
    /// counts as loose ground; hidden pixels are ground.
    pub fn distances(&self, image: &BaseImage) -> Vec<u8> {
        let width = image.width() as usize;
        let mut out = vec![0u8; width * image.height() as usize];
        out.par_chunks_mut(width).zip(image.rgb().par_chunks(width * 3)).enumerate().for_each_init(
            || [vec![0f32; width], vec![0f32; width], vec![0f32; width]],
            |planes, (y, (out, rgb))| {
                let pixels = rgb.as_chunks::<3>().0;
                match &self.shape {
                    Shape::Flat(colors) => {
                        out.fill(255);
                        for &c in colors {
                            nearest(out, pixels, c);
                        }
                        let floor = ((self.tight + 0.5) * HALVES) as u8;
                        for (i, &a) in colors.iter().enumerate() {
                            for &b in &colors[..i] {
                                between(out, pixels, a, b, floor);
                            }
                        }
                    }
                    Shape::Surface(surface) => {
                        surface.row(y, planes);
                        let [r, g, b] = planes;
                        vectorize(
                            #[inline(always)]
                            || {
                                let ground = r.iter().zip(g.iter()).zip(b.iter());
                                for ((out, c), ((&r, &g), &b)) in out.iter_mut().zip(pixels).zip(ground) {
                                    let d = [f32::from(c[0]) - r, f32::from(c[1]) - g, f32::from(c[2]) - b];
                                    let d = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt() * HALVES;
                                    *out = to_byte(d);
                                }
                            },
                        );
                    }
                }
            },
        );
        if self.is_noisy() {
            out = quiet(&out, width, (4.0 * self.noise * HALVES).min(254.0) as u8);
        }
        if let Some(alpha) = image.alpha() {
            out.par_iter_mut().zip(alpha).for_each(|(out, &a)| {
                if a == 0 {
                    *out = 0;
                }
            });
        }
        out
    }
}

/// Quiets noise in distances: the median of 3 × 3, which keeps edges, or what stands out of the noise by itself, so
/// that strokes one pixel wide stay.
fn quiet(distances: &[u8], width: usize, noise: u8) -> Vec<u8> {
    let height = distances.len() / width;
    let mut out = distances.to_vec();
    if width < 3 {
        return out;
    }
    out.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
        let row = |y: usize| &distances[y * width..(y + 1) * width];
        let (above, below) = (row(y.saturating_sub(1)), row((y + 1).min(height - 1)));
        let here = row(y);
        let inner = &mut out[1..width - 1];
        vectorize(
            #[inline(always)]
            || {
                let columns = above.windows(3).zip(here.windows(3)).zip(below.windows(3));
                for (out, ((a, b), c)) in inner.iter_mut().zip(columns) {
                    let middle = median_of_nine([a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]]);
                    *out = middle.max(out.saturating_sub(noise));
                }
            },
        );
    });
    out
}

/// The median by the least number of exchanges (J. Smith 1996).
#[inline(always)]
fn median_of_nine(mut v: [u8; 9]) -> u8 {
    macro_rules! order {
        ($($i:literal $j:literal),*) => { $((v[$i], v[$j]) = (v[$i].min(v[$j]), v[$i].max(v[$j]));)* };
    }
    order!(1 2, 4 5, 7 8, 0 1, 3 4, 6 7, 1 2, 4 5, 7 8, 0 3, 5 8, 4 7, 3 6, 1 4, 2 5, 4 7, 4 2, 6 4, 4 2);
    v[4]
}

/// Lowers distances to that from `ground`.
fn nearest(out: &mut [u8], pixels: &[[u8; 3]], ground: Color) {
    vectorize(
        #[inline(always)]
        || {
            for (out, c) in out.iter_mut().zip(pixels) {
                let d = [f32::from(c[0]) - ground[0], f32::from(c[1]) - ground[1], f32::from(c[2]) - ground[2]];
                let d = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt() * HALVES;
                *out = (*out).min(to_byte(d));
            }
        },
    );
}

/// Lowers distances to that from the mixtures of two ground colours, but not below `floor`.
fn between(out: &mut [u8], pixels: &[[u8; 3]], a: Color, b: Color, floor: u8) {
    let way = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    let length = (way[0] * way[0] + way[1] * way[1] + way[2] * way[2]).max(1e-6);
    vectorize(
        #[inline(always)]
        || {
            for (out, c) in out.iter_mut().zip(pixels) {
                let d = [f32::from(c[0]) - a[0], f32::from(c[1]) - a[1], f32::from(c[2]) - a[2]];
                let t = ((d[0] * way[0] + d[1] * way[1] + d[2] * way[2]) / length).clamp(0.0, 1.0);
                let e = [d[0] - t * way[0], d[1] - t * way[1], d[2] - t * way[2]];
                let e = (e[0] * e[0] + e[1] * e[1] + e[2] * e[2]).sqrt() * HALVES;
                *out = (*out).min(to_byte(e).max(floor));
            }
        },
    );
}

/// A pixel of the border.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub x: usize,
    pub y: usize,
    pub color: Color,
    /// Top, bottom, left, right.
    pub side: u8,
}

/// Pixels of a ring along the border, evenly spread, and how far each is from its neighbour along the border.
fn border(image: &BaseImage) -> (Vec<Sample>, Vec<f32>) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let depth = (width.min(height) / 100).clamp(1, 12);
    let around = 2 * (width + height) * depth;
    let step = (around / SAMPLES).max(1);
    let (mut ring, mut steps) = (Vec::new(), Vec::new());
    let mut take = |x: usize, y: usize, next: (usize, usize), side: u8| {
        let visible = |x: usize, y: usize| image.alpha().is_none_or(|a| a[y * width + x] > 127);
        if !visible(x, y) {
            return;
        }
        let color = color_at(image.rgb(), y * width + x);
        ring.push(Sample { x, y, color, side });
        if next.0 < width && next.1 < height && visible(next.0, next.1) {
            steps.push(apart(color, color_at(image.rgb(), next.1 * width + next.0)));
        }
    };
    let mut count = 0;
    for d in 0..depth {
        for (side, y) in [(0, d), (1, height - 1 - d)] {
            for x in 0..width {
                count += 1;
                if count % step == 0 {
                    take(x, y, (x + 1, y), side);
                }
            }
        }
        for (side, x) in [(2, d), (3, width - 1 - d)] {
            for y in 0..height {
                count += 1;
                if count % step == 0 {
                    take(x, y, (x, y + 1), side);
                }
            }
        }
    }
    (ring, steps)
}

fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f32::total_cmp).1 }
}

/// Up to three colours that each hold a fair part of the border, and those parts.
fn clusters(ring: &[Sample], tolerance: f32) -> (Vec<Color>, Vec<f32>) {
    let mut left: Vec<Color> = ring.iter().map(|s| s.color).collect();
    let (mut colors, mut shares) = (Vec::new(), Vec::new());
    while colors.len() < 3 && !left.is_empty() {
        // The fullest of 16³ boxes, then means of what is near.
        let mut boxes = vec![0u32; 4096];
        let place = |c: &Color| (c[0] as usize >> 4) << 8 | (c[1] as usize >> 4) << 4 | c[2] as usize >> 4;
        left.iter().for_each(|c| boxes[place(c)] += 1);
        let fullest = (0..4096).rev().max_by_key(|&i| boxes[i]).unwrap_or(0);
        let mean_of = |keep: &dyn Fn(&Color) -> bool| {
            let (mut sum, mut n) = ([0f64; 3], 0f64);
            for c in left.iter().filter(|c| keep(c)) {
                (0..3).for_each(|i| sum[i] += f64::from(c[i]));
                n += 1.0;
            }
            sum.map(|v| (v / f64::max(n, 1.0)) as f32)
        };
        let mut color = mean_of(&|c| place(c) == fullest);
        for reach in [4.0, 2.0, 1.0, 1.0] {
            color = mean_of(&|c| apart(*c, color) <= reach * tolerance.max(8.0));
        }
        let before = left.len();
        left.retain(|c| apart(*c, color) > tolerance);
        let share = (before - left.len()) as f32 / ring.len() as f32;
        if share < 0.08 {
            break;
        }
        colors.push(color);
        shares.push(share);
    }
    (colors, shares)
}
