//! `model`: what runs a model on this machine, and what makes it load faster here.

use std::process::ExitCode;

use concept_worker::config::Config;
use concept_worker::pipeline::segment::registry::check_file;
use concept_worker::pipeline::segment::runtime::{self, Provider};
use concept_worker::pipeline::segment::{Loaded, Segmenter};

use super::{CliError, ModelArgs, ModelCommand, models, note, print, start};

/// Runs the command.
pub fn model(command: &ModelCommand) -> Result<ExitCode, CliError> {
    let (ModelCommand::Check(args) | ModelCommand::Build(args)) = command;
    let (environment, _screen) = start::start(&args.common)?;
    let config = environment.config;
    let segmenter = models::segmenter(&config)?;
    match command {
        ModelCommand::Check(args) => check(args, &segmenter),
        ModelCommand::Build(args) => build(args, &segmenter, &config),
    }
}

fn check(args: &ModelArgs, segmenter: &Segmenter) -> Result<ExitCode, CliError> {
    let Loaded { name, sha256, choice, input, load_ms, .. } =
        segmenter.load(args.model.as_deref()).map_err(|error| CliError::Failed(error.to_string()))?;
    print(&format!(
        "{name}: {} of ONNX Runtime {}, input {}×{}, loaded in {load_ms:.0} ms\nsha256 {sha256}\nreason: {}\n",
        choice.provider,
        choice.runtime,
        input.0,
        input.1,
        choice.reason()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn build(args: &ModelArgs, segmenter: &Segmenter, config: &Config) -> Result<ExitCode, CliError> {
    let Some(cache) = segmenter.options().cache.clone() else {
        return Err(CliError::Usage("there is no folder to build into; set CONCEPT_MODEL_CACHE".into()));
    };
    let spec = segmenter.spec(args.model.as_deref()).map_err(|error| CliError::Usage(error.to_string()))?;
    let failed = |problem: String| CliError::Failed(format!("the model {}: {problem}", spec.name));
    let path = models::fetch(spec, config).map_err(failed)?;
    let file = check_file(spec, &path).map_err(failed)?;
    let mut built = 0;
    for &provider in &segmenter.options().providers {
        if provider == Provider::Cuda {
            continue;
        }
        match runtime::build(spec, &file, segmenter.options(), provider, &cache) {
            Ok(files) => {
                built += files.len();
                for file in files {
                    print(&format!("{provider}: {}\n", file.display()))?;
                }
            }
            Err(problem) => note(&format!("{provider}: not built: {problem}")),
        }
    }
    match built {
        0 => Err(failed("nothing could be built".into())),
        _ => Ok(ExitCode::SUCCESS),
    }
}
