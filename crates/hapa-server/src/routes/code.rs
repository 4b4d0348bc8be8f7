//! HAPA's own routes.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream::{self, StreamExt};
use hapa_service::{Answer, AnswerEvent, CodeStream};

use super::adorn;
use crate::body::JsonBody;
use crate::deadline::{Deadline, deadline};
use crate::problem::Problem;
use crate::receipt;
use crate::request_id::RequestId;
use crate::sse::{self, Events, Script};
use crate::state::AppState;
use crate::wire::hapa::{
    BatchBody, BatchError, BatchResponse, CompleteBody, CompleteResponse, GenerateBody,
    GenerateResponse, StreamEvent, ValidateBatchBody, ValidateBody, ValidateResponse,
};

/// Answers a question with code.
#[utoipa::path(post, path = "/api/v1/code/generate", tag = "HAPA", request_body = GenerateBody, responses((status = 200, body = GenerateResponse)))]
pub(super) async fn generate(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<GenerateBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let streams = body.stream == Some(true);
    let mut request = body.into_request();
    let charge = adorn(&state, &model.service, (&mut request, 1), (&id, &headers))?;
    if !streams {
        let answer = charge.pays(model.service.predict(request)).await?;
        return receipt::respond(&answer, &GenerateResponse::from(&answer));
    }
    let answer = charge.opens(model.service.predict_stream(request)).await?;
    let headers = receipt::opening(answer.0.cache());
    let script = Deltas {
        code: Some(CodeStream::new()),
        end: |answer| json(&GenerateResponse::from(answer)),
    };
    Ok((headers, sse::respond(&state, script, vec![answer])).into_response())
}

/// Answers several questions, each with its own status.
#[utoipa::path(post, path = "/api/v1/code/generate/batch", tag = "HAPA", request_body = BatchBody, responses((status = 200, body = BatchResponse<GenerateResponse>)))]
pub(super) async fn generate_batch(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<BatchBody>,
) -> Result<Json<BatchResponse<GenerateResponse>>, Problem> {
    check_batch(&state, "requests", body.requests.len())?;
    // A deadline that is none is the fault of the whole, not of each.
    deadline(&headers, state.options().request_timeout, id.2)?;
    let answers = stream::iter(body.requests.into_iter().enumerate().map(|(index, body)| {
        let (state, id, headers) = (state.clone(), id.clone(), headers.clone());
        async move {
            let model = state.model(body.model.as_deref())?;
            let mut request = body.into_request();
            one_more(&id, index)?;
            let charge = adorn(&state, &model.service, (&mut request, 1), (&id, &headers))?;
            Ok(GenerateResponse::from(&charge.pays(model.service.predict(request)).await?))
        }
    }));
    // Enough to fill the engine's batch, few enough to leave room in its queue for others.
    let outcomes: Vec<_> = answers.buffered(8).collect().await;
    Ok(Json(outcomes.into_iter().collect()))
}

/// Takes a request of the caller's minute for one of a batch; the first has been taken for the whole.
fn one_more(id: &RequestId, index: usize) -> Result<(), Problem> {
    match &id.1 {
        Some(caller) if index > 0 => caller.limits.take_request(),
        _ => Ok(()),
    }
}

/// That a batch is neither empty nor too large.
fn check_batch(state: &AppState, field: &str, count: usize) -> Result<(), Problem> {
    let most = state.options().max_batch;
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(Problem::invalid(field, format!("has {count} of them; 1 to {most} are allowed")))
}

