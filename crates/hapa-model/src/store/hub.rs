//! The Hugging Face hub: what a repository holds, and where its files are.
//!
//! `hf-hub` knows the hub's addresses, its cache on disk and how to ask for a repository, and does all of that here. Its
//! own downloader is not used: in version 0.5 it has no timeouts, cannot be cancelled, does not verify what arrived
//! (it takes the published digest as a file name only), and gives up after one failed request unless told to retry
//! blindly. [`crate::store::stream`] fetches the bytes instead, over `ureq`, the HTTP client that hf-hub itself uses.
//!
//! The digests come from the hub's own answers: `?blobs=true` lists for each file its size, git's SHA-1 of it, and, for
//! files in large-file storage (all weights), its SHA-256. An endpoint that does not answer that (some mirrors) is
//! asked for each file by `HEAD`, where the same digest stands in `X-Linked-Etag` (or `ETag` for a small file).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::HeaderMap;

use crate::store::part::Expected;
use crate::store::progress::ProgressSink;
use crate::store::route::{NetworkOptions, RouteError, call};

/// Most bytes of a listing; the largest repositories stay far below.
const LISTING_LIMIT_BYTES: u64 = 64 << 20;

/// Who the hub is, and who we are to it.
#[derive(Clone)]
pub(crate) struct HubSettings {
    pub(crate) endpoint: String,
    pub(crate) token: Option<String>,
    pub(crate) cache: PathBuf,
    pub(crate) network: NetworkOptions,
}

/// What a repository held at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) repo: String,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<ListedFile>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    pub(crate) path: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<String>,
    pub(crate) git_sha1: Option<String>,
}

impl ListedFile {
    fn expected(&self) -> Option<Expected> {
        let expected = Expected {
            bytes: self.bytes?,
            sha256: self.sha256.clone(),
            git_sha1: self.git_sha1.clone(),
        };
        expected.identity().is_some().then_some(expected)
    }
}

#[derive(Deserialize)]
struct WireListing {
    sha: String,
    siblings: Vec<WireFile>,
}

#[derive(Deserialize)]
struct WireFile {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<WireLfs>,
}

#[derive(Deserialize)]
struct WireLfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

