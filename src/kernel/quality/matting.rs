//! What a matte is worth against the true one: pixel errors, edges, halos after recomposition, and how well a stated
//! confidence foretells bad cuts.
//!
//! A matte is a slice of alpha, 1 byte a pixel, row-major; the errors are in units of full opacity (255 → 1). `width`
//! is the row's length in pixels, at least 1. Slices of unequal length are compared as far as the shorter one reaches;
//! nothing here panics.
//!
//! | figure | function | unit, better | source |
//! |---|---|---|---|
//! | SAD | [`sad`] | thousands of pixels, lower | Rhemann et al. 2009 |
//! | MSE, MAE | [`mse`], [`mae`] | mean over the picture, lower | the same |
//! | gradient error | [`gradient_error`] | thousands, lower | the same, σ = 1.4 |
//! | boundary IoU | [`boundary_iou`] | share, higher | Cheng et al. 2021, d = 2 % of the diagonal |
//! | recomposition | [`recomposition`] | mean ΔE2000 on three new grounds, lower | |
//! | S-measure | [`structure_measure`] | 0..=1, higher | Fan et al. 2017, α = 0.5 |
//! | max F | [`max_f`] | 0..=1, higher | Achanta et al. 2009, β² = 0.3 |
//! | AUC | [`confidence_auc`] | 0..=1, higher | Mann and Whitney 1947 |

use crate::kernel::color::{Rgb8, delta_e_2000};

/// Distance d of boundary IoU as a share of the picture's diagonal.
pub const BOUNDARY_SHARE: f64 = 0.02;

/// How far the boundary region of [`recomposition`] reaches beyond the true matte's edge, as a share of the diagonal.
pub const HALO_SHARE: f64 = 0.005;

/// The new grounds of [`recomposition`]: black and white, on which halos show, and one that no picture had.
pub const NEW_GROUNDS: [Rgb8; 3] = [Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255), Rgb8::new(230, 0, 200)];

/// A matte and the straight sRGB colour in front, 3 bytes a pixel. The colour under alpha 0 does not count.
#[derive(Debug, Clone, Copy)]
pub struct CutOut<'a> {
    /// Opacity, 1 byte a pixel.
    pub alpha: &'a [u8],
    /// Foreground colour, 3 bytes a pixel.
    pub rgb: &'a [u8],
}

/// All figures of one cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// [`sad`].
    pub sad: f64,
    /// [`mse`].
    pub mse: f64,
    /// [`mae`].
    pub mae: f64,
    /// [`gradient_error`].
    pub gradient: f64,
    /// [`boundary_iou`] at [`BOUNDARY_SHARE`].
    pub boundary_iou: f64,
    /// [`recomposition`].
    pub recomposition: Recomposition,
    /// [`structure_measure`].
    pub structure: f64,
    /// [`max_f`].
    pub max_f: f64,
}

impl Figures {
    /// Judges a cut against the true one.
    pub fn new(truth: CutOut<'_>, got: CutOut<'_>, width: usize) -> Self {
        Self {
            sad: sad(truth.alpha, got.alpha),
            mse: mse(truth.alpha, got.alpha),
            mae: mae(truth.alpha, got.alpha),
            gradient: gradient_error(truth.alpha, got.alpha, width),
            boundary_iou: boundary_iou(truth.alpha, got.alpha, width, BOUNDARY_SHARE),
            recomposition: recomposition(truth, got, width),
            structure: structure_measure(truth.alpha, got.alpha, width),
            max_f: max_f(truth.alpha, got.alpha),
        }
    }
}

/// Sum of absolute differences in thousands of fully wrong pixels.
pub fn sad(truth: &[u8], got: &[u8]) -> f64 {
    let sum: u64 = truth.iter().zip(got).map(|(t, g)| u64::from(t.abs_diff(*g))).sum();
    sum as f64 / 255.0 / 1000.0
}

/// Mean squared error, 0..=1.
pub fn mse(truth: &[u8], got: &[u8]) -> f64 {
    let sum: u64 = truth.iter().zip(got).map(|(t, g)| u64::from(t.abs_diff(*g)).pow(2)).sum();
    sum as f64 / (255.0 * 255.0) / truth.len().min(got.len()).max(1) as f64
}

