//! One job from its source to its manifest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::Worker;
use super::existing::{self, Existing};
use super::plan::Plan;
use super::uploads::{Shelf, Stored, Uploads};
use crate::pipeline::decode::{self, DecodeError, Limits, Probe};
use crate::pipeline::footprint;
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::manifest::Manifest;
use crate::pipeline::outlet::{HandOver, MadeFile, Start};
use crate::pipeline::output::{StoredFile, crc32c_text};
use crate::pipeline::run::{self, Event, RunOptions};
use crate::pipeline::variation::{self, STOPPED};
use crate::service::admission::Permit;
use crate::service::failure::{Class, Failure};
use crate::service::jobs::{Entry, Stage};
use crate::service::storage::{Location, Stat};

/// Requests for stored files that are under way at once when a job is resumed.
const PROBES_AT_ONCE: usize = 16;

/// How long storing may go on after the time to compute is up.
pub const LAST_UPLOADS: Duration = Duration::from_secs(3);

/// A job to run.
pub struct Task {
    /// What to do.
    pub plan: Plan,
    /// The picture, where it came along.
    pub given: Option<Given>,
    /// When the answer must be there.
    pub deadline: Option<Instant>,
    /// Whether the one picture is to be answered with instead of stored.
    pub keep: Keep,
    /// Set when nobody waits for the answer any more.
    pub gone: Arc<AtomicBool>,
    /// Whether an earlier delivery may have stored something.
    pub may_resume: bool,
}

/// A picture that came along.
pub struct Given {
    /// Its file.
    pub bytes: Vec<u8>,
    /// The memory that was taken for it before it was read.
    pub permit: Option<Permit>,
}

/// What becomes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They are stored.
    Stored,
    /// The first one is the answer.
    Picture,
}

/// A job that ended in a manifest.
pub struct Finished {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The job's folder.
    pub folder: Location,
    /// Whether it was there already.
    pub duplicate: bool,
    /// The picture, for [`Keep::Picture`].
    pub picture: Option<MadeFile>,
}

/// What was measured on the way, also of jobs that failed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The job's name, once it is known.
    pub job_id: Option<String>,
    /// The key of the work, once it is known.
    pub key: Option<String>,
    /// Generation of the source.
    pub generation: Option<String>,
    /// Size of the source, bytes.
    pub source_bytes: u64,
    /// Files found stored by an earlier delivery.
    pub adopted: usize,
    /// Waiting for memory and processors.
    pub queued: Duration,
    /// Reading the source.
    pub fetched: Duration,
    /// From arrival to the first stored variation.
    pub first_variation: Option<Duration>,
}

