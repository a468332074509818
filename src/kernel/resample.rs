//! Resizing exactly as Pillow does it, to the bit for 8-bit pictures: what models were trained with.
//!
//! Two passes of a convolution whose support widens where the picture gets smaller; weights in fixed point of 22 bits, and a
//! rounding to 8 bits between the passes (`Resample.c` of Pillow 13; A. Murray). For looks, [`resize`](super::resize) is
//! better: it averages light, not codes.

use rayon::prelude::*;

/// The kernel of the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// A triangle.
    Bilinear,
    /// A windowed sinc of three lobes; overshoots at edges.
    Lanczos,
}

/// The part of a picture that is resized: left, top, right and bottom edge in pixels, within the picture and not empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window(pub [f64; 4]);

impl Window {
    /// All of a picture of this size.
    pub fn whole(width: u32, height: u32) -> Self {
        Self([0.0, 0.0, f64::from(width), f64::from(height)])
    }

    /// The largest part of a picture that has the proportions of `to`, from its middle.
    pub fn covering((width, height): (u32, u32), to: (u32, u32)) -> Self {
        let (w, h) = (f64::from(width), f64::from(height));
        let wanted = f64::from(to.0) / f64::from(to.1);
        let (cut_w, cut_h) = if w / h > wanted { (h * wanted, h) } else { (w, w / wanted) };
        let (left, top) = ((w - cut_w) / 2.0, (h - cut_h) / 2.0);
        Self([left, top, left + cut_w, top + cut_h])
    }
}

impl Kernel {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

/// The source pixels of one target pixel: the first, and a weight for each.
struct Taps<T> {
    first: usize,
    weights: Vec<T>,
}

/// Bits of the fixed point.
const PRECISION: u32 = 32 - 8 - 2;

/// What rounds to the nearest.
const HALF: i32 = 1 << (PRECISION - 1);

fn taps<T>(
    kernel: Kernel,
    (from, to): (f64, f64),
    size: usize,
    target: usize,
    fixed: impl Fn(f64) -> T,
) -> Vec<Taps<T>> {
    let scale = (to - from) / target as f64;
    let filter_scale = scale.max(1.0);
    let support = kernel.support() * filter_scale;
    (0..target)
        .map(|i| {
            let center = from + (i as f64 + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let end = ((center + support + 0.5) as usize).min(size).max(first + 1).min(size);
            let first = first.min(end - 1);
            let weight = |x: usize| kernel.weight((x as f64 - center + 0.5) / filter_scale);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let weights = weights.into_iter().map(|w| fixed(if sum == 0.0 { w } else { w / sum })).collect();
            Taps { first, weights }
        })
        .collect()
}

fn fixed(weight: f64) -> i32 {
    // Rounded away from zero, as in the original.
    let scaled = weight * f64::from(1 << PRECISION);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes a part of an RGB picture, 3 bytes a pixel, to `target` (width, height). Both sizes are at least 1.
pub fn rgb(source: &[u8], size: (u32, u32), window: Window, target: (u32, u32), kernel: Kernel) -> Vec<u8> {
    let Window([left, top, right, bottom]) = window;
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (target_width, target_height) = (target.0 as usize, target.1 as usize);
    let across = |source: &[u8]| across(source, width, (left, right), target_width, kernel);
    let down = |source: &[u8], width: usize| down(source, (width, height), (top, bottom), target_height, kernel);
    // What comes first shows in the rounding between: the pass that makes the picture smaller, where only one does.
    if target_height < height && target_width > width {
        across(&down(source, width))
    } else {
        down(&across(source), target_width)
    }
}

/// The pass along rows; a copy where there is nothing to do.
fn across(source: &[u8], width: usize, edges: (f64, f64), target: usize, kernel: Kernel) -> Vec<u8> {
    if edges == (0.0, width as f64) && width == target {
        return source.to_vec();
    }
    let columns = taps(kernel, edges, width, target, fixed);
    let mut made = vec![0u8; source.len() / width * target];
    made.par_chunks_mut(target * 3).zip(source.par_chunks(width * 3)).for_each(|(out, row)| {
        for (pixel, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
            let mut sums = [HALF; 3];
            for (c, &w) in row[taps.first * 3..].as_chunks::<3>().0.iter().zip(&taps.weights) {
                sums[0] += i32::from(c[0]) * w;
                sums[1] += i32::from(c[1]) * w;
                sums[2] += i32::from(c[2]) * w;
            }
            *pixel = sums.map(byte);
        }
    });
    made
}

/// The pass along columns; a copy where there is nothing to do.
fn down(source: &[u8], (width, height): (usize, usize), edges: (f64, f64), target: usize, kernel: Kernel) -> Vec<u8> {
    if edges == (0.0, height as f64) && height == target {
        return source.to_vec();
    }
    let lines = taps(kernel, edges, height, target, fixed);
    let stride = width * 3;
    let mut made = vec![0u8; stride * target];
    made.par_chunks_mut(stride).zip(&lines).for_each_init(
        || vec![0i32; stride],
        |sums, (out, taps)| {
            sums.fill(HALF);
            for (row, &w) in source[taps.first * stride..].chunks(stride).zip(&taps.weights) {
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += i32::from(v) * w);
            }
            out.iter_mut().zip(sums.iter()).for_each(|(v, &sum)| *v = byte(sum));
        },
    );
    made
}

/// Resizes one channel of floats to `target` (width, height), without rounding or clamping. Both sizes are at least 1.
pub fn plane(source: &[f32], size: (usize, usize), target: (u32, u32), kernel: Kernel) -> Vec<f32> {
    let (width, height) = size;
    let (target_width, target_height) = (target.0 as usize, target.1 as usize);
    let columns = taps(kernel, (0.0, width as f64), width, target_width, |w| w);
    let mut across = vec![0f32; target_width * height];
    across.par_chunks_mut(target_width).zip(source.par_chunks(width)).for_each(|(out, row)| {
        for (value, taps) in out.iter_mut().zip(&columns) {
            let sum: f64 = row[taps.first..].iter().zip(&taps.weights).map(|(&v, &w)| f64::from(v) * w).sum();
            *value = sum as f32;
        }
    });
    let lines = taps(kernel, (0.0, height as f64), height, target_height, |w| w);
    let mut made = vec![0f32; target_width * target_height];
    made.par_chunks_mut(target_width).zip(&lines).for_each_init(
        || vec![0f64; target_width],
        |sums, (out, taps)| {
            sums.fill(0.0);
            for (row, &w) in across[taps.first * target_width..].chunks(target_width).zip(&taps.weights) {
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v) * w);
            }
            out.iter_mut().zip(sums.iter()).for_each(|(v, &sum)| *v = sum as f32);
        },
    );
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pillow_gives_the_same_bytes() {
        // Pillow 13: Image.frombytes("RGB", (4, 1), bytes(range(0, 240, 20))).resize((2, 1), …).tobytes(), and to (7, 1).
        let source: Vec<u8> = (0..240).step_by(20).collect();
        let resized = |width, kernel| rgb(&source, (4, 1), Window::whole(4, 1), (width, 1), kernel);
        assert_eq!(resized(2, Kernel::Bilinear), [43, 63, 83, 137, 157, 177]);
        assert_eq!(resized(2, Kernel::Lanczos), [32, 52, 72, 148, 168, 188]);
        let bilinear = [0, 20, 40, 21, 41, 61, 56, 76, 96, 90, 110, 130, 124, 144, 164, 159, 179, 199, 180, 200, 220];
        assert_eq!(resized(7, Kernel::Bilinear), bilinear);
        let lanczos = [0, 15, 35, 14, 34, 54, 55, 75, 95, 90, 110, 130, 125, 145, 165, 166, 186, 206, 185, 205, 225];
        assert_eq!(resized(7, Kernel::Lanczos), lanczos);
    }

