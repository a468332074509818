//! Settings from the environment: `CONCEPT_*` variables, read once into one typed struct.
//!
//! One table, [`variables`], made together with [`Config`], is the source of the defaults, of the checks, of the
//! `config` command and of docs/configuration.md. A blank variable counts as unset, because compose files and
//! deployment templates write unset variables that way.

mod environment;
mod models;
mod values;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use environment::{Environment, Fault, Faults, Unknown};
pub use values::{
    Accounts, AuthSetting, Bucket, Hosts, LogFormat, LogLevel, Places, Providers, Secret, Sha256Hex, StorageSetting,
    Subscription, Text, Topic, WebAddress,
};

use crate::pipeline::job::Format;
use crate::pipeline::palette_file::MAX_PALETTES;
use crate::pipeline::run::RunOptions;
use crate::pipeline::segment::Segmenter;

/// What every variable's name begins with.
pub const PREFIX: &str = "CONCEPT_";

const BUCKET_FORM: &str = "a bucket's name: 3 to 222 of the characters a-z, 0-9, `-`, `_` and `.`";
const PLACES_FORM: &str = "gs://bucket or gs://bucket/prefix, separated by commas, or `*`";

/// Declares [`Config`], its defaults and the table of variables in one place, so that none can lag behind.
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $field:ident: $kind:ty = $default:expr, $accepts:expr;)+) => {
        /// Every setting, typed and checked. The variable of field `max_pixels` is `CONCEPT_MAX_PIXELS`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Config {
            $($(#[doc = $meaning])+ pub $field: $kind,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// The table of variables, in the order in which they are shown.
        pub fn variables() -> Vec<Variable> {
            vec![$(Variable {
                field: stringify!($field),
                name: format!("{PREFIX}{}", stringify!($field).to_uppercase()),
                meaning: concat!($($meaning),+).trim(),
                accepts: $accepts,
            },)+]
        }
    };
}

settings! {
    /// Longest side of the base picture in pixels: a larger source is scaled down once, before anything else. 0 keeps
    /// the full size.
    image_max_dimension: u32 = 0, Accepts::Whole { min: 0, max: 65_535 };
    /// Most pixels a source may have. The header is checked before anything is decoded.
    max_pixels: u64 = 50_000_000, Accepts::Whole { min: 1, max: 65_535 * 65_535 };
    /// Most bytes a source file may have. Checked before it is read.
    max_source_bytes: u64 = 256 << 20, Accepts::Whole { min: 1, max: 16 << 30 };
    /// Most palettes a job may have.
    max_palettes: usize = 64, Accepts::Whole { min: 1, max: MAX_PALETTES as u64 };
    /// Most outputs (format and size) a job may ask of every variation.
    max_outputs: usize = 16, Accepts::Whole { min: 1, max: 256 };
    /// Most effects a job may have.
    max_effects: usize = 16, Accepts::Whole { min: 0, max: 256 };
    /// Most iterations of k-means; it stops earlier once nothing moves.
    kmeans_max_iterations: u32 = 50, Accepts::Whole { min: 1, max: 10_000 };
    /// Longest side in pixels of the sample that k-means sees. 0 takes every pixel.
    clustering_sample_size: u32 = 1024, Accepts::Whole { min: 0, max: 65_535 };
    /// Quality of JPEG and lossy WebP outputs that name none.
    compression_quality: u8 = 85, Accepts::Whole { min: 1, max: 100 };
    /// Format of outputs when neither job nor flag names one.
    output_format: Format = Format::Png, Accepts::Words(&["png", "jpeg", "webp"]);
    /// Threads that compute. 0 takes one for every core.
    threads: usize = 0, Accepts::Whole { min: 0, max: 1_024 };
    /// How much is logged. The commands that a person runs log `warn` unless this is set or `-v` is given.
    log_level: LogLevel = LogLevel::Info, Accepts::Words(&["off", "error", "warn", "info", "debug", "trace"]);
    /// How log lines look: `json` as Cloud Logging reads them, `text` for people; `auto` is `json` on Cloud Run. Commands that
    /// a person runs log text.
    log_format: LogFormat = LogFormat::Auto, Accepts::Words(&["auto", "json", "text"]);
    /// Where objects live. Under `local:DIR` the object gs://bucket/name is the file DIR/bucket/name. On Cloud Run the
    /// default is `gcs`.
    storage: StorageSetting = StorageSetting::default(), Accepts::Form("`local:DIR`, `gcs` or `memory`");
    /// Bucket that holds the base pictures.
    storage_bucket_concept: Bucket = Bucket::default(), Accepts::Form(BUCKET_FORM);
    /// Bucket that receives the results of jobs that name no destination, and the records of messages that are no jobs.
    /// Without it, a job on the command line needs `--out`, and one for the worker a `destination`.
    storage_bucket_palette: Bucket = Bucket::default(), Accepts::Form(BUCKET_FORM);
    /// Where the worker may read pictures: gs://bucket or gs://bucket/prefix, separated by commas; `*` is everywhere. Unset:
    /// CONCEPT_STORAGE_BUCKET_CONCEPT; with neither, everything under local or memory storage and nothing on Cloud Storage.
    allowed_sources: Places = Places::default(), Accepts::Form(PLACES_FORM);
    /// Where the worker may write: as for sources. Unset: CONCEPT_STORAGE_BUCKET_PALETTE; with neither, everything under
    /// local or memory storage and nothing on Cloud Storage.
    allowed_destinations: Places = Places::default(), Accepts::Form(PLACES_FORM);
    /// Hosts that https:// sources may name, separated by commas; `.example.com` takes in every host below it. Unset: none.
    source_hosts: Hosts = Hosts::default(), Accepts::Form("host names separated by commas");
    /// Seconds that fetching a source may take.
    download_timeout_seconds: u64 = 60, Accepts::Whole { min: 1, max: 3_600 };
    /// Seconds that one attempt to store an object may take.
    upload_timeout_seconds: u64 = 30, Accepts::Whole { min: 1, max: 3_600 };
    /// Uploads that are under way at once for one job.
    connection_pool_size: usize = 5, Accepts::Whole { min: 1, max: 256 };
    /// Whether a PNG variation larger than CONCEPT_UPLOAD_MAX_SIZE_KB is stored as a JPEG beside it, too (worker only).
    upload_compression_enabled: bool = true, Accepts::Words(&["true", "false"]);
    /// Size of a PNG variation in KiB from which on it is stored as a JPEG beside it, too.
    upload_max_size_kb: u64 = 500, Accepts::Whole { min: 0, max: 1 << 20 };
    /// Days that signed links in manifests are good for; 0 makes none. Seven is the most that Cloud Storage signs.
    signed_link_days: u32 = 0, Accepts::Whole { min: 0, max: 7 };
    /// Where the destination bucket is served from, such as a CDN: links in manifests begin with it. Unset: no links.
    public_base_url: WebAddress = WebAddress::default(), Accepts::Form("an http:// or https:// address");
    /// Memory that the worker may use, in MiB. 0 takes the container's limit, or the machine's memory.
    memory_limit_mb: u64 = 0, Accepts::Whole { min: 0, max: 1 << 24 };
    /// Memory in MiB that no job may take: the program itself, connections, what allocators hold on to.
    memory_reserve_mb: u64 = 64, Accepts::Whole { min: 0, max: 1 << 24 };
    /// Resident memory in MiB above which caches are dropped and freed memory goes back to the system before another job is
    /// admitted. At most 80 % of the limit counts.
    memory_cleanup_threshold_mb: u64 = 1_500, Accepts::Whole { min: 1, max: 1 << 24 };
    /// Variations after which freed memory goes back to the system. 0 leaves it to the allocator.
    garbage_collection_interval: u64 = 3, Accepts::Whole { min: 0, max: 1_000_000 };
    /// Seconds that pictures, mattes and encoded files are kept for other jobs. 0 keeps nothing.
    cache_ttl_seconds: u64 = 300, Accepts::Whole { min: 0, max: 86_400 };
    /// Pictures, mattes and encoded files that are kept at once.
    cache_max_entries: u64 = 100, Accepts::Whole { min: 1, max: 1_000_000 };
    /// Memory in MiB that they may take. 0: what jobs' status leaves of a tenth of the limit.
    cache_max_mb: u64 = 0, Accepts::Whole { min: 0, max: 1 << 20 };
    /// A Redis in which instances share encoded files, mattes and news of jobs. Unset: none.
    redis_url: Secret = Secret::default(), Accepts::Form("redis://[user:password@]host[:port][/database], or rediss://");
    /// Milliseconds that Redis may take; after one that took longer it is left alone for a while.
    redis_timeout_ms: u64 = 250, Accepts::Whole { min: 1, max: 60_000 };
    /// Seconds after which another instance takes over a job whose lease was not renewed. 0: no leases.
    lease_seconds: u64 = 15, Accepts::Whole { min: 0, max: 3_600 };
    /// Jobs that may wait for memory and processors; one more is refused with 429.
    queue_limit: usize = 1_024, Accepts::Whole { min: 1, max: 65_536 };
    /// Most work a job may ask for: million pixels of the base times palettes times outputs.
    max_work_megapixels: u64 = 20_000, Accepts::Whole { min: 1, max: 1 << 32 };
    /// The model for background removal of jobs that name none: a preset (inspyrenet, inspyrenet-fast, birefnet, isnet, u2net, u2netp,
    /// silueta) whose file CONCEPT_MODEL_PATH names, or a name from CONCEPT_MODELS. Unset: the only model of CONCEPT_MODELS,
    /// else none.
    model: Text = Text::default(), Accepts::Form("a model's name");
    /// The ONNX file of CONCEPT_MODEL: a path, or gs://bucket/name.
    model_path: Text = Text::default(), Accepts::Form("a path, or gs://bucket/name");
    /// SHA-256 that the file of CONCEPT_MODEL_PATH must have. Unset: any file is taken, and its hash stands in manifests.
    model_sha256: Sha256Hex = Sha256Hex::default(), Accepts::Form("64 hexadecimal digits");
    /// More models, as a JSON array or the path of a file with one: name, preset, path, sha256, size, mean, std, filter, scale,
    /// output, memory_mb.
    models: Text = Text::default(), Accepts::Form("a JSON array, or the path of a file");
    /// The shared library of ONNX Runtime, 1.22 or later. Unset: ORT_DYLIB_PATH, then libonnxruntime.so beside the program.
    onnxruntime: Text = Text::default(), Accepts::Form("a path");
    /// What runs models, in the order in which it is tried. TensorRT is only taken where its engines were built before.
    execution_providers: Providers = Providers::all(), Accepts::Form("tensorrt, cuda and cpu, separated by commas");
    /// Whether nothing but a GPU will do: without one the worker ends with an error instead of using the processor.
    require_gpu: bool = false, Accepts::Words(&["true", "false"]);
    /// Folder of what `concept-worker model build` makes, and of models fetched from Cloud Storage. Unset: nothing is built,
    /// and fetched models are kept in the folder for temporary files.
    model_cache: Text = Text::default(), Accepts::Form("a folder");
    /// Whether the worker is ready only once its model is loaded. Without it, the model loads while the first jobs run; those
    /// that need it wait.
    model_before_ready: bool = false, Accepts::Words(&["true", "false"]);
    /// Threads of a model on the processor. 0 takes one for each core.
    model_threads: usize = 0, Accepts::Whole { min: 0, max: 256 };
    /// Pictures that a model works on at once, each in a session with memory of its own.
    model_sessions: usize = 1, Accepts::Whole { min: 1, max: 16 };
    /// Pictures that may wait for a session; one more is refused, and its message delivered again.
    model_queue: usize = 64, Accepts::Whole { min: 0, max: 65_536 };
    /// The API of remote models for steps: Replicate's, or a server with the same contract. With a token, the default is
    /// that of replicate.com; with neither, there are no steps.
    remote_url: WebAddress = WebAddress::default(), Accepts::Form("an http:// or https:// address");
    /// The token of that API.
    remote_token: Secret = Secret::default(), Accepts::Form("text");
    /// Models of steps that name none, as a JSON object of names and models, such as {"upscale": "owner/name"}, or the path of a
    /// file with one.
    remote_models: Text = Text::default(), Accepts::Form("a JSON object, or the path of a file");
    /// Steps of class light (upscale, restore) that are under way at once.
    remote_light_concurrency: usize = 8, Accepts::Whole { min: 1, max: 1_024 };
    /// Steps of class heavy (relight, style, talking-photo, and all others) that are under way at once.
    remote_heavy_concurrency: usize = 4, Accepts::Whole { min: 1, max: 1_024 };
    /// Steps of class comic (story-comic) that are under way at once.
    remote_comic_concurrency: usize = 2, Accepts::Whole { min: 1, max: 1_024 };
    /// Steps of one class that may wait; one more is left to the next delivery.
    remote_queue_limit: usize = 256, Accepts::Whole { min: 0, max: 65_536 };
    /// Seconds that a step may wait for its turn.
    remote_wait_seconds: u64 = 120, Accepts::Whole { min: 1, max: 3_600 };
    /// Seconds that a prediction may take before it is cancelled, counted over deliveries.
    remote_timeout_seconds: u64 = 900, Accepts::Whole { min: 5, max: 86_400 };
    /// Seconds that a remote model is left alone after five of its last ten predictions failed; twice as long after each probe
    /// that fails, up to twenty times.
    remote_breaker_seconds: u64 = 30, Accepts::Whole { min: 1, max: 3_600 };
    /// Longest side in pixels of pictures that are sent to remote models.
    remote_max_dimension: u32 = 2_048, Accepts::Whole { min: 64, max: 65_535 };
    /// Most pixels of pictures that are sent to remote models.
    remote_max_pixels: u64 = 2_000_000, Accepts::Whole { min: 4_096, max: 65_535 * 65_535 };
    /// Most MiB of one output of a remote model.
    remote_max_output_mb: u64 = 1_024, Accepts::Whole { min: 1, max: 1 << 20 };
    /// Hosts from which outputs of remote models are fetched over https, separated by commas; the API's own server counts as one.
    remote_output_hosts: Hosts = Hosts::known(&["replicate.delivery", ".replicate.delivery"]),
        Accepts::Form("host names separated by commas");
    /// The address of this worker's /v1/remote/webhook as the API reaches it. Unset: predictions are polled for.
    remote_webhook_url: WebAddress = WebAddress::default(), Accepts::Form("an http:// or https:// address");
    /// The secret that webhooks are signed with, `whsec_…`.
    remote_webhook_secret: Secret = Secret::default(), Accepts::Form("text");
    /// The subscription's ack deadline in seconds: what cannot be done within it is left to the next delivery.
    ack_deadline_seconds: u64 = 600, Accepts::Whole { min: 10, max: 600 };
    /// Deliveries after which a job that keeps failing for reasons outside it is recorded as failed. Only known where the
    /// subscription has a dead-letter policy. 0: never.
    max_delivery_attempts: u32 = 5, Accepts::Whole { min: 0, max: 100 };
    /// Seconds that running jobs have to finish after SIGTERM; what has not finished then is left to the next delivery.
    shutdown_seconds: u64 = 6, Accepts::Whole { min: 0, max: 3_600 };
    /// How callers prove who they are: `platform` (Cloud Run's IAM has checked the token; only its claims are read), `verify`
    /// (the token is checked against Google's keys) or `off` (anyone; listens on 127.0.0.1 only). Must be set on Cloud Run;
    /// elsewhere the default is `off`.
    push_auth: AuthSetting = AuthSetting::Unset, Accepts::Words(&["platform", "verify", "off"]);
    /// The audience that tokens must name, exactly: the push endpoint's address unless the subscription says otherwise.
    push_audience: Text = Text::default(), Accepts::Form("text");
    /// Service accounts whose tokens are accepted, separated by commas: those of the push subscription and of the scheduler.
    push_service_account: Accounts = Accounts::default(), Accepts::Form("e-mail addresses separated by commas");
    /// Where Google's public keys are.
    oidc_jwks_url: WebAddress = WebAddress::known("https://www.googleapis.com/oauth2/v3/certs"),
        Accepts::Form("an http:// or https:// address");
    /// The subscription that `pull` reads.
    subscription: Subscription = Subscription::default(), Accepts::Form("projects/PROJECT/subscriptions/NAME");
    /// The job that a new object in a bucket starts, as JSON or as the path of a file with it; its `source` is left out.
    default_job: Text = Text::default(), Accepts::Form("a job as JSON, or the path of a file");
    /// Topic that every finished job's manifest is published to.
    result_topic: Topic = Topic::default(), Accepts::Form("projects/PROJECT/topics/NAME");
    /// Topic that the record of every job that failed for good is published to.
    failed_topic: Topic = Topic::default(), Accepts::Form("projects/PROJECT/topics/NAME");
    /// Topic that news of running jobs are published to, ordered by the job's folder.
    progress_topic: Topic = Topic::default(), Accepts::Form("projects/PROJECT/topics/NAME");
}

/// One variable: its name, what it means, what it takes. Its default is the field of [`Config::default`].
#[derive(Debug, Clone)]
pub struct Variable {
    /// The field of [`Config`].
    field: &'static str,
    /// The name in the environment, prefix included.
    pub name: String,
    /// What it does, in whole sentences.
    pub meaning: &'static str,
    /// What it takes.
    pub accepts: Accepts,
}

/// What a variable takes; displays as the end of the sentence "give …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// A whole number, both ends included.
    Whole {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One of these words, in any case.
    Words(&'static [&'static str]),
    /// Text of this form.
    Form(&'static str),
}

impl Accepts {
    /// Whether a value that already has the right type lies in the range. Words and forms are settled by their types.
    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Whole { min, max } => value.as_u64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Words(_) | Self::Form(_) => true,
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Words([first @ .., last]) => write!(f, "{} or {last}", first.join(", ")),
            Self::Words([]) => Ok(()),
            Self::Form(form) => f.write_str(form),
        }
    }
}

