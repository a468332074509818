//! Whatever comes in has a defined result: a manifest that says what was wrong, or an error that names the cure.

mod place;
mod studio;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use concept_worker::pipeline::base::Inputs;
use concept_worker::pipeline::event::Event;
use concept_worker::pipeline::job::{Job, Mode};
use concept_worker::pipeline::manifest::{Manifest, State, VariationEntry};
use concept_worker::pipeline::run::{self, RunError};
use place::Place;
use studio::{COOL, EVERY_FORMAT, MODES, Studio, WARM, bands, files, fixture, job, png};

const PNG: &str = r#"[{"format": "png"}]"#;

fn warm(mode: Mode, outputs: &str) -> Job {
    job(&format!("[{WARM}]"), mode, outputs)
}

fn class(entry: &VariationEntry) -> &str {
    entry.error.as_ref().map_or("", |error| error.class.as_str())
}

#[test]
fn pictures_that_cannot_be_used_fail_with_a_manifest_that_says_why() {
    let flipped = {
        let mut bytes = fixture("flat_art.png");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes
    };
    for (source, class, words) in [
        (fixture("truncated.png"), "broken-picture", "PNG"),
        (fixture("truncated.jpg"), "broken-picture", "JPEG"),
        (fixture("bomb.png"), "picture-too-large", "CONCEPT_MAX_PIXELS"),
        (fixture("not_an_image.txt"), "unsupported-picture", "PNG, JPEG, WebP, GIF, BMP or TIFF"),
        (Vec::new(), "broken-picture", "empty"),
        (flipped, "broken-picture", "PNG"),
    ] {
        let studio = Studio::new();
        let manifest = studio.run(&warm(Mode::Soft, PNG), &source);
        let error = manifest.error.expect("a reason");
        assert_eq!((manifest.state, manifest.variations.len()), (State::Failed, 0), "{class}");
        println!("{}: {}", error.class, error.message);
        assert!(error.message.contains(words), "{class}: {}", error.message);
        assert_eq!(error.class, class, "{}", error.message);
        assert_eq!(files(&studio.out()).len(), 1, "only the manifest");
    }
}

#[test]
fn a_picture_beyond_the_pixel_limit_costs_nothing_and_names_the_variable() {
    let mut studio = Studio::new();
    studio.options.max_pixels = 60 * 40 - 1;
    let manifest = studio.run(&warm(Mode::Soft, PNG), &png(60, 40, bands));
    let error = manifest.error.unwrap();
    assert_eq!((manifest.state, error.class.as_str()), (State::Failed, "picture-too-large"));
    assert!(error.message.contains("CONCEPT_MAX_PIXELS"), "{}", error.message);
    studio.options.max_pixels += 1;
    assert_eq!(studio.run(&warm(Mode::Soft, PNG), &png(60, 40, bands)).state, State::Complete);
}

#[test]
fn a_failed_run_takes_back_the_page_and_the_manifest_of_an_earlier_one() {
    let studio = Studio::new();
    studio.run(&warm(Mode::Soft, PNG), &png(60, 40, bands));
    assert!(files(&studio.out()).contains_key("gallery.html"));
    studio.run(&warm(Mode::Soft, PNG), b"no picture");
    let left = files(&studio.out());
    assert!(!left.contains_key("gallery.html") && !left.contains_key("contact-sheet.png"), "{:?}", left.keys());
}

#[test]
fn a_job_with_nothing_to_make_is_refused_with_the_cure() {
    for text in [r#"{"source": "p", "palettes": []}"#, r#"{"source": "p"}"#] {
        let error = Job::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("palettes") && error.contains("generate"), "{error}");
    }
    let empty = Job { palettes: Default::default(), ..warm(Mode::Soft, PNG) };
    let studio = Studio::new();
    assert!(matches!(studio.try_run(&empty, &png(4, 4, bands)), Err(RunError::Job(_))));
    assert!(!studio.out().exists(), "nothing is touched before the job is checked");
}

