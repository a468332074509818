//! Recolouring in each mode on one thread: the table of a palette, and the table with one look-up a pixel behind it.
//! Throughput is in pixels of the picture.

use std::time::Duration;

use concept_worker::kernel::assign;
use concept_worker::kernel::dither::{DitherKind, Dithered};
use concept_worker::kernel::gather::Recolored;
use concept_worker::kernel::palette::Palette;
use concept_worker::kernel::recolor::SoftMap;
use concept_worker::kernel::tint::TintMap;
use concept_worker::pipeline::base::{Base, Models, SoftModel};
use concept_worker::pipeline::job::Mode;
use concept_worker::pipeline::recoloring::Recoloring;
use concept_worker::pipeline::timing::Timings;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

use pictures::Size;

/// One mode, from the table to the last row.
fn mode(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, base: &Base, table: &dyn Fn() -> Vec<u32>) {
    group.bench_function(format!("{name}/table"), |b| b.iter(table));
    group.bench_function(format!("{name}/table-and-gather"), |b| {
        b.iter(|| pictures::drain(&mut Recolored::new(&base.full.image, &table())));
    });
}

fn with_hidden(mut table: Vec<u32>) -> Vec<u32> {
    table.push(0);
    table
}

fn soft_map(soft: &SoftModel<'_>, palette: &Palette) -> SoftMap {
    let assignment = assign::assign(&soft.model, palette);
    SoftMap::new(&soft.model, &assignment.targets, assignment.shape, 1.0, assignment.anchors)
}

fn all(group: &mut BenchmarkGroup<'_, WallTime>, base: &Base, palette: &Palette) {
    let iterations = pictures::run_options().kmeans_max_iterations;
    let models = |mode| Models::new(base, None, mode, std::iter::once(palette), iterations);

    let soft = SoftModel::new(base, None, palette.colors().len(), iterations);
    let map = soft_map(&soft, palette);
    mode(group, "soft", base, &|| map.table(&soft.full));
    if let Models::Transfer(models) = models(Mode::Transfer)
        && let Some((model, _)) = models.values().next()
    {
        mode(group, "transfer", base, &|| with_hidden(model.table(palette, 1.0)));
    }
    if let Models::Faithful(models) = models(Mode::Faithful)
        && let Some((model, _)) = models.values().next()
    {
        mode(group, "faithful", base, &|| with_hidden(model.table(palette, 1.0)));
    }
    let tint = TintMap::new(palette, base.lightness, 1.0);
    mode(group, "tint", base, &|| tint.table(&base.full.labs, base.full.image.colors()));

    let table = map.table(&soft.full);
    for (name, kind) in [
        ("exact/floyd-steinberg", DitherKind::FloydSteinberg),
        ("exact/blue-noise", DitherKind::BlueNoise),
        ("exact/nearest", DitherKind::None),
    ] {
        group.bench_function(format!("{name}/gather-and-dither"), |b| {
            b.iter(|| {
                let mut rows = Recolored::new(&base.full.image, &table);
                pictures::drain(&mut Dithered::new(&mut rows, palette.colors(), kind, true))
            });
        });
    }

    // All that a palette costs before its files: assignment, tables, mapping and the manifest's figures.
    for (name, mode) in [
        ("soft", Mode::Soft),
        ("transfer", Mode::Transfer),
        ("faithful", Mode::Faithful),
        ("exact", Mode::Exact),
        ("tint", Mode::Tint),
    ] {
        let models = models(mode);
        let request = pictures::recolor(mode);
        let timings = Timings::default();
        group.bench_function(format!("{name}/assignment-table-metrics"), |b| {
            b.iter(|| Recoloring::new(base, None, &models, palette, &request, &timings));
        });
    }
}

fn modes(criterion: &mut Criterion) {
    pictures::on_one_thread();
    let palette = pictures::palettes(1).remove(0);
    for (name, source) in
        [("photo", pictures::photo_jpeg(Size::MEDIUM)), ("flat-art", pictures::flat_art_png(Size::MEDIUM))]
    {
        let mut group = criterion.benchmark_group(format!("recolor/{name}/{}", Size::MEDIUM.name));
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        group.throughput(Throughput::Elements(Size::MEDIUM.pixels()));
        all(&mut group, &pictures::base(&source), &palette);
        group.finish();
    }
}

criterion_group!(benches, modes);
criterion_main!(benches);
