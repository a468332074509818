//! Where variations are made: each subject painted, over its ground, into its files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Instant;

use super::base::{Base, Colors, Models};
use super::effect;
use super::job::{Fill, Job};
use super::manifest::{Description, Failure, PreviewCopy, VariationEntry};
use super::outlet::Start;
use super::palette_file;
use super::plan::{PlannedVariation, Subject};
use super::recoloring::Recoloring;
use super::variation::{self, Ground, Painting, Pictures, Workshop};
use crate::kernel::effect as kernel_effect;
use crate::kernel::gather::Recolored;
use crate::kernel::image::Raster;
use crate::kernel::palette::Palette;

/// The palette of what lies before `ground`: a colour that is behind already would make the subject vanish.
fn before(ground: Ground<'_>, palette: &Palette) -> Palette {
    match ground {
        Ground::Color(color) => palette.clone().without(color),
        Ground::Transparent | Ground::Backdrop(_) => palette.clone(),
    }
}

/// Everything that variations are made of.
pub struct Studio<'a> {
    /// The job.
    pub job: &'a Job,
    /// The picture, decoded and cut out.
    pub base: &'a Base,
    /// The same small, where somebody will look.
    pub preview: Option<&'a Colors>,
    /// The job's palettes by name; a bad one fails alone.
    pub palettes: &'a [(String, Result<Palette, Failure>)],
    /// Colour models for them.
    pub models: &'a Models<'a>,
    /// What makes files of variations.
    pub workshop: &'a Workshop<'a>,
}

/// A variation's entries in the manifest, and its small pictures.
pub type Entries = (Vec<VariationEntry>, Option<Pictures>);

