//! One request, repeated where that is safe and may help.

use std::error::Error as _;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use google_cloud_gax::backoff_policy::BackoffPolicy as _;
use google_cloud_gax::exponential_backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use google_cloud_gax::retry_state::RetryState;
use google_cloud_storage::Error;
use google_cloud_storage::error::{ReadError, WriteError};

use super::super::{Location, StorageError};
use super::GcsStorage;

/// How often a request is made at most.
pub(super) const MOST_ATTEMPTS: u32 = 5;

/// The longest text of the service that is passed on, in characters.
const LONGEST_PROBLEM: usize = 300;

/// Pauses between attempts: a random time of up to 100 ms, then up to twice as long each time, up to 5 s.
static BACKOFF: LazyLock<ExponentialBackoff> = LazyLock::new(|| {
    ExponentialBackoffBuilder::new()
        .with_initial_delay(Duration::from_millis(100))
        .with_maximum_delay(Duration::from_secs(5))
        .with_scaling(2.0)
        .clamp()
});

/// Why a request failed, for good or for the last time.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service answered with this status and this text.
    Http(u16, String),
    /// No answer, or none that can be understood.
    Broken(String),
    /// There is no access token.
    NoToken,
    /// What went over the wire is not what was sent.
    Corrupt,
    /// The limit, in seconds.
    TimedOut(u64),
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        if let Some(status) = error.http_status_code() {
            let message = error.status().map(|status| status.message.as_str()).unwrap_or_default();
            return Self::Http(status, plain(message));
        }
        let is_damage = error.source().is_some_and(|source| {
            matches!(source.downcast_ref(), Some(WriteError::ChecksumMismatch { .. }))
                || matches!(source.downcast_ref(), Some(ReadError::ChecksumMismatch(_)))
        });
        match error {
            _ if is_damage => Self::Corrupt,
            error if error.is_authentication() => Self::NoToken,
            error if error.is_connect() => Self::Broken(format!("no connection: {}", root_of(error))),
            error => Self::Broken(root_of(error)),
        }
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Http(status, _) => matches!(status, 408 | 429 | 500..=599),
            Self::Broken(_) | Self::NoToken | Self::TimedOut(_) => true,
            // A write that went wrong so is there now.
            Self::Corrupt => false,
        }
    }

    pub(super) fn into_error(self, location: &Location) -> StorageError {
        let location = location.clone();
        match self {
            Self::Http(401 | 403, _) => StorageError::Forbidden(location),
            Self::Http(404, _) => StorageError::NotFound(location),
            Self::Http(412, _) => StorageError::Precondition(location),
            Self::Http(status, message) => {
                let problem = if message.is_empty() { format!("{status}") } else { format!("{status}, {message}") };
                if matches!(status, 408 | 429 | 500..=599) {
                    StorageError::Unavailable { location, problem }
                } else {
                    StorageError::Refused { location, problem }
                }
            }
            Self::Broken(problem) => StorageError::Unavailable { location, problem },
            Self::NoToken => {
                let problem = "no access token was issued; check the worker's credentials".to_owned();
                StorageError::Unavailable { location, problem }
            }
            Self::Corrupt => StorageError::Corrupt(location),
            Self::TimedOut(seconds) => StorageError::TimedOut { location, seconds },
        }
    }
}

/// The innermost cause: the outer ones repeat it and quote the address with its query.
pub(super) fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    plain(&root.to_string())
}

/// A foreign text as part of a line: short, without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_PROBLEM).collect()
}

impl GcsStorage {
    /// Makes a request until it succeeds, fails for good or has failed 5 times; each attempt within `limit`.
    pub(super) async fn attempts<T, R>(
        &self,
        location: &Location,
        limit: Duration,
        request: impl Fn() -> R + Send,
    ) -> Result<T, Failure>
    where
        R: Future<Output = Result<T, Error>> + Send,
    {
        let mut attempt = 1;
        loop {
            let failure = match tokio::time::timeout(limit, request()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => Failure::of(&error),
                Err(_) => Failure::TimedOut(limit.as_secs()),
            };
            if attempt >= MOST_ATTEMPTS || !failure.is_transient() {
                return Err(failure);
            }
            tracing::debug!(%location, attempt, ?failure, "storage is asked again");
            self.pause(attempt).await;
            attempt += 1;
        }
    }

    /// Waits after a failed attempt, counted from 1, before the next.
    pub(super) async fn pause(&self, attempt: u32) {
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
        let state = RetryState::new(true).set_attempt_count(attempt);
        tokio::time::sleep(BACKOFF.on_failure(&state)).await;
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::{Code, Status};

    use super::*;

    fn http(status: u16) -> Failure {
        let text = Status::default().set_code(Code::Unknown).set_message("why\nnot");
        Failure::of(&Error::service_with_http_metadata(text, Some(status), None))
    }

    #[test]
    fn every_status_has_its_error_and_only_what_may_pass_is_repeated() {
        let location = Location::parse("gs://bucket/a").unwrap();
        let refused = |problem: &str| StorageError::Refused { location: location.clone(), problem: problem.into() };
        let unavailable =
            |problem: &str| StorageError::Unavailable { location: location.clone(), problem: problem.into() };
        for (status, transient, expected) in [
            (400, false, refused("400, why not")),
            (401, false, StorageError::Forbidden(location.clone())),
            (403, false, StorageError::Forbidden(location.clone())),
            (404, false, StorageError::NotFound(location.clone())),
            (408, true, unavailable("408, why not")),
            (409, false, refused("409, why not")),
            (412, false, StorageError::Precondition(location.clone())),
            (429, true, unavailable("429, why not")),
            (500, true, unavailable("500, why not")),
            (503, true, unavailable("503, why not")),
        ] {
            let failure = http(status);
            assert_eq!(failure.is_transient(), transient, "{status}");
            assert_eq!(failure.into_error(&location), expected);
        }
    }

    #[test]
    fn pauses_grow_to_five_seconds_at_most() {
        for attempt in 1..40_u32 {
            let state = RetryState::new(true).set_attempt_count(attempt);
            let most = Duration::from_millis(100 << (attempt - 1).min(6)).min(Duration::from_secs(5));
            assert!(BACKOFF.on_failure(&state) <= most, "{attempt}");
        }
    }
}
