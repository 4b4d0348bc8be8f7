//! Paged attention against a plain softmax in f64.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
use common::*;
use hapa_kernels::*;

/// f16 keys and values: eleven bits each.
const F16_ERROR: f32 = 2e-3;
/// Byte keys and values.
const Q8_ERROR: f32 = 3e-2;

struct Case {
    shape: KvShape,
    heads: usize,
    /// Tokens before the batch and queries in it, for each sequence.
    sequences: Vec<(usize, usize)>,
}

impl Case {
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }
}

struct World {
    pool: KvPool,
    pages: Vec<Vec<u32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q: Vec<f32>,
    stride: usize,
    heads: HeadRows,
}

const LAYER: usize = 1;

fn world(random: &mut Random, case: &Case, kernels: &mut Kernels) -> World {
    let s = case.shape;
    let mut pool = KvPool::new(s).unwrap();
    let width = s.kv_heads * s.head_dim;
    let mut free: Vec<u32> = (0..s.pages as u32).collect();
    let (mut pages, mut ks, mut vs) = (Vec::new(), Vec::new(), Vec::new());
    for &(before, queries) in &case.sequences {
        let tokens = before + queries;
        let own: Vec<u32> = (0..tokens.div_ceil(s.page_tokens))
            .map(|_| free.swap_remove(random.below(free.len())))
            .collect();
        let k = random.floats(tokens * width);
        let v = random.floats(tokens * width);
        let mut rows = Vec::new();
        for token in 0..tokens {
            rows.extend_from_slice(&[9.0; 3]);
            rows.extend_from_slice(&k[token * width..(token + 1) * width]);
            rows.extend_from_slice(&v[token * width..(token + 1) * width]);
        }
        let slots: Vec<KvSlot> = (0..tokens)
            .map(|t| KvSlot { page: own[t / s.page_tokens], offset: (t % s.page_tokens) as u32 })
            .collect();
        let rows =
            KvRows { data: &rows, row_stride: 3 + 2 * width, k_offset: 3, v_offset: 3 + width };
        kernels.kv_write(&mut pool, LAYER, &rows, &slots);
        pages.push(own);
        ks.push(k);
        vs.push(v);
    }
    let total: usize = case.sequences.iter().map(|s| s.1).sum();
    let heads = HeadRows {
        row_stride: case.heads * s.head_dim + 5,
        offset: 2,
        heads: case.heads,
        head_dim: s.head_dim,
    };
    let q = random.floats(total * heads.row_stride);
    World { pool, pages, k: ks, v: vs, q, stride: heads.row_stride, heads }
}

fn run(kernels: &mut Kernels, world: &World, case: &Case, only: Option<usize>) -> Vec<f32> {
    let mut row = 0;
    let mut sequences = Vec::new();
    for (i, &(before, queries)) in case.sequences.iter().enumerate() {
        let sequence = AttentionSeq {
            pages: &world.pages[i],
            kv_len: before + queries,
            query_start_row: row,
            query_rows: queries,
        };
        if only.is_none_or(|only| only == i) {
            sequences.push(sequence);
        }
        row += queries;
    }
    let mut out = vec![0.0; row * case.heads * case.shape.head_dim];
    let op = AttentionOp {
        layer: LAYER,
        q: &world.q,
        heads: world.heads,
        sequences: &sequences,
        scale: case.scale(),
    };
    kernels.attention(&world.pool, &op, &mut out);
    out
}

fn reference(world: &World, case: &Case) -> Vec<f32> {
    let (dim, kv_heads) = (case.shape.head_dim, case.shape.kv_heads);
    let mut out = Vec::new();
    let mut row = 0;
    for (i, &(before, queries)) in case.sequences.iter().enumerate() {
        for query in 0..queries {
            for head in 0..case.heads {
                let kv = head / (case.heads / kv_heads);
                let q = &world.q[row * world.stride + 2 + head * dim..][..dim];
                let at = |t: usize| (t * kv_heads + kv) * dim..(t * kv_heads + kv + 1) * dim;
                let dot =
                    |k: &[f32]| -> f64 { q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum() };
                let scores: Vec<f64> = (0..=before + query)
                    .map(|t| dot(&world.k[i][at(t)]) * f64::from(case.scale()))
                    .collect();
                let largest = scores.iter().fold(f64::MIN, |a, b| a.max(*b));
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..dim {
                    let value = |t: usize| f64::from(world.v[i][at(t)][d]);
                    let total: f64 = weights.iter().enumerate().map(|(t, w)| w * value(t)).sum();
                    out.push((total / sum) as f32);
                }
            }
            row += 1;
        }
    }
    out
}

fn cases() -> Vec<Case> {
    let shape = |kv_heads, head_dim, page_tokens, kind| KvShape {
        layers: 2,
        kv_heads,
        head_dim,
        page_tokens,
        pages: sized(160, 8),
        kind,
    };
    if cfg!(miri) {
        let case = |shape, heads, sequences| Case { shape, heads, sequences };
        return vec![
            case(shape(1, 12, 16, KvKind::F16), 2, vec![(16, 1), (0, 1)]),
            case(shape(2, 12, 16, KvKind::Q8), 2, vec![(0, 2)]),
        ];
    }
    vec![
        Case {
            shape: shape(2, 64, 16, KvKind::F16),
            heads: 14,
            sequences: vec![(0, 1), (63, 1), (64, 1), (130, 3)],
        },
        Case {
            shape: shape(3, 64, 32, KvKind::F16),
            heads: 9,
            sequences: vec![(0, 200), (17, 70)],
        },
        Case { shape: shape(1, 80, 64, KvKind::F16), heads: 1, sequences: vec![(5, 100), (0, 2)] },
        Case {
            shape: shape(2, 20, 48, KvKind::F16),
            heads: 4,
            sequences: vec![(100, 29), (15, 1), (16, 1)],
        },
        Case { shape: shape(2, 128, 16, KvKind::Q8), heads: 8, sequences: vec![(30, 40), (90, 1)] },
        Case { shape: shape(1, 24, 32, KvKind::Q8), heads: 3, sequences: vec![(0, 33)] },
    ]
}

