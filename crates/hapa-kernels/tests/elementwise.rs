//! The operators between matmuls, seen through a matmul with the unit matrix and against f64.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
use common::*;
use hapa_kernels::*;

/// One step of rounding to a byte of the block's largest value.
const BYTE_STEP: f32 = 0.5 / 127.0 * 1.01;
/// Rounding of floats and the exponential.
const FLOAT_ERROR: f32 = 1e-5;

/// The floats and the rounded values that an `Activations` holds, read by unit matrices.
fn contents(kernels: &mut Kernels, acts: &Activations) -> Vec<Vec<f32>> {
    let cols = acts.cols();
    let types = [(acts.forms().floats, GgmlType::F32), (acts.forms().quantised, GgmlType::Q8_0)];
    let mut out = Vec::new();
    for (_, ty) in types.into_iter().filter(|(kept, _)| *kept) {
        let mut bytes = Vec::new();
        for row in 0..cols {
            if ty == GgmlType::F32 {
                bytes.extend((0..cols).flat_map(|c| f32::from(u8::from(c == row)).to_le_bytes()));
            } else {
                for block in 0..cols / 32 {
                    bytes.extend_from_slice(&half::f16::ONE.to_le_bytes());
                    bytes.extend((0..32).map(|c| u8::from(block * 32 + c == row)));
                }
            }
        }
        let layout = PackedLayout::for_ggml(ty, cols, cols).unwrap();
        let mut packed = vec![0; layout.bytes()];
        pack_matrix(kernels.team(), &layout, PackSource { ty, bytes: &bytes }, &mut packed)
            .unwrap();
        let views = [PackedView::new(layout, &packed).unwrap()];
        let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
        let mut values = vec![0.0; acts.rows() * cols];
        kernels.matmul(&op, acts, &mut values);
        out.push(values);
    }
    out
}

/// Compares floats closely and bytes to half a step of their block's largest value.
fn assert_holds(kernels: &mut Kernels, acts: &Activations, want: &[f32], context: &str) {
    let forms = acts.forms();
    for (i, got) in contents(kernels, acts).iter().enumerate() {
        let bytes = forms.quantised && (!forms.floats || i == 1);
        for (block, (got, want)) in got.chunks(32).zip(want.chunks(32)).enumerate() {
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let tolerance = largest * if bytes { BYTE_STEP } else { FLOAT_ERROR };
            for (got, want) in got.iter().zip(want) {
                assert!(
                    (got - want).abs() <= tolerance,
                    "{context} block {block}: {got} for {want}"
                );
            }
        }
    }
}

fn forms() -> [ActivationForms; 3] {
    [(true, false), (false, true), (true, true)]
        .map(|(quantised, floats)| ActivationForms { quantised, floats })
}

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::new();
    for row in x.chunks_exact(weight.len()) {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
        out.extend(
            row.iter().zip(weight).map(|(x, w)| (f64::from(*x) * inverse * f64::from(*w)) as f32),
        );
    }
    out
}

fn silu_gate(gate: f32, up: f32) -> f32 {
    let gate = f64::from(gate);
    (gate / (1.0 + (-gate).exp()) * f64::from(up)) as f32
}

