//! Packed matmul against f64 sums of the dequantised weights, and all instruction sets against the
//! scalar one.

mod common;
use common::*;
use hapa_kernels::*;

/// Share of the sum of absolute products that rounding activations to bytes may cost: half a step
/// of 1/127 of a block's largest, which for the normal inputs used here is about three times a
/// typical value; errors of a row average out, so a real sum stays well below.
const QUANTISED_ERROR: f64 = 0.01;

/// The same for float weights: sums of f32.
const DENSE_ERROR: f64 = 1e-5;

/// Between instruction sets: integer sums are equal, float sums differ by fused rounding.
const ISA_ERROR: f32 = 2e-5;

fn tolerance(ty: GgmlType) -> f64 {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => DENSE_ERROR,
        // Its weights are rounded to eight bits as well.
        GgmlType::Q2K => 2.0 * QUANTISED_ERROR,
        _ => QUANTISED_ERROR,
    }
}

fn assert_near_reference(matrix: &Matrix, x: &[f32], rows: usize, got: &[f32]) {
    for (i, (got, (want, absolute))) in got.iter().zip(reference(matrix, x, rows)).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(
            error <= tolerance(matrix.ty) * absolute + 1e-9,
            "{} output {i}: {got} for {want} (of {absolute})",
            matrix.ty
        );
    }
}

fn assert_near(got: &[f32], want: &[f32], context: &str) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= ISA_ERROR * largest,
            "{context} output {i}: {got} for {want}"
        );
    }
}

#[test]
fn every_type_matches_its_dequantised_weights() {
    let mut random = Random(1);
    let natively = [(16, 256, 1), (33, 512, 3), (50, 256, 7), (1, 768, 2)];
    for ty in weight_types() {
        let under_miri = [(17, least_cols(ty), 2)];
        for &(rows, cols, batch) in sized(&natively[..], &under_miri) {
            let matrix = Matrix::random(&mut random, ty, rows, cols);
            let x = random.floats(batch * cols);
            for isa in isas() {
                let got = multiply(&mut kernels(isa, 1), &[&matrix], &x, batch);
                assert_near_reference(&matrix, &x, batch, &got);
            }
        }
    }
}

