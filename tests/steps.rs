//! Steps by remote models, against a server with Replicate's contract: never paid twice, never held in memory, never in the way
//! of other jobs.

mod remote_server;
mod worker_rig;

use std::collections::HashSet;
use std::io::Cursor;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use image::imageops::FilterType;
use remote_server::{Fault, File, Model, On, RemoteServer, SECRET, TOKEN, signature};
use serde_json::{Value, json};
use worker_rig::{PATIENCE, Rig, Setup, crc32c, fixture, job};

async fn with(server: &RemoteServer) -> Setup {
    let setup = Setup::local().with("CONCEPT_REMOTE_URL", &server.api()).with("CONCEPT_REMOTE_TOKEN", TOKEN);
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    setup
}

/// Twice as large, as an upscaler does it.
fn doubled(file: Bytes) -> Bytes {
    let picture = image::load_from_memory(&file).unwrap();
    let large = picture.resize_exact(2 * picture.width(), 2 * picture.height(), FilterType::Triangle);
    let mut png = Cursor::new(Vec::new());
    large.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner().into()
}

fn with_steps(id: &str, palettes: usize, steps: Value) -> Value {
    let mut job = job(id, palettes);
    job["steps"] = steps;
    job
}

fn upscale() -> Value {
    json!([{"name": "upscale", "model": "owner/upscaler", "input": {"scale": 2}}])
}

fn stored(setup: &Setup, place: &str, object: &str) -> Vec<u8> {
    std::fs::read(setup.file("palettes", place).join(object)).unwrap_or_else(|_| panic!("{object} is not there"))
}

fn source_sha256() -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(fixture("photo.jpg")).iter().map(|b| format!("{b:02x}")).collect()
}

/// Everything in a job's folder that others can see.
fn names(setup: &Setup, place: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(setup.file("palettes", place)) else { return Vec::new() };
    let mut names: Vec<String> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn clean(server: &RemoteServer) {
    assert_eq!(server.violations(), Vec::<String>::new());
    assert_eq!(server.paid_twice(), Vec::new());
    assert_eq!(server.counts().leaked_tokens, 0);
}

#[tokio::test]
async fn a_step_before_takes_the_pictures_place_and_leaves_nothing_but_its_output() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/png", doubled).requires("scale"));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let mut job = with_steps("j", 2, upscale());
    job["outputs"] = json!([{"format": "jpeg"}]);
    let (status, manifest) = rig.post("/v1/render", &job).await;
    assert_eq!((status, &manifest["state"]), (200, &json!("complete")), "{manifest:#}");
    assert_eq!((&manifest["variations"][0]["width"], &manifest["source"]["width"]), (&json!(1536), &json!(1536)));
    let step = &manifest["steps"][0];
    assert_eq!((&step["name"], &step["model"]), (&json!("upscale"), &json!("owner/upscaler")));
    let output = &step["outputs"][0];
    let object = output["object"].as_str().unwrap();
    assert!(object.starts_with("step_upscale.") && object.ends_with(".png"), "{object}");
    assert_eq!(output["content_type"], "image/png");
    assert_eq!(output["crc32c"], crc32c(&stored(&setup, "u_1/j", object)));
    assert!(manifest["timings_ms"]["remote"].is_number());
    assert_eq!(manifest["source"]["sha256"], source_sha256(), "of the source, not of what the step made of it");
    until("notes and lease go", async || names(&setup, "u_1/j").len() == 4).await;
    assert_eq!(names(&setup, "u_1/j"), ["manifest.json", "palette_P0.jpg", "palette_P1.jpg", object]);
    // Asked for again it is done, and other palettes of the same picture are other work.
    assert_eq!(rig.post("/v1/render", &job).await.0, 200);
    assert_eq!(server.created_of("owner/upscaler"), 1);
    clean(&server);
}

