//! Logs and traces of a whole process, in processes of their own: this test program, started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use concept_worker::config::{LogFormat, LogLevel};
use concept_worker::service::log::{self, ServiceFacts, TraceContext};
use http::HeaderMap;
use serde_json::Value;

/// Says to this program, started again, what to do.
const PART: &str = "LOGGING_TEST_PART";

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Runs a part of [`the_other_process`].
fn process(part: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_other_process", "--nocapture", "--quiet"]).env_clear().env(PART, part);
    command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The lines of JSON that it wrote to standard output.
fn json_lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_other_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let facts = ServiceFacts::from_environment();
    let guard = log::start(LogFormat::Auto, LogLevel::Info, &facts).unwrap();
    match part.as_str() {
        "spans" => {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", TRACEPARENT.parse().unwrap());
            let span = TraceContext::from_headers(&headers).unwrap().span("POST /pubsub/push");
            span.in_scope(|| tracing::info!(target: "concept_worker", "inside"));
            // What is going on inside dependencies is nobody's business.
            tracing::info_span!(target: "hyper", "secret-of-a-library").in_scope(|| ());
        }
        "root" => {
            let span = TraceContext::new_root().span("pull");
            span.in_scope(|| tracing::info!(target: "concept_worker", "inside"));
        }
        "panic" => {
            let _ = std::panic::catch_unwind(|| panic!("a defect\non two lines"));
        }
        "many" => {
            for number in 0..200_000 {
                tracing::info!(target: "concept_worker", number, "a line");
            }
        }
        "twice" => {
            let again = log::start(LogFormat::Auto, LogLevel::Info, &facts).unwrap_err();
            tracing::info!(target: "concept_worker", "{again}");
        }
        other => panic!("{other} is no part"),
    }
    let end = Instant::now();
    drop(guard);
    eprintln!("ended in {} ms", end.elapsed().as_millis());
}

/// A collector: what it was sent, path first. It answers only if `answers`.
fn collector(answers: bool) -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if let Some(request) = read_request(&mut stream) {
                sender.send(request).unwrap();
            }
            if answers {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            } else {
                silent.push(stream);
            }
        }
    });
    (address, receiver)
}

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first.split(' ').nth(1)?.to_owned(), body))
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn spans_reach_a_collector_under_the_callers_trace_and_lines_name_them() {
    let (address, received) = collector(true);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("K_SERVICE", "the-service"),
        ("GOOGLE_CLOUD_PROJECT", "p"),
    ];
    let output = process("spans", &variables).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (path, body) = received.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(path, "/v1/traces");
    let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    let parent = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
    for part in [b"POST /pubsub/push".as_slice(), b"the-service", &trace, &parent] {
        assert!(holds(&body, part), "{} is missing", String::from_utf8_lossy(part));
    }
    assert!(!holds(&body, b"secret-of-a-library"));
    let lines = json_lines(&output);
    let line = lines.iter().find(|line| line["message"] == "inside").unwrap();
    assert_eq!(line["logging.googleapis.com/trace"], "projects/p/traces/4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
    let span = u64::from_str_radix(line["logging.googleapis.com/spanId"].as_str().unwrap(), 16).unwrap();
    assert!(holds(&body, &span.to_be_bytes()), "the line names another span");
}

#[test]
fn work_without_a_caller_is_logged_under_the_trace_that_is_exported() {
    let (address, received) = collector(true);
    let endpoint = format!("{address}/v1/traces");
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()), ("K_SERVICE", "s")];
    let output = process("root", &variables).output().unwrap();
    let (_, body) = received.recv_timeout(Duration::from_secs(60)).unwrap();
    let lines = json_lines(&output);
    let trace = lines[0]["logging.googleapis.com/trace"].as_str().unwrap();
    assert!(holds(&body, &u128::from_str_radix(trace, 16).unwrap().to_be_bytes()), "{trace}");
}

#[test]
fn without_a_collector_in_the_environment_nothing_is_exported() {
    let (address, received) = collector(true);
    for variables in [
        vec![("K_SERVICE", "s")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()), ("OTEL_SDK_DISABLED", "true"), ("K_SERVICE", "s")],
    ] {
        let output = process("spans", &variables).output().unwrap();
        assert!(output.status.success());
        let lines = json_lines(&output);
        assert_eq!(lines[0]["logging.googleapis.com/spanId"], "00f067aa0ba902b7");
    }
    assert!(received.try_recv().is_err());
}

#[test]
fn a_collector_that_is_silent_or_gone_holds_up_the_end_for_two_seconds_at_most() {
    let (silent, _received) = collector(false);
    // Nobody listens on the second.
    for address in [silent.as_str(), "http://127.0.0.1:9"] {
        let variables =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", address), ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"), ("K_SERVICE", "s")];
        let output = process("spans", &variables).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ms: u64 = said.split("ended in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        // Unbounded it would be ten minutes; a busy machine may take its time.
        assert!(ms < 60_000, "{ms} ms");
        assert!(json_lines(&output).iter().any(|line| line["message"] == "inside"));
    }
}

#[test]
fn a_panic_is_one_line() {
    let output = process("panic", &[("K_SERVICE", "s"), ("K_REVISION", "s-1")]).output().unwrap();
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1, "{output:?}");
    assert_eq!((&lines[0]["severity"], &lines[0]["event"]), (&"ERROR".into(), &"panic".into()));
    assert!(lines[0]["message"].as_str().unwrap().contains("a defect\non two lines"));
    assert_eq!(lines[0]["serviceContext"], serde_json::json!({ "service": "s", "version": "s-1" }));
}

#[test]
fn a_closed_standard_output_ends_nothing() {
    let mut child = process("many", &[("K_SERVICE", "s")]).spawn().unwrap();
    // Closed only once the part logs: the harness around it writes there, too, and cannot do without.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with('{')));
    drop(lines);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    // The harness itself cannot write its summary; the part ran to its end.
    assert!(said.contains("ended in "), "{said}");
    assert!(!said.contains("log::"), "{said}");
}

#[test]
fn logging_starts_once() {
    let output = process("twice", &[("K_SERVICE", "s")]).output().unwrap();
    let lines = json_lines(&output);
    assert!(lines[0]["message"].as_str().unwrap().contains("cannot start logging"), "{lines:?}");
}

#[test]
fn away_from_cloud_run_people_read_text_on_standard_error() {
    let output = process("spans", &[]).output().unwrap();
    assert!(json_lines(&output).is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.contains("inside")).unwrap();
    assert!(line.contains(" INFO inside") && !line.contains('\x1b') && !line.contains("trace_id"), "{line}");
}
