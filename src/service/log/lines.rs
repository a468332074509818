//! The lines that alerts and people rely on: each is written by one function, with the same fields every time.
//!
//! Every one has a field `event` that names its kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::pipeline::job::Mode;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Outcome {
    /// Every variation is stored.
    Complete,
    /// Some variations are stored; the manifest says why the others are not.
    Partial,
    /// It failed for good, and there is a record of it.
    #[default]
    Failed,
    /// It had been done before.
    Duplicate,
    /// Something else is stored in its place; recorded.
    Conflict,
    /// Left to the next delivery.
    Retry,
}

impl Outcome {
    /// The word in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Retry => "retry",
        }
    }
}

/// The word for a mode in logs and metrics; `none` for work that has none, such as a message that is no job.
pub const fn mode_name(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Soft) => "soft",
        Some(Mode::Transfer) => "transfer",
        Some(Mode::Faithful) => "faithful",
        Some(Mode::Exact) => "exact",
        Some(Mode::Tint) => "tint",
        None => "none",
    }
}

/// What is said of a finished job. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobLine {
    /// The job; empty where the message could not be read.
    pub job_id: String,
    /// Its user.
    pub user_id: String,
    /// The message that carried it.
    pub message_id: Option<String>,
    /// How often that has been delivered, from 1.
    pub delivery_attempt: Option<u32>,
    /// How it ended.
    pub outcome: Outcome,
    /// The class of the error.
    pub class: Option<&'static str>,
    /// What was wrong, without secrets.
    pub error: Option<String>,
    /// Whether it was given up because it had been tried too often.
    pub retries_exhausted: bool,
    /// Variations that were asked for.
    pub variations: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that an earlier delivery had stored.
    pub adopted: u64,
    /// Whether the answer came from what was stored or cached, with nothing computed.
    pub cached: bool,
    /// Whether it waited for somebody who did the same work.
    pub merged: bool,
    /// Time from arrival until there was room.
    pub queue_ms: f64,
    /// Time from arrival until the first variation was stored.
    pub first_variation_ms: Option<f64>,
    /// Time from arrival to the end.
    pub total_ms: f64,
    /// Time per stage, summed over threads.
    pub timings: BTreeMap<String, f64>,
    /// Size of the source, bytes.
    pub source_bytes: u64,
    /// Size of everything stored, bytes.
    pub output_bytes: u64,
    /// The memory that admission reserved, or the most that was held, bytes.
    pub peak_bytes: u64,
    /// What the process held at the end, bytes.
    pub rss_bytes: u64,
    /// Whether it was the first job of the process.
    pub cold_start: bool,
    /// The recolouring mode.
    pub mode: Option<Mode>,
    /// What became of the background, where it was asked for: `alpha`, `classic`, `model` or `none`.
    pub background: Option<Cow<'static, str>>,
    /// Whether nothing was sure about the background.
    pub background_flagged: bool,
    /// What the model ran on.
    pub provider: Option<Cow<'static, str>>,
}

impl JobLine {
    /// The sentence for people.
    fn message(&self) -> String {
        let who = match (self.job_id.as_str(), &self.message_id) {
            ("", Some(message)) => format!("message {message}"),
            ("", None) => "a message without an id".to_owned(),
            (job, _) => format!("job {}/{job}", self.user_id),
        };
        let ms = self.total_ms.round();
        let made = self.variations.saturating_sub(self.failed);
        let done = match self.variations {
            1 => "1 variation".to_owned(),
            all => format!("{all} variations"),
        };
        let class = self.class.map(|class| format!(" ({class})")).unwrap_or_default();
        let said = match self.outcome {
            Outcome::Complete => format!("complete, {done} in {ms} ms"),
            Outcome::Partial => format!("partial{class}, {made} of {done} in {ms} ms"),
            Outcome::Failed if self.retries_exhausted => format!("failed{class} in {ms} ms, tried too often"),
            Outcome::Failed => format!("failed{class} in {ms} ms"),
            Outcome::Duplicate => format!("done before, found in {ms} ms"),
            Outcome::Conflict => format!("conflict{class}: something else is stored in its place"),
            Outcome::Retry => format!("left to the next delivery{class} after {ms} ms"),
        };
        format!("{who}: {said}")
    }
}

