//! Where the subject is: everything but the ground, which is found by hysteresis from the border.

use rayon::prelude::*;

use super::ground::{Backdrop, HALVES};
use super::runs::Components;
use crate::kernel::simd::vectorize;

/// Bare ground.
pub(super) const GROUND: u8 = 0;
/// Ground in a soft shadow.
pub(super) const SHADOW: u8 = 1;
/// What is in front.
pub(super) const SUBJECT: u8 = 255;

/// A distance in codes as the planes hold it.
pub(super) fn halves(codes: f32) -> u8 {
    (codes * HALVES).clamp(0.0, 254.0) as u8
}

/// Divides the picture into ground and subject: loose ground that hangs together with the border, or, with `enclosed`,
/// with enough tight ground of its own; specks of little contrast are ground. `dirty`: noisy or compressed.
pub(super) fn divide(distances: &[u8], width: usize, backdrop: &Backdrop, enclosed: bool, dirty: bool) -> Vec<u8> {
    let (tight, loose) = (halves(backdrop.tight), halves(backdrop.loose));
    let mut class = vec![SUBJECT; distances.len()];
    let parts = Components::of(distances, width, 0..=loose, false);
    let mut sure = vec![0u64; parts.count()];
    for (row, runs) in distances.chunks(width).zip(parts.by_row()) {
        for run in runs {
            sure[run.label as usize] += count_up_to(&row[run.start as usize..run.end as usize], tight);
        }
    }
    let areas = parts.areas();
    let open = parts.touching_border(width);
    // Narrow gaps that noise or compression blurred need not be tight to as large a part.
    let narrow = if dirty { distances.len() as u64 / 3000 } else { 0 };
    let ground: Vec<bool> = (0..parts.count())
        .map(|i| {
            let (area, sure) = (areas[i], sure[i]);
            if open[i] {
                sure * 4 >= area
            } else {
                enclosed && area >= 3 && (sure * 2 >= area || (24..=narrow).contains(&area) && sure * 4 >= area)
            }
        })
        .collect();
    for (row, runs) in class.chunks_mut(width).zip(parts.by_row()) {
        for run in runs.iter().filter(|run| ground[run.label as usize]) {
            row[run.start as usize..run.end as usize].fill(GROUND);
        }
    }
    drop(parts);
    let specks = Components::of(&class, width, SUBJECT..=SUBJECT, true);
    let mut peaks = vec![0u8; specks.count()];
    for (row, runs) in distances.chunks(width).zip(specks.by_row()) {
        for run in runs {
            let peak = row[run.start as usize..run.end as usize].iter().fold(0, |m: u8, &v| m.max(v));
            peaks[run.label as usize] = peaks[run.label as usize].max(peak);
        }
    }
    let limit = (distances.len() as u64 / 20_000).clamp(2, 400);
    let faint = halves(backdrop.loose * 1.7);
    let speck: Vec<bool> =
        specks.areas().iter().zip(&peaks).map(|(&area, &peak)| area <= limit && peak <= faint).collect();
    for (row, runs) in class.chunks_mut(width).zip(specks.by_row()) {
        for run in runs.iter().filter(|run| speck[run.label as usize]) {
            row[run.start as usize..run.end as usize].fill(GROUND);
        }
    }
    class
}

fn count_up_to(row: &[u8], limit: u8) -> u64 {
    row.chunks(128).map(|part| u64::from(part.iter().fold(0u8, |n, &v| n + u8::from(v <= limit)))).sum()
}

/// Share of the outline at which the subject does not soon become clearly different from the ground.
pub(super) fn gentle(distances: &[u8], class: &[u8], width: usize, backdrop: &Backdrop) -> f32 {
    let height = class.len() / width;
    let clear = halves(2.0 * backdrop.loose);
    let (mut outline, mut gentle) = (0u64, 0u64);
    let mut look = |at: usize, step: usize| {
        // Ground and four pixels of subject, either way round.
        for inward in [true, false] {
            let place = |k: usize| if inward { at + k * step } else { at + (4 - k) * step };
            if class[place(0)] == GROUND && class[place(1)] == SUBJECT {
                outline += 1;
                gentle += u64::from((1..5).all(|k| distances[place(k)] < clear));
            }
        }
    };
    for y in (0..height).step_by(1 + height / 500) {
        (0..width.saturating_sub(4)).for_each(|x| look(y * width + x, 1));
    }
    for y in 0..height.saturating_sub(4) {
        (0..width).step_by(1 + width / 500).for_each(|x| look(y * width + x, width));
    }
    gentle as f32 / outline.max(1) as f32
}

/// The least of the square that reaches `reach` pixels to every side, clipped at the borders.
pub(super) fn least_around(plane: &[u8], width: usize, reach: usize) -> Vec<u8> {
    around(plane, width, reach, u8::MAX, u8::min)
}

/// The greatest of the same square.
pub(super) fn most_around(plane: &[u8], width: usize, reach: usize) -> Vec<u8> {
    around(plane, width, reach, u8::MIN, u8::max)
}

