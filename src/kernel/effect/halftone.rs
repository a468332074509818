//! Halftones: a screen of round dots at 45 degrees, their area by tone.

use rayon::prelude::*;

use super::field::{DARKEST, Enlarged, Field, histogram, lightness, paint, scaled};
use super::tone::Levels;
use crate::kernel::color::{DECODE, ENCODE, OkLab, Rgb8, encode_index};
use crate::kernel::gamut;
use crate::kernel::image::{Raster, Rows as _};
use crate::kernel::simd::vectorize;

/// The angle of the screen: the least conspicuous.
const DEGREES: f32 = 45.0;

/// Prints `picture` with about `dots` dots along the mean side: in its own hues, dark dots on light paper, or, with
/// colours dark to light, in these, dots of each on the next lighter one.
pub(super) fn print(picture: &Raster, brand: Option<&[Rgb8]>, dots: f32) -> Raster {
    let cell = scaled(picture.width() as usize, picture.height() as usize, 1.0 / dots).max(3.0);
    match brand {
        Some(brand) => in_colors(picture, brand, cell),
        None => on_paper(picture, cell),
    }
}

/// Pixels that tones are averaged over: a third of a cell, so that edges cut through dots.
fn averaging(cell: f32) -> usize {
    ((cell / 3.0) as usize).max(1)
}

fn on_paper(picture: &Raster, cell: f32) -> Raster {
    let width = picture.width() as usize;
    let factor = averaging(cell);
    let planes = separate(picture, factor);
    let screen = Screen::new(DEGREES, cell);
    let enlarged: Vec<Enlarged<'_>> = planes.iter().map(|plane| Enlarged::new(plane, factor)).collect();
    let encode = &*ENCODE;
    paint(picture, |first, out| {
        let (mut between, mut tones, mut inked) = (Vec::new(), vec![0f32; width], vec![0f32; width]);
        let mut paper = vec![0f32; width];
        let mut light: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0f32; width]);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            enlarged[0].row(first + i, &mut between, &mut tones);
            screen.row(first + i, &tones, &mut inked);
            for (light, pair) in light.iter_mut().zip(enlarged[1..].chunks_exact(2)) {
                pair[0].row(first + i, &mut between, light);
                pair[1].row(first + i, &mut between, &mut paper);
                for ((light, paper), inked) in light.iter_mut().zip(&paper).zip(&inked) {
                    *light = paper + inked * (*light - paper);
                }
            }
            let [red, green, blue] = &light;
            for (((out, r), g), b) in out.iter_mut().zip(red).zip(green).zip(blue) {
                let [r, g, b] = [*r, *g, *b].map(|v| u32::from(encode[encode_index(v) as usize]));
                *out = r | g << 8 | b << 16 | 0xff00_0000;
            }
        }
    })
}

fn in_colors(picture: &Raster, brand: &[Rgb8], cell: f32) -> Raster {
    let light = lightness(picture, None);
    let width = light.width;
    let levels = Levels::new(&histogram(&light, picture.pixels()));
    let factor = averaging(cell);
    let mut tones = light.reduced(factor);
    drop(light);
    let steps = (brand.len() - 1) as f32;
    tones.values.iter_mut().for_each(|v| *v = levels.apply(*v) * steps);
    let screen = Screen::new(DEGREES, cell);
    let enlarged = Enlarged::new(&tones, factor);
    let lut = &*DECODE;
    let linear: Vec<[f32; 3]> = brand.iter().map(|c| [c.r, c.g, c.b].map(|v| lut[usize::from(v)])).collect();
    let encode = &*ENCODE;
    paint(picture, |first, out| {
        let (mut between, mut level) = (Vec::new(), vec![0f32; width]);
        let (mut tone, mut inked) = (vec![0f32; width], vec![0f32; width]);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            enlarged.row(first + i, &mut between, &mut level);
            for (tone, level) in tone.iter_mut().zip(&level) {
                // Small dots and small gaps are left out: they would read as noise.
                let share = 1.0 - (level - level.floor());
                *tone = ((share - 0.08) / 0.84).clamp(0.0, 1.0);
            }
            screen.row(first + i, &tone, &mut inked);
            for ((out, level), inked) in out.iter_mut().zip(&level).zip(&inked) {
                let darker = (*level as usize).min(linear.len() - 1);
                let lighter = (darker + 1).min(linear.len() - 1);
                let (dark, light) = (linear[darker], linear[lighter]);
                let [r, g, b] = [0, 1, 2]
                    .map(|c| u32::from(encode[encode_index(light[c] + inked * (dark[c] - light[c])) as usize]));
                *out = r | g << 8 | b << 16 | 0xff00_0000;
            }
        }
    })
}

/// Lightness of the ink for black and for white.
const INK: (f32, f32) = (0.05, 0.74);
/// Lightness of the paper for black and for white.
const PAPER: (f32, f32) = (0.66, 1.0);
/// Chroma that ink and paper gain.
const INK_CHROMA: f32 = 1.35;
const PAPER_CHROMA: f32 = 1.05;

