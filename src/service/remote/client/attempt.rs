//! One request, repeated where that is safe and may help.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::Instant;

use super::super::prediction::ModelRef;
use super::{MAX_ANSWER_BYTES, MAX_FILE_ANSWER_BYTES, Remote, RemoteError};

/// How often a request is made at most.
const MOST_ATTEMPTS: u32 = 4;
/// How often a prediction is tried to be cancelled.
const MOST_CANCELS: u32 = 2;
/// The pause after the first attempt; doubled every time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that the server may ask for; with a longer one, whoever asked is told when to come again.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);
/// Whatever the server says, it is asked again after this time.
const LATEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Most bytes of an error that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Limit of reading an error's text.
const ERROR_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a foreign text that are looked at.
const MAX_TEXT_BYTES: usize = 8 << 10;
/// The longest text of the server that is passed on, in characters.
const LONGEST_PROBLEM: usize = 300;

/// What the server is asked for.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Create { model: &'a ModelRef },
    Get { id: &'a str },
    Cancel { id: &'a str },
    Upload,
}

/// Why an attempt gave nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RemoteError,
    /// Whether it is sure that the server did nothing.
    nothing_done: bool,
}

impl Asked<'_> {
    /// Whether it makes something that is paid for.
    pub(super) const fn creates(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    const fn most_bytes(&self) -> usize {
        match self {
            Self::Upload => MAX_FILE_ANSWER_BYTES,
            _ => MAX_ANSWER_BYTES,
        }
    }

    const fn most_attempts(&self) -> u32 {
        match self {
            Self::Cancel { .. } => MOST_CANCELS,
            _ => MOST_ATTEMPTS,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Get { .. } => "get",
            Self::Cancel { .. } => "cancel",
            Self::Upload => "upload",
        }
    }

    fn may_repeat(&self, failure: &Failure) -> bool {
        failure.error.is_transient() && (failure.nothing_done || !self.creates())
    }
}

