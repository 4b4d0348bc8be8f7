//! Listening, connections and the end of both.
//!
//! Connections run on hyper itself: `axum::serve` sets no timer for request heads, so that clients which send
//! theirs slowly, or nothing, would hold connections for ever.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hapa_metrics::Exporter;
use hapa_service::Service;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::alerts;
use crate::auth::Keyring;
use crate::error::ServerError;
use crate::options::ServerOptions;
use crate::otlp::Tracing;
use crate::routes::router;
use crate::state::{AppState, StateParts};

/// A server that does not listen yet.
pub struct Server {
    options: ServerOptions,
    router: Router,
    exporter: Exporter,
    keyring: Option<Arc<Keyring>>,
    tracing: Option<Tracing>,
}

impl Server {
    /// Makes a server around a service, and collects metrics: as the recorder of the process, unless it has one.
    ///
    /// # Errors
    /// [`ServerError::NotLoopback`] or [`ServerError::BadOption`] when the options are not safe or make no sense,
    /// [`ServerError::Keys`] when the file of keys cannot be read.
    pub fn new(options: ServerOptions, service: Service) -> Result<Self, ServerError> {
        let exporter = Exporter::install().unwrap_or_else(|error| {
            tracing::warn!(%error, "/metrics will only show the process's own figures; use Server::with_exporter");
            Exporter::local()
        });
        Self::with_exporter(options, service, exporter)
    }

    /// As [`Server::new`], with the exporter that the process has installed already.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn with_exporter(
        options: ServerOptions,
        service: Service,
        exporter: Exporter,
    ) -> Result<Self, ServerError> {
        options.check()?;
        let keyring = options.keys.clone().map(Keyring::open).transpose()?.map(Arc::new);
        options.check_address(keyring.as_ref().is_some_and(|ring| ring.has_active_key()))?;
        crate::collect::register(&exporter);
        let tracing = Tracing::start(&options.otlp)?;
        let parts = StateParts { keyring: keyring.clone(), tracing: tracing.clone() };
        let state = AppState::new(options.clone(), service, exporter.clone(), parts);
        Ok(Self { options, router: router(state), exporter, keyring, tracing })
    }

    /// Takes the address.
    ///
    /// # Errors
    /// [`ServerError::Bind`] when the address cannot be had.
    pub async fn bind(self) -> Result<BoundServer, ServerError> {
        let failed = |source| ServerError::Bind { address: self.options.address, source };
        let listener = TcpListener::bind(self.options.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let Self { options, router, exporter, keyring, tracing } = self;
        Ok(BoundServer { options, router, exporter, keyring, tracing, listener, address })
    }
}

/// A server that listens and does not answer yet.
pub struct BoundServer {
    options: ServerOptions,
    router: Router,
    exporter: Exporter,
    keyring: Option<Arc<Keyring>>,
    tracing: Option<Tracing>,
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    /// Where it listens; the real port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then stops accepting, lets answers under way finish within
    /// [`ServerOptions::grace`], and cuts the rest.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { options, router, exporter, keyring, tracing, listener, address } = self;
        let watching =
            tokio::spawn(alerts::watch(options.alerts.clone(), exporter, address.to_string()));
        let following = keyring.map(|ring| tokio::spawn(ring.follow()));
        let (cut, _) = watch::channel(());
        let connections = Connections {
            builder: builder(&options),
            router,
            header_timeout: options.header_timeout,
        };
        let connections = Arc::new(connections);
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(options.max_connections));
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &places) => accepted,
            };
            if let Some((stream, place)) = accepted {
                let ends = Ends { watcher: graceful.watcher(), cut: cut.subscribe() };
                tokio::spawn(Arc::clone(&connections).run(stream, ends, place));
            }
        }
        drop(listener);
        watching.abort();
        if let Some(following) = following {
            following.abort();
        }
        let under_way = graceful.count();
        tracing::info!(connections = under_way, "shutting down");
        if tokio::time::timeout(options.grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("the grace time is over; cutting what is left");
        }
        drop(cut);
        // Each cut connection gives its place back when it is gone.
        let all = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(Duration::from_secs(1), places.acquire_many(all)).await;
        if let Some(tracing) = tracing {
            let _ = tokio::task::spawn_blocking(move || tracing.shut_down()).await;
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Events are small and must not wait for each other.
            let _ = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            // Out of file descriptors, mostly: some become free when connections end.
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

fn builder(options: &ServerOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(64 << 10)
        .max_headers(100);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(32 << 10)
        .max_pending_accept_reset_streams(32)
        .keep_alive_interval(options.header_timeout)
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

struct Connections {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    header_timeout: Duration,
}

struct Ends {
    watcher: Watcher,
    cut: watch::Receiver<()>,
}

impl Connections {
    async fn run(self: Arc<Self>, stream: TcpStream, ends: Ends, place: OwnedSemaphorePermit) {
        let Ends { watcher, mut cut } = ends;
        let seen = Arc::new(AtomicBool::new(false));
        let service = {
            let (router, seen) = (self.router.clone(), Arc::clone(&seen));
            hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                seen.store(true, Ordering::Relaxed);
                router.clone().oneshot(request.map(Body::new))
            })
        };
        let connection = watcher
            .watch(self.builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // hyper's own timer starts with the first byte of a head; who never sends one is timed here.
        let silent = async {
            tokio::time::sleep(self.header_timeout).await;
            if seen.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                }
            }
            () = silent => tracing::debug!("a connection brought no request in time"),
            _ = cut.changed() => {}
        }
        drop(place);
    }
}
