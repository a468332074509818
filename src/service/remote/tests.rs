//! The client against a server that keeps the contract, and against its failures.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use url::Url;

use super::remote_server::{Fault, Hook, Model, On, RemoteServer, SECRET, TOKEN, signature, version_of};
use super::*;
use crate::service::breaker::{BreakerOptions, BreakerState};

const M: &str = "owner/name";

fn options(server: &RemoteServer) -> RemoteOptions {
    let mut options = RemoteOptions::new(Url::parse(&server.api()).unwrap(), Some(TOKEN.to_owned()));
    options.prefer_wait = Duration::ZERO;
    options.request_timeout = Duration::from_secs(5);
    options.breaker = BreakerOptions {
        window: 4,
        failures: 2,
        pause: Duration::from_millis(200),
        longest_pause: Duration::from_secs(1),
    };
    options
}

fn remote(server: &RemoteServer) -> Remote {
    Remote::new(options(server)).unwrap()
}

fn model() -> ModelRef {
    ModelRef::parse(M).unwrap()
}

fn on() -> On {
    On::Create(M.to_owned())
}

async fn order(remote: &Remote) -> Result<Running, RemoteError> {
    remote.create(&model(), &json!({"text": "Alice"}), None, None).await
}

async fn run(remote: &Remote) -> Result<Prediction, RemoteError> {
    let mut running = order(remote).await?;
    remote.wait(&mut running, None).await
}

fn state(remote: &Remote) -> BreakerState {
    remote.breakers().into_iter().find(|report| report.model == M).unwrap().state
}

/// An address that nobody listens at.
fn nowhere() -> Url {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Url::parse(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap()
}

#[tokio::test]
async fn a_model_is_ordered_by_name_or_by_version_and_gives_its_output() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("hello {id}")).after(Duration::from_millis(100)).requires("text"));
    let version = version_of(M);
    let remote = remote(&server);
    for (reference, ordered) in [(M, None), (&format!("{M}:{version}"), Some(&version)), (&version, Some(&version))] {
        let reference = ModelRef::parse(reference).unwrap();
        let input = json!({"text": reference.to_string()});
        let mut running = remote.create(&reference, &input, Some("job-1"), None).await.unwrap();
        assert!(!running.prediction().status.is_final());
        let prediction = remote.wait(&mut running, None).await.unwrap();
        assert_eq!((prediction.status, prediction.id.as_str()), (PredictionStatus::Succeeded, running.id()));
        assert!(prediction.predict_seconds.unwrap() > 0.09);
        let outputs = read_outputs(&prediction.output).unwrap();
        assert_eq!(outputs[0].content, Content::Text(format!("hello {}", prediction.id)));
        let created = server.created().pop().unwrap();
        assert_eq!((created.version.as_ref(), created.key.as_deref(), created.input), (ordered, Some("job-1"), input));
        assert_eq!((created.prefer, created.webhook), (None, None));
    }
    assert_eq!((server.violations(), server.paid_twice(), server.created_of(M)), (vec![], vec![], 3));
    assert_eq!((remote.retries(), state(&remote)), (0, BreakerState::Closed));
}

#[tokio::test]
async fn the_server_may_hold_an_answer_back_and_is_told_how_long_a_prediction_may_live() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("quick")).after(Duration::from_millis(200)));
    let mut options = options(&server);
    options.prefer_wait = Duration::from_secs(2);
    options.lifetime = Some(Duration::from_secs(90));
    let remote = Remote::new(options).unwrap();
    let prediction = run(&remote).await.unwrap();
    assert_eq!((prediction.output, server.counts().gets), (json!("quick"), 0));
    let created = server.created().remove(0);
    assert_eq!((created.prefer.as_deref(), created.cancel_after.as_deref()), (Some("wait=2"), Some("90s")));
    // One that takes longer than that is polled for.
    server.model(M, Model::succeeds(json!("slow")).after(Duration::from_millis(2_200)));
    assert_eq!(run(&remote).await.unwrap().output, json!("slow"));
    assert!(server.counts().gets > 0 && server.violations().is_empty());
}

