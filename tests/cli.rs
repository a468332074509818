//! The command line as a person meets it: help, refusals with their cure, exit codes. Nothing here makes a picture.

mod place;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use place::Place;

/// Runs and expects a refusal: exit code 2, nothing on standard output.
#[track_caller]
fn refusal(place: &Place, args: &[&str]) -> String {
    let said = place.run(args);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{args:?}: {}", said.err);
    said.err
}

/// A place with a file for every argument that has to exist.
fn prepared() -> Place {
    let place = Place::new();
    place.write("picture.png", b"not looked at");
    place.write("colors.hex", b"#264653\n#2A9D8F\n");
    place
}

#[test]
fn help_names_every_command_and_flag() {
    let place = Place::new();
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_render", &["render", "--help"]),
        ("help_job", &["job", "--help"]),
        ("help_palette", &["palette", "--help"]),
        ("help_config", &["config", "--help"]),
        ("help_completions", &["completions", "--help"]),
    ] {
        let said = place.run(args);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        insta::assert_snapshot!(name, said.out);
    }
}

#[test]
fn flags_out_of_range_are_refused_with_the_flag_and_what_it_takes() {
    let place = prepared();
    for (flag, values, cure) in [
        ("--strength", &["NaN", "-0.1", "1.01", "inf", "much", ""][..], "give a number from 0"),
        ("--quality", &["0", "101", "-1", "best"], "--quality"),
        ("--size", &["0", "-5", "65536", "big", ""], "give the longest side in pixels, 1 to 65535"),
        ("--max-dimension", &["-1", "65536"], "--max-dimension"),
        ("--threads", &["-1", "1025", "all"], "--threads"),
        ("--generate", &["0", "-7"], "--generate"),
        ("--mode", &["softer"], "'soft'"),
        ("--format", &["gif"], "png, jpeg, webp"),
        ("--job-id", &["", "../x", ".hidden"], "names a folder"),
        ("--user-id", &["a/b", ".."], "names a folder"),
    ] {
        for value in values {
            let err = refusal(&place, &["render", "picture.png", "--out", "out", &format!("{flag}={value}")]);
            assert!(err.contains(flag) && err.contains(cure), "{flag} {value}: {err}");
        }
    }
    assert!(!place.path("out").exists());
}

#[test]
fn misspelt_flags_and_commands_get_a_suggestion() {
    let place = prepared();
    assert!(refusal(&place, &["render", "picture.png", "--out", "o", "--strenght", "1"]).contains("'--strength'"));
    assert!(refusal(&place, &["rendr", "picture.png"]).contains("'render'"));
    assert!(refusal(&place, &["render", "picture.png"]).contains("--out"));
}

#[test]
fn files_that_cannot_be_used_are_refused_with_the_argument_the_file_and_the_cure() {
    let place = prepared();
    std::fs::create_dir(place.path("folder")).unwrap();
    place.write("empty.png", b"");
    for (args, text) in [
        (&["render", "none.png", "--out", "o"][..], "IMAGE: no file at none.png; check the path"),
        (&["render", "folder", "--out", "o"], "IMAGE: folder is a folder; name a file in it"),
        (&["render", "empty.png", "--out", "o"], "IMAGE: empty.png is empty; check that it was written completely"),
        (&["render", "-", "--out", "o"], "IMAGE: standard input is empty; check that it was written completely"),
        (&["render", "picture.png", "--out", "colors.hex"], "--out: colors.hex is a file; name a folder"),
        (&["render", "picture.png", "--out", "colors.hex/x"], "--out: cannot write into colors.hex/x: "),
        (&["render", "picture.png", "--out", ""], "a value is required for '--out <DIR>'"),
        (&["render", "picture.png", "--palettes", "p.json", "--out", "o"], "--palettes: no file at p.json; check"),
        (&["render", "picture.png", "--palettes", "folder", "--out", "o"], "--palettes: folder is a folder; name a"),
        (&["render", "picture.png", "--palettes", "picture.png", "--out", "o"], "--palettes picture.png: "),
        (&["palette", "none.png"], "IMAGE: no file at none.png; check the path"),
        (&["job", "none.json"], "JOB.json: no file at none.json; check the path"),
    ] {
        let err = refusal(&place, args);
        assert!(err.contains(&format!("error: {text}")), "{args:?}: {err}");
    }
    assert!(!place.path("o").exists());
}

