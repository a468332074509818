//! One job from its source to its manifest: claimed, fetched, produced.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Worker;
use super::claim::{Claim, Claimed};
use super::clock::Clock;
use super::existing::{self, Existing};
use super::lease::{Asked, Lease, Seen};
use super::plan::Plan;
use crate::pipeline::manifest::Manifest;
use crate::pipeline::outlet::MadeFile;
use crate::pipeline::run::content_of;
use crate::service::admission::{Permit, Place};
use crate::service::failure::{Class, Failure};
use crate::service::flight::Seat;
use crate::service::storage::Location;

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
}

impl Task {
    /// The same without the picture that came along.
    fn again(&self) -> Self {
        let Self { plan, given: _, deadline, keep, gone, may_resume } = self;
        Self {
            plan: plan.clone(),
            given: None,
            deadline: *deadline,
            keep: *keep,
            gone: gone.clone(),
            may_resume: *may_resume,
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
                        None => {
                            claim.entry.working();
                            Box::pin(self.fly(*claim, (!came_along).then_some(&again), facts, arrived)).await
                        }
                    };
                    match &result {
                        Err(failure) if !failure.class.is_everyones() => drop(pilot),
                        result => pilot.land(result.clone()),
                    }
                    return result;
                }
                Seat::Passenger(passenger) => {
                    let clock = claim.clock.clone();
                    // Whoever waits holds nothing that others wait for.
                    drop(claim);
                    match clock.in_time(passenger.wait()).await? {
                        Some(result) => {
                            facts.merged = true;
                            return result.map(|finished| Finished { duplicate: true, ..finished });
                        }
                        None if came_along => return Err(gone_with_the_other()),
                        None => task = again.again(),
                    }
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
        let mut lease = None;
        let mut claim = claim;
        let result = loop {
            let seen = match Box::pin(self.work(claim, &mut lease, facts, arrived)).await {
                Ok(finished) => break Ok(finished),
                Err(Halt::Failed(failure)) => break Err(failure),
                Err(Halt::Done(manifest)) => break Ok(Finished::before(&manifest, folder)),
                Err(Halt::Elsewhere(seen)) => seen,
            };
            facts.merged = true;
            match Box::pin(self.wait_elsewhere(&folder, &key, &clock, seen)).await {
                Ok(Waited::Done(manifest)) => break Ok(Finished::before(&manifest, folder)),
                Ok(Waited::Ours(ours)) => lease = Some(ours),
                Err(failure) => break Err(failure),
            }
            facts.merged = false;
            let Some(again) = again else { break Err(gone_with_the_other()) };
            match Box::pin(self.claim(again.again(), facts)).await {
                Ok(Claimed::Work(work)) => claim = *work,
                Ok(Claimed::Done(finished)) => break Ok(finished),
                Err(failure) => break Err(failure),
            }
        };
        if let Some(lease) = lease {
            // Nobody waits for it, but the worker does before it ends.
            let running = self.begin_running();
            tokio::spawn(async move {
                lease.give_back().await;
                drop(running);
            });
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
        let desk = self.shared.desk.clone().filter(|_| claim.keep == Keep::Stored && lease.is_none());
        let Some(desk) = desk else {
            let production = Box::pin(self.fetch(claim, facts)).await.map_err(Halt::Failed)?;
            return Box::pin(self.produce(production, facts, arrived)).await.map_err(Halt::Failed);
        };
        let (folder, key) = (claim.folder.clone(), claim.identity.key.clone());
        // A task of its own: a request that is broken off may leave a lease that nobody gives back.
        let mut asking = {
            let (folder, key) = (folder.clone(), key.clone());
            tokio::spawn(async move { desk.ask(&folder, &key, None).await })
        };
        let mut answered = false;
        let ask = async {
            let answer = (&mut asking).await;
            answered = true;
            match answer {
                Ok(Ok(Asked::Held(held))) => *lease = Some(held),
                Ok(Ok(Asked::Busy(seen))) => return Err(Halt::Elsewhere(seen)),
                Ok(Err(error)) => tracing::debug!(%error, "there is no lease; another instance may do the same work"),
                Err(_) => {}
            }
            // Whoever had it may have given it back when all was done.
            match existing::look(&self.shared.storage, &folder).await.map_err(Halt::Failed)? {
                Existing::Final(manifest) if manifest.key == key => Err(Halt::Done(manifest)),
                _ => Ok(()),
            }
        };
        let fetch = async { Box::pin(self.fetch(claim, facts)).await.map_err(Halt::Failed) };
        match tokio::try_join!(ask, fetch) {
            Ok(((), production)) => Box::pin(self.produce(production, facts, arrived)).await.map_err(Halt::Failed),
            Err(halt) => {
                if !answered {
                    let running = self.begin_running();
                    tokio::spawn(async move {
                        if let Ok(Ok(Asked::Held(held))) = asking.await {
                            held.give_back().await;
                        }
                        drop(running);
                    });
                }
                Err(halt)
            }
        }
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
            match clock.in_time(desk.ask(folder, key, Some(&seen))).await? {
                Ok(Asked::Held(lease)) => return Ok(Waited::Ours(lease)),
                Ok(Asked::Busy(still)) => seen = still,
                Err(error) => tracing::debug!(%error, "another instance's lease was not looked at"),
            }
        }
    }
}

/// A picture that came along was let go of while somebody else worked on the same.
fn gone_with_the_other() -> Failure {
    Failure::new(Class::Busy, "whoever made the same variations gave up; send it again")
}
