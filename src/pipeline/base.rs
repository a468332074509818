//! The base picture: decoded, prescaled, indexed, with everything palettes share. Made once per job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use super::background::{self, Backdrop, BackgroundError};
use super::decode::{self, DecodeError, Limits, Probe};
use super::event::{Event, Step, Watch};
use super::footprint;
use super::job::BackgroundRequest;
use super::manifest;
use super::run::{self, RunOptions};
use super::timing::Timings;
use crate::kernel::cluster::{self, ClusterOptions, MAX_CLUSTERS, Seeding};
use crate::kernel::color::Rgb8;
use crate::kernel::color_bits::ColorBits;
use crate::kernel::gather::{Recolored, gather_row};
use crate::kernel::image::{BaseImage, Raster, pack_rgba};
use crate::kernel::model::{ColorModel, LabPlanes};
use crate::kernel::predecessor::{FaithfulModel, Search, TransferModel};
use crate::kernel::quality::fit::SAMPLE_FOR_MANIFEST;
use crate::kernel::quality::gain::{NeighborPairs, PAIRS_FOR_MANIFEST};
use crate::kernel::quality::sample::Sample;
use crate::kernel::recolor::{ColorSet, ColorWeights};
use crate::kernel::resize;
use crate::kernel::tint;
use crate::kernel::unique::IndexedImage;

/// Longest side of a preview in the gallery, pixels.
pub const PREVIEW_SIDE: u32 = 400;

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The bytes are no picture that can be used.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The background could not be removed.
    #[error(transparent)]
    Background(#[from] BackgroundError),
}

impl BaseError {
    /// As it stands in a manifest, with the setting that lifts a limit named in it.
    pub fn failure(&self) -> manifest::Failure {
        let message = run::explain(self.to_string(), self.class());
        manifest::Failure { class: self.class().into(), message }
    }

    /// The short, stable class, as in manifests.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.class(),
            Self::Background(error) => error.class(),
        }
    }
}

/// The bytes that a job works on.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The picture.
    pub picture: &'a [u8],
    /// The picture that takes its background's place, where the job names one.
    pub fill: Option<&'a [u8]>,
}

/// A picture ready for palettes. Whatever palettes and files are made of it, it stays the same, so that several jobs can share it.
pub struct Base {
    /// What its header said.
    pub probe: Probe,
    /// The picture in full.
    pub full: Colors,
    /// Its colours gathered into bins, seeded for clustering.
    pub seeding: Seeding,
    /// Pairs of the picture's own colours one step apart.
    pub neighbors: NeighborPairs,
    /// A bounded sample of its colours with their shares, for figures that need no more.
    pub sample: SampledColors,
    /// Lightness of all but the extreme half per cent of pixels at either end.
    pub lightness: (f32, f32),
    /// Whether every pixel is either opaque or hidden.
    pub hard_alpha: bool,
    /// What became of the background, where it was asked for.
    pub background: Option<manifest::Background>,
    /// What lies behind variations, where that is a picture.
    pub backdrop: Option<Backdrop>,
    /// Milliseconds that making it took, summed over threads, by stage.
    pub cost_ms: BTreeMap<String, f64>,
    /// Whether a model was asked for its matte and had seen the picture before.
    pub matte_recalled: bool,
    /// The preview with its background, where that was removed and somebody will look.
    original: Option<Raster>,
    /// Colour models made so far.
    models: Mutex<BTreeMap<ModelKey, SharedModel>>,
}

/// Number of palette colours that a model is for, and the most iterations.
type ModelKey = (usize, u32);

/// A soft model, and the weights of the base's own colours.
type SharedModel = (Arc<ColorModel>, Arc<ColorWeights>);

/// An indexed picture with the coordinates of its colours.
pub struct Colors {
    /// Pixels as indices into unique colours.
    pub image: IndexedImage,
    /// Coordinates of the colours.
    pub labs: LabPlanes,
}

impl Colors {
    fn new(image: BaseImage, sample_size: u32) -> (Self, ColorBits) {
        let (image, bits) = IndexedImage::with_bits(image, sample_size);
        let labs = LabPlanes::new(image.colors());
        (Self { image, labs }, bits)
    }

