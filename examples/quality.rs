//! Prints the tables of docs/quality.md as Markdown: the map of mode `soft` picture by picture, then our modes against
//! lutgen and dipc where they are on PATH, then the front of strengths.
//!
//! The first table is measured in this process, where the map is at hand. For the others every tool runs as a process
//! on the same PNG, and its pictures are judged from the pixels alone.
//!
//! ```text
//! cargo build --release
//! cargo run --release --example quality > fixtures.md
//! cargo run --release --example quality -- PICTURES --palettes PALETTES.json > photographs.md
//! ```

#[path = "../fixtures/generator/mod.rs"]
mod generator;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::image::{BaseImage, pack_rgba};
use concept_worker::kernel::palette::Palette;
use concept_worker::kernel::quality::examination::{Examination, Subject};
use concept_worker::kernel::quality::report::{Report, judge};
use concept_worker::kernel::unique::IndexedImage;
use concept_worker::pipeline::job::PaletteSpec;
use concept_worker::pipeline::manifest::Manifest;

/// Judge the variations that several tools make of the same pictures and palettes.
#[derive(Parser)]
struct Arguments {
    /// A folder of pictures, or one picture; without it, the project's own at 640 × 480.
    pictures: Option<PathBuf>,
    /// Palettes: a JSON array of {name, colors}, or an object with `palettes`.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/palettes/brand.json"))]
    palettes: PathBuf,
    /// Longest side; larger pictures are reduced once, before any tool sees them. 0 keeps them.
    #[arg(long, default_value_t = 1024)]
    max_dimension: u32,
    /// Our modes, by comma.
    #[arg(long, value_delimiter = ',', default_value = "soft,transfer,faithful,exact,tint")]
    modes: Vec<String>,
    /// Strengths of mode soft whose front of distance against gain is shown, by comma.
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,0.75,1")]
    strengths: Vec<f32>,
    /// Our program; without it, the one built beside this example.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Leave the other tools out.
    #[arg(long)]
    ours_only: bool,
    /// Print the table of the default map and nothing else.
    #[arg(long)]
    map_only: bool,
    /// Print this many of the steepest pairs of every picture whose gain is above 5.
    #[arg(long, default_value_t = 0)]
    steepest: usize,
    /// Print a table per picture too.
    #[arg(long)]
    each: bool,
    /// Keep every tool's pictures in this folder, to look at them.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// A decoded picture: packed pixels and sides.
struct Picture {
    pixels: Vec<u32>,
    width: u32,
    height: u32,
}

/// One tool with one setting.
enum Contender {
    /// Our program: mode and strength.
    Ours { bin: PathBuf, mode: String, strength: f32 },
    /// lutgen with extra flags.
    Lutgen { bin: PathBuf, label: &'static str, flags: &'static [&'static str] },
    /// dipc.
    Dipc { bin: PathBuf },
}

/// A picture some tool made, and the seconds its process took.
struct Made {
    palette: usize,
    file: PathBuf,
    seconds: f64,
}

/// A judged variation.
struct Judged {
    report: Report,
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let palettes = read_palettes(&arguments.palettes)?;
    let scratch = tempfile::tempdir().context("cannot make a scratch folder")?;
    let pictures = match &arguments.pictures {
        Some(path) => list_pictures(path)?,
        None => own_pictures(scratch.path())?,
    };
    print_map(&pictures, &palettes, &arguments)?;
    if arguments.map_only {
        return Ok(());
    }
    let (contenders, mut remarks) = contenders(&arguments);
    ensure!(
        !contenders.is_empty(),
        "no tool to judge ({}); build the program (cargo build --release) or pass --bin",
        remarks.join("; ")
    );

    let work = arguments.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    // In full, so that no folder name can pass for a flag.
    let work = work.canonicalize()?;
    let palette_file = work.join("palettes.json");
    write_palettes(&palette_file, &palettes)?;

    let mut rows: BTreeMap<usize, Vec<Judged>> = BTreeMap::new();
    for picture_path in &pictures {
        let name = picture_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = work.join(format!("{name}.png"));
        let original = match prepare(picture_path, &base, arguments.max_dimension) {
            Ok(original) => original,
            Err(error) => {
                remarks.push(format!("{}: {error:#}, left out", picture_path.display()));
                continue;
            }
        };
        let mut here: BTreeMap<usize, Vec<Judged>> = BTreeMap::new();
        for (index, contender) in contenders.iter().enumerate() {
            let label = contender.label();
            eprintln!("{name}: {label}");
            let out = work.join(format!("{name} {}", label.replace([' ', '/'], "-")));
            std::fs::create_dir_all(&out)?;
            let (made, failures) = contender.run(&base, &palettes, &palette_file, &out);
            remarks.extend(failures.into_iter().map(|failure| format!("{label}, {name}: {failure}")));
            for variation in made {
                match judge_file(&original, &variation, &palettes) {
                    Ok(judged) => here.entry(index).or_default().push(judged),
                    Err(error) => remarks.push(format!("{label}, {name}: {error:#}")),
                }
            }
        }
        if arguments.each {
            println!("## {name}, {}×{}\n", original.width, original.height);
            print_table(&contenders, &here, palettes.len());
        }
        for (index, judged) in here {
            rows.entry(index).or_default().extend(judged);
        }
    }

    println!(
        "## {} pictures × {} palettes, longest side {}\n",
        pictures.len(),
        palettes.len(),
        match arguments.max_dimension {
            0 => "as it is".to_owned(),
            side => format!("at most {side}"),
        }
    );
    print_table(&contenders, &rows, pictures.len() * palettes.len());
    println!(
        "Gain: 99.9th percentile of ΔE_out/ΔE_in over the picture's own colours one code apart, median of the \
         variations and worst; – where no picture has neighbouring colours. Distance: mean ΔE2000 to the nearest \
         palette colour as a share of the original's, median. Colours: palette colours on more than 0.1 % of the area, \
         mean. Order: correlation of lightness, median, and neighbouring pixels kept in order, least. SSIM of \
         lightness, median. Tear: 99.9th percentile over neighbouring pixels, median and worst. Seconds: whole \
         process, per palette.\n"
    );
    for remark in remarks {
        println!("- {remark}");
    }
    Ok(())
}

/// The generator's pictures, written as PNG.
fn own_pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    type Make = fn(u32, u32) -> generator::Picture;
    let all: [(&str, Make); 6] = [
        ("flat_art", generator::flat_art),
        ("logo", generator::logo),
        ("gradient_art", generator::gradient_art),
        ("photo", generator::photo),
        ("noisy", generator::noisy),
        ("portrait", generator::portrait),
    ];
    let write = |(name, make): (&str, Make)| {
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, generator::png(&make(640, 480)))?;
        Ok(path)
    };
    all.into_iter().map(write).collect()
}

/// What mode `soft` makes of every picture, over all palettes: medians with the worst in brackets, or the worst.
fn print_map(pictures: &[PathBuf], palettes: &[Palette], arguments: &Arguments) -> Result<()> {
    println!("## Mode soft, {} palettes\n", palettes.len());
    println!(
        "| picture | gain | inversions on greys | order kept, least | levels kept, least | noise gain | fidelity | targets missing | clipped, hue drift | SSIM | distance | colours |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut steep = Vec::new();
    for path in pictures {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let raster = match open(path) {
            Ok(picture) => shrink(picture, arguments.max_dimension).into_rgba8(),
            Err(error) => {
                eprintln!("{}: {error:#}, left out", path.display());
                continue;
            }
        };
        let (width, height) = raster.dimensions();
        let rgb = raster.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect();
        let alpha = raster.pixels().any(|p| p.0[3] < 255).then(|| raster.pixels().map(|p| p.0[3]).collect());
        // The settings' defaults: a sample of 1024 on the longer side, 50 iterations.
        let image = IndexedImage::new(BaseImage::new(width, height, rgb, alpha)?, 1024);
        let colors = palettes.iter().map(|p| p.colors().len()).max().unwrap_or(5);
        let subject = Subject::new(image, colors, 50);
        let made: Vec<Examination> = palettes.iter().map(|palette| subject.examine(palette, 1.0)).collect();
        let all = |figure: &dyn Fn(&Examination) -> f64| made.iter().map(figure).collect::<Vec<f64>>();
        let least = |figure: &dyn Fn(&Examination) -> f64| all(figure).into_iter().fold(f64::MAX, f64::min);
        let both = |values: Vec<f64>| match values.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.2} ({:.2})", median(&values), worst(&values)),
        };
        println!(
            "| {name} | {} | {} | {:.2} % | {:.0} % | {} | {} | {} of {} | {:.2} %, {:.1}° | {:.3} | {:.2} | {:.1} |",
            both(made.iter().filter_map(|e| e.gain.map(|g| g.p999)).collect()),
            worst(&all(&|e| e.ramp_inversions as f64)),
            100.0 * least(&|e| e.order_kept),
            100.0 * least(&|e| e.levels_kept),
            both(made.iter().filter_map(|e| e.noise.map(|n| n.median)).collect()),
            both(all(&|e| e.fidelity)),
            all(&|e| (e.coverage.shares.len() - e.coverage.present()) as f64).iter().sum::<f64>(),
            all(&|e| e.coverage.shares.len() as f64).iter().sum::<f64>(),
            100.0 * worst(&all(&|e| e.gamut.clipped_share)),
            worst(&all(&|e| e.gamut.hue_drift_p99)),
            median(&all(&|e| e.ssim_l)),
            median(&all(&|e| e.distance_share)),
            all(&|e| e.colors_present as f64).iter().sum::<f64>() / made.len().max(1) as f64,
        );
        for (palette, examination) in palettes.iter().zip(&made) {
            if examination.gain.is_some_and(|g| g.p999 > 5.0) {
                let colors = subject.image().colors();
                for (x, y, ratio) in subject.neighbors().steepest(colors, &examination.table, arguments.steepest) {
                    steep.push(format!("- {name} × {}: {x} and {y} are thrown {ratio:.1} times apart", palette.name()));
                }
            }
        }
    }
    println!();
    for line in steep {
        println!("{line}");
    }
    Ok(())
}

