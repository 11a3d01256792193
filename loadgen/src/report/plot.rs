//! Plots as SVG: lines over a linear, a logarithmic or a quantile axis, bars and intervals.
//!
//! The colours in the SVG are names for what is drawn: the page that holds it gives them those of a light or a dark
//! screen (`style`).

use std::fmt::Write;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::report::html::escape;

/// Of a plot of lines: how wide and how high it is.
pub const SIZE: (u32, u32) = (880, 320);
const LABEL_SIZE: u32 = 13;

/// The quantile beyond which a plot says no more.
const QUANTILE_MAX: f64 = 0.999_999;

/// The style replaces it.
const GRID: RGBColor = RGBColor(2, 2, 2);

/// The colour of each line in turn, for a light and a dark screen: told apart also by those who see fewer colours.
pub const COLOURS: [(&str, &str); 4] =
    [("#2a78d6", "#3987e5"), ("#eb6834", "#d95926"), ("#1baf7a", "#199e70"), ("#4a3aa7", "#9085e9")];

/// How values get their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Around the values, wherever they lie.
    Span,
    Log,
    /// Of values from 0 to 1: each nine as wide as the last.
    Quantile,
}

pub struct Axis {
    pub name: &'static str,
    pub scale: Scale,
    /// A value in words.
    pub label: fn(f64) -> String,
}

pub struct Line<'a> {
    pub name: &'a str,
    /// By x. Where there is no y, or one that is infinite, the line has a gap.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Draws lines, in their order the first four colours.
pub fn svg(x: &Axis, y: &Axis, lines: &[Line<'_>]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, x, y, lines).map_err(|error| anyhow!("drawing a plot: {error}"))?;
    Ok(svg)
}

/// A value with its interval.
pub struct Bar<'a> {
    pub name: &'a str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Bars that are told apart from others by a title.
pub struct Group<'a> {
    pub title: String,
    pub bars: Vec<Bar<'a>>,
}

/// Of a row of bars: how high it is, where its bar begins, and where the longest one ends.
const ROW_HEIGHT: usize = 22;
const BARS_BEGIN: f64 = 130.0;
const BARS_END: f64 = 720.0;

/// Draws bars from zero to the right, all on one scale, with a mark at one: each is as long as a multiple of something.
pub fn bars(groups: &[Group<'_>], label: fn(f64) -> String) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let all = || groups.iter().flat_map(|group| &group.bars);
    let most = all().map(|bar| bar.high).fold(1.0, f64::max);
    let at = |value: f64| BARS_BEGIN + value / most * (BARS_END - BARS_BEGIN);
    let (width, height) = (SIZE.0, rows * ROW_HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"{LABEL_SIZE}\">\n"
    );
    let mut top = 0;
    for group in groups {
        let text_at = top + ROW_HEIGHT;
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{text_at}\" font-weight=\"600\">{}</text>",
            escape(&group.title)
        );
        let (from, to) = (text_at + ROW_HEIGHT / 3, text_at + ROW_HEIGHT * group.bars.len() + ROW_HEIGHT / 3);
        for bar in &group.bars {
            top += ROW_HEIGHT;
            let (x, length, middle) = (BARS_BEGIN, at(bar.value) - BARS_BEGIN, top + ROW_HEIGHT - 4);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{x:.1}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{}\"/>\
                 <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"currentColor\" stroke-width=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                x - 8.0,
                middle + 4,
                escape(bar.name),
                middle - 6,
                name(colour(0)),
                at(bar.low),
                at(bar.high),
                at(bar.high) + 8.0,
                middle + 4,
                label(bar.value),
            );
        }
        let one = at(1.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{one:.1} {from}V{to}\" stroke=\"{}\" stroke-width=\"1\"/>",
            name(colour(1))
        );
        top += 2 * ROW_HEIGHT;
    }
    svg + "</svg>\n"
}

/// A change with its interval.
pub struct Interval<'a> {
    pub name: &'a str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// What it is to be seen beside, as a ring.
    pub beside: Option<f64>,
}

