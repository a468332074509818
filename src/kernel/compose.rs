//! Something behind a picture with alpha: a colour, another picture, or the picture itself out of focus.
//!
//! Colours are mixed as their 8-bit sRGB values, as cameras, browsers and the estimation of foregrounds do it.

use super::image::{BaseImage, Rows, pack_rgba};
use super::resize;
use crate::kernel::color::Rgb8;

/// What lies behind.
#[derive(Debug, Clone, Copy)]
pub enum Behind<'a> {
    /// One colour.
    Color(Rgb8),
    /// A picture, 3 bytes a pixel, of the same size as the one before it.
    Picture(&'a [u8]),
    /// Something out of focus, at any size.
    Blurred(&'a Blurred),
}

/// Rows with something behind them: opaque.
pub struct Filled<'a> {
    source: &'a mut dyn Rows,
    behind: Behind<'a>,
    palette: Option<Vec<u32>>,
    next: usize,
    ground: Vec<u8>,
}

impl<'a> Filled<'a> {
    /// Puts `behind` behind the rows of `source`.
    pub fn new(source: &'a mut dyn Rows, behind: Behind<'a>) -> Self {
        let palette = match (behind, source.palette()) {
            (Behind::Color(color), Some(palette)) => {
                let ground = [color.r, color.g, color.b];
                Some(palette.iter().map(|&p| over(p, ground)).collect())
            }
            _ => None,
        };
        Self { source, behind, palette, next: 0, ground: Vec::new() }
    }
}

impl Rows for Filled<'_> {
    fn width(&self) -> u32 {
        self.source.width()
    }
    fn height(&self) -> u32 {
        self.source.height()
    }
    fn has_alpha(&self) -> bool {
        false
    }
    fn next_row(&mut self, row: &mut [u32]) {
        self.source.next_row(row);
        let y = self.next;
        self.next += 1;
        match self.behind {
            Behind::Color(color) => {
                let ground = [color.r, color.g, color.b];
                row.iter_mut().for_each(|p| *p = over(*p, ground));
            }
            Behind::Picture(rgb) => {
                let start = y * row.len() * 3;
                for (p, ground) in row.iter_mut().zip(rgb.get(start..).unwrap_or_default().chunks_exact(3)) {
                    *p = over(*p, [ground[0], ground[1], ground[2]]);
                }
            }
            Behind::Blurred(blurred) => {
                self.ground.resize(row.len() * 3, 0);
                blurred.row(y, self.source.height() as usize, &mut self.ground);
                for (p, ground) in row.iter_mut().zip(self.ground.chunks_exact(3)) {
                    *p = over(*p, [ground[0], ground[1], ground[2]]);
                }
            }
        }
    }
    fn palette(&self) -> Option<&[u32]> {
        self.palette.as_deref()
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        self.next += 1;
        self.source.next_indices(row);
    }
}

/// One packed pixel over an opaque colour.
#[inline(always)]
fn over(pixel: u32, ground: [u8; 3]) -> u32 {
    let [r, g, b, a] = pixel.to_le_bytes();
    let a = u32::from(a);
    // Rounded division by 255, exact for every sum of two products of bytes.
    let mix = |c: u8, g: u8| {
        let sum = u32::from(c) * a + u32::from(g) * (255 - a) + 128;
        ((sum + (sum >> 8)) >> 8) as u8
    };
    pack_rgba(mix(r, ground[0]), mix(g, ground[1]), mix(b, ground[2]), 255)
}

/// The ground of a picture out of focus: small, and enlarged as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blurred {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// Longest side of what is kept of a blurred picture, pixels.
const BLURRED_SIDE: u32 = 160;

/// Radius of each of the three box blurs, pixels of the small picture: together about a Gaussian of 1/32 of the longest side.
const RADIUS: usize = 5;

