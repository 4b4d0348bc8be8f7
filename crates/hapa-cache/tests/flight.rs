//! Single-flight with a real runtime: sharing, replay, pace, leaving, failing, handing on.

use hapa_cache::{FlightError, FlightEvent, FlightOptions, Flights, Waiter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

type Texts = Flights<u64, Arc<str>, Arc<str>, String>;

async fn read(
    mut waiter: Waiter<u64, Arc<str>, Arc<str>, String>,
) -> (String, Result<Arc<str>, FlightError<String>>) {
    let mut text = String::new();
    loop {
        match waiter.next().await {
            Ok(FlightEvent::Item(item)) => text.push_str(&item),
            Ok(FlightEvent::Lead(_)) => panic!("nobody went away"),
            Err(end) => return (text, end),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_identical_requests_cost_one_generation() {
    let flights = Texts::default();
    let generated = Arc::new(AtomicUsize::new(0));
    let mut waiters = Vec::new();
    for _ in 0..64 {
        let join = flights.join(7);
        if let Some(producer) = join.producer {
            let generated = Arc::clone(&generated);
            tokio::spawn(async move {
                for n in 0..100 {
                    generated.fetch_add(1, Ordering::Relaxed);
                    assert!(producer.push(format!("{n} ").into()));
                    tokio::task::yield_now().await;
                }
                producer.finish("done".into());
            });
        }
        waiters.push(tokio::spawn(read(join.waiter)));
    }
    let whole: String = (0..100).map(|n| format!("{n} ")).collect();
    for waiter in waiters {
        let (text, end) = waiter.await.unwrap();
        assert_eq!(text, whole);
        assert_eq!(end.unwrap().as_ref(), "done");
    }
    assert_eq!(generated.load(Ordering::Relaxed), 100);
    let stats = flights.stats();
    assert_eq!((stats.led, stats.shared, stats.finished, stats.in_flight), (1, 63, 1, 0));
}

#[tokio::test]
async fn a_late_joiner_gets_the_past_then_the_rest() {
    let flights = Texts::default();
    let first = flights.join(1);
    let producer = first.producer.unwrap();
    producer.push("a".into());
    producer.push("b".into());
    let late = flights.join(1);
    assert!(late.producer.is_none());
    producer.push("c".into());
    producer.finish("abc".into());
    assert_eq!(read(late.waiter).await.0, "abc");
    assert_eq!(read(first.waiter).await.0, "abc");
    assert!(flights.join(1).producer.is_some(), "a finished flight takes nobody");
}

#[tokio::test]
async fn a_failure_reaches_every_waiter_and_the_next_starts_afresh() {
    let flights = Texts::default();
    let first = flights.join(1);
    let second = flights.join(1);
    let producer = first.producer.unwrap();
    producer.push("a".into());
    producer.fail("no memory".into());
    for waiter in [first.waiter, second.waiter] {
        let (text, end) = read(waiter).await;
        assert_eq!(text, "a", "what was produced is seen before the failure");
        assert_eq!(end.unwrap_err(), FlightError::Failed("no memory".into()));
    }
    assert!(flights.join(1).producer.is_some());
    assert_eq!(flights.stats().failed, 1);
}

#[tokio::test]
async fn the_first_client_may_leave_the_last_one_cancels() {
    let flights = Texts::default();
    let first = flights.join(1);
    let producer = first.producer.unwrap();
    let second = flights.join(1);
    drop(first.waiter);
    assert!(!producer.is_cancelled());
    assert!(producer.push("a".into()));
    drop(second.waiter);
    assert!(producer.is_cancelled());
    tokio::time::timeout(Duration::from_secs(5), producer.cancelled()).await.unwrap();
    assert!(!producer.push("b".into()), "nobody is left to see it");
    // Somebody new does not get the dying flight, and its end does not hurt the new one.
    let fresh = flights.join(1);
    let fresh_producer = fresh.producer.unwrap();
    producer.finish("old".into());
    assert!(flights.join(1).producer.is_none(), "the new flight is still the one to join");
    fresh_producer.finish("new".into());
    assert_eq!(read(fresh.waiter).await.1.unwrap().as_ref(), "new");
    assert_eq!(flights.stats().cancelled, 1);
}

#[tokio::test]
async fn cancellation_wakes_a_waiting_producer() {
    let flights = Texts::default();
    let join = flights.join(1);
    let producer = join.producer.unwrap();
    let task = tokio::spawn(async move { producer.cancelled().await });
    tokio::task::yield_now().await;
    drop(join.waiter);
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_leader_that_goes_away_before_it_began_hands_on() {
    let flights = Texts::default();
    let first = flights.join(1);
    let mut second = flights.join(1).waiter;
    let third = tokio::spawn({
        let waiter = flights.join(1).waiter;
        async move {
            let mut waiter = waiter;
            match waiter.next().await {
                Ok(FlightEvent::Item(item)) => item.to_string(),
                other => panic!("{other:?}"),
            }
        }
    });
    // The first client's task is aborted: its producer and its waiter go.
    drop(first);
    let Ok(FlightEvent::Lead(producer)) = second.next().await else { panic!("no lead") };
    assert!(!producer.is_cancelled());
    producer.push("again".into());
    producer.finish("again".into());
    assert_eq!(read(second).await.0, "again");
    assert_eq!(third.await.unwrap(), "again");
    let stats = flights.stats();
    assert_eq!((stats.led, stats.handed_on, stats.finished), (1, 1, 1));
}

#[tokio::test]
async fn a_leader_that_keeps_dying_fails_all_waiters_clearly() {
    let flights: Texts = Flights::new(FlightOptions::default().max_hand_ons(2)).unwrap();
    let first = flights.join(1);
    let mut second = flights.join(1).waiter;
    drop(first);
    for _ in 0..2 {
        let Ok(FlightEvent::Lead(producer)) = second.next().await else { panic!("no lead") };
        drop(producer);
    }
    let (_, end) = read(second).await;
    assert_eq!(end.unwrap_err(), FlightError::Abandoned);
    assert!(flights.join(1).producer.is_some());
}

#[tokio::test]
async fn a_leader_that_panics_half_way_fails_all_waiters_clearly() {
    let flights = Texts::default();
    let first = flights.join(1);
    let second = flights.join(1);
    let producer = first.producer.unwrap();
    let task = tokio::spawn(async move {
        producer.push("half".into());
        if !producer.is_cancelled() {
            panic!("the engine broke (this panic is part of the test)");
        }
    });
    assert!(task.await.is_err());
    for waiter in [first.waiter, second.waiter] {
        let (text, end) = read(waiter).await;
        assert_eq!((text.as_str(), end.unwrap_err()), ("half", FlightError::Abandoned));
    }
}

#[tokio::test]
async fn a_slow_waiter_lags_alone() {
    let flights: Texts = Flights::new(FlightOptions::default().max_replay_items(10)).unwrap();
    let first = flights.join(1);
    let slow = flights.join(1).waiter;
    let producer = first.producer.unwrap();
    let mut quick = first.waiter;
    for n in 0..25 {
        producer.push(format!("{n} ").into());
        assert!(
            matches!(quick.next().await, Ok(FlightEvent::Item(item)) if item.as_ref() == format!("{n} "))
        );
    }
    // The replay is not whole any more, so nobody may join it now.
    let afresh = flights.join(1);
    assert!(afresh.producer.is_some());
    producer.finish("all".into());
    assert_eq!(quick.outcome().await.unwrap().as_ref(), "all");
    assert_eq!(read(slow).await.1.unwrap_err(), FlightError::Lagged { missed: 15 });
    assert_eq!(flights.stats().lagged, 1);
    assert!(Texts::new(FlightOptions::default().max_replay_items(0)).is_err());
}

#[test]
fn threads_without_a_runtime_share_too() {
    let flights = Texts::default();
    let first = flights.join(1);
    let producer = first.producer.unwrap();
    std::thread::scope(|scope| {
        for mut waiter in [first.waiter, flights.join(1).waiter, flights.join(1).waiter] {
            scope.spawn(move || {
                let mut seen = 0;
                loop {
                    match waiter.blocking_next() {
                        Ok(FlightEvent::Item(_)) => seen += 1,
                        Ok(FlightEvent::Lead(_)) => panic!("nobody went away"),
                        Err(end) => {
                            break assert_eq!((seen, end.unwrap().as_ref()), (1_000, "end"));
                        }
                    }
                }
            });
        }
        for _ in 0..1_000 {
            producer.push("x".into());
        }
        producer.finish("end".into());
    });
}

/// Clients that join, read a while and leave at random: every one that stays to the end sees the
/// whole text, and when all are gone nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_comings_and_goings() {
    let flights = Texts::default();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..2_000u64 {
        let flights = flights.clone();
        clients.spawn(async move {
            let mut random = client.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let (patience, dies) = (draw(40), draw(10) == 0);
            let join = flights.join(draw(5));
            let work = |producer: hapa_cache::Producer<u64, Arc<str>, Arc<str>, String>, dies| async move {
                for n in 0..20 {
                    tokio::task::yield_now().await;
                    if (dies && n == 0) || !producer.push(format!("{n} ").into()) {
                        return;
                    }
                }
                producer.finish("end".into());
            };
            if let Some(producer) = join.producer {
                tokio::spawn(work(producer, dies));
            }
            let mut waiter = join.waiter;
            let mut next = 0;
            for _ in 0..patience {
                match waiter.next().await {
                    Ok(FlightEvent::Item(item)) => {
                        assert_eq!(item.as_ref(), format!("{next} "));
                        next += 1;
                    }
                    Ok(FlightEvent::Lead(producer)) => {
                        tokio::spawn(work(producer, false));
                    }
                    Err(Ok(end)) => {
                        assert_eq!((next, end.as_ref()), (20, "end"));
                        return;
                    }
                    Err(Err(error)) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(20), async {
        while flights.stats().in_flight > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let stats = flights.stats();
    assert_eq!(stats.led + stats.shared, 2_000);
    assert_eq!(stats.led, stats.finished + stats.failed + stats.cancelled);
}
