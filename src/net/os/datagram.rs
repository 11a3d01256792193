//! Datagram sockets of the real system: recvmmsg and sendmmsg.
//!
//! What one call hands to the kernel lies in one [`Batch`] for each socket and direction, made once. Each header of it
//! points to a [`Part`] of the same batch, and stays as it is from call to call; only what the kernel has changed, or
//! what differs from one datagram to the next, is written again:
//!
//! ```text
//!  headers  [0] [1] [2] ...          one mmsghdr each: that is what the kernel takes
//!            │   │   │
//!  parts    [0] [1] [2] ...          the piece of memory, the peer's address, and for sockets on a wildcard
//!            │   │   │               address the local one
//!            ▼   ▼   ▼
//!  buffers  of Inbound or Outbound
//! ```
//!
//! Answers in a row to one peer, of one size, go out as one message that the kernel cuts up (UDP_SEGMENT, "GSO"): they lie
//! end to end in [`Outbound`] already. To peers that have several requests in flight that saves a quarter to a third of the
//! CPU per answer (a loop in C, 64 B: 1 source with 64 in flight 0.78, 16 sources with 16 each 0.68), to others nothing. The
//! counterpart for receiving (UDP_GRO) would join only what a peer has sent in that way, and few do.
//!
//! This is what the unsafe code here is for. On a machine of two cores, with 256 sources of 64 bytes on loopback, a loop
//! in C that calls recvfrom and sendto for each datagram takes 1.21 times the CPU of one that calls recvmmsg and sendmmsg;
//! this takes 1.02 times, services, counters and reply policy included.

use std::ffi::OsStr;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdUdpSocket,
};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::Duration;

use mio::net::{UdpSocket, UnixDatagram};
use mio::{Interest, Registry, Token};
use socket2::{Protocol, SockRef, Socket, Type};

use super::inet_socket;
use super::paths::Paths;
use super::unix_path::{self, UnixPath};
use crate::datagram::{BATCH_MAX, DATAGRAM_BYTES_MAX, Departure, Inbound, Outbound, Received, STRIDE};
use crate::net::Peer;

/// What the kernel may hold of a socket's datagrams in each direction, if the system's limits (net.core.rmem_max and
/// wmem_max) allow so much: a burst of a few thousand small ones. Only what is held takes memory.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The largest socket address of the families here, a unix path of 108 bytes, with room to spare.
const NAME_BYTES: usize = 128;

/// Before the path in a unix socket's address.
const UNIX_PATH_AT: usize = 2;

/// The longest path of a unix socket, in bytes.
const UNIX_PATH_BYTES_MAX: usize = 108;

/// How many datagrams the kernel cuts one message into at most (UDP_MAX_SEGMENTS; 128 since Linux 6.9).
const SEGMENTS_MAX: usize = 64;

/// A control message begins with its length (8 bytes), its level and its type (4 bytes each).
const CONTROL_HEAD_BYTES: usize = 16;

/// Room for the control messages of one datagram: on a socket for both families an IPv4 datagram brings one of each.
const CONTROL_BYTES: usize = 2 * CONTROL_HEAD_BYTES
    + size_of::<libc::in_pktinfo>().next_multiple_of(8)
    + size_of::<libc::in6_pktinfo>().next_multiple_of(8);

/// A UDP or unix datagram socket.
pub(super) struct DatagramSocket {
    socket: Kind,
    /// It is bound to a broadcast or multicast address, so that everything it gets was sent to many.
    to_many: bool,
    segments: Segments,
    incoming: Batch,
    outgoing: Batch,
}

/// Which datagrams the kernel is given as one message that it cuts up.
struct Segments {
    /// Whether it cuts the messages of this socket up.
    cuts: bool,
    /// To whom it does not cut all of them.
    paths: Paths,
}

impl Segments {
    /// The largest datagram that a message to this peer may be cut into; 0 where there is none.
    #[inline]
    fn bytes_max(&self, to: &Peer, now: impl FnOnce() -> Duration) -> usize {
        match (self.cuts, to) {
            (false, _) => 0,
            (true, Peer::Inet(to)) if !self.paths.is_empty() => {
                self.paths.segment_bytes_max(to.ip(), now).unwrap_or(DATAGRAM_BYTES_MAX)
            }
            (true, _) => DATAGRAM_BYTES_MAX,
        }
    }
}

