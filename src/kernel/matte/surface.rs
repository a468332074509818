//! A smooth ground: a quadratic polynomial, fitted robustly (iteratively reweighted least squares with the
//! Geman–McClure weight, its scale annealed: M. Black, A. Rangarajan 1996) to the border, plus what it leaves on a
//! coarse grid of cells, grown from the border inwards as long as cells continue their neighbours.

use super::ground::{Color, Sample, apart, color_at};
use crate::kernel::image::BaseImage;
use crate::kernel::simd::vectorize;

/// Cells along the longer side.
const CELLS: usize = 96;

/// Reach, in cells, of what a cell is compared with.
const NEAR: usize = 2;

/// Most samples of the border that the polynomial is fitted to; it has six coefficients.
const FITTED: usize = 1000;

/// A quadratic polynomial of the place, plus corrections at the centres of cells.
#[derive(Debug, Clone)]
pub(super) struct Surface {
    /// Of 1, x, y, x², xy, y², per channel; x and y in pixels times `scale`.
    polynomial: [[f64; 6]; 3],
    scale: f64,
    cell: usize,
    columns: usize,
    rows: usize,
    corrections: Vec<Color>,
}

impl Surface {
    pub fn polynomial_at(&self, x: f64, y: f64) -> Color {
        let basis = basis(x * self.scale, y * self.scale);
        self.polynomial.map(|p| p.iter().zip(basis).map(|(p, b)| p * b).sum::<f64>() as f32)
    }

    fn between(&self, at: usize, count: usize) -> (usize, usize, f32) {
        let place = ((at as f32 + 0.5) / self.cell as f32 - 0.5).max(0.0);
        let low = (place as usize).min(count - 1);
        (low, (low + 1).min(count - 1), (place - low as f32).min(1.0))
    }

    pub fn at(&self, x: usize, y: usize) -> Color {
        let (left, right, tx) = self.between(x, self.columns);
        let (top, bottom, ty) = self.between(y, self.rows);
        let corner = |x: usize, y: usize| self.corrections[y * self.columns + x];
        let (a, b, c, d) = (corner(left, top), corner(right, top), corner(left, bottom), corner(right, bottom));
        let base = self.polynomial_at(x as f64, y as f64);
        std::array::from_fn(|i| {
            let (above, below) = (a[i] + tx * (b[i] - a[i]), c[i] + tx * (d[i] - c[i]));
            base[i] + above + ty * (below - above)
        })
    }

    /// Writes the ground colours of row `y` into planes.
    pub fn row(&self, y: usize, planes: &mut [Vec<f32>; 3]) {
        let (top, bottom, ty) = self.between(y, self.rows);
        let v = y as f64 * self.scale;
        for (c, plane) in planes.iter_mut().enumerate() {
            let p = self.polynomial[c];
            let base = (p[0] + v * (p[2] + v * p[5])) as f32;
            let slope = ((p[1] + v * p[4]) * self.scale) as f32;
            let bend = (p[3] * self.scale * self.scale) as f32;
            let rows = [top, bottom].map(|y| &self.corrections[y * self.columns..(y + 1) * self.columns]);
            let nodes: Vec<f32> = rows[0].iter().zip(rows[1]).map(|(a, b)| a[c] + ty * (b[c] - a[c])).collect();
            let cell = self.cell;
            vectorize(
                #[inline(always)]
                || expand(plane, &nodes, cell, [base, slope, bend]),
            );
        }
    }
}

/// A quadratic along a row plus what lies between the nodes at the cells' centres.
#[inline(always)]
fn expand(plane: &mut [f32], nodes: &[f32], cell: usize, [base, slope, bend]: [f32; 3]) {
    let (length, last) = (plane.len(), nodes.len() - 1);
    let mut start = 0;
    for i in 0..=nodes.len() {
        let end = if i == nodes.len() { length } else { (i * cell + cell / 2).clamp(start, length) };
        let (from, to) = (nodes[i.saturating_sub(1)], nodes[i.min(last)]);
        let step = (to - from) / cell as f32;
        // Where the stretch begins, seen from the node before it.
        let lead = start as f32 + 0.5 - (i as f32 - 0.5) * cell as f32;
        let first = start as f32;
        for (k, out) in plane[start..end].iter_mut().enumerate() {
            // Through i32, which vectors convert.
            let k = k as i32 as f32;
            let x = first + k;
            *out = base + x * (slope + x * bend) + from + step * (lead + k).max(0.0);
        }
        start = end;
    }
}

fn basis(x: f64, y: f64) -> [f64; 6] {
    [1.0, x, y, x * x, x * y, y * y]
}

