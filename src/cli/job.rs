//! `job`: one job message, run as the worker would under local storage.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use concept_worker::config::{Config, StorageSetting};
use concept_worker::pipeline::identity::{Identity, sha256_hex};
use concept_worker::pipeline::job::{Job, MAX_JOB_BYTES};

use super::finish::{self, Run};
use super::input::{self, Input};
use super::{CliError, JobArgs, start};

/// Runs the command.
pub fn job(args: &JobArgs) -> Result<ExitCode, CliError> {
    let (environment, screen) = start::start(&args.common)?;
    let config = environment.config;
    let job = read(&args.job)?;
    finish::refuse_unavailable(&job)?;
    let source_path = source_path(&job.source, &config)?;
    let destination = match &args.out {
        Some(_) => None,
        None => Some(destination(&job, &config)?),
    };
    let source = finish::source_input("source", &config).read(&source_path)?;
    let out = match (&args.out, destination) {
        (Some(out), _) => out.clone(),
        (None, destination) => own_folder(&destination.unwrap_or_default(), &job, &source, &config)?,
    };
    input::make_folder(if args.out.is_some() { "--out" } else { "destination" }, &out)?;
    let mut options = config.run_options();
    options.gallery = !args.show.no_gallery;
    finish::run(&Run { job, source, out, options, json: args.show.json, quiet: args.common.quiet }, &screen)
}

/// The job in a file, strictly read.
fn read(path: &Path) -> Result<Job, CliError> {
    let input = Input {
        argument: "JOB.json",
        limit: MAX_JOB_BYTES as u64,
        too_large: "a job names its picture, it does not carry it",
    };
    let bytes = input.read(path)?;
    let wrong = |problem: String| CliError::Usage(format!("{}: {problem}", path.display()));
    Job::from_json(&bytes).map_err(|error| wrong(error.to_string()))
}

/// Where the picture is on this machine. Plain paths are relative to the current folder, like those of any flag.
fn source_path(source: &str, config: &Config) -> Result<PathBuf, CliError> {
    let usage = |problem: String| CliError::Usage(format!("source: {problem}"));
    match source.split_once("://") {
        None if source == "-" => Err(usage("a job reads no picture from standard input; name a file".into())),
        None => Ok(source.into()),
        Some(("gs", _)) => input::local_object(&storage_root(config, source)?, source).map_err(usage),
        Some(("file", _)) => input::file_address(source).map_err(usage),
        Some((scheme, _)) => Err(usage(format!(
            "{scheme}:// is not available in this version; download the picture and name the file, or use gs://"
        ))),
    }
}

/// Where the job wants its results, without the folders of user and job.
fn destination(job: &Job, config: &Config) -> Result<PathBuf, CliError> {
    let bucket = config.storage_bucket_palette.name().map(|bucket| format!("gs://{bucket}"));
    let Some(destination) = job.destination.clone().or(bucket) else {
        return Err(CliError::Usage(
            "the job names no destination; add --out DIR, a `destination`, or set CONCEPT_STORAGE_BUCKET_PALETTE"
                .into(),
        ));
    };
    let usage = |problem: String| CliError::Usage(format!("destination: {problem}"));
    match destination.split_once("://") {
        None if destination.is_empty() => Err(usage("is empty; name a folder or gs://bucket/prefix".into())),
        None => Ok(destination.into()),
        Some(("gs", _)) => input::local_object(&storage_root(config, &destination)?, &destination).map_err(usage),
        Some((scheme, _)) => Err(usage(format!("{scheme}:// is not supported; name a folder or gs://bucket/prefix"))),
    }
}

/// `<destination>/<user_id>/<job_id>`, as everywhere.
fn own_folder(destination: &Path, job: &Job, source: &[u8], config: &Config) -> Result<PathBuf, CliError> {
    let id = Identity::new(job, &sha256_hex(source), &config.run_options()).job_id;
    let id = input::parse_name(&id).map_err(|problem| CliError::Usage(format!("the job's job_id: it {problem}")))?;
    Ok(destination.join(job.user_id.as_deref().unwrap_or("_")).join(id))
}

fn storage_root(config: &Config, uri: &str) -> Result<PathBuf, CliError> {
    match config.storage.clone().or_default(false) {
        StorageSetting::Local(root) => Ok(root),
        other => Err(CliError::Usage(format!(
            "{uri}: CONCEPT_STORAGE={} is not available in this version; set CONCEPT_STORAGE=local:DIR, where {} is \
             the file DIR/bucket/name",
            String::from(other),
            "gs://bucket/name"
        ))),
    }
}
