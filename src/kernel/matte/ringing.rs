//! What compression does next to edges: ringing is measured, forgiven in proportion to the contrast of its block, and
//! gaps between close strokes are opened again.

use rayon::prelude::*;

use super::extent::{GROUND, SUBJECT, halves, least_around, most_around};
use super::ground::{Backdrop, HALVES};

/// How far ground strays next to strong edges, in codes: what ringing does to it. Looks along rows at pixels three to
/// seven steps outside of what is clearly subject, where bare ground follows; a seventh of them strays further.
pub(super) fn stray(distances: &[u8], width: usize, backdrop: &Backdrop) -> f32 {
    const BARE: usize = 17;
    let (tight, clear) = (halves(backdrop.tight), halves(50.0));
    let height = distances.len() / width;
    let mut counts = [0u32; 256];
    for row in distances.chunks(width).step_by(1 + height / 300) {
        for x in BARE..width.saturating_sub(BARE) {
            if row[x] < clear {
                continue;
            }
            for outward in [true, false] {
                let at = |step: usize| row[if outward { x + step } else { x - step }];
                if at(2) < clear && at(BARE) <= tight {
                    (3..8).map(at).filter(|&d| d < clear).for_each(|d| counts[d as usize] += 1);
                }
            }
        }
    }
    let total: u32 = counts.iter().sum();
    let mut left = total - total / 7;
    for (d, &n) in counts.iter().enumerate() {
        if n >= left {
            return if total > 0 { d as f32 / HALVES } else { 0.0 };
        }
        left -= n;
    }
    0.0
}

/// Side of the blocks in which compression rings: that of halved chroma.
const BLOCK: usize = 16;

/// Scales distances so that the loose limit stands for `share` of the greatest distance of each block, where that is
/// more: ringing is in proportion to the contrast of its block.
pub(super) fn forgive(distances: &mut [u8], width: usize, backdrop: &Backdrop, share: f32, most: f32) {
    let tight = halves(backdrop.tight);
    distances.par_chunks_mut(width * BLOCK).for_each(|rows| {
        for left in (0..width).step_by(BLOCK) {
            let span = left..(left + BLOCK).min(width);
            let greatest = rows.chunks(width).flat_map(|row| &row[span.clone()]).fold(0u8, |m, &v| m.max(v));
            let limit = (share * f32::from(greatest) / HALVES).min(most);
            if limit <= backdrop.loose {
                continue;
            }
            // A third of the limit counts as tight, the rest as loose.
            let (tight, loose, limit) = (u32::from(tight), u32::from(halves(backdrop.loose)), u32::from(halves(limit)));
            let third = limit / 3;
            let near = 256 * tight / third.max(tight).max(1);
            let far = 256 * (loose - tight) / (limit - third).max(1);
            for row in rows.chunks_mut(width) {
                for v in &mut row[span.clone()] {
                    let d = u32::from(*v);
                    let scaled = d.min(third) * near + d.saturating_sub(third) * far;
                    *v = scaled.div_ceil(256).min(255) as u8;
                }
            }
        }
    });
}

/// Gives back to the subject what is ground only by forgiveness, `class`, where it lies further than a block from what
/// was ground without, `bare`, and within a block of something solid: ringing stays within its block. Between strands,
/// no ground need be left bare.
pub(super) fn limit(class: &mut [u8], bare: &[u8], width: usize) {
    const REACH: usize = BLOCK / 2;
    let far = least_around(bare, width, REACH);
    if !class.par_iter().zip(&far).any(|(class, far)| far > class) {
        return;
    }
    let solid = least_around(class, width, REACH);
    let near_solid = most_around(&solid, width, 2 * REACH);
    class.par_iter_mut().zip(&far).zip(&near_solid).for_each(|((class, &far), &solid)| *class |= far & solid);
}

