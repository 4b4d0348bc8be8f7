//! The pool with fast fakes: who leaves, who stays, who waits, and that room is never given out twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::pool::{Pool, PoolOptions, Seat};
use super::tests::{eventually, runtime};
use super::*;
use crate::error::ModelError;
use crate::store::ProgressSink;

/// A value that counts the bytes of all that live.
#[derive(Debug)]
struct Body {
    bytes: u64,
    live: Arc<AtomicU64>,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A pool and its values.
struct World {
    pool: Pool<Body>,
    values: Vec<Lazy<Body>>,
    live: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
    fail_next: Arc<AtomicBool>,
}

const NEVER: Duration = Duration::from_secs(3600);

/// Values of these sizes; each is estimated right.
fn world(budget: u64, sizes: &[u64], patience: Duration) -> World {
    let sizes: Vec<_> = sizes.iter().map(|size| (*size, *size)).collect();
    world_of(budget, &sizes, patience)
}

/// Values by what they are estimated at, and what they are.
fn world_of(budget: u64, sizes: &[(u64, u64)], patience: Duration) -> World {
    let pool = Pool::new(PoolOptions { budget_bytes: Some(budget), patience });
    let (live, most, fail_next) = (Arc::default(), Arc::default(), Arc::default());
    let value = |(index, &(estimate, bytes)): (usize, &(u64, u64))| {
        let (live, most, fail_next): (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>) =
            (Arc::clone(&live), Arc::clone(&most), Arc::clone(&fail_next));
        let load = move |seat: &Seat<Body>, progress: &dyn ProgressSink| {
            let room = seat.take(|| Ok(estimate), progress)?;
            std::thread::sleep(Duration::from_micros(200));
            if fail_next.swap(false, Ordering::SeqCst) {
                return Err(ModelError::EngineClosed);
            }
            let all = live.fetch_add(bytes, Ordering::SeqCst) + bytes;
            most.fetch_max(all, Ordering::SeqCst);
            room.keep(bytes);
            Ok(Body { bytes, live: Arc::clone(&live) })
        };
        pool.add_with(&index.to_string().into(), KeepAlive::Forever, || (), load)
    };
    let values = sizes.iter().enumerate().map(value).collect();
    World { pool, values, live, most, fail_next }
}

impl World {
    fn get(&self, index: usize) -> Lease<Body> {
        self.values[index].blocking_get().expect("loads")
    }

    /// Uses a value for a moment.
    fn touch(&self, index: usize) {
        drop(self.get(index));
    }

    fn loaded(&self) -> Vec<usize> {
        (0..self.values.len()).filter(|&i| self.values[i].state() == LoadState::Ready).collect()
    }

