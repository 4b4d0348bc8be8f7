//! Reports as text for a terminal of 80 columns.

use std::fmt::Write;

use super::{Comparison, LatencySet, Ratio, Report, SweepReport, VersusReport};
use crate::measure::Distribution;
use crate::run::Ended;

/// Seconds in the unit that suits them, three digits; what no clock here could have seen is 0.
pub(super) fn time(seconds: f64) -> String {
    if seconds.abs() < 5e-9 {
        return "0 s".to_owned();
    }
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    format!("{} {unit}", digits(value))
}

/// A number with three digits, without a false tail.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn count(value: u64, one: &str, many: &str) -> String {
    format!("{value} {}", if value == 1 { one } else { many })
}

impl Report {
    /// The table of one run.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        latencies(&mut out, &self.latency);
        self.groups(&mut out);
        self.tail(&mut out);
        out
    }

    // Writing to a string can't fail, here and below.
    fn head(&self, out: &mut String) {
        let streamed = if self.server.stream { "streamed" } else { "whole answers" };
        let _ = writeln!(out, "{} ({}, {streamed})", self.server.url, self.server.api);
        let _ = writeln!(out, "{}; {}\n", self.load, self.workload);
        let r = &self.requests;
        let _ = writeln!(
            out,
            "requests     {} in {}, {:.2}% success",
            r.total,
            time(self.duration_seconds),
            r.success_rate * 100.0
        );
        let _ = writeln!(
            out,
            "             {} succeeded, {} refused, {} incomplete, {} failed",
            r.succeeded, r.refused, r.incomplete, r.failed
        );
        if r.abandoned + r.unsent > 0 {
            let _ = writeln!(
                out,
                "             besides {} under way at the end, {} never sent for want of a place",
                r.abandoned, r.unsent
            );
        }
        for trouble in &self.troubles {
            let _ = writeln!(
                out,
                "             {} x {} ({}): {}",
                trouble.count, trouble.reason, trouble.class, trouble.example
            );
        }
        let t = &self.throughput;
        let _ = write!(out, "throughput   {} requests/s", digits(t.requests_per_second));
        if t.output_tokens > 0 {
            let _ = write!(
                out,
                ", {} input tokens/s, {} output tokens/s",
                digits(t.input_tokens_per_second),
                digits(t.output_tokens_per_second)
            );
        }
        out.push('\n');
        if let Some(offered) = self.offered {
            let rate = digits(offered.requests_per_second);
            let _ = writeln!(out, "offered      {rate} requests/s");
        }
        if t.uncounted_answers > 0 {
            let answers = count(t.uncounted_answers, "answer", "answers");
            let _ = writeln!(
                out,
                "             the server counted no tokens of {answers}; pieces of text stand for them"
            );
        }
        if let Some(goodput) = &self.goodput {
            let _ = writeln!(
                out,
                "goodput      {} requests/s, {:.2}% of all keep {}",
                digits(goodput.requests_per_second),
                goodput.share * 100.0,
                goodput.objectives
            );
        }
        out.push('\n');
    }

    fn groups(&self, out: &mut String) {
        if self.cold.is_none() && self.by_cache.len() < 2 {
            return;
        }
        let _ = writeln!(
            out,
            "\n{:<22}{:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
            "by cache", "requests", "TTFT p50", "TTFT p99", "e2e p50", "e2e p99"
        );
        if let Some(cold) = &self.cold {
            let first = cold.time_to_first_token.map_or_else(|| "-".to_owned(), time);
            let whole = time(cold.end_to_end);
            let _ = writeln!(
                out,
                "{:<22}{:>9}  {first:>9}  {:>9}  {whole:>9}  {:>9}",
                "cold (first request)", 1, "", ""
            );
        }
        for group in &self.by_cache {
            let at = |found: Option<Distribution>, of: fn(&Distribution) -> f64| {
                found.map_or_else(|| "-".to_owned(), |found| time(of(&found)))
            };
            let (first, whole) = (group.latency.time_to_first_token, group.latency.end_to_end);
            let _ = writeln!(
                out,
                "{:<22}{:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
                group.label,
                group.count,
                at(first, |d| d.p50),
                at(first, |d| d.p99),
                at(whole, |d| d.p50),
                at(whole, |d| d.p99)
            );
        }
    }

    fn tail(&self, out: &mut String) {
        let at = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.6}"));
        let review = &self.review;
        let _ = writeln!(
            out,
            "\nreview       avg {} s, min {} s, max {} s, success_rate {:.1}%",
            at(review.avg),
            at(review.min),
            at(review.max),
            review.success_rate
        );
        let generator = &self.generator;
        let _ = write!(
            out,
            "generator    {}, {}",
            count(generator.workers as u64, "thread", "threads"),
            count(generator.connections, "new connection", "new connections")
        );
        if let Some(delay) = &generator.send_delay {
            let _ = write!(out, ", sent {} late at p99", time(delay.p99));
        }
        if let Some(cpu) = generator.cpu_seconds {
            let busy = cpu / (self.duration_seconds.max(1e-9) * generator.workers.max(1) as f64);
            let _ = write!(out, ", {:.0}% busy", busy * 100.0);
            if busy > 0.9 {
                out.push_str(": it may be the limit itself, try --workers");
            }
        }
        out.push('\n');
        match self.ended {
            Ended::Finished => {}
            Ended::Interrupted => {
                out.push_str("ended        by request; the figures are of what was done\n");
            }
            Ended::FirstRequestFailed => {
                out.push_str("ended        the first request failed, so no others were sent\n");
            }
            Ended::TooManyFailures => {
                out.push_str("ended        too many requests failed one after another\n");
            }
        }
    }
}