#[tokio::test]
async fn whatever_is_wrong_with_an_order_has_an_error_of_its_own_and_is_not_the_models_fault() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")).requires("image"));
    server.model("owner/community", Model::succeeds(json!("x")).community());
    let remote = remote(&server);
    let ask = async |name: &str, input: Value| {
        remote.create(&ModelRef::parse(name).unwrap(), &input, None, None).await.unwrap_err()
    };
    for _ in 0..3 {
        let error = ask(M, json!({})).await;
        assert_eq!(error, RemoteError::BadInput { detail: "- input: image is required".into() });
    }
    assert!(matches!(ask(M, json!([1])).await, RemoteError::BadInput { .. }));
    assert_eq!(ask("owner/other", json!({})).await, RemoteError::NoSuchModel { model: "owner/other".into() });
    assert_eq!(ask("owner/community", json!({})).await, RemoteError::NoSuchModel { model: "owner/community".into() });
    let unknown = "0".repeat(64);
    assert!(matches!(ask(&unknown, json!({})).await, RemoteError::BadInput { .. }));
    let broken_key = remote.create(&model(), &json!({"image": "x"}), Some("a\nb"), None).await.unwrap_err();
    assert!(matches!(broken_key, RemoteError::BadInput { .. }), "{broken_key}");
    let large = ask(M, json!({"image": "x".repeat(MAX_INPUT_BYTES)})).await;
    assert!(matches!(large, RemoteError::InputTooLarge { .. }) && !large.is_transient(), "{large}");
    for (status, operator) in [(402, true), (403, true), (418, false)] {
        server.fault(On::AnyCreate, Fault::Status(status), 1);
        let error = order(&remote).await.unwrap_err();
        assert!(error.needs_operator() == operator && !error.is_transient() && !error.may_have_created(), "{error}");
    }
    let mut wrong = options(&server);
    wrong.token = Some("r8_wrong".into());
    let error = order(&Remote::new(wrong).unwrap()).await.unwrap_err();
    assert_eq!(error, RemoteError::Unauthorized { status: 401 });
    let mut without = options(&server);
    without.token = None;
    assert_eq!(
        order(&Remote::new(without.clone()).unwrap()).await.unwrap_err(),
        RemoteError::Unauthorized { status: 401 }
    );
    server.need_no_token();
    assert!(matches!(order(&Remote::new(without).unwrap()).await.unwrap_err(), RemoteError::BadInput { .. }));

    assert_eq!((server.created().len(), state(&remote), remote.retries()), (0, BreakerState::Closed, 0));
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_order_goes_out_again_when_the_server_says_that_it_made_nothing() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")));
    let remote = remote(&server);
    server.fault(on(), Fault::RateLimited(Some("1".into())), 1);
    server.fault(on(), Fault::Status(503), 1);
    let begun = Instant::now();
    order(&remote).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waits as long as it is told");
    assert_eq!((server.counts().orders, server.created().len(), remote.retries()), (3, 1, 2));

    // Not for ever, and not when it is to wait for long, or longer than its caller can.
    server.fault(on(), Fault::RateLimited(None), 100);
    assert!(matches!(order(&remote).await.unwrap_err(), RemoteError::RateLimited { retry_after: None }));
    assert_eq!(server.counts().orders, 7);
    server.forget_faults();
    server.fault(on(), Fault::RateLimited(Some("300".into())), 1);
    assert_eq!(order(&remote).await.unwrap_err().retry_after(), Some(Duration::from_secs(300)));
    server.fault(on(), Fault::RateLimited(Some("Fri, 01 Jan 2100 00:00:00 GMT".into())), 1);
    assert_eq!(order(&remote).await.unwrap_err().retry_after(), Some(Duration::from_secs(3600)));
    server.fault(on(), Fault::RateLimited(Some("5".into())), 1);
    let until = Some(Instant::now() + Duration::from_secs(1));
    let late = remote.create(&model(), &json!({}), None, until).await.unwrap_err();
    assert_eq!(late.retry_after(), Some(Duration::from_secs(5)));
    assert_eq!((server.counts().orders, server.created().len()), (10, 1));
    assert_eq!(state(&remote), BreakerState::Closed, "a limit is not the model's fault");
}

