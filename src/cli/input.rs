//! Files that a person names: read within a limit, refused with the flag, the file and the cure.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Component, Path, PathBuf};

use concept_worker::config::Bucket;
use concept_worker::pipeline::job::check_id;

use super::CliError;

/// A file to read: which argument named it, and what a person can do when it is too large.
pub struct Input<'a> {
    /// The argument, such as `IMAGE` or `--palettes`.
    pub argument: &'a str,
    /// Most bytes.
    pub limit: u64,
    /// The end of the sentence that refuses a larger file.
    pub too_large: &'a str,
}

impl Input<'_> {
    /// The bytes of the file at `path`, or of standard input for `-`.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, CliError> {
        let name = path.display();
        if path == Path::new("-") {
            if io::stdin().is_terminal() {
                return Err(self.refuse("- reads standard input, which is a terminal; pipe a file into it"));
            }
            return self.read_from(&mut io::stdin().lock(), "standard input", 0);
        }
        let metadata = fs::metadata(path).map_err(|error| self.unreadable(path, &error))?;
        if metadata.is_dir() {
            return Err(self.refuse(&format!("{name} is a folder; name a file in it")));
        }
        let mut file = File::open(path).map_err(|error| self.unreadable(path, &error))?;
        self.read_from(&mut file, &name.to_string(), metadata.len())
    }

    /// `expected` is what the file system claims; a pipe claims 0 and a file may grow, so the limit holds while reading.
    fn read_from(&self, reader: &mut dyn Read, name: &str, expected: u64) -> Result<Vec<u8>, CliError> {
        let too_large = || self.refuse(&format!("{name} is larger than {} bytes; {}", self.limit, self.too_large));
        if expected > self.limit {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        reader
            .take(self.limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.unreadable(Path::new(name), &error))?;
        match bytes.len() as u64 {
            0 => Err(self.refuse(&format!("{name} is empty; check that it was written completely"))),
            length if length > self.limit => Err(too_large()),
            _ => Ok(bytes),
        }
    }

    fn unreadable(&self, path: &Path, error: &io::Error) -> CliError {
        let name = path.display();
        self.refuse(&match error.kind() {
            io::ErrorKind::NotFound => format!("no file at {name}; check the path"),
            io::ErrorKind::PermissionDenied => format!("{name} may not be read; check its permissions"),
            _ => format!("cannot read {name}: {error}; check the path"),
        })
    }

    fn refuse(&self, problem: &str) -> CliError {
        CliError::Usage(format!("{}: {problem}", self.argument))
    }
}

/// Makes the folder for results and checks that files can be made in it, before any work is spent.
pub fn make_folder(argument: &str, folder: &Path) -> Result<(), CliError> {
    let name = folder.display();
    if folder.is_file() {
        return Err(CliError::Usage(format!("{argument}: {name} is a file; name a folder")));
    }
    fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .map(drop)
        .map_err(|error| CliError::Usage(format!("{argument}: cannot write into {name}: {error}; name another folder")))
}

/// A job's or user's id: it becomes the name of a folder.
pub fn parse_name(text: &str) -> Result<String, String> {
    check_id(text)
        .map(|()| text.into())
        .map_err(|problem| format!("{problem}, and it names a folder; use letters, digits, `-` and `_`"))
}

/// The file or folder that stands for `gs://bucket/name` under the local storage at `root`.
///
/// An empty name is the bucket itself. Nothing outside `root` can be named.
pub fn local_object(root: &Path, uri: &str) -> Result<PathBuf, String> {
    let (bucket, name) = uri
        .strip_prefix("gs://")
        .unwrap_or(uri)
        .split_once('/')
        .unwrap_or_else(|| (uri.strip_prefix("gs://").unwrap_or(uri), ""));
    if !Bucket::is_valid_name(bucket) {
        return Err(format!("{uri:?} names no valid bucket; write gs://bucket/name"));
    }
    let name = Path::new(name.trim_end_matches('/'));
    let safe = name.components().all(|part| matches!(part, Component::Normal(_)));
    // `a//b` and `a/./b` are other objects than `a/b` in a bucket, but the same file: refused, not guessed at.
    let plain = name.iter().collect::<PathBuf>().as_os_str() == name.as_os_str();
    if !safe || !plain || uri.contains(|c: char| c == '\\' || c.is_control()) {
        return Err(format!("{uri:?} has an empty part, a `.` or a `..` in its name, which local storage cannot hold"));
    }
    Ok(if name.as_os_str().is_empty() { root.join(bucket) } else { root.join(bucket).join(name) })
}

/// The path in a `file://` address: absolute, on this machine, percent escapes resolved.
pub fn file_address(uri: &str) -> Result<PathBuf, String> {
    let rest = uri.strip_prefix("file://").unwrap_or(uri);
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let problem = || format!("{uri:?} is not an address of a local file; write file:///folder/name or a plain path");
    if !path.starts_with('/') {
        return Err(problem());
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (high, low, tail) = match tail {
                [high, low, tail @ ..] => (hex(*high), hex(*low), tail),
                _ => return Err(problem()),
            };
            bytes.push(high.zip(low).map(|(high, low)| high * 16 + low).filter(|b| *b != 0).ok_or_else(problem)?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| problem())
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_stay_inside_the_storage_folder() {
        let root = Path::new("data");
        for (uri, path) in [
            ("gs://bucket/a/b.png", "data/bucket/a/b.png"),
            ("gs://bucket/prefix/", "data/bucket/prefix"),
            ("gs://bucket", "data/bucket"),
            ("gs://bucket/a..b/...", "data/bucket/a..b/..."),
        ] {
            assert_eq!(local_object(root, uri).as_deref(), Ok(Path::new(path)), "{uri}");
        }
        for uri in [
            "gs://",
            "gs:///etc/passwd",
            "gs://../x",
            "gs://bucket/../../etc/passwd",
            "gs://bucket//etc/passwd",
            "gs://bucket/a/../b",
            "gs://bucket/a/./b",
            "gs://bucket/a//b",
            "gs://bucket/a\\..\\b",
            "gs://bucket/a\nb",
        ] {
            assert!(local_object(root, uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn file_addresses_are_absolute_and_on_this_machine() {
        assert_eq!(file_address("file:///a/b%20c.png").as_deref(), Ok(Path::new("/a/b c.png")));
        assert_eq!(file_address("file://localhost/a").as_deref(), Ok(Path::new("/a")));
        for uri in [
            "file://",
            "file://a.png",
            "file://host/a",
            "file:///a%",
            "file:///a%2",
            "file:///a%zz",
            "file:///%00",
            "file:///%ff",
        ] {
            assert!(file_address(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn ids_are_names_of_folders() {
        for good in ["u_123", "a b", "auth0|5", "ü@example.com", "_"] {
            assert!(parse_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a\\b", "a\0", &"x".repeat(129)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
