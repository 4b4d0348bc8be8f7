//! Writes the exposition formats: Prometheus text 0.0.4 and OpenMetrics 1.0.

use std::fmt::Write as _;

use crate::{
    cells::{Cell, HistogramCell},
    exporter::Format,
    registry::{Families, Samples},
    spec::{Kind, Unit},
};

/// Both sources of series, merged in the order of their names.
pub(crate) fn render(families: &Families, samples: &Samples, format: Format) -> String {
    let mut out = Writer { text: String::with_capacity(64 * 1024), format };
    let mut sampled = samples.by_name.iter().peekable();
    for (name, family) in &families.by_name {
        while let Some((_, (spec, series))) = sampled.next_if(|(other, _)| **other < &**name) {
            out.head(spec.name, spec.kind, Some(spec.unit), spec.help);
            out.values(spec.name, series);
        }
        if family.series.is_empty() {
            continue;
        }
        out.head(name, family.kind, family.unit, &family.help);
        // A collector's value replaces a recorded one of the same series.
        let shadowed = sampled.next_if(|(other, _)| **other == &**name).map(|(_, (_, s))| s);
        for (labels, cell) in &family.series {
            if shadowed.is_none_or(|series| !series.contains_key(labels)) {
                out.cell(name, labels, cell);
            }
        }
        if let Some(series) = shadowed {
            out.values(name, series);
        }
    }
    for (_, (spec, series)) in sampled {
        out.head(spec.name, spec.kind, Some(spec.unit), spec.help);
        out.values(spec.name, series);
    }
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

struct Writer {
    text: String,
    format: Format,
}

impl Writer {
    fn head(&mut self, name: &str, kind: Kind, unit: Option<Unit>, help: &str) {
        let open = self.format == Format::OpenMetrics;
        let mut word = kind.as_str();
        let mut name = name;
        if open && kind == Kind::Counter {
            // OpenMetrics names the family without the suffix; a counter that has none is not one.
            match name.strip_suffix("_total") {
                Some(stem) => name = stem,
                None => word = "unknown",
            }
        }
        if !help.is_empty() {
            let _ = write!(self.text, "# HELP {name} ");
            for c in help.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '\n' => self.text.push_str("\\n"),
                    '"' if open => self.text.push_str("\\\""),
                    c => self.text.push(c),
                }
            }
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "# TYPE {name} {word}");
        if open
            && let Some(unit) = unit
            && name.strip_suffix(unit.as_str()).is_some_and(|stem| stem.ends_with('_'))
        {
            let _ = writeln!(self.text, "# UNIT {name} {}", unit.as_str());
        }
    }

    fn series(&mut self, name: &str, suffix: &str, labels: &str, le: Option<&str>) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        if !labels.is_empty() || le.is_some() {
            self.text.push('{');
            self.text.push_str(labels);
            if let Some(le) = le {
                if !labels.is_empty() {
                    self.text.push(',');
                }
                self.text.push_str("le=\"");
                self.text.push_str(le);
                self.text.push('"');
            }
            self.text.push('}');
        }
        self.text.push(' ');
    }

    fn float(&mut self, value: f64) {
        let _ = match value {
            f64::INFINITY => write!(self.text, "+Inf"),
            f64::NEG_INFINITY => write!(self.text, "-Inf"),
            value => write!(self.text, "{value}"),
        };
    }

    fn values(&mut self, name: &str, series: &std::collections::BTreeMap<Box<str>, f64>) {
        for (labels, value) in series {
            self.series(name, "", labels, None);
            self.float(*value);
            self.text.push('\n');
        }
    }

    fn cell(&mut self, name: &str, labels: &str, cell: &Cell) {
        match cell {
            Cell::Counter(counter) => {
                self.series(name, "", labels, None);
                let _ = writeln!(self.text, "{}", counter.get());
            }
            Cell::Gauge(gauge) => {
                self.series(name, "", labels, None);
                self.float(gauge.get());
                self.text.push('\n');
            }
            Cell::Histogram(histogram) => self.histogram(name, labels, histogram),
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &HistogramCell) {
        let view = histogram.view();
        let mut cumulative = 0;
        let mut le = String::new();
        for (bucket, count) in view.counts.iter().enumerate() {
            cumulative += count;
            le.clear();
            // `{:?}` writes `1.0`, as OpenMetrics asks; one spelling in both formats, because
            // another spelling would be another series.
            let _ = match view.bounds.get(bucket) {
                Some(bound) => write!(le, "{bound:?}"),
                None => write!(le, "+Inf"),
            };
            self.series(name, "_bucket", labels, Some(&le));
            let _ = write!(self.text, "{cumulative}");
            if self.format == Format::OpenMetrics
                && let Some(exemplar) = histogram.exemplar(bucket)
            {
                self.text.push_str(" # {request_id=\"");
                for c in exemplar.request_id.chars() {
                    match c {
                        '\\' => self.text.push_str("\\\\"),
                        '"' => self.text.push_str("\\\""),
                        '\n' => self.text.push_str("\\n"),
                        c => self.text.push(c),
                    }
                }
                self.text.push_str("\"} ");
                self.float(exemplar.value);
                let _ = write!(self.text, " {:.3}", exemplar.unix_seconds);
            }
            self.text.push('\n');
        }
        self.series(name, "_sum", labels, None);
        self.float(view.sum);
        self.text.push('\n');
        self.series(name, "_count", labels, None);
        let _ = writeln!(self.text, "{cumulative}");
    }
}
