//! Speed of the kernels on this machine: `cargo run --release -p hapa-kernels --example
//! kernel_bench [PART]`.
//!
//! Parts: `limits` (what the machine can do at most), `matmul`, `attention`, `ops`, `model` (a forward pass
//! of the default model as the sum of its kernels); all without an argument. `HAPA_ISA` forces an
//! instruction set, `HAPA_THREADS` the team. Each figure is the best of several repetitions.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for people

use hapa_kernels::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let part = std::env::args().nth(1);
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let threads = std::env::var("HAPA_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut kernels = Kernels::new(Team::new(threads), Isa::from_env().unwrap()).unwrap();
    println!("{} threads, {}", kernels.threads(), kernels.isa());
    if wanted("limits") {
        let limits = kernels.machine_limits().unwrap();
        println!(
            "bare read: {:.1} GB/s; byte products in registers: {:.0} GMAC/s",
            limits.read_bytes_per_second / 1e9,
            limits.byte_macs_per_second / 1e9
        );
    }
    if wanted("ops") {
        operators(&mut kernels);
    }
    if wanted("matmul") {
        matmuls(&mut kernels);
    }
    if wanted("attention") {
        attentions(&mut kernels);
    }
    if wanted("model") {
        model(&mut kernels);
    }
}

/// The best of several runs, for at least a moment.
fn best(mut run: impl FnMut()) -> Duration {
    run();
    let (start, mut best) = (Instant::now(), Duration::MAX);
    let mut rounds = 0;
    while rounds < 5 || start.elapsed() < Duration::from_millis(250) {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed());
        rounds += 1;
    }
    best
}

fn operators(kernels: &mut Kernels) {
    let team = kernels.team();
    let time = best(|| (0..1000).for_each(|_| team.run(&|thread| _ = black_box(thread))));
    println!("empty operator: {:.2} us", time.as_secs_f64() * 1e3);
    let weight = vec![1.0; 896];
    let mut acts = kernels.activations([PackedKind::Q5]);
    for rows in [1, 512] {
        let x = vec![0.5; rows * 2 * 4864];
        let norm = best(|| kernels.rms_norm_quantize(&x[..rows * 896], &weight, 1e-6, &mut acts));
        let gate = best(|| kernels.silu_gate_quantize(&x, rows, &mut acts));
        let plain = best(|| kernels.quantize(&x[..rows * 896], rows, 896, &mut acts));
        let options = RopeOptions {
            dims: 64,
            theta: 1e6,
            pairs: RopePairs::Halves,
            frequency_factors: None,
            position_scale: 1.0,
        };
        let table = RopeTable::new(options, 512);
        let heads = HeadRows { row_stride: 1152, offset: 0, heads: 16, head_dim: 64 };
        let positions: Vec<u32> = (0..rows as u32).collect();
        let mut qkv = vec![0.5; rows * 1152];
        let rope = best(|| kernels.rope(&mut qkv, heads, &positions, &table));
        let shape = KvShape {
            layers: 1,
            kv_heads: 2,
            head_dim: 64,
            page_tokens: 32,
            pages: 16,
            kind: KvKind::F16,
        };
        let mut pool = KvPool::new(shape).unwrap();
        let slots: Vec<_> =
            (0..rows as u32).map(|r| KvSlot { page: r / 32, offset: r % 32 }).collect();
        let kv = KvRows { data: &qkv, row_stride: 1152, k_offset: 896, v_offset: 1024 };
        let store = best(|| kernels.kv_write(&mut pool, 0, &kv, &slots));
        println!(
            "{rows} rows: rope {:.2} us, kv write {:.2} us",
            rope.as_secs_f64() * 1e6,
            store.as_secs_f64() * 1e6
        );
        println!(
            "{rows} rows: norm {:.2} us, silu gate {:.2} us, quantize {:.2} us",
            norm.as_secs_f64() * 1e6,
            gate.as_secs_f64() * 1e6,
            plain.as_secs_f64() * 1e6
        );
    }
}

