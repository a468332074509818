//! Measures every figure that the engine has a target for, in one run, and prints the table of docs/benchmarks.md.
//!
//! ```text
//! cargo build --release
//! cargo run --release --example ratios
//! ```
//!
//! Give both commands the same `--features`: `turbojpeg` changes the codecs and their targets, `opencv` adds the
//! predecessor. Whole processes are runs of the program beside this example; what is compared runs in turns, and
//! medians are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use concept_worker::pipeline::job::Format;

#[path = "../../benches/codecs/mod.rs"]
mod codecs;
#[path = "../../benches/pictures/mod.rs"]
mod pictures;

mod kernel;
mod process;
mod table;

use codecs::Rgb;
use pictures::Size;
use process::{Engine, Lutgen, Run, Scenario, Usage};
use table::{Row, Verdict};

/// Measure the engine against its targets.
#[derive(Parser)]
struct Arguments {
    /// One turn instead of several, no picture of 50 megapixels and no predecessor.
    #[arg(long)]
    quick: bool,
    /// Leave the picture of 50 megapixels out.
    #[arg(long)]
    no_large: bool,
    /// Figures to measure, by comma; all when left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Turns of which the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Print Markdown for docs/benchmarks.md.
    #[arg(long)]
    markdown: bool,
    /// The program to measure; without it, the one built beside this example.
    #[arg(long)]
    bin: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Figure {
    /// 7 palettes as JPEG against the predecessor.
    A,
    /// 7 palettes as PNG against lutgen.
    B,
    /// CPU time against the codec floor.
    C,
    /// Recolouring alone.
    D,
    /// The colour model.
    E,
    /// 16 palettes against 1.
    F,
    /// 2 threads against 1.
    G,
    /// Peak memory.
    H,
    /// Size of the program.
    I,
}

const MEGABYTE: f64 = 1e6;

/// Palettes that the main rows use.
const PALETTES: usize = 7;
const MANY: usize = 16;

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.quick {
        arguments.repeats = 1;
        arguments.no_large = true;
    }
    let chosen: BTreeSet<Figure> = match arguments.only.is_empty() {
        true => Figure::value_variants().iter().copied().collect(),
        false => arguments.only.iter().copied().collect(),
    };
    let bench = Bench::new(arguments, chosen)?;
    let facts = bench.facts();
    let rows = bench.rows()?;
    if bench.arguments.markdown {
        table::print_markdown(&facts, &rows);
    } else {
        table::print_text(&facts, &rows);
    }
    Ok(())
}

/// Everything a run needs.
struct Bench {
    arguments: Arguments,
    chosen: BTreeSet<Figure>,
    engine: Engine,
    lutgen: Option<Lutgen>,
    /// The photograph at 2048 × 2048, as a JPEG.
    source: Vec<u8>,
    /// Load of the machine before anything ran.
    load: Option<String>,
    /// Holds all files.
    scratch: tempfile::TempDir,
}

/// Results of the turns.
#[derive(Default)]
struct Turns {
    engine: BTreeMap<Scenario, Vec<Run>>,
    /// All palettes of a turn together.
    lutgen: Vec<Usage>,
    floor: Option<Floor>,
}

/// CPU seconds of the codecs alone, one entry a turn.
#[derive(Default)]
struct Floor {
    decode: Vec<f64>,
    jpeg: Vec<Vec<f64>>,
    png: Vec<Vec<f64>>,
    /// Files with chroma at half resolution, among the first seven.
    halved: usize,
}

impl Floor {
    /// One decoding and `count` encodings.
    fn jpeg(&self, count: usize) -> f64 {
        median(self.decode.iter().zip(&self.jpeg).map(|(d, e)| d + e[..count].iter().sum::<f64>()))
    }

    /// `count` encodings.
    fn jpeg_encodes(&self, count: usize) -> f64 {
        median(self.jpeg.iter().map(|e| e[..count].iter().sum::<f64>()))
    }

    fn png(&self, count: usize) -> f64 {
        median(self.decode.iter().zip(&self.png).map(|(d, e)| d + e[..count].iter().sum::<f64>()))
    }
}

