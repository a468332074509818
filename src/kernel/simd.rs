//! Loops compiled for the processor at hand, and arithmetic for them that the standard library has only as calls.

use pulp::{Arch, Simd, WithSimd};

/// Runs `work` compiled for the widest vector instructions that this processor has (AVX-512
/// or AVX2 on x86-64).
///
/// Write the argument as `#[inline(always)] || { … }` and mark what it calls `#[inline(always)]` too: only code that
/// is inlined is compiled for those instructions. It is taken as `FnMut`, because a call through `FnOnce` goes through
/// a shim that is not inlined; the loops inside then silently stay at the baseline, at a fifth of the speed. The same
/// goes for closures given to `array::map`, and for loops that index several slices reached through captured references:
/// zip their iterators instead.
#[inline]
pub(crate) fn vectorize(mut work: impl FnMut()) {
    struct Vectorized<'a, W>(&'a mut W);
    impl<W: FnMut()> WithSimd for Vectorized<'_, W> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            (self.0)();
        }
    }
    Arch::new().dispatch(Vectorized(&mut work));
}

/// e^x for x ≤ 0, relative error below 3e-6: 2^n by exponent bits, the fraction by a polynomial. Vectorises.
#[inline(always)]
pub(crate) fn exp_negative(x: f32) -> f32 {
    let y = (x * std::f32::consts::LOG2_E).max(-125.0);
    // Adding 1.5·2^23 leaves the rounded value in the low bits; a cast would saturate, and not vectorise.
    let whole = (y + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
    let f = (y - whole as f32) * std::f32::consts::LN_2;
    let p = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f * (1.0 / 720.0))))));
    p * f32::from_bits(((whole + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_exponential_is_exact_enough() {
        for i in 0..10_000 {
            let x = -(i as f32) * 0.005;
            let (got, expected) = (exp_negative(x), x.exp());
            assert!((got - expected).abs() <= 1e-5 * expected, "{x}: {got} {expected}");
        }
    }
}
