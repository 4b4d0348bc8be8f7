//! Server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, SelectAll, StreamExt};
use hapa_service::{AnswerEvent, AnswerStream, ServiceError};
use serde::Serialize;

use crate::charge::Charge;
use crate::life::{Life, Stage};
use crate::problem::Problem;
use crate::state::AppState;

/// Turns the events of answers into events on the wire.
pub(crate) trait Script: Send + 'static {
    /// What comes before everything.
    fn begin(&mut self, _out: &mut Events) {}
    /// An event of the answer of that index.
    fn event(&mut self, index: usize, event: AnswerEvent, out: &mut Events);
    /// An answer failed; nothing more will come.
    fn failed(&mut self, problem: Problem, out: &mut Events);
    /// All answers are whole.
    fn end(&mut self, out: &mut Events);
}

/// Events that are to be sent.
#[derive(Default)]
pub(crate) struct Events(VecDeque<Event>);

impl Events {
    /// An event whose data is JSON.
    pub(crate) fn json(&mut self, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(text) => self.0.push_back(Event::default().data(text)),
            Err(error) => tracing::error!(%error, "an event could not be written as JSON"),
        }
    }

    /// An event with a name.
    pub(crate) fn named(&mut self, name: &str, data: &impl Serialize) {
        match serde_json::to_string(data) {
            Ok(text) => self.0.push_back(Event::default().event(name).data(text)),
            Err(error) => tracing::error!(%error, "an event could not be written as JSON"),
        }
    }

    /// The event that ends OpenAI's streams.
    pub(crate) fn done(&mut self) {
        self.0.push_back(Event::default().data("[DONE]"));
    }
}

struct Playing<S> {
    script: S,
    answers: SelectAll<stream::BoxStream<'static, (usize, Result<AnswerEvent, ServiceError>)>>,
    charges: Vec<Charge>,
    waiting: Events,
    over: bool,
    life: Life,
}

/// The response that plays answers by a script. Dropping it (the client went away) leaves the generations.
/// Whatever is not whole when the server has to end is told so.
pub(crate) fn respond<S: Script>(
    state: &AppState,
    mut script: S,
    answers: Vec<(AnswerStream, Charge)>,
) -> Response {
    let keep_alive = state.options().keep_alive_interval;
    let mut waiting = Events::default();
    script.begin(&mut waiting);
    let (answers, charges): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    let tagged = answers
        .into_iter()
        .enumerate()
        .map(|(index, answer)| answer.map(move |event| (index, event)).boxed());
    let life = state.life().clone();
    let answers = stream::select_all(tagged);
    let playing = Playing { script, answers, charges, waiting, over: false, life };
    let events = stream::unfold(playing, |mut playing| async move {
        loop {
            if let Some(event) = playing.waiting.0.pop_front() {
                return Some((Ok::<_, Infallible>(event), playing));
            }
            if playing.over {
                return None;
            }
            let Playing { script, answers, charges, waiting, over, life } = &mut playing;
            let next = tokio::select! {
                // First: the events of a fast answer would else leave no room for it.
                biased;
                () = life.at_least(Stage::Ending) => Some((0, Err(Problem::shutting_down()))),
                next = answers.next() => {
                    next.map(|(index, event)| (index, event.map_err(Problem::from)))
                }
            };
            match next {
                Some((index, Ok(event))) => {
                    if let (AnswerEvent::Finished(answer), Some(charge)) =
                        (&event, charges.get_mut(index))
                    {
                        charge.finished(answer);
                    }
                    script.event(index, event, waiting);
                }
                Some((_, Err(problem))) => {
                    script.failed(problem, waiting);
                    *over = true;
                }
                None => {
                    script.end(waiting);
                    *over = true;
                }
            }
        }
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive)).into_response();
    // Proxies like nginx would else collect events before they pass them on.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
