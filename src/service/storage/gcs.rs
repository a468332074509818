//! Cloud Storage through Google's client: one pool of connections, every attempt bounded, every repetition our own.
//!
//! The client's own repetitions are off, as it has no limit for one attempt. A write is safe to repeat because it always
//! has a precondition: when an earlier attempt got through and its answer was lost, the next one meets its own object and
//! says [`StorageError::Precondition`]; the caller then finds its own work key there.

mod attempt;
mod pieces;
mod reader;
mod remove;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous::Builder as Anonymous;
use google_cloud_auth::credentials::{Builder as DefaultCredentials, Credentials};
use google_cloud_auth::signer::{Signer, SigningError};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::builder::storage::SignedUrlBuilder;
use google_cloud_storage::client::Storage as Client;
use google_cloud_storage::model::Object;
use google_cloud_storage::model_ext::{ObjectHighlights, ReadRange};
use google_cloud_storage::read_object::ReadObjectResponse;
use google_cloud_storage::read_resume_policy::NeverResume;
use tokio::sync::OnceCell;

use super::{Content, Download, Location, ObjectKey, Precondition, Stat, StorageError, StorageOptions};
use attempt::Failure;

pub use reader::Reader;

/// The metadata entry that keeps the key of the work that made an object.
const WORK_KEY: &str = "concept-key";

/// Up to this size an object goes up in one request; above, in a session, which costs a round trip more.
const ONE_REQUEST_BYTES: usize = 64 << 20;

/// Longest life of a signed link: 7 days, the limit of V4 signatures.
const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A client of Cloud Storage. Clones share its connections.
#[derive(Clone)]
pub struct GcsStorage {
    shared: Arc<Shared>,
}

struct Shared {
    /// Made for the first request: credentials of the metadata server ask it for its domain then.
    client: OnceCell<Client>,
    signer: OnceLock<Signer>,
    /// For what Google's client has no call for.
    web: OnceLock<reqwest::Client>,
    credentials: Credentials,
    /// Where an emulator listens.
    endpoint: Option<String>,
    write_timeout: Duration,
    read_timeout: Duration,
    retries: AtomicU64,
}

impl fmt::Debug for GcsStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsStorage").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

impl GcsStorage {
    /// Makes a client with the application default credentials, or without any for an emulator. Nothing is asked of the
    /// network yet.
    ///
    /// # Errors
    /// A text that says which credentials are missing.
    pub async fn open(options: &StorageOptions) -> Result<Self, String> {
        let endpoint = options.emulator.as_deref().map(|address| {
            let address = address.trim_end_matches('/');
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
        });
        let credentials = match endpoint {
            Some(_) => Anonymous::new().build(),
            None => DefaultCredentials::default().build().map_err(|error| {
                // The error of a broken file may quote it.
                let what = if error.is_loading() { "cannot be read" } else { "are not of a kind that works here" };
                format!(
                    "the application default credentials {what}; set GOOGLE_APPLICATION_CREDENTIALS to a file of \
                     credentials, or unset it on Google Cloud"
                )
            })?,
        };
        let shared = Shared {
            client: OnceCell::new(),
            signer: OnceLock::new(),
            web: OnceLock::new(),
            credentials,
            endpoint,
            write_timeout: options.write_timeout,
            read_timeout: options.read_timeout,
            retries: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How often a request had to be repeated.
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    /// What is known of an object; none when it does not exist, or its bucket does not.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn stat(&self, location: &Location) -> Result<Option<Stat>, StorageError> {
        let client = self.client(location).await?;
        // One byte, read to its end, so that the connection goes back to the pool.
        let look = |range: ReadRange| {
            self.attempts(location, self.shared.read_timeout, move || {
                let request = client.read_object(bucket_of(location), location.name()).set_read_range(range.clone());
                async move {
                    let mut response = request.with_retry_policy(NeverRetry).send().await?;
                    let object = response.object();
                    if response.next().await.transpose()?.is_some() {
                        response.next().await.transpose()?;
                    }
                    Ok(object)
                }
            })
        };
        let found = match look(ReadRange::head(1)).await {
            // An object without content has no first byte; the whole of it is as small.
            Err(Failure::Http(416, _)) => look(ReadRange::all()).await,
            found => found,
        };
        match found {
            Ok(object) => Ok(Some(stat_of(&object))),
            Err(Failure::Http(404, _)) => Ok(None),
            Err(failure) => Err(failure.into_error(location)),
        }
    }

    /// Begins to read an object of at most `limit` bytes: the one of `generation`, or the newest. A connection that breaks
    /// is replaced, for the same generation.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn read(
        &self,
        location: &Location,
        generation: Option<&str>,
        limit: u64,
    ) -> Result<Download, StorageError> {
        let generation = match generation.map(generation_of) {
            None => 0,
            Some(Some(generation)) => generation,
            Some(None) => return Err(StorageError::NotFound(location.clone())),
        };
        let response = self.read_from(location, generation, 0).await?;
        let object = response.object();
        let stat = stat_of(&object);
        if stat.bytes > limit {
            return Err(StorageError::TooLarge { location: location.clone(), limit });
        }
        if object.content_encoding == "gzip" {
            let problem = "it is stored with Content-Encoding gzip; store it without".to_owned();
            return Err(StorageError::Refused { location: location.clone(), problem });
        }
        let reader = Reader::new(self.clone(), location.clone(), object.generation, stat.clone(), response);
        Ok(Download { stat, content: Content::Gcs(reader) })
    }