#[tokio::test]
async fn an_order_whose_fate_is_not_known_is_not_repeated() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")));
    for (fault, made) in [
        (Fault::StatusAfter(500), 1),
        (Fault::StatusAfter(502), 1),
        (Fault::StatusAfter(504), 1),
        (Fault::CloseAfter, 1),
        (Fault::Close, 0),
        (Fault::Never, 0),
        (Fault::Says("<html>".into()), 0),
        (Fault::Huge(MAX_ANSWER_BYTES as u64 + 1), 0),
    ] {
        // A breaker for each.
        let mut options = options(&server);
        options.request_timeout = Duration::from_secs(if fault == Fault::Never { 1 } else { 5 });
        let remote = Remote::new(options).unwrap();
        let (orders, before) = (server.counts().orders, server.created().len());
        server.fault(on(), fault.clone(), 1);
        let error = order(&remote).await.unwrap_err();
        assert!(error.may_have_created(), "{fault:?}: {error}");
        assert_eq!((server.counts().orders - orders, server.created().len() - before), (1, made), "{fault:?}");
        assert_eq!(remote.retries(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_never_made_is_tried_again_and_nothing_is_doubtful() {
    let server = RemoteServer::start().await;
    let mut options = options(&server);
    options.base_url = nowhere();
    let remote = Remote::new(options).unwrap();
    let error = order(&remote).await.unwrap_err();
    assert!(error.is_transient() && !error.may_have_created() && error.counts_against_model(), "{error}");
    assert!(error.to_string().contains("no connection could be made"), "{error}");
    assert_eq!(remote.retries(), 3);
}

#[tokio::test]
async fn redirects_are_not_followed_and_the_token_stays_here() {
    let (server, other) = (RemoteServer::start().await, RemoteServer::start().await);
    other.model(M, Model::succeeds(json!("x")));
    server.model(M, Model::hangs());
    let remote = remote(&server);
    server.fault(on(), Fault::Redirect(format!("{}/models/{M}/predictions", other.api())), 1);
    let error = order(&remote).await.unwrap_err();
    assert!(error.to_string().contains("redirects") && !error.may_have_created(), "{error}");
    let running = order(&remote).await.unwrap();
    server.fault(On::Get, Fault::Redirect(format!("{}/predictions/{}", other.api(), running.id())), 1);
    assert!(remote.get(running.id()).await.unwrap_err().to_string().contains("redirects"));
    assert_eq!(other.counts().connections, 0);
}

#[tokio::test]
async fn polling_goes_on_through_all_that_passes() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")).after(Duration::from_millis(600)));
    let remote = remote(&server);
    let mut running = order(&remote).await.unwrap();
    for fault in [Fault::Status(500), Fault::Close, Fault::RateLimited(Some("1".into()))] {
        server.fault(On::Get, fault, 1);
    }
    let prediction = remote.wait(&mut running, None).await.unwrap();
    assert_eq!((prediction.output, server.counts().gets, server.paid_twice()), (json!("x"), 4, vec![]));
    assert_eq!(state(&remote), BreakerState::Closed);

    // And ends at what does not.
    server.model(M, Model::hangs());
    let mut running = order(&remote).await.unwrap();
    server.fault(On::Get, Fault::Status(404), 1);
    let error = remote.wait(&mut running, None).await.unwrap_err();
    assert_eq!(error, RemoteError::NoSuchPrediction { id: running.id().to_owned() });
}

#[tokio::test]
async fn asking_is_repeated_on_anything_that_passes_until_the_budget_is_spent() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let mut options = options(&server);
    options.retries = BudgetOptions { earned_millis: 0, most: 4 };
    let remote = Remote::new(options).unwrap();
    let id = order(&remote).await.unwrap().id().to_owned();
    for fault in [Fault::Status(500), Fault::Close, Fault::Status(429)] {
        server.fault(On::Get, fault, 1);
    }
    assert_eq!(remote.get(&id).await.unwrap().id, id);
    assert_eq!((server.counts().gets, remote.retries(), remote.budget().left()), (4, 3, 1));
    server.fault(On::Get, Fault::Status(500), 100);
    assert!(remote.clone().get(&id).await.unwrap_err().is_transient());
    assert!(remote.get(&id).await.is_err());
    // One retry was left for both.
    assert_eq!((server.counts().gets, remote.retries(), remote.budget().left()), (7, 4, 0));
}

#[tokio::test]
async fn what_is_no_answer_is_not_understood_and_no_id_leads_elsewhere() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let remote = remote(&server);
    let (id, other) = (order(&remote).await.unwrap().id().to_owned(), order(&remote).await.unwrap().id().to_owned());
    for said in [
        "<html>".to_owned(),
        String::new(),
        json!({"id": id, "status": "dreaming"}).to_string(),
        json!({"id": other, "status": "succeeded"}).to_string(),
    ] {
        server.fault(On::Get, Fault::Says(said.clone()), 1);
        let error = remote.get(&id).await.unwrap_err();
        assert!(
            matches!(error, RemoteError::NotUnderstood { unsure: false, .. }) && !error.is_transient(),
            "{said}: {error}"
        );
    }
    server.fault(On::Get, Fault::Huge(MAX_ANSWER_BYTES as u64 + 1), 1);
    assert!(matches!(remote.get(&id).await.unwrap_err(), RemoteError::TooLarge { unsure: false, .. }));
    let gets = server.counts().gets;
    for id in ["", "..", "a/b", "a?b", "é"] {
        assert!(matches!(remote.get(id).await.unwrap_err(), RemoteError::NoSuchPrediction { .. }));
        assert!(remote.cancel(id).await.is_err() && remote.resume(&model(), id).await.is_err());
    }
    assert_eq!(server.counts().gets, gets);
}

