//! `render`: flags and a picture in, a [`Job`] out.

use std::process::ExitCode;

use concept_worker::config::Config;
use concept_worker::kernel::palette::Palette;
use concept_worker::pipeline::job::{
    BackgroundAction, BackgroundRequest, EffectRequest, Format, GenerateRequest, Job, Mode, OutputRequest,
    PaletteRequest, PaletteSpec, RecolorRequest,
};
use concept_worker::pipeline::palette_file;

use super::finish::{self, Run};
use super::input::{self, Input};
use super::{CliError, RenderArgs, note, start};

/// Palettes that are made when none are asked for: the customary seven.
const GENERATED: u32 = 7;

/// Runs the command.
pub fn render(args: &RenderArgs) -> Result<ExitCode, CliError> {
    let (environment, screen) = start::start(&args.common)?;
    let config = environment.config;
    let job = job(args, &config)?;
    job.validate().map_err(|error| CliError::Usage(error.to_string()))?;
    finish::refuse_unavailable(&job)?;
    if let (PaletteRequest::Generate(request), None, false) = (&job.palettes, args.generate, args.common.quiet) {
        note(&format!("no --palettes given: making {} from the picture's own colours", request.generate));
    }
    let source = finish::source_input("IMAGE", &config).read(&args.image)?;
    input::make_folder("--out", &args.out)?;
    let mut options = config.run_options();
    options.max_dimension = args.max_dimension.unwrap_or(options.max_dimension);
    options.gallery = !args.show.no_gallery;
    let quiet = args.common.quiet;
    finish::run(&Run { job, source, out: args.out.clone(), options, json: args.show.json, quiet }, &screen)
}

/// The job that the flags describe. Reads the palette files.
fn job(args: &RenderArgs, config: &Config) -> Result<Job, CliError> {
    if args.dither.is_some() && args.mode != Mode::Exact {
        return Err(CliError::Usage("--dither acts only in mode exact; add --mode exact or leave it out".into()));
    }
    let action = if args.remove_background { BackgroundAction::Remove } else { BackgroundAction::Keep };
    Ok(Job {
        job_id: args.job_id.clone(),
        user_id: args.user_id.clone(),
        source: args.image.display().to_string(),
        palettes: palettes(args, config)?,
        recolor: RecolorRequest { mode: args.mode, strength: args.strength, dither: args.dither.unwrap_or_default() },
        background: BackgroundRequest { action, ..Default::default() },
        effects: args.effect.iter().cloned().map(EffectRequest::Name).collect(),
        steps: Vec::new(),
        outputs: outputs(args, config)?,
        destination: None,
    })
}

fn palettes(args: &RenderArgs, config: &Config) -> Result<PaletteRequest, CliError> {
    let most = config.max_palettes;
    let too_many = |flag: &str, count: usize| {
        CliError::Usage(format!(
            "{flag}: {count} palettes are more than {most}; give fewer or raise CONCEPT_MAX_PALETTES"
        ))
    };
    if args.palettes.is_empty() {
        let generate = args.generate.unwrap_or_else(|| GENERATED.min(u32::try_from(most).unwrap_or(GENERATED)));
        if generate as usize > most {
            return Err(too_many("--generate", generate as usize));
        }
        return Ok(PaletteRequest::Generate(GenerateRequest { generate }));
    }
    let mut list = Vec::new();
    for path in &args.palettes {
        let input = Input {
            argument: "--palettes",
            limit: palette_file::MAX_FILE_BYTES as u64,
            too_large: "a palette file is small; check that this is one",
        };
        let bytes = input.read(path)?;
        let stem = path.file_stem().unwrap_or_else(|| "palette".as_ref()).to_string_lossy();
        let palettes = palette_file::parse(&bytes, &stem)
            .map_err(|error| CliError::Usage(format!("--palettes {}: {error}", path.display())))?;
        list.extend(palettes.iter().map(spec));
        if list.len() > most {
            return Err(too_many("--palettes", list.len()));
        }
    }
    Ok(PaletteRequest::List(list))
}

