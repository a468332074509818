//! Computing, storing what is made while it computes, and the manifest last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Worker;
use super::claim::Claim;
use super::clock::{Clock, Pace};
use super::existing::{self, Aside, Existing};
use super::fetch::Production;
use super::ingredients::Ingredients;
use super::plan::Plan;
use super::run::{Facts, Finished, Keep};
use super::steps::Errand;
use super::uploads::{Shelf, Stored, Uploads};
use crate::pipeline::event::{Event, PlannedFile, Step, Watch};
use crate::pipeline::footprint;
use crate::pipeline::identity::Identity;
use crate::pipeline::manifest::Manifest;
use crate::pipeline::outlet::{FileMemory, HandOver, MadeFile, Remembered, Start};
use crate::pipeline::output::{StoredFile, crc32c_text};
use crate::pipeline::run;
use crate::pipeline::variation::STOPPED;
use crate::service::failure::{Class, Failure};
use crate::service::jobs::{Entry, Stage};
use crate::service::storage::{Location, Stat};

/// How long signing may go on after the time to compute is up: the manifest needs the rest.
const LAST_LINKS: Duration = Duration::from_secs(1);

/// What computing and storing left behind.
struct Made {
    manifest: Manifest,
    /// What storage said of each file.
    results: Stored,
    /// The picture to answer with, for [`Keep::Picture`].
    picture: Option<MadeFile>,
    /// Storing what was left when the last file was made.
    storing: Duration,
}

