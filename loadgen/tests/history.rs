//! History files that are made here, with changes that are known.

use std::fs;

use serde_json::{Value, json};

use super::outputs::Folder;
use super::{complaint, loadgen};

/// A commit's name, of its number.
fn commit(number: usize) -> String {
    format!("{number:040x}")
}

/// An entry of each of so many commits, measured against one release. The noise is half a percent, and always the same.
pub fn lines(metric: &str, levels: impl Fn(usize) -> f64, count: usize) -> String {
    let mut state = 7_u64;
    let lines = (0..count).map(|index| {
        // The sum of uniform numbers is as good as normal (Knuth's generator).
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1_u64 << 24) as f64 - 0.5
        };
        let noise: f64 = (0..12).map(|_| uniform()).sum();
        let is_count = metric == "instructions";
        let change = if is_count { 0.0 } else { levels(index) + 0.005 * noise };
        let head_value = if is_count { levels(index) } else { 5720.0 * (1.0 + change) };
        let line = json!({
            "date": format!("2026-{:02}-{:02}T10:00:00Z", 1 + index / 28, 1 + index % 28),
            "base": commit(9999), "head": commit(index), "machine": "a machine", "case": "echo <50>",
            "metric": metric, "unit": "ns", "base_value": 5720.0, "head_value": head_value,
            "change": change, "low": change - 0.01, "high": change + 0.01, "outcome": "PASS", "more": [1, {}],
        });
        format!("{line}\n")
    });
    lines.collect()
}

fn flat(_: usize) -> f64 {
    0.0
}

