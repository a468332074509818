//! What happens to a job can be followed: server-sent events, WebSocket, in order, without a gap, after a reconnection too.

mod redis_server;
mod worker_rig;

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use redis_server::RedisServer;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use worker_rig::{PATIENCE, Rig, Setup, fixture, job};

fn local() -> Setup {
    let setup = Setup::local();
    setup.put("bases", "photo.jpg", &fixture("photo.jpg"));
    setup
}

fn with_previews(id: &str, palettes: usize) -> Value {
    let mut job = job(id, palettes);
    job["previews"] = json!({"max_dimension": 256});
    job["outputs"] = json!([{"format": "jpeg"}]);
    job
}

/// Reads server-sent events until the last, or until `most` have come.
async fn events(rig: &Rig, path: &str, last_event_id: Option<&str>, most: usize) -> Vec<Value> {
    let mut request = rig.client.get(rig.url(path));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (mut stream, mut text, mut events) = (answer.bytes_stream(), String::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        text += std::str::from_utf8(&chunk.unwrap()).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let Some(data) = field("data") {
                let value: Value = serde_json::from_str(data).unwrap();
                assert_eq!(field("id").unwrap(), format!("{}-{}", value["run"].as_str().unwrap(), value["id"]));
                assert_eq!(field("event"), Some("progress"));
                events.push(value);
            }
            text = rest.to_owned();
            if events.len() >= most {
                return events;
            }
        }
    }
    events
}

/// Checks that a whole story is one: numbered from 1, stages in order, each file once, previews before everything else.
fn check(news: &[Value], palettes: usize) {
    let ids: Vec<u64> = news.iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=news.len() as u64).collect::<Vec<_>>());
    let order = ["queued", "fetching", "queued", "fetching", "decoding", "clustering", "making", "uploading", "done"];
    let mut stages: Vec<&str> = news.iter().map(|n| n["stage"].as_str().unwrap()).collect();
    stages.dedup();
    let mut expected = order.iter();
    assert!(stages.iter().all(|stage| expected.any(|known| known == stage)), "{stages:?}");
    assert_eq!((stages[0], *stages.last().unwrap()), ("queued", "done"));
    let files: Vec<&Value> = news.iter().filter_map(|n| n.get("file")).collect();
    let previews = files.iter().take_while(|file| file["preview"] == true).count();
    assert_eq!((previews, files.len()), (palettes, 2 * palettes), "{files:#?}");
    assert!(files.iter().skip(palettes).all(|file| file["preview"] == false));
    let last = news.last().unwrap();
    assert_eq!((&last["last"], &last["state"], &last["stored"]), (&json!(true), &json!("complete"), &json!(palettes)));
    assert!(news[..news.len() - 1].iter().all(|n| n["last"] == false));
}

#[tokio::test]
async fn a_job_is_followed_from_the_beginning_to_the_end_and_previews_come_first() {
    let setup = local().with("CONCEPT_PUBLIC_BASE_URL", "https://cdn.example.com");
    let setup = setup.with("CONCEPT_STORAGE_BUCKET_PALETTE", "palettes");
    let rig = setup.serve().await;
    // Followed before its message has come.
    let follow = events(&rig, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX);
    let post = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.post("/v1/render", &with_previews("j", 3)).await
    };
    let (news, (status, manifest)) = tokio::join!(follow, post);
    assert_eq!(status, 200);
    check(&news, 3);
    let files: Vec<&Value> = news.iter().filter_map(|n| n.get("file")).collect();
    assert_eq!(files[0]["link"], format!("https://cdn.example.com/u_1/j/{}", files[0]["object"].as_str().unwrap()));
    for entry in manifest["variations"].as_array().unwrap() {
        let preview = &entry["preview"];
        let bytes = std::fs::read(setup.file("palettes", "u_1/j").join(preview["object"].as_str().unwrap())).unwrap();
        assert!(preview["object"].as_str().unwrap().ends_with(".preview.webp"));
        assert_eq!(worker_rig::crc32c(&bytes), preview["crc32c"].as_str().unwrap());
        let picture = image::load_from_memory_with_format(&bytes, image::ImageFormat::WebP).unwrap();
        assert_eq!((picture.width(), picture.height()), (256, 192));
        assert_eq!((&preview["width"], &preview["height"]), (&json!(256), &json!(192)));
    }
}

#[tokio::test]
async fn whoever_comes_back_gets_exactly_what_was_missed() {
    let setup = local();
    let rig = setup.serve().await;
    assert_eq!(rig.post("/v1/render", &with_previews("j", 3)).await.0, 200);
    let all = events(&rig, "/v1/jobs/j/events", None, usize::MAX).await;
    check(&all, 3);
    let mut pieces = Vec::new();
    while pieces.len() < all.len() {
        // Broken off after two, again and again.
        let seen = pieces.last().map(|n: &Value| format!("{}-{}", n["run"].as_str().unwrap(), n["id"]));
        pieces.extend(events(&rig, "/v1/jobs/j/events?user_id=u_1", seen.as_deref(), 2).await);
    }
    assert_eq!(pieces, all);
    assert_eq!(events(&rig, "/v1/jobs/j/events", Some(&all.len().to_string()), usize::MAX).await, Vec::<Value>::new());
    // A story that this instance did not tell is told again from its beginning, not cut off.
    assert_eq!(events(&rig, "/v1/jobs/j/events", Some("0badcafe-9"), usize::MAX).await, all);
}

