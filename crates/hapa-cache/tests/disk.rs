//! The disk tier against everything that happens to files: kill -9, damage, other versions, a full disk, a second
//! process, clocks that jump.
//!
//! The long run of the first: `HAPA_KILL_ROUNDS=50 cargo nextest run -p hapa-cache kill`.
#![cfg(feature = "disk")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use hapa_cache::{CacheKey, DiskOptions, DiskTier, ManualClock, Record};
use proptest::prelude::*;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const MIB: u64 = 1 << 20;

fn key(n: u64) -> CacheKey {
    CacheKey::of(&n.to_le_bytes())
}

/// A value that tells its key, of 0.1 to 6 KiB.
fn value(n: u64, round: u64) -> String {
    let line = format!("def answer_{n}(round={round}):\n    return {n}\n");
    line.repeat(2 + (n as usize * 7) % 150)
}

fn record(n: u64, round: u64) -> Record {
    Record::of(&value(n, round), NOW, Duration::from_millis(900), None)
}

fn disk(path: &Path) -> DiskTier {
    DiskOptions::new(path).max_bytes(64 * MIB).build().unwrap()
}

fn text(disk: &DiskTier, key: &CacheKey) -> Option<String> {
    disk.get(key).unwrap()?.decode()
}

#[test]
fn records_stay_after_the_process_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/down/answers.redb");
    let first = disk(&path);
    assert!(!path.exists(), "nothing is opened before it is used");
    first.put(&[(key(1), record(1, 0)), (key(2), record(2, 0))]).unwrap();
    first.put(&[(key(2), record(2, 1))]).unwrap();
    assert_eq!(first.remove(&[key(1), key(9)]).unwrap(), 1);
    drop(first);

    let again = disk(&path);
    assert_eq!(text(&again, &key(2)), Some(value(2, 1)), "the newer one");
    assert_eq!(text(&again, &key(1)), None);
    again.validate().unwrap();
    let stats = again.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, Some(1)));
    assert_eq!(stats.saved, Duration::from_millis(900));
    assert_eq!(again.clear().unwrap(), 1);
    assert_eq!((text(&again, &key(2)), again.stats().entries), (None, Some(0)));
    again.put(&[(key(3), record(3, 0))]).unwrap();
    assert_eq!(text(&again, &key(3)), Some(value(3, 0)), "usable after it was cleared");
    again.validate().unwrap();
}

