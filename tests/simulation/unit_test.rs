//! The context for unit tests: what a service asks for in a call is seen by the test.

use std::time::Duration;

use tidewheel::framing::{Answer, Framed, Message, Next, Rules};
use tidewheel::sim::UnitTest;
use tidewheel::{Arrival, CloseReason, ConnId, Context, Datagram, Service};

/// Echoes lines, closes on `quit`, and sets and clears a deadline.
#[derive(Default)]
struct Lines {
    opened: usize,
}

impl Answer for Lines {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.opened += 1;
        cx.send(conn, b"hello\n");
    }

    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        if message.text == b"quit" {
            cx.close(conn);
            return Next::Nothing;
        }
        cx.send(conn, message.text);
        Next::Message
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, cx: &mut Context<'_>) {
        cx.reply(datagram, datagram.bytes);
    }
}

#[test]
fn a_service_is_called_with_bytes_and_its_effects_are_seen() {
    let mut lines = Framed::new(Lines::default(), Rules::default());
    let mut test = UnitTest::new();
    let conn = test.connection();
    test.call(|cx| lines.open(conn, Arrival::HandedOver, cx));
    assert_eq!((lines.get_ref().opened, test.sent(conn)), (1, &b"hello\n"[..]));

    // Text without a line ending waits for the message pause.
    let begun = test.sim().now();
    assert_eq!(test.call(|cx| lines.input(conn, b"one", cx)), 0);
    assert_eq!(test.deadline(conn), Some(begun + Duration::from_millis(50)));
    assert_eq!(test.call(|cx| lines.input(conn, b"one\ntwo\n", cx)), 8);
    assert_eq!(test.sent(conn), b"hello\nonetwo");
    assert_eq!((test.deadline(conn), test.closed(conn)), (None, None));

    assert_eq!(test.call(|cx| lines.input(conn, b"quit\nmore\n", cx)), 10);
    assert_eq!(test.closed(conn), Some(CloseReason::Service));
    assert_eq!(test.sent(conn), b"hello\nonetwo");

    test.datagram(b"ping", |datagram, cx| lines.datagram(datagram, cx));
    test.datagram(b"", |datagram, cx| lines.datagram(datagram, cx));
    assert_eq!(test.replies(), [&b"ping"[..], b""]);
}

#[test]
fn connections_are_told_apart_when_a_slot_is_used_again() {
    let mut test = UnitTest::default();
    let first = test.connection();
    test.call(|cx| {
        cx.send(first, b"first");
        cx.abort(first);
    });
    let second = test.connection();
    assert_eq!((first.slot(), test.closed(second)), (second.slot(), None));
    test.call(|cx| cx.pause(second));
    assert_eq!((test.is_paused(first), test.is_paused(second)), (false, true));
    assert_eq!((test.closed(first), test.sent(second)), (Some(CloseReason::Aborted), &b""[..]));
}

#[test]
fn no_deadline_comes_however_long_it_takes() {
    let mut test = UnitTest::new();
    let conn = test.connection();
    test.call(|cx| cx.set_deadline(conn, cx.now() + Duration::from_secs(1)));
    for _ in 0..100 {
        test.call(|cx| cx.send(conn, b"tick"));
    }
    assert!(test.deadline(conn).is_some());
}
