//! Whole runs through the library, on pictures in memory and fixtures.

#![allow(dead_code)] // Each test that includes this uses a part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use concept_worker::config::Config;
use concept_worker::pipeline::base::Inputs;
use concept_worker::pipeline::job::{Job, Mode};
use concept_worker::pipeline::manifest::{Manifest, VariationEntry};
use concept_worker::pipeline::run::{self, RunError, RunOptions};

pub const MODES: [Mode; 5] = [Mode::Soft, Mode::Transfer, Mode::Faithful, Mode::Exact, Mode::Tint];

pub const WARM: &str = r##"{"name": "Warm", "colors": ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"]}"##;
pub const COOL: &str = r##"{"name": "Cool", "colors": ["#03045E", "#0077B6", "#00B4D8", "#90E0EF", "#CAF0F8"]}"##;

/// Lossless files, and one of each lossy kind.
pub const EVERY_FORMAT: &str = r#"[{"format": "png"}, {"format": "png", "effort": "small", "max_dimension": 64},
    {"format": "jpeg"}, {"format": "jpeg", "progressive": true, "max_dimension": 100},
    {"format": "webp"}, {"format": "webp", "lossless": true}]"#;

/// The file of a fixture.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A PNG of straight-alpha pixels; without an alpha channel when all are opaque.
pub fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 4]) -> Vec<u8> {
    let picture = image::RgbaImage::from_fn(width, height, |x, y| image::Rgba(pixel(x, y)));
    let opaque = picture.pixels().all(|p| p.0[3] == 255);
    let picture = image::DynamicImage::from(picture);
    let picture = if opaque { picture.to_rgb8().into() } else { picture };
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Five bands of colour with a little texture.
pub fn bands(x: u32, y: u32) -> [u8; 4] {
    let bands = [[30u8, 40, 60], [200, 60, 50], [60, 160, 90], [240, 200, 90], [245, 245, 240]];
    let shade = ((x * 7 + y * 13) % 8) as u8;
    let [r, g, b] = bands[(x / 9 + y / 8) as usize % 5].map(|channel| channel.saturating_add(shade));
    [r, g, b, 255]
}

/// The job of some palettes (a JSON list or a request to generate) in a mode, with outputs as a JSON list.
pub fn job(palettes: &str, mode: Mode, outputs: &str) -> Job {
    let mode = serde_json::to_string(&mode).unwrap();
    let text = format!(
        r#"{{"source": "picture", "palettes": {palettes}, "recolor": {{"mode": {mode}}}, "outputs": {outputs}}}"#
    );
    Job::from_json(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A folder that jobs run into.
pub struct Studio {
    folder: tempfile::TempDir,
    pub options: RunOptions,
    /// The picture that takes the background's place.
    pub fill: Option<Vec<u8>>,
}

impl Studio {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), options: Config::default().run_options(), fill: None }
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub fn try_run(&self, job: &Job, source: &[u8]) -> Result<Manifest, RunError> {
        let inputs = Inputs { picture: source, fill: self.fill.as_deref() };
        run::run(job, inputs, &self.out(), &self.options, &|_| {})
    }

    /// Runs the job and checks what holds of every run: the manifest is stored, lists what is there, and nothing else
    /// is there.
    pub fn run(&self, job: &Job, source: &[u8]) -> Manifest {
        let manifest = self.try_run(job, source).unwrap();
        let stored: Manifest = serde_json::from_slice(&self.read("manifest.json")).unwrap();
        assert_eq!(stored, manifest);
        for entry in &manifest.variations {
            assert_eq!(self.out().join(&entry.object).exists(), entry.error.is_none(), "{}", entry.object);
            assert!(entry.metrics.values().all(|value| value.is_finite()), "{:?}", entry.metrics);
        }
        let hidden = files(&self.out()).into_keys().find(|name| name.starts_with('.'));
        assert_eq!(hidden, None, "nothing unfinished is left");
        manifest
    }

    pub fn read(&self, object: &str) -> Vec<u8> {
        std::fs::read(self.out().join(object)).unwrap_or_else(|error| panic!("{object}: {error}"))
    }

    /// The picture of an entry, by a decoder that shares no code with the encoders.
    pub fn picture(&self, entry: &VariationEntry) -> image::RgbaImage {
        let mut reader = image::ImageReader::new(std::io::Cursor::new(self.read(&entry.object)));
        reader.no_limits();
        let picture = reader.with_guessed_format().unwrap().decode().unwrap().to_rgba8();
        assert_eq!(picture.dimensions(), (entry.width, entry.height), "{}", entry.object);
        picture
    }
}

/// Every file of a folder by name.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(read).collect()
}
