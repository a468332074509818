//! `render`: flags and a picture in, a [`Job`] out.

use std::path::Path;
use std::process::ExitCode;

use concept_worker::config::Config;
use concept_worker::kernel::palette::Palette;
use concept_worker::pipeline::job::{
    BackgroundAction, BackgroundRequest, EffectRequest, Fill, Format, GenerateRequest, Job, Mode, OutputRequest,
    PaletteRequest, PaletteSpec, PreviewRequest, RecolorRequest,
};
use concept_worker::pipeline::palette_file;
use concept_worker::pipeline::run;

use super::finish::{self, Run};
use super::input::{self, Input};
use super::{CliError, RenderArgs, models, note, start};

/// Palettes that are made when none are asked for: the customary seven.
const GENERATED: u32 = 7;

/// Runs the command.
pub fn render(args: &RenderArgs) -> Result<ExitCode, CliError> {
    let (environment, screen) = start::start(&args.common)?;
    let config = environment.config;
    let job = job(args, &config)?;
    job.validate().map_err(|error| CliError::Usage(error.to_string()))?;
    if let (PaletteRequest::Generate(request), None, false) = (&job.palettes, args.generate, args.common.quiet) {
        note(&format!("no --palettes given: making {} from the picture's own colours", request.generate));
    }
    let mut options = config.run_options();
    options.max_dimension = args.max_dimension.unwrap_or(options.max_dimension);
    options.gallery = !args.show.no_gallery;
    options.segmenter = models::segmenter(&config)?;
    run::admit(&job, &options).map_err(|error| CliError::Usage(error.to_string()))?;
    let source = finish::source_input("IMAGE", &config).read(&args.image)?;
    let fill = job.background.fill_picture().map(|path| finish::source_input("--fill", &config).read(Path::new(path)));
    let fill = fill.transpose()?;
    input::make_folder("--out", &args.out)?;
    let quiet = args.common.quiet;
    finish::run(&Run { job, source, fill, out: args.out.clone(), options, json: args.show.json, quiet }, &screen)
}

/// The job that the flags describe. Reads the palette files.
fn job(args: &RenderArgs, config: &Config) -> Result<Job, CliError> {
    if args.dither.is_some() && args.mode != Mode::Exact {
        return Err(CliError::Usage("--dither acts only in mode exact; add --mode exact or leave it out".into()));
    }
    Ok(Job {
        job_id: args.job_id.clone(),
        user_id: args.user_id.clone(),
        source: args.image.display().to_string(),
        palettes: palettes(args, config)?,
        recolor: RecolorRequest { mode: args.mode, strength: args.strength, dither: args.dither.unwrap_or_default() },
        background: background(args)?,
        effects: args.effect.iter().map(|text| effect(text)).collect::<Result<_, _>>()?,
        steps: Vec::new(),
        outputs: outputs(args, config)?,
        previews: args.previews.map(|max_dimension| PreviewRequest { max_dimension, ..PreviewRequest::default() }),
        destination: None,
    })
}

/// What the flags say of the background. A flag that acts only where it is removed is refused where it is not.
fn background(args: &RenderArgs) -> Result<BackgroundRequest, CliError> {
    let asked = args.remove_background || args.matte;
    for (given, flag) in [
        (args.method.is_some(), "--method"),
        (args.model.is_some(), "--model"),
        (args.fill.is_some(), "--fill"),
        (args.clean_edges, "--clean-edges"),
        (args.no_refine, "--no-refine"),
        (args.keep_enclosed, "--keep-enclosed"),
    ] {
        if given && !asked {
            return Err(CliError::Usage(format!(
                "{flag} acts only with --remove-background; add it, or leave {flag} out"
            )));
        }
    }
    Ok(BackgroundRequest {
        action: if args.remove_background { BackgroundAction::Remove } else { BackgroundAction::Keep },
        method: args.method,
        model: args.model.clone(),
        fill: args.fill.clone(),
        clean: args.clean_edges,
        refine: !args.no_refine,
        enclosed: !args.keep_enclosed,
        matte: args.matte,
    })
}

/// An effect as written: `NAME`, or `NAME:parameter=value,…` with JSON values or plain words.
fn effect(text: &str) -> Result<EffectRequest, CliError> {
    let Some((name, list)) = text.split_once(':') else { return Ok(EffectRequest::Name(text.to_owned())) };
    let mut params = serde_json::Map::new();
    for pair in parameters(list) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(CliError::Usage(format!(
                "--effect {text}: {pair:?} is no parameter; write {name}:parameter=value, separated by commas"
            )));
        };
        let value = value.trim();
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        if params.insert(key.trim().to_owned(), value).is_some() {
            return Err(CliError::Usage(format!("--effect {text}: {} is given twice; keep one", key.trim())));
        }
    }
    Ok(EffectRequest::WithParams { name: name.to_owned(), params })
}

