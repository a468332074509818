//! `config` and `completions`: what the program says about itself.

use std::process::ExitCode;

use clap::CommandFactory;
use concept_worker::config;

use super::{Arguments, CliError, CompletionsArgs, ConfigArgs, note, print, start};

/// Runs `config`.
pub fn settings(args: &ConfigArgs) -> Result<ExitCode, CliError> {
    if args.markdown {
        print(&config::markdown())?;
        return Ok(ExitCode::SUCCESS);
    }
    let environment = start::environment()?;
    environment.unknown.iter().for_each(|unknown| note(&format!("warning: {unknown}")));
    print(&if args.json { format!("{:#}\n", environment.to_json()) } else { environment.to_text() })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `completions`.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode, CliError> {
    // Into memory first: the generator takes a closed pipe for a bug.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "concept-worker", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
