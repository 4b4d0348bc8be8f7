//! The figures as a table, and the record of a run.

use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::Options;
use super::hapa::Limits;

/// One figure of both, measured one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) hapa: f64,
    pub(super) llama: f64,
}

/// One line of the comparison.
#[derive(Debug, Clone)]
pub(super) struct Row {
    name: String,
    unit: &'static str,
    more_is_better: bool,
    pub(super) pairs: Vec<Pair>,
}

impl Row {
    /// A figure that is better the higher it is.
    pub(super) fn more(name: &str, unit: &'static str) -> Self {
        Self { name: name.to_owned(), unit, more_is_better: true, pairs: Vec::new() }
    }

    /// A figure that is better the lower it is.
    pub(super) fn less(name: &str, unit: &'static str) -> Self {
        Self { more_is_better: false, ..Self::more(name, unit) }
    }

    /// How many times better HAPA is, pair by pair, ascending.
    fn ratios(&self) -> Vec<f64> {
        let ratio = |pair: &Pair| {
            if self.more_is_better { pair.hapa / pair.llama } else { pair.llama / pair.hapa }
        };
        let mut ratios: Vec<f64> = self.pairs.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn cells(&self) -> [String; 5] {
        let of = |pick: fn(&Pair) -> f64| median(self.pairs.iter().map(pick).collect());
        let ratios = self.ratios();
        let ends = ratios.first().zip(ratios.last()).map_or((0.0, 0.0), |(a, b)| (*a, *b));
        [
            self.name.clone(),
            format!("{} {}", number(of(|p| p.hapa)), self.unit),
            format!("{} {}", number(of(|p| p.llama)), self.unit),
            format!("{:.2}x", median(ratios)),
            format!("{:.2} to {:.2}", ends.0, ends.1),
        ]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.cells().join(" | "))
    }
}

/// The middle of some values; of two, the lower.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

/// Writes `benches/records/DATE-peers.{md,json}`.
pub(super) fn write(
    command: &str,
    options: &Options,
    rows: &[Row],
    limits: &[Limits],
) -> Result<PathBuf> {
    let mut head = format!(
        "HAPA and llama.cpp b11434\n\n- command: `{command}`\n- model: {}, {} threads each\n",
        options.model, options.threads
    );
    let limit = |of: fn(&Limits) -> f64| median(limits.iter().map(of).collect());
    if !limits.is_empty() {
        let _ = writeln!(
            head,
            "- limits: memory is read at {:.1} GB/s, bytes are multiplied at {:.0} GMAC/s",
            limit(|l| l.read_bytes_per_second) / 1e9,
            limit(|l| l.byte_macs_per_second) / 1e9
        );
        let _ = writeln!(
            head,
            "- of the limits around each run: prefill {:.0}%, decode of one sequence {:.0}%",
            limit(|l| l.reached[0]) * 100.0,
            limit(|l| l.reached[1]) * 100.0
        );
    }
    let mut text = String::from(
        "Medians of runs in turn; a ratio above 1 says that HAPA is better.\n\n\
         | work | HAPA | llama.cpp | ratio | from, to |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    let figures: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "work": row.name,
                "unit": row.unit,
                "more_is_better": row.more_is_better,
                "hapa": row.pairs.iter().map(|p| p.hapa).collect::<Vec<_>>(),
                "llama_cpp": row.pairs.iter().map(|p| p.llama).collect::<Vec<_>>(),
                "ratio": median(row.ratios()),
            })
        })
        .collect();
    let limits = json!({
        "read_bytes_per_second": limit(|l| l.read_bytes_per_second),
        "byte_macs_per_second": limit(|l| l.byte_macs_per_second),
        "weight_bytes": limit(|l| l.weight_bytes),
        "token_macs": limit(|l| l.token_macs),
        "logits_macs": limit(|l| l.logits_macs),
        "reached": {"prefill": limit(|l| l.reached[0]), "decode": limit(|l| l.reached[1])},
    });
    let record = json!({
        "command": command, "model": options.model, "threads": options.threads, "limits": limits,
        "peers": figures,
    });
    crate::record::write("peers", (&head, &text), record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_much_better_whichever_way_is_better() {
        let mut row = Row::more("decode", "tokens/s");
        row.pairs = vec![Pair { hapa: 90.0, llama: 45.0 }, Pair { hapa: 60.0, llama: 20.0 }];
        assert_eq!(row.ratios(), [2.0, 3.0]);
        let mut row = Row::less("start", "s");
        row.pairs = vec![Pair { hapa: 0.5, llama: 2.0 }];
        assert_eq!(row.to_string(), "| start | 0.500 s | 2.000 s | 4.00x | 4.00 to 4.00 |");
    }
}
