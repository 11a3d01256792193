//! Healthy clients, for the figures of long runs: how long their answers take while something goes wrong beside them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::now;

/// Asks on each connection in turn, one question at a time, for as long as `during`, and returns how long answers took,
/// in nanoseconds.
pub fn ask_in_turn(streams: &mut [TcpStream], during: Duration) -> Histogram<u64> {
    let question = [b'q'; 64];
    let mut answer = [0; 64];
    let mut times = Histogram::new(3).unwrap();
    let begun = now();
    while begun.elapsed() < during {
        for stream in &mut *streams {
            let sent = now();
            stream.write_all(&question).unwrap();
            stream.read_exact(&mut answer).unwrap();
            times.saturating_record(sent.elapsed().as_nanos() as u64);
            assert_eq!(answer, question);
        }
    }
    times
}

/// The figures of one run, for reading.
pub fn describe(times: &Histogram<u64>) -> String {
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    format!(
        "{} answers, p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        times.len(),
        micros(0.5),
        micros(0.99),
        micros(1.0)
    )
}

/// How much longer the slowest hundredth took than without the fault.
pub fn p99_ratio(with: &Histogram<u64>, without: &Histogram<u64>) -> f64 {
    with.value_at_quantile(0.99) as f64 / without.value_at_quantile(0.99) as f64
}
