//! The engine's parts, each by itself, and whole turns without a kernel and with one. What it all comes to is measured by
//! `benches/loopback`.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::framing::{Framed, Framing, Rules};
use tidewheel::parts::{self, Outputs, Slots, Timers, Topic};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::services::echo::Echo;
use tidewheel::services::time::Time;
use tidewheel::services::uppercase::{Uppercase, uppercase_into};
use tidewheel::{Address, Limits, Options, Reactor, Service};

use bare::{Bare, Input};

mod bare;

/// How many connections are ready in one turn, from the least to as many as there are room for events.
const READY: [usize; 3] = [1, 50, 1000];

/// A message of the size that is measured everywhere, without a newline.
const MESSAGE: [u8; 64] = [b'm'; 64];

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}

/// A group whose benchmarks take a second each.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    group
}

fn elements(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

/// Sees to it that bytes count as used. Returns how many there were.
fn take(bytes: &[u8]) -> usize {
    black_box(bytes).len()
}

// ---- whole turns ----

/// Turns without a kernel: what the engine and the service cost.
fn bare_turns(criterion: &mut Criterion) {
    let mut group = group(criterion, "turn");
    let input = |bytes: &[u8]| Input { bytes: bytes.to_vec(), names: false };
    for ready in READY {
        let reactor = bare::with_connections(Echo, ready, ready, input(&MESSAGE));
        measure_turns(&mut group, &format!("echo/{ready}"), reactor, ready, ready * MESSAGE.len());
        let reactor = bare::with_connections(Uppercase::default(), ready, ready, input(&MESSAGE));
        measure_turns(&mut group, &format!("uppercase/{ready}"), reactor, ready, ready * MESSAGE.len());
    }
    // 16 connections: more would pass what one turn takes.
    let large = vec![b'l'; 16 << 10];
    let reactor = bare::with_connections(Echo, 16, 16, input(&large));
    measure_turns(&mut group, "echo-16KiB/16", reactor, 16, 16 * large.len());

    // One speaks, all others hear it: as many deliveries.
    for hearers in [1, 100, 1000] {
        let line = [&MESSAGE[..63], b"\n"].concat();
        let mut limits = ChatLimits::default();
        (limits.rate, limits.announce_max) = (0, 0);
        let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
        let reactor =
            bare::with_connections(chat, hearers + 1, 1, Input { bytes: line.clone(), names: true });
        let delivery = b"m0: ".len() + line.len();
        measure_turns(&mut group, &format!("chat/{hearers}"), reactor, hearers, hearers * delivery);
    }
    group.finish();
}

/// Measures turns that send so many bytes each.
fn measure_turns(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut reactor: Reactor<Bare>,
    count: usize,
    bytes: usize,
) {
    let before = reactor.metrics().bytes_out;
    bare::turn(&mut reactor);
    assert_eq!(reactor.metrics().bytes_out - before, bytes as u64, "{name}: every turn answers everybody");
    group.throughput(elements(count));
    group.bench_function(name, |bencher| bencher.iter(|| bare::turn(&mut reactor)));
}

/// A batch of datagrams in a turn without a kernel.
fn datagrams(criterion: &mut Criterion) {
    let mut group = group(criterion, "datagrams");
    measure_batches(&mut group, "echo", Echo);
    measure_batches(&mut group, "time", Time::local());
    group.finish();
}

fn measure_batches(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, service: impl Service) {
    let mut reactor = bare::with_datagrams(service, &MESSAGE);
    bare::turn(&mut reactor);
    let (sent, batch) = (reactor.metrics().datagrams_out, parts::BATCH_MAX);
    assert_eq!(sent, batch as u64, "every turn answers a batch");
    group.throughput(elements(batch));
    group.bench_function(name, |bencher| bencher.iter(|| bare::turn(&mut reactor)));
}

/// Turns on sockets: of the time of one, only the turn itself counts, not what the peers do before and after it.
fn socket_turns(criterion: &mut Criterion) {
    let mut group = group(criterion, "turn-on-sockets");
    for ready in READY {
        let mut peers = None;
        group.throughput(elements(ready));
        group.bench_function(format!("echo/{ready}"), |bencher| {
            let Peers { reactor, streams } = peers.get_or_insert_with(|| Peers::connect(ready));
            bencher.iter_custom(|iterations| (0..iterations).map(|_| turn_once(reactor, streams)).sum());
        });
    }
    group.finish();
}

/// A reactor that echoes, and connections to it.
struct Peers {
    reactor: Reactor,
    streams: Vec<TcpStream>,
}

impl Peers {
    fn connect(count: usize) -> Peers {
        let mut reactor = Reactor::new(Limits::default()).expect("the system has room for an event queue");
        let echo = reactor.add_service(Echo, Options::new("echo").messages(false));
        let loopback = Address::Tcp(([127, 0, 0, 1], 0).into());
        let (_, address) = reactor.listen(&loopback, echo).expect("the system chooses a free port");
        let Address::Tcp(address) = address else { unreachable!("it was asked for a TCP address") };
        let streams = (0..count).map(|_| TcpStream::connect(address).expect("the reactor listens")).collect();
        while reactor.metrics().connections_accepted < count as u64 {
            reactor.turn(None).expect("the system tells readiness");
        }
        Peers { reactor, streams }
    }
}

/// All ask, and the reactor turns until it has read them all, which is one turn as a rule. Returns how long that took.
fn turn_once(reactor: &mut Reactor, streams: &mut [TcpStream]) -> Duration {
    for stream in &mut *streams {
        stream.write_all(&MESSAGE).expect("the connection is open");
    }
    let goal = reactor.metrics().bytes_in + (streams.len() * MESSAGE.len()) as u64;
    let begun = now();
    while reactor.metrics().bytes_in < goal {
        reactor.turn(None).expect("the system tells readiness");
    }
    let taken = begun.elapsed();
    for stream in streams {
        let mut reply = [0; MESSAGE.len()];
        stream.read_exact(&mut reply).expect("the reply comes");
        assert_eq!(reply, MESSAGE);
    }
    taken
}

// ---- parts ----

fn slots(criterion: &mut Criterion) {
    let mut group = group(criterion, "slots");
    for count in READY {
        group.throughput(elements(count));
        let mut slots = Slots::new(count);
        assert_eq!(slots.find_all(), count);
        group.bench_function(format!("find/{count}"), |bencher| bencher.iter(|| slots.find_all()));
        group.bench_function(format!("replace/{count}"), |bencher| bencher.iter(|| slots.replace_all()));
        assert_eq!(slots.find_all(), count);
    }
    group.finish();
}

fn timers(criterion: &mut Criterion) {
    let mut group = group(criterion, "timers");
    for count in READY {
        group.throughput(elements(count));
        let mut timers = Timers::new(count);
        assert_eq!(timers.fire_all(), count);
        group.bench_function(format!("move/{count}"), |bencher| bencher.iter(|| timers.move_all()));
        group.bench_function(format!("fire/{count}"), |bencher| bencher.iter(|| timers.fire_all()));
    }
    group.finish();
}

fn output(criterion: &mut Criterion) {
    let mut group = group(criterion, "output");
    for count in READY {
        group.throughput(elements(count));
        let mut outputs = Outputs::new(count, &MESSAGE);
        let mut sent = 0;
        outputs.echo_to_all(MESSAGE.len(), |bytes| sent += take(bytes));
        outputs.reply_to_all(&MESSAGE, |bytes| sent += take(bytes));
        outputs.keep_and_write_all(&MESSAGE, |written| sent += written);
        assert_eq!(sent, 3 * count * MESSAGE.len(), "all of it comes out");
        group.bench_function(format!("input/{count}"), |bencher| {
            bencher.iter(|| outputs.echo_to_all(MESSAGE.len(), |bytes| sent += take(bytes)));
        });
        group.bench_function(format!("reply/{count}"), |bencher| {
            bencher.iter(|| outputs.reply_to_all(&MESSAGE, |bytes| sent += take(bytes)));
        });
        group.bench_function(format!("tail/{count}"), |bencher| {
            bencher.iter(|| outputs.keep_and_write_all(&MESSAGE, |written| sent += written));
        });
    }
    group.finish();
}

fn framing(criterion: &mut Criterion) {
    let mut group = group(criterion, "framing");
    let rules = Rules::default();
    for len in [16, 64, 1024, 16 << 10] {
        let mut line = vec![b'l'; len];
        line[len - 1] = b'\n';
        let lines = line.repeat((64 << 10) / len);
        let split = |mut rest: &[u8]| {
            let (mut framing, mut count) = (Framing::default(), 0);
            while let Ok(Some(message)) = framing.next(rest, &rules) {
                count += take(message.text).min(1);
                rest = &rest[message.stream_bytes()..];
            }
            count
        };
        assert_eq!(split(&lines), lines.len() / len);
        group.throughput(Throughput::Bytes(lines.len() as u64));
        group.bench_function(format!("lines/{len}"), |bencher| bencher.iter(|| split(black_box(&lines))));
    }
    group.finish();
}

fn uppercase(criterion: &mut Criterion) {
    let mut group = group(criterion, "uppercasing");
    let texts = [
        ("ascii", "the tide turns the wheel, "),
        ("latin", "größere Wellen spülen, "),
        ("chinese", "潮水推动着水车，"),
        ("mixed", "wheel 水车 größer, "),
    ];
    for (name, text) in texts {
        let text = text.repeat((16 << 10) / text.len());
        let mut out = Vec::new();
        assert_eq!(uppercase_into(text.as_bytes(), &mut out), text.len());
        assert_eq!(out, text.to_uppercase().as_bytes());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                uppercase_into(black_box(text.as_bytes()), &mut out)
            });
        });
    }
    group.finish();
}

