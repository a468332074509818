//! The lease of a job: `lease.json` in its folder says which instance works on it, so that no other does the same.
//!
//! It spares work and decides nothing: every object is created only where there is none, whoever holds the lease. It is created
//! where there is none, renewed while the work goes on, taken over when it has not been renewed for its whole time, and
//! removed in the end; all but the first under the generation that was read.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::existing::checked;
use crate::service::storage::{Location, ObjectKey, ObjectKind, Precondition, Storage, StorageError};

/// The name of every lease.
pub const LEASE: &str = "lease.json";

/// The most bytes of a lease that are read.
const MAX_BYTES: u64 = 64 << 10;

/// How much clocks of two machines may differ.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(2);

/// Counts the leases that this process has asked for.
static HOLDS: AtomicU64 = AtomicU64::new(0);

/// Numbers of the leases that deliveries of one instance hold.
#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Mutex<HashSet<u64>>>);

impl Holds {
    fn numbers(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other delivery of this process has.
    fn begin(&self) -> Hold {
        let number = HOLDS.fetch_add(1, Ordering::Relaxed);
        self.numbers().insert(number);
        Hold { number, all: self.clone() }
    }
}

/// A delivery that holds a lease, or asks for one.
#[derive(Debug)]
struct Hold {
    number: u64,
    all: Holds,
}

impl Hold {
    /// This instance may take its lease over.
    fn end(&self) {
        self.all.numbers().remove(&self.number);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a lease says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    /// The instance that works on the job.
    owner: String,
    /// Which of its deliveries.
    #[serde(default)]
    hold: u64,
    /// Until when it is not taken over, milliseconds since 1970.
    expires_ms: u64,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Asked {
    /// This instance works on the job now.
    Held(Lease),
    /// Another one does. What was seen of its lease helps to tell later whether it is still alive.
    Busy(Seen),
}

/// A lease of another instance, as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    generation: String,
    first_seen: Instant,
}

/// Who asks for leases, and where.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The storage.
    pub storage: Storage,
    /// This instance.
    pub owner: Arc<str>,
    /// How long a lease is good for after it was renewed.
    pub time: Duration,
    /// What it holds.
    pub holds: Holds,
}

/// A lease that this instance holds; renewed until it is given back or dropped.
#[derive(Debug)]
pub struct Lease {
    desk: Desk,
    key: ObjectKey,
    hold: Hold,
    generation: Arc<Mutex<String>>,
    renewal: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Content {
    fn is_of(&self, owner: &str, hold: u64) -> bool {
        self.owner == owner && self.hold == hold
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Desk {
    /// Asks for the lease of the job in `folder`. `seen` is what the last answer said.
    ///
    /// # Errors
    /// [`StorageError`]; work may go on without a lease.
    pub async fn ask(&self, folder: &Location, work_key: &str, seen: Option<&Seen>) -> Result<Asked, StorageError> {
        let key = ObjectKey {
            location: folder.join(LEASE),
            kind: ObjectKind::Note,
            content_addressed: false,
            work_key: work_key.to_owned(),
        };
        let hold = self.holds.begin();
        // One that was there is looked at before anything is written.
        let mut next = seen.is_none().then_some(Precondition::Absent);
        // Each round somebody else was faster in between.
        for _ in 0..4 {
            if let Some(precondition) = next.take() {
                match self.write(&key, hold.number, &precondition).await {
                    Ok(generation) => return Ok(Asked::Held(self.hold(key, hold, generation))),
                    Err(StorageError::Precondition(_)) => {}
                    // The one that was to be taken over is gone.
                    Err(StorageError::NotFound(_)) if precondition != Precondition::Absent => {}
                    Err(error) => return Err(error),
                }
            }
            let Some((generation, content)) = self.read(&key.location).await? else {
                next = Some(Precondition::Absent);
                continue;
            };
            if content.as_ref().is_some_and(|content| content.is_of(&self.owner, hold.number)) {
                // An attempt got through whose answer was lost.
                return Ok(Asked::Held(self.hold(key, hold, generation)));
            }
            let first_seen = match seen {
                Some(seen) if seen.generation == generation => seen.first_seen,
                _ => Instant::now(),
            };
            let expired = match &content {
                // Our own: of a delivery that works on another job of this name, or of one that ended without giving it back.
                Some(content) if content.owner == *self.owner => !self.holds.numbers().contains(&content.hold),
                Some(content) => content.expires_ms + ms(CLOCKS_DIFFER_BY) < now_ms(),
                // What is there is no lease of ours.
                None => false,
            };
            // Whatever the clocks say: it has not been renewed for all its time.
            if !expired && first_seen.elapsed() <= self.time + CLOCKS_DIFFER_BY {
                return Ok(Asked::Busy(Seen { generation, first_seen }));
            }
            next = Some(Precondition::Generation(generation));
        }
        let problem = "the lease comes and goes".to_owned();
        Err(StorageError::Unavailable { location: key.location, problem })
    }

    fn hold(&self, key: ObjectKey, hold: Hold, generation: String) -> Lease {
        let generation = Arc::new(Mutex::new(generation));
        let (desk, ours, number, held) = (self.clone(), key.clone(), hold.number, generation.clone());
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(desk.time / 3).await;
                let before = held.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let written = match desk.write(&ours, number, &Precondition::Generation(before)).await {
                    // An attempt got through whose answer was lost, or somebody took it over.
                    Err(StorageError::Precondition(location)) => match desk.read(&location).await {
                        Ok(Some((now, Some(content)))) if content.is_of(&desk.owner, number) => Ok(now),
                        Ok(_) => Err(StorageError::Precondition(location)),
                        Err(error) => Err(error),
                    },
                    other => other,
                };
                match written {
                    Ok(now) => *held.lock().unwrap_or_else(PoisonError::into_inner) = now,
                    // Somebody took it over, or the folder was emptied.
                    Err(StorageError::Precondition(_) | StorageError::NotFound(_)) => {
                        tracing::warn!(lease = %ours.location, "the lease was lost; another instance may do the same work");
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "the lease was not renewed"),
                }
            }
        });
        Lease { desk: self.clone(), key, hold, generation, renewal }
    }

