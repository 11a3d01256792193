//! Uppercase on real stream sockets: code points that are split, output that grows, peers that read slowly.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tidewheel::{Address, Limits};

use crate::datagrams::{Served, serve};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes each piece when what the ones before it made has come back, then ends, and returns everything that came.
fn converse<S: Read + Write>(mut stream: S, pieces: &[(&[u8], &[u8])], shut: impl Fn(&S)) -> Vec<u8> {
    let mut all = Vec::new();
    for (said, answer) in pieces {
        stream.write_all(said).unwrap();
        let mut came = vec![0; answer.len()];
        stream.read_exact(&mut came).unwrap();
        assert_eq!(came, *answer, "to {said:x?}");
        all.extend(came);
    }
    shut(&stream);
    stream.read_to_end(&mut all).unwrap();
    all
}

fn uppercase_everywhere(name: &str) -> (Served, TcpStream, UnixStream) {
    let path = std::env::temp_dir().join(format!("tidewheel-{}-{name}", std::process::id()));
    // A test that failed may have left it.
    let _ = std::fs::remove_file(&path);
    let wanted = [Address::Tcp(([127, 0, 0, 1], 0).into()), Address::Unix(path.clone())];
    let served = serve(Limits::default(), wanted.map(|address| ("uppercase", address)));
    let Address::Tcp(address) = served.addresses[0] else { unreachable!() };
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let unix = UnixStream::connect(path).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    (served, tcp, unix)
}

#[test]
fn code_points_split_across_reads_are_held_together() {
    let (served, tcp, unix) = uppercase_everywhere("split");
    let pieces: &[(&[u8], &[u8])] = &[
        (b"hello", b"HELLO"),
        // ß, whose second byte comes in another read, then a smiley in three pieces.
        (b"stra\xc3", b"STRA"),
        (b"\x9fe\xf0\x9f", b"SSE"),
        (b"\x98", b""),
        (b"\x80!", b"\xf0\x9f\x98\x80!"),
        // The second byte shows that the first begins nothing.
        (b"\xe2", b""),
        (b"a", b"\xe2A"),
        // Never completed: it comes back as it is, at the end.
        (b"z\xe2\x82", b"Z"),
    ];
    let whole = b"HELLOSTRASSE\xf0\x9f\x98\x80!\xe2AZ\xe2\x82";
    assert_eq!(converse(tcp, pieces, |stream| stream.shutdown(Shutdown::Write).unwrap()), whole);
    assert_eq!(converse(unix, pieces, |stream| stream.shutdown(Shutdown::Write).unwrap()), whole);
    served.stop();
}

#[test]
fn output_that_is_three_times_its_input_is_complete_however_slowly_it_is_read() {
    let (served, tcp, unix) = uppercase_everywhere("slow");
    // Pieces of all lengths, so that code points are split at each byte where a read or the room for output ends.
    let said = "ΐa你ŉﬃ😀".repeat(100_000);
    let whole = said.to_uppercase().into_bytes();
    let check = |mut writer: Box<dyn Write + Send>, mut reader: Box<dyn Read>| {
        let said = said.clone().into_bytes();
        let writing = std::thread::spawn(move || {
            for piece in said.chunks(65_521) {
                writer.write_all(piece).unwrap();
            }
        });
        let mut came = vec![0; whole.len()];
        for piece in came.chunks_mut(1009) {
            reader.read_exact(piece).unwrap();
        }
        assert!(came == whole);
        writing.join().unwrap();
    };
    check(Box::new(tcp.try_clone().unwrap()), Box::new(tcp));
    check(Box::new(unix.try_clone().unwrap()), Box::new(unix));
    served.stop();
}
