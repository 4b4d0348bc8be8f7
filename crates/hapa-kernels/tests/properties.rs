//! Properties over random shapes, types and batches.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
use common::*;
use hapa_kernels::*;
use proptest::prelude::*;

/// Share of the largest output that instruction sets may differ by: fused or separate rounding.
const ISA_ERROR: f32 = 2e-5;

fn weight_type() -> impl Strategy<Value = GgmlType> {
    proptest::sample::select(weight_types().collect::<Vec<_>>())
}

fn cols_of(ty: GgmlType, blocks: usize) -> usize {
    match ty.block_elements() {
        // Odd widths, but the reference of quantised segments in the same test needs none.
        1 => 7 * blocks + 1,
        block => block * blocks,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: sized(60, 3),
        // Miri gives no access to files.
        failure_persistence: sized(ProptestConfig::default().failure_persistence, None),
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg_attr(miri, ignore = "too much for it")]
    fn every_instruction_set_gives_the_scalar_product(
        ty in weight_type(), rows in 1usize..70, blocks in 1usize..5, batch in 1usize..40,
        threads in 1usize..4, seed: u64,
    ) {
        let mut random = Random(seed);
        let cols = cols_of(ty, blocks);
        let matrix = Matrix::random(&mut random, ty, rows, cols);
        let x = random.floats(batch * cols);
        let want = multiply(&mut kernels(Isa::Scalar, 1), &[&matrix], &x, batch);
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for isa in isas() {
            let got = multiply(&mut kernels(isa, threads), &[&matrix], &x, batch);
            for (got, want) in got.iter().zip(&want) {
                let error = (got - want).abs();
                prop_assert!(error <= ISA_ERROR * largest, "{ty} {isa}: {got}, {want}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too much for it")]
    fn a_row_does_not_feel_its_batch(
        ty in weight_type(), blocks in 1usize..4,
        before in 0usize..200, after in 0usize..100, seed: u64,
    ) {
        let mut random = Random(seed);
        let cols = cols_of(ty, blocks);
        let matrix = Matrix::random(&mut random, ty, 35, cols);
        let x = random.floats((before + 1 + after) * cols);
        for isa in isas().into_iter().filter(|isa| *isa != Isa::Scalar) {
            let mut kernels = kernels(isa, 2);
            let all = multiply(&mut kernels, &[&matrix], &x, before + 1 + after);
            let one = multiply(&mut kernels, &[&matrix], &x[before * cols..(before + 1) * cols], 1);
            prop_assert_eq!(&one[..], &all[before * 35..(before + 1) * 35], "{} {}", ty, isa);
        }
    }

    #[test]
    fn dequantising_takes_any_bytes_of_the_right_length(
        ty in proptest::sample::select(GgmlType::ALL.to_vec()),
        blocks in 1usize..4, seed: u64, cut in 0usize..3,
    ) {
        let mut random = Random(seed);
        let cols = blocks * ty.block_elements();
        let bytes = ty.row_bytes(cols).unwrap();
        let bytes: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
        let mut out = vec![0.0; cols];
        prop_assert!(dequantize_row(ty, &bytes, &mut out).is_ok());
        let short = &bytes[..bytes.len() - cut.min(bytes.len())];
        prop_assert_eq!(dequantize_row(ty, short, &mut out).is_ok(), cut == 0);
    }

    #[test]
    fn packed_bytes_of_any_content_are_read_without_fault(
        kind in proptest::sample::select(PackedKind::ALL.to_vec()), seed: u64, batch in 1usize..sized(10, 2),
    ) {
        // A damaged packed file gives wrong answers, never a fault.
        let mut random = Random(seed);
        let (rows, cols) = (sized(33, 16), 256);
        let layout = PackedLayout::new(kind, rows, cols).unwrap();
        let bytes: Vec<u8> = (0..layout.bytes()).map(|_| random.bits() as u8).collect();
        let views = [PackedView::new(layout, &bytes).unwrap()];
        views[0].dequantize_row(rows - 1, &mut vec![0.0; cols]).unwrap();
        let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
        for isa in isas() {
            let mut kernels = kernels(isa, 2);
            let mut acts = kernels.activations([kind]);
            kernels.quantize(&random.floats(batch * cols), batch, cols, &mut acts);
            kernels.matmul(&op, &acts, &mut vec![0.0; batch * rows]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too much for it")]
fn unit_vectors_read_every_weight_in_its_place() {
    let mut random = Random(31);
    for ty in weight_types().filter(|ty| *ty != GgmlType::Q2K) {
        let cols = 512;
        let matrix = Matrix::random(&mut random, ty, 21, cols);
        let mut x = vec![0.0; cols * cols];
        x.iter_mut().step_by(cols + 1).for_each(|x| *x = 1.0);
        for isa in isas() {
            let got = multiply(&mut kernels(isa, 2), &[&matrix], &x, cols);
            for (k, got) in got.chunks_exact(21).enumerate() {
                for (row, got) in got.iter().enumerate() {
                    let want = matrix.floats[row * cols + k];
                    // A weight of d * q + m is summed from parts larger than itself.
                    assert!(
                        (got - want).abs() <= 1e-5 * want.abs().max(1.0),
                        "{ty} {isa}: {got} for {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn empty_batches_are_no_work() {
    let mut random = Random(32);
    let matrix = Matrix::random(&mut random, GgmlType::Q5_0, 64, 64);
    for isa in isas() {
        let mut kernels = kernels(isa, 2);
        let mut acts = kernels.activations([matrix.layout.kind()]);
        let mut next = kernels.activations([matrix.layout.kind()]);
        kernels.quantize(&[], 0, 64, &mut acts);
        kernels.matmul_silu_gate(matrix.view(), matrix.view(), &acts, &mut next);
        assert_eq!((next.rows(), next.cols()), (0, 64));
        kernels.rms_norm_quantize(&[], &[1.0; 64], 1e-6, &mut acts);
        kernels.silu_gate_quantize(&[], 0, &mut next);
        let views = [matrix.view()];
        kernels.matmul(
            &MatMul { weights: &views, bias: None, epilogue: Epilogue::Add },
            &acts,
            &mut [],
        );
        let shape = KvShape {
            layers: 1,
            kv_heads: 1,
            head_dim: 16,
            page_tokens: 16,
            pages: 1,
            kind: KvKind::F16,
        };
        let pool = KvPool::new(shape).unwrap();
        let heads = HeadRows { row_stride: 16, offset: 0, heads: 1, head_dim: 16 };
        kernels.attention(
            &pool,
            &AttentionOp { layer: 0, q: &[], heads, sequences: &[], scale: 1.0 },
            &mut [],
        );
    }
}

#[test]
#[should_panic(expected = "weights and activations have the same columns")]
fn other_columns_panic() {
    let matrix = Matrix::random(&mut Random(33), GgmlType::Q5_0, 64, 64);
    let mut kernels = kernels(Isa::detect(), 2);
    let mut acts = kernels.activations([matrix.layout.kind()]);
    kernels.quantize(&[0.0; 32], 1, 32, &mut acts);
    let views = [matrix.view()];
    let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
    kernels.matmul(&op, &acts, &mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "activations lack a form")]
fn bytes_for_float_weights_panic() {
    let matrix = Matrix::random(&mut Random(34), GgmlType::F16, 64, 64);
    let mut kernels = kernels(Isa::detect(), 2);
    let mut acts = kernels.activations([PackedKind::Q5]);
    kernels.quantize(&[0.0; 64], 1, 64, &mut acts);
    let views = [matrix.view()];
    let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
    kernels.matmul(&op, &acts, &mut [0.0; 64]);
}
