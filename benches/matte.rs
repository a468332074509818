//! Background removal on one thread: classic at three sizes, and everything around a model: the picture into its tensor, its map
//! into a matte, the colours that go with it, the composition. The model itself runs where CONCEPT_ONNXRUNTIME names the
//! library and CONCEPT_BENCH_MODEL an ONNX file with the contract of InSPyReNet.

use std::path::PathBuf;
use std::time::Duration;

use concept_worker::kernel::compose::{Behind, Blurred, Filled};
use concept_worker::kernel::image::{BaseImage, Raster, pack_rgba};
use concept_worker::kernel::matte::classic::{self, ClassicOptions};
use concept_worker::kernel::matte::{foreground, refine};
use concept_worker::pipeline::segment::Segmenter;
use concept_worker::pipeline::segment::contract::Contract;
use concept_worker::pipeline::segment::registry::{ModelEntry, Registry};
use concept_worker::pipeline::segment::runtime::{Library, Provider, RuntimeOptions};
use concept_worker::pipeline::segment::tensor;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

use pictures::generator::scenes::{self, Scene};

/// Longest sides of the scenes, with the names their figures go by.
const SIZES: [(&str, u32); 3] = [("0.3MP", 640), ("4.2MP", 2048), ("12MP", 4096)];

/// The model's own side.
const SIDE: u32 = 384;

fn image(scene: &Scene) -> BaseImage {
    BaseImage::new(scene.width, scene.height, scene.rgb.clone(), None).expect("a scene is a picture")
}

/// A map as a model would give it: the true matte at its size.
fn map(scene: &Scene) -> Vec<f32> {
    let side = SIDE as usize;
    let at = |i: usize| {
        let (x, y) = (i % side * scene.width as usize / side, i / side * scene.height as usize / side);
        f32::from(scene.alpha[y * scene.width as usize + x]) / 255.0
    };
    (0..side * side).map(at).collect()
}

/// The first scene of a stratum.
fn scene(stratum: &str, side: u32) -> Scene {
    let spec = scenes::SPECS.iter().find(|spec| spec.stratum == stratum).expect("the stratum has scenes");
    Scene::new(spec, side)
}

fn classic(c: &mut Criterion) {
    let mut group = c.benchmark_group("matte/classic");
    for (name, side) in SIZES {
        for stratum in ["flat", "gradient", "noise"] {
            let scene = scene(stratum, side);
            let image = image(&scene);
            group.throughput(Throughput::Elements(u64::from(scene.width) * u64::from(scene.height)));
            group.bench_function(format!("{stratum}/{name}"), |b| {
                b.iter(|| classic::cut_out(&image, &ClassicOptions::default()));
            });
        }
    }
    group.finish();
}

fn around_a_model(c: &mut Criterion) {
    let mut group = c.benchmark_group("matte/around");
    let contract = Contract::preset("inspyrenet-fast").expect("it is a preset");
    for (name, side) in &SIZES[..2] {
        let scene = scene("flat", *side);
        let (image, map, size) = (image(&scene), map(&scene), SIDE as usize);
        let alpha = refine::guided(&map, size, size, true, &image);
        let rgb = foreground::estimate(&image, &alpha);
        group.throughput(Throughput::Elements(u64::from(scene.width) * u64::from(scene.height)));
        group
            .bench_function(format!("{name}/prepare"), |b| b.iter(|| tensor::prepare(&image, &contract, (SIDE, SIDE))));
        group.bench_function(format!("{name}/exact"), |b| {
            b.iter(|| refine::bilinear(&map, size, size, scene.width, scene.height, true));
        });
        group.bench_function(format!("{name}/guided"), |b| b.iter(|| refine::guided(&map, size, size, true, &image)));
        group.bench_function(format!("{name}/foreground"), |b| b.iter(|| foreground::estimate(&image, &alpha)));
        let pixels = rgb.chunks_exact(3).zip(&alpha).map(|(c, &a)| pack_rgba(c[0], c[1], c[2], a)).collect();
        let cutout = Raster::new(scene.width, scene.height, pixels).expect("it has the scene's size");
        let blurred = Blurred::new(&image, &alpha);
        group.bench_function(format!("{name}/blur"), |b| b.iter(|| Blurred::new(&image, &alpha)));
        group.bench_function(format!("{name}/compose"), |b| {
            b.iter(|| pictures::drain(&mut Filled::new(&mut cutout.rows(), Behind::Blurred(&blurred))));
        });
    }
    group.finish();
}

fn model(c: &mut Criterion) {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_file());
    let (Some(library), Some(path)) = (named("CONCEPT_ONNXRUNTIME"), named("CONCEPT_BENCH_MODEL")) else {
        eprintln!("matte: the model is skipped; set CONCEPT_ONNXRUNTIME and CONCEPT_BENCH_MODEL to run it");
        return;
    };
    let entry =
        ModelEntry { name: "inspyrenet-fast".into(), path: path.display().to_string(), ..ModelEntry::default() };
    let registry = Registry::new(vec![entry], None).expect("the preset exists");
    let options = RuntimeOptions {
        library: Library::Named(library),
        providers: vec![Provider::Cpu],
        threads: 1,
        ..RuntimeOptions::default()
    };
    let models = Segmenter::new(registry, options);
    let image = image(&scene("flat", 2048));
    models.load(None).expect("the model loads");
    let mut group = c.benchmark_group("matte/model");
    group.bench_function("4.2MP/cpu", |b| b.iter(|| models.segment(None, &image).expect("the model runs")));
    group.finish();
}

fn bench(c: &mut Criterion) {
    pictures::on_one_thread();
    classic(c);
    around_a_model(c);
    model(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = bench
}
criterion_main!(benches);
