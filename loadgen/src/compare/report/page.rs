//! What came out, as a page that needs nothing else.

use std::fmt::Write;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{LEGEND, percent, signed_percent, signed_short};
use crate::compare::decide::median;
use crate::compare::paired::Contrasts;
use crate::compare::{CaseResult, Compared, Metric, Outcome};
use crate::report::html::{Belief, END, begin_with_frames, breakable, dated, escape, short, verdict_box};
use crate::report::plot::{self, Axis, Interval, Line, Scale};

/// As high as a flame graph is that does not say it.
const FLAMES_HEIGHT: &str = "600";

/// The outcome, and for each case its table, its intervals, and what changed.
pub fn page(compared: &Compared) -> Result<String> {
    let mut html = begin_with_frames("Base and head compared", &dated(&compared.sides()));
    verdict_box(&mut html, belief(compared.outcome), &compared.outcome_words(), None, None);
    if compared.outcome != Outcome::Identical {
        let _ = writeln!(html, "<p class=soft>{LEGEND} {}</p>", escape(&compared.bounds()));
    }
    if let Some(hashes) = compared.hashes() {
        let _ = writeln!(html, "<p class=soft>{}</p>", escape(&hashes));
    }
    for case in &compared.cases {
        let _ = writeln!(
            html,
            "<h2>{}: {}</h2>\n<p class=soft>{}</p>",
            escape(&case.name),
            case.outcome,
            escape(&case.effort())
        );
        if case.outcome != Outcome::Identical {
            table(&mut html, case);
        }
        html += &intervals(case, compared);
        lives(&mut html, case)?;
        for remark in case.remarks() {
            let _ = writeln!(html, "<p>{}</p>", escape(&remark));
        }
        culprit(&mut html, case);
        let _ = writeln!(
            html,
            "<p class=soft>Base: <code>{}</code><br>Head: <code>{}</code></p>",
            escape(&case.base),
            escape(&case.head)
        );
    }
    Ok(html + END)
}

/// How the style shows an outcome.
fn belief(outcome: Outcome) -> Belief {
    match outcome {
        Outcome::Identical | Outcome::Pass => Belief::Valid,
        Outcome::Unreliable | Outcome::Inconclusive => Belief::Doubtful,
        Outcome::Fail => Belief::Invalid,
    }
}

fn table(html: &mut String, case: &CaseResult) {
    *html += "<div class=wide><table>\n<tr><th></th>";
    for name in ["outcome", "change", "base", "head", "control"] {
        let _ = write!(html, "<th>{name}</th>");
    }
    *html += "</tr>\n";
    for finding in &case.findings {
        let metric = finding.metric;
        let belief = belief(finding.outcome).class();
        // A phone has room for the interval below the change.
        let change = escape(&finding.change_words()).replacen(" [", "<br><span class=soft>[", 1);
        let end = if change.contains("<span") { "</span>" } else { "" };
        let _ = writeln!(
            html,
            "<tr><th>{}</th><td class=\"{belief}\">{}</td><td>{change}{end}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            metric.words(),
            finding.outcome,
            metric.value_words(finding.base),
            metric.value_words(finding.head),
            finding.control_words()
        );
    }
    *html += "</table></div>\n";
}