#[tokio::test]
async fn pictures_are_sent_within_the_limits_and_uploaded_when_they_are_large() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    let setup = with(&server).await.with("CONCEPT_REMOTE_MAX_DIMENSION", "640");
    let rig = setup.serve().await;
    assert_eq!(rig.post("/v1/render", &with_steps("j", 1, upscale())).await.0, 200);
    let manifest = setup.manifest("u_1/j").unwrap();
    assert_eq!(manifest["source"]["width"], 640);
    // A server that takes no files is given them in the input.
    server.take_no_files();
    let mut plain = with_steps("k", 1, upscale());
    plain["steps"][0]["input"] = json!({});
    assert_eq!(rig.post("/v1/render", &plain).await.0, 200);
    let input = server.created().last().unwrap().input["image"].as_str().unwrap().to_owned();
    assert!(input.starts_with("data:image/jpeg;base64,"), "{}", &input[..40]);
    clean(&server);
}

#[tokio::test]
async fn a_step_after_is_done_for_every_variation_and_stands_in_its_entry() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/png", doubled).after(Duration::from_millis(50)));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let steps = json!([{"when": "after", "name": "upscale", "model": "owner/upscaler", "input": {"image": "$image"}}]);
    let (status, manifest) = rig.post("/v1/render", &with_steps("j", 3, steps)).await;
    assert_eq!(status, 200, "{manifest:#}");
    for (i, entry) in manifest["variations"].as_array().unwrap().iter().enumerate() {
        let output = &entry["steps"][0]["outputs"][0];
        let object = output["object"].as_str().unwrap();
        assert!(object.starts_with(&format!("palette_P{i}_128.step-upscale.")) && object.ends_with(".png"), "{object}");
        let picture = image::load_from_memory(&stored(&setup, "u_1/j", output["object"].as_str().unwrap())).unwrap();
        assert_eq!((picture.width(), entry["width"].as_u64()), (256, Some(128)));
    }
    assert_eq!(server.created_of("owner/upscaler"), 3);
    clean(&server);
}

#[tokio::test]
async fn a_redelivered_job_waits_for_its_running_prediction_instead_of_paying_twice() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/png", doubled).after(Duration::from_secs(5)));
    // Two seconds for the work: the rest of the ten is for storing and answering.
    let setup = with(&server).await.with("CONCEPT_ACK_DEADLINE_SECONDS", "10").with("CONCEPT_LEASE_SECONDS", "1");
    let mut rig = setup.serve().await;
    let job = with_steps("j", 1, upscale());
    assert_eq!(rig.push(&job, "m1").await, 503);
    assert_eq!(server.created_of("owner/upscaler"), 1);
    // The worker dies while it waits for it, too.
    let again = tokio::spawn({
        let request =
            rig.client.post(rig.url("/pubsub/push")).json(&worker_rig::wrapped(job.to_string().as_bytes(), "m2"));
        request.send()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.kill();
    assert!(again.await.unwrap().is_err());
    let rig = setup.serve().await;
    let start = Instant::now();
    while rig.push(&job, "m3").await != 204 {
        assert!(start.elapsed() < PATIENCE);
    }
    let manifest = setup.manifest("u_1/j").unwrap();
    assert_eq!(manifest["state"], "complete");
    assert_eq!(manifest["source"]["sha256"], source_sha256(), "known from the delivery that read it");
    assert_eq!((server.created_of("owner/upscaler"), server.cancelled().len()), (1, 0));
    clean(&server);
}

#[tokio::test]
async fn nobody_pays_on_for_a_caller_who_does_not_come_again() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::hangs());
    let setup = with(&server).await.with("CONCEPT_ACK_DEADLINE_SECONDS", "10");
    let rig = setup.serve().await;
    let (status, answer) = rig.post("/v1/render", &with_steps("j", 1, upscale())).await;
    assert_eq!((status, &answer["error"]["class"]), (503, &json!("deadline")), "{answer}");
    until("it is cancelled", async || server.cancelled().len() == 1).await;
    clean(&server);
}

