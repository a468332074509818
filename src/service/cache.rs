//! What was made for one job and may serve another: pictures decoded and modelled, mattes of models, encoded files.
//!
//! Every entry is found by a hash of all that decides it ([`crate::pipeline::identity`]), so that it can be old but never
//! wrong. All entries together stay within a part of the memory, are counted by admission, and go when a job needs the room.
//! Files and mattes may also lie in a Redis that many instances share.

pub mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::breaker::BreakerState;
use crate::pipeline::base::Base;
use crate::pipeline::manifest::{Description, Failure};
use crate::pipeline::outlet::Remembered;
use crate::pipeline::segment::tensor::Map;
use shared::SharedCache;

/// Sources whose content is known by its hash.
const KNOWN_CONTENTS: u64 = 4_096;

/// What an entry takes beside its content, bytes.
const ENTRY_BYTES: u64 = 512;

/// What a description takes for each of its mappings, metrics and notes, bytes.
const DESCRIPTION_ITEM_BYTES: u64 = 96;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes that all entries together may take; 0 keeps nothing.
    pub max_bytes: u64,
    /// Entries at once.
    pub max_entries: u64,
    /// How long an entry is kept after it was made.
    pub time_to_live: Duration,
}

/// The layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Pictures, decoded and modelled.
    Base,
    /// What models found in pictures.
    Matte,
    /// Encoded files of variations.
    File,
}

impl Layer {
    /// Every layer.
    pub const ALL: [Self; 3] = [Self::Base, Self::Matte, Self::File];

    /// Its name, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Matte => "matte",
            Self::File => "file",
        }
    }
}

/// The cache. Clones share it.
#[derive(Clone)]
pub struct ResultCache {
    inner: Arc<Inner>,
}

struct Inner {
    entries: Cache<String, Entry>,
    /// SHA-256 of sources, by address and generation.
    contents: Cache<String, Arc<str>>,
    /// Bytes that entries take.
    held: Arc<AtomicU64>,
    max_bytes: u64,
    shared: Option<SharedCache>,
    /// The shared layer is asked from threads that are none of the runtime's.
    runtime: Option<Handle>,
    counts: [Counts; 3],
    dropped: AtomicU64,
    saved_microseconds: AtomicU64,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// An entry, and the bytes that it took when it was put in.
#[derive(Clone)]
struct Entry {
    value: Value,
    bytes: u64,
}

#[derive(Clone)]
enum Value {
    Base(Arc<Base>),
    Matte(Arc<Map>),
    File(Arc<Remembered>),
}

impl From<Value> for Entry {
    fn from(value: Value) -> Self {
        let content = match &value {
            Value::Base(base) => base.bytes(),
            Value::Matte(map) => 4 * map.opacity.len() as u64,
            Value::File(file) => {
                let Description { mapping, metrics, notes } = &*file.description;
                let items = mapping.len() + metrics.len() + notes.len();
                file.content.len() as u64 + items as u64 * DESCRIPTION_ITEM_BYTES
            }
        };
        Self { value, bytes: ENTRY_BYTES + content }
    }
}

/// What the cache looks like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheOccupancy {
    /// Entries now.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// The most they may take.
    pub max_bytes: u64,
    /// How often all of it was dropped for want of memory.
    pub dropped: u64,
    /// Milliseconds of work that were spared.
    pub saved_ms: u64,
}

/// How a file stands in the shared layer: this, its length first, then its content.
#[derive(Serialize, Deserialize)]
struct SharedHead {
    crc32c: u32,
    cost_ms: f64,
    description: Description,
}

