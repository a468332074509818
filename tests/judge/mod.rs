//! Methods under judgement, and their figures by stratum: shared by tests/matting.rs and examples/matting, which
//! include it beside `scenes`.

#![allow(dead_code)] // Each of them uses a part.

use std::collections::BTreeMap;

use concept_worker::kernel::image::BaseImage;
use concept_worker::kernel::matte::{classic, foreground, refine};
use concept_worker::kernel::quality::matting::{CutOut, Figures, confidence_auc};
use rayon::prelude::*;

use crate::generator::scenes::{STRATA, Scene};

/// A cut whose mean absolute error is above this is a bad one.
pub const BAD_MAE: f64 = 0.01;

/// The longer side of the scenes that tests and the baseline use.
pub const SIDE: u32 = 384;

/// What a method made of a scene.
pub struct Cut {
    pub alpha: Vec<u8>,
    pub rgb: Vec<u8>,
    /// 0..=1.
    pub confidence: f64,
}

/// A method by name.
pub struct Method {
    pub name: &'static str,
    /// The confidence from which on a cut is used.
    pub confident: f64,
    pub cut: fn(&Scene) -> Cut,
}

/// The methods of the table. All but `classic` start from the true matte and show what the steps after a model cost.
pub const METHODS: &[Method] = &[
    Method { name: "classic", confident: classic::CONFIDENT as f64, cut: by_classic },
    Method { name: "true matte, colour as in the picture", confident: 0.0, cut: by_truth_alone },
    Method { name: "true matte, colour estimated", confident: 0.0, cut: by_truth },
    Method { name: "map at a quarter, bilinear", confident: 0.0, cut: by_bilinear },
    Method { name: "map at a quarter, guided", confident: 0.0, cut: by_guided },
];

fn base(scene: &Scene) -> BaseImage {
    BaseImage::new(scene.width, scene.height, scene.rgb.clone(), None).expect("a scene has pixels")
}

fn by_classic(scene: &Scene) -> Cut {
    let found = classic::cut_out(&base(scene), &classic::ClassicOptions::default());
    Cut { alpha: found.alpha, rgb: found.rgb, confidence: f64::from(found.confidence) }
}

fn by_truth_alone(scene: &Scene) -> Cut {
    Cut { alpha: scene.alpha.clone(), rgb: scene.rgb.clone(), confidence: 1.0 }
}

fn by_truth(scene: &Scene) -> Cut {
    estimated(scene, scene.alpha.clone())
}

fn by_bilinear(scene: &Scene) -> Cut {
    let (map, side) = square_map(scene);
    let alpha = refine::bilinear(&map, side, side, scene.width, scene.height, false);
    estimated(scene, alpha.iter().map(|a| (a * 255.0) as u8).collect())
}

fn by_guided(scene: &Scene) -> Cut {
    let (map, side) = square_map(scene);
    estimated(scene, refine::guided(&map, side, side, false, &base(scene)))
}

fn estimated(scene: &Scene, alpha: Vec<u8>) -> Cut {
    let rgb = foreground::estimate(&base(scene), &alpha);
    Cut { alpha, rgb, confidence: 1.0 }
}

/// The true matte as a perfect model would give it: averaged into a square map of a quarter of the longer side, which
/// is what 384 is to a picture of 1536. Values 0..=1 and the map's side.
fn square_map(scene: &Scene) -> (Vec<f32>, usize) {
    let (width, height) = (scene.width as usize, scene.height as usize);
    let side = (width.max(height) / 4).max(1);
    // The share of each pixel that lies in a cell, along one axis.
    let overlap = |cell: usize, length: usize| {
        let (from, to) = ((cell * length) as f64 / side as f64, ((cell + 1) * length) as f64 / side as f64);
        let last = (to.ceil() as usize).min(length);
        (from as usize..last).map(move |i| (i, (to.min(i as f64 + 1.0) - from.max(i as f64)).max(0.0)))
    };
    let mut map = Vec::with_capacity(side * side);
    for y in 0..side {
        for x in 0..side {
            let (mut sum, mut area) = (0.0, 0.0);
            for (j, tall) in overlap(y, height) {
                for (i, wide) in overlap(x, width) {
                    sum += tall * wide * f64::from(scene.alpha[j * width + i]);
                    area += tall * wide;
                }
            }
            map.push((sum / area / 255.0) as f32);
        }
    }
    (map, side)
}

/// A scene's verdict.
pub struct Judged {
    pub name: &'static str,
    pub stratum: &'static str,
    pub plain: bool,
    pub confidence: f64,
    /// Whether the confidence reaches the method's bound.
    pub used: bool,
    /// Whether the cut is wrong: its error is above [`BAD_MAE`], or there was nothing to cut out and the method could
    /// have said so.
    pub bad: bool,
    pub figures: Figures,
    pub cut: Cut,
}

