//! A team of threads that meets at a spin barrier between operators.
//!
//! A forward pass is some hundred operators of tens of microseconds each. Waking threads for every
//! one of them would cost as much as the work, so workers spin for a while after each operator and
//! park only when none follows.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker spins for the next operator before it parks. Longer than the engine's pause
/// between two steps, short enough that an idle process costs nothing.
const SPIN: Duration = Duration::from_micros(1500);

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 256;

/// Spins after which waiting threads offer their core to others: some tens of microseconds.
const SPINS_BEFORE_YIELD: u32 = 2048;

/// Keeps neighbours off a cache line (two, for the adjacent-line prefetcher).
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts operators; a change is the order to start. `STOP` ends the workers.
    epoch: Padded<AtomicUsize>,
    /// Workers that have not finished the current operator.
    running: Padded<AtomicUsize>,
    /// Workers that wait on `wake`.
    parked: Padded<AtomicUsize>,
    panicked: AtomicBool,
    /// The current operator: written by the caller before `epoch` moves, read by workers after.
    job: UnsafeCell<Option<Job>>,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by `Team::run`, which has `&mut Team` and writes while no worker
// runs (`running` is zero), and the release store of `epoch` orders the write before the workers'
// reads. The pointer's target is `Sync` and outlives the operator, as `run` returns only when
// `running` is zero.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

const STOP: usize = usize::MAX;

/// Threads that run one operator at a time together with the caller.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.epoch.0).finish_non_exhaustive()
    }
}

impl Team {
    /// Starts `threads - 1` workers; the caller of [`Team::run`] is the last member. Zero means
    /// [`physical_cores`]. Where the system refuses a thread the team is smaller.
    pub fn new(threads: usize) -> Self {
        let threads = if threads == 0 { physical_cores() } else { threads };
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicUsize::new(0)),
            running: Padded(AtomicUsize::new(0)),
            parked: Padded(AtomicUsize::new(0)),
            panicked: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("hapa-kernel-{index}"))
                    .spawn(move || work(&shared, index))
                    .ok()
            })
            .collect();
        Self { shared, workers }
    }

    /// Members, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(index)` once on every member, `index` from 0 (the caller) to `threads() - 1`, and
    /// returns when all are done.
    ///
    /// # Panics
    /// When `job` panics on any member, after all members have finished; the team stays usable.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function does not return before every worker is
        // done with the pointer.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: no worker reads `job` now: `running` was zero when the last call returned.
        unsafe { *shared.job.get() = Some(job) };
        shared.running.0.store(self.workers.len(), Ordering::Relaxed);
        let epoch = shared.epoch.0.load(Ordering::Relaxed).wrapping_add(1) & (STOP >> 1);
        // Sequentially consistent with the read of `parked`, as a worker's parking is with its read
        // of `epoch`: one of the two sees the other.
        shared.epoch.0.store(epoch, Ordering::SeqCst);
        if shared.parked.0.load(Ordering::SeqCst) > 0 {
            drop(shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
            shared.wake.notify_all();
        }
        // SAFETY: the reference that was passed in is alive.
        let own = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(0) }));
        let mut spins = 0u32;
        while shared.running.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            // After tens of microseconds it is likely that a worker lost its core, perhaps to this
            // spin.
            if spins > SPINS_BEFORE_YIELD {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let worker_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = own {
            resume_unwind(payload);
        }
        assert!(!worker_panicked, "a kernel thread panicked; its message is on standard error");
    }

    /// Splits `0..items` into pieces of at most `grain` and runs `job(thread, piece)` for each,
    /// every piece once. Each member starts with its own contiguous share, so that memory is read
    /// in long runs, and then helps the others. Runs on the caller alone when there is only one
    /// piece.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn for_each_piece(
        &mut self,
        items: usize,
        grain: usize,
        job: &(dyn Fn(usize, std::ops::Range<usize>) + Sync),
    ) {
        let grain = grain.max(1);
        let pieces = items.div_ceil(grain);
        let threads = self.threads().min(MAX_SHARES);
        if pieces <= 1 || threads == 1 {
            if items > 0 {
                job(0, 0..items);
            }
            return;
        }
        let bound = |share: usize| pieces * share / threads;
        let cursors: [Padded<AtomicUsize>; MAX_SHARES] =
            std::array::from_fn(|share| Padded(AtomicUsize::new(bound(share.min(threads)))));
        self.run(&|thread| {
            for turn in 0..threads {
                let share = (thread + turn) % threads;
                let end = bound(share + 1);
                while cursors[share].0.load(Ordering::Relaxed) < end {
                    let piece = cursors[share].0.fetch_add(1, Ordering::Relaxed);
                    if piece >= end {
                        break;
                    }
                    job(thread, piece * grain..((piece + 1) * grain).min(items));
                }
            }
        });
    }
}

