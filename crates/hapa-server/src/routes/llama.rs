//! Routes of llama-server that editors use.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hapa_service::AnswerEvent;

use super::adorn;
use crate::body::JsonBody;
use crate::deadline::Deadline;
use crate::edge::openai_error;
use crate::problem::Problem;
use crate::query::QueryString;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::{AppState, WireModel};
use crate::wire::llama::{
    DetokenizeBody, Detokenized, InfillBody, InfillDelta, InfillResponse, ModelQuery, Props, Slot,
    TokenizeBody, Tokens,
};

/// Completes the text at a cursor.
#[utoipa::path(post, path = "/infill", tag = "llama-server", request_body = InfillBody, responses((status = 200, body = InfillResponse)))]
pub(super) async fn infill(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<InfillBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let streams = body.stream == Some(true);
    let mut request = body.into_request();
    let charge = adorn(&state, (&mut request, 1), (&id, &headers))?;
    if !streams {
        let answer = charge.pays(model.service.predict(request)).await?;
        return receipt::respond(&answer, &InfillResponse::new(&answer, true));
    }
    let answer = charge.opens(model.service.predict_stream(request)).await?;
    let headers = receipt::opening(answer.0.cache());
    Ok((headers, sse::respond(&state, Pieces, vec![answer])).into_response())
}

/// llama-server's events: pieces with `stop: false`, then the receipt with `stop: true`.
struct Pieces;

impl Script for Pieces {
    fn event(&mut self, _index: usize, event: AnswerEvent, out: &mut Events) {
        match event {
            AnswerEvent::Text(content) => out.json(&InfillDelta { content, stop: false }),
            AnswerEvent::Logprobs(_) => {}
            AnswerEvent::Finished(answer) => out.json(&InfillResponse::new(&answer, false)),
        }
    }

    fn failed(&mut self, problem: Problem, out: &mut Events) {
        out.json(&openai_error(&problem));
    }

    fn end(&mut self, _out: &mut Events) {}
}

/// Gives the tokens of a text.
#[utoipa::path(post, path = "/tokenize", tag = "llama-server", request_body = TokenizeBody, responses((status = 200, body = Tokens)))]
pub(super) async fn tokenize(
    State(state): State<AppState>,
    deadline: Deadline,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Json<Tokens>, Problem> {
    let model = state.model(body.model.as_deref())?;
    let tokens = model.service.tokenize(body.content, body.add_special, deadline.0).await?;
    Ok(Json(Tokens { tokens }))
}

/// Gives the text of tokens.
#[utoipa::path(post, path = "/detokenize", tag = "llama-server", request_body = DetokenizeBody, responses((status = 200, body = Detokenized)))]
pub(super) async fn detokenize(
    State(state): State<AppState>,
    deadline: Deadline,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Json<Detokenized>, Problem> {
    let model = state.model(body.model.as_deref())?;
    let content = model.service.detokenize(body.tokens, deadline.0).await?;
    Ok(Json(Detokenized { content }))
}

/// Tells of the model and of what requests are answered with where they say nothing. Loads nothing: before the first
/// request the context is unknown, 0.
#[utoipa::path(get, path = "/props", tag = "llama-server", params(("model" = Option<String>, Query, description = "Which model; without it the default one")), responses((status = 200, body = Props)))]
pub(super) async fn props(
    State(state): State<AppState>,
    QueryString(query): QueryString<ModelQuery>,
) -> Result<Json<Props>, Problem> {
    let WireModel { name, service, .. } = state.model(query.model.as_deref())?;
    Ok(Json(Props::new(name, service.slots(), service.model().loaded().as_ref())))
}

/// The places of the engine's batch, and which of them compute an answer. There are no others: a sequence has no place of its own
/// between requests.
#[utoipa::path(get, path = "/slots", tag = "llama-server", params(("model" = Option<String>, Query, description = "Which model; without it the default one")), responses((status = 200, body = Vec<Slot>)))]
pub(super) async fn slots(
    State(state): State<AppState>,
    QueryString(query): QueryString<ModelQuery>,
) -> Result<Json<Vec<Slot>>, Problem> {
    let service = &state.model(query.model.as_deref())?.service;
    let lease = service.model().loaded();
    let running = lease.as_ref().map_or(0, |lease| lease.engine_stats().running);
    let n_ctx = lease.as_ref().map_or(0, |lease| lease.context_tokens());
    let slot = |id| Slot { id, n_ctx, is_processing: id < running };
    Ok(Json((0..service.slots()).map(slot).collect()))
}
