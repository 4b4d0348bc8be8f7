//! Charts as SVG text.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use super::table::{digits, time};
use crate::error::LoadError;

const SIZE: (u32, u32) = (720, 340);
const COLORS: [RGBColor; 4] =
    [RGBColor(31, 98, 184), RGBColor(208, 82, 22), RGBColor(24, 132, 84), RGBColor(130, 60, 160)];

/// Where the plot begins, from the left.
const LEFT: i32 = 86;
/// Width of a letter of the legend, about.
const LETTER: i32 = 7;

fn label_font() -> TextStyle<'static> {
    ("sans-serif", 13).into_font().color(&RGBColor(60, 60, 60))
}

/// Points that are drawn as dots also where they are joined by a line.
const FEW: usize = 24;

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
                // Powers of ten alone would leave a short axis without numbers.
                let base = if high / low < 100.0 { 2.0 } else { 10.0 };
                self.draw(&area, (low..high).log_scale().base(base), top)
            } else {
                self.draw(&area, low..high, top)
            };
            drawn.map_err(|reason| LoadError::Chart { chart: self.title, reason })?;
        }
        Ok(Some(text))
    }

    /// Whether names of the series are shown: one alone is the chart's title.
    fn legend(&self) -> bool {
        self.series.len() > 1
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
            .margin_top(if self.legend() { 32 } else { 12 })
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
            .label_style(label_font())
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
            if !series.dots {
                let line = LineSeries::new(points.clone(), color.stroke_width(2));
                chart.draw_series(line).map_err(text)?;
            }
            // Few points are shown each: what lies between them was not measured.
            let few = series.points.len() <= FEW;
            let (radius, style) = match (series.dots, few) {
                (true, true) => (6, color.filled()),
                (true, false) => (2, color.mix(0.5).filled()),
                (false, true) => (3, color.filled()),
                (false, false) => continue,
            };
            let dots = points.map(|point| Circle::new(point, radius, style));
            chart.draw_series(dots).map_err(text)?;
        }
        if self.legend() {
            // Above the plot, where no curve can be below it.
            let mut x = LEFT;
            for (series, color) in self.series.iter().zip(COLORS.iter().cycle()) {
                let mark = Rectangle::new([(x, 12), (x + 12, 20)], color.filled());
                area.draw(&mark).map_err(text)?;
                let name = Text::new(series.name.as_str(), (x + 18, 9), label_font());
                area.draw(&name).map_err(text)?;
                x += 44 + LETTER * i32::try_from(series.name.chars().count()).unwrap_or(0);
            }
        }
        area.present().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart<'static> {
        let axis = |name| (name, Axis::Number);
        Chart { title: "t", x: axis("x"), y: axis("y"), log_x: false, series }
    }

    fn line(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec(), dots: false }
    }

    #[test]
    fn a_short_logarithmic_axis_has_its_numbers_and_few_points_are_seen() {
        let mut chart = chart(vec![line("alone", &[(1.0, 1.0), (2.0, 3.0), (8.0, 4.0)])]);
        chart.log_x = true;
        let svg = chart.svg().unwrap().unwrap();
        let lines: Vec<&str> = svg.lines().map(str::trim).collect();
        assert!(["1", "2", "4", "8"].iter().all(|number| lines.contains(number)), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
    }

    #[test]
    fn names_stand_above_the_plot_and_side_by_side() {
        let points = [(0.0, 1.0), (1.0, 2.0)];
        let svg = chart(vec![line("first one", &points), line("other", &points)]).svg().unwrap();
        let svg = svg.unwrap();
        let place = |name: &str| {
            let before = &svg[..svg.find(name).unwrap()];
            let tag = &before[before.rfind("<text").unwrap()..];
            let number = |key: &str| -> f64 {
                let from = tag.find(&format!(" {key}=\"")).unwrap() + key.len() + 3;
                tag[from..].split('"').next().unwrap().parse().unwrap()
            };
            (number("x"), number("y"))
        };
        let (first, other) = (place("first one"), place("other"));
        assert!(first.0 + 7.0 * 9.0 < other.0 && first.1 < 30.0 && other.1 < 30.0, "{svg}");
        let alone = chart(vec![line("first one", &points)]).svg().unwrap().unwrap();
        assert!(!alone.contains("first one"), "{alone}");
        assert!(chart(vec![line("none", &[])]).svg().unwrap().is_none());
    }
}
