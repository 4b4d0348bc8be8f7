//! Routes for those who look for the cause: timelines of single requests, and where processor time goes.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hapa_profiler::{CpuSampler, ProfilerError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::problem::Problem;
use crate::state::AppState;

/// Longest profile, in seconds.
const MOST_SECONDS: u64 = 60;

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

#[derive(Debug, Deserialize)]
pub(super) struct ProfileQuery {
    seconds: Option<u64>,
    format: Option<String>,
}

/// Samples the process: a flame graph as SVG, or the tables of hot functions and lines.
#[utoipa::path(get, path = "/debug/profile", tag = "Operations", params(("seconds" = Option<u64>, Query, minimum = 1, maximum = 60, description = "How long"), ("format" = Option<String>, Query, description = "`svg`, `json`, `table` or `folded`")), responses((status = 200, body = String, content_type = "image/svg+xml")))]
pub(super) async fn profile(
    State(state): State<AppState>,
    Query(query): Query<ProfileQuery>,
) -> Result<Response, Problem> {
    // Function names and the cost of sampling are nobody's business but the operator's.
    if !state.options().address.ip().is_loopback() && !state.needs_keys() {
        let message =
            "profiles are only taken for the machine that the server runs on, or with a key";
        return Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message));
    }
    let seconds = query.seconds.unwrap_or(10);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        let message = format!("is {seconds}; 1 to {MOST_SECONDS} are allowed");
        return Err(Problem::invalid("seconds", message));
    }
    let format = query.format.as_deref().unwrap_or("svg");
    let kind = match format {
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "table" | "folded" => "text/plain; charset=utf-8",
        other => {
            let shown: String = other.chars().take(50).collect();
            let message = format!("is `{shown}`; svg, table, json and folded are known");
            return Err(Problem::invalid("format", message));
        }
    };
    let time = Duration::from_secs(seconds);
    let sampler = CpuSampler::start(time).map_err(refused)?;
    tokio::time::sleep(time).await;
    let format = format.to_owned();
    let body = tokio::task::spawn_blocking(move || {
        let profile = sampler.stop();
        match format.as_str() {
            "json" => profile.to_json(),
            "table" => profile.to_table(),
            "folded" => profile.to_folded(),
            _ => profile.to_svg(),
        }
    })
    .await
    .map_err(|error| Problem::internal(format!("the profile failed: {error}")))?;
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

fn refused(error: ProfilerError) -> Problem {
    match error {
        ProfilerError::SamplerBusy => {
            Problem::new(StatusCode::CONFLICT, "CONFLICT", error.to_string())
        }
        other => Problem::internal(other.to_string()),
    }
}