/// What [`kill_minus_nine_in_the_middle_of_ten_thousand_writes`] runs and kills.
#[test]
#[ignore = "a child process of another test"]
fn kill_child() {
    let Ok(path) = std::env::var("HAPA_KILL_FILE") else { return };
    let round: u64 = std::env::var("HAPA_KILL_ROUND").unwrap().parse().unwrap();
    let disk = disk(Path::new(&path));
    for first in (0..10_000).step_by(50) {
        let batch: Vec<_> = (first..first + 50).map(|n| (key(n), record(n, round))).collect();
        disk.put(&batch).unwrap();
        println!("stored {}", first + 49);
    }
}

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn kill_minus_nine_in_the_middle_of_ten_thousand_writes() {
    let rounds: u64 = std::env::var("HAPA_KILL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    // The newest round that each key was promised to be stored in.
    let mut promised: HashMap<u64, u64> = HashMap::new();
    for round in 1..=rounds {
        let mut child = child("kill_child")
            .env("HAPA_KILL_FILE", &path)
            .env("HAPA_KILL_ROUND", round.to_string())
            .spawn()
            .unwrap();
        // Another place each time: in the first commits, in the middle, near the end.
        let kill_at = (round * 7_919 * 37) % 9_900;
        let mut last = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(stored) = line.strip_prefix("stored ") else { continue };
            let stored: u64 = stored.parse().unwrap();
            last = Some(stored);
            if stored >= kill_at {
                child.kill().unwrap(); // SIGKILL; what it printed after that is still read
            }
        }
        child.wait().unwrap();
        for n in 0..=last.expect("the child stored something") {
            promised.insert(n, round);
        }

        let disk = disk(&path);
        disk.validate().unwrap();
        let mut seen = 0;
        for n in 0..10_000 {
            let found = text(&disk, &key(n));
            let least = promised.get(&n).copied();
            match (&found, least) {
                (None, None) => {}
                (None, Some(_)) => panic!("round {round}: {n} was stored and is gone"),
                (Some(found), least) => {
                    // A later round may have stored it without having said so.
                    let right = (least.unwrap_or(1)..=round).any(|round| *found == value(n, round));
                    assert!(right, "round {round}: {n} has a wrong or torn value");
                    seen += 1;
                }
            }
        }
        let stats = disk.stats();
        assert_eq!((stats.corrupt, stats.errors, stats.entries), (0, 0, Some(seen)));
        assert!(!path.with_extension("redb.broken").exists(), "no file was set aside");
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_never_an_error() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 6] = [
        ("not a store at all", |bytes| *bytes = b"hello, I am a text file".repeat(100)),
        ("cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("head lost", |bytes| bytes[..4096].fill(0)),
        ("noise in its pages", |bytes| {
            for at in (4096..bytes.len()).step_by(97) {
                bytes[at] ^= 0xa5;
            }
        }),
        ("of a newer version", |_| {}),
        ("of an older version", |_| {}),
    ];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.redb");
        let first = disk(&path);
        let records: Vec<_> = (0..500).map(|n| (key(n), record(n, 0))).collect();
        first.put(&records).unwrap();
        drop(first);
        match name {
            "of a newer version" => set_format(&path, 99),
            "of an older version" => set_format(&path, 0),
            _ => {
                let mut bytes = std::fs::read(&path).unwrap();
                damage(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
            }
        }

        let disk = disk(&path);
        // A read may meet the damage first; then it is the one miss with an error, and all goes on.
        for n in 0..500 {
            if let Ok(Some(found)) = disk.get(&key(n)) {
                assert_eq!(found.decode::<String>().unwrap(), value(n, 0), "{name}: wrong value");
            }
        }
        for n in 500..520 {
            if disk.put(&[(key(n), record(n, 0))]).is_err() {
                disk.put(&[(key(n), record(n, 0))]).unwrap();
            }
        }
        assert_eq!(text(&disk, &key(519)), Some(value(519, 0)), "{name}: writable again");
        assert!(disk.stats().corrupt > 0, "{name}");
        assert!(path.with_extension("redb.broken").exists(), "{name}: kept for a look");
    }
}

/// Writes a format number that this program does not know into a whole file.
fn set_format(path: &Path, format: u64) {
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    let state = redb::TableDefinition::<&str, u64>::new("state");
    write.open_table(state).unwrap().insert("format", format).unwrap();
    write.commit().unwrap();
}

/// Single flipped bits anywhere in the file: whatever happens, no wrong value and no panic comes out.
#[test]
fn single_flipped_bits_never_give_a_wrong_value() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.redb");
    let first = disk(&original);
    first.put(&(0..60).map(|n| (key(n), record(n, 0))).collect::<Vec<_>>()).unwrap();
    drop(first);
    let whole = std::fs::read(&original).unwrap();
    let mut random = 12_345u64;
    for round in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = whole.clone();
        let at = (random >> 20) as usize % bytes.len();
        bytes[at] ^= 1 << (random >> 60 & 7);
        let path = folder.path().join(format!("{round}.redb"));
        std::fs::write(&path, bytes).unwrap();
        let disk = disk(&path);
        for n in 0..60 {
            if let Ok(Some(found)) = disk.get(&key(n)) {
                assert_eq!(found.decode::<String>().unwrap(), value(n, 0), "bit at {at}");
            }
        }
        if disk.put(&[(key(100), record(100, 0))]).is_err() {
            disk.put(&[(key(100), record(100, 0))]).unwrap();
        }
    }
}

#[test]
fn bytes_are_bounded_and_what_is_used_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let disk = DiskOptions::new(&path).max_bytes(8 * MIB).build().unwrap();
    let mut largest = 0;
    for first in (0..12_000u64).step_by(64) {
        let batch: Vec<_> = (first..first + 64).map(|n| (key(n), record(n, 0))).collect();
        disk.put(&batch).unwrap();
        // Somebody asks for the first ten again and again.
        for n in 0..10 {
            assert!(disk.get(&key(n)).unwrap().is_some(), "{n} is used, so it stays");
        }
        let stats = disk.stats();
        assert!(stats.bytes.unwrap() <= 8 * MIB);
        largest = largest.max(std::fs::metadata(&path).unwrap().len());
    }
    disk.validate().unwrap();
    let stats = disk.stats();
    assert!(stats.evicted > 8_000, "{stats:?}");
    assert!(disk.get(&key(10)).unwrap().is_none(), "nobody asked for it");
    assert!(largest < 24 * MIB, "the file grew to {largest} bytes");
    println!(
        "file at most {largest} bytes, charged {:?}, {:?} entries",
        stats.bytes, stats.entries
    );

    disk.clear().unwrap();
    let left = std::fs::metadata(&path).unwrap().len();
    assert!(left < 2 * MIB, "a cleared file still has {left} bytes");
}