#[test]
fn quantise_norm_and_gate_match_f64_on_every_instruction_set() {
    let mut random = Random(21);
    for isa in isas() {
        let mut kernels = kernels(isa, 2);
        for forms in forms() {
            let natively = [(1, 32), (3, 96), (130, 64), (40, 480)];
            for &(rows, cols) in sized(&natively[..], &[(3, 32), (1, 64)]) {
                let context = format!("{isa} {forms:?} {rows}x{cols}");
                let mut acts = Activations::new(forms);
                let x: Vec<f32> = random.floats(rows * cols).iter().map(|x| x * 3.0).collect();
                kernels.quantize(&x, rows, cols, &mut acts);
                assert_holds(&mut kernels, &acts, &x, &context);
                let weight = random.floats(cols);
                kernels.rms_norm_quantize(&x, &weight, 1e-3, &mut acts);
                let want = normed(&x, &weight, 1e-3);
                assert_holds(&mut kernels, &acts, &want, &context);
                let mut plain = x.clone();
                kernels.rms_norm(&mut plain, &weight, 1e-3);
                for (got, want) in plain.iter().zip(&want) {
                    assert!((got - want).abs() <= FLOAT_ERROR * want.abs().max(0.1), "{context}");
                }
                let gate_up: Vec<f32> =
                    random.floats(rows * 2 * cols).iter().map(|x| x * 4.0).collect();
                kernels.silu_gate_quantize(&gate_up, rows, &mut acts);
                let want: Vec<f32> = gate_up
                    .chunks_exact(2 * cols)
                    .flat_map(|row| (0..cols).map(|c| silu_gate(row[c], row[cols + c])))
                    .collect();
                assert_holds(&mut kernels, &acts, &want, &context);
            }
        }
    }
}

#[test]
fn floats_alone_may_have_any_width() {
    let mut random = Random(22);
    for isa in isas() {
        let mut kernels = kernels(isa, 2);
        for cols in [1, 7, 16, 31, 33, 50] {
            let mut acts = Activations::new(ActivationForms { quantised: false, floats: true });
            let x = random.floats(5 * cols);
            kernels.quantize(&x, 5, cols, &mut acts);
            assert_eq!(contents(&mut kernels, &acts)[0], x);
            let weight = random.floats(cols);
            kernels.rms_norm_quantize(&x, &weight, 1e-6, &mut acts);
            assert_holds(&mut kernels, &acts, &normed(&x, &weight, 1e-6), "narrow");
        }
    }
}

#[test]
fn the_fused_gate_is_the_two_operators_to_the_bit() {
    let mut random = Random(23);
    for isa in isas() {
        let mut kernels = kernels(isa, 2);
        for (gate_ty, up_ty, inner, forms) in [
            (
                GgmlType::Q5_0,
                GgmlType::Q5_0,
                sized(96, 32),
                ActivationForms { quantised: true, floats: false },
            ),
            (
                GgmlType::Q4K,
                GgmlType::Q6K,
                sized(64, 32),
                ActivationForms { quantised: true, floats: true },
            ),
            (
                GgmlType::F16,
                GgmlType::Q8_0,
                sized(72, 18),
                ActivationForms { quantised: false, floats: true },
            ),
            (
                GgmlType::Q8_0,
                GgmlType::F16,
                sized(90, 17),
                ActivationForms { quantised: false, floats: true },
            ),
        ] {
            let cols = sized(256, least_cols(gate_ty).max(least_cols(up_ty)));
            let gate = Matrix::random(&mut random, gate_ty, inner, cols);
            let up = Matrix::random(&mut random, up_ty, inner, cols);
            for &rows in sized(&[1, 2, 9, 200][..], &[2]) {
                let x = random.floats(rows * cols);
                let mut acts = kernels.activations([gate.layout.kind(), up.layout.kind()]);
                kernels.quantize(&x, rows, cols, &mut acts);
                let (mut fused, mut apart) = (Activations::new(forms), Activations::new(forms));
                kernels.matmul_silu_gate(gate.view(), up.view(), &acts, &mut fused);
                let products = multiply(&mut kernels, &[&gate, &up], &x, rows);
                kernels.silu_gate_quantize(&products, rows, &mut apart);
                let (fused, apart) =
                    (contents(&mut kernels, &fused), contents(&mut kernels, &apart));
                assert_eq!(fused, apart, "{isa} {gate_ty} {up_ty} {rows}");
            }
        }
    }
}

