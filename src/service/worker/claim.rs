//! What a job is, and whether it has been done already: its source is opened, its work identified, its place looked at.

use std::time::Instant;

use super::Worker;
use super::clock::Clock;
use super::existing::{self, Existing};
use super::plan::{Plan, of_fill};
use super::run::{Facts, Finished, Given, Keep, Task};
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::run::content_of;
use crate::service::admission::{Permit, Place};
use crate::service::failure::{Class, Failure};
use crate::service::fair::FairPermit;
use crate::service::jobs::{Entry, Stage};
use crate::service::source::{OpenSource, SourceAddress};
use crate::service::storage::Location;

/// What is known of a job before its picture has memory.
pub enum Claimed {
    /// It was done before.
    Done(Finished),
    /// It is to be done.
    Work(Box<Claim>),
}

/// Work that is to be done.
pub struct Claim {
    pub plan: Plan,
    pub identity: Identity,
    pub folder: Location,
    /// What is in the job's place.
    pub found: Existing,
    /// Where the picture is; of one that a step put in the source's place, the step's object.
    pub address: Option<SourceAddress>,
    pub picture: Picture,
    /// The picture that takes the background's place.
    pub fill: Option<Box<OpenSource>>,
    pub keep: Keep,
    pub clock: Clock,
    pub entry: Entry,
    /// None of a job that needs the processors no more.
    pub place: Option<Place>,
    /// A place among the few sources that are open without memory.
    pub opener: Option<FairPermit>,
    /// Memory that was taken already.
    pub permit: Option<Permit>,
    pub may_resume: bool,
}

impl Claim {
    /// What of it somebody keeps who waits for another to do the work: its time, and its place in the queue, unless that is for a
    /// remote model, for which no queue of ours is.
    pub fn waiting(self) -> (Clock, Option<Place>) {
        let place = self.place.filter(|_| self.plan.job.steps.is_empty());
        (self.clock, place)
    }
}

/// A picture's file.
pub enum Picture {
    /// On its way.
    Open(Box<OpenSource>),
    /// Here.
    Whole(WholePicture),
}

/// A file that was read before its work could be told from other work.
pub struct WholePicture {
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

impl Worker {
    /// Opens the source, identifies the work, and looks whether it is done.
    ///
    /// # Errors
    /// [`Failure`]; nothing has been stored yet.
    pub(super) async fn claim(&self, task: Task, facts: &mut Facts) -> Result<Claimed, Failure> {
        let Task { plan, given, deadline, keep, gone, may_resume, comes_again } = task;
        facts.job_id.clone_from(&plan.job.job_id);
        // A record tells apart what was wanted even where nothing was found.
        facts.generation.clone_from(&plan.generation);
        let folder_of = |id: &str| plan.destination.join(&plan.user).join(id);
        facts.folder = plan.job.job_id.as_deref().map(folder_of);
        let clock = Clock::new(self.clone(), deadline, gone, comes_again);
        clock.check()?;
        let (given, permit, place) = match given {
            Some(Given { bytes, permit, place }) => (Some(bytes), permit, place),
            None => (None, None, None),
        };
        // What is done already must not wait behind what is not.
        if given.is_none()
            && self.shared.openers.occupancy().is_full()
            && let Some(finished) = clock.in_time(self.done_before(&plan, keep, facts)).await?
        {
            return Ok(Claimed::Done(finished));
        }
        let place = place.map_or_else(|| self.shared.admission.enter(), Ok)?;
        // A picture that is only answered with is no job to ask for.
        let mut entry = match (&plan.job.job_id, &facts.folder, keep) {
            (Some(id), Some(folder), Keep::Stored) => self.shared.jobs.begin(folder, &plan.user, id),
            _ => Entry::unnamed(),
        };
        facts.entry = Some(entry.clone());
        entry.stage(Stage::Fetching);
        let queued = Instant::now();
        // A picture that came along has its memory already, and must not wait behind those that have none yet.
        let opener = match &given {
            Some(_) => None,
            None => Some(clock.in_time(self.shared.openers.acquire(&plan.user)).await?),
        }
        .transpose()
        .map_err(|error| Failure::new(Class::Busy, error.to_string()))?;
        facts.queued += queued.elapsed();

        // Is it done already? Asked while the source is opened, where the job's name is known.
        let fetching = Instant::now();
        let look = async {
            match (&facts.folder, keep) {
                (Some(folder), Keep::Stored) => existing::look(&self.shared.storage, folder).await,
                _ => Ok(Existing::None),
            }
        };
        let open = async {
            match (given, &plan.source) {
                (Some(bytes), _) => Ok(self.shared.sources.given(bytes)),
                (None, Some(address)) => self.shared.sources.open(address, plan.generation.as_deref()).await,
                (None, None) => Ok(self.shared.sources.given(Vec::new())),
            }
        };
        let open_fill = async {
            match &plan.fill {
                Some(address) => self.shared.sources.open(address, None).await.map(|fill| Some(Box::new(fill))),
                None => Ok(None),
            }
        };
        let (found, opened, fill) = clock.in_time(async { tokio::join!(look, open, open_fill) }).await?;
        let mut found = found?;
        let source = match opened {
            Ok(source) => source,
            Err(error) => {
                // Done work stays done when its source is gone.
                if let (Existing::Final(manifest), Some(folder)) = (&found, &facts.folder)
                    && existing::is_of(&plan.job, manifest, self.options())
                {
                    entry.done(manifest);
                    return Ok(Claimed::Done(Finished::before(manifest, folder.clone())));
                }
                return Err(error.into());
            }
        };
        let fill = fill.map_err(|error| of_fill(error.into()))?;
        facts.fill_generation = fill.as_ref().and_then(|fill| fill.generation.clone());
        facts.generation = source.generation.clone();
        facts.source_bytes = source.size.unwrap_or(0);

        let (permit, picture) = match source.generation {
            Some(_) => (permit, Picture::Open(Box::new(source))),
            // Without a generation, the content itself tells which picture it is.
            None => {
                let (permit, whole) = self.read_whole(source, permit, &clock).await?;
                facts.sha256 = Some(whole.sha256.clone());
                (permit, Picture::Whole(whole))
            }
        };
        facts.fetched += fetching.elapsed();
        let identity = Identity::new(&plan.job, &facts.tag(), self.options());
        let folder = folder_of(&identity.job_id);
        facts.job_id = Some(identity.job_id.clone());
        facts.key = Some(identity.key.clone());
        facts.folder = Some(folder.clone());
        if plan.job.job_id.is_none() && keep == Keep::Stored {
            entry = self.shared.jobs.begin(&folder, &plan.user, &identity.job_id);
            facts.entry = Some(entry.clone());
            entry.stage(Stage::Fetching);
            found = clock.in_time(existing::look(&self.shared.storage, &folder)).await??;
        }
        match &found {
            Existing::Final(manifest) if manifest.key == identity.key => {
                entry.done(manifest);
                return Ok(Claimed::Done(Finished::before(manifest, folder)));
            }
            Existing::Final(_) | Existing::Foreign => return Err(existing::conflict(&folder)),
            Existing::Failed { .. } | Existing::None => {}
        }
        Ok(Claimed::Work(Box::new(Claim {
            address: plan.source.clone(),
            plan,
            identity,
            folder,
            found,
            picture,
            fill,
            keep,
            clock,
            entry,
            place: Some(place),
            opener,
            permit,
            may_resume,
        })))
    }

