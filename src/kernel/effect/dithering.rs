//! The effect `dither`: few colours, and visible dots between them.
//!
//! Error diffusion by R. Floyd and L. Steinberg (1976), serpentine, and by B. Atkinson; ordered dithers by B. Bayer
//! (1973) and by void and cluster (R. Ulichney 1993). All in linear light, so that brightness is kept as seen from
//! afar.

use std::ops::RangeInclusive;

use rayon::prelude::*;

use super::allowed::{Allowed, Channels, ERROR_LIMIT, Greys, Levels, Palette};
use crate::kernel::color::{DECODE, Rgb8};
use crate::kernel::dither::{BLUE_NOISE, TILE};
use crate::kernel::image::{Raster, Rows as _};

/// How colours between the allowed ones are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DitherAlgorithm {
    /// Serpentine error diffusion: the finest detail.
    #[default]
    FloydSteinberg,
    /// Error diffusion that drops a quarter of the error: more contrast, clean lights and darks.
    Atkinson,
    /// An ordered 8×8 matrix: the crosshatch of early computers.
    Bayer,
    /// A blue-noise threshold: even grain without patterns.
    BlueNoise,
}

impl DitherAlgorithm {
    fn is_ordered(self) -> bool {
        matches!(self, Self::Bayer | Self::BlueNoise)
    }
}

/// A picture of few colours in visible dots: by default black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DitherEffect {
    /// How dots are set.
    pub algorithm: DitherAlgorithm,
    /// Levels of each channel, or of grey, in [`Self::LEVELS`]: evenly spaced sRGB codes. Brand colours take their
    /// place.
    pub levels: u8,
    /// Whether the levels are of grey. Without, up to 6 levels stay within the 256 colours of an indexed picture.
    pub grey: bool,
    /// Side of a dot in pixels, in [`Self::SCALE`]; `None` lets about 700 dots go along the geometric mean of the
    /// sides.
    pub scale: Option<u8>,
}

impl Default for DitherEffect {
    fn default() -> Self {
        Self { algorithm: DitherAlgorithm::FloydSteinberg, levels: 2, grey: true, scale: None }
    }
}

/// Dots along the mean side when they are not asked for.
const DOTS: f32 = 700.0;
/// Rows of dots that are read together, diffused one by one, and written together.
const ROWS: usize = 64;
/// Room for diffusion beyond either end of a row.
const MARGIN: usize = 2;
/// How far thresholds of diffusion move, in levels.
const JITTER: f32 = 0.2;
const SEED: u32 = 2026;
/// The palette entry of dots without a visible pixel.
const HIDDEN: u16 = u16::MAX;

impl DitherEffect {
    /// Range of [`Self::levels`].
    pub const LEVELS: RangeInclusive<u8> = 2..=16;
    /// Range of [`Self::scale`].
    pub const SCALE: RangeInclusive<u8> = 1..=64;

    pub(super) fn apply(&self, picture: &Raster, colors: Option<&[Rgb8]>) -> Raster {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let scale = match self.scale {
            Some(scale) => scale.clamp(*Self::SCALE.start(), *Self::SCALE.end()),
            None => (super::field::scaled(width, height, 1.0 / DOTS).round() as u8).clamp(1, *Self::SCALE.end()),
        };
        let levels = self.levels.clamp(*Self::LEVELS.start(), *Self::LEVELS.end());
        let dots = Dots { picture, scale: usize::from(scale) };
        let pixels = match colors {
            Some(colors) if !colors.is_empty() => {
                dots.render(self.algorithm, &Palette::new(colors, self.algorithm.is_ordered()))
            }
            _ if self.grey => dots.render(self.algorithm, &Greys(Levels::new(levels))),
            _ => dots.render(self.algorithm, &Channels(Levels::new(levels))),
        };
        Raster::of_length(picture.width(), picture.height(), pixels)
    }
}

/// A picture in square dots of `scale` pixels; those at the right and bottom edges may be cut.
struct Dots<'a> {
    picture: &'a Raster,
    scale: usize,
}

