//! Answers: errors in one form, bodies within limits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::json;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::BODY_TIMEOUT;
use crate::service::auth::AuthError;
use crate::service::failure::{Class, Failure};

/// Seconds after which a caller who was told that there is no room may come again.
const RETRY_AFTER: &str = "2";

/// How long a body waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);

/// A failure as an answer.
pub struct Refusal(pub Failure);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.class.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        error(status, self.0.class.name(), &self.0.message)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// An error as an answer: what was wrong and what to do.
pub fn error(status: StatusCode, class: &str, message: &str) -> Response {
    let mut response = (status, axum::Json(json!({"error": {"class": class, "message": message}}))).into_response();
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    response
}

/// A refused token as an answer.
pub fn unauthorized(error_met: &AuthError) -> Response {
    let mut response = error(error_met.status(), "unauthorized", &error_met.to_string());
    if error_met.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// JSON, indented for people.
pub fn pretty(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec_pretty(value) {
        Ok(json) => (status, [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, Class::Internal.name(), &problem.to_string()),
    }
}

/// Milliseconds of stages as a Server-Timing header.
pub fn server_timing<'a>(timings: impl IntoIterator<Item = (&'a String, &'a f64)>) -> Option<HeaderValue> {
    let token = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let stages: Vec<String> = timings.into_iter().map(|(name, ms)| format!("{};dur={ms:.1}", token(name))).collect();
    HeaderValue::from_str(&stages.join(", ")).ok().filter(|_| !stages.is_empty())
}

/// The length that a request announces.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Room for a body of this many bytes among those held at once; none when there is none for too long.
pub async fn room_for(bodies: &Arc<Semaphore>, bytes: u64) -> Option<OwnedSemaphorePermit> {
    timeout(ROOM_PATIENCE, bodies.clone().acquire_many_owned(units(bytes))).await.ok()?.ok()
}

/// Gives back what a body did not need of its room.
pub fn shrink(room: &mut OwnedSemaphorePermit, bytes: u64) {
    let unused = room.num_permits().saturating_sub(units(bytes) as usize);
    drop(room.split(unused));
}

/// Room is counted in KiB.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

/// Reads a body of at most `limit` bytes, within [`BODY_TIMEOUT`].
///
/// # Errors
/// 413, 408 or 400 with a text.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, Response> {
    let too_large = || {
        let message =
            format!("the body has more than {limit} bytes; send a job that names its picture instead of carrying it");
        error(StatusCode::PAYLOAD_TOO_LARGE, Class::TooMuchWork.name(), &message)
    };
    match timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(problem)) if problem.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => {
            Err(error(StatusCode::BAD_REQUEST, Class::BadMessage.name(), "the body broke off; send the request again"))
        }
        Err(_) => Err(error(
            StatusCode::REQUEST_TIMEOUT,
            Class::BadMessage.name(),
            "the body did not arrive in time; send the request again",
        )),
    }
}
