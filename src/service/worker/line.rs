//! A job's one line.

use std::time::{Duration, Instant};

use super::record::Message;
use super::run::{Facts, Finished};
use crate::pipeline::job::Mode;
use crate::pipeline::manifest::State;
use crate::service::failure::{Class, Failure};
use crate::service::log::{JobLine, Outcome};
use crate::service::memory;

/// Everything there is to say about a job beside how it ended.
pub struct About<'a> {
    pub facts: &'a Facts,
    pub user: Option<String>,
    pub mode: Option<Mode>,
    /// Whether it was the first job of the process.
    pub cold: bool,
    pub arrived: Instant,
    pub message: Option<&'a Message>,
}

impl About<'_> {
    /// The line of a job that ended like this.
    pub fn line(&self, result: &Result<Finished, Failure>) -> JobLine {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mut line = JobLine {
            job_id: self.facts.job_id.clone().unwrap_or_default(),
            user_id: self.user.clone().unwrap_or_default(),
            message_id: self.message.and_then(|message| message.id.clone()),
            delivery_attempt: self.message.and_then(|message| message.attempt),
            queue_ms: ms(self.facts.queued),
            first_variation_ms: self.facts.first_variation.map(ms),
            total_ms: ms(self.arrived.elapsed()),
            source_bytes: self.facts.source_bytes,
            adopted: self.facts.adopted as u64,
            merged: self.facts.merged,
            rss_bytes: memory::resident_bytes(),
            cold_start: self.cold,
            mode: self.mode,
            ..JobLine::default()
        };
        match result {
            Ok(finished) => {
                let manifest = &finished.manifest;
                line.job_id = manifest.job_id.clone();
                line.cached = finished.duplicate;
                line.outcome = match (finished.duplicate, manifest.state) {
                    (true, _) => Outcome::Duplicate,
                    (false, State::Complete) => Outcome::Complete,
                    (false, State::Partial) => Outcome::Partial,
                    (false, State::Failed) => Outcome::Failed,
                };
                line.variations = manifest.variations.len() as u64;
                if let Some(background) = manifest.background.as_ref().filter(|_| !finished.duplicate) {
                    line.background = Some(background.method.clone().into());
                    line.background_flagged = background.flagged;
                    line.provider = background.provider.clone().map(Into::into);
                }
                line.failed = manifest.variations.iter().filter(|entry| entry.error.is_some()).count() as u64;
                if !finished.duplicate {
                    line.output_bytes = manifest
                        .variations
                        .iter()
                        .map(|entry| entry.bytes + entry.upload.as_ref().map_or(0, |copy| copy.bytes))
                        .sum();
                    line.timings = manifest.timings_ms.clone();
                    line.peak_bytes = manifest.peak_bytes;
                }
            }
            Err(failure) => {
                line.outcome = match failure.class {
                    Class::Conflict => Outcome::Conflict,
                    class if class.is_permanent() => Outcome::Failed,
                    _ => Outcome::Retry,
                };
                line.retries_exhausted = failure.class == Class::RetriesExhausted;
                line.class = Some(failure.class.name());
                line.error = Some(failure.message.clone());
            }
        }
        line
    }
}
