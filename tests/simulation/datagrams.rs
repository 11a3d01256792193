//! Datagrams: answered once each, or counted by the cause why not.

use tidewheel::metrics::DropCause;
use tidewheel::services::echo::Echo;
use tidewheel::sim::{self, Faults, Sim};

use super::kind_and_hostile;
use tidewheel::Limits;

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
        let mut sim = Sim::new(seed, Faults::lossy());
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
        sim.broadcast(one, "10.0.0.1:5000", b"all");
        sim.run();
        let metrics = sim.reactor().metrics();
        assert_eq!((metrics.datagrams_in, metrics.datagrams_out), (4, 0));
        assert_eq!(metrics.dropped_for(DropCause::Loop), 3);
        assert_eq!(metrics.dropped_for(DropCause::ToMany), 1);
    });
}
