//! Manifests that are there already, and the one that is written last.

use std::sync::Arc;

use super::run::checked;
use super::uploads::Shelf;
use crate::pipeline::manifest::{Manifest, State};
use crate::service::failure::{Class, Failure};
use crate::service::storage::{Location, ObjectKind, Precondition, Storage, StorageError};

/// The largest manifest that is read, bytes.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// The name of every manifest.
pub const MANIFEST: &str = "manifest.json";

/// What is in a job's place.
#[derive(Debug, Clone)]
pub enum Existing {
    /// Nothing.
    None,
    /// The manifest of finished work.
    Final(Arc<Manifest>),
    /// The record of a failure, which may be replaced.
    Failed {
        /// Its generation.
        generation: String,
    },
    /// Something that is no manifest of ours.
    Foreign,
}

/// Looks for the manifest in a job's folder.
///
/// # Errors
/// [`Failure`] of the destination.
pub async fn look(storage: &Storage, folder: &Location) -> Result<Existing, Failure> {
    Ok(match read(storage, folder).await? {
        None => Existing::None,
        Some((None, _)) => Existing::Foreign,
        // A job none of whose variations could be made is as done as it will be.
        Some((Some(manifest), generation)) if manifest.state == State::Failed && manifest.variations.is_empty() => {
            Existing::Failed { generation }
        }
        Some((Some(manifest), _)) => Existing::Final(Arc::new(manifest)),
    })
}

/// Reads the manifest in a folder, with its generation; no manifest where it cannot be understood.
///
/// # Errors
/// [`Failure`] of the destination.
pub async fn read(storage: &Storage, folder: &Location) -> Result<Option<(Option<Manifest>, String)>, Failure> {
    let read = async {
        let mut download = match storage.read(&folder.join(MANIFEST), None, MAX_MANIFEST_BYTES).await {
            Err(StorageError::NotFound(_)) => return Ok(None),
            other => other?,
        };
        let generation = download.stat().generation.clone();
        let mut bytes = Vec::new();
        while let Some(chunk) = download.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some((serde_json::from_slice(&bytes).ok(), generation)))
    };
    read.await.map_err(|error: StorageError| Failure::of_destination(&error))
}

/// Writes a job's manifest, over the record of an earlier failure if there is one. Returns the manifest that is there then,
/// and whether another delivery of the same work was faster.
///
/// # Errors
/// [`Class::Conflict`] when other work has its manifest there; [`Failure`] of the destination.
pub async fn write(shelf: &Shelf, manifest: Manifest, found: Existing) -> Result<(Arc<Manifest>, bool), Failure> {
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Failure::new(Class::Internal, format!("the manifest cannot be written as JSON: {error}")))?;
    let (content, crc32c) = checked(json);
    let manifest = Arc::new(manifest);
    let key = shelf.key(MANIFEST, ObjectKind::Manifest);
    let mut found = found;
    // Each round somebody else was faster in between.
    for _ in 0..4 {
        let precondition = match &found {
            Existing::None => Precondition::Absent,
            Existing::Failed { generation } => Precondition::Generation(generation.clone()),
            Existing::Final(other) if other.key == manifest.key => return Ok((other.clone(), true)),
            Existing::Final(_) | Existing::Foreign => return Err(conflict(&shelf.folder)),
        };
        match shelf.storage.write(&key, content.clone(), crc32c, &precondition).await {
            Ok(_) => return Ok((manifest, false)),
            Err(StorageError::Precondition(_)) => found = look(&shelf.storage, &shelf.folder).await?,
            // The record that was to be replaced is gone.
            Err(StorageError::NotFound(_)) if matches!(found, Existing::Failed { .. }) => found = Existing::None,
            Err(error) => return Err(Failure::of_destination(&error)),
        }
    }
    Err(Failure::new(Class::StorageUnavailable, format!("destination: {} keeps changing", key.location)))
}

/// Other work has its results there.
pub fn conflict(folder: &Location) -> Failure {
    let message = format!(
        "destination: {folder} holds the results of other work under the same name; give the job another job_id, or none"
    );
    Failure::new(Class::Conflict, message)
}
