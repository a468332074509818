//! Spans to OpenTelemetry, over OTLP with HTTP and protobuf.
//!
//! Where to, with which headers and limits, is said by the variables that OpenTelemetry defines (OTEL_EXPORTER_OTLP_*,
//! OTEL_BSP_*, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES). Finished spans wait in a bounded queue for a thread of their own;
//! what does not fit is dropped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::{OWN_TARGET, ServiceFacts};

/// The shortest time between two lines about an export that failed.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// The export of spans; ends with [`Export::shut_down`].
pub struct Export {
    provider: SdkTracerProvider,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

/// The layer that hands spans over, and what ends it.
pub fn layer<S>(facts: &ServiceFacts) -> Result<(impl Layer<S> + Send + Sync + use<S>, Export), String>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let exporter = OtlpExporter::builder()
        .with_http()
        .build()
        .map_err(|error| format!("cannot export spans: {error}; check the variables OTEL_EXPORTER_OTLP_*"))?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Complaining::new(exporter))
        .with_resource(resource(facts))
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        .with_location(false)
        .with_threads(false);
    // The exporter's own connection is traced by its libraries: exporting that would never end.
    let own = Targets::new().with_target(OWN_TARGET, LevelFilter::INFO);
    Ok((layer.with_filter(own), Export { provider }))
}

/// Who sends the spans: the service's name, unless a variable says otherwise.
fn resource(facts: &ServiceFacts) -> Resource {
    let named = Resource::builder().build();
    let version = KeyValue::new("service.version", facts.version.clone());
    let unnamed = named.get(&Key::new("service.name")).is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(version);
    if unnamed { builder.with_service_name(facts.name.clone()).build() } else { builder.build() }
}

impl Export {
    /// Sends what is left and ends, within `limit`.
    pub fn shut_down(self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        // On a thread of its own: the HTTP client may not be taken apart on a thread that drives async work, and an
        // exporter that hangs in a connection must not hold up the end.
        let ending = thread::Builder::new().name("trace-end".into()).spawn(move || {
            // A failure has been logged by the exporter.
            let _ = self.provider.shutdown_with_timeout(limit);
            let _ = done.send(());
        });
        if ending.is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

/// An exporter whose failures are logged, once a minute at most.
#[derive(Debug)]
struct Complaining {
    exporter: OtlpExporter,
    start: Instant,
    /// Milliseconds after `start` from which on the next failure is logged.
    quiet_until: AtomicU64,
    lost: AtomicU64,
}

impl Complaining {
    fn new(exporter: OtlpExporter) -> Self {
        Self { exporter, start: Instant::now(), quiet_until: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    fn failed(&self, spans: usize, error: &impl fmt::Display) {
        self.lost.fetch_add(spans as u64, Ordering::Relaxed);
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        let next = now.saturating_add(COMPLAINT_PAUSE.as_millis() as u64);
        let turn = self.quiet_until.compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed);
        if now >= quiet_until && turn.is_ok() {
            let spans = self.lost.swap(0, Ordering::Relaxed);
            tracing::warn!(event = "spans_lost", spans, %error, "{spans} spans could not be exported; the work is not affected");
        }
    }
}

impl SpanExporter for Complaining {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let done = self.exporter.export(batch).await;
        if let Err(error) = &done {
            self.failed(spans, error);
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