#[test]
fn a_bad_palette_fails_alone() {
    let long = "x".repeat(201);
    let many: Vec<String> = (0..65).map(|i| format!("\"#{i:02X}8040\"")).collect();
    let bad = [
        r##"{"name": "No colours", "colors": []}"##.to_owned(),
        r##"{"name": "No colour", "colors": ["#12345"]}"##.to_owned(),
        r##"{"name": "", "colors": ["#123456"]}"##.to_owned(),
        r##"{"name": " \t ", "colors": ["#123456"]}"##.to_owned(),
        format!(r##"{{"name": "{long}", "colors": ["#123456"]}}"##),
        format!(r#"{{"name": "Too many", "colors": [{}]}}"#, many.join(",")),
        r##"{"name": "Foreign role", "colors": ["#123456"], "roles": {"primary": "#654321"}}"##.to_owned(),
        r##"{"name": "No role", "colors": ["#123456"], "roles": {"middle": "#123456"}}"##.to_owned(),
        r##"{"name": "Foreign pin", "colors": ["#123456"], "pins": {"#FFFFFF": "#654321"}}"##.to_owned(),
        r##"{"name": "No protected colour", "colors": ["#123456"], "protect": ["white"]}"##.to_owned(),
    ];
    let studio = Studio::new();
    let palettes = format!("[{WARM}, {}, {COOL}]", bad.join(","));
    let manifest = studio.run(&job(&palettes, Mode::Soft, PNG), &png(60, 40, bands));
    assert_eq!((manifest.state, manifest.variations.len()), (State::Partial, bad.len() + 2));
    let (first, rest) = manifest.variations.split_first().unwrap();
    let (last, middle) = rest.split_last().unwrap();
    assert_eq!((class(first), class(last)), ("", ""));
    for entry in middle {
        assert_eq!(class(entry), "bad-palette", "{entry:?}");
        let message = &entry.error.as_ref().unwrap().message;
        println!("{message}");
        assert!(message.len() > 20 && message.len() < 500, "{message}");
    }

    let alone = studio.run(&job(&format!("[{}]", bad[0]), Mode::Soft, PNG), &png(60, 40, bands));
    assert_eq!(alone.state, State::Failed);
}

#[test]
fn palettes_and_pictures_of_one_color_work_in_every_mode() {
    let pictures = [
        ("bands", png(60, 40, bands)),
        ("one colour", fixture("one_color.png")),
        ("one pixel", fixture("1x1.png")),
        ("nothing visible", fixture("fully_transparent.png")),
        ("one visible pixel", png(700, 500, |x, y| [9, 99, 199, u8::from((x, y) == (699, 499)) * 255])),
        ("black and white", png(2, 2, |x, y| [[0, 0, 0, 255], [255, 255, 255, 255]][(x + y) as usize % 2])),
    ];
    let many: Vec<String> = (0..64u32).map(|i| format!("\"#{:06X}\"", i.wrapping_mul(0x9E37_79B1) >> 8)).collect();
    let palettes = format!(
        r##"[{WARM}, {{"name": "One", "colors": ["#C0FFEE"]}}, {{"name": "Black", "colors": ["#000"]}},
            {{"name": "White", "colors": ["#fff"]}}, {{"name": "Many", "colors": [{}]}}]"##,
        many.join(",")
    );
    for mode in MODES {
        for (name, source) in &pictures {
            let studio = Studio::new();
            let manifest = studio.run(&job(&palettes, mode, EVERY_FORMAT), source);
            assert_eq!(manifest.state, State::Complete, "{mode:?}, {name}: {:?}", manifest.variations);
            for entry in &manifest.variations {
                studio.picture(entry);
            }
            if *name == "nothing visible" {
                for entry in &manifest.variations {
                    assert!(entry.mapping.is_empty() && !entry.notes.is_empty(), "{entry:?}");
                    assert!(entry.format == "jpeg" || studio.picture(entry).pixels().all(|p| p.0[3] == 0));
                }
            }
        }
    }
}

#[test]
fn the_widest_and_the_tallest_picture_work_in_every_mode_and_too_wide_for_webp_fails_alone_with_its_cure() {
    for (width, height) in [(65_535, 1), (1, 65_535)] {
        let source = png(width, height, bands);
        for mode in MODES {
            let studio = Studio::new();
            let manifest = studio.run(&warm(mode, EVERY_FORMAT), &source);
            assert_eq!(manifest.state, State::Partial);
            for entry in &manifest.variations {
                if entry.format == "webp" {
                    let message = &entry.error.as_ref().expect("WebP ends at 16,383 pixels").message;
                    assert_eq!(class(entry), "output-too-large");
                    assert!(message.contains("max_dimension to 16383"), "{message}");
                } else if cfg!(feature = "turbojpeg")
                    && entry.format == "jpeg"
                    && entry.width.max(entry.height) > 65_500
                {
                    assert_eq!(class(entry), "output-too-large");
                } else {
                    studio.picture(entry);
                }
            }
            let generated = job(r#"{"generate": 2}"#, mode, r#"[{"format": "webp", "max_dimension": 16383}]"#);
            let manifest = studio.run(&generated, &source);
            assert_eq!(manifest.state, State::Complete);
            manifest.variations.iter().for_each(|entry| drop(studio.picture(entry)));
        }
    }
    let studio = Studio::new();
    let manifest = studio.run(&warm(Mode::Soft, PNG), &png(65_536, 1, bands));
    let error = manifest.error.expect("one pixel more is too much");
    assert_eq!(error.class, "picture-too-large", "{}", error.message);
}

#[test]
fn palettes_of_one_name_and_hostile_names_get_files_of_their_own_inside_the_folder() {
    let wide: String = "\u{20000}".repeat(200);
    let names = [
        "Warm",
        "Warm",
        "warm",
        "WARM!",
        "../../escape",
        "/etc/passwd",
        "..\\..\\escape",
        "C:\\x",
        "a/b",
        ".",
        "..",
        "-",
        "CON",
        "nul",
        "~",
        "$(reboot)",
        "`reboot`",
        "<script>",
        "a\u{0}b",
        "\u{202e}gnp",
        "Été",
        "Ete\u{301}",
        "北京",
        &wide,
        "x".repeat(200).as_str(),
    ]
    .map(str::to_owned);
    let palettes: Vec<String> = names
        .iter()
        .map(|name| {
            format!(r##"{{"name": {}, "colors": ["#264653", "#E9C46A"]}}"##, serde_json::to_string(name).unwrap())
        })
        .collect();
    let studio = Studio::new();
    let outputs = r#"[{"format": "png"}, {"format": "jpeg", "max_dimension": 20}]"#;
    let manifest = studio.run(&job(&format!("[{}]", palettes.join(",")), Mode::Soft, outputs), &png(60, 40, bands));
    for entry in manifest.variations.iter().filter(|entry| entry.error.is_some()) {
        println!("{:?}", entry.error);
    }
    assert_eq!(manifest.state, State::Complete);
    let mut objects = std::collections::BTreeSet::new();
    for entry in &manifest.variations {
        assert!(entry.object.starts_with("palette_") && entry.object.len() <= 255, "{}", entry.object);
        assert!(Path::new(&entry.object).components().count() == 1);
        assert!(
            !entry.object.contains(|c: char| "/\\:*?\"<>|$`~\u{202e}".contains(c) || c.is_control()),
            "{}",
            entry.object
        );
        assert!(objects.insert(entry.object.to_lowercase()), "{} twice", entry.object);
        studio.picture(entry);
    }
    assert_eq!(files(&studio.out()).len(), objects.len() + 3, "the manifest, the gallery, the contact sheet");
    let outside: Vec<_> = std::fs::read_dir(studio.out().parent().unwrap()).unwrap().collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
}

#[test]
fn a_folder_that_vanishes_during_the_run_is_an_error_and_no_panic() {
    let studio = Studio::new();
    let out = studio.out();
    let vanish = |event: Event| {
        if matches!(event, Event::Planned { .. }) {
            std::fs::remove_dir_all(&out).unwrap();
        }
    };
    let job = job(&format!("[{WARM}, {COOL}]"), Mode::Soft, EVERY_FORMAT);
    let error = run::run(&job, Inputs { picture: &png(60, 40, bands), fill: None }, &out, &studio.options, &vanish)
        .unwrap_err();
    assert!(matches!(error, RunError::Output { .. }), "{error}");
    assert!(error.to_string().contains("check that the folder exists"), "{error}");
    assert!(!out.exists());
    assert_eq!(studio.run(&job, &png(60, 40, bands)).state, State::Complete, "a second run makes it anew");
}

#[test]
fn a_folder_in_the_place_of_a_file_fails_that_file_alone() {
    let studio = Studio::new();
    std::fs::create_dir_all(studio.out().join("palette_Warm.png/inside")).unwrap();
    let manifest = studio.try_run(&job(&format!("[{WARM}, {COOL}]"), Mode::Soft, PNG), &png(60, 40, bands)).unwrap();
    assert_eq!(manifest.state, State::Partial);
    assert_eq!((class(&manifest.variations[0]), class(&manifest.variations[1])), ("storage", ""));
    let names: Vec<String> = std::fs::read_dir(studio.out())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn an_out_folder_that_cannot_be_written_is_refused_before_any_work() {
    let place = Place::new();
    place.write("picture.png", png(60, 40, bands));
    place.write("file", "");
    place.write("readonly/x", "");
    let readonly = place.path("readonly");
    let mut mode = std::fs::metadata(&readonly).unwrap().permissions();
    mode.set_readonly(true);
    std::fs::set_permissions(&readonly, mode).unwrap();
    let mut folders = vec!["file", "file/below"];
    if tempfile::tempfile_in(&readonly).is_err() {
        folders.extend(["readonly", "readonly/below"]);
    } else {
        eprintln!("skipped: this user may write into read-only folders");
    }
    if cfg!(target_os = "linux") {
        folders.push("/proc/concept-worker");
    }
    for folder in folders {
        let said = place.run(&["render", "picture.png", "--out", folder]);
        assert_eq!(said.code, Some(2), "{folder}: {}", said.err);
        assert!(said.err.contains("--out") && said.err.contains("name a"), "{folder}: {}", said.err);
    }
}

/// Files beyond 64 KiB cannot be written: what a full disk does to large files and not to small ones.
#[cfg(unix)]
#[test]
fn where_there_is_no_room_the_large_files_fail_and_the_manifest_says_so() {
    let place = Place::new();
    place.write("noise.png", fixture("noise.png"));
    place.write(
        "job.json",
        format!(
            r#"{{"source": "noise.png", "palettes": [{WARM}], "outputs": [
        {{"format": "png"}}, {{"format": "jpeg", "quality": 20, "max_dimension": 64}}]}}"#
        ),
    );
    let mut command = std::process::Command::new("bash");
    // Without the signal, writing beyond the limit is an error like any other.
    command.args(["-c", "trap '' XFSZ; ulimit -f 24; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_concept-worker")]);
    command.args(["job", "job.json", "--out", "out"]).current_dir(place.path("."));
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no bash");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("there is room"), "{said}");
    let left = files(&place.path("out"));
    assert!(left.keys().all(|name| !name.starts_with('.')), "{:?}", left.keys());
    let manifest: Manifest = serde_json::from_slice(&left["manifest.json"]).unwrap();
    assert_eq!(manifest.state, State::Partial);
    assert_eq!((class(&manifest.variations[0]), class(&manifest.variations[1])), ("storage", ""));
    assert!(left.contains_key(&manifest.variations[1].object) && !left.contains_key(&manifest.variations[0].object));
}

