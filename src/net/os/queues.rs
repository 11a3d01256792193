//! What the kernel holds of a connection: input that has not been read, and output that the peer has not acknowledged.
//!
//! What the peer acknowledges says more than that epoll reports a socket as writable: it does so only when a third of the send buffer is free, which a slow peer
//! behind megabytes of buffer does not bring about for minutes. TCP_USER_TIMEOUT cannot tell such a peer from one that is gone either: it also
//! runs while the peer keeps its window closed.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::net::Delivery;

pub(super) fn delivery(socket: BorrowedFd<'_>) -> io::Result<Delivery> {
    let waiting = unacknowledged(socket)?;
    // A unix stream has no such count, but what waits for its peer becomes less with everything that is read.
    let mark = if waiting == 0 { 0 } else { acknowledged(socket).unwrap_or(waiting as u64) };
    Ok(Delivery { waiting, mark })
}

/// Bytes that have come and have not been read.
pub(super) fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    count(socket, libc::FIONREAD)
}

/// Bytes that the kernel holds until the peer acknowledges them; of a unix stream, the memory of what the peer has not read.
fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // SIOCOUTQ is the same number.
    count(socket, libc::TIOCOUTQ)
}

/// What a request says that stores an int: FIONREAD or TIOCOUTQ.
fn count(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests store an int, and the pointer is to one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's `struct tcp_info` up to `tcpi_bytes_acked` (Linux 4.1), after which it has more.
#[repr(C)]
struct TcpInfo {
    before: [u8; 120],
    bytes_acked: u64,
}

/// How many bytes a TCP peer has ever acknowledged; `None` for other sockets, and for older kernels.
fn acknowledged(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut info = MaybeUninit::<TcpInfo>::uninit();
    let mut len = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the kernel stores at most `len` bytes, which is what there is room for, and how many it stored.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 || (len as usize) < offset_of!(TcpInfo, bytes_acked) + size_of::<u64>() {
        return None;
    }
    // SAFETY: all of it has been stored, and any bytes are a TcpInfo.
    Some(unsafe { info.assume_init() }.bytes_acked)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Writes until nothing more goes, and looks at what the kernel says before and after the peer has read.
    fn check(mut sender: impl Write + AsFd, mut reader: impl Read) {
        assert_eq!(delivery(sender.as_fd()).unwrap().waiting, 0);
        let block = [0; 4096];
        while sender.write(&block).is_ok() {}
        let before = delivery(sender.as_fd()).unwrap();
        assert!(before.waiting > 0);
        assert_eq!(delivery(sender.as_fd()).unwrap().mark, before.mark, "nothing was read");
        let mut left = 1 << 20;
        let mut after = before;
        while left > 0 && after.mark == before.mark {
            left -= reader.read(&mut [0; 4096]).unwrap();
            after = delivery(sender.as_fd()).unwrap();
        }
        assert_ne!(after.mark, before.mark);
    }

    #[test]
    fn what_the_peer_reads_changes_the_mark_and_nothing_else_does() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sender.set_nonblocking(true).unwrap();
        check(sender, listener.accept().unwrap().0);
        let (sender, reader) = UnixStream::pair().unwrap();
        sender.set_nonblocking(true).unwrap();
        check(sender, reader);
    }

    #[test]
    fn the_count_of_acknowledged_bytes_is_where_this_file_looks_for_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let before = acknowledged(sender.as_fd()).unwrap();
        sender.write_all(&[0; 12_345]).unwrap();
        let mut reader = listener.accept().unwrap().0;
        while unread(reader.as_fd()).unwrap() < 12_345 {
            std::thread::yield_now();
        }
        reader.read_exact(&mut [0; 12_345]).unwrap();
        assert_eq!(unread(reader.as_fd()).unwrap(), 0);
        while unacknowledged(sender.as_fd()).unwrap() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(acknowledged(sender.as_fd()).unwrap() - before, 12_345);
        assert_eq!(acknowledged(UnixStream::pair().unwrap().0.as_fd()), None);
    }
}
