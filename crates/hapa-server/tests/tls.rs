//! TLS with a chain of certificates made here, and with clients that check it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Reply, TestServer, start_with};
use hapa_server::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// An authority of its own, an authority below that, and files with a chain that ends in `localhost`.
struct Chain {
    root: CertificateDer<'static>,
    root_pem: String,
}

fn issue(folder: &Path) -> (Chain, TlsFiles) {
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root =
        CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
    let middle =
        CertifiedIssuer::signed_by(authority("middle"), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "hapa.example".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &middle).unwrap();
    let files = TlsFiles { certificate: folder.join("chain.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, leaf.pem() + &middle.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    (Chain { root: root.der().clone(), root_pem: root.pem() }, files)
}

impl Chain {
    /// A connection whose certificate was checked; `None` where it does not lead to this root.
    async fn connect(&self, server: &TestServer, alpn: &[&str]) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
    }
}

async fn ask(mut stream: TlsStream<TcpStream>, host: &str) -> Reply {
    let head = format!("GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    Reply::parse(&raw)
}

async fn start(files: TlsFiles) -> TestServer {
    start_with(
        |options| {
            options.tls = Some(files);
            options.allowed_hosts = vec!["hapa.example".to_owned()];
        },
        |_| {},
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_2_by_what_the_client_prefers() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, files) = issue(folder.path());
    let server = start(files).await;
    let stream = chain.connect(&server, &["http/1.1"]).await.unwrap();
    let reply = ask(stream, "localhost").await;
    assert_eq!((reply.status, reply.header("strict-transport-security")), (200, None));
    let stream = chain.connect(&server, &[]).await.unwrap();
    let reply = ask(stream, "hapa.example").await;
    assert!(reply.header("strict-transport-security").unwrap().starts_with("max-age="));

    // Once more after a pause, in which the connection gives its buffers back.
    let mut stream = chain.connect(&server, &[]).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let reply = ask(stream, "localhost").await;
    assert_eq!(reply.text().matches("HTTP/1.1 200").count(), 1, "{}", reply.text());

    let stream = chain.connect(&server, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::get("https://localhost/health").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(chain.connect(&server, &["spdy/1"]).await.is_none(), "nobody speaks that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usual_client_gets_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, files) = issue(folder.path());
    let server = start(files).await;
    let url = format!("https://localhost:{}/v1/completions", server.address.port());
    let answer = tokio::task::spawn_blocking(move || {
        use ureq::tls::{Certificate, RootCerts, TlsConfig};
        let root = Certificate::from_pem(chain.root_pem.as_bytes()).unwrap();
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[root])).build();
        let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
        let body = serde_json::json!({ "prompt": "x = ", "max_tokens": 4 });
        agent.post(&url).send_json(body).unwrap().status().as_u16()
    });
    assert_eq!(answer.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_speak_tls_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, files) = issue(folder.path());
    let server = start_with(
        |options| {
            options.tls = Some(files);
            options.header_timeout = Duration::from_secs(1);
        },
        |_| {},
    )
    .await;
    for sent in ["", "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", "\x16\x03\x01"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "still open after {sent:?}");
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    assert_eq!(ask(chain.connect(&server, &[]).await.unwrap(), "localhost").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_up_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, files) = issue(folder.path());
    let server = start(files.clone()).await;
    let open = old.connect(&server, &[]).await.unwrap();
    // Half of a rotation: the key does not fit any more.
    let other = tempfile::tempdir().unwrap();
    let (new, fresh) = issue(other.path());
    std::fs::copy(&fresh.key, &files.key).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(old.connect(&server, &[]).await.is_some(), "the old one stays in force");
    std::fs::copy(&fresh.certificate, &files.certificate).unwrap();
    let mut tries = 0;
    while new.connect(&server, &[]).await.is_none() {
        tries += 1;
        assert!(tries < 200, "the new certificate was not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(old.connect(&server, &[]).await.is_none());
    assert_eq!(ask(open, "localhost").await.status, 200, "open connections go on");
    std::fs::write(&files.certificate, "nonsense").unwrap();
    std::fs::remove_file(&files.key).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(ask(new.connect(&server, &[]).await.unwrap(), "localhost").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_make_no_certificate_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, good) = issue(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (_, strange) = issue(other.path());
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let nowhere = folder.path().join("nowhere.pem");
    let with = |certificate: &Path, key: &Path| {
        let files = TlsFiles { certificate: certificate.to_owned(), key: key.to_owned() };
        let options = hapa_server::ServerOptions { tls: Some(files), ..Default::default() };
        let model = hapa_service::ModelRef::Path("nowhere.gguf".into());
        let service = hapa_service::Service::new(hapa_service::ServiceOptions::new(model)).unwrap();
        let exporter = hapa_metrics::Exporter::local();
        hapa_server::Server::with_exporter(options, service, exporter).err().unwrap().to_string()
    };
    assert!(with(&empty, &good.key).contains("empty.pem: it holds no certificate"));
    assert!(with(&nowhere, &good.key).contains("nowhere.pem"));
    assert!(with(&good.certificate, &empty).contains("empty.pem"));
    assert!(with(&good.certificate, &strange.key).contains("do not fit"));
}
