//! What services ask for happens, once and in order, on a kind system and on a hostile one.

use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::sim::{Faults, PeerId, PeerState, Reach, Sim};
use tidewheel::{
    Address, Arrival, CloseReason, ConnId, Context, Limits, Options, Receive, SendError, Service, ServiceId,
    TopicId,
};

use crate::harness::with;

use super::{Notebook, assert_nothing_leaks, heard, kind_and_hostile, listen_echo, simulate};

const MS: Duration = Duration::from_millis(1);

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

/// Begins a connection to `address` whose service is a [`Notebook`], with something to say at once.
fn dial(sim: &mut Sim, address: Address) -> ServiceId {
    let service = sim.reactor().add_service(Notebook::default(), Options::new("dialer"));
    sim.reactor().with(service, |_: &mut Notebook, cx| {
        let conn = cx.connect(address, service);
        cx.send(conn, b"sent before ");
        cx.send(conn, b"it was there");
    });
    service
}

#[test]
fn an_outgoing_connection_is_established_and_what_was_sent_meanwhile_goes_out() {
    kind_and_hostile(&Limits::default(), |sim| {
        sim.remote("192.0.2.1:80", Reach::Answers);
        let dialer = dial(sim, tcp("192.0.2.1:80"));
        sim.settle();
        let [peer] = sim.callers("192.0.2.1:80")[..] else { panic!("it was called once") };
        assert_eq!(heard(sim, peer), "sent before it was there");
        sim.send(peer, b"and its answer");
        sim.finish(peer);
        sim.run();
        let (notes, input) = Notebook::of(sim, dialer);
        assert_eq!(notes, ["connected to 192.0.2.1:80", "eof", "closed: peer_closed"]);
        assert_eq!(input, "and its answer");
        assert_eq!(sim.state(peer), PeerState::Ended);
        assert_nothing_leaks(sim, 0);
    });
}

#[test]
fn an_outgoing_connection_can_be_to_ourselves() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = listen_echo(sim);
        let dialer = dial(sim, tcp("127.0.0.1:7007"));
        sim.settle();
        let (notes, input) = Notebook::of(sim, dialer);
        assert_eq!(notes, ["connected to 127.0.0.1:7007"]);
        assert_eq!(input, "sent before it was there");
        sim.reactor().with(dialer, |dialer: &mut Notebook, cx| cx.close(dialer.last.unwrap()));
        sim.run();
        sim.reactor().unlisten(echo.id);
        assert_nothing_leaks(sim, 0);
    });
}

#[test]
fn an_outgoing_connection_fails_for_a_reason() {
    kind_and_hostile(&with!(Limits::default(), connections_max = Some(4)), |sim| {
        sim.remote("192.0.2.3:80", Reach::Silent);
        sim.remote("192.0.2.4:80", Reach::Unreachable);
        let begun = sim.now();
        let refused = dial(sim, tcp("192.0.2.2:80"));
        let silent = dial(sim, tcp("192.0.2.3:80"));
        let unreachable = dial(sim, tcp("192.0.2.4:80"));
        let unix = dial(sim, Address::Unix("/nobody".into()));
        let full = dial(sim, tcp("192.0.2.2:80"));
        sim.run();
        assert_eq!(Notebook::of(sim, refused).0, ["closed: connect_failed"]);
        assert_eq!(Notebook::of(sim, silent).0, ["closed: connect_timeout"]);
        assert_eq!(Notebook::of(sim, unreachable).0, ["closed: connect_failed"]);
        assert_eq!(Notebook::of(sim, unix).0, ["closed: connect_failed"]);
        assert_eq!(Notebook::of(sim, full).0, ["closed: refused_full"]);
        let took = sim.now() - begun;
        assert!(
            (10_000 * MS..10_100 * MS).contains(&took),
            "the silent one is given up after 10 s: {took:?}"
        );
        assert_nothing_leaks(sim, 0);
    });
}

/// Reads one line and hands the connection over with what follows it.
struct Doorman {
    to: ServiceId,
}

