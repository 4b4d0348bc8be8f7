//! The chart: how many times better each row is, in the review and here.

use plotters::prelude::*;

use super::document::times;
use super::figures::Row;
use crate::error::{CliError, Result};

const SIZE: (u32, u32) = (860, 380);
const INK: RGBColor = RGBColor(60, 60, 60);
const REVIEW: RGBColor = RGBColor(160, 160, 160);
const HERE: RGBColor = RGBColor(31, 98, 184);
/// Where names end and bars begin, in pixels.
const LEFT: u32 = 250;

/// The chart as SVG. Bars are on a logarithmic scale that begins at no gain at all.
pub(super) fn draw(rows: &[Row]) -> Result<String> {
    let mut svg = String::new();
    paint(&mut svg, rows)
        .map_err(|e| CliError::Failed(format!("could not draw the chart: {e}")))?;
    Ok(svg)
}

fn paint(svg: &mut String, rows: &[Row]) -> Result<(), String> {
    let text = |error: DrawingAreaErrorKind<_>| format!("{error}");
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let gains = |row: &Row| [Some(row.review.times_better), row.here.map(|here| here.times_better)];
    let most = rows.iter().flat_map(gains).flatten().fold(10.0, f64::max);
    // Room for the figure behind the longest bar.
    let right = most.powf(1.18);
    let height = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Times better: the review, and this machine",
            ("sans-serif", 18).into_font().color(&INK),
        )
        .margin(14)
        .margin_left(LEFT)
        .x_label_area_size(44)
        .build_cartesian_2d((1.0..right).log_scale(), height..0.0)
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(226, 226, 226))
        .axis_style(RGBColor(120, 120, 120))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc("times better (logarithmic)")
        .x_label_formatter(&|value| times(*value).replace(".0", ""))
        .draw()
        .map_err(text)?;
    let label = ("sans-serif", 13).into_font().color(&INK);
    for (index, row) in rows.iter().enumerate() {
        let top = index as f64;
        for (gain, color, from) in [(gains(row)[0], REVIEW, 0.16), (gains(row)[1], HERE, 0.5)] {
            let Some(gain) = gain.map(|gain| gain.max(1.0)) else { continue };
            let bar = [(1.0, top + from), (gain, top + from + 0.32)];
            chart
                .draw_series(std::iter::once(Rectangle::new(bar, color.filled())))
                .map_err(text)?;
            let place = (gain * most.powf(0.01), top + from + 0.1);
            chart
                .draw_series(std::iter::once(Text::new(times(gain), place, label.clone())))
                .map_err(text)?;
        }
        let (_, y) = chart.backend_coord(&(1.0, top + 0.42));
        area.draw(&Text::new(row.what, (14, y), label.clone())).map_err(text)?;
    }
    for (x, name, color) in [(14, "review", REVIEW), (84, "here", HERE)] {
        let y = i32::try_from(SIZE.1).unwrap_or(0) - 26;
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 10)], color.filled())).map_err(text)?;
        area.draw(&Text::new(name, (x + 18, y), label.clone())).map_err(text)?;
    }
    area.present().map_err(|error| error.to_string())
}
