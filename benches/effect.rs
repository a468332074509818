//! The effects on one thread, with their defaults and in variants, with and without brand colours, raster to raster.
//! Throughput is in pixels.

use std::time::Duration;

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::effect::{
    self, ColorEffect, DitherAlgorithm, DitherEffect, Effect, EnhancedBw, PopArt, PopArtStyle,
};
use concept_worker::kernel::image::{BaseImage, Raster, pack_rgba};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

use pictures::Size;

fn raster(image: &BaseImage) -> Raster {
    let colors = image.rgb().as_chunks::<3>().0;
    let alpha = |i: usize| image.alpha().map_or(255, |alpha| alpha[i]);
    let pixels = colors.iter().enumerate().map(|(i, &[r, g, b])| pack_rgba(r, g, b, alpha(i))).collect();
    Raster::new(image.width(), image.height(), pixels).expect("a decoded picture has the pixels it says it has")
}

fn effects() -> Vec<(&'static str, Effect)> {
    let pop_art = |style| Effect::PopArt(PopArt { style, ..PopArt::default() });
    let dither = |algorithm, scale| Effect::Dither(DitherEffect { algorithm, scale, ..DitherEffect::default() });
    vec![
        ("enhanced-bw", Effect::EnhancedBw(EnhancedBw::default())),
        ("enhanced-bw/grain", Effect::EnhancedBw(EnhancedBw { grain: 0.4, ..EnhancedBw::default() })),
        ("pop-art", Effect::PopArt(PopArt::default())),
        ("pop-art/warhol", pop_art(PopArtStyle::Warhol)),
        ("pop-art/halftone", pop_art(PopArtStyle::Halftone)),
        ("dither", Effect::Dither(DitherEffect::default())),
        ("dither/floyd-steinberg-1", dither(DitherAlgorithm::FloydSteinberg, Some(1))),
        ("dither/atkinson-1", dither(DitherAlgorithm::Atkinson, Some(1))),
        ("dither/bayer-1", dither(DitherAlgorithm::Bayer, Some(1))),
        ("dither/blue-noise-1", dither(DitherAlgorithm::BlueNoise, Some(1))),
        ("color", Effect::Color(ColorEffect::default())),
    ]
}

fn all(criterion: &mut Criterion) {
    pictures::on_one_thread();
    let palette = pictures::palettes(1).remove(0);
    let brand: Vec<Rgb8> = palette.colors().to_vec();
    for (name, source) in
        [("photo", pictures::photo_jpeg(Size::MEDIUM)), ("flat-art", pictures::flat_art_png(Size::MEDIUM))]
    {
        let picture = raster(&pictures::decoded(&source));
        let mut group = criterion.benchmark_group(format!("effect/{name}/{}", Size::MEDIUM.name));
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        group.throughput(Throughput::Elements(Size::MEDIUM.pixels()));
        for (name, effect) in effects() {
            group.bench_function(name, |b| b.iter(|| effect::apply(&effect, &picture, None)));
            group
                .bench_function(format!("{name}/brand"), |b| b.iter(|| effect::apply(&effect, &picture, Some(&brand))));
        }
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
