//! How a worker comes to be: from settings and surroundings.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::lease::{Desk, Holds};
use super::plan::{Rules, default_job};
use super::{Shared, Worker};
use crate::config::{Config, StorageSetting};
use crate::kernel::color::Rgb8;
use crate::kernel::image::Raster;
use crate::pipeline::base::{Base, Inputs};
use crate::pipeline::encode::{self, EncodeOptions};
use crate::pipeline::event::Watch;
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::job::{Format, Job};
use crate::pipeline::manifest::State;
use crate::pipeline::outlet::{HandOver, Start};
use crate::pipeline::run::{self, RunOptions};
use crate::pipeline::segment::MapMemory;
use crate::service::admission::{Admission, Budget, Meter};
use crate::service::cache::shared::{SharedCache, SharedOptions};
use crate::service::cache::{CacheOptions, ResultCache};
use crate::service::compute::Lanes;
use crate::service::failure::{Class, Failure};
use crate::service::fair::{Fair, FairOptions};
use crate::service::flight::Flights;
use crate::service::jobs::{self, Jobs, News, Status, Teller, news_list};
use crate::service::log;
use crate::service::memory;
use crate::service::metrics::Metrics;
use crate::service::models::{self, Models};
use crate::service::publish::{Publisher, Topics};
use crate::service::source::web::WebSources;
use crate::service::source::{Allowed, Sources};
use crate::service::steps::Steps;
use crate::service::storage::{Location, Storage};

/// Sources that may be open before they have memory of their own. Each holds its first quarter of a megabyte.
const OPENERS: usize = 16;

/// How often freed memory that is due goes back to the system.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// Looks at jobs that may be done already, at once.
const LOOKERS: usize = 32;

/// The most that what is known of jobs may take, bytes.
const MOST_JOBS_BYTES: u64 = 32 << 20;

/// The largest value that goes into the shared cache, bytes.
const MOST_SHARED_BYTES: usize = 8 << 20;

/// News of one job that other instances can see: more than the largest job has.
const MOST_SHARED_NEWS: usize = 16_384;

/// News that wait to be told to other instances.
const NEWS_WAITING: usize = 4_096;

/// The bucket of results where no cloud is and none is named.
const LOCAL_BUCKET: &str = "palettes";

/// What the process finds around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The name of the Cloud Run service, worker pool or job it runs as.
    pub cloud_run: Option<String>,
    /// Address of an emulator of Cloud Storage.
    pub storage_emulator: Option<String>,
    /// Address of an emulator of Pub/Sub.
    pub pubsub_emulator: Option<String>,
    /// The project.
    pub project: Option<String>,
    /// ORT_DYLIB_PATH: the shared library of ONNX Runtime, where the settings name none.
    pub onnxruntime: Option<String>,
}

impl Surroundings {
    /// Reads them from environment variables, such as those of [`std::env::vars`].
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        Self {
            cloud_run: set("K_SERVICE").or_else(|| set("CLOUD_RUN_WORKER_POOL")).or_else(|| set("CLOUD_RUN_JOB")),
            storage_emulator: set("STORAGE_EMULATOR_HOST"),
            pubsub_emulator: set("PUBSUB_EMULATOR_HOST"),
            project: set("GOOGLE_CLOUD_PROJECT"),
            onnxruntime: set("ORT_DYLIB_PATH"),
        }
    }

    /// Whether it runs on Cloud Run.
    pub fn on_cloud_run(&self) -> bool {
        self.cloud_run.is_some()
    }
}

/// The settings that jobs go by, read once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Uploads at once for one job.
    pub connection_pool_size: usize,
    /// Most work of one job, million pixels.
    pub max_work_megapixels: u64,
    /// Most bytes of a source.
    pub max_source_bytes: u64,
    /// The subscription's ack deadline.
    pub ack_deadline: Duration,
    /// Deliveries after which a failing job is recorded; 0 is never.
    pub max_delivery_attempts: u32,
    /// Time that running jobs have to finish when the worker stops.
    pub shutdown: Duration,
    /// How long signed links are good for; none makes none.
    pub signed_links: Option<Duration>,
    /// What links begin with, instead of being signed.
    pub public_base_url: Option<String>,
    /// Files after which freed memory is given back; 0 is never.
    pub garbage_collection_interval: u64,
}

