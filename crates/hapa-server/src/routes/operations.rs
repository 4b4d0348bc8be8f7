//! Routes for operators.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hapa_metrics::{Format, ProcessSample};
use hapa_profiler::Profiler;
use hapa_service::{LoadEvent, LoadState, ModelStats, QueueStats, ServiceStats, TierStats, stage};
use serde_json::{Value, json};

use crate::edge::rfc3339;
use crate::life::Stage;
use crate::load_pace::done_of;
use crate::state::{AppState, WireModel, unix_seconds};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether the process lives and answers.
#[utoipa::path(get, path = "/health", tag = "Operations", responses((status = 200, body = Object)))]
pub(super) async fn health(State(state): State<AppState>) -> Json<Value> {
    Json(json!({
        "status": "healthy",
        "message": "HAPA answers",
        "version": VERSION,
        "timestamp": rfc3339(unix_seconds()),
        "uptime_seconds": seconds(state.uptime()),
        "model": state.model_name(),
        "model_state": state.service().model().state().name(),
        "readiness": readiness(&state),
    }))
}

/// Whether the process lives and answers, where the editor plug-in looks for it.
#[utoipa::path(get, path = "/api/v1/health", tag = "HAPA", responses((status = 200, body = Object)))]
pub(super) async fn api_health(state: State<AppState>) -> Json<Value> {
    health(state).await
}

/// Whether requests are answered without waiting for a load that is under way. A model that nobody has asked for
/// yet is no reason to be unready: the first request loads it.
#[utoipa::path(get, path = "/ready", tag = "Operations", responses((status = 200, body = Object), (status = 503, description = "The model is being loaded, or could not be, or the server is stopping", body = Object)))]
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let body = readiness(&state);
    let wait_seconds = match body["status"].as_str() {
        Some("ready") => return Json(body).into_response(),
        Some("stopping") => 5.0,
        _ => body["seconds_left"].as_f64().unwrap_or(1.0),
    };
    let wait = HeaderValue::from(wait_seconds.clamp(1.0, 60.0) as u64);
    let headers = [(header::RETRY_AFTER, wait)];
    (StatusCode::SERVICE_UNAVAILABLE, headers, Json(body)).into_response()
}

/// `status` is `ready`, `loading`, `failed` or `stopping`; the default model's load, where it is under way or failed.
fn readiness(state: &AppState) -> Value {
    if state.life().stage() > Stage::Serving {
        return json!({ "status": "stopping" });
    }
    let model = state.models().first();
    match model.and_then(load) {
        Some(mut body) => {
            if body["status"] == "failed" && state.needs_keys() {
                // Everybody may read this, and the message may name files.
                body["error_message"] = json!("the model could not be loaded; the log says why");
            }
            body
        }
        None => {
            let loaded = state.service().model().state();
            json!({ "status": "ready", "model_loaded": matches!(loaded, LoadState::Ready) })
        }
    }
}

/// How the load of a model goes, or why it failed; `None` where there is nothing to wait for.
fn load(model: &WireModel) -> Option<Value> {
    match model.service.model().state() {
        LoadState::Loading { event } => Some(loading(&event, model.pace.seconds_left(&event))),
        LoadState::Failed { message } => {
            Some(json!({ "status": "failed", "error_message": message }))
        }
        _ => None,
    }
}

/// `{status: "loading", stage, progress, percent, done, total, seconds_left}`; `progress` is 0 to 1; it, `percent` and
/// `seconds_left` are null where they cannot be known.
fn loading(event: &LoadEvent, seconds_left: Option<f64>) -> Value {
    let (done, total) = done_of(event);
    let progress = (total > 0).then(|| done as f64 / total as f64);
    json!({
        "status": "loading",
        "stage": stage(event),
        "progress": progress,
        "percent": progress.map(|progress| (progress * 1e3).round() / 10.0),
        "done": done,
        "total": total,
        "seconds_left": seconds_left.map(f64::ceil),
    })
}

