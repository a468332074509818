//! Subsets of a picture's colours that stand for its area.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
