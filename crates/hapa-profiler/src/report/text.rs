//! Reports as plain text and Markdown.

use std::fmt::Write as _;

use super::{Report, ScopeStats, TreeNode};
use crate::memory::human_bytes;

/// `1.23 ms`: times for people, three figures.
pub(crate) fn human_seconds(seconds: f64) -> String {
    let (value, unit) = match seconds.abs() {
        0.0 => return "0".to_owned(),
        s if s < 1e-6 => (seconds * 1e9, "ns"),
        s if s < 1e-3 => (seconds * 1e6, "us"),
        s if s < 1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let digits = match value.abs() {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn bytes(bytes: u64) -> String {
    human_bytes(bytes as f64)
}

const HEADS: [&str; 9] = ["scope", "calls", "total", "self", "mean", "p50", "p90", "p99", "max"];

impl Report {
    fn counts_allocations(&self) -> bool {
        self.scopes.iter().any(|scope| scope.allocations > 0)
    }

    /// Rows of the flat table, without the name's decoration.
    pub(super) fn rows(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let allocations = self.counts_allocations();
        let resident = self.scopes.iter().any(|scope| scope.resident_calls > 0);
        let mut heads = HEADS.to_vec();
        if allocations {
            heads.extend(["allocs", "bytes", "peak"]);
        }
        if resident {
            heads.push("resident");
        }
        let row = |scope: &ScopeStats| {
            let mut row = vec![scope.name.clone(), scope.calls.to_string()];
            row.extend(
                [
                    scope.total_seconds,
                    scope.self_seconds,
                    scope.mean_seconds,
                    scope.p50_seconds,
                    scope.p90_seconds,
                    scope.p99_seconds,
                    scope.max_seconds,
                ]
                .map(human_seconds),
            );
            if allocations {
                row.extend([
                    scope.allocations.to_string(),
                    bytes(scope.allocated_bytes),
                    bytes(scope.peak_live_bytes),
                ]);
            }
            if resident {
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                row.push(if scope.resident_calls == 0 {
                    String::new()
                } else {
                    human_bytes(scope.resident_delta_bytes as f64)
                });
            }
            row
        };
        (heads, self.scopes.iter().map(row).collect())
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "{} of recording; resident {}, peak {}, {:.1}% of the system's memory",
            human_seconds(self.elapsed_seconds),
            bytes(self.memory.resident_bytes),
            bytes(self.memory.peak_resident_bytes),
            self.memory.percent_of_system
        )
    }

    /// A table of all scopes and the call tree, for a terminal.
    pub fn to_table(&self) -> String {
        let (heads, rows) = self.rows();
        let mut out = self.summary();
        out.push_str("\n\n");
        table(&mut out, &heads, &rows);
        if !self.tree.is_empty() {
            out.push('\n');
            let mut rows = Vec::new();
            flatten(&self.tree, 0, self.whole(), &mut rows);
            table(&mut out, &["call tree", "part", "calls", "total", "self"], &rows);
        }
        out
    }

    /// The time that parts of the tree are given of.
    fn whole(&self) -> f64 {
        self.tree.iter().map(|node| node.total_seconds).sum()
    }

    /// The same in Markdown.
    pub fn to_markdown(&self) -> String {
        let (heads, rows) = self.rows();
        let mut out = format!("# Profile\n\n{}.\n\n", self.summary());
        markdown_table(&mut out, &heads, &rows);
        if !self.tree.is_empty() {
            out.push_str("\n## Call tree\n\n```\n");
            let mut rows = Vec::new();
            flatten(&self.tree, 0, self.whole(), &mut rows);
            table(&mut out, &["call tree", "part", "calls", "total", "self"], &rows);
            out.push_str("```\n");
        }
        out
    }
}

fn flatten(level: &[TreeNode], depth: usize, whole: f64, rows: &mut Vec<Vec<String>>) {
    for node in level {
        let part = if whole > 0.0 { 100.0 * node.total_seconds / whole } else { 0.0 };
        rows.push(vec![
            format!("{}{}", "  ".repeat(depth), node.name),
            format!("{part:.1}%"),
            node.calls.to_string(),
            human_seconds(node.total_seconds),
            human_seconds(node.self_seconds),
        ]);
        flatten(&node.children, depth + 1, whole, rows);
    }
}

/// The first column to the left, the others to the right.
pub(crate) fn table(out: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<_> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

pub(super) fn markdown_table(out: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(out, "| {} |", heads.join(" | "));
    let aligned: Vec<_> = (0..heads.len()).map(|at| if at == 0 { "---" } else { "---:" }).collect();
    let _ = writeln!(out, "| {} |", aligned.join(" | "));
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .enumerate()
            .map(|(at, cell)| {
                let cell = cell.replace('|', "\\|");
                if at == 0 { format!("`{cell}`") } else { cell }
            })
            .collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let cases = [
            (0.0, "0"),
            (3.21e-8, "32.1 ns"),
            (0.000_001_5, "1.50 us"),
            (0.045_67, "45.7 ms"),
            (0.1234, "123 ms"),
            (12.345, "12.3 s"),
            (1234.0, "1234 s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_seconds(seconds), text);
        }
    }
}
