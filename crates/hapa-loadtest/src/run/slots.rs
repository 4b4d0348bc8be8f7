//! What a worker does in a phase: so many clients in a closed loop, or one task a request in an open one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::control::Ended;
use super::pacer::{self, Arrival};
use super::phase::Phase;
use crate::client::{CONNECT, Class, Exchange, Pool};
use crate::load::{Arrivals, Load};
use crate::measure::Recorder;

/// Longest wait of a client that finds nobody listening.
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// What the tasks of a worker share.
pub(super) struct Bench {
    pub(super) phase: Arc<Phase>,
    pub(super) pool: Rc<Pool>,
    pub(super) recorder: RefCell<Recorder>,
    /// Exchanges of requests that are done, for further ones.
    spare: RefCell<Vec<Exchange>>,
}

/// Which of how many workers this is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) worker: usize,
    pub(super) workers: usize,
}

impl Seat {
    /// This worker's part of a number.
    fn share(self, all: usize) -> usize {
        all / self.workers + usize::from(self.worker < all % self.workers)
    }
}

impl Bench {
    pub(super) fn new(phase: Arc<Phase>, pool: Rc<Pool>) -> Rc<Self> {
        let recorder = Recorder::new(phase.start, phase.objectives);
        Rc::new(Self {
            phase,
            pool,
            recorder: RefCell::new(recorder),
            spare: RefCell::new(Vec::new()),
        })
    }

    /// Works until the phase is over, or the run is stopped.
    pub(super) async fn work(self: &Rc<Self>, seat: Seat) {
        let mut stop = self.phase.control.subscribe();
        let mut tasks = JoinSet::new();
        let stopped = tokio::select! {
            () = self.load(seat, &mut tasks) => false,
            _ = stop.wait_for(Option::is_some) => true,
        };
        if stopped {
            tasks.shutdown().await;
        }
    }

    async fn load(self: &Rc<Self>, seat: Seat, tasks: &mut JoinSet<()>) {
        tokio::time::sleep_until(self.phase.start.into()).await;
        match &self.phase.load {
            Load::Closed { concurrency } => {
                for _ in 0..seat.share(*concurrency) {
                    tasks.spawn_local(self.clone().client());
                }
            }
            Load::Open { arrivals, max_in_flight } => {
                let most = seat.share(*max_in_flight).max(1);
                self.open(seat, (arrivals, most), tasks).await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// A client of a closed loop.
    async fn client(self: Rc<Self>) {
        let mut exchange = Exchange::new(false);
        let mut backoff = Duration::from_millis(5);
        while let Some(number) = self.phase.next() {
            let intended = Instant::now();
            if self.ask(&mut exchange, Arrival { number, intended }).await {
                backoff = Duration::from_millis(5);
            } else {
                // Nobody listens: asking at full speed would only burn processor time.
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    async fn open(
        self: &Rc<Self>,
        seat: Seat,
        (arrivals, most): (&Arrivals, usize),
        tasks: &mut JoinSet<()>,
    ) {
        let clock = pacer::start(self.phase.clone(), arrivals, seat.worker, seat.workers);
        let Ok(mut arriving) = clock else {
            self.phase.control.end(Ended::Interrupted);
            return;
        };
        let places = Arc::new(Semaphore::new(most));
        while let Some(arrival) = arriving.recv().await {
            while tasks.try_join_next().is_some() {}
            let place = match self.phase.deadline() {
                // Requests that the server kept from being sent by the end are counted, not sent late.
                Some(deadline) => {
                    let place = places.clone().acquire_owned();
                    tokio::time::timeout_at(deadline.into(), place).await.ok()
                }
                None => Some(places.clone().acquire_owned().await),
            };
            let Some(Ok(place)) = place else {
                self.recorder.borrow_mut().counts.unsent += 1;
                continue;
            };
            let bench = self.clone();
            tasks.spawn_local(async move {
                let spare = bench.spare.borrow_mut().pop();
                let mut exchange = spare.unwrap_or_else(|| Exchange::new(false));
                bench.ask(&mut exchange, arrival).await;
                bench.spare.borrow_mut().push(exchange);
                drop(place);
            });
        }
    }

    /// One request; false when nobody was listening.
    async fn ask(&self, exchange: &mut Exchange, arrival: Arrival) -> bool {
        let Phase { goal, control, timeout, give_up_after, .. } = &*self.phase;
        let body = goal.bodies.body(&goal.workload, &goal.target, arrival.number);
        control.sent();
        let guard = Abandoned(&self.recorder);
        let result =
            exchange.run(&self.pool, &goal.target, (arrival.intended, body), *timeout).await;
        std::mem::forget(guard);
        let trouble = result.as_ref().err().map(|trouble| &**trouble);
        let tokens = self.recorder.borrow_mut().record(exchange, trouble);
        match trouble {
            None => control.succeeded(tokens),
            Some(trouble) if trouble.class == Class::Refused => control.refused(),
            Some(trouble) => {
                let in_a_row = control.failed();
                if *give_up_after > 0 && in_a_row >= *give_up_after {
                    control.end(Ended::TooManyFailures);
                }
                return trouble.reason != CONNECT;
            }
        }
        true
    }
}

/// Counts a request whose task is dropped before its end.
struct Abandoned<'a>(&'a RefCell<Recorder>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().counts.abandoned += 1;
    }
}
