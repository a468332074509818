//! Models that do as they are told, and the predictions they make.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::State;
use super::files::File;
use super::hook::Hook;

/// How predictions of a model end.
#[derive(Clone)]
enum Ends {
    /// With this output, in which `{server}` stands for the server's address and `{id}` for the prediction's id.
    Succeeds(Value),
    /// With a file of this media type, made of the input's file of this name.
    Makes { input: String, content_type: String, make: Arc<dyn Fn(Bytes) -> Bytes + Send + Sync> },
    /// With this error.
    Fails(String),
}

/// How a model behaves.
#[derive(Clone)]
pub struct Model {
    ends: Ends,
    /// None for one that hangs.
    after: Option<Duration>,
    is_official: bool,
    required: Vec<String>,
    every: Option<(u64, String)>,
    pub(super) hook: Hook,
    begun: u64,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("after", &self.after).field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Model {
    fn new(ends: Ends) -> Self {
        Self {
            ends,
            after: Some(Duration::ZERO),
            is_official: true,
            required: Vec::new(),
            every: None,
            hook: Hook::Signed,
            begun: 0,
        }
    }

    /// One that succeeds with this output at once. `{server}` in it stands for the server's address, `{id}` for the
    /// prediction's id.
    pub fn succeeds(output: Value) -> Self {
        Self::new(Ends::Succeeds(output))
    }

    /// One that makes a file of the one in its input: `input` is the name of the field, with a data URI or an uploaded
    /// file.
    pub fn makes(input: &str, content_type: &str, make: impl Fn(Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        let ends = Ends::Makes { input: input.into(), content_type: content_type.into(), make: Arc::new(make) };
        Self::new(ends).requires(input)
    }

    /// One that fails with this error.
    pub fn fails(error: &str) -> Self {
        Self::new(Ends::Fails(error.into()))
    }

    /// One whose predictions never end by themselves.
    pub fn hangs() -> Self {
        Self { after: None, ..Self::new(Ends::Succeeds(json!("late"))) }
    }

    /// It takes this long.
    pub fn after(self, time: Duration) -> Self {
        Self { after: Some(time), ..self }
    }

    /// It can only be ordered by its version.
    pub fn community(self) -> Self {
        Self { is_official: false, ..self }
    }

    /// Its input has to have this field.
    pub fn requires(mut self, field: &str) -> Self {
        self.required.push(field.to_owned());
        self
    }

    /// Every k-th prediction fails with this error.
    pub fn fails_every(self, k: u64, error: &str) -> Self {
        Self { every: Some((k, error.to_owned())), ..self }
    }

    /// How its webhooks are sent.
    pub fn hook(self, hook: Hook) -> Self {
        Self { hook, ..self }
    }

    pub(super) fn is_official(&self) -> bool {
        self.is_official
    }

    /// The first field that is missing in an input.
    pub(super) fn missing(&self, input: &Value) -> Option<&str> {
        self.required.iter().map(String::as_str).find(|field| input.get(field).is_none_or(Value::is_null))
    }
}

/// The version of a model, 64 hexadecimal digits.
pub fn version_of(model: &str) -> String {
    Sha256::digest(model.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A prediction that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// The model, `owner/name`.
    pub model: String,
    /// The version as it was ordered; none for an official model.
    pub version: Option<String>,
    /// Its input.
    pub input: Value,
    /// The header Idempotency-Key.
    pub key: Option<String>,
    /// The header Prefer.
    pub prefer: Option<String>,
    /// The header Cancel-After.
    pub cancel_after: Option<String>,
    /// Where its webhook goes.
    pub webhook: Option<String>,
}

/// A prediction and how it goes on.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) created: Created,
    begun: Instant,
    ends: Option<Instant>,
    pub(super) cancelled: Option<Instant>,
    pub(super) is_removed: bool,
    dies: Option<Instant>,
    outcome: Result<Value, String>,
}

impl Made {
    /// The status now.
    pub(super) fn status(&self) -> &'static str {
        let now = Instant::now();
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match (past(self.ends), &self.outcome) {
            _ if past(self.cancelled) => "canceled",
            _ if past(self.dies) && self.ends.is_none_or(|ends| self.dies < Some(ends)) => "aborted",
            (true, Ok(_)) => "succeeded",
            (true, Err(_)) => "failed",
            (false, _) if now < self.begun + Duration::from_millis(20) => "starting",
            (false, _) => "processing",
        }
    }

    pub(super) fn is_final(&self) -> bool {
        !matches!(self.status(), "starting" | "processing")
    }

    /// Cancels it, unless it has ended.
    pub(super) fn cancel(&mut self) {
        if !self.is_final() {
            self.cancelled = Some(Instant::now());
        }
    }

    pub(super) fn finish_now(&mut self) {
        if !self.is_final() {
            self.ends = Some(Instant::now());
        }
    }

    /// The prediction as the API shows it.
    pub(super) fn json(&self, url: &str) -> Value {
        let (id, status) = (&self.created.id, self.status());
        let (output, error) = match (status, &self.outcome) {
            ("succeeded", Ok(output)) if !self.is_removed => (output.clone(), Value::Null),
            ("failed", Err(error)) => (Value::Null, json!(error)),
            _ => (Value::Null, Value::Null),
        };
        let took = self.ends.map_or(0.0, |ends| (ends - self.begun).as_secs_f64());
        let metrics = if status == "succeeded" { json!({"predict_time": took, "total_time": took}) } else { json!({}) };
        json!({
            "id": id,
            "model": self.created.model,
            "version": self.created.version.as_deref().map_or("hidden".to_owned(), |_| version_of(&self.created.model)),
            "input": if self.is_removed { json!({}) } else { self.created.input.clone() },
            "logs": "a line\nand another\n",
            "output": output,
            "data_removed": self.is_removed,
            "error": error,
            "source": "api",
            "status": status,
            "created_at": "2026-01-01T00:00:00.000Z",
            "started_at": null,
            "completed_at": null,
            "urls": {
                "cancel": format!("{url}/v1/predictions/{id}/cancel"),
                "get": format!("{url}/v1/predictions/{id}"),
                "stream": format!("{url}/v1/stream/{id}"),
                "web": format!("{url}/p/{id}"),
            },
            "metrics": metrics,
        })
    }
}

impl State {
    /// Makes a prediction. Its model is there.
    pub(super) fn make(&mut self, url: &str, mut created: Created, lifetime: Option<Duration>) -> String {
        let model = self.models.get_mut(&created.model).unwrap();
        model.begun += 1;
        let model = model.clone();
        let seed = format!("{} {url}", self.made.len());
        let id: String = version_of(&seed)[..26].to_owned();
        created.id = id.clone();
        let outcome = match (&model.every, &model.ends) {
            (Some((k, error)), _) if model.begun.is_multiple_of(*k) => Err(error.clone()),
            (_, Ends::Fails(error)) => Err(error.clone()),
            (_, Ends::Succeeds(output)) => Ok(filled(output, url, &id)),
            (_, Ends::Makes { input, content_type, make }) => {
                match created.input[input].as_str().and_then(|at| self.content(url, at)) {
                    Some(bytes) => {
                        let end = content_type.rsplit('/').next().unwrap_or_default();
                        let name = format!("{id}.{end}");
                        self.files.insert(name.clone(), File::bytes(content_type, make(bytes)));
                        Ok(json!(format!("{url}/outputs/{name}")))
                    }
                    None => Err(format!("the input {input} is neither a data URI nor an uploaded file")),
                }
            }
        };
        let begun = Instant::now();
        self.made.push(Made {
            created,
            begun,
            ends: model.after.map(|after| begun + after),
            cancelled: None,
            is_removed: false,
            dies: lifetime.map(|lifetime| begun + lifetime),
            outcome,
        });
        id
    }

    pub(super) fn find(&mut self, id: &str) -> Option<&mut Made> {
        self.made.iter_mut().find(|made| made.created.id == id)
    }
}

/// An output with the places filled in.
fn filled(value: &Value, url: &str, id: &str) -> Value {
    match value {
        Value::String(text) => json!(text.replace("{server}", url).replace("{id}", id)),
        Value::Array(items) => items.iter().map(|item| filled(item, url, id)).collect(),
        Value::Object(object) => {
            Value::Object(object.iter().map(|(name, item)| (name.clone(), filled(item, url, id))).collect())
        }
        other => other.clone(),
    }
}
