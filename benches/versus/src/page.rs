//! The comparison as a page that needs nothing else, and its chart alone.

use std::fmt::Write;

use super::table::cell;
use super::{COLUMNS, CPU, Compared};
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
    let _ = writeln!(html, "<h2>{CHART}</h2>\n{}", chart(compared, false));
    for measurement in &compared.cases {
        let title = format!("{}: {}", measurement.case, measurement.title);
        let legend = escape(&measurement.legend());
        let _ = writeln!(html, "<h2>{}</h2>\n<p class=soft>{legend}</p>", escape(&title));
        html += "<div class=wide><table>\n<tr><th></th>";
        for column in &COLUMNS {
            let _ = write!(html, "<th>{}</th>", column.head);
        }
        html += "</tr>\n";
        for row in &measurement.servers {
            let _ = write!(html, "<tr><th>{}</th>", escape(&row.name));
            for column in &COLUMNS {
                let _ = match row.figure(column) {
                    Some(figure) => {
                        let [figure, ratio] = cell(column, figure, row.name == measurement.reference);
                        write!(html, "<td>{figure}<br><span class=soft>{ratio}</span></td>")
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
const CHART: &str = "Server CPU, as a multiple of the first server's";

/// CPU of each server in each case beside the first one's, with its interval. Alone it brings its colours along.
pub fn chart(compared: &Compared, is_alone: bool) -> String {
    let groups = compared.cases.iter().filter(|measurement| !measurement.servers.is_empty());
    let groups: Vec<_> = groups
        .map(|measurement| {
            let bars = measurement.servers.iter().filter_map(|row| {
                let ratio = row.figures.get(CPU)?.as_ref()?.ratio?;
                Some(Bar { name: &row.name, value: ratio.median, low: ratio.low95, high: ratio.high95 })
            });
            Group { title: format!("{}: {}", measurement.case, measurement.title), bars: bars.collect() }
        })
        .collect();
    let svg = plot::bars(&groups, |ratio| format!("{ratio:.2}"));
    if !is_alone {
        return svg;
    }
    let style = format!("<style>{}svg{{color:var(--ink)}}{}</style>\n", colours(), plot::style());
    let title = format!("<title>{CHART}. {}</title>\n", escape(&compared.conditions.machine()));
    svg.replacen(">\n", &format!(">\n{style}{title}"), 1)
}
