//! One delivery from message to manifest.
//!
//! A delivery is worked on in a task of its own: a caller who goes away stops it from beginning new files, but what is made is
//! still stored, so that the next delivery finds it.

mod claim;
mod clock;
mod existing;
mod fetch;
mod ingredients;
mod lease;
mod line;
mod links;
mod open;
mod plan;
mod produce;
mod record;
mod run;
mod steps;
mod uploads;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};
use tracing::Instrument as _;

use super::admission::{Admission, Occupancy, Permit, Place};
use super::cache::ResultCache;
use super::compute::Lanes;
use super::envelope::{Delivery, Payload};
use super::failure::{Class, Disposition, Failure};
use super::fair::{Fair, FairOccupancy};
use super::flight::Flights;
use super::jobs::{Jobs, Status, news_list};
use super::log::{self, JobLine};
use super::memory::{self, MemoryLimit};
use super::metrics::Metrics;
use super::models::Models;
use super::publish::Publisher;
use super::source::{SourceAddress, Sources};
use super::steps::Steps;
use super::storage::{Location, Storage};
use crate::pipeline::job::{Job, Mode};
use crate::pipeline::manifest::{Manifest, State};
use crate::pipeline::run::RunOptions;

use clock::LAST_UPLOADS;
use lease::Desk;
use line::About;
pub use links::escaped;
pub use open::{Settings, Surroundings};
pub use plan::Rules;
use run::{Facts, Task};
pub use run::{Finished, Given, Keep};

/// How long before a push request's deadline a job begins nothing more. Of this, [`LAST_UPLOADS`] are for storing, and
/// [`LAST_WORDS`] for the record or the announcement.
const ANSWER_EARLY: Duration = Duration::from_secs(8);

/// How long recording and announcing may go on after storing.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// How long the last news of a job may take to be published.
const LAST_NEWS: Duration = Duration::from_secs(1);

/// How long they may take where there is no deadline.
const UNHURRIED: Duration = Duration::from_secs(120);

/// How long a caller who brings a picture waits for memory.
const FORM_PATIENCE: Duration = Duration::from_secs(30);

/// The worker: storage, memory, processors, and everything that is known of jobs. Clones share it.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    rules: Rules,
    storage: Storage,
    sources: Sources,
    admission: Admission,
    lanes: Lanes,
    /// Sources that are open and have no memory of their own yet.
    openers: Fair,
    /// Looks at jobs that may be done already.
    lookers: Semaphore,
    flights: Flights<Result<Finished, Failure>>,
    /// Where leases are asked for.
    desk: Option<Desk>,
    cache: ResultCache,
    steps: Option<Steps>,
    jobs: Jobs,
    metrics: Metrics,
    publisher: Publisher,
    models: Models,
    /// Since when no job is begun, and until when those that run have time.
    drain: Mutex<Option<Instant>>,
    running: AtomicUsize,
    /// Whether a job has been run yet.
    warm: AtomicBool,
    /// Files made since freed memory was given back.
    made: AtomicU64,
    memory_limit: MemoryLimit,
}

/// What a caller is told who waits for a job.
pub struct Answer {
    /// How it ended.
    pub result: Result<Finished, Failure>,
    /// Its one line.
    pub line: JobLine,
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// What is to become of it.
    pub disposition: Disposition,
    /// Whether every variation of its job is there.
    pub complete: bool,
}

impl Delivered {
    const NOTHING_TO_DO: Self = Self { disposition: Disposition::Acknowledge, complete: true };
}

/// Stops a job from beginning new files when nobody waits for it any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Counts a job as running as long as it lives.
struct Running(Worker);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Worker {
    /// When a push request that arrived then must have begun its last file.
    pub fn due(&self, arrived: Instant) -> Instant {
        arrived + self.shared.settings.ack_deadline.saturating_sub(ANSWER_EARLY)
    }

    /// Works on a message, which has until `deadline` or as long as it takes, and says what is to become of it. When that is
    /// "acknowledge", either a manifest is stored or a record of why there is none. `held` is let go when it is done with,
    /// also when the caller has long gone away.
    pub async fn deliver(
        &self,
        delivery: Delivery,
        deadline: Option<Instant>,
        held: Option<OwnedSemaphorePermit>,
    ) -> Delivered {
        let worker = self.clone();
        let gone = Arc::new(AtomicBool::new(false));
        let guard = Gone(gone.clone());
        let work = async move {
            let delivered = worker.handle(delivery, deadline, gone).await;
            drop(held);
            delivered
        };
        let unfinished = Delivered { disposition: Disposition::Unavailable, complete: false };
        let delivered = tokio::spawn(work.in_current_span()).await.unwrap_or(unfinished);
        drop(guard);
        self.shared.metrics.delivery(match delivered.disposition {
            Disposition::Acknowledge => "acknowledged",
            Disposition::Busy => "busy",
            Disposition::Unavailable => "unavailable",
        });
        delivered
    }

