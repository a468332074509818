//! The contact sheet: the original and all variations in one picture, each with its name and its swatches.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::kernel::color::Rgb8;
use crate::kernel::image::{Raster, Rows as _};
use crate::kernel::resize;

mod lettering;

use lettering::Lettering;

/// One variation on the sheet.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The palette's or effect's name.
    pub title: &'a str,
    /// The palette's colours, in order; empty for effects.
    pub colors: &'a [Rgb8],
    /// The picture; `None` when it could not be made.
    pub raster: Option<&'a Raster>,
}

/// The longest side of a sheet, pixels.
pub const MAX_SIDE: u32 = 4096;
/// The most pixels of a sheet.
pub const MAX_PIXELS: u64 = 8_000_000;
/// Sheets stay below this as long as their pictures stay recognisable: they are made in every run, and encoding one
/// costs as much as a variation of its size.
const COMFORTABLE_PIXELS: u64 = 2_500_000;

/// Longest sides of a picture on the sheet, pixels; the largest that fits is taken.
const SIDES: [u32; 9] = [400, 360, 320, 280, 240, 208, 176, 144, 120];
/// Sides from here down may go beyond [`COMFORTABLE_PIXELS`].
const SMALL_SIDE: u32 = 176;
/// Width to height the sheet strives for.
const SHAPE: f64 = 1.45;

const PAPER: Rgb8 = Rgb8::new(0xF4, 0xF4, 0xF4);
const MOUNT: Rgb8 = Rgb8::new(0xE3, 0xE3, 0xE3);
const INK: Rgb8 = Rgb8::new(0x1C, 0x1C, 0x1C);
const QUIET: Rgb8 = Rgb8::new(0x5E, 0x5E, 0x5E);
const ALARM: Rgb8 = Rgb8::new(0xA8, 0x20, 0x1A);
const CHECKER: [Rgb8; 2] = [Rgb8::new(0xFF, 0xFF, 0xFF), Rgb8::new(0xDC, 0xDC, 0xDC)];

/// How a sheet is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Width of the sheet, pixels, at most [`MAX_SIDE`].
    pub width: u32,
    /// Height of the sheet, pixels, at most [`MAX_SIDE`].
    pub height: u32,
    /// Width of the box a picture is fitted into, pixels. A larger raster is reduced, so none larger is needed.
    pub picture_width: u32,
    /// Height of that box, pixels.
    pub picture_height: u32,
    /// How many of the tiles are on the sheet, from the first.
    pub shown: usize,
    columns: u32,
    metrics: Metrics,
}

/// Distances on the sheet, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Metrics {
    margin: u32,
    gap: u32,
    capital: u32,
    title: u32,
    swatch: u32,
}

impl Metrics {
    /// Everything around a picture shrinks with it, but text stays legible.
    fn of(side: u32) -> Self {
        let capital = (side / 36).clamp(7, 11);
        Self {
            margin: (side / 14).max(10),
            gap: (side / 16).max(10),
            capital,
            title: capital * 14 / 5,
            swatch: (side / 15).clamp(10, 26),
        }
    }

    fn below_picture(self) -> u32 {
        self.title + self.swatch
    }

    fn note(self) -> u32 {
        self.capital * 3
    }
}

impl Plan {
    /// Lays out the original, `width` by `height` pixels, and this many tiles.
    pub fn new(width: u32, height: u32, tiles: usize) -> Self {
        SIDES
            .iter()
            .find_map(|&side| Self::whole(side, width, height, tiles))
            .unwrap_or_else(|| Self::cut(width, height, tiles))
    }

    /// The best number of columns for pictures of this size, if everything fits.
    fn whole(side: u32, width: u32, height: u32, tiles: usize) -> Option<Self> {
        let cells = u32::try_from(tiles).ok()?.checked_add(1)?;
        let limit = if side > SMALL_SIDE { COMFORTABLE_PIXELS } else { MAX_PIXELS };
        let (w, h, metrics) = Self::cell(side, width, height);
        let most = (MAX_SIDE / w).min(cells);
        (1..=most)
            .map(|columns| Self::sized(w, h, metrics, columns, cells.div_ceil(columns), tiles))
            .filter(|p| p.width <= MAX_SIDE && p.height <= MAX_SIDE && p.pixels() <= limit)
            .min_by(|a, b| a.awkwardness(cells).total_cmp(&b.awkwardness(cells)))
    }

