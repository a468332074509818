//! Fit: how near a variation comes to its palette, and whether the gamut let it.

use rayon::prelude::*;

use super::extend_with_labs;
use super::sample::Sample;
use crate::kernel::color::{Lab, OkLab, Rgb8, delta_e_2000, encode_srgb};
use crate::kernel::gamut;

/// A palette colour is present when more than this share of the area lies within [`PRESENT_DELTA_E`] of it.
pub const PRESENT_SHARE: f64 = 0.001;

/// ΔE2000 within which an area counts as a palette colour's.
pub const PRESENT_DELTA_E: f32 = 5.0;

/// By what factor CIE94 may rank the colour nearest by ΔE2000 behind another.
const SHORT_LIST: f32 = 1.4;

/// How many colours are plenty for the figures of a manifest.
pub const SAMPLE_FOR_MANIFEST: usize = 2048;

/// Colours whose nearness is asked for many times.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetColors {
    colors: Vec<Lab>,
}

/// CIE94 distance squared (unit weights, graphic arts) with the weights of the mean chroma, as ΔE2000 takes them: a
/// cheap stand-in that ranks candidates before ΔE2000 decides.
#[inline(always)]
fn delta_e_94_squared(x: Lab, x_chroma: f32, y: Lab) -> f32 {
    let (dl, da, db) = (x.l - y.l, x.a - y.a, x.b - y.b);
    let y_chroma = (y.a * y.a + y.b * y.b).sqrt();
    let (dc, mean) = (x_chroma - y_chroma, 0.5 * (x_chroma + y_chroma));
    let dh2 = (da * da + db * db - dc * dc).max(0.0);
    let (sc, sh) = (1.0 + 0.045 * mean, 1.0 + 0.015 * mean);
    dl * dl + dc * dc / (sc * sc) + dh2 / (sh * sh)
}

impl TargetColors {
    /// Takes the colours as they come.
    pub fn new(colors: impl IntoIterator<Item = Lab>) -> Self {
        Self { colors: colors.into_iter().collect() }
    }

    /// A palette.
    pub fn of_palette(palette: &[Rgb8]) -> Self {
        Self::new(palette.iter().map(|c| c.lab()))
    }

    /// The colours.
    pub fn colors(&self) -> &[Lab] {
        &self.colors
    }

    /// ΔE2000 to the nearest colour; `None` when there is none.
    ///
    /// Only colours within 1.4 times the nearest one's distance by CIE94 are compared by ΔE2000, which costs far more.
    /// That agrees with a full search but for a few colours far from all targets.
    pub fn nearest(&self, lab: Lab) -> Option<f32> {
        let chroma = lab.chroma();
        let roughly = |&color: &Lab| delta_e_94_squared(lab, chroma, color);
        let best = self.colors.iter().map(roughly).min_by(f32::total_cmp)?;
        let listed = self.colors.iter().filter(|color| roughly(color) <= best * (SHORT_LIST * SHORT_LIST));
        listed.map(|&color| delta_e_2000(lab, color)).min_by(f32::total_cmp)
    }
}

/// A sample of one picture's colours in CIELAB: what the figures below look at.
///
/// Made of the list that the sample was drawn from: the mapped colours for a variation, the source colours for the
/// original, whose figures are the yardstick.
#[derive(Debug, Clone, PartialEq)]
pub struct View<'a> {
    sample: &'a Sample,
    /// In the sample's order.
    labs: Vec<Lab>,
}

impl<'a> View<'a> {
    /// Looks at the colours of `colors` that `sample` names.
    pub fn new(sample: &'a Sample, colors: &[u32]) -> Self {
        let packed: Vec<u32> = sample.entries().iter().map(|&(i, _)| colors[i as usize]).collect();
        let mut labs = Vec::new();
        extend_with_labs(&packed, &mut labs);
        Self { sample, labs }
    }
}

/// Entries summed by one thread at a time; fixed, so that rounding does not depend on the machine.
const CHUNK: usize = 1024;

