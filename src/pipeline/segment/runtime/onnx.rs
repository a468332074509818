//! Sessions of ONNX Runtime through the crate `ort`, whose library is loaded at run time.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::{Choice, Library, OLDEST, Opened, Plane, Provider, RunFault, RuntimeOptions, refusals};
use crate::pipeline::segment::registry::{ModelFile, ModelSpec, SIDES};

/// The library and its environment: one in a process, kept until it ends.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

#[derive(Clone)]
struct Runtime {
    environment: Environment,
    version: String,
}

/// A session with the names of what it takes and gives.
pub struct Session {
    session: ort::session::Session,
    input: String,
    size: (u32, u32),
    output: String,
    logits: Option<String>,
}

/// Loads the library unless it is loaded, and gives its version.
///
/// # Errors
/// There is none, it is none, or it is too old; with what to do.
pub fn check(options: &RuntimeOptions) -> Result<String, String> {
    runtime(&options.library).map(|runtime| runtime.version)
}

fn runtime(library: &Library) -> Result<Runtime, String> {
    let mut known = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*known {
        return Ok(runtime.clone());
    }
    let path = match library {
        Library::Named(path) if path.is_file() => path,
        Library::Named(path) => {
            return Err(format!(
                "there is no ONNX Runtime at {}; set CONCEPT_ONNXRUNTIME to the path of libonnxruntime.so",
                path.display()
            ));
        }
        Library::Search(paths) => paths.iter().find(|path| path.is_file()).ok_or(
            "there is no ONNX Runtime library: install it (it is in the Python package onnxruntime) and set \
             CONCEPT_ONNXRUNTIME to the path of libonnxruntime.so",
        )?,
    };
    // Loading lazily would panic where there is no library; this returns an error.
    let builder = ort::init_from(path).map_err(|error| match error {
        ort::LoadDynamicError::BadVersion { version_str, path } => {
            format!("the ONNX Runtime at {} is version {version_str}; {OLDEST} or later is needed", path.display())
        }
        error => format!("the ONNX Runtime at {} cannot be loaded: {error}", path.display()),
    })?;
    let environment = builder.with_name("concept-worker").with_telemetry(false).build().map_err(text)?;
    environment.set_log_level(LogLevel::Warning);
    let runtime = Runtime { environment, version: version_of(path) };
    Ok(known.insert(runtime).clone())
}

/// The library's version as its file is named, `libonnxruntime.so.1.26.0`, else as it says it was built.
fn version_of(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = file.split_once(".so.").map(|(_, version)| version).filter(|version| version.starts_with("1."));
    let field = |name: &str| ort::info().split(name).nth(1).and_then(|rest| rest.split([',', ' ']).next());
    match (named, field("git-branch=rel-"), field("git-commit-id=")) {
        (Some(version), ..) | (None, Some(version), _) => version.to_owned(),
        (None, None, Some(commit)) => format!("of commit {commit}"),
        (None, None, None) => "unknown".into(),
    }
}

/// Opens a session on the first provider that can be had.
///
/// # Errors
/// What every provider answered, or what is wrong with the file.
pub fn open(spec: &ModelSpec, file: &ModelFile, options: &RuntimeOptions) -> Result<Opened, String> {
    let version = check(options)?;
    let mut refused = Vec::new();
    for &provider in &options.providers {
        if options.require_gpu && !provider.is_gpu() {
            refused.push((provider, "CONCEPT_REQUIRE_GPU is true".into()));
            continue;
        }
        match open_with(spec, file, options, provider) {
            Ok(session) => {
                let input = session.size;
                return Ok(Opened { session, choice: Choice { provider, refused, runtime: version }, input });
            }
            // What is wrong with the file is wrong everywhere, and the processor says it best.
            Err(problem) if !provider.is_gpu() && refused.is_empty() => return Err(problem),
            Err(problem) => {
                tracing::info!(model = spec.name, provider = provider.name(), "not taken: {problem}");
                refused.push((provider, problem));
            }
        }
    }
    match refused.as_slice() {
        [] => Err("CONCEPT_EXECUTION_PROVIDERS names no provider".into()),
        refused if options.require_gpu => {
            Err(format!("there is no GPU that can be used, and CONCEPT_REQUIRE_GPU is true: {}", refusals(refused)))
        }
        refused => Err(format!("no execution provider runs it: {}", refusals(refused))),
    }
}

