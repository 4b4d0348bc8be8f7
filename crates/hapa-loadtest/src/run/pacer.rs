//! The clock of an open loop: a thread that hands requests out when they are due.
//!
//! The timers of an async runtime are good to a millisecond, which would be most of the latency of a cached answer; a
//! sleeping thread is woken within some tens of microseconds, and costs nothing meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::phase::Phase;
use crate::load::Arrivals;

/// Longest sleep after which the pacer looks whether it is still wanted.
const NAP: Duration = Duration::from_millis(50);

/// A request that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) number: u64,
    pub(super) intended: Instant,
}

/// Starts the clock for one of `workers` workers, each of which gets every so manieth request.
pub(super) fn start(
    phase: Arc<Phase>,
    arrivals: &Arrivals,
    worker: usize,
    workers: usize,
) -> std::io::Result<mpsc::UnboundedReceiver<Arrival>> {
    let (out, arriving) = mpsc::unbounded_channel();
    let times = arrivals.times().enumerate();
    std::thread::Builder::new().name("hapa-load-clock".to_owned()).spawn(move || {
        let mine = times.skip(worker).step_by(workers);
        for (number, at) in mine {
            let number = number as u64;
            if phase.limit.requests.is_some_and(|limit| number >= limit)
                || phase.limit.duration.is_some_and(|limit| at >= limit)
            {
                return;
            }
            let intended = phase.start + at;
            loop {
                let left = intended.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(NAP));
                if out.is_closed() {
                    return;
                }
            }
            phase.begun.fetch_add(1, Relaxed);
            if out.send(Arrival { number: phase.first_request + number, intended }).is_err() {
                return;
            }
        }
    })?;
    Ok(arriving)
}
