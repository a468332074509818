//! Runs one job: decode once, model once, then every palette and every output, and the manifest last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::base::Base;
use super::contact_sheet::{self, Plan, Tile};
use super::encode::{self, EncodeOptions};
use super::gallery::{self, Card, Preview};
use super::identity::{Identity, sha256_hex};
use super::job::{self, BackgroundAction, Format, GenerateRequest, Job, OutputRequest, PaletteRequest};
use super::manifest::{Failure, Manifest, Source, State, VariationEntry};
use super::outlet::{HandOver, Outlet, Start};
use super::output::OutputFolder;
use super::palette_file;
use super::recoloring::Recoloring;
use super::timing::{self, Timings};
use super::variation::{self, Pictures, PlannedOutput, PlannedVariation};
use crate::kernel::color::Rgb8;
use crate::kernel::harmony;
use crate::kernel::image::Raster;
use crate::kernel::palette::{Palette, Role};
use crate::pipeline::base::Models;

/// Changes when the same job would give other pictures.
pub const RECIPE_VERSION: &str = "1";

/// The colours of the picture that the gallery shows and that harmonies are made of.
const OWN_COLORS: usize = 8;

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
    pub format: Format,
    /// Most palettes a job may have.
    pub max_palettes: usize,
    /// Most outputs a job may have.
    pub max_outputs: usize,
    /// Write gallery.html and contact-sheet.png.
    pub gallery: bool,
    /// Size in bytes above which a PNG is made as a JPEG, too; none makes no such copies.
    pub upload_over: Option<u64>,
}

impl Default for RunOptions {
    /// The defaults of the settings, with a gallery and without copies for upload.
    fn default() -> Self {
        Self {
            max_dimension: 0,
            max_pixels: 50_000_000,
            kmeans_max_iterations: 50,
            clustering_sample_size: 1024,
            quality: 85,
            format: Format::Png,
            max_palettes: 64,
            max_outputs: 16,
            gallery: true,
            upload_over: None,
        }
    }
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
/// A picture that cannot be used gives a manifest of state failed, which is written too. A variation that fails is
/// listed with its error and does not stop the others. The manifest is written last: where there is one, everything it
/// lists is complete.
///
/// It runs on a thread of the pool it is called from. Of two calls at once in one pool, the second can be worked off while the
/// first waits for its own parts; give runs that must not wait for each other a pool each.
///
/// # Errors
/// [`RunError`] when the job is not valid or `out` cannot be written.
pub fn run(
    job: &Job,
    source: &[u8],
    out: &Path,
    options: &RunOptions,
    observe: &(dyn Fn(Event) + Sync),
) -> Result<Manifest, RunError> {
    let start = Instant::now();
    admit(job, options)?;
    let output_error = |source| RunError::Output { path: out.display().to_string(), source };
    let folder = OutputFolder::open(out).map_err(output_error)?;
    // From here until the new manifest is written, none says that the folder is complete, and no page shows another
    // run's pictures.
    for stale in ["manifest.json", "gallery.html", "contact-sheet.png"] {
        folder.remove(stale).map_err(output_error)?;
    }
    let sha256 = sha256_hex(source);
    let identity = Identity::new(job, &sha256, options);
    let outlet = Outlet::Folder(folder);
    let timings = Timings::default();
    let (mut manifest, pages) =
        in_pool(|| produce(job, &identity, source, sha256, &outlet, options, &timings, observe));
    let Outlet::Folder(folder) = outlet else { return Ok(manifest) };
    let shown = pages.filter(|_| options.gallery).map_or(Ok(()), |pages| {
        timings.add("total", start);
        close(&mut manifest, &timings, start);
        in_pool(|| pages.write(&folder, &mut manifest, &timings))
    });
    close(&mut manifest, &timings, start);
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| output_error(error.into()))?;
    folder.write("manifest.json", &json).map_err(output_error)?;
    // A page that did not fit on the disk must not cost the record of the files that did.
    shown.map_err(output_error)?;
    Ok(manifest)
}

