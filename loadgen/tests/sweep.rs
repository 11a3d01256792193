//! Sweeps: what is measured how often, in which order, and what is made of it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::outputs::Folder;
use super::{complaint, copy, echo_server, loadgen, serve};

/// Sweeps without warm-up and returns the exit code and the JSON.
fn sweep(target: &str, arguments: &[&str]) -> (i32, Value) {
    let output = loadgen(&[&["run", target, "-w", "0", "-q", "--json", "-"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).expect(&stderr))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The tests share their processors: a repeat may be invalid for want of them, and then is none of the figures.
fn assert_sums_up(step: &Value) {
    let reports: Vec<_> = list(&step["repeats"]).iter().map(|repeat| &repeat["report"]).collect();
    let valid: Vec<_> = reports.iter().filter(|report| report["verdict"] == "valid").collect();
    assert_eq!(count(&step["valid_repeats"]), valid.len());
    assert_eq!(step["verdict"], if valid.is_empty() { "invalid" } else { "valid" });
    let mut rates: Vec<_> = valid.iter().map(|report| report["throughput_per_s"].as_f64().unwrap()).collect();
    rates.sort_by(f64::total_cmp);
    let spread = &step["throughput_per_s"];
    if let [least, .., greatest] = rates[..] {
        assert_eq!((spread["min"].as_f64(), spread["max"].as_f64()), (Some(least), Some(greatest)));
    }
    match rates[..] {
        [] => assert!(spread.is_null()),
        [middle] | [_, middle, _] => assert_eq!(spread["median"].as_f64(), Some(middle)),
        _ => {}
    }
}

#[test]
fn every_step_is_measured_as_often_as_asked_in_rounds_of_changing_order() {
    let target = format!("echo={}", echo_server());
    let (code, swept) = sweep(&target, &["--rate", "3k,1k,2k", "-c", "2", "-n", "50", "--repeat", "3"]);
    let steps = list(&swept["steps"]);
    let rates: Vec<_> = steps.iter().map(|step| step["rate_per_s"].as_f64().unwrap()).collect();
    assert_eq!(rates, [1000.0, 2000.0, 3000.0]);
    assert_eq!(swept["varied"], "rate_per_s");
    let mut order = [usize::MAX; 9];
    for (index, step) in steps.iter().enumerate() {
        for repeat in list(&step["repeats"]) {
            let report = &repeat["report"];
            assert_eq!((&report["requests"], &report["errors"]), (&50.into(), &0.into()));
            assert_eq!((&report["rate_per_s"], &report["connections"]), (&step["rate_per_s"], &2.into()));
            order[count(&repeat["place"]) - 1] = index;
        }
        assert_sums_up(step);
    }
    let rounds: Vec<_> = order.chunks(3).collect();
    for round in &rounds {
        let mut sorted = round.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2], "{order:?}");
    }
    assert!(rounds.iter().any(|round| *round != rounds[0]), "one order for all: {order:?}");
    let all_valid = steps.iter().all(|step| step["verdict"] == "valid");
    assert_eq!(code, if all_valid { 0 } else { 3 });

    let (_, again) = sweep(&target, &["--rate", "1k..3k:3", "-c", "2", "-n", "50", "--repeat", "3"]);
    for (step, before) in list(&again["steps"]).iter().zip(steps) {
        let places = |step: &Value| -> Vec<usize> {
            list(&step["repeats"]).iter().map(|repeat| count(&repeat["place"])).collect()
        };
        assert_eq!(places(step), places(before), "the same seed is the same order");
    }
}

#[test]
fn a_step_that_is_never_valid_is_shown_as_such() {
    // It answers wrongly while three connections are open.
    let open = Arc::new(AtomicUsize::new(0));
    let address = serve(move |mut stream| {
        let mut request = [0; 64];
        open.fetch_add(1, Ordering::SeqCst);
        while stream.read_exact(&mut request).is_ok() {
            if open.load(Ordering::SeqCst) >= 3 {
                request[7] ^= 1;
            }
            if stream.write_all(&request).is_err() {
                break;
            }
        }
        open.fetch_sub(1, Ordering::SeqCst);
    });
    let folder = Folder::new();
    let [csv, html] = ["csv", "html"].map(|name| folder.path(name));
    let arguments = ["-c", "3,1", "-n", "300", "--repeat", "2", "--csv", &csv, "--html", &html];
    let (code, swept) = sweep(&format!("echo={address}"), &arguments);
    assert_eq!((code, swept["verdict"].as_str()), (3, Some("invalid")));
    let [one, three] = list(&swept["steps"]) else { panic!("{swept}") };
    assert_eq!((&one["connections"], &three["connections"]), (&1.into(), &3.into()));
    assert_sums_up(one);
    assert_eq!((&three["verdict"], &three["limiters"][0]), (&"invalid".into(), &"wrong replies".into()));
    assert!(three["throughput_per_s"].is_null() && three["p99_us"].is_null());

    let text = folder.read("csv");
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.len() == head.len()), "{text}");
    assert_eq!(rows[1][..5], ["", "3", "2", "0", "wrong replies"]);
    let (interrupted, figures) = rows[1][5..].split_last().unwrap();
    assert!(*interrupted == "0" && figures.iter().all(|cell| cell.is_empty()), "{text}");
    let page = folder.read("html");
    assert!(!page.contains("verdict valid"), "not green where a repeat is INVALID");
    assert!(page.contains("INVALID") && page.contains("limited by wrong replies"));
    assert_eq!(page.contains("<svg"), one["verdict"] == "valid", "curves of what is valid");
}

#[test]
fn the_table_has_a_row_for_each_step() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes.make_ascii_uppercase()));
    let target = format!("uppercase={address}");
    let output =
        loadgen(&["run", &target, "-c", "1..5:3", "-d", "2", "-n", "60", "-w", "0", "--repeat", "1"]);
    let (table, progress) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let names: Vec<_> = table
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("connections"))
        .skip(1)
        .take(3)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["1", "3", "5"], "{table}");
    assert!(progress.contains("1 of 3: ") && progress.contains("3 of 3: "), "{progress}");
}

#[test]
fn steps_that_make_no_sense_are_bad_usage() {
    for arguments in [
        &["run", "echo=127.0.0.1:1", "--rate", "1k,2k", "-c", "1,2"][..],
        &["run", "echo=127.0.0.1:1", "--rate", "1k..2k"],
        &["run", "echo=127.0.0.1:1", "-c", "0,2"],
        &["run", "echo=127.0.0.1:1", "--rate", "1k", "-d", "2"],
        &["run", "chat", "-c", "1,2"],
        &["run", "echo=127.0.0.1:1", "-c", "1,2", "--syscalls"],
        &["run", "echo=127.0.0.1:1", "--repeat", "2", "--hgrm", "-"],
        &["run", "echo=127.0.0.1:1", "-r", "1k,2k", "--hlog", "-"],
        &["run", "echo=127.0.0.1:1", "-r", "1k,2k", "--fail-if", "p99>1ms"],
        &["run", "echo=127.0.0.1:1", "--close", "rst"],
    ] {
        complaint(arguments, 2);
    }
}

#[test]
fn a_former_command_is_answered_with_the_present_one() {
    for (former, present) in [
        ("churn", "loadgen run --reconnect"),
        ("sweep", "loadgen run with several rates or connection counts"),
        ("versus", "cargo run --release -p versus"),
    ] {
        for arguments in [&[former][..], &[former, "echo=127.0.0.1:1", "--rates", "1k"]] {
            let answer = complaint(arguments, 2);
            assert!(answer.contains(present) && answer.lines().count() == 1, "{answer}");
        }
    }
}
