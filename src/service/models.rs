//! The worker's models: fetched from storage, counted by admission, loaded in the background.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::admission::Admission;
use super::failure::{Class, Failure};
use super::storage::{Location, Storage, StorageOptions};
use super::worker::Surroundings;
use crate::config::Config;
use crate::pipeline::job::{Job, Method};
use crate::pipeline::segment::registry::ModelSpec;
use crate::pipeline::segment::runtime::{Provider, RuntimeOptions};
use crate::pipeline::segment::{Loaded, ModelError, NoRoom, Segmenter, Standing};

/// The largest model that is fetched, bytes.
const MAX_MODEL_BYTES: u64 = 8 << 30;

/// How long a model waits until jobs have given back the memory that it will take.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a model that must be there before the first job is tried again. Longer than an error is remembered.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(35);

/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The worker's models. Clones share them.
#[derive(Clone)]
pub struct Models {
    segmenter: Segmenter,
    before_ready: bool,
    require_gpu: bool,
    /// Told when the model that must be there cannot be had.
    hopeless: Arc<Notify>,
}

impl Models {
    /// The models of the settings. Nothing is loaded yet.
    ///
    /// # Errors
    /// A text that names the variable and what is wrong with it.
    pub fn new(
        config: &Config,
        options: RuntimeOptions,
        storage: Storage,
        admission: Admission,
    ) -> Result<Self, String> {
        let registry = config.registry()?;
        let cache = config.model_cache.get().map_or_else(std::env::temp_dir, PathBuf::from);
        let runtime = Handle::current();
        let fetch = move |spec: &ModelSpec| fetch(spec, &storage, &cache, &runtime);
        let reserve = move |name: &str, bytes: u64| reserve(name, bytes, &admission);
        Ok(Self {
            segmenter: Segmenter::with(registry, options, Box::new(fetch), Box::new(reserve)),
            before_ready: config.model_before_ready || config.require_gpu,
            require_gpu: config.require_gpu,
            hopeless: Arc::default(),
        })
    }

    /// The handle that runs are given.
    pub fn segmenter(&self) -> &Segmenter {
        &self.segmenter
    }

