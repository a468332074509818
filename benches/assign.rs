//! Assigning clusters to palette colours, once per palette, on one thread.

use std::time::Duration;

use concept_worker::kernel::assign;
use concept_worker::kernel::model::ColorModel;
use concept_worker::kernel::palette::Palette;
use criterion::{Criterion, criterion_group, criterion_main};

mod pictures;

use pictures::Size;

fn assignment(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("assign");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    pictures::on_one_thread();
    let five = pictures::palettes(1).remove(0);
    let ten = Palette::new("ten", pictures::palettes(3)[1..].iter().flat_map(|p| p.colors().iter().copied()))
        .expect("ten colours");
    for (name, source) in
        [("photo", pictures::photo_jpeg(Size::MEDIUM)), ("flat-art", pictures::flat_art_png(Size::MEDIUM))]
    {
        let base = pictures::base(&source);
        for palette in [&five, &ten] {
            let colors = palette.colors().len();
            let model = ColorModel::new(
                &base.full.image,
                &base.full.labs,
                &base.seeding,
                &base.neighbors,
                colors,
                pictures::run_options().kmeans_max_iterations,
            );
            group.bench_function(format!("{name}/{colors}-colors/{}-clusters", model.clusters().len()), |b| {
                b.iter(|| assign::assign(&model, palette));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, assignment);
criterion_main!(benches);
