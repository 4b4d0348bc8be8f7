//! A request and its answer, with the time of everything that is seen of it.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;

use super::outcome::{CacheOutcome, Class, Trouble, excerpt};
use super::pool::{Pool, with_causes};
use super::sse::Events;
use crate::target::{Api, Chunk, Target, read_chunk, read_whole};

/// Longest body that is taken whole.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The figures of one request. It is used again for the next, so that the buffers are too.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// When it was meant to be sent; latency counts from here.
    pub(crate) intended: Instant,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When the first and the last piece of text came.
    pub(crate) first: Option<Instant>,
    pub(crate) last: Option<Instant>,
    /// When all of it had come, or it had failed.
    pub(crate) end: Instant,
    /// Nanoseconds between each piece of text and the one before it.
    pub(crate) gaps: Vec<u64>,
    /// Pieces of text.
    pub(crate) pieces: u64,
    /// Tokens of the prompt and the answer by the server's count.
    pub(crate) usage: Option<(u64, u64)>,
    /// When the first token was there by the server's receipt, from when its engine was asked.
    pub(crate) engine_first: Option<Duration>,
    /// What the server's cache did.
    pub(crate) cache: CacheOutcome,
    /// The answer, when somebody wants it.
    pub(crate) text: Option<String>,
    ended: bool,
    body: Vec<u8>,
    events: Events,
}

impl Exchange {
    pub(crate) fn new(keep_text: bool) -> Self {
        let now = Instant::now();
        Self {
            intended: now,
            sent: now,
            first: None,
            last: None,
            end: now,
            gaps: Vec::new(),
            pieces: 0,
            usage: None,
            engine_first: None,
            cache: CacheOutcome::None,
            text: keep_text.then(String::new),
            ended: false,
            body: Vec::new(),
            events: Events::default(),
        }
    }

    fn reset(&mut self, intended: Instant) {
        self.intended = intended;
        (self.first, self.last) = (None, None);
        (self.usage, self.engine_first) = (None, None);
        self.gaps.clear();
        self.pieces = 0;
        self.cache = CacheOutcome::None;
        if let Some(text) = &mut self.text {
            text.clear();
        }
        self.ended = false;
        self.body.clear();
        self.events.clear();
        self.sent = Instant::now();
        self.end = self.sent;
    }

    /// Asks, and reads the answer to its end, or to the time limit counted from when it was sent.
    pub(crate) async fn run(
        &mut self,
        pool: &Pool,
        target: &Target,
        request: (Instant, Bytes),
        timeout: Duration,
    ) -> Result<(), Box<Trouble>> {
        let (intended, body) = request;
        self.reset(intended);
        let within = within(timeout, self.ask(pool, target, body)).await;
        self.end = Instant::now();
        match within {
            Some(result) => result,
            None => {
                let example = format!("no end after {} s", timeout.as_secs_f64());
                let (class, reason) = match self.pieces {
                    0 => (Class::Error, "timeout"),
                    _ => (Class::Incomplete, "timeout midway"),
                };
                Err(Trouble::new(class, reason, example))
            }
        }
    }

    async fn ask(&mut self, pool: &Pool, target: &Target, body: Bytes) -> Result<(), Box<Trouble>> {
        let (sender, response) = pool.send(target, body).await?;
        let header = response.headers().get("x-hapa-cache");
        self.cache = CacheOutcome::of(header.map(|value| value.as_bytes()));
        let status = response.status();
        let streams = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let result = if !status.is_success() {
            self.read(response).await?;
            Err(Trouble::status(status.as_u16(), &self.body))
        } else if target.api == Api::Plain {
            self.drain(response).await
        } else if streams {
            self.stream(response).await
        } else {
            self.read(response).await?;
            self.whole()
        };
        // A connection is of further use only when its last body was read to the end.
        let read_out = match &result {
            Ok(()) => true,
            Err(trouble) => !streams && trouble.class != Class::Incomplete,
        };
        if read_out {
            pool.give(sender);
        }
        result
    }

