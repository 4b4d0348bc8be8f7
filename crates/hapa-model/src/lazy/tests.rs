//! The state machine with fast fakes: one load for all, failures, abandonment, idling, and races.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::error::{ModelError, Result};
use crate::store::{LoadEvent, ProgressSink};

/// A value that counts how many of its kind live.
#[derive(Debug)]
struct Counted {
    number: usize,
    live: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A loader whose loads a test can hold, fail and count.
#[derive(Default)]
struct Fake {
    loads: AtomicUsize,
    live: Arc<AtomicUsize>,
    most_live: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    fail_next: AtomicBool,
    deaf: AtomicBool,
    hold: AtomicBool,
    seen_cancel: AtomicUsize,
}

impl Fake {
    fn load(&self, sink: &dyn ProgressSink) -> Result<Counted> {
        let number = self.loads.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        sink.event(&LoadEvent::Mapping);
        let mut result = Ok(());
        while self.hold.load(Ordering::SeqCst) {
            if sink.is_cancelled() && !self.deaf.load(Ordering::SeqCst) {
                self.seen_cancel.fetch_add(1, Ordering::SeqCst);
                result = Err(ModelError::Cancelled);
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.fail_next.swap(false, Ordering::SeqCst) {
            return Err(ModelError::EngineClosed);
        }
        result.map(|()| {
            let live = self.live.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_live.fetch_max(live, Ordering::SeqCst);
            Counted { number, live: Arc::clone(&self.live) }
        })
    }
}

fn lazy(keep_alive: KeepAlive) -> (Arc<Fake>, Lazy<Counted>) {
    let fake = Arc::new(Fake::default());
    let loader = Arc::clone(&fake);
    (fake, Lazy::with_loader(move |sink: &dyn ProgressSink| loader.load(sink), keep_alive))
}

pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

fn is_loading(lazy: &Lazy<Counted>) -> bool {
    matches!(lazy.state(), LoadState::Loading { .. })
}

#[test]
fn making_one_loads_nothing() {
    let (fake, lazy) = lazy(KeepAlive::default());
    assert_eq!(lazy.state(), LoadState::Unloaded);
    assert_eq!(lazy.unload(), Unload::NotLoaded);
    assert!(lazy.loaded().is_none());
    drop(lazy);
    assert_eq!(fake.loads.load(Ordering::SeqCst), 0);
}

#[test]
fn a_hundred_callers_cause_one_load() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    let barrier = Barrier::new(100);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                barrier.wait();
                assert_eq!(lazy.blocking_get().expect("loads").number, 0);
            });
        }
    });
    assert_eq!(fake.loads.load(Ordering::SeqCst), 1);
    assert_eq!((lazy.leases(), lazy.state()), (0, LoadState::Ready));
}

#[test]
fn a_hundred_async_callers_cause_one_load() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    runtime().block_on(async {
        let callers = (0..100).map(|_| {
            let lazy = lazy.clone();
            tokio::spawn(async move { lazy.get().await.map(|lease| lease.number) })
        });
        for caller in callers.collect::<Vec<_>>() {
            assert_eq!(caller.await.expect("no panic").expect("loads"), 0);
        }
    });
    assert_eq!(fake.loads.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failure_is_told_to_all_and_the_next_call_tries_again() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    fake.fail_next.store(true, Ordering::SeqCst);
    fake.hold.store(true, Ordering::SeqCst);
    let errors: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..10).map(|_| scope.spawn(|| lazy.blocking_get())).collect();
        eventually("all wait", || lazy.inner_waiters() == 10);
        fake.hold.store(false, Ordering::SeqCst);
        callers.into_iter().map(|c| c.join().expect("join").expect_err("fails")).collect()
    });
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])), "one error, shared");
    assert_eq!(fake.loads.load(Ordering::SeqCst), 1);
    let message = errors[0].to_string();
    assert_eq!(lazy.state(), LoadState::Failed { message });
    assert_eq!(lazy.blocking_get().expect("second try").number, 1);
    assert_eq!(lazy.state(), LoadState::Ready);
}

#[test]
fn a_panic_in_a_load_is_an_error() {
    let lazy: Lazy<()> =
        Lazy::with_loader(|_: &dyn ProgressSink| panic!("bad weights {}", 7), KeepAlive::Forever);
    let error = lazy.blocking_get().expect_err("panics").to_string();
    assert!(error.contains("bad weights 7"), "{error}");
    assert!(lazy.blocking_get().is_err(), "and it can be tried again");
}

#[test]
fn a_load_that_nobody_waits_for_is_abandoned() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    fake.hold.store(true, Ordering::SeqCst);
    runtime().block_on(async {
        let waiting = [
            tokio::spawn({
                let l = lazy.clone();
                async move { l.get().await }
            }),
            tokio::spawn({
                let l = lazy.clone();
                async move { l.get().await }
            }),
        ];
        while lazy.inner_waiters() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        waiting[0].abort();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(fake.seen_cancel.load(Ordering::SeqCst), 0, "one still waits");
        waiting[1].abort();
    });
    eventually("the load ends", || lazy.state() == LoadState::Unloaded);
    assert_eq!(fake.seen_cancel.load(Ordering::SeqCst), 1);
    fake.hold.store(false, Ordering::SeqCst);
    assert_eq!(lazy.blocking_get().expect("afresh").number, 1);
}

