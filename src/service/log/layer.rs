//! The layer that turns events into lines: what an event and the spans around it say, in one of two forms.

use serde_json::{Map, Value};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::fields::Fields;
use super::sink::Sink;
use super::{ServiceFacts, cloud, text};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// Whether a terminal shows it.
        color: bool,
    },
    /// As Cloud Logging reads it.
    Cloud,
}

impl Format {
    /// The line that stands for lines that were dropped.
    pub fn lost(self, lines: u64) -> Vec<u8> {
        let message = format!("{lines} log lines were dropped: nobody read them fast enough");
        let mut values = Map::new();
        values.insert("event".into(), "log_lines_dropped".into());
        values.insert("lines".into(), lines.into());
        let entry = Entry { level: Level::WARN, time: now(), message, values, source: None };
        self.line(entry, None)
    }

    fn line(self, entry: Entry, facts: Option<&ServiceFacts>) -> Vec<u8> {
        match self {
            Self::Text { color } => text::line(entry, color),
            Self::Cloud => cloud::line(entry, facts),
        }
    }
}

/// One line before it has a form.
#[derive(Debug)]
pub struct Entry {
    /// How grave it is.
    pub level: Level,
    /// When, RFC 3339.
    pub time: String,
    /// What happened.
    pub message: String,
    /// The fields of the event, and those of the spans around it that it does not have itself.
    pub values: Map<String, Value>,
    /// File, line and module that logged it.
    pub source: Option<Source>,
}

/// Where in the program a line comes from.
#[derive(Debug)]
pub struct Source {
    /// The file.
    pub file: &'static str,
    /// The line, counted from 1.
    pub line: u32,
    /// The module.
    pub module: &'static str,
}

/// Turns events into lines.
#[derive(Debug)]
pub struct Lines {
    format: Format,
    sink: Sink,
    facts: ServiceFacts,
}

impl Lines {
    /// Lines of `format` into `sink`.
    pub fn new(format: Format, sink: Sink, facts: ServiceFacts) -> Self {
        Self { format, sink, facts }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let around = context.event_scope(event).into_iter().flatten();
        for span in around {
            // From the innermost outwards: the nearest word counts.
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.values {
                    if !fields.values.contains_key(name) {
                        fields.values.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let metadata = event.metadata();
        let source = metadata.file().zip(metadata.line()).map(|(file, line)| Source {
            file,
            line,
            module: metadata.module_path().unwrap_or_default(),
        });
        let entry =
            Entry { level: *metadata.level(), time: now(), message: fields.message, values: fields.values, source };
        self.sink.push(&self.format.line(entry, Some(&self.facts)));
    }
}

/// The time, RFC 3339 in UTC with microseconds.
fn now() -> String {
    let mut text = String::with_capacity(32);
    // Writing into a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}
