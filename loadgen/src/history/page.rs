//! What a file says, as a page that needs nothing else, and its plots alone.

use std::fmt::Write;

use anyhow::Result;

use super::Told;
use super::series::Series;
use crate::compare::report::signed_short;
use crate::report::html::{Belief, END, begin, colours, escape, short, verdict_box};
use crate::report::plot::{self, Axis, Line, Scale, Size};

/// Above each panel there is a line for its title.
const TITLE_HEIGHT: u32 = 30;

/// A panel for each series: its levels, what was found, and where.
pub fn page(told: &Told) -> Result<String> {
    let mut html = begin("History", &told.title());
    let belief = if told.worse().next().is_some() { Belief::Invalid } else { Belief::Valid };
    verdict_box(&mut html, belief, &told.outcome(), None, None);
    let _ = writeln!(html, "<p class=soft>{}</p>", escape(&told.legend()));
    for remark in told.remarks() {
        let _ = writeln!(html, "<p>{}</p>", escape(&remark));
    }
    for series in in_order(told) {
        let lines = lines(series);
        let _ = writeln!(html, "<h2>{}</h2>", escape(&series.title()));
        if !series.changes.is_empty() {
            html += "<div class=wide><table class=words>\n<tr><th></th><th>change</th><th>before and after</th><th>where</th></tr>\n";
            for changed in &series.changes {
                let _ = writeln!(
                    html,
                    "<tr><th>{}</th><td class=figure>{}</td><td class=figure>{}</td><td>{}</td></tr>",
                    changed.kind.word(),
                    escape(&changed.change_words()),
                    escape(&changed.levels_words(series.metric)),
                    escape(&changed.place_words())
                );
            }
            html += "</table></div>\n";
        }
        if let Some(words) = series.rise_words() {
            let _ = writeln!(html, "<p>{}</p>", escape(&words));
        }
        let _ = writeln!(html, "{}", plot::legend(&lines));
        html += &plot::titled(&panel(series, |x, y| plot::svg(x, y, &lines))?, &series.title());
    }
    Ok(html + END)
}

/// The plots alone, one above the other, with the colours that they need.
pub fn panels(told: &Told) -> Result<String> {
    let Size { width, height: panel_height, .. } = plot::WIDE;
    let height = (panel_height + TITLE_HEIGHT) * told.series.len() as u32;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<style>{}{}{}</style>\n<title>{}</title>\n",
        colours(),
        plot::style(),
        plot::STYLE_ALONE,
        escape(&told.title())
    );
    for (index, series) in in_order(told).enumerate() {
        let top = (panel_height + TITLE_HEIGHT) * index as u32;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\" font-weight=\"600\">{}</text>\n<g transform=\"translate(0,{})\">\n{}</g>",
            top + TITLE_HEIGHT * 2 / 3,
            escape(&series.title()),
            top + TITLE_HEIGHT,
            panel(series, |x, y| plot::svg_of(plot::WIDE, x, y, &lines(series)))?
        );
    }
    Ok(svg + "</svg>\n")
}

/// Those in which something was found come first.
fn in_order(told: &Told) -> impl Iterator<Item = &Series> {
    let of =
        |has_changes: bool| told.series.iter().filter(move |series| series.changes.is_empty() != has_changes);
    of(true).chain(of(false))
}

/// Draws a series over the dates of its entries, which lie at equal distances, in the order of the file.
fn panel(series: &Series, draw: impl Fn(&Axis<'_>, &Axis<'_>) -> Result<String>) -> Result<String> {
    let dates: Vec<&str> = series.points.iter().map(|point| point.date.as_str()).collect();
    let days = || dates.iter().filter_map(|date| date.get(..10));
    let is_one_day = days().all(|day| days().next() == Some(day));
    let name = match days().next() {
        Some(day) if is_one_day => format!("entries of {day}, by time (UTC)"),
        _ => "entries, by date (UTC)".to_owned(),
    };
    let label = |number: f64| {
        let date = dates.get((number as usize).saturating_sub(1)).copied().unwrap_or_default();
        date.get(if is_one_day { 11..16 } else { 0..10 }).unwrap_or(date).to_owned()
    };
    let x = Axis::new(&name, Scale::Numbered, &label);
    let counted = format!("{} per request", series.metric.words());
    let y = if series.metric.is_exact() {
        Axis::new(&counted, Scale::Span, &short)
    } else {
        Axis::new("worse than the base by", Scale::Span, &signed_short)
    };
    draw(&x, &y)
}

/// The levels, what is made of them, and a mark where they change.
fn lines(series: &Series) -> Vec<Line<'static>> {
    let number = |index: usize| index as f64 + 1.0;
    let levels = || series.points.iter().map(|point| point.level);
    let points = levels().enumerate().map(|(index, level)| (number(index), Some(level)));
    let mut lines = vec![Line { name: "measured", points: points.collect() }];
    if series.changes.is_empty() {
        return lines;
    }
    let (least, most) =
        levels().fold((f64::MAX, f64::MIN), |(least, most), level| (least.min(level), most.max(level)));
    let mut marks = Vec::new();
    let mut means = Vec::new();
    let mut from = 0;
    for changed in &series.changes {
        let (last_before, first_after) = changed.shape.ends();
        means.extend([(number(from), Some(changed.before)), (number(last_before), Some(changed.before))]);
        if first_after == last_before + 1 {
            // A step is no slope.
            means.push((number(last_before), None));
            let at = number(last_before) + 0.5;
            marks.extend([(at, Some(least)), (at, Some(most)), (at, None)]);
        } else {
            for at in [number(last_before), number(first_after)] {
                marks.extend([(at, Some(least)), (at, Some(most)), (at, None)]);
            }
        }
        means.push((number(first_after), Some(changed.after)));
        from = first_after;
    }
    let end = series.changes.last().map(|changed| changed.after);
    means.push((number(series.points.len() - 1), end));
    lines.push(Line { name: "changes", points: marks });
    lines.push(Line { name: "before and after", points: means });
    lines
}
