//! Whole processes: the engine's program and lutgen, with their time by the wall clock and on the CPU.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use concept_worker::kernel::palette::Palette;
use concept_worker::pipeline::manifest::{Manifest, State};

use crate::pictures;

/// Seconds that something took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub wall: f64,
    /// User and system time of all threads.
    pub cpu: f64,
}

/// Whose CPU time.
enum Whose {
    Ours,
    /// That of processes that have ended and were waited for.
    Children,
}

#[cfg(unix)]
fn cpu(whose: Whose) -> Result<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let who = match whose {
        Whose::Ours => UsageWho::RUSAGE_SELF,
        Whose::Children => UsageWho::RUSAGE_CHILDREN,
    };
    let usage = getrusage(who).context("the system does not tell CPU times")?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

#[cfg(not(unix))]
fn cpu(_: Whose) -> Result<f64> {
    bail!("CPU times of processes are read the Unix way only; run this on Linux or macOS")
}

/// CPU seconds that `work` takes in this process, in which nothing else may run, and what it gives. Unlike the wall
/// clock, they do not count the time in which a busy machine runs something else.
pub fn cpu_of<T>(work: impl FnOnce() -> T) -> Result<(f64, T)> {
    let before = cpu(Whose::Ours)?;
    let made = std::hint::black_box(work());
    Ok((cpu(Whose::Ours)? - before, made))
}

/// Runs a process to its end. Its settings come from `command` alone, not from this process's surroundings.
fn timed(command: &mut Command) -> Result<Usage> {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCEPT_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let before = cpu(Whose::Children)?;
    let start = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let wall = start.elapsed().as_secs_f64();
    let usage = Usage { wall, cpu: cpu(Whose::Children)? - before };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", command.get_program().display(), output.status, said.trim());
    }
    Ok(usage)
}

/// One way to run the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scenario {
    /// PNG instead of JPEG.
    pub png: bool,
    pub palettes: usize,
    pub threads: usize,
}

/// One run of the engine.
pub struct Run {
    pub usage: Usage,
    pub peak_bytes: u64,
    timings_ms: BTreeMap<String, f64>,
    /// The variations' files, in order.
    pub files: Vec<Vec<u8>>,
}

impl Run {
    /// Milliseconds per stage as its manifest has them.
    pub fn stages(&self) -> String {
        let stages = self.timings_ms.iter().map(|(stage, ms)| format!("{stage} {ms:.0}"));
        format!("{} ms", stages.collect::<Vec<_>>().join(", "))
    }
}

/// The program, and the files it works on.
pub struct Engine {
    program: PathBuf,
    folder: PathBuf,
    source: PathBuf,
}

impl Engine {
    /// Writes `source` and the palettes into `folder`.
    pub fn new(program: Option<PathBuf>, folder: &Path, source: &[u8]) -> Result<Self> {
        let program = program.or_else(beside_this_example).context(
            "concept-worker is not built beside this example; run cargo build --release with the same --features, or \
             pass --bin",
        )?;
        let path = folder.join("photograph.jpg");
        std::fs::write(&path, source).context("cannot write the picture")?;
        for count in [1, 7, 16] {
            let json = serde_json::to_vec(&pictures::specs(count))?;
            std::fs::write(folder.join(format!("palettes-{count}.json")), json).context("cannot write palettes")?;
        }
        Ok(Self { program, folder: folder.to_owned(), source: path })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn source(&self) -> &Path {
        &self.source
    }

    pub fn run(&self, scenario: Scenario) -> Result<Run> {
        self.run_on(&self.source, scenario)
    }

    /// Renders `source`, with gallery and contact sheet.
    pub fn run_on(&self, source: &Path, scenario: Scenario) -> Result<Run> {
        let out = tempfile::tempdir_in(&self.folder).context("cannot make an output folder")?;
        let mut command = Command::new(&self.program);
        command
            .arg("render")
            .arg(source)
            .arg("--palettes")
            .arg(self.folder.join(format!("palettes-{}.json", scenario.palettes)))
            .arg("--out")
            .arg(out.path())
            .args(["--quiet", "--format", if scenario.png { "png" } else { "jpeg" }])
            .args(["--threads", &scenario.threads.to_string()]);
        let usage = timed(&mut command)?;
        let manifest = std::fs::read(out.path().join("manifest.json")).context("the run left no manifest")?;
        let manifest: Manifest = serde_json::from_slice(&manifest).context("the manifest cannot be read")?;
        ensure!(manifest.state == State::Complete, "a variation failed; run the program by hand to see why");
        let read = |object: &str| std::fs::read(out.path().join(object)).with_context(|| format!("no file {object}"));
        let files = manifest.variations.iter().map(|v| read(&v.object)).collect::<Result<_>>()?;
        Ok(Run { usage, peak_bytes: manifest.peak_bytes, timings_ms: manifest.timings_ms, files })
    }
}

/// The program cargo puts one folder above its examples.
fn beside_this_example() -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let path = here.parent()?.parent()?.join(format!("concept-worker{}", std::env::consts::EXE_SUFFIX));
    path.is_file().then_some(path)
}

/// lutgen, held to one thread.
pub struct Lutgen {
    program: PathBuf,
    folder: PathBuf,
}

impl Lutgen {
    /// Finds it on PATH.
    pub fn find(folder: &Path) -> Option<Self> {
        let file = format!("lutgen{}", std::env::consts::EXE_SUFFIX);
        let path = std::env::var_os("PATH")?;
        let program = std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|path| path.is_file())?;
        Some(Self { program, folder: folder.to_owned() })
    }

    /// Makes a PNG for each of the first `count` palettes, one process each; gives the sum.
    pub fn run(&self, source: &Path, count: usize) -> Result<Usage> {
        let mut sum = Usage::default();
        for palette in pictures::palettes(count) {
            let usage = timed(&mut self.command(source, &palette))?;
            sum = Usage { wall: sum.wall + usage.wall, cpu: sum.cpu + usage.cpu };
        }
        Ok(sum)
    }

    fn command(&self, source: &Path, palette: &Palette) -> Command {
        let hex = palette.colors().iter().map(|c| c.to_string().trim_start_matches('#').to_owned());
        let mut command = Command::new(&self.program);
        command
            .arg("apply")
            .arg(source)
            .arg("-o")
            .arg(self.folder.join("lutgen.png"))
            .arg("--")
            .args(hex)
            .env("RAYON_NUM_THREADS", "1");
        command
    }
}

/// The kernel's load averages, where it tells them.
pub fn load() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(", "))
}

/// The processor's name, where the system tells it.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}