#[tokio::test]
async fn outputs_are_read_whatever_their_form() {
    let server = RemoteServer::start().await;
    let photo = fixture("photo.jpg");
    server.file("a.jpg", File::bytes("image/jpeg", photo.clone()));
    server.file("b.png", File::bytes("application/octet-stream", fixture("badge.png")).without_length());
    let inline = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
    let forms = [
        ("one", json!("{server}/outputs/a.jpg"), vec![(".jpg", "image/jpeg")]),
        (
            "list",
            json!(["{server}/outputs/a.jpg", "{server}/outputs/b.png"]),
            vec![(".1.jpg", "image/jpeg"), (".2.png", "image/png")],
        ),
        ("object", json!({"picture": {"url": "{server}/outputs/a.jpg"}}), vec![(".jpg", "image/jpeg")]),
        ("inline", json!(inline), vec![(".gif", "image/gif")]),
        ("text", json!(["two ", "words"]), vec![("", "text/plain")]),
        ("json", json!(42), vec![("", "application/json")]),
    ];
    let setup = with(&server).await;
    let rig = setup.serve().await;
    for (name, output, expected) in forms {
        server.model("owner/any", Model::succeeds(output));
        let mut job = with_steps(name, 0, json!([{"name": name, "model": "owner/any", "input": {"form": name}}]));
        job["palettes"] = json!([]);
        let (status, manifest) = rig.post("/v1/render", &job).await;
        assert_eq!((status, &manifest["state"]), (200, &json!("complete")), "{name}: {manifest:#}");
        let found: Vec<(&str, &str)> = manifest["steps"][0]["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|output| (output["object"].as_str().unwrap_or_default(), output["content_type"].as_str().unwrap()))
            .collect();
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for ((object, content_type), (end, expected)) in found.into_iter().zip(expected) {
            assert!(object.ends_with(end) && content_type == expected, "{name}: {object} {content_type}");
        }
    }
    assert_eq!(setup.manifest("u_1/text").unwrap()["steps"][0]["outputs"][0]["value"], "two words");
    assert_eq!(setup.manifest("u_1/object").unwrap()["steps"][0]["outputs"][0]["name"], "picture");
    let one = setup.manifest("u_1/one").unwrap()["steps"][0]["outputs"][0]["object"].as_str().unwrap().to_owned();
    assert_eq!(stored(&setup, "u_1/one", &one), photo);
    clean(&server);
}

#[tokio::test]
async fn a_video_of_half_a_gigabyte_goes_by_without_being_held() {
    const BYTES: u64 = 500 << 20;
    const MOST: u64 = 32 << 20;
    let server = RemoteServer::start().await;
    server.file("film.mp4", File::video(BYTES));
    server.model("owner/talker", Model::succeeds(json!("{server}/outputs/film.mp4")).requires("text"));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    // Warm: what the first job of a process leaves behind is not the video's.
    assert_eq!(rig.post("/v1/render", &job("warm", 1)).await.0, 200);
    let resident = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) << 10
    };
    let steps = json!([{"name": "talking-photo", "model": "owner/talker", "input": {"text": "Hello"}}]);
    let mut film = with_steps("j", 0, steps);
    film["palettes"] = json!([]);
    // Without a video first, so that sending a picture is not counted either.
    server.model("owner/mute", Model::succeeds(json!("done")));
    let mut mute = film.clone();
    mute["job_id"] = json!("mute");
    mute["steps"][0]["model"] = json!("owner/mute");
    assert_eq!(rig.post("/v1/render", &mute).await.0, 200);
    let before = resident(rig.pid());
    let work = rig.post("/v1/render", &film);
    tokio::pin!(work);
    let mut most = 0;
    let (status, manifest) = loop {
        tokio::select! {
            answer = &mut work => break answer,
            () = tokio::time::sleep(Duration::from_millis(10)) => most = most.max(resident(rig.pid())),
        }
    };
    assert_eq!(status, 200, "{manifest:#}");
    let output = &manifest["steps"][0]["outputs"][0];
    assert_eq!(output["bytes"], BYTES);
    let file = setup.file("palettes", "u_1/j").join(output["object"].as_str().unwrap());
    assert_eq!(std::fs::metadata(file).unwrap().len(), BYTES);
    let grown = most.saturating_sub(before);
    println!("resident {} MiB before, {} MiB more at most", before >> 20, grown >> 20);
    assert!(grown <= MOST, "{grown} bytes more while {BYTES} went by");
    clean(&server);
}

