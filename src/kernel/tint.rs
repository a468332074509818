//! Mode `tint`: a gradient map. Lightness alone decides the colour: dark parts take the darkest palette colour, light
//! parts the lightest, and what lies between runs through the others in order of lightness (interpolated in OKLab).

use rayon::prelude::*;

use super::color::{Lab, OkLab, Rgb8};
use super::model::LabPlanes;
use super::palette::Palette;

/// Lightness of the shades that a one-colour palette is given at its ends.
const SINGLE_ENDS: (f32, f32) = (8.0, 97.0);

/// Share of the picture that lies outside the range mapped onto the palette, at each end.
const TAIL: f64 = 0.005;

/// A gradient map for one palette.
#[derive(Debug, Clone)]
pub struct TintMap {
    /// Stops in order of lightness: position 0..=1, colour.
    stops: Vec<(f32, OkLab)>,
    /// Source lightness at position 0 and 1.
    range: (f32, f32),
    strength: f32,
}

/// The lightness range of a picture, without the half per cent at either end.
pub fn lightness_range(labs: &LabPlanes, counts: &[u32]) -> (f32, f32) {
    let mut histogram = [0u64; 1001];
    for (l, &count) in labs.l.iter().zip(counts) {
        histogram[(l * 10.0).clamp(0.0, 1000.0) as usize] += u64::from(count);
    }
    let total: u64 = histogram.iter().sum();
    let tail = (total as f64 * TAIL) as u64;
    let mut below = 0u64;
    let low = histogram.iter().position(|&n| {
        below += n;
        below > tail
    });
    let mut above = 0u64;
    let high = histogram.iter().rposition(|&n| {
        above += n;
        above > tail
    });
    (low.unwrap_or(0) as f32 / 10.0, high.unwrap_or(1000) as f32 / 10.0)
}

impl TintMap {
    /// A gradient through `palette` for a picture whose lightness runs over `range`; `strength` is 0..=1.
    pub fn new(palette: &Palette, range: (f32, f32), strength: f32) -> Self {
        let mut labs: Vec<(f32, OkLab)> = palette.colors().iter().map(|c| (c.lab().l, c.oklab())).collect();
        if let [(l, only)] = labs[..] {
            let end = |to: f32| {
                let shade = Lab { l: to, a: 0.0, b: 0.0 }.to_rgb8().oklab();
                (to, OkLab { l: shade.l, a: only.a * 0.35, b: only.b * 0.35 })
            };
            labs.extend((l > SINGLE_ENDS.0 + 5.0).then(|| end(SINGLE_ENDS.0)));
            labs.extend((l < SINGLE_ENDS.1 - 5.0).then(|| end(SINGLE_ENDS.1)));
        }
        labs.sort_by(|x, y| x.0.total_cmp(&y.0));
        let (low, high) = (labs[0].0, labs[labs.len() - 1].0);
        let n = labs.len();
        let stops = labs
            .iter()
            .enumerate()
            .map(|(i, &(l, color))| {
                // Half by lightness, half by rank: colours of like lightness still get a band each.
                let rank = if n > 1 { i as f32 / (n - 1) as f32 } else { 0.5 };
                let light = if high - low > 1.0 { (l - low) / (high - low) } else { rank };
                (0.5 * (rank + light), color)
            })
            .collect();
        Self { stops, range, strength }
    }

    fn at(&self, position: f32) -> OkLab {
        let t = position.clamp(0.0, 1.0);
        let above = self.stops.partition_point(|s| s.0 < t);
        let (low, high) = (self.stops[above.saturating_sub(1)], self.stops[above.min(self.stops.len() - 1)]);
        let span = high.0 - low.0;
        let t = if span > 1e-6 { ((t - low.0) / span).clamp(0.0, 1.0) } else { 0.0 };
        let mix = |x: f32, y: f32| x + t * (y - x);
        OkLab { l: mix(low.1.l, high.1.l), a: mix(low.1.a, high.1.a), b: mix(low.1.b, high.1.b) }
    }

    /// The table of output colours: one packed opaque entry a colour, then one of transparent black.
    pub fn table(&self, labs: &LabPlanes, colors: &[u32]) -> Vec<u32> {
        let span = (self.range.1 - self.range.0).max(1.0);
        let mut table = vec![0u32; colors.len() + 1];
        if self.strength == 0.0 {
            table[..colors.len()].copy_from_slice(colors);
            return table;
        }
        // A thousandth of the range a step: finer than 8 bits can show.
        const STEPS: usize = 1024;
        let ramp: Vec<OkLab> = (0..=STEPS).map(|i| self.at(i as f32 / STEPS as f32)).collect();
        let packed: Vec<u32> = ramp.iter().map(|c| c.to_rgb8().packed()).collect();
        table[..colors.len()].par_iter_mut().enumerate().for_each(|(i, out)| {
            let position = ((labs.l[i] - self.range.0) / span).clamp(0.0, 1.0);
            let step = (position * STEPS as f32 + 0.5) as usize;
            *out = if self.strength >= 1.0 {
                packed[step]
            } else {
                let (from, to) = (Rgb8::from_packed(colors[i]).oklab(), ramp[step]);
                let mix = |x: f32, y: f32| x + self.strength * (y - x);
                OkLab { l: mix(from.l, to.l), a: mix(from.a, to.a), b: mix(from.b, to.b) }.to_rgb8().packed()
            };
        });
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn palette(colors: &[&str]) -> Palette {
        Palette::new("t", colors.iter().map(|c| c.parse().unwrap())).unwrap()
    }

    fn ramp() -> (Vec<u32>, LabPlanes) {
        let colors: Vec<u32> = (0..=255u8).map(|v| Rgb8::new(v, v, v).packed()).collect();
        let labs = LabPlanes::new(&colors);
        (colors, labs)
    }

    #[test]
    fn a_grey_ramp_never_darkens_and_ends_on_the_extreme_colors() {
        let (colors, labs) = ramp();
        for p in [&["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"][..], &["#C0FFEE"], &["#000000", "#FFFFFF"]] {
            let map = TintMap::new(&palette(p), (0.0, 100.0), 1.0);
            let table = map.table(&labs, &colors);
            let out = LabPlanes::new(&table[..256]);
            assert!(out.l.windows(2).all(|w| w[1] >= w[0] - 0.35), "{p:?}");
        }
        let map = TintMap::new(&palette(&["#264653", "#E9C46A"]), (0.0, 100.0), 1.0);
        let table = map.table(&labs, &colors);
        assert_eq!(Rgb8::from_packed(table[0]).to_string(), "#264653");
        assert_eq!(Rgb8::from_packed(table[255]).to_string(), "#E9C46A");
        assert_eq!(table[256], 0);
    }

    #[test]
    fn strength_zero_changes_nothing() {
        let (colors, labs) = ramp();
        let table = TintMap::new(&palette(&["#ff0000"]), (0.0, 100.0), 0.0).table(&labs, &colors);
        assert_eq!(table[..256], colors[..]);
    }
}
