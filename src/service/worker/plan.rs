//! From a message to a plan: everything that is checked before anything is read.

use crate::pipeline::job::Job;
use crate::pipeline::run::{self, RunOptions};
use crate::service::envelope::ObjectEvent;
use crate::service::failure::{Class, Failure};
use crate::service::source::{Allowed, SourceAddress};
use crate::service::storage::Location;

/// The folder of records of messages that have no place of their own.
pub const FAILED: &str = "_failed";

/// A job that may be run, with its addresses read.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The job, its destination filled in.
    pub job: Job,
    /// Where its picture is; none when it came along.
    pub source: Option<SourceAddress>,
    /// The generation that is wanted, where a message named one.
    pub generation: Option<String>,
    /// Where results go, without the folders of user and job.
    pub destination: Location,
    /// Whose job it is, as a folder.
    pub user: String,
}

/// What plans are checked against.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Options of every run.
    pub options: RunOptions,
    /// Where results may go.
    pub destinations: Allowed,
    /// Where results go that name no place.
    pub default_destination: Option<Location>,
    /// The job that a new object starts; its source is filled in.
    pub default_job: Option<Job>,
}

impl Rules {
    /// Checks a job whose picture is at its `source`.
    ///
    /// # Errors
    /// [`Failure`] with what the sender must change.
    pub fn plan(&self, job: Job, generation: Option<String>) -> Result<Plan, Failure> {
        let source = SourceAddress::parse(&job.source)?;
        self.plan_from(job, Some(source), generation)
    }

    /// Checks a job whose picture came along.
    ///
    /// # Errors
    /// [`Failure`] with what the sender must change.
    pub fn plan_given(&self, job: Job) -> Result<Plan, Failure> {
        self.plan_from(job, None, None)
    }

    fn plan_from(
        &self,
        mut job: Job,
        source: Option<SourceAddress>,
        generation: Option<String>,
    ) -> Result<Plan, Failure> {
        run::admit(&job, &self.options).map_err(|error| Failure::new(Class::BadJob, error.to_string()))?;
        if job.user_id.as_deref() == Some(FAILED) {
            let message = format!("user_id: {FAILED} is where failures are recorded; use another");
            return Err(Failure::new(Class::BadJob, message));
        }
        let destination = self.destination(&job)?;
        job.destination = Some(destination.to_string());
        let user = job.user_id.clone().unwrap_or_else(|| "_".into());
        Ok(Plan { job, source, generation, destination, user })
    }

    /// Where a job's results go, when that can be told and is allowed.
    ///
    /// # Errors
    /// [`Class::BadJob`] or [`Class::DestinationForbidden`].
    pub fn destination(&self, job: &Job) -> Result<Location, Failure> {
        let Some(written) = &job.destination else {
            return self.default_destination.clone().ok_or_else(|| {
                Failure::new(
                    Class::BadJob,
                    "destination: the job names none and the worker has no default; add one, or set \
                     CONCEPT_STORAGE_BUCKET_PALETTE",
                )
            });
        };
        let location = Location::parse(written)
            .map_err(|error| Failure::new(Class::BadJob, format!("destination: {error}; write gs://bucket/prefix")))?;
        if self.destinations.allows(&location) {
            Ok(location)
        } else {
            let message = format!(
                "destination: {location} is not among the places that results may go to; add it to \
                 CONCEPT_ALLOWED_DESTINATIONS"
            );
            Err(Failure::new(Class::DestinationForbidden, message))
        }
    }

    /// The job that a new object starts; none for objects that this worker stored itself.
    ///
    /// # Errors
    /// [`Class::BadMessage`] when the settings name no default job.
    pub fn job_of(&self, event: &ObjectEvent) -> Result<Option<(Job, Option<String>)>, Failure> {
        let uri = format!("gs://{}/{}", event.bucket, event.name);
        let own = event.work_key.is_some()
            || Location::parse(&uri).is_ok_and(|location| {
                self.default_destination.as_ref().is_some_and(|destination| location.is_within(destination))
            });
        if own {
            return Ok(None);
        }
        let Some(mut job) = self.default_job.clone() else {
            let message = format!("{uri} was stored, and there is no job for new objects; set CONCEPT_DEFAULT_JOB");
            return Err(Failure::new(Class::BadMessage, message));
        };
        job.source = uri;
        Ok(Some((job, event.generation.clone())))
    }
}

/// Reads the default job of the settings: JSON, or the path of a file with it. Its source may be left out.
///
/// # Errors
/// What is wrong with it.
pub fn default_job(setting: &str) -> Result<Job, String> {
    let wrong = |problem: String| format!("CONCEPT_DEFAULT_JOB: {problem}");
    let text = if setting.trim_start().starts_with('{') {
        setting.to_owned()
    } else {
        std::fs::read_to_string(setting).map_err(|error| wrong(format!("cannot read {setting}: {error}")))?
    };
    let mut value: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.entry("source").or_insert_with(|| "gs://bucket/object".into());
    }
    Job::from_json(value.to_string().as_bytes()).map_err(|error| wrong(error.to_string()))
}