/// Opens a session on this provider.
///
/// # Errors
/// Why not.
pub fn open_with(
    spec: &ModelSpec,
    file: &ModelFile,
    options: &RuntimeOptions,
    provider: Provider,
) -> Result<Session, String> {
    let Runtime { environment, version } = runtime(&options.library)?;
    let builder = builder(&environment, options).map_err(text)?;
    let (builder, path) = match provider {
        Provider::Cpu => {
            if let Some(copy) = optimized_copy(file, options, &version).filter(|copy| copy.is_file()) {
                // It has been optimised: doing it again is most of what loading takes.
                let plain = builder.with_optimization_level(GraphOptimizationLevel::Disable).map_err(text)?;
                match commit(spec, plain, &copy) {
                    Ok(session) => return Ok(session),
                    Err(problem) => tracing::warn!(model = spec.name, "the optimised copy is not used: {problem}"),
                }
                (self::builder(&environment, options).map_err(text)?, file.path.clone())
            } else {
                (builder, file.path.clone())
            }
        }
        Provider::Cuda => (with_gpu(builder, [cuda()])?, file.path.clone()),
        Provider::TensorRt => {
            let engines = engines(file, options, &version)?;
            built(&engines, file)?;
            (with_gpu(builder, [tensorrt(&engines), cuda()])?, file.path.clone())
        }
    };
    commit(spec, builder, &path)
}

/// What `build` leaves beside engines when all are there: the name of the model's file, which they are named by, and the
/// engines' own names.
#[derive(serde::Serialize, serde::Deserialize)]
struct Built {
    model: String,
    engines: Vec<String>,
}

/// The file that holds it.
const BUILT: &str = "built.json";

