//! One variation: from its colour table to its files.
//!
//! Rows run from the table straight into the encoder; reduced sizes are gathered on the way. The full raster of a
//! variation never exists.

use std::time::Instant;

use super::base::Base;
use super::contact_sheet::Plan;
use super::encode::{self, ChromaMeter, EncodeError, EncodeOptions};
use super::gallery::Preview;
use super::job::{Chroma, Format, OutputRequest};
use super::manifest::{Failure, UploadCopy, VariationEntry};
use super::outlet::{Outlet, Start};
use super::output::{ObjectNames, StoredFile};
use super::recoloring::Recoloring;
use super::run::Event;
use super::timing::Timings;
use crate::kernel::color::Rgb8;
use crate::kernel::dither::Dithered;
use crate::kernel::gather::{Recolored, Teed, gather_row};
use crate::kernel::image::{Raster, Rows};
use crate::kernel::palette::Palette;
use crate::kernel::resize::{self, AreaReducer};

/// What transparent pixels are filled with in formats without alpha.
const FILL: Rgb8 = Rgb8::new(255, 255, 255);

/// Class of the error of files that were not made because time was up.
pub const STOPPED: &str = "deadline";

/// Quality of the gallery's previews.
const PREVIEW_QUALITY: u8 = 82;

/// A file to make.
pub struct PlannedOutput {
    /// Its name.
    pub object: String,
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// How to encode it.
    pub encode: EncodeOptions,
}

/// The files of one palette.
pub struct PlannedVariation {
    /// The palette's name.
    pub name: String,
    /// Its colours.
    pub colors: Vec<Rgb8>,
    /// Its files, in the job's order.
    pub outputs: Vec<PlannedOutput>,
}

/// The small pictures of a variation.
pub struct Pictures {
    /// For the gallery.
    pub preview: Preview,
    /// For the contact sheet, when it is on it.
    pub tile: Option<Raster>,
}

/// Names every file of every palette, in order, so that names do not depend on what succeeds.
pub fn plan(
    palettes: &[(String, Result<Palette, Failure>)],
    outputs: &[OutputRequest],
    base: (u32, u32),
    quality: u8,
) -> Vec<PlannedVariation> {
    let names: Vec<&str> = palettes.iter().map(|(name, _)| name.as_str()).collect();
    palettes
        .iter()
        .zip(object_names(&names, outputs))
        .map(|((name, palette), objects)| PlannedVariation {
            name: name.clone(),
            colors: palette.as_ref().map(|p| p.colors().to_vec()).unwrap_or_default(),
            outputs: outputs
                .iter()
                .zip(objects)
                .map(|(output, object)| PlannedOutput {
                    object,
                    size: resize::fit(base.0, base.1, output.max_dimension.unwrap_or(0), 0),
                    encode: EncodeOptions {
                        format: output.format,
                        quality: output.quality.unwrap_or(quality),
                        lossless: output.lossless,
                        progressive: output.progressive,
                        chroma: output.chroma,
                        effort: output.effort,
                        fill: FILL,
                    },
                })
                .collect(),
        })
        .collect()
}

/// The names of the files of every palette, in order, each once.
pub fn object_names(palettes: &[impl AsRef<str>], outputs: &[OutputRequest]) -> Vec<Vec<String>> {
    let mut names = ObjectNames::default();
    let mut of = |name: &str| {
        let take = |output: &OutputRequest| {
            let suffix = output.max_dimension.map(|side| format!("_{side}")).unwrap_or_default();
            names.take("palette", name, &suffix, output.format.extension())
        };
        outputs.iter().map(take).collect()
    };
    palettes.iter().map(|name| of(name.as_ref())).collect()
}

/// How names of copies for upload end.
const UPLOAD_SUFFIX: &str = ".upload.jpg";

/// The name of the copy for upload beside the file `object`.
pub fn upload_name(object: &str) -> String {
    format!("{}{UPLOAD_SUFFIX}", object.strip_suffix(".png").unwrap_or(object))
}

/// Whether a file of this name is the copy of another.
pub fn is_upload_name(object: &str) -> bool {
    object.ends_with(UPLOAD_SUFFIX)
}