const fn scenario(format: Format, palettes: usize, threads: usize) -> Scenario {
    Scenario { png: matches!(format, Format::Png), palettes, threads }
}

impl Bench {
    fn new(arguments: Arguments, chosen: BTreeSet<Figure>) -> Result<Self> {
        let scratch = tempfile::tempdir().context("cannot make a scratch folder")?;
        let load = process::load();
        eprintln!("painting the photograph");
        let source = pictures::photo_jpeg(Size::MEDIUM);
        let engine = Engine::new(arguments.bin.clone(), scratch.path(), &source)?;
        let lutgen = Lutgen::find(scratch.path());
        Ok(Self { arguments, chosen, engine, lutgen, source, load, scratch })
    }

    fn wants(&self, figure: Figure) -> bool {
        self.chosen.contains(&figure)
    }

    fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn facts(&self) -> Vec<String> {
        let turns = match self.arguments.repeats {
            1 => "one turn".to_owned(),
            n => format!("median of {n} turns"),
        };
        let mut facts = vec![
            format!(
                "Picture: the generated photograph, {}×{}, JPEG of {:.2} MB. Palettes: five colours each. Mode: soft.",
                Size::MEDIUM.width,
                Size::MEDIUM.height,
                self.source.len() as f64 / MEGABYTE
            ),
            format!("JPEG codecs: {}. Threads: one unless said. Figures: {turns}.", codecs::JPEG_CODECS),
            format!("Machine: {}, {} cores.", process::processor(), Self::cores()),
        ];
        facts.extend(self.load.as_ref().map(|load| format!("Load average when it began: {load}.")));
        facts
    }

    /// The whole processes that the chosen figures need.
    fn scenarios(&self) -> BTreeSet<Scenario> {
        let jpeg = |palettes, threads| scenario(Format::Jpeg, palettes, threads);
        let mut all = BTreeSet::new();
        for &figure in &self.chosen {
            match figure {
                Figure::A => all.extend([jpeg(PALETTES, 1)]),
                Figure::B => all.extend([scenario(Format::Png, PALETTES, 1)]),
                Figure::C => all.extend([jpeg(PALETTES, 1), scenario(Format::Png, PALETTES, 1)]),
                Figure::F => all.extend([jpeg(1, 1), jpeg(MANY, 1)]),
                Figure::G if Self::cores() > 1 => {
                    all.extend([jpeg(PALETTES, 1), jpeg(PALETTES, 2), jpeg(MANY, 1), jpeg(MANY, 2)]);
                }
                Figure::H => all.extend([jpeg(1, 1), jpeg(PALETTES, 1), jpeg(MANY, 1)]),
                Figure::D | Figure::E | Figure::G | Figure::I => {}
            }
        }
        all
    }