enum Kind {
    /// Its addresses are those of IPv4.
    Inet4(UdpSocket),
    /// Its addresses are those of IPv6; those of IPv4 appear mapped.
    Inet6(UdpSocket),
    Unix(UnixDatagram, #[expect(dead_code, reason = "it removes the file when it is dropped")] UnixPath),
}

impl DatagramSocket {
    /// A UDP socket that is bound to `at`, and the address that it has got.
    pub fn udp(at: &SocketAddr, reuse_port: bool) -> io::Result<(DatagramSocket, SocketAddr)> {
        let socket = inet_socket(at, Type::DGRAM, Protocol::UDP, reuse_port)?;
        // All options come before the bind: from then on datagrams arrive.
        let wildcard = at.ip().is_unspecified();
        if wildcard {
            ask_for_destination(&socket, at)?;
        }
        set_buffer_sizes(&socket)?;
        socket.bind(&(*at).into())?;
        let socket = UdpSocket::from_std(socket.into());
        let bound = socket.local_addr()?;
        let socket = if at.is_ipv4() { Kind::Inet4(socket) } else { Kind::Inet6(socket) };
        Ok((DatagramSocket::new(socket, wildcard, is_to_many(at.ip())), bound))
    }

    /// A unix datagram socket at `path`, with a mode if one is given.
    pub fn unix(path: &Path, mode: Option<u32>) -> io::Result<DatagramSocket> {
        let (socket, file) = unix_path::bind(path, Type::DGRAM, mode)?;
        set_buffer_sizes(&socket)?;
        let socket = Kind::Unix(UnixDatagram::from_std(socket.into()), file);
        Ok(DatagramSocket::new(socket, false, false))
    }

    fn new(socket: Kind, wildcard: bool, to_many: bool) -> DatagramSocket {
        DatagramSocket {
            segments: Segments { cuts: cuts_messages(&socket), paths: Paths::default() },
            socket,
            to_many,
            incoming: Batch::new(if wildcard { CONTROL_BYTES } else { 0 }),
            outgoing: Batch::new(0),
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Kind::Inet4(socket) | Kind::Inet6(socket) => registry.register(socket, token, Interest::READABLE),
            Kind::Unix(socket, _) => registry.register(socket, token, Interest::READABLE),
        }
    }

    pub fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match &mut self.socket {
            Kind::Inet4(socket) | Kind::Inet6(socket) => registry.reregister(socket, token, interest),
            Kind::Unix(socket, _) => registry.reregister(socket, token, interest),
        }
    }

    /// Lets other sockets share the port of a UDP socket from now on.
    pub fn share_port(&self) -> io::Result<()> {
        match &self.socket {
            Kind::Inet4(socket) | Kind::Inet6(socket) => SockRef::from(socket).set_reuse_port(true),
            Kind::Unix(..) => Ok(()),
        }
    }

    fn fd(&self) -> RawFd {
        match &self.socket {
            Kind::Inet4(socket) | Kind::Inet6(socket) => socket.as_raw_fd(),
            Kind::Unix(socket, _) => socket.as_raw_fd(),
        }
    }

    /// See [`Net::receive`](crate::net::Net::receive).
    ///
    /// Fewer datagrams than wanted mean that nothing is left. The kernel stops early for one other reason, an error, which
    /// it keeps for the next call; but it announces errors of a socket as readiness of their own, so that this call
    /// comes.
    pub fn receive(&mut self, into: &mut Inbound) -> io::Result<usize> {
        let fd = self.fd();
        let DatagramSocket { socket, to_many, incoming, .. } = self;
        let (memory, wanted) = into.memory();
        let count = incoming.receive(fd, memory, wanted)?;
        let control_room = incoming.control_room;
        let Calls { headers, parts, .. } = incoming.calls();
        for (header, part) in headers.iter_mut().zip(parts).take(count) {
            let (len, header) = (header.msg_len as usize, &mut header.msg_hdr);
            let from = match socket {
                Kind::Inet4(_) | Kind::Inet6(_) => Peer::Inet(inet_address(&part.name)),
                Kind::Unix(..) => Peer::Unix(unix_path(&part.name, header.msg_namelen as usize)),
            };
            let to = match control_room {
                0 => Destination::default(),
                _ => destination(&part.control[..header.msg_controllen as _]),
            };
            into.push(Received {
                from,
                local: to.local,
                to_many: *to_many || to.many,
                truncated: header.msg_flags & libc::MSG_TRUNC != 0,
                len,
            });
            // The kernel wrote here how much it used.
            header.msg_namelen = NAME_BYTES as libc::socklen_t;
            header.msg_controllen = control_room as _;
        }
        Ok(count)
    }

