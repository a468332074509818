//! Reducing pictures: area averaging in linear light with premultiplied alpha, row by row.
//!
//! Area averaging weighs every source pixel by the part of it that a target pixel covers: no ringing, no aliasing, and
//! each source row is read once, so that several sizes come out of one pass. Linear light is approximated by the cubic
//! v·(v·(v·0.305306 + 0.682171) + 0.012523) (C. Hill 2012), within 0.001 of sRGB, and inverted exactly for 8-bit
//! codes: a flat colour stays what it was.

use std::sync::LazyLock;

use rayon::prelude::*;

use super::image::{BaseImage, Raster, Rows as _, pack_rgba};
use super::simd::vectorize;

/// The sides of a picture that fits into `max_side` and `max_pixels`, keeping its proportions; 0 sets no limit. Never
/// enlarges, and no side falls below 1.
pub fn fit(width: u32, height: u32, max_side: u32, max_pixels: u64) -> (u32, u32) {
    let mut scale = 1f64;
    if max_side > 0 {
        scale = scale.min(f64::from(max_side) / f64::from(width.max(height)));
    }
    if max_pixels > 0 {
        scale = scale.min((max_pixels as f64 / (f64::from(width) * f64::from(height))).sqrt());
    }
    if scale >= 1.0 {
        return (width, height);
    }
    // Rounding up could pass the pixel limit; rounding to nearest keeps the longer side exact.
    let side = |v: u32| ((f64::from(v) * scale + if max_pixels > 0 { 0.0 } else { 0.5 }) as u32).clamp(1, v);
    (side(width), side(height))
}

/// Reduces `image` to the sides that [`fit`] gives; comes back unchanged when it fits already.
pub fn prescale(image: BaseImage, max_side: u32, max_pixels: u64) -> BaseImage {
    let (width, height) = fit(image.width(), image.height(), max_side, max_pixels);
    if (width, height) == (image.width(), image.height()) { image } else { reduce(&image, width, height) }
}

/// Reduces `image` to `width × height`, each between 1 and the image's own side.
pub fn reduce(image: &BaseImage, width: u32, height: u32) -> BaseImage {
    reduce_stepping(image, width, height, 1)
}

/// As [`reduce`], reading only every `step`-th row: for previews, where speed is worth a little aliasing. `step` is
/// lowered where fewer rows than `height` would be left.
pub fn reduce_stepping(image: &BaseImage, width: u32, height: u32, step: u32) -> BaseImage {
    let row_width = image.width() as usize;
    let read = |y: usize, row: &mut [u32]| {
        let at = y * row_width;
        let rgb = image.rgb()[at * 3..(at + row_width) * 3].as_chunks::<3>().0;
        match image.alpha() {
            None => row.iter_mut().zip(rgb).for_each(|(p, c)| *p = pack_rgba(c[0], c[1], c[2], 255)),
            Some(alpha) => {
                let alpha = &alpha[at..at + row_width];
                row.iter_mut().zip(rgb).zip(alpha).for_each(|((p, c), &a)| *p = pack_rgba(c[0], c[1], c[2], a));
            }
        }
    };
    reduce_read((image.width(), image.height()), image.alpha().is_some(), read, (width, height), step)
        .unwrap_or_else(|| image.clone())
}

