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
    let writing = Writing {
        finder: letter.finder.clone(),
        letter,
        id,
        blocks: 0,
        in_text: false,
        called: false,
    };
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
    /// The last of them is a text that goes on.
    in_text: bool,
    called: bool,
}

impl Writing {
    fn play(&mut self, events: Vec<ToolEvent>, out: &mut Events) {
        for event in events {
            match event {
                ToolEvent::Text(text) => {
                    if !self.in_text {
                        self.begin_block(&AnswerBlock::Text { text: String::new() }, out);
                        self.in_text = true;
                    }
                    let delta = json!({ "type": "text_delta", "text": text });
                    self.delta(&delta, out);
                }
                ToolEvent::Call(call) => {
                    self.end_text(out);
                    let arguments = call.arguments.clone();
                    let mut block = self.letter.block(ToolEvent::Call(call), self.blocks);
                    if let AnswerBlock::ToolUse { input, .. } = &mut block {
                        // The arguments follow as a delta.
                        *input = json!({});
                    }
                    self.begin_block(&block, out);
                    let delta = json!({ "type": "input_json_delta", "partial_json": arguments });
                    self.delta(&delta, out);
                    self.end_block(out);
                    self.called = true;
                }
            }
        }
    }

    fn begin_block(&mut self, block: &AnswerBlock, out: &mut Events) {
        let event = "content_block_start";
        out.named(event, &json!({ "type": event, "index": self.blocks, "content_block": block }));
        self.blocks += 1;
    }

    fn delta(&self, delta: &serde_json::Value, out: &mut Events) {
        let event = "content_block_delta";
        out.named(event, &json!({ "type": event, "index": self.blocks - 1, "delta": delta }));
    }

    fn end_block(&self, out: &mut Events) {
        let event = "content_block_stop";
        out.named(event, &json!({ "type": event, "index": self.blocks - 1 }));
    }

    fn end_text(&mut self, out: &mut Events) {
        if std::mem::take(&mut self.in_text) {
            self.end_block(out);
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
                self.end_text(out);
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
