//! Which of the 2²⁴ colours occur, as a bitmap, and each one's rank among those that do.
//!
//! Nothing is hashed or sorted: a colour's rank is one look-up and one popcount, and the order never depends on the
//! number of threads.

use rayon::prelude::*;

use super::simd::vectorize;

/// Words of a bit per 24-bit colour.
const WORDS: usize = (1 << 24) / 64;

/// Pixels a parallel piece of work should hold at least.
const GRAIN: usize = 1 << 16;

/// Pixels of a parallel piece of work: as few pieces as there are threads, since each piece has its own bitmap.
pub(crate) fn piece(pixels: usize) -> usize {
    pixels.div_ceil(rayon::current_num_threads().max(1)).max(GRAIN)
}

/// Which 24-bit colours occur: a bit each (2 MB), and the count of bits before every word (1 MB), so that a colour's
/// rank among those that occur is one look-up and one popcount.
pub struct ColorBits {
    words: Vec<u64>,
    before: Vec<u32>,
}

/// The 24 bits that tell colours apart, red highest: the order of a picture's unique colours.
#[inline(always)]
pub(crate) const fn color_key(packed: u32) -> u32 {
    packed.swap_bytes() >> 8
}

/// The same of three bytes.
#[inline(always)]
pub(crate) const fn rgb_key([r, g, b]: [u8; 3]) -> u32 {
    (r as u32) << 16 | (g as u32) << 8 | b as u32
}

#[inline(always)]
fn set(words: &mut [u64], key: u32) {
    words[key as usize >> 6] |= 1 << (key & 63);
}

impl ColorBits {
    /// The colours of a list, packed.
    pub(crate) fn new(colors: impl IntoIterator<Item = u32>) -> Self {
        let mut words = vec![0u64; WORDS];
        for packed in colors {
            set(&mut words, color_key(packed));
        }
        Self::of_words(words)
    }

    /// The colours of a picture's plane, 3 bytes a pixel, leaving out pixels of alpha 0.
    pub(crate) fn of_pixels(rgb: &[u8], alpha: Option<&[u8]>) -> Self {
        let size = piece(rgb.len() / 3);
        let bitmaps: Vec<Vec<u64>> = rgb
            .par_chunks(size * 3)
            .enumerate()
            .map(|(i, part)| {
                let mut words = vec![0u64; WORDS];
                let pixels = part.as_chunks::<3>().0;
                match alpha {
                    None => {
                        // In flat art every colour comes in runs, and setting the same bit again and again is slow.
                        let (fours, rest) = pixels.as_chunks::<4>();
                        let mut last = None;
                        for four in fours {
                            if last != Some(four) {
                                last = Some(four);
                                four.iter().for_each(|pixel| set(&mut words, rgb_key(*pixel)));
                            }
                        }
                        rest.iter().for_each(|pixel| set(&mut words, rgb_key(*pixel)));
                    }
                    Some(alpha) => {
                        for (pixel, &a) in pixels.iter().zip(&alpha[i * size..]) {
                            if a != 0 {
                                set(&mut words, rgb_key(*pixel));
                            }
                        }
                    }
                }
                words
            })
            .collect();
        let union = |mut all: Vec<u64>, part: Vec<u64>| {
            all.iter_mut().zip(part).for_each(|(x, y)| *x |= y);
            all
        };
        Self::of_words(bitmaps.into_iter().reduce(union).unwrap_or_else(|| vec![0; WORDS]))
    }

    fn of_words(words: Vec<u64>) -> Self {
        let mut before = vec![0u32; WORDS];
        vectorize(
            #[inline(always)]
            || {
                let mut sum = 0u32;
                for (slot, word) in before.iter_mut().zip(&words) {
                    *slot = sum;
                    sum += word.count_ones();
                }
            },
        );
        Self { words, before }
    }

    /// How many colours occur.
    pub(crate) fn len(&self) -> usize {
        self.before.last().zip(self.words.last()).map_or(0, |(b, w)| (b + w.count_ones()) as usize)
    }

    /// How many of the occurring colours have a smaller key.
    #[inline(always)]
    pub(crate) fn rank(&self, key: u32) -> u32 {
        let word = key as usize >> 6;
        self.before[word] + (self.words[word] & ((1 << (key & 63)) - 1)).count_ones()
    }