/// The share of ink; then ink and paper in linear red, in green and in blue; reduced by `factor`. Both have the
/// picture's hue, and their mean its lightness.
fn separate(picture: &Raster, factor: usize) -> [Field; 7] {
    let light = lightness(picture, None);
    let levels = Levels::new(&histogram(&light, picture.pixels()));
    drop(light);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (columns, rows) = (width.div_ceil(factor), height.div_ceil(factor));
    let mut cells = vec![[0f32; 7]; columns * rows];
    let lut = &*DECODE;
    cells.par_chunks_mut(columns).enumerate().for_each(|(y, out)| {
        let lines = &picture.pixels()[y * factor * width..((y + 1) * factor * width).min(width * height)];
        let mut colors = vec![[0f32; 3]; 2 * columns];
        for (x, (out, colors)) in out.iter_mut().zip(colors.chunks_exact_mut(2)).enumerate() {
            let (left, right) = (x * factor, ((x + 1) * factor).min(width));
            let (mut sum, mut count) = ([0f32; 3], 0f32);
            for p in lines.chunks_exact(width).flat_map(|line| &line[left..right]).filter(|p| **p >> 24 != 0) {
                let [r, g, b, _] = p.to_le_bytes().map(|v| lut[usize::from(v)]);
                sum = [sum[0] + r, sum[1] + g, sum[2] + b];
                count += 1.0;
            }
            if count > 0.0 {
                let lab = OkLab::from_linear(sum.map(|v| (v / count).max(DARKEST)));
                let l = levels.apply(lab.l);
                let at = |(black, white): (f32, f32)| black + l * (white - black);
                let (ink, paper) = (at(INK), at(PAPER));
                out[0] = ((paper - l) / (paper - ink)).clamp(0.0, 1.0);
                let color = |l, chroma| OkLab { l, a: lab.a * chroma, b: lab.b * chroma }.to_linear();
                colors[0] = color(ink, INK_CHROMA);
                colors[1] = color(paper, PAPER_CHROMA);
            }
        }
        gamut::fit_all(&mut colors);
        for (out, colors) in out.iter_mut().zip(colors.chunks_exact(2)) {
            for c in 0..3 {
                out[1 + 2 * c] = colors[0][c];
                out[2 + 2 * c] = colors[1][c];
            }
        }
    });
    std::array::from_fn(|i| Field { width: columns, height: rows, values: cells.iter().map(|v| v[i]).collect() })
}

/// A screen of round dots.
struct Screen {
    /// Steps of the phases u and v, in cells, along x and along y.
    along_x: (f32, f32),
    along_y: (f32, f32),
    /// Steps of the spot function over a pixel, about.
    sharpness: f32,
    /// Per 256 steps of tone, the value of the spot function above which ink goes.
    limits: Vec<f32>,
}

/// Steps of tone in [`Screen::limits`].
const TONES: usize = 256;

impl Screen {
    fn new(degrees: f32, cell: f32) -> Self {
        let (sin, cos) = degrees.to_radians().sin_cos();
        // The values that the spot function takes over a cell, in order, say where each share of it is covered.
        const SIDE: usize = 64;
        let wave = |i: usize| (std::f32::consts::TAU * (i as f32 + 0.5) / SIDE as f32).cos();
        let mut values: Vec<f32> = (0..SIDE * SIDE).map(|i| 0.5 * (wave(i % SIDE) + wave(i / SIDE))).collect();
        values.sort_by(|x, y| y.total_cmp(x));
        let last = values.len() - 1;
        let mut limits: Vec<f32> = (0..=TONES).map(|t| values[t * last / TONES]).collect();
        // None and all of a cell are clear of soft edges.
        let sharpness = 0.42 * cell;
        limits[0] = 1.0 + 1.0 / sharpness;
        limits[TONES] = -1.0 - 1.0 / sharpness;
        Self { along_x: (cos / cell, -sin / cell), along_y: (sin / cell, cos / cell), sharpness, limits }
    }

    /// Writes the coverage, 0..=1, of row `y` given its tones.
    fn row(&self, y: usize, tone: &[f32], out: &mut [f32]) {
        let (u0, v0) = (y as f32 * self.along_y.0, y as f32 * self.along_y.1);
        let (u0, v0) = (u0 - u0.floor(), v0 - v0.floor());
        for (out, tone) in out.iter_mut().zip(tone) {
            let at = tone.clamp(0.0, 1.0) * (TONES as f32 - 0.01);
            let i = at as usize;
            *out = self.limits[i] + (at - i as f32) * (self.limits[i + 1] - self.limits[i]);
        }
        let ((ux, vx), sharpness) = (self.along_x, self.sharpness);
        vectorize(
            #[inline(always)]
            || {
                for (x, out) in out.iter_mut().enumerate() {
                    let x = x as u32 as i32 as f32;
                    let spot = 0.5 * (cosine(u0 + x * ux) + cosine(v0 + x * vx));
                    *out = (0.5 + (spot - *out) * sharpness).clamp(0.0, 1.0);
                }
            },
        );
    }
}

/// The cosine of `turns` whole turns, within 2e-3; below 2^22 turns.
#[inline(always)]
fn cosine(turns: f32) -> f32 {
    let whole = (turns + 12_582_912.0) - 12_582_912.0;
    let x = turns - whole;
    let s = x * x;
    1.0 + s * (-19.739_2 + s * (64.939_4 + s * (-85.456_8 + s * (60.244_6 + s * (-26.426_3 + s * 7.903_5)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_covers_the_share_it_is_asked_for() {
        for tone in [0.0f32, 0.1, 0.3, 0.5, 0.8, 1.0] {
            let screen = Screen::new(DEGREES, 9.0);
            let (tones, mut out, mut sum) = (vec![tone; 512], vec![0f32; 512], 0f64);
            for y in 0..512 {
                screen.row(y, &tones, &mut out);
                sum += out.iter().map(|v| f64::from(*v)).sum::<f64>();
            }
            let share = (sum / (512.0 * 512.0)) as f32;
            assert!((share - tone).abs() < 0.025, "{tone}: {share}");
        }
    }

    #[test]
    fn the_fast_cosine_is_near_the_cosine() {
        for i in -4000..4000 {
            let turns = i as f32 * 0.037;
            assert!((cosine(turns) - (std::f32::consts::TAU * turns).cos()).abs() < 4e-3, "{turns}");
        }
    }
}