    /// Runs a job for somebody who waits for the answer until `deadline`, or as long as it takes. `picture` is the base when it
    /// came along.
    pub async fn render(&self, job: Job, picture: Option<Given>, keep: Keep, deadline: Option<Instant>) -> Answer {
        let worker = self.clone();
        let gone = Arc::new(AtomicBool::new(false));
        let guard = Gone(gone.clone());
        let mode = job.recolor.mode;
        let work = async move {
            let plan = match &picture {
                Some(_) => worker.shared.rules.plan_given(job),
                None => worker.shared.rules.plan(job, None),
            };
            let task = plan.map(|plan| Task {
                plan,
                given: picture,
                deadline,
                keep,
                gone,
                may_resume: true,
                comes_again: false,
            });
            worker.attempt(task, Some(mode), deadline, None).await
        };
        let answer = tokio::spawn(work.in_current_span()).await;
        drop(guard);
        answer.unwrap_or_else(|_| {
            let failure = Failure::new(Class::Internal, "the worker failed on this job; report it");
            let line = JobLine { class: Some(failure.class.name()), ..JobLine::default() };
            Answer { result: Err(failure), line }
        })
    }

    async fn handle(&self, delivery: Delivery, deadline: Option<Instant>, gone: Arc<AtomicBool>) -> Delivered {
        let record_id = delivery.record_id();
        let (message_id, attempt) = (delivery.message_id.clone(), delivery.delivery_attempt);
        let body;
        let read = match delivery.payload {
            Payload::Nothing(reason) => {
                tracing::info!(message_id, reason, "nothing to do");
                return Delivered::NOTHING_TO_DO;
            }
            Payload::Unreadable { problem, body: message } => {
                body = message;
                Err(Failure::new(Class::BadMessage, problem))
            }
            Payload::Object(event) => {
                body = event.to_notification();
                self.shared.rules.job_of(&event)
            }
            Payload::Job(bytes) => {
                body = bytes.clone();
                Job::from_json(&bytes)
                    .map(|job| Some((job, None)))
                    .map_err(|error| Failure::new(Class::BadJob, error.to_string()))
            }
        };
        let (job, task) = match read {
            Ok(None) => {
                tracing::info!(message_id, "the object is one of this worker's own");
                return Delivered::NOTHING_TO_DO;
            }
            Ok(Some((job, generation))) => {
                let plan = self.shared.rules.plan(job.clone(), generation);
                // Where deliveries are counted, nothing can be there before the first.
                let may_resume = attempt != Some(1);
                let task = plan.map(|plan| Task {
                    plan,
                    given: None,
                    deadline,
                    keep: Keep::Stored,
                    gone,
                    may_resume,
                    comes_again: true,
                });
                (Some(job), task)
            }
            Err(failure) => (None, Err(failure)),
        };
        let mode = job.as_ref().map(|job| job.recolor.mode);
        let message = record::Message { id: message_id, record_id, attempt, body };
        let Answer { result, .. } = self.attempt(task, mode, deadline, Some((&message, job.as_ref()))).await;
        match result {
            Ok(finished) => Delivered {
                disposition: Disposition::Acknowledge,
                complete: finished.manifest.state == State::Complete,
            },
            Err(failure) => Delivered { disposition: failure.class.disposition(), complete: false },
        }
    }

