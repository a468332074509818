//! Webhooks: what a server says when a prediction ends, believed only with a signature, and the room where those wait
//! whom it concerns.
//!
//! A webhook is a hint and no more: it ends a pause between two polls. What became of the prediction is asked of the
//! server itself. (The scheme of the signatures is that of Standard Webhooks.)

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde::Deserialize;
use sha2::Sha256;
use tokio::sync::watch;
use url::Url;

use super::prediction::is_prediction_id;

/// How far a webhook's time may lie from now, either way.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Most signatures of one webhook that are looked at.
const MAX_SIGNATURES: usize = 16;

/// Longest message id of a webhook, bytes.
const MAX_ID_BYTES: usize = 256;

/// Most predictions that are waited for in one room. Whoever comes then is not woken, and polls.
const MAX_WAITED_FOR: usize = 4_096;

/// Where webhooks go, and what they are signed with.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The address that the server is told to post to.
    pub url: Url,
    /// The server's signing secret.
    pub secret: WebhookSecret,
}

/// The secret that webhooks are signed with. Never shown.
#[derive(Clone)]
pub struct WebhookSecret {
    key: Arc<[u8]>,
}

impl WebhookSecret {
    /// Reads a secret as the server gives it: `whsec_`, then base64.
    ///
    /// # Errors
    /// A text that says what is wrong with it, without it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "copy it from the server's webhook settings (GET /webhooks/default/secret)";
        let Some(encoded) = text.trim().strip_prefix("whsec_") else {
            return Err(format!("the webhook secret does not begin with whsec_; {EXPECTED}"));
        };
        match STANDARD.decode(encoded) {
            Ok(key) if key.len() >= 16 => Ok(Self { key: key.into() }),
            Ok(_) => Err(format!("the webhook secret is shorter than 16 bytes; {EXPECTED}")),
            Err(_) => Err(format!("the webhook secret is not base64 after whsec_; {EXPECTED}")),
        }
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// One of the three headers is missing, comes twice or cannot be read.
    #[error("the webhook's header {0} is missing or cannot be read; only signed webhooks are taken")]
    Header(&'static str),
    /// It is too old or from the future.
    #[error(
        "the webhook's time is more than 5 minutes away from now; check the clocks, and that nothing holds it back"
    )]
    Time,
    /// No signature is right.
    #[error("the webhook's signature is not right; set the webhook secret to that of the server's account")]
    Signature,
    /// It is no prediction.
    #[error("the webhook's body is no prediction")]
    Body,
    /// No webhook was asked for.
    #[error("webhooks are not in use here; configure their address and secret")]
    NotInUse,
}

/// Checks that a webhook was signed with `secret`, not more than 5 minutes from `now`.
///
/// # Errors
/// [`WebhookError`].
pub fn verify(secret: &WebhookSecret, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<(), WebhookError> {
    let Signed { id, timestamp, signatures } = signed(headers, now)?;
    // A key of any length does.
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.key).map_err(|_| WebhookError::Signature)?;
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    let is_signed = signatures.split_ascii_whitespace().take(MAX_SIGNATURES).any(|signature| {
        let decoded = signature.strip_prefix("v1,").and_then(|encoded| STANDARD.decode(encoded).ok());
        // Compares in constant time.
        decoded.is_some_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    });
    if is_signed { Ok(()) } else { Err(WebhookError::Signature) }
}

/// What a webhook's headers say.
pub(super) struct Signed<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

/// Reads a webhook's headers; what can be told without its body is told here.
///
/// # Errors
/// [`WebhookError`].
pub(super) fn signed(headers: &HeaderMap, now: SystemTime) -> Result<Signed<'_>, WebhookError> {
    let id = header(headers, "webhook-id")?;
    let timestamp = header(headers, "webhook-timestamp")?;
    let signatures = header(headers, "webhook-signature")?;
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(WebhookError::Header("webhook-id"));
    }
    // Digits only: what is signed is the text, and a number has many.
    let seconds = Some(timestamp)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or(WebhookError::Header("webhook-timestamp"))?;
    let apart = match now.duration_since(seconds) {
        Ok(age) => age,
        Err(ahead) => ahead.duration(),
    };
    if apart > TOLERANCE {
        return Err(WebhookError::Time);
    }
    Ok(Signed { id, timestamp, signatures })
}

