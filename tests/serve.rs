//! The worker on HTTP, as the real program: what goes in, what comes out, what is left behind.

mod worker_rig;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use worker_rig::{Rig, Setup, crc32c, fixture, job, listed, wrapped};

async fn local() -> (Setup, Rig) {
    local_with(&[]).await
}

async fn local_with(vars: &[(&str, &str)]) -> (Setup, Rig) {
    let mut setup = Setup::local();
    for (name, value) in vars {
        setup = setup.with(name, value);
    }
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    let rig = setup.serve().await;
    (setup, rig)
}

fn whole(setup: &Setup, place: &str) -> Value {
    let manifest = setup.manifest(place).unwrap();
    for (object, checksum) in listed(&manifest) {
        let bytes = std::fs::read(setup.file("palettes", place).join(object)).unwrap();
        assert_eq!(crc32c(&bytes), checksum);
        image::load_from_memory(&bytes).unwrap();
    }
    manifest
}

#[tokio::test]
async fn a_pushed_job_is_acknowledged_once_its_manifest_and_all_variations_are_stored() {
    let (setup, rig) = local().await;
    assert_eq!(rig.push(&job("j1", 3), "m1").await, 204);
    let manifest = whole(&setup, "u_1/j1");
    assert_eq!(manifest["state"], "complete");
    assert_eq!(manifest["variations"].as_array().unwrap().len(), 3);
    assert_eq!(manifest["key"].as_str().unwrap().len(), 64);
    for entry in manifest["variations"].as_array().unwrap() {
        assert!(!entry["generation"].as_str().unwrap().is_empty() && entry["metrics"].is_object());
    }
    for stage in ["queue", "fetch", "decode", "model", "encode", "store", "total"] {
        assert!(manifest["timings_ms"][stage].is_number(), "{stage}");
    }
    let (status, known) = rig.get("/v1/jobs/j1?user_id=u_1").await;
    assert_eq!((status, &known["stage"], &known["manifest"]), (200, &json!("done"), &manifest));
}

#[tokio::test]
async fn a_second_delivery_changes_nothing_and_other_work_under_the_same_name_is_a_recorded_conflict() {
    let (setup, rig) = local().await;
    assert_eq!(rig.push(&job("j1", 2), "m1").await, 204);
    let manifest = std::fs::read(setup.file("palettes", "u_1/j1/manifest.json")).unwrap();
    assert_eq!(rig.push(&job("j1", 2), "m2").await, 204);
    assert_eq!(rig.push(&job("j1", 3), "m3").await, 204);
    assert_eq!(std::fs::read(setup.file("palettes", "u_1/j1/manifest.json")).unwrap(), manifest);
    let record = setup.manifest("_failed/m3").unwrap();
    assert_eq!((&record["state"], &record["error"]["class"]), (&json!("failed"), &json!("conflict")));
    let (status, answer) = rig.post("/v1/render", &job("j1", 3)).await;
    assert_eq!((status, &answer["error"]["class"]), (409, &json!("conflict")));
    let outcomes: Vec<Value> = rig.job_lines(4).await.iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["complete", "duplicate", "conflict", "conflict"]);
}

#[tokio::test]
async fn concurrent_deliveries_of_one_job_end_in_one_manifest_that_all_of_them_acknowledge() {
    let (setup, rig) = local().await;
    let job = job("j1", 3);
    let pushes = (0..8).map(|i| {
        let (rig, job) = (&rig, &job);
        async move { rig.push(job, &format!("m{i}")).await }
    });
    assert_eq!(futures_util::future::join_all(pushes).await, [204; 8]);
    assert_eq!(whole(&setup, "u_1/j1")["state"], "complete");
    assert!(!setup.file("palettes", "_failed").exists());
}

