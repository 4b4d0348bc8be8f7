//! Responses that are worth it, compressed for clients that say they can read it.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use crate::cors::cors;
use crate::state::AppState;

/// Bodies smaller than this are not worth compressing.
const ABOVE_BYTES: u16 = 1024;

/// Compresses what comes from within. Who names no encoding pays nothing for it: a body that might be compressed has room
/// for the state of each method, five kilobytes that are moved several times on the way.
pub(crate) async fn compress(state: &AppState, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::ACCEPT_ENCODING) {
        return cors(state, request, next).await;
    }
    let inner = service_fn(move |request| {
        let (state, next) = (state.clone(), next.clone());
        async move { Ok::<_, Infallible>(cors(&state, request, next).await) }
    });
    let wanted = SizeAbove::new(ABOVE_BYTES).and(NotForContentType::SSE);
    match CompressionLayer::new().compress_when(wanted).layer(inner).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}