    fn is_waiting(&self, index: usize) -> bool {
        matches!(
            self.values[index].state(),
            LoadState::Loading { event: crate::store::LoadEvent::MakingRoom { .. } }
        )
    }
}

#[test]
fn the_least_recently_used_leaves_first() {
    let world = world(30, &[10, 10, 10, 10, 20], NEVER);
    for index in [0, 1, 2] {
        world.touch(index);
    }
    assert_eq!((world.loaded(), world.pool.stats().held_bytes), (vec![0, 1, 2], 30));
    world.touch(0);
    world.touch(3);
    assert_eq!(world.loaded(), [0, 2, 3], "1 was used least recently");
    world.touch(4);
    assert_eq!(world.loaded(), [3, 4], "as many as it takes");
    assert_eq!(world.pool.held(), [0, 0, 0, 10, 20]);
    let room: Vec<_> = world.values.iter().map(|value| value.unloads().room).collect();
    assert_eq!(room, [1, 1, 1, 0, 0]);
    assert!(world.most.load(Ordering::SeqCst) <= 30);
}

#[test]
fn one_in_use_stays_and_the_load_waits() {
    let world = world(20, &[10, 10, 10], NEVER);
    let (first, second) = (world.get(0), world.get(1));
    std::thread::scope(|scope| {
        let third = scope.spawn(|| world.get(2).bytes);
        eventually("it waits", || world.is_waiting(2));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(world.loaded(), [0, 1], "nobody in use is interrupted");
        // Who is in use goes on taking work while the load is patient.
        drop(world.get(0));
        drop(second);
        assert_eq!(third.join().expect("join"), 10);
    });
    assert_eq!((world.loaded(), first.bytes), (vec![0, 2], 10));
    assert_eq!(world.pool.stats().waiting, 0);
}

#[test]
fn a_steady_stream_keeps_no_other_one_out() {
    let world = world(10, &[10, 10], Duration::from_millis(20));
    let done = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let lease = world.get(0);
                    std::thread::sleep(Duration::from_millis(3));
                    drop(lease);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        eventually("the stream runs", || served.load(Ordering::SeqCst) > 10);
        for _ in 0..3 {
            world.touch(1);
            let before = served.load(Ordering::SeqCst);
            eventually("the stream goes on", || served.load(Ordering::SeqCst) > before + 10);
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(world.values[0].unloads().room >= 3);
    assert!(world.most.load(Ordering::SeqCst) <= 10);
}

#[test]
fn one_that_is_to_leave_takes_no_new_work_and_loses_none() {
    let world = world(10, &[10, 10], Duration::ZERO);
    let old = world.get(0);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let lease = world.get(1);
            std::thread::sleep(Duration::from_millis(50));
            lease.bytes
        });
        eventually("it waits", || world.is_waiting(1));
        std::thread::sleep(Duration::from_millis(20));
        let newcomer = scope.spawn(|| world.get(0).bytes);
        eventually("the newcomer waits, too", || world.values[0].inner_waiters() == 1);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!((world.loaded(), old.bytes), (vec![0], 10), "who has a lease keeps it");
        drop(old);
        assert_eq!(other.join().expect("join"), 10);
        assert_eq!(newcomer.join().expect("join"), 10, "loaded again");
    });
    assert_eq!(world.loaded(), [0]);
    assert!(world.most.load(Ordering::SeqCst) <= 10);
}

#[test]
fn who_waited_in_vain_lets_the_others_stay() {
    let world = world(10, &[10, 10], Duration::ZERO);
    let held = world.get(0);
    let runtime = runtime();
    let waiting = runtime.spawn({
        let value = world.values[1].clone();
        async move { value.get().await.map(drop) }
    });
    eventually("it waits", || world.is_waiting(1));
    std::thread::sleep(Duration::from_millis(20));
    std::thread::scope(|scope| {
        let newcomer = scope.spawn(|| world.get(0).bytes);
        eventually("the newcomer waits", || world.values[0].inner_waiters() == 1);
        waiting.abort();
        assert_eq!(newcomer.join().expect("join"), 10, "served by the one that stays");
    });
    eventually("the load is given up", || world.values[1].state() == LoadState::Unloaded);
    assert_eq!((world.loaded(), world.pool.stats().waiting), (vec![0], 0));
    assert_eq!(world.pool.held(), [10, 0]);
    drop(held);
    assert_eq!(world.loaded(), [0], "nobody needs its room any more");
    world.touch(1);
    assert_eq!(world.loaded(), [1]);
}

#[test]
fn nobody_leaves_for_nothing() {
    let world = world(10, &[2, 8, 4], NEVER);
    world.touch(0);
    let large = world.get(1);
    let runtime = runtime();
    let waiting = runtime.spawn({
        let value = world.values[2].clone();
        async move { value.get().await.map(drop) }
    });
    eventually("it waits", || world.is_waiting(2));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(world.loaded(), [0, 1], "the idle one alone is not room enough");
    waiting.abort();
    eventually("the load is given up", || world.values[2].state() == LoadState::Unloaded);
    assert_eq!((world.loaded(), large.bytes), (vec![0, 1], 8));
}

#[test]
fn a_load_that_fails_gives_its_room_back() {
    let world = world(10, &[10, 10], NEVER);
    world.fail_next.store(true, Ordering::SeqCst);
    world.values[0].blocking_get().expect_err("fails");
    assert_eq!(world.pool.held(), [0, 0]);
    world.touch(1);
    world.fail_next.store(true, Ordering::SeqCst);
    world.values[0].blocking_get().expect_err("fails");
    assert_eq!((world.pool.held(), world.pool.stats().waiting), (vec![0, 0], 0));
    world.touch(0);
    assert_eq!(world.loaded(), [0]);
}

