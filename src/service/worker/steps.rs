//! Steps by remote models: before recolouring on the picture, after it on every variation.
//!
//! A prediction is paid for, so what is known of it is noted in the job's folder before and after it is ordered: a delivery that
//! comes again waits for the one that runs, and finds the outputs of the one that is done. Notes go when the job is done.

mod notes;
mod outputs;

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use super::Worker;
use super::claim::{Claim, Picture, WholePicture};
use super::clock::Clock;
use super::plan::of_fill;
use super::run::Facts;
use super::uploads::Shelf;
use crate::pipeline::decode;
use crate::pipeline::identity::sha256_hex;
use crate::pipeline::job::{Job, StepRequest, When};
use crate::pipeline::manifest::{Manifest, State, StepEntry, VariationEntry};
use crate::pipeline::remote_picture::{self, SendLimits};
use crate::service::admission::Permit;
use crate::service::failure::{Class, Failure};
use crate::service::jobs::Entry;
use crate::service::remote::{self, Prediction, RemoteError, Running, data_uri};
use crate::service::source::SourceAddress;
use crate::service::steps::{self, Steps};
use notes::{Note, Notebook, now_ms};

/// Predictions that are ordered for one step over all deliveries, when the model fails.
const MOST_ORDERS: u32 = 4;

/// Up to this size a picture goes into the input itself; larger ones are uploaded before.
const MAX_DATA_URI_BYTES: usize = 192 << 10;

/// Predictions that are ordered for one step within one delivery, when the model fails.
const ORDERS: u32 = 2;

/// Why outputs of a prediction are not stored.
enum Unstored {
    /// The server does not have them any more.
    Gone(Failure),
    /// For another reason.
    Failed(Failure),
}

