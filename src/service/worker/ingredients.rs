//! What variations are made of: the picture's file, or what another job made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fetch::{MadeBase, Material};
use super::plan::Plan;
use crate::pipeline::base::{Base, Inputs};
use crate::pipeline::event::Watch;
use crate::pipeline::identity::{self, sha256_hex};
use crate::pipeline::job::Job;
use crate::pipeline::manifest::{Failure, Manifest, Spared};
use crate::pipeline::run::RunOptions;
use crate::service::cache::ResultCache;

/// The material of one run, identified.
pub struct Ingredients<'a> {
    /// The key of the base.
    pub key: String,
    /// SHA-256 of the picture's file, lower-case hex.
    pub sha256: String,
    material: &'a Material,
    cache: &'a ResultCache,
    /// The base once it is there, and whether another job had made it.
    base: std::sync::OnceLock<(Arc<Base>, bool)>,
    unsettled: AtomicBool,
}

impl<'a> Ingredients<'a> {
    /// Hashes what is not known by its hash yet, and remembers that for the next job.
    pub fn new(cache: &'a ResultCache, plan: &Plan, material: &'a Material, options: &RunOptions) -> Self {
        let (key, sha256) = match material {
            Material::Made(MadeBase { key, sha256, .. }) => (key.clone(), sha256.clone()),
            Material::File { bytes, named, fill, fill_named, sha256 } => {
                let sha256 = sha256.clone().unwrap_or_else(|| sha256_hex(bytes));
                let fill = fill.as_deref().map(sha256_hex);
                for (name, hash) in [(named, Some(&sha256)), (fill_named, fill.as_ref())] {
                    if let (Some(name), Some(hash)) = (name, hash) {
                        cache.know_content(&name.address, &name.generation, hash);
                    }
                }
                (identity::base_key(&plan.job, &sha256, fill.as_deref(), options), sha256)
            }
        };
        Self { key, sha256, material, cache, base: Default::default(), unsettled: AtomicBool::new(false) }
    }

    /// The base: as another job left it, or made now.
    ///
    /// # Errors
    /// What is wrong with the picture.
    pub fn base(&self, job: &Job, options: &RunOptions, watch: &Watch<'_>) -> Result<Arc<Base>, Failure> {
        let (base, reused) = match self.material {
            Material::Made(made) => (made.base.clone(), true),
            Material::File { bytes, fill, .. } => self.cache.base_or(&self.key, || {
                let inputs = Inputs { picture: bytes, fill: fill.as_deref() };
                Base::new(inputs, &job.background, options, false, watch).map_err(|error| error.failure())
            })?,
        };
        if !base.is_settled() {
            // Made again, it might be another.
            self.cache.forget_base(&self.key);
            self.unsettled.store(true, Ordering::SeqCst);
        }
        if reused {
            self.cache.base_served(&base);
        }
        Ok(self.base.get_or_init(|| (base, reused)).0.clone())
    }

    /// Writes into the manifest what was spared, and weighs the base with the models that this run has added to it.
    pub fn account(&self, manifest: &mut Manifest) {
        let Some((base, reused)) = self.base.get() else { return };
        if !self.unsettled.load(Ordering::SeqCst) {
            self.cache.weigh(&self.key, base);
        }
        let matte = base.matte_recalled && !reused;
        if *reused || matte {
            let spared = manifest.spared.get_or_insert_with(Spared::default);
            spared.base = *reused;
            spared.matte = matte;
            if *reused {
                let saved: f64 = base.cost_ms.values().sum();
                spared.saved_ms = ((spared.saved_ms + saved) * 1e3).round() / 1e3;
            }
        }
    }
}
