//! Anthropic's routes.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hapa_service::{AnswerEvent, Request, ToolCallStream, ToolEvent};
use serde_json::json;

use super::adorn;
use crate::body::JsonBody;
use crate::deadline::Deadline;
use crate::edge::anthropic_error;
use crate::problem::Problem;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::AppState;
use crate::wire::anthropic::{
    AnswerBlock, Letter, MessageResponse, MessageUsage, MessagesBody, TokenCount,
};

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/messages", tag = "Anthropic", request_body = MessagesBody, responses((status = 200, body = MessageResponse)))]
pub(super) async fn messages(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<MessagesBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let streams = body.stream == Some(true);
    let mut request = body.into_request()?;
    let charge = adorn(&state, &model.service, (&mut request, 1), (&id, &headers))?;
    let letter = Letter::new(&id.0, &model.name, &request);
    if !streams {
        let answer = charge.pays(model.service.predict(request)).await?;
        return receipt::respond(&answer, &letter.whole(&answer));
    }
    let answer = charge.opens(model.service.predict_stream(request)).await?;
    let headers = receipt::opening(answer.0.cache());
    let writing =
        Writing { finder: letter.finder.clone(), letter, id, blocks: 0, open: None, called: false };
    Ok((headers, sse::respond(&state, writing, vec![answer])).into_response())
}

/// Counts the tokens of a conversation; `max_tokens` is not needed.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "Anthropic", request_body = MessagesBody, responses((status = 200, body = TokenCount)))]
pub(super) async fn count_tokens(
    State(state): State<AppState>,
    deadline: Deadline,
    JsonBody(mut body): JsonBody<MessagesBody>,
) -> Result<Json<TokenCount>, Problem> {
    let model = state.model(body.model.as_deref())?;
    body.max_tokens = Some(1);
    let request = Request { deadline: deadline.0, ..body.into_request()? };
    let input_tokens = model.service.count_tokens(request).await?;
    Ok(Json(TokenCount { input_tokens }))
}

/// `message_start`, blocks (each begun, written and ended), `message_delta` with reason and usage, `message_stop`.
struct Writing {
    letter: Letter,
    id: RequestId,
    finder: Option<ToolCallStream>,
    /// Blocks that have begun.
    blocks: usize,
    /// What the last of them is, if it goes on.
    open: Option<Open>,
    called: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Call,
}

impl Writing {
    fn play(&mut self, events: Vec<ToolEvent>, out: &mut Events) {
        for event in events {
            match event {
                ToolEvent::Text(text) => {
                    if self.open != Some(Open::Text) {
                        let block = AnswerBlock::Text { text: String::new() };
                        self.begin_block(&block, Open::Text, out);
                    }
                    let delta = json!({ "type": "text_delta", "text": text });
                    self.delta(&delta, out);
                }
                ToolEvent::Call(mut call) => {
                    // The arguments follow as deltas.
                    let arguments = std::mem::take(&mut call.arguments);
                    let block = self.letter.call(call, self.blocks);
                    self.begin_block(&block, Open::Call, out);
                    self.arguments(&arguments, out);
                    self.called = true;
                }
                ToolEvent::Arguments(more) => self.arguments(&more, out),
            }
        }
    }

    fn arguments(&self, piece: &str, out: &mut Events) {
        if !piece.is_empty() {
            let delta = json!({ "type": "input_json_delta", "partial_json": piece });
            self.delta(&delta, out);
        }
    }

    /// Begins a block, after the end of the one that goes on.
    fn begin_block(&mut self, block: &AnswerBlock, open: Open, out: &mut Events) {
        self.end_block(out);
        self.open = Some(open);
        let event = "content_block_start";
        out.named(event, &json!({ "type": event, "index": self.blocks, "content_block": block }));
        self.blocks += 1;
    }

    fn delta(&self, delta: &serde_json::Value, out: &mut Events) {
        let event = "content_block_delta";
        out.named(event, &json!({ "type": event, "index": self.blocks - 1, "delta": delta }));
    }

    fn end_block(&mut self, out: &mut Events) {
        if self.open.take().is_some() {
            let event = "content_block_stop";
            out.named(event, &json!({ "type": event, "index": self.blocks - 1 }));
        }
    }
}

impl Script for Writing {
    fn begin(&mut self, out: &mut Events) {
        let event = "message_start";
        out.named(event, &json!({ "type": event, "message": self.letter.empty() }));
    }

    fn event(&mut self, _index: usize, event: AnswerEvent, out: &mut Events) {
        match event {
            AnswerEvent::Logprobs(_) => {}
            AnswerEvent::Text(text) => {
                let events = match &mut self.finder {
                    Some(finder) => finder.push(&text),
                    None => vec![ToolEvent::Text(text)],
                };
                self.play(events, out);
            }
            AnswerEvent::Finished(answer) => {
                let cut = answer.finish.is_cut();
                let rest = self.finder.take().map(|finder| finder.finish(cut)).unwrap_or_default();
                self.play(rest, out);
                self.end_block(out);
                let (reason, sequence) = Letter::stopped(&answer, self.called);
                let event = "message_delta";
                out.named(
                    event,
                    &json!({
                        "type": event,
                        "delta": { "stop_reason": reason, "stop_sequence": sequence },
                        "usage": MessageUsage::from(&answer.usage),
                    }),
                );
            }
        }
    }

    fn failed(&mut self, problem: Problem, out: &mut Events) {
        out.named("error", &anthropic_error(&problem, &self.id));
    }

    fn end(&mut self, out: &mut Events) {
        out.named("message_stop", &json!({ "type": "message_stop" }));
    }
}
