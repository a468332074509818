//! Removing an object. Google's client has that only over gRPC, which no emulator of storage speaks; the JSON API is asked with
//! the same credentials.

use std::time::Duration;

use google_cloud_auth::credentials::CacheableResource;
use http::Extensions;

use super::super::{Location, StorageError};
use super::attempt::{Failure, MOST_ATTEMPTS};
use super::{GcsStorage, generation_of};

/// The service's own address.
const ENDPOINT: &str = "https://storage.googleapis.com";

/// Limit of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl GcsStorage {
    /// Removes `generation` of an object, in at most 5 attempts; that it is gone already is as good.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when another generation is there.
    pub async fn remove(&self, location: &Location, generation: &str) -> Result<(), StorageError> {
        let generation = generation_of(generation).ok_or_else(|| StorageError::Precondition(location.clone()))?;
        let limit = self.shared.read_timeout;
        let mut attempt = 1;
        loop {
            let failure = match tokio::time::timeout(limit, self.remove_once(location, generation)).await {
                Ok(Ok(())) | Ok(Err(Failure::Http(404, _))) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::TimedOut(limit.as_secs()),
            };
            if attempt >= MOST_ATTEMPTS || !failure.is_transient() {
                return Err(failure.into_error(location));
            }
            self.pause(attempt).await;
            attempt += 1;
        }
    }

    async fn remove_once(&self, location: &Location, generation: i64) -> Result<(), Failure> {
        let broken = |error: reqwest::Error| Failure::Broken(super::attempt::root_of(&error));
        let web = match self.shared.web.get() {
            Some(web) => web,
            None => {
                let web = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build().map_err(broken)?;
                self.shared.web.get_or_init(|| web)
            }
        };
        let headers = match self.shared.credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => data,
            // Only said to those who have them already.
            Ok(CacheableResource::NotModified) => Default::default(),
            Err(_) => return Err(Failure::NoToken),
        };
        let endpoint = self.shared.endpoint.as_deref().unwrap_or(ENDPOINT);
        let mut url = url::Url::parse(endpoint).map_err(|_| Failure::Broken("its address cannot be read".into()))?;
        if let Ok(mut path) = url.path_segments_mut() {
            // A slash within a name is escaped as one part.
            path.pop_if_empty().extend(["storage", "v1", "b", location.bucket(), "o", location.name()]);
        }
        url.query_pairs_mut().append_pair("ifGenerationMatch", &generation.to_string());
        let answer = web.delete(url).headers(headers).send().await.map_err(broken)?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(Failure::Http(status, String::new())),
        }
    }
}
