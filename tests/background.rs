//! Background removal as a whole run makes it: cut-outs, mattes, fills, and pictures that pass as they are.

#[path = "../fixtures/generator/mod.rs"]
mod generator;
mod studio;

use concept_worker::pipeline::base::Inputs;
use concept_worker::pipeline::job::Job;
use concept_worker::pipeline::manifest::{Manifest, State};
use concept_worker::pipeline::run;
use studio::{Studio, files, png};

const SIDE: u32 = 240;

/// A red disc with a white hole on pale blue, all edges smooth.
fn badge(x: u32, y: u32) -> [u8; 4] {
    let (dx, dy) = (f64::from(x) - 119.5, f64::from(y) - 119.5);
    let radius = (dx * dx + dy * dy).sqrt();
    let inside = |edge: f64| (edge - radius + 0.5).clamp(0.0, 1.0);
    let (disc, hole) = (inside(80.0), inside(25.0));
    let ring = disc - hole;
    let mix = |subject: f64, ground: f64| (ring * subject + (1.0 - ring) * ground).round() as u8;
    [mix(200.0, 225.0), mix(30.0, 235.0), mix(40.0, 250.0), 255]
}

fn job(more: &str) -> Job {
    Job::from_json(format!(r#"{{"source": "badge.png", {more}}}"#).as_bytes()).unwrap()
}

fn run(more: &str) -> (Studio, Manifest) {
    let studio = Studio::new();
    let manifest = studio.run(&job(more), &png(SIDE, SIDE, badge));
    assert_eq!(manifest.state, State::Complete, "{manifest:#?}");
    (studio, manifest)
}

fn entry<'a>(manifest: &'a Manifest, object: &str) -> &'a concept_worker::pipeline::manifest::VariationEntry {
    manifest.variations.iter().find(|entry| entry.object == object).unwrap_or_else(|| panic!("no {object}"))
}

const BRAND: &str =
    r##""palettes": [{"name": "Brand", "colors": ["#113355", "#DDAA33", "#EE4411", "#F4EEDD", "#FFFFFF"]}]"##;

