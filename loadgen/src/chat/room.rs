//! One room: which line has come to whom, which has not, and what else came. It knows no sockets and reads no clock.
//!
//! ```text
//!     a sender's lines   0 … come to all, or given up … │ under way … │ next
//!                                                     first         first + lines
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::{Record, note};
use crate::report::counted;

use super::counts::Counts;
use super::places::Places;
use super::speech::{Quoted, Speech, Told};

/// What has come of the rooms of a thread.
pub struct Ledger {
    pub record: Record,
    /// Lines of the window that have neither come to everybody nor been given up.
    pub unsettled: u64,
    /// Lines that are kept.
    pub lines: usize,
    /// Senders (room and place in it) of lines that nobody is waited for any more: in a closed loop they may go on.
    pub roomy: Vec<(usize, usize)>,
    /// When something of the window last came or was sent.
    pub active_ns: u64,
    /// The window has begun.
    pub is_counting: bool,
    /// What a delivery may take.
    pub timeout: Duration,
}

impl Ledger {
    pub fn new(timeout: Duration) -> Ledger {
        let record = new_record();
        Ledger {
            record,
            unsettled: 0,
            lines: 0,
            roomy: Vec::new(),
            active_ns: 0,
            is_counting: false,
            timeout,
        }
    }

    pub fn take_record(&mut self) -> Record {
        std::mem::replace(&mut self.record, new_record())
    }

    pub fn counts(&mut self) -> &mut Counts {
        self.record.chat.get_or_insert_default()
    }

    /// Something came that should not have.
    pub fn fault(
        &mut self,
        counts: bool,
        kind: impl FnOnce(&mut Counts) -> &mut u64,
        words: impl FnOnce() -> String,
    ) {
        self.record.note_error(words);
        if counts {
            self.record.errors += 1;
            *kind(self.counts()) += 1;
        }
    }

    fn deliver(&mut self, line: &Line, now_ns: u64) {
        self.counts().deliveries += 1;
        note(&mut self.record.service_times, now_ns.saturating_sub(line.sent_ns), 1);
        if let Some(planned_ns) = line.planned_ns {
            note(&mut self.record.response_times, now_ns.saturating_sub(planned_ns), 1);
        }
        self.active_ns = now_ns;
    }

    /// So many deliveries of a line will not come any more.
    fn lose(&mut self, line: &Line, deliveries: usize) {
        self.record.lose(deliveries as u64, line.planned_ns.is_some());
    }
}

fn new_record() -> Record {
    Record { chat: Some(Counts::default()), ..Record::default() }
}

pub struct Room {
    /// Among those of its thread.
    index: usize,
    /// The number of its first member. Within the room a member is known by its place.
    first: usize,
    members: usize,
    senders: Vec<Sender>,
    /// Those whose connections are open.
    open: Places,
    /// Of these, the ones who hear what others say.
    listeners: Places,
    /// Those to whom a line was lost, and none has come since: a closed loop does not wait for them.
    silent: Places,
}

struct Sender {
    /// The number of the oldest line that is under way.
    first: u64,
    lines: VecDeque<Line>,
    /// Lines that somebody who is not silent lacks.
    in_flight: usize,
    /// For each member, one more than the number of the newest line that it has.
    heard: Vec<u64>,
    /// From this line on they are of the window.
    counted_from: u64,
}

struct Line {
    size: usize,
    /// `None` in a closed loop.
    planned_ns: Option<u64>,
    sent_ns: u64,
    /// Those whom it has not come to.
    lacking: Places,
    /// Those who lack it are silent, if there are any.
    is_done: bool,
    /// Nobody lacks it any more, and that is recorded.
    is_settled: bool,
    /// A delivery was wrong, or lost.
    is_flawed: bool,
}

impl Line {
    fn is_overdue(&self, now_ns: u64, timeout: Duration) -> bool {
        self.planned_ns.unwrap_or(self.sent_ns).saturating_add(timeout.as_nanos() as u64) <= now_ns
    }
}

