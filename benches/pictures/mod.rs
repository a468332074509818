//! The pictures, palettes and settings that the benches and the ratios program share.

#![allow(dead_code)] // Each bench that includes this uses a part of it.

#[path = "../../fixtures/generator/mod.rs"]
pub mod generator;

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::image::{BaseImage, Rows};
use concept_worker::kernel::palette::Palette;
use concept_worker::pipeline::base::{Base, Inputs};
use concept_worker::pipeline::decode::{self, Limits};
use concept_worker::pipeline::event::Watch;
use concept_worker::pipeline::job::{
    BackgroundRequest, Format, Job, Mode, OutputRequest, PaletteRequest, PaletteSpec, RecolorRequest,
};
use concept_worker::pipeline::palette_file;
use concept_worker::pipeline::run::RunOptions;
use concept_worker::pipeline::timing::Timings;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Set to anything but 0, it lets benches make and use the picture of 50 megapixels, which takes half a minute to paint.
pub const LARGE_VARIABLE: &str = "CONCEPT_BENCH_LARGE";

/// Quality of the JPEG sources.
pub const SOURCE_QUALITY: u8 = 92;

/// Width and height of a picture, with the name its figures go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub name: &'static str,
    pub width: u32,
    pub height: u32,
}

impl Size {
    pub const SMALL: Self = Self { name: "0.3MP", width: 640, height: 480 };
    pub const MEDIUM: Self = Self { name: "4.2MP", width: 2048, height: 2048 };
    /// Just under the default limit on pixels.
    pub const LARGE: Self = Self { name: "50MP", width: 8160, height: 6120 };

    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// The sizes to run, and a line on standard error for the one that is left out.
pub fn sizes(bench: &str) -> Vec<Size> {
    let mut sizes = vec![Size::SMALL, Size::MEDIUM];
    match std::env::var(LARGE_VARIABLE) {
        Ok(value) if !matches!(value.as_str(), "" | "0") => sizes.push(Size::LARGE),
        _ => eprintln!("{bench}: {} is skipped; set {LARGE_VARIABLE}=1 to run it", Size::LARGE.name),
    }
    sizes
}

/// The photograph as a JPEG.
pub fn photo_jpeg(size: Size) -> Vec<u8> {
    generator::jpeg(&generator::photo(size.width, size.height), SOURCE_QUALITY)
}

/// The poster as a PNG.
pub fn flat_art_png(size: Size) -> Vec<u8> {
    generator::png(&generator::flat_art(size.width, size.height))
}

/// A source, decoded.
pub fn decoded(source: &[u8]) -> BaseImage {
    decode::decode(source, &Limits::default()).expect("the generator's pictures decode")
}

/// A source, ready for palettes. No preview.
pub fn base(source: &[u8]) -> Base {
    Base::new(
        Inputs { picture: source, fill: None },
        &Default::default(),
        &run_options(),
        false,
        &Watch::silent(&Timings::default()),
    )
    .expect("the generator's pictures decode")
}

/// The first `count` of sixteen palettes of five colours: seven brands, then the same with their channels rotated.
pub fn palettes(count: usize) -> Vec<Palette> {
    let brands = palette_file::parse(include_bytes!("../../fixtures/palettes/brand.json"), "brand")
        .expect("the committed palettes can be read");
    assert!(count <= 16, "there are sixteen palettes");
    (0..count)
        .map(|i| {
            let brand = &brands[i % brands.len()];
            let turn = |c: &Rgb8| match i / brands.len() {
                0 => *c,
                1 => Rgb8::new(c.g, c.b, c.r),
                _ => Rgb8::new(c.b, c.r, c.g),
            };
            Palette::new(format!("{:02} {}", i + 1, brand.name()), brand.colors().iter().map(turn))
                .expect("the colours stay distinct")
        })
        .collect()
}

/// The palettes in the form of a job or a palette file.
pub fn specs(count: usize) -> Vec<PaletteSpec> {
    let spec = |palette: Palette| PaletteSpec {
        name: palette.name().to_owned(),
        colors: palette.colors().iter().map(Rgb8::to_string).collect(),
        ..PaletteSpec::default()
    };
    palettes(count).into_iter().map(spec).collect()
}

/// A job of one format at full size, mode `soft`.
pub fn job(palettes: usize, format: Format) -> Job {
    Job {
        job_id: None,
        user_id: None,
        source: "photograph".into(),
        palettes: PaletteRequest::List(specs(palettes)),
        recolor: recolor(Mode::Soft),
        background: BackgroundRequest::default(),
        effects: Vec::new(),
        steps: Vec::new(),
        outputs: vec![OutputRequest::plain(format)],
        previews: None,
        destination: None,
    }
}

/// `mode` in full.
pub fn recolor(mode: Mode) -> RecolorRequest {
    RecolorRequest { mode, ..RecolorRequest::default() }
}

/// The defaults of the configuration.
pub fn run_options() -> RunOptions {
    RunOptions::default()
}

/// Makes this thread the only one that computes, for the rest of the process.
pub fn on_one_thread() {
    ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()
        .expect("nothing has run in parallel yet");
}

/// A pool in which everything runs on `threads` threads.
pub fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start")
}

/// Reads all rows into one row's space, as an encoder would, and gives the last row's first pixel.
pub fn drain(rows: &mut dyn Rows) -> u32 {
    let mut row = vec![0u32; rows.width() as usize];
    for _ in 0..rows.height() {
        rows.next_row(&mut row);
        std::hint::black_box(&row);
    }
    row[0]
}
