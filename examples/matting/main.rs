//! Prints the tables of background removal on scenes with a known matte as Markdown, and draws contact sheets.
//!
//! ```text
//! cargo run --release --example matting
//! cargo run --release --example matting -- --each --sheets SHEETS
//! cargo run --release --example matting -- --grid --method classic
//! cargo run --release --example matting -- --baseline tests/baselines/matting.json
//! ```

#[path = "../../fixtures/generator/mod.rs"]
mod generator;
#[path = "../../tests/judge/mod.rs"]
mod judge;
mod sheets;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use generator::scenes;
use judge::{Judged, METHODS, digits};

/// Judge background removal on scenes with a known matte.
#[derive(Parser)]
struct Arguments {
    /// Longer side of the scenes in pixels.
    #[arg(long, default_value_t = judge::SIDE, value_parser = clap::value_parser!(u32).range(16..=4096))]
    side: u32,
    /// Judge on every subject × every ground instead: 340 scenes. (The committed scenes are what methods are tuned by.)
    #[arg(long)]
    grid: bool,
    /// Only methods whose name contains this.
    #[arg(long, default_value = "")]
    method: String,
    /// Print a table of every scene too.
    #[arg(long)]
    each: bool,
    /// Write contact sheets into this folder: picture, matte, and the cut over white, black and magenta.
    #[arg(long)]
    sheets: Option<PathBuf>,
    /// Write the figures of every method to this file, for tests/matting.rs to compare with.
    #[arg(long)]
    baseline: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.baseline.is_none()
            || (arguments.side == judge::SIDE && arguments.method.is_empty() && !arguments.grid),
        "--baseline goes with every method and the committed scenes at --side {}",
        judge::SIDE
    );
    let scenes = if arguments.grid { scenes::grid(arguments.side) } else { scenes::all(arguments.side) };
    let mut baseline = BTreeMap::new();
    for method in METHODS.iter().filter(|m| m.name.contains(&arguments.method)) {
        let judged = judge::judge(method, &scenes);
        println!("## {}\n", method.name);
        println!("{}", judge::table(&judged, false));
        if method.confident > 0.0 {
            println!(
                "Cuts in use only (confidence {:.2} or more):\n\n{}",
                method.confident,
                judge::table(&judged, true)
            );
            print_confidence(&judged);
        }
        if arguments.each {
            print_each(&judged);
        }
        if let Some(folder) = &arguments.sheets {
            std::fs::create_dir_all(folder).with_context(|| format!("--sheets {}", folder.display()))?;
            for stratum in scenes::STRATA {
                sheets::write(folder, method.name, stratum, &scenes, &judged)?;
            }
        }
        baseline.insert(method.name, judge::strata(&judged));
    }
    if let Some(path) = &arguments.baseline {
        let text = serde_json::to_string_pretty(&baseline)? + "\n";
        std::fs::write(path, text).with_context(|| format!("--baseline {}", path.display()))?;
    }
    Ok(())
}

fn print_confidence(judged: &[Judged]) {
    let count = |of: &dyn Fn(&Judged) -> bool| judged.iter().filter(|j| of(j)).count();
    match judge::auc(judged) {
        Some(auc) => println!("AUC of the confidence: {auc:.3}"),
        None => println!("AUC of the confidence: every cut is of the same kind"),
    }
    println!("used and good: {}", count(&|j| j.used && !j.bad));
    println!("used and bad (MAE above {}): {}", judge::BAD_MAE, count(&|j| j.used && j.bad));
    println!("passed through and good: {}", count(&|j| !j.used && !j.bad));
    println!("passed through and bad: {}\n", count(&|j| !j.used && j.bad));
}

fn print_each(judged: &[Judged]) {
    println!(
        "| scene | stratum | confidence | MAE·10³ | boundary IoU | ΔE edge | ΔE all | |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for j in judged {
        let f = &j.figures;
        println!(
            "| {} | {} | {:.3} | {} | {:.3} | {} | {} | {}{} |",
            j.name,
            j.stratum,
            j.confidence,
            digits(1e3 * f.mae),
            f.boundary_iou,
            f.recomposition.boundary.map_or("–".to_owned(), digits),
            digits(f.recomposition.overall),
            if j.used { "used" } else { "passed through" },
            if j.bad { ", bad" } else { "" },
        );
    }
    println!();
}
