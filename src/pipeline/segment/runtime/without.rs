//! A program built without the feature `ort` has no models, and says so.

use std::path::{Path, PathBuf};

use super::{Opened, Plane, Provider, RunFault, RuntimeOptions};
use crate::pipeline::segment::registry::{ModelFile, ModelSpec};

const PROBLEM: &str = "this program was built without the feature `ort`; build it with default features";

/// There is none.
pub enum Session {}

impl Session {
    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn run(&mut self, _: &[f32]) -> Result<(Plane, Option<Vec<f32>>), RunFault> {
        match *self {}
    }
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn check(_: &RuntimeOptions) -> Result<String, String> {
    Err(PROBLEM.into())
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn open(_: &ModelSpec, _: &ModelFile, _: &RuntimeOptions) -> Result<Opened, String> {
    Err(PROBLEM.into())
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn open_with(_: &ModelSpec, _: &ModelFile, _: &RuntimeOptions, _: Provider) -> Result<Session, String> {
    Err(PROBLEM.into())
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn build(_: &ModelSpec, _: &ModelFile, _: &RuntimeOptions, _: Provider, _: &Path) -> Result<Vec<PathBuf>, String> {
    Err(PROBLEM.into())
}
