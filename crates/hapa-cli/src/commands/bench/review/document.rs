//! The table for the terminal, for Markdown, and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hapa_model::ModelInfo;
use serde::Serialize;
use sysinfo::System;

use super::figures::{Also, Change, Round, Row, Unit, also, rows};
use super::scenario::Load;
use crate::error::{CliError, Result};
use crate::text;

/// Name and version of the JSON.
const SCHEMA: &str = "hapa-review/1";

/// What was measured, on what.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    schema: &'static str,
    version: &'static str,
    model: String,
    backend: &'static str,
    isa: &'static str,
    processor: String,
    threads: usize,
    load: Load,
    /// `release` or `debug`: figures of a debug build say nothing about a release.
    build: &'static str,
    pub(super) rows: Vec<Row>,
    also: Vec<Also>,
    rounds: Vec<Round>,
}

impl Document {
    pub(super) fn new(info: &ModelInfo, load: Load, rounds: &[Round], threads: usize) -> Self {
        let mut system = System::new();
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        let processor = system.cpus().first().map_or("unknown", |cpu| cpu.brand().trim());
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            model: info.name.clone(),
            backend: info.backend,
            isa: hapa_kernels::Isa::from_env().map_or("none", hapa_kernels::Isa::name),
            processor: processor.to_owned(),
            threads: if threads == 0 { hapa_kernels::physical_cores() } else { threads },
            load,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            rows: self::rows(rounds, load),
            also: also(rounds, load),
            rounds: rounds.to_vec(),
        }
    }

    /// On what it was measured, in a line.
    fn conditions(&self) -> String {
        let Load { requests, clients, max_tokens } = self.load;
        format!(
            "{} ({} backend, {}, {} threads), {} build, {}; {} rounds of {requests} requests of up to {max_tokens} \
             tokens one after another and {clients} at once",
            self.model,
            self.backend,
            self.isa,
            self.threads,
            self.build,
            self.processor,
            self.rounds.len()
        )
    }

    pub(super) fn table(&self) -> String {
        let head = ["", "review", "", "here", ""].map(str::to_owned).to_vec();
        let mut lines = vec![head];
        for row in &self.rows {
            let review = cells(row.unit, Some(&row.review));
            let here = cells(row.unit, row.here.as_ref());
            lines.push([vec![row.what.to_owned()], review, here].concat());
        }
        let mut out = text::table(&lines);
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(out, "{}: {} -> {}", row.what, row.before, row.after);
        }
        out.push('\n');
        let rows =
            self.also.iter().map(|also| vec![also.what.clone(), figure(also.unit, also.value)]);
        out.push_str(&text::table(&rows.collect::<Vec<_>>()));
        let _ = writeln!(out, "\n{}", self.conditions());
        out
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = String::from(
            "| | review | gain | here | gain | here, before and after |\n| --- | --- | ---: | --- | ---: | --- |\n",
        );
        for row in &self.rows {
            let (review, here) =
                (cells(row.unit, Some(&row.review)), cells(row.unit, row.here.as_ref()));
            let cells = [review, here].concat().join(" | ");
            let _ = writeln!(out, "| {} | {cells} | {}; {} |", row.what, row.before, row.after);
        }
        out.push_str("\n| also measured | |\n| --- | ---: |\n");
        for also in &self.also {
            let _ = writeln!(out, "| {} | {} |", also.what, figure(also.unit, also.value));
        }
        let _ = writeln!(out, "\n{}.", self.conditions());
        out
    }

    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|e| CliError::Failed(format!("could not write JSON: {e}")))
    }
}

/// `before to after`, and how many times better that is.
fn cells(unit: Unit, change: Option<&Change>) -> Vec<String> {
    match change {
        Some(change) => vec![
            format!("{} to {}", figure(unit, change.before), figure(unit, change.after)),
            times(change.times_better),
        ],
        None => vec!["not measured".to_owned(), "-".to_owned()],
    }
}

fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds if value < 1e-3 => format!("{:.1} us", value * 1e6),
        Unit::Seconds => text::duration(Duration::try_from_secs_f64(value).unwrap_or_default()),
        Unit::Bytes => text::bytes(value as u64),
        Unit::RequestsPerSecond if value >= 99.5 => format!("{value:.0}/s"),
        Unit::RequestsPerSecond => format!("{value:.2}/s"),
    }
}

/// How many times better: `5.0x`, `49x`, `12,300x`.
pub(super) fn times(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.1}x");
    }
    // Three figures are more than enough.
    let unit = 10_f64.powf((value.log10().floor() - 2.0).max(0.0));
    let rounded = ((value / unit).round() * unit) as u64;
    let digits = rounded.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + "x"
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{LOAD, round};
    use super::super::picture;
    use super::*;

    fn document() -> Document {
        let rounds = vec![round(1.0), round(1.2)];
        Document {
            schema: SCHEMA,
            version: "0",
            model: "m".to_owned(),
            backend: "cpu",
            isa: "avx2",
            processor: "P".to_owned(),
            threads: 2,
            load: LOAD,
            build: "release",
            rows: rows(&rounds, LOAD),
            also: also(&rounds, LOAD),
            rounds,
        }
    }

    #[test]
    fn the_table_has_the_reviews_figures_beside_the_measured_ones() {
        let table = document().table();
        for part in [
            "1.50 s to 300 ms",
            "5.0x",
            "2.45 s to 50 ms",
            "49x",
            "300 MB to 150 MB",
            "10.00/s to 50.00/s",
        ] {
            assert!(table.contains(part), "{part}:\n{table}");
        }
        for part in ["440 ms to 110 ms", "1.50 GB to 500 MB", "3.0x", "100,000x", "2 rounds"] {
            assert!(table.contains(part), "{part}:\n{table}");
        }
        let markdown = document().markdown();
        let columns = |line: &str| line.matches('|').count();
        let lines: Vec<&str> = markdown.lines().take(6).collect();
        assert!(lines.iter().all(|line| columns(line) == 7), "{markdown}");
        let json: serde_json::Value = serde_json::from_str(&document().json().unwrap()).unwrap();
        assert_eq!(json["rows"][0]["unit"], "seconds");
        assert_eq!(json["rows"][2]["review"]["before"], 300e6);
    }

    #[test]
    fn the_picture_has_two_bars_a_row() {
        let svg = picture::draw(&document().rows).unwrap();
        for row in &document().rows {
            assert!(svg.contains(row.what), "{}: {svg}", row.what);
        }
        assert!(
            svg.starts_with("<svg") && svg.contains("100,000x") && svg.contains("5.0x"),
            "{svg}"
        );
    }
}
