//! Plots as SVG: lines over a linear, a logarithmic or a quantile axis; in `bars`, bars and intervals.
//!
//! Every plot is drawn twice, for a wide screen and for a phone, since text in a picture that is merely made smaller cannot be
//! read. The colours in the SVG are names for what is drawn: the page that holds it gives them those of a light or a dark
//! screen (`style`).

mod bars;
mod places;

use std::fmt::Write;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::report::html::escape;

pub use bars::{Bar, Group, Interval, bars, bars_alone, begin_alone, intervals};
use places::Places;
pub use places::Scale;

/// Of a plot of lines: how large it is, and what is beside the lines.
#[derive(Clone, Copy)]
pub struct Size {
    pub width: u32,
    pub height: u32,
    /// For the values and the name of the upright axis.
    left: u32,
    right: u32,
    /// Values that fit beside each other below the lines.
    x_marks_max: usize,
}

pub const WIDE: Size = Size { width: 880, height: 320, left: 84, right: 44, x_marks_max: 8 };

/// Drawn as large as it is shown.
const PHONE: Size = Size { width: 360, height: 300, left: 76, right: 26, x_marks_max: 5 };

/// Values that fit above each other.
const Y_MARKS_MAX: usize = 8;

const LABEL_SIZE: u32 = 13;

const LINE_WIDTH: u32 = 2;

/// Points that are closer than this part of an axis cannot be told apart.
const NEAR: f64 = 0.01;

/// The style replaces it.
const GRID: RGBColor = RGBColor(2, 2, 2);

/// The colour of each line in turn, for a light and a dark screen: told apart also by those who see fewer colours.
pub const COLOURS: [(&str, &str); 4] =
    [("#2a78d6", "#3987e5"), ("#eb6834", "#d95926"), ("#1baf7a", "#199e70"), ("#4a3aa7", "#9085e9")];

pub struct Axis<'a> {
    name: &'a str,
    scale: Scale,
    /// A value in words.
    label: &'a dyn Fn(f64) -> String,
    /// Values that are on it whether or not a line has them.
    least_range: Option<Range<f64>>,
}

impl<'a> Axis<'a> {
    pub fn new(name: &'a str, scale: Scale, label: &'a dyn Fn(f64) -> String) -> Axis<'a> {
        Axis { name, scale, label, least_range: None }
    }

    /// With these values on it, so that several plots can be compared.
    pub fn with_range(self, range: Range<f64>) -> Axis<'a> {
        Axis { least_range: Some(range), ..self }
    }

    fn places(&self, of_lines: impl Iterator<Item = f64>, marks_max: usize) -> Places {
        let range = self.least_range.iter().flat_map(|range| [range.start, range.end]);
        let drawable = range.filter(|value| self.scale.has(*value)).map(|value| self.scale.place(value));
        Places::new(self.scale, of_lines.chain(drawable), marks_max)
    }
}

pub struct Line<'a> {
    pub name: &'a str,
    /// By x. Where there is no y, or one that is infinite, the line has a gap.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Draws lines, in their order the first four colours, for both kinds of screen.