    /// The table that leaves every colour as it is.
    pub fn unchanged(&self) -> Vec<u32> {
        self.image.colors().iter().copied().chain([0]).collect()
    }
}

/// A few thousand colours that stand for the picture's area.
pub struct SampledColors {
    /// Their places among the picture's colours.
    pub places: Vec<u32>,
    /// The colours.
    pub colors: Vec<u32>,
    /// Their coordinates.
    pub labs: LabPlanes,
    /// Their shares.
    pub sample: Sample,
}

impl SampledColors {
    fn new(image: &IndexedImage) -> Self {
        let chosen = Sample::new(image.counts(), SAMPLE_FOR_MANIFEST);
        let places: Vec<u32> = chosen.entries().iter().map(|e| e.0).collect();
        let colors: Vec<u32> = places.iter().map(|&i| image.colors()[i as usize]).collect();
        // Shares as counts in a millionth: the sample's own form, one entry a colour.
        let counts: Vec<u32> = chosen.entries().iter().map(|e| (e.1 * 1e6).max(1.0) as u32).collect();
        let labs = LabPlanes::new(&colors);
        Self { places, labs, sample: Sample::new(&counts, colors.len()), colors }
    }

    /// The entries of a table at the sample's places.
    pub fn of(&self, table: &[u32]) -> Vec<u32> {
        self.places.iter().map(|&i| table[i as usize]).collect()
    }
}

impl Base {
    /// Decodes the picture, brings it down to the limits of `options`, does to its background what `request` asks, and indexes it.
    /// With `original`, a small picture of how it was before is kept for [`Base::original_preview`].
    ///
    /// # Errors
    /// [`BaseError`] when the bytes are no picture that can be used, or a model gave no matte.
    pub fn new(
        inputs: Inputs<'_>,
        request: &BackgroundRequest,
        options: &RunOptions,
        original: bool,
        watch: &Watch<'_>,
    ) -> Result<Self, BaseError> {
        // Its own times, so that whoever is given the base later knows what that spared.
        let timings = Timings::default();
        let made = Self::timed(inputs, request, options, original, watch, &timings);
        watch.timings.add_all(&timings);
        made.map(|base| Self { cost_ms: timings.to_map(), ..base })
    }

