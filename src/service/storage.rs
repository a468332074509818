//! Objects: where they lie, how they are named and served, and the three places that can hold them.
//!
//! Everything a job stores is created, never overwritten: [`Precondition::Absent`] is the rule, and only the record of a
//! failure and the lease of a job are replaced or removed, under the generation that was read. An object carries the key of the work that made it, so that a
//! second delivery can tell its own work from somebody else's.

mod gcs;
mod local;
mod memory;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::config::{Bucket, StorageSetting};
use crate::pipeline::job::Format;

pub use gcs::GcsStorage;
pub use local::LocalStorage;
pub use memory::MemoryStorage;

/// Longest name of an object, bytes: the limit of Cloud Storage.
const LONGEST_NAME: usize = 1024;

/// `gs://bucket/name`: one object, or with an empty name a bucket, or with a name that others begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    bucket: String,
    name: String,
}

/// Why a text is no [`Location`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{uri:?} {problem}")]
pub struct LocationError {
    uri: String,
    problem: &'static str,
}

impl Location {
    /// Reads `gs://bucket`, `gs://bucket/prefix/` or `gs://bucket/name`; a closing slash is dropped.
    ///
    /// Names that could not be a path are refused, whatever the storage: empty parts, `.`, `..`, backslashes and control
    /// characters.
    ///
    /// # Errors
    /// [`LocationError`] says what is wrong with it.
    pub fn parse(uri: &str) -> Result<Self, LocationError> {
        let wrong = |problem| Err(LocationError { uri: uri.chars().take(200).collect(), problem });
        let Some(rest) = uri.strip_prefix("gs://") else { return wrong("does not begin with gs://") };
        let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = name.strip_suffix('/').unwrap_or(name);
        if !Bucket::is_valid_name(bucket) {
            return wrong("names no valid bucket; write gs://bucket/name");
        }
        if !name.is_empty() && name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return wrong("has an empty part, a `.` or a `..` in its name; give it a plain name");
        }
        if name.contains(|c: char| c == '\\' || c.is_control()) {
            return wrong("has a backslash or a control character in its name; give it a plain name");
        }
        if name.len() > LONGEST_NAME {
            return wrong("has a name of more than 1024 bytes; shorten it");
        }
        Ok(Self { bucket: bucket.to_owned(), name: name.to_owned() })
    }

    /// The object or prefix below this one. `name` is one of the worker's own, already safe.
    pub fn join(&self, name: &str) -> Self {
        let name = if self.name.is_empty() { name.to_owned() } else { format!("{}/{name}", self.name) };
        Self { bucket: self.bucket.clone(), name }
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The name in the bucket; empty for the bucket itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is `place` or lies below it.
    pub fn is_within(&self, place: &Self) -> bool {
        self.bucket == place.bucket
            && (place.name.is_empty()
                || self.name.strip_prefix(&place.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}", self.bucket)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

/// What an object is; decides its content type and how long it may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A picture: a variation or its copy for upload.
    Picture(Format),
    /// A manifest: the commit mark of a job, or the record of a failure.
    Manifest,
    /// A message that a record is about, as it arrived.
    Message,
    /// Who works on a job, or how far one of its steps is; gone when the job is done.
    Note,
    /// What a remote model put out, of this media type.
    Media(&'static str),
}

/// Everything about an object that is decided before its bytes exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Where it goes.
    pub location: Location,
    /// What it is.
    pub kind: ObjectKind,
    /// Whether the name is made from the content, so that other content will never appear under it.
    pub content_addressed: bool,
    /// The key of the work that makes it; kept with the object.
    pub work_key: String,
}

impl ObjectKey {
    /// The media type.
    pub const fn content_type(&self) -> &'static str {
        match self.kind {
            ObjectKind::Picture(format) => format.content_type(),
            ObjectKind::Manifest | ObjectKind::Note => "application/json",
            ObjectKind::Message => "application/octet-stream",
            ObjectKind::Media(content_type) => content_type,
        }
    }

    /// The Cache-Control header it is served with.
    pub const fn cache_control(&self) -> &'static str {
        match (self.kind, self.content_addressed) {
            (ObjectKind::Picture(_) | ObjectKind::Media(_), true) => "public, max-age=31536000, immutable",
            (ObjectKind::Picture(_) | ObjectKind::Media(_), false) => "public, max-age=3600",
            // A failed manifest is replaced when a later delivery succeeds.
            (ObjectKind::Manifest, _) => "no-cache",
            (ObjectKind::Message | ObjectKind::Note, _) => "private, no-store",
        }
    }
}