/// Runs `job` like [`run`], but hands each file over as soon as it is made, and writes nothing itself: neither pages nor the
/// manifest, which is for the caller to complete and store.
///
/// The job must have passed [`admit`]. `sha256` is the source's, lower-case hex.
pub fn make(
    job: &Job,
    identity: &Identity,
    source: &[u8],
    sha256: String,
    hand_over: HandOver<'_>,
    options: &RunOptions,
    observe: &(dyn Fn(Event) + Sync),
) -> Manifest {
    let start = Instant::now();
    let timings = Timings::default();
    let outlet = Outlet::HandOver(hand_over);
    let (mut manifest, _) = in_pool(|| produce(job, identity, source, sha256, &outlet, options, &timings, observe));
    close(&mut manifest, &timings, start);
    manifest
}

/// On one of the pool's own threads: every parallel loop that is entered from outside waits for one to wake up.
fn in_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// Writes down what it took so far.
fn close(manifest: &mut Manifest, timings: &Timings, start: Instant) {
    manifest.timings_ms = timings.to_map();
    manifest.timings_ms.insert("total".into(), (start.elapsed().as_secs_f64() * 1e6).round() / 1e3);
    manifest.peak_bytes = timing::peak_bytes();
}

#[allow(clippy::too_many_arguments, reason = "the run's whole context; a struct of it would be used once")]
fn produce(
    job: &Job,
    identity: &Identity,
    source: &[u8],
    sha256: String,
    outlet: &Outlet<'_>,
    options: &RunOptions,
    timings: &Timings,
    observe: &(dyn Fn(Event) + Sync),
) -> (Manifest, Option<Pages>) {
    let mut manifest = Manifest {
        job_id: identity.job_id.clone(),
        user_id: job.user_id.clone().unwrap_or_else(|| "_".into()),
        key: identity.key.clone(),
        state: State::Complete,
        source: Source { uri: Source::shown(&job.source), sha256, ..Source::default() },
        recipe_version: RECIPE_VERSION.into(),
        timings_ms: Default::default(),
        peak_bytes: 0,
        error: None,
        message: None,
        message_object: None,
        variations: Vec::new(),
    };
    match Base::new(source, options, options.gallery, timings) {
        Ok(base) => {
            let pages = render(job, &base, outlet, options, timings, &mut manifest, observe);
            (manifest, Some(pages))
        }
        Err(error) => {
            manifest.state = State::Failed;
            let message = explain(error.to_string(), error.class());
            manifest.error = Some(Failure { class: error.class().into(), message });
            (manifest, None)
        }
    }
}

/// The text of a picture's error, with the setting that lifts a limit named in it.
pub fn explain(message: String, class: &str) -> String {
    if class == "picture-too-large" { message.replace("raise the limit", "raise CONCEPT_MAX_PIXELS") } else { message }
}

/// Refuses what cannot be run as written.
///
/// # Errors
/// [`RunError::Job`] names the field and the cure.
pub fn admit(job: &Job, options: &RunOptions) -> Result<(), RunError> {
    job.validate().map_err(|error| RunError::Job(error.to_string()))?;
    let refuse = |problem: String| Err(RunError::Job(problem));
    let palettes = match &job.palettes {
        PaletteRequest::List(list) => list.len(),
        PaletteRequest::Generate(GenerateRequest { generate }) => *generate as usize,
    };
    if palettes > options.max_palettes {
        return refuse(format!(
            "palettes: there are {palettes}; the limit is {}; split the job or raise CONCEPT_MAX_PALETTES",
            options.max_palettes
        ));
    }
    if job.outputs.len() > options.max_outputs {
        return refuse(format!(
            "outputs: there are {}; the limit is {}; split the job or raise CONCEPT_MAX_OUTPUTS",
            job.outputs.len(),
            options.max_outputs
        ));
    }
    for (asked, field) in [
        (!job.effects.is_empty(), "effects"),
        (job.background.action == BackgroundAction::Remove || job.background.matte, "background"),
        (!job.steps.is_empty(), "steps"),
    ] {
        if asked {
            return refuse(format!("{field}: not available in this version yet; leave the field out"));
        }
    }
    Ok(())
}

/// The files that are made of every variation: the job's, or the one of the settings.
pub fn outputs(job: &Job, options: &RunOptions) -> Vec<OutputRequest> {
    if !job.outputs.is_empty() {
        return job.outputs.clone();
    }
    vec![OutputRequest {
        format: options.format,
        quality: None,
        max_dimension: None,
        lossless: false,
        progressive: false,
        chroma: job::Chroma::Auto,
        effort: job::Effort::Fast,
    }]
}