impl ResultCache {
    /// An empty cache. With `shared`, files and mattes are looked for there, too; that waits for the network, so that it must be
    /// made on a runtime.
    pub fn new(options: CacheOptions, shared: Option<SharedCache>) -> Self {
        let CacheOptions { max_bytes, max_entries, time_to_live } = options;
        // So that there are no more entries than allowed.
        let least_bytes = max_bytes / max_entries.max(1);
        let held = Arc::new(AtomicU64::new(0));
        let left = held.clone();
        let entries = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(move |_, entry: &Entry| u32::try_from(entry.bytes.max(least_bytes)).unwrap_or(u32::MAX))
            .time_to_live(time_to_live)
            // The default would rather refuse a new entry than forget one that was asked for often.
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_, entry, _| {
                left.fetch_sub(entry.bytes, Ordering::Relaxed);
            })
            .build();
        let contents = Cache::builder().max_capacity(KNOWN_CONTENTS).time_to_live(time_to_live).build();
        Self {
            inner: Arc::new(Inner {
                entries,
                contents,
                held,
                max_bytes,
                shared,
                runtime: Handle::try_current().ok(),
                counts: Default::default(),
                dropped: AtomicU64::new(0),
                saved_microseconds: AtomicU64::new(0),
            }),
        }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.inner.max_bytes > 0
    }

    /// SHA-256 of the source at `address` of `generation`, where it was read before.
    pub fn content(&self, address: &str, generation: &str) -> Option<Arc<str>> {
        self.inner.contents.get(&content_key(address, generation))
    }

    /// The source at `address` of `generation` has this SHA-256.
    pub fn know_content(&self, address: &str, generation: &str, sha256: &str) {
        if self.is_on() {
            self.inner.contents.insert(content_key(address, generation), sha256.into());
        }
    }

    /// The base of this key, where it is kept.
    pub fn base(&self, key: &str) -> Option<Arc<Base>> {
        match self.get(Layer::Base, key) {
            Some(Value::Base(base)) => Some(base),
            _ => None,
        }
    }

    /// The base of this key, made by `make` unless it is kept; whoever asks for it meanwhile waits for the one that is in the
    /// making. Also says whether it was there.
    ///
    /// # Errors
    /// What `make` returned, to everybody who waited for it.
    pub fn base_or(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Base, Failure>,
    ) -> Result<(Arc<Base>, bool), Failure> {
        let mut made = false;
        let entry = self.inner.entries.try_get_with(entry_key(Layer::Base, key), || {
            made = true;
            let entry = Entry::from(Value::Base(Arc::new(make()?)));
            if !self.is_on() {
                // It goes to whoever waits, and is kept nowhere.
                return Ok(entry);
            }
            self.inner.held.fetch_add(entry.bytes, Ordering::Relaxed);
            Ok(entry)
        });
        match entry.map(|entry| entry.value) {
            Ok(Value::Base(base)) => {
                // That it served a job is counted by whoever uses it.
                if made {
                    self.count(Layer::Base, false);
                }
                Ok((base, !made))
            }
            // Keys of different layers differ.
            Ok(_) => Err(Failure { class: "internal".into(), message: "the cache holds something else".into() }),
            Err(failure) => {
                self.count(Layer::Base, false);
                Err(Failure::clone(&failure))
            }
        }
    }

    /// Weighs a base again, to which models may have been added since it was kept.
    pub fn weigh(&self, key: &str, base: &Arc<Base>) {
        let kept = self.inner.entries.get(&entry_key(Layer::Base, key));
        if kept.is_some_and(|entry| entry.bytes < ENTRY_BYTES + base.bytes()) {
            self.put(Layer::Base, key, Value::Base(base.clone()));
        }
    }

    /// Forgets a base that would be another one if it were made again.
    pub fn forget_base(&self, key: &str) {
        self.inner.entries.invalidate(&entry_key(Layer::Base, key));
    }

    /// A base of this key served a job.
    pub fn base_served(&self, base: &Base) {
        self.count(Layer::Base, true);
        self.saved(base.cost_ms.values().sum());
    }

    /// What a model found in a picture; looked for here, then in the shared layer. Not for the runtime's own threads.
    pub fn matte(&self, key: &str) -> Option<Map> {
        let mut found = match self.get(Layer::Matte, key) {
            Some(Value::Matte(map)) => Some((*map).clone()),
            _ => None,
        };
        if found.is_none()
            && let Some(map) = self.fetch(Layer::Matte, key).and_then(|value| unpack_map(&value))
        {
            self.put(Layer::Matte, key, Value::Matte(Arc::new(map.clone())));
            found = Some(map);
        }
        self.count(Layer::Matte, found.is_some());
        found
    }

    /// Keeps what a model found in a picture, here and in the shared layer.
    pub fn keep_matte(&self, key: &str, map: &Map) {
        self.share(Layer::Matte, key, || Some(pack_map(map)));
        self.put(Layer::Matte, key, Value::Matte(Arc::new(map.clone())));
    }

    /// A file of this key; looked for here, then in the shared layer. Not for the runtime's own threads.
    pub fn file(&self, key: &str) -> Option<Remembered> {
        let mut found = match self.get(Layer::File, key) {
            Some(Value::File(file)) => Some((*file).clone()),
            _ => None,
        };
        if found.is_none()
            && let Some(file) = self.fetch(Layer::File, key).and_then(|value| unpack(&value))
        {
            self.put(Layer::File, key, Value::File(Arc::new(file.clone())));
            found = Some(file);
        }
        self.count(Layer::File, found.is_some());
        if let Some(file) = &found {
            self.saved(file.cost_ms);
        }
        found
    }

    /// Keeps a file, here and in the shared layer.
    pub fn keep_file(&self, key: &str, file: Remembered) {
        self.share(Layer::File, key, || pack(&file));
        self.put(Layer::File, key, Value::File(Arc::new(file)));
    }

    fn get(&self, layer: Layer, key: &str) -> Option<Value> {
        self.inner.entries.get(&entry_key(layer, key)).map(|entry| entry.value)
    }

    fn put(&self, layer: Layer, key: &str, value: Value) {
        if self.is_on() {
            let entry = Entry::from(value);
            self.inner.held.fetch_add(entry.bytes, Ordering::Relaxed);
            self.inner.entries.insert(entry_key(layer, key), entry);
        }
    }

    fn fetch(&self, layer: Layer, key: &str) -> Option<Bytes> {
        let (shared, runtime) = (self.inner.shared.as_ref()?, self.inner.runtime.as_ref()?);
        runtime.block_on(shared.get(layer.name(), key))
    }

    fn share(&self, layer: Layer, key: &str, value: impl FnOnce() -> Option<Bytes>) {
        if let (Some(shared), Some(runtime)) = (&self.inner.shared, &self.inner.runtime)
            && shared.stats().state == BreakerState::Closed
            && let Some(value) = value()
        {
            let (shared, key) = (shared.clone(), key.to_owned());
            // Nobody waits for it: its time is bounded, and so is the number of files in the making.
            runtime.spawn(async move { shared.put(layer.name(), &key, &value).await });
        }
    }

    /// Bytes that entries take now.
    pub fn bytes(&self) -> u64 {
        self.inner.held.load(Ordering::Relaxed)
    }

    /// Lets go of what has expired.
    pub fn tidy(&self) {
        self.inner.entries.run_pending_tasks();
        self.inner.contents.run_pending_tasks();
    }

    /// Drops everything: a job needs the memory.
    pub fn drop_all(&self) {
        if self.inner.entries.entry_count() > 0 {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.entries.invalidate_all();
        self.inner.entries.run_pending_tasks();
    }

    /// What it looks like now.
    pub fn occupancy(&self) -> CacheOccupancy {
        self.tidy();
        CacheOccupancy {
            entries: self.inner.entries.entry_count(),
            bytes: self.bytes(),
            max_bytes: self.inner.max_bytes,
            dropped: self.inner.dropped.load(Ordering::Relaxed),
            saved_ms: self.inner.saved_microseconds.load(Ordering::Relaxed) / 1_000,
        }
    }

    /// Hits and misses of a layer.
    pub fn counts(&self, layer: Layer) -> (u64, u64) {
        let Counts { hits, misses } = &self.inner.counts[layer as usize];
        (hits.load(Ordering::Relaxed), misses.load(Ordering::Relaxed))
    }

    /// The shared layer, where there is one.
    pub fn shared(&self) -> Option<&SharedCache> {
        self.inner.shared.as_ref()
    }

    fn count(&self, layer: Layer, hit: bool) {
        let Counts { hits, misses } = &self.inner.counts[layer as usize];
        (if hit { hits } else { misses }).fetch_add(1, Ordering::Relaxed);
    }

    fn saved(&self, ms: f64) {
        self.inner.saved_microseconds.fetch_add((ms * 1e3) as u64, Ordering::Relaxed);
    }
}

