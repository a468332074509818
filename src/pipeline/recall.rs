//! Variations whose files earlier jobs made: handed over again instead of being made.

use std::sync::atomic::{AtomicU64, Ordering};

use super::identity::upload_key;
use super::job::Format;
use super::manifest::{PreviewCopy, UploadCopy, VariationEntry};
use super::outlet::{MadeFile, Remembered, Start};
use super::output::{StoredFile, crc32c_text};
use super::plan::{PlannedOutput, PlannedVariation, upload_name};
use super::variation::{MakeError, Workshop};

/// What a run did not have to do.
#[derive(Debug, Default)]
pub struct Sparing {
    files: AtomicU64,
    microseconds: AtomicU64,
}

impl Sparing {
    fn add(&self, file: &Remembered) {
        self.files.fetch_add(1, Ordering::Relaxed);
        // Never negative, and years fit.
        self.microseconds.fetch_add((file.cost_ms * 1e3) as u64, Ordering::Relaxed);
    }

    /// Files that were there, and the milliseconds that making them took.
    pub fn total(&self) -> (u64, f64) {
        (self.files.load(Ordering::Relaxed), self.microseconds.load(Ordering::Relaxed) as f64 / 1e3)
    }
}

/// A file, and its copy for upload.
pub type RememberedFile = (Remembered, Option<Remembered>);

impl Workshop<'_> {
    /// The files of a variation, each with its copy for upload where there is one; none where one is not remembered.
    pub fn remembered_files(&self, planned: &PlannedVariation) -> Option<Vec<RememberedFile>> {
        planned
            .outputs
            .iter()
            .map(|output| {
                let key = output.key.as_deref()?;
                let file = self.remembered(key)?;
                let limit = self.upload_over.filter(|_| output.encode.format == Format::Png);
                let copy = match limit.is_some_and(|limit| file.content.len() as u64 > limit) {
                    true => Some(self.remembered(&upload_key(key, output))?),
                    false => None,
                };
                Some((file, copy))
            })
            .collect()
    }

    /// The entries of a variation whose files are remembered, handed over again.
    pub fn recall(&self, planned: &PlannedVariation, files: Vec<RememberedFile>) -> Vec<VariationEntry> {
        let entry = |(output, (file, copy)): (&PlannedOutput, RememberedFile)| {
            let description = &file.description;
            let mut entry = VariationEntry {
                mapping: description.mapping.clone(),
                metrics: description.metrics.clone(),
                notes: description.notes.clone(),
                ..output.entry(planned)
            };
            match self.hand_over_again(&output.object, output.encode.format, &file) {
                Ok(stored) => {
                    entry.bytes = stored.bytes;
                    entry.crc32c = stored.crc32c;
                }
                Err(error) => entry.error = Some(error.failure()),
            }
            entry.upload = copy.map(|file| {
                let object = upload_name(&output.object);
                let copy = UploadCopy { object: object.clone(), format: "jpeg".into(), ..UploadCopy::default() };
                match self.hand_over_again(&object, Format::Jpeg, &file) {
                    Ok(stored) => UploadCopy { bytes: stored.bytes, crc32c: stored.crc32c, ..copy },
                    Err(error) => UploadCopy { error: Some(error.failure()), ..copy },
                }
            });
            entry
        };
        planned.outputs.iter().zip(files).map(entry).collect()
    }

    /// The preview of a variation, where it is remembered.
    pub fn recall_preview(&self, output: &PlannedOutput) -> Option<PreviewCopy> {
        let file = self.remembered(output.key.as_deref()?)?;
        Some(self.preview_again(output, &file))
    }

    /// A preview that is remembered, handed over again.
    pub fn preview_again(&self, output: &PlannedOutput, file: &Remembered) -> PreviewCopy {
        output.preview(self.hand_over_again(&output.object, output.encode.format, file))
    }

    /// The file of this key, where it is remembered.
    pub fn remembered(&self, key: &str) -> Option<Remembered> {
        self.outlet.memory().and_then(|memory| (memory.recall)(key))
    }

    fn hand_over_again(&self, object: &str, format: Format, file: &Remembered) -> Result<StoredFile, MakeError> {
        match self.outlet.start(object) {
            Start::Stored(stored) => Ok(stored),
            Start::Stop => Err(MakeError::Stopped),
            Start::Make => {
                let content = file.content.clone();
                let stored = StoredFile { bytes: content.len() as u64, crc32c: crc32c_text(file.crc32c) };
                self.outlet.hand_over(MadeFile { object: object.to_owned(), format, content, crc32c: file.crc32c })?;
                self.sparing.add(file);
                Ok(stored)
            }
        }
    }
}

impl PlannedOutput {
    /// The record of a preview that was made, or was not.
    pub fn preview(&self, result: Result<StoredFile, MakeError>) -> PreviewCopy {
        let copy = PreviewCopy {
            object: self.object.clone(),
            width: self.size.0,
            height: self.size.1,
            format: "webp".into(),
            ..PreviewCopy::default()
        };
        match result {
            Ok(stored) => PreviewCopy { bytes: stored.bytes, crc32c: stored.crc32c, ..copy },
            Err(error) => PreviewCopy { error: Some(error.failure()), ..copy },
        }
    }
}