impl Worker {
    /// Runs a job to its manifest. `facts` is filled in on the way, `entry` told how far it is.
    ///
    /// # Errors
    /// [`Failure`]; nothing that was stored is lost by it.
    pub(super) async fn execute(&self, task: Task, facts: &mut Facts, arrived: Instant) -> Result<Finished, Failure> {
        let Task { plan, given, deadline, keep, gone, may_resume } = task;
        let options = self.options();
        facts.job_id.clone_from(&plan.job.job_id);
        let clock = Clock { worker: self.clone(), deadline, gone };
        clock.check()?;
        let place = self.shared.admission.enter()?;
        let name = plan.job.job_id.clone().unwrap_or_else(|| "-".into());
        let mut entry = self.shared.jobs.begin(&plan.user, &name);
        entry.stage(Stage::Fetching);
        let queued = Instant::now();
        // A picture that came along has its memory already, and must not wait behind those that have none yet.
        let opener = match &given {
            Some(_) => None,
            None => Some(clock.in_time(self.shared.openers.acquire()).await?),
        };
        facts.queued += queued.elapsed();

        // Is it done already? Asked while the source is opened, where the job's name is known.
        let fetching = Instant::now();
        let folder_of = |id: &str| plan.destination.join(&plan.user).join(id);
        let look = async {
            match (&plan.job.job_id, keep) {
                (Some(id), Keep::Stored) => existing::look(&self.shared.storage, &folder_of(id)).await.map(Some),
                _ => Ok(None),
            }
        };
        let (given, mut early) = given.map_or((None, None), |given| (Some(given.bytes), given.permit));
        let open = async {
            match (given, &plan.source) {
                (Some(bytes), _) => Ok(self.shared.sources.given(bytes)),
                (None, Some(address)) => self.shared.sources.open(address, plan.generation.as_deref()).await,
                (None, None) => Ok(self.shared.sources.given(Vec::new())),
            }
        };
        let (found, opened) = clock.in_time(async { tokio::join!(look, open) }).await?;
        let mut found = found?;
        let mut source = match opened {
            Ok(source) => source,
            Err(error) => {
                // Done work stays done when its source is gone.
                if let (Some(Existing::Final(manifest)), Some(id)) = (&found, &plan.job.job_id)
                    && Identity::new(&plan.job, &manifest.source.generation, options).key == manifest.key
                {
                    return Ok(duplicate(manifest, folder_of(id)));
                }
                return Err(error.into());
            }
        };
        facts.generation = source.generation.clone();
        facts.source_bytes = source.size.unwrap_or(0);

        // Without a generation, the content itself tells which picture it is.
        let mut whole = None;
        let identity_of = |what: &str| Identity::new(&plan.job, what, options);
        let identity = match &source.generation {
            Some(generation) => identity_of(generation),
            None => {
                if !source.is_whole() {
                    let most = self.shared.admission.occupancy().capacity / 2;
                    let size = source.size.unwrap_or(self.shared.settings.max_source_bytes.min(most));
                    early = Some(clock.in_time(self.shared.admission.acquire(size)).await??);
                }
                let bytes = clock.in_time(source.whole()).await??;
                let identity = identity_of(&sha256_hex(&bytes));
                source = self.shared.sources.given(Vec::new());
                whole = Some(bytes);
                identity
            }
        };
        facts.job_id = Some(identity.job_id.clone());
        facts.key = Some(identity.key.clone());
        let folder = folder_of(&identity.job_id);
        if plan.job.job_id.is_none() {
            entry = self.shared.jobs.begin(&plan.user, &identity.job_id);
            entry.stage(Stage::Fetching);
            if keep == Keep::Stored {
                found = Some(clock.in_time(existing::look(&self.shared.storage, &folder)).await??);
            }
        }
        match &found {
            Some(Existing::Final(manifest)) if manifest.key == identity.key => {
                entry.done(manifest);
                return Ok(duplicate(manifest, folder));
            }
            Some(Existing::Final(_)) => return Err(existing::conflict(&folder)),
            Some(Existing::Foreign) => return Err(existing::conflict(&folder)),
            Some(Existing::Failed { .. } | Existing::None) | None => {}
        }

        // Memory first, then the rest of the picture, and meanwhile the question what an earlier delivery stored.
        let waited = Instant::now();
        let mut fetched = fetching.elapsed();
        let header = match &whole {
            Some(bytes) => self.probe(bytes, true)?,
            None => {
                clock.in_time(source.head()).await??;
                let whole = source.is_whole();
                self.probe(source.head().await?, whole)?
            }
        };
        entry.stage(Stage::Queued);
        let mut permit = match (&header, early) {
            (Some(probe), None) => clock.in_time(self.permit(probe, facts.source_bytes, &plan)).await??,
            // The header lies behind a large block of metadata: it is all read before it is known what it takes.
            (None, None) => clock.in_time(self.shared.admission.acquire(facts.source_bytes)).await??,
            (_, Some(permit)) => permit,
        };
        drop(opener);
        facts.queued += waited.elapsed();
        entry.stage(Stage::Fetching);
        let fetching = Instant::now();
        let read = async {
            match whole {
                Some(bytes) => Ok(bytes),
                None => source.whole().await.map_err(Failure::from),
            }
        };
        let stored = async {
            if may_resume && keep == Keep::Stored {
                self.stored(&plan, &folder, &identity, options).await
            } else {
                Ok(HashMap::new())
            }
        };
        let (bytes, stored) = clock.in_time(async { tokio::join!(read, stored) }).await?;
        let (bytes, stored) = (bytes?, stored?);
        facts.source_bytes = bytes.len() as u64;
        let header = match header {
            Some(probe) => Some(probe),
            None => self.probe(&bytes, true)?,
        };
        let probe = header.ok_or_else(|| Failure::new(Class::BrokenPicture, "source: the picture has no header"))?;
        self.check_work(&probe, &plan)?;
        let needed = self.peak(&probe, facts.source_bytes, &plan);
        clock.in_time(self.shared.admission.grow(&mut permit, needed)).await??;
        fetched += fetching.elapsed();
        facts.fetched = fetched;
        facts.adopted = stored.len();
        if let Some(generation) = &facts.generation {
            tracing::debug!(generation, bytes = bytes.len(), resumed = stored.len(), "the picture is read");
        }

        self.produce(
            Production {
                plan,
                identity,
                folder,
                found: found.unwrap_or(Existing::None),
                bytes,
                probe,
                permit,
                stored,
                keep,
                clock,
                entry,
                place: Some(place),
                arrived,
            },
            facts,
        )
        .await
    }

