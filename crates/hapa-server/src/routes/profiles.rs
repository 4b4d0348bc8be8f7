//! Routes for those who look for the cause in the whole process: where processor time goes, and where memory.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hapa_profiler::{CpuSampler, HeapMeasure, HeapProfile, HeapSampler, ProfilerError};
use serde::Deserialize;

use crate::problem::Problem;
use crate::query::QueryString;
use crate::state::AppState;

/// Longest profile, in seconds.
const MOST_SECONDS: u64 = 60;

#[derive(Debug, Deserialize)]
pub(super) struct ProfileQuery {
    seconds: Option<u64>,
    format: Option<String>,
    of: Option<String>,
}

/// Samples the process: a flame graph as SVG, or the tables of hot functions and lines.
#[utoipa::path(get, path = "/debug/profile", tag = "Operations", params(("seconds" = Option<u64>, Query, minimum = 1, maximum = 60, description = "How long"), ("format" = Option<String>, Query, description = "`svg`, `json`, `table` or `folded`")), responses((status = 200, body = String, content_type = "image/svg+xml")))]
pub(super) async fn cpu(
    State(state): State<AppState>,
    QueryString(query): QueryString<ProfileQuery>,
) -> Result<Response, Problem> {
    allowed(&state)?;
    let (time, format) = (query.time()?, query.format()?);
    let sampler = CpuSampler::start(time).map_err(refused)?;
    tokio::time::sleep(time).await;
    answer(format, move || {
        let profile = sampler.stop();
        Ok(match format {
            Format::Json => profile.to_json(),
            Format::Table => profile.to_table(),
            Format::Folded => profile.to_folded(),
            Format::Svg => profile.to_svg(),
        })
    })
    .await
}

/// The heap by call site: a flame graph as SVG, or a table. Of a server that runs under `hapa profile heap` what was
/// found since its start, at once; else of what is allocated from now on.
#[utoipa::path(get, path = "/debug/heap", tag = "Operations", params(("seconds" = Option<u64>, Query, minimum = 1, maximum = 60, description = "How long"), ("format" = Option<String>, Query, description = "`svg`, `json`, `table` or `folded`"), ("of" = Option<String>, Query, description = "What the picture and the stacks show: bytes at the `peak`, those `live` now, or all that were `allocated`")), responses((status = 200, body = String, content_type = "image/svg+xml")))]
pub(super) async fn heap(
    State(state): State<AppState>,
    QueryString(query): QueryString<ProfileQuery>,
) -> Result<Response, Problem> {
    allowed(&state)?;
    let (time, format) = (query.time()?, query.format()?);
    let of = query.of.as_deref().map_or(Ok(HeapMeasure::default()), str::parse);
    let of: HeapMeasure = of.map_err(|problem: String| Problem::invalid("of", problem))?;
    let written = move |profile: HeapProfile| match format {
        Format::Json => profile.to_json(),
        Format::Table => profile.to_table(),
        Format::Folded => profile.to_folded(of),
        Format::Svg => profile.to_svg(of),
    };
    match HeapSampler::start(HeapSampler::EVERY_BYTES) {
        Ok(sampler) => {
            tokio::time::sleep(time).await;
            answer(format, move || Ok(written(sampler.stop()))).await
        }
        // Somebody samples already: what there is so far, unless that has just ended.
        Err(busy @ ProfilerError::SamplerBusy) => {
            answer(format, move || HeapSampler::running().map(written).ok_or(busy)).await
        }
        Err(error) => Err(refused(error)),
    }
}

/// Function names and the cost of sampling are nobody's business but the operator's.
fn allowed(state: &AppState) -> Result<(), Problem> {
    if state.options().address.ip().is_loopback() || state.needs_keys() {
        return Ok(());
    }
    let message = "profiles are only taken for the machine that the server runs on, or with a key";
    Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
}

/// How a profile is written.
#[derive(Debug, Clone, Copy)]
enum Format {
    Svg,
    Json,
    Table,
    Folded,
}

impl ProfileQuery {
    fn time(&self) -> Result<Duration, Problem> {
        let seconds = self.seconds.unwrap_or(10);
        if (1..=MOST_SECONDS).contains(&seconds) {
            return Ok(Duration::from_secs(seconds));
        }
        let message = format!("is {seconds}; 1 to {MOST_SECONDS} are allowed");
        Err(Problem::invalid("seconds", message))
    }

    fn format(&self) -> Result<Format, Problem> {
        Ok(match self.format.as_deref().unwrap_or("svg") {
            "svg" => Format::Svg,
            "json" => Format::Json,
            "table" => Format::Table,
            "folded" => Format::Folded,
            other => {
                let shown: String = other.chars().take(50).collect();
                let message = format!("is `{shown}`; svg, table, json and folded are known");
                return Err(Problem::invalid("format", message));
            }
        })
    }
}

/// Names are looked up in the program's debug information, which takes some seconds of a thread.
async fn answer(
    format: Format,
    written: impl FnOnce() -> Result<String, ProfilerError> + Send + 'static,
) -> Result<Response, Problem> {
    let kind = match format {
        Format::Svg => "image/svg+xml",
        Format::Json => "application/json",
        Format::Table | Format::Folded => "text/plain; charset=utf-8",
    };
    let failed = |error| {
        tracing::error!(%error, "a profile failed");
        Problem::internal("the profile failed; the log says how")
    };
    let body = tokio::task::spawn_blocking(written).await.map_err(failed)?.map_err(refused)?;
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

fn refused(error: ProfilerError) -> Problem {
    match error {
        ProfilerError::SamplerBusy => {
            Problem::new(StatusCode::CONFLICT, "CONFLICT", error.to_string())
        }
        ProfilerError::NoAllocator => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", error.to_string())
        }
        other => Problem::internal(other.to_string()),
    }
}
