//! The worker under load, on this machine only: what it serves, how long that takes, what it holds.
//!
//! ```text
//! cargo build --release && cargo run --release --example load -- all
//!     burst         64 pushes of 2048² × 7 at once in 512 MiB
//!     served        jobs a second by push against the command line's; latency at 80 % of that; /health meanwhile
//!     round-trips   what 50 ms answers of storage add to one job
//!     small         512² × 3 over 1,000 connections for 60 s
//! ```
//!
//! Storage is the test suite's own server, in this process, on loopback; every loop is bounded.

#[path = "../../benches/pictures/mod.rs"]
mod pictures;
#[path = "../../tests/storage_server/mod.rs"]
mod storage_server;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use pictures::Size;
use serde_json::{Value, json};
use storage_server::{Faults, StorageServer};
use worker::Worker;

const MIB: f64 = (1u64 << 20) as f64;

struct Bench {
    server: StorageServer,
    binary: String,
    client: reqwest::Client,
    /// The job of 2048² × 7, its name left open.
    large: Value,
    /// The job of 512² × 3.
    small: Value,
    source: Vec<u8>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_else(|| "all".into());
    let binary = args.next().unwrap_or_else(|| "target/release/concept-worker".into());
    let bench = Bench::new(binary).await?;
    let all = what == "all";
    if !["all", "burst", "served", "round-trips", "small"].contains(&what.as_str()) {
        bail!("no load is called {what}: burst, served, round-trips, small or all");
    }
    if all || what == "burst" {
        bench.burst().await?;
    }
    if all || what == "round-trips" {
        bench.round_trips().await?;
    }
    if all || what == "served" {
        bench.served().await?;
    }
    if all || what == "small" {
        bench.small().await?;
    }
    Ok(())
}

fn job(source: &str, palettes: usize) -> Value {
    let specs = pictures::specs(palettes);
    json!({
        "user_id": "load",
        "source": format!("gs://bases/{source}"),
        "palettes": specs,
        "outputs": [{"format": "jpeg"}],
        "destination": "gs://palettes",
    })
}

fn wrapped(job: &Value, id: &str) -> Value {
    let mut job = job.clone();
    job["job_id"] = json!(id);
    json!({"message": {"data": STANDARD.encode(job.to_string()), "messageId": id}, "subscription": "projects/p/subscriptions/s"})
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * q).round() as usize;
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

impl Bench {
    async fn new(binary: String) -> Result<Self> {
        let server = StorageServer::start().await;
        server.create_bucket("palettes");
        let source = pictures::photo_jpeg(Size::MEDIUM);
        server.put("bases", "large.jpg", source.clone());
        server.put("bases", "small.jpg", pictures::photo_jpeg(Size { name: "0.3MP", width: 512, height: 512 }));
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(2_000)
            .timeout(Duration::from_secs(600))
            .build()?;
        Ok(Self { server, binary, client, large: job("large.jpg", 7), small: job("small.jpg", 3), source })
    }