    /// Computes, stores what is made while it computes, and writes the manifest last.
    async fn produce(&self, production: Production, facts: &mut Facts) -> Result<Finished, Failure> {
        let Production {
            plan,
            identity,
            folder,
            found,
            bytes,
            probe,
            permit,
            stored,
            keep,
            clock,
            entry,
            place,
            arrived,
        } = production;
        let options = self.options();
        let waiting_bytes = footprint::waiting_bytes(&probe, &plan.job, options);
        let shelf = Shelf {
            storage: self.shared.storage.clone(),
            folder: folder.clone(),
            work_key: identity.key.clone(),
            content_addressed: Identity::is_derived(&plan.job),
        };
        let first = Arc::new(AtomicU64::new(u64::MAX));
        let on_stored = {
            let (first, entry) = (first.clone(), entry.clone());
            move |_: &str| {
                let micros = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
                first.fetch_min(micros, Ordering::SeqCst);
                entry.update(|status| status.stored += 1);
            }
        };
        let uploads = Uploads::start(
            shelf.clone(),
            self.shared.settings.connection_pool_size,
            waiting_bytes,
            self.shared.metrics.clone(),
            on_stored,
        );
        let intake = uploads.intake();
        let picture = Arc::new(Mutex::new(None));
        let pace = Arc::new(Pace::default());
        let work = {
            let (job, identity, options) = (plan.job.clone(), identity.clone(), options.clone());
            let (stored, clock, picture, entry) = (stored.clone(), clock.clone(), picture.clone(), entry.clone());
            let mut permit = permit;
            move || {
                let start = |object: &str| {
                    if let Some(stat) = stored.get(object) {
                        return Start::Stored(StoredFile {
                            bytes: stat.bytes,
                            crc32c: stat.crc32c.map(crc32c_text).unwrap_or_default(),
                        });
                    }
                    if intake.has_failed() || !clock.has_time_for(pace.a_file()) {
                        return Start::Stop;
                    }
                    Start::Make
                };
                let take = |file: MadeFile| {
                    pace.made();
                    match keep {
                        Keep::Stored => intake.take(file),
                        Keep::Picture => {
                            picture.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(file);
                            Ok(())
                        }
                    }
                };
                let observe = |event: Event| {
                    if let Event::Planned { total } = event {
                        pace.begin();
                        entry.update(|status| status.total = total);
                    }
                };
                let manifest =
                    run::make(&job, &identity, &bytes, HandOver { start: &start, take: &take }, &options, &observe);
                drop(bytes);
                // What is still on its way into storage is all that is left.
                permit.try_resize(waiting_bytes.min(permit.bytes()));
                (manifest, permit)
            }
        };
        let waited = Instant::now();
        let mut began = waited;
        let (manifest, permit) = self
            .shared
            .lanes
            .run(
                || {
                    drop(place);
                    entry.stage(Stage::Making);
                    began = Instant::now();
                },
                work,
            )
            .await?;
        facts.queued += began - waited;
        entry.stage(Stage::Storing);
        let storing = Instant::now();
        let results = match clock.last_call(uploads.finish()).await {
            Some(results) => results,
            None => return Err(clock.failure()),
        };
        drop(permit);
        let first = first.load(Ordering::SeqCst);
        facts.first_variation = (first != u64::MAX).then(|| Duration::from_micros(first));

        let mut manifest = manifest;
        if let Some(error) = manifest.error.take() {
            return Err(Failure::new(Class::of(&error.class).unwrap_or(Class::Internal), error.message));
        }
        if keep == Keep::Stored {
            complete(&mut manifest, &results, &stored, &clock)?;
        }
        manifest.source.generation = facts.generation.clone().unwrap_or_default();
        let mut timing = |stage: &str, time: Duration| {
            manifest.timings_ms.insert(stage.into(), (time.as_secs_f64() * 1e6).round() / 1e3);
        };
        timing("queue", facts.queued);
        timing("fetch", facts.fetched);
        timing("store", storing.elapsed());
        timing("total", arrived.elapsed());
        let picture = picture.lock().unwrap_or_else(PoisonError::into_inner).take();
        if keep == Keep::Picture {
            if manifest.variations.iter().any(|entry| entry.error.as_ref().is_some_and(|e| e.class == STOPPED)) {
                return Err(clock.failure());
            }
            let manifest = Arc::new(manifest);
            return Ok(Finished { manifest, folder, duplicate: false, picture });
        }
        // Links are a convenience: the names are the truth, and links can be signed again.
        match clock.last_call(self.link(&mut manifest, &folder)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, job_id = manifest.job_id, "the manifest has no links"),
            None => return Err(clock.failure()),
        }
        let written = clock.last_call(existing::write(&shelf, manifest, found)).await;
        let (manifest, duplicate) = written.unwrap_or_else(|| Err(clock.failure()))?;
        entry.done(&manifest);
        Ok(Finished { manifest, folder, duplicate, picture: None })
    }

    /// The header's facts; none when more bytes are needed to find it.
    fn probe(&self, head: &[u8], whole: bool) -> Result<Option<Probe>, Failure> {
        let limits = Limits { max_pixels: self.options().max_pixels, max_source_bytes: u64::MAX, ..Limits::default() };
        match decode::probe(head, &limits) {
            Ok(probe) => Ok(Some(probe)),
            Err(DecodeError::Truncated { .. } | DecodeError::Broken { .. }) if !whole => Ok(None),
            Err(error) => {
                let class = Class::of(error.class()).unwrap_or(Class::BrokenPicture);
                Err(Failure::new(class, run::explain(error.to_string(), error.class())))
            }
        }
    }

    fn check_work(&self, probe: &Probe, plan: &Plan) -> Result<(), Failure> {
        let limit = self.shared.settings.max_work_megapixels.saturating_mul(1_000_000);
        let work = footprint::work_pixels(probe, &plan.job, self.options());
        if work <= limit {
            return Ok(());
        }
        let message = format!(
            "the job asks for {} million pixels of variations, more than the limit of {}; ask for fewer palettes or outputs, \
             or raise CONCEPT_MAX_WORK_MEGAPIXELS",
            work.div_ceil(1_000_000),
            self.shared.settings.max_work_megapixels
        );
        Err(Failure::new(Class::TooMuchWork, message))
    }

    fn peak(&self, probe: &Probe, source_bytes: u64, plan: &Plan) -> u64 {
        footprint::peak_bytes(probe, source_bytes, &plan.job, self.options(), self.shared.lanes.width())
    }

    async fn permit(&self, probe: &Probe, source_bytes: u64, plan: &Plan) -> Result<Permit, Failure> {
        self.check_work(probe, plan)?;
        self.shared.admission.acquire(self.peak(probe, source_bytes, plan)).await
    }

    /// Files of the job that an earlier delivery of the same work stored.
    async fn stored(
        &self,
        plan: &Plan,
        folder: &Location,
        identity: &Identity,
        options: &RunOptions,
    ) -> Result<HashMap<String, Stat>, Failure> {
        let mut names = run::object_names(&plan.job, options);
        if options.upload_over.is_some() {
            let copies: Vec<String> =
                names.iter().filter(|name| name.ends_with(".png")).map(|name| variation::upload_name(name)).collect();
            names.extend(copies);
        }
        let storage = &self.shared.storage;
        let ask = |name: String| async move {
            let location = folder.join(&name);
            storage.stat(&location).await.map(|stat| stat.map(|stat| (name, stat)))
        };
        let mut answers = stream::iter(names).map(ask).buffer_unordered(PROBES_AT_ONCE);
        let mut stored = HashMap::new();
        while let Some(answer) = answers.next().await {
            match answer.map_err(|error| Failure::of_destination(&error))? {
                Some((name, stat)) if stat.work_key.as_deref() == Some(&identity.key) => {
                    stored.insert(name, stat);
                }
                Some(_) => return Err(existing::conflict(folder)),
                None => {}
            }
        }
        Ok(stored)
    }
}

