//! Models by name, and predictions as the server tells of them.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::RemoteError;
use crate::service::breaker::Call;

/// Longest owner, name or version of a model, bytes.
const MAX_PART_BYTES: usize = 128;

/// Longest id of a prediction, bytes.
const MAX_ID_BYTES: usize = 128;

/// Most values that an output may consist of. A list of numbers takes many times the memory of its text.
const MAX_OUTPUT_VALUES: usize = 250_000;

/// Most bytes that are kept of why a prediction failed.
const MAX_ERROR_BYTES: usize = 8 << 10;

/// A model, or one version of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// None for a version without the name of its model.
    name: Option<(String, String)>,
    version: Option<String>,
}

impl ModelRef {
    /// Reads `owner/name` (an official model, whose version the server chooses), `owner/name:version`, or the 64
    /// hexadecimal digits of a version.
    ///
    /// # Errors
    /// A text that says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refused = || {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_PART_BYTES).collect();
            format!(
                "{shown:?} is no model; write owner/name, owner/name:version or the 64 hexadecimal digits of a version"
            )
        };
        if is_hash(text) {
            return Ok(Self { name: None, version: Some(text.to_ascii_lowercase()) });
        }
        let (name, version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let (owner, name) = name.split_once('/').ok_or_else(refused)?;
        if ![Some(owner), Some(name), version].into_iter().flatten().all(is_part) {
            return Err(refused());
        }
        // Names are the same in any case; a breaker and a count are kept for each.
        let name = Some((owner.to_ascii_lowercase(), name.to_ascii_lowercase()));
        Ok(Self { name, version: version.map(str::to_owned) })
    }

    /// The model without its version, `owner/name`; the version where that is all that is known.
    pub fn model(&self) -> String {
        match (&self.name, &self.version) {
            (Some((owner, name)), _) => format!("{owner}/{name}"),
            (None, version) => version.clone().unwrap_or_default(),
        }
    }

    /// Owner and name of a model whose version the server chooses.
    pub(super) fn official(&self) -> Option<(&str, &str)> {
        match (&self.name, &self.version) {
            (Some((owner, name)), None) => Some((owner, name)),
            _ => None,
        }
    }

    /// The version as an order names it. A hash needs no model, and servers of every age take it without.
    pub(super) fn version(&self) -> Option<String> {
        self.version.as_ref().map(|version| if is_hash(version) { version.clone() } else { self.to_string() })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.version) {
            (Some((owner, name)), Some(version)) => write!(f, "{owner}/{name}:{version}"),
            _ => f.write_str(&self.model()),
        }
    }
}

/// How far a prediction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PredictionStatus {
    /// It waits for a machine.
    Starting,
    /// It runs.
    Processing,
    /// It has its output.
    Succeeded,
    /// The model failed.
    Failed,
    /// It was cancelled, or its lifetime ended, before or while it ran.
    Cancelled,
}

impl PredictionStatus {
    /// The status by the server's name.
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "starting" | "queued" => Self::Starting,
            "processing" => Self::Processing,
            "succeeded" | "successful" => Self::Succeeded,
            "failed" => Self::Failed,
            "canceled" | "cancelled" | "aborted" => Self::Cancelled,
            _ => return None,
        })
    }

    /// Whether it stays like this.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A prediction as the server last told of it. Its input and its logs are not kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The server's name for it, with which it can be asked for again.
    pub id: String,
    /// How far it is.
    pub status: PredictionStatus,
    /// The version that runs, where the server says it.
    pub version: Option<String>,
    /// What it put out; null before it has. See [`super::read_outputs`].
    pub output: Value,
    /// Why it failed, as the server wrote it, which may quote its input. [`RemoteError::Failed`] has a clean text.
    pub(super) error: Option<String>,
    /// Whether the server has deleted what it put out, as it does after a while.
    pub data_removed: bool,
    /// Seconds that the model ran, which is what is paid for.
    pub predict_seconds: Option<f64>,
}

