//! Figures as people read them.

use std::time::Duration;

/// Bytes in the unit that gives three figures: `491 MB`, `1.21 GB`. Decimal, as disks and networks count.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A time with three figures, as a person reads it: `3.2 ms`, `1.25 s`, `2 min 5 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.9995 {
        let ms = seconds * 1e3;
        return if ms < 9.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") };
    }
    if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        whole_seconds(time)
    }
}

/// A time to the second, which does not flicker when shown again and again: `36 s`, `2 min 5 s`.
pub(crate) fn whole_seconds(time: Duration) -> String {
    let whole = time.as_secs_f64().round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A count with its noun: `1 token`, `2 tokens`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Rows under each other, in columns as wide as needed, two blanks between them.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        for (value, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_999, "1.00 MB"),
            (491_400_064, "491 MB"),
            (8_000_000_000, "8.00 GB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
        for (ms, expected) in [
            (0.5, "0.5 ms"),
            (32.4, "32 ms"),
            (999.9, "1.00 s"),
            (1250.0, "1.25 s"),
            (12_340.0, "12.3 s"),
            (60_000.0, "1 min"),
            (125_000.0, "2 min 5 s"),
            (3_725_000.0, "1 h 2 min"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(ms / 1e3)), expected);
        }
        assert_eq!(count(1, "token"), "1 token");
        assert_eq!(count(0, "token"), "0 tokens");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(table(&rows), "a     1\nlong  2\n");
    }
}
