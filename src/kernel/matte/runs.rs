//! Connected components of a byte plane, by runs of pixels (L. He, Y. Chao, K. Suzuki 2008): the work is in proportion
//! to the runs, not to the pixels.

use std::ops::RangeInclusive;

use rayon::prelude::*;

/// Rows that are scanned together.
const BAND: usize = 64;

/// A maximal stretch of a row whose pixels are in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First column.
    pub start: u32,
    /// The column after the last.
    pub end: u32,
    /// The component, numbered by first occurrence in reading order.
    pub label: u32,
}

/// The runs of a plane, row by row, with the component that each belongs to. At most 12 bytes for every other pixel.
#[derive(Debug, Clone)]
pub(super) struct Components {
    /// Where each row's runs begin in `runs`; one more entry than rows.
    rows: Vec<usize>,
    runs: Vec<Run>,
    count: usize,
}

impl Components {
    /// The components of the pixels of `plane` whose value is in `set`. With `diagonal`, pixels that share a corner
    /// are neighbours too.
    pub fn of(plane: &[u8], width: usize, set: RangeInclusive<u8>, diagonal: bool) -> Self {
        let width = width.max(1);
        let bands: Vec<(Vec<Run>, Vec<usize>)> = plane
            .par_chunks(BAND * width)
            .map(|band| {
                let (mut runs, mut ends) = (Vec::new(), Vec::with_capacity(BAND));
                for row in band.chunks(width) {
                    scan(row, &set, &mut runs);
                    ends.push(runs.len());
                }
                (runs, ends)
            })
            .collect();
        let mut rows = vec![0];
        let mut runs = Vec::with_capacity(bands.iter().map(|(runs, _)| runs.len()).sum());
        for (band, ends) in bands {
            rows.extend(ends.iter().map(|end| runs.len() + end));
            runs.extend_from_slice(&band);
        }
        let count = label(&mut runs, &rows, u32::from(diagonal));
        Self { rows, runs, count }
    }

    /// How many components there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Every row's runs, from the top.
    pub fn by_row(&self) -> impl Iterator<Item = &[Run]> {
        self.rows.windows(2).map(|ends| &self.runs[ends[0]..ends[1]])
    }

    /// Pixels of each component.
    pub fn areas(&self) -> Vec<u64> {
        let mut areas = vec![0u64; self.count];
        for run in &self.runs {
            areas[run.label as usize] += u64::from(run.end - run.start);
        }
        areas
    }

    /// Whether each component has a pixel on the picture's border.
    pub fn touching_border(&self, width: usize) -> Vec<bool> {
        let mut touching = vec![false; self.count];
        let last = self.rows.len().saturating_sub(2);
        for (y, row) in self.by_row().enumerate() {
            for run in row {
                touching[run.label as usize] |= y == 0 || y == last || run.start == 0 || run.end as usize == width;
            }
        }
        touching
    }
}

/// Appends the runs of one row.
fn scan(row: &[u8], set: &RangeInclusive<u8>, runs: &mut Vec<Run>) {
    let (low, span) = (*set.start(), set.end().wrapping_sub(*set.start()));
    let member = |v: u8| v.wrapping_sub(low) <= span;
    let mut inside = false;
    let mut start = 0;
    let mut at = 0;
    for chunk in row.chunks(32) {
        let differs = chunk.iter().fold(0u8, |any, &v| any | u8::from(member(v) != inside));
        if differs != 0 {
            for (i, &v) in chunk.iter().enumerate() {
                if member(v) != inside {
                    if inside {
                        runs.push(Run { start, end: (at + i) as u32, label: 0 });
                    } else {
                        start = (at + i) as u32;
                    }
                    inside = !inside;
                }
            }
        }
        at += chunk.len();
    }
    if inside {
        runs.push(Run { start, end: at as u32, label: 0 });
    }
}

/// Labels runs that touch alike; returns the number of labels. `reach` is 1 when corners count.
fn label(runs: &mut [Run], rows: &[usize], reach: u32) -> usize {
    // A run's label is first the index of another run of its component, the root's its own.
    for (i, run) in runs.iter_mut().enumerate() {
        run.label = i as u32;
    }
    for ends in rows.windows(3) {
        let (mut above, mut here) = (ends[0], ends[1]);
        while above < ends[1] && here < ends[2] {
            let (a, b) = (runs[above], runs[here]);
            if a.start < b.end + reach && b.start < a.end + reach {
                let (x, y) = (root(runs, above as u32), root(runs, here as u32));
                let (low, high) = (x.min(y), x.max(y));
                runs[high as usize].label = low;
            }
            if a.end < b.end {
                above += 1;
            } else {
                here += 1;
            }
        }
    }
    // Roots precede the runs they stand for, so that one pass numbers them all.
    let mut count = 0;
    let mut numbers = vec![0u32; runs.len()];
    for i in 0..runs.len() {
        let parent = runs[i].label as usize;
        if parent == i {
            numbers[i] = count;
            count += 1;
        } else {
            numbers[i] = numbers[parent];
        }
    }
    for (run, number) in runs.iter_mut().zip(numbers) {
        run.label = number;
    }
    count as usize
}

fn root(runs: &mut [Run], mut at: u32) -> u32 {
    while runs[at as usize].label != at {
        let parent = runs[at as usize].label;
        let above = runs[parent as usize].label;
        runs[at as usize].label = above;
        at = above;
    }
    at
}

/// Calls `work` with the index and the span of every stretch of `step` bytes of `row`, and whether it is all 0
/// (`Some(0)`), all 255 (`Some(255)`) or neither.
pub(super) fn by_stretch(row: &[u8], step: usize, mut work: impl FnMut(std::ops::Range<usize>, Option<u8>)) {
    let mut start = 0;
    for chunk in row.chunks(step.max(1)) {
        // All alike where each equals the next: one comparison of memory.
        let kind = match chunk[0] {
            v @ (0 | 255) if chunk[1..] == chunk[..chunk.len() - 1] => Some(v),
            _ => None,
        };
        work(start..start + chunk.len(), kind);
        start += chunk.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(art: &[&str]) -> (Vec<u8>, usize) {
        let bytes = art.iter().flat_map(|row| row.bytes().map(|b| if b == b'#' { 255 } else { 0 })).collect();
        (bytes, art[0].len())
    }

    #[test]
    fn corners_join_components_only_when_asked() {
        let (bytes, width) = plane(&["##..", "..##", "#..#"]);
        assert_eq!(Components::of(&bytes, width, 1..=255, false).count(), 3);
        assert_eq!(Components::of(&bytes, width, 1..=255, true).count(), 2);
    }

    #[test]
    fn a_spiral_is_one_component_and_its_parts_add_up() {
        let (bytes, width) = plane(&["#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######"]);
        let parts = Components::of(&bytes, width, 255..=255, false);
        assert_eq!(parts.count(), 1);
        assert_eq!(parts.areas(), [bytes.iter().filter(|&&v| v == 255).count() as u64]);
        let gaps = Components::of(&bytes, width, 0..=0, false);
        assert_eq!((gaps.count(), gaps.touching_border(width)), (1, vec![true]));
    }

    #[test]
    fn runs_do_not_depend_on_where_chunks_begin() {
        let row: Vec<u8> =
            (0..200).map(|x| if (30..35).contains(&x) || (64..190).contains(&x) { 9 } else { 0 }).collect();
        let parts = Components::of(&row, 200, 9..=9, false);
        let spans: Vec<_> = parts.by_row().flatten().map(|r| (r.start, r.end)).collect();
        assert_eq!(spans, [(30, 35), (64, 190)]);
    }
}
