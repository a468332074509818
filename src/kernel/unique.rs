//! Exact unique colours of a picture, how often each occurs, and an index image that refers to them.
//!
//! A photograph of 4 megapixels has about 8 % unique colours, flat art 0.2 %. Everything that depends on a palette is
//! computed per unique colour; a pixel then costs one table look-up.
//!
//! Method: the rank of a colour among those that occur ([`ColorBits`]) is its place in the list. A place takes three
//! bytes, as a colour does, so that the index overwrites the picture and needs no memory of its own.

use rayon::prelude::*;

use super::color_bits::{self, ColorBits, rgb_key};
use super::image::BaseImage;
use super::simd::vectorize;

/// A picture as places in the list of its unique colours.
pub struct IndexedImage {
    width: u32,
    height: u32,
    /// Per pixel, row-major, the place of its colour in three bytes, lowest first; see [`hidden_place`] for alpha 0.
    places: Vec<u8>,
    alpha: Option<Vec<u8>>,
    colors: Vec<u32>,
    counts: Vec<u32>,
    visible: u64,
}

/// What pixels of alpha 0 hold: the place after the last colour, so that a table with one more entry than there are
/// colours covers every pixel. A picture of all 2²⁴ colours leaves no such place; whoever reads places asks alpha too.
const fn hidden_place(colors: usize) -> u32 {
    colors as u32 & 0x00ff_ffff
}

impl IndexedImage {
    /// Indexes `image`, overwriting its colour plane.
    ///
    /// Counts are taken on a grid whose longer side has at most `sample_size` points (0 counts every pixel): they
    /// weigh clusters and shares, for which a million samples are as good as fifty.
    pub fn new(image: BaseImage, sample_size: u32) -> Self {
        Self::with_bits(image, sample_size).0
    }

    /// The same, together with the set of its colours.
    pub fn with_bits(image: BaseImage, sample_size: u32) -> (Self, ColorBits) {
        let (width, height, rgb, alpha) = image.into_planes();
        let bits = ColorBits::of_pixels(&rgb, alpha.as_deref());
        let colors = bits.colors();
        let mut indexed = Self { width, height, places: rgb, alpha, colors, counts: Vec::new(), visible: 0 };
        let step = match sample_size {
            0 => 1,
            size => width.max(height).div_ceil(size).max(1) as usize,
        };
        indexed.index(&bits, step);
        if indexed.visible == 0 && !indexed.colors.is_empty() {
            // The grid missed every visible pixel of a nearly empty picture: count them all.
            let pixels = 0..width as usize * height as usize;
            let mut counts = vec![0; indexed.colors.len()];
            pixels.filter_map(|i| indexed.place(i)).for_each(|place| counts[place] += 1);
            indexed.keep_counts(counts);
        }
        (indexed, bits)
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The place of the colour of pixel `i`, row-major, in [`Self::colors`]; `None` where alpha is 0.
    pub fn place(&self, i: usize) -> Option<usize> {
        if self.alpha.as_ref().is_some_and(|alpha| alpha[i] == 0) {
            return None;
        }
        Some(widen(self.places.as_chunks::<3>().0[i]) as usize)
    }

    /// Looks every pixel of row `y` up in `table`, which has an entry for each colour and one for hidden pixels.
    ///
    /// # Panics
    /// When the table is shorter than that, `y` is no row or `row` is longer than one.
    pub fn look_up<T: Copy>(&self, y: usize, table: &[T], row: &mut [T]) {
        let at = y * self.width as usize;
        let places = &self.places.as_chunks::<3>().0[at..at + row.len()];
        let (fours, rest) = places.as_chunks::<4>();
        let (out, out_rest) = row.as_chunks_mut::<4>();
        for (four, out) in fours.iter().zip(out) {
            // Four places are three words, in fewer loads than bytes.
            let (words, _) = four.as_flattened().as_chunks::<4>();
            let (a, b, c) = (u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1]), u32::from_le_bytes(words[2]));
            out[0] = table[(a & 0x00ff_ffff) as usize];
            out[1] = table[(a >> 24 | (b & 0xffff) << 8) as usize];
            out[2] = table[(b >> 16 | (c & 0xff) << 16) as usize];
            out[3] = table[(c >> 8) as usize];
        }
        for (&place, out) in rest.iter().zip(out_rest) {
            *out = table[widen(place) as usize];
        }
        if let Some(alpha) = &self.alpha {
            let hidden = table[self.colors.len()];
            for (out, &a) in row.iter_mut().zip(&alpha[at..]) {
                if a == 0 {
                    *out = hidden;
                }
            }
        }
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

