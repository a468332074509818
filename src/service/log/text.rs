//! A line for people.

use std::fmt::Write;

use serde_json::Value;
use tracing::Level;

use super::layer::Entry;

/// Fields that serve machines only.
const HIDDEN: [&str; 4] = ["event", "trace_id", "span_id", "trace_sampled"];

/// One line, line break included.
pub fn line(entry: Entry, color: bool) -> Vec<u8> {
    let (name, code) = match entry.level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => (" WARN", "33"),
        Level::INFO => (" INFO", "32"),
        Level::DEBUG => ("DEBUG", "34"),
        Level::TRACE => ("TRACE", "35"),
    };
    let (on, off, dim) = if color { (format!("\x1b[{code}m"), "\x1b[0m", "\x1b[2m") } else { Default::default() };
    let mut line = format!("{dim}{}{off} {on}{name}{off} ", entry.time);
    push_plain(&mut line, &entry.message);
    for (key, value) in &entry.values {
        if HIDDEN.contains(&key.as_str()) || key.starts_with("otel.") || key.starts_with("log.") {
            continue;
        }
        let _ = write!(line, " {dim}{key}={off}");
        match value {
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                push_plain(&mut line, &format!("{text:?}"));
            }
            Value::String(text) => push_plain(&mut line, text),
            other => push_plain(&mut line, &other.to_string()),
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// Appends text so that it can neither start another line nor steer a terminal.
fn push_plain(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}