fn latencies(out: &mut String, set: &LatencySet) {
    let rows = [
        ("time to first token", set.time_to_first_token),
        ("  beside the engine", set.first_token_beside_engine),
        ("inter-token latency", set.inter_token_latency),
        ("time per output token", set.time_per_output_token),
        ("end to end", set.end_to_end),
    ];
    if rows.iter().all(|(_, found)| found.is_none()) {
        return;
    }
    let _ = write!(out, "{:<22}", "latency");
    for name in ["mean", "p50", "p90", "p95", "p99", "max"] {
        let _ = write!(out, "{name:>9}");
    }
    out.push('\n');
    for (name, found) in rows {
        let Some(d) = found else { continue };
        let _ = write!(out, "{name:<22}");
        for value in [d.mean, d.p50, d.p90, d.p95, d.p99, d.max] {
            let _ = write!(out, "{:>9}", time(value));
        }
        out.push('\n');
    }
}

/// A number of clients, or a rate.
fn axis_value(x: f64) -> String {
    if x.fract() == 0.0 { format!("{x}") } else { digits(x) }
}

impl SweepReport {
    /// The table of a sweep.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:>18}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}",
            self.axis, "requests/s", "output t/s", "TTFT p50", "e2e p50", "e2e p99", "success"
        );
        for point in &self.points {
            let report = &point.report;
            let at = |found: Option<Distribution>, of: fn(&Distribution) -> f64| {
                found.map_or_else(|| "-".to_owned(), |found| time(of(&found)))
            };
            let here = self.knee.as_ref().is_some_and(|knee| knee.x == point.x);
            let _ = writeln!(
                out,
                "{:>18}{:>11}{:>11}{:>9}{:>9}{:>9}{:>8.1}%{}",
                axis_value(point.x),
                digits(report.throughput.requests_per_second),
                digits(report.throughput.output_tokens_per_second),
                at(report.latency.time_to_first_token, |d| d.p50),
                at(report.latency.end_to_end, |d| d.p50),
                at(report.latency.end_to_end, |d| d.p99),
                report.requests.success_rate * 100.0,
                if here { " *" } else { "" }
            );
        }
        match &self.knee {
            Some(knee) => {
                let _ = writeln!(
                    out,
                    "\n* knee: {} {}, {} requests/s\n  {}",
                    axis_value(knee.x),
                    self.axis,
                    digits(knee.requests_per_second),
                    knee.rule
                );
            }
            None => {
                let _ = match self.axis.as_str() {
                    "clients" => {
                        writeln!(out, "\nno knee: throughput never rose, or still does at the end")
                    }
                    axis => writeln!(out, "\nno knee: the server kept up with no {axis}"),
                };
            }
        }
        out
    }
}

impl Comparison {
    /// The table of ratios.
    pub fn table(&self) -> String {
        let mut out = format!("A  {}\nB  {}\n\n", self.a, self.b);
        for warning in &self.warnings {
            let _ = writeln!(out, "careful: {warning}");
        }
        if !self.warnings.is_empty() {
            out.push('\n');
        }
        ratios(&mut out, &self.ratios);
        out
    }
}

impl VersusReport {
    /// The table of ratios.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (name, report) in [("A", &self.a), ("B", &self.b)] {
            let r = &report.requests;
            let _ = writeln!(
                out,
                "{name}  {} ({}, {})\n   {} of {} succeeded, {} refused, {} incomplete, {} failed",
                report.server.url,
                report.server.api,
                report.load,
                r.succeeded,
                r.total,
                r.refused,
                r.incomplete,
                r.failed
            );
            for trouble in &report.troubles {
                let _ = writeln!(
                    out,
                    "   {} x {} ({}): {}",
                    trouble.count, trouble.reason, trouble.class, trouble.example
                );
            }
        }
        let _ = writeln!(out, "{}\n", count(self.rounds.len() as u64, "round", "rounds"));
        ratios(&mut out, &self.ratios);
        out
    }
}

fn ratios(out: &mut String, ratios: &[Ratio]) {
    let _ = writeln!(
        out,
        "{:<27} {:>13} {:>13} {:>5} {:>11} better",
        "", "A", "B", "B/A", "within 95%"
    );
    for r in ratios {
        let show = |value: f64| match r.unit.as_str() {
            "s" => time(value),
            unit => format!("{} {unit}", digits(value)),
        };
        let _ = writeln!(
            out,
            "{:<27} {:>13} {:>13} {:>5.3} {:>11} {}",
            r.metric,
            show(r.a),
            show(r.b),
            r.ratio,
            format!("{:.3}-{:.3}", r.interval.low, r.interval.high),
            r.better().unwrap_or("-")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        for (seconds, expected) in
            [(0.0, "0 s"), (1e-9, "0 s"), (2.5e-5, "25.0 us"), (0.25, "250 ms"), (1.5, "1.50 s")]
        {
            assert_eq!(time(seconds), expected);
        }
    }
}
