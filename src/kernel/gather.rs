//! From a colour table to rows: one look-up a pixel, straight into whoever reads the rows.

use std::collections::HashMap;

use super::image::{Rows, pack_rgba};
use super::resize::AreaReducer;
use super::unique::IndexedImage;

/// The picture that a table of output colours makes of an indexed picture.
pub struct Recolored<'a> {
    image: &'a IndexedImage,
    table: &'a [u32],
    next: usize,
    palette: Option<Palette>,
}

/// Row `y` of the picture that `table` makes of `image`, with the picture's alpha.
pub fn gather_row(image: &IndexedImage, table: &[u32], y: usize, row: &mut [u32]) {
    image.look_up(y, table, row);
    if let Some(alpha) = image.alpha() {
        for (p, &a) in row.iter_mut().zip(&alpha[y * image.width() as usize..]) {
            *p = *p & 0x00ff_ffff | u32::from(a) << 24;
        }
    }
}

/// At most 256 packed colours and, per entry of the table, which of them it is.
struct Palette {
    colors: Vec<u32>,
    of_entry: Vec<u8>,
}

impl<'a> Recolored<'a> {
    /// `table` holds an opaque entry for each colour of `image` and a last one for hidden pixels.
    ///
    /// # Panics
    /// When the table's length is not one more than the number of colours.
    pub fn new(image: &'a IndexedImage, table: &'a [u32]) -> Self {
        assert_eq!(table.len(), image.colors().len() + 1, "a table covers every colour and the hidden pixels");
        Self { image, table, next: 0, palette: Palette::new(image, table) }
    }

    /// Number of the next row.
    fn advance(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }
}

impl Palette {
    fn new(image: &IndexedImage, table: &[u32]) -> Option<Self> {
        if image.alpha().is_some_and(|alpha| alpha.iter().any(|a| !matches!(a, 0 | 255))) {
            return None;
        }
        let entries = if image.alpha().is_some() { table } else { &table[..table.len() - 1] };
        let mut seen: HashMap<u32, u8> = HashMap::new();
        let mut colors: Vec<u32> = Vec::new();
        let mut of_entry = Vec::with_capacity(table.len());
        for &color in entries {
            let next = colors.len();
            let slot = *seen.entry(color).or_insert(next.min(255) as u8);
            if usize::from(slot) == next || (next == 256 && colors[usize::from(slot)] != color) {
                if next == 256 {
                    return None;
                }
                colors.push(color);
            }
            of_entry.push(slot);
        }
        of_entry.resize(table.len(), 0);
        Some(Self { colors, of_entry })
    }
}

impl Rows for Recolored<'_> {
    fn width(&self) -> u32 {
        self.image.width()
    }
    fn height(&self) -> u32 {
        self.image.height()
    }
    fn has_alpha(&self) -> bool {
        self.image.alpha().is_some()
    }
    fn next_row(&mut self, row: &mut [u32]) {
        let y = self.advance();
        gather_row(self.image, self.table, y, row);
    }
    fn palette(&self) -> Option<&[u32]> {
        self.palette.as_ref().map(|p| p.colors.as_slice())
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        let y = self.advance();
        if let Some(palette) = &self.palette {
            self.image.look_up(y, &palette.of_entry, row);
        }
    }
}

/// The alpha of a picture as a picture of its own: opaque greys, white where the picture is opaque.
pub struct Matte<'a> {
    image: &'a IndexedImage,
    greys: [u32; 256],
    next: usize,
}

impl<'a> Matte<'a> {
    /// The matte of `image`.
    pub fn new(image: &'a IndexedImage) -> Self {
        let greys = std::array::from_fn(|v| pack_rgba(v as u8, v as u8, v as u8, 255));
        Self { image, greys, next: 0 }
    }

    /// Alpha of the next row; none where every pixel is opaque.
    fn alpha(&mut self, width: usize) -> Option<&'a [u8]> {
        let start = self.next * width;
        self.next += 1;
        self.image.alpha().map(|alpha| &alpha[start..start + width])
    }
}

