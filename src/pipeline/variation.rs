//! One variation: from its colour table to its files.
//!
//! Rows run from the table straight into the encoder; reduced sizes are gathered on the way. The full raster of a
//! variation never exists.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::background::Backdrop;
use super::base::PREVIEW_SIDE;
use super::contact_sheet::Plan;
use super::encode::{self, ChromaMeter, EncodeError, EncodeOptions};
use super::event::{Event, Watch};
use super::gallery::Preview;
use super::identity::upload_key;
use super::job::{Chroma, Format};
use super::manifest::{Description, Failure, PreviewCopy, UploadCopy, VariationEntry};
use super::outlet::{Committed, Outlet, Remembered, Start};
use super::output::StoredFile;
use super::plan::{FILL, PlannedOutput, PlannedVariation, upload_name};
use super::recall::Sparing;
use crate::kernel::color::Rgb8;
use crate::kernel::compose::{Behind, Filled};
use crate::kernel::dither::{DitherKind, Dithered};
use crate::kernel::gather::{Matte, Recolored, Teed, gather_row};
use crate::kernel::image::{Raster, Rows};
use crate::kernel::resize::{self, AreaReducer};
use crate::kernel::unique::IndexedImage;

/// Class of the error of files that were not made because time was up.
pub const STOPPED: &str = "deadline";

/// Quality of the gallery's previews.
const PREVIEW_QUALITY: u8 = 82;

/// The small pictures of a variation.
pub struct Pictures {
    /// For the gallery.
    pub preview: Preview,
    /// For the contact sheet, when it is on it.
    pub tile: Option<Raster>,
}

