//! One end of a simulated stream connection: what the kernel holds for it, and what epoll would say about it.
//!
//! ```text
//!    write ─► send buffer ─── segments, delays ───► receive buffer of the other end ─► read
//! ```

use std::collections::VecDeque;

use super::errno;
use super::peer::PeerId;
use crate::net::{Flags, Peer};
use crate::slots::ConnId;

/// Whose end it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// It waits to be accepted.
    Backlog,
    /// A connection of the reactor, with a descriptor.
    Reactor(ConnId),
    /// The peer that the scenario plays.
    Peer(PeerId),
    /// It is closed. What it had sent may still be on its way.
    Nobody,
}

pub(super) struct Socket {
    pub owner: Owner,
    /// TCP, else unix.
    pub tcp: bool,
    /// The other end.
    pub mate: usize,
    /// How the other end's address looks from here.
    pub far: Peer,
    pub established: bool,
    pub receive: VecDeque<u8>,
    pub receive_max: usize,
    pub send: VecDeque<u8>,
    pub send_max: usize,
    /// Bytes that the owner has ever read.
    pub taken: u64,
    /// Where in the incoming stream, counted as `taken` is, an urgent byte stands.
    pub urgent_at: Option<u64>,
    /// This side has been ended by its owner.
    pub write_shut: bool,
    /// The end of this side has been told to the other.
    pub fin_sent: bool,
    /// The other side has ended.
    pub fin_arrived: bool,
    /// The connection is broken.
    pub reset: bool,
    /// What the next call that meets it will say, once.
    pub error: Option<i32>,
    /// A fault: there is no room in the send buffer for the moment.
    pub choked: bool,
    /// A write found no room, so its return is to be told.
    pub no_space: bool,
    /// A segment is on its way.
    pub carrying: bool,
    /// Nothing arrives any more, in either direction.
    pub vanished: bool,
    pub interest: Flags,
    /// On the list of what a poll may tell.
    pub listed: bool,
}

impl Socket {
    pub fn new(
        owner: Owner,
        tcp: bool,
        mate: usize,
        far: Peer,
        receive_max: usize,
        send_max: usize,
    ) -> Socket {
        Socket {
            owner,
            tcp,
            mate,
            far,
            established: false,
            receive: VecDeque::new(),
            receive_max,
            send: VecDeque::new(),
            send_max,
            taken: 0,
            urgent_at: None,
            write_shut: false,
            fin_sent: false,
            fin_arrived: false,
            reset: false,
            error: None,
            choked: false,
            no_space: false,
            carrying: false,
            vanished: false,
            interest: Flags::NONE,
            listed: false,
        }
    }

    /// Bytes that a write would take.
    pub fn send_room(&self) -> usize {
        if self.choked { 0 } else { self.send_max.saturating_sub(self.send.len()) }
    }

    /// Bytes that may arrive.
    pub fn receive_room(&self) -> usize {
        self.receive_max.saturating_sub(self.receive.len())
    }

    /// Whether epoll calls it writable: a third of the buffer is free, as in Linux's `sk_stream_is_writeable`.
    pub fn is_writable(&self) -> bool {
        self.send_room() * 3 >= self.send_max
    }

    /// What epoll would tell now, in mio's reading of it. As in Linux's `tcp_poll`, looking at a socket without room
    /// asks for the return of room to be told.
    pub fn readiness(&mut self) -> Flags {
        let failed = self.reset || self.error.is_some();
        if !self.established && !failed {
            return Flags::NONE;
        }
        let ended = self.fin_arrived || failed;
        let hung_up = failed || (self.fin_arrived && self.write_shut);
        let readable = self.interest.intersects(Flags::READ) && (!self.receive.is_empty() || ended);
        let writable = self.write_shut || failed || self.is_writable();
        self.no_space |= !writable;
        let urgent = self.urgent_at.is_some();
        Flags::READ.when(readable || urgent)
            | Flags::WRITE.when(writable && self.interest.intersects(Flags::WRITE))
            | Flags::READ_CLOSED.when(hung_up || (readable && ended))
            | Flags::URGENT.when(urgent)
            | Flags::ERROR.when(self.error.is_some())
    }

    /// What the next read of `len` bytes comes to: as many bytes as it may take, 0 for the end of the stream.
    pub fn readable(&mut self, len: usize) -> Result<usize, i32> {
        let mut count = self.receive.len().min(len);
        if let Some(at) = self.urgent_at {
            let ahead = (at - self.taken) as usize;
            if ahead == 0 {
                // Reading steps over the urgent byte.
                self.urgent_at = None;
            } else {
                count = count.min(ahead);
            }
        }
        if count > 0 || len == 0 {
            return Ok(count);
        }
        match self.error.take() {
            Some(error) => Err(error),
            None if self.fin_arrived || self.reset => Ok(0),
            None => Err(errno::EAGAIN),
        }
    }

    /// Takes bytes from the receive buffer.
    pub fn take(&mut self, into: &mut [u8]) {
        let count = into.len();
        for (place, byte) in into.iter_mut().zip(self.receive.drain(..count)) {
            *place = byte;
        }
        self.taken += count as u64;
    }

    /// How many bytes a write may put into the send buffer now.
    pub fn writable(&mut self) -> Result<usize, i32> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.reset || self.write_shut {
            return Err(errno::EPIPE);
        }
        match self.send_room() {
            0 => Err(errno::EAGAIN),
            room => Ok(room),
        }
    }
}
