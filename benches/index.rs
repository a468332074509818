//! Unique colours and the index image, on one thread.

use std::time::Duration;

use concept_worker::kernel::unique::IndexedImage;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

use pictures::{Size, generator};

fn unique_colors(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    pictures::on_one_thread();
    let sample = pictures::run_options().clustering_sample_size;
    for size in pictures::sizes("index") {
        group.throughput(Throughput::Elements(size.pixels()));
        let noisy = || generator::jpeg(&generator::noisy(size.width, size.height), pictures::SOURCE_QUALITY);
        let mut sources = vec![("photo", pictures::photo_jpeg(size))];
        if size != Size::LARGE {
            sources.extend([("noisy", noisy()), ("flat-art", pictures::flat_art_png(size))]);
        }
        for (name, source) in sources {
            let image = pictures::decoded(&source);
            group.bench_function(format!("{name}/{}", size.name), |b| {
                b.iter_batched(|| image.clone(), |image| IndexedImage::new(image, sample), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, unique_colors);
criterion_main!(benches);
