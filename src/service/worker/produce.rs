//! Computing, storing what is made while it computes, and the manifest last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Worker;
use super::clock::{Clock, Pace};
use super::existing::{self, Aside, Existing};
use super::fetch::Production;
use super::plan::Plan;
use super::run::{Facts, Finished, Keep};
use super::uploads::{Shelf, Stored, Uploads};
use crate::pipeline::base::Inputs;
use crate::pipeline::footprint;
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::manifest::Manifest;
use crate::pipeline::outlet::{HandOver, MadeFile, Start};
use crate::pipeline::output::{StoredFile, crc32c_text};
use crate::pipeline::plan;
use crate::pipeline::run::{self, Event};
use crate::pipeline::variation::STOPPED;
use crate::service::failure::{Class, Failure};
use crate::service::jobs::{Entry, Stage};
use crate::service::storage::Stat;

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
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Failure> {
        let shelf = Shelf {
            storage: self.shared.storage.clone(),
            folder: production.folder.clone(),
            work_key: production.identity.key.clone(),
            content_addressed: Identity::is_derived(&production.plan.job),
        };
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
        self.commit(manifest, &shelf, found, &plan, &clock, &entry).await
    }

    /// Computes in a lane, and stores what is made meanwhile.
    async fn make(
        &self,
        production: Production,
        shelf: &Shelf,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Made, Failure> {
        let Production {
            plan,
            identity,
            bytes,
            fill,
            sha256,
            probe,
            mut permit,
            stored,
            keep,
            clock,
            entry,
            place,
            ..
        } = production;
        let options = self.options().clone();
        // Where a picture is the answer, it is the first; a matte may come along.
        let answer = run::object_names(&plan.job, &options).into_iter().next().unwrap_or_default();
        let waiting_bytes = footprint::waiting_bytes(&probe, &plan.job, &options);
        let first = Arc::new(AtomicU64::new(u64::MAX));
        let on_stored = {
            let (first, entry) = (first.clone(), entry.clone());
            move |object: &str| {
                let micros = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
                first.fetch_min(micros, Ordering::SeqCst);
                // A copy for upload is no variation of its own.
                if !plan::is_upload_name(object) {
                    entry.update(|status| status.stored += 1);
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
            let (clock, picture, entry) = (clock.clone(), picture.clone(), entry.clone());
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
                let observe = |event: Event| {
                    if let Event::Planned { total } = event {
                        pace.begin();
                        entry.update(|status| status.total = total);
                    }
                };
                // It may have waited for processors until nobody could use the result any more.
                let manifest = clock.has_time_for(Duration::ZERO).then(|| {
                    let sha256 = sha256.unwrap_or_else(|| sha256_hex(&bytes));
                    let hand_over = HandOver { start: &start, take: &take };
                    let inputs = Inputs { picture: &bytes, fill: fill.as_deref() };
                    run::make(&plan.job, &identity, inputs, sha256, hand_over, &options, &observe)
                });
                drop((bytes, fill));
                // What is still on its way into storage is all that is left.
                permit.try_resize(waiting_bytes.min(permit.bytes()));
                (manifest, permit)
            }
        };
        let waited = Instant::now();
        let mut began = waited;
        let begin = || {
            drop(place);
            entry.stage(Stage::Making);
            began = Instant::now();
        };
        let (manifest, permit) = self.shared.lanes.run(begin, work).await?;
        facts.queued += began - waited;
        let manifest = manifest.ok_or_else(|| clock.failure())?;
        entry.stage(Stage::Storing);
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
        let errors = entry.error.iter().chain(entry.upload.iter().filter_map(|copy| copy.error.as_ref()));
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
    }
    Ok(())
}
