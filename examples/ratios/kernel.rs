//! Figures taken inside this process, on one thread.

use std::hint::black_box;

use anyhow::Result;
use concept_worker::kernel::assign;
use concept_worker::kernel::cluster::{self, MAX_CLUSTERS, Seeding};
use concept_worker::kernel::gather::Recolored;
use concept_worker::kernel::model::{ColorModel, LabPlanes};
use concept_worker::kernel::quality::gain::{NeighborPairs, PAIRS_FOR_MANIFEST};
use concept_worker::kernel::recolor::{ColorSet, SoftMap};
use concept_worker::kernel::unique::IndexedImage;
use concept_worker::pipeline::base::SoftModel;

use crate::median;
use crate::pictures::{self, Size};
use crate::process::cpu_of;
use crate::table::{Row, Verdict};

/// Times are short, so each turn of the program is a few here, after a first that does not count.
const ROUNDS_A_TURN: u32 = 5;

fn rounds(repeats: u32) -> u32 {
    repeats.saturating_mul(ROUNDS_A_TURN) + 1
}

/// Megapixels a second of table and look-up together.
pub fn recoloring(source: &[u8], repeats: u32) -> Result<Row> {
    const TARGET: f64 = 400.0;
    pictures::pool(1).install(|| {
        let base = pictures::base(source);
        let palettes = pictures::palettes(7);
        let soft = SoftModel::new(&base, None, 5, pictures::run_options().kmeans_max_iterations);
        let maps: Vec<SoftMap> = palettes
            .iter()
            .map(|palette| {
                let assignment = assign::assign(&soft.model, palette);
                SoftMap::new(&soft.model, &assignment.targets, assignment.shape, 1.0, assignment.anchors)
            })
            .collect();
        let (mut tables, mut gathers) = (Vec::new(), Vec::new());
        for _ in 0..rounds(repeats) {
            for map in &maps {
                let (seconds, table) = cpu_of(|| map.table(&soft.full))?;
                tables.push(seconds);
                let (seconds, _) = cpu_of(|| pictures::drain(&mut Recolored::new(&base.full.image, &table)))?;
                gathers.push(seconds);
            }
        }
        let first = maps.len();
        let both = median(tables[first..].iter().zip(&gathers[first..]).map(|(t, g)| t + g));
        let rate = Size::MEDIUM.pixels() as f64 / both / 1e6;
        Ok(Row {
            figure: 'd',
            name: "Recolouring alone: table and look-up".into(),
            measured: format!("{rate:.0} MP/s"),
            target: format!("≥ {TARGET} MP/s"),
            verdict: Verdict::of(rate >= TARGET),
            how: format!(
                "table {:.1} ms for {} colours and {} clusters, look-up {:.1} ms of CPU time",
                median(tables[first..].iter().copied()) * 1e3,
                base.full.image.colors().len(),
                soft.model.clusters().len(),
                median(gathers[first..].iter().copied()) * 1e3
            ),
        })
    })
}

/// Milliseconds of unique colours, clusters and weights.
pub fn color_model(source: &[u8], repeats: u32) -> Result<Row> {
    const TARGET: f64 = 25.0;
    let options = pictures::run_options();
    let image = pictures::decoded(source);
    // Index, coordinates, neighbours, clusters, weights.
    let mut times: [Vec<f64>; 5] = Default::default();
    let iterations = options.kmeans_max_iterations;
    pictures::pool(1).install(|| -> Result<()> {
        for _ in 0..rounds(repeats) {
            let image = image.clone();
            let (index, (image, bits)) = cpu_of(|| IndexedImage::with_bits(image, options.clustering_sample_size))?;
            let (lab, labs) = cpu_of(|| LabPlanes::new(image.colors()))?;
            let (pairs, neighbors) = cpu_of(|| NeighborPairs::among(&bits, image.colors(), PAIRS_FOR_MANIFEST))?;
            let (clusters, model) = cpu_of(|| {
                let points = cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts());
                let seeding = Seeding::new(points, MAX_CLUSTERS);
                ColorModel::new(&image, &labs, &seeding, &neighbors, 5, iterations)
            })?;
            let (weights, set) = cpu_of(|| ColorSet::new(&model, image.colors(), &labs))?;
            black_box(set);
            for (times, seconds) in times.iter_mut().zip([index, lab, pairs, clusters, weights]) {
                times.push(seconds * 1e3);
            }
        }
        Ok(())
    })?;
    let sum = |i: usize| times.iter().map(|stage| stage[i]).sum::<f64>();
    let all = median((1..times[0].len()).map(sum));
    let [index, lab, neighbors, clusters, weights] = times.map(|stage| median(stage[1..].iter().copied()));
    Ok(Row {
        figure: 'e',
        name: "Colour model: unique colours, clusters, weights".into(),
        measured: format!("{all:.1} ms"),
        target: format!("≤ {TARGET} ms"),
        verdict: Verdict::of(all <= TARGET),
        how: format!(
            "unique colours and index {index:.1}, Lab {lab:.1}, neighbouring colours {neighbors:.1}, clusters and probes \
             {clusters:.1}, weights {weights:.1} ms of CPU time"
        ),
    })
}

/// One palette through the predecessor's mode `transfer`, on one thread and without decoding or encoding.
#[cfg(feature = "opencv")]
pub fn predecessor(source: &[u8]) -> Result<crate::process::Usage> {
    use concept_worker::baseline;
    eprintln!("the predecessor, which takes half a minute");
    let (width, height, mut bgr, _) = pictures::decoded(source).into_planes();
    bgr.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
    baseline::threads(1)?;
    baseline::seed(1)?;
    let palette = pictures::palettes(1).remove(0);
    let (width, height) = (width as usize, height as usize);
    let start = std::time::Instant::now();
    let (cpu, made) = cpu_of(|| baseline::transfer(&bgr, width, height, palette.colors(), baseline::ATTEMPTS))?;
    black_box(made?);
    Ok(crate::process::Usage { wall: start.elapsed().as_secs_f64(), cpu })
}
