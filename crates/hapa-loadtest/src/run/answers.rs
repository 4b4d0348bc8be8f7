//! Asking for answers for their text, not for their times.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use super::control::Control;
use crate::client::{Exchange, Pool};
use crate::error::LoadError;
use crate::prompt::Prompt;
use crate::target::Target;

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was written.
    pub text: String,
    /// Tokens of the prompt and of the answer, if the server counts them.
    pub usage: Option<(u64, u64)>,
    /// How long it took.
    pub time: Duration,
}

/// Asks all prompts, so many at once, and hands on each answer, or in words why there is none, with its prompt's index
/// as it comes. Blocks until all are done, or the run is stopped.
pub fn answers(
    (target, prompts): (&Target, &[Prompt]),
    concurrency: usize,
    timeout: Duration,
    control: &Control,
    mut each: impl FnMut(usize, Result<Answer, String>),
) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Start)?;
    let (out, mut done) = tokio::sync::mpsc::unbounded_channel();
    let shared = Rc::new(Shared {
        target: target.clone(),
        prompts: prompts.to_vec(),
        next: Cell::new(0),
        pool: Pool::default(),
        out,
    });
    LocalSet::new().block_on(&runtime, async {
        let mut stop = control.subscribe();
        let mut clients = JoinSet::new();
        for _ in 0..concurrency.max(1).min(prompts.len()) {
            clients.spawn_local(client(shared.clone(), timeout, control.clone()));
        }
        drop(shared);
        loop {
            tokio::select! {
                answer = done.recv() => match answer {
                    Some((index, answer)) => each(index, answer),
                    None => return,
                },
                _ = stop.wait_for(Option::is_some) => return clients.shutdown().await,
            }
        }
    });
    Ok(())
}

type Out = tokio::sync::mpsc::UnboundedSender<(usize, Result<Answer, String>)>;

struct Shared {
    target: Target,
    prompts: Vec<Prompt>,
    next: Cell<usize>,
    pool: Pool,
    out: Out,
}

async fn client(shared: Rc<Shared>, timeout: Duration, control: Control) {
    let mut exchange = Exchange::new(true);
    loop {
        let index = shared.next.get();
        let Some(prompt) = shared.prompts.get(index) else { return };
        shared.next.set(index + 1);
        let request = (Instant::now(), shared.target.body(prompt).into());
        control.sent();
        let result = exchange.run(&shared.pool, &shared.target, request, timeout).await;
        let answer = match result {
            Ok(()) => {
                control.succeeded(exchange.usage.map_or(exchange.pieces, |(_, output)| output));
                Ok(Answer {
                    text: exchange.text.clone().unwrap_or_default(),
                    usage: exchange.usage,
                    time: exchange.end - exchange.sent,
                })
            }
            Err(trouble) => {
                control.failed();
                Err(trouble.to_string())
            }
        };
        if shared.out.send((index, answer)).is_err() {
            return;
        }
    }
}
