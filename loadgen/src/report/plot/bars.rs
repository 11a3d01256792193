//! Bars, and intervals, on one scale.

use std::fmt::Write;

use super::{GRID, LABEL_SIZE, colour, for_both, name};
use crate::report::html::escape;
use crate::report::lines::folded;

/// How high a row is.
const ROW_HEIGHT: usize = 22;

/// How wide a character is taken to be. Few are wider.
const CHARACTER_WIDTH: f64 = 7.2;

/// The same of bold ones, which titles are.
const BOLD_WIDTH: f64 = 8.2;

/// Of a drawing: how wide it is, where bars begin, and where the longest one ends.
#[derive(Clone, Copy)]
struct Size {
    width: f64,
    begin: f64,
    end: f64,
}

const WIDE: Size = Size { width: 880.0, begin: 130.0, end: 790.0 };
const PHONE: Size = Size { width: 360.0, begin: 104.0, end: 284.0 };

/// For a document, in which it stands as a picture.
const ALONE: Size = Size { width: 720.0, begin: 110.0, end: 640.0 };

/// A value with its interval.
pub struct Bar<'a> {
    pub name: &'a str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// What the chart is about: it has the accent colour, and the others are grey.
    pub is_own: bool,
}

/// Bars that are told apart from others by a title.
pub struct Group<'a> {
    pub title: String,
    pub bars: Vec<Bar<'a>>,
}

/// Draws bars from zero to the right, all on one scale, with a mark at one: each is as long as a multiple of something.
pub fn bars(groups: &[Group<'_>], label: fn(f64) -> String) -> String {
    let drawn = |size| Drawing::new(size).with_bars(groups, label).svg();
    for_both(&drawn(WIDE), &drawn(PHONE))
}

/// The same as a picture of its own, with a title, and lines that say how to read it.
pub fn bars_alone(title: &str, below: &[String], groups: &[Group<'_>], label: fn(f64) -> String) -> String {
    let mut drawing = Drawing::new(ALONE);
    drawing.text_lines(title, " class=\"ink\" font-weight=\"600\"");
    for line in below {
        drawing.text_lines(line, "");
    }
    drawing.top += ROW_HEIGHT / 2;
    let drawing = drawing.with_bars(groups, label);
    format!("{}{}</svg>\n", begin_alone(drawing.size.width, drawing.height()), drawing.svg)
}

/// Around a picture of its own.
const MARGIN: f64 = 12.0;

/// The first tag of a picture of its own, with a margin around what is drawn.
pub fn begin_alone(width: f64, height: f64) -> String {
    let (wide, high) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-{MARGIN} -{MARGIN} {wide} {high}\" width=\"{wide}\" \
         height=\"{high}\" font-family=\"sans-serif\" font-size=\"{LABEL_SIZE}\">\n"
    )
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
    let words = marks.iter().map(|(_, words)| words.as_str());
    let drawn = |size| Drawing::new(with_room(size, words.clone())).with_intervals(rows, marks, label).svg();
    for_both(&drawn(WIDE), &drawn(PHONE))
}

/// With room for these words behind the end.
fn with_room<'a>(size: Size, words: impl Iterator<Item = &'a str>) -> Size {
    let widest = words.map(|words| words.chars().count()).max().unwrap_or_default() as f64 * CHARACTER_WIDTH;
    Size { end: size.end.min(size.width - widest - 8.0), ..size }
}

/// What is drawn, and how far down it goes.
struct Drawing {
    size: Size,
    top: usize,
    svg: String,
}

impl Drawing {
    fn new(size: Size) -> Drawing {
        Drawing { size, top: 0, svg: String::new() }
    }

