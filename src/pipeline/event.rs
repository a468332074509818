//! What happens during a run, told to whoever watches.

use super::timing::Timings;

/// What happens during a run, in order of completion.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A stage begins that every variation waits for.
    Stage(Step),
    /// The picture is decoded and modelled; these files will be made.
    Planned {
        /// Every file but copies for upload, in the manifest's order; each variation's preview before its files.
        files: Vec<PlannedFile>,
    },
    /// A file is stored, or handed over to be.
    Made {
        /// Its name.
        object: String,
        /// Its size.
        bytes: u64,
    },
    /// A file could not be made.
    Failed {
        /// Palette or effect.
        name: String,
        /// Why.
        message: String,
    },
}

/// The stages before variations are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The picture is decoded and brought down to its limits.
    Decoding,
    /// Its background is removed.
    Removing,
    /// Its colours are counted, clustered and modelled.
    Clustering,
}

/// A file that will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its name.
    pub object: String,
    /// The palette or effect that it shows.
    pub name: String,
    /// Whether that is an effect.
    pub is_effect: bool,
    /// Whether it is a preview.
    pub is_preview: bool,
}

/// Who watches a run: where time is written down, and who is told what happens.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Where time is written down.
    pub timings: &'a Timings,
    /// Who is told, from any thread.
    pub observe: &'a (dyn Fn(Event) + Sync),
}

impl<'a> Watch<'a> {
    /// Writes down time and tells nobody.
    pub fn silent(timings: &'a Timings) -> Self {
        Self { timings, observe: &|_| () }
    }

    /// Tells it.
    pub fn tell(&self, event: Event) {
        (self.observe)(event);
    }
}
