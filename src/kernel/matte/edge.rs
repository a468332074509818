//! The unknown band between subject and ground: alpha and clean colour of mixed pixels.
//!
//! C = αF + (1 − α)B with B known leaves F: of the sure foreground near by, the colour whose line to B comes closest to
//! C (as in robust matting, J. Wang, M. Cohen 2007). Strokes too thin to have any take the most distant colour of the
//! same direction near by.

use rayon::prelude::*;

use super::extent::{SHADOW, SUBJECT, least_around, most_around};
use super::ground::{Backdrop, Color, apart, color_at};
use crate::kernel::image::BaseImage;
use crate::kernel::simd::vectorize;

/// Side of the cells that remember the most distant colour.
const CELL: usize = 16;
/// Depth from which on a pixel is sure foreground.
const SURE: u8 = 3;
/// Marks ground next to the subject.
const RIM: u8 = 128;
/// Marks ground in a soft shadow.
const SHADED: u8 = 64;
/// Reach of the search for sure foreground and ground.
const REACH: i32 = 3;
/// Sure foreground colours that are tried.
const TRIES: usize = 8;

/// What came of the band.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Pixels of the band.
    pub band: u64,
    /// Sum of what the mixture left unexplained, in codes.
    pub miss: f64,
    /// Sum of the contrasts |F − B|, in codes.
    pub contrast: f64,
    /// Pixels of sure foreground.
    pub sure: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            band: self.band + other.band,
            miss: self.miss + other.miss,
            contrast: self.contrast + other.contrast,
            sure: self.sure + other.sure,
        }
    }
}

/// A neighbour's place.
#[derive(Debug, Clone, Copy)]
struct Offset {
    x: i32,
    y: i32,
    /// In the plane.
    step: isize,
    distance: f32,
}

/// Neighbours within the reach, nearest first.
fn offsets(width: usize) -> Vec<Offset> {
    let places = (-REACH..=REACH).flat_map(|y| (-REACH..=REACH).map(move |x| (x, y))).filter(|&o| o != (0, 0));
    let mut all: Vec<Offset> = places
        .map(|(x, y)| {
            let distance = ((x * x + y * y) as f32).sqrt();
            Offset { x, y, step: y as isize * width as isize + x as isize, distance }
        })
        .collect();
    all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then((a.y, a.x).cmp(&(b.y, b.x))));
    all
}

/// Chessboard depth inside the subject, [`SURE`] at most; 0 on ground, [`SHADED`] in shadow, both with [`RIM`] next to
/// the subject.
fn marks(class: &[u8], width: usize) -> Vec<u8> {
    let mut solid: Vec<u8> = class.to_vec();
    solid.par_iter_mut().for_each(|v| *v = if *v == SUBJECT { 255 } else { 0 });
    let grown = most_around(&solid, width, 1);
    let once = least_around(&solid, width, 1);
    let twice = least_around(&once, width, 1);
    let planes = solid.par_chunks_mut(width).zip(grown.par_chunks(width)).zip(once.par_chunks(width));
    planes.zip(twice.par_chunks(width)).zip(class.par_chunks(width)).for_each(
        |((((solid, grown), once), twice), class)| {
            vectorize(
                #[inline(always)]
                || {
                    let planes = solid.iter_mut().zip(grown).zip(once).zip(twice).zip(class);
                    for ((((out, g), o), t), c) in planes {
                        let depth = (*out & 1) + (o & 1) + (t & 1);
                        let shaded = if *c == SHADOW { SHADED } else { 0 };
                        *out = if depth == 0 { g & RIM | shaded } else { depth };
                    }
                },
            );
        },
    );
    solid
}

struct Scene<'a> {
    rgb: &'a [u8],
    marks: Vec<u8>,
    width: usize,
    height: usize,
    backdrop: &'a Backdrop,
    offsets: Vec<Offset>,
    /// The most distant colour of each cell and how distant it is.
    extremes: Vec<(f32, Color)>,
    columns: usize,
    /// Codes up to which a difference means nothing.
    dirt: f32,
}

/// Alpha, colours (black where alpha is 0) and a tally. `dirt`: how far ground next to edges strays, in codes.
pub(super) fn resolve(image: &BaseImage, class: &[u8], backdrop: &Backdrop, dirt: f32) -> (Vec<u8>, Vec<u8>, Tally) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut scene = Scene {
        rgb: image.rgb(),
        marks: marks(class, width),
        width,
        height,
        backdrop,
        offsets: offsets(width),
        extremes: Vec::new(),
        columns: width.div_ceil(CELL),
        dirt,
    };
    scene.extremes = scene.find_extremes();
    let mut alpha = vec![0u8; class.len()];
    let mut rgb = vec![0u8; class.len() * 3];
    let tallies: Vec<Tally> = alpha
        .par_chunks_mut(width * 16)
        .zip(rgb.par_chunks_mut(width * 48))
        .enumerate()
        .map(|(band, (alpha, rgb))| {
            let rows = alpha.chunks_mut(width).zip(rgb.chunks_mut(width * 3)).enumerate();
            rows.fold(Tally::default(), |tally, (i, (alpha, rgb))| tally.plus(scene.row(band * 16 + i, alpha, rgb)))
        })
        .collect();
    (alpha, rgb, tallies.into_iter().fold(Tally::default(), Tally::plus))
}

