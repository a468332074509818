//! CloudEvents 1.0 over HTTP, binary and structured, as Eventarc sends them.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Text, parse};
use super::{Delivery, Payload, Reading, base64, header, notification, push};

/// An event in structured mode. What is not read here is left out.
#[derive(Debug, Deserialize)]
struct Structured<'a> {
    #[serde(default)]
    specversion: Text,
    #[serde(default, rename = "type")]
    kind: Text,
    #[serde(default)]
    id: Text,
    #[serde(default)]
    time: Text,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<String>,
}

/// What an event says about itself.
struct Head {
    specversion: Option<String>,
    kind: Option<String>,
    id: Option<String>,
    time: Option<String>,
}

/// Whether the headers hold an event's attributes.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    ["ce-type", "ce-specversion", "ce-id"].iter().any(|name| headers.contains_key(*name))
}

/// The event's id in binary mode.
pub(super) fn id(headers: &HeaderMap) -> Option<String> {
    header(headers, "ce-id")
}

/// An event whose attributes are headers and whose data is the body.
pub(super) fn binary(headers: &HeaderMap, body: &Bytes) -> Reading<Delivery> {
    let head = Head {
        specversion: header(headers, "ce-specversion"),
        kind: header(headers, "ce-type"),
        id: id(headers),
        time: header(headers, "ce-time"),
    };
    Ok(judge(head, Ok(body.clone()), body))
}

/// An event that is the whole body.
pub(super) fn structured(body: &Bytes) -> Reading<Delivery> {
    let event: Structured<'_> = parse("the CloudEvent", body)?;
    let head = Head {
        specversion: event.specversion.take(),
        kind: event.kind.take(),
        id: event.id.take(),
        time: event.time.take(),
    };
    let data = match (event.data.map(RawValue::get), event.data_base64) {
        (Some(_), Some(_)) => Err("the CloudEvent has both `data` and `data_base64`; send one of them".into()),
        (None, Some(text)) => base64("the CloudEvent's data_base64", &text),
        // JSON in a text, from senders that do not say that their data is JSON.
        (Some(json), None) if json.starts_with('"') => serde_json::from_str::<String>(json)
            .map(Bytes::from)
            .map_err(|_| "the CloudEvent's data is no valid text; send JSON".to_owned()),
        (Some(json), None) => Ok(Bytes::copy_from_slice(json.as_bytes())),
        (None, None) => Ok(Bytes::new()),
    };
    Ok(judge(head, data, body))
}

/// An event is known by its id even when what it says is not understood.
fn judge(head: Head, data: Reading<Bytes>, body: &Bytes) -> Delivery {
    let mut delivery = match understand(&head, data) {
        Ok(delivery) => delivery,
        Err(problem) => Delivery::of(Payload::Unreadable { problem, body: Bytes::new() }),
    };
    if let Payload::Unreadable { body: recorded, .. } = &mut delivery.payload {
        // The record shows the event as it arrived, not only its data.
        *recorded = body.clone();
    }
    delivery.message_id = delivery.message_id.or(head.id);
    delivery.publish_time = delivery.publish_time.or(head.time);
    delivery
}

fn understand(head: &Head, data: Reading<Bytes>) -> Reading<Delivery> {
    const STORAGE: &str = "google.cloud.storage.object.v1.";
    if head.specversion.as_deref() != Some("1.0") {
        return Err("the CloudEvent is not of version 1.0 (specversion); send one that is".into());
    }
    let kind = head.kind.as_deref().ok_or("the CloudEvent has no type; send one of Pub/Sub or Cloud Storage")?;
    let happened = match kind {
        "google.cloud.pubsub.topic.v1.messagePublished" => return push::read(&data?),
        _ => kind.strip_prefix(STORAGE),
    };
    match happened {
        Some("finalized") => Ok(Delivery::of(notification::finalized(&data?)?)),
        Some("deleted") => Ok(Delivery::of(Payload::Nothing("the object was deleted"))),
        Some("archived") => Ok(Delivery::of(Payload::Nothing("the object was archived"))),
        Some("metadataUpdated") => Ok(Delivery::of(Payload::Nothing("only the object's metadata changed"))),
        _ => {
            let kind: String = kind.chars().take(100).collect();
            Err(format!(
                "the CloudEvent has the type {kind:?}; send google.cloud.pubsub.topic.v1.messagePublished or {STORAGE}finalized"
            ))
        }
    }
}
