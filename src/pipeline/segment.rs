//! Trained models that tell subjects from backgrounds: which there are, how pictures go in and maps come out, and the
//! sessions that run them.
//!
//! A [`Segmenter`] is handed to every run. It loads a model when it is first asked for, once, whoever asks; it says
//! which execution provider runs it and why not a faster one.

pub mod contract;
mod pool;
pub mod registry;
pub mod runtime;
pub mod tensor;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::kernel::image::BaseImage;
use pool::Pool;
use registry::{ModelSpec, Registry};
use runtime::{Choice, RuntimeOptions};
use tensor::Map;

/// How long a model that could not be loaded is not tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Why a model gave no matte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No model of this name is registered, or none at all.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be loaded: the library, the file, its hash or its shapes are not as they must be. Whoever runs the program
    /// can mend that, the sender of a job cannot.
    #[error("{0}")]
    Unavailable(String),
    /// As many pictures as may are waiting for it.
    #[error(
        "{waiting} pictures wait for the model {name} already; send the job again later, or raise CONCEPT_MODEL_QUEUE"
    )]
    Busy {
        /// The model.
        name: String,
        /// How many wait.
        waiting: usize,
    },
    /// Memory ran out while it ran, or its device was lost, and so it was on a new session.
    #[error("{0}")]
    Failed(String),
    /// What it put out is no map.
    #[error("{0}")]
    Output(String),
}

impl ModelError {
    /// The short, stable class, as in manifests.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "bad-job",
            Self::Unavailable(_) => "model-unavailable",
            Self::Busy { .. } => "busy",
            Self::Failed(_) => "model-failed",
            Self::Output(_) => "model-output",
        }
    }

    /// Whether trying again may help where nothing else changes.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Failed(_))
    }
}

/// Makes a model's file available on this machine: as it is, or fetched from storage.
pub type Fetch = dyn Fn(&ModelSpec) -> Result<PathBuf, String> + Send + Sync;

/// Sets this many bytes aside for a model for as long as what it returns lives.
pub type Reserve = dyn Fn(&str, u64) -> Result<Box<dyn Send + Sync>, NoRoom> + Send + Sync;

/// Why there is no memory for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoom {
    /// There will never be as much.
    Ever(String),
    /// Jobs hold it.
    Now(String),
}

/// Finds the map of this key.
pub type Recall = dyn Fn(&str) -> Option<Map> + Send + Sync;

/// Keeps a map under this key.
pub type Remember = dyn Fn(&str, &Map) + Send + Sync;

/// Keeps maps by a hash of everything that decides them, for pictures that come again.
pub struct MapMemory {
    /// Asked before a model runs.
    pub recall: Box<Recall>,
    /// Told what it found.
    pub remember: Box<Remember>,
}

/// What a model found in a picture, and what ran it.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmented {
    /// The map, at the model's own size.
    pub map: Map,
    /// The model and where it ran.
    pub by: Loaded,
    /// Whether the model had found it before, in the same picture.
    pub recalled: bool,
}

/// A model that is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file, lower-case hex.
    pub sha256: String,
    /// What runs it, and why nothing before it in the list does.
    pub choice: Choice,
    /// How pictures go in and maps come out.
    pub spec: ModelSpec,
    /// Width and height of its input, pixels.
    pub input: (u32, u32),
    /// Milliseconds that loading took.
    pub load_ms: f64,
}

/// The models at hand. Clones share them.
#[derive(Clone)]
pub struct Segmenter {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    options: RuntimeOptions,
    fetch: Box<Fetch>,
    reserve: Box<Reserve>,
    memory: OnceLock<MapMemory>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Absent,
    Loading,
    Ready(Arc<Pool>),
    Failed(ModelError, Instant),
}

/// Where a model stands, for health and metrics.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Nobody has asked for it.
    Absent,
    /// It is being loaded.
    Loading,
    /// It runs.
    Ready(Box<Loaded>),
    /// It could not be loaded.
    Failed(ModelError),
}

impl fmt::Debug for Segmenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segmenter").field("models", &self.shared.registry.names()).finish_non_exhaustive()
    }
}

/// Two handles are the same when they share their models.
impl PartialEq for Segmenter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Default for Segmenter {
    /// No models.
    fn default() -> Self {
        Self::new(Registry::default(), RuntimeOptions::default())
    }
}

