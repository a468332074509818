//! From lightness to colour: gradients between colours, and tables of them.

use super::field::{DARKEST, percentile};
use crate::kernel::color::{DECODE, OkLab, Rgb8, cbrt_positive};

/// Chroma that the middle of a gradient keeps of what its ends have, where a straight line would pass through grey.
const LEAST_CHROMA: f32 = 0.8;

/// Pixels of the histogram left out at either end of the levels.
const CLIPPED: f64 = 0.005;
/// Share of the darkest lightness that becomes black.
const BLACK: f32 = 0.85;
/// The most that levels may stretch.
const MAX_STRETCH: f32 = 2.5;

/// Where black and white lie: lightness stretched to the scale.
pub(super) struct Levels {
    low: f32,
    gain: f32,
}

impl Levels {
    /// Levels of a [`histogram`](super::field::histogram).
    pub fn new(counts: &[u32; 256]) -> Self {
        let (low, high) = (percentile(counts, CLIPPED), percentile(counts, 1.0 - CLIPPED));
        if high - low < 0.02 {
            return Self { low: 0.0, gain: 1.0 };
        }
        // Shadows that were never black do not become so quite.
        let low = BLACK * low;
        // What may not be stretched so far is stretched about its own place on the scale.
        let gain = (1.0 / (high - low)).min(MAX_STRETCH);
        let free = 1.0 - gain * (high - low);
        let share = low / (low + 1.0 - high).max(1e-6);
        Self { low: low - free * share / gain, gain }
    }

    #[inline(always)]
    /// A lightness on the stretched scale, 0..=1.
    pub fn apply(&self, v: f32) -> f32 {
        ((v - self.low) * self.gain).clamp(0.0, 1.0)
    }
}

/// OKLab coordinates of a colour, black included.
pub(super) fn oklab(color: Rgb8) -> OkLab {
    OkLab::from_linear([color.r, color.g, color.b].map(|v| DECODE[usize::from(v)].max(DARKEST)))
}

/// `colors` from dark to light, equal ones once; of a single colour a shade and a tint beside it; of none black and
/// white.
pub(super) fn ordered(colors: &[Rgb8]) -> Vec<Rgb8> {
    let mut ordered = colors.to_vec();
    ordered.sort_by(|x, y| oklab(*x).l.total_cmp(&oklab(*y).l).then(x.cmp(y)));
    ordered.dedup();
    if let [color] = *ordered.as_slice() {
        let lab = oklab(color);
        let at = |l: f32, share: f32| OkLab { l, a: lab.a * share, b: lab.b * share }.to_rgb8();
        ordered = vec![at((0.35 * lab.l).min(0.2), 0.5), color, at(1.0 - 0.25 * (1.0 - lab.l), 0.25)];
        ordered.sort_by(|x, y| oklab(*x).l.total_cmp(&oklab(*y).l));
        ordered.dedup();
    }
    if ordered.len() < 2 {
        ordered = vec![Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)];
    }
    ordered
}

/// The colour at `t`, 0..=1, between two: straight in OKLab, except that it keeps chroma on the way.
pub(super) fn between(from: OkLab, to: OkLab, t: f32) -> OkLab {
    let mix = |x: f32, y: f32| x + t * (y - x);
    let straight = OkLab { l: mix(from.l, to.l), a: mix(from.a, to.a), b: mix(from.b, to.b) };
    let (chroma, wanted) = (straight.chroma(), LEAST_CHROMA * mix(from.chroma(), to.chroma()));
    // Towards grey itself there is no hue to keep.
    let gain = if chroma > 0.004 { (wanted / chroma).clamp(1.0, 4.0) } else { 1.0 };
    OkLab { a: straight.a * gain, b: straight.b * gain, ..straight }
}

/// The colour at `t`, 0..=1, of a gradient through at least one colour, evenly spaced.
pub(super) fn along(stops: &[Rgb8], t: f32) -> OkLab {
    let [first, .., last] = stops else { return stops.first().map_or(OkLab::default(), |c| oklab(*c)) };
    let at = t.clamp(0.0, 1.0) * (stops.len() - 1) as f32;
    let i = at as usize;
    match (stops.get(i), stops.get(i + 1)) {
        (Some(from), Some(to)) => between(oklab(*from), oklab(*to), at - i as f32),
        _ => oklab(*if t > 0.5 { last } else { first }),
    }
}

/// The darkest and the lightest of `colors`; a single colour between a shade and a tint of its own.
pub(super) fn ends(colors: &[Rgb8]) -> Vec<Rgb8> {
    match ordered(colors).as_slice() {
        [first, .., last] if colors.len() > 1 => vec![*first, *last],
        all => all.to_vec(),
    }
}

/// Per sRGB code of grey, the packed opaque colour of the gradient between the [`ends`] of `colors`.
pub(super) fn duotone(colors: &[Rgb8]) -> [u32; 256] {
    let stops = ends(colors);
    table(|l| along(&stops, l))
}

/// Per sRGB code of grey, the packed opaque colour for that grey's OKLab lightness.
pub(super) fn table(color: impl Fn(f32) -> OkLab) -> [u32; 256] {
    let lut = &*DECODE;
    std::array::from_fn(|code| color(cbrt_positive(lut[code].max(DARKEST))).to_rgb8().packed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_ordered_by_lightness_and_one_gets_company() {
        let (navy, teal, sand) = (Rgb8::new(11, 37, 69), Rgb8::new(42, 157, 143), Rgb8::new(233, 196, 106));
        assert_eq!(ordered(&[sand, navy, teal, navy]), [navy, teal, sand]);
        let alone = ordered(&[teal]);
        assert!(alone.len() == 3 && alone[1] == teal, "{alone:?}");
        assert_eq!(ordered(&[]).len(), 2);
        for lone in [Rgb8::new(0, 0, 0), Rgb8::new(255, 255, 255)] {
            assert!(ordered(&[lone]).len() >= 2);
        }
    }

    #[test]
    fn a_gradient_ends_in_its_colors_and_rises_in_between() {
        let ends = [Rgb8::new(11, 37, 69), Rgb8::new(233, 196, 106)];
        let colors = duotone(&[ends[1], Rgb8::new(200, 30, 30), ends[0]]).map(Rgb8::from_packed);
        assert_eq!((colors[0], colors[255]), (ends[0], ends[1]));
        assert!(colors.windows(2).all(|pair| pair[0].oklab().l <= pair[1].oklab().l + 2e-3));
        // Blue to yellow passes near grey, and keeps some of its chroma.
        assert!(colors[128].oklab().chroma() > 0.04, "{:?}", colors[128].oklab());
    }
}
