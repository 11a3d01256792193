//! The loop over the members of a chat: what one writes, the others of its room read.
//!
//! ```text
//!     plan ─► due lines ─► write ─► wait ─► read all ready ─► lines ─► room ─► record
//!                 ▲                                                     │ closed loop: all receivers have it
//!                 └─────────────────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::event::Event;
use mio::{Interest, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::address::Address;
use crate::interval::{Intervals, Lane};
use crate::load::{Amount, Shape, is_drained};
use crate::plan::{Agenda, Plan, Window};
use crate::readiness::Readiness;
use crate::record::Record;
use crate::report::{counted, of_many};
use crate::run::Driver;
use crate::shortage;
use crate::stream::Stream;

use super::Seating;
use super::dialect::{Dialect, HELLO, Heard, PONG};
use super::room::{Ledger, Room};
use super::speech::{
    Quoted, Speech, is_announcement, is_entry, is_flood_control, is_welcome, without_prompts,
};

/// One read has room for this much at least: many lines of any common size.
const READ_BYTES_MIN: usize = 64 * 1024;

/// Lines that are taken from the plan before they are written: whoever is behind must not write all of it at once.
const DUE_MAX: usize = 4096;

/// What a line may have beside its payload: names and numbers, or all that the server says in one.
const LINE_BYTES_BESIDE: usize = 16 * 1024;

/// After the last line of a window, and after each one that still comes, duplicates are waited for this long; so are
/// announcements after the last member has come.
const COOL_DOWN: Duration = Duration::from_millis(200);

/// The same where stretches follow on each other: what comes later is found in the next one.
const SHORT_COOL_DOWN: Duration = Duration::from_millis(2);

/// Between two greetings where the server does not tell who is there: no event does.
const HELLO_INTERVAL: Duration = Duration::from_millis(10);

/// The rooms of one thread.
pub struct ChatLoad {
    /// After a stretch, how long it must be quiet until all that may still come has come.
    cool_down: Duration,
    /// Its connections are rooms.
    shape: Shape,
    random: SmallRng,
    readiness: Readiness,
    dialect: Dialect,
    speech: Speech,
    members: Vec<Member>,
    /// The number of the first of them.
    first: usize,
    rooms: Vec<Room>,
    ledger: Ledger,
    /// Senders (room and place in it) who can speak, in the order of their turns.
    senders: Vec<(usize, usize)>,
    /// Members that are in no room yet.
    outside: usize,
    /// Why somebody could not get into a room.
    refusal: Option<String>,
    /// Room for what is left of one read and for the next one.
    buffer: Box<[u8]>,
    /// The line that is being said.
    line: Vec<u8>,
    /// A member has about so many bytes of its lines at once.
    out_bytes_max: usize,
    /// So many lines are kept that have neither come to everybody nor been given up.
    lines_max: usize,
    /// To whom a line comes, in a room of the usual size.
    listeners: usize,
    /// Members with lines that have not been written yet.
    dirty: Vec<usize>,
    /// The end of an open loop's window.
    end_ns: u64,
    /// When a byte last came, whichever.
    heard_ns: u64,
    /// Where the records of intervals go.
    intervals: Intervals,
}

struct Member {
    stream: Stream,
    room: usize,
    room_name: Arc<str>,
    place: usize,
    is_open: bool,
    stage: Stage,
    /// The beginning of what has not come to its end.
    partial: Vec<u8>,
    /// So many of its lines the server has not answered, if it does.
    receipts_due: u64,
    /// What the server last said.
    notice: Vec<u8>,
    /// What the socket has not taken.
    out: Vec<u8>,
    out_at: usize,
    /// Lines whose text has not been made; they come after that.
    waiting: VecDeque<Unsaid>,
    /// So many lines, the newest, have not been offered to the socket.
    fresh: usize,
    /// The socket was full; it tells when it is not.
    is_blocked: bool,
    /// Set by the first write that the socket refused. Until then writability would only wake the loop for nothing.
    watches_writability: bool,
}

/// A line of which no text was made.
struct Unsaid {
    sequence: u64,
    size: usize,
    planned_ns: Option<u64>,
    counts: bool,
}

/// How far a member has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has asked to be let in.
    Outside,
    /// Its name was accepted, and it has asked for its room.
    Welcome,
    InRoom,
}

