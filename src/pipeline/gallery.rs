//! The gallery: one self-contained HTML page that shows every variation beside the original.
//!
//! The page works from disk, without a network: previews are data URIs, the style and the script are inline, and a
//! content security policy allows nothing else to load and no script but the page's own. Names and descriptions are
//! hostile input: every piece of text goes through [`Text`], every link through [`href`], and colours reach a style
//! only as a parsed [`Rgb8`].

use std::fmt::{self, Display, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, MappingEntry, State, VariationEntry};
use crate::kernel::color::Rgb8;

mod words;

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

/// Appends formatted text to a `String`, which cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {{ let _ = write!($out, $($text)*); }};
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
                cards.iter().for_each(|c| card(&mut out, c, name, before, open));
            }
            "glossary" => glossary(&mut out, cards),
            _ => {}
        }
        out.push_str(literal);
    }
    out
}

const CHECKER: &str = "repeating-conic-gradient(var(--check-b) 0 25%, var(--check-a) 0 50%) 0 0 / 16px 16px";

/// The knob of the slider: two chevrons that point apart, on a 32-pixel disc drawn by the style.
const HANDLE: &str = "<svg viewBox=\"0 0 32 32\"><path d=\"M13 11l-5 5 5 5M19 11l5 5-5 5\"/></svg>";

/// Text as HTML, safe in content and in quoted attributes. Control characters become U+FFFD.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, c) in self.0.char_indices() {
            let safe = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                '\t' | '\n' => continue,
                c if c.is_control() => "\u{FFFD}",
                _ => continue,
            };
            f.write_str(&self.0[written..at])?;
            f.write_str(safe)?;
            written = at + c.len_utf8();
        }
        f.write_str(&self.0[written..])
    }
}

/// A preview as a data URI.
struct Data<'a>(&'a Preview);

impl Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", Text(self.0.content_type), Base64Display::new(&self.0.jpeg_or_png, &STANDARD))
    }
}

/// A relative link to a file beside the page, percent-encoded (RFC 3986 §2.1); `None` for names that would leave
/// the page's folder. The leading `./` keeps a name such as `javascript:x` from being read as a scheme.
fn href(object: &str) -> Option<String> {
    if object.is_empty() || object.split(['/', '\\']).any(|part| part.is_empty() || part == "." || part == "..") {
        return None;
    }
    let mut link = String::with_capacity(object.len() + 2);
    link.push_str("./");
    for byte in object.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => link.push(char::from(byte)),
            _ => put!(link, "%{byte:02X}"),
        }
    }
    Some(link)
}

/// The last part of the source's address, which is what a person calls the picture.
fn source_name(uri: &str) -> &str {
    uri.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("picture")
}

/// The box a picture is shown in: its own shape within bounds, so that a panorama does not become a thread.
#[derive(Clone, Copy)]
struct Frame {
    width: f64,
    height: f64,
}

impl Frame {
    fn of(preview: &Preview) -> Self {
        Self { width: f64::from(preview.width.max(1)), height: f64::from(preview.height.max(1)) }
    }

    fn ratio(self) -> f64 {
        self.width / self.height
    }

    fn bounded_ratio(self) -> f64 {
        self.ratio().clamp(0.8, 2.4)
    }

