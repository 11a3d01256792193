//! What waits to be written: the pieces that a turn brings, and per connection what its peer has not taken yet.
//!
//! ```text
//!   input of this turn    ┊ a's request ┊ b's request ┊ free ...       read here, shown to services in place
//!   arena of this turn    ┊ c's reply ┊ free ...                       what services made
//!   shared messages       [ m ]
//!   logs of topics        [ t: 0..640 ]                                see `log.rs`
//!
//!   pieces, in order:     a: input 0..64 │ b: input 64..128 │ c: arena 0..20 ─┐ │ d: m │ ┌► c: m
//!                                                                             └────────┘
//!   connection e: tail ─► [ owned bytes │ part of t │ owned bytes ]            what its peer has not taken yet
//! ```
//!
//! A reply that is a part of the turn's input (an echo, a relayed line) is sent from where it was read; any other
//! costs one copy into the arena. In the flush phase each connection's pieces go out in one write; what topics bring is no
//! piece as a rule, but written from the topic's log to each of its members. Only what its peer does not take becomes
//! memory of the connection's own, its tail, or is referred to there; from then on everything goes behind the tail.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;

pub use crate::shared::Shared;

use crate::arrears::{Arrears, Follower};
use crate::log::{Logs, Rest};
use crate::memory::block_bytes;
use crate::net::uninterrupted;
use crate::shared::{Held, HeldBytes};
use crate::slots::ConnId;
use crate::timer::Instant;

/// Bytes that one turn may bring, in round figures, before its read phase ends so that they can be flushed.
pub(crate) const TURN_BYTES: usize = 1 << 20;

/// Reads of a turn begin at a multiple of this in memory.
pub(crate) const INPUT_ALIGN: usize = 4096;

/// Pieces that an outbox has memory for from the beginning: one for each event of a turn.
const PIECES_RESERVED: usize = 1024;

/// Pieces that it has memory for at most between turns.
const PIECES_KEPT: usize = 16 << 10;

/// How many pieces one vectored write takes at most.
const WRITE_PIECES_MAX: usize = 64;

/// An owned piece of a tail grows up to this size in bytes; then a new one begins, so that growing never copies much.
const OWNED_BYTES_MAX: usize = 64 << 10;

/// From this size on, in bytes, a tail refers to shared bytes instead of copying them.
///
/// Measured with a hundred tails that each get 16 messages and are written: CPU time for each message and receiver, copied
/// and referred to: 64 bytes 27 and 21 ns, 256 bytes 100 and 19, 512 bytes 260 and 18, 4096 bytes 3000 and 20. A copy of
/// little joins what is there already, so that the system call has fewer pieces, and lets the log keep its memory.
const HELD_BYTES_MIN: usize = 128;

/// What such a reference takes of a connection's own memory, in bytes.
const REFERENCE_BYTES: usize = size_of::<TailPiece>();

/// A list of pieces with room for more than this is cut to size when most of it is free.
const TAIL_PIECES_KEPT: usize = 64;

const NONE: u32 = u32::MAX;

/// Set in [`Piece::start`] where the bytes are in the turn's input.
const IN_INPUT: u32 = 1 << 31;
/// Set in [`Piece::start`] where it is the index of a part of shared bytes.
const IS_SHARED: u32 = 1 << 30;

/// Bytes that one connection sends in this turn.
pub(crate) struct Piece {
    /// Whose; `None` for pieces that follow another one of their connection, and for those taken back.
    id: Option<ConnId>,
    start: u32,
    len: u32,
    /// The connection's next piece.
    next: u32,
}

/// Shared bytes, or a part of a log.
enum Part {
    Message(Shared),
    OfLog(u64, Range<usize>),
}