impl Config {
    /// The part of the settings that a run needs.
    pub fn run_options(&self) -> RunOptions {
        RunOptions {
            max_dimension: self.image_max_dimension,
            max_pixels: self.max_pixels,
            kmeans_max_iterations: self.kmeans_max_iterations,
            clustering_sample_size: self.clustering_sample_size,
            quality: self.compression_quality,
            format: self.output_format,
            max_palettes: self.max_palettes,
            max_outputs: self.max_outputs,
            gallery: true,
            upload_over: None,
            max_effects: self.max_effects,
            segmenter: Segmenter::default(),
            remote_steps: false,
        }
    }

    /// The value of a variable, as JSON holds it.
    fn value(&self, variable: &Variable) -> Value {
        // A struct of numbers and words always has a JSON form; Null would show as an empty value.
        serde_json::to_value(self).ok().and_then(|all| all.get(variable.field).cloned()).unwrap_or(Value::Null)
    }
}

/// The text of docs/configuration.md.
pub fn markdown() -> String {
    let default = Config::default();
    let mut text = String::from(HEADER);
    for variable in variables() {
        let usual = plain(&default.value(&variable));
        let usual = if usual.is_empty() { "none".to_owned() } else { format!("`{usual}`") };
        text += &format!("| `{}` | {usual} | {} | {} |\n", variable.name, variable.accepts, variable.meaning);
    }
    text
}

/// What docs/configuration.md says before the table.
const HEADER: &str = "\
# Configuration

This page is printed by `concept-worker config --markdown`; a test keeps it true.

Settings are environment variables, read once at start. A flag or a field of the job goes before a variable, and a
variable before its default. A blank variable counts as unset. When variables cannot be used, all of them are reported
together and nothing starts (exit code 2). A variable that begins with `CONCEPT_` and is not listed here is ignored, with
a warning that names the nearest setting.

`concept-worker config` prints every variable with its value and where the value comes from; `--json` prints the same for
machines.

| variable | default | takes | meaning |
|---|---|---|---|
";

/// A JSON value as a person would write it in a shell.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
