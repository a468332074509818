//! The jobs this instance knows: in progress, and done a short while ago; what has happened to each, for those who follow it.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::failure::{Class, Failure};
use super::storage::Location;
use crate::pipeline::event::PlannedFile;
use crate::pipeline::manifest::{self, Manifest, State};

/// The most jobs that are remembered.
const MAX_SIZE: u64 = 1_000;

/// What remembering a job takes at least, bytes: its manifest, if it has some seven variations.
const JOB_BYTES: u64 = 32 << 10;

/// What each variation in a manifest takes, bytes, counted from above.
const VARIATION_BYTES: u64 = 4 << 10;

/// What the news of each file takes, bytes, counted from above.
const NEWS_BYTES: u64 = 1 << 10;

/// News of one job that are kept: more than the largest job has.
const MOST_NEWS: usize = 8_192;

/// How long a job is remembered after its last news, at least.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(1_800);

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It waits: for memory, for processors, for somebody who does the same work, or for the next delivery.
    Queued,
    /// Its picture is being read.
    Fetching,
    /// A remote model works on its picture, or on its variations.
    Remote,
    /// Its picture is being decoded.
    Decoding,
    /// The background is being removed.
    Removing,
    /// The picture's colours are being clustered.
    Clustering,
    /// Variations are being made; finished files are stored meanwhile.
    Making,
    /// The last files and the manifest are being stored.
    Uploading,
    /// It is done, well or not.
    Done,
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Status {
    /// The job.
    pub job_id: String,
    /// Whose it is.
    pub user_id: String,
    /// Where its objects lie, `gs://bucket/…`.
    pub folder: String,
    /// Where it stands.
    pub stage: Stage,
    /// Files stored so far, without previews.
    pub stored: usize,
    /// Files that are to be made; 0 while that is not known.
    pub total: usize,
    /// The manifest, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Arc<Manifest>>,
    /// Why the last delivery did not end in a manifest; another may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<manifest::Failure>,
}

/// One piece of news of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct News {
    /// Which story of the job it belongs to: each instance that works on it tells one of its own.
    pub run: String,
    /// Its number: the first of a story is 1, and each is one more than the one before.
    pub id: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Where the job stands.
    pub stage: Stage,
    /// Files stored so far, without previews.
    pub stored: usize,
    /// Files that are to be made; 0 while that is not known.
    pub total: usize,
    /// The step that a remote model does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The file that has just been stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<StoredNews>,
    /// How the job ended, in the last news of one that has a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why a delivery, or the job, failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<manifest::Failure>,
    /// Whether nothing more will happen; where a delivery failed, another may follow.
    pub last: bool,
}

/// A file that is there to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredNews {
    /// Its name, relative to the job's folder.
    pub object: String,
    /// The palette or effect that it shows.
    pub name: String,
    /// Whether that is an effect.
    pub effect: bool,
    /// Whether it is a preview.
    pub preview: bool,
    /// Where it can be fetched, when links were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Status {
    /// What a manifest says of a job that another instance ran.
    pub fn of_manifest(folder: &Location, manifest: Manifest) -> Self {
        Self {
            job_id: manifest.job_id.clone(),
            user_id: manifest.user_id.clone(),
            folder: folder.to_string(),
            stage: Stage::Done,
            stored: made(&manifest),
            total: manifest.variations.len(),
            error: manifest.error.clone(),
            manifest: Some(Arc::new(manifest)),
        }
    }

    /// The one piece of news that there is of a job of which no more is known than this.
    pub fn news(&self) -> News {
        News {
            run: String::new(),
            id: 1,
            at_ms: now_ms(),
            stage: self.stage,
            stored: self.stored,
            total: self.total,
            step: None,
            file: None,
            state: self.manifest.as_ref().map(|manifest| manifest.state),
            error: self.error.clone(),
            last: self.manifest.is_some(),
        }
    }
}

