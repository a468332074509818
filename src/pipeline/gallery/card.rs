//! One variation: the picture beside its original, the palette, the mapping, the figures and the files.

use std::fmt::Write as _;

use super::markup::{Data, Frame, Text, format_name, href, put, swatch, unit};
use super::{Card, Preview, words};
use crate::kernel::color::Rgb8;
use crate::pipeline::manifest::{MappingEntry, VariationEntry};

/// The knob of the slider: two chevrons that point apart, on a 32-pixel disc drawn by the style.
const HANDLE: &str = "<svg viewBox=\"0 0 32 32\"><path d=\"M13 11l-5 5 5 5M19 11l5 5-5 5\"/></svg>";

/// Writes one card. `before` is the original's shape, `open` whether the figures are unfolded.
pub(super) fn card(out: &mut String, card: &Card<'_>, source: &str, before: Frame, open: bool) {
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
