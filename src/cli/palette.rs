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
    print(&match args.format {
        PaletteFormat::Hex => palette_file::to_hex(&colors),
        PaletteFormat::Json => palette_file::to_json(&colors),
        PaletteFormat::Gpl => palette_file::to_gpl(&colors),
    })?;
    Ok(ExitCode::SUCCESS)
}
