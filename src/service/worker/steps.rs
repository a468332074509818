//! Steps by remote models: before recolouring on the picture, after it on every variation.
//!
//! A prediction is paid for, so what is known of it is noted in the job's folder before and after it is ordered: a delivery that
//! comes again waits for the one that runs, and finds the outputs of the one that is done. Notes go when the job is done.

mod outputs;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Worker;
use super::claim::{Claim, Picture, WholePicture};
use super::clock::Clock;
use super::existing::checked;
use super::run::Facts;
use super::uploads::Shelf;
use crate::pipeline::decode;
use crate::pipeline::identity::sha256_hex;
use crate::pipeline::job::{Job, StepRequest, When};
use crate::pipeline::manifest::{Manifest, State, StepEntry};
use crate::pipeline::remote_picture::{self, SendLimits};
use crate::service::failure::{Class, Failure};
use crate::service::jobs::Entry;
use crate::service::remote::{self, Prediction, RemoteError, Running, data_uri};
use crate::service::source::{OpenSource, SourceAddress};
use crate::service::steps::{self, Steps};
use crate::service::storage::{Location, ObjectKind, Precondition, StorageError};

/// The most bytes of a note that are read.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// Up to this size a picture goes into the input itself; larger ones are uploaded before.
const MAX_DATA_URI_BYTES: usize = 192 << 10;

/// Predictions that are ordered for one step within one delivery, when the model fails.
const ORDERS: u32 = 2;

/// Variations that steps are done for at once; classes say how many really are.
const AT_ONCE: usize = 16;

/// What is noted of a step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Note {
    /// When the prediction was ordered, milliseconds since 1970.
    ordered_ms: u64,
    /// The prediction's id, once the server has answered.
    #[serde(default)]
    prediction: Option<String>,
    /// The step's record, once its outputs are stored.
    #[serde(default)]
    done: Option<StepEntry>,
}

/// Where a note lies, and under which generation.
struct Notebook {
    object: String,
    generation: Option<String>,
    note: Note,
}

/// What all steps of a job share.
pub struct Errand {
    steps: Steps,
    shelf: Shelf,
    clock: Clock,
    user: String,
    /// Whether the job comes again when it does not succeed now.
    comes_again: bool,
    entry: Entry,
}

/// A picture that a step is given.
enum Given {
    Open(Box<OpenSource>),
    Bytes(Vec<u8>),
}

impl Worker {
    /// What the steps of a job need; none for a job without.
    ///
    /// # Errors
    /// [`Class::BadJob`] when a step has no model.
    pub(super) fn errand(
        &self,
        job: &Job,
        shelf: &Shelf,
        clock: &Clock,
        entry: &Entry,
    ) -> Result<Option<Errand>, Failure> {
        if job.steps.is_empty() {
            return Ok(None);
        }
        let Some(steps) = &self.shared.steps else {
            return Err(Failure::new(
                Class::BadJob,
                "steps: no remote models are set up here; set CONCEPT_REMOTE_TOKEN",
            ));
        };
        for step in &job.steps {
            steps.model(step)?;
        }
        Ok(Some(Errand {
            steps: steps.clone(),
            shelf: shelf.clone(),
            clock: clock.clone(),
            user: job.user_id.clone().unwrap_or_else(|| "_".into()),
            comes_again: clock.comes_again(),
            entry: entry.clone(),
        }))
    }

