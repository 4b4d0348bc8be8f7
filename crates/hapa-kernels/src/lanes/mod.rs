//! Sixteen floats at a time, in whatever registers the machine has.
//!
//! Kernels that are not the integer matmul are written once over [`Lanes`] and compiled for each
//! instruction set by [`crate::isa::for_each_isa`]. Sums across lanes use one fixed tree, so that
//! sets differ only by fused multiplication.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
mod plain;

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use avx2::Avx2Lanes;
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use avx512::Avx512Lanes;
pub(crate) use plain::PlainLanes;

/// How many floats one [`Lanes`] holds.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`.
///
/// # Safety
/// Every method needs the CPU features of its implementation; callers are generic functions that
/// are instantiated inside a function with those features enabled.
#[allow(clippy::missing_safety_doc)] // said once above
pub(crate) trait Lanes: Copy {
    /// Whether sixteen and more of these fit the registers.
    const WIDE: bool;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: &[f32; LANES]) -> Self;
    unsafe fn store(self, to: &mut [f32; LANES]);
    /// Takes bits as floats.
    #[inline(always)]
    unsafe fn load_bits(from: &[u32; LANES]) -> Self {
        // SAFETY: passed on to the caller.
        unsafe { Self::load(&from.map(f32::from_bits)) }
    }
    /// Widens brain floats: the high halves of floats.
    unsafe fn load_brain(from: &[u16; LANES]) -> Self;
    /// Widens IEEE halves.
    unsafe fn load_half(from: &[u16; LANES]) -> Self;
    /// Narrows to IEEE halves, to nearest even.
    unsafe fn store_half(self, to: &mut [u16; LANES]);
    /// Widens signed bytes.
    unsafe fn load_i8(from: &[i8; LANES]) -> Self;
    /// Narrows integral values of -128 to 127 to bytes.
    unsafe fn store_i8(self, to: &mut [i8; LANES]);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, fused where the machine can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// Two to the power of integral lanes of -127 to 127; -127 gives zero.
    unsafe fn exp2_integral(self) -> Self;
    /// Sum of all lanes: halves are added, then quarters, and so on.
    unsafe fn sum(self) -> f32;
    /// Largest lane.
    unsafe fn largest(self) -> f32;

    /// `e` to the power of each lane, to about 2 ulp; 0 below -87.6, and so for minus infinity.
    ///
    /// Range reduction by `ln 2` in two parts and the degree-6 minimax polynomial of Cephes'
    /// `expf`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller has this implementation's features.
        unsafe {
            let x = self.max(Self::splat(-87.8)).min(Self::splat(88.0));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = n.mul_add(Self::splat(-0.693_359_4), x);
            let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
            let p = Self::splat(1.987_569_1e-4);
            let p = p.mul_add(r, Self::splat(1.398_199_9e-3));
            let p = p.mul_add(r, Self::splat(8.333_452e-3));
            let p = p.mul_add(r, Self::splat(4.166_579_6e-2));
            let p = p.mul_add(r, Self::splat(1.666_666_5e-1));
            let p = p.mul_add(r, Self::splat(0.5));
            let p = p.mul_add(r.mul(r), r).add(Self::splat(1.0));
            p.mul(n.exp2_integral())
        }
    }
}

/// Loads up to sixteen floats, the rest `fill`.
#[inline(always)]
pub(crate) unsafe fn load_part<L: Lanes>(from: &[f32], fill: f32) -> L {
    if let Ok(whole) = from.try_into() {
        // SAFETY: passed on to the caller.
        return unsafe { L::load(whole) };
    }
    let mut whole = [fill; LANES];
    whole[..from.len()].copy_from_slice(from);
    // SAFETY: passed on to the caller.
    unsafe { L::load(&whole) }
}

/// Stores the first `to.len()` lanes.
#[inline(always)]
pub(crate) unsafe fn store_part<L: Lanes>(lanes: L, to: &mut [f32]) {
    if let Some(whole) = to.as_mut_array::<LANES>() {
        // SAFETY: passed on to the caller.
        return unsafe { lanes.store(whole) };
    }
    let mut whole = [0.0; LANES];
    // SAFETY: passed on to the caller.
    unsafe { lanes.store(&mut whole) };
    to.copy_from_slice(&whole[..to.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Proven, for_each_isa};

    #[inline(always)]
    unsafe fn exp_all<L: Lanes>(x: &[f32; LANES], out: &mut [f32; LANES]) {
        // SAFETY: instantiated by `for_each_isa`.
        unsafe { L::load(x).exp().store(out) }
    }
    for_each_isa!(fn exp16(x: &[f32; LANES], out: &mut [f32; LANES]) = exp_all);

    #[inline(always)]
    unsafe fn narrow_all<L: Lanes>(
        x: &[f32; LANES],
        half: &mut [u16; LANES],
        back: &mut [f32; LANES],
        sums: &mut [f32; 2],
    ) {
        // SAFETY: instantiated by `for_each_isa`.
        unsafe {
            let lanes = L::load(x);
            lanes.store_half(half);
            let mut bytes = [0i8; LANES];
            lanes.round().store_i8(&mut bytes);
            L::load_i8(&bytes).add(L::load_half(half)).store(back);
            *sums = [lanes.sum(), lanes.largest()];
        }
    }
    for_each_isa! {
        fn narrow16(
            x: &[f32; LANES],
            half: &mut [u16; LANES],
            back: &mut [f32; LANES],
            sums: &mut [f32; 2],
        ) = narrow_all
    }

    #[test]
    fn exp_is_within_two_millionths_of_the_library() {
        for isa in Isa::ALL.into_iter().filter_map(Proven::new) {
            let mut out = [0.0; LANES];
            for step in 0..if cfg!(miri) { 20 } else { 4000 } {
                let x: [f32; LANES] = std::array::from_fn(|lane| {
                    -86.0 + (step * 16 + lane) as f32 * (170.0 / 64000.0)
                });
                exp16(isa, &x, &mut out);
                for (x, got) in x.iter().zip(out) {
                    let want = f64::from(*x).exp();
                    assert!((f64::from(got) / want - 1.0).abs() < 2e-6, "{isa:?} exp({x}) = {got}");
                }
            }
            exp16(isa, &[f32::NEG_INFINITY; LANES], &mut out);
            assert_eq!(out, [0.0; LANES]);
            exp16(isa, &[0.0; LANES], &mut out);
            assert_eq!(out, [1.0; LANES]);
        }
    }

    #[test]
    fn conversions_and_reductions_agree_on_all_sets() {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.3) * 13.7);
        let mut want = None;
        for isa in Isa::ALL.into_iter().filter_map(Proven::new) {
            let (mut half, mut back, mut sums) = ([0; LANES], [0.0; LANES], [0.0; 2]);
            narrow16(isa, &x, &mut half, &mut back, &mut sums);
            for (h, x) in half.iter().zip(x) {
                assert_eq!(*h, half::f16::from_f32(x).to_bits());
            }
            assert_eq!(sums[1], x[15]);
            assert_eq!(*want.get_or_insert((half, back, sums)), (half, back, sums));
        }
    }
}
