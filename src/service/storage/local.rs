//! Objects as files: gs://bucket/name is the file DIR/bucket/name, to be looked at with any program.
//!
//! A file appears whole or not at all, and only once under a name:
//!
//! 1. The content goes to a hidden file beside the target, `.concept-part-…`, is synced, and gets a time of change that no
//!    other content under that name has. That time and the size are its generation.
//! 2. A record `.concept-key-…`, named by a hash of object name and generation, notes the work key and the checksum.
//! 3. The hidden file gets its name: exclusively for [`Precondition::Absent`], and for [`Precondition::Generation`] under a
//!    lock, over a file that still has the generation.
//!
//! A crash before step 3 leaves a hidden file and a record that belong to no object; both are swept later. As the record
//! is found by the generation of the file that is there, it can never make somebody else's file look like ours; and as
//! it is complete before the file appears, our own file never looks like somebody else's. A file that another program
//! writes or edits has another time of change, hence another generation and no work key.
//!
//! What remains: a program that takes no lock can put a file in the place in the moment between the comparison and the
//! renaming of a replacement, and it is then lost; so can a second computer on a network file system without locks. A file
//! edited in place within the granularity of the file system's clock, and without a change of its size, keeps its
//! generation.

mod file;
mod record;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Content, Download, Location, ObjectKey, Pieces, Precondition, Stat, StorageError};
use file::Pending;
use record::Record;

/// Names of the storage's own files begin like this; no object may.
const OWN: &str = ".concept-";

/// A piece of a file that is read.
const PIECE_BYTES: u64 = 256 << 10;

/// A file of at most this is read when it is opened: a manifest costs one trip to where blocking is allowed, not three.
const SMALL_BYTES: u64 = 64 << 10;

/// How many folders are remembered as swept.
const MOST_SWEPT: usize = 4096;

/// A folder that holds buckets.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    /// Absolute, without symbolic links.
    root: PathBuf,
    /// Folders that this process has swept; their leftovers are from before.
    swept: Mutex<HashSet<PathBuf>>,
    /// Taken for a replacement, beside the lock file: locks of files do not work everywhere.
    replacing: Mutex<()>,
}