    /// See [`Net::transmit`](crate::net::Net::transmit). `now` tells the time since any beginning.
    pub fn transmit(
        &mut self,
        batch: &Outbound,
        first: usize,
        now: impl Fn() -> Duration + Copy,
    ) -> io::Result<usize> {
        match self.send(batch, first, now) {
            // A message that is cut up must fit the path to the peer in each of its parts. A datagram that is sent as such
            // may be larger: it travels in fragments.
            Err(error) if batch.run(first, SEGMENTS_MAX, |to| self.segments.bytes_max(to, now)) > 1 => {
                let (departure, bytes) = batch.get(first);
                let segment_bytes_max = match error.raw_os_error() {
                    Some(libc::EINVAL | libc::EMSGSIZE) => bytes.len() - 1,
                    // The path has no means for it.
                    Some(libc::EIO | libc::EOPNOTSUPP) => 0,
                    _ => return Err(error),
                };
                if let Some(to) = departure.to.ip() {
                    self.segments.paths.limit(to, segment_bytes_max, now());
                }
                self.send(batch, first, now)
            }
            sent => sent,
        }
    }

    /// Sends up to [`BATCH_MAX`] messages, from the datagram with index `first` on. Returns how many datagrams they were.
    fn send(
        &mut self,
        batch: &Outbound,
        first: usize,
        now: impl Fn() -> Duration + Copy,
    ) -> io::Result<usize> {
        let fd = self.fd();
        let DatagramSocket { socket, segments, outgoing, .. } = self;
        let Calls { headers, parts, .. } = outgoing.calls();
        let mut runs = [0_u8; BATCH_MAX];
        let (mut next, mut messages) = (first, 0);
        for ((header, part), run) in headers.iter_mut().zip(parts).zip(&mut runs) {
            if next == batch.len() {
                break;
            }
            let (departure, bytes) = batch.get(next);
            let Some((name_len, mut control_len)) = socket.address(departure, part) else { break };
            let count = batch.run(next, SEGMENTS_MAX, |to| segments.bytes_max(to, now));
            let bytes = if count > 1 {
                control_len += put_segment_bytes(&mut part.control[control_len..], bytes.len());
                batch.bytes_of_run(next, count)
            } else {
                bytes
            };
            part.piece.iov_base = bytes.as_ptr().cast_mut().cast();
            part.piece.iov_len = bytes.len() as _;
            header.msg_hdr.msg_namelen = name_len as libc::socklen_t;
            header.msg_hdr.msg_controllen = control_len as _;
            *run = count as u8;
            next += count;
            messages += 1;
        }
        if messages == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the pieces of the first `messages` point into `batch`, which is borrowed until after the call.
        let sent = unsafe { outgoing.send(fd, messages) };
        match (sent, socket) {
            (Ok(sent), _) => Ok(runs[..sent].iter().map(|&count| usize::from(count)).sum()),
            // It is the receiver that has no room, not this socket: waiting for it would let all the others wait.
            (Err(error), Kind::Unix(..)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::from(io::ErrorKind::ResourceBusy))
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// Whether the kernel cuts the messages of this socket up. Linux does since 4.18; an older one would take such a message for
/// one datagram.
fn cuts_messages(socket: &Kind) -> bool {
    let fd = match socket {
        Kind::Inet4(socket) | Kind::Inet6(socket) => socket.as_raw_fd(),
        Kind::Unix(..) => return false,
    };
    let mut bytes: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the call writes at most `len` bytes to `bytes`, which has as many, and the length to `len`.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw mut bytes).cast(), &raw mut len)
    };
    result == 0
}

