//! Whole servers over loopback: tidewheel, and threads that do the same (`threads.rs`), one after the other under the same
//! load. Every answer is checked. README.md in the folder above says what the figures mean.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

use churn::Churn;
use cycle::Cycle;
use datagrams::Datagrams;
use exchange::Exchange;
use fanout::Fanout;
use load::Load;
use servers::{Job, Kind, Server};

mod churn;
mod cycle;
mod datagrams;
mod exchange;
mod fanout;
mod load;
mod servers;
mod threads;

const CONNECTIONS: [usize; 5] = [1, 10, 50, 200, 1000];
const SIZES: [Size; 2] = [
    Size { name: "64B", bytes: 64, in_flight_max: 256 },
    Size { name: "16KiB", bytes: 16 << 10, in_flight_max: 8 },
];
const DEPTHS: [usize; 2] = [1, 16];

/// Descriptors for the most connections, both ends of each, and for everything else.
const DESCRIPTORS: u64 = 2 * 1000 + 100;

/// A size of messages.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    bytes: usize,
    /// So many datagrams of it have room in a socket's buffer, as large as Linux lets everybody have it: the kernel
    /// counts more than twice 16 KiB for one of 16 KiB.
    in_flight_max: usize,
}

/// One point at which both servers are measured.
#[derive(Clone, Copy)]
struct Case {
    connections: usize,
    size: Size,
    depth: usize,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        let sizes = SIZES.into_iter().flat_map(|size| DEPTHS.map(|depth| (size, depth)));
        sizes.flat_map(|(size, depth)| CONNECTIONS.map(|connections| Case { connections, size, depth }))
    }

    fn name(&self) -> String {
        format!("{}x{}/depth{}", self.connections, self.size.name, self.depth)
    }
}

/// A server under load. The load comes first: its connections must end before the server can.
struct Run {
    load: Box<dyn Load>,
    #[expect(dead_code, reason = "it ends when it is dropped")]
    server: Server,
}

/// Measures both servers at the points that are wanted of a group.
fn compare<L: Load + 'static>(
    criterion: &mut Criterion,
    name: &str,
    job: Job,
    cases: impl Iterator<Item = Case>,
    connect: impl Fn(&Server, &Case) -> L,
) {
    let has_descriptors = tidewheel::os::raise_descriptor_limit().is_ok_and(|limit| limit >= DESCRIPTORS);
    let mut group = criterion.benchmark_group(name);
    // Short, as there are many: some hundred exchanges of everything at least.
    group.sampling_mode(SamplingMode::Flat).sample_size(10).nresamples(10_000);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for case in cases {
        if case.connections >= 1000 && !has_descriptors {
            eprintln!("left out: {name} {}: it takes {DESCRIPTORS} descriptors (ulimit -n)", case.name());
            continue;
        }
        for kind in Kind::ALL {
            measure(&mut group, &format!("{}/{}", kind.name(), case.name()), case, || {
                let server = kind.start(job);
                Run { load: Box::new(connect(&server, &case)), server }
            });
        }
    }
    group.finish();
}

/// Measures one server, which is started if this benchmark is wanted.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, case: Case, start: impl Fn() -> Run) {
    let mut run = None;
    group.throughput(Throughput::Elements((case.connections * case.depth) as u64));
    group.bench_function(name, |bencher| {
        let Run { load, .. } = run.get_or_insert_with(&start);
        assert_eq!(load.elements(), (case.connections * case.depth) as u64);
        bencher.iter_custom(|iterations| load.run(iterations));
    });
}

fn echo(criterion: &mut Criterion) {
    compare(criterion, "echo", Job::Echo, Case::all(), |server, case| {
        let streams = (Cycle::lines(case.size.bytes), Cycle::lines(case.size.bytes));
        Exchange::connect(server.address, case.connections, case.depth, streams)
    });
}

fn uppercase(criterion: &mut Criterion) {
    compare(criterion, "uppercase", Job::Uppercase, Case::all(), |server, case| {
        let streams = (Cycle::lines(case.size.bytes), Cycle::capital_lines(case.size.bytes));
        Exchange::connect(server.address, case.connections, case.depth, streams)
    });
}

fn time(criterion: &mut Criterion) {
    // More in flight on each source would change nothing where the bound of all is reached already.
    let cases = Case::all()
        .filter(|case| case.depth == 1 || case.connections * case.depth <= case.size.in_flight_max);
    compare(criterion, "time", Job::Time, cases, |server, case| {
        let Case { connections, size, depth } = *case;
        Datagrams::new(server.address, connections, depth, size.bytes, size.in_flight_max)
    });
}

fn chat(criterion: &mut Criterion) {
    compare(criterion, "chat", Job::Chat, Case::all(), |server, case| {
        Fanout::connect(server.address, case.connections, case.depth, case.size.bytes)
    });
}

fn churn(criterion: &mut Criterion) {
    let cases = Case::all().filter(|case| case.depth == 1);
    compare(criterion, "churn", Job::Echo, cases, |server, case| {
        Churn::new(server.address, case.connections, case.size.bytes)
    });
}

/// The load is on core 1, the servers are on core 0.
fn stay_on_core_1(_: &mut Criterion) {
    servers::stay_on(1);
}

criterion_group!(benches, stay_on_core_1, echo, uppercase, time, chat, churn);
criterion_main!(benches);