#[test]
fn a_run_killed_at_any_moment_leaves_no_half_files_and_a_second_run_repairs_it() {
    let place = Place::new();
    let textured = |x: u32, y: u32| {
        let [r, g, b, _] = bands(x / 40, y / 30);
        let grain = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(0x9E37_79B1)) >> 27;
        [r ^ grain as u8, g ^ (grain >> 1) as u8, b ^ (grain >> 2) as u8, 255]
    };
    place.write("picture.png", png(1400, 1000, textured));
    let args = ["render", "picture.png", "--generate", "24", "--out", "out", "--threads", "2", "--max-dimension", "0"];
    let out = place.path("out");
    let names = |start: &str| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&out) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start)).collect()
    };
    let mut unfinished_seen = 0;
    for wanted in [0, 1, 5] {
        let _ = std::fs::remove_dir_all(&out);
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        // Some files are whole and one is being written.
        while names("palette_").len() < wanted || names(".concept-worker-").is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
            assert!(start.elapsed() < Duration::from_secs(120), "nothing is written");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for name in names("palette_") {
            let picture = image::open(out.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((picture.width(), picture.height()), (1400, 1000));
        }
        assert!(!out.join("manifest.json").exists(), "the manifest comes last");
        unfinished_seen += names(".concept-worker-").len();
    }
    assert!(unfinished_seen > 0, "no run was killed while it wrote");

    let said = place.run(&args);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!((names("palette_").len(), names(".").len()), (24, 0));
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest.state, State::Complete);
}

#[test]
fn a_run_killed_over_an_older_result_leaves_no_manifest_that_vouches_for_it() {
    let studio = Studio::new();
    let job = warm(Mode::Soft, PNG);
    studio.run(&job, &png(60, 40, bands));
    let manifest = studio.out().join("manifest.json");
    let watch = |event: Event| {
        if matches!(event, Event::Planned { .. } | Event::Made { .. }) {
            assert!(!manifest.exists());
        }
    };
    run::run(&job, Inputs { picture: &png(60, 40, bands), fill: None }, &studio.out(), &studio.options, &watch)
        .unwrap();
    assert!(manifest.exists());
}