/// Everything that the connections send in one turn.
pub(crate) struct Outbox {
    pieces: Vec<Piece>,
    /// Whether an output has several pieces.
    has_chains: bool,
    arena: Box<[u8]>,
    arena_len: usize,
    shared: Vec<Part>,
    /// What topics bring in this turn.
    pub logs: Logs,
    /// How many shared bytes are held in tails.
    held: HeldBytes,
    /// Where the turn's input is, as a number: to tell whether bytes to be sent are a part of it.
    input_address: usize,
    input_len: usize,
    /// Where in it a turn begins to read.
    input_start: usize,
    /// How far the turn has filled up. Input below this offset is being sent and must not be overwritten; what else
    /// the turn brings, in the arena or in tails, raises it as well, so that one number tells when to flush.
    level: usize,
    /// The number of this turn, from 1.
    turn: u64,
}

/// What one connection has to send.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The turn in which it has pieces in the outbox.
    turn: u64,
    first: u32,
    last: u32,
    tail: Option<Box<Tail>>,
    /// Bytes of its pieces.
    queued: u32,
}

#[derive(Debug)]
enum TailPiece {
    Owned(Vec<u8>),
    Shared(Held),
}

impl TailPiece {
    fn bytes(&self) -> &[u8] {
        match self {
            TailPiece::Owned(bytes) => bytes,
            TailPiece::Shared(held) => held.bytes(),
        }
    }
}