impl Kind {
    /// Writes where a datagram goes, and where it leaves from. Returns the lengths of the two, or `None` if it is
    /// addressed to another family.
    #[inline]
    fn address(&self, departure: &Departure, part: &mut Part) -> Option<(usize, usize)> {
        match (self, &departure.to) {
            (Kind::Inet4(_), Peer::Inet(SocketAddr::V4(to))) => {
                let control_len = match departure.local {
                    Some(IpAddr::V4(local)) => put_source4(&mut part.control, local),
                    _ => 0,
                };
                Some((put_address4(&mut part.name, *to), control_len))
            }
            (Kind::Inet6(_), Peer::Inet(to)) => {
                let to = match *to {
                    SocketAddr::V4(to) => SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0),
                    SocketAddr::V6(to) => to,
                };
                let control_len = match departure.local {
                    Some(IpAddr::V4(local)) => put_source6(&mut part.control, local.to_ipv6_mapped()),
                    Some(IpAddr::V6(local)) => put_source6(&mut part.control, local),
                    None => 0,
                };
                Some((put_address6(&mut part.name, to), control_len))
            }
            (Kind::Unix(..), Peer::Unix(Some(path))) => Some((put_path(&mut part.name, path)?, 0)),
            _ => None,
        }
    }
}

/// Asks for the address that each datagram was sent to: an answer must leave from there, or the peer would not
/// recognise it.
fn ask_for_destination(socket: &Socket, at: &SocketAddr) -> io::Result<()> {
    let on = |level, option| {
        let one: libc::c_int = 1;
        // SAFETY: the value is a valid c_int of the length that is told, which the call only reads.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    if at.is_ipv6() {
        on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
    }
    // For IPv4 datagrams on a socket of IPv6 as well: only this tells whether they were sent to a broadcast address.
    on(libc::IPPROTO_IP, libc::IP_PKTINFO)
}

fn set_buffer_sizes(socket: &Socket) -> io::Result<()> {
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)
}

/// Whether an address that a socket is bound to is one of broadcast or multicast.
fn is_to_many(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        ip if ip.is_multicast() => true,
        IpAddr::V4(ip) if !ip.is_unspecified() => is_broadcast(ip).unwrap_or(false),
        _ => false,
    }
}

/// Which addresses are broadcast depends on the networks that the machine is in. The kernel knows: it connects
/// nobody there who has not asked for it. Port 9 (discard) stands for any; nothing is sent.
fn is_broadcast(ip: Ipv4Addr) -> io::Result<bool> {
    let socket = StdUdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let refused = socket.connect((ip, 9)).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    socket.set_broadcast(true)?;
    Ok(refused && socket.connect((ip, 9)).is_ok())
}

/// Everything that recvmmsg or sendmmsg is given, for up to [`BATCH_MAX`] datagrams.
struct Batch {
    /// From a box. The headers point to the parts beside them, so nothing but this pointer may own them: a box would
    /// claim that there is no other way to them.
    calls: NonNull<Calls>,
    /// What each datagram that is received may bring in control messages.
    control_room: usize,
    /// Where the buffers are that the pieces of a receiving batch point to.
    memory: usize,
}

struct Calls {
    headers: [libc::mmsghdr; BATCH_MAX],
    parts: [Part; BATCH_MAX],
}

/// Aligned so that the piece and an internet address lie in one line of the cache.
#[repr(C, align(64))]
struct Part {
    piece: libc::iovec,
    name: [u8; NAME_BYTES],
    /// Aligned to 8 bytes, as the kernel's own are.
    control: [u8; CONTROL_BYTES],
}

impl Batch {
    fn new(control_room: usize) -> Batch {
        // SAFETY: all of `Calls` is numbers and pointers, for which zero bytes are a value.
        let calls: Box<Calls> = Box::new(unsafe { zeroed() });
        let calls = NonNull::from(Box::leak(calls));
        for index in 0..BATCH_MAX {
            // SAFETY: `calls` is valid, nothing else refers to it yet, and `index` is within both arrays.
            unsafe {
                let part = &raw mut (*calls.as_ptr()).parts[index];
                let header = &raw mut (*calls.as_ptr()).headers[index].msg_hdr;
                (*header).msg_name = (&raw mut (*part).name).cast();
                (*header).msg_namelen = NAME_BYTES as libc::socklen_t;
                (*header).msg_iov = &raw mut (*part).piece;
                (*header).msg_iovlen = 1;
                (*header).msg_control = (&raw mut (*part).control).cast();
                (*header).msg_controllen = control_room as _;
            }
        }
        Batch { calls, control_room, memory: 0 }
    }

    #[inline]
    fn calls(&mut self) -> &mut Calls {
        // SAFETY: the allocation lives as long as `self`, which is borrowed; the pointers inside it are followed by the
        // kernel alone, in calls that borrow `self` as well.
        unsafe { self.calls.as_mut() }
    }

