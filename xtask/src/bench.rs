//! `cargo xtask bench`: the criterion suite, and a dated record of its figures.

use crate::tools::{cargo, check, show};
use crate::{record, root};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The programs of the suite: package, bench target, and the features that it needs. Some stand with their crates: the
/// profiler's, since one needs a global allocator of its own, and those of crates that people use alone.
const SUITE: &[(&str, &str, &str)] = &[
    ("hapa-benches", "hapa", ""),
    ("hapa-benches", "plain", ""),
    ("hapa-benches", "observed", ""),
    ("hapa-profiler", "profiler", ""),
    ("hapa-profiler", "allocation", ""),
    ("hapa-metrics", "metrics", ""),
    ("hapa-cache", "peers", ""),
    ("hapa-cache", "tiers", "hapa-cache/disk,hapa-cache/redis"),
];

/// Figures of one benchmark, in nanoseconds an iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    median: f64,
    low: f64,
    high: f64,
}

/// Runs the benches that a filter selects, or all, and writes `benches/records/DATE.{md,json}`. `--profile dev` before
/// the filter spares the long build, to try a benchmark; its figures are worth nothing.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (profile, filter) = match arguments {
        ["--profile", name, rest @ ..] => (Some(name), rest),
        all => (None, all),
    };
    let mut command = cargo(&["bench"]);
    if let Some(name) = profile {
        command.args(["--profile", name]);
    }
    for (package, bench, features) in SUITE {
        command.args(["--package", package, "--bench", bench]);
        if !features.is_empty() {
            command.args(["--features", features]);
        }
    }
    command.arg("--").args(filter);
    let shown = if arguments.is_empty() {
        "cargo xtask bench".to_owned()
    } else {
        format!("cargo xtask bench {}", arguments.join(" "))
    };
    let start = SystemTime::now();
    eprintln!("==> {}", show(&command));
    check(command)?;

    let figures = measured_since(&criterion_folder(), start)?;
    ensure!(!figures.is_empty(), "no benchmark matched; nothing to record");
    let folder = root().join("benches/records");
    let before = latest(&folder)?;
    let path = write(&folder, &shown, &figures, &before)?;
    eprintln!("recorded in {}", path.strip_prefix(root()).unwrap_or(&path).display());
    Ok(())
}

fn criterion_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder));
    target.join("criterion")
}

/// Medians that criterion wrote after `start`, by benchmark name.
fn measured_since(folder: &Path, start: SystemTime) -> Result<BTreeMap<String, Figure>> {
    let mut figures = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("could not list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        let estimates = folder.join("estimates.json");
        let fresh = folder.ends_with("new")
            && std::fs::metadata(&estimates).and_then(|m| m.modified()).is_ok_and(|m| m >= start);
        if fresh {
            let name = read_json(&folder.join("benchmark.json"))?;
            let name =
                name["full_id"].as_str().context("criterion's benchmark.json has no full_id")?;
            figures.insert(name.to_owned(), figure(&read_json(&estimates)?)?);
        }
    }
    Ok(figures)
}

fn figure(estimates: &Value) -> Result<Figure> {
    let median = &estimates["median"];
    let number =
        |value: &Value| value.as_f64().context("criterion's estimates.json lacks a median");
    Ok(Figure {
        median: number(&median["point_estimate"])?,
        low: number(&median["confidence_interval"]["lower_bound"])?,
        high: number(&median["confidence_interval"]["upper_bound"])?,
    })
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// Medians of the last record, by benchmark name.
fn latest(folder: &Path) -> Result<BTreeMap<String, f64>> {
    std::fs::create_dir_all(folder)?;
    let mut records: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        // Records of other commands have a name after their date.
        .filter(|path| order(path).1 > 0)
        .collect();
    records.sort_by_key(|path| order(path));
    let Some(path) = records.last() else { return Ok(BTreeMap::new()) };
    let record = read_json(path)?;
    let figures = record["figures"].as_object().into_iter().flatten();
    Ok(figures
        .filter_map(|(name, figure)| Some((name.clone(), figure["median_ns"].as_f64()?)))
        .collect())
}

/// Date and number of a record: `2026-03-09-2.json` is the second of its day. The number of what is no such record is 0.
fn order(path: &Path) -> (String, u32) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let date: String = stem.chars().take(10).collect();
    let number = stem.get(11..).map_or(1, |number| number.parse().unwrap_or(0));
    (date, number)
}

fn write(
    folder: &Path,
    command: &str,
    figures: &BTreeMap<String, Figure>,
    before: &BTreeMap<String, f64>,
) -> Result<PathBuf> {
    let date = record::today();
    let stem = (1..)
        .map(|n| if n == 1 { date.clone() } else { format!("{date}-{n}") })
        .find(|stem| !folder.join(format!("{stem}.json")).exists())
        .context("no free record name")?;
    let machine = record::machine();

    let mut text = format!("# Benchmarks of {date}\n\n- command: `{command}`\n");
    for (what, value) in &machine {
        let _ = writeln!(text, "- {what}: {value}");
    }
    text.push_str("\n| benchmark | median | 95% interval | since the last record |\n| --- | ---: | ---: | ---: |\n");
    for (name, figure) in figures {
        let change = before.get(name).map_or_else(
            || "new".to_owned(),
            |old| format!("{:+.1}%", (figure.median / old - 1.0) * 100.0),
        );
        let (low, high) = (time(figure.low), time(figure.high));
        let line = format!("| {name} | {} | {low} to {high} | {change} |", time(figure.median));
        eprintln!("{line}");
        let _ = writeln!(text, "{line}");
    }

    let machine: serde_json::Map<String, Value> =
        machine.into_iter().map(|(what, value)| (what.to_owned(), json!(value))).collect();
    let figures: serde_json::Map<String, Value> = figures
        .iter()
        .map(|(name, f)| {
            (name.clone(), json!({"median_ns": f.median, "low_ns": f.low, "high_ns": f.high}))
        })
        .collect();
    let record = json!({"date": date, "command": command, "machine": machine, "figures": figures});
    std::fs::write(folder.join(format!("{stem}.json")), format!("{record:#}\n"))?;
    let path = folder.join(format!("{stem}.md"));
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Nanoseconds for people.
fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{value:.3} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_their_unit() {
        assert_eq!(time(12.5), "12.500 ns");
        assert_eq!(time(12_500.0), "12.500 µs");
        assert_eq!(time(2.5e9), "2.500 s");
    }

    #[test]
    fn a_record_is_read_back_as_the_last_one() {
        let folder = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let figures =
            BTreeMap::from([("load".to_owned(), Figure { median: 10.0, low: 9.0, high: 11.0 })]);
        write(&folder, "cargo xtask bench", &figures, &BTreeMap::new()).unwrap();
        let before = latest(&folder).unwrap();
        assert_eq!(before, BTreeMap::from([("load".to_owned(), 10.0)]));
        let faster =
            BTreeMap::from([("load".to_owned(), Figure { median: 5.0, low: 4.0, high: 6.0 })]);
        let path = write(&folder, "cargo xtask bench", &faster, &before).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(latest(&folder).unwrap()["load"], 5.0, "the second of the day is the last");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(text.contains("| load | 5.000 ns | 4.000 ns to 6.000 ns | -50.0% |"), "{text}");
    }
}
