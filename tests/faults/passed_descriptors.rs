//! Descriptors that are passed over a unix socket (SCM_RIGHTS) split reads, and nobody here wants them.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tidewheel::Limits;
use tidewheel::services::echo::Echo;

use crate::harness::{Folder, Served, expect, listen, unix};

/// Sends all of `bytes` together with so many descriptors.
fn pass(stream: &UnixStream, bytes: &[u8], passed: &[&File]) -> io::Result<()> {
    let descriptors: Vec<_> = passed.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let count = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    assert_eq!(count, bytes.len());
    Ok(())
}

/// Three pieces of which the middle one, or all, come with descriptors.
fn converse(stream: &mut UnixStream, round: usize, file: &File) {
    let passed = &[file; 8][..1 + round % 8];
    pass(stream, b"before,", if round.is_multiple_of(2) { &passed[..1] } else { passed }).unwrap();
    pass(stream, b"with,", passed).unwrap();
    pass(stream, b"after.", &passed[..1]).unwrap();
    expect(stream, b"before,with,after.");
}

#[test]
fn what_comes_with_descriptors_comes_back() {
    let folder = Folder::new();
    let path = folder.unix("echo");
    let served = Served::start(Limits::default(), move |reactor| vec![listen(reactor, Echo, &path)]);
    let mut stream = unix(&served.addresses[0]);
    let file = File::open("/dev/null").unwrap();
    for round in 0..50 {
        converse(&mut stream, round, &file);
    }
}

#[cfg(feature = "cli")]
#[test]
fn descriptors_that_nobody_wants_are_not_kept() {
    use crate::harness::program::Server;
    let folder = Folder::new();
    let mut server = Server::start([format!("echo={}", folder.unix("echo"))]);
    let before = server.descriptors();
    let file = File::open("/dev/null").unwrap();
    for _ in 0..3 {
        let mut stream = unix(&folder.unix("echo"));
        for round in 0..50 {
            converse(&mut stream, round, &file);
        }
        assert_eq!(server.descriptors(), before + 1);
    }
    server.await_counters("all are gone", |counters| counters["connections_open"] == 0);
    assert_eq!(server.descriptors(), before);
    server.stop();
}