impl From<Failure> for Unstored {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
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
    /// An object, opened when it is needed: whoever waits for somebody else's computer holds nothing.
    At {
        address: SourceAddress,
        generation: String,
        /// Whether it is the job's own source.
        is_source: bool,
    },
    /// A file that was read before its work could be told from other work, and the memory that it takes.
    Bytes(Vec<u8>, Option<Permit>),
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
            address,
            picture,
            fill,
            keep,
            clock,
            entry,
            place,
            opener,
            permit,
            may_resume,
        } = claim;
        // Who waits for somebody else's computer must not hold up those who wait for ours.
        drop((place, opener));
        let mut given = match (picture, address) {
            (Picture::Open(source), Some(address)) => {
                let generation = source.generation.clone().unwrap_or_default();
                Given::At { address, generation, is_source: true }
            }
            (Picture::Open(_), None) => {
                return Err(Failure::new(Class::Internal, "an open picture has no address; report it"));
            }
            (Picture::Whole(WholePicture { bytes, sha256 }), _) => {
                facts.source_sha256 = Some(sha256);
                Given::Bytes(bytes, permit)
            }
        };
        let fill_generation = fill.and_then(|fill| fill.generation);
        let mut latest = None;
        for (i, step) in steps.iter().enumerate() {
            entry.step(&step.name);
            let record = self.step(errand, step, &format!("step_{}", step.name), given, facts).await?;
            let output = record.outputs.iter().find(|output| output.content_type.starts_with("image/"));
            let goes_on = i + 1 < steps.len() || plan.job.has_variations();
            let next = output.map(|output| (folder.join(&output.object), output.generation.clone(), output.bytes));
            facts.steps.push(record);
            let Some((location, generation, bytes)) = next else {
                if goes_on {
                    let message = format!("steps: {}: the model put out no picture for what comes after it", step.name);
                    return Err(Failure::new(Class::RemoteRefused, message));
                }
                break;
            };
            latest = Some((location.clone(), generation.clone(), bytes));
            given = Given::At { address: SourceAddress::Object(location), generation, is_source: false };
        }
        let mut claim = Claim {
            plan,
            identity,
            folder,
            found,
            address: None,
            picture: Picture::Whole(WholePicture { bytes: Vec::new(), sha256: String::new() }),
            fill: None,
            keep,
            clock,
            entry,
            place: None,
            opener: None,
            permit: None,
            may_resume,
        };
        if !claim.plan.job.has_variations() {
            return Ok(claim);
        }
        // From here on it is a job like others.
        claim.place = Some(self.shared.admission.enter()?);
        let opener = claim.clock.in_time(self.shared.openers.acquire(&claim.plan.user)).await?;
        claim.opener = Some(opener.map_err(|error| Failure::new(Class::Busy, error.to_string()))?);
        if let Some((location, generation, bytes)) = latest {
            let source = claim.clock.in_time(self.shared.sources.own(&location, &generation)).await??;
            facts.source_bytes = bytes;
            claim.address = Some(SourceAddress::Object(location));
            claim.picture = Picture::Open(Box::new(source));
        }
        if let Some(address) = &claim.plan.fill {
            let opened = self.shared.sources.open(address, fill_generation.as_deref());
            let fill = claim.clock.in_time(opened).await?.map_err(|error| of_fill(error.into()))?;
            claim.fill = Some(Box::new(fill));
        }
        Ok(claim)
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
        // No more than may be under way: they must not wait for each other until their patience is over.
        let at_once = steps.iter().map(|step| errand.steps.slots(step.class())).min().unwrap_or(1);
        let firsts = first_files(&manifest.variations, job.outputs.len().max(1));
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
        let mut results = stream::iter(work.collect::<Vec<_>>()).buffer_unordered(at_once);
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
            let address = SourceAddress::Object(errand.shelf.folder.join(&object));
            let given = Given::At { address, generation, is_source: false };
            match self.step(errand, step, &format!("{stem}.step-{}", step.name), given, facts).await {
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

    /// One step: found done, waited for, or ordered. Once it is done, or fails for good, its note goes with those of the job.
    async fn step(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        given: Given,
        facts: &mut Facts,
    ) -> Result<StepEntry, Failure> {
        let mut notebook = self.open_note(errand, &format!("{stem}.step.json")).await?;
        let result = self.step_by_note(errand, step, stem, given, &mut notebook, facts).await;
        if result.as_ref().map_or_else(|failure| failure.class.is_permanent(), |_| true) {
            facts.notes.extend(notebook.place(errand));
        }
        result
    }

    async fn step_by_note(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        given: Given,
        notebook: &mut Notebook,
        facts: &mut Facts,
    ) -> Result<StepEntry, Failure> {
        let remote = errand.steps.remote();
        let model = errand.steps.model(step)?;
        let failed = |error: &RemoteError| steps::failure(&step.name, error);
        if facts.source_sha256.is_none() {
            facts.source_sha256.clone_from(&notebook.note.source_sha256);
        }
        if let Some(done) = notebook.note.done.clone() {
            return Ok(done);
        }
        if notebook.note.prediction.is_none() {
            errand.steps.check(&step.name, &model)?;
        }
        let _turn = errand.clock.in_time(errand.steps.turn(step.class(), &errand.user)).await??;
        let mut given = Some(given);
        let mut orders = 0;
        loop {
            self.await_id(errand, notebook).await?;
            let resumed = notebook.note.prediction.clone();
            let running = match &resumed {
                Some(id) => match errand.clock.in_time(remote.resume(&model, id)).await? {
                    Ok(running) => {
                        // Nothing is held while somebody else's computer works, and nothing while outputs wait for memory. An object can
                        // be read again if need be; a file that was read is kept only for an order that comes at once.
                        let Prediction { status, output, .. } = running.prediction();
                        let has_ended = status.is_final() && output.is_null();
                        given = given.filter(|given| has_ended || matches!(given, Given::At { .. }));
                        running
                    }
                    // The server has forgotten it.
                    Err(RemoteError::NoSuchPrediction { .. }) => {
                        notebook.note.settle();
                        continue;
                    }
                    Err(error) => return Err(failed(&error)),
                },
                None if notebook.note.orders >= MOST_ORDERS => {
                    return Err(self.give_up(errand, step, notebook, "nothing came of it").await);
                }
                None => {
                    orders += 1;
                    self.order(errand, step, stem, &mut given, notebook, facts).await?
                }
            };
            let error = match self.outcome(errand, step, running, &notebook.note).await? {
                Ok(prediction) => match self.take_outputs(errand, step, stem, prediction, notebook).await {
                    Ok(record) => return Ok(record),
                    // They are kept for a while only: one that ended long ago may have none any more.
                    Err(Unstored::Gone(failure)) if resumed.is_some() => {
                        tracing::warn!(%failure, "a prediction's outputs are gone; it is ordered again");
                        // Written down, since this delivery may have no picture to send: then the next one orders.
                        notebook.note.settle();
                        self.write_note(errand, notebook).await?;
                        continue;
                    }
                    Err(Unstored::Gone(failure) | Unstored::Failed(failure)) => return Err(failure),
                },
                Err(error) => error,
            };
            // Nothing runs any more: the next order is a new one.
            notebook.note.settle();
            if matches!(error, RemoteError::Failed { interrupted: true, .. }) {
                // The server broke it off; that says nothing of the model.
                notebook.note.orders = notebook.note.orders.saturating_sub(1);
            }
            if notebook.note.orders >= MOST_ORDERS {
                return Err(self.give_up(errand, step, notebook, &error.to_string()).await);
            }
            self.write_note(errand, notebook).await?;
            if orders >= ORDERS || given.is_none() {
                return Err(failed(&error));
            }
        }
    }

    /// A step has been ordered too often. Where the job fails with it, whoever sends that again all the same begins anew; where
    /// it goes on, and comes again for another reason, nothing is ordered any more.
    async fn give_up(&self, errand: &Errand, step: &StepRequest, notebook: &mut Notebook, why: &str) -> Failure {
        let orders = notebook.note.orders;
        if step.when == When::Before {
            notebook.note.orders = 0;
        }
        if let Err(failure) = self.write_note(errand, notebook).await {
            return failure;
        }
        Failure::new(Class::RemoteRefused, format!("steps: {}: {why}; it was ordered {orders} times", step.name))
    }

    /// Orders a prediction, and notes it before and after.
    async fn order(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        given: &mut Option<Given>,
        notebook: &mut Notebook,
        facts: &mut Facts,
    ) -> Result<Running, Failure> {
        let remote = errand.steps.remote();
        let model = errand.steps.model(step)?;
        if notebook.note.ordered_ms > 0 {
            tracing::warn!(step = step.name, "a prediction was ordered whose id is not known; it is ordered again");
        }
        // An object can be read again for another order; a file that was read is let go of.
        let picture = match given.take() {
            Some(Given::At { address, generation, is_source }) => {
                *given = Some(Given::At { address: address.clone(), generation: generation.clone(), is_source });
                Some(Given::At { address, generation, is_source })
            }
            bytes => bytes,
        };
        let sent = match (notebook.note.uploaded.clone(), picture) {
            // The same order as the one whose answer was lost.
            (Some(address), _) => address,
            (None, Some(picture)) => self.send(errand, step, picture, facts).await?,
            // It came along, or from a host without generations, and was let go of.
            (None, None) => {
                let message = format!("steps: {}: the prediction is gone; send the job again", step.name);
                return Err(Failure::new(Class::RemoteFailed, message));
            }
        };
        let unanswered = (notebook.note.ordered_ms, notebook.note.uploaded.clone());
        let note = &mut notebook.note;
        note.orders += 1;
        note.ordered_ms = now_ms();
        note.prediction = None;
        note.uploaded = Some(sent.clone()).filter(|sent| !sent.starts_with("data:"));
        note.source_sha256.clone_from(&facts.source_sha256);
        self.write_note(errand, notebook).await?;
        let key = sha256_hex(format!("{} {stem} {}", errand.shelf.work_key, notebook.note.answered).as_bytes());
        let input = step.input_with(&sent);
        drop(sent);
        // No attempt begins when time is up. One that is under way is not broken off: its answer holds the id of what is paid for.
        let until = errand.clock.end().map(Instant::from_std);
        match remote.create(&model, &input, Some(&key[..32]), until).await {
            Ok(running) => {
                notebook.note.answered += 1;
                notebook.note.prediction = Some(running.id().to_owned());
                let mut written = self.write_note(errand, notebook).await;
                if written.as_ref().is_err_and(|failure| failure.class != Class::Busy) {
                    written = self.write_note(errand, notebook).await;
                }
                match written {
                    Ok(()) => Ok(running),
                    // Another instance works on it, and may have found it.
                    Err(failure) if failure.class == Class::Busy => Err(failure),
                    Err(failure) => {
                        // Nobody would find it.
                        self.cancel(errand, running.id()).await;
                        Err(failure)
                    }
                }
            }
            Err(error) => {
                if !error.may_have_created() {
                    // Nothing was made: that was no order.
                    let note = &mut notebook.note;
                    note.orders = note.orders.saturating_sub(1);
                    if unanswered.0 > 0 {
                        // What became of the one before is as unknown as it was.
                        (note.ordered_ms, note.uploaded) = unanswered;
                    } else {
                        note.answered += 1;
                        note.settle();
                    }
                    self.write_note(errand, notebook).await?;
                }
                Err(steps::failure(&step.name, &error))
            }
        }
    }

    /// Stores what a prediction put out, and notes that.
    async fn take_outputs(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        prediction: Prediction,
        notebook: &mut Notebook,
    ) -> Result<StepEntry, Unstored> {
        let outputs = remote::read_outputs(&prediction.output)
            .map_err(|error| Failure::new(Class::RemoteRefused, format!("steps: {}: {error}", step.name)))?;
        // Of another prediction, and of other work under the same name, nothing is ever taken for this one's.
        let mark = sha256_hex(format!("{} {}", errand.shelf.work_key, prediction.id).as_bytes());
        let stem = format!("{stem}.{}", &mark[..8]);
        let outputs = errand
            .clock
            .in_time(self.store_outputs(errand, step, &stem, outputs))
            .await
            .map_err(Unstored::Failed)??;
        let record = StepEntry {
            name: step.name.clone(),
            model: errand.steps.model(step)?.model(),
            prediction: Some(prediction.id),
            predict_seconds: prediction.predict_seconds,
            outputs,
            error: None,
        };
        notebook.note.done = Some(record.clone());
        self.write_note(errand, notebook).await?;
        Ok(record)
    }

    /// Waits for a prediction. The inner error is of one that does not run any more.
    async fn outcome(
        &self,
        errand: &Errand,
        step: &StepRequest,
        mut running: Running,
        note: &Note,
    ) -> Result<Result<Prediction, RemoteError>, Failure> {
        let remote = errand.steps.remote();
        let id = running.id().to_owned();
        let spent = Duration::from_millis(now_ms().saturating_sub(note.ordered_ms));
        let until = Instant::now() + errand.steps.limits().timeout.saturating_sub(spent);
        match errand.clock.in_time(remote.wait(&mut running, Some(until))).await {
            Ok(Ok(prediction)) => Ok(Ok(prediction)),
            Ok(Err(
                error @ (RemoteError::Failed { .. }
                | RemoteError::Cancelled { .. }
                | RemoteError::NoSuchPrediction { .. }),
            )) => Ok(Err(error)),
            Ok(Err(error)) if Instant::now() >= until => {
                self.cancel(errand, &id).await;
                Ok(Err(error))
            }
            // It may be running still: the next delivery finds it, where there is one.
            Ok(Err(error)) => {
                if !errand.comes_again {
                    self.cancel(errand, &id).await;
                }
                Err(steps::failure(&step.name, &error))
            }
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
        let (bytes, mut permit, is_source) = match given {
            Given::At { address, generation, is_source } => {
                let opened = async {
                    match &address {
                        SourceAddress::Object(location) if !is_source => {
                            self.shared.sources.own(location, &generation).await
                        }
                        address => self.shared.sources.open(address, Some(&generation)).await,
                    }
                };
                let source = clock.in_time(opened).await??;
                let size = source.size.unwrap_or(self.shared.settings.max_source_bytes);
                let permit = clock.in_time(self.shared.admission.acquire(size)).await??;
                (clock.in_time(source.whole()).await??, permit, is_source)
            }
            Given::Bytes(bytes, permit) => match permit {
                Some(permit) => (bytes, permit, false),
                None => {
                    let size = bytes.len() as u64;
                    (bytes, clock.in_time(self.shared.admission.acquire(size)).await??, false)
                }
            },
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
        let (prepared, sha256, mut permit) = self.shared.lanes.run(&errand.user, || (), work).await?;
        let (file, format) = prepared.map_err(|problem| picture_failure("broken-picture", &problem))?;
        if facts.source_sha256.is_none() {
            facts.source_sha256 = sha256;
        }
        // All that is left of it: others wait for the rest while this goes over the network.
        permit.try_resize(4 * file.len() as u64);
        let (content_type, file) = (format.content_type(), Bytes::from(file));
        if file.len() > MAX_DATA_URI_BYTES {
            let uploaded = clock.in_time(errand.steps.remote().upload(&file, content_type)).await?;
            match uploaded {
                Ok(address) => return Ok(address.into()),
                Err(RemoteError::NoFiles) => {}
                Err(error) => return Err(steps::failure(&step.name, &error)),
            }
        }
        drop(permit);
        Ok(data_uri(content_type, &file))
    }
}

/// Of every variation the first file that was made. Files of one variation stand together, `outputs` of them where it is a
/// palette or an effect.
fn first_files(entries: &[VariationEntry], outputs: usize) -> Vec<usize> {
    let mut firsts = Vec::new();
    let (mut begun_at, mut is_found) = (0, false);
    for (at, entry) in entries.iter().enumerate() {
        let is_next = |before: &VariationEntry| {
            // Palettes may have the same name, and even the same colours.
            before.palette != entry.palette
                || before.colors != entry.colors
                || before.effect != entry.effect
                || before.params != entry.params
                || at - begun_at >= outputs
        };
        if at == 0 || is_next(&entries[begun_at]) {
            (begun_at, is_found) = (at, false);
        }
        if !is_found && entry.error.is_none() {
            firsts.push(at);
            is_found = true;
        }
    }
    firsts
}

fn picture_failure(class: &str, problem: &str) -> Failure {
    let class = Class::of(class).unwrap_or(Class::BrokenPicture);
    Failure::new(
        class,
        crate::pipeline::run::explain(format!("steps: the picture cannot be sent: {problem}"), class.name()),
    )
}
