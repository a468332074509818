//! What arrives: push messages, CloudEvents and bucket notifications, brought to one form.
//!
//! Nothing here fails: what cannot be understood is a [`Payload::Unreadable`] that says why, so that it can be recorded.
//! Envelopes are read tolerantly, because others extend them; the job inside stays bytes, for the strict reader of jobs.

mod event;
mod json;
mod notification;
mod push;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use google_cloud_pubsub::model::Message;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use json::{Text, parse};
use notification::Attributes;

/// Most bytes of a request that is read: a message of Pub/Sub's limit of 10 MB in base64, and its envelope.
pub const MAX_BODY_BYTES: usize = 15 << 20;

/// Most bytes of an id, a subscription, a time or an ordering key. Longer ones are no such thing and are left out.
const MAX_TEXT_BYTES: usize = 1024;

/// One message as it arrived, whatever carried it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What it says.
    pub payload: Payload,
    /// The message's id, or that of the event; none for a body without either.
    pub message_id: Option<String>,
    /// The subscription it came through.
    pub subscription: Option<String>,
    /// How often it has been delivered, counted from 1, where the subscription counts.
    pub delivery_attempt: Option<u32>,
    /// When it was published, RFC 3339.
    pub publish_time: Option<String>,
    /// Its ordering key.
    pub ordering_key: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A job, not yet read.
    Job(Bytes),
    /// An object was stored: the default job is to be run on it.
    Object(ObjectEvent),
    /// Nothing to do, and why, such as an object that was deleted.
    Nothing(&'static str),
    /// It cannot be understood; recorded as it is.
    Unreadable {
        /// What was wrong and what to do.
        problem: String,
        /// The body, for the record.
        body: Bytes,
    },
}

/// An object that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEvent {
    /// The bucket.
    pub bucket: String,
    /// The object's name.
    pub name: String,
    /// Its generation.
    pub generation: Option<String>,
    /// The key of the work that stored it, when it was this worker (metadata `concept-key`). None also where the
    /// notification carries no metadata.
    pub work_key: Option<String>,
}

impl ObjectEvent {
    /// The event as the attributes of a bucket's notification, JSON: for the record, and to be published again.
    pub fn to_notification(&self) -> Bytes {
        let notification = serde_json::json!({
            "eventType": "OBJECT_FINALIZE",
            "payloadFormat": "NONE",
            "bucketId": self.bucket,
            "objectId": self.name,
            "objectGeneration": self.generation,
        });
        notification.to_string().into()
    }
}

/// What was read, or what is wrong with it in a sentence for people.
type Reading<T> = Result<T, String>;

/// The top of a JSON body, enough to tell what it is.
#[derive(Debug, serde::Deserialize)]
struct Outline<'a> {
    #[serde(default, borrow)]
    message: Option<&'a RawValue>,
    #[serde(default, borrow)]
    source: Option<&'a RawValue>,
    #[serde(default, borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(default)]
    kind: Text,
}

/// Reads the body of `POST /` or `POST /pubsub/push`, in every form that Pub/Sub and Eventarc send, and a bare job.
pub fn read(headers: &HeaderMap, body: Bytes) -> Delivery {
    understand(headers, &body).unwrap_or_else(|problem| {
        let delivery = from_metadata(headers, Payload::Unreadable { problem, body });
        // The event's id still names the record.
        Delivery { message_id: delivery.message_id.or_else(|| event::id(headers)), ..delivery }
    })
}

/// The same for a message that was pulled from `subscription`. The attempt is that of the message's handler.
pub fn from_pulled(message: Message, subscription: &str, delivery_attempt: Option<i32>) -> Delivery {
    let attributes = Attributes::find(|name| message.attributes.get(name).cloned());
    let payload = payload(&attributes, message.data.clone())
        .unwrap_or_else(|problem| Payload::Unreadable { problem, body: message.data });
    Delivery {
        payload,
        message_id: bounded(message.message_id),
        subscription: bounded(subscription.to_owned()),
        delivery_attempt: delivery_attempt
            .and_then(|attempt| u32::try_from(attempt).ok())
            .filter(|&attempt| attempt > 0),
        publish_time: message.publish_time.map(String::from),
        ordering_key: bounded(message.ordering_key),
    }
}

