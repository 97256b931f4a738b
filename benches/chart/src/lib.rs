//! Drawings as SVG: curves and grouped bars, with a title, axes that name their units, and a legend beside them: inside
//! it would lie on the curves.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// What surrounds the curves.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    pub title: String,
    /// With its unit.
    pub x: String,
    /// With its unit.
    pub y: String,
    pub scale: Scale,
    /// Where the axes begin and end; from the points when absent. Bars begin at zero.
    pub x_range: Option<(f64, f64)>,
    pub y_range: Option<(f64, f64)>,
}

/// Whether equal distances are equal differences or equal factors, on both axes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scale {
    #[default]
    Linear,
    Logarithmic,
}

/// One curve, or one colour of bars (then `y` of each point belongs to the category of the same place).
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }
}

/// Without the legend.
const SIZE: (u32, u32) = (960, 560);
const MARGIN: u32 = 16;
/// Of a legend's text, and of its widest letters.
const LETTER: (u32, u32) = (15, 9);
/// Where a legend begins below the top, and from one line of it to the next.
const LEGEND: (i32, i32) = (60, 24);

/// Colours that differ also for the colour-blind (Okabe and Ito 2008); the first is ours.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
];

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// Curves.
pub fn lines(path: &Path, axes: &Axes, series: &[Series]) -> Result<()> {
    let (x, y) = ranges(axes, series);
    let drawn = match axes.scale {
        Scale::Linear => draw_lines(path, axes, series, x.0..x.1, y.0..y.1),
        Scale::Logarithmic => draw_lines(path, axes, series, (x.0..x.1).log_scale(), (y.0..y.1).log_scale()),
    };
    drawn.with_context(|| format!("cannot draw `{}`", path.display()))
}

/// Curves over axes that are values or factors of ten.
fn draw_lines<X, Y>(path: &Path, axes: &Axes, series: &[Series], x: X, y: Y) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let root = canvas(path, series)?;
    let mut chart = around(&root, axes, series).build_cartesian_2d(x, y).map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc(axes.x.clone())
        .y_desc(axes.y.clone())
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .draw()
        .map_err(drawing)?;
    curves(&mut chart, series)?;
    legend(&root, series)?;
    root.present().map_err(drawing)
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn canvas<'a>(path: &'a Path, series: &[Series]) -> Result<Canvas<'a>> {
    let root = SVGBackend::new(path, (SIZE.0 + legend_width(series), SIZE.1)).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    Ok(root)
}

fn around<'a, 'b>(root: &'a Canvas<'b>, axes: &Axes, series: &[Series]) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(root);
    builder.caption(axes.title.clone(), ("sans-serif", 22)).margin(MARGIN).x_label_area_size(52).y_label_area_size(76);
    builder.margin_right(MARGIN + legend_width(series));
    builder
}

fn curves<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>, series: &[Series]) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    for (place, one) in series.iter().enumerate() {
        let style = colour(place).stroke_width(if place == 0 { 3 } else { 2 });
        chart.draw_series(LineSeries::new(one.points.iter().copied(), style)).map_err(drawing)?;
    }
    Ok(())
}

/// A figure of an axis: as many decimals as it needs, at most three.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// As wide as the longest name.
fn legend_width(series: &[Series]) -> u32 {
    let letters = series.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    MARGIN + 30 + u32::try_from(letters).unwrap_or(0) * LETTER.1
}

/// Names beside their colours, right of the plot.
fn legend(root: &Canvas<'_>, series: &[Series]) -> Result<()> {
    let left = i32::try_from(SIZE.0)?;
    for (place, one) in series.iter().enumerate() {
        let line = LEGEND.0 + LEGEND.1 * i32::try_from(place)?;
        let patch = Rectangle::new([(left, line - 6), (left + 22, line + 6)], colour(place).filled());
        root.draw(&patch).map_err(drawing)?;
        let text = Text::new(one.name.clone(), (left + 30, line - 7), ("sans-serif", LETTER.0));
        root.draw(&text).map_err(drawing)?;
    }
    Ok(())
}

/// Groups of bars, one group for each category, one colour for each series.
pub fn bars(path: &Path, axes: &Axes, categories: &[String], series: &[Series]) -> Result<()> {
    draw_bars(path, axes, categories, series).with_context(|| format!("cannot draw `{}`", path.display()))
}

fn draw_bars(path: &Path, axes: &Axes, categories: &[String], series: &[Series]) -> Result<()> {
    let root = canvas(path, series)?;
    let (_, y) = ranges(axes, series);
    let top = y.1;
    let count = categories.len() as f64;
    let mut chart = around(&root, axes, series).build_cartesian_2d(0.0..count, 0.0..top).map_err(drawing)?;
    let label = |x: &f64| {
        let centre = (x - 0.5).round();
        let is_centre = (x - 0.5 - centre).abs() < 1e-6 && centre >= 0.0;
        let place = categories.iter().enumerate().find(|(place, _)| is_centre && *place as f64 == centre);
        place.map_or_else(String::new, |(_, name)| name.clone())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(categories.len() * 2 + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| number(*value))
        .x_desc(axes.x.clone())
        .y_desc(axes.y.clone())
        .light_line_style(WHITE)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .draw()
        .map_err(drawing)?;
    let width = 0.8 / series.len().max(1) as f64;
    for (place, one) in series.iter().enumerate() {
        let left = |category: usize| category as f64 + 0.1 + width * place as f64;
        let bar = |(category, (_, height)): (usize, &(f64, f64))| {
            let corners = [(left(category), 0.0), (left(category) + width * 0.92, height.min(top))];
            Rectangle::new(corners, colour(place).filled())
        };
        chart.draw_series(one.points.iter().enumerate().map(bar)).map_err(drawing)?;
    }
    legend(&root, series)?;
    root.present().map_err(drawing)
}

/// Where the axes run: as said, else around the points with a little air above.
fn ranges(axes: &Axes, series: &[Series]) -> ((f64, f64), (f64, f64)) {
    let points = || series.iter().flat_map(|one| one.points.iter().copied());
    let x = axes.x_range.unwrap_or_else(|| around_values(points().map(|(x, _)| x), axes.scale));
    let y = axes.y_range.unwrap_or_else(|| around_values(points().map(|(_, y)| y), axes.scale));
    (x, y)
}

fn around_values(values: impl Iterator<Item = f64>, scale: Scale) -> (f64, f64) {
    let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
    let (low, high) = usable.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (1.0, 10.0);
    }
    match scale {
        Scale::Linear => {
            let air = ((high - low) * 0.05).max(1e-9);
            (if low >= 0.0 { (low - air).max(0.0) } else { low - air }, high + air)
        }
        Scale::Logarithmic => (low / 1.3, high * 1.6),
    }
}

/// Errors of the drawing library borrow what they were given.
fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests;
