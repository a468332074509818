//! Structure: SSIM on lightness, and the comparisons that must be exact.

use rayon::prelude::*;

use super::{BAND_ROWS, extend_with_labs};

/// Pixels on each side of an SSIM window's centre.
const RADIUS: usize = 5;
const WINDOW: usize = 2 * RADIUS + 1;

/// (K₁·100)² and (K₂·100)² for L of range 100, K₁ = 0.01, K₂ = 0.03.
const C1: f32 = 1.0;
const C2: f32 = 9.0;

/// Means of x, y, x², y², xy, where x and y are L − [`MIDDLE`].
const MOMENTS: usize = 5;

/// Taken off L so that squares stay small: variances are differences of squares, and f32 has seven digits.
const MIDDLE: f32 = 50.0;

/// SSIM of CIELAB L (Wang, Bovik, Sheikh, Simoncelli 2004): 11×11 Gaussian windows of σ = 1.5, full size, edges
/// repeated; the mean over windows whose centre is visible in `original`. −1 to 1; 1 when nothing is visible.
pub fn ssim_l(original: &[u32], variation: &[u32], width: usize) -> f64 {
    let width = width.max(1);
    let height = original.len().min(variation.len()) / width;
    let kernel = gaussian();
    let bands: Vec<(f64, u64)> = (0..height.div_ceil(BAND_ROWS))
        .into_par_iter()
        .map(|band| {
            let first = band * BAND_ROWS;
            let owned = BAND_ROWS.min(height - first);
            // Row k of `blurred` is row first + k − RADIUS of the picture, or the nearest one there is.
            let mut blurred = Vec::with_capacity((owned + 2 * RADIUS) * width * MOMENTS);
            for k in 0..owned + 2 * RADIUS {
                let y = (first + k).saturating_sub(RADIUS).min(height - 1);
                let row = y * width..(y + 1) * width;
                blur_row(&original[row.clone()], &variation[row], &kernel, &mut blurred);
            }
            let mut sum = (0.0, 0);
            let mut moments = vec![0.0f32; width * MOMENTS];
            for k in 0..owned {
                moments.fill(0.0);
                for (t, &weight) in kernel.iter().enumerate() {
                    let source = &blurred[(k + t) * width * MOMENTS..][..width * MOMENTS];
                    for (m, s) in moments.iter_mut().zip(source) {
                        *m += weight * s;
                    }
                }
                let row = &original[(first + k) * width..][..width];
                for (x, pixel) in row.iter().enumerate() {
                    if pixel >> 24 != 0 {
                        let at = |m: usize| moments[m * width + x];
                        sum.0 += f64::from(ssim_of([at(0), at(1), at(2), at(3), at(4)]));
                        sum.1 += 1;
                    }
                }
            }
            sum
        })
        .collect();
    let (sum, windows) = bands.into_iter().fold((0.0, 0), |(s, n), (bs, bn)| (s + bs, n + bn));
    if windows == 0 { 1.0 } else { sum / windows as f64 }
}

fn gaussian() -> [f32; WINDOW] {
    let raw: [f64; WINDOW] = std::array::from_fn(|i| {
        let d = i as f64 - RADIUS as f64;
        (-d * d / (2.0 * 1.5 * 1.5)).exp()
    });
    let sum: f64 = raw.iter().sum();
    raw.map(|v| (v / sum) as f32)
}

/// Appends the five moments of one row, blurred along it, plane after plane.
fn blur_row(original: &[u32], variation: &[u32], kernel: &[f32; WINDOW], out: &mut Vec<f32>) {
    let width = original.len();
    let lightness = |row: &[u32]| {
        let mut labs = Vec::new();
        extend_with_labs(row, &mut labs);
        (0..width + 2 * RADIUS).map(|i| labs[i.saturating_sub(RADIUS).min(width - 1)].l - MIDDLE).collect::<Vec<f32>>()
    };
    let (x, y) = (lightness(original), lightness(variation));
    let mut plane = |value: &dyn Fn(usize) -> f32| {
        let padded: Vec<f32> = (0..width + 2 * RADIUS).map(value).collect();
        let start = out.len();
        out.resize(start + width, 0.0);
        for (t, &weight) in kernel.iter().enumerate() {
            for (o, p) in out[start..].iter_mut().zip(&padded[t..]) {
                *o += weight * p;
            }
        }
    };
    plane(&|i| x[i]);
    plane(&|i| y[i]);
    plane(&|i| x[i] * x[i]);
    plane(&|i| y[i] * y[i]);
    plane(&|i| x[i] * y[i]);
}

fn ssim_of([x, y, xx, yy, xy]: [f32; MOMENTS]) -> f32 {
    let (vx, vy, cov) = ((xx - x * x).max(0.0), (yy - y * y).max(0.0), xy - x * y);
    let (x, y) = (x + MIDDLE, y + MIDDLE);
    (2.0 * x * y + C1) * (2.0 * cov + C2) / ((x * x + y * y + C1) * (vx + vy + C2))
}

