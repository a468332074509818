//! What each mode and each format promises, seen in the files.

mod studio;

use std::collections::HashSet;

use concept_worker::kernel::color::{Rgb8, delta_e_2000};
use concept_worker::kernel::quality::tone;
use concept_worker::pipeline::job::{Dither, Job, Mode};
use concept_worker::pipeline::manifest::{Manifest, State, VariationEntry};
use image::{Rgba, RgbaImage};
use studio::{COOL, MODES, Studio, WARM, bands, fixture, job, png};

const PNG: &str = r#"[{"format": "png"}]"#;

fn colors(entry: &VariationEntry) -> Vec<Rgb8> {
    entry.colors.iter().map(|color| color.parse().unwrap()).collect()
}

fn color(pixel: &Rgba<u8>) -> Rgb8 {
    Rgb8::new(pixel.0[0], pixel.0[1], pixel.0[2])
}

fn complete(manifest: &Manifest) -> &[VariationEntry] {
    assert_eq!(manifest.state, State::Complete, "{:?}", manifest.variations);
    &manifest.variations
}

/// The colour type and bit depth in a PNG's header.
fn png_kind(bytes: &[u8]) -> (png::ColorType, png::BitDepth) {
    let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    (reader.info().color_type, reader.info().bit_depth)
}

#[test]
fn exact_holds_only_palette_colors_in_every_lossless_file_and_is_indexed() {
    let depths = [
        (1, png::BitDepth::One),
        (2, png::BitDepth::One),
        (4, png::BitDepth::Two),
        (5, png::BitDepth::Four),
        (16, png::BitDepth::Four),
        (17, png::BitDepth::Eight),
        (64, png::BitDepth::Eight),
    ];
    let palettes: Vec<String> = depths
        .iter()
        .map(|(count, _)| {
            let colors: Vec<String> =
                (0..*count as u32).map(|i| format!("\"#{:06X}\"", (i + 1).wrapping_mul(0x9E37_79B1) >> 8)).collect();
            format!(r#"{{"name": "{count} colours", "colors": [{}]}}"#, colors.join(","))
        })
        .collect();
    let outputs =
        r#"[{"format": "png"}, {"format": "png", "max_dimension": 50}, {"format": "webp", "lossless": true}]"#;
    let picture = image::load_from_memory(&fixture("photo.webp")).unwrap().to_rgba8();
    let source = png(picture.width(), picture.height(), |x, y| picture.get_pixel(x, y).0);
    for dither in [Dither::FloydSteinberg, Dither::BlueNoise, Dither::None] {
        let mut job = job(&format!("[{}]", palettes.join(",")), Mode::Exact, outputs);
        job.recolor.dither = dither;
        let studio = Studio::new();
        let manifest = studio.run(&job, &source);
        for (entries, (_, depth)) in complete(&manifest).chunks(3).zip(depths) {
            for entry in entries {
                let allowed: HashSet<Rgb8> = colors(entry).into_iter().collect();
                let found: HashSet<Rgb8> = studio.picture(entry).pixels().map(color).collect();
                assert!(found.is_subset(&allowed), "{dither:?}, {}: {:?}", entry.object, found.difference(&allowed));
                if entry.format == "png" {
                    let kind = png_kind(&studio.read(&entry.object));
                    assert_eq!(kind, (png::ColorType::Indexed, depth), "{}", entry.object);
                }
            }
        }
    }
}

#[test]
fn exact_keeps_soft_edges_of_reduced_cut_outs() {
    // Opaque or hidden, nothing between; reduced, its edge is soft.
    let disc = |x: u32, y: u32| {
        let inside = (x as i32 - 60).pow(2) + (y as i32 - 60).pow(2) < 50 * 50;
        let [r, g, b, _] = bands(x, y);
        [r, g, b, if inside { 255 } else { 0 }]
    };
    let outputs = r#"[{"format": "png"}, {"format": "png", "max_dimension": 37}, {"format": "webp", "lossless": true, "max_dimension": 37}]"#;
    let studio = Studio::new();
    let exact = studio.run(&job(&format!("[{WARM}]"), Mode::Exact, outputs), &png(120, 120, disc));
    let [full, small, webp] = complete(&exact) else { panic!("three files") };
    assert_eq!(png_kind(&studio.read(&full.object)).0, png::ColorType::Indexed);
    assert!(studio.picture(full).enumerate_pixels().all(|(x, y, p)| p.0[3] == disc(x, y)[3]));
    let alphas = |entry| -> Vec<u8> { studio.picture(entry).pixels().map(|p| p.0[3]).collect() };
    assert!(alphas(small).iter().any(|a| !matches!(a, 0 | 255)), "the edge was cut hard");
    assert_eq!(alphas(small), alphas(webp));
}

#[test]
fn tint_keeps_the_order_of_lightness() {
    let ramp = png(256, 4, |x, _| [x as u8, x as u8, x as u8, 255]);
    let palettes = format!(
        r##"[{WARM}, {COOL}, {{"name": "One", "colors": ["#7A1FA2"]}},
            {{"name": "Two", "colors": ["#FFE0B2", "#1A237E"]}}]"##
    );
    let studio = Studio::new();
    let manifest = studio.run(&job(&palettes, Mode::Tint, PNG), &ramp);
    for entry in complete(&manifest) {
        let picture = studio.picture(entry);
        let mapped: Vec<u32> = (0..256).map(|x| color(picture.get_pixel(x, 0)).packed()).collect();
        assert_eq!(tone::ramp_inversions(&mapped), 0, "{}", entry.object);
        assert!(mapped[0] != mapped[255], "{}", entry.object);
    }
}