/// The fields of a prediction that are read. Its input may be large and is passed over.
#[derive(Deserialize)]
struct Wire<'a> {
    id: String,
    status: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    data_removed: Option<bool>,
    #[serde(default)]
    metrics: Option<Metrics>,
}

#[derive(Deserialize)]
struct Metrics {
    #[serde(default)]
    predict_time: Option<f64>,
}

impl Prediction {
    /// Reads a prediction.
    ///
    /// # Errors
    /// A text that says what cannot be understood.
    pub(super) fn read(body: &[u8]) -> Result<Self, &'static str> {
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|_| "it is no prediction")?;
        if !is_prediction_id(&wire.id) {
            return Err("the prediction's id is none");
        }
        let status = PredictionStatus::parse(&wire.status).ok_or("the prediction's status is none that is known")?;
        let output = match wire.output {
            Some(raw) if values(raw.get()) > MAX_OUTPUT_VALUES => return Err("its output has too many values"),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|_| "its output is no JSON")?,
            None => Value::Null,
        };
        let error = wire.error.map(RawValue::get).map(|raw| {
            let mut text = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
            text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
            text
        });
        Ok(Self {
            id: wire.id,
            status,
            version: wire.version,
            output,
            error,
            data_removed: wire.data_removed.unwrap_or_default(),
            predict_seconds: wire.metrics.and_then(|metrics| metrics.predict_time),
        })
    }
}

