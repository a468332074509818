//! Any tiny picture under any palette in any mode: a table for every colour, rows that encode, alpha as it was, and in
//! mode `exact` nothing but palette colours.
#![no_main]

use std::sync::LazyLock;

use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::dither::Dithered;
use concept_worker::kernel::gather::Recolored;
use concept_worker::kernel::image::{Raster, Rows};
use concept_worker::kernel::palette::Palette;
use concept_worker::pipeline::base::{Base, Inputs, Models, PREVIEW_SIDE};
use concept_worker::pipeline::decode::{Limits, decode};
use concept_worker::pipeline::encode::{EncodeOptions, encode};
use concept_worker::pipeline::event::Watch;
use concept_worker::pipeline::job::{Dither, Format, Mode, RecolorRequest};
use concept_worker::pipeline::recoloring::Recoloring;
use concept_worker::pipeline::run::RunOptions;
use concept_worker::pipeline::timing::Timings;
use libfuzzer_sys::fuzz_target;

static OPTIONS: LazyLock<RunOptions> = LazyLock::new(|| RunOptions {
    max_pixels: 1 << 12,
    kmeans_max_iterations: 20,
    clustering_sample_size: 0,
    max_palettes: 4,
    max_outputs: 4,
    ..RunOptions::default()
});

/// Takes bytes from the front; zeros when there are none left.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn color(&mut self) -> Rgb8 {
        Rgb8::new(self.next(), self.next(), self.next())
    }
}

fn palette(bytes: &mut Bytes<'_>) -> Palette {
    let count = usize::from(bytes.next() % 12) + 1;
    let flags = bytes.next();
    let colors: Vec<Rgb8> = (0..count).map(|_| bytes.color()).collect();
    let mut palette = Palette::new("fuzz", colors.iter().copied()).expect("one to twelve colours");
    if flags & 1 != 0 {
        palette = palette.with_pins([(bytes.color(), colors[0])]).expect("a colour of its own");
    }
    if flags & 2 != 0 {
        palette = palette.protecting([bytes.color()]);
    }
    if flags & 4 != 0 {
        let roles = concept_worker::kernel::palette::Role::ALL.into_iter().zip(colors);
        palette = palette.with_roles(roles).expect("colours of its own");
    }
    palette
}

fn request(bytes: &mut Bytes<'_>) -> RecolorRequest {
    let modes = [Mode::Soft, Mode::Transfer, Mode::Faithful, Mode::Exact, Mode::Tint];
    let dithers = [Dither::FloydSteinberg, Dither::BlueNoise, Dither::None];
    RecolorRequest {
        mode: modes[usize::from(bytes.next()) % modes.len()],
        dither: dithers[usize::from(bytes.next()) % dithers.len()],
        strength: f32::from(bytes.next().saturating_mul(2)) / 255.0,
    }
}

fn picture(bytes: &mut Bytes<'_>) -> Raster {
    let (width, height) = (u32::from(bytes.next() % 48) + 1, u32::from(bytes.next() % 48) + 1);
    let alpha = match bytes.next() % 3 {
        0 => |_| 255,
        1 => |v: u8| if v & 1 == 0 { 0 } else { 255 },
        _ => |v: u8| v,
    };
    let pixels = (0..width * height).map(|_| {
        let color = bytes.color();
        color.packed() & 0x00ff_ffff | u32::from(alpha(color.r ^ color.g ^ color.b)) << 24
    });
    Raster::new(width, height, pixels.collect()).expect("a picture of its size")
}

fn encoded(rows: &mut dyn Rows, format: Format) -> Vec<u8> {
    let options = EncodeOptions { lossless: true, ..EncodeOptions::new(format) };
    let mut out = Vec::new();
    encode(rows, &options, &mut out).expect("tiny pictures fit every format");
    out
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let (request, palette, mut raster) = (request(&mut bytes), palette(&mut bytes), picture(&mut bytes));
    let alphas: Vec<u8> = raster.pixels().iter().map(|p| (p >> 24) as u8).collect();
    let source = encoded(&mut raster, Format::Png);
    let base = Base::new(Inputs { picture: &source, fill: None }, &Default::default(), &OPTIONS, true, &Watch::silent(&Timings::default())).expect("our own PNG");
    let preview = base.preview(PREVIEW_SIDE);
    let models = Models::new(&base, preview.as_ref(), request.mode, std::iter::once(&palette), OPTIONS.kmeans_max_iterations);
    let made = Recoloring::new(&base, preview.as_ref(), &models, &palette, &request, &Timings::default());
    assert_eq!(made.table.len(), base.full.image.colors().len() + 1);
    assert_eq!(made.table.last(), Some(&0));
    assert!(made.table[..made.table.len() - 1].iter().all(|p| p >> 24 == 255));
    assert!(made.metrics.values().all(|v| v.is_finite()), "{:?}", made.metrics);
    let share: f64 = made.mapping.iter().map(|entry| entry.share).sum();
    assert!(made.mapping.is_empty() || (share - 1.0).abs() < 0.01, "{share}");
    for format in [Format::Png, Format::Webp, Format::Jpeg] {
        let mut rows = Recolored::new(&base.full.image, &made.table);
        let file = match made.dither {
            Some(kind) => {
                encoded(&mut Dithered::new(&mut rows, palette.colors(), kind, base.hard_alpha), format)
            }
            None => encoded(&mut rows, format),
        };
        let seen = decode(&file, &Limits::default()).expect("what was written can be read");
        if format == Format::Jpeg {
            continue;
        }
        match seen.alpha() {
            Some(alpha) => assert_eq!(alpha, alphas),
            None => assert!(alphas.iter().all(|&a| a == 255)),
        }
        if request.mode == Mode::Exact {
            for (rgb, &a) in seen.rgb().chunks_exact(3).zip(&alphas) {
                let color = Rgb8::new(rgb[0], rgb[1], rgb[2]);
                assert!(a == 0 || palette.colors().contains(&color), "{color}");
            }
        }
    }
});