    /// Loads the default model, where there is one, on a thread of its own.
    pub fn load_in_background(&self) {
        if self.segmenter.registry().default_model().is_none() {
            return;
        }
        let models = self.clone();
        tokio::spawn(async move {
            loop {
                let segmenter = models.segmenter.clone();
                let loaded = tokio::task::spawn_blocking(move || segmenter.load(None)).await;
                // The error is in the log, and whoever needs the model hears of it.
                if matches!(loaded, Ok(Err(error)) if !error.is_passing()) && models.require_gpu {
                    models.hopeless.notify_one();
                }
                // No job comes before it is there, which would ask for it again.
                if !models.holds_back() {
                    return;
                }
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        });
    }

    /// Loads the default model: before the first job where the settings say so, else in the background.
    ///
    /// # Errors
    /// [`ModelError`] where the settings want it before the first job.
    pub async fn prepare(&self) -> Result<(), ModelError> {
        if !self.holds_back() {
            self.load_in_background();
            return Ok(());
        }
        let segmenter = self.segmenter.clone();
        match tokio::task::spawn_blocking(move || segmenter.load(None)).await {
            Ok(loaded) => loaded.map(|_| ()),
            Err(_) => Err(ModelError::Unavailable("loading the model panicked; report it".into())),
        }
    }

    /// Ready with the reason once CONCEPT_REQUIRE_GPU cannot be met; never where it is not set.
    pub async fn hopeless(&self) -> ModelError {
        loop {
            self.hopeless.notified().await;
            if let Standing::Failed(error) = self.segmenter.standing(None) {
                return error;
            }
        }
    }

    /// Whether the worker must not take jobs yet.
    pub fn holds_back(&self) -> bool {
        self.before_ready
            && self.segmenter.registry().default_model().is_some()
            && !matches!(self.segmenter.standing(None), Standing::Ready(_))
    }

    /// Waits until the model that `job` asks for is there. Jobs that do not insist on it go on without one that cannot be had.
    ///
    /// # Errors
    /// [`Failure`] where the job names a model, or method `model`, and it cannot be had.
    pub async fn await_model(&self, job: &Job) -> Result<(), Failure> {
        let insists = job.background.method == Some(Method::Model);
        let name = job.background.model.clone();
        if !job.may_need_model() || (!insists && name.is_none() && self.segmenter.registry().default_model().is_none())
        {
            return Ok(());
        }
        if matches!(self.segmenter.standing(name.as_deref()), Standing::Ready(_)) {
            return Ok(());
        }
        let segmenter = self.segmenter.clone();
        let loaded = tokio::task::spawn_blocking(move || segmenter.load(name.as_deref())).await;
        match loaded {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if insists => Err(of_model(&error)),
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(Failure::new(Class::Internal, "loading the model panicked; report it")),
        }
    }

    /// Where the default model stands, as /ready shows it; none where there is none.
    pub fn report(&self) -> Option<Value> {
        let spec = self.segmenter.registry().default_model()?;
        Some(match self.segmenter.standing(None) {
            Standing::Absent => json!({"name": spec.name, "state": "absent"}),
            Standing::Loading => json!({"name": spec.name, "state": "loading"}),
            Standing::Failed(error) => json!({"name": spec.name, "state": "failed", "error": error.to_string()}),
            Standing::Ready(loaded) => {
                let Loaded { name, sha256, choice, load_ms, .. } = *loaded;
                json!({
                    "name": name,
                    "state": "ready",
                    "sha256": sha256,
                    "provider": choice.provider.name(),
                    "reason": choice.reason(),
                    "onnxruntime": choice.runtime,
                    "load_ms": (load_ms * 10.0).round() / 10.0,
                })
            }
        })
    }

    /// What runs the default model once it does, and which providers refused before; none where there is no default model.
    pub fn in_use(&self) -> Option<(Option<Provider>, Vec<Provider>)> {
        self.segmenter.registry().default_model()?;
        Some(match self.segmenter.standing(None) {
            Standing::Ready(loaded) => {
                let refused = loaded.choice.refused.iter().map(|(provider, _)| *provider).collect();
                (Some(loaded.choice.provider), refused)
            }
            _ => (None, Vec::new()),
        })
    }
}

/// A job's failure for a model's error.
pub fn of_model(error: &ModelError) -> Failure {
    Failure::new(Class::of(error.class()).unwrap_or(Class::Internal), error.to_string())
}

/// The storage of the settings, for a model's file alone.
///
/// # Errors
/// A text that names what is missing or wrong.
pub async fn storage(config: &Config, surroundings: &Surroundings) -> Result<Storage, String> {
    Storage::open(&StorageOptions {
        setting: config.storage.clone().or_default(surroundings.on_cloud_run()),
        emulator: surroundings.storage_emulator.clone(),
        write_timeout: Duration::from_secs(config.upload_timeout_seconds),
        read_timeout: Duration::from_secs(config.download_timeout_seconds),
    })
    .await
}

/// The model's file on this machine: where it is, or brought from storage, once.
fn fetch(spec: &ModelSpec, storage: &Storage, cache: &Path, runtime: &Handle) -> Result<PathBuf, String> {
    if !spec.location.starts_with("gs://") {
        return Ok(PathBuf::from(&spec.location));
    }
    let location = Location::parse(&spec.location).map_err(|error| error.to_string())?;
    runtime.block_on(bring(&location, storage, cache))
}

/// Downloads an object into the cache, under a name with its generation; what is there already is not fetched again.
///
/// # Errors
/// What storage or the disk said.
pub async fn bring(location: &Location, storage: &Storage, cache: &Path) -> Result<PathBuf, String> {
    let start = Instant::now();
    let mut download =
        storage.read(location, None, MAX_MODEL_BYTES).await.map_err(|error| format!("cannot be fetched: {error}"))?;
    let generation: String =
        download.stat().generation.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = location.name().rsplit('/').next().unwrap_or_default();
    let path = cache.join(format!("concept-worker-{}-{generation}-{name}", location.bucket()));
    let disk = |error: std::io::Error| format!("cannot be written to {}: {error}", path.display());
    if tokio::fs::metadata(&path).await.is_ok_and(|file| file.len() == download.stat().bytes) {
        return Ok(path);
    }
    tokio::fs::create_dir_all(cache).await.map_err(disk)?;
    // Whole or not at all: another process may be looking for it.
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let mut file = tokio::fs::File::create(&unfinished).await.map_err(disk)?;
    let written = async {
        while let Some(chunk) = download.chunk().await.map_err(|error| format!("cannot be fetched: {error}"))? {
            tokio::io::AsyncWriteExt::write_all(&mut file, &chunk).await.map_err(disk)?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(disk)?;
        drop(file);
        tokio::fs::rename(&unfinished, &path).await.map_err(disk)
    };
    let written = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&unfinished).await;
    }
    written?;
    tracing::info!(object = %location, ms = start.elapsed().as_millis() as u64, "the model is fetched");
    Ok(path)
}

/// Memory that a model takes away from jobs as long as it is loaded.
struct Reserved {
    admission: Admission,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.admission.give_back(self.bytes);
    }
}

/// Takes the model's memory out of what jobs may use, and waits until those that run have let go of it.
fn reserve(name: &str, bytes: u64, admission: &Admission) -> Result<Box<dyn Send + Sync>, NoRoom> {
    admission.set_aside(bytes).map_err(|_| {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        NoRoom::Ever(format!(
            "its sessions take up to {} MiB and the worker has {} MiB beside what it needs itself; give it more memory, take a \
             smaller model, or set the model's memory_mb in CONCEPT_MODELS if it takes less",
            mib(bytes),
            mib(admission.occupancy().capacity)
        ))
    })?;
    let reserved = Reserved { admission: admission.clone(), bytes };
    let patience = Instant::now() + PATIENCE;
    loop {
        let occupancy = admission.occupancy();
        if occupancy.promised <= occupancy.capacity {
            return Ok(Box::new(reserved));
        }
        if Instant::now() > patience {
            let mib = bytes >> 20;
            return Err(NoRoom::Now(format!("the jobs that run have not given back the {mib} MiB for {name} in time")));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
