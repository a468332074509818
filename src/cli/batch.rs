//! `batch`: the worker on a file of jobs.

use std::path::Path;
use std::process::ExitCode;

use concept_worker::service::batch::{self, Shard};
use concept_worker::service::storage::Location;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::input::Input;
use super::worker::{asked_to_stop, open, stage};
use super::{BatchArgs, CliError};

/// Runs the command. The exit code is 0 only when every job of this task was made in full.
pub fn batch(args: &BatchArgs) -> Result<ExitCode, CliError> {
    let stage = stage()?;
    let shard = Shard::read(|name| std::env::var(name).ok()).map_err(CliError::Usage)?;
    let summary = stage.runtime.block_on(async {
        let worker = open(&stage.config, &stage.surroundings).await?;
        worker.models().prepare().await.map_err(|error| CliError::Failed(error.to_string()))?;
        let jobs = match args.jobs.strip_prefix("gs://") {
            Some(_) => {
                let location =
                    Location::parse(&args.jobs).map_err(|error| CliError::Usage(format!("JOBS.ndjson: {error}")))?;
                batch::read(worker.storage(), &location)
                    .await
                    .map_err(|error| CliError::Failed(format!("JOBS.ndjson: {error}")))?
            }
            None => {
                let too_large = "split it";
                Input { argument: "JOBS.ndjson", limit: batch::MAX_BYTES, too_large }.read(Path::new(&args.jobs))?
            }
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs, {elapsed}") {
            bar.set_style(style);
        }
        let progress = |through: u64, total: u64| {
            bar.set_length(total);
            bar.set_position(through);
        };
        // The file stays in memory until the end.
        let size = jobs.len() as u64;
        worker.set_aside(size).map_err(|_| {
            let problem = "leaves no memory for jobs; split it, or give the worker more memory";
            CliError::Failed(format!("JOBS.ndjson has {size} bytes, which {problem}"))
        })?;
        let stopped = async {
            asked_to_stop().await;
            worker.drain();
            worker.drained().await;
        };
        // Twice as many as compute: while some wait for storage, others have their turn. Memory is admission's affair.
        let summary = batch::run(&worker, &jobs.into(), shard, 2 * worker.processors(), progress, stopped).await;
        bar.finish_and_clear();
        worker.drained().await;
        Ok::<_, CliError>(summary)
    })?;
    tracing::info!(
        task = shard.index,
        tasks = shard.count,
        jobs = summary.jobs,
        settled = summary.settled,
        failed = summary.failed,
        unsettled = summary.unsettled,
        "the batch is through: {} of {} jobs made in full",
        summary.settled - summary.failed,
        summary.jobs
    );
    stage.runtime.shutdown_background();
    Ok(if summary.is_success() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