impl ChatLoad {
    /// Brings every member into its room, or tells which one did not get there. The connections of the shape are rooms:
    /// these, of all that the seating has.
    pub fn connect(address: &Address, shape: Shape, seating: Seating) -> Result<ChatLoad> {
        let mut load = ChatLoad {
            cool_down: COOL_DOWN,
            random: SmallRng::seed_from_u64(shape.seed),
            readiness: Readiness::new()?,
            dialect: seating.dialect,
            speech: Speech::new(),
            members: Vec::new(),
            first: seating.first(shape.first),
            rooms: Vec::new(),
            ledger: Ledger::new(shape.timeout),
            senders: Vec::new(),
            outside: 0,
            refusal: None,
            buffer: vec![0; READ_BYTES_MIN + thing_bytes_max(&shape)].into(),
            line: Vec::new(),
            dirty: Vec::new(),
            end_ns: u64::MAX,
            heard_ns: 0,
            intervals: Intervals::default(),
            out_bytes_max: shape.budget.bytes_each(seating.senders * shape.connections),
            lines_max: lines_max(seating.members / seating.rooms) * shape.connections / seating.rooms,
            listeners: seating.listeners(),
            shape,
        };
        for index in 0..load.shape.connections {
            let number = load.shape.first + index;
            let first = seating.first(number);
            let members = seating.first(number + 1) - first;
            let senders_listen = seating.dialect.senders_listen();
            load.rooms.push(Room::new(index, first, members, seating.senders, senders_listen));
            let name = Arc::from(load.speech.room(number));
            for place in 0..members {
                load.enter(address, index, &name, place, seating)?;
            }
        }
        // Each room in its turn, whose senders take turns.
        load.senders = (0..seating.senders)
            .flat_map(|place| (0..load.rooms.len()).map(move |room| (room, place)))
            .collect();
        load.settle_in()?;
        Ok(load)
    }

    /// Connects a member and asks to let it into its room.
    fn enter(
        &mut self,
        address: &Address,
        room: usize,
        room_name: &Arc<str>,
        place: usize,
        seating: Seating,
    ) -> Result<()> {
        let index = self.members.len();
        let number = self.first + index;
        let source = self.shape.sources.of(number);
        let mut stream = Stream::connect(&address.peer, source, self.shape.timeout)
            .map_err(shortage::explained)
            .with_context(|| format!("connecting {} of {} to {address}", number + 1, seating.members))?;
        self.readiness.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        let mut out = Vec::new();
        self.dialect.enter(&self.speech.nick(number), room_name, place < seating.senders, &mut out);
        self.members.push(Member {
            stream,
            room,
            room_name: room_name.clone(),
            place,
            is_open: true,
            stage: Stage::Outside,
            partial: Vec::new(),
            receipts_due: 0,
            notice: Vec::new(),
            out,
            out_at: 0,
            waiting: VecDeque::new(),
            fresh: 0,
            is_blocked: false,
            watches_writability: false,
        });
        self.outside += 1;
        self.write_out(index)?;
        // Those who are there already are told, and must read it.
        self.turn_outside(Duration::ZERO)
    }

