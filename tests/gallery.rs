//! Claims about what a person looks at after a run: the gallery page and the contact sheet.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::image::{Raster, Rows as _, pack_rgba};
use concept_worker::pipeline::contact_sheet::{MAX_PIXELS, MAX_SIDE, Plan, Tile, contact_sheet};
use concept_worker::pipeline::gallery::{Card, Preview, html};
use concept_worker::pipeline::manifest::{Failure, Manifest, MappingEntry, Source, State, VariationEntry};
use sha2::{Digest, Sha256};

const WARM: [Rgb8; 2] = [Rgb8::new(0x26, 0x46, 0x53), Rgb8::new(0xE9, 0xC4, 0x6A)];

const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "{{cards}}{{js}}",
    "&lt;b&gt; & \u{0}\u{1b}[31m",
    "\u{202e}gpj.exe",
];

fn preview(width: u32, height: u32) -> Preview {
    Preview { width, height, jpeg_or_png: vec![0x89, b'P', b'N', b'G', 0xFB, 0xFF], content_type: "image/png" }
}

fn entry(name: &str) -> VariationEntry {
    VariationEntry {
        palette: Some(name.into()),
        object: format!("palette_{name}.jpg"),
        bytes: 412_345,
        width: 2048,
        height: 1365,
        format: "jpeg".into(),
        mapping: vec![
            MappingEntry { from: "#8FB7D9".into(), to: "#264653".into(), share: 0.62 },
            MappingEntry { from: "#F6E3B4".into(), to: "#E9C46A".into(), share: 0.38 },
        ],
        metrics: BTreeMap::from([
            ("gain_p999".into(), 3.44),
            ("fidelity_delta_e".into(), 4.2),
            ("sparkle_index".into(), 0.125),
        ]),
        notes: vec!["#E9C46A is used twice".into()],
        ..VariationEntry::default()
    }
}

fn failed(name: &str, message: &str) -> VariationEntry {
    VariationEntry {
        metrics: BTreeMap::new(),
        mapping: Vec::new(),
        notes: Vec::new(),
        error: Some(Failure { class: "encode".into(), message: message.into() }),
        ..entry(name)
    }
}

fn manifest(uri: &str, state: State) -> Manifest {
    Manifest {
        job_id: "job_1".into(),
        user_id: "_".into(),
        key: String::new(),
        state,
        source: Source {
            uri: uri.into(),
            sha256: "ab".repeat(32),
            width: 2048,
            height: 1365,
            format: "jpeg".into(),
            unique_colors: 326_118,
            ..Source::default()
        },
        recipe_version: "1".into(),
        timings_ms: BTreeMap::from([("decode".into(), 16.0), ("total".into(), 212.0)]),
        peak_bytes: 71_000_000,
        error: None,
        message: None,
        message_object: None,
        background: None,
        steps: Vec::new(),
        spared: None,
        variations: Vec::new(),
    }
}

/// A page whose palettes bear these names.
fn page(names: &[&str]) -> String {
    let entries: Vec<[VariationEntry; 1]> = names.iter().map(|n| [entry(n)]).collect();
    let picture = preview(640, 427);
    let cards: Vec<Card<'_>> = names
        .iter()
        .zip(&entries)
        .map(|(&title, entries)| Card {
            title,
            description: Some(title),
            colors: &WARM,
            labels: vec![Some("primary")],
            preview: Some(&picture),
            entries,
        })
        .collect();
    html(&manifest("photos/hills.jpg", State::Complete), &picture, &[(WARM[0], 0.62), (WARM[1], 0.38)], &cards)
}

/// A start tag: its name and its attributes, entities resolved.
type Tag = (String, Vec<(String, String)>);

