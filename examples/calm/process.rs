//! The worker as a process of its own, the folder it stores in, and what it says of itself.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::table::Table;
use crate::traffic::Caller;

/// How long a process may take to be ready, or to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a picture that cannot be used is answered with.
pub const BROKEN_CLASSES: [&str; 3] = ["broken-picture", "unsupported-picture", "picture-too-large"];

/// Log lines that are shown of those that are worse than information.
const SHOWN_LINES: usize = 3;

/// Metrics that are printed after a run, by the beginnings of their names.
const RELEVANT: [&str; 22] = [
    "concept_requests_total",
    "concept_jobs_total",
    "concept_variations_total",
    "concept_merged_total",
    "concept_cache_",
    "concept_result_cache",
    "concept_saved_seconds",
    "concept_job_seconds",
    "concept_queue_seconds",
    "concept_first_variation_seconds",
    "concept_stage_seconds_sum",
    "concept_uploads_total",
    "concept_upload_bytes",
    "concept_storage_retries",
    "concept_class",
    "concept_breaker",
    "concept_memory_cleanups",
    "concept_queue_depth",
    "concept_jobs_running",
    "concept_admission_",
    "concept_resident_bytes",
    "concept_uptime_seconds",
];

/// A folder of storage, removed when it is dropped.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().context("cannot make a folder for temporary files")? })
    }

    /// Puts a picture into the bucket `bases`.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let bucket = self.folder.path().join("data/bases");
        std::fs::create_dir_all(&bucket)?;
        std::fs::write(bucket.join(name), bytes).with_context(|| format!("cannot write {name}"))
    }

    /// Where the results of a job lie.
    pub fn results(&self, user: &str, id: &str) -> PathBuf {
        self.folder.path().join("data/palettes").join(user).join(id)
    }
}

/// A running worker, killed when it is dropped.
pub struct Worker {
    child: Child,
    /// `http://` and the address.
    pub base: String,
    log: Arc<Mutex<Log>>,
    /// Removed after the process has ended.
    _home: Arc<Home>,
}

/// Log lines that are worse than information.
#[derive(Default)]
struct Log {
    count: usize,
    /// Those that say what is wrong with a picture.
    of_pictures: usize,
    /// The first of the others.
    first: Vec<String>,
}

impl Worker {
    /// Starts `serve` on a port of its own, with these settings and no others, and waits until it is ready.
    pub async fn start(program: &Path, home: &Arc<Home>, settings: &[(&str, String)], caller: &Caller) -> Result<Self> {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let foreign = ["CONCEPT_", "OTEL_", "K_SERVICE", "PORT", "STORAGE_EMULATOR", "PUBSUB_EMULATOR"];
            if foreign.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .current_dir(home.folder.path())
            .env("CONCEPT_STORAGE", format!("local:{}", home.folder.path().join("data").display()))
            .env("CONCEPT_LOG_FORMAT", "json")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let output = child.stdout.take();
        let log = Arc::new(Mutex::new(Log::default()));
        // Ended with this from now on, whatever happens next.
        let mut worker = Self { child, base: String::new(), log: log.clone(), _home: home.clone() };
        let (tell, told) = oneshot::channel();
        let lines = BufReader::new(output.context("it has no standard output")?);
        std::thread::spawn(move || read_log(lines, tell, &log));
        let address = timeout(PATIENCE, told).await.context("it does not start")?.context("it ended at once")?;
        worker.base = format!("http://{address}");
        worker.wait_until_ready(caller).await?;
        Ok(worker)
    }

    async fn wait_until_ready(&self, caller: &Caller) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if caller.get(&format!("{}/ready", self.base)).await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        bail!("it is not ready")
    }

    /// Waits until no job is running; what it says of itself then.
    pub async fn at_rest(&self, caller: &Caller) -> Result<Metrics> {
        let start = Instant::now();
        loop {
            let metrics = self.metrics(caller).await?;
            if metrics.sum("concept_jobs_running", "") == 0.0 {
                return Ok(metrics);
            }
            if start.elapsed() > PATIENCE {
                bail!("jobs are still running {} s after the last answer", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn metrics(&self, caller: &Caller) -> Result<Metrics> {
        let text = caller.get(&format!("{}/metrics", self.base)).await.context("there are no metrics")?;
        Ok(Metrics::read(&text))
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Says how many log lines were worse than information, and shows the first.
    pub fn print_log(&self, name: &str) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        println!("log lines above INFO of {name}: {}; of broken pictures: {}", log.count, log.of_pictures);
        for line in &log.first {
            println!("  {}", line.chars().take(400).collect::<String>());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a process's log to its end; tells where it listens.
fn read_log(lines: impl BufRead, tell: oneshot::Sender<SocketAddr>, log: &Mutex<Log>) {
    let mut tell = Some(tell);
    for line in lines.lines().map_while(Result::ok) {
        if let Some((_, rest)) = line.split_once("listening on http://") {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
            if let (Ok(address), Some(tell)) = (rest[..end].parse(), tell.take()) {
                let _ = tell.send(address);
            }
        }
        let harmless = ["INFO", "DEBUG"].iter().any(|word| line.contains(&format!("\"severity\":\"{word}\"")));
        if !harmless {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.count += 1;
            if BROKEN_CLASSES.iter().any(|class| line.contains(&format!("failed ({class})"))) {
                log.of_pictures += 1;
            } else if log.first.len() < SHOWN_LINES {
                log.first.push(line);
            }
        }
    }
}

/// What a process counts: names with labels, and values.
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    fn read(text: &str) -> Self {
        let value = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(value).collect())
    }

    /// The sum of everything of this name whose labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let is_it = |full: &str| full.split('{').next() == Some(name) && full.contains(label);
        // Not `sum`, which makes −0 of nothing.
        self.0.iter().filter(|(full, _)| is_it(full)).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// Jobs that were computed and are complete.
    pub fn computed(&self) -> u64 {
        self.sum("concept_jobs_total", "outcome=\"complete\"") as u64
    }

    fn get(&self, full: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == full).map(|(_, value)| *value)
    }
}

/// Prints the relevant metrics of some processes side by side; what is zero in all of them is left out.
pub fn print_metrics(processes: &[(&str, &Metrics)]) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in processes.iter().flat_map(|(_, metrics)| &metrics.0) {
        let relevant = RELEVANT.iter().any(|prefix| name.starts_with(prefix)) && !name.contains("_bucket");
        let nonzero = processes.iter().any(|(_, metrics)| metrics.get(name).is_some_and(|value| value != 0.0));
        if relevant && nonzero && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let shown = |value: f64| match value.fract() == 0.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.3}"),
    };
    let mut table = Table::new(&[&["metric"], &*processes.iter().map(|(name, _)| *name).collect::<Vec<_>>()].concat());
    for name in names {
        let values = processes.iter().map(|(_, metrics)| metrics.get(name).map_or("–".into(), shown));
        table.row(std::iter::once(name.to_owned()).chain(values));
    }
    table.print();
}

/// The kernel's load averages, where it tells them.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let figures: Vec<&str> = text.split_whitespace().take(3).collect();
    if figures.is_empty() { "unknown".into() } else { figures.join(", ") }
}
