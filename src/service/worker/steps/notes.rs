//! Notes on steps: what is known of a prediction, kept in the job's folder until the job is done.
//!
//! They are written under the generation that was read, so that of two deliveries one orders.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Errand;
use crate::pipeline::manifest::StepEntry;
use crate::service::failure::{Class, Failure};
use crate::service::storage::{Location, ObjectKind, Precondition, StorageError};
use crate::service::worker::Worker;
use crate::service::worker::existing::checked;

/// The most bytes of a note that are read.
const MAX_NOTE_BYTES: u64 = 8 << 20;

/// So long an order may be without its id: the server's answer is on its way. Milliseconds.
const YOUNG_MS: u64 = 35_000;

/// What is noted of a step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// Predictions ordered so far, over all deliveries.
    #[serde(default)]
    pub(super) orders: u32,
    /// Orders that the server has answered, well or not. It names the next one: one without an answer goes out again under the
    /// same name.
    #[serde(default)]
    pub(super) answered: u32,
    /// Where the picture of the order under way was uploaded to.
    #[serde(default)]
    pub(super) uploaded: Option<String>,
    /// When the latest was ordered, milliseconds since 1970; 0 where none is under way.
    #[serde(default)]
    pub(super) ordered_ms: u64,
    /// Its id, once the server has answered.
    #[serde(default)]
    pub(super) prediction: Option<String>,
    /// SHA-256 of the job's source, where the step was given that.
    #[serde(default)]
    pub(super) source_sha256: Option<String>,
    /// The step's record, once its outputs are stored.
    #[serde(default)]
    pub(super) done: Option<StepEntry>,
    /// Tells two writers apart who write the same.
    #[serde(default)]
    writer: u64,
}

impl Note {
    /// Nothing is under way any more.
    pub(super) fn settle(&mut self) {
        self.ordered_ms = 0;
        self.prediction = None;
        self.uploaded = None;
    }
}

/// Where a note lies, and under which generation.
pub(super) struct Notebook {
    pub(super) object: String,
    pub(super) generation: Option<String>,
    pub(super) note: Note,
}

impl Worker {
    /// Another delivery may have ordered just now and be about to note the id: that is waited for.
    pub(super) async fn await_id(&self, errand: &Errand, notebook: &mut Notebook) -> Result<(), Failure> {
        let is_young = |note: &Note| {
            note.prediction.is_none() && note.ordered_ms > 0 && now_ms().saturating_sub(note.ordered_ms) < YOUNG_MS
        };
        while is_young(&notebook.note) && notebook.note.done.is_none() {
            errand.clock.in_time(tokio::time::sleep(Duration::from_millis(500))).await?;
            *notebook = self.open_note(errand, &notebook.object).await?;
        }
        Ok(())
    }

    pub(super) async fn open_note(&self, errand: &Errand, object: &str) -> Result<Notebook, Failure> {
        let storage = &self.shared.storage;
        let location = errand.shelf.folder.join(object);
        let read = async {
            let mut download = match storage.read(&location, None, MAX_NOTE_BYTES).await {
                Err(StorageError::NotFound(_)) => return Ok(None),
                other => other?,
            };
            let stat = download.stat().clone();
            let mut bytes = Vec::new();
            loop {
                match download.chunk().await {
                    Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                    Ok(None) => return Ok(Some((stat, bytes))),
                    // Replaced while it was read.
                    Err(StorageError::NotFound(location)) => {
                        let problem = "a note was replaced while it was read".to_owned();
                        return Err(StorageError::Unavailable { location, problem });
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let found = errand.clock.in_time(read).await?.map_err(|error: StorageError| Failure::of_destination(&error))?;
        let mut notebook = Notebook { object: object.to_owned(), generation: None, note: Note::default() };
        if let Some((stat, bytes)) = found {
            notebook.generation = Some(stat.generation);
            // Of other work under the same name nothing is taken over.
            if stat.work_key.as_deref() == Some(&errand.shelf.work_key) {
                notebook.note = serde_json::from_slice(&bytes).unwrap_or_default();
            }
        }
        Ok(notebook)
    }

    /// Writes what is noted; never broken off, as it may be of what is paid for.
    pub(super) async fn write_note(&self, errand: &Errand, notebook: &mut Notebook) -> Result<(), Failure> {
        let key = errand.shelf.key(&notebook.object, ObjectKind::Note);
        // Plain values always have a JSON form.
        notebook.note.writer = RandomState::new().build_hasher().finish();
        let (content, crc32c) = checked(serde_json::to_vec(&notebook.note).unwrap_or_default());
        let precondition = match &notebook.generation {
            Some(generation) => Precondition::Generation(generation.clone()),
            None => Precondition::Absent,
        };
        let written = self.shared.storage.write(&key, content, crc32c, &precondition).await;
        let stat = match written {
            // An earlier attempt got through, and its answer was lost; or another instance writes here, which the lease tells.
            Err(StorageError::Precondition(_) | StorageError::NotFound(_)) => {
                let found = self.shared.storage.stat(&key.location).await;
                found
                    .map_err(|error| Failure::of_destination(&error))?
                    .filter(|stat| stat.crc32c == Some(crc32c))
                    .ok_or_else(|| {
                        Failure::new(Class::Busy, "another instance works on the same step; send the job again later")
                    })?
            }
            other => other.map_err(|error| Failure::of_destination(&error))?,
        };
        notebook.generation = Some(stat.generation);
        Ok(())
    }

    /// Removes the notes of a job that is done. Nobody waits for it.
    pub(in crate::service::worker) fn remove_notes(&self, notes: Vec<(Location, String)>) {
        if notes.is_empty() {
            return;
        }
        let (worker, running) = (self.clone(), self.begin_running());
        tokio::spawn(async move {
            for (location, generation) in notes {
                if let Err(error) = worker.shared.storage.remove(&location, &generation).await {
                    tracing::debug!(%error, "a note was not removed");
                }
            }
            drop(running);
        });
    }
}

impl Notebook {
    pub(super) fn place(&self, errand: &Errand) -> Option<(Location, String)> {
        Some((errand.shelf.folder.join(&self.object), self.generation.clone()?))
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
