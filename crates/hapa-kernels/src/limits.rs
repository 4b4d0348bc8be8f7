//! What the machine can do at most: the two roofs of a roofline (<https://doi.org/10.1145/1498765.1498785>).
//!
//! Decode of one sequence reads every weight once for each token and is bound by the first; a long prompt is bound by
//! the second. Both are measured with loops that do nothing else.

use crate::aligned::AlignedBytes;
use crate::isa::{Isa, Proven};
use crate::team::Team;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What a team of threads can do at most on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineLimits {
    /// Bytes of memory that are read in a second, in long runs, out of no cache.
    pub read_bytes_per_second: f64,
    /// Products of two bytes that are added up in a second, with all operands in registers.
    pub byte_macs_per_second: f64,
}

/// Larger than the caches of a few cores; pages of the usual size, as those of a mapped file.
const READ_BYTES: usize = 256 << 20;

/// Pieces of the memory that one thread reads at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Turns of the loop that multiplies.
const TURNS: usize = 1 << 20;

/// Measures for about half a second. The middle one of many passes counts: whoever else uses the machine takes a part of its
/// memory's speed that changes within milliseconds, and what runs for longer than a pass can only have the typical one.
pub(crate) fn measure(team: &mut Team, isa: Proven) -> Option<MachineLimits> {
    let mut bytes = AlignedBytes::zeroed(READ_BYTES)?;
    // Pages that were never written to are all the same one.
    bytes.fill(1);
    let pieces = READ_BYTES / PIECE_BYTES;
    let read = typical(|| {
        team.for_each_piece(pieces, 4, &|_, piece| {
            black_box(fold(&bytes[piece.start * PIECE_BYTES..piece.end * PIECE_BYTES]));
        });
    });
    drop(bytes);
    let threads = team.threads() as f64;
    let multiply = typical(|| team.run(&|_| multiply(isa, TURNS)));
    Some(MachineLimits {
        read_bytes_per_second: READ_BYTES as f64 / read.as_secs_f64(),
        byte_macs_per_second: threads * TURNS as f64 * macs_per_turn(isa.isa())
            / multiply.as_secs_f64(),
    })
}

fn typical(mut run: impl FnMut()) -> Duration {
    run();
    let (start, mut passes) = (Instant::now(), Vec::new());
    while passes.is_empty() || start.elapsed() < Duration::from_millis(250) {
        let before = Instant::now();
        run();
        passes.push(before.elapsed());
    }
    passes.sort_unstable();
    passes[passes.len() / 2]
}

/// Reads all of it. Eight sums, so that no load waits for one before it.
fn fold(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

/// Products in one turn of [`multiply`].
const fn macs_per_turn(isa: Isa) -> f64 {
    match isa {
        Isa::Scalar => PLAIN as f64,
        Isa::Avx2 => (CHAINS * 32) as f64,
        Isa::AvxVnni => (CHAINS * 32) as f64,
        Isa::Avx512Vnni => (CHAINS * 64) as f64,
        Isa::Amx => (TILES * 16 * 16 * 64) as f64,
    }
}

/// Independent sums, enough to hide how long one instruction takes.
const CHAINS: usize = 12;
/// Products of the portable loop.
const PLAIN: usize = 64;
/// Products of tiles that are under way at once.
const TILES: usize = 4;

fn multiply(isa: Proven, turns: usize) {
    match isa.isa() {
        Isa::Scalar => plain(turns),
        // SAFETY: `Proven` was made only after the machine was seen to have the features.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::Avx2 => unsafe { x86::avx2(turns) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::AvxVnni => unsafe { x86::avx_vnni(turns) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::Avx512Vnni => unsafe { x86::avx512(turns) },
        // SAFETY: as above, and the system has granted the tile registers.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::Amx => unsafe { crate::matmul::multiply_tiles(turns) },
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        _ => plain(turns),
    }
}

fn plain(turns: usize) {
    let (a, b) = (black_box([3i8; PLAIN]), black_box([5i8; PLAIN]));
    let mut sums = [0i32; PLAIN];
    for _ in 0..turns {
        for ((sum, a), b) in sums.iter_mut().zip(black_box(&a)).zip(&b) {
            *sum = sum.wrapping_add(i32::from(*a) * i32::from(*b));
        }
    }
    black_box(sums);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// # Safety
    /// Needs AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2(turns: usize) {
        let (a, b, ones) =
            black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5), _mm256_set1_epi16(1)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..turns {
            // The operand changes with each turn, or the product would be computed once.
            let a = black_box(a);
            for sum in &mut sums {
                let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, *sum), b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
    }

    /// # Safety
    /// Needs AVX-VNNI.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn avx_vnni(turns: usize) {
        let (a, b) = black_box((_mm256_set1_epi8(3), _mm256_set1_epi8(5)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// # Safety
    /// Needs AVX-512 with VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn avx512(turns: usize) {
        let (a, b) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_multiplies_without_a_fault() {
        for isa in Isa::ALL {
            if let Some(proven) = Proven::new(isa) {
                multiply(proven, 10);
                assert!(macs_per_turn(isa) > 0.0);
            }
        }
    }

    #[test]
    fn a_read_reads_every_word() {
        let mut bytes = vec![0u8; 4096];
        assert_eq!(fold(&bytes), 0);
        bytes[4095] = 1;
        assert_ne!(fold(&bytes), 0);
        bytes[4095 - 8] = 1;
        assert_eq!(fold(&bytes), 0, "both ones are in the same byte of their word");
    }
}
