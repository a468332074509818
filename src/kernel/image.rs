//! Rasters: the decoded base image, and the stream of rows that encoders read.

/// A decoded picture: straight-alpha 8-bit sRGB, row-major, top row first.
///
/// Invariants: both sides are at least 1; `rgb` holds `3·width·height` bytes; `alpha`, when present, holds
/// `width·height` bytes of which at least one is below 255; the colour under alpha 0 is black, so bytes hidden in a
/// file can never change a result.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseImage {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    alpha: Option<Vec<u8>>,
}

/// Why a raster was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RasterError {
    /// A side is zero.
    #[error("a picture needs at least one pixel, got {width}×{height}")]
    Empty {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A plane's length does not match the sides.
    #[error("a {width}×{height} picture needs {expected} bytes of {plane}, got {got}")]
    Length {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// `"colour"` or `"alpha"`.
        plane: &'static str,
        /// Bytes expected.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
}

impl BaseImage {
    /// Takes ownership of an RGB plane (3 bytes a pixel) and an optional alpha plane (1 byte a pixel).
    ///
    /// An alpha plane that is opaque everywhere is dropped; colour under alpha 0 is set to black.
    ///
    /// # Errors
    /// [`RasterError`] when a side is zero or a plane's length does not match.
    pub fn new(width: u32, height: u32, mut rgb: Vec<u8>, alpha: Option<Vec<u8>>) -> Result<Self, RasterError> {
        if width == 0 || height == 0 {
            return Err(RasterError::Empty { width, height });
        }
        let pixels = width as usize * height as usize;
        let check = |plane, expected: usize, got: usize| {
            if expected == got { Ok(()) } else { Err(RasterError::Length { width, height, plane, expected, got }) }
        };
        check("colour", pixels * 3, rgb.len())?;
        if let Some(alpha) = &alpha {
            check("alpha", pixels, alpha.len())?;
        }
        let alpha = alpha.filter(|a| a.iter().any(|&v| v != 255));
        if let Some(alpha) = &alpha {
            for (pixel, &a) in rgb.chunks_exact_mut(3).zip(alpha) {
                if a == 0 {
                    pixel.fill(0);
                }
            }
        }
        Ok(Self { width, height, rgb, alpha })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The colour plane, 3 bytes a pixel.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The alpha plane, 1 byte a pixel; `None` when every pixel is opaque.
    pub fn alpha(&self) -> Option<&[u8]> {
        self.alpha.as_deref()
    }

    /// Gives the planes back: width, height, colour, alpha.
    pub fn into_planes(self) -> (u32, u32, Vec<u8>, Option<Vec<u8>>) {
        (self.width, self.height, self.rgb, self.alpha)
    }
}

impl std::fmt::Debug for BaseImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseImage")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("alpha", &self.alpha.is_some())
            .finish_non_exhaustive()
    }
}

/// Packs a straight-alpha pixel into the row format: red in the lowest byte, alpha in the highest.
#[inline(always)]
pub const fn pack_rgba(r: u8, g: u8, b: u8, a: u8) -> u32 {
    u32::from_le_bytes([r, g, b, a])
}

/// A picture that is read once, row after row, from the top.
///
/// Pixels are packed as by [`pack_rgba`]. When [`Rows::has_alpha`] is false every alpha byte is 255.
pub trait Rows {
    /// Width in pixels, at least 1.
    fn width(&self) -> u32;
    /// Height in pixels, at least 1.
    fn height(&self) -> u32;
    /// Whether some pixel may be other than opaque.
    fn has_alpha(&self) -> bool;
    /// Writes the next row into `row`, which holds `width` pixels. Called at most `height` times.
    fn next_row(&mut self, row: &mut [u32]);
    /// The palette of at most 256 packed colours that covers every pixel, when there is one.
    fn palette(&self) -> Option<&[u32]> {
        None
    }
    /// Writes the next row as indices into [`Rows::palette`]. Called instead of [`Rows::next_row`], and only when
    /// there is a palette.
    fn next_indices(&mut self, _row: &mut [u8]) {
        unreachable!("a source without a palette has no indices")
    }
}

/// A small raster held in memory, read as [`Rows`].
#[derive(Debug, Clone)]
pub struct Raster {
    width: u32,
    height: u32,
    has_alpha: bool,
    pixels: Vec<u32>,
    next: usize,
    /// Its colours when there are at most 256, ascending.
    palette: Option<Vec<u32>>,
}

impl Raster {
    /// Takes `width·height` packed pixels.
    ///
    /// # Errors
    /// [`RasterError`] when a side is zero or the length does not match.
    pub fn new(width: u32, height: u32, pixels: Vec<u32>) -> Result<Self, RasterError> {
        if width == 0 || height == 0 {
            return Err(RasterError::Empty { width, height });
        }
        let expected = width as usize * height as usize;
        if pixels.len() != expected {
            return Err(RasterError::Length {
                width,
                height,
                plane: "colour",
                expected: expected * 4,
                got: pixels.len() * 4,
            });
        }
        Ok(Self::of_length(width, height, pixels))
    }