impl Dots<'_> {
    fn render<const C: usize>(&self, algorithm: DitherAlgorithm, allowed: &impl Allowed<C>) -> Vec<u32> {
        let (width, height) = (self.picture.width() as usize, self.picture.height() as usize);
        let (columns, rows) = (width.div_ceil(self.scale), height.div_ceil(self.scale));
        let colors = allowed.colors();
        let mut out = vec![0u32; width * height];
        let mut light = vec![[0f32; C]; ROWS.min(rows) * columns];
        let mut choices = vec![0u16; light.len()];
        let mut diffusion = Diffusion::new(algorithm, columns);
        for (part, out) in out.chunks_mut(ROWS * self.scale * width).enumerate() {
            let first = part * ROWS;
            let count = columns * out.len().div_ceil(self.scale * width);
            let (light, choices) = (&mut light[..count], &mut choices[..count]);
            light.par_chunks_mut(columns).zip(choices.par_chunks_mut(columns)).enumerate().for_each(
                |(i, (light, choices))| {
                    self.read(first + i, allowed, light, choices);
                    match algorithm {
                        DitherAlgorithm::Bayer => order(allowed, light, choices, |x| bayer(x, first + i)),
                        DitherAlgorithm::BlueNoise => order(allowed, light, choices, |x| blue_noise(x, first + i)),
                        DitherAlgorithm::FloydSteinberg | DitherAlgorithm::Atkinson => {}
                    }
                },
            );
            match algorithm {
                DitherAlgorithm::FloydSteinberg => {
                    diffusion.run(allowed, light, choices, diffuse_floyd_steinberg);
                }
                DitherAlgorithm::Atkinson => diffusion.run(allowed, light, choices, diffuse_atkinson),
                DitherAlgorithm::Bayer | DitherAlgorithm::BlueNoise => {}
            }
            out.par_chunks_mut(self.scale * width)
                .zip(choices.par_chunks(columns))
                .enumerate()
                .for_each(|(i, (out, choices))| self.write(first + i, &colors, choices, out));
        }
        out
    }

    /// Writes what counts of the mean light of the visible pixels of every dot in row `y`; dots without one get
    /// [`HIDDEN`], the others 0.
    fn read<const C: usize>(&self, y: usize, allowed: &impl Allowed<C>, light: &mut [[f32; C]], choices: &mut [u16]) {
        let (width, scale) = (self.picture.width() as usize, self.scale);
        let rows = y * scale * width..((y + 1) * scale * width).min(self.picture.pixels().len());
        let pixels = &self.picture.pixels()[rows];
        let lut = &*DECODE;
        for (x, (light, choice)) in light.iter_mut().zip(choices.iter_mut()).enumerate() {
            let (left, right) = (x * scale, ((x + 1) * scale).min(width));
            let (mut sum, mut count) = ([0f32; 3], 0f32);
            for row in pixels.chunks_exact(width) {
                for p in row[left..right].iter().filter(|p| **p >> 24 != 0) {
                    sum[0] += lut[(p & 255) as usize];
                    sum[1] += lut[(p >> 8 & 255) as usize];
                    sum[2] += lut[(p >> 16 & 255) as usize];
                    count += 1.0;
                }
            }
            *choice = if count > 0.0 { 0 } else { HIDDEN };
            *light = allowed.reduce(sum.map(|v| v / count.max(1.0)));
        }
    }

    /// Writes the pixels of a row of dots.
    fn write(&self, y: usize, colors: &[u32], choices: &[u16], out: &mut [u32]) {
        let width = self.picture.width() as usize;
        let pixels = &self.picture.pixels()[y * self.scale * width..];
        let (first, rest) = out.split_at_mut(width);
        for (out, choice) in first.chunks_mut(self.scale).zip(choices) {
            out.fill(colors.get(usize::from(*choice)).copied().unwrap_or(0));
        }
        rest.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(first));
        if self.picture.has_alpha() {
            for (out, p) in out.iter_mut().zip(pixels) {
                *out = if p >> 24 == 0 { 0 } else { *out & 0x00ff_ffff | p & 0xff00_0000 };
            }
        }
    }
}

fn order<const C: usize>(
    allowed: &impl Allowed<C>,
    light: &[[f32; C]],
    choices: &mut [u16],
    threshold: impl Fn(usize) -> f32,
) {
    for (x, (light, choice)) in light.iter().zip(choices).enumerate() {
        if *choice != HIDDEN {
            *choice = allowed.ordered(*light, threshold(x));
        }
    }
}

/// Bayer's 8×8 matrix: the bits of x ^ y and y, interleaved from the last.
fn bayer(x: usize, y: usize) -> f32 {
    let (a, b) = (x ^ y, y);
    let rank = (a & 1) << 5 | (b & 1) << 4 | (a & 2) << 2 | (b & 2) << 1 | (a & 4) >> 1 | (b & 4) >> 2;
    (rank as f32 + 0.5) / 64.0
}

