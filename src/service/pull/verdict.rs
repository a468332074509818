//! What becomes of a stream that failed: opened again after a while, or given up.

use std::time::Duration;

use google_cloud_gax::backoff_policy::BackoffPolicy;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::exponential_backoff::ExponentialBackoffBuilder;
use google_cloud_gax::retry_state::RetryState;
use google_cloud_pubsub::Error;

use super::PullError;

/// Shortest wait between two attempts.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Attempts for a subscription that worked before and is now refused.
const PATIENCE: u32 = 5;

/// What to do after a failure.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Open another stream after this time.
    Retry(Duration),
    /// End.
    Give(PullError),
}

/// The failures since the last message.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    worked: bool,
}

impl Failures {
    /// A message arrived.
    pub(super) fn over(&mut self) {
        *self = Self { in_a_row: 0, worked: true };
    }

    /// The stream ended without an error; the wait before the next.
    pub(super) fn interrupted(&mut self) -> Duration {
        self.in_a_row = self.in_a_row.saturating_add(1);
        wait(self.in_a_row)
    }

    /// The stream failed.
    pub(super) fn judge(&mut self, subscription: &str, error: &Error) -> Verdict {
        let wait = self.interrupted();
        if let Some(reason) = permanent(subscription, error)
            && !(self.worked && self.in_a_row <= PATIENCE)
        {
            return Verdict::Give(reason);
        }
        let wait_ms = wait.as_millis() as u64;
        tracing::warn!(%subscription, %error, attempt = self.in_a_row, wait_ms, "pulling was interrupted; trying again");
        Verdict::Retry(wait)
    }
}

/// A random time that grows with the number of failures, so that many workers do not come back together.
fn wait(failures: u32) -> Duration {
    let backoff = ExponentialBackoffBuilder::new()
        .with_initial_delay(2 * SHORTEST_WAIT)
        .with_maximum_delay(LONGEST_WAIT)
        .with_scaling(2.0)
        .clamp();
    backoff.on_failure(&RetryState::new(true).set_attempt_count(failures)).clamp(SHORTEST_WAIT, LONGEST_WAIT)
}

/// The error for one that no retry mends. Everything unknown passes for transient.
fn permanent(subscription: &str, error: &Error) -> Option<PullError> {
    let subscription = subscription.to_owned();
    if error.is_authentication() && !error.is_transient_and_before_rpc() {
        return Some(PullError::Client { subscription, problem: error.to_string() });
    }
    let status = error.status()?;
    let problem = status.message.clone();
    match status.code {
        Code::NotFound => Some(PullError::Missing { subscription }),
        Code::PermissionDenied | Code::Unauthenticated => Some(PullError::Forbidden { subscription, problem }),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            Some(PullError::Refused { subscription, problem })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    const SUBSCRIPTION: &str = "projects/p/subscriptions/s";

    fn status(code: Code) -> Error {
        Error::service(Status::default().set_code(code).set_message("what Pub/Sub says"))
    }

    #[test]
    fn what_no_retry_mends_ends_the_pull_and_says_what_to_do() {
        for (code, advice) in [
            (Code::NotFound, "create it, or correct CONCEPT_SUBSCRIPTION"),
            (Code::PermissionDenied, "roles/pubsub.subscriber"),
            (Code::Unauthenticated, "roles/pubsub.subscriber"),
            (Code::FailedPrecondition, "names a pull subscription"),
            (Code::InvalidArgument, "names a pull subscription"),
        ] {
            let Verdict::Give(error) = Failures::default().judge(SUBSCRIPTION, &status(code)) else {
                panic!("{code:?} was retried");
            };
            let text = error.to_string();
            assert!(text.contains(advice) && text.contains(SUBSCRIPTION), "{text}");
        }
    }

    #[test]
    fn what_passes_is_waited_for_longer_and_longer_and_without_end() {
        for code in [Code::Unavailable, Code::Internal, Code::ResourceExhausted, Code::Unknown, Code::Cancelled] {
            let mut failures = Failures::default();
            for attempt in 0..200 {
                let Verdict::Retry(wait) = failures.judge(SUBSCRIPTION, &status(code)) else {
                    panic!("{code:?} was given up");
                };
                let most = Duration::from_secs(60.min(2 << attempt.min(10)));
                assert!(wait >= Duration::from_secs(1) && wait <= most, "{wait:?} after {attempt} failures");
            }
        }
    }

    #[test]
    fn a_subscription_that_worked_is_given_five_more_attempts() {
        let mut failures = Failures::default();
        failures.over();
        for _ in 0..5 {
            assert!(matches!(failures.judge(SUBSCRIPTION, &status(Code::NotFound)), Verdict::Retry(_)));
        }
        assert!(matches!(failures.judge(SUBSCRIPTION, &status(Code::NotFound)), Verdict::Give(_)));
    }
}