fn content_key(address: &str, generation: &str) -> String {
    format!("{address}#{generation}")
}

fn entry_key(layer: Layer, key: &str) -> String {
    format!("{}:{key}", layer.name())
}

fn pack(file: &Remembered) -> Option<Bytes> {
    let head = SharedHead { crc32c: file.crc32c, cost_ms: file.cost_ms, description: (*file.description).clone() };
    let head = serde_json::to_vec(&head).ok()?;
    let mut value = Vec::with_capacity(4 + head.len() + file.content.len());
    value.extend_from_slice(&u32::try_from(head.len()).ok()?.to_le_bytes());
    value.extend_from_slice(&head);
    value.extend_from_slice(&file.content);
    Some(value.into())
}

/// What [`pack`] packed; none of anything else.
fn unpack(value: &Bytes) -> Option<Remembered> {
    let length = u32::from_le_bytes(value.get(..4)?.try_into().ok()?) as usize;
    let head: SharedHead = serde_json::from_slice(value.get(4..4usize.checked_add(length)?)?).ok()?;
    let content = value.slice(4 + length..);
    (crc32c::crc32c(&content) == head.crc32c).then(|| Remembered {
        content,
        crc32c: head.crc32c,
        description: Arc::new(head.description),
        cost_ms: head.cost_ms,
    })
}

