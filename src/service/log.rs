//! Logs: lines for people, or JSON as Cloud Logging reads it, with the trace a request belongs to; traces to OpenTelemetry.
//!
//! What is logged about jobs, memory and callers is said by the functions of this module and by nothing else, because alerts
//! are made of the fields they write (deploy/filters, tests/alerts.rs).
//!
//! A logging thread never waits for whoever reads the lines: they go through a bounded queue to one thread that writes, and
//! when the reader stops, lines are counted and dropped.

mod cloud;
mod fields;
mod layer;
mod lines;
mod otel;
mod sink;
mod text;
mod trace;

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};

use layer::{Format, Lines};
use otel::Export;
use sink::Sink;

pub use lines::{
    JobLine, Outcome, RequestLine, auth_refused, job_line, memory_cleanup, memory_refused, mode_name, request_line,
    started,
};
pub use trace::TraceContext;

/// What the crate's own lines and spans begin their target with.
const OWN_TARGET: &str = "concept_worker";

/// The longest that the end of the program waits for lines and spans to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The part of it that is kept for the lines.
const FLUSH_LINES: Duration = Duration::from_millis(500);

/// What lines and spans say about the program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// The service, job or worker pool.
    pub name: String,
    /// Its revision or execution, or the program's version.
    pub version: String,
    /// The Google Cloud project. Without it, a line names its trace by the bare id.
    pub project: Option<String>,
    /// Whether Cloud Run is the host.
    pub on_cloud_run: bool,
    /// Whether spans are to be exported.
    pub export_spans: bool,
}

impl ServiceFacts {
    /// From the variables that Cloud Run, Google Cloud's tools and OpenTelemetry define; `variable` looks one up.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
        };
        let host = first(&["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"]);
        let version = first(&["K_REVISION", "CLOUD_RUN_EXECUTION", "CLOUD_RUN_WORKER_POOL_REVISION"]);
        let says = |name: &str, word: &str| first(&[name]).is_some_and(|text| text.eq_ignore_ascii_case(word));
        Self {
            on_cloud_run: host.is_some(),
            name: host.unwrap_or_else(|| env!("CARGO_PKG_NAME").into()),
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").into()),
            project: first(&["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GCP_PROJECT"]),
            export_spans: first(&["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]).is_some()
                && !says("OTEL_SDK_DISABLED", "true")
                && !says("OTEL_TRACES_EXPORTER", "none"),
        }
    }

    /// From the process's environment.
    pub fn from_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }
}

/// Keeps logs and traces flowing. Dropping it writes what is left, for at most two seconds, and ends them.
#[derive(Debug)]
pub struct Guard {
    export: Option<Export>,
    sink: Sink,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let end = Instant::now() + FLUSH_LIMIT;
        if let Some(export) = self.export.take() {
            export.shut_down(FLUSH_LIMIT - FLUSH_LINES);
        }
        self.sink.close(end);
    }
}

