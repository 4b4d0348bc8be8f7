//! Routes of llama-server that editors use.

use std::iter::zip;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::try_join_all;
use hapa_service::{AnswerEvent, EncodeOptions};

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
    AnswerSettings, Asked, DetokenizeBody, Detokenized, GenerationSettings, InfillAnswer,
    InfillBody, InfillDelta, InfillResponse, ModelQuery, Props, Slot, TextBody, TextToken,
    TokenizeBody, Tokens, named_as_sent,
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
    answer(&state, model, body.into_asked()?, (&id, &headers)).await
}

/// Continues a text as it stands.
#[utoipa::path(post, path = "/completion", tag = "llama-server", request_body = TextBody, responses((status = 200, body = InfillResponse)))]
pub(super) async fn completion(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<TextBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    answer(&state, model, body.into_asked()?, (&id, &headers)).await
}

/// The same as `/completion`.
#[utoipa::path(post, path = "/completions", tag = "llama-server", request_body = TextBody, responses((status = 200, body = InfillResponse)))]
pub(super) async fn completions(
    state: State<AppState>,
    id: Extension<RequestId>,
    headers: HeaderMap,
    body: JsonBody<TextBody>,
) -> Result<Response, Problem> {
    completion(state, id, headers, body).await
}

async fn answer(
    state: &AppState,
    model: &WireModel,
    asked: Asked,
    from: (&RequestId, &HeaderMap),
) -> Result<Response, Problem> {
    let Asked { mut requests, count, fields, streams } = asked;
    let Some(params) = requests.first().map(GenerationSettings::new) else {
        return Err(Problem::internal("nothing was asked for"));
    };
    let service = &model.service;
    let is_one = requests.len() * count == 1;
    // Each completion of a stream is a request of its own.
    let each = if streams { 1 } else { count };
    if streams {
        requests = requests.into_iter().flat_map(|request| request.candidates(count)).collect();
    }
    let charges: Vec<_> = requests
        .iter_mut()
        .map(|request| adorn(state, service, (request, each), from))
        .collect::<Result<_, _>>()
        .map_err(named_as_sent)?;
    let paid = zip(requests, charges);
    if streams {
        let begun = paid.map(|(request, charge)| charge.opens(service.predict_stream(request)));
        let answers = try_join_all(begun).await.map_err(named_as_sent)?;
        let headers =
            answers.first().map(|(answer, _)| receipt::opening(answer.cache())).unwrap_or_default();
        let pieces = Pieces { settings: settings(model, params), fields };
        return Ok((headers, sse::respond(state, pieces, answers)).into_response());
    }
    let made = paid.map(|(request, charge)| charge.pays(service.candidates(request, count)));
    let answers: Vec<_> =
        try_join_all(made).await.map_err(named_as_sent)?.into_iter().flatten().collect();
    let Some(first) = answers.first() else {
        return Err(Problem::internal("no completion was made"));
    };
    // Only now: before, the model may not have been loaded.
    let settings = settings(model, params);
    let shown =
        |(index, answer)| InfillResponse::new(answer, &settings, true).shown(index, &fields);
    let mut all: Vec<_> = answers.iter().enumerate().map(shown).collect();
    let body = match all.pop() {
        Some(only) if is_one => InfillAnswer::One(only),
        last => InfillAnswer::Many(all.into_iter().chain(last).collect()),
    };
    receipt::respond(first, &body)
}

fn settings(model: &WireModel, params: GenerationSettings) -> AnswerSettings {
    let lease = model.service.model().loaded();
    AnswerSettings { n_ctx: lease.map_or(0, |lease| lease.context_tokens()), params }
}

/// llama-server's events: pieces with `stop: false`, then the receipt with `stop: true`.
struct Pieces {
    settings: AnswerSettings,
    fields: Vec<String>,
}

impl Script for Pieces {
    fn event(&mut self, index: usize, event: AnswerEvent, out: &mut Events) {
        match event {
            AnswerEvent::Text(content) => out.json(&InfillDelta { index, content, stop: false }),
            AnswerEvent::Logprobs(_) => {}
            AnswerEvent::Finished(answer) => {
                let end = InfillResponse::new(&answer, &self.settings, false);
                out.json(&end.shown(index, &self.fields));
            }
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
    let service = &state.model(body.model.as_deref())?.service;
    let options = EncodeOptions {
        add_bos: body.add_special.unwrap_or(false),
        parse_special: body.parse_special.unwrap_or(true),
    };
    let ids = service.tokenize(body.content, options, deadline.0).await?;
    let tokens = if body.with_pieces == Some(true) {
        let pieces = service.pieces(&ids).await?;
        let with_piece =
            |(id, piece): (u32, Vec<u8>)| TextToken::WithPiece { id, piece: piece.into() };
        ids.into_iter().zip(pieces).map(with_piece).collect()
    } else {
        ids.into_iter().map(TextToken::Id).collect()
    };
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