/// What can run here, and a remark for everything that cannot.
fn contenders(arguments: &Arguments) -> (Vec<Contender>, Vec<String>) {
    let (mut found, mut remarks) = (Vec::new(), Vec::new());
    match arguments.bin.clone().or_else(own_binary) {
        Some(bin) => {
            for mode in &arguments.modes {
                found.push(Contender::Ours { bin: bin.clone(), mode: mode.clone(), strength: 1.0 });
                if mode == "soft" {
                    for &strength in arguments.strengths.iter().filter(|s| **s != 1.0) {
                        found.push(Contender::Ours { bin: bin.clone(), mode: mode.clone(), strength });
                    }
                }
            }
        }
        None => remarks.push("concept-worker: not built beside this example and no --bin, skipped".to_owned()),
    }
    if !arguments.ours_only {
        const LUTGEN: [(&str, &[&str]); 3] =
            [("lutgen", &[]), ("lutgen RBF", &["-R"]), ("lutgen RBF, lightness kept", &["-R", "-P"])];
        match on_path("lutgen") {
            Some(bin) => {
                found.extend(LUTGEN.map(|(label, flags)| Contender::Lutgen { bin: bin.clone(), label, flags }))
            }
            None => remarks.push("lutgen: not on PATH, skipped".to_owned()),
        }
        match on_path("dipc") {
            Some(bin) => found.push(Contender::Dipc { bin }),
            None => remarks.push("dipc: not on PATH, skipped".to_owned()),
        }
    }
    (found, remarks)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let file = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&folders).map(|folder| folder.join(&file)).find(|path| path.is_file())
}