#[test]
fn a_plain_ground_goes_and_takes_no_part_in_the_colors() {
    let (studio, manifest) = run(&format!(r#"{BRAND}, "background": {{"action": "remove"}}"#));
    let objects: Vec<&str> = manifest.variations.iter().map(|entry| entry.object.as_str()).collect();
    assert_eq!(objects, ["effect_cutout.png", "effect_matte.png", "palette_Brand.png"]);
    let background = manifest.background.as_ref().unwrap();
    assert_eq!((background.method.as_str(), background.removed, background.flagged), ("classic", true, false));
    assert_eq!((background.ground.as_deref(), background.matte.as_deref()), (Some("flat"), Some("effect_matte.png")));
    assert!(background.confidence > 0.5 && (0.3..0.35).contains(&background.subject_share), "{background:?}");
    let cutout = studio.picture(entry(&manifest, "effect_cutout.png"));
    // The truth is known: α of every pixel, and one colour in front.
    let mut apart = 0f64;
    for (x, y, pixel) in cutout.enumerate_pixels() {
        let (dx, dy) = (f64::from(x) - 119.5, f64::from(y) - 119.5);
        let radius = (dx * dx + dy * dy).sqrt();
        let inside = |edge: f64| (edge - radius + 0.5f64).clamp(0.0, 1.0);
        let truth = inside(80.0) - inside(25.0);
        apart += (f64::from(pixel[3]) / 255.0 - truth).abs();
        if pixel[3] > 40 {
            let far = [200, 30, 40].iter().zip(pixel.0).map(|(a, b): (&i32, u8)| (a - i32::from(b)).abs()).max();
            assert!(far <= Some(12), "no halo: {x},{y} {pixel:?}");
        }
    }
    assert!(apart / f64::from(SIDE * SIDE) < 0.002, "{}", apart / f64::from(SIDE * SIDE));
    assert_eq!(cutout.get_pixel(119, 119)[3], 0, "the hole is ground, too");
    let palette = studio.picture(entry(&manifest, "palette_Brand.png"));
    assert!(palette.pixels().zip(cutout.pixels()).all(|(a, b)| a[3] == b[3]), "every variation has the same alpha");
    let mapping = &entry(&manifest, "palette_Brand.png").mapping;
    let share: f64 = mapping.iter().map(|m| m.share).sum();
    assert!((share - 1.0).abs() < 0.01);
    assert!(
        mapping.iter().all(|m| m.from.starts_with("#C") || m.from.starts_with("#B")),
        "only reds are left: {mapping:?}"
    );
    let matte = studio.picture(entry(&manifest, "effect_matte.png"));
    assert!(matte.pixels().zip(cutout.pixels()).all(|(m, c)| m.0 == [c[3], c[3], c[3], 255]));
}

#[test]
fn a_product_shot_as_a_jpeg_keeps_its_pale_parts() {
    let scene = generator::scenes::named("running shoe on a sweep", 768).unwrap();
    let studio = Studio::new();
    let manifest = studio.run(&job(r#""background": {"action": "remove"}"#), &studio::fixture("product.jpg"));
    let background = manifest.background.as_ref().unwrap();
    assert_eq!((background.method.as_str(), background.ground.as_deref()), ("classic", Some("gradient")));
    let cutout = studio.picture(entry(&manifest, "effect_cutout.png"));
    let apart: f64 = cutout.pixels().zip(&scene.alpha).map(|(p, &a)| f64::from(p[3].abs_diff(a)) / 255.0).sum();
    assert!(apart / (scene.alpha.len() as f64) < 0.0015, "{}", apart / scene.alpha.len() as f64);
}

#[test]
fn what_is_half_opaque_already_stays_half_opaque() {
    // The disc's right part lets half of what is behind through.
    let picture = |x: u32, y: u32| match badge(x, y) {
        [r, g, b, _] if x >= 150 && (90..150).contains(&y) => [r, g, b, 128],
        pixel => pixel,
    };
    let studio = Studio::new();
    let manifest =
        studio.run(&job(r#""background": {"action": "remove", "method": "classic"}"#), &png(SIDE, SIDE, picture));
    let background = manifest.background.as_ref().unwrap();
    assert!(background.removed, "{background:?}");
    let cutout = studio.picture(entry(&manifest, "effect_cutout.png"));
    assert_eq!((cutout.get_pixel(170, 120)[3], cutout.get_pixel(70, 120)[3], cutout.get_pixel(2, 2)[3]), (128, 255, 0));
}

#[test]
fn cleaning_is_for_a_pictures_own_alpha_too() {
    // A disc, and a speck beside it.
    let picture = |x: u32, y: u32| {
        let (dx, dy) = (f64::from(x) - 119.5, f64::from(y) - 119.5);
        let there = dx * dx + dy * dy < 6400.0 || (x, y) == (10, 10);
        [200, 30, 40, if there { 255 } else { 0 }]
    };
    for (clean, speck) in [(false, 255), (true, 0)] {
        let studio = Studio::new();
        let wish = job(&format!(r#""background": {{"action": "remove", "clean": {clean}}}"#));
        let manifest = studio.run(&wish, &png(SIDE, SIDE, picture));
        assert_eq!(manifest.background.as_ref().unwrap().method, "alpha");
        let cutout = studio.picture(entry(&manifest, "effect_cutout.png"));
        assert_eq!((cutout.get_pixel(10, 10)[3], cutout.get_pixel(119, 119)[3]), (speck, 255), "clean: {clean}");
    }
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    for (more, field) in [
        (r#""method": "classic", "fill": "transparent""#, "background.method"),
        (r#""clean": true, "fill": "transparent""#, "background.clean"),
        (r#""fill": "blur""#, "background.fill"),
    ] {
        let text = format!(r#"{{"source": "a.png", "palettes": {{"generate": 1}}, "background": {{{more}}}}}"#);
        let error = Job::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(field), "{more}: {error}");
    }
    let plain = br#"{"source": "a.png", "palettes": {"generate": 1}, "background": {"fill": "transparent"}}"#;
    assert!(Job::from_json(plain).is_ok());
}

#[test]
fn enclosed_ground_stays_when_it_is_to_stay() {
    let (studio, manifest) = run(r#""background": {"action": "remove", "enclosed": false}"#);
    let cutout = studio.picture(entry(&manifest, "effect_cutout.png"));
    assert_eq!((cutout.get_pixel(119, 119)[3], cutout.get_pixel(2, 2)[3]), (255, 0));
}

#[test]
fn a_matte_alone_is_made_in_every_output_and_nothing_else() {
    let (studio, manifest) = run(
        r#""background": {"matte": true, "method": "classic"}, "outputs": [{"format": "png"}, {"format": "webp", "max_dimension": 60, "lossless": true}]"#,
    );
    let objects: Vec<&str> = manifest.variations.iter().map(|entry| entry.object.as_str()).collect();
    assert_eq!(objects, ["effect_matte.png", "effect_matte_60.webp"]);
    let matte = studio.picture(&manifest.variations[0]);
    assert_eq!((matte.get_pixel(119, 60).0, matte.get_pixel(5, 5).0), ([255; 4], [0, 0, 0, 255]));
}

#[test]
fn a_color_a_role_a_blur_or_a_picture_takes_the_grounds_place() {
    let corner = |fill: &str, object: &str| {
        let (studio, manifest) = run(&format!(r#"{BRAND}, "background": {{"action": "remove", "fill": "{fill}"}}"#));
        let picture = studio.picture(entry(&manifest, object));
        assert!(picture.pixels().all(|pixel| pixel[3] == 255) || fill == "accent", "{fill} leaves nothing open");
        (picture.get_pixel(3, 3).0, entry(&manifest, object).notes.clone())
    };
    assert_eq!(corner("#102030", "effect_cutout.png").0, [16, 32, 48, 255]);
    assert_eq!(corner("#102030", "palette_Brand.png").0, [16, 32, 48, 255]);
    // Five colours without roles are primary, secondary, accent, background, highlight.
    assert_eq!(corner("accent", "palette_Brand.png").0, [0xEE, 0x44, 0x11, 255]);
    let (pixel, notes) = corner("accent", "effect_cutout.png");
    assert_eq!(pixel[3], 0);
    assert!(notes.iter().any(|note| note.contains("role accent")), "{notes:?}");
    let (pixel, _) = corner("blur", "effect_cutout.png");
    let near = [225, 235, 250].iter().zip(pixel).all(|(a, b): (&i32, u8)| (a - i32::from(b)).abs() < 8);
    assert!(near, "the blurred ground is the ground: {pixel:?}");

    let mut studio = Studio::new();
    studio.fill = Some(png(50, 20, |x, _| if x < 25 { [0, 200, 0, 255] } else { [0, 0, 200, 255] }));
    let job = job(
        r#""background": {"action": "remove", "fill": "behind.png"}, "outputs": [{"format": "png"}, {"format": "jpeg", "max_dimension": 120}]"#,
    );
    let manifest = studio.run(&job, &png(SIDE, SIDE, badge));
    let full = studio.picture(entry(&manifest, "effect_cutout.png"));
    assert_eq!((full.get_pixel(2, 2).0, full.get_pixel(237, 237).0), ([0, 200, 0, 255], [0, 0, 200, 255]));
    let small = studio.picture(entry(&manifest, "effect_cutout_120.jpg"));
    let (left, right) = (small.get_pixel(3, 3), small.get_pixel(116, 116));
    assert!(left[1] > 180 && left[2] < 30 && right[2] > 180 && right[1] < 30, "{left:?} {right:?}");
}

#[test]
fn a_subject_does_not_get_the_color_that_lies_behind_it() {
    for colors in [
        r##"["#112233", "#DDAA33", "#445566"]"##,
        r##"["#111111", "#222222", "#333333", "#444444", "#112233", "#555555"]"##,
    ] {
        let palette =
            format!(r##""palettes": [{{"name": "P", "colors": {colors}, "roles": {{"background": "#112233"}}}}]"##);
        let (studio, manifest) =
            run(&format!(r#"{palette}, "background": {{"action": "remove", "fill": "background"}}"#));
        let entry = entry(&manifest, "palette_P.png");
        let picture = studio.picture(entry);
        assert_eq!(picture.get_pixel(2, 2).0, [0x11, 0x22, 0x33, 255]);
        let ring = picture.get_pixel(119, 60).0;
        let apart: u32 = ring.iter().zip([0x11, 0x22, 0x33]).map(|(a, b): (&u8, u8)| u32::from(a.abs_diff(b))).sum();
        assert!(apart > 20, "the ring stands out: {ring:?}");
        assert!(entry.mapping.iter().all(|m| m.to != "#112233"), "{:?}", entry.mapping);
        assert!(entry.colors.contains(&"#112233".to_owned()), "the palette is listed whole");
    }
}

#[test]
fn a_palette_without_the_role_fails_alone_with_the_cure() {
    let studio = Studio::new();
    let palettes = r##""palettes": [{"name": "Two", "colors": ["#113355", "#DDAA33"]},
        {"name": "Roles", "colors": ["#113355", "#DDAA33"], "roles": {"accent": "#DDAA33"}}]"##;
    let job = job(&format!(r#"{palettes}, "background": {{"action": "remove", "fill": "accent"}}"#));
    let manifest = studio.run(&job, &png(SIDE, SIDE, badge));
    assert_eq!(manifest.state, State::Partial);
    let error = entry(&manifest, "palette_Two.png").error.as_ref().unwrap();
    assert!(error.class == "bad-palette" && error.message.contains("accent"), "{error:?}");
    assert!(entry(&manifest, "palette_Roles.png").error.is_none());
}

#[test]
fn a_picture_without_a_plain_ground_passes_as_it_is_flagged_and_never_torn() {
    let source = generator::jpeg(&generator::photo(320, 240), 92);
    for method in ["auto", "classic"] {
        let studio = Studio::new();
        let job = job(&format!(r#""background": {{"action": "remove", "method": "{method}"}}"#));
        let manifest = studio.run(&job, &source);
        let background = manifest.background.as_ref().unwrap();
        assert_eq!((background.method.as_str(), background.removed, background.flagged), ("none", false, true));
        assert!(background.notes[0].contains("no plain ground"), "{:?}", background.notes);
        let cutout = entry(&manifest, "effect_cutout.png");
        assert!(cutout.notes.iter().any(|note| note.contains("kept")), "{:?}", cutout.notes);
        let picture = studio.picture(cutout);
        let original = image::load_from_memory(&source).unwrap().to_rgba8();
        let apart = picture
            .pixels()
            .zip(original.pixels())
            .map(|(a, b)| a.0.iter().zip(b.0).map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0));
        assert!(apart.max() <= Some(3), "two decoders of JPEG agree, nothing else was done");
    }
}

#[test]
fn a_pictures_own_alpha_is_its_matte() {
    let picture = generator::logo(200, 150);
    let manifest = Studio::new().run(&job(r#""background": {"action": "remove"}"#), &generator::png(&picture));
    let background = manifest.background.unwrap();
    assert_eq!((background.method.as_str(), background.removed, background.confidence), ("alpha", true, 1.0));
    let own: u64 = picture.alpha.unwrap().iter().map(|&a| u64::from(a)).sum();
    assert!((background.subject_share - own as f64 / (255.0 * 200.0 * 150.0)).abs() < 1e-3);
}

#[test]
fn the_same_cutout_on_any_number_of_threads_and_an_identity_that_knows_what_lies_behind() {
    let more =
        format!(r#"{BRAND}, "background": {{"action": "remove", "fill": "blur"}}, "effects": ["pop-art", "dither"]"#);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let studio = Studio::new();
        pool.install(|| studio.run(&job(&more), &png(SIDE, SIDE, badge)));
        let mut made = files(&studio.out());
        made.retain(|name, _| name.ends_with(".png") && name != "contact-sheet.png");
        made
    };
    let one = on(1);
    assert_eq!(one.len(), 5, "{:?}", one.keys());
    assert!(one == on(3));

    let key = |fill: Option<&[u8]>| {
        let (studio, picture) = (Studio::new(), png(SIDE, SIDE, badge));
        let fill_job = job(r#""background": {"action": "remove", "fill": "behind.png"}"#);
        let inputs = Inputs { picture: &picture, fill };
        run::run(&fill_job, inputs, &studio.out(), &studio.options, &|_| ()).unwrap().key
    };
    let (green, blue) = (png(8, 8, |_, _| [0, 255, 0, 255]), png(8, 8, |_, _| [0, 0, 255, 255]));
    assert_eq!(key(Some(&green)), key(Some(&green)));
    assert_ne!(key(Some(&green)), key(Some(&blue)));
}

#[test]
fn a_picture_behind_that_is_none_fails_the_job_with_the_field() {
    let mut studio = Studio::new();
    studio.fill = Some(b"no picture".to_vec());
    let manifest =
        studio.run(&job(r#""background": {"action": "remove", "fill": "behind.png"}"#), &png(SIDE, SIDE, badge));
    let error = manifest.error.unwrap();
    assert_eq!((manifest.state, error.class.as_str()), (State::Failed, "unsupported-picture"));
    assert!(error.message.starts_with("background.fill: "), "{}", error.message);
}

#[test]
fn options_that_cannot_act_are_refused_with_the_field() {
    for (more, part) in [
        (r#""palettes": {"generate": 1}, "background": {"fill": "blur"}"#, "background.fill"),
        (r#""palettes": {"generate": 1}, "background": {"method": "classic"}"#, "background.method"),
        (r#""palettes": {"generate": 1}, "background": {"enclosed": false}"#, "background.enclosed"),
        (r#""palettes": {"generate": 1}, "background": {"matte": true}"#, "background.matte"),
        (r#""effects": ["dither"], "background": {"matte": true}"#, "background.matte"),
        (r#""background": {"action": "remove", "method": "classic", "model": "x"}"#, "background.model"),
        (r#""background": {"action": "remove", "method": "magic"}"#, "magic"),
        (r#""background": {"action": "remove", "fill": "nothing"}"#, "transparent, a colour"),
        (r##""background": {"action": "remove", "fill": "#12"}"##, "#12"),
        (r#""palettes": []"#, "nothing to make"),
    ] {
        let error = Job::from_json(format!(r#"{{"source": "a.png", {more}}}"#).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    let unknown = job(r#""background": {"action": "remove", "model": "u2net"}"#);
    let error = Studio::new().try_run(&unknown, &png(8, 8, badge)).unwrap_err().to_string();
    assert!(error.contains("background.model") && error.contains("CONCEPT_MODEL"), "{error}");
}
