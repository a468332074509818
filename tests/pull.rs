//! What a pull says to Pub/Sub, judged by a small gRPC server of the test's own that follows a script and keeps a record.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response};
use axum::routing::post;
use bytes::{BufMut, Bytes, BytesMut};
use concept_worker::service::envelope::{Delivery, Payload};
use concept_worker::service::failure::Disposition;
use concept_worker::service::pull::{self, PullError, PullOptions, PullSummary};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

const SUBSCRIPTION: &str = "projects/p/subscriptions/s";

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What happens on one stream.
enum Turn {
    /// One response with a message for each id; the stream stays open.
    Messages(Vec<&'static str>),
    /// The same, but the stream then ends with this gRPC status.
    Broken(Vec<&'static str>, u8),
    /// The stream ends with this gRPC status.
    Fail(u8),
}

/// What the server was told.
#[derive(Debug, Default, Clone)]
struct Record {
    /// The first request of every stream.
    streams: Vec<Bytes>,
    acknowledged: Vec<String>,
    given_back: Vec<String>,
    /// With the seconds.
    extended: Vec<(String, u64)>,
}

struct Script {
    turns: std::sync::Mutex<VecDeque<Turn>>,
    record: watch::Sender<Record>,
}

/// The server; its address, and its record.
async fn serve(turns: impl IntoIterator<Item = Turn>) -> (String, watch::Receiver<Record>) {
    let (record, reader) = watch::channel(Record::default());
    let script = Arc::new(Script { turns: std::sync::Mutex::new(turns.into_iter().collect()), record });
    let routes = Router::new()
        .route("/google.pubsub.v1.Subscriber/StreamingPull", post(streaming_pull))
        .route("/google.pubsub.v1.Subscriber/Acknowledge", post(acknowledge))
        .route("/google.pubsub.v1.Subscriber/ModifyAckDeadline", post(modify_ack_deadline))
        .with_state(script);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (address, reader)
}

async fn streaming_pull(State(script): State<Arc<Script>>, request: Request) -> Response<Body> {
    let mut body = request.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    script.record.send_modify(|record| record.streams.push(first.slice(5..)));
    let turn = script.turns.lock().unwrap().pop_front();
    let (ids, status) = match turn {
        Some(Turn::Messages(ids)) => (ids, None),
        Some(Turn::Broken(ids, status)) => (ids, Some(status)),
        Some(Turn::Fail(status)) => (Vec::new(), Some(status)),
        None => (Vec::new(), None),
    };
    let (data, arriving) = mpsc::unbounded_channel();
    if !ids.is_empty() {
        data.send(grpc(&received(&ids))).unwrap();
    }
    if let Some(status) = status {
        return answer(arriving, status);
    }
    tokio::spawn(async move {
        // The stream stays open until the client leaves.
        while let Some(Ok(_)) = body.frame().await {}
        drop(data);
    });
    answer(arriving, 0)
}

/// A response with a message for each id.
fn received(ids: &[&str]) -> Bytes {
    let mut response = BytesMut::new();
    for id in ids {
        let mut message = BytesMut::new();
        put(&mut message, 1, format!("data of {id}").as_bytes());
        put(&mut message, 3, id.as_bytes());
        let mut received = BytesMut::new();
        put(&mut received, 1, id.as_bytes());
        put(&mut received, 2, &message);
        put(&mut response, 1, &received);
    }
    response.freeze()
}

async fn acknowledge(State(script): State<Arc<Script>>, request: Request) -> Response<Body> {
    let ids = strings(&message_of(request).await, 2);
    script.record.send_modify(|record| record.acknowledged.extend(ids));
    empty()
}

async fn modify_ack_deadline(State(script): State<Arc<Script>>, request: Request) -> Response<Body> {
    let message = message_of(request).await;
    let (ids, seconds) = (strings(&message, 4), number(&message, 3));
    script.record.send_modify(|record| match seconds {
        0 => record.given_back.extend(ids),
        seconds => record.extended.extend(ids.into_iter().map(|id| (id, seconds))),
    });
    empty()
}

// ---- as much of gRPC and protocol buffers as that takes ----

/// The messages that come through the channel, and after its end the status.
fn answer(data: mpsc::UnboundedReceiver<Bytes>, status: u8) -> Response<Body> {
    let data = stream::unfold(data, |mut data| async move {
        let message = data.recv().await?;
        Some((Ok::<_, Infallible>(message), data))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    trailers.insert("grpc-message", HeaderValue::from_static("as the script says"));
    let body = Body::from_stream(data).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

fn empty() -> Response<Body> {
    let (data, arriving) = mpsc::unbounded_channel();
    data.send(grpc(&[])).unwrap();
    answer(arriving, 0)
}

async fn message_of(request: Request) -> Bytes {
    request.into_body().collect().await.unwrap().to_bytes().slice(5..)
}

/// A message with gRPC's prefix: not compressed, length.
fn grpc(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// Appends a field of bytes. Lengths below 128 take one byte, longer ones two.
fn put(message: &mut BytesMut, field: u8, bytes: &[u8]) {
    message.put_u8(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}

/// The fields of a message: the number of each with its value, or with its bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = message[0];
            *message = &message[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        match tag & 7 {
            0 => found.push((tag >> 3, varint(&mut message), &[][..])),
            2 => {
                let length = varint(&mut message) as usize;
                let (bytes, rest) = message.split_at(length);
                found.push((tag >> 3, 0, bytes));
                message = rest;
            }
            other => panic!("wire type {other}"),
        }
    }
    found
}

fn strings(message: &[u8], field: u64) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    fields(message).into_iter().filter(|found| found.0 == field).map(|found| text(found.2)).collect()
}

fn number(message: &[u8], field: u64) -> u64 {
    fields(message).into_iter().find(|found| found.0 == field).map_or(0, |found| found.1)
}

// ---- the tests ----

fn options(address: String) -> PullOptions {
    PullOptions {
        emulator: Some(address),
        return_delay: Duration::ZERO,
        grace: Duration::from_millis(100),
        ..PullOptions::new(SUBSCRIPTION)
    }
}

/// Pulls until the record holds what is asked for, then stops.
async fn pull_until<H, F>(
    options: PullOptions,
    handle: H,
    record: &mut watch::Receiver<Record>,
    holds: impl FnMut(&Record) -> bool,
) -> PullSummary
where
    H: Fn(Delivery) -> F + Clone + Send + 'static,
    F: Future<Output = Disposition> + Send + 'static,
{
    let stop = async {
        let told = timeout(LONG, record.wait_for(holds)).await.is_ok();
        assert!(told, "{:?}", *record.borrow());
    };
    timeout(2 * LONG, pull::run(options, handle, stop)).await.unwrap().unwrap()
}

async fn failure(status: u8) -> PullError {
    let (address, _record) = serve([Turn::Fail(status)]).await;
    let ended = pull::run(options(address), |_| async { Disposition::Acknowledge }, pending());
    timeout(LONG, ended).await.expect("the pull did not end").unwrap_err()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[tokio::test]
async fn everything_held_at_the_shutdown_is_given_back_started_or_not() {
    // More than the two that were asked for, as after a lost acknowledgement.
    let (address, record) = serve([Turn::Messages(vec!["1", "2", "3", "4", "5"])]).await;
    let two = PullOptions { max_outstanding_messages: 2, ..options(address) };
    let (started, mut starts) = watch::channel(0);
    let (stop, stopped) = oneshot::channel();
    let handle = move |_| {
        started.send_modify(|count| *count += 1);
        pending()
    };
    let pull = tokio::spawn(pull::run(two, handle, async {
        let _ = stopped.await;
    }));
    timeout(LONG, starts.wait_for(|count| *count == 2)).await.unwrap().unwrap();
    assert!(record.borrow().given_back.is_empty());
    stop.send(()).unwrap();
    let summary = timeout(LONG, pull).await.unwrap().unwrap().unwrap();

    // Told before the pull returns: the process may end then.
    let record = record.borrow().clone();
    assert_eq!(sorted(record.given_back), ["1", "2", "3", "4", "5"]);
    assert!(record.acknowledged.is_empty(), "{:?}", record.acknowledged);
    assert_eq!(*starts.borrow(), 2, "a handler was started after the shutdown");
    assert_eq!((summary.acknowledged, summary.unfinished), (0, 2), "{summary:?}");
}

#[tokio::test]
async fn answers_given_just_before_the_shutdown_reach_the_server() {
    let (address, record) = serve([Turn::Messages(vec!["good", "busy", "down"])]).await;
    let (stop, mut stops) = watch::channel(0);
    let handle = move |delivery: Delivery| {
        stop.send_modify(|count| *count += 1);
        async move {
            match delivery.message_id.as_deref() {
                Some("busy") => Disposition::Busy,
                Some("down") => Disposition::Unavailable,
                _ => Disposition::Acknowledge,
            }
        }
    };
    let shutdown = async {
        let _ = stops.wait_for(|count| *count == 3).await;
    };
    let summary = timeout(LONG, pull::run(options(address), handle, shutdown)).await.unwrap().unwrap();
    let record = record.borrow().clone();
    assert_eq!(record.acknowledged, ["good"]);
    assert_eq!(sorted(record.given_back), ["busy", "down"]);
    assert_eq!(summary, PullSummary { received: 3, acknowledged: 1, returned: 2, unfinished: 0, reconnections: 0 });
}

#[tokio::test]
async fn the_server_is_asked_for_no_more_than_is_handled_at_once() {
    let (address, mut record) = serve([Turn::Messages(vec!["1"])]).await;
    let asked = PullOptions {
        max_outstanding_messages: 7,
        max_outstanding_bytes: 12_345_678,
        ack_deadline: Duration::from_secs(90),
        ..options(address)
    };
    let acknowledges = |_| async { Disposition::Acknowledge };
    pull_until(asked, acknowledges, &mut record, |record| !record.acknowledged.is_empty()).await;
    let request = record.borrow().streams[0].clone();
    assert_eq!(strings(&request, 1), [SUBSCRIPTION]);
    assert_eq!(number(&request, 5), 90, "deadline of the stream in seconds");
    assert_eq!(number(&request, 7), 7, "messages");
    assert_eq!(number(&request, 8), 12_345_678, "bytes");
}

#[tokio::test]
async fn a_lease_is_extended_while_its_message_is_being_handled() {
    let (address, mut record) = serve([Turn::Messages(vec!["slow"])]).await;
    let slow = PullOptions { ack_deadline: Duration::from_secs(10), ..options(address) };
    pull_until(slow, |_| pending(), &mut record, |record| !record.extended.is_empty()).await;
    assert_eq!(record.borrow().extended[0], ("slow".to_owned(), 10));
}

#[tokio::test]
async fn messages_beyond_the_bytes_asked_for_wait() {
    // Each has nine bytes of data.
    let (address, mut record) = serve([Turn::Messages(vec!["1", "2", "3"])]).await;
    let (started, starts) = watch::channel(0);
    let few = PullOptions { max_outstanding_bytes: 10, max_outstanding_messages: 100, ..options(address) };
    let handle = move |_| {
        started.send_modify(|count| *count += 1);
        pending()
    };
    // Half a second in, when leases are first extended, everything has long arrived.
    let summary = pull_until(few, handle, &mut record, |record| !record.extended.is_empty()).await;
    assert_eq!(*starts.borrow(), 2, "two make more than ten bytes");
    assert_eq!(summary.unfinished, 2, "{summary:?}");
}

#[tokio::test]
async fn a_stream_that_fails_is_opened_again() {
    // CANCELLED and UNKNOWN are what the client crate gives up on; UNAVAILABLE it retries itself.
    let turns = [Turn::Fail(14), Turn::Fail(1), Turn::Fail(2), Turn::Messages(vec!["late"])];
    let (address, mut record) = serve(turns).await;
    let handle = |delivery: Delivery| async move {
        assert_eq!(delivery.payload, Payload::Job(Bytes::from_static(b"data of late")));
        Disposition::Acknowledge
    };
    let summary = pull_until(options(address), handle, &mut record, |record| !record.acknowledged.is_empty()).await;
    assert_eq!(summary.reconnections, 2, "{summary:?}");
    assert_eq!(record.borrow().streams.len(), 4);
}

#[tokio::test]
async fn a_message_whose_stream_breaks_is_acknowledged_when_it_is_done() {
    let (address, mut record) = serve([Turn::Broken(vec!["old"], 1), Turn::Messages(vec!["new"])]).await;
    let (arrived, arrivals) = watch::channel(0);
    let handle = move |_| {
        arrived.send_modify(|count| *count += 1);
        let mut arrivals = arrivals.clone();
        async move {
            // The old one is done only after the new stream has brought its message.
            let _ = arrivals.wait_for(|count| *count == 2).await;
            Disposition::Acknowledge
        }
    };
    let summary = pull_until(options(address), handle, &mut record, |record| record.acknowledged.len() == 2).await;
    assert_eq!((summary.acknowledged, summary.reconnections), (2, 1), "{summary:?}");
    assert_eq!(sorted(record.borrow().acknowledged.clone()), ["new", "old"]);
}

#[tokio::test]
async fn what_no_retry_mends_ends_the_pull_and_says_what_to_do() {
    let [missing, forbidden, refused] = [failure(5).await, failure(7).await, failure(9).await];
    assert!(matches!(missing, PullError::Missing { .. }), "{missing}");
    assert!(matches!(forbidden, PullError::Forbidden { .. }), "{forbidden}");
    assert!(matches!(refused, PullError::Refused { .. }), "{refused}");
    for error in [missing, forbidden, refused] {
        assert!(error.to_string().contains(SUBSCRIPTION), "{error}");
    }
}