#[test]
fn tint_runs_from_the_darkest_to_the_lightest_color() {
    let ramp = png(256, 4, |x, _| [x as u8, x as u8, x as u8, 255]);
    let studio = Studio::new();
    let manifest = studio.run(&job(&format!("[{COOL}]"), Mode::Tint, PNG), &ramp);
    let picture = studio.picture(&complete(&manifest)[0]);
    let ends = [color(picture.get_pixel(0, 0)).to_string(), color(picture.get_pixel(255, 0)).to_string()];
    assert_eq!(ends, ["#03045E", "#CAF0F8"]);
}

#[test]
fn strength_0_is_the_picture_itself_in_every_mode_without_dither() {
    let source = fixture("logo_transparent_garbage.png");
    let original = image::load_from_memory(&source).unwrap().to_rgba8();
    for mode in [Mode::Soft, Mode::Transfer, Mode::Faithful, Mode::Tint] {
        let mut job = job(&format!("[{WARM}]"), mode, r#"[{"format": "png"}, {"format": "webp", "lossless": true}]"#);
        job.recolor.strength = 0.0;
        let studio = Studio::new();
        for entry in complete(&studio.run(&job, &source)) {
            for (found, wanted) in studio.picture(entry).pixels().zip(original.pixels()) {
                assert_eq!(found.0[3], wanted.0[3]);
                assert!(wanted.0[3] == 0 || found == wanted, "{mode:?}: {found:?} {wanted:?}");
            }
        }
    }
}

/// Largest colours of a picture: each holds at least this share of it.
fn regions(picture: &RgbaImage, share: f64) -> Vec<Rgb8> {
    let mut counts = std::collections::HashMap::new();
    picture.pixels().for_each(|p| *counts.entry(color(p)).or_insert(0u64) += 1);
    let least = share * f64::from(picture.width() * picture.height());
    let mut regions: Vec<(u64, Rgb8)> =
        counts.into_iter().filter(|&(_, n)| n as f64 >= least).map(|(c, n)| (n, c)).collect();
    regions.sort_by_key(|&(n, c)| (std::cmp::Reverse(n), c));
    regions.into_iter().map(|(_, c)| c).collect()
}

#[test]
fn soft_puts_the_large_regions_of_flat_art_on_brand_colors_and_shows_all_five() {
    let source = fixture("flat_art.png");
    let before = image::load_from_memory(&source).unwrap().to_rgba8();
    let studio = Studio::new();
    let manifest = studio.run(&job(&format!("[{WARM}, {COOL}]"), Mode::Soft, PNG), &source);
    for entry in complete(&manifest) {
        let after = studio.picture(entry);
        let palette = colors(entry);
        let off = |c: Rgb8| palette.iter().map(|p| delta_e_2000(p.lab(), c.lab())).fold(f32::MAX, f32::min);
        // A region of every palette colour lands on it; more regions than colours are tints of them.
        let largest = regions(&before, 0.02);
        assert!(largest.len() >= 5, "{largest:?}");
        let landed = regions(&after, 0.0005);
        for brand in &palette {
            let nearest = landed.iter().map(|c| delta_e_2000(brand.lab(), c.lab())).fold(f32::MAX, f32::min);
            assert!(nearest <= 1.0, "{}: {brand} is {nearest} away from what is there", entry.object);
        }
        let exact = regions(&after, 0.02).into_iter().filter(|&c| off(c) <= 1.0).count();
        println!("{}: {exact} of {} large regions on brand colours", entry.object, regions(&after, 0.02).len());
        assert!(exact >= 4, "{}", entry.object);
        let first = regions(&after, 0.02)[0];
        assert!(off(first) <= 1.0, "the largest region is {first}");
        assert_eq!(entry.metrics["colors_present"], 5.0);
    }
}

#[test]
fn the_predecessors_looks_run_on_photographs_and_logos() {
    for mode in [Mode::Transfer, Mode::Faithful] {
        for name in ["portrait.jpg", "logo_transparent_garbage.png", "grey.jpg"] {
            let source = fixture(name);
            let before = image::load_from_memory(&source).unwrap().to_rgba8();
            let studio = Studio::new();
            for entry in complete(&studio.run(&job(&format!("[{WARM}, {COOL}]"), mode, PNG), &source)) {
                let after = studio.picture(entry);
                assert!(after.pixels().zip(before.pixels()).all(|(a, b)| a.0[3] == b.0[3]), "{mode:?}, {name}");
                let changed = after.pixels().zip(before.pixels()).filter(|(a, b)| b.0[3] > 0 && a != b).count();
                assert!(changed * 10 > before.pixels().filter(|p| p.0[3] > 0).count() * 9, "{mode:?}, {name}");
                assert!(entry.mapping.len() >= 2 && entry.metrics.contains_key("lightness_order"));
            }
        }
    }
}

#[test]
fn several_sizes_come_out_of_one_pass_and_never_enlarge() {
    let outputs = r#"[{"format": "png", "max_dimension": 1024}, {"format": "png", "max_dimension": 512},
        {"format": "png", "max_dimension": 33}, {"format": "png", "max_dimension": 1}, {"format": "jpeg", "max_dimension": 65535}]"#;
    let source = png(600, 401, bands);
    for mode in MODES {
        let studio = Studio::new();
        let manifest = studio.run(&job(&format!("[{WARM}]"), mode, outputs), &source);
        let sizes: Vec<_> = complete(&manifest).iter().map(|entry| studio.picture(entry).dimensions()).collect();
        assert_eq!(sizes, [(600, 401), (512, 342), (33, 22), (1, 1), (600, 401)], "{mode:?}");
    }
}

