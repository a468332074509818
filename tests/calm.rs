//! Nothing is done twice: pictures, files and whole jobs are found again, in one process, in two, and after a death.

mod redis_server;
mod worker_rig;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis_server::RedisServer;
use serde_json::{Value, json};
use worker_rig::{PATIENCE, Rig, Setup, fixture, job, listed};

const STAGES_OF_A_BASE: [&str; 2] = ["decode", "index"];

fn local() -> Setup {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    setup
}

/// A job with palettes of its own.
fn job_of(id: &str, first: &str) -> Value {
    let mut job = job(id, 2);
    job["palettes"][0]["colors"][0] = json!(first);
    job["palettes"][1]["colors"][0] = json!(first);
    job
}

/// The files of a job in local storage, by name.
fn files(setup: &Setup, place: &str) -> BTreeMap<String, Vec<u8>> {
    let manifest = setup.manifest(place).unwrap_or_else(|| panic!("{place} has no manifest"));
    listed(&manifest)
        .into_iter()
        .map(|(object, _)| {
            let bytes = std::fs::read(setup.file("palettes", place).join(&object)).unwrap();
            (object, bytes)
        })
        .collect()
}

/// A counter among the metrics, 0 where it is not there yet.
async fn counter(rig: &Rig, line: &str) -> f64 {
    let text = rig.client.get(rig.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or(0.0)
}

async fn completed(rigs: &[&Rig]) -> f64 {
    let mut sum = 0.0;
    for rig in rigs {
        sum += counter(rig, r#"concept_jobs_total{mode="soft",outcome="complete"}"#).await;
    }
    sum
}

#[tokio::test]
async fn a_second_job_with_other_palettes_neither_decodes_nor_models_and_gives_the_same_bytes() {
    let (warm, cold) = (local(), local().with("CONCEPT_CACHE_TTL_SECONDS", "0"));
    let (rig, other) = (warm.serve().await, cold.serve().await);
    for (id, first) in [("a", "#112233"), ("b", "#445566")] {
        assert_eq!(rig.post("/v1/render", &job_of(id, first)).await.0, 200);
        assert_eq!(other.post("/v1/render", &job_of(id, first)).await.0, 200);
    }
    let first = warm.manifest("u_1/a").unwrap();
    assert!(first.get("spared").is_none() && first["timings_ms"]["decode"].is_number());
    let second = warm.manifest("u_1/b").unwrap();
    assert_eq!((&second["spared"]["base"], &second["spared"]["files"]), (&json!(true), &json!(0)));
    for stage in STAGES_OF_A_BASE {
        assert!(second["timings_ms"].get(stage).is_none(), "{stage}");
    }
    assert_eq!(first["source"], second["source"], "what is known of the picture is known without reading it");
    let spent = |manifest: &Value, stage: &str| manifest["timings_ms"][stage].as_f64().unwrap_or(0.0);
    let whole: f64 = ["decode", "prescale", "index", "model"].iter().map(|stage| spent(&first, stage)).sum();
    let saved = second["spared"]["saved_ms"].as_f64().unwrap();
    assert!(saved > 0.5 * whole && saved <= whole + 0.01, "{saved} of {whole}");
    let never = cold.manifest("u_1/b").unwrap();
    assert!(never.get("spared").is_none() && never["timings_ms"]["decode"].is_number());
    assert_eq!(files(&warm, "u_1/b"), files(&cold, "u_1/b"));
    assert_eq!(counter(&rig, r#"concept_result_cache_total{layer="base",result="hit"}"#).await, 1.0);
}

#[tokio::test]
async fn the_same_variations_under_another_name_are_handed_over_again_with_all_that_is_known_of_them() {
    let setup = local();
    let rig = setup.serve().await;
    assert_eq!(rig.post("/v1/render", &job("a", 3)).await.0, 200);
    let mut again = job("b", 3);
    again["user_id"] = json!("u_2");
    again["destination"] = json!("gs://palettes/elsewhere");
    again["palettes"][0]["name"] = json!("Renamed");
    assert_eq!(rig.post("/v1/render", &again).await.0, 200);
    let (first, second) = (setup.manifest("u_1/a").unwrap(), setup.manifest("elsewhere/u_2/b").unwrap());
    assert_eq!(second["spared"]["files"], 3);
    for stage in ["decode", "assign", "table", "encode"] {
        assert!(second["timings_ms"].get(stage).is_none(), "{stage}: {}", second["timings_ms"]);
    }
    let (was, is) = (files(&setup, "u_1/a"), files(&setup, "elsewhere/u_2/b"));
    for (name, renamed) in [("P0", "Renamed"), ("P1", "P1"), ("P2", "P2")] {
        let file = |name: &str| format!("palette_{name}_128.jpg");
        assert!(was[&file(name)] == is[&file(renamed)], "the bytes of {name} are the same");
    }
    for (was, is) in first["variations"].as_array().unwrap().iter().zip(second["variations"].as_array().unwrap()) {
        for field in ["mapping", "metrics", "crc32c", "width", "height", "bytes"] {
            assert_eq!(was[field], is[field], "{field}");
        }
    }
    // One palette of three is new: only that is made.
    let mut third = job("c", 3);
    third["palettes"][1]["colors"][0] = json!("#010203");
    assert_eq!(rig.post("/v1/render", &third).await.0, 200);
    let third = setup.manifest("u_1/c").unwrap();
    assert_eq!((&third["spared"]["files"], &third["spared"]["base"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn a_source_that_was_overwritten_is_never_served_from_what_was_made_of_the_old_one() {
    let setup = local();
    let rig = setup.serve().await;
    assert_eq!(rig.post("/v1/render", &job("a", 2)).await.0, 200);
    setup.put("bases", "photo.jpg", &fixture("portrait.jpg"));
    assert_eq!(rig.post("/v1/render", &job("b", 2)).await.0, 200);
    let (first, second) = (setup.manifest("u_1/a").unwrap(), setup.manifest("u_1/b").unwrap());
    assert!(second.get("spared").is_none());
    assert_ne!(first["source"]["sha256"], second["source"]["sha256"]);
    // The same content at another address is the same picture.
    setup.put("bases", "copy.jpg", &fixture("photo.jpg"));
    let mut copy = job("c", 2);
    copy["source"] = json!("gs://bases/copy.jpg");
    assert_eq!(rig.post("/v1/render", &copy).await.0, 200);
    let third = setup.manifest("u_1/c").unwrap();
    assert_eq!((&third["spared"]["base"], &third["spared"]["files"]), (&json!(true), &json!(2)));
}

#[tokio::test]
async fn of_many_callers_who_want_the_same_one_works_and_all_are_answered() {
    let setup = local();
    let rig = setup.serve().await;
    let mut same = job("j", 3);
    same["outputs"] = json!([{"format": "png"}]);
    let answers = join_all((0..30).map(|_| rig.post("/v1/render", &same))).await;
    let manifest = setup.manifest("u_1/j").unwrap();
    for (status, answer) in answers {
        assert_eq!((status, &answer), (200, &manifest));
    }
    assert_eq!(completed(&[&rig]).await, 1.0);
    assert!(counter(&rig, "concept_merged_total").await >= 1.0);
    // One picture for each of those who only look at it, too.
    let mut one = job("p", 1);
    one.as_object_mut().unwrap().remove("job_id");
    one["outputs"] = json!([{"format": "png"}]);
    let looks = (0..10).map(|_| async {
        let request = rig.client.post(rig.url("/v1/render")).header("accept", "image/png").json(&one);
        request.send().await.unwrap().bytes().await.unwrap()
    });
    let pictures = join_all(looks).await;
    assert!(pictures.iter().all(|picture| *picture == pictures[0] && picture.starts_with(b"\x89PNG")));
}

#[tokio::test]
async fn two_processes_on_one_storage_do_each_distinct_job_exactly_once() {
    let setup = local();
    let (a, b) = tokio::join!(setup.serve(), setup.serve());
    const DISTINCT: usize = 12;
    let deliveries = (0..4 * DISTINCT).map(|i| {
        let rig = if i % 2 == 0 { &a } else { &b };
        let job = job_of(&format!("j{}", i / 2 % DISTINCT), "#123456");
        async move { rig.push(&job, &format!("m{i}")).await }
    });
    let statuses = join_all(deliveries).await;
    assert!(statuses.iter().all(|status| *status == 204), "{statuses:?}");
    for i in 0..DISTINCT {
        assert_eq!(files(&setup, &format!("u_1/j{i}")).len(), 2);
    }
    assert_eq!(completed(&[&a, &b]).await, DISTINCT as f64);
    // The leases are given back, behind the answers.
    let start = Instant::now();
    while (0..DISTINCT).any(|i| setup.file("palettes", &format!("u_1/j{i}/lease.json")).exists()) {
        assert!(start.elapsed() < PATIENCE, "a lease stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn when_the_process_that_works_is_killed_the_one_that_waits_takes_over() {
    let setup = local().with("CONCEPT_LEASE_SECONDS", "1");
    let (mut a, b) = tokio::join!(setup.serve(), setup.serve());
    let mut long = job("j", 3);
    long["outputs"] = json!([{"format": "png", "effort": "small"}, {"format": "webp", "lossless": true}]);
    let lease = setup.file("palettes", "u_1/j/lease.json");
    let doomed = {
        let request = a.client.post(a.url("/v1/render")).json(&long);
        tokio::spawn(async move { request.send().await.is_err() })
    };
    let start = Instant::now();
    while !lease.exists() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waits = b.post("/v1/render", &long);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(setup.manifest("u_1/j").is_none(), "it was too fast to be killed in the middle");
        a.kill();
    };
    let ((status, manifest), ()) = tokio::join!(waits, kill);
    assert_eq!((status, &manifest["state"]), (200, &json!("complete")));
    assert!(doomed.await.unwrap());
    // Two outputs of three palettes, and copies for upload of the large PNGs.
    assert_eq!(files(&setup, "u_1/j").len(), 9);
}

#[tokio::test]
async fn files_are_shared_through_redis_and_a_dead_redis_costs_nothing_but_the_sharing() {
    let Some(mut redis) = RedisServer::start() else { return };
    let setup = local().with("CONCEPT_REDIS_URL", &redis.url());
    let (a, b) = tokio::join!(setup.serve(), setup.serve());
    assert_eq!(a.post("/v1/render", &job("a", 3)).await.0, 200);
    // What was made is put there behind the answer.
    let start = Instant::now();
    while counter(&a, r#"concept_result_cache_total{layer="redis",result="put"}"#).await < 3.0 {
        assert!(start.elapsed() < PATIENCE, "the files do not arrive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(b.post("/v1/render", &job("b", 3)).await.0, 200);
    assert_eq!(setup.manifest("u_1/b").unwrap()["spared"]["files"], 3);
    assert!(files(&setup, "u_1/a").values().eq(files(&setup, "u_1/b").values()));
    redis.kill();
    for i in 0..5 {
        let start = Instant::now();
        let new = job_of(&format!("without{i}"), &format!("#0000{i}0"));
        assert_eq!(b.post("/v1/render", &new).await.0, 200);
        tracing_time(start, "a job without Redis");
    }
    assert_eq!(counter(&b, r#"concept_breaker{of="redis"}"#).await, 2.0);
    redis.restart();
    let start = Instant::now();
    let mut n = 0;
    while counter(&b, r#"concept_breaker{of="redis"}"#).await > 0.0 {
        n += 1;
        assert_eq!(b.post("/v1/render", &job_of(&format!("again{n}"), &format!("#{n:06x}"))).await.0, 200);
        assert!(start.elapsed() < PATIENCE, "it is never used again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says how long something took: no test fails on a time.
fn tracing_time(start: Instant, what: &str) {
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
}

#[tokio::test]
async fn one_users_hundred_jobs_do_not_hold_up_another_users_one() {
    let setup = local().with("CONCEPT_THREADS", "1").with("CONCEPT_CACHE_TTL_SECONDS", "0");
    let rig = setup.serve().await;
    let many = join_all((0..100).map(|i| {
        let mut job = job(&format!("many{i}"), 1);
        job["user_id"] = json!("u_many");
        let rig = &rig;
        async move { (rig.post("/v1/render", &job).await.0, Instant::now()) }
    }));
    let one = async {
        // When the others are under way.
        while (0..100).all(|i| setup.manifest(&format!("u_many/many{i}")).is_none()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let sent = Instant::now();
        let mut job = job("one", 1);
        job["user_id"] = json!("u_one");
        (rig.post("/v1/render", &job).await.0, sent, Instant::now())
    };
    let (many, (status, sent, done)) = tokio::join!(many, one);
    assert_eq!(status, 200);
    let before = many.iter().filter(|(_, at)| *at > sent && *at < done).count();
    let behind = many.iter().filter(|(_, at)| *at > done).count();
    println!("{before} of the others were served while the one waited, {behind} behind it");
    // One at each place where they take turns, and what had its turn already.
    assert!(before <= 20 && behind > 0, "{before} of the others were served first, {behind} behind it");
}
