//! What a job makes, before anything is made: its variations in the manifest's order, and the names of their files.

use super::effect;
use super::encode::EncodeOptions;
use super::event::PlannedFile;
use super::job::{BackgroundAction, Format, Job, OutputRequest};
use super::manifest::{Failure, VariationEntry};
use super::output::ObjectNames;
use super::run::RunOptions;
use crate::kernel::color::Rgb8;
use crate::kernel::palette::Palette;
use crate::kernel::resize;

/// What transparent pixels are filled with in formats without alpha.
pub const FILL: Rgb8 = Rgb8::new(255, 255, 255);

/// What a variation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The picture as it is after its background was removed.
    Cutout,
    /// Its alpha.
    Matte,
    /// The palette at this place.
    Palette(usize),
    /// The effect at this place.
    Effect(usize),
}

/// Every variation that a job asks for, in the manifest's order.
pub fn wanted(
    job: &Job,
    palettes: &[(String, Result<Palette, Failure>)],
    options: &RunOptions,
) -> Vec<(Subject, Wanted)> {
    let outputs = outputs(job, options);
    let preview = job.previews.as_ref().map(|request| OutputRequest {
        quality: Some(request.quality),
        max_dimension: Some(request.max_dimension),
        ..OutputRequest::plain(Format::Webp)
    });
    let effect = |name: &str, outputs: Vec<OutputRequest>| Wanted {
        kind: Kind::Effect,
        name: name.into(),
        title: name.into(),
        params: None,
        colors: Vec::new(),
        outputs,
        preview: preview.clone(),
    };
    if job.background.matte {
        return vec![(Subject::Matte, effect("matte", outputs))];
    }
    let mut wanted = Vec::new();
    if job.background.action == BackgroundAction::Remove {
        wanted.push((Subject::Cutout, effect("cutout", outputs.clone())));
        wanted.push((Subject::Matte, effect("matte", vec![OutputRequest::plain(Format::Png)])));
    }
    for (i, (name, palette)) in palettes.iter().enumerate() {
        let colors = palette.as_ref().map(|p| p.colors().to_vec()).unwrap_or_default();
        let outputs = outputs.clone();
        let (name, title, preview) = (name.clone(), name.clone(), preview.clone());
        let kind = Kind::Palette;
        wanted.push((Subject::Palette(i), Wanted { kind, name, title, params: None, colors, outputs, preview }));
    }
    for (i, request) in job.effects.iter().enumerate() {
        // An unknown one does not get past the job's own check; its name would do.
        let name = effect::canonical(request.name()).unwrap_or(request.name());
        let (title, params) = (effect::title(request), request.params().cloned());
        wanted.push((Subject::Effect(i), Wanted { title, params, ..effect(name, outputs.clone()) }));
    }
    wanted
}

/// The files that are made of every variation: the job's, or the one of the settings.
pub fn outputs(job: &Job, options: &RunOptions) -> Vec<OutputRequest> {
    if !job.outputs.is_empty() {
        return job.outputs.clone();
    }
    vec![OutputRequest::plain(options.format)]
}

/// A file to make.
pub struct PlannedOutput {
    /// Its name.
    pub object: String,
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// How to encode it.
    pub encode: EncodeOptions,
    /// Under which key it is remembered, where somebody does.
    pub key: Option<String>,
}

/// What a variation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The picture in a palette.
    Palette,
    /// The picture with an effect; its cut-out and its matte count as such.
    Effect,
}

/// A variation to make: what it is, how it is called, and its files, as asked for or as planned.
pub struct Variation<Output> {
    /// What it is.
    pub kind: Kind,
    /// The palette's or the effect's name.
    pub name: String,
    /// What a person calls it.
    pub title: String,
    /// The effect's parameters.
    pub params: Option<Parameters>,
    /// The palette's colours.
    pub colors: Vec<Rgb8>,
    /// Its files, in the job's order.
    pub outputs: Vec<Output>,
    /// The small picture that is made before them.
    pub preview: Option<Output>,
}

/// A variation that a job asks for.
pub type Wanted = Variation<OutputRequest>;

/// The same once its files have names and sizes.
pub type PlannedVariation = Variation<PlannedOutput>;

