//! The peer ends its side, alone or with everything, while replies are under way, while its input rests, or out of
//! nothing.

use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use tidewheel::services::echo::Echo;
use tidewheel::{Arrival, CloseReason, ConnId, Context, Limits, Service};

use super::{Burst, assert_served};
use crate::harness::{
    Folder, Served, Stream, Turned, any_tcp, ask, await_that, listen, pattern, read_to_end, reset,
    send_what_goes, socket_address, stuff, tcp, tcp_states, unix, with,
};

/// More than all buffers between two sockets hold.
const PLENTY: usize = 64 << 20;

#[test]
fn every_reply_comes_before_the_end() {
    let folder = Folder::new();
    let path = folder.unix("echo");
    let served = Served::start(Limits::default(), move |reactor| {
        vec![listen(reactor, Echo, &any_tcp()), listen(reactor, Echo, &path)]
    });
    let sent = pattern(PLENTY);
    let mut count = 0;
    let check = |stream: &mut dyn Stream, count: usize| {
        let (came, broken) = read_to_end(stream);
        assert!(!broken, "a reset instead of the end");
        assert_eq!(came.len(), count);
        assert!(came == sent[..count]);
    };

    let mut stream = tcp(&served.addresses[0]);
    let taken = stuff(&mut stream, &sent, || served.bytes_in_and_out());
    assert!(taken > 1 << 20, "{taken} bytes are not megabytes");
    stream.shutdown(Shutdown::Write).unwrap();
    check(&mut stream, taken);
    count += taken as u64;

    let mut stream = unix(&served.addresses[1]);
    let taken = stuff(&mut stream, &sent, || served.bytes_in_and_out());
    stream.shutdown(Shutdown::Write).unwrap();
    check(&mut stream, taken);
    count += taken as u64;

    let metrics = served.await_metrics("both are gone", |metrics| metrics.connections_open == 0);
    assert_eq!((metrics.bytes_in, metrics.bytes_out), (count, count));
    assert_eq!(metrics.closed_for(CloseReason::PeerClosed), 2);
    assert_nothing_waits_to_be_closed(&served);
}

/// The kernel has no socket of the server's left that waits for us.
#[track_caller]
fn assert_nothing_waits_to_be_closed(served: &Served) {
    let states = tcp_states(socket_address(&served.addresses[0]).port());
    assert!(!states.iter().any(|state| state == "CLOSE_WAIT" || state == "ESTABLISHED"), "{states:?}");
}

#[test]
fn an_end_that_overtakes_megabytes_of_replies_cuts_nothing_off() {
    let bytes = pattern(8 << 20);
    let limits =
        with!(Limits::default(), output_soft_bytes = None, output_hard_bytes = None, memory_bytes_max = None);
    for closes in [false, true] {
        let mut turned = Turned::new(limits.clone(), Burst { bytes: bytes.clone(), closes });
        let mut stream = tcp(&turned.address);
        send_what_goes(&mut stream, b"x");
        stream.shutdown(Shutdown::Write).unwrap();
        // The end has been read, most of the reply is still here, and nothing can be done: so nothing is.
        turned.turn_until("it is answered", |metrics| metrics.bytes_out > 0);
        turned.assert_rests();
        assert_eq!(turned.reactor.connections(), 1);
        let reading = std::thread::spawn(move || read_to_end(&mut stream));
        turned.turn_until("it is gone", |metrics| metrics.connections_open == 0);
        let (came, broken) = reading.join().unwrap();
        assert!(came == bytes && !broken, "{} of {} bytes, reset: {broken}", came.len(), bytes.len());
        turned.assert_rests();
        assert_eq!(turned.reactor.metrics().connections_closed(), 1);
    }
}

