//! Contrast-limited adaptive histogram equalisation (K. Zuiderveld 1994), on lightness.

use rayon::prelude::*;

use super::field::{Counts, Field, bin};

/// Tiles along each side of a picture.
const TILES: usize = 8;
/// A curve's slope may be so much steeper than straight.
const CLIP: f32 = 2.2;
/// Share of the whole picture's histogram in that of a tile: it calms tiles that hold next to
/// nothing, and the glow that dark things get on light ground.
const WHOLE: f32 = 0.4;
/// Steps of a curve.
const STEPS: usize = 255;
/// Values at every step, and a last one again, so that there is always a next.
type Curve = [f32; STEPS + 2];

/// A curve for every tile of a picture; between their centres they blend.
pub(super) struct Clahe {
    width: usize,
    height: usize,
    /// Per tile, over lightness 0..=1; row-major.
    curves: Vec<Curve>,
}

impl Clahe {
    /// Curves from `light`, whose visible pixels count, to `levels` of it, mixed with `strength` of equalisation.
    pub fn new(light: &Field, pixels: &[u32], strength: f32, levels: impl Fn(f32) -> f32 + Sync) -> Self {
        let (width, height) = (light.width, light.height);
        let edge = |i: usize, side: usize| i * side / TILES;
        let to_level: [u8; 256] = std::array::from_fn(|i| bin(levels(i as f32 / 255.0)) as u8);
        let counts: Vec<[f32; 256]> = (0..TILES * TILES)
            .into_par_iter()
            .map(|tile| {
                let (tx, ty) = (tile % TILES, tile / TILES);
                let (left, right) = (edge(tx, width), edge(tx + 1, width));
                let mut counts = Counts::new();
                for y in edge(ty, height)..edge(ty + 1, height) {
                    let values = &light.row(y)[left..right];
                    let visible = pixels[y * width + left..].iter().map(|p| p >> 24 != 0);
                    counts.add(values.iter().map(|v| bin(*v)).zip(visible));
                }
                let mut leveled = [0f32; 256];
                for (count, level) in counts.sum().iter().zip(to_level) {
                    leveled[usize::from(level)] += *count as f32;
                }
                leveled
            })
            .collect();
        let mut whole = [0f32; 256];
        for tile in &counts {
            whole.iter_mut().zip(tile).for_each(|(w, c)| *w += c);
        }
        let total: f32 = whole.iter().sum::<f32>().max(1.0);
        let full = total / (TILES * TILES) as f32;
        let curves = counts.into_par_iter().map(|mut tile| {
            // A tile that is mostly hidden makes up for it with the whole.
            let weight = (full * (1.0 + WHOLE) - tile.iter().sum::<f32>()).max(full * WHOLE) / total;
            tile.iter_mut().zip(&whole).for_each(|(t, w)| *t += weight * w);
            let equalized = equalize(tile);
            std::array::from_fn(|i| {
                let v = levels(i.min(STEPS) as f32 / STEPS as f32);
                v + strength * (at(&equalized, v) - v)
            })
        });
        Self { width, height, curves: curves.collect() }
    }

    /// Space for [`Self::row`].
    pub fn space(&self) -> Vec<Curve> {
        vec![[0.0; STEPS + 2]; TILES]
    }

    /// Maps the values of row `y` in place.
    pub fn row(&self, y: usize, blended: &mut [Curve], row: &mut [f32]) {
        let (top, bottom, t) = place(y, self.height);
        for (tx, blended) in blended.iter_mut().enumerate() {
            let (above, below) = (&self.curves[top * TILES + tx], &self.curves[bottom * TILES + tx]);
            for ((out, a), b) in blended.iter_mut().zip(above).zip(below) {
                *out = a + t * (b - a);
            }
        }
        let step = TILES as f32 / self.width as f32;
        let mut x = 0;
        while x < row.len() {
            let (left, right, _) = place(x, self.width);
            // Up to the next centre of a tile the two curves stay the same.
            let first = if right == left && left == 0 { 0.5 } else { left as f32 + 1.5 };
            let end = if left == TILES - 1 {
                row.len()
            } else {
                ((first / step - 0.5).ceil() as usize).clamp(x + 1, row.len())
            };
            let (a, b) = (&blended[left], &blended[right]);
            for (i, v) in row[x..end].iter_mut().enumerate() {
                let t = (((x + i) as f32 + 0.5) * step - 0.5 - left as f32).clamp(0.0, 1.0);
                let (l, r) = (at(a, *v), at(b, *v));
                *v = l + t * (r - l);
            }
            x = end;
        }
    }
}

