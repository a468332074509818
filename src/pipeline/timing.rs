//! How long stages take, summed over threads, and how much memory the process has used.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Milliseconds per stage.
#[derive(Debug, Default)]
pub struct Timings {
    stages: Mutex<BTreeMap<&'static str, f64>>,
}

impl Timings {
    /// Adds the time since `start` to `stage`.
    pub fn add(&self, stage: &'static str, start: Instant) {
        let spent = start.elapsed().as_secs_f64() * 1000.0;
        *self.stages.lock().unwrap_or_else(PoisonError::into_inner).entry(stage).or_default() += spent;
    }

    /// Adds everything that is in `others`.
    pub fn add_all(&self, others: &Self) {
        let others = others.stages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, ms) in others {
            *stages.entry(stage).or_default() += ms;
        }
    }

    /// Everything so far, rounded to microseconds.
    pub fn to_map(&self) -> BTreeMap<String, f64> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().map(|(&stage, &ms)| (stage.to_owned(), (ms * 1000.0).round() / 1000.0)).collect()
    }
}

/// The most memory the process has held so far, bytes: the kernel's high-water mark where there is one, else what it
/// holds now; 0 where neither is known.
pub fn peak_bytes() -> u64 {
    let high_water = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    high_water.map(|kib| kib * 1024).unwrap_or_else(|| {
        let Ok(pid) = sysinfo::get_current_pid() else { return 0 };
        let Ok(mut system) = sysinfo::System::new() else { return 0 };
        system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
        system.process(pid).map_or(0, sysinfo::Process::memory)
    })
}
