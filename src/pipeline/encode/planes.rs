//! From packed rows to what encoders eat: flattened over a fill, three bytes a pixel, or Y, Cb and Cr.
//!
//! The loops are plain and compiled once per instruction set, chosen at run time: a build for any x86-64 has no vector
//! multiply of 32-bit lanes, which the colour conversion lives on.

use pulp::{Arch, Simd, WithSimd};

use crate::kernel::color::Rgb8;

/// Blends straight-alpha pixels over `fill` in place and makes them opaque.
///
/// In the encoded values, as viewers do it: `(c·a + f·(255 − a)) / 255`, rounded to the nearest.
pub(super) fn flatten(arch: Arch, row: &mut [u32], fill: Rgb8) {
    struct Flatten<'a>(&'a mut [u32], Rgb8);
    impl WithSimd for Flatten<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for pixel in self.0 {
                *pixel = over(*pixel, self.1);
            }
        }
    }
    arch.dispatch(Flatten(row, fill));
}

/// One straight-alpha pixel over an opaque fill.
#[inline(always)]
pub(super) fn over(pixel: u32, fill: Rgb8) -> u32 {
    let alpha = pixel >> 24;
    let channel = |value: u32, fill: u8| {
        let sum = value * alpha + u32::from(fill) * (255 - alpha) + 128;
        // Exact division by 255 for 16-bit sums.
        (sum + (sum >> 8)) >> 8
    };
    channel(pixel & 255, fill.r)
        | channel(pixel >> 8 & 255, fill.g) << 8
        | channel(pixel >> 16 & 255, fill.b) << 16
        | 255 << 24
}

/// Drops the alpha byte: `out` holds 3 bytes for each pixel of `row`.
pub(super) fn pack_rgb(row: &[u32], out: &mut [u8]) {
    let (fours, rest) = row.as_chunks::<4>();
    let (twelves, out_rest) = out.as_chunks_mut::<12>();
    // Four pixels make three words exactly, which beats byte stores without asking for a byte shuffle.
    for (four, twelve) in fours.iter().zip(twelves) {
        let [a, b, c, d] = four.map(|p| p & 0x00FF_FFFF);
        let words = [a | b << 24, b >> 8 | c << 16, c >> 16 | d << 8];
        let (w, _) = twelve.as_chunks_mut::<4>();
        for (w, word) in w.iter_mut().zip(words) {
            *w = word.to_le_bytes();
        }
    }
    for (pixel, out) in rest.iter().zip(out_rest.as_chunks_mut::<3>().0) {
        let [r, g, b, _] = pixel.to_le_bytes();
        *out = [r, g, b];
    }
}

/// Keeps all four bytes: `out` holds 4 bytes for each pixel of `row`.
pub(super) fn pack_rgba(row: &[u32], out: &mut [u8]) {
    for (pixel, out) in row.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = pixel.to_le_bytes();
    }
}

// BT.601 full range as JFIF has it, in 1/65536. The rounding term is one short of a half, so that values that lie on a
// half go down, as in jpeg-encoder and libjpeg.
pub(super) const Y: [i32; 3] = [19595, 38470, 7471];
pub(super) const CB: [i32; 3] = [-11059, -21709, 32768];
pub(super) const CR: [i32; 3] = [32768, -27439, -5329];
const CENTRE: i32 = 128 << 16;
const ROUND: i32 = 0x7FFF;

/// The weighted sum of a pixel's channels, alpha left out, in 1/65536.
#[inline(always)]
pub(super) fn weigh(weights: [i32; 3], pixel: u32) -> i32 {
    let [r, g, b] = [pixel & 255, pixel >> 8 & 255, pixel >> 16 & 255].map(|c| c as i32);
    weights[0] * r + weights[1] * g + weights[2] * b
}

/// Luma of a row; `out` is as long as `row`.
pub(super) fn luma(arch: Arch, row: &[u32], out: &mut [u8]) {
    struct Luma<'a>(&'a [u32], &'a mut [u8]);
    impl WithSimd for Luma<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for (&pixel, y) in self.0.iter().zip(self.1) {
                *y = ((weigh(Y, pixel) + ROUND) >> 16) as u8;
            }
        }
    }
    arch.dispatch(Luma(row, out));
}

/// Chroma of a row at full resolution; `cb` and `cr` are as long as `row`.
pub(super) fn chroma_full(arch: Arch, row: &[u32], cb: &mut [u8], cr: &mut [u8]) {
    struct Full<'a>(&'a [u32], &'a mut [u8], &'a mut [u8]);
    impl WithSimd for Full<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for ((&pixel, cb), cr) in self.0.iter().zip(self.1).zip(self.2) {
                *cb = ((weigh(CB, pixel) + CENTRE + ROUND) >> 16) as u8;
                *cr = ((weigh(CR, pixel) + CENTRE + ROUND) >> 16) as u8;
            }
        }
    }
    arch.dispatch(Full(row, cb, cr));
}

