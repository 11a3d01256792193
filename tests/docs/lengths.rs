//! The protocol with a planted bug that docs/simulation.md shows, and the one without it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

// [listing]
use tidewheel::sim::{Faults, Sim};
use tidewheel::{ConnId, Context, Service};

/// Answers each line with its length. A line ends with CR, LF or CRLF.
struct Lengths;

impl Service for Lengths {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut consumed = 0;
        while let Some(len) = bytes[consumed..].iter().position(|byte| b"\r\n".contains(byte)) {
            if cx.room(conn) == 0 {
                break;
            }
            cx.send(conn, format!("{len}\n").as_bytes());
            let ending = if bytes[consumed + len..].starts_with(b"\r\n") { 2 } else { 1 };
            consumed += len + ending;
        }
        consumed
    }
}

fn two_lines(seed: u64) {
    let mut sim = Sim::new(seed, Faults::hostile());
    let lengths = sim.listen("127.0.0.1:7", Lengths);
    let peer = sim.connect(lengths);
    sim.send(peer, b"one\r\nthree\r\n");
    sim.finish(peer);
    assert!(sim.run(), "it comes to an end");
    assert_eq!(String::from_utf8_lossy(sim.received(peer)), "3\n5\n");
}
// [end]

/// Without the bug.
struct Fixed;

impl Service for Fixed {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut consumed = 0;
        while let Some(len) = bytes[consumed..].iter().position(|byte| b"\r\n".contains(byte)) {
            // [fix]
            if bytes[consumed + len..] == *b"\r" || cx.room(conn) == 0 {
                break; // a LF may follow this CR: both are offered again when more has come
            }
            // [end]
            cx.send(conn, format!("{len}\n").as_bytes());
            let ending = if bytes[consumed + len..].starts_with(b"\r\n") { 2 } else { 1 };
            consumed += len + ending;
        }
        consumed
    }
}

/// What `two_lines` says with this seed when it fails.
fn failure_of(seed: u64) -> Option<String> {
    let panic = std::panic::catch_unwind(|| two_lines(seed)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
}

#[test]
fn the_page_shows_this_protocol_and_the_seed_that_finds_its_bug() {
    let page = super::read("docs/simulation.md");
    let source = include_str!("lengths.rs");
    let part = |name: &str| {
        let (_, rest) = source.split_once(&format!("// [{name}]\n")).unwrap();
        rest.split_once("// [end]").unwrap().0
    };
    assert!(
        page.contains(part("listing").trim_end()),
        "the page has another listing than tests/docs/lengths.rs"
    );
    let fix: Vec<&str> = part("fix").lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(
        fix.iter().all(|line| page.contains(line)),
        "the page has another fix than tests/docs/lengths.rs"
    );

    let seed = (0..1000).find(|&seed| failure_of(seed).is_some()).expect("the bug is found by 1,000 seeds");
    assert!(
        page.contains(&format!("seed {seed}; replay with TIDEWHEEL_SEED={seed}")),
        "it is found by seed {seed}"
    );
    let failure = failure_of(seed).unwrap();
    assert_eq!(failure_of(seed).unwrap(), failure, "a seed does the same each time");
    for line in failure.lines().map(str::trim) {
        assert!(page.contains(line), "the page does not show: {line}");
    }
}

#[test]
fn the_fix_of_the_page_holds() {
    tidewheel::sim::check(0..1000, |seed| {
        let mut sim = Sim::new(seed, Faults::hostile());
        let lengths = sim.listen("127.0.0.1:7", Fixed);
        let peer = sim.connect(lengths);
        sim.send(peer, b"one\r\nthree\r\n");
        sim.finish(peer);
        assert!(sim.run());
        assert_eq!(sim.received(peer), b"3\n5\n");
    });
}

#[test]
fn the_page_shows_steps_of_the_trace_in_their_order() {
    let page = super::read("docs/simulation.md");
    let (_, shown) = page.split_once("\n      413.26µs  accept").expect("the page shows steps of a trace");
    let (shown, _) = shown.split_once("```").unwrap();
    let shown = format!("      413.26µs  accept{shown}");

    let mut sim = Sim::new(5, Faults::hostile());
    sim.keep_trace();
    let lengths = sim.listen("127.0.0.1:7", Lengths);
    let peer = sim.connect(lengths);
    sim.send(peer, b"one\r\nthree\r\n");
    sim.finish(peer);
    sim.run();
    let trace = sim.trace().to_string();
    assert!(trace.contains(&shown), "the page shows other steps than this trace:\n{trace}");
}
