//! Places: counted, given back, refused in time, shared between tenants.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

impl Admission {
    /// Recomputes every counter from the places that are held.
    fn check(&self, places: &[Place]) {
        let state = self.state.lock().unwrap();
        assert_eq!(state.requests, places.len());
        assert_eq!(state.tokens, places.iter().map(|place| place.tokens).sum::<usize>());
        assert!(state.requests <= self.most_requests);
        for (namespace, holder) in &state.holders {
            let held = places.iter().filter(|place| place.namespace == *namespace).count();
            assert_eq!(holder.held, held, "{namespace}");
        }
        let held: usize = state.holders.values().map(|holder| holder.held).sum();
        assert_eq!(held, places.len());
    }
}

fn admission(requests: usize, tokens: usize) -> Arc<Admission> {
    Admission::new(AdmissionOptions { queue_tokens: tokens, first_token: None }, requests)
}

fn ask(namespace: &str, tokens: usize) -> Asked<'_> {
    Asked { namespace, tokens, deadline: None }
}

fn enter(
    admission: &Arc<Admission>,
    namespace: &str,
    tokens: usize,
) -> Result<Place, ServiceError> {
    admission.enter(ask(namespace, tokens), || None)
}

#[test]
fn places_are_counted_and_given_back() {
    let admission = admission(3, 1_000);
    let mut places: Vec<Place> = (0..3).map(|_| enter(&admission, "", 10).unwrap()).collect();
    let refused = enter(&admission, "", 10).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.to_string().contains("3 requests"), "{refused}");
    assert!(refused.retry_after().unwrap() >= SOONEST);
    places.pop();
    admission.check(&places);
    places.push(enter(&admission, "", 10).unwrap());
    admission.check(&places);
    let stats = admission.stats();
    assert_eq!((stats.requests, stats.tokens, stats.refused_full), (3, 30, 1));
}

#[test]
fn prompts_that_wait_are_counted_in_tokens() {
    let admission = admission(100, 1_000);
    let mut long = enter(&admission, "", 5_000).unwrap();
    let refused = enter(&admission, "", 1).unwrap_err();
    assert!(refused.to_string().contains("5000 tokens"), "a prompt alone may be longer: {refused}");
    long.counted(900);
    let short = enter(&admission, "", 100).unwrap();
    assert!(enter(&admission, "", 1).is_err());
    long.read();
    let next = enter(&admission, "", 900).unwrap();
    admission.check(&[long, short, next]);
}

#[test]
fn one_tenant_leaves_places_for_others() {
    let admission = admission(16, 1_000_000);
    let alone: Vec<Place> = (0..16).map(|_| enter(&admission, "a", 1).unwrap()).collect();
    assert!(enter(&admission, "b", 1).is_err(), "nobody knew of another");
    drop(alone);
    let mut places = Vec::new();
    places.extend((0..16).map_while(|_| enter(&admission, "a", 1).ok()));
    assert_eq!(places.len(), 12, "now a quarter stays free");
    assert!(enter(&admission, "a", 1).unwrap_err().to_string().contains("tenant"));
    places.extend((0..16).map_while(|_| enter(&admission, "b", 1).ok()));
    assert_eq!(places.len(), 15);
    admission.check(&places);
    places.extend((0..16).map_while(|_| enter(&admission, "c", 1).ok()));
    assert_eq!(places.len(), 16, "and for a third");
}

#[test]
fn what_would_come_too_late_is_refused_at_once() {
    let options =
        AdmissionOptions { first_token: Some(Duration::from_secs(5)), ..Default::default() };
    let admission = Admission::new(options, 10);
    let in_seconds = |seconds| Some(Duration::from_secs(seconds));
    let deadline = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
    let enter = |deadline, first| admission.enter(Asked { deadline, ..ask("", 1) }, || first);
    assert!(enter(None, in_seconds(5)).is_ok());
    assert!(enter(None, None).is_ok(), "nothing is known");
    let refused = enter(None, in_seconds(12)).unwrap_err();
    assert_eq!(refused.retry_after(), in_seconds(7));
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(enter(deadline(3), in_seconds(4)).is_err());
    assert!(enter(deadline(30), in_seconds(4)).is_ok());
    assert!(enter(deadline(30), in_seconds(20)).is_err(), "the objective holds for all");
    assert_eq!((admission.stats().refused_slow, admission.stats().refused_full), (3, 0));
    admission.check(&[]);
}

#[test]
fn those_sent_away_are_told_different_times() {
    let mut pace = Pace::default();
    let began = Instant::now();
    for second in 0..40 {
        pace.freed(began + Duration::from_secs(2 * second), 1);
    }
    let times: Vec<u64> = (0..5).map(|_| pace.send_away().as_secs()).collect();
    assert!(times.is_sorted() && times[0] >= 1 && times[4] >= 9, "{times:?}");
    for _ in 0..1_000 {
        assert!(pace.send_away() <= LATEST);
    }
    for _ in 0..2_000 {
        pace.freed(began + Duration::from_secs(80), 1);
    }
    assert_eq!(pace.send_away(), SOONEST, "by then everybody had a turn");
    // A pause is no slow engine.
    let mut idle = Pace::default();
    idle.freed(began, 0);
    idle.freed(began + Duration::from_secs(1_000), 0);
    assert_eq!(idle.seconds_per_place, None);
}

#[derive(Debug, Clone)]
enum Action {
    Enter { namespace: usize, tokens: usize },
    Leave(usize),
    Count(usize, usize),
    Read(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        5 => (0..4usize, 0..300usize).prop_map(|(namespace, tokens)| Action::Enter { namespace, tokens }),
        2 => (0..20usize).prop_map(Action::Leave),
        1 => (0..20usize, 0..300usize).prop_map(|(at, tokens)| Action::Count(at, tokens)),
        1 => (0..20usize).prop_map(Action::Read),
    ];
    proptest::collection::vec(action, 1..200)
}

proptest! {
    #[test]
    fn counters_hold_whatever_happens(actions in actions()) {
        let admission = admission(12, 1_000);
        let mut places: Vec<Place> = Vec::new();
        for action in actions {
            match action {
                Action::Enter { namespace, tokens } => {
                    let before = admission.stats();
                    let entered = admission.enter(ask(["", "a", "b", "c"][namespace], tokens), || None);
                    let full = places.len() == 12;
                    let heavy = before.tokens > 0 && before.tokens + tokens > 1_000;
                    prop_assert!(!(full || heavy) || entered.is_err());
                    match entered {
                        Ok(place) => places.push(place),
                        Err(error) => {
                            prop_assert_eq!(error.kind(), ErrorKind::Overloaded);
                            prop_assert!(error.retry_after().is_some_and(|wait| (SOONEST..=LATEST).contains(&wait)));
                            prop_assert_eq!(admission.stats().refused_full, before.refused_full + 1);
                        }
                    }
                }
                Action::Leave(at) if at < places.len() => drop(places.swap_remove(at)),
                Action::Count(at, tokens) if at < places.len() => places[at].counted(tokens),
                Action::Read(at) if at < places.len() => places[at].read(),
                _ => {}
            }
            admission.check(&places);
        }
        // Once all are gone a request of whomever gets in.
        drop(places);
        admission.check(&[]);
        prop_assert!(admission.enter(ask("new", 10), || None).is_ok());
    }
}
