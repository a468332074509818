//! Manifests that are there already, and the one that is written last.

use std::sync::Arc;

use bytes::Bytes;

use super::plan::FAILED;
use super::uploads::{Shelf, create_or_adopt};
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::job::Job;
use crate::pipeline::manifest::{Manifest, State};
use crate::pipeline::run::{RunOptions, content_of};
use crate::service::failure::{Class, Failure};
use crate::service::storage::{Location, ObjectKey, ObjectKind, Precondition, Storage, StorageError};

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
        /// What it says.
        record: Arc<Manifest>,
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
            Existing::Failed { generation, record: Arc::new(manifest) }
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

/// Where records go that have to make room, and which need not.
pub struct Aside<'a> {
    /// The default destination.
    pub root: &'a Location,
    /// Whether a record is of the job that takes its place: the new manifest then says all that is left to say.
    pub is_ours: &'a (dyn Fn(&Manifest) -> bool + Sync),
}

/// Whether a manifest is of this very job, whichever content its source had then.
pub fn is_of(job: &Job, manifest: &Manifest, options: &RunOptions) -> bool {
    let source = &manifest.source;
    let tag = if source.generation.is_empty() { &source.sha256 } else { &source.generation };
    Identity::new(job, &content_of(tag, source.fill_generation.as_deref()), options).key == manifest.key
}

/// Writes a job's manifest, over the record of an earlier failure if there is one. Returns the manifest that is there then,
/// and whether another delivery of the same work was faster.
///
/// The record of a failure is the only trace of its message. When it is of another job under the same name, it is stored
/// among the other records first.
///
/// # Errors
/// [`Class::Conflict`] when other work has its manifest there; [`Failure`] of the destination.
pub async fn write(
    shelf: &Shelf,
    manifest: Manifest,
    found: Existing,
    aside: &Aside<'_>,
) -> Result<(Arc<Manifest>, bool), Failure> {
    let (content, crc32c) = checked(json(&manifest)?);
    let manifest = Arc::new(manifest);
    let key = shelf.key(MANIFEST, ObjectKind::Manifest);
    let mut found = found;
    // Each round somebody else was faster in between.
    for _ in 0..4 {
        let precondition = match &found {
            Existing::None => Precondition::Absent,
            Existing::Failed { generation, record } => {
                if !(aside.is_ours)(record) {
                    set_aside(&shelf.storage, record, aside.root).await?;
                }
                Precondition::Generation(generation.clone())
            }
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

/// Stores a record under a name made from what it says, once.
async fn set_aside(storage: &Storage, record: &Manifest, root: &Location) -> Result<(), Failure> {
    let content = json(record)?;
    let name = format!("replaced-{}", &sha256_hex(&content)[..32]);
    let key = ObjectKey {
        location: root.join(FAILED).join(&name).join(MANIFEST),
        kind: ObjectKind::Manifest,
        content_addressed: false,
        work_key: name,
    };
    let (content, crc32c) = checked(content);
    tracing::info!(job_id = record.job_id, place = %key.location, "the record of another job's failure is set aside");
    let stored = create_or_adopt(storage, &key, content, crc32c).await;
    stored.map(drop).map_err(|error| Failure::of_destination(&error))
}

fn json(manifest: &Manifest) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(manifest)
        .map_err(|error| Failure::new(Class::Internal, format!("the manifest cannot be written as JSON: {error}")))
}

/// Bytes as they are stored, with their checksum.
pub fn checked(content: Vec<u8>) -> (Bytes, u32) {
    let crc32c = crc32c::crc32c(&content);
    (Bytes::from(content), crc32c)
}

/// Other work has its results there.
pub fn conflict(folder: &Location) -> Failure {
    let message = format!(
        "destination: {folder} holds the results of other work under the same name; give the job another job_id, or none"
    );
    Failure::new(Class::Conflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::manifest::Source;

    #[test]
    fn a_manifest_is_of_the_job_that_it_says_whatever_tells_its_source_apart() {
        let job = Job::from_json(br#"{"job_id": "j", "source": "https://host/a.png", "palettes": {"generate": 1}}"#);
        let (job, options) = (job.unwrap(), RunOptions::default());
        let manifest = |generation: &str, sha256: &str, key: String| Manifest {
            key,
            source: Source { generation: generation.into(), sha256: sha256.into(), ..Source::default() },
            ..serde_json::from_value(serde_json::json!({
                "job_id": "j", "user_id": "_", "key": "", "state": "complete", "recipe_version": "", "timings_ms": {},
                "peak_bytes": 0, "error": null, "variations": [], "source": {"uri": "", "generation": "", "sha256": ""},
            }))
            .unwrap()
        };
        let key = |tag: &str| Identity::new(&job, tag, &options).key;
        for (generation, sha256, tag, is_it) in [
            ("7", "abc", "7", true),
            // Over https there is no generation.
            ("", "abc", "abc", true),
            // The record of a job whose source was never read.
            ("", "", "", true),
            ("7", "abc", "abc", false),
        ] {
            assert_eq!(is_of(&job, &manifest(generation, sha256, key(tag)), &options), is_it, "{generation} {sha256}");
        }
        let other = Job { palettes: crate::pipeline::job::PaletteRequest::List(Vec::new()), ..job.clone() };
        assert!(!is_of(&other, &manifest("7", "", key("7")), &options));
    }
}
