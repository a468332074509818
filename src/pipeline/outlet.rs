//! Where finished files go: into a folder, or to somebody who takes each one whole.

use std::io::{self, Write};

use super::job::Format;
use super::output::{OutputFolder, PendingFile, StoredFile, crc32c_text};

/// Where finished files go.
pub enum Outlet<'a> {
    /// Files of a folder.
    Folder(OutputFolder),
    /// Handed over from memory.
    HandOver(HandOver<'a>),
}

/// Somebody who takes files as soon as they are made, from any thread of the pool.
pub struct HandOver<'a> {
    /// Asked by name before a file is made.
    pub start: &'a (dyn Fn(&str) -> Start + Sync),
    /// Given each file. May block until there is room for it.
    pub take: &'a (dyn Fn(MadeFile) -> io::Result<()> + Sync),
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
    pub content: Vec<u8>,
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

    /// Starts a file. Nobody sees it until it is committed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self, object: &str, format: Format) -> io::Result<Pending<'_>> {
        Ok(match self {
            Self::Folder(folder) => Pending::File(folder.create(object)?),
            Self::HandOver(hand_over) => {
                let file = MadeFile { object: object.to_owned(), format, content: Vec::new(), crc32c: 0 };
                Pending::Memory { take: hand_over.take, file }
            }
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
        /// What there is of it.
        file: MadeFile,
    },
}

impl Pending<'_> {
    /// Gives the file away.
    ///
    /// # Errors
    /// Those of the file system, or of whoever takes it.
    pub fn commit(self) -> io::Result<StoredFile> {
        match self {
            Self::File(file) => file.commit(),
            Self::Memory { take, file } => {
                let stored = StoredFile { bytes: file.content.len() as u64, crc32c: crc32c_text(file.crc32c) };
                take(file)?;
                Ok(stored)
            }
        }
    }
}

impl Write for Pending<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(buffer),
            Self::Memory { file, .. } => {
                file.crc32c = crc32c::crc32c_append(file.crc32c, buffer);
                file.content.extend_from_slice(buffer);
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
        let outlet = Outlet::HandOver(HandOver { start: &|_| Start::Make, take: &take });
        drop(outlet.create("dropped.png", Format::Png).unwrap());
        let mut file = outlet.create("a.png", Format::Png).unwrap();
        file.write_all(&[0; 20]).unwrap();
        file.write_all(&[0; 12]).unwrap();
        assert!(taken.lock().unwrap().is_empty());
        let stored = file.commit().unwrap();
        // Known answer: RFC 3720, B.4.
        assert_eq!((stored.bytes, stored.crc32c.as_str()), (32, "ipE2qg=="));
        let taken = taken.into_inner().unwrap();
        assert_eq!((taken.len(), taken[0].object.as_str(), taken[0].content.len()), (1, "a.png", 32));
        assert_eq!(taken[0].crc32c, 0x8a91_36aa);
    }
}
