//! Loops compiled for the processor at hand.

use pulp::{Arch, Simd, WithSimd};

/// Runs `work` compiled for the widest vector instructions that this processor has (AVX2 on x86-64).
///
/// Write the argument as `#[inline(always)] || { … }` and mark what it calls `#[inline(always)]` too: only code that
/// is inlined is compiled for those instructions. It is taken as `FnMut`, because a call through `FnOnce` goes through
/// a shim that is not inlined; the loops inside then silently stay at the baseline, at a fifth of the speed.
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
