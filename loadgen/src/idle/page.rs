//! What came of holding connections beside busy ones, as a page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;

use super::table::Compared;
use super::{Busy, Idled};
use crate::report::html::{END, begin, distribution, escape, percent, rows, section};
use crate::report::plot::{self, Axis, Line, Scale};
use crate::report::{Report, figures};
use crate::run::Measured;
use crate::verdict::Verdict;

pub fn page(idled: &Idled, busy: &Busy) -> Result<String> {
    let mut html = begin(&idled.title(), &idled.shape());
    let (class, words) = match idled.verdict {
        Verdict::Valid => ("valid", "VALID".to_owned()),
        Verdict::Invalid => ("invalid", idled.complaint()),
    };
    let _ = write!(html, "<div class=\"verdict {class}\"><strong>{}</strong>", escape(&words));
    if idled.interrupted {
        html += "<p><strong>INTERRUPTED</strong> ended by a signal</p>";
    }
    html += "</div>\n";
    html += "<table class=words>\n";
    for (name, words) in idled.words() {
        let _ = writeln!(html, "<tr><th>{name}</th><td>{}</td></tr>", escape(&words));
    }
    let kind = idled.kind_of_times();
    let _ = write!(
        html,
        "</table>\n<h2>Busy connections, {kind}</h2>\n<div class=wide><table>\n\
         <tr><th></th><th>alone</th><th>beside</th><th>ratio</th></tr>\n"
    );
    for Compared { name, alone, beside, ratio } in idled.compared() {
        let _ = writeln!(html, "<tr><th>{name}</th><td>{alone}</td><td>{beside}</td><td>{ratio}</td></tr>");
    }
    html += "</table></div>\n";
    let mut lines = Vec::new();
    let is_open_loop = idled.beside.as_ref().is_some_and(Report::is_open_loop);
    for (name, measured) in [("alone", &busy.alone), ("beside those held", &busy.beside)] {
        let Some(Measured { record, .. }) = measured else { continue };
        let times = if is_open_loop { &record.response_times } else { &record.service_times };
        lines.push(Line { name, points: distribution(times) });
    }
    section(
        &mut html,
        "Times by quantile",
        &Axis { name: "requests that took no longer", scale: Scale::Quantile, label: percent },
        &Axis { name: "time", scale: Scale::Log, label: figures::time },
        &lines,
    )?;
    html += "<h2>All figures</h2>\n<div class=wide><table class=words>\n";
    rows(&mut html, "", &serde_json::to_value(idled)?);
    html += "</table></div>\n";
    html += END;
    Ok(if idled.interrupted { plot::marked(&html, "interrupted") } else { html })
}
