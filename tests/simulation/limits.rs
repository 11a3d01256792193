//! Every limit is reached, costs the connection that reached it, and nobody else.

use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::sim::{Faults, PeerId, PeerState, Sim};
use tidewheel::{Arrival, CloseReason, ConnId, Context, Limits, Options, Service, TopicId};

use crate::harness::with;

use super::{Notebook, assert_nothing_leaks, heard, kind_and_hostile, listen_echo, simulate};

const MS: Duration = Duration::from_millis(1);

/// The system's own buffers hold next to nothing, so that what waits, waits in the reactor.
fn tighten(sim: &mut Sim) {
    sim.faults().send_buffer_bytes = 1500;
    sim.faults().receive_buffer_bytes = 2000;
}

fn closed_for(sim: &mut Sim, reason: CloseReason) -> u64 {
    sim.reactor().metrics().closed_for(reason)
}

#[test]
fn above_the_connection_limit_a_peer_is_told_so_and_the_others_go_on() {
    kind_and_hostile(&with!(Limits::default(), connections_max = Some(2)), |sim| {
        let echo = listen_echo(sim);
        let admitted = [0; 2].map(|_| sim.connect(echo));
        sim.settle();
        let refused = [0; 5].map(|_| sim.connect(echo));
        for &peer in &refused {
            // What it says meanwhile must not destroy what it is told.
            sim.send(peer, b"hello?");
        }
        sim.settle();
        for &peer in &refused {
            assert_eq!(heard(sim, peer), "too many connections, try again later\n");
            assert_eq!(sim.state(peer), PeerState::Ended);
        }
        for &peer in &admitted {
            sim.send(peer, b"still here");
            sim.finish(peer);
        }
        sim.run();
        for &peer in &admitted {
            assert_eq!(heard(sim, peer), "still here");
        }
        let again = sim.connect(echo);
        sim.send(again, b"room again");
        sim.finish(again);
        sim.run();
        assert_eq!(heard(sim, again), "room again");
        assert_eq!(sim.reactor().metrics().connections_refused, 5);
        assert_eq!(closed_for(sim, CloseReason::RefusedFull), 5);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn above_the_refusal_limit_nothing_is_said() {
    kind_and_hostile(&with!(Limits::default(), connections_max = Some(0), refusals_max = 1), |sim| {
        let echo = listen_echo(sim);
        let peers = [0; 4].map(|_| sim.connect(echo));
        for &peer in &peers {
            // Its refusal stays on its way, so that it counts.
            sim.stop_reading(peer);
            sim.stay(peer);
        }
        sim.run();
        for &peer in &peers {
            sim.resume_reading(peer);
        }
        sim.run();
        let told = peers.iter().filter(|&&peer| !sim.received(peer).is_empty()).count();
        assert!((1..=2).contains(&told), "{told} were told; the rest was closed without a word");
        for _ in 0..3 {
            // Nobody is being refused at the moment, so there is room for a word again.
            let late = sim.connect(echo);
            sim.run();
            assert_eq!(heard(sim, late), "too many connections, try again later\n");
        }
        assert_eq!(closed_for(sim, CloseReason::RefusedFull), 7);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn the_limit_for_one_address_is_exact_and_hits_nobody_else() {
    kind_and_hostile(&with!(Limits::default(), connections_per_ip_max = Some(3)), |sim| {
        let echo = listen_echo(sim);
        let one = "192.0.2.1".parse().unwrap();
        let greedy = [0; 5].map(|_| sim.connect_from(echo, one));
        sim.settle();
        let other = sim.connect_from(echo, "192.0.2.2".parse().unwrap());
        sim.settle();
        let told = b"too many connections from your address, try again later\n";
        let refused: Vec<_> = greedy.iter().filter(|&&peer| sim.received(peer) == told).copied().collect();
        assert_eq!(refused.len(), 2);
        assert_eq!(sim.state(other), PeerState::Open);
        // One that leaves makes room for one.
        let leaves = greedy.into_iter().find(|peer| !refused.contains(peer)).unwrap();
        sim.finish(leaves);
        sim.settle();
        let comes = sim.connect_from(echo, one);
        sim.settle();
        assert_eq!(sim.state(comes), PeerState::Open);
        assert_eq!(closed_for(sim, CloseReason::RefusedPerIp), 2);
        for peer in greedy.into_iter().chain([other, comes]) {
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn the_addresses_of_one_ipv6_network_share_the_limit_of_one_address() {
    kind_and_hostile(&with!(Limits::default(), connections_per_ip_max = Some(3)), |sim| {
        let echo = sim.listen_with("[::]:7007", Echo, Options::new("echo").messages(false));
        // Connections that come from each, and how many of them are refused.
        let networks: [(&[&str], u64); 4] = [
            (
                &[
                    "2001:db8::1",
                    "2001:db8::2",
                    "2001:db8::ffff:ffff:ffff:ffff",
                    "2001:db8::4",
                    "2001:db8::5",
                ],
                2,
            ),
            (&["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1::3"], 0),
            // The same address of IPv4, and others beside it.
            (&["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"], 1),
            (&["192.0.2.2", "::ffff:192.0.2.2", "192.0.2.3", "::ffff:192.0.2.3", "192.0.2.4"], 0),
        ];
        let (mut peers, mut expected) = (Vec::new(), 0);
        for (addresses, refused) in networks {
            peers.extend(addresses.iter().map(|address| sim.connect_from(echo, address.parse().unwrap())));
            sim.settle();
            expected += refused;
            assert_eq!(closed_for(sim, CloseReason::RefusedPerIp), expected, "{addresses:?}");
        }
        // Everybody leaves, and as many may come again.
        for peer in peers {
            sim.finish(peer);
        }
        sim.settle();
        let again = [0; 3].map(|_| sim.connect_from(echo, "2001:db8::9".parse().unwrap()));
        sim.settle();
        assert!(again.iter().all(|&peer| sim.state(peer) == PeerState::Open));
        for peer in again {
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let limits = with!(Limits::default(), idle_timeout = Some(1000 * MS));
    kind_and_hostile(&limits, |sim| {
        let echo = listen_echo(sim);
        let patient = Options::new("patient").idle_timeout(60_000 * MS);
        let patient = sim.listen_with("127.0.0.1:7008", Echo, patient);
        let (idle, busy, other) = (sim.connect(echo), sim.connect(echo), sim.connect(patient));
        for _ in 0..10 {
            sim.send(busy, b"x");
            sim.run_for(300 * MS);
        }
        assert_eq!(sim.state(idle), PeerState::Ended);
        assert_eq!(sim.state(busy), PeerState::Open);
        assert_eq!(heard(sim, busy), "x*10");
        assert_eq!(sim.state(other), PeerState::Open);
        assert_eq!(closed_for(sim, CloseReason::IdleTimeout), 1);
        sim.run();
        assert_eq!(closed_for(sim, CloseReason::IdleTimeout), 3);
        assert_nothing_leaks(sim, 1 + 1);
    });
}

/// Consumes whole lines.
#[derive(Default)]
struct Lines(u32);

impl Service for Lines {
    fn input(&mut self, _: ConnId, bytes: &[u8], _: &mut Context<'_>) -> usize {
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.0 += bytes[..end].iter().filter(|&&byte| byte == b'\n').count() as u32;
        end
    }
}

#[test]
fn a_message_that_does_not_come_to_its_end_is_not_waited_for() {
    kind_and_hostile(&Limits::default(), |sim| {
        let lines = sim.listen("127.0.0.1:7", Lines::default());
        let (slow, steady) = (sim.connect(lines), sim.connect(lines));
        for _ in 0..12 {
            // A byte now and then keeps no connection alive; a line does.
            sim.try_send(slow, b"x");
            sim.send(steady, b"a line\nand the beginning of");
            sim.run_for(500 * MS);
            sim.send(steady, b" another\n");
            sim.run_for(500 * MS);
        }
        assert_eq!(sim.state(slow), PeerState::Ended);
        assert_eq!(sim.state(steady), PeerState::Open);
        assert_eq!(closed_for(sim, CloseReason::ReadDeadline), 1);
        assert_eq!(sim.reactor().with(lines.service, |lines: &mut Lines, _| lines.0), 24);
        sim.run_for(15_000 * MS);
        assert_eq!(sim.state(steady), PeerState::Open, "between messages there is no message to be late");
        sim.finish(steady);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

/// Answers each line with a long one, as far as there is room for it.
struct Wordy;

impl Service for Wordy {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut consumed = 0;
        while let Some(end) = bytes[consumed..].iter().position(|&byte| byte == b'\n')
            && cx.room(conn) > 0
        {
            cx.send(conn, &[b'w'; 5_000]);
            consumed += end + 1;
        }
        consumed
    }
}

#[test]
fn a_message_is_not_late_while_its_input_rests_on_our_side() {
    kind_and_hostile(&Limits::default(), |sim| {
        tighten(sim);
        let wordy = sim.listen("127.0.0.1:7", Wordy);
        let peer = sim.connect(wordy);
        // It takes its answers, slowly: its last lines wait for longer than a line may take.
        sim.read_slowly(peer, 1_000, 100 * MS);
        sim.send(peer, &b"line\n".repeat(40));
        sim.send(peer, b"and a half");
        sim.run_for(18_000 * MS);
        assert_eq!(closed_for(sim, CloseReason::ReadDeadline), 0);
        sim.run_for(5_000 * MS);
        sim.send(peer, b" line\n");
        sim.finish(peer);
        sim.run();
        assert_eq!(heard(sim, peer), "w*205000");
        assert_eq!(sim.state(peer), PeerState::Ended);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn an_endless_message_is_refused_at_the_limit() {
    kind_and_hostile(&with!(Limits::default(), input_bytes_max = 3000), |sim| {
        let lines = sim.listen("127.0.0.1:7", Lines::default());
        let (fits, endless) = (sim.connect(lines), sim.connect(lines));
        let mut line = vec![b'x'; 3000];
        line.push(b'\n');
        for _ in 0..3 {
            sim.send(fits, &line[1..]);
        }
        sim.send(endless, &vec![b'x'; 100_000]);
        // It goes on talking, so the end of lingering is awaited too.
        sim.run_for(3_000 * MS);
        assert_eq!(closed_for(sim, CloseReason::InputLimit), 1);
        assert_eq!(sim.state(fits), PeerState::Open);
        sim.finish(fits);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_closed_at_the_progress_deadline() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        let (deaf, vanished, slow) = (sim.connect(echo), sim.connect(echo), sim.connect(echo));
        sim.settle();
        let long = vec![b'x'; 400_000];
        sim.read_slowly(slow, 1000, 10 * MS);
        for peer in [deaf, vanished] {
            sim.stop_reading(peer);
            sim.send(peer, &long);
        }
        sim.send(slow, &long[..100_000]);
        sim.run_for(300 * MS);
        sim.cut_off(vanished);
        sim.run_for(29_000 * MS);
        assert_eq!(sim.reactor().connections(), 3);
        sim.run_for(8_500 * MS);
        assert_eq!(closed_for(sim, CloseReason::ProgressTimeout), 2);
        assert_eq!(sim.reactor().connections(), 1);
        sim.finish(slow);
        sim.run();
        assert_eq!(heard(sim, slow), "x*100000");
        // However much it is offered, what waits for a peer is bounded: its input rests instead.
        let unsent = sim.reactor().metrics().bytes_unsent as usize;
        assert!(
            unsent <= 2 * (Limits::default().output_high_water_bytes),
            "{unsent} bytes waited for two peers"
        );
        assert_nothing_leaks(sim, 1);
    });
}

/// Everybody who connects hears what the scenario publishes.
#[derive(Default)]
struct Station {
    topic: Option<TopicId>,
    last: Option<ConnId>,
}

impl Station {
    fn publish(sim: &mut Sim, station: tidewheel::sim::Listener, bytes: &[u8]) {
        sim.reactor().with(station.service, |station: &mut Station, cx| {
            cx.publish(station.topic.expect("somebody listens"), bytes, None);
        });
    }
}

impl Service for Station {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        cx.subscribe(topic, conn);
        self.last = Some(conn);
    }
}

/// A station with one listener that has stopped reading and some that have not.
fn broadcast(sim: &mut Sim) -> (tidewheel::sim::Listener, PeerId, [PeerId; 4]) {
    let station = sim.listen("127.0.0.1:7", Station::default());
    let deaf = sim.connect(station);
    let others = [0; 4].map(|_| sim.connect(station));
    sim.stop_reading(deaf);
    sim.settle();
    (station, deaf, others)
}

#[test]
fn output_above_the_soft_limit_is_tolerated_for_a_while() {
    let limits = with!(
        Limits::default(),
        output_soft_bytes = Some(20_000),
        output_soft_grace = 2000 * MS,
        output_hard_bytes = Some(1 << 20)
    );
    kind_and_hostile(&limits, |sim| {
        tighten(sim);
        let (station, deaf, others) = broadcast(sim);
        let recovers = others[0];
        sim.stop_reading(recovers);
        for _ in 0..8 {
            Station::publish(sim, station, &[b'x'; 5000]);
            sim.run_for(100 * MS);
        }
        sim.run_for(500 * MS);
        assert_eq!(sim.reactor().connections(), 5, "both are within the grace");
        sim.resume_reading(recovers);
        sim.run_for(3000 * MS);
        assert_eq!(closed_for(sim, CloseReason::OutputSoftLimit), 1);
        assert_eq!(sim.reactor().connections(), 4);
        sim.resume_reading(deaf);
        sim.settle();
        assert_eq!(sim.state(deaf), PeerState::Reset);
        for peer in others {
            assert_eq!(sim.received(peer).len(), 40_000, "{peer:?} lost something");
        }
    });
}

#[test]
fn output_above_the_hard_limit_is_the_end() {
    let limits = with!(Limits::default(), output_hard_bytes = Some(50_000));
    kind_and_hostile(&limits, |sim| {
        tighten(sim);
        let (station, deaf, others) = broadcast(sim);
        let begun = sim.now();
        for _ in 0..20 {
            Station::publish(sim, station, &[b'x'; 5000]);
            sim.run_for(100 * MS);
        }
        assert_eq!(closed_for(sim, CloseReason::OutputHardLimit), 1);
        assert!(sim.now() - begun < 3000 * MS);
        sim.resume_reading(deaf);
        sim.settle();
        assert_eq!(sim.state(deaf), PeerState::Reset);
        for peer in others {
            assert_eq!(sim.received(peer).len(), 100_000, "{peer:?} lost something");
        }
    });
}

/// What the system itself holds for a peer that has stopped reading.
const HELD_BY_SYSTEM: usize = 1500 + 2000;

/// Has `say` bring so many bytes at a time to a peer that reads nothing, behind what the system holds for it, and then
/// waits for as long as output may be above its soft limit. Returns how many connections are left each time.
fn left_after(
    limits: &Limits,
    say: impl Fn(&mut Sim, tidewheel::sim::Listener, &[u8]),
    sizes: &[usize],
) -> Vec<usize> {
    let mut sim = simulate(1, Faults::none(), limits.clone());
    tighten(&mut sim);
    let station = sim.listen("127.0.0.1:7", Station::default());
    let peer = sim.connect(station);
    sim.stop_reading(peer);
    sim.settle();
    say(&mut sim, station, &[b'h'; HELD_BY_SYSTEM]);
    sim.settle();
    assert_eq!(sim.reactor().metrics().bytes_out, HELD_BY_SYSTEM as u64);
    let say_all = sizes.iter().map(|&size| {
        say(&mut sim, station, &vec![b'x'; size]);
        sim.run_for(limits.output_soft_grace + 10 * MS);
        sim.reactor().connections()
    });
    say_all.collect()
}

#[test]
fn limits_of_output_are_exact_to_the_byte() {
    let none = with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None);
    let grace = Duration::from_secs(1);
    let hard = with!(none.clone(), output_hard_bytes = Some(50_000), output_soft_grace = grace);
    let soft = with!(none, output_soft_bytes = Some(50_000), output_soft_grace = grace);
    // To everybody in a topic, and to one alone.
    let publish = Station::publish;
    let send = |sim: &mut Sim, station: tidewheel::sim::Listener, bytes: &[u8]| {
        sim.reactor()
            .with(station.service, |station: &mut Station, cx| cx.send(station.last.unwrap(), bytes));
    };
    for limits in [&hard, &soft] {
        for sizes in [&[50_000, 1][..], &[49_999, 1, 1], &[100, 20_000, 29_900, 1], &[50_001]] {
            // Up to the limit it stays, with the next byte it is closed.
            let mut expected = vec![1; sizes.len()];
            *expected.last_mut().unwrap() = 0;
            assert_eq!(left_after(limits, publish, sizes), expected, "published: {sizes:?} with {limits:?}");
            assert_eq!(left_after(limits, send, sizes), expected, "sent: {sizes:?} with {limits:?}");
        }
    }
}

#[test]
fn a_turn_reads_as_much_from_a_connection_as_it_may() {
    // The simulated system counts what a turn asks of it.
    let limits = with!(Limits::default(), read_bytes_per_turn = 1000);
    let mut sim = simulate(1, Faults::none(), limits);
    let listener = sim.listen("127.0.0.1:7", Notebook::default());
    let peer = sim.connect(listener);
    sim.settle();
    // More than one read brings.
    sim.send(peer, &[b'x'; 120_000]);
    sim.sleep(10 * MS);
    sim.settle();
    assert_eq!(Notebook::of(&mut sim, listener.service).1.len(), 120_000);
}

/// Sets its deadline again, for now, as often as it may.
struct Restless(u32);

impl Service for Restless {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.deadline(conn, cx);
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        if self.0 > 0 {
            self.0 -= 1;
            let now = cx.now();
            cx.set_deadline(conn, now);
        }
    }
}

#[test]
fn a_turn_acts_on_as_many_deadlines_as_it_may_and_on_each_once() {
    // The simulated reactor counts them.
    let limits = with!(
        Limits::default(),
        idle_timeout = Some(1000 * MS),
        deadlines_per_turn = 10,
        effects_per_turn = 20
    );
    let mut sim = simulate(1, Faults::none(), limits);
    let echo = listen_echo(&mut sim);
    let _ = [0; 300].map(|_| sim.connect(echo));
    sim.run();
    assert_eq!(closed_for(&mut sim, CloseReason::IdleTimeout), 300);
    assert_nothing_leaks(&mut sim, 1);

    let restless = sim.listen("127.0.0.1:7", Restless(500));
    sim.connect(restless);
    let before = sim.reactor().metrics().turns;
    sim.run_for(500 * MS);
    let turns = sim.reactor().metrics().turns - before;
    assert!(turns >= 500, "500 deadlines one after the other, each set by the one before, in {turns} turns");
    assert_eq!(sim.reactor().with(restless.service, |restless: &mut Restless, _| restless.0), 0);
}

#[test]
fn a_turn_accepts_as_many_connections_as_it_may() {
    // The simulated system counts what a turn asks of it.
    kind_and_hostile(&with!(Limits::default(), accepts_per_turn = 3), |sim| {
        let echo = listen_echo(sim);
        let peers = [0; 40].map(|_| sim.connect(echo));
        sim.sleep(100 * MS);
        sim.settle();
        for peer in peers {
            assert_eq!(sim.state(peer), PeerState::Open);
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn when_output_is_above_its_total_the_largest_goes_first() {
    let limits = with!(Limits::default(), memory_bytes_max = Some(50_000));
    kind_and_hostile(&limits, |sim| {
        tighten(sim);
        let station = sim.listen("127.0.0.1:7", Station::default());
        let first = [0; 2].map(|_| sim.connect(station));
        first.iter().for_each(|&peer| sim.stop_reading(peer));
        sim.settle();
        for _ in 0..8 {
            Station::publish(sim, station, &[b'x'; 5000]);
            sim.run_for(10 * MS);
        }
        let later = [0; 2].map(|_| sim.connect(station));
        later.iter().for_each(|&peer| sim.stop_reading(peer));
        sim.settle();
        assert_eq!(closed_for(sim, CloseReason::MemoryLimit), 0);
        // 40 kB wait, which both have in common; a little more for all four is too much. While one of the first two has
        // them nothing is gained.
        for _ in 0..3 {
            Station::publish(sim, station, &[b'x'; 5000]);
            sim.run_for(10 * MS);
        }
        assert_eq!(closed_for(sim, CloseReason::MemoryLimit), 2);
        for peer in first.into_iter().chain(later) {
            sim.resume_reading(peer);
        }
        sim.settle();
        assert_eq!(first.map(|peer| sim.state(peer)), [PeerState::Reset; 2]);
        assert_eq!(later.map(|peer| sim.received(peer).len()), [15_000; 2]);
    });
}

#[test]
fn a_drain_answers_what_has_come_and_breaks_off_who_does_not_take_it() {
    kind_and_hostile(&Limits::default(), |sim| {
        tighten(sim);
        let echo = listen_echo(sim);
        let (idle, slow, deaf) = (sim.connect(echo), sim.connect(echo), sim.connect(echo));
        sim.settle();
        let long = vec![b'x'; 60_000];
        sim.read_slowly(slow, 2000, 5 * MS);
        sim.stop_reading(deaf);
        sim.send(slow, &long[..20_000]);
        sim.send(deaf, &long);
        sim.run_for(100 * MS);
        let begun = sim.now();
        let drained = sim.reactor().drain(5000 * MS).unwrap();
        assert!(sim.now() - begun <= 5050 * MS, "{:?}", sim.now() - begun);
        // The end of what the slow one sends may come too late.
        assert_eq!((drained.answered + drained.unanswered, drained.reset), (2, 1));
        assert_eq!(closed_for(sim, CloseReason::Drained), 2);
        assert_eq!(closed_for(sim, CloseReason::DrainDeadline), 1);
        assert_eq!(sim.state(idle), PeerState::Ended);
        assert_nothing_leaks(sim, 0);
        let late = sim.received(slow).len();
        assert!(late > 0 && late <= 20_000);
    });
}

#[test]
fn what_is_left_over_from_one_turn_is_read_in_the_next_without_being_told_again() {
    let mut sim = simulate(1, Faults::none(), Limits::default());
    let listener = sim.listen("127.0.0.1:7", Notebook::default());
    let peer = sim.connect(listener);
    sim.settle();
    // All of it arrives before the reactor turns: one event, and more than one turn's budget.
    sim.send(peer, &[b'x'; 120_000]);
    sim.sleep(10 * MS);
    sim.settle();
    assert_eq!(Notebook::of(&mut sim, listener.service).1.len(), 120_000);
}

#[test]
fn a_budget_keeps_one_loud_peer_from_delaying_the_others() {
    let limits = with!(Limits::default(), read_bytes_per_turn = 1000);
    let mut sim = simulate(1, Faults::none(), limits);
    let listener = sim.listen("127.0.0.1:7", Notebook::default());
    let (loud, quiet) = (sim.connect(listener), sim.connect(listener));
    sim.settle();
    sim.send(loud, &vec![b'!'; 1 << 20]);
    sim.send(quiet, b"me too");
    sim.settle();
    let (_, input) = Notebook::of(&mut sim, listener.service);
    let heard_at = input.find("me too").unwrap();
    assert_eq!(input.len(), (1 << 20) + 6);
    assert!(heard_at <= 256 << 10, "it was heard behind {heard_at} bytes of the loud one");
}
