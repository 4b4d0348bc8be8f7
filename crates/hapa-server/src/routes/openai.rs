//! OpenAI's routes.

use std::iter::zip;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::try_join_all;
use hapa_service::{
    AnswerEvent, DEFAULT_MAX_TOKENS, Request, Task, TokenScore, ToolCallStream, ToolEvent, Usage,
};

use super::adorn;
use crate::auth::{COMPLETION, GENERATION};
use crate::body::JsonBody;
use crate::edge::{openai_error, rfc3339};
use crate::problem::Problem;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::{AppState, WireModel, unix_seconds};
use crate::wire::anthropic::{ANTHROPIC_VERSION, ModelInfo, ModelInfoList};
use crate::wire::openai::{
    ChatBody, Completion, CompletionBody, Envelope, Kind, LogprobsBody, ModelBody, ModelList,
    StreamOptions,
};

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatBody, responses((status = 200, body = Completion)))]
pub(super) async fn chat(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let asked =
        Asked { model, kind: Kind::Chat, streaming: body.streaming(), n: body.n.unwrap_or(1) };
    let bounded = body.limit().is_some();
    let mut requests = body.into_requests()?;
    if !bounded {
        stay_within_rate(&mut requests, &id);
    }
    answer(&state, asked, requests, (&id, &headers)).await
}

/// Continues a text, or fills in between two.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionBody, responses((status = 200, body = Completion)))]
pub(super) async fn completions(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CompletionBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let asked =
        Asked { model, kind: Kind::Text, streaming: body.streaming(), n: body.n.unwrap_or(1) };
    let requests = body.into_requests()?;
    let completes = |request: &Request| matches!(request.task, Task::Complete { .. });
    let access = if requests.iter().any(completes) { COMPLETION } else { GENERATION };
    access.check(id.1.as_deref())?;
    answer(&state, asked, requests, (&id, &headers)).await
}

/// Nobody said how long these answers may become, so the default must not be why they are refused: each takes no more than a
/// quarter of what its key may have in a minute, and all together no more than that whole.
fn stay_within_rate(requests: &mut [Request], id: &RequestId) {
    let Some(rate) = id.1.as_ref().and_then(|caller| caller.limits.rate().tokens) else { return };
    let share = rate.get() as usize / requests.len().max(1);
    for request in requests {
        let prompt = request.most_tokens(0);
        let most = (share / 4).max(DEFAULT_MAX_TOKENS).min(share.saturating_sub(prompt));
        request.max_tokens = request.max_tokens.min(most).max(1);
    }
}

struct Asked<'a> {
    model: &'a WireModel,
    kind: Kind,
    streaming: Option<StreamOptions>,
    /// Choices of each prompt.
    n: usize,
}

async fn answer(
    state: &AppState,
    asked: Asked<'_>,
    mut requests: Vec<Request>,
    from: (&RequestId, &HeaderMap),
) -> Result<Response, Problem> {
    let charges: Vec<_> = requests
        .iter_mut()
        .map(|request| adorn(state, &asked.model.service, (request, 1), from))
        .collect::<Result<_, _>>()?;
    let (id, _) = from;
    let mut envelope = Envelope::new(asked.kind, &id.0, &asked.model.name, unix_seconds());
    // All are choices of one body.
    envelope.calls = requests.first().and_then(Request::tool_calls);
    let service = &asked.model.service;
    let Some(options) = asked.streaming else {
        let paid =
            zip(requests, charges).map(|(request, charge)| charge.pays(service.predict(request)));
        let answers = try_join_all(paid).await?;
        let Some(first) = answers.first() else {
            return Err(Problem::internal("nothing was asked for"));
        };
        return receipt::respond(first, &envelope.whole(&answers, asked.n));
    };
    let paid = zip(requests, charges)
        .map(|(request, charge)| charge.opens(service.predict_stream(request)));
    let answers = try_join_all(paid).await?;
    let headers =
        answers.first().map(|(answer, _)| receipt::opening(answer.cache())).unwrap_or_default();
    let chunks = Chunks {
        choices: answers.iter().map(|_| ChoiceState::new(envelope.calls.clone())).collect(),
        envelope,
        n: asked.n,
        include_usage: options.include_usage,
    };
    Ok((headers, sse::respond(state, chunks, answers)).into_response())
}

