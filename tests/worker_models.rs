//! The worker with trained models: loaded beside the jobs, counted, said everywhere, and never a reason to lose a message.

mod python;
mod worker_rig;

use std::path::Path;

use serde_json::{Value, json};
use worker_rig::{Rig, Setup, fixture, job};

fn model(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(name)).unwrap()
}

/// A worker whose default model is this file in its storage.
async fn with_model(file: &str, more: &[(&str, &str)]) -> Option<(Setup, Rig)> {
    let library = python::onnxruntime()?.library.display().to_string();
    let mut setup = Setup::local()
        .with("CONCEPT_ONNXRUNTIME", &library)
        .with("CONCEPT_MODEL", "inspyrenet-fast")
        .with("CONCEPT_EXECUTION_PROVIDERS", "cuda,cpu");
    if more.iter().all(|(name, _)| *name != "CONCEPT_MODELS") {
        setup = setup.with("CONCEPT_MODEL_PATH", &format!("gs://models/{file}"));
    }
    for (name, value) in more {
        setup = setup.with(name, value);
    }
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    if file != "absent.onnx" {
        setup.put("models", file, &model(file));
    }
    let cache = setup.folder.path().join("cache").display().to_string();
    let setup = setup.with("CONCEPT_MODEL_CACHE", &cache);
    let rig = setup.serve().await;
    Some((setup, rig))
}

fn cut(id: &str, method: &str) -> Value {
    let mut job = job(id, 1);
    job["background"] = json!({"action": "remove", "method": method});
    job
}

#[tokio::test]
async fn a_model_from_storage_is_loaded_before_ready_where_that_is_asked_and_said_in_every_place() {
    let Some((setup, rig)) = with_model("inspyrenet.onnx", &[("CONCEPT_MODEL_BEFORE_READY", "true")]).await else {
        return;
    };
    let (status, ready) = rig.get("/ready").await;
    assert_eq!((status, &ready["model"]["state"]), (200, &json!("ready")), "{ready:#}");
    let provider = ready["model"]["provider"].as_str().unwrap().to_owned();
    assert!(provider == "cuda" || ready["model"]["reason"].as_str().unwrap().starts_with("cuda: "), "{ready:#}");

    assert_eq!(rig.push(&cut("j1", "model"), "m1").await, 204);
    let manifest = setup.manifest("u_1/j1").unwrap();
    assert_eq!(manifest["state"], "complete", "{manifest:#}");
    let background = &manifest["background"];
    assert_eq!((&background["method"], &background["provider"]), (&json!("model"), &json!(provider)));
    assert_eq!(background["model_sha256"], ready["model"]["sha256"]);
    assert!(manifest["timings_ms"]["matte"].as_f64().unwrap() > 1.0);
    for object in ["effect_cutout_128.jpg", "effect_matte.png", "palette_P0_128.jpg"] {
        assert!(setup.file("palettes", &format!("u_1/j1/{object}")).exists(), "{object}");
    }
    let line = rig.job_lines(1).await.remove(0);
    assert_eq!((&line["background"], &line["provider"]), (&json!("model"), &json!(provider)), "{line:#}");
    let metrics = rig.client.get(rig.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(&format!("concept_model_provider{{provider=\"{provider}\"}} 1")), "{metrics}");
    let gpu_refused = u8::from(provider == "cpu");
    assert!(metrics.contains(&format!("concept_model_refused{{provider=\"cuda\"}} {gpu_refused}")), "{metrics}");
    assert!(metrics.contains("concept_backgrounds_total{method=\"model\",sure="), "{metrics}");
}

