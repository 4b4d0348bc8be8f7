//! OpenAI's routes.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::try_join_all;
use hapa_service::{AnswerEvent, Request, ServiceError, Usage};

use super::adorn;
use crate::body::JsonBody;
use crate::edge::openai_error;
use crate::problem::Problem;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::{AppState, unix_seconds};
use crate::wire::openai::{
    ChatBody, CompletionBody, Envelope, Kind, ModelBody, ModelList, StreamOptions,
};

pub(super) async fn chat(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Response, Problem> {
    state.check_model(body.model.as_deref())?;
    let asked = Asked { kind: Kind::Chat, streaming: body.streaming(), n: body.n.unwrap_or(1) };
    answer(&state, asked, body.into_requests()?, (&id, &headers)).await
}

pub(super) async fn completions(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CompletionBody>,
) -> Result<Response, Problem> {
    state.check_model(body.model.as_deref())?;
    let asked = Asked { kind: Kind::Text, streaming: body.streaming(), n: body.n.unwrap_or(1) };
    answer(&state, asked, body.into_requests()?, (&id, &headers)).await
}

struct Asked {
    kind: Kind,
    streaming: Option<StreamOptions>,
    /// Choices of each prompt.
    n: usize,
}

async fn answer(
    state: &AppState,
    asked: Asked,
    mut requests: Vec<Request>,
    from: (&RequestId, &HeaderMap),
) -> Result<Response, Problem> {
    let (id, headers) = from;
    for request in &mut requests {
        adorn(request, id, headers)?;
    }
    let envelope = Envelope::new(asked.kind, &id.0, state.model_name(), unix_seconds());
    let service = state.service();
    let Some(options) = asked.streaming else {
        let answers =
            try_join_all(requests.into_iter().map(|request| service.predict(request))).await?;
        let headers = answers.first().map(receipt::whole).unwrap_or_default();
        return Ok((headers, Json(envelope.whole(&answers, asked.n))).into_response());
    };
    let answers =
        try_join_all(requests.into_iter().map(|request| service.predict_stream(request))).await?;
    let headers =
        answers.first().map(|answer| receipt::opening(answer.cache())).unwrap_or_default();
    let chunks = Chunks {
        envelope,
        usages: vec![Usage::default(); answers.len()],
        n: asked.n,
        include_usage: options.include_usage,
    };
    Ok((headers, sse::respond(chunks, answers, state.options().keep_alive_interval))
        .into_response())
}

/// Chunks of all choices, a usage chunk if asked for, `[DONE]`.
struct Chunks {
    envelope: Envelope,
    usages: Vec<Usage>,
    n: usize,
    include_usage: bool,
}

impl Script for Chunks {
    fn begin(&mut self, out: &mut Events) {
        for index in 0..self.usages.len() {
            if let Some(opening) = self.envelope.opening(index) {
                out.json(&opening);
            }
        }
    }

    fn event(&mut self, index: usize, event: AnswerEvent, out: &mut Events) {
        match event {
            AnswerEvent::Text(text) => out.json(&self.envelope.delta(index, text)),
            AnswerEvent::Finished(answer) => {
                out.json(&self.envelope.end(index, &answer));
                if let Some(usage) = self.usages.get_mut(index) {
                    *usage = answer.usage;
                }
            }
        }
    }

    fn failed(&mut self, error: ServiceError, out: &mut Events) {
        out.json(&openai_error(&error.into()));
        out.done();
    }

    fn end(&mut self, out: &mut Events) {
        if self.include_usage {
            out.json(&self.envelope.usage(&self.usages, self.n));
        }
        out.done();
    }
}

pub(super) async fn models(State(state): State<AppState>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![model_body(&state)] })
}

pub(super) async fn model(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<ModelBody>, Problem> {
    state.check_model(Some(&name))?;
    Ok(Json(model_body(&state)))
}

fn model_body(state: &AppState) -> ModelBody {
    ModelBody {
        id: state.model_name().to_owned(),
        object: "model",
        created: state.started_unix(),
        owned_by: "hapa",
    }
}