/// Everything that computing needs.
struct Production {
    plan: Plan,
    identity: Identity,
    folder: Location,
    found: Existing,
    bytes: Vec<u8>,
    probe: Probe,
    permit: Permit,
    stored: HashMap<String, Stat>,
    keep: Keep,
    clock: Clock,
    entry: Entry,
    place: Option<crate::service::admission::Place>,
    arrived: Instant,
}

fn duplicate(manifest: &Arc<Manifest>, folder: Location) -> Finished {
    Finished { manifest: manifest.clone(), folder, duplicate: true, picture: None }
}

/// Writes into the manifest what storage answered; a file that is not there fails the delivery, not the job.
fn complete(
    manifest: &mut Manifest,
    results: &Stored,
    stored: &HashMap<String, Stat>,
    clock: &Clock,
) -> Result<(), Failure> {
    let find = |object: &str| match (results.get(object), stored.get(object)) {
        (Some(Ok(stat)), _) | (None, Some(stat)) => Ok(stat.clone()),
        (Some(Err(error)), _) => Err(Failure::of_destination(error)),
        (None, None) => Err(Failure::new(Class::StorageUnavailable, format!("destination: {object} was not stored"))),
    };
    // What storage said goes before what followed from it.
    if let Some(error) = results.values().find_map(|result| result.as_ref().err()) {
        return Err(Failure::of_destination(error));
    }
    for entry in &mut manifest.variations {
        let errors = entry.error.iter().chain(entry.upload.iter().filter_map(|copy| copy.error.as_ref()));
        for error in errors {
            match error.class.as_str() {
                STOPPED => return Err(clock.failure()),
                "storage" => return Err(Failure::new(Class::StorageUnavailable, error.message.clone())),
                _ => {}
            }
        }
        if entry.error.is_none() {
            let stat = find(&entry.object)?;
            entry.generation = stat.generation;
            entry.bytes = stat.bytes;
            entry.crc32c = stat.crc32c.map_or_else(|| entry.crc32c.clone(), crc32c_text);
        }
        if let Some(copy) = entry.upload.as_mut().filter(|copy| copy.error.is_none()) {
            let stat = find(&copy.object)?;
            copy.generation = stat.generation;
            copy.bytes = stat.bytes;
            copy.crc32c = stat.crc32c.map_or_else(|| copy.crc32c.clone(), crc32c_text);
        }
    }
    Ok(())
}