    /// Does the steps before recolouring. What the last one put out takes the picture's place.
    ///
    /// # Errors
    /// [`Failure`]; what was ordered is noted, and goes on.
    pub(super) async fn steps_before(
        &self,
        claim: Claim,
        errand: &Errand,
        facts: &mut Facts,
    ) -> Result<Claim, Failure> {
        let steps: Vec<StepRequest> =
            claim.plan.job.steps.iter().filter(|step| step.when == When::Before).cloned().collect();
        if steps.is_empty() {
            return Ok(claim);
        }
        let Claim {
            plan,
            identity,
            folder,
            found,
            picture,
            fill,
            keep,
            clock,
            entry,
            place,
            opener,
            permit,
            may_resume,
            ..
        } = claim;
        // Who waits for somebody else's computer must not hold up those who wait for ours.
        drop((place, opener, permit));
        let mut given = match picture {
            Picture::Open(source) => Given::Open(source),
            Picture::Whole(WholePicture { bytes, sha256 }) => {
                facts.source_sha256 = Some(sha256);
                Given::Bytes(bytes)
            }
        };
        let mut latest = None;
        for (i, step) in steps.iter().enumerate() {
            entry.step(&step.name);
            let entry = self.step(errand, step, &format!("step_{}", step.name), given, facts).await?;
            let output = entry.outputs.iter().find(|output| output.content_type.starts_with("image/"));
            let goes_on = i + 1 < steps.len() || plan.job.has_variations();
            let picture = match output {
                Some(output) => Some((folder.join(&output.object), output.generation.clone())),
                None if goes_on => {
                    let message = format!("steps: {}: the model put out no picture for what comes after it", step.name);
                    return Err(Failure::new(Class::RemoteRefused, message));
                }
                None => None,
            };
            facts.steps.push(entry);
            let Some((location, generation)) = picture.filter(|_| goes_on) else {
                given = Given::Bytes(Vec::new());
                continue;
            };
            let source = clock.in_time(self.shared.sources.own(&location, &generation)).await??;
            latest = Some(location);
            given = Given::Open(Box::new(source));
        }
        let place = self.shared.admission.enter()?;
        let opener = clock.in_time(self.shared.openers.acquire(&plan.user)).await?;
        let opener = Some(opener.map_err(|error| Failure::new(Class::Busy, error.to_string()))?);
        let address = latest.map(SourceAddress::Object);
        let picture = match given {
            Given::Open(source) => Picture::Open(source),
            Given::Bytes(bytes) => Picture::Whole(WholePicture { sha256: sha256_hex(&bytes), bytes }),
        };
        Ok(Claim {
            plan,
            identity,
            folder,
            found,
            address,
            picture,
            fill,
            keep,
            clock,
            entry,
            place,
            opener,
            permit: None,
            may_resume,
        })
    }

