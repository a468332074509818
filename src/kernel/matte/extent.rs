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

/// The least of every 3 × 3 neighbourhood, clipped at the borders.
pub(super) fn least_around(plane: &[u8], width: usize) -> Vec<u8> {
    around(plane, width, u8::min)
}

/// The greatest of every 3 × 3 neighbourhood, clipped at the borders.
pub(super) fn most_around(plane: &[u8], width: usize) -> Vec<u8> {
    around(plane, width, u8::max)
}

#[inline(always)]
fn around(plane: &[u8], width: usize, pick: impl Fn(u8, u8) -> u8 + Sync + Copy) -> Vec<u8> {
    let height = plane.len() / width;
    let mut out = vec![0u8; plane.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0u8; width],
        |column, (y, out)| {
            let row = |y: usize| &plane[y * width..(y + 1) * width];
            let (above, here, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(height - 1)));
            vectorize(
                #[inline(always)]
                || {
                    for (((out, &a), &b), &c) in column.iter_mut().zip(above).zip(here).zip(below) {
                        *out = pick(pick(a, b), c);
                    }
                },
            );
            out.copy_from_slice(column);
            let (left, right) = (&column[..], column.get(1..).unwrap_or_default());
            vectorize(
                #[inline(always)]
                || {
                    for (out, &r) in out.iter_mut().zip(right) {
                        *out = pick(*out, r);
                    }
                    for (out, &l) in out[1..].iter_mut().zip(left) {
                        *out = pick(*out, l);
                    }
                },
            );
        },
    );
    out
}