/// Judges a method on every scene. Where a shadow makes two answers right, the nearer one counts.
pub fn judge(method: &Method, scenes: &[Scene]) -> Vec<Judged> {
    scenes
        .par_iter()
        .map(|scene| {
            let cut = (method.cut)(scene);
            let against = |alpha: &[u8], rgb: &[u8]| {
                let got = CutOut { alpha: &cut.alpha, rgb: &cut.rgb };
                Figures::new(CutOut { alpha, rgb }, got, scene.width as usize)
            };
            let mut figures = against(&scene.alpha, &scene.foreground);
            if let Some(alone) = &scene.without_shadow {
                let other = against(&alone.alpha, &alone.foreground);
                if other.mae < figures.mae {
                    figures = other;
                }
            }
            Judged {
                name: scene.name,
                stratum: scene.stratum,
                plain: scene.plain,
                confidence: cut.confidence,
                used: cut.confidence >= method.confident,
                bad: figures.mae > BAD_MAE || (scene.stratum == "no subject" && method.confident > 0.0),
                figures,
                cut,
            }
        })
        .collect()
}

/// How well a method's confidence tells its good cuts from its bad ones.
pub fn auc(judged: &[Judged]) -> Option<f64> {
    confidence_auc(&judged.iter().map(|j| (j.confidence, j.bad)).collect::<Vec<_>>())
}

/// A figure of the tables: its key in the baseline, its heading, its scale in print, whether more is better.
pub struct Column {
    pub key: &'static str,
    pub heading: &'static str,
    pub scale: f64,
    pub more_is_better: bool,
    pub of: fn(&Figures) -> Option<f64>,
}

const fn column(
    key: &'static str,
    heading: &'static str,
    scale: f64,
    more_is_better: bool,
    of: fn(&Figures) -> Option<f64>,
) -> Column {
    Column { key, heading, scale, more_is_better, of }
}

pub const COLUMNS: &[Column] = &[
    column("sad", "SAD", 1.0, false, |f| Some(f.sad)),
    column("mse", "MSE·10³", 1e3, false, |f| Some(f.mse)),
    column("mae", "MAE·10³", 1e3, false, |f| Some(f.mae)),
    column("gradient", "gradient", 1.0, false, |f| Some(f.gradient)),
    column("boundary_iou", "boundary IoU", 1.0, true, |f| Some(f.boundary_iou)),
    column("recomposition_boundary", "ΔE edge", 1.0, false, |f| f.recomposition.boundary),
    column("recomposition", "ΔE all", 1.0, false, |f| Some(f.recomposition.overall)),
    column("structure", "S", 1.0, true, |f| Some(f.structure)),
    column("max_f", "max F", 1.0, true, |f| Some(f.max_f)),
];

/// Mean and worst of a column over some cuts; `None` where no cut has the figure.
pub fn mean_and_worst<'a>(column: &Column, judged: impl Iterator<Item = &'a Judged>) -> Option<(f64, f64)> {
    let values: Vec<f64> = judged.filter_map(|j| (column.of)(&j.figures)).collect();
    let worse = |a: f64, b: f64| if column.more_is_better { a.min(b) } else { a.max(b) };
    let worst = values.iter().copied().reduce(worse)?;
    Some((values.iter().sum::<f64>() / values.len() as f64, worst))
}

/// The table of a method as Markdown: means by stratum over the cuts that are used, or over all.
pub fn table(judged: &[Judged], used_only: bool) -> String {
    let mut out = String::from("| stratum | cuts |");
    COLUMNS.iter().for_each(|c| out += &format!(" {} |", c.heading));
    out += &format!("\n|---|---|{}\n", "---|".repeat(COLUMNS.len()));
    for stratum in STRATA {
        let all: Vec<&Judged> = judged.iter().filter(|j| j.stratum == stratum).collect();
        let shown: Vec<&Judged> = all.iter().copied().filter(|j| j.used || !used_only).collect();
        out += &format!("| {stratum} | {} of {} |", all.iter().filter(|j| j.used).count(), all.len());
        for column in COLUMNS {
            match mean_and_worst(column, shown.iter().copied()) {
                Some((mean, _)) => out += &format!(" {} |", digits(mean * column.scale)),
                None => out += " – |",
            }
        }
        out.push('\n');
    }
    out
}

/// Three significant digits or so.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Figures by stratum, as they are committed: `used`, the number of cuts in use, and the means over all cuts.
pub type Strata = BTreeMap<String, BTreeMap<String, f64>>;

/// What a baseline holds of a method.
pub fn strata(judged: &[Judged]) -> Strata {
    let mut out = Strata::new();
    for stratum in STRATA {
        let here = || judged.iter().filter(|j| j.stratum == stratum);
        let mut figures = BTreeMap::from([("used".to_owned(), here().filter(|j| j.used).count() as f64)]);
        for column in COLUMNS {
            if let Some((mean, _)) = mean_and_worst(column, here()) {
                // Six digits: what a file is read for, and no more than platforms agree on.
                figures.insert(column.key.to_owned(), (mean * 1e6).round() / 1e6);
            }
        }
        out.insert(stratum.to_owned(), figures);
    }
    out
}
