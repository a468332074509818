//! docs/configuration.md, the `config` command and the environment agree.

mod place;

use place::Place;

#[test]
fn the_configuration_page_is_what_the_program_prints() {
    let said = Place::new().run(&["config", "--markdown"]);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    assert_eq!(page, said.out, "run: concept-worker config --markdown > docs/configuration.md");
}

#[test]
fn config_shows_every_variable_with_value_default_and_meaning() {
    insta::assert_snapshot!(Place::new().run(&["config"]).out);
}

#[test]
fn config_says_which_values_come_from_the_environment() {
    let said = Place::new().run_with(&["config", "--json"], &[("CONCEPT_IMAGE_MAX_DIMENSION", "1500")], b"");
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let changed = row("CONCEPT_IMAGE_MAX_DIMENSION");
    assert_eq!((&changed["value"], &changed["default"], &changed["source"]), (&1500.into(), &0.into(), &"env".into()));
    assert_eq!(row("CONCEPT_THREADS")["source"], "default");
    assert!(rows.iter().all(|row| !row["meaning"].as_str().unwrap().is_empty()));
}

#[test]
fn all_faults_are_reported_together_before_anything_starts() {
    let place = Place::new();
    place.write("job.json", r#"{"source": "picture.png", "destination": "out"}"#);
    let vars =
        [("CONCEPT_THREADS", "many"), ("CONCEPT_COMPRESSION_QUALITY", "0"), ("CONCEPT_MAX_SOURCE_BYTES", "1 MB")];
    for args in [&["config"][..], &["render", "none.png", "--out", "out"], &["job", "job.json"], &["palette", "x"]] {
        let said = place.run_with(args, &vars, b"");
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{args:?}");
        assert_eq!(
            said.err,
            "error: 3 environment variables cannot be used:\n  \
             CONCEPT_MAX_SOURCE_BYTES is \"1 MB\"; give a whole number from 1 to 17179869184, or unset it\n  \
             CONCEPT_COMPRESSION_QUALITY is \"0\"; give a whole number from 1 to 100, or unset it\n  \
             CONCEPT_THREADS is \"many\"; give a whole number from 0 to 1024, or unset it\n",
            "{args:?}"
        );
    }
    assert!(!place.path("out").exists());
}

#[test]
fn unknown_variables_are_warned_about_and_do_not_stop_anything() {
    let vars = [("CONCEPT_MAX_PIXEL", "5"), ("CONCEPT_XYLOPHONE", "1"), ("CONCEPTUAL", "art")];
    let said = Place::new().run_with(&["config"], &vars, b"");
    assert_eq!(said.code, Some(0));
    assert_eq!(
        said.err,
        "warning: CONCEPT_MAX_PIXEL is not a setting of this version and is ignored; did you mean CONCEPT_MAX_PIXELS?\n\
         warning: CONCEPT_XYLOPHONE is not a setting of this version and is ignored\n"
    );
}
