//! The screen: five boxes and a curve, in as much room as there is.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table, Wrap};

use super::view::View;

/// Draws a view; `problem` says why it is not newer.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, url: &str, problem: Option<&str>) {
    let narrow = frame.area().width < 100;
    let [head, curves, middle, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Min(3),
        Constraint::Length(if problem.is_some() { 2 } else { 1 }),
    ])
    .areas(frame.area());
    frame.render_widget(header(view, url, problem.is_some()), head);
    let [tokens, requests] =
        Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(curves);
    curve(
        frame,
        tokens,
        format!(
            " {:.1} tokens/s, {:.0} of prompts{} ",
            view.generated_tokens_per_second,
            view.prompt_tokens_per_second,
            most(&view.history.tokens),
        ),
        &view.history.tokens,
    );
    curve(
        frame,
        requests,
        format!(
            " {:.1} requests/s, {:.1} failed ",
            view.requests_per_second, view.errors_per_second
        ),
        &view.history.requests,
    );
    let [latency, engine, process] =
        Layout::horizontal([Constraint::Length(39), Constraint::Min(18), Constraint::Min(18)])
            .areas(middle);
    frame.render_widget(latencies(view), latency);
    frame.render_widget(engine_box(view), engine);
    frame.render_widget(process_box(view), process);
    let [routes, scopes] =
        Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(lower);
    frame.render_widget(route_table(view, narrow), routes);
    frame.render_widget(scope_table(view), scopes);
    let line = match problem {
        Some(problem) => Line::from(problem.to_owned()).style(Style::new().fg(Color::Red)),
        None => Line::from("q ends").style(Style::new().add_modifier(Modifier::DIM)),
    };
    frame.render_widget(Paragraph::new(line).wrap(Wrap { trim: true }), foot);
}

/// A screen as plain text.
pub(super) fn text(view: &View, url: &str, (width, height): (u16, u16)) -> String {
    // Drawing into memory cannot fail.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, view, url, None));
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    // Without the last line, which tells keys.
    for y in 0..height.saturating_sub(1) {
        let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out
}

fn header<'a>(view: &View, url: &str, away: bool) -> Paragraph<'a> {
    let state = match view.model_state.as_str() {
        _ if away => Span::from("no answer").red(),
        "ready" => Span::from(view.model_state.clone()).green(),
        "failed" => Span::from(view.model_state.clone()).red(),
        _ => Span::from(view.model_state.clone()).yellow(),
    };
    Paragraph::new(Line::from(vec![
        Span::from(format!("hapa {} ", view.version)).bold(),
        Span::from(format!("{url}  up {}  {} ", duration(view.uptime_seconds), view.model)),
        state,
    ]))
}

/// What the highest point that the curve shows stands for; points are tenths.
fn most(points: &VecDeque<u64>) -> String {
    match points.iter().max() {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        Some(&most) if most > 0 => format!(", most {:.0}", most as f64 / 10.0),
        _ => String::new(),
    }
}

fn curve(frame: &mut Frame<'_>, area: Rect, title: String, points: &VecDeque<u64>) {
    let width = usize::from(area.width.saturating_sub(2));
    let from = points.len().saturating_sub(width);
    let newest: Vec<u64> = points.iter().skip(from).copied().collect();
    let sparkline = Sparkline::default()
        .block(Block::bordered().title(title))
        .data(newest)
        .style(Style::new().fg(Color::Cyan));
    frame.render_widget(sparkline, area);
}

fn table<'a>(
    title: &'a str,
    heads: &[&'a str],
    rows: Vec<Row<'a>>,
    first: Constraint,
) -> Table<'a> {
    let mut widths = vec![first];
    widths.extend(
        heads
            .iter()
            .skip(1)
            .map(|head| Constraint::Length(u16::try_from(head.len()).unwrap_or(8).max(7))),
    );
    Table::new(rows, widths)
        .header(Row::new(heads.to_vec()).style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::bordered().title(title))
}

fn latencies(view: &View) -> Table<'_> {
    let cell = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), seconds);
    let row = |latency: &super::view::Latency| {
        Row::new([latency.name.to_owned(), cell(latency.p50), cell(latency.p95), cell(latency.p99)])
    };
    let rows = view.latencies.iter().map(row).collect();
    table(" latency ", &["", "p50", "p95", "p99"], rows, Constraint::Min(12))
}

