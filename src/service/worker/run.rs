//! One job from its source to its manifest: claimed, fetched, produced.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Worker;
use super::claim::{Claim, Claimed};
use super::clock::Clock;
use super::existing::{self, Existing};
use super::lease::{Asked, Desk, Lease, Seen};
use super::plan::Plan;
use crate::pipeline::manifest::{Manifest, StepEntry};
use crate::pipeline::outlet::MadeFile;
use crate::pipeline::run::content_of;
use crate::service::admission::{Permit, Place};
use crate::service::failure::{Class, Failure};
use crate::service::flight::Seat;
use crate::service::jobs::Entry;
use crate::service::storage::{Location, StorageError};

/// A job to run.
pub struct Task {
    /// What to do.
    pub plan: Plan,
    /// The picture, where it came along.
    pub given: Option<Given>,
    /// When the answer must be there.
    pub deadline: Option<Instant>,
    /// Whether the one picture is to be answered with instead of stored.
    pub keep: Keep,
    /// Set when nobody waits for the answer any more.
    pub gone: Arc<AtomicBool>,
    /// Whether an earlier delivery may have stored something.
    pub may_resume: bool,
    /// Whether the job is delivered again when it does not succeed now.
    pub comes_again: bool,
}

impl Task {
    /// The same without the picture that came along.
    fn again(&self) -> Self {
        let Self { plan, given: _, deadline, keep, gone, may_resume: _, comes_again } = self;
        Self {
            plan: plan.clone(),
            given: None,
            deadline: *deadline,
            keep: *keep,
            gone: gone.clone(),
            // Whoever worked before may have stored something.
            may_resume: true,
            comes_again: *comes_again,
        }
    }
}

/// A picture that came along.
pub struct Given {
    /// Its file.
    pub bytes: Vec<u8>,
    /// The memory that was taken for it before it was read.
    pub permit: Option<Permit>,
    /// The place in the queue that was taken before that.
    pub place: Option<Place>,
}

/// What becomes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They are stored.
    Stored,
    /// The first one is the answer.
    Picture,
}

/// A job that ended in a manifest.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The job's folder.
    pub folder: Location,
    /// Whether it was there already.
    pub duplicate: bool,
    /// The picture, for [`Keep::Picture`].
    pub picture: Option<MadeFile>,
}

impl Finished {
    /// A job that was done before.
    pub fn before(manifest: &Arc<Manifest>, folder: Location) -> Self {
        Self { manifest: manifest.clone(), folder, duplicate: true, picture: None }
    }
}

/// What was measured on the way, also of jobs that failed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The job's name, once it is known.
    pub job_id: Option<String>,
    /// The job's folder, once it is known.
    pub folder: Option<Location>,
    /// The key of the work, once it is known.
    pub key: Option<String>,
    /// Generation of the source, where it has one.
    pub generation: Option<String>,
    /// SHA-256 of the source, where that tells it from others.
    pub sha256: Option<String>,
    /// Generation of the picture that takes the background's place.
    pub fill_generation: Option<String>,
    /// Size of the source, bytes.
    pub source_bytes: u64,
    /// What is told of the job.
    pub entry: Option<Entry>,
    /// What remote models did before recolouring.
    pub steps: Vec<StepEntry>,
    /// Waiting for remote models.
    pub remote: Duration,
    /// SHA-256 of the source itself, where a step put another picture in its place.
    pub source_sha256: Option<String>,
    /// Notes on steps that go when the job is done, with their generations.
    pub notes: Vec<(Location, String)>,
    /// Whether somebody else did the same work meanwhile and was waited for.
    pub merged: bool,
    /// Files found stored by an earlier delivery.
    pub adopted: usize,
    /// Waiting for memory and processors.
    pub queued: Duration,
    /// Reading the source.
    pub fetched: Duration,
    /// From arrival to the first stored variation.
    pub first_variation: Option<Duration>,
}

impl Facts {
    /// What tells the pictures' content from others of the same addresses; empty while that is not known.
    pub fn tag(&self) -> String {
        let picture = self.generation.as_deref().or(self.sha256.as_deref()).unwrap_or_default();
        content_of(picture, self.fill_generation.as_deref())
    }
}