    /// The occurring colours, opaque, by ascending key.
    pub(crate) fn colors(&self) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.len());
        for (i, &word) in self.words.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let key = (i as u32) << 6 | rest.trailing_zeros();
                out.push((key << 8 | 0xff).swap_bytes());
                rest &= rest - 1;
            }
        }
        out
    }

    /// Words with a bit for every occurring colour whose successor by one step in the channel occurs too: blue's
    /// step is 1 bit, green's 4 words, red's 1024 words.
    #[inline(always)]
    fn pair_words(&self, i: usize) -> [u64; 3] {
        let word = self.words[i];
        if word == 0 {
            return [0; 3];
        }
        // A row of blue is 4 words: its last bit has no successor.
        let next = if i & 3 == 3 { 0 } else { self.words[i + 1] };
        let second = if (i >> 2) & 255 == 255 { 0 } else { self.words[i + 4] };
        let third = if i >> 10 == 255 { 0 } else { self.words[i + 1024] };
        [word & (word >> 1 | next << 63), word & second, word & third]
    }

    /// Pairs of occurring colours one step apart in one channel, as ranks, in a fixed order; all of them, or `limit`
    /// evenly spread ones when there are more.
    pub(crate) fn neighbor_ranks(&self, limit: usize) -> Vec<(u32, u32)> {
        const STEPS: [u32; 3] = [1, 1 << 8, 1 << 16];
        // At most 192 pairs start in a word. Counted once: the second walk then looks only where it takes one.
        let mut counts = vec![0u8; WORDS];
        vectorize(
            #[inline(always)]
            || {
                for (i, count) in counts.iter_mut().enumerate() {
                    *count = self.pair_words(i).iter().map(|w| w.count_ones() as u8).sum();
                }
            },
        );
        let total: u64 = counts.iter().map(|&n| u64::from(n)).sum();
        let wanted = (limit as u64).min(total);
        // Strictly ascending because total ≥ wanted. There are fewer than 2²⁶ pairs, so the product fits 64 bits.
        let nth = |m: u64| (2 * m + 1) * total / (2 * wanted);
        let mut out = Vec::with_capacity(wanted as usize);
        if wanted == 0 {
            return out;
        }
        let (mut seen, mut target) = (0u64, nth(0));
        for (i, &count) in counts.iter().enumerate() {
            if target >= seen + u64::from(count) {
                seen += u64::from(count);
                continue;
            }
            for (pairs, step) in self.pair_words(i).into_iter().zip(STEPS) {
                let here = u64::from(pairs.count_ones());
                let (mut rest, mut skipped) = (pairs, 0);
                while target < seen + here {
                    while skipped < target - seen {
                        rest &= rest - 1;
                        skipped += 1;
                    }
                    let key = (i as u32) << 6 | rest.trailing_zeros();
                    out.push((self.rank(key), self.rank(key + step)));
                    if out.len() as u64 == wanted {
                        return out;
                    }
                    target = nth(out.len() as u64);
                }
                seen += here;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::color::Rgb8;

    #[test]
    fn neighbors_are_those_a_plain_search_finds() {
        // A scattered block that touches channel ends, where a step must not wrap into the next row.
        let mut colors: Vec<Rgb8> = Vec::new();
        for i in 0..4096u32 {
            let wide = i.wrapping_mul(2_654_435_761) >> 8;
            colors.push(Rgb8::new((wide & 7) as u8 | 0xf8, (wide >> 3 & 15) as u8, (wide >> 7 & 15) as u8 | 0xf0));
            colors.push(Rgb8::new((wide & 15) as u8, (wide >> 4 & 7) as u8 | 0xf8, (wide >> 7 & 7) as u8 | 0xf8));
        }
        colors.sort();
        colors.dedup();
        let set: std::collections::HashSet<_> = colors.iter().copied().collect();
        let mut expected = Vec::new();
        for &c in &colors {
            let up = [
                (c.r < 255).then(|| Rgb8::new(c.r + 1, c.g, c.b)),
                (c.g < 255).then(|| Rgb8::new(c.r, c.g + 1, c.b)),
                (c.b < 255).then(|| Rgb8::new(c.r, c.g, c.b + 1)),
            ];
            expected.extend(up.into_iter().flatten().filter(|n| set.contains(n)).map(|n| (c, n)));
        }
        let bits = ColorBits::new(colors.iter().map(|c| c.packed()));
        let by_rank = bits.colors();
        assert_eq!(by_rank.len(), colors.len());
        let all: Vec<_> = bits
            .neighbor_ranks(usize::MAX)
            .into_iter()
            .map(|(i, j)| (Rgb8::from_packed(by_rank[i as usize]), Rgb8::from_packed(by_rank[j as usize])))
            .collect();
        let mut sorted = all.clone();
        sorted.sort();
        expected.sort();
        assert_eq!(sorted, expected);

        let some = bits.neighbor_ranks(100);
        assert_eq!(some.len(), 100);
        let distinct: std::collections::HashSet<_> = some.iter().collect();
        assert_eq!(distinct.len(), 100);
    }
}
