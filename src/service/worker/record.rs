//! Failures for good: recorded before their message is acknowledged.

use bytes::Bytes;

use super::Worker;
use super::existing::{self, Existing};
use super::plan::FAILED;
use super::run::Facts;
use super::uploads::Shelf;
use crate::pipeline::identity::Identity;
use crate::pipeline::job::Job;
use crate::pipeline::manifest::{Manifest, Source, State};
use crate::pipeline::run::RECIPE_VERSION;
use crate::service::failure::{Class, Failure};
use crate::service::storage::Location;

/// The most of a message that is kept in its record, bytes.
const KEPT: usize = 64 << 10;

/// A message, for the record.
pub struct Message {
    /// Its id.
    pub id: Option<String>,
    /// Its id, or the hash of its body, as a name.
    pub record_id: String,
    /// How often it has been delivered.
    pub attempt: Option<u32>,
    /// Its body.
    pub body: Bytes,
}

/// What every published message says beside its manifest.
pub fn attributes(manifest: &Manifest, folder: &Location) -> Vec<(&'static str, String)> {
    let state = match manifest.state {
        State::Complete => "complete",
        State::Partial => "partial",
        State::Failed => "failed",
    };
    vec![
        ("job_id", manifest.job_id.clone()),
        ("user_id", manifest.user_id.clone()),
        ("state", state.into()),
        ("key", manifest.key.clone()),
        ("manifest", folder.join(existing::MANIFEST).to_string()),
    ]
}

impl Worker {
    /// Records a failure that no later delivery mends, and one that the last delivery has met. Returns the failure that the
    /// message's fate goes by when it is another than before: storage's own, where the record could not be written.
    pub(super) async fn settle(
        &self,
        failure: &Failure,
        message: &Message,
        job: Option<&Job>,
        facts: &Facts,
    ) -> Option<Failure> {
        let limit = self.shared.settings.max_delivery_attempts;
        // A full queue and a worker that stops say nothing about the job.
        let counts = !matches!(failure.class, Class::Busy | Class::Draining);
        let late = limit > 0 && message.attempt.is_some_and(|attempt| attempt >= limit);
        let exhausted = !failure.class.is_permanent() && counts && late;
        let recorded = match (failure.class.is_permanent(), exhausted) {
            (true, _) => failure.clone(),
            (false, true) => {
                let attempts = message.attempt.unwrap_or(limit);
                let text = format!(
                    "delivered {attempts} times; the last time: {} ({})",
                    failure.message,
                    failure.class.name()
                );
                Failure::new(Class::RetriesExhausted, text)
            }
            (false, false) => return None,
        };
        match self.record(&recorded, message, job, facts).await {
            Ok((manifest, folder)) => {
                let Ok(json) = serde_json::to_vec(&manifest) else { return None };
                let attributes = attributes(&manifest, &folder);
                let attributes: Vec<(&str, &str)> =
                    attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if let Err(error) = self.shared.publisher.failed(json.into(), &attributes).await {
                    tracing::warn!(%error, job_id = manifest.job_id, "the failure could not be published");
                }
                exhausted.then_some(recorded)
            }
            // Not recorded is not acknowledged.
            Err(problem) => {
                tracing::error!(error = %problem, message_id = message.id, "a failure could not be recorded: {recorded}");
                let text = format!("{recorded} (and the record of it could not be stored: {problem})");
                Some(Failure::new(Class::StorageUnavailable, text))
            }
        }
    }

    /// Writes the record at the job's place, or beside the others where that is not known or taken.
    async fn record(
        &self,
        failure: &Failure,
        message: &Message,
        job: Option<&Job>,
        facts: &Facts,
    ) -> Result<(Manifest, Location), Failure> {
        let kept = Some(String::from_utf8_lossy(&message.body[..message.body.len().min(KEPT)]).into_owned());
        let place = job.filter(|job| job.user_id.as_deref() != Some(FAILED)).and_then(|job| {
            let root = self.shared.rules.destination(job).ok()?;
            let job = Job { destination: Some(root.to_string()), ..job.clone() };
            let identity = Identity::new(&job, facts.generation.as_deref().unwrap_or_default(), self.options());
            let user = job.user_id.clone().unwrap_or_else(|| "_".into());
            let folder = root.join(&user).join(&identity.job_id);
            Some((
                self.manifest(failure, &identity.job_id, &user, &identity.key, Some(&job), facts, kept.clone()),
                folder,
            ))
        });
        if let Some((manifest, folder)) = place
            && failure.class != Class::Conflict
        {
            let shelf = self.shelf(&folder, &manifest.key);
            let written = match existing::look(&self.shared.storage, &folder).await {
                Ok(Existing::Final(_) | Existing::Foreign) => Err(existing::conflict(&folder)),
                Ok(found) => existing::write(&shelf, manifest.clone(), found).await,
                Err(error) => Err(error),
            };
            match written {
                Ok((_, false)) => return Ok((manifest, folder)),
                // Somebody else finished it meanwhile: that stands, and this is recorded beside.
                Ok((_, true)) => {}
                // Taken, or a place that cannot be written to.
                Err(error) if error.class.is_permanent() => {}
                Err(error) => return Err(error),
            }
        }
        let Some(root) = &self.shared.rules.default_destination else {
            return Err(Failure::new(
                Class::DestinationForbidden,
                "there is no place for records; set CONCEPT_STORAGE_BUCKET_PALETTE",
            ));
        };
        let folder = root.join(FAILED).join(&message.record_id);
        let (job_id, user) = match job {
            Some(job) => (
                job.job_id.clone().unwrap_or_else(|| message.record_id.clone()),
                job.user_id.clone().unwrap_or_else(|| "_".into()),
            ),
            None => (message.record_id.clone(), "_".into()),
        };
        // Of the same message with the same failure there is one record; it names no time.
        let key = facts.key.clone().unwrap_or_default();
        let manifest = self.manifest(failure, &job_id, &user, &key, job, facts, kept);
        let shelf = self.shelf(&folder, &message.record_id);
        let found = existing::look(&self.shared.storage, &folder).await?;
        match existing::write(&shelf, manifest.clone(), found).await {
            Ok(_) => Ok((manifest, folder)),
            Err(error) => Err(error),
        }
    }

    fn shelf(&self, folder: &Location, work_key: &str) -> Shelf {
        Shelf {
            storage: self.shared.storage.clone(),
            folder: folder.clone(),
            work_key: work_key.to_owned(),
            content_addressed: false,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a manifest's fields")]
    fn manifest(
        &self,
        failure: &Failure,
        job_id: &str,
        user_id: &str,
        key: &str,
        job: Option<&Job>,
        facts: &Facts,
        message: Option<String>,
    ) -> Manifest {
        Manifest {
            job_id: job_id.to_owned(),
            user_id: user_id.to_owned(),
            key: key.to_owned(),
            state: State::Failed,
            source: Source {
                uri: job.map(|job| job.source.clone()).unwrap_or_default(),
                generation: facts.generation.clone().unwrap_or_default(),
                ..Source::default()
            },
            recipe_version: RECIPE_VERSION.into(),
            timings_ms: Default::default(),
            peak_bytes: 0,
            error: Some(failure.to_manifest()),
            message,
            variations: Vec::new(),
        }
    }
}
