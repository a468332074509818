//! Runs one job: decode once, model once, then every palette and every output, and the manifest last.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::base::{Base, Inputs, Models, PREVIEW_SIDE};
use super::contact_sheet::Plan;
use super::effect;
use super::event::{Event, Watch};
use super::identity::{self, Identity, sha256_hex};
use super::job::{self, Fill, Format, GenerateRequest, Job, PaletteRequest};
use super::manifest::{Failure, Manifest, PreviewCopy, Source, Spared, State};
use super::outlet::{HandOver, Outlet};
use super::output::OutputFolder;
use super::pages::{PageCard, Pages};
use super::palette_file;
use super::plan::{self, Subject, Wanted};
use super::recall::Sparing;
use super::segment::Segmenter;
use super::studio::Studio;
use super::timing::{self, Timings};
use super::variation::{self, Workshop};
use crate::kernel::color::Rgb8;
use crate::kernel::harmony;
use crate::kernel::palette::Palette;

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
    /// Most effects a job may have.
    pub max_effects: usize,
    /// The trained models for background removal.
    pub segmenter: Segmenter,
    /// Whether steps by remote models can be done.
    pub remote_steps: bool,
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
            max_effects: 16,
            segmenter: Segmenter::default(),
            remote_steps: false,
        }
    }
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

