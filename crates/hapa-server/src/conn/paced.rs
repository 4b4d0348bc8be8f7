//! A stream whose peer must take what is written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::Pulse;

/// Fails a write that makes no progress for `limit`. A peer that takes some, however little, is let go on: what it may
/// hold up is bounded elsewhere.
pub(crate) struct Paced<S> {
    stream: S,
    limit: Duration,
    /// Is told whether a write waits.
    pulse: Pulse,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, limit: Duration, pulse: Pulse) -> Self {
        Self { stream, limit, pulse, waiting: None }
    }

    /// Passes the outcome of a write on, unless it waits too long.
    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.waiting.take().is_some() {
                self.pulse.write_waits(false);
            }
            return outcome;
        }
        let (limit, pulse) = (self.limit, &self.pulse);
        let timer = self.waiting.get_or_insert_with(|| {
            pulse.write_waits(true);
            Box::pin(tokio::time::sleep(limit))
        });
        timer.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it is sent"))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(4);
        let pulse = Pulse::default();
        let mut near = Paced::new(near, Duration::from_secs(10), pulse.clone());
        near.write_all(b"full").await.unwrap();
        assert!(pulse.quiet().is_some());
        let reading = tokio::spawn(async move {
            let mut taken = [0; 4];
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                far.read_exact(&mut taken).await.unwrap();
            }
            far
        });
        for _ in 0..5 {
            near.write_all(b"slow").await.unwrap();
        }
        let _far = reading.await.unwrap();
        assert!(pulse.quiet().is_some(), "all was taken");
        let error = near.write_all(b"lost").await.unwrap_err();
        assert_eq!(pulse.quiet(), None, "a write still waits");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