/// Mean absolute error, 0..=1.
pub fn mae(truth: &[u8], got: &[u8]) -> f64 {
    1000.0 * sad(truth, got) / truth.len().min(got.len()).max(1) as f64
}

/// Gradient error in thousands: squared differences of the mattes' gradient magnitudes, summed over the whole picture.
///
/// The gradients are first derivatives of Gaussians of σ = 1.4, cut at four pixels and scaled to unit energy, with the
/// border repeated, as in the benchmark's own code.
pub fn gradient_error(truth: &[u8], got: &[u8], width: usize) -> f64 {
    let (truth, got) = (gradient_magnitude(truth, width), gradient_magnitude(got, width));
    truth.iter().zip(&got).map(|(t, g)| f64::from((t - g) * (t - g))).sum::<f64>() / 1000.0
}

/// Pixels on each side of the derivative's centre: beyond, a Gaussian of σ = 1.4 is below 0.01.
const REACH: usize = 4;

fn gradient_magnitude(alpha: &[u8], width: usize) -> Vec<f32> {
    const SIGMA: f64 = 1.4;
    let width = width.max(1);
    let height = alpha.len() / width;
    let at = |i: usize| i as f64 - REACH as f64;
    let gauss: [f64; 2 * REACH + 1] = std::array::from_fn(|i| (-at(i) * at(i) / (2.0 * SIGMA * SIGMA)).exp());
    let slope: [f64; 2 * REACH + 1] = std::array::from_fn(|i| at(i) * gauss[i]);
    let unit = |taps: [f64; 2 * REACH + 1]| {
        let energy = taps.iter().map(|t| t * t).sum::<f64>().sqrt();
        taps.map(|t| (t / energy) as f32)
    };
    let (gauss, slope) = (unit(gauss), unit(slope));
    // Along the row first, both filters; then down the columns, the other filter each.
    let mut smooth = vec![0f32; width * height];
    let mut steep = vec![0f32; width * height];
    let mut padded = vec![0f32; width + 2 * REACH];
    let rows = alpha.chunks_exact(width).zip(smooth.chunks_exact_mut(width)).zip(steep.chunks_exact_mut(width));
    for ((row, smooth), steep) in rows {
        for (i, value) in padded.iter_mut().enumerate() {
            *value = f32::from(row[i.saturating_sub(REACH).min(width - 1)]) / 255.0;
        }
        for ((window, smooth), steep) in padded.windows(2 * REACH + 1).zip(smooth).zip(steep) {
            *smooth = window.iter().zip(&gauss).map(|(v, t)| v * t).sum();
            *steep = window.iter().zip(&slope).map(|(v, t)| v * t).sum();
        }
    }
    let mut out = vec![0f32; width * height];
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        for (x, out) in out.iter_mut().enumerate() {
            let (mut across, mut down) = (0f32, 0f32);
            for (k, (g, s)) in gauss.iter().zip(&slope).enumerate() {
                let i = (y + k).saturating_sub(REACH).min(height - 1) * width + x;
                across += steep[i] * g;
                down += smooth[i] * s;
            }
            *out = (across * across + down * down).sqrt();
        }
    }
    out
}