#[test]
fn instruction_sets_agree_at_every_batch_and_batches_change_nothing() {
    let mut random = Random(2);
    for ty in weight_types() {
        let natively = if ty.block_elements() == 256 { 512 } else { 96 };
        let cols = sized(natively, least_cols(ty));
        let (rows, batch) = sized((40, 70), (1, 2));
        let matrix = Matrix::random(&mut random, ty, rows, cols);
        let x = random.floats(batch * cols);
        let want = multiply(&mut kernels(Isa::Scalar, 1), &[&matrix], &x, batch);
        for isa in isas() {
            let mut kernels = kernels(isa, 2);
            let whole = multiply(&mut kernels, &[&matrix], &x, batch);
            assert_near(&whole, &want, &format!("{ty} {isa}"));
            for part in 1..batch {
                let got = multiply(&mut kernels, &[&matrix], &x[..part * cols], part);
                assert_eq!(
                    got,
                    whole[..part * rows],
                    "{ty} {isa} {part} rows: the same to the bit"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too much for it")]
fn large_batches_take_several_panels() {
    let mut random = Random(3);
    for ty in [GgmlType::Q5_0, GgmlType::Q6K, GgmlType::F16] {
        let (cols, batch) = (4864, 300);
        let matrix = Matrix::random(&mut random, ty, 48, cols);
        let x = random.floats(batch * cols);
        for isa in isas() {
            let mut kernels = kernels(isa, 2);
            let whole = multiply(&mut kernels, &[&matrix], &x, batch);
            for row in [0, 1, 63, 64, 127, 128, 299] {
                let one = multiply(&mut kernels, &[&matrix], &x[row * cols..(row + 1) * cols], 1);
                assert_eq!(one, whole[row * 48..(row + 1) * 48], "{ty} {isa} row {row}");
            }
            assert_near_reference(&matrix, &x, 2, &whole[..96]);
        }
    }
}

#[test]
fn segments_of_several_kinds_with_bias_and_residual() {
    let mut random = Random(4);
    let (cols, batch) = (256, sized(5, 1));
    let types = [GgmlType::Q5_0, GgmlType::Q8_0, GgmlType::F16, GgmlType::Q6K];
    let sizes = sized([48, 24, 7, 33], [16, 8, 7, 17]);
    let matrices: Vec<_> = types
        .iter()
        .zip(sizes)
        .map(|(ty, rows)| Matrix::random(&mut random, *ty, rows, cols))
        .collect();
    let x = random.floats(batch * cols);
    let bias = random.floats(sizes.iter().sum());
    for isa in isas() {
        let mut kernels = kernels(isa, 3);
        let views: Vec<_> = matrices.iter().map(Matrix::view).collect();
        let mut acts = kernels.activations(views.iter().map(|v| v.layout().kind()));
        kernels.quantize(&x, batch, cols, &mut acts);
        let op = MatMul { weights: &views, bias: Some(&bias), epilogue: Epilogue::Add };
        let width = op.output_width();
        let before = random.floats(batch * width);
        let mut out = before.clone();
        kernels.matmul(&op, &acts, &mut out);
        let mut column = 0;
        for matrix in &matrices {
            let alone = multiply(&mut kernels, &[matrix], &x, batch);
            let rows = matrix.layout.rows();
            for (i, alone) in alone.iter().enumerate() {
                let at = i / rows * width + column + i % rows;
                let want = before[at] + (alone + bias[at % width]);
                assert_eq!(out[at], want, "{isa} {} output {i}", matrix.ty);
            }
            column += rows;
        }
    }
}

#[test]
fn weights_need_no_alignment() {
    let mut random = Random(5);
    for ty in weight_types() {
        let (batch, cols) = sized((3, 512), (1, least_cols(ty)));
        let matrix = Matrix::random(&mut random, ty, 32, cols);
        let x = random.floats(batch * cols);
        let mut shifted = vec![0; matrix.packed.len() + 3];
        shifted[3..].copy_from_slice(&matrix.packed);
        for isa in isas() {
            let mut kernels = kernels(isa, 1);
            let want = multiply(&mut kernels, &[&matrix], &x, batch);
            let views = [PackedView::new(matrix.layout, &shifted[3..]).unwrap()];
            let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
            let mut acts = kernels.activations([matrix.layout.kind()]);
            kernels.quantize(&x, batch, cols, &mut acts);
            let mut out = vec![0.0; batch * 32];
            kernels.matmul(&op, &acts, &mut out);
            assert_eq!(out, want, "{ty} {isa}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "is about values, not about memory")]
fn extreme_quants_do_not_saturate() {
    // All quants at their largest against activations at their largest: what overflows 16-bit
    // steps.
    for ty in [
        GgmlType::Q4_0,
        GgmlType::Q5_0,
        GgmlType::Q8_0,
        GgmlType::Q5_1,
        GgmlType::Q6K,
        GgmlType::Q5K,
    ] {
        for fill in [0x00, 0x7F, 0x80, 0xFF] {
            let cols = 256;
            let mut bytes = vec![fill; 16 * ty.row_bytes(cols).unwrap()];
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                let at = if ty == GgmlType::Q6K { 208 } else { 0 };
                block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                if matches!(ty, GgmlType::Q5_1 | GgmlType::Q5K) {
                    block[2..4].copy_from_slice(&half::f16::ONE.to_le_bytes());
                }
            }
            let layout = PackedLayout::for_ggml(ty, 16, cols).unwrap();
            let mut packed = vec![0; layout.bytes()];
            pack_tiles(&layout, PackSource { ty, bytes: &bytes }, 0..1, &mut packed).unwrap();
            let mut floats = vec![0.0; 16 * cols];
            for (row, out) in
                bytes.chunks_exact(bytes.len() / 16).zip(floats.chunks_exact_mut(cols))
            {
                dequantize_row(ty, row, out).unwrap();
            }
            let matrix = Matrix { ty, layout, packed, floats };
            for x in [vec![1.0; cols], vec![-1.0; cols]] {
                for isa in isas() {
                    let got = multiply(&mut kernels(isa, 1), &[&matrix], &x, 1);
                    for (got, (want, absolute)) in got.iter().zip(reference(&matrix, &x, 1)) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error <= 1e-5 * absolute, "{ty} {isa} {fill:#x}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn packing_in_parallel_is_packing() {
    let mut random = Random(6);
    let mut team = Team::new(3);
    for ty in weight_types() {
        let (rows, cols) = sized((100, 256), (33, least_cols(ty)));
        let bytes = random_rows(&mut random, ty, rows, cols);
        let layout = PackedLayout::for_ggml(ty, rows, cols).unwrap();
        let source = PackSource { ty, bytes: &bytes };
        let (mut one, mut many) = (vec![1; layout.bytes()], vec![2; layout.bytes()]);
        pack_tiles(&layout, source, 0..layout.tiles(), &mut one).unwrap();
        pack_matrix(&mut team, &layout, source, &mut many).unwrap();
        assert!(one == many, "{ty}");
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let layout = PackedLayout::for_ggml(GgmlType::Q5_0, 20, 64).unwrap();
    assert_eq!(layout.tiles(), 2);
    assert!(PackedView::new(layout, &vec![0; layout.bytes() - 1]).is_err());
    let source = PackSource { ty: GgmlType::Q5_0, bytes: &[0; 10] };
    assert!(pack_tiles(&layout, source, 0..2, &mut vec![0; layout.bytes()]).is_err());
    let bytes = vec![0; 20 * 44];
    let source = PackSource { ty: GgmlType::Q5_0, bytes: &bytes };
    assert!(pack_tiles(&layout, source, 0..2, &mut [0; 7]).is_err());
    assert!(pack_tiles(&layout, source, 0..3, &mut vec![0; 3 * layout.tile_bytes()]).is_err());
    let other = PackSource { ty: GgmlType::Q4_0, bytes: &bytes };
    assert!(pack_tiles(&layout, other, 0..2, &mut vec![0; layout.bytes()]).is_err());
    assert!(PackedLayout::for_ggml(GgmlType::Q5_0, 20, 40).is_none());
    assert!(PackedLayout::for_ggml(GgmlType::Q8K, 16, 256).is_none());
    assert!(PackedLayout::new(PackedKind::F32, usize::MAX / 2, 1024).is_none());
    assert!(PackedLayout::new(PackedKind::F32, 0, 32).is_none());
}
