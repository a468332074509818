//! Invariants of the kernel on any small picture and any palette.

use std::collections::HashSet;

use concept_worker::kernel::assign::{self, Assignment};
use concept_worker::kernel::cluster::{self, Cluster};
use concept_worker::kernel::color::{Lab, Rgb8};
use concept_worker::kernel::dither::{DitherKind, Dithered};
use concept_worker::kernel::gather::Recolored;
use concept_worker::kernel::image::{BaseImage, Raster, Rows};
use concept_worker::kernel::model::{ColorModel, LabPlanes, RadialBasis};
use concept_worker::kernel::palette::{Palette, Role};
use concept_worker::kernel::predecessor::{FaithfulModel, Search, TransferModel};
use concept_worker::kernel::quality::gain::NeighborPairs;
use concept_worker::kernel::quality::tone;
use concept_worker::kernel::recolor::{Anchor, ColorSet, Shape, SoftMap};
use concept_worker::kernel::resize::{self, AreaReducer};
use concept_worker::kernel::tint::{self, TintMap};
use concept_worker::kernel::unique::IndexedImage;
use concept_worker::pipeline::decode::{Limits, decode};
use concept_worker::pipeline::encode::{EncodeOptions, encode};
use concept_worker::pipeline::job::{Effort, Format};
use proptest::prelude::*;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn color() -> impl Strategy<Value = Rgb8> {
    prop_oneof![
        3 => any::<[u8; 3]>().prop_map(|[r, g, b]| Rgb8::new(r, g, b)),
        1 => any::<u8>().prop_map(|v| Rgb8::new(v, v, v)),
        1 => prop::sample::select(vec![Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255), Rgb8::new(0, 0, 255), Rgb8::new(255, 255, 0)]),
    ]
}

fn palette(most: usize) -> impl Strategy<Value = Palette> {
    prop::collection::vec(color(), 1..=most).prop_map(|colors| Palette::new("any", colors).unwrap())
}

/// Pixels from random, from few colours, or along a gradient, with or without alpha.
fn picture() -> impl Strategy<Value = BaseImage> {
    let sides = (1u32..24, 1u32..24);
    (sides, prop::collection::vec(color(), 1..6), any::<u64>(), 0u8..3, 0u8..3).prop_map(
        |((width, height), few, seed, texture, transparency)| {
            let mut state = seed;
            let mut next = move || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            };
            let mut rgb = Vec::new();
            for y in 0..height {
                for x in 0..width {
                    let Rgb8 { r, g, b } = few[(x / 3 + y / 2) as usize % few.len()];
                    rgb.extend(match texture {
                        0 => [r, g, b],
                        1 => [r.saturating_add((x * 5) as u8), g.saturating_add((y * 3) as u8), b ^ (next() & 3)],
                        _ => [next(), next(), next()],
                    });
                }
            }
            let alpha = (0..width * height)
                .map(|_| match transparency {
                    0 => 255,
                    1 => (next() & 1) * 255,
                    _ => next(),
                })
                .collect();
            BaseImage::new(width, height, rgb, Some(alpha)).unwrap()
        },
    )
}

struct Modelled {
    image: IndexedImage,
    labs: LabPlanes,
    model: ColorModel,
}

impl Modelled {
    fn new(picture: BaseImage, palette_colors: usize) -> Self {
        let image = IndexedImage::new(picture, 0);
        let labs = LabPlanes::new(image.colors());
        let neighbors = NeighborPairs::new(image.colors(), 4096);
        let points = cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts());
        let seeding = cluster::Seeding::new(points, cluster::MAX_CLUSTERS);
        let model = ColorModel::new(&image, &labs, &seeding, &neighbors, palette_colors, 20);
        Self { image, labs, model }
    }

    fn table(&self, assignment: &Assignment, strength: f32) -> Vec<u32> {
        let anchors = assignment.anchors.clone();
        let map = SoftMap::new(&self.model, &assignment.targets, assignment.shape, strength, anchors);
        map.table(&ColorSet::new(&self.model, self.image.colors(), &self.labs))
    }

    /// Tables of every mode, each with the entry of hidden pixels.
    fn tables(&self, palette: &Palette, strength: f32) -> Vec<(&'static str, Vec<u32>)> {
        let (colors, counts) = (self.image.colors(), self.image.counts());
        let search = Search { max_iterations: 10, attempts: 2, ..Search::default() };
        let count = palette.colors().len();
        let transfer = TransferModel::new(colors, counts, TransferModel::cluster_count(count), &search);
        let faithful = FaithfulModel::new(colors, counts, FaithfulModel::cluster_count(count), &search);
        let hidden = |mut table: Vec<u32>| {
            table.push(0);
            table
        };
        let range = tint::lightness_range(&self.labs, counts);
        vec![
            ("soft", self.table(&assign::assign(&self.model, palette), strength)),
            ("transfer", hidden(transfer.table(palette, strength))),
            ("faithful", hidden(faithful.table(palette, strength))),
            ("tint", TintMap::new(palette, range, strength).table(&self.labs, colors)),
        ]
    }
}

