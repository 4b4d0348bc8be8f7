//! A model that nobody loads before it is needed. Its load is watched from the side; afterwards the memory is given back.
//!
//! `cargo run --release -p hapa-examples --example lazy_model`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::time::{Duration, Instant};

use hapa_model::{
    GenerateEvent, GenerateRequest, KeepAlive, LazyModel, LazyOptions, LoadEvent, LoadState,
    ModelRef,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let reference = match std::env::var("HAPA_MODEL") {
        Ok(name) => name.parse()?,
        Err(_) => ModelRef::default(),
    };
    let start = Instant::now();
    let keep_alive = KeepAlive::For(Duration::from_secs(60));
    let model = LazyModel::new(reference, LazyOptions { keep_alive, ..LazyOptions::default() });
    eprintln!("made in {:.1?}: {}", start.elapsed(), model.state().name());

    let mut states = model.subscribe();
    let watcher = tokio::spawn(async move {
        while states.changed().await.is_ok() {
            let state = states.borrow_and_update().clone();
            match &state {
                LoadState::Loading { event } => eprintln!("loading: {}", describe(event)),
                state => eprintln!("{}", state.name()),
            }
            if matches!(state, LoadState::Ready | LoadState::Failed { .. }) {
                return;
            }
        }
    });

    // Two callers at once: one load, and both get it.
    let (first, second) = tokio::try_join!(model.get(), model.get())?;
    watcher.await?;
    drop(second);

    let prompt = first.encode("def fibonacci(n):")?;
    let mut generation = first.generate(GenerateRequest::new(prompt, 32))?;
    while let Some(event) = generation.next().await {
        match event? {
            GenerateEvent::Text(delta) => print!("{}", delta.text),
            GenerateEvent::Finished(finish) => println!("\n{:?}", finish.reason),
        }
    }

    // A lease holds the model in memory; the last one gone, it may be unloaded, or goes when it was idle for a minute.
    drop(first);
    eprintln!("unload: {:?}, now {}", model.unload(), model.state().name());
    Ok(())
}

fn describe(event: &LoadEvent) -> String {
    match event {
        LoadEvent::Resolving { name } => format!("looking for {name}"),
        LoadEvent::Fetching { received_bytes, total_bytes, route, .. } => {
            format!("{} of {} MB from the {route}", received_bytes >> 20, total_bytes >> 20)
        }
        LoadEvent::Verifying { done_bytes, total_bytes } => {
            format!("verified {} of {} MB", done_bytes >> 20, total_bytes >> 20)
        }
        LoadEvent::Packing { done, total } => format!("packed {done} of {total} tensors"),
        other => format!("{other:?}"),
    }
}
