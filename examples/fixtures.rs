//! Writes the committed fixtures: `cargo run --release --example fixtures`, into `fixtures/images` or the folder named
//! first. `cargo run --release --example fixtures -- DIR PICTURE WIDTH HEIGHT` writes one picture at any size, as PNG,
//! and prints its count of unique colours, raw and as a JPEG of quality 92.

#[path = "../fixtures/generator/mod.rs"]
mod generator;

use generator::Picture;
use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments
        .first()
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/images"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    if let [_, name, width, height] = &arguments[..] {
        return one(&folder, name, width.parse()?, height.parse()?);
    }
    let mut total = 0;
    for (name, bytes) in generator::committed() {
        total += bytes.len();
        println!("{:>9}  {name}", bytes.len());
        std::fs::write(folder.join(name), bytes)?;
    }
    println!("{total:>9}  together");
    Ok(())
}

fn one(folder: &std::path::Path, name: &str, width: u32, height: u32) -> Result<(), Box<dyn Error>> {
    let make: fn(u32, u32) -> Picture = match name {
        "flat_art" => generator::flat_art,
        "gradient_art" => generator::gradient_art,
        "photo" => generator::photo,
        "noisy" => generator::noisy,
        "portrait" => generator::portrait,
        "noise" => generator::noise,
        "grey_ramp" => generator::grey_ramp,
        "logo" => generator::logo,
        other => return Err(format!("no picture is called {other:?}; the names are the generator's functions").into()),
    };
    let start = Instant::now();
    let picture = make(width, height);
    let seconds = start.elapsed().as_secs_f32();
    let decoded = image::load_from_memory(&generator::jpeg(&picture, 92))?.to_rgb8();
    let share = |rgb: &[u8]| {
        let unique: HashSet<_> = rgb.chunks_exact(3).collect();
        format!("{} unique colours ({:.2} %)", unique.len(), 300.0 * unique.len() as f32 / rgb.len() as f32)
    };
    println!("{name} {width}×{height} in {seconds:.2} s: {}, as JPEG {}", share(&picture.rgb), share(&decoded));
    if picture.rgb.len() < 30_000_000 {
        std::fs::write(folder.join(format!("{name}.png")), generator::png(&picture))?;
    }
    Ok(())
}