/// Packed bytes with sane scales, whatever the quants.
fn weights(kind: PackedKind, rows: usize, cols: usize) -> (PackedLayout, AlignedBytes) {
    let layout = PackedLayout::new(kind, rows, cols).unwrap();
    let mut bytes = AlignedBytes::zeroed(layout.bytes()).unwrap();
    let mut state = 1u32;
    for byte in bytes.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8 & 0x3F;
    }
    // Arithmetic on denormal floats is hundreds of times slower than on those of a real model.
    let float = match kind {
        PackedKind::F32 => 4,
        PackedKind::BF16 => 2,
        _ => bytes.len() + 1,
    };
    bytes.chunks_exact_mut(float).for_each(|value| value[float - 1] |= 0x3C);
    (layout, bytes)
}

fn multiply(
    kernels: &mut Kernels,
    layout: PackedLayout,
    bytes: &[u8],
    rows: usize,
    copies: usize,
) -> f64 {
    let one = bytes.len() / copies;
    let mut product = Product::new(kernels, layout, rows);
    let mut copy = 0;
    best(|| {
        product.run(kernels, &bytes[copy * one..(copy + 1) * one]);
        copy = (copy + 1) % copies;
    })
    .as_secs_f64()
}

/// Bytes of a matrix that stays in no cache together with its copies, and takes well below a
/// scheduler's slice.
const STREAM_BYTES: usize = 16 << 20;

fn matmuls(kernels: &mut Kernels) {
    let batches = [1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 512];
    print!("{:8} {:>6}", "kind", "GB/s");
    batches.iter().for_each(|b| print!("{b:>6}"));
    println!("   (GMAC/s at so many rows, weights in cache)");
    let cols = 4864;
    for kind in PackedKind::ALL {
        let tile = PackedLayout::new(kind, 16, cols).unwrap().bytes();
        let copies = 8;
        let (_, bytes) = weights(kind, STREAM_BYTES / tile * 16 * copies, cols);
        let layout = PackedLayout::new(kind, STREAM_BYTES / tile * 16, cols).unwrap();
        let stream = multiply(kernels, layout, &bytes, 1, copies);
        print!("{:8} {:>6.1}", format!("{kind:?}"), layout.bytes() as f64 / stream / 1e9);
        for batch in batches {
            let rows = 512;
            let layout = PackedLayout::new(kind, rows, cols).unwrap();
            let time = multiply(kernels, layout, &bytes[..layout.bytes()], batch, 1);
            print!("{:>6.0}", (rows * cols * batch) as f64 / time / 1e9);
        }
        println!();
    }
}

fn attentions(kernels: &mut Kernels) {
    for kind in [KvKind::F16, KvKind::Q8] {
        for (sequences, before, queries) in [
            (1, 0, 512),
            (1, 0, 2048),
            (1, 1536, 512),
            (1, 511, 1),
            (1, 4095, 1),
            (8, 511, 1),
            (64, 511, 1),
        ] {
            let time = attention(kernels, kind, sequences, before, queries);
            let keys: usize = (0..queries).map(|q| before + q + 1).sum();
            let macs = sequences * keys * 14 * 64 * 2;
            println!(
                "attention {kind:?}, {sequences} x {queries} after {before}: {:.1} us a layer, \
                 {:.0} GMAC/s",
                time * 1e6,
                macs as f64 / time / 1e9
            );
        }
    }
}

fn attention(
    kernels: &mut Kernels,
    kind: KvKind,
    sequences: usize,
    before: usize,
    queries: usize,
) -> f64 {
    let page_tokens = 32;
    let each = (before + queries).div_ceil(page_tokens);
    let shape = KvShape {
        layers: 1,
        kv_heads: 2,
        head_dim: 64,
        page_tokens,
        pages: sequences * each,
        kind,
    };
    let mut pool = KvPool::new(shape).unwrap();
    let data: Vec<f32> = (0..256).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    for page in 0..shape.pages as u32 {
        for offset in 0..page_tokens as u32 {
            let rows = KvRows { data: &data, row_stride: 256, k_offset: 0, v_offset: 128 };
            kernels.kv_write(&mut pool, 0, &rows, &[KvSlot { page, offset }]);
        }
    }
    let pages: Vec<u32> = (0..shape.pages as u32).collect();
    let batch: Vec<AttentionSeq<'_>> = (0..sequences)
        .map(|s| AttentionSeq {
            pages: &pages[s * each..(s + 1) * each],
            kv_len: before + queries,
            query_start_row: s * queries,
            query_rows: queries,
        })
        .collect();
    let q: Vec<f32> = (0..sequences * queries * 896).map(|i| (i % 11) as f32 * 0.1 - 0.5).collect();
    let mut out = vec![0.0; q.len()];
    let heads = HeadRows { row_stride: 896, offset: 0, heads: 14, head_dim: 64 };
    let op = AttentionOp { layer: 0, q: &q, heads, sequences: &batch, scale: 0.125 };
    best(|| kernels.attention(&pool, &op, &mut out)).as_secs_f64()
}