#[derive(Debug)]
struct Tail {
    pieces: VecDeque<TailPiece>,
    /// How much of the first piece has been written.
    written: usize,
    bytes: usize,
    /// The memory that it takes, except that of shared bytes.
    own_bytes: usize,
    /// The memory of the shared bytes that it refers to.
    shared_bytes: usize,
    /// What comes behind the pieces, where its topic has set it aside.
    follower: Option<Follower>,
    /// When the tail rose above its soft limit; `None` when it is below.
    soft_since: Option<Instant>,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail {
            pieces: VecDeque::new(),
            written: 0,
            bytes: 0,
            own_bytes: block_bytes(size_of::<Tail>()),
            shared_bytes: 0,
            follower: None,
            soft_since: None,
        }
    }
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if let Some(TailPiece::Owned(last)) = self.pieces.back_mut()
            && last.len() + bytes.len() <= OWNED_BYTES_MAX
        {
            self.own_bytes -= block_bytes(last.capacity());
            last.extend_from_slice(bytes);
            self.own_bytes += block_bytes(last.capacity());
        } else {
            let owned = bytes.to_vec();
            self.own_bytes += block_bytes(owned.capacity());
            self.push_piece(TailPiece::Owned(owned));
        }
    }

    fn push_piece(&mut self, piece: TailPiece) {
        self.own_bytes -= self.list_bytes();
        self.pieces.push_back(piece);
        self.own_bytes += self.list_bytes();
    }

    fn list_bytes(&self) -> usize {
        block_bytes(self.pieces.capacity() * size_of::<TailPiece>())
    }

    fn push_shared(&mut self, whole: &Shared, part: Range<usize>, total: &HeldBytes) {
        if part.len() < HELD_BYTES_MIN {
            return self.push(&whole[part]);
        }
        self.push_held(Held::new(whole.clone(), part, total));
    }

    fn push_held(&mut self, held: Held) {
        self.bytes += held.bytes().len();
        // Several parts of the same in a row hold it once.
        if !matches!(self.pieces.back(), Some(TailPiece::Shared(last)) if last.whole().is(held.whole())) {
            self.shared_bytes += held.whole().memory_bytes();
        }
        self.push_piece(TailPiece::Shared(held));
    }

    /// Drops the first `count` bytes, which have been written.
    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.written += count;
        while let Some(first) = self.pieces.front()
            && first.bytes().len() <= self.written
            && let Some(first) = self.pieces.pop_front()
        {
            self.written -= first.bytes().len();
            match (&first, self.pieces.front()) {
                (TailPiece::Owned(bytes), _) => self.own_bytes -= block_bytes(bytes.capacity()),
                (TailPiece::Shared(held), Some(TailPiece::Shared(next))) if next.whole().is(held.whole()) => {
                }
                (TailPiece::Shared(held), _) => self.shared_bytes -= held.whole().memory_bytes(),
            }
        }
        let (len, room) = (self.pieces.len(), self.pieces.capacity());
        if room > TAIL_PIECES_KEPT && len < room / 4 {
            self.own_bytes -= self.list_bytes();
            self.pieces.shrink_to(2 * len);
            self.own_bytes += self.list_bytes();
        }
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            pieces: Vec::with_capacity(PIECES_RESERVED),
            has_chains: false,
            arena: vec![0; TURN_BYTES].into(),
            arena_len: 0,
            shared: Vec::new(),
            logs: Logs::default(),
            held: HeldBytes::default(),
            input_address: 0,
            input_len: 0,
            input_start: 0,
            level: 0,
            turn: 1,
        }
    }

    /// Says where the turn's input is read to. It must stay there, and below [`Outbox::level`] be left as it is until
    /// the end of the turn.
    pub fn set_input(&mut self, input: &[u8]) {
        assert!(input.len() < IS_SHARED as usize, "offsets in the input leave room for the flags");
        self.input_address = input.as_ptr() as usize;
        self.input_len = input.len();
        // The kernel copies faster to the beginning of a page than to where an allocator's header ends.
        self.input_start = self.input_address.next_multiple_of(INPUT_ALIGN) - self.input_address;
        self.level = self.input_start;
    }

    /// Where in the input the next read may begin, unless the outbox is full.
    #[inline]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Whether the read phase should end so that what waits can be flushed.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.level >= TURN_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.logs.is_empty()
    }

    /// How many shared bytes are held in tails, each counted once.
    pub fn held_bytes(&self) -> usize {
        self.held.get()
    }

    /// Takes note that a topic has brought so many bytes.
    pub fn published(&mut self, bytes: usize) {
        self.level += bytes;
    }

    /// Adds bytes of a connection that has nothing waiting, if they are a part of the turn's input that is not held
    /// yet, and if it takes no memory.
    #[inline(always)]
    pub fn begin_with_input(&mut self, id: ConnId, output: &mut Output, bytes: &[u8]) -> bool {
        debug_assert!(output.tail.is_none() && output.turn != self.turn);
        let offset = (bytes.as_ptr() as usize).wrapping_sub(self.input_address);
        if offset < self.level || offset >= self.input_len || self.pieces.len() == self.pieces.capacity() {
            return false;
        }
        self.level = offset + bytes.len();
        self.begin(id, output, offset as u32 | IN_INPUT, bytes.len());
        true
    }

    #[inline(always)]
    fn begin(&mut self, id: ConnId, output: &mut Output, start: u32, len: usize) {
        let index = self.pieces.len() as u32;
        self.pieces.push(Piece { id: Some(id), start, len: len as u32, next: NONE });
        output.turn = self.turn;
        output.first = index;
        output.last = index;
        output.queued = len as u32;
    }

    /// Adds bytes behind everything else that the connection sends.
    pub fn push(&mut self, id: ConnId, output: &mut Output, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(tail) = &mut output.tail {
            self.level += bytes.len();
            return tail.push(bytes);
        }
        let offset = (bytes.as_ptr() as usize).wrapping_sub(self.input_address);
        if offset < self.input_len {
            self.level = self.level.max(offset + bytes.len());
            return self.append(id, output, offset as u32 | IN_INPUT, bytes.len());
        }
        self.level += bytes.len();
        let free = self.arena_len..self.arena_len + bytes.len();
        if let Some(place) = self.arena.get_mut(free) {
            place.copy_from_slice(bytes);
            let start = self.arena_len as u32;
            self.arena_len += bytes.len();
            self.append(id, output, start, bytes.len());
        } else {
            self.append_shared(id, output, &Shared::from(bytes));
        }
    }

    /// Adds bytes that other connections send too, without copying them.
    pub fn push_shared(&mut self, id: ConnId, output: &mut Output, bytes: &Shared) {
        if bytes.is_empty() {
            return;
        }
        self.level += bytes.len();
        if let Some(tail) = &mut output.tail {
            return tail.push_shared(bytes, 0..bytes.len(), &self.held);
        }
        self.append_shared(id, output, bytes);
    }

    fn append_shared(&mut self, id: ConnId, output: &mut Output, bytes: &Shared) {
        // The same message to many connections in a row is one entry.
        if !matches!(self.shared.last(), Some(Part::Message(last)) if last.is(bytes)) {
            self.shared.push(Part::Message(bytes.clone()));
        }
        self.append(id, output, (self.shared.len() - 1) as u32 | IS_SHARED, bytes.len());
    }

    /// Adds a log to the arrears of its topic.
    pub fn append_log(&mut self, log: u64, arrears: &Arrears) {
        self.logs.preserve(log);
        for (block, part) in self.logs.blocks(log, 0..self.logs.bytes(log).len()) {
            arrears.append(Held::new(block.clone(), part, &self.held));
        }
    }

    /// Adds what has come into the arrears since the connection was set aside, and lets go of its place.
    pub fn leave_arrears(&self, output: &mut Output) {
        let Some(tail) = &mut output.tail else { return };
        let Some(mut follower) = tail.follower.take() else { return };
        while let Some(held) = follower.advance() {
            // What is kept for all already is copied only where that takes no more memory than to refer to it.
            if held.bytes().len() <= REFERENCE_BYTES {
                tail.push(held.bytes());
            } else {
                tail.push_held(held);
            }
        }
    }

    /// Adds a part of a log.
    pub fn push_log(&mut self, id: ConnId, output: &mut Output, log: u64, mut rest: Rest) {
        if output.tail.is_some() {
            self.logs.preserve(log);
        }
        while let Some(part) = self.logs.next_part(log, &mut rest) {
            match &mut output.tail {
                Some(tail) => keep_part(tail, &self.logs, log, part, &self.held),
                None => {
                    let len = part.len();
                    self.shared.push(Part::OfLog(log, part));
                    self.append(id, output, (self.shared.len() - 1) as u32 | IS_SHARED, len);
                }
            }
        }
    }

    /// Keeps what a peer has not taken of a whole log.
    pub fn keep_log(&mut self, output: &mut Output, log: u64, written: usize) {
        self.logs.preserve(log);
        let part = written..self.logs.bytes(log).len();
        keep_part(output.tail.get_or_insert_default(), &self.logs, log, part, &self.held);
    }

    fn append(&mut self, id: ConnId, output: &mut Output, start: u32, len: usize) {
        assert!(u32::try_from(len).is_ok(), "one send takes less than 4 GiB");
        if output.turn != self.turn {
            return self.begin(id, output, start, len);
        }
        output.queued += len as u32;
        let last = &mut self.pieces[output.last as usize];
        if last.start & IS_SHARED == 0 && last.start + last.len == start {
            last.len += len as u32;
            return;
        }
        let index = self.pieces.len() as u32;
        self.pieces[output.last as usize].next = index;
        self.has_chains = true;
        self.pieces.push(Piece { id: None, start, len: len as u32, next: NONE });
        output.last = index;
    }

    /// Takes back what a connection would send, and returns how many bytes that was, its tail included.
    pub fn discard(&mut self, output: &mut Output) -> usize {
        let discarded = output.pending(self);
        if output.turn == self.turn {
            self.pieces[output.first as usize].id = None;
        }
        *output = Output::default();
        discarded
    }

    /// The outputs that are one piece: where it is, whose, and its bytes.
    #[inline]
    pub fn whole<'a>(&'a self, input: &'a [u8]) -> impl Iterator<Item = (usize, ConnId, &'a [u8])> {
        self.pieces.iter().enumerate().filter_map(move |(index, piece)| {
            let id = piece.id.filter(|_| piece.next == NONE)?;
            Some((index, id, self.bytes_of(piece, input)))
        })
    }

    /// The first piece, from the one at `from` on, of an output that has several, and whose it is.
    pub fn next_chain(&self, from: usize) -> Option<(usize, ConnId)> {
        if !self.has_chains {
            return None;
        }
        self.pieces[from..].iter().enumerate().find_map(|(offset, piece)| {
            let id = piece.id.filter(|_| piece.next != NONE)?;
            Some((from + offset, id))
        })
    }

    /// Whose the piece is that begins an output.
    pub fn owner(&self, index: usize) -> Option<ConnId> {
        self.pieces[index].id
    }

    #[inline]
    fn bytes_of<'a>(&'a self, piece: &Piece, input: &'a [u8]) -> &'a [u8] {
        let (start, len) = (piece.start as usize, piece.len as usize);
        if piece.start & IN_INPUT != 0 {
            &input[start & !(IN_INPUT as usize)..][..len]
        } else if piece.start & IS_SHARED != 0 {
            match &self.shared[(piece.start & !IS_SHARED) as usize] {
                Part::Message(bytes) => bytes,
                Part::OfLog(log, part) => &self.logs.bytes(*log)[part.clone()],
            }
        } else {
            &self.arena[start..][..len]
        }
    }

    fn chain(&self, index: usize) -> impl Iterator<Item = &Piece> {
        let mut next = index as u32;
        std::iter::from_fn(move || {
            let piece = self.pieces.get(next as usize)?;
            next = piece.next;
            Some(piece)
        })
    }

    /// Writes the pieces of one connection, beginning with the one at `index`, until they are gone, or `write` takes
    /// less than it was offered or would block. Returns how many bytes were taken.
    ///
    /// # Errors
    /// What else `write` said: the connection has failed.
    pub fn write_chain(
        &self,
        index: usize,
        input: &[u8],
        write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut chain = self.chain(index).map(|piece| self.bytes_of(piece, input));
        write_all(|| chain.next(), write)
    }

    /// Moves the pieces of one connection, beginning with the one at `index`, to its tail, without the first
    /// `written` bytes, which its peer took.
    pub fn keep_chain(&mut self, index: usize, output: &mut Output, input: &[u8], mut written: usize) {
        output.turn = 0;
        let mut next = index;
        while let Some(piece) = self.pieces.get(next) {
            next = piece.next as usize;
            let len = piece.len as usize;
            let cut = written.min(len);
            written -= cut;
            if cut == len {
                continue;
            }
            let tail = output.tail.get_or_insert_default();
            if piece.start & (IS_SHARED | IN_INPUT) != IS_SHARED {
                tail.push(&self.bytes_of(piece, input)[cut..]);
                continue;
            }
            match &self.shared[(piece.start & !IS_SHARED) as usize] {
                Part::Message(bytes) => tail.push_shared(bytes, cut..len, &self.held),
                Part::OfLog(log, part) => {
                    self.logs.preserve(*log);
                    keep_part(tail, &self.logs, *log, part.start + cut..part.end, &self.held);
                }
            }
        }
    }

    /// What of a turn is left although it is over, if anything. Where too much memory is held it stays full, so that the next turn
    /// reads nothing.
    pub fn check_turn_ended(&self, exceeds: bool) -> Result<(), String> {
        if !self.is_empty() || !self.shared.is_empty() || self.has_chains || self.arena_len > 0 {
            return Err(format!("{} pieces are left in the outbox", self.pieces.len()));
        }
        let level = if exceeds { TURN_BYTES } else { self.input_start };
        if self.level != level {
            return Err(format!("the outbox is at level {} instead of {level}", self.level));
        }
        Ok(())
    }

    /// The turn is over: everything has been written or moved to a tail.
    #[inline(always)]
    pub fn end_turn(&mut self) {
        self.pieces.clear();
        self.has_chains = false;
        self.shared.clear();
        self.logs.end_turn();
        self.arena_len = 0;
        self.level = self.input_start;
        self.turn += 1;
    }

    /// No more is to be read in this turn.
    pub fn fill(&mut self) {
        self.level = self.level.max(TURN_BYTES);
    }

    /// Gives back what an unusually large turn has made lists grow to. For the time between two turns.
    pub fn shrink(&mut self) {
        if self.pieces.capacity() > PIECES_KEPT {
            self.pieces = Vec::with_capacity(PIECES_RESERVED);
        }
        if self.shared.capacity() > PIECES_KEPT {
            self.shared = Vec::new();
        }
    }
}

