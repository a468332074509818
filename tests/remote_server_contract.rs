//! The server of remote models itself: strict where the contract is, and as broken as it is told to be.

mod remote_server;

use std::time::{Duration, Instant};

use remote_server::{Fault, File, Hook, Model, On, RemoteServer, TOKEN, version_of};
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde_json::{Value, json};

const M: &str = "owner/name";

fn client() -> Client {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap()
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// An order at a path, with the token.
fn order(server: &RemoteServer, path: &str, body: &Value) -> RequestBuilder {
    client().post(format!("{}{path}", server.api())).bearer_auth(TOKEN).json(body)
}

fn official(server: &RemoteServer, body: &Value) -> RequestBuilder {
    order(server, &format!("/models/{M}/predictions"), body)
}

async fn size(mut response: Response) -> Result<u64, reqwest::Error> {
    let mut size = 0;
    while let Some(piece) = response.chunk().await? {
        size += piece.len() as u64;
    }
    Ok(size)
}

#[tokio::test]
async fn it_refuses_and_remembers_what_breaks_the_contract() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")).requires("text"));
    server.model("owner/community", Model::succeeds(json!("x")).community());
    let (input, version) = (json!({"text": "a"}), version_of(M));
    let ok = json!({ "input": input });
    for (request, expected) in [
        (official(&server, &ok), 201),
        (order(&server, "/predictions", &json!({"version": version, "input": input})), 201),
        (order(&server, "/predictions", &json!({"version": format!("{M}:{version}"), "input": input})), 201),
        (order(&server, "/predictions", &json!({"version": version_of("owner/community"), "input": input})), 201),
        (client().post(format!("{}/models/{M}/predictions", server.api())).json(&ok), 401),
        (client().get(format!("{}/predictions/x", server.api())).bearer_auth("r8_wrong"), 401),
        (client().get(format!("{}/predictions/x", server.api())).bearer_auth(TOKEN), 404),
        (order(&server, "/models/owner/other/predictions", &ok), 404),
        (order(&server, "/models/owner/community/predictions", &ok), 404),
        (order(&server, "/predictions", &json!({"version": "0".repeat(64), "input": input})), 422),
        (order(&server, "/predictions", &json!({"version": format!("owner/other:{version}"), "input": input})), 404),
        (official(&server, &json!({"input": {}})), 422),
    ] {
        let name = format!("{request:?}");
        assert_eq!(status(request).await, expected, "{name}");
    }
    assert_eq!((server.violations(), server.created_of(M), server.created().len()), (vec![], 3, 4));
    assert_eq!(server.paid_twice(), [(M.to_owned(), input.to_string())]);
    for (request, expected) in [
        (official(&server, &json!({"input": input, "version": version})), 422),
        (official(&server, &json!({"input": input, "extra": 1})), 422),
        (official(&server, &json!({"input": "a"})), 422),
        (official(&server, &json!([])), 400),
        (order(&server, "/predictions", &ok), 422),
        (official(&server, &json!({"input": input, "webhook": "ftp://x"})), 422),
        (official(&server, &json!({"input": input, "webhook_events_filter": ["done"]})), 422),
        (official(&server, &ok).header("Prefer", "wait=61"), 400),
        (official(&server, &ok).header("Prefer", "waiting"), 400),
        (official(&server, &ok).header("Cancel-After", "4s"), 400),
        (official(&server, &ok).header("Cancel-After", "90"), 400),
        (official(&server, &ok).header("content-type", "text/plain"), 415),
        (order(&server, "/files", &ok), 415),
        (order(&server, "/nothing", &ok), 404),
    ] {
        let name = format!("{request:?}");
        let before = server.violations().len();
        assert_eq!(status(request).await, expected, "{name}");
        assert_eq!(server.violations().len(), before + 1, "{name}");
    }
    assert_eq!(server.created().len(), 4);
}