impl LocalStorage {
    /// Opens the folder, creating it where needed.
    ///
    /// # Errors
    /// A text that says why it cannot be used.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let root = fs::create_dir_all(folder).and_then(|()| folder.canonicalize()).map_err(|error| {
            let folder = folder.display();
            format!("the folder {folder} of CONCEPT_STORAGE cannot be used: {error}; name one that can be written")
        })?;
        let place = Place { root, swept: Mutex::default(), replacing: Mutex::default() };
        Ok(Self { place: Arc::new(place) })
    }

    /// The file of an object.
    pub fn path_of(&self, location: &Location) -> PathBuf {
        let mut path = self.place.root.join(location.bucket());
        path.extend(location.name().split('/').filter(|part| !part.is_empty()));
        path
    }

    /// What is known of an object; none when it does not exist.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn stat(&self, location: &Location) -> Result<Option<Stat>, StorageError> {
        let place = self.clone();
        blocking(location, move |location| place.find(location).map(|found| found.map(|(_, stat)| stat))).await
    }

    /// Begins to read an object of at most `limit` bytes: the one of `generation`, or the newest. The file that is open is
    /// read to its end, whatever takes its name meanwhile.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn read(
        &self,
        location: &Location,
        generation: Option<&str>,
        limit: u64,
    ) -> Result<Download, StorageError> {
        let place = self.clone();
        let generation = generation.map(str::to_owned);
        blocking(location, move |location| {
            let not_found = || StorageError::NotFound(location.clone());
            let (file, stat) = place.find(location)?.ok_or_else(not_found)?;
            if generation.is_some_and(|wanted| wanted != stat.generation) {
                return Err(not_found());
            }
            if stat.bytes > limit {
                return Err(StorageError::TooLarge { location: location.clone(), limit });
            }
            let open = Open { file, received: 0, crc32c: 0 };
            let (ready, rest) =
                if stat.bytes <= SMALL_BYTES { open.next(location, &stat) } else { (None, Ok(Some(open))) };
            let reader = Reader { location: location.clone(), stat: stat.clone(), ready, rest };
            Ok(Download { stat, content: Content::Local(reader) })
        })
        .await
    }

    /// Writes an object whole.
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
        let (place, key, precondition) = (self.clone(), key.clone(), precondition.clone());
        let location = key.location.clone();
        blocking(&location, move |_| place.write_now(&key, &content, crc32c, &precondition)).await
    }

    /// The file of an object, open, and what is known of it.
    fn find(&self, location: &Location) -> Result<Option<(File, Stat)>, StorageError> {
        let path = self.checked(location)?;
        let problem = |error| problem(location, &error);
        // Links are followed within the folder, never out of it. What is no file, such as a folder or a pipe, is no
        // object, and a pipe must not even be opened.
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(problem(error)),
        };
        self.check_inside(location, &real)?;
        let file = match fs::metadata(&real).and_then(|known| known.is_file().then(|| File::open(&real)).transpose()) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(problem(error)),
        };
        let known = file.metadata().map_err(problem)?;
        let generation = file::generation(&known).map_err(problem)?;
        let record = Record::find(&path, &generation);
        let stat = Stat {
            generation,
            bytes: known.len(),
            crc32c: record.as_ref().map(|record| record.crc32c),
            work_key: record.map(|record| record.work_key),
        };
        Ok(Some((file, stat)))
    }

    fn write_now(
        &self,
        key: &ObjectKey,
        content: &[u8],
        crc32c: u32,
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        let location = &key.location;
        super::check_crc32c(location, content, crc32c)?;
        let target = self.open_folder(location)?;
        // A look before anything is written: most refusals are repeated deliveries.
        self.check(location, &target, precondition)?;
        let pending = Pending::create(&target, content).map_err(|error| unfinished(location, &error))?;
        self.finish(key, pending, &target, (content.len() as u64, crc32c), precondition)
    }

    /// Writes an object of which one piece comes after the other.
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageError::Unavailable`] also when a piece does not come.
    pub async fn write_pieces(&self, key: &ObjectKey, pieces: Pieces) -> Result<Stat, StorageError> {
        let (place, key) = (self.clone(), key.clone());
        let location = key.location.clone();
        blocking(&location, move |_| place.write_pieces_now(&key, pieces)).await
    }

    fn write_pieces_now(&self, key: &ObjectKey, mut pieces: Pieces) -> Result<Stat, StorageError> {
        let location = &key.location;
        let broken = |error| unfinished(location, &error);
        let target = self.open_folder(location)?;
        self.check(location, &target, &Precondition::Absent)?;
        let mut file = file::Unfinished::begin(&target).map_err(broken)?;
        let (mut bytes, mut crc32c) = (0, 0);
        let missing = |problem| StorageError::Unavailable { location: location.clone(), problem };
        while let Some(piece) = super::piece_of(pieces.blocking_recv()).map_err(missing)? {
            file.write(&piece).map_err(broken)?;
            bytes += piece.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, &piece);
        }
        let pending = file.finish().map_err(broken)?;
        self.finish(key, pending, &target, (bytes, crc32c), &Precondition::Absent)
    }

    /// Notes whose work a file is, and gives it its name.
    fn finish(
        &self,
        key: &ObjectKey,
        pending: Pending,
        target: &Path,
        (bytes, crc32c): (u64, u32),
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        let location = &key.location;
        let unfinished = |error| unfinished(location, &error);
        let record = Record { work_key: key.work_key.clone(), crc32c };
        let pending = record.attach(pending, target).map_err(unfinished)?;
        let generation = pending.generation().to_owned();
        if let Err(error) = self.place(location, pending, target, precondition)
            // Whether it has its name after all decides: an error after the fact must not cost the record.
            && !file::generation_at(target).is_ok_and(|found| found.as_ref() == Some(&generation))
        {
            Record::remove(target, &generation);
            return Err(error);
        }
        if let Precondition::Generation(before) = precondition {
            Record::remove(target, before);
        }
        file::sync_folder(target).map_err(unfinished)?;
        Ok(Stat { generation, bytes, crc32c: Some(crc32c), work_key: Some(key.work_key.clone()) })
    }

    /// Removes `generation` of an object; that it is gone already is as good.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when another generation is there.
    pub async fn remove(&self, location: &Location, generation: &str) -> Result<(), StorageError> {
        let (storage, generation) = (self.clone(), generation.to_owned());
        blocking(location, move |location| storage.remove_now(location, &generation)).await
    }

    fn remove_now(&self, location: &Location, generation: &str) -> Result<(), StorageError> {
        let path = self.checked(location)?;
        let problem = |error: io::Error| problem(location, &error);
        let folder = match path.parent().map(Path::canonicalize) {
            Some(Ok(folder)) => folder,
            Some(Err(error)) if !is_nothing(&error) => return Err(problem(error)),
            _ => return Ok(()),
        };
        self.check_inside(location, &folder)?;
        let target = path.file_name().map_or_else(|| path.clone(), |name| folder.join(name));
        let _held = file::Lock::take(&self.place.replacing, &self.place.root).map_err(problem)?;
        match file::generation_at(&target).map_err(problem)? {
            None => return Ok(()),
            Some(found) if found != generation => return Err(StorageError::Precondition(location.clone())),
            Some(_) => {}
        }
        match fs::remove_file(&target) {
            Err(error) if !is_nothing(&error) => return Err(problem(error)),
            _ => Record::remove(&target, generation),
        }
        Ok(())
    }

    /// Gives a file its name.
    fn place(
        &self,
        location: &Location,
        pending: Pending,
        target: &Path,
        precondition: &Precondition,
    ) -> Result<(), StorageError> {
        let placed = match precondition {
            Precondition::Absent => pending.place_new(target),
            Precondition::Generation(_) => {
                let lock = file::Lock::take(&self.place.replacing, &self.place.root);
                let _held = lock.map_err(|error| unfinished(location, &error))?;
                self.check(location, target, precondition)?;
                pending.place_over(target)
            }
        };
        placed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StorageError::Precondition(location.clone()),
            _ => unfinished(location, &error),
        })
    }

    /// Whether the precondition holds for what is at `target`.
    fn check(&self, location: &Location, target: &Path, precondition: &Precondition) -> Result<(), StorageError> {
        let found = file::generation_at(target).map_err(|error| problem(location, &error))?;
        let holds = match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::Generation(wanted) => found.as_ref() == Some(wanted),
        };
        if holds { Ok(()) } else { Err(StorageError::Precondition(location.clone())) }
    }

    /// Makes the folder of an object and sweeps it; the path of the object in it, without symbolic links.
    fn open_folder(&self, location: &Location) -> Result<PathBuf, StorageError> {
        let path = self.checked(location)?;
        let problem = |error| problem(location, &error);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused(location, "it names no object; add a name after the bucket"));
        };
        fs::create_dir_all(&self.place.root).map_err(problem)?;
        // Before anything is made: what exists of the path must lie inside. After: so must all of it.
        let exists = folder.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
        self.check_inside(location, &exists.unwrap_or_default())?;
        fs::create_dir_all(folder).map_err(problem)?;
        let folder = folder.canonicalize().map_err(problem)?;
        self.check_inside(location, &folder)?;
        let is_new = {
            let mut swept = self.place.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.len() >= MOST_SWEPT {
                swept.clear();
            }
            swept.insert(folder.clone())
        };
        if is_new {
            file::sweep(&folder).map_err(problem)?;
        }
        Ok(folder.join(name))
    }

    /// The path of an object whose name can be that of a file.
    fn checked(&self, location: &Location) -> Result<PathBuf, StorageError> {
        if location.name().is_empty() {
            return Err(refused(location, "it names no object; add a name after the bucket"));
        }
        for part in std::iter::once(location.bucket()).chain(location.name().split('/')) {
            let mut components = Path::new(part).components();
            let is_plain = matches!(components.next(), Some(Component::Normal(name)) if name == part);
            if !is_plain || components.next().is_some() {
                return Err(refused(location, "a part of its name is no file name; rename it"));
            }
            if part.starts_with(OWN) {
                return Err(refused(location, "names that begin with .concept- are the storage's own; rename it"));
            }
        }
        Ok(self.path_of(location))
    }

    fn check_inside(&self, location: &Location, real: &Path) -> Result<(), StorageError> {
        if real.starts_with(&self.place.root) {
            Ok(())
        } else {
            Err(refused(location, "a symbolic link leads out of the folder of CONCEPT_STORAGE; remove the link"))
        }
    }
}

fn refused(location: &Location, problem: &str) -> StorageError {
    StorageError::Refused { location: location.clone(), problem: problem.to_owned() }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The error of the file system as one of storage.
fn problem(location: &Location, error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound => StorageError::NotFound(location.clone()),
        io::ErrorKind::PermissionDenied => StorageError::Forbidden(location.clone()),
        io::ErrorKind::InvalidFilename => refused(location, "its name is too long for a file; shorten it"),
        io::ErrorKind::IsADirectory => refused(location, "there is a folder of its name; choose another name"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            refused(location, "a folder in its name is a file already; choose another name")
        }
        _ => StorageError::Unavailable { location: location.clone(), problem: error.to_string() },
    }
}

/// The same for a write, where nothing is missing but what somebody took away.
fn unfinished(location: &Location, error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let problem = "its folder or its unfinished file was removed meanwhile".to_owned();
            StorageError::Unavailable { location: location.clone(), problem }
        }
        _ => problem(location, error),
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    location: &Location,
    work: impl FnOnce(&Location) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let place = location.clone();
    tokio::task::spawn_blocking(move || work(&place)).await.unwrap_or_else(|_| {
        let problem = "the work on its file was broken off".to_owned();
        Err(StorageError::Unavailable { location: location.clone(), problem })
    })
}

/// A file on its way in.
#[derive(Debug)]
pub struct Reader {
    location: Location,
    stat: Stat,
    /// A piece that was read already.
    ready: Option<Bytes>,
    rest: Rest,
}

/// What is left of a file: nothing when all of it was read and is what was written.
type Rest = Result<Option<Open>, StorageError>;

#[derive(Debug)]
struct Open {
    file: File,
    received: u64,
    crc32c: u32,
}

impl Reader {
    /// The next piece, at most 256 KiB; none at the end.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the file was changed while it was read, or is not what was written.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.ready.is_none()
            && let Some(open) = self.rest.as_mut().map_err(|error| error.clone())?.take()
        {
            // Whoever gives up waiting for a piece must not take what came before for all.
            let problem = "the reading of its file was broken off".to_owned();
            self.rest = Err(StorageError::Unavailable { location: self.location.clone(), problem });
            let stat = self.stat.clone();
            let read = blocking(&self.location, move |location| Ok(open.next(location, &stat))).await;
            (self.ready, self.rest) = read.unwrap_or_else(|error| (None, Err(error)));
        }
        match self.ready.take() {
            Some(piece) => Ok(Some(piece)),
            None => self.rest.as_ref().map(|_| None).map_err(StorageError::clone),
        }
    }
}

impl Open {
    /// The next piece, if there is one, and what comes after it.
    fn next(mut self, location: &Location, stat: &Stat) -> (Option<Bytes>, Rest) {
        let piece = match self.piece(location, stat.bytes) {
            Ok(piece) => piece,
            Err(error) => return (None, Err(error)),
        };
        let rest = if self.received < stat.bytes { Ok(Some(self)) } else { self.end(location, stat).map(|()| None) };
        (piece, rest)
    }

    fn piece(&mut self, location: &Location, bytes: u64) -> Result<Option<Bytes>, StorageError> {
        let size = (bytes - self.received).min(PIECE_BYTES);
        if size == 0 {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(size as usize);
        let read = (&self.file).take(size).read_to_end(&mut piece).map_err(|error| problem(location, &error))?;
        if (read as u64) < size {
            return Err(StorageError::Corrupt(location.clone()));
        }
        self.received += size;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &piece);
        Ok(Some(Bytes::from(piece)))
    }

    /// Whether all that was read is one state of the file, and what was written.
    fn end(&self, location: &Location, stat: &Stat) -> Result<(), StorageError> {
        let known = self.file.metadata().map_err(|error| problem(location, &error))?;
        let generation = file::generation(&known).map_err(|error| problem(location, &error))?;
        let is_whole = generation == stat.generation && stat.crc32c.is_none_or(|known| known == self.crc32c);
        if is_whole { Ok(()) } else { Err(StorageError::Corrupt(location.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::storage::ObjectKind;

    fn key(work_key: &str) -> ObjectKey {
        let location = Location::parse("gs://bucket/u/j/manifest.json").unwrap();
        ObjectKey { location, kind: ObjectKind::Manifest, content_addressed: false, work_key: work_key.into() }
    }

    fn write(storage: &LocalStorage, work_key: &str, content: &str) -> Result<Stat, StorageError> {
        let crc32c = crc32c::crc32c(content.as_bytes());
        storage.write_now(&key(work_key), content.as_bytes(), crc32c, &Precondition::Absent)
    }

    fn stat(storage: &LocalStorage) -> Option<Stat> {
        storage.find(&key("").location).unwrap().map(|(_, stat)| stat)
    }

    /// Writes until `step` is done, as if the process had been killed then.
    fn write_up_to(step: u32, storage: &LocalStorage, work_key: &str, content: &str) {
        let target = storage.open_folder(&key(work_key).location).unwrap();
        let pending = Pending::create(&target, content.as_bytes()).unwrap();
        let crc32c = crc32c::crc32c(content.as_bytes());
        let record = Record { work_key: work_key.into(), crc32c };
        let pending = if step >= 2 { record.attach(pending, &target).unwrap() } else { pending };
        if step >= 3 {
            pending.place_new(&target).unwrap();
        } else {
            // A killed process does not tidy up.
            std::mem::forget(pending);
        }
    }

    #[test]
    fn whatever_step_a_crash_follows_an_object_is_whose_it_is() {
        for step in 1..=3 {
            let folder = tempfile::tempdir().unwrap();
            let storage = LocalStorage::open(folder.path()).unwrap();
            write_up_to(step, &storage, "ours", "same size");
            if step < 3 {
                assert_eq!(stat(&storage), None, "after step {step}");
                // The place is free for anyone, with the same content, too.
                let theirs = write(&storage, "theirs", "same size").unwrap();
                assert_eq!(stat(&storage), Some(theirs));
                assert_eq!(stat(&storage).unwrap().work_key.as_deref(), Some("theirs"));
            } else {
                assert_eq!(stat(&storage).unwrap().work_key.as_deref(), Some("ours"));
            }
            // The next delivery finds whose it is.
            let again = write(&storage, "ours", "same size");
            assert_eq!(again, Err(StorageError::Precondition(key("").location)));
        }
    }

    #[test]
    fn a_second_attempt_after_a_crash_succeeds_and_leaves_nothing_but_the_object_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        for step in 1..=2 {
            write_up_to(step, &storage, "ours", "content");
        }
        let ours = write(&storage, "ours", "content").unwrap();
        assert_eq!(stat(&storage), Some(ours));
        // A later process, hours later.
        let objects = folder.path().join("bucket/u/j");
        let hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
        for entry in fs::read_dir(&objects).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "manifest.json" {
                File::options().append(true).open(path).unwrap().set_modified(hours_ago).unwrap();
            }
        }
        let storage = LocalStorage::open(folder.path()).unwrap();
        assert!(write(&storage, "ours", "content").is_err());
        assert_eq!(fs::read_dir(&objects).unwrap().count(), 2, "the object and its record");
        assert_eq!(stat(&storage).unwrap().work_key.as_deref(), Some("ours"));
    }

    #[tokio::test]
    async fn content_that_is_not_what_was_written_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        write(&storage, "ours", "content").unwrap();
        let location = key("").location;
        // Damage that the file system does not tell of: the time of change stays.
        let path = storage.path_of(&location);
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "cOntent").unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(changed).unwrap();
        let Content::Local(mut reader) = storage.read(&location, None, 100).await.unwrap().content else { panic!() };
        assert_eq!(reader.chunk().await.unwrap().unwrap(), "cOntent");
        for _ in 0..2 {
            assert_eq!(reader.chunk().await, Err(StorageError::Corrupt(location.clone())));
        }
    }
}