/// The id of the prediction that a webhook is about.
///
/// # Errors
/// [`WebhookError::Body`].
pub(super) fn prediction_of(body: &[u8]) -> Result<String, WebhookError> {
    #[derive(Deserialize)]
    struct Body {
        id: String,
    }
    let Body { id } = serde_json::from_slice(body).map_err(|_| WebhookError::Body)?;
    if is_prediction_id(&id) { Ok(id) } else { Err(WebhookError::Body) }
}

/// A header that must be there once, as text.
fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, WebhookError> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(text)), None) => Ok(text),
        _ => Err(WebhookError::Header(name)),
    }
}

/// Where webhooks are waited for, by prediction. Clones are the same room.
#[derive(Debug, Clone, Default)]
pub struct Waiters {
    rooms: Arc<Mutex<HashMap<String, watch::Sender<()>>>>,
}

impl Waiters {
    /// Begins to wait for webhooks about a prediction; those that come from now on are noticed.
    pub fn register(&self, id: &str) -> Waiter {
        let mut rooms = self.rooms();
        let receiver = match rooms.get(id) {
            Some(sender) => Some(sender.subscribe()),
            None if rooms.len() >= MAX_WAITED_FOR => None,
            None => {
                let (sender, receiver) = watch::channel(());
                rooms.insert(id.to_owned(), sender);
                Some(receiver)
            }
        };
        Waiter { waiters: self.clone(), id: id.to_owned(), receiver }
    }

    /// A webhook about this prediction came in; whether anybody waited for it.
    pub fn notify(&self, id: &str) -> bool {
        self.rooms().get(id).is_some_and(|sender| sender.send(()).is_ok())
    }

