//! Modes `transfer` and `faithful` against the predecessor's own pipeline in OpenCV.
#![cfg(feature = "opencv")]

use concept_worker::baseline::{self, Clusters};
use concept_worker::kernel::color::Rgb8;
use concept_worker::kernel::palette::Palette;
use concept_worker::kernel::predecessor::{FaithfulModel, Search, TransferModel};

struct Picture {
    name: &'static str,
    width: usize,
    height: usize,
    bgr: Vec<u8>,
}

impl Picture {
    fn new(name: &'static str, width: usize, height: usize, color: impl FnMut(usize, usize) -> Rgb8) -> Self {
        let mut color = color;
        let mut bgr = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let c = color(x, y);
                bgr.extend([c.b, c.g, c.r]);
            }
        }
        Self { name, width, height, bgr }
    }

    fn packed(&self) -> impl Iterator<Item = u32> {
        self.bgr.as_chunks::<3>().0.iter().map(|&[b, g, r]| Rgb8 { r, g, b }.packed())
    }

    /// Distinct colours, sorted, and how often each occurs.
    fn uniques(&self) -> (Vec<u32>, Vec<u32>) {
        let mut colors: Vec<u32> = self.packed().collect();
        colors.sort_unstable();
        let counts = colors.chunk_by(|a, b| a == b).map(|run| run.len() as u32).collect();
        colors.dedup();
        (colors, counts)
    }

    /// The picture with every colour replaced by its entry in a table.
    fn through(&self, colors: &[u32], table: &[u32]) -> Vec<u8> {
        let new = |color| Rgb8::from_packed(table[colors.binary_search(&color).unwrap()]);
        self.packed().map(new).flat_map(|c| [c.b, c.g, c.r]).collect()
    }
}

