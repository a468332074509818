//! Scalar fields: the lightness of a picture, and the filters that effects build on.
//!
//! A field has a value at every pixel. Hidden pixels are filled from visible ones around them before anything is
//! filtered, so that filters need no masks and what a file hides can never show.

use rayon::prelude::*;

use super::EnhancedBw;
use crate::kernel::color::{DECODE, OkLab, cbrt_positive};
use crate::kernel::image::{Raster, Rows as _};
use crate::kernel::simd::vectorize;

/// Rows of one piece of parallel work.
pub(super) const BAND: usize = 32;
/// Pixels that are converted together.
const BLOCK: usize = 64;
/// Taps to one side that a blur has at most.
const MAX_RADIUS: usize = 40;

/// A row-major plane of `width·height` values; both sides at least 1.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f32>,
}

/// OKLab lightness, 0..=1, of every pixel; or, with `mix`, the lightness of the grey whose linear light is that mixture
/// of red, green and blue. Weights are divided by their sum. Hidden pixels are filled.
pub(super) fn lightness(picture: &Raster, mix: Option<[f32; 3]>) -> Field {
    let mut values = vec![0f32; picture.pixels().len()];
    let weights = mix.map(normalized);
    let lut = &*DECODE;
    let piece = BAND * picture.width() as usize;
    values.par_chunks_mut(piece).zip(picture.pixels().par_chunks(piece)).for_each(|(out, pixels)| {
        vectorize(
            #[inline(always)]
            || {
                let mut planes = [[0f32; BLOCK]; 3];
                for (out, pixels) in out.chunks_mut(BLOCK).zip(pixels.chunks(BLOCK)) {
                    let [red, green, blue] = &mut planes;
                    for (((r, g), b), &p) in red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()).zip(pixels) {
                        *r = lut[(p & 255) as usize];
                        *g = lut[(p >> 8 & 255) as usize];
                        *b = lut[(p >> 16 & 255) as usize];
                    }
                    let channels = red.iter().zip(green.iter()).zip(blue.iter());
                    if let Some([wr, wg, wb]) = weights {
                        for (out, ((r, g), b)) in out.iter_mut().zip(channels) {
                            *out = cbrt_positive((wr * r + wg * g + wb * b).clamp(DARKEST, 1.0));
                        }
                    } else {
                        for (out, ((r, g), b)) in out.iter_mut().zip(channels) {
                            *out = OkLab::from_linear([r.max(DARKEST), g.max(DARKEST), b.max(DARKEST)]).l;
                        }
                    }
                }
            },
        );
    });
    let mut field = Field { width: picture.width() as usize, height: picture.height() as usize, values };
    if picture.has_alpha() {
        field.fill_hidden(picture.pixels());
    }
    field
}

/// Linear light that cube roots are kept above: their first guess has too few digits left at 0.
pub(super) const DARKEST: f32 = 1e-10;

/// Weights of sum 1. Where their sum is too small for that, those of luminance.
fn normalized(mix: [f32; 3]) -> [f32; 3] {
    let sum: f32 = mix.iter().sum();
    if sum.is_finite() && sum >= EnhancedBw::LEAST_SUM { mix.map(|w| w / sum) } else { LUMINANCE }
}

/// Shares of linear red, green and blue in luminance (IEC 61966-2-1).
pub(super) const LUMINANCE: [f32; 3] = [0.2126, 0.7152, 0.0722];

/// How many of `size`'s pixels make one of a picture whose longer side is near `wanted`.
pub(super) fn reduction(width: usize, height: usize, wanted: usize) -> usize {
    ((width.max(height) + wanted / 2) / wanted).max(1)
}

/// A length in pixels that is `share` of the picture's size, the geometric mean of its sides.
pub(super) fn scaled(width: usize, height: usize, share: f32) -> f32 {
    (width as f32 * height as f32).sqrt() * share
}

impl Field {
    /// Row `y`, or the nearest one inside.
    pub fn row(&self, y: usize) -> &[f32] {
        &self.values[y.min(self.height - 1) * self.width..][..self.width]
    }

    /// Gives hidden pixels the mean of the visible ones near them: averages of visible values by halving, then the
    /// finest average there is (pull-push, S. Gortler et al. 1996).
    fn fill_hidden(&mut self, pixels: &[u32]) {
        let weights: Vec<u8> = pixels.iter().map(|p| u8::from(p >> 24 != 0)).collect();
        if weights.iter().all(|&w| w == 0) {
            return;
        }
        self.pull_push(weights);
    }

