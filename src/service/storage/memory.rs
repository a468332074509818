//! Objects in memory: for tests and for a laptop. Gone when the process ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Content, Download, Location, ObjectKey, Pieces, Precondition, Stat, StorageError};

/// The most that all objects together may have: 1 GiB.
const MOST_BYTES: u64 = 1 << 30;

/// Objects in memory. Replaced content is forgotten.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    room: Arc<Mutex<Room>>,
}

#[derive(Debug)]
struct Room {
    objects: HashMap<Location, Object>,
    bytes: u64,
    most_bytes: u64,
    generation: u64,
}

#[derive(Debug)]
struct Object {
    stat: Stat,
    content: Bytes,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::with_room(MOST_BYTES)
    }
}

impl MemoryStorage {
    fn with_room(most_bytes: u64) -> Self {
        let room = Room { objects: HashMap::new(), bytes: 0, most_bytes, generation: 0 };
        Self { room: Arc::new(Mutex::new(room)) }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // Every change below is made in one step, so a panic elsewhere leaves nothing half done.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of an object; none when it does not exist.
    pub fn stat(&self, location: &Location) -> Option<Stat> {
        self.room().objects.get(location).map(|object| object.stat.clone())
    }

    /// The object of `generation`, or the newest; it is handed out in one piece.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] and [`StorageError::TooLarge`].
    pub fn read(&self, location: &Location, generation: Option<&str>, limit: u64) -> Result<Download, StorageError> {
        let room = self.room();
        let object = room
            .objects
            .get(location)
            .filter(|object| generation.is_none_or(|wanted| wanted == object.stat.generation))
            .ok_or_else(|| StorageError::NotFound(location.clone()))?;
        if object.stat.bytes > limit {
            return Err(StorageError::TooLarge { location: location.clone(), limit });
        }
        let content = Some(object.content.clone()).filter(|content| !content.is_empty());
        Ok(Download { stat: object.stat.clone(), content: Content::Memory(content) })
    }

    /// Writes an object whole.
    ///
    /// # Errors
    /// [`StorageError::Precondition`]; [`StorageError::Refused`] when all objects together would have more than 1 GiB, or
    /// when `crc32c` is not that of `content`.
    pub fn write(
        &self,
        key: &ObjectKey,
        content: Bytes,
        crc32c: u32,
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        super::check_crc32c(&key.location, &content, crc32c)?;
        let mut room = self.room();
        let found = room.objects.get(&key.location);
        let holds = match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::Generation(wanted) => found.is_some_and(|object| object.stat.generation == *wanted),
        };
        if !holds {
            return Err(StorageError::Precondition(key.location.clone()));
        }
        let bytes = content.len() as u64;
        let freed = found.map_or(0, |object| object.stat.bytes);
        let total = room.bytes - freed + bytes;
        if total > room.most_bytes {
            let problem = format!(
                "memory storage holds at most {} bytes and is full; use CONCEPT_STORAGE=local:DIR or gcs",
                room.most_bytes
            );
            return Err(StorageError::Refused { location: key.location.clone(), problem });
        }
        room.bytes = total;
        room.generation += 1;
        let stat = Stat {
            generation: room.generation.to_string(),
            bytes,
            crc32c: Some(crc32c),
            work_key: Some(key.work_key.clone()),
        };
        room.objects.insert(key.location.clone(), Object { stat: stat.clone(), content });
        Ok(stat)
    }

    /// Writes an object of which one piece comes after the other.
    ///
    /// # Errors
    /// As of [`Self::write`]; [`StorageError::Unavailable`] also when a piece does not come.
    pub async fn write_pieces(&self, key: &ObjectKey, mut pieces: Pieces) -> Result<Stat, StorageError> {
        let mut content = Vec::new();
        let missing = |problem| StorageError::Unavailable { location: key.location.clone(), problem };
        while let Some(piece) = super::piece_of(pieces.recv().await).map_err(missing)? {
            if content.len() as u64 + piece.len() as u64 > MOST_BYTES {
                let problem = "memory storage has no room for it; use CONCEPT_STORAGE=local:DIR or gcs".to_owned();
                return Err(StorageError::Refused { location: key.location.clone(), problem });
            }
            content.extend_from_slice(&piece);
        }
        let crc32c = crc32c::crc32c(&content);
        self.write(key, content.into(), crc32c, &Precondition::Absent)
    }

    /// Removes `generation` of an object; that it is gone already is as good.
    ///
    /// # Errors
    /// [`StorageError::Precondition`] when another generation is there.
    pub fn remove(&self, location: &Location, generation: &str) -> Result<(), StorageError> {
        let mut room = self.room();
        match room.objects.get(location) {
            None => Ok(()),
            Some(object) if object.stat.generation != generation => Err(StorageError::Precondition(location.clone())),
            Some(object) => {
                room.bytes -= object.stat.bytes;
                room.objects.remove(location);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::storage::{ObjectKind, Storage};

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            location: Location::parse(&format!("gs://bucket/{name}")).unwrap(),
            kind: ObjectKind::Manifest,
            content_addressed: false,
            work_key: "k".into(),
        }
    }

    fn write(
        storage: &MemoryStorage,
        name: &str,
        bytes: usize,
        precondition: &Precondition,
    ) -> Result<Stat, StorageError> {
        let content = Bytes::from(vec![7; bytes]);
        let crc32c = crc32c::crc32c(&content);
        storage.write(&key(name), content, crc32c, precondition)
    }

    #[tokio::test]
    async fn an_object_whose_pieces_break_off_is_never_there() {
        let folder = tempfile::tempdir().unwrap();
        let local = crate::service::storage::LocalStorage::open(folder.path()).unwrap();
        let memory = MemoryStorage::default();
        for whole in [false, true] {
            for place in [Storage::Local(local.clone()), Storage::Memory(memory.clone())] {
                let (give, pieces) = tokio::sync::mpsc::channel(4);
                give.send(Ok(Some(Bytes::from_static(b"half")))).await.unwrap();
                if whole {
                    give.send(Ok(None)).await.unwrap();
                }
                drop(give);
                let stored = place.write_pieces(&key("film"), pieces).await;
                assert_eq!(stored.is_ok(), whole, "{stored:?}");
                let stat = place.stat(&key("film").location).await.unwrap();
                assert_eq!(stat.map(|stat| stat.bytes), whole.then_some(4));
            }
        }
    }

    #[test]
    fn it_is_full_at_its_bound_and_replacing_frees_what_was_there() {
        let storage = MemoryStorage::with_room(10);
        let first = write(&storage, "a", 6, &Precondition::Absent).unwrap();
        let error = write(&storage, "b", 5, &Precondition::Absent).unwrap_err();
        assert!(error.to_string().contains("at most 10 bytes"), "{error}");
        assert_eq!(storage.stat(&key("b").location), None);
        let second = write(&storage, "a", 5, &Precondition::Generation(first.generation)).unwrap();
        write(&storage, "b", 5, &Precondition::Absent).unwrap();
        write(&storage, "a", 5, &Precondition::Generation(second.generation)).unwrap();
    }
}
