//! The worker against Cloud Storage that fails, deliveries that repeat, and its own sudden death.

mod storage_server;
mod worker_rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use storage_server::{Fault, Faults, Kind, StorageServer, StoredObject};
use tokio::sync::RwLock;
use worker_rig::{PATIENCE, Rig, Setup, crc32c, fixture, job, listed, wrapped};

async fn cloud() -> (StorageServer, Setup) {
    let server = StorageServer::start().await;
    server.create_bucket("palettes");
    server.put("bases", "photo.jpg", fixture("photo.jpg"));
    server.put("bases", "icon.bmp", fixture("icon.bmp"));
    let setup = Setup::cloud(&server.url());
    (server, setup)
}

fn manifest(server: &StorageServer, place: &str) -> Option<Value> {
    server
        .get("palettes", &format!("{place}/manifest.json"))
        .map(|object| serde_json::from_slice(&object.bytes).unwrap())
}

/// Leases are renewed and taken over; nothing else is ever written twice.
fn assert_nothing_is_overwritten(server: &StorageServer) {
    let overwrites: Vec<_> =
        server.overwrites().into_iter().filter(|written| !written.name.ends_with("/lease.json")).collect();
    assert!(overwrites.is_empty(), "{overwrites:?}");
}

/// Checks that a job's folder holds its manifest, every file that it lists, and nothing else.
fn check_whole(server: &StorageServer, place: &str) {
    let manifest = manifest(server, place).unwrap_or_else(|| panic!("{place} has no manifest"));
    assert_eq!(manifest["state"], "complete", "{place}: {manifest:#}");
    let mut expected = BTreeSet::from([format!("{place}/manifest.json")]);
    for (object, checksum) in listed(&manifest) {
        let name = format!("{place}/{object}");
        let stored = server.get("palettes", &name).unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!(crc32c(&stored.bytes), checksum, "{name}");
        image::load_from_memory(&stored.bytes).unwrap();
        expected.insert(name);
    }
    // A lease is given back behind the answer, or stays when the process died in between.
    let found: BTreeSet<String> = server
        .objects("palettes", &format!("{place}/"))
        .into_iter()
        .map(|object: StoredObject| object.name)
        .filter(|name| !name.ends_with("/lease.json"))
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn objects_say_what_they_are_how_long_they_keep_and_whose_work_they_are() {
    let (server, setup) = cloud().await;
    let rig = setup.serve().await;
    assert_eq!(rig.push(&job("named", 1), "m1").await, 204);
    let mut nameless = job("x", 1);
    nameless.as_object_mut().unwrap().remove("job_id");
    let (_, derived) = rig.post("/v1/render", &nameless).await;
    let key = manifest(&server, "u_1/named").unwrap()["key"].clone();
    let picture = server.get("palettes", "u_1/named/palette_P0_128.jpg").unwrap();
    assert_eq!((picture.content_type.as_str(), &json!(picture.metadata["concept-key"])), ("image/jpeg", &key));
    assert_eq!(picture.cache_control.as_deref(), Some("public, max-age=3600"), "somebody may use the name again");
    let place = format!("u_1/{}/palette_P0_128.jpg", derived["job_id"].as_str().unwrap());
    let forever = server.get("palettes", &place).unwrap().cache_control;
    assert_eq!(forever.as_deref(), Some("public, max-age=31536000, immutable"));
    // The manifest comes last: it is the commit mark.
    let order: Vec<String> =
        server.writes().into_iter().map(|written| written.name).filter(|name| name.starts_with("u_1/named")).collect();
    assert_eq!(order.last().unwrap(), "u_1/named/manifest.json");
    let generation = server.get("bases", "photo.jpg").unwrap().generation.to_string();
    assert_eq!(manifest(&server, "u_1/named").unwrap()["source"]["generation"], generation);
}

#[tokio::test]
async fn a_source_that_was_overwritten_is_another_picture_and_its_old_results_stay() {
    let (server, setup) = cloud().await;
    let rig = setup.serve().await;
    assert_eq!(rig.push(&job("j", 1), "m1").await, 204);
    server.put("bases", "photo.jpg", fixture("portrait.jpg"));
    assert_eq!(rig.push(&job("j", 1), "m2").await, 204);
    assert_eq!(manifest(&server, "_failed/m2").unwrap()["error"]["class"], "conflict");
    server.remove("bases", "photo.jpg");
    // Done stays done, also without its source.
    assert_eq!(rig.push(&job("gone", 1), "m3").await, 204);
    assert_eq!(manifest(&server, "u_1/gone").unwrap()["error"]["class"], "source-not-found");
    check_whole(&server, "u_1/j");
}

#[tokio::test]
async fn a_lost_answer_after_the_write_is_found_out_and_nothing_is_written_twice() {
    let (server, setup) = cloud().await;
    let rig = setup.serve().await;
    for _ in 0..3 {
        server.fail_next(Kind::Write, Fault::LoseAnswer);
    }
    assert_eq!(rig.push(&job("j", 2), "m1").await, 204);
    check_whole(&server, "u_1/j");
    assert_nothing_is_overwritten(&server);
}

#[tokio::test]
async fn while_storage_is_down_messages_come_back_and_nothing_is_recorded_as_failed() {
    let (server, setup) = cloud().await;
    let rig = setup.with("CONCEPT_UPLOAD_TIMEOUT_SECONDS", "2").serve().await;
    server.faults(Faults { fail_percent: 100.0, ..Faults::default() });
    assert_eq!(rig.push(&job("j", 1), "m1").await, 503);
    let (status, body) = rig.post("/v1/render", &job("k", 1)).await;
    assert_eq!((status, &body["error"]["class"]), (503, &json!("storage-unavailable")));
    server.faults(Faults::default());
    assert!(server.objects("palettes", "").is_empty());
    assert_eq!(rig.push(&job("j", 1), "m1").await, 204);
    check_whole(&server, "u_1/j");
}

#[tokio::test]
async fn a_job_that_keeps_failing_is_recorded_with_its_last_error_when_its_deliveries_are_used_up() {
    let (server, setup) = cloud().await;
    let rig = setup.with("CONCEPT_MAX_DELIVERY_ATTEMPTS", "3").serve().await;
    let attempt = |number: u32| {
        let mut envelope = wrapped(job("j", 1).to_string().as_bytes(), "m1");
        envelope["deliveryAttempt"] = json!(number);
        envelope
    };
    // The picture and the question for a manifest fail, five tries each; looking for the record's place does not.
    for number in 1..=3u32 {
        for _ in 0..10 {
            server.fail_next(Kind::Read, Fault::Status(503));
        }
        let (status, _) = rig.post("/", &attempt(number)).await;
        assert_eq!(status, if number < 3 { 503 } else { 204 }, "attempt {number}");
        server.forget_queued();
    }
    let record = manifest(&server, "u_1/j").unwrap();
    assert_eq!(record["error"]["class"], "retries-exhausted", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("storage-unavailable"), "{record:#}");
    assert!(record["message"].as_str().unwrap().contains("palettes"));
}

#[tokio::test]
async fn what_cannot_be_done_before_the_deadline_is_left_to_the_next_delivery_which_goes_on() {
    let (server, setup) = cloud().await;
    // Two seconds are left of the ten once the answer's own time is taken off.
    let rig = setup.with("CONCEPT_ACK_DEADLINE_SECONDS", "10").with("CONCEPT_CONNECTION_POOL_SIZE", "1").serve().await;
    server.faults(Faults { delay: Duration::from_millis(700), ..Faults::default() });
    let job = job("slow", 10);
    let first = Instant::now();
    assert_eq!(rig.push(&job, "m1").await, 503);
    assert!(first.elapsed() < Duration::from_secs(10), "{:?}", first.elapsed());
    assert!(!server.objects("palettes", "u_1/slow/").is_empty(), "what was made is kept");
    let mut deliveries = 1;
    while rig.push(&job, "m1").await != 204 {
        deliveries += 1;
        assert!(deliveries < 12, "it does not come to an end");
    }
    server.faults(Faults::default());
    check_whole(&server, "u_1/slow");
    assert_nothing_is_overwritten(&server);
}

/// The promise of the whole worker: 1,000 deliveries of 800 jobs, a tenth of all storage requests failing, the worker
/// killed five times. Every job ends in exactly one manifest that lists exactly its variations, all of them readable.
#[tokio::test]
async fn nothing_is_lost_doubled_or_overwritten_while_storage_fails_and_the_worker_is_killed_again_and_again() {
    const JOBS: usize = 800;
    const DELIVERIES: usize = 1_000;
    const KILLS: usize = 5;
    let (server, setup) = cloud().await;
    server.faults(Faults::mixed(7, 10.0));
    let rig: Arc<RwLock<Rig>> = Arc::new(RwLock::new(setup.serve().await));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let small = |i: usize| {
        let mut job = job(&format!("j{i}"), 1 + i % 2);
        job["source"] = json!("gs://bases/icon.bmp");
        job
    };
    // Every fifth delivery is one of an earlier job, some of them at the same moment.
    let order: Vec<usize> =
        (0..DELIVERIES).map(|i| if i % 5 == 4 { (i / 5 * 4) % JOBS } else { (i / 5 * 4) + i % 5 }).collect();
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), JOBS);

    let killer = {
        let (rig, acknowledged, over) = (rig.clone(), acknowledged.clone(), over.clone());
        tokio::spawn(async move {
            let mut kills = 0;
            while kills < KILLS && !over.load(Ordering::SeqCst) {
                if acknowledged.load(Ordering::SeqCst) > (kills + 1) * DELIVERIES / (KILLS + 2) {
                    // In the middle of whatever it does.
                    let mut rig = rig.write().await;
                    rig.kill();
                    *rig = setup.serve().await;
                    kills += 1;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            kills
        })
    };
    let deliver = |(number, i): (usize, usize)| {
        let (rig, acknowledged) = (rig.clone(), acknowledged.clone());
        let envelope = wrapped(small(i).to_string().as_bytes(), &format!("m{number}"));
        async move {
            let start = Instant::now();
            // As Pub/Sub does: again and again until it is acknowledged.
            while start.elapsed() < PATIENCE {
                let (client, url) = {
                    let rig = rig.read().await;
                    (rig.client.clone(), rig.url("/"))
                };
                match client.post(url).json(&envelope).send().await {
                    Ok(answer) if answer.status() == 204 => {
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(30)).await,
                }
            }
            panic!("delivery {number} was never acknowledged");
        }
    };
    stream::iter(order.into_iter().enumerate()).for_each_concurrent(48, deliver).await;
    over.store(true, Ordering::SeqCst);
    assert_eq!(killer.await.unwrap(), KILLS);
    server.faults(Faults::default());
    for i in 0..JOBS {
        check_whole(&server, &format!("u_1/j{i}"));
    }
    assert_nothing_is_overwritten(&server);
    assert!(server.objects("palettes", "_failed/").is_empty());
    println!("{} storage requests, {} of them failed on purpose", server.counts().total(), server.counts().failed);
}

#[tokio::test]
async fn a_job_on_the_command_line_is_run_as_the_worker_would_and_twice_is_once() {
    let (server, setup) = cloud().await;
    std::fs::write(setup.folder.path().join("job.json"), job("cli", 2).to_string()).unwrap();
    let run = |args: &'static [&'static str]| {
        let mut command = setup.command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    for _ in 0..2 {
        let said = run(&["job", "job.json"]).await.unwrap();
        assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
        assert!(String::from_utf8_lossy(&said.stdout).contains("2 files"), "{said:?}");
        check_whole(&server, "u_1/cli");
    }
    // Into a folder of this machine, with the picture from storage.
    let said = run(&["job", "job.json", "--out", "here"]).await.unwrap();
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(setup.folder.path().join("here/palette_P1_128.jpg").is_file());
    assert!(setup.folder.path().join("here/gallery.html").is_file());
    // And a picture of this machine into storage.
    let mut near = job("near", 1);
    near["source"] = json!("near.jpg");
    std::fs::write(setup.folder.path().join("near.jpg"), fixture("photo.jpg")).unwrap();
    std::fs::write(setup.folder.path().join("near.json"), near.to_string()).unwrap();
    let said = run(&["job", "near.json"]).await.unwrap();
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    check_whole(&server, "u_1/near");
}

#[tokio::test]
async fn a_batch_that_is_stopped_ends_in_time_and_leaves_the_rest_to_the_next_run() {
    let (server, setup) = cloud().await;
    server.faults(Faults { delay: Duration::from_millis(300), ..Faults::default() });
    let lines: String = (0..40).map(|i| format!("{}\n", job(&format!("b{i}"), 2))).collect();
    std::fs::write(setup.folder.path().join("jobs.ndjson"), lines).unwrap();
    let mut program = setup.command(&["batch", "jobs.ndjson"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while manifest(&server, "u_1/b0").is_none() {
        assert!(start.elapsed() < PATIENCE, "nothing was made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::process::Command::new("kill").args(["-TERM", &program.id().to_string()]).status().unwrap();
    let asked = Instant::now();
    let ended = tokio::task::spawn_blocking(move || program.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(1), "jobs are left");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    server.faults(Faults::default());
    let mut again = setup.command(&["batch", "jobs.ndjson"]);
    let ended = tokio::task::spawn_blocking(move || again.output().unwrap()).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    for i in 0..40 {
        check_whole(&server, &format!("u_1/b{i}"));
    }
}