/// Palette distance: area-weighted mean ΔE2000 from each colour to the nearest target. 0 when there are no targets
/// or no colours.
pub fn palette_distance(view: &View<'_>, targets: &TargetColors) -> f64 {
    let sums: Vec<f64> = view
        .labs
        .par_chunks(CHUNK)
        .zip(view.sample.entries().par_chunks(CHUNK))
        .map(|(labs, entries)| {
            let one =
                |(&lab, &(_, w)): (&Lab, &(u32, f32))| f64::from(w) * f64::from(targets.nearest(lab).unwrap_or(0.0));
            labs.iter().zip(entries).map(one).sum::<f64>()
        })
        .collect();
    sums.iter().sum()
}

/// For every target the share of the area within [`PRESENT_DELTA_E`] of it, 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// In the targets' order. Areas near two targets count for both.
    pub shares: Vec<f64>,
}

impl Coverage {
    /// How many targets are present, by [`PRESENT_SHARE`].
    pub fn present(&self) -> usize {
        self.shares.iter().filter(|s| **s > PRESENT_SHARE).count()
    }

    /// Whether every target is. Pass assigned targets, and this is the promise that none was lost.
    pub fn complete(&self) -> bool {
        self.present() == self.shares.len()
    }
}

/// How many of the targets are present, as [`Coverage::present`] says: a target counts as soon as it is seen often enough,
/// and is then not looked for any longer.
pub fn present(view: &View<'_>, targets: &TargetColors) -> usize {
    let present = |&target: &Lab| {
        let mut share = 0.0;
        let mut entries = view.labs.iter().zip(view.sample.entries());
        entries.any(|(&lab, &(_, weight))| {
            share += if covers(lab, lab.chroma(), target) { f64::from(weight) } else { 0.0 };
            share > PRESENT_SHARE
        })
    };
    targets.colors.iter().filter(|target| present(target)).count()
}

/// Whether a colour lies within [`PRESENT_DELTA_E`] of a target.
fn covers(lab: Lab, chroma: f32, target: Lab) -> bool {
    // ΔE2000 weighs a step of lightness down to 1/1.75 of CIE94's and one of hue to about 1/1.5, plus a rotation in
    // the blues: whatever lies further than this by CIE94 cannot be within 5.
    const FAR_SQUARED: f32 = 15.0 * 15.0;
    delta_e_94_squared(lab, chroma, target) < FAR_SQUARED && delta_e_2000(lab, target) <= PRESENT_DELTA_E
}

/// Coverage: which targets occur among the colours.
pub fn coverage(view: &View<'_>, targets: &TargetColors) -> Coverage {
    let mut shares = vec![0.0; targets.colors.len()];
    for (&lab, &(_, weight)) in view.labs.iter().zip(view.sample.entries()) {
        let chroma = lab.chroma();
        for (share, &target) in shares.iter_mut().zip(&targets.colors) {
            if covers(lab, chroma, target) {
                *share += f64::from(weight);
            }
        }
    }
    Coverage { shares }
}

/// Palette fidelity: ΔE2000 between the mean CIELAB colour of each cluster's output and its target, weighted by the
/// clusters' areas.
///
/// `labels[i]` is the cluster of colour i of the list, an index into `targets`; colours with a label beyond them have
/// no target and are left out. 0 when nothing is left.
pub fn fidelity(view: &View<'_>, labels: &[u8], targets: &[Lab]) -> f64 {
    let mut sums = vec![[0.0f64; 4]; targets.len()];
    for (lab, &(i, weight)) in view.labs.iter().zip(view.sample.entries()) {
        if let Some([l, a, b, area]) = sums.get_mut(labels[i as usize] as usize) {
            let weight = f64::from(weight);
            *l += weight * f64::from(lab.l);
            *a += weight * f64::from(lab.a);
            *b += weight * f64::from(lab.b);
            *area += weight;
        }
    }
    let (mut error, mut total) = (0.0, 0.0);
    for ([l, a, b, area], &target) in sums.into_iter().zip(targets) {
        if area > 0.0 {
            let mean = Lab { l: (l / area) as f32, a: (a / area) as f32, b: (b / area) as f32 };
            error += area * f64::from(delta_e_2000(mean, target));
            total += area;
        }
    }
    if total > 0.0 { error / total } else { 0.0 }
}