/// The robust polynomial of the border.
pub(super) fn fit(ring: &[Sample], image: &BaseImage, noise: f32, without: Option<u8>) -> Option<Surface> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let cell = (width.max(height) / CELLS).max(4);
    let (columns, rows) = (width.div_ceil(cell), height.div_ceil(cell));
    let mut surface = Surface {
        polynomial: [[0.0; 6]; 3],
        scale: 1.0 / width.max(height) as f64,
        cell,
        columns,
        rows,
        corrections: vec![[0.0; 3]; columns * rows],
    };
    let floor = 2.0 + 2.0 * noise;
    let stride = ring.len().div_ceil(FITTED).max(1);
    let mut reach = f32::MAX;
    for _ in 0..14 {
        let mut matrix = [[0f64; 6]; 6];
        let mut sides = [[0f64; 6]; 3];
        for s in ring.iter().step_by(stride) {
            let weight = if reach == f32::MAX {
                if Some(s.side) == without {
                    continue;
                }
                1.0
            } else {
                let d = apart(s.color, surface.polynomial_at(s.x as f64, s.y as f64)) / reach;
                1.0 / f64::from(1.0 + d * d).powi(2)
            };
            let b = basis(s.x as f64 * surface.scale, s.y as f64 * surface.scale);
            for i in 0..6 {
                for j in 0..6 {
                    matrix[i][j] += weight * b[i] * b[j];
                }
                for (side, &v) in sides.iter_mut().zip(&s.color) {
                    side[i] += weight * b[i] * f64::from(v);
                }
            }
        }
        // A little weight on small coefficients keeps lines of pixels, and single ones, solvable.
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] += if i == 0 { 1e-9 } else { 1e-5 * (ring.len() / stride) as f64 };
        }
        surface.polynomial = solve(matrix, sides)?;
        reach = if reach == f32::MAX { 60.0 } else { (reach * 0.65).max(floor) };
    }
    Some(surface)
}

/// Gaussian elimination with pivots, three right sides.
fn solve(mut m: [[f64; 6]; 6], mut s: [[f64; 6]; 3]) -> Option<[[f64; 6]; 3]> {
    for k in 0..6 {
        let pivot = (k..6).max_by(|&i, &j| m[i][k].abs().total_cmp(&m[j][k].abs()))?;
        if m[pivot][k].abs() < 1e-12 {
            return None;
        }
        m.swap(k, pivot);
        s.iter_mut().for_each(|s| s.swap(k, pivot));
        for i in k + 1..6 {
            let factor = m[i][k] / m[k][k];
            let pivot = m[k];
            m[i].iter_mut().zip(pivot).for_each(|(v, p)| *v -= factor * p);
            s.iter_mut().for_each(|s| s[i] -= factor * s[k]);
        }
    }
    for s in &mut s {
        for k in (0..6).rev() {
            let known: f64 = (k + 1..6).map(|j| m[k][j] * s[j]).sum();
            s[k] = (s[k] - known) / m[k][k];
        }
    }
    Some(s)
}

/// Grows the ground from the border over cells that continue their neighbours, and keeps what the polynomial leaves
/// there. Also the share of border cells that are ground.
pub(super) fn grow(mut surface: Surface, image: &BaseImage, tolerance: f32) -> (Surface, f32) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (columns, rows, cell) = (surface.columns, surface.rows, surface.cell);
    const GRID: usize = 4;
    // What the polynomial leaves at 16 places of a cell.
    let leavings = |cx: usize, cy: usize| -> [Color; GRID * GRID] {
        std::array::from_fn(|i| {
            let x = (cx * cell + (2 * (i % GRID) + 1) * cell / (2 * GRID)).min(width - 1);
            let y = (cy * cell + (2 * (i / GRID) + 1) * cell / (2 * GRID)).min(height - 1);
            let (c, p) = (color_at(image.rgb(), y * width + x), surface.polynomial_at(x as f64, y as f64));
            [c[0] - p[0], c[1] - p[1], c[2] - p[2]]
        })
    };
    let judge = |cx: usize, cy: usize, expected: Color| -> Option<Color> {
        let (mut sum, mut n) = ([0f32; 3], 0);
        for c in leavings(cx, cy) {
            if apart(c, expected) <= tolerance {
                (0..3).for_each(|i| sum[i] += c[i]);
                n += 1;
            }
        }
        (n * 2 > GRID * GRID).then(|| sum.map(|v| v / n as f32))
    };
    let mut found: Vec<Option<Color>> = vec![None; columns * rows];
    let mut queue = std::collections::VecDeque::new();
    let (mut edge, mut edge_ground) = (0, 0);
    for cy in 0..rows {
        for cx in 0..columns {
            if cx == 0 || cy == 0 || cx + 1 == columns || cy + 1 == rows {
                edge += 1;
                found[cy * columns + cx] = judge(cx, cy, [0.0; 3]);
                if found[cy * columns + cx].is_some() {
                    edge_ground += 1;
                    queue.push_back((cx, cy));
                }
            }
        }
    }
    let around = |found: &[Option<Color>], cx: usize, cy: usize| -> Option<Color> {
        // By the distance: 1 / (1 + d²).
        const WEIGHTS: [f32; 2 * NEAR + 1] = [1.0, 1.0 / 2.0, 1.0 / 5.0, 1.0 / 10.0, 1.0 / 17.0];
        let (mut sum, mut n) = ([0f32; 3], 0f32);
        for y in near(cy, rows) {
            for x in near(cx, columns) {
                if let Some(c) = found[y * columns + x] {
                    let weight = WEIGHTS[x.abs_diff(cx) + y.abs_diff(cy)];
                    (0..3).for_each(|i| sum[i] += weight * c[i]);
                    n += weight;
                }
            }
        }
        (n > 0.0).then(|| sum.map(|v| v / n))
    };
    while let Some((cx, cy)) = queue.pop_front() {
        for (dx, dy) in [(0i32, -1i32), (-1, 0), (1, 0), (0, 1)] {
            let (x, y) = (cx as i32 + dx, cy as i32 + dy);
            if x < 0 || y < 0 || x >= columns as i32 || y >= rows as i32 {
                continue;
            }
            let (x, y) = (x as usize, y as usize);
            if found[y * columns + x].is_none() {
                let grown = around(&found, x, y).and_then(|expected| judge(x, y, expected));
                if grown.is_some() {
                    found[y * columns + x] = grown;
                    queue.push_back((x, y));
                }
            }
        }
    }
    let mut smooth: Vec<Option<Color>> =
        (0..columns * rows).map(|i| found[i].and_then(|_| around(&found, i % columns, i / columns))).collect();
    // Cells of the subject take what is near, ring after ring; what stays open is left to the polynomial.
    let mut known: Vec<bool> = smooth.iter().map(Option::is_some).collect();
    let mut fresh: Vec<usize> = (0..known.len()).filter(|&i| known[i]).collect();
    while !fresh.is_empty() {
        let mut next = Vec::new();
        for i in fresh {
            for y in near(i / columns, rows) {
                for x in near(i % columns, columns) {
                    if !std::mem::replace(&mut known[y * columns + x], true) {
                        next.push(y * columns + x);
                    }
                }
            }
        }
        let ring: Vec<Option<Color>> = next.iter().map(|&i| around(&smooth, i % columns, i / columns)).collect();
        next.iter().zip(ring).for_each(|(&i, color)| smooth[i] = color);
        fresh = next;
    }
    surface.corrections = smooth.into_iter().map(Option::unwrap_or_default).collect();
    (surface, edge_ground as f32 / edge.max(1) as f32)
}