/// Reads a page as a strict parser would and returns its tags and its text.
///
/// # Panics
/// When tags are not balanced, an attribute is not quoted, or an ampersand starts no entity.
fn parse(page: &str) -> (Vec<Tag>, String) {
    // The last is no HTML element: it closes itself in the inline drawing of the slider.
    const VOID: [&str; 4] = ["meta", "input", "img", "path"];
    let (mut tags, mut text, mut open) = (Vec::new(), String::new(), Vec::<String>::new());
    let mut rest = page.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some(at) = rest.find('<') {
        text.push_str(&resolve(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(closing) = rest.strip_prefix('/') {
            let (name, after) = closing.split_once('>').expect("a closing tag ends");
            assert_eq!(open.pop().as_deref(), Some(name), "closing tags match their opening tags");
            rest = after;
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).expect("a tag ends");
        let name = rest[..end].to_owned();
        assert!(!name.is_empty(), "a bare < in {:?}", &rest[..rest.len().min(40)]);
        rest = &rest[end..];
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('>') {
                rest = after;
                break;
            }
            if let Some(after) = rest.strip_prefix("/>") {
                rest = after;
                break;
            }
            let end = rest.find(['=', ' ', '>', '\n']).expect("an attribute ends");
            let key = rest[..end].to_owned();
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "attribute name {key:?}");
            rest = &rest[end..];
            let mut value = String::new();
            if let Some(after) = rest.strip_prefix("=\"") {
                let (inside, after) = after.split_once('"').expect("a value is closed");
                value = resolve(inside);
                rest = after;
            } else {
                assert!(!rest.starts_with('='), "every value is in double quotes");
            }
            attributes.push((key, value));
        }
        let raw = matches!(name.as_str(), "script" | "style");
        if raw {
            rest = &rest[rest.find(&format!("</{name}>")).expect("raw text is closed")..];
        }
        if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
        }
        tags.push((name, attributes));
    }
    assert!(open.is_empty(), "left open: {open:?}");
    (tags, text)
}

fn resolve(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let (entity, after) = rest[at + 1..].split_once(';').expect("an entity ends");
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" => '\'',
            other => panic!("unknown entity {other:?}"),
        });
        rest = after;
    }
    out + rest
}

fn attribute<'a>(tag: &'a Tag, key: &str) -> Option<&'a str> {
    tag.1.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

#[test]
fn the_page_is_well_formed_with_no_one_some_and_many_variations() {
    for count in [0, 1, 7, 40] {
        let names: Vec<String> = (0..count).map(|i| format!("Palette {i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (tags, text) = parse(&page(&names));
        assert_eq!(tags.iter().filter(|t| t.0 == "article").count(), count);
        for name in names {
            assert!(text.contains(name), "{name}");
        }
    }
}

#[test]
fn hostile_names_stay_text() {
    let (tags, text) = parse(&page(&HOSTILE));
    let (calm, _) = parse(&page(&["a", "b", "c", "d", "e", "f", "g", "h"]));
    let names = |tags: &[Tag]| tags.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&tags), names(&calm), "a name adds no element");
    for (tag, other) in tags.iter().zip(&calm) {
        let keys = |t: &Tag| t.1.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>();
        assert_eq!(keys(tag), keys(other), "a name adds no attribute");
        assert_eq!(attribute(tag, "style"), attribute(other, "style"), "a name does not reach a style");
    }
    for name in &HOSTILE[..6] {
        assert!(text.contains(name), "{name} is shown as it was written");
    }
    assert!(!text.contains(['\u{0}', '\u{1b}']));
}

#[test]
fn hostile_files_and_colors_and_sources_stay_text() {
    let mut bad = entry("x");
    bad.object = "javascript:alert(1)".into();
    bad.format = "<b>".into();
    bad.mapping[0].from = "red;background:url(http://evil.test)".into();
    bad.metrics.insert("<i>odd</i>".into(), f64::NAN);
    bad.notes.push("<u>note</u>".into());
    let mut outside = entry("y");
    outside.object = "../../etc/passwd".into();
    let picture = preview(10, 10);
    let mut manifest = manifest("a/<img src=x>\".png", State::Partial);
    manifest.job_id = "<s>".into();
    manifest.timings_ms.insert("<q>".into(), f64::INFINITY);
    manifest.error = Some(Failure { class: "<a>".into(), message: "<em>no</em>".into() });
    let entries = [bad, outside];
    let card =
        Card { title: "x", description: None, colors: &[], labels: vec![], preview: Some(&picture), entries: &entries };
    let (tags, text) = parse(&html(&manifest, &picture, &[(WARM[0], f64::NAN)], &[card]));
    for foreign in ["u", "s", "q", "em"] {
        assert!(tags.iter().all(|t| t.0 != foreign), "{foreign}");
    }
    assert!(text.contains("<u>note</u>") && text.contains("not defined") && text.contains("<img src=x>"));
    let links: Vec<&str> = tags.iter().filter_map(|t| attribute(t, "href")).collect();
    assert_eq!(links, ["#variations", "./javascript%3Aalert%281%29"], "nothing leads out of the folder");
    assert!(tags.iter().filter_map(|t| attribute(t, "style")).all(|s| !s.contains("url") && !s.contains("NaN")));
}

