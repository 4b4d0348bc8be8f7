//! Sequences of operations on the memory cache, held against a plain map, with the invariants checked after each.
#![no_main]

#[path = "../../tests/model/memory.rs"]
mod model;

use hapa_cache::Policy;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use model::{Op, SMALL, Setup, run};

fn time(bytes: &mut Unstructured<'_>, lowest: u64, highest: u64) -> Result<Option<u64>> {
    Ok(if bytes.arbitrary()? { Some(bytes.int_in_range(lowest..=highest)?) } else { None })
}

fn setup(bytes: &mut Unstructured<'_>) -> Result<Setup> {
    let lru = bytes.arbitrary()?;
    Ok(Setup {
        policy: if lru { Policy::Lru } else { Policy::S3Fifo },
        max_entries: bytes.int_in_range(1..=80)?,
        max_bytes: bytes.int_in_range(2 * SMALL as u64..=12_000)?,
        idle_ms: time(bytes, 1, 300)?,
        ttl_ms: time(bytes, 1, 300)?,
        prefer_dear: !lru && bytes.arbitrary()?,
        shards: bytes.int_in_range(1..=4)?,
    })
}

fn op(bytes: &mut Unstructured<'_>) -> Result<Op> {
    let kind: u8 = bytes.arbitrary()?;
    let key = bytes.int_in_range(0..=39)?;
    Ok(match kind % 16 {
        0..=3 => Op::Get(key),
        4 => Op::Peek(key),
        5..=8 => Op::Insert {
            key,
            heap: bytes.int_in_range(0..=6_000)?,
            cost_ms: bytes.int_in_range(0..=2_000)?,
            ttl_ms: time(bytes, 0, 200)?,
        },
        9 => Op::Remove(key),
        10 => Op::Pin(key),
        11 => Op::Unpin(key),
        12 => Op::Advance(bytes.int_in_range(0..=150)?),
        13 => Op::ClockBack(bytes.int_in_range(0..=500)?),
        14 => Op::Purge,
        _ => Op::Clear,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Unstructured::new(bytes);
    let Ok(setup) = setup(&mut bytes) else { return };
    let mut ops = Vec::new();
    while !bytes.is_empty()
        && let Ok(op) = op(&mut bytes)
    {
        ops.push(op);
    }
    run(&setup, &ops);
});
