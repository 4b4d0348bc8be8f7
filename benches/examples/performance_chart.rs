//! Draws a record of `cargo xtask peers engine batch` as a roofline: tokens a second over the sequences that share a
//! step, below what the machine's memory and its arithmetic allow.
//!
//! ```console
//! $ cargo run --release -p hapa-benches --example performance_chart -- benches/records/DATE-peers.json docs/performance.svg
//! ```

use std::error::Error;
use std::fs;

use plotters::prelude::*;
use serde_json::Value;

/// Rows of a step while a prompt is read, as the engine does it.
const PROMPT_ROWS: f64 = 256.0;
const GREY: RGBColor = RGBColor(110, 110, 110);
const BLUE: RGBColor = RGBColor(31, 98, 184);
const ORANGE: RGBColor = RGBColor(208, 82, 22);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(record), Some(chart)) = (arguments.next(), arguments.next()) else {
        return Err("usage: performance_chart RECORD.json CHART.svg".into());
    };
    let text = fs::read_to_string(&record).map_err(|e| format!("{record}: {e}"))?;
    let record: Value = serde_json::from_str(&text).map_err(|e| format!("{record}: {e}"))?;
    fs::write(&chart, draw(&record)?).map_err(|e| format!("{chart}: {e}"))?;
    Ok(())
}

/// Rows of a step, and tokens a second.
type Points = Vec<(f64, f64)>;

fn points(record: &Value, who: &str) -> Result<Points, Box<dyn Error>> {
    let mut points = Points::new();
    for figure in record["peers"].as_array().ok_or("the record has no `peers`")? {
        let work = figure["work"].as_str().unwrap_or_default();
        let rows = match work.split([',', ' ']).collect::<Vec<_>>()[..] {
            ["prefill", ..] => PROMPT_ROWS,
            ["decode", "", "one", "sequence", ..] => 1.0,
            ["decode", "", count, "sequences", ..] => count.parse()?,
            _ => continue,
        };
        let mut values: Vec<f64> =
            figure[who].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len().saturating_sub(1) / 2);
        points.push((rows, *median.ok_or_else(|| format!("`{work}` has no {who}"))?));
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(points)
}

/// What memory and arithmetic allow for a step of so many rows.
fn roof(limits: &Value) -> Result<impl Fn(f64) -> f64, Box<dyn Error>> {
    let number = |name: &str| {
        limits[name].as_f64().ok_or_else(|| {
            format!("the record has no limits.{name}; was `engine` among its parts?")
        })
    };
    let read = number("read_bytes_per_second")? / number("weight_bytes")?;
    let macs = number("byte_macs_per_second")?;
    let (token, logits) = (number("token_macs")?, number("logits_macs")?);
    Ok(move |rows: f64| {
        let macs_each = if rows < PROMPT_ROWS { token + logits } else { token };
        (rows * read).min(macs / macs_each)
    })
}

fn draw(record: &Value) -> Result<String, Box<dyn Error>> {
    let (hapa, llama) = (points(record, "hapa")?, points(record, "llama_cpp")?);
    let roof = roof(&record["limits"])?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (760, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let title = format!(
            "{} on {}, {} threads",
            record["model"].as_str().unwrap_or_default(),
            record["machine"]["processor"].as_str().unwrap_or_default(),
            record["threads"]
        );
        let highest = roof(PROMPT_ROWS) * 1.6;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 17))
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d((0.9..300.0).log_scale(), (20.0..highest).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("rows of a step: sequences that decode together; 256 while a prompt is read")
            .y_desc("tokens a second")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(RGBColor(240, 240, 240))
            .draw()?;
        let steps = (0..=80).map(|step| PROMPT_ROWS.powf(f64::from(step) / 80.0));
        let line = steps.map(|rows| (rows, roof(rows)));
        chart
            .draw_series(LineSeries::new(line, GREY.stroke_width(2)))?
            .label("limit of memory, then of arithmetic")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], GREY.stroke_width(2)));
        for (name, points, color) in [("HAPA", hapa, BLUE), ("llama.cpp", llama, ORANGE)] {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                });
            chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(RGBColor(220, 220, 220))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
