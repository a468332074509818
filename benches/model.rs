//! The steps of a picture's colour model after its unique colours are known, on one thread.

use std::time::Duration;

use concept_worker::kernel::cluster::{self, ClusterOptions, MAX_CLUSTERS, Seeding};
use concept_worker::kernel::model::{ColorModel, LabPlanes};
use concept_worker::kernel::quality::gain::{NeighborPairs, PAIRS_FOR_MANIFEST};
use concept_worker::kernel::recolor::ColorSet;
use criterion::{Criterion, criterion_group, criterion_main};

mod pictures;

use pictures::Size;

/// The gallery shows this many of the picture's own colours.
const OWN_COLORS: usize = 8;

fn color_model(criterion: &mut Criterion) {
    pictures::on_one_thread();
    let options = pictures::run_options();
    let iterations = options.kmeans_max_iterations;
    for (name, source) in
        [("photo", pictures::photo_jpeg(Size::MEDIUM)), ("flat-art", pictures::flat_art_png(Size::MEDIUM))]
    {
        let mut group = criterion.benchmark_group(format!("model/{name}/{}", Size::MEDIUM.name));
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        let base = pictures::base(&source);
        let (image, labs) = (&base.full.image, &base.full.labs);
        let model = ColorModel::new(image, labs, &base.seeding, &base.neighbors, 5, iterations);
        let points = cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts());
        group.bench_function("lab", |b| b.iter(|| LabPlanes::new(image.colors())));
        group.bench_function("neighbors", |b| {
            b.iter(|| NeighborPairs::new(image.colors(), PAIRS_FOR_MANIFEST));
        });
        group.bench_function("bins", |b| {
            b.iter(|| cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts()));
        });
        group.bench_function("cluster", |b| {
            let options = ClusterOptions { max_iterations: iterations, ..ClusterOptions::default() };
            b.iter(|| Seeding::new(points.clone(), MAX_CLUSTERS).clusters(&options));
        });
        group.bench_function("model", |b| {
            b.iter(|| ColorModel::new(image, labs, &base.seeding, &base.neighbors, 5, iterations));
        });
        group.bench_function("weights", |b| b.iter(|| ColorSet::new(&model, image.colors(), labs)));
        group.bench_function("own-palette", |b| b.iter(|| base.palette(OWN_COLORS, iterations)));
        group.finish();
    }
}

criterion_group!(benches, color_model);
criterion_main!(benches);
