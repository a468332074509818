//! Publishing and pulling against the official Pub/Sub emulator. Without it, each test says `SKIPPED` and passes.

mod emulator;

use std::collections::{HashMap, HashSet};
use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use concept_worker::service::envelope::{Delivery, Payload};
use concept_worker::service::failure::Disposition;
use concept_worker::service::publish::{PublishError, Publisher, Topics};
use concept_worker::service::pull::{self, PullError, PullOptions, PullSummary};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use emulator::{Emulator, dead_letters, emulator, emulator_of_my_own, name};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn options(emulator: &Emulator, subscription: &str) -> PullOptions {
    PullOptions {
        emulator: Some(emulator.address()),
        ack_deadline: Duration::from_secs(10),
        return_delay: Duration::from_millis(10),
        ..PullOptions::new(subscription)
    }
}

/// A pull that runs beside the test, and what ends it.
struct Pull {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<PullSummary, PullError>>,
}

impl Pull {
    fn start<H, F>(options: PullOptions, handle: H) -> Self
    where
        H: Fn(Delivery) -> F + Clone + Send + 'static,
        F: Future<Output = Disposition> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(pull::run(options, handle, async {
            let _ = stopped.await;
        }));
        Self { stop, task }
    }

    async fn stop(self) -> PullSummary {
        let Self { stop, task } = self;
        let _ = stop.send(());
        ended(task).await.unwrap()
    }

    /// Waits until the pull ends by itself.
    async fn end(self) -> Result<PullSummary, PullError> {
        ended(self.task).await
    }
}

async fn ended(task: JoinHandle<Result<PullSummary, PullError>>) -> Result<PullSummary, PullError> {
    timeout(LONG, task).await.expect("the pull did not end").unwrap()
}

/// A way to the emulator on which HTTP/2 streams end by END_STREAM only. On RST_STREAM, which is how the client crate leaves a
/// streaming pull, the emulator 0.8.20 fails (its gRPC library is of two versions); it then goes on giving messages to the
/// stream that nobody reads, and they come back after their deadline only.
async fn without_resets(emulator: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let emulator = TcpStream::connect(&emulator).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_emulator, to_emulator) = emulator.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_emulator, &mut to_client).await });
            tokio::spawn(async move { forward_without_resets(&mut from_client, to_emulator).await });
        }
    });
    address
}

/// HTTP/2 frames: nine bytes of length (three), type, flags and stream (four), then as many bytes as the length says.
async fn forward_without_resets(from: &mut OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const RST_STREAM: u8 = 3;
    const END_STREAM: u8 = 1;
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        from.read_exact(&mut payload).await?;
        if head[3] == RST_STREAM {
            to.write_all(&[0, 0, 0, DATA, END_STREAM, head[5], head[6], head[7], head[8]]).await?;
        } else {
            to.write_all(&head).await?;
            to.write_all(&payload).await?;
        }
    }
}

/// Waits until a count reaches `least`; fails the test when it does not in time.
async fn reaches(count: &mut watch::Receiver<usize>, least: usize) {
    let arrived = timeout(LONG, count.wait_for(|count| *count >= least)).await.is_ok();
    assert!(arrived, "{} of {least}", *count.borrow());
}

fn text(delivery: &Delivery) -> String {
    match &delivery.payload {
        Payload::Job(data) => String::from_utf8(data.to_vec()).unwrap(),
        other => panic!("{other:?} is no job"),
    }
}