impl PlannedOutput {
    /// The manifest's entry, before anything is made.
    pub fn entry(&self, variation: &PlannedVariation) -> VariationEntry {
        VariationEntry {
            palette: Some(variation.name.clone()),
            colors: variation.colors.iter().map(Rgb8::to_string).collect(),
            object: self.object.clone(),
            width: self.size.0,
            height: self.size.1,
            format: match self.encode.format {
                Format::Png => "png",
                Format::Jpeg => "jpeg",
                Format::Webp => "webp",
            }
            .into(),
            ..VariationEntry::default()
        }
    }
}

/// Makes every file of a variation, and its small pictures when a gallery is wanted.
#[allow(clippy::too_many_arguments, reason = "the stages' shared context; a struct of it would be used once")]
pub fn make(
    base: &Base,
    recoloring: &Recoloring,
    palette: &Palette,
    planned: &PlannedVariation,
    outlet: &Outlet<'_>,
    upload_over: Option<u64>,
    timings: &Timings,
    observe: &(dyn Fn(Event) + Sync),
    on_sheet: bool,
    sheet: &Plan,
) -> (Vec<VariationEntry>, Option<Pictures>) {
    let maker = Maker { base, recoloring, palette, outlet, upload_over };
    // Side by side, so that a thread without a palette left to make has something to do.
    rayon::join(
        || {
            let start = Instant::now();
            let results = maker.files(&planned.outputs);
            timings.add("encode", start);
            let outputs = planned.outputs.iter().zip(results);
            outputs.map(|(output, result)| record(recoloring, planned, output, result, observe)).collect()
        },
        || {
            let start = Instant::now();
            let pictures = maker.preview().map(|mut raster| {
                let preview = preview_file(&mut raster);
                Pictures { preview, tile: on_sheet.then(|| tile(raster.rewound(), sheet)) }
            });
            timings.add("gallery", start);
            pictures
        },
    )
}

/// The entry of a file that was made, or was not.
fn record(
    recoloring: &Recoloring,
    planned: &PlannedVariation,
    output: &PlannedOutput,
    result: Result<Made, MakeError>,
    observe: &(dyn Fn(Event) + Sync),
) -> VariationEntry {
    let mut entry = VariationEntry {
        mapping: recoloring.mapping.clone(),
        metrics: recoloring.metrics.clone(),
        notes: recoloring.notes.clone(),
        ..output.entry(planned)
    };
    match result {
        Ok(Made { stored, upload }) => {
            observe(Event::Made { object: entry.object.clone(), bytes: stored.bytes });
            entry.bytes = stored.bytes;
            entry.crc32c = stored.crc32c;
            entry.upload = upload.map(|result| {
                let copy =
                    UploadCopy { object: upload_name(&entry.object), format: "jpeg".into(), ..UploadCopy::default() };
                match result {
                    Ok(stored) => UploadCopy { bytes: stored.bytes, crc32c: stored.crc32c, ..copy },
                    Err(error) => UploadCopy { error: Some(error.failure()), ..copy },
                }
            });
        }
        Err(error) => {
            let failure = error.failure();
            observe(Event::Failed { name: planned.name.clone(), message: failure.message.clone() });
            entry.error = Some(failure);
        }
    }
    entry
}

/// A file that is there, and its copy for upload where the rule asks for one.
struct Made {
    stored: StoredFile,
    upload: Option<Result<StoredFile, MakeError>>,
}

/// Why a file is not there.
enum MakeError {
    Encode(EncodeError),
    Stopped,
}

impl From<EncodeError> for MakeError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<std::io::Error> for MakeError {
    fn from(error: std::io::Error) -> Self {
        Self::Encode(error.into())
    }
}

impl MakeError {
    fn failure(&self) -> Failure {
        let (class, message) = match self {
            Self::Encode(error @ EncodeError::TooWide { .. }) => ("output-too-large", error.to_string()),
            Self::Encode(error @ EncodeError::Io(_)) => ("storage", error.to_string()),
            Self::Encode(error) => ("encoder", error.to_string()),
            Self::Stopped => return stopped(),
        };
        Failure { class: class.into(), message }
    }
}