    fn timed(
        inputs: Inputs<'_>,
        request: &BackgroundRequest,
        options: &RunOptions,
        original: bool,
        watch: &Watch<'_>,
        timings: &Timings,
    ) -> Result<Self, BaseError> {
        watch.tell(Event::Stage(Step::Decoding));
        let source = inputs.picture;
        let limits = Limits { max_pixels: options.max_pixels, max_source_bytes: u64::MAX, ..Limits::default() };
        let start = Instant::now();
        let probe = decode::probe(source, &limits)?;
        let image = decode::decode(source, &limits)?;
        timings.add("decode", start);
        let start = Instant::now();
        let image = resize::prescale(image, options.max_dimension, 0);
        timings.add("prescale", start);
        let original = (original && request.is_asked()).then(|| {
            let (width, height) = resize::fit(image.width(), image.height(), PREVIEW_SIDE, 0);
            raster(&resize::reduce_stepping(
                &image,
                width,
                height,
                preview_step(image.width(), image.height(), PREVIEW_SIDE),
            ))
        });
        let mut matte_recalled = false;
        let (image, backdrop, background) = if request.is_asked() {
            watch.tell(Event::Stage(Step::Removing));
            let (models, most) = (&options.segmenter, options.max_pixels);
            let stage = background::remove(image, request, models, inputs.fill, most, timings)?;
            matte_recalled = stage.recalled;
            (stage.image, stage.backdrop, Some(stage.record))
        } else {
            (image, None, None)
        };
        watch.tell(Event::Stage(Step::Clustering));
        let start = Instant::now();
        let (full, bits) = Colors::new(image, options.clustering_sample_size);
        let neighbors = NeighborPairs::among(&bits, full.image.colors(), PAIRS_FOR_MANIFEST);
        drop(bits);
        let points = {
            let Colors { image, labs } = &full;
            cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts())
        };
        let sample = SampledColors::new(&full.image);
        let lightness = tint::lightness_range(&full.labs, full.image.counts());
        let hard_alpha = full.image.alpha().is_none_or(|a| a.par_iter().all(|v| matches!(v, 0 | 255)));
        timings.add("index", start);
        let start = Instant::now();
        let seeding = Seeding::new(points, MAX_CLUSTERS);
        timings.add("model", start);
        Ok(Self {
            probe,
            full,
            seeding,
            neighbors,
            sample,
            lightness,
            hard_alpha,
            background,
            backdrop,
            cost_ms: BTreeMap::new(),
            matte_recalled,
            original,
            models: Mutex::default(),
        })
    }

    /// The same picture with a longest side of at most `side` pixels, indexed. Palettes are tried on it fast.
    pub fn preview(&self, side: u32) -> Option<Colors> {
        let image = &self.full.image;
        let size = (image.width(), image.height());
        let table = self.full.unchanged();
        let read = |y: usize, row: &mut [u32]| gather_row(image, &table, y, row);
        let (fitted, step) = (resize::fit(size.0, size.1, side, 0), preview_step(size.0, size.1, side));
        resize::reduce_read(size, image.alpha().is_some(), read, fitted, step).map(|small| Colors::new(small, 0).0)
    }

    /// The preview as it was before anything was done to it, for the gallery's original.
    pub fn original_preview(&self, preview: &Colors) -> Raster {
        let original = || Raster::read(&mut Recolored::new(&preview.image, &preview.unchanged()));
        self.original.clone().unwrap_or_else(original)
    }

    /// The soft model for palettes of `palette_colors` colours, made once.
    pub fn soft_model(&self, palette_colors: usize, max_iterations: u32) -> SharedModel {
        let key = (palette_colors, max_iterations);
        if let Some(made) = self.models().get(&key) {
            return made.clone();
        }
        // Not under the lock: another thread may wait for it inside one of the parallel parts.
        let Colors { image, labs } = &self.full;
        let model = ColorModel::new(image, labs, &self.seeding, &self.neighbors, palette_colors, max_iterations);
        let weights = ColorWeights::new(&model, labs);
        self.models().entry(key).or_insert_with(|| (Arc::new(model), Arc::new(weights))).clone()
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<ModelKey, SharedModel>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that what lies behind takes while variations are made on this many threads, itself included.
    pub fn backdrop_bytes(&self, threads: usize) -> u64 {
        match &self.backdrop {
            None | Some(Backdrop::Blurred(_)) => 0,
            Some(Backdrop::Picture(fill)) => {
                let (width, height) = (self.full.image.width(), self.full.image.height());
                footprint::cover_bytes((fill.width(), fill.height()), (width, height), threads)
            }
        }
    }

    /// Whether it would be the same if it were made again: a background that was kept for want of a sure matte may be removed
    /// when a model can be had.
    pub fn is_settled(&self) -> bool {
        self.background.as_ref().is_none_or(|background| background.removed)
    }

    /// Bytes that it takes, its models included; a little is estimated.
    pub fn bytes(&self) -> u64 {
        let image = &self.full.image;
        let pixels = u64::from(image.width()) * u64::from(image.height());
        let colors = image.colors().len() as u64;
        let backdrop = self.backdrop.as_ref().map_or(0, Backdrop::bytes);
        let alpha = if image.alpha().is_some() { pixels } else { 0 };
        let models: usize = self.models().values().map(|(_, weights)| MODEL_BYTES + weights.bytes()).sum();
        BASE_BYTES + 3 * pixels + alpha + 20 * colors + backdrop + models as u64
    }

    /// The picture's own colours with their shares, largest first, at most `count` of them.
    ///
    /// A cluster is shown by its most frequent colour when that makes up a fifth of it, as in flat art, else by its
    /// mean.
    pub fn palette(&self, count: usize, max_iterations: u32) -> Vec<(Rgb8, f64)> {
        let options = ClusterOptions {
            max_iterations,
            min_share: 0.002,
            merge_distance: 4.0,
            min_clusters: count.min(MAX_CLUSTERS),
            max_clusters: count,
        };
        let clusters = if count > MAX_CLUSTERS {
            Seeding::new(self.seeding.points().to_vec(), count).clusters(&options)
        } else {
            self.seeding.clusters(&options)
        };
        let mut weight = vec![0f32; clusters.len()];
        let mut top = vec![(0f32, 0u32); clusters.len()];
        for &(i, share) in self.sample.sample.entries() {
            let c = cluster::nearest(&clusters, self.sample.labs.get(i as usize));
            weight[c] += share;
            if share > top[c].0 {
                top[c] = (share, self.sample.colors[i as usize]);
            }
        }
        clusters
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let flat = top[i].0 > 0.0 && top[i].0 * 5.0 >= weight[i];
                let color = if flat { Rgb8::from_packed(top[i].1) } else { c.center.to_rgb8() };
                (color, f64::from(c.share))
            })
            .collect()
    }
}

