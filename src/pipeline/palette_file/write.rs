//! Writers for the palette of a picture: colours with the share of the picture that each covers.
//!
//! What is written here, [`super::parse`] reads back.

use std::fmt::Write as _;

use serde::Serialize;

use super::tidy;
use crate::kernel::color::Rgb8;

/// A line per colour: `#264653 ; 41.20 %`. Shares are 0..=1.
pub fn to_hex(colors: &[(Rgb8, f64)]) -> String {
    let mut text = String::new();
    for (color, share) in colors {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{color} ; {:.2} %", share * 100.0);
    }
    text
}

/// A palette file with the shares, 0..=1, beside the palettes, where readers of palettes pass over them.
pub fn to_json(name: &str, colors: &[(Rgb8, f64)]) -> String {
    #[derive(Serialize)]
    struct File {
        palettes: [Entry; 1],
        shares: Vec<Share>,
    }
    #[derive(Serialize)]
    struct Entry {
        name: String,
        colors: Vec<String>,
    }
    #[derive(Serialize)]
    struct Share {
        color: String,
        share: f64,
    }
    let shares =
        colors.iter().map(|(color, share)| Share { color: color.to_string(), share: (share * 1e6).round() / 1e6 });
    let file = File {
        palettes: [Entry { name: tidy(name), colors: colors.iter().map(|(color, _)| color.to_string()).collect() }],
        shares: shares.collect(),
    };
    // Plain structs of text and numbers always serialise.
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

/// A GIMP palette; each colour is named by its hex form and its share.
pub fn to_gpl(name: &str, colors: &[(Rgb8, f64)]) -> String {
    let mut text = format!("GIMP Palette\nName: {}\nColumns: {}\n#\n", tidy(name), colors.len().min(16));
    for (color, share) in colors {
        let Rgb8 { r, g, b } = *color;
        let _ = writeln!(text, "{r:3} {g:3} {b:3}\t{color} {:.2} %", share * 100.0);
    }
    text
}
