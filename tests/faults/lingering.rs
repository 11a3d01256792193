//! A close that we begin while the peer has sent more than we have read, and reads what we have sent only slowly. What
//! was sent must arrive: a socket that is closed with unread input resets the connection and destroys it on its way.

use std::io::Write;
use std::time::Duration;

use tidewheel::services::echo::Echo;
use tidewheel::{CloseReason, Limits};

use super::{Burst, assert_served, read_slowly};
use crate::harness::{
    Folder, PATIENCE, Served, any_tcp, listen, pattern, read_to_end, reset, send_what_goes, stuff, tcp, unix,
    with,
};

/// What one read brings, of which the service may have consumed nothing when the output is full.
const HELD_MAX: usize = 64 << 10;

/// Limits under which time is no matter.
fn patient() -> Limits {
    with!(
        Limits::default(),
        linger_timeout = PATIENCE,
        output_soft_bytes = None,
        output_hard_bytes = None,
        memory_bytes_max = None
    )
}

#[test]
fn a_last_reply_arrives_although_megabytes_of_input_are_left_unread() {
    let reply = pattern(1 << 20);
    let bytes = reply.clone();
    let served = Served::start(patient(), move |reactor| {
        vec![listen(reactor, Burst { bytes, closes: true }, &any_tcp())]
    });
    let mut stream = tcp(&served.addresses[0]);
    let sent = send_what_goes(&mut stream, &pattern(9 << 20));
    assert!(sent > 256 << 10, "{sent} bytes are less than what it discards");
    served.await_metrics("it is answered", |metrics| metrics.bytes_out > 0);
    let came = read_slowly(&mut stream, reply.len());
    assert!(came == reply, "{} of {} bytes arrived", came.len(), reply.len());
}

#[test]
fn a_refusal_arrives_although_megabytes_were_sent_already() {
    let served = Served::echo(with!(patient(), connections_max = Some(1)));
    let mut live = tcp(&served.addresses[0]);
    assert_served(&mut live);
    for _ in 0..10 {
        let mut stream = tcp(&served.addresses[0]);
        send_what_goes(&mut stream, &[b'x'; 1 << 20]);
        let line = b"too many connections, try again later\n";
        let came = read_slowly(&mut stream, line.len());
        assert!(came == line, "{:?}", String::from_utf8_lossy(&came));
        assert_served(&mut live);
    }
}

#[test]
fn a_drain_delivers_what_was_answered_although_megabytes_are_left_unread() {
    let served = Served::start_to_drain(patient(), |reactor| vec![listen(reactor, Echo, &any_tcp())]);
    let mut stream = tcp(&served.addresses[0]);
    let sent = pattern(64 << 20);
    let count = stuff(&mut stream, &sent, || served.bytes_in_and_out());
    let taken = served.metrics().bytes_in as usize;
    assert!(count > taken + (1 << 20), "{count} bytes sent and {taken} taken: too little is left unread");
    served.begin_to_stop();
    // What was read and not yet answered when it was told to stop is left as if it had not been read.
    let mut came = read_slowly(&mut stream, taken - HELD_MAX);
    came.extend(read_to_end(&mut stream).0);
    assert!(sent.starts_with(&came));
    // Nobody reads what we have sent: only so does it see that we have gone.
    reset(stream);
    let metrics = served.stop();
    assert_eq!((metrics.bytes_out, metrics.bytes_unsent), (came.len() as u64, 0));
    assert!(came.len() + HELD_MAX >= taken, "{} of {taken} bytes were answered", came.len());
}

#[test]
fn nobody_lingers_for_ever() {
    let folder = Folder::new();
    let path = folder.unix("burst");
    let limits = with!(Limits::default(), linger_timeout = Duration::from_millis(20));
    let served = Served::start(limits, move |reactor| {
        let burst = || Burst { bytes: b"goodbye".to_vec(), closes: true };
        vec![listen(reactor, burst(), &any_tcp()), listen(reactor, burst(), &path)]
    });
    // Neither closes its side, one of them goes on sending.
    let mut silent = tcp(&served.addresses[0]);
    let mut local = unix(&served.addresses[1]);
    let mut talker = tcp(&served.addresses[0]);
    send_what_goes(&mut silent, b"x");
    send_what_goes(&mut local, b"x");
    // It may be gone before it has said all.
    let _ = talker.write(&[b'x'; 1 << 20]);
    let metrics = served.await_metrics("all are gone", |metrics| {
        metrics.connections_accepted == 3 && metrics.connections_open == 0
    });
    assert_eq!(metrics.closed_for(CloseReason::Service), 3);
    assert_eq!(read_to_end(&mut silent), (b"goodbye".to_vec(), false));
    assert_eq!(read_to_end(&mut local).0, b"goodbye");
}
