//! Routes of llama-server that editors use.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hapa_service::{AnswerEvent, ServiceError};

use super::adorn;
use crate::body::JsonBody;
use crate::edge::openai_error;
use crate::problem::Problem;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::AppState;
use crate::wire::llama::{
    Detokenized, InfillBody, InfillDelta, InfillResponse, TokenizeBody, Tokens,
};

/// Completes the text at a cursor.
#[utoipa::path(post, path = "/infill", tag = "llama-server", request_body = InfillBody, responses((status = 200, body = InfillResponse)))]
pub(super) async fn infill(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<InfillBody>,
) -> Result<Response, Problem> {
    let streams = body.stream == Some(true);
    let mut request = body.into_request();
    adorn(&mut request, &id, &headers)?;
    if !streams {
        let answer = state.service().predict(request).await?;
        return Ok(
            (receipt::whole(&answer), Json(InfillResponse::new(&answer, true))).into_response()
        );
    }
    let answer = state.service().predict_stream(request).await?;
    let headers = receipt::opening(answer.cache());
    Ok((headers, sse::respond(Pieces, vec![answer], state.options().keep_alive_interval))
        .into_response())
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

    fn failed(&mut self, error: ServiceError, out: &mut Events) {
        out.json(&openai_error(&error.into()));
    }

    fn end(&mut self, _out: &mut Events) {}
}

/// Gives the tokens of a text.
#[utoipa::path(post, path = "/tokenize", tag = "llama-server", request_body = TokenizeBody, responses((status = 200, body = Tokens)))]
pub(super) async fn tokenize(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Json<Tokens>, Problem> {
    let tokens = state.service().tokenize(body.content, body.add_special).await?;
    Ok(Json(Tokens { tokens }))
}

/// Gives the text of tokens.
#[utoipa::path(post, path = "/detokenize", tag = "llama-server", request_body = Tokens, responses((status = 200, body = Detokenized)))]
pub(super) async fn detokenize(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<Tokens>,
) -> Result<Json<Detokenized>, Problem> {
    let content = state.service().detokenize(body.tokens).await?;
    Ok(Json(Detokenized { content }))
}
