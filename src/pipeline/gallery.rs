//! The gallery: one self-contained HTML page that shows every variation beside the original.
//!
//! The page works from disk, without a network: previews are data URIs, the style and the script are inline, and a
//! content security policy allows nothing else to load and no script but the page's own. Names and descriptions are
//! hostile input: all text is escaped, links are percent-encoded and cannot leave the page's folder, and a colour reaches
//! a style only as a parsed [`Rgb8`].

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, State, VariationEntry};
use crate::kernel::color::Rgb8;

mod card;
mod markup;
mod words;

use markup::{Data, Frame, Text, format_name, put, swatch, unit};

const TEMPLATE: &str = include_str!("gallery.html");
const STYLE: &str = include_str!("gallery.css");
const SCRIPT: &str = include_str!("gallery.js");

/// The script's hash, which is what the page's policy admits.
static SCRIPT_HASH: LazyLock<String> =
    LazyLock::new(|| format!("sha256-{}", STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()))));

/// From this many variations on the page offers a search by name.
const FILTER_FROM: usize = 10;

/// An encoded picture to be embedded in the page, at most about 640 pixels a side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The file's bytes.
    pub jpeg_or_png: Vec<u8>,
    /// Its media type, `image/jpeg` or `image/png`.
    pub content_type: &'static str,
}

/// One variation on the page: a palette or an effect with all files made of it.
#[derive(Debug, Clone)]
pub struct Card<'a> {
    /// The palette's or effect's name.
    pub title: &'a str,
    /// What it is for.
    pub description: Option<&'a str>,
    /// The palette's colours, in order; empty for effects.
    pub colors: &'a [Rgb8],
    /// Role label of the colour at the same place; missing ones are unlabelled.
    pub labels: Vec<Option<&'static str>>,
    /// The picture; `None` when it could not be made.
    pub preview: Option<&'a Preview>,
    /// One entry per output file; an entry with an error was not made.
    pub entries: &'a [VariationEntry],
}