/// Most shares that [`Team::for_each_piece`] makes; further members only help.
const MAX_SHARES: usize = 64;

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.epoch.0.store(STOP, Ordering::SeqCst);
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so this cannot fail.
            let _ = worker.join();
        }
    }
}

/// The life of worker `index`.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait_for_change(shared, seen);
        if seen == STOP {
            return;
        }
        // SAFETY: `epoch` moved, so the caller has written `job` and waits for `running` to reach
        // zero.
        let job = unsafe { *shared.job.get() };
        let done = catch_unwind(AssertUnwindSafe(|| {
            if let Some(job) = job {
                // SAFETY: the caller keeps the target alive until `running` is zero.
                unsafe { (*job)(index) }
            }
        }));
        if done.is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.running.0.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, then parks, until `epoch` is not `seen`; gives the new one.
fn wait_for_change(shared: &Shared, seen: usize) -> usize {
    let start = Instant::now();
    let mut spins = 0u32;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            let epoch = shared.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        spins += SPINS_PER_LOOK;
        if cfg!(miri) || start.elapsed() > SPIN {
            break;
        }
        if spins > SPINS_BEFORE_YIELD {
            std::thread::yield_now();
        }
    }
    let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
    shared.parked.0.fetch_add(1, Ordering::SeqCst);
    loop {
        let epoch = shared.epoch.0.load(Ordering::SeqCst);
        if epoch != seen {
            shared.parked.0.fetch_sub(1, Ordering::SeqCst);
            return epoch;
        }
        guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Physical cores that this process may use: what the arithmetic units and memory channels can
/// feed. Hyper-threads of one core are counted once where the system tells them apart.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    match core_ids() {
        Some(cores) if cores > 0 => cores.min(logical),
        _ => logical,
    }
}

/// Distinct (package, core) pairs as Linux reports them.
fn core_ids() -> Option<usize> {
    if cfg!(miri) || !cfg!(target_os = "linux") {
        return None;
    }
    let mut cores = std::collections::BTreeSet::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()? {
        let topology = cpu.ok()?.path().join("topology");
        let read = |name: &str| std::fs::read_to_string(topology.join(name)).ok();
        if let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) {
            cores.insert((package, core));
        }
    }
    Some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miri_every_member_runs_every_job() {
        let mut team = Team::new(3);
        let counts: [AtomicUsize; 3] = Default::default();
        let rounds = if cfg!(miri) { 20 } else { 2_000 };
        for _ in 0..rounds {
            team.run(&|index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
        }
        for count in &counts {
            assert_eq!(count.load(Ordering::Relaxed), rounds);
        }
    }

    #[test]
    fn miri_pieces_cover_everything_once() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads);
            for (items, grain) in [(0, 1), (1, 1), (7, 3), (100, 1), (64, 100), (33, 2)] {
                let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                team.for_each_piece(items, grain, &|thread, piece| {
                    assert!(thread < threads && !piece.is_empty());
                    for item in piece {
                        seen[item].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn miri_a_panic_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3);
        for culprit in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|index| assert_ne!(index, culprit, "on purpose"));
            }));
            assert!(result.is_err());
        }
        let ran = AtomicUsize::new(0);
        team.run(&|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 3);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sleeps")]
    fn parked_workers_wake() {
        let mut team = Team::new(2);
        for _ in 0..5 {
            std::thread::sleep(SPIN * 3);
            let ran = AtomicUsize::new(0);
            team.run(&|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn cores_are_at_least_one() {
        assert!(physical_cores() >= 1);
        assert_eq!(Team::new(0).threads(), physical_cores());
    }
}
