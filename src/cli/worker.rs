//! What `serve`, `pull` and `batch` share, and `job` where it needs the worker: settings, logs, the runtime, the signals that stop them.

use std::time::Duration;

use concept_worker::config::Config;
use concept_worker::service::log::{self, ServiceFacts};
use concept_worker::service::metrics::Metrics;
use concept_worker::service::worker::{Surroundings, Worker};
use tokio::runtime::Runtime;

use super::{CliError, start};

/// Threads that read and write; those that compute are the worker's own.
const ASYNC_THREADS: usize = 2;

/// What a long-running command needs.
pub struct Stage {
    pub config: Config,
    pub surroundings: Surroundings,
    pub runtime: Runtime,
    /// Logs flow while it lives.
    pub _log: log::Guard,
}

/// Reads the settings, starts the log and the runtime.
pub fn stage() -> Result<Stage, CliError> {
    let environment = start::environment()?;
    let surroundings = Surroundings::read(|name| std::env::var(name).ok());
    let config = environment.config;
    let guard =
        log::start(config.log_format, config.log_level, &ServiceFacts::from_environment()).map_err(CliError::Usage)?;
    for unknown in &environment.unknown {
        tracing::warn!("{unknown}");
    }
    Ok(Stage { config, surroundings, runtime: runtime()?, _log: guard })
}

/// Starts the runtime.
pub fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        // What the allocator keeps for a thread goes back when the thread ends.
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))
}

/// Opens the worker.
pub async fn open(config: &Config, surroundings: &Surroundings) -> Result<Worker, CliError> {
    Worker::open(config, surroundings, Metrics::new()).await.map_err(CliError::Usage)
}

/// Ready when the process is asked to stop: SIGTERM, or Ctrl-C.
pub async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = terminate.recv() => (),
                    _ = tokio::signal::ctrl_c() => (),
                }
            }
            // Without it the signal ends the process at once, and the next delivery goes on.
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be waited for");
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}