    /// The manifest of a job that is done, found by two small requests: what its source is now, and what is in its place.
    /// None also where that could not be told.
    async fn done_before(&self, plan: &Plan, keep: Keep, facts: &mut Facts) -> Option<Finished> {
        if keep != Keep::Stored {
            return None;
        }
        let _looker = self.shared.lookers.acquire().await.ok()?;
        let generation_of = async |address: Option<&SourceAddress>| match address {
            Some(SourceAddress::Object(location)) => Some(self.shared.storage.stat(location).await.ok()??.generation),
            Some(SourceAddress::Web(_)) | None => None,
        };
        let picture = async {
            match &plan.generation {
                Some(generation) => Some(generation.clone()),
                None => generation_of(plan.source.as_ref()).await,
            }
        };
        let fill = async { (plan.fill.is_none(), generation_of(plan.fill.as_ref()).await) };
        let look = async |folder: &Location| match existing::look(&self.shared.storage, folder).await {
            Ok(Existing::Final(manifest)) => Some(manifest),
            _ => None,
        };
        let named = plan.job.job_id.as_deref().map(|id| plan.destination.join(&plan.user).join(id));
        let first = async {
            match &named {
                Some(folder) => look(folder).await,
                None => None,
            }
        };
        let (picture, (no_fill, fill), first) = tokio::join!(picture, fill, first);
        let picture = picture.filter(|_| no_fill || fill.is_some())?;
        let identity = Identity::new(&plan.job, &content_of(&picture, fill.as_deref()), self.options());
        let folder = plan.destination.join(&plan.user).join(&identity.job_id);
        let manifest = match named {
            Some(_) => first,
            None => look(&folder).await,
        };
        let manifest = manifest.filter(|manifest| manifest.key == identity.key)?;
        facts.job_id = Some(identity.job_id);
        facts.key = Some(identity.key);
        facts.generation = Some(picture);
        facts.fill_generation = fill;
        facts.folder = Some(folder.clone());
        Some(Finished::before(&manifest, folder))
    }

    /// Reads a picture to its end, into memory that is taken first, and hashes it where hashing holds nobody up.
    async fn read_whole(
        &self,
        source: OpenSource,
        permit: Option<Permit>,
        clock: &Clock,
    ) -> Result<(Option<Permit>, WholePicture), Failure> {
        let permit = if source.is_whole() {
            permit
        } else {
            // Where no size is announced, as much as could come.
            let most = self.shared.admission.occupancy().capacity / 2;
            let size = source.size.unwrap_or(self.shared.settings.max_source_bytes.min(most));
            Some(clock.in_time(self.shared.admission.acquire(size)).await??)
        };
        let bytes = clock.in_time(source.whole()).await??;
        let hashed = tokio::task::spawn_blocking(move || WholePicture { sha256: sha256_hex(&bytes), bytes });
        let whole = hashed.await.map_err(|_| Failure::new(Class::Internal, "the picture could not be hashed"))?;
        Ok((permit, whole))
    }
}
