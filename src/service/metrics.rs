//! What is counted and timed, as Prometheus text and as JSON.
//!
//! Labels come from closed sets: routes, outcomes, modes and stages that the program names itself. Nothing that a caller sends
//! becomes a label.

mod features;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::pipeline::job::Mode;
use crate::pipeline::segment::runtime::Provider;

use super::breaker::BreakerState;
use super::cache::{Layer, ResultCache};
use super::fair::FairOccupancy;
use super::log::{JobLine, Outcome, mode_name};
use features::Features;

/// The media type of [`Metrics::render_text`].
pub const TEXT_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of every histogram, seconds.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// The stages that are timed. Others are counted as `other`.
const STAGES: [&str; 18] = [
    "queue", "fetch", "decode", "prescale", "matte", "index", "model", "assign", "table", "recolor", "measure",
    "effect", "encode", "preview", "gallery", "remote", "store", "total",
];

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];

/// Every count and time of the process. Cheap to clone; every clone counts in the same place.
#[derive(Debug, Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    registry: Registry,
    features: Features,
    /// Finished jobs and refused callers, for the JSON form.
    succeeded: AtomicU64,
    errors: AtomicU64,
    cached: AtomicU64,
    cache_ttl_ms: AtomicU64,
    requests: Family<Two, Counter>,
    deliveries: Family<One, Counter>,
    jobs: Family<Two, Counter>,
    variations: Family<One, Counter>,
    backgrounds: Family<Two, Counter>,
    model_provider: Family<One, Gauge>,
    model_refused: Family<One, Gauge>,
    stage_seconds: Family<Two, Histogram>,
    job_seconds: Family<One, Histogram>,
    first_variation_seconds: Histogram,
    queue_seconds: Histogram,
    uploads: Counter,
    upload_bytes: Counter,
    upload_seconds: Histogram,
    storage_retries: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    layers: Family<Two, Counter>,
    saved_seconds: Counter<f64, AtomicU64>,
    cache_drops: Counter,
    merged: Counter,
    classes: Family<Two, Gauge>,
    class_refusals: Family<Two, Counter>,
    class_wait_seconds: Family<One, Counter<f64, AtomicU64>>,
    breakers: Family<One, Gauge>,
    auth_refusals: Family<One, Counter>,
    memory_cleanups: Counter,
    levels: Levels,
}

/// The gauges.
#[derive(Debug, Default)]
struct Levels {
    queue_depth: Gauge,
    jobs_running: Gauge,
    budget_bytes: Gauge,
    in_use_bytes: Gauge,
    resident_bytes: Gauge,
    cache_size: Gauge,
    cache_max_size: Gauge,
    result_cache_entries: Gauge,
    result_cache_bytes: Gauge,
    result_cache_max_bytes: Gauge,
    uptime_seconds: Gauge,
}

/// What is true now; read before every rendering and given to [`Metrics::observe`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Jobs that wait.
    pub queue_depth: u64,
    /// Jobs that have been let in and are not done.
    pub jobs_running: u64,
    /// Memory that all jobs together may take, bytes.
    pub budget_bytes: u64,
    /// The part of it that is taken, bytes.
    pub in_use_bytes: u64,
    /// What the process holds, bytes.
    pub resident_bytes: u64,
    /// Entries in the cache.
    pub cache_size: u64,
    /// The most it takes.
    pub cache_max_size: u64,
    /// How long an entry stays, milliseconds.
    pub cache_ttl_ms: u64,
    /// How often storage had to be asked again since the start.
    pub storage_retries: u64,
}

/// What became of a variation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariationResult {
    /// It was computed and stored.
    Made,
    /// It could not be made.
    Failed,
    /// An earlier delivery had stored it.
    Adopted,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A histogram over [`SECONDS`].
fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// All at zero; the uptime begins.
    pub fn new() -> Self {
        let mut shared = Shared {
            start: Instant::now(),
            registry: Registry::with_prefix("concept"),
            features: Features::default(),
            succeeded: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            cache_ttl_ms: AtomicU64::new(0),
            requests: Family::default(),
            deliveries: Family::default(),
            jobs: Family::default(),
            variations: Family::default(),
            backgrounds: Family::default(),
            model_provider: Family::default(),
            model_refused: Family::default(),
            stage_seconds: Family::new_with_constructor(seconds),
            job_seconds: Family::new_with_constructor(seconds),
            first_variation_seconds: seconds(),
            queue_seconds: seconds(),
            uploads: Counter::default(),
            upload_bytes: Counter::default(),
            upload_seconds: seconds(),
            storage_retries: Counter::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            layers: Family::default(),
            saved_seconds: Counter::default(),
            cache_drops: Counter::default(),
            merged: Counter::default(),
            classes: Family::default(),
            class_refusals: Family::default(),
            class_wait_seconds: Family::default(),
            breakers: Family::default(),
            auth_refusals: Family::default(),
            memory_cleanups: Counter::default(),
            levels: Levels::default(),
        };
        shared.register();
        Self { shared: Arc::new(shared) }
    }

    /// A request was answered. `route` is the pattern that matched, never the path.
    pub fn request(&self, route: &'static str, status: u16) {
        let class = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.shared.requests.get_or_create(&[("route", route), ("status", class)]).inc();
    }

    /// A message was dealt with; `outcome` says how, such as `acknowledged`.
    pub fn delivery(&self, outcome: &'static str) {
        self.shared.deliveries.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A job ended: counts it, its variations and its times, those of its stages included. What is in its timings must not
    /// be given to [`Metrics::stage`] as well.
    pub fn job_finished(&self, job: &JobLine) {
        let shared = &self.shared;
        let mode = mode_name(job.mode);
        shared.jobs.get_or_create(&[("mode", mode), ("outcome", job.outcome.name())]).inc();
        for (result, count) in [
            (VariationResult::Made, job.variations.saturating_sub(job.failed + job.adopted)),
            (VariationResult::Failed, job.failed),
            (VariationResult::Adopted, job.adopted),
        ] {
            // What is left to the next delivery is not made yet, and duplicates have been counted.
            let counts = matches!(job.outcome, Outcome::Complete | Outcome::Partial | Outcome::Failed);
            self.variations(result, if counts && !job.cached { count } else { 0 });
        }
        if let Some(method) = &job.background {
            // A closed set, whatever a manifest says.
            let known = ["alpha", "classic", "model", "none"].into_iter().find(|known| known == method);
            let sure = if job.background_flagged { "false" } else { "true" };
            shared.backgrounds.get_or_create(&[("method", known.unwrap_or("other")), ("sure", sure)]).inc();
        }
        let success = matches!(job.outcome, Outcome::Complete | Outcome::Duplicate);
        (if success { &shared.succeeded } else { &shared.errors }).fetch_add(1, Ordering::Relaxed);
        if job.merged {
            shared.merged.inc();
        }
        if job.cached {
            shared.cached.fetch_add(1, Ordering::Relaxed);
        }
        let total = job.total_ms / 1000.0;
        shared.job_seconds.get_or_create(&[("mode", mode)]).observe(total);
        shared.queue_seconds.observe(job.queue_ms / 1000.0);
        if let Some(first) = job.first_variation_ms {
            shared.first_variation_seconds.observe(first / 1000.0);
        }
        shared.features.record(render_feature(mode), total, !success);
        for (stage, ms) in &job.timings {
            // The whole is no stage.
            if stage != "total" {
                self.stage(stage, job.mode, ms / 1000.0);
            }
        }
    }

    /// The default model runs on this provider, since those refused; on none while it is not loaded.
    pub fn model_provider(&self, provider: Option<Provider>, refused: &[Provider]) {
        for known in Provider::ALL {
            let label = [("provider", known.name())];
            self.shared.model_provider.get_or_create(&label).set((provider == Some(known)).into());
            self.shared.model_refused.get_or_create(&label).set(refused.contains(&known).into());
        }
    }

    /// `count` variations had this result.
    pub fn variations(&self, result: VariationResult, count: u64) {
        let word = match result {
            VariationResult::Made => "made",
            VariationResult::Failed => "failed",
            VariationResult::Adopted => "adopted",
        };
        self.shared.variations.get_or_create(&[("result", word)]).inc_by(count);
    }

    /// A stage took that long.
    pub fn stage(&self, stage: &str, mode: Option<Mode>, seconds: f64) {
        let stage = known(stage);
        let labels = [("mode", mode_name(mode)), ("stage", stage)];
        self.shared.stage_seconds.get_or_create(&labels).observe(seconds);
        self.shared.features.record(stage, seconds, false);
    }

    /// A stage failed after that long.
    pub fn stage_failed(&self, stage: &str, seconds: f64) {
        self.shared.features.record(known(stage), seconds, true);
    }

    /// An object was stored.
    pub fn upload(&self, bytes: u64, seconds: f64) {
        self.shared.uploads.inc();
        self.shared.upload_bytes.inc_by(bytes);
        self.shared.upload_seconds.observe(seconds);
        self.shared.features.record("upload", seconds, false);
    }

    /// An answer was found in the cache.
    pub fn cache_hit(&self) {
        self.shared.cache_hits.inc();
    }

    /// An answer was looked for in the cache and not found.
    pub fn cache_miss(&self) {
        self.shared.cache_misses.inc();
    }

    /// Takes over what the cache of results has counted.
    pub fn observe_results(&self, results: &ResultCache) {
        let shared = &self.shared;
        for layer in Layer::ALL {
            let (hits, misses) = results.counts(layer);
            for (result, count) in [("hit", hits), ("miss", misses)] {
                let counter = shared.layers.get_or_create(&[("layer", layer.name()), ("result", result)]);
                counter.inner().fetch_max(count, Ordering::Relaxed);
            }
        }
        if let Some(others) = results.shared() {
            let stats = others.stats();
            for (result, count) in [
                ("hit", stats.hits),
                ("miss", stats.misses),
                ("error", stats.errors),
                ("skipped", stats.skipped),
                ("put", stats.puts),
            ] {
                let counter = shared.layers.get_or_create(&[("layer", "redis"), ("result", result)]);
                counter.inner().fetch_max(count, Ordering::Relaxed);
            }
            self.breaker("redis", stats.state);
        }
        let now = results.occupancy();
        let saved = now.saved_ms as f64 / 1e3 - shared.saved_seconds.get();
        shared.saved_seconds.inc_by(saved.max(0.0));
        shared.cache_drops.inner().fetch_max(now.dropped, Ordering::Relaxed);
        let levels = &shared.levels;
        for (gauge, value) in [
            (&levels.result_cache_entries, now.entries),
            (&levels.result_cache_bytes, now.bytes),
            (&levels.result_cache_max_bytes, now.max_bytes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Where a breaker stands: 0 closed, 1 half open, 2 open.
    pub fn breaker(&self, of: &'static str, state: BreakerState) {
        let level = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.shared.breakers.get_or_create(&[("of", of)]).set(level);
    }

    /// What a class of work looks like: slots in use, jobs that wait, and what was counted so far.
    pub fn observe_class(&self, class: &'static str, now: &FairOccupancy) {
        let shared = &self.shared;
        let as_level = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in [("slots", now.slots), ("in_use", now.in_use), ("waiting", now.waiting)] {
            shared.classes.get_or_create(&[("class", class), ("state", state)]).set(as_level(count));
        }
        for (reason, count) in [("full", now.refused), ("timeout", now.timed_out)] {
            let counter = shared.class_refusals.get_or_create(&[("class", class), ("reason", reason)]);
            counter.inner().fetch_max(count, Ordering::Relaxed);
        }
        let waited = shared.class_wait_seconds.get_or_create(&[("class", class)]);
        waited.inc_by((now.waited.as_secs_f64() - waited.get()).max(0.0));
    }

    /// A caller was turned away; `reason` is one of the words of the check that did it.
    pub fn auth_refused(&self, reason: &'static str) {
        self.shared.auth_refusals.get_or_create(&[("reason", reason)]).inc();
        self.shared.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Caches were dropped and memory was given back.
    pub fn memory_cleanup(&self) {
        self.shared.memory_cleanups.inc();
    }

    /// Takes over what is true now.
    pub fn observe(&self, now: &Now) {
        let levels = &self.shared.levels;
        for (gauge, value) in [
            (&levels.queue_depth, now.queue_depth),
            (&levels.jobs_running, now.jobs_running),
            (&levels.budget_bytes, now.budget_bytes),
            (&levels.in_use_bytes, now.in_use_bytes),
            (&levels.resident_bytes, now.resident_bytes),
            (&levels.cache_size, now.cache_size),
            (&levels.cache_max_size, now.cache_max_size),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.shared.cache_ttl_ms.store(now.cache_ttl_ms, Ordering::Relaxed);
        // The storage counts for itself; a counter never falls.
        self.shared.storage_retries.inner().fetch_max(now.storage_retries, Ordering::Relaxed);
    }

    /// Everything as text, of the type [`TEXT_CONTENT_TYPE`]; readers of Prometheus's older format take it, too.
    pub fn render_text(&self) -> String {
        self.shared.levels.uptime_seconds.set(i64::try_from(self.uptime_seconds()).unwrap_or(i64::MAX));
        let mut text = String::with_capacity(16 << 10);
        if encode(&mut text, &self.shared.registry).is_err() {
            // Writing into a string cannot fail; what there is stays readable.
            let _ = writeln!(text, "# EOF");
        }
        text
    }

    /// The figures that dashboards of the predecessor read. Times are milliseconds, rates are between 0 and 1. A request is a
    /// job that ended, or a caller that was turned away.
    pub fn render_json(&self) -> Value {
        let shared = &self.shared;
        let [success, error, cached] =
            [&shared.succeeded, &shared.errors, &shared.cached].map(|count| count.load(Ordering::Relaxed));
        let (hits, misses) = (shared.cache_hits.get(), shared.cache_misses.get());
        json!({
            "uptime": self.uptime_seconds(),
            "requests": { "total": success + error, "success": success, "error": error, "cached": cached },
            "cacheHitRate": share(hits, hits + misses),
            "errorRate": share(error, success + error),
            "cache": {
                "size": shared.levels.cache_size.get(),
                "maxSize": shared.levels.cache_max_size.get(),
                "ttlMs": shared.cache_ttl_ms.load(Ordering::Relaxed),
            },
            "features": shared.features.to_json(),
        })
    }

    fn uptime_seconds(&self) -> u64 {
        self.shared.start.elapsed().as_secs()
    }
}

impl Shared {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests answered, by route and class of status", self.requests.clone());
        r.register("deliveries", "Messages dealt with, by outcome", self.deliveries.clone());
        r.register("jobs", "Jobs that ended, by outcome and mode", self.jobs.clone());
        r.register("variations", "Variations, by what became of them", self.variations.clone());
        r.register(
            "backgrounds",
            "Backgrounds looked at, by method and whether that was sure",
            self.backgrounds.clone(),
        );
        r.register("model_provider", "What runs the model: 1 for the one that does", self.model_provider.clone());
        let refused =
            "Why not another: 1 for each that was tried before it and refused, in words in the log and /ready";
        r.register("model_refused", refused, self.model_refused.clone());
        r.register("stage_seconds", "Time of a stage, summed over threads", self.stage_seconds.clone());
        r.register("job_seconds", "Time from a job's arrival to its end", self.job_seconds.clone());
        let first = "Time from a job's arrival until its first variation is stored";
        r.register("first_variation_seconds", first, self.first_variation_seconds.clone());
        r.register("queue_seconds", "Time a job waits for room", self.queue_seconds.clone());
        r.register("uploads", "Objects stored", self.uploads.clone());
        r.register("upload_bytes", "Bytes stored", self.upload_bytes.clone());
        r.register("upload_seconds", "Time to store an object", self.upload_seconds.clone());
        r.register("storage_retries", "Requests to storage that were repeated", self.storage_retries.clone());
        r.register("cache_hits", "Answers found in the cache", self.cache_hits.clone());
        r.register("cache_misses", "Answers not found in the cache", self.cache_misses.clone());
        r.register("result_cache", "Pictures, mattes and files looked for, by layer and result", self.layers.clone());
        r.register("saved_seconds", "Work that caches spared, summed over threads", self.saved_seconds.clone());
        r.register(
            "result_cache_drops",
            "Times that all results were dropped for want of memory",
            self.cache_drops.clone(),
        );
        r.register("merged", "Jobs that waited for another one of the same work", self.merged.clone());
        r.register("class", "Slots and waiting jobs of classes of work", self.classes.clone());
        r.register("class_refusals", "Jobs that a class did not take, by reason", self.class_refusals.clone());
        r.register(
            "class_wait_seconds",
            "Time that jobs of a class waited for their turn",
            self.class_wait_seconds.clone(),
        );
        r.register("breaker", "Circuit breakers: 0 closed, 1 half open, 2 open", self.breakers.clone());
        r.register("auth_refusals", "Callers turned away, by reason", self.auth_refusals.clone());
        r.register("memory_cleanups", "Times that memory was above its threshold", self.memory_cleanups.clone());
        let levels = &self.levels;
        r.register("queue_depth", "Jobs that wait", levels.queue_depth.clone());
        r.register("jobs_running", "Jobs that have been let in", levels.jobs_running.clone());
        r.register("admission_budget_bytes", "Memory that jobs may take", levels.budget_bytes.clone());
        r.register("admission_used_bytes", "Memory that running jobs have been granted", levels.in_use_bytes.clone());
        r.register("resident_bytes", "Memory that the process holds", levels.resident_bytes.clone());
        r.register("cache_size", "Entries in the cache", levels.cache_size.clone());
        r.register("cache_max_size", "Entries that the cache takes", levels.cache_max_size.clone());
        r.register("result_cache_entries", "Entries in the cache of results", levels.result_cache_entries.clone());
        r.register("result_cache_bytes", "Memory that they take", levels.result_cache_bytes.clone());
        r.register("result_cache_max_bytes", "The most that they may take", levels.result_cache_max_bytes.clone());
        r.register("uptime_seconds", "Time since the start", levels.uptime_seconds.clone());
    }
}

/// The stage's name if it is one that is known.
fn known(stage: &str) -> &'static str {
    STAGES.into_iter().find(|known| *known == stage).unwrap_or("other")
}

/// The feature that a mode's jobs are counted under.
fn render_feature(mode: &'static str) -> &'static str {
    match mode {
        "soft" => "render.soft",
        "transfer" => "render.transfer",
        "faithful" => "render.faithful",
        "exact" => "render.exact",
        "tint" => "render.tint",
        _ => "render.none",
    }
}

/// `part` of `whole`, 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests;