/// Gives back to the ground what lies between close strokes and is far less distant than they are: there the ground is
/// blurred, not covered.
pub(super) fn reopen(distances: &[u8], class: &mut [u8], width: usize) {
    const REACH: usize = 4;
    let open = most_around(&least_around(class, width, REACH), width, REACH);
    let rows = class.par_chunks_mut(width * BLOCK).zip(distances.par_chunks(width * BLOCK));
    rows.zip(open.par_chunks(width * BLOCK)).for_each(|((class, distances), open)| {
        for left in (0..width).step_by(BLOCK) {
            let span = left..(left + BLOCK).min(width);
            let rows = || distances.chunks(width).map(|row| &row[span.clone()]);
            let greatest = rows().flatten().fold(0u8, |m, &v| m.max(v));
            let limit = (f32::from(greatest) * 0.3) as u8;
            let open = open.chunks(width).map(|row| &row[span.clone()]);
            for ((class, distances), open) in class.chunks_mut(width).zip(rows()).zip(open) {
                for ((class, &d), &open) in class[span.clone()].iter_mut().zip(distances).zip(open) {
                    if *class == SUBJECT && open != SUBJECT && d < limit {
                        *class = GROUND;
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::ground::Shape;
    use super::*;

    const SIDE: usize = 96;

    fn backdrop() -> Backdrop {
        Backdrop { shape: Shape::Flat(vec![[250.0; 3]]), inliers: 1.0, noise: 0.0, tight: 2.0, loose: 6.0 }
    }

    /// Distances in codes: a square of contrast 100, and what `rest` gives outside of it by the distance from its left
    /// edge.
    fn square(rest: impl Fn(usize) -> f32) -> Vec<u8> {
        let at = |x: usize| if (48..80).contains(&x) { 100.0 } else { rest(48usize.saturating_sub(x)) };
        (0..SIDE * SIDE).map(|i| halves(at(i % SIDE))).collect()
    }

    #[test]
    fn clean_ground_does_not_stray_and_ringing_is_measured() {
        let clean = square(|_| 0.0);
        assert_eq!(stray(&clean, SIDE, &backdrop()), 0.0);
        let rings = square(|far| if (1..8).contains(&far) { 9.0 } else { 0.0 });
        assert_eq!(stray(&rings, SIDE, &backdrop()), 9.0);
    }

    #[test]
    fn what_is_forgiven_is_in_proportion_to_the_contrast_of_its_block() {
        let mut distances = square(|far| if far < 24 { 9.0 } else { 0.0 });
        let loose = halves(backdrop().loose);
        forgive(&mut distances, SIDE, &backdrop(), 0.18, 40.0);
        // The block beside the square holds no contrast; that of the square itself is not softened enough to go.
        assert!(distances[30] > loose, "{}", distances[30]);
        assert!(distances[60] > loose, "{}", distances[60]);
        let mut shared = square(|far| if far < 24 { 9.0 } else { 0.0 });
        // A stroke of the square's contrast within that block.
        (0..SIDE).for_each(|y| shared[y * SIDE + 36] = halves(100.0));
        forgive(&mut shared, SIDE, &backdrop(), 0.18, 40.0);
        assert!(shared[40] <= loose && shared[36] > loose, "{} {}", shared[40], shared[36]);
    }

    #[test]
    fn far_from_bare_ground_and_near_something_solid_nothing_is_forgiven() {
        // The column at which the subject begins, when it did at `with` and, without forgiveness, at `without`.
        let begin = |with: usize, without: usize, subject: fn(usize) -> bool| {
            let plane = |from: usize| -> Vec<u8> {
                let class = |x: usize| if x >= from && subject(x) { SUBJECT } else { GROUND };
                (0..SIDE * SIDE).map(|i| class(i % SIDE)).collect()
            };
            let mut class = plane(with);
            limit(&mut class, &plane(without), SIDE);
            class[..SIDE].iter().position(|&c| c == SUBJECT)
        };
        assert_eq!(begin(24, 10, |_| true), Some(18));
        assert_eq!(begin(40, 10, |_| true), Some(32));
        assert_eq!(begin(24, 20, |_| true), Some(24));
        // Strands are not solid.
        assert_eq!(begin(24, 10, |x| x % 8 == 0), Some(24));
    }

    #[test]
    fn gaps_between_close_strokes_open_when_they_are_far_less_distant() {
        // Strokes of three pixels, gaps of three.
        let stroke = |x: usize| x % 6 < 3;
        let distances = |gap: f32| -> Vec<u8> {
            (0..SIDE * SIDE).map(|i| halves(if stroke(i % SIDE) { 100.0 } else { gap })).collect()
        };
        let all = |gap: f32| {
            let mut class = vec![SUBJECT; SIDE * SIDE];
            (0..SIDE).for_each(|y| class[y * SIDE] = GROUND);
            (0..SIDE * SIDE).filter(|i| i % SIDE % 6 == 5).for_each(|i| class[i] = GROUND);
            reopen(&distances(gap), &mut class, SIDE);
            class
        };
        let (near, far) = (all(20.0), all(50.0));
        assert!((6..90).all(|x| (near[x] == SUBJECT) == stroke(x)), "{:?}", &near[..24]);
        assert!((6..90).all(|x| (far[x] == SUBJECT) == (x % 6 != 5)), "{:?}", &far[..24]);
    }
}
