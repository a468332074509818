//! A colour transform as a table over the RGB cube, read between its nodes.
//!
//! Tetrahedral interpolation (J. Kasson, S. Nin, W. Plouffe, J. Hafner 1995) keeps the grey diagonal on an edge: what
//! maps the greys of the table to grey maps every grey to grey.

use rayon::prelude::*;

use crate::kernel::color::{DECODE, ENCODE, encode_index};
use crate::kernel::gamut;
use crate::kernel::simd::vectorize;

/// Nodes along each side of the cube.
const SIDE: usize = 33;
/// Steps of the side between nodes, over the codes.
const SCALE: f32 = (SIDE - 1) as f32 / 255.0;

/// Output codes at the nodes, as 0..=255 with fractions; the fourth value is unused.
pub(super) struct ColorTable {
    nodes: Vec<[f32; 4]>,
    /// Per input code, the node before it and the share of the way to the next.
    places: [(u32, f32); 256],
}

impl ColorTable {
    /// Tabulates `transform`, from linear sRGB in 0..=1 to linear sRGB that may lie outside; what does is brought into
    /// the gamut.
    pub fn new(transform: impl Fn([f32; 3]) -> [f32; 3] + Sync) -> Self {
        let decode: [f32; SIDE] = std::array::from_fn(|i| decode(i as f32 * 255.0 / (SIDE - 1) as f32));
        let mut nodes = vec![[0f32; 4]; SIDE * SIDE * SIDE];
        nodes.par_chunks_mut(SIDE * SIDE).enumerate().for_each(|(b, out)| {
            let mut colors: Vec<[f32; 3]> =
                (0..SIDE * SIDE).map(|i| transform([decode[i % SIDE], decode[i / SIDE], decode[b]])).collect();
            gamut::fit_all(&mut colors);
            for (out, [r, g, b]) in out.iter_mut().zip(colors) {
                *out = [encode(r), encode(g), encode(b), 0.0];
            }
        });
        let places = std::array::from_fn(|code| {
            let at = code as f32 * SCALE;
            let node = (at as usize).min(SIDE - 2);
            (node as u32, at - node as f32)
        });
        Self { nodes, places }
    }

    /// Maps packed pixels; the results are opaque.
    pub fn map(&self, pixels: &[u32], out: &mut [u32]) {
        vectorize(
            #[inline(always)]
            || {
                for (out, &p) in out.iter_mut().zip(pixels) {
                    *out = self.look_up(p);
                }
            },
        );
    }

    #[inline(always)]
    fn look_up(&self, p: u32) -> u32 {
        const STEPS: [usize; 3] = [1, SIDE, SIDE * SIDE];
        let (r, x) = self.places[(p & 255) as usize];
        let (g, y) = self.places[(p >> 8 & 255) as usize];
        let (b, z) = self.places[(p >> 16 & 255) as usize];
        let base = r as usize + g as usize * STEPS[1] + b as usize * STEPS[2];
        // From the near corner to the far one, along the axis with the largest share first.
        let (most, least) = (x.max(y).max(z), x.min(y).min(z));
        let middle = x.max(y).min(x.min(y).max(z));
        let first = if x >= y && x >= z {
            STEPS[0]
        } else if y >= z {
            STEPS[1]
        } else {
            STEPS[2]
        };
        let last = if z <= x && z <= y {
            STEPS[2]
        } else if y <= x {
            STEPS[1]
        } else {
            STEPS[0]
        };
        let all = STEPS[0] + STEPS[1] + STEPS[2];
        let corners = [0, first, all - last, all].map(|step| self.nodes.get(base + step).copied().unwrap_or([0.0; 4]));
        let weights = [1.0 - most, most - middle, middle - least, least];
        let mut color = [8_388_608f32; 4];
        for c in 0..4 {
            color[c] += weights[0] * corners[0][c]
                + weights[1] * corners[1][c]
                + weights[2] * corners[2][c]
                + weights[3] * corners[3][c];
        }
        // Adding 2^23 leaves the rounded value in the low bits.
        let code = |v: f32| v.to_bits() & 255;
        code(color[0]) | code(color[1]) << 8 | code(color[2]) << 16 | 0xff00_0000
    }
}

/// Linear light of an sRGB code with a fraction, straight between codes.
fn decode(code: f32) -> f32 {
    let lut = &*DECODE;
    let i = (code as usize).min(254);
    lut[i] + (code - i as f32) * (lut[i + 1] - lut[i])
}

/// The sRGB code of linear light, with its fraction, straight between codes.
fn encode(linear: f32) -> f32 {
    let lut = &*DECODE;
    let near = usize::from(ENCODE[encode_index(linear) as usize]);
    let low = if lut[near] > linear { near.saturating_sub(1) } else { near }.min(254);
    (low as f32 + (linear - lut[low]) / (lut[low + 1] - lut[low])).clamp(0.0, 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;

    #[test]
    fn the_table_of_doing_nothing_does_nothing() {
        let table = ColorTable::new(|c| c);
        let pixels: Vec<u32> = (0..1u32 << 15)
            .map(|i| Rgb8::new((i << 3) as u8 | 5, (i >> 2) as u8 & 0xf8, (i >> 7) as u8 & 0xf8 | 3).packed())
            .collect();
        let mut out = vec![0u32; pixels.len()];
        table.map(&pixels, &mut out);
        assert_eq!(out, pixels);
    }

    #[test]
    fn codes_with_fractions_survive_decoding_and_encoding() {
        for i in 0..=2550 {
            let code = i as f32 / 10.0;
            assert!((encode(decode(code)) - code).abs() < 0.01, "{code}");
        }
    }
}