/// A checked palette as a job carries it.
fn spec(palette: &Palette) -> PaletteSpec {
    let text = |color: &_| format!("{color}");
    PaletteSpec {
        name: palette.name().into(),
        description: palette.description().map(str::to_owned),
        colors: palette.colors().iter().map(text).collect(),
        roles: palette.roles().iter().map(|(role, color)| (role.name().into(), text(color))).collect(),
        pins: palette.pins().iter().map(|(from, to)| (text(from), text(to))).collect(),
        protect: palette.protect().iter().map(text).collect(),
    }
}

/// Every format in every size; none when no flag speaks of outputs, so that the settings decide.
fn outputs(args: &RenderArgs, config: &Config) -> Result<Vec<OutputRequest>, CliError> {
    let formats = if args.format.is_empty() { vec![config.output_format] } else { distinct(&args.format) };
    for (flag, given, users) in [
        ("--quality", args.quality.is_some(), &[Format::Jpeg, Format::Webp][..]),
        ("--lossless", args.lossless, &[Format::Webp]),
        ("--progressive", args.progressive, &[Format::Jpeg]),
        ("--chroma", args.chroma.is_some(), &[Format::Jpeg]),
        ("--effort", args.effort.is_some(), &[Format::Png]),
    ] {
        if given && !formats.iter().any(|format| users.contains(format)) {
            let (made, users) = (names(&formats, " and "), names(users, " or "));
            return Err(CliError::Usage(format!(
                "{flag} has no effect on {made}; add --format {users}, or leave {flag} out"
            )));
        }
    }
    let plain =
        args.quality.is_none() && !args.lossless && !args.progressive && args.chroma.is_none() && args.effort.is_none();
    if args.format.is_empty() && args.size.is_empty() && plain {
        return Ok(Vec::new());
    }
    let sizes = if args.size.is_empty() { vec![Size(None)] } else { distinct(&args.size) };
    let asked = formats.len() * sizes.len();
    if asked > config.max_outputs {
        return Err(CliError::Usage(format!(
            "--format and --size: {asked} outputs of every variation are more than {}; give fewer or raise \
             CONCEPT_MAX_OUTPUTS",
            config.max_outputs
        )));
    }
    let output = |format, Size(max_dimension)| OutputRequest {
        format,
        quality: args.quality.filter(|_| format != Format::Png),
        max_dimension,
        lossless: args.lossless && format == Format::Webp,
        progressive: args.progressive && format == Format::Jpeg,
        chroma: args.chroma.filter(|_| format == Format::Jpeg).unwrap_or_default(),
        effort: args.effort.filter(|_| format == Format::Png).unwrap_or_default(),
    };
    Ok(formats.iter().flat_map(|format| sizes.iter().map(|size| output(*format, *size))).collect())
}

fn names(formats: &[Format], between: &str) -> String {
    let name = |format: &Format| match format {
        Format::Png => "png",
        Format::Jpeg => "jpeg",
        Format::Webp => "webp",
    };
    formats.iter().map(name).collect::<Vec<_>>().join(between)
}

fn distinct<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(value) {
            kept.push(*value);
        }
    }
    kept
}

/// Longest side of a result in pixels; none keeps the base's own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub Option<u32>);

/// Reads `--size`.
pub fn parse_size(text: &str) -> Result<Size, String> {
    match text.parse() {
        _ if text == "original" => Ok(Size(None)),
        Ok(side @ 1..=65_535) => Ok(Size(Some(side))),
        _ => Err("give the longest side in pixels, 1 to 65535, or the word original".into()),
    }
}

/// Reads `--strength`.
pub fn parse_strength(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(strength) if (0.0..=1.0).contains(&strength) => Ok(strength),
        _ => Err("give a number from 0 (unchanged) to 1 (the palette in full)".into()),
    }
}
