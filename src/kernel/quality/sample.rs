//! Subsets of a picture's colours that stand for its area, and the index of which colours occur.

/// Colours of a list with the share of the area each stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    entries: Vec<(u32, f32)>,
}

impl Sample {
    /// At most `limit` colours of a list whose pixels are counted by `counts`; all of them, each with its own share,
    /// when the list is no longer than that.
    ///
    /// Systematic sampling in proportion to size: evenly spaced ticks along the cumulated counts, so that every
    /// colour's expected weight is its share, and large colours are always in. The choice depends on the order of the
    /// list and on nothing else. Colours counted zero times are left out.
    pub fn new(counts: &[u32], limit: usize) -> Self {
        let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        if total == 0 || limit == 0 {
            return Self { entries: Vec::new() };
        }
        let entries = if counts.len() <= limit {
            let share = |c: u32| (f64::from(c) / total as f64) as f32;
            counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(i, &c)| (i as u32, share(c))).collect()
        } else {
            let mut entries: Vec<(u32, f32)> = Vec::with_capacity(limit);
            // Tick t lies at (t + 1/2)·total/limit pixels; u128 keeps the product exact.
            let position = |tick: u64| {
                let doubled = (2 * u128::from(tick) + 1) * u128::from(total);
                doubled.div_ceil(2 * limit as u128) as u64
            };
            let (mut below, mut tick, mut next) = (0u64, 0u64, position(0));
            for (i, &count) in counts.iter().enumerate() {
                below += u64::from(count);
                let first = tick;
                while below >= next {
                    tick += 1;
                    next = position(tick);
                }
                if tick > first {
                    entries.push((i as u32, ((tick - first) as f64 / limit as f64) as f32));
                }
            }
            entries
        };
        Self { entries }
    }

    /// Position in the colour list and share of the area, in the list's order. The shares sum to 1 unless the sample
    /// is empty.
    pub fn entries(&self) -> &[(u32, f32)] {
        &self.entries
    }

    /// `Σ share · value(position)`; 0 for an empty sample.
    pub fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        self.entries.iter().map(|&(i, w)| f64::from(w) * value(i as usize)).sum()
    }
}

/// Words of a bit per 24-bit colour.
const WORDS: usize = (1 << 24) / 64;

/// Which 24-bit colours occur: a bit each (2 MB), and the count of bits before every word (1 MB), so that a colour's
/// rank among those that occur is one look-up and one popcount.
pub(super) struct ColorBits {
    words: Vec<u64>,
    before: Vec<u32>,
}

/// The 24 bits that tell colours apart, red highest: the order of a picture's unique colours.
#[inline(always)]
pub(super) const fn color_key(packed: u32) -> u32 {
    packed.swap_bytes() >> 8
}

impl ColorBits {
    pub(super) fn new(colors: impl IntoIterator<Item = u32>) -> Self {
        let mut words = vec![0u64; WORDS];
        for packed in colors {
            let key = color_key(packed);
            words[key as usize >> 6] |= 1 << (key & 63);
        }
        let mut sum = 0;
        let before = words
            .iter()
            .map(|w| {
                let here = sum;
                sum += w.count_ones();
                here
            })
            .collect();
        Self { words, before }
    }

    /// How many colours occur.
    pub(super) fn len(&self) -> usize {
        self.before.last().zip(self.words.last()).map_or(0, |(b, w)| (b + w.count_ones()) as usize)
    }

    /// How many of the occurring colours have a smaller key.
    #[inline(always)]
    pub(super) fn rank(&self, key: u32) -> u32 {
        let word = key as usize >> 6;
        self.before[word] + (self.words[word] & ((1 << (key & 63)) - 1)).count_ones()
    }

    /// The occurring colours, opaque, by ascending key.
    pub(super) fn colors(&self) -> Vec<u32> {
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

    /// Words with a bit for every occurring colour whose successor by one step in the channel occurs too: the first
    /// channel's step is 1 bit, the second's 4 words, the third's 1024 words.
    #[inline(always)]
    fn pair_words(&self, i: usize) -> [u64; 3] {
        let word = self.words[i];
        if word == 0 {
            return [0; 3];
        }
        // A row of the first channel is 4 words: its last bit has no successor.
        let next = if i & 3 == 3 { 0 } else { self.words[i + 1] };
        let second = if (i >> 2) & 255 == 255 { 0 } else { self.words[i + 4] };
        let third = if i >> 10 == 255 { 0 } else { self.words[i + 1024] };
        [word & (word >> 1 | next << 63), word & second, word & third]
    }

    /// Pairs of occurring colours one step apart in one channel, as ranks, in a fixed order; all of them, or `limit`
    /// evenly spread ones when there are more.
    pub(super) fn neighbor_ranks(&self, limit: usize) -> Vec<(u32, u32)> {
        const STEPS: [u32; 3] = [1, 1 << 8, 1 << 16];
        // At most 192 pairs start in a word. Counted once: the second walk then looks only where it takes one.
        let counts: Vec<u8> =
            (0..WORDS).map(|i| self.pair_words(i).iter().map(|w| w.count_ones() as u8).sum()).collect();
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
    fn a_short_list_is_sampled_whole_with_its_own_shares() {
        let sample = Sample::new(&[1, 0, 3], 10);
        assert_eq!(sample.entries(), [(0, 0.25), (2, 0.75)]);
    }

    #[test]
    fn a_sample_keeps_its_limit_its_sum_and_every_large_color() {
        let counts: Vec<u32> = (0..10_000u32).map(|i| if i % 1000 == 0 { 5_000 } else { i % 3 }).collect();
        let sample = Sample::new(&counts, 200);
        assert!(sample.entries().len() <= 200);
        let sum: f32 = sample.entries().iter().map(|e| e.1).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        for large in (0..10_000).step_by(1000) {
            assert!(sample.entries().iter().any(|e| e.0 == large), "{large}");
        }
        let mean_position = sample.mean(|i| i as f64);
        let total: f64 = counts.iter().map(|&c| f64::from(c)).sum();
        let exact: f64 = counts.iter().enumerate().map(|(i, &c)| i as f64 * f64::from(c)).sum::<f64>() / total;
        assert!((mean_position - exact).abs() < 50.0, "{mean_position} {exact}");
    }

    #[test]
    fn nothing_visible_gives_an_empty_sample() {
        assert!(Sample::new(&[], 10).entries().is_empty());
        assert!(Sample::new(&[0, 0], 1).entries().is_empty());
        assert_eq!(Sample::new(&[0, 0], 1).mean(|_| 1.0), 0.0);
    }

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
