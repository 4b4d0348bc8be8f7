//! Connections that wait to be used again.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::outcome::{Class, Trouble};
use crate::target::Target;

/// The reason of requests that found nobody listening.
pub(crate) const CONNECT: &str = "connect";

type Sender = SendRequest<Full<Bytes>>;

/// Idle connections of one worker to one target, the most recently used on top.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Sender>>,
    opened: Cell<u64>,
}

impl Pool {
    /// Sends a request on an idle connection, or on a new one.
    ///
    /// A server may close an idle connection without a word, and some do after every stream: a request that finds its
    /// connection dead before a byte of an answer goes out again, once, on a new connection, as every HTTP client does
    /// it. A server that is gone is found out then.
    pub(super) async fn send(
        &self,
        target: &Target,
        body: Bytes,
    ) -> Result<(Sender, Response<Incoming>), Box<Trouble>> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request(target, body.clone())).await {
                Ok(response) => return Ok((sender, response)),
                Err(error) => {
                    let error = error.into_error();
                    if !(error.is_incomplete_message() || error.is_closed() || is_io(&error)) {
                        return Err(sending(&error));
                    }
                    break;
                }
            }
        }
        let mut sender = self.open(target).await?;
        if sender.ready().await.is_err() {
            return Err(closed("the server closed the connection at once"));
        }
        let response = sender.send_request(request(target, body)).await;
        response.map(|response| (sender, response)).map_err(|error| sending(&error))
    }

    /// Takes a connection back whose last answer was read to its end.
    pub(super) fn give(&self, sender: Sender) {
        if !sender.is_closed() {
            self.idle.borrow_mut().push(sender);
        }
    }

    /// Connections that were opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.get()
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let sender = idle.pop()?;
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    async fn open(&self, target: &Target) -> Result<Sender, Box<Trouble>> {
        let connect =
            |error: std::io::Error| Trouble::new(Class::Error, CONNECT, error.to_string());
        let stream = TcpStream::connect(target.addresses.as_slice()).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| sending(&error))?;
        // What ends the connection is told to the request that is under way.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        self.opened.set(self.opened.get() + 1);
        Ok(sender)
    }
}

fn request(target: &Target, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = target.method();
    *request.uri_mut() = target.path.clone();
    *request.headers_mut() = target.headers.clone();
    request
}

/// Whether the connection itself failed, as one that was reset.
fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

fn closed(example: impl Into<String>) -> Box<Trouble> {
    Trouble::new(Class::Error, "closed before an answer", example)
}

/// An error and what caused it, on one line.
pub(super) fn with_causes(error: &hyper::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What hyper says about a request that got no response.
fn sending(error: &hyper::Error) -> Box<Trouble> {
    let text = with_causes(error);
    if error.is_parse() || error.is_parse_status() {
        Trouble::new(Class::Error, "not HTTP", text)
    } else {
        closed(text)
    }
}
