//! The flights under thousands of schedules: shuttle decides at every lock which thread goes on, so that what happens once in
//! a million requests happens here within seconds, and a lost wake-up is a deadlock that it reports.
//!
//! `cargo nextest run -p hapa-cache --features shuttle --test shuttle`; `HAPA_SHUTTLE_ROUNDS=100000` before it for a long run.
//! A failure prints its schedule, which `shuttle::replay` repeats.
#![cfg(feature = "shuttle")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use hapa_cache::{FlightError, FlightEvent, FlightOptions, Flights, Join, Producer, Waiter};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is streamed: who produced it, and its number.
type Item = (u32, u32);
type Shared = Flights<u8, Item, u32, u32>;
type Work = Producer<u8, Item, u32, u32>;
type Reader = Waiter<u8, Item, u32, u32>;
type End = Result<u32, FlightError<u32>>;

const ITEMS: u32 = 3;

fn rounds() -> usize {
    std::env::var("HAPA_SHUTTLE_ROUNDS").map_or(2_000, |rounds| rounds.parse().unwrap())
}

/// Runs a test under random schedules, and under those that have few preemptions in the worst places.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, rounds());
    shuttle::check_pct(test, rounds(), 3);
}

/// Numbers producers, so that a reader can tell whose items it sees.
#[derive(Clone, Default)]
struct Names(Arc<AtomicU32>);