    async fn write(&self, key: &ObjectKey, hold: u64, precondition: &Precondition) -> Result<String, StorageError> {
        let content = Content { owner: self.owner.to_string(), hold, expires_ms: now_ms() + ms(self.time) };
        // Strings and numbers always have a JSON form.
        let (content, crc32c) = checked(serde_json::to_vec(&content).unwrap_or_default());
        self.storage.write(key, content, crc32c, precondition).await.map(|stat| stat.generation)
    }

    async fn read(&self, location: &Location) -> Result<Option<(String, Option<Content>)>, StorageError> {
        let mut download = match self.storage.read(location, None, MAX_BYTES).await {
            Err(StorageError::NotFound(_)) => return Ok(None),
            other => other?,
        };
        let generation = download.stat().generation.clone();
        let mut bytes = Vec::new();
        loop {
            match download.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Ok(Some((generation, serde_json::from_slice(&bytes).ok()))),
                // Replaced while it was read.
                Err(StorageError::NotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Lease {
    /// Nothing renews it any more, and this instance may take it over.
    fn let_go(&self) {
        self.renewal.abort();
        self.hold.end();
    }

    /// Gives it back. What goes wrong is left to time.
    pub async fn give_back(self) {
        self.let_go();
        let generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (desk, place) = (&self.desk, &self.key.location);
        let given_back = match desk.storage.remove(place, &generation).await {
            // It was being renewed just now, perhaps.
            Err(StorageError::Precondition(_)) => match desk.read(place).await {
                Ok(Some((now, Some(content)))) if content.is_of(&desk.owner, self.hold.number) => {
                    desk.storage.remove(place, &now).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
            done => done,
        };
        if let Err(error) = given_back {
            tracing::debug!(%error, "a lease was not given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::storage::MemoryStorage;

    fn desk(storage: &Storage, owner: &str) -> Desk {
        Desk {
            storage: storage.clone(),
            owner: owner.into(),
            time: Duration::from_millis(300),
            holds: Holds::default(),
        }
    }

    fn folder() -> Location {
        Location::parse("gs://palettes/u/j").unwrap()
    }

    async fn held(desk: &Desk) -> Lease {
        match desk.ask(&folder(), "key", None).await.unwrap() {
            Asked::Held(lease) => lease,
            Asked::Busy(seen) => panic!("{seen:?}"),
        }
    }

    async fn busy(desk: &Desk, seen: Option<&Seen>) -> Seen {
        match desk.ask(&folder(), "key", seen).await.unwrap() {
            Asked::Busy(seen) => seen,
            Asked::Held(_) => panic!("it was given twice"),
        }
    }

    #[tokio::test]
    async fn one_instance_holds_it_until_it_gives_it_back() {
        let storage = Storage::Memory(MemoryStorage::default());
        let (a, b) = (desk(&storage, "a"), desk(&storage, "b"));
        let lease = held(&a).await;
        let mut seen = busy(&b, None).await;
        // Renewed again and again, it is good for longer than its own time.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            seen = busy(&b, Some(&seen)).await;
        }
        lease.give_back().await;
        assert_eq!(storage.stat(&folder().join(LEASE)).await.unwrap(), None);
        held(&b).await.give_back().await;
    }

    #[tokio::test]
    async fn one_that_is_not_renewed_is_taken_over_after_its_time_and_not_before() {
        let storage = Storage::Memory(MemoryStorage::default());
        let (a, b) = (desk(&storage, "a"), desk(&storage, "b"));
        // Its holder dies: nothing renews it, and nothing removes it.
        drop(held(&a).await);
        let began = Instant::now();
        let mut seen = busy(&b, None).await;
        let lease = loop {
            match b.ask(&folder(), "key", Some(&seen)).await.unwrap() {
                Asked::Held(lease) => break lease,
                Asked::Busy(still) => seen = still,
            }
            assert!(began.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(began.elapsed() >= CLOCKS_DIFFER_BY, "{:?}", began.elapsed());
        busy(&desk(&storage, "c"), None).await;
        lease.give_back().await;
    }

    #[tokio::test]
    async fn who_gives_back_late_removes_nobody_elses() {
        let storage = Storage::Memory(MemoryStorage::default());
        let a = desk(&storage, "a");
        let first = held(&a).await;
        // The same instance begins a job of the same name before the first delivery has given its lease back.
        busy(&a, None).await;
        first.let_go();
        let second = held(&a).await;
        first.give_back().await;
        busy(&desk(&storage, "b"), None).await;
        second.give_back().await;
        assert_eq!(storage.stat(&folder().join(LEASE)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_object_that_is_no_lease_is_respected_for_a_while_only() {
        let storage = Storage::Memory(MemoryStorage::default());
        let key = ObjectKey {
            location: folder().join(LEASE),
            kind: ObjectKind::Note,
            content_addressed: false,
            work_key: "other".into(),
        };
        let (content, crc32c) = checked(b"no lease".to_vec());
        storage.write(&key, content, crc32c, &Precondition::Absent).await.unwrap();
        let a = desk(&storage, "a");
        let seen = busy(&a, None).await;
        tokio::time::sleep(a.time + CLOCKS_DIFFER_BY + Duration::from_millis(50)).await;
        let Asked::Held(lease) = a.ask(&folder(), "key", Some(&seen)).await.unwrap() else { panic!() };
        lease.give_back().await;
    }
}
