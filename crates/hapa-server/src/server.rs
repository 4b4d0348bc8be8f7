//! Listening, accepting, and the end of both.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hapa_metrics::Exporter;
use hapa_service::Service;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::alerts;
use crate::auth::Keyring;
use crate::conn::Connections;
use crate::error::ServerError;
use crate::life::Stage;
use crate::options::ServerOptions;
use crate::otlp::Tracing;
use crate::routes::router;
use crate::state::{AppState, StateParts};
use crate::tls::Tls;

/// After the grace time, how long the rest may take to be told.
const TELLING: Duration = Duration::from_secs(1);

/// A server that does not listen yet.
pub struct Server {
    state: AppState,
    router: Router,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Makes a server around a service, and collects metrics: as the recorder of the process, unless it has one.
    ///
    /// # Errors
    /// [`ServerError::NotLoopback`] or [`ServerError::BadOption`] when the options are not safe or make no sense,
    /// [`ServerError::Keys`] and [`ServerError::Tls`] when the files of keys and certificate cannot be used.
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
        let tls = options.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
        if let Some(name) = &options.model_name
            && service.names().skip(1).any(|other| other == name)
        {
            let problem = format!("is `{name}`, which is the name of another model that is served");
            return Err(ServerError::BadOption { option: "model_name", problem });
        }
        crate::collect::register(&exporter);
        let tracing = Tracing::start(&options.otlp)?;
        let state = AppState::new(options, service, exporter, StateParts { keyring, tracing });
        Ok(Self { router: router(state.clone()), state, tls })
    }

    /// The API alone, to be put into another program's axum router. What listening adds is missing: the bounds in time, the
    /// limit of connections, TLS, alerts, and following the file of keys.
    pub fn into_router(self) -> Router {
        self.router
    }

    /// Takes the address.
    ///
    /// # Errors
    /// [`ServerError::Bind`] when the address cannot be had.
    pub async fn bind(self) -> Result<BoundServer, ServerError> {
        let address = self.state.options().address;
        let failed = |source| ServerError::Bind { address, source };
        let listener = listen(address).map_err(failed)?;
        self.listening(vec![listener])
    }

    /// Takes sockets that listen already, such as those a service manager opened, in place of the options' address.
    ///
    /// # Errors
    /// [`ServerError::NotLoopback`] when one can be reached from other machines and no key is in force,
    /// [`ServerError::Bind`] when one cannot be used.
    pub fn listen_on(
        self,
        sockets: Vec<std::net::TcpListener>,
    ) -> Result<BoundServer, ServerError> {
        let address = self.state.options().address;
        let failed = |source| ServerError::Bind { address, source };
        let listener = |socket: std::net::TcpListener| {
            socket
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(socket))
                .map_err(failed)
        };
        self.listening(sockets.into_iter().map(listener).collect::<Result<_, _>>()?)
    }

    fn listening(self, listeners: Vec<TcpListener>) -> Result<BoundServer, ServerError> {
        let Self { state, router, tls } = self;
        let mut options = ServerOptions::clone(&state.options());
        let has_key = state.keyring().is_some_and(|ring| ring.has_active_key());
        // The last one counts where one address is shown; one that others can reach before all.
        for listener in &listeners {
            let found = listener.local_addr();
            let address = options.address;
            options.address = found.map_err(|source| ServerError::Bind { address, source })?;
            options.check_address(has_key)?;
            if !options.address.ip().is_loopback() {
                break;
            }
        }
        let address = options.address;
        state.set_options(options);
        Ok(BoundServer { state, router, tls, listeners, address })
    }
}

/// A server that listens and does not answer yet.
pub struct BoundServer {
    state: AppState,
    router: Router,
    tls: Option<Arc<Tls>>,
    listeners: Vec<TcpListener>,
    address: SocketAddr,
}

impl BoundServer {
    /// Where it listens; the real port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What changes the server while it runs.
    pub fn control(&self) -> Control {
        Control { state: self.state.clone(), tls: self.tls.clone() }
    }