impl Rows for Matte<'_> {
    fn width(&self) -> u32 {
        self.image.width()
    }
    fn height(&self) -> u32 {
        self.image.height()
    }
    fn has_alpha(&self) -> bool {
        false
    }
    fn next_row(&mut self, row: &mut [u32]) {
        match self.alpha(row.len()) {
            Some(alpha) => row.iter_mut().zip(alpha).for_each(|(p, &a)| *p = self.greys[usize::from(a)]),
            None => row.fill(self.greys[255]),
        }
    }
    fn palette(&self) -> Option<&[u32]> {
        Some(&self.greys)
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        match self.alpha(row.len()) {
            Some(alpha) => row.copy_from_slice(alpha),
            None => row.fill(255),
        }
    }
}

/// Rows on their way to an encoder that also feed reduced copies: several sizes from one pass.
pub struct Teed<'a> {
    source: &'a mut dyn Rows,
    reducers: &'a mut [AreaReducer],
    row: Vec<u32>,
}

impl<'a> Teed<'a> {
    /// Passes `source` on and pushes every row into `reducers`.
    pub fn new(source: &'a mut dyn Rows, reducers: &'a mut [AreaReducer]) -> Self {
        Self { source, reducers, row: Vec::new() }
    }

    /// Reads all rows when nobody else does.
    pub fn drain(mut self) {
        let mut row = vec![0; self.source.width() as usize];
        for _ in 0..self.source.height() {
            self.next_row(&mut row);
        }
    }
}

impl Rows for Teed<'_> {
    fn width(&self) -> u32 {
        self.source.width()
    }
    fn height(&self) -> u32 {
        self.source.height()
    }
    fn has_alpha(&self) -> bool {
        self.source.has_alpha()
    }
    fn next_row(&mut self, row: &mut [u32]) {
        self.source.next_row(row);
        for reducer in self.reducers.iter_mut() {
            reducer.push_row(row);
        }
    }
    fn palette(&self) -> Option<&[u32]> {
        self.source.palette()
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        self.source.next_indices(row);
        if self.reducers.is_empty() {
            return;
        }
        if let Some(palette) = self.source.palette() {
            self.row.clear();
            self.row.extend(row.iter().map(|&i| palette[usize::from(i)]));
        }
        for reducer in self.reducers.iter_mut() {
            reducer.push_row(&self.row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::BaseImage;

    fn picture(colors: u32, alpha: Option<Vec<u8>>) -> IndexedImage {
        let rgb = (0..40 * 30u32).flat_map(|i| [(i % colors) as u8, ((i % colors) >> 8) as u8, 7]).collect();
        IndexedImage::new(BaseImage::new(40, 30, rgb, alpha).unwrap(), 0)
    }

    fn identity(image: &IndexedImage) -> Vec<u32> {
        image.colors().iter().copied().chain([0]).collect()
    }

    #[test]
    fn indices_and_rows_show_the_same_picture() {
        for colors in [1, 2, 255, 256] {
            let image = picture(colors, None);
            let table = identity(&image);
            let (mut rows, mut indices) = (Recolored::new(&image, &table), Recolored::new(&image, &table));
            let palette = indices.palette().unwrap().to_vec();
            assert_eq!(palette.len(), colors as usize);
            let (mut row, mut index) = (vec![0; 40], vec![0; 40]);
            for _ in 0..30 {
                rows.next_row(&mut row);
                indices.next_indices(&mut index);
                assert!(row.iter().zip(&index).all(|(p, &i)| palette[usize::from(i)] == *p));
            }
        }
    }

    #[test]
    fn more_than_256_colors_or_soft_alpha_have_no_palette() {
        let image = picture(257, None);
        assert!(Recolored::new(&image, &identity(&image)).palette().is_none());
        let soft = picture(3, Some((0..1200).map(|i| (i % 256) as u8).collect()));
        assert!(Recolored::new(&soft, &identity(&soft)).palette().is_none());
        let hard = picture(3, Some((0..1200).map(|i| (i % 2) as u8 * 255).collect()));
        assert_eq!(Recolored::new(&hard, &identity(&hard)).palette().map(<[u32]>::len), Some(4));
    }
}