#[tokio::test]
async fn a_prediction_that_fails_says_why_and_one_that_was_cancelled_says_so() {
    let server = RemoteServer::start().await;
    let remote = remote(&server);
    server.model(M, Model::fails(&format!("CUDA out of memory at https://x.org/a?sig=secret {}", "e".repeat(9_000))));
    let error = run(&remote).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("CUDA out of memory at https://x.org/a?… eee") && text.len() < 400, "{text}");
    assert!(!error.is_transient() && !text.contains("secret"));
    server.model(M, Model::fails("Prediction interrupted; please retry (code: PA)"));
    assert!(matches!(run(&remote).await.unwrap_err(), RemoteError::Failed { interrupted: true, .. }));
    assert_eq!(state(&remote), BreakerState::Open, "both were the model's");

    let remote = Remote::new(options(&server)).unwrap();
    server.model(M, Model::hangs());
    for _ in 0..3 {
        let mut running = order(&remote).await.unwrap();
        let id = running.id().to_owned();
        remote.cancel(&id).await.unwrap();
        remote.cancel(&id).await.unwrap();
        assert_eq!(remote.wait(&mut running, None).await.unwrap_err(), RemoteError::Cancelled { id });
    }
    assert_eq!((server.cancelled().len(), state(&remote)), (3, BreakerState::Closed));
    assert!(matches!(remote.cancel("unknown").await.unwrap_err(), RemoteError::NoSuchPrediction { .. }));
}

#[tokio::test]
async fn cancelling_takes_a_few_seconds_at_most() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let mut options = options(&server);
    options.request_timeout = Duration::from_millis(200);
    let remote = Remote::new(options).unwrap();
    let id = order(&remote).await.unwrap().id().to_owned();
    server.fault(On::Cancel, Fault::Never, 2);
    let cancelled = timeout(Duration::from_secs(2), remote.cancel(&id)).await.unwrap();
    assert!(cancelled.unwrap_err().is_transient());
    server.fault(On::Cancel, Fault::Close, 1);
    remote.cancel(&id).await.unwrap();
    assert_eq!((server.counts().cancels, server.status(&id)), (4, Some("canceled")));
}