/// The tiles whose centres a pixel lies between, and how far towards the second.
fn place(i: usize, side: usize) -> (usize, usize, f32) {
    let at = ((i as f32 + 0.5) * TILES as f32 / side as f32 - 0.5).clamp(0.0, (TILES - 1) as f32);
    let first = at as usize;
    if at == 0.0 { (0, 0, 0.0) } else { (first, (first + 1).min(TILES - 1), at - first as f32) }
}

#[inline(always)]
fn at(curve: &Curve, v: f32) -> f32 {
    let at = v.clamp(0.0, 1.0) * STEPS as f32;
    // Adding 1.5·2^23 leaves the rounded value in the low bits; a cast would saturate.
    let i = (at - 0.5 + 12_582_912.0).to_bits() & 255;
    let (low, high) = (curve[i as usize], curve[i as usize + 1]);
    low + (at - i as f32) * (high - low)
}

/// The cumulative histogram, its slope limited; what is cut off is spread evenly.
fn equalize(mut counts: [f32; 256]) -> Curve {
    let total: f32 = counts.iter().sum::<f32>().max(1e-6);
    // Neighbouring steps share: 8-bit sources leave gaps, which would become steps of the curve.
    for _ in 0..3 {
        let before = counts;
        for i in 0..256 {
            counts[i] = 0.25 * before[i.saturating_sub(1)] + 0.5 * before[i] + 0.25 * before[(i + 1).min(255)];
        }
    }
    let mut limit = CLIP * total / 256.0;
    // What is spread may pass the limit again; a lower cut to start with keeps the sum below it.
    let (mut low, mut high) = (0f32, limit);
    for _ in 0..16 {
        limit = 0.5 * (low + high);
        let excess: f32 = counts.iter().map(|c| (c - limit).max(0.0)).sum();
        if limit + excess / 256.0 > CLIP * total / 256.0 { high = limit } else { low = limit }
    }
    let excess: f32 = counts.iter().map(|c| (c - limit).max(0.0)).sum();
    // A step's own pixels lie half below it, half above.
    let mut sum = 0f32;
    let mut curve = [0f32; STEPS + 2];
    for (curve, count) in curve.iter_mut().zip(&counts) {
        let share = (count.min(limit) + excess / 256.0) / total;
        *curve = sum + 0.5 * share;
        sum += share;
    }
    // And the ends are black and white.
    let (low, high) = (curve[0], curve[STEPS]);
    curve.iter_mut().for_each(|v| *v = (*v - low) / (high - low).max(1e-6));
    curve[STEPS + 1] = 1.0;
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_curve_is_steeper_than_the_limit_and_all_rise_from_black_to_white() {
        let mut spike = [0f32; 256];
        spike[100] = 1000.0;
        let mut bump = [0f32; 256];
        bump[90..140].fill(20.0);
        for counts in [spike, bump, [4.0; 256]] {
            let curve = equalize(counts);
            assert!((curve[STEPS] - 1.0).abs() < 1e-3 && curve[0] == 0.0);
            let slopes = curve[..=STEPS].windows(2).map(|pair| (pair[1] - pair[0]) * STEPS as f32);
            assert!(slopes.clone().all(|s| (0.0..=CLIP + 0.02).contains(&s)), "{:?}", slopes.fold(0.0, f32::max));
        }
    }

    #[test]
    fn neighboring_pixels_of_one_lightness_stay_neighbors() {
        // Tiles of very different content under one flat stripe: their borders must not show in it.
        let (width, height) = (256, 256);
        let value = |x: usize, y: usize| if y % 16 < 4 { 0.5 } else { ((x / 32 * 37 + y) % 100) as f32 / 100.0 };
        let light = Field { width, height, values: (0..width * height).map(|i| value(i % width, i / width)).collect() };
        let clahe = Clahe::new(&light, &vec![0xff00_0000; width * height], 1.0, |v| v);
        for y in [0usize, 1, 64, 128, 255] {
            let mut row = vec![0.5f32; width];
            clahe.row(y, &mut clahe.space(), &mut row);
            assert!(row.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 0.02), "{y}");
        }
    }
}