/// Why work on a claim went no further.
enum Halt {
    /// It failed.
    Failed(Failure),
    /// Another instance is at it.
    Elsewhere(Seen),
    /// Another instance has done it.
    Done(Arc<Manifest>),
}

/// What came of waiting for another instance.
enum Waited {
    /// It has done the work.
    Done(Arc<Manifest>),
    /// It gave up or died: the work is ours.
    Ours(Lease),
}

/// How long another instance's work is left alone between two looks at it, at first and at most.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a lease may take to come; work goes on without one.
const ASKING: Duration = Duration::from_secs(5);

/// How long giving one back may hold up the answer after a failure.
const GIVING_BACK: Duration = Duration::from_secs(2);

impl Worker {
    /// Runs a job to its manifest, or waits for somebody who does the same work. `facts` is filled in on the way.
    ///
    /// # Errors
    /// [`Failure`]; nothing that was stored is lost by it.
    pub(super) async fn execute(
        &self,
        mut task: Task,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Failure> {
        let again = task.again();
        loop {
            let began = Instant::now();
            let came_along = task.given.is_some();
            // Boxed one by one: a job that waits holds the stage it is in, not room for all of them.
            let claim = match Box::pin(self.claim(task, facts)).await? {
                Claimed::Done(finished) => return Ok(finished),
                Claimed::Work(claim) => claim,
            };
            let flight = format!("{:?} {}", claim.keep, claim.identity.key);
            match self.shared.flights.board(&flight) {
                Seat::Pilot(pilot) => {
                    let result = match self.done_meanwhile(&claim, began) {
                        Some(finished) => Ok(finished),
                        None => Box::pin(self.fly(*claim, (!came_along).then_some(&again), facts, arrived)).await,
                    };
                    match &result {
                        Err(failure) if !failure.class.is_everyones() => drop(pilot),
                        result => pilot.land(result.clone()),
                    }
                    return result;
                }
                Seat::Passenger(passenger) => {
                    // Whoever waits holds nothing that others wait for, but its place: those who wait are bounded, too.
                    let (clock, place) = claim.waiting();
                    match clock.in_time(passenger.wait()).await? {
                        Some(result) => {
                            facts.merged = true;
                            return result.map(|finished| Finished { duplicate: true, ..finished });
                        }
                        None if came_along => return Err(gone_with_the_other()),
                        None => task = again.again(),
                    }
                    drop(place);
                }
            }
        }
    }

    /// Somebody may have done it between the look at its place and now.
    fn done_meanwhile(&self, claim: &Claim, began: Instant) -> Option<Finished> {
        let manifest = self.shared.jobs.done_since(&claim.folder, began).filter(|_| claim.keep == Keep::Stored)?;
        (manifest.key == claim.identity.key).then(|| Finished::before(&manifest, claim.folder.clone()))
    }

    /// Works on a claim under its lease, or waits for the instance that has it. `again` is the task, where it can be begun anew.
    async fn fly(
        &self,
        claim: Claim,
        again: Option<&Task>,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Failure> {
        let (folder, key, clock) = (claim.folder.clone(), claim.identity.key.clone(), claim.clock.clone());
        // Kept while somebody else works, so that those who follow the job here hear of its end.
        let mut entry = claim.entry.clone();
        let done = |entry: &Entry, manifest: &Arc<Manifest>| {
            entry.done(manifest);
            Ok(Finished::before(manifest, folder.clone()))
        };
        let mut lease = None;
        let mut claim = claim;
        let result = loop {
            let seen = match Box::pin(self.work(claim, &mut lease, facts, arrived)).await {
                Ok(finished) => break Ok(finished),
                Err(Halt::Failed(failure)) => break Err(failure),
                Err(Halt::Done(manifest)) => break done(&entry, &manifest),
                Err(Halt::Elsewhere(seen)) => seen,
            };
            facts.merged = true;
            match Box::pin(self.wait_elsewhere(&folder, &key, &clock, seen)).await {
                Ok(Waited::Done(manifest)) => break done(&entry, &manifest),
                Ok(Waited::Ours(ours)) => lease = Some(ours),
                Err(failure) => break Err(failure),
            }
            facts.merged = false;
            let Some(again) = again else { break Err(gone_with_the_other()) };
            match Box::pin(self.claim(again.again(), facts)).await {
                Ok(Claimed::Work(work)) => {
                    claim = *work;
                    entry = claim.entry.clone();
                }
                Ok(Claimed::Done(finished)) => break done(&entry, &finished.manifest),
                Err(failure) => break Err(failure),
            }
        };
        if let Some(lease) = lease {
            let running = self.begin_running();
            let giving_back = tokio::spawn(async move {
                lease.give_back().await;
                drop(running);
            });
            // After a job is done nobody needs to wait for that. After a failure another instance may be next, and there may be no
            // time on the processor once this one has answered.
            if result.is_err() {
                let _ = timeout(GIVING_BACK, giving_back).await;
            }
        }
        result
    }

    /// Fetches and produces, and meanwhile asks for the lease, unless it is held already.
    async fn work(
        &self,
        claim: Claim,
        lease: &mut Option<Lease>,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Halt> {
        if !claim.plan.job.steps.is_empty() {
            return Box::pin(self.work_with_steps(claim, lease, facts, arrived)).await;
        }
        let desk = self.shared.desk.clone().filter(|_| claim.keep == Keep::Stored && lease.is_none());
        let Some(desk) = desk else {
            claim.entry.working();
            let production = Box::pin(self.fetch(claim, None, facts)).await.map_err(Halt::Failed)?;
            return Box::pin(self.produce(production, None, facts, arrived)).await.map_err(Halt::Failed);
        };
        let (folder, key, clock) = (claim.folder.clone(), claim.identity.key.clone(), claim.clock.clone());
        let entry = claim.entry.clone();
        let (is_picture, seen_to_be) = oneshot::channel();
        let ask = async {
            // Of what is no picture there is nothing to share.
            if seen_to_be.await.is_err() {
                return Ok(());
            }
            let asking = self.ask(&desk, &folder, &key, None);
            match clock.in_time(timeout(ASKING, asking.answer())).await.map_err(Halt::Failed)? {
                Ok(Ok(Asked::Held(held))) => *lease = Some(held),
                Ok(Ok(Asked::Busy(seen))) => return Err(Halt::Elsewhere(seen)),
                Ok(Err(error)) => tracing::debug!(%error, "there is no lease; another instance may do the same work"),
                Err(_) => tracing::debug!("there is no lease in time; another instance may do the same work"),
            }
            // Whoever waits for another tells nothing: that may be another job of the same name.
            entry.working();
            Ok(())
        };
        let fetch = async { Box::pin(self.fetch(claim, Some(is_picture), facts)).await.map_err(Halt::Failed) };
        let ((), production) = tokio::try_join!(ask, fetch)?;
        // Whoever had the lease may have given it back when all was done. That is seldom, so that nothing waits for the answer.
        let look = clock.in_time(existing::look(&self.shared.storage, &folder));
        let produce = Box::pin(self.produce(production, None, facts, arrived));
        tokio::pin!(look, produce);
        let mut looked = false;
        loop {
            tokio::select! {
                biased;
                finished = &mut produce => return finished.map_err(Halt::Failed),
                found = &mut look, if !looked => {
                    looked = true;
                    if let Ok(Ok(Existing::Final(manifest))) = found
                        && manifest.key == key
                    {
                        clock.give_up();
                        return Err(Halt::Done(manifest));
                    }
                }
            }
        }
    }

    /// Asks for a lease, in a task of its own: one that comes after nobody waits for it any more is given back.
    fn ask(&self, desk: &Desk, folder: &Location, key: &str, seen: Option<Seen>) -> Asking {
        let (desk, folder, key) = (desk.clone(), folder.clone(), key.to_owned());
        let answer = tokio::spawn(async move { desk.ask(&folder, &key, seen.as_ref()).await });
        Asking { worker: self.clone(), answer: Some(answer) }
    }

    /// As [`Self::work`] of a job with steps: what is paid for is ordered only under the lease.
    async fn work_with_steps(
        &self,
        claim: Claim,
        lease: &mut Option<Lease>,
        facts: &mut Facts,
        arrived: Instant,
    ) -> Result<Finished, Halt> {
        let (folder, key) = (claim.folder.clone(), claim.identity.key.clone());
        if claim.keep == Keep::Picture {
            let message = "steps: their outputs are stored, and a picture was asked for; ask for JSON";
            return Err(Halt::Failed(Failure::new(Class::BadJob, message)));
        }
        if let (Some(desk), None) = (&self.shared.desk, &lease) {
            let clock = claim.clock.clone();
            match clock.in_time(self.ask(desk, &folder, &key, None).answer()).await.map_err(Halt::Failed)? {
                Ok(Asked::Held(held)) => *lease = Some(held),
                Ok(Asked::Busy(seen)) => return Err(Halt::Elsewhere(seen)),
                Err(error) => return Err(Halt::Failed(Failure::of_destination(&error))),
            }
            let found = clock.in_time(existing::look(&self.shared.storage, &folder)).await;
            if let Existing::Final(manifest) = found.and_then(|found| found).map_err(Halt::Failed)?
                && manifest.key == key
            {
                return Err(Halt::Done(manifest));
            }
        }
        claim.entry.working();
        let work = async {
            let shelf = self.job_shelf(&claim.folder, &claim.identity, &claim.plan);
            let errand = self.errand(&claim.plan.job, &shelf, &claim.clock, &claim.entry)?;
            let Some(errand) = errand else {
                return Err(Failure::new(Class::Internal, "a job with steps has none; report it"));
            };
            facts.steps.clear();
            let begun = Instant::now();
            let claim = Box::pin(self.steps_before(claim, &errand, facts)).await?;
            facts.remote = begun.elapsed();
            if !claim.plan.job.has_variations() {
                return Box::pin(self.commit_steps(claim, &shelf, facts, arrived)).await;
            }
            let production = Box::pin(self.fetch(claim, None, facts)).await?;
            Box::pin(self.produce(production, Some(&errand), facts, arrived)).await
        };
        work.await.map_err(Halt::Failed)
    }

    /// Waits until the instance that has the lease has written the manifest, or does not renew the lease any more.
    async fn wait_elsewhere(
        &self,
        folder: &Location,
        key: &str,
        clock: &Clock,
        mut seen: Seen,
    ) -> Result<Waited, Failure> {
        let (mut pause, longest) = LOOK_AGAIN;
        loop {
            clock.in_time(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(longest);
            match clock.in_time(existing::look(&self.shared.storage, folder)).await? {
                Ok(Existing::Final(manifest)) if manifest.key == key => return Ok(Waited::Done(manifest)),
                Ok(Existing::Final(_) | Existing::Foreign) => return Err(existing::conflict(folder)),
                Ok(Existing::None | Existing::Failed { .. }) => {}
                Err(error) => tracing::debug!(%error, "another instance's work was not looked at"),
            }
            let Some(desk) = &self.shared.desk else { continue };
            match clock.in_time(self.ask(desk, folder, key, Some(seen.clone())).answer()).await? {
                Ok(Asked::Held(lease)) => return Ok(Waited::Ours(lease)),
                Ok(Asked::Busy(still)) => seen = still,
                Err(error) => tracing::debug!(%error, "another instance's lease was not looked at"),
            }
        }
    }
}

/// A lease that is asked for.
struct Asking {
    worker: Worker,
    answer: Option<JoinHandle<Result<Asked, StorageError>>>,
}

impl Asking {
    async fn answer(mut self) -> Result<Asked, StorageError> {
        let broken = StorageError::Unavailable {
            location: self.worker.shared.rules.default_destination.clone(),
            problem: "asking for a lease was broken off".into(),
        };
        let Some(answer) = &mut self.answer else { return Err(broken) };
        let answered = answer.await.unwrap_or(Err(broken));
        self.answer = None;
        answered
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else { return };
        let running = self.worker.begin_running();
        tokio::spawn(async move {
            if let Ok(Ok(Asked::Held(held))) = answer.await {
                held.give_back().await;
            }
            drop(running);
        });
    }
}

/// A picture that came along was let go of while somebody else worked on the same.
fn gone_with_the_other() -> Failure {
    Failure::new(Class::Busy, "whoever made the same variations gave up; send it again")
}