/// The names of the files that a run of `job` makes, before anything is read; copies for upload are not among them.
///
/// Of generated palettes only the names of the first fifteen are sure.
pub fn object_names(job: &Job, options: &RunOptions) -> Vec<String> {
    let names: Vec<String> = palettes(job, &[]).into_iter().map(|(name, _)| name).collect();
    variation::object_names(&names, &outputs(job, options)).into_iter().flatten().collect()
}

/// The picture's own colours with their shares of the visible area, largest first; at most `colors` of them.
///
/// # Errors
/// [`RunError::Picture`] when the picture cannot be used.
pub fn image_palette(source: &[u8], colors: usize, options: &RunOptions) -> Result<Vec<(Rgb8, f64)>, RunError> {
    let base = rayon::scope(|_| Base::new(source, options, false, &Timings::default()))
        .map_err(|error| RunError::Picture(explain(error.to_string(), error.class())))?;
    Ok(base.palette(colors, options.kmeans_max_iterations))
}

/// The palettes of a job, each checked; a bad one fails alone.
fn palettes(job: &Job, own: &[(Rgb8, f64)]) -> Vec<(String, Result<Palette, Failure>)> {
    match &job.palettes {
        PaletteRequest::List(list) => list
            .iter()
            .enumerate()
            .map(|(i, spec)| {
                let palette = palette_file::from_spec(i, spec)
                    .map_err(|error| Failure { class: "bad-palette".into(), message: error.to_string() });
                (spec.name.clone(), palette)
            })
            .collect(),
        PaletteRequest::Generate(GenerateRequest { generate }) => {
            let own: Vec<(Rgb8, f32)> = own.iter().map(|&(color, share)| (color, share as f32)).collect();
            let made = harmony::harmonies(&own, *generate as usize);
            made.into_iter().map(|p| (p.name().to_owned(), Ok(p))).collect()
        }
    }
}

/// What the gallery and the contact sheet are made of once all variations are there.
struct Pages {
    own_colors: Vec<(Rgb8, f64)>,
    original: Option<(Preview, Raster)>,
    cards: Vec<PageCard>,
}

struct PageCard {
    name: String,
    palette: Option<Palette>,
    pictures: Option<Pictures>,
    /// Places of its entries in the manifest.
    entries: std::ops::Range<usize>,
}

fn render(
    job: &Job,
    base: &Base,
    outlet: &Outlet<'_>,
    options: &RunOptions,
    timings: &Timings,
    manifest: &mut Manifest,
    observe: &(dyn Fn(Event) + Sync),
) -> Pages {
    let image = &base.full.image;
    manifest.source.width = image.width();
    manifest.source.height = image.height();
    manifest.source.format = base.probe.format.name().into();
    manifest.source.unique_colors = image.colors().len() as u64;

    let start = Instant::now();
    // A clustering of its own, for those who look at it.
    let own_colors = match options.gallery || matches!(job.palettes, PaletteRequest::Generate(_)) {
        true => base.palette(OWN_COLORS, options.kmeans_max_iterations),
        false => Vec::new(),
    };
    let palettes = palettes(job, &own_colors);
    let good = palettes.iter().filter_map(|(_, p)| p.as_ref().ok());
    let models = Models::new(base, job.recolor.mode, good, options.kmeans_max_iterations);
    timings.add("model", start);

    let outputs = outputs(job, options);
    let planned = variation::plan(&palettes, &outputs, (image.width(), image.height()), options.quality);
    observe(Event::Planned { total: planned.iter().map(|v| v.outputs.len()).sum() });

    let sheet = Plan::new(image.width(), image.height(), planned.len());
    let original = options.gallery.then(|| base.original_preview()).flatten().map(|mut raster| {
        let start = Instant::now();
        let preview = variation::preview_file(&mut raster);
        let tile = variation::tile(raster.rewound(), &sheet);
        timings.add("gallery", start);
        (preview, tile)
    });
    let results: Vec<(Vec<VariationEntry>, Option<Pictures>)> = planned
        .par_iter()
        .enumerate()
        .with_max_len(1)
        .map(|(i, planned)| {
            let palette = match &palettes[i].1 {
                Ok(palette) => palette,
                Err(failure) => return (fail(planned, failure, observe), None),
            };
            // Time may be up before a variation is begun: then nothing of it is computed.
            if planned.outputs.iter().all(|output| outlet.start(&output.object) == Start::Stop) {
                return (fail(planned, &variation::stopped(), observe), None);
            }
            // A bug must cost one variation, not the job.
            let made = catch_unwind(AssertUnwindSafe(|| {
                let recoloring = Recoloring::new(base, &models, palette, &job.recolor, timings);
                variation::make(
                    base,
                    &recoloring,
                    palette,
                    planned,
                    outlet,
                    options.upload_over,
                    timings,
                    observe,
                    i < sheet.shown,
                    &sheet,
                )
            }));
            made.unwrap_or_else(|_| {
                let message = "the engine failed on this palette; report it with the picture and the palette".into();
                (fail(planned, &Failure { class: "internal".into(), message }, observe), None)
            })
        })
        .collect();

    let mut cards = Vec::with_capacity(results.len());
    for ((name, palette), (entries, pictures)) in palettes.into_iter().zip(results) {
        let first = manifest.variations.len();
        manifest.variations.extend(entries);
        let entries = first..manifest.variations.len();
        cards.push(PageCard { name, palette: palette.ok(), pictures, entries });
    }
    let failed = manifest.variations.iter().filter(|v| v.error.is_some()).count();
    manifest.state = match failed {
        0 => State::Complete,
        n if n < manifest.variations.len() => State::Partial,
        _ => State::Failed,
    };
    Pages { own_colors, original, cards }
}

