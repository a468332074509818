//! The command line: flags, and where each command lives.
//!
//! `render` and `job` both make a [`Job`](concept_worker::pipeline::job::Job) and meet in [`finish`]. Results go to
//! standard output, everything else to standard error.

pub mod batch;
mod finish;
mod input;
pub mod job;
pub mod model;
mod models;
pub mod palette;
mod progress;
pub mod pull;
pub mod render;
pub mod serve;
pub mod settings;
mod start;
mod worker;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use concept_worker::kernel::harmony::MAX_HARMONIES;
use concept_worker::kernel::palette::MAX_COLORS;
use concept_worker::pipeline::job::{Chroma, Dither, Effort, Fill, Format, Method, Mode, PREVIEW_SIDES};

/// One base image in, every brand palette out.
#[derive(Debug, Parser)]
#[command(name = "concept-worker", version, max_term_width = 100)]
#[command(after_help = "Settings come from CONCEPT_* variables: see `concept-worker config`.\n\
    Exit codes: 0 all variations made, 1 some or all failed, 2 usage or configuration.")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply palettes to a picture: variations, manifest.json and gallery.html in a folder
    Render(Box<RenderArgs>),
    /// Run one job message, as the worker would
    Job(JobArgs),
    /// Run the worker: an HTTP server for Pub/Sub push, direct requests and probes
    Serve(ServeArgs),
    /// Run the worker on a pull subscription
    Pull(PullArgs),
    /// Run the worker on a file with one job a line, or on this task's share of it
    Batch(BatchArgs),
    /// Look at the models for background removal, and build what loads faster on this machine
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print a picture's own palette
    Palette(PaletteArgs),
    /// Print every CONCEPT_* variable: its value, its default, its meaning
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The picture: PNG, JPEG, WebP, GIF, BMP or TIFF; `-` reads standard input
    pub image: PathBuf,
    /// Palette file: JSON, hex lists, .gpl, .ase or .act; may be repeated
    #[arg(short, long, value_name = "FILE")]
    pub palettes: Vec<PathBuf>,
    /// Make N harmonic palettes from the picture's own colours instead [without --palettes: 7]
    #[arg(short, long, value_name = "N", conflicts_with = "palettes", value_parser = clap::value_parser!(u32).range(1..=MAX_HARMONIES as i64))]
    pub generate: Option<u32>,
    /// Folder for the results; made when it does not exist
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,

    /// How to recolour
    #[arg(long, value_enum, default_value_t, help_heading = "Recolouring")]
    pub mode: Mode,
    /// 0 leaves the picture as it is, 1 applies the palette in full
    #[arg(long, value_name = "0..1", default_value = "1", allow_negative_numbers = true, value_parser = render::parse_strength, help_heading = "Recolouring")]
    pub strength: f32,
    /// Dither of mode exact [default: floyd-steinberg]
    #[arg(long, value_enum, help_heading = "Recolouring")]
    pub dither: Option<Dither>,
    /// Longest side of the base in pixels; 0 keeps the full size [default: CONCEPT_IMAGE_MAX_DIMENSION]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=65_535), help_heading = "Recolouring")]
    pub max_dimension: Option<u32>,

    /// Cut the subject out: the cut-out, its matte, and the variations asked for without background
    #[arg(long, help_heading = "Background")]
    pub remove_background: bool,
    /// How the subject is found [default: auto]
    #[arg(long, value_enum, help_heading = "Background")]
    pub method: Option<Method>,
    /// The trained model to ask [default: CONCEPT_MODEL]
    #[arg(long, value_name = "NAME", help_heading = "Background")]
    pub model: Option<String>,
    /// What takes the background's place: transparent, a colour, a palette role, blur, or a picture's path [default: transparent]
    #[arg(long, value_name = "FILL", value_parser = render::parse_fill, help_heading = "Background")]
    pub fill: Option<Fill>,
    /// Drop specks and pinholes from the matte; soft edges stay soft
    #[arg(long, help_heading = "Background")]
    pub clean_edges: bool,
    /// Leave the edges of a model's matte exactly as its package enlarges them
    #[arg(long, help_heading = "Background")]
    pub no_refine: bool,
    /// Keep ground that the subject encloses, such as the inside of an O
    #[arg(long, help_heading = "Background")]
    pub keep_enclosed: bool,
    /// Make the matte and nothing else
    #[arg(long, conflicts_with_all = ["palettes", "generate", "effect", "fill"], help_heading = "Background")]
    pub matte: bool,

    /// An effect: enhanced-bw, pop-art, dither or color, with parameters as in dither:levels=4,algorithm=bayer; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Effects")]
    pub effect: Vec<String>,

    /// Format of the results; may be repeated [default: CONCEPT_OUTPUT_FORMAT]
    #[arg(short, long, value_enum, value_delimiter = ',', help_heading = "Outputs")]
    pub format: Vec<Format>,
    /// Longest side of a result in pixels, or `original`; may be repeated; never enlarges
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = render::parse_size, help_heading = "Outputs")]
    pub size: Vec<render::Size>,
    /// Also make a small WebP of every variation, before the variations themselves; N is its longest side, 256 to 512
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "384", value_parser = clap::value_parser!(u32).range(i64::from(*PREVIEW_SIDES.start())..=i64::from(*PREVIEW_SIDES.end())), help_heading = "Outputs")]
    pub previews: Option<u32>,
    /// Quality of JPEG and lossy WebP, 1 to 100 [default: CONCEPT_COMPRESSION_QUALITY]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "Outputs")]
    pub quality: Option<u8>,
    /// WebP without loss
    #[arg(long, conflicts_with = "quality", help_heading = "Outputs")]
    pub lossless: bool,
    /// Progressive JPEG
    #[arg(long, help_heading = "Outputs")]
    pub progressive: bool,
    /// Chroma subsampling of JPEG [default: auto]
    #[arg(long, value_enum, help_heading = "Outputs")]
    pub chroma: Option<Chroma>,
    /// How hard PNG is squeezed [default: fast]
    #[arg(long, value_enum, help_heading = "Outputs")]
    pub effort: Option<Effort>,

    /// Name of the job in the manifest [default: derived from the content]
    #[arg(long, value_name = "ID", value_parser = input::parse_name, help_heading = "Record")]
    pub job_id: Option<String>,
    /// Whose job it is, in the manifest
    #[arg(long, value_name = "ID", value_parser = input::parse_name, help_heading = "Record")]
    pub user_id: Option<String>,

    #[command(flatten)]
    pub show: ShowArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job message; `-` reads standard input
    #[arg(value_name = "JOB.json")]
    pub job: PathBuf,
    /// Folder for the results [default: <destination>/<user_id>/<job_id>]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub show: ShowArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on [default: 0.0.0.0:$PORT, or 127.0.0.1:$PORT where anyone may call; PORT is 8080 unless set]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// The subscription, projects/PROJECT/subscriptions/NAME [default: CONCEPT_SUBSCRIPTION]
    #[arg(long, value_name = "NAME")]
    pub subscription: Option<String>,
}

