//! The codec floor: one decoding and as many encodings as there are palettes, by the engine's codecs and from rasters
//! that are already there. What `pipeline` takes beyond this is the engine's own.

use std::time::Duration;

use concept_worker::kernel::gather::Recolored;
use concept_worker::kernel::image::Raster;
use concept_worker::pipeline::base::Models;
use concept_worker::pipeline::job::Mode;
use concept_worker::pipeline::recoloring::Recoloring;
use concept_worker::pipeline::timing::Timings;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod codecs;
mod pictures;

use codecs::Rgb;
use pictures::Size;

/// What the engine encodes for each palette.
fn variations(source: &[u8], count: usize) -> Vec<Rgb> {
    let base = pictures::base(source);
    let palettes = pictures::palettes(count);
    let models = Models::new(&base, None, Mode::Soft, palettes.iter(), pictures::run_options().kmeans_max_iterations);
    let image = &base.full.image;
    let timings = Timings::default();
    let rgb = |palette| {
        let made = Recoloring::new(&base, None, &models, palette, &pictures::recolor(Mode::Soft), &timings);
        let raster = Raster::read(&mut Recolored::new(image, &made.table));
        let samples = raster.pixels().iter().flat_map(|p| p.to_le_bytes().into_iter().take(3)).collect();
        Rgb { width: image.width(), height: image.height(), samples }
    };
    palettes.iter().map(rgb).collect()
}

fn codec_floor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("floor");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    for size in pictures::sizes("floor") {
        let source = pictures::photo_jpeg(size);
        // Sixteen rasters of 50 megapixels would take 2.4 GB.
        let counts: &[usize] = if size == Size::LARGE { &[1] } else { &[1, 7, 16] };
        let pictures = variations(&source, counts[counts.len() - 1]);
        for &count in counts {
            group.throughput(Throughput::Elements(size.pixels() * count as u64));
            for (name, halved) in [("jpeg-420", true), ("jpeg-444", false)] {
                group.bench_function(format!("{name}/{}/{count}-palettes", size.name), |b| {
                    b.iter(|| {
                        let decoded = codecs::decode_jpeg(&source);
                        let encoded = pictures[..count].iter().map(|p| codecs::encode_jpeg(p, halved));
                        decoded.samples.len() + encoded.sum::<usize>()
                    });
                });
            }
            group.bench_function(format!("png-up/{}/{count}-palettes", size.name), |b| {
                b.iter(|| {
                    let decoded = codecs::decode_jpeg(&source);
                    let encoded = pictures[..count].iter().map(|p| codecs::encode_png(p, png::Filter::Up));
                    decoded.samples.len() + encoded.sum::<usize>()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, codec_floor);
criterion_main!(benches);