    /// Waits until everybody is in a room, and for the last announcements of that.
    fn settle_in(&mut self) -> Result<()> {
        let give_up = Instant::now() + self.shape.timeout;
        while self.outside > 0 {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero()
                && let Some(index) = self.members.iter().position(|member| member.stage != Stage::InRoom)
            {
                let said = match &self.members[index].notice {
                    notice if notice.is_empty() => "the server sent nothing".to_owned(),
                    notice => format!("the server last sent {}", Quoted(notice)),
                };
                let nick = self.nick(index);
                bail!("{nick} is in no room after {:?}: {said}", self.shape.timeout);
            }
            if self.dialect.needs_hello() {
                self.say_hello()?;
                self.turn_outside(left.min(HELLO_INTERVAL))?;
            } else {
                self.turn_outside(left)?;
            }
        }
        self.cool_down()?;
        self.ledger.take_record();
        Ok(())
    }

    /// The first member lets the others know that they are there, and is so itself if one of them has heard it.
    fn say_hello(&mut self) -> Result<()> {
        if self.members.iter().skip(1).any(|member| member.stage == Stage::InRoom) {
            self.let_in(0);
        }
        // What it could not write before will do.
        if !self.members[0].is_blocked {
            self.members[0].out.extend_from_slice(HELLO);
            self.write_out(0)?;
        }
        Ok(())
    }

    fn let_in(&mut self, index: usize) {
        if std::mem::replace(&mut self.members[index].stage, Stage::InRoom) != Stage::InRoom {
            self.outside -= 1;
        }
    }

    fn turn_outside(&mut self, longest: Duration) -> Result<()> {
        self.readiness.wait(Some(longest))?;
        self.read();
        match self.refusal.take() {
            Some(refusal) => bail!("{refusal}"),
            None => Ok(()),
        }
    }

    fn nick(&self, index: usize) -> String {
        self.speech.nick(self.first + index)
    }

    /// Looking at every sender's oldest line costs time: rarely enough not to count, often enough that a lost delivery is
    /// told within an eighth of the timeout.
    fn look_interval_ns(&self) -> u64 {
        self.shape.timeout.as_nanos() as u64 / 8
    }

    fn look(&mut self, now_ns: u64) {
        // Lines that are given up before their text was made are never said.
        let timeout_ns = self.shape.timeout.as_nanos() as u64;
        for member in &mut self.members {
            let is_overdue = |line: &Unsaid| {
                line.planned_ns.is_some_and(|planned_ns| planned_ns.saturating_add(timeout_ns) <= now_ns)
            };
            while member.waiting.front().is_some_and(is_overdue)
                && let Some(line) = member.waiting.pop_front()
            {
                self.ledger.record.unsent += u64::from(line.counts);
            }
        }
        for room in &mut self.rooms {
            room.lose_overdue(now_ns, &self.speech, &mut self.ledger);
        }
    }

    fn begin_window(&mut self) {
        self.ledger.is_counting = true;
        self.rooms.iter_mut().for_each(Room::begin_window);
    }

    /// Takes the lines that are due now, from each sender in its turn.
    fn say_due(&mut self, agenda: &mut Agenda<'_>, turn: &mut usize, now_ns: u64) {
        // What was due so long ago that it is overdue is given up as it is, however much that is.
        let skipped = agenda.skip(now_ns.saturating_sub(self.shape.timeout.as_nanos() as u64));
        self.give_up_unsaid(skipped, 0);
        for _ in 0..DUE_MAX {
            if agenda.next_ns() > now_ns || self.senders.is_empty() {
                return;
            }
            let (planned_ns, counts) = agenda.take();
            if counts && !self.ledger.is_counting {
                self.begin_window();
            }
            let (room, place) = self.senders[*turn % self.senders.len()];
            *turn += 1;
            if self.ledger.lines >= self.lines_max {
                self.give_up_unsaid(u64::from(counts), u64::from(counts));
                let most = self.lines_max;
                let words = || format!("{most} lines are not delivered to all receivers, which is the limit");
                self.ledger.record.note_error(words);
            } else {
                self.enqueue(room, place, Some(planned_ns));
            }
        }
    }

