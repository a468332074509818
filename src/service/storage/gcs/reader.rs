//! Content on its way in.

use bytes::Bytes;
use google_cloud_storage::read_object::ReadObjectResponse;

use super::super::{Location, Stat, StorageError};
use super::GcsStorage;
use super::attempt::{Failure, MOST_ATTEMPTS};

/// The content of one generation, by as many connections as it takes; its length and checksum are verified at the end.
#[derive(Debug)]
pub struct Reader {
    storage: GcsStorage,
    location: Location,
    generation: i64,
    stat: Stat,
    received: u64,
    crc32c: u32,
    /// How often a connection broke.
    breaks: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(ReadObjectResponse),
    Ended(Result<(), StorageError>),
}

impl Reader {
    pub(super) fn new(
        storage: GcsStorage,
        location: Location,
        generation: i64,
        stat: Stat,
        response: ReadObjectResponse,
    ) -> Self {
        let state = State::Open(response);
        Self { storage, location, generation, stat, received: 0, crc32c: 0, breaks: 0, state }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`StorageError`]; the same one every time after.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        let next = self.next().await;
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.state = State::Ended(Ok(())),
            Err(error) => self.state = State::Ended(Err(error.clone())),
        }
        next
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let limit = self.storage.shared.read_timeout;
        loop {
            let response = match &mut self.state {
                State::Open(response) => response,
                State::Ended(end) => return end.clone().map(|()| None),
            };
            let failure = match tokio::time::timeout(limit, response.next()).await {
                Ok(Some(Ok(piece))) if piece.is_empty() => continue,
                Ok(Some(Ok(piece))) => return self.take(piece).map(Some),
                Ok(None) => return self.end().map(|()| None),
                // All is here; what became of the connection does not matter.
                _ if self.received == self.stat.bytes => return self.end().map(|()| None),
                Ok(Some(Err(error))) => Failure::of(&error),
                Err(_) => Failure::TimedOut(limit.as_secs()),
            };
            self.breaks += 1;
            if !failure.is_transient() || self.breaks >= MOST_ATTEMPTS {
                return Err(failure.into_error(&self.location));
            }
            self.storage.pause(self.breaks).await;
            let response = self.storage.read_from(&self.location, self.generation, self.received).await?;
            if response.object().generation != self.generation {
                return Err(StorageError::NotFound(self.location.clone()));
            }
            self.state = State::Open(response);
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes, StorageError> {
        self.received += piece.len() as u64;
        // The size was compared with the caller's limit, so this is that limit, too.
        if self.received > self.stat.bytes {
            return Err(StorageError::Corrupt(self.location.clone()));
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, &piece);
        Ok(piece)
    }

    fn end(&self) -> Result<(), StorageError> {
        let is_whole = self.received == self.stat.bytes;
        if is_whole && self.stat.crc32c.is_none_or(|known| known == self.crc32c) {
            Ok(())
        } else {
            Err(StorageError::Corrupt(self.location.clone()))
        }
    }
}
