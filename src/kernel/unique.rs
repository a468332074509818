//! Exact unique colours of a picture, how often each occurs, and an index image that refers to them.
//!
//! A photograph of 4 megapixels has about 8 % unique colours, flat art 0.2 %. Everything that depends on a palette is
//! computed per unique colour; a pixel then costs one table look-up.
//!
//! Method: a bitmap of 2²⁴ bits marks the colours present; the rank of a colour (set bits before it, from prefix
//! popcounts) is its index. Nothing is hashed or sorted, and the order never depends on the thread count.

use rayon::prelude::*;

use super::image::BaseImage;
use super::simd::vectorize;

const WORDS: usize = 1 << 18;

/// A picture as indices into its unique colours.
///
/// `index[i]` is below `colors.len()` for visible pixels and equal to it for pixels of alpha 0, so that a table with
/// one more entry than there are colours covers every pixel.
pub struct IndexedImage {
    width: u32,
    height: u32,
    index: Vec<u32>,
    alpha: Option<Vec<u8>>,
    colors: Vec<u32>,
    counts: Vec<u32>,
    visible: u64,
}

impl IndexedImage {
    /// Indexes `image`, taking its planes and freeing the colour plane.
    ///
    /// Counts are taken on a grid whose longer side has at most `sample_size` points (0 counts every pixel): they
    /// weigh clusters and shares, for which a million samples are as good as fifty.
    pub fn new(image: BaseImage, sample_size: u32) -> Self {
        let (width, height, rgb, alpha) = image.into_planes();
        let bitmap = mark(&rgb, alpha.as_deref());
        let ranks = Ranks::new(bitmap);
        let colors = ranks.colors();
        let index = ranks.index(&rgb, alpha.as_deref(), colors.len() as u32);
        drop(rgb);
        let step = match sample_size {
            0 => 1,
            size => width.max(height).div_ceil(size).max(1) as usize,
        };
        let (counts, visible) = count(&index, width as usize, step, colors.len());
        Self { width, height, index, alpha, colors, counts, visible }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Per pixel, row-major: the index of its colour, or `colors().len()` where alpha is 0.
    pub fn index(&self) -> &[u32] {
        &self.index
    }

    /// Alpha per pixel; `None` when every pixel is opaque.
    pub fn alpha(&self) -> Option<&[u8]> {
        self.alpha.as_deref()
    }

    /// The unique colours of the visible pixels, packed and opaque, each once.
    pub fn colors(&self) -> &[u32] {
        &self.colors
    }

    /// How many sampled pixels have each colour.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Sampled visible pixels: the sum of [`Self::counts`].
    pub fn visible(&self) -> u64 {
        self.visible
    }
}

#[inline(always)]
fn key(pixel: &[u8; 3]) -> usize {
    (pixel[0] as usize) << 16 | (pixel[1] as usize) << 8 | pixel[2] as usize
}

/// Pixels a parallel piece of work should hold at least.
const GRAIN: usize = 1 << 16;

fn piece(pixels: usize) -> usize {
    pixels.div_ceil(rayon::current_num_threads().max(1)).max(GRAIN)
}

fn mark(rgb: &[u8], alpha: Option<&[u8]>) -> Vec<u64> {
    let size = piece(rgb.len() / 3);
    let bitmaps: Vec<Vec<u64>> = rgb
        .par_chunks(size * 3)
        .enumerate()
        .map(|(i, part)| {
            let mut bits = vec![0u64; WORDS];
            let pixels = part.as_chunks::<3>().0;
            let set = |bits: &mut [u64], pixel| {
                let k = key(pixel);
                bits[k >> 6] |= 1 << (k & 63);
            };
            let bits_slice = &mut bits[..WORDS];
            match alpha {
                None => {
                    // Runs of one colour are common in flat art; skipping them spares a store-to-load dependency.
                    let mut last = [0u8; 3];
                    if let Some(first) = pixels.first() {
                        last = *first;
                        set(bits_slice, first);
                    }
                    for pixel in pixels {
                        if *pixel != last {
                            set(bits_slice, pixel);
                            last = *pixel;
                        }
                    }
                }
                Some(alpha) => {
                    for (pixel, &a) in pixels.iter().zip(&alpha[i * size..]) {
                        if a != 0 {
                            set(bits_slice, pixel);
                        }
                    }
                }
            }
            bits
        })
        .collect();
    bitmaps
        .into_iter()
        .reduce(|mut all, part| {
            for (x, y) in all.iter_mut().zip(part) {
                *x |= y;
            }
            all
        })
        .unwrap_or_else(|| vec![0; WORDS])
}

/// A bitmap with the number of set bits before each word.
struct Ranks {
    bits: Vec<u64>,
    before: Vec<u32>,
    total: u32,
}

impl Ranks {
    fn new(bits: Vec<u64>) -> Self {
        let mut before = Vec::with_capacity(bits.len());
        let mut total = 0u32;
        vectorize(
            #[inline(always)]
            || {
                for word in &bits {
                    before.push(total);
                    total += word.count_ones();
                }
            },
        );
        Self { bits, before, total }
    }

