//! The job: one message, one file or one command line, all in the same form.
//!
//! Unknown fields are an error: a misspelt option must not be ignored in silence.

mod background;
pub mod step;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::effect;
use super::palette_file::MAX_PALETTES;
use crate::kernel::harmony::MAX_HARMONIES;

pub use background::{BackgroundAction, BackgroundRequest, Fill, Method};
pub use step::{StepClass, StepRequest, When};

/// The largest job message that is read, bytes.
pub const MAX_JOB_BYTES: usize = 4 << 20;

/// Why a job was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// More bytes than [`MAX_JOB_BYTES`].
    #[error("the job has {bytes} bytes; the limit is {MAX_JOB_BYTES}; send fewer palettes, or check that it is a job")]
    TooLarge {
        /// Size of the message.
        bytes: usize,
    },
    /// Not JSON, or not a job's fields and values.
    #[error("the job cannot be read: {message} at line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the JSON reader met.
        message: String,
    },
    /// A field holds what it must not.
    #[error("the job's {field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What, and what to do about it.
        problem: String,
    },
}

/// One request: a source picture and what to make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Names the job; derived from the content when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Whose job it is; `_` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Where the picture is: `gs://bucket/name`, or on the command line a file path.
    pub source: String,
    /// The palettes, or how many to generate.
    #[serde(default)]
    pub palettes: PaletteRequest,
    /// How to recolour.
    #[serde(default)]
    pub recolor: RecolorRequest,
    /// What to do with the background.
    #[serde(default)]
    pub background: BackgroundRequest,
    /// Effects, each a variation of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<EffectRequest>,
    /// Steps by remote models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRequest>,
    /// The files to make of every variation; one from the settings when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputRequest>,
    /// A small WebP of every variation, made and stored before the files themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previews: Option<PreviewRequest>,
    /// Where results go: `gs://bucket/prefix`, or on the command line a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

impl Job {
    /// Reads one job message and checks it with [`Job::validate`].
    ///
    /// # Errors
    /// [`JobError`] names the line or the field, and the cure.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JobError> {
        if bytes.len() > MAX_JOB_BYTES {
            return Err(JobError::TooLarge { bytes: bytes.len() });
        }
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let job: Self = serde_json::from_slice(bytes).map_err(|e| {
            explain_palettes(bytes).or_else(|| explain_effects(bytes)).unwrap_or_else(|| {
                // The position is said once, in our own words.
                let message = e.to_string();
                let message = message.split(" at line ").next().unwrap_or_default().to_owned();
                JobError::Json { line: e.line(), column: e.column(), message }
            })
        })?;
        job.validate()?;
        Ok(job)
    }

    /// Checks what the types cannot: that there is something to make, and the range of every number. The palettes'
    /// own colours are not checked here: a bad palette is a failed variation beside the good ones.
    ///
    /// # Errors
    /// [`JobError::Field`] with the path of the field.
    pub fn validate(&self) -> Result<(), JobError> {
        let wrong = |field: String, problem: String| Err(JobError::Field { field, problem });
        if self.source.trim().is_empty() {
            return wrong("source".into(), "it is empty; write gs://bucket/name or a file's path".into());
        }
        for (field, id) in [("job_id", &self.job_id), ("user_id", &self.user_id)] {
            if let Some(Err(problem)) = id.as_deref().map(check_id) {
                return wrong(
                    field.into(),
                    format!("it {problem}, and it names a folder; use letters, digits, `-` and `_`"),
                );
            }
        }
        self.validate_background()?;
        step::validate(&self.steps, self.has_variations())?;
        for (i, request) in self.effects.iter().enumerate() {
            if let Err((param, problem)) = effect::plan(request, self) {
                let param = if param.is_empty() { param } else { format!(".params.{param}") };
                return wrong(format!("effects[{i}]{param}"), problem);
            }
        }
        match &self.palettes {
            PaletteRequest::List(list)
                if list.is_empty()
                    && self.effects.is_empty()
                    && self.steps.is_empty()
                    && !self.background.is_asked() =>
            {
                return wrong(
                    "palettes".into(),
                    "there is nothing to make; list palettes, or write {\"generate\": 7}".into(),
                );
            }
            PaletteRequest::List(list) if list.len() > MAX_PALETTES => {
                let problem = format!("there are {}; the limit is {MAX_PALETTES}; split the job", list.len());
                return wrong("palettes".into(), problem);
            }
            PaletteRequest::Generate(GenerateRequest { generate })
                if !(1..=MAX_HARMONIES as u32).contains(generate) =>
            {
                return wrong("palettes.generate".into(), format!("{generate} is not in 1 to {MAX_HARMONIES}"));
            }
            _ => {}
        }
        // Not `<`: NaN is refused too.
        if !(0.0..=1.0).contains(&self.recolor.strength) {
            let problem =
                format!("{} is not in 0 (the picture as it is) to 1 (the palette in full)", self.recolor.strength);
            return wrong("recolor.strength".into(), problem);
        }
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(quality) = output.quality
                && !(1..=100).contains(&quality)
            {
                return wrong(format!("outputs[{i}].quality"), format!("{quality} is not in 1 to 100"));
            }
            if output.max_dimension == Some(0) {
                return wrong(format!("outputs[{i}].max_dimension"), "0 pixels; leave it out for the full size".into());
            }
        }
        if let Some(PreviewRequest { max_dimension, quality }) = &self.previews {
            if !PREVIEW_SIDES.contains(max_dimension) {
                let problem = format!("{max_dimension} is not in {} to {}", PREVIEW_SIDES.start(), PREVIEW_SIDES.end());
                return wrong("previews.max_dimension".into(), problem);
            }
            if !(1..=100).contains(quality) {
                return wrong("previews.quality".into(), format!("{quality} is not in 1 to 100"));
            }
        }
        Ok(())
    }

    /// Options that say nothing without others must not be ignored in silence.
    fn validate_background(&self) -> Result<(), JobError> {
        let BackgroundRequest { action, method, model, fill, clean, refine, enclosed, matte } = &self.background;
        let wrong = |field: &str, problem: &str| {
            Err(JobError::Field { field: format!("background.{field}"), problem: problem.into() })
        };
        let without_palettes = matches!(&self.palettes, PaletteRequest::List(list) if list.is_empty());
        if *matte && (!without_palettes || !self.effects.is_empty() || fill.is_some()) {
            return wrong(
                "matte",
                "true makes the matte and nothing else; leave palettes, effects and background.fill out, or leave it out",
            );
        }
        if *action == BackgroundAction::Keep && !matte {
            for (asked, field) in [
                (method.is_some(), "method"),
                (model.is_some(), "model"),
                (fill.as_ref().is_some_and(|fill| *fill != Fill::Transparent), "fill"),
                (*clean, "clean"),
                (!refine, "refine"),
                (!enclosed, "enclosed"),
            ] {
                if asked {
                    return wrong(field, "it acts only where the background is removed; add \"action\": \"remove\"");
                }
            }
        }
        if model.is_some() && *method == Some(Method::Classic) {
            return wrong("model", "method classic uses no model; leave one of the two out");
        }
        Ok(())
    }

    /// Whether there is anything to make beside what steps put out.
    pub fn has_variations(&self) -> bool {
        let no_palettes = matches!(&self.palettes, PaletteRequest::List(list) if list.is_empty());
        !no_palettes || !self.effects.is_empty() || self.background.is_asked()
    }

    /// Whether a trained model may be needed.
    pub fn may_need_model(&self) -> bool {
        self.background.is_asked() && self.background.method != Some(Method::Classic)
    }
}