/// As [`reduce_stepping`], for any picture of width and height `size` whose row `y` is written by `read`: packed pixels,
/// straight alpha. None where the picture has no pixels.
pub fn reduce_read(
    size: (u32, u32),
    has_alpha: bool,
    read: impl Fn(usize, &mut [u32]) + Sync,
    (width, height): (u32, u32),
    step: u32,
) -> Option<BaseImage> {
    if size.0 == 0 || size.1 == 0 {
        return None;
    }
    let (width, height) = (width.clamp(1, size.0), height.clamp(1, size.1));
    let step = step.clamp(1, size.1 / height) as usize;
    let (source_width, full_height) = (size.0 as usize, size.1 as usize);
    let source_height = full_height / step;
    let scale = source_height as f64 / f64::from(height);
    // Bands of target rows are independent; each reads the source rows it overlaps.
    const BAND: usize = 32;
    let mut pixels = vec![0u32; width as usize * height as usize];
    pixels.par_chunks_mut(BAND * width as usize).enumerate().for_each(|(band, out)| {
        let rows = out.len() / width as usize;
        let mut reducer = AreaReducer::band(size.0, source_height as u32, width, height, band * BAND, rows, has_alpha);
        let first = ((band * BAND) as f64 * scale) as usize;
        let last = (((band * BAND + rows) as f64 * scale).ceil() as usize).min(source_height);
        let mut row = vec![0u32; source_width];
        for y in first..last {
            // Evenly spread, down to the last row.
            read(y * full_height / source_height + step / 2, &mut row);
            reducer.push(y, &row);
        }
        out.copy_from_slice(&reducer.pixels);
    });
    let mut rgb = Vec::with_capacity(pixels.len() * 3);
    for p in &pixels {
        rgb.extend_from_slice(&p.to_le_bytes()[..3]);
    }
    let alpha = has_alpha.then(|| pixels.iter().map(|p| (p >> 24) as u8).collect());
    // The lengths are right by construction.
    BaseImage::new(width, height, rgb, alpha).ok()
}

/// Reduces a raster to `width × height`, each between 1 and the raster's own side.
pub fn reduce_raster(raster: &Raster, width: u32, height: u32) -> Raster {
    let mut reducer = AreaReducer::new(raster.width(), raster.height(), width, height, raster.has_alpha());
    raster.pixels().chunks_exact(raster.width() as usize).for_each(|row| reducer.push_row(row));
    reducer.finish()
}

/// A reduced picture in the making: rows go in from the top, a raster comes out.
#[derive(Debug, Clone)]
pub struct AreaReducer {
    source: (usize, usize),
    target: (usize, usize),
    /// First target row, and how many.
    rows: (usize, usize),
    has_alpha: bool,
    /// Linear, premultiplied sums of the target row being filled: planes of red, green, blue, and alpha.
    sums: [Vec<f32>; 4],
    /// The source columns of every target column.
    columns: Vec<Column>,
    current: usize,
    next_source: usize,
    pixels: Vec<u32>,
}

/// Source columns `first..=last` that one target column covers; all but the outer two entirely.
#[derive(Debug, Clone, Copy)]
struct Column {
    first: usize,
    last: usize,
    first_weight: f32,
    last_weight: f32,
}

impl Column {
    fn new(x: usize, target: usize, source: usize) -> Self {
        let scale = source as f64 / target as f64;
        let (left, right) = (x as f64 * scale, (x + 1) as f64 * scale);
        let first = (left as usize).min(source - 1);
        let last = (right.ceil() as usize).clamp(first + 1, source) - 1;
        let covered = |at: usize| (right.min((at + 1) as f64) - left.max(at as f64)) as f32;
        let last_weight = if last > first { covered(last) } else { 0.0 };
        Self { first, last, first_weight: covered(first), last_weight }
    }

    #[inline(always)]
    fn sum(self, line: &[f32]) -> f32 {
        let covered = &line[self.first..=self.last];
        let (Some(first), Some(last)) = (covered.first(), covered.last()) else { return 0.0 };
        let inner = covered.get(1..covered.len() - 1).unwrap_or_default();
        first * self.first_weight + inner.iter().sum::<f32>() + last * self.last_weight
    }
}

impl AreaReducer {
    /// From `source_width × source_height` to `width × height`, which must not be larger. `has_alpha` says whether the
    /// rows may hold anything but opaque pixels.
    pub fn new(source_width: u32, source_height: u32, width: u32, height: u32, has_alpha: bool) -> Self {
        Self::band(source_width, source_height, width, height, 0, height as usize, has_alpha)
    }

