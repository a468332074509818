//! The predecessor's own steps through OpenCV, on a small picture and one thread: its k-means sees every pixel ten times
//! over, so 2048 × 2048 takes half a minute a palette. That figure is taken once, by the ratios program.

use std::time::Duration;

use concept_worker::baseline;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;

fn predecessor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("predecessor/{WIDTH}x{HEIGHT}"));
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(u64::from(WIDTH) * u64::from(HEIGHT)));
    baseline::threads(1).expect("OpenCV takes the thread count");

    let mut bgr = pictures::generator::photo(WIDTH, HEIGHT).rgb;
    bgr.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    let palette = pictures::palettes(1).remove(0);
    let colors = palette.colors();
    group.bench_function("transfer", |b| {
        b.iter(|| {
            baseline::seed(1).expect("OpenCV takes a seed");
            baseline::transfer(&bgr, width, height, colors, baseline::ATTEMPTS).expect("OpenCV recolours")
        });
    });
    group.bench_function("faithful", |b| {
        b.iter(|| {
            baseline::seed(1).expect("OpenCV takes a seed");
            baseline::faithful(&bgr, width, height, colors, baseline::ATTEMPTS).expect("OpenCV recolours")
        });
    });
    let clusters = baseline::cluster_bgr(&bgr, colors.len(), 1).expect("OpenCV clusters");
    group.bench_function("transfer-without-clustering", |b| {
        b.iter(|| baseline::transfer_with(&bgr, width, height, colors, &clusters).expect("OpenCV recolours"));
    });
    group.finish();
}

criterion_group!(benches, predecessor);
criterion_main!(benches);