#[test]
fn every_file_says_that_it_is_srgb_and_is_what_its_name_says() {
    let outputs = r#"[{"format": "png"}, {"format": "jpeg"}, {"format": "webp"}, {"format": "webp", "lossless": true},
        {"format": "jpeg", "progressive": true}, {"format": "png", "effort": "small"}]"#;
    let studio = Studio::new();
    let manifest = studio.run(&job(&format!("[{WARM}]"), Mode::Soft, outputs), &fixture("wide_gamut_p3.png"));
    for entry in complete(&manifest) {
        let bytes = studio.read(&entry.object);
        let extension = match image::guess_format(&bytes).unwrap() {
            image::ImageFormat::Png => {
                let reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
                assert!(reader.info().srgb.is_some() && reader.info().icc_profile.is_none());
                "png"
            }
            image::ImageFormat::Jpeg => {
                let mut decoder =
                    zune_jpeg::JpegDecoder::new(zune_jpeg::zune_core::bytestream::ZCursor::new(&bytes[..]));
                decoder.decode_headers().unwrap();
                let profile = decoder.icc_profile().expect("a profile");
                assert!(profile.len() < 1024 && profile.windows(4).any(|w| w == b"RGB "));
                "jpg"
            }
            // A WebP without a profile is sRGB by its specification.
            image::ImageFormat::WebP => {
                assert!(!bytes.windows(4).any(|w| w == b"ICCP"));
                "webp"
            }
            other => panic!("{other:?}"),
        };
        assert!(entry.object.ends_with(extension), "{}", entry.object);
        assert_eq!(entry.bytes, bytes.len() as u64);
        studio.picture(entry);
    }
}