impl Settings {
    fn new(config: &Config) -> Self {
        let days = config.signed_link_days;
        Self {
            connection_pool_size: config.connection_pool_size,
            max_work_megapixels: config.max_work_megapixels,
            max_source_bytes: config.max_source_bytes,
            ack_deadline: Duration::from_secs(config.ack_deadline_seconds),
            max_delivery_attempts: config.max_delivery_attempts,
            shutdown: Duration::from_secs(config.shutdown_seconds),
            signed_links: (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400)),
            public_base_url: config.public_base_url.get().map(str::to_owned),
            garbage_collection_interval: config.garbage_collection_interval,
        }
    }
}

impl Worker {
    /// Opens storage, topics, memory and processors as the settings say.
    ///
    /// # Errors
    /// A text that names what is missing or wrong.
    pub async fn open(config: &Config, surroundings: &Surroundings, metrics: Metrics) -> Result<Self, String> {
        let setting = config.storage.clone().or_default(surroundings.on_cloud_run());
        let mut rules = rules(config, &setting)?;
        let storage = models::storage(config, surroundings).await?;
        let allowed = allowed_sources(config, &setting)?;
        let time_limit = Duration::from_secs(config.download_timeout_seconds);
        let web = WebSources::new(&config.source_hosts, time_limit)?;
        let sources = Sources::new(storage.clone(), allowed, web, config.max_source_bytes, time_limit);
        let topics = Topics {
            result: config.result_topic.get(),
            failed: config.failed_topic.get(),
            progress: config.progress_topic.get(),
        };
        let publisher = Publisher::open(topics, surroundings.pubsub_emulator.as_deref()).await?;
        let limit = memory::limit(config.memory_limit_mb);
        // All caches together hold a tenth of the memory.
        let for_caches = limit.bytes / 10;
        let for_jobs = (for_caches / 4).min(MOST_JOBS_BYTES);
        // A job that waits for a remote model may have no news all that time.
        let remembered = jobs::TIME_TO_LIVE + Duration::from_secs(config.remote_timeout_seconds);
        let cache = cache(config, for_caches - for_jobs, remembered)?;
        let jobs = Jobs::new(for_jobs, remembered, teller(&publisher, cache.shared()));
        let budget = budget(config, limit.bytes);
        let (known_jobs, results, cached) = (jobs.clone(), cache.clone(), cache.clone());
        let (threshold, warned) = (budget.cleanup_above, AtomicBool::new(true));
        let meter = Meter {
            resident: Box::new(memory::resident_bytes),
            cached: Box::new(move || cached.bytes()),
            give_back: Box::new(move || {
                let before = memory::resident_bytes();
                known_jobs.forget_done();
                results.drop_all();
                memory::give_back();
                let after = memory::resident_bytes();
                // The allocator lets go a second late, so admission asks again and again while it waits: one line is enough.
                if before > threshold && warned.swap(after <= threshold, Ordering::SeqCst) {
                    log::memory_cleanup(before, after, threshold);
                }
            }),
        };
        let processors = if config.threads == 0 { memory::cpu_quota() } else { config.threads };
        let admission = Admission::start(budget, meter);
        let program = std::env::current_exe().ok();
        let runtime = config.runtime_options(surroundings.onnxruntime.as_ref().map(Into::into), program.as_deref());
        let models = Models::new(config, runtime, storage.clone(), admission.clone())?;
        let steps = Steps::open(config)?;
        rules.options.remote_steps = steps.is_some();
        rules.options.segmenter = models.segmenter().clone();
        if cache.is_on() || cache.shared().is_some() {
            let (recall, remember) = (cache.clone(), cache.clone());
            models.segmenter().remember_with(MapMemory {
                recall: Box::new(move |key| recall.matte(key)),
                remember: Box::new(move |key, map| remember.keep_matte(key, map)),
            });
        }
        // Objects in memory are no other instance's business.
        let desk = (config.lease_seconds > 0 && !matches!(storage, Storage::Memory(_))).then(|| Desk {
            storage: storage.clone(),
            owner: instance().into(),
            time: Duration::from_secs(config.lease_seconds),
            holds: Holds::default(),
        });
        let capacity = admission.occupancy().capacity;
        tracing::info!(storage = String::from(setting), capacity_bytes = capacity, "the worker is open");
        let worker = Self {
            shared: Arc::new(Shared {
                settings: Settings::new(config),
                rules,
                storage,
                sources,
                admission,
                lanes: Lanes::new(processors),
                openers: Fair::new(FairOptions { slots: OPENERS, queue_limit: usize::MAX, patience: None }),
                lookers: Semaphore::new(LOOKERS),
                flights: Flights::default(),
                desk,
                cache,
                steps,
                jobs,
                metrics,
                publisher,
                models,
                drain: Mutex::new(None),
                running: AtomicUsize::new(0),
                warm: AtomicBool::new(false),
                made: AtomicU64::new(0),
                memory_limit: limit,
            }),
        };
        let watched = Arc::downgrade(&worker.shared);
        tokio::spawn(async move {
            // What was freed is due back a while later: somebody has to ask then, also when the work is over.
            while let Some(shared) = watched.upgrade() {
                shared.lanes.rest();
                shared.cache.tidy();
                drop(shared);
                memory::give_back();
                tokio::time::sleep(GIVE_BACK_EVERY).await;
            }
        });
        Ok(worker)
    }
}

