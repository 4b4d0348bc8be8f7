//! The whole API without a socket.

use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use hapa_metrics::Exporter;
use hapa_server::{Server, ServerOptions};
use hapa_service::{ModelRef, Service, ServiceOptions};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower::ServiceExt;

pub struct Api {
    runtime: Runtime,
    router: Router,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Api {
    pub fn new(model: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut options = ServiceOptions::new(ModelRef::Path(model.to_owned()));
        options.lazy.load.threads = 1;
        let service = Service::new(options).unwrap();
        let server = Server::with_exporter(ServerOptions::default(), service, Exporter::local()).unwrap();
        Self { runtime, router: server.into_router() }
    }

    pub fn ask(&self, request: Request<Body>) -> Reply {
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("the body is whole").to_bytes().to_vec();
            Reply { status: head.status, headers: head.headers, body }
        })
    }
}
