//! Any method, target and headers: an answer, with an id that is sane and what browsers must not do with it.
#![no_main]

mod common;

use std::path::Path;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use common::Api;
use libfuzzer_sys::fuzz_target;

static API: LazyLock<Api> = LazyLock::new(|| Api::new(Path::new("nowhere.gguf")));

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<(u8, Vec<u8>, Vec<u8>)>)| {
    let (method, target, headers) = input;
    let Ok(uri) = Uri::try_from(target.as_slice()) else { return };
    // It would take its time.
    if uri.path().starts_with("/debug/profile") {
        return;
    }
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    *request.method_mut() = Method::from_bytes(&method).unwrap_or(Method::GET);
    // Names that mean something here are worth more tries than any bytes.
    const KNOWN: [&str; 10] = [
        "host", "accept", "accept-encoding", "authorization", "cache-control", "content-length", "content-type", "origin",
        "x-request-id", "if-none-match",
    ];
    for (kind, name, value) in headers {
        let name = match KNOWN.get(usize::from(kind)) {
            Some(known) => Ok(HeaderName::from_static(known)),
            None => HeaderName::from_bytes(&name),
        };
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) {
            request.headers_mut().append(name, value);
        }
    }
    let reply = API.ask(request);
    assert_ne!(reply.status.as_u16(), 500);
    let id = reply.headers["x-request-id"].to_str().unwrap();
    assert!(!id.is_empty() && id.len() <= 128);
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    assert!(reply.headers.contains_key("content-security-policy"));
});