/// Refers to a part of a log which was preserved.
fn keep_part(tail: &mut Tail, logs: &Logs, log: u64, part: Range<usize>, total: &HeldBytes) {
    for (block, part) in logs.blocks(log, part) {
        tail.push_shared(block, part, total);
    }
}

impl Output {
    /// Bytes not yet handed to the system.
    pub fn pending(&self, outbox: &Outbox) -> usize {
        let queued = if self.turn == outbox.turn { self.queued as usize } else { 0 };
        queued + self.tail_bytes()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self, outbox: &Outbox) -> bool {
        self.tail.is_none() && !self.is_queued(outbox)
    }

    /// Whether there are pieces of this turn.
    #[inline]
    pub fn is_queued(&self, outbox: &Outbox) -> bool {
        self.turn == outbox.turn
    }

    /// Bytes that the peer was offered and did not take.
    pub fn tail_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.bytes + tail.follower.as_ref().map_or(0, Follower::bytes))
    }

    /// From now on what this arrears gets comes behind the tail.
    pub fn follow(&mut self, arrears: &Rc<Arrears>) {
        if let Some(tail) = &mut self.tail {
            tail.follower = Some(Follower::new(arrears));
        }
    }

    /// Its place in the arrears, where its topic has set it aside.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        self.tail.as_mut()?.follower.as_mut()
    }

    /// The memory that the tail takes, except that of shared bytes.
    pub fn own_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.own_bytes)
    }

    /// The memory of the shared bytes that the tail refers to, without what is in the arrears of its topic.
    pub fn shared_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, |tail| tail.shared_bytes)
    }

    /// [`Output::own_bytes`] and [`Output::shared_bytes`] anew, and a look at each of the shared bytes.
    #[cfg(debug_assertions)]
    pub fn recount(&self, mut visit: impl FnMut(&Shared)) -> (usize, usize) {
        let Some(tail) = &self.tail else { return (0, 0) };
        let (mut own, mut shared) = (block_bytes(size_of::<Tail>()) + tail.list_bytes(), 0);
        let mut before: Option<&Shared> = None;
        for piece in &tail.pieces {
            match piece {
                TailPiece::Owned(bytes) => {
                    own += block_bytes(bytes.capacity());
                    before = None;
                }
                TailPiece::Shared(held) => {
                    if !before.is_some_and(|before| before.is(held.whole())) {
                        shared += held.whole().memory_bytes();
                    }
                    before = Some(held.whole());
                    visit(held.whole());
                }
            }
        }
        (own, shared)
    }

    /// What is wrong with the counts of the tail's bytes, if anything.
    pub fn check(&self) -> Result<(), String> {
        let Some(tail) = &self.tail else { return Ok(()) };
        let bytes: usize = tail.pieces.iter().map(|piece| piece.bytes().len()).sum();
        let first = tail.pieces.front().map_or(0, |first| first.bytes().len());
        if tail.bytes == 0 || tail.written >= first || tail.bytes + tail.written != bytes {
            return Err(format!("{} bytes wait, {} were written, of {bytes}", tail.bytes, tail.written));
        }
        Ok(())
    }

    /// The place in its topic's arrears, and at which length of that one of its limits is passed.
    pub fn alarm(&self) -> Option<u64> {
        Some(self.tail.as_ref()?.follower.as_ref()?.alarm)
    }

    /// Adds bytes to the tail: what was written at once and not taken, or what waits for a connection.
    pub fn push_unsent(&mut self, bytes: &[u8]) {
        self.tail.get_or_insert_default().push(bytes);
    }

    /// Since when the tail has been above its soft limit; `NEVER` when it is below.
    pub fn soft_since(&self) -> Instant {
        self.tail.as_ref().and_then(|tail| tail.soft_since).unwrap_or(Instant::NEVER)
    }

    /// Takes note of whether the tail is above its soft limit at the end of a turn.
    pub fn note(&mut self, now: Instant, over_soft_limit: bool) {
        if let Some(tail) = &mut self.tail {
            tail.soft_since = if over_soft_limit { tail.soft_since.or(Some(now)) } else { None };
        }
    }

    /// Writes the tail until it is gone, or `write` takes less than it was offered or would block. Returns how many
    /// bytes were taken.
    ///
    /// # Errors
    /// What else `write` said: the connection has failed.
    pub fn write_tail(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Some(tail) = &mut self.tail else { return Ok(0) };
        let mut pieces = tail.pieces.iter().map(TailPiece::bytes);
        let mut first = pieces.next().map(|first| &first[tail.written..]);
        let taken = write_all(|| first.take().or_else(|| pieces.next()), &mut write)?;
        tail.advance(taken);
        if tail.bytes == 0 {
            self.tail = None;
        }
        Ok(taken)
    }
}

