//! Datagrams: answered once each, or counted by the cause why not.

use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::sim::{self, Faults};

use super::{kind_and_hostile, simulate};
use tidewheel::{DropCause, Limits};

use crate::harness::with;

#[test]
fn every_datagram_is_answered() {
    kind_and_hostile(&Limits::default(), |sim| {
        let udp = sim.listen("udp://127.0.0.1:7007", Echo);
        let unix = sim.listen("unix-dgram:/echo", Echo);
        for number in 0..200_u8 {
            sim.send_datagram(udp, "10.0.0.1:5000", &[number; 3]);
            sim.send_datagram(unix, "/client", &[number; 4]);
        }
        sim.send_datagram(udp, "10.0.0.2:5000", b"");
        sim.send_datagram(udp, "10.0.0.3:5000", &vec![b'x'; 65_507]);
        sim.run();
        for (address, size) in [("10.0.0.1:5000", 3), ("/client", 4)] {
            let mut replies = sim.replies(address).to_vec();
            replies.sort();
            assert_eq!(replies, (0..200).map(|number| vec![number; size]).collect::<Vec<_>>());
        }
        assert_eq!(sim.replies("10.0.0.2:5000"), [b""]);
        assert_eq!(sim.replies("10.0.0.3:5000"), [vec![b'x'; 65_507]]);
        let metrics = sim.reactor().metrics();
        assert_eq!((metrics.datagrams_in, metrics.datagrams_out), (402, 402));
    });
}

#[test]
fn what_is_lost_is_accounted_for() {
    let (mut failed, mut refused) = (0, 0);
    sim::check(0..20, |seed| {
        let mut sim = simulate(seed, Faults::lossy(), Limits::default());
        let udp = sim.listen("udp://127.0.0.1:7007", Echo);
        for number in 0..300 {
            sim.send_datagram(udp, &format!("10.0.{}.1:5000", number % 7), b"hello");
        }
        sim.run();
        let metrics = sim.reactor().metrics();
        let unsent = metrics.dropped_for(DropCause::SendFailed);
        assert_eq!(metrics.datagrams_in, metrics.datagrams_out + unsent);
        failed += metrics.datagram_errors;
        refused += unsent;
    });
    assert!(failed > 0 && refused > 0, "nothing failed: the scenario shows nothing");
}

#[test]
fn nothing_is_answered_that_could_begin_a_loop_or_a_flood() {
    kind_and_hostile(&Limits::default(), |sim| {
        let one = sim.listen("udp://192.0.2.1:7007", Echo);
        let other = sim.listen("udp://192.0.2.1:7008", Echo);
        // Spoofed: from our other service, from a well-known port, from everybody.
        sim.send_datagram(one, "192.0.2.1:7008", b"ping");
        sim.send_datagram(other, "192.0.2.1:7007", b"pong");
        sim.send_datagram(one, "10.0.0.1:53", b"dns");
        // From servers elsewhere with the same ports, loopback too.
        for from in ["10.0.0.1:7007", "10.0.0.1:7008", "127.0.0.1:7007", "[2001:db8::1]:7008"] {
            sim.send_datagram(one, from, b"ping");
        }
        sim.broadcast(one, "10.0.0.1:5000", b"all");
        sim.run();
        let metrics = sim.reactor().metrics();
        assert_eq!((metrics.datagrams_in, metrics.datagrams_out), (8, 0));
        assert_eq!(metrics.dropped_for(DropCause::Loop), 7);
        assert_eq!(metrics.dropped_for(DropCause::ToMany), 1);
    });
}

#[test]
fn a_port_that_is_not_ours_any_more_is_answered() {
    kind_and_hostile(&Limits::default(), |sim| {
        let one = sim.listen("udp://192.0.2.1:7007", Echo);
        let other = sim.listen("udp://192.0.2.1:7008", Echo);
        let again = sim.listen("udp://192.0.2.2:7008", Echo);
        sim.reactor().unlisten(other.id);
        sim.send_datagram(one, "10.0.0.1:7008", b"still ours at another address");
        sim.settle();
        sim.reactor().unlisten(again.id);
        sim.send_datagram(one, "10.0.0.1:7008", b"a client's");
        sim.run();
        assert_eq!(sim.replies("10.0.0.1:7008"), [b"a client's"]);
    });
}

#[test]
fn a_storm_of_forged_prefixes_silences_neither_those_who_were_there_nor_those_who_come() {
    kind_and_hostile(&with!(Limits::default(), udp_prefixes_max = 64), |sim| {
        let udp = sim.listen("udp://192.0.2.1:7007", Echo);
        sim.send_datagram(udp, "198.51.100.1:5000", b"known");
        sim.settle();
        // All within one second, and fewer than the simulated socket holds.
        for number in 0..900 {
            sim.send_datagram(udp, &format!("10.{}.{}.1:5000", number / 200, number % 200), b"forged");
        }
        sim.run_for(Duration::from_millis(20));
        for newcomer in 0..20 {
            sim.send_datagram(udp, "198.51.100.1:5000", b"known");
            sim.send_datagram(udp, &format!("203.0.{newcomer}.1:5000"), b"new");
        }
        sim.run();
        assert_eq!(sim.replies("198.51.100.1:5000").len(), 21);
        for newcomer in 0..20 {
            assert_eq!(sim.replies(&format!("203.0.{newcomer}.1:5000")), [b"new"]);
        }
    });
}

#[test]
fn a_network_has_one_budget_and_an_address_of_ipv4_is_the_same_in_both_families() {
    let limits = with!(Limits::default(), udp_replies_per_prefix = Some(3));
    kind_and_hostile(&limits, |sim| {
        let udp = sim.listen("udp://[::]:7007", Echo);
        let alike: [(&[&str], usize); 4] = [
            // A /64, whoever asks in it; the next one has a budget of its own.
            (
                &[
                    "[2001:db8:0:1::1]:5000",
                    "[2001:db8:0:1:ffff:ffff:ffff:ffff]:5000",
                    "[2001:db8:0:1::2]:6000",
                ],
                3,
            ),
            (&["[2001:db8:0:2::1]:5000"], 3),
            // A /24.
            (&["10.0.0.1:5000", "10.0.0.255:5000", "[::ffff:10.0.0.7]:5000"], 3),
            (&["[::ffff:10.0.1.7]:5000", "10.0.1.1:5000"], 3),
        ];
        for (askers, _) in alike {
            for number in 0..4_u8 {
                askers.iter().for_each(|asker| sim.send_datagram(udp, asker, &[number]));
            }
        }
        sim.run();
        for (askers, budget) in alike {
            let answered: usize = askers.iter().map(|asker| sim.replies(asker).len()).sum();
            assert_eq!(answered, budget, "{askers:?}");
        }
    });
}
