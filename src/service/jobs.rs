//! The jobs this instance knows: in progress, and done a short while ago.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use schemars::JsonSchema;
use serde::Serialize;

use super::failure::Failure;
use crate::pipeline::manifest::{self, Manifest};

/// Jobs that are remembered.
pub const MAX_SIZE: u64 = 1_000;

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
    pub fn of_manifest(manifest: Manifest) -> Self {
        Self {
            job_id: manifest.job_id.clone(),
            user_id: manifest.user_id.clone(),
            stage: Stage::Done,
            stored: manifest.variations.iter().filter(|entry| entry.error.is_none()).count(),
            total: manifest.variations.len(),
            error: manifest.error.clone(),
            manifest: Some(Arc::new(manifest)),
        }
    }
}

/// The jobs of this instance, at most [`MAX_SIZE`]. Clones share them.
#[derive(Debug, Clone)]
pub struct Jobs {
    known: Cache<(String, String), Arc<Status>>,
}

/// One job's entry, written to as the job goes on.
#[derive(Debug, Clone)]
pub struct Entry {
    jobs: Jobs,
    user_id: String,
    job_id: String,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { known: Cache::builder().max_capacity(MAX_SIZE).time_to_live(TIME_TO_LIVE).build() }
    }
}

impl Jobs {
    /// Begins a job's entry, or goes on with it.
    pub fn begin(&self, user_id: &str, job_id: &str) -> Entry {
        let entry = Entry { jobs: self.clone(), user_id: user_id.to_owned(), job_id: job_id.to_owned() };
        entry.update(|status| {
            status.stage = Stage::Queued;
            status.error = None;
        });
        entry
    }

    /// What is known of a job; without a user, of any user's job of this name.
    pub fn get(&self, user_id: Option<&str>, job_id: &str) -> Option<Arc<Status>> {
        match user_id {
            Some(user_id) => self.known.get(&(user_id.to_owned(), job_id.to_owned())),
            None => self.known.iter().find(|(key, _)| key.1 == job_id).map(|(_, status)| status),
        }
    }

    /// How many are known.
    pub fn size(&self) -> u64 {
        self.known.run_pending_tasks();
        self.known.entry_count()
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        self.known.invalidate_all();
    }
}

impl Entry {
    /// Changes what is known.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let key = (self.user_id.clone(), self.job_id.clone());
        self.jobs.known.entry(key).and_upsert_with(|old| {
            let mut status = old.map_or_else(
                || Status {
                    job_id: self.job_id.clone(),
                    user_id: self.user_id.clone(),
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
    pub fn failed(&self, failure: &Failure) {
        self.update(|status| {
            status.stage = Stage::Done;
            status.error = Some(failure.to_manifest());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Class;
    use super::*;

    #[test]
    fn jobs_of_the_same_name_are_told_apart_by_user() {
        let jobs = Jobs::default();
        jobs.begin("u1", "j").stage(Stage::Making);
        jobs.begin("u2", "j").failed(&Failure::new(Class::Deadline, "late"));
        assert_eq!(jobs.get(Some("u1"), "j").unwrap().stage, Stage::Making);
        assert_eq!(jobs.get(Some("u2"), "j").unwrap().error.as_ref().unwrap().class, "deadline");
        assert!(jobs.get(None, "j").is_some() && jobs.get(None, "other").is_none());
        assert_eq!(jobs.size(), 2);
        assert_eq!(jobs.begin("u2", "j").jobs.get(Some("u2"), "j").unwrap().error, None);
    }

    #[test]
    fn the_number_of_jobs_is_bounded() {
        let jobs = Jobs::default();
        for i in 0..3 * MAX_SIZE {
            jobs.begin("u", &i.to_string());
        }
        assert!(jobs.size() <= MAX_SIZE, "{}", jobs.size());
    }
}