    /// Receives into the buffers in `memory`, as many datagrams as there are, or as are wanted.
    #[inline]
    fn receive(&mut self, fd: RawFd, memory: &mut [u8], wanted: usize) -> io::Result<usize> {
        assert!(memory.len() == STRIDE * BATCH_MAX, "a batch has one buffer for each datagram");
        assert!(wanted <= BATCH_MAX, "a batch has no more datagrams than buffers");
        // The buffers are the same in every call, so the pieces point to them already; the kernel goes by the
        // address, and exposing it is all that a further borrow needs.
        let start = memory.as_mut_ptr().expose_provenance();
        if start != self.memory {
            self.memory = start;
            for (index, part) in self.calls().parts.iter_mut().enumerate() {
                part.piece.iov_base = ptr::with_exposed_provenance_mut(start + index * STRIDE);
                part.piece.iov_len = STRIDE as _;
            }
        }
        let headers = self.calls().headers.as_mut_ptr();
        // SAFETY: there are BATCH_MAX headers, no fewer than `wanted`. Their pieces point to STRIDE bytes each of `memory`, their names and
        // control messages to as many bytes as they say of the parts; both are borrowed until after the call.
        counted(unsafe { libc::recvmmsg(fd, headers, wanted as _, libc::MSG_DONTWAIT as _, ptr::null_mut()) })
    }

    /// Sends the first `count` datagrams, or as many of them as the kernel takes.
    ///
    /// # Safety
    /// The pieces of the first `count` parts must point to memory that can be read until the call returns.
    #[inline]
    unsafe fn send(&mut self, fd: RawFd, count: usize) -> io::Result<usize> {
        let headers = &mut self.calls().headers[..count];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: there are `count` headers. Their names and control messages lie in the parts, which are borrowed
        // until after the call, and the caller vouches for the pieces.
        counted(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as _, flags as _) })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box and nobody else frees it.
        drop(unsafe { Box::from_raw(self.calls.as_ptr()) });
    }
}

/// The count that a call came to.
#[inline]
fn counted(count: libc::c_int) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

// ---- the kernel's forms of addresses ----

/// The bytes of `from`, beginning at `at`.
#[inline]
fn bytes_at<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    *from[at..].first_chunk().expect("the kernel writes addresses whole")
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// ```text
/// sockaddr_in    family 2 · port 2 · address 4 · zero 8
/// sockaddr_in6   family 2 · port 2 · flow 4 · address 16 · scope 4
/// ```
/// IPv4 as IPv4, also where it appears mapped.
#[inline]
fn inet_address(name: &[u8; NAME_BYTES]) -> SocketAddr {
    let port = u16::from_be_bytes(bytes_at(name, 2));
    if u16::from_ne_bytes(bytes_at(name, 0)) == libc::AF_INET as u16 {
        return SocketAddr::from((bytes_at::<4>(name, 4), port));
    }
    let ip = Ipv6Addr::from(bytes_at::<16>(name, 8));
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddr::from((ip, port)),
        // An address of the link is one only together with the interface that it was seen on.
        None => SocketAddrV6::new(ip, port, 0, u32::from_ne_bytes(bytes_at(name, 24))).into(),
    }
}

#[inline]
fn put_address4(name: &mut [u8; NAME_BYTES], to: SocketAddrV4) -> usize {
    put(name, 0, &(libc::AF_INET as u16).to_ne_bytes());
    put(name, 2, &to.port().to_be_bytes());
    put(name, 4, &to.ip().octets());
    size_of::<libc::sockaddr_in>()
}

#[inline]
fn put_address6(name: &mut [u8; NAME_BYTES], to: SocketAddrV6) -> usize {
    put(name, 0, &(libc::AF_INET6 as u16).to_ne_bytes());
    put(name, 2, &to.port().to_be_bytes());
    put(name, 4, &[0; 4]);
    put(name, 8, &to.ip().octets());
    put(name, 24, &to.scope_id().to_ne_bytes());
    size_of::<libc::sockaddr_in6>()
}