#[test]
fn nothing_is_fetched_and_only_the_page_s_own_script_may_run() {
    let page = page(&["Warm", "Cool"]);
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("@import"));
    for (at, _) in page.match_indices("url(") {
        assert!(page[at..].starts_with("url(\"data:image/png;base64,"), "{}", &page[at..at + 40]);
    }
    let (tags, _) = parse(&page);
    assert!(tags.iter().all(|t| !["link", "iframe", "object", "embed", "base", "form"].contains(&t.0.as_str())));
    for tag in &tags {
        assert!(attribute(tag, "src").is_none_or(|src| src.starts_with("data:image/")), "{tag:?}");
        assert!(tag.1.iter().all(|(key, _)| !key.starts_with("on")), "{tag:?}");
    }
    let (_, script) = page.split_once("<script>").unwrap();
    let (script, after) = script.split_once("</script>").unwrap();
    assert!(!after.contains("<script"));
    let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
    let policy = tags.iter().find_map(|t| attribute(t, "content").filter(|c| c.contains("default-src"))).unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains(&format!("script-src 'sha256-{hash}'")),
        "{policy}"
    );
}

#[test]
fn previews_are_embedded_and_the_original_only_once() {
    let page = page(&["Warm", "Cool", "Neutral"]);
    let data = format!("data:image/png;base64,{}", STANDARD.encode([0x89, b'P', b'N', b'G', 0xFB, 0xFF]));
    assert_eq!(page.matches(&data).count(), 4);
    assert!(page.contains("href=\"./palette_Warm.jpg\""));
}

#[test]
fn a_variation_shows_its_colors_mapping_figures_notes_and_files() {
    let (tags, text) = parse(&page(&["Warm"]));
    for shown in [
        "#264653",
        "primary",
        "#8FB7D9",
        "62 %",
        "38 %",
        "Colour fidelity",
        "ΔE 4.20",
        "≤ 3",
        "3.4×",
        "Sparkle index",
        "0.125",
        "1 figure outside the aim",
        "#E9C46A is used twice",
        "2048 × 1365, JPEG, 412 kB",
        "326,118",
        "1 variation in 212 ms",
        "Complete",
    ] {
        assert!(text.contains(shown), "{shown} is missing");
    }
    let slider = tags.iter().find(|t| attribute(t, "type") == Some("range")).unwrap();
    assert_eq!(attribute(slider, "aria-label"), Some("Compare the original with Warm"));
    for picture in tags.iter().filter(|t| t.0 == "img") {
        assert!(attribute(picture, "alt").is_some_and(|alt| alt.contains("Warm")));
    }
}

#[test]
fn a_failed_variation_is_shown_with_its_error() {
    let picture = preview(640, 427);
    let whole = [failed("Cool", "no space left on the device; free some room")];
    let half = [entry("Warm"), failed("Warm", "WebP refused the picture")];
    let card = |title, preview, entries| Card {
        title,
        description: None,
        colors: &WARM,
        labels: vec![None, None],
        preview,
        entries,
    };
    let mut manifest = manifest("hills.jpg", State::Partial);
    manifest.variations = whole.iter().chain(&half).cloned().collect();
    let cards = [card("Cool", None, &whole[..]), card("Warm", Some(&picture), &half[..])];
    let (tags, text) = parse(&html(&manifest, &picture, &[], &cards));
    assert_eq!(text.matches("no space left on the device; free some room").count(), 1);
    assert!(text.contains("Not made: WebP refused the picture"));
    assert!(text.contains("Partial: 2 of 3 files failed"));
    assert_eq!(tags.iter().filter(|t| attribute(t, "class") == Some("failure")).count(), 1);
}

#[test]
fn a_run_without_a_picture_says_why() {
    let mut manifest = manifest("hills.jpg", State::Failed);
    manifest.error =
        Some(Failure { class: "bad-picture".into(), message: "the file ends early; fetch it again".into() });
    let (_, text) = parse(&html(&manifest, &preview(1, 1), &[], &[]));
    assert!(text.contains("Failed") && text.contains("the file ends early; fetch it again"));
}

fn raster(width: u32, height: u32) -> Raster {
    let pixels = (0..width * height).map(|i| pack_rgba(i as u8, 90, 200, if i % 7 == 0 { 0 } else { 255 })).collect();
    Raster::new(width, height, pixels).unwrap()
}

#[test]
fn every_sheet_is_within_its_bounds_and_opaque() {
    for (width, height) in [(1, 1), (640, 427), (427, 640), (640, 64), (64, 640), (1, 640), (640, 1)] {
        let picture = raster(width, height);
        for count in [0, 1, 7, 16, 500] {
            let tile = Tile { title: "A name that is rather long for its tile", colors: &WARM, raster: Some(&picture) };
            let sheet = contact_sheet(&picture, &vec![tile; count]);
            let pixels = u64::from(sheet.width()) * u64::from(sheet.height());
            assert!(sheet.width() <= MAX_SIDE && sheet.height() <= MAX_SIDE, "{count} of {width}×{height}");
            assert!(pixels <= MAX_PIXELS, "{count} of {width}×{height}: {pixels}");
            assert!(!sheet.has_alpha());
        }
    }
}