/// Writes the page.
///
/// `image_colors` are the picture's own colours with their shares of the visible area (0 to 1). The page's size is
/// that of the previews in base64 (4/3 of their bytes), the original's once, plus about 5 kB a card.
pub fn html(manifest: &Manifest, original: &Preview, image_colors: &[(Rgb8, f64)], cards: &[Card<'_>]) -> String {
    let embedded: usize = cards.iter().filter_map(|c| c.preview).map(|p| p.jpeg_or_png.len()).sum();
    let embedded = (embedded + original.jpeg_or_png.len()).div_ceil(3) * 4;
    let mut out =
        String::with_capacity(embedded + cards.len() * 8192 + TEMPLATE.len() + STYLE.len() + SCRIPT.len() + 16_384);
    let name = source_name(&manifest.source.uri);
    // Only the template is searched for placeholders, never what was put in, so a name cannot smuggle one in.
    for (i, piece) in TEMPLATE.split("{{").enumerate() {
        let Some((slot, literal)) = piece.split_once("}}").filter(|_| i > 0) else {
            out.push_str(piece);
            continue;
        };
        match slot {
            "script-hash" => out.push_str(&SCRIPT_HASH),
            "title" => put!(out, "{}: {}", Text(name), words::count(cards.len(), "variation", "variations")),
            "css" => out.push_str(STYLE),
            // One pixel more than the box, or the checkerboard shines through where the box ends between two pixels.
            "original-rule" => put!(
                out,
                ":root {{ --frame: {:.4}; }}\n.original {{ background: url(\"{}\") 0 0 / calc(100% + 1px) calc(100% + 1px) no-repeat, {CHECKER}; }}",
                Frame::of(original).bounded_ratio(),
                Data(original)
            ),
            "js" => out.push_str(SCRIPT),
            "source" => source(&mut out, manifest, name, original, image_colors, cards.len()),
            "variations-title" => out.push_str(&words::count(cards.len(), "variation", "variations")),
            "filter" if cards.len() >= FILTER_FROM => out.push_str(
                "<label class=\"filter\"><span class=\"hidden\">Filter by name</span>\
                 <input type=\"search\" placeholder=\"Filter by name\" autocomplete=\"off\"></label>\n",
            ),
            "cards" => {
                let before = Frame::of(original);
                // Many cards are for finding the good ones first; their figures wait behind one click.
                let open = cards.len() < FILTER_FROM;
                cards.iter().for_each(|c| card::card(&mut out, c, name, before, open));
            }
            "glossary" => glossary(&mut out, cards),
            _ => {}
        }
        out.push_str(literal);
    }
    out
}

const CHECKER: &str = "repeating-conic-gradient(var(--check-b) 0 25%, var(--check-a) 0 50%) 0 0 / 16px 16px";

/// The last part of the source's address, which is what a person calls the picture.
fn source_name(uri: &str) -> &str {
    uri.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("picture")
}

fn source(
    out: &mut String,
    manifest: &Manifest,
    name: &str,
    original: &Preview,
    image_colors: &[(Rgb8, f64)],
    cards: usize,
) {
    let frame = Frame::of(original);
    put!(
        out,
        "<div class=\"stage\"><div class=\"pic original\" role=\"img\" aria-label=\"Original picture {}\" \
         style=\"--ratio:{}/{};--ratio-number:{:.4}\"></div></div>\n<div class=\"facts\">\n",
        Text(name),
        original.width.max(1),
        original.height.max(1),
        frame.ratio()
    );
    let failed = manifest.variations.iter().filter(|v| v.error.is_some()).count();
    let files = words::count(manifest.variations.len(), "file", "files");
    let (class, state) = match manifest.state {
        State::Complete => ("complete", format!("Complete, {files}")),
        State::Partial => ("partial", format!("Partial: {failed} of {files} failed")),
        State::Failed => ("failed", "Failed".to_owned()),
    };
    put!(out, "<div class=\"lead\"><p class=\"badge {class}\">{state}</p>");
    put!(out, "<h1 id=\"source-title\"><bdi>{}</bdi></h1><p class=\"line num\">", Text(name));
    let facts = &manifest.source;
    if facts.width > 0 {
        put!(out, "{} × {} pixels, ", facts.width, facts.height);
    }
    if !facts.format.is_empty() {
        put!(out, "{}, ", Text(&format_name(&facts.format)));
    }
    out.push_str(&words::count(cards, "variation", "variations"));
    if let Some(&total) = manifest.timings_ms.get("total") {
        put!(out, " in {}", words::duration(total));
    }
    out.push_str("</p></div>\n");
    if let Some(error) = &manifest.error {
        put!(
            out,
            "<div class=\"alert\" role=\"alert\"><strong>Nothing could be made</strong>{} <span class=\"mono\">({})</span></div>\n",
            Text(&error.message),
            Text(&error.class)
        );
    }
    if !image_colors.is_empty() {
        out.push_str("<div><p class=\"label\">Colours of the original</p><div class=\"shares\" aria-hidden=\"true\">");
        for (color, share) in image_colors {
            put!(out, "<i style=\"flex-grow:{:.4};--c:{color}\"></i>", unit(*share));
        }
        out.push_str("</div></div>\n<ul class=\"swatches\" aria-label=\"Colours of the original\">");
        for (color, share) in image_colors {
            swatch(out, *color, Some(&words::percent(*share)));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<div class=\"columns\"><div><p class=\"label\">Run</p><dl class=\"pairs\">");
    let mut pair = |term: &str, value: &str, class: &str| {
        if !value.is_empty() {
            put!(out, "<dt>{term}</dt><dd class=\"{class}\">{}</dd>", Text(value));
        }
    };
    pair("Source", &facts.uri, "");
    if facts.unique_colors > 0 {
        pair("Distinct colours", &words::grouped(facts.unique_colors), "num");
    }
    pair("SHA-256", facts.sha256.get(..16).unwrap_or(&facts.sha256), "mono");
    pair("Job", &manifest.job_id, "");
    pair("User", if manifest.user_id == "_" { "" } else { &manifest.user_id }, "");
    pair("Recipe", &manifest.recipe_version, "");
    if manifest.peak_bytes > 0 {
        pair("Peak memory", &words::bytes(manifest.peak_bytes), "num");
    }
    out.push_str("</dl></div>");
    timings(out, manifest);
    out.push_str("</div>\n</div>");
}

fn timings(out: &mut String, manifest: &Manifest) {
    let mut stages: Vec<(&String, f64)> = manifest.timings_ms.iter().map(|(stage, &ms)| (stage, ms)).collect();
    stages.retain(|(stage, ms)| *stage != "total" && ms.is_finite());
    stages.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some(longest) = stages.first().map(|s| s.1).filter(|&ms| ms > 0.0) else { return };
    out.push_str("<div><p class=\"label\">Time per stage, all threads</p><dl class=\"times\">");
    for (stage, ms) in stages {
        let name = words::humanise(stage.strip_suffix("_ms").unwrap_or(stage));
        put!(
            out,
            "<dt>{}</dt><dd><span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{:.1}%\"></i></span>\
             <span class=\"value num\">{}</span></dd>",
            Text(&name),
            100.0 * unit(ms / longest),
            words::duration(ms)
        );
    }
    out.push_str("</dl></div>");
}

fn glossary(out: &mut String, cards: &[Card<'_>]) {
    let shown = |key: &str| cards.iter().flat_map(|c| c.entries).any(|e| e.metrics.contains_key(key));
    if words::METRICS.iter().any(|m| shown(m.key)) {
        out.push_str("<details open><summary>What the figures mean</summary><dl>");
        for metric in words::METRICS.iter().filter(|m| shown(m.key)) {
            put!(out, "<dt>{}</dt><dd>{}</dd>", metric.name, metric.meaning);
        }
        out.push_str("</dl><p>The aims are those of mode soft at full strength.</p></details>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_of_the_template_is_filled() {
        let known = [
            "script-hash",
            "title",
            "css",
            "original-rule",
            "js",
            "source",
            "variations-title",
            "filter",
            "cards",
            "glossary",
        ];
        let slots: Vec<&str> = TEMPLATE.split("{{").skip(1).filter_map(|p| Some(p.split_once("}}")?.0)).collect();
        assert_eq!(slots, known);
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    }
}
