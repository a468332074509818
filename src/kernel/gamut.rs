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
use super::simd::vectorize;

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

/// Brings every colour of a list, linear sRGB, into the gamut; colours inside stay as they are.
pub(crate) fn fit_all(colors: &mut [[f32; 3]]) {
    const LANES: usize = 16;
    let outside: Vec<usize> = (0..colors.len()).filter(|&i| !contains(colors[i])).collect();
    vectorize(
        #[inline(always)]
        || {
            for places in outside.chunks(LANES) {
                // Spare lanes repeat the first colour.
                let mut rgb = [[0f32; LANES]; 3];
                for n in 0..LANES {
                    let color = colors[places[if n < places.len() { n } else { 0 }]];
                    for (plane, v) in rgb.iter_mut().zip(color) {
                        plane[n] = v;
                    }
                }
                let fitted = fit_lanes(&rgb);
                for (n, &i) in places.iter().enumerate() {
                    colors[i] = [fitted[0][n], fitted[1][n], fitted[2][n]];
                }
            }
        },
    );
}

/// Brings `N` colours outside the gamut onto its surface; planes of linear red, green and blue.
#[inline(always)]
pub(crate) fn fit_lanes<const N: usize>(rgb: &[[f32; N]; 3]) -> [[f32; N]; 3] {
    let mut cie = [[0f32; N]; 3];
    let mut blend = [0f32; N];
    for n in 0..N {
        let lab = Lab::from_linear([rgb[0][n], rgb[1][n], rgb[2][n]]);
        cie[0][n] = lab.l.clamp(0.0, 100.0);
        cie[1][n] = lab.a;
        cie[2][n] = lab.b;
        blend[n] = ((cie[0][n] - BLEND.0) / BLEND.1).clamp(0.0, 1.0);
    }
    // Few colours are so dark that they need CIELAB, and fewer need nothing else.
    let (least, most) = blend.iter().fold((1f32, 0f32), |(least, most), &t| (least.min(t), most.max(t)));
    let mut out = if most > 0.0 { fit_in_oklab(rgb) } else { [[0f32; N]; 3] };
    if least < 1.0 {
        let dark = fit_in_cielab(&cie);
        for (out, dark) in out.iter_mut().zip(&dark) {
            for n in 0..N {
                let mixed = dark[n] + blend[n] * (out[n] - dark[n]);
                out[n] = if blend[n] < 1.0 { mixed } else { out[n] };
            }
        }
    }
    for plane in &mut out {
        plane.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    }
    out
}

#[inline(always)]
fn fit_in_oklab<const N: usize>(rgb: &[[f32; N]; 3]) -> [[f32; N]; 3] {
    let mut rays = [[[0f32; N]; 4]; 3];
    for n in 0..N {
        let lab = OkLab::from_linear([rgb[0][n], rgb[1][n], rgb[2][n]]);
        // Beyond white the path still starts at the pivot: chroma must not vanish at once there.
        let l = lab.l.clamp(0.0, 1.0);
        let base = l.min(PIVOT);
        let ray = OkLab { l: l - base, ..lab }.ray_to_linear(base);
        for c in 0..3 {
            for power in 0..4 {
                rays[c][power][n] = ray[c][power];
            }
        }
    }
    on_surface(|n, t| {
        let channel = |c: usize| rays[c][0][n] + t * (rays[c][1][n] + t * (rays[c][2][n] + t * rays[c][3][n]));
        [channel(0), channel(1), channel(2)]
    })
}

#[inline(always)]
fn fit_in_cielab<const N: usize>([l, a, b]: &[[f32; N]; 3]) -> [[f32; N]; 3] {
    on_surface(|n, t| Lab { l: l[n], a: a[n] * t, b: b[n] * t }.to_linear())
}

/// The colours of `N` paths at the largest t in 0..=1 that is inside the gamut, found by halving; t = 0 is inside.
#[inline(always)]
fn on_surface<const N: usize>(path: impl Fn(usize, f32) -> [f32; 3]) -> [[f32; N]; 3] {
    let mut inside = [0f32; N];
    let mut step = 0.5f32;
    for _ in 0..HALVINGS {
        for (n, t) in inside.iter_mut().enumerate() {
            let further = *t + step;
            *t = if contains(path(n, further)) { further } else { *t };
        }
        step *= 0.5;
    }
    let mut out = [[0f32; N]; 3];
    for n in 0..N {
        let color = path(n, inside[n]);
        for (plane, v) in out.iter_mut().zip(color) {
            plane[n] = v;
        }
    }
    out
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
    fn many_at_once_are_as_one_by_one() {
        let mut colors: Vec<[f32; 3]> = (0..500)
            .map(|i| Lab { l: i as f32 / 5.0, a: (i * 37 % 200) as f32 - 100.0, b: (i * 53 % 200) as f32 - 100.0 })
            .map(Lab::to_linear)
            .collect();
        let single: Vec<[f32; 3]> = colors.iter().map(|&c| fit(c)).collect();
        fit_all(&mut colors);
        for (x, y) in colors.iter().zip(&single) {
            assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-3), "{x:?} {y:?}");
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