#[tokio::test]
async fn a_delivery_after_a_crash_makes_only_what_is_missing() {
    let (setup, rig) = local().await;
    assert_eq!(rig.push(&job("j1", 3), "m1").await, 204);
    let folder = setup.file("palettes", "u_1/j1");
    let before = whole(&setup, "u_1/j1");
    // As after a crash: no manifest, one file of three missing.
    std::fs::remove_file(folder.join("manifest.json")).unwrap();
    std::fs::remove_file(folder.join("palette_P1_128.jpg")).unwrap();
    let kept = std::fs::metadata(folder.join("palette_P0_128.jpg")).unwrap().modified().unwrap();
    assert_eq!(rig.push(&job("j1", 3), "m1").await, 204);
    let after = whole(&setup, "u_1/j1");
    assert_eq!(std::fs::metadata(folder.join("palette_P0_128.jpg")).unwrap().modified().unwrap(), kept);
    for (before, after) in before["variations"].as_array().unwrap().iter().zip(after["variations"].as_array().unwrap())
    {
        assert_eq!((&before["crc32c"], &before["mapping"]), (&after["crc32c"], &after["mapping"]));
    }
    assert_eq!(rig.job_lines(2).await[1]["adopted"], 2);
}

#[tokio::test]
async fn somebody_elses_file_in_a_jobs_place_is_a_conflict_and_stays() {
    let (setup, rig) = local().await;
    setup.put("palettes", "u_1/j1/palette_P0_128.jpg", b"mine");
    assert_eq!(rig.push(&job("j1", 1), "m1").await, 204);
    assert_eq!(std::fs::read(setup.file("palettes", "u_1/j1/palette_P0_128.jpg")).unwrap(), b"mine");
    assert_eq!(setup.manifest("_failed/m1").unwrap()["error"]["class"], "conflict");
}