/// `neutral` changes nothing that it is picked with.
#[inline(always)]
fn around(plane: &[u8], width: usize, reach: usize, neutral: u8, pick: impl Fn(u8, u8) -> u8 + Sync + Copy) -> Vec<u8> {
    let height = plane.len() / width;
    let length = 2 * reach + 1;
    let mut out = vec![0u8; plane.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(
        // Neutral beyond both ends, so that windows need no clipping.
        || (vec![neutral; width + 2 * reach], vec![neutral; width + 2 * reach]),
        |(line, next), (y, out)| {
            let rows = &plane[y.saturating_sub(reach) * width..(y + reach + 1).min(height) * width];
            line[..reach].fill(neutral);
            line[reach + width..].fill(neutral);
            line[reach..reach + width].copy_from_slice(&rows[..width]);
            vectorize(
                #[inline(always)]
                || {
                    let column = &mut line[reach..reach + width];
                    let mut pairs = rows[width..].chunks_exact(2 * width);
                    for pair in &mut pairs {
                        let (above, below) = pair.split_at(width);
                        for ((v, &a), &b) in column.iter_mut().zip(above).zip(below) {
                            *v = pick(*v, pick(a, b));
                        }
                    }
                    for (v, &a) in column.iter_mut().zip(pairs.remainder()) {
                        *v = pick(*v, a);
                    }
                },
            );
            // Windows of twice the length, of two of half of it, until two that overlap make the whole.
            let mut span = 1;
            while 2 * span <= length {
                vectorize(
                    #[inline(always)]
                    || {
                        for ((next, &a), &b) in next.iter_mut().zip(line.iter()).zip(&line[span..]) {
                            *next = pick(a, b);
                        }
                    },
                );
                std::mem::swap(line, next);
                span *= 2;
            }
            vectorize(
                #[inline(always)]
                || {
                    for ((out, &a), &b) in out.iter_mut().zip(line.iter()).zip(&line[length - span..]) {
                        *out = pick(a, b);
                    }
                },
            );
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::super::ground::Shape;
    use super::*;

    /// A plane from rows of letters: `.` bare ground, `o` loosely ground, `#` subject.
    fn plane(art: &[&str]) -> (Vec<u8>, usize) {
        let distance = |b: u8| halves(if b == b'#' { 80.0 } else { f32::from(b == b'o') * 5.0 });
        (art.iter().flat_map(|row| row.bytes().map(distance)).collect(), art[0].len())
    }

    fn backdrop() -> Backdrop {
        Backdrop { shape: Shape::Flat(vec![[250.0; 3]]), inliers: 1.0, noise: 0.0, tight: 2.0, loose: 6.0 }
    }

    fn divided(art: &[&str], enclosed: bool) -> Vec<String> {
        let (distances, width) = plane(art);
        let class = divide(&distances, width, &backdrop(), enclosed, false);
        let letter = |&c: &u8| if c == GROUND { '.' } else { '#' };
        class.chunks(width).map(|row| row.iter().map(letter).collect()).collect()
    }

    #[test]
    fn loose_ground_goes_with_the_border_and_enclosed_ground_as_asked() {
        let art = [
            "..........", //
            ".ooooooo..",
            ".o######..",
            ".o#....#..",
            ".o#....#..",
            ".o######..",
            "..........",
        ];
        let open = ["..........", "..........", "..######..", "..#....#..", "..#....#..", "..######..", ".........."];
        assert_eq!(divided(&art, true), open);
        let kept = ["..........", "..........", "..######..", "..######..", "..######..", "..######..", ".........."];
        assert_eq!(divided(&art, false), kept);
    }

    #[test]
    fn what_is_only_loosely_ground_inside_the_subject_stays() {
        let art = ["........", ".######.", ".#oooo#.", ".#oooo#.", ".######.", "........"];
        assert_eq!(divided(&art, true)[2], ".######.");
    }

    #[test]
    fn least_and_most_are_of_squares_clipped_at_the_borders() {
        for (width, height) in [(1usize, 1usize), (5, 4), (1, 9), (40, 33)] {
            let plane: Vec<u8> = (0..width * height).map(|i| (i * 37 % 101) as u8).collect();
            for reach in [1, 2, 3, 8, 24] {
                let square = |i: usize| {
                    let (x, y) = (i % width, i / width);
                    let columns = x.saturating_sub(reach)..(x + reach + 1).min(width);
                    let rows = y.saturating_sub(reach)..(y + reach + 1).min(height);
                    rows.flat_map(|y| plane[y * width + columns.start..y * width + columns.end].to_vec())
                        .collect::<Vec<u8>>()
                };
                let expected = |pick: fn(Vec<u8>) -> u8| (0..plane.len()).map(|i| pick(square(i))).collect::<Vec<u8>>();
                assert_eq!(least_around(&plane, width, reach), expected(|s| s.into_iter().min().unwrap()));
                assert_eq!(most_around(&plane, width, reach), expected(|s| s.into_iter().max().unwrap()));
            }
        }
    }

    #[test]
    fn an_outline_that_fades_is_gentle_and_one_with_an_edge_is_not() {
        let (width, height) = (40, 30);
        let share = |slope: f32| {
            let distances: Vec<u8> =
                (0..width * height).map(|i| halves(((i % width) as f32 - 20.0).max(0.0) * slope)).collect();
            let class = divide(&distances, width, &backdrop(), true, false);
            gentle(&distances, &class, width, &backdrop())
        };
        assert_eq!((share(1.0), share(20.0)), (1.0, 0.0));
    }
}
