//! Local jobs beside remote models that hang, and that fail half of the time: how much slower they are, and how soon the breaker
//! of the failing one opens and closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use crate::job::Job;
use crate::process::{Home, Worker, print_metrics};
use crate::remote_server::{Model, RemoteServer, TOKEN};
use crate::table::{Table, median, number, quantile};
use crate::{Bench, sources};

/// Local jobs that are timed in each round.
const LOCAL: usize = 400;

/// Callers of local jobs.
const CALLERS: usize = 2;

/// Callers whose jobs need the model that hangs, and the one that fails half of the time.
const WAITING: (usize, usize) = (60, 8);

/// Measures, and prints medians.
pub async fn run(bench: &Bench) -> Result<()> {
    println!(
        "neighbours: {LOCAL} local jobs by {CALLERS} callers, alone and beside {} callers of a model that hangs and {} of one \
         that fails half of the time; {} times, alone and beside in turn",
        WAITING.0, WAITING.1, bench.arguments.repeats
    );
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for turn in 0..bench.arguments.repeats {
        alone.push(round(bench, turn, false).await?);
        beside.push(round(bench, turn, true).await?);
    }
    let mut table = Table::new(&["medians, ms", "alone", "beside", "beside / alone"]);
    for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let of = |rounds: &[Vec<f64>]| median(rounds.iter().map(|times| quantile(times, q)));
        let (alone, beside) = (of(&alone), of(&beside));
        table.row([name.to_owned(), number(alone), number(beside), format!("{:.3}", beside / alone)]);
    }
    table.print();
    breaker(bench).await
}

/// Times of local jobs, sorted.
async fn round(bench: &Bench, turn: u32, is_beside: bool) -> Result<Vec<f64>> {
    let home = Arc::new(Home::new()?);
    for (name, bytes) in sources::small()? {
        home.put(&name, &bytes)?;
    }
    let server = RemoteServer::start().await;
    server.model("owner/hangs", Model::hangs());
    let picture = sources::fixture("photo.jpg")?;
    server.model(
        "owner/half",
        Model::makes("image", "image/jpeg", move |_| picture.clone().into()).fails_every(2, "no luck"),
    );
    let settings = [("CONCEPT_REMOTE_URL", server.api()), ("CONCEPT_REMOTE_TOKEN", TOKEN.to_owned())];
    let worker = Worker::start(&bench.program, &home, &settings, &bench.caller).await?;
    let brands = sources::brands()?;
    let (picture, over) = (sources::small()?[0].0.clone(), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    for i in 0..if is_beside { WAITING.0 + WAITING.1 } else { 0 } {
        let (over, caller, base) = (over.clone(), bench.caller.clone(), worker.base.clone());
        let palettes = sources::unique(&brands, i as u64, 1);
        let picture = picture.clone();
        callers.push(tokio::spawn(async move {
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let id = format!("remote{i}-{n}");
                let mut job = Job::new(id, format!("r{i}"), &picture, palettes.clone(), &["jpeg"], None);
                let model = if i < WAITING.0 { "owner/hangs" } else { "owner/half" };
                job.body["steps"] = json!([{"name": "upscale", "model": model, "input": {"n": format!("{i}-{n}")}}]);
                let _ = caller.render(&base, &job.body, None).await;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }));
    }
    if is_beside {
        let start = Instant::now();
        while server.created_of("owner/hangs") < 8 {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("the places of remote steps were not taken within 30 s");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mut times = Vec::new();
    let local = (0..CALLERS).map(|caller| {
        let (bench, worker, home, brands, picture) = (bench, &worker, &home, &brands, &picture);
        async move {
            let mut times = Vec::new();
            for i in 0..LOCAL / CALLERS {
                let number = u64::from(turn) * 1_000_000 + (caller * LOCAL + i) as u64;
                let palettes = sources::unique(brands, number, 2);
                let id = format!("local{caller}-{i}");
                let job = Job::new(id, format!("l{caller}"), picture, palettes, &["jpeg"], None);
                times.extend(bench.render(worker, home, &job).await.map(|(_, wall)| wall));
            }
            times
        }
    });
    for done in futures_util::future::join_all(local).await {
        times.extend(done);
    }
    over.store(true, Ordering::SeqCst);
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// How many failures open the breaker, and how many orders close it once the model has recovered.
async fn breaker(bench: &Bench) -> Result<()> {
    let home = Arc::new(Home::new()?);
    for (name, bytes) in sources::small()? {
        home.put(&name, &bytes)?;
    }
    let server = RemoteServer::start().await;
    server.model("owner/sick", Model::fails("out of memory"));
    let settings = [
        ("CONCEPT_REMOTE_URL", server.api()),
        ("CONCEPT_REMOTE_TOKEN", TOKEN.to_owned()),
        ("CONCEPT_REMOTE_BREAKER_SECONDS", "2".to_owned()),
    ];
    let worker = Worker::start(&bench.program, &home, &settings, &bench.caller).await?;
    let picture = sources::small()?[0].0.clone();
    let brands = sources::brands()?;
    let send = async |n: usize| {
        let palettes = sources::unique(&brands, n as u64, 1);
        let mut job = Job::new(format!("b{n}"), "u".into(), &picture, palettes, &["jpeg"], None);
        job.body["steps"] = json!([{"name": "upscale", "model": "owner/sick", "input": {"n": n}}]);
        bench.caller.once(&worker.base, &job.body, None).await.map(|answer| answer.status)
    };
    let mut sent = 0;
    // 2: open.
    while worker.metrics(&bench.caller).await?.sum("concept_breaker", "of=\"remote\"") < 2.0 {
        if sent == 30 {
            bail!("the breaker did not open within {sent} jobs");
        }
        send(sent).await?;
        sent += 1;
    }
    let failures = server.created_of("owner/sick");
    let good = sources::fixture("photo.jpg")?;
    server.model("owner/sick", Model::makes("image", "image/jpeg", move |_| good.clone().into()));
    let recovered = Instant::now();
    while send(sent).await? != 200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if recovered.elapsed() > Duration::from_secs(30) {
            bail!("the breaker did not close within 30 s");
        }
    }
    let orders = server.created_of("owner/sick") - failures;
    println!(
        "breaker: open after {failures} failures; closed by {orders} order(s), {:.1} s after the model recovered (pause 2 s, and \
         the caller's own)",
        recovered.elapsed().as_secs_f64()
    );
    let metrics = worker.at_rest(&bench.caller).await?;
    print_metrics(&[("the process with the breaker", &metrics)]);
    Ok(())
}