/// What the files of one variation show.
pub enum Painting<'a> {
    /// An indexed picture through a table of output colours.
    Table {
        /// The picture in full.
        image: &'a IndexedImage,
        /// Its output colours, and of hidden pixels last.
        table: &'a [u32],
        /// The preview and its table, when somebody will look.
        preview: Option<(&'a IndexedImage, &'a [u32])>,
        /// How rows are reduced to which colours, in mode `exact`.
        dither: Option<(DitherKind, &'a [Rgb8])>,
        /// Whether every pixel is either opaque or hidden.
        hard_alpha: bool,
    },
    /// Pixels in memory.
    Raster(&'a Raster),
    /// The picture's alpha.
    Matte(&'a IndexedImage),
}

/// What lies behind a variation's transparent pixels.
#[derive(Clone, Copy)]
pub enum Ground<'a> {
    /// Nothing: alpha stays.
    Transparent,
    /// One colour.
    Color(Rgb8),
    /// A picture.
    Backdrop(&'a Backdrop),
}

/// What every variation of a run shares.
pub struct Workshop<'a> {
    /// Where files go.
    pub outlet: &'a Outlet<'a>,
    /// Size in bytes above which a PNG gets a copy for upload.
    pub upload_over: Option<u64>,
    /// Who watches.
    pub watch: Watch<'a>,
    /// What need not be made.
    pub sparing: &'a Sparing,
    /// The contact sheet.
    pub sheet: &'a Plan,
    /// Whether somebody will look at small pictures.
    pub gallery: bool,
}

impl Workshop<'_> {
    /// Makes the preview of a variation, where one is wanted.
    pub fn preview(
        &self,
        painting: &Painting<'_>,
        ground: Ground<'_>,
        planned: &PlannedVariation,
    ) -> Option<PreviewCopy> {
        let output = planned.preview.as_ref()?;
        if let Some(copy) = self.recall_preview(output) {
            return Some(copy);
        }
        let start = Instant::now();
        let maker = Maker { painting, ground, outlet: self.outlet, upload_over: None };
        let made = maker.small_file(output);
        self.watch.timings.add("preview", start);
        if let Ok(Committed { content: Some(content), .. }) = &made {
            self.remember(output.key.clone(), content.clone(), &Arc::default(), start.elapsed().as_secs_f64() * 1e3);
        }
        let copy = output.preview(made.map(|made| made.stored));
        if copy.error.is_none() {
            self.watch.tell(Event::Made { object: copy.object.clone(), bytes: copy.bytes });
        }
        Some(copy)
    }

    fn remember(
        &self,
        key: Option<String>,
        (content, crc32c): (Bytes, u32),
        description: &Arc<Description>,
        cost_ms: f64,
    ) {
        if let (Some(memory), Some(key)) = (self.outlet.memory(), key) {
            let description = description.clone();
            (memory.remember)(&key, Remembered { content, crc32c, description, cost_ms });
        }
    }

    /// Makes every file of a variation, and its small pictures when a gallery is wanted. `since` is when it was begun.
    pub fn make(
        &self,
        painting: &Painting<'_>,
        ground: Ground<'_>,
        description: Description,
        planned: &PlannedVariation,
        on_sheet: bool,
        since: Instant,
    ) -> (Vec<VariationEntry>, Option<Pictures>) {
        let description = Arc::new(description);
        let before_ms = since.elapsed().as_secs_f64() * 1e3 / planned.outputs.len().max(1) as f64;
        let maker = Maker { painting, ground, outlet: self.outlet, upload_over: self.upload_over };
        // Side by side, so that a thread without a palette left to make has something to do.
        rayon::join(
            || {
                let start = Instant::now();
                let results = maker.files(&planned.outputs);
                self.watch.timings.add("encode", start);
                let outputs = planned.outputs.iter().zip(results);
                outputs.map(|(output, result)| self.record(&description, before_ms, planned, output, result)).collect()
            },
            || {
                let start = Instant::now();
                let pictures = self.gallery.then(|| maker.small(PREVIEW_SIDE)).flatten().map(|mut raster| {
                    let preview = preview_file(&mut raster);
                    Pictures { preview, tile: on_sheet.then(|| tile(raster.rewound(), self.sheet)) }
                });
                self.watch.timings.add("gallery", start);
                pictures
            },
        )
    }

    /// The entry of a file that was made, or was not.
    fn record(
        &self,
        description: &Arc<Description>,
        before_ms: f64,
        planned: &PlannedVariation,
        output: &PlannedOutput,
        result: Result<Made, MakeError>,
    ) -> VariationEntry {
        let Description { mapping, metrics, notes } = (**description).clone();
        let mut entry = VariationEntry { mapping, metrics, notes, ..output.entry(planned) };
        match result {
            Ok(Made { file: Committed { stored, content }, upload, cost_ms }) => {
                let key = output.key.as_deref();
                if let Some(content) = content {
                    self.remember(key.map(str::to_owned), content, description, before_ms + cost_ms);
                }
                self.watch.tell(Event::Made { object: entry.object.clone(), bytes: stored.bytes });
                entry.bytes = stored.bytes;
                entry.crc32c = stored.crc32c;
                entry.upload = upload.map(|result| {
                    let copy = UploadCopy {
                        object: upload_name(&entry.object),
                        format: "jpeg".into(),
                        ..UploadCopy::default()
                    };
                    match result {
                        Ok(Committed { stored, content }) => {
                            if let Some(content) = content {
                                self.remember(key.map(|key| upload_key(key, output)), content, &Arc::default(), 0.0);
                            }
                            UploadCopy { bytes: stored.bytes, crc32c: stored.crc32c, ..copy }
                        }
                        Err(error) => UploadCopy { error: Some(error.failure()), ..copy },
                    }
                });
            }
            Err(error) => {
                let failure = error.failure();
                self.watch.tell(Event::Failed { name: planned.name.clone(), message: failure.message.clone() });
                entry.error = Some(failure);
            }
        }
        entry
    }

    /// Entries of a variation none of whose files was made.
    pub fn fail(&self, planned: &PlannedVariation, failure: &Failure) -> Vec<VariationEntry> {
        let entry = |output: &PlannedOutput| {
            self.watch.tell(Event::Failed { name: planned.name.clone(), message: failure.message.clone() });
            VariationEntry { error: Some(failure.clone()), ..output.entry(planned) }
        };
        planned.outputs.iter().map(entry).collect()
    }
}

/// A file that is there, and its copy for upload where the rule asks for one.
struct Made {
    file: Committed,
    upload: Option<Result<Committed, MakeError>>,
    /// Milliseconds that making them took.
    cost_ms: f64,
}

/// Why a file is not there.
pub enum MakeError {
    /// It could not be encoded, or not handed over.
    Encode(EncodeError),
    /// Time was up.
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
    /// As it stands in a manifest.
    pub fn failure(&self) -> Failure {
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

impl<'a> Painting<'a> {
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Table { image, .. } | Self::Matte(image) => (image.width(), image.height()),
            Self::Raster(raster) => (raster.width(), raster.height()),
        }
    }

    fn has_alpha(&self) -> bool {
        match self {
            Self::Table { image, .. } => image.alpha().is_some(),
            Self::Raster(raster) => raster.has_alpha(),
            Self::Matte(_) => false,
        }
    }