#[test]
fn zeros_and_non_finite_inputs_do_no_harm() {
    for isa in isas() {
        let mut kernels = kernels(isa, 1);
        let mut acts = Activations::new(ActivationForms { quantised: true, floats: false });
        kernels.quantize(&[0.0; 64], 2, 32, &mut acts);
        assert_eq!(contents(&mut kernels, &acts)[0], [0.0; 64]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE] {
            let mut x = [1.0; 64];
            x[40] = bad;
            kernels.quantize(&x, 2, 32, &mut acts);
            // The other row is not touched by it.
            let got = &contents(&mut kernels, &acts)[0][..32];
            assert!(got.iter().all(|x| (x - 1.0).abs() < 1e-6), "{isa} {bad}");
        }
    }
}

#[test]
fn argmax_and_softmax() {
    let mut random = Random(24);
    for isa in isas() {
        let kernels = kernels(isa, 1);
        assert_eq!(kernels.argmax(&[]), 0);
        for n in [1, 2, 15, 16, 17, sized(1000, 50)] {
            let mut x = random.floats(n);
            let largest = random.below(n);
            x[largest] = 50.0;
            assert_eq!(kernels.argmax(&x), largest);
            x.push(50.0);
            assert_eq!(kernels.argmax(&x), largest, "the first of several");
            let mut p: Vec<f32> = random.floats(n);
            let sum: f64 = p.iter().map(|x| f64::from(*x).exp()).sum();
            let want: Vec<f64> = p.iter().map(|x| f64::from(*x).exp() / sum).collect();
            kernels.softmax(&mut p);
            for (got, want) in p.iter().zip(want) {
                assert!((f64::from(*got) / want - 1.0).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn heads_are_normed_and_turned_where_they_are() {
    let mut random = Random(25);
    let heads = HeadRows { row_stride: 100, offset: 10, heads: 3, head_dim: 24 };
    for isa in isas() {
        for &rows in sized(&[1, 4, 400][..], &[1, 4]) {
            let mut kernels = kernels(isa, 2);
            let before = random.floats(rows * 100);
            let weight = random.floats(24);
            let mut x = before.clone();
            kernels.rms_norm_heads(&mut x, rows, heads, (&weight, 1e-6));
            let positions: Vec<u32> = (0..rows as u32).map(|r| r * 7 % 900).collect();
            for pairs in [RopePairs::Adjacent, RopePairs::Halves] {
                let options = RopeOptions {
                    dims: 20,
                    theta: 1e4,
                    pairs,
                    frequency_factors: None,
                    position_scale: 1.0,
                };
                let table = RopeTable::new(options, 900);
                let mut turned = x.clone();
                kernels.rope(&mut turned, heads, &positions, &table);
                for (i, (got, was)) in turned.iter().zip(&before).enumerate() {
                    let (row, column) = (i / 100, i % 100);
                    if !(10..82).contains(&column) {
                        assert_eq!(got, was, "outside the heads");
                        continue;
                    }
                    let (head, d) = ((column - 10) / 24, (column - 10) % 24);
                    let at = row * 100 + 10 + head * 24;
                    let normed = normed(&before[at..at + 24], &weight, 1e-6);
                    let (pair, other, sign) = match (pairs, d) {
                        (_, 20..) => (0, d, 0.0),
                        (RopePairs::Adjacent, _) => {
                            (d / 2, d ^ 1, if d % 2 == 0 { -1.0 } else { 1.0 })
                        }
                        (RopePairs::Halves, _) => {
                            (d % 10, (d + 10) % 20, if d < 10 { -1.0 } else { 1.0 })
                        }
                    };
                    let angle = f64::from(positions[row]) * 1e4f64.powf(-2.0 * pair as f64 / 20.0);
                    let (own, other) = (f64::from(normed[d]), f64::from(normed[other]));
                    let want =
                        if d >= 20 { own } else { own * angle.cos() + sign * other * angle.sin() };
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-4,
                        "{isa} {pairs:?} {i}: {got} for {want}"
                    );
                }
            }
        }
    }
}