/// Intersection over union of the two mattes' inner boundaries: pixels of at least half opacity that lie within
/// `share` of the diagonal (at least 1 pixel, chessboard distance) of a pixel that is less, or of the picture's border.
/// 1 when neither matte has any.
pub fn boundary_iou(truth: &[u8], got: &[u8], width: usize, share: f64) -> f64 {
    let width = width.max(1);
    let height = truth.len().min(got.len()) / width;
    let reach = reach_of(width, height, share, 1);
    let boundary = |alpha: &[u8]| {
        let inside: Vec<bool> = alpha[..width * height].iter().map(|&a| a >= 128).collect();
        let outside: Vec<bool> = inside.iter().map(|i| !i).collect();
        let near = dilated(&outside, width, reach, true);
        inside.iter().zip(&near).map(|(&i, &n)| i && n).collect::<Vec<bool>>()
    };
    let (truth, got) = (boundary(truth), boundary(got));
    let both = truth.iter().zip(&got).filter(|(t, g)| **t && **g).count();
    let either = truth.iter().zip(&got).filter(|(t, g)| **t || **g).count();
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// A share of the diagonal in whole pixels.
fn reach_of(width: usize, height: usize, share: f64, least: usize) -> usize {
    let diagonal = ((width * width + height * height) as f64).sqrt();
    ((share * diagonal).round() as usize).max(least)
}

/// Pixels within `reach`, by chessboard distance, of a set one; `beyond`: what lies outside the picture counts as set.
fn dilated(set: &[bool], width: usize, reach: usize, beyond: bool) -> Vec<bool> {
    let height = set.len() / width;
    let mut rows = vec![false; set.len()];
    for (row, out) in set.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        spread(width, reach, beyond, |i| row[i], |i| out[i] = true);
    }
    let mut out = vec![false; set.len()];
    for x in 0..width {
        spread(height, reach, beyond, |y| rows[y * width + x], |y| out[y * width + x] = true);
    }
    out
}

/// Calls `mark` for every place of a line within `reach` of a set one.
fn spread(length: usize, reach: usize, beyond: bool, is_set: impl Fn(usize) -> bool, mut mark: impl FnMut(usize)) {
    let mut due = if beyond { reach } else { 0 };
    for i in 0..length {
        if is_set(i) {
            // What lies between here and the last marked place is marked too; the rest falls due.
            (i.saturating_sub(reach)..i).for_each(&mut mark);
            due = reach + 1;
        }
        if due > 0 {
            mark(i);
            due -= 1;
        }
    }
    if beyond {
        (length.saturating_sub(reach)..length).for_each(mark);
    }
}

/// Colour difference of two cuts laid over new grounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recomposition {
    /// Mean ΔE2000 over the boundary region; `None` when the true matte has no boundary.
    pub boundary: Option<f64>,
    /// Mean ΔE2000 over the whole picture.
    pub overall: f64,
}

/// Mean ΔE2000 between α̂F̂ + (1 − α̂)N and αF + (1 − α)N on the [`NEW_GROUNDS`] N, composed in 8-bit sRGB codes.
///
/// A halo, the old ground's colour left in the edge, costs little in alpha and much here. The boundary region is where
/// the true matte is partly opaque or differs from one of its eight neighbours, widened by [`HALO_SHARE`] of the
/// diagonal (at least 2 pixels).
pub fn recomposition(truth: CutOut<'_>, got: CutOut<'_>, width: usize) -> Recomposition {
    let width = width.max(1);
    let pixels = truth.alpha.len().min(got.alpha.len()).min(truth.rgb.len() / 3).min(got.rgb.len() / 3);
    let height = pixels / width;
    let band = band(&truth.alpha[..width * height], width);
    let (mut near, mut all) = (0f64, 0f64);
    for (i, &in_band) in band.iter().enumerate() {
        let mut sum = 0f64;
        for new in NEW_GROUNDS {
            let x = over(&truth.rgb[3 * i..], truth.alpha[i], new);
            let y = over(&got.rgb[3 * i..], got.alpha[i], new);
            if x != y {
                sum += f64::from(delta_e_2000(x.lab(), y.lab()));
            }
        }
        all += sum;
        if in_band {
            near += sum;
        }
    }
    let grounds = NEW_GROUNDS.len() as f64;
    let in_band = band.iter().filter(|b| **b).count();
    Recomposition {
        boundary: (in_band > 0).then(|| near / (grounds * in_band as f64)),
        overall: all / (grounds * band.len().max(1) as f64),
    }
}

/// The boundary region of a true matte.
fn band(alpha: &[u8], width: usize) -> Vec<bool> {
    let height = alpha.len() / width;
    let edge: Vec<bool> = (0..alpha.len())
        .map(|i| {
            let (x, y, a) = (i % width, i / width, alpha[i]);
            let (left, right) = (x - x.min(1), (x + 1).min(width - 1));
            let mut rows = y - y.min(1)..=(y + 1).min(height - 1);
            (a != 0 && a != 255) || rows.any(|j| alpha[j * width + left..=j * width + right].iter().any(|&b| b != a))
        })
        .collect();
    dilated(&edge, width, reach_of(width, height, HALO_SHARE, 2), false)
}

