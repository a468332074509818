//! Where files go on a disk: safe names, and files that appear whole or not at all.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::NamedTempFile;

/// Unfinished files start like this, followed by the process that writes them and its mark.
const UNFINISHED: &str = ".concept-worker-";

/// The longest part of an object name that comes from a palette's name, in characters.
const LONGEST_STEM: usize = 80;

/// The same in bytes: file systems end names at 255, and prefix, number, size and extension need room, too.
const LONGEST_STEM_BYTES: usize = 200;

/// Tells this process from an earlier one of the same number: in a container it is always the first.
static MARK: LazyLock<u64> = LazyLock::new(|| {
    // Randomly keyed once a process.
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8)
});

/// A folder that results are written into.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
}

impl OutputFolder {
    /// Opens `path`, creating it where needed, and removes what an interrupted run left unfinished in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        for entry in fs::read_dir(path)?.flatten() {
            let name = entry.file_name();
            if name.to_str().and_then(|n| n.strip_prefix(UNFINISHED)).is_some_and(is_abandoned) {
                // Somebody else may have swept it already.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Starts a file. It becomes visible under `object` when it is committed, replacing an older one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self, object: &str) -> io::Result<PendingFile> {
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{UNFINISHED}{}-{:016x}-", std::process::id(), *MARK);
        builder.prefix(&prefix).suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let file = builder.tempfile_in(&self.path)?;
        let target = self.path.join(object);
        Ok(PendingFile { file: BufWriter::with_capacity(1 << 16, file), target, bytes: 0, crc32c: 0 })
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, object: &str, bytes: &[u8]) -> io::Result<StoredFile> {
        let mut file = self.create(object)?;
        file.write_all(bytes)?;
        file.commit()
    }

    /// Removes a file that an earlier run left and this one does not make.
    ///
    /// # Errors
    /// Those of the file system; a file that is not there is none.
    pub fn remove(&self, object: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(object)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether nobody will finish the file of this name, of which [`UNFINISHED`] is cut off.
fn is_abandoned(owner: &str) -> bool {
    let mut parts = owner.split('-');
    let Some(pid) = parts.next().and_then(|pid| pid.parse::<u32>().ok()) else { return false };
    if pid == std::process::id() {
        return parts.next() != Some(&format!("{:016x}", *MARK));
    }
    !is_running(pid)
}

/// Whether a process lives; true where there is no way to tell.
fn is_running(pid: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

/// A file in the making: hashed as it is written, dropped without a trace unless it is committed.
#[derive(Debug)]
pub struct PendingFile {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
    bytes: u64,
    crc32c: u32,
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its size.
    pub bytes: u64,
    /// CRC-32C, base64 of its big-endian bytes.
    pub crc32c: String,
}

/// A CRC-32C as Cloud Storage writes it: base64 of its big-endian bytes.
pub fn crc32c_text(crc32c: u32) -> String {
    STANDARD.encode(crc32c.to_be_bytes())
}

impl PendingFile {
    /// Gives the file its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn commit(self) -> io::Result<StoredFile> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.persist(&self.target).map_err(|error| error.error)?;
        Ok(StoredFile { bytes: self.bytes, crc32c: crc32c_text(self.crc32c) })
    }
}

impl Write for PendingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Hands out object names, each once. Names that differ in case only are different to some file systems and the same
/// to others, so they count as the same.
#[derive(Debug, Default)]
pub struct ObjectNames {
    taken: HashSet<String>,
}

impl ObjectNames {
    /// `<prefix>_<name><suffix>.<extension>`, with `name` made safe; a number is added where the result is taken.
    pub fn take(&mut self, prefix: &str, name: &str, suffix: &str, extension: &str) -> String {
        let stem = safe_name(name);
        let mut number = 1;
        loop {
            let copy = if number == 1 { String::new() } else { format!("-{number}") };
            let object = format!("{prefix}_{stem}{copy}{suffix}.{extension}");
            if self.taken.insert(object.to_lowercase()) {
                return object;
            }
            number += 1;
        }
    }
}

/// A name without anything a path, a shell or a URL would read as more than a name: letters and digits of any script,
/// `-` and `_` stay; whatever lies between becomes one `-`.
pub fn safe_name(name: &str) -> String {
    let mut stem = String::new();
    for c in name.chars().take(LONGEST_STEM) {
        if stem.len() + c.len_utf8() > LONGEST_STEM_BYTES {
            break;
        }
        if c.is_alphanumeric() || c == '_' {
            stem.push(c);
        } else if !stem.ends_with('-') {
            stem.push('-');
        }
    }
    let stem = stem.trim_matches('-');
    if stem.is_empty() { "unnamed".into() } else { stem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_everything_that_is_more_than_a_name() {
        for (name, expected) in [
            ("Warm", "Warm"),
            ("../../etc/passwd", "etc-passwd"),
            ("C:\\temp\\x", "C-temp-x"),
            ("a b  c", "a-b-c"),
            ("Été 北京", "Été-北京"),
            (".hidden", "hidden"),
            ("\u{0}\n", "unnamed"),
            ("<script>", "script"),
        ] {
            assert_eq!(safe_name(name), expected);
        }
        assert!(safe_name(&"x".repeat(500)).len() <= LONGEST_STEM);
        assert!(safe_name(&"\u{20000}".repeat(500)).len() <= LONGEST_STEM_BYTES);
    }

    #[test]
    fn names_that_collide_are_numbered() {
        let mut names = ObjectNames::default();
        assert_eq!(names.take("palette", "Warm", "", "png"), "palette_Warm.png");
        assert_eq!(names.take("palette", "warm", "", "png"), "palette_warm-2.png");
        assert_eq!(names.take("palette", "Warm!", "", "png"), "palette_Warm-3.png");
        assert_eq!(names.take("palette", "Warm", "_512", "png"), "palette_Warm_512.png");
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let out = OutputFolder::open(folder.path()).unwrap();
        let mut pending = out.create("a.bin").unwrap();
        pending.write_all(b"half").unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Known answer: RFC 3720, B.4, 32 bytes of zeros: 8A9136AA.
        let stored = out.write("a.bin", &[0; 32]).unwrap();
        assert_eq!((stored.bytes, stored.crc32c), (32, STANDARD.encode([0x8a, 0x91, 0x36, 0xaa])));
        assert_eq!(fs::read(folder.path().join("a.bin")).unwrap(), [0; 32]);
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(".concept-worker-4294967294-abc.part");
        fs::write(&dead, b"x").unwrap();
        let out = OutputFolder::open(folder.path()).unwrap();
        let living = out.create("a.bin").unwrap();
        OutputFolder::open(folder.path()).unwrap();
        assert!(living.file.get_ref().path().exists());
        assert_eq!(dead.exists(), !Path::new("/proc/self").exists());
    }

    #[test]
    fn what_an_earlier_process_of_the_same_number_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = folder.path().join(format!(".concept-worker-{}-0123-abc.part", std::process::id()));
        fs::write(&earlier, b"x").unwrap();
        OutputFolder::open(folder.path()).unwrap();
        assert!(!earlier.exists());
    }
}