#[tokio::test]
async fn manifests_and_failures_arrive_at_their_topics_with_their_attributes() {
    let Some(emulator) = emulator().await else { return };
    let (results, failures) =
        (emulator.create_topic(&name("results")).await, emulator.create_topic(&name("failures")).await);
    let result_reader = emulator.create_subscription(&name("results"), &results, json!({})).await;
    let failure_reader = emulator.create_subscription(&name("failures"), &failures, json!({})).await;

    let publisher = Publisher::open(
        Topics { result: Some(&results), failed: Some(&failures), progress: None },
        Some(&emulator.address()),
    )
    .await
    .unwrap();
    let attributes = [("job_id", "j-1"), ("state", "complete"), ("manifest", "gs://b/_/j-1/manifest.json")];
    publisher.result(Bytes::from_static(br#"{"job_id":"j-1"}"#), &attributes).await.unwrap();
    publisher.failed(Bytes::from_static(br#"{"job_id":"j-2"}"#), &[("job_id", "j-2")]).await.unwrap();
    publisher.flush().await;

    let result = emulator.take(&result_reader, 1, LONG).await.remove(0);
    assert_eq!(result.data, br#"{"job_id":"j-1"}"#);
    let expected: HashMap<_, _> = attributes.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(result.attributes, expected);
    let failure = emulator.take(&failure_reader, 1, LONG).await.remove(0);
    assert_eq!(failure.data, br#"{"job_id":"j-2"}"#);
    assert!(emulator.pull(&result_reader, 10).await.is_empty(), "the failure went to the results, too");
}

#[tokio::test]
async fn a_manifest_too_large_for_a_message_is_published_as_a_reference() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("large")).await;
    let reader = emulator.create_subscription(&name("large"), &topic, json!({})).await;
    let publisher =
        Publisher::open(Topics { result: Some(&topic), ..Topics::default() }, Some(&emulator.address())).await.unwrap();

    let manifest = "gs://b/_/j/manifest.json";
    let long_id = "ü".repeat(1_000);
    let attributes = [("job_id", "j"), ("manifest", manifest), ("user_id", &long_id)];
    publisher.result(Bytes::from(vec![b' '; 9_000_001]), &attributes).await.unwrap();

    let message = emulator.take(&reader, 1, LONG).await.remove(0);
    let reference: Value = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(
        reference,
        json!({ "job_id": "j", "manifest": manifest, "user_id": long_id, "truncated": true, "bytes": 9_000_001 })
    );
    assert_eq!(message.attributes["manifest"], manifest);
    assert_eq!(message.attributes["user_id"], "ü".repeat(512), "an attribute holds 1,024 bytes");
}

#[tokio::test]
async fn a_manifest_of_nine_megabytes_is_published_whole() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("whole")).await;
    let subscription = emulator.create_subscription(&name("whole"), &topic, json!({})).await;
    let publisher =
        Publisher::open(Topics { result: Some(&topic), ..Topics::default() }, Some(&emulator.address())).await.unwrap();
    publisher.result(Bytes::from(vec![b' '; 9_000_000]), &[("job_id", "j")]).await.unwrap();

    // What is larger than `max_outstanding_bytes` is pulled all the same.
    let (size, mut sizes) = watch::channel(0);
    let one_byte = PullOptions { max_outstanding_bytes: 1, ..options(&emulator, &subscription) };
    let pull = Pull::start(one_byte, move |delivery| {
        size.send_replace(text(&delivery).len());
        async { Disposition::Acknowledge }
    });
    reaches(&mut sizes, 9_000_000).await;
    assert_eq!(pull.stop().await.acknowledged, 1);
}

#[tokio::test]
async fn publishing_to_a_missing_topic_is_an_error_that_names_the_variable() {
    let Some(emulator) = emulator().await else { return };
    let topic = format!("projects/{}/topics/{}", emulator::PROJECT, name("nowhere"));
    let publisher =
        Publisher::open(Topics { failed: Some(&topic), ..Topics::default() }, Some(&emulator.address())).await.unwrap();
    let error = publisher.failed(Bytes::from_static(b"{}"), &[]).await.unwrap_err();
    assert!(matches!(error, PublishError::Missing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&topic) && text.contains("create it, or correct CONCEPT_FAILED_TOPIC"), "{text}");
}

#[tokio::test]
async fn every_message_is_handled_and_acknowledged_with_no_more_at_once_than_asked() {
    const MESSAGES: usize = 200;
    const AT_ONCE: usize = 8;
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("many")).await;
    let subscription = emulator.create_subscription(&name("many"), &topic, json!({})).await;
    let data: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    emulator.publish_all(&topic, &data, json!({})).await;

    // How often each message came, how many have been acknowledged, how many run now and ran at most.
    let came: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (done, mut dones) = watch::channel(0);
    let (done, handled) = (Arc::new(done), came.clone());
    let (now, peak) = (running.clone(), most.clone());
    let handle = move |delivery: Delivery| {
        let (done, handled, now, peak) = (done.clone(), handled.clone(), now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(5)).await;
            let text = text(&delivery);
            let times = {
                let mut handled = handled.lock().unwrap();
                let times = handled.entry(text.clone()).or_default();
                *times += 1;
                *times
            };
            now.fetch_sub(1, Ordering::SeqCst);
            // One in five is refused when it first comes, for either reason.
            match text.parse::<usize>().unwrap() {
                number if number % 5 == 0 && times == 1 && number % 2 == 0 => Disposition::Busy,
                number if number % 5 == 0 && times == 1 => Disposition::Unavailable,
                _ => {
                    done.send_modify(|count| *count += 1);
                    Disposition::Acknowledge
                }
            }
        }
    };
    let some = PullOptions { max_outstanding_messages: AT_ONCE, ..options(&emulator, &subscription) };
    let pull = Pull::start(some, handle);
    reaches(&mut dones, MESSAGES).await;
    let summary = pull.stop().await;

    let came = came.lock().unwrap().clone();
    assert_eq!(came.len(), MESSAGES, "a message was never handled");
    assert!(came.iter().all(|(text, times)| text.parse::<usize>().unwrap() % 5 != 0 || *times >= 2));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=AT_ONCE).contains(&most), "{most} at once");
    assert_eq!(running.load(Ordering::SeqCst), 0);
    assert!(summary.acknowledged >= MESSAGES as u64 && summary.returned >= MESSAGES as u64 / 5, "{summary:?}");
    assert_eq!(summary.received, summary.acknowledged + summary.returned, "{summary:?}");
    assert_eq!(summary.unfinished, 0, "{summary:?}");
    // Leases of the emulator have been answered: whatever was not would be given out again now.
    let left = emulator.pull(&subscription, MESSAGES).await;
    assert!(left.is_empty(), "{} messages were not acknowledged", left.len());
}