#[test]
fn one_that_is_larger_than_the_budget_is_loaded_alone() {
    let world = world(10, &[4, 4, 100], NEVER);
    world.touch(0);
    world.touch(1);
    world.touch(2);
    assert_eq!((world.loaded(), world.pool.held()), (vec![2], vec![0, 0, 100]));
    world.touch(0);
    assert_eq!(world.loaded(), [0], "and leaves as the others do");
}

#[test]
fn an_estimate_that_was_too_small_is_made_up_for() {
    let world = world_of(10, &[(4, 4), (4, 4), (2, 6)], NEVER);
    world.touch(0);
    world.touch(1);
    world.touch(2);
    assert_eq!((world.loaded(), world.pool.held()), (vec![1, 2], vec![0, 4, 6]));
    // From then on it is known.
    world.touch(0);
    world.touch(2);
    assert!(world.pool.stats().held_bytes <= 10);
    assert!(world.loaded().contains(&2));
}

#[test]
fn loads_that_wait_are_served_in_the_order_in_which_they_came() {
    let world = world(10, &[10, 10, 10], NEVER);
    let held = world.get(0);
    let order = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for index in [1, 2] {
            let (world, order) = (&world, &order);
            scope.spawn(move || {
                let lease = world.get(index);
                order.lock().push(index);
                drop(lease);
            });
            eventually("it waits", || world.pool.stats().waiting == index);
        }
        drop(held);
    });
    assert_eq!(*order.lock(), [1, 2]);
}

#[test]
fn a_value_that_is_forgotten_gives_its_room_back() {
    let mut world = world(10, &[10, 10], NEVER);
    world.touch(0);
    drop(world.values.remove(0));
    // The thread that loaded it may not be quite at its end.
    eventually("it is gone", || {
        world.pool.held() == [0, 0] && world.live.load(Ordering::SeqCst) == 0
    });
    drop(world.values[0].blocking_get().expect("loads"));
}

#[test]
fn without_a_budget_nobody_leaves() {
    let pool = Pool::new(PoolOptions::default());
    let values: Vec<Lazy<u64>> = (0..3_u64)
        .map(|index| {
            let load = move |seat: &Seat<u64>, progress: &dyn ProgressSink| {
                let estimate = || panic!("nothing is estimated where nothing is bounded");
                seat.take(estimate, progress)?.keep(1 << 40);
                Ok(index)
            };
            pool.add_with(&index.to_string().into(), KeepAlive::Forever, || (), load)
        })
        .collect();
    for value in &values {
        drop(value.blocking_get().expect("loads"));
    }
    assert!(values.iter().all(|value| value.state() == LoadState::Ready));
    assert_eq!(pool.stats().held_bytes, 3 << 40);
    assert_eq!(values[0].unload(), Unload::Done);
    assert_eq!((pool.stats().held_bytes, values[0].held_bytes()), (2 << 40, 0));
}

/// What one user does, one after the other.
#[derive(Debug, Clone, Copy)]
enum Act {
    Touch(usize),
    Hold(usize),
    Release(usize),
    Unload(usize),
}

const VALUES: usize = 5;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..VALUES).prop_map(Act::Touch),
        2 => (0..VALUES).prop_map(Act::Hold),
        2 => (0..VALUES).prop_map(Act::Release),
        1 => (0..VALUES).prop_map(Act::Unload),
    ];
    prop::collection::vec(act, 1..60)
}

/// What is loaded, from the least to the most recently used, and how many leases each has.
struct Expected {
    budget: u64,
    sizes: Vec<u64>,
    loaded: Vec<usize>,
    leases: Vec<usize>,
    to_unload: Vec<bool>,
}

impl Expected {
    fn held(&self) -> u64 {
        self.loaded.iter().map(|&index| self.sizes[index]).sum()
    }

    /// Loads a value, if that needs no waiting.
    fn load(&mut self, index: usize) -> bool {
        if !self.loaded.contains(&index) {
            let missing = (self.held() + self.sizes[index]).saturating_sub(self.budget);
            let missing = missing.min(self.held());
            let idle: Vec<_> =
                self.loaded.iter().copied().filter(|&other| self.leases[other] == 0).collect();
            if idle.iter().map(|&other| self.sizes[other]).sum::<u64>() < missing {
                return false;
            }
            let mut freed = 0;
            for other in idle {
                if freed >= missing {
                    break;
                }
                freed += self.sizes[other];
                self.loaded.retain(|&loaded| loaded != other);
            }
        }
        self.used(index);
        true
    }