    /// Runs a task, records what came of it, and writes the job's line. Of a job that a message brought, what only its sender
    /// can mend is recorded; other callers read the answer.
    async fn attempt(
        &self,
        task: Result<Task, Failure>,
        mode: Option<Mode>,
        deadline: Option<Instant>,
        message: Option<(&record::Message, Option<&Job>)>,
    ) -> Answer {
        let arrived = Instant::now();
        let running = self.begin_running();
        let cold = !self.shared.warm.swap(true, Ordering::SeqCst);
        let mut facts = Facts::default();
        let user = match (&task, message) {
            (Ok(task), _) => Some(task.plan.user.clone()),
            (Err(_), Some((_, Some(job)))) => job.user_id.clone(),
            (Err(_), _) => None,
        };
        let keep = task.as_ref().map_or(Keep::Stored, |task| task.keep);
        let mut result = match task {
            Ok(_) if self.is_draining() => {
                Err(Failure::new(Class::Draining, "the worker is shutting down; send the job again"))
            }
            Ok(task) => self.execute(task, &mut facts, arrived).await,
            Err(failure) => Err(failure),
        };
        // The record must be stored before the answer is due, and then there is a moment to tell others.
        let last_word = deadline.map_or_else(
            || Instant::now() + UNHURRIED,
            |deadline| (deadline + LAST_UPLOADS + LAST_WORDS).max(Instant::now() + Duration::from_millis(500)),
        );
        if let (Err(failure), Some((message, job))) = (&result, message)
            && let Some(settled) = Box::pin(self.settle(failure, message, job, &facts, last_word)).await
        {
            result = Err(settled);
        }
        if let (Err(failure), Some(entry)) = (&result, facts.entry.take()) {
            entry.failed(failure);
        }
        // Also of duplicates that a message brought: whoever made it may have died before it could tell.
        if let (Ok(finished), Keep::Stored) = (&result, keep)
            && (!finished.duplicate || message.is_some())
            && timeout_at(last_word.into(), Box::pin(self.announce(&finished.manifest, &finished.folder)))
                .await
                .is_err()
        {
            tracing::warn!(job_id = finished.manifest.job_id, "there was no time to publish the result");
        }
        let left = last_word.saturating_duration_since(Instant::now());
        self.shared.publisher.flush_progress(LAST_NEWS.min(left)).await;
        self.recycle(&result);
        let about = About { facts: &facts, user, mode, cold, arrived, message: message.map(|(message, _)| message) };
        let line = about.line(&result);
        log::job_line(&line);
        if line.cached {
            self.shared.metrics.cache_hit();
        } else if result.is_ok() {
            self.shared.metrics.cache_miss();
        }
        self.shared.metrics.job_finished(&line);
        drop(running);
        Answer { result, line }
    }

