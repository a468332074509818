//! A line as Cloud Logging reads it: one JSON object, its special fields by their documented names.
//!
//! <https://cloud.google.com/logging/docs/structured-logging>,
//! <https://cloud.google.com/error-reporting/docs/formatting-error-messages>

use serde_json::{Map, Value, json};
use tracing::Level;

use super::ServiceFacts;
use super::layer::Entry;

/// Most bytes of one line. Cloud Logging takes 256 KiB for an entry.
const LINE_BYTES: usize = 64 << 10;

/// Kept free at the end of a line for the names of fields that had no room.
const RESERVE_BYTES: usize = 2 << 10;

/// Most bytes of a message, before escapes.
const MESSAGE_BYTES: usize = 9 << 10;

/// Makes Error Reporting collect a line.
const REPORTED_ERROR: &str = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// Keys with a meaning of their own; a field of that name is written with an underscore behind it.
const TAKEN: [&str; 9] =
    ["severity", "time", "message", "httpRequest", "serviceContext", "context", "@type", "timestamp", "omitted"];

/// One line, line break included.
pub fn line(entry: Entry, facts: Option<&ServiceFacts>) -> Vec<u8> {
    let mut values = entry.values;
    let mut special = Map::new();
    trace(&mut special, &mut values, facts);
    http_request(&mut special, &mut values);
    if let Some(source) = &entry.source
        && entry.level <= Level::WARN
    {
        let place = json!({ "file": source.file, "line": source.line.to_string(), "function": source.module });
        special.insert("logging.googleapis.com/sourceLocation".into(), place);
    }
    if let Some(facts) = facts {
        special.insert("serviceContext".into(), json!({ "service": facts.name, "version": facts.version }));
    }
    let mut message = entry.message;
    if entry.level == Level::ERROR {
        // Error Reporting shows and groups by the message alone, and without a stack trace wants to know the place.
        special.insert("@type".into(), REPORTED_ERROR.into());
        if let Some(source) = &entry.source {
            let place = json!({ "filePath": source.file, "lineNumber": source.line, "functionName": source.module });
            special.insert("context".into(), json!({ "reportLocation": place }));
        }
        if let Some(Value::String(error)) = values.get("error")
            && !message.contains(error.as_str())
        {
            message = format!("{message}: {error}");
        }
        // Two texts of full length and every byte escaped would not fit, and the message must.
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    }
    let labels = labels(&mut values);
    if !labels.is_empty() {
        special.insert("logging.googleapis.com/labels".into(), labels.into());
    }

    let mut line = Line { text: b"{".to_vec(), omitted: Vec::new() };
    line.add("severity", &severity(entry.level).into());
    line.add("time", &entry.time.into());
    line.add("message", &message.into());
    special.iter().for_each(|(key, value)| line.add(key, value));
    for (key, value) in values {
        let internal = key.starts_with("otel.") || key.starts_with("log.");
        if TAKEN.contains(&key.as_str()) || key.starts_with("logging.googleapis.com/") {
            line.add(&format!("{key}_"), &value);
        } else if !internal {
            line.add(&key, &value);
        }
    }
    line.finish()
}

const fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Moves the trace out of the fields.
fn trace(special: &mut Map<String, Value>, values: &mut Map<String, Value>, facts: Option<&ServiceFacts>) {
    let span = values.remove("span_id");
    let sampled = values.remove("trace_sampled");
    let Some(Value::String(id)) = values.remove("trace_id") else { return };
    let name = match facts.and_then(|facts| facts.project.as_deref()) {
        Some(project) => format!("projects/{project}/traces/{id}"),
        None => id,
    };
    special.insert("logging.googleapis.com/trace".into(), name.into());
    special.extend(span.map(|span| ("logging.googleapis.com/spanId".to_owned(), span)));
    special.extend(sampled.map(|sampled| ("logging.googleapis.com/trace_sampled".to_owned(), sampled)));
}

/// Gathers the fields `http.*` into the object that Cloud Logging shows as a request.
fn http_request(special: &mut Map<String, Value>, values: &mut Map<String, Value>) {
    const NAMES: [(&str, &str); 9] = [
        ("http.method", "requestMethod"),
        ("http.url", "requestUrl"),
        ("http.status", "status"),
        ("http.request_bytes", "requestSize"),
        ("http.response_bytes", "responseSize"),
        ("http.user_agent", "userAgent"),
        ("http.remote_ip", "remoteIp"),
        ("http.protocol", "protocol"),
        ("http.seconds", "latency"),
    ];
    let mut request = Map::new();
    for (field, name) in NAMES {
        let Some(value) = values.remove(field) else { continue };
        let value = match name {
            // Numbers of 64 bits are text in the JSON form of protocol buffers, and a duration ends in `s`.
            "requestSize" | "responseSize" => value.to_string().into(),
            "latency" => format!("{value}s").into(),
            _ => value,
        };
        request.insert(name.into(), value);
    }
    if !request.is_empty() {
        special.insert("httpRequest".into(), request.into());
    }
}

/// Moves the fields `label.*` out; labels are text.
fn labels(values: &mut Map<String, Value>) -> Map<String, Value> {
    let names: Vec<String> = values.keys().filter(|key| key.starts_with("label.")).cloned().collect();
    let label = |key: String| {
        let value = match values.remove(&key)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Some((key.trim_start_matches("label.").to_owned(), Value::String(value)))
    };
    names.into_iter().filter_map(label).collect()
}

/// The line so far.
struct Line {
    text: Vec<u8>,
    /// Fields that had no room.
    omitted: Vec<String>,
}

impl Line {
    fn add(&mut self, key: &str, value: &Value) {
        let piece = format!("{}:{value}", Value::from(key));
        if self.text.len() + piece.len() + RESERVE_BYTES > LINE_BYTES {
            self.omitted.push(key.to_owned());
            return;
        }
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        self.text.extend_from_slice(piece.as_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.omitted.is_empty() {
            let mut names = self.omitted.join(" ");
            names.truncate(names.floor_char_boundary(RESERVE_BYTES / 8));
            self.text.extend_from_slice(format!(",\"omitted\":{}", Value::from(names)).as_bytes());
        }
        self.text.extend_from_slice(b"}\n");
        self.text
    }
}
