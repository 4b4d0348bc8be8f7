//! Random matrices of every ggml type, and slow references.

#![allow(dead_code, unreachable_pub)] // each test file uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

use hapa_kernels::*;

/// What a test works on, and what it does so under Miri, which is a thousand times slower.
pub fn sized<T>(natively: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { natively }
}

/// A small deterministic generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Near normal, of variance one.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..6).map(|_| (self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5).sum();
        sum * std::f32::consts::SQRT_2
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Offsets of the f16 scales in a block.
fn scale_offsets(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q8_1 => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q6K => &[208],
        _ => &[],
    }
}

/// The bytes of `rows` random rows of a type: random quants, sane scales.
pub fn random_rows(random: &mut Random, ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    match ty {
        GgmlType::F32 => (0..rows * cols).flat_map(|_| random.normal().to_le_bytes()).collect(),
        GgmlType::F16 => (0..rows * cols).flat_map(|_| half(random.normal())).collect(),
        GgmlType::BF16 => (0..rows * cols)
            .flat_map(|_| half::bf16::from_f32(random.normal()).to_le_bytes())
            .collect(),
        _ => {
            let bytes = rows * ty.row_bytes(cols).unwrap();
            let mut out: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
            for block in out.chunks_exact_mut(ty.block_bytes()) {
                for at in scale_offsets(ty) {
                    block[*at..at + 2].copy_from_slice(&half(0.01 + 0.01 * random.normal().abs()));
                }
            }
            out
        }
    }
}

/// A matrix in the file's format, packed, and as floats.
pub struct Matrix {
    pub ty: GgmlType,
    pub layout: PackedLayout,
    pub packed: Vec<u8>,
    pub floats: Vec<f32>,
}

impl Matrix {
    pub fn random(random: &mut Random, ty: GgmlType, rows: usize, cols: usize) -> Self {
        let bytes = random_rows(random, ty, rows, cols);
        let layout = PackedLayout::for_ggml(ty, rows, cols).unwrap();
        let mut packed = vec![0xAA; layout.bytes()];
        let source = PackSource { ty, bytes: &bytes };
        pack_tiles(&layout, source, 0..layout.tiles(), &mut packed).unwrap();
        let mut floats = vec![0.0; rows * cols];
        let row_bytes = ty.row_bytes(cols).unwrap();
        for (row, out) in bytes.chunks_exact(row_bytes).zip(floats.chunks_exact_mut(cols)) {
            dequantize_row(ty, row, out).unwrap();
        }
        Self { ty, layout, packed, floats }
    }

    pub fn view(&self) -> PackedView<'_> {
        PackedView::new(self.layout, &self.packed).unwrap()
    }
}

/// Weight types that can be packed.
pub fn weight_types() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.into_iter().filter(|ty| PackedKind::for_ggml(*ty).is_some())
}

/// Columns of the narrowest matrix that every operator takes.
pub fn least_cols(ty: GgmlType) -> usize {
    ty.block_elements().max(32)
}

/// Every instruction set of this machine.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
}

pub fn kernels(isa: Isa, threads: usize) -> Kernels {
    Kernels::new(Team::new(threads), isa).unwrap()
}

/// `x * weights^T` in f64, and for each output the sum of absolute products.
pub fn reference(matrix: &Matrix, x: &[f32], rows: usize) -> Vec<(f64, f64)> {
    let cols = matrix.layout.cols();
    let mut out = Vec::new();
    for row in x.chunks_exact(cols).take(rows) {
        for weights in matrix.floats.chunks_exact(cols) {
            let products = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            out.push(products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs())));
        }
    }
    out
}

pub fn multiply(kernels: &mut Kernels, matrices: &[&Matrix], x: &[f32], rows: usize) -> Vec<f32> {
    let views: Vec<_> = matrices.iter().map(|m| m.view()).collect();
    let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
    let mut acts = kernels.activations(matrices.iter().map(|m| m.layout.kind()));
    kernels.quantize(x, rows, matrices[0].layout.cols(), &mut acts);
    let mut out = vec![f32::NAN; rows * op.output_width()];
    kernels.matmul(&op, &acts, &mut out);
    out
}
