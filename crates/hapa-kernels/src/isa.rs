//! Instruction sets, chosen once at run time.

use crate::error::KernelError;
use std::fmt;
use std::str::FromStr;

/// The instruction set a [`crate::Kernels`] computes with.
///
/// All of them give the same integer sums; floats may differ in the last bits between sets, never
/// between batch sizes of one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Portable Rust: the oracle.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 and the 256-bit byte dot product (AVX-VNNI).
    AvxVnni,
    /// AVX-512 (F, BW, DQ, VL) and the 512-bit byte dot product (VNNI).
    Avx512Vnni,
    /// The same, and tiles of bytes (AMX-INT8) for batches.
    Amx,
}

impl Isa {
    /// Every instruction set this crate has code for, slowest first.
    pub const ALL: [Self; 5] =
        [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Amx];

    /// Whether this machine can run it.
    pub fn is_supported(self) -> bool {
        Proven::new(self).is_some()
    }

    /// The best one this machine can run.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|isa| isa.is_supported()).unwrap_or(Self::Scalar)
    }

    /// What `HAPA_ISA` names, or [`Isa::detect`] where it is unset or empty.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] for a name that is none, [`KernelError::UnsupportedIsa`] for one
    /// that this machine lacks.
    pub fn from_env() -> Result<Self, KernelError> {
        match std::env::var("HAPA_ISA") {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Self::detect()),
        }
    }

    /// Its name: `scalar`, `avx2`, `avxvnni`, `avx512vnni` or `amx`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| KernelError::UnknownIsa { name: name.to_owned() })?;
        if isa.is_supported() { Ok(isa) } else { Err(KernelError::UnsupportedIsa { isa }) }
    }
}

/// An instruction set that this machine was seen to have: what makes calls into `target_feature`
/// functions sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proven(Isa);

impl Proven {
    /// Checks the machine.
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        let supported = match isa {
            Isa::Scalar => true,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx2 => has_avx2(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::AvxVnni => has_avx2() && std::arch::is_x86_feature_detected!("avxvnni"),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx512Vnni => has_avx512(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Amx => has_avx512() && amx_permission(),
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            _ => false,
        };
        supported.then_some(Self(isa))
    }

    /// Which one.
    pub(crate) const fn isa(self) -> Isa {
        self.0
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn has_avx512() -> bool {
    has_avx2()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512vnni")
}

/// Whether this process may use AMX on bytes. Linux grants the tile registers, which make each
/// thread's saved state eight kilobytes larger, only to processes that ask.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
fn amx_permission() -> bool {
    static PERMISSION: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PERMISSION.get_or_init(|| {
        let highest = std::arch::x86_64::__cpuid(0).eax;
        if highest < 7 {
            return false;
        }
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        if std::arch::x86_64::__cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
            return false;
        }
        const SYS_ARCH_PRCTL: usize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        let result: isize;
        // SAFETY: the call reads and writes no memory of this process. It fails, and that is all,
        // where the kernel or the machine has no tile registers.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") SYS_ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    })
}

/// Other systems are not asked: the 512-bit byte dot product serves there.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux"), not(miri)))]
fn amx_permission() -> bool {
    false
}

/// Makes `fn name(isa, args)` out of a generic function over [`crate::lanes::Lanes`], compiled once
/// for each instruction set.
macro_rules! for_each_isa {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        $crate::isa::for_each_isa! { @ [unsafe] $(#[$meta])* $vis fn $($rest)* }
    };
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        $crate::isa::for_each_isa! { @ [] $(#[$meta])* $vis fn $($rest)* }
    };
    (
        @ [$($unsafe:ident)?] $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:ident
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // the instruction set comes on top
        $vis $($unsafe)? fn $name(isa: $crate::isa::Proven, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's features are those the lanes ask for.
                unsafe { $generic::<$crate::lanes::Avx2Lanes>($($arg),*) }
            }
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's features are those the lanes ask for.
                unsafe { $generic::<$crate::lanes::Avx512Lanes>($($arg),*) }
            }
            match isa.isa() {
                // SAFETY: plain lanes need no feature; the rest is passed on.
                $crate::isa::Isa::Scalar => unsafe {
                    $generic::<$crate::lanes::PlainLanes>($($arg),*)
                },
                // SAFETY: `Proven` was made only after the machine was seen to have the features;
                // the rest is passed on.
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                $crate::isa::Isa::Avx2 | $crate::isa::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(all(target_arch = "x86_64", not(miri)))]
                $crate::isa::Isa::Avx512Vnni | $crate::isa::Isa::Amx => unsafe {
                    avx512($($arg),*)
                },
                // SAFETY: plain lanes need no feature; the rest is passed on.
                #[cfg(not(all(target_arch = "x86_64", not(miri))))]
                _ => unsafe { $generic::<$crate::lanes::PlainLanes>($($arg),*) },
            }
        }
    };
}
pub(crate) use for_each_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::ALL {
            match isa.name().parse::<Isa>() {
                Ok(parsed) => assert_eq!(parsed, isa),
                Err(error) => {
                    assert!(!isa.is_supported());
                    assert_eq!(error, KernelError::UnsupportedIsa { isa });
                }
            }
        }
        assert!(matches!("avx10".parse::<Isa>(), Err(KernelError::UnknownIsa { .. })));
        assert!(Isa::detect().is_supported());
    }
}
