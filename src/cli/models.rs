//! The models of commands that a person runs: loaded when a picture needs one.

use std::path::{Path, PathBuf};

use concept_worker::config::{Config, StorageSetting};
use concept_worker::pipeline::segment::Segmenter;
use concept_worker::pipeline::segment::registry::ModelSpec;
use concept_worker::service::models;
use concept_worker::service::storage::Location;
use concept_worker::service::worker::Surroundings;

use super::{CliError, input, worker};

/// The models of the settings.
pub fn segmenter(config: &Config) -> Result<Segmenter, CliError> {
    let registry = config.registry().map_err(CliError::Usage)?;
    let program = std::env::current_exe().ok();
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let options = config.runtime_options(named, program.as_deref());
    let config = config.clone();
    let fetch = move |spec: &ModelSpec| fetch(spec, &config);
    Ok(Segmenter::with(registry, options, Box::new(fetch), Box::new(|_, _| Ok(Box::new(())))))
}

/// The model's file on this machine.
pub fn fetch(spec: &ModelSpec, config: &Config) -> Result<PathBuf, String> {
    if !spec.location.starts_with("gs://") {
        return Ok(PathBuf::from(&spec.location));
    }
    match config.storage.clone().or_default(false) {
        StorageSetting::Local(root) => input::local_object(&root, &spec.location),
        StorageSetting::Memory => Err("CONCEPT_STORAGE=memory is empty; set it to gcs or local:DIR".into()),
        _ => bring(spec, config),
    }
}

/// Downloads it from Cloud Storage.
fn bring(spec: &ModelSpec, config: &Config) -> Result<PathBuf, String> {
    let location = Location::parse(&spec.location).map_err(|error| error.to_string())?;
    let cache = config.model_cache.get().map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = worker::runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let surroundings = Surroundings::read(|name| std::env::var(name).ok());
        let storage = models::storage(config, &surroundings).await?;
        models::bring(&location, &storage, Path::new(&cache)).await
    })
}
