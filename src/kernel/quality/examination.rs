//! Every figure of the default mode's map on one picture and one palette: what tests assert and tables print.
//!
//! [`super::report::judge`] looks at pixels alone and suits any tool. Here the map is at hand too, so that noise, ramps,
//! targets and gamut can be asked of it.

use super::fit::{self, Coverage, GamutFit, TargetColors};
use super::gain::{Gain, NeighborPairs};
use super::noise::{NoiseGain, noise_gain};
use super::sample::Sample;
use super::{structure, tone};
use crate::kernel::assign::{Assignment, assign};
use crate::kernel::cluster;
use crate::kernel::color::{Lab, Rgb8};
use crate::kernel::gather::Recolored;
use crate::kernel::image::Raster;
use crate::kernel::model::{ColorModel, LabPlanes};
use crate::kernel::palette::Palette;
use crate::kernel::recolor::{ColorSet, SoftMap};
use crate::kernel::unique::IndexedImage;

/// A picture with the models that mode `soft` makes of it.
pub struct Subject {
    image: IndexedImage,
    labs: LabPlanes,
    neighbors: NeighborPairs,
    model: ColorModel,
    original: Vec<u32>,
    sample: Sample,
}

/// The figures of one variation at full strength or less.
#[derive(Debug, Clone)]
pub struct Examination {
    /// What went where.
    pub assignment: Assignment,
    /// The variation, row-major.
    pub pixels: Vec<u32>,
    /// The output colour of each of the picture's colours, in the order of [`Subject::image`].
    pub table: Vec<u32>,
    /// Mapping gain over all pairs of the picture's own colours one step apart; `None` without such pairs.
    pub gain: Option<Gain>,
    /// Mean ΔE2000 to the nearest palette colour as a share of the original's; 1 when the original had none.
    pub distance_share: f64,
    /// Palette colours present.
    pub colors_present: usize,
    /// Correlation of lightness before and after.
    pub lightness_correlation: f64,
    /// Share of neighbouring pixels whose order of lightness is kept.
    pub order_kept: f64,
    /// SSIM of lightness.
    pub ssim_l: f64,
    /// Gain of ±2 codes of noise on the picture's colours, before rounding; `None` without colours.
    pub noise: Option<NoiseGain>,
    /// Inversions on the ramp of all greys.
    pub ramp_inversions: usize,
    /// Levels kept on the worse of two ramps: all greys, and from the darkest to the lightest cluster.
    pub levels_kept: f64,
    /// Mean ΔE2000 between the clusters' means and their targets, by area.
    pub fidelity: f64,
    /// Which assigned targets are present.
    pub coverage: Coverage,
    /// How gamut mapping treated the colours that were wanted.
    pub gamut: GamutFit,
    /// Whether alpha is the original's.
    pub alpha_identical: bool,
}

/// Colours that noise is added to: enough for a 95th percentile that holds within a few per cent.
const NOISY_COLORS: usize = 400;

/// Seed of the noise.
const NOISE_SEED: u64 = 1;

/// Colours whose distance to the palette is taken; beyond that a weighted sample stands for them.
const SAMPLE: usize = 1 << 15;

impl Subject {
    /// Models `image` for palettes of `palette_colors` colours; `max_iterations` are k-means'.
    pub fn new(image: IndexedImage, palette_colors: usize, max_iterations: u32) -> Self {
        let labs = LabPlanes::new(image.colors());
        let neighbors = NeighborPairs::new(image.colors(), usize::MAX);
        let points = cluster::bins(image.colors(), [&labs.l, &labs.a, &labs.b], image.counts());
        let seeding = cluster::Seeding::new(points, cluster::MAX_CLUSTERS);
        let model = ColorModel::new(&image, &labs, &seeding, &neighbors, palette_colors, max_iterations);
        let own: Vec<u32> = image.colors().iter().copied().chain([0]).collect();
        let original = Raster::read(&mut Recolored::new(&image, &own)).pixels().to_vec();
        let sample = Sample::new(image.counts(), SAMPLE);
        Self { image, labs, neighbors, model, original, sample }
    }

    /// The picture.
    pub fn image(&self) -> &IndexedImage {
        &self.image
    }