fn topic(criterion: &mut Criterion) {
    let mut group = group(criterion, "topic");
    for members in [2, 101, 1001] {
        let (mut topic, mut heard) = (Topic::new(members), 0);
        topic.publish_and_hear(&MESSAGE, 1, |bytes| heard += take(bytes));
        topic.publish_and_hear(&MESSAGE, 16, |bytes| heard += take(bytes));
        assert_eq!(heard, (members - 1) * 17 * MESSAGE.len(), "all but the speaker hear everything");
        for times in [1, 16] {
            group.throughput(elements((members - 1) * times));
            group.bench_function(format!("publish-{times}/{}", members - 1), |bencher| {
                bencher.iter(|| topic.publish_and_hear(&MESSAGE, times, |bytes| heard += take(bytes)));
            });
        }
        group.throughput(elements(members));
        group.bench_function(format!("join/{members}"), |bencher| bencher.iter(|| topic.leave_and_join()));
    }
    group.finish();
}

fn chat(criterion: &mut Criterion) {
    let mut group = group(criterion, "chat-parsing");
    let long = "the tide turns the wheel, ".repeat(600);
    let messages = [
        ("say", "the tide turns the wheel, and the wheel turns by the tide", true),
        ("say-chinese", "潮水推动着水车，水车随潮水而转", true),
        ("say-long", &long, true),
        ("colon", "look: the tide turns the wheel", false),
        ("private", "@bob the tide turns the wheel", false),
        ("command", "/join wheels", false),
        ("unsafe", "the tide \u{1b}[31mturns\u{202e} the wheel", true),
    ];
    for (name, message, is_said) in messages {
        assert_eq!(parts::said_in_chat(message.as_bytes()) > 0, is_said, "{name}");
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| parts::said_in_chat(black_box(message.as_bytes())));
        });
    }
    group.finish();
}

criterion_group!(
    benches,
    bare_turns,
    socket_turns,
    datagrams,
    slots,
    timers,
    output,
    framing,
    uppercase,
    topic,
    chat
);
criterion_main!(benches);