#[test]
fn plans_hold_for_any_number_of_tiles() {
    for (width, height) in [(1, 1), (640, 427), (640, 64), (64, 640), (u32::MAX, 1), (1, u32::MAX)] {
        let mut last = u32::MAX;
        for tiles in (0..300).chain([500, 1_000, 5_000, 1_000_000, usize::MAX]) {
            let plan = Plan::new(width, height, tiles);
            assert!(plan.width <= MAX_SIDE && plan.height <= MAX_SIDE, "{tiles}: {plan:?}");
            assert!(u64::from(plan.width) * u64::from(plan.height) <= MAX_PIXELS, "{tiles}: {plan:?}");
            assert!(plan.shown == tiles || tiles > 300, "{tiles}: {plan:?}");
            assert!(plan.shown <= tiles && plan.shown >= tiles.min(300));
            assert!(plan.picture_width <= last, "pictures do not grow with their number");
            last = plan.picture_width;
        }
    }
}

#[test]
fn what_does_not_fit_is_counted_on_the_sheet() {
    let picture = raster(4, 3);
    let tile = Tile { title: "", colors: &[], raster: Some(&picture) };
    let note = |count: usize| {
        let sheet = contact_sheet(&picture, &vec![tile; count]);
        let width = sheet.width() as usize;
        sheet.pixels()[sheet.pixels().len() - 24 * width..].to_vec()
    };
    assert_eq!(Plan::new(4, 3, 5_000).shown, Plan::new(4, 3, 6_000).shown);
    assert!(note(5_000) != note(6_000), "the last line names the number left out");
}

#[test]
fn tiles_hold_their_picture_their_swatches_and_their_failure() {
    let red = Raster::new(8, 8, vec![pack_rgba(200, 0, 0, 255); 64]).unwrap();
    let green = Raster::new(900, 900, vec![pack_rgba(0, 150, 0, 255); 810_000]).unwrap();
    let made = Tile { title: "Made", colors: &WARM, raster: Some(&green) };
    let missing = Tile { title: "Missing", colors: &WARM, raster: None };
    let count =
        |tiles: &[Tile<'_>], color: u32| contact_sheet(&red, tiles).pixels().iter().filter(|p| **p == color).count();
    let plan = Plan::new(8, 8, 1);
    let picture = plan.picture_width as usize * plan.picture_height as usize;
    assert_eq!(count(&[made], pack_rgba(200, 0, 0, 255)), picture, "a small original is enlarged by a whole factor");
    assert_eq!(count(&[made], pack_rgba(0, 150, 0, 255)), picture, "a large variation is reduced to its cell");
    assert_eq!(count(&[missing], pack_rgba(0, 150, 0, 255)), 0);
    for tile in [made, missing] {
        assert!(WARM.iter().all(|c| count(&[tile], c.packed()) > 500), "swatches are there either way");
    }
}

#[test]
fn transparency_shows_a_checkerboard_and_hidden_color_does_not_bleed() {
    let half: Vec<u32> = (0..800 * 800)
        .map(|i| if i % 800 < 400 { pack_rgba(255, 0, 0, 0) } else { pack_rgba(0, 0, 255, 255) })
        .collect();
    let picture = Raster::new(800, 800, half).unwrap();
    let sheet = contact_sheet(&picture, &[]);
    let count = |color: Rgb8| sheet.pixels().iter().filter(|p| **p == color.packed()).count();
    assert!(count(Rgb8::new(255, 255, 255)) > 10_000 && count(Rgb8::new(0xDC, 0xDC, 0xDC)) > 10_000);
    let reddish = |p: u32| (p & 255) > (p >> 16 & 255);
    assert!(!sheet.pixels().iter().any(|&p| reddish(p)), "the red under alpha 0 is nowhere to be seen");
}

#[test]
fn page_and_sheet_are_the_same_every_time() {
    assert_eq!(page(&["Warm", "Cool"]), page(&["Warm", "Cool"]));
    let picture = raster(640, 427);
    let tile = Tile { title: "Warm", colors: &WARM, raster: Some(&picture) };
    let sheet = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| contact_sheet(&picture, &[tile; 7]).pixels().to_vec())
    };
    assert_eq!(sheet(1), sheet(4));
}