/// Whether all engines for this file are there. One that is missing would be built now, which takes minutes.
fn built(engines: &Path, file: &ModelFile) -> Result<(), String> {
    let cure = "build them on this GPU with `concept-worker model build`";
    let none = || format!("there are no engines in {}; {cure}", engines.display());
    let read = std::fs::read(engines.join(BUILT)).map_err(|_| none())?;
    let built: Built = serde_json::from_slice(&read).map_err(|_| none())?;
    let name = file_name(&file.path);
    if built.model != name {
        return Err(format!(
            "the engines in {} are those of {}, not of {name}; {cure}",
            engines.display(),
            built.model
        ));
    }
    match built.engines.iter().find(|engine| !engines.join(engine).is_file()) {
        Some(missing) => Err(format!("the engine {missing} is missing in {}; {cure}", engines.display())),
        None => Ok(()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes what loads faster on this very machine, under `cache`: an optimised copy for the processor, engines for TensorRT.
///
/// # Errors
/// What did not work.
pub fn build(
    spec: &ModelSpec,
    file: &ModelFile,
    options: &RuntimeOptions,
    provider: Provider,
    cache: &Path,
) -> Result<Vec<PathBuf>, String> {
    let options = &RuntimeOptions { cache: Some(cache.to_owned()), ..options.clone() };
    let Runtime { environment, version } = runtime(&options.library)?;
    let create = |folder: &Path| {
        std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))
    };
    let builder = builder(&environment, options).map_err(text)?;
    match provider {
        Provider::Cuda => Err("CUDA needs nothing built; name tensorrt or cpu".into()),
        Provider::Cpu => {
            create(cache)?;
            let copy = optimized_copy(file, options, &version).unwrap_or_default();
            // Whole or not at all: another process may be looking for it.
            // It warns that the copy is for this machine only, which is what it is for.
            let builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
            let unfinished = copy.with_extension(format!("{}.tmp", std::process::id()));
            let made = builder
                .with_optimized_model_path(&unfinished)
                .map_err(text)
                .and_then(|builder| commit(spec, builder, &file.path))
                .and_then(|_| std::fs::rename(&unfinished, &copy).map_err(|error| error.to_string()));
            if made.is_err() {
                let _ = std::fs::remove_file(&unfinished);
            }
            made.map(|()| vec![copy])
        }
        Provider::TensorRt => {
            let engines = engines(file, options, &version)?;
            // None of an earlier attempt; and not in another folder first: a mounted bucket renames none.
            if engines.exists() {
                std::fs::remove_dir_all(&engines)
                    .map_err(|error| format!("cannot clear {}: {error}", engines.display()))?;
            }
            create(&engines)?;
            let names = build_engines(spec, file, builder, &engines)?;
            Ok(names.iter().map(|name| engines.join(name)).collect())
        }
    }
}

/// Builds engines in `folder`; the names of all files there.
fn build_engines(
    spec: &ModelSpec,
    file: &ModelFile,
    builder: SessionBuilder,
    folder: &Path,
) -> Result<Vec<String>, String> {
    let mut session = commit(spec, with_gpu(builder, [tensorrt(folder), cuda()])?, &file.path)?;
    // Engines are built when shapes are known: at the first run, where they are left open.
    let (width, height) = session.size;
    session.run(&vec![0.0; 3 * width as usize * height as usize]).map_err(|fault| format!("{fault:?}"))?;
    let files = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut names: Vec<String> = files.flatten().map(|entry| file_name(&entry.path())).collect();
    names.sort();
    let engines: Vec<String> = names.iter().filter(|name| name.ends_with(".engine")).cloned().collect();
    if engines.is_empty() {
        return Err("TensorRT took no part of the model: there is no engine".into());
    }
    let built = Built { model: file_name(&file.path), engines };
    let json = serde_json::to_vec_pretty(&built).map_err(|error| error.to_string())?;
    std::fs::write(folder.join(BUILT), json).map_err(|error| error.to_string())?;
    names.push(BUILT.into());
    Ok(names)
}

fn builder(environment: &Environment, options: &RuntimeOptions) -> Result<SessionBuilder, ort::Error> {
    let builder = SessionBuilder::new(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.session_threads())?
        // Threads that spin while they wait take processors from jobs.
        .with_intra_op_spinning(false)?
        .with_log_level(LogLevel::Warning)?;
    Ok(builder)
}

/// A provider that cannot be registered is an error: without this the session would run on the processor and say nothing.
/// What the first does not take falls to the next.
fn with_gpu<const N: usize>(
    builder: SessionBuilder,
    providers: [ExecutionProviderDispatch; N],
) -> Result<SessionBuilder, String> {
    builder.with_execution_providers(providers.map(ExecutionProviderDispatch::error_on_failure)).map_err(text)
}

fn cuda() -> ExecutionProviderDispatch {
    ep::CUDA::default()
        // Grows by what is asked for, not by powers of two.
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
        .build()
}

fn tensorrt(engines: &Path) -> ExecutionProviderDispatch {
    ep::TensorRT::default()
        .with_engine_cache(true)
        .with_engine_cache_path(engines.display())
        .with_timing_cache(true)
        .with_timing_cache_path(engines.display())
        .with_fp16(true)
        // Attention and normalisation lose too much in half precision.
        .with_layer_norm_fp32_fallback(true)
        .build()
}

/// Where engines of a model lie: they hold for this file and this version; TensorRT itself adds the compute capability.
fn engines(file: &ModelFile, options: &RuntimeOptions, version: &str) -> Result<PathBuf, String> {
    let cache = options.cache.as_ref().ok_or("it needs engines built before; set CONCEPT_MODEL_CACHE")?;
    Ok(cache.join(format!("tensorrt-{}-{version}", &file.sha256[..16])))
}

/// The copy of a model that is optimised for this machine's processor.
fn optimized_copy(file: &ModelFile, options: &RuntimeOptions, version: &str) -> Option<PathBuf> {
    let processor = pulp::Arch::new();
    let processor = format!("{processor:?}").split(['(', ' ']).next().unwrap_or_default().to_lowercase();
    Some(options.cache.as_ref()?.join(format!(
        "{}-{version}-{}-{processor}.onnx",
        &file.sha256[..16],
        std::env::consts::ARCH
    )))
}

fn commit(spec: &ModelSpec, mut builder: SessionBuilder, path: &Path) -> Result<Session, String> {
    let session = builder.commit_from_file(path).map_err(|error| {
        use ort::ErrorCode::{InvalidGraph, InvalidProtobuf, NoModel};
        let cure = match error.code() {
            InvalidGraph | InvalidProtobuf | NoModel => "; check that it is a whole ONNX file",
            _ => "",
        };
        format!("{} cannot be loaded: {}{cure}", path.display(), text(error))
    })?;
    let (input, size) = input(spec, session.inputs())?;
    let (output, logits) = outputs(spec, session.outputs())?;
    Ok(Session { session, input, size, output, logits })
}

/// The input's name and size: one picture of three channels in 32-bit floats.
fn input(spec: &ModelSpec, inputs: &[Outlet]) -> Result<(String, (u32, u32)), String> {
    let [input] = inputs else {
        return Err(format!("it takes {} inputs; a model for mattes takes one picture", inputs.len()));
    };
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return Err(format!("its input {:?} is no tensor", input.name()));
    };
    let wrong = |what: String| {
        format!("its input {:?} {what}; needed are 32-bit floats of shape 1×3×height×width", input.name())
    };
    if *ty != TensorElementType::Float32 {
        return Err(wrong(format!("holds {ty}")));
    }
    let side = |dimension: i64| match dimension {
        -1 => Some(spec.contract.side),
        fixed => u32::try_from(fixed).ok().filter(|side| SIDES.contains(side)),
    };
    match shape[..] {
        [1 | -1, 3 | -1, height, width] => match (side(width), side(height)) {
            (Some(width), Some(height)) => Ok((input.name().to_owned(), (width, height))),
            _ => {
                Err(wrong(format!("is {width}×{height} pixels, which is not in {} to {}", SIDES.start(), SIDES.end())))
            }
        },
        _ => Err(wrong(format!("has shape {}", shown(shape)))),
    }
}