/// How long a file takes, from those made so far.
#[derive(Default)]
struct Pace {
    began: Mutex<Option<Instant>>,
    made: AtomicU64,
}

impl Pace {
    fn begin(&self) {
        self.began.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    fn made(&self) {
        self.made.fetch_add(1, Ordering::SeqCst);
    }

    /// Time that a file has taken on average; nothing before the first.
    fn a_file(&self) -> Duration {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let made = u32::try_from(self.made.load(Ordering::SeqCst)).unwrap_or(u32::MAX);
        began.map_or(Duration::ZERO, |began| if made == 0 { Duration::ZERO } else { began.elapsed() / made })
    }
}

/// The time a job has: until its deadline, until the worker stops, until nobody waits any more.
#[derive(Clone)]
pub(super) struct Clock {
    worker: Worker,
    deadline: Option<Instant>,
    gone: Arc<AtomicBool>,
}

impl Clock {
    fn end(&self) -> Option<Instant> {
        match (self.deadline, self.worker.drained_at()) {
            (Some(deadline), Some(drained)) => Some(deadline.min(drained)),
            (deadline, drained) => deadline.or(drained),
        }
    }

    fn has_time_for(&self, time: Duration) -> bool {
        !self.gone.load(Ordering::SeqCst) && self.end().is_none_or(|end| Instant::now() + time < end)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.has_time_for(Duration::ZERO) { Ok(()) } else { Err(self.failure()) }
    }

    /// What ran out.
    fn failure(&self) -> Failure {
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
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::pin!(work);
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

    /// Waits for the last things to be stored, a little beyond the end; none when even that was not enough.
    async fn last_call<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let left = match self.end() {
                None => Duration::from_secs(1),
                Some(end) => (end + LAST_UPLOADS).saturating_duration_since(Instant::now()),
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

/// Bytes as they are stored, with their checksum.
pub(super) fn checked(content: Vec<u8>) -> (Bytes, u32) {
    let crc32c = crc32c::crc32c(&content);
    (Bytes::from(content), crc32c)
}
