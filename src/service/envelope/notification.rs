//! Bucket notifications: what Cloud Storage publishes to Pub/Sub about an object, and the object itself in JSON.

use serde::Deserialize;

use super::json::{Text, parse};
use super::{ObjectEvent, Payload, Reading};
use crate::config::Bucket;

/// Longest name of an object in Cloud Storage, bytes.
const LONGEST_NAME: usize = 1024;

/// The attributes of a message that mean something here; others are the publisher's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attributes {
    #[serde(default)]
    event_type: Text,
    #[serde(default)]
    bucket_id: Text,
    #[serde(default)]
    object_id: Text,
    #[serde(default)]
    object_generation: Text,
    #[serde(default)]
    payload_format: Text,
}

/// An object as the JSON API describes it.
#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(default)]
    bucket: Text,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    generation: Text,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default, rename = "concept-key")]
    concept_key: Text,
}

impl Attributes {
    /// Asks for every attribute by its name.
    pub(super) fn find(of: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name| Text::of(of(name));
        Self {
            event_type: text("eventType"),
            bucket_id: text("bucketId"),
            object_id: text("objectId"),
            object_generation: text("objectGeneration"),
            payload_format: text("payloadFormat"),
        }
    }

    /// What a bucket says with this message; none when it is no bucket's. One attribute alone may be the publisher's own.
    pub(super) fn notification(&self, data: &[u8]) -> Reading<Option<Payload>> {
        let (Some(kind), Some(bucket)) = (self.event_type.as_deref(), self.bucket_id.as_deref()) else {
            return Ok(None);
        };
        if let Some(reason) = idle(kind) {
            return Ok(Some(Payload::Nothing(reason)));
        }
        // The attributes say everything but who stored the object; a resource that cannot be read is not needed.
        let resource: Option<Resource> = (self.payload_format.as_deref() == Some("JSON_API_V1"))
            .then(|| parse("the object's description", data).ok())
            .flatten();
        let work_key = resource.and_then(Resource::work_key);
        stored(
            "the bucket notification",
            Some(bucket),
            self.object_id.as_deref(),
            self.object_generation.as_deref(),
            work_key,
        )
        .map(Some)
    }
}

impl Resource {
    fn work_key(self) -> Option<String> {
        self.metadata?.concept_key.take()
    }
}

/// Why an event of a bucket starts nothing; none for the one that does.
fn idle(kind: &str) -> Option<&'static str> {
    match kind {
        "OBJECT_FINALIZE" => None,
        "OBJECT_DELETE" => Some("the object was deleted"),
        "OBJECT_ARCHIVE" => Some("the object was archived"),
        "OBJECT_METADATA_UPDATE" => Some("only the object's metadata changed"),
        _ => Some("the bucket reports something other than a new object"),
    }
}

/// An object as a CloudEvent of Cloud Storage describes it.
pub(super) fn finalized(data: &[u8]) -> Reading<Payload> {
    let resource: Resource = parse("the event's object", data)?;
    let (bucket, name, generation) =
        (resource.bucket.as_deref(), resource.name.as_deref(), resource.generation.as_deref());
    let work_key = resource.metadata.as_ref().and_then(|metadata| metadata.concept_key.as_deref()).map(str::to_owned);
    stored("the event", bucket, name, generation, work_key)
}

fn stored(
    what: &str,
    bucket: Option<&str>,
    name: Option<&str>,
    generation: Option<&str>,
    work_key: Option<String>,
) -> Reading<Payload> {
    let Some(bucket) = bucket.filter(|bucket| Bucket::is_valid_name(bucket)) else {
        return Err(format!("{what} names no valid bucket; let Cloud Storage send it"));
    };
    let Some(name) = name.filter(|name| name.len() <= LONGEST_NAME) else {
        return Err(format!("{what} names no object; let Cloud Storage send it"));
    };
    // Consoles show a folder by an empty object of that name.
    if name.ends_with('/') {
        return Ok(Payload::Nothing("the object stands for a folder"));
    }
    if generation.is_some_and(|generation| generation.parse::<u64>().is_err()) {
        return Err(format!("{what} has a generation that is no number; let Cloud Storage send it"));
    }
    Ok(Payload::Object(ObjectEvent {
        bucket: bucket.to_owned(),
        name: name.to_owned(),
        generation: generation.map(str::to_owned),
        work_key,
    }))
}