    /// Size of a picture of this shape inside `frame`, in percent of the frame's sides.
    fn within(self, frame: Self) -> (f64, f64) {
        let relative = self.ratio() / frame.bounded_ratio();
        (100.0 * relative.min(1.0), 100.0 * (1.0 / relative).min(1.0))
    }
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

fn card(out: &mut String, card: &Card<'_>, source: &str, before: Frame, open: bool) {
    let made = card.entries.iter().find(|e| e.error.is_none());
    out.push_str("<article class=\"card\">\n");
    match (card.preview, card.entries.iter().find_map(|e| e.error.as_ref()).filter(|_| failed(card))) {
        (Some(preview), _) => compare(out, card, preview, source, before),
        (None, Some(error)) => put!(
            out,
            "<div class=\"failure\"><strong>Not made</strong><p>{}</p><p class=\"mono\">{}</p></div>\n",
            Text(&error.message),
            Text(&error.class)
        ),
        (None, None) => out.push_str("<div class=\"missing\">No preview</div>\n"),
    }
    put!(out, "<div class=\"body\"><div><h3><bdi>{}</bdi></h3>", Text(card.title));
    if let Some(description) = card.description.filter(|d| !d.trim().is_empty()) {
        put!(out, "<p class=\"about\"><bdi>{}</bdi></p>", Text(description));
    }
    out.push_str("</div>\n");
    if !card.colors.is_empty() {
        put!(out, "<ul class=\"swatches\" aria-label=\"Palette\">");
        for (i, color) in card.colors.iter().enumerate() {
            swatch(out, *color, card.labels.get(i).copied().flatten());
        }
        out.push_str("</ul>\n");
    }
    notes(out, card.entries);
    if let Some(entry) = made {
        mapping(out, &entry.mapping);
        metrics(out, entry, open);
    }
    files(out, card);
    out.push_str("</div>\n</article>\n");
}

/// Whether a card has nothing to show because no file of it was made.
fn failed(card: &Card<'_>) -> bool {
    card.preview.is_none() && card.entries.iter().all(|e| e.error.is_some())
}

fn compare(out: &mut String, card: &Card<'_>, preview: &Preview, source: &str, before: Frame) {
    let (bw, bh) = before.within(before);
    let (aw, ah) = Frame::of(preview).within(before);
    let kind = if card.entries.iter().any(|e| e.effect.is_some()) { "with effect" } else { "in palette" };
    put!(
        out,
        "<div class=\"compare\">\
         <figure class=\"side before\"><div class=\"pic original\" role=\"img\" aria-label=\"Original picture\" \
         style=\"--w:{bw:.2}%;--h:{bh:.2}%\"></div><figcaption>Original</figcaption></figure>\
         <figure class=\"side after\"><div class=\"pic\" style=\"--w:{aw:.2}%;--h:{ah:.2}%\"><img src=\"{}\" alt=\"{} {kind} {}\" \
         width=\"{}\" height=\"{}\"></div><figcaption>Variation</figcaption></figure>\
         <input type=\"range\" min=\"0\" max=\"100\" value=\"50\" step=\"1\" aria-label=\"Compare the original with {}\">\
         <span class=\"handle\" aria-hidden=\"true\">{HANDLE}</span>\
         <button type=\"button\" class=\"enlarge js-only\" aria-label=\"Enlarge {}\">Enlarge</button></div>\n",
        Data(preview),
        Text(source),
        Text(card.title),
        preview.width,
        preview.height,
        Text(card.title),
        Text(card.title),
    );
}

fn swatch(out: &mut String, color: Rgb8, label: Option<&str>) {
    put!(
        out,
        "<li><button type=\"button\" class=\"swatch\" style=\"--c:{color}\" data-hex=\"{color}\" title=\"Copy {color}\">\
         <i></i><b>{color}</b>"
    );
    if let Some(label) = label {
        put!(out, "<small class=\"num\">{}</small>", Text(label));
    }
    out.push_str("</button></li>");
}

fn notes(out: &mut String, entries: &[VariationEntry]) {
    let mut said: Vec<&str> = Vec::new();
    for note in entries.iter().flat_map(|e| &e.notes) {
        if !said.contains(&note.as_str()) {
            said.push(note);
        }
    }
    if said.is_empty() {
        return;
    }
    out.push_str("<ul class=\"notes\" aria-label=\"Notes\">");
    for note in said {
        put!(out, "<li>{}</li>", Text(note));
    }
    out.push_str("</ul>\n");
}

/// A colour that came through the manifest as text: a chip only if it parses, the text in any case.
fn chip(out: &mut String, hex: &str) {
    match hex.parse::<Rgb8>() {
        Ok(color) => put!(out, "<i class=\"chip\" style=\"--c:{color}\"></i><span class=\"mono\">{color}</span>"),
        Err(_) => put!(out, "<span class=\"mono\">{}</span>", Text(hex)),
    }
}

fn mapping(out: &mut String, mapping: &[MappingEntry]) {
    if mapping.is_empty() {
        return;
    }
    out.push_str(
        "<details open><summary>What became of each colour</summary>\n<div class=\"flow\" aria-hidden=\"true\">",
    );
    for side in [|m: &MappingEntry| m.from.parse::<Rgb8>(), |m: &MappingEntry| m.to.parse::<Rgb8>()] {
        out.push_str("<div>");
        for entry in mapping {
            if let Ok(color) = side(entry) {
                put!(out, "<i style=\"flex-grow:{:.4};--c:{color}\"></i>", unit(entry.share));
            }
        }
        out.push_str("</div>");
    }
    out.push_str(
        "</div>\n<table class=\"rows map\"><thead class=\"hidden\"><tr><th scope=\"col\">Source colour and target colour</th>\
         <th scope=\"col\" colspan=\"2\">Share of the picture</th></tr></thead><tbody>",
    );
    for entry in mapping {
        out.push_str("<tr><th scope=\"row\">");
        chip(out, &entry.from);
        out.push_str("<span class=\"arrow\" role=\"img\" aria-label=\"becomes\">→</span>");
        chip(out, &entry.to);
        put!(
            out,
            "</th><td><span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{:.1}%\"></i></span></td>\
             <td class=\"right num\">{}</td></tr>",
            100.0 * unit(entry.share),
            words::percent(entry.share)
        );
    }
    out.push_str("</tbody></table></details>\n");
}

fn metrics(out: &mut String, entry: &VariationEntry, open: bool) {
    if entry.metrics.is_empty() {
        return;
    }
    let judged = || words::METRICS.iter().filter_map(|m| Some((m, *entry.metrics.get(m.key)?)));
    let missed = judged().filter(|(m, value)| m.misses(*value)).count();
    let verdict = match missed {
        _ if judged().all(|(m, _)| m.aim().is_none()) => String::new(),
        0 => "<span class=\"verdict\">within every aim</span>".to_owned(),
        n => format!("<span class=\"verdict off\">{} outside the aim</span>", words::count(n, "figure", "figures")),
    };
    put!(
        out,
        "<details{}><summary>Quality{verdict}</summary><table class=\"rows\"><thead class=\"hidden\"><tr><th scope=\"col\">Figure</th>\
         <th scope=\"col\">Value</th><th scope=\"col\">Aim</th></tr></thead><tbody>",
        if open { " open" } else { "" }
    );
    for (metric, value) in judged() {
        let (class, mark) = if metric.misses(value) {
            (" off", "<span aria-hidden=\"true\">▲ </span><span class=\"hidden\">outside the aim: </span>")
        } else {
            ("", "")
        };
        put!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"right num{class}\">{mark}{}</td><td class=\"right num muted\">{}</td></tr>",
            metric.name,
            metric.value(value),
            metric.aim().unwrap_or_default()
        );
    }
    for (key, &value) in entry.metrics.iter().filter(|(key, _)| words::metric(key).is_none()) {
        put!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"right num\">{}</td><td></td></tr>",
            Text(&words::humanise(key)),
            words::plain(value)
        );
    }
    out.push_str("</tbody></table></details>\n");
}

