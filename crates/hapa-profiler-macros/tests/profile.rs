//! What `#[profile]` records, on functions of every kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use hapa_profiler::{Profiler, profile};

#[profile]
fn plain(n: u32) -> u32 {
    if n == 0 {
        return 0;
    }
    inner(n)
}

#[profile("renamed")]
fn inner(n: u32) -> u32 {
    n + 1
}

#[profile(memory)]
fn fallible(text: &str) -> Result<u32, std::num::ParseIntError> {
    let number: u32 = text.parse()?;
    Ok(number)
}

struct Counter(u32);

impl Counter {
    #[profile("count", memory)]
    fn count<T: Into<u32>>(&mut self, by: T) -> &u32 {
        self.0 += by.into();
        &self.0
    }
}

#[profile]
async fn waits(text: &str) -> Result<usize, Box<dyn std::error::Error>> {
    Yield(false).await;
    if text.is_empty() {
        return Ok(0);
    }
    let number: usize = text.parse()?;
    Ok(number)
}

/// Pending once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

#[test]
fn functions_are_scopes() {
    assert_eq!((plain(0), plain(4)), (0, 5));
    assert!(fallible("7").is_ok() && fallible("x").is_err());
    assert_eq!(*Counter(1).count(2_u8), 3);
    assert_eq!((run(waits("31")).unwrap(), run(waits("")).unwrap()), (31, 0));
    assert!(run(waits("x")).is_err());

    let report = Profiler::global().report();
    let calls = |name: &str| report.scope(name).unwrap().calls;
    assert_eq!((calls("plain"), calls("renamed"), calls("fallible"), calls("count")), (2, 1, 2, 1));
    assert_eq!(report.path(&["plain", "renamed"]).unwrap().calls, 1);
    let waits = report.scope("waits").unwrap();
    assert_eq!((waits.calls, waits.polls, waits.cancelled), (3, 6, 0));
    assert_eq!(report.scope("fallible").unwrap().resident_calls, 2);
    assert_eq!(report.scope("count").unwrap().resident_calls, 1);
    assert_eq!(report.scope("plain").unwrap().resident_calls, 0);
}
