//! What the first job of a picture leaves to the second, which has other palettes.

use std::sync::Arc;

use anyhow::Result;

use crate::job::{Job, Manifest};
use crate::process::{Home, Worker, print_metrics};
use crate::table::{Table, median, number};
use crate::{Bench, sources};

/// Sides of the photograph.
const SIDE: u32 = 2048;

/// Palettes of a job.
const PALETTES: usize = 7;

/// The stages before palettes.
const STAGES: [&str; 4] = ["decode", "prescale", "index", "model"];

/// One job.
struct Measured {
    manifest: Manifest,
    /// Milliseconds from sending it to the end of the answer.
    wall: f64,
}

impl Measured {
    fn base(&self) -> f64 {
        STAGES.iter().map(|stage| self.manifest.spent(stage)).sum()
    }

    fn total(&self) -> f64 {
        self.manifest.spent("total")
    }
}

/// Measures, and prints medians.
pub async fn run(bench: &Bench) -> Result<()> {
    let photograph = sources::photograph(SIDE);
    let brands = sources::brands()?;
    println!(
        "second: two jobs of a photograph of {SIDE}×{SIDE} (JPEG, {:.2} MB), {PALETTES} palettes each, as JPEG; {} \
         times, each with a new process",
        photograph.len() as f64 / 1e6,
        bench.arguments.repeats
    );
    let mut pairs: Vec<[Measured; 2]> = Vec::new();
    for turn in 1..=bench.arguments.repeats {
        let home = Arc::new(Home::new()?);
        home.put("photograph.jpg", &photograph)?;
        let worker = Worker::start(&bench.program, &home, &[], &bench.caller).await?;
        let mut pair = Vec::new();
        for (id, palettes) in ["first", "second"].into_iter().zip(brands.chunks(PALETTES)) {
            let job = Job::new(id.into(), "u".into(), "photograph.jpg", palettes.to_vec(), &["jpeg"], None);
            let answered = bench.render(&worker, &home, &job).await;
            pair.extend(answered.map(|(manifest, wall)| Measured { manifest, wall }));
        }
        let metrics = worker.at_rest(&bench.caller).await?;
        if metrics.computed() > 2 {
            bench.faults.add(format!("twice: of two jobs {} were computed", metrics.computed()));
        }
        if let Ok(pair) = <[Measured; 2]>::try_from(pair) {
            pairs.push(pair);
        }
        if turn == bench.arguments.repeats {
            print(&pairs);
            worker.print_log("the last process");
            print_metrics(&[("the last process", &metrics)]);
        }
    }
    Ok(())
}

fn print(pairs: &[[Measured; 2]]) {
    let mut table = Table::new(&["medians, ms", "first", "second"]);
    let mut row = |name: &str, of: &dyn Fn(&Measured) -> f64| {
        let cells = [0, 1].map(|which| number(median(pairs.iter().map(|pair| of(&pair[which])))));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    for stage in STAGES {
        row(stage, &|job| job.manifest.spent(stage));
    }
    row("decode + prescale + index + model", &Measured::base);
    row("queue", &|job| job.manifest.spent("queue"));
    row("fetch", &|job| job.manifest.spent("fetch"));
    row("store", &|job| job.manifest.spent("store"));
    row("total by the worker's clock", &Measured::total);
    row("wall, from sending to the answer", &|job| job.wall);
    row("spared.base (1: it was there)", &|job| f64::from(u8::from(job.manifest.spared.base)));
    row("spared.files", &|job| job.manifest.spared.files as f64);
    row("spared.saved_ms", &|job| job.manifest.spared.saved_ms);
    table.print();
    let saved = median(pairs.iter().map(|[first, second]| 1.0 - second.base() / first.base()));
    println!("  saved share, 1 − second/first of decode + prescale + index + model: {:.1} %", 100.0 * saved);
    let wall = median(pairs.iter().map(|[first, second]| second.wall / first.wall));
    println!("  second/first by wall time: {wall:.3}");
    let each = |of: &dyn Fn(&Measured) -> f64, which: usize| {
        let values: Vec<String> = pairs.iter().map(|pair| number(of(&pair[which]))).collect();
        values.join(", ")
    };
    for (which, name) in ["first", "second"].into_iter().enumerate() {
        let (base, walls) = (each(&Measured::base, which), each(&|job| job.wall, which));
        println!("  each {name} job: before palettes {base} ms; wall {walls} ms");
    }
}
