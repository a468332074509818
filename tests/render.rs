//! Whole runs of the real program on small pictures: what is made, where, and what is said about it.

mod place;

use std::collections::BTreeMap;
use std::path::Path;

use concept_worker::pipeline::manifest::{Manifest, State};
use place::Place;

const PALETTES: &str = r##"[
    {"name": "Warm", "colors": ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"]},
    {"name": "Cool", "colors": ["#03045E", "#0077B6", "#00B4D8", "#90E0EF", "#CAF0F8"]}
]"##;

/// Five bands with a little texture, 60 × 40.
fn picture() -> Vec<u8> {
    let bands = [[30u8, 40, 60], [200, 60, 50], [60, 160, 90], [240, 200, 90], [245, 245, 240]];
    let raster = image::RgbImage::from_fn(60, 40, |x, y| {
        let shade = (x * 7 + y * 13) % 8;
        image::Rgb(bands[y as usize / 8].map(|channel| channel.saturating_add(shade as u8)))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    raster.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn prepared() -> Place {
    let place = Place::new();
    place.write("picture.png", picture());
    place.write("palettes.json", PALETTES);
    place
}

fn manifest(folder: &Path) -> Manifest {
    serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// Every file of a folder but the manifest and the gallery, which hold timings.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    };
    let timed = ["manifest.json", "gallery.html"];
    std::fs::read_dir(folder).unwrap().map(read).filter(|(name, _)| !timed.contains(&name.as_str())).collect()
}

#[test]
fn render_makes_every_variation_a_manifest_and_a_gallery() {
    let place = prepared();
    let said = place.run(&["render", "picture.png", "--palettes", "palettes.json", "--out", "out"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.out);
    assert!(said.out.starts_with("2 files, ") && said.out.ends_with("open out/gallery.html\n"), "{}", said.out);
    assert!(said.out.contains(" s, peak memory "), "{}", said.out);

    let out = place.path("out");
    let manifest = manifest(&out);
    assert_eq!(manifest.state, State::Complete);
    assert_eq!(manifest.source.uri, "picture.png");
    assert_eq!(manifest.variations.len(), 2);
    for (entry, name) in manifest.variations.iter().zip(["Warm", "Cool"]) {
        assert_eq!(entry.palette.as_deref(), Some(name));
        assert!(entry.object.starts_with("palette_") && entry.object.ends_with(".png"), "{}", entry.object);
        let raster = image::open(out.join(&entry.object)).unwrap();
        assert_eq!((raster.width(), raster.height()), (60, 40));
    }
    assert!(out.join("gallery.html").exists() && out.join("contact-sheet.png").exists());
    assert!(files(&out).keys().all(|name| !name.starts_with('.')), "no temporary file is left");
}

#[test]
fn the_same_job_gives_the_same_bytes_for_any_number_of_threads() {
    let place = prepared();
    let mut results = Vec::new();
    for (out, threads) in [("a", "1"), ("b", "3"), ("b", "0")] {
        let args = ["render", "picture.png", "--palettes", "palettes.json", "--threads", threads, "--out", out];
        assert_eq!(place.run(&args).code, Some(0));
        results.push(files(&place.path(out)));
    }
    assert!(results[0].len() >= 3 && results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn without_palettes_seven_are_made_and_it_says_so() {
    let place = prepared();
    let said = place.run(&["render", "picture.png", "--out", "out"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.err, "no --palettes given: making 7 from the picture's own colours\n");
    assert_eq!(manifest(&place.path("out")).variations.len(), 7);
}

#[test]
fn json_prints_the_manifest_and_nothing_else_and_quiet_prints_nothing() {
    let place = prepared();
    let base = ["render", "picture.png", "--palettes", "palettes.json", "--out", "out"];
    let said = place.run(&[&base[..], &["--json", "--job-id", "j1", "--user-id", "u1"]].concat());
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let printed: Manifest = serde_json::from_str(&said.out).unwrap();
    assert_eq!((printed.job_id.as_str(), printed.user_id.as_str()), ("j1", "u1"));
    assert_eq!(printed, manifest(&place.path("out")));
    let said = place.run(&[&base[..], &["--quiet"]].concat());
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
}

#[test]
fn every_format_is_made_in_every_size() {
    let place = prepared();
    let said = place.run(&[
        "render",
        "picture.png",
        "--palettes",
        "palettes.json",
        "--out",
        "out",
        "--format",
        "png,jpeg",
        "--format",
        "webp",
        "--size",
        "original",
        "--size",
        "30",
        "--quality",
        "70",
        "--progressive",
        "--no-gallery",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!said.out.contains("gallery"), "{}", said.out);
    let out = place.path("out");
    let made: Vec<_> = manifest(&out).variations.iter().map(|v| (v.format.clone(), v.width, v.height)).collect();
    assert_eq!(made.len(), 12);
    for format in ["png", "jpeg", "webp"] {
        for (width, height) in [(60, 40), (30, 20)] {
            let wanted = (format.to_owned(), width, height);
            assert_eq!(made.iter().filter(|made| **made == wanted).count(), 2, "{wanted:?}");
        }
    }
    assert_eq!(files(&out).len(), 12, "no gallery, no contact sheet, no two files of one name");
}

#[test]
fn a_picture_comes_from_a_pipe_as_well() {
    let place = prepared();
    let args = ["render", "-", "--palettes", "palettes.json", "--out", "out", "--max-dimension", "20"];
    let said = place.run_with(&args, &[], &picture());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(manifest(&place.path("out")).variations[0].width, 20);
}

#[test]
fn a_broken_picture_fails_with_a_manifest_that_says_why() {
    let place = prepared();
    let whole = picture();
    place.write("cut.png", &whole[..whole.len() / 2]);
    place.write("text.png", "this is no picture");
    for name in ["cut.png", "text.png"] {
        let said = place.run(&["render", name, "--palettes", "palettes.json", "--out", "out"]);
        assert_eq!(said.code, Some(1), "{name}");
        assert!(said.err.starts_with(&format!("error: {name}: ")), "{}", said.err);
        assert_eq!(said.out.lines().next(), Some("no files in out, only out/manifest.json, which says why"));
        let manifest = manifest(&place.path("out"));
        assert_eq!(manifest.state, State::Failed);
        assert!(manifest.error.is_some());
        assert_eq!(place.run(&["palette", name]).code, Some(1), "{name}");
    }
}

#[test]
fn a_picture_beyond_the_pixel_limit_fails_and_names_the_variable() {
    let place = prepared();
    let args = ["render", "picture.png", "--out", "out"];
    let said = place.run_with(&args, &[("CONCEPT_MAX_PIXELS", "2000")], b"");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("CONCEPT_MAX_PIXELS"), "{}", said.err);
}

#[test]
fn a_job_lies_under_destination_user_and_job_as_in_the_cloud() {
    let place = Place::new();
    place.write("data/bases/in/picture.png", picture());
    let job = |rest: &str| format!(r#"{{"source": "gs://bases/in/picture.png", "palettes": {PALETTES}{rest}}}"#);
    for (rest, vars, folder) in [
        (r#", "job_id": "j1", "user_id": "u1", "destination": "gs://results/a/b""#, &[][..], "data/results/a/b/u1/j1"),
        (r#", "job_id": "j2""#, &[("CONCEPT_STORAGE_BUCKET_PALETTE", "palettes")], "data/palettes/_/j2"),
        (r#", "job_id": "j3", "user_id": "u1", "destination": "here""#, &[], "here/u1/j3"),
    ] {
        place.write("job.json", job(rest));
        let said = place.run_with(&["job", "job.json"], vars, b"");
        assert_eq!(said.code, Some(0), "{}", said.err);
        let manifest = manifest(&place.path(folder));
        assert_eq!((manifest.state, manifest.variations.len()), (State::Complete, 2));
    }
}

#[test]
fn a_job_without_an_id_finds_its_folder_again() {
    let place = prepared();
    let job = format!(r#"{{"source": "picture.png", "palettes": {PALETTES}, "destination": "results"}}"#);
    for _ in 0..2 {
        let said = place.run_with(&["job", "-"], &[], job.as_bytes());
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    let folders: Vec<_> = std::fs::read_dir(place.path("results/_")).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(folders.len(), 1);
    let id = folders[0].file_name().into_string().unwrap();
    assert_eq!(manifest(&folders[0].path()).job_id, id);
}

#[test]
fn render_and_job_make_the_same_files() {
    let place = prepared();
    place.write("job.json", format!(r#"{{"source": "picture.png", "palettes": {PALETTES}}}"#));
    assert_eq!(place.run(&["job", "job.json", "--out", "a"]).code, Some(0));
    assert_eq!(place.run(&["render", "picture.png", "--palettes", "palettes.json", "--out", "b"]).code, Some(0));
    assert_eq!(files(&place.path("a")), files(&place.path("b")));
}

#[test]
fn palette_prints_colors_in_three_forms_and_render_takes_each() {
    let place = prepared();
    for (format, file) in [("hex", "own.hex"), ("json", "own.json"), ("gpl", "own.gpl")] {
        let said = place.run(&["palette", "picture.png", "--colors", "4", "--format", format]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{format}");
        place.write(file, &said.out);
        let said = place.run(&["render", "picture.png", "--palettes", file, "--out", "out"]);
        assert_eq!(said.code, Some(0), "{format}: {}", said.err);
        assert_eq!(manifest(&place.path("out")).variations[0].colors.len(), 4, "{format}");
    }
}
