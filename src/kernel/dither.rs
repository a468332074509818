//! Mode `exact`: pictures of palette colours only.
//!
//! Sources: R. Floyd, L. Steinberg 1976 (error diffusion, here serpentine and in linear light); R. Ulichney 1993
//! (void and cluster, for the blue-noise threshold).

use std::sync::LazyLock;

use super::color::{DECODE, Rgb8};
use super::image::Rows;

/// How colours between the palette's are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DitherKind {
    /// Serpentine Floyd–Steinberg error diffusion.
    FloydSteinberg,
    /// A blue-noise threshold between the two colours that fit best.
    BlueNoise,
    /// The nearest colour.
    None,
}

/// The most palette entries an indexed picture can have, one being kept for hidden pixels.
pub const MAX_COLORS: usize = 255;

/// Rows of another source reduced to palette colours. Alpha is passed on; pixels of alpha 0 are skipped by diffusion.
pub struct Dithered<'a> {
    source: &'a mut dyn Rows,
    kind: DitherKind,
    /// Palette in linear light.
    linear: Vec<[f32; 3]>,
    /// Palette in square-root light, in which distances are judged.
    root: Vec<[f32; 3]>,
    /// Packed palette, and transparent black last.
    packed: Vec<u32>,
    /// Whether every source pixel is either opaque or hidden, so that the palette covers the picture.
    indexable: bool,
    row: Vec<u32>,
    /// Diffused error of this row and the next, with one pixel of margin at both ends.
    errors: [Vec<[f32; 3]>; 2],
    y: usize,
}

/// Share of the error that is passed on: a little is dropped so that errors no palette colour can repay fade out.
const DIFFUSION: f32 = 0.97;
/// Bound on the error that a pixel takes over, in linear light.
const ERROR_LIMIT: f32 = 0.9;

impl<'a> Dithered<'a> {
    /// Reduces `source` to `palette`, of which the first [`MAX_COLORS`] count. `hard_alpha` says that alpha is 0 or
    /// 255 everywhere.
    pub fn new(source: &'a mut dyn Rows, palette: &[Rgb8], kind: DitherKind, hard_alpha: bool) -> Self {
        let colors = &palette[..palette.len().min(MAX_COLORS)];
        let lut = &*DECODE;
        let linear: Vec<[f32; 3]> =
            colors.iter().map(|c| [lut[c.r as usize], lut[c.g as usize], lut[c.b as usize]]).collect();
        let root = linear.iter().map(|c| c.map(f32::sqrt)).collect();
        let width = source.width() as usize;
        let mut packed: Vec<u32> = colors.iter().map(|c| c.packed()).collect();
        if source.has_alpha() {
            packed.push(0);
        }
        Self {
            indexable: hard_alpha || !source.has_alpha(),
            kind,
            linear,
            root,
            packed,
            row: vec![0; width],
            errors: [vec![[0.0; 3]; width + 2], vec![[0.0; 3]; width + 2]],
            y: 0,
            source,
        }
    }

    /// Fills `out` with palette indices; hidden pixels get the number of palette colours.
    fn quantize(&mut self, mut put: impl FnMut(usize, usize, u32)) {
        let width = self.row.len();
        self.source.next_row(&mut self.row);
        let lut = &*DECODE;
        let linear_of = |p: u32| {
            let [r, g, b, _] = p.to_le_bytes();
            [lut[r as usize], lut[g as usize], lut[b as usize]]
        };
        let hidden = self.linear.len();
        match self.kind {
            DitherKind::None => {
                for x in 0..width {
                    let p = self.row[x];
                    put(x, if p >> 24 == 0 { hidden } else { nearest(&self.root, linear_of(p)) }, p);
                }
            }
            DitherKind::BlueNoise => {
                let tile = &BLUE_NOISE[(self.y % TILE) * TILE..][..TILE];
                for x in 0..width {
                    let p = self.row[x];
                    let choice = if p >> 24 == 0 {
                        hidden
                    } else {
                        self.threshold(linear_of(p), (f32::from(tile[x % TILE]) + 0.5) / (TILE * TILE) as f32)
                    };
                    put(x, choice, p);
                }
            }
            DitherKind::FloydSteinberg => {
                let [mut here, mut below] = std::mem::take(&mut self.errors);
                let forward = self.y.is_multiple_of(2);
                for step in 0..width {
                    let x = if forward { step } else { width - 1 - step };
                    let p = self.row[x];
                    if p >> 24 == 0 {
                        put(x, hidden, p);
                        continue;
                    }
                    let error = here[x + 1];
                    let mut wanted = linear_of(p);
                    for (w, e) in wanted.iter_mut().zip(error) {
                        *w = (*w + e.clamp(-ERROR_LIMIT, ERROR_LIMIT)).clamp(-0.25, 1.25);
                    }
                    let choice = nearest(&self.root, wanted);
                    put(x, choice, p);
                    let (ahead, behind) = if forward { (x + 2, x) } else { (x, x + 2) };
                    for c in 0..3 {
                        let e = (wanted[c] - self.linear[choice][c]) * DIFFUSION;
                        here[ahead][c] += e * (7.0 / 16.0);
                        below[behind][c] += e * (3.0 / 16.0);
                        below[x + 1][c] += e * (5.0 / 16.0);
                        below[ahead][c] += e * (1.0 / 16.0);
                    }
                }
                here.fill([0.0; 3]);
                self.errors = [below, here];
            }
        }
        self.y += 1;
    }

