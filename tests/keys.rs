//! What files are kept under: everything that can change a byte changes the key, and nothing else does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use concept_worker::pipeline::base::{Base, Inputs};
use concept_worker::pipeline::event::Watch;
use concept_worker::pipeline::identity::{Identity, base_key, sha256_hex};
use concept_worker::pipeline::job::Job;
use concept_worker::pipeline::manifest::State;
use concept_worker::pipeline::outlet::{FileMemory, HandOver, MadeFile, Remembered, Start};
use concept_worker::pipeline::run::{self, RunOptions};
use serde_json::{Value, json};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("fixtures/images/{name}")).unwrap()
}

fn plain() -> Value {
    json!({
        "source": "gs://bases/photo.jpg",
        "palettes": [{
            "name": "Warm", "description": "of a brand",
            "colors": ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"],
        }],
        "recolor": {"mode": "soft", "strength": 1.0},
        "outputs": [{"format": "jpeg", "quality": 80, "max_dimension": 96}],
    })
}

fn options() -> RunOptions {
    RunOptions { gallery: false, max_dimension: 160, ..RunOptions::default() }
}

/// What a run remembers, by key.
type Kept = BTreeMap<String, Vec<u8>>;

/// Runs a job with a memory: the keys of what it remembers, with the content; `known` is what it finds there.
fn run_with(job: &Value, picture: &[u8], options: &RunOptions, known: &Kept) -> (Kept, Vec<MadeFile>) {
    let job = Job::from_json(job.to_string().as_bytes()).unwrap();
    let sha256 = sha256_hex(picture);
    let identity = Identity::new(&job, &sha256, options);
    let base = base_key(&job, &sha256, None, options);
    let (kept, made) = (Mutex::new(Kept::new()), Mutex::new(Vec::new()));
    let take = |file: MadeFile| {
        made.lock().unwrap().push(file);
        Ok(())
    };
    let recall = |key: &str| {
        known.get(key).map(|content| Remembered {
            content: content.clone().into(),
            crc32c: crc32c::crc32c(content),
            description: Arc::default(),
            cost_ms: 0.0,
        })
    };
    let remember = |key: &str, file: Remembered| {
        let before = kept.lock().unwrap().insert(key.to_owned(), file.content.to_vec());
        assert!(before.is_none_or(|before| before == file.content), "one key for two contents");
    };
    let memory = FileMemory { base: &base, recall: &recall, remember: &remember };
    let hand_over = HandOver { start: &|_| Start::Make, take: &take, memory: Some(memory) };
    let inputs = Inputs { picture, fill: None };
    let base = |watch: &Watch<'_>| match Base::new(inputs, &job.background, options, false, watch) {
        Ok(base) => Ok(Arc::new(base)),
        Err(error) => Err(error.failure()),
    };
    let manifest = run::make(&job, &identity, base, sha256, hand_over, options, &|_| ());
    assert_eq!(manifest.state, State::Complete, "{manifest:?}");
    (kept.into_inner().unwrap(), made.into_inner().unwrap())
}

fn kept(job: &Value, options: &RunOptions) -> Kept {
    run_with(job, &fixture("photo.jpg"), options, &Kept::new()).0
}

/// The job with a value put in one place, by JSON pointer.
fn with(place: &str, value: Value) -> Value {
    let mut job = plain();
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = job.pointer_mut(parent).unwrap_or_else(|| panic!("{place}"));
    match parent {
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        other => other[name] = value,
    }
    job
}

#[test]
fn every_field_that_can_change_a_byte_changes_the_key_and_one_key_has_one_content() {
    let first = kept(&plain(), &options());
    assert_eq!(first.len(), 1);
    let mut all: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    let mut note = |what: String, kept: &Kept| {
        for (key, content) in kept {
            let before = all.insert(key.clone(), (what.clone(), content.clone()));
            if let Some((other, before)) = before {
                assert!(before == *content, "{what} and {other} share a key and not their bytes");
            }
        }
    };
    note("plain".into(), &first);
    let changes = [
        ("/palettes/0/colors/0", json!("#264654")),
        ("/palettes/0/colors", json!(["#2A9D8F", "#264653", "#E9C46A", "#F4A261", "#E76F51"])),
        ("/palettes/0/roles", json!({"background": "#E9C46A"})),
        ("/palettes/0/pins", json!({"#1D3557": "#264653"})),
        ("/palettes/0/protect", json!(["#FFFFFF"])),
        ("/recolor/strength", json!(0.5)),
        ("/recolor/mode", json!("tint")),
        ("/recolor/mode", json!("transfer")),
        ("/recolor/mode", json!("faithful")),
        ("/recolor", json!({"mode": "exact"})),
        ("/recolor", json!({"mode": "exact", "dither": "blue-noise"})),
        ("/recolor", json!({"mode": "exact", "dither": "none"})),
        ("/background", json!({"action": "remove", "method": "classic"})),
        ("/background", json!({"action": "remove", "method": "classic", "clean": true})),
        ("/background", json!({"action": "remove", "method": "classic", "enclosed": false})),
        ("/outputs/0/quality", json!(81)),
        ("/outputs/0/max_dimension", json!(97)),
        ("/outputs/0/progressive", json!(true)),
        ("/outputs/0/chroma", json!("444")),
        ("/outputs/0/chroma", json!("420")),
        ("/outputs/0", json!({"format": "png"})),
        ("/outputs/0", json!({"format": "png", "effort": "small"})),
        ("/outputs/0", json!({"format": "png", "max_dimension": 96})),
        ("/outputs/0", json!({"format": "webp", "quality": 75, "max_dimension": 96})),
        ("/outputs/0", json!({"format": "webp", "quality": 75, "max_dimension": 96, "effort": "small"})),
        ("/outputs/0", json!({"format": "webp", "lossless": true, "max_dimension": 96})),
        ("/outputs/0", json!({"format": "webp", "lossless": true, "max_dimension": 96, "effort": "small"})),
    ];
    for (place, value) in changes {
        let other = kept(&with(place, value.clone()), &options());
        let what = format!("{place} = {value}");
        assert!(other.keys().all(|key| !first.contains_key(key)), "{what} does not change the key");
        note(what, &other);
    }
    for (what, changed) in [
        ("max_dimension", RunOptions { max_dimension: 128, ..options() }),
        ("kmeans_max_iterations", RunOptions { kmeans_max_iterations: 3, ..options() }),
        ("clustering_sample_size", RunOptions { clustering_sample_size: 16, ..options() }),
    ] {
        let other = kept(&plain(), &changed);
        assert!(other.keys().all(|key| !first.contains_key(key)), "{what} does not change the key");
        note(what.into(), &other);
    }
    let other = run_with(&plain(), &fixture("portrait.jpg"), &options(), &Kept::new()).0;
    assert!(other.keys().all(|key| !first.contains_key(key)), "another picture");
    note("another picture".into(), &other);
    // Effects, and the palette one of them is shown in.
    for effects in [
        json!(["enhanced-bw"]),
        json!([{"name": "enhanced-bw", "params": {"grain": 0.3}}]),
        json!(["dither"]),
        json!([{"name": "dither", "params": {"palette": "Warm"}}]),
        json!([{"name": "dither", "params": {"algorithm": "bayer"}}]),
        json!(["pop-art"]),
    ] {
        note(format!("effects = {effects}"), &kept(&with("/effects", effects), &options()));
    }
}

