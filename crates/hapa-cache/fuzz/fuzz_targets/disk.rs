//! A file of the disk tier with bytes altered, cut off or added: no panic, no wrong value, and writable again at once or after one error.
#![no_main]

use hapa_cache::{CacheKey, DiskOptions, DiskTier, Record};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

const RECORDS: u64 = 40;

fn key(n: u64) -> CacheKey {
    CacheKey::of(&n.to_le_bytes())
}

fn value(n: u64) -> String {
    format!("def answer_{n}():\n    return {n}\n").repeat(1 + n as usize * 3)
}

fn record(n: u64) -> Record {
    Record::of(&value(n), Duration::from_secs(1_800_000_000), Duration::ZERO, None)
}

fn disk(path: &Path) -> DiskTier {
    DiskOptions::new(path).max_bytes(4 << 20).cache_bytes(1 << 20).build().unwrap()
}

/// In memory where there is such a folder: fuzzing syncs thousands of files.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// A whole file, closed well.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = folder();
    let path = folder.path().join("whole.redb");
    let tier = disk(&path);
    for first in (0..RECORDS).step_by(10) {
        tier.put(&(first..first + 10).map(|n| (key(n), record(n))).collect::<Vec<_>>()).unwrap();
    }
    drop(tier);
    std::fs::read(&path).unwrap()
});

fn damage(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    let largest = bytes.len() - 1;
    match input.int_in_range(0..=7)? {
        // The head says where everything is: most of the damage goes there.
        0..=2 => bytes[input.int_in_range(0..=511)?] = input.arbitrary()?,
        3 | 4 => bytes[input.int_in_range(0..=largest)?] = input.arbitrary()?,
        5 => {
            let from = input.int_in_range(0..=largest)?;
            let length = input.int_in_range(0..=8_192usize)?.min(bytes.len() - from);
            bytes[from..from + length].fill(input.arbitrary()?);
        }
        6 => bytes.truncate(input.int_in_range(1..=largest)?),
        _ => {
            // One page takes another's place.
            let pages = bytes.len() / 4096;
            let (from, to) =
                (input.int_in_range(0..=pages - 1)?, input.int_in_range(0..=pages - 1)?);
            bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        }
    }
    Ok(())
}

/// redb panics on some damage, which the tier catches; libFuzzer's hook would end the process before that. What the tier lets
/// through, and what the assertions below find, ends it here.
fn guarded(test: impl FnOnce() + std::panic::UnwindSafe) {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    if let Err(panic) = std::panic::catch_unwind(test) {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        eprintln!(
            "{}",
            said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
        );
        std::process::abort();
    }
}

fuzz_target!(|input: &[u8]| guarded(|| damaged(input)));

fn damaged(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut bytes = WHOLE.clone();
    while !input.is_empty() && bytes.len() > 8_192 && damage(&mut input, &mut bytes).is_ok() {}
    let folder = folder();
    let path = folder.path().join("damaged.redb");
    std::fs::write(&path, bytes).unwrap();

    let tier = disk(&path);
    for n in 0..RECORDS {
        if let Ok(Some(found)) = tier.get(&key(n)) {
            assert_eq!(found.decode::<String>(), Some(value(n)), "a wrong value");
        }
    }
    let fresh = [(key(1_000), record(1_000))];
    if tier.put(&fresh).is_err() {
        tier.put(&fresh).unwrap();
    }
    assert_eq!(tier.get(&key(1_000)).unwrap().unwrap().decode::<String>(), Some(value(1_000)));
}