#[tokio::test]
async fn a_job_that_was_mended_is_not_held_up_by_what_its_first_try_left() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/png", doubled));
    let setup = with(&server).await.with("CONCEPT_MAX_PIXELS", "1000000");
    let rig = setup.serve().await;
    // Twice as large is more than may be: paid for, stored, and then refused for good.
    assert_eq!(rig.push(&with_steps("j", 1, upscale()), "m1").await, 204);
    assert_eq!(setup.manifest("u_1/j").unwrap()["error"]["class"], "picture-too-large");
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    let mut mended = with_steps("j", 1, upscale());
    mended["steps"][0]["input"] = json!({"scale": 1});
    assert_eq!(rig.push(&mended, "m2").await, 204);
    assert_eq!(setup.manifest("u_1/j").unwrap()["state"], "complete");
    clean(&server);
}

#[tokio::test]
async fn a_picture_that_a_model_never_takes_is_not_paid_for_without_end() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::fails("this picture cannot be read"));
    let setup = with(&server).await.with("CONCEPT_REMOTE_BREAKER_SECONDS", "1");
    let rig = setup.serve().await;
    let start = Instant::now();
    while rig.push(&with_steps("j", 1, upscale()), "m").await != 204 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(setup.manifest("u_1/j").unwrap()["error"]["class"], "remote-refused");
    assert_eq!(server.created_of("owner/upscaler"), 4);
    let keys: HashSet<Option<String>> = server.created().into_iter().map(|created| created.key).collect();
    assert_eq!(keys.len(), 4, "each was answered, so that the next was another order");
    // Somebody has mended the model and plays the job again.
    server.model("owner/upscaler", Model::makes("image", "image/png", doubled));
    let start = Instant::now();
    while setup.manifest("u_1/j").unwrap()["state"] != "complete" {
        assert!(start.elapsed() < PATIENCE);
        rig.push(&with_steps("j", 1, upscale()), "m").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_goes_out_again_under_its_own_name() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    server.fault(On::Create("owner/upscaler".into()), Fault::CloseAfter, 1);
    let setup = with(&server).await;
    // Too large for an order.
    let noise = image::RgbImage::from_fn(512, 512, |x, y| {
        image::Rgb([1, 2, 3].map(|c| ((x * 512 + y + c).wrapping_mul(2_654_435_761) >> 13) as u8))
    });
    let mut png = Cursor::new(Vec::new());
    noise.write_to(&mut png, image::ImageFormat::Png).unwrap();
    setup.put("bases", "photo.jpg", png.get_ref());
    let rig = setup.serve().await;
    assert_eq!(rig.push(&with_steps("j", 1, upscale()), "m1").await, 503);
    // It waits for the id first, which another instance may be about to note.
    assert_eq!(rig.push(&with_steps("j", 1, upscale()), "m2").await, 204);
    let created = server.created();
    assert_eq!(created.len(), 2);
    assert!(created[0].key.is_some());
    assert_eq!((&created[0].key, &created[0].input), (&created[1].key, &created[1].input));
    assert_eq!(server.uploads().len(), 1, "the picture of an order is sent once");
}

