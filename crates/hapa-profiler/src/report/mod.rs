//! Reports: what all threads recorded, merged; as tables, JSON, Markdown and HTML.

mod collect;
mod diff;
mod html;
mod text;

use std::path::Path;

pub use diff::{Diff, DiffRow, Verdict};
use serde::{Deserialize, Serialize};
pub(crate) use text::{human_seconds, table};

use crate::{ProfilerError, memory::MemorySample};

/// The version of the saved form.
const VERSION: u32 = 1;

/// Everything a profiler knew at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// When it was taken, in seconds since 1970.
    pub taken_unix_seconds: f64,
    /// Time since the profiler was made or reset.
    pub elapsed_seconds: f64,
    /// Memory of the process when it was taken.
    pub memory: MemorySample,
    /// Scopes by name, the largest self time first.
    pub scopes: Vec<ScopeStats>,
    /// Scopes by path, the largest total time first on each level.
    pub tree: Vec<TreeNode>,
}

/// One scope, on all paths and threads.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScopeStats {
    /// Its name.
    pub name: String,
    /// Calls that ended, the cancelled and panicked ones included.
    pub calls: u64,
    /// Polls of futures and entries of spans; 0 for plain scopes.
    pub polls: u64,
    /// Futures dropped before their end.
    pub cancelled: u64,
    /// Calls that ended in a panic.
    pub panicked: u64,
    /// Busy time, inner scopes included; recursion counts once.
    pub total_seconds: f64,
    /// Busy time in the scope itself.
    pub self_seconds: f64,
    /// From begin to end of all calls, waiting included.
    pub wall_seconds: f64,
    /// Mean wall time of a call.
    pub mean_seconds: f64,
    /// Shortest wall time of a call.
    pub min_seconds: f64,
    /// Median wall time of a call; this and the next two are within 3.2%.
    pub p50_seconds: f64,
    /// 90% of calls take no longer.
    pub p90_seconds: f64,
    /// 99% of calls take no longer.
    pub p99_seconds: f64,
    /// Longest wall time of a call.
    pub max_seconds: f64,
    /// Allocations made inside; 0 without [`crate::ProfiledAlloc`].
    pub allocations: u64,
    /// Bytes allocated inside.
    pub allocated_bytes: u64,
    /// Most bytes that lived above those at its beginning, of any call.
    pub peak_live_bytes: u64,
    /// Change of resident memory over the calls that asked for it.
    pub resident_delta_bytes: i64,
    /// Calls that asked for it.
    pub resident_calls: u64,
    /// End of the last call, in seconds since 1970; 0 when none ended yet.
    pub last_call_unix_seconds: f64,
    /// Wall times: `(bucket, calls)` of the histogram, for comparisons.
    pub histogram: Vec<(u32, u64)>,
}

/// One path of the call tree.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TreeNode {
    /// The scope's name.
    pub name: String,
    /// Calls on this path that ended.
    pub calls: u64,
    /// Busy time on this path, the paths below included.
    pub total_seconds: f64,
    /// Busy time on this path alone.
    pub self_seconds: f64,
    /// Bytes allocated on this path, the paths below included.
    pub allocated_bytes: u64,
    /// The paths below.
    pub children: Vec<TreeNode>,
}

impl Report {
    /// The scope of that name.
    pub fn scope(&self, name: &str) -> Option<&ScopeStats> {
        self.scopes.iter().find(|scope| scope.name == name)
    }

    /// The node at a path of names.
    pub fn path(&self, path: &[&str]) -> Option<&TreeNode> {
        let (first, rest) = path.split_first()?;
        let mut node = self.tree.iter().find(|node| node.name == *first)?;
        for name in rest {
            node = node.children.iter().find(|node| node.name == *name)?;
        }
        Some(node)
    }

    /// JSON, for [`Report::load`] and other programs.
    pub fn to_json(&self) -> String {
        #[expect(clippy::expect_used, reason = "strings and finite numbers always serialise")]
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }

    /// Reads what [`Report::to_json`] wrote.
    ///
    /// # Errors
    /// [`ProfilerError::File`], [`ProfilerError::Format`] or [`ProfilerError::Version`].
    pub fn load(path: &Path) -> Result<Self, ProfilerError> {
        let text = std::fs::read_to_string(path).map_err(|source| ProfilerError::File {
            action: "reading",
            path: path.to_owned(),
            source,
        })?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|source| ProfilerError::Format { path: path.to_owned(), source })?;
        if report.version != VERSION {
            return Err(ProfilerError::Version { found: report.version, known: VERSION });
        }
        Ok(report)
    }

    /// Writes [`Report::to_json`].
    ///
    /// # Errors
    /// [`ProfilerError::File`].
    pub fn save(&self, path: &Path) -> Result<(), ProfilerError> {
        std::fs::write(path, self.to_json()).map_err(|source| ProfilerError::File {
            action: "writing",
            path: path.to_owned(),
            source,
        })
    }

    /// What changed from `before` to this report.
    pub fn diff(&self, before: &Self) -> Diff {
        Diff::of(before, self)
    }
}