    /// Runs what is compared in turns, after one turn that only warms up.
    fn turns(&self) -> Result<Turns> {
        let scenarios = self.scenarios();
        let floor = self.wants(Figure::C) || self.wants(Figure::F);
        let mut turns = Turns::default();
        if scenarios.is_empty() && !floor {
            return Ok(turns);
        }
        eprintln!("warming up");
        let warm = self.engine.run(scenario(Format::Jpeg, MANY, 1))?;
        let layouts: Vec<_> = warm.files.iter().map(|f| codecs::jpeg_layout(f)).collect::<Option<_>>().context(
            "the program wrote a JPEG of an unknown form; check that it was built from the same sources as this example",
        )?;
        ensure!(
            layouts.iter().all(|l| l.restarts == cfg!(feature = "turbojpeg")),
            "the program beside this example was built with other features; build both with the same --features"
        );
        let mut variations: Vec<Rgb> = Vec::new();
        if floor {
            let exact = self.engine.run(scenario(Format::Png, MANY, 1))?;
            variations = exact.files.iter().map(|file| codecs::decode_png(file)).collect();
            let halved = layouts[..PALETTES].iter().filter(|l| l.chroma_halved).count();
            turns.floor = Some(Floor { halved, ..Floor::default() });
        }
        for turn in 1..=self.arguments.repeats {
            eprintln!("turn {turn} of {}", self.arguments.repeats);
            for &scenario in &scenarios {
                let run = self.engine.run(scenario)?;
                turns.engine.entry(scenario).or_default().push(run);
            }
            if let (true, Some(lutgen)) = (self.wants(Figure::B), &self.lutgen) {
                turns.lutgen.push(lutgen.run(self.engine.source(), PALETTES)?);
            }
            if let Some(floor) = &mut turns.floor {
                let alone = |codec: &dyn Fn() -> usize| process::cpu_of(codec).map(|(seconds, _)| seconds);
                floor.decode.push(alone(&|| codecs::decode_jpeg(&self.source).samples.len())?);
                let jpeg = variations.iter().zip(&layouts);
                let jpeg = jpeg.map(|(v, l)| alone(&|| codecs::encode_jpeg(v, l.chroma_halved)));
                floor.jpeg.push(jpeg.collect::<Result<_>>()?);
                let png = variations[..PALETTES].iter();
                let png = png.map(|v| alone(&|| codecs::encode_png(v, png::Filter::Up)));
                floor.png.push(png.collect::<Result<_>>()?);
            }
        }
        Ok(turns)
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let turns = self.turns()?;
        let mut rows = Vec::new();
        for &figure in &self.chosen {
            eprintln!("figure {figure:?}");
            match figure {
                Figure::A => rows.push(self.predecessor(&turns)?),
                Figure::B => rows.push(self.against_lutgen(&turns)),
                Figure::C => rows.extend(codec_floor(&turns)),
                Figure::D => rows.push(kernel::recoloring(&self.source, self.arguments.repeats)?),
                Figure::E => rows.push(kernel::color_model(&self.source, self.arguments.repeats)?),
                Figure::F => rows.extend(many_palettes(&turns)),
                Figure::G => rows.extend(threads(&turns)),
                Figure::H => rows.extend(self.memory(&turns)?),
                Figure::I => rows.push(self.program()?),
            }
        }
        Ok(rows)
    }

    #[cfg(feature = "opencv")]
    fn predecessor(&self, turns: &Turns) -> Result<Row> {
        const NAME: &str = "7 palettes as JPEG, against the predecessor";
        let target = if cfg!(feature = "turbojpeg") { 1000.0 } else { 500.0 };
        if self.arguments.quick {
            return Ok(Row::skipped('a', NAME, &format!("≥ {target} × faster"), "left out by --quick"));
        }
        let one = kernel::predecessor(&self.source)?;
        let seven = scenario(Format::Jpeg, PALETTES, 1);
        let ours = turns.wall(seven);
        let theirs = one.wall * PALETTES as f64;
        let ratio = theirs / ours;
        Ok(Row {
            figure: 'a',
            name: NAME.into(),
            measured: format!("{ratio:.0} × faster"),
            target: format!("≥ {target} × faster"),
            verdict: Verdict::of(ratio >= target),
            how: format!(
                "{:.0} ms against {theirs:.0} s: one palette of its mode transfer through OpenCV took {:.1} s, times 7, \
                 without decoding and encoding; by CPU time {:.0} ×",
                ours * 1e3,
                one.wall,
                one.cpu * PALETTES as f64 / turns.cpu(seven)
            ),
        })
    }

    #[cfg(not(feature = "opencv"))]
    fn predecessor(&self, turns: &Turns) -> Result<Row> {
        let target = if cfg!(feature = "turbojpeg") { "≥ 1000 × faster" } else { "≥ 500 × faster" };
        let ours = turns.wall(scenario(Format::Jpeg, PALETTES, 1));
        let mut row = Row::skipped('a', "7 palettes as JPEG, against the predecessor", target, "");
        row.how = format!("ours {:.0} ms; the predecessor needs --features opencv", ours * 1e3);
        Ok(row)
    }