/// Parameters as a job gives them.
pub type Parameters = serde_json::Map<String, serde_json::Value>;

/// Names every file of every variation, in order, so that names do not depend on what succeeds.
pub fn plan(wanted: Vec<Wanted>, base: (u32, u32), quality: u8) -> Vec<PlannedVariation> {
    let names = names(&wanted);
    let planned = |output: &OutputRequest, object: String| PlannedOutput {
        object,
        size: resize::fit(base.0, base.1, output.max_dimension.unwrap_or(0), 0),
        encode: EncodeOptions {
            format: output.format,
            quality: output.quality.unwrap_or(quality),
            lossless: output.lossless,
            progressive: output.progressive,
            chroma: output.chroma,
            effort: output.effort,
            fill: FILL,
        },
        key: None,
    };
    wanted
        .into_iter()
        .zip(names)
        .map(|(wanted, names)| PlannedVariation {
            kind: wanted.kind,
            name: wanted.name,
            title: wanted.title,
            params: wanted.params,
            colors: wanted.colors,
            outputs: wanted.outputs.iter().zip(names.outputs).map(|(output, name)| planned(output, name)).collect(),
            preview: wanted.preview.as_ref().zip(names.preview).map(|(output, name)| planned(output, name)),
        })
        .collect()
}

/// The names of a variation's files.
pub struct Names {
    /// In order of its outputs.
    pub outputs: Vec<String>,
    /// Of its preview.
    pub preview: Option<String>,
}

/// The names of the files of every variation, in order, each once.
pub fn names(wanted: &[Wanted]) -> Vec<Names> {
    let mut names = ObjectNames::default();
    let mut of = |wanted: &Wanted| {
        let prefix = match wanted.kind {
            Kind::Palette => "palette",
            Kind::Effect => "effect",
        };
        let mut take = |suffix: &str, format: Format| names.take(prefix, &wanted.name, suffix, format.extension());
        let suffix = |side: u32| format!("_{side}");
        Names {
            outputs: wanted
                .outputs
                .iter()
                .map(|output| take(&output.max_dimension.map(suffix).unwrap_or_default(), output.format))
                .collect(),
            preview: wanted.preview.as_ref().map(|output| take(".preview", output.format)),
        }
    };
    wanted.iter().map(&mut of).collect()
}

/// The files of a variation as they are announced, its preview first.
pub fn files(variation: &PlannedVariation) -> Vec<PlannedFile> {
    let file = |output: &PlannedOutput, is_preview| PlannedFile {
        object: output.object.clone(),
        name: variation.name.clone(),
        is_effect: variation.kind == Kind::Effect,
        is_preview,
    };
    let preview = variation.preview.iter().map(|output| file(output, true));
    preview.chain(variation.outputs.iter().map(|output| file(output, false))).collect()
}

/// How names of copies for upload end.
const UPLOAD_SUFFIX: &str = ".upload.jpg";

/// Whether a file of this name is a preview.
pub fn is_preview_name(object: &str) -> bool {
    object.ends_with(".preview.webp")
}

/// The name of the copy for upload beside the file `object`.
pub fn upload_name(object: &str) -> String {
    format!("{}{UPLOAD_SUFFIX}", object.strip_suffix(".png").unwrap_or(object))
}

/// Whether a file of this name is the copy of another.
pub fn is_upload_name(object: &str) -> bool {
    object.ends_with(UPLOAD_SUFFIX)
}

impl PlannedOutput {
    /// The manifest's entry, before anything is made.
    pub fn entry(&self, variation: &PlannedVariation) -> VariationEntry {
        VariationEntry {
            palette: (variation.kind == Kind::Palette).then(|| variation.name.clone()),
            effect: (variation.kind == Kind::Effect).then(|| variation.name.clone()),
            params: variation.params.clone(),
            colors: variation.colors.iter().map(Rgb8::to_string).collect(),
            object: self.object.clone(),
            width: self.size.0,
            height: self.size.1,
            format: match self.encode.format {
                Format::Png => "png",
                Format::Jpeg => "jpeg",
                Format::Webp => "webp",
            }
            .into(),
            ..VariationEntry::default()
        }
    }
}
