//! The models that the settings name, and how they are run.

use std::path::{Path, PathBuf};

use super::Config;
use crate::pipeline::segment::registry::{ModelEntry, Registry};
use crate::pipeline::segment::runtime::{Library, RuntimeOptions};

/// The largest file of models that is read, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The name of the shared library.
const LIBRARY: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

impl Config {
    /// The registered models.
    ///
    /// # Errors
    /// A text that names the variable and what is wrong with it.
    pub fn registry(&self) -> Result<Registry, String> {
        let mut entries = match self.models.get() {
            None => Vec::new(),
            Some(text) => entries(text).map_err(|problem| format!("CONCEPT_MODELS: {problem}"))?,
        };
        match (self.model.get(), self.model_path.get()) {
            (Some(name), Some(path)) => {
                if entries.iter().any(|entry| entry.name == name) {
                    return Err(format!(
                        "CONCEPT_MODEL_PATH: {name:?} has a path in CONCEPT_MODELS already; unset one of the two"
                    ));
                }
                let sha256 = self.model_sha256.get().map(str::to_owned);
                entries.push(ModelEntry { name: name.into(), path: path.into(), sha256, ..ModelEntry::default() });
            }
            (None, Some(_)) => {
                return Err(
                    "CONCEPT_MODEL_PATH: which model is it? Set CONCEPT_MODEL to a preset, such as inspyrenet".into()
                );
            }
            (_, None) if self.model_sha256.get().is_some() => {
                return Err(
                    "CONCEPT_MODEL_SHA256: there is no CONCEPT_MODEL_PATH that it could be of; set it, or unset this"
                        .into(),
                );
            }
            (Some(name), None) if entries.iter().all(|entry| entry.name != name) => {
                return Err(format!("CONCEPT_MODEL: where is {name:?}? Set CONCEPT_MODEL_PATH to its ONNX file"));
            }
            (_, None) => {}
        }
        let registry =
            Registry::new(entries, self.model.get()).map_err(|problem| format!("CONCEPT_MODELS: {problem}"))?;
        if self.require_gpu && registry.names().is_empty() {
            return Err("CONCEPT_REQUIRE_GPU: no model is registered that would use it; set CONCEPT_MODEL".into());
        }
        if self.require_gpu && registry.default_model().is_none() {
            return Err(
                "CONCEPT_REQUIRE_GPU: which model is to prove the GPU at the start? Set CONCEPT_MODEL to one of \
                        CONCEPT_MODELS"
                    .into(),
            );
        }
        if self.require_gpu && self.execution_providers.get().iter().all(|provider| !provider.is_gpu()) {
            return Err("CONCEPT_REQUIRE_GPU: CONCEPT_EXECUTION_PROVIDERS names no GPU; add cuda".into());
        }
        Ok(registry)
    }

    /// How models are run. `named` is ORT_DYLIB_PATH, `program` the running program's file.
    pub fn runtime_options(&self, named: Option<PathBuf>, program: Option<&Path>) -> RuntimeOptions {
        let library = match self.onnxruntime.get().map(PathBuf::from).or(named) {
            Some(path) => Library::Named(path),
            None => {
                let beside = program.and_then(Path::parent).into_iter();
                Library::Search(
                    beside.flat_map(|folder| [folder.join(LIBRARY), folder.join("lib").join(LIBRARY)]).collect(),
                )
            }
        };
        RuntimeOptions {
            library,
            providers: self.execution_providers.get(),
            require_gpu: self.require_gpu,
            threads: self.model_threads,
            sessions: self.model_sessions,
            queue: self.model_queue,
            cache: self.model_cache.get().map(PathBuf::from),
        }
    }
}

/// Entries as JSON, or in a file.
fn entries(text: &str) -> Result<Vec<ModelEntry>, String> {
    let read;
    let json = if text.trim_start().starts_with('[') {
        text
    } else {
        let size = std::fs::metadata(text).map_err(|error| format!("cannot read {text}: {error}"))?.len();
        if size > MAX_BYTES {
            return Err(format!("{text} has {size} bytes; a list of models is small, check that it is one"));
        }
        read = std::fs::read_to_string(text).map_err(|error| format!("cannot read {text}: {error}"))?;
        &read
    };
    serde_json::from_str(json)
        .map_err(|error| format!("{error}; give an array such as [{{\"name\": \"u2net\", \"path\": \"u2net.onnx\"}}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::segment::runtime::Provider;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let mut value = serde_json::to_value(Config::default()).unwrap();
        for (name, text) in pairs {
            value[*name] = match *text {
                "true" => true.into(),
                text => text.into(),
            };
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn one_model_is_registered_by_name_and_path_and_more_as_json_or_in_a_file() {
        let one = config(&[("model", "u2netp"), ("model_path", "/m/u2netp.onnx")]).registry().unwrap();
        assert_eq!(one.find(None).unwrap().location, "/m/u2netp.onnx");
        let json = r#"[{"name": "a", "preset": "isnet", "path": "a.onnx"}, {"name": "birefnet", "path": "b.onnx"}]"#;
        let two = config(&[("models", json), ("model", "birefnet")]).registry().unwrap();
        assert_eq!((two.names(), two.find(None).unwrap().name.as_str()), (vec!["a", "birefnet"], "birefnet"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.json");
        std::fs::write(&file, json).unwrap();
        assert_eq!(config(&[("models", file.to_str().unwrap())]).registry().unwrap().names().len(), 2);
        assert!(Config::default().registry().unwrap().names().is_empty());
    }

    #[test]
    fn half_a_registration_is_refused_with_the_variable_and_the_cure() {
        for (pairs, parts) in [
            (&[("model", "u2net")][..], ["CONCEPT_MODEL:", "CONCEPT_MODEL_PATH"]),
            (&[("model_path", "a.onnx")], ["CONCEPT_MODEL_PATH", "CONCEPT_MODEL "]),
            (
                &[("model_sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")],
                ["SHA256", "PATH"],
            ),
            (&[("models", "[{]")], ["CONCEPT_MODELS", "array"]),
            (&[("models", "/nowhere/at/all")], ["CONCEPT_MODELS", "/nowhere/at/all"]),
            (&[("models", r#"[{"name": "x", "path": "a"}]"#)], ["CONCEPT_MODELS", "preset"]),
            (&[("require_gpu", "true")], ["CONCEPT_REQUIRE_GPU", "CONCEPT_MODEL"]),
            (
                &[("require_gpu", "true"), ("model", "u2net"), ("model_path", "a"), ("execution_providers", "cpu")],
                ["CONCEPT_REQUIRE_GPU", "cuda"],
            ),
        ] {
            let error = config(pairs).registry().unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn the_library_is_the_settings_else_the_environments_else_beside_the_program() {
        let program = Path::new("/opt/concept-worker");
        let of = |config: &Config, named: Option<&str>| {
            config.runtime_options(named.map(PathBuf::from), Some(program)).library
        };
        let set = config(&[("onnxruntime", "/a.so")]);
        assert_eq!(of(&set, Some("/b.so")), Library::Named("/a.so".into()));
        assert_eq!(of(&Config::default(), Some("/b.so")), Library::Named("/b.so".into()));
        match of(&Config::default(), None) {
            Library::Search(places) => assert!(places[0].starts_with("/opt"), "{places:?}"),
            other => panic!("{other:?}"),
        }
        let order = config(&[("execution_providers", "cpu, cuda,cpu")]).runtime_options(None, None).providers;
        assert_eq!(order, [Provider::Cpu, Provider::Cuda]);
    }
}
