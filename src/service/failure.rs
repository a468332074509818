//! Why a job did not succeed, and what becomes of its message.
//!
//! Each class has one disposition. What only the sender can mend is recorded and acknowledged, so that a poisoned message
//! does not slow its subscription down; what a later delivery can mend is left to it.

use serde::Serialize;

use super::source::SourceError;
use super::storage::StorageError;
use crate::pipeline::manifest;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Done, or never to be done: it is not delivered again.
    Acknowledge,
    /// Delivered again: there is no room now.
    Busy,
    /// Delivered again: something outside failed, or time ran out.
    Unavailable,
}

/// The classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The message is no envelope that is known, or carries nothing.
    BadMessage,
    /// The job cannot be run as written.
    BadJob,
    /// The source's address is none that can be read from.
    BadSource,
    /// The source does not exist.
    SourceNotFound,
    /// The source may not be read.
    SourceForbidden,
    /// The results may not be written where the job wants them.
    DestinationForbidden,
    /// The source is no picture that can be read.
    UnsupportedPicture,
    /// The picture is damaged.
    BrokenPicture,
    /// The picture or its file is over a limit.
    PictureTooLarge,
    /// The job as a whole is over a limit.
    TooMuchWork,
    /// Other work has its results under the same name.
    Conflict,
    /// It kept failing for reasons outside it.
    RetriesExhausted,
    /// Storage failed.
    StorageUnavailable,
    /// The host of the source failed.
    SourceUnavailable,
    /// A model, its file or the library that runs it cannot be had.
    ModelUnavailable,
    /// Memory ran out while a model ran, or its device was lost.
    ModelFailed,
    /// A model put out what is no map.
    ModelOutput,
    /// The server of remote models cannot be asked, or not now.
    RemoteUnavailable,
    /// A remote model failed.
    RemoteFailed,
    /// A remote model does not take what the job gives it, or gives what cannot be used.
    RemoteRefused,
    /// The delivery's time ran out.
    Deadline,
    /// The queue is full.
    Busy,
    /// The worker is shutting down.
    Draining,
    /// A bug.
    Internal,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 24] = [
        Self::BadMessage,
        Self::BadJob,
        Self::BadSource,
        Self::SourceNotFound,
        Self::SourceForbidden,
        Self::DestinationForbidden,
        Self::UnsupportedPicture,
        Self::BrokenPicture,
        Self::PictureTooLarge,
        Self::TooMuchWork,
        Self::Conflict,
        Self::RetriesExhausted,
        Self::StorageUnavailable,
        Self::SourceUnavailable,
        Self::ModelUnavailable,
        Self::ModelFailed,
        Self::ModelOutput,
        Self::RemoteUnavailable,
        Self::RemoteFailed,
        Self::RemoteRefused,
        Self::Deadline,
        Self::Busy,
        Self::Draining,
        Self::Internal,
    ];

    /// The short, stable name, as in manifests, logs and metrics.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// What becomes of the message of a job that failed like this.
    pub const fn disposition(self) -> Disposition {
        self.facts().1
    }

    /// The HTTP status that a caller gets who waits for the answer.
    pub const fn status(self) -> u16 {
        self.facts().2
    }

    /// Whether only the sender can mend it.
    pub const fn is_permanent(self) -> bool {
        matches!(self.disposition(), Disposition::Acknowledge)
    }

    /// Whether everybody who asked for the same work at the same time would meet it, too.
    pub const fn is_everyones(self) -> bool {
        match self {
            Self::Deadline | Self::Busy | Self::Draining | Self::Internal => false,
            Self::StorageUnavailable
            | Self::SourceUnavailable
            | Self::ModelUnavailable
            | Self::ModelFailed
            | Self::RemoteUnavailable
            | Self::RemoteFailed => true,
            class => class.is_permanent(),
        }
    }

    const fn facts(self) -> (&'static str, Disposition, u16) {
        use Disposition::{Acknowledge, Unavailable};
        match self {
            Self::BadMessage => ("bad-message", Acknowledge, 400),
            Self::BadJob => ("bad-job", Acknowledge, 422),
            Self::BadSource => ("bad-source", Acknowledge, 422),
            Self::SourceNotFound => ("source-not-found", Acknowledge, 404),
            Self::SourceForbidden => ("source-forbidden", Acknowledge, 403),
            Self::DestinationForbidden => ("destination-forbidden", Acknowledge, 403),
            Self::UnsupportedPicture => ("unsupported-picture", Acknowledge, 422),
            Self::BrokenPicture => ("broken-picture", Acknowledge, 422),
            Self::PictureTooLarge => ("picture-too-large", Acknowledge, 413),
            Self::TooMuchWork => ("too-much-work", Acknowledge, 413),
            Self::Conflict => ("conflict", Acknowledge, 409),
            Self::RetriesExhausted => ("retries-exhausted", Acknowledge, 503),
            Self::StorageUnavailable => ("storage-unavailable", Unavailable, 503),
            Self::SourceUnavailable => ("source-unavailable", Unavailable, 503),
            // Whoever runs the worker can mend it before the next delivery.
            Self::ModelUnavailable => ("model-unavailable", Unavailable, 503),
            Self::ModelFailed => ("model-failed", Unavailable, 503),
            // The same picture gives the same.
            Self::ModelOutput => ("model-output", Acknowledge, 422),
            Self::RemoteUnavailable => ("remote-unavailable", Unavailable, 503),
            // Ordered again, it may succeed; deliveries are counted.
            Self::RemoteFailed => ("remote-failed", Unavailable, 503),
            Self::RemoteRefused => ("remote-refused", Acknowledge, 422),
            Self::Deadline => ("deadline", Unavailable, 503),
            Self::Busy => ("busy", Disposition::Busy, 429),
            Self::Draining => ("draining", Unavailable, 503),
            // A bug may be one of this instance's state; where it is not, deliveries are counted.
            Self::Internal => ("internal", Unavailable, 500),
        }
    }

    /// The class of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// One failure: its class and what to tell about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The class.
    pub class: Class,
    /// What was wrong, where, and what to do. Holds no secrets.
    pub message: String,
}