impl Worker {
    /// Makes the variations and their manifest.
    ///
    /// # Errors
    /// [`Failure`]; what was stored stays, and the next delivery makes the rest.
    pub(super) async fn produce(
        &self,
        mut production: Production,
        errand: Option<&Errand>,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Failure> {
        let shelf = self.job_shelf(&production.folder, &production.identity, &production.plan);
        let found = std::mem::replace(&mut production.found, Existing::None);
        let (plan, stored) = (production.plan.clone(), production.stored.clone());
        let (clock, entry, keep) = (production.clock.clone(), production.entry.clone(), production.keep);
        let Made { mut manifest, results, picture, storing } = self.make(production, &shelf, facts, arrived).await?;

        if let Some(error) = manifest.error.take() {
            return Err(Failure::new(Class::of(&error.class).unwrap_or(Class::Internal), error.message));
        }
        manifest.source.generation = facts.generation.clone().unwrap_or_default();
        manifest.source.fill_generation.clone_from(&facts.fill_generation);
        let mut timing = |stage: &str, time: Duration| {
            manifest.timings_ms.insert(stage.into(), (time.as_secs_f64() * 1e6).round() / 1e3);
        };
        timing("queue", facts.queued);
        timing("fetch", facts.fetched);
        timing("store", storing);
        timing("total", arrived.elapsed());
        if keep == Keep::Picture {
            if manifest.variations.iter().any(|entry| entry.error.as_ref().is_some_and(|e| e.class == STOPPED)) {
                return Err(clock.failure());
            }
            return Ok(Finished { manifest: manifest.into(), folder: shelf.folder, duplicate: false, picture });
        }
        complete(&mut manifest, &results, &stored, &clock)?;
        manifest.steps = std::mem::take(&mut facts.steps);
        if let Some(sha256) = facts.source_sha256.take() {
            manifest.source.sha256 = sha256;
        }
        if let Some(errand) = errand {
            let begun = Instant::now();
            Box::pin(self.steps_after(&plan.job, errand, &mut manifest, facts)).await?;
            let remote = (facts.remote + begun.elapsed()).as_secs_f64() * 1e3;
            manifest.timings_ms.insert("remote".into(), (remote * 1e3).round() / 1e3);
            manifest.timings_ms.insert("total".into(), (arrived.elapsed().as_secs_f64() * 1e6).round() / 1e3);
        }
        let finished = self.commit(manifest, &shelf, found, &plan, &clock, &entry).await?;
        self.remove_notes(std::mem::take(&mut facts.notes));
        Ok(finished)
    }

    /// Where and as what a job's files are stored.
    pub(super) fn job_shelf(&self, folder: &Location, identity: &Identity, plan: &Plan) -> Shelf {
        Shelf {
            storage: self.shared.storage.clone(),
            folder: folder.clone(),
            work_key: identity.key.clone(),
            content_addressed: Identity::is_derived(&plan.job),
        }
    }

    /// The manifest of a job that is steps and nothing else.
    ///
    /// # Errors
    /// [`Failure`]; what was stored stays.
    pub(super) async fn commit_steps(
        &self,
        claim: Claim,
        shelf: &Shelf,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Failure> {
        let Claim { plan, identity, found, clock, entry, .. } = claim;
        entry.stage(Stage::Uploading);
        let mut manifest = run::empty_manifest(&plan.job, &identity, facts.source_sha256.take().unwrap_or_default());
        manifest.source.generation = facts.generation.clone().unwrap_or_default();
        manifest.steps = std::mem::take(&mut facts.steps);
        for (stage, time) in [("remote", facts.remote), ("total", arrived.elapsed())] {
            manifest.timings_ms.insert(stage.into(), (time.as_secs_f64() * 1e6).round() / 1e3);
        }
        let finished = self.commit(manifest, shelf, found, &plan, &clock, &entry).await?;
        self.remove_notes(std::mem::take(&mut facts.notes));
        Ok(finished)
    }

    /// Computes in a lane, and stores what is made meanwhile.
    async fn make(
        &self,
        production: Production,
        shelf: &Shelf,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Made, Failure> {
        let Production { plan, identity, material, probe, mut permit, stored, keep, clock, entry, place, .. } =
            production;
        let options = self.options().clone();
        let user = plan.user.clone();
        // Where a picture is the answer, it is the first; a matte may come along.
        let answer = run::object_names(&plan.job, &options).into_iter().next().unwrap_or_default();
        let waiting_bytes = footprint::waiting_bytes(&probe, &plan.job, &options);
        let first = Arc::new(AtomicU64::new(u64::MAX));
        let links = self.links_within(LAST_LINKS, stored.keys().cloned().collect(), &shelf.folder).await;
        let on_stored = {
            let (first, entry, worker, folder) = (first.clone(), entry.clone(), self.clone(), shelf.folder.clone());
            move |object: String| {
                let micros = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
                first.fetch_min(micros, Ordering::SeqCst);
                let (entry, worker, folder) = (entry.clone(), worker.clone(), folder.clone());
                async move {
                    let link = timeout(LAST_LINKS, worker.link_to(&folder.join(&object))).await;
                    entry.stored(&object, link.ok().and_then(Result::ok).flatten());
                }
            }
        };
        let uploads = Uploads::start(
            shelf.clone(),
            self.shared.settings.connection_pool_size,
            waiting_bytes,
            self.shared.metrics.clone(),
            on_stored,
        );
        let intake = uploads.intake();
        let picture = Arc::new(Mutex::new(None));
        let work = {
            let (clock, picture, entry, cache) =
                (clock.clone(), picture.clone(), entry.clone(), self.shared.cache.clone());
            move || {
                let pace = Pace::default();
                let start = |object: &str| {
                    if let Some(stat) = stored.get(object) {
                        return Start::Stored(StoredFile {
                            bytes: stat.bytes,
                            crc32c: stat.crc32c.map(crc32c_text).unwrap_or_default(),
                        });
                    }
                    if intake.has_failed() || !clock.has_time_for(pace.a_file()) {
                        return Start::Stop;
                    }
                    Start::Make
                };
                let take = |file: MadeFile| {
                    pace.made();
                    match keep {
                        Keep::Stored => intake.take(file),
                        Keep::Picture if file.object != answer => Ok(()),
                        Keep::Picture => {
                            picture.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(file);
                            Ok(())
                        }
                    }
                };
                let observe = |event: Event| match event {
                    Event::Stage(Step::Decoding) => entry.stage(Stage::Decoding),
                    Event::Stage(Step::Removing) => entry.stage(Stage::Removing),
                    Event::Stage(Step::Clustering) => entry.stage(Stage::Clustering),
                    Event::Planned { files } => {
                        pace.begin();
                        // What an earlier delivery stored is there to be looked at, too, in the job's order.
                        let is_stored = |file: &PlannedFile| stored.contains_key(&file.object);
                        let there: Vec<String> =
                            files.iter().filter(|file| is_stored(file)).map(|file| file.object.clone()).collect();
                        entry.planned(files);
                        for object in there {
                            entry.stored(&object, links.get(&object).cloned());
                        }
                    }
                    Event::Made { .. } | Event::Failed { .. } => {}
                };
                // It may have waited for processors until nobody could use the result any more.
                let manifest = clock.has_time_for(Duration::ZERO).then(|| {
                    let job = &plan.job;
                    let ingredients = Ingredients::new(&cache, &plan, &material, &options);
                    let settled = AtomicBool::new(false);
                    let recall = |key: &str| if settled.load(Ordering::SeqCst) { cache.file(key) } else { None };
                    let remember = |key: &str, file: Remembered| {
                        if settled.load(Ordering::SeqCst) {
                            cache.keep_file(key, file);
                        }
                    };
                    let memory = FileMemory { base: &ingredients.key, recall: &recall, remember: &remember };
                    let hand_over = HandOver { start: &start, take: &take, memory: Some(memory) };
                    let base = |watch: &Watch<'_>| {
                        let base = ingredients.base(job, &options, watch)?;
                        settled.store(base.is_settled(), Ordering::SeqCst);
                        Ok(base)
                    };
                    let sha256 = ingredients.sha256.clone();
                    let mut manifest = run::make(job, &identity, base, sha256, hand_over, &options, &observe);
                    ingredients.account(&mut manifest);
                    manifest
                });
                drop(material);
                // What is still on its way into storage is all that is left.
                permit.try_resize(waiting_bytes.min(permit.bytes()));
                (manifest, permit)
            }
        };
        let waited = Instant::now();
        let mut began = waited;
        let begin = || {
            drop(place);
            began = Instant::now();
        };
        let (manifest, permit) = self.shared.lanes.run(&user, begin, work).await?;
        facts.queued += began - waited;
        let manifest = manifest.ok_or_else(|| clock.failure())?;
        entry.stage(Stage::Uploading);
        let storing = Instant::now();
        let results = clock.last_call(uploads.finish()).await.ok_or_else(|| clock.failure())?;
        drop(permit);
        let first = first.load(Ordering::SeqCst);
        facts.first_variation = (first != u64::MAX).then(|| Duration::from_micros(first));
        let picture = picture.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Made { manifest, results, picture, storing: storing.elapsed() })
    }

    /// Writes the manifest, after which the job is done.
    async fn commit(
        &self,
        mut manifest: Manifest,
        shelf: &Shelf,
        found: Existing,
        plan: &Plan,
        clock: &Clock,
        entry: &Entry,
    ) -> Result<Finished, Failure> {
        // Links are a convenience: the names are the truth, and links can be signed again.
        let linked = clock.until(LAST_LINKS, self.link(&mut manifest, &shelf.folder)).await;
        match linked {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, job_id = manifest.job_id, "the manifest lacks links"),
            None => tracing::warn!(job_id = manifest.job_id, "there was no time to sign every link"),
        }
        let is_ours = |other: &Manifest| existing::is_of(&plan.job, other, self.options());
        let aside = Aside { root: &self.shared.rules.default_destination, is_ours: &is_ours };
        let written = clock.last_call(existing::write(shelf, manifest, found, &aside)).await;
        let (manifest, duplicate) = written.unwrap_or_else(|| Err(clock.failure()))?;
        entry.done(&manifest);
        Ok(Finished { manifest, folder: shelf.folder.clone(), duplicate, picture: None })
    }
}