impl Names {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn given(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Produces a whole answer, or stops when nobody is left.
fn produce(work: Work, name: u32) {
    for number in 0..ITEMS {
        if !work.push((name, number)) {
            return;
        }
    }
    work.finish(name);
}

/// What one client saw until the end, or until it had enough.
struct Seen {
    items: Vec<Item>,
    end: Option<End>,
    leads: u32,
    workers: Vec<thread::JoinHandle<()>>,
}

/// Reads at most `patience` events; whoever is handed the lead produces in a thread of its own.
fn read(waiter: &mut Reader, patience: usize, names: &Names) -> Seen {
    let mut seen = Seen { items: Vec::new(), end: None, leads: 0, workers: Vec::new() };
    for _ in 0..patience {
        match block_on(waiter.next()) {
            Ok(FlightEvent::Item(item)) => seen.items.push(item),
            Ok(FlightEvent::Lead(work)) => {
                seen.leads += 1;
                let name = names.next();
                seen.workers.push(thread::spawn(move || produce(work, name)));
            }
            Err(end) => {
                seen.end = Some(end);
                break;
            }
        }
    }
    seen.check();
    seen
}

impl Seen {
    /// Nothing is missing, doubled or out of order, and all of it is one producer's.
    fn check(&self) {
        for (at, (name, number)) in self.items.iter().enumerate() {
            assert_eq!((*name, *number), (self.items[0].0, at as u32), "{:?}", self.items);
        }
        if let Some(Ok(name)) = &self.end {
            assert_eq!(self.items.len() as u32, ITEMS, "an outcome comes after the last item");
            assert_eq!(self.items[0].0, *name, "items and outcome are one producer's");
        }
    }

    /// Waits for the producers that this client started.
    fn settle(self) {
        join_all(self.workers);
    }
}

/// When all clients and producers are gone, every flight has one end and nothing is left.
fn check_settled(flights: &Shared, clients: u64) {
    flights.validate();
    let stats = flights.stats();
    assert_eq!(stats.in_flight, 0, "{stats:?}");
    assert_eq!(stats.led + stats.shared, clients, "{stats:?}");
    assert_eq!(stats.led, stats.finished + stats.failed + stats.cancelled, "{stats:?}");
}

fn join_all<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Clients that come at any moment: each sees a whole answer, and as many were computed as flights were led.
#[test]
fn whoever_joins_sees_all_and_only_leaders_compute() {
    explore(|| {
        let (flights, names) = (Shared::default(), Names::default());
        let clients = (0..3).map(|_| {
            let (flights, names) = (flights.clone(), names.clone());
            thread::spawn(move || {
                let Join { mut waiter, producer } = flights.join(1);
                let worker = producer.map(|work| {
                    let name = names.next();
                    thread::spawn(move || produce(work, name))
                });
                let seen = read(&mut waiter, usize::MAX, &names);
                assert!(matches!(seen.end, Some(Ok(_))), "{:?}", seen.end);
                join_all(worker.into_iter().collect());
            })
        });
        join_all(clients.collect());
        let stats = flights.stats();
        assert_eq!((u64::from(names.given()), stats.finished), (stats.led, stats.led));
        check_settled(&flights, 3);
    });
}

/// Readers that are there before the failure all get it, after what was produced.
#[test]
fn a_failure_reaches_every_waiter() {
    explore(|| {
        let (flights, names) = (Shared::default(), Names::default());
        let Join { waiter, producer } = flights.join(1);
        let waiters = [waiter, flights.join(1).waiter, flights.join(1).waiter];
        let readers: Vec<_> = waiters
            .into_iter()
            .map(|mut waiter| {
                let names = names.clone();
                thread::spawn(move || read(&mut waiter, usize::MAX, &names))
            })
            .collect();
        let work = producer.unwrap();
        assert!(work.push((9, 0)) && work.push((9, 1)));
        work.fail(77);
        for seen in join_all(readers) {
            assert_eq!(seen.items, [(9, 0), (9, 1)]);
            assert_eq!(seen.end, Some(Err(FlightError::Failed(77))));
        }
        assert!(flights.join(1).producer.is_some(), "a failure is not kept");
        check_settled(&flights, 4);
    });
}

/// A leader that goes away before it began hands on, exactly once, to somebody who is there.
#[test]
fn a_leader_that_leaves_hands_on() {
    explore(|| {
        let (flights, names) = (Shared::default(), Names::default());
        let leader = flights.join(1);
        let clients = [flights.join(1).waiter, flights.join(1).waiter].map(|mut waiter| {
            let names = names.clone();
            thread::spawn(move || read(&mut waiter, usize::MAX, &names))
        });
        drop(leader);
        let seen = join_all(clients.into());
        assert_eq!(seen.iter().map(|seen| seen.leads).sum::<u32>(), 1);
        assert!(
            seen.iter().all(|seen| seen.end == Some(Ok(0))),
            "both got the second one's answer"
        );
        assert_eq!(flights.stats().handed_on, 1);
        seen.into_iter().for_each(Seen::settle);
        check_settled(&flights, 3);
    });
}

/// Whoever is handed the lead may leave too, with the lead in its hands: then the flight ends clearly for the others.
#[test]
fn a_lead_that_is_dropped_fails_the_others_or_is_handed_on() {
    explore(|| {
        let options = FlightOptions::default().max_hand_ons(2);
        let (flights, names): (Shared, _) = (Flights::new(options).unwrap(), Names::default());
        let leader = flights.join(1);
        let [mut first, mut second] = [flights.join(1).waiter, flights.join(1).waiter];
        let leaver = thread::spawn(move || {
            // Whatever it gets, it goes: with the lead, or with nothing.
            drop(block_on(first.next()));
        });
        let stayer = {
            let names = names.clone();
            thread::spawn(move || read(&mut second, usize::MAX, &names))
        };
        drop(leader);
        leaver.join().unwrap();
        let seen = stayer.join().unwrap();
        assert!(matches!(seen.end, Some(Ok(_))), "{:?}", seen.end);
        seen.settle();
        check_settled(&flights, 3);
    });
}

/// Each waiter has its own pace: what it reads is in order, and one that is too far behind is told how far, alone.
#[test]
fn waiters_have_their_own_pace() {
    explore(|| {
        let options = FlightOptions::default().max_replay_items(2);
        let (flights, names): (Shared, _) = (Flights::new(options).unwrap(), Names::default());
        let Join { waiter, producer } = flights.join(1);
        let readers: Vec<_> = [waiter, flights.join(1).waiter]
            .into_iter()
            .map(|mut waiter| {
                let names = names.clone();
                thread::spawn(move || {
                    let seen = read(&mut waiter, usize::MAX, &names);
                    let again = block_on(waiter.next()).map(|_| ()).unwrap_err();
                    assert_eq!(Some(again), seen.end, "the end stays the end");
                    seen
                })
            })
            .collect();
        let checker = {
            let flights = flights.clone();
            thread::spawn(move || (0..4).for_each(|_| flights.validate()))
        };
        produce(producer.unwrap(), 5);
        let mut lagged = 0;
        for seen in join_all(readers) {
            match seen.end.unwrap() {
                Ok(name) => assert_eq!(name, 5),
                Err(FlightError::Lagged { missed }) => {
                    lagged += 1;
                    assert!((1..=u64::from(ITEMS)).contains(&missed), "{missed}");
                    assert!(seen.items.len() as u64 + missed <= u64::from(ITEMS));
                }
                Err(other) => panic!("{other}"),
            }
        }
        checker.join().unwrap();
        assert_eq!(flights.stats().lagged, lagged);
        check_settled(&flights, 2);
    });
}

/// The last one to leave wakes a producer that waits for that, and whoever comes then gets an answer of its own.
#[test]
fn the_last_to_leave_cancels_and_the_next_starts_afresh() {
    explore(|| {
        let (flights, names) = (Shared::default(), Names::default());
        let Join { waiter, producer } = flights.join(1);
        let waiters = [waiter, flights.join(1).waiter];
        let work = producer.unwrap();
        let worker = thread::spawn(move || {
            work.push((100, 0));
            block_on(work.cancelled()); // a lost wake-up would be a deadlock
            assert!(!work.push((100, 1)), "nobody is left");
        });
        let leavers = waiters.map(|waiter| thread::spawn(move || drop(waiter)));
        let newcomer = {
            let (flights, names) = (flights.clone(), names.clone());
            thread::spawn(move || {
                let Join { mut waiter, producer } = flights.join(1);
                match producer {
                    Some(work) => {
                        let name = names.next();
                        let worker = thread::spawn(move || produce(work, name));
                        let seen = read(&mut waiter, usize::MAX, &names);
                        assert_eq!(seen.end, Some(Ok(name)), "its own answer");
                        worker.join().unwrap();
                    }
                    // It came before the last one left: then it is the last one.
                    None => drop(waiter),
                }
            })
        };
        join_all(leavers.into());
        newcomer.join().unwrap();
        worker.join().unwrap();
        check_settled(&flights, 3);
    });
}

/// Everything at once: clients that leave early, leaders that die, fail or are cancelled, two keys.
#[test]
fn random_comings_and_goings() {
    explore(|| {
        let (flights, names) = (Shared::default(), Names::default());
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (flights, names) = (flights.clone(), names.clone());
                thread::spawn(move || {
                    let mut random = thread_rng();
                    let Join { mut waiter, producer } = flights.join(random.gen_range(0..2));
                    let worker = producer.map(|work| {
                        let (name, fate) = (names.next(), random.gen_range(0..4));
                        thread::spawn(move || match fate {
                            0 => drop(work),
                            1 => {
                                work.push((name, 0));
                                work.fail(name);
                            }
                            _ => produce(work, name),
                        })
                    });
                    let patience = [0, 1, 2, usize::MAX][random.gen_range(0..4)];
                    let seen = read(&mut waiter, patience, &names);
                    if let Some(Err(FlightError::Failed(name))) = seen.end {
                        assert!(seen.items.iter().all(|(producer, _)| *producer == name));
                    }
                    assert!(seen.leads <= 1, "handed on once at most");
                    drop(waiter);
                    flights.validate();
                    seen.settle();
                    join_all(worker.into_iter().collect());
                })
            })
            .collect();
        join_all(clients);
        check_settled(&flights, 4);
    });
}

/// Two clients and one item: every schedule there is, up to a bound.
#[test]
fn two_clients_under_every_schedule() {
    shuttle::check_dfs(
        || {
            let flights = Shared::default();
            let Join { waiter, producer } = flights.join(1);
            let worker = thread::spawn(move || {
                let work = producer.unwrap();
                work.push((0, 0));
                work.finish(0);
            });
            let leaver = thread::spawn(move || drop(waiter));
            let mut late = flights.join(1);
            match late.producer.take() {
                Some(work) => work.finish(1),
                None => {
                    assert!(matches!(block_on(late.waiter.next()), Ok(FlightEvent::Item((0, 0)))));
                }
            }
            let end = block_on(late.waiter.next());
            assert!(matches!(end, Err(Ok(0 | 1))), "{end:?}");
            leaver.join().unwrap();
            worker.join().unwrap();
            check_settled(&flights, 2);
        },
        Some(rounds() * 10),
    );
}