    /// Does the steps after recolouring, on the first file of every variation that was made.
    ///
    /// # Errors
    /// [`Failure`] of what may pass; what only the job's sender can mend stands in the variation's entry.
    pub(super) async fn steps_after(
        &self,
        job: &Job,
        errand: &Errand,
        manifest: &mut Manifest,
        facts: &mut Facts,
    ) -> Result<(), Failure> {
        let steps: Vec<&StepRequest> = job.steps.iter().filter(|step| step.when == When::After).collect();
        if steps.is_empty() {
            return Ok(());
        }
        errand.entry.step(&steps[0].name);
        let mut seen = std::collections::HashSet::new();
        let firsts: Vec<usize> = (0..manifest.variations.len())
            .filter(|&i| {
                let entry = &manifest.variations[i];
                let name =
                    (entry.palette.clone(), entry.effect.clone(), entry.params.as_ref().map(|p| format!("{p:?}")));
                entry.error.is_none() && seen.insert(name)
            })
            .collect();
        let work = firsts.into_iter().map(|at| {
            let entry = &manifest.variations[at];
            let (object, generation) = (entry.object.clone(), entry.generation.clone());
            let steps = &steps;
            async move {
                let mut facts = Facts::default();
                let done = self.chain(errand, steps, object, generation, &mut facts).await;
                (at, done, facts.notes)
            }
        });
        let mut results = stream::iter(work.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut all = Vec::new();
        while let Some(result) = results.next().await {
            all.push(result);
        }
        drop(results);
        let mut failed = None;
        for (at, done, notes) in all {
            facts.notes.extend(notes);
            match done {
                Ok(entries) => {
                    if entries.iter().any(|entry| entry.error.is_some()) && manifest.state == State::Complete {
                        manifest.state = State::Partial;
                    }
                    manifest.variations[at].steps = entries;
                }
                Err(failure) => failed = Some(failure),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// One step after the other on one stored file. Steps after one that failed for good are left out.
    async fn chain(
        &self,
        errand: &Errand,
        steps: &[&StepRequest],
        object: String,
        generation: String,
        facts: &mut Facts,
    ) -> Result<Vec<StepEntry>, Failure> {
        let stem = object.rsplit_once('.').map_or(object.as_str(), |(stem, _)| stem).to_owned();
        let mut picture = Some((object, generation));
        let mut entries = Vec::new();
        for step in steps {
            let Some((object, generation)) = picture.take() else { break };
            let location = errand.shelf.folder.join(&object);
            let source = errand.clock.in_time(self.shared.sources.own(&location, &generation)).await??;
            let given = Given::Open(Box::new(source));
            match self.step(errand, step, &format!("{stem}.{}", step.name), given, facts).await {
                Ok(entry) => {
                    let output = entry.outputs.iter().find(|output| output.content_type.starts_with("image/"));
                    picture = output.map(|output| (output.object.clone(), output.generation.clone()));
                    entries.push(entry);
                }
                Err(failure) if failure.class.is_permanent() => {
                    let (name, model) = (step.name.clone(), errand.steps.model(step)?.model());
                    entries.push(StepEntry { name, model, error: Some(failure.to_manifest()), ..StepEntry::default() });
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(entries)
    }

    /// One step: found done, waited for, or ordered.
    async fn step(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        given: Given,
        facts: &mut Facts,
    ) -> Result<StepEntry, Failure> {
        let remote = errand.steps.remote();
        let model = errand.steps.model(step)?;
        let failed = |error: &RemoteError| steps::failure(&step.name, error);
        let mut notebook = self.open_note(errand, &format!("{stem}.step.json")).await?;
        if let Some(done) = notebook.note.done.clone() {
            facts.notes.extend(notebook.place(errand));
            return Ok(done);
        }
        let _turn = errand.clock.in_time(errand.steps.turn(step.class(), &errand.user)).await??;
        let mut given = Some(given);
        let mut sent = None;
        let mut orders = 0;
        let prediction = loop {
            let running = match notebook.note.prediction.clone() {
                Some(id) => match errand.clock.in_time(remote.resume(&model, &id)).await? {
                    Ok(running) => running,
                    // The server has forgotten it.
                    Err(RemoteError::NoSuchPrediction { .. }) => {
                        notebook.note = Note::default();
                        continue;
                    }
                    Err(error) => return Err(failed(&error)),
                },
                None => {
                    orders += 1;
                    if notebook.note.ordered_ms > 0 {
                        tracing::warn!(
                            step = step.name,
                            "a prediction was ordered whose id is not known; it is ordered again"
                        );
                    }
                    if sent.is_none()
                        && let Some(given) = given.take()
                    {
                        sent = Some(self.send(errand, step, given, facts).await?);
                    }
                    notebook.note = Note { ordered_ms: now_ms(), ..Note::default() };
                    self.write_note(errand, &mut notebook).await?;
                    let key = format!("{}-{stem}-{orders}", errand.shelf.work_key);
                    let input = step.input_with(sent.as_deref().unwrap_or_default());
                    // Not broken off when time runs out: the answer holds the id of what is paid for.
                    let ordered = remote.create(&model, &input, Some(&key), None).await;
                    match ordered {
                        Ok(running) => {
                            notebook.note.prediction = Some(running.id().to_owned());
                            self.write_note(errand, &mut notebook).await?;
                            running
                        }
                        Err(error) => {
                            if !error.may_have_created() {
                                notebook.note = Note::default();
                                self.write_note(errand, &mut notebook).await?;
                            }
                            return Err(failed(&error));
                        }
                    }
                }
            };
            match self.outcome(errand, running, &notebook.note).await? {
                Ok(prediction) => break prediction,
                Err(error) => {
                    // Nothing runs any more: the next order is a new one.
                    notebook.note = Note::default();
                    self.write_note(errand, &mut notebook).await?;
                    let again = matches!(error, RemoteError::Failed { .. } | RemoteError::Cancelled { .. });
                    if !again || orders >= ORDERS || given.is_none() && sent.is_none() {
                        return Err(failed(&error));
                    }
                }
            }
        };
        let outputs = remote::read_outputs(&prediction.output)
            .map_err(|error| Failure::new(Class::RemoteRefused, format!("steps: {}: {error}", step.name)))?;
        let outputs = errand.clock.in_time(self.store_outputs(errand, step, stem, outputs)).await??;
        let entry = StepEntry {
            name: step.name.clone(),
            model: model.model(),
            prediction: Some(prediction.id),
            predict_seconds: prediction.predict_seconds,
            outputs,
            error: None,
        };
        notebook.note.done = Some(entry.clone());
        self.write_note(errand, &mut notebook).await?;
        facts.notes.extend(notebook.place(errand));
        Ok(entry)
    }

    /// Waits for a prediction. The inner error is of one that does not run any more.
    async fn outcome(
        &self,
        errand: &Errand,
        mut running: Running,
        note: &Note,
    ) -> Result<Result<Prediction, RemoteError>, Failure> {
        let remote = errand.steps.remote();
        let id = running.id().to_owned();
        let spent = Duration::from_millis(now_ms().saturating_sub(note.ordered_ms));
        let until = Instant::now() + errand.steps.limits().timeout.saturating_sub(spent);
        match errand.clock.in_time(remote.wait(&mut running, Some(until))).await {
            Ok(Ok(prediction)) => Ok(Ok(prediction)),
            Ok(Err(error @ (RemoteError::Failed { .. } | RemoteError::Cancelled { .. }))) => Ok(Err(error)),
            Ok(Err(error)) if Instant::now() >= until => {
                self.cancel(errand, &id).await;
                Ok(Err(error))
            }
            // It may be running still: the next delivery finds it.
            Ok(Err(error)) => Err(steps::failure(running.model(), &error)),
            Err(failure) => {
                if !errand.comes_again {
                    self.cancel(errand, &id).await;
                }
                Err(failure)
            }
        }
    }

    async fn cancel(&self, errand: &Errand, id: &str) {
        if let Err(error) = errand.steps.remote().cancel(id).await {
            tracing::warn!(%error, id, "a prediction could not be cancelled");
        }
    }

    /// The picture as the model can read it: an address, or the file itself.
    async fn send(
        &self,
        errand: &Errand,
        step: &StepRequest,
        given: Given,
        facts: &mut Facts,
    ) -> Result<String, Failure> {
        let limits = errand.steps.limits();
        let most = self.options().max_pixels;
        let limits =
            SendLimits { max_dimension: limits.max_dimension, max_pixels: limits.max_pixels, max_source_pixels: most };
        let clock = &errand.clock;
        let size = match &given {
            Given::Open(source) => source.size.unwrap_or(self.shared.settings.max_source_bytes),
            Given::Bytes(bytes) => bytes.len() as u64,
        };
        let mut permit = clock.in_time(self.shared.admission.acquire(size)).await??;
        let (bytes, is_source) = match given {
            Given::Open(source) => (clock.in_time(source.whole()).await??, facts.steps.is_empty()),
            Given::Bytes(bytes) => (bytes, false),
        };
        let probe = decode::probe(
            &bytes,
            &decode::Limits { max_pixels: most, max_source_bytes: u64::MAX, ..Default::default() },
        )
        .map_err(|error| picture_failure(error.class(), &error.to_string()))?;
        let pixels = u64::from(probe.width) * u64::from(probe.height);
        let peak = bytes.len() as u64 + remote_picture::peak_bytes(probe.peak_bytes, pixels);
        clock.in_time(self.shared.admission.grow(&mut permit, peak)).await??;
        let work = move || {
            let sha256 = is_source.then(|| sha256_hex(&bytes));
            let prepared = remote_picture::prepare(&bytes, &limits).map_err(|error| error.to_string());
            (prepared, sha256, permit)
        };
        let (prepared, sha256, permit) = self.shared.lanes.run(&errand.user, || (), work).await?;
        let (file, format) = prepared.map_err(|problem| picture_failure("broken-picture", &problem))?;
        if facts.source_sha256.is_none() {
            facts.source_sha256 = sha256;
        }
        let content_type = format.content_type();
        if file.len() > MAX_DATA_URI_BYTES {
            let uploaded =
                clock.in_time(errand.steps.remote().upload(&Bytes::from(file.clone()), content_type)).await?;
            match uploaded {
                Ok(address) => return Ok(address.into()),
                Err(RemoteError::NoFiles) => {}
                Err(error) => return Err(steps::failure(&step.name, &error)),
            }
        }
        drop(permit);
        Ok(data_uri(content_type, &file))
    }

    async fn open_note(&self, errand: &Errand, object: &str) -> Result<Notebook, Failure> {
        let storage = &self.shared.storage;
        let location = errand.shelf.folder.join(object);
        let read = async {
            let mut download = match storage.read(&location, None, MAX_NOTE_BYTES).await {
                Err(StorageError::NotFound(_)) => return Ok(None),
                other => other?,
            };
            let stat = download.stat().clone();
            let mut bytes = Vec::new();
            while let Some(piece) = download.chunk().await? {
                bytes.extend_from_slice(&piece);
            }
            Ok(Some((stat, bytes)))
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
    async fn write_note(&self, errand: &Errand, notebook: &mut Notebook) -> Result<(), Failure> {
        let key = errand.shelf.key(&notebook.object, ObjectKind::Note);
        // Plain values always have a JSON form.
        let (content, crc32c) = checked(serde_json::to_vec(&notebook.note).unwrap_or_default());
        let precondition = match &notebook.generation {
            Some(generation) => Precondition::Generation(generation.clone()),
            None => Precondition::Absent,
        };
        let written = self.shared.storage.write(&key, content, crc32c, &precondition).await;
        let stat = match written {
            // An earlier attempt got through, and its answer was lost; or another instance writes here, which the lease tells.
            Err(StorageError::Precondition(_)) => {
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
    pub(super) fn remove_notes(&self, notes: Vec<(Location, String)>) {
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
    fn place(&self, errand: &Errand) -> Option<(Location, String)> {
        Some((errand.shelf.folder.join(&self.object), self.generation.clone()?))
    }
}

fn picture_failure(class: &str, problem: &str) -> Failure {
    let class = Class::of(class).unwrap_or(Class::BrokenPicture);
    Failure::new(
        class,
        crate::pipeline::run::explain(format!("steps: the picture cannot be sent: {problem}"), class.name()),
    )
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