fn noise() -> impl FnMut() -> f32 {
    let mut state = 7u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

fn pictures() -> Vec<Picture> {
    // Smooth fields whose lightness and warmth vary apart, with grain.
    let mut grain = noise();
    let photograph = Picture::new("photograph-like", 321, 243, |x, y| {
        let (u, v) = (x as f32 / 50.0, y as f32 / 38.0);
        let light = 120.0 + 75.0 * (1.3 * u + v).sin() + 45.0 * (3.0 * v - 2.0 * u).cos();
        let warm = 35.0 * (0.7 * u).sin() + 25.0 * (2.1 * v + u).cos();
        let mut code = |shift: f32| (light + shift + 12.0 * grain()) as u8;
        Rgb8::new(code(warm), code(12.0 * (2.0 * u).sin()), code(-warm))
    });
    let mut grain = noise();
    let vivid = Picture::new("vivid", 200, 200, |x, y| {
        let (u, v) = (x as f32 / 30.0, y as f32 / 40.0);
        let mut code = |phase: f32| (128.0 + 127.0 * (u * phase + v * (2.0 - phase)).sin() + 8.0 * grain()) as u8;
        Rgb8::new(code(0.5), code(1.1), code(1.7))
    });
    let flat =
        [(240, 240, 235), (20, 30, 60), (200, 40, 50), (250, 190, 60), (60, 160, 140), (120, 120, 120), (0, 0, 0)]
            .map(|(r, g, b)| Rgb8::new(r, g, b));
    let flat = Picture::new("flat", 160, 140, |x, y| flat[(x / 23 + y / 31 * 3) % flat.len()]);
    vec![photograph, vivid, flat]
}

fn palettes() -> Vec<Palette> {
    let palette = |colors: &[&str]| Palette::new("test", colors.iter().map(|c| c.parse().unwrap())).unwrap();
    vec![
        palette(&["#264653", "#2a9d8f", "#e9c46a", "#f4a261", "#e76f51"]),
        palette(&["#ffcdb2", "#ffb4a2", "#e5989b", "#b5838d", "#6d6875"]),
        palette(&["#00ff00", "#ff00ff", "#000000"]),
        palette(&["#03045e", "#0077b6", "#00b4d8", "#90e0ef", "#caf0f8", "#ffffff", "#ff6b6b", "#2f2f2f"]),
        palette(&["#7f5539"]),
    ]
}

/// Every pixel with the nearest centre: what OpenCV's labels would be after one more step.
fn settled(clusters: &Clusters, samples: &[u8]) -> Clusters {
    let nearest = |sample: &[u8; 3]| {
        let distance = |c: &[f32; 3]| c.iter().zip(sample).map(|(c, &s)| (c - f32::from(s)).powi(2)).sum::<f32>();
        let by_distance =
            |&a: &usize, &b: &usize| distance(&clusters.centres[a]).total_cmp(&distance(&clusters.centres[b]));
        (0..clusters.centres.len()).min_by(by_distance).unwrap()
    };
    Clusters { labels: samples.as_chunks().0.iter().map(nearest).collect(), ..clusters.clone() }
}

/// At least `share` of the codes within 2, and half a code apart on average.
fn assert_agreement(what: &str, ours: &[u8], theirs: &[u8], share: f64) {
    assert_eq!(ours.len(), theirs.len());
    let differences = || ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    let close = differences().filter(|&d| d <= 2).count() as f64 / ours.len() as f64;
    let mean = differences().map(f64::from).sum::<f64>() / ours.len() as f64;
    println!("{what}: {:.4} % within 2, mean {mean:.5}, worst {}", 100.0 * close, differences().max().unwrap());
    assert!(close >= share, "{what}: only {close} of the codes are within 2");
    assert!(mean <= 0.5, "{what}: codes differ by {mean} on average");
}

fn seed() {
    baseline::threads(1).unwrap();
    baseline::seed(1).unwrap();
}

#[test]
fn transfer_gives_opencvs_colors_for_the_same_centres() {
    seed();
    for picture in pictures() {
        let (colors, counts) = picture.uniques();
        for palette in palettes() {
            let Picture { name, width, height, bgr } = &picture;
            let n = palette.colors().len();
            let clusters = baseline::cluster_bgr(bgr, TransferModel::cluster_count(n), 2).unwrap();
            let settled = settled(&clusters, bgr);
            let run = |clusters| baseline::transfer_with(bgr, *width, *height, palette.colors(), clusters).unwrap();
            let model = TransferModel::with_centres(&colors, &counts, &clusters.centres);
            let ours = picture.through(&colors, &model.table(&palette, 1.0));
            assert_agreement(&format!("transfer, {name}, {n} colours"), &ours, &run(&settled), 0.9999);
            assert_agreement(&format!("transfer, {name}, {n} colours, lagging"), &ours, &run(&clusters), 0.995);
        }
    }
}

#[test]
fn faithful_gives_opencvs_colors_for_the_same_centres() {
    seed();
    for picture in pictures() {
        let (colors, counts) = picture.uniques();
        for palette in palettes() {
            let Picture { name, width, height, bgr } = &picture;
            let n = palette.colors().len();
            let k = FaithfulModel::cluster_count(n);
            let clusters = baseline::cluster_lab(bgr, *width, *height, k, 2).unwrap();
            let settled = settled(&clusters, &baseline::lab(bgr, *width, *height).unwrap());
            let run = |clusters| baseline::faithful_with(bgr, *width, *height, palette.colors(), clusters).unwrap();
            let model = FaithfulModel::with_centres(&colors, &counts, &clusters.centres);
            let ours = picture.through(&colors, &model.table(&palette, 1.0));
            assert_agreement(&format!("faithful, {name}, {n} colours"), &ours, &run(&settled), 0.9999);
            assert_agreement(&format!("faithful, {name}, {n} colours, lagging"), &ours, &run(&clusters), 0.995);
        }
    }
}

#[test]
fn clusters_fit_as_closely_as_opencvs_best_of_ten() {
    seed();
    for picture in pictures() {
        let (colors, counts) = picture.uniques();
        let Picture { name, width, height, bgr } = &picture;
        let check = |what: &str, ours: f64, theirs: Clusters| {
            println!("{what}, {name}: {:.4} of OpenCV's", ours / theirs.compactness);
            assert!(ours <= 1.02 * theirs.compactness, "{what}, {name}: {ours} against {}", theirs.compactness);
        };
        for k in [1, 3, 5] {
            let model = TransferModel::new(&colors, &counts, k, &Search::default());
            let theirs = baseline::cluster_bgr(bgr, k, baseline::ATTEMPTS).unwrap();
            check(&format!("BGR, k = {k}"), model.inertia(), theirs);
        }
        for k in [2, 6, 10] {
            let model = FaithfulModel::new(&colors, &counts, k, &Search::default());
            let theirs = baseline::cluster_lab(bgr, *width, *height, k, baseline::ATTEMPTS).unwrap();
            check(&format!("Lab, k = {k}"), model.inertia(), theirs);
        }
    }
}

#[test]
fn the_whole_pipeline_agrees_where_clusters_are_unmistakable() {
    seed();
    // Five far colours: both searches must find exactly them.
    let flat = [(240, 240, 235), (20, 30, 60), (200, 40, 50), (250, 190, 60), (60, 160, 140)]
        .map(|(r, g, b)| Rgb8::new(r, g, b));
    let picture = Picture::new("flat", 64, 60, |x, y| flat[(x / 8 + y / 12) % 5]);
    let palette = &palettes()[0];
    let (colors, counts) = picture.uniques();
    let Picture { width, height, bgr, .. } = &picture;

    let model = TransferModel::new(&colors, &counts, 5, &Search::default());
    let theirs = baseline::transfer(bgr, *width, *height, palette.colors(), baseline::ATTEMPTS).unwrap();
    assert_agreement("transfer, whole", &picture.through(&colors, &model.table(palette, 1.0)), &theirs, 1.0);

    let model = FaithfulModel::new(&colors, &counts, 10, &Search::default());
    let theirs = baseline::faithful(bgr, *width, *height, palette.colors(), baseline::ATTEMPTS).unwrap();
    assert_agreement("faithful, whole", &picture.through(&colors, &model.table(palette, 1.0)), &theirs, 1.0);
}

#[test]
fn the_baseline_refuses_what_it_cannot_process() {
    let color = [Rgb8::new(1, 2, 3)];
    assert!(baseline::transfer(&[0; 11], 2, 2, &color, 1).is_err());
    assert!(baseline::transfer(&[0; 12], 2, 2, &[], 1).is_err());
    assert!(baseline::faithful(&[], 0, 0, &color, 1).is_err());
    let clusters = Clusters { centres: vec![[0.0; 3]], labels: vec![0, 0, 0, 1], compactness: 0.0 };
    assert!(baseline::transfer_with(&[0; 12], 2, 2, &color, &clusters).is_err());
}