    fn against_lutgen(&self, turns: &Turns) -> Row {
        const NAME: &str = "7 palettes as PNG, against lutgen making the 7";
        const TARGET: f64 = 10.0;
        let target = format!("≥ {TARGET} × faster");
        let seven = scenario(Format::Png, PALETTES, 1);
        let ours = turns.wall(seven);
        if turns.lutgen.is_empty() {
            let why = format!("ours {:.0} ms; lutgen is not on PATH", ours * 1e3);
            return Row::skipped('b', NAME, &target, &why);
        }
        let theirs = median(turns.lutgen.iter().map(|u| u.wall));
        let cpu = median(turns.lutgen.iter().map(|u| u.cpu));
        let ratio = theirs / ours;
        Row {
            figure: 'b',
            name: NAME.into(),
            measured: format!("{ratio:.1} × faster"),
            target,
            verdict: Verdict::of(ratio >= TARGET),
            how: format!(
                "{:.0} ms against {:.0} ms in 7 processes on one thread each; by CPU time {:.1} ×",
                ours * 1e3,
                theirs * 1e3,
                cpu / turns.cpu(seven)
            ),
        }
    }

    fn memory(&self, turns: &Turns) -> Result<Vec<Row>> {
        let peak = |palettes| turns.peak(scenario(Format::Jpeg, palettes, 1));
        let mut rows = vec![Row {
            figure: 'h',
            name: "Peak memory, 7 palettes at 2048²".into(),
            measured: format!("{:.1} MB", peak(PALETTES) / MEGABYTE),
            target: "≤ 80 MB".into(),
            verdict: Verdict::of(peak(PALETTES) <= 80.0 * MEGABYTE),
            how: match turns.engine.get(&scenario(Format::Jpeg, PALETTES, 2)) {
                Some(runs) => {
                    let two = median(runs.iter().map(|r| r.peak_bytes as f64));
                    format!("highest resident memory of the process; {:.1} MB on two threads", two / MEGABYTE)
                }
                None => "highest resident memory of the process".into(),
            },
        }];
        let growth = peak(MANY) / peak(1);
        rows.push(Row {
            figure: 'h',
            name: "Peak memory, 16 palettes against 1".into(),
            measured: format!("{growth:.2} ×"),
            target: "flat (≤ 1.1 ×)".into(),
            verdict: Verdict::of(growth <= 1.1),
            how: format!("{:.1} MB at 1, {:.1} MB at 16", peak(1) / MEGABYTE, peak(MANY) / MEGABYTE),
        });
        let allowed = Size::LARGE.pixels() as f64 * 8.0 + 60.0 * MEGABYTE;
        let (name, target) = ("Peak memory, 7 palettes at 50 MP", format!("≤ {:.0} MB", allowed / MEGABYTE));
        if self.arguments.no_large {
            rows.push(Row::skipped('h', name, &target, "left out by --quick or --no-large"));
            return Ok(rows);
        }
        eprintln!("painting the photograph of 50 megapixels");
        let path = self.scratch.path().join("large.jpg");
        std::fs::write(&path, pictures::photo_jpeg(Size::LARGE)).context("cannot write the large picture")?;
        let run = self.engine.run_on(&path, scenario(Format::Jpeg, PALETTES, 1))?;
        let bytes = run.peak_bytes as f64;
        rows.push(Row {
            figure: 'h',
            name: name.into(),
            measured: format!("{:.0} MB", bytes / MEGABYTE),
            target,
            verdict: Verdict::of(bytes <= allowed),
            how: format!(
                "{:.2} bytes a pixel beyond 60 MB; the run took {:.2} s",
                (bytes - 60.0 * MEGABYTE) / Size::LARGE.pixels() as f64,
                run.usage.wall
            ),
        });
        Ok(rows)
    }

    fn program(&self) -> Result<Row> {
        let bytes = std::fs::metadata(self.engine.program()).context("cannot read the program's size")?.len() as f64;
        Ok(Row {
            figure: 'i',
            name: "Release program".into(),
            measured: format!("{:.1} MB", bytes / MEGABYTE),
            target: "≤ 30 MB".into(),
            verdict: Verdict::of(bytes <= 30.0 * MEGABYTE),
            how: "as cargo builds it".into(),
        })
    }
}

impl Turns {
    fn median_of(&self, scenario: Scenario, value: impl Fn(&Run) -> f64) -> f64 {
        median(self.engine.get(&scenario).into_iter().flatten().map(value))
    }