/// Whether two rasters have the same alpha in every pixel (and the same number of pixels).
pub fn alpha_identical(x: &[u32], y: &[u32]) -> bool {
    x.len() == y.len() && x.iter().zip(y).all(|(p, q)| p >> 24 == q >> 24)
}

/// Identity error: the largest difference in any of the colour channels, codes, over pixels (or list colours) visible
/// in `x`.
pub fn max_channel_difference(x: &[u32], y: &[u32]) -> u8 {
    let one = |(p, q): (&u32, &u32)| {
        let (p, q) = (p.to_le_bytes(), q.to_le_bytes());
        if p[3] == 0 { 0 } else { p[0].abs_diff(q[0]).max(p[1].abs_diff(q[1])).max(p[2].abs_diff(q[2])) }
    };
    x.iter().zip(y).map(one).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;

    const WIDTH: usize = 80;

    fn texture() -> Vec<u32> {
        (0..WIDTH * 70usize)
            .map(|i| {
                let (x, y) = (i % WIDTH, i / WIDTH);
                let v = 120.0 + 60.0 * (x as f32 * 0.4).sin() * (y as f32 * 0.3).cos();
                Rgb8::new(v as u8, v as u8, v as u8).packed()
            })
            .collect()
    }

    /// SSIM as the formula reads, one window at a time in f64.
    fn slow_ssim(x: &[f64], y: &[f64], width: usize) -> f64 {
        let height = x.len() / width;
        let weight = |d: i64| (-(d * d) as f64 / 4.5).exp();
        let mut sum = 0.0;
        for cy in 0..height as i64 {
            for cx in 0..width as i64 {
                let (mut n, mut m) = (0.0, [0.0; 5]);
                for dy in -5..=5i64 {
                    for dx in -5..=5i64 {
                        let py = (cy + dy).clamp(0, height as i64 - 1) as usize;
                        let px = (cx + dx).clamp(0, width as i64 - 1) as usize;
                        let (a, b) = (x[py * width + px], y[py * width + px]);
                        let w = weight(dx) * weight(dy);
                        n += w;
                        for (slot, v) in m.iter_mut().zip([a, b, a * a, b * b, a * b]) {
                            *slot += w * v;
                        }
                    }
                }
                let [a, b, aa, bb, ab] = m.map(|v| v / n);
                sum += (2.0 * a * b + 1.0) * (2.0 * (ab - a * b) + 9.0)
                    / ((a * a + b * b + 1.0) * (aa - a * a + bb - b * b + 9.0));
            }
        }
        sum / x.len() as f64
    }

    #[test]
    fn a_picture_is_its_own_structure() {
        let x = texture();
        assert!((ssim_l(&x, &x, WIDTH) - 1.0).abs() < 1e-4);
    }

    #[test]
    fn hue_changes_leave_structure_and_inversion_turns_it() {
        let x = texture();
        let negative: Vec<u32> = x.iter().map(|p| p ^ 0x00ff_ffff).collect();
        assert!(ssim_l(&x, &negative, WIDTH) < 0.0);
        let tinted: Vec<u32> = x
            .iter()
            .map(|&p| {
                let lab = Rgb8::from_packed(p).lab();
                crate::kernel::color::Lab { b: -12.0, a: 6.0, ..lab }.to_rgb8().packed()
            })
            .collect();
        assert!(ssim_l(&x, &tinted, WIDTH) > 0.99);
    }

    #[test]
    fn the_separable_sum_is_the_formula() {
        let x = texture();
        let y: Vec<u32> =
            x.iter().enumerate().map(|(i, p)| if i % 11 < 4 { 0xff30_4050 } else { p & 0xfff0_f0f0 }).collect();
        let lightness =
            |raster: &[u32]| -> Vec<f64> { raster.iter().map(|&p| f64::from(Rgb8::from_packed(p).lab().l)).collect() };
        let (quick, slow) = (ssim_l(&x, &y, WIDTH), slow_ssim(&lightness(&x), &lightness(&y), WIDTH));
        assert!((quick - slow).abs() < 1e-3, "{quick} {slow}");
    }

    #[test]
    fn small_and_empty_pictures_have_a_figure_too() {
        assert!((ssim_l(&[0xff12_3456], &[0xff12_3456], 1) - 1.0).abs() < 1e-4);
        assert_eq!(ssim_l(&[], &[], 0), 1.0);
        assert_eq!(ssim_l(&[0x0012_3456; 9], &[0xff00_0000; 9], 3), 1.0, "nothing visible");
    }

    #[test]
    fn alpha_and_identity_are_compared_exactly() {
        let x = [0x80ff_0000, 0xff01_0203, 0x0000_0000];
        let y = [0x80fe_0000, 0xff01_0205, 0x00ff_ffff];
        assert!(alpha_identical(&x, &y));
        assert_eq!(max_channel_difference(&x, &y), 2, "what alpha hides does not count");
        assert!(!alpha_identical(&x, &[0x81ff_0000, 0xff01_0203, 0]));
        assert!(!alpha_identical(&x, &x[..2]));
    }
}
