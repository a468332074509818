//! Storing an object of which one piece comes after the other, through a resumable upload.

use bytes::Bytes;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::streaming_source::StreamingSource;

use super::super::{ObjectKey, Pieces, Stat, StorageError, piece_of};
use super::attempt::Failure;
use super::{GcsStorage, WORK_KEY, bucket_of};

/// Bytes that go up at once, which is also what is held of the object. A multiple of 256 KiB.
const PIECE_BYTES: usize = 8 << 20;

/// Why the next piece did not come.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Missing(String);

/// The pieces as the client takes them.
struct Source(Pieces);

impl StreamingSource for Source {
    type Error = Missing;

    async fn next(&mut self) -> Option<Result<Bytes, Missing>> {
        piece_of(self.0.recv().await).map_err(Missing).transpose()
    }
}

impl GcsStorage {
    /// Writes an object of which one piece comes after the other, in one attempt: pieces come only once.
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageError::Unavailable`] also when a piece does not come.
    pub async fn write_pieces(&self, key: &ObjectKey, pieces: Pieces) -> Result<Stat, StorageError> {
        let location = &key.location;
        let client = self.client(location).await?;
        let written = client
            .write_object(bucket_of(location), location.name(), Source(pieces))
            .set_if_generation_match(0)
            .set_content_type(key.content_type())
            .set_cache_control(key.cache_control())
            .set_metadata([(WORK_KEY, key.work_key.as_str())])
            .with_resumable_upload_threshold(0_usize)
            .with_resumable_upload_buffer_size(PIECE_BYTES)
            .with_retry_policy(NeverRetry)
            .send_buffered()
            .await;
        let object = written.map_err(|error| Failure::of(&error).into_error(location))?;
        Ok(Stat {
            generation: object.generation.to_string(),
            bytes: u64::try_from(object.size).unwrap_or_default(),
            crc32c: object.checksums.as_ref().and_then(|checksums| checksums.crc32c),
            work_key: Some(key.work_key.clone()),
        })
    }
}
