//! The fields of an event or a span, collected and cut to size.

use std::error::Error;
use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// Most bytes of one value.
pub const VALUE_BYTES: usize = 8 << 10;

/// Ends the name of a field whose text is JSON and becomes part of the line as such.
const JSON_SUFFIX: &str = ".json";

/// Fields by name, and the message.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    /// The message.
    pub message: String,
    /// Everything else.
    pub values: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, Value::String(text)) => match name.strip_suffix(JSON_SUFFIX) {
                Some(short) => {
                    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                    self.values.insert(short.to_owned(), value);
                }
                None => {
                    self.values.insert(name.to_owned(), Value::String(text));
                }
            },
            (name, value) => {
                self.values.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        let value = serde_json::Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number);
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Bounded::default();
        // Never fails: what is too much is counted.
        let _ = text.write_str(value);
        self.insert(field, text.finish().into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded::default();
        if write!(text, "{value:?}").is_err() {
            let _ = text.write_str("(cannot be shown)");
        }
        self.insert(field, text.finish().into());
    }
}

/// Text that keeps its first [`VALUE_BYTES`] and counts the rest.
#[derive(Default)]
struct Bounded {
    text: String,
    cut: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = if self.cut > 0 { 0 } else { VALUE_BYTES - self.text.len() };
        let taken = more.floor_char_boundary(room);
        self.text.push_str(&more[..taken]);
        self.cut += more.len() - taken;
        Ok(())
    }
}

impl Bounded {
    fn finish(mut self) -> String {
        if self.cut > 0 {
            self.text.push_str(&format!("… ({} bytes more)", self.cut));
        }
        self.text
    }
}
