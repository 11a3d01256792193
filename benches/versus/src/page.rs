//! The comparison as a page that needs nothing else, and its chart alone.

use std::fmt::Write;

use super::peers::PRODUCT;
use super::statistics::Estimate;
use super::table::cell;
use super::{CPU, Compared};
use loadgen::report::html::{END, begin, colours, escape};
use loadgen::report::plot::{self, Bar, Group};

/// The chart, and under it a table for each case.
pub fn page(compared: &Compared) -> String {
    let conditions = &compared.conditions;
    let mut html = begin("Servers side by side", &conditions.machine());
    let _ = writeln!(html, "<p class=soft>{}</p>", escape(&conditions.way()));
    if let Some(words) = &compared.ended_early {
        let _ = writeln!(html, "<div class=\"verdict invalid\">Ended early: {}</div>", escape(words));
    }
    for missing in &compared.not_counted {
        let _ = writeln!(html, "<p>{}</p>", escape(&missing.to_string()));
    }
    let groups = groups(compared);
    let _ = writeln!(html, "<h2>{CHART}</h2>\n<p class=soft>{}</p>", escape(&how_to_read(compared)));
    html += &plot::titled(&plot::bars(&groups, label), CHART);
    for measurement in &compared.cases {
        let title = format!("{}: {}", measurement.case, measurement.title);
        let legend = escape(&measurement.legend());
        let _ = writeln!(html, "<h2>{}</h2>\n<p class=soft>{legend}</p>", escape(&title));
        html += "<div class=wide><table class=dense>\n<tr><th></th>";
        for column in measurement.columns() {
            let _ = write!(html, "<th>{}</th>", column.head);
        }
        html += "</tr>\n";
        for row in &measurement.servers {
            let _ = write!(html, "<tr><th>{}</th>", escape(&row.name));
            for column in measurement.columns() {
                let _ = match row.figure(column) {
                    Some(figure) => {
                        let cell = cell(column, figure, row.name == measurement.reference);
                        // Each interval below its figure: that is narrow enough for all columns.
                        let parts = cell.iter().filter_map(|words| words.strip_suffix(')')?.split_once(" ("));
                        let lines = parts.map(|(figure, interval)| {
                            format!("{figure}<br><span class=soft>{interval}</span>")
                        });
                        write!(html, "<td>{}</td>", lines.collect::<Vec<_>>().join("<br>"))
                    }
                    None => write!(html, "<td>–</td>"),
                };
            }
            html += "</tr>\n";
        }
        html += "</table></div>\n";
        for remark in measurement.remarks() {
            let _ = writeln!(html, "<p>{}</p>", escape(&remark));
        }
    }
    html + END
}

/// What the chart shows.
const CHART: &str = "CPU time of the server per request";

fn how_to_read(compared: &Compared) -> String {
    let mut references: Vec<_> = compared.cases.iter().map(|case| case.reference.as_str()).collect();
    references.sort_unstable();
    references.dedup();
    let reference = if let [only] = references[..] { only } else { "the first server of each group" };
    format!("As a multiple of that of {reference}, with 95 % intervals: less is better.")
}

fn label(ratio: f64) -> String {
    format!("{ratio:.2}")
}

/// CPU of each server in each case beside the first one's, with its interval.
fn groups(compared: &Compared) -> Vec<Group<'_>> {
    let measured = compared.cases.iter().filter(|measurement| !measurement.servers.is_empty());
    let groups = measured.map(|measurement| {
        let bars = measurement.servers.iter().filter_map(|row| {
            let Estimate { median, low95, high95 } = row.figures.get(CPU)?.as_ref()?.ratio?;
            let is_own = row.name == PRODUCT;
            Some(Bar { name: &row.name, value: median, low: low95, high: high95, is_own })
        });
        Group { title: format!("{}: {}", measurement.case, measurement.title), bars: bars.collect() }
    });
    groups.collect()
}

/// The chart alone, with the colours that it needs.
pub fn chart(compared: &Compared) -> String {
    let below = [how_to_read(compared), compared.conditions.machine()];
    let svg = plot::bars_alone(CHART, &below, &groups(compared), label);
    let style = format!("<style>{}{}{}</style>\n", colours(), plot::style(), plot::STYLE_ALONE);
    let title = format!("<title>{CHART}. {}</title>\n", escape(&below.join(" ")));
    svg.replacen(">\n", &format!(">\n{style}{title}"), 1)
}
