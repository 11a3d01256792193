//! What std does not offer: CPU clocks, the descriptor limit, late ports, datagrams by the batch, and children that end with their
//! parent. The only unsafe code of the crate.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::Usage;

/// The kernel's own bound (PID_MAX_LIMIT).
const PID_MAX: i32 = 4 << 20;

/// The CPU time of a process: all its threads, user and system, in nanoseconds and exact to the moment of reading.
/// (/proc/PID/stat counts in ticks of 10 ms, /proc/PID/schedstat the first thread alone.)
#[derive(Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// This process.
    pub const OWN: CpuClock = CpuClock(libc::CLOCK_PROCESS_CPUTIME_ID);

    /// Another process of this machine.
    pub fn of_process(pid: i32) -> io::Result<CpuClock> {
        // The call takes 0 for the caller and makes other clocks of ids that no process can have: a server that is
        // not there must be an error instead.
        if !(1..=PID_MAX).contains(&pid) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut clock = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for one clockid_t, which is all that the call writes.
        match unsafe { libc::clock_getcpuclockid(pid, clock.as_mut_ptr()) } {
            // SAFETY: the call returned 0, so it has written the clock.
            0 => Ok(CpuClock(unsafe { clock.assume_init() })),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// CPU time since the process began. Fails once the process is gone.
    pub fn read(self) -> io::Result<Duration> {
        let mut time = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the pointer is valid for one timespec, which is all that the call writes.
        if unsafe { libc::clock_gettime(self.0, time.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned 0, so it has written the time.
        let time = unsafe { time.assume_init() };
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// Nanoseconds of the monotonic clock. std's instants say the same for three times the instructions, and two readings are
/// taken for each request.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, which the call fills. It cannot fail: every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    // Since boot: neither is negative, and the sum has room for 584 years.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How many ticks, in which /proc/stat counts, a second has.
pub fn clock_ticks_per_second() -> u64 {
    // SAFETY: the call takes and returns numbers. rustix reads it from the vectors of the kernel, which valgrind hides.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks.max(1) as u64
}

/// Has the process that the command starts told to end (SIGTERM) when the calling thread does, however that comes about.
pub fn end_with_parent(command: &mut Command) {
    let tell = || Ok(set_parent_process_death_signal(Some(Signal::TERM))?);
    // SAFETY: between fork and exec this makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(tell) };
}

/// How long the calling thread has been ready to run without running: what the kernel counts in
/// /proc/thread-self/schedstat. Where it does not, the delay is 0.
pub struct RunDelay(Duration);

impl RunDelay {
    pub fn read() -> RunDelay {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
        RunDelay(Duration::from_nanos(ns.unwrap_or_default()))
    }

    /// What has come on top.
    pub fn since(&self) -> Duration {
        RunDelay::read().0.saturating_sub(self.0)
    }
}

/// Descriptors beside the connections: the standard streams, the poll, a file to write.
const DESCRIPTORS_RESERVED: u64 = 16;

/// Raises the soft descriptor limit to the hard one and refuses to begin what that cannot hold.
pub fn raise_descriptor_limit(connections: usize) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error()).context("reading the descriptor limit");
    }
    let needed = connections as u64 + DESCRIPTORS_RESERVED;
    if limit.rlim_max < needed {
        let words = format!(
            "{connections} connections need {needed} descriptors and the hard limit is {}: raise it (ulimit -Hn) or open fewer",
            limit.rlim_max
        );
        return Err(Usage(words).into());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error()).context("raising the descriptor limit");
    }
    Ok(())
}

/// Has the kernel choose the port of a bound socket when it connects (IP_BIND_ADDRESS_NO_PORT): then connections to
/// different servers may share one, and only then are all ports of an address there for the taking.
pub fn choose_port_at_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the call reads as many bytes as `yes` has, and keeps nothing of it.
    let result = unsafe {
        let option = libc::IP_BIND_ADDRESS_NO_PORT;
        let len = size_of_val(&yes) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, (&raw const yes).cast(), len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Datagrams that one call sends or receives at most.
///
/// This is what the unsafe code for them is for: on a machine of two cores, at 50 sockets with 16 requests of 64 bytes in
/// flight on each, calls for one datagram each take 1.4 times the CPU (4.5 µs an exchange, where these take 3.2 µs).
pub const BATCH_MAX: usize = 64;

/// Buffers for the datagrams that one call receives.
pub struct Inbox {
    bytes: Box<[u8]>,
    /// The size of each buffer.
    each: usize,
    lens: [usize; BATCH_MAX],
}

impl Inbox {
    /// Buffers of `each` bytes (one at least).
    pub fn new(each: usize) -> Inbox {
        Inbox { bytes: vec![0; each * BATCH_MAX].into(), each, lens: [0; BATCH_MAX] }
    }

    /// Receives up to `wanted` datagrams, or `BATCH_MAX`, without waiting; what a buffer cannot hold is cut off. Returns
    /// how many there are. As many as were wanted may not be all; fewer are.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wanted: usize) -> io::Result<usize> {
        let wanted = wanted.min(BATCH_MAX);
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH_MAX];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
        let buffers = self.bytes.chunks_exact_mut(self.each);
        for ((buffer, piece), header) in buffers.zip(&mut pieces).zip(&mut headers).take(wanted) {
            let whole = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.write(mmsghdr(piece.write(whole), 1));
        }
        // SAFETY: the first `wanted` headers are written. Each points to one piece, and that to a buffer of as many
        // bytes as it says, which nobody else uses until the call has returned.
        let received = unsafe {
            let headers = headers.as_mut_ptr().cast();
            libc::recvmmsg(socket.as_raw_fd(), headers, wanted as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        let received = count(received)?;
        for (len, header) in self.lens.iter_mut().zip(&headers).take(received) {
            // SAFETY: no more come than were wanted, and so many headers were written above.
            *len = unsafe { header.assume_init_ref() }.msg_len as usize;
        }
        Ok(received)
    }

    /// One of the datagrams that the last call received.
    pub fn datagram(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.each..][..self.lens[index]]
    }
}

/// Sends the first `BATCH_MAX` of the datagrams, or as many of them as the socket takes without waiting, each from two
/// pieces. Returns how many: one at least, or the reason why not.
pub fn send_batch<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = [IoSlice<'a>; 2]>,
) -> io::Result<usize> {
    let mut pieces = [const { MaybeUninit::<[IoSlice<'a>; 2]>::uninit() }; BATCH_MAX];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
    let mut wanted = 0;
    for ((datagram, piece), header) in datagrams.zip(&mut pieces).zip(&mut headers) {
        let both = piece.write(datagram);
        // An IoSlice is an iovec to the kernel: std says so.
        header.write(mmsghdr(both.as_mut_ptr().cast(), both.len()));
        wanted += 1;
    }
    // SAFETY: the first `wanted` headers are written. Each points to two pieces, and these to bytes that are borrowed
    // for 'a, which outlasts the call; the kernel only reads them.
    let sent = unsafe {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), wanted, flags as _)
    };
    count(sent)
}

/// A header for a connected socket: pieces, and neither an address nor control messages.
fn mmsghdr(pieces: *mut libc::iovec, count: usize) -> libc::mmsghdr {
    // SAFETY: it is made of numbers and pointers, for which zero bytes are a value.
    let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_hdr.msg_iov = pieces;
    header.msg_hdr.msg_iovlen = count as _;
    header
}

/// What a call returned that answers a number, or -1.
fn count(returned: libc::c_int) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// How many datagrams the kernel has dropped on their way into a socket, since it was opened: its buffer was full, or
/// their checksum was wrong. The count begins anew after 2^32.
pub fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut fields = [0_u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut len = size_of_val(&fields) as libc::socklen_t;
    // SAFETY: the call writes at most `len` bytes to `fields`, which has as many, and the length to `len`.
    let result = unsafe {
        let fields = fields.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, fields, &mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fields[libc::SK_MEMINFO_DROPS as usize])
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        sockets[0].connect(sockets[1].local_addr().unwrap()).unwrap();
        sockets[1].connect(sockets[0].local_addr().unwrap()).unwrap();
        let [one, other] = sockets;
        (one, other)
    }

    #[test]
    fn batches_keep_order_and_bounds() {
        let (one, other) = pair();
        let texts: Vec<_> = (0..BATCH_MAX + 6).map(|index| format!("{index:03}")).collect();
        let pieces = |from: usize| {
            texts[from..].iter().map(|text| [IoSlice::new(text.as_bytes()), IoSlice::new(b"and more")])
        };
        assert_eq!(send_batch(one.as_fd(), pieces(0)).unwrap(), BATCH_MAX);
        assert_eq!(send_batch(one.as_fd(), pieces(BATCH_MAX)).unwrap(), 6);
        one.send(b"").unwrap();
        let mut inbox = Inbox::new(6);
        assert_eq!(inbox.receive(other.as_fd(), 2).unwrap(), 2);
        assert_eq!([inbox.datagram(0), inbox.datagram(1)], [b"000and", b"001and"]);
        assert_eq!(inbox.receive(other.as_fd(), usize::MAX).unwrap(), BATCH_MAX);
        assert_eq!(inbox.datagram(BATCH_MAX - 1), b"065and");
        assert_eq!(inbox.receive(other.as_fd(), BATCH_MAX).unwrap(), 5);
        assert_eq!([inbox.datagram(3), inbox.datagram(4)], [&b"069and"[..], b""]);
        let error = inbox.receive(other.as_fd(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn drops_of_a_socket_are_counted() {
        let (one, other) = pair();
        rustix::net::sockopt::set_socket_recv_buffer_size(&other, 4096).unwrap();
        (0..100).for_each(|_| assert_eq!(one.send(&[0; 1000]).unwrap(), 1000));
        let mut inbox = Inbox::new(1);
        let mut received = 0;
        while let Ok(more) = inbox.receive(other.as_fd(), BATCH_MAX) {
            received += more;
        }
        assert!((1..100).contains(&received), "{received}");
        assert_eq!(socket_drops(other.as_fd()).unwrap() as usize, 100 - received);
    }

    #[test]
    fn a_process_clock_by_id_is_the_same_clock() {
        let by_id = CpuClock::of_process(std::process::id() as i32).unwrap();
        let first = CpuClock::OWN.read().unwrap();
        let between = by_id.read().unwrap();
        let last = CpuClock::OWN.read().unwrap();
        assert!(first <= between && between <= last, "{first:?} {between:?} {last:?}");
    }

    #[test]
    fn no_process_no_clock() {
        assert!(CpuClock::of_process(0).is_err());
        assert!(CpuClock::of_process(i32::MAX).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_reached_is_an_error() {
        let error = raise_descriptor_limit(usize::MAX >> 1).unwrap_err();
        assert!(error.to_string().contains("hard limit"), "{error}");
    }
}
