//! What came of holding connections beside busy ones, as a page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;

use super::table::Compared;
use super::{Busy, Idled};
use crate::report::Report;
use crate::report::html::{
    Belief, END, all_figures, begin, dated, distribution, fail, quantiles, section, times, verdict_box,
    words_table,
};
use crate::report::plot::{self, Line};
use crate::run::Measured;
use crate::verdict::Verdict;

pub fn page(idled: &Idled, busy: &Busy) -> Result<String> {
    let mut html = begin(&idled.title(), &dated(&idled.shape()));
    let mut words = match idled.verdict {
        Verdict::Valid => "VALID".to_owned(),
        Verdict::Invalid => idled.complaint(),
    };
    let interruption = idled.interrupted.then_some("ended by a signal");
    let mut belief = Belief::of(idled.verdict);
    fail(&mut belief, &mut words, &idled.failed_conditions);
    verdict_box(&mut html, belief, &words, None, interruption);
    html += &words_table(&idled.words());
    let kind = idled.kind_of_times();
    let _ = write!(
        html,
        "<h2>Busy connections, {kind}</h2>\n<div class=wide><table>\n\
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
        let of_busy = if is_open_loop { &record.response_times } else { &record.service_times };
        lines.push(Line { name, points: distribution(of_busy) });
    }
    section(&mut html, "Times by quantile", &quantiles(), &times(), &lines)?;
    all_figures(&mut html, &serde_json::to_value(idled)?);
    html += END;
    Ok(if idled.interrupted { plot::marked(&html, "interrupted") } else { html })
}