/// Straight alpha over an opaque ground, in sRGB codes, rounded.
fn over(rgb: &[u8], alpha: u8, ground: Rgb8) -> Rgb8 {
    let a = u32::from(alpha);
    let mix = |f: u8, b: u8| ((a * u32::from(f) + (255 - a) * u32::from(b) + 127) / 255) as u8;
    Rgb8::new(mix(rgb[0], ground.r), mix(rgb[1], ground.g), mix(rgb[2], ground.b))
}

/// S-measure: half how object and ground keep apart, half how the four quarters about the true object's centre agree in
/// structure. The true matte is cut at half opacity. A picture without a true object is judged by its mean alone, as
/// is one that is all object.
pub fn structure_measure(truth: &[u8], got: &[u8], width: usize) -> f64 {
    let width = width.max(1);
    let height = truth.len().min(got.len()) / width;
    let pixels = width * height;
    if pixels == 0 {
        return 1.0;
    }
    let object: Vec<bool> = truth[..pixels].iter().map(|&a| a >= 128).collect();
    let got: Vec<f64> = got[..pixels].iter().map(|&a| f64::from(a) / 255.0).collect();
    let area = object.iter().filter(|o| **o).count();
    let mean = got.iter().sum::<f64>() / pixels as f64;
    if area == 0 || area == pixels {
        return if area == 0 { 1.0 - mean } else { mean };
    }
    let share = area as f64 / pixels as f64;
    let likeness = |of: bool| {
        let values = object.iter().zip(&got).filter(|(o, _)| **o == of).map(|(_, g)| if of { *g } else { 1.0 - *g });
        let (mean, deviation) = mean_and_deviation(values);
        2.0 * mean / (mean * mean + 1.0 + deviation + f64::EPSILON)
    };
    let by_object = share * likeness(true) + (1.0 - share) * likeness(false);
    (0.5 * by_object + 0.5 * by_region(&object, &got, width)).max(0.0)
}

/// Mean and sample standard deviation.
fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count.max(1.0);
    let squares = values.map(|v| (v - mean) * (v - mean)).sum::<f64>();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

/// The likeness of the quarters about the object's centre of mass, weighted by their area.
fn by_region(object: &[bool], got: &[f64], width: usize) -> f64 {
    let height = object.len() / width;
    let (mut sum_x, mut sum_y, mut area) = (0usize, 0usize, 0usize);
    for (i, _) in object.iter().enumerate().filter(|(_, o)| **o) {
        sum_x += i % width;
        sum_y += i / width;
        area += 1;
    }
    let middle = |sum: usize, limit: usize| ((sum as f64 / area.max(1) as f64).round() as usize + 1).min(limit);
    let (cx, cy) = (middle(sum_x, width), middle(sum_y, height));
    let quarters = [(0..cx, 0..cy), (cx..width, 0..cy), (0..cx, cy..height), (cx..width, cy..height)];
    let mut total = 0.0;
    for (columns, rows) in quarters {
        let places = || rows.clone().flat_map(|y| columns.clone().map(move |x| y * width + x));
        let size = columns.len() * rows.len();
        if size > 0 {
            let pairs = places().map(|i| (f64::from(u8::from(object[i])), got[i]));
            total += size as f64 / object.len() as f64 * likeness_of(pairs);
        }
    }
    total
}

/// The product of the likenesses of mean, contrast and pattern (SSIM without its constants).
fn likeness_of(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = pairs.clone().count() as f64;
    let x = pairs.clone().map(|p| p.0).sum::<f64>() / count;
    let y = pairs.clone().map(|p| p.1).sum::<f64>() / count;
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (t, g) in pairs {
        xx += (t - x) * (t - x);
        yy += (g - y) * (g - y);
        xy += (t - x) * (g - y);
    }
    let spread = (count - 1.0).max(1.0);
    let (top, bottom) = (4.0 * x * y * xy / spread, (x * x + y * y) * (xx + yy) / spread);
    if top != 0.0 {
        top / (bottom + f64::EPSILON)
    } else if bottom == 0.0 {
        1.0
    } else {
        0.0
    }
}