#[tokio::test]
async fn it_holds_answers_back_and_fails_every_so_often() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!({"image": "{server}/outputs/a"})).after(Duration::from_millis(300)));
    let body = json!({"input": {}});
    let begun = Instant::now();
    let held = official(&server, &body).header("Prefer", "wait=5").send().await.unwrap();
    assert!(held.status().as_u16() == 201 && begun.elapsed() >= Duration::from_millis(300));
    let held: Value = held.json().await.unwrap();
    assert_eq!(held["output"]["image"], format!("{}/outputs/a", server.url()));
    server.model(M, Model::hangs());
    let begun = Instant::now();
    let given_up = official(&server, &body).header("Prefer", "wait=1").send().await.unwrap();
    assert!(given_up.status().as_u16() == 202 && begun.elapsed() >= Duration::from_secs(1));
    server.model(M, Model::succeeds(json!("x")).fails_every(3, "the third"));
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let made: Value = official(&server, &body).send().await.unwrap().json().await.unwrap();
        statuses.push(made["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(statuses, ["succeeded", "succeeded", "failed", "succeeded", "succeeded", "failed"]);
}

#[tokio::test]
async fn a_prediction_dies_at_the_end_of_its_lifetime() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let request = official(&server, &json!({"input": {}})).header("Cancel-After", "5s");
    let made: Value = request.send().await.unwrap().json().await.unwrap();
    let id = made["id"].as_str().unwrap();
    tokio::time::sleep(Duration::from_millis(4_800)).await;
    assert_eq!(server.status(id), Some("processing"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((server.status(id), server.cancelled().len()), (Some("aborted"), 0));
}

#[tokio::test]
async fn a_huge_video_is_made_while_it_is_sent() {
    let server = RemoteServer::start().await;
    let bytes = 500 << 20;
    let url = server.file("video.mp4", File::video(bytes));
    let mut response = client().get(&url).send().await.unwrap();
    assert_eq!(
        (response.content_length(), &response.headers()["content-type"]),
        (Some(bytes), &"video/mp4".parse().unwrap())
    );
    let first = response.chunk().await.unwrap().unwrap();
    assert_eq!(&first[4..12], b"ftypisom");
    assert_eq!(size(response).await.unwrap() + first.len() as u64, bytes);
    let chunked = server.file("chunked.mp4", File::video(1 << 20).without_length());
    let response = client().get(&chunked).send().await.unwrap();
    assert_eq!(response.content_length(), None);
    assert_eq!(size(response).await.unwrap(), 1 << 20);
}

#[tokio::test]
async fn outputs_are_cut_elsewhere_mislabelled_or_slow_as_told() {
    let server = RemoteServer::start().await;
    let get = async |url: &str| client().get(url).send().await.unwrap();
    let cut = server.file("cut.mp4", File::video(1 << 20).cut_after(100_000));
    assert!(size(get(&cut).await).await.is_err());
    let elsewhere = server.file("elsewhere", File::redirect("http://169.254.169.254/"));
    let response = get(&elsewhere).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (302, &"http://169.254.169.254/".parse().unwrap())
    );
    let wrong = server.file("wrong.png", File::bytes("image/png", "<html>").said_to_be("text/html"));
    assert_eq!(get(&wrong).await.headers()["content-type"], "text/html");
    let slow = server.file("slow.mp4", File::video(256 << 10).slow(Duration::from_millis(50)));
    let begun = Instant::now();
    assert_eq!(size(get(&slow).await).await.unwrap(), 256 << 10);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    server.fault(On::Output("slow.mp4".into()), Fault::Status(503), 1);
    assert_eq!(get(&slow).await.status().as_u16(), 503);
    assert_eq!(status(client().get(format!("{}/outputs/nothing", server.url()))).await, 404);
    assert_eq!(server.counts().leaked_tokens, 0);
    assert_eq!(status(client().get(&wrong).bearer_auth(TOKEN)).await, 200);
    assert_eq!((server.counts().leaked_tokens, server.counts().outputs), (1, 7));
}

#[tokio::test]
async fn a_webhook_that_nobody_takes_is_sent_again_and_a_lost_one_never() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")));
    // The server itself knows no such address.
    let body = json!({"input": {}, "webhook": format!("{}/hook", server.url())});
    assert_eq!(status(official(&server, &body)).await, 201);
    server.model(M, Model::succeeds(json!("x")).hook(Hook::Lost));
    assert_eq!(status(official(&server, &body)).await, 201);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let statuses: Vec<_> = server.delivered().iter().map(|delivered| delivered.status).collect();
    assert_eq!(statuses, [Some(404); 3]);
}