/// Runs on such a file: the JSON, the exit code and what was said.
fn history(text: &str, arguments: &[&str]) -> (Value, i32, String) {
    let folder = Folder::new();
    let path = folder.path("history.jsonl");
    fs::write(&path, text).unwrap();
    let output = loadgen(&[&["history", &path, "--json", "-"], arguments].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    (json, output.status.code().unwrap(), stderr)
}

#[test]
fn a_step_is_found_at_its_commit_and_is_an_exit_code() {
    let text = lines("cpu", |index| if index < 30 { 0.0 } else { 0.02 }, 60) + &lines("p50", flat, 60);
    let (told, code, _) = history(&text, &[]);
    assert_eq!(code, 1, "{told}");
    let series = told["series"].as_array().unwrap();
    assert_eq!((series.len(), &told["entries"]), (2, &120.into()));
    let cpu = &series[0];
    assert_eq!((&cpu["metric"], &cpu["base"]), (&"cpu".into(), &commit(9999).into()));
    let changes = cpu["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["kind"]), (1, &"step".into()), "{cpu}");
    let number = |name: &str| changes[0][name].as_f64().unwrap();
    assert!(number("low") < 0.02 && 0.02 < number("high"), "{cpu}");
    assert!(changes[0]["to"]["index"].as_u64().unwrap().abs_diff(30) <= 1, "{cpu}");
    assert_eq!(changes[0]["to"]["commit"], commit(changes[0]["to"]["index"].as_u64().unwrap() as usize));
    assert_eq!(series[1]["changes"], json!([]));

    // It is there, and small enough.
    let (told, code, _) = history(&text, &["--min-change", "5%"]);
    assert_eq!((code, told["series"][0]["changes"].as_array().unwrap().len()), (0, 1));
    // The other metric alone has none.
    assert_eq!(history(&text, &["--metric", "p50"]).1, 0);
    // For the better.
    let better = lines("cpu", |index| if index < 30 { 0.0 } else { -0.02 }, 60);
    assert_eq!(history(&better, &[]).1, 0);
}

#[test]
fn a_creep_that_no_commit_stands_out_of_is_found() {
    let text = lines("cpu", |index| 0.001 * index as f64, 41);
    let (told, code, _) = history(&text, &[]);
    assert_eq!(code, 1, "{told}");
    let changes = told["series"][0]["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["kind"]), (1, &"creep".into()), "{changes:?}");
    assert!(changes[0]["change"].as_f64().unwrap() > 0.02, "{changes:?}");
}

#[test]
fn all_that_is_told_is_in_the_table_and_the_page_and_the_plots() {
    let folder = Folder::new();
    let [path, html, svg, json] = ["history.jsonl", "html", "svg", "json"].map(|name| folder.path(name));
    let counts = |index| if index < 20 { 421.0 } else { 433.0 };
    fs::write(&path, lines("instructions", counts, 40) + &lines("cpu", flat, 40)).unwrap();
    let arguments = ["history", &path, "--html", &html, "--svg", &svg, "--json", &json];
    let output = loadgen(&arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    let at = &commit(20)[..10];
    for text in [&table, &folder.read("html").replace("&lt;", "<").replace("&gt;", ">")] {
        for words in [
            "echo <50>: instructions",
            "+2.85 %",
            "421.0 → 433.0",
            &format!("at {at} (2026-01-21)"),
            "Worse: ",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    let html = folder.read("html");
    assert_eq!(html.matches("<svg class=\"on-wide\"").count(), 2);
    assert!(html.contains("entries, by date (UTC)") && html.contains("2026-01-01"), "{html}");
    assert!(!html.contains("<50>") && html.trim_end().ends_with("</html>"));
    let svg = folder.read("svg");
    // One around both.
    assert_eq!((svg.matches("<svg").count(), svg.matches("</svg>").count()), (3, 3));
    assert!(svg.starts_with("<svg") && svg.contains("echo &lt;50&gt;: instructions"));
    let told: Value = serde_json::from_str(&folder.read("json")).unwrap();
    assert_eq!(told["series"][0]["changes"][0]["before"], 421.0);
}

#[test]
fn a_line_that_was_cut_short_is_told_and_left_out() {
    let text = lines("cpu", flat, 20);
    let (told, code, _) = history(&text[..text.len() - 40], &[]);
    assert_eq!((code, &told["entries"]), (0, &19.into()));
    assert!(told["notes"][0].as_str().unwrap().contains("line 20 is incomplete"), "{}", told["notes"]);
}

#[test]
fn where_a_base_is_unknown_a_series_ends() {
    let other =
        lines("cpu", flat, 20).replace(&commit(9999), &commit(7777)).replace("\"head\":\"0", "\"head\":\"f");
    let (told, code, _) = history(&(lines("cpu", flat, 20) + &other), &[]);
    let bases: Vec<_> =
        told["series"].as_array().unwrap().iter().map(|series| series["base"].as_str().unwrap()).collect();
    assert_eq!((code, bases), (0, vec![commit(9999).as_str(), commit(7777).as_str()]));
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let folder = Folder::new();
    let path = folder.path("history.jsonl");
    let good = lines("cpu", flat, 6);
    for (text, arguments, told) in [
        (format!("{good}no entry\n{good}"), &[][..], "line 7, column 2"),
        (format!("{{\"date\":\"2026\"}}\n{good}"), &[], "line 1, column 15: missing field"),
        (String::new(), &[], "has no entries"),
        (good.clone(), &["--case", "http"], "--case http: unknown case; the cases are echo <50>"),
        (good.clone(), &["--metric", "p99"], "no entry has this"),
        (good.clone(), &["--metric", "speed"], "--metric"),
        (good.clone(), &["--significance", "2"], "less than 0.5"),
        (good.clone(), &["--html", "/nowhere/page"], "/nowhere/page"),
    ] {
        fs::write(&path, text).unwrap();
        let words = complaint(&[&["history", path.as_str()], arguments].concat(), 2);
        assert!(words.contains(told) && words.lines().count() == 1, "{arguments:?}: {words}");
    }
    assert!(complaint(&["history", "/nowhere/file"], 2).contains("/nowhere/file"));
}