/// What a base takes beside its pixels and colours: bins, samples, pairs. Bytes.
const BASE_BYTES: u64 = 2 << 20;

/// What a colour model takes beside its weights, bytes.
const MODEL_BYTES: usize = 256 << 10;

/// Every second row of a large picture is plenty for a preview of this longest side.
fn preview_step(width: u32, height: u32, side: u32) -> u32 {
    (width.max(height) / (2 * side.max(1))).max(1)
}

/// The pixels of a picture.
pub fn raster(image: &BaseImage) -> Raster {
    let alpha = (0..).map(|i| image.alpha().map_or(255, |alpha| alpha[i]));
    let pixels = image.rgb().chunks_exact(3).zip(alpha).map(|(c, a)| pack_rgba(c[0], c[1], c[2], a));
    Raster::of_length(image.width(), image.height(), pixels.collect())
}

/// Colour models of one base, and of its preview where there is one, by what they depend on.
pub enum Models<'a> {
    /// Mode `soft` and `exact`: by the number of clusters wanted.
    Soft(BTreeMap<usize, SoftModel<'a>>),
    /// Mode `transfer`: by the number of clusters.
    Transfer(BTreeMap<usize, (TransferModel, Option<TransferModel>)>),
    /// Mode `faithful`: by the number of clusters.
    Faithful(BTreeMap<usize, (FaithfulModel, Option<FaithfulModel>)>),
    /// Mode `tint` needs none.
    None,
}

/// A soft model with the weights of the full picture's and the preview's colours.
pub struct SoftModel<'a> {
    /// The model.
    pub model: Arc<ColorModel>,
    /// The full picture's colours.
    pub full: ColorSet<'a>,
    /// The preview's.
    pub preview: Option<ColorSet<'a>>,
}

impl<'a> SoftModel<'a> {
    /// Models `base` for palettes of `palette_colors` colours, and `preview` along with it.
    pub fn new(base: &'a Base, preview: Option<&'a Colors>, palette_colors: usize, max_iterations: u32) -> Self {
        let Colors { image, labs } = &base.full;
        let (model, weights) = base.soft_model(palette_colors, max_iterations);
        let full = ColorSet::weighted(image.colors(), labs, weights);
        let preview = preview.map(|p| ColorSet::new(&model, p.image.colors(), &p.labs));
        Self { model, full, preview }
    }
}

/// The predecessor's models of the full picture and, with the same centres, of the preview.
macro_rules! predecessor_model {
    ($name:ident, $model:ident) => {
        /// Models `base` with `k` clusters.
        pub fn $name(base: &Base, preview: Option<&Colors>, k: usize, max_iterations: u32) -> ($model, Option<$model>) {
            let image = &base.full.image;
            let search = Search { max_iterations: max_iterations.min(100), ..Search::default() };
            let full = $model::new(image.colors(), image.counts(), k, &search);
            let preview = preview.map(|p| $model::with_centres(p.image.colors(), p.image.counts(), full.centres()));
            (full, preview)
        }
    };
}

predecessor_model!(transfer_model, TransferModel);
predecessor_model!(faithful_model, FaithfulModel);