#[cfg(unix)]
#[test]
fn files_that_may_not_be_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = prepared();
    let path = place.path("picture.png");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    // Nothing is forbidden to root.
    if std::fs::read(&path).is_err() {
        let err = refusal(&place, &["palette", "picture.png"]);
        assert!(err.contains("picture.png may not be read; check its permissions"), "{err}");
    }
}

#[test]
fn sources_beyond_the_limit_are_refused_from_files_and_from_pipes() {
    let place = prepared();
    for image in ["picture.png", "-"] {
        let said = place.run_with(&["palette", image], &[("CONCEPT_MAX_SOURCE_BYTES", "5")], b"123456");
        assert_eq!(said.code, Some(2), "{image}");
        assert!(said.err.contains("is larger than 5 bytes; make it smaller or raise CONCEPT_MAX_SOURCE_BYTES"));
    }
}

#[test]
fn flags_that_would_do_nothing_are_refused() {
    let place = prepared();
    let base = ["render", "picture.png", "--out", "o"];
    for (flags, text) in [
        (&["--quality", "80"][..], "--quality has no effect on png; add --format jpeg or webp, or leave --quality out"),
        (&["--lossless", "--format", "jpeg,png"], "--lossless has no effect on jpeg and png; add --format webp"),
        (&["--progressive"], "--progressive has no effect on png"),
        (&["--chroma", "444", "--format", "webp"], "--chroma has no effect on webp"),
        (&["--effort", "small", "--format", "jpg"], "--effort has no effect on jpeg"),
        (&["--dither", "none"], "--dither acts only in mode exact"),
        (&["--palettes", "colors.hex", "--generate", "3"], "'--generate <N>'"),
        (&["--quiet", "--verbose"], "'--verbose...'"),
    ] {
        let err = refusal(&place, &[&base[..], flags].concat());
        assert!(err.contains(text), "{flags:?}: {err}");
    }
}

#[test]
fn more_palettes_or_outputs_than_the_limits_are_refused() {
    let place = prepared();
    let base = ["render", "picture.png", "--out", "o"];
    for (flags, text) in [
        (&["--generate", "65"][..], "65 is not in 1..=64"),
        (&["--size", "1,2,3,4,5,6", "--format", "png,jpeg,webp"], "18 outputs of every variation are more than 16"),
    ] {
        let err = refusal(&place, &[&base[..], flags].concat());
        assert!(err.contains(text), "{flags:?}: {err}");
    }
    for (flags, text) in [
        (&["--generate", "2"][..], "--generate: 2 palettes are more than 1; give fewer or raise CONCEPT_MAX_PALETTES"),
        (&["--palettes", "colors.hex", "--palettes", "colors.hex"], "--palettes: 2 palettes are more than 1; give"),
    ] {
        let said = place.run_with(&[&base[..], flags].concat(), &[("CONCEPT_MAX_PALETTES", "1")], b"");
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(text), "{}", said.err);
    }
}

#[test]
fn steps_are_left_to_the_worker_and_that_is_said() {
    let place = prepared();
    place.write(
        "job.json",
        r#"{"source": "picture.png", "palettes": {"generate": 1}, "steps": [{"when": "before", "name": "n", "model": "owner/m"}]}"#,
    );
    let err = refusal(&place, &["job", "job.json", "--out", "o"]);
    assert!(err.contains("steps: no remote models are set up here"), "{err}");
}

#[test]
fn flags_of_background_and_effects_that_cannot_act_are_refused_with_the_cure() {
    let place = prepared();
    let base = ["render", "picture.png", "--out", "o"];
    for (flags, part) in [
        (&["--fill", "#fff"][..], "--remove-background"),
        (&["--method", "classic"], "--remove-background"),
        (&["--clean-edges"], "--remove-background"),
        (&["--remove-background", "--fill", "nothing"], "transparent, a colour"),
        (&["--remove-background", "--fill", "no-such.png"], "--fill: no file"),
        (&["--remove-background", "--model", "u2net"], "CONCEPT_MODEL"),
        (&["--remove-background", "--method", "model"], "CONCEPT_MODEL"),
        (&["--remove-background", "--method", "classic", "--model", "u2net"], "classic uses no model"),
        (&["--matte", "--effect", "dither"], "cannot be used with"),
        (&["--effect", "sepia"], "enhanced-bw, pop-art, dither, color"),
        (&["--effect", "dither:levels=99"], "2 to 16"),
        (&["--effect", "dither:levels"], "dither:parameter=value"),
        (&["--effect", "dither:levels=2,levels=3"], "twice"),
    ] {
        let err = refusal(&place, &[&base[..], flags].concat());
        assert!(err.contains(part), "{flags:?}: {err}");
    }
}