/// Everything in Prometheus' or OpenMetrics' text.
#[utoipa::path(get, path = "/metrics", tag = "Operations", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let format =
        Format::negotiate(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    let text = state.exporter().render_as(format);
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

/// What the server has done, for people and for the editor plug-in.
#[utoipa::path(get, path = "/stats", tag = "Operations", responses((status = 200, body = Object)))]
pub(super) async fn stats(State(state): State<AppState>) -> Json<Value> {
    let service = state.service().stats();
    let process = state.exporter().process();
    let scopes = Profiler::global().report().scopes;
    Json(json!({
        "status": "healthy",
        "version": VERSION,
        "uptime_seconds": seconds(state.uptime()),
        "system_info": {
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpus": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            "process": process_body(&process),
        },
        "model": model_body(&state, &service),
        "models": models_body(&state, &service),
        "memory": {
            "budget_bytes": service.memory.budget_bytes,
            "held_bytes": service.memory.held_bytes,
            "loads_waiting": service.memory.waiting,
        },
        "performance_metrics": performance(&service),
        "response_times": state.response_times().stats(),
        "scopes": scopes,
    }))
}

fn process_body(process: &ProcessSample) -> Value {
    json!({
        "cpu_seconds": process.cpu_seconds,
        "resident_bytes": process.resident_bytes,
        "peak_resident_bytes": process.peak_resident_bytes,
        "threads": process.threads,
        "open_files": process.open_files,
    })
}

fn model_body(state: &AppState, service: &ServiceStats) -> Value {
    let mut body = json!({ "name": state.model_name(), "state": service.model_state.name() });
    if let Some(info) = &service.model {
        body["architecture"] = json!(info.architecture);
        body["parameters"] = json!(info.parameters);
        body["context_length"] = json!(info.context_length);
        body["digest"] = json!(info.digest);
        body["backend"] = json!(info.backend);
    }
    body
}

/// All models that are served, the default one first.
fn models_body(state: &AppState, service: &ServiceStats) -> Value {
    let body = |(wire, model): (&WireModel, &ModelStats)| {
        json!({
            "name": &*wire.name,
            "state": model.state.name(),
            "load": load(wire),
            "bytes": model.bytes,
            "last_used_seconds": model.last_used.map(seconds),
            "in_use": model.leases,
            "requests": model.admission.requests,
            "unloads": {
                "idle": model.unloads.idle,
                "room": model.unloads.room,
                "asked": model.unloads.asked,
            },
            "requests_running": model.engine.map(|engine| engine.running),
            "requests_waiting": model.engine.map(|engine| engine.waiting),
            "generated_tokens": model.engine.map(|engine| engine.generated_tokens),
            "parameters": model.info.as_ref().map(|info| info.parameters),
            "context_length": model.info.as_ref().map(|info| info.context_length),
            "digest": model.info.as_ref().map(|info| &info.digest),
        })
    };
    state.models().iter().zip(&service.models).map(body).collect()
}

fn performance(service: &ServiceStats) -> Value {
    let requests = &service.requests;
    let flights = &service.flights;
    let admission = &service.admission;
    let cache = service.cache.as_ref().map(|cache| {
        json!({
            "hit_rate_percent": cache.hit_ratio() * 100.0,
            "hits": cache.hits,
            "misses": cache.misses,
            "entries": cache.entries,
            "bytes": cache.bytes,
            "max_bytes": cache.max_bytes,
            "evictions": cache.evictions.total(),
            "saved_seconds": seconds(cache.saved),
            "mean_age_seconds": seconds(cache.mean_age),
            "typed_through": service.typed.map(|typed| {
                json!({
                    "hits": typed.hits,
                    "misses": typed.misses,
                    "completions": typed.offers,
                    "bytes": typed.bytes,
                })
            }),
            "tiers": service.tiers.iter().zip(&service.queues).map(tier).collect::<Vec<_>>(),
        })
    });
    let engine = service.engine.as_ref().map(|engine| {
        json!({
            "requests_running": engine.running,
            "requests_waiting": engine.waiting,
            "waiting_tokens": engine.waiting_tokens,
            "unread_tokens": engine.unread_tokens,
            "prompt_tokens_per_second": engine.prompt_tokens_per_second,
            "generated_tokens_per_second": engine.generated_tokens_per_second,
            "steps": engine.steps,
            "prompt_tokens": engine.prompt_tokens,
            "cached_prompt_tokens": engine.cached_tokens,
            "generated_tokens": engine.generated_tokens,
            "drafted_tokens": engine.drafted_tokens,
            "accepted_tokens": engine.accepted_tokens,
            "finished_requests": engine.finished_requests,
            "cancelled_requests": engine.cancelled_requests,
            "failed_requests": engine.failed_requests,
            "kv_held_pages": engine.kv.held_pages,
            "kv_cached_pages": engine.kv.cached_pages,
            "kv_total_pages": engine.kv.total_pages,
        })
    });
    json!({
        "requests": {
            "cache_hits": requests.hits,
            "generated": requests.misses,
            "shared": requests.shared,
            "bypassed": requests.bypassed,
            "superseded": requests.superseded,
            "deadline_passed": requests.deadline_passed,
            "failed": requests.failed,
        },
        "admission": {
            "requests": admission.requests,
            "most_requests": admission.most_requests,
            "waiting_tokens": admission.tokens,
            "most_waiting_tokens": admission.most_tokens,
            "refused_full": admission.refused_full,
            "refused_slow": admission.refused_slow,
        },
        "generations": {
            "in_flight": flights.in_flight,
            "finished": flights.finished,
            "failed": flights.failed,
            "cancelled": flights.cancelled,
        },
        "cache": cache,
        "engine": engine,
    })
}

fn tier((tier, queue): (&TierStats, &QueueStats)) -> Value {
    json!({
        "name": tier.name,
        "hit_rate_percent": tier.hit_ratio() * 100.0,
        "hits": tier.hits,
        "misses": tier.misses,
        "errors": tier.errors,
        "skipped": tier.skipped,
        "stored": tier.stored,
        "evicted": tier.evicted,
        "expired": tier.expired,
        "corrupt": tier.corrupt,
        "foreign": tier.foreign,
        "entries": tier.entries,
        "bytes": tier.bytes,
        "max_bytes": tier.max_bytes,
        "oldest_seconds": tier.oldest.map(seconds),
        "saved_seconds": seconds(tier.saved),
        "breaker_open": tier.breaker_open,
        "writes_waiting": queue.waiting,
        "writes_dropped": queue.dropped,
        "writes_failed": queue.failed,
    })
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}
