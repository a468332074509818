//! `pull`: the worker on a pull subscription.

use std::process::ExitCode;
use std::time::Duration;

use concept_worker::service::pull::{self, PullOptions};

use super::worker::{asked_to_stop, open, stage};
use super::{CliError, PullArgs};

/// Runs the command.
pub fn pull(args: &PullArgs) -> Result<ExitCode, CliError> {
    let stage = stage()?;
    let config = &stage.config;
    let subscription =
        args.subscription.as_deref().or(config.subscription.get()).ok_or_else(|| {
            CliError::Usage("no subscription: give --subscription, or set CONCEPT_SUBSCRIPTION".into())
        })?;
    let mut options = PullOptions::new(subscription);
    options.emulator = stage.surroundings.pubsub_emulator.clone();
    options.grace = Duration::from_secs(config.shutdown_seconds);
    let summary = stage.runtime.block_on(async {
        let worker = open(config, &stage.surroundings).await?;
        worker.models().prepare().await.map_err(|error| CliError::Failed(error.to_string()))?;
        // Twice as many as compute: while some wait for storage, others have their turn. Memory is admission's affair.
        options.max_outstanding_messages = 2 * worker.processors();
        tracing::info!(subscription, outstanding = options.max_outstanding_messages, "pulling");
        let (handler, drained) = (worker.clone(), worker.clone());
        let handle = move |delivery| {
            let worker = handler.clone();
            async move { worker.deliver(delivery, None, None).await.disposition }
        };
        let shutdown = async move {
            asked_to_stop().await;
            drained.drain();
        };
        let pulled = pull::run(options, handle, shutdown).await;
        worker.drain();
        worker.drained().await;
        pulled.map_err(|error| CliError::Failed(error.to_string()))
    })?;
    tracing::info!(?summary, "stopped");
    stage.runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}
