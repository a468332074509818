//! Tidying a soft matte without hardening it: near-empty and near-full values snap by a smooth curve, specks and
//! pinholes go, and every ramp between stays what it was.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::runs::{Components, by_stretch};

/// Below this share alpha becomes 0, above one less this share 255.
const SNAP: f32 = 0.04;
/// From here to one less this share alpha stays as it is.
const KEEP: f32 = 0.12;
/// A component of at most one in so many of the picture's pixels is a speck or a pinhole.
const SPECK: usize = 65_536;

/// What becomes of each alpha.
static SNAPPED: LazyLock<[u8; 256]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let a = i as f32 / 255.0;
        let low = |a: f32| {
            let t = ((a - SNAP) / (KEEP - SNAP)).clamp(0.0, 1.0);
            a * t * t * (3.0 - 2.0 * t)
        };
        let snapped = if a < 0.5 { low(a) } else { 1.0 - low(1.0 - a) };
        (snapped * 255.0 + 0.5) as u8
    })
});

/// Tidies a matte of `width·height` values in place; one of another length is left alone.
///
/// Values below 4 % become 0 and above 96 % 255, those next to them by a smooth monotonic curve, those from 12 % to
/// 88 % stay. Islands of at most a 65536th of the picture (64 pixels of 2048²) vanish unless nothing else is there;
/// holes of that size in opaque surroundings are filled.
pub fn clean(alpha: &mut [u8], width: u32, height: u32) {
    let (width, pixels) = (width as usize, width as usize * height as usize);
    if alpha.len() != pixels || pixels == 0 {
        return;
    }
    let table = &*SNAPPED;
    alpha.par_chunks_mut(width).for_each(|row| {
        let mut soft = Vec::new();
        by_stretch(row, 64, |span, kind| {
            if kind.is_none() {
                soft.push(span);
            }
        });
        for span in soft {
            for v in &mut row[span] {
                *v = table[*v as usize];
            }
        }
    });
    let limit = (pixels / SPECK).max((pixels / 256).min(4)) as u64;
    let islands = Components::of(alpha, width, 1..=255, true);
    let areas = islands.areas();
    let small: Vec<bool> = areas.iter().map(|&area| area <= limit).collect();
    if small.iter().any(|&s| s) && !small.iter().all(|&s| s) {
        fill(alpha, width, &islands, &small, 0);
    }
    let holes = Components::of(alpha, width, 0..=254, false);
    let touching = holes.touching_border(width);
    let small: Vec<bool> = holes.areas().iter().zip(touching).map(|(&area, border)| area <= limit && !border).collect();
    fill(alpha, width, &holes, &small, 255);
}

/// Sets the pixels of the chosen components.
fn fill(alpha: &mut [u8], width: usize, parts: &Components, chosen: &[bool], value: u8) {
    for (row, runs) in alpha.chunks_mut(width).zip(parts.by_row()) {
        for run in runs.iter().filter(|run| chosen[run.label as usize]) {
            row[run.start as usize..run.end as usize].fill(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_monotonic_symmetric_and_leaves_the_middle_alone() {
        let table = &*SNAPPED;
        assert!(table.windows(2).all(|w| w[0] <= w[1]), "{table:?}");
        assert!((0..256).all(|i| u16::from(table[i]) + u16::from(table[255 - i]) == 255), "{table:?}");
        assert!((31..=224).all(|i| table[i] == i as u8), "{table:?}");
        assert_eq!((table[10], table[245]), (0, 255));
        // No step is so large that a ramp would show it.
        assert!(table.windows(2).all(|w| w[1] - w[0] <= 4), "{table:?}");
    }

    #[test]
    fn soft_ramps_survive() {
        let (width, height) = (256u32, 64u32);
        let mut alpha: Vec<u8> = (0..width * height).map(|i| (i % width) as u8).collect();
        let before = alpha.clone();
        clean(&mut alpha, width, height);
        for (x, (&got, &was)) in alpha.iter().zip(&before).enumerate() {
            assert!((31..=224).contains(&was) && got == was || got.abs_diff(was) <= 22, "{x}: {was} → {got}");
        }
    }

    #[test]
    fn specks_and_pinholes_go_and_the_subject_stays() {
        let (width, height) = (512usize, 512usize);
        let mut alpha = vec![0u8; width * height];
        for y in 100..300 {
            alpha[y * width + 100..y * width + 300].fill(255);
        }
        let expected = alpha.clone();
        alpha[200 * width + 200] = 0;
        alpha[210 * width + 210] = 120;
        alpha[20 * width + 20..20 * width + 22].fill(200);
        alpha[400 * width + 400] = 255;
        clean(&mut alpha, width as u32, height as u32);
        assert!(alpha == expected);
        // A hole that is no pinhole stays.
        for y in 150..156 {
            alpha[y * width + 150..y * width + 156].fill(0);
        }
        let with_hole = alpha.clone();
        clean(&mut alpha, width as u32, height as u32);
        assert!(alpha == with_hole);
    }

    #[test]
    fn a_picture_of_nothing_but_small_parts_is_kept() {
        let mut alpha = vec![0u8; 64 * 64];
        alpha[64 * 10 + 10] = 255;
        let before = alpha.clone();
        clean(&mut alpha, 64, 64);
        assert!(alpha == before);
        let mut one = [255u8];
        clean(&mut one, 1, 1);
        assert_eq!(one, [255]);
        clean(&mut [], 0, 5);
    }
}