    /// Its model.
    pub fn model(&self) -> &ColorModel {
        &self.model
    }

    /// Pairs of its own colours one step apart.
    pub fn neighbors(&self) -> &NeighborPairs {
        &self.neighbors
    }

    /// Applies `palette` with `strength` (0..=1) and measures everything.
    pub fn examine(&self, palette: &Palette, strength: f32) -> Examination {
        let assignment = assign(&self.model, palette);
        let map =
            SoftMap::new(&self.model, &assignment.targets, assignment.shape, strength, assignment.anchors.clone());
        let table = map.table(&ColorSet::new(&self.model, self.image.colors(), &self.labs));
        let pixels = Raster::read(&mut Recolored::new(&self.image, &table)).pixels().to_vec();
        let width = self.image.width() as usize;

        let colors = self.image.colors();
        let mapped = &table[..colors.len()];
        let own = TargetColors::of_palette(palette.colors());
        let before = fit::palette_distance(&fit::View::new(&self.sample, colors), &own);
        let view = fit::View::new(&self.sample, mapped);
        let after = fit::palette_distance(&view, &own);
        let clusters = self.model.clusters();
        let label = |i: usize| cluster::nearest(clusters, self.labs.get(i)) as u8;
        let labels: Vec<u8> = (0..colors.len()).map(label).collect();
        let wanted = map.labs(&self.labs, &self.model.weights(&self.labs));
        let wanted: Vec<Lab> = (0..wanted.len()).map(|i| wanted.get(i)).collect();
        let assigned = TargetColors::new(assignment.targets.iter().copied());

        let noisy = Sample::new(self.image.counts(), NOISY_COLORS);
        let noisy: Vec<Rgb8> = noisy.entries().iter().map(|e| Rgb8::from_packed(colors[e.0 as usize])).collect();
        let noise = noise_gain(&noisy, NOISE_SEED, |draws| {
            let packed: Vec<u32> = draws.iter().map(|c| c.packed()).collect();
            let labs = LabPlanes::new(&packed);
            let out = map.labs(&labs, &self.model.weights(&labs));
            (0..out.len()).map(|i| out.get(i)).collect()
        });

        let greys = tone::grey_ramp().to_vec();
        let own_ramp = self.own_ramp();
        let through = |ramp: &[u32]| -> Vec<u32> {
            let labs = LabPlanes::new(ramp);
            let mut out = map.table(&ColorSet::new(&self.model, ramp, &labs));
            out.truncate(ramp.len());
            out
        };
        let (mapped_greys, mapped_own) = (through(&greys), through(&own_ramp));

        Examination {
            gain: self.neighbors.gain(mapped),
            distance_share: if before > 0.0 { after / before } else { 1.0 },
            colors_present: fit::coverage(&view, &own).present(),
            lightness_correlation: tone::lightness_correlation(&self.sample, colors, mapped),
            order_kept: tone::neighbor_order(&self.original, &pixels, width).share(),
            ssim_l: structure::ssim_l(&self.original, &pixels, width),
            noise,
            ramp_inversions: tone::ramp_inversions(&mapped_greys),
            levels_kept: tone::levels_kept(&greys, &mapped_greys).min(tone::levels_kept(&own_ramp, &mapped_own)),
            fidelity: fit::fidelity(&view, &labels, &assignment.targets),
            coverage: fit::coverage(&view, &assigned),
            gamut: fit::gamut_fit(&self.sample, &wanted, mapped),
            alpha_identical: structure::alpha_identical(&self.original, &pixels),
            assignment,
            pixels,
            table,
        }
    }

    /// 256 steps from the darkest cluster to the lightest, without repeats.
    fn own_ramp(&self) -> Vec<u32> {
        let centers = || self.model.clusters().iter().map(|c| c.center);
        let (Some(dark), Some(light)) =
            (centers().min_by(|x, y| x.l.total_cmp(&y.l)), centers().max_by(|x, y| x.l.total_cmp(&y.l)))
        else {
            return Vec::new();
        };
        let mut ramp: Vec<u32> = (0..256).map(|i| dark.lerp(light, i as f32 / 255.0).to_rgb8().packed()).collect();
        ramp.dedup();
        ramp
    }
}
