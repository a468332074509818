//! Jobs, and whether what comes back is what was asked for.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::Home;
use crate::sources::Palette;

/// A job, and what its answers must say.
pub struct Job {
    pub id: String,
    pub user: String,
    /// The message.
    pub body: Value,
    palettes: Vec<Palette>,
    formats: Vec<&'static str>,
    previews: bool,
}

/// What a manifest says, as far as it is looked at.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    job_id: String,
    user_id: String,
    key: String,
    state: String,
    pub timings_ms: BTreeMap<String, f64>,
    #[serde(default)]
    pub spared: Spared,
    variations: Vec<Variation>,
}

/// What did not have to be done again.
#[derive(Debug, Default, Deserialize)]
pub struct Spared {
    pub base: bool,
    pub files: u64,
    pub saved_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Variation {
    palette: Option<String>,
    #[serde(default)]
    colors: Vec<String>,
    format: String,
    #[serde(flatten)]
    file: File,
    upload: Option<File>,
    preview: Option<File>,
}

/// A file, or why there is none.
#[derive(Debug, Deserialize)]
struct File {
    object: String,
    bytes: u64,
    crc32c: String,
    #[serde(default)]
    error: Option<Value>,
}

impl Job {
    /// A job for a picture in the bucket `bases`, in these formats, with previews of this length.
    pub fn new(
        id: String,
        user: String,
        source: &str,
        palettes: Vec<Palette>,
        formats: &[&'static str],
        previews: Option<u32>,
    ) -> Self {
        let mut body = json!({
            "job_id": id,
            "user_id": user,
            "source": format!("gs://bases/{source}"),
            "palettes": palettes,
            "outputs": formats.iter().map(|format| json!({"format": format})).collect::<Vec<_>>(),
            "destination": "gs://palettes",
        });
        if let Some(length) = previews {
            body["previews"] = json!({"max_dimension": length});
        }
        Self { id, user, body, palettes, formats: formats.to_vec(), previews: previews.is_some() }
    }

    /// Reads a manifest and checks that it is this job's, and complete.
    pub fn read(&self, bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes).context("it is no manifest")?;
        let named = (&*manifest.job_id, &*manifest.user_id);
        ensure!(named == (&*self.id, &*self.user), "it is of job {} of {}", manifest.job_id, manifest.user_id);
        ensure!(manifest.state == "complete", "its state is {}", manifest.state);
        let expected = self.palettes.len() * self.formats.len();
        ensure!(manifest.variations.len() == expected, "it has {} variations", manifest.variations.len());
        let wanted = self.palettes.iter().flat_map(|palette| self.formats.iter().map(move |format| (palette, *format)));
        for (at, (variation, (palette, format))) in manifest.variations.iter().zip(wanted).enumerate() {
            let same = variation.palette.as_ref() == Some(&palette.name) && variation.colors == palette.colors;
            ensure!(same, "{} is of other colours than were asked for", variation.file.object);
            ensure!(variation.format == format, "{} is a {}", variation.file.object, variation.format);
            // The preview stands in the first entry of a variation.
            let previewed = self.previews && at % self.formats.len() == 0;
            ensure!(variation.preview.is_some() == previewed, "{}: its preview", variation.file.object);
        }
        if let Some(error) = manifest.files().find_map(|file| file.error.as_ref()) {
            bail!("a file is missing: {error}");
        }
        Ok(manifest)
    }

    /// The manifest in storage, every file of which is there and has the content that it says.
    pub fn stored(&self, home: &Home) -> Result<Manifest> {
        let folder = home.results(&self.user, &self.id);
        let manifest = std::fs::read(folder.join("manifest.json")).context("no manifest is stored")?;
        let manifest = self.read(&manifest).context("the stored manifest")?;
        for file in manifest.files() {
            let bytes = std::fs::read(folder.join(&file.object)).with_context(|| format!("{} is lost", file.object))?;
            let sum = STANDARD.encode(crc32c::crc32c(&bytes).to_be_bytes());
            let same = bytes.len() as u64 == file.bytes && sum == file.crc32c;
            ensure!(same, "{} has another content than the manifest says", file.object);
        }
        Ok(manifest)
    }

    /// How the job is named in faults.
    pub fn name(&self) -> String {
        format!("{}/{}", self.user, self.id)
    }
}

impl Manifest {
    /// Every file: variations, their copies for upload, their previews.
    fn files(&self) -> impl Iterator<Item = &File> {
        self.variations.iter().flat_map(|entry| std::iter::once(&entry.file).chain(&entry.upload).chain(&entry.preview))
    }

    /// How many files there are.
    pub fn count(&self) -> u64 {
        self.files().count() as u64
    }

    /// Everything that must be the same in all answers.
    pub fn fingerprint(&self) -> String {
        let files = self.files().map(|file| format!("{} {} {}", file.object, file.bytes, file.crc32c));
        std::iter::once(self.key.clone()).chain(files).collect::<Vec<_>>().join("\n")
    }

    /// Milliseconds of a stage; 0 where it did not happen.
    pub fn spent(&self, stage: &str) -> f64 {
        self.timings_ms.get(stage).copied().unwrap_or(0.0)
    }
}
