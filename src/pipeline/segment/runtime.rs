//! ONNX Runtime: its library, found and loaded while running; sessions; and the execution providers, tried one by one.
//!
//! A provider that cannot be had is never passed over in silence: [`Choice`] keeps the reason.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(feature = "ort")]
mod onnx;
#[cfg(feature = "ort")]
pub use onnx::{Session, build, check, open, open_with};

#[cfg(not(feature = "ort"))]
mod without;
#[cfg(not(feature = "ort"))]
pub use without::{Session, build, check, open, open_with};

/// The oldest ONNX Runtime whose interface is understood.
pub const OLDEST: &str = "1.22";

/// What a session runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// NVIDIA TensorRT; only with engines that were built before.
    TensorRt,
    /// NVIDIA CUDA and cuDNN.
    Cuda,
    /// The processor.
    Cpu,
}

impl Provider {
    /// All of them, fastest first.
    pub const ALL: [Self; 3] = [Self::TensorRt, Self::Cuda, Self::Cpu];

    /// The name in settings, manifests and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }

    /// Whether it needs a GPU.
    pub const fn is_gpu(self) -> bool {
        !matches!(self, Self::Cpu)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which provider runs a model, and why none before it in the list does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What runs it.
    pub provider: Provider,
    /// Those tried before, each with what it answered.
    pub refused: Vec<(Provider, String)>,
    /// Version of ONNX Runtime.
    pub runtime: String,
}

impl Choice {
    /// In words why it is this provider.
    pub fn reason(&self) -> String {
        match self.refused.as_slice() {
            [] => "first in CONCEPT_EXECUTION_PROVIDERS".into(),
            refused => refusals(refused),
        }
    }
}

fn refusals(refused: &[(Provider, String)]) -> String {
    refused.iter().map(|(provider, why)| format!("{provider}: {why}")).collect::<Vec<_>>().join("; ")
}

/// Where the library is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// This file, and nothing else will do.
    Named(PathBuf),
    /// The first of these that exists.
    Search(Vec<PathBuf>),
}

/// How sessions are opened and run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The shared library.
    pub library: Library,
    /// Providers in the order in which they are tried.
    pub providers: Vec<Provider>,
    /// Nothing but a GPU will do.
    pub require_gpu: bool,
    /// Threads of a session on the processor; 0 takes one for each core.
    pub threads: usize,
    /// Sessions of a model, each with a picture at a time.
    pub sessions: usize,
    /// Pictures that may wait for a session.
    pub queue: usize,
    /// Folder of TensorRT engines and of models optimised for this machine.
    pub cache: Option<PathBuf>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            library: Library::Search(Vec::new()),
            providers: Provider::ALL.to_vec(),
            require_gpu: false,
            threads: 0,
            sessions: 1,
            queue: 64,
            cache: None,
        }
    }
}

impl RuntimeOptions {
    /// The threads that a session on the processor gets.
    pub fn session_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// A session that is open, and how it came to be.
pub struct Opened {
    /// The session.
    pub session: Session,
    /// Its provider.
    pub choice: Choice,
    /// Width and height of its input, pixels.
    pub input: (u32, u32),
}

/// One channel that a model put out.
pub struct Plane {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width·height` values.
    pub values: Vec<f32>,
}

/// Why a session gave nothing.
#[derive(Debug)]
pub enum RunFault {
    /// Memory ran out, or the device is gone: a new session may do.
    Lost(String),
    /// The output has not the shape of a map.
    Shape(String),
    /// The graph cannot be run on this input: it will never be.
    Refused(String),
}