#[tokio::test]
async fn waiting_ends_at_the_callers_limit_or_at_the_longest_and_can_be_taken_up_again() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let mut options = options(&server);
    options.longest_wait = Duration::from_millis(700);
    let remote = Remote::new(options).unwrap();
    let mut running = order(&remote).await.unwrap();
    let soon = Some(Instant::now() + Duration::from_millis(100));
    for until in [soon, None, Some(Instant::now())] {
        let begun = Instant::now();
        let error = remote.wait(&mut running, until).await.unwrap_err();
        assert!(matches!(error, RemoteError::TimedOut { unsure: false, .. }) && error.is_transient(), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    // A slow answer cannot hold it up, either.
    server.fault(On::Get, Fault::Never, 1);
    assert!(timeout(Duration::from_secs(1), remote.wait(&mut running, None)).await.unwrap().is_err());
    server.finish(running.id());
    assert_eq!(remote.wait(&mut running, None).await.unwrap().output, json!("late"));
    assert_eq!(state(&remote), BreakerState::Closed, "one prediction counts once");
}

#[tokio::test]
async fn a_job_that_comes_again_goes_on_with_its_prediction() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let id = order(&remote(&server)).await.unwrap().id().to_owned();
    // Another worker.
    let remote = remote(&server);
    let mut running = remote.resume(&model(), &id).await.unwrap();
    server.finish(&id);
    assert_eq!(remote.wait(&mut running, None).await.unwrap().id, id);
    let mut again = remote.resume(&model(), &id).await.unwrap();
    assert_eq!(remote.wait(&mut again, Some(Instant::now())).await.unwrap().output, json!("late"));
    assert_eq!((server.created().len(), running.model(), again.id()), (1, M, id.as_str()));
    // What it put out is deleted after a while, and it has to be ordered again.
    server.remove_data(&id);
    let mut late = remote.resume(&model(), &id).await.unwrap();
    assert_eq!(remote.wait(&mut late, None).await.unwrap_err(), RemoteError::NoSuchPrediction { id: id.clone() });
    let gone = remote.resume(&model(), "gone").await.unwrap_err();
    assert_eq!(gone, RemoteError::NoSuchPrediction { id: "gone".into() });
}

#[tokio::test]
async fn a_model_that_keeps_failing_is_left_alone_then_probed_while_others_go_on() {
    let server = RemoteServer::start().await;
    server.model(M, Model::fails("no"));
    server.model("owner/good", Model::succeeds(json!("x")));
    let remote = remote(&server);
    for _ in 0..2 {
        assert!(matches!(run(&remote).await.unwrap_err(), RemoteError::Failed { .. }));
    }
    let refused = run(&remote).await.unwrap_err();
    assert!(matches!(&refused, RemoteError::BreakerOpen { model, .. } if model == M), "{refused}");
    assert!(refused.is_transient() && refused.retry_after().unwrap() <= Duration::from_millis(200));
    // All its versions, and no other model.
    let version = ModelRef::parse(&format!("{M}:{}", version_of(M))).unwrap();
    assert!(matches!(remote.create(&version, &json!({}), None, None).await, Err(RemoteError::BreakerOpen { .. })));
    let good = ModelRef::parse("owner/good").unwrap();
    remote.create(&good, &json!({}), None, None).await.unwrap();
    assert_eq!(server.created_of(M), 2);

    tokio::time::sleep(Duration::from_millis(210)).await;
    assert_eq!(state(&remote), BreakerState::HalfOpen);
    server.model(M, Model::hangs());
    let mut probe = order(&remote).await.unwrap();
    assert!(matches!(order(&remote).await, Err(RemoteError::BreakerOpen { .. })), "one probe at a time");
    // One who is waiting for it goes away.
    assert!(timeout(Duration::from_millis(50), remote.wait(&mut probe, None)).await.is_err());
    drop(probe);
    server.model(M, Model::succeeds(json!("x")));
    run(&remote).await.unwrap();
    assert_eq!((state(&remote), remote.breakers().len()), (BreakerState::Closed, 2));
}