fn files(out: &mut String, card: &Card<'_>) {
    if card.entries.is_empty() {
        return;
    }
    // A card without a picture has the first failure in its place already.
    let told = card.entries.iter().find_map(|e| e.error.as_ref()).filter(|_| failed(card));
    out.push_str("<ul class=\"files\" aria-label=\"Files\">");
    for entry in card.entries {
        let name = if entry.object.is_empty() { "File" } else { &entry.object };
        if let Some(error) = &entry.error {
            put!(
                out,
                "<li class=\"bad\"><bdi>{}</bdi><span>Not made{}{}</span></li>",
                Text(name),
                if told == Some(error) { "" } else { ": " },
                Text(if told == Some(error) { "" } else { &error.message })
            );
            continue;
        }
        match href(&entry.object) {
            Some(link) => put!(out, "<li><a href=\"{link}\"><bdi>{}</bdi></a>", Text(name)),
            None => put!(out, "<li><bdi>{}</bdi>", Text(name)),
        }
        put!(
            out,
            "<span class=\"muted num\">{} × {}, {}, {}</span></li>",
            entry.width,
            entry.height,
            Text(&format_name(&entry.format)),
            words::bytes(entry.bytes)
        );
    }
    out.push_str("</ul>\n");
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

/// `jpeg` as `JPEG`, `webp` as `WebP`; anything else in capitals.
fn format_name(format: &str) -> String {
    if format.eq_ignore_ascii_case("webp") { "WebP".into() } else { format.to_uppercase() }
}

/// A figure forced into 0..=1; what is not a number counts as 0.
fn unit(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_folder_of_the_page() {
        assert_eq!(href("palette_Warm.jpg").as_deref(), Some("./palette_Warm.jpg"));
        assert_eq!(href("javascript:alert(1)").as_deref(), Some("./javascript%3Aalert%281%29"));
        assert_eq!(href("a b/ü#?.png").as_deref(), Some("./a%20b/%C3%BC%23%3F.png"));
        for outside in ["", "/etc/passwd", "../secret", "a/../../b", "//host/x", "\\\\host\\x", "..\\x"] {
            assert_eq!(href(outside), None, "{outside}");
        }
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(Text("a<b>&\"'c").to_string(), "a&lt;b&gt;&amp;&quot;&#39;c");
        assert_eq!(Text("x\u{0}\u{1b}y\nz").to_string(), "x\u{FFFD}\u{FFFD}y\nz");
    }

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
