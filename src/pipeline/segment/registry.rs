//! Which models there are: presets by name, files by path or address, and their hashes.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::contract::{Contract, Filter, Output, Scale};

/// Most models that may be registered.
pub const MAX_MODELS: usize = 16;

/// The most that a model's `memory_mb` may be, MiB.
pub const MOST_MEMORY_MB: u64 = 1 << 20;

/// Sides that a model's input may have, pixels.
pub const SIDES: std::ops::RangeInclusive<u32> = 32..=4096;

/// A model as written in CONCEPT_MODELS. What is left out comes from the preset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// The name that jobs use.
    pub name: String,
    /// The preset whose contract it has; its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The ONNX file: a path, or gs://bucket/name.
    pub path: String,
    /// SHA-256 of the file, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Side of the square input, pixels, where the file leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// How pictures are resized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What bytes are divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Subtracted from each channel after scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Each channel is divided by this after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// What its first output holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// Memory that a session takes, MiB; estimated from the file and the input when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
}

/// A model, every choice made.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The name that jobs use.
    pub name: String,
    /// Path or gs:// address of the ONNX file.
    pub location: String,
    /// SHA-256 that the file must have, lower-case hex.
    pub sha256: Option<String>,
    /// How pictures go in and maps come out.
    pub contract: Contract,
    /// Memory that a session takes, MiB, where the registry says so.
    pub memory_mb: Option<u64>,
}

impl ModelSpec {
    /// Bytes that a session of this model takes on a processor with a file of `file_bytes`, from above: the weights, and what
    /// lies between layers. Measured for Swin-B: 1.0 GB at 384², 3.8 GB at 1024².
    /// `input` is the width and height of its input.
    pub fn memory_bytes(&self, file_bytes: u64, input: (u32, u32)) -> u64 {
        match self.memory_mb {
            Some(mb) => mb << 20,
            None => {
                let pixels = u64::from(input.0) * u64::from(input.1);
                (32 << 20) + file_bytes.saturating_mul(3) / 2 + pixels * (file_bytes / 100_000).clamp(256, 4096)
            }
        }
    }
}

/// The registered models and which of them is meant where none is named.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    models: Vec<ModelSpec>,
    default: Option<usize>,
}

impl Registry {
    /// Checks entries; `default` names the model for jobs that name none, else it is the only one.
    ///
    /// # Errors
    /// What is wrong with which entry, and what to do about it.
    pub fn new(entries: Vec<ModelEntry>, default: Option<&str>) -> Result<Self, String> {
        if entries.len() > MAX_MODELS {
            return Err(format!("there are {} models; the limit is {MAX_MODELS}", entries.len()));
        }
        let mut models: Vec<ModelSpec> = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.name.clone();
            let spec = spec(entry).map_err(|problem| format!("the model {name:?}: {problem}"))?;
            if models.iter().any(|other| other.name == spec.name) {
                return Err(format!("there are two models {name:?}; give each a name of its own"));
            }
            models.push(spec);
        }
        let default = match default {
            Some(name) => match models.iter().position(|spec| spec.name == name) {
                Some(at) => Some(at),
                None => return Err(format!("no model {name:?} is registered; {}", known(&models))),
            },
            None => (models.len() == 1).then_some(0),
        };
        Ok(Self { models, default })
    }

    /// The model of this name, or the default one.
    ///
    /// # Errors
    /// Which there are.
    pub fn find(&self, name: Option<&str>) -> Result<&ModelSpec, String> {
        match name {
            Some(name) => self
                .models
                .iter()
                .find(|spec| spec.name == name)
                .ok_or_else(|| format!("no model {name:?} is registered; {}", known(&self.models))),
            None => self
                .default_model()
                .ok_or_else(|| format!("the job names no model, and there is no default; {}", known(&self.models))),
        }
    }

    /// The model of jobs that name none.
    pub fn default_model(&self) -> Option<&ModelSpec> {
        self.default.and_then(|at| self.models.get(at))
    }

    /// Every model's name.
    pub fn names(&self) -> Vec<&str> {
        self.models.iter().map(|spec| spec.name.as_str()).collect()
    }
}

