//! What a file cannot say of itself: whose work it is, and the checksum it had.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::file::{self, Pending};

/// Records start like this, followed by a hash of object name and generation.
const RECORD: &str = ".concept-key-";

/// The most that is read of a record.
const MOST_BYTES: u64 = 64 << 10;

/// How far the time of a file is moved where its generation is taken: from the finest clocks of file systems to the
/// coarsest.
const STEPS: [Duration; 6] = [
    Duration::from_nanos(1),
    Duration::from_micros(1),
    Duration::from_millis(1),
    Duration::from_millis(20),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What is noted of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The key of the work that made it.
    pub(super) work_key: String,
    /// CRC-32C of its content.
    pub(super) crc32c: u32,
}

/// A record as it is stored. It names its file: hashes are cut short, and the sweep starts from the record.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    object: String,
    generation: String,
    work_key: String,
    crc32c: u32,
}

impl Record {
    /// The record of the file at `path`, of which `generation` is there.
    pub(super) fn find(path: &Path, generation: &str) -> Option<Self> {
        let stored = Stored::read(&path_of(path, generation))?;
        let is_its = Some(stored.object.as_str()) == name_of(path) && stored.generation == generation;
        is_its.then_some(Self { work_key: stored.work_key, crc32c: stored.crc32c })
    }

    /// Stores the record of `pending`, which will be `target`; its generation is changed until no other file had it under
    /// that name.
    pub(super) fn attach(&self, mut pending: Pending, target: &Path) -> io::Result<Pending> {
        let Some(object) = name_of(target) else { return Err(io::ErrorKind::InvalidFilename.into()) };
        let mut steps = STEPS.into_iter();
        loop {
            let path = path_of(target, pending.generation());
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let stored = Stored {
                        object: object.to_owned(),
                        generation: pending.generation().to_owned(),
                        work_key: self.work_key.clone(),
                        crc32c: self.crc32c,
                    };
                    return match stored.write(file) {
                        Ok(()) => Ok(pending),
                        Err(error) => {
                            let _ = fs::remove_file(&path);
                            Err(error)
                        }
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match steps.next() {
                    Some(step) => pending.shift(step)?,
                    None => return Err(io::Error::other("its generations are all taken; try again")),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets what was noted of a file that is not there any more.
    pub(super) fn remove(path: &Path, generation: &str) {
        // Left behind, it does no harm and is swept.
        let _ = fs::remove_file(path_of(path, generation));
    }

    /// Whether the file `name` at `path` is a record of something that is not there.
    pub(super) fn is_left(path: &Path, name: &str) -> bool {
        if !name.starts_with(RECORD) {
            return false;
        }
        let Some(stored) = Stored::read(path) else { return true };
        let object = path.with_file_name(&stored.object);
        file::generation_at(&object).is_ok_and(|found| found.as_ref() != Some(&stored.generation))
    }
}

impl Stored {
    fn read(path: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, mut file: File) -> io::Result<()> {
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

fn path_of(path: &Path, generation: &str) -> PathBuf {
    // Hashed, as the name alone may be as long as a name can be.
    let mut hash = Sha256::new();
    hash.update(name_of(path).unwrap_or_default());
    hash.update([0]);
    hash.update(generation);
    let digest: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    path.with_file_name(format!("{RECORD}{digest}"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn record(key: &str) -> Record {
        Record { work_key: key.into(), crc32c: 1 }
    }

    #[test]
    fn two_contents_of_one_name_never_share_a_generation() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.json");
        let first = record("one").attach(Pending::create(&target, b"xy").unwrap(), &target).unwrap();
        // The same size and, as on a coarse clock, the same time.
        let taken = path_of(&target, first.generation());
        let mut second = Pending::create(&target, b"ab").unwrap();
        fs::rename(&taken, path_of(&target, second.generation())).unwrap();
        let before = second.generation().to_owned();
        second = record("two").attach(second, &target).unwrap();
        assert_ne!(second.generation(), before);
        assert_eq!(Record::find(&target, second.generation()), Some(record("two")));
    }

    #[test]
    fn a_record_is_swept_when_its_file_is_another_and_kept_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.json");
        let placed = record("one").attach(Pending::create(&target, b"xy").unwrap(), &target).unwrap();
        let kept = path_of(&target, placed.generation());
        placed.place_new(&target).unwrap();
        let lost = record("two").attach(Pending::create(&target, b"z").unwrap(), &target).unwrap();
        let left = path_of(&target, lost.generation());
        drop(lost);
        // A writer may be between its record and its file: only old records are swept.
        file::sweep(folder.path()).unwrap();
        assert!(kept.exists() && left.exists());
        let hours_ago = SystemTime::now() - Duration::from_secs(7200);
        for path in [&kept, &left] {
            File::options().append(true).open(path).unwrap().set_modified(hours_ago).unwrap();
        }
        file::sweep(folder.path()).unwrap();
        assert!(kept.exists() && !left.exists());
    }
}
