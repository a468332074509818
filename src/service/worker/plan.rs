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
    /// Where the picture is that takes the background's place.
    pub fill: Option<SourceAddress>,
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
    pub default_destination: Location,
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
        let fill = job.background.fill_picture().map(fill).transpose()?;
        Ok(Plan { job, source, fill, generation, destination, user })
    }

    /// Where a job's results go, when that can be told and is allowed.
    ///
    /// # Errors
    /// [`Class::BadJob`] or [`Class::DestinationForbidden`].
    pub fn destination(&self, job: &Job) -> Result<Location, Failure> {
        let Some(written) = &job.destination else { return Ok(self.default_destination.clone()) };
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

    /// Refuses a default job that could never run as it is meant.
    ///
    /// # Errors
    /// What to change, for the one who wrote the settings.
    pub fn check_default_job(&self, pictures: Option<&Location>) -> Result<(), String> {
        let Some(job) = &self.default_job else { return Ok(()) };
        let wrong = |problem: String| Err(format!("CONCEPT_DEFAULT_JOB: {problem}"));
        if job.job_id.is_some() {
            return wrong("job_id: every new object would have the results of the first; leave it out".into());
        }
        let destination = match self.destination(job) {
            Ok(destination) => destination,
            Err(failure) => return wrong(failure.message),
        };
        let own = [&destination, &self.default_destination];
        match pictures.and_then(|pictures| own.into_iter().find(|place| pictures.is_within(place))) {
            Some(place) => wrong(format!(
                "pictures come from {place}, where results go, and no result starts a job; give results a bucket or a \
                 prefix of their own"
            )),
            None => Ok(()),
        }
    }

    /// The job that a new object starts; none for objects that this worker stored itself.
    ///
    /// # Errors
    /// [`Class::BadMessage`] when the settings name no default job.
    pub fn job_of(&self, event: &ObjectEvent) -> Result<Option<(Job, Option<String>)>, Failure> {
        let uri = format!("gs://{}/{}", event.bucket, event.name);
        // Notifications carry no metadata where their format says so: then the place tells.
        let is_result = |location: Location| {
            let other = self.default_job.as_ref().and_then(|job| self.destination(job).ok());
            location.is_within(&self.default_destination) || other.is_some_and(|place| location.is_within(&place))
        };
        if event.work_key.is_some() || Location::parse(&uri).is_ok_and(is_result) {
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

/// The address of a picture that takes a background's place. Only objects have generations that tell one job from another.
fn fill(address: &str) -> Result<SourceAddress, Failure> {
    match SourceAddress::parse(address) {
        Ok(address @ SourceAddress::Object(_)) => Ok(address),
        Ok(SourceAddress::Web(_)) => {
            let message = "background.fill: the worker takes this picture from gs:// only; store it there";
            Err(Failure::new(Class::BadSource, message))
        }
        Err(error) => Err(of_fill(error.into())),
    }
}

/// A failure that speaks of the picture behind.
pub fn of_fill(failure: Failure) -> Failure {
    Failure::new(failure.class, format!("background.fill: {}", failure.message))
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
