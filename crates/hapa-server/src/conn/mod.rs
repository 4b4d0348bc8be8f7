//! One connection: its bounds in time, and its end.
//!
//! - [`Paced`] gives up a peer that does not take what was written;
//! - [`Pulse`] knows which responses of a connection wait for their reader, and how long nothing was asked;
//! - [`Connections`] serves what was accepted, within these bounds and those of hyper.
//!
//! Connections run on hyper itself: `axum::serve` sets no timer for request heads, so that clients which send
//! theirs slowly, or nothing, would hold connections for ever.

mod paced;
mod pulse;

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::life::{Life, Stage};
use crate::options::ServerOptions;
use crate::tls::Tls;
use paced::Paced;
use pulse::Pulse;

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Streams that the peer may reset before they are looked at, and that may fail here, before the connection ends: a
/// client that opens and resets streams as fast as it can gets no further.
const MAX_RESET_STREAMS: usize = 32;
/// Largest request head.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most fields of a request head.
const MAX_HEADERS: usize = 100;
/// Of a response, what a reader may leave waiting in this process.
const MAX_UNREAD_BYTES: usize = 64 << 10;

/// How long a connection that is told to end may take for its farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// What all connections share.
pub(crate) struct Connections {
    pub(crate) router: Router,
    pub(crate) life: Life,
    pub(crate) tls: Option<Arc<Tls>>,
}

/// In the extensions of a request that came encrypted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

impl Connections {
    /// Serves a connection until it ends, for whichever reason.
    pub(crate) async fn run(&self, stream: TcpStream, options: &ServerOptions) {
        // Events are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let stream = Paced::new(stream, options.write_timeout);
        // Boxed: tasks are as large as the largest that they may ever hold, and most connections are idle.
        let Some(tls) = &self.tls else { return Box::pin(self.serve(stream, options)).await };
        let shaken = tokio::select! {
            shaken = Box::pin(tls.acceptor().accept(stream)) => shaken,
            () = tokio::time::sleep(options.header_timeout) => Err(ErrorKind::TimedOut.into()),
            () = self.life.at_least(Stage::Finishing) => return,
        };
        match shaken {
            Ok(stream) => Box::pin(self.serve(stream, options)).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    async fn serve<S>(&self, stream: S, options: &ServerOptions)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pulse = Pulse::default();
        let service = {
            let (router, pulse) = (self.router.clone(), pulse.clone());
            let is_encrypted = self.tls.is_some();
            hyper::service::service_fn(move |mut request: Request<Incoming>| {
                let asked = pulse.asked();
                if is_encrypted {
                    request.extensions_mut().insert(OverTls);
                }
                let answer = router.clone().oneshot(request.map(Body::new));
                async move { answer.await.map(|response| response.map(|body| asked.answer(body))) }
            })
        };
        let builder = builder(options);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut idle = pin!(idle(&pulse, options));
        let mut unread = pin!(unread(&pulse, options));
        let mut finishing = pin!(self.life.at_least(Stage::Finishing));
        let server_ends = tokio::select! {
            ended = &mut connection => return note(ended),
            () = &mut unread => return tracing::debug!("a connection was cut: nobody reads its response"),
            () = &mut idle => false,
            () = &mut finishing => true,
        };
        // The request at hand may finish, others are refused: HTTP/2 has words for that.
        connection.as_mut().graceful_shutdown();
        let farewell = async {
            match server_ends {
                true => self.life.at_least(Stage::Cut).await,
                false => tokio::time::sleep(FAREWELL).await,
            }
        };
        tokio::select! {
            ended = &mut connection => note(ended),
            () = unread => tracing::debug!("a connection was cut: nobody reads its response"),
            () = farewell => tracing::debug!("a connection was cut: it would not end"),
        }
    }
}

fn note<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Returns when nothing was asked for too long. hyper's own timer knows only HTTP/1, and starts with the first byte.
async fn idle(pulse: &Pulse, options: &ServerOptions) {
    let limit = options.header_timeout;
    loop {
        let idle = pulse.idle();
        if idle >= limit {
            return;
        }
        tokio::time::sleep(limit - idle).await;
    }
}

/// Returns when a response waited for its reader for too long, one that holds back HTTP/2's windows, say.
async fn unread(pulse: &Pulse, options: &ServerOptions) {
    let limit = options.write_timeout;
    loop {
        let unread = pulse.unread();
        if unread >= limit {
            return;
        }
        tokio::time::sleep(limit - unread).await;
    }
}

fn builder(options: &ServerOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        .max_send_buf_size(MAX_UNREAD_BYTES)
        .keep_alive_interval(options.header_timeout)
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}