#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The jobs, one JSON object a line: a file, gs://bucket/name, or `-` for standard input
    #[arg(value_name = "JOBS.ndjson")]
    pub jobs: String,
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Load a model and say what runs it, and why
    Check(ModelArgs),
    /// Build TensorRT engines and an optimised copy of a model into CONCEPT_MODEL_CACHE, on the machine that will use them
    Build(ModelArgs),
}

#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model [default: CONCEPT_MODEL]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct PaletteArgs {
    /// The picture; `-` reads standard input
    pub image: PathBuf,
    /// How many colours at most
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=MAX_COLORS as i64))]
    pub colors: u32,
    /// How to write them
    #[arg(short, long, value_enum, default_value_t)]
    pub format: PaletteFormat,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// How a palette is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PaletteFormat {
    /// One colour a line, with its share
    #[default]
    Hex,
    /// JSON that --palettes takes
    Json,
    /// GIMP palette
    Gpl,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// For machines: a JSON array
    #[arg(long)]
    pub json: bool,
    // The text of docs/configuration.md.
    #[arg(long, hide = true, conflicts_with = "json")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Print the manifest as JSON and nothing else
    #[arg(long, help_heading = "Display")]
    pub json: bool,
    /// Make no gallery.html and no contact-sheet.png
    #[arg(long, help_heading = "Display")]
    pub no_gallery: bool,
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Threads that compute; 0 takes one for every core [default: CONCEPT_THREADS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1_024), help_heading = "Running")]
    pub threads: Option<u16>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Running")]
    pub quiet: bool,
    /// Say more; -vv says much more
    #[arg(short, long, action = ArgAction::Count, help_heading = "Running")]
    pub verbose: u8,
}

/// Why a command ended early, in words for a person.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Flags, files or settings that cannot be used as given.
    #[error("{0}")]
    Usage(String),
    /// The work itself failed.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// Prints the error and gives its exit code.
    pub fn report(&self) -> ExitCode {
        note(&format!("error: {self}"));
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}

/// A line on standard error. Nobody is left to tell when standard error is gone.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write to standard output: {error}; check where it is sent")))
        }
        _ => Ok(()),
    }
}