impl From<WireFile> for ListedFile {
    fn from(file: WireFile) -> Self {
        let in_lfs = file.lfs.is_some();
        let lfs = file.lfs.as_ref();
        Self {
            bytes: lfs.and_then(|lfs| lfs.size).or(file.size),
            sha256: lfs.and_then(|l| l.sha256.clone().or(l.oid.clone())).filter(|d| is_hex(d, 64)),
            // For a file in large-file storage the blob is only the pointer to it.
            git_sha1: file.blob_id.filter(|digest| !in_lfs && is_hex(digest, 40)),
            path: file.rfilename,
        }
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A connection to the hub. Making one asks nothing of the network.
pub(crate) struct Hub {
    settings: HubSettings,
    api: Api,
    agent: Agent,
}

impl Hub {
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, RouteError> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_progress(false)
            .with_user_agent("hapa", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| RouteError::Failed(format!("hub client: {error}")))?;
        let network = &settings.network;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("hapa/", env!("CARGO_PKG_VERSION")))
            // Weights do not shrink, and a range of a compressed answer would be of no use.
            .accept_encoding("identity")
            // The storage that the hub redirects to must not see the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(Some(network.connect))
            .timeout_connect(Some(network.connect))
            .timeout_send_request(Some(network.stall))
            .timeout_recv_response(Some(network.stall))
            .timeout_per_read(Some(network.stall))
            .build()
            .new_agent();
        Ok(Self { settings: settings.clone(), api, agent })
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(crate) fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The address of a file at a revision.
    pub(crate) fn url(&self, repo: &str, revision: &str, file: &str) -> String {
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        self.api.repo(repo).url(&percent_encoded(file))
    }

    /// Asks what a repository holds.
    ///
    /// # Errors
    /// [`RouteError::Absent`] when the hub knows no such repository or revision, or none for this user.
    pub(crate) fn listing(
        &self,
        repo: &str,
        revision: &str,
        sink: &dyn ProgressSink,
    ) -> Result<Listing, RouteError> {
        let network = &self.settings.network;
        let asked = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        let request = self
            .api
            .repo(asked)
            .info_request()
            .query("blobs", "true")
            .config()
            .http_status_as_error(false)
            .timeout_resolve(Some(network.connect))
            .timeout_connect(Some(network.connect))
            .timeout_send_request(Some(network.stall))
            .timeout_recv_response(Some(network.stall))
            .timeout_per_read(Some(network.stall))
            .build();
        let (status, listing) = call(self.patience(), sink, move || {
            let mut response = request.call().map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            if status != 200 {
                return Ok((status, None));
            }
            let limited = response.body_mut().with_config().limit(LISTING_LIMIT_BYTES);
            let listing: WireListing = limited.read_json().map_err(|error| {
                format!("the answer is not a repository's description: {error}")
            })?;
            Ok((status, Some(listing)))
        })?;
        let listing = listing.ok_or_else(|| self.refusal(status, repo))?;
        if !is_hex(&listing.sha, 40) {
            let why = format!("the hub calls the commit `{}`, expected 40 hex digits", listing.sha);
            return Err(RouteError::Failed(why));
        }
        Ok(Listing {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            commit: listing.sha,
            files: listing.siblings.into_iter().map(ListedFile::from).collect(),
        })
    }

    /// Size and digest of a file: from the listing if they are there, else by asking for them.
    pub(crate) fn expected(
        &self,
        listing: &Listing,
        file: &ListedFile,
        sink: &dyn ProgressSink,
    ) -> Result<Expected, RouteError> {
        if let Some(expected) = file.expected() {
            return Ok(expected);
        }
        let mut url = self.url(&listing.repo, &listing.commit, &file.path);
        // A renamed repository answers with a relative redirect, a stored file with an absolute one that carries the digest.
        for _ in 0..5 {
            let mut request = self.agent.head(&url).config().max_redirects(0);
            request = request.max_redirects_will_error(false);
            let request = match &self.settings.token {
                Some(token) => request.build().header("Authorization", format!("Bearer {token}")),
                None => request.build(),
            };
            let (status, headers) = call(self.patience(), sink, move || {
                let response = request.call().map_err(|error| error.to_string())?;
                Ok((response.status().as_u16(), response.headers().clone()))
            })?;
            let location = header(&headers, "location");
            match (status, location) {
                (300..400, Some(to)) if to.starts_with('/') => {
                    url = format!("{}{to}", self.settings.endpoint);
                }
                (200..400, _) => return published(&headers, file),
                _ => return Err(self.refusal(status, &listing.repo)),
            }
        }
        Err(RouteError::Failed(format!("{}: too many redirects", file.path)))
    }

    /// What a status that is not a success means for a repository.
    pub(crate) fn refusal(&self, status: u16, repo: &str) -> RouteError {
        match (status, &self.settings.token) {
            (401 | 403, None) => RouteError::Absent(format!(
                "HTTP {status}: `{repo}` does not exist, or is private or gated; set HF_TOKEN to a token that may read it"
            )),
            (401 | 403, Some(_)) => RouteError::Absent(format!(
                "HTTP {status}: the token in HF_TOKEN may not read `{repo}`; accept the model's terms on its page or use another token"
            )),
            (404, _) => RouteError::Absent(format!(
                "HTTP 404: no such repository, revision or file in `{repo}`"
            )),
            _ => RouteError::Failed(format!("HTTP {status} from {}", self.settings.endpoint)),
        }
    }

    /// Longest time for a small question.
    fn patience(&self) -> Duration {
        let network = &self.settings.network;
        network.connect.saturating_add(network.stall).saturating_mul(2)
    }
}

/// The published facts in the headers of a file's address.
fn published(headers: &HeaderMap, file: &ListedFile) -> Result<Expected, RouteError> {
    let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
    let bytes = file.bytes.or_else(|| size.and_then(|text| text.parse().ok()));
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
    let etag = etag.map(|text| text.trim_start_matches("W/").trim_matches('"').to_owned());
    let bytes = bytes.ok_or_else(|| {
        RouteError::Failed(format!("the hub does not say how long `{}` is", file.path))
    })?;
    Ok(Expected {
        bytes,
        sha256: etag.clone().filter(|digest| is_hex(digest, 64)),
        git_sha1: etag.filter(|digest| is_hex(digest, 40)),
    })
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Percent-encodes a path, slashes apart.
fn percent_encoded(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::with_capacity(path.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// The files of a repository that the Hugging Face cache on this machine has for a revision.
pub(crate) struct CachedSnapshot {
    pub(crate) folder: PathBuf,
    pub(crate) files: Vec<String>,
}

/// Looks a revision up in the Hugging Face cache.
pub(crate) fn cached_snapshot(cache: &Path, repo: &str, revision: &str) -> Option<CachedSnapshot> {
    let asked = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
    let name = asked.folder_name();
    let cached = Cache::new(cache.to_owned()).repo(asked);
    let reference = std::fs::read_to_string(cache.join(name).join("refs").join(revision));
    let commit = reference.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let folder = cached.pointer_path(&commit);
    let mut files = Vec::new();
    collect(&folder, "", &mut files);
    (!files.is_empty()).then_some(CachedSnapshot { folder, files })
}

/// Collects the paths of all files below `folder`, relative to it, with `/`.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // Snapshots hold links to blobs: the target decides, and a dangling link is not a file.
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {
                collect(&entry.path(), &format!("{name}/"), files);
            }
            Ok(_) => files.push(name),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_the_hub_publishes_them() {
        let sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32";
        let blob = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        let json = format!(
            r#"{{"sha":"{blob}","private":false,"siblings":[
                {{"rfilename":"w.gguf","blobId":"{blob}","size":7,"lfs":{{"sha256":"{sha256}","size":7,"pointerSize":134}}}},
                {{"rfilename":"config.json","blobId":"{blob}","size":3}},
                {{"rfilename":"bare.json"}}]}}"#
        );
        let listing: WireListing = serde_json::from_str(&json).expect("json");
        let files: Vec<ListedFile> = listing.siblings.into_iter().map(ListedFile::from).collect();
        let expected = files[0].expected().expect("published");
        assert_eq!((expected.bytes, expected.identity()), (7, Some(sha256)));
        assert_eq!(expected.git_sha1, None, "the blob of a large file is only its pointer");
        assert_eq!(files[1].expected().expect("published").identity(), Some(blob));
        assert_eq!(files[2].expected(), None);
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(percent_encoded("a b/ü.gguf"), "a%20b/%C3%BC.gguf");
    }
}