/// The best F-measure (β² = 0.3) over all 256 thresholds of one picture, the true matte cut at half opacity. 1 when
/// neither matte has anything, 0 when only one has.
///
/// Published tables take the best threshold of a whole data set; per picture the figure is a little higher.
pub fn max_f(truth: &[u8], got: &[u8]) -> f64 {
    // Pixels by opacity: inside and outside of the true object.
    let mut counts = [[0u64; 2]; 256];
    for (&t, &g) in truth.iter().zip(got) {
        counts[g as usize][usize::from(t < 128)] += 1;
    }
    let positive: u64 = counts.iter().map(|c| c[0]).sum();
    if positive == 0 {
        return if counts[1..].iter().all(|c| c[1] == 0) { 1.0 } else { 0.0 };
    }
    let (mut hits, mut found, mut best) = (0u64, 0u64, 0f64);
    // Threshold 0 would take everything, which is no cut.
    for count in counts[1..].iter().rev() {
        hits += count[0];
        found += count[0] + count[1];
        if hits > 0 {
            let (precision, recall) = (hits as f64 / found as f64, hits as f64 / positive as f64);
            best = best.max(1.3 * precision * recall / (0.3 * precision + recall));
        }
    }
    best
}

/// The chance that a good cut is given more confidence than a bad one, ties counted half: the area under the ROC curve.
/// Takes the confidence of every cut and whether it is bad; `None` unless there are both kinds.
pub fn confidence_auc(cuts: &[(f64, bool)]) -> Option<f64> {
    let confidences = |bad: bool| cuts.iter().filter(move |c| c.1 == bad).map(|c| c.0).collect::<Vec<f64>>();
    let (good, bad) = (confidences(false), confidences(true));
    let pairs = good.iter().flat_map(|g| bad.iter().map(move |b| g.total_cmp(b)));
    let score: f64 = pairs
        .map(|order| match order {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
        .sum();
    (!good.is_empty() && !bad.is_empty()).then(|| score / (good.len() * bad.len()) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A white square in a `side`-pixel picture, `from..to` both ways.
    fn square(side: usize, from: usize, to: usize) -> Vec<u8> {
        let inside = |v: usize| (from..to).contains(&v);
        (0..side * side).map(|i| if inside(i % side) && inside(i / side) { 255 } else { 0 }).collect()
    }

    #[test]
    fn pixel_errors_are_sums_and_means_of_opacity() {
        let (truth, got) = ([0, 255, 255, 0], [51, 255, 0, 0]);
        assert!((sad(&truth, &got) - 0.0012).abs() < 1e-12);
        assert!((mae(&truth, &got) - 0.3).abs() < 1e-12);
        assert!((mse(&truth, &got) - 1.04 / 4.0).abs() < 1e-12);
        assert_eq!(mae(&truth, &truth), 0.0);
    }

    #[test]
    fn the_gradient_of_a_step_is_that_of_the_formula() {
        // Far from the ends a vertical step of height 1 has, next to it, the sum of the slope's taps on one side, times
        // the sum of the Gaussian's: unit-energy taps worked out by hand.
        let (width, height) = (40, 40);
        let step: Vec<u8> = (0..width * height).map(|i| if i % width >= 20 { 255 } else { 0 }).collect();
        let magnitude = gradient_magnitude(&step, width);
        let g = |v: f64| (-v * v / 3.92).exp();
        let energy = |f: &dyn Fn(f64) -> f64| (-4..=4).map(|v| f(f64::from(v)).powi(2)).sum::<f64>().sqrt();
        let slope = |v: f64| v * g(v);
        let sum = (-4..=4).map(|v| g(f64::from(v))).sum::<f64>() / energy(&g);
        let beside = (1..=4).map(|v| slope(f64::from(v))).sum::<f64>() / energy(&slope);
        let expected = sum * beside;
        assert!((f64::from(magnitude[20 * width + 19]) - expected).abs() < 1e-5, "{expected}");
        assert!(magnitude[20 * width + 5].abs() < 1e-5, "flat where the matte is flat");
        // Against nothing at all the error is the gradient's own energy.
        let energy: f64 = magnitude.iter().map(|m| f64::from(m * m)).sum::<f64>() / 1000.0;
        assert!((gradient_error(&step, &vec![0; width * height], width) - energy).abs() < 1e-9);
        assert_eq!(gradient_error(&step, &step, width), 0.0);
    }

    #[test]
    fn the_boundary_of_a_square_is_a_frame_of_its_distance() {
        // Squares of 20 and 18 pixels, frames 2 wide (2 % of a diagonal of 113 px): 20² − 16² and 18² − 14² = 144 and
        // 128 pixels; they share the ring between 18² and 16², 68 pixels.
        let (truth, got) = (square(80, 30, 50), square(80, 31, 49));
        assert_eq!(reach_of(80, 80, BOUNDARY_SHARE, 1), 2);
        let expected = 68.0 / (144.0 + 128.0 - 68.0);
        assert!((boundary_iou(&truth, &got, 80, BOUNDARY_SHARE) - expected).abs() < 1e-12);
        assert_eq!(boundary_iou(&truth, &truth, 80, BOUNDARY_SHARE), 1.0);
        assert_eq!(boundary_iou(&truth, &vec![0; 6400], 80, BOUNDARY_SHARE), 0.0);
        assert_eq!(boundary_iou(&[0; 9], &[0; 9], 3, BOUNDARY_SHARE), 1.0, "two empty mattes agree");
    }

    #[test]
    fn the_pictures_border_is_a_boundary_too() {
        // All object: its frame is 1 wide, and the frame of an object one column short is the same but for that column.
        let full = [255u8; 25];
        let short: Vec<u8> = (0..25).map(|i| if i % 5 == 4 { 0 } else { 255 }).collect();
        // Frames of 16 and of 5·4 − 3·2 = 14 pixels; shared are 14 less the 3 inner ones of the new edge.
        let got = boundary_iou(&full, &short, 5, 0.0);
        assert!((got - 11.0 / (16.0 + 14.0 - 11.0)).abs() < 1e-12, "{got}");
    }

    #[test]
    fn dilation_reaches_exactly_as_far_as_it_says() {
        let mut dot = vec![false; 11 * 11];
        dot[5 * 11 + 5] = true;
        for reach in 1..5 {
            let count = dilated(&dot, 11, reach, false).iter().filter(|d| **d).count();
            assert_eq!(count, (2 * reach + 1) * (2 * reach + 1), "{reach}");
        }
        let frame = dilated(&[false; 49], 7, 2, true);
        assert_eq!(frame.iter().filter(|d| **d).count(), 49 - 9);
    }

    #[test]
    fn a_halo_costs_what_its_color_differs_on_the_new_grounds() {
        // One column is half opaque; the cut has the right alpha and leaves the old white ground in its colour.
        let (width, height) = (20, 6);
        let alpha: Vec<u8> = (0..width * height)
            .map(|i| {
                if i % width < 10 {
                    0
                } else if i % width == 10 {
                    128
                } else {
                    255
                }
            })
            .collect();
        let color = |at_edge: u8| -> Vec<u8> {
            (0..width * height).flat_map(|i| [if i % width == 10 { at_edge } else { 40 }; 3]).collect()
        };
        let (clean, tinted) = (color(40), color(148));
        let truth = CutOut { alpha: &alpha, rgb: &clean };
        let result = recomposition(truth, CutOut { alpha: &alpha, rgb: &tinted }, width);
        let grey = |v: u8, n: Rgb8| over(&[v; 3], 128, n).lab();
        let per_pixel: f64 = NEW_GROUNDS.iter().map(|&n| f64::from(delta_e_2000(grey(40, n), grey(148, n)))).sum();
        let per_pixel = per_pixel / 3.0;
        assert!(per_pixel > 8.0, "{per_pixel}");
        // The region is that column, the two beside it, whose alpha differs from its, and two more on each side.
        let near = result.boundary.unwrap();
        assert!((near - per_pixel / 7.0).abs() < 1e-9, "{near} {per_pixel}");
        assert!((result.overall - per_pixel / 20.0).abs() < 1e-9);
        let same = recomposition(truth, truth, width);
        assert_eq!((same.boundary, same.overall), (Some(0.0), 0.0));
    }

    #[test]
    fn hidden_color_does_not_count_and_no_edge_is_no_figure() {
        let nothing = [0u8; 12];
        let truth = CutOut { alpha: &nothing, rgb: &[0; 36] };
        let got = CutOut { alpha: &nothing, rgb: &[200; 36] };
        assert_eq!(recomposition(truth, got, 4), Recomposition { boundary: None, overall: 0.0 });
    }

    #[test]
    fn the_structure_measure_rewards_the_true_object() {
        let truth = square(40, 10, 30);
        let inverse: Vec<u8> = truth.iter().map(|a| 255 - a).collect();
        assert!((structure_measure(&truth, &truth, 40) - 1.0).abs() < 1e-9);
        assert!(structure_measure(&truth, &inverse, 40) < 0.1);
        let (near, far) = (square(40, 11, 29), square(40, 16, 24));
        let (near, far) = (structure_measure(&truth, &near, 40), structure_measure(&truth, &far, 40));
        assert!(near > 0.85 && far < near - 0.1, "{near} {far}");
        // Without an object, what is not claimed; with nothing but object, what is.
        assert!((structure_measure(&[0; 4], &[51; 4], 2) - 0.8).abs() < 1e-9);
        assert!((structure_measure(&[255; 4], &[51; 4], 2) - 0.2).abs() < 1e-9);
        // All half opaque: likeness 2·½/(¼ + 1) of object and ground alike, and no pattern in any quarter.
        let half = structure_measure(&truth, &[128; 1600], 40);
        assert!((half - 0.5 * 2.0 * 0.5 / 1.25).abs() < 0.01, "{half}");
    }

    #[test]
    fn the_best_threshold_makes_the_f_measure() {
        // At threshold 200: one hit of two, none wrong: 1.3·1·½/(0.3 + ½). At 100: two of two, one wrong of three.
        let (truth, got) = ([255, 255, 0, 0], [200, 100, 100, 0]);
        let (high, low) = (1.3 * 0.5 / 0.8, 1.3 * (2.0 / 3.0) / (0.3 * 2.0 / 3.0 + 1.0));
        assert!((max_f(&truth, &got) - f64::max(high, low)).abs() < 1e-12);
        assert_eq!(max_f(&truth, &truth), 1.0);
        assert_eq!(max_f(&[0; 3], &[0; 3]), 1.0);
        assert_eq!(max_f(&[0; 3], &[9; 3]), 0.0);
        assert_eq!(max_f(&[255; 3], &[0; 3]), 0.0);
    }

    #[test]
    fn the_area_counts_pairs_in_order_and_ties_as_half() {
        // Good 0.9 and 0.5, bad 0.5 and 0.1: three pairs in order, one tie.
        let cuts = [(0.9, false), (0.5, true), (0.5, false), (0.1, true)];
        assert_eq!(confidence_auc(&cuts), Some(3.5 / 4.0));
        assert_eq!(confidence_auc(&[(0.1, false), (0.9, true)]), Some(0.0));
        assert_eq!(confidence_auc(&[(0.1, false)]), None);
    }

    #[test]
    fn small_and_uneven_input_has_figures_too() {
        let cases: [(&[u8], &[u8], usize); 5] = [
            (&[], &[], 1),
            (&[7], &[200], 1),
            (&[1, 2, 3], &[4, 5], 2),
            (&[255; 6], &[0; 4], 0),
            (&[9; 5], &[1; 5], 9),
        ];
        for (truth, got, width) in cases {
            let rgb = [10u8; 18];
            let figures =
                Figures::new(CutOut { alpha: truth, rgb: &rgb }, CutOut { alpha: got, rgb: &rgb[..6] }, width);
            assert!(figures.mae >= 0.0 && figures.structure.is_finite() && figures.gradient.is_finite());
        }
    }
}
