//! A bounded cache and single-flight around any async function: here a lookup that takes 50 ms.
//!
//! A hundred callers ask for three things at once. The function runs three times, everybody gets an answer, and who
//! comes later finds it in the cache.
//!
//! `cargo run -p hapa-examples --example cache_anything`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hapa_cache::{
    CacheKey, EntryOptions, FlightError, Flights, KeyEncoder, MemoryCache, MemoryOptions,
};

/// The function: slow, and it may fail.
async fn look_up(name: &str, runs: &AtomicUsize) -> Result<Arc<str>, String> {
    runs.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    if name.is_empty() {
        Err("nothing to look up".to_owned())
    } else {
        Ok(name.to_uppercase().into())
    }
}

struct Cached {
    answers: MemoryCache<CacheKey, Arc<str>>,
    flights: Flights<CacheKey, (), Arc<str>, String>,
    runs: AtomicUsize,
}

impl Cached {
    async fn get(self: &Arc<Self>, name: &str) -> Result<Arc<str>, FlightError<String>> {
        // Everything that changes the answer belongs into the key.
        let mut key = KeyEncoder::new("example.look-up", 1);
        let key = key.text(1, name).finish();
        if let Some(hit) = self.answers.get(&key) {
            return Ok(Arc::clone(&hit));
        }
        let join = self.flights.join(key);
        if let Some(producer) = join.producer {
            // On a task of its own: the first caller may leave without taking the others' answer along.
            let (this, name) = (Arc::clone(self), name.to_owned());
            tokio::spawn(async move {
                // An earlier flight may have ended between the look into the cache and this one's beginning.
                if let Some(hit) = this.answers.peek(&key) {
                    return producer.finish(Arc::clone(&hit));
                }
                let start = Instant::now();
                let result = tokio::select! {
                    result = look_up(&name, &this.runs) => result,
                    () = producer.cancelled() => return, // nobody waits any more
                };
                match result {
                    Ok(answer) => {
                        let entry = EntryOptions { cost: start.elapsed(), ..Default::default() };
                        this.answers.insert_with(key, Arc::clone(&answer), entry);
                        producer.finish(answer);
                    }
                    Err(error) => producer.fail(error),
                }
            });
        }
        join.waiter.outcome().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cached = Arc::new(Cached {
        answers: MemoryOptions::new().max_entries(1_000).max_bytes(1 << 20).build()?,
        flights: Flights::default(),
        runs: AtomicUsize::new(0),
    });

    let start = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..100 {
        let cached = Arc::clone(&cached);
        callers.spawn(async move { cached.get(["red", "green", "blue"][caller % 3]).await });
    }
    while let Some(answer) = callers.join_next().await {
        answer??;
    }
    println!(
        "100 callers: {} runs in {:.0?}",
        cached.runs.load(Ordering::Relaxed),
        start.elapsed()
    );

    let start = Instant::now();
    println!("once more: {} in {:.1?}", cached.get("red").await?, start.elapsed());

    // A failure is told to everybody who waits, and kept by nobody.
    if let Err(error) = cached.get("").await {
        println!("refused: {error}");
    }
    let (memory, flights) = (cached.answers.stats(), cached.flights.stats());
    println!("{} entries, {} hits, {} shared", memory.entries, memory.hits, flights.shared);
    Ok(())
}
