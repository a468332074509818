//! Contact sheets: a row for every scene of a stratum.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

use crate::generator::scenes::Scene;
use crate::judge::Judged;

/// Pixels between cells; the bar at a row's left is as wide.
const GAP: u32 = 6;

/// Draws `picture | matte | over white | over black | over magenta`. The bar at the left is green for a cut in use,
/// amber for one passed through, red for a bad cut in use.
pub fn write(folder: &Path, method: &str, stratum: &str, scenes: &[Scene], judged: &[Judged]) -> Result<()> {
    let rows: Vec<(&Scene, &Judged)> = scenes.iter().zip(judged).filter(|(s, _)| s.stratum == stratum).collect();
    let cell = rows.iter().map(|(s, _)| s.width).max().unwrap_or(1) + GAP;
    let height: u32 = rows.iter().map(|(s, _)| s.height + GAP).sum();
    let mut sheet = RgbImage::from_pixel(GAP + 5 * cell, height.max(1), Rgb([64, 64, 64]));
    let mut top = 0;
    for (scene, verdict) in rows {
        let bar = match (verdict.used, verdict.bad) {
            (true, false) => Rgb([60, 190, 90]),
            (true, true) => Rgb([230, 60, 50]),
            (false, _) => Rgb([235, 175, 50]),
        };
        for y in 0..scene.height {
            for x in 0..GAP {
                sheet.put_pixel(x, top + y, bar);
            }
            for x in 0..scene.width {
                let i = (y * scene.width + x) as usize;
                let alpha = verdict.cut.alpha[i];
                let color = [0, 1, 2].map(|c| verdict.cut.rgb[3 * i + c]);
                let over = |ground: [u8; 3]| {
                    let a = u32::from(alpha);
                    [0, 1, 2].map(|c| ((a * u32::from(color[c]) + (255 - a) * u32::from(ground[c]) + 127) / 255) as u8)
                };
                let picture = [0, 1, 2].map(|c| scene.rgb[3 * i + c]);
                let cells = [picture, [alpha; 3], over([255; 3]), over([0; 3]), over([230, 0, 200])];
                for (n, pixel) in (0..).zip(cells) {
                    sheet.put_pixel(GAP + n * cell + x, top + y, Rgb(pixel));
                }
            }
        }
        top += scene.height + GAP;
    }
    let name = format!("{method} - {stratum}.png").replace(',', "").replace(' ', "_");
    let path = folder.join(name);
    sheet.save(&path).with_context(|| path.display().to_string())
}
