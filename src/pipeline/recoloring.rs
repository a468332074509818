//! One palette on one base: the colour tables, what went where, and how good it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::base::{Base, Colors, Models, SoftModel, faithful_model, transfer_model};
use super::job::{Dither, Mode, RecolorRequest};
use super::manifest::MappingEntry;
use super::timing::Timings;
use crate::kernel::assign::{self, Assignment};
use crate::kernel::cluster;
use crate::kernel::color::{Lab, Rgb8};
use crate::kernel::dither::{DitherKind, MAX_COLORS};
use crate::kernel::palette::Palette;
use crate::kernel::predecessor::{FaithfulModel, TransferModel};
use crate::kernel::quality::{fit, tone};
use crate::kernel::recolor::{ColorSet, SoftMap};
use crate::kernel::tint::TintMap;

/// Everything a palette decides.
pub struct Recoloring {
    /// Output colours of the full picture's colours, and of hidden pixels last.
    pub table: Vec<u32>,
    /// The same for the preview.
    pub preview: Option<Vec<u32>>,
    /// How rows are reduced to palette colours, in mode `exact`.
    pub dither: Option<DitherKind>,
    /// Source colours and what became of them, largest share first.
    pub mapping: Vec<MappingEntry>,
    /// Quality figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// What was traded or left out, in words.
    pub notes: Vec<String>,
}

impl<'a> Models<'a> {
    /// Makes every model that `palettes` need in `mode`.
    pub fn new<'p>(
        base: &'a Base,
        preview: Option<&'a Colors>,
        mode: Mode,
        palettes: impl Iterator<Item = &'p Palette>,
        max_iterations: u32,
    ) -> Self {
        let sizes = palettes.map(|p| p.colors().len());
        match mode {
            Mode::Soft | Mode::Exact => {
                let mut models: BTreeMap<usize, SoftModel<'a>> = BTreeMap::new();
                for size in sizes {
                    models
                        .entry(Self::soft_key(size))
                        .or_insert_with_key(|&key| SoftModel::new(base, preview, key, max_iterations));
                }
                Self::Soft(models)
            }
            Mode::Transfer => {
                let mut models = BTreeMap::new();
                for k in sizes.map(TransferModel::cluster_count) {
                    models.entry(k).or_insert_with(|| transfer_model(base, preview, k, max_iterations));
                }
                Self::Transfer(models)
            }
            Mode::Faithful => {
                let mut models = BTreeMap::new();
                for k in sizes.map(FaithfulModel::cluster_count) {
                    models.entry(k).or_insert_with(|| faithful_model(base, preview, k, max_iterations));
                }
                Self::Faithful(models)
            }
            Mode::Tint => Self::None,
        }
    }

    /// Makes ahead what [`Models::new`] takes from `base` alone, which keeps it.
    pub fn prepare<'p>(base: &Base, mode: Mode, palettes: impl Iterator<Item = &'p Palette>, max_iterations: u32) {
        if matches!(mode, Mode::Soft | Mode::Exact) {
            let keys: BTreeSet<usize> = palettes.map(|p| Self::soft_key(p.colors().len())).collect();
            keys.into_iter().for_each(|key| drop(base.soft_model(key, max_iterations)));
        }
    }

    /// Palettes of up to five colours share a model, and so do those of ten and more.
    fn soft_key(palette_colors: usize) -> usize {
        palette_colors.clamp(5, cluster::MAX_CLUSTERS)
    }
}

impl Recoloring {
    /// Applies `palette` to the base, and to `preview` where there is one. `models` must have been made for them; a model that
    /// is missing leaves the picture as it is.
    pub fn new(
        base: &Base,
        preview: Option<&Colors>,
        models: &Models<'_>,
        palette: &Palette,
        request: &RecolorRequest,
        timings: &Timings,
    ) -> Self {
        let start = Instant::now();
        let strength = request.strength;
        let size = palette.colors().len();
        let pair = |mapping: Vec<(Rgb8, Rgb8, f64)>| {
            let entry = |(from, to, share): (Rgb8, Rgb8, f64)| MappingEntry {
                from: from.to_string(),
                to: to.to_string(),
                share: rounded(share),
            };
            mapping.into_iter().map(entry).collect()
        };
        let mut made = match models {
            Models::Soft(models) => match models.get(&Models::soft_key(size)) {
                Some(soft) => Self::soft(base, preview.is_some(), soft, palette, request, timings),
                None => Self::unchanged(base, preview),
            },
            Models::Transfer(models) => match models.get(&TransferModel::cluster_count(size)) {
                Some((full, small)) => Self {
                    table: with_hidden(full.table(palette, strength)),
                    preview: preview.and(small.as_ref()).map(|small| with_hidden(small.table(palette, strength))),
                    mapping: pair(full.mapping(palette)),
                    ..Self::empty()
                },
                None => Self::unchanged(base, preview),
            },
            Models::Faithful(models) => match models.get(&FaithfulModel::cluster_count(size)) {
                Some((full, small)) => Self {
                    table: with_hidden(full.table(palette, strength)),
                    preview: preview.and(small.as_ref()).map(|small| with_hidden(small.table(palette, strength))),
                    mapping: pair(full.mapping(palette)),
                    ..Self::empty()
                },
                None => Self::unchanged(base, preview),
            },
            Models::None => Self::tint(base, preview, palette, strength),
        };
        made.notes.extend(unheeded(palette, request.mode));
        if base.full.image.colors().is_empty() {
            made.notes.push("The picture has no visible pixels; there is nothing to recolour.".into());
        } else {
            let start = Instant::now();
            made.measure(base, palette);
            timings.add("measure", start);
        }
        timings.add("recolor", start);
        made
    }

