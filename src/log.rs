//! What is published in one turn: for each topic its messages, end to end and each once.
//!
//! A log is built while services run, read by everybody in the flush phase, and gone with the turn; what a peer has not
//! taken by then refers to it, and only that keeps it.

use std::ops::Range;

use crate::shared::Shared;
use crate::topic::TopicId;

/// No log has this number.
pub(crate) const NO_LOG: u64 = u64::MAX;

/// No message has this number.
const NO_MESSAGE: u32 = u32::MAX;

/// So many logs keep their memory for the next turn, and each so many bytes.
const LOGS_KEPT: usize = 16;
const LOG_BYTES_KEPT: usize = 2 << 20;

/// A chain of messages in a log.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    first: u32,
    last: u32,
}

impl Own {
    pub const NONE: Own = Own { first: NO_MESSAGE, last: NO_MESSAGE };
}

/// What somebody has still to hear of a log: from a place on everything but a chain of messages.
#[derive(Clone, Copy)]
pub(crate) struct Rest {
    pub from: u32,
    pub own: Own,
}

impl Rest {
    /// The whole of a log.
    pub const ALL: Rest = Rest { from: 0, own: Own::NONE };
}

struct Log {
    topic: TopicId,
    bytes: Shared,
    messages: Vec<Message>,
}

/// A message that somebody does not hear.
struct Message {
    start: u32,
    end: u32,
    /// The next one of the same sender.
    next: u32,
}

/// The logs of a turn. They are numbered through all turns, so that what was noted about one is never taken for another.
#[derive(Default)]
pub(crate) struct Logs {
    logs: Vec<Log>,
    used: usize,
    /// The number of the first one of this turn.
    first: u64,
}

impl Logs {
    /// Whether nothing was published in this turn.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The numbers of this turn's logs.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.first + self.used as u64
    }

    /// Whether that is the number of this topic's log of this turn.
    pub fn is_of(&self, log: u64, topic: TopicId) -> bool {
        self.numbers().contains(&log) && self.log(log).topic == topic
    }

    fn log(&self, log: u64) -> &Log {
        &self.logs[(log - self.first) as usize]
    }

    fn log_mut(&mut self, log: u64) -> &mut Log {
        &mut self.logs[(log - self.first) as usize]
    }

    /// Begins a topic's log.
    pub fn begin(&mut self, topic: TopicId) -> u64 {
        match self.logs.get_mut(self.used) {
            Some(log) => log.topic = topic,
            None => self.logs.push(Log { topic, bytes: Shared::default(), messages: Vec::new() }),
        }
        self.used += 1;
        self.first + self.used as u64 - 1
    }

    /// Adds a message and returns where it is.
    ///
    /// # Panics
    /// When one turn publishes 4 GiB in a topic.
    pub fn add(&mut self, log: u64, message: &[u8]) -> Range<u32> {
        let bytes =
            self.log_mut(log).bytes.only_mut().expect("nobody refers to a log before the flush phase");
        let start = bytes.len();
        bytes.extend_from_slice(message);
        let end = u32::try_from(bytes.len()).expect("one turn publishes less than 4 GiB in a topic");
        start as u32..end
    }

    /// Adds a message to a chain.
    pub fn chain(&mut self, log: u64, chain: Own, message: Range<u32>) -> Own {
        let messages = &mut self.log_mut(log).messages;
        let last = messages.len() as u32;
        messages.push(Message { start: message.start, end: message.end, next: NO_MESSAGE });
        match messages.get_mut(chain.last as usize) {
            Some(before) => {
                before.next = last;
                Own { first: chain.first, last }
            }
            None => Own { first: last, last },
        }
    }

    pub fn topic(&self, log: u64) -> TopicId {
        self.log(log).topic
    }

    pub fn bytes(&self, log: u64) -> &Shared {
        &self.log(log).bytes
    }

    /// How many bytes it has.
    pub fn end(&self, log: u64) -> u32 {
        self.log(log).bytes.len() as u32
    }

    /// Takes the next part of what somebody has still to hear.
    pub fn next_part(&self, log: u64, rest: &mut Rest) -> Option<Range<usize>> {
        let Log { messages, bytes, .. } = self.log(log);
        while (rest.from as usize) < bytes.len() {
            let start = rest.from as usize;
            let end = match messages.get(rest.own.first as usize) {
                Some(own) => {
                    (rest.from, rest.own.first) = (own.end, own.next);
                    own.start as usize
                }
                None => {
                    rest.from = bytes.len() as u32;
                    bytes.len()
                }
            };
            if start < end {
                return Some(start..end);
            }
        }
        None
    }

    /// The turn is over.
    pub fn end_turn(&mut self) {
        if self.used == 0 {
            return;
        }
        self.first += self.used as u64;
        self.logs.truncate(LOGS_KEPT);
        for log in self.logs.iter_mut().take(self.used) {
            log.messages.clear();
            match log.bytes.only_mut() {
                Some(bytes) if bytes.capacity() <= LOG_BYTES_KEPT => bytes.clear(),
                _ => log.bytes = Shared::default(),
            }
        }
        self.used = 0;
    }
}
