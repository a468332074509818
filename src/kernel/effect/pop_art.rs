//! The effect `pop-art`: posters of flat saturated colours with ink lines, grids of them, and halftones.

use std::ops::RangeInclusive;

use super::field::paint;
use super::halftone;
use super::shapes::{MAX_LEVELS, Shapes};
use super::tone::{along, oklab, ordered};
use crate::kernel::color::{OkLab, Rgb8};
use crate::kernel::image::{Raster, Rows as _};
use crate::kernel::resize;

/// Looks of pop art.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PopArtStyle {
    /// Flat shapes in saturated colours, outlined.
    #[default]
    Poster,
    /// A grid of posters, each in colours of its own.
    Warhol,
    /// Printed dots.
    Halftone,
}

/// Bold flat colours and crisp lines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PopArt {
    /// The look.
    pub style: PopArtStyle,
    /// Levels of lightness, each a colour, in [`Self::LEVELS`]; `None` is 5, or as many as there are brand colours.
    pub levels: Option<u8>,
    /// How readily lines are drawn on edges, in [`Self::OUTLINE`]; 0 for none.
    pub outline: f32,
    /// Pictures along each side of a Warhol grid, in [`Self::GRID`].
    pub grid: u8,
    /// Dots of a halftone along the geometric mean of the sides, in [`Self::DOTS`].
    pub dots: u16,
}

impl Default for PopArt {
    fn default() -> Self {
        Self { style: PopArtStyle::Poster, levels: None, outline: 0.5, grid: 2, dots: 150 }
    }
}

/// Levels when nothing says how many.
const LEVELS: usize = 5;

/// The poster's colours, dark to light.
const POSTER: [Rgb8; 5] = [
    Rgb8::new(0x25, 0x12, 0x5A),
    Rgb8::new(0xD6, 0x1A, 0x5E),
    Rgb8::new(0xFF, 0x7A, 0x1A),
    Rgb8::new(0xFF, 0xC8, 0x22),
    Rgb8::new(0xFF, 0xF3, 0xD6),
];
/// Its lines.
const INK: Rgb8 = Rgb8::new(0x12, 0x07, 0x2B);

/// Colours of the pictures in a grid: dark to light, each with one that stands out.
const SCHEMES: [[Rgb8; 5]; 4] = [
    [
        Rgb8::new(0x3A, 0x0C, 0x6E),
        Rgb8::new(0xE0, 0x12, 0x7D),
        Rgb8::new(0xFF, 0x6B, 0x35),
        Rgb8::new(0xFF, 0xC4, 0x1F),
        Rgb8::new(0xFF, 0xF0, 0x8A),
    ],
    [
        Rgb8::new(0x0B, 0x2A, 0x6B),
        Rgb8::new(0x00, 0x80, 0xC8),
        Rgb8::new(0x17, 0xC3, 0xB2),
        Rgb8::new(0xFF, 0x9B, 0xC5),
        Rgb8::new(0xFF, 0xE2, 0xEF),
    ],
    [
        Rgb8::new(0x5A, 0x0A, 0x1E),
        Rgb8::new(0xD9, 0x1E, 0x36),
        Rgb8::new(0xF0, 0x5D, 0xA8),
        Rgb8::new(0x57, 0xD2, 0xF2),
        Rgb8::new(0xD9, 0xF7, 0xFF),
    ],
    [
        Rgb8::new(0x0D, 0x3B, 0x2E),
        Rgb8::new(0x6A, 0x2C, 0xC9),
        Rgb8::new(0x1F, 0xB5, 0x5A),
        Rgb8::new(0xB5, 0xE0, 0x2B),
        Rgb8::new(0xFB, 0xFF, 0xC2),
    ],
];

impl PopArt {
    /// Range of [`Self::levels`].
    pub const LEVELS: RangeInclusive<u8> = 2..=MAX_LEVELS as u8;
    /// Range of [`Self::outline`].
    pub const OUTLINE: RangeInclusive<f32> = 0.0..=1.0;
    /// Range of [`Self::grid`].
    pub const GRID: RangeInclusive<u8> = 1..=4;
    /// Range of [`Self::dots`].
    pub const DOTS: RangeInclusive<u16> = 20..=250;

