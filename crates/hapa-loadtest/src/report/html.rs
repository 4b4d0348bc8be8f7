//! Reports as one HTML file that needs nothing else: no script, no font, no other host.

use std::fmt::Write;
use std::path::Path;

use super::chart::{Axis, Chart, Series};
use super::{Report, SweepReport, VersusReport};
use crate::client::{CacheOutcome, Class};
use crate::error::LoadError;
use crate::measure::Sample;

const STYLE: &str = "\
:root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#f6f6f4;margin:0}\
main{max-width:1500px;margin:0 auto;padding:24px}h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:0 0 8px}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:16px 0}\
.tile,figure,pre{background:#fff;border:1px solid #ddd;border-radius:6px;margin:0;padding:12px}\
.tile b{display:block;font-size:22px}.tile span{color:#666;font-size:13px}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:12px;margin:12px 0}\
svg{width:100%;height:auto}pre{overflow-x:auto;font-size:13px;line-height:1.45}.sub{color:#666;margin:0}";

/// Whether a request is of a kind.
type Belongs = fn(&Sample) -> bool;

/// Dots that a plot shows at most; more are one blot.
const DOTS: usize = 1500;

impl Report {
    /// The report as a web page.
    pub fn html(&self) -> Result<String, LoadError> {
        let title = format!("{} ({})", self.server.url, self.server.api);
        let subtitle = format!("{}; {}", self.load, self.workload);
        let mut page = Page::new(&title, &subtitle);
        page.tiles(&self.tiles());
        page.charts(self.charts())?;
        page.text(&self.table());
        Ok(page.end())
    }

    /// Writes the page.
    pub fn write_html(&self, path: &Path) -> Result<(), LoadError> {
        write(path, &self.html()?)
    }

    fn tiles(&self) -> Vec<(String, &'static str)> {
        use super::table::{digits, time};
        let mut tiles = vec![
            (digits(self.throughput.requests_per_second), "requests/s"),
            (format!("{:.2}%", self.requests.success_rate * 100.0), "success"),
        ];
        if self.throughput.output_tokens > 0 {
            tiles.push((digits(self.throughput.output_tokens_per_second), "output tokens/s"));
        }
        if let Some(first) = self.latency.time_to_first_token {
            tiles.push((time(first.p50), "time to first token, p50"));
        }
        if let Some(gap) = self.latency.inter_token_latency {
            tiles.push((time(gap.p50), "inter-token latency, p50"));
        }
        if let Some(whole) = self.latency.end_to_end {
            tiles.push((time(whole.p50), "end to end, p50"));
            tiles.push((time(whole.p99), "end to end, p99"));
        }
        if let Some(goodput) = &self.goodput {
            tiles.push((digits(goodput.requests_per_second), "goodput, requests/s"));
        }
        tiles
    }

    fn charts(&self) -> Vec<Chart<'static>> {
        vec![self.over_time(), self.cumulative(), self.by_second(false), self.by_second(true)]
    }

    fn over_time(&self) -> Chart<'static> {
        let kinds: [(&str, Belongs); 3] = [
            ("computed", |s| {
                s.class == Class::Success
                    && !matches!(s.cache, CacheOutcome::Hit | CacheOutcome::Shared)
            }),
            ("from the cache or shared", |s| {
                s.class == Class::Success
                    && matches!(s.cache, CacheOutcome::Hit | CacheOutcome::Shared)
            }),
            ("refused, incomplete, failed", |s| s.class != Class::Success),
        ];
        let step = self.samples.len().div_ceil(DOTS).max(1);
        let series = kinds.into_iter().map(|(name, belongs)| {
            let chosen = self.samples.iter().step_by(step).filter(|sample| belongs(sample));
            let points = chosen.map(|s| (f64::from(s.at), f64::from(s.end_to_end))).collect();
            Series { name: name.to_owned(), points, dots: true }
        });
        Chart {
            title: "End to end over time",
            x: ("seconds since the start", Axis::Number),
            y: ("end to end", Axis::Seconds),
            log_x: false,
            series: series.filter(|series| !series.points.is_empty()).collect(),
        }
    }

    fn cumulative(&self) -> Chart<'static> {
        let curves = [
            ("end to end", &self.curves.end_to_end),
            ("time to first token", &self.curves.time_to_first_token),
            ("inter-token latency", &self.curves.inter_token_latency),
        ];
        let series = curves.into_iter().filter(|(_, curve)| !curve.is_empty());
        let series = series.map(|(name, curve)| Series {
            name: name.to_owned(),
            points: curve.iter().map(|(share, seconds)| (*seconds, share * 100.0)).collect(),
            dots: false,
        });
        Chart {
            title: "Cumulative distribution",
            x: ("within (logarithmic)", Axis::Seconds),
            y: ("of requests", Axis::Percent),
            log_x: true,
            series: series.collect(),
        }
    }

    fn by_second(&self, tokens: bool) -> Chart<'static> {
        // The last second is seldom whole, and one point is no line.
        let whole = Some(self.timeline.len().saturating_sub(1)).filter(|whole| *whole > 1);
        let whole = whole.unwrap_or(0);
        let line = |name: &str, of: fn(&super::TimelinePoint) -> u64| Series {
            name: name.to_owned(),
            points: self
                .timeline
                .iter()
                .take(whole)
                .enumerate()
                .map(|(second, point)| (second as f64, of(point) as f64))
                .collect(),
            dots: false,
        };
        let (title, label, series) = if tokens {
            let lines = match self.throughput.output_tokens {
                0 => Vec::new(),
                _ => vec![line("output tokens", |point| point.output_tokens)],
            };
            ("Output tokens by the second in which their answer ended", "tokens/s", lines)
        } else {
            let mut lines = vec![line("succeeded", |point| point.succeeded)];
            if self.timeline.iter().any(|point| point.others > 0) {
                lines.push(line("refused, incomplete, failed", |point| point.others));
            }
            ("Requests by the second in which they ended", "requests/s", lines)
        };
        Chart {
            title,
            x: ("seconds since the start", Axis::Number),
            y: (label, Axis::Number),
            log_x: false,
            series,
        }
    }
}