#[test]
fn a_record_larger_than_half_the_budget_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskOptions::new(folder.path().join("a.redb")).max_bytes(MIB).build().unwrap();
    disk.put(&[(key(1), record(1, 0))]).unwrap();
    let huge = Record::of(&"x".repeat(MIB as usize), NOW, Duration::ZERO, None);
    disk.put(&[(key(2), huge)]).unwrap();
    assert!(disk.get(&key(2)).unwrap().is_none());
    assert!(disk.get(&key(1)).unwrap().is_some(), "nothing left for it");
}

#[test]
fn times_are_kept_whatever_the_clock_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let clock = Arc::new(ManualClock::at(NOW));
    let tier = || {
        let clock = Arc::clone(&clock) as Arc<dyn hapa_cache::Clock>;
        DiskOptions::new(&path).clock(clock).build().unwrap()
    };
    let minute = |n: u64| Record {
        ttl: Some(Duration::from_secs(60)),
        created: clock_now(&clock),
        ..record(n, 0)
    };
    let disk = tier();
    disk.put(&[(key(1), minute(1)), (key(2), record(2, 0))]).unwrap();
    clock.advance(Duration::from_secs(59));
    assert!(disk.get(&key(1)).unwrap().is_some());
    drop(disk);
    let disk = tier();
    clock.advance(Duration::from_secs(2));
    assert!(disk.get(&key(1)).unwrap().is_none(), "time goes on while nobody runs");
    assert_eq!(disk.stats().expired, 1);

    disk.put(&[(key(3), minute(3))]).unwrap();
    assert_eq!(disk.stats().entries, Some(2), "what was found to be over is gone");
    clock.set_unix(NOW - Duration::from_secs(86_400 * 400));
    assert!(disk.get(&key(3)).unwrap().is_none(), "a stamp from the far future is not believed");
    clock.set_unix(NOW + Duration::from_secs(86_400 * 400));
    assert!(disk.get(&key(3)).unwrap().is_none(), "over");
    assert!(disk.get(&key(2)).unwrap().is_some(), "what has no end does not care");
}

fn clock_now(clock: &ManualClock) -> Duration {
    hapa_cache::Clock::unix(clock)
}

/// What [`a_full_disk_is_no_error_of_a_request`] runs under a limit of the file's size.
#[test]
#[ignore = "a child process of another test"]
fn full_disk_child() {
    let Ok(path) = std::env::var("HAPA_FULL_FILE") else { return };
    let clock = Arc::new(ManualClock::at(NOW));
    let disk = DiskOptions::new(&path)
        .max_bytes(512 * MIB)
        .cache_bytes(1 << 20)
        .clock(Arc::clone(&clock) as Arc<dyn hapa_cache::Clock>)
        .build()
        .unwrap();
    let (mut stored, mut refused) = (Vec::new(), 0);
    for first in (0..8_000).step_by(64) {
        let batch: Vec<_> = (first..first + 64).map(|n| (key(n), record(n, 0))).collect();
        match disk.put(&batch) {
            Ok(()) => stored.push(first),
            Err(_) => refused += 1,
        }
    }
    println!("stored {} refused {refused}", stored.len());
    assert!(disk.stats().breaker_open, "{:?}", disk.stats());
    let before = disk.stats().skipped;
    assert!(disk.get(&key(0)).is_err(), "left out for a while");
    assert_eq!(disk.stats().skipped, before + 1);
    // Later it is tried again, and what was stored is there.
    clock.advance(Duration::from_secs(600));
    for first in stored {
        for n in first..first + 64 {
            assert_eq!(text(&disk, &key(n)), Some(value(n, 0)));
        }
    }
    println!("all there");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_no_error_of_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    // The file may have 16 MiB (`ulimit -f` counts blocks of 512 bytes); a write beyond fails as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 32768; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "full_disk_child", "--ignored", "--nocapture"])
        .env("HAPA_FULL_FILE", &path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all there"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!said.contains("refused 0\n"), "the disk was never full: {said}");
    let disk = disk(&path);
    disk.validate().unwrap();
    assert!(!path.with_extension("redb.broken").exists(), "a full disk breaks no file");
}

/// What [`a_second_process_reads_along`] runs while the first has the file open.
#[test]
#[ignore = "a child process of another test"]
fn second_process_child() {
    let Ok(path) = std::env::var("HAPA_SECOND_FILE") else { return };
    let disk = disk(Path::new(&path));
    assert_eq!(text(&disk, &key(1)), Some(value(1, 0)));
    assert!(disk.is_read_only());
    assert!(disk.put(&[(key(5), record(5, 0))]).is_err(), "one process writes");
    assert_eq!(text(&disk, &key(1)), Some(value(1, 0)), "reading goes on");
    println!("read along");
}

#[test]
fn a_second_process_reads_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let first = disk(&path);
    first.put(&[(key(1), record(1, 0))]).unwrap();
    let output = child("second_process_child").env("HAPA_SECOND_FILE", &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("read along"), "{said}");
    first.put(&[(key(2), record(2, 0))]).unwrap();
    assert!(!first.is_read_only());
}

