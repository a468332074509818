//! Failures for good: recorded before their message is acknowledged.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout_at;

use super::Worker;
use super::existing::{self, Aside, Existing};
use super::plan::FAILED;
use super::run::Facts;
use super::uploads::{Shelf, create_or_adopt};
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::job::Job;
use crate::pipeline::manifest::{Manifest, Source, State};
use crate::pipeline::run::RECIPE_VERSION;
use crate::service::failure::{Class, Failure};
use crate::service::storage::{Location, ObjectKey, ObjectKind};

/// The longest message that is kept as text in its record, bytes.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// What publishing has at least.
const SECOND_THOUGHT: Duration = Duration::from_millis(500);

/// The folder of messages that are no text or too long, below that of the records.
const MESSAGES: &str = "messages";

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
    /// Records a failure that no later delivery mends, and one that the last delivery has met, by `last_word`. Returns the failure that the
    /// message's fate goes by when it is another than before: storage's own, where the record could not be written.
    pub(super) async fn settle(
        &self,
        failure: &Failure,
        message: &Message,
        job: Option<&Job>,
        facts: &Facts,
        last_word: Instant,
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
        let no_time = || Failure::new(Class::StorageUnavailable, "there was no time to store it");
        let written = timeout_at(last_word.into(), self.record(&recorded, message, job, facts)).await;
        match written.unwrap_or_else(|_| Err(no_time())) {
            Ok((manifest, folder)) => {
                let Ok(json) = serde_json::to_vec(&manifest) else { return None };
                let attributes = attributes(&manifest, &folder);
                let attributes: Vec<(&str, &str)> =
                    attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
                // A topic that fails costs its message, never the record.
                let end = last_word.max(Instant::now() + SECOND_THOUGHT);
                match timeout_at(end.into(), self.shared.publisher.failed(json.into(), &attributes)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, job_id = manifest.job_id, "the failure could not be published");
                    }
                    Err(_) => tracing::warn!(job_id = manifest.job_id, "there was no time to publish the failure"),
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
        let kept = self.keep(message).await?;
        let options = self.options();
        if let Some((job, folder, identity)) = job.and_then(|job| self.place(job, facts))
            && failure.class != Class::Conflict
        {
            let user = job.user_id.as_deref().unwrap_or("_");
            let manifest = manifest(failure, &identity, user, &job.source, facts, &kept);
            let shelf = self.shelf(&folder, &identity.key);
            let is_ours = |other: &Manifest| existing::is_of(&job, other, options);
            let aside = Aside { root: &self.shared.rules.default_destination, is_ours: &is_ours };
            let written = match existing::look(&self.shared.storage, &folder).await {
                Ok(Existing::Final(_) | Existing::Foreign) => Err(existing::conflict(&folder)),
                Ok(found) => existing::write(&shelf, manifest.clone(), found, &aside).await,
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
        let root = &self.shared.rules.default_destination;
        let folder = root.join(FAILED).join(&message.record_id);
        // Of the same message there is one record, that of its last failure; it names no time.
        let identity = Identity {
            job_id: job.and_then(|job| job.job_id.clone()).unwrap_or_else(|| message.record_id.clone()),
            key: facts.key.clone().unwrap_or_default(),
        };
        let user = job.and_then(|job| job.user_id.as_deref()).unwrap_or("_");
        let source = job.map(|job| job.source.as_str()).unwrap_or_default();
        let manifest = manifest(failure, &identity, user, source, facts, &kept);
        let shelf = self.shelf(&folder, &message.record_id);
        let found = existing::look(&self.shared.storage, &folder).await?;
        let aside = Aside { root, is_ours: &|_| true };
        existing::write(&shelf, manifest.clone(), found, &aside).await.map(|_| (manifest, folder))
    }

    /// A job with its destination filled in, its folder and what identifies it; none when it has no place of its own.
    fn place(&self, job: &Job, facts: &Facts) -> Option<(Job, Location, Identity)> {
        if job.user_id.as_deref() == Some(FAILED) {
            return None;
        }
        let root = self.shared.rules.destination(job).ok()?;
        let job = Job { destination: Some(root.to_string()), ..job.clone() };
        let identity = Identity::new(&job, &facts.tag(), self.options());
        let folder = root.join(job.user_id.as_deref().unwrap_or("_")).join(&identity.job_id);
        Some((job, folder, identity))
    }

    /// The whole message as it arrived: as text for the record, or as an object of its own.
    async fn keep(&self, message: &Message) -> Result<Kept, Failure> {
        match std::str::from_utf8(&message.body) {
            Ok(text) if text.len() <= MAX_TEXT_BYTES && !may_hold_secret(text) => {
                return Ok(Kept::Text(text.to_owned()));
            }
            _ => {}
        }
        let name = sha256_hex(&message.body);
        let key = ObjectKey {
            location: self.shared.rules.default_destination.join(FAILED).join(MESSAGES).join(&name),
            kind: ObjectKind::Message,
            content_addressed: false,
            work_key: name,
        };
        let (content, crc32c) = (message.body.clone(), crc32c::crc32c(&message.body));
        let stored = create_or_adopt(&self.shared.storage, &key, content, crc32c).await;
        stored.map(|_| Kept::Object(key.location)).map_err(|error| Failure::of_destination(&error))
    }

    fn shelf(&self, folder: &Location, work_key: &str) -> Shelf {
        Shelf {
            storage: self.shared.storage.clone(),
            folder: folder.clone(),
            work_key: work_key.to_owned(),
            content_addressed: false,
        }
    }
}

/// Whether a message names a web address with a query or credentials. A record is published and, where results are, served
/// to others; an object named by its hash is not.
fn may_hold_secret(text: &str) -> bool {
    (text.contains("https:") || text.contains("http:")) && text.contains(['?', '@'])
}

/// How the message is kept.
enum Kept {
    /// In the record.
    Text(String),
    /// As an object that the record names.
    Object(Location),
}

/// The record of a failure.
fn manifest(
    failure: &Failure,
    identity: &Identity,
    user_id: &str,
    source: &str,
    facts: &Facts,
    kept: &Kept,
) -> Manifest {
    let (message, message_object) = match kept {
        Kept::Text(text) => (Some(text.clone()), None),
        Kept::Object(place) => (None, Some(place.to_string())),
    };
    Manifest {
        job_id: identity.job_id.clone(),
        user_id: user_id.to_owned(),
        key: identity.key.clone(),
        state: State::Failed,
        source: Source {
            uri: Source::shown(source),
            generation: facts.generation.clone().unwrap_or_default(),
            sha256: facts.sha256.clone().unwrap_or_default(),
            fill_generation: facts.fill_generation.clone(),
            ..Source::default()
        },
        recipe_version: RECIPE_VERSION.into(),
        timings_ms: Default::default(),
        peak_bytes: 0,
        error: Some(failure.to_manifest()),
        message,
        message_object,
        background: None,
        steps: Vec::new(),
        spared: None,
        variations: Vec::new(),
    }
}