impl Failure {
    /// A failure of this class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// As it stands in a manifest.
    pub fn to_manifest(&self) -> manifest::Failure {
        manifest::Failure { class: self.class.name().into(), message: self.message.clone() }
    }

    /// A storage error met while the source was read.
    pub fn of_source(error: &StorageError) -> Self {
        let class = match error {
            StorageError::NotFound(_) => Class::SourceNotFound,
            StorageError::Forbidden(_) => Class::SourceForbidden,
            StorageError::TooLarge { .. } => Class::PictureTooLarge,
            StorageError::Refused { .. } | StorageError::Precondition(_) => Class::BadSource,
            StorageError::Corrupt(_) | StorageError::Unavailable { .. } | StorageError::TimedOut { .. } => {
                Class::StorageUnavailable
            }
        };
        Self::new(class, format!("source: {error}"))
    }

    /// A storage error met while results were written or looked for.
    pub fn of_destination(error: &StorageError) -> Self {
        let class = match error {
            // The bucket is not there; somebody may be about to make it, but not because of this message.
            StorageError::NotFound(_) | StorageError::Forbidden(_) => Class::DestinationForbidden,
            StorageError::Precondition(_) => Class::Conflict,
            StorageError::Refused { .. } | StorageError::TooLarge { .. } => Class::DestinationForbidden,
            StorageError::Corrupt(_) | StorageError::Unavailable { .. } | StorageError::TimedOut { .. } => {
                Class::StorageUnavailable
            }
        };
        Self::new(class, format!("destination: {error}"))
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let class = match &error {
            SourceError::Storage(error) => return Self::of_source(error),
            // Its text says that it is about the source.
            SourceError::Web(error) => return Self::new(error.class(), error.to_string()),
            SourceError::Address(_) => Class::BadSource,
            SourceError::NotAllowed { .. } => Class::SourceForbidden,
            SourceError::TimedOut { .. } => Class::SourceUnavailable,
        };
        Self::new(class, format!("source: {error}"))
    }
}