/// Starts logging for the whole process: JSON goes to standard output, text to standard error. Panics are logged from here
/// on, too.
///
/// # Errors
/// When logging has been started before, a thread cannot be started, or the exporter of spans cannot be made.
pub fn start(format: LogFormat, level: LogLevel, facts: &ServiceFacts) -> Result<Guard, String> {
    let json = match format {
        LogFormat::Auto => facts.on_cloud_run,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let guard = if json {
        let (subscriber, guard) = to_writer(Box::new(io::stdout()), LogFormat::Json, level, facts)?;
        subscriber.try_init().map_err(|error| format!("cannot start logging: {error}"))?;
        guard
    } else {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (subscriber, guard) = build(Box::new(io::stderr()), Format::Text { color }, level, facts)?;
        subscriber.try_init().map_err(|error| format!("cannot start logging: {error}"))?;
        guard
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

/// The same logging into `writer`, without color, for whoever installs the subscriber.
///
/// # Errors
/// When a thread cannot be started, or the exporter of spans cannot be made.
pub fn to_writer(
    writer: Box<dyn Write + Send>,
    format: LogFormat,
    level: LogLevel,
    facts: &ServiceFacts,
) -> Result<(impl Subscriber + Send + Sync + use<>, Guard), String> {
    let format = match format {
        LogFormat::Text => Format::Text { color: false },
        LogFormat::Json | LogFormat::Auto => Format::Cloud,
    };
    build(writer, format, level, facts)
}

fn build(
    writer: Box<dyn Write + Send>,
    format: Format,
    level: LogLevel,
    facts: &ServiceFacts,
) -> Result<(impl Subscriber + Send + Sync + use<>, Guard), String> {
    let level = filter(level);
    let sink = Sink::start(writer, format).map_err(|error| format!("cannot start the thread that logs: {error}"))?;
    let lines = Lines::new(format, sink.clone(), facts.clone());
    // Dependencies speak up only when something is wrong: their debug lines can hold headers with secrets.
    let shown = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OWN_TARGET, level);
    let (spans, export) = facts.export_spans.then(|| otel::layer(facts)).transpose()?.unzip();
    let subscriber = Registry::default().with(lines.with_filter(shown)).with(spans);
    Ok((subscriber, Guard { export, sink }))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// One line for a panic, where the standard hook would write several that belong to nothing.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(event = "panic", place, "panicked at {place}: {text}");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

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

    fn facts(variables: &[(&str, &str)]) -> ServiceFacts {
        ServiceFacts::read(|wanted| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        })
    }

    /// What `work` logs.
    fn said(format: LogFormat, level: LogLevel, facts: &ServiceFacts, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let (subscriber, guard) = to_writer(Box::new(buffer.clone()), format, level, facts).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        drop(guard);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    fn cloud(work: impl FnOnce()) -> Vec<Value> {
        let text = said(LogFormat::Json, LogLevel::Trace, &facts(&[("GOOGLE_CLOUD_PROJECT", "p")]), work);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn levels_become_the_severities_of_cloud_logging() {
        let lines = cloud(|| {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
            tracing::trace!("t");
        });
        let severities: Vec<_> = lines.iter().map(|line| line["severity"].as_str().unwrap()).collect();
        assert_eq!(severities, ["ERROR", "WARNING", "INFO", "DEBUG", "DEBUG"]);
        let time = lines[0]["time"].as_str().unwrap();
        let digits: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(digits, "0000-00-00T00:00:00.000000Z");
    }

    #[test]
    fn every_line_inside_a_request_names_its_trace() {
        let context =
            TraceContext::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let lines = cloud(|| {
            context.span("POST /").in_scope(|| {
                tracing::info!("outer");
                tracing::info_span!("inner", stage = "decode").in_scope(|| tracing::warn!("deep"));
            });
            tracing::info!("outside");
        });
        for line in &lines[..2] {
            let trace = &line["logging.googleapis.com/trace"];
            assert_eq!(trace, "projects/p/traces/4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(line["logging.googleapis.com/spanId"], "00f067aa0ba902b7");
            assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
            assert!(line.get("trace_id").is_none() && line.get("otel.name").is_none());
        }
        assert_eq!(lines[1]["stage"], "decode");
        assert!(lines[2].get("logging.googleapis.com/trace").is_none());
    }

    #[test]
    fn without_a_project_a_trace_is_named_by_its_id() {
        let context = TraceContext::new_root();
        let text = said(LogFormat::Json, LogLevel::Info, &facts(&[]), || {
            context.span("batch").in_scope(|| tracing::info!("x"));
        });
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["logging.googleapis.com/trace"], context.trace_hex());
    }

    #[test]
    fn a_trace_is_named_even_where_only_errors_are_logged() {
        let context = TraceContext::new_root();
        let text = said(LogFormat::Json, LogLevel::Error, &facts(&[]), || {
            context.span("x").in_scope(|| {
                tracing::warn!("not shown");
                tracing::error!("shown");
            });
        });
        assert!(text.lines().count() == 1 && text.contains(&context.trace_hex()), "{text}");
    }

    #[test]
    fn a_field_of_an_event_goes_before_that_of_a_span_and_later_words_count() {
        let lines = cloud(|| {
            let span = tracing::info_span!("s", job_id = tracing::field::Empty, stage = "a");
            span.record("job_id", "j");
            span.in_scope(|| tracing::info!(stage = "b", "x"));
        });
        assert_eq!((&lines[0]["job_id"], &lines[0]["stage"]), (&"j".into(), &"b".into()));
    }

    #[test]
    fn an_error_is_fit_for_error_reporting() {
        let lines = cloud(|| tracing::error!(error = %"the bucket is gone", "cannot store a.png"));
        let line = &lines[0];
        assert_eq!(line["message"], "cannot store a.png: the bucket is gone");
        assert!(line["@type"].as_str().unwrap().ends_with("ReportedErrorEvent"));
        assert_eq!(line["serviceContext"]["service"], "concept-worker");
        let place = &line["context"]["reportLocation"];
        assert_eq!(place["filePath"], line["logging.googleapis.com/sourceLocation"]["file"]);
        assert!(place["lineNumber"].as_u64().unwrap() > 0);
    }

    #[test]
    fn a_request_is_an_object_of_its_own() {
        let lines = cloud(|| {
            request_line(&RequestLine {
                method: "POST",
                path: "/v1/render",
                status: 503,
                took: Duration::from_millis(1_250),
                request_bytes: 10,
                response_bytes: 20,
                user_agent: None,
                remote_ip: Some("192.0.2.1"),
            });
        });
        let wanted = json!({
            "requestMethod": "POST", "requestUrl": "/v1/render", "status": 503, "latency": "1.25s", "requestSize": "10",
            "responseSize": "20", "remoteIp": "192.0.2.1",
        });
        assert_eq!(lines[0]["httpRequest"], wanted);
        assert_eq!((&lines[0]["severity"], lines[0].get("http.method")), (&"WARNING".into(), None));
    }

    #[test]
    fn fields_can_be_labels_and_json_and_cannot_take_the_place_of_special_ones() {
        let lines = cloud(|| {
            tracing::info!(
                label.team = "brand",
                stages.json = r#"{"decode":1.5}"#,
                broken.json = "{",
                severity = "none",
                share = f64::NAN,
                "x"
            );
        });
        let line = &lines[0];
        assert_eq!(line["logging.googleapis.com/labels"], json!({ "team": "brand" }));
        assert_eq!(line["stages"], json!({ "decode": 1.5 }));
        assert_eq!(line["broken"], "{");
        assert_eq!((&line["severity"], &line["severity_"]), (&"INFO".into(), &"none".into()));
        assert_eq!(line["share"], "NaN");
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length_whatever_is_logged() {
        let long = "ö\n\"\u{1}".repeat(100_000);
        let text = said(LogFormat::Json, LogLevel::Info, &facts(&[]), || {
            tracing::error!(a = long, b = long, c = ?long, d = long, e = long, f = long, error = long, "{long}");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.len() <= 64 << 10, "{} bytes", text.len());
        let line: Value = serde_json::from_str(&text).unwrap();
        assert!(line["message"].as_str().unwrap().contains("bytes more)"));
        assert!(line["omitted"].as_str().unwrap().contains('f'), "{}", line["omitted"]);
    }

    #[test]
    fn dependencies_are_heard_only_when_something_is_wrong() {
        let lines = cloud(|| {
            tracing::debug!(target: "hyper::client", authorization = "Bearer secret", "sending");
            tracing::warn!(target: "hyper::client", "lost");
        });
        assert_eq!(lines.iter().map(|line| &line["message"]).collect::<Vec<_>>(), ["lost"]);
    }

    #[test]
    fn a_text_line_cannot_be_forged() {
        let text = said(LogFormat::Text, LogLevel::Info, &facts(&[]), || {
            tracing::warn!(user = "a\nb\x1b[2J", empty = "", plain = 3, "two\nlines");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z'), "{time}");
        assert_eq!(rest, " WARN two\\nlines empty=\"\" plain=3 user=a\\nb\\u{1b}[2J\n");
    }

    #[test]
    fn cloud_run_is_recognised_as_service_job_and_pool() {
        assert!(!facts(&[]).on_cloud_run && !facts(&[("K_SERVICE", " ")]).on_cloud_run);
        for name in ["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"] {
            let found = facts(&[(name, "n")]);
            assert!(found.on_cloud_run && found.name == "n", "{found:?}");
        }
    }

    #[test]
    fn spans_are_exported_when_there_is_a_collector_and_nobody_objects() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(facts(&[endpoint]).export_spans);
        assert!(facts(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")]).export_spans);
        assert!(!facts(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).export_spans);
        assert!(!facts(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).export_spans);
        assert!(!facts(&[]).export_spans);
    }

    #[test]
    fn a_sentence_says_what_became_of_the_job() {
        let job = JobLine {
            job_id: "j".into(),
            user_id: "u".into(),
            message_id: Some("m".into()),
            variations: 7,
            failed: 2,
            total_ms: 12.4,
            class: Some("over-limit"),
            ..JobLine::default()
        };
        let lines = cloud(|| {
            for outcome in [Outcome::Partial, Outcome::Failed, Outcome::Retry, Outcome::Conflict, Outcome::Duplicate] {
                job_line(&JobLine { outcome, ..job.clone() });
            }
            job_line(&JobLine { job_id: String::new(), ..job.clone() });
            job_line(&JobLine { retries_exhausted: true, ..job.clone() });
        });
        let said: Vec<String> = lines.iter().map(|l| format!("{} {}", l["severity"], l["message"])).collect();
        assert_eq!(
            said,
            [
                r#""WARNING" "job u/j: partial (over-limit), 5 of 7 variations in 12 ms""#,
                r#""ERROR" "job u/j: failed (over-limit) in 12 ms""#,
                r#""WARNING" "job u/j: left to the next delivery (over-limit) after 12 ms""#,
                r#""WARNING" "job u/j: conflict (over-limit): something else is stored in its place""#,
                r#""INFO" "job u/j: done before, found in 12 ms""#,
                r#""ERROR" "message m: failed (over-limit) in 12 ms""#,
                r#""ERROR" "job u/j: failed (over-limit) in 12 ms, tried too often""#,
            ]
        );
    }
}
