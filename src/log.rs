//! What is published in one turn: for each topic its messages, end to end and each once.
//!
//! A log is built while services run, read by everybody in the flush phase, and empty again with the end of the turn. What some
//! peer does not take is copied once for all who do not, into blocks that fit: the log's own memory, which is as large as its largest
//! turn made it, is never held for anybody.

use std::ops::Range;

use crate::shared::Shared;
use crate::topic::TopicId;

/// No log has this number.
pub(crate) const NO_LOG: u64 = u64::MAX;

/// No message has this number.
const NO_MESSAGE: u32 = u32::MAX;

/// So many logs keep their memory for the next turn: the first one so many bytes, each of the others so many.
const LOGS_KEPT: usize = 16;
const FIRST_LOG_BYTES_KEPT: usize = 512 << 10;
const LOG_BYTES_KEPT: usize = 16 << 10;

/// The largest block of a log in bytes. A block is held as a whole until its last byte is taken.
pub(crate) const LOG_BLOCK_BYTES_MAX: usize = 64 << 10;

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
    bytes: Vec<u8>,
    messages: Vec<Message>,
    /// Copies of the front of `bytes`, end to end, for whoever takes it later; and where each ends.
    blocks: Vec<(u32, Shared)>,
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
            None => {
                self.logs.push(Log { topic, bytes: Vec::new(), messages: Vec::new(), blocks: Vec::new() });
            }
        }
        self.used += 1;
        self.first + self.used as u64 - 1
    }

    /// Adds a message and returns where it is.
    ///
    /// # Panics
    /// When one turn publishes 4 GiB in a topic.
    pub fn add(&mut self, log: u64, message: &[u8]) -> Range<u32> {
        let bytes = &mut self.log_mut(log).bytes;
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

    #[inline]
    pub fn bytes(&self, log: u64) -> &[u8] {
        &self.log(log).bytes
    }

    /// Copies what a log has had so far and is in no block yet.
    pub fn preserve(&mut self, log: u64) {
        let Log { bytes, blocks, .. } = self.log_mut(log);
        let mut start = blocks.last().map_or(0, |&(end, _)| end as usize);
        while start < bytes.len() {
            let end = bytes.len().min(start + LOG_BLOCK_BYTES_MAX);
            blocks.push((end as u32, Shared::from(&bytes[start..end])));
            start = end;
        }
    }

    /// The blocks that hold a part of a log which was preserved, and which part of each.
    pub fn blocks(&self, log: u64, part: Range<usize>) -> impl Iterator<Item = (&Shared, Range<usize>)> {
        let blocks = &self.log(log).blocks;
        let first = blocks.partition_point(|&(end, _)| end as usize <= part.start);
        blocks[first..].iter().map_while(move |(end, block)| {
            let start = *end as usize - block.len();
            let (from, to) = (part.start.max(start), part.end.min(*end as usize));
            (from < to).then(|| (block, from - start..to - start))
        })
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
    #[inline(always)]
    pub fn end_turn(&mut self) {
        if self.used > 0 {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.first += self.used as u64;
        self.logs.truncate(LOGS_KEPT);
        let mut bytes_kept = FIRST_LOG_BYTES_KEPT;
        for Log { bytes, messages, blocks, .. } in self.logs.iter_mut().take(self.used) {
            messages.clear();
            bytes.clear();
            blocks.clear();
            if bytes.capacity() > bytes_kept {
                *bytes = Vec::new();
            }
            if messages.capacity() > LOG_BYTES_KEPT / size_of::<Message>() {
                *messages = Vec::new();
            }
            bytes_kept = LOG_BYTES_KEPT;
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topics;

    fn topic() -> TopicId {
        Topics::default().create()
    }

    /// A part of a log, by way of its blocks.
    fn preserved(logs: &Logs, log: u64, part: Range<usize>) -> Vec<u8> {
        logs.blocks(log, part).flat_map(|(block, part)| block[part].to_vec()).collect()
    }

    #[test]
    fn whatever_part_is_preserved_reads_as_it_was_published() {
        let mut logs = Logs::default();
        let log = logs.begin(topic());
        let mut all: Vec<u8> = Vec::new();
        for len in [1, 200, LOG_BLOCK_BYTES_MAX, 3 * LOG_BLOCK_BYTES_MAX + 5, 17] {
            let message: Vec<u8> = (all.len()..all.len() + len).map(|at| (at % 251) as u8).collect();
            logs.add(log, &message);
            all.extend(&message);
            logs.preserve(log);
            logs.preserve(log);
            for from in [0, 1, all.len() / 3, all.len() / 2, all.len() - 1, all.len()] {
                for to in [from, (from + 70_000).min(all.len()), all.len()] {
                    assert_eq!(preserved(&logs, log, from..to), all[from..to], "{from}..{to}");
                }
            }
        }
        // Each byte was copied once, into blocks that fit.
        let blocks: Vec<_> = logs.blocks(log, 0..all.len()).map(|(block, _)| block.memory_bytes()).collect();
        let room = blocks.iter().sum::<usize>() - blocks.len() * crate::shared::BLOCK_BYTES;
        assert!(room < all.len() + 32 * blocks.len(), "{room} bytes for {}", all.len());
    }

    #[test]
    fn a_large_turn_leaves_little_behind() {
        let mut logs = Logs::default();
        for _ in 0..100 {
            let log = logs.begin(topic());
            logs.add(log, &vec![b'x'; 700_000]);
            let conn = logs.chain(log, Own::NONE, 0..1);
            (0..100_000).fold(conn, |own, _| logs.chain(log, own, 0..1));
            logs.preserve(log);
        }
        logs.end_turn();
        let kept: usize = logs
            .logs
            .iter()
            .map(|log| log.bytes.capacity() + log.messages.capacity() * size_of::<Message>())
            .sum();
        assert!(kept < 1 << 20, "{kept} bytes");
    }
}
