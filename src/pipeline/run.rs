//! Runs one job: decode once, model once, then every palette and every output, and the manifest last.

use std::path::Path;

use super::job::Job;
use super::manifest::Manifest;
use crate::kernel::color::Rgb8;

/// What a run needs besides the job. Built from the configuration by the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// Longest side of the base in pixels; 0 keeps the full size.
    pub max_dimension: u32,
    /// Most pixels a source may have.
    pub max_pixels: u64,
    /// Most iterations of k-means.
    pub kmeans_max_iterations: u32,
    /// Longest side of the sample that k-means sees, pixels; 0 takes every pixel.
    pub clustering_sample_size: u32,
    /// Quality of outputs that name none, 1 to 100.
    pub quality: u8,
    /// Format of jobs that name no output.
    pub format: super::job::Format,
    /// Most palettes a job may have.
    pub max_palettes: usize,
    /// Most outputs a job may have.
    pub max_outputs: usize,
    /// Write gallery.html and contact-sheet.png.
    pub gallery: bool,
}

/// What happens during a run, in order of completion.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The picture is decoded and modelled; this many files will be made.
    Planned {
        /// Files to make.
        total: usize,
    },
    /// A file is stored.
    Made {
        /// Its name.
        object: String,
        /// Its size.
        bytes: u64,
    },
    /// A file could not be made.
    Failed {
        /// Palette or effect.
        name: String,
        /// Why.
        message: String,
    },
}

/// Why a run ended without a manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The job cannot be run as written.
    #[error("{0}")]
    Job(String),
    /// The picture cannot be used; only from [`image_palette`], a run records it in its manifest.
    #[error("{0}")]
    Picture(String),
    /// The output directory cannot be written.
    #[error("cannot write {path}: {source}; check that the folder exists and that there is room")]
    Output {
        /// The path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Runs `job` on the picture in `source` and writes everything into `out`.
///
/// A picture that cannot be used gives a manifest of state failed, which is written too.
///
/// # Errors
/// [`RunError`] when the job is not valid or `out` cannot be written.
pub fn run(
    _job: &Job,
    _source: &[u8],
    _out: &Path,
    _options: &RunOptions,
    _observe: &(dyn Fn(Event) + Sync),
) -> Result<Manifest, RunError> {
    Err(RunError::Job("not built".into()))
}

/// The name of a job: its own, else one derived from the job and the picture, the same on every run.
pub fn job_id(job: &Job, _source: &[u8]) -> String {
    job.job_id.clone().unwrap_or_else(|| "not-built".into())
}

/// The picture's own colours with their shares of the visible area, largest first; at most `colors` of them.
///
/// # Errors
/// [`RunError::Picture`] when the picture cannot be used.
pub fn image_palette(_source: &[u8], _colors: usize, _options: &RunOptions) -> Result<Vec<(Rgb8, f64)>, RunError> {
    Err(RunError::Picture("not built".into()))
}