    fn used(&mut self, index: usize) {
        self.loaded.retain(|&loaded| loaded != index);
        self.loaded.push(index);
    }

    fn release(&mut self, index: usize) {
        self.used(index);
        self.leases[index] -= 1;
        if self.leases[index] == 0 && std::mem::take(&mut self.to_unload[index]) {
            self.loaded.retain(|&loaded| loaded != index);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// One user at a time: after each act exactly those are loaded that a list in the order of use says.
    #[test]
    fn as_a_list_in_the_order_of_use(
        acts in acts(),
        sizes in prop::collection::vec(1_u64..12, VALUES),
        budget in 5_u64..30,
    ) {
        let world = world(budget, &sizes, NEVER);
        let mut leases: Vec<Vec<Lease<Body>>> = (0..VALUES).map(|_| Vec::new()).collect();
        let mut expected = Expected {
            budget, sizes, loaded: Vec::new(), leases: vec![0; VALUES], to_unload: vec![false; VALUES],
        };
        for act in acts {
            match act {
                Act::Touch(index) => if expected.load(index) {
                    world.touch(index);
                    expected.leases[index] += 1;
                    expected.release(index);
                },
                Act::Hold(index) => if expected.load(index) {
                    leases[index].push(world.get(index));
                    expected.leases[index] += 1;
                },
                Act::Release(index) => if leases[index].pop().is_some() {
                    expected.release(index);
                },
                Act::Unload(index) => match world.values[index].unload() {
                    Unload::Done => expected.loaded.retain(|&loaded| loaded != index),
                    Unload::WhenIdle => expected.to_unload[index] = true,
                    Unload::NotLoaded => {}
                },
            }
            let mut loaded = expected.loaded.clone();
            loaded.sort_unstable();
            prop_assert_eq!(world.loaded(), loaded, "after {:?}", act);
            prop_assert_eq!(world.pool.stats().held_bytes, expected.held());
            prop_assert_eq!(world.live.load(Ordering::SeqCst), expected.held());
            prop_assert!(expected.held() <= budget || expected.loaded.len() == 1);
        }
    }

    /// Any number of users at once: everyone is served or gives up, no room is given out twice, all is given back.
    #[test]
    fn random_users(
        users in prop::collection::vec(
            prop::collection::vec((0..VALUES, 0_u64..600, any::<bool>()), 1..8), 2..6),
        sizes in prop::collection::vec(1_u64..12, VALUES),
        budget in 5_u64..30,
        patience_us in 0_u64..2000,
    ) {
        let world = world(budget, &sizes, Duration::from_micros(patience_us));
        let runtime = runtime();
        std::thread::scope(|scope| {
            for user in &users {
                let (world, runtime) = (&world, &runtime);
                scope.spawn(move || for &(index, time_us, gives_up) in user {
                    let time = Duration::from_micros(time_us);
                    let value = &world.values[index];
                    if gives_up {
                        let _ = runtime.block_on(async { tokio::time::timeout(time, value.get()).await });
                    } else {
                        let lease = value.blocking_get().expect("loads");
                        std::thread::sleep(time);
                        drop(lease);
                    }
                });
            }
        });
        let largest = sizes.iter().copied().max().unwrap_or(0);
        prop_assert!(world.most.load(Ordering::SeqCst) <= budget.max(largest));
        eventually("no load runs", || {
            world.values.iter().all(|value| !matches!(value.state(), LoadState::Loading { .. }))
        });
        prop_assert_eq!(world.pool.stats().waiting, 0);
        for value in &world.values {
            prop_assert_eq!((value.leases(), value.inner_waiters()), (0, 0));
            eventually("unloaded", || { value.unload(); value.state() == LoadState::Unloaded });
        }
        prop_assert_eq!((world.pool.stats().held_bytes, world.live.load(Ordering::SeqCst)), (0, 0));
    }
}
