//! Charts as SVG text.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use super::table::{digits, time};
use crate::error::LoadError;

const SIZE: (u32, u32) = (720, 340);
const COLORS: [RGBColor; 4] =
    [RGBColor(31, 98, 184), RGBColor(208, 82, 22), RGBColor(24, 132, 84), RGBColor(130, 60, 160)];

/// Points of one kind.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Dots rather than a line.
    pub(super) dots: bool,
}

/// What the numbers of an axis are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Axis {
    Seconds,
    Number,
    Percent,
}

/// A chart.
pub(super) struct Chart<'a> {
    pub(super) title: &'static str,
    pub(super) x: (&'a str, Axis),
    pub(super) y: (&'a str, Axis),
    /// Whether the horizontal axis is logarithmic; its numbers must be above 0 then.
    pub(super) log_x: bool,
    pub(super) series: Vec<Series>,
}

impl Chart<'_> {
    /// The SVG element; `None` when there is no point.
    pub(super) fn svg(&self) -> Result<Option<String>, LoadError> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let finite = points().filter(|(x, y)| x.is_finite() && y.is_finite());
        let (mut low, mut high, mut top) = (f64::INFINITY, f64::NEG_INFINITY, 0.0_f64);
        for (x, y) in finite {
            (low, high, top) = (low.min(*x), high.max(*x), top.max(*y));
        }
        if low > high || (self.log_x && low <= 0.0) {
            return Ok(None);
        }
        if low == high {
            (low, high) = if self.log_x { (low / 2.0, high * 2.0) } else { (low, high + 1.0) };
        }
        let top = if self.y.1 == Axis::Percent { 100.0 } else { (top * 1.05).max(1e-9) };
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            let drawn = if self.log_x {
                self.draw(&area, (low..high).log_scale(), top)
            } else {
                self.draw(&area, low..high, top)
            };
            drawn.map_err(|reason| LoadError::Chart { chart: self.title, reason })?;
        }
        Ok(Some(text))
    }

    fn draw<X>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        x: impl plotters::coord::ranged1d::AsRangedCoord<CoordDescType = X, Value = f64>,
        top: f64,
    ) -> Result<(), String>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let text = |error: DrawingAreaErrorKind<_>| error.to_string();
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(74)
            .build_cartesian_2d(x, 0.0..top)
            .map_err(text)?;
        let format = |axis: Axis, value: &f64| match axis {
            Axis::Seconds => time(*value),
            Axis::Percent => format!("{value:.0}%"),
            Axis::Number if value.fract() == 0.0 => format!("{value}"),
            Axis::Number => digits(*value),
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(226, 226, 226))
            .axis_style(RGBColor(120, 120, 120))
            .label_style(("sans-serif", 13).into_font().color(&RGBColor(60, 60, 60)))
            .x_labels(8)
            .y_labels(6)
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_label_formatter(&|value| format(self.x.1, value))
            .y_label_formatter(&|value| format(self.y.1, value))
            .draw()
            .map_err(text)?;
        for (series, color) in self.series.iter().zip(COLORS.iter().cycle()) {
            if series.points.is_empty() {
                continue;
            }
            let points = series.points.iter().copied();
            let drawn = if series.dots {
                let dots = points.map(|point| Circle::new(point, 2, color.mix(0.5).filled()));
                chart.draw_series(dots)
            } else {
                chart.draw_series(LineSeries::new(points, color.stroke_width(2)))
            };
            drawn.map_err(text)?.label(&series.name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 4), (x + 12, y + 4)], color.filled())
            });
        }
        if self.series.len() > 1 {
            let place = match self.y.1 {
                Axis::Percent => SeriesLabelPosition::LowerRight,
                _ => SeriesLabelPosition::UpperLeft,
            };
            chart
                .configure_series_labels()
                .position(place)
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(200, 200, 200))
                .label_font(("sans-serif", 13).into_font().color(&RGBColor(60, 60, 60)))
                .draw()
                .map_err(text)?;
        }
        area.present().map_err(|error| error.to_string())
    }
}