#[tokio::test]
async fn an_order_that_is_broken_off_leaves_the_breaker_and_the_room_as_they_were() {
    let server = RemoteServer::start().await;
    server.model(M, Model::fails("no"));
    let remote = remote(&server);
    for _ in 0..2 {
        assert!(run(&remote).await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(210)).await;
    server.fault(on(), Fault::Never, 1);
    assert!(timeout(Duration::from_millis(50), order(&remote)).await.is_err());
    server.model(M, Model::succeeds(json!("x")));
    run(&remote).await.unwrap();
    assert_eq!((state(&remote), remote.waiters().len()), (BreakerState::Closed, 0));
}

#[tokio::test]
async fn a_prediction_that_runs_can_be_waited_for_while_its_models_breaker_is_open() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let remote = remote(&server);
    let id = order(&remote).await.unwrap().id().to_owned();
    server.model(M, Model::fails("no"));
    for _ in 0..2 {
        assert!(run(&remote).await.is_err());
    }
    assert_eq!(state(&remote), BreakerState::Open);
    server.finish(&id);
    let mut running = remote.resume(&model(), &id).await.unwrap();
    assert_eq!(remote.wait(&mut running, None).await.unwrap().output, json!("late"));
}

#[tokio::test]
async fn outages_and_time_limits_open_the_breaker() {
    let server = RemoteServer::start().await;
    server.model(M, Model::hangs());
    let remote = remote(&server);
    server.fault(on(), Fault::Status(500), 1);
    assert!(order(&remote).await.is_err());
    let mut running = order(&remote).await.unwrap();
    assert!(remote.wait(&mut running, Some(Instant::now())).await.is_err());
    assert_eq!(state(&remote), BreakerState::Open);
}

#[tokio::test]
async fn in_an_outage_amid_many_jobs_nothing_is_paid_twice_and_retries_stay_within_the_budget() {
    let server = RemoteServer::start().await;
    server.model(M, Model::succeeds(json!("x")).after(Duration::from_millis(50)));
    let mut options = options(&server);
    options.breaker.failures = 1_000;
    options.breaker.window = 1_000;
    let remote = Remote::new(options).unwrap();
    server.fault(on(), Fault::CloseAfter, 5);
    server.fault(on(), Fault::StatusAfter(502), 5);
    server.fault(on(), Fault::Status(503), 1_000);
    let jobs = (0..60).map(|i| {
        let remote = remote.clone();
        tokio::spawn(async move { remote.create(&model(), &json!({"job": i}), None, None).await })
    });
    let mut doubtful = 0;
    for job in jobs.collect::<Vec<_>>() {
        let error = job.await.unwrap().unwrap_err();
        assert!(error.is_transient(), "{error}");
        doubtful += usize::from(error.may_have_created());
    }
    // Ten that were saved up, and one for every ten orders.
    assert!((10..=16).contains(&remote.retries()), "{}", remote.retries());
    assert_eq!(server.counts().orders, 60 + remote.retries());
    assert_eq!((server.created().len(), doubtful, server.paid_twice()), (10, 10, vec![]));
}

#[tokio::test]
async fn breakers_are_kept_for_so_many_models_and_open_ones_longest() {
    let server = RemoteServer::start().await;
    server.model(M, Model::fails("no"));
    let mut options = options(&server);
    options.breaker.pause = Duration::from_secs(60);
    options.breaker.longest_pause = Duration::from_secs(60);
    let remote = Remote::new(options).unwrap();
    for _ in 0..2 {
        assert!(run(&remote).await.is_err());
    }
    for i in 0..300 {
        let other = ModelRef::parse(&format!("owner/n{i}")).unwrap();
        assert!(remote.create(&other, &json!({}), None, None).await.is_err());
    }
    assert!(remote.breakers().len() <= 256);
    assert_eq!(state(&remote), BreakerState::Open);
}

/// A server for webhooks that hands them to the client.
async fn hooks() -> (Url, tokio::sync::watch::Sender<Option<Remote>>) {
    let (sender, receiver) = tokio::sync::watch::channel(None::<Remote>);
    let take = axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
        let remote = receiver.borrow().clone().unwrap();
        match remote.webhook(&headers, &body) {
            Ok(_) => axum::http::StatusCode::NO_CONTENT,
            Err(_) => axum::http::StatusCode::UNAUTHORIZED,
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/hooks/remote", listener.local_addr().unwrap())).unwrap();
    let router = axum::Router::new().route("/hooks/remote", take);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, sender)
}

