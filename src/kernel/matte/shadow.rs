//! Soft shadows: ground of its own colour, only darker, without edges.

use rayon::prelude::*;

use super::extent::{GROUND, SHADOW, SUBJECT, least_around, most_around};
use super::ground::{Backdrop, apart, color_at};
use super::runs::{Components, by_stretch};
use crate::kernel::image::BaseImage;

/// Rows that are worked on together.
const BAND: usize = 16;

/// Marks what has a shadow's colour and is steep for one.
const WEAK: u8 = 1;

/// Marks what has a shadow's colour and is too steep for one.
const STEEP: u8 = 2;

/// The largest island in a shadow that is taken for a part of it, in the whole subject's area.
const LARGEST_ISLAND: f64 = 0.01;

/// The least part of an island that has a shadow's colour.
const SHADOWY: f64 = 0.8;

/// Marks as [`SHADOW`] what is ground but darker: the ground's own colour scaled, without edges, and reached from the
/// ground through openings that are not narrow. `slack`: codes by which compression errs.
pub(super) fn shade(image: &BaseImage, class: &mut [u8], backdrop: &Backdrop, slack: f32) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgb = image.rgb();
    let side = width.max(height);
    // The steepest soft shadow, in codes a pixel.
    let steep = (6000.0 / side as f32).clamp(3.5, 16.0);
    // And how much steeper it may be where it is darker.
    let gentle = (8.0 * steep).max(60.0);
    let slack = 0.5 * slack + 2.0 * backdrop.noise;
    let off = 4.0 + slack;
    let mut mask = vec![0u8; class.len()];
    let bands = mask.par_chunks_mut(width * BAND).zip(class.par_chunks(width * BAND)).enumerate();
    let counts: Vec<usize> = bands
        .map(|(band, (mask, class))| {
            let mut planes = [vec![0f32; width], vec![0f32; width], vec![0f32; width]];
            let mut count = 0;
            for (i, (mask, class)) in mask.chunks_mut(width).zip(class.chunks(width)).enumerate() {
                let y = band * BAND + i;
                backdrop.line(y, &mut planes);
                by_stretch(class, 64, |span, kind| {
                    if kind == Some(GROUND) {
                        mask[span].fill(255);
                        return;
                    }
                    for x in span {
                        if class[x] != SUBJECT {
                            mask[x] = 255;
                            continue;
                        }
                        let at = y * width + x;
                        let (c, b) = (color_at(rgb, at), [planes[0][x], planes[1][x], planes[2][x]]);
                        let dot = c[0] * b[0] + c[1] * b[1] + c[2] * b[2];
                        let length = b[0] * b[0] + b[1] * b[1] + b[2] * b[2];
                        let s = dot / length.max(1.0);
                        // Too dark a ground shows no shadow.
                        if !(0.3..1.0).contains(&s) || length < 3.0 * 60.0 * 60.0 {
                            continue;
                        }
                        if apart(c, [s * b[0], s * b[1], s * b[2]]) > off + 6.0 * (1.0 - s) {
                            continue;
                        }
                        // Shadows begin gently: a pale subject's outline is steep for how little it is darker.
                        let limit = steep.min(2.0 + gentle * (1.0 - s)) * 1.733 + slack;
                        let mut slope = 0f32;
                        let mut look = |there: bool, other: usize| {
                            if there {
                                slope = slope.max(apart(c, color_at(rgb, other)));
                            }
                        };
                        look(x > 0, at.wrapping_sub(1));
                        look(x + 1 < width, at + 1);
                        look(y > 0, at.wrapping_sub(width));
                        look(y + 1 < height, at + width);
                        if slope <= limit {
                            mask[x] = 255;
                            count += 1;
                        } else if slope <= 2.0 * limit && slack < 2.0 {
                            mask[x] = WEAK;
                        } else {
                            mask[x] = STEEP;
                        }
                    }
                });
            }
            count
        })
        .collect();
    let candidates: usize = counts.iter().sum();
    if candidates * 1000 < class.len() {
        return;
    }
    let mut eroded = mask.clone();
    let mut depth = 0;
    for reach in [1, 2, 4].map(|times| times * (side / 400).clamp(2, 6)) {
        eroded = least_around(&eroded, width, reach - depth);
        depth = reach;
        let reached = reach_from_ground(&eroded, class, &mask, width, reach);
        let shaded = |class: u8, reached: u8| class == SUBJECT && reached != 0;
        if leaks(class, &reached, width) {
            continue;
        }
        class.par_iter_mut().zip(&reached).for_each(|(class, &r)| {
            if shaded(*class, r) {
                *class = SHADOW;
            }
        });
        sweep(class, &mask, width);
        return;
    }
}

