//! Bytes as an export, alone and as damage to a whole one: no panic, no wrong value, no memory by a wrong length.
#![no_main]

use hapa_cache::{CacheKey, Record, SnapshotReader, SnapshotWriter};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;

fn value(n: u64) -> String {
    format!("def answer_{n}(): ...\n").repeat(1 + n as usize)
}

static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    let mut writer = SnapshotWriter::new(&mut bytes).unwrap();
    for n in 0..10u64 {
        let record = Record::of(&value(n), Duration::ZERO, Duration::ZERO, None);
        writer.write(&CacheKey::of(&n.to_le_bytes()), &record).unwrap();
    }
    writer.finish().unwrap();
    bytes
});

fn read(bytes: &[u8]) {
    let Ok(reader) = SnapshotReader::new(bytes) else { return };
    for (key, record) in reader.flatten() {
        let text = record.decode::<String>();
        let known = (0..10u64).find(|n| CacheKey::of(&n.to_le_bytes()) == key);
        if let Some(n) = known {
            assert_eq!(text, Some(value(n)), "a wrong value under a known key");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    read(input);
    // Pairs of place and byte over a whole export; what is left over is cut off its end.
    let mut damaged = WHOLE.clone();
    for change in input.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % damaged.len();
        damaged[at] ^= change[2];
    }
    damaged.truncate(damaged.len() - input.chunks_exact(3).remainder().len());
    read(&damaged);
});
