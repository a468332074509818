//! The jobs this instance knows: in progress, and done a short while ago.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use schemars::JsonSchema;
use serde::Serialize;

use super::failure::{Class, Failure};
use super::storage::Location;
use crate::pipeline::manifest::{self, Manifest};

/// The most jobs that are remembered.
const MAX_SIZE: u64 = 1_000;

/// What remembering a job takes at least, bytes: its manifest, if it has some seven variations.
const JOB_BYTES: u64 = 32 << 10;

/// What each variation in a manifest takes, bytes, counted from above.
const VARIATION_BYTES: u64 = 4 << 10;

/// How long a job is remembered after its last news.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(900);

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It waits for memory or processors.
    Queued,
    /// Its picture is being read.
    Fetching,
    /// It computes; finished files are stored meanwhile.
    Making,
    /// The last files and the manifest are being stored.
    Storing,
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
    /// Files stored so far.
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

impl Status {
    /// What a manifest says of a job that another instance ran.
    pub fn of_manifest(folder: &Location, manifest: Manifest) -> Self {
        Self {
            job_id: manifest.job_id.clone(),
            user_id: manifest.user_id.clone(),
            folder: folder.to_string(),
            stage: Stage::Done,
            stored: manifest.variations.iter().filter(|entry| entry.error.is_none()).count(),
            total: manifest.variations.len(),
            error: manifest.error.clone(),
            manifest: Some(Arc::new(manifest)),
        }
    }
}

/// The jobs of this instance: at most a thousand, and what is known of them bounded in bytes. Clones share them.
#[derive(Debug, Clone)]
pub struct Jobs {
    known: Cache<Location, Arc<Status>>,
    max_size: u64,
}

/// One job's entry, written to as the job goes on.
#[derive(Debug, Clone)]
pub struct Entry(Option<Named>);

/// Whose entry it is.
#[derive(Debug, Clone)]
struct Named {
    jobs: Jobs,
    folder: Location,
    user_id: String,
    job_id: String,
}

impl Jobs {
    /// Room for jobs in a process that may hold `memory_limit` bytes; they take a tenth of that at most.
    pub fn new(memory_limit: u64) -> Self {
        let max_size = (memory_limit / 10 / JOB_BYTES).clamp(1, MAX_SIZE);
        let known = Cache::builder()
            .max_capacity(max_size * JOB_BYTES)
            .weigher(|_, status: &Arc<Status>| {
                let variations = status.manifest.as_ref().map_or(0, |manifest| manifest.variations.len() as u64);
                u32::try_from((variations * VARIATION_BYTES).max(JOB_BYTES)).unwrap_or(u32::MAX)
            })
            .time_to_live(TIME_TO_LIVE)
            .support_invalidation_closures()
            // The default would rather refuse a new job than forget one that was asked for often.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { known, max_size }
    }

    /// Begins the entry of the job in `folder`, or goes on with it.
    pub fn begin(&self, folder: &Location, user_id: &str, job_id: &str) -> Entry {
        let entry = Entry(Some(Named {
            jobs: self.clone(),
            folder: folder.clone(),
            user_id: user_id.to_owned(),
            job_id: job_id.to_owned(),
        }));
        entry.update(|status| {
            status.stage = Stage::Queued;
            status.error = None;
        });
        entry
    }

    /// A delivery of the job in `folder` failed. That says something of the job only where nothing better is known: another
    /// delivery may be at work on it, or have done it.
    pub fn failed(&self, folder: &Location, failure: &Failure) {
        let says_nothing = matches!(failure.class, Class::Busy | Class::Draining | Class::Conflict);
        let Some(status) = self.known.get(folder) else { return };
        if status.manifest.is_some() || (says_nothing && status.stage != Stage::Queued) {
            return;
        }
        let entry = Named {
            jobs: self.clone(),
            folder: folder.clone(),
            user_id: status.user_id.clone(),
            job_id: status.job_id.clone(),
        };
        Entry(Some(entry)).failed(failure);
    }

    /// What is known of a job; without a user, of any user's job of this name.
    pub fn get(&self, user_id: Option<&str>, job_id: &str) -> Option<Arc<Status>> {
        let is_it =
            |status: &Status| status.job_id == job_id && user_id.is_none_or(|user_id| status.user_id == user_id);
        self.known.iter().map(|(_, status)| status).find(|status| is_it(status))
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

    /// Forgets those that are done; their manifests are stored.
    pub fn forget_done(&self) {
        // Only a cache built without support for it refuses.
        if self.known.invalidate_entries_if(|_, status| status.stage == Stage::Done).is_err() {
            self.known.invalidate_all();
        }
    }
}

impl Entry {
    /// The entry of a job whose name is not known yet: nobody can ask for it.
    pub const fn unnamed() -> Self {
        Self(None)
    }

