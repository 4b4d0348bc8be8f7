//! The recorder: finds or makes the cell of a key, within limits.
//!
//! Two structures hold the same cells. Lookups go through hash shards under a read lock, by the
//! hash that the facade computed already. New keys, seldom, go through the ordered families, which
//! hold the label text ready for the exposition: rendering copies strings and reads atomics.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Key, KeyName, Label, Metadata, Recorder, SharedString};
use parking_lot::RwLock;

use crate::{
    buckets,
    cells::{Cell, CounterCell, GaugeCell, HistogramCell, HistogramView},
    labels::Labels,
    names,
    spec::{Counter, Gauge, Kind, MetricSpec, Unit},
};

const SHARDS: usize = 16;

/// The facade's keys bring a hash of their own.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Shard = RwLock<HashMap<u64, Vec<(Key, Cell)>, BuildHasherDefault<Identity>>>;

/// All series of one name.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) kind: Kind,
    pub(crate) help: SharedString,
    pub(crate) unit: Option<Unit>,
    /// By label text as it is written: `tier="l1"`.
    pub(crate) series: BTreeMap<Box<str>, Cell>,
}

/// How much a recorder holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) series_per_name: usize,
    pub(crate) series: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Families {
    pub(crate) by_name: BTreeMap<Box<str>, Family>,
    /// Descriptions of names that the table does not know.
    described: BTreeMap<Box<str>, SharedString>,
    series: usize,
}

#[derive(Debug)]
pub(crate) struct Registry {
    shards: [Shard; SHARDS],
    families: RwLock<Families>,
    limits: Limits,
    overflow: AtomicU64,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            shards: Default::default(),
            families: RwLock::default(),
            limits,
            overflow: AtomicU64::new(0),
        }
    }

    pub(crate) fn families(&self) -> parking_lot::RwLockReadGuard<'_, Families> {
        self.families.read()
    }

    pub(crate) fn series(&self) -> usize {
        self.families.read().series
    }

    pub(crate) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    /// Sum of a counter's series whose label text `keep` accepts.
    pub(crate) fn counter_sum(&self, name: &str, keep: impl Fn(&str) -> bool) -> u64 {
        let families = self.families.read();
        let Some(family) = families.by_name.get(name) else { return 0 };
        let kept = family.series.iter().filter(|(labels, _)| keep(labels));
        kept.map(|(_, cell)| if let Cell::Counter(counter) = cell { counter.get() } else { 0 })
            .sum()
    }

    fn cell(&self, kind: Kind, key: &Key) -> Option<Cell> {
        let hash = key.get_hash();
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the shard")]
        let shard = &self.shards[hash as usize % SHARDS];
        if let Some(entries) = shard.read().get(&hash)
            && let Some((_, cell)) = entries.iter().find(|(known, _)| known == key)
        {
            return Some(cell.clone());
        }
        let (cell, keep) = self.make(kind, key)?;
        if keep {
            let mut shard = shard.write();
            let entries = shard.entry(hash).or_default();
            if !entries.iter().any(|(known, _)| known == key) {
                entries.push((key.to_retained(), cell.clone()));
            }
        }
        Some(cell)
    }

    /// The cell of a key that the shards do not know, and whether they may learn it. `None` when
    /// the name is in use for another kind.
    #[cold]
    fn make(&self, kind: Kind, key: &Key) -> Option<(Cell, bool)> {
        let name = metric_name(key.name());
        let mut labels = label_text(key.labels(), None);
        let mut families = self.families.write();
        let Families { by_name, described, series } = &mut *families;
        let family = by_name.entry(name.as_str().into()).or_insert_with(|| {
            let spec = names::find(&name);
            Family {
                kind: spec.map_or(kind, |spec| spec.kind),
                unit: spec.map(|spec| spec.unit),
                help: spec
                    .map(|spec| SharedString::const_str(spec.help))
                    .or_else(|| described.get(name.as_str()).cloned())
                    .unwrap_or_else(|| SharedString::const_str("")),
                series: BTreeMap::new(),
            }
        });
        if family.kind != kind {
            return None;
        }
        let mut keep = true;
        if !family.series.contains_key(labels.as_str()) {
            let full =
                family.series.len() >= self.limits.series_per_name || *series >= self.limits.series;
            if full && key.labels().next().is_some() {
                self.overflow.fetch_add(1, Ordering::Relaxed);
                labels = label_text(key.labels(), Some("other"));
                keep = false;
            }
        }
        if let Some(cell) = family.series.get(labels.as_str()) {
            return Some((cell.clone(), keep));
        }
        let cell = match kind {
            Kind::Counter => Cell::Counter(Arc::new(CounterCell::default())),
            Kind::Gauge => Cell::Gauge(Arc::new(GaugeCell::default())),
            Kind::Histogram => {
                let bounds = names::find(&name).map_or(buckets::DEFAULT, |spec| spec.buckets);
                Cell::Histogram(Arc::new(HistogramCell::new(bounds)))
            }
        };
        family.series.insert(labels.into_boxed_str(), cell.clone());
        *series += 1;
        Some((cell, keep))
    }

    fn describe(&self, name: &KeyName, help: SharedString) {
        let name = metric_name(name.as_str());
        if names::find(&name).is_some() {
            return; // The table knows better.
        }
        let mut families = self.families.write();
        if let Some(family) = families.by_name.get_mut(name.as_str()) {
            family.help = help.clone();
        }
        if families.described.len() < self.limits.series {
            families.described.insert(name.into(), help);
        }
    }
}