#[test]
fn who_comes_while_an_abandoned_load_winds_down_gets_a_load_of_their_own() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    fake.hold.store(true, Ordering::SeqCst);
    fake.deaf.store(true, Ordering::SeqCst);
    abandon_one(&fake, &lazy);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| lazy.blocking_get().map(|lease| lease.number));
        eventually("the next waits", || lazy.inner_waiters() == 1);
        fake.deaf.store(false, Ordering::SeqCst);
        eventually("the first gave up", || fake.seen_cancel.load(Ordering::SeqCst) == 1);
        eventually("the second load runs", || fake.loads.load(Ordering::SeqCst) == 2);
        fake.hold.store(false, Ordering::SeqCst);
        assert_eq!(next.join().expect("join").expect("loads"), 1);
    });
    assert_eq!(fake.most_running.load(Ordering::SeqCst), 1, "never two at once");
}

#[test]
fn an_abandoned_load_that_ends_well_is_adopted() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    fake.hold.store(true, Ordering::SeqCst);
    fake.deaf.store(true, Ordering::SeqCst);
    abandon_one(&fake, &lazy);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| lazy.blocking_get().map(|lease| lease.number));
        eventually("the next waits", || lazy.inner_waiters() == 1);
        fake.hold.store(false, Ordering::SeqCst);
        assert_eq!(next.join().expect("join").expect("loads"), 0);
    });
    assert_eq!(fake.loads.load(Ordering::SeqCst), 1);
}

/// Lets one caller come and go while its load is held.
fn abandon_one(fake: &Fake, lazy: &Lazy<Counted>) {
    let runtime = runtime();
    let waiting = runtime.spawn({
        let l = lazy.clone();
        async move { l.get().await }
    });
    eventually("it loads", || fake.running.load(Ordering::SeqCst) == 1);
    waiting.abort();
    eventually("it left", || lazy.inner_waiters() == 0);
    assert!(is_loading(lazy));
}

#[test]
fn an_idle_value_is_unloaded_and_one_in_use_is_not() {
    let (fake, lazy) = lazy(KeepAlive::For(Duration::from_millis(60)));
    let lease = lazy.blocking_get().expect("loads");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((lazy.state(), lease.number), (LoadState::Ready, 0), "never under a lease");
    drop(lease);
    assert_eq!(lazy.state(), LoadState::Ready, "not at once either");
    eventually("unloaded", || lazy.state() == LoadState::Unloaded);
    assert_eq!(fake.live.load(Ordering::SeqCst), 0);
    assert_eq!(lazy.blocking_get().expect("again").number, 1);
    eventually("unloaded again", || fake.live.load(Ordering::SeqCst) == 0);
}

#[test]
fn use_puts_the_unloading_off() {
    let (fake, lazy) = lazy(KeepAlive::For(Duration::from_millis(400)));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1000) {
        drop(lazy.blocking_get().expect("loads"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fake.loads.load(Ordering::SeqCst), 1);
}

#[test]
fn keep_alive_zero_unloads_after_the_last_lease() {
    let (fake, lazy) = lazy(KeepAlive::For(Duration::ZERO));
    let first = lazy.blocking_get().expect("loads");
    let second = first.clone();
    drop(first);
    assert_eq!(fake.live.load(Ordering::SeqCst), 1);
    drop(second);
    assert_eq!((fake.live.load(Ordering::SeqCst), lazy.state()), (0, LoadState::Unloaded));
}

#[test]
fn a_time_past_the_end_of_the_clock_never_comes() {
    let (fake, lazy) = lazy(KeepAlive::For(Duration::MAX));
    drop(lazy.blocking_get().expect("loads"));
    drop(lazy.blocking_get().expect("still there"));
    assert_eq!((fake.loads.load(Ordering::SeqCst), lazy.state()), (1, LoadState::Ready));
}

#[test]
fn looking_at_a_value_does_not_keep_it() {
    let (_, lazy) = lazy(KeepAlive::For(Duration::from_millis(80)));
    drop(lazy.blocking_get().expect("loads"));
    eventually("it goes while it is looked at", || {
        lazy.loaded().is_none_or(|value| value.number != 0)
    });
    let work = lazy.blocking_get().expect("loads again");
    let look = lazy.loaded().expect("is loaded");
    drop(work);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(lazy.state(), LoadState::Ready, "not while someone looks");
    drop(look);
    eventually("it goes right after", || lazy.loaded().is_none());
}

#[test]
fn unload_gives_back_at_once_or_when_idle() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    drop(lazy.blocking_get().expect("loads"));
    assert_eq!(lazy.unload(), Unload::Done);
    assert_eq!(fake.live.load(Ordering::SeqCst), 0);
    let lease = lazy.blocking_get().expect("loads");
    assert_eq!(lazy.unload(), Unload::WhenIdle);
    assert_eq!(fake.live.load(Ordering::SeqCst), 1, "never under a lease");
    drop(lease);
    assert_eq!(fake.live.load(Ordering::SeqCst), 0);
}

