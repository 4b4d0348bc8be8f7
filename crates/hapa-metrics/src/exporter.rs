//! The exporter: owns the series of one process (or one test) and renders them.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;

use crate::{
    derived,
    error::MetricsError,
    names,
    process::{ProcessCollector, ProcessSample},
    registry::{Limits, Registry, RegistryRecorder, Samples, Series, SeriesValue},
    render,
    spec::{Kind, MetricSpec, Values},
};

/// An exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Format {
    /// The format to answer a scrape with, from its `Accept` header.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if open { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Limits of an exporter.
#[derive(Debug, Clone, Copy)]
pub struct ExporterOptions {
    /// Most series of one name; later label values share one series whose labels are `other`.
    pub series_per_name: usize,
    /// Most series in all.
    pub series: usize,
}

impl Default for ExporterOptions {
    fn default() -> Self {
        Self { series_per_name: 1_000, series: 20_000 }
    }
}

type Collector = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// Collects what is emitted through the `metrics` facade and renders it. Cheap to clone; clones
/// share everything.
#[derive(Clone)]
pub struct Exporter {
    registry: Arc<Registry>,
    process: Arc<ProcessCollector>,
    collectors: Arc<RwLock<Vec<Collector>>>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("series", &self.registry.series()).finish_non_exhaustive()
    }
}

impl Exporter {
    /// Makes an exporter and installs it as the recorder of the whole process.
    ///
    /// # Errors
    /// [`MetricsError::AlreadyInstalled`] when the process has a recorder.
    pub fn install() -> Result<Self, MetricsError> {
        let exporter = Self::with_options(ExporterOptions::default());
        metrics::set_global_recorder(RegistryRecorder(exporter.registry.clone()))
            .map_err(|_| MetricsError::AlreadyInstalled)?;
        Ok(exporter)
    }

    /// Makes an exporter that nothing emits to except inside [`Exporter::run`].
    pub fn local() -> Self {
        Self::with_options(ExporterOptions::default())
    }

    /// As [`Exporter::local`], with other limits.
    pub fn with_options(options: ExporterOptions) -> Self {
        let limits = Limits { series_per_name: options.series_per_name, series: options.series };
        let exporter = Self {
            registry: Arc::new(Registry::new(limits)),
            process: Arc::new(ProcessCollector::new()),
            collectors: Arc::default(),
        };
        exporter.register_zeros();
        exporter
    }

    /// Counters and histograms whose labels are a closed set exist from the start, at zero:
    /// otherwise `rate()` misses the first event, and an alert on an absent series never fires.
    fn register_zeros(&self) {
        self.run(|| {
            let of_exporter = |spec: &MetricSpec| {
                spec.name.starts_with("hapa_process_") || spec.name.starts_with("hapa_metrics_")
            };
            for spec in names::ALL.iter().filter(|spec| !of_exporter(spec)) {
                let ([] | [_]) = spec.labels else { continue };
                let values = match spec.labels.first() {
                    None => vec![None],
                    Some(label) => match label.values {
                        Values::OneOf(values) => {
                            values.iter().map(|value| Some((label.key, *value))).collect()
                        }
                        Values::Bounded(_) => continue,
                    },
                };
                for value in values {
                    let labels: Vec<_> = value
                        .map(|(key, value)| metrics::Label::from_static_parts(key, value))
                        .into_iter()
                        .collect();
                    match spec.kind {
                        Kind::Counter => metrics::counter!(spec.name, labels).increment(0),
                        Kind::Histogram => {
                            let _ = metrics::histogram!(spec.name, labels);
                        }
                        Kind::Gauge => {}
                    }
                }
            }
        });
    }

    /// Runs `work` with this exporter as the recorder of the current thread: what it emits on this
    /// thread lands here, whatever the process has installed. For tests and examples.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&RegistryRecorder(self.registry.clone()), work)
    }

    /// Adds a collector: called at each scrape, to add values that are read and not recorded
    /// (profiler scopes, runtime figures). It should take microseconds and must not call this
    /// exporter.
    pub fn add_collector(&self, collect: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.collectors.write().push(Box::new(collect));
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        self.process.collect(&mut samples);
        derived::collect(&self.registry, &mut samples);
        for collect in self.collectors.read().iter() {
            collect(&mut samples);
        }
        samples
    }

    /// Everything in Prometheus text, sorted by name and labels.
    pub fn render(&self) -> String {
        self.render_as(Format::Prometheus)
    }

    /// Everything in the given format.
    pub fn render_as(&self, format: Format) -> String {
        let samples = self.samples();
        render::render(&self.registry.families(), &samples, format)
    }

    /// Everything as values, for `/stats` and alerts inside the process; sorted by name.
    pub fn snapshot(&self) -> Vec<Series> {
        let samples = self.samples();
        let mut all = Vec::new();
        for (name, family) in &self.registry.families().by_name {
            for (labels, cell) in &family.series {
                use crate::cells::Cell;
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
                let value = match cell {
                    Cell::Counter(counter) => SeriesValue::Counter(counter.get() as f64),
                    Cell::Gauge(gauge) => SeriesValue::Gauge(gauge.get()),
                    Cell::Histogram(histogram) => histogram.view().into(),
                };
                all.push(Series { name: name.to_string(), labels: labels.to_string(), value });
            }
        }
        for (spec, series) in samples.by_name.values() {
            for (labels, value) in series {
                let value = match spec.kind {
                    Kind::Counter => SeriesValue::Counter(*value),
                    Kind::Gauge | Kind::Histogram => SeriesValue::Gauge(*value),
                };
                all.push(Series { name: spec.name.to_owned(), labels: labels.to_string(), value });
            }
        }
        all.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        all
    }

    /// One look at this process.
    pub fn process(&self) -> ProcessSample {
        self.process.sample()
    }
}
