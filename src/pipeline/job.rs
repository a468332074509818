//! The job: one message, one file or one command line, all in the same form.
//!
//! Unknown fields are an error: a misspelt option must not be ignored in silence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One request: a source picture and what to make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Remote model steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRequest>,
    /// The files to make of every variation; one from the settings when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputRequest>,
    /// Where results go: `gs://bucket/prefix`, or on the command line a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// Either a list of palettes or a number of harmonic palettes to generate from the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// How many, at least 1.
    pub generate: u32,
}

/// A palette as written in a job or a palette file; colours are still text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// What to do with the background.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackgroundRequest {
    /// `keep` or `remove`.
    pub action: BackgroundAction,
    /// `auto`, `classic` or `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `transparent`, a colour, a role, `blur` or a picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<String>,
    /// Answer with the matte only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub matte: bool,
}

impl Default for BackgroundRequest {
    fn default() -> Self {
        Self { action: BackgroundAction::Keep, method: None, model: None, fill: None, matte: false }
    }
}

/// Keep the background or remove it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackgroundAction {
    /// As it is.
    #[default]
    Keep,
    /// Cut out.
    Remove,
}

/// An effect: its name, or its name with parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
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
}

/// A remote model step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// `before` or `after` recolouring.
    pub when: String,
    /// The step's name.
    pub name: String,
    /// The model to call.
    pub model: String,
    /// What to send.
    #[serde(default)]
    pub input: serde_json::Value,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// As fast as the disk.
    #[default]
    Fast,
    /// As small as the deflate encoder makes it.
    Small,
}

/// One file to make of every variation. Absent fields come from the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