    fn svg(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
             font-size=\"{LABEL_SIZE}\">\n{}</svg>\n",
            self.size.width,
            self.height(),
            self.svg
        )
    }

    fn height(&self) -> f64 {
        (self.top + ROW_HEIGHT / 2) as f64
    }

    /// Text from the left edge on, in as many lines as it takes.
    fn text_lines(&mut self, text: &str, attributes: &str) {
        for line in folded(text, (self.size.width / BOLD_WIDTH) as usize) {
            self.top += ROW_HEIGHT;
            let _ =
                writeln!(self.svg, "<text x=\"0\" y=\"{}\"{attributes}>{}</text>", self.top, escape(&line));
        }
    }

    /// The name of a row, which is cut where it has no room.
    fn row_name(&mut self, text: &str, middle: usize) {
        let (right, room) = (self.size.begin - 8.0, (self.size.begin / CHARACTER_WIDTH) as usize - 1);
        let name = match text.chars().count() > room {
            true => text.chars().take(room - 1).chain(['…']).collect(),
            false => text.to_owned(),
        };
        let _ = write!(
            self.svg,
            "<text x=\"{right:.1}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            middle + 4,
            escape(&name)
        );
    }

    fn with_bars(mut self, groups: &[Group<'_>], label: fn(f64) -> String) -> Drawing {
        let all = || groups.iter().flat_map(|group| &group.bars);
        let most = all().map(|bar| bar.high).fold(1.0, f64::max);
        let Size { begin, end, .. } = self.size;
        let at = |value: f64| begin + value / most * (end - begin);
        for group in groups {
            self.text_lines(&group.title, " font-weight=\"600\"");
            let from = self.top + ROW_HEIGHT / 3;
            for bar in &group.bars {
                self.top += ROW_HEIGHT;
                let middle = self.top - 4;
                self.row_name(bar.name, middle);
                let fill = if bar.is_own {
                    format!("fill=\"{}\"", name(colour(0)))
                } else {
                    "class=\"other\"".into()
                };
                let _ = writeln!(
                    self.svg,
                    "<rect x=\"{begin:.1}\" y=\"{}\" width=\"{:.1}\" height=\"12\" {fill}/>\
                     <path d=\"M{:.1} {middle}H{:.1}\" class=\"ink\" stroke-width=\"2\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{}</text>",
                    middle - 6,
                    at(bar.value) - begin,
                    at(bar.low),
                    at(bar.high),
                    at(bar.high) + 8.0,
                    middle + 4,
                    label(bar.value),
                );
            }
            let (one, to) = (at(1.0), self.top + ROW_HEIGHT / 3);
            let _ = writeln!(
                self.svg,
                "<path d=\"M{one:.1} {from}V{to}\" class=\"ink\" stroke-width=\"1\" stroke-dasharray=\"2 2\"/>"
            );
            self.top += ROW_HEIGHT;
        }
        self
    }

    fn with_intervals(
        mut self,
        rows: &[Interval<'_>],
        marks: &[(f64, String)],
        label: fn(f64) -> String,
    ) -> Drawing {
        let of_rows = rows.iter().flat_map(|row| [Some(row.low), Some(row.high), row.beside]).flatten();
        let all = || of_rows.clone().chain(marks.iter().map(|&(at, _)| at));
        let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let span = (most - least).max(f64::MIN_POSITIVE);
        let Size { begin, end, .. } = self.size;
        let at = |value: f64| begin + (value - least) / span * (end - begin);
        // The words of marks that stand close together go below each other, and no mark through the words of another.
        let bottom = (rows.len() + 1) * ROW_HEIGHT;
        for (index, (value, words)) in marks.iter().rev().enumerate() {
            let (x, text_at) = (at(*value), bottom + index * ROW_HEIGHT + ROW_HEIGHT / 2);
            let _ = writeln!(
                self.svg,
                "<path d=\"M{x:.1} {}V{text_at}\" stroke=\"{}\"/><text x=\"{:.1}\" y=\"{text_at}\">{}</text>",
                ROW_HEIGHT / 2,
                name(GRID),
                x + 4.0,
                escape(words)
            );
        }
        let own = name(colour(0));
        for row in rows {
            self.top += ROW_HEIGHT;
            let middle = self.top;
            self.row_name(row.name, middle);
            let _ = writeln!(
                self.svg,
                "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"{own}\" stroke-width=\"3\"/>\
                 <circle cx=\"{:.1}\" cy=\"{middle}\" r=\"5\" fill=\"{own}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                at(row.low),
                at(row.high),
                at(row.value),
                at(row.high) + 10.0,
                middle + 4,
                label(row.value)
            );
            if let Some(beside) = row.beside {
                let _ = writeln!(
                    self.svg,
                    "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"4\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                    at(beside),
                    name(colour(1))
                );
            }
        }
        self.top = bottom + marks.len() * ROW_HEIGHT;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64) -> Bar<'_> {
        Bar { name, value, low: value - 0.1, high: value + 0.1, is_own: name == "own" }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let group = |title: &str, bars| Group { title: title.into(), bars };
        let groups = [group("a < b", vec![bar("one", 1.0), bar("own", 1.9)]), group("c", vec![])];
        let svg = bars(&groups, |value| format!("{value}"));
        // The longest interval ends at 2.
        for Size { begin, end, .. } in [WIDE, PHONE] {
            for (value, fill) in [(1.0, "class=\"other\""), (1.9, "fill=\"#100000\"")] {
                let drawn = format!("width=\"{:.1}\" height=\"12\" {fill}", value * (end - begin) / 2.0);
                assert!(svg.contains(&drawn), "{drawn}: {svg}");
            }
        }
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn a_chart_alone_has_a_title_and_long_lines_are_folded() {
        let groups = [Group { title: "word ".repeat(60), bars: vec![bar("a name that has no room", 1.0)] }];
        let svg = bars_alone("The title", &["Less is better.".into()], &groups, |value| format!("{value}"));
        assert!(svg.contains(">The title</text>") && svg.contains(">Less is better.</text>"), "{svg}");
        assert!(svg.matches("font-weight=\"600\">word").count() > 1, "{svg}");
        assert!(svg.contains(">a name that h…</text>"), "{svg}");
    }

    #[test]
    fn intervals_lie_where_their_values_do() {
        let row =
            |name, value: f64, beside| Interval { name, value, low: value - 1.0, high: value + 1.0, beside };
        let rows = [row("a < b", 2.0, Some(0.5)), row("c", -1.0, None)];
        let marks = [(0.0, "0".to_owned()), (8.0, "most".to_owned())];
        let svg = intervals(&rows, &marks, |value| format!("{value}"));
        for Size { begin, end, .. } in [WIDE, PHONE] {
            // From -2 to 8.
            let at = |value: f64| format!("{:.1}", begin + (value + 2.0) / 10.0 * (end - begin));
            for drawn in [
                format!("M{} 22H{}", at(1.0), at(3.0)),
                format!("M{} 44H{}", at(-2.0), at(0.0)),
                format!("cx=\"{}\" cy=\"22\" r=\"4\"", at(0.5)),
                format!("M{} 11V", at(8.0)),
            ] {
                assert!(svg.contains(&drawn), "{drawn}: {svg}");
            }
        }
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }
}