impl Sender {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn line(&self, sequence: u64) -> Option<&Line> {
        self.lines.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    fn line_mut(&mut self, sequence: u64) -> Option<&mut Line> {
        self.lines.get_mut(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    /// The oldest line that a member lacks, of those that are newer than what it has.
    fn due(&self, place: usize) -> Option<u64> {
        (self.heard[place].max(self.first)..self.next())
            .find(|&sequence| self.line(sequence).is_some_and(|line| line.lacking.contains(place)))
    }
}

impl Room {
    /// Everybody is there. Those who talk may be there for nothing else.
    pub fn new(index: usize, first: usize, members: usize, senders: usize, senders_listen: bool) -> Room {
        let sender = || Sender {
            first: 0,
            lines: VecDeque::new(),
            in_flight: 0,
            heard: vec![0; members],
            counted_from: u64::MAX,
        };
        let mut listeners = Places::all(members);
        if !senders_listen {
            (0..senders).for_each(|sender| {
                listeners.remove(sender);
            });
        }
        Room {
            index,
            first,
            members,
            senders: (0..senders).map(|_| sender()).collect(),
            open: Places::all(members),
            listeners,
            silent: Places::none(members),
        }
    }

    pub fn first(&self) -> usize {
        self.first
    }

    /// What is said from now on is of the window.
    pub fn begin_window(&mut self) {
        for sender in &mut self.senders {
            sender.counted_from = sender.next();
        }
    }

    /// Whether a sender's connection is open, and another's to hear it.
    pub fn can_speak(&self, sender: usize) -> bool {
        self.open.contains(sender) && self.listeners_of(sender) > 0
    }

    /// How many hear a sender.
    fn listeners_of(&self, sender: usize) -> usize {
        self.listeners.len() - usize::from(self.listeners.contains(sender))
    }

    /// Lines of a sender that are waited for.
    pub fn in_flight(&self, sender: usize) -> usize {
        self.senders[sender].in_flight
    }

    /// A sender says a line; returns its number.
    pub fn say(&mut self, sender: usize, size: usize, planned_ns: Option<u64>, ledger: &mut Ledger) -> u64 {
        let mut lacking = self.listeners.clone();
        lacking.remove(sender);
        let speaker = &mut self.senders[sender];
        let sequence = speaker.next();
        speaker.lines.push_back(Line {
            size,
            planned_ns,
            sent_ns: 0,
            lacking,
            is_done: false,
            is_settled: false,
            is_flawed: false,
        });
        speaker.in_flight += 1;
        ledger.lines += 1;
        if sequence >= speaker.counted_from {
            ledger.record.requests += 1;
            ledger.unsettled += 1;
        }
        sequence
    }

    /// The newest lines of a sender, so many, are offered to its socket. Those before `end_ns` are in time.
    pub fn offer(&mut self, sender: usize, newest: usize, now_ns: u64, end_ns: u64, ledger: &mut Ledger) {
        let speaker = &mut self.senders[sender];
        let from = speaker.lines.len().saturating_sub(newest);
        for (line, sequence) in speaker.lines.range_mut(from..).zip(speaker.first + from as u64..) {
            line.sent_ns = now_ns;
            if let Some(planned_ns) = line.planned_ns.filter(|_| sequence >= speaker.counted_from) {
                note(&mut ledger.record.send_lags, now_ns.saturating_sub(planned_ns), 1);
                ledger.record.sent_in_time += u64::from(now_ns <= end_ns);
            }
        }
        ledger.active_ns = now_ns;
    }

    /// A member is told a line, which is not one of the server's own.
    pub fn hear(&mut self, place: usize, line: &[u8], speech: &Speech, now_ns: u64, ledger: &mut Ledger) {
        // What is said from now on is waited for again.
        self.silent.remove(place);
        let told = speech.read(line);
        let Some(genuine) = told.filter(|told| speech.is_genuine(told)) else {
            return self.hear_wrong(place, line, told, speech, now_ns, ledger);
        };
        let sequence = genuine.sequence;
        let words = |what: &str| {
            let (nick, of) = (speech.nick(self.first + place), speech.nick(genuine.sender));
            format!("{nick}: line {sequence} of {of}, {what}")
        };
        let sender = genuine.sender.wrapping_sub(self.first);
        if sender >= self.members {
            let words = || words("who is in another room");
            return ledger.fault(ledger.is_counting, |counts| &mut counts.wrong_room, words);
        }
        let is_said = self.senders.get(sender).is_some_and(|speaker| sequence < speaker.next());
        if !is_said || sender == place || !self.listeners.contains(place) {
            let words = || words("which was not sent to it");
            return ledger.fault(ledger.is_counting, |counts| &mut counts.unexpected, words);
        }
        let speaker = &mut self.senders[sender];
        let counts = sequence >= speaker.counted_from;
        let is_newest = sequence >= speaker.heard[place];
        let mut is_due = false;
        if let Some(said) = speaker.line_mut(sequence) {
            if said.size != genuine.payload.len() {
                return self.hear_wrong(place, line, told, speech, now_ns, ledger);
            }
            is_due = said.lacking.remove(place);
            said.is_flawed |= is_due && !is_newest;
            if is_due && is_newest && counts {
                ledger.deliver(said, now_ns);
            }
        }
        if is_newest {
            speaker.heard[place] = sequence + 1;
        }
        match (is_due, is_newest) {
            (true, true) => {}
            (true, false) => {
                ledger.fault(counts, |counts| &mut counts.reordered, || words("after a later one"))
            }
            // It had been given up.
            (false, true) => ledger.record.late += u64::from(counts),
            (false, false) => ledger.fault(counts, |counts| &mut counts.duplicated, || words("once more")),
        }
        if is_due {
            self.settle(sender, sequence, ledger);
        }
    }

    /// A member is told a line in the name of another room.
    pub fn hear_elsewhere(&mut self, place: usize, line: &[u8], speech: &Speech, ledger: &mut Ledger) {
        let words = || {
            format!(
                "{}: {} arrived with the name of another room",
                speech.nick(self.first + place),
                Quoted(line)
            )
        };
        ledger.fault(ledger.is_counting, |counts| &mut counts.wrong_room, words);
    }

    /// The server tells a sender that so many were sent its line, which is one that was not answered before, or not. As
    /// long as all are there it must be everybody.
    pub fn hear_receipt(
        &mut self,
        place: usize,
        count: u64,
        is_due: bool,
        speech: &Speech,
        ledger: &mut Ledger,
    ) {
        let listeners = self.listeners_of(place);
        if is_due && (count == listeners as u64 || self.open.len() < self.members) {
            return;
        }
        let words = || {
            let nick = speech.nick(self.first + place);
            match is_due {
                true => {
                    format!("{nick}: the server reports {count} as the number of receivers, not {listeners}")
                }
                false => format!("{nick}: the server confirms a line that was never sent"),
            }
        };
        ledger.fault(ledger.is_counting, |counts| &mut counts.unexpected, words);
    }

    /// A member is told what is no line of anybody. It is taken for the delivery that it is most like.
    fn hear_wrong(
        &mut self,
        place: usize,
        line: &[u8],
        told: Option<Told<'_>>,
        speech: &Speech,
        now_ns: u64,
        ledger: &mut Ledger,
    ) {
        let nick = || speech.nick(self.first + place);
        let Some((sender, sequence)) = self.likely(place, line, told, speech) else {
            let words = || format!("{}: {}, which was never sent", nick(), Quoted(line));
            return ledger.fault(ledger.is_counting, |counts| &mut counts.unexpected, words);
        };
        let counts = sequence >= self.senders[sender].counted_from;
        let of = self.first + sender;
        let size = self.senders[sender].line(sequence).map_or(0, |line| line.size);
        let words = || {
            let due = speech.line(of, sequence, size);
            let whose = format!("line {sequence} of {}", speech.nick(of));
            let at = line.iter().zip(&due).position(|(got, due)| got != due);
            match at {
                Some(at) => {
                    format!("{}: byte {at} of {whose} is {:#04x}, not {:#04x}", nick(), line[at], due[at])
                }
                None => format!("{}: {whose} has {}, not {}", nick(), counted(line.len(), "byte"), due.len()),
            }
        };
        ledger.fault(counts, |counts| &mut counts.corrupted, words);
        ledger.active_ns = now_ns;
        let speaker = &mut self.senders[sender];
        speaker.heard[place] = speaker.heard[place].max(sequence + 1);
        if let Some(said) = speaker.line_mut(sequence) {
            said.lacking.remove(place);
            said.is_flawed = true;
        }
        self.settle(sender, sequence, ledger);
    }

    /// The delivery that a line stands for which is not as it should be: the one that it names, if that is due, or the
    /// one of those that are due which it differs from in the fewest bytes, less than half of them.
    fn likely(
        &self,
        place: usize,
        line: &[u8],
        told: Option<Told<'_>>,
        speech: &Speech,
    ) -> Option<(usize, u64)> {
        if let Some(told) = told {
            let sender = told.sender.checked_sub(self.first).filter(|sender| *sender < self.senders.len());
            let said = sender.and_then(|sender| self.senders[sender].line(told.sequence));
            if let Some(sender) = sender
                && said.is_some_and(|said| said.lacking.contains(place))
            {
                return Some((sender, told.sequence));
            }
        }
        let due = self.senders.iter().enumerate().filter_map(|(sender, speaker)| {
            let sequence = speaker.due(place)?;
            let due = speech.line(self.first + sender, sequence, speaker.line(sequence)?.size);
            let wrong = due.iter().zip(line).filter(|(due, got)| due != got).count();
            (due.len() == line.len() && wrong < due.len() / 2).then_some((wrong, (sender, sequence)))
        });
        due.min().map(|(_, found)| found)
    }

    /// Gives up the lines that have waited for too long. Those to whom they have not come are silent from now on.
    pub fn lose_overdue(&mut self, now_ns: u64, speech: &Speech, ledger: &mut Ledger) {
        let timeout = ledger.timeout;
        for (sender, speaker) in self.senders.iter_mut().enumerate() {
            let overdue = speaker.lines.iter_mut().take_while(|line| line.is_overdue(now_ns, timeout));
            for (line, sequence) in overdue.zip(speaker.first..) {
                for place in line.lacking.iter() {
                    self.silent.insert(place);
                    ledger.record.note_error(|| {
                        let (nick, of) = (speech.nick(self.first + place), speech.nick(self.first + sender));
                        format!("{nick}: line {sequence} of {of} did not come within {timeout:?}")
                    });
                }
                if sequence >= speaker.counted_from {
                    ledger.lose(line, line.lacking.len());
                }
                line.is_flawed |= !line.lacking.is_empty();
                line.lacking.clear();
            }
        }
        if !self.silent.is_empty() {
            self.settle_all(ledger);
        }
    }

    /// A member's connection has ended: what has not come to it will not.
    pub fn leave(&mut self, place: usize, ledger: &mut Ledger) {
        self.open.remove(place);
        self.listeners.remove(place);
        self.silent.remove(place);
        for speaker in &mut self.senders {
            for (line, sequence) in speaker.lines.iter_mut().zip(speaker.first..) {
                if line.lacking.remove(place) {
                    line.is_flawed = true;
                    if sequence >= speaker.counted_from {
                        ledger.lose(line, 1);
                    }
                }
            }
        }
        self.settle_all(ledger);
    }

    fn settle_all(&mut self, ledger: &mut Ledger) {
        for sender in 0..self.senders.len() {
            let speaker = &self.senders[sender];
            (speaker.first..speaker.next()).for_each(|sequence| self.settle(sender, sequence, ledger));
        }
    }

    /// Somebody lacks a line no more, or is not waited for any more.
    fn settle(&mut self, sender: usize, sequence: u64, ledger: &mut Ledger) {
        let speaker = &mut self.senders[sender];
        let counts = sequence >= speaker.counted_from;
        let Some(line) = speaker.line_mut(sequence) else { return };
        if !line.is_done && line.lacking.are_among(&self.silent) {
            line.is_done = true;
            ledger.roomy.push((self.index, sender));
            speaker.in_flight -= 1;
        }
        let Some(line) = speaker.line_mut(sequence) else { return };
        if line.lacking.is_empty() && !std::mem::replace(&mut line.is_settled, true) && counts {
            ledger.unsettled -= 1;
            ledger.record.answered += u64::from(!line.is_flawed);
        }
        while speaker.lines.front().is_some_and(|line| line.is_settled) {
            speaker.lines.pop_front();
            speaker.first += 1;
            ledger.lines -= 1;
        }
    }
}
