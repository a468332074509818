//! What decoding costs, beside the same decoders alone: the difference is the checks, the profile and the planes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod codecs;
mod pictures;

use pictures::{Size, generator};

fn decoders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    pictures::on_one_thread();
    for size in pictures::sizes("decode") {
        group.throughput(Throughput::Elements(size.pixels()));
        let photo = generator::photo(size.width, size.height);
        let jpeg = generator::jpeg(&photo, pictures::SOURCE_QUALITY);
        group.bench_function(format!("jpeg-photo/{}", size.name), |b| b.iter(|| pictures::decoded(black_box(&jpeg))));
        group.bench_function(format!("jpeg-photo/{}/floor", size.name), |b| {
            b.iter(|| codecs::decode_jpeg(black_box(&jpeg)));
        });
        if size == Size::LARGE {
            continue;
        }
        for (name, png) in [("png-photo", generator::png(&photo)), ("png-flat-art", pictures::flat_art_png(size))] {
            group.bench_function(format!("{name}/{}", size.name), |b| {
                b.iter(|| pictures::decoded(black_box(&png)));
            });
            group.bench_function(format!("{name}/{}/floor", size.name), |b| {
                b.iter(|| codecs::decode_png(black_box(&png)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decoders);
criterion_main!(benches);