    #[test]
    fn a_flat_picture_stays_flat_and_one_of_its_own_size_stays_as_it_is() {
        for (size, target) in [((1, 1), (5, 7)), ((3, 1), (1, 1)), ((7, 500), (32, 32)), ((40, 30), (40, 30))] {
            let flat = vec![90u8; (size.0 * size.1 * 3) as usize];
            for kernel in [Kernel::Bilinear, Kernel::Lanczos] {
                let made = rgb(&flat, size, Window::whole(size.0, size.1), target, kernel);
                assert_eq!(made, vec![90u8; (target.0 * target.1 * 3) as usize], "{size:?} to {target:?}");
            }
        }
        let noise: Vec<u8> = (0..6 * 5 * 3).map(|i| (i * 37 % 251) as u8).collect();
        assert_eq!(rgb(&noise, (6, 5), Window::whole(6, 5), (6, 5), Kernel::Lanczos), noise);
    }

    #[test]
    fn a_covering_window_has_the_targets_proportions_and_lies_in_the_middle() {
        assert_eq!(Window::covering((50, 20), (100, 100)), Window([15.0, 0.0, 35.0, 20.0]));
        assert_eq!(Window::covering((20, 50), (40, 20)), Window([0.0, 20.0, 20.0, 30.0]));
    }

    #[test]
    fn floats_are_neither_rounded_nor_cut_off() {
        let step = [0.0f32, 0.0, 0.0, 1.0, 1.0, 1.0];
        let made = plane(&step, (6, 1), (24, 1), Kernel::Lanczos);
        assert!(made.iter().any(|v| *v > 1.01) && made.iter().any(|v| *v < -0.01), "Lanczos overshoots");
        assert_eq!(plane(&[0.25; 6], (6, 1), (24, 3), Kernel::Bilinear), vec![0.25; 72]);
    }
}
