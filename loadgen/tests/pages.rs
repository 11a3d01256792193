//! Every page as a person sees it: in a browser, on a phone and on a wide screen, light and dark.

#[path = "../../tests/harness/browser.rs"]
mod browser;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::outputs::Folder;
use super::{chat, copy, echo_server, history, loadgen, merge, serve, skipped};
use browser::Browser;

/// Makes a page, whatever comes of the run: the tests share their processors.
fn make(arguments: &[&str], page: &str) {
    let output = loadgen(&[arguments, &["--html", page]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(fs::metadata(page).is_ok_and(|page| page.len() > 0), "{arguments:?}: {stderr}");
}

/// An echo whose third connection gets wrong replies: a repeat of several is invalid.
fn echo_with_a_fault() -> String {
    let count = Arc::new(AtomicUsize::new(0));
    serve(move |stream| {
        let is_wrong = count.fetch_add(1, Ordering::Relaxed) == 2;
        copy(stream, |_, bytes| bytes.iter_mut().for_each(|byte| *byte ^= u8::from(is_wrong)));
    })
}

/// The pages with the plots that each has at least: what can be compared in two seconds depends on the machine.
fn pages(folder: &Folder) -> Vec<(String, u64)> {
    let page = |name: &str| folder.path(&format!("{name}.html"));
    let echo = format!("echo={}", echo_server());
    let run = page("run");
    make(&["run", &echo, "-c", "20", "-r", "2k", "-t", "300ms", "-w", "0", "--fail-if", "p99>1ns"], &run);
    let closed = page("closed");
    make(&["run", &echo, "-c", "3", "-n", "500", "-w", "0"], &closed);
    let chat_page = page("chat");
    let room = format!("chat={}", chat::server());
    make(&["run", &room, "-c", "6", "--senders", "2", "-r", "200", "-t", "300ms", "-w", "0"], &chat_page);
    let steps = page("steps");
    let faulty = format!("echo={}", echo_with_a_fault());
    let pid = std::process::id().to_string();
    let rates = ["-r", "500,1k,5k", "--repeat", "2", "-n", "50", "-w", "0", "--pid", &pid];
    make(&[&["run", &faulty][..], &rates].concat(), &steps);
    let idle = page("idle");
    make(&["idle", &echo, "-c", "9", "--slow", "2", "--busy", "2", "-n", "200", "-w", "0"], &idle);

    let merged = page("merged");
    let logs = ["a", "b-of-a-machine-with-a-long-name.example.org"].map(|name| folder.path(name));
    for (path, began_s) in logs.iter().zip([0.0, 5.0]) {
        fs::write(path, merge::own_log(began_s, 100, &merge::outcome(1000, 0))).unwrap();
    }
    make(&["merge", &logs[0], &logs[1]], &merged);

    let compared = page("compared");
    let server = format!("'{}' be-the-slowed-server {{port}} 0", env!("CARGO_BIN_EXE_loadgen"));
    let metrics = ["--metric", "cpu,p50,p99,throughput", "--budget", "2s", "-t", "1ms", "-w", "500us"];
    make(&[&["compare", "-c", "2", "--base", &server, "--head", &server][..], &metrics].concat(), &compared);

    let told = page("history");
    let plots_alone = folder.path("history.svg");
    let entries = folder.path("history.jsonl");
    let counts = |index| if index < 20 { 421.0 } else { 433.0 };
    let cpu = |index: usize| if index < 25 { 0.0 } else { 0.02 };
    fs::write(&entries, history::lines("instructions", counts, 60) + &history::lines("cpu", cpu, 60))
        .unwrap();
    make(&["history", &entries, "--svg", &plots_alone], &told);
    let day = page("day");
    let of_one_day = history::lines("cpu", cpu, 20);
    fs::write(&entries, of_one_day).unwrap();
    make(&["history", &entries], &day);

    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let records = fs::read_dir(format!("{root}/benches/record")).unwrap();
    let records = records.map(|entry| entry.unwrap().path().display().to_string());
    let kept =
        records.filter(|path| path.ends_with(".svg")).chain([format!("{root}/docs/figures/headline.svg")]);
    // Steps without a valid repeat have no figures to draw, and beside other tests that may be all of them.
    let hopeless = fs::read_to_string(&steps).unwrap().contains("without any valid repeat");
    let steps = (steps, if hopeless { 0 } else { 3 });
    let pages = [(run, 3), (closed, 3), (chat_page, 3), steps, (idle, 1), (merged, 3), (compared, 0)];
    let pages = pages.into_iter().chain([(told, 2), (plots_alone, 2), (day, 1)]);
    pages.chain(kept.map(|path| (path, 1))).collect()
}

#[test]
fn every_page_can_be_read_on_a_phone_and_on_a_wide_screen_light_and_dark() {
    if !skipped::is_installed("chromium", "chromium") {
        return;
    }
    let folder = Folder::new();
    let pages = pages(&folder);
    let mut browser = Browser::start();
    let mut faults = Vec::new();
    for (path, plots) in &pages {
        let seen = browser.look_at(path);
        faults.extend(seen.faults);
        if seen.plots < *plots {
            faults.push(format!("{path}: {} plots are shown, {plots} are due", seen.plots));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    planted_faults_are_seen(&folder, &mut browser);
}

/// Takes out of pages what keeps them readable.
fn planted_faults_are_seen(folder: &Folder, browser: &mut Browser) {
    let path = folder.path("planted.html");
    for (page, planted, instead, words) in [
        ("steps", ".wide{overflow-x:auto;", ".wide{", "scrolls sideways"),
        ("steps", "position:sticky;", "", "are scrolled away"),
        ("run", ".on-wide{display:none}.on-phone{display:block}", "", "pixels high"),
        ("run", "--soft:#55544f", "--soft:#999999", "contrast of"),
        ("run", "@media(prefers-color-scheme:dark){iframe{", "@media print{iframe{", "frames do not suit"),
        ("run", "<h2>Throughput over time</h2>", "", "a plot has no title: Throughput over time"),
        ("run", "svg text{font:13px", "svg text{font:26px", "overlap"),
        ("run", "</body>", "<script>nothing()</script></body>", "Content Security Policy"),
        ("run", "</body>", "<img src=\"http://127.0.0.1:9/\" alt=\"\"></body>", "http://127.0.0.1:9/"),
    ] {
        let html = folder.read(&format!("{page}.html"));
        assert!(html.contains(planted), "{page} has no {planted}");
        fs::write(&path, html.replace(planted, instead)).unwrap();
        let scheme = if planted.contains("dark") { "dark" } else { "light" };
        let faults = browser.look_once(&path, 390, scheme).faults;
        assert!(faults.iter().any(|fault| fault.contains(words)), "{planted}: {faults:?}");
    }
}
