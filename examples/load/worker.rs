//! The worker as a process of its own, in a container's memory where this machine can make one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A running worker, killed when it is dropped.
pub struct Worker {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process to its first answer.
    pub ready: Duration,
    /// How the memory limit is enforced.
    pub limited_by: String,
    group: Option<PathBuf>,
}

impl Worker {
    /// Starts `binary serve` with these variables, in `limit_mb` MiB if that is not 0.
    pub fn start(binary: &str, vars: &[(&str, String)], limit_mb: u64) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("CONCEPT_LOG_FORMAT", "json").env("CONCEPT_LOG_LEVEL", "info");
        command.envs(vars.iter().map(|(name, value)| (name, value)));
        let (group, mut limited_by) = (group(limit_mb), "nothing".to_owned());
        if limit_mb > 0 {
            // The shell enters the group and becomes the worker, so that nothing of it is outside.
            if let Some(group) = &group {
                let mut inside = Command::new("sh");
                inside.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(group).arg(binary);
                inside.args(["serve", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
                inside.env("CONCEPT_LOG_FORMAT", "json").envs(vars.iter().map(|(name, value)| (name, value)));
                command = inside;
                limited_by = "a memory cgroup".into();
            } else {
                limited_by = "CONCEPT_MEMORY_LIMIT_MB only: no cgroup can be made here".into();
            }
            command.env("CONCEPT_MEMORY_LIMIT_MB", limit_mb.to_string());
        }
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start {binary}; build it first"))?;
        let (tell, told) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().context("no standard output")?);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
                    let _ = tell.send(rest[..end].to_owned());
                }
            }
        });
        let address: SocketAddr = told.recv_timeout(Duration::from_secs(30)).context("it did not start")?.parse()?;
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Self { child, address, ready: started.elapsed(), limited_by, group })
    }

    /// Resident bytes now.
    pub fn resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The most that its group has held, bytes.
    pub fn group_peak(&self) -> Option<u64> {
        let group = self.group.as_ref()?;
        ["memory.max_usage_in_bytes", "memory.peak"]
            .iter()
            .find_map(|name| fs::read_to_string(group.join(name)).ok()?.trim().parse().ok())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Resident bytes of a process; 0 when it is gone.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A memory cgroup of this size, where one can be made.
fn group(limit_mb: u64) -> Option<PathBuf> {
    if limit_mb == 0 {
        return None;
    }
    let name = format!("concept-load-{}", std::process::id());
    for (root, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
        let group = PathBuf::from(root).join(&name);
        if fs::metadata(format!("{root}/cgroup.procs")).is_err() || fs::create_dir(&group).is_err() {
            continue;
        }
        if fs::write(group.join(limit), (limit_mb << 20).to_string()).is_ok() {
            return Some(group);
        }
        let _ = fs::remove_dir(&group);
    }
    None
}