/// The part of the mask that is reached from the ground over places `eroded` leaves.
fn reach_from_ground(eroded: &[u8], class: &[u8], mask: &[u8], width: usize, reach: usize) -> Vec<u8> {
    let parts = Components::of(eroded, width, 255..=255, false);
    let mut from_ground = vec![false; parts.count()];
    for (row, runs) in class.chunks(width).zip(parts.by_row()) {
        for run in runs {
            let meets = row[run.start as usize..run.end as usize].contains(&GROUND);
            from_ground[run.label as usize] |= meets;
        }
    }
    let mut reached = vec![0u8; class.len()];
    for (row, runs) in reached.chunks_mut(width).zip(parts.by_row()) {
        for run in runs.iter().filter(|run| from_ground[run.label as usize]) {
            row[run.start as usize..run.end as usize].fill(255);
        }
    }
    for _ in 0..=reach {
        reached = most_around(&reached, width, 1);
        reached.par_iter_mut().zip(mask).for_each(|(r, &m)| *r = if m == 255 { *r } else { 0 });
    }
    // A little further over what is steep for a shadow.
    for _ in 0..3 {
        reached = most_around(&reached, width, 1);
        reached.par_iter_mut().zip(mask).for_each(|(r, &m)| *r = if matches!(m, 255 | WEAK) { *r } else { 0 });
    }
    reached
}

/// Takes small islands of a shadow's colour, which quantisation or compression has made steep, for shadow, too: over another
/// ground they would be specks.
fn sweep(class: &mut [u8], mask: &[u8], width: usize) {
    let parts = Components::of(class, width, SUBJECT..=SUBJECT, false);
    let areas = parts.areas();
    let most = areas.iter().sum::<u64>() as f64 * LARGEST_ISLAND;
    let mut shadowy = vec![0u64; areas.len()];
    for (row, runs) in mask.chunks(width).zip(parts.by_row()) {
        for run in runs.iter().filter(|run| (areas[run.label as usize] as f64) <= most) {
            let marks = row[run.start as usize..run.end as usize].iter().filter(|&&m| m != 0).count();
            shadowy[run.label as usize] += marks as u64;
        }
    }
    let is_shadow =
        |label: usize| areas[label] as f64 <= most && shadowy[label] as f64 >= SHADOWY * areas[label] as f64;
    for (row, runs) in class.chunks_mut(width).zip(parts.by_row()) {
        for run in runs.iter().filter(|run| is_shadow(run.label as usize)) {
            row[run.start as usize..run.end as usize].fill(SHADOW);
        }
    }
}

/// Whether a subject was taken for shadow: its outline is then left standing between shadow and ground.
fn leaks(class: &[u8], reached: &[u8], width: usize) -> bool {
    let height = class.len() / width;
    let (mut outline, mut contact) = (0u64, 0u64);
    let shaded = |at: usize| class[at] == SUBJECT && reached[at] != 0;
    let mut look = |at: usize, step: usize| {
        // Ground, up to four pixels of neither, shadow; or ground and shadow side by side; either way round.
        for (from, to) in [(at, at + 5 * step), (at + 5 * step, at)] {
            if class[from] == class[to] || class[from] != GROUND || !shaded(to) {
                continue;
            }
            let between = (1..5).map(|k| at + k * step);
            let other = between.filter(|&i| class[i] == SUBJECT && reached[i] == 0).count();
            if other > 0 { outline += 1 } else { contact += 1 }
        }
    };
    // Most stretches are the same at both ends of the look, and are passed over.
    const STRETCH: usize = 64;
    let alike = |a: usize, b: usize, length: usize| class[a..a + length] == class[b..b + length];
    for y in (0..height).step_by(4) {
        for left in (0..width.saturating_sub(5)).step_by(STRETCH) {
            let length = STRETCH.min(width - 5 - left);
            let at = y * width + left;
            if !alike(at, at + 5, length) {
                (at..at + length).for_each(|at| look(at, 1));
            }
        }
    }
    for y in 0..height.saturating_sub(5) {
        for left in (0..width).step_by(STRETCH) {
            let length = STRETCH.min(width - left);
            let at = y * width + left;
            if !alike(at, at + 5 * width, length) {
                (at..at + length).step_by(4).for_each(|at| look(at, width));
            }
        }
    }
    outline * 4 > contact
}