impl Blurred {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.rgb.len() as u64
    }

    /// Blurs `image`. What `alpha` says is subject, 1 byte a pixel, counts little, so that it leaves no shade around itself.
    pub fn new(image: &BaseImage, alpha: &[u8]) -> Self {
        let (width, height) = resize::fit(image.width(), image.height(), BLURRED_SIDE, 0);
        let (w, h) = (width as usize, height as usize);
        // Weighted sums over the pixels of each cell, every second row and column of large ones.
        let (full_w, full_h) = (image.width() as usize, image.height() as usize);
        let step = (full_w.max(full_h) / (4 * BLURRED_SIDE as usize)).max(1);
        let mut cells = vec![[0f32; 4]; w * h];
        for y in (0..full_h).step_by(step) {
            let cells = &mut cells[(y * h / full_h) * w..][..w];
            let (rgb, alpha) = (&image.rgb()[y * full_w * 3..], &alpha[y * full_w..]);
            let own = image.alpha().map(|own| &own[y * full_w..]);
            for x in (0..full_w).step_by(step) {
                // What nobody can see has no colour.
                let visible = own.map_or(1.0, |own| f32::from(own[x]) / 255.0);
                let weight = visible * (f32::from(255 - alpha[x]) / 255.0 + 0.002);
                let cell = &mut cells[x * w / full_w];
                for (sum, &value) in cell.iter_mut().zip(&rgb[3 * x..3 * x + 3]) {
                    *sum += weight * f32::from(value);
                }
                cell[3] += weight;
            }
        }
        // Far from all that is seen there is the mean of it.
        let all = sum(&cells);
        let mean = all.map(|v| 1e-4 * v / all[3].max(1e-9));
        cells.iter_mut().for_each(|cell| *cell = add(*cell, &mean));
        for _ in 0..3 {
            cells = blur_columns(&blur_rows(&cells, w), w);
        }
        let rgb = cells.iter().flat_map(|c| [0, 1, 2].map(|i| (c[i] / c[3].max(1e-9) + 0.5).clamp(0.0, 255.0) as u8));
        Self { width: w, height: h, rgb: rgb.collect() }
    }

    /// Row `y` of `height`, 3 bytes a pixel, bilinear between the small picture's pixels.
    pub fn row(&self, y: usize, height: usize, row: &mut [u8]) {
        let place = |at: usize, of: usize, small: usize| {
            let position = ((at as f32 + 0.5) * small as f32 / of as f32 - 0.5).clamp(0.0, (small - 1) as f32);
            let low = position as usize;
            (low, (low + 1).min(small - 1), position - low as f32)
        };
        let (top, bottom, v) = place(y, height.max(1), self.height);
        let lines = [top, bottom].map(|line| &self.rgb[line * self.width * 3..][..self.width * 3]);
        let width = row.len() / 3;
        // A row of the small picture first, then across.
        let line: Vec<f32> =
            lines[0].iter().zip(lines[1]).map(|(&a, &b)| f32::from(a) + v * (f32::from(b) - f32::from(a))).collect();
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let (left, right, u) = place(x, width, self.width);
            for (channel, value) in pixel.iter_mut().enumerate() {
                let (a, b) = (line[3 * left + channel], line[3 * right + channel]);
                *value = (a + u * (b - a) + 0.5) as u8;
            }
        }
    }
}

/// A box blur along rows; at the edges the box is cut off.
fn blur_rows(cells: &[[f32; 4]], width: usize) -> Vec<[f32; 4]> {
    let mut blurred = Vec::with_capacity(cells.len());
    for line in cells.chunks_exact(width) {
        for x in 0..width {
            blurred.push(sum(&line[x.saturating_sub(RADIUS)..(x + RADIUS + 1).min(width)]));
        }
    }
    blurred
}

fn blur_columns(cells: &[[f32; 4]], width: usize) -> Vec<[f32; 4]> {
    let height = cells.len() / width;
    let mut blurred = Vec::with_capacity(cells.len());
    for y in 0..height {
        for x in 0..width {
            let rows = y.saturating_sub(RADIUS)..(y + RADIUS + 1).min(height);
            let column: [f32; 4] = rows.fold([0.0; 4], |total, y| add(total, &cells[y * width + x]));
            blurred.push(column);
        }
    }
    blurred
}

fn sum(cells: &[[f32; 4]]) -> [f32; 4] {
    cells.iter().fold([0.0; 4], add)
}