/// What is known of a stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its generation: another one for every content that was ever stored under the name.
    pub generation: String,
    /// Its size.
    pub bytes: u64,
    /// CRC-32C of its content, where the storage knows it.
    pub crc32c: Option<u32>,
    /// The key of the work that made it; none when something else did.
    pub work_key: Option<String>,
}

/// When a write goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// Only where there is nothing.
    Absent,
    /// Only over this generation.
    Generation(String),
}

/// Why storage did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Nothing is there, or nothing of that generation.
    #[error("there is no object {0}; check the bucket and the name")]
    NotFound(Location),
    /// It is there, but not for us.
    #[error(
        "{0} may not be accessed; give the worker access: its service account to the bucket, or its user to the folder"
    )]
    Forbidden(Location),
    /// The precondition does not hold: something else is there.
    #[error("{0} is there already")]
    Precondition(Location),
    /// The object is larger than what the caller takes.
    #[error("{location} has more than {limit} bytes; make it smaller or raise CONCEPT_MAX_SOURCE_BYTES")]
    TooLarge {
        /// Where.
        location: Location,
        /// The most the caller takes.
        limit: u64,
    },
    /// What arrived is not what was stored.
    #[error("{0} arrived damaged: its checksum is another; it will be read again")]
    Corrupt(Location),
    /// The storage is not to be reached, is too busy or failed; trying again may help.
    #[error("storage failed at {location}: {problem}")]
    Unavailable {
        /// Where.
        location: Location,
        /// What it said, without secrets.
        problem: String,
    },
    /// It took too long.
    #[error("storage did not answer for {location} within {seconds} s")]
    TimedOut {
        /// Where.
        location: Location,
        /// The limit.
        seconds: u64,
    },
    /// The storage refuses the request as such; trying again will not help.
    #[error("storage refused {location}: {problem}")]
    Refused {
        /// Where.
        location: Location,
        /// What it said, without secrets.
        problem: String,
    },
}

/// How a storage is opened.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Which one.
    pub setting: StorageSetting,
    /// Address of an emulator of Cloud Storage, with its scheme, from STORAGE_EMULATOR_HOST; reached without credentials.
    pub emulator: Option<String>,
    /// Limit of one attempt to write.
    pub write_timeout: Duration,
    /// Limit of a request for an object until its content begins, and of every pause in it.
    pub read_timeout: Duration,
}

/// A place that holds objects. Cheap to clone; every clone is the same place.
#[derive(Debug, Clone)]
pub enum Storage {
    /// Cloud Storage.
    Gcs(GcsStorage),
    /// gs://bucket/name is the file DIR/bucket/name.
    Local(LocalStorage),
    /// Gone when the process ends.
    Memory(MemoryStorage),
}

/// An object on its way out: its pieces, then none, or why the next one does not come. Where nothing more comes, not even that,
/// whoever sent it went away in the middle.
pub type Pieces = mpsc::Receiver<Result<Option<Bytes>, String>>;

/// The next piece; none at the end of the object.
fn piece_of(received: Option<Result<Option<Bytes>, String>>) -> Result<Option<Bytes>, String> {
    received.unwrap_or_else(|| Err("it broke off in the middle".into()))
}

/// An object on its way in: what is known of it, then its content piece by piece.
#[derive(Debug)]
pub struct Download {
    stat: Stat,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Gcs(gcs::Reader),
    Local(local::Reader),
    Memory(Option<Bytes>),
}

impl Download {
    /// What is known of the object; its generation is the one that is read.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The next piece; none at the end, which is only reached when length and checksum are right.
    ///
    /// # Errors
    /// [`StorageError`]; after one, nothing more comes.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        match &mut self.content {
            Content::Gcs(reader) => reader.chunk().await,
            Content::Local(reader) => reader.chunk().await,
            Content::Memory(bytes) => Ok(bytes.take()),
        }
    }
}