impl Remote {
    /// Makes a request until it succeeds, fails for good, has failed often enough, or the budget of retries is spent;
    /// each attempt within `limit`, and none after `until`.
    pub(super) async fn send(
        &self,
        asked: &Asked<'_>,
        limit: Duration,
        until: Option<Instant>,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Bytes, RemoteError> {
        self.shared.budget.first();
        let mut attempt = 1;
        loop {
            let failure = match self.once(asked, limit, request()).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            if attempt >= asked.most_attempts() || !asked.may_repeat(&failure) {
                return Err(failure.error);
            }
            let said = failure.error.retry_after().unwrap_or_default();
            let own = LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(attempt - 1));
            let pause = jittered(own).max(said + jittered(said / 8));
            let is_late = until.is_some_and(|until| Instant::now() + pause >= until);
            if said > LONGEST_RETRY_AFTER || is_late || !self.shared.budget.retry() {
                return Err(failure.error);
            }
            tracing::debug!(asked = asked.name(), attempt, error = %failure.error, "the remote server is asked again");
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Makes a request once, within `limit` from the connection to the last byte.
    pub(super) async fn once(
        &self,
        asked: &Asked<'_>,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Bytes, Failure> {
        let broken = |error: &reqwest::Error| self.broken(asked, limit, error);
        let response = self.prepared(request, limit).send().await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            let most = asked.most_bytes();
            return match body(response, most).await {
                Ok(body) => Ok(body),
                Err(Unread::Broken(error)) => Err(Failure { nothing_done: false, ..broken(&error) }),
                Err(Unread::TooLarge) => {
                    let error = RemoteError::TooLarge { limit: most as u64, unsure: asked.creates() };
                    Err(Failure { error, nothing_done: false })
                }
            };
        }
        let headers = response.headers().clone();
        // Its text helps, and is not worth a failure of its own.
        let said = match tokio::time::timeout(ERROR_TIMEOUT, body(response, MAX_ERROR_BYTES)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(self.refused(asked, status, &headers, &said))
    }

    /// No answer, or half of one.
    fn broken(&self, asked: &Asked<'_>, limit: Duration, error: &reqwest::Error) -> Failure {
        // Before there is a connection, nothing was sent over it.
        let nothing_done = error.is_connect();
        let unsure = asked.creates() && !nothing_done;
        if error.is_timeout() && !nothing_done {
            let error = RemoteError::TimedOut { seconds: limit.as_secs(), unsure };
            return Failure { error, nothing_done };
        }
        let what = if nothing_done { "no connection could be made" } else { "the connection broke" };
        let problem = format!("{what}: {}", self.clean(&root_of(error)));
        Failure { error: RemoteError::Unavailable { problem, retry_after: None, unsure }, nothing_done }
    }

    /// An answer that is no success.
    fn refused(&self, asked: &Asked<'_>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
        let status = status.as_u16();
        let json = serde_json::from_slice::<Value>(body).ok();
        let detail = || self.clean(&detail_of(json.as_ref(), body));
        let retry_after = retry_after(headers, SystemTime::now()).or_else(|| {
            let seconds = json.as_ref()?.get("retry_after")?.as_f64()?;
            Duration::try_from_secs_f64(seconds).ok().map(|time| time.min(LATEST_RETRY_AFTER))
        });
        let error = match status {
            401 | 403 => RemoteError::Unauthorized { status },
            402 => RemoteError::PaymentRequired,
            404 | 405 | 501 if matches!(asked, Asked::Upload) => RemoteError::NoFiles,
            404 => match asked {
                Asked::Create { model } => RemoteError::NoSuchModel { model: model.to_string() },
                Asked::Get { id } | Asked::Cancel { id } => RemoteError::NoSuchPrediction { id: (*id).to_owned() },
                Asked::Upload => RemoteError::NoFiles,
            },
            400 | 413 | 422 if matches!(asked, Asked::Create { .. } | Asked::Upload) => {
                RemoteError::BadInput { detail: detail() }
            }
            429 => RemoteError::RateLimited { retry_after },
            408 | 425 | 500..=599 => RemoteError::Unavailable {
                problem: joined(status, &detail()),
                retry_after,
                unsure: asked.creates() && status != 503,
            },
            300..=399 => {
                RemoteError::NotUnderstood { problem: "it redirects, and redirects are not followed", unsure: false }
            }
            _ => RemoteError::Refused { status, problem: detail() },
        };
        Failure { error, nothing_done: matches!(status, 429 | 503) }
    }

    /// A foreign text as part of a line: short, without control characters, queries of addresses, data and the token.
    pub(super) fn clean(&self, text: &str) -> String {
        let text = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
        let mut text = scrubbed(text);
        if let Some(token) = self.shared.options.token.as_deref().filter(|token| !token.is_empty()) {
            text = text.replace(token, "…");
        }
        let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_PROBLEM).collect();
        plain.trim().to_owned()
    }
}

fn joined(status: u16, detail: &str) -> String {
    if detail.is_empty() { format!("it answered {status}") } else { format!("it answered {status}, {detail}") }
}

/// Why a body was not read.
enum Unread {
    Broken(reqwest::Error),
    TooLarge,
}

/// The whole body, at most `limit` bytes.
async fn body(mut response: Response, limit: usize) -> Result<Bytes, Unread> {
    let announced = response.content_length().unwrap_or_default();
    if announced > limit as u64 {
        return Err(Unread::TooLarge);
    }
    // What is announced may not come.
    let mut body = BytesMut::with_capacity((announced as usize).min(64 << 10));
    while let Some(piece) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + piece.len() > limit {
            return Err(Unread::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// What an error says: its detail, else its title, else all of it.
fn detail_of(json: Option<&Value>, body: &[u8]) -> String {
    let Some(json) = json else { return String::from_utf8_lossy(body).into_owned() };
    let field = |name: &str| json.get(name).filter(|value| !value.is_null());
    match field("detail").or_else(|| field("title")).or_else(|| field("error")) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => json.to_string(),
    }
}

/// When the server wants to be asked again: seconds, or a date of HTTP.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let time = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(time.min(LATEST_RETRY_AFTER))
}

/// A quarter more or less.
pub(super) fn jittered(pause: Duration) -> Duration {
    // A random state is random anew each time.
    let thousandths = (RandomState::new().hash_one(0_u8) % 501) as u32;
    pause * (750 + thousandths) / 1_000
}

/// The innermost cause: the outer ones repeat it and quote the address.
fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// A text without what may be secret in it: user names and queries of addresses, and data.
fn scrubbed(text: &str) -> String {
    const MARKS: [&str; 3] = ["http://", "https://", ";base64,"];
    // The same length: only ASCII changes.
    let lower = text.to_ascii_lowercase();
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    while let Some((start, mark)) =
        MARKS.iter().filter_map(|mark| lower[at..].find(mark).map(|found| (at + found, *mark))).min()
    {
        let inside = start + mark.len();
        clean.push_str(&text[at..inside]);
        let is_end = |c: char| {
            if mark == ";base64," {
                !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_' | '%'))
            } else {
                c.is_whitespace()
                    || c.is_control()
                    || matches!(c, '"' | '\'' | '<' | '>' | '`' | ')' | ']' | '}' | '\\')
            }
        };
        let end = text[inside..].find(is_end).map_or(text.len(), |length| inside + length);
        let word = &text[inside..end];
        if mark == ";base64," {
            clean.push('…');
        } else {
            let shown = &word[..word.find(['?', '#']).unwrap_or(word.len())];
            let path = shown.find('/').unwrap_or(shown.len());
            let host = shown[..path].rfind('@').map_or(0, |user| user + 1);
            clean.push_str(&shown[host..]);
            if shown.len() < word.len() {
                clean.push_str("?…");
            }
        }
        at = end;
    }
    clean.push_str(&text[at..]);
    clean
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::RemoteOptions;
    use super::*;

    fn remote() -> Remote {
        let options = RemoteOptions::new(Url::parse("http://127.0.0.1:1/v1").unwrap(), Some("r8_secret".into()));
        Remote::new(options).unwrap()
    }

    fn failure(asked: &Asked<'_>, status: u16, body: &str) -> Failure {
        remote().refused(asked, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn every_status_has_its_error_and_an_order_is_repeated_only_when_nothing_was_made() {
        let model = ModelRef::parse("owner/name").unwrap();
        let create = Asked::Create { model: &model };
        let body = r#"{"title":"T","detail":"why\nnot","status":0}"#;
        let unavailable = |status: u16, unsure: bool| RemoteError::Unavailable {
            problem: format!("it answered {status}, why not"),
            retry_after: None,
            unsure,
        };
        for (status, repeated, counts, expected) in [
            (400, false, false, RemoteError::BadInput { detail: "why not".into() }),
            (401, false, false, RemoteError::Unauthorized { status: 401 }),
            (402, false, false, RemoteError::PaymentRequired),
            (403, false, false, RemoteError::Unauthorized { status: 403 }),
            (404, false, false, RemoteError::NoSuchModel { model: "owner/name".into() }),
            (405, false, false, RemoteError::Refused { status: 405, problem: "why not".into() }),
            (408, false, true, unavailable(408, true)),
            (409, false, false, RemoteError::Refused { status: 409, problem: "why not".into() }),
            (413, false, false, RemoteError::BadInput { detail: "why not".into() }),
            (422, false, false, RemoteError::BadInput { detail: "why not".into() }),
            (429, true, false, RemoteError::RateLimited { retry_after: None }),
            (500, false, true, unavailable(500, true)),
            (502, false, true, unavailable(502, true)),
            (503, true, true, unavailable(503, false)),
            (504, false, true, unavailable(504, true)),
        ] {
            let failure = failure(&create, status, body);
            assert_eq!(
                (create.may_repeat(&failure), failure.error.counts_against_model()),
                (repeated, counts),
                "{status}"
            );
            assert_eq!(failure.error, expected);
        }
        let get = Asked::Get { id: "abc" };
        for (status, repeated) in
            [(400, false), (401, false), (404, false), (408, true), (429, true), (500, true), (503, true)]
        {
            let failure = failure(&get, status, "");
            assert_eq!(get.may_repeat(&failure), repeated, "{status}");
            assert!(!failure.error.may_have_created(), "{status}");
        }
        assert_eq!(failure(&get, 404, "").error, RemoteError::NoSuchPrediction { id: "abc".into() });
        for status in [404, 405, 501] {
            assert_eq!(failure(&Asked::Upload, status, "").error, RemoteError::NoFiles);
        }
        let redirected = failure(&create, 307, "").error;
        assert!(redirected.to_string().contains("redirects") && !redirected.is_transient(), "{redirected}");
    }

    #[test]
    fn what_a_server_says_is_shown_short_and_without_secrets() {
        let model = ModelRef::parse("owner/name").unwrap();
        let said = |body: &str| failure(&Asked::Create { model: &model }, 422, body).error.to_string();
        for (body, expected) in [
            (r#"{"title":"Input validation failed"}"#, "Input validation failed"),
            (r#"{"detail":[{"loc":["image"],"msg":"required"}]}"#, r#"[{"loc":["image"],"msg":"required"}]"#),
            (r#"{"other":1}"#, r#"{"other":1}"#),
            ("not JSON", "not JSON"),
            (
                r#"{"detail":"cannot get HTTPS://u:p@h.x/a?sig=secret#f, nor \"http://h.x/b?secret\" (r8_secret)"}"#,
                "cannot get HTTPS://h.x/a?… nor \"http://h.x/b?…\" (…)",
            ),
            (r#"{"detail":"data:image/png;base64,c2VjcmV0 is bad"}"#, "data:image/png;base64,… is bad"),
            (r#"{"detail":"https://"}"#, "https://"),
            (r#"{"detail":"é https://ö.x/é?é é"}"#, "é https://ö.x/é?… é"),
        ] {
            assert_eq!(said(body), format!("the remote model does not take its input: {expected}"), "{body}");
        }
        let long = said(&"é".repeat(100_000));
        assert!(long.chars().count() < LONGEST_PROBLEM + 60, "{long}");
    }

    #[test]
    fn the_server_says_when_to_come_again_in_seconds_or_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("999999999", Some(3600)),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(3600)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
        let model = ModelRef::parse("owner/name").unwrap();
        let said = failure(&Asked::Create { model: &model }, 429, r#"{"detail":"throttled","retry_after":1.5}"#);
        assert_eq!(said.error.retry_after(), Some(Duration::from_millis(1500)));
        let odd = failure(&Asked::Create { model: &model }, 429, r#"{"retry_after":-1}"#);
        assert_eq!(odd.error.retry_after(), None);
    }

    #[test]
    fn pauses_differ_by_a_quarter_at_most() {
        let pauses: Vec<Duration> = (0..200).map(|_| jittered(Duration::from_secs(4))).collect();
        assert!(pauses.iter().all(|pause| (3..=5).contains(&pause.as_secs()) && *pause <= Duration::from_secs(5)));
        assert!(pauses.iter().max() > pauses.iter().min());
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