/// The cache of results, within `max_bytes` unless the settings say less or more. News in Redis live for `remembered`.
fn cache(config: &Config, max_bytes: u64, remembered: Duration) -> Result<ResultCache, String> {
    let time_to_live = Duration::from_secs(config.cache_ttl_seconds);
    let max_bytes = match (config.cache_ttl_seconds, config.cache_max_mb) {
        (0, _) => 0,
        (_, 0) => max_bytes,
        (_, mb) => mb << 20,
    };
    let shared = match config.redis_url.get() {
        Some(url) if config.cache_ttl_seconds > 0 => {
            let options = SharedOptions {
                timeout: Duration::from_millis(config.redis_timeout_ms),
                time_to_live,
                max_value_bytes: MOST_SHARED_BYTES,
                max_list_entries: MOST_SHARED_NEWS,
                list_time_to_live: remembered,
                prefix: "concept:1".into(),
            };
            Some(SharedCache::open(url, options).map_err(|error| format!("CONCEPT_REDIS_URL: {error}"))?)
        }
        _ => None,
    };
    let options = CacheOptions { max_bytes, max_entries: config.cache_max_entries, time_to_live };
    Ok(ResultCache::new(options, shared))
}

/// A name that no other process has.
fn instance() -> String {
    // Seeded by the system's randomness.
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:08x}", random(), std::process::id())
}

/// Who is told news of jobs: the topic, and the other instances.
fn teller(publisher: &Publisher, shared: Option<&SharedCache>) -> Option<Teller> {
    if !publisher.tells_progress() && shared.is_none() {
        return None;
    }
    let (publisher, runtime) = (publisher.clone(), Handle::try_current().ok()?);
    let others = shared.map(|shared| {
        let (tell, mut told) = mpsc::channel::<(String, Bytes)>(NEWS_WAITING);
        let shared = shared.clone();
        runtime.spawn(async move {
            while let Some((list, news)) = told.recv().await {
                shared.append(&list, &news).await;
            }
        });
        tell
    });
    Some(Arc::new(move |status: &Status, news: &News| {
        let Ok(json) = serde_json::to_vec(news).map(Bytes::from) else { return };
        let id = news.id.to_string();
        let attributes = [("job_id", &*status.job_id), ("user_id", &*status.user_id), ("id", &*id)];
        publisher.progress(json.clone(), &status.folder, &attributes, &runtime);
        if let Some(others) = &others {
            // Where they cannot be told in time, they see the manifest in the end.
            let _ = others.try_send((news_list(&status.folder), json));
        }
    }))
}

