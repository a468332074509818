//! The `concept-worker` program: see the library for what it does.
//!
//! The command line's table of contents.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::{Arguments, Command};

/// As quick as the system's here, and after a burst it gives back what that keeps: docs/DECISIONS.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        // Any number of palettes applied to one picture.
        Command::Render(args) => cli::render::render(&args),
        // The same from a job message.
        Command::Job(args) => cli::job::job(&args),
        // The worker behind Pub/Sub push, on HTTP.
        Command::Serve(args) => cli::serve::serve(&args),
        // The worker on a pull subscription.
        Command::Pull(args) => cli::pull::pull(&args),
        // The worker on a file of jobs.
        Command::Batch(args) => cli::batch::batch(&args),
        // The trained models at hand.
        Command::Model(command) => cli::model::model(&command),
        // The picture's own palette.
        Command::Palette(args) => cli::palette::palette(&args),
        // The settings in force.
        Command::Config(args) => cli::settings::settings(&args),
        // A script for the shell.
        Command::Completions(args) => cli::settings::completions(&args),
    };
    done.unwrap_or_else(|error| error.report())
}