#[tokio::test]
async fn what_a_delivery_says_of_its_message_is_what_was_published() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("told")).await;
    let subscription = emulator.create_subscription(&name("told"), &topic, dead_letters(&topic)).await;
    let id = emulator.publish(&topic, b"data", json!({ "kind": "job" })).await;
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let pull = Pull::start(options(&emulator, &subscription), move |delivery| {
        let tell = tell.clone();
        async move {
            let tell = tell.lock().unwrap().take();
            if let Some(tell) = tell {
                tell.send(delivery).unwrap();
            }
            Disposition::Acknowledge
        }
    });
    let delivery = timeout(LONG, told).await.unwrap().unwrap();
    pull.stop().await;
    assert_eq!(text(&delivery), "data");
    assert_eq!(delivery.message_id, Some(id));
    assert_eq!(delivery.subscription, Some(subscription));
    assert_eq!(delivery.delivery_attempt, Some(1));
    assert_eq!(delivery.ordering_key, None);
    let time = delivery.publish_time.unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
}

#[tokio::test]
async fn messages_in_flight_at_the_shutdown_come_to_the_next_pull_at_once() {
    const MESSAGES: usize = 12;
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("shutdown")).await;
    // A deadline that no test waits for: what comes back was given back.
    let fields = json!({ "ackDeadlineSeconds": 600 });
    let subscription = emulator.create_subscription(&name("shutdown"), &topic, fields).await;
    let data: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    emulator.publish_all(&topic, &data, json!({})).await;

    let (started, mut starts) = watch::channel(0);
    let started = Arc::new(started);
    let first = PullOptions {
        emulator: Some(without_resets(emulator.address()).await),
        ack_deadline: Duration::from_secs(600),
        grace: Duration::from_millis(200),
        ..options(&emulator, &subscription)
    };
    let pull = Pull::start(first.clone(), move |_| {
        started.send_modify(|count| *count += 1);
        pending()
    });
    reaches(&mut starts, first.max_outstanding_messages).await;
    let summary = pull.stop().await;
    assert_eq!((summary.acknowledged, summary.unfinished), (0, 4), "{summary:?}");
    assert_eq!(summary.received, summary.returned, "{summary:?}");

    let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (count, mut counts) = watch::channel(0);
    let sees = seen.clone();
    let pull = Pull::start(first, move |delivery| {
        let mut seen = sees.lock().unwrap();
        seen.insert(text(&delivery));
        count.send_replace(seen.len());
        async { Disposition::Acknowledge }
    });
    reaches(&mut counts, MESSAGES).await;
    pull.stop().await;
    assert_eq!(seen.lock().unwrap().len(), MESSAGES);
}

#[tokio::test]
async fn handlers_that_finish_within_the_grace_have_their_messages_acknowledged() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("grace")).await;
    let subscription = emulator.create_subscription(&name("grace"), &topic, json!({})).await;
    emulator.publish_all(&topic, &["a", "b"], json!({})).await;
    let (started, mut starts) = watch::channel(0);
    let (started, gate) = (Arc::new(started), Arc::new(Semaphore::new(0)));
    let waits = gate.clone();
    let pull = Pull::start(PullOptions { grace: LONG, ..options(&emulator, &subscription) }, move |_| {
        let gate = waits.clone();
        started.send_modify(|count| *count += 1);
        async move {
            let _opened = gate.acquire_owned().await;
            Disposition::Acknowledge
        }
    });
    reaches(&mut starts, 2).await;
    let stopping = tokio::spawn(pull.stop());
    sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "the pull did not wait for its handlers");
    gate.add_permits(2);
    let summary = timeout(LONG, stopping).await.unwrap().unwrap();
    assert_eq!((summary.acknowledged, summary.returned), (2, 0), "{summary:?}");
    assert!(emulator.pull(&subscription, 10).await.is_empty());
}

