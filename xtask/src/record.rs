//! What a benchmark record says about when and where it was taken.

use crate::tools::try_output;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Today in UTC, as `2026-03-09`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The machine and the code, as lines of `what: value`.
pub(crate) fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let flags = field("flags").unwrap_or_default();
    let notable = ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"];
    let has = |flag: &&str| flags.split(' ').any(|word| word == *flag);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok());
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let dirty = try_output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let commit = try_output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    vec![
        ("processor", field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
        ("logical cores", threads.to_string()),
        (
            "instruction sets",
            notable.iter().filter(|f| has(f)).copied().collect::<Vec<_>>().join(" "),
        ),
        ("memory", memory.map_or_else(String::new, |kib| format!("{} GiB", kib / (1 << 20)))),
        (
            "system",
            try_output("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.to_owned()),
        ),
        ("compiler", try_output("rustc", &["--version"]).unwrap_or_default()),
        (
            "commit",
            if dirty.is_some_and(|text| !text.is_empty()) {
                format!("{commit} and local changes")
            } else {
                commit
            },
        ),
    ]
}

/// Writes `benches/records/DATE-NAME.{md,json}`, with a number where there is one of that day. The text is a title with facts below it, and
/// what follows the machine's facts; the value gets date and machine.
pub(crate) fn write(name: &str, (head, body): (&str, &str), mut value: Value) -> Result<PathBuf> {
    let folder = crate::root().join("benches/records");
    std::fs::create_dir_all(&folder)?;
    let date = today();
    let stem = (1..)
        .map(|n| if n == 1 { format!("{date}-{name}") } else { format!("{date}-{name}-{n}") })
        .find(|stem| !folder.join(format!("{stem}.json")).exists())
        .context("no free record name")?;
    let machine = machine();
    let (title, facts) = head.split_once('\n').unwrap_or((head, ""));
    let mut text = format!("# {title}, {date}\n{facts}");
    for (what, value) in &machine {
        let _ = writeln!(text, "- {what}: {value}");
    }
    let _ = write!(text, "\n{body}");
    let machine: serde_json::Map<String, Value> =
        machine.into_iter().map(|(what, value)| (what.to_owned(), json!(value))).collect();
    value["date"] = json!(date);
    value["machine"] = json!(machine);
    std::fs::write(folder.join(format!("{stem}.json")), format!("{value:#}\n"))?;
    let path = folder.join(format!("{stem}.md"));
    std::fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_become_dates() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(11_016), (2000, 2, 29));
        assert_eq!(super::civil(19_723), (2024, 1, 1));
        assert_eq!(super::civil(20_779), (2026, 11, 22));
    }
}
