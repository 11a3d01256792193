//! Peers that are no longer there: no acknowledgement, no reset, nothing. A filter on their socket that drops whatever
//! arrives makes it so, without any privilege.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tidewheel::{CloseReason, Limits};

use super::{Burst, assert_served};
use crate::harness::{Served, any_tcp, listen, socket_address, tcp, tcp_states, with};

/// From now on nothing reaches this peer.
fn vanish(stream: &TcpStream) {
    // BPF_RET | BPF_K with 0: of each packet nothing is kept.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(stream).attach_filter(&[DROP]).unwrap();
}

/// A peer that asks for more than the kernel takes for it, and is gone before the answer comes.
fn ask_and_vanish(served: &Served) -> TcpStream {
    let mut stream = tcp(&served.addresses[1]);
    vanish(&stream);
    stream.write_all(b"x").unwrap();
    stream
}

/// Echo, and a long answer.
fn serve(progress_timeout: Duration) -> Served {
    let limits = with!(
        Limits::default(),
        progress_timeout = Some(progress_timeout),
        output_soft_bytes = None,
        output_hard_bytes = None
    );
    Served::start(limits, |reactor| {
        let burst = Burst { bytes: vec![b'b'; 16 << 20], closes: false };
        vec![listen(reactor, tidewheel::services::echo::Echo, &any_tcp()), listen(reactor, burst, &any_tcp())]
    })
}

#[test]
fn a_peer_that_vanished_is_closed_at_the_progress_deadline() {
    let served = serve(Duration::from_millis(200));
    let mut other = tcp(&served.addresses[0]);
    let mut gone: Vec<_> = (0..5).map(|_| ask_and_vanish(&served)).collect();
    // The answer to these fits the kernel's buffers: nothing waits in the server.
    for _ in 0..5 {
        let mut stream = tcp(&served.addresses[0]);
        assert_served(&mut stream);
        vanish(&stream);
        stream.write_all(b"anybody?").unwrap();
        gone.push(stream);
    }
    served.await_metrics("they are asked for", |metrics| {
        assert_served(&mut &other);
        metrics.closed_for(CloseReason::ProgressTimeout) == 10
    });
    assert_served(&mut other);
    let metrics = served.metrics();
    assert_eq!(metrics.connections_open, 1);
    assert!(metrics.bytes_unsent > 0);
    // Nor does the kernel go on trying for a quarter of an hour.
    let states = tcp_states(socket_address(&served.addresses[1]).port());
    assert!(states.is_empty(), "{states:?}");
    drop(gone);
}

#[test]
#[ignore = "long: three minutes, with the default timeouts"]
fn how_long_peers_that_vanished_are_kept() {
    use crate::harness::now;
    let progress = Limits::default().progress_timeout.unwrap();
    let served = serve(progress);
    let begun = now();
    let _asked = ask_and_vanish(&served);
    let silent = tcp(&served.addresses[0]);
    vanish(&silent);
    // The answer to this one fits the kernel's buffers: nothing waits in the server.
    let mut answered = tcp(&served.addresses[0]);
    assert_served(&mut answered);
    vanish(&answered);
    answered.write_all(b"anybody?").unwrap();

    let mut ends = Vec::new();
    while begun.elapsed() < Duration::from_secs(180) && ends.len() < 3 {
        let metrics = served.metrics();
        if metrics.connections_closed() > ends.len() as u64 {
            ends.push(begun.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let metrics = served.metrics();
    println!(
        "row 10: after {ends:.1?} s; for want of progress within {progress:?} {}, by keepalive {}, \
         still open after {:.0} s {}",
        metrics.closed_for(CloseReason::ProgressTimeout),
        metrics.closed_for(CloseReason::Reset),
        begun.elapsed().as_secs_f64(),
        metrics.connections_open
    );
    println!("        the kernel's view: {:?}", tcp_states(socket_address(&served.addresses[0]).port()));
}