impl Service for Doorman {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else { return 0 };
        cx.send(conn, b"welcome: ");
        cx.hand_over(conn, self.to);
        end + 1
    }

    fn closed(&mut self, _: ConnId, _: CloseReason, _: &mut Context<'_>) {
        panic!("who has handed a connection over hears no more of it");
    }
}

#[test]
fn a_connection_is_handed_over_with_the_input_that_is_left() {
    kind_and_hostile(&Limits::default(), |sim| {
        let echo = sim.reactor().add_service(Echo, Options::new("echo"));
        let door = sim.listen("127.0.0.1:80", Doorman { to: echo });
        let (at_once, later) = (sim.connect(door), sim.connect(door));
        sim.send(at_once, b"let me in\nthe rest");
        sim.finish(at_once);
        sim.send(later, b"let me");
        sim.settle();
        sim.send(later, b" in\n");
        sim.settle();
        sim.send(later, b"and more");
        sim.finish(later);
        sim.run();
        assert_eq!(heard(sim, at_once), "welcome: the rest");
        assert_eq!(heard(sim, later), "welcome: and more");
        assert_nothing_leaks(sim, 1);
    });
}

/// Hands every connection over as soon as it opens.
struct Revolving {
    to: ServiceId,
}

impl Service for Revolving {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.hand_over(conn, self.to);
    }
}

#[test]
fn a_connection_that_is_handed_over_hears_its_end_too() {
    kind_and_hostile(&Limits::default(), |sim| {
        let notebook = sim.reactor().add_service(Notebook::default(), Options::new("notebook"));
        let door = sim.listen("127.0.0.1:7", Revolving { to: notebook });
        let (ends, breaks) = (sim.connect(door), sim.connect(door));
        sim.send(ends, b"x");
        sim.finish(ends);
        sim.settle();
        sim.reset(breaks);
        sim.run();
        let (mut notes, input) = Notebook::of(sim, notebook);
        notes.sort();
        assert_eq!(input, "x");
        assert_eq!(notes, ["closed: peer_closed", "closed: reset", "eof", "handed over", "handed over"]);
        assert_nothing_leaks(sim, 1);
    });
}

/// Hands its other connection over when the first one ends.
struct Heirs {
    to: ServiceId,
    conns: Vec<ConnId>,
}

impl Service for Heirs {
    fn open(&mut self, conn: ConnId, _: Arrival, _: &mut Context<'_>) {
        self.conns.push(conn);
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        self.conns.retain(|&other| other != conn);
        self.conns.drain(..).for_each(|other| cx.hand_over(other, self.to));
    }
}

