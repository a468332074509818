//! The program behind the official Pub/Sub emulator, pushed to and pulling; and on files of jobs.

mod emulator;
mod storage_server;
mod worker_rig;

use std::time::{Duration, Instant};

use emulator::{both, dead_letters, emulator, name, push, push_unwrapped};
use serde_json::{Value, json};
use storage_server::{Faults, StorageServer};
use worker_rig::{PATIENCE, Setup, fixture, job};

/// Local storage with a small base picture.
fn local() -> Setup {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    setup
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn the_emulator_pushes_wrapped_and_unwrapped_jobs_and_every_one_gets_its_manifest() {
    let Some(emulator) = emulator().await else { return };
    let setup = local();
    let rig = setup.serve().await;
    let endpoint = rig.url("/pubsub/push");
    for (kind, fields) in [("wrapped", push(&endpoint)), ("unwrapped", push_unwrapped(&endpoint))] {
        let topic = emulator.create_topic(&name(kind)).await;
        let subscription = emulator.create_subscription(&name(kind), &topic, fields).await;
        let jobs: Vec<String> = (0..5).map(|i| job(&format!("{kind}{i}"), 2).to_string()).collect();
        emulator.publish_all(&topic, &jobs, json!({})).await;
        // Poison between good ones is recorded and holds nothing up.
        let poison = emulator.publish(&topic, b"{\"source\": 7}", json!({})).await;
        for i in 0..5 {
            let place = format!("u_1/{kind}{i}");
            let manifest = until(&place, async || setup.manifest(&place)).await;
            assert_eq!(manifest["state"], "complete");
        }
        let record = until("the record", async || setup.manifest(&format!("_failed/{poison}"))).await;
        assert_eq!(record["error"]["class"], "bad-job");
        emulator.delete(&subscription).await;
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_is_pushed_again_and_after_five_times_it_is_a_dead_letter() {
    let Some(emulator) = emulator().await else { return };
    let server = StorageServer::start().await;
    server.create_bucket("palettes");
    server.put("bases", "photo.jpg", fixture("photo.jpg"));
    server.faults(Faults { fail_percent: 100.0, ..Faults::default() });
    let rig = Setup::cloud(&server.url()).with("CONCEPT_UPLOAD_TIMEOUT_SECONDS", "1").serve().await;
    let (topic, dead) = (emulator.create_topic(&name("jobs")).await, emulator.create_topic(&name("dead")).await);
    let kept = emulator.create_subscription(&name("kept"), &dead, json!({})).await;
    let fields = both(push(&rig.url("/")), both(dead_letters(&dead), json!({"ackDeadlineSeconds": 60})));
    let subscription = emulator.create_subscription(&name("jobs"), &topic, fields).await;
    // Storage is down for the first one's deliveries, all of them.
    emulator.publish(&topic, job("lost", 1).to_string().as_bytes(), json!({})).await;
    let letters = emulator.take(&kept, 1, PATIENCE).await;
    assert_eq!(serde_json::from_slice::<Value>(&letters[0].data).unwrap()["job_id"], "lost");
    // It comes back before the second one's are used up.
    emulator.publish(&topic, job("late", 1).to_string().as_bytes(), json!({})).await;
    until("a refusal", async || (rig.job_lines(6).await.len() >= 6).then_some(())).await;
    server.faults(Faults::default());
    until("the manifest", async || server.get("palettes", "u_1/late/manifest.json")).await;
    emulator.delete(&subscription).await;
}

#[tokio::test]
async fn results_and_failures_are_published_with_what_a_reader_filters_by() {
    let Some(emulator) = emulator().await else { return };
    let (results, failures) =
        (emulator.create_topic(&name("results")).await, emulator.create_topic(&name("failures")).await);
    let results_kept = emulator.create_subscription(&name("results"), &results, json!({})).await;
    let failures_kept = emulator.create_subscription(&name("failures"), &failures, json!({})).await;
    let setup = local()
        .with("PUBSUB_EMULATOR_HOST", &emulator.address())
        .with("CONCEPT_RESULT_TOPIC", &results)
        .with("CONCEPT_FAILED_TOPIC", &failures);
    let rig = setup.serve().await;
    assert_eq!(rig.push(&job("good", 1), "m1").await, 204);
    let mut bad = job("bad", 1);
    bad["source"] = json!("gs://bases/none.png");
    assert_eq!(rig.push(&bad, "m2").await, 204);
    let result = &emulator.take(&results_kept, 1, PATIENCE).await[0];
    assert_eq!((result.attributes["job_id"].as_str(), result.attributes["state"].as_str()), ("good", "complete"));
    assert_eq!(result.attributes["manifest"], "gs://palettes/u_1/good/manifest.json");
    assert_eq!(serde_json::from_slice::<Value>(&result.data).unwrap(), setup.manifest("u_1/good").unwrap());
    let failure = &emulator.take(&failures_kept, 1, PATIENCE).await[0];
    assert_eq!((failure.attributes["job_id"].as_str(), failure.attributes["state"].as_str()), ("bad", "failed"));
}

#[tokio::test]
async fn pull_works_on_what_is_published_and_gives_back_what_it_has_not_finished_when_it_is_stopped() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("pulled")).await;
    let subscription = emulator.create_subscription(&name("pulled"), &topic, json!({})).await;
    let setup = local().with("PUBSUB_EMULATOR_HOST", &emulator.address()).with("CONCEPT_SUBSCRIPTION", &subscription);
    let jobs: Vec<String> = (0..6).map(|i| job(&format!("p{i}"), 2).to_string()).collect();
    emulator.publish_all(&topic, &jobs, json!({})).await;
    let mut program = setup.command(&["pull"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    for i in 0..6 {
        let place = format!("u_1/p{i}");
        assert_eq!(until(&place, async || setup.manifest(&place)).await["state"], "complete");
    }
    std::process::Command::new("kill").args(["-TERM", &program.id().to_string()]).status().unwrap();
    let ended = until("the end", async || program.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn pull_without_a_subscription_says_which_setting_is_missing() {
    let said = local().command(&["pull"]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("CONCEPT_SUBSCRIPTION"));
}

fn lines(jobs: &[Value]) -> String {
    jobs.iter().map(|job| format!("{job}\n")).collect()
}

#[test]
fn a_batch_is_split_among_its_tasks_and_every_job_is_made_by_exactly_one() {
    let setup = local();
    let jobs: Vec<Value> = (0..7).map(|i| job(&format!("b{i}"), 1)).collect();
    setup.put("bases", "jobs.ndjson", format!("\n{}\n\n", lines(&jobs)).as_bytes());
    for (task, mine) in [("0", [0, 3, 6].as_slice()), ("1", &[1, 4]), ("2", &[2, 5])] {
        let before: Vec<usize> = (0..7).filter(|i| setup.manifest(&format!("u_1/b{i}")).is_some()).collect();
        let mut command = setup.command(&["batch", "gs://bases/jobs.ndjson"]);
        let status = command.env("CLOUD_RUN_TASK_INDEX", task).env("CLOUD_RUN_TASK_COUNT", "3").output().unwrap();
        assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
        let made: Vec<usize> =
            (0..7).filter(|i| !before.contains(i) && setup.manifest(&format!("u_1/b{i}")).is_some()).collect();
        assert_eq!(made, mine, "task {task}");
    }
}

#[test]
fn a_batch_that_is_run_again_makes_nothing_twice_and_a_bad_line_is_recorded_and_shows_in_the_exit_code() {
    let setup = local();
    std::fs::write(setup.folder.path().join("jobs.ndjson"), lines(&[job("b0", 1), json!({"source": 7}), job("b1", 1)]))
        .unwrap();
    let run = || setup.command(&["batch", "jobs.ndjson"]).output().unwrap();
    assert_eq!(run().status.code(), Some(1));
    let records: Vec<String> = std::fs::read_dir(setup.file("palettes", "_failed"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(setup.manifest(&format!("_failed/{}", records[0])).unwrap()["error"]["class"], "bad-job");
    let changed = |id: &str| {
        std::fs::metadata(setup.file("palettes", &format!("u_1/{id}/manifest.json"))).unwrap().modified().unwrap()
    };
    let before = [changed("b0"), changed("b1")];
    assert_eq!(run().status.code(), Some(1));
    assert_eq!([changed("b0"), changed("b1")], before);
}

#[test]
fn a_batch_whose_file_or_task_numbers_make_no_sense_says_so() {
    let setup = local();
    for (file, task, code, word) in [
        ("none.ndjson", "0", 2, "no file"),
        ("gs://bases/none.ndjson", "0", 1, "there is no object"),
        ("gs://UPPER/x", "0", 2, "bucket"),
        ("none.ndjson", "9", 2, "CLOUD_RUN_TASK_INDEX"),
    ] {
        let said = setup.command(&["batch", file]).env("CLOUD_RUN_TASK_INDEX", task).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(code), "{text}");
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn news_of_a_job_are_published_in_order_and_none_is_missing() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("news")).await;
    let reader = emulator.create_subscription(&name("news"), &topic, json!({"enableMessageOrdering": true})).await;
    let setup = local().with("PUBSUB_EMULATOR_HOST", &emulator.address()).with("CONCEPT_PROGRESS_TOPIC", &topic);
    let rig = setup.serve().await;
    let mut told = job("told", 3);
    told["previews"] = json!({});
    assert_eq!(rig.post("/v1/render", &told).await.0, 200);
    let (status, _) = rig.get("/v1/jobs/told?user_id=u_1").await;
    assert_eq!(status, 200);
    let mut news: Vec<Value> = Vec::new();
    while news.last().is_none_or(|last| last["last"] == false) {
        for message in emulator.take(&reader, 1, Duration::from_secs(20)).await {
            let value: Value = serde_json::from_slice(&message.data).unwrap();
            assert_eq!(message.attributes["job_id"], "told");
            assert_eq!(message.attributes["id"], value["id"].to_string());
            news.push(value);
        }
    }
    let ids: Vec<u64> = news.iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=news.len() as u64).collect::<Vec<_>>());
    assert_eq!(news.iter().filter(|n| n.get("file").is_some()).count(), 6, "three previews and three files");
}