fn written(rows: &mut dyn Rows, options: &EncodeOptions) -> BaseImage {
    let mut bytes = Vec::new();
    encode(rows, options, &mut bytes).unwrap();
    decode(&bytes, &Limits::default()).unwrap()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn tables_have_an_opaque_entry_a_color_and_a_transparent_one_for_hidden_pixels(
        picture in picture(), palette in palette(12), strength in 0f32..=1.0,
    ) {
        let modelled = Modelled::new(picture, palette.colors().len());
        for (mode, table) in modelled.tables(&palette, strength) {
            let (hidden, visible) = table.split_last().unwrap();
            prop_assert_eq!(visible.len(), modelled.image.colors().len(), "{}", mode);
            prop_assert_eq!(*hidden, 0, "{}", mode);
            prop_assert!(visible.iter().all(|p| p >> 24 == 255), "{}", mode);
        }
    }

    #[test]
    fn strength_0_is_the_identity_in_every_mode(picture in picture(), palette in palette(12)) {
        let modelled = Modelled::new(picture, palette.colors().len());
        for (mode, table) in modelled.tables(&palette, 0.0) {
            prop_assert_eq!(&table[..table.len() - 1], modelled.image.colors(), "{}", mode);
        }
    }

    #[test]
    fn weights_of_any_color_sum_to_1(centers in prop::collection::vec(color(), 1..=10), probes in prop::collection::vec(color(), 1..300)) {
        let distinct: HashSet<Rgb8> = centers.into_iter().collect();
        let share = 1.0 / distinct.len() as f32;
        let clusters: Vec<Cluster> = distinct.into_iter().map(|c| Cluster { center: c.lab(), share }).collect();
        let basis = RadialBasis::new(clusters.clone());
        let packed: Vec<u32> = probes.iter().map(|c| c.packed()).collect();
        let weights = basis.weights(&LabPlanes::new(&packed));
        for i in 0..packed.len() {
            let sum: f32 = (0..clusters.len()).map(|k| weights.get(k, i)).sum();
            prop_assert!((sum - 1.0).abs() < 1e-3, "{} of {:?}", sum, clusters);
        }
    }

    #[test]
    fn assignments_are_deterministic_finite_and_inside_the_gamut(picture in picture(), palette in palette(64)) {
        let modelled = Modelled::new(picture, palette.colors().len());
        let assignment = assign::assign(&modelled.model, &palette);
        prop_assert_eq!(&assignment, &assign::assign(&modelled.model, &palette));
        prop_assert_eq!(assignment.targets.len(), modelled.model.clusters().len());
        prop_assert!(assignment.shape.slope.is_finite() && assignment.predicted_gain.is_finite());
        for target in &assignment.targets {
            prop_assert!(target.l.is_finite() && target.a.is_finite() && target.b.is_finite());
            // Inside the gamut, coding and back moves it by rounding only.
            prop_assert!(target.to_rgb8().lab().distance(*target) < 1.5, "{:?}", target);
        }
        let used: HashSet<usize> = assignment.colors.iter().flatten().copied().collect();
        prop_assert_eq!(used.len() + assignment.unused.len(), palette.colors().len());
        prop_assert!(assignment.unused.iter().all(|p| !used.contains(p)));
    }

    #[test]
    fn coordinates_stay_finite_for_any_targets(
        picture in picture(), targets in prop::collection::vec(color(), 10), slope in 0.45f32..1.15, settling in 0f32..=0.6,
        strength in 0f32..=1.0,
    ) {
        let modelled = Modelled::new(picture, 5);
        let count = modelled.model.clusters().len();
        let targets: Vec<Lab> = targets.iter().take(count).map(|c| c.lab()).collect();
        let map = SoftMap::new(&modelled.model, &targets, Shape { slope, settling }, strength, Vec::new());
        let out = map.labs(&modelled.labs, &modelled.model.weights(&modelled.labs));
        for i in 0..out.len() {
            let lab = out.get(i);
            prop_assert!(lab.l.is_finite() && lab.a.is_finite() && lab.b.is_finite(), "{:?}", lab);
        }
    }

    #[test]
    fn protected_colors_stay_and_a_pin_lands_exactly(picture in picture(), palette in palette(8), place in any::<prop::sample::Index>()) {
        let modelled = Modelled::new(picture, palette.colors().len());
        let colors = modelled.image.colors();
        prop_assume!(!colors.is_empty());
        let at = place.index(colors.len());
        let chosen = Rgb8::from_packed(colors[at]);
        let protecting = palette.clone().protecting([chosen]);
        let table = modelled.table(&assign::assign(&modelled.model, &protecting), 1.0);
        prop_assert_eq!(Rgb8::from_packed(table[at]), chosen, "protected");
        let to = palette.colors()[0];
        let pinned = palette.with_pins([(chosen, to)]).unwrap();
        let table = modelled.table(&assign::assign(&modelled.model, &pinned), 1.0);
        prop_assert_eq!(Rgb8::from_packed(table[at]), to, "pinned");
    }

    #[test]
    fn the_order_of_a_palette_does_not_matter_where_lightness_or_nearness_decides(picture in picture(), palette in palette(9)) {
        // Colours that are equal in what decides come in the order given.
        let mut lights = HashSet::new();
        let sum = |c: &Rgb8| u16::from(c.r) + u16::from(c.g) + u16::from(c.b);
        prop_assume!(palette.colors().iter().all(|c| lights.insert(sum(c))));
        let modelled = Modelled::new(picture, palette.colors().len());
        let reversed = Palette::new("any", palette.colors().iter().rev().copied()).unwrap();
        let (forth, back) = (modelled.tables(&palette, 1.0), modelled.tables(&reversed, 1.0));
        for ((mode, forth), (_, back)) in forth.iter().zip(&back).filter(|(f, _)| matches!(f.0, "transfer" | "tint")) {
            prop_assert_eq!(forth, back, "{}", mode);
        }
    }

    #[test]
    fn roles_are_taken_by_the_colors_that_have_them(picture in picture(), palette in palette(5)) {
        let modelled = Modelled::new(picture, palette.colors().len());
        let (role, color) = (Role::Background, palette.colors()[palette.colors().len() - 1]);
        let with_role = palette.with_roles([(role, color)]).unwrap();
        let assignment = assign::assign(&modelled.model, &with_role);
        let count = modelled.model.clusters().len();
        prop_assume!(count > 0);
        let most = (0..count).max_by(|&x, &y| modelled.model.border(x).total_cmp(&modelled.model.border(y)).then(y.cmp(&x)));
        prop_assert_eq!(assignment.colors[most.unwrap()], Some(with_role.colors().len() - 1));
    }

    #[test]
    fn alpha_survives_png_and_lossless_webp_bit_by_bit(picture in picture(), palette in palette(5)) {
        let alpha: Vec<u8> = match picture.alpha() {
            Some(alpha) => alpha.to_vec(),
            None => vec![255; (picture.width() * picture.height()) as usize],
        };
        let modelled = Modelled::new(picture, palette.colors().len());
        let table = modelled.table(&assign::assign(&modelled.model, &palette), 1.0);
        for (format, effort) in [(Format::Png, Effort::Fast), (Format::Png, Effort::Small), (Format::Webp, Effort::Fast)] {
            let options = EncodeOptions { lossless: true, effort, ..EncodeOptions::new(format) };
            let back = written(&mut Recolored::new(&modelled.image, &table), &options);
            let found = back.alpha().map_or_else(|| vec![255; alpha.len()], <[u8]>::to_vec);
            prop_assert_eq!(&found, &alpha, "{:?}", format);
            for (i, pixel) in back.rgb().chunks(3).enumerate() {
                let expected = modelled.image.place(i).map(|place| table[place]);
                prop_assert!(expected.is_none_or(|e| pixel == &e.to_le_bytes()[..3]), "{:?}", format);
            }
        }
    }

    #[test]
    fn dithered_rows_hold_palette_colors_only_and_keep_alpha(picture in picture(), palette in palette(64), kind in 0usize..3) {
        let kind = [DitherKind::FloydSteinberg, DitherKind::BlueNoise, DitherKind::None][kind];
        let image = IndexedImage::new(picture, 0);
        let hard = image.alpha().is_none_or(|alpha| alpha.iter().all(|a| matches!(a, 0 | 255)));
        let table: Vec<u32> = image.colors().iter().copied().chain([0]).collect();
        let allowed: HashSet<u32> = palette.colors().iter().map(|c| c.packed() & 0x00ff_ffff).collect();
        let mut source = Recolored::new(&image, &table);
        let raster = Raster::read(&mut Dithered::new(&mut source, palette.colors(), kind, hard));
        for (i, p) in raster.pixels().iter().enumerate() {
            let alpha = image.alpha().map_or(255, |alpha| alpha[i]);
            prop_assert_eq!((p >> 24) as u8, alpha);
            let right = if alpha == 0 { *p == 0 } else { allowed.contains(&(p & 0x00ff_ffff)) };
            prop_assert!(right, "{:08x}", p);
        }
        // Indices show the same pixels.
        let mut source = Recolored::new(&image, &table);
        let mut dithered = Dithered::new(&mut source, palette.colors(), kind, hard);
        prop_assert_eq!(dithered.palette().is_some(), hard);
        if let Some(entries) = dithered.palette().map(<[u32]>::to_vec) {
            let mut row = vec![0; image.width() as usize];
            for pixels in raster.pixels().chunks(row.len()) {
                dithered.next_indices(&mut row);
                prop_assert!(row.iter().zip(pixels).all(|(&i, p)| entries[usize::from(i)] == *p));
            }
        }
    }

    #[test]
    fn reducing_takes_any_sizes_and_stays_between_the_extremes(picture in picture(), width in 1u32..24, height in 1u32..24) {
        let (width, height) = (width.min(picture.width()), height.min(picture.height()));
        let reduced = resize::reduce(&picture, width, height);
        prop_assert_eq!((reduced.width(), reduced.height()), (width, height));
        let channel = |picture: &BaseImage, c: usize| -> Vec<u8> {
            let visible = |i: usize| picture.alpha().is_none_or(|alpha| alpha[i] > 0);
            (0..picture.rgb().len() / 3).filter(|&i| visible(i)).map(|i| picture.rgb()[3 * i + c]).collect()
        };
        for c in 0..3 {
            let (before, after) = (channel(&picture, c), channel(&reduced, c));
            let (least, most) = (before.iter().min(), before.iter().max());
            // Half a code of rounding on either side.
            prop_assert!(after.iter().all(|v| Some(&v.saturating_add(1)) >= least && Some(&v.saturating_sub(1)) <= most));
        }
    }

    #[test]
    fn a_reducer_takes_wide_and_tall_sources(source in (1u32..5000, 1u32..40), part in (1u32..=100, 1u32..=100), turned: bool) {
        let (w, h) = if turned { (source.1, source.0) } else { source };
        let (width, height) = ((w * part.0 / 100).max(1), (h * part.1 / 100).max(1));
        let mut reducer = AreaReducer::new(w, h, width, height, false);
        let row = vec![Rgb8::new(7, 77, 177).packed(); w as usize];
        (0..h).for_each(|_| reducer.push_row(&row));
        let raster = reducer.finish();
        prop_assert_eq!((raster.width(), raster.height()), (width, height));
        prop_assert!(raster.pixels().iter().all(|&p| p == row[0]), "a flat colour stays what it was");
    }

    #[test]
    fn fitted_sides_never_exceed_the_limits(w in 1u32..=65_535, h in 1u32..=65_535, side in 0u32..70_000, pixels in 0u64..5_000_000_000) {
        let (width, height) = resize::fit(w, h, side, pixels);
        prop_assert!((1..=w).contains(&width) && (1..=h).contains(&height));
        prop_assert!(side == 0 || width.max(height) <= side);
        // A side of one pixel cannot shrink further.
        prop_assert!(pixels == 0 || u64::from(width) * u64::from(height) <= pixels || width.min(height) == 1);
    }

    #[test]
    fn tints_of_a_grey_ramp_end_lighter_than_they_begin_and_dip_little_between(palette in palette(16), strength in 0f32..=1.0) {
        let ramp = tone::grey_ramp();
        let table = TintMap::new(&palette, (0.0, 100.0), strength).table(&LabPlanes::new(&ramp), &ramp);
        let mut lightest = 0f32;
        for p in &table[..256] {
            let l = Rgb8::from_packed(*p).lab().l;
            // Straight in OKLab is not quite straight in CIELAB, least of all between two colours of one lightness.
            prop_assert!(l > lightest - 4.0, "{} after {}", l, lightest);
            lightest = lightest.max(l);
        }
        prop_assert!(Rgb8::from_packed(table[255]).lab().l >= Rgb8::from_packed(table[0]).lab().l - tone::ROUNDING_L);
    }

    #[test]
    fn anchors_apart_from_each_other_hold_together(first in color(), second in color(), to in (color(), color()), picture in picture()) {
        prop_assume!(first.lab().distance(second.lab()) > 14.5);
        let modelled = Modelled::new(picture, 5);
        let own: Vec<Lab> = modelled.model.clusters().iter().map(|c| c.center).collect();
        prop_assume!(!own.is_empty());
        let anchor = |from: Rgb8, to: Rgb8| Anchor { from: from.lab(), to: to.lab() };
        let map = SoftMap::new(&modelled.model, &own, Shape { slope: 1.0, settling: 0.0 }, 1.0, vec![anchor(first, to.0), anchor(second, to.1)]);
        let colors = [first.packed(), second.packed()];
        let labs = LabPlanes::new(&colors);
        let table = map.table(&ColorSet::new(&modelled.model, &colors, &labs));
        prop_assert_eq!([Rgb8::from_packed(table[0]), Rgb8::from_packed(table[1])], [to.0, to.1]);
    }
}