/// Logs a finished job: ERROR when it failed, WARNING when it is partial, in conflict or left to the next delivery, else INFO.
pub fn job_line(job: &JobLine) {
    // A level is part of the place that logs.
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                event = "job",
                job_id = some(&job.job_id),
                user_id = some(&job.user_id),
                message_id = job.message_id.as_deref(),
                delivery_attempt = job.delivery_attempt,
                outcome = job.outcome.name(),
                class = job.class,
                error = job.error.as_deref(),
                retries_exhausted = job.retries_exhausted,
                variations = job.variations,
                failed = job.failed,
                adopted = job.adopted,
                cached = job.cached,
                merged = job.merged,
                queue_ms = thousandths(job.queue_ms),
                first_variation_ms = job.first_variation_ms.map(thousandths),
                total_ms = thousandths(job.total_ms),
                timings_ms.json = serde_json::to_string(&job.timings).unwrap_or_default(),
                source_bytes = job.source_bytes,
                output_bytes = job.output_bytes,
                peak_bytes = job.peak_bytes,
                rss_bytes = job.rss_bytes,
                cold_start = job.cold_start,
                mode = mode_name(job.mode),
                background = job.background.as_deref(),
                background_flagged = job.background.as_ref().map(|_| job.background_flagged),
                provider = job.provider.as_deref(),
                "{}",
                job.message()
            )
        };
    }
    match job.outcome {
        Outcome::Failed => at!(error),
        Outcome::Partial | Outcome::Conflict | Outcome::Retry => at!(warn),
        Outcome::Complete | Outcome::Duplicate => at!(info),
    }
}

/// What is said of an answered request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query: queries can hold tokens.
    pub path: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// From the first byte to the last.
    pub took: Duration,
    /// Size of the request's body, bytes.
    pub request_bytes: u64,
    /// Size of the answer's body, bytes.
    pub response_bytes: u64,
    /// What the caller calls itself.
    pub user_agent: Option<&'a str>,
    /// Where the caller is.
    pub remote_ip: Option<&'a str>,
}

/// Logs a request: WARNING for a status of 500 or more, INFO from 400, else DEBUG, as Cloud Run logs requests itself.
pub fn request_line(request: &RequestLine<'_>) {
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                event = "request",
                http.method = request.method,
                http.url = request.path,
                http.status = request.status,
                http.seconds = request.took.as_secs_f64(),
                http.request_bytes = request.request_bytes,
                http.response_bytes = request.response_bytes,
                http.user_agent = request.user_agent,
                http.remote_ip = request.remote_ip,
                "{} {} {} in {} ms",
                request.method,
                request.path,
                request.status,
                request.took.as_millis()
            )
        };
    }
    match request.status {
        500.. => at!(warn),
        400..500 => at!(info),
        _ => at!(debug),
    }
}

/// Logs that the process is ready for work, `ready_ms` after it began.
pub fn started(ready_ms: f64, memory_bytes: u64, memory_found_in: &str, threads: usize) {
    tracing::info!(
        event = "started",
        ready_ms = thousandths(ready_ms),
        memory_bytes,
        memory_found_in,
        threads,
        "ready after {ready_ms:.0} ms: {threads} threads, {} MiB ({memory_found_in})",
        memory_bytes >> 20
    );
}

/// Logs that caches were dropped and freed memory was given back before more work was let in.
pub fn memory_cleanup(before_bytes: u64, after_bytes: u64, threshold_bytes: u64) {
    let mib = |bytes: u64| bytes >> 20;
    tracing::warn!(
        event = "memory_cleanup",
        before_bytes,
        after_bytes,
        threshold_bytes,
        "memory was above {} MiB: {} MiB before the cleanup, {} MiB after it",
        mib(threshold_bytes),
        mib(before_bytes),
        mib(after_bytes)
    );
}

/// Logs that work was turned away for want of memory; `permanent` when it can never fit, so that it is not delivered again.
pub fn memory_refused(needed_bytes: u64, budget_bytes: u64, permanent: bool) {
    let then = if permanent { "it can never be done here" } else { "it is left to a later delivery" };
    tracing::warn!(
        event = "memory_refused",
        needed_bytes,
        budget_bytes,
        permanent,
        "a job needs {} MiB of {} MiB; {then}",
        needed_bytes >> 20,
        budget_bytes >> 20
    );
}

/// Logs that a caller was turned away. `reason` is a word of a closed set, never part of a token.
pub fn auth_refused(reason: &'static str, route: &'static str) {
    tracing::warn!(event = "auth_refused", reason, route, "a caller of {route} was refused: {reason}");
}

/// Text that is there.
fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Three decimals: microseconds where milliseconds are given.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