#[test]
fn threads_share_a_tier() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(&folder.path().join("answers.redb"));
    disk.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for n in 0..60 {
                    let n = thread * 1_000 + n;
                    disk.put(&[(key(n), record(n, thread))]).unwrap();
                    assert_eq!(text(disk, &key(n)), Some(value(n, thread)));
                    // Misses make it learn its keys while others write.
                    assert_eq!(text(disk, &key(n + 500)), None);
                }
            });
        }
    });
    disk.validate().unwrap();
    assert_eq!(disk.stats().entries, Some(240));
}

/// A file that is asked often answers most misses from memory: at the first poll, on no other thread.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn misses_of_a_busy_file_wait_for_nothing() {
    use hapa_cache::Tier;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.redb");
    let tier = disk(&path);
    tier.put(&(0..100).map(|n| (key(n), record(n, 0))).collect::<Vec<_>>()).unwrap();
    for n in 1_000..1_020 {
        assert!(Tier::get(&tier, &key(n)).await.unwrap().is_none());
    }
    let at_once = |n| {
        use std::task::{Context, Poll, Waker};
        let key = key(n);
        let mut context = Context::from_waker(Waker::noop());
        matches!(Tier::get(&tier, &key).as_mut().poll(&mut context), Poll::Ready(Ok(None)))
    };
    assert!(at_once(1_020) && at_once(1_000));
    assert_eq!(tier.stats().misses, 22);
    for n in 0..100 {
        assert_eq!(text(&tier, &key(n)), Some(value(n, 0)));
    }
    tier.put(&[(key(1_020), record(1_020, 0))]).unwrap();
    assert_eq!(text(&tier, &key(1_020)), Some(value(1_020, 0)), "what came since");
    tier.remove(&[key(7)]).unwrap();
    assert_eq!(text(&tier, &key(7)), None);

    let reader = disk(&path);
    for n in 2_000..2_020 {
        assert_eq!(text(&reader, &key(n)), None);
    }
    assert!(reader.is_read_only());
    tier.put(&[(key(2_000), record(2_000, 0))]).unwrap();
    assert_eq!(
        text(&reader, &key(2_000)),
        Some(value(2_000, 0)),
        "another process may have put it"
    );
}

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<u64>),
    Get(u64),
    Remove(u64),
    Reopen,
    Clear,
    Compact,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => prop::collection::vec(0u64..40, 1..8).prop_map(Op::Put),
        6 => (0u64..40).prop_map(Op::Get),
        2 => (0u64..40).prop_map(Op::Remove),
        1 => Just(Op::Reopen),
        1 => Just(Op::Clear),
        1 => Just(Op::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Against a map: what the tier gives is the last that was put, and nothing that was removed.
    #[test]
    fn random_operations_agree_with_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.redb");
        let mut tier = disk(&path);
        let mut model: HashMap<u64, u64> = HashMap::new();
        for (round, op) in ops.into_iter().enumerate() {
            let round = round as u64;
            match op {
                Op::Put(numbers) => {
                    tier.put(&numbers.iter().map(|n| (key(*n), record(*n, round))).collect::<Vec<_>>()).unwrap();
                    model.extend(numbers.iter().map(|n| (*n, round)));
                }
                Op::Get(n) => {
                    prop_assert_eq!(text(&tier, &key(n)), model.get(&n).map(|round| value(n, *round)));
                }
                Op::Remove(n) => {
                    let gone = tier.remove(&[key(n)]).unwrap();
                    prop_assert_eq!(gone, u64::from(model.remove(&n).is_some()));
                }
                Op::Reopen => {
                    drop(tier);
                    tier = disk(&path);
                }
                Op::Clear => {
                    prop_assert_eq!(tier.clear().unwrap(), model.len() as u64);
                    model.clear();
                }
                Op::Compact => drop(tier.compact().unwrap()),
            }
            tier.validate().unwrap();
        }
        let newest = tier.newest(1_000).unwrap();
        prop_assert_eq!(newest.len(), model.len());
    }
}
