//! The pictures and palettes that jobs are made of.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::ImageFormat;
use image::imageops::FilterType;
use serde::{Deserialize, Serialize};

use crate::generator;

/// Width and height of small pictures.
pub const SMALL: (u32, u32) = (256, 192);

/// Quality of photographs, as in the benches.
const QUALITY: u8 = 92;

/// A palette as a job has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Palette {
    pub name: String,
    pub colors: Vec<String>,
}

/// A file of `fixtures/images`.
pub fn fixture(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images").join(name);
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A handful of small pictures, with their names.
pub fn small() -> Result<Vec<(String, Vec<u8>)>> {
    let names = ["photo.jpg", "portrait.jpg", "product.jpg", "flat_art.png", "gradient_art.png"];
    names.into_iter().map(|name| Ok((format!("small-{name}"), shrunk(name)?))).collect()
}

fn shrunk(name: &str) -> Result<Vec<u8>> {
    let format = ImageFormat::from_path(name)?;
    let picture = image::load_from_memory_with_format(&fixture(name)?, format)
        .with_context(|| format!("{name} cannot be read"))?
        .resize_exact(SMALL.0, SMALL.1, FilterType::Triangle);
    let mut bytes = Cursor::new(Vec::new());
    picture.to_rgb8().write_to(&mut bytes, format).with_context(|| format!("{name} cannot be written"))?;
    Ok(bytes.into_inner())
}

/// The generated photograph with sides of this length, as a JPEG.
pub fn photograph(side: u32) -> Vec<u8> {
    generator::jpeg(&generator::photo(side, side), QUALITY)
}

/// Fourteen palettes: seven brands, and the same with their channels rotated.
pub fn brands() -> Result<Vec<Palette>> {
    let brands: Vec<Palette> = serde_json::from_slice(include_bytes!("../../fixtures/palettes/brand.json"))
        .context("the committed palettes cannot be read")?;
    let turned = brands.iter().map(|brand| Palette {
        name: format!("{} turned", brand.name),
        // #RRGGBB becomes #GGBBRR.
        colors: brand.colors.iter().map(|color| format!("#{}{}", &color[3..], &color[1..3])).collect(),
    });
    Ok(brands.iter().cloned().chain(turned).collect())
}

/// `count` palettes that no other number has, as long as numbers are below 2²² and counts at most four: each has a
/// first colour of its own.
pub fn unique(brands: &[Palette], number: u64, count: usize) -> Vec<Palette> {
    let palette = |at: usize| {
        let serial = 4 * number + at as u64;
        let brand = &brands[serial as usize % brands.len()];
        // An odd factor gives every number below 2²⁴ another one.
        let own = format!("#{:06X}", serial.wrapping_mul(0x9E_37_79_B1) & 0xFF_FFFF);
        let others = brand.colors.iter().skip(1).filter(|color| **color != own).cloned();
        Palette { name: format!("P{at}"), colors: std::iter::once(own.clone()).chain(others).collect() }
    };
    (0..count).map(palette).collect()
}
