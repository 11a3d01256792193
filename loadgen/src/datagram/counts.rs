//! What is counted of datagrams, beside what is counted of every load.

use serde::Serialize;

/// Of the window's requests and what came of them. Field names are the JSON's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests that the kernel has taken.
    pub sent: u64,
    /// Datagrams that came; each is right, corrupted, late or duplicated.
    pub received: u64,
    /// Wrong ones, of whatever request.
    pub corrupted: u64,
    /// Further replies to a request that had one.
    pub duplicated: u64,
    /// Right replies that came after the one to a later request of their socket.
    pub reordered: u64,
    /// Datagrams that came to the generator's own sockets and were dropped there by the kernel: their buffer was full.
    pub dropped_by_generator: u64,
    /// How often the kernel told that nobody listens at the server's address: ICMP's port unreachable, of which it
    /// tells one for several.
    pub refused: u64,
    /// How often the kernel told that the server's machine or network cannot be reached.
    pub unreachable: u64,
    /// Sends that found the socket full, and were tried again once it was not.
    pub send_would_block: u64,
    /// Sends for which the kernel had no memory, and were tried again a while later.
    pub send_no_buffers: u64,
}

impl Counts {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.received += other.received;
        self.corrupted += other.corrupted;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.dropped_by_generator += other.dropped_by_generator;
        self.refused += other.refused;
        self.unreachable += other.unreachable;
        self.send_would_block += other.send_would_block;
        self.send_no_buffers += other.send_no_buffers;
    }
}
