//! Labels as types, so that the number of time series is bounded by construction.

use metrics::{Label, SharedString};
use parking_lot::RwLock;

use crate::spec::{LabelSpec, Values};

/// A value of one label.
pub trait LabelValue {
    /// The label's name and its possible values.
    const SPEC: LabelSpec;
    /// The value on the wire.
    fn value(&self) -> SharedString;
}

/// The labels of one metric: `()`, one [`LabelValue`], or a tuple of them.
pub trait Labels {
    /// Names and values, in order.
    const SPECS: &'static [LabelSpec];
    /// The labels of one series.
    fn labels(&self) -> Vec<Label>;
}

impl Labels for () {
    const SPECS: &'static [LabelSpec] = &[];
    fn labels(&self) -> Vec<Label> {
        Vec::new()
    }
}

impl<A: LabelValue> Labels for A {
    const SPECS: &'static [LabelSpec] = &[A::SPEC];
    fn labels(&self) -> Vec<Label> {
        vec![Label::new(A::SPEC.key, self.value())]
    }
}

macro_rules! tuple_labels {
    ($($part:ident . $index:tt),+) => {
        impl<$($part: LabelValue),+> Labels for ($($part,)+) {
            const SPECS: &'static [LabelSpec] = &[$($part::SPEC),+];
            fn labels(&self) -> Vec<Label> {
                vec![$(Label::new($part::SPEC.key, self.$index.value())),+]
            }
        }
    };
}
tuple_labels!(A.0, B.1);
tuple_labels!(A.0, B.1, C.2);
tuple_labels!(A.0, B.1, C.2, D.3);

macro_rules! label_enum {
    ($(#[$doc:meta])* $name:ident, $key:literal { $($(#[$vdoc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value),+ }
            }
        }

        impl LabelValue for $name {
            const SPEC: LabelSpec =
                LabelSpec { key: $key, values: Values::OneOf(&[$($value),+]) };
            fn value(&self) -> SharedString {
                SharedString::const_str(self.as_str())
            }
        }
    };
}

label_enum! {
    /// The HTTP method.
    Method, "method" {
        /// GET.
        Get = "GET",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// HEAD.
        Head = "HEAD",
        /// OPTIONS.
        Options = "OPTIONS",
        /// PATCH.
        Patch = "PATCH",
        /// Anything else that a client may write.
        Other = "other",
    }
}

impl Method {
    /// The method of that name.
    pub fn of(name: &str) -> Self {
        Self::ALL.iter().copied().find(|method| method.as_str() == name).unwrap_or(Self::Other)
    }
}

label_enum! {
    /// What the engine was asked to do.
    Task, "task" {
        /// A question answered with code.
        Generate = "generate",
        /// The text around an editor's cursor.
        Complete = "complete",
        /// A list of chat messages.
        Chat = "chat",
        /// A prompt as it is.
        Raw = "raw",
    }
}

label_enum! {
    /// A tier of the response cache.
    Tier, "tier" {
        /// In memory.
        L1 = "l1",
        /// On disk or in Redis.
        L2 = "l2",
    }
}

label_enum! {
    /// Why a request was turned away before any work was done for it.
    Rejection, "reason" {
        /// The queue is full.
        Overloaded = "overloaded",
        /// It would have waited longer for its first token than it may.
        TooSlow = "too_slow",
        /// The caller is over its rate.
        RateLimited = "rate_limited",
        /// The model is not ready.
        ModelLoading = "model_loading",
        /// No key or a wrong one.
        Unauthorized = "unauthorized",
        /// The key lacks the scope.
        Forbidden = "forbidden",
        /// The body is larger than allowed.
        PayloadTooLarge = "payload_too_large",
        /// A field is out of its limits.
        Validation = "validation",
        /// The deadline passed before the answer was whole.
        Deadline = "deadline",
        /// The server is shutting down.
        ShuttingDown = "shutting_down",
    }
}

label_enum! {
    /// Where the model is in its life.
    ModelState, "state" {
        /// Nothing is loaded.
        Unloaded = "unloaded",
        /// It is being fetched, verified or mapped.
        Loading = "loading",
        /// It serves.
        Ready = "ready",
        /// The last load failed.
        Failed = "failed",
    }
}

label_enum! {
    /// Why a model was unloaded.
    UnloadCause, "cause" {
        /// Nobody had used it for a while.
        Idle = "idle",
        /// Another one needed its room.
        Room = "room",
        /// Somebody asked for it.
        Asked = "asked",
    }
}

/// A model, by its name without folders.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Model(SharedString);

impl Model {
    /// A model by name.
    pub fn new(name: impl Into<SharedString>) -> Self {
        Self(name.into())
    }
}

