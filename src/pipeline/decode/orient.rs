//! EXIF orientation: stored rows to an upright picture.

use super::planes::Planes;

/// Applies EXIF orientation 1 to 8 (TIFF tag 274); other values leave the picture alone.
///
/// Orientation 1 costs nothing, 2 to 4 work in place, 5 to 8 swap the sides and need a second plane.
pub(super) fn upright(mut planes: Planes, orientation: u8) -> Planes {
    let (width, height) = (planes.width as usize, planes.height as usize);
    match orientation {
        2 => planes.each(|plane| mirror_rows::<3>(plane, width), |plane| mirror_rows::<1>(plane, width)),
        3 => planes.each(|plane| plane.as_chunks_mut::<3>().0.reverse(), |plane| plane.reverse()),
        4 => planes.each(|plane| flip_rows(plane, width * 3), |plane| flip_rows(plane, width)),
        5..=8 => {
            // A pixel at (x, y) moves to row x and column y, each counted from the side the value names.
            let (mirror_x, mirror_y) = (matches!(orientation, 7 | 8), matches!(orientation, 6 | 7));
            planes.rgb = transpose::<3>(&planes.rgb, width, height, mirror_x, mirror_y);
            planes.alpha = planes.alpha.map(|plane| transpose::<1>(&plane, width, height, mirror_x, mirror_y));
            (planes.width, planes.height) = (planes.height, planes.width);
        }
        _ => {}
    }
    planes
}

impl Planes {
    fn each(&mut self, color: impl Fn(&mut [u8]), alpha: impl Fn(&mut [u8])) {
        color(&mut self.rgb);
        if let Some(plane) = &mut self.alpha {
            alpha(plane);
        }
    }
}

fn mirror_rows<const N: usize>(plane: &mut [u8], width: usize) {
    for row in plane.as_chunks_mut::<N>().0.chunks_exact_mut(width) {
        row.reverse();
    }
}

fn flip_rows(plane: &mut [u8], stride: usize) {
    let rows = plane.len() / stride;
    let (top, bottom) = plane.split_at_mut(rows / 2 * stride);
    for (upper, lower) in top.chunks_exact_mut(stride).zip(bottom.chunks_exact_mut(stride).rev()) {
        upper.swap_with_slice(lower);
    }
}

/// Side of the square tiles: a tile's rows and columns both stay in the first-level cache.
const TILE: usize = 32;

fn transpose<const N: usize>(plane: &[u8], width: usize, height: usize, mirror_x: bool, mirror_y: bool) -> Vec<u8> {
    let source = plane.as_chunks::<N>().0;
    let mut turned = vec![0; plane.len()];
    let target = turned.as_chunks_mut::<N>().0;
    for top in (0..height).step_by(TILE) {
        for left in (0..width).step_by(TILE) {
            for x in left..(left + TILE).min(width) {
                let row = if mirror_x { width - 1 - x } else { x };
                for y in top..(top + TILE).min(height) {
                    let column = if mirror_y { height - 1 - y } else { y };
                    target[row * height + column] = source[y * width + x];
                }
            }
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three: 1 2 3 above 4 5 6.
    fn turned(orientation: u8) -> (u32, u32, Vec<u8>) {
        let alpha: Vec<u8> = (1..=6).collect();
        let rgb = alpha.iter().flat_map(|&v| [v, v + 100, v + 200]).collect();
        let planes = upright(Planes { width: 3, height: 2, rgb, alpha: Some(alpha) }, orientation);
        let alpha = planes.alpha.unwrap();
        let rgb: Vec<u8> = alpha.iter().flat_map(|&v| [v, v + 100, v + 200]).collect();
        assert_eq!(planes.rgb, rgb, "the planes move together");
        (planes.width, planes.height, alpha)
    }

    #[test]
    fn each_exif_orientation_has_its_symmetry() {
        assert_eq!(turned(1), (3, 2, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(turned(2), (3, 2, vec![3, 2, 1, 6, 5, 4]));
        assert_eq!(turned(3), (3, 2, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(turned(4), (3, 2, vec![4, 5, 6, 1, 2, 3]));
        assert_eq!(turned(5), (2, 3, vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(turned(6), (2, 3, vec![4, 1, 5, 2, 6, 3]));
        assert_eq!(turned(7), (2, 3, vec![6, 3, 5, 2, 4, 1]));
        assert_eq!(turned(8), (2, 3, vec![3, 6, 2, 5, 1, 4]));
    }

    #[test]
    fn tiles_cover_pictures_larger_than_one() {
        let (width, height) = (70, 45);
        let plane: Vec<u8> = (0..width * height).map(|i| (i % 251) as u8).collect();
        let turned = transpose::<1>(&plane, width, height, true, false);
        for y in 0..height {
            for x in 0..width {
                assert_eq!(turned[(width - 1 - x) * height + y], plane[y * width + x]);
            }
        }
    }
}
