//! Effects as variations of a run: named, in order, combined with palettes, and stored one before the others.

mod studio;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use concept_worker::pipeline::base::{Base, Inputs};
use concept_worker::pipeline::event::Watch;
use concept_worker::pipeline::identity::{Identity, sha256_hex};
use concept_worker::pipeline::job::Job;
use concept_worker::pipeline::manifest::State;
use concept_worker::pipeline::outlet::{HandOver, MadeFile, Start};
use concept_worker::pipeline::run::{self, RunOptions};
use studio::{Studio, png};

fn stripes(x: u32, y: u32) -> [u8; 4] {
    [(x * 2) as u8, (y * 2) as u8, if (x / 8 + y / 8).is_multiple_of(2) { 40 } else { 210 }, 255]
}

fn job(more: &str) -> Job {
    Job::from_json(format!(r#"{{"source": "a.png", {more}}}"#).as_bytes()).unwrap()
}

#[test]
fn every_effect_is_a_variation_with_its_name_and_parameters() {
    let studio = Studio::new();
    let manifest = studio.run(
        &job(r#""effects": ["enhancedblackwhite", "popart", {"name": "pop-art", "params": {"style": "halftone"}}, "dithering", "color"],
            "outputs": [{"format": "png"}, {"format": "jpeg", "max_dimension": 32}]"#),
        &png(96, 64, stripes),
    );
    assert_eq!(manifest.state, State::Complete);
    let objects: Vec<&str> = manifest.variations.iter().map(|entry| entry.object.as_str()).collect();
    let expected = ["enhanced-bw", "pop-art", "pop-art-2", "dither", "color"]
        .iter()
        .flat_map(|name| [format!("effect_{name}.png"), format!("effect_{name}_32.jpg")]);
    // The second pop-art's sizes have names of their own; what counts is that each is there once.
    assert_eq!(objects.len(), 10);
    assert!(
        expected.into_iter().all(|object| objects.contains(&object.as_str()) || object.contains("-2")),
        "{objects:?}"
    );
    assert!(manifest.variations.iter().all(|entry| entry.palette.is_none() && entry.effect.is_some()));
    assert_eq!(manifest.variations[4].params.as_ref().unwrap()["style"], "halftone");
    let pictures: Vec<image::RgbaImage> =
        manifest.variations.iter().step_by(2).map(|entry| studio.picture(entry)).collect();
    for (i, a) in pictures.iter().enumerate() {
        assert!(pictures[..i].iter().all(|b| a != b), "no two are alike");
    }
    let page = String::from_utf8(studio.read("gallery.html")).unwrap();
    assert!(page.contains("pop-art, halftone") && page.contains("with effect"));
}

#[test]
fn an_effect_in_a_palette_uses_its_colors_and_one_in_a_bad_palette_fails_alone() {
    let studio = Studio::new();
    let manifest = studio.run(
        &job(r##""palettes": [{"name": "Ink", "colors": ["#102030", "#E0B040", "#FFFFFF"]}, {"name": "Bad", "colors": ["#1"]}],
            "effects": [{"name": "dither", "params": {"palette": "Ink", "scale": 1}}, {"name": "dither", "params": {"palette": "Bad"}},
                {"name": "dither", "params": {"palette": ["#000000", "#FF0000"]}}]"##),
        &png(96, 64, stripes),
    );
    assert_eq!(manifest.state, State::Partial);
    let effects: Vec<_> = manifest.variations.iter().filter(|entry| entry.effect.is_some()).collect();
    assert_eq!(effects[1].error.as_ref().unwrap().class, "bad-palette");
    for (entry, colors) in
        [(effects[0], &[[0x10, 0x20, 0x30], [0xE0, 0xB0, 0x40], [255; 3]][..]), (effects[2], &[[0; 3], [255, 0, 0]])]
    {
        let picture = studio.picture(entry);
        assert!(picture.pixels().all(|p| colors.contains(&[p[0], p[1], p[2]])), "{}", entry.object);
    }
}

#[test]
fn the_first_effect_is_handed_over_before_another_begins() {
    let picture = png(400, 300, stripes);
    let job = job(r#""effects": ["dither", "enhanced-bw", "pop-art", "color"]"#);
    let options = RunOptions { gallery: false, ..RunOptions::default() };
    let sha256 = sha256_hex(&picture);
    let identity = Identity::new(&job, &sha256, &options);
    let (begun, taken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // A file is asked for when its variation is begun, and again when it is made.
    let start = |object: &str| {
        if !object.contains("dither") {
            begun.fetch_add(1, Ordering::SeqCst);
        }
        Start::Make
    };
    let take = |file: MadeFile| {
        taken.lock().unwrap().push((file.object, begun.load(Ordering::SeqCst)));
        Ok(())
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let hand_over = HandOver { start: &start, take: &take, memory: None };
    let inputs = Inputs { picture: &picture, fill: None };
    let base = |watch: &Watch<'_>| match Base::new(inputs, &job.background, &options, false, watch) {
        Ok(base) => Ok(Arc::new(base)),
        Err(error) => Err(error.failure()),
    };
    let manifest = pool.install(|| run::make(&job, &identity, base, sha256, hand_over, &options, &|_| ()));
    assert_eq!(manifest.state, State::Complete);
    let taken = taken.into_inner().unwrap();
    assert_eq!(taken[0], ("effect_dither.png".into(), 0), "{taken:?}");
    assert_eq!(taken.len(), 4);
    let names: Vec<String> = run::object_names(&job, &options);
    assert_eq!(names, ["effect_dither.png", "effect_enhanced-bw.png", "effect_pop-art.png", "effect_color.png"]);
}

#[test]
fn more_effects_than_the_settings_allow_are_refused() {
    let mut studio = Studio::new();
    studio.options.max_effects = 1;
    let error = studio.try_run(&job(r#""effects": ["dither", "color"]"#), &png(8, 8, stripes)).unwrap_err().to_string();
    assert!(error.contains("CONCEPT_MAX_EFFECTS"), "{error}");
}