/// The names of the map and, where the contract knows of them, of its logits.
fn outputs(spec: &ModelSpec, outputs: &[Outlet]) -> Result<(String, Option<String>), String> {
    let Some(first) = outputs.first() else { return Err("it has no outputs".into()) };
    check_output(first)?;
    let logits = match outputs.get(1) {
        Some(second) if spec.contract.second_logits => {
            check_output(second)?;
            Some(second.name().to_owned())
        }
        _ => None,
    };
    Ok((first.name().to_owned(), logits))
}

fn check_output(output: &Outlet) -> Result<(), String> {
    let ValueType::Tensor { ty, shape, .. } = output.dtype() else {
        return Err(format!("its output {:?} is no tensor", output.name()));
    };
    // Where a shape is not known yet, the run tells.
    let is_map = match shape[..] {
        [.., height, width] => {
            let leading = &shape[..shape.len() - 2];
            leading.iter().all(|d| matches!(d, 1 | -1))
                && shape.len() <= 4
                && [height, width].iter().all(|&d| d == -1 || d >= 8)
        }
        [] => true,
        _ => false,
    };
    match is_map && *ty == TensorElementType::Float32 {
        true => Ok(()),
        false => Err(format!(
            "its output {:?} holds {ty} of shape {}; needed are 32-bit floats of shape 1×1×height×width",
            output.name(),
            shown(shape)
        )),
    }
}

fn shown(shape: &[i64]) -> String {
    let side = |&d: &i64| if d < 0 { "?".to_owned() } else { d.to_string() };
    match shape {
        [] => "()".into(),
        shape => shape.iter().map(side).collect::<Vec<_>>().join("×"),
    }
}

