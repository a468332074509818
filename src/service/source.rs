//! The picture of a job: from a bucket or over https, from where the settings allow it, within limits.

pub mod address;
pub mod web;

use bytes::Bytes;
use tokio::time::timeout;

use std::fmt;
use std::time::Duration;

use super::storage::{Download, Location, LocationError, Storage, StorageError};
use crate::config::{Bucket, Places, StorageSetting};
use web::{WebDownload, WebError, WebSources};

/// Bytes of a picture that are read before its memory is asked for. Headers behind more than this are rare.
const HEAD: usize = 256 << 10;

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceAddress {
    /// An object.
    Object(Location),
    /// An https:// address.
    Web(String),
}

/// Why a picture cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Not an address that the worker reads from.
    #[error("{0}")]
    Address(String),
    /// Outside what the settings allow.
    #[error("{place} is not among the places that pictures may come from; add it to CONCEPT_ALLOWED_SOURCES")]
    NotAllowed {
        /// The address.
        place: Location,
    },
    /// Storage failed or refused.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The web failed or refused.
    #[error("{0}")]
    Web(#[from] WebError),
    /// It took too long.
    #[error("the picture did not arrive within {seconds} s; make it smaller or raise CONCEPT_DOWNLOAD_TIMEOUT_SECONDS")]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(location) => location.fmt(f),
            Self::Web(url) => f.write_str(url),
        }
    }
}

impl SourceAddress {
    /// Reads the `source` of a job.
    ///
    /// # Errors
    /// [`SourceError::Address`] says what can be written instead.
    pub fn parse(source: &str) -> Result<Self, SourceError> {
        match source.split_once("://") {
            Some(("gs", _)) => match Location::parse(source) {
                Ok(location) if location.name().is_empty() => {
                    Err(SourceError::Address(format!("{location} is a bucket; name an object in it")))
                }
                Ok(location) => Ok(Self::Object(location)),
                Err(error) => Err(SourceError::Address(error.to_string())),
            },
            Some(("https" | "http", _)) => Ok(Self::Web(source.to_owned())),
            _ => {
                let shown: String = source.chars().take(100).collect();
                Err(SourceError::Address(format!(
                    "{shown:?} is no address that the worker reads from; write gs://bucket/name or https://host/path"
                )))
            }
        }
    }
}

/// Places that may be read from, or written to.
#[derive(Debug, Clone)]
pub struct Allowed {
    everywhere: bool,
    places: Vec<Location>,
}

impl Allowed {
    /// What the settings allow: the listed places, else the bucket, else everything where there is no cloud and nothing
    /// where there is.
    ///
    /// # Errors
    /// [`LocationError`] for a place that is none.
    pub fn new(listed: &Places, bucket: &Bucket, storage: &StorageSetting) -> Result<Self, LocationError> {
        if !listed.items().is_empty() {
            let everywhere = listed.items().iter().any(|item| item == "*");
            let places = listed.items().iter().filter(|item| *item != "*").map(|item| Location::parse(item));
            return Ok(Self { everywhere, places: places.collect::<Result<_, _>>()? });
        }
        match bucket.name() {
            Some(bucket) => Ok(Self { everywhere: false, places: vec![Location::parse(&format!("gs://{bucket}"))?] }),
            None => Ok(Self { everywhere: *storage != StorageSetting::Gcs, places: Vec::new() }),
        }
    }

    /// Whether a place may be used.
    pub fn allows(&self, location: &Location) -> bool {
        self.everywhere || self.places.iter().any(|place| location.is_within(place))
    }

    /// Whether nothing may be used at all.
    pub fn is_nothing(&self) -> bool {
        !self.everywhere && self.places.is_empty()
    }
}

/// Everything that pictures are read from.
#[derive(Clone)]
pub struct Sources {
    storage: Storage,
    allowed: Allowed,
    web: WebSources,
    limit: u64,
    time_limit: Duration,
}

/// A picture on its way in.
pub struct OpenSource {
    content: Content,
    head: Vec<u8>,
    ended: bool,
    limit: u64,
    time_limit: Duration,
    /// Its generation, where it has one.
    pub generation: Option<String>,
    /// Its size, where it is known before the end.
    pub size: Option<u64>,
}

enum Content {
    Object(Download),
    Web(WebDownload),
    Given,
}

impl Sources {
    /// Reads at most `limit` bytes, and takes at most `time_limit` for all of them.
    pub fn new(storage: Storage, allowed: Allowed, web: WebSources, limit: u64, time_limit: Duration) -> Self {
        Self { storage, allowed, web, limit, time_limit }
    }

    /// Whether the settings allow to read from there; the web has its own rules, checked when it is opened.
    ///
    /// # Errors
    /// [`SourceError::NotAllowed`].
    pub fn check(&self, address: &SourceAddress) -> Result<(), SourceError> {
        match address {
            SourceAddress::Object(location) if !self.allowed.allows(location) => {
                Err(SourceError::NotAllowed { place: location.clone() })
            }
            SourceAddress::Object(_) | SourceAddress::Web(_) => Ok(()),
        }
    }