/// Checks a job's or user's id: it becomes the name of a folder.
///
/// # Errors
/// What is wrong with it: the end of a sentence that begins with its name.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    if id.is_empty() {
        Err("is empty")
    } else if id.len() > 128 {
        Err("is longer than 128 bytes")
    } else if id.starts_with('.') {
        Err("begins with a dot")
    } else if id.contains(|c: char| c == '/' || c == '\\' || c.is_control()) {
        Err("contains a slash or a control character")
    } else {
        Ok(())
    }
}

/// Serde answers a misspelt palette field with "no variant matched"; this says which palette and which field.
fn explain_palettes(bytes: &[u8]) -> Option<JobError> {
    let job: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let wrong = |field: String, problem: String| Some(JobError::Field { field, problem });
    match job.get("palettes")? {
        serde_json::Value::Array(list) => list.iter().enumerate().find_map(|(i, palette)| {
            let error = PaletteSpec::deserialize(palette).err()?;
            wrong(format!("palettes[{i}]"), error.to_string())
        }),
        object @ serde_json::Value::Object(_) => {
            let error = GenerateRequest::deserialize(object).err()?;
            wrong("palettes".into(), format!("{error}; write a list of palettes, or {{\"generate\": 7}}"))
        }
        _ => wrong("palettes".into(), "write a list of palettes, or {\"generate\": 7}".into()),
    }
}

/// The same for effects.
fn explain_effects(bytes: &[u8]) -> Option<JobError> {
    const FORM: &str = "write the effect's name, or {\"name\": …, \"params\": {…}}";
    let job: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    job.get("effects")?.as_array()?.iter().enumerate().find_map(|(i, effect)| {
        EffectRequest::deserialize(effect).err()?;
        let problem = match effect.as_object() {
            None => format!("{effect} is neither a name nor an object; {FORM}"),
            Some(fields) => match fields.keys().find(|key| !matches!(key.as_str(), "name" | "params")) {
                Some(unknown) => format!("unknown field {unknown:?}; {FORM}"),
                None if !fields.get("name").is_some_and(serde_json::Value::is_string) => {
                    format!("it has no name; {FORM}")
                }
                None => format!("params is no object; {FORM}"),
            },
        };
        Some(JobError::Field { field: format!("effects[{i}]"), problem })
    })
}

