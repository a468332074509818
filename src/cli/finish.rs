//! Where `render` and `job` meet: run the job, show it, say what came of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use concept_worker::config::Config;
use concept_worker::pipeline::base::Inputs;
use concept_worker::pipeline::job::Job;
use concept_worker::pipeline::manifest::{Manifest, Source, State, VariationEntry};
use concept_worker::pipeline::run::{self, RunError, RunOptions};
use indicatif::{HumanBytes, MultiProgress};

use super::input::Input;
use super::progress::Progress;
use super::{CliError, note, print};

/// A job ready to run: everything checked that can be checked without decoding.
pub struct Run {
    pub job: Job,
    /// The picture's bytes.
    pub source: Vec<u8>,
    /// The bytes of the picture that takes the background's place.
    pub fill: Option<Vec<u8>>,
    /// The folder of the results; exists.
    pub out: PathBuf,
    pub options: RunOptions,
    /// Print the manifest and nothing else.
    pub json: bool,
    /// Print errors only.
    pub quiet: bool,
}

/// Runs the job and prints the summary or the manifest. The exit code is 0 only when every variation was made.
pub fn run(run: &Run, screen: &MultiProgress) -> Result<ExitCode, CliError> {
    tracing::info!(
        "{}: {} bytes, {} threads",
        Source::shown(&run.job.source),
        run.source.len(),
        rayon::current_num_threads()
    );
    let progress = Progress::new(screen, run.quiet || run.json);
    let inputs = Inputs { picture: &run.source, fill: run.fill.as_deref() };
    let result = run::run(&run.job, inputs, &run.out, &run.options, &|event| progress.observe(event));
    progress.finish();
    let manifest = result.map_err(|error| failure(&error, run.job.source.as_ref()))?;
    let code = report(&manifest, &run.out.display().to_string(), run.json, run.quiet)?;
    let gallery = run.out.join("gallery.html");
    if !run.json && !run.quiet && manifest.state != State::Failed && run.options.gallery && gallery.exists() {
        print(&format!("open {}\n", gallery.display()))?;
    }
    Ok(code)
}

/// Prints the summary or the manifest of a job whose results lie in `place`, and errors. The exit code is 0 only when every
/// variation was made.
pub fn report(manifest: &Manifest, place: &str, json: bool, quiet: bool) -> Result<ExitCode, CliError> {
    if let Some(background) = &manifest.background {
        background.notes.iter().for_each(|text| note(&format!("note: {text}")));
        // Nobody should find out by the time it takes that a GPU was not used.
        if let (Some(model), Some(provider), false) = (&background.model, &background.provider, json || quiet) {
            let why = background.provider_reason.as_deref().unwrap_or_default();
            note(&format!("the model {model} ran on {provider} ({why})"));
        }
    }
    if let Some(error) = &manifest.error {
        note(&format!("error: {}: {}", manifest.source.uri, error.message));
    }
    let failed = failures(manifest);
    if !failed.is_empty() {
        note(&format!("error: {} of {} files could not be made:", failed.len(), manifest.variations.len()));
        failed.iter().for_each(|line| note(line));
    }
    if json {
        let json = serde_json::to_string_pretty(manifest)
            .map_err(|error| CliError::Failed(format!("cannot write the manifest as JSON: {error}")))?;
        print(&(json + "\n"))?;
    } else if !quiet {
        print(&summary(manifest, place))?;
    }
    Ok(if manifest.state == State::Complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What a person wants to know: how many, where, how long, how much memory.
fn summary(manifest: &Manifest, out: &str) -> String {
    let made = || manifest.variations.iter().filter(|entry| entry.error.is_none());
    let bytes: u64 = made().map(|entry| entry.bytes).sum();
    let text = match made().count() {
        0 => format!("no files in {out}, only {out}/manifest.json, which says why\n"),
        1 => format!("1 file, {}, in {out}\n", HumanBytes(bytes)),
        count => format!("{count} files, {}, in {out}\n", HumanBytes(bytes)),
    };
    let seconds = manifest.timings_ms.get("total").copied().unwrap_or(0.0) / 1000.0;
    text + &format!("{seconds:.2} s, peak memory {}\n", HumanBytes(manifest.peak_bytes))
}

/// One line for each file that is missing.
fn failures(manifest: &Manifest) -> Vec<String> {
    let line = |entry: &VariationEntry| {
        let name = entry.palette.as_deref().or(entry.effect.as_deref()).unwrap_or(&entry.object);
        entry.error.as_ref().map(|error| format!("  {name}: {}", error.message))
    };
    manifest.variations.iter().filter_map(line).collect()
}

/// Which exit code an error of the engine deserves: the job's author can mend a job, not a full disk.
pub fn failure(error: &RunError, picture: &Path) -> CliError {
    match error {
        RunError::Job(problem) => CliError::Usage(problem.clone()),
        RunError::Picture(problem) => CliError::Failed(format!("{}: {problem}", picture.display())),
        _ => CliError::Failed(error.to_string()),
    }
}

/// How a picture is read.
pub fn source_input<'a>(argument: &'a str, config: &Config) -> Input<'a> {
    let too_large = "make it smaller or raise CONCEPT_MAX_SOURCE_BYTES";
    Input { argument, limit: config.max_source_bytes, too_large }
}