/// Chunks of all choices, a usage chunk if asked for, `[DONE]`.
struct Chunks {
    envelope: Envelope,
    choices: Vec<ChoiceState>,
    n: usize,
    include_usage: bool,
}

/// How far one choice has come.
struct ChoiceState {
    usage: Usage,
    finder: Option<ToolCallStream>,
    calls: usize,
    /// Tokens that go with the next text.
    scores: Option<Vec<TokenScore>>,
    /// Characters of the tokens so far.
    offset: usize,
}

impl ChoiceState {
    fn new(finder: Option<ToolCallStream>) -> Self {
        Self { usage: Usage::default(), finder, calls: 0, scores: None, offset: 0 }
    }

    fn logprobs(&mut self, kind: Kind) -> Option<LogprobsBody> {
        self.scores.take().map(|scores| LogprobsBody::new(kind, &scores, &mut self.offset))
    }
}

impl Chunks {
    fn play(&mut self, index: usize, events: Vec<ToolEvent>, out: &mut Events) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        for event in events {
            match event {
                ToolEvent::Text(text) => {
                    let logprobs = choice.logprobs(self.envelope.kind);
                    out.json(&self.envelope.delta(index, text, logprobs));
                }
                ToolEvent::Call(call) => {
                    out.json(&self.envelope.calling(index, choice.calls, call));
                    choice.calls += 1;
                }
                ToolEvent::Arguments(more) => {
                    let number = choice.calls.saturating_sub(1);
                    out.json(&self.envelope.arguments(index, number, more));
                }
            }
        }
    }
}

impl Script for Chunks {
    fn begin(&mut self, out: &mut Events) {
        for index in 0..self.choices.len() {
            if let Some(opening) = self.envelope.opening(index) {
                out.json(&opening);
            }
        }
    }

    fn event(&mut self, index: usize, event: AnswerEvent, out: &mut Events) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        match event {
            AnswerEvent::Logprobs(scores) => choice.scores.get_or_insert_default().extend(scores),
            AnswerEvent::Text(text) => {
                let events = match &mut choice.finder {
                    Some(finder) => finder.push(&text),
                    None => vec![ToolEvent::Text(text)],
                };
                self.play(index, events, out);
            }
            AnswerEvent::Finished(answer) => {
                choice.usage = answer.usage;
                let cut = answer.finish.is_cut();
                let rest =
                    choice.finder.take().map(|finder| finder.finish(cut)).unwrap_or_default();
                self.play(index, rest, out);
                let called = self.choices.get(index).is_some_and(|choice| choice.calls > 0);
                out.json(&self.envelope.end(index, &answer, called));
            }
        }
    }

    fn failed(&mut self, problem: Problem, out: &mut Events) {
        out.json(&openai_error(&problem));
        out.done();
    }

    fn end(&mut self, out: &mut Events) {
        if self.include_usage {
            let usages: Vec<Usage> = self.choices.iter().map(|choice| choice.usage).collect();
            out.json(&self.envelope.usage(&usages, self.n));
        }
        out.done();
    }
}

/// Lists the models that are served; in Anthropic's shape for whoever sends `anthropic-version`, as its clients do.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelList)))]
pub(super) async fn models(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let models = state.models().iter();
    if headers.contains_key(&ANTHROPIC_VERSION) {
        let started = rfc3339(state.started_unix());
        let data = models.map(|model| ModelInfo::new(&model.name, &started)).collect();
        return Json(ModelInfoList::new(data)).into_response();
    }
    let data = models.map(|model| model_body(&state, model)).collect();
    Json(ModelList { object: "list", data }).into_response()
}

/// Describes a model; in Anthropic's shape for whoever sends `anthropic-version`.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "OpenAI", params(("model" = String, Path, description = "Its name")), responses((status = 200, body = ModelBody)))]
pub(super) async fn model(
    State(state): State<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let model = state.model(Some(&name))?;
    if headers.contains_key(&ANTHROPIC_VERSION) {
        let started = rfc3339(state.started_unix());
        return Ok(Json(ModelInfo::new(&model.name, &started)).into_response());
    }
    Ok(Json(model_body(&state, model)).into_response())
}

fn model_body(state: &AppState, model: &WireModel) -> ModelBody {
    ModelBody {
        id: model.name.to_string(),
        object: "model",
        created: state.started_unix(),
        owned_by: "hapa",
    }
}