/// Draws intervals on one scale, with marks across all of them.
pub fn intervals(rows: &[Interval<'_>], marks: &[(f64, String)], label: fn(f64) -> String) -> String {
    let of_rows = rows.iter().flat_map(|row| [Some(row.low), Some(row.high), row.beside]).flatten();
    let all = || of_rows.clone().chain(marks.iter().map(|&(at, _)| at));
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let span = (most - least).max(f64::MIN_POSITIVE);
    let at = |value: f64| BARS_BEGIN + (value - least) / span * (BARS_END - BARS_BEGIN);
    // The words of marks that stand close together go below each other.
    let (width, bottom) = (SIZE.0, (rows.len() + 1) * ROW_HEIGHT);
    let height = bottom + marks.len() * ROW_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"{LABEL_SIZE}\">\n"
    );
    for (index, (value, words)) in marks.iter().enumerate() {
        let (x, text_at) = (at(*value), bottom + index * ROW_HEIGHT + ROW_HEIGHT / 2);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {}V{text_at}\" stroke=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            ROW_HEIGHT / 2,
            name(GRID),
            x + 4.0,
            text_at,
            escape(words)
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = (index + 1) * ROW_HEIGHT;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"{}\" stroke-width=\"3\"/>\
             <circle cx=\"{:.1}\" cy=\"{middle}\" r=\"5\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            BARS_BEGIN - 8.0,
            middle + 4,
            escape(row.name),
            at(row.low),
            at(row.high),
            name(colour(0)),
            at(row.value),
            name(colour(0)),
            at(row.high) + 10.0,
            middle + 4,
            label(row.value)
        );
        if let Some(beside) = row.beside {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"4\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                at(beside),
                name(colour(1))
            );
        }
    }
    svg + "</svg>\n"
}

/// The same page, with a word in a corner of each of its plots: one that is taken out of it still says so.
pub fn marked(page: &str, word: &str) -> String {
    let (right, size) = (SIZE.0 - 44, LABEL_SIZE);
    let mark = format!(
        "<text x=\"{right}\" y=\"{size}\" text-anchor=\"end\" font-family=\"sans-serif\" font-size=\"{size}\">{word}</text></svg>"
    );
    page.replace("</svg>", &mark)
}