    /// Reads a body into memory.
    async fn read(&mut self, mut response: Response<Incoming>) -> Result<(), Box<Trouble>> {
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| midway(&error))?;
            if let Some(data) = frame.data_ref() {
                if self.body.len() + data.len() > MAX_BODY_BYTES {
                    let example = format!("more than {MAX_BODY_BYTES} bytes");
                    return Err(Trouble::new(Class::Error, "not an answer", example));
                }
                self.body.extend_from_slice(data);
            }
        }
        Ok(())
    }

    /// Reads a body that nobody looks at.
    async fn drain(&mut self, mut response: Response<Incoming>) -> Result<(), Box<Trouble>> {
        while let Some(frame) = response.body_mut().frame().await {
            frame.map_err(|error| midway(&error))?;
        }
        Ok(())
    }

    /// Reads a whole answer out of the body.
    fn whole(&mut self) -> Result<(), Box<Trouble>> {
        let body = std::mem::take(&mut self.body);
        let result = match read_whole(&body) {
            Some(chunk) => self.take(chunk, None),
            None => Err(Trouble::new(Class::Error, "not an answer", excerpt(&body))),
        };
        self.body = body;
        result
    }

    async fn stream(&mut self, mut response: Response<Incoming>) -> Result<(), Box<Trouble>> {
        let mut events = std::mem::take(&mut self.events);
        let result = self.follow(&mut response, &mut events).await;
        let half = events.is_half();
        self.events = events;
        result?;
        if self.ended {
            Ok(())
        } else if half {
            let example = format!("after {} pieces of text", self.pieces);
            Err(Trouble::new(Class::Incomplete, "half an event", example))
        } else {
            let example = format!("the stream ended after {} pieces of text", self.pieces);
            Err(Trouble::new(Class::Incomplete, "no end of the answer", example))
        }
    }

    async fn follow(
        &mut self,
        response: &mut Response<Incoming>,
        events: &mut Events,
    ) -> Result<(), Box<Trouble>> {
        while let Some(frame) = response.body_mut().frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // Nothing is missing when the end had been told.
                Err(_) if self.ended => return Ok(()),
                Err(error) => return Err(midway(&error)),
            };
            let now = Instant::now();
            let Some(data) = frame.data_ref() else { continue };
            let mut result = Ok(());
            let fed = events.feed(data, |data| {
                if result.is_ok() {
                    result = match read_chunk(data) {
                        Some(chunk) => self.take(chunk, Some(now)),
                        None => {
                            Err(Trouble::new(Class::Error, "event not understood", excerpt(data)))
                        }
                    };
                }
            });
            result?;
            if fed.is_err() {
                let example = "a line without end";
                return Err(Trouble::new(Class::Error, "event not understood", example));
            }
        }
        Ok(())
    }

    /// Notes what a piece says. `at` is when it came, for pieces that came one by one.
    fn take(&mut self, chunk: Chunk<'_>, at: Option<Instant>) -> Result<(), Box<Trouble>> {
        if let Some(error) = chunk.error {
            return Err(Trouble::new(Class::Error, "error told in the answer", error));
        }
        if !chunk.text.is_empty() {
            self.pieces += 1;
            if let Some(now) = at {
                match self.last {
                    Some(last) => self.gaps.push(nanoseconds(now - last)),
                    None => self.first = Some(now),
                }
                self.last = Some(now);
            }
            if let Some(text) = &mut self.text {
                text.push_str(&chunk.text);
            }
        }
        self.usage = chunk.usage.or(self.usage);
        self.engine_first = chunk.engine_first.or(self.engine_first);
        self.ended |= chunk.end;
        Ok(())
    }
}

/// The result of a future, or nothing when it takes longer.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn midway(error: &hyper::Error) -> Box<Trouble> {
    Trouble::new(Class::Incomplete, "closed midway", with_causes(error))
}
