//! How a worker comes to be: from settings and surroundings.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::plan::{Rules, default_job};
use super::{Shared, Worker};
use crate::config::{Config, StorageSetting};
use crate::kernel::color::Rgb8;
use crate::kernel::image::Raster;
use crate::pipeline::base::Inputs;
use crate::pipeline::encode::{self, EncodeOptions};
use crate::pipeline::identity::{Identity, sha256_hex};
use crate::pipeline::job::{Format, Job};
use crate::pipeline::manifest::State;
use crate::pipeline::outlet::{HandOver, Start};
use crate::pipeline::run::{self, RunOptions};
use crate::service::admission::{Admission, Budget, Meter};
use crate::service::compute::Lanes;
use crate::service::failure::{Class, Failure};
use crate::service::jobs::Jobs;
use crate::service::log;
use crate::service::memory;
use crate::service::metrics::Metrics;
use crate::service::models::{self, Models};
use crate::service::publish::Publisher;
use crate::service::source::web::WebSources;
use crate::service::source::{Allowed, Sources};
use crate::service::storage::Location;

/// Sources that may be open before they have memory of their own. Each holds its first quarter of a megabyte.
const OPENERS: usize = 16;

/// How often freed memory that is due goes back to the system.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

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
        let publisher = Publisher::open(
            config.result_topic.get(),
            config.failed_topic.get(),
            surroundings.pubsub_emulator.as_deref(),
        )
        .await?;
        let limit = memory::limit(config.memory_limit_mb);
        let jobs = Jobs::new(limit.bytes);
        let (budget, cache) = (budget(config, limit.bytes), jobs.clone());
        let (threshold, warned) = (budget.cleanup_above, AtomicBool::new(true));
        let meter = Meter {
            resident: Box::new(memory::resident_bytes),
            give_back: Box::new(move || {
                let before = memory::resident_bytes();
                cache.forget_done();
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
        rules.options.segmenter = models.segmenter().clone();
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
                openers: Semaphore::new(OPENERS),
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
                drop(shared);
                memory::give_back();
                tokio::time::sleep(GIVE_BACK_EVERY).await;
            }
        });
        Ok(worker)
    }
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
        let hand_over = HandOver { start: &|_| Start::Make, take: &|_| Ok(()) };
        let inputs = Inputs { picture: &source, fill: None };
        run::make(&job, &identity, inputs, sha256_hex(&source), hand_over, &options, &|_| ())
    };
    let manifest = lanes.run(|| (), work).await?;
    if manifest.state == State::Complete { Ok(()) } else { Err(internal("not every variation was made".into())) }
}