/// The names of the lines beside their colours, as HTML.
pub fn legend(lines: &[Line<'_>]) -> String {
    let mut html = String::from("<p class=legend>");
    for (index, line) in lines.iter().enumerate() {
        let _ =
            write!(html, "<span class=\"key line{}\"></span>{} ", index % COLOURS.len(), escape(line.name));
    }
    html + "</p>"
}

/// CSS that gives the lines, the grid and the words of every plot the page's colours: `--line0` and so on, `--soft` and
/// `--grid`.
pub fn style() -> String {
    let mut css = String::from("svg text{fill:var(--soft)}");
    let _ = write!(css, "svg [stroke=\"{}\"]{{stroke:var(--grid)}}", name(GRID));
    for index in 0..COLOURS.len() {
        let name = name(colour(index));
        let _ = write!(
            css,
            "svg [stroke=\"{name}\"]{{stroke:var(--line{index})}}svg [fill=\"{name}\"]{{fill:var(--line{index})}}\
             .line{index}{{background:var(--line{index})}}"
        );
    }
    css
}

fn colour(index: usize) -> RGBColor {
    RGBColor(0x10, 0, (index % COLOURS.len()) as u8)
}

/// As the SVG has it.
fn name(colour: RGBColor) -> String {
    let RGBColor(r, g, b) = colour;
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn draw(svg: &mut String, x: &Axis, y: &Axis, lines: &[Line<'_>]) -> Result<(), Box<dyn std::error::Error>> {
    // Everything is placed here and drawn on linear axes: plotters chooses the marks of other scales by itself.
    let placed: Vec<Vec<Vec<(f64, f64)>>> = lines.iter().map(|line| runs(line, x.scale, y.scale)).collect();
    let all = || placed.iter().flatten().flatten();
    let x_places = Places::new(x.scale, all().map(|point| point.0));
    let y_places = Places::new(y.scale, all().map(|point| point.1));

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(44)
        .x_label_area_size(42)
        .y_label_area_size(84)
        .build_cartesian_2d(x_places, y_places)?;
    let words = ("sans-serif", LABEL_SIZE).into_font().color(&BLACK);
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .max_light_lines(0)
        .axis_style(GRID)
        .label_style(words.clone())
        .axis_desc_style(words)
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|place| (x.label)(x.scale.value(*place)))
        .y_label_formatter(&|place| (y.label)(y.scale.value(*place)))
        .draw()?;
    for (index, runs) in placed.into_iter().enumerate() {
        let style = ShapeStyle { color: colour(index).into(), filled: true, stroke_width: 2 };
        for run in runs {
            if let [single] = run[..] {
                chart.draw_series([Circle::new(single, 2, style)])?;
            } else {
                chart.draw_series(LineSeries::new(run, style))?;
            }
        }
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(())
}

/// The line's points in their places, in runs without a gap.
fn runs(line: &Line<'_>, x: Scale, y: Scale) -> Vec<Vec<(f64, f64)>> {
    line.points
        .split(|(_, value)| value.is_none_or(|value| !value.is_finite() || y == Scale::Log && value <= 0.0))
        .filter(|run| !run.is_empty())
        .map(|run| run.iter().filter_map(|&(at, value)| Some((x.place(at), y.place(value?)))).collect())
        .collect()
}

/// What an axis spans, and where it is marked.
struct Places {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Places {
    fn new(scale: Scale, places: impl Iterator<Item = f64>) -> Places {
        let (low, high) = places.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        match scale {
            Scale::Linear => {
                let step = step(high);
                let count = (high / step).ceil().max(1.0) as usize;
                let marks = (0..=count).map(|index| index as f64 * step).collect();
                Places { range: 0.0..count as f64 * step, marks }
            }
            Scale::Span => {
                // Values that are all alike lie in the middle.
                let around = if low < high { 0.0 } else { (0.01 * high.abs()).max(0.005) };
                let (low, high) = (low - around, high + around);
                let step = step(high - low);
                let from = (low / step).floor();
                let count = ((high / step).ceil() - from).max(1.0) as usize;
                let marks = (0..=count).map(|index| (from + index as f64) * step).collect();
                Places { range: from * step..(from + count as f64) * step, marks }
            }
            Scale::Log => {
                let factors: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let decades = (low.floor() as i32 - 1)..=(high.ceil() as i32 + 1);
                let all: Vec<f64> = decades
                    .flat_map(|decade| factors.iter().map(move |factor| f64::from(decade) + factor.log10()))
                    .collect();
                // From one mark to another around all that there is.
                let from = all.iter().rposition(|&mark| mark <= low).unwrap_or(0);
                let to =
                    all.iter().position(|&mark| mark >= high && mark > all[from]).unwrap_or(all.len() - 1);
                Places { range: all[from]..all[to], marks: all[from..=to].to_vec() }
            }
            Scale::Quantile => {
                // The logarithm of a round quantile is a little less or more than its nines.
                let high = (high * 1e6).round().max(1e6) / 1e6;
                let nines = (0..=high as usize).map(|nine| nine as f64);
                let marks = nines.chain([Scale::Quantile.place(0.5)]).collect();
                Places { range: 0.0..high, marks }
            }
        }
    }
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (place - self.range.start) / (self.range.end - self.range.start);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.marks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A round distance of about a sixth: 1, 2 or 5 times a power of ten.
fn step(high: f64) -> f64 {
    let fair = (high / 6.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(fair.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= fair).unwrap_or(1.0)
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear | Scale::Span => value,
            Scale::Log => value.log10(),
            Scale::Quantile => -(1.0 - value.min(QUANTILE_MAX)).log10(),
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear | Scale::Span => place,
            Scale::Log => 10_f64.powf(place),
            Scale::Quantile => 1.0 - 10_f64.powf(-place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_marks(scale: Scale, values: &[f64], expected: &[f64]) {
        let Places { range, mut marks } = Places::new(scale, values.iter().map(|&value| scale.place(value)));
        marks.sort_by(f64::total_cmp);
        let marked: Vec<f64> = marks.iter().map(|&mark| scale.value(mark)).collect();
        assert_eq!(marked.len(), expected.len(), "{scale:?} {values:?}: {marked:?}");
        for (mark, expected) in marked.iter().zip(expected) {
            assert!((mark - expected).abs() < 1e-9 * expected.max(1.0), "{scale:?} {values:?}: {marked:?}");
        }
        assert!(marks.iter().all(|mark| (range.start..=range.end).contains(mark)));
    }

    #[test]
    fn axes_are_marked_at_round_values() {
        assert_marks(Scale::Linear, &[3.0, 5.0], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_marks(Scale::Linear, &[49_900.0], &[0.0, 10e3, 20e3, 30e3, 40e3, 50e3]);
        assert_marks(Scale::Span, &[-0.012, 0.031], &[-0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04]);
        assert_marks(Scale::Span, &[421.0, 433.0], &[420.0, 422.0, 424.0, 426.0, 428.0, 430.0, 432.0, 434.0]);
        assert_marks(Scale::Span, &[0.0], &[-0.006, -0.004, -0.002, 0.0, 0.002, 0.004, 0.006]);
        assert_marks(Scale::Log, &[12.0, 90.0], &[10.0, 20.0, 50.0, 100.0]);
        assert_marks(Scale::Log, &[12.0, 90_000.0], &[10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        assert_marks(Scale::Log, &[10.0], &[10.0, 20.0]);
        assert_marks(Scale::Quantile, &[0.0, 0.999], &[0.0, 0.5, 0.9, 0.99, 0.999]);
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name, value: f64| Bar { name, value, low: value - 0.1, high: value + 0.1 };
        let group = |title: &str, bars| Group { title: title.into(), bars };
        let groups = [group("a < b", vec![bar("one", 1.0), bar("two", 1.9)]), group("c", vec![])];
        let svg = bars(&groups, |value| format!("{value}"));
        // The longest interval ends at 2.
        let unit = (BARS_END - BARS_BEGIN) / 2.0;
        for value in [1.0, 1.9] {
            assert!(svg.contains(&format!("width=\"{:.1}\"", value * unit)), "{svg}");
        }
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn intervals_lie_where_their_values_do() {
        let row =
            |name, value: f64, beside| Interval { name, value, low: value - 1.0, high: value + 1.0, beside };
        let rows = [row("a < b", 2.0, Some(0.5)), row("c", -1.0, None)];
        let marks = [(0.0, "0".to_owned()), (8.0, "most".to_owned())];
        let svg = intervals(&rows, &marks, |value| format!("{value}"));
        // From -2 to 8.
        let at = |value: f64| format!("{:.1}", BARS_BEGIN + (value + 2.0) / 10.0 * (BARS_END - BARS_BEGIN));
        for drawn in [
            format!("M{} 22H{}", at(1.0), at(3.0)),
            format!("M{} 44H{}", at(-2.0), at(0.0)),
            format!("cx=\"{}\" cy=\"22\" r=\"4\"", at(0.5)),
            format!("M{} 11V", at(8.0)),
        ] {
            assert!(svg.contains(&drawn), "{drawn}: {svg}");
        }
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn anything_can_be_drawn() {
        let label = |value: f64| format!("{value}");
        for scale in [Scale::Linear, Scale::Span, Scale::Log, Scale::Quantile] {
            let axis = || Axis { name: "name", scale, label };
            for points in [
                vec![],
                vec![(0.0, None)],
                vec![(0.5, Some(0.5))],
                vec![(0.1, Some(0.1)), (0.2, Some(f64::INFINITY))],
                vec![(0.1, Some(0.0)), (0.2, None), (0.3, Some(0.3)), (0.4, Some(0.9)), (1.0, Some(1.0))],
            ] {
                let svg = svg(&axis(), &axis(), &[Line { name: "line", points }]).unwrap();
                assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }
}