impl Studio<'_> {
    /// Makes the preview of a variation in a palette, or of the cut-out, which takes a fraction of the time of its files. None
    /// where the preview is made along with the files, and where there is none.
    pub fn sketch(&self, subject: Subject, planned: &PlannedVariation) -> Option<PreviewCopy> {
        let (output, preview) = (planned.preview.as_ref()?, self.preview?);
        if !matches!(subject, Subject::Palette(_) | Subject::Cutout) {
            return None;
        }
        if let Some(copy) = self.workshop.recall_preview(output) {
            return Some(copy);
        }
        let sketch = || {
            let (ground, table, dither) = match subject {
                Subject::Palette(at) => {
                    let whole = self.palettes[at].1.as_ref().ok()?;
                    let ground = self.ground(Some(whole)).ok()?;
                    let palette = before(ground, whole);
                    let made = Recoloring::sketch(self.base, preview, self.models, &palette, &self.job.recolor);
                    (ground, made.0, made.1.map(|kind| (kind, palette)))
                }
                _ => (self.ground_without_palette(&mut Description::default()), preview.unchanged(), None),
            };
            let painting = Painting::Table {
                image: &preview.image,
                table: &table,
                preview: Some((&preview.image, &table)),
                dither: dither.as_ref().map(|(kind, palette)| (*kind, palette.colors())),
                hard_alpha: false,
            };
            self.workshop.preview(&painting, ground, planned)
        };
        // What is wrong with it shows again when its files are made.
        catch_unwind(AssertUnwindSafe(sketch)).ok().flatten()
    }

    /// Makes one variation. `picture` is the base as pixels, made when an effect first needs it.
    pub fn make(
        &self,
        subject: Subject,
        planned: &PlannedVariation,
        on_sheet: bool,
        picture: &OnceLock<Raster>,
    ) -> Entries {
        let fail = |failure: &Failure| (self.workshop.fail(planned, failure), None);
        // Time may be up before a variation is begun: then nothing of it is computed.
        if planned.outputs.iter().all(|output| self.workshop.outlet.start(&output.object) == Start::Stop) {
            return fail(&variation::stopped());
        }
        if let Some(entries) = self.recall(subject, planned) {
            return (entries, None);
        }
        // A bug must cost one variation, not the job.
        let made = catch_unwind(AssertUnwindSafe(|| match subject {
            Subject::Palette(at) => self.palette(at, planned, on_sheet),
            Subject::Effect(at) => self.effect(at, planned, on_sheet, picture),
            Subject::Cutout => Ok(self.cutout(planned, on_sheet)),
            Subject::Matte => {
                let painting = Painting::Matte(&self.base.full.image);
                let (ground, description) = (Ground::Transparent, Description::default());
                Ok(self.with_preview(&painting, ground, description, planned, on_sheet, Instant::now()))
            }
        }));
        match made {
            Ok(Ok(entries)) => entries,
            Ok(Err(failure)) => fail(&failure),
            Err(_) => {
                let message = "the engine failed on this variation; report it with the picture and the job".into();
                fail(&Failure { class: "internal".into(), message })
            }
        }
    }

    /// A variation that earlier jobs made, its preview included where that is not made before.
    fn recall(&self, subject: Subject, planned: &PlannedVariation) -> Option<Vec<VariationEntry>> {
        // Nothing is handed over before all of it is known to be there.
        let files = self.workshop.remembered_files(planned)?;
        let sketched = matches!(subject, Subject::Palette(_) | Subject::Cutout);
        let preview = match planned.preview.as_ref().filter(|_| !sketched) {
            Some(output) => Some((output, self.workshop.remembered(output.key.as_deref()?)?)),
            None => None,
        };
        // Handed over before the files, as where it is made.
        let preview = preview.map(|(output, file)| self.workshop.preview_again(output, &file));
        let mut entries = self.workshop.recall(planned, files);
        if let Some(first) = entries.first_mut() {
            first.preview = preview;
        }
        Some(entries)
    }

    /// Makes the preview of a variation, and then its files.
    fn with_preview(
        &self,
        painting: &Painting<'_>,
        ground: Ground<'_>,
        description: Description,
        planned: &PlannedVariation,
        on_sheet: bool,
        since: Instant,
    ) -> Entries {
        let preview = self.workshop.preview(painting, ground, planned);
        let (mut entries, pictures) = self.workshop.make(painting, ground, description, planned, on_sheet, since);
        if let Some(first) = entries.first_mut() {
            first.preview = preview;
        }
        (entries, pictures)
    }

    fn palette(&self, at: usize, planned: &PlannedVariation, on_sheet: bool) -> Result<Entries, Failure> {
        let whole = self.palettes[at].1.as_ref().map_err(Failure::clone)?;
        let ground = self.ground(Some(whole))?;
        let palette = &before(ground, whole);
        let since = Instant::now();
        let (base, timings) = (self.base, self.workshop.watch.timings);
        let preview = self.preview.filter(|_| self.workshop.gallery);
        let made = Recoloring::new(base, preview, self.models, palette, &self.job.recolor, timings);
        let description = Description { mapping: made.mapping, metrics: made.metrics, notes: made.notes };
        let painting = Painting::Table {
            image: &base.full.image,
            table: &made.table,
            preview: preview.zip(made.preview.as_deref()).map(|(colors, table)| (&colors.image, table)),
            dither: made.dither.map(|kind| (kind, palette.colors())),
            hard_alpha: base.hard_alpha,
        };
        Ok(self.workshop.make(&painting, ground, description, planned, on_sheet, since))
    }

    fn cutout(&self, planned: &PlannedVariation, on_sheet: bool) -> Entries {
        let base = self.base;
        let table = base.full.unchanged();
        let since = Instant::now();
        let preview = self.preview.map(|colors| (&colors.image, colors.unchanged()));
        let mut description = Description::default();
        description.notes.extend(base.background.iter().flat_map(|background| background.notes.iter().cloned()));
        let ground = self.ground_without_palette(&mut description);
        let painting = Painting::Table {
            image: &base.full.image,
            table: &table,
            preview: preview.as_ref().map(|(image, table)| (*image, table.as_slice())),
            dither: None,
            hard_alpha: base.hard_alpha,
        };
        self.workshop.make(&painting, ground, description, planned, on_sheet, since)
    }

    fn effect(
        &self,
        at: usize,
        planned: &PlannedVariation,
        on_sheet: bool,
        picture: &OnceLock<Raster>,
    ) -> Result<Entries, Failure> {
        let effect = effect::plan(&self.job.effects[at], self.job)
            .map_err(|(_, message)| Failure { class: "bad-job".into(), message })?;
        let mut description = Description::default();
        let (palette, colors) = match &effect.colors {
            None => (None, None),
            Some(effect::Colors::List(colors)) => (None, Some(colors.as_slice())),
            Some(effect::Colors::Palette(name)) => {
                let found = self.palettes.iter().find(|(known, _)| known == name);
                let (_, palette) = found.ok_or_else(|| Failure {
                    class: "bad-palette".into(),
                    message: format!("the job has no palette {name:?}; name one of its palettes, or list colours"),
                })?;
                let palette = palette.as_ref().map_err(Failure::clone)?;
                (Some(palette), Some(palette.colors()))
            }
        };
        let ground = match palette {
            Some(palette) => self.ground(Some(palette))?,
            None => self.ground_without_palette(&mut description),
        };
        let start = Instant::now();
        let base = &self.base.full;
        let picture = picture.get_or_init(|| Raster::read(&mut Recolored::new(&base.image, &base.unchanged())));
        let raster = kernel_effect::apply(&effect.effect, picture, colors);
        self.workshop.watch.timings.add("effect", start);
        Ok(self.with_preview(&Painting::Raster(&raster), ground, description, planned, on_sheet, start))
    }

    /// What lies behind a variation in `palette`.
    fn ground(&self, palette: Option<&Palette>) -> Result<Ground<'_>, Failure> {
        // A picture that passed as it was has nothing to fill.
        if !self.base.background.as_ref().is_some_and(|background| background.removed) {
            return Ok(Ground::Transparent);
        }
        Ok(match (&self.job.background.fill, &self.base.backdrop) {
            (Some(Fill::Color(color)), _) => Ground::Color(*color),
            (Some(Fill::Role(role)), _) => match palette.map(|palette| palette_file::color_of(palette, *role)) {
                Some(Some(color)) => Ground::Color(color),
                Some(None) => {
                    let message = format!(
                        "background.fill names the role {0}, which this palette does not have; add \"roles\": {{\"{0}\": \"#…\"}} to \
                         it, or fill with a colour",
                        role.name()
                    );
                    return Err(Failure { class: "bad-palette".into(), message });
                }
                None => Ground::Transparent,
            },
            (Some(Fill::Blur | Fill::Picture(_)), Some(backdrop)) => Ground::Backdrop(backdrop),
            (Some(Fill::Blur | Fill::Picture(_) | Fill::Transparent) | None, _) => Ground::Transparent,
        })
    }

    /// What lies behind a variation that has no palette, and so no roles.
    fn ground_without_palette(&self, description: &mut Description) -> Ground<'_> {
        let removed = self.base.background.as_ref().is_some_and(|background| background.removed);
        if let (Some(Fill::Role(role)), true) = (&self.job.background.fill, removed) {
            description
                .notes
                .push(format!("Left transparent: only palettes have a colour with the role {}.", role.name()));
        }
        self.ground(None).unwrap_or(Ground::Transparent)
    }
}
