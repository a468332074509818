//! Push requests: a message in, a status out that acknowledges it or has it delivered again.

use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{Face, reply};
use crate::service::envelope::{self, MAX_BODY_BYTES};
use crate::service::failure::Disposition;

/// `POST /` and `POST /pubsub/push`.
pub async fn push(State(face): State<Face>, headers: HeaderMap, body: Body) -> Response {
    let due = face.worker.due(Instant::now());
    if face.worker.is_draining() {
        return nack(Disposition::Unavailable);
    }
    let length = reply::content_length(&headers).unwrap_or(MAX_BODY_BYTES as u64).min(MAX_BODY_BYTES as u64);
    // Held until the message is done with: a job keeps its message for its record.
    let Some(mut room) = reply::room_for(&face.bodies, length).await else { return nack(Disposition::Busy) };
    let body = match reply::read_body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    reply::shrink(&mut room, body.len() as u64);
    let delivery = envelope::read(&headers, body);
    match face.worker.deliver(delivery, Some(due), Some(room)).await.disposition {
        Disposition::Acknowledge => StatusCode::NO_CONTENT.into_response(),
        other => nack(other),
    }
}

/// Not acknowledged: delivered again.
fn nack(disposition: Disposition) -> Response {
    match disposition {
        Disposition::Busy => reply::error(
            StatusCode::TOO_MANY_REQUESTS,
            "busy",
            "there is no room now; the message will be delivered again",
        ),
        Disposition::Unavailable | Disposition::Acknowledge => reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the message could not be worked on to its end; it will be delivered again",
        ),
    }
}