    /// Overwrites each pixel by the place of its colour, and counts every `step`-th pixel of every `step`-th row,
    /// starting in the middle of the first cell.
    fn index(&mut self, bits: &ColorBits, step: usize) {
        let (width, height) = (self.width as usize, self.height as usize);
        let hidden = hidden_place(self.colors.len());
        let (first_row, first_column) = ((step / 2).min(height - 1), (step / 2).min(width - 1));
        let rows = color_bits::piece(width * height).div_ceil(width);
        let pieces = self.places.par_chunks_mut(rows * width * 3).enumerate().map(|(piece, places)| {
            let mut counts = vec![0u32; self.colors.len()];
            for (row, places) in places.chunks_exact_mut(width * 3).enumerate() {
                let y = piece * rows + row;
                let alpha = self.alpha.as_ref().map(|alpha| &alpha[y * width..][..width]);
                index_row(places, alpha, bits, hidden);
                if y % step != first_row {
                    continue;
                }
                let places = places.as_chunks::<3>().0[first_column..].iter().step_by(step);
                match alpha {
                    None => places.for_each(|&place| counts[widen(place) as usize] += 1),
                    Some(alpha) => {
                        for (&place, &a) in places.zip(alpha[first_column..].iter().step_by(step)) {
                            if a != 0 {
                                counts[widen(place) as usize] += 1;
                            }
                        }
                    }
                }
            }
            counts
        });
        let add = |mut all: Vec<u32>, part: Vec<u32>| {
            all.iter_mut().zip(part).for_each(|(x, y)| *x += y);
            all
        };
        let counts = pieces.reduce_with(add).unwrap_or_default();
        self.keep_counts(counts);
    }

    fn keep_counts(&mut self, counts: Vec<u32>) {
        self.visible = counts.iter().map(|&c| u64::from(c)).sum();
        self.counts = counts;
    }
}

#[inline(always)]
fn widen([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

/// Overwrites each pixel of a row by the place of its colour.
fn index_row(pixels: &mut [u8], alpha: Option<&[u8]>, bits: &ColorBits, hidden: u32) {
    vectorize(
        #[inline(always)]
        || {
            let pixels = pixels.as_chunks_mut::<3>().0;
            let (fours, rest) = pixels.as_chunks_mut::<4>();
            for four in fours {
                // Written out: the closure of `map` would not be inlined, nor compiled for this processor.
                let (a, b, c, d) = (
                    bits.rank(rgb_key(four[0])),
                    bits.rank(rgb_key(four[1])),
                    bits.rank(rgb_key(four[2])),
                    bits.rank(rgb_key(four[3])),
                );
                let (words, _) = four.as_flattened_mut().as_chunks_mut::<4>();
                words[0] = (a | b << 24).to_le_bytes();
                words[1] = (b >> 8 | c << 16).to_le_bytes();
                words[2] = (c >> 16 | d << 8).to_le_bytes();
            }
            for pixel in rest {
                let [a, b, c, _] = bits.rank(rgb_key(*pixel)).to_le_bytes();
                *pixel = [a, b, c];
            }
            if let Some(alpha) = alpha {
                let [a, b, c, _] = hidden.to_le_bytes();
                for (pixel, &opacity) in pixels.iter_mut().zip(alpha) {
                    if opacity == 0 {
                        *pixel = [a, b, c];
                    }
                }
            }
        },
    );
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
        for (i, pixel) in rgb.chunks(3).enumerate() {
            let place = indexed.place(i).unwrap();
            assert_eq!(Rgb8::from_packed(indexed.colors()[place]), Rgb8::new(pixel[0], pixel[1], pixel[2]));
        }
        let mut row = [0; 331];
        indexed.look_up(256, indexed.colors(), &mut row);
        for (pixel, seen) in rgb[331 * 256 * 3..].chunks(3).zip(row) {
            assert_eq!(Rgb8::from_packed(seen), Rgb8::new(pixel[0], pixel[1], pixel[2]));
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
        assert_eq!([0, 1, 2, 3].map(|i| indexed.place(i)), [Some(1), None, Some(0), None]);
        let mut row = [0; 2];
        indexed.look_up(1, &[7, 8, 9], &mut row);
        assert_eq!(row, [7, 9]);
    }

    #[test]
    fn a_picture_of_every_color_leaves_room_for_hidden_pixels() {
        let mut rgb: Vec<u8> = (0..1u32 << 24).flat_map(|c| [(c >> 16) as u8, (c >> 8) as u8, c as u8]).collect();
        rgb.extend([0; 3 * 4096]);
        let mut alpha = vec![255; 1 << 24];
        alpha.extend([0; 4096]);
        let indexed = IndexedImage::new(BaseImage::new(4096, 4097, rgb, Some(alpha)).unwrap(), 0);
        assert_eq!((indexed.colors().len(), indexed.visible()), (1 << 24, 1 << 24));
        assert_eq!(indexed.place(1 << 24), None);
        assert!(indexed.counts().iter().all(|&c| c == 1));
        let table: Vec<u32> = indexed.colors().iter().copied().chain([0]).collect();
        let mut row = vec![1; 4096];
        indexed.look_up(4096, &table, &mut row);
        assert!(row.iter().all(|&p| p == 0));
        indexed.look_up(4095, &table, &mut row);
        assert_eq!(row[4095], 0xffff_ffff);
    }

    #[test]
    fn the_thread_count_changes_nothing() {
        let build = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let image = BaseImage::new(700, 500, noise(700, 500, 64), None).unwrap();
                let indexed = IndexedImage::new(image, 256);
                (indexed.places, indexed.colors, indexed.counts)
            })
        };
        assert!(build(1) == build(3));
    }
}