#[tokio::test]
async fn outputs_that_are_gone_each_time_are_not_paid_for_without_end() {
    let server = RemoteServer::start().await;
    let output = json!("{server}/outputs/never.png");
    server.model("owner/upscaler", Model::succeeds(output).after(Duration::from_secs(4)));
    // Slower than a delivery: each finds what the one before has ordered.
    let setup = with(&server).await.with("CONCEPT_ACK_DEADLINE_SECONDS", "10");
    let rig = setup.serve().await;
    let start = Instant::now();
    while rig.push(&with_steps("j", 1, upscale()), "m").await != 204 {
        assert!(start.elapsed() < PATIENCE);
    }
    let record = setup.manifest("u_1/j").unwrap();
    assert_eq!(record["error"]["class"], "remote-refused", "{record:#}");
    assert!(server.created_of("owner/upscaler") <= 4);
}

#[tokio::test]
async fn a_picture_that_came_along_is_ordered_again_when_the_outputs_of_before_are_gone() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::succeeds(json!("{server}/outputs/late.png")));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let mut job = with_steps("j", 1, upscale());
    job.as_object_mut().unwrap().remove("source");
    let post = async || {
        let picture = reqwest::multipart::Part::bytes(fixture("photo.jpg")).file_name("mine.jpg");
        let form = reqwest::multipart::Form::new().text("job", job.to_string()).part("image", picture);
        let answer = rig.client.post(rig.url("/v1/render")).multipart(form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, answer) = post().await;
    assert!(status >= 400, "{answer}");
    server.file("late.png", File::bytes("image/png", fixture("badge.png")));
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    server.created().iter().for_each(|created| server.remove_data(&created.id));
    let (status, answer) = post().await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(server.created_of("owner/upscaler"), 2);
}

#[tokio::test]
async fn two_jobs_of_one_name_do_not_take_each_others_predictions() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file).after(Duration::from_secs(2)));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let (first, second) = (with_steps("j", 1, upscale()), with_steps("j", 2, upscale()));
    let later = async {
        until("the first is ordered", async || server.created_of("owner/upscaler") == 1).await;
        rig.post("/v1/render", &second).await
    };
    let ((status, manifest), (other, answer)) = tokio::join!(rig.post("/v1/render", &first), later);
    assert_eq!((status, &manifest["state"]), (200, &json!("complete")), "{manifest:#}");
    assert_eq!((other, &answer["error"]["class"]), (409, &json!("conflict")), "{answer:#}");
    assert_eq!((server.created_of("owner/upscaler"), server.cancelled().len()), (1, 0));
    clean(&server);
}

#[tokio::test]
async fn what_was_never_ordered_counts_as_no_order() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::fails("out of luck"));
    // Longer than a client waits by itself.
    server.fault(On::Create("owner/upscaler".into()), Fault::RateLimited(Some("60".into())), 6);
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let job = with_steps("j", 1, upscale());
    for i in 0..6 {
        assert_eq!(rig.push(&job, &format!("m{i}")).await, 429);
    }
    assert_eq!(server.created_of("owner/upscaler"), 0);
    // Two orders in each delivery, and four in all.
    assert_eq!(rig.push(&job, "m7").await, 503);
    assert_eq!(rig.push(&job, "m8").await, 204);
    assert_eq!(server.created_of("owner/upscaler"), 4);
    let message = setup.manifest("u_1/j").unwrap()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("ordered 4 times"), "{message}");
}

#[tokio::test]
async fn an_output_that_may_not_be_fetched_is_not_paid_for_again_by_the_next_delivery() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::succeeds(json!("https://example.com/a.png")).after(Duration::from_secs(4)));
    let setup = with(&server).await.with("CONCEPT_ACK_DEADLINE_SECONDS", "10");
    let rig = setup.serve().await;
    let job = with_steps("j", 1, upscale());
    assert_eq!(rig.push(&job, "m1").await, 503);
    let start = Instant::now();
    while rig.push(&job, "m2").await != 204 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(setup.manifest("u_1/j").unwrap()["error"]["class"], "remote-refused");
    assert_eq!(server.created_of("owner/upscaler"), 1);
}

