//! What encoding costs, beside the same encoder fed from a raster that is already there (the codec floor).

use std::hint::black_box;

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::image::{Raster, Rows, pack_rgba};
use concept_worker::pipeline::encode::{EncodeOptions, choose_chroma, encode};
use concept_worker::pipeline::job::{Chroma, Effort, Format};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};

const SIDE: u32 = 2048;

/// Waves of several scales and a little grain.
fn photograph() -> Vec<u32> {
    let mut state = 1u32;
    let mut grain = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % 7) as f32 - 3.0
    };
    let pixels = (0..SIDE * SIDE).map(|i| {
        let (x, y) = ((i % SIDE) as f32 / SIDE as f32, (i / SIDE) as f32 / SIDE as f32);
        let wave = (x * 9.0).sin() * (y * 7.0).cos() * 50.0
            + (x * 63.0 + y * 31.0).sin() * 14.0
            + (x * 253.0).sin() * (y * 311.0).cos() * 9.0;
        let grain = grain();
        let channel = |value: f32| (value + grain).clamp(0.0, 255.0) as u8;
        pack_rgba(
            channel(120.0 + wave + x * 60.0),
            channel(110.0 + wave * 0.8 + y * 50.0),
            channel(90.0 + wave * 0.6 - x * 30.0),
            255,
        )
    });
    pixels.collect()
}

/// Five flat colours: discs, tiles and thin slanted strokes.
fn flat_art() -> Vec<u32> {
    let colors = [[255, 255, 255], [230, 57, 70], [29, 53, 87], [244, 162, 97], [42, 157, 143]];
    let centre = f64::from(SIDE) / 2.0;
    let pixels = (0..SIDE * SIDE).map(|i| {
        let (x, y) = (i % SIDE, i / SIDE);
        let radius = (f64::from(x) - centre).hypot(f64::from(y) - centre) as u32;
        let [r, g, b] = colors[match () {
            () if radius < SIDE / 5 => 1,
            () if radius < SIDE / 3 => 2,
            () if (x / 97 + y / 61) % 7 == 0 => 3,
            () if (x + 2 * y) % 211 < 9 => 4,
            () => 0,
        }];
        pack_rgba(r, g, b, 255)
    });
    pixels.collect()
}

/// Rows of a borrowed raster, so that a run starts without a copy of the picture.
struct Borrowed<'a>(std::slice::ChunksExact<'a, u32>);

impl Rows for Borrowed<'_> {
    fn width(&self) -> u32 {
        SIDE
    }
    fn height(&self) -> u32 {
        SIDE
    }
    fn has_alpha(&self) -> bool {
        false
    }
    fn next_row(&mut self, row: &mut [u32]) {
        if let Some(next) = self.0.next() {
            row.copy_from_slice(next);
        }
    }
}

fn ours(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, pixels: &[u32], options: EncodeOptions) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let mut out = Vec::new();
            encode(&mut Borrowed(pixels.chunks_exact(SIDE as usize)), &options, &mut out).expect("encodes");
            black_box(out.len())
        });
    });
}

fn floor(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut encode: impl FnMut(&mut Vec<u8>)) {
    group.bench_function(format!("floor/{name}"), |bencher| {
        bencher.iter(|| {
            let mut out = Vec::new();
            encode(&mut out);
            black_box(out.len())
        });
    });
}

fn png_floor(out: &mut Vec<u8>, rgb: &[u8], filter: png::Filter) {
    let mut encoder = png::Encoder::new(out, SIDE, SIDE);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_deflate_compression(png::DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(filter);
    encoder.write_header().expect("writes").write_image_data(rgb).expect("encodes");
}

fn jpeg_floor(out: &mut Vec<u8>, rgb: &[u8], sampling: jpeg_encoder::SamplingFactor) {
    let mut encoder = jpeg_encoder::Encoder::new(out, 85);
    encoder.set_sampling_factor(sampling);
    encoder.set_chroma_subsampling_method(jpeg_encoder::ChromaSubsamplingMethod::Average);
    encoder.encode(rgb, SIDE as u16, SIDE as u16, jpeg_encoder::ColorType::Rgb).expect("encodes");
}

#[cfg(feature = "turbojpeg")]
fn turbo_floor(out: &mut Vec<u8>, rgb: &[u8], subsampling: turbojpeg::Subsamp) {
    let mut compressor = turbojpeg::Compressor::new().expect("starts");
    compressor.set_quality(85).expect("sets");
    compressor.set_subsamp(subsampling).expect("sets");
    let side = SIDE as usize;
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: rgb, width: side, pitch: 3 * side, height: side, format };
    out.extend_from_slice(&compressor.compress_to_owned(image).expect("encodes"));
}

fn encoders(criterion: &mut Criterion) {
    for (name, pixels) in [("photograph", photograph()), ("flat-art", flat_art())] {
        let rgb: Vec<u8> = pixels.iter().flat_map(|p| p.to_le_bytes().into_iter().take(3)).collect();
        let mut group = criterion.benchmark_group(format!("encode/{name}"));
        group.sample_size(10);

        let jpeg = |chroma| EncodeOptions { chroma, ..EncodeOptions::new(Format::Jpeg) };
        ours(&mut group, "png-fast", &pixels, EncodeOptions::new(Format::Png));
        floor(&mut group, "png-fast-adaptive", |out| png_floor(out, &rgb, png::Filter::Adaptive));
        floor(&mut group, "png-fast-up", |out| png_floor(out, &rgb, png::Filter::Up));
        ours(&mut group, "jpeg-420", &pixels, jpeg(Chroma::Half));
        ours(&mut group, "jpeg-444", &pixels, jpeg(Chroma::Full));
        ours(&mut group, "jpeg-progressive", &pixels, EncodeOptions { progressive: true, ..jpeg(Chroma::Half) });
        floor(&mut group, "jpeg-420", |out| jpeg_floor(out, &rgb, jpeg_encoder::SamplingFactor::R_4_2_0));
        floor(&mut group, "jpeg-444", |out| jpeg_floor(out, &rgb, jpeg_encoder::SamplingFactor::R_4_4_4));
        #[cfg(feature = "turbojpeg")]
        {
            floor(&mut group, "turbojpeg-420", |out| turbo_floor(out, &rgb, turbojpeg::Subsamp::Sub2x2));
            floor(&mut group, "turbojpeg-444", |out| turbo_floor(out, &rgb, turbojpeg::Subsamp::None));
        }
        ours(&mut group, "webp-lossy", &pixels, EncodeOptions::new(Format::Webp));
        ours(
            &mut group,
            "webp-lossless",
            &pixels,
            EncodeOptions { lossless: true, ..EncodeOptions::new(Format::Webp) },
        );
        ours(
            &mut group,
            "png-small",
            &pixels,
            EncodeOptions { effort: Effort::Small, ..EncodeOptions::new(Format::Png) },
        );

        let raster = Raster::new(SIDE, SIDE, pixels.clone()).expect("sides match");
        group.bench_function("choose-chroma", |b| b.iter(|| choose_chroma(&raster, Rgb8::new(255, 255, 255))));
        group.finish();
    }
}

criterion_group!(benches, encoders);
criterion_main!(benches);