/// ```text
/// sockaddr_un    family 2 · nothing                  a sender without a name
///                family 2 · path · NUL               a file; the NUL is missing where the path has 108 bytes
///                family 2 · NUL · anything           a name that is no file
/// ```
fn unix_path(name: &[u8; NAME_BYTES], name_len: usize) -> Option<PathBuf> {
    let path = name.get(UNIX_PATH_AT..name_len.min(NAME_BYTES)).filter(|path| !path.is_empty())?;
    let path = match path.iter().position(|&byte| byte == 0) {
        Some(end) if end > 0 => &path[..end],
        _ => path,
    };
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

fn put_path(name: &mut [u8; NAME_BYTES], path: &Path) -> Option<usize> {
    let path = path.as_os_str().as_bytes();
    if path.is_empty() || path.len() > UNIX_PATH_BYTES_MAX {
        return None;
    }
    put(name, 0, &(libc::AF_UNIX as u16).to_ne_bytes());
    put(name, UNIX_PATH_AT, path);
    name[UNIX_PATH_AT + path.len()] = 0;
    let is_file = path[0] != 0;
    Some(UNIX_PATH_AT + path.len() + usize::from(is_file && path.len() < UNIX_PATH_BYTES_MAX))
}

/// Where a datagram was sent to.
#[derive(Default)]
struct Destination {
    /// The address of this machine that an answer leaves from.
    local: Option<IpAddr>,
    /// It was sent to a broadcast or multicast address.
    many: bool,
}

/// ```text
/// control message    length 8 · level 4 · type 4 · its data, padded to 8
/// IP_PKTINFO         interface 4 · our address 4 · address in the header 4
/// IPV6_PKTINFO       address in the header 16 · interface 4
/// ```
fn destination(mut control: &[u8]) -> Destination {
    let mut to = Destination::default();
    while control.len() >= CONTROL_HEAD_BYTES {
        let len = usize::from_ne_bytes(bytes_at(control, 0));
        let kind = (i32::from_ne_bytes(bytes_at(control, 8)), i32::from_ne_bytes(bytes_at(control, 12)));
        if kind == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            let ours = Ipv4Addr::from(bytes_at::<4>(control, CONTROL_HEAD_BYTES + 4));
            let header = Ipv4Addr::from(bytes_at::<4>(control, CONTROL_HEAD_BYTES + 8));
            to.local = Some(ours.into());
            to.many |= header != ours || header.is_multicast() || header.is_broadcast();
        } else if kind == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            let header = Ipv6Addr::from(bytes_at::<16>(control, CONTROL_HEAD_BYTES));
            // Of IPv4 datagrams IP_PKTINFO says more.
            if header.to_ipv4_mapped().is_none() {
                to.local = Some(header.into());
                to.many |= header.is_multicast();
            }
        }
        control = control.get(len.max(CONTROL_HEAD_BYTES).next_multiple_of(8)..).unwrap_or_default();
    }
    to
}

#[inline]
fn put_source4(control: &mut [u8; CONTROL_BYTES], local: Ipv4Addr) -> usize {
    let mut info = [0; size_of::<libc::in_pktinfo>()];
    put(&mut info, 4, &local.octets());
    put_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
}

/// On a socket of IPv6 this is the form for mapped addresses of IPv4 too.
#[inline]
fn put_source6(control: &mut [u8; CONTROL_BYTES], local: Ipv6Addr) -> usize {
    let mut info = [0; size_of::<libc::in6_pktinfo>()];
    put(&mut info, 0, &local.octets());
    put_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
}

/// The size of the datagrams that a message is cut into.
#[inline]
fn put_segment_bytes(control: &mut [u8], bytes: usize) -> usize {
    let bytes = u16::try_from(bytes).expect("a datagram is shorter than 64 KiB");
    put_control(control, libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes())
}

