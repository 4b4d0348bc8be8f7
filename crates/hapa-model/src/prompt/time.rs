//! The date, for templates that tell the model what day it is.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The present time in UTC by a `strftime` format; directives that no template uses stay as they are.
pub(super) fn strftime(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_at(format, now.as_secs())
}

/// `seconds` since 1970 in UTC by a format.
fn format_at(format: &str, seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month - 1];
    // 1970 began on a Thursday.
    let day_name = DAYS[(days as usize + 4) % 7];
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let text = match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{other}"),
        };
        out.push_str(&text);
    }
    out
}

/// Year, month (1 to 12) and day of a number of days since 1970; Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, usize, u64) {
    // Eras of 400 years begin on 1 March of year 0, 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 Thursday"),
            (951_782_399, "2000-02-28 23:59:59 Monday"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday"),
            (4_107_542_399, "2100-02-28 23:59:59 Sunday"),
            (4_107_542_400, "2100-03-01 00:00:00 Monday"),
            (1_795_348_895, "2026-11-22 12:01:35 Sunday"),
        ] {
            assert_eq!(format_at("%F %T %A", seconds), expected);
        }
        assert_eq!(
            format_at("%d %b %Y, %I:%M %p 100%% %q %", 1_795_348_895),
            "22 Nov 2026, 12:01 PM 100% %q %"
        );
    }
}