fn made(manifest: &Manifest) -> usize {
    manifest.variations.iter().filter(|entry| entry.error.is_none()).count()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The jobs of this instance: at most a thousand, and what is known of them bounded in bytes. Clones share them.
#[derive(Clone)]
pub struct Jobs {
    known: Cache<Location, Arc<Track>>,
    max_size: u64,
    time_to_live: Duration,
    entries: Arc<AtomicU64>,
    teller: Option<Teller>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("max_size", &self.max_size).finish_non_exhaustive()
    }
}

/// Told every piece of news, in order for each job; must not wait.
pub type Teller = Arc<dyn Fn(&Status, &News) + Send + Sync>;

/// The name of the list that holds the news of the job in `folder` for other instances.
pub fn news_list(folder: &str) -> String {
    format!("news:{folder}")
}

/// All that is known of one job.
#[derive(Debug)]
pub struct Track {
    folder: Location,
    run: String,
    state: Mutex<Known>,
    /// The number of the newest news.
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    status: Status,
    news: VecDeque<News>,
    planned: Vec<PlannedFile>,
    /// The entry that writes: others are of deliveries that wait for it.
    writer: Option<u64>,
    /// When the manifest came.
    done_at: Option<Instant>,
}

/// One delivery's entry, written to as the job goes on. While another delivery's is written to, nothing is.
#[derive(Debug, Clone)]
pub struct Entry(Option<Arc<Writer>>);

/// Who writes.
#[derive(Debug)]
struct Writer {
    jobs: Jobs,
    track: Arc<Track>,
    number: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut known = self.track.known();
        if known.writer == Some(self.number) {
            known.writer = None;
        }
    }
}