    /// The nearest colour or the one that best completes it, by how far the wanted colour lies towards the latter.
    fn threshold(&self, wanted: [f32; 3], threshold: f32) -> usize {
        let first = nearest(&self.root, wanted);
        let base = self.linear[first];
        let mut best = (f32::MAX, first, 0.0);
        for (i, other) in self.linear.iter().enumerate().filter(|&(i, _)| i != first) {
            let (mut along, mut length) = (0.0, 0.0);
            for c in 0..3 {
                along += (wanted[c] - base[c]) * (other[c] - base[c]);
                length += (other[c] - base[c]) * (other[c] - base[c]);
            }
            let t = (along / length.max(1e-9)).clamp(0.0, 0.5);
            let mut miss = 0.0;
            for c in 0..3 {
                let d = base[c] + t * (other[c] - base[c]) - wanted[c];
                miss += d * d;
            }
            // Of pairs that fit alike the nearer one makes the quieter texture.
            let cost = miss + 0.02 * t * (1.0 - t) * length;
            if cost < best.0 {
                best = (cost, i, t);
            }
        }
        if threshold < best.2 { best.1 } else { first }
    }
}

impl Rows for Dithered<'_> {
    fn width(&self) -> u32 {
        self.source.width()
    }
    fn height(&self) -> u32 {
        self.source.height()
    }
    fn has_alpha(&self) -> bool {
        self.source.has_alpha()
    }
    fn next_row(&mut self, row: &mut [u32]) {
        let packed = std::mem::take(&mut self.packed);
        self.quantize(|x, choice, p| {
            row[x] = packed.get(choice).map_or(0, |color| color & 0x00ff_ffff | p & 0xff00_0000);
        });
        self.packed = packed;
    }
    fn palette(&self) -> Option<&[u32]> {
        self.indexable.then_some(&self.packed)
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        self.quantize(|x, choice, _| row[x] = choice as u8);
    }
}

/// The palette entry nearest to a colour in linear light; the palette, not empty, is given in square-root light.
#[inline(always)]
pub(crate) fn nearest(root: &[[f32; 3]], linear: [f32; 3]) -> usize {
    let at = linear.map(|v| v.max(0.0).sqrt());
    let mut best = (f32::MAX, 0);
    for (i, c) in root.iter().enumerate() {
        let (r, g, b) = (at[0] - c[0], at[1] - c[1], at[2] - c[2]);
        let d = 0.3 * r * r + 0.59 * g * g + 0.2 * b * b;
        if d < best.0 {
            best = (d, i);
        }
    }
    best.1
}

/// Side of the blue-noise tile.
pub(crate) const TILE: usize = 64;

/// Ranks 0..4096 of a void-and-cluster tile, row-major.
pub(crate) static BLUE_NOISE: LazyLock<Vec<u16>> = LazyLock::new(void_and_cluster);