fn blue_noise(x: usize, y: usize) -> f32 {
    (f32::from(BLUE_NOISE[y % TILE * TILE + x % TILE]) + 0.5) / (TILE * TILE) as f32
}

/// Errors on their way from row to row.
struct Diffusion<const C: usize> {
    /// Errors of the row at hand and of the next two, with [`MARGIN`] at both ends.
    errors: [Vec<[f32; C]>; 3],
    forward: bool,
    /// State of the generator that moves thresholds (Numerical Recipes' of 32 bits).
    random: u32,
}

impl<const C: usize> Diffusion<C> {
    fn new(algorithm: DitherAlgorithm, columns: usize) -> Self {
        let diffuses = matches!(algorithm, DitherAlgorithm::FloydSteinberg | DitherAlgorithm::Atkinson);
        let length = if diffuses { columns + 2 * MARGIN } else { 0 };
        Self { errors: std::array::from_fn(|_| vec![[0.0; C]; length]), forward: true, random: SEED }
    }

    /// Chooses the colours of rows, one after the other; `spread` passes on an error from a place in the first of three
    /// rows, 1 or −1 being the way ahead.
    #[inline(always)]
    fn run(
        &mut self,
        allowed: &impl Allowed<C>,
        light: &[[f32; C]],
        choices: &mut [u16],
        spread: impl Fn(&mut [Vec<[f32; C]>; 3], usize, isize, [f32; C]),
    ) {
        let columns = self.errors[0].len() - 2 * MARGIN;
        for (light, choices) in light.chunks_exact(columns).zip(choices.chunks_exact_mut(columns)) {
            let ahead = if self.forward { 1 } else { -1 };
            for step in 0..columns {
                let x = if self.forward { step } else { columns - 1 - step };
                if choices[x] == HIDDEN {
                    continue;
                }
                let mut wanted = light[x];
                for (w, e) in wanted.iter_mut().zip(self.errors[0][x + MARGIN]) {
                    *w += e.clamp(-ERROR_LIMIT, ERROR_LIMIT);
                }
                // A threshold that is never quite the same breaks up the worms of flat areas; it does not change what
                // is passed on.
                self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let jitter = ((self.random >> 16) as f32 * (2.0 / 65_535.0) - 1.0) * JITTER;
                let (choice, got) = allowed.nearest(wanted, jitter);
                choices[x] = choice;
                for (w, g) in wanted.iter_mut().zip(got) {
                    *w -= g;
                }
                spread(&mut self.errors, x + MARGIN, ahead, wanted);
            }
            self.errors[0].fill([0.0; C]);
            self.errors.rotate_left(1);
            self.forward = !self.forward;
        }
    }
}

#[inline(always)]
fn give<const C: usize>(row: &mut [[f32; C]], at: usize, error: [f32; C], share: f32) {
    if let Some(slot) = row.get_mut(at) {
        for (slot, e) in slot.iter_mut().zip(error) {
            *slot += share * e;
        }
    }
}

#[inline(always)]
fn diffuse_floyd_steinberg<const C: usize>(
    [here, below, _]: &mut [Vec<[f32; C]>; 3],
    x: usize,
    ahead: isize,
    error: [f32; C],
) {
    let (next, last) = (x.wrapping_add_signed(ahead), x.wrapping_add_signed(-ahead));
    give(here, next, error, 7.0 / 16.0);
    give(below, last, error, 3.0 / 16.0);
    give(below, x, error, 5.0 / 16.0);
    give(below, next, error, 1.0 / 16.0);
}

