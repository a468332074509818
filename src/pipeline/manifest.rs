//! The manifest: what happened, one entry per variation and output, nothing silently missing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The record of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The job's name.
    pub job_id: String,
    /// Whose it is.
    pub user_id: String,
    /// Hash of everything that decides the result.
    pub key: String,
    /// Complete, partial or failed.
    pub state: State,
    /// The source picture.
    pub source: Source,
    /// Version of the recipe; a new one may change pictures.
    pub recipe_version: String,
    /// Milliseconds per stage, summed over threads, and `total` by the wall clock.
    pub timings_ms: BTreeMap<String, f64>,
    /// Highest resident memory of the process so far, bytes.
    pub peak_bytes: u64,
    /// Why nothing could be made; absent when something was.
    pub error: Option<Failure>,
    /// The message as it arrived, in the record of a failure, so that it can be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The object that holds it, `gs://bucket/name`, where it is longer than 64 KiB, no
    /// text, or may hold a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_object: Option<String>,
    /// What became of the background, where the job asked for it to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// What remote models did before recolouring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepEntry>,
    /// What was found in caches instead of being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared: Option<Spared>,
    /// One entry per palette (or effect) and output.
    pub variations: Vec<VariationEntry>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every variation was made.
    Complete,
    /// Some were.
    Partial,
    /// None was.
    Failed,
}

/// The source picture as it was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Where it came from; of a web address, without the query, which may hold a signature.
    pub uri: String,
    /// Storage generation; empty for files.
    pub generation: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
    /// Storage generation of the picture that takes the background's place, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_generation: Option<String>,
    /// Width after orientation and prescale, pixels.
    #[serde(default)]
    pub width: u32,
    /// Height after orientation and prescale, pixels.
    #[serde(default)]
    pub height: u32,
    /// Format found in its bytes.
    #[serde(default)]
    pub format: String,
    /// Distinct colours among its visible pixels.
    #[serde(default)]
    pub unique_colors: u64,
}

impl Source {
    /// The address of a picture as others may see it: query, fragment and credentials of a web address are secrets.
    pub fn shown(source: &str) -> String {
        let Some((scheme @ ("http" | "https"), rest)) = source.split_once("://") else { return source.to_owned() };
        let place = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let host = host.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }
}

/// A failure in words, with a class for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// A short, stable class, such as `bad-picture`.
    pub class: String,
    /// What was wrong and what to do.
    pub message: String,
}

/// What became of the background.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Background {
    /// `alpha` (the picture had its own), `classic`, `model`, or `none` when the picture passed as it was.
    pub method: String,
    /// Whether the subject was cut out.
    pub removed: bool,
    /// How sure that is, 0 to 1. Confidences of different methods do not compare.
    pub confidence: f64,
    /// Somebody should look at it: nothing was sure.
    pub flagged: bool,
    /// Share of the area that is subject, 0 to 1.
    pub subject_share: f64,
    /// The object that holds the matte, white where the subject is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matte: Option<String>,
    /// Of method `classic`: `flat` or `gradient`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<String>,
    /// Of method `model`: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// SHA-256 of its file, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// What it ran on: `tensorrt`, `cuda` or `cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Why it ran there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_reason: Option<String>,
    /// What was tried and why it was not done, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One file of one variation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariationEntry {
    /// The palette's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub palette: Option<String>,
    /// The effect's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// The effect's parameters, as the job gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<serde_json::Map<String, serde_json::Value>>,
    /// The palette's colours, `#RRGGBB`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub colors: Vec<String>,
    /// Name of the file, relative to the manifest.
    pub object: String,
    /// Storage generation; empty for files.
    pub generation: String,
    /// CRC-32C of the file, base64 of its big-endian bytes as Cloud Storage writes it.
    pub crc32c: String,
    /// Size of the file.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `png`, `jpeg` or `webp`.
    pub format: String,
    /// Source colours and what became of them, largest share first.
    pub mapping: Vec<MappingEntry>,
    /// Quality figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// A smaller JPEG of the same picture, where the rule for uploads asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadCopy>,
    /// The variation small, where the job asked for previews; only in the first entry of each variation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewCopy>,
    /// What remote models made of it; only in the first entry of each variation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepEntry>,
    /// Where the file can be fetched, when links were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What was traded or could not be met, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why this variation is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a manifest says of a variation beside its files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Source colours and what became of them.
    pub mapping: Vec<MappingEntry>,
    /// Quality figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// What was traded or left out, in words.
    pub notes: Vec<String>,
}

/// A smaller JPEG beside a large PNG.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UploadCopy {
    /// Name of the file, relative to the manifest.
    pub object: String,
    /// Storage generation; empty for files.
    pub generation: String,
    /// CRC-32C of the file, base64 of its big-endian bytes.
    pub crc32c: String,
    /// Size of the file.
    pub bytes: u64,
    /// `jpeg`.
    pub format: String,
    /// Where the file can be fetched, when links were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Why it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// A variation small, stored before its files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewCopy {
    /// Name of the file, relative to the manifest.
    pub object: String,
    /// Storage generation; empty for files.
    pub generation: String,
    /// CRC-32C of the file, base64 of its big-endian bytes.
    pub crc32c: String,
    /// Size of the file.
    pub bytes: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `webp`.
    pub format: String,
    /// Where the file can be fetched, when links were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Why it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// One step by a remote model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepEntry {
    /// The step's name.
    pub name: String,
    /// The model, without its version.
    pub model: String,
    /// The server's id of the prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// Seconds that the model ran, where the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predict_seconds: Option<f64>,
    /// What it put out.
    #[serde(default)]
    pub outputs: Vec<StepOutput>,
    /// Why it put out nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// One output of a remote model: a file, or a value that stands here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepOutput {
    /// The name that the model gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of the file, relative to the manifest; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// Storage generation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generation: String,
    /// CRC-32C of the file, base64 of its big-endian bytes, where storage tells it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub crc32c: String,
    /// Size of the file.
    #[serde(default)]
    pub bytes: u64,
    /// Its media type, as its first bytes tell it.
    pub content_type: String,
    /// A text or another value, where that is what was put out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Where the file can be fetched, when links were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// What did not have to be done again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spared {
    /// Whether the picture was there, decoded and modelled.
    pub base: bool,
    /// Whether a model's map of the subject was there.
    pub matte: bool,
    /// Files that were there, encoded.
    pub files: u64,
    /// Milliseconds that all of it took when it was made, summed over threads.
    pub saved_ms: f64,
}

/// One cluster's fate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MappingEntry {
    /// Cluster colour in the source, `#RRGGBB`.
    pub from: String,
    /// Colour in the variation, `#RRGGBB`.
    pub to: String,
    /// Share of the visible area, 0 to 1.
    pub share: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_web_address_holds_no_secret() {
        for (source, shown) in [
            ("https://host/a/b.png?X-Goog-Signature=s3cret#x", "https://host/a/b.png"),
            ("https://user:pass@host/a@b.png", "https://host/a@b.png"),
            ("https://host?sig=s3cret", "https://host"),
            ("gs://bucket/what?is#this", "gs://bucket/what?is#this"),
            ("photo.jpg", "photo.jpg"),
        ] {
            assert_eq!(Source::shown(source), shown);
        }
    }
}