    pub(super) fn apply(&self, picture: &Raster, colors: Option<&[Rgb8]>) -> Raster {
        let brand = colors.filter(|colors| !colors.is_empty()).map(ordered);
        let asked = self.levels.map(|v| usize::from(v.clamp(*Self::LEVELS.start(), *Self::LEVELS.end())));
        let levels = asked.unwrap_or(brand.as_ref().map_or(LEVELS, Vec::len)).clamp(2, MAX_LEVELS);
        let outline = if self.outline.is_finite() { self.outline.clamp(0.0, 1.0) } else { 0.0 };
        match self.style {
            PopArtStyle::Poster => {
                let ink = brand.as_ref().map_or(INK, |brand| brand[0]);
                let colors = spread(brand.as_deref().unwrap_or(&POSTER), levels);
                let shapes = Shapes::new(picture, levels, outline);
                let (table, width) = (shapes.table(&colors, ink), picture.width() as usize);
                paint(picture, |first, out| {
                    for (out, state) in out.iter_mut().zip(&shapes.states()[first * width..]) {
                        *out = table[usize::from(*state)];
                    }
                })
            }
            PopArtStyle::Warhol => self.repeated(picture, brand.as_deref(), levels, outline),
            PopArtStyle::Halftone => {
                let dots = self.dots.clamp(*Self::DOTS.start(), *Self::DOTS.end());
                halftone::print(picture, brand.as_deref(), f32::from(dots))
            }
        }
    }

    /// The picture, reduced, in every cell of a grid. Its alpha is reduced with it.
    fn repeated(&self, picture: &Raster, brand: Option<&[Rgb8]>, levels: usize, outline: f32) -> Raster {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let count = usize::from(self.grid.clamp(*Self::GRID.start(), *Self::GRID.end()));
        let (across, down) = (width.div_ceil(count), height.div_ceil(count));
        let small = resize::reduce_raster(picture, across as u32, down as u32);
        let shapes = Shapes::new(&small, levels, outline);
        let tables: Vec<Vec<u32>> = (0..count * count)
            .map(|cell| {
                let colors = spread(&scheme(cell, brand), levels);
                let ink = brand.map_or_else(|| darker(colors[0]), |brand| brand[0]);
                shapes.table(&colors, ink)
            })
            .collect();
        let mut pixels = Vec::with_capacity(width * height);
        let start = |i: usize, side: usize| i * side / count;
        for row in 0..count {
            for y in 0..start(row + 1, height) - start(row, height) {
                for column in 0..count {
                    let at = y * across..y * across + start(column + 1, width) - start(column, width);
                    let table = &tables[row * count + column];
                    let cell = shapes.states()[at.clone()].iter().zip(&small.pixels()[at]);
                    pixels.extend(cell.map(|(state, p)| match p >> 24 {
                        0 => 0,
                        a => table[usize::from(*state)] & 0x00ff_ffff | a << 24,
                    }));
                }
            }
        }
        Raster::of_length(picture.width(), picture.height(), pixels)
    }
}

/// As many colours as there are levels, out of those of a gradient.
fn spread(colors: &[Rgb8], levels: usize) -> Vec<Rgb8> {
    if colors.len() >= levels {
        // Of more, some as they are: mixtures would be nobody's colours.
        return (0..levels).map(|i| colors[i * (colors.len() - 1) / (levels - 1).max(1)]).collect();
    }
    (0..levels).map(|i| along(colors, i as f32 / (levels - 1).max(1) as f32).to_rgb8()).collect()
}

/// The colours of a cell of a grid.
fn scheme(cell: usize, brand: Option<&[Rgb8]>) -> Vec<Rgb8> {
    match brand {
        None => {
            // Later cells take their lights from another scheme than their darks.
            let dark = cell % SCHEMES.len();
            let light = (dark + cell / SCHEMES.len()) % SCHEMES.len();
            let [d0, d1, d2, ..] = SCHEMES[dark];
            let [.., l3, l4] = SCHEMES[light];
            vec![d0, d1, d2, l3, l4]
        }
        // Shadows stay the darkest colour, which keeps the drawing; the others change places.
        Some(brand) if brand.len() > 2 => {
            let mut colors = brand.to_vec();
            let rest = &mut colors[1..];
            let places = rest.len();
            rest.rotate_left(cell % places);
            if cell / places % 2 == 1 {
                rest.reverse();
            }
            colors
        }
        Some(brand) => {
            let mut colors = brand.to_vec();
            if (cell + cell / 2) % 2 == 1 {
                colors.reverse();
            }
            colors
        }
    }
}