/// Chroma of 2×2 blocks, each value written once: `cb` and `cr` hold half the pixels of a row, rounded up.
///
/// The four pixels are summed before the conversion, which is linear, so that the mean is rounded once instead of
/// twice. A last odd column counts double.
pub(super) fn chroma_halved(arch: Arch, rows: [&[u32]; 2], cb: &mut [u8], cr: &mut [u8]) {
    struct Halved<'a>([&'a [u32]; 2], &'a mut [u8], &'a mut [u8]);
    impl WithSimd for Halved<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self([top, bottom], cb, cr) = self;
            let (top, top_rest) = top.as_chunks::<2>();
            let (bottom, bottom_rest) = bottom.as_chunks::<2>();
            for (((top, bottom), cb), cr) in top.iter().zip(bottom).zip(&mut *cb).zip(&mut *cr) {
                (*cb, *cr) = block([top[0], top[1], bottom[0], bottom[1]]);
            }
            if let ([top], [bottom], Some(cb), Some(cr)) = (top_rest, bottom_rest, cb.last_mut(), cr.last_mut()) {
                (*cb, *cr) = block([*top, *top, *bottom, *bottom]);
            }
        }
    }
    arch.dispatch(Halved(rows, cb, cr));
}

#[inline(always)]
fn block(pixels: [u32; 4]) -> (u8, u8) {
    // Red and blue are summed in one word: 4·255 fits the 16 bits between them.
    let red_blue = pixels.iter().fold(0, |sum, p| sum + (p & 0x00FF_00FF));
    let green = pixels.iter().fold(0, |sum, p| sum + (p >> 8 & 255)) as i32;
    let (red, blue) = ((red_blue & 0xFFFF) as i32, (red_blue >> 16) as i32);
    let mean = |w: [i32; 3]| (w[0] * red + w[1] * green + w[2] * blue + 4 * CENTRE + 4 * ROUND) >> 18;
    (mean(CB) as u8, mean(CR) as u8)
}

/// Writes every value twice: `out` is as long as the row that `halved` stands for.
pub(super) fn double(halved: &[u8], out: &mut [u8]) {
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (&value, pair) in halved.iter().zip(pairs) {
        *pair = [value; 2];
    }
    if let ([last], Some(&value)) = (rest, halved.last()) {
        *last = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blending_over_a_fill_rounds_to_the_nearest() {
        for value in 0..=255u32 {
            for alpha in 0..=255u32 {
                for fill in [0u8, 1, 100, 254, 255] {
                    let exact = f64::from(value * alpha + u32::from(fill) * (255 - alpha)) / 255.0;
                    let got = over(value | alpha << 24, Rgb8::new(fill, fill, fill));
                    assert_eq!(got & 255, exact.round() as u32);
                    assert_eq!(got >> 24, 255);
                }
            }
        }
    }

    #[test]
    fn conversion_agrees_with_the_encoders_own() {
        let row: Vec<u32> = (0..4099u32).map(|i| i.wrapping_mul(0x9E37_79B1) | 0xFF00_0000).collect();
        let arch = Arch::new();
        let [mut y, mut cb, mut cr] = [0; 3].map(|_| vec![0; row.len()]);
        luma(arch, &row, &mut y);
        chroma_full(arch, &row, &mut cb, &mut cr);
        for (i, pixel) in row.iter().enumerate() {
            let [r, g, b, _] = pixel.to_le_bytes();
            assert_eq!((y[i], cb[i], cr[i]), jpeg_encoder::rgb_to_ycbcr(r, g, b));
        }
    }

    #[test]
    fn halved_chroma_is_the_mean_of_the_block() {
        let row: Vec<u32> = (0..33u32).map(|i| i.wrapping_mul(0x9E37_79B1) | 0xFF00_0000).collect();
        let below: Vec<u32> = row.iter().rev().copied().collect();
        let (mut cb, mut cr) = (vec![0; 17], vec![0; 17]);
        chroma_halved(Arch::new(), [&row, &below], &mut cb, &mut cr);
        for x in 0..17 {
            let right = (2 * x + 1).min(32);
            let block = [row[2 * x], row[right], below[2 * x], below[right]];
            let mean = |weights: [f64; 3]| {
                let sum: f64 = block
                    .iter()
                    .map(|p| {
                        let [r, g, b, _] = p.to_le_bytes();
                        weights[0] * f64::from(r) + weights[1] * f64::from(g) + weights[2] * f64::from(b)
                    })
                    .sum();
                sum / 4.0 + 128.0
            };
            assert!((f64::from(cb[x]) - mean([-0.168736, -0.331264, 0.5])).abs() <= 0.501);
            assert!((f64::from(cr[x]) - mean([0.5, -0.418688, -0.081312])).abs() <= 0.501);
        }
    }

    #[test]
    fn packing_drops_alpha_at_every_length() {
        for length in 0..20u32 {
            let row: Vec<u32> = (0..length).map(|i| u32::from_le_bytes([i as u8, 100, 200 + i as u8, 7])).collect();
            let mut out = vec![0; row.len() * 3];
            pack_rgb(&row, &mut out);
            let expected: Vec<u8> = (0..length as u8).flat_map(|i| [i, 100, 200 + i]).collect();
            assert_eq!(out, expected);
        }
    }
}