    fn empty() -> Self {
        Self {
            table: Vec::new(),
            preview: None,
            dither: None,
            mapping: Vec::new(),
            metrics: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    fn unchanged(base: &Base, preview: Option<&Colors>) -> Self {
        Self { table: base.full.unchanged(), preview: preview.map(Colors::unchanged), ..Self::empty() }
    }

    /// Applies `palette` to `preview` alone, which takes a fraction of the time: its table, and how rows are reduced.
    pub fn sketch(
        base: &Base,
        preview: &Colors,
        models: &Models<'_>,
        palette: &Palette,
        request: &RecolorRequest,
    ) -> (Vec<u32>, Option<DitherKind>) {
        let strength = request.strength;
        let size = palette.colors().len();
        let table = match models {
            Models::Soft(models) => models.get(&Models::soft_key(size)).and_then(|soft| {
                let set = soft.preview.as_ref()?;
                let assignment = assign::assign(&soft.model, palette);
                Some(soft_map(soft, assignment, strength).table(set))
            }),
            Models::Transfer(models) => models
                .get(&TransferModel::cluster_count(size))
                .and_then(|(_, small)| Some(with_hidden(small.as_ref()?.table(palette, strength)))),
            Models::Faithful(models) => models
                .get(&FaithfulModel::cluster_count(size))
                .and_then(|(_, small)| Some(with_hidden(small.as_ref()?.table(palette, strength)))),
            Models::None => {
                let map = TintMap::new(palette, base.lightness, strength);
                Some(map.table(&preview.labs, preview.image.colors()))
            }
        };
        (table.unwrap_or_else(|| preview.unchanged()), dither_of(request))
    }

    fn tint(base: &Base, preview: Option<&Colors>, palette: &Palette, strength: f32) -> Self {
        let map = TintMap::new(palette, base.lightness, strength);
        let table = |colors: &Colors| map.table(&colors.labs, colors.image.colors());
        let own = base.palette(palette.colors().len().clamp(5, cluster::MAX_CLUSTERS), 20);
        let from: Vec<u32> = own.iter().map(|c| c.0.packed()).collect();
        let to = map.table(&crate::kernel::model::LabPlanes::new(&from), &from);
        let mapping = own
            .iter()
            .zip(to)
            .map(|((from, share), to)| MappingEntry {
                from: from.to_string(),
                to: Rgb8::from_packed(to).to_string(),
                share: rounded(*share),
            })
            .collect();
        Self { table: table(&base.full), preview: preview.map(table), mapping, ..Self::empty() }
    }

    fn soft(
        base: &Base,
        with_preview: bool,
        soft: &SoftModel<'_>,
        palette: &Palette,
        request: &RecolorRequest,
        timings: &Timings,
    ) -> Self {
        let start = Instant::now();
        let assignment = assign::assign(&soft.model, palette);
        timings.add("assign", start);
        let map = soft_map(soft, assignment.clone(), request.strength);
        let table = |set: &ColorSet<'_>| map.table(set);
        let start = Instant::now();
        let mut made = Self {
            table: table(&soft.full),
            preview: soft.preview.as_ref().filter(|_| with_preview).map(table),
            mapping: mapping_of(soft, &assignment, request.strength),
            notes: notes_of(&assignment, palette),
            ..Self::empty()
        };
        timings.add("table", start);
        made.dither = dither_of(request);
        debug_assert!(made.dither.is_none() || palette.colors().len() <= MAX_COLORS);
        let start = Instant::now();
        made.measure_soft(base, soft, &assignment, &map);
        timings.add("measure", start);
        made
    }

    /// Figures that only a map with targets has.
    fn measure_soft(&mut self, base: &Base, soft: &SoftModel<'_>, assignment: &Assignment, map: &SoftMap) {
        let sampled = &base.sample;
        let clusters = soft.model.clusters();
        if clusters.is_empty() {
            return;
        }
        let mapped = sampled.of(&self.table);
        let view = fit::View::new(&sampled.sample, &mapped);
        let labels: Vec<u8> =
            (0..sampled.colors.len()).map(|i| cluster::nearest(clusters, sampled.labs.get(i)) as u8).collect();
        let wanted = map.labs(&sampled.labs, &soft.model.weights(&sampled.labs));
        let wanted: Vec<Lab> = (0..wanted.len()).map(|i| wanted.get(i)).collect();
        let fidelity = fit::fidelity(&view, &labels, &assignment.targets);
        let present = fit::present(&view, &fit::TargetColors::new(assignment.targets.iter().copied()));
        let gamut = fit::gamut_fit(&sampled.sample, &wanted, &mapped);
        for (name, value) in [
            ("fidelity_delta_e", fidelity),
            ("coverage", present as f64 / assignment.targets.len() as f64),
            ("gamut_clipped", gamut.clipped_share),
            ("hue_drift_degrees", gamut.hue_drift_p99),
        ] {
            self.metrics.insert(name.into(), rounded(value));
        }
    }

    /// Figures that every mode has. Mode `exact` is measured before its dither.
    fn measure(&mut self, base: &Base, palette: &Palette) {
        let sampled = &base.sample;
        let mapped = sampled.of(&self.table);
        if let Some((p999, max)) = base.neighbors.steepness(&self.table) {
            self.metrics.insert("gain_p999".into(), rounded(p999));
            self.metrics.insert("gain_max".into(), rounded(max));
        }
        let targets = fit::TargetColors::of_palette(palette.colors());
        let view = fit::View::new(&sampled.sample, &mapped);
        let before = fit::palette_distance(&fit::View::new(&sampled.sample, &sampled.colors), &targets);
        let after = fit::palette_distance(&view, &targets);
        if before > 0.01 {
            self.metrics.insert("palette_distance".into(), rounded(after / before));
        }
        let present = fit::present(&view, &targets);
        self.metrics.insert("colors_present".into(), present as f64);
        let order = tone::lightness_correlation(&sampled.sample, &sampled.colors, &mapped);
        self.metrics.insert("lightness_order".into(), rounded(order));
    }
}

fn soft_map(soft: &SoftModel<'_>, assignment: Assignment, strength: f32) -> SoftMap {
    SoftMap::new(&soft.model, &assignment.targets, assignment.shape, strength, assignment.anchors)
}

/// How rows are reduced to palette colours: only mode `exact` does that.
fn dither_of(request: &RecolorRequest) -> Option<DitherKind> {
    (request.mode == Mode::Exact).then_some(match request.dither {
        Dither::FloydSteinberg => DitherKind::FloydSteinberg,
        Dither::BlueNoise => DitherKind::BlueNoise,
        Dither::None => DitherKind::None,
    })
}

/// Four digits are plenty for figures that people compare.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// A table of visible colours, completed by transparent black.
fn with_hidden(mut table: Vec<u32>) -> Vec<u32> {
    table.push(0);
    table
}

fn mapping_of(soft: &SoftModel<'_>, assignment: &Assignment, strength: f32) -> Vec<MappingEntry> {
    soft.model
        .clusters()
        .iter()
        .zip(&assignment.targets)
        .map(|(c, t)| MappingEntry {
            from: c.center.to_rgb8().to_string(),
            to: c.center.lerp(*t, strength).to_rgb8().to_string(),
            share: rounded(f64::from(c.share)),
        })
        .collect()
}

/// What the palette asks for and the mode does not do.
fn unheeded(palette: &Palette, mode: Mode) -> Option<String> {
    let asked = |roles, pins, protect| -> Vec<&str> {
        [
            ("roles", roles && !palette.roles().is_empty()),
            ("pins", pins && !palette.pins().is_empty()),
            ("protect", protect && !palette.protect().is_empty()),
        ]
        .into_iter()
        .filter_map(|(field, asked)| asked.then_some(field))
        .collect()
    };
    let (fields, why) = match mode {
        Mode::Soft => return None,
        // Roles and pins steer the colours that are dithered; a colour outside the palette cannot stay.
        Mode::Exact => (asked(false, false, true), "mode exact shows palette colours only"),
        Mode::Transfer | Mode::Faithful | Mode::Tint => (asked(true, true, true), "they act in mode soft"),
    };
    (!fields.is_empty()).then(|| format!("Without effect: {}; {why}.", fields.join(", ")))
}

fn notes_of(assignment: &Assignment, palette: &Palette) -> Vec<String> {
    let mut notes = Vec::new();
    if !assignment.unused.is_empty() && !assignment.targets.is_empty() {
        let colors: Vec<String> = assignment.unused.iter().map(|&p| palette.colors()[p].to_string()).collect();
        notes.push(format!(
            "Not used: {}. The picture has {} colour regions, and using more would have torn neighbouring ones apart.",
            colors.join(", "),
            assignment.targets.len()
        ));
    }
    if assignment.predicted_gain > 7.0 {
        notes.push(format!(
            "Steep: neighbouring colours are thrown up to {:.1} times further apart; a lower strength is smoother.",
            assignment.predicted_gain
        ));
    }
    notes
}