/// Not less than the number of values in a JSON text, by what separates them outside of strings.
fn values(json: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// A prediction that is under way, and the model's breaker that waits for its outcome. Dropped before the outcome is
/// known, it says nothing about the model; the prediction itself goes on.
#[derive(Debug)]
pub struct Running {
    pub(super) model: String,
    pub(super) prediction: Prediction,
    pub(super) call: Option<Call>,
}

impl Running {
    /// The prediction's id: keep it where a job that comes again finds it, for [`super::Remote::resume`].
    pub fn id(&self) -> &str {
        &self.prediction.id
    }

    /// The model without its version.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The prediction as the server last told of it.
    pub fn prediction(&self) -> &Prediction {
        &self.prediction
    }

    /// The breaker learns how it went, once.
    pub(super) fn settle(&mut self, outcome: Result<(), &RemoteError>) {
        let Some(call) = self.call.take() else { return };
        settle(call, outcome);
    }
}

/// The breaker learns how a call went. What does not speak of the model leaves it as it was.
pub(super) fn settle(call: Call, outcome: Result<(), &RemoteError>) {
    match outcome {
        Ok(()) => call.succeeded(),
        Err(error) if error.counts_against_model() => call.failed(),
        Err(_) => drop(call),
    }
}

/// Whether a text can be the id of a prediction: letters, digits, `-` and `_`.
pub fn is_prediction_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Letters, digits, `.`, `-` and `_`, and no way up in a path.
fn is_part(text: &str) -> bool {
    (1..=MAX_PART_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && text.bytes().any(|byte| byte != b'.')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa";

    #[test]
    fn a_model_is_named_in_three_ways() {
        let official = ModelRef::parse("Nightmare-AI/real_esrgan.2").unwrap();
        assert_eq!(official.official(), Some(("nightmare-ai", "real_esrgan.2")));
        assert_eq!((official.version(), official.model()), (None, "nightmare-ai/real_esrgan.2".into()));

        let versioned = ModelRef::parse(&format!("owner/name:{HASH}")).unwrap();
        assert_eq!((versioned.official(), versioned.version()), (None, Some(HASH.into())));
        assert_eq!((versioned.model(), versioned.to_string()), ("owner/name".into(), format!("owner/name:{HASH}")));
        assert_eq!(ModelRef::parse("owner/name:v2").unwrap().version(), Some("owner/name:v2".into()));

        let bare = ModelRef::parse(&HASH.to_uppercase()).unwrap();
        assert_eq!((bare.version(), bare.model(), bare.to_string()), (Some(HASH.into()), HASH.into(), HASH.into()));
    }

    #[test]
    fn anything_else_is_no_model_and_cannot_lead_out_of_the_path() {
        let long = format!("owner/{}", "n".repeat(MAX_PART_BYTES + 1));
        for text in [
            "",
            "name",
            "/",
            "owner/",
            "/name",
            "owner/name:",
            "owner/name:a:b",
            "a/b/c",
            "../x",
            "x/..",
            "a b/c",
            "a/b?c",
            "a/b%2f",
            "a/b#c",
            "ö/b",
            "a/b\n",
            &HASH[1..],
            &format!("{HASH}0"),
            &long,
        ] {
            let refused = ModelRef::parse(text).unwrap_err();
            assert!(refused.contains("write owner/name") && refused.len() < 300, "{refused}");
        }
    }

    #[test]
    fn a_prediction_is_read_without_its_input_and_logs() {
        let body = json!({
            "id": "gm3qorzdhgbfurvjtvhg6dckhu", "model": "replicate/hello-world", "version": HASH,
            "input": {"text": "Alice"}, "logs": "much", "output": "hello Alice", "error": null, "status": "succeeded",
            "created_at": "2023-09-08T16:19:34.765994Z", "data_removed": false, "metrics": {"predict_time": 0.25},
            "urls": {"get": "https://elsewhere/", "cancel": "https://elsewhere/"}, "unknown": [1],
        });
        let prediction = Prediction::read(body.to_string().as_bytes()).unwrap();
        let expected = Prediction {
            id: "gm3qorzdhgbfurvjtvhg6dckhu".into(),
            status: PredictionStatus::Succeeded,
            version: Some(HASH.into()),
            output: json!("hello Alice"),
            error: None,
            data_removed: false,
            predict_seconds: Some(0.25),
        };
        assert_eq!(prediction, expected);
        let least = Prediction::read(br#"{"id":"a","status":"starting"}"#).unwrap();
        assert_eq!((least.output, least.error, least.predict_seconds), (Value::Null, None, None));
    }

    #[test]
    fn every_status_is_known_and_three_are_final() {
        for (name, status, is_final) in [
            ("starting", PredictionStatus::Starting, false),
            ("processing", PredictionStatus::Processing, false),
            ("succeeded", PredictionStatus::Succeeded, true),
            ("failed", PredictionStatus::Failed, true),
            ("canceled", PredictionStatus::Cancelled, true),
            ("aborted", PredictionStatus::Cancelled, true),
        ] {
            let body = json!({"id": "a", "status": name, "error": {"why": 1}}).to_string();
            let prediction = Prediction::read(body.as_bytes()).unwrap();
            assert_eq!((prediction.status, prediction.status.is_final()), (status, is_final));
            assert_eq!(prediction.error.as_deref(), Some(r#"{"why":1}"#));
        }
    }

    #[test]
    fn what_is_no_prediction_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"id":"a"}"#,
            r#"{"id":"a","status":"lost"}"#,
            r#"{"id":"a/b","status":"failed"}"#,
            r#"{"id":"","status":"failed"}"#,
            r#"{"id":1,"status":"failed"}"#,
            r#"{"id":"a","status":"failed"} x"#,
        ] {
            assert!(Prediction::read(body.as_bytes()).is_err(), "{body}");
        }
        let numbers = |count: usize| json!({"id": "a", "status": "succeeded", "output": vec![0; count]}).to_string();
        assert!(Prediction::read(numbers(MAX_OUTPUT_VALUES - 1).as_bytes()).is_ok());
        assert!(Prediction::read(numbers(MAX_OUTPUT_VALUES).as_bytes()).is_err());
        // Commas in a text are none between values.
        let text = json!({"id": "a", "status": "succeeded", "output": ",\"[{\\".repeat(MAX_OUTPUT_VALUES)}).to_string();
        assert!(Prediction::read(text.as_bytes()).is_ok());
    }
}