/// Writes what `next` gives, in groups, until there is no more, or less is taken than was offered.
fn write_all<'a>(
    mut next: impl FnMut() -> Option<&'a [u8]>,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut taken = 0;
    loop {
        let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
        let (mut count, mut offered) = (0, 0);
        while count < WRITE_PIECES_MAX
            && let Some(bytes) = next()
        {
            slices[count] = IoSlice::new(bytes);
            count += 1;
            offered += bytes.len();
        }
        if count == 0 {
            return Ok(taken);
        }
        match uninterrupted(|| write(&slices[..count])) {
            Ok(written) => {
                taken += written;
                if written < offered {
                    return Ok(taken);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u64) -> ConnId {
        ConnId::from_token(1 << 32 | slot).unwrap()
    }

    /// Flushes one connection to a peer that takes at most `room` bytes in all, and returns what it got.
    fn flush(outbox: &mut Outbox, output: &mut Output, who: ConnId, input: &[u8], room: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        let mut write = |slices: &[IoSlice<'_>]| {
            let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = offered.len().min(room - seen.len());
            seen.extend_from_slice(&offered[..count]);
            Ok(count)
        };
        for index in 0..outbox.pieces.len() {
            if outbox.owner(index) == Some(who) {
                let written = outbox.write_chain(index, input, &mut write).unwrap();
                outbox.keep_chain(index, output, input, written);
            }
        }
        output.write_tail(write).unwrap();
        seen
    }

    #[test]
    fn a_part_of_the_input_is_sent_from_where_it_is() {
        let mut input = vec![0; 2 * INPUT_ALIGN];
        let mut outbox = Outbox::new();
        outbox.set_input(&input);
        let start = outbox.level();
        assert!((input.as_ptr() as usize + start).is_multiple_of(INPUT_ALIGN));
        input[start..start + 13].copy_from_slice(b"one two three");
        let mut output = Output::default();
        assert!(outbox.begin_with_input(id(1), &mut output, &input[start + 4..start + 7]));
        assert_eq!(outbox.whole(&input).collect::<Vec<_>>(), [(0, id(1), &b"two"[..])]);
        assert_eq!(outbox.next_chain(0), None);
        assert_eq!((outbox.level(), outbox.arena_len), (start + 7, 0));
        assert!(!outbox.begin_with_input(id(2), &mut Output::default(), b"elsewhere"));
    }

    #[test]
    fn order_is_kept_when_connections_and_kinds_interleave() {
        let input = b"<input>".to_vec();
        let mut outbox = Outbox::new();
        outbox.set_input(&input);
        let (mut a, mut b) = (Output::default(), Output::default());
        let shared = Shared::from(&b"(shared)"[..]);
        for round in 0..2 {
            outbox.push(id(1), &mut a, format!("a{round}").as_bytes());
            outbox.push_shared(id(1), &mut a, &shared);
            outbox.push_shared(id(2), &mut b, &shared);
            outbox.push(id(2), &mut b, &input);
            outbox.push(id(1), &mut a, b"!");
            outbox.push(id(1), &mut a, b"?");
        }
        assert_eq!(a.pending(&outbox), 2 * (2 + 8 + 2));
        assert_eq!(flush(&mut outbox, &mut a, id(1), &input, usize::MAX), b"a0(shared)!?a1(shared)!?");
        assert_eq!(flush(&mut outbox, &mut b, id(2), &input, usize::MAX), b"(shared)<input>(shared)<input>");
        outbox.end_turn();
        assert!(a.is_empty(&outbox) && b.is_empty(&outbox));
    }

    #[test]
    fn nothing_is_lost_or_repeated_at_any_cut() {
        let input: Vec<u8> = (0..50).collect();
        let shared = Shared::from(&[50; 10][..]);
        let mut all = input.clone();
        all.extend_from_slice(&shared);
        all.extend(60..90);
        for cut in 0..all.len() + 10 {
            let mut outbox = Outbox::new();
            outbox.set_input(&input);
            let mut output = Output::default();
            outbox.push(id(1), &mut output, &input);
            outbox.push_shared(id(1), &mut output, &shared);
            outbox.push(id(1), &mut output, &all[60..]);
            let mut seen = flush(&mut outbox, &mut output, id(1), &input, cut);
            outbox.end_turn();
            assert_eq!(output.pending(&outbox), all.len().saturating_sub(cut));
            outbox.push(id(1), &mut output, b"more");
            seen.extend(flush(&mut outbox, &mut output, id(1), &input, usize::MAX));
            let expected: Vec<u8> = all.iter().copied().chain(*b"more").collect();
            assert_eq!(seen, expected, "cut at {cut}");
            outbox.end_turn();
            assert_eq!(output.pending(&outbox), 0);
        }
    }

    #[test]
    fn what_is_shared_costs_a_tail_its_reference_and_no_more() {
        assert_eq!(REFERENCE_BYTES, 32, "the README says so");
        let mut outbox = Outbox::new();
        let mut outputs: Vec<_> = (0..100).map(|_| Output::default()).collect();
        let (small, large) = (Shared::from(&[1; HELD_BYTES_MIN - 1][..]), Shared::from(&[2; 16 << 10][..]));
        for output in &mut outputs {
            outbox.push_shared(id(1), output, &large);
            outbox.push_shared(id(1), output, &small);
            assert_eq!(flush(&mut outbox, output, id(1), &[], 1), [2]);
            outbox.end_turn();
            assert_eq!(output.tail_bytes(), large.len() - 1 + small.len());
            let list = output.tail.as_ref().unwrap().list_bytes();
            assert_eq!(
                output.own_bytes(),
                block_bytes(size_of::<Tail>()) + list + block_bytes(small.len()),
                "its own memory, by capacity"
            );
            assert_eq!(output.shared_bytes(), large.memory_bytes());
            assert_eq!(output.recount(|_| ()), (output.own_bytes(), output.shared_bytes()));
        }
        assert_eq!(outbox.held_bytes(), large.memory_bytes());
        for output in &mut outputs {
            output.write_tail(|slices| Ok(slices.iter().map(|slice| slice.len()).sum())).unwrap();
        }
        assert_eq!(outbox.held_bytes(), 0);
    }

    #[test]
    fn a_full_arena_does_not_lose_order() {
        let mut outbox = Outbox::new();
        let mut output = Output::default();
        let block = vec![7; 300 << 10];
        for _ in 0..4 {
            outbox.push(id(1), &mut output, &block);
        }
        outbox.push(id(1), &mut output, b"end");
        assert!(outbox.is_full());
        let seen = flush(&mut outbox, &mut output, id(1), &[], usize::MAX);
        assert_eq!((seen.len(), &seen[seen.len() - 3..]), (4 * block.len() + 3, &b"end"[..]));
    }

    #[test]
    fn what_is_discarded_is_not_sent() {
        let mut outbox = Outbox::new();
        let (mut a, mut b) = (Output::default(), Output::default());
        outbox.push(id(1), &mut a, b"unwanted");
        outbox.push(id(2), &mut b, b"wanted");
        assert_eq!(outbox.discard(&mut a), 8);
        assert_eq!(flush(&mut outbox, &mut a, id(1), &[], usize::MAX), b"");
        assert_eq!(flush(&mut outbox, &mut b, id(2), &[], usize::MAX), b"wanted");
    }
}
