//! gallery.html and contact-sheet.png: a run at a glance, written when all variations are there.

use std::time::Instant;

use super::contact_sheet::{self, Tile};
use super::encode::{self, EncodeOptions};
use super::gallery::{self, Card, Preview};
use super::job::Format;
use super::manifest::Manifest;
use super::output::OutputFolder;
use super::palette_file;
use super::timing::Timings;
use super::variation::Pictures;
use crate::kernel::color::Rgb8;
use crate::kernel::image::Raster;
use crate::kernel::palette::{Palette, Role};

/// What the gallery and the contact sheet are made of once all variations are there.
pub struct Pages {
    /// The picture's own colours with their shares.
    pub own_colors: Vec<(Rgb8, f64)>,
    /// The picture itself; without, nothing is written.
    pub original: Option<(Preview, Raster)>,
    /// One for each variation.
    pub cards: Vec<PageCard>,
}

/// A variation on them.
pub struct PageCard {
    /// What a person calls it.
    pub name: String,
    /// Its palette, where it has one.
    pub palette: Option<Palette>,
    /// Its small pictures, where it was made.
    pub pictures: Option<Pictures>,
    /// Places of its entries in the manifest.
    pub entries: std::ops::Range<usize>,
}

impl Pages {
    /// Writes gallery.html and contact-sheet.png.
    pub fn write(self, folder: &OutputFolder, manifest: &mut Manifest, timings: &Timings) -> std::io::Result<()> {
        let Some((original, original_tile)) = &self.original else { return Ok(()) };
        let start = Instant::now();
        let tiles: Vec<Tile<'_>> = self
            .cards
            .iter()
            .map(|card| Tile {
                title: &card.name,
                colors: card.palette.as_ref().map_or(&[], |p| p.colors()),
                raster: card.pictures.as_ref().and_then(|p| p.tile.as_ref()),
            })
            .collect();
        let mut sheet = contact_sheet::contact_sheet(original_tile, &tiles);
        let mut file = folder.create("contact-sheet.png")?;
        encode::encode(&mut sheet, &EncodeOptions::new(Format::Png), &mut file).map_err(std::io::Error::other)?;
        file.commit()?;
        let cards: Vec<Card<'_>> = self
            .cards
            .iter()
            .map(|card| Card {
                title: &card.name,
                description: card.palette.as_ref().and_then(|p| p.description()),
                colors: card.palette.as_ref().map_or(&[], |p| p.colors()),
                labels: card
                    .palette
                    .as_ref()
                    .map(|p| palette_file::labels(p).into_iter().map(|role| role.map(Role::name)).collect())
                    .unwrap_or_default(),
                preview: card.pictures.as_ref().map(|p| &p.preview),
                entries: &manifest.variations[card.entries.clone()],
            })
            .collect();
        let page = gallery::html(manifest, original, &self.own_colors, &cards);
        folder.write("gallery.html", page.as_bytes())?;
        timings.add("gallery", start);
        Ok(())
    }
}