/// OKLCh chroma above which a hue is a hue and not rounding.
pub const HUE_CHROMA: f32 = 0.03;

/// Degrees of hue beyond which a colour counts as clipped.
pub const CLIPPED_HUE_DEGREES: f32 = 3.0;

/// OKLab lightness beyond which a colour counts as clipped. Gamut mapping gives up some lightness with the chroma of
/// pale colours (see [`crate::kernel::gamut`]), less than this.
pub const CLIPPED_LIGHTNESS: f32 = 0.1;

/// How gamut mapping treated the colours that were wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GamutFit {
    /// Share of the area that came out clipped rather than reduced in chroma: lightness off by more than
    /// [`CLIPPED_LIGHTNESS`], or hue by more than [`CLIPPED_HUE_DEGREES`] beyond what rounding to 8 bits explains
    /// where there is chroma to see.
    pub clipped_share: f64,
    /// 99th percentile, by area, of the hue difference (the smaller of OKLCh's and CIELAB's) beyond rounding, degrees, over colours whose wanted
    /// and actual chroma exceed [`HUE_CHROMA`].
    pub hue_drift_p99: f64,
    /// Its area-weighted mean.
    pub hue_drift_mean: f64,
}

/// Gamut fit: the colours wanted before gamut mapping against the 8-bit colours that came out, both in the order of
/// the list the sample was drawn from. A lightness wanted beyond 0..=1 counts as the nearest of the two ends.
pub fn gamut_fit(sample: &Sample, wanted: &[Lab], got: &[u32]) -> GamutFit {
    let mut clipped = 0.0;
    let mut drifts: Vec<(f32, f32)> = Vec::new();
    for &(i, weight) in sample.entries() {
        let linear = wanted[i as usize].to_linear();
        let color = Rgb8::from_packed(got[i as usize]);
        let have = color.oklab();
        if gamut::contains(linear) && linear.map(encode_srgb) == [color.r, color.g, color.b] {
            // Rounded and nothing else: no clipping and no drift, which saves looking closer.
            if have.chroma() > HUE_CHROMA {
                drifts.push((0.0, weight));
            }
            continue;
        }
        let want = OkLab::from_linear(linear);
        let lightness_off = (want.l.clamp(0.0, 1.0) - have.l).abs();
        let mut is_clipped = lightness_off > CLIPPED_LIGHTNESS;
        let chroma = want.chroma().min(have.chroma());
        if chroma > HUE_CHROMA {
            // Hue is kept when it is kept in OKLCh or in CIELAB: mapping uses the former, and the latter in the darks.
            let (lab, cie) = (color.lab(), wanted[i as usize]);
            let turn = turn(want.hue_degrees(), have.hue_degrees());
            let cie_turn = self::turn(cie.b.atan2(cie.a).to_degrees(), lab.b.atan2(lab.a).to_degrees());
            let drift = (turn.min(cie_turn) - rounding_degrees(color, have)).max(0.0);
            drifts.push((drift, weight));
            is_clipped |= drift > CLIPPED_HUE_DEGREES;
        }
        if is_clipped {
            clipped += f64::from(weight);
        }
    }
    drifts.sort_by(|x, y| x.0.total_cmp(&y.0));
    let area: f64 = drifts.iter().map(|d| f64::from(d.1)).sum();
    let mean = drifts.iter().map(|d| f64::from(d.0) * f64::from(d.1)).sum::<f64>();
    let mut below = 0.0;
    let p99 = drifts.iter().find(|d| {
        below += f64::from(d.1);
        below >= 0.99 * area
    });
    GamutFit {
        clipped_share: clipped,
        hue_drift_p99: p99.map_or(0.0, |d| f64::from(d.0)),
        hue_drift_mean: if area > 0.0 { mean / area } else { 0.0 },
    }
}

