//! One connection: its bounds in time, and its end.
//!
//! - [`Paced`] gives up a peer that does not take what was written;
//! - [`Peeked`] tells HTTP/1 and HTTP/2 apart by the first bytes, while nothing else is held for the connection;
//! - [`Pulse`] knows which responses of a connection wait for their reader, and how long nothing was asked;
//! - [`Connections`] serves what was accepted, within these bounds and those of hyper.
//!
//! Connections run on hyper itself: `axum::serve` sets no timer for request heads, so that clients which send
//! theirs slowly, or nothing, would hold connections for ever.

mod paced;
mod peeked;
mod pulse;

use std::convert::Infallible;
use std::fmt::Display;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::life::{Life, Stage};
use crate::options::ServerOptions;
use crate::tls::Tls;
use paced::Paced;
use peeked::{Peeked, Protocol};
use pulse::{Answering, Pulse};

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

/// How long nothing may happen on a connection of HTTP/1 before its buffers are given back.
const DOZE: Duration = Duration::from_millis(500);
/// How long a connection that is told to end may take for its farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// What bytes come and go on, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

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
        let pulse = Pulse::default();
        let stream = Paced::new(stream, options.write_timeout, pulse.clone());
        // Boxed, here and below: tasks are as large as the largest that they may ever hold, and most connections are idle.
        let Some(tls) = &self.tls else {
            return Box::pin(self.serve(stream, &pulse, options)).await;
        };
        let shaken = tokio::select! {
            shaken = Box::pin(tls.acceptor().accept(stream)) => shaken,
            () = tokio::time::sleep(options.header_timeout) => Err(ErrorKind::TimedOut.into()),
            () = self.life.at_least(Stage::Finishing) => return,
        };
        match shaken {
            Ok(stream) => Box::pin(self.serve(stream, &pulse, options)).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    /// Waits for requests, and wakes hyper for them. Its buffers are most of what a connection takes, some 20 KB, so a connection on
    /// which nothing happens has none.
    async fn serve<S: Stream>(&self, stream: S, pulse: &Pulse, options: &ServerOptions) {
        let mut stream = Peeked::new(stream);
        loop {
            let protocol = tokio::select! {
                biased;
                protocol = stream.protocol() => protocol,
                () = idle(pulse, options) => Ok(None),
                () = self.life.at_least(Stage::Finishing) => Ok(None),
            };
            match protocol {
                Ok(Some(Protocol::Http1)) => {
                    match Box::pin(self.http1(stream, pulse, options)).await {
                        Some(quiet) => stream = quiet,
                        None => return,
                    }
                }
                Ok(Some(Protocol::Http2)) => {
                    return Box::pin(self.http2(stream, pulse, options)).await;
                }
                Ok(None) => {
                    let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
                    return;
                }
                Err(error) => return note::<std::io::Error>(Err(error)),
            }
        }
    }

    /// Serves requests of HTTP/1 until none came for a while, when the stream is given back, or to the end.
    async fn http1<S: Stream>(
        &self,
        stream: Peeked<S>,
        pulse: &Pulse,
        options: &ServerOptions,
    ) -> Option<Peeked<S>> {
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), self.service(pulse));
        tokio::select! {
            biased;
            () = self.until_end(Pin::new(&mut connection), pulse, options) => None,
            () = quiet(pulse) => {
                // hyper has nothing in hand then: the last answer was written, all of it.
                let parts = connection.into_parts();
                let mut stream = parts.io.into_inner();
                // Some of a next head may have come.
                stream.put_back(&parts.read_buf);
                Some(stream)
            }
        }
    }

    /// Serves HTTP/2 to the end.
    async fn http2<S: Stream>(&self, stream: Peeked<S>, pulse: &Pulse, options: &ServerOptions) {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_RESET_STREAMS)
            .max_send_buf_size(MAX_UNREAD_BYTES)
            .keep_alive_interval(options.header_timeout)
            .keep_alive_timeout(Duration::from_secs(10))
            .serve_connection(TokioIo::new(stream), self.service(pulse));
        self.until_end(pin!(connection), pulse, options).await;
    }

    /// Answers the requests of a connection.
    fn service(
        &self,
        pulse: &Pulse,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Answering>,
        Error = Infallible,
        Future: Send + 'static,
    > + Unpin
    + use<> {
        let (router, pulse) = (self.router.clone(), pulse.clone());
        let is_encrypted = self.tls.is_some();
        service_fn(move |mut request: Request<Incoming>| {
            let asked = pulse.asked();
            if is_encrypted {
                request.extensions_mut().insert(OverTls);
            }
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { answer.await.map(|response| response.map(|body| asked.answer(body))) }
        })
    }

    /// Runs a connection to its end, which may be brought about from here.
    async fn until_end<C>(
        &self,
        mut connection: Pin<&mut C>,
        pulse: &Pulse,
        options: &ServerOptions,
    ) where
        C: GracefulConnection,
        C::Error: Display,
    {
        let mut unread = pin!(unread(pulse, options));
        let server_ends = tokio::select! {
            ended = connection.as_mut() => return note(ended),
            () = &mut unread => return tracing::debug!("a connection was cut: nobody reads its response"),
            () = idle(pulse, options) => false,
            () = self.life.at_least(Stage::Finishing) => true,
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
            ended = connection => note(ended),
            () = unread => tracing::debug!("a connection was cut: nobody reads its response"),
            () = farewell => tracing::debug!("a connection was cut: it would not end"),
        }
    }
}

fn note<E: Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Returns when nothing was asked for too long. hyper's own timer knows only HTTP/1, and starts with the first byte.
async fn idle(pulse: &Pulse, options: &ServerOptions) {
    lasting(options.header_timeout, || pulse.idle()).await;
}

/// Returns when a response waited for its reader for too long, one that holds back HTTP/2's windows, say.
async fn unread(pulse: &Pulse, options: &ServerOptions) {
    lasting(options.write_timeout, || pulse.unread()).await;
}

/// Returns when nothing has happened for a while, from now on.
async fn quiet(pulse: &Pulse) {
    let since = Instant::now();
    lasting(DOZE, || pulse.quiet().unwrap_or_default().min(since.elapsed())).await;
}

/// Returns when what `so_far` tells the time of has lasted for `limit`.
async fn lasting(limit: Duration, so_far: impl Fn() -> Duration) {
    loop {
        let lasted = so_far();
        if lasted >= limit {
            return;
        }
        tokio::time::sleep(limit - lasted).await;
    }
}
