//! Files before they have their names: content, time, lock, and what was left behind.

use std::fs::{self, File, Metadata, TryLockError};
use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tempfile::NamedTempFile;

use super::record::Record;

/// Unfinished files start like this, followed by the machine, the process and its mark.
const UNFINISHED: &str = ".concept-part-";

/// What is this old and unfinished, nobody will finish: no write takes longer.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Longest wait for another process to finish a replacement, which takes it milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Tells this process from an earlier one of the same number: in a container it is always the first.
static MARK: LazyLock<u64> = LazyLock::new(|| std::hash::RandomState::new().hash_one(0u8));

/// Tells apart machines and containers, whose process numbers mean nothing to each other.
static MACHINE: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default().hash(&mut hasher);
    fs::read("/proc/sys/kernel/hostname").unwrap_or_default().hash(&mut hasher);
    fs::read_link("/proc/self/ns/pid").unwrap_or_default().hash(&mut hasher);
    hasher.finish()
});

/// The generation of a file: its time of change in nanoseconds since 1970, and its size.
pub(super) fn generation(known: &Metadata) -> io::Result<String> {
    let changed = known.modified()?;
    let nanoseconds = match changed.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    Ok(format!("{nanoseconds}-{}", known.len()))
}

/// The generation of whatever has the name `path`; none when nothing has.
///
/// # Errors
/// [`io::ErrorKind::IsADirectory`] for a folder.
pub(super) fn generation_at(path: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Ok(known) if known.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(known) => generation(&known).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Content without its name; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Pending {
    file: NamedTempFile,
    generation: String,
}

impl Pending {
    /// Writes the content beside `target`.
    pub(super) fn create(target: &Path, content: &[u8]) -> io::Result<Self> {
        let mut unfinished = Unfinished::begin(target)?;
        unfinished.write(content)?;
        unfinished.finish()
    }

    /// The generation that the file has once it has its name.
    pub(super) fn generation(&self) -> &str {
        &self.generation
    }

    /// Changes the time of change by `step`, and with it the generation.
    pub(super) fn shift(&mut self, step: Duration) -> io::Result<()> {
        let file = self.file.as_file();
        file.set_modified(file.metadata()?.modified()? + step)?;
        file.sync_all()?;
        self.generation = generation(&file.metadata()?)?;
        Ok(())
    }

    /// Gives the file its name, where nothing has it.
    pub(super) fn place_new(self, target: &Path) -> io::Result<()> {
        self.file.persist_noclobber(target).map(drop).map_err(|error| error.error)
    }

    /// Gives the file its name in place of what has it.
    pub(super) fn place_over(self, target: &Path) -> io::Result<()> {
        self.file.persist(target).map(drop).map_err(|error| error.error)
    }
}

/// A hidden file that content still goes into.
pub(super) struct Unfinished(NamedTempFile);

impl Unfinished {
    /// An empty one beside `target`.
    pub(super) fn begin(target: &Path) -> io::Result<Self> {
        let folder = target.parent().unwrap_or(target);
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{UNFINISHED}{:016x}-{}-{:016x}-", *MACHINE, std::process::id(), *MARK);
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        builder.tempfile_in(folder).map(Self)
    }

    /// Adds to it.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.write_all(content)
    }

    /// The whole of it is there.
    pub(super) fn finish(self) -> io::Result<Pending> {
        let file = self.0;
        file.as_file().sync_all()?;
        let generation = generation(&file.as_file().metadata()?)?;
        Ok(Pending { file, generation })
    }
}

/// Makes the names in the folder of `target` outlast a loss of power.
pub(super) fn sync_folder(target: &Path) -> io::Result<()> {
    match target.parent() {
        #[cfg(unix)]
        Some(folder) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Removes what interrupted writes left in `folder`.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_old = || {
            let changed = entry.metadata().and_then(|known| known.modified());
            changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > ABANDONED_AFTER))
        };
        let is_left = match name.strip_prefix(UNFINISHED) {
            Some(owner) => is_abandoned(owner) || is_old(),
            None => is_old() && Record::is_left(&entry.path(), name),
        };
        if is_left {
            // Somebody else may have swept it already.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Whether nobody will finish the file of this name, of which [`UNFINISHED`] is cut off. Of other machines' processes
/// nothing is known.
fn is_abandoned(owner: &str) -> bool {
    let mut parts = owner.split('-');
    if parts.next() != Some(&format!("{:016x}", *MACHINE)) {
        return false;
    }
    let Some(pid) = parts.next().and_then(|pid| pid.parse::<u32>().ok()) else { return false };
    if pid == std::process::id() {
        return parts.next() != Some(&format!("{:016x}", *MARK));
    }
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(pid.to_string()).exists()
}

/// Held while a file is compared and replaced: within the process by a mutex, between processes by a lock on a file at the
/// root, which the system drops with the process that held it.
#[derive(Debug)]
pub(super) struct Lock<'a> {
    _process: MutexGuard<'a, ()>,
    _file: Option<File>,
}

impl<'a> Lock<'a> {
    /// Waits for the lock for at most 10 s.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] and those of the file system.
    pub(super) fn take(process: &'a Mutex<()>, root: &Path) -> io::Result<Self> {
        let held = process.lock().unwrap_or_else(PoisonError::into_inner);
        let file = File::options().create(true).append(true).open(root.join(".concept-lock"))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _process: held, _file: Some(file) }),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    let problem = "another process has held .concept-lock for 10 s; end it";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Self { _process: held, _file: None });
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_files_of_the_dead_are_swept_and_those_of_the_living_and_of_other_machines_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let part = |machine: u64, pid: u32, mark: u64| {
            let path = folder.path().join(format!("{UNFINISHED}{machine:016x}-{pid}-{mark:016x}-abc"));
            fs::write(&path, b"x").unwrap();
            path
        };
        let of_dead = part(*MACHINE, u32::MAX - 1, 1);
        let of_earlier = part(*MACHINE, std::process::id(), !*MARK);
        let own = part(*MACHINE, std::process::id(), *MARK);
        let elsewhere = part(!*MACHINE, u32::MAX - 1, 1);
        let old = part(!*MACHINE, u32::MAX - 1, 2);
        let hours_ago = SystemTime::now() - 2 * ABANDONED_AFTER;
        File::options().append(true).open(&old).unwrap().set_modified(hours_ago).unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(of_dead.exists(), !Path::new("/proc/self").exists());
        assert!(!of_earlier.exists() && own.exists() && elsewhere.exists() && !old.exists());
    }

    #[test]
    fn a_lock_is_exclusive() {
        let folder = tempfile::tempdir().unwrap();
        let mutex = Mutex::new(());
        let held = Lock::take(&mutex, folder.path()).unwrap();
        let other = File::options().append(true).open(folder.path().join(".concept-lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }
}
