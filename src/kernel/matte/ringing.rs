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

/// Gives back to the ground what lies between close strokes and is far less distant than they are: there the ground is
/// blurred, not covered.
pub(super) fn reopen(distances: &[u8], class: &mut [u8], width: usize) {
    const REACH: usize = 4;
    let mut open = class.to_vec();
    for _ in 0..REACH {
        open = least_around(&open, width);
    }
    for _ in 0..REACH {
        open = most_around(&open, width);
    }
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