/// The program cargo puts one folder above its examples.
fn own_binary() -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let file = format!("concept-worker{}", std::env::consts::EXE_SUFFIX);
    let path = here.parent()?.parent()?.join(file);
    path.is_file().then_some(path)
}

impl Contender {
    fn label(&self) -> String {
        match self {
            Self::Ours { mode, strength, .. } if *strength == 1.0 => mode.clone(),
            Self::Ours { mode, strength, .. } => format!("{mode} at {strength}"),
            Self::Lutgen { label, .. } => (*label).to_owned(),
            Self::Dipc { .. } => "dipc".to_owned(),
        }
    }

    /// Makes the variations of one picture; failures come back as text beside those that worked.
    fn run(&self, image: &Path, palettes: &[Palette], palette_file: &Path, out: &Path) -> (Vec<Made>, Vec<String>) {
        match self {
            Self::Ours { bin, mode, strength } => {
                match our_variations(bin, mode, *strength, image, palettes, palette_file, out) {
                    Ok(result) => result,
                    Err(error) => (Vec::new(), vec![format!("{error:#}")]),
                }
            }
            Self::Lutgen { bin, flags, .. } => each_palette(palettes, out, |palette, file| {
                let hex = palette.colors().iter().map(|c| c.to_string().trim_start_matches('#').to_owned());
                let mut command = Command::new(bin);
                command.arg("apply").args(*flags).arg(image).arg("-o").arg(file).arg("--").args(hex);
                command
            }),
            Self::Dipc { bin } => each_palette(palettes, out, |palette, file| {
                let named = palette.colors().iter().enumerate();
                let theme: BTreeMap<String, String> = named.map(|(i, c)| (format!("c{i}"), c.to_string())).collect();
                let mut command = Command::new(bin);
                command
                    .arg(format!("JSON: {}", serde_json::json!(theme)))
                    .args(["-s", "none", "-o"])
                    .arg(file)
                    .arg(image);
                command
            }),
        }
    }
}