    /// How many predictions are waited for.
    pub fn len(&self) -> usize {
        self.rooms().len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for webhooks about one prediction; leaves the room when dropped.
#[derive(Debug)]
pub struct Waiter {
    waiters: Waiters,
    id: String,
    /// None when the room was full.
    receiver: Option<watch::Receiver<()>>,
}

impl Waiter {
    /// Ends when a webhook has come since the last time, or since registration; otherwise never.
    pub async fn woken(&mut self) {
        if let Some(receiver) = &mut self.receiver
            && receiver.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut rooms = self.waiters.rooms();
        if self.receiver.take().is_some() && rooms.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            rooms.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED_AT: u64 = 1_614_265_330;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn headers(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap());
        headers.insert("webhook-timestamp", SIGNED_AT.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn the_published_example_is_right_and_anything_else_in_it_is_wrong() {
        let secret = WebhookSecret::parse(SECRET).unwrap();
        let check = |headers: &HeaderMap, body: &[u8]| verify(&secret, headers, body, at(SIGNED_AT));
        assert_eq!(check(&headers(SIGNATURE), BODY), Ok(()));
        // Among others, as when secrets are being changed.
        assert_eq!(check(&headers(&format!("v1,AAAA v2,x  {SIGNATURE}")), BODY), Ok(()));
        assert_eq!(check(&headers(SIGNATURE), br#"{"test": 2432232315}"#), Err(WebhookError::Signature));
        for wrong in ["", "v1,", &SIGNATURE[3..], "v1a,g0hM", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="] {
            assert_eq!(check(&headers(wrong), BODY), Err(WebhookError::Signature), "{wrong}");
        }
        let mut other = headers(SIGNATURE);
        other.insert("webhook-id", "msg_other".parse().unwrap());
        assert_eq!(check(&other, BODY), Err(WebhookError::Signature));
        let stranger = WebhookSecret::parse("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert_eq!(verify(&stranger, &headers(SIGNATURE), BODY, at(SIGNED_AT)), Err(WebhookError::Signature));
        let crowd = vec!["v1,AAAA"; MAX_SIGNATURES].join(" ");
        assert_eq!(check(&headers(&format!("{crowd} {SIGNATURE}")), BODY), Err(WebhookError::Signature));
    }

    #[test]
    fn an_old_webhook_one_from_the_future_and_one_without_its_headers_are_refused() {
        let secret = WebhookSecret::parse(SECRET).unwrap();
        for (now, expected) in [
            (SIGNED_AT + 300, Ok(())),
            (SIGNED_AT + 301, Err(WebhookError::Time)),
            (SIGNED_AT - 300, Ok(())),
            (SIGNED_AT - 301, Err(WebhookError::Time)),
        ] {
            assert_eq!(verify(&secret, &headers(SIGNATURE), BODY, at(now)), expected, "{now}");
        }
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut without = headers(SIGNATURE);
            without.remove(name);
            let refused = verify(&secret, &without, BODY, at(SIGNED_AT)).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
            let mut twice = headers(SIGNATURE);
            twice.append(name, "x".parse().unwrap());
            assert!(verify(&secret, &twice, BODY, at(SIGNED_AT)).is_err(), "{name}");
        }
        for time in
            ["", "+1614265330", " 1614265330", "1614265330.0", "-1", "99999999999999999999", "18446744073709551615"]
        {
            let mut odd = headers(SIGNATURE);
            odd.insert("webhook-timestamp", time.parse().unwrap());
            assert!(verify(&secret, &odd, BODY, at(SIGNED_AT)).is_err(), "{time}");
        }
    }

    #[test]
    fn a_secret_is_read_with_its_prefix_and_never_shown() {
        for (text, expected) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!", "not base64"),
            ("whsec_MfKQ9r8G", "shorter than"),
            ("", "does not begin"),
        ] {
            let refused = WebhookSecret::parse(text).unwrap_err();
            assert!(refused.contains(expected) && !refused.contains("MfKQ9r8G"), "{refused}");
        }
        let shown = format!("{:?}", WebhookSecret::parse(SECRET).unwrap());
        assert_eq!(shown, "WebhookSecret(..)");
    }

    #[test]
    fn a_body_names_its_prediction_or_is_none() {
        assert_eq!(prediction_of(br#"{"id":"abc123","status":"succeeded","output":[1]}"#).unwrap(), "abc123");
        for body in [&b""[..], b"{}", b"[]", br#"{"id":1}"#, br#"{"id":""}"#, br#"{"id":"../x"}"#] {
            assert_eq!(prediction_of(body), Err(WebhookError::Body));
        }
    }

    #[tokio::test]
    async fn those_who_wait_for_a_prediction_are_woken_and_leave_nothing_behind() {
        let waiters = Waiters::default();
        assert!(!waiters.notify("a"));
        let (mut first, mut second, mut other) = (waiters.register("a"), waiters.register("a"), waiters.register("b"));
        assert!(waiters.notify("a"));
        // Before anybody looked: it is not lost.
        first.woken().await;
        second.woken().await;
        let silent = Duration::from_millis(20);
        assert!(tokio::time::timeout(silent, other.woken()).await.is_err());
        assert!(tokio::time::timeout(silent, first.woken()).await.is_err(), "only once");
        drop(first);
        assert_eq!(waiters.len(), 2);
        assert!(waiters.notify("a"), "the other still waits");
        second.woken().await;
        drop((second, other));
        assert!(waiters.is_empty() && !waiters.notify("a"));
    }

    #[tokio::test]
    async fn a_room_has_a_limit_and_whoever_comes_then_is_not_woken() {
        let waiters = Waiters::default();
        let all: Vec<Waiter> = (0..MAX_WAITED_FOR).map(|i| waiters.register(&i.to_string())).collect();
        let mut late = waiters.register("late");
        assert!(!waiters.notify("late"));
        assert!(tokio::time::timeout(Duration::from_millis(20), late.woken()).await.is_err());
        drop(late);
        assert_eq!(waiters.len(), MAX_WAITED_FOR);
        // One who is waited for already still has room.
        drop(waiters.register("7"));
        assert!(waiters.notify("7"));
        drop(all);
        assert!(waiters.is_empty());
    }
}