/// The cells up to [`NEAR`] from `at` on one axis.
fn near(at: usize, count: usize) -> std::ops::Range<usize> {
    at.saturating_sub(NEAR)..(at + NEAR + 1).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(side: usize, color: impl Fn(usize, usize) -> Color) -> Vec<Sample> {
        let last = side - 1;
        (0..side)
            .flat_map(|i| [(i, 0, 0), (i, last, 1), (0, i, 2), (last, i, 3)])
            .map(|(x, y, side)| Sample { x, y, color: color(x, y), side })
            .collect()
    }

    #[test]
    fn a_subject_cut_by_the_border_does_not_bend_the_polynomial() {
        let side = 128;
        let image = BaseImage::new(side, side, vec![0; (side * side * 3) as usize], None).unwrap();
        let ground = |x: usize, y: usize| {
            let (u, v) = (x as f32 / 128.0, y as f32 / 128.0);
            [200.0 - 40.0 * u * u, 150.0 + 30.0 * v, 120.0 + 20.0 * u * v]
        };
        let subject = |x: usize, y: usize| if y == 127 && (20..90).contains(&x) { [20.0; 3] } else { ground(x, y) };
        let surface = fit(&ring(128, subject), &image, 0.0, None).unwrap();
        for (x, y) in [(5, 5), (64, 0), (127, 100), (0, 127), (110, 127)] {
            let off = apart(surface.polynomial_at(x as f64, y as f64), ground(x, y));
            assert!(off < 1.0, "{x} {y}: {off}");
        }
    }

    #[test]
    fn rows_and_single_places_agree() {
        let (width, height) = (210u32, 90u32);
        let color = |x: u32, y: u32| [(x / 2 + 60) as u8, (150 - y / 2) as u8, ((x + y) / 4 + 90) as u8];
        let rgb = (0..width * height).flat_map(|i| color(i % width, i / width)).collect();
        let image = BaseImage::new(width, height, rgb, None).unwrap();
        let border = |x: u32, y: u32| x == 0 || y == 0 || x + 1 == width || y + 1 == height;
        let ring: Vec<Sample> = (0..width * height)
            .map(|i| (i % width, i / width))
            .filter(|&(x, y)| border(x, y))
            .map(|(x, y)| Sample { x: x as usize, y: y as usize, color: color(x, y).map(f32::from), side: 0 })
            .collect();
        let (surface, share) = grow(fit(&ring, &image, 0.0, None).unwrap(), &image, 5.0);
        assert!(share > 0.99, "{share}");
        let mut planes = [vec![0f32; 210], vec![0f32; 210], vec![0f32; 210]];
        for y in [0, 1, 44, 89] {
            surface.row(y, &mut planes);
            for x in [0usize, 1, 2, 3, 100, 207, 208, 209] {
                let row = [planes[0][x], planes[1][x], planes[2][x]];
                assert!(apart(row, surface.at(x, y)) < 0.05, "{x} {y}: {row:?} {:?}", surface.at(x, y));
                assert!(apart(row, color(x as u32, y as u32).map(f32::from)) < 1.5, "{x} {y}: {row:?}");
            }
        }
    }
}
