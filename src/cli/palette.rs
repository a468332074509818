//! `palette`: the colours that a picture is made of.

use std::process::ExitCode;

use concept_worker::pipeline::{palette_file, run};

use super::{CliError, PaletteArgs, PaletteFormat, finish, print, start};

/// Runs the command.
pub fn palette(args: &PaletteArgs) -> Result<ExitCode, CliError> {
    let (environment, _screen) = start::start(&args.common)?;
    let config = environment.config;
    let source = finish::source_input("IMAGE", &config).read(&args.image)?;
    let colors = run::image_palette(&source, args.colors as usize, &config.run_options())
        .map_err(|error| finish::failure(&error, &args.image))?;
    let stem = args.image.file_stem().filter(|stem| *stem != "-").unwrap_or_else(|| "palette".as_ref());
    let name = stem.to_string_lossy();
    print(&match args.format {
        PaletteFormat::Hex => palette_file::to_hex(&colors),
        PaletteFormat::Json => palette_file::to_json(&name, &colors),
        PaletteFormat::Gpl => palette_file::to_gpl(&name, &colors),
    })?;
    Ok(ExitCode::SUCCESS)
}