    fn band(
        source_width: u32,
        source_height: u32,
        width: u32,
        height: u32,
        first: usize,
        rows: usize,
        has_alpha: bool,
    ) -> Self {
        let n = source_width as usize;
        Self {
            source: (n, source_height as usize),
            target: (width as usize, height as usize),
            rows: (first, rows),
            has_alpha,
            sums: [vec![0.0; n], vec![0.0; n], vec![0.0; n], if has_alpha { vec![0.0; n] } else { Vec::new() }],
            columns: (0..width as usize).map(|x| Column::new(x, width as usize, n)).collect(),
            current: first,
            next_source: 0,
            pixels: Vec::with_capacity(width as usize * rows),
        }
    }

    /// Adds the next source row of packed pixels.
    pub fn push_row(&mut self, row: &[u32]) {
        let y = self.next_source;
        self.next_source += 1;
        self.push(y, row);
    }

    fn push(&mut self, y: usize, row: &[u32]) {
        let scale = self.source.1 as f64 / self.target.1 as f64;
        let end = self.rows.0 + self.rows.1;
        while self.current < end {
            let (top, bottom) = (self.current as f64 * scale, (self.current + 1) as f64 * scale);
            let covered = (bottom.min((y + 1) as f64) - top.max(y as f64)) as f32;
            if covered > 0.0 {
                self.add(row, covered);
            }
            // The last row's bottom may come out a hair below the source's height.
            if bottom <= (y + 1) as f64 + 1e-9 || (y + 1 == self.source.1) {
                self.finish_row();
                self.current += 1;
            } else {
                break;
            }
        }
    }

    fn add(&mut self, row: &[u32], weight: f32) {
        let has_alpha = self.has_alpha;
        let [red, green, blue, alpha] = &mut self.sums;
        vectorize(
            #[inline(always)]
            || {
                // Iterators, because slices behind the closure's references could overlap for all the compiler knows.
                let sums = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()).zip(row);
                if has_alpha {
                    for ((((red, green), blue), &p), alpha) in sums.zip(alpha.iter_mut()) {
                        let a = (p >> 24) as f32 * (weight / 255.0);
                        *red += a * linear((p & 255) as f32);
                        *green += a * linear((p >> 8 & 255) as f32);
                        *blue += a * linear((p >> 16 & 255) as f32);
                        *alpha += a;
                    }
                } else {
                    for (((red, green), blue), &p) in sums {
                        *red += weight * linear((p & 255) as f32);
                        *green += weight * linear((p >> 8 & 255) as f32);
                        *blue += weight * linear((p >> 16 & 255) as f32);
                    }
                }
            },
        );
    }

    fn finish_row(&mut self) {
        let decode = &*CUBIC_TO_CODE;
        let area = (self.source.0 as f64 / self.target.0 as f64 * (self.source.1 as f64 / self.target.1 as f64)) as f32;
        let code = |v: f32, total: f32| {
            let root = (v / total).clamp(0.0, 1.0).sqrt();
            decode[(root * (CODES - 1) as f32 + 0.5) as usize & (CODES - 1)]
        };
        let [red, green, blue, alpha] = &self.sums;
        if self.has_alpha {
            self.pixels.extend(self.columns.iter().map(|column| {
                let total = column.sum(alpha);
                match (total / area * 255.0 + 0.5) as u8 {
                    0 => 0,
                    alpha => {
                        let [r, g, b] = [red, green, blue].map(|plane| code(column.sum(plane), total));
                        pack_rgba(r, g, b, alpha)
                    }
                }
            }));
        } else {
            self.pixels.extend(self.columns.iter().map(|column| {
                let [r, g, b] = [red, green, blue].map(|plane| code(column.sum(plane), area));
                pack_rgba(r, g, b, 255)
            }));
        }
        for plane in &mut self.sums {
            plane.fill(0.0);
        }
    }

    /// The reduced picture. Rows that were never pushed are transparent.
    pub fn finish(mut self) -> Raster {
        let (width, height) = (self.target.0 as u32, self.rows.1 as u32);
        self.pixels.resize(self.target.0 * self.rows.1, 0);
        Raster::of_length(width, height, self.pixels)
    }
}

#[inline(always)]
fn linear(code: f32) -> f32 {
    let v = code * (1.0 / 255.0);
    v * (v * (v * 0.305_306_01 + 0.682_171_1) + 0.012_522_878)
}

