//! What is counted of a chat, beside what is counted of every load.

use serde::Serialize;

/// Of the window. Field names are the JSON's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines that came right, in order and in time, each at one member.
    pub deliveries: u64,
    /// Lines with wrong, missing or additional bytes.
    pub corrupted: u64,
    /// Lines that came again.
    pub duplicated: u64,
    /// Right lines that came after a later one of their sender.
    pub reordered: u64,
    /// Lines that were said in another room.
    pub wrong_room: u64,
    /// Lines that nobody said to whom they came to.
    pub unexpected: u64,
    /// What the server said of itself, flood control excepted.
    pub announcements: u64,
    /// How often the server's flood control spoke up.
    pub slow_downs: u64,
}

impl Counts {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Counts) {
        self.deliveries += other.deliveries;
        self.corrupted += other.corrupted;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.wrong_room += other.wrong_room;
        self.unexpected += other.unexpected;
        self.announcements += other.announcements;
        self.slow_downs += other.slow_downs;
    }
}