/// Runs one process per palette; its seconds are the whole process.
fn each_palette(
    palettes: &[Palette],
    out: &Path,
    command: impl Fn(&Palette, &Path) -> Command,
) -> (Vec<Made>, Vec<String>) {
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for (index, palette) in palettes.iter().enumerate() {
        let file = out.join(format!("{index}.png"));
        let run = timed(&mut command(palette, &file)).and_then(|(seconds, output)| check(&output).map(|()| seconds));
        match run {
            Ok(seconds) => made.push(Made { palette: index, file, seconds }),
            Err(error) => failures.push(format!("{}: {error:#}", palette.name())),
        }
    }
    (made, failures)
}

/// Our own variations, made by the program as anyone would run it: one process for all palettes, found again through
/// its manifest. Seconds are the process divided by the palettes.
fn our_variations(
    bin: &Path,
    mode: &str,
    strength: f32,
    image: &Path,
    palettes: &[Palette],
    palette_file: &Path,
    out: &Path,
) -> Result<(Vec<Made>, Vec<String>)> {
    let mut command = Command::new(bin);
    command.arg("render").arg(image).arg("--palettes").arg(palette_file).args(["--mode", mode]);
    command.args(["--strength", &strength.to_string(), "--format", "png", "--json", "--no-gallery"]);
    command.args(["--max-dimension", "0", "--out"]).arg(out);
    // One of an earlier run must not answer for this one.
    let manifest = out.join("manifest.json");
    if manifest.exists() {
        std::fs::remove_file(&manifest)?;
    }
    let (seconds, output) = timed(&mut command)?;
    let seconds = seconds / palettes.len().max(1) as f64;
    // 1 says that some variations failed; the manifest says which.
    if output.status.code() != Some(1) || !manifest.exists() {
        check(&output)?;
    }
    let text = std::fs::read(&manifest).context("no manifest.json was written")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("manifest.json cannot be read")?;
    let (mut made, mut failures) = (Vec::new(), Vec::new());
    for entry in manifest.variations {
        let palette = entry.palette.and_then(|name| palettes.iter().position(|p| p.name() == name));
        match (palette, entry.error) {
            (Some(palette), None) => made.push(Made { palette, file: out.join(entry.object), seconds }),
            (_, Some(error)) => failures.push(error.message),
            (None, None) => failures.push(format!("{} belongs to no palette that was asked for", entry.object)),
        }
    }
    Ok((made, failures))
}

/// Runs a process to its end and says how long it took; its output is kept off the table.
fn timed(command: &mut Command) -> Result<(f64, Output)> {
    let start = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    Ok((start.elapsed().as_secs_f64(), output))
}

/// A process that failed, in its own last words.
fn check(output: &Output) -> Result<()> {
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, text.lines().last().unwrap_or("no message").trim());
    }
    Ok(())
}

fn judge_file(original: &Picture, made: &Made, palettes: &[Palette]) -> Result<Judged> {
    let (file, palette) = (&made.file, &palettes[made.palette]);
    let variation = decode(file)?;
    ensure!(
        (variation.width, variation.height) == (original.width, original.height),
        "{} is {}×{}, the original {}×{}",
        file.display(),
        variation.width,
        variation.height,
        original.width,
        original.height
    );
    let report = judge(&original.pixels, &variation.pixels, original.width, original.height, palette.colors())?;
    Ok(Judged { report, seconds: made.seconds })
}

/// Largest picture this harness takes: its rasters and planes are held in memory several times over.
const MAX_SIDE: u32 = 16_384;

fn open(path: &Path) -> Result<image::DynamicImage> {
    let mut reader = image::ImageReader::open(path)?.with_guessed_format()?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    reader.decode().with_context(|| format!("cannot decode {}", path.display()))
}

fn decode(path: &Path) -> Result<Picture> {
    Ok(Picture::of(&open(path)?.into_rgba8()))
}

impl Picture {
    fn of(raster: &image::RgbaImage) -> Self {
        let pixels = raster.pixels().map(|p| pack_rgba(p.0[0], p.0[1], p.0[2], p.0[3])).collect();
        Self { pixels, width: raster.width(), height: raster.height() }
    }
}