/// Writes into the manifest what storage answered; a file that is not there fails the delivery, not the job.
fn complete(
    manifest: &mut Manifest,
    results: &Stored,
    stored: &HashMap<String, Stat>,
    clock: &Clock,
) -> Result<(), Failure> {
    let find = |object: &str| match (results.get(object), stored.get(object)) {
        (Some(Ok(stat)), _) | (None, Some(stat)) => Ok(stat.clone()),
        (Some(Err(error)), _) => Err(Failure::of_destination(error)),
        (None, None) => Err(Failure::new(Class::StorageUnavailable, format!("destination: {object} was not stored"))),
    };
    // What storage said goes before what followed from it.
    if let Some(error) = results.values().find_map(|result| result.as_ref().err()) {
        return Err(Failure::of_destination(error));
    }
    for entry in &mut manifest.variations {
        let copies = entry.upload.iter().filter_map(|copy| copy.error.as_ref());
        let previews = entry.preview.iter().filter_map(|copy| copy.error.as_ref());
        let errors = entry.error.iter().chain(copies).chain(previews);
        for error in errors {
            match error.class.as_str() {
                STOPPED => return Err(clock.failure()),
                "storage" => return Err(Failure::new(Class::StorageUnavailable, error.message.clone())),
                _ => {}
            }
        }
        if entry.error.is_none() {
            let stat = find(&entry.object)?;
            entry.generation = stat.generation;
            entry.bytes = stat.bytes;
            entry.crc32c = stat.crc32c.map_or_else(|| entry.crc32c.clone(), crc32c_text);
        }
        if let Some(copy) = entry.upload.as_mut().filter(|copy| copy.error.is_none()) {
            let stat = find(&copy.object)?;
            copy.generation = stat.generation;
            copy.bytes = stat.bytes;
            copy.crc32c = stat.crc32c.map_or_else(|| copy.crc32c.clone(), crc32c_text);
        }
        if let Some(copy) = entry.preview.as_mut().filter(|copy| copy.error.is_none()) {
            let stat = find(&copy.object)?;
            copy.generation = stat.generation;
            copy.bytes = stat.bytes;
            copy.crc32c = stat.crc32c.map_or_else(|| copy.crc32c.clone(), crc32c_text);
        }
    }
    Ok(())
}