    fn begin_running(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    /// Publishes a manifest. A topic that fails costs the message, never the job: the manifest is stored.
    async fn announce(&self, manifest: &Manifest, folder: &Location) {
        let Ok(json) = serde_json::to_vec(manifest) else { return };
        let attributes = record::attributes(manifest, folder);
        let attributes: Vec<(&str, &str)> = attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let published = match manifest.state {
            State::Complete | State::Partial => self.shared.publisher.result(json.into(), &attributes).await,
            State::Failed => self.shared.publisher.failed(json.into(), &attributes).await,
        };
        if let Err(error) = published {
            tracing::warn!(%error, job_id = manifest.job_id, "the result could not be published");
        }
    }

    /// Gives freed memory back to the system every so many files.
    fn recycle(&self, result: &Result<Finished, Failure>) {
        let interval = self.shared.settings.garbage_collection_interval;
        let Ok(finished) = result else { return };
        if finished.duplicate || interval == 0 {
            return;
        }
        let files = finished.manifest.variations.len() as u64;
        let made = self.shared.made.fetch_add(files, Ordering::SeqCst) + files;
        if made >= interval {
            self.shared.made.store(0, Ordering::SeqCst);
            memory::give_back();
        }
    }

    /// Runs one tiny job end to end, without storage: the first real one finds threads, code and memory warm.
    ///
    /// # Errors
    /// [`Failure`] of that job.
    pub async fn warm_up(&self) -> Result<Duration, Failure> {
        let start = Instant::now();
        open::tiny_job(&self.shared.lanes).await?;
        self.shared.warm.store(true, Ordering::SeqCst);
        Ok(start.elapsed())
    }

    /// Begins no more jobs, and lets those that run go on for a while.
    pub fn drain(&self) {
        let time = self.shared.settings.shutdown.saturating_sub(LAST_UPLOADS);
        let mut drain = self.shared.drain.lock().unwrap_or_else(PoisonError::into_inner);
        drain.get_or_insert(Instant::now() + time);
    }

    /// Waits until nothing runs any more, at most as long as the settings give.
    pub async fn drained(&self) {
        // Counted from the signal, whoever else has waited since.
        let end = self.drained_at().unwrap_or_else(Instant::now) + LAST_UPLOADS;
        while self.shared.running.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.shared.publisher.flush().await;
    }

    /// The trained models.
    pub fn models(&self) -> &Models {
        &self.shared.models
    }

    /// A picture from where jobs may read them.
    ///
    /// # Errors
    /// [`Failure`] of the source.
    pub async fn picture(&self, source: &str) -> Result<Vec<u8>, Failure> {
        let opened = self.shared.sources.open(&SourceAddress::parse(source)?, None).await?;
        Ok(opened.whole().await?)
    }

    /// Whether no job is begun any more.
    pub fn is_draining(&self) -> bool {
        self.drained_at().is_some()
    }

    fn drained_at(&self) -> Option<Instant> {
        *self.shared.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the queue and memory for this many bytes that a caller brings, before they are read.
    ///
    /// # Errors
    /// [`Class::Busy`] when the queue is full or there is no memory within half a minute; [`Class::PictureTooLarge`] when
    /// there will never be as much.
    pub async fn make_room(&self, bytes: u64) -> Result<(Place, Permit), Failure> {
        let place = self.shared.admission.enter()?;
        match timeout(FORM_PATIENCE, self.shared.admission.acquire(bytes)).await {
            Ok(permit) => Ok((place, permit?)),
            Err(_) => Err(Failure::new(Class::Busy, "there is no memory for the picture now; send it again later")),
        }
    }

    /// Takes memory away from all jobs for good.
    ///
    /// # Errors
    /// As of [`Admission::set_aside`].
    pub fn set_aside(&self, bytes: u64) -> Result<(), Failure> {
        self.shared.admission.set_aside(bytes)
    }

    /// Opens a connection to the storage.
    ///
    /// # Errors
    /// [`Failure`] of the destination.
    pub async fn touch_storage(&self) -> Result<(), Failure> {
        let asked = self.shared.storage.stat(&self.shared.rules.default_destination.join("_warmup")).await;
        asked.map(drop).map_err(|error| Failure::of_destination(&error))
    }

    /// The options of every run.
    pub fn options(&self) -> &RunOptions {
        &self.shared.rules.options
    }

    /// What is known of a job here; or its manifest, if the user is named and it lies in the default place.
    ///
    /// # Errors
    /// [`Failure`] of the destination.
    pub async fn status(&self, user_id: Option<&str>, job_id: &str) -> Result<Option<Status>, Failure> {
        let track = self.shared.jobs.track(user_id, job_id);
        // What nobody works on here any more may have been done elsewhere since.
        let unsure = track.as_ref().is_none_or(|track| track.is_idle());
        let known = track.map(|track| track.status());
        let unsure = unsure && known.as_ref().is_none_or(|status| status.manifest.is_none());
        let (Some(user), true) = (user_id, unsure) else {
            return Ok(known);
        };
        let folder = known.as_ref().and_then(|status| Location::parse(&status.folder).ok());
        let folder = folder.unwrap_or_else(|| self.shared.rules.default_destination.join(user).join(job_id));
        match (existing::read(&self.shared.storage, &folder).await, known) {
            (Ok(Some((Some(manifest), _))), _) => Ok(Some(Status::of_manifest(&folder, manifest))),
            // Where storage cannot be asked, what is known here is still something.
            (Ok(_), known) | (Err(_), known @ Some(_)) => Ok(known),
            (Err(failure), None) => Err(failure),
        }
    }

    /// The list in the shared cache that holds news of a job of another instance, in the default place; none without such a cache.
    pub fn news_elsewhere(&self, user_id: &str, job_id: &str) -> Option<String> {
        self.shared.cache.shared()?;
        let folder = self.shared.rules.default_destination.join(user_id).join(job_id);
        Some(news_list(&folder.to_string()))
    }

    /// Jobs that run, counted from arrival to answer.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// What admission looks like.
    pub fn occupancy(&self) -> Occupancy {
        self.shared.admission.occupancy()
    }

    /// The jobs known here.
    pub fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// What may serve several jobs.
    pub fn cache(&self) -> &ResultCache {
        &self.shared.cache
    }

    /// The classes of work, and how busy each is.
    pub fn classes(&self) -> Vec<(&'static str, FairOccupancy)> {
        let own = [("source", self.shared.openers.occupancy()), ("cpu", self.shared.lanes.occupancy())];
        own.into_iter().chain(self.shared.steps.iter().flat_map(Steps::occupancy)).collect()
    }

    /// Remote models, where an API is set up.
    pub fn steps(&self) -> Option<&Steps> {
        self.shared.steps.as_ref()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The storage.
    pub fn storage(&self) -> &Storage {
        &self.shared.storage
    }

    /// The memory that the worker may use, and who says so.
    pub fn memory_limit(&self) -> MemoryLimit {
        self.shared.memory_limit
    }

    /// Processors that compute.
    pub fn processors(&self) -> usize {
        self.shared.lanes.width()
    }

    /// The most bytes a picture may have.
    pub fn max_source_bytes(&self) -> u64 {
        self.shared.settings.max_source_bytes
    }
}