fn shrink(picture: image::DynamicImage, max_dimension: u32) -> image::DynamicImage {
    if max_dimension > 0 && picture.width().max(picture.height()) > max_dimension {
        picture.resize(max_dimension, max_dimension, image::imageops::FilterType::CatmullRom)
    } else {
        picture
    }
}

/// Reduces a picture once and writes it as an untagged PNG, so that every tool reads the same pixels.
fn prepare(source: &Path, base: &Path, max_dimension: u32) -> Result<Picture> {
    let raster = shrink(open(source)?, max_dimension).into_rgba8();
    raster
        .save_with_format(base, image::ImageFormat::Png)
        .with_context(|| format!("cannot write {}", base.display()))?;
    Ok(Picture::of(&raster))
}

fn list_pictures(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let folder = std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    let mut files: Vec<PathBuf> = folder.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    files.retain(|file| file.is_file() && image::ImageFormat::from_path(file).is_ok());
    files.sort();
    ensure!(!files.is_empty(), "{} holds no picture", path.display());
    Ok(files)
}

/// A palette file: a list, or an object around one.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum PaletteFile {
    List(Vec<PaletteSpec>),
    Object { palettes: Vec<PaletteSpec> },
}

fn read_palettes(path: &Path) -> Result<Vec<Palette>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: PaletteFile =
        serde_json::from_str(&text).with_context(|| format!("{} is not a list of palettes", path.display()))?;
    let specs = match file {
        PaletteFile::List(specs) | PaletteFile::Object { palettes: specs } => specs,
    };
    ensure!(!specs.is_empty(), "{} holds no palette", path.display());
    let palette = |spec: PaletteSpec| {
        let colors = spec.colors.iter().map(|c| c.parse::<Rgb8>()).collect::<Result<Vec<_>, _>>()?;
        Ok(Palette::new(spec.name, colors)?)
    };
    specs.into_iter().map(palette).collect()
}

/// Names and colours only: roles and pins are our own, and no tool shall start ahead.
fn write_palettes(path: &Path, palettes: &[Palette]) -> Result<()> {
    let plain = |p: &Palette| {
        let colors: Vec<String> = p.colors().iter().map(Rgb8::to_string).collect();
        serde_json::json!({ "name": p.name(), "colors": colors })
    };
    let list: Vec<_> = palettes.iter().map(plain).collect();
    std::fs::write(path, serde_json::to_vec_pretty(&list)?).with_context(|| format!("cannot write {}", path.display()))
}

fn print_table(contenders: &[Contender], rows: &BTreeMap<usize, Vec<Judged>>, expected: usize) {
    println!(
        "| tool or mode | gain, median (worst) | distance | colours | order, kept | SSIM | tear, median (worst) | seconds |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (index, contender) in contenders.iter().enumerate() {
        let label = contender.label();
        let Some(judged) = rows.get(&index).filter(|judged| !judged.is_empty()) else {
            println!("| {label} | no result | | | | | | |");
            continue;
        };
        let all = |figure: fn(&Judged) -> f64| judged.iter().map(figure).collect::<Vec<f64>>();
        let gains: Vec<f64> = judged.iter().filter_map(|j| j.report.gain.map(|g| g.p999)).collect();
        let tears = all(|j| j.report.tear_p999);
        let wanted = judged.iter().map(|j| j.report.colors_wanted).max().unwrap_or(0);
        let missing = match expected.saturating_sub(judged.len()) {
            0 => String::new(),
            n => format!(" ({n} missing)"),
        };
        let gain = match gains.is_empty() {
            true => "–".to_owned(),
            false => format!("{:.1} ({:.1})", median(&gains), worst(&gains)),
        };
        println!(
            "| {label}{missing} | {gain} | {:.2} | {:.1} of {wanted} | {:.3}, {:.2} % | {:.3} | {:.1} ({:.1}) | {:.3} |",
            median(&all(|j| j.report.distance_share())),
            all(|j| j.report.colors_present as f64).iter().sum::<f64>() / judged.len() as f64,
            median(&all(|j| j.report.lightness_correlation)),
            100.0 * all(|j| j.report.order_kept).iter().copied().fold(1.0, f64::min),
            median(&all(|j| j.report.ssim_l)),
            median(&tears),
            worst(&tears),
            median(&all(|j| j.seconds)),
        );
    }
    println!();
}

/// The middle value, or the mean of the two middle ones; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => (low + high) / 2.0,
        (_, Some(&high)) => high,
        _ => 0.0,
    }
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