/// Each change with its interval beside the bounds of the decision. A metric that is reported as a difference is left
/// out, and so is an interval that is wider than everything else together: it would leave the others no room.
fn intervals(case: &CaseResult, compared: &Compared) -> String {
    let rows: Vec<_> = case
        .findings
        .iter()
        .filter(|finding| !matches!(finding.metric, Metric::Syscalls | Metric::Allocations))
        .filter(|finding| [finding.change, finding.low, finding.high].iter().all(|value| value.abs() <= 1.0))
        .map(|finding| Interval {
            name: finding.metric.words(),
            value: finding.change,
            low: finding.low,
            high: finding.high,
            beside: finding.control,
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let marks = [
        (0.0, "0".to_owned()),
        (compared.floor, format!("floor {}", percent(compared.floor))),
        (compared.margin, format!("margin {}", percent(compared.margin))),
    ];
    let title = "Changes with their intervals";
    format!("<h3>{title}</h3>\n<p class=soft>Left is better. Rings are the control.</p>\n")
        + &plot::titled(&plot::intervals(&rows, &marks, signed_percent), title)
}

/// What was timed, life by life: medians of the rounds that were not set aside.
fn lives(html: &mut String, case: &CaseResult) -> Result<()> {
    for finding in case.findings.iter().filter(|finding| !finding.metric.is_exact()) {
        let metric = finding.metric;
        let line = |name, of: fn(&Contrasts) -> f64| {
            let middle = |contrasts: Vec<Contrasts>| {
                let mut values: Vec<f64> = contrasts.iter().map(of).collect();
                (!values.is_empty()).then(|| median(&mut values).exp_m1())
            };
            let lives = case.slices.iter().enumerate();
            let points = lives.map(|(index, life)| (index as f64 + 1.0, middle(life.contrasts(metric))));
            Line { name, points: points.collect() }
        };
        let lines = [line("change", |said| said.change), line("control", |said| said.control)];
        // One point is no line.
        if case.slices.len() > 1 {
            let x = Axis::new("lives of the servers", Scale::Numbered, &short);
            let y = Axis::new("worse by", Scale::Span, &signed_short);
            let title = format!("Change of {}, life by life", metric.words());
            let _ = writeln!(html, "<h3>{title}</h3>\n{}", plot::legend(&lines));
            *html += &plot::titled(&plot::svg(&x, &y, &lines)?, &title);
        }
    }
    Ok(())
}

fn culprit(html: &mut String, case: &CaseResult) {
    let Some(culprit) = &case.culprit else { return };
    for part in culprit.parts() {
        let _ = writeln!(
            html,
            "<div class=wide><table>\n<tr><th>{}</th><th>base</th><th>head</th><th>change</th></tr>",
            part.heading
        );
        for (name, [base, head, change]) in part.rows {
            let _ = writeln!(
                html,
                "<tr><th><code>{}</code></th><td>{base}</td><td>{head}</td><td>{change}</td></tr>",
                breakable(&escape(name), &["::"])
            );
        }
        *html += "</table></div>\n";
    }
    if let Some(svg) = &culprit.flame_svg {
        // In a frame of its own its script works, finds nothing but itself, and may ask what to search for.
        let _ = writeln!(
            html,
            "<h3>Instructions per request by function, as they changed</h3>\n\
             <p class=soft>As wide as they are many; a click opens one.</p>\n\
             <iframe title=\"flame graph\" sandbox=\"allow-scripts allow-modals\" height=\"{}\" \
             src=\"data:image/svg+xml;base64,{}\"></iframe>",
            height(svg),
            BASE64.encode(svg)
        );
    }
}

/// As the SVG's first tag says.
fn height(svg: &str) -> &str {
    let tag = svg.split_once("<svg").and_then(|(_, rest)| rest.split_once('>'));
    let value =
        tag.and_then(|(tag, _)| tag.split_once(" height=\"")).and_then(|(_, rest)| rest.split_once('"'));
    match value {
        Some((value, _)) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => value,
        _ => FLAMES_HEIGHT,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::compared;
    use super::*;

    #[test]
    fn the_page_has_all_of_it_and_needs_no_network() {
        let compared = compared();
        let html = page(&compared).unwrap();
        for words in [
            "FAIL: system calls",
            "+2.97 %<br><span class=soft>[+2.10, +3.80]</span>",
            "&lt;a::<wbr>B&lt;u8&gt; as C&gt;::<wbr>d|e",
            "margin 2 %",
        ] {
            assert!(html.contains(words), "{words}: {html}");
        }
        // Both cases' intervals, and what was timed in either, life by life.
        assert_eq!(html.matches("<svg class=\"on-wide\"").count(), 4);
        assert_eq!(html.matches("<svg class=\"on-phone\"").count(), 4);
        assert!(!html.contains("src=\"http") && !html.contains("href="));
        let svg = compared.cases[0].culprit.as_ref().unwrap().flame_svg.as_ref().unwrap();
        let frame = format!("height=\"300\" src=\"data:image/svg+xml;base64,{}\"", BASE64.encode(svg));
        assert!(html.contains(&frame), "{html}");
        assert!(html.trim_end().ends_with("</html>"));
    }

    #[test]
    fn a_graph_that_does_not_say_its_height_has_one() {
        assert_eq!(
            height("<?xml version=\"1.0\"?><svg width=\"1\" height=\"412\" x=\"2\"><g height=\"7\"/></svg>"),
            "412"
        );
        for svg in ["", "<svg>", "<svg height=\"100%\">", "<svg><g height=\"7\"/></svg>"] {
            assert_eq!(height(svg), FLAMES_HEIGHT);
        }
    }
}
