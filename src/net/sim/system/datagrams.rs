//! The datagram half: what is sent to the reactor's datagram sockets and from them, lost and doubled on the way.

use std::io;

use super::{SimNet, Source, failed};
use crate::datagram::{Inbound, Outbound, Received};
use crate::net::sim::agenda::{Arriving, Happening};
use crate::net::sim::errno;
use crate::net::sim::trace::{Detail, Subject};
use crate::net::{Address, Peer};

/// Datagrams that a socket holds until they are received; what comes then is dropped.
const DATAGRAMS_HELD_MAX: usize = 1024;

impl SimNet {
    pub(in crate::net::sim) fn send_datagram(
        &mut self,
        source: u32,
        from: Peer,
        to_many: bool,
        bytes: &[u8],
    ) {
        self.note("datagram sent", Subject::Source(source), Detail::Bytes(bytes.len()));
        let copies = self.copies();
        for _ in 0..copies {
            let datagram = Arriving { from: from.clone(), to_many, bytes: bytes.to_vec() };
            self.enter(Happening::Datagram { source, datagram });
        }
    }

    /// How often a datagram arrives.
    fn copies(&mut self) -> usize {
        if self.random.chance(self.faults.datagram_lost) {
            0
        } else {
            1 + usize::from(self.random.chance(self.faults.datagram_doubled))
        }
    }

    pub(super) fn hold_datagram(&mut self, index: u32, datagram: Arriving) {
        let bytes = datagram.bytes.len();
        if let Some(Some(Source::Datagram { held, .. })) = self.sources.get_mut(index as usize)
            && held.len() < DATAGRAMS_HELD_MAX
        {
            held.push_back(datagram);
            self.note("datagram arrives", Subject::Source(index), Detail::Bytes(bytes));
            self.list_source(index);
        }
    }

    /// Fills the batch with datagrams that have come.
    pub(super) fn receive_batch(&mut self, source: u32, batch: &mut Inbound) -> io::Result<usize> {
        self.call()?;
        if self.random.chance(self.faults.datagram_error) {
            self.note("receive fails", Subject::Source(source), Detail::Nothing);
            return Err(failed(errno::ECONNREFUSED));
        }
        self.source_fails(source)?;
        let Some(Some(Source::Datagram { held, .. })) = self.sources.get_mut(source as usize) else {
            panic!("the reactor received from source {source}, which is not a datagram socket that is open");
        };
        let count = held.len().min(batch.buffers().count());
        if count == 0 {
            return Err(failed(errno::EAGAIN));
        }
        let mut received = Vec::with_capacity(count);
        for (datagram, buffer) in held.drain(..count).zip(batch.buffers()) {
            let len = datagram.bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram.bytes[..len]);
            received.push(Received {
                from: datagram.from,
                local: None,
                to_many: datagram.to_many,
                truncated: len < datagram.bytes.len(),
                len,
            });
        }
        received.into_iter().for_each(|datagram| batch.push(datagram));
        self.progress += 1;
        self.work.received(source, count);
        self.note("receive", Subject::Source(source), Detail::Datagrams(count));
        Ok(count)
    }

    /// Sends the datagrams of the batch from `first` on. Returns how many have left.
    pub(super) fn transmit_batch(
        &mut self,
        source: u32,
        batch: &Outbound,
        first: usize,
    ) -> io::Result<usize> {
        self.call()?;
        if let Some(error) = self.faults.transmit_error {
            self.note("transmit fails", Subject::Source(source), Detail::Error(error));
            return Err(failed(error));
        }
        let Some(Some(Source::Datagram { blocked, address, .. })) = self.sources.get_mut(source as usize)
        else {
            panic!("the reactor sent from source {source}, which is not a datagram socket that is open");
        };
        if *blocked {
            return Err(failed(errno::EAGAIN));
        }
        let own = match address {
            Address::Tcp(at) | Address::Udp(at) => Peer::Inet(*at),
            Address::Unix(path) | Address::UnixDatagram(path) => Peer::Unix(Some(path.clone())),
        };
        let udp = matches!(own, Peer::Inet(_));
        if self.random.chance(self.faults.datagram_would_block) {
            *blocked = true;
            self.enter(Happening::Unblock { source });
            return Err(failed(errno::EAGAIN));
        }
        if self.random.chance(self.faults.datagram_error) {
            return Err(failed(errno::ENOBUFS));
        }
        let waiting = batch.len() - first;
        let count = if self.faults.shuffled { 1 + self.random.below(waiting) } else { waiting };
        for index in first..first + count {
            let (departure, bytes) = batch.get(index);
            let to = match &departure.to {
                Peer::Inet(at) if udp => Address::Udp(*at),
                Peer::Unix(Some(path)) if !udp => Address::UnixDatagram(path.clone()),
                // What went out before it counts; it will be met first in the next call.
                _ if index > first => return Ok(index - first),
                _ => return Err(failed(errno::EINVAL)),
            };
            let copies = self.copies();
            for _ in 0..copies {
                let bytes = bytes.to_vec();
                match self.bound_to(&to) {
                    Some(source) => {
                        let datagram = Arriving { from: own.clone(), to_many: false, bytes };
                        self.enter(Happening::Datagram { source, datagram });
                    }
                    None => self.enter(Happening::Reply { to: departure.to.clone(), bytes }),
                }
            }
        }
        self.progress += 1;
        self.note("transmit", Subject::Source(source), Detail::Datagrams(count));
        Ok(count)
    }
}