impl Delivery {
    /// A name for the record of this delivery, the same for every delivery of the message: its id, made safe as a part
    /// of an object's name, or `body-` and 32 hex digits of what it says.
    pub fn record_id(&self) -> String {
        const LONGEST: usize = 100;
        let Some(id) = &self.message_id else { return format!("body-{}", self.payload.digest()) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let safe: String = id.chars().map(|c| if plain(c) { c } else { '_' }).take(LONGEST).collect();
        // Two ids must not meet in one record because they differ only in what was replaced or cut off.
        if safe == *id { safe } else { format!("{safe}-{}", hex(&Sha256::digest(id), 8)) }
    }
}

impl Payload {
    /// 32 hex digits that tell this content from others.
    fn digest(&self) -> String {
        let digest = match self {
            Self::Job(bytes) | Self::Unreadable { body: bytes, .. } => Sha256::digest(bytes),
            Self::Object(event) => Sha256::digest(format!(
                "gs://{}/{}#{}",
                event.bucket,
                event.name,
                event.generation.as_deref().unwrap_or_default()
            )),
            Self::Nothing(reason) => Sha256::digest(reason),
        };
        hex(&digest, 32)
    }
}

fn understand(headers: &HeaderMap, body: &Bytes) -> Reading<Delivery> {
    if body.len() > MAX_BODY_BYTES {
        let bytes = body.len();
        return Err(format!("the body has {bytes} bytes; the limit is {MAX_BODY_BYTES}; send a smaller job"));
    }
    match media_type(headers).as_deref() {
        Some("application/cloudevents+json") => return event::structured(body),
        Some("application/cloudevents-batch+json") => {
            return Err("the body is a batch of CloudEvents; deliver every event by itself".into());
        }
        Some(other) if other.starts_with("application/cloudevents") => {
            return Err(
                "the body is a CloudEvent in a format other than JSON; send application/cloudevents+json".into()
            );
        }
        _ => {}
    }
    if event::is_binary(headers) {
        return event::binary(headers, body);
    }
    if is_unwrapped(headers) {
        // Pub/Sub writes a message's attributes as headers of their own names.
        let attributes = Attributes::find(|name| header(headers, name));
        return Ok(from_metadata(headers, payload(&attributes, body.clone())?));
    }
    from_json(body)
}

/// A body that nothing in the headers explains.
fn from_json(body: &Bytes) -> Reading<Delivery> {
    if body.is_empty() {
        return Err("the body is empty; send a push message, a CloudEvent or a job as JSON".into());
    }
    let outline: Outline<'_> = parse("the body", body)?;
    // A CloudEvent has a `source` too, so it goes first.
    if outline.specversion.is_some() {
        return event::structured(body);
    }
    if outline.message.is_some() {
        return push::read(body);
    }
    if outline.source.is_some() {
        return Ok(Delivery::of(Payload::Job(body.clone())));
    }
    if outline.kind.as_deref() == Some("storage#object") {
        return Err(
            "the body is a bucket notification without its attributes, so it does not say what happened to the \
                    object; turn on the subscription's option to write metadata, or its wrapper"
                .into(),
        );
    }
    Err("the body is neither a push message (it has no `message`), nor a CloudEvent (no `specversion`), nor a job (no \
         `source`); send one of them"
        .into())
}

/// Whether Pub/Sub delivered the message without its wrapper and told of it in headers.
fn is_unwrapped(headers: &HeaderMap) -> bool {
    ["x-goog-pubsub-message-id", "x-goog-pubsub-subscription-name"].iter().any(|name| headers.contains_key(*name))
}

/// What those headers say.
fn from_metadata(headers: &HeaderMap, payload: Payload) -> Delivery {
    let own = |name: &str| header(headers, &format!("x-goog-pubsub-{name}"));
    Delivery {
        payload,
        message_id: own("message-id"),
        subscription: own("subscription-name"),
        delivery_attempt: own("delivery-attempt").and_then(|text| attempt(&text)),
        publish_time: own("publish-time"),
        // The emulator leaves out the middle of the name.
        ordering_key: own("ordering-key").or_else(|| header(headers, "x-goog-ordering-key")),
    }
}

/// What a Pub/Sub message says by its attributes and its data.
fn payload(attributes: &Attributes, data: Bytes) -> Reading<Payload> {
    if let Some(payload) = attributes.notification(&data)? {
        return Ok(payload);
    }
    if data.is_empty() {
        return Err("the message has no data; publish the job as its data, as JSON".into());
    }
    Ok(Payload::Job(data))
}

impl Delivery {
    /// One of which nothing but the payload is known.
    fn of(payload: Payload) -> Self {
        Self {
            payload,
            message_id: None,
            subscription: None,
            delivery_attempt: None,
            publish_time: None,
            ordering_key: None,
        }
    }
}

/// Standard or url-safe, padded or not.
fn base64(what: &str, text: &str) -> Reading<Bytes> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    let engine = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    let decoded = engine.decode(text).map_err(|error| format!("{what} is no base64: {error}; encode it again"))?;
    Ok(decoded.into())
}