/// Parts between commas that are not within brackets.
fn parameters(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in list.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

/// Reads `--fill`.
pub fn parse_fill(text: &str) -> Result<Fill, String> {
    Fill::try_from(text.to_owned())
}

fn palettes(args: &RenderArgs, config: &Config) -> Result<PaletteRequest, CliError> {
    let most = config.max_palettes;
    let too_many = |flag: &str, count: usize| {
        CliError::Usage(format!(
            "{flag}: {count} palettes are more than {most}; give fewer or raise CONCEPT_MAX_PALETTES"
        ))
    };
    if args.palettes.is_empty() {
        // Whoever asks for something else gets that, and palettes only when asked for.
        let other = args.remove_background || args.matte || !args.effect.is_empty();
        if other && args.generate.is_none() {
            return Ok(PaletteRequest::List(Vec::new()));
        }
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use concept_worker::kernel::color::Rgb8;
    use concept_worker::kernel::palette::Role;
    use concept_worker::pipeline::job::{Chroma, Dither, Method};

    use super::*;
    use crate::cli::{Arguments, Command};

    fn job_of(flags: &[&str]) -> Job {
        let base = ["concept-worker", "render", "a.png", "--out", "o"];
        let Command::Render(args) = Arguments::try_parse_from(base.iter().chain(flags)).unwrap().command else {
            panic!("render was asked for");
        };
        job(&args, &Config::default()).unwrap()
    }

    #[test]
    fn without_flags_the_job_asks_for_seven_palettes_and_leaves_the_rest_to_the_defaults() {
        let plain: Job = serde_json::from_str(r#"{"source": "a.png", "palettes": {"generate": 7}}"#).unwrap();
        assert_eq!(job_of(&[]), plain);
    }

    #[test]
    fn every_flag_reaches_its_field_of_the_job() {
        let flags = "--generate 3 --mode exact --strength 0.5 --dither blue-noise --job-id j --user-id u";
        let job = job_of(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!(job.palettes, PaletteRequest::Generate(GenerateRequest { generate: 3 }));
        assert_eq!(job.recolor, RecolorRequest { mode: Mode::Exact, strength: 0.5, dither: Dither::BlueNoise });
        assert_eq!((job.job_id.as_deref(), job.user_id.as_deref()), (Some("j"), Some("u")));
    }

    #[test]
    fn flags_of_background_and_effects_reach_the_job_and_palettes_are_made_only_when_asked_for() {
        let job = job_of(&[
            "--remove-background",
            "--method",
            "classic",
            "--fill",
            "#ffffff",
            "--clean-edges",
            "--keep-enclosed",
            "--effect",
            "popart",
            "--effect",
            "dither:levels=4,algorithm=bayer,palette=[\"#000\",\"#fff\"]",
        ]);
        let expected = r##"{"source": "a.png", "background": {"action": "remove", "method": "classic", "fill": "#FFFFFF", "clean": true,
            "enclosed": false}, "effects": ["popart", {"name": "dither", "params": {"levels": 4, "algorithm": "bayer",
            "palette": ["#000", "#fff"]}}]}"##;
        assert_eq!(job, serde_json::from_str(expected).unwrap());
        assert_eq!(job_of(&["--matte", "--method", "auto"]).background.method, Some(Method::Auto));
        assert!(job_of(&["--effect", "color", "--generate", "2"]).palettes != PaletteRequest::default());
    }

    #[test]
    fn an_output_flag_alone_acts_on_the_format_of_the_settings() {
        let outputs = job_of(&["--effort", "small"]).outputs;
        assert_eq!((outputs.len(), outputs[0].format, outputs[0].max_dimension), (1, Format::Png, None));
    }

    #[test]
    fn an_output_carries_only_the_fields_that_its_format_has() {
        let flags =
            "--format png,jpeg,webp,png --size 64 --size original --size 64 --quality 70 --progressive --chroma 444";
        let outputs = job_of(&flags.split(' ').collect::<Vec<_>>()).outputs;
        let formats = [Format::Png, Format::Jpeg, Format::Webp];
        let wanted = formats.iter().flat_map(|format| {
            [Some(64), None].map(|max_dimension| OutputRequest {
                format: *format,
                quality: (*format != Format::Png).then_some(70),
                max_dimension,
                lossless: false,
                progressive: *format == Format::Jpeg,
                chroma: if *format == Format::Jpeg { Chroma::Full } else { Chroma::Auto },
                effort: Default::default(),
            })
        });
        assert_eq!(outputs, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn a_palette_comes_through_a_job_unchanged() {
        let [dark, light, other] = [Rgb8::new(38, 70, 83), Rgb8::new(233, 196, 106), Rgb8::new(1, 2, 3)];
        let palette = Palette::new("Brand", [dark, light])
            .and_then(|p| p.with_roles([(Role::Background, light)]))
            .and_then(|p| p.with_pins([(other, dark)]))
            .unwrap()
            .protecting([other])
            .described(Some("for spring".into()));
        assert_eq!(palette_file::from_spec(0, &spec(&palette)), Ok(palette));
    }
}