/// Completes the text at a cursor.
#[utoipa::path(post, path = "/api/v1/code/complete", tag = "HAPA", request_body = CompleteBody, responses((status = 200, body = CompleteResponse)))]
pub(super) async fn complete(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CompleteBody>,
) -> Result<Response, Problem> {
    let model = state.model(body.model.as_deref())?;
    let streams = body.stream == Some(true);
    let (mut request, candidates) = body.into_request()?;
    let count = if streams { 1 } else { candidates };
    let charge = adorn(&state, &model.service, (&mut request, count), (&id, &headers))?;
    let service = &model.service;
    if streams {
        let answer = charge.opens(service.predict_stream(request)).await?;
        let headers = receipt::opening(answer.0.cache());
        let script = Deltas { code: None, end: |answer| json(&CompleteResponse::new(answer, &[])) };
        return Ok((headers, sse::respond(&state, script, vec![answer])).into_response());
    }
    let answers = charge.pays(service.candidates(request, candidates)).await?;
    let Some((first, others)) = answers.split_first() else {
        return Err(Problem::internal("no completion was asked for"));
    };
    receipt::respond(first, &CompleteResponse::new(first, others))
}

/// Checks the syntax of Python code.
#[utoipa::path(post, path = "/api/v1/validation/validate", tag = "HAPA", request_body = ValidateBody, responses((status = 200, body = ValidateResponse)))]
pub(super) async fn validate(
    State(state): State<AppState>,
    deadline: Deadline,
    JsonBody(body): JsonBody<ValidateBody>,
) -> Result<Json<ValidateResponse>, Problem> {
    Ok(Json(check_syntax(&state, body, deadline).await?))
}

/// Checks the syntax of several pieces of Python code, each with its own status.
#[utoipa::path(post, path = "/api/v1/validation/validate/batch", tag = "HAPA", request_body = ValidateBatchBody, responses((status = 200, body = BatchResponse<ValidateResponse>)))]
pub(super) async fn validate_batch(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    deadline: Deadline,
    JsonBody(body): JsonBody<ValidateBatchBody>,
) -> Result<Json<BatchResponse<ValidateResponse>>, Problem> {
    check_batch(&state, "code_snippets", body.code_snippets.len())?;
    let mut outcomes = Vec::with_capacity(body.code_snippets.len());
    for (index, mut snippet) in body.code_snippets.into_iter().enumerate() {
        snippet.language = snippet.language.or_else(|| body.common_language.clone());
        outcomes.push(match one_more(&id, index) {
            Ok(()) => check_syntax(&state, snippet, deadline).await,
            Err(problem) => Err(problem),
        });
    }
    Ok(Json(outcomes.into_iter().collect()))
}

async fn check_syntax(
    state: &AppState,
    body: ValidateBody,
    deadline: Deadline,
) -> Result<ValidateResponse, Problem> {
    if let Some(other) = body.language.filter(|language| !language.eq_ignore_ascii_case("python")) {
        let shown: String = other.chars().take(50).collect();
        return Err(Problem::invalid(
            "language",
            format!("is `{shown}`; only python can be checked"),
        ));
    }
    let report = state.service().validate(body.code, deadline.0).await?;
    Ok(ValidateResponse {
        is_valid: report.valid,
        issues: report.issues,
        status: "success",
        error_message: None,
    })
}

fn json(value: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Deltas, then `done` with what the request gives without streaming.
struct Deltas {
    code: Option<CodeStream>,
    end: fn(&Answer) -> serde_json::Value,
}

impl Script for Deltas {
    fn event(&mut self, _index: usize, event: AnswerEvent, out: &mut Events) {
        match event {
            AnswerEvent::Logprobs(_) => {}
            AnswerEvent::Text(text) => {
                let code = match &mut self.code {
                    Some(stream) => stream.push(&text),
                    None => text.clone(),
                };
                out.json(&StreamEvent::Delta { text, code });
            }
            AnswerEvent::Finished(answer) => {
                // What the extractor held back to the end.
                let rest = self.code.take().map(CodeStream::finish).unwrap_or_default();
                if !rest.is_empty() {
                    out.json(&StreamEvent::Delta { text: String::new(), code: rest });
                }
                out.json(&StreamEvent::Done(Box::new((self.end)(&answer))));
            }
        }
    }

    fn failed(&mut self, problem: Problem, out: &mut Events) {
        out.json(&StreamEvent::Error(BatchError::new(problem)));
    }

    fn end(&mut self, _out: &mut Events) {}
}