#[inline]
fn put_control(control: &mut [u8], level: i32, kind: i32, info: &[u8]) -> usize {
    let len = CONTROL_HEAD_BYTES + info.len();
    put(control, 0, &len.to_ne_bytes());
    put(control, 8, &level.to_ne_bytes());
    put(control, 12, &kind.to_ne_bytes());
    put(control, CONTROL_HEAD_BYTES, info);
    len.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockAddr;

    fn name_of(address: SocketAddr) -> [u8; NAME_BYTES] {
        let mut name = [0xaa; NAME_BYTES];
        match address {
            SocketAddr::V4(address) => put_address4(&mut name, address),
            SocketAddr::V6(address) => put_address6(&mut name, address),
        };
        name
    }

    #[test]
    fn internet_addresses_survive_the_kernels_form() {
        for address in ["10.1.2.3:40000", "0.0.0.0:0", "[2001:db8::1]:65535", "[fe80::1%3]:1024"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(inet_address(&name_of(address)), address);
        }
        let mapped = name_of("[::ffff:10.1.2.3]:1".parse().unwrap());
        assert_eq!(inet_address(&mapped), "10.1.2.3:1".parse().unwrap());
    }

    #[test]
    fn the_forms_are_those_of_the_system() {
        for address in ["10.1.2.3:40000", "[fe80::1%3]:1024"] {
            let address: SocketAddr = address.parse().unwrap();
            let theirs = SockAddr::from(address);
            let mut name = [0; NAME_BYTES];
            let len = match address {
                SocketAddr::V4(address) => put_address4(&mut name, address),
                SocketAddr::V6(address) => put_address6(&mut name, address),
            };
            // SAFETY: the storage is as long as it says, and initialised.
            let theirs =
                unsafe { std::slice::from_raw_parts(theirs.as_ptr().cast::<u8>(), theirs.len() as usize) };
            assert_eq!(&name[..len], theirs);
        }
    }

    #[test]
    fn unix_paths_survive_the_kernels_form() {
        let longest = "x".repeat(UNIX_PATH_BYTES_MAX);
        for path in ["/run/x", "x", "\0abstract", "\0with\0nul\0", &longest] {
            let mut name = [0xaa; NAME_BYTES];
            let len = put_path(&mut name, Path::new(path)).unwrap();
            assert_eq!(unix_path(&name, len).unwrap(), Path::new(path));
        }
        let mut name = [0xaa; NAME_BYTES];
        assert_eq!(put_path(&mut name, Path::new("")), None);
        assert_eq!(put_path(&mut name, Path::new(&"x".repeat(UNIX_PATH_BYTES_MAX + 1))), None);
        assert_eq!(unix_path(&name, 0), None);
        assert_eq!(unix_path(&name, UNIX_PATH_AT), None);
    }

    fn told(messages: &[(i32, i32, &[u8])]) -> Destination {
        let mut control = Vec::new();
        for &(level, kind, info) in messages {
            let mut one = [0; CONTROL_BYTES];
            let len = put_control(&mut one, level, kind, info);
            control.extend_from_slice(&one[..len]);
        }
        destination(&control)
    }

    fn four(ours: [u8; 4], header: [u8; 4]) -> Destination {
        let info = [[1, 0, 0, 0], ours, header].concat();
        told(&[(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)])
    }

    fn six(header: &str) -> Destination {
        let header: Ipv6Addr = header.parse().unwrap();
        let info = [&header.octets()[..], &[1, 0, 0, 0]].concat();
        told(&[(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)])
    }

    #[test]
    fn the_destination_says_what_was_sent_to_many() {
        assert!(!four([10, 0, 0, 1], [10, 0, 0, 1]).many);
        assert!(four([10, 0, 0, 1], [10, 0, 0, 255]).many);
        assert!(four([10, 0, 0, 1], [239, 1, 2, 3]).many);
        assert!(four([239, 1, 2, 3], [239, 1, 2, 3]).many);
        assert!(four([255; 4], [255; 4]).many);
        assert_eq!(four([10, 0, 0, 1], [10, 0, 0, 255]).local, Some([10, 0, 0, 1].into()));
        assert!(!six("2001:db8::1").many);
        assert!(six("ff02::1").many);
        assert_eq!(six("2001:db8::1").local, Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn control_messages_may_come_in_any_order_and_number() {
        let mapped = Ipv4Addr::new(10, 0, 0, 255).to_ipv6_mapped().octets();
        let six = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&mapped[..], &[1, 0, 0, 0]].concat()[..]);
        let four = (libc::IPPROTO_IP, libc::IP_PKTINFO, &[1, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 255][..]);
        let other = (libc::SOL_SOCKET, libc::SCM_TIMESTAMP, &[1, 2, 3][..]);
        for messages in [[six, four, other], [other, four, six], [four, other, six]] {
            let to = told(&messages);
            assert_eq!((to.local, to.many), (Some([10, 0, 0, 1].into()), true));
        }
        assert!(told(&[]).local.is_none());
        assert!(told(&[other]).local.is_none());
    }
}