#[test]
fn matches_plain_softmax_on_every_instruction_set() {
    let mut random = Random(11);
    for case in cases() {
        for isa in isas() {
            let mut kernels = kernels(isa, 2);
            let world = world(&mut random, &case, &mut kernels);
            let got = run(&mut kernels, &world, &case, None);
            let want = reference(&world, &case);
            let tolerance = if case.shape.kind == KvKind::F16 { F16_ERROR } else { Q8_ERROR };
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(
                    (got - want).abs() < tolerance,
                    "{isa} {:?} {i}: {got} for {want}",
                    case.shape
                );
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut random = Random(15);
    for case in cases() {
        for isa in isas() {
            let mut one = kernels(isa, 1);
            let world = world(&mut random, &case, &mut one);
            let want = run(&mut one, &world, &case, None);
            for &threads in sized(&[2, 5, 12][..], &[2]) {
                let mut many = kernels(isa, threads);
                assert_eq!(run(&mut many, &world, &case, None), want, "{isa} {threads} threads");
                assert_eq!(
                    run(&mut many, &world, &case, None),
                    want,
                    "{isa} {threads} threads, again"
                );
            }
        }
    }
}

#[test]
fn a_sequence_alone_or_in_a_batch_gives_the_same_bits() {
    let mut random = Random(12);
    for case in cases() {
        for isa in isas() {
            let mut kernels = kernels(isa, 2);
            let world = world(&mut random, &case, &mut kernels);
            let together = run(&mut kernels, &world, &case, None);
            let width = case.heads * case.shape.head_dim;
            let mut row = 0;
            for (i, &(_, queries)) in case.sequences.iter().enumerate() {
                let alone = run(&mut kernels, &world, &case, Some(i));
                let rows = row * width..(row + queries) * width;
                assert_eq!(alone[rows.clone()], together[rows], "{isa} sequence {i}");
                row += queries;
            }
        }
    }
}

#[test]
fn chunks_of_a_prompt_give_the_same_bits_as_the_whole() {
    let mut random = Random(13);
    let shape = KvShape {
        layers: 2,
        kv_heads: sized(2, 1),
        head_dim: sized(32, 12),
        page_tokens: 16,
        pages: 20,
        kind: KvKind::F16,
    };
    let tokens = sized(150, 18);
    let case = Case { shape, heads: sized(6, 1), sequences: vec![(0, tokens)] };
    let natively = [(0, 1), (1, 40), (40, 64), (64, 149), (149, 150)];
    let parts = sized(&natively[..], &[(0, 1), (1, 17), (17, 18)]);
    for isa in isas() {
        let mut kernels = kernels(isa, 2);
        let world = world(&mut random, &case, &mut kernels);
        let whole = run(&mut kernels, &world, &case, None);
        let mut in_parts = vec![0.0; whole.len()];
        for &(start, end) in parts {
            let sequences = [AttentionSeq {
                pages: &world.pages[0],
                kv_len: end,
                query_start_row: start,
                query_rows: end - start,
            }];
            let op = AttentionOp {
                layer: LAYER,
                q: &world.q,
                heads: world.heads,
                sequences: &sequences,
                scale: case.scale(),
            };
            kernels.attention(&world.pool, &op, &mut in_parts);
        }
        assert_eq!(in_parts, whole, "{isa}");
    }
}

#[test]
fn copied_pages_hold_every_layer() {
    let mut random = Random(14);
    let shape = KvShape {
        layers: 2,
        kv_heads: 1,
        head_dim: 16,
        page_tokens: 16,
        pages: 3,
        kind: KvKind::F16,
    };
    let case = Case { shape, heads: 1, sequences: vec![(9, 1)] };
    let mut kernels = kernels(Isa::detect(), 1);
    let mut world = world(&mut random, &case, &mut kernels);
    let before = run(&mut kernels, &world, &case, None);
    let from = world.pages[0][0];
    let to = (from + 1) % 3;
    world.pool.copy_page(from, to);
    world.pages[0][0] = to;
    assert_eq!(run(&mut kernels, &world, &case, None), before);
}

#[test]
fn impossible_pools_are_refused() {
    let good = KvShape {
        layers: 2,
        kv_heads: 1,
        head_dim: 16,
        page_tokens: 16,
        pages: 3,
        kind: KvKind::Q8,
    };
    assert!(KvPool::new(good).is_ok());
    for bad in [
        KvShape { page_tokens: 10, ..good },
        KvShape { layers: 0, ..good },
        KvShape { pages: usize::MAX / 64, ..good },
        KvShape { head_dim: usize::MAX - 3, ..good },
    ] {
        assert!(KvPool::new(bad).is_err(), "{bad:?}");
    }
}