    fn pull_push(&mut self, weights: Vec<u8>) {
        if !weights.contains(&0) {
            return;
        }
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut coarse = Self { width, height, values: vec![0.0; width * height] };
        let mut known = vec![0u8; width * height];
        let rows = coarse.values.par_chunks_mut(width).zip(known.par_chunks_mut(width)).enumerate();
        rows.for_each(|(y, (values, known))| {
            for x in 0..width {
                let (mut sum, mut count) = (0f32, 0u8);
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let (x, y) = (2 * x + dx, 2 * y + dy);
                    if x < self.width && y < self.height && weights[y * self.width + x] != 0 {
                        sum += self.values[y * self.width + x];
                        count += 1;
                    }
                }
                values[x] = sum / f32::from(count.max(1));
                known[x] = count.min(1);
            }
        });
        coarse.pull_push(known);
        let step = self.width;
        self.values.par_chunks_mut(step).zip(weights.par_chunks(step)).enumerate().for_each(
            |(y, (values, weights))| {
                for (x, (v, _)) in values.iter_mut().zip(weights).enumerate().filter(|(_, (_, w))| **w == 0) {
                    *v = coarse.between((x as f32 - 0.5) / 2.0, (y as f32 - 0.5) / 2.0);
                }
            },
        );
    }

    /// The value between pixel centres, bilinear.
    fn between(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x.clamp(0.0, (self.width - 1) as f32), y.clamp(0.0, (self.height - 1) as f32));
        let (left, top) = (x as usize, y as usize);
        let (right, u, v) = ((left + 1).min(self.width - 1), x - left as f32, y - top as f32);
        let at = |row: &[f32]| row[left] + u * (row[right] - row[left]);
        let (above, below) = (at(self.row(top)), at(self.row(top + 1)));
        above + v * (below - above)
    }

    /// Means of blocks of `factor²` pixels.
    pub fn reduced(&self, factor: usize) -> Self {
        let (width, height) = (self.width.div_ceil(factor), self.height.div_ceil(factor));
        let mut values = vec![0f32; width * height];
        values.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            let rows = y * factor..((y + 1) * factor).min(self.height);
            let count = rows.len();
            for y in rows {
                for (out, block) in out.iter_mut().zip(self.row(y).chunks(factor)) {
                    *out += block.iter().sum::<f32>() / block.len() as f32;
                }
            }
            out.iter_mut().for_each(|v| *v /= count as f32);
        });
        Self { width, height, values }
    }

    /// A Gaussian blur of standard deviation `sigma` pixels; edge pixels are repeated outwards.
    pub fn blurred(&self, sigma: f32) -> Self {
        let kernel = kernel(sigma);
        let mut values = vec![0f32; self.values.len()];
        values.par_chunks_mut(BAND * self.width).enumerate().for_each(|(band, out)| {
            self.blur_rows(band * BAND, &kernel, out);
        });
        Self { width: self.width, height: self.height, values }
    }

    /// Writes blurred rows from row `first` on into `out`. `kernel` is one side of a symmetric kernel, its centre
    /// first.
    pub fn blur_rows(&self, first: usize, kernel: &[f32], out: &mut [f32]) {
        let (width, radius) = (self.width, kernel.len() - 1);
        let rows = out.len() / width;
        let mut across = vec![0f32; (rows + 2 * radius) * width];
        let mut padded = vec![0f32; width + 2 * radius];
        for (i, across) in across.chunks_exact_mut(width).enumerate() {
            let source = self.row((first + i).saturating_sub(radius));
            padded[..radius].fill(source[0]);
            padded[radius..radius + width].copy_from_slice(source);
            padded[radius + width..].fill(source[width - 1]);
            vectorize(
                #[inline(always)]
                || {
                    scale(across, &padded[radius..], kernel[0]);
                    for (k, &weight) in kernel.iter().enumerate().skip(1) {
                        add_pair(across, &padded[radius - k..], &padded[radius + k..], weight);
                    }
                },
            );
        }
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let row = |at: usize| &across[at * width..][..width];
            vectorize(
                #[inline(always)]
                || {
                    scale(out, row(i + radius), kernel[0]);
                    for (k, &weight) in kernel.iter().enumerate().skip(1) {
                        add_pair(out, row(i + radius - k), row(i + radius + k), weight);
                    }
                },
            );
        }
    }
}

#[inline(always)]
fn scale(out: &mut [f32], source: &[f32], weight: f32) {
    for (out, v) in out.iter_mut().zip(source) {
        *out = weight * v;
    }
}

#[inline(always)]
fn add_pair(out: &mut [f32], before: &[f32], after: &[f32], weight: f32) {
    for ((out, b), a) in out.iter_mut().zip(before).zip(after) {
        *out += weight * (b + a);
    }
}