#[test]
fn nothing_else_changes_the_key() {
    let first = kept(&plain(), &options());
    let mut companion = plain();
    companion["palettes"].as_array_mut().unwrap().push(json!({"name": "Cold", "colors": ["#0B132B", "#5BC0BE"]}));
    companion["effects"] = json!(["color"]);
    companion["outputs"].as_array_mut().unwrap().push(json!({"format": "png"}));
    companion["previews"] = json!({});
    let all = kept(&companion, &options());
    assert!(first.iter().all(|(key, content)| all.get(key) == Some(content)), "what is made beside it");
    for (place, value) in [
        ("/job_id", json!("j")),
        ("/user_id", json!("u")),
        ("/destination", json!("gs://elsewhere/x")),
        ("/source", json!("gs://other/copy.jpg")),
        ("/palettes/0/name", json!("Another name")),
        ("/palettes/0/description", json!("of another brand")),
        ("/recolor", json!({})),
        ("/outputs/0/effort", json!("small")),
    ] {
        assert_eq!(kept(&with(place, value), &options()), first, "{place}");
    }
    for (what, changed) in [
        ("quality, which the output names", RunOptions { quality: 50, ..options() }),
        ("limits", RunOptions { max_pixels: 1 << 30, max_palettes: 1, max_outputs: 1, max_effects: 0, ..options() }),
        ("remote steps", RunOptions { remote_steps: true, ..options() }),
    ] {
        assert_eq!(kept(&plain(), &changed), first, "{what}");
    }
}

#[test]
fn previews_and_copies_for_upload_have_keys_of_their_own() {
    // A preview and a file that are written alike: reduced at different moments, they differ.
    let mut alike = plain();
    alike["outputs"] = json!([{"format": "webp", "quality": 75, "max_dimension": 160}]);
    let file = kept(&alike, &RunOptions { max_dimension: 320, ..options() });
    alike["previews"] = json!({"max_dimension": 256, "quality": 75});
    alike["outputs"] = json!([{"format": "webp", "quality": 75, "max_dimension": 256}]);
    let both = kept(&alike, &RunOptions { max_dimension: 320, ..options() });
    assert_eq!((file.len(), both.len()), (1, 2));
    let upload = |progressive: bool, over: u64| {
        let mut job = plain();
        job["outputs"] = json!([{"format": "png", "progressive": progressive}]);
        kept(&job, &RunOptions { upload_over: Some(over), ..options() })
    };
    let (baseline, progressive, none) = (upload(false, 1), upload(true, 1), upload(false, 1 << 30));
    assert_eq!((baseline.len(), progressive.len(), none.len()), (2, 2, 1));
    let shared: Vec<_> = baseline.keys().filter(|key| progressive.contains_key(*key)).collect();
    assert_eq!(shared.len(), 1, "the PNG is the same, its copy is not");
    assert!(none.contains_key(shared[0]), "the rule for copies changes no PNG");
}

#[test]
fn what_is_remembered_is_handed_over_again_byte_for_byte_and_nothing_is_made() {
    let picture = fixture("photo.jpg");
    let mut job = plain();
    job["previews"] = json!({});
    job["effects"] = json!(["dither"]);
    let (known, first) = run_with(&job, &picture, &options(), &Kept::new());
    let (again, second) = run_with(&job, &picture, &options(), &known);
    assert!(again.is_empty(), "nothing was made");
    let content = |files: &[MadeFile]| -> BTreeMap<String, Vec<u8>> {
        files.iter().map(|file| (file.object.clone(), file.content.to_vec())).collect()
    };
    assert_eq!(content(&first), content(&second));
    assert_eq!(first.len(), second.len(), "each once");
}