/// Every message that no later delivery mends is acknowledged and leaves a record where one looks for it.
#[tokio::test]
async fn what_only_its_sender_can_mend_is_recorded_and_acknowledged() {
    let (setup, rig) =
        local_with(&[("CONCEPT_ALLOWED_SOURCES", "gs://bases"), ("CONCEPT_ALLOWED_DESTINATIONS", "gs://palettes")])
            .await;
    setup.put("bases", "truncated.jpg", &fixture("truncated.jpg"));
    setup.put("bases", "bomb.png", &fixture("bomb.png"));
    setup.put("bases", "text.txt", &fixture("not_an_image.txt"));
    setup.put("bases", "empty.png", b"");
    let with = |id: &str, field: &str, value: Value| {
        let mut job = job(id, 1);
        job[field] = value;
        job
    };
    let jobs: [(Value, &str, &str); 15] = [
        (with("a", "source", json!("gs://bases/none.png")), "u_1/a", "source-not-found"),
        (with("b", "source", json!("gs://other/photo.jpg")), "u_1/b", "source-forbidden"),
        (with("c", "source", json!("/etc/passwd")), "u_1/c", "bad-source"),
        (with("d", "source", json!("https://example.com/a.png")), "u_1/d", "source-forbidden"),
        (with("e", "source", json!("gs://bases/truncated.jpg")), "u_1/e", "broken-picture"),
        (with("f", "source", json!("gs://bases/bomb.png")), "u_1/f", "picture-too-large"),
        (with("g", "source", json!("gs://bases/text.txt")), "u_1/g", "unsupported-picture"),
        (with("h", "source", json!("gs://bases/empty.png")), "u_1/h", "broken-picture"),
        (with("i", "destination", json!("gs://elsewhere/x")), "_failed/m8", "destination-forbidden"),
        (with("j", "destination", json!("file:///tmp")), "_failed/m9", "bad-job"),
        (with("k", "palettes", json!([])), "_failed/m10", "bad-job"),
        (with("l", "effects", json!(["sepia"])), "_failed/m11", "bad-job"),
        (with("../m", "source", json!("gs://bases/photo.jpg")), "_failed/m12", "bad-job"),
        (with("n", "unknown_field", json!(1)), "_failed/m13", "bad-job"),
        (with("o", "source", json!("gs://bases/../../etc/passwd")), "u_1/o", "bad-source"),
    ];
    for (i, (job, place, class)) in jobs.iter().enumerate() {
        assert_eq!(rig.push(job, &format!("m{i}")).await, 204, "{job}");
        let record = setup.manifest(place).unwrap_or_else(|| panic!("no record at {place} for {job}"));
        assert_eq!(record["state"], "failed");
        assert_eq!(record["error"]["class"], *class, "{record:#}");
        assert!(record["error"]["message"].as_str().unwrap().len() > 20);
        assert!(record["message"].as_str().unwrap().contains("palettes"), "the message is kept: {record:#}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_envelope_are_recorded_too() {
    let (setup, rig) = local().await;
    for (i, (kind, body)) in [
        ("application/json", &b"not json"[..]),
        ("application/json", b""),
        ("application/json", b"[1, 2]"),
        ("application/json", br#"{"message": {"data": "%%%"}}"#),
        ("application/json", br#"{"message": 7}"#),
        ("application/cloudevents+json", br#"{"specversion": "1.0"}"#),
        ("text/plain", b"\xff\xfe\x00"),
    ]
    .iter()
    .enumerate()
    {
        let answer =
            rig.client.post(rig.url("/")).header("content-type", *kind).body(body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{kind} {body:?}");
        let entries = std::fs::read_dir(setup.file("palettes", "_failed")).unwrap();
        let records = entries.filter(|entry| entry.as_ref().unwrap().path().join("manifest.json").exists());
        assert_eq!(records.count(), i + 1);
    }
}

#[tokio::test]
async fn a_failed_record_is_replaced_when_a_later_delivery_succeeds() {
    let (setup, rig) = local().await;
    let mut late = job("late", 1);
    late["source"] = json!("gs://bases/late.jpg");
    assert_eq!(rig.push(&late, "m1").await, 204);
    assert_eq!(setup.manifest("u_1/late").unwrap()["error"]["class"], "source-not-found");
    setup.put("bases", "late.jpg", &fixture("photo.jpg"));
    assert_eq!(rig.push(&late, "m1").await, 204);
    assert_eq!(whole(&setup, "u_1/late")["state"], "complete");
}

#[tokio::test]
async fn the_record_of_another_job_under_the_same_name_is_set_aside_not_lost() {
    let (setup, rig) = local().await;
    let mut wrong = job("j1", 1);
    wrong["steps"] = json!([{"when": "before", "name": "n", "model": "owner/m"}]);
    assert_eq!(rig.push(&wrong, "m1").await, 204);
    let record = setup.manifest("u_1/j1").unwrap();
    assert_eq!(record["state"], "failed");
    // Mended, it is another job, and takes the place.
    assert_eq!(rig.push(&job("j1", 1), "m2").await, 204);
    assert_eq!(whole(&setup, "u_1/j1")["state"], "complete");
    let aside: Vec<String> = std::fs::read_dir(setup.file("palettes", "_failed"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].starts_with("replaced-"));
    assert_eq!(setup.manifest(&format!("_failed/{}", aside[0])).unwrap(), record);
}

#[tokio::test]
async fn a_message_that_is_no_text_or_long_is_kept_whole_beside_its_record() {
    let (setup, rig) = local().await;
    let long = format!("{{\"source\": \"{}\"}}", "x".repeat(100 << 10)).into_bytes();
    let secret = br#"{"job_id": "s", "source": "https://host/a.png?sig=s3cret", "palettes": 7}"#.to_vec();
    for (i, body) in [b"\xff\xfe no text".to_vec(), long, secret].into_iter().enumerate() {
        assert_eq!(rig.post("/", &wrapped(&body, &format!("k{i}"))).await.0, 204);
        let record = setup.manifest(&format!("_failed/k{i}")).unwrap();
        assert!(record.get("message").is_none());
        let object = record["message_object"].as_str().unwrap().strip_prefix("gs://palettes/").unwrap();
        assert_eq!(std::fs::read(setup.file("palettes", object)).unwrap(), body);
    }
}

#[tokio::test]
async fn a_job_without_a_name_gets_the_same_one_every_time_and_may_be_cached_for_ever() {
    let (setup, rig) = local().await;
    let mut job = job("x", 1);
    job.as_object_mut().unwrap().remove("job_id");
    let (status, first) = rig.post("/v1/render", &job).await;
    assert_eq!(status, 200, "{first}");
    let id = first["job_id"].as_str().unwrap();
    assert!(id.starts_with("job-"), "{id}");
    let (_, second) = rig.post("/v1/render", &job).await;
    assert_eq!(first, second);
    whole(&setup, &format!("u_1/{id}"));
}

#[tokio::test]
async fn a_direct_request_is_answered_with_the_manifest_and_its_timings() {
    let (setup, rig) = local().await;
    let answer = rig.client.post(rig.url("/v1/render")).json(&job("d1", 2)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let timing = answer.headers()["server-timing"].to_str().unwrap().to_owned();
    assert!(timing.contains("decode;dur=") && timing.contains("total;dur="), "{timing}");
    assert!(answer.headers().contains_key("x-request-id"));
    let manifest: Value = answer.json().await.unwrap();
    assert_eq!(manifest, setup.manifest("u_1/d1").unwrap());
}

#[tokio::test]
async fn one_output_and_a_wish_for_a_picture_give_the_picture_and_store_nothing() {
    let (setup, rig) = local().await;
    let ask = |job: Value| rig.client.post(rig.url("/v1/render")).header("accept", "image/*").json(&job).send();
    let answer = ask(job("p1", 1)).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"image/jpeg".parse().unwrap()));
    let picture = image::load_from_memory(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(picture.width().max(picture.height()), 128);
    assert!(!setup.file("palettes", "u_1/p1").exists());
    let answer = ask(job("p1", 2)).await.unwrap();
    assert_eq!(answer.status(), 406);
}

#[tokio::test]
async fn a_picture_may_come_along_in_a_form() {
    let (setup, rig) = local().await;
    let form = |id: &str, picture: Vec<u8>| {
        let mut job = job(id, 2);
        job.as_object_mut().unwrap().remove("source");
        reqwest::multipart::Form::new()
            .text("job", job.to_string())
            .part("image", reqwest::multipart::Part::bytes(picture).file_name("mine.jpg"))
    };
    let post = |form| rig.client.post(rig.url("/v1/render")).multipart(form).send();
    let answer = post(form("f1", fixture("photo.jpg"))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let manifest: Value = answer.json().await.unwrap();
    assert_eq!(manifest["source"]["uri"], "upload:mine.jpg");
    whole(&setup, "u_1/f1");
    let answer = post(form("f2", b"no picture".to_vec())).await.unwrap();
    assert_eq!(answer.status(), 422);
    let answer = post(reqwest::multipart::Form::new().text("job", "{}")).await.unwrap();
    assert_eq!(answer.status(), 400);
}

/// Every refusal of a direct request has its status, and says what was wrong.
#[tokio::test]
async fn direct_requests_get_their_documented_status() {
    let (setup, rig) =
        local_with(&[("CONCEPT_ALLOWED_SOURCES", "gs://bases"), ("CONCEPT_ALLOWED_DESTINATIONS", "gs://palettes")])
            .await;
    setup.put("bases", "bomb.png", &fixture("bomb.png"));
    for (field, value, status, class) in [
        ("source", json!("gs://bases/none.png"), 404, "source-not-found"),
        ("source", json!("gs://other/a.png"), 403, "source-forbidden"),
        ("source", json!("gs://bases/bomb.png"), 413, "picture-too-large"),
        ("source", json!("ftp://host/a"), 422, "bad-source"),
        ("destination", json!("gs://other"), 403, "destination-forbidden"),
        ("palettes", json!("seven"), 422, "bad-job"),
    ] {
        let mut job = job("x", 1);
        job[field] = value.clone();
        let (got, answer) = rig.post("/v1/render", &job).await;
        assert_eq!((got, answer["error"]["class"].as_str()), (status, Some(class)), "{field}: {value} gave {answer}");
    }
    assert!(!setup.file("palettes", "u_1").exists(), "a caller who is told needs no record");
    for (method, path, status) in [("GET", "/v1/render", 405), ("POST", "/none", 404), ("GET", "/v1/jobs/none", 404)] {
        let answer = rig.client.request(method.parse().unwrap(), rig.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        assert!(answer.json::<Value>().await.unwrap()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn large_png_variations_get_a_copy_for_upload() {
    let (setup, rig) = local_with(&[("CONCEPT_UPLOAD_MAX_SIZE_KB", "10")]).await;
    let mut large = job("big", 1);
    large["outputs"] = json!([{"format": "png"}, {"format": "png", "max_dimension": 16}, {"format": "jpeg"}]);
    assert_eq!(rig.push(&large, "m1").await, 204);
    let manifest = whole(&setup, "u_1/big");
    let copies: Vec<&Value> =
        manifest["variations"].as_array().unwrap().iter().map(|entry| &entry["upload"]["object"]).collect();
    assert_eq!(copies, [&json!("palette_P0.upload.jpg"), &Value::Null, &Value::Null]);
}

#[tokio::test]
async fn a_new_object_starts_the_default_job_and_the_workers_own_objects_do_not() {
    let default = r#"{"palettes": {"generate": 2}, "outputs": [{"format": "jpeg", "max_dimension": 64}]}"#;
    let (setup, rig) = local_with(&[("CONCEPT_DEFAULT_JOB", default)]).await;
    let notice = |bucket: &str, name: &str| {
        let mut envelope = wrapped(b"", &format!("n-{name}"));
        envelope["message"]["attributes"] =
            json!({"eventType": "OBJECT_FINALIZE", "bucketId": bucket, "objectId": name, "payloadFormat": "NONE"});
        envelope
    };
    assert_eq!(rig.post("/", &notice("bases", "photo.jpg")).await.0, 204);
    let users = std::fs::read_dir(setup.file("palettes", "_")).unwrap();
    assert_eq!(users.count(), 1);
    assert_eq!(rig.post("/", &notice("palettes", "_/x/palette_a.png")).await.0, 204);
    assert!(!setup.file("palettes", "_failed").exists());
    // The record of one that failed says which object it was.
    assert_eq!(rig.post("/", &notice("bases", "none.jpg")).await.0, 204);
    let folders = std::fs::read_dir(setup.file("palettes", "_")).unwrap().map(|entry| entry.unwrap().file_name());
    let records: Vec<Value> = folders
        .filter_map(|name| setup.manifest(&format!("_/{}", name.to_str().unwrap())))
        .filter(|manifest| manifest["state"] == "failed")
        .collect();
    assert_eq!(records.len(), 1);
    let message: Value = serde_json::from_str(records[0]["message"].as_str().unwrap()).unwrap();
    assert_eq!((&message["bucketId"], &message["objectId"]), (&json!("bases"), &json!("none.jpg")));
}

#[tokio::test]
async fn results_of_a_default_job_with_a_place_of_its_own_start_nothing_either() {
    let default =
        r#"{"palettes": {"generate": 1}, "destination": "gs://elsewhere/made", "outputs": [{"format": "jpeg"}]}"#;
    let (setup, rig) = local_with(&[("CONCEPT_DEFAULT_JOB", default)]).await;
    let notice = json!({"message": {"messageId": "n", "attributes": {"eventType": "OBJECT_FINALIZE", "bucketId": "elsewhere",
        "objectId": "made/_/x/palette_a.jpg", "payloadFormat": "NONE"}}, "subscription": "s"});
    assert_eq!(rig.post("/", &notice).await.0, 204);
    assert!(!setup.file("palettes", "_failed").exists() && !setup.file("elsewhere", "made").exists());
}

#[tokio::test]
async fn a_job_outside_the_default_place_is_found_where_it_lies() {
    let (_setup, rig) = local().await;
    let mut elsewhere = job("j_ü", 1);
    elsewhere["destination"] = json!("gs://other/place");
    let answer = rig.client.post(rig.url("/v1/render")).json(&elsewhere).send().await.unwrap();
    assert_eq!(answer.headers()["x-concept-manifest"], "gs://other/place/u_1/j_%C3%BC/manifest.json");
    let (status, known) = rig.get("/v1/jobs/j_%C3%BC?user_id=u_1").await;
    assert_eq!((status, &known["folder"]), (200, &json!("gs://other/place/u_1/j_ü")));
}

/// Neither who says nothing nor who says half of how HTTP/2 begins keeps a connection.
#[tokio::test]
async fn connections_that_do_not_say_what_they_want_are_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (_setup, rig) = local().await;
    let silent = |head: &'static [u8]| {
        let address = rig.address;
        async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(head).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
            // Closed or reset.
            let _ = read.expect("the connection stays open");
        }
    };
    tokio::join!(silent(b""), silent(b"PRI * HTTP/2.0"), silent(b"GET /health HTT"));
}

#[tokio::test]
async fn a_form_that_finds_the_queue_full_is_refused_before_it_is_read() {
    let (_setup, rig) = local_with(&[("CONCEPT_QUEUE_LIMIT", "1"), ("CONCEPT_THREADS", "1")]).await;
    let (first, second) = (job("first", 60), job("second", 1));
    let until = async |running: u64, waiting: u64| {
        let start = Instant::now();
        loop {
            let (_, ready) = rig.get("/ready").await;
            if ready["running"] == running && ready["waiting"] == waiting {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{ready}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // One computes, one waits: there is no place left.
    let form = async {
        until(2, 1).await;
        let mut job = job("form", 1);
        job.as_object_mut().unwrap().remove("source");
        let form = reqwest::multipart::Form::new()
            .text("job", job.to_string())
            .part("image", reqwest::multipart::Part::bytes(fixture("photo.jpg")));
        rig.client.post(rig.url("/v1/render")).multipart(form).send().await.unwrap().status()
    };
    let fill = async {
        until(1, 0).await;
        rig.push(&second, "m2").await
    };
    let (first, second, status) = tokio::join!(rig.push(&first, "m1"), fill, form);
    assert_eq!((first, second, status.as_u16()), (204, 204, 429));
}

#[tokio::test]
async fn health_readiness_warm_up_schema_and_metrics_answer() {
    let (_setup, rig) = local().await;
    for path in ["/health", "/api/v2/health"] {
        let (status, body) = rig.get(path).await;
        assert_eq!((status, &body["status"]), (200, &json!("ok")));
    }
    assert_eq!(rig.get("/ready").await.1["ready"], true);
    let (status, warm) = rig.get("/warmup").await;
    assert_eq!((status, &warm["warm"]), (200, &json!(true)));
    let (_, schema) = rig.get("/v1/schema").await;
    assert!(
        schema["job"]["properties"]["palettes"].is_object()
            && schema["manifest"]["properties"]["variations"].is_object()
    );
    rig.push(&job("j", 1), "m").await;
    rig.push(&job("j", 1), "m").await;
    let text = rig.client.get(rig.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("# TYPE") && text.contains("_bucket{"), "{text}");
    let (_, numbers) = rig.get("/metrics.json").await;
    for field in ["uptime", "requests", "cacheHitRate", "errorRate", "cache", "features"] {
        assert!(!numbers[field].is_null(), "{field} in {numbers}");
    }
    assert_eq!(numbers["requests"]["cached"], 1);
}

#[tokio::test]
async fn json_is_compressed_for_those_who_take_it() {
    let (_setup, rig) = local().await;
    let answer = rig.client.get(rig.url("/v1/schema")).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn h2c_is_spoken_too() {
    let (_setup, rig) = local().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let answer = client.get(rig.url("/health")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn a_full_queue_answers_429_and_says_when_to_come_again() {
    let (_setup, rig) = local_with(&[("CONCEPT_QUEUE_LIMIT", "1"), ("CONCEPT_THREADS", "1")]).await;
    let jobs: Vec<Value> = (0..24).map(|i| job(&format!("q{i}"), 3)).collect();
    let pushes = jobs.iter().map(|job| rig.push(job, "m"));
    let statuses = futures_util::future::join_all(pushes).await;
    assert!(statuses.contains(&429) && statuses.contains(&204), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 204 | 429)), "{statuses:?}");
    for line in rig.job_lines(24).await {
        assert!(matches!(line["outcome"].as_str(), Some("complete" | "retry")), "{line}");
    }
}

#[tokio::test]
async fn on_sigterm_it_takes_nothing_new_finishes_what_runs_and_ends_with_0() {
    let (setup, mut rig) = local().await;
    let job = job("last", 12);
    let push = rig.push(&job, "m1");
    let stop = async {
        while rig.get("/v1/jobs/last?user_id=u_1").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        rig.ask_to_stop();
        Instant::now()
    };
    let (status, asked) = futures_util::future::join(push, stop).await;
    let ended = rig.ended().await;
    assert_eq!(ended.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Either it was finished, or it is left to the next delivery: never half recorded.
    match status {
        204 => assert_eq!(whole(&setup, "u_1/last")["state"], "complete"),
        503 => assert!(setup.manifest("u_1/last").is_none()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn settings_that_would_leave_it_open_stop_it_before_it_listens() {
    for (vars, args, word) in [
        (&[("K_SERVICE", "w")][..], &["serve"][..], "CONCEPT_PUSH_AUTH"),
        (&[("K_SERVICE", "w"), ("CONCEPT_PUSH_AUTH", "off")], &["serve"], "CONCEPT_PUSH_AUTH"),
        (&[("CONCEPT_PUSH_AUTH", "verify")], &["serve"], "CONCEPT_PUSH_AUDIENCE"),
        (&[], &["serve", "--listen", "0.0.0.0:0"], "--listen"),
        (&[("PORT", "http")], &["serve"], "PORT"),
        (&[("CONCEPT_DEFAULT_JOB", "{\"palettes\": 7}")], &["serve"], "CONCEPT_DEFAULT_JOB"),
        (
            &[("CONCEPT_DEFAULT_JOB", "{\"job_id\": \"j\", \"palettes\": {\"generate\": 1}}")],
            &["serve"],
            "CONCEPT_DEFAULT_JOB: job_id",
        ),
        (
            &[
                ("CONCEPT_DEFAULT_JOB", "{\"palettes\": {\"generate\": 1}}"),
                ("CONCEPT_STORAGE_BUCKET_CONCEPT", "both"),
                ("CONCEPT_STORAGE_BUCKET_PALETTE", "both"),
            ],
            &["serve"],
            "CONCEPT_DEFAULT_JOB: pictures come from",
        ),
        (
            &[
                ("CONCEPT_PUSH_AUTH", "platform"),
                ("CONCEPT_PUSH_AUDIENCE", "a"),
                ("CONCEPT_PUSH_SERVICE_ACCOUNT", "a@b.c"),
            ],
            &["serve", "--listen", "0.0.0.0:0"],
            "checks no signatures",
        ),
    ] {
        let mut setup = Setup::local();
        for (name, value) in vars {
            setup = setup.with(name, value);
        }
        let said = setup.command(args).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(2), "{text}");
        assert!(text.contains(word), "{text}");
    }
}