impl Session {
    /// Runs the model on one picture, channel after channel: its map, and its logits where it has them.
    ///
    /// # Errors
    /// [`RunFault`].
    pub fn run(&mut self, input: &[f32]) -> Result<(Plane, Option<Vec<f32>>), RunFault> {
        let failed = |error: ort::Error| {
            let lost = is_of_device(error.message());
            let problem = format!("a run failed: {}", text(error));
            if lost { RunFault::Lost(problem) } else { RunFault::Refused(problem) }
        };
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        let tensor = TensorRef::from_array_view(([1usize, 3, height, width], input)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![self.input.as_str() => tensor]).map_err(failed)?;
        let plane = |name: &str| -> Result<Plane, RunFault> {
            let value = outputs.get(name).ok_or_else(|| RunFault::Shape(format!("it gave no output {name:?}")))?;
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(|e| RunFault::Shape(text(e)))?;
            match shape[..] {
                [.., h, w] if h > 0 && w > 0 && values.len() as i64 == h * w => {
                    Ok(Plane { width: w as usize, height: h as usize, values: values.to_vec() })
                }
                _ => Err(RunFault::Shape(format!("its output {name:?} has shape {}, which is no map", shown(shape)))),
            }
        };
        let first = plane(&self.output)?;
        let logits = match &self.logits {
            Some(name) => Some(plane(name)?.values),
            None => None,
        };
        Ok((first, logits))
    }
}

/// Whether an error of a run is one of memory or of the device, which a new session may not meet, and not one of the graph. ONNX
/// Runtime gives both the same code; the words are those of its allocators and of CUDA's libraries.
fn is_of_device(message: &str) -> bool {
    const WORDS: [&str; 9] =
        ["memory", "alloc", "cuda", "cudnn", "cublas", "tensorrt", "device", "enqueue", "out of resources"];
    let message = message.to_ascii_lowercase();
    WORDS.iter().any(|word| message.contains(word))
}

/// An error's text, short enough for a log line. Of CUDA's, the part that says what is the matter.
fn text<R>(error: ort::Error<R>) -> String {
    const MOST: usize = 600;
    let message = error.message().trim();
    let message = message.find("CUDA failure").map_or(message, |at| &message[at..]);
    match message.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_taken_only_when_all_of_them_are_there_and_are_this_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| ModelFile { path: name.into(), bytes: 1, sha256: "0".repeat(64) };
        let engine = folder.path().join("a_sm90.engine");
        std::fs::write(&engine, b"engine").unwrap();
        let refused = |name: &str| built(folder.path(), &file(name)).unwrap_err();
        assert!(refused("m.onnx").contains("no engines"), "an attempt that was not finished");
        let list = Built { model: "m.onnx".into(), engines: vec!["a_sm90.engine".into()] };
        std::fs::write(folder.path().join(BUILT), serde_json::to_vec(&list).unwrap()).unwrap();
        assert_eq!(built(folder.path(), &file("/models/m.onnx")), Ok(()));
        assert!(refused("other.onnx").contains("m.onnx"));
        std::fs::remove_file(&engine).unwrap();
        assert!(refused("m.onnx").contains("a_sm90.engine"));
    }

    #[test]
    fn errors_of_the_graph_are_told_from_those_of_memory_and_device() {
        for message in [
            "Non-zero status code returned while running Expand node. Status Message: std::bad_alloc",
            "Failed to allocate memory for requested buffer of size 17179869184",
            "CUDA failure 2: out of memory",
            "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
            "TensorRT EP execution context enqueue failed.",
        ] {
            assert!(is_of_device(message), "{message}");
        }
        for message in [
            "Non-zero status code returned while running Concat node. Name:'/cat' Non concat axis dimensions must match",
            "Non-zero status code returned while running Reshape node. The input tensor cannot be reshaped",
        ] {
            assert!(!is_of_device(message), "{message}");
        }
    }
}