    /// The content of a generation, 0 for the newest, from `offset` on.
    async fn read_from(
        &self,
        location: &Location,
        generation: i64,
        offset: u64,
    ) -> Result<ReadObjectResponse, StorageError> {
        let client = self.client(location).await?;
        let read = || {
            client
                .read_object(bucket_of(location), location.name())
                .set_generation(generation)
                .set_read_range(ReadRange::offset(offset))
                .with_retry_policy(NeverRetry)
                .with_read_resume_policy(NeverResume)
                // The reader computes it, over all that arrives by however many connections.
                .compute_crc32c(false)
                .send()
        };
        let response = self.attempts(location, self.shared.read_timeout, read).await;
        response.map_err(|failure| failure.into_error(location))
    }

    /// Writes an object whole, in at most 5 attempts, each within the write timeout.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn write(
        &self,
        key: &ObjectKey,
        content: Bytes,
        crc32c: u32,
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        let location = &key.location;
        let before = match precondition {
            Precondition::Absent => 0,
            Precondition::Generation(generation) => {
                generation_of(generation).ok_or_else(|| StorageError::Precondition(location.clone()))?
            }
        };
        let client = self.client(location).await?;
        let write = || {
            client
                .write_object(bucket_of(location), location.name(), content.clone())
                .set_if_generation_match(before)
                .set_content_type(key.content_type())
                .set_cache_control(key.cache_control())
                .set_metadata([(WORK_KEY, key.work_key.as_str())])
                .with_known_crc32c(crc32c)
                .with_resumable_upload_threshold(ONE_REQUEST_BYTES)
                .with_retry_policy(NeverRetry)
                .send_unbuffered()
        };
        let written = self.attempts(location, self.shared.write_timeout, write).await;
        let object: Object = written.map_err(|failure| failure.into_error(location))?;
        Ok(Stat {
            generation: object.generation.to_string(),
            bytes: content.len() as u64,
            crc32c: Some(crc32c),
            work_key: Some(key.work_key.clone()),
        })
    }

    /// A link that anyone can read the object with until it expires: V4, at most 7 days.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when the credentials cannot sign, or for a longer life.
    pub async fn signed_link(&self, location: &Location, expires: Duration) -> Result<String, StorageError> {
        let refused =
            |problem: &str| Err(StorageError::Refused { location: location.clone(), problem: problem.to_owned() });
        const CANNOT_SIGN: &str = "the worker's credentials cannot sign links; run it as a service account that has \
                                   roles/iam.serviceAccountTokenCreator on itself";
        if self.shared.endpoint.is_some() {
            return refused("an emulator has no credentials to sign links with");
        }
        if expires > LONGEST_LINK || expires.as_secs() == 0 {
            return refused("a signed link lives between 1 s and 7 days; choose a time between");
        }
        let signer = match self.shared.signer.get() {
            Some(signer) => signer,
            None => match DefaultCredentials::default().build_signer() {
                Ok(signer) => self.shared.signer.get_or_init(|| signer),
                Err(_) => return refused(CANNOT_SIGN),
            },
        };
        let link = SignedUrlBuilder::for_object(bucket_of(location), location.name()).with_expiration(expires);
        let limit = self.shared.read_timeout;
        match tokio::time::timeout(limit, link.sign_with(signer)).await {
            Ok(Ok(link)) => Ok(link),
            // Neither error is shown: both may quote what was to be signed.
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<SigningError>());
                if cause.is_some_and(SigningError::is_transport) {
                    let problem = "the service that signs links did not sign; try again".to_owned();
                    return Err(StorageError::Unavailable { location: location.clone(), problem });
                }
                refused(CANNOT_SIGN)
            }
            Err(_) => Err(StorageError::TimedOut { location: location.clone(), seconds: limit.as_secs() }),
        }
    }

    /// The client, made at the first call.
    async fn client(&self, location: &Location) -> Result<&Client, StorageError> {
        let make = self.shared.client.get_or_try_init(|| async {
            let builder = Client::builder().with_credentials(self.shared.credentials.clone());
            match &self.shared.endpoint {
                Some(endpoint) => builder.with_endpoint(endpoint),
                None => builder,
            }
            .build()
            .await
        });
        let limit = self.shared.read_timeout;
        match tokio::time::timeout(limit, make).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => {
                let problem = format!("its client cannot be made: {}", attempt::root_of(&error));
                Err(StorageError::Unavailable { location: location.clone(), problem })
            }
            Err(_) => Err(StorageError::TimedOut { location: location.clone(), seconds: limit.as_secs() }),
        }
    }
}

/// The bucket as the client wants it.
fn bucket_of(location: &Location) -> String {
    format!("projects/_/buckets/{}", location.bucket())
}

/// A generation as a number. 0 is none: it would stand for the newest, or for no object.
fn generation_of(text: &str) -> Option<i64> {
    text.parse().ok().filter(|generation| *generation > 0)
}

fn stat_of(object: &ObjectHighlights) -> Stat {
    Stat {
        generation: object.generation.to_string(),
        // The size of the whole object, whatever the range.
        bytes: u64::try_from(object.size).unwrap_or_default(),
        crc32c: object.checksums.as_ref().and_then(|checksums| checksums.crc32c),
        work_key: object.metadata.get(WORK_KEY).cloned(),
    }
}