/// Runs `job` on the picture in `inputs` and writes everything into `out`.
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
    inputs: Inputs<'_>,
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
    let sha256 = sha256_hex(inputs.picture);
    let identity = Identity::new(job, &content_of(&sha256, inputs.fill.map(sha256_hex).as_deref()), options);
    let outlet = Outlet::Folder(folder);
    let timings = Timings::default();
    let watch = Watch { timings: &timings, observe };
    let base = || match Base::new(inputs, &job.background, options, options.gallery, &watch) {
        Ok(base) => Ok(Arc::new(base)),
        Err(error) => Err(error.failure()),
    };
    let (mut manifest, pages) = in_pool(|| produce(job, &identity, base, sha256, &outlet, options, &watch));
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
/// The job must have passed [`admit`]. `base` gives the picture, made for it by [`Base::new`] or for another job of the same
/// [`base_key`](super::identity::base_key); `sha256` is the source's, lower-case hex.
pub fn make(
    job: &Job,
    identity: &Identity,
    base: impl FnOnce(&Watch<'_>) -> Result<Arc<Base>, Failure> + Send,
    sha256: String,
    hand_over: HandOver<'_>,
    options: &RunOptions,
    observe: &(dyn Fn(Event) + Sync),
) -> Manifest {
    let start = Instant::now();
    let timings = Timings::default();
    let outlet = Outlet::HandOver(hand_over);
    let watch = Watch { timings: &timings, observe };
    let (mut manifest, _) = in_pool(|| produce(job, identity, || base(&watch), sha256, &outlet, options, &watch));
    close(&mut manifest, &timings, start);
    manifest
}

/// What tells the job's pictures apart from all others: that of the base, and of the one that lies behind, each a generation
/// or a hash.
pub fn content_of(picture: &str, fill: Option<&str>) -> String {
    match fill {
        Some(fill) => format!("{picture} {fill}"),
        None => picture.to_owned(),
    }
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

fn produce(
    job: &Job,
    identity: &Identity,
    base: impl FnOnce() -> Result<Arc<Base>, Failure>,
    sha256: String,
    outlet: &Outlet<'_>,
    options: &RunOptions,
    watch: &Watch<'_>,
) -> (Manifest, Option<Pages>) {
    let mut manifest = empty_manifest(job, identity, sha256);
    match base() {
        Ok(base) => {
            let pages = render(job, &base, outlet, options, watch, &mut manifest);
            (manifest, Some(pages))
        }
        Err(error) => {
            manifest.state = State::Failed;
            manifest.error = Some(error);
            (manifest, None)
        }
    }
}

/// The manifest of a job before anything is made.
pub fn empty_manifest(job: &Job, identity: &Identity, sha256: String) -> Manifest {
    Manifest {
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
        background: None,
        steps: Vec::new(),
        spared: None,
        variations: Vec::new(),
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
    if job.effects.len() > options.max_effects {
        return refuse(format!(
            "effects: there are {}; the limit is {}; split the job or raise CONCEPT_MAX_EFFECTS",
            job.effects.len(),
            options.max_effects
        ));
    }
    if !job.steps.is_empty() && !options.remote_steps {
        let problem = "steps: no remote models are set up here; the worker takes them where CONCEPT_REMOTE_TOKEN, or \
                       CONCEPT_REMOTE_URL for a server that needs none, is set";
        return refuse(problem.into());
    }
    // A name that a job spells out must be one; whether the model can be had is seen when it is needed.
    if job.background.model.is_some()
        && let Err(error) = options.segmenter.spec(job.background.model.as_deref())
    {
        return refuse(format!("background.model: {error}"));
    }
    if job.background.is_asked()
        && job.background.method == Some(job::Method::Model)
        && let Err(error) = options.segmenter.spec(job.background.model.as_deref())
    {
        return refuse(format!("background.method: {error}"));
    }
    Ok(())
}

/// The names of the files that a run of `job` makes, before anything is read; copies for upload are not among them.
///
/// Of generated palettes only the names of the first fifteen are sure.
pub fn object_names(job: &Job, options: &RunOptions) -> Vec<String> {
    let palettes = palettes(job, &[]);
    let wanted = plan::wanted(job, &palettes, options).into_iter().map(|(_, wanted)| wanted).collect::<Vec<_>>();
    plan::names(&wanted).into_iter().flat_map(|names| names.outputs).collect()
}

/// The names of the previews that a run of `job` makes, as [`object_names`].
pub fn preview_names(job: &Job, options: &RunOptions) -> Vec<String> {
    let palettes = palettes(job, &[]);
    let wanted = plan::wanted(job, &palettes, options).into_iter().map(|(_, wanted)| wanted).collect::<Vec<_>>();
    plan::names(&wanted).into_iter().filter_map(|names| names.preview).collect()
}

/// The picture's own colours with their shares of the visible area, largest first; at most `colors` of them.
///
/// # Errors
/// [`RunError::Picture`] when the picture cannot be used.
pub fn image_palette(source: &[u8], colors: usize, options: &RunOptions) -> Result<Vec<(Rgb8, f64)>, RunError> {
    let inputs = Inputs { picture: source, fill: None };
    let timings = Timings::default();
    let base = rayon::scope(|_| Base::new(inputs, &Default::default(), options, false, &Watch::silent(&timings)))
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

fn render(
    job: &Job,
    base: &Base,
    outlet: &Outlet<'_>,
    options: &RunOptions,
    watch: &Watch<'_>,
    manifest: &mut Manifest,
) -> Pages {
    let timings = watch.timings;
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
    // Of a palette one of whose colours lies behind, the subject gets the others: there may be models for fewer.
    let good = palettes.iter().filter_map(|(_, p)| p.as_ref().ok());
    let fewer: Vec<Palette> = match (&job.background.fill, base.background.is_some()) {
        (Some(Fill::Color(_) | Fill::Role(_)), true) => {
            good.clone().filter_map(|p| p.colors().first().map(|color| p.clone().without(*color))).collect()
        }
        _ => Vec::new(),
    };
    let good = good.chain(&fewer);
    let side = job.previews.as_ref().map(|request| request.max_dimension).or(options.gallery.then_some(PREVIEW_SIDE));
    // Neither needs the other, and the first preview needs both.
    let iterations = options.kmeans_max_iterations;
    let (preview, ()) = rayon::join(
        || side.and_then(|side| base.preview(side)),
        || Models::prepare(base, job.recolor.mode, good.clone(), iterations),
    );
    let models = Models::new(base, preview.as_ref(), job.recolor.mode, good, iterations);
    timings.add("model", start);

    let (subjects, wanted): (Vec<Subject>, Vec<Wanted>) = plan::wanted(job, &palettes, options).into_iter().unzip();
    let mut planned = plan::plan(wanted, (image.width(), image.height()), options.quality);
    if let Some(memory) = outlet.memory() {
        let made_of = identity::made_key(memory.base, base.background.as_ref());
        for (subject, variation) in subjects.iter().zip(&mut planned) {
            let Some(subject) = shown(*subject, job, &palettes, options) else { continue };
            for output in &mut variation.outputs {
                output.key = Some(identity::file_key(&made_of, &subject, output));
            }
            // Reduced before it is recoloured, it differs from a file of the same size.
            if let Some(output) = &mut variation.preview {
                output.key = Some(identity::file_key(&made_of, &json!(["preview", subject]), output));
            }
        }
    }
    watch.tell(Event::Planned { files: planned.iter().flat_map(plan::files).collect() });
    manifest.background = base.background.clone();
    if let Some(background) = &mut manifest.background {
        let matte = subjects.iter().position(|subject| *subject == Subject::Matte);
        background.matte = matte.and_then(|at| planned[at].outputs.first()).map(|output| output.object.clone());
    }

    let sheet = Plan::new(image.width(), image.height(), planned.len());
    let original = preview.as_ref().filter(|_| options.gallery).map(|preview| {
        let mut raster = base.original_preview(preview);
        let start = Instant::now();
        let preview = variation::preview_file(&mut raster);
        let tile = variation::tile(raster.rewound(), &sheet);
        timings.add("gallery", start);
        (preview, tile)
    });
    let upload_over = options.upload_over;
    let sparing = Sparing::default();
    let gallery = options.gallery;
    let workshop = Workshop { outlet, upload_over, watch: *watch, sparing: &sparing, sheet: &sheet, gallery };
    let preview = preview.as_ref();
    let studio = Studio { job, base, preview, palettes: &palettes, models: &models, workshop: &workshop };
    // Small pictures of everything before the first large one.
    let sketches: Vec<Option<PreviewCopy>> =
        (0..planned.len()).into_par_iter().with_max_len(1).map(|i| studio.sketch(subjects[i], &planned[i])).collect();
    let picture = OnceLock::new();
    let one = |i: usize| studio.make(subjects[i], &planned[i], i < sheet.shown, &picture);
    let is_effect = |i: &usize| matches!(subjects[*i], Subject::Effect(_));
    let (effects, others): (Vec<usize>, Vec<usize>) = (0..planned.len()).partition(is_effect);
    let all = |places: &[usize]| -> Vec<_> { places.par_iter().with_max_len(1).map(|&i| one(i)).collect() };
    let mut results = all(&others);
    // The first effect is there for somebody to look at before the others take the processors.
    let (first, rest) = effects.split_at(effects.len().min(1));
    results.extend(all(first));
    results.extend(all(rest));

    let mut cards = Vec::with_capacity(results.len());
    for (((i, planned), sketch), (mut entries, pictures)) in planned.into_iter().enumerate().zip(sketches).zip(results)
    {
        if let (Some(first), Some(sketch)) = (entries.first_mut(), sketch) {
            first.preview = Some(sketch);
        }
        let first = manifest.variations.len();
        manifest.variations.extend(entries);
        let entries = first..manifest.variations.len();
        let palette = match subjects[i] {
            Subject::Palette(at) => palettes[at].1.as_ref().ok().cloned(),
            Subject::Cutout | Subject::Matte | Subject::Effect(_) => None,
        };
        cards.push(PageCard { name: planned.title, palette, pictures, entries });
    }
    let failed = manifest.variations.iter().filter(|v| v.error.is_some()).count();
    manifest.state = match failed {
        0 => State::Complete,
        n if n < manifest.variations.len() => State::Partial,
        _ => State::Failed,
    };
    let (files, saved_ms) = sparing.total();
    if files > 0 {
        manifest.spared = Some(Spared { files, saved_ms: (saved_ms * 1e3).round() / 1e3, ..Spared::default() });
    }
    Pages { own_colors, original, cards }
}

/// Everything that decides what a variation shows beside the base, as it goes into the keys of its files; none for one that
/// cannot be made.
fn shown(
    subject: Subject,
    job: &Job,
    palettes: &[(String, Result<Palette, Failure>)],
    options: &RunOptions,
) -> Option<Value> {
    // Names and descriptions are no part of a picture.
    let colors_of = |palette: &Palette| {
        let color = |color: &Rgb8| color.to_string();
        json!({
            "colors": palette.colors().iter().map(color).collect::<Vec<_>>(),
            "roles": palette.roles().iter().map(|(role, c)| (role.name(), color(c))).collect::<Vec<_>>(),
            "pins": palette.pins().iter().map(|(from, to)| (color(from), color(to))).collect::<Vec<_>>(),
            "protect": palette.protect().iter().map(color).collect::<Vec<_>>(),
        })
    };
    // A colour or a role is put behind each variation; the base holds all other fills.
    let fill = &job.background.fill;
    Some(match subject {
        Subject::Matte => json!(["matte"]),
        Subject::Cutout => json!(["cutout", fill]),
        Subject::Palette(at) => {
            let palette = palettes[at].1.as_ref().ok()?;
            json!(["palette", colors_of(palette), job.recolor, options.kmeans_max_iterations, fill])
        }
        Subject::Effect(at) => {
            let planned = effect::plan(&job.effects[at], job).ok()?;
            let palette = match &planned.colors {
                Some(effect::Colors::Palette(name)) => {
                    let found = palettes.iter().find(|(known, _)| known == name)?;
                    Some(colors_of(found.1.as_ref().ok()?))
                }
                Some(effect::Colors::List(_)) | None => None,
            };
            let list = match &planned.colors {
                Some(effect::Colors::List(list)) => list.iter().map(Rgb8::to_string).collect(),
                Some(effect::Colors::Palette(_)) | None => Vec::new(),
            };
            json!(["effect", format!("{:?}", planned.effect), palette, list, fill])
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::outlet::Start;
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
        let hand_over = HandOver { start: &|_| Start::Stop, take: &take, memory: None };
        let inputs = Inputs { picture: &picture, fill: None };
        let base = |watch: &Watch<'_>| {
            Base::new(inputs, &job.background, &options, false, watch).map(Arc::new).map_err(|e| e.failure())
        };
        let manifest = make(&job, &identity, base, sha256, hand_over, &options, &|_| ());
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