pub fn svg(x: &Axis<'_>, y: &Axis<'_>, lines: &[Line<'_>]) -> Result<String> {
    Ok(for_both(&svg_of(WIDE, x, y, lines)?, &svg_of(PHONE, x, y, lines)?))
}

/// The same in one size.
pub fn svg_of(size: Size, x: &Axis<'_>, y: &Axis<'_>, lines: &[Line<'_>]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, size, x, y, lines).map_err(|error| anyhow!("drawing a plot: {error}"))?;
    Ok(svg)
}

/// Two drawings, of which the style shows the one that suits the screen.
fn for_both(wide: &str, phone: &str) -> String {
    let with_class = |svg: &str, class| svg.replacen("<svg ", &format!("<svg class=\"{class}\" "), 1);
    with_class(wide, "on-wide") + &with_class(phone, "on-phone")
}

/// The same page, with a word in a corner of each of its plots: one that is taken out of it still says so.
pub fn marked(page: &str, word: &str) -> String {
    let mark = format!(
        "<text x=\"95%\" y=\"{LABEL_SIZE}\" text-anchor=\"end\" font-family=\"sans-serif\" \
         font-size=\"{LABEL_SIZE}\">{word}</text></svg>"
    );
    page.replace("</svg>", &mark)
}

/// The drawings of a plot with its title for those who have them read aloud.
pub fn titled(svgs: &str, title: &str) -> String {
    let title = escape(title);
    ["on-wide", "on-phone"].iter().fold(svgs.to_owned(), |svgs, class| {
        let class = format!("<svg class=\"{class}\" ");
        svgs.replace(&class, &format!("{class}role=\"img\" aria-label=\"{title}\" "))
    })
}

/// The names of the lines beside their colours, as HTML.
pub fn legend(lines: &[Line<'_>]) -> String {
    let mut html = String::from("<p class=legend>");
    for (index, line) in lines.iter().enumerate() {
        let _ = write!(
            html,
            "<span class=entry><span class=\"key line{}\"></span>{}</span> ",
            index % COLOURS.len(),
            escape(line.name)
        );
    }
    html + "</p>"
}

/// CSS that gives the lines, the grid, the bars and the words of every plot the page's colours: `--line0` and so on,
/// `--soft`, `--grid` and `--other`; and shows what is drawn for the screen.
pub fn style() -> String {
    let mut css = String::from(
        "svg text{fill:var(--soft);paint-order:stroke;stroke:var(--page);stroke-width:3px}svg .other{fill:var(--other)}svg .ink{stroke:var(--ink)}svg text.ink{stroke:var(--page);fill:var(--ink)}\
         .on-phone{display:none}@media(max-width:44rem){.on-wide{display:none}.on-phone{display:block}}",
    );
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

/// CSS of a picture that stands alone: readable whatever is around it, and no wider than there is room for.
pub const STYLE_ALONE: &str = "svg{background:var(--page);max-width:100%;height:auto}";

fn colour(index: usize) -> RGBColor {
    RGBColor(0x10, 0, (index % COLOURS.len()) as u8)
}

/// As the SVG has it.
fn name(colour: RGBColor) -> String {
    let RGBColor(r, g, b) = colour;
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn draw(
    svg: &mut String,
    size: Size,
    x: &Axis<'_>,
    y: &Axis<'_>,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    // Everything is placed here and drawn on linear axes: plotters chooses the marks of other scales by itself.
    let placed: Vec<Vec<Vec<(f64, f64)>>> = lines.iter().map(|line| runs(line, x.scale, y.scale)).collect();
    let all = || placed.iter().flatten().flatten();
    let x_places = x.places(all().map(|point| point.0), size.x_marks_max);
    let y_places = y.places(all().map(|point| point.1), Y_MARKS_MAX);
    let widths = widths(&placed, Ranged::range(&x_places), Ranged::range(&y_places));

    let root = SVGBackend::with_string(svg, (size.width, size.height)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(size.right)
        .x_label_area_size(42)
        .y_label_area_size(size.left)
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
    for (index, (runs, stroke_width)) in placed.into_iter().zip(widths).enumerate() {
        let style = ShapeStyle { color: colour(index).into(), filled: true, stroke_width };
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
        .split(|(_, value)| value.is_none_or(|value| !y.has(value)))
        .filter(|run| !run.is_empty())
        .map(|run| run.iter().filter_map(|&(at, value)| Some((x.place(at), y.place(value?)))).collect())
        .collect()
}

/// How wide each line is drawn: wider than a later one that would hide most of it, so that it is seen on both sides.
fn widths(lines: &[Vec<Vec<(f64, f64)>>], x: Range<f64>, y: Range<f64>) -> Vec<u32> {
    let is_near = |one: f64, other: f64, of: &Range<f64>| (one - other).abs() < NEAR * (of.end - of.start);
    let hides = |above: &[Vec<(f64, f64)>], below: &[Vec<(f64, f64)>]| {
        let pairs = below.iter().flatten().zip(above.iter().flatten());
        let hidden =
            pairs.filter(|(one, other)| is_near(one.0, other.0, &x) && is_near(one.1, other.1, &y)).count();
        2 * hidden > below.iter().map(Vec::len).sum::<usize>()
    };
    let mut widths = vec![LINE_WIDTH; lines.len()];
    for below in (0..lines.len()).rev() {
        let above = (below + 1..lines.len()).filter(|&above| hides(&lines[above], &lines[below]));
        widths[below] = above.map(|above| widths[above] + 2).max().unwrap_or(LINE_WIDTH);
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_another_hides_is_wider() {
        let line = |level: f64| vec![(0..9).map(|at| (f64::from(at), level)).collect::<Vec<_>>()];
        let of = |levels: &[f64]| {
            widths(&levels.iter().map(|&level| line(level)).collect::<Vec<_>>(), 0.0..8.0, 0.0..100.0)
        };
        assert_eq!(of(&[50.0]), [2]);
        assert_eq!(of(&[50.0, 60.0, 50.1]), [4, 2, 2]);
        assert_eq!(of(&[50.0, 50.0, 50.0]), [6, 4, 2]);
    }

    #[test]
    fn anything_can_be_drawn() {
        let label = |value: f64| format!("{value}");
        for scale in [Scale::Linear, Scale::Span, Scale::Numbered, Scale::Log, Scale::Quantile] {
            for points in [
                vec![],
                vec![(0.0, None)],
                vec![(0.5, Some(0.5))],
                vec![(0.1, Some(0.1)), (0.2, Some(f64::INFINITY))],
                vec![(0.1, Some(0.0)), (0.2, None), (0.3, Some(0.3)), (0.4, Some(0.9)), (1.0, Some(1.0))],
            ] {
                for range in [None, Some(0.0..f64::INFINITY)] {
                    let axis = || Axis { name: "name", scale, label: &label, least_range: range.clone() };
                    let lines = [Line { name: "line", points: points.clone() }];
                    let svg = svg(&axis(), &axis(), &lines).unwrap();
                    assert_eq!(svg.matches("<svg class=").count(), 2, "for both screens");
                    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
                    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                }
            }
        }
    }

    #[test]
    fn plots_of_one_range_have_the_same_marks() {
        let label = |value: f64| format!("at {value}");
        let x = || Axis::new("seconds", Scale::Linear, &label).with_range(0.0..10.0);
        let y = Axis::new("time", Scale::Log, &label);
        let marks = |points| {
            let svg = svg_of(WIDE, &x(), &y, &[Line { name: "line", points }]).unwrap();
            (0..=20).filter(|at| svg.contains(&format!("at {at}\n"))).collect::<Vec<_>>()
        };
        let short = marks(vec![(0.0, Some(1.0)), (3.0, Some(500.0))]);
        assert!(short.contains(&10) && !short.contains(&12), "{short:?}");
        assert_eq!(short, marks(vec![(9.0, Some(1.0)), (10.0, Some(500.0))]));
    }
}