/// A recorder of the facade that writes to a shared registry.
#[derive(Debug, Clone)]
pub(crate) struct RegistryRecorder(pub(crate) Arc<Registry>);

impl Recorder for RegistryRecorder {
    fn describe_counter(&self, key: KeyName, _: Option<metrics::Unit>, help: SharedString) {
        self.0.describe(&key, help);
    }
    fn describe_gauge(&self, key: KeyName, _: Option<metrics::Unit>, help: SharedString) {
        self.0.describe(&key, help);
    }
    fn describe_histogram(&self, key: KeyName, _: Option<metrics::Unit>, help: SharedString) {
        self.0.describe(&key, help);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        match self.0.cell(Kind::Counter, key) {
            Some(Cell::Counter(cell)) => metrics::Counter::from_arc(cell),
            _ => metrics::Counter::noop(),
        }
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        match self.0.cell(Kind::Gauge, key) {
            Some(Cell::Gauge(cell)) => metrics::Gauge::from_arc(cell),
            _ => metrics::Gauge::noop(),
        }
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        match self.0.cell(Kind::Histogram, key) {
            Some(Cell::Histogram(cell)) => metrics::Histogram::from_arc(cell),
            _ => metrics::Histogram::noop(),
        }
    }
}

/// A name within the format's alphabet; other characters become `_`.
pub(crate) fn metric_name(name: &str) -> String {
    let clean = |(at, c): (usize, char)| match c {
        'a'..='z' | 'A'..='Z' | '_' | ':' => c,
        '0'..='9' if at > 0 => c,
        _ => '_',
    };
    name.chars().enumerate().map(clean).collect()
}

/// `a="x",b="y"`, sorted by name and escaped; every value is `instead` when that is given.
pub(crate) fn label_text<'a>(
    labels: impl Iterator<Item = &'a Label>,
    instead: Option<&str>,
) -> String {
    let mut labels: Vec<_> = labels.map(|label| (label.key(), label.value())).collect();
    labels.sort_unstable();
    labels.dedup_by(|later, first| later.0 == first.0);
    let mut text = String::new();
    for (key, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        // `:` is allowed in metric names only.
        let key = metric_name(key).replace(':', "_");
        let _ = write!(text, "{key}=\"");
        for c in instead.unwrap_or(value).chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

/// Values that are read when a scrape asks, not recorded as they change.
#[derive(Debug, Default)]
pub struct Samples {
    pub(crate) by_name: BTreeMap<&'static str, (MetricSpec, BTreeMap<Box<str>, f64>)>,
}

impl Samples {
    fn add(&mut self, spec: &MetricSpec, labels: &[Label], value: f64) {
        let (_, series) = self.by_name.entry(spec.name).or_insert_with(|| (*spec, BTreeMap::new()));
        series.insert(label_text(labels.iter(), None).into_boxed_str(), value);
    }

    /// The counter's value so far; it must not fall.
    #[expect(clippy::needless_pass_by_value, reason = "the same shape as Counter::with")]
    pub fn counter<L: Labels>(&mut self, metric: &Counter<L>, labels: L, value: f64) {
        self.add(metric.spec(), &labels.labels(), value);
    }

    /// The gauge's value now.
    #[expect(clippy::needless_pass_by_value, reason = "the same shape as Gauge::with")]
    pub fn gauge<L: Labels>(&mut self, metric: &Gauge<L>, labels: L, value: f64) {
        self.add(metric.spec(), &labels.labels(), value);
    }
}

/// One time series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The metric's name.
    pub name: String,
    /// Label text as in the exposition (`tier="l1"`); empty without labels.
    pub labels: String,
    /// Its value.
    pub value: SeriesValue,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SeriesValue {
    /// A counter's total.
    Counter(f64),
    /// A gauge's value.
    Gauge(f64),
    /// A histogram.
    Histogram {
        /// Upper bounds of the buckets, inclusive; one more bucket is above all of them.
        bounds: &'static [f64],
        /// Observations by bucket, not cumulative; one longer than `bounds`.
        counts: Vec<u64>,
        /// Sum of the observed values.
        sum: f64,
    },
}

impl SeriesValue {
    /// The value of a counter or gauge; how many observations a histogram has.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn number(&self) -> f64 {
        match self {
            Self::Counter(value) | Self::Gauge(value) => *value,
            Self::Histogram { counts, .. } => counts.iter().sum::<u64>() as f64,
        }
    }

    /// The value below which a part `q` (0 to 1) of the observations lie, interpolated inside its
    /// bucket as PromQL's `histogram_quantile` does; `None` for other kinds and for no
    /// observations.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let Self::Histogram { bounds, counts, .. } = self else { return None };
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let (rank, as_f64) = (q.clamp(0.0, 1.0) * total as f64, |count: u64| count as f64);
        let mut below = 0.0;
        for (bucket, count) in counts.iter().enumerate() {
            let count = as_f64(*count);
            if count > 0.0 && below + count >= rank {
                let Some(upper) = bounds.get(bucket) else { return bounds.last().copied() };
                let lower = if bucket == 0 { 0.0 } else { bounds[bucket - 1] };
                return Some(lower + (upper - lower) * ((rank - below) / count));
            }
            below += count;
        }
        bounds.last().copied()
    }
}

impl From<HistogramView> for SeriesValue {
    fn from(view: HistogramView) -> Self {
        Self::Histogram { bounds: view.bounds, counts: view.counts, sum: view.sum }
    }
}