    #[inline(always)]
    fn rank(&self, k: usize) -> u32 {
        let word = self.bits[k >> 6];
        self.before[k >> 6] + (word & ((1u64 << (k & 63)) - 1)).count_ones()
    }

    fn colors(&self) -> Vec<u32> {
        let mut colors = Vec::with_capacity(self.total as usize);
        for (w, &word) in self.bits.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let k = (w << 6) as u32 | rest.trailing_zeros();
                colors.push(u32::from_le_bytes([(k >> 16) as u8, (k >> 8) as u8, k as u8, 255]));
                rest &= rest - 1;
            }
        }
        colors
    }

    fn index(&self, rgb: &[u8], alpha: Option<&[u8]>, hidden: u32) -> Vec<u32> {
        let mut index = vec![0u32; rgb.len() / 3];
        let size = piece(index.len());
        index.par_chunks_mut(size).zip(rgb.par_chunks(size * 3)).enumerate().for_each(|(i, (out, part))| {
            vectorize(
                #[inline(always)]
                || {
                    let pixels = part.as_chunks::<3>().0;
                    for (slot, pixel) in out.iter_mut().zip(pixels) {
                        *slot = self.rank(key(pixel));
                    }
                    if let Some(alpha) = alpha {
                        for (slot, &a) in out.iter_mut().zip(&alpha[i * size..]) {
                            if a == 0 {
                                *slot = hidden;
                            }
                        }
                    }
                },
            );
        });
        index
    }
}

/// Counts indices on every `step`-th pixel of every `step`-th row, starting in the middle of the first cell.
fn count(index: &[u32], width: usize, step: usize, colors: usize) -> (Vec<u32>, u64) {
    let rows: Vec<&[u32]> = index.chunks_exact(width).skip(step / 2).step_by(step).collect();
    let rows = if rows.is_empty() { index.chunks_exact(width).take(1).collect() } else { rows };
    let start = (step / 2).min(width - 1);
    // One extra slot takes the hidden pixels.
    let tally = |rows: &[&[u32]]| {
        let mut counts = vec![0u32; colors + 1];
        for row in rows {
            for &i in row[start..].iter().step_by(step) {
                counts[i as usize] += 1;
            }
        }
        counts
    };
    let size = rows.len().div_ceil(rayon::current_num_threads().max(1)).max(64);
    let mut counts = rows
        .par_chunks(size)
        .map(tally)
        .reduce_with(|mut all, part| {
            for (x, y) in all.iter_mut().zip(part) {
                *x += y;
            }
            all
        })
        .unwrap_or_else(|| vec![0; colors + 1]);
    counts.truncate(colors);
    let visible = counts.iter().map(|&c| u64::from(c)).sum();
    if visible == 0 && colors > 0 && step > 1 {
        // The grid missed every visible pixel of a nearly empty picture: count them all.
        return count(index, width, 1, colors);
    }
    (counts, visible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;

    fn noise(width: u32, height: u32, levels: u32) -> Vec<u8> {
        let mut state = 7u64;
        (0..width * height * 3)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 33) as u32 % levels * (256 / levels)) as u8
            })
            .collect()
    }

    #[test]
    fn every_pixel_is_found_again_through_its_index() {
        let rgb = noise(331, 257, 32);
        let image = BaseImage::new(331, 257, rgb.clone(), None).unwrap();
        let indexed = IndexedImage::new(image, 0);
        for (pixel, &i) in rgb.chunks(3).zip(indexed.index()) {
            assert_eq!(Rgb8::from_packed(indexed.colors()[i as usize]), Rgb8::new(pixel[0], pixel[1], pixel[2]));
        }
        let mut distinct = indexed.colors().to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), indexed.colors().len());
        assert_eq!(indexed.visible(), 331 * 257);
    }

    #[test]
    fn fully_transparent_pixels_have_no_color_and_no_count() {
        let rgb = vec![10, 20, 30, 200, 100, 50, 1, 2, 3, 1, 2, 3];
        let image = BaseImage::new(2, 2, rgb, Some(vec![255, 0, 128, 0])).unwrap();
        let indexed = IndexedImage::new(image, 0);
        assert_eq!(indexed.colors().len(), 2);
        assert_eq!(indexed.counts(), [1, 1]);
        assert_eq!(indexed.index()[1], 2);
        assert_eq!(indexed.index()[3], 2);
    }

    #[test]
    fn the_thread_count_changes_nothing() {
        let build = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let image = BaseImage::new(700, 500, noise(700, 500, 64), None).unwrap();
                let indexed = IndexedImage::new(image, 256);
                (indexed.index, indexed.colors, indexed.counts)
            })
        };
        assert!(build(1) == build(3));
    }
}