    /// So many lines are never said, of which so many because the server did not take others before: nobody gets them.
    fn give_up_unsaid(&mut self, lines: u64, unsent: u64) {
        self.ledger.record.requests += lines;
        self.ledger.record.unsent += unsent;
        self.ledger.record.lose(lines * self.listeners as u64, true);
    }

    fn enqueue(&mut self, room: usize, place: usize, planned_ns: Option<u64>) {
        let size = self.shape.sizes.draw(&mut self.random);
        let sequence = self.rooms[room].say(place, size, planned_ns, &mut self.ledger);
        let index = self.rooms[room].first() + place - self.first;
        let member = &mut self.members[index];
        member.waiting.push_back(Unsaid { sequence, size, planned_ns, counts: self.ledger.is_counting });
        if member.fresh == 0 {
            self.dirty.push(index);
        }
        member.fresh += 1;
    }

    /// Makes the text of lines whose turn it is: as much as is worth a write.
    fn make(&mut self, index: usize) {
        let number = self.first + index;
        let member = &mut self.members[index];
        while member.out.len() < self.out_bytes_max
            && let Some(Unsaid { sequence, size, .. }) = member.waiting.pop_front()
        {
            self.line.clear();
            if self.dialect.adds_names() {
                self.speech.say(number, sequence, size, &mut self.line);
            } else {
                self.speech.tell(number, sequence, size, &mut self.line);
            }
            self.dialect.say(&self.line, &member.room_name, &mut member.out);
            member.receipts_due += u64::from(self.dialect.has_receipts());
        }
    }

