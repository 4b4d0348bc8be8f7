//! Who is told of a lazy value's life, and why one ends.

/// Why a value was unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody had used it for a while.
    Idle,
    /// Others needed its room.
    Room,
    /// Somebody asked for it.
    Asked,
}

impl Cause {
    /// The name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Room => "room",
            Self::Asked => "asked",
        }
    }
}

/// How often a value was unloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unloads {
    /// Because nobody had used it for a while.
    pub idle: u64,
    /// Because others needed its room.
    pub room: u64,
    /// Because somebody asked for it.
    pub asked: u64,
}

impl Unloads {
    pub(super) fn count(&mut self, cause: Cause) {
        *match cause {
            Cause::Idle => &mut self.idle,
            Cause::Room => &mut self.room,
            Cause::Asked => &mut self.asked,
        } += 1;
    }
}

/// Who is told of a lazy value's life. All but [`dropped`](Self::dropped) are called under the value's lock, so they return at
/// once and ask the value nothing.
pub(super) trait Keeper: Send + Sync + 'static {
    /// The value came to be used, or nobody uses it any more, or nobody waits for its load any more.
    fn changed(&self) {}

    /// It has another state.
    fn shown(&self, _state: &'static str) {}

    /// It was unloaded.
    fn unloaded(&self, _cause: Cause) {}

    /// A value, or what an abandoned load held, was dropped.
    fn dropped(&self) {}

    /// Bytes that the value holds.
    fn held_bytes(&self) -> u64 {
        0
    }
}

/// Nobody.
impl Keeper for () {}
