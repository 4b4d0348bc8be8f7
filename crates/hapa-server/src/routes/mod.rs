//! The routes and their handlers.
mod anthropic;
mod code;
mod llama;
mod openai;
mod openapi;
mod operations;
mod profiles;
#[cfg(test)]
mod tests;
mod traces;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::middleware;
use axum::routing::{MethodRouter, get, post};

use crate::auth::{Access, Caller};
use crate::charge::Charge;
use crate::deadline::deadline;
use crate::edge::edge;
use crate::problem::Problem;
use crate::request_id::RequestId;
use crate::state::AppState;
use crate::web;
use hapa_service::{CacheControl, Request, Service};

/// What the timeline of a request shall hold beside its stages.
const X_HAPA_TRACE: HeaderName = HeaderName::from_static("x-hapa-trace");

/// Routes with their patterns, so that tests can walk them.
#[derive(Default)]
struct Routes {
    router: Router<AppState>,
    #[cfg(test)]
    patterns: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, pattern: &'static str, handlers: MethodRouter<AppState>) -> Self {
        self.router = self.router.route(pattern, handlers);
        #[cfg(test)]
        self.patterns.push(pattern);
        self
    }
}

/// The whole of the API with all its layers.
pub(crate) fn router(state: AppState) -> Router {
    routes()
        .router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        // One layer and not three: each clones and boxes the services below it for each request.
        .layer(middleware::from_fn_with_state(state.clone(), edge))
        .with_state(state)
}

/// All routes. What each demands of its caller is in [`crate::auth`].
fn routes() -> Routes {
    let api = Routes::default()
        .route("/", get(web::page))
        .route("/web/{*file}", get(web::asset))
        .route("/api/v1/code/generate", post(code::generate))
        .route("/api/v1/code/generate/batch", post(code::generate_batch))
        .route("/api/v1/code/complete", post(code::complete))
        .route("/api/v1/validation/validate", post(code::validate))
        .route("/api/v1/validation/validate/batch", post(code::validate_batch))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{model}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/infill", post(llama::infill))
        .route("/completion", post(llama::completion))
        .route("/completions", post(llama::completions))
        .route("/tokenize", post(llama::tokenize))
        .route("/detokenize", post(llama::detokenize))
        .route("/props", get(llama::props))
        .route("/slots", get(llama::slots))
        .route("/api/v1/traces", get(traces::traces))
        .route("/api/v1/traces/{request_id}", get(traces::trace))
        .route("/debug/profile", get(profiles::cpu))
        .route("/debug/heap", get(profiles::heap))
        .route("/openapi.json", get(openapi::openapi_json))
        .route("/docs", get(openapi::docs))
        .route("/health", get(operations::health))
        .route("/api/v1/health", get(operations::api_health))
        .route("/ready", get(operations::ready))
        .route("/stats", get(operations::stats))
        .route("/metrics", get(operations::metrics));
    #[cfg(test)]
    let api = api.route("/test/panic", get(|| async { panicking() }));
    api
}

#[cfg(test)]
fn panicking() -> &'static str {
    panic!("on purpose")
}

pub(crate) async fn unknown_route(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no route {path}"))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    let method: String = method.as_str().chars().take(20).collect();
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        format!("{path} does not take {method}"),
    )
}

/// What the headers of a request add to it: its id, whose it is, its deadline, `Cache-Control`, and what its timeline shall
/// hold. Takes the tokens of so many answers of that service to it from the caller's minute.
///
/// # Errors
/// 429 when too few are left, 422 for a request that breaks a limit and a deadline that is none; those of [`traces_kernels`].
fn adorn(
    state: &AppState,
    service: &Service,
    (request, answers): (&mut Request, usize),
    (id, headers): (&RequestId, &HeaderMap),
) -> Result<Charge, Problem> {
    request.request_id = Some(id.0.clone());
    request.trace_kernels = traces_kernels(id, headers)?;
    request.deadline = deadline(headers, state.options().request_timeout, id.2)?;
    if let Some(caller) = &id.1 {
        request.cache.namespace = caller.namespace().to_owned();
    }
    let directives =
        headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in directives.flat_map(|value| value.split(',')) {
        let CacheControl { no_cache, no_store, .. } = &mut request.cache;
        match directive.trim().to_ascii_lowercase().as_str() {
            "no-cache" => *no_cache = true,
            "no-store" => *no_store = true,
            _ => {}
        }
    }
    service.limits().check(request)?;
    service.fit(request);
    Charge::take(id.1.as_ref(), request.most_tokens(answers))
}

/// Whether `x-hapa-trace` asks for kernels by layer. They take megabytes, which are kept for a while.
///
/// # Errors
/// 422 for anything but `kernels`, 403 for those who are no administrators.
fn traces_kernels(id: &RequestId, headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(asked) = headers.get(&X_HAPA_TRACE) else { return Ok(false) };
    if asked.as_bytes() != b"kernels" {
        let shown: String = String::from_utf8_lossy(asked.as_bytes()).chars().take(50).collect();
        return Err(Problem::invalid("x-hapa-trace", format!("is `{shown}`; kernels is known")));
    }
    let may =
        |caller: &Arc<Caller>| Access::of(Some("/api/v1/traces")).allows(&caller.record.scopes);
    if id.1.as_ref().is_none_or(may) {
        return Ok(true);
    }
    let message = "x-hapa-trace: kernels are traced for keys with the scope admin";
    Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
}