    /// Writes for each member with lines that have not been offered to its socket.
    fn write(&mut self) -> Result<()> {
        // Taken out and put back with its memory.
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let now_ns = self.readiness.now_ns();
            let member = &mut self.members[index];
            let fresh = std::mem::take(&mut member.fresh);
            self.rooms[member.room].offer(member.place, fresh, now_ns, self.end_ns, &mut self.ledger);
            if member.is_blocked {
                self.ledger.record.blocked_writes += 1;
            } else {
                self.write_out(index)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn write_out(&mut self, index: usize) -> Result<()> {
        loop {
            let member = &mut self.members[index];
            while member.out_at < member.out.len() {
                match member.stream.write(&member.out[member.out_at..]) {
                    Ok(written) => member.out_at += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        member.is_blocked = true;
                        self.ledger.record.blocked_writes += 1;
                        if !std::mem::replace(&mut member.watches_writability, true) {
                            let both = Interest::READABLE | Interest::WRITABLE;
                            self.readiness.registry().reregister(&mut member.stream, Token(index), both)?;
                        }
                        // What the socket has taken is not kept for ever.
                        member.out.drain(..member.out_at);
                        member.out_at = 0;
                        return Ok(());
                    }
                    Err(_) => {
                        self.end(index);
                        return Ok(());
                    }
                }
            }
            member.out.clear();
            member.out_at = 0;
            if member.waiting.is_empty() {
                return Ok(());
            }
            self.make(index);
        }
    }

    fn read(&mut self) {
        let found = self.readiness.take();
        for (index, event) in found.iter() {
            if !self.members[index].is_open {
                continue;
            }
            if event.is_writable() && std::mem::take(&mut self.members[index].is_blocked) {
                // An error here ends the connection, which is recorded.
                let _ = self.write_out(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read_from(index, event);
            }
        }
        self.readiness.put_back(found);
    }

    fn read_from(&mut self, index: usize, event: &Event) {
        // Taken out and put back.
        let mut buffer = std::mem::take(&mut self.buffer);
        while self.members[index].is_open {
            let member = &mut self.members[index];
            // What follows is read behind it.
            let left = member.partial.len();
            buffer[..left].copy_from_slice(&member.partial);
            let read = match member.stream.read(&mut buffer[left..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => {
                    self.end(index);
                    break;
                }
                Ok(read) => read,
            };
            self.take(index, &buffer[..left + read]);
            if is_drained(event, &self.members[index].stream, left + read < buffer.len()) {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// Takes what has come to its end, and keeps the rest for later.
    fn take(&mut self, index: usize, mut bytes: &[u8]) {
        let now_ns = self.readiness.now_ns();
        self.intervals.cut(&mut self.ledger.record, now_ns);
        self.heard_ns = now_ns;
        let room_name = self.members[index].room_name.clone();
        while self.members[index].is_open
            && let Some((heard, len)) = self.dialect.hear(bytes, &room_name)
        {
            self.hear(index, heard, now_ns);
            bytes = &bytes[len..];
        }
        let partial = &mut self.members[index].partial;
        partial.clear();
        partial.extend_from_slice(bytes);
        if bytes.len() > thing_bytes_max(&self.shape) {
            let words =
                format!("{}: {} without a line ending", self.nick(index), counted(bytes.len(), "byte"));
            self.give_up(index, words);
        }
    }

    fn hear(&mut self, index: usize, heard: Heard<'_>, now_ns: u64) {
        let member = &mut self.members[index];
        let (room, place) = (member.room, member.place);
        match heard {
            Heard::Said(line) if member.stage == Stage::InRoom => {
                self.rooms[room].hear(place, line, &self.speech, now_ns, &mut self.ledger);
            }
            Heard::Spoken(line) => self.hear_spoken(index, line, now_ns),
            Heard::Entered => self.let_in(index),
            Heard::Receipt(count) => {
                let is_due = member.receipts_due > 0;
                member.receipts_due -= u64::from(is_due);
                self.rooms[room].hear_receipt(place, count, is_due, &self.speech, &mut self.ledger);
            }
            Heard::Ping => {
                member.out.extend_from_slice(PONG);
                if !member.is_blocked {
                    // An error here ends the connection, which is recorded.
                    let _ = self.write_out(index);
                }
            }
            Heard::Remark => {}
            Heard::Elsewhere(line) if member.stage == Stage::InRoom => {
                self.rooms[room].hear_elsewhere(place, line, &self.speech, &mut self.ledger);
            }
            Heard::Said(words) | Heard::Elsewhere(words) | Heard::Complaint(words) => {
                member.notice.clear();
                member.notice.extend_from_slice(words);
                let words = format!("{}: the server says {}", self.nick(index), Quoted(words));
                self.ledger.record.errors += 1;
                self.ledger.counts().unexpected += 1;
                self.fail(index, words);
            }
            Heard::Nonsense => {
                let words = format!("{}: the server's output is not in this dialect", self.nick(index));
                self.give_up(index, words);
            }
        }
    }

    /// What the server says in lines is its own, or somebody's.
    fn hear_spoken(&mut self, index: usize, line: &[u8], now_ns: u64) {
        let member = &mut self.members[index];
        if is_announcement(line) || member.stage != Stage::InRoom {
            member.notice.clear();
            member.notice.extend_from_slice(line);
        }
        let number = self.first + index;
        match member.stage {
            Stage::Outside if is_welcome(without_prompts(line), &self.speech.nick(number)) => {
                member.stage = Stage::Welcome;
            }
            Stage::Outside => {
                let refusal = format!("{} is refused: the server sent {}", self.nick(index), Quoted(line));
                self.refusal.get_or_insert(refusal);
            }
            Stage::Welcome if is_entry(line, &member.room_name) => self.let_in(index),
            Stage::Welcome => {}
            Stage::InRoom if is_flood_control(line) => {
                self.ledger.counts().slow_downs += 1;
                let words = format!("{}: {}", self.nick(index), flood_words(line));
                self.ledger.record.note_error(|| words);
            }
            Stage::InRoom if is_announcement(line) => self.ledger.counts().announcements += 1,
            Stage::InRoom => {
                let (room, place) = (member.room, member.place);
                self.rooms[room].hear(place, line, &self.speech, now_ns, &mut self.ledger);
            }
        }
    }

    /// What comes on a connection cannot be understood: what follows cannot either.
    fn give_up(&mut self, index: usize, words: String) {
        self.ledger.record.errors += 1;
        self.ledger.counts().unexpected += 1;
        self.fail(index, words);
        self.close(index);
    }

    /// The peer has ended a connection.
    fn end(&mut self, index: usize) {
        let notice = &self.members[index].notice;
        let said = match notice {
            notice if notice.is_empty() => String::new(),
            notice if is_flood_control(notice) => format!("; {}", flood_words(notice)),
            notice => format!("; it last sent {}", Quoted(notice)),
        };
        let words = format!("{}: the server has closed the connection{said}", self.nick(index));
        self.ledger.record.peer_closed += 1;
        self.fail(index, words);
        self.close(index);
    }

    /// Something is wrong with a connection: before everybody is there that is the end.
    fn fail(&mut self, index: usize, words: String) {
        if self.members[index].stage == Stage::InRoom {
            self.ledger.record.note_error(|| words);
        } else {
            self.refusal.get_or_insert(words);
        }
    }

    /// Uses a connection no more.
    fn close(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.is_open = false;
        member.waiting.clear();
        // It cannot be watched any more, whatever the answer.
        let _ = self.readiness.registry().deregister(&mut member.stream);
        member.fresh = 0;
        self.dirty.retain(|&dirty| dirty != index);
        self.rooms[member.room].leave(member.place, &mut self.ledger);
        self.senders.retain(|&(room, place)| self.rooms[room].can_speak(place));
    }

    /// Reads until nothing has come for a while, nor is waited for.
    fn cool_down(&mut self) -> Result<()> {
        let began_ns = self.readiness.now_ns();
        let longest_ns = began_ns + self.shape.timeout.max(self.cool_down).as_nanos() as u64;
        loop {
            let quiet_ns = self.heard_ns.max(began_ns) + self.cool_down.as_nanos() as u64;
            let lacks_receipt = self.members.iter().any(|member| member.is_open && member.receipts_due > 0);
            let until_ns = if lacks_receipt { longest_ns } else { quiet_ns.min(longest_ns) };
            if self.readiness.now_ns() >= until_ns {
                self.miss_receipts();
                return Ok(());
            }
            self.readiness.wait_until(until_ns)?;
            self.read();
        }
    }

    /// The lines that the server has not answered, although everything has come that was to come.
    fn miss_receipts(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.is_open) {
            let missing = std::mem::take(&mut member.receipts_due);
            if missing > 0 {
                let nick = self.speech.nick(self.rooms[member.room].first() + member.place);
                self.ledger.record.lost += missing;
                let lines = of_many(missing, "line");
                self.ledger.record.note_error(|| format!("{nick}: {lines} had no answer"));
            }
        }
    }
}

/// What lines of all rooms may take that have not come to everybody.
const LINES_BYTES_MAX: usize = 128 << 20;

/// So many lines of rooms of so many members that is.
pub fn lines_max(members: usize) -> usize {
    // Each keeps a bit for every member, and has about so much beside.
    LINES_BYTES_MAX / (members / 8 + 128)
}

/// The longest thing that a server may say: a line, and what stands beside it.
fn thing_bytes_max(shape: &Shape) -> usize {
    shape.sizes.bounds().1 + LINE_BYTES_BESIDE
}

/// What the server's flood control has said, and what to do about it.
fn flood_words(line: &[u8]) -> String {
    format!("the server says {}: turn its flood control off (tidewheel serve --chat-rate 0)", Quoted(line))
}

impl Driver for ChatLoad {
    fn hasten(&mut self) {
        self.cool_down = SHORT_COOL_DOWN;
    }

    /// Each sender keeps `depth` lines in flight, until the amount is sent, and every delivery is waited for. The time
    /// that it took ends with the last one, not with the wait for one that never came.
    fn drive(&mut self, amount: Amount, depth: usize, stop: &dyn Fn() -> bool) -> Result<Duration> {
        let began_ns = self.readiness.now_ns();
        let (end_ns, mut left) = match amount {
            Amount::Requests(requests) => (u64::MAX, requests),
            Amount::Time(time) => (began_ns + time.as_nanos() as u64, u64::MAX),
        };
        self.begin_window();
        self.intervals.begin(began_ns);
        self.ledger.roomy.clone_from(&self.senders);
        let mut look_ns = began_ns + self.look_interval_ns();
        let mut is_first = true;
        loop {
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.ledger.record, now_ns);
            // However short the time, something is asked in it.
            let is_over = now_ns >= end_ns && !is_first;
            if is_over || stop() {
                left = 0;
            }
            is_first = false;
            if now_ns >= look_ns {
                self.look(now_ns);
                look_ns = now_ns + self.look_interval_ns();
            }
            // Taken out and put back with its memory.
            let mut roomy = std::mem::take(&mut self.ledger.roomy);
            for (room, place) in roomy.drain(..) {
                let in_flight = self.rooms[room].in_flight(place);
                let has_room = depth.saturating_sub(in_flight) as u64;
                let fresh = if self.rooms[room].can_speak(place) { has_room.min(left) } else { 0 };
                left -= fresh;
                (0..fresh).for_each(|_| self.enqueue(room, place, None));
            }
            self.ledger.roomy = roomy;
            self.write()?;
            if self.ledger.unsettled == 0 {
                break;
            }
            let until_ns = look_ns.min(self.intervals.end_ns());
            let longest = Duration::from_nanos(until_ns.saturating_sub(now_ns)).max(Duration::from_millis(1));
            // A connection that ended while it was written to has made room.
            self.readiness.wait(Some(if self.ledger.roomy.is_empty() { longest } else { Duration::ZERO }))?;
            self.read();
        }
        let elapsed_ns = self.ledger.active_ns.saturating_sub(began_ns);
        self.cool_down()?;
        Ok(Duration::from_nanos(elapsed_ns))
    }

    /// Lines leave when the plan says, whatever comes back, from each sender in its turn. Those planned within the window
    /// are recorded, and their deliveries waited for.
    fn follow(
        &mut self,
        plan: &mut Plan,
        warmup: Duration,
        amount: Amount,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Window>> {
        let base_ns = self.readiness.now_ns();
        let mut agenda = Agenda::new(plan, base_ns, warmup, amount);
        // What is planned just before the end may be sent just after it.
        self.end_ns = agenda.end_ns().saturating_add(1_000_000);
        self.intervals.begin(agenda.begin_ns());
        let mut look_ns = base_ns + self.look_interval_ns();
        let mut turn = 0;
        loop {
            let now_ns = self.readiness.now_ns();
            self.intervals.cut(&mut self.ledger.record, now_ns);
            if stop() {
                agenda.end_at(now_ns);
            }
            self.say_due(&mut agenda, &mut turn, now_ns);
            self.write()?;
            self.ledger.roomy.clear();
            let is_over = agenda.is_over() || self.senders.is_empty();
            if is_over && self.ledger.unsettled == 0 {
                break;
            }
            if now_ns >= look_ns {
                self.look(now_ns);
                look_ns = now_ns + self.look_interval_ns();
            }
            let until_ns = if is_over { look_ns } else { agenda.next_ns().min(look_ns) };
            self.readiness.wait_until(until_ns.min(self.intervals.end_ns()))?;
            self.read();
        }
        self.cool_down()?;
        Ok(agenda.window())
    }

    fn take_record(&mut self) -> Record {
        self.ledger.take_record()
    }

    fn hand_over_to(&mut self, lane: Lane) {
        self.intervals.hand_over_to(lane);
    }

    fn hand_over_rest(&mut self) {
        let now_ns = self.readiness.now_ns();
        self.intervals.end(&mut self.ledger.record, now_ns);
    }
}