/// Entries of a variation none of whose files was made.
fn fail(planned: &PlannedVariation, failure: &Failure, observe: &(dyn Fn(Event) + Sync)) -> Vec<VariationEntry> {
    planned
        .outputs
        .iter()
        .map(|output: &PlannedOutput| {
            observe(Event::Failed { name: planned.name.clone(), message: failure.message.clone() });
            VariationEntry { error: Some(failure.clone()), ..output.entry(planned) }
        })
        .collect()
}

impl Pages {
    fn write(self, folder: &OutputFolder, manifest: &mut Manifest, timings: &Timings) -> std::io::Result<()> {
        let Some((original, original_tile)) = &self.original else { return Ok(()) };
        let start = Instant::now();
        let tiles: Vec<Tile<'_>> = self
            .cards
            .iter()
            .map(|card| Tile {
                title: &card.name,
                colors: card.palette.as_ref().map_or(&[], |p| p.colors()),
                raster: card.pictures.as_ref().and_then(|p| p.tile.as_ref()),
            })
            .collect();
        let mut sheet = contact_sheet::contact_sheet(original_tile, &tiles);
        let mut file = folder.create("contact-sheet.png")?;
        encode::encode(&mut sheet, &EncodeOptions::new(Format::Png), &mut file).map_err(std::io::Error::other)?;
        file.commit()?;
        let cards: Vec<Card<'_>> = self
            .cards
            .iter()
            .map(|card| Card {
                title: &card.name,
                description: card.palette.as_ref().and_then(|p| p.description()),
                colors: card.palette.as_ref().map_or(&[], |p| p.colors()),
                labels: card
                    .palette
                    .as_ref()
                    .map(|p| palette_file::labels(p).into_iter().map(|role| role.map(Role::name)).collect())
                    .unwrap_or_default(),
                preview: card.pictures.as_ref().map(|p| &p.preview),
                entries: &manifest.variations[card.entries.clone()],
            })
            .collect();
        let page = gallery::html(manifest, original, &self.own_colors, &cards);
        folder.write("gallery.html", page.as_bytes())?;
        timings.add("gallery", start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn when_time_is_up_nothing_more_is_computed_and_every_file_says_so() {
        let picture = std::fs::read("fixtures/images/photo.jpg").unwrap();
        let job = Job::from_json(br#"{"source": "photo.jpg", "palettes": {"generate": 3}}"#).unwrap();
        let options = RunOptions { gallery: false, ..RunOptions::default() };
        let sha256 = sha256_hex(&picture);
        let identity = Identity::new(&job, &sha256, &options);
        let taken = AtomicUsize::new(0);
        let take = |_| {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let hand_over = HandOver { start: &|_| Start::Stop, take: &take };
        let manifest = make(&job, &identity, &picture, sha256, hand_over, &options, &|_| ());
        assert_eq!((manifest.variations.len(), taken.into_inner()), (3, 0));
        for entry in &manifest.variations {
            assert_eq!(entry.error.as_ref().unwrap().class, variation::STOPPED);
            assert!(entry.metrics.is_empty());
        }
        for stage in ["assign", "table", "encode"] {
            assert!(!manifest.timings_ms.contains_key(stage), "{stage}");
        }
    }
}