    /// Begins to read a picture; of an object, the generation that is asked for or the newest.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn open(&self, address: &SourceAddress, generation: Option<&str>) -> Result<OpenSource, SourceError> {
        self.check(address)?;
        let open = async {
            Ok::<_, SourceError>(match address {
                SourceAddress::Object(location) => {
                    let download = self.storage.read(location, generation, self.limit).await?;
                    let stat = download.stat();
                    let (generation, size) = (Some(stat.generation.clone()), Some(stat.bytes));
                    self.source(Content::Object(download), generation, size)
                }
                SourceAddress::Web(url) => {
                    let download = self.web.open(url, self.limit).await?;
                    let size = download.content_length();
                    self.source(Content::Web(download), None, size)
                }
            })
        };
        match timeout(self.time_limit, open).await {
            Ok(source) => source,
            Err(_) => Err(SourceError::TimedOut { seconds: self.time_limit.as_secs() }),
        }
    }

    /// Begins to read a picture that the worker itself has stored, wherever that is.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn own(&self, location: &Location, generation: &str) -> Result<OpenSource, SourceError> {
        let download = self.storage.read(location, Some(generation), self.limit).await?;
        let stat = download.stat();
        let (generation, size) = (Some(stat.generation.clone()), Some(stat.bytes));
        Ok(self.source(Content::Object(download), generation, size))
    }

    /// A picture that came with the request.
    pub fn given(&self, bytes: Vec<u8>) -> OpenSource {
        let size = Some(bytes.len() as u64);
        OpenSource { head: bytes, ended: true, ..self.source(Content::Given, None, size) }
    }

    fn source(&self, content: Content, generation: Option<String>, size: Option<u64>) -> OpenSource {
        OpenSource {
            content,
            head: Vec::new(),
            ended: false,
            limit: self.limit,
            time_limit: self.time_limit,
            generation,
            size,
        }
    }
}

impl OpenSource {
    /// The first bytes, as many as are needed for a header in nearly every picture, or all there are.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn head(&mut self) -> Result<&[u8], SourceError> {
        self.fill(HEAD as u64).await?;
        Ok(&self.head)
    }

    /// Whether the head is all there is.
    pub fn is_whole(&self) -> bool {
        self.ended
    }

    /// All of it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn whole(mut self) -> Result<Vec<u8>, SourceError> {
        if !self.ended {
            let size = self.size.unwrap_or(0).min(self.limit);
            self.head.reserve_exact(usize::try_from(size).unwrap_or(0).saturating_sub(self.head.len()));
        }
        let time_limit = self.time_limit;
        match timeout(time_limit, self.fill(u64::MAX)).await {
            Ok(filled) => filled.map(|()| self.head),
            Err(_) => Err(SourceError::TimedOut { seconds: time_limit.as_secs() }),
        }
    }

    async fn fill(&mut self, wanted: u64) -> Result<(), SourceError> {
        while !self.ended && (self.head.len() as u64) < wanted {
            match self.chunk().await? {
                Some(chunk) => self.head.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
        // What is read is checked when the end is reached, so the end of a short one is looked for.
        if !self.ended && self.size.is_some_and(|size| self.head.len() as u64 >= size) {
            if let Some(chunk) = self.chunk().await? {
                self.head.extend_from_slice(&chunk);
            } else {
                self.ended = true;
            }
        }
        Ok(())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        Ok(match &mut self.content {
            Content::Object(download) => download.chunk().await?,
            Content::Web(download) => download.chunk().await?,
            Content::Given => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(uri: &str) -> Location {
        Location::parse(uri).unwrap()
    }

    #[test]
    fn without_settings_everything_local_is_allowed_and_nothing_in_the_cloud() {
        let none = (Places::default(), Bucket::default());
        let anywhere = location("gs://any-bucket/x");
        assert!(Allowed::new(&none.0, &none.1, &StorageSetting::Memory).unwrap().allows(&anywhere));
        let cloud = Allowed::new(&none.0, &none.1, &StorageSetting::Gcs).unwrap();
        assert!(!cloud.allows(&anywhere) && cloud.is_nothing());
    }

    #[test]
    fn a_prefix_allows_what_lies_below_it_and_not_what_begins_like_it() {
        let places = Places::try_from("gs://bases/brand, gs://other".to_owned()).unwrap();
        let allowed = Allowed::new(&places, &Bucket::default(), &StorageSetting::Gcs).unwrap();
        for (uri, allows) in [
            ("gs://bases/brand/a.png", true),
            ("gs://bases/brandy/a.png", false),
            ("gs://bases/a.png", false),
            ("gs://other/a.png", true),
            ("gs://other-2/a.png", false),
        ] {
            assert_eq!(allowed.allows(&location(uri)), allows, "{uri}");
        }
        let bucket = Bucket::try_from("bases".to_owned()).unwrap();
        let allowed = Allowed::new(&Places::default(), &bucket, &StorageSetting::Memory).unwrap();
        assert!(allowed.allows(&location("gs://bases/x")) && !allowed.allows(&location("gs://other/x")));
    }

    #[test]
    fn files_of_the_machine_and_whole_buckets_are_no_sources() {
        for bad in
            ["/etc/passwd", "file:///etc/passwd", "gs://bucket", "gs://bucket/../x", "s3://bucket/x", "photo.png"]
        {
            assert!(matches!(SourceAddress::parse(bad), Err(SourceError::Address(_))), "{bad}");
        }
        assert!(matches!(SourceAddress::parse("https://example.com/a.png"), Ok(SourceAddress::Web(_))));
    }
}