fn known(models: &[ModelSpec]) -> String {
    match models {
        [] => "register one with CONCEPT_MODEL and CONCEPT_MODEL_PATH, or CONCEPT_MODELS".into(),
        _ => format!("there is {}", models.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

fn spec(entry: ModelEntry) -> Result<ModelSpec, String> {
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if entry.name.is_empty() || entry.name.len() > 64 || !entry.name.chars().all(clean) {
        return Err("its name must be 1 to 64 letters, digits, `-`, `_` and `.`".into());
    }
    if entry.path.trim().is_empty() {
        return Err("its path is empty; give the ONNX file's path or gs:// address".into());
    }
    let preset = entry.preset.as_deref().unwrap_or(&entry.name);
    let base = Contract::preset(preset).ok_or_else(|| {
        format!("no preset {preset:?}; give preset as one of {}", Contract::PRESETS.map(|(name, _)| name).join(", "))
    })?;
    if let Some(size) = entry.size
        && !SIDES.contains(&size)
    {
        return Err(format!("size {size} is not in {} to {}", SIDES.start(), SIDES.end()));
    }
    if let Some(mb) = entry.memory_mb
        && mb > MOST_MEMORY_MB
    {
        return Err(format!("memory_mb {mb} is more than {MOST_MEMORY_MB}; it counts MiB"));
    }
    let (mean, std) = (entry.mean.unwrap_or(base.mean), entry.std.unwrap_or(base.std));
    if mean.iter().chain(&std).any(|v| !v.is_finite()) || std.iter().any(|v| v.abs() < 1e-6) {
        return Err("mean and std must be numbers, and std not 0".into());
    }
    let sha256 = entry.sha256.map(|hash| hash.trim().to_ascii_lowercase());
    if let Some(hash) = &sha256
        && (hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err("sha256 must be 64 hexadecimal digits".into());
    }
    let contract = Contract {
        side: entry.size.unwrap_or(base.side),
        filter: entry.filter.unwrap_or(base.filter),
        scale: entry.scale.unwrap_or(base.scale),
        mean,
        std,
        output: entry.output.unwrap_or(base.output),
        ..base
    };
    let location = entry.path.trim().to_owned();
    Ok(ModelSpec { name: entry.name, location, sha256, contract, memory_mb: entry.memory_mb })
}

/// A model's file on this machine, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of it, lower-case hex.
    pub sha256: String,
}

/// Hashes the file at `path` and compares it with what the registry says. A file without a hash in the registry is hashed,
/// too: the hash goes into manifests.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub fn check_file(spec: &ModelSpec, path: &Path) -> Result<ModelFile, String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no file at {}; check its path", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(format!("{} is a folder; name the ONNX file in it", path.display()));
    }
    // Its hash would say nothing of the weights, and its size nothing of the memory.
    for suffix in [".data", "_data"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        if Path::new(&beside).exists() {
            return Err(format!(
                "{} has its weights in a file beside it, {}; save it as one file: onnx.save(onnx.load(…), …)",
                path.display(),
                Path::new(&beside).display()
            ));
        }
    }
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0u8; 1 << 18]);
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
    let sha256: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    match &spec.sha256 {
        Some(wanted) if *wanted != sha256 => Err(format!(
            "{} has SHA-256 {sha256}, not {wanted} as registered; fetch the right file, or correct the hash",
            path.display()
        )),
        _ => Ok(ModelFile { path: path.to_owned(), bytes, sha256 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> ModelEntry {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_entry_takes_from_its_preset_what_it_leaves_out() {
        let registry = Registry::new(
            vec![
                entry(r#"{"name": "u2netp", "path": "a.onnx"}"#),
                entry(r#"{"name": "mine", "preset": "birefnet", "path": "gs://m/b.onnx", "size": 512, "mean": [0, 0, 0]}"#),
            ],
            Some("mine"),
        )
        .unwrap();
        assert_eq!(registry.find(Some("u2netp")).unwrap().contract, Contract::preset("u2netp").unwrap());
        let mine = registry.find(None).unwrap();
        let preset = Contract::preset("birefnet").unwrap();
        assert_eq!(mine.contract, Contract { side: 512, mean: [0.0; 3], ..preset });
    }

    #[test]
    fn one_model_is_the_default_and_of_several_one_must_be_named() {
        let one = || entry(r#"{"name": "u2net", "path": "a"}"#);
        let two = || entry(r#"{"name": "isnet", "path": "b"}"#);
        assert_eq!(Registry::new(vec![one()], None).unwrap().find(None).unwrap().name, "u2net");
        let both = Registry::new(vec![one(), two()], None).unwrap();
        assert!(both.find(None).unwrap_err().contains("u2net, isnet"));
        assert!(both.find(Some("x")).unwrap_err().contains("\"x\""));
        assert!(Registry::default().find(None).unwrap_err().contains("CONCEPT_MODEL_PATH"));
    }

    #[test]
    fn bad_entries_are_refused_with_the_cure() {
        for (json, part) in [
            (r#"{"name": "x", "path": "a"}"#, "inspyrenet"),
            (r#"{"name": "u2net", "path": " "}"#, "path"),
            (r#"{"name": "a/b", "preset": "u2net", "path": "a"}"#, "name"),
            (r#"{"name": "u2net", "path": "a", "size": 7}"#, "32"),
            (r#"{"name": "u2net", "path": "a", "std": [1, 0, 1]}"#, "std"),
            (r#"{"name": "u2net", "path": "a", "sha256": "abc"}"#, "64"),
            (r#"{"name": "u2net", "path": "a", "memory_mb": 17592186044417}"#, "memory_mb"),
        ] {
            let error = Registry::new(vec![entry(json)], None).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        let twice = vec![entry(r#"{"name": "u2net", "path": "a"}"#), entry(r#"{"name": "u2net", "path": "b"}"#)];
        assert!(Registry::new(twice, None).is_err());
        assert!(serde_json::from_str::<ModelEntry>(r#"{"name": "u2net", "path": "a", "sise": 7}"#).is_err());
        assert!(Registry::new(vec![entry(r#"{"name": "u2net", "path": "a"}"#)], Some("isnet")).is_err());
    }

    #[test]
    fn a_file_is_known_by_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, b"abc").unwrap();
        // FIPS 180-4, the example "abc".
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut spec = Registry::new(vec![entry(r#"{"name": "u2net", "path": "a"}"#)], None).unwrap().models.remove(0);
        assert_eq!(check_file(&spec, &path).unwrap(), ModelFile { path: path.clone(), bytes: 3, sha256: hash.into() });
        spec.sha256 = Some(hash.into());
        assert!(check_file(&spec, &path).is_ok());
        spec.sha256 = Some("0".repeat(64));
        let error = check_file(&spec, &path).unwrap_err();
        assert!(error.contains(hash) && error.contains("registered"), "{error}");
        assert!(check_file(&spec, &folder.path().join("no")).unwrap_err().contains("no file"));
        assert!(check_file(&spec, folder.path()).unwrap_err().contains("folder"));
        // Its weights elsewhere: the hash would not know them.
        spec.sha256 = None;
        std::fs::write(folder.path().join("model.onnx.data"), b"weights").unwrap();
        assert!(check_file(&spec, &path).unwrap_err().contains("one file"));
    }

    #[test]
    fn the_estimate_of_a_sessions_memory_lies_above_what_was_measured() {
        let of = |size: u32| {
            let json = format!(r#"{{"name": "inspyrenet", "path": "a", "size": {size}}}"#);
            Registry::new(vec![entry(&json)], None).unwrap().models.remove(0).memory_bytes(400_000_000, (size, size))
        };
        assert!((1_000_000_000..1_600_000_000).contains(&of(384)), "{}", of(384));
        assert!((3_800_000_000..5_500_000_000).contains(&of(1024)), "{}", of(1024));
    }
}