impl SweepReport {
    /// The report as a web page.
    pub fn html(&self) -> Result<String, LoadError> {
        let server = self.points.first().map_or(String::new(), |p| p.report.server.url.clone());
        let mut page = Page::new(&format!("Sweep of {server}"), &self.axis);
        let line = |name: &str, of: &dyn Fn(&Report) -> Option<f64>| Series {
            name: name.to_owned(),
            points: self.points.iter().filter_map(|p| Some((p.x, of(&p.report)?))).collect(),
            dots: false,
        };
        let knee = self.knee.iter().map(|knee| (knee.x, knee.requests_per_second)).collect();
        let chart = |title, label, axis, series| Chart {
            title,
            x: (self.axis.as_str(), Axis::Number),
            y: (label, axis),
            log_x: self.axis == "clients",
            series,
        };
        page.charts(vec![
            chart(
                "Throughput against load",
                "requests/s",
                Axis::Number,
                vec![
                    line("answered", &|report| Some(report.throughput.requests_per_second)),
                    Series { name: "knee".to_owned(), points: knee, dots: true },
                ],
            ),
            chart(
                "Output tokens against load",
                "tokens/s",
                Axis::Number,
                vec![line("output", &|report| {
                    let rate = report.throughput.output_tokens_per_second;
                    (rate > 0.0).then_some(rate)
                })],
            ),
            chart(
                "End to end against load",
                "end to end",
                Axis::Seconds,
                vec![
                    line("p50", &|report| report.latency.end_to_end.map(|d| d.p50)),
                    line("p99", &|report| report.latency.end_to_end.map(|d| d.p99)),
                ],
            ),
            chart(
                "Time to first token against load",
                "time to first token",
                Axis::Seconds,
                vec![
                    line("p50", &|report| report.latency.time_to_first_token.map(|d| d.p50)),
                    line("p99", &|report| report.latency.time_to_first_token.map(|d| d.p99)),
                ],
            ),
        ])?;
        page.text(&self.table());
        Ok(page.end())
    }

    /// Writes the page.
    pub fn write_html(&self, path: &Path) -> Result<(), LoadError> {
        write(path, &self.html()?)
    }
}

impl VersusReport {
    /// The report as a web page.
    pub fn html(&self) -> Result<String, LoadError> {
        let title = format!("A {} / B {}", self.a.server.url, self.b.server.url);
        let mut page = Page::new(&title, &format!("{}; {}", self.a.load, self.a.workload));
        let curves = |title, of: fn(&Report) -> &Vec<(f64, f64)>| Chart {
            title,
            x: ("within (logarithmic)", Axis::Seconds),
            y: ("of requests", Axis::Percent),
            log_x: true,
            series: [("A", &self.a), ("B", &self.b)]
                .into_iter()
                .map(|(name, report)| Series {
                    name: name.to_owned(),
                    points: of(report).iter().map(|(share, s)| (*s, share * 100.0)).collect(),
                    dots: false,
                })
                .collect(),
        };
        page.charts(vec![
            curves("End to end", |report| &report.curves.end_to_end),
            curves("Time to first token", |report| &report.curves.time_to_first_token),
        ])?;
        page.text(&self.table());
        Ok(page.end())
    }

    /// Writes the page.
    pub fn write_html(&self, path: &Path) -> Result<(), LoadError> {
        write(path, &self.html()?)
    }
}

struct Page(String);

impl Page {
    fn new(title: &str, subtitle: &str) -> Self {
        let (title, subtitle) = (escape(title), escape(subtitle));
        Self(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n\
             <body><main><h1>{title}</h1><p class=\"sub\">{subtitle}</p>\n"
        ))
    }

    fn tiles(&mut self, tiles: &[(String, &str)]) {
        self.0.push_str("<div class=\"tiles\">");
        for (value, label) in tiles {
            // Writing to a string can't fail.
            let _ = write!(
                self.0,
                "<div class=\"tile\"><b>{}</b><span>{label}</span></div>",
                escape(value)
            );
        }
        self.0.push_str("</div>\n");
    }

    fn charts(&mut self, charts: Vec<Chart<'_>>) -> Result<(), LoadError> {
        self.0.push_str("<div class=\"charts\">\n");
        for chart in charts {
            if let Some(svg) = chart.svg()? {
                let _ = writeln!(self.0, "<figure><h2>{}</h2>{svg}</figure>", chart.title);
            }
        }
        self.0.push_str("</div>\n");
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let _ = writeln!(self.0, "<pre>{}</pre>", escape(text));
    }

    fn end(mut self) -> String {
        self.0.push_str("</main></body></html>\n");
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write(path: &Path, text: &str) -> Result<(), LoadError> {
    std::fs::write(path, text).map_err(|source| LoadError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