fn darker(color: Rgb8) -> Rgb8 {
    let lab = oklab(color);
    OkLab { l: 0.55 * lab.l, a: 0.6 * lab.a, b: 0.6 * lab.b }.to_rgb8()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Discs on a gradient.
    fn picture() -> Raster {
        let pixels = (0..320 * 240u32).map(|i| {
            let (x, y) = (i % 320, i / 320);
            let inside = x.abs_diff(160).pow(2) + y.abs_diff(120).pow(2) < 70 * 70;
            let v = if inside { 230 - y / 3 } else { x * 2 / 3 };
            Rgb8::new(v as u8, (v / 2 + 40) as u8, (255 - v) as u8).packed()
        });
        Raster::new(320, 240, pixels.collect()).unwrap()
    }

    /// The colours of at least a hundredth of the pixels.
    fn common(raster: &Raster) -> Vec<Rgb8> {
        let mut pixels = raster.pixels().to_vec();
        pixels.sort_unstable();
        let runs = pixels.chunk_by(|x, y| x == y).filter(|run| run.len() * 100 > raster.pixels().len());
        runs.map(|run| Rgb8::from_packed(run[0])).collect()
    }

    #[test]
    fn a_poster_has_as_many_colors_as_levels_and_mixtures_on_edges_alone() {
        for levels in [3u8, 4, 5, 6] {
            let out = PopArt { levels: Some(levels), outline: 0.0, ..PopArt::default() }.apply(&picture(), None);
            assert_eq!(common(&out).len(), usize::from(levels));
            let flat = common(&out);
            let mixed = out.pixels().iter().filter(|p| !flat.contains(&Rgb8::from_packed(**p))).count();
            assert!(mixed * 12 < out.pixels().len(), "{levels}: {mixed}");
        }
        assert!(PopArt::default().apply(&picture(), None).palette().is_some());
    }

    #[test]
    fn a_poster_in_brand_colors_takes_them_from_dark_to_light() {
        let brand = [Rgb8::new(255, 248, 231), Rgb8::new(58, 12, 163), Rgb8::new(229, 23, 123)];
        let out = PopArt::default().apply(&picture(), Some(&brand));
        let mut wanted = brand.to_vec();
        let mut got = common(&out);
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted);
        let lightest = out.pixels()[120 * 320 + 160];
        assert_eq!(Rgb8::from_packed(lightest), brand[0]);
    }

    #[test]
    fn lines_follow_edges_and_none_are_drawn_without_an_outline() {
        let inked = |outline: f32| {
            let out = PopArt { outline, ..PopArt::default() }.apply(&picture(), None);
            out.pixels().iter().filter(|p| Rgb8::from_packed(**p) == INK).count()
        };
        assert_eq!(inked(0.0), 0);
        assert!(inked(0.5) > 100 && inked(1.0) >= inked(0.5), "{} {}", inked(0.5), inked(1.0));
    }

    #[test]
    fn the_pictures_of_a_grid_have_the_same_shapes_in_other_colors() {
        let out = PopArt { style: PopArtStyle::Warhol, ..PopArt::default() }.apply(&picture(), None);
        let cell = |cx: usize, cy: usize| -> Vec<u32> {
            (0..120 * 160).map(|i| out.pixels()[(cy * 120 + i / 160) * 320 + cx * 160 + i % 160]).collect()
        };
        let cells = [cell(0, 0), cell(1, 0), cell(0, 1), cell(1, 1)];
        for (i, x) in cells.iter().enumerate() {
            for y in &cells[i + 1..] {
                assert_ne!(x, y);
                // Where one changes colour from a pixel to the next, so does the other.
                let edges = |c: &[u32]| c.windows(2).map(|p| p[0] != p[1]).collect::<Vec<_>>();
                let differ = edges(x).iter().zip(edges(y)).filter(|(a, b)| **a != *b).count();
                assert!(differ < 60, "{differ}");
            }
        }
    }

    #[test]
    fn dots_are_as_dark_as_the_picture() {
        for code in [40u8, 100, 160, 220] {
            let ramp = |i: u32| {
                if i % 300 < 20 {
                    0
                } else if i % 300 < 40 {
                    255
                } else {
                    code
                }
            };
            let pixels = (0..300 * 300).map(ramp).map(|v| Rgb8::new(v, v, v).packed()).collect();
            let flat = Raster::new(300, 300, pixels).unwrap();
            let dots = PopArt { style: PopArtStyle::Halftone, dots: 30, ..PopArt::default() }.apply(&flat, None);
            let inner = dots.pixels().chunks(300).flat_map(|row| &row[60..280]);
            let mean = inner.map(|p| Rgb8::from_packed(*p).oklab().l).sum::<f32>() / (220.0 * 300.0);
            let wanted = Rgb8::new(code, code, code).oklab().l;
            assert!((mean - wanted).abs() < 0.06, "{code}: {mean} {wanted}");
        }
    }
}