#[tokio::test]
async fn an_output_that_is_gone_when_the_job_comes_again_is_ordered_again() {
    let server = RemoteServer::start().await;
    let output = json!("{server}/outputs/late.png");
    server.model("owner/upscaler", Model::succeeds(output).after(Duration::from_secs(4)));
    let setup = with(&server).await.with("CONCEPT_ACK_DEADLINE_SECONDS", "10");
    let rig = setup.serve().await;
    let job = with_steps("j", 1, upscale());
    assert_eq!(rig.push(&job, "m1").await, 503);
    // The first prediction ends without its file; the second has one.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let again = rig.push(&job, "m2");
    let put = async {
        until("it is ordered again", async || server.created_of("owner/upscaler") == 2).await;
        server.file("late.png", File::bytes("image/png", fixture("badge.png")));
    };
    let (status, ()) = tokio::join!(again, put);
    let start = Instant::now();
    let mut last = status;
    while last != 204 {
        assert!(start.elapsed() < PATIENCE);
        last = rig.push(&job, "m3").await;
    }
    assert_eq!(setup.manifest("u_1/j").unwrap()["state"], "complete");
    assert_eq!(server.created_of("owner/upscaler"), 2);
}

#[tokio::test]
async fn a_step_after_that_is_refused_stands_in_its_entry_and_leaves_no_note() {
    let server = RemoteServer::start().await;
    server.file("page.jpg", File::bytes("image/jpeg", "<!doctype html>"));
    server.model("owner/any", Model::succeeds(json!("{server}/outputs/page.jpg")));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    // By what it puts out, and by the server when it is ordered.
    for (id, model) in [("output", "owner/any"), ("order", "owner/nobody")] {
        let steps = json!([{"when": "after", "name": "style", "model": model}]);
        let (status, manifest) = rig.post("/v1/render", &with_steps(id, 2, steps)).await;
        assert_eq!((status, &manifest["state"]), (200, &json!("partial")), "{manifest:#}");
        for entry in manifest["variations"].as_array().unwrap() {
            assert!(entry.get("error").is_none());
            assert_eq!(entry["steps"][0]["error"]["class"], "remote-refused");
        }
        until("notes and lease go", async || names(&setup, &format!("u_1/{id}")).len() == 3).await;
    }
}

#[tokio::test]
async fn palettes_of_the_same_name_all_get_their_step() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    let steps = json!([{"when": "after", "name": "upscale", "model": "owner/upscaler"}]);
    let mut job = with_steps("j", 3, steps);
    job["outputs"] = json!([{"format": "jpeg", "max_dimension": 128}, {"format": "png", "max_dimension": 64}]);
    // Two of the same colours, too.
    job["palettes"][1] = job["palettes"][0].clone();
    job["palettes"][2]["name"] = job["palettes"][0]["name"].clone();
    let (status, manifest) = rig.post("/v1/render", &job).await;
    assert_eq!(status, 200, "{manifest:#}");
    let entries = manifest["variations"].as_array().unwrap();
    let has_step: Vec<bool> = entries.iter().map(|entry| entry["steps"][0]["outputs"][0].is_object()).collect();
    assert_eq!(has_step, [true, false, true, false, true, false], "{manifest:#}");
    assert_eq!((server.created_of("owner/upscaler"), server.violations().len()), (3, 0));
}