    /// As many rows of the smallest pictures as the sheet can hold, and a line that says how many are left out.
    fn cut(width: u32, height: u32, tiles: usize) -> Self {
        let (w, h, metrics) = Self::cell(SIDES[SIDES.len() - 1], width, height);
        let pitch = (w + metrics.gap, h + metrics.below_picture() + metrics.gap);
        let around = 2 * metrics.margin;
        let wide = ((MAX_PIXELS as f64 * SHAPE).sqrt() as u32).min(MAX_SIDE);
        let columns = ((wide - around + metrics.gap) / pitch.0).max(1);
        let sheet_width = u64::from(columns * pitch.0 - metrics.gap + around);
        let tall = u32::try_from(MAX_PIXELS / sheet_width).unwrap_or(MAX_SIDE).min(MAX_SIDE);
        let rows = ((tall - around - metrics.note() + metrics.gap) / pitch.1).max(1);
        let shown = ((columns * rows) as usize - 1).min(tiles);
        let mut plan = Self::sized(w, h, metrics, columns, rows, shown);
        plan.height += metrics.note();
        plan
    }

    /// The picture box for pictures whose longer side is `side`: the original's shape, within bounds that leave
    /// room for a name below a tower and for texture in a panorama.
    fn cell(side: u32, width: u32, height: u32) -> (u32, u32, Metrics) {
        let ratio = (f64::from(width.max(1)) / f64::from(height.max(1))).clamp(0.66, 3.0);
        let (w, h) = if ratio >= 1.0 { (1.0, 1.0 / ratio) } else { (ratio, 1.0) };
        let scaled = |part: f64| ((part * f64::from(side)).round() as u32).max(1);
        (scaled(w), scaled(h), Metrics::of(side))
    }

    fn sized(w: u32, h: u32, metrics: Metrics, columns: u32, rows: u32, shown: usize) -> Self {
        let side = |count: u32, size: u32| {
            u64::from(count) * u64::from(size + metrics.gap) - u64::from(metrics.gap) + 2 * u64::from(metrics.margin)
        };
        let bounded = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
        Self {
            width: bounded(side(columns, w)),
            height: bounded(side(rows, h + metrics.below_picture())),
            picture_width: w,
            picture_height: h,
            shown,
            columns,
            metrics,
        }
    }

    /// The size at which a picture of these sides fits the picture box, keeping its proportions; none where it fits as
    /// it is.
    pub fn reduced(&self, width: u32, height: u32) -> Option<(u32, u32)> {
        let ratio = |limit: u32, side: u32| f64::from(limit) / f64::from(side);
        let scale = ratio(self.picture_width, width).min(ratio(self.picture_height, height));
        let scaled = |side: u32, limit: u32| ((f64::from(side) * scale).round() as u32).clamp(1, limit);
        (scale < 1.0).then(|| (scaled(width, self.picture_width), scaled(height, self.picture_height)))
    }

    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Distance from the shape striven for, plus the share of cells left empty.
    fn awkwardness(&self, cells: u32) -> f64 {
        let shape = f64::from(self.width) / f64::from(self.height);
        let empty = cells.div_ceil(self.columns) * self.columns - cells;
        (shape / SHAPE).ln().abs() + 1.5 * f64::from(empty) / f64::from(cells)
    }
}