#[test]
fn an_end_without_a_word_is_the_end() {
    let served = Served::echo(Limits::default());
    let mut streams: Vec<_> = (0..20).map(|_| tcp(&served.addresses[0])).collect();
    let mut other = tcp(&served.addresses[0]);
    for stream in &streams {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    streams.iter_mut().for_each(|stream| assert_eq!(read_to_end(stream), (vec![], false)));
    let metrics = served.await_metrics("they are gone", |metrics| metrics.connections_open == 1);
    assert_eq!(metrics.closed_for(CloseReason::PeerClosed), 20);
    assert_served(&mut other);
    let states = tcp_states(socket_address(&served.addresses[0]).port());
    assert!(!states.iter().any(|state| state == "CLOSE_WAIT"), "{states:?}");

    // And nothing goes on behind our back: what happens now is what we do.
    let before = served.metrics();
    for _ in 0..200 {
        ask(&mut other, b"question", b"question");
    }
    let turns = served.metrics().turns - before.turns;
    assert!(turns <= 2 * 200 + 10, "{turns} turns for 200 questions: it spins");
}

#[test]
fn an_end_or_a_reset_while_its_input_rests_does_not_make_the_loop_spin() {
    let folder = Folder::new();
    let everything = pattern(PLENTY);
    // Echo takes no more once its peer does not take the replies.
    let rests = |turned: &mut Turned, stream: &mut dyn Stream| {
        stuff(stream, &everything, || {
            turned.assert_rests();
            (turned.reactor.metrics().bytes_in, turned.reactor.metrics().bytes_out)
        });
        assert_eq!(turned.reactor.connections(), 1);
    };
    // The end of one side: whoever has not read yet may still read.
    let mut turned = Turned::new(Limits::default(), Echo);
    let mut stream = tcp(&turned.address);
    rests(&mut turned, &mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    turned.assert_rests();
    assert_eq!(turned.reactor.connections(), 1);
    // The end of both, as a reset since there is something left to read.
    drop(stream);
    turned.turn_until("it is gone", |metrics| metrics.connections_open == 0);
    turned.assert_rests();
    assert_eq!(turned.reactor.metrics().closed_for(CloseReason::Reset), 1);

    let mut turned = Turned::new(Limits::default(), Echo);
    let mut stream = tcp(&turned.address);
    rests(&mut turned, &mut stream);
    reset(stream);
    turned.turn_until("it is gone", |metrics| metrics.connections_open == 0);
    turned.assert_rests();

    let mut turned = Turned::at(Limits::default(), Echo, &folder.unix("rests"));
    let mut stream = unix(&turned.address);
    rests(&mut turned, &mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    turned.assert_rests();
    assert_eq!(turned.reactor.connections(), 1);
    drop(stream);
    turned.turn_until("it is gone", |metrics| metrics.connections_open == 0);
    turned.assert_rests();
}

/// Wants to hear nothing.
struct Deaf;

impl Service for Deaf {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        cx.pause(conn);
    }
}

#[test]
fn a_hang_up_that_nobody_wants_to_hear_of_does_not_make_the_loop_spin() {
    let folder = Folder::new();
    let mut turned = Turned::at(Limits::default(), Deaf, &folder.unix("deaf"));
    let streams: Vec<UnixStream> = (0..5).map(|_| unix(&turned.address)).collect();
    turned.turn_until("they are there", |metrics| metrics.connections_open == 5);
    drop(streams);
    turned.assert_rests();

    let mut turned = Turned::new(Limits::default(), Deaf);
    let mut streams: Vec<TcpStream> = (0..5).map(|_| tcp(&turned.address)).collect();
    turned.turn_until("they are there", |metrics| metrics.connections_open == 5);
    reset(streams.pop().unwrap());
    // A failure is told even where nobody reads.
    turned.turn_until("it is gone", |metrics| metrics.connections_open == 4);
    drop(streams);
    turned.assert_rests();
    assert_eq!(turned.reactor.metrics().closed_for(CloseReason::Reset), 1);
}

#[test]
fn idle_connections_cost_no_turns() {
    let served = Served::echo(Limits::default());
    let mut idle: Vec<_> = (0..50).map(|_| tcp(&served.addresses[0])).collect();
    idle.iter_mut().for_each(|stream| assert_served(stream));
    // Answers are read when the turn that sent them may still be counting.
    let (first, second) = await_that("two looks show nothing but each other", || {
        let (first, second) = (served.metrics(), served.metrics());
        (second.turns == first.turns + 1).then_some((first, second))
    });
    assert_eq!(second.events, first.events + 1);
    assert_eq!(second.connections_open, 50);
}