impl LabelValue for Model {
    const SPEC: LabelSpec =
        LabelSpec { key: "model", values: Values::Bounded("models that the settings name") };
    fn value(&self) -> SharedString {
        self.0.clone()
    }
}

/// How many distinct [`Endpoint`]s a process keeps; later ones are `other`.
pub const MAX_ENDPOINTS: usize = 64;

static ENDPOINTS: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

/// A route pattern (`/api/v1/traces/{request_id}`), never a raw path.
///
/// The first [`MAX_ENDPOINTS`] patterns of a process are kept, later ones become `other`, so that
/// a mistake (a raw path) costs accuracy and not memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint(&'static str);

impl Endpoint {
    /// Requests that matched no route.
    pub const UNMATCHED: Self = Self("unmatched");
    /// More patterns than a process keeps.
    pub const OTHER: Self = Self("other");

    /// The endpoint of a route pattern.
    pub fn of(pattern: &str) -> Self {
        if let Some(known) = ENDPOINTS.read().iter().find(|known| **known == pattern) {
            return Self(known);
        }
        let mut endpoints = ENDPOINTS.write();
        if let Some(known) = endpoints.iter().find(|known| **known == pattern) {
            return Self(known);
        }
        if endpoints.len() >= MAX_ENDPOINTS {
            return Self::OTHER;
        }
        // Leaked on purpose: at most MAX_ENDPOINTS short strings live as long as the process.
        let kept: &'static str = Box::leak(pattern.to_owned().into_boxed_str());
        endpoints.push(kept);
        Self(kept)
    }

    /// The pattern.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl LabelValue for Endpoint {
    const SPEC: LabelSpec = LabelSpec {
        key: "endpoint",
        values: Values::Bounded("route patterns of the server, `unmatched`, `other`"),
    };
    fn value(&self) -> SharedString {
        SharedString::const_str(self.0)
    }
}

/// The HTTP status code of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

impl LabelValue for Status {
    const SPEC: LabelSpec = LabelSpec {
        key: "status",
        values: Values::Bounded("HTTP status codes (100 to 599), `other`"),
    };
    fn value(&self) -> SharedString {
        // The codes that HAPA answers with cost no allocation.
        let known = match self.0 {
            200 => "200",
            204 => "204",
            304 => "304",
            400 => "400",
            401 => "401",
            403 => "403",
            404 => "404",
            405 => "405",
            408 => "408",
            413 => "413",
            415 => "415",
            422 => "422",
            429 => "429",
            499 => "499",
            500 => "500",
            503 => "503",
            504 => "504",
            code @ 100..=599 => return SharedString::from_owned(code.to_string()),
            _ => "other",
        };
        SharedString::const_str(known)
    }
}

/// The name of a profiler scope. The profiler bounds how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(SharedString);

impl Scope {
    /// A scope by name.
    pub fn new(name: impl Into<SharedString>) -> Self {
        Self(name.into())
    }
}

impl LabelValue for Scope {
    const SPEC: LabelSpec = LabelSpec {
        key: "scope",
        values: Values::Bounded(
            "profiler scopes; the profiler keeps a bounded number, then `(other)`",
        ),
    };
    fn value(&self) -> SharedString {
        self.0.clone()
    }
}

/// A fact of the build, fixed when the program was compiled.
macro_rules! build_label {
    ($(#[$doc:meta])* $name:ident, $key:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub &'static str);
        impl LabelValue for $name {
            const SPEC: LabelSpec =
                LabelSpec { key: $key, values: Values::Bounded("one value a build") };
            fn value(&self) -> SharedString {
                SharedString::const_str(self.0)
            }
        }
    };
}
build_label!(
    /// The version of HAPA.
    Version, "version"
);
build_label!(
    /// The target architecture.
    Arch, "arch"
);
build_label!(
    /// The operating system.
    Os, "os"
);
build_label!(
    /// `release` or `debug`.
    Profile, "profile"
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn raw_paths_cannot_make_endpoints_without_end() {
        let distinct: BTreeSet<_> =
            (0..10 * MAX_ENDPOINTS).map(|n| Endpoint::of(&format!("/raw/{n}")).as_str()).collect();
        assert_eq!(distinct.len(), MAX_ENDPOINTS + 1);
        assert!(distinct.contains("other"));
        assert_eq!(Endpoint::of("/raw/0").as_str(), "/raw/0");
    }

    #[test]
    fn statuses_and_methods_have_a_value_whatever_comes() {
        let values: BTreeSet<_> =
            (0..=u16::MAX).map(|code| Status(code).value().to_string()).collect();
        assert_eq!(values.len(), 501);
        assert_eq!(Method::of("POST"), Method::Post);
        assert_eq!(Method::of("BREW"), Method::Other);
    }
}
