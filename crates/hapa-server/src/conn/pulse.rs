//! What a connection is doing: whether requests run on it, and whether their responses are read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Most bytes that are handed out at once.
const MAX_PIECE_BYTES: usize = 16 << 10;

/// Clones watch the same connection.
#[derive(Clone)]
pub(crate) struct Pulse(Arc<Mutex<State>>);

struct State {
    running: usize,
    /// When the last request ended, or the connection began.
    quiet_since: Instant,
    /// Of responses that gave something to be sent and were not asked for more since: when that was.
    unread: Vec<(u64, Instant)>,
    next: u64,
    /// Whether the peer has yet to take what is written.
    write_waits: bool,
}

impl Default for Pulse {
    fn default() -> Self {
        let state = State {
            running: 0,
            quiet_since: Instant::now(),
            unread: Vec::new(),
            next: 0,
            write_waits: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Pulse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came; it runs until what is returned, or the response made of it, is dropped.
    pub(crate) fn asked(&self) -> Asked {
        let mut state = self.lock();
        state.running += 1;
        state.next += 1;
        Asked { pulse: self.clone(), number: state.next }
    }

    /// For how long no request has run.
    pub(crate) fn idle(&self) -> Duration {
        let state = self.lock();
        if state.running > 0 { Duration::ZERO } else { state.quiet_since.elapsed() }
    }

    /// Notes whether the peer has yet to take what is written.
    pub(crate) fn write_waits(&self, waits: bool) {
        self.lock().write_waits = waits;
    }

    /// For how long no request has run; `None` while one runs, or some of an answer is yet to be written.
    pub(crate) fn quiet(&self) -> Option<Duration> {
        let state = self.lock();
        (state.running == 0 && !state.write_waits).then(|| state.quiet_since.elapsed())
    }

    /// For how long the longest waiting response has waited for its reader.
    pub(crate) fn unread(&self) -> Duration {
        let state = self.lock();
        state.unread.iter().map(|(_, since)| since.elapsed()).max().unwrap_or_default()
    }
}

/// A request that runs.
pub(crate) struct Asked {
    pulse: Pulse,
    number: u64,
}

impl Asked {
    /// The body of its response.
    pub(crate) fn answer(self, body: Body) -> Answering {
        Answering { body, rest: Bytes::new(), asked: self, waits: false }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.pulse.lock();
        state.running -= 1;
        state.quiet_since = Instant::now();
        state.unread.retain(|(number, _)| *number != self.number);
    }
}

/// A response on its way.
pub(crate) struct Answering {
    body: Body,
    /// What is left of a large frame: it goes out in pieces, so that what the reader has room for is known.
    rest: Bytes,
    asked: Asked,
    /// Whether it is among the unread.
    waits: bool,
}

impl Answering {
    fn note(&mut self, waits: bool) {
        if !waits && !self.waits {
            return;
        }
        let mut state = self.asked.pulse.lock();
        state.unread.retain(|(number, _)| *number != self.asked.number);
        if waits {
            state.unread.push((self.asked.number, Instant::now()));
        }
        self.waits = waits;
    }
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = match self.rest.is_empty() {
            true => Pin::new(&mut self.body).poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest))))),
        };
        let frame = frame.map(|frame| match frame?.map(Frame::into_data) {
            Ok(Ok(mut data)) => {
                self.rest = data.split_off(data.len().min(MAX_PIECE_BYTES));
                Some(Ok(Frame::data(data)))
            }
            Ok(Err(other)) => Some(Ok(other)),
            Err(error) => Some(Err(error)),
        });
        // Whoever asks has room for more; what is handed out now has yet to be read.
        self.note(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::body::Body as _;

    #[tokio::test]
    async fn a_connection_is_idle_between_requests_and_unread_between_frames() {
        let pulse = Pulse::default();
        std::thread::sleep(Duration::from_millis(2));
        assert!(pulse.idle() >= Duration::from_millis(2));
        let mut body = pulse.asked().answer(Body::from("x"));
        assert_eq!((pulse.idle(), pulse.unread()), (Duration::ZERO, Duration::ZERO));
        body.frame().await.unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert!(pulse.unread() >= Duration::from_millis(2));
        assert!(body.frame().await.is_none());
        assert_eq!(pulse.unread(), Duration::ZERO);
        let mut large = pulse.asked().answer(Body::from(vec![7; 40_000]));
        let mut sizes = Vec::new();
        while let Some(frame) = large.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(
                large.size_hint().exact(),
                Some(40_000 - sizes.iter().sum::<usize>() as u64)
            );
        }
        assert_eq!(sizes, [16_384, 16_384, 7_232]);
        drop(large);
        let other = pulse.asked();
        drop(body);
        assert_eq!(pulse.idle(), Duration::ZERO, "another one runs");
        drop(other);
        assert!(pulse.lock().running == 0 && pulse.lock().unread.is_empty());
    }
}