/// One side of a Gaussian of sum 1, its centre first. It ends after [`MAX_RADIUS`] pixels, that is 16 of deviation.
pub(super) fn kernel(sigma: f32) -> Vec<f32> {
    let radius = ((2.5 * sigma).ceil() as usize).clamp(1, MAX_RADIUS);
    let sigma = sigma.max(1e-3);
    let side: Vec<f32> = (0..=radius).map(|k| (-((k * k) as f32) / (2.0 * sigma * sigma)).exp()).collect();
    let sum = side[0] + 2.0 * side[1..].iter().sum::<f32>();
    side.into_iter().map(|v| v / sum).collect()
}

/// Reads a reduced field at the resolution it was reduced from, bilinear.
pub(super) struct Enlarged<'a> {
    field: &'a Field,
    factor: usize,
    /// Pixels before the first reduced pixel's centre.
    margin: usize,
    /// Of the pixels from one centre to the next, how far each lies past the first.
    shares: Vec<f32>,
}

impl<'a> Enlarged<'a> {
    /// `field` is a field that was reduced by `factor`.
    pub fn new(field: &'a Field, factor: usize) -> Self {
        let margin = factor / 2;
        let share = |i: usize| (margin + i) as f32 / factor as f32 + 0.5 / factor as f32 - 0.5;
        Self { field, factor, margin, shares: (0..factor).map(share).collect() }
    }

    /// Writes row `y`. `between` is space that is used again.
    pub fn row(&self, y: usize, between: &mut Vec<f32>, out: &mut [f32]) {
        let at = ((y as f32 + 0.5) / self.factor as f32 - 0.5).clamp(0.0, (self.field.height - 1) as f32);
        let (top, t) = (at as usize, at - at.floor());
        between.clear();
        let rows = self.field.row(top).iter().zip(self.field.row(top + 1));
        between.extend(rows.map(|(above, below)| above + t * (below - above)));
        // Columns past the last, so that there is always one to the right.
        let last = between[between.len() - 1];
        between.extend([last; 2]);
        let (margin, rest) = out.split_at_mut(self.margin.min(out.len()));
        margin.fill(between[0]);
        if self.factor == 2 {
            // The pixels lie a quarter and three quarters of the way.
            for (out, pair) in rest.chunks_mut(2).zip(between.windows(2)) {
                let step = 0.25 * (pair[1] - pair[0]);
                out[0] = pair[0] + step;
                if let Some(out) = out.get_mut(1) {
                    *out = pair[1] - step;
                }
            }
            return;
        }
        for (out, pair) in rest.chunks_mut(self.factor).zip(between.windows(2)) {
            for (out, t) in out.iter_mut().zip(&self.shares) {
                *out = pair[0] + t * (pair[1] - pair[0]);
            }
        }
    }
}

/// How many visible pixels have a lightness in each of 256 equal steps of 0..=1.
pub(super) fn histogram(field: &Field, pixels: &[u32]) -> [u32; 256] {
    let piece = BAND * field.width;
    let parts: Vec<[u32; 256]> = field
        .values
        .par_chunks(piece)
        .zip(pixels.par_chunks(piece))
        .map(|(values, pixels)| {
            let mut counts = Counts::new();
            counts.add(values.iter().zip(pixels).map(|(v, p)| (bin(*v), p >> 24 != 0)));
            counts.sum()
        })
        .collect();
    let mut total = [0u32; 256];
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(t, c)| *t += c);
    }
    total
}

/// Counts of 256 values, in two halves by turns: a count that is taken up again at once would have to wait for itself.
pub(super) struct Counts([[u32; 256]; 2]);

impl Counts {
    pub fn new() -> Self {
        Self([[0; 256]; 2])
    }

    /// Counts values, 0..=255, that come with true.
    #[inline(always)]
    pub fn add(&mut self, values: impl Iterator<Item = (usize, bool)>) {
        let [even, odd] = &mut self.0;
        let mut values = values;
        while let Some((value, counts)) = values.next() {
            even[value & 255] += u32::from(counts);
            if let Some((value, counts)) = values.next() {
                odd[value & 255] += u32::from(counts);
            }
        }
    }

    pub fn sum(&self) -> [u32; 256] {
        std::array::from_fn(|i| self.0[0][i] + self.0[1][i])
    }
}

/// The step of a [`histogram`] that a value falls into.
#[inline(always)]
pub(super) fn bin(v: f32) -> usize {
    // Adding 2^23 leaves the rounded value in the low bits; a cast would saturate.
    ((v.clamp(0.0, 1.0) * 255.0 + 8_388_608.0).to_bits() & 255) as usize
}