#[test]
fn a_connection_that_is_handed_over_when_another_one_ends_is_with_its_new_service_at_once() {
    kind_and_hostile(&Limits::default(), |sim| {
        let notebook = sim.reactor().add_service(Notebook::default(), Options::new("notebook"));
        let door = sim.listen("127.0.0.1:7", Heirs { to: notebook, conns: Vec::new() });
        let (ends, stays) = (sim.connect(door), sim.connect(door));
        sim.settle();
        sim.finish(ends);
        sim.settle();
        assert_eq!(Notebook::of(sim, notebook).0, ["handed over"], "nothing else had to happen");
        sim.finish(stays);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

/// Says something, ends its side and goes on listening.
struct LastWord(Vec<u8>);

impl Service for LastWord {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.send(conn, &[b'w'; 10_000]);
        cx.half_close(conn);
        cx.send(conn, b"never sent");
    }

    fn input(&mut self, _: ConnId, bytes: &[u8], _: &mut Context<'_>) -> usize {
        self.0.extend(bytes);
        bytes.len()
    }
}

#[test]
fn a_half_close_ends_our_side_alone() {
    kind_and_hostile(&Limits::default(), |sim| {
        let listener = sim.listen("127.0.0.1:7", LastWord(Vec::new()));
        let peer = sim.connect(listener);
        sim.stay(peer);
        sim.settle();
        assert_eq!(heard(sim, peer), "w*10000");
        assert_eq!(sim.state(peer), PeerState::Ended);
        sim.send(peer, b"and I go on");
        sim.settle();
        assert_eq!(sim.reactor().connections(), 1);
        sim.finish(peer);
        sim.run();
        let heard = sim.reactor().with(listener.service, |service: &mut LastWord, _| service.0.clone());
        assert_eq!(heard, b"and I go on");
        assert_nothing_leaks(sim, 1);
    });
}

/// Takes a byte at a time and then rests for 100 ms.
#[derive(Default)]
struct Sipper {
    sips: Vec<(u8, Duration)>,
}

impl Service for Sipper {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let now = cx.now();
        self.sips.push((bytes[0], now.since_start()));
        cx.pause(conn);
        cx.set_deadline(conn, now + 100 * MS);
        1
    }

    fn deadline(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        cx.resume(conn);
    }

    fn eof(&mut self, conn: ConnId, rest: &[u8], cx: &mut Context<'_>) {
        assert!(rest.is_empty(), "the end comes after what is left");
        cx.close(conn);
    }
}

#[test]
fn a_paused_connection_is_not_read_and_loses_nothing() {
    kind_and_hostile(&Limits::default(), |sim| {
        let listener = sim.listen("127.0.0.1:7", Sipper::default());
        let peer = sim.connect(listener);
        sim.send(peer, b"tide");
        sim.finish(peer);
        sim.run();
        let sips = sim.reactor().with(listener.service, |sipper: &mut Sipper, _| sipper.sips.clone());
        assert_eq!(sips.iter().map(|&(byte, _)| byte).collect::<Vec<_>>(), b"tide");
        assert!(
            sips.windows(2).all(|pair| pair[1].1 - pair[0].1 >= 100 * MS),
            "it rests in between: {sips:?}"
        );
        assert_eq!(sim.state(peer), PeerState::Ended);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn a_deadline_comes_once_and_can_be_moved_and_taken_back() {
    kind_and_hostile(&Limits::default(), |sim| {
        let listener = sim.listen("127.0.0.1:7", Notebook::default());
        let (moved, cleared) = (sim.connect(listener), sim.connect(listener));
        sim.settle();
        let start = sim.now();
        sim.reactor().with(listener.service, |notebook: &mut Notebook, cx| {
            let conn = notebook.last.unwrap();
            cx.set_deadline(conn, start + 50 * MS);
            cx.set_deadline(conn, start + 500 * MS);
        });
        sim.run_for(400 * MS);
        let deadlines = |sim: &mut Sim| {
            let (notes, _) = Notebook::of(sim, listener.service);
            notes.iter().filter(|note| note.starts_with("deadline")).count()
        };
        assert_eq!(deadlines(sim), 0, "it was moved");
        sim.run_for(200 * MS);
        assert_eq!(deadlines(sim), 1);
        let now = sim.now();
        sim.reactor().with(listener.service, |notebook: &mut Notebook, cx| {
            cx.set_deadline(notebook.last.unwrap(), now + 50 * MS);
            cx.clear_deadline(notebook.last.unwrap());
        });
        sim.run_for(200 * MS);
        assert_eq!(deadlines(sim), 1, "it came once, and the other was taken back");
        sim.finish(moved);
        sim.finish(cleared);
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

/// Everybody in one topic; what one says the others hear.
#[derive(Default)]
struct Room {
    topic: Option<TopicId>,
    said: Vec<(ConnId, Vec<u8>)>,
    members: Vec<ConnId>,
}

impl Service for Room {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        let topic = *self.topic.get_or_insert_with(|| cx.create_topic());
        cx.subscribe(topic, conn);
        cx.subscribe(topic, conn);
        self.members.push(conn);
    }

    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        self.said.push((conn, bytes.to_vec()));
        cx.publish(self.topic.unwrap(), bytes, Some(conn));
        bytes.len()
    }

    fn closed(&mut self, _: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        cx.publish(self.topic.unwrap(), b"", None);
    }
}

#[test]
fn a_topic_brings_every_message_to_everybody_else_in_one_order() {
    kind_and_hostile(&Limits::default(), |sim| {
        let room = sim.listen("127.0.0.1:25666", Room::default());
        let mut peers = Vec::new();
        for _ in 0..6 {
            // One after the other, so that members and peers are in the same order.
            peers.push(sim.connect(room));
            sim.settle();
        }
        for round in 0..5_usize {
            for (number, &peer) in peers.iter().enumerate() {
                // From small ones that are copied to large ones that are shared.
                sim.send(peer, &vec![b'a' + number as u8; 1 + 400 * round]);
            }
            sim.run_for(MS);
        }
        sim.settle();
        let (members, said) =
            sim.reactor().with(room.service, |room: &mut Room, _| (room.members.clone(), room.said.clone()));
        for (member, &peer) in members.iter().zip(&peers) {
            let others = said.iter().filter(|(from, _)| from != member);
            let expected: Vec<u8> = others.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            assert!(sim.received(peer) == expected, "{peer:?} heard something else than was said");
        }
        // Who leaves is in no topic any more.
        sim.reset(peers[0]);
        sim.finish(peers[1]);
        sim.run();
        let topic_len =
            |room: &mut Room, cx: &mut Context<'_>| cx.subscribers(room.topic.expect("somebody was there"));
        assert_eq!(sim.reactor().with(room.service, topic_len), 4);
        for &peer in &peers {
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(sim, 1);
    });
}

impl Receive<&'static str> for Room {
    fn message(&mut self, message: &'static str, cx: &mut Context<'_>) {
        cx.publish(self.topic.unwrap(), message.as_bytes(), None);
    }
}

#[test]
fn messages_from_outside_reach_the_service_in_order() {
    // 0 would never deliver anything; it means 1, as for everything that is counted per turn.
    let deliver = |per_turn| {
        kind_and_hostile(&with!(Limits::default(), messages_per_turn = per_turn), |sim| {
            let room = sim.listen("127.0.0.1:25666", Room::default());
            let mailbox = sim.reactor().mailbox::<Room, &'static str>(room.service, 5);
            let peer = sim.connect(room);
            sim.settle();
            for message in ["one ", "two ", "three ", "four ", "five "] {
                assert_eq!(mailbox.send(message), Ok(()));
            }
            assert_eq!(mailbox.send("six"), Err(SendError::Full("six")));
            sim.settle();
            assert_eq!(mailbox.send("seven"), Ok(()));
            sim.settle();
            assert_eq!(heard(sim, peer), "one two three four five seven");
            assert_eq!(sim.reactor().metrics().mailbox_messages, 6);
        })
    };
    [0, 1, 2, 100].into_iter().for_each(deliver);
}

/// Answers the first byte of its input: `c` closes, `a` aborts, both after a long answer.
struct Leaver;

impl Service for Leaver {
    fn input(&mut self, conn: ConnId, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        cx.send(conn, &[b'l'; 3_000]);
        cx.send(conn, &[b'l'; 17_000]);
        match bytes[0] {
            b'c' => cx.close(conn),
            _ => cx.abort(conn),
        }
        // After the end nothing more is sent.
        cx.send(conn, b"too late");
        1
    }
}

#[test]
fn a_close_sends_everything_first_also_when_input_is_left_unread() {
    kind_and_hostile(&Limits::default(), |sim| {
        let leaver = sim.listen("127.0.0.1:7", Leaver);
        let peers = [0; 8].map(|_| sim.connect(leaver));
        for (number, &peer) in peers.iter().enumerate() {
            sim.send(peer, &vec![b'c'; 1 + number * 5_000]);
        }
        sim.run();
        for &peer in &peers {
            assert_eq!(sim.received(peer).len(), 20_000, "{peer:?} lost the end of its answer");
            assert_eq!(sim.state(peer), PeerState::Ended, "{peer:?} saw no orderly end");
        }
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::Service), 8);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn an_abort_is_seen_as_a_reset() {
    kind_and_hostile(&Limits::default(), |sim| {
        let leaver = sim.listen("127.0.0.1:7", Leaver);
        let peer = sim.connect(leaver);
        sim.send(peer, b"a");
        sim.run();
        assert_eq!(sim.state(peer), PeerState::Reset);
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::Aborted), 1);
        assert_nothing_leaks(sim, 1);
    });
}

/// Sends a long body as there is room for it.
struct Body {
    left: usize,
}

impl Body {
    fn go_on(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        while self.left > 0 && cx.room(conn) > 0 {
            let next = [(self.left % 251) as u8; 1000];
            self.left -= cx.send_some(conn, &next[..self.left.min(1000)]);
        }
        if self.left > 0 { cx.notify_writable(conn) } else { cx.close(conn) }
    }
}

impl Service for Body {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.go_on(conn, cx);
    }

    fn writable(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.go_on(conn, cx);
    }
}

#[test]
fn a_long_body_goes_out_as_the_peer_takes_it() {
    kind_and_hostile(&Limits::default(), |sim| {
        let body = sim.listen("127.0.0.1:80", Body { left: 300_000 });
        let peer = sim.connect(body);
        sim.read_slowly(peer, 2_000, MS / 10);
        sim.run();
        assert_eq!(sim.received(peer).len(), 300_000);
        assert_eq!(sim.state(peer), PeerState::Ended);
        assert_nothing_leaks(sim, 1);
    });
}

#[test]
fn effects_on_a_connection_that_is_gone_do_nothing_and_are_counted() {
    kind_and_hostile(&Limits::default(), |sim| {
        let listener = sim.listen("127.0.0.1:7", Notebook::default());
        let first = sim.connect(listener);
        sim.settle();
        let gone = sim.reactor().with(listener.service, |notebook: &mut Notebook, _| notebook.last.unwrap());
        sim.finish(first);
        sim.run();
        let second = sim.connect(listener);
        sim.settle();
        sim.reactor().with(listener.service, |notebook: &mut Notebook, cx| {
            let now = notebook.last.unwrap();
            assert_eq!((now.slot(), now.generation()), (gone.slot(), gone.generation() + 1), "a slot reused");
            let topic = cx.create_topic();
            cx.send(gone, b"for the first");
            cx.send(gone, &[0; 10_000]);
            cx.subscribe(topic, gone);
            cx.publish(topic, b"for the first", None);
            let soon = cx.now() + MS;
            cx.set_deadline(gone, soon);
            cx.hand_over(gone, listener.service);
            cx.half_close(gone);
            cx.pause(gone);
            cx.close(gone);
            cx.abort(gone);
            assert_eq!((cx.room(gone), cx.send_some(gone, b"x"), cx.subscribers(topic)), (0, 0, 0));
        });
        sim.send(second, b"here");
        sim.run_for(100 * MS);
        assert_eq!(heard(sim, second), "");
        assert_eq!(sim.state(second), PeerState::Open);
        let (notes, input) = Notebook::of(sim, listener.service);
        assert_eq!(notes, ["accepted", "eof", "closed: peer_closed", "accepted"]);
        assert_eq!(input, "here");
        assert!(sim.reactor().metrics().stale_effects >= 6);
    });
}

#[test]
fn a_failing_rearm_closes_the_connection_and_nothing_else() {
    let mut sim = simulate(1, with!(Faults::none(), rearm_failed = 1.0), Limits::default());
    let echo = listen_echo(&mut sim);
    let (stuck, fine) = (sim.connect(echo), sim.connect(echo));
    sim.stop_reading(stuck);
    sim.send(stuck, &vec![0; 1 << 20]);
    sim.send(fine, b"hello");
    sim.settle();
    assert_eq!(heard(&mut sim, fine), "hello");
    assert_eq!(sim.reactor().metrics().closed_for(CloseReason::Failed), 1);
    sim.finish(fine);
    sim.run();
    assert_nothing_leaks(&mut sim, 1);
}

#[test]
fn a_peer_that_can_do_no_more_is_not_told_to_in_vain() {
    /// What a scenario says when it panics; nothing if it does not.
    fn panics(prepare: impl Fn(&mut Sim, PeerId), what: impl Fn(&mut Sim, PeerId)) -> String {
        let mut sim = simulate(1, Faults::none(), Limits::default());
        let leaver = sim.listen("127.0.0.1:7", Leaver);
        let peer = sim.connect(leaver);
        sim.settle();
        prepare(&mut sim, peer);
        let could_send = sim.can_send(peer);
        assert!(could_send || !sim.try_send(peer, b"x"));
        let scenario = std::panic::AssertUnwindSafe(|| what(&mut sim, peer));
        let said = std::panic::catch_unwind(scenario).err().map(|panic| panic.downcast::<String>().unwrap());
        let said = said.map_or(String::new(), |said| *said);
        assert!(said.is_empty() || !could_send, "{said}");
        said
    }

    type Step = fn(&mut Sim, PeerId);
    let ends: [(Step, &str); 6] = [
        (|sim, peer| assert!(sim.finish(peer)), "it has ended its side: it was told to"),
        (
            |sim, peer| {
                sim.send(peer, b"c");
                sim.run();
            },
            "the server has ended the other (see Sim::stay)",
        ),
        (
            |sim, peer| {
                sim.send(peer, b"a");
                sim.run();
            },
            "its connection is broken",
        ),
        (|sim, peer| assert!(sim.close(peer)), "it has closed its connection"),
        (|sim, peer| assert!(sim.reset(peer)), "its connection is broken"),
        (
            |sim, peer| {
                sim.finish(peer);
                sim.run();
            },
            "it has ended its side",
        ),
    ];
    let deeds: [(Step, &str); 3] = [
        (|sim, peer| sim.send(peer, b"x"), "cannot send: "),
        (|sim, peer| assert!(sim.send_urgent(peer)), "cannot send an urgent byte: "),
        (|sim, peer| sim.stay(peer), "cannot stay: "),
    ];
    for (deed, what) in deeds {
        assert_eq!(panics(|_, _| {}, deed), "", "{what}");
        for (end, why) in ends {
            let said = panics(end, deed);
            assert!(said.starts_with("PeerId(0) ") && said.contains(what) && said.contains(why), "{said}");
        }
    }
    for (end, _) in &ends {
        assert_eq!(panics(end, |sim, peer| assert!(!sim.finish(peer))), "");
    }
    // Who stays may send when the server has ended its side.
    let stays: Step = |sim, peer| {
        sim.stay(peer);
        sim.send(peer, b"c");
        sim.settle();
    };
    assert_eq!(panics(stays, |sim, peer| sim.send(peer, b"x")), "");
    // A connection is closed once.
    let close: fn(&mut Sim, PeerId) -> bool = |sim, peer| sim.close(peer);
    for end in [close, |sim, peer| sim.reset(peer)] {
        let once = |sim: &mut Sim, peer| assert!(end(sim, peer) && !sim.close(peer) && !sim.reset(peer));
        assert_eq!(panics(|_, _| {}, once), "");
        assert_eq!(panics(|sim, peer| _ = sim.finish(peer), once), "");
    }
    let said = panics(ends[2].0, |sim, peer| sim.cut_off(peer));
    assert!(said.contains("cannot be cut off: its connection is broken"), "{said}");
    assert_eq!(panics(|_, _| {}, |sim, peer| sim.cut_off(peer)), "");
    // Nobody listens there.
    let mut sim = simulate(1, Faults::none(), Limits::default());
    let listener = sim.listen("127.0.0.1:7", Leaver);
    let peer = sim.connect(listener);
    sim.reactor().unlisten(listener.id);
    sim.settle();
    assert_eq!((sim.state(peer), sim.can_send(peer)), (PeerState::Refused, false));
}