// The client's futures are large, tens of kilobytes. Boxed, they take that while a request runs, and not in every job that
// waits for something else.
impl Storage {
    /// Opens a storage. Nothing is asked of it yet.
    ///
    /// # Errors
    /// A text that says what is missing, such as credentials.
    pub async fn open(options: &StorageOptions) -> Result<Self, String> {
        Ok(match options.setting.clone() {
            StorageSetting::Gcs => Self::Gcs(GcsStorage::open(options).await?),
            StorageSetting::Memory => Self::Memory(MemoryStorage::default()),
            setting => match setting.or_default(false) {
                StorageSetting::Local(folder) => Self::Local(LocalStorage::open(&folder)?),
                _ => Self::Memory(MemoryStorage::default()),
            },
        })
    }

    /// What is known of an object; none when it does not exist.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn stat(&self, location: &Location) -> Result<Option<Stat>, StorageError> {
        match self {
            Self::Gcs(storage) => Box::pin(storage.stat(location)).await,
            Self::Local(storage) => storage.stat(location).await,
            Self::Memory(storage) => Ok(storage.stat(location)),
        }
    }

    /// Begins to read an object of at most `limit` bytes: the one of `generation`, or the newest.
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageError::TooLarge`] before any content is read, where the size is known.
    pub async fn read(
        &self,
        location: &Location,
        generation: Option<&str>,
        limit: u64,
    ) -> Result<Download, StorageError> {
        match self {
            Self::Gcs(storage) => Box::pin(storage.read(location, generation, limit)).await,
            Self::Local(storage) => storage.read(location, generation, limit).await,
            Self::Memory(storage) => storage.read(location, generation, limit),
        }
    }

    /// Writes an object whole, with its content type, cache control, work key and checksum. Tries again by itself where that
    /// is safe and may help.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when something else is there: also when an earlier attempt got through and its answer
    /// was lost.
    pub async fn write(
        &self,
        key: &ObjectKey,
        content: Bytes,
        crc32c: u32,
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        match self {
            Self::Gcs(storage) => Box::pin(storage.write(key, content, crc32c, precondition)).await,
            Self::Local(storage) => storage.write(key, content, crc32c, precondition).await,
            Self::Memory(storage) => storage.write(key, content, crc32c, precondition),
        }
    }

    /// Writes an object of which one piece comes after the other, where there is none; a few pieces at most are held. In one
    /// attempt: pieces come only once.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when something is there; [`StorageError::Unavailable`] also when a piece does not come.
    pub async fn write_pieces(&self, key: &ObjectKey, pieces: Pieces) -> Result<Stat, StorageError> {
        match self {
            Self::Gcs(storage) => {
                // Named, as the compiler loses its way in what the client's future is made of.
                let write: Pin<Box<dyn Future<Output = Result<Stat, StorageError>> + Send + '_>> =
                    Box::pin(storage.write_pieces(key, pieces));
                write.await
            }
            Self::Local(storage) => storage.write_pieces(key, pieces).await,
            Self::Memory(storage) => storage.write_pieces(key, pieces).await,
        }
    }

    /// Removes `generation` of an object; that it is gone already is as good.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when another generation is there.
    pub async fn remove(&self, location: &Location, generation: &str) -> Result<(), StorageError> {
        match self {
            Self::Gcs(storage) => Box::pin(storage.remove(location, generation)).await,
            Self::Local(storage) => storage.remove(location, generation).await,
            Self::Memory(storage) => storage.remove(location, generation),
        }
    }

    /// A link that anyone can read the object with until it expires; none where the storage has no such thing.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the credentials cannot sign.
    pub async fn signed_link(&self, location: &Location, expires: Duration) -> Result<Option<String>, StorageError> {
        match self {
            Self::Gcs(storage) => Box::pin(storage.signed_link(location, expires)).await.map(Some),
            Self::Local(_) | Self::Memory(_) => Ok(None),
        }
    }

    /// How often a request had to be repeated since the storage was opened.
    pub fn retries(&self) -> u64 {
        match self {
            Self::Gcs(storage) => storage.retries(),
            Self::Local(_) | Self::Memory(_) => 0,
        }
    }
}

/// Whether `content` is what the caller says it is, before it is stored where nothing else checks it.
fn check_crc32c(location: &Location, content: &[u8], crc32c: u32) -> Result<(), StorageError> {
    if crc32c::crc32c(content) == crc32c {
        return Ok(());
    }
    let problem = "the content is not the one that its checksum was made of; make it again".to_owned();
    Err(StorageError::Refused { location: location.clone(), problem })
}
