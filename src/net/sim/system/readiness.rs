//! The readiness list of a simulated epoll: who is put on it, and what a poll tells of it, true or made up.

use super::{SimNet, Source};
use crate::net::sim::socket::Owner;
use crate::net::sim::trace::{Detail, Subject};
use crate::net::{Flags, Readiness, source_token};

/// Who is on the list of what a poll may tell.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    Socket(usize),
    Source(u32),
}

impl SimNet {
    /// Puts a socket on the list of what the next poll may tell: it looks there whether there is something to tell.
    pub(super) fn list(&mut self, socket: usize) {
        let end = &mut self.sockets[socket];
        if matches!(end.owner, Owner::Reactor(_)) && !end.listed {
            end.listed = true;
            self.listed.push_back(Entry::Socket(socket));
        }
    }

    pub(super) fn list_source(&mut self, source: u32) {
        let Some(Some(Source::Listener { listed, .. } | Source::Datagram { listed, .. })) =
            self.sources.get_mut(source as usize)
        else {
            return;
        };
        if !std::mem::replace(listed, true) {
            self.listed.push_back(Entry::Source(source));
        }
    }

    /// Something has come to read: told to those who want to hear of reading, and to peers.
    pub(super) fn tell_readable(&mut self, socket: usize) {
        match self.sockets[socket].owner {
            Owner::Reactor(_) if self.sockets[socket].interest.intersects(Flags::READ) => self.list(socket),
            Owner::Peer(peer) => self.attend_soon(peer),
            _ => {}
        }
    }

    /// There is room to write again: told once to those who found none and want to hear of it.
    pub(super) fn tell_room(&mut self, socket: usize) {
        let end = &mut self.sockets[socket];
        if end.no_space && end.is_writable() {
            end.no_space = false;
            if end.interest.intersects(Flags::WRITE) {
                self.list(socket);
            }
        }
    }

    /// Moves what is listed and true into `events`; what is edge-triggered is told once.
    pub(super) fn harvest(&mut self, events: &mut Vec<Readiness>) {
        if self.faults.shuffled {
            for index in (1..self.listed.len()).rev() {
                let other = self.random.below(index + 1);
                self.listed.swap(index, other);
            }
        }
        while events.len() < self.faults.events_max {
            let Some(entry) = self.listed.pop_front() else { break };
            let readiness = match entry {
                Entry::Socket(socket) => {
                    let end = &mut self.sockets[socket];
                    end.listed = false;
                    let Owner::Reactor(id) = end.owner else { continue };
                    Readiness { token: id.token(), flags: end.readiness() }
                }
                Entry::Source(source) => {
                    Readiness { token: source_token(source), flags: self.source_readiness(source) }
                }
            };
            if readiness.flags != Flags::NONE {
                events.push(readiness);
                if self.random.chance(self.faults.doubled_event) {
                    self.told.push(readiness);
                }
            }
        }
        if !events.is_empty() {
            self.make_up(events);
        }
        events.append(&mut self.told);
    }

    /// Notes what a poll returns.
    pub(super) fn note_events(&mut self, events: &[Readiness]) {
        self.note("poll", Subject::Whole, Detail::Events(events.len()));
        for event in events {
            self.note("event", Subject::of_token(event.token), Detail::Flags(event.flags));
        }
    }

    fn source_readiness(&mut self, source: u32) -> Flags {
        match self.sources.get_mut(source as usize) {
            Some(Some(Source::Listener { backlog, listed, .. })) => {
                *listed = false;
                Flags::READ.when(!backlog.is_empty())
            }
            Some(Some(Source::Datagram { held, blocked, wants_write, listed, .. })) => {
                *listed = false;
                Flags::READ.when(!held.is_empty()) | Flags::WRITE.when(*wants_write && !*blocked)
            }
            _ => Flags::NONE,
        }
    }

    /// Tells something that did not happen.
    fn make_up(&mut self, events: &mut Vec<Readiness>) {
        if !self.random.chance(self.faults.spurious_event) || self.connections.is_empty() {
            return;
        }
        let index = self.random.below(self.connections.len());
        if let Some((id, _)) = self.connections[index] {
            let all = [Flags::READ, Flags::WRITE, Flags::READ_CLOSED, Flags::URGENT, Flags::ERROR];
            let mut flags = all[self.random.below(all.len())];
            flags |= all[self.random.below(all.len())];
            events.push(Readiness { token: id.token(), flags });
        }
    }
}