    /// Serves until `shutdown` resolves, then stops accepting, lets answers under way finish within
    /// [`ServerOptions::grace`], tells the rest that they are not whole, and closes what is left.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { state, router, tls, listeners, address } = self;
        let mut following = JoinSet::new();
        following.spawn(alerts::follow(state.clone(), address.to_string()));
        for model in state.models().iter().cloned() {
            following.spawn(async move { model.pace.follow(&model.service).await });
        }
        if let Some(ring) = state.keyring() {
            following.spawn(Arc::clone(ring).follow());
        }
        if let Some(tls) = &tls {
            following.spawn(Arc::clone(tls).follow());
        }
        let life = state.life().clone();
        let most = state.options().max_connections.min(Semaphore::MAX_PERMITS);
        let acceptor = Arc::new(Acceptor {
            places: Arc::new(Semaphore::new(most)),
            connections: Connections { router, life: life.clone(), tls },
            state: state.clone(),
        });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(Arc::clone(&acceptor).accept_all(listener));
        }
        shutdown.await;
        accepting.shutdown().await;
        drop(following);
        life.advance(Stage::Finishing);
        // Each connection gives its place back when it is gone.
        let under_way = most - acceptor.places.available_permits();
        tracing::info!(connections = under_way, "shutting down");
        let all_gone = || acceptor.places.acquire_many(u32::try_from(most).unwrap_or(u32::MAX));
        if tokio::time::timeout(state.options().grace, all_gone()).await.is_err() {
            tracing::warn!("the grace time is over; ending what is left");
            life.advance(Stage::Ending);
            let _ = tokio::time::timeout(TELLING, all_gone()).await;
        }
        life.advance(Stage::Cut);
        let _ = tokio::time::timeout(TELLING, all_gone()).await;
        if let Some(tracing) = state.tracing().cloned() {
            let _ = tokio::task::spawn_blocking(move || tracing.shut_down()).await;
        }
    }
}

/// Changes a server while it runs. Clones work on the same server.
#[derive(Clone)]
pub struct Control {
    state: AppState,
    tls: Option<Arc<Tls>>,
}

impl Control {
    /// Puts other options in force, and reads keys and certificate again: for the next connections where they concern
    /// those, at once otherwise. These stay as they were: `address`, `max_connections`, which file of keys, the model's
    /// name, where spans go, and whether connections are encrypted. Reads files, so not for the threads of an async runtime.
    ///
    /// # Errors
    /// As [`Server::new`]. What could not be put in force leaves all else as it was.
    pub fn reload(&self, options: ServerOptions) -> Result<(), ServerError> {
        options.check()?;
        if let Some(ring) = self.state.keyring() {
            ring.reload()?;
        }
        let now = self.state.options();
        let tls = match (&self.tls, &options.tls) {
            (Some(tls), Some(files)) => {
                tls.reload(files.clone())?;
                Some(files.clone())
            }
            _ => now.tls.clone(),
        };
        self.state.set_options(ServerOptions {
            address: now.address,
            max_connections: now.max_connections,
            keys: now.keys.clone(),
            model_name: now.model_name.clone(),
            otlp: now.otlp.clone(),
            tls,
            ..options
        });
        Ok(())
    }
}

/// Connections that wait to be accepted, at most; the system may allow fewer. With tokio's 1,024 a burst on a busy machine runs over, and
/// the system resets connections that nobody has looked at.
const BACKLOG: u32 = 4_096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As tokio's own `bind` does: on Windows it would mean something else.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Acceptor {
    places: Arc<Semaphore>,
    connections: Connections,
    state: AppState,
}

impl Acceptor {
    /// Serves whoever comes, as many at once as there are places.
    async fn accept_all(self: Arc<Self>, listener: TcpListener) {
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            let stream = accept(&listener).await;
            let (acceptor, options) = (Arc::clone(&self), self.state.options());
            tokio::spawn(async move {
                acceptor.connections.run(stream, &options).await;
                drop(place);
            });
        }
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of file descriptors, mostly: some become free when connections end.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
