//! The time that a job has, and what it spends it on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Worker;
use crate::service::failure::{Class, Failure};

/// How long storing may go on after the time to compute is up.
pub const LAST_UPLOADS: Duration = Duration::from_secs(3);

/// How long a file takes, from those made so far.
#[derive(Default)]
pub struct Pace {
    began: Mutex<Option<Instant>>,
    made: AtomicU64,
}

impl Pace {
    /// The first file is begun.
    pub fn begin(&self) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// Another file is made.
    pub fn made(&self) {
        self.made.fetch_add(1, Ordering::SeqCst);
    }

    /// Time that a file has taken on average; nothing before the first.
    pub fn a_file(&self) -> Duration {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let made = u32::try_from(self.made.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        began.map_or(Duration::ZERO, |began| if made == 0 { Duration::ZERO } else { began.elapsed() / made })
    }
}

/// The time a job has: until its deadline, until the worker stops, until nobody waits any more.
#[derive(Clone)]
pub struct Clock {
    worker: Worker,
    deadline: Option<Instant>,
    gone: Arc<AtomicBool>,
    comes_again: bool,
}

impl Clock {
    /// A clock that also stops when `gone` is set, for a job that comes again by itself when it does not succeed, or does not.
    pub fn new(worker: Worker, deadline: Option<Instant>, gone: Arc<AtomicBool>, comes_again: bool) -> Self {
        Self { worker, deadline, gone, comes_again }
    }

    /// Stops what runs for this job: nobody needs it.
    pub fn give_up(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Whether the job comes again when it does not succeed now.
    pub const fn comes_again(&self) -> bool {
        self.comes_again
    }

    /// When time is up, as far as that is known now.
    pub fn end(&self) -> Option<Instant> {
        match (self.deadline, self.worker.drained_at()) {
            (Some(deadline), Some(drained)) => Some(deadline.min(drained)),
            (deadline, drained) => deadline.or(drained),
        }
    }

    /// Whether something that takes this long would be done by the end.
    pub fn has_time_for(&self, time: Duration) -> bool {
        !self.gone.load(Ordering::SeqCst) && self.end().is_none_or(|end| Instant::now() + time < end)
    }

    /// Whether there is time left.
    ///
    /// # Errors
    /// [`Clock::failure`].
    pub fn check(&self) -> Result<(), Failure> {
        if self.has_time_for(Duration::ZERO) { Ok(()) } else { Err(self.failure()) }
    }

    /// What ran out.
    pub fn failure(&self) -> Failure {
        if self.worker.is_draining() {
            return Failure::new(
                Class::Draining,
                "the worker is shutting down; what is stored stays, the next delivery makes the rest",
            );
        }
        let message = "time ran out; what is stored stays, the next delivery makes the rest; ask for less in one job, or \
                       raise the subscription's ack deadline and CONCEPT_ACK_DEADLINE_SECONDS";
        Failure::new(Class::Deadline, message)
    }

    /// Waits for something that is worth nothing once time is up.
    ///
    /// # Errors
    /// [`Clock::failure`].
    pub fn in_time<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = Result<T, Failure>> {
        // Boxed here: inside the async block it would take its size twice in every job.
        let mut work = Box::pin(work);
        async move {
            loop {
                let look_again = Duration::from_millis(250);
                let left =
                    self.end().map_or(look_again, |end| end.saturating_duration_since(Instant::now()).min(look_again));
                match tokio::time::timeout(left, &mut work).await {
                    Ok(value) => return Ok(value),
                    Err(_) => self.check()?,
                }
            }
        }
    }

    /// Waits for the last things to be stored, a little beyond the end; none when even that was not enough.
    pub fn last_call<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        self.until(LAST_UPLOADS, work)
    }

    /// Waits at most this long beyond the end; none when that was not enough.
    pub fn until<T>(&self, beyond: Duration, work: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        let mut work = Box::pin(work);
        async move {
            loop {
                let left = match self.end() {
                    None => Duration::from_secs(1),
                    Some(end) => (end + beyond).saturating_duration_since(Instant::now()),
                };
                // What is done already is taken even when it is late.
                let wait = left.clamp(Duration::from_millis(20), Duration::from_secs(1));
                if let Ok(value) = tokio::time::timeout(wait, &mut work).await {
                    return Some(value);
                }
                if left.is_zero() {
                    return None;
                }
            }
        }
    }
}
