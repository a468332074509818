//! `job`: one job message, run as the worker would.
//!
//! With results in a folder of this machine the engine writes them, with a gallery; with results in Cloud Storage the worker
//! does, with everything that it keeps to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use concept_worker::config::{Config, StorageSetting};
use concept_worker::pipeline::identity::{Identity, sha256_hex};
use concept_worker::pipeline::job::{Job, MAX_JOB_BYTES};
use concept_worker::pipeline::run;
use concept_worker::service::failure::{Class, Failure};
use concept_worker::service::worker::{Given, Keep, Surroundings};

use super::finish::{self, Run};
use super::input::{self, Input};
use super::{CliError, JobArgs, models, start, worker};

/// Runs the command.
pub fn job(args: &JobArgs) -> Result<ExitCode, CliError> {
    let (environment, screen) = start::start(&args.common)?;
    let config = environment.config;
    let job = read(&args.job)?;
    let storage = config.storage.clone().or_default(false);
    match (&storage, &args.out) {
        (StorageSetting::Memory, _) => {
            return Err(CliError::Usage(
                "CONCEPT_STORAGE=memory would be empty, and gone with this command; set it to local:DIR or gcs".into(),
            ));
        }
        (StorageSetting::Gcs, None) => return into_the_cloud(args, job, &config),
        _ => {}
    }
    let destination = match &args.out {
        Some(_) => None,
        None => Some(destination(&job, &config)?),
    };
    let mut options = config.run_options();
    options.gallery = !args.show.no_gallery;
    options.segmenter = models::segmenter(&config)?;
    run::admit(&job, &options).map_err(|error| CliError::Usage(error.to_string()))?;
    let source = match is_far(&job.source, &storage) {
        true => fetch(&job.source, &config)?,
        false => read_source(&job, &config)?,
    };
    let fill = match job.background.fill_picture() {
        Some(address) if is_far(address, &storage) => Some(fetch(address, &config)?),
        Some(address) => Some(finish::source_input("background.fill", &config).read(&source_path(
            "background.fill",
            address,
            &config,
        )?)?),
        None => None,
    };
    let out = match (&args.out, destination) {
        (Some(out), _) => out.clone(),
        (None, destination) => own_folder(&destination.unwrap_or_default(), &job, &source, fill.as_deref(), &config)?,
    };
    input::make_folder(if args.out.is_some() { "--out" } else { "destination" }, &out)?;
    finish::run(&Run { job, source, fill, out, options, json: args.show.json, quiet: args.common.quiet }, &screen)
}

/// The worker runs the job, and stores what it makes where the job says.
fn into_the_cloud(args: &JobArgs, job: Job, config: &Config) -> Result<ExitCode, CliError> {
    let given = match is_far(&job.source, &StorageSetting::Gcs) {
        true => None,
        false => Some(Given { bytes: read_source(&job, config)?, permit: None, place: None }),
    };
    let runtime = worker::runtime()?;
    let finished = runtime.block_on(async {
        let worker = worker::open(config, &surroundings()).await?;
        let answer = worker.render(job, given, Keep::Stored, None).await;
        answer.result.map_err(|failure| failed(&failure))
    })?;
    finish::report(&finished.manifest, &finished.folder.to_string(), args.show.json, args.common.quiet)
}

/// A picture that is no file of this machine, from where the worker would read it.
fn fetch(source: &str, config: &Config) -> Result<Vec<u8>, CliError> {
    // Of local storage nothing is wanted, not even its folder.
    let storage = match config.storage.clone().or_default(false) {
        StorageSetting::Local(_) => StorageSetting::Memory,
        other => other,
    };
    let config = &Config { storage, ..config.clone() };
    worker::runtime()?.block_on(async {
        let worker = worker::open(config, &surroundings()).await?;
        worker.picture(source).await.map_err(|failure| failed(&failure))
    })
}

fn surroundings() -> Surroundings {
    Surroundings::read(|name| std::env::var(name).ok())
}

/// Whether a picture is no file of this machine.
fn is_far(source: &str, storage: &StorageSetting) -> bool {
    match source.split_once("://") {
        Some(("https" | "http", _)) => true,
        Some(("gs", _)) => *storage == StorageSetting::Gcs,
        _ => false,
    }
}

fn read_source(job: &Job, config: &Config) -> Result<Vec<u8>, CliError> {
    finish::source_input("source", config).read(&source_path("source", &job.source, config)?)
}

/// What the sender can mend is a matter of usage.
fn failed(failure: &Failure) -> CliError {
    match failure.class {
        Class::BadJob | Class::BadSource | Class::SourceForbidden | Class::DestinationForbidden => {
            CliError::Usage(failure.message.clone())
        }
        _ => CliError::Failed(failure.message.clone()),
    }
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
fn source_path(field: &str, source: &str, config: &Config) -> Result<PathBuf, CliError> {
    let usage = |problem: String| CliError::Usage(format!("{field}: {problem}"));
    match source.split_once("://") {
        None if source == "-" => Err(usage("a job reads no picture from standard input; name a file".into())),
        None => Ok(source.into()),
        Some(("gs", _)) => input::local_object(&storage_root(config, source)?, source).map_err(usage),
        Some(("file", _)) => input::file_address(source).map_err(usage),
        Some((scheme, _)) => Err(usage(format!(
            "{scheme}:// is nothing that pictures are read from; name a file, or use gs:// or https://"
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
fn own_folder(
    destination: &Path,
    job: &Job,
    source: &[u8],
    fill: Option<&[u8]>,
    config: &Config,
) -> Result<PathBuf, CliError> {
    let content = run::content_of(&sha256_hex(source), fill.map(sha256_hex).as_deref());
    let id = Identity::new(job, &content, &config.run_options()).job_id;
    let id = input::parse_name(&id).map_err(|problem| CliError::Usage(format!("the job's job_id: it {problem}")))?;
    Ok(destination.join(job.user_id.as_deref().unwrap_or("_")).join(id))
}

fn storage_root(config: &Config, uri: &str) -> Result<PathBuf, CliError> {
    match config.storage.clone().or_default(false) {
        StorageSetting::Local(root) => Ok(root),
        other => Err(CliError::Usage(format!(
            "{uri}: CONCEPT_STORAGE={} has no files on this machine; set CONCEPT_STORAGE=local:DIR, where {} is the file \
             DIR/bucket/name",
            String::from(other),
            "gs://bucket/name"
        ))),
    }
}