#[tokio::test]
async fn a_handler_that_panics_does_not_lose_its_message() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("panic")).await;
    let subscription = emulator.create_subscription(&name("panic"), &topic, json!({})).await;
    emulator.publish(&topic, b"data", json!({})).await;
    let (done, mut dones) = watch::channel(0);
    let done = Arc::new(done);
    let pull = Pull::start(options(&emulator, &subscription), move |_| {
        let done = done.clone();
        async move {
            done.send_modify(|count| *count += 1);
            assert!(*done.borrow() > 1, "the first delivery meets a defect");
            Disposition::Acknowledge
        }
    });
    reaches(&mut dones, 2).await;
    let summary = pull.stop().await;
    assert_eq!((summary.acknowledged, summary.returned), (1, 1), "{summary:?}");
}

#[tokio::test]
async fn a_message_given_back_five_times_goes_to_the_dead_letter_topic() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("poison")).await;
    let dead = emulator.create_topic(&name("dead")).await;
    let dead_reader = emulator.create_subscription(&name("dead"), &dead, json!({})).await;
    let subscription = emulator.create_subscription(&name("poison"), &topic, dead_letters(&dead)).await;
    emulator.publish(&topic, b"poison", json!({ "job_id": "j" })).await;

    let attempts: Arc<Mutex<Vec<Option<u32>>>> = Arc::default();
    let seen = attempts.clone();
    let pull = Pull::start(options(&emulator, &subscription), move |delivery| {
        seen.lock().unwrap().push(delivery.delivery_attempt);
        async { Disposition::Unavailable }
    });
    let letter = emulator.take(&dead_reader, 1, LONG).await.remove(0);
    let summary = pull.stop().await;
    assert_eq!(letter.data, b"poison");
    assert_eq!(letter.attributes["job_id"], "j");
    let attempts = attempts.lock().unwrap().clone();
    assert_eq!(attempts, [Some(1), Some(2), Some(3), Some(4), Some(5)]);
    assert_eq!(summary.returned, 5, "{summary:?}");
}

#[tokio::test]
async fn a_missing_subscription_is_an_error_that_says_what_to_do() {
    let Some(emulator) = emulator().await else { return };
    let subscription = format!("projects/{}/subscriptions/{}", emulator::PROJECT, name("nowhere"));
    let pull = Pull::start(options(&emulator, &subscription), |_| async { Disposition::Acknowledge });
    let error = pull.end().await.unwrap_err();
    assert!(matches!(error, PullError::Missing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&subscription) && text.contains("create it, or correct CONCEPT_SUBSCRIPTION"), "{text}");
}

#[tokio::test]
async fn a_pull_that_nothing_arrives_for_stops_when_told() {
    let Some(emulator) = emulator().await else { return };
    let topic = emulator.create_topic(&name("idle")).await;
    let subscription = emulator.create_subscription(&name("idle"), &topic, json!({})).await;
    let pull = Pull::start(options(&emulator, &subscription), |_| async { Disposition::Acknowledge });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(pull.stop().await, PullSummary::default());
}

#[tokio::test]
async fn an_emulator_killed_and_started_again_does_not_end_the_pull() {
    let Some(emulator) = emulator_of_my_own().await else { return };
    let (topic_name, subscription_name) = (name("restart"), name("restart"));
    let topic = emulator.create_topic(&topic_name).await;
    let subscription = emulator.create_subscription(&subscription_name, &topic, json!({})).await;
    emulator.publish(&topic, b"before", json!({})).await;

    let (count, mut counts) = watch::channel(0);
    let count = Arc::new(count);
    let pull = Pull::start(options(&emulator, &subscription), move |delivery| {
        // Only the one that was published after the restart makes two.
        let step = if text(&delivery) == "after" { 2 } else { 1 };
        count.send_modify(|count| *count = step.max(*count));
        async { Disposition::Acknowledge }
    });
    reaches(&mut counts, 1).await;
    emulator.restart().await;
    // It has forgotten everything.
    assert_eq!(emulator.create_topic(&topic_name).await, topic);
    emulator.create_subscription(&subscription_name, &topic, json!({})).await;
    emulator.publish(&topic, b"after", json!({})).await;
    reaches(&mut counts, 2).await;
    pull.stop().await;
}

#[tokio::test]
async fn pulling_waits_for_an_endpoint_that_cannot_be_reached_and_stops_when_told() {
    // Bound and closed again: connections are refused.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable =
        PullOptions { emulator: Some(format!("127.0.0.1:{port}")), ..PullOptions::new("projects/p/subscriptions/s") };
    let pull = Pull::start(unreachable, |_| async { Disposition::Acknowledge });
    sleep(Duration::from_millis(1_500)).await;
    assert!(!pull.task.is_finished(), "a connection refused ended the pull");
    let summary = pull.stop().await;
    assert_eq!(summary.received, 0);
}