/// qwen2.5-coder-0.5b as Q4_K_M: 24 layers of these, and the output matrix.
fn model(kernels: &mut Kernels) {
    // Of the 24 down projections half are Q6_K and half Q4_K; as many v projections are Q8_0 as
    // not.
    let parts = [
        (PackedKind::Q5, 1152, 896, 12),
        (PackedKind::Q5, 1024, 896, 12),
        (PackedKind::Q8, 128, 896, 12),
        (PackedKind::Q5, 896, 896, 24),
        (PackedKind::Q5, 9728, 896, 24),
        (PackedKind::Q6K, 896, 4864, 12),
        (PackedKind::Q4K, 896, 4864, 12),
    ];
    // Enough copies of each matrix that none is in a cache when its turn comes.
    let packed: Vec<_> = parts
        .map(|(kind, rows, cols, count)| {
            let (layout, _) = weights(kind, rows, cols);
            let (_, bytes) = weights(kind, rows * count, cols);
            (layout, bytes, count)
        })
        .into_iter()
        .collect();
    let output = weights(PackedKind::Q8, 151_936, 896);
    let bytes: usize = packed.iter().map(|p| p.1.len()).sum::<usize>() + output.1.len();
    let read = kernels.machine_limits().unwrap().read_bytes_per_second / 1e9;
    for batch in [1, 2, 4, 8, 16, 32, 512] {
        let mut layers: Vec<_> =
            packed.iter().map(|(layout, ..)| Product::new(kernels, *layout, batch)).collect();
        let logits = if batch == 512 { 1 } else { batch };
        let mut last = Product::new(kernels, output.0, logits);
        // All matrices in one round, as in a step: no part of the model stays in a cache.
        let total = best(|| {
            for ((_, bytes, count), product) in packed.iter().zip(&mut layers) {
                for copy in bytes.chunks_exact(product.layout.bytes()).take(*count) {
                    product.run(kernels, copy);
                }
            }
            last.run(kernels, &output.1);
        })
        .as_secs_f64();
        let (queries, sequences) = if batch == 512 { (512, 1) } else { (1, batch) };
        let attention = 24.0 * attention(kernels, KvKind::F16, sequences, 128, queries);
        println!(
            "{batch:>4} rows: matmuls {:.2} ms ({:.1} GB/s of {read:.1}), attention {:.2} ms, \
             {:.0} tokens/s",
            total * 1e3,
            bytes as f64 / total / 1e9,
            attention * 1e3,
            batch as f64 / (total + attention)
        );
    }
}

/// A product whose operands are ready.
struct Product {
    layout: PackedLayout,
    acts: Activations,
    out: Vec<f32>,
}

impl Product {
    fn new(kernels: &mut Kernels, layout: PackedLayout, rows: usize) -> Self {
        let mut acts = kernels.activations([layout.kind()]);
        let x: Vec<f32> = (0..rows * layout.cols()).map(|i| (i % 17) as f32 - 8.0).collect();
        kernels.quantize(&x, rows, layout.cols(), &mut acts);
        Self { layout, acts, out: vec![0.0; rows * layout.rows()] }
    }

    fn run(&mut self, kernels: &mut Kernels, bytes: &[u8]) {
        let views = [PackedView::new(self.layout, bytes).unwrap()];
        let op = MatMul { weights: &views, bias: None, epilogue: Epilogue::Store };
        kernels.matmul(&op, &self.acts, &mut self.out);
    }
}