    fn wall(&self, scenario: Scenario) -> f64 {
        self.median_of(scenario, |run| run.usage.wall)
    }

    fn cpu(&self, scenario: Scenario) -> f64 {
        self.median_of(scenario, |run| run.usage.cpu)
    }

    fn peak(&self, scenario: Scenario) -> f64 {
        self.median_of(scenario, |run| run.peak_bytes as f64)
    }
}

fn codec_floor(turns: &Turns) -> Vec<Row> {
    let Some(floor) = &turns.floor else { return Vec::new() };
    let target = if cfg!(feature = "turbojpeg") { 2.0 } else { 1.5 };
    let row = |format, name: &str, floor: f64, codecs: String, target: Option<f64>| {
        let seven = scenario(format, PALETTES, 1);
        let ours = turns.cpu(seven);
        let ratio = ours / floor;
        Row {
            figure: 'c',
            name: name.into(),
            measured: format!("{ratio:.2} ×"),
            target: target.map_or("–".into(), |t| format!("≤ {t} ×")),
            verdict: target.map_or(Verdict::Noted, |t| Verdict::of(ratio <= t)),
            how: format!(
                "{:.0} ms against {:.0} ms for one decoding and 7 encodings ({codecs}). Ours: {}",
                ours * 1e3,
                floor * 1e3,
                turns.engine.get(&seven).and_then(|runs| runs.last()).map_or(String::new(), Run::stages)
            ),
        }
    };
    let sampling = match floor.halved {
        PALETTES => "all at 4:2:0, as the engine chose".to_owned(),
        0 => "all at 4:4:4, as the engine chose".to_owned(),
        halved => format!("{halved} of 7 at 4:2:0, the others at 4:4:4, as the engine chose"),
    };
    vec![
        row(
            Format::Jpeg,
            "CPU time of 7 palettes as JPEG, against the codec floor",
            floor.jpeg(PALETTES),
            sampling,
            Some(target),
        ),
        row(
            Format::Png,
            "CPU time of 7 palettes as PNG, against the codec floor",
            floor.png(PALETTES),
            "png with fdeflate behind the filter up".into(),
            None,
        ),
    ]
}

fn many_palettes(turns: &Turns) -> Option<Row> {
    const TARGET: f64 = 4.0;
    let floor = turns.floor.as_ref()?;
    let cpu = |palettes| turns.cpu(scenario(Format::Jpeg, palettes, 1));
    let rest = |palettes| cpu(palettes) - floor.jpeg_encodes(palettes);
    let ratio = rest(MANY) / rest(1);
    Some(Row {
        figure: 'f',
        name: "16 palettes against 1, without encoding".into(),
        measured: format!("{ratio:.2} ×"),
        target: format!("≤ {TARGET} ×"),
        verdict: Verdict::of(ratio <= TARGET),
        how: format!(
            "CPU time of the process without that of encoding from a raster: {:.0} of {:.0} ms at 16, {:.0} of {:.0} ms \
             at 1; so looking the pixels up counts",
            rest(MANY) * 1e3,
            cpu(MANY) * 1e3,
            rest(1) * 1e3,
            cpu(1) * 1e3
        ),
    })
}

fn threads(turns: &Turns) -> Vec<Row> {
    let row = |palettes, target: f64| {
        let name = format!("2 threads against 1, {palettes} palettes");
        let wall = |threads| turns.wall(scenario(Format::Jpeg, palettes, threads));
        if Bench::cores() < 2 {
            return Row::skipped('g', &name, &format!("≥ {target} ×"), "this machine has one core");
        }
        let ratio = wall(1) / wall(2);
        Row {
            figure: 'g',
            name,
            measured: format!("{ratio:.2} ×"),
            target: format!("≥ {target} ×"),
            verdict: Verdict::of(ratio >= target),
            how: format!("{:.0} ms on one, {:.0} ms on two", wall(1) * 1e3, wall(2) * 1e3),
        }
    };
    vec![row(PALETTES, 1.6), row(MANY, 1.8)]
}

/// The middle of some values; the mean of the two middle ones when they are even in number.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}
