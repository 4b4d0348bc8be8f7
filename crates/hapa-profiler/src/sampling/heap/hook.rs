//! What the allocator calls: while nobody samples, one relaxed load for an allocation or a release.
//!
//! This code runs inside of the global allocator. It may allocate, since it then does not see itself (`inside`); it must
//! not panic; and it takes a lock of the standard library, not one of parking_lot, whose locks allocate while they hold
//! what other locks of theirs need.

use std::{
    cell::Cell,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU16, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use super::{
    Started,
    table::{Found, Live, Table},
};

/// Frames kept of a stack; the allocator's own are among them.
const DEPTH: usize = 64;
/// Slots of [`FILTER`].
const SLOTS_LOG2: u32 = 17;

/// 0 while nobody samples; else the number of the profile.
static PROFILE: AtomicU32 = AtomicU32::new(0);
static PROFILES: AtomicU32 = AtomicU32::new(0);
static EVERY_BYTES: AtomicU64 = AtomicU64::new(1);
static SEEDS: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
static TABLE: Mutex<Option<(Started, Table)>> = Mutex::new(None);
/// How many allocations that are noted lie at addresses of each slot: nearly all releases end here, without the lock.
static FILTER: [AtomicU16; 1 << SLOTS_LOG2] = [const { AtomicU16::new(0) }; 1 << SLOTS_LOG2];

struct Thread {
    /// The profile that `left` belongs to.
    profile: Cell<u32>,
    /// Bytes until the next sample.
    left: Cell<i64>,
    random: Cell<u64>,
    /// What is allocated now is the sampler's own.
    inside: Cell<bool>,
}

thread_local! {
    // No destructor and nothing lazy: it may be touched while a thread starts and ends.
    static THREAD: Thread = const {
        Thread {
            profile: Cell::new(0),
            left: Cell::new(0),
            random: Cell::new(0),
            inside: Cell::new(false),
        }
    };
}

/// After an allocation of `bytes` at `pointer`.
#[inline]
pub(crate) fn allocated(pointer: *mut u8, bytes: usize) {
    let profile = PROFILE.load(Relaxed);
    if profile != 0 {
        count(profile, pointer.addr(), bytes);
    }
}

/// Before the release of what lies at `pointer`: afterwards another thread may get the address.
#[inline]
pub(crate) fn released(pointer: *mut u8) -> Option<Live> {
    if PROFILE.load(Relaxed) == 0 {
        return None;
    }
    forget(pointer.addr())
}

/// Undoes [`released`], for a reallocation that failed.
#[inline]
pub(crate) fn restored(pointer: *mut u8, live: Option<Live>) {
    let Some(live) = live else { return };
    let address = pointer.addr();
    unseen(|| {
        if let Some((_, table)) = &mut *table()
            && table.restore(address, live)
        {
            slot(address).fetch_add(1, Relaxed);
        }
    });
}

#[inline(never)]
fn count(profile: u32, address: usize, bytes: usize) {
    let _ = THREAD.try_with(|thread| {
        if thread.inside.get() {
            return;
        }
        let every = EVERY_BYTES.load(Relaxed);
        if thread.profile.get() != profile {
            thread.profile.set(profile);
            thread.left.set(thread.gap(every));
        }
        let size = i64::try_from(bytes).unwrap_or(i64::MAX);
        let left = thread.left.get().saturating_sub(size);
        thread.left.set(left);
        if left > 0 {
            return;
        }
        thread.left.set(thread.gap(every));
        thread.inside.set(true);
        sample(address, Live::picked(bytes, every));
        thread.inside.set(false);
    });
}

/// Notes an allocation and where it comes from.
fn sample(address: usize, live: Live) {
    let mut frames = [0; DEPTH];
    let mut kept = 0;
    backtrace::trace(|frame| {
        // The outermost frame of a thread has no address.
        let address = frame.ip().addr();
        if let Some(place) = frames.get_mut(kept)
            && address != 0
        {
            *place = address;
            kept += 1;
        }
        kept < DEPTH
    });
    let Some((_, table)) = &mut *table() else { return };
    if table.add(frames.get(..kept).unwrap_or_default(), address, live) {
        slot(address).fetch_add(1, Relaxed);
    }
}

#[inline(never)]
fn forget(address: usize) -> Option<Live> {
    // Whoever noted the allocation did so before it handed the address on.
    if slot(address).load(Relaxed) == 0 {
        return None;
    }
    THREAD
        .try_with(|thread| {
            if thread.inside.replace(true) {
                return None;
            }
            let live = table().as_mut().and_then(|(_, table)| table.remove(address));
            if live.is_some() {
                slot(address).fetch_sub(1, Relaxed);
            }
            thread.inside.set(false);
            live
        })
        .ok()
        .flatten()
}

/// Runs what the profile shall not see.
pub(super) fn unseen<T>(work: impl FnOnce() -> T) -> T {
    let before = THREAD.try_with(|thread| thread.inside.replace(true)).unwrap_or(true);
    let result = work();
    let _ = THREAD.try_with(|thread| thread.inside.set(before));
    result
}

/// Begins a profile; not while there is one.
pub(super) fn start(started: Started) -> bool {
    unseen(|| {
        let mut table = table();
        if table.is_some() {
            return false;
        }
        *table = Some((started, Table::default()));
        FILTER.iter().for_each(|slot| slot.store(0, Relaxed));
        EVERY_BYTES.store(started.every_bytes, Relaxed);
        let number = PROFILES.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        PROFILE.store(number, SeqCst);
        true
    })
}

/// Ends the profile, if there is one.
pub(super) fn stop() {
    unseen(|| {
        let mut table = table();
        PROFILE.store(0, SeqCst);
        *table = None;
    });
}

/// When the profile that runs began.
pub(super) fn started() -> Option<Started> {
    table().as_ref().map(|(started, _)| *started)
}

/// What the profile holds now.
pub(super) fn found() -> Found {
    table().as_ref().map(|(_, table)| table.found()).unwrap_or_default()
}

fn table() -> MutexGuard<'static, Option<(Started, Table)>> {
    // Figures that a panic left half added are better than no allocator.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot(address: usize) -> &'static AtomicU16 {
    let mixed = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS_LOG2);
    // The shift leaves fewer than there are; the mask lets the compiler see it.
    &FILTER[mixed as usize & ((1 << SLOTS_LOG2) - 1)]
}

impl Thread {
    /// Bytes until the next sample: random, `every` on average, and as likely to end at each byte as at any other.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a random figure; the conversion saturates"
    )]
    fn gap(&self, every: u64) -> i64 {
        if every <= 1 {
            return 0;
        }
        // xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
        let mut x = self.random.get();
        if x == 0 {
            x = SEEDS.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed) | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        let uniform =
            ((x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-uniform.ln() * every as f64) as i64
    }
}
