//! Healthy clients, for the figures of long runs: how long their answers take while something goes wrong beside them.
//!
//! The clients and whatever goes wrong share one thread, a little of each at a time, and the server has a processor to
//! itself where there are two. With a thread for each, three would share two processors, and what is measured is how
//! the system's scheduler slices them: 3 to 4 ms, whoever serves.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::now;
#[cfg(feature = "cli")]
use super::program::Server;

/// How often a comparison is made.
#[cfg(feature = "cli")]
const ROUNDS: usize = 7;

/// What is done a little at a time beside the clients.
pub type Noise<'a> = Box<dyn FnMut() + 'a>;

/// Silence beside the clients.
pub fn silence() -> Noise<'static> {
    Box::new(|| {})
}

/// Keeps the calling thread on one processor, where there are two: 0 for the server, 1 for its clients.
pub fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    // There may be one processor only.
    let _ = sched_setaffinity(None, &set);
}

/// Asks on all connections at once, again and again for as long as `during`, and returns how long each answer took,
/// in nanoseconds. While answers are awaited there is `noise`.
pub fn ask_beside(noise: &mut Noise<'_>, streams: &mut [TcpStream], during: Duration) -> Histogram<u64> {
    let question = [b'q'; 64];
    let mut answer = [0; 64];
    let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    let mut sent = vec![now(); streams.len()];
    let mut waiting = Vec::with_capacity(streams.len());
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let begun = now();
    while begun.elapsed() < during {
        for (index, (stream, sent)) in streams.iter_mut().zip(&mut sent).enumerate() {
            *sent = now();
            stream.write_all(&question).unwrap();
            waiting.push(index);
        }
        while !waiting.is_empty() {
            waiting.retain(|&index| match streams[index].read(&mut answer) {
                Ok(count) => {
                    times.saturating_record(sent[index].elapsed().as_nanos() as u64);
                    // An answer this small comes whole.
                    assert_eq!(&answer[..count], question);
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    true
                }
            });
            noise();
        }
    }
    streams.iter().for_each(|stream| stream.set_nonblocking(false).unwrap());
    times
}

/// The same without noise.
pub fn ask_together(streams: &mut [TcpStream], during: Duration) -> Histogram<u64> {
    ask_beside(&mut silence(), streams, during)
}

/// The same in silence, while a noise is made at nobody, which costs the clients' thread as much, and while it is made
/// at the server that is asked.
#[cfg(feature = "cli")]
pub fn compare<'a>(
    row: &str,
    args: &[&str],
    clients: usize,
    mut make_noise: impl FnMut(Option<&Server>) -> Noise<'a>,
) {
    stay_on(0);
    let mut asked = Server::start_for_long(args);
    stay_on(1);
    let mut streams: Vec<_> = (0..clients).map(|_| asked.tcp("echo")).collect();
    let during = Duration::from_secs(2);
    ask_together(&mut streams, Duration::from_secs(1));
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let alone = ask_together(&mut streams, during);
        let elsewhere = ask_beside(&mut make_noise(None), &mut streams, during);
        let before = asked.counters();
        let here = ask_beside(&mut make_noise(Some(&asked)), &mut streams, during);
        let after = asked.counters();
        let taken = |name: &str| after[name] - before[name];
        println!(
            "{row}: {} bytes and {} datagrams taken in; in silence {}; with noise at nobody {}; at the server {}",
            taken("bytes_in"),
            taken("datagrams_in"),
            describe(&alone),
            describe(&elsewhere),
            describe(&here)
        );
        p50.push(ratio(&here, &elsewhere, 0.5));
        p99.push(ratio(&here, &elsewhere, 0.99));
    }
    p50.sort_by(f64::total_cmp);
    p99.sort_by(f64::total_cmp);
    println!("{row}: with noise at the server against noise at nobody: p50 x {p50:.2?}, p99 x {p99:.2?}");
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

/// How much longer the slowest took than without the fault, at this quantile.
pub fn ratio(with: &Histogram<u64>, without: &Histogram<u64>, quantile: f64) -> f64 {
    with.value_at_quantile(quantile) as f64 / without.value_at_quantile(quantile) as f64
}

/// How much longer the slowest hundredth took than without the fault.
pub fn p99_ratio(with: &Histogram<u64>, without: &Histogram<u64>) -> f64 {
    ratio(with, without, 0.99)
}
