//! The filters in deploy/filters fire on the lines they are for: real lines of the real layer, read as Cloud Logging reads
//! them.

mod filter;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use concept_worker::config::{LogFormat, LogLevel};
use concept_worker::pipeline::job::Mode;
use concept_worker::service::log::{self, JobLine, Outcome, RequestLine, ServiceFacts, TraceContext};
use filter::Filter;
use serde_json::{Map, Value, json};

/// What a healthy job logs.
fn healthy() -> JobLine {
    JobLine {
        job_id: "j_2".into(),
        user_id: "u_1".into(),
        message_id: Some("m_3".into()),
        delivery_attempt: Some(1),
        outcome: Outcome::Complete,
        variations: 7,
        queue_ms: 1.0,
        first_variation_ms: Some(301.5),
        total_ms: 843.2,
        timings: BTreeMap::from([("decode".into(), 31.25), ("encode".into(), 400.0)]),
        source_bytes: 1 << 20,
        output_bytes: 7 << 20,
        peak_bytes: 90 << 20,
        rss_bytes: 60 << 20,
        mode: Some(Mode::Soft),
        ..JobLine::default()
    }
}

/// What happened, how it is logged, and the filters that must fire.
type Happening = (&'static str, Box<dyn Fn()>, &'static [&'static str]);

/// Everything that is logged.
fn events() -> Vec<Happening> {
    let job = |line: JobLine| -> Box<dyn Fn()> { Box::new(move || log::job_line(&line)) };
    let failed = JobLine {
        outcome: Outcome::Failed,
        class: Some("source-not-found"),
        error: Some("there is no object gs://b/a.png".into()),
        failed: 7,
        ..healthy()
    };
    vec![
        ("a healthy job", job(healthy()), &["finished-jobs"]),
        ("a failed job", job(failed.clone()), &["finished-jobs", "failed-jobs"]),
        (
            "a message that is no job",
            job(JobLine { job_id: String::new(), class: Some("bad-message"), ..failed.clone() }),
            &["finished-jobs", "failed-jobs"],
        ),
        (
            "a job tried too often",
            job(JobLine { retries_exhausted: true, class: Some("storage-unavailable"), ..failed }),
            &["finished-jobs", "failed-jobs", "retries-exhausted"],
        ),
        (
            "a job with a variation missing",
            job(JobLine { outcome: Outcome::Partial, failed: 1, ..healthy() }),
            &["finished-jobs", "partial-jobs"],
        ),
        (
            "a job left to the next delivery",
            job(JobLine { outcome: Outcome::Retry, class: Some("storage-unavailable"), ..healthy() }),
            &["finished-jobs", "retried-jobs"],
        ),
        (
            "a conflict",
            job(JobLine { outcome: Outcome::Conflict, class: Some("conflict"), ..healthy() }),
            &["finished-jobs", "conflicts"],
        ),
        ("a first job", job(JobLine { cold_start: true, ..healthy() }), &["finished-jobs", "cold-starts"]),
        (
            "a duplicate",
            job(JobLine { outcome: Outcome::Duplicate, cached: true, ..healthy() }),
            &["finished-jobs", "cached-jobs"],
        ),
        ("a job of a minute", job(JobLine { total_ms: 60_000.0, ..healthy() }), &["finished-jobs"]),
        ("a slow job", job(JobLine { total_ms: 60_000.1, ..healthy() }), &["finished-jobs", "slow-jobs"]),
        ("a cleanup", Box::new(|| log::memory_cleanup(900 << 20, 200 << 20, 800 << 20)), &["memory"]),
        ("a job without room", Box::new(|| log::memory_refused(600 << 20, 400 << 20, true)), &["memory"]),
        ("a stranger", Box::new(|| log::auth_refused("audience", "/pubsub/push")), &["auth-refusals"]),
        ("a start", Box::new(|| log::started(21.0, 512 << 20, "memory.max of the container", 2)), &[]),
        ("a request", Box::new(|| log::request_line(&request(204))), &[]),
        ("a request that failed", Box::new(|| log::request_line(&request(503))), &[]),
    ]
}

fn request(status: u16) -> RequestLine<'static> {
    RequestLine {
        method: "POST",
        path: "/pubsub/push",
        status,
        took: std::time::Duration::from_millis(850),
        request_bytes: 812,
        response_bytes: 0,
        user_agent: Some("APIs-Google"),
        remote_ip: Some("192.0.2.1"),
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The one line that `event` logs inside a request's span.
fn line_of(event: &dyn Fn()) -> String {
    let facts = ServiceFacts::read(|name| match name {
        "K_SERVICE" => Some("concept-worker".into()),
        "GOOGLE_CLOUD_PROJECT" => Some("a-project".into()),
        _ => None,
    });
    let buffer = Buffer::default();
    let (subscriber, guard) =
        log::to_writer(Box::new(buffer.clone()), LogFormat::Json, LogLevel::Debug, &facts).unwrap();
    tracing::subscriber::with_default(subscriber, || TraceContext::new_root().span("POST /").in_scope(event));
    drop(guard);
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// What Cloud Logging makes of a line of a Cloud Run container: special fields move out of the payload.
fn entry(line: &str, resource_type: &str) -> Value {
    let mut payload: Map<String, Value> = serde_json::from_str(line).unwrap();
    let mut entry = Map::new();
    entry.insert("resource".into(), json!({ "type": resource_type }));
    for (from, to) in [
        ("severity", "severity"),
        ("time", "timestamp"),
        ("httpRequest", "httpRequest"),
        ("logging.googleapis.com/trace", "trace"),
        ("logging.googleapis.com/spanId", "spanId"),
        ("logging.googleapis.com/trace_sampled", "traceSampled"),
        ("logging.googleapis.com/labels", "labels"),
        ("logging.googleapis.com/sourceLocation", "sourceLocation"),
    ] {
        if let Some(value) = payload.remove(from) {
            entry.insert(to.into(), value);
        }
    }
    entry.insert("jsonPayload".into(), payload.into());
    entry.into()
}

fn filters() -> BTreeMap<String, Filter> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/filters");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let filter = Filter::parse(&fs::read_to_string(&path).unwrap());
            (name, filter.unwrap_or_else(|problem| panic!("{}: {problem}", path.display())))
        })
        .collect()
}

#[test]
fn every_filter_fires_on_the_lines_it_is_for_and_on_no_other() {
    let filters = filters();
    assert!(filters.len() > 10);
    for (what, event, wanted) in events() {
        let line = line_of(&*event);
        for resource_type in ["cloud_run_revision", "cloud_run_worker_pool", "cloud_run_job"] {
            let entry = entry(&line, resource_type);
            let firing: BTreeSet<&str> =
                filters.iter().filter(|(_, filter)| filter.matches(&entry)).map(|(name, _)| name.as_str()).collect();
            assert_eq!(firing, wanted.iter().copied().collect(), "{what}: {line}");
        }
    }
}

#[test]
fn every_filter_fires_on_something() {
    let fired: BTreeSet<&str> = events().iter().flat_map(|(_, _, wanted)| wanted.iter().copied()).collect();
    // Lines of panics come from the hook of the whole process: tests/logging.rs.
    let missing: Vec<String> =
        filters().into_keys().filter(|name| !fired.contains(name.as_str()) && name != "panics").collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_filter_fires_on_the_lines_of_another_service() {
    let line = line_of(&|| log::job_line(&JobLine { outcome: Outcome::Failed, ..healthy() }));
    for (name, filter) in filters() {
        assert!(!filter.matches(&entry(&line, "gce_instance")), "{name}");
    }
}

#[test]
fn a_jobs_line_has_what_a_dashboard_needs() {
    let line = line_of(&|| log::job_line(&healthy()));
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["message"], "job u_1/j_2: complete, 7 variations in 843 ms");
    assert_eq!(value["severity"], "INFO");
    assert_eq!(value["timings_ms"], json!({ "decode": 31.25, "encode": 400.0 }));
    assert_eq!(value["serviceContext"]["service"], "concept-worker");
    for (key, wanted) in [
        ("job_id", json!("j_2")),
        ("user_id", json!("u_1")),
        ("message_id", json!("m_3")),
        ("delivery_attempt", json!(1)),
        ("variations", json!(7)),
        ("failed", json!(0)),
        ("queue_ms", json!(1.0)),
        ("first_variation_ms", json!(301.5)),
        ("total_ms", json!(843.2)),
        ("source_bytes", json!(1 << 20)),
        ("rss_bytes", json!(60 << 20)),
        ("cached", json!(false)),
        ("mode", json!("soft")),
    ] {
        assert_eq!(value[key], wanted, "{key}");
    }
    let trace = value["logging.googleapis.com/trace"].as_str().unwrap();
    assert!(trace.starts_with("projects/a-project/traces/") && trace.len() == 25 + 1 + 32, "{trace}");
}
