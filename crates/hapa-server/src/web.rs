//! The web page: a few files that the binary carries, and the headers that keep them to themselves.
//!
//! Nothing here needs a key, since the files are the same for everybody; what the page shows comes from routes that do.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::problem::Problem;
use crate::routes::unknown_route;

/// Only what comes from this server, no inline script or style, nobody's frame; text becomes markup through one policy.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types hapa-highlight";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    etag: HeaderValue,
}

macro_rules! assets {
    ($($name:literal: $kind:expr),+ $(,)?) => {
        [$(Asset::new($name, $kind, include_bytes!(concat!("../web/", $name)))),+]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    assets![
        "index.html": HTML,
        "style.css": STYLE,
        "icon.svg": "image/svg+xml",
        "api.js": SCRIPT,
        "app.js": SCRIPT,
        "chart.js": SCRIPT,
        "code.js": SCRIPT,
        "complete.js": SCRIPT,
        "dashboard.js": SCRIPT,
        "format.js": SCRIPT,
        "generate.js": SCRIPT,
        "metrics.js": SCRIPT,
        "problem.js": SCRIPT,
        "receipt.js": SCRIPT,
        "requests.js": SCRIPT,
        "status.js": SCRIPT,
        "vendor/highlight/core.min.js": SCRIPT,
        "vendor/highlight/python.min.js": SCRIPT,
        "vendor/highlight/LICENSE": TEXT,
    ]
    .into()
});

impl Asset {
    fn new(name: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let digits: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        // Weak, since a compressed body is another sequence of bytes. Hexadecimal digits are always a header's value.
        let etag = HeaderValue::try_from(format!("W/\"{digits}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("W/\"\""));
        Self { name, kind, bytes, etag }
    }

    fn respond(&self, asked: &HeaderMap) -> Response {
        let headers: [(HeaderName, HeaderValue); 6] = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.kind)),
            (header::ETAG, self.etag.clone()),
            // Asked for again each time, at the price of a 304: a new binary shows its own page at once.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                HeaderValue::from_static("same-origin"),
            ),
            (
                HeaderName::from_static("permissions-policy"),
                HeaderValue::from_static("camera=(), geolocation=(), microphone=()"),
            ),
        ];
        if self.is_fresh(asked) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.bytes).into_response()
    }

    /// Whether the client has this version already.
    fn is_fresh(&self, asked: &HeaderMap) -> bool {
        let opaque = |etag: &str| etag.trim().trim_start_matches("W/").to_owned();
        let own = self.etag.to_str().map(opaque).unwrap_or_default();
        asked
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|etag| etag.trim() == "*" || opaque(etag) == own)
    }
}

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// `GET /`.
pub(crate) async fn page(uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    match find("index.html") {
        Some(page) => Ok(page.respond(&headers)),
        None => Err(unknown_route(uri).await),
    }
}

/// `GET /web/{file}`.
pub(crate) async fn asset(
    uri: Uri,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match find(&file) {
        Some(asset) => Ok(asset.respond(&headers)),
        None => Err(unknown_route(uri).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    #[test]
    fn every_file_that_a_file_names_is_carried() {
        for asset in ASSETS.iter() {
            let folder = asset.name.rsplit_once('/').map_or("", |(folder, _)| folder);
            for line in text(asset).lines().filter(|line| line.starts_with("import ")) {
                let from = line.split('"').nth(1).unwrap_or_else(|| panic!("{line}"));
                let name = from.strip_prefix("./").unwrap_or_else(|| panic!("{line}"));
                let path =
                    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                assert!(find(&path).is_some(), "{} imports {from}", asset.name);
            }
        }
        let page = text(find("index.html").unwrap());
        for part in page.split("\"/web/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(find(name).is_some(), "index.html names {name}");
        }
    }

    #[test]
    fn nothing_inline_and_nothing_from_elsewhere() {
        let page = text(find("index.html").unwrap());
        assert!(
            !page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick")
        );
        assert!(
            page.split("<script").skip(1).all(|script| script.starts_with(" type=\"module\" src="))
        );
        for asset in ASSETS.iter().filter(|asset| !asset.name.starts_with("vendor/")) {
            let outside = text(asset).replace("http://www.w3.org/", "");
            assert!(
                !outside.contains("http://") && !outside.contains("https://"),
                "{}",
                asset.name
            );
        }
    }

    #[test]
    fn a_known_version_is_not_sent_again() {
        let page = find("index.html").unwrap();
        let status = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            page.respond(&headers).status()
        };
        let etag = page.etag.to_str().unwrap().to_owned();
        assert_eq!(status(&etag), StatusCode::NOT_MODIFIED);
        assert_eq!(status(&format!("\"x\", {etag}")), StatusCode::NOT_MODIFIED);
        assert_eq!(status("*"), StatusCode::NOT_MODIFIED);
        assert_eq!(status("\"x\""), StatusCode::OK);
        assert_eq!(page.respond(&HeaderMap::new()).status(), StatusCode::OK);
    }
}