    fn vars(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CONCEPT_STORAGE", "gcs".into()),
            ("STORAGE_EMULATOR_HOST", self.server.url()),
            ("CONCEPT_STORAGE_BUCKET_CONCEPT", "bases".into()),
            ("CONCEPT_STORAGE_BUCKET_PALETTE", "palettes".into()),
            // Jobs are alike, and what is measured is making them.
            ("CONCEPT_CACHE_TTL_SECONDS", "0".into()),
        ]
    }

    fn start(&self, limit_mb: u64) -> Result<Worker> {
        Worker::start(&self.binary, &self.vars(), limit_mb)
    }

    async fn push(&self, worker: &Worker, job: &Value, id: &str) -> (u16, Duration) {
        let start = Instant::now();
        let answer = self.client.post(worker.url("/")).json(&wrapped(job, id)).send().await;
        (answer.map_or(0, |answer| answer.status().as_u16()), start.elapsed())
    }

    fn forget_results(&self) {
        for object in self.server.objects("palettes", "") {
            self.server.remove("palettes", &object.name);
        }
    }

    fn manifests(&self) -> usize {
        let complete = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok_and(|m| m["state"] == "complete");
        self.server
            .objects("palettes", "")
            .iter()
            .filter(|o| o.name.ends_with("manifest.json") && complete(&o.bytes))
            .count()
    }

    /// 64 pushes at once in 512 MiB.
    async fn burst(&self) -> Result<()> {
        let mut worker = self.start(512)?;
        let idle = worker.resident();
        println!("burst: 64 jobs of 2048² × 7 at once, 512 MiB, limited by {}", worker.limited_by);
        let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = {
            let (peak, over, pid) = (peak.clone(), over.clone(), worker.pid());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    peak.fetch_max(worker::resident(pid), Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        let start = Instant::now();
        let ids: Vec<String> = (0..64).map(|i| format!("burst-{i}")).collect();
        let answers: Vec<(u16, Duration)> =
            futures_util::future::join_all(ids.iter().map(|id| self.push(&worker, &self.large, id))).await;
        let took = start.elapsed();
        over.store(true, Ordering::SeqCst);
        watch.await?;
        let count = |status: u16| answers.iter().filter(|(got, _)| *got == status).count();
        println!(
            "  answered 204: {}, 429: {}, 503: {}, none: {}; manifests: {}; {:.1} s, {:.2} jobs/s",
            count(204),
            count(429),
            count(503),
            count(0),
            self.manifests(),
            took.as_secs_f64(),
            64.0 / took.as_secs_f64()
        );
        println!(
            "  resident: idle {:.0} MiB, peak {:.0} MiB{}; alive: {}",
            idle as f64 / MIB,
            peak.load(Ordering::SeqCst) as f64 / MIB,
            worker.group_peak().map(|peak| format!(" (cgroup {:.0} MiB)", peak as f64 / MIB)).unwrap_or_default(),
            worker.lives(),
        );
        for seconds in [1, 2, 5, 10] {
            tokio::time::sleep_until((start + took + Duration::from_secs(seconds)).into()).await;
            println!("  {seconds:>2} s afterwards: {:.0} MiB", worker.resident() as f64 / MIB);
        }
        self.forget_results();
        Ok(())
    }

    /// What 50 ms answers add to one job.
    async fn round_trips(&self) -> Result<()> {
        let worker = self.start(0)?;
        println!(
            "round trips: one job of 2048² × 7, storage answering at once and after 50 ms; ready {:.1} ms after start",
            worker.ready.as_secs_f64() * 1e3
        );
        let mut medians = Vec::new();
        for delay in [0, 50] {
            self.server.faults(Faults { delay: Duration::from_millis(delay), ..Faults::default() });
            let mut times = Vec::new();
            for i in 0..7 {
                let (status, took) = self.push(&worker, &self.large, &format!("trip-{delay}-{i}")).await;
                if status != 204 {
                    bail!("answered {status}");
                }
                times.push(took);
            }
            times.sort();
            medians.push(quantile(&times, 0.5));
        }
        self.server.faults(Faults::default());
        println!(
            "  median {:.0} ms and {:.0} ms: {:.1} round trips of 50 ms",
            medians[0],
            medians[1],
            (medians[1] - medians[0]) / 50.0
        );
        self.forget_results();
        Ok(())
    }

    /// Jobs a second of the command line and by push; latency at 80 %; health under full load.
    async fn served(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("large.jpg");
        std::fs::write(&path, &self.source)?;
        let palettes = folder.path().join("palettes.json");
        std::fs::write(&palettes, serde_json::to_vec(&self.large["palettes"])?)?;
        const RUNS: usize = 20;
        let command_line = || -> Result<f64> {
            let start = Instant::now();
            for i in 0..RUNS {
                let out = folder.path().join(format!("out-{i}"));
                let done = std::process::Command::new(&self.binary)
                    .args(["render", "--format", "jpeg", "--quiet", "--palettes"])
                    .args([&palettes, &path])
                    .arg("--out")
                    .arg(&out)
                    .status()
                    .context("cannot run the command line")?;
                if !done.success() {
                    bail!("render failed");
                }
                std::fs::remove_dir_all(out)?;
            }
            Ok(RUNS as f64 / start.elapsed().as_secs_f64())
        };
        let worker = self.start(0)?;
        self.server.faults(Faults { delay: Duration::from_millis(50), ..Faults::default() });
        println!("served: 2048² × 7 JPEG by push, storage answering after 50 ms, against `render` (in turns)");
        let (mut lines, mut served) = (Vec::new(), Vec::new());
        for turn in 0..3 {
            lines.push(command_line()?);
            let start = Instant::now();
            let statuses: Vec<(u16, Duration)> = stream::iter(0..2 * RUNS)
                .map(|i| {
                    let id = format!("served-{turn}-{i}");
                    let worker = &worker;
                    async move { self.push(worker, &self.large, &id).await }
                })
                .buffer_unordered(8)
                .collect()
                .await;
            if statuses.iter().any(|(status, _)| *status != 204) {
                bail!("not every job was done: {statuses:?}");
            }
            served.push(2.0 * RUNS as f64 / start.elapsed().as_secs_f64());
            self.forget_results();
        }
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (line, rate) = (median(&mut lines), median(&mut served));
        println!("  command line {line:.2} jobs/s, served {rate:.2} jobs/s: {:.0} %", 100.0 * rate / line);

        // At 80 %: arrivals at fixed times, whoever is still in there.
        let gap = Duration::from_secs_f64(1.0 / (0.8 * rate));
        let start = Instant::now();
        let count = ((30.0 * 0.8 * rate) as usize).clamp(20, 400);
        let arrivals = (0..count).map(|i| {
            let worker = &worker;
            async move {
                tokio::time::sleep_until((start + gap * u32::try_from(i).unwrap_or(u32::MAX)).into()).await;
                self.push(worker, &self.large, &format!("steady-{i}")).await
            }
        });
        let mut times: Vec<Duration> =
            futures_util::future::join_all(arrivals).await.into_iter().map(|(_, time)| time).collect();
        times.sort();
        println!(
            "  at 80 % load: p50 {:.0} ms, p99 {:.0} ms ({:.2} ×), {count} jobs",
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            quantile(&times, 0.99) / quantile(&times, 0.5)
        );
        self.forget_results();

        let over = AtomicBool::new(false);
        let load = async {
            let pushes = (0..24).map(|i| {
                let worker = &worker;
                async move { self.push(worker, &self.large, &format!("full-{i}")).await }
            });
            futures_util::future::join_all(pushes).await;
            over.store(true, Ordering::SeqCst);
        };
        let probe = async {
            let mut times = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let start = Instant::now();
                if self.client.get(worker.url("/health")).send().await.is_ok() {
                    times.push(start.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            times.sort();
            times
        };
        let ((), times) = futures_util::future::join(load, probe).await;
        println!(
            "  /health under full load: p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms of {}",
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            quantile(&times, 1.0),
            times.len()
        );
        self.server.faults(Faults::default());
        self.forget_results();
        Ok(())
    }

    /// 512² × 3 over 1,000 connections for 60 s.
    async fn small(&self) -> Result<()> {
        let worker = self.start(2048)?;
        println!("small: 512² × 3 JPEG, 1,000 connections, 60 s");
        let (done, failed, number) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let start = Instant::now();
        let end = start + Duration::from_secs(60);
        let callers = (0..1_000).map(|_| async {
            let mut times = Vec::new();
            while Instant::now() < end {
                let mut job = self.small.clone();
                let id = number.fetch_add(1, Ordering::Relaxed);
                job["job_id"] = json!(format!("small-{id}"));
                let begun = Instant::now();
                let request = self.client.post(worker.url("/v1/render")).json(&job);
                let answer = async {
                    let answer = request.send().await?.error_for_status()?;
                    answer.bytes().await
                };
                if answer.await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                    times.push(begun.elapsed());
                } else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            times
        });
        let watch = async {
            let mut seen = Vec::new();
            for second in [5, 20, 35, 50, 60] {
                tokio::time::sleep_until((start + Duration::from_secs(second)).into()).await;
                seen.push(format!("{second} s {:.0} MiB", worker.resident() as f64 / MIB));
                // The server in this process keeps every object.
                self.forget_results();
            }
            seen
        };
        let (times, seen) = futures_util::future::join(futures_util::future::join_all(callers), watch).await;
        let took = start.elapsed().as_secs_f64();
        let mut times: Vec<Duration> = times.into_iter().flatten().collect();
        times.sort();
        let (done, failed) = (done.into_inner(), failed.into_inner());
        println!(
            "  {:.0} requests/s, {failed} of {} failed ({:.2} %), p50 {:.0} ms, p99 {:.0} ms; resident: {}",
            done as f64 / took,
            done + failed,
            100.0 * failed as f64 / (done + failed).max(1) as f64,
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            seen.join(", ")
        );
        Ok(())
    }
}