fn budget(config: &Config, limit: u64) -> Budget {
    Budget {
        limit,
        reserve: config.memory_reserve_mb << 20,
        cleanup_above: (config.memory_cleanup_threshold_mb << 20).min(limit / 5 * 4),
        queue_limit: config.queue_limit,
    }
}

fn allowed_sources(config: &Config, setting: &StorageSetting) -> Result<Allowed, String> {
    let allowed = Allowed::new(&config.allowed_sources, &config.storage_bucket_concept, setting)
        .map_err(|error| format!("CONCEPT_ALLOWED_SOURCES: {error}"))?;
    if allowed.is_nothing() {
        return Err("no picture may be read: set CONCEPT_STORAGE_BUCKET_CONCEPT or CONCEPT_ALLOWED_SOURCES".into());
    }
    Ok(allowed)
}

fn rules(config: &Config, setting: &StorageSetting) -> Result<Rules, String> {
    let destinations = Allowed::new(&config.allowed_destinations, &config.storage_bucket_palette, setting)
        .map_err(|error| format!("CONCEPT_ALLOWED_DESTINATIONS: {error}"))?;
    let bucket = match (config.storage_bucket_palette.name(), setting) {
        (Some(bucket), _) => bucket,
        (None, StorageSetting::Gcs) => {
            return Err("records of failures need a place: set CONCEPT_STORAGE_BUCKET_PALETTE".into());
        }
        (None, _) => LOCAL_BUCKET,
    };
    let default_destination = Location::parse(&format!("gs://{bucket}")).map_err(|error| error.to_string())?;
    let upload_over = config.upload_compression_enabled.then_some(config.upload_max_size_kb << 10);
    let options = RunOptions { gallery: false, upload_over, ..config.run_options() };
    let default_job = config.default_job.get().map(default_job).transpose()?;
    let rules = Rules { options, destinations, default_destination, default_job };
    let pictures = config.storage_bucket_concept.name().map(|bucket| Location::parse(&format!("gs://{bucket}")));
    rules.check_default_job(pictures.transpose().map_err(|error| error.to_string())?.as_ref())?;
    Ok(rules)
}

/// Recolours a tiny picture from its file to a file.
pub async fn tiny_job(lanes: &Lanes) -> Result<(), Failure> {
    let internal = |problem: String| Failure::new(Class::Internal, format!("the warm-up job failed: {problem}"));
    let colors = [Rgb8::new(38, 70, 83), Rgb8::new(42, 157, 143), Rgb8::new(233, 196, 106), Rgb8::new(231, 111, 81)];
    let pixels = (0..64 * 64).map(|i| colors[(i / 8 + i / 512) % colors.len()].packed()).collect();
    let mut source = Vec::new();
    encode::encode(&mut Raster::of_length(64, 64, pixels), &EncodeOptions::new(Format::Png), &mut source)
        .map_err(|error| internal(error.to_string()))?;
    let job = Job::from_json(br#"{"source": "warm-up", "palettes": {"generate": 3}, "outputs": [{"format": "jpeg"}]}"#)
        .map_err(|error| internal(error.to_string()))?;
    let options = RunOptions { gallery: false, ..RunOptions::default() };
    let identity = Identity::new(&job, "", &options);
    let work = move || {
        let hand_over = HandOver { start: &|_| Start::Make, take: &|_| Ok(()), memory: None };
        let inputs = Inputs { picture: &source, fill: None };
        let base = |watch: &Watch<'_>| match Base::new(inputs, &job.background, &options, false, watch) {
            Ok(base) => Ok(Arc::new(base)),
            Err(error) => Err(error.failure()),
        };
        run::make(&job, &identity, base, sha256_hex(&source), hand_over, &options, &|_| ())
    };
    let manifest = lanes.run("", || (), work).await?;
    if manifest.state == State::Complete { Ok(()) } else { Err(internal("not every variation was made".into())) }
}