/// Draws the sheet: the original first, then the tiles row by row.
///
/// The sheet is opaque, at most [`MAX_SIDE`] pixels a side and [`MAX_PIXELS`] in all. With many tiles the pictures
/// shrink; when they are as small as they may be, rows are left out and a line says how many.
pub fn contact_sheet(original: &Raster, tiles: &[Tile<'_>]) -> Raster {
    let plan = Plan::new(original.width(), original.height(), tiles.len());
    let Metrics { margin, gap, capital, title, swatch } = plan.metrics;
    let first = Tile { title: "Original", colors: &[], raster: Some(original) };
    let cells: Vec<Tile<'_>> = std::iter::once(first).chain(tiles.iter().take(plan.shown).copied()).collect();
    let pictures: Vec<Option<Fitted<'_>>> =
        cells.par_iter().map(|cell| cell.raster.map(|r| Fitted::new(r, &plan))).collect();

    let mut canvas = Canvas::new(plan.width, plan.height);
    let mut names = Lettering::new(capital as f32);
    let mut codes = Lettering::new((swatch as f32 * 0.34).max(6.0));
    for (i, (cell, picture)) in cells.iter().zip(&pictures).enumerate() {
        let (column, row) = (i as u32 % plan.columns, i as u32 / plan.columns);
        let x = margin + column * (plan.picture_width + gap);
        let y = margin + row * (plan.picture_height + title + swatch + gap);
        let frame = Rect { x, y, width: plan.picture_width, height: plan.picture_height };
        match picture {
            Some(picture) => canvas.picture(frame, picture),
            None => {
                canvas.fill(frame, MOUNT);
                let text = names.fitted("Not made", frame.width as f32);
                let middle = x as f32 + (frame.width as f32 - names.width(&text)) / 2.0;
                canvas.text(&mut names, &text, middle, y + (frame.height + capital) / 2, ALARM);
            }
        }
        let bearing = names.bearing_px();
        let name = names.fitted(cell.title, frame.width as f32);
        let ink = if cell.raster.is_some() { INK } else { ALARM };
        let baseline = y + frame.height + (title + capital) / 2;
        canvas.text(&mut names, &name, x as f32 - bearing, baseline, ink);
        let strip = Rect { x, y: y + frame.height + title, width: frame.width, height: swatch };
        canvas.swatches(strip, cell.colors, &mut codes);
    }
    let left_out = tiles.len() - plan.shown;
    if left_out > 0 {
        let text = format!("+{left_out} more");
        canvas.text(&mut names, &text, margin as f32, plan.height - margin, QUIET);
    }
    canvas.into_raster()
}

#[derive(Clone, Copy)]
struct Rect {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

/// A picture at the size it has on the sheet.
struct Fitted<'a> {
    width: u32,
    height: u32,
    pixels: Cow<'a, [u32]>,
    has_alpha: bool,
}

impl<'a> Fitted<'a> {
    /// Reduces to fit the box; a picture less than half as large is enlarged by a whole factor, so that its pixels stay
    /// pixels.
    fn new(raster: &'a Raster, plan: &Plan) -> Self {
        let (width, height, has_alpha) = (raster.width(), raster.height(), raster.has_alpha());
        if let Some((width, height)) = plan.reduced(width, height) {
            let pixels = Cow::Owned(resize::reduce_raster(raster, width, height).into_pixels());
            return Self { width, height, pixels, has_alpha };
        }
        let factor = (plan.picture_width / width).min(plan.picture_height / height);
        let pixels = if factor == 1 { Cow::Borrowed(raster.pixels()) } else { Cow::Owned(enlarge(raster, factor)) };
        Self { width: width * factor, height: height * factor, pixels, has_alpha }
    }
}

fn enlarge(raster: &Raster, factor: u32) -> Vec<u32> {
    let (w, factor) = (raster.width() as usize, factor as usize);
    let mut out = Vec::with_capacity(raster.pixels().len() * factor * factor);
    for row in raster.pixels().chunks_exact(w) {
        let wide: Vec<u32> = row.iter().flat_map(|&p| std::iter::repeat_n(p, factor)).collect();
        for _ in 0..factor {
            out.extend_from_slice(&wide);
        }
    }
    out
}

/// The sheet while it is drawn: opaque packed pixels.
struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        Self { width, height, pixels: vec![PAPER.packed(); width as usize * height as usize] }
    }

    fn row(&mut self, x: u32, y: u32, width: u32) -> &mut [u32] {
        let start = y as usize * self.width as usize + x as usize;
        &mut self.pixels[start..start + width as usize]
    }

    fn fill(&mut self, area: Rect, color: Rgb8) {
        for y in area.y..area.y + area.height {
            self.row(area.x, y, area.width).fill(color.packed());
        }
    }

    /// A picture in the middle of its mount, over a checkerboard where it is transparent.
    fn picture(&mut self, mount: Rect, picture: &Fitted<'_>) {
        let x = mount.x + (mount.width - picture.width) / 2;
        let y = mount.y + (mount.height - picture.height) / 2;
        if picture.width < mount.width || picture.height < mount.height {
            self.fill(mount, MOUNT);
        }
        for (dy, row) in picture.pixels.chunks_exact(picture.width as usize).enumerate() {
            let line = self.row(x, y + dy as u32, picture.width);
            if !picture.has_alpha {
                line.copy_from_slice(row);
                continue;
            }
            for (dx, (to, &pixel)) in line.iter_mut().zip(row).enumerate() {
                let alpha = (pixel >> 24) as u8;
                let below = CHECKER[(dx / 8 + dy / 8) % 2];
                *to = if alpha == 255 { pixel } else { blend(below, Rgb8::from_packed(pixel), alpha) };
            }
        }
    }

    /// Equal fields side by side, with their hex codes where these fit.
    fn swatches(&mut self, strip: Rect, colors: &[Rgb8], codes: &mut Lettering) {
        let count = colors.len().min(strip.width as usize) as u32;
        for (i, &color) in (0..count).zip(colors) {
            let edge = |i: u32| (u64::from(strip.width) * u64::from(i) / u64::from(count)) as u32;
            let field = Rect { x: strip.x + edge(i), width: edge(i + 1) - edge(i), ..strip };
            self.fill(field, color);
            self.outline(field, color);
            let text = color.to_string();
            let width = codes.width(&text);
            if width <= field.width as f32 - 4.0 {
                let ink = if color.lab().l > 55.0 { Rgb8::new(0, 0, 0) } else { Rgb8::new(255, 255, 255) };
                let baseline = field.y + (field.height + codes.capital_px().round() as u32) / 2;
                self.text(codes, &text, field.x as f32 + (field.width as f32 - width) / 2.0, baseline, ink);
            }
        }
    }

    /// A hairline along the upper and lower edge, so that a field as light as the paper does not dissolve.
    fn outline(&mut self, field: Rect, color: Rgb8) {
        for y in [field.y, field.y + field.height - 1] {
            self.row(field.x, y, field.width).fill(blend(color, Rgb8::new(0x80, 0x80, 0x80), 90));
        }
    }

    fn text(&mut self, lettering: &mut Lettering, text: &str, x: f32, baseline: u32, color: Rgb8) {
        let (width, height) = (self.width as i32, self.height as i32);
        let pixels = &mut self.pixels;
        lettering.draw(text, x, baseline as i32, |x, y, coverage| {
            if (0..width).contains(&x) && (0..height).contains(&y) {
                let at = &mut pixels[y as usize * width as usize + x as usize];
                *at = blend(Rgb8::from_packed(*at), color, coverage);
            }
        });
    }

    fn into_raster(self) -> Raster {
        // The pixels are counted by `new`; a raster of another length cannot arise.
        Raster::new(self.width, self.height, self.pixels).unwrap_or_else(|error| unreachable!("{error}"))
    }
}

/// `over` at this opacity on an opaque colour.
fn blend(below: Rgb8, over: Rgb8, opacity: u8) -> u32 {
    let mix = |b: u8, o: u8| {
        let sum = u32::from(b) * u32::from(255 - opacity) + u32::from(o) * u32::from(opacity);
        ((sum + 127) / 255) as u8
    };
    Rgb8::new(mix(below.r, over.r), mix(below.g, over.g), mix(below.b, over.b)).packed()
}
