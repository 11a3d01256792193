//! A reader that is slow but steady is kept, however much the kernel holds for it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidewheel::Limits;

use crate::harness::{Served, now, pattern, socket_address, with};

/// A peer with so large a receive buffer; the system's choice for `None`.
fn connect(served: &Served, receive_buffer_bytes: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.connect(&socket_address(&served.addresses[0]).into()).unwrap();
    socket.into()
}

/// Sends all it can to an echo, and reads `piece` bytes of what comes back in each `pause`, for so long; then quickly to the end.
fn read_steadily(mut stream: TcpStream, bytes: usize, piece: usize, pause: Duration, during: Duration) {
    let mut sender = stream.try_clone().unwrap();
    let sent = thread::spawn(move || {
        let all = pattern(bytes);
        sender.write_all(&all).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
        all
    });
    let (begun, mut all, mut buffer) = (now(), Vec::new(), vec![0; piece]);
    while begun.elapsed() < during && all.len() < bytes {
        let count = stream.read(&mut buffer).expect("it is not closed");
        all.extend_from_slice(&buffer[..count]);
        thread::sleep(pause);
    }
    stream.read_to_end(&mut all).expect("it is not closed");
    assert!(all == sent.join().unwrap(), "{} of {bytes} bytes came", all.len());
}

fn at_once(progress_timeout: Duration, piece: usize, pause: Duration, during: Duration) {
    let served = Served::echo(with!(Limits::default(), progress_timeout = Some(progress_timeout)));
    thread::scope(|scope| {
        for receive_buffer_bytes in [Some(16 << 10), Some(64 << 10), None] {
            let stream = connect(&served, receive_buffer_bytes);
            scope.spawn(move || read_steadily(stream, 16 << 20, piece, pause, during));
        }
    });
    assert_eq!(served.stop().closed_for(tidewheel::CloseReason::ProgressTimeout), 0);
}

#[test]
fn they_are_kept_past_the_progress_timeout() {
    // How slow they are is what the test is about.
    at_once(Duration::from_secs(2), 10 << 10, Duration::from_millis(100), Duration::from_secs(5));
}

#[test]
#[ignore = "long: five minutes, with the default timeout"]
fn they_are_kept_for_five_minutes() {
    let during = Duration::from_secs(300);
    at_once(Limits::default().progress_timeout.unwrap(), 10 << 10, Duration::from_millis(500), during);
    println!(
        "row 32: 10 KiB every 0.5 s, receive buffers of 16 KiB, 64 KiB and the default: alive after {during:?}"
    );
}
