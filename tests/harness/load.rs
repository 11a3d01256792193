//! Healthy clients, for the figures of long runs: how long their answers take while something goes wrong beside them.

use std::io::{Read, Write};
use std::net::TcpStream;
#[cfg(feature = "cli")]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "cli")]
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::now;
#[cfg(feature = "cli")]
use super::program::Server;

/// Asks on all connections at once, again and again for as long as `during`, and returns how long each answer took,
/// in nanoseconds.
pub fn ask_together(streams: &mut [TcpStream], during: Duration) -> Histogram<u64> {
    let question = [b'q'; 64];
    let mut answer = [0; 64];
    let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    let mut sent = vec![now(); streams.len()];
    let begun = now();
    while begun.elapsed() < during {
        for (stream, sent) in streams.iter_mut().zip(&mut sent) {
            *sent = now();
            stream.write_all(&question).unwrap();
        }
        for (stream, sent) in streams.iter_mut().zip(&sent) {
            stream.read_exact(&mut answer).unwrap();
            times.saturating_record(sent.elapsed().as_nanos() as u64);
            assert_eq!(answer, question);
        }
    }
    times
}

/// The same three times: alone, while a noise goes on at another server, which takes the processors away but not the
/// loop, and while it goes on at the server that is asked. `make_noise` makes it until it is told to stop.
#[cfg(feature = "cli")]
pub fn compare(
    row: &str,
    args: &[&str],
    clients: usize,
    make_noise: impl Fn(&Server, &AtomicBool) -> String + Sync,
) {
    let (asked, other) = (Server::start_for_long(args), Server::start_for_long(args));
    let mut streams: Vec<_> = (0..clients).map(|_| asked.tcp("echo")).collect();
    let during = Duration::from_secs(4);
    ask_together(&mut streams, Duration::from_secs(1));
    for _ in 0..3 {
        let alone = ask_together(&mut streams, during);
        let mut beside = |server: &Server| {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let noise = scope.spawn(|| make_noise(server, &stop));
                let times = ask_together(&mut streams, during);
                stop.store(true, Ordering::Relaxed);
                (times, noise.join().unwrap())
            })
        };
        let (elsewhere, _) = beside(&other);
        let (here, noise) = beside(&asked);
        println!(
            "{row}: {noise}; alone {}; with it at another server {}; with it {}: p99 x {:.2}, x {:.2} against the other",
            describe(&alone),
            describe(&elsewhere),
            describe(&here),
            p99_ratio(&here, &alone),
            p99_ratio(&here, &elsewhere)
        );
    }
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