#[test]
fn jpeg_shows_white_where_the_picture_is_transparent() {
    let studio = Studio::new();
    for mode in MODES {
        let source = fixture("fully_transparent.png");
        let manifest = studio.run(&job(&format!("[{WARM}]"), mode, r#"[{"format": "jpeg"}]"#), &source);
        let picture = studio.picture(&complete(&manifest)[0]);
        assert!(picture.pixels().all(|p| p.0 == [255; 4]), "{mode:?}");
    }
}

#[test]
fn what_a_mode_cannot_honour_is_said() {
    let palette = r##"[{"name": "Kept", "colors": ["#264653", "#E9C46A"], "protect": ["#FFFFFF"], "pins": {"#000000": "#264653"}}]"##;
    for (mode, silent) in [
        (Mode::Soft, true),
        (Mode::Exact, false),
        (Mode::Transfer, false),
        (Mode::Faithful, false),
        (Mode::Tint, false),
    ] {
        let studio = Studio::new();
        let manifest = studio.run(&job(palette, mode, PNG), &png(60, 40, bands));
        let said = complete(&manifest)[0].notes.iter().any(|note| note.contains("protect"));
        assert_eq!(said, !silent, "{mode:?}: {:?}", manifest.variations[0].notes);
    }
}

/// SSIMULACRA2 of a file against the lossless file of the same variation.
fn ssimulacra2_of(lossy: &RgbaImage, lossless: &RgbaImage) -> f64 {
    let rgb = |picture: &RgbaImage| {
        let pixels = picture.pixels().map(|p| [0, 1, 2].map(|c| f32::from(p.0[c]) / 255.0)).collect();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (transfer, primaries) = (ssimulacra2::TransferCharacteristic::SRGB, ssimulacra2::ColorPrimaries::BT709);
        ssimulacra2::Rgb::new(pixels, width, height, transfer, primaries).unwrap()
    };
    ssimulacra2::compute_frame_ssimulacra2(rgb(lossless), rgb(lossy)).unwrap()
}

#[test]
fn lossy_files_at_the_default_quality_look_like_the_lossless_ones() {
    let outputs = r#"[{"format": "png"}, {"format": "jpeg"}, {"format": "webp"}]"#;
    for name in ["photo.jpg", "flat_art.png"] {
        for mode in [Mode::Soft, Mode::Tint] {
            let studio = Studio::new();
            let job: Job = job(&format!("[{WARM}, {COOL}]"), mode, outputs);
            let manifest = studio.run(&job, &fixture(name));
            for files in complete(&manifest).chunks(3) {
                let lossless = studio.picture(&files[0]);
                for lossy in &files[1..] {
                    let score = ssimulacra2_of(&studio.picture(lossy), &lossless);
                    println!("{name}, {mode:?}, {}: {score:.1}, {} bytes", lossy.object, lossy.bytes);
                    assert!(score >= 80.0, "{name}, {mode:?}, {}: {score}", lossy.object);
                }
            }
        }
    }
}
