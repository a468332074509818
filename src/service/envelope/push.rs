//! The wrapped push message: JSON with the message's data in base64.

use bytes::Bytes;
use serde::Deserialize;

use super::json::{Text, parse};
use super::notification::Attributes;
use super::{Delivery, Payload, Reading, attempt, base64, payload};

/// The body of a push request. Fields come in lower camel case, in snake case or, from Pub/Sub itself, in both.
#[derive(Debug, Deserialize)]
struct Push {
    message: Message,
    #[serde(default)]
    subscription: Text,
    #[serde(default, rename = "deliveryAttempt")]
    delivery_attempt: Text,
    #[serde(default, rename = "delivery_attempt")]
    delivery_attempt_snake: Text,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    attributes: Option<Attributes>,
    #[serde(default, rename = "messageId")]
    message_id: Text,
    #[serde(default, rename = "message_id")]
    message_id_snake: Text,
    #[serde(default, rename = "publishTime")]
    publish_time: Text,
    #[serde(default, rename = "publish_time")]
    publish_time_snake: Text,
    #[serde(default, rename = "orderingKey")]
    ordering_key: Text,
    #[serde(default, rename = "ordering_key")]
    ordering_key_snake: Text,
}

/// Reads the body of a push request.
pub(super) fn read(body: &Bytes) -> Reading<Delivery> {
    let Push { message, subscription, delivery_attempt, delivery_attempt_snake } = parse("the push message", body)?;
    let said = message
        .data
        .map_or_else(|| Ok(Bytes::new()), |data| base64("the message's data", &data))
        .and_then(|data| payload(&message.attributes.unwrap_or_default(), data));
    Ok(Delivery {
        // The message is known by its id even when what it says is not understood.
        payload: said.unwrap_or_else(|problem| Payload::Unreadable { problem, body: body.clone() }),
        message_id: message.message_id.or(message.message_id_snake),
        subscription: subscription.take(),
        delivery_attempt: delivery_attempt.or(delivery_attempt_snake).and_then(|text| attempt(&text)),
        publish_time: message.publish_time.or(message.publish_time_snake),
        ordering_key: message.ordering_key.or(message.ordering_key_snake),
    })
}
