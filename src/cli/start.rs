//! What happens before any work: settings, logs, threads.

use std::io::{self, IsTerminal, Write};

use concept_worker::config::{Environment, LogLevel};
use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing::level_filters::LevelFilter;

use super::{CliError, CommonArgs};

/// Reads the environment.
pub fn environment() -> Result<Environment, CliError> {
    Environment::read(std::env::vars_os()).map_err(|faults| CliError::Usage(faults.to_string()))
}

/// Settings read, logs flowing, threads started. Returns the screen on which progress is shown.
pub fn start(common: &CommonArgs) -> Result<(Environment, MultiProgress), CliError> {
    let environment = environment()?;
    let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    log_to(&screen, level(common, &environment));
    for unknown in &environment.unknown {
        tracing::warn!("{unknown}");
    }
    let threads = common.threads.map_or(environment.config.threads, usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| {
        CliError::Failed(format!("cannot start {threads} threads: {error}; give --threads a smaller number"))
    })?;
    Ok((environment, screen))
}

/// Flag before variable before the default of commands that a person runs.
fn level(common: &CommonArgs, environment: &Environment) -> LogLevel {
    match common.verbose {
        _ if common.quiet => LogLevel::Error,
        0 if environment.is_set("CONCEPT_LOG_LEVEL") => environment.config.log_level,
        0 => LogLevel::Warn,
        1 => LogLevel::Info,
        2 => LogLevel::Debug,
        _ => LogLevel::Trace,
    }
}

fn log_to(screen: &MultiProgress, level: LogLevel) {
    let screen = screen.clone();
    tracing_subscriber::fmt()
        .with_max_level(match level {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        })
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        // A closed standard error must not end the work.
        .log_internal_errors(false)
        .with_target(false)
        .without_time()
        .with_writer(move || AboveBars(screen.clone()))
        .init();
}

/// Standard error with the progress bars lifted out of the way for each line.
struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
