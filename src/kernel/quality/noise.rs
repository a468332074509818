//! Noise gain: what a map makes of small errors in its input.

use rayon::prelude::*;

use super::quantile;
use crate::kernel::color::{Lab, Rgb8};

/// Noise is drawn from −2..=2 codes, evenly, in every channel on its own.
pub const NOISE_CODES: i16 = 2;

/// Draws per colour: the ratio of two deviations over the same draws is within a few per cent of its limit.
const DRAWS: usize = 32;

/// Ratio of standard deviations, out over in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseGain {
    /// Over the colours given.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// Noise gain at ±2 codes: for every colour, noise is added, the noisy colours are mapped, and the standard deviation
/// of the results about their mean is set against that of the noisy inputs about theirs (CIELAB, all three axes
/// together). `None` without colours.
///
/// `map` gives the CIELAB values of many colours in their order: pass the rounded map through [`Rgb8::lab`], or an
/// unrounded one as it is. The draws depend on `seed` and on each colour, not on the order of the list.
pub fn noise_gain(colors: &[Rgb8], seed: u64, map: impl FnOnce(&[Rgb8]) -> Vec<Lab>) -> Option<NoiseGain> {
    let draws: Vec<Rgb8> = colors
        .iter()
        .flat_map(|&color| {
            let mut state = seed ^ u64::from(color.packed()) << 20;
            std::array::from_fn::<Rgb8, DRAWS, _>(|_| {
                let bits = split_mix(&mut state);
                Rgb8::new(nudge(color.r, bits), nudge(color.g, bits >> 16), nudge(color.b, bits >> 32))
            })
        })
        .collect();
    let before: Vec<Lab> = draws.par_iter().map(|c| c.lab()).collect();
    let after = map(&draws);
    let mut gains: Vec<f32> = before
        .par_chunks(DRAWS)
        .zip(after.par_chunks(DRAWS))
        .map(|(before, after)| {
            let (before, after) = (deviation(before), deviation(after));
            // Five values in three channels never draw 32 equal colours in practice; an equal draw has no gain.
            if before > 0.0 { after / before } else { 0.0 }
        })
        .collect();
    let median = quantile(&mut gains, 0.5)?;
    let p95 = quantile(&mut gains, 0.95)?;
    Some(NoiseGain { median: f64::from(median), p95: f64::from(p95) })
}

/// A channel moved by −2..=2 codes and kept in range; reads the low 16 bits.
fn nudge(channel: u8, bits: u64) -> u8 {
    let span = 2 * NOISE_CODES as u64 + 1;
    let offset = (((bits & 0xffff) * span) >> 16) as i16 - NOISE_CODES;
    (i16::from(channel) + offset).clamp(0, 255) as u8
}

fn deviation(labs: &[Lab]) -> f32 {
    let n = labs.len() as f64;
    let mean = labs
        .iter()
        .fold([0.0f64; 3], |[l, a, b], x| [l + f64::from(x.l) / n, a + f64::from(x.a) / n, b + f64::from(x.b) / n]);
    let mean = Lab { l: mean[0] as f32, a: mean[1] as f32, b: mean[2] as f32 };
    (labs.iter().map(|x| f64::from(x.distance_squared(mean))).sum::<f64>() / n).sqrt() as f32
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colors() -> Vec<Rgb8> {
        (0..64u8).map(|i| Rgb8::new(60 + i * 2, 180 - i, 90 + i)).collect()
    }

    /// One color at a time.
    fn each(map: impl Fn(Rgb8) -> Lab) -> impl FnOnce(&[Rgb8]) -> Vec<Lab> {
        move |colors| colors.iter().map(|&c| map(c)).collect()
    }

    #[test]
    fn the_identity_passes_noise_on_as_it_is() {
        let gain = noise_gain(&colors(), 1, each(Rgb8::lab)).unwrap();
        assert!((gain.median - 1.0).abs() < 1e-6 && (gain.p95 - 1.0).abs() < 1e-6, "{gain:?}");
    }

    #[test]
    fn a_stretched_map_passes_it_on_stretched_and_a_constant_one_not_at_all() {
        let tripled = |c: Rgb8| {
            let lab = c.lab();
            Lab { l: 3.0 * lab.l, a: 3.0 * lab.a, b: 3.0 * lab.b }
        };
        let gain = noise_gain(&colors(), 1, each(tripled)).unwrap();
        assert!((gain.median - 3.0).abs() < 1e-3, "{gain:?}");
        let flat = noise_gain(&colors(), 1, each(|_| Lab { l: 50.0, a: 0.0, b: 0.0 })).unwrap();
        assert_eq!((flat.median, flat.p95), (0.0, 0.0));
    }

    #[test]
    fn a_cliff_under_a_color_shows_in_its_noise() {
        let cliff = |c: Rgb8| Lab { l: if c.g < 150 { 20.0 } else { 80.0 }, a: 0.0, b: 0.0 };
        let on_the_edge = [Rgb8::new(120, 150, 120)];
        assert!(noise_gain(&on_the_edge, 1, each(cliff)).unwrap().median > 10.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_figure_in_any_order() {
        let (forward, mut backward) = (colors(), colors());
        backward.reverse();
        let map = |c: Rgb8| Lab { l: f32::from(c.g) / 2.0, a: f32::from(c.r), b: 0.0 };
        assert_eq!(noise_gain(&forward, 9, each(map)), noise_gain(&backward, 9, each(map)));
        assert_ne!(noise_gain(&forward, 9, each(map)), noise_gain(&forward, 10, each(map)));
        assert_eq!(noise_gain(&[], 9, each(map)), None);
    }
}
