//! The worker when much of what it is asked for was asked before: whether everything is done once, what that saves,
//! how soon there is something to see, and whether its memory stays level. On this machine only: real processes of the
//! release program, folders for temporary files, loopback.
//!
//! ```text
//! cargo build --release && cargo run --release --example calm
//! cargo run --release --example calm -- target/release/concept-worker --only duplicates --requests 10000
//!     duplicates   two processes, one folder, and Redis where it is installed: a quarter are duplicates
//!     second       a second job with new palettes of the same 2048² photograph
//!     previews     the first preview and the first full file against the whole job
//!     neighbours   local jobs beside a remote model that hangs and one that fails half of the time
//!     soak         everything mixed in 512 MiB, for a while; resident memory by tenths of the time
//! ```
//!
//! It reports and does not judge times. Exit code 1 says that a job was computed twice, an answer was wrong or
//! something was lost; 2 that it could not be measured. Everything is bounded, and only processes that it started are
//! ended.

mod duplicates;
#[path = "../../fixtures/generator/mod.rs"]
mod generator;
mod job;
mod neighbours;
mod previews;
mod process;
#[path = "../../tests/redis_server/mod.rs"]
mod redis_server;
#[path = "../../tests/remote_server/mod.rs"]
mod remote_server;
mod second;
mod soak;
mod sources;
mod table;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};

use job::{Job, Manifest};
use process::{Home, Worker};
use traffic::Caller;

/// Faults that are shown in words.
const SHOWN_FAULTS: usize = 20;

/// Measure what the worker spares itself and its callers.
#[derive(Parser)]
struct Arguments {
    /// The program to measure.
    #[arg(default_value = "target/release/concept-worker")]
    binary: PathBuf,
    /// Parts to run, by comma; all when left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Requests of `duplicates`, a quarter of which are duplicates.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    requests: u32,
    /// Hits that `duplicates` sends when all else is done: so many one by one, and as many eight at a time.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hits: u32,
    /// Leave Redis out of `duplicates`, though it is installed.
    #[arg(long)]
    no_redis: bool,
    /// Repetitions of `second`, `previews` and `neighbours`, each with new processes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Seconds that `soak` sends for.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    seconds: u32,
    /// Callers of `soak`, each of which sends its next request when it is answered.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    callers: u32,
    /// Decides what is sent when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything is done once.
    Duplicates,
    /// What the first job of a picture leaves to the second.
    Second,
    /// How soon there is something to see.
    Previews,
    /// Local jobs beside remote models that fail.
    Neighbours,
    /// Memory over time.
    Soak,
}

/// What every part needs.
struct Bench {
    program: PathBuf,
    caller: Caller,
    faults: Faults,
    arguments: Arguments,
}

/// What went wrong for good: jobs computed twice, wrong answers, losses. Clones share it.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<String>>>);

impl Faults {
    fn add(&self, fault: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault.into());
    }

    /// Says what there is, and how much of it.
    fn print(&self) -> usize {
        let faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter().take(SHOWN_FAULTS) {
            println!("FAULT {fault}");
        }
        if faults.len() > SHOWN_FAULTS {
            println!("FAULT … and {} more", faults.len() - SHOWN_FAULTS);
        }
        faults.len()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = Faults::default();
    // Whatever ends first: dropping the work ends its processes and removes its folders.
    let result = tokio::select! {
        result = measure(arguments, faults.clone()) => result,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let count = faults.print();
    match result {
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if count > 0 { 1 } else { 2 })
        }
        Ok(()) if count > 0 => ExitCode::from(1),
        Ok(()) => {
            println!("nothing was computed twice, no answer was wrong, nothing was lost");
            ExitCode::SUCCESS
        }
    }
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

async fn measure(arguments: Arguments, faults: Faults) -> Result<()> {
    let parts = match arguments.only.is_empty() {
        true => Part::value_variants().to_vec(),
        false => arguments.only.clone(),
    };
    let program = std::path::absolute(&arguments.binary)?;
    let length = std::fs::metadata(&program)
        .with_context(|| format!("there is no {}; run cargo build --release", program.display()))?
        .len();
    println!("program: {}, {:.1} MB", program.display(), length as f64 / 1e6);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("machine: {cores} cores, which program and callers share; load average {}", process::load());
    let bench = Bench { program, caller: Caller::new()?, faults, arguments };
    for part in parts {
        let start = Instant::now();
        println!();
        let limit = bench.limit(part);
        let work = async {
            match part {
                Part::Duplicates => duplicates::run(&bench).await,
                Part::Second => second::run(&bench).await,
                Part::Previews => previews::run(&bench).await,
                Part::Neighbours => neighbours::run(&bench).await,
                Part::Soak => soak::run(&bench).await,
            }
        };
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.with_context(|| name.clone())?,
            Err(_) => bail!("{name}: not done within {} s", limit.as_secs()),
        }
        println!("({name} took {:.0} s)", start.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Bench {
    /// Sends a job, and looks at its answer and its files; its manifest, and the milliseconds until it was here.
    async fn render(&self, worker: &Worker, home: &Home, job: &Job) -> Option<(Manifest, f64)> {
        let name = job.name();
        let answer = match self.caller.render(&worker.base, &job.body, None).await {
            Ok(answer) => answer,
            Err(error) => {
                self.faults.add(format!("lost: the answer to {name}: {error:#}"));
                return None;
            }
        };
        if answer.status != 200 {
            self.faults.add(format!("wrong: {name}: {}", answer.problem()));
            return None;
        }
        match job.read(&answer.body).and_then(|manifest| job.stored(home).map(|stored| (manifest, stored))) {
            Ok((manifest, stored)) => {
                if manifest.fingerprint() != stored.fingerprint() {
                    self.faults.add(format!("wrong: {name} is stored with other files than answered"));
                }
                Some((manifest, answer.took.as_secs_f64() * 1e3))
            }
            Err(error) => {
                self.faults.add(format!("wrong: {name}: {error:#}"));
                None
            }
        }
    }

    /// The longest that a part may take.
    fn limit(&self, part: Part) -> Duration {
        let Arguments { requests, hits, repeats, seconds, .. } = self.arguments;
        Duration::from_secs(match part {
            Part::Duplicates => 600 + u64::from(requests + 2 * hits) / 5,
            Part::Second | Part::Previews | Part::Neighbours => 120 + 240 * u64::from(repeats),
            Part::Soak => 300 + u64::from(seconds),
        })
    }
}
