//! How fast a load goes, from which follows when it ends.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hapa_service::{LoadEvent, LoadState, Service, stage};

/// Less than this says nothing about the speed.
const LEAST: Duration = Duration::from_millis(500);

/// Where the stage at hand began.
#[derive(Debug, Default)]
pub(crate) struct LoadPace(Mutex<Option<Began>>);

#[derive(Debug, Clone, Copy)]
struct Began {
    stage: &'static str,
    at: Instant,
    done: u64,
}

impl LoadPace {
    /// Watches loads until it is dropped with the server's task.
    pub(crate) async fn follow(&self, service: &Service) {
        let mut states = service.model().subscribe();
        loop {
            let event = match &*states.borrow_and_update() {
                LoadState::Loading { event } => Some(event.clone()),
                _ => None,
            };
            self.note(event.as_ref(), Instant::now());
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn note(&self, event: Option<&LoadEvent>, at: Instant) {
        let mut began = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = began.map(|began| began.stage) == event.map(stage);
        if !is_same {
            *began = event.map(|event| Began { stage: stage(event), at, done: done_of(event).0 });
        }
    }

    /// How long the stage that an event belongs to still takes, if it goes on as so far.
    pub(crate) fn seconds_left(&self, event: &LoadEvent) -> Option<f64> {
        let began = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        left(began, event, began.at.elapsed())
    }
}

fn left(began: Began, event: &LoadEvent, elapsed: Duration) -> Option<f64> {
    let (done, total) = done_of(event);
    let since = done.checked_sub(began.done).filter(|since| *since > 0)?;
    let is_known = began.stage == stage(event) && elapsed >= LEAST && total >= done;
    is_known.then(|| (total - done) as f64 * elapsed.as_secs_f64() / since as f64)
}

/// How much of a stage is done, of how much; zeros where that is not known.
pub(crate) fn done_of(event: &LoadEvent) -> (u64, u64) {
    match *event {
        LoadEvent::Waiting { received_bytes, total_bytes, .. }
        | LoadEvent::Fetching { received_bytes, total_bytes, .. } => (received_bytes, total_bytes),
        LoadEvent::Verifying { done_bytes, total_bytes } => (done_bytes, total_bytes),
        LoadEvent::Packing { done, total } => (done as u64, total as u64),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let event = |done| LoadEvent::Verifying { done_bytes: done, total_bytes: 100 };
        let pace = LoadPace::default();
        assert_eq!(pace.seconds_left(&event(1)), None);
        let now = Instant::now();
        pace.note(Some(&event(20)), now);
        pace.note(Some(&event(30)), now + Duration::from_secs(9));
        let began = pace.0.lock().unwrap().unwrap();
        assert_eq!((began.at, began.done), (now, 20), "of the stage, not of its last event");
        assert_eq!(left(began, &event(60), Duration::from_secs(4)), Some(4.0));
        assert_eq!(left(began, &event(60), Duration::from_millis(4)), None, "too early to say");
        assert_eq!(left(began, &event(20), Duration::from_secs(4)), None);
        let packing = LoadEvent::Packing { done: 50, total: 60 };
        assert_eq!(left(began, &packing, Duration::from_secs(4)), None, "another stage");
        pace.note(Some(&packing), now);
        assert_eq!(pace.0.lock().unwrap().unwrap().stage, "packing");
        pace.note(None, now);
        assert!(pace.0.lock().unwrap().is_none());
    }
}