#[tokio::test]
async fn a_websocket_tells_the_same_and_closes_after_the_last() {
    let setup = local();
    let rig = setup.serve().await;
    let url = format!("ws://{}/v1/jobs/j/ws?user_id=u_1", rig.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let follow = async {
        let mut news = Vec::new();
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Text(text) => news.push(serde_json::from_str::<Value>(&text).unwrap()),
                Message::Close(_) => break,
                _ => {}
            }
        }
        news
    };
    let job = with_previews("j", 2);
    let (news, (status, _)) = tokio::join!(follow, rig.post("/v1/render", &job));
    assert_eq!(status, 200);
    check(&news, 2);
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("{url}&last_event_id=5")).await.unwrap();
    let Some(Ok(Message::Text(sixth))) = socket.next().await else { panic!() };
    assert_eq!(serde_json::from_str::<Value>(&sixth).unwrap(), news[5]);
    socket.send(Message::Close(None)).await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_for_good_ends_its_story_and_one_that_is_unknown_has_none() {
    let setup = local();
    setup.put("bases", "broken.jpg", b"this is no picture");
    let rig = setup.serve().await;
    let mut broken = job("j", 1);
    broken["source"] = json!("gs://bases/broken.jpg");
    assert_eq!(rig.post("/v1/render", &broken).await.0, 422);
    let news = events(&rig, "/v1/jobs/j/events", None, usize::MAX).await;
    let last = news.last().unwrap();
    assert_eq!((&last["last"], &last["error"]["class"]), (&json!(true), &json!("unsupported-picture")));
    assert_eq!(rig.client.get(rig.url("/v1/jobs/.hidden/events")).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn the_job_of_another_instance_is_followed_through_redis_and_its_end_without() {
    let Some(redis) = RedisServer::start() else { return };
    let setup = local().with("CONCEPT_REDIS_URL", &redis.url());
    let (a, b) = tokio::join!(setup.serve(), setup.serve());
    let follow = events(&b, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX);
    let job = with_previews("j", 3);
    let post = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        a.post("/v1/render", &job).await
    };
    let (news, (status, _)) = tokio::join!(follow, post);
    assert_eq!(status, 200);
    check(&news, 3);
    // An instance that has heard nothing still finds the manifest.
    let alone = setup.beside().serve().await;
    let news = events(&alone, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX).await;
    assert_eq!((news.len(), &news[0]["state"], &news[0]["last"]), (1, &json!("complete"), &json!(true)));
}

#[tokio::test]
async fn whoever_comes_back_to_a_long_list_hears_what_was_missed_and_nothing_of_before() {
    let Some(redis) = RedisServer::start() else { return };
    let rig = local().with("CONCEPT_REDIS_URL", &redis.url()).serve().await;
    let path = "/v1/jobs/j/events?user_id=u_1";
    // An instance gave the job up after 40 news, and another one began it anew.
    let news = |run: &str, id: u64, last: bool| json!({"run": run, "id": id, "at_ms": id, "stage": "making", "stored": id, "total": 300, "last": last});
    let first = (1..=40).map(|id| news("0000000a", id, id == 40));
    let second = (1..=300).map(|id| news("0000000b", id, id == 300));
    let story: Vec<Value> = first.chain(second).collect();
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let list = "concept:1:list:news:gs://palettes/u_1/j";
    for entry in &story {
        redis::cmd("RPUSH").arg(list).arg(entry.to_string()).exec(&mut connection).unwrap();
    }
    assert_eq!(events(&rig, path, None, usize::MAX).await, story);
    for (seen, rest) in [("0000000a-3", 3), ("0000000a-40", 40), ("0000000b-10", 50), ("0000000b-295", 335)] {
        assert_eq!(events(&rig, path, Some(seen), usize::MAX).await, story[rest..], "{seen}");
    }
    // Who has heard the end is not kept waiting; what is no number of ours is as if nothing had been heard.
    let start = Instant::now();
    assert_eq!(events(&rig, path, Some("0000000b-300"), usize::MAX).await, Vec::<Value>::new());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(events(&rig, path, Some("18446744073709551615"), usize::MAX).await, story);
    // A plain number is of every story.
    assert_eq!(events(&rig, path, Some("300"), usize::MAX).await, Vec::<Value>::new());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_failed_here_and_was_done_elsewhere_is_done() {
    let setup = local();
    let (a, b) = tokio::join!(setup.serve(), setup.serve());
    // It fails for good here, and the same name is then done by the other instance.
    let mut broken = job("j", 1);
    broken["source"] = json!("gs://bases/nothing.jpg");
    assert_eq!(a.push(&broken, "m1").await, 204);
    let last = events(&a, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX).await.pop().unwrap();
    assert_eq!((&last["last"], &last["error"]["class"]), (&json!(true), &json!("source-not-found")), "{last}");
    assert_eq!(b.push(&job("j", 1), "m2").await, 204);
    let last = events(&a, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX).await.pop().unwrap();
    assert_eq!((&last["last"], &last["state"]), (&json!(true), &json!("complete")), "{last}");
}

#[tokio::test]
async fn the_first_preview_is_there_long_before_the_job_is_done() {
    let setup = local();
    let rig = setup.serve().await;
    let mut job = with_previews("j", 7);
    job["outputs"] = json!([{"format": "png", "effort": "small"}]);
    let began = Instant::now();
    let first = async {
        let news = events(&rig, "/v1/jobs/j/events?user_id=u_1", None, usize::MAX).await;
        let at = |n: &Value| n["at_ms"].as_u64().unwrap();
        let preview = news.iter().find(|n| n["file"]["preview"] == true).unwrap();
        (at(preview) - at(&news[0]), at(news.last().unwrap()) - at(&news[0]))
    };
    let ((preview, whole), (status, _)) = tokio::join!(first, rig.post("/v1/render", &job));
    assert_eq!(status, 200);
    // Reported, not judged: the benchmark page has the figure for a large picture.
    println!("first preview after {preview} ms of {whole} ms");
    assert!(preview <= whole && began.elapsed() < PATIENCE);
}
