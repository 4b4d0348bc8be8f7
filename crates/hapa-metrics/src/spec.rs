//! What one metric is: its name, kind, unit, help, labels and buckets, and its typed handle.

use std::marker::PhantomData;

use metrics::{Key, Label, Level, Metadata};

use crate::labels::Labels;

/// The kind of a metric, as Prometheus names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Only rises, until the process restarts.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations by bucket, with their sum.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The unit of a metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Tokens of the model's vocabulary.
    Tokens,
    /// Requests.
    Requests,
    /// 0 to 100.
    Percent,
    /// 0 to 1.
    Ratio,
    /// Whatever the name counts (files, threads, entries).
    Count,
}

impl Unit {
    /// The unit in words, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
            Self::Percent => "percent",
            Self::Ratio => "ratio",
            Self::Count => "count",
        }
    }

    const fn facade(self) -> metrics::Unit {
        match self {
            Self::Seconds => metrics::Unit::Seconds,
            Self::Bytes => metrics::Unit::Bytes,
            Self::Percent => metrics::Unit::Percent,
            Self::Tokens | Self::Requests | Self::Ratio | Self::Count => metrics::Unit::Count,
        }
    }
}

/// Which values a label can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Exactly these.
    OneOf(&'static [&'static str]),
    /// Not listed here, but bounded; the text says by what.
    Bounded(&'static str),
}

/// One label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelSpec {
    /// The label's name.
    pub key: &'static str,
    /// The values that it takes.
    pub values: Values,
}

/// Everything that is known of one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricSpec {
    /// The name on the wire.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: Unit,
    /// One sentence for an operator.
    pub help: &'static str,
    /// Its labels, in the order in which they are written.
    pub labels: &'static [LabelSpec],
    /// Upper bounds of its buckets; empty unless it is a histogram.
    pub buckets: &'static [f64],
}

impl MetricSpec {
    /// Describes the metric to the recorder in force (the local one, else the global one).
    pub fn describe(&self) {
        metrics::with_recorder(|recorder| {
            let (name, unit, help) = (self.name.into(), Some(self.unit.facade()), self.help.into());
            match self.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
        });
    }
}

static METADATA: Metadata<'static> =
    Metadata::new("hapa_metrics", Level::INFO, Some(module_path!()));

fn key(spec: &MetricSpec, labels: Vec<Label>) -> Key {
    if labels.is_empty() {
        Key::from_static_name(spec.name)
    } else {
        Key::from_parts(spec.name, labels)
    }
}

macro_rules! typed_metric {
    ($(#[$doc:meta])* $name:ident, $register:ident) => {
        $(#[$doc])*
        ///
        /// `L` is the tuple of its labels; `()` for none.
        #[derive(Debug, Clone, Copy)]
        pub struct $name<L = ()> {
            spec: MetricSpec,
            labels: PhantomData<fn(L)>,
        }

        impl<L: Labels> $name<L> {
            /// What is known of this metric.
            pub const fn spec(&self) -> &MetricSpec {
                &self.spec
            }

            /// Its name on the wire.
            pub const fn name(&self) -> &'static str {
                self.spec.name
            }

            /// The handle for one combination of label values. Keep it where it is used often:
            /// recording through a kept handle is one atomic operation, finding it is a lookup.
            pub fn with(&self, labels: L) -> metrics::$name {
                let key = key(&self.spec, labels.labels());
                metrics::with_recorder(|recorder| recorder.$register(&key, &METADATA))
            }
        }

        impl $name<()> {
            /// The handle of a metric without labels.
            pub fn handle(&self) -> metrics::$name {
                self.with(())
            }
        }
    };
}

typed_metric!(
    /// A counter of the table.
    Counter, register_counter
);
typed_metric!(
    /// A gauge of the table.
    Gauge, register_gauge
);
typed_metric!(
    /// A histogram of the table.
    Histogram, register_histogram
);

impl<L: Labels> Counter<L> {
    pub(crate) const fn new(name: &'static str, unit: Unit, help: &'static str) -> Self {
        let spec =
            MetricSpec { name, kind: Kind::Counter, unit, help, labels: L::SPECS, buckets: &[] };
        Self { spec, labels: PhantomData }
    }
}

impl<L: Labels> Gauge<L> {
    pub(crate) const fn new(name: &'static str, unit: Unit, help: &'static str) -> Self {
        let spec =
            MetricSpec { name, kind: Kind::Gauge, unit, help, labels: L::SPECS, buckets: &[] };
        Self { spec, labels: PhantomData }
    }
}

impl<L: Labels> Histogram<L> {
    pub(crate) const fn new(
        name: &'static str,
        unit: Unit,
        buckets: &'static [f64],
        help: &'static str,
    ) -> Self {
        let spec =
            MetricSpec { name, kind: Kind::Histogram, unit, help, labels: L::SPECS, buckets };
        Self { spec, labels: PhantomData }
    }
}
