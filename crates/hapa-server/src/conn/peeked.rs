//! A stream whose first bytes tell what is spoken on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What HTTP/2 begins with (RFC 9113, section 3.4), and no request of HTTP/1.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Gives the bytes that were looked at before those that follow them.
pub(crate) struct Peeked<S> {
    seen: Vec<u8>,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peeked<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { seen: Vec::new(), stream }
    }

    /// Takes back what was read last.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        self.seen.splice(..0, bytes.iter().copied());
    }

    /// Waits for as many bytes as it takes to tell; `None` at an end before the first.
    pub(crate) async fn protocol(&mut self) -> io::Result<Option<Protocol>> {
        loop {
            let known = self.seen.len().min(PREFACE.len());
            if self.seen[..known] != PREFACE[..known] {
                return Ok(Some(Protocol::Http1));
            }
            if known == PREFACE.len() {
                return Ok(Some(Protocol::Http2));
            }
            let mut next = [0; PREFACE.len()];
            match self.stream.read(&mut next[known..]).await? {
                0 => return Ok((known > 0).then_some(Protocol::Http1)),
                count => self.seen.extend_from_slice(&next[known..known + count]),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peeked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.seen.len().min(buffer.remaining());
        buffer.put_slice(&self.seen[..count]);
        self.seen.drain(..count);
        if self.seen.is_empty() {
            self.seen = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Peeked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// What is told of a stream that comes in these pieces and ends; and what is read from it then.
    async fn told(pieces: &[&[u8]]) -> (Option<Protocol>, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Peeked::new(near);
        let (protocol, ()) = tokio::join!(near.protocol(), async {
            for piece in pieces {
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(far);
        });
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        (protocol.unwrap(), all)
    }

    #[tokio::test]
    async fn a_protocol_is_told_by_its_first_bytes_and_none_is_lost() {
        use Protocol::{Http1, Http2};
        let cases: [(&[&[u8]], Option<Protocol>); 7] = [
            (&[], None),
            (&[b"G"], Some(Http1)),
            (&[b"P"], Some(Http1)),
            (&[b"P", b"OST / HTTP/1.1\r\n"], Some(Http1)),
            (&[b"PRI * HTTP/2.0\r\n", b"\r\nSN"], Some(Http1)),
            (&[PREFACE], Some(Http2)),
            (&[&PREFACE[..1], &PREFACE[1..23], &PREFACE[23..], b"frames"], Some(Http2)),
        ];
        for (pieces, expected) in cases {
            assert_eq!(told(pieces).await, (expected, pieces.concat()), "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn what_is_put_back_comes_again() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Peeked::new(near);
        far.write_all(b"GET / HTTP/1.1").await.unwrap();
        assert_eq!(near.protocol().await.unwrap(), Some(Protocol::Http1));
        let mut first = [0; 6];
        near.read_exact(&mut first).await.unwrap();
        near.put_back(&first);
        assert_eq!(near.protocol().await.unwrap(), Some(Protocol::Http1));
        drop(far);
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1");
    }
}