    fn hard_alpha(&self) -> bool {
        match self {
            Self::Table { hard_alpha, .. } => *hard_alpha,
            // Only dithers ask.
            Self::Raster(_) | Self::Matte(_) => false,
        }
    }

    /// The rows at full size, from the first on.
    fn rows(&self) -> Box<dyn Rows + 'a> {
        match self {
            Self::Table { image, table, .. } => Box::new(Recolored::new(image, table)),
            Self::Raster(raster) => Box::new(raster.rows()),
            Self::Matte(image) => Box::new(Matte::new(image)),
        }
    }

    fn dither(&self) -> Option<(DitherKind, &'a [Rgb8])> {
        match self {
            Self::Table { dither, .. } => *dither,
            Self::Raster(_) | Self::Matte(_) => None,
        }
    }

    /// The chroma resolution that the picture needs, from one row pair in sixteen.
    fn chroma(&self) -> Chroma {
        const EVERY: usize = 16;
        let (width, height) = (self.size().0 as usize, self.size().1 as usize);
        let row_of = |y: usize, row: &mut [u32]| match self {
            Self::Table { image, table, .. } => gather_row(image, table, y, row),
            Self::Raster(raster) => row.copy_from_slice(&raster.pixels()[y * width..(y + 1) * width]),
            Self::Matte(_) => row.fill(u32::MAX),
        };
        let mut meter = ChromaMeter::new(FILL);
        let mut rows = [vec![0u32; width], vec![0u32; width]];
        let pairs = (height / 2).max(1);
        let step = if pairs >= EVERY * EVERY { EVERY } else { 1 };
        for pair in (0..pairs).step_by(step) {
            for (i, row) in rows.iter_mut().enumerate() {
                row_of((2 * pair + i).min(height - 1), row);
            }
            meter.add(&rows[0], &rows[1]);
        }
        meter.chroma()
    }

    /// The picture with a longest side of at most `side` pixels, before dither and ground.
    fn small(&self, side: u32) -> Option<Raster> {
        let reduced = |rows: &mut dyn Rows| {
            let (width, height) = resize::fit(rows.width(), rows.height(), side, 0);
            let mut reducer = [AreaReducer::new(rows.width(), rows.height(), width, height, rows.has_alpha())];
            Teed::new(rows, &mut reducer).drain();
            let [reducer] = reducer;
            reducer.finish()
        };
        match self {
            Self::Table { preview, .. } => {
                let (image, table) = (*preview)?;
                Some(Raster::read(&mut Recolored::new(image, table)))
            }
            Self::Raster(_) | Self::Matte(_) => Some(reduced(&mut *self.rows())),
        }
    }
}

/// What every file of one variation is made of.
struct Maker<'a> {
    painting: &'a Painting<'a>,
    ground: Ground<'a>,
    outlet: &'a Outlet<'a>,
    upload_over: Option<u64>,
}

