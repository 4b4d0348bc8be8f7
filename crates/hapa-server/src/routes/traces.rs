//! Routes for those who look for the cause of one request: timelines.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::problem::Problem;
use crate::state::AppState;

/// Requests whose timelines are kept, and the last requests with their stages, the newest first.
#[utoipa::path(get, path = "/api/v1/traces", tag = "Operations", responses((status = 200, body = Object)))]
pub(super) async fn traces(State(state): State<AppState>) -> Json<Value> {
    let traces = state.service().traces();
    let requests: Vec<Value> = state
        .recent()
        .list()
        .into_iter()
        .map(|request| {
            let trace = traces.get(&request.id);
            json!({
                "request_id": request.id,
                "endpoint": request.endpoint.as_str(),
                "status": request.status,
                "started_unix_seconds": request.ended_unix_seconds - request.took.as_secs_f64(),
                "duration_seconds": request.took.as_secs_f64(),
                "stages": trace.map(|trace| trace.stages()),
            })
        })
        .collect();
    Json(json!({ "request_ids": traces.ids(), "requests": requests }))
}

/// The timeline of a request in Chrome's trace format, which Perfetto opens.
#[utoipa::path(get, path = "/api/v1/traces/{request_id}", tag = "Operations", params(("request_id" = String, Path, description = "The `x-request-id` of the request")), responses((status = 200, body = Object)))]
pub(super) async fn trace(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let Some(trace) = state.service().traces().get(&id) else {
        let shown: String = id.chars().take(200).collect();
        let message = format!(
            "there is no trace of the request `{shown}`; the last 128 requests for text are kept"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", message));
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, trace.to_chrome_json()).into_response())
}