#[test]
fn jobs_that_cannot_be_read_or_placed_are_refused() {
    let place = prepared();
    for (job, args, text) in [
        ("{", &[][..], "job.json: the job cannot be read: "),
        (r#"{"job_id": "x"}"#, &[], "missing field `source`"),
        (r#"{"source": "picture.png", "colour": 1}"#, &[], "unknown field `colour`"),
        (
            r#"{"source": "picture.png", "job_id": "../x"}"#,
            &[],
            "the job's job_id: it begins with a dot, and it names a folder",
        ),
        (r#"{"source": "picture.png", "user_id": "a/b"}"#, &[], "the job's user_id: it contains a slash"),
        (r#"{"source": "picture.png"}"#, &[], "the job names no destination; add --out DIR"),
        (r#"{"source": ""}"#, &["--out", "o"], "the job's source: it is empty"),
        (r#"{"source": "-"}"#, &["--out", "o"], "source: a job reads no picture from standard input"),
        (r#"{"source": "none.png"}"#, &["--out", "o"], "source: no file at none.png"),
        (r#"{"source": "file:///no/such.png"}"#, &["--out", "o"], "source: no file at /no/such.png"),
        (r#"{"source": "file://host/x.png"}"#, &["--out", "o"], "not an address of a local file"),
        (r#"{"source": "https://example.com/x.png"}"#, &["--out", "o"], "CONCEPT_SOURCE_HOSTS"),
        (r#"{"source": "gs://bases/none.png"}"#, &["--out", "o"], "source: no file at ./data/bases/none.png"),
        (r#"{"source": "gs://bases/../../picture.png"}"#, &["--out", "o"], "which local storage cannot hold"),
        (r#"{"source": "gs://../picture.png"}"#, &["--out", "o"], "names no valid bucket"),
        (r#"{"source": "picture.png", "destination": "gs://b/../../x"}"#, &[], "destination: "),
        (r#"{"source": "picture.png", "destination": "s3://b/x"}"#, &[], "s3:// is not supported"),
    ] {
        place.write("job.json", job.replacen('}', r#", "palettes": {"generate": 7}}"#, 1));
        let err = refusal(&place, &[&["job", "job.json"], args].concat());
        assert!(err.contains(text), "{job}: {err}");
    }
    assert!(!place.path("o").exists() && !place.path("data").exists());
}

#[test]
fn a_job_in_storage_that_is_not_there_says_what_to_set() {
    let place = prepared();
    place.write("job.json", r#"{"source": "gs://bases/x.png", "palettes": {"generate": 7}}"#);
    for (storage, word) in [("gcs", "CONCEPT_STORAGE_BUCKET_PALETTE"), ("memory", "set it to local:DIR or gcs")] {
        for args in [&["job", "job.json", "--out", "o"][..], &["job", "job.json"]] {
            let said = place.run_with(args, &[("CONCEPT_STORAGE", storage)], b"");
            assert_eq!(said.code, Some(2));
            assert!(said.err.contains(word), "{}", said.err);
        }
    }
}

#[test]
fn completions_exist_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let said = place.run(&["completions", shell]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{shell}");
        assert!(said.out.contains("render") && said.out.contains("strength"), "{shell}");
    }
    assert!(refusal(&place, &["completions", "dos"]).contains("bash"));
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let place = Place::new();
    for args in [&["completions", "bash"][..], &["config", "--json"], &["--help"]] {
        let mut child = place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn version_is_the_packages() {
    let said = Place::new().run(&["--version"]);
    assert_eq!(said.out, format!("concept-worker {}\n", env!("CARGO_PKG_VERSION")));
}