#[inline(always)]
fn diffuse_atkinson<const C: usize>(
    [here, below, second]: &mut [Vec<[f32; C]>; 3],
    x: usize,
    ahead: isize,
    error: [f32; C],
) {
    let (next, last) = (x.wrapping_add_signed(ahead), x.wrapping_add_signed(-ahead));
    give(here, next, error, 0.125);
    give(here, x.wrapping_add_signed(2 * ahead), error, 0.125);
    give(below, last, error, 0.125);
    give(below, x, error, 0.125);
    give(below, next, error, 0.125);
    give(second, x, error, 0.125);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALGORITHMS: [DitherAlgorithm; 4] = [
        DitherAlgorithm::FloydSteinberg,
        DitherAlgorithm::Atkinson,
        DitherAlgorithm::Bayer,
        DitherAlgorithm::BlueNoise,
    ];

    fn flat(code: u8) -> Raster {
        Raster::new(128, 128, vec![Rgb8::new(code, code, code).packed(); 128 * 128]).unwrap()
    }

    fn colorful() -> Raster {
        let pixel = |i: u32| Rgb8::new((i % 90) as u8 * 2, (i / 45) as u8, (i % 251) as u8).packed();
        Raster::new(90, 70, (0..90 * 70).map(pixel).collect()).unwrap()
    }

    fn mean(raster: &Raster) -> f32 {
        raster.pixels().iter().map(|p| DECODE[(p & 255) as usize]).sum::<f32>() / raster.pixels().len() as f32
    }

    #[test]
    fn only_allowed_colors_come_out() {
        let brand: Vec<Rgb8> = ["#264653", "#2A9D8F", "#E9C46A"].iter().map(|c| c.parse().unwrap()).collect();
        for algorithm in ALGORITHMS {
            for scale in [None, Some(3)] {
                let effect = |levels, grey| DitherEffect { algorithm, levels, grey, scale };
                let out = effect(2, true).apply(&colorful(), Some(&brand));
                assert!(out.pixels().iter().all(|p| brand.contains(&Rgb8::from_packed(*p))), "{algorithm:?}");
                let out = effect(4, true).apply(&colorful(), None);
                assert!(out.pixels().iter().all(|p| {
                    let [r, g, b, _] = p.to_le_bytes();
                    r == g && g == b && r % 85 == 0
                }));
                let out = effect(6, false).apply(&colorful(), None);
                assert!(out.pixels().iter().all(|p| p.to_le_bytes()[..3].iter().all(|v| v % 51 == 0)));
                assert!(out.palette().is_some());
            }
        }
    }

    #[test]
    fn brightness_is_kept_in_linear_light() {
        for code in [20u8, 60, 128, 188, 230] {
            for levels in [2u8, 5] {
                for algorithm in [DitherAlgorithm::FloydSteinberg, DitherAlgorithm::Bayer, DitherAlgorithm::BlueNoise] {
                    let effect = DitherEffect { algorithm, levels, ..DitherEffect::default() };
                    let (got, wanted) = (mean(&effect.apply(&flat(code), None)), DECODE[usize::from(code)]);
                    assert!((got - wanted).abs() < 0.01, "{algorithm:?} {levels} {code}: {got} {wanted}");
                }
            }
        }
    }

    #[test]
    fn no_error_crosses_hidden_pixels() {
        // Left and right of a hidden stripe, and under a hidden row, as if the other side were not there.
        let split = |left: u8| {
            let pixels = (0..64 * 32).map(|i| match i % 64 {
                0..30 => Rgb8::new(left, left, left).packed(),
                30..34 => 0,
                _ => Rgb8::new(120, 120, 120).packed(),
            });
            Raster::new(64, 32, pixels.collect()).unwrap()
        };
        for algorithm in ALGORITHMS {
            let effect = DitherEffect { algorithm, ..DitherEffect::default() };
            let (x, y) = (effect.apply(&split(100), None), effect.apply(&split(180), None));
            let rows = x.pixels().chunks(64).zip(y.pixels().chunks(64));
            assert!(rows.clone().all(|(x, y)| x[34..] == y[34..] && x[30..34] == [0; 4]), "{algorithm:?}");
        }
    }

    #[test]
    fn every_threshold_of_the_matrix_occurs_once_and_neighbors_differ_by_half() {
        let mut ranks: Vec<usize> = (0..64).map(|i| (bayer(i % 8, i / 8) * 64.0) as usize).collect();
        ranks.sort_unstable();
        assert!(ranks.iter().enumerate().all(|(i, &r)| i == r));
        assert!((bayer(0, 0) - bayer(1, 0)).abs() >= 0.5 - 1e-6);
    }

    #[test]
    fn dots_are_squares_of_the_scale() {
        let effect = DitherEffect { scale: Some(4), ..DitherEffect::default() };
        let out = effect.apply(&colorful(), None);
        for (y, row) in out.pixels().chunks(90).enumerate() {
            for (x, pixel) in row.iter().enumerate() {
                assert_eq!(*pixel, out.pixels()[y / 4 * 4 * 90 + x / 4 * 4]);
            }
        }
    }
}