    /// Changes what is known.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let Some(named) = &self.0 else { return };
        named.jobs.known.entry(named.folder.clone()).and_upsert_with(|old| {
            let mut status = old.map_or_else(
                || Status {
                    job_id: named.job_id.clone(),
                    user_id: named.user_id.clone(),
                    folder: named.folder.to_string(),
                    stage: Stage::Queued,
                    stored: 0,
                    total: 0,
                    manifest: None,
                    error: None,
                },
                |entry| (*entry.into_value()).clone(),
            );
            change(&mut status);
            Arc::new(status)
        });
    }

    /// Moves on to a stage.
    pub fn stage(&self, stage: Stage) {
        self.update(|status| status.stage = stage);
    }

    /// The job has its manifest.
    pub fn done(&self, manifest: &Arc<Manifest>) {
        self.update(|status| {
            status.stage = Stage::Done;
            status.stored = manifest.variations.iter().filter(|entry| entry.error.is_none()).count();
            status.total = manifest.variations.len();
            status.manifest = Some(manifest.clone());
            status.error = None;
        });
    }

    /// This delivery failed.
    fn failed(&self, failure: &Failure) {
        self.update(|status| {
            status.stage = Stage::Done;
            status.error = Some(failure.to_manifest());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(jobs: &Jobs, user: &str, id: &str) -> Entry {
        jobs.begin(&Location::parse(&format!("gs://palettes/{user}/{id}")).unwrap(), user, id)
    }

    #[test]
    fn jobs_of_the_same_name_are_told_apart_by_user_and_by_place() {
        let jobs = Jobs::new(1 << 30);
        begin(&jobs, "u1", "j").stage(Stage::Making);
        begin(&jobs, "u2", "j").failed(&Failure::new(Class::Deadline, "late"));
        jobs.begin(&Location::parse("gs://other/u1/j").unwrap(), "u1", "j");
        assert_eq!(jobs.get(Some("u2"), "j").unwrap().error.as_ref().unwrap().class, "deadline");
        assert!(jobs.get(None, "j").is_some() && jobs.get(None, "other").is_none());
        assert_eq!(jobs.size(), 3);
        begin(&jobs, "u2", "j");
        assert_eq!(jobs.get(Some("u2"), "j").unwrap().error, None);
    }

    #[test]
    fn the_number_of_jobs_is_bounded_and_so_is_what_is_known_of_them() {
        for (limit, most) in [(1 << 30, 1_000), (32 << 20, 102)] {
            let jobs = Jobs::new(limit);
            for i in 0..3_000 {
                begin(&jobs, "u", &i.to_string());
            }
            assert_eq!(jobs.max_size(), most);
            assert!(jobs.size() <= most, "{}", jobs.size());
            assert!(jobs.get(Some("u"), "2999").is_some(), "the newest is known");
        }
        // A manifest of a thousand variations counts as a hundred and more.
        let jobs = Jobs::new(32 << 20);
        let manifest = Arc::new(Manifest {
            variations: vec![Default::default(); 700],
            ..serde_json::from_value(serde_json::json!({
                "job_id": "", "user_id": "", "key": "", "state": "complete", "recipe_version": "", "timings_ms": {},
                "peak_bytes": 0, "error": null, "variations": [], "source": {"uri": "", "generation": "", "sha256": ""},
            }))
            .unwrap()
        });
        for i in 0..10 {
            begin(&jobs, "u", &i.to_string()).done(&manifest);
        }
        assert!(jobs.size() <= 1, "{}", jobs.size());
    }

    #[test]
    fn running_jobs_are_not_forgotten_with_those_that_are_done() {
        let jobs = Jobs::new(1 << 30);
        begin(&jobs, "u", "runs").stage(Stage::Making);
        begin(&jobs, "u", "done").failed(&Failure::new(Class::Deadline, "late"));
        jobs.forget_done();
        assert!(jobs.get(Some("u"), "runs").is_some() && jobs.get(Some("u"), "done").is_none());
    }

    #[test]
    fn a_job_without_a_name_yet_is_nobodys() {
        let jobs = Jobs::new(1 << 30);
        Entry::unnamed().stage(Stage::Making);
        assert_eq!(jobs.size(), 0);
    }
}