#[test]
fn unload_during_a_load_takes_effect_after_its_waiters() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    fake.hold.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| lazy.blocking_get().map(|lease| lease.number));
        eventually("it loads", || fake.running.load(Ordering::SeqCst) == 1);
        assert_eq!(lazy.unload(), Unload::WhenIdle);
        fake.hold.store(false, Ordering::SeqCst);
        assert_eq!(caller.join().expect("join").expect("served first"), 0);
    });
    assert_eq!((fake.live.load(Ordering::SeqCst), lazy.state()), (0, LoadState::Unloaded));
}

#[test]
fn a_lease_outlives_its_lazy() {
    let (fake, lazy) = lazy(KeepAlive::default());
    let lease = lazy.blocking_get().expect("loads");
    drop(lazy);
    assert_eq!(lease.number, 0);
    drop(lease);
    eventually("freed", || fake.live.load(Ordering::SeqCst) == 0);
}

#[test]
fn watchers_see_every_state() {
    let (fake, lazy) = lazy(KeepAlive::Forever);
    let mut watcher = lazy.subscribe();
    let (sender, seen) = mpsc::channel();
    fake.hold.store(true, Ordering::SeqCst);
    runtime().block_on(async {
        let caller = tokio::spawn({
            let l = lazy.clone();
            async move { l.get().await.map(|_| ()) }
        });
        let watching = tokio::spawn(async move {
            loop {
                watcher.changed().await.expect("the lazy lives");
                let state = watcher.borrow_and_update().clone();
                sender.send(state.clone()).expect("send");
                if state == LoadState::Ready {
                    return;
                }
            }
        });
        while fake.running.load(Ordering::SeqCst) != 1 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        fake.hold.store(false, Ordering::SeqCst);
        caller.await.expect("join").expect("loads");
        watching.await.expect("join");
    });
    let seen: Vec<LoadState> = seen.try_iter().collect();
    assert!(seen.contains(&LoadState::Loading { event: LoadEvent::Mapping }), "{seen:?}");
    assert_eq!(seen.last(), Some(&LoadState::Ready));
}

/// What a random user does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Get { hold_us: u64 },
    GiveUpAfter { us: u64 },
    Unload,
    FailNext,
}

fn acts() -> impl Strategy<Value = Vec<Vec<Act>>> {
    let act = prop_oneof![
        4 => (0_u64..800).prop_map(|hold_us| Act::Get { hold_us }),
        4 => (0_u64..800).prop_map(|us| Act::GiveUpAfter { us }),
        1 => Just(Act::Unload),
        1 => Just(Act::FailNext),
    ];
    prop::collection::vec(prop::collection::vec(act, 1..8), 2..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever users do in whatever order: at most one load runs, at most one value lives, every caller gets an answer,
    /// and in the end everything is given back.
    #[test]
    fn random_users(users in acts(), keep_ms in 0_u64..3, load_us in 0_u64..500) {
        let fake = Arc::new(Fake::default());
        let loader = Arc::clone(&fake);
        let lazy = Lazy::with_loader(
            move |sink: &dyn ProgressSink| {
                std::thread::sleep(Duration::from_micros(load_us));
                if sink.is_cancelled() { Err(ModelError::Cancelled) } else { loader.load(sink) }
            },
            KeepAlive::For(Duration::from_millis(keep_ms)),
        );
        let surprises = Mutex::new(Vec::new());
        let runtime = runtime();
        std::thread::scope(|scope| {
            for user in &users {
                let (fake, lazy, surprises, runtime) = (&fake, &lazy, &surprises, &runtime);
                scope.spawn(move || for act in user {
                    match *act {
                        Act::Get { hold_us } => match lazy.blocking_get() {
                            Ok(lease) => {
                                std::thread::sleep(Duration::from_micros(hold_us));
                                if lease.live.load(Ordering::SeqCst) != 1 {
                                    surprises.lock().push("the value under a lease was unloaded".to_owned());
                                }
                            }
                            Err(error) if matches!(*error, ModelError::EngineClosed) => {}
                            Err(error) => surprises.lock().push(format!("told of {error}")),
                        },
                        Act::GiveUpAfter { us } => {
                            let limit = Duration::from_micros(us);
                            let _ = runtime.block_on(async { tokio::time::timeout(limit, lazy.get()).await });
                        }
                        Act::Unload => {
                            lazy.unload();
                        }
                        Act::FailNext => fake.fail_next.store(true, Ordering::SeqCst),
                    }
                });
            }
        });
        prop_assert_eq!(surprises.into_inner(), Vec::<String>::new());
        prop_assert!(fake.most_running.load(Ordering::SeqCst) <= 1);
        prop_assert!(fake.most_live.load(Ordering::SeqCst) <= 1, "two values were in memory at once");
        prop_assert_eq!((lazy.leases(), lazy.inner_waiters()), (0, 0));
        eventually("no load runs", || !is_loading(&lazy));
        lazy.unload();
        eventually("all is freed", || fake.live.load(Ordering::SeqCst) == 0);
    }
}
