//! One job from its source to its manifest: claimed, fetched, produced.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Worker;
use super::claim::Claimed;
use super::plan::Plan;
use crate::pipeline::manifest::Manifest;
use crate::pipeline::outlet::MadeFile;
use crate::pipeline::run::content_of;
use crate::service::admission::{Permit, Place};
use crate::service::failure::Failure;
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

impl Worker {
    /// Runs a job to its manifest. `facts` is filled in on the way.
    ///
    /// # Errors
    /// [`Failure`]; nothing that was stored is lost by it.
    pub(super) async fn execute(&self, task: Task, facts: &mut Facts, arrived: Instant) -> Result<Finished, Failure> {
        // Boxed one by one: a job that waits holds the stage it is in, not room for all of them.
        let claim = match Box::pin(self.claim(task, facts)).await? {
            Claimed::Done(finished) => return Ok(finished),
            Claimed::Work(claim) => claim,
        };
        let production = Box::pin(self.fetch(*claim, facts)).await?;
        Box::pin(self.produce(production, facts, arrived)).await
    }
}
