//! Load on a chat: members of rooms, some of whom talk; everybody else in the room hears it, and each of these deliveries
//! is verified and timed.
//!
//! ```text
//!     plan, sizes ──► load: a sender's line ──► the server ──► every other member of the room
//!                       │                                                 │
//!                     room: who still lacks which line ◄── speech: verify ◄┘
//! ```
//!
//! A line that comes to a member is one of these:
//!
//! - a delivery: said in its room, not heard before, every byte as it should be. It is *reordered* if a later line of its
//!   sender has come before; then it is an error.
//! - *corrupted*: a byte is wrong, there are too few or too many. It stands for the line that it is most like.
//! - *duplicated*: heard before.
//! - in the *wrong room*: said, but elsewhere.
//! - *unexpected*: anything else that nobody said to this member, its own lines among it.
//! - *late*: it had been given up as *lost*, because it had not come within the timeout.
//! - an announcement of the server, which begins with `* `.
//!
//! Other servers that pass lines on are spoken to in their dialects, and verified in the same way.

mod counts;
mod dialect;
mod load;
mod places;
mod room;
mod speech;

pub use counts::Counts;
pub use dialect::Dialect;
pub use load::{ChatLoad, lines_max};

/// Of so many senders, times members, it is known who has heard what.
const PAIRS_MAX: usize = 16 << 20;

/// Lines that are not whole may take so much, of all members together.
const LINE_BYTES_MAX: usize = 128 << 20;

/// Who sits where. Members are numbered from 0, room by room; the first ones of each room talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seating {
    /// In all rooms together.
    pub members: usize,
    /// At least one.
    pub rooms: usize,
    /// In each room.
    pub senders: usize,
    pub dialect: Dialect,
}

impl Seating {
    /// Tells why it cannot be, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        let Seating { members, rooms, senders, dialect } = *self;
        if rooms > 1 && !dialect.has_rooms() {
            return Err("this dialect has no rooms: remove --rooms".into());
        }
        let smallest = members / rooms;
        if smallest < 2 {
            let needed = rooms.saturating_mul(2);
            return Err(format!("each room needs a sender and a receiver: use -c {needed} or more"));
        }
        if senders == smallest && !dialect.senders_listen() {
            return Err(format!("--senders {senders} of the {smallest} members of a room leave no receiver"));
        }
        if senders > smallest {
            return Err(format!("--senders {senders} is more than the {smallest} members of a room"));
        }
        if members.saturating_mul(senders) > PAIRS_MAX {
            return Err(format!(
                "--senders {senders} with {members} members: at most {PAIRS_MAX} pairs of sender and receiver are supported"
            ));
        }
        Ok(())
    }

    /// Tells why lines of so many bytes cannot be verified, if they cannot: each member may have one that is not whole.
    pub fn check_size(&self, bytes: usize) -> Result<(), String> {
        let most = LINE_BYTES_MAX / self.members;
        if bytes > most {
            return Err(format!(
                "--size {bytes}: with {} members, lines may have at most {most} bytes",
                self.members
            ));
        }
        Ok(())
    }

    /// How many hear a line, in a room of the usual size.
    fn listeners(&self) -> usize {
        let members = self.members / self.rooms;
        if self.dialect.senders_listen() { members - 1 } else { members - self.senders }
    }

    /// The number of a room's first member.
    fn first(&self, room: usize) -> usize {
        // The first rooms have one member more where they cannot be divided evenly.
        room * (self.members / self.rooms) + room.min(self.members % self.rooms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_seat() {
        let seating = Seating { members: 11, rooms: 4, senders: 2, dialect: Dialect::Tidewheel };
        assert_eq!([0, 1, 2, 3, 4].map(|room| seating.first(room)), [0, 3, 6, 9, 11]);
        assert_eq!(seating.check(), Ok(()));
        assert!(Seating { senders: 3, ..seating }.check().unwrap_err().contains("the 2 members"));
        assert!(Seating { rooms: 6, ..seating }.check().unwrap_err().contains("-c 12"));
        // Somebody must listen, which two senders of two do unless they cannot.
        assert!(
            Seating { dialect: Dialect::Redis, ..seating }.check().unwrap_err().contains("leave no receiver")
        );
        assert!(Seating { dialect: Dialect::Lines, ..seating }.check().unwrap_err().contains("--rooms"));
    }
}