impl Maker<'_> {
    /// One result per output, in order.
    fn files(&self, outputs: &[PlannedOutput]) -> Vec<Result<Made, MakeError>> {
        let full = self.painting.size();
        let reducers = || -> Vec<AreaReducer> {
            let alpha = self.painting.has_alpha();
            let reduced = outputs.iter().filter(|o| o.size != full);
            reduced.map(|o| AreaReducer::new(full.0, full.1, o.size.0, o.size.1, alpha)).collect()
        };
        let mut gathered = reducers();
        let mut filled = gathered.is_empty();
        let mut results: Vec<Option<Result<Made, MakeError>>> = Vec::new();
        for output in outputs {
            results.push((output.size == full).then(|| {
                let start = Instant::now();
                let hard_alpha = self.painting.hard_alpha();
                let file = match self.outlet.start(&output.object) {
                    Start::Stored(stored) => Committed { stored, content: None },
                    Start::Stop => return Err(MakeError::Stopped),
                    Start::Make => {
                        // The first full-size file that works feeds the reduced ones.
                        let mut none = Vec::new();
                        let feed = if filled { &mut none } else { &mut gathered };
                        let mut rows = self.painting.rows();
                        let mut rows = Teed::new(&mut *rows, feed);
                        let chroma = || self.painting.chroma();
                        let result = self.file(&output.object, &output.encode, &mut rows, hard_alpha, chroma);
                        if result.is_ok() {
                            filled = true;
                        } else if !filled {
                            gathered = reducers();
                        }
                        result?
                    }
                };
                let upload = self.upload_options(output, &file.stored).map(|options| {
                    self.copy(output, &options, &mut *self.painting.rows(), hard_alpha, || self.painting.chroma())
                });
                Ok(Made { file, upload, cost_ms: start.elapsed().as_secs_f64() * 1e3 })
            }));
        }
        let starts: Vec<Start> = outputs
            .iter()
            .map(|output| if output.size == full { Start::Stop } else { self.outlet.start(&output.object) })
            .collect();
        // Also where all of them are stored: one may need its copy for upload. That is rare.
        if !filled && starts.iter().any(|start| *start != Start::Stop) {
            Teed::new(&mut *self.painting.rows(), &mut gathered).drain();
        }
        let mut gathered = gathered.into_iter();
        outputs
            .iter()
            .zip(results)
            .zip(starts)
            .map(|((output, result), start)| match (result, output.size != full) {
                (Some(result), _) => result,
                (None, _) => {
                    let begun = Instant::now();
                    // One reducer was made for each output of another size, in order.
                    let reducer = gathered.next();
                    if start == Start::Stop {
                        return Err(MakeError::Stopped);
                    }
                    let mut raster = reducer.map_or_else(|| Raster::of_length(1, 1, vec![0]), AreaReducer::finish);
                    let chroma = encode::choose_chroma(&raster, FILL);
                    // Reducing makes hard edges soft.
                    let hard_alpha = raster.has_hard_alpha();
                    let file = match start {
                        Start::Stored(stored) => Committed { stored, content: None },
                        Start::Make | Start::Stop => {
                            self.file(&output.object, &output.encode, &mut raster, hard_alpha, || chroma)?
                        }
                    };
                    let upload = self
                        .upload_options(output, &file.stored)
                        .map(|options| self.copy(output, &options, &mut raster.rewound(), hard_alpha, || chroma));
                    Ok(Made { file, upload, cost_ms: begun.elapsed().as_secs_f64() * 1e3 })
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
    ) -> Result<Committed, MakeError> {
        let object = upload_name(&output.object);
        match self.outlet.start(&object) {
            Start::Stored(stored) => Ok(Committed { stored, content: None }),
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
    ) -> Result<Committed, MakeError> {
        let mut options = *options;
        if options.format == Format::Jpeg && options.chroma == Chroma::Auto {
            // Dither is all sharp coloured edges.
            options.chroma = if self.painting.dither().is_some() { Chroma::Full } else { chroma() };
        }
        let mut file = self.outlet.create(object, options.format)?;
        self.finished(rows, hard_alpha, |rows| encode::encode(rows, &options, &mut file))?;
        Ok(file.commit()?)
    }

    /// Rows as they are encoded: dithered in mode `exact`, and with the ground behind them. `hard_alpha` says that each pixel is
    /// either opaque or hidden.
    fn finished<T>(&self, rows: &mut dyn Rows, hard_alpha: bool, read: impl FnOnce(&mut dyn Rows) -> T) -> T {
        match self.painting.dither() {
            None => self.grounded(rows, read),
            Some((kind, colors)) => self.grounded(&mut Dithered::new(rows, colors, kind, hard_alpha), read),
        }
    }

    fn grounded<T>(&self, rows: &mut dyn Rows, read: impl FnOnce(&mut dyn Rows) -> T) -> T {
        match self.ground {
            _ if !rows.has_alpha() => read(rows),
            Ground::Transparent => read(rows),
            Ground::Color(color) => read(&mut Filled::new(rows, Behind::Color(color))),
            Ground::Backdrop(backdrop) => {
                let backdrop = backdrop.at(rows.width(), rows.height());
                read(&mut Filled::new(rows, backdrop.behind()))
            }
        }
    }

    fn small(&self, side: u32) -> Option<Raster> {
        // A raster in memory needs no indices, so nothing is lost by not looking for hard alpha.
        Some(self.finished(&mut self.painting.small(side)?, false, |rows| Raster::read(rows)))
    }

    /// The variation small, as a file of its own.
    fn small_file(&self, output: &PlannedOutput) -> Result<Committed, MakeError> {
        match self.outlet.start(&output.object) {
            Start::Stored(stored) => return Ok(Committed { stored, content: None }),
            Start::Stop => return Err(MakeError::Stopped),
            Start::Make => {}
        }
        // Only a picture without pixels has none.
        let side = output.size.0.max(output.size.1);
        let mut raster = self.small(side).unwrap_or_else(|| Raster::of_length(1, 1, vec![0]));
        let mut file = self.outlet.create(&output.object, output.encode.format)?;
        encode::encode(&mut raster, &output.encode, &mut file)?;
        Ok(file.commit()?)
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
