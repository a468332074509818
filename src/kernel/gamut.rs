//! Gamut mapping: colours outside sRGB give up chroma, not hue.
//!
//! CSS Color 4 reduces chroma at constant OKLCh lightness and hue. There are two departures. Together with chroma that
//! fades towards black (see [`super::recolor`]) they took the worst mapping gain of ten pictures under pastel and navy
//! palettes (99.9th percentile) from 41.8 to 9.1:
//!
//! - Above an OKLab lightness of 0.72 the reduction runs towards grey of that lightness instead of straight sideways. Near white the
//!   gamut is a narrow peak whose width changes by ten for every one of lightness; moving down as well crosses its
//!   flank at a better angle, and what is barely outside barely moves.
//! - Below L* 10 it runs in CIELAB, blending to OKLab until L* 28. OKLab takes cube roots that are infinitely steep
//!   where a cone response crosses zero, which dark saturated blues do; CIELAB is linear there.

use super::color::{Lab, OkLab};

/// How far outside 0..=1 a linear channel may lie and still be clipped: under a tenth of an 8-bit code.
pub const SLACK: f32 = 2e-5;

/// OKLab lightness above which colours give up some lightness with their chroma.
const PIVOT: f32 = 0.72;

/// CIELAB lightness where OKLab starts to take over, and the length of the blend.
const BLEND: (f32, f32) = (10.0, 18.0);

/// Halvings of the search: the surface is met within 1/4096 of the colour's chroma.
const HALVINGS: usize = 12;

/// By how much linear sRGB leaves the gamut; 0 or less inside it.
#[inline(always)]
pub fn excess([r, g, b]: [f32; 3]) -> f32 {
    (r.max(g).max(b) - 1.0).max(-r.min(g).min(b))
}

/// Whether linear sRGB lies inside the gamut, within [`SLACK`].
#[inline(always)]
pub fn contains(rgb: [f32; 3]) -> bool {
    excess(rgb) <= SLACK
}

/// Brings linear sRGB into the gamut; colours inside come back unchanged.
pub fn fit(rgb: [f32; 3]) -> [f32; 3] {
    if contains(rgb) {
        return rgb;
    }
    fit_lanes(&rgb.map(|v| [v])).map(|[v]| v)
}

/// Brings `N` colours outside the gamut onto its surface; planes of linear red, green and blue.
#[inline(always)]
pub(crate) fn fit_lanes<const N: usize>(rgb: &[[f32; N]; 3]) -> [[f32; N]; 3] {
    let mut ok = [[0f32; N]; 3];
    let mut base = [0f32; N];
    let mut cie = [[0f32; N]; 3];
    for n in 0..N {
        let lab = OkLab::from_linear([rgb[0][n], rgb[1][n], rgb[2][n]]);
        // Beyond white the path still starts at the pivot: chroma must not vanish at once there.
        let l = lab.l.clamp(0.0, 1.0);
        base[n] = l.min(PIVOT);
        ok[0][n] = l - base[n];
        ok[1][n] = lab.a;
        ok[2][n] = lab.b;
        let lab = Lab::from_linear([rgb[0][n], rgb[1][n], rgb[2][n]]);
        cie[0][n] = lab.l.clamp(0.0, 100.0);
        cie[1][n] = lab.a;
        cie[2][n] = lab.b;
    }
    let in_ok = |n: usize, t: f32| OkLab { l: base[n] + ok[0][n] * t, a: ok[1][n] * t, b: ok[2][n] * t }.to_linear();
    let in_cie = |n: usize, t: f32| Lab { l: cie[0][n], a: cie[1][n] * t, b: cie[2][n] * t }.to_linear();
    let keep_ok = most_chroma::<N>(in_ok);
    let keep_cie = most_chroma::<N>(in_cie);
    let mut out = [[0f32; N]; 3];
    for n in 0..N {
        let (x, y) = (in_cie(n, keep_cie[n]), in_ok(n, keep_ok[n]));
        let t = ((cie[0][n] - BLEND.0) / BLEND.1).clamp(0.0, 1.0);
        for c in 0..3 {
            out[c][n] = (x[c] + t * (y[c] - x[c])).clamp(0.0, 1.0);
        }
    }
    out
}

/// The largest share of chroma in 0..=1 at which each colour of a path is inside the gamut, by halving.
#[inline(always)]
fn most_chroma<const N: usize>(path: impl Fn(usize, f32) -> [f32; 3]) -> [f32; N] {
    let mut inside = [0f32; N];
    let mut outside = [1f32; N];
    for _ in 0..HALVINGS {
        for n in 0..N {
            let middle = 0.5 * (inside[n] + outside[n]);
            let fits = contains(path(n, middle));
            inside[n] = if fits { middle } else { inside[n] };
            outside[n] = if fits { outside[n] } else { middle };
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hue_is_kept_and_lightness_up_to_the_pivot() {
        for hue in (0..360).step_by(5) {
            for l in [0.6f32, 0.65, 0.7] {
                let got = OkLab::from_linear(fit(OkLab::from_lch(l, 0.5, hue as f32).to_linear()));
                let drift = (got.hue_degrees() - hue as f32 + 540.0).rem_euclid(360.0) - 180.0;
                assert!(drift.abs() < 1.0 && (got.l - l).abs() < 0.005, "hue {hue} l {l}: {drift} {}", got.l);
            }
        }
    }

    #[test]
    fn every_color_ends_inside() {
        for l in 0..=10 {
            for a in -10..=10 {
                for b in -10..=10 {
                    let wanted = Lab { l: 10.0 * l as f32, a: 15.0 * a as f32, b: 15.0 * b as f32 };
                    let got = fit(wanted.to_linear());
                    assert!(contains(got), "{wanted:?} {got:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_step_outside_is_a_small_step_on_the_surface() {
        // Pale yellow and navy, where straight chroma reduction jumps.
        for (from, to) in [([97.0, -15.0, 60.0], [98.5, -15.0, 60.0]), ([3.0, 40.0, -60.0], [6.0, 40.0, -60.0])] {
            let at = |t: f32| {
                let mix = |i: usize| from[i] + t * (to[i] - from[i]);
                Lab::from_linear(fit(Lab { l: mix(0), a: mix(1), b: mix(2) }.to_linear()))
            };
            for i in 0..100 {
                let (x, y) = (at(i as f32 / 100.0), at((i + 1) as f32 / 100.0));
                let step = (to[0] - from[0]) / 100.0;
                assert!(x.distance(y) < 18.0 * step, "{x:?} {y:?}");
            }
        }
    }
}