    /// As [`Raster::new`], for lengths that are right by construction.
    pub(crate) fn of_length(width: u32, height: u32, pixels: Vec<u32>) -> Self {
        debug_assert!(width > 0 && height > 0 && pixels.len() == width as usize * height as usize);
        let has_alpha = pixels.iter().any(|p| p >> 24 != 255);
        let palette = few_colors(&pixels);
        Self { width, height, has_alpha, pixels, next: 0, palette }
    }

    /// Reads `rows` into memory.
    pub fn read(rows: &mut dyn Rows) -> Self {
        let (width, height) = (rows.width(), rows.height());
        let mut pixels = vec![0u32; width as usize * height as usize];
        for row in pixels.chunks_exact_mut(width as usize) {
            rows.next_row(row);
        }
        Self::of_length(width, height, pixels)
    }

    /// The packed pixels, row-major.
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// Gives the packed pixels back.
    pub fn into_pixels(self) -> Vec<u32> {
        self.pixels
    }

    /// Whether every pixel is either opaque or hidden.
    pub fn has_hard_alpha(&self) -> bool {
        self.pixels.iter().all(|p| matches!(p >> 24, 0 | 255))
    }

    /// The same pixels, read from the first row on, as often as is wanted.
    pub fn rows(&self) -> RasterRows<'_> {
        RasterRows { raster: self, next: 0 }
    }

    /// The same raster, read again from its first row.
    pub fn rewound(mut self) -> Self {
        self.next = 0;
        self
    }
}

impl Raster {
    fn copy_indices(&self, start: usize, row: &mut [u8]) {
        let pixels = &self.pixels[start..start + row.len()];
        if let Some(palette) = &self.palette {
            let places = Places::of(palette);
            let mut last = (pixels[0], places.0[places.find(pixels[0])].map_or(0, |(_, place)| place));
            for (slot, &p) in row.iter_mut().zip(pixels) {
                if p != last.0 {
                    last = (p, places.0[places.find(p)].map_or(0, |(_, place)| place));
                }
                *slot = last.1;
            }
        }
    }
}

impl Rows for Raster {
    fn width(&self) -> u32 {
        self.width
    }
    fn height(&self) -> u32 {
        self.height
    }
    fn has_alpha(&self) -> bool {
        self.has_alpha
    }
    fn next_row(&mut self, row: &mut [u32]) {
        row.copy_from_slice(&self.pixels[self.next..self.next + row.len()]);
        self.next += row.len();
    }
    fn palette(&self) -> Option<&[u32]> {
        self.palette.as_deref()
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        self.copy_indices(self.next, row);
        self.next += row.len();
    }
}

/// The rows of a raster that stays where it is.
#[derive(Debug, Clone)]
pub struct RasterRows<'a> {
    raster: &'a Raster,
    next: usize,
}

impl Rows for RasterRows<'_> {
    fn width(&self) -> u32 {
        self.raster.width
    }
    fn height(&self) -> u32 {
        self.raster.height
    }
    fn has_alpha(&self) -> bool {
        self.raster.has_alpha
    }
    fn next_row(&mut self, row: &mut [u32]) {
        row.copy_from_slice(&self.raster.pixels[self.next..self.next + row.len()]);
        self.next += row.len();
    }
    fn palette(&self) -> Option<&[u32]> {
        self.raster.palette.as_deref()
    }
    fn next_indices(&mut self, row: &mut [u8]) {
        self.raster.copy_indices(self.next, row);
        self.next += row.len();
    }
}

/// The distinct pixels, ascending, when there are at most 256.
fn few_colors(pixels: &[u32]) -> Option<Vec<u32>> {
    let mut places = Places::default();
    let mut colors: Vec<u32> = Vec::with_capacity(256);
    let mut last = None;
    for &p in pixels {
        if last != Some(p) {
            last = Some(p);
            let slot = places.slot(p);
            if slot.is_none() {
                if colors.len() == 256 {
                    return None;
                }
                *slot = Some((p, 0));
                colors.push(p);
            }
        }
    }
    colors.sort_unstable();
    Some(colors)
}

/// Up to 256 colours with a number each, found in a step or two: a look-up for every pixel must not be a search.
struct Places([Option<(u32, u8)>; Self::SLOTS]);

impl Default for Places {
    fn default() -> Self {
        Self([None; Self::SLOTS])
    }
}

impl Places {
    /// Four times as many as colours, so that chains stay short.
    const SLOTS: usize = 1024;

    /// The places of `colors` in their list, which holds at most 256.
    fn of(colors: &[u32]) -> Self {
        let mut places = Self::default();
        for (i, &color) in colors.iter().enumerate() {
            *places.slot(color) = Some((color, i as u8));
        }
        places
    }

    /// Where a colour is, or would be.
    fn slot(&mut self, color: u32) -> &mut Option<(u32, u8)> {
        let at = self.find(color);
        &mut self.0[at]
    }

    fn find(&self, color: u32) -> usize {
        // Fibonacci hashing (Knuth): the product's high bits depend on every bit of the colour.
        let mut at = (color.wrapping_mul(0x9E37_79B9) >> 22) as usize;
        while self.0[at].is_some_and(|(other, _)| other != color) {
            at = (at + 1) % Self::SLOTS;
        }
        at
    }
}