/// The value, 0..=1, below which `share` of a [`histogram`]'s pixels lie.
pub(super) fn percentile(counts: &[u32; 256], share: f64) -> f32 {
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let wanted = total as f64 * share;
    let mut below = 0f64;
    for (i, &count) in counts.iter().enumerate() {
        let count = f64::from(count);
        if count > 0.0 && below + count >= wanted {
            let within = ((wanted - below) / count).clamp(0.0, 1.0);
            return ((i as f64 - 0.5 + within) / 255.0).clamp(0.0, 1.0) as f32;
        }
        below += count;
    }
    1.0
}

/// The packed pixels `colors` gives, row after row, with the picture's alpha and nothing where it is hidden.
///
/// `colors` writes the rows of a band, opaque or not: its first row, and space for its pixels.
pub(super) fn paint(picture: &Raster, colors: impl Fn(usize, &mut [u32]) + Sync) -> Raster {
    let (width, height) = (picture.width(), picture.height());
    let mut out = vec![0u32; picture.pixels().len()];
    let piece = BAND * width as usize;
    out.par_chunks_mut(piece).zip(picture.pixels().par_chunks(piece)).enumerate().for_each(|(band, (out, pixels))| {
        colors(band * BAND, out);
        if picture.has_alpha() {
            for (out, p) in out.iter_mut().zip(pixels) {
                *out = if p >> 24 == 0 { 0 } else { *out & 0x00ff_ffff | p & 0xff00_0000 };
            }
        }
    });
    Raster::of_length(width, height, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;
    use crate::kernel::image::pack_rgba;

    fn field(width: usize, height: usize, at: impl Fn(usize, usize) -> f32) -> Field {
        let values = (0..width * height).map(|i| at(i % width, i / width)).collect();
        Field { width, height, values }
    }

    #[test]
    fn a_blur_keeps_a_flat_field_and_the_mean_of_a_dot() {
        let flat = field(37, 21, |_, _| 0.4).blurred(2.3);
        assert!(flat.values.iter().all(|v| (v - 0.4).abs() < 1e-5));
        let dot = field(65, 65, |x, y| if (x, y) == (32, 32) { 1.0 } else { 0.0 }).blurred(2.0);
        assert!((dot.values.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        // Of a Gaussian of σ 2 the centre is 1/(2πσ²), a little more for the tails cut off.
        assert!((dot.values[32 * 65 + 32] - 0.0398).abs() < 0.002);
    }

    #[test]
    fn an_enlarged_ramp_is_the_ramp_away_from_the_ends() {
        let ramp = field(60, 8, |x, _| x as f32 / 59.0);
        let small = ramp.reduced(4);
        let enlarged = Enlarged::new(&small, 4);
        let mut row = vec![0f32; 60];
        enlarged.row(3, &mut Vec::new(), &mut row);
        assert!((2..58).all(|x| (row[x] - x as f32 / 59.0).abs() < 1e-4), "{row:?}");
    }

    #[test]
    fn hidden_pixels_take_the_lightness_around_them() {
        let light = pack_rgba(230, 230, 230, 255);
        let pixels: Vec<u32> = (0..40 * 30).map(|i| if i % 40 < 25 { light } else { 0x0000_ff12 }).collect();
        let filled = lightness(&Raster::new(40, 30, pixels).unwrap(), None);
        let wanted = Rgb8::new(230, 230, 230).oklab().l;
        assert!(filled.values.iter().all(|v| (v - wanted).abs() < 1e-4));
    }

    #[test]
    fn a_mixture_of_one_channel_sees_that_channel_alone() {
        let raster = Raster::new(2, 1, vec![pack_rgba(200, 0, 0, 255), pack_rgba(0, 90, 255, 255)]).unwrap();
        let red = lightness(&raster, Some([3.0, 0.0, 0.0]));
        assert!((red.values[0] - Rgb8::new(200, 200, 200).oklab().l).abs() < 1e-3 && red.values[1] < 1e-3);
        let nothing = lightness(&raster, Some([0.0, 0.0, 0.0]));
        assert_eq!(nothing.values, lightness(&raster, Some(LUMINANCE)).values);
    }

    #[test]
    fn percentiles_lie_where_the_pixels_are() {
        let mut counts = [0u32; 256];
        counts[51] = 50;
        counts[204] = 50;
        assert!((percentile(&counts, 0.1) - 0.2).abs() < 0.01 && (percentile(&counts, 0.9) - 0.8).abs() < 0.01);
        assert_eq!(percentile(&[0; 256], 0.5), 1.0);
    }
}