#[tokio::test]
async fn outputs_that_are_not_what_they_should_be_or_lie_elsewhere_are_recorded_not_stored() {
    let server = RemoteServer::start().await;
    server.file("page.jpg", File::bytes("image/jpeg", "<!doctype html><title>no</title>"));
    server.file("lie.png", File::bytes("image/png", fixture("photo.jpg")));
    server.file("away.png", File::redirect("http://169.254.169.254/latest"));
    let setup = with(&server).await;
    let rig = setup.serve().await;
    for (i, (output, says)) in [
        ("{server}/outputs/page.jpg", "no picture, video or sound"),
        ("{server}/outputs/lie.png", "said to be image/png and is image/jpeg"),
        ("{server}/outputs/away.png", "is not https://"),
        ("https://example.com/a.png", "example.com"),
        ("{server}/outputs/gone.png", "there is nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        server.model("owner/any", Model::succeeds(json!(output)));
        let step = json!([{"name": "style", "model": "owner/any", "input": {"n": i}}]);
        let job = with_steps(&format!("j{i}"), 1, step);
        assert_eq!(rig.push(&job, &format!("m{i}")).await, 204, "{output}");
        let record = setup.manifest(&format!("u_1/j{i}")).unwrap();
        assert_eq!(record["error"]["class"], "remote-refused", "{output}: {record:#}");
        let message = record["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{output}: {message}");
    }
    clean(&server);
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_said_at_once() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file).requires("scale"));
    server.fault(On::Create("owner/upscaler".into()), Fault::RateLimited(Some("1".into())), 1);
    server.fault(On::Get, Fault::Status(502), 1);
    let setup = with(&server).await;
    let rig = setup.serve().await;
    assert_eq!(rig.push(&with_steps("j", 1, upscale()), "m1").await, 204);
    assert_eq!(setup.manifest("u_1/j").unwrap()["state"], "complete");
    // What the job does wrong.
    for (id, steps, class) in [
        ("input", json!([{"name": "upscale", "model": "owner/upscaler"}]), "remote-refused"),
        ("model", json!([{"name": "upscale", "model": "owner/nobody"}]), "remote-refused"),
        ("none", json!([{"name": "upscale"}]), "bad-job"),
    ] {
        assert_eq!(rig.push(&with_steps(id, 1, steps), id).await, 204, "{id}");
        let record = setup.manifest(&format!("u_1/{id}")).or_else(|| setup.manifest(&format!("_failed/{id}"))).unwrap();
        assert_eq!(record["error"]["class"], class, "{record:#}");
    }
    // A picture that is none is the job's mistake as well.
    setup.put("bases", "photo.jpg", b"no picture");
    assert_eq!(rig.push(&with_steps("broken", 1, upscale()), "m9").await, 204);
    assert_eq!(server.created_of("owner/upscaler"), 1);
    clean(&server);
}

#[tokio::test]
async fn a_model_that_keeps_failing_is_left_alone_and_asked_once_when_it_may_have_recovered() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::fails("out of memory"));
    let setup = with(&server).await.with("CONCEPT_REMOTE_BREAKER_SECONDS", "1");
    let rig = setup.serve().await;
    let mut pushed = 0;
    let open = async || {
        let (_, ready) = rig.get("/ready").await;
        ready["remote"]["left_alone"].get("owner/upscaler").is_some()
    };
    while !open().await {
        let status = rig.push(&with_steps(&format!("j{pushed}"), 1, upscale()), &format!("m{pushed}")).await;
        assert!(matches!(status, 429 | 503), "{status}");
        pushed += 1;
        assert!(pushed < 20);
    }
    let failures = server.created_of("owner/upscaler");
    assert!(failures <= 10, "it opened after {failures} failures");
    assert_eq!(rig.push(&with_steps("j0", 1, upscale()), "again").await, 429);
    assert_eq!(server.created_of("owner/upscaler"), failures, "nothing is ordered while it is open");
    server.model("owner/upscaler", Model::makes("image", "image/jpeg", |file| file));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // One probe closes it, and everything that was put off is done.
    for i in 0..pushed {
        assert_eq!(rig.push(&with_steps(&format!("j{i}"), 1, upscale()), &format!("m{i}")).await, 204, "{i}");
        assert_eq!(setup.manifest(&format!("u_1/j{i}")).unwrap()["state"], "complete");
    }
    assert!(!open().await);
    assert_eq!(server.created_of("owner/upscaler"), failures + pushed);
}