const CODES: usize = 4096;

/// The code whose [`linear`] value is nearest, indexed by the square root of the value.
static CUBIC_TO_CODE: LazyLock<[u8; CODES]> = LazyLock::new(|| {
    let values: Vec<f32> = (0..256).map(|c| linear(c as f32)).collect();
    std::array::from_fn(|i| {
        let root = i as f32 / (CODES - 1) as f32;
        let v = root * root;
        let above = values.partition_point(|&x| x < v).min(255);
        let below = above.saturating_sub(1);
        // Half-way in code, which is half-way in the root to within a hundredth.
        let middle = (0.5 * (values[below].sqrt() + values[above].sqrt())).powi(2);
        if v < middle { below as u8 } else { above as u8 }
    })
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::Rows;

    #[test]
    fn skipped_rows_are_spread_over_the_whole_picture() {
        // Black but for the lowest tenth or so: 170 rows down to 3, every 25th read, as for a very wide picture.
        let (width, height) = (50u32, 170u32);
        let rgb = (0..height).flat_map(|y| vec![if y >= 150 { 255 } else { 0 }; width as usize * 3]).collect();
        let image = BaseImage::new(width, height, rgb, None).unwrap();
        let small = reduce_stepping(&image, width, 3, 25);
        assert!(
            small.rgb()[..300].iter().all(|&v| v == 0) && small.rgb()[300..].iter().all(|&v| v > 0),
            "{:?}",
            small.rgb()
        );
    }

    #[test]
    fn flat_colors_stay_exactly_what_they_were() {
        for code in 0..=255u8 {
            let image = BaseImage::new(7, 5, vec![code; 105], None).unwrap();
            assert!(reduce(&image, 3, 2).rgb().iter().all(|&v| v == code), "{code}");
        }
    }

    #[test]
    fn averages_are_taken_in_linear_light() {
        let image = BaseImage::new(2, 1, vec![0, 0, 0, 255, 255, 255], None).unwrap();
        let reduced = reduce(&image, 1, 1);
        assert!((i32::from(reduced.rgb()[0]) - 188).abs() <= 1, "{:?}", reduced.rgb());
    }

    #[test]
    fn hidden_color_does_not_bleed_into_edges() {
        let image = BaseImage::new(2, 1, vec![200, 10, 10, 0, 255, 0], Some(vec![255, 0])).unwrap();
        let reduced = reduce(&image, 1, 1);
        assert_eq!(reduced.rgb(), [200, 10, 10]);
        assert_eq!(reduced.alpha(), Some(&[128u8][..]));
    }

    #[test]
    fn rows_pushed_one_by_one_give_the_same_as_the_whole() {
        let rgb: Vec<u8> = (0..97 * 61 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let image = BaseImage::new(97, 61, rgb, None).unwrap();
        let whole = reduce(&image, 40, 25);
        let mut reducer = AreaReducer::new(97, 61, 40, 25, false);
        for row in image.rgb().chunks(97 * 3) {
            let row: Vec<u32> = row.chunks(3).map(|c| pack_rgba(c[0], c[1], c[2], 255)).collect();
            reducer.push_row(&row);
        }
        let raster = reducer.finish();
        assert_eq!((raster.width(), raster.height()), (40, 25));
        for (p, c) in raster.pixels().iter().zip(whole.rgb().chunks(3)) {
            assert_eq!(&p.to_le_bytes()[..3], c);
        }
    }

    #[test]
    fn limits_keep_proportions_and_never_enlarge() {
        assert_eq!(fit(4000, 3000, 1000, 0), (1000, 750));
        assert_eq!(fit(400, 300, 1000, 0), (400, 300));
        assert_eq!(fit(65_535, 1, 512, 0), (512, 1));
        let (w, h) = fit(4000, 3000, 0, 1_000_000);
        assert!(u64::from(w) * u64::from(h) <= 1_000_000 && w > 1100);
        assert_eq!(fit(1, 1, 1, 1), (1, 1));
    }
}