/// Hash of what decides a map: the model's file, how its output is read, what runs it, and the picture as it goes in.
fn map_key(loaded: &Loaded, input: &[f32]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{} {:?} {:?} {}\n",
        loaded.sha256,
        loaded.spec.contract,
        loaded.input,
        loaded.choice.provider.name()
    ));
    let mut bytes = [0u8; 4096];
    for part in input.chunks(bytes.len() / 4) {
        for (four, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(part) {
            *four = value.to_le_bytes();
        }
        hash.update(&bytes[..4 * part.len()]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Segmenter {
    /// The models of `registry`, whose files lie on this machine.
    pub fn new(registry: Registry, options: RuntimeOptions) -> Self {
        let fetch = |spec: &ModelSpec| Ok(Path::new(&spec.location).to_owned());
        Self::with(registry, options, Box::new(fetch), Box::new(|_, _| Ok(Box::new(()))))
    }

    /// The models of `registry`, whose files `fetch` brings and whose memory `reserve` sets aside.
    pub fn with(registry: Registry, options: RuntimeOptions, fetch: Box<Fetch>, reserve: Box<Reserve>) -> Self {
        let shared = Shared { registry, options, fetch, reserve, memory: OnceLock::new(), slots: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Gives it a memory for maps, once.
    pub fn remember_with(&self, memory: MapMemory) {
        // The first one stays.
        let _ = self.shared.memory.set(memory);
    }

    /// What is registered.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// How sessions are opened.
    pub fn options(&self) -> &RuntimeOptions {
        &self.shared.options
    }

    /// The model of this name, or the default one.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] says which there are.
    pub fn spec(&self, name: Option<&str>) -> Result<&ModelSpec, ModelError> {
        self.shared.registry.find(name).map_err(ModelError::Unknown)
    }

    /// Where the model of this name, or the default one, stands. Never waits.
    pub fn standing(&self, name: Option<&str>) -> Standing {
        let Ok(spec) = self.spec(name) else { return Standing::Absent };
        let slot = self.slots().get(&spec.name).cloned();
        match slot.as_deref().map(|slot| lock(&slot.state)).as_deref() {
            None | Some(State::Absent) => Standing::Absent,
            Some(State::Loading) => Standing::Loading,
            Some(State::Ready(pool)) => Standing::Ready(Box::new(pool.loaded().clone())),
            Some(State::Failed(error, _)) => Standing::Failed(error.clone()),
        }
    }

    /// Loads the model of this name, or the default one, unless it is loaded. Waits where another thread is at it.
    ///
    /// # Errors
    /// [`ModelError`]; an error is remembered for half a minute.
    pub fn load(&self, name: Option<&str>) -> Result<Loaded, ModelError> {
        self.pool(name).map(|pool| pool.loaded().clone())
    }

    /// Finds the subject of `image`.
    ///
    /// # Errors
    /// [`ModelError`]. Where memory ran out or the device was lost, it has been tried twice.
    pub fn segment(&self, name: Option<&str>, image: &BaseImage) -> Result<Segmented, ModelError> {
        let pool = self.pool(name)?;
        let loaded = pool.loaded();
        let input = tensor::prepare(image, &loaded.spec.contract, loaded.input);
        let by = loaded.clone();
        let Some(memory) = self.shared.memory.get() else {
            return Ok(Segmented { map: pool.run(&input)?, by, recalled: false });
        };
        let key = map_key(loaded, &input);
        if let Some(map) = (memory.recall)(&key) {
            return Ok(Segmented { map, by, recalled: true });
        }
        let map = pool.run(&input)?;
        (memory.remember)(&key, &map);
        Ok(Segmented { map, by, recalled: false })
    }

    /// Runs a model on a picture that is prepared already: channel after channel at its own size, normalised.
    ///
    /// # Errors
    /// As of [`Self::segment`].
    pub fn run(&self, name: Option<&str>, input: &[f32]) -> Result<Map, ModelError> {
        self.pool(name)?.run(input)
    }

    fn pool(&self, name: Option<&str>) -> Result<Arc<Pool>, ModelError> {
        let spec = self.spec(name)?;
        let slot = self.slots().entry(spec.name.clone()).or_default().clone();
        let mut state = lock(&slot.state);
        loop {
            match &*state {
                State::Ready(pool) => return Ok(pool.clone()),
                State::Failed(error, at) if at.elapsed() < TRY_AGAIN_AFTER => return Err(error.clone()),
                State::Loading => state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                State::Absent | State::Failed(..) => break,
            }
        }
        *state = State::Loading;
        drop(state);
        // Whatever happens, nobody must wait for ever.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.open(spec)));
        let opened = opened.unwrap_or_else(|_| {
            Err(ModelError::Unavailable(format!("the model {} could not be loaded: a bug; report it", spec.name)))
        });
        let mut state = lock(&slot.state);
        let result = match opened {
            Ok(pool) => {
                let pool = Arc::new(pool);
                *state = State::Ready(pool.clone());
                Ok(pool)
            }
            Err(error) => {
                tracing::warn!(model = spec.name, "{error}");
                *state = State::Failed(error.clone(), Instant::now());
                Err(error)
            }
        };
        drop(state);
        slot.changed.notify_all();
        result
    }

    fn open(&self, spec: &ModelSpec) -> Result<Pool, ModelError> {
        let start = Instant::now();
        let unavailable = |problem: String| ModelError::Unavailable(format!("the model {}: {problem}", spec.name));
        // Without the library nothing need be fetched.
        runtime::check(&self.shared.options).map_err(unavailable)?;
        let path = (self.shared.fetch)(spec).map_err(unavailable)?;
        let file = registry::check_file(spec, &path).map_err(unavailable)?;
        let reserve = |bytes: u64| {
            (self.shared.reserve)(&spec.name, bytes).map_err(|no_room| match no_room {
                NoRoom::Ever(problem) => unavailable(problem),
                NoRoom::Now(problem) => ModelError::Failed(format!("the model {}: {problem}", spec.name)),
            })
        };
        // The folder that a fetched file lies in may be memory, as all folders of a Cloud Run container are.
        let fetched = if spec.location.starts_with("gs://") { file.bytes } else { 0 };
        let sessions = self.shared.options.sessions.max(1) as u64;
        let side = spec.contract.side;
        let expected = spec.memory_bytes(file.bytes, (side, side)).saturating_mul(sessions).saturating_add(fetched);
        let reserved = reserve(expected)?;
        let mut pool = Pool::open(spec, &file, &self.shared.options, reserved, start).map_err(unavailable)?;
        // The file says how large its input really is.
        let real = spec.memory_bytes(file.bytes, pool.loaded().input).saturating_mul(sessions).saturating_add(fetched);
        if real > expected {
            pool.hold(reserve(real - expected)?);
        }
        let Loaded { name, choice, load_ms, .. } = pool.loaded();
        let provider = choice.provider.name();
        tracing::info!(
            model = name,
            provider,
            reason = choice.reason(),
            load_ms,
            "the model {name} runs on {provider}"
        );
        Ok(pool)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        lock(&self.shared.slots)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