/// Ulichney's void-and-cluster on a torus with a Gaussian of σ 1.5; energies are kept up to date, not recomputed.
fn void_and_cluster() -> Vec<u16> {
    const N: usize = TILE * TILE;
    let kernel: Vec<f32> = (0..N)
        .map(|i| {
            let wrap = |v: usize| v.min(TILE - v) as f32;
            let (x, y) = (wrap(i % TILE), wrap(i / TILE));
            (-(x * x + y * y) / (2.0 * 1.5 * 1.5)).exp()
        })
        .collect();
    let splat = |energy: &mut [f32], at: usize, sign: f32| {
        let (ax, ay) = (at % TILE, at / TILE);
        for y in 0..TILE {
            let row = &kernel[((y + TILE - ay) % TILE) * TILE..][..TILE];
            for x in 0..TILE {
                energy[y * TILE + x] += sign * row[(x + TILE - ax) % TILE];
            }
        }
    };
    let extreme = |energy: &[f32], pattern: &[bool], set: bool| {
        let candidates = (0..N).filter(|&i| pattern[i] == set);
        let better = |x: &usize, y: &usize| {
            let order = energy[*x].total_cmp(&energy[*y]);
            if set { order.then(y.cmp(x)) } else { order.reverse().then(y.cmp(x)) }
        };
        candidates.max_by(better).unwrap_or(0)
    };
    let mut random = super::cluster::SplitMix64::new(2026);
    let mut pattern = vec![false; N];
    let mut energy = vec![0f32; N];
    let mut ones = 0;
    while ones < N / 10 {
        let at = (random.next() % N as u64) as usize;
        if !pattern[at] {
            pattern[at] = true;
            splat(&mut energy, at, 1.0);
            ones += 1;
        }
    }
    // Even the start out: move the tightest cluster into the largest void until that is where it came from.
    for _ in 0..N {
        let cluster = extreme(&energy, &pattern, true);
        pattern[cluster] = false;
        splat(&mut energy, cluster, -1.0);
        let void = extreme(&energy, &pattern, false);
        pattern[void] = true;
        splat(&mut energy, void, 1.0);
        if void == cluster {
            break;
        }
    }
    let mut ranks = vec![0u16; N];
    let (mut shrinking, mut shrinking_energy) = (pattern.clone(), energy.clone());
    for rank in (0..ones).rev() {
        let cluster = extreme(&shrinking_energy, &shrinking, true);
        shrinking[cluster] = false;
        splat(&mut shrinking_energy, cluster, -1.0);
        ranks[cluster] = rank as u16;
    }
    for rank in ones..N {
        let void = extreme(&energy, &pattern, false);
        pattern[void] = true;
        splat(&mut energy, void, 1.0);
        ranks[void] = rank as u16;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::Raster;

    fn run(kind: DitherKind, palette: &[Rgb8], pixels: Vec<u32>, width: u32) -> Vec<u32> {
        let mut raster = Raster::new(width, pixels.len() as u32 / width, pixels.clone()).unwrap();
        let mut out = vec![0; pixels.len()];
        let mut dithered = Dithered::new(&mut raster, palette, kind, true);
        for row in out.chunks_mut(width as usize) {
            dithered.next_row(row);
        }
        out
    }

    const KINDS: [DitherKind; 3] = [DitherKind::FloydSteinberg, DitherKind::BlueNoise, DitherKind::None];

    #[test]
    fn only_palette_colors_come_out() {
        let palette: Vec<Rgb8> = ["#264653", "#2A9D8F", "#E9C46A"].iter().map(|c| c.parse().unwrap()).collect();
        let pixels: Vec<u32> =
            (0..64 * 64u32).map(|i| Rgb8::new((i % 256) as u8, (i / 16) as u8, 90).packed()).collect();
        for kind in KINDS {
            let out = run(kind, &palette, pixels.clone(), 64);
            assert!(out.iter().all(|p| palette.contains(&Rgb8::from_packed(*p))));
        }
    }

    #[test]
    fn dithers_keep_the_mean_in_linear_light() {
        let palette = [Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)];
        for code in [60u8, 128, 188, 230] {
            let pixels = vec![Rgb8::new(code, code, code).packed(); 128 * 128];
            for kind in [DitherKind::FloydSteinberg, DitherKind::BlueNoise] {
                let out = run(kind, &palette, pixels.clone(), 128);
                let white = out.iter().filter(|p| **p & 255 == 255).count() as f32 / out.len() as f32;
                let wanted = DECODE[code as usize];
                assert!((white - wanted).abs() < 0.04, "{kind:?} {code}: {white} {wanted}");
            }
        }
    }

    #[test]
    fn hidden_pixels_stay_hidden_and_diffuse_nothing() {
        let palette = [Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)];
        let mut pixels = vec![Rgb8::new(128, 128, 128).packed(); 32 * 32];
        for row in pixels.chunks_mut(32) {
            row[..16].fill(0x0012_3456);
        }
        let out = run(DitherKind::FloydSteinberg, &palette, pixels, 32);
        assert!(out.chunks(32).all(|row| row[..16].iter().all(|&p| p == 0)));
    }

    #[test]
    fn every_threshold_occurs_once_and_neighbors_differ() {
        let mut sorted = BLUE_NOISE.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(i, &r)| i == usize::from(r)));
        let apart: f32 = (0..TILE * TILE)
            .map(|i| (f32::from(BLUE_NOISE[i]) - f32::from(BLUE_NOISE[(i + 1) % (TILE * TILE)])).abs())
            .sum::<f32>()
            / (TILE * TILE) as f32;
        // White noise would give a third of the range; blue noise keeps like thresholds apart.
        assert!(apart > 0.36 * (TILE * TILE) as f32, "{apart}");
    }
}