#[tokio::test]
async fn a_class_runs_as_many_as_it_may_and_users_take_turns() {
    let server = RemoteServer::start().await;
    server.model("owner/styler", Model::makes("image", "image/jpeg", |file| file).after(Duration::from_millis(200)));
    let setup = with(&server).await.with("CONCEPT_REMOTE_HEAVY_CONCURRENCY", "2");
    let rig = setup.serve().await;
    let style = json!([{"name": "style", "model": "owner/styler"}]);
    let many = join_all((0..10).map(|i| {
        let mut job = with_steps(&format!("many{i}"), 1, style.clone());
        job["steps"][0]["input"]["n"] = json!(i);
        let rig = &rig;
        async move { (rig.post("/v1/render", &job).await.0, Instant::now()) }
    }));
    let one = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let mut job = with_steps("one", 1, style.clone());
        job["user_id"] = json!("u_other");
        let (status, _) = rig.post("/v1/render", &job).await;
        (status, Instant::now())
    };
    let watch = async {
        let mut most = 0.0_f64;
        for _ in 0..40 {
            let text = rig.client.get(rig.url("/metrics")).send().await.unwrap().text().await.unwrap();
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(r#"concept_class{class="heavy",state="in_use"} "#)?.parse().ok());
            most = most.max(line.unwrap_or(0.0));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        most
    };
    let (many, (status, done), most) = tokio::join!(many, one, watch);
    assert_eq!(status, 200);
    assert!(many.iter().all(|(status, _)| *status == 200));
    let before = many.iter().filter(|(_, at)| *at < done).count();
    assert!(before <= 6, "{before} of the other user's ten were done first");
    assert!(most <= 2.0, "{most} at once");
    clean(&server);
}

#[tokio::test]
async fn jobs_without_steps_do_not_wait_for_remote_models_that_hang() {
    let server = RemoteServer::start().await;
    server.model("owner/upscaler", Model::hangs());
    let setup = with(&server).await.with("CONCEPT_QUEUE_LIMIT", "40");
    let rig = setup.serve().await;
    let hanging: Vec<_> = (0..30)
        .map(|i| {
            let request = rig.client.post(rig.url("/v1/render")).json(&with_steps(&format!("h{i}"), 1, upscale()));
            tokio::spawn(request.send())
        })
        .collect();
    until("the class is full", async || server.created_of("owner/upscaler") == 8).await;
    let local = join_all((0..20).map(|i| {
        let (job, rig) = (job(&format!("local{i}"), 1), &rig);
        async move {
            let start = Instant::now();
            assert_eq!(rig.post("/v1/render", &job).await.0, 200, "30 hanging and 20 are more than may wait");
            start.elapsed()
        }
    }));
    println!("20 local jobs at once, the slowest {:.1} ms", local.await.iter().max().unwrap().as_secs_f64() * 1e3);
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_webhook_is_believed_only_with_the_right_signature() {
    let server = RemoteServer::start().await;
    let setup = with(&server)
        .await
        .with("CONCEPT_REMOTE_WEBHOOK_URL", "http://127.0.0.1:9/v1/remote/webhook")
        .with("CONCEPT_REMOTE_WEBHOOK_SECRET", SECRET);
    let rig = setup.serve().await;
    let post = async |rig: &Rig, good: bool| {
        let body = br#"{"id": "abc", "status": "succeeded"}"#;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let signed = signature(SECRET, "msg", now, if good { body } else { b"{}" });
        let request = rig.client.post(rig.url("/v1/remote/webhook")).body(body.to_vec());
        let request = request.header("webhook-id", "msg").header("webhook-timestamp", now.to_string());
        request.header("webhook-signature", signed).send().await.unwrap().status().as_u16()
    };
    assert_eq!((post(&rig, true).await, post(&rig, false).await), (204, 401));
    let plain = Setup::local().serve().await;
    assert_eq!(post(&plain, true).await, 404);
}

#[tokio::test]
async fn without_an_api_a_job_with_steps_is_refused_and_told_why() {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    let rig = setup.serve().await;
    let (status, answer) = rig.post("/v1/render", &with_steps("j", 1, upscale())).await;
    assert_eq!((status, &answer["error"]["class"]), (422, &json!("bad-job")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("CONCEPT_REMOTE_TOKEN"), "{answer}");
}
