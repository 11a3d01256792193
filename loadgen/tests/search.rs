//! The search for the highest rate: servers whose edge is a matter of counting, not of speed.

use std::io::{Read, Write};

use serde_json::Value;

use super::{complaint, copy, echo_server, loadgen, serve};

fn search(target: &str, arguments: &[&str]) -> (i32, Value) {
    let output = loadgen(&[&["search", target, "-w", "0", "-q", "--json", "-"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).expect(&stderr))
}

/// What was measured, as rates and outcomes; they add up to the tallies.
fn outcomes(found: &Value) -> Vec<(f64, &str)> {
    let measurements = found["measurements"].as_array().unwrap();
    let outcomes: Vec<_> = measurements
        .iter()
        .map(|each| (each["rate_per_s"].as_f64().unwrap(), each["outcome"].as_str().unwrap()))
        .collect();
    let mut rates: Vec<f64> = Vec::new();
    for tally in found["rates"].as_array().unwrap() {
        let rate = tally["rate_per_s"].as_f64().unwrap();
        for outcome in ["passed", "failed", "limited"] {
            let count = outcomes.iter().filter(|each| **each == (rate, outcome)).count();
            assert_eq!(tally[outcome], count, "{tally} {outcome}");
        }
        rates.push(rate);
    }
    assert!(rates.is_sorted() && outcomes.iter().all(|(rate, _)| rates.contains(rate)));
    outcomes
}

#[test]
fn the_edge_is_between_what_passed_and_what_failed() {
    // A hundred requests a connection are answered: within 200 ms that is a rate of 500 a second.
    let address = serve(|mut stream| {
        let mut request = [0; 64];
        for _ in 0..100 {
            if stream.read_exact(&mut request).and_then(|()| stream.write_all(&request)).is_err() {
                return;
            }
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (code, found) = search(
        &format!("echo={address}"),
        &["--slo", "lost<1", "--start", "300", "--precision", "10%", "-t", "200ms", "--timeout", "400ms"],
    );
    for (rate, outcome) in outcomes(&found) {
        // The tests share their processors: a rate may be out of the generator's reach, or a reply too late.
        assert!(outcome != "passed" || rate <= 500.0, "{rate} {outcome}");
    }
    let bound = |name: &str| found[name]["rate_per_s"].as_f64();
    let (lower, upper) = (bound("all_passed").unwrap_or(0.0), bound("upper").unwrap_or(f64::MAX));
    assert!(lower <= 500.0 && lower < upper, "{found}");
    let is_limited = found["limited_by"] == "generator";
    assert_eq!(found["verdict"], if is_limited { "invalid" } else { "valid" });
    let due = [(is_limited, 3), (found["all_passed"].is_null(), 1), (true, 0)];
    assert_eq!(Some(code), due.iter().find(|(is_so, _)| *is_so).map(|(_, code)| *code), "{found}");
    if found["ended"] == "precision" && !is_limited {
        assert!(upper <= lower * 1.1 && found["all_passed"]["passed"] == 3, "{found}");
    }
}

#[test]
fn no_rate_at_all_is_a_failure() {
    let target = format!("echo={}", echo_server());
    let (code, found) = search(&target, &["--slo", "throughput>1M", "-t", "10ms", "--start", "100"]);
    assert!(found["all_passed"].is_null());
    assert!(outcomes(&found).iter().all(|(_, outcome)| *outcome != "passed"));
    assert_eq!(code, if found["limited_by"] == "generator" { 3 } else { 1 }, "{found}");
}

#[test]
fn a_budget_ends_it() {
    let target = format!("echo={}", echo_server());
    let (_, found) = search(&target, &["--slo", "errors<1", "-t", "300ms", "--budget", "500ms"]);
    assert_eq!((&found["ended"], outcomes(&found).len()), (&"budget".into(), 1), "{found}");
}

#[test]
fn wrong_replies_have_no_rate() {
    let address = serve(|stream| copy(stream, |_, bytes| bytes.make_ascii_uppercase()));
    let told = complaint(&["search", &format!("echo={address}"), "--slo", "p99<1s", "-t", "10ms"], 3);
    assert!(told.contains("at 1.00 k/s") && told.contains("wrong replies"), "{told}");
}

#[test]
fn conditions_that_cannot_be_known_are_bad_usage() {
    for (arguments, words) in [
        (&["search", "echo=127.0.0.1:1"][..], "--slo"),
        (&["search", "echo=127.0.0.1:1", "--slo", "p98<1ms"], "the figures are p50"),
        (&["search", "echo=127.0.0.1:1", "--slo", "cpu<1us"], "--slo 'cpu<1us' needs --pid"),
        (&["search", "echo=127.0.0.1:1", "--slo", "p99<1ms", "--precision", "2"], "%"),
    ] {
        let told = complaint(arguments, 2);
        assert!(told.contains(words), "{told}");
    }
}