/// The angle between two directions, 0..=180 degrees.
fn turn(x: f32, y: f32) -> f32 {
    ((x - y + 540.0).rem_euclid(360.0) - 180.0).abs()
}

/// The hue angle that half a code in every channel can turn a colour by, degrees: in the darks several.
fn rounding_degrees(color: Rgb8, lab: OkLab) -> f32 {
    // Channels at an end have their neighbour on the other side only.
    let step = |v: u8| if v < 255 { v + 1 } else { v - 1 };
    let moved =
        [Rgb8 { r: step(color.r), ..color }, Rgb8 { g: step(color.g), ..color }, Rgb8 { b: step(color.b), ..color }];
    let across: f32 = moved
        .iter()
        .map(|m| {
            let m = m.oklab();
            // The part of the move that is across the hue's direction.
            ((m.a - lab.a) * lab.b - (m.b - lab.b) * lab.a).abs() / lab.chroma().max(1e-6)
        })
        .sum();
    (0.5 * across).atan2(lab.chroma()).to_degrees()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn palette() -> Vec<Rgb8> {
        ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"].iter().map(|c| c.parse().unwrap()).collect()
    }

    /// Colours all over the cube, deterministic.
    fn scattered(count: u32) -> Vec<u32> {
        (0..count).map(|i| i.wrapping_mul(2_654_435_761) >> 8 | 0xff00_0000).collect()
    }

    fn whole(count: usize) -> Sample {
        Sample::new(&vec![1; count], usize::MAX)
    }

    #[test]
    fn palette_colors_have_no_distance_and_all_are_present() {
        let targets = TargetColors::of_palette(&palette());
        let colors: Vec<u32> = palette().iter().map(|c| c.packed()).collect();
        assert!(palette_distance(&View::new(&whole(5), &colors), &targets) < 1e-4);
        let found = coverage(&View::new(&whole(5), &colors), &targets);
        assert_eq!((found.present(), found.complete()), (5, true));
    }

    #[test]
    fn the_short_list_finds_what_a_full_search_finds() {
        for count in [1, 2, 5] {
            let targets = TargetColors::of_palette(&palette()[..count]);
            for &packed in &scattered(3000) {
                let lab = Rgb8::from_packed(packed).lab();
                let full = targets.colors().iter().map(|&t| delta_e_2000(lab, t)).fold(f32::INFINITY, f32::min);
                let quick = targets.nearest(lab).unwrap();
                assert!(quick >= full && quick < full + 0.5, "{lab:?} {quick} {full}");
            }
        }
    }

    #[test]
    fn a_sample_measures_what_the_whole_picture_does() {
        let colors = scattered(60_000);
        let counts: Vec<u32> = (0..60_000u32).map(|i| 1 + i % 7).collect();
        let targets = TargetColors::of_palette(&palette());
        let exact = palette_distance(&View::new(&Sample::new(&counts, usize::MAX), &colors), &targets);
        let quick = palette_distance(&View::new(&Sample::new(&counts, SAMPLE_FOR_MANIFEST), &colors), &targets);
        assert!((quick / exact - 1.0).abs() < 0.03, "{quick} {exact}");
    }

    #[test]
    fn coverage_counts_areas_within_five_and_never_misses_one() {
        let targets = TargetColors::of_palette(&palette());
        let colors = scattered(20_000);
        let found = coverage(&View::new(&whole(20_000), &colors), &targets);
        for (share, &target) in found.shares.iter().zip(targets.colors()) {
            let near = |p: &&u32| delta_e_2000(Rgb8::from_packed(**p).lab(), target) <= PRESENT_DELTA_E;
            let exact = colors.iter().filter(near).count() as f64 / 20_000.0;
            assert!((share - exact).abs() < 1e-6, "{share} {exact}");
        }
        let lost = coverage(
            &View::new(&Sample::new(&[9_999, 1], 2), &[palette()[0].packed(), palette()[1].packed()]),
            &targets,
        );
        assert_eq!((lost.present(), lost.complete()), (1, false));
    }

    #[test]
    fn without_targets_or_colors_there_is_no_distance() {
        let targets = TargetColors::of_palette(&palette());
        assert_eq!(palette_distance(&View::new(&whole(0), &[]), &targets), 0.0);
        assert_eq!(coverage(&View::new(&whole(0), &[]), &targets).present(), 0);
        assert_eq!(palette_distance(&View::new(&whole(2), &[1, 2]), &TargetColors::new([])), 0.0);
    }

    #[test]
    fn fidelity_weighs_each_cluster_by_its_area() {
        let (grey, off) = (Rgb8::new(119, 119, 119), Rgb8::new(139, 119, 119));
        let mapped = [grey.packed(), off.packed()];
        let sample = Sample::new(&[3, 1], 2);
        let targets = [grey.lab(), grey.lab()];
        let expected = f64::from(delta_e_2000(off.lab(), grey.lab())) / 4.0;
        assert!((fidelity(&View::new(&sample, &mapped), &[0, 1], &targets) - expected).abs() < 1e-4);
        // In one cluster both colours share a mean, which is nearer than its parts.
        let together = fidelity(&View::new(&sample, &mapped), &[0, 0], &targets);
        assert!(together > 0.0 && together < delta_e_2000(off.lab(), grey.lab()).into());
        assert_eq!(
            fidelity(&View::new(&sample, &mapped), &[0, 9], &targets),
            0.0,
            "labels without a target are left out"
        );
        assert_eq!(fidelity(&View::new(&whole(0), &[]), &[], &[]), 0.0);
    }

    #[test]
    fn colors_inside_the_gamut_are_neither_clipped_nor_turned() {
        let colors = scattered(20_000);
        let wanted: Vec<Lab> = colors
            .iter()
            .map(|&c| {
                let lab = Rgb8::from_packed(c).lab();
                // Off the lattice, so that rounding has something to do.
                Lab { l: lab.l * 0.9 + 3.3, a: lab.a * 0.77, b: lab.b * 0.77 }
            })
            .collect();
        let got: Vec<u32> = wanted.iter().map(|l| l.to_rgb8().packed()).collect();
        let fit = gamut_fit(&whole(got.len()), &wanted, &got);
        assert!(fit.clipped_share < 1e-4 && fit.hue_drift_p99 < 0.5, "{fit:?}");
    }

    #[test]
    fn chroma_reduction_passes_and_clipping_does_not() {
        // From L* 28 on mapping keeps the OKLCh hue; below, it passes over to CIELAB's.
        let wanted: Vec<Lab> = scattered(20_000)
            .iter()
            .map(|&c| Rgb8::from_packed(c).lab())
            .filter(|lab| lab.l > 28.0)
            .map(|lab| Lab { l: lab.l, a: lab.a * 1.6, b: lab.b * 1.6 })
            .collect();
        let reduced: Vec<u32> = wanted.iter().map(|l| l.to_rgb8().packed()).collect();
        let clipped: Vec<u32> = wanted
            .iter()
            .map(|l| {
                let [r, g, b] = l.to_linear().map(crate::kernel::color::encode_srgb);
                Rgb8 { r, g, b }.packed()
            })
            .collect();
        let good = gamut_fit(&whole(wanted.len()), &wanted, &reduced);
        let bad = gamut_fit(&whole(wanted.len()), &wanted, &clipped);
        assert!(good.clipped_share < 0.001 && good.hue_drift_p99 < 3.0, "{good:?}");
        assert!(bad.clipped_share > 0.25 && bad.hue_drift_p99 > 10.0, "{bad:?}");
    }
}