/// Width, height and confidence, then opacities; 4 bytes each, lowest first.
fn pack_map(map: &Map) -> Bytes {
    let mut value = Vec::with_capacity(12 + 4 * map.opacity.len());
    // Sides of models are some thousand pixels at most.
    for side in [map.width, map.height] {
        value.extend_from_slice(&u32::try_from(side).unwrap_or(u32::MAX).to_le_bytes());
    }
    value.extend_from_slice(&map.confidence.to_le_bytes());
    map.opacity.iter().for_each(|opacity| value.extend_from_slice(&opacity.to_le_bytes()));
    value.into()
}

/// What [`pack_map`] packed; none of anything else.
fn unpack_map(value: &Bytes) -> Option<Map> {
    let word = |at: usize| value.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let (width, height) = (u32::from_le_bytes(word(0)?) as usize, u32::from_le_bytes(word(4)?) as usize);
    let confidence = f32::from_le_bytes(word(8)?);
    let (words, rest) = value.get(12..)?.as_chunks::<4>();
    let opacity: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let whole = rest.is_empty() && Some(opacity.len()) == width.checked_mul(height);
    let is_map = |v: &f32| (0.0..=1.0).contains(v);
    (whole && is_map(&confidence) && opacity.iter().all(is_map)).then_some(Map { width, height, opacity, confidence })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pipeline::base::Inputs;
    use crate::pipeline::event::Watch;
    use crate::pipeline::manifest::MappingEntry;
    use crate::pipeline::run::RunOptions;
    use crate::pipeline::timing::Timings;

    const TTL: Duration = Duration::from_secs(300);

    fn cache(max_bytes: u64, max_entries: u64, time_to_live: Duration) -> ResultCache {
        ResultCache::new(CacheOptions { max_bytes, max_entries, time_to_live }, None)
    }

    fn file(bytes: usize, fill: u8) -> Remembered {
        let content = Bytes::from(vec![fill; bytes]);
        let description = Description {
            mapping: vec![MappingEntry { from: "#000000".into(), to: "#FFFFFF".into(), share: 0.5 }],
            metrics: BTreeMap::from([("coverage".to_owned(), 1.0)]),
            notes: vec!["Wärme".into()],
        };
        Remembered { crc32c: crc32c::crc32c(&content), content, description: description.into(), cost_ms: 2.5 }
    }

    fn base() -> Result<Base, Failure> {
        let picture = std::fs::read("fixtures/images/one_color.png").unwrap();
        let (inputs, timings) = (Inputs { picture: &picture, fill: None }, Timings::default());
        Base::new(inputs, &Default::default(), &RunOptions::default(), false, &Watch::silent(&timings))
            .map_err(|error| error.failure())
    }

    #[test]
    fn what_is_kept_stays_within_bytes_and_entries_and_is_counted_to_the_byte() {
        for (max_bytes, max_entries, each, most) in [(100_000, 1_000, 9_000, 11), (1_000_000, 10, 100, 10)] {
            let cache = cache(max_bytes, max_entries, TTL);
            for i in 0..50 {
                cache.keep_file(&i.to_string(), file(each, 0));
                cache.tidy();
                assert!(cache.bytes() <= max_bytes, "{}", cache.bytes());
            }
            let now = cache.occupancy();
            assert!((1..=most).contains(&now.entries), "{now:?}");
            assert!(cache.file("49").is_some() && cache.file("0").is_none(), "the oldest go first");
            cache.drop_all();
            assert_eq!((cache.bytes(), cache.occupancy().entries, cache.occupancy().dropped), (0, 0, 1));
        }
    }

    #[test]
    fn entries_end_with_their_time_and_their_bytes_are_free_again() {
        let cache = cache(1 << 20, 100, Duration::from_millis(50));
        cache.keep_file("a", file(1_000, 1));
        assert!(cache.file("a").is_some());
        std::thread::sleep(Duration::from_millis(80));
        assert!(cache.file("a").is_none());
        cache.tidy();
        assert_eq!(cache.bytes(), 0);
        assert_eq!(cache.counts(Layer::File), (1, 1));
    }

    #[test]
    fn a_cache_that_is_off_keeps_and_counts_nothing() {
        let cache = cache(0, 100, TTL);
        for _ in 0..10 {
            let (_, was_there) = cache.base_or("k", base).unwrap();
            assert!(!was_there);
            cache.keep_file("f", file(100, 0));
        }
        cache.know_content("gs://b/a.png", "1", "abc");
        assert_eq!((cache.bytes(), cache.file("f"), cache.content("gs://b/a.png", "1")), (0, None, None));
    }

    #[test]
    fn many_who_want_the_same_base_wait_for_one_and_an_error_goes_to_all_of_them() {
        let (cache, made) = (cache(64 << 20, 100, TTL), AtomicU64::new(0));
        let slow = || {
            made.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            base()
        };
        let broken = || {
            std::thread::sleep(Duration::from_millis(50));
            Err(Failure { class: "broken-picture".into(), message: "broken".into() })
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| cache.base_or("k", slow).unwrap());
                scope.spawn(|| assert_eq!(cache.base_or("bad", broken).err().unwrap().class, "broken-picture"));
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        let base = cache.base("k").unwrap();
        let before = cache.bytes();
        cache.weigh("k", &base);
        assert_eq!(cache.bytes(), before, "nothing was added to it");
        cache.forget_base("k");
        assert!(cache.base("k").is_none() && cache.base("bad").is_none());
    }

    #[test]
    fn files_and_maps_go_through_the_shared_layer_whole_or_not_at_all() {
        let remembered = file(1_000, 7);
        let packed = pack(&remembered).unwrap();
        assert_eq!(unpack(&packed), Some(remembered));
        for length in 0..packed.len() {
            assert_eq!(unpack(&packed.slice(..length)), None, "{length}");
        }
        let mut other = packed.to_vec();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(unpack(&other.into()), None);
        let map = Map { width: 3, height: 2, opacity: vec![0.0, 0.25, 0.5, 0.75, 1.0, 0.125], confidence: 0.875 };
        let packed = pack_map(&map);
        assert_eq!(unpack_map(&packed), Some(map));
        for length in 0..packed.len() {
            assert_eq!(unpack_map(&packed.slice(..length)), None, "{length}");
        }
        assert_eq!(unpack_map(&Bytes::from(vec![0xff; 64])), None);
    }
}
