//! Completions that are being written while the user types on.
//!
//! Whoever types sends a request for each character, and what the model is writing is mostly what is typed. So a request first looks
//! for one that is under way for the same place with less text before the cursor: what it writes is followed, as long as it
//! agrees with what has been typed since, and the rest of it is the answer. Only where the two differ is anything computed
//! anew. Where it is whole already, the index of [`hapa_cache::TypedThrough`] does the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hapa_cache::{CacheKey, Digest};

use crate::request::{Request, Task};
use crate::stream::FlightWaiter;

/// The newest completion under way at each place, which is named by what does not change while somebody types.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashMap<Digest, Begun>>);

#[derive(Debug)]
struct Begun {
    request: Arc<Request>,
    flight: CacheKey,
}

/// A completion's entry, which goes with this.
#[derive(Debug)]
pub(crate) struct Entry {
    all: Arc<UnderWay>,
    place: Digest,
    flight: CacheKey,
}

impl UnderWay {
    /// Others may follow what this flight writes.
    pub(crate) fn enter(
        self: &Arc<Self>,
        place: Digest,
        request: &Arc<Request>,
        flight: CacheKey,
    ) -> Entry {
        let begun = Begun { request: Arc::clone(request), flight };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place, begun);
        Entry { all: Arc::clone(self), place, flight }
    }

    /// Whether nobody writes anything that could be followed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The flight under way at a place, and what has been typed since it began.
    pub(crate) fn find(&self, place: &Digest, request: &Request) -> Option<(CacheKey, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = all.get(place)?;
        let typed = before(request)?.strip_prefix(before(&begun.request)?)?;
        (!typed.is_empty()).then(|| (begun.flight, typed.to_owned()))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&self.place).is_some_and(|begun| begun.flight == self.flight) {
            all.remove(&self.place);
        }
    }
}

fn before(request: &Request) -> Option<&str> {
    match &request.task {
        Task::Complete { prefix, .. } => Some(prefix),
        _ => None,
    }
}

/// A completion under way that is followed, and what of it has been typed.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) waiter: FlightWaiter,
    typed: String,
    /// How much of what was typed has been written.
    agreed: usize,
}

/// What a further piece of text means to who follows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was typed already.
    Typed,
    /// This is new.
    Text(String),
    /// Something else was typed.
    Differs,
}

impl Followed {
    pub(crate) fn new(waiter: FlightWaiter, typed: String) -> Self {
        Self { waiter, typed, agreed: 0 }
    }

    pub(crate) fn push(&mut self, piece: &str) -> Step {
        let left = &self.typed[self.agreed..];
        if left.is_empty() {
            Step::Text(piece.to_owned())
        } else if let Some(rest) = piece.strip_prefix(left) {
            self.agreed = self.typed.len();
            if rest.is_empty() { Step::Typed } else { Step::Text(rest.to_owned()) }
        } else if left.starts_with(piece) {
            self.agreed += piece.len();
            Step::Typed
        } else {
            Step::Differs
        }
    }

    /// Bytes that were typed, if all of them have been written.
    pub(crate) fn typed_bytes(&self) -> Option<usize> {
        (self.agreed == self.typed.len()).then_some(self.typed.len())
    }
}

#[cfg(test)]
mod tests {
    use hapa_cache::Flights;

    use super::*;

    fn digest(name: &str) -> Digest {
        CacheKey::of(name.as_bytes())
    }

    fn asked(prefix: &str) -> Arc<Request> {
        Arc::new(Request::complete(prefix, ""))
    }

    #[test]
    fn the_newest_at_a_place_is_found_by_what_was_typed_since() {
        let all = Arc::new(UnderWay::default());
        let first = all.enter(digest("place"), &asked("def "), digest("1"));
        let found = |prefix: &str| all.find(&digest("place"), &asked(prefix));
        assert_eq!(found("def me"), Some((digest("1"), "me".to_owned())));
        assert_eq!((found("def "), found("class"), found("de")), (None, None, None));
        assert_eq!(all.find(&digest("other"), &asked("def me")), None);
        assert_eq!(all.find(&digest("place"), &Request::raw("def me")), None);
        let second = all.enter(digest("place"), &asked("def mea"), digest("2"));
        drop(first);
        assert_eq!(found("def mean"), Some((digest("2"), "n".to_owned())));
        drop(second);
        assert!(all.is_empty());
    }

    #[test]
    fn what_was_typed_is_left_out() {
        let follow = |typed: &str, pieces: &[&str]| {
            let waiter = Flights::default().join(digest("flight")).waiter;
            let mut followed = Followed::new(waiter, typed.to_owned());
            let mut text = String::new();
            for piece in pieces {
                match followed.push(piece) {
                    Step::Typed => {}
                    Step::Text(rest) => text.push_str(&rest),
                    Step::Differs => return None,
                }
            }
            followed.typed_bytes().map(|bytes| (text, bytes))
        };
        assert_eq!(follow("mean", &["me", "a", "n(va", "lues)"]), Some(("(values)".into(), 4)));
        assert_eq!(follow("mean", &["mean", "("]), Some(("(".into(), 4)));
        assert_eq!(follow("mean", &["mea"]), None, "not written yet");
        assert_eq!(follow("mean", &["med", "ian"]), None);
        assert_eq!(follow("mean", &["me", "dian"]), None);
        assert_eq!(follow("\u{e9}", &["\u{e8}"]), None, "alike in the first byte alone");
    }
}