/// The content type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A header's text; none when it is absent, empty, too long or no text.
fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.as_bytes();
    // Attributes may be any text, and arrive as UTF-8.
    bounded(std::str::from_utf8(value).ok()?.to_owned())
}

fn bounded(text: String) -> Option<String> {
    (!text.is_empty() && text.len() <= MAX_TEXT_BYTES).then_some(text)
}

fn attempt(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&attempt| attempt > 0)
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::job::Job;

    const PUSH: &str = include_str!("../../fixtures/messages/push.json");
    const PUSH_SNAKE_CASE: &str = include_str!("../../fixtures/messages/push_snake_case.json");
    const PUSH_FROM_EMULATOR: &str = include_str!("../../fixtures/messages/push_from_emulator.json");
    const PUSH_WITHOUT_DATA: &str = include_str!("../../fixtures/messages/push_without_data.json");
    const NOTIFICATION: &str = include_str!("../../fixtures/messages/notification.json");
    const NOTIFICATION_OF_OUR_OWN: &str = include_str!("../../fixtures/messages/notification_of_our_own.json");
    const NOTIFICATION_WITHOUT_PAYLOAD: &str =
        include_str!("../../fixtures/messages/notification_without_payload.json");
    const NOTIFICATION_OF_DELETION: &str = include_str!("../../fixtures/messages/notification_of_deletion.json");
    const EVENT_PUBSUB: &str = include_str!("../../fixtures/messages/event_pubsub.json");
    const EVENT_STORAGE: &str = include_str!("../../fixtures/messages/event_storage.json");
    const STORAGE_OBJECT: &str = include_str!("../../fixtures/messages/storage_object.json");
    const JOB: &str = include_str!("../../fixtures/messages/job.json");

    const FINALIZED: &str = "google.cloud.storage.object.v1.finalized";
    const PUBLISHED: &str = "google.cloud.pubsub.topic.v1.messagePublished";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn received(pairs: &[(&str, &str)], body: impl AsRef<[u8]>) -> Delivery {
        read(&headers(pairs), Bytes::copy_from_slice(body.as_ref()))
    }

    fn job_id(delivery: &Delivery) -> Option<String> {
        match &delivery.payload {
            Payload::Job(bytes) => Job::from_json(bytes).unwrap().job_id,
            other => panic!("no job: {other:?}"),
        }
    }

    fn problem(delivery: &Delivery) -> &str {
        match &delivery.payload {
            Payload::Unreadable { problem, .. } => problem,
            other => panic!("it was understood: {other:?}"),
        }
    }

    /// The headers, the body, and what is expected of them.
    type Row<'a, T> = (&'a [(&'a str, &'a str)], String, T);

    #[test]
    fn a_job_is_found_in_every_form_it_arrives_in() {
        let unwrapped = [
            ("content-type", "application/json"),
            ("x-goog-pubsub-subscription-name", "projects/demo/subscriptions/jobs-push"),
            ("x-goog-pubsub-message-id", "17"),
            ("x-goog-pubsub-publish-time", "2026-02-26T19:13:55Z"),
        ];
        let binary = [("ce-specversion", "1.0"), ("ce-type", PUBLISHED), ("ce-id", "99"), ("ce-source", "//pubsub")];
        let structured = [("Content-Type", "Application/CloudEvents+JSON; charset=utf-8")];
        let table: [Row<'_, Option<&str>>; 12] = [
            (&[], PUSH.into(), Some("2070443601311540")),
            (&[("content-type", "text/plain")], PUSH.into(), Some("2070443601311540")),
            (&[], PUSH_SNAKE_CASE.into(), Some("17")),
            (&[], PUSH_FROM_EMULATOR.into(), Some("1")),
            (&[], format!("\u{feff} {PUSH_FROM_EMULATOR}"), Some("1")),
            (&unwrapped, JOB.into(), Some("17")),
            (&binary, PUSH.into(), Some("2070443601311540")),
            // The event's id stands in for the message's.
            (&binary, PUSH.replace("2070443601311540", ""), Some("99")),
            (&structured, EVENT_PUBSUB.into(), Some("2070443601311540")),
            (&[("content-type", "application/json")], EVENT_PUBSUB.into(), Some("2070443601311540")),
            (&[], JOB.into(), None),
            (&[("content-type", "application/json")], format!("\u{feff}{JOB}"), None),
        ];
        for (headers, body, id) in table {
            let delivery = received(headers, &body);
            assert_eq!(job_id(&delivery).as_deref(), Some("spring-1"), "{headers:?} {body}");
            assert_eq!(delivery.message_id.as_deref(), id, "{headers:?} {body}");
        }
    }

    #[test]
    fn what_surrounds_a_message_is_read_from_the_wrapper_in_both_spellings_and_from_headers() {
        let told = |delivery: &Delivery| {
            let Delivery { subscription, delivery_attempt, ordering_key, .. } = delivery.clone();
            (subscription, delivery_attempt, ordering_key)
        };
        let expected = (Some("projects/demo/subscriptions/jobs-push".to_owned()), Some(3), Some("u_123".to_owned()));
        assert_eq!(told(&received(&[], PUSH)), expected);
        assert_eq!(told(&received(&[], PUSH_SNAKE_CASE)), expected);
        assert_eq!(told(&received(&[], EVENT_PUBSUB)), expected);
        for key in ["x-goog-pubsub-ordering-key", "x-goog-ordering-key"] {
            let headers = [
                ("x-goog-pubsub-subscription-name", "projects/demo/subscriptions/jobs-push"),
                ("x-goog-pubsub-delivery-attempt", "3"),
                ("X-Goog-Pubsub-Message-Id", "17"),
                (key, "u_123"),
            ];
            assert_eq!(told(&received(&headers, JOB)), expected);
        }
        assert_eq!(received(&[], PUSH).publish_time.as_deref(), Some("2026-02-26T19:13:55.749Z"));
        assert_eq!(told(&received(&[], PUSH_FROM_EMULATOR)), (expected.0, None, None));
    }

    #[test]
    fn data_is_decoded_in_either_alphabet_with_and_without_padding() {
        // Bytes whose base64 has both characters that the alphabets differ in.
        let said = b"\xfb\xff\xfe?>";
        for text in ["+//+Pz4=", "+//+Pz4", "-__-Pz4=", "-__-Pz4"] {
            let delivery = received(&[], format!(r#"{{"message":{{"data":"{text}"}}}}"#));
            assert_eq!(delivery.payload, Payload::Job(Bytes::from_static(said)), "{text}");
        }
        let mixed = received(&[], r#"{"message":{"data":"+_-/","messageId":"5"}}"#);
        assert!(problem(&mixed).contains("no base64"), "{mixed:?}");
        assert_eq!(mixed.message_id.as_deref(), Some("5"), "a message that cannot be read is still known by its id");
    }

    #[test]
    fn a_stored_object_is_told_by_notifications_and_events_alike() {
        let told = |headers: &[(&str, &str)], body: &str, work_key: Option<&str>| {
            let expected = ObjectEvent {
                bucket: "bases".into(),
                name: "shop/mug ä.png".into(),
                generation: Some("1587627537231057".into()),
                work_key: work_key.map(str::to_owned),
            };
            let delivery = received(headers, body);
            assert_eq!(delivery.payload, Payload::Object(expected), "{headers:?} {body}");
            delivery.message_id
        };
        assert_eq!(told(&[], NOTIFICATION, None).as_deref(), Some("19"));
        told(&[], NOTIFICATION_OF_OUR_OWN, Some("4f1d"));
        told(&[], NOTIFICATION_WITHOUT_PAYLOAD, None);
        assert_eq!(told(&[], EVENT_STORAGE, None).as_deref(), Some("1234567890"));
        told(&[("content-type", "application/cloudevents+json")], EVENT_STORAGE, None);
        let binary = [("ce-specversion", "1.0"), ("ce-type", FINALIZED), ("ce-id", "7")];
        assert_eq!(told(&binary, STORAGE_OBJECT, None).as_deref(), Some("7"));
        told(&binary, &STORAGE_OBJECT.replace("\"owner\"", "\"concept-key\""), Some("shop"));
        let unwrapped = [
            ("x-goog-pubsub-message-id", "23"),
            ("eventtype", "OBJECT_FINALIZE"),
            ("bucketid", "bases"),
            ("objectid", "shop/mug ä.png"),
            ("objectgeneration", "1587627537231057"),
            ("payloadformat", "JSON_API_V1"),
        ];
        assert_eq!(told(&unwrapped, STORAGE_OBJECT, None).as_deref(), Some("23"));
        let data = base64::engine::general_purpose::STANDARD.encode(STORAGE_OBJECT);
        let event = format!(r#"{{"specversion":"1.0","type":"{FINALIZED}","id":"8","data_base64":"{data}"}}"#);
        assert_eq!(told(&[], &event, None).as_deref(), Some("8"));
        let text = serde_json::to_string(STORAGE_OBJECT).unwrap();
        told(&[], &format!(r#"{{"specversion":"1.0","type":"{FINALIZED}","data":{text}}}"#), None);
    }

    #[test]
    fn other_things_that_happen_to_an_object_start_nothing() {
        assert_eq!(received(&[], NOTIFICATION_OF_DELETION).payload, Payload::Nothing("the object was deleted"));
        for kind in ["OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE", "OBJECT_SOMETHING_NEW"] {
            let delivery = received(&[], NOTIFICATION.replace("OBJECT_FINALIZE", kind));
            assert!(matches!(delivery.payload, Payload::Nothing(_)), "{kind}: {delivery:?}");
        }
        for kind in ["deleted", "archived", "metadataUpdated"] {
            let kind = FINALIZED.replace("finalized", kind);
            let delivery = received(&[("ce-specversion", "1.0"), ("ce-type", &kind)], STORAGE_OBJECT);
            assert!(matches!(delivery.payload, Payload::Nothing(_)), "{kind}: {delivery:?}");
        }
        let folder = received(&[], NOTIFICATION.replace("shop/mug ä.png", "shop/"));
        assert_eq!(folder.payload, Payload::Nothing("the object stands for a folder"));
    }

    #[test]
    fn an_attribute_of_the_publishers_own_does_not_make_a_job_a_notification() {
        let delivery = received(&[], PUSH.replace("\"origin\"", "\"eventType\""));
        assert_eq!(job_id(&delivery).as_deref(), Some("spring-1"));
    }

    #[test]
    fn what_cannot_be_understood_says_why_and_keeps_the_body() {
        let event = |fields: &str| format!(r#"{{"specversion":"1.0","id":"9",{fields}}}"#);
        let notification = |from: &str, to: &str| NOTIFICATION.replace(from, to);
        let cloud_event = [("content-type", "application/cloudevents+json")];
        let table: Vec<Row<'_, &str>> = vec![
            (&[], String::new(), "the body is empty"),
            (&[], "hello".into(), "no JSON object"),
            (&[], "[]".into(), "no JSON object"),
            (&[], r#"[{"source":"gs://b/n"}]"#.into(), "no JSON object"),
            (&[], "null".into(), "no JSON object"),
            (&[], "{".into(), "cannot be read as JSON"),
            (&[], "{}".into(), "neither a push message"),
            (&[], r#"{"palettes":[]}"#.into(), "neither a push message"),
            (&[], r#"{"message":null}"#.into(), "neither a push message"),
            (&[], r#"{"message":"hi"}"#.into(), "the push message cannot be read"),
            (&[], r#"{"message":{"data":5}}"#.into(), "the push message cannot be read"),
            (&[], r#"{"message":{"attributes":"x","data":"e30="}}"#.into(), "the push message cannot be read"),
            (&[], r#"{"message":{"data":"e30="},"message":{"data":"e30="}}"#.into(), "duplicate field"),
            (&[], r#"{"message":{}}"#.into(), "the message has no data"),
            (&[], PUSH_WITHOUT_DATA.into(), "the message has no data"),
            (&[], r#"{"message":{"data":"!!"}}"#.into(), "no base64"),
            (&[], PUSH[..PUSH.len() / 2].into(), "cannot be read as JSON"),
            (&[], STORAGE_OBJECT.into(), "without its attributes"),
            (&[("x-goog-pubsub-message-id", "1")], String::new(), "the message has no data"),
            (&[], notification("\"bucketId\": \"bases\"", "\"bucketId\": \"..\""), "no valid bucket"),
            (&[], notification("\"objectId\"", "\"other\""), "names no object"),
            (&[], notification("\"1587627537231057\"", "\"-1\""), "generation that is no number"),
            (&[("content-type", "application/cloudevents-batch+json")], format!("[{EVENT_PUBSUB}]"), "a batch"),
            (&[("content-type", "application/cloudevents+avro")], "Obj".into(), "other than JSON"),
            (&cloud_event, "[]".into(), "no JSON object"),
            (&cloud_event, "{}".into(), "version 1.0"),
            (&cloud_event, EVENT_PUBSUB.replace("\"1.0\"", "\"0.3\""), "version 1.0"),
            (&cloud_event, event(r#""x":1"#), "has no type"),
            (&cloud_event, event(r#""type":"com.example.made""#), "the type \"com.example.made\""),
            (&cloud_event, event(&format!(r#""type":"{FINALIZED}""#)), "no JSON object"),
            (&cloud_event, event(&format!(r#""type":"{FINALIZED}","data":{{}}"#)), "no valid bucket"),
            (&cloud_event, event(&format!(r#""type":"{FINALIZED}","data":{{}},"data_base64":"e30="}}"#)), "cannot"),
            (&cloud_event, event(&format!(r#""type":"{FINALIZED}","data":{{}},"data_base64":"e30=""#)), "both"),
            (&cloud_event, event(&format!(r#""type":"{FINALIZED}","data_base64":"*""#)), "no base64"),
            (&cloud_event, event(&format!(r#""type":"{PUBLISHED}","data":[1]"#)), "no JSON object"),
            (&[("ce-type", PUBLISHED)], PUSH.into(), "version 1.0"),
            (&[("ce-specversion", "1.0")], PUSH.into(), "has no type"),
            (&[("ce-specversion", "1.0"), ("ce-type", PUBLISHED)], JOB.into(), "missing field `message`"),
            (&[("ce-specversion", "1.0"), ("ce-type", FINALIZED)], "hello".into(), "no JSON object"),
        ];
        for (headers, body, expected) in table {
            let delivery = received(headers, &body);
            let said = problem(&delivery);
            assert!(said.contains(expected), "{headers:?} {body}: {said}");
            assert!(said.contains("; ") && said.len() < 500, "it does not say what to do: {said}");
            let Payload::Unreadable { body: kept, .. } = &delivery.payload else { unreachable!() };
            assert_eq!(*kept, body.as_bytes(), "{headers:?}");
        }
    }

    #[test]
    fn strange_metadata_costs_nothing_but_itself() {
        for strange in ["[1,[2]]", r#"{"a":{}}"#, "true", "null", "-1", "1.5", "\"\"", "0"] {
            let body = format!(
                r#"{{"message":{{"data":"e30=","messageId":{strange},"publishTime":{strange},"attributes":
                {{"eventType":{strange}}},"unknown":{strange}}},"subscription":{strange},"deliveryAttempt":{strange}}}"#
            );
            let delivery = received(&[], &body);
            assert_eq!(delivery.payload, Payload::Job(Bytes::from_static(b"{}")), "{strange}");
            assert_eq!(delivery.delivery_attempt, None, "{strange}");
        }
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let delivery =
            received(&[], format!(r#"{{"message":{{"data":"e30=","messageId":"{long}","message_id":"6"}}}}"#));
        assert_eq!(delivery.message_id.as_deref(), Some("6"), "an id of no reasonable length is none");
    }

    #[test]
    fn hostile_bodies_end_in_short_answers() {
        let deep = 200_000;
        let nested = format!(r#"{{"message":{}{}}}"#, "[".repeat(deep), "]".repeat(deep));
        let buried = format!(r#"{{"x":{}{},"source":"gs://b/n"}}"#, "[".repeat(deep), "]".repeat(deep));
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(1 << 20));
        for body in [nested, long] {
            assert!(problem(&received(&[], body)).len() < 400);
        }
        // The strict reader of jobs has the last word.
        let Payload::Job(job) = received(&[], buried).payload else { panic!("no job") };
        assert!(Job::from_json(&job).is_err());
        let large = received(&[], vec![b' '; MAX_BODY_BYTES + 1]);
        assert!(problem(&large).contains("the limit is"));
    }

    #[test]
    fn a_pulled_message_reads_like_a_pushed_one() {
        let mut message = Message::new()
            .set_data(JOB)
            .set_attributes([("origin", "shop")])
            .set_message_id("17")
            .set_ordering_key("u_123");
        message.publish_time = Some("2026-02-26T19:13:55Z".try_into().unwrap());
        let pulled = from_pulled(message, "projects/demo/subscriptions/jobs-push", Some(3));
        assert_eq!(job_id(&pulled).as_deref(), Some("spring-1"));
        let pushed = received(&[], PUSH_SNAKE_CASE);
        assert_eq!(Delivery { payload: pushed.payload.clone(), ..pulled }, pushed);

        let notification = Message::new().set_data(STORAGE_OBJECT).set_attributes([
            ("eventType", "OBJECT_FINALIZE"),
            ("bucketId", "bases"),
            ("objectId", "mug.png"),
        ]);
        let delivery = from_pulled(notification, "", None);
        assert!(matches!(&delivery.payload, Payload::Object(event) if event.name == "mug.png"), "{delivery:?}");
        assert_eq!((delivery.message_id, delivery.subscription, delivery.publish_time), (None, None, None));

        let empty = from_pulled(Message::new().set_message_id("1"), "s", Some(-1));
        assert!(problem(&empty).contains("no data"));
        assert_eq!(empty.delivery_attempt, None);
    }

    #[test]
    fn records_are_named_by_the_message_or_by_what_it_says() {
        let named =
            |id: &str| Delivery { message_id: Some(id.into()), ..Delivery::of(Payload::Nothing("")) }.record_id();
        assert_eq!(named("2070443601311540"), "2070443601311540");
        assert_eq!(named("a-b_C"), "a-b_C");
        for strange in ["../x", "a/b", ".", "..", "a\0b", "ä", &"x".repeat(1000)] {
            let name = named(strange);
            assert!(name.len() <= 120 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "{name}");
        }
        assert_ne!(named("a/b"), named("a.b"));
        assert_ne!(named(&"x".repeat(200)), named(&"x".repeat(201)));

        let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let job = Delivery::of(Payload::Job(Bytes::from_static(b"{}")));
        assert_eq!(job.record_id(), format!("body-{}", &digest[..32]));
        assert_eq!(received(&[], "{}").record_id(), job.record_id());
        assert_ne!(received(&[], "[]").record_id(), job.record_id());
    }
}
