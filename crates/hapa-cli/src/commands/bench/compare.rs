//! `hapa bench compare`: two reports of `hapa bench serve` side by side.

use std::path::PathBuf;

use clap::Args;
use hapa_loadtest::{Report, compare};

use crate::console::{print, print_json};
use crate::error::Result;

/// Ratios of two reports of `hapa bench serve`, with 95% bootstrap intervals
///
/// Latencies are resampled by request, throughputs by second. To compare two servers that run at the same time, `hapa
/// bench serve --vs URL` is better: by turns, whatever else the machine does meets both.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa bench serve --output before.json
  hapa bench serve --output after.json
  hapa bench compare before.json after.json

--json prints {a, b, warnings, ratios: [{metric, unit, a, b, ratio, interval, higher_is_better}]}.")]
pub(crate) struct Compare {
    /// The first report
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The second
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        let comparison = compare(&Report::read(&self.a)?, &Report::read(&self.b)?);
        if self.json { print_json(&comparison) } else { print(&comparison.table()) }
    }
}