fn pairs<'a>(title: &'a str, pairs: Vec<(&'a str, String)>) -> Table<'a> {
    let rows: Vec<Row<'a>> =
        pairs.into_iter().map(|(name, value)| Row::new([name.to_owned(), value])).collect();
    Table::new(rows, [Constraint::Length(9), Constraint::Min(7)])
        .block(Block::bordered().title(title))
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.0}%", 100.0 * part))
}

fn engine_box(view: &View) -> Table<'_> {
    let cache = view.caches.iter().find(|cache| cache.tier == "l1");
    pairs(
        " engine and cache ",
        vec![
            ("running", format!("{:.0}", view.running)),
            ("waiting", format!("{:.0}", view.waiting)),
            ("kv", percent(Some(view.kv_usage))),
            ("prefix", percent(view.prefix_hit)),
            ("drafts", percent(view.accepted)),
            ("hits", percent(view.cache_hit_percent.map(|percent| percent / 100.0))),
            (
                "answers",
                cache.map_or_else(
                    || "-".to_owned(),
                    |cache| format!("{:.0} in {}", cache.entries, bytes(cache.bytes)),
                ),
            ),
        ],
    )
}

fn process_box(view: &View) -> Table<'_> {
    pairs(
        " process ",
        vec![
            ("cores", format!("{:.2}", view.cpu_cores)),
            ("memory", bytes(view.resident_bytes)),
            ("of limit", percent(Some(view.memory_ratio))),
            ("threads", format!("{:.0}", view.threads)),
            ("files", format!("{:.0}", view.open_files)),
            ("in flight", format!("{:.0}", view.in_flight)),
            ("shared/s", format!("{:.1}", view.shared_per_second)),
        ],
    )
}

fn route_table(view: &View, narrow: bool) -> Table<'_> {
    let row = |route: &super::view::Endpoint| {
        // What all of HAPA's own routes begin with tells nothing.
        let name = if narrow { route.name.replace("/api/v1/", "/") } else { route.name.clone() };
        Row::new([name, route.count.to_string(), seconds(route.p50), seconds(route.p99)])
    };
    let rows = view.endpoints.iter().map(row).collect();
    table(" routes since the start ", &["route", "count", "p50", "p99"], rows, Constraint::Min(16))
}

fn scope_table(view: &View) -> Table<'_> {
    let row = |scope: &super::view::Scope| {
        Row::new([
            scope.name.clone(),
            format!("{:.1}", scope.calls_per_second),
            format!("{:.1}%", 100.0 * scope.busy),
        ])
    };
    let rows = view.scopes.iter().map(row).collect();
    table(" scopes ", &["scope", "calls/s", "of core"], rows, Constraint::Min(12))
}

fn seconds(time: f64) -> String {
    match time {
        t if t >= 10.0 => format!("{t:.1} s"),
        t if t >= 1.0 => format!("{t:.2} s"),
        t if t >= 0.001 => format!("{:.0} ms", t * 1e3),
        t => format!("{:.0} µs", t * 1e6),
    }
}

fn bytes(count: f64) -> String {
    match count {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.0} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.0} kB", n / 1e3),
        n => format!("{n:.0} B"),
    }
}

fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
    let whole = seconds.max(0.0) as u64;
    match (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", whole % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;

    #[test]
    fn narrow_and_wide_screens_show_everything() {
        for width in [80, 120] {
            let screen = text(&view(), "http://127.0.0.1:8000", (width, 30));
            for wanted in [
                "qwen2.5-coder-0.5b ready",
                "up 1h02m",
                "84.0 tokens/s",
                "11.0 requests/s, 1.0 failed",
                "first token",
                "100 ms",
                "running",
                "75%",
                "734 MB",
                "3.00",
                "ai_prediction",
                "100.0%",
                "1.25 s",
            ] {
                assert!(screen.contains(wanted), "{width} columns lack {wanted}:\n{screen}");
            }
            assert!(screen.lines().all(|line| line.chars().count() <= usize::from(width)));
        }
    }

    #[test]
    fn a_tiny_terminal_does_no_harm() {
        for (width, height) in [(1, 1), (20, 5), (40, 12)] {
            text(&view(), "http://127.0.0.1:8000", (width, height));
        }
    }
}