impl Scene<'_> {
    fn find_extremes(&self) -> Vec<(f32, Color)> {
        let rows = self.height.div_ceil(CELL);
        let mut extremes = vec![(0f32, [0f32; 3]); self.columns * rows];
        extremes.par_chunks_mut(self.columns).enumerate().for_each(|(cy, extremes)| {
            for y in cy * CELL..((cy + 1) * CELL).min(self.height) {
                let marks = &self.marks[y * self.width..(y + 1) * self.width];
                for (extreme, (cx, part)) in extremes.iter_mut().zip(marks.chunks(CELL).enumerate()) {
                    let any = part.iter().fold(false, |any, &d| any | (d == 1) | (d == 2));
                    if !any {
                        continue;
                    }
                    for (i, &d) in part.iter().enumerate() {
                        if d == 1 || d == 2 {
                            let x = cx * CELL + i;
                            let c = color_at(self.rgb, y * self.width + x);
                            let far = apart(c, self.backdrop.at(x, y, c));
                            if far > extreme.0 {
                                *extreme = (far, c);
                            }
                        }
                    }
                }
            }
        });
        extremes
    }

    fn row(&self, y: usize, alpha: &mut [u8], rgb: &mut [u8]) -> Tally {
        let mut tally = Tally::default();
        let at = y * self.width;
        let marks = &self.marks[at..at + self.width];
        let source = &self.rgb[at * 3..(at + self.width) * 3];
        let mut plain = 0;
        // Stretches of sure foreground are copied; all others but bare ground are looked at one by one.
        for start in (0..self.width).step_by(64) {
            let span = start..(start + 64).min(self.width);
            let (any, all) = marks[span.clone()].iter().fold((0u8, 255u8), |(any, all), &m| (any | m, all & m));
            if any == 0 {
                continue;
            }
            if all == SURE && any == SURE {
                alpha[span.clone()].fill(255);
                rgb[span.start * 3..span.end * 3].copy_from_slice(&source[span.start * 3..span.end * 3]);
                plain += span.len() as u64;
                continue;
            }
            for x in span {
                let out = &mut rgb[x * 3..x * 3 + 3];
                let (a, color) = match marks[x] {
                    0 => continue,
                    SURE => {
                        plain += 1;
                        alpha[x] = 255;
                        out.copy_from_slice(&source[x * 3..x * 3 + 3]);
                        continue;
                    }
                    SHADED => {
                        let (a, _) = self.shadow(x, y);
                        (a, self.unmix(color_at(source, x), a, self.backdrop.at(x, y, color_at(source, x))))
                    }
                    _ => self.mixed(x, y, &mut tally),
                };
                let code = (a * 255.0 + 0.5) as u8;
                alpha[x] = code;
                if code > 0 {
                    for (out, v) in out.iter_mut().zip(color) {
                        *out = (v + 0.5).clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
        tally.sure += plain;
        tally
    }

    /// Opacity of the black that makes a shadow of the ground, and the ground.
    fn shadow(&self, x: usize, y: usize) -> (f32, Color) {
        let c = color_at(self.rgb, y * self.width + x);
        let b = self.backdrop.at(x, y, c);
        let length = (b[0] * b[0] + b[1] * b[1] + b[2] * b[2]).max(1.0);
        let a = 1.0 - (c[0] * b[0] + c[1] * b[1] + c[2] * b[2]) / length;
        (soft_floor(a, self.dirt.max(1.0) / length.sqrt()).clamp(0.0, 1.0), b)
    }

    /// The colour that, `a` opaque over `b`, gives `c`.
    fn unmix(&self, c: Color, a: f32, b: Color) -> Color {
        let inverse = 1.0 / a.max(1e-3);
        std::array::from_fn(|i| ((c[i] - (1.0 - a) * b[i]) * inverse).clamp(0.0, 255.0))
    }

    /// The marked neighbours, nearest first: place in the plane and distance.
    #[inline(always)]
    fn around(&self, x: usize, y: usize, reach: i32) -> impl Iterator<Item = (usize, f32)> {
        let at = y * self.width + x;
        let r = reach as usize;
        let inside = x >= r && y >= r && x + r < self.width && y + r < self.height;
        let (w, h) = (self.width as i32, self.height as i32);
        let count = if reach < REACH { 24 } else { self.offsets.len() };
        self.offsets[..count].iter().filter_map(move |o| {
            let there = inside || ((0..w).contains(&(x as i32 + o.x)) && (0..h).contains(&(y as i32 + o.y)));
            there.then(|| (at.wrapping_add_signed(o.step), o.distance))
        })
    }

    fn mixed(&self, x: usize, y: usize, tally: &mut Tally) -> (f32, Color) {
        let at = y * self.width + x;
        let (c, mark) = (color_at(self.rgb, at), self.marks[at]);
        // Ground and sure foreground near by.
        let mut behind: Option<usize> = (mark & RIM != 0 && mark & SHADED == 0).then_some(at);
        let mut candidates = [[0f32; 4]; TRIES];
        let mut count = 0;
        for (near, distance) in self.around(x, y, REACH) {
            let mark = self.marks[near];
            if mark == SURE {
                let color = color_at(self.rgb, near);
                candidates[count] = [color[0], color[1], color[2], distance];
                count += 1;
                if count == TRIES {
                    break;
                }
            } else if mark & 3 == 0 && behind.is_none() {
                behind = Some(near);
            }
        }
        let near = behind.unwrap_or(at);
        let (nx, ny) = (near % self.width, near / self.width);
        let color = color_at(self.rgb, near);
        let (b, veil) = if self.marks[near] & SHADED != 0 {
            (color, self.shadow(nx, ny).0)
        } else {
            (self.backdrop.at(nx, ny, color), 0.0)
        };
        let toward = [c[0] - b[0], c[1] - b[1], c[2] - b[2]];
        let mut best: Option<(f32, f32, f32, f32)> = None;
        for &[r, g, bl, distance] in &candidates[..count] {
            let way = [r - b[0], g - b[1], bl - b[2]];
            let length = way[0] * way[0] + way[1] * way[1] + way[2] * way[2];
            if length < 36.0 {
                continue;
            }
            let t = ((toward[0] * way[0] + toward[1] * way[1] + toward[2] * way[2]) / length).clamp(0.0, 1.0);
            let miss = apart(toward, [t * way[0], t * way[1], t * way[2]]);
            let cost = miss + 0.5 * distance;
            if best.is_none_or(|b| cost < b.0) {
                best = Some((cost, t, miss, length.sqrt()));
            }
        }
        let (mut a, miss, contrast) = match best {
            Some((_, t, miss, contrast)) => (t, miss, contrast),
            None => {
                let extreme = self.extreme(x, y, toward, b);
                let far = apart(c, b);
                ((far / extreme.max(far).max(1.0)).min(1.0), 0.0, extreme)
            }
        };
        tally.band += 1;
        tally.miss += f64::from(miss);
        tally.contrast += f64::from(contrast);
        // What no mixture explains is something of its own, unless it is next to nothing.
        if miss > 0.35 * contrast && apart(c, b) > 0.35 * contrast {
            a = 1.0;
        }
        if mark == 2 && best.is_some() {
            a = (a * (1.0 / 0.9)).min(1.0);
        }
        a = soft_floor(a, self.dirt / contrast.max(1.0));
        if a >= 0.985 {
            a = 1.0;
        }
        let color = if a >= 1.0 { c } else { self.unmix(c, a, b) };
        if veil <= 0.0 || a >= 1.0 {
            return (a, color);
        }
        // In front of a shadow: the subject's part over the shadow's black.
        let total = a + (1.0 - a) * veil;
        (total, color.map(|v| v * a / total.max(1e-3)))
    }

    /// How far from the ground the colours of a thin stroke go.
    fn extreme(&self, x: usize, y: usize, toward: Color, b: Color) -> f32 {
        let length = (toward[0] * toward[0] + toward[1] * toward[1] + toward[2] * toward[2]).sqrt().max(1e-3);
        let along = |c: Color| {
            let d = [c[0] - b[0], c[1] - b[1], c[2] - b[2]];
            let far = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt();
            let dot = (d[0] * toward[0] + d[1] * toward[1] + d[2] * toward[2]) / length;
            if dot > 0.95 * far { dot } else { 0.0 }
        };
        let mut local = length;
        for (near, _) in self.around(x, y, 2) {
            if matches!(self.marks[near], 1..=SURE) {
                local = local.max(along(color_at(self.rgb, near)));
            }
        }
        let (cx, cy) = (x / CELL, y / CELL);
        let rows = self.extremes.len() / self.columns;
        let mut wide = local;
        for row in cy.saturating_sub(1)..(cy + 2).min(rows) {
            for column in cx.saturating_sub(1)..(cx + 2).min(self.columns) {
                let (far, color) = self.extremes[row * self.columns + column];
                if far > wide {
                    wide = wide.max(along(color));
                }
            }
        }
        if wide <= 2.2 * local { wide } else { local }
    }
}

/// Lowers what is below `floor` to 0, smoothly up to twice that.
fn soft_floor(a: f32, floor: f32) -> f32 {
    let t = ((a - floor) / floor.max(1e-4)).clamp(0.0, 1.0);
    a * t * t * (3.0 - 2.0 * t)
}