/// Either a list of palettes or a number of harmonic palettes to generate from the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PaletteRequest {
    /// Palettes as written.
    List(Vec<PaletteSpec>),
    /// `{"generate": N}`.
    Generate(GenerateRequest),
}

impl Default for PaletteRequest {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// `{"generate": N}`: harmonic palettes from the picture's own colours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// How many, at least 1.
    pub generate: u32,
}

/// A palette as written in a job or a palette file; colours are still text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaletteSpec {
    /// The name; file names are made from it.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `#RGB`, `#RRGGBB` or `#RRGGBBAA`; the alpha digits are accepted and ignored.
    pub colors: Vec<String>,
    /// Role name to colour.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, String>,
    /// Source colour to palette colour.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, String>,
    /// Source colours that stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<String>,
}

/// The recolouring modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Soft clusters: texture kept, no tears, brand colours where they belong.
    #[default]
    Soft,
    /// The predecessor's colour transfer.
    Transfer,
    /// The predecessor's flat nearest-colour fill.
    Faithful,
    /// Only palette colours, dithered.
    Exact,
    /// A gradient map through the palette by lightness.
    Tint,
}

/// The dither of mode `exact`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dither {
    /// Serpentine Floyd–Steinberg error diffusion in linear light.
    #[default]
    FloydSteinberg,
    /// A blue-noise threshold.
    BlueNoise,
    /// Nearest colour.
    None,
}

/// How to recolour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecolorRequest {
    /// The mode.
    pub mode: Mode,
    /// 0 leaves the picture as it is, 1 applies the palette in full.
    pub strength: f32,
    /// Dither of mode `exact`.
    pub dither: Dither,
}

impl Default for RecolorRequest {
    fn default() -> Self {
        Self { mode: Mode::default(), strength: 1.0, dither: Dither::default() }
    }
}

/// An effect: its name, or its name with parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum EffectRequest {
    /// `"enhanced-bw"`.
    Name(String),
    /// `{"name": …, "params": {…}}`.
    WithParams {
        /// The effect's name.
        name: String,
        /// Its parameters.
        #[serde(default)]
        params: serde_json::Map<String, serde_json::Value>,
    },
}

impl EffectRequest {
    /// The effect's name as written.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) | Self::WithParams { name, .. } => name,
        }
    }

    /// Its parameters, where there are any.
    pub fn params(&self) -> Option<&serde_json::Map<String, serde_json::Value>> {
        match self {
            Self::Name(_) => None,
            Self::WithParams { params, .. } => Some(params),
        }
    }
}

/// Small pictures of all variations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// Longest side in pixels, 256 to 512; never enlarges.
    #[serde(default = "usual_preview_side")]
    pub max_dimension: u32,
    /// Quality, 1 to 100.
    #[serde(default = "usual_preview_quality")]
    pub quality: u8,
}

/// What [`PreviewRequest::max_dimension`] can be.
pub const PREVIEW_SIDES: std::ops::RangeInclusive<u32> = 256..=512;

impl Default for PreviewRequest {
    fn default() -> Self {
        Self { max_dimension: usual_preview_side(), quality: usual_preview_quality() }
    }
}

const fn usual_preview_side() -> u32 {
    384
}

const fn usual_preview_quality() -> u8 {
    75
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Portable Network Graphics.
    Png,
    /// JPEG (JFIF).
    #[serde(alias = "jpg")]
    #[value(alias = "jpg")]
    Jpeg,
    /// WebP.
    Webp,
}

impl Format {
    /// The file extension, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// Chroma subsampling of JPEG outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Chroma {
    /// Chosen by the picture: full chroma where coloured edges are sharp.
    #[default]
    Auto,
    /// 4:2:0.
    #[serde(rename = "420")]
    #[value(name = "420")]
    Half,
    /// 4:4:4.
    #[serde(rename = "444")]
    #[value(name = "444")]
    Full,
}

/// How hard PNG outputs are squeezed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// As fast as the disk.
    #[default]
    Fast,
    /// As small as the deflate encoder makes it.
    Small,
}

/// One file to make of every variation. Absent fields come from the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputRequest {
    /// The format.
    pub format: Format,
    /// 1 to 100; JPEG and lossy WebP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
    /// Longest side in pixels; never enlarges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dimension: Option<u32>,
    /// WebP without loss.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lossless: bool,
    /// Progressive JPEG.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub progressive: bool,
    /// JPEG chroma subsampling.
    #[serde(default)]
    pub chroma: Chroma,
    /// PNG effort.
    #[serde(default)]
    pub effort: Effort,
}

impl OutputRequest {
    /// A file of this format, everything else as it is by default.
    pub fn plain(format: Format) -> Self {
        Self {
            format,
            quality: None,
            max_dimension: None,
            lossless: false,
            progressive: false,
            chroma: Chroma::Auto,
            effort: Effort::Fast,
        }
    }
}