#[tokio::test]
async fn a_webhook_wakes_whoever_waits_and_only_when_it_is_signed() {
    let server = RemoteServer::start().await;
    let (url, sender) = hooks().await;
    let mut options = options(&server);
    options.webhook = Some(Webhook { url: url.clone(), secret: WebhookSecret::parse(SECRET).unwrap() });
    let remote = Remote::new(options).unwrap();
    sender.send(Some(remote.clone())).unwrap();
    for (hook, status, woken) in
        [(Hook::Signed, Some(204), true), (Hook::WrongSignature, Some(401), false), (Hook::Old, Some(401), false)]
    {
        server.model(M, Model::hangs().hook(hook));
        let mut running = order(&remote).await.unwrap();
        assert_eq!(server.created().pop().unwrap().webhook.as_deref(), Some(url.as_str()));
        let id = running.id().to_owned();
        let waiting = async {
            let ended = remote.wait(&mut running, None).await.unwrap();
            (ended, Instant::now())
        };
        let finishing = async {
            // The pauses have grown to about 1.3 s by then.
            tokio::time::sleep(Duration::from_millis(if woken { 2_200 } else { 100 })).await;
            let gets = server.counts().gets;
            server.finish(&id);
            (Instant::now(), gets)
        };
        let ((prediction, ended), (finished, gets)) = tokio::join!(waiting, finishing);
        assert_eq!((prediction.id, server.counts().gets), (id, gets + 1));
        if woken {
            assert!(ended - finished < Duration::from_millis(100), "{:?}", ended - finished);
        }
        assert_eq!(server.delivered().pop().map(|delivered| delivered.status), Some(status));
        assert!(remote.waiters().is_empty());
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_webhook_that_nobody_asked_for_or_nobody_waits_for_is_told_apart() {
    let server = RemoteServer::start().await;
    let headers = |body: &[u8]| {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature(SECRET, "msg_1", now, body).parse().unwrap());
        headers
    };
    let body = br#"{"id":"abc","status":"succeeded"}"#;
    assert_eq!(remote(&server).webhook(&headers(body), body), Err(WebhookError::NotInUse));
    let mut options = options(&server);
    let secret = WebhookSecret::parse(SECRET).unwrap();
    options.webhook = Some(Webhook { url: Url::parse("https://w.example/hook").unwrap(), secret });
    let remote = Remote::new(options).unwrap();
    assert_eq!(remote.webhook(&headers(body), body), Ok(false));
    let _waiter = remote.waiters().register("abc");
    assert_eq!(remote.webhook(&headers(body), body), Ok(true));
    assert_eq!(remote.webhook(&headers(b"{}"), b"{}"), Err(WebhookError::Body));
    assert_eq!(remote.webhook(&headers(b"{}"), body), Err(WebhookError::Signature));
}

#[tokio::test]
async fn a_file_is_uploaded_once_it_gets_through_and_becomes_an_input() {
    let server = RemoteServer::start().await;
    server.model(M, Model::makes("image", "image/png", |bytes| [&bytes[..], b"!"].concat().into()));
    let remote = remote(&server);
    let bytes = Bytes::from(vec![7; 3_000_000]);
    server.fault(On::Upload, Fault::Status(500), 1);
    server.fault(On::Upload, Fault::Close, 1);
    let url = remote.upload(&bytes, "Image/PNG; q=1").await.unwrap();
    let uploads = server.uploads();
    assert_eq!(
        (uploads.len(), uploads[0].name.as_str(), uploads[0].content_type.as_str()),
        (1, "file.png", "image/png")
    );
    assert!(uploads[0].bytes == bytes && url.as_str().starts_with(&server.api()));

    for image in [url.to_string(), data_uri("image/png", &bytes)] {
        let mut running = remote.create(&model(), &json!({"image": image}), None, None).await.unwrap();
        let prediction = remote.wait(&mut running, None).await.unwrap();
        let Content::Url(made) = read_outputs(&prediction.output).unwrap().remove(0).content else { panic!() };
        let got = reqwest::get(made).await.unwrap().bytes().await.unwrap();
        assert!(got.len() == bytes.len() + 1 && got.ends_with(b"!"));
    }
    assert_eq!(server.violations(), Vec::<String>::new());
    assert!(matches!(remote.upload(&bytes, "png").await.unwrap_err(), RemoteError::BadInput { .. }));
    for said in ["<html>", "{}", r#"{"urls":{"get":"file:///etc/passwd"}}"#, r#"{"urls":{"get":"/v1/files/1"}}"#] {
        server.fault(On::Upload, Fault::Says(said.into()), 1);
        assert!(matches!(remote.upload(&bytes, "image/png").await.unwrap_err(), RemoteError::NotUnderstood { .. }));
    }
}

#[tokio::test]
async fn a_server_without_files_says_so_and_data_uris_are_left() {
    let server = RemoteServer::start().await;
    server.take_no_files();
    let remote = remote(&server);
    assert_eq!(remote.upload(&Bytes::from_static(b"x"), "image/png").await.unwrap_err(), RemoteError::NoFiles);
    assert_eq!(server.counts().uploads, 1);
}

#[test]
fn options_that_cannot_work_are_refused_and_no_secret_is_shown() {
    let with = |address: &str, token: Option<&str>| {
        let options = RemoteOptions::new(Url::parse(address).unwrap(), token.map(str::to_owned));
        Remote::new(options).map(|remote| format!("{remote:?}"))
    };
    for (address, token, expected) in [
        ("ftp://x.org/v1", None, "neither http://"),
        ("mailto:a@x.org", None, "neither http://"),
        ("https://u:p@x.org/v1", None, "user name"),
        ("https://x.org/v1?key=secret", None, "query"),
        ("http://x.org/v1", Some("secret"), "use https://"),
        ("https://x.org/v1", Some(""), "the token is empty"),
        ("https://x.org/v1", Some("secret\n"), "the token holds"),
    ] {
        let refused = with(address, token).unwrap_err();
        assert!(refused.contains(expected) && !refused.contains("secret"), "{refused}");
    }
    for address in
        ["http://127.0.0.1:1/v1", "http://[::1]/v1", "http://localhost/", "https://x.org", "https://x.org/v1/"]
    {
        let shown = with(address, Some("secret")).unwrap();
        assert!(!shown.contains("secret"), "{shown}");
    }
    assert!(with("http://x.org/v1", None).is_ok());
    let refused = |change: fn(&mut RemoteOptions)| {
        let mut options = RemoteOptions::new(Url::parse(RemoteOptions::REPLICATE).unwrap(), None);
        change(&mut options);
        Remote::new(options).unwrap_err()
    };
    assert!(refused(|options| options.prefer_wait = Duration::from_secs(61)).contains("0 to 60"));
    assert!(refused(|options| options.prefer_wait = Duration::from_millis(500)).contains("whole seconds"));
    assert!(refused(|options| options.lifetime = Some(Duration::from_secs(4))).contains("at least 5"));
    assert!(refused(|options| options.request_timeout = Duration::ZERO).contains("is zero"));
}

#[test]
fn an_error_tells_what_to_do_and_never_more_than_one_class() {
    let model = || "owner/name".to_owned();
    for (error, transient, expected) in [
        (
            RemoteError::BreakerOpen { model: model(), retry_in: Duration::from_millis(1_200) },
            true,
            "the remote model owner/name keeps failing and is asked again in 2 s",
        ),
        (RemoteError::RateLimited { retry_after: None }, true, "takes no more requests for now"),
        (RemoteError::TimedOut { seconds: 30, unsure: false }, true, "within 30 s"),
        (RemoteError::PaymentRequired, false, "add credit"),
        (RemoteError::NoFiles, false, "data URIs"),
        (RemoteError::Failed { problem: "x".into(), interrupted: false }, false, "the remote model failed: x"),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.is_transient(), transient, "{error}");
    }
}

/// Jobs run on threads of their own.
#[test]
fn calls_can_move_between_threads() {
    fn moves<T: Send>(_: T) {}
    let check = |remote: &Remote, running: &mut Running, bytes: &Bytes| {
        moves(remote.create(&model(), &json!({}), None, None));
        moves(remote.wait(running, None));
        moves(remote.resume(&model(), ""));
        moves(remote.cancel(""));
        moves(remote.upload(bytes, ""));
    };
    let _ = check;
}