#[tokio::test]
async fn a_models_memory_is_taken_from_what_jobs_may_use() {
    let models = |mb: u32| {
        format!(r#"[{{"name": "inspyrenet-fast", "path": "gs://models/inspyrenet.onnx", "memory_mb": {mb}}}]"#)
    };
    let capacity = async |mb: u32| -> Option<(u64, Value)> {
        let models = models(mb);
        let vars = [("CONCEPT_MODELS", models.as_str()), ("CONCEPT_MEMORY_LIMIT_MB", "700")];
        let (_setup, rig) = with_model("inspyrenet.onnx", &vars).await?;
        loop {
            let (_, ready) = rig.get("/ready").await;
            if ready["model"]["state"] != "loading" && ready["model"]["state"] != "absent" {
                return Some((ready["memory"]["capacity_bytes"].as_u64().unwrap(), ready["model"].clone()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (Some((small, _)), Some((large, _))) = (capacity(50).await, capacity(250).await) else { return };
    // What the idle process holds differs a little from start to start.
    let taken = small.abs_diff(large) >> 20;
    assert!((185..215).contains(&taken), "{taken} MiB");
    // One that leaves no room is not loaded, and says what to do. The file, brought into memory, counts.
    let (left, model) = capacity(900).await.unwrap();
    assert_eq!(model["state"], "failed");
    assert!(model["error"].as_str().unwrap().contains("take up to 901 MiB"), "{model:#}");
    assert!(left >> 20 > 500, "its memory is there for jobs");
}

#[tokio::test]
async fn a_model_that_cannot_be_had_costs_only_the_jobs_that_insist_on_it_and_no_message() {
    let Some((setup, rig)) = with_model("absent.onnx", &[]).await else { return };
    assert_eq!(rig.push(&job("plain", 1), "m1").await, 204);
    assert_eq!(rig.push(&cut("auto", "auto"), "m2").await, 204);
    let manifest = setup.manifest("u_1/auto").unwrap();
    assert_eq!((&manifest["state"], &manifest["background"]["flagged"]), (&json!("complete"), &json!(true)));
    assert!(manifest["background"]["notes"].to_string().contains("absent.onnx"), "{manifest:#}");
    // Whoever runs the worker can mend it: the message comes again.
    assert_eq!(rig.push(&cut("insists", "model"), "m3").await, 503);
    assert!(setup.manifest("u_1/insists").is_none());
    let lines = rig.job_lines(3).await;
    assert_eq!((&lines[2]["outcome"], &lines[2]["class"]), (&json!("retry"), &json!("model-unavailable")));
    let (status, ready) = rig.get("/ready").await;
    assert_eq!((status, &ready["model"]["state"]), (200, &json!("failed")), "{ready:#}");
}

#[tokio::test]
async fn a_model_that_runs_out_of_memory_has_its_message_delivered_again_and_the_worker_goes_on() {
    let Some((setup, rig)) = with_model("hungry.onnx", &[]).await else { return };
    for attempt in 0..2 {
        assert_eq!(rig.push(&cut("hungry", "model"), "m1").await, 503, "delivery {attempt}");
    }
    assert!(setup.manifest("u_1/hungry").is_none());
    let line = rig.job_lines(1).await.remove(0);
    assert_eq!(line["class"], "model-failed");
    assert!(line["error"].as_str().unwrap().contains("twice"), "{line:#}");
    assert_eq!(rig.push(&job("plain", 1), "m2").await, 204);
}

#[tokio::test]
async fn outputs_that_are_no_numbers_are_recorded_once_and_for_all() {
    let Some((setup, rig)) = with_model("nan.onnx", &[]).await else { return };
    assert_eq!(rig.push(&cut("nan", "model"), "m1").await, 204);
    let record = setup.manifest("u_1/nan").unwrap();
    assert_eq!((&record["state"], &record["error"]["class"]), (&json!("failed"), &json!("model-output")));
}

#[tokio::test]
async fn the_picture_behind_is_part_of_the_work() {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("grey_ramp.png"));
    setup.put("bases", "behind.png", &fixture("flat_art.png"));
    let rig = setup.serve().await;
    let with_fill = |id: &str, fill: &str| {
        let mut job = job(id, 1);
        job["background"] = json!({"action": "remove", "fill": fill});
        job
    };
    assert_eq!(rig.push(&with_fill("f", "gs://bases/behind.png"), "m1").await, 204);
    let manifest = setup.manifest("u_1/f").unwrap();
    assert_eq!(manifest["state"], "complete", "{manifest:#}");
    assert!(!manifest["source"]["fill_generation"].as_str().unwrap().is_empty());
    assert_eq!(rig.push(&with_fill("f", "gs://bases/behind.png"), "m2").await, 204);
    assert_eq!(setup.manifest("u_1/f").unwrap(), manifest);
    // Another picture behind is other work.
    setup.put("bases", "behind.png", &fixture("photo.jpg"));
    assert_eq!(rig.push(&with_fill("f", "gs://bases/behind.png"), "m3").await, 204);
    assert_eq!(setup.manifest("_failed/m3").unwrap()["error"]["class"], "conflict");
    for (id, fill, class) in [
        ("g", "https://example.com/a.png", "bad-source"),
        ("h", "gs://bases/none.png", "source-not-found"),
        ("i", "gs://bases/truncated.png", "broken-picture"),
    ] {
        setup.put("bases", "truncated.png", &fixture("truncated.png")[..20]);
        assert_eq!(rig.push(&with_fill(id, fill), &format!("m-{id}")).await, 204);
        let record = setup.manifest(&format!("u_1/{id}")).unwrap_or_else(|| panic!("no record of {fill}"));
        assert_eq!(record["error"]["class"], class, "{record:#}");
        assert!(record["error"]["message"].as_str().unwrap().starts_with("background.fill: "), "{record:#}");
    }
}

#[tokio::test]
async fn a_caller_gets_the_cut_out_itself() {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("logo_transparent_garbage.png"));
    let rig = setup.serve().await;
    let job =
        json!({"source": "gs://bases/photo.jpg", "background": {"action": "remove"}, "outputs": [{"format": "png"}]});
    let answer = rig.client.post(rig.url("/v1/render")).header("accept", "image/png").json(&job).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, "image/png"));
    let picture = image::load_from_memory(&answer.bytes().await.unwrap()).unwrap();
    assert!(picture.color().has_alpha(), "the cut-out, not its matte");
}
