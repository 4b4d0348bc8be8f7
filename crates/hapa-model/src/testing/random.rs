//! Random tensor data of any stored type, with values of a sane size.

use half::{bf16, f16};
use hapa_kernels::GgmlType;
use rand::{Rng, RngCore};

/// `elements` random weights with a standard deviation of about `spread`.
///
/// Quantised blocks get random bytes, which are valid quants, and then scales that bring the values to
/// the size that a trained model would have.
pub(super) fn weights(
    rng: &mut impl RngCore,
    ty: GgmlType,
    elements: usize,
    spread: f32,
) -> Vec<u8> {
    match ty {
        GgmlType::F32 => floats(rng, elements, spread).flat_map(f32::to_le_bytes).collect(),
        GgmlType::F16 => {
            floats(rng, elements, spread).flat_map(|v| f16::from_f32(v).to_le_bytes()).collect()
        }
        GgmlType::BF16 => {
            floats(rng, elements, spread).flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect()
        }
        quantised => blocks(rng, quantised, elements, spread),
    }
}

/// Norm weights: near one.
pub(super) fn norm(rng: &mut impl RngCore, elements: usize) -> Vec<u8> {
    floats(rng, elements, 0.05).flat_map(|v| (1.0 + v).to_le_bytes()).collect()
}

/// Uniform numbers of the given standard deviation.
fn floats(rng: &mut impl RngCore, elements: usize, spread: f32) -> impl Iterator<Item = f32> {
    let half_width = spread * 3f32.sqrt();
    (0..elements).map(move |_| rng.random_range(-half_width..=half_width))
}

fn blocks(rng: &mut impl RngCore, ty: GgmlType, elements: usize, spread: f32) -> Vec<u8> {
    let mut data = vec![0; elements / ty.block_elements() * ty.block_bytes()];
    rng.fill_bytes(&mut data);
    let Some(layout) = Layout::of(ty) else {
        return data;
    };
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        let scale = spread / layout.integer_spread * rng.random_range(0.8..1.2);
        put_f16(block, layout.scale_at, scale);
        if let Some((at, factor)) = layout.minimum {
            put_f16(block, at, scale * factor);
        }
    }
    data
}

fn put_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Where a block keeps its f16 scales, and how widely its integers spread when the bytes are random.
struct Layout {
    scale_at: usize,
    /// Position of the minimum, and its size in scales that centres the values on zero.
    minimum: Option<(usize, f32)>,
    integer_spread: f32,
}

impl Layout {
    fn of(ty: GgmlType) -> Option<Self> {
        let (scale_at, minimum, integer_spread) = match ty {
            GgmlType::Q4_0 => (0, None, 4.6),
            GgmlType::Q4_1 => (0, Some((2, -7.5)), 4.6),
            GgmlType::Q5_0 => (0, None, 9.2),
            GgmlType::Q5_1 => (0, Some((2, -15.5)), 9.2),
            GgmlType::Q8_0 => (0, None, 74.0),
            GgmlType::Q2K => (80, Some((82, 1.5)), 13.0),
            GgmlType::Q3K => (108, None, 42.0),
            GgmlType::Q4K => (0, Some((2, 7.5)), 240.0),
            GgmlType::Q5K => (0, Some((2, 15.5)), 490.0),
            GgmlType::Q6K => (208, None, 1_370.0),
            _ => return None,
        };
        Some(Self { scale_at, minimum, integer_spread })
    }
}
