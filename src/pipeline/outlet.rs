//! Where finished files go: into a folder, or to somebody who takes each one whole.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::job::Format;
use super::manifest::Description;
use super::output::{OutputFolder, PendingFile, StoredFile, crc32c_text};

/// Where finished files go.
pub enum Outlet<'a> {
    /// Files of a folder.
    Folder(OutputFolder),
    /// Handed over from memory.
    HandOver(HandOver<'a>),
}

/// Somebody who takes files as soon as they are made, from any thread of the pool.
#[derive(Clone, Copy)]
pub struct HandOver<'a> {
    /// Asked by name before a file is made.
    pub start: &'a (dyn Fn(&str) -> Start + Sync),
    /// Given each file. May block until there is room for it.
    pub take: &'a (dyn Fn(MadeFile) -> io::Result<()> + Sync),
    /// Where files are kept for other jobs.
    pub memory: Option<FileMemory<'a>>,
}

/// Files of earlier jobs, by a hash of everything that decides their bytes.
#[derive(Clone, Copy)]
pub struct FileMemory<'a> {
    /// The key of the base that all files of this run are made of.
    pub base: &'a str,
    /// Asked before a file is made.
    pub recall: &'a (dyn Fn(&str) -> Option<Remembered> + Sync),
    /// Told of each file that was made.
    pub remember: &'a (dyn Fn(&str, Remembered) + Sync),
}

/// A file that was made, and what a manifest says of the variation that it shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// Its content.
    pub content: Bytes,
    /// CRC-32C of the content.
    pub crc32c: u32,
    /// What it shows.
    pub description: Arc<Description>,
    /// Milliseconds that making it took.
    pub cost_ms: f64,
}

/// What is to become of a file that could be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It is made.
    Make,
    /// It is there already.
    Stored(StoredFile),
    /// It is not made: time is up.
    Stop,
}

/// A file in memory, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFile {
    /// Its name.
    pub object: String,
    /// Its format.
    pub format: Format,
    /// Its content.
    pub content: Bytes,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

impl Outlet<'_> {
    /// What is to become of the file of this name.
    pub fn start(&self, object: &str) -> Start {
        match self {
            Self::Folder(_) => Start::Make,
            Self::HandOver(hand_over) => (hand_over.start)(object),
        }
    }

    /// Hands over a file that is there already.
    ///
    /// # Errors
    /// Those of whoever takes it; a folder takes none.
    pub fn hand_over(&self, file: MadeFile) -> io::Result<()> {
        match self {
            Self::Folder(_) => Err(io::Error::other("a folder takes files only as they are made")),
            Self::HandOver(hand_over) => (hand_over.take)(file),
        }
    }

    /// Files of earlier jobs, where somebody keeps them.
    pub fn memory(&self) -> Option<FileMemory<'_>> {
        match self {
            Self::Folder(_) => None,
            Self::HandOver(hand_over) => hand_over.memory,
        }
    }

    /// Starts a file. Nobody sees it until it is committed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self, object: &str, format: Format) -> io::Result<Pending<'_>> {
        Ok(match self {
            Self::Folder(folder) => Pending::File(folder.create(object)?),
            Self::HandOver(hand_over) => Pending::Memory {
                take: hand_over.take,
                object: object.to_owned(),
                format,
                content: Vec::new(),
                crc32c: 0,
            },
        })
    }
}

/// A file in the making: hashed as it is written, dropped without a trace unless it is committed.
pub enum Pending<'a> {
    /// On a disk.
    File(PendingFile),
    /// In memory.
    Memory {
        /// Who takes it.
        take: &'a (dyn Fn(MadeFile) -> io::Result<()> + Sync),
        /// Its name.
        object: String,
        /// Its format.
        format: Format,
        /// What there is of it.
        content: Vec<u8>,
        /// CRC-32C of that.
        crc32c: u32,
    },
}

/// A file that was given away.
pub struct Committed {
    /// What there is to say of it.
    pub stored: StoredFile,
    /// Its content and the CRC-32C of that, where it was in memory.
    pub content: Option<(Bytes, u32)>,
}

impl Pending<'_> {
    /// Gives the file away.
    ///
    /// # Errors
    /// Those of the file system, or of whoever takes it.
    pub fn commit(self) -> io::Result<Committed> {
        match self {
            Self::File(file) => Ok(Committed { stored: file.commit()?, content: None }),
            Self::Memory { take, object, format, mut content, crc32c } => {
                // Encoders leave up to as much room again behind it.
                content.shrink_to_fit();
                let content = Bytes::from(content);
                let stored = StoredFile { bytes: content.len() as u64, crc32c: crc32c_text(crc32c) };
                take(MadeFile { object, format, content: content.clone(), crc32c })?;
                Ok(Committed { stored, content: Some((content, crc32c)) })
            }
        }
    }
}

impl Write for Pending<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(buffer),
            Self::Memory { content, crc32c, .. } => {
                *crc32c = crc32c::crc32c_append(*crc32c, buffer);
                content.extend_from_slice(buffer);
                Ok(buffer.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Memory { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_file_is_handed_over_whole_when_it_is_committed() {
        let taken = Mutex::new(Vec::new());
        let take = |file: MadeFile| {
            taken.lock().unwrap().push(file);
            Ok(())
        };
        let outlet = Outlet::HandOver(HandOver { start: &|_| Start::Make, take: &take, memory: None });
        drop(outlet.create("dropped.png", Format::Png).unwrap());
        let mut file = outlet.create("a.png", Format::Png).unwrap();
        file.write_all(&[0; 20]).unwrap();
        file.write_all(&[0; 12]).unwrap();
        assert!(taken.lock().unwrap().is_empty());
        let stored = file.commit().unwrap().stored;
        // Known answer: RFC 3720, B.4.
        assert_eq!((stored.bytes, stored.crc32c.as_str()), (32, "ipE2qg=="));
        let taken = taken.into_inner().unwrap();
        assert_eq!((taken.len(), taken[0].object.as_str(), taken[0].content.len()), (1, "a.png", 32));
        assert_eq!(taken[0].crc32c, 0x8a91_36aa);
    }
}