impl Jobs {
    /// Room for jobs that take `max_bytes` at most, each remembered for `time_to_live` after its last news: longer than a job
    /// that runs is silent. `teller` is told their news.
    pub fn new(max_bytes: u64, time_to_live: Duration, teller: Option<Teller>) -> Self {
        let max_size = (max_bytes / JOB_BYTES).clamp(1, MAX_SIZE);
        let known = Cache::builder()
            .max_capacity(max_size * JOB_BYTES)
            .weigher(|_, track: &Arc<Track>| {
                let known = track.known();
                let variations = known.status.manifest.as_ref().map_or(0, |manifest| manifest.variations.len() as u64);
                let news = known.planned.len().max(known.news.len()) as u64;
                let bytes = (variations * VARIATION_BYTES).max(JOB_BYTES) + news.saturating_sub(16) * NEWS_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .time_to_live(time_to_live)
            .support_invalidation_closures()
            // The default would rather refuse a new job than forget one that was asked for often.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { known, max_size, time_to_live, entries: Arc::default(), teller }
    }

    /// Begins the entry of a delivery of the job in `folder`.
    pub fn begin(&self, folder: &Location, user_id: &str, job_id: &str) -> Entry {
        let track = self.known.get_with(folder.clone(), || Arc::new(Track::new(folder, user_id, job_id)));
        let number = self.entries.fetch_add(1, Ordering::Relaxed);
        let entry = Entry(Some(Arc::new(Writer { jobs: self.clone(), track, number })));
        // What is done already is not begun again by being asked for.
        entry.write(|known| {
            if known.status.manifest.is_some() {
                return None;
            }
            known.status.error = None;
            Some(Change::stage(Stage::Queued))
        });
        entry
    }

    /// What is known of a job; without a user, of any user's job of this name.
    pub fn get(&self, user_id: Option<&str>, job_id: &str) -> Option<Status> {
        self.track(user_id, job_id).map(|track| track.status())
    }

    /// The job to follow; without a user, any user's of this name.
    pub fn track(&self, user_id: Option<&str>, job_id: &str) -> Option<Arc<Track>> {
        self.known.iter().map(|(_, track)| track).find(|track| {
            let known = track.known();
            known.status.job_id == job_id && user_id.is_none_or(|user_id| known.status.user_id == user_id)
        })
    }

    /// The manifest of a job that was done here since `when`.
    pub fn done_since(&self, folder: &Location, when: Instant) -> Option<Arc<Manifest>> {
        let track = self.known.get(folder)?;
        let known = track.known();
        known.done_at.filter(|at| *at >= when)?;
        known.status.manifest.clone()
    }

    /// How many are known.
    pub fn size(&self) -> u64 {
        self.known.run_pending_tasks();
        self.known.entry_count()
    }

    /// The most that are remembered.
    pub const fn max_size(&self) -> u64 {
        self.max_size
    }

    /// How long each is remembered after its last news.
    pub const fn time_to_live(&self) -> Duration {
        self.time_to_live
    }

    /// Forgets those that are done; their manifests are stored.
    pub fn forget_done(&self) {
        // Only a cache built without support for it refuses.
        if self.known.invalidate_entries_if(|_, track| track.known().status.stage == Stage::Done).is_err() {
            self.known.invalidate_all();
        }
    }
}

impl Track {
    fn new(folder: &Location, user_id: &str, job_id: &str) -> Self {
        let status = Status {
            job_id: job_id.to_owned(),
            user_id: user_id.to_owned(),
            folder: folder.to_string(),
            stage: Stage::Queued,
            stored: 0,
            total: 0,
            manifest: None,
            error: None,
        };
        let known = Known { status, news: VecDeque::new(), planned: Vec::new(), writer: None, done_at: None };
        // Seeded by the system's randomness.
        let run = format!("{:08x}", RandomState::new().build_hasher().finish() & 0xffff_ffff);
        Self { folder: folder.clone(), run, state: Mutex::new(known), newest: watch::Sender::new(0) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the job stands.
    pub fn status(&self) -> Status {
        self.known().status.clone()
    }

    /// Its story.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Whether nobody works on it here.
    pub fn is_idle(&self) -> bool {
        self.known().writer.is_none()
    }

    /// Whether the last that happened says that nothing will any more.
    pub fn has_ended(&self) -> bool {
        self.known().news.back().is_some_and(|news| news.last)
    }

    /// The news after the one of number `after`, oldest first.
    pub fn news_after(&self, after: u64) -> Vec<News> {
        self.known().news.iter().filter(|news| news.id > after).cloned().collect()
    }

    /// Whether nothing has happened since the news of number `seen`, which said that nothing will.
    pub fn is_over(&self, seen: u64) -> bool {
        self.known().news.back().is_some_and(|news| news.last && news.id <= seen)
    }

    /// Follows the number of the newest news.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// A change that is news.
struct Change {
    stage: Stage,
    step: Option<String>,
    file: Option<StoredNews>,
    last: bool,
}

impl Change {
    const fn stage(stage: Stage) -> Self {
        Self { stage, step: None, file: None, last: false }
    }
}

impl Entry {
    /// The entry of a job whose name is not known yet: nobody can ask for it.
    pub const fn unnamed() -> Self {
        Self(None)
    }

    /// The job that it is about.
    pub fn track(&self) -> Option<Arc<Track>> {
        self.0.as_ref().map(|writer| writer.track.clone())
    }

    /// Changes what is known, and makes news of it, unless another delivery is at work.
    fn write(&self, change: impl FnOnce(&mut Known) -> Option<Change>) {
        self.write_as(false, change);
    }

    fn write_as(&self, takes_over: bool, change: impl FnOnce(&mut Known) -> Option<Change>) {
        let Some(writer) = &self.0 else { return };
        let mut known = writer.track.known();
        if !takes_over && known.writer.is_some_and(|number| number != writer.number) {
            return;
        }
        let Some(Change { stage, step, file, last }) = change(&mut known) else { return };
        known.writer = Some(writer.number);
        // The same again is no news.
        let same = known
            .news
            .back()
            .is_some_and(|news| news.stage == stage && news.step == step && news.error == known.status.error);
        if file.is_none() && !last && same {
            return;
        }
        known.status.stage = stage;
        let id = known.news.back().map_or(0, |news| news.id) + 1;
        let state = known.status.manifest.as_ref().filter(|_| last).map(|manifest| manifest.state);
        let news = News {
            run: writer.track.run.clone(),
            id,
            at_ms: now_ms(),
            stage,
            stored: known.status.stored,
            total: known.status.total,
            step,
            file,
            state,
            error: known.status.error.clone(),
            last,
        };
        if known.news.len() >= MOST_NEWS {
            known.news.pop_front();
        }
        if let Some(teller) = &writer.jobs.teller {
            teller(&known.status, &news);
        }
        known.news.push_back(news);
        drop(known);
        writer.track.newest.send_replace(id);
        // Again, so that its time begins anew and it is weighed.
        writer.jobs.known.insert(writer.track.folder.clone(), writer.track.clone());
    }

    /// Moves on to a stage.
    pub fn stage(&self, stage: Stage) {
        self.write(|known| known.status.manifest.is_none().then(|| Change::stage(stage)));
    }

    /// A remote model does a step.
    pub fn step(&self, name: &str) {
        self.write(|known| {
            let change = Change { step: Some(name.to_owned()), ..Change::stage(Stage::Remote) };
            known.status.manifest.is_none().then_some(change)
        });
    }

    /// The work is to be done, by this delivery, whatever was known of it before.
    pub fn working(&self) {
        let ours = self.0.as_ref().map(|writer| writer.number);
        self.write_as(true, |known| {
            let goes_on = known.writer == ours && known.status.manifest.is_none();
            known.status.manifest = None;
            known.done_at = None;
            known.status.error = None;
            known.status.stored = 0;
            // Where it is told of already, the stage that it has come to stands.
            (!goes_on).then(|| Change::stage(Stage::Fetching))
        });
    }

    /// These files will be made.
    pub fn planned(&self, files: Vec<PlannedFile>) {
        self.write(|known| {
            if known.status.manifest.is_some() {
                return None;
            }
            known.status.total = files.iter().filter(|file| !file.is_preview).count();
            known.planned = files;
            Some(Change::stage(Stage::Making))
        });
    }

    /// A file is stored.
    pub fn stored(&self, object: &str, link: Option<String>) {
        self.write(|known| {
            if known.status.manifest.is_some() {
                return None;
            }
            // A copy for upload is no variation of its own.
            let file = known.planned.iter().find(|file| file.object == object)?;
            let news = StoredNews {
                object: object.to_owned(),
                name: file.name.clone(),
                effect: file.is_effect,
                preview: file.is_preview,
                link,
            };
            known.status.stored += usize::from(!news.preview);
            Some(Change { file: Some(news), ..Change::stage(known.status.stage) })
        });
    }

    /// The job has its manifest.
    pub fn done(&self, manifest: &Arc<Manifest>) {
        self.write(|known| {
            if known.status.manifest.as_ref().is_some_and(|old| old.key == manifest.key) {
                return None;
            }
            known.status.stored = made(manifest);
            known.status.total = manifest.variations.len();
            known.status.manifest = Some(manifest.clone());
            known.status.error = None;
            known.done_at = Some(Instant::now());
            Some(Change { last: true, ..Change::stage(Stage::Done) })
        });
    }

    /// This delivery failed. That says something of the job only where nothing better is known: another delivery may be at work
    /// on it, or have done it.
    pub fn failed(&self, failure: &Failure) {
        let says_nothing = matches!(failure.class, Class::Busy | Class::Draining | Class::Conflict);
        self.write(|known| {
            if known.status.manifest.is_some() || (says_nothing && known.status.stage != Stage::Queued) {
                return None;
            }
            known.status.error = Some(failure.to_manifest());
            let last = failure.class.is_permanent();
            Some(Change { last, ..Change::stage(if last { Stage::Done } else { Stage::Queued }) })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(jobs: &Jobs, user: &str, id: &str) -> Entry {
        jobs.begin(&Location::parse(&format!("gs://palettes/{user}/{id}")).unwrap(), user, id)
    }

    fn manifest(variations: usize) -> Arc<Manifest> {
        Arc::new(Manifest {
            variations: vec![Default::default(); variations],
            ..serde_json::from_value(serde_json::json!({
                "job_id": "", "user_id": "", "key": "", "state": "complete", "recipe_version": "", "timings_ms": {},
                "peak_bytes": 0, "error": null, "variations": [], "source": {"uri": "", "generation": "", "sha256": ""},
            }))
            .unwrap()
        })
    }

    fn planned(object: &str, is_preview: bool) -> PlannedFile {
        PlannedFile { object: object.into(), name: "Warm".into(), is_effect: false, is_preview }
    }

    fn news(jobs: &Jobs, id: &str) -> Vec<(u64, Stage, Option<String>, bool)> {
        let news = jobs.track(None, id).unwrap().news_after(0);
        news.into_iter().map(|n| (n.id, n.stage, n.file.map(|file| file.object), n.last)).collect()
    }

    #[test]
    fn jobs_of_the_same_name_are_told_apart_by_user_and_by_place() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        begin(&jobs, "u1", "j").stage(Stage::Making);
        begin(&jobs, "u2", "j").failed(&Failure::new(Class::Deadline, "late"));
        jobs.begin(&Location::parse("gs://other/u1/j").unwrap(), "u1", "j");
        assert_eq!(jobs.get(Some("u2"), "j").unwrap().error.unwrap().class, "deadline");
        assert!(jobs.get(None, "j").is_some() && jobs.get(None, "other").is_none());
        assert_eq!(jobs.size(), 3);
        begin(&jobs, "u2", "j");
        assert_eq!(jobs.get(Some("u2"), "j").unwrap().error, None);
    }

    #[test]
    fn news_are_numbered_without_a_gap_and_nothing_is_told_twice() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        let entry = begin(&jobs, "u", "j");
        entry.stage(Stage::Fetching);
        entry.stage(Stage::Fetching);
        entry.stage(Stage::Decoding);
        entry.planned(vec![planned("a.preview.webp", true), planned("a.png", false)]);
        entry.stored("a.preview.webp", None);
        entry.stored("a.upload.jpg", None);
        entry.stored("a.png", Some("https://host/a.png".into()));
        entry.stage(Stage::Uploading);
        entry.done(&manifest(1));
        entry.done(&manifest(1));
        let expected = [
            (1, Stage::Queued, None, false),
            (2, Stage::Fetching, None, false),
            (3, Stage::Decoding, None, false),
            (4, Stage::Making, None, false),
            (5, Stage::Making, Some("a.preview.webp".to_owned()), false),
            (6, Stage::Making, Some("a.png".to_owned()), false),
            (7, Stage::Uploading, None, false),
            (8, Stage::Done, None, true),
        ];
        assert_eq!(news(&jobs, "j"), expected);
        let told = jobs.track(None, "j").unwrap().news_after(5);
        assert_eq!((told[0].stored, told[0].total, told[0].file.as_ref().unwrap().preview), (1, 1, false));
        assert_eq!(told[0].file.as_ref().unwrap().link.as_deref(), Some("https://host/a.png"));
        assert_eq!(told[2].state, Some(State::Complete));
    }

    #[test]
    fn of_two_deliveries_at_once_only_the_one_that_works_is_told_of() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        let works = begin(&jobs, "u", "j");
        works.stage(Stage::Making);
        let waits = begin(&jobs, "u", "j");
        waits.stage(Stage::Fetching);
        assert_eq!(jobs.get(None, "j").unwrap().stage, Stage::Making);
        waits.failed(&Failure::new(Class::StorageUnavailable, "down"));
        assert_eq!(jobs.get(None, "j").unwrap().error, None);
        // It dies, and the other takes over.
        drop(works);
        waits.stage(Stage::Decoding);
        assert_eq!(jobs.get(None, "j").unwrap().stage, Stage::Decoding);
        waits.done(&manifest(1));
        drop(waits);
        // What goes on after the end is nobody's business.
        let late = begin(&jobs, "u", "j");
        late.planned(vec![planned("a.png", false)]);
        late.stored("a.png", None);
        late.step("upscale");
        drop(late);
        // Asked for again, it stays done.
        begin(&jobs, "u", "j").stage(Stage::Fetching);
        assert_eq!(jobs.get(None, "j").unwrap().stage, Stage::Done);
        assert_eq!(news(&jobs, "j").last().unwrap().1, Stage::Done);
    }

    #[test]
    fn a_failure_that_may_pass_is_not_the_last_that_is_heard() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        let place = Location::parse("gs://palettes/u/j").unwrap();
        jobs.begin(&place, "u", "j").failed(&Failure::new(Class::StorageUnavailable, "down"));
        jobs.begin(&place, "u", "j").failed(&Failure::new(Class::BrokenPicture, "broken"));
        let news = jobs.track(None, "j").unwrap().news_after(1);
        let told: Vec<_> = news.iter().map(|n| (n.stage, n.error.is_some(), n.last)).collect();
        let expected = [(Stage::Queued, true, false), (Stage::Queued, false, false), (Stage::Done, true, true)];
        assert_eq!(told, expected);
        assert_eq!(news[2].error.as_ref().unwrap().class, "broken-picture");
    }

    #[test]
    fn whoever_listens_is_told_everything_in_order() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = told.clone();
        let teller: Teller = Arc::new(move |status, news| kept.lock().unwrap().push((status.job_id.clone(), news.id)));
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, Some(teller));
        let entry = begin(&jobs, "u", "j");
        entry.stage(Stage::Fetching);
        entry.done(&manifest(0));
        assert_eq!(*told.lock().unwrap(), [1, 2, 3].map(|id| ("j".to_owned(), id)));
    }

    #[test]
    fn the_number_of_jobs_is_bounded_and_so_is_what_is_known_of_them() {
        for (bytes, most) in [(100 << 20, 1_000), (32 << 20, 1_000), (3 << 20, 96)] {
            let jobs = Jobs::new(bytes, TIME_TO_LIVE, None);
            for i in 0..3_000 {
                begin(&jobs, "u", &i.to_string());
            }
            assert_eq!(jobs.max_size(), most);
            assert!(jobs.size() <= most, "{}", jobs.size());
            assert!(jobs.get(Some("u"), "2999").is_some(), "the newest is known");
        }
        // A manifest of seven hundred variations counts as eighty and more.
        let jobs = Jobs::new(3 << 20, TIME_TO_LIVE, None);
        for i in 0..10 {
            begin(&jobs, "u", &i.to_string()).done(&manifest(700));
        }
        assert!(jobs.size() <= 1, "{}", jobs.size());
    }

    #[test]
    fn running_jobs_are_not_forgotten_with_those_that_are_done() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        begin(&jobs, "u", "runs").stage(Stage::Making);
        begin(&jobs, "u", "done").failed(&Failure::new(Class::BrokenPicture, "broken"));
        jobs.forget_done();
        assert!(jobs.get(Some("u"), "runs").is_some() && jobs.get(Some("u"), "done").is_none());
    }

    #[test]
    fn a_job_without_a_name_yet_is_nobodys() {
        let jobs = Jobs::new(100 << 20, TIME_TO_LIVE, None);
        Entry::unnamed().stage(Stage::Making);
        assert_eq!(jobs.size(), 0);
    }
}