/// The failure of a file that was not begun because time was up.
pub fn stopped() -> Failure {
    let message = "time was up before it could be made; the next delivery makes it";
    Failure { class: STOPPED.into(), message: message.into() }
}

/// What every file of one variation is made of.
struct Maker<'a> {
    base: &'a Base,
    recoloring: &'a Recoloring,
    palette: &'a Palette,
    outlet: &'a Outlet<'a>,
    upload_over: Option<u64>,
}

impl Maker<'_> {
    /// One result per output, in order.
    fn files(&self, outputs: &[PlannedOutput]) -> Vec<Result<Made, MakeError>> {
        let image = &self.base.full.image;
        let full = (image.width(), image.height());
        let reducers = || -> Vec<AreaReducer> {
            let alpha = image.alpha().is_some();
            let reduced = outputs.iter().filter(|o| o.size != full);
            reduced.map(|o| AreaReducer::new(full.0, full.1, o.size.0, o.size.1, alpha)).collect()
        };
        let mut gathered = reducers();
        let mut filled = gathered.is_empty();
        let mut results: Vec<Option<Result<Made, MakeError>>> = Vec::new();
        for output in outputs {
            results.push((output.size == full).then(|| {
                let hard_alpha = self.base.hard_alpha;
                let stored = match self.outlet.start(&output.object) {
                    Start::Stored(stored) => stored,
                    Start::Stop => return Err(MakeError::Stopped),
                    Start::Make => {
                        // The first full-size file that works feeds the reduced ones.
                        let mut none = Vec::new();
                        let feed = if filled { &mut none } else { &mut gathered };
                        let mut rows = Recolored::new(image, &self.recoloring.table);
                        let mut rows = Teed::new(&mut rows, feed);
                        let result =
                            self.file(&output.object, &output.encode, &mut rows, hard_alpha, || self.sampled_chroma());
                        if result.is_ok() {
                            filled = true;
                        } else if !filled {
                            gathered = reducers();
                        }
                        result?
                    }
                };
                let upload = self.upload_options(output, &stored).map(|options| {
                    let mut rows = Recolored::new(image, &self.recoloring.table);
                    self.copy(output, &options, &mut rows, hard_alpha, || self.sampled_chroma())
                });
                Ok(Made { stored, upload })
            }));
        }
        let starts: Vec<Start> = outputs
            .iter()
            .map(|output| if output.size == full { Start::Stop } else { self.outlet.start(&output.object) })
            .collect();
        // Also where all of them are stored: one may need its copy for upload. That is rare.
        if !filled && starts.iter().any(|start| *start != Start::Stop) {
            let mut rows = Recolored::new(image, &self.recoloring.table);
            Teed::new(&mut rows, &mut gathered).drain();
        }
        let mut gathered = gathered.into_iter();
        outputs
            .iter()
            .zip(results)
            .zip(starts)
            .map(|((output, result), start)| match (result, output.size != full) {
                (Some(result), _) => result,
                (None, _) => {
                    // One reducer was made for each output of another size, in order.
                    let reducer = gathered.next();
                    if start == Start::Stop {
                        return Err(MakeError::Stopped);
                    }
                    let mut raster = reducer.map_or_else(|| Raster::of_length(1, 1, vec![0]), AreaReducer::finish);
                    let chroma = encode::choose_chroma(&raster, FILL);
                    // Reducing makes hard edges soft.
                    let hard_alpha = raster.has_hard_alpha();
                    let stored = match start {
                        Start::Stored(stored) => stored,
                        Start::Make | Start::Stop => {
                            self.file(&output.object, &output.encode, &mut raster, hard_alpha, || chroma)?
                        }
                    };
                    let upload = self
                        .upload_options(output, &stored)
                        .map(|options| self.copy(output, &options, &mut raster.rewound(), hard_alpha, || chroma));
                    Ok(Made { stored, upload })
                }
            })
            .collect()
    }

    /// How the copy for upload of a file is encoded, where the rule asks for one.
    fn upload_options(&self, output: &PlannedOutput, stored: &StoredFile) -> Option<EncodeOptions> {
        let large = output.encode.format == Format::Png && self.upload_over.is_some_and(|limit| stored.bytes > limit);
        large.then_some(EncodeOptions { format: Format::Jpeg, chroma: Chroma::Auto, ..output.encode })
    }

    /// The copy for upload.
    fn copy(
        &self,
        output: &PlannedOutput,
        options: &EncodeOptions,
        rows: &mut dyn Rows,
        hard_alpha: bool,
        chroma: impl FnOnce() -> Chroma,
    ) -> Result<StoredFile, MakeError> {
        let object = upload_name(&output.object);
        match self.outlet.start(&object) {
            Start::Stored(stored) => Ok(stored),
            Start::Stop => Err(MakeError::Stopped),
            Start::Make => self.file(&object, options, rows, hard_alpha, chroma),
        }
    }

    fn file(
        &self,
        object: &str,
        options: &EncodeOptions,
        rows: &mut dyn Rows,
        hard_alpha: bool,
        chroma: impl FnOnce() -> Chroma,
    ) -> Result<StoredFile, MakeError> {
        let mut options = *options;
        if options.format == Format::Jpeg && options.chroma == Chroma::Auto {
            // Dither is all sharp coloured edges.
            options.chroma = if self.recoloring.dither.is_some() { Chroma::Full } else { chroma() };
        }
        let mut file = self.outlet.create(object, options.format)?;
        self.finished(rows, hard_alpha, |rows| encode::encode(rows, &options, &mut file))?;
        Ok(file.commit()?)
    }

    /// Rows as they are encoded: dithered in mode `exact`. `hard_alpha` says that each is either opaque or hidden.
    fn finished<T>(&self, rows: &mut dyn Rows, hard_alpha: bool, read: impl FnOnce(&mut dyn Rows) -> T) -> T {
        match self.recoloring.dither {
            None => read(rows),
            Some(kind) => read(&mut Dithered::new(rows, self.palette.colors(), kind, hard_alpha)),
        }
    }

    /// The chroma resolution that the recoloured picture needs, from one row pair in sixteen.
    fn sampled_chroma(&self) -> Chroma {
        const EVERY: usize = 16;
        let image = &self.base.full.image;
        let width = image.width() as usize;
        let mut meter = ChromaMeter::new(FILL);
        let mut rows = [vec![0u32; width], vec![0u32; width]];
        let pairs = (image.height() as usize / 2).max(1);
        let step = if pairs >= EVERY * EVERY { EVERY } else { 1 };
        for pair in (0..pairs).step_by(step) {
            for (i, row) in rows.iter_mut().enumerate() {
                let y = (2 * pair + i).min(image.height() as usize - 1);
                gather_row(image, &self.recoloring.table, y, row);
            }
            meter.add(&rows[0], &rows[1]);
        }
        meter.chroma()
    }

    fn preview(&self) -> Option<Raster> {
        let (colors, table) = (self.base.preview.as_ref()?, self.recoloring.preview.as_ref()?);
        let mut rows = Recolored::new(&colors.image, table);
        // A raster in memory needs no indices, so nothing is lost by not looking for hard alpha.
        Some(self.finished(&mut rows, false, |rows| Raster::read(rows)))
    }
}

/// A preview as a file to embed: JPEG, or PNG where there is transparency or few colours.
pub fn preview_file(raster: &mut Raster) -> Preview {
    let png = raster.has_alpha() || raster.palette().is_some();
    let mut options = EncodeOptions::new(if png { Format::Png } else { Format::Jpeg });
    options.quality = PREVIEW_QUALITY;
    options.chroma = encode::choose_chroma(raster, FILL);
    let (width, height) = (raster.width(), raster.height());
    let mut bytes = Vec::new();
    // A preview is at most some hundred pixels a side and goes to memory: nothing in here can fail, and a gallery with
    // a blank preview would still be a gallery.
    if let Err(error) = encode::encode(raster, &options, &mut bytes) {
        tracing::warn!(%error, "a preview could not be made");
    }
    Preview { width, height, jpeg_or_png: bytes, content_type: options.format.content_type() }
}

/// A preview brought down to its box on the contact sheet.
pub fn tile(raster: Raster, sheet: &Plan) -> Raster {
    match sheet.reduced(raster.width(), raster.height()) {
        Some((width, height)) => resize::reduce_raster(&raster, width, height),
        None => raster,
    }
}
