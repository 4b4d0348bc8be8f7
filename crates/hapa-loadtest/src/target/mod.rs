//! What is driven: the address of a server, and the dialect it speaks.

mod api;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};

use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::{Method, Uri};

pub use api::Api;
pub(crate) use wire::{Chunk, read_chunk, read_whole};

use crate::error::LoadError;

/// One server and how it is asked.
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) url: String,
    pub(crate) api: Api,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Path and query as they stand in the request line.
    pub(crate) path: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) stream: bool,
    pub(crate) model: Option<String>,
}

/// What a [`Target`] is made of.
#[derive(Debug, Clone, Default)]
pub struct TargetOptions {
    /// `http://HOST:PORT`, with a path if the dialect's own is not meant.
    pub url: String,
    /// The dialect.
    pub api: Api,
    /// A key, sent as `Authorization: Bearer`.
    pub key: Option<String>,
    /// The model that requests name; OpenAI servers often insist on one.
    pub model: Option<String>,
    /// Ask for one whole answer in place of a stream of events.
    pub whole: bool,
    /// Other headers, name and value.
    pub headers: Vec<(String, String)>,
}

impl Target {
    /// Checks the address and finds out where it is. Nothing is connected yet.
    pub fn new(options: TargetOptions) -> Result<Self, LoadError> {
        let TargetOptions { url, api, key, model, whole, headers } = options;
        let bad = |reason: String| LoadError::BadUrl { url: url.clone(), reason };
        let full = if url.contains("://") { url.clone() } else { format!("http://{url}") };
        let uri: Uri =
            full.parse().map_err(|error| bad(format!("{error}; say http://HOST:PORT")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(bad(
                    "TLS is not spoken here, it would be part of every figure; put the address of the server \
                     itself, or of a proxy that ends TLS"
                        .to_owned(),
                ));
            }
            _ => return Err(bad("only http:// is known".to_owned())),
        }
        let host = uri.host().ok_or_else(|| bad("it names no host".to_owned()))?;
        let port = uri.port_u16().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (bare, port)
            .to_socket_addrs()
            .map_err(|error| bad(format!("the host `{bare}` was not found ({error})")))?
            .collect();
        let path = api.path(uri.path_and_query().map_or("/", |path| path.as_str()));
        let path = path.parse().map_err(|error| bad(format!("{error}")))?;
        let mut all = HeaderMap::new();
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let value = |text: &str, what: &str| {
            HeaderValue::from_str(text).map_err(|_| {
                LoadError::option(
                    "header",
                    format!("{what} has characters that no header may have"),
                )
            })
        };
        all.insert(HOST, value(authority, "the host")?);
        all.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("hapa-loadtest/", env!("CARGO_PKG_VERSION"))),
        );
        let stream = !whole && api.streams();
        if api != Api::Plain {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let accept = if stream { "text/event-stream" } else { "application/json" };
            all.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(key) = key {
            let mut bearer = value(&format!("Bearer {key}"), "the key")?;
            bearer.set_sensitive(true);
            all.insert(AUTHORIZATION, bearer);
        }
        for (name, text) in &headers {
            let header = HeaderName::try_from(name.as_str()).map_err(|_| {
                LoadError::option("header", format!("`{name}` is not the name of a header"))
            })?;
            all.insert(header, value(text, name)?);
        }
        Ok(Self { url, api, addresses, path, headers: all, stream, model })
    }

    /// The address as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The dialect.
    pub fn api(&self) -> Api {
        self.api
    }

    pub(crate) fn method(&self) -> Method {
        if self.api == Api::Plain { Method::GET } else { Method::POST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, api: Api) -> Result<Target, LoadError> {
        Target::new(TargetOptions { url: url.to_owned(), api, ..TargetOptions::default() })
    }

    #[test]
    fn an_address_gets_the_path_of_its_dialect() {
        let path = |url, api| target(url, api).unwrap().path.to_string();
        assert_eq!(path("http://127.0.0.1:8000", Api::Hapa), "/api/v1/code/generate");
        assert_eq!(path("127.0.0.1:8000", Api::OpenaiChat), "/v1/chat/completions");
        assert_eq!(path("http://127.0.0.1:80/v1", Api::OpenaiCompletions), "/v1/completions");
        assert_eq!(path("http://127.0.0.1/x/v1/", Api::OpenaiChat), "/x/v1/chat/completions");
        assert_eq!(path("http://127.0.0.1/own/way?a=b", Api::Llama), "/own/way?a=b");
        assert_eq!(path("http://127.0.0.1/", Api::Plain), "/");
    }

    #[test]
    fn a_bad_address_is_refused_in_words() {
        for (url, expected) in [
            ("https://127.0.0.1", "TLS"),
            ("ftp://127.0.0.1", "only http://"),
            ("http://", "http://HOST:PORT"),
            ("http://no-such-host.invalid:1", "not found"),
        ] {
            let error = target(url, Api::Hapa).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let options = TargetOptions {
            url: "127.0.0.1:1".to_owned(),
            key: Some("hapa_geheim".to_owned()),
            ..TargetOptions::default()
        };
        let target = Target::new(options).unwrap();
        assert!(!format!("{target:?}").contains("geheim"));
    }
}