fn add(total: [f32; 4], cell: &[f32; 4]) -> [f32; 4] {
    [total[0] + cell[0], total[1] + cell[1], total[2] + cell[2], total[3] + cell[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::Raster;

    fn filled(raster: &Raster, behind: Behind<'_>) -> Vec<u32> {
        let mut raster = raster.clone().rewound();
        Raster::read(&mut Filled::new(&mut raster, behind)).into_pixels()
    }

    #[test]
    fn opaque_pixels_stay_hidden_ones_show_the_ground_and_the_rest_is_mixed() {
        let pixels = vec![pack_rgba(10, 20, 30, 255), 0, pack_rgba(255, 0, 100, 128)];
        let raster = Raster::new(3, 1, pixels).unwrap();
        let mixed = pack_rgba(128, 127, 100, 255);
        let expected = [pack_rgba(10, 20, 30, 255), pack_rgba(0, 255, 100, 255), mixed];
        assert_eq!(filled(&raster, Behind::Color(Rgb8::new(0, 255, 100))), expected);
        assert_eq!(filled(&raster, Behind::Picture(&[0, 255, 100].repeat(3))), expected);
    }

    #[test]
    fn the_mix_is_the_rounded_quotient_for_every_alpha() {
        for a in 0..=255u32 {
            for (c, g) in [(255u8, 0u8), (0, 255), (200, 13), (1, 254)] {
                let exact = (f64::from(c) * f64::from(a) + f64::from(g) * f64::from(255 - a)) / 255.0;
                let got = over(pack_rgba(c, c, c, a as u8), [g, g, g]) & 255;
                assert!((f64::from(got) - exact).abs() <= 0.5 + 1e-9, "{c} {g} {a}: {got} {exact}");
            }
        }
    }

    #[test]
    fn a_few_colors_over_a_color_stay_few() {
        let raster = Raster::new(2, 2, vec![0, pack_rgba(1, 2, 3, 255), 0, 0]).unwrap();
        let mut source = raster.clone();
        let mut rows = Filled::new(&mut source, Behind::Color(Rgb8::new(9, 9, 9)));
        let palette = rows.palette().unwrap().to_vec();
        let mut indices = [0; 2];
        rows.next_indices(&mut indices);
        let colors: Vec<u32> = indices.iter().map(|&i| palette[usize::from(i)]).collect();
        assert_eq!(colors, filled(&raster, Behind::Color(Rgb8::new(9, 9, 9)))[..2]);
    }

    #[test]
    fn a_subject_leaves_no_shade_in_the_blur_of_its_ground() {
        let (width, height) = (300u32, 200u32);
        let inside = |x: u32, y: u32| (100..200).contains(&x) && (60..140).contains(&y);
        let (mut rgb, mut alpha) = (Vec::new(), Vec::new());
        for y in 0..height {
            for x in 0..width {
                rgb.extend(if inside(x, y) { [255, 0, 0] } else { [20, 120, 220] });
                alpha.push(if inside(x, y) { 255 } else { 0 });
            }
        }
        let image = BaseImage::new(width, height, rgb, None).unwrap();
        let blurred = Blurred::new(&image, &alpha);
        let mut row = vec![0; 300 * 3];
        blurred.row(55, 200, &mut row);
        for pixel in row.chunks_exact(3) {
            assert!(pixel[0] < 30 && pixel[2] > 205, "{pixel:?}");
        }
        // A picture that is all subject is its own ground.
        let all = Blurred::new(&image, &vec![255; (width * height) as usize]);
        all.row(100, 200, &mut row);
        assert!(row[3 * 150] > 200);
    }

    #[test]
    fn a_blur_of_any_size_is_read_at_any_size() {
        for (width, height) in [(1, 1), (1, 50), (500, 2)] {
            let image = BaseImage::new(width, height, vec![77; (width * height * 3) as usize], None).unwrap();
            let blurred = Blurred::new(&image, &vec![0; (width * height) as usize]);
            let mut row = vec![0; 7 * 3];
            blurred.row(0, 1, &mut row);
            assert_eq!(row, [77; 21]);
        }
    }

    #[test]
    fn what_nobody_can_see_has_no_part_in_a_blur() {
        let (width, height) = (320u32, 100u32);
        let visible = |i: u32| (140..180).contains(&(i % width));
        let alpha: Vec<u8> = (0..width * height).map(|i| if visible(i) { 255 } else { 0 }).collect();
        let rgb = (0..width * height).flat_map(|i| if visible(i) { [240, 200, 40] } else { [0; 3] }).collect();
        let image = BaseImage::new(width, height, rgb, Some(alpha.clone())).unwrap();
        let mut row = vec![0; 320 * 3];
        Blurred::new(&image, &alpha).row(50, height as usize, &mut row);
        assert!(row.chunks(3).all(|c| c == [240, 200, 40]), "{:?}", &row[..12]);
    }
}
