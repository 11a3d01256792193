//! The connections that are held, watched by one poll of their own.
//!
//! Nothing looks at all of them: the poll tells which one was closed or got bytes, and who is to send next follows from
//! the time alone.
//!
//! ```text
//!     time ─► slow: the next few, a byte each     ─┐
//!             stopped: the next few, requests     ─┴─► wait ─► closed? by kind, and after how long
//! ```

use std::io;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Interest, Token};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cli::Options;
use crate::idle::script::{Script, Unfinished};
use crate::load::is_drained;
use crate::readiness::Readiness;
use crate::shortage;
use crate::stream::Stream;

/// Connections that are opened, and have their exchange, together: not more than a listener's backlog bears.
const BATCH_MAX: usize = 512;

/// One read takes this much at most: silent connections get nothing, slow ones next to nothing.
const READ_BYTES_MAX: usize = 4096;

/// What happens within so long is dealt with in one go: the busy ones need the processor.
const TICK: Duration = Duration::from_millis(10);

/// The longest wait, after which it is seen that the holding is to end.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A stopped connection whose socket was filled tries again after this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What a stopped connection sends at first, if its socket is not full before: who takes more will take anything.
const FILL_BYTES_MAX: u64 = 8 << 20;

/// Sockets are full once the server has read nothing from any for so long.
const FILL_QUIET: Duration = Duration::from_millis(100);

/// Filling them takes no longer than that.
const FILL_TIME_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Says nothing more.
    Idle,
    /// Sends a byte now and then, and reads.
    Slow,
    /// Sends what its socket takes, and does not read.
    Stopped,
}

/// What became of the connections of a kind. Field names end in their unit; they are the JSON's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kept {
    pub held: usize,
    /// By the server.
    pub closed: usize,
    /// The shortest and the longest time that one of these was open; null if none was closed.
    pub first_closed_s: Option<f64>,
    pub last_closed_s: Option<f64>,
    /// Sent since they are held; 0 for idle ones.
    pub sent_bytes: u64,
    /// Open ones whose socket takes no more.
    pub blocked: usize,
}

pub struct Held {
    readiness: Readiness,
    conns: Vec<Conn>,
    /// Connections that the server has not closed.
    open: usize,
    buffer: Box<[u8]>,
    /// Twice over: wherever a connection is in them, as many again lie in one piece.
    requests: Vec<u8>,
    unfinished: Unfinished,
    slow: Round,
    stopped: Round,
    kept: [Kept; 3],
    /// CPU time of the threads that held them.
    cpu: Duration,
}

struct Conn {
    /// None once it is closed.
    stream: Option<Stream>,
    kind: Kind,
    opened_at: Instant,
    sent: u64,
    /// Bytes that came without a request.
    unasked: u64,
    is_blocked: bool,
}

impl Held {
    /// Nothing is held yet. A slow connection sends a byte each `slow_interval`.
    pub fn new(script: &mut Script<'_>, slow_interval: Duration) -> Result<Held> {
        Ok(Held {
            readiness: Readiness::new()?,
            conns: Vec::new(),
            open: 0,
            buffer: vec![0; READ_BYTES_MAX].into(),
            requests: script.requests.repeat(2),
            unfinished: std::mem::take(&mut script.unfinished),
            slow: Round::new(slow_interval),
            stopped: Round::new(RETRY_INTERVAL),
            kept: Default::default(),
            cpu: Duration::ZERO,
        })
    }

    /// Connections that have been opened.
    pub fn opened(&self) -> usize {
        self.conns.len()
    }

    pub fn kept(&self, kind: Kind) -> &Kept {
        &self.kept[kind as usize]
    }

    /// CPU time of holding, from the end of opening on.
    pub fn cpu(&self) -> Duration {
        self.cpu
    }

    /// The first silent connection that is open and got what it had not asked for, and how many bytes. Of one that is
    /// closed they were last words: HTTP has a reply for who says nothing.
    pub fn first_unasked(&self) -> Option<(usize, u64)> {
        let mut open = self.conns.iter().enumerate().filter(|(_, conn)| conn.stream.is_some());
        open.find(|(_, conn)| conn.unasked > 0).map(|(index, conn)| (index, conn.unasked))
    }

    /// Opens so many more of a kind, or tells which one could not be; ends early when it is to.
    pub fn open(
        &mut self,
        kind: Kind,
        count: usize,
        options: &Options,
        script: &Script<'_>,
        ended: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (address, timeout) = (&options.target.address, options.timeout());
        let (first, total) = (self.conns.len(), self.conns.len() + count);
        while self.conns.len() < total && !ended() {
            let from = self.conns.len();
            let mut opened_at = Vec::new();
            let mut streams = Vec::new();
            for index in from..total.min(from + BATCH_MAX) {
                let source = options.source_ips.as_ref().and_then(|sources| sources.of(index));
                let stream = match kind {
                    Kind::Idle | Kind::Slow => Stream::connect(&address.peer, source, timeout),
                    Kind::Stopped => Stream::connect_narrow(&address.peer, source, timeout),
                };
                let stream = stream
                    .map_err(shortage::explained)
                    .with_context(|| format!("connecting {} of {total} to {address}", index + 1))?;
                streams.push(stream);
                opened_at.push(Instant::now());
            }
            if kind == Kind::Idle {
                streams = script.once(streams, from)?;
            }
            for (mut stream, opened_at) in streams.into_iter().zip(opened_at) {
                let token = Token(self.conns.len());
                self.readiness.registry().register(&mut stream, token, Interest::READABLE)?;
                let stream = Some(stream);
                self.conns.push(Conn { stream, kind, opened_at, sent: 0, unasked: 0, is_blocked: false });
                self.open += 1;
                self.kept[kind as usize].held += 1;
            }
            // Those that are closed meanwhile are seen at their time.
            self.turn(Duration::ZERO)?;
        }
        let conns = first..self.conns.len();
        match kind {
            Kind::Idle => {}
            Kind::Slow => self.slow.begin(conns),
            Kind::Stopped => {
                self.fill(conns.clone(), ended)?;
                self.stopped.begin(conns);
            }
        }
        Ok(())
    }

    /// Holds them until it is time or ended, as long as one is left.
    pub fn hold(&mut self, until: Option<Instant>, ended: &dyn Fn() -> bool) -> Result<()> {
        let cpu_before = thread_cpu();
        while !ended() && self.open > 0 {
            let left = until.map_or(WAIT_MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            if self.turn(left.min(WAIT_MAX))? {
                thread::sleep(left.min(TICK));
            }
        }
        // What had happened by then.
        self.turn(Duration::ZERO)?;
        self.cpu += thread_cpu().saturating_sub(cpu_before);
        Ok(())
    }

    /// Sends what is due, waits for so long at most, and looks at what has come. Returns whether there was anything.
    fn turn(&mut self, longest: Duration) -> Result<bool> {
        let now = Instant::now();
        for index in self.slow.due(now) {
            self.drip(index);
        }
        for index in self.stopped.due(now) {
            self.push(index);
        }
        let rounds = [(&self.slow, Kind::Slow), (&self.stopped, Kind::Stopped)];
        let left = rounds.into_iter().filter(|(_, kind)| self.kept(*kind).are_left());
        let next = left.filter_map(|(round, _)| round.next()).min();
        let next = next.map_or(longest, |next| next.saturating_duration_since(now).max(TICK));
        self.readiness.wait(Some(longest.min(next)))?;
        let found = self.readiness.take();
        let mut is_any = false;
        for (index, event) in found.iter() {
            is_any = true;
            if self.conns[index].stream.is_none() {
                continue;
            }
            match self.conns[index].kind {
                Kind::Idle | Kind::Slow => self.read(index, event),
                // What it does not read may hide an end, but not an error: it keeps writing.
                Kind::Stopped if event.is_read_closed() || event.is_error() => self.close(index),
                Kind::Stopped => {}
            }
        }
        self.readiness.put_back(found);
        Ok(is_any)
    }

    /// Takes what has come, and drops it.
    fn read(&mut self, index: usize, event: &Event) {
        let conn = &mut self.conns[index];
        while let Some(stream) = &mut conn.stream {
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.close(index),
                Ok(read) => {
                    if conn.kind == Kind::Idle {
                        conn.unasked += read as u64;
                    }
                    if is_drained(event, stream, read < self.buffer.len()) {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(index),
            }
        }
    }

    /// Sends the next byte of an unfinished request.
    fn drip(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let Some(byte) = self.unfinished.byte(conn.sent) else { return };
        if conn.send(&[byte], &mut self.kept[Kind::Slow as usize]).is_err() {
            self.close(index);
        }
    }

    /// Sends requests on a stopped connection. Returns how many bytes its socket took.
    fn push(&mut self, index: usize) -> usize {
        let conn = &mut self.conns[index];
        let whole = self.requests.len() / 2;
        let from = (conn.sent % whole as u64) as usize;
        match conn.send(&self.requests[from..from + whole], &mut self.kept[Kind::Stopped as usize]) {
            Ok(sent) => sent,
            Err(_) => {
                self.close(index);
                0
            }
        }
    }

    /// Sends on stopped connections until nothing moves any more.
    fn fill(&mut self, conns: Range<usize>, ended: &dyn Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        let mut moved_at = began;
        while began.elapsed() < FILL_TIME_MAX && moved_at.elapsed() < FILL_QUIET && !ended() {
            let mut sent = 0;
            for index in conns.clone() {
                if self.conns[index].sent < FILL_BYTES_MAX {
                    sent += self.push(index);
                }
            }
            if sent > 0 {
                moved_at = Instant::now();
            }
            // With nothing to send, a wait.
            self.turn(if sent > 0 { Duration::ZERO } else { TICK })?;
        }
        Ok(())
    }

    /// The server has ended a connection.
    fn close(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        // It closes with its stream.
        conn.stream = None;
        self.open -= 1;
        let open_s = conn.opened_at.elapsed().as_secs_f64();
        let kept = &mut self.kept[conn.kind as usize];
        kept.closed += 1;
        kept.blocked -= usize::from(std::mem::take(&mut conn.is_blocked));
        kept.first_closed_s = Some(kept.first_closed_s.map_or(open_s, |first| first.min(open_s)));
        kept.last_closed_s = Some(kept.last_closed_s.map_or(open_s, |last| last.max(open_s)));
    }
}

impl Kept {
    /// Whether some are open.
    fn are_left(&self) -> bool {
        self.closed < self.held
    }
}

impl Conn {
    /// Writes what the socket takes, and counts it. Returns how many bytes that was; none if it is closed.
    fn send(&mut self, bytes: &[u8], kept: &mut Kept) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let (mut sent, mut is_blocked) = (0, false);
        while sent < bytes.len() && !is_blocked {
            match stream.write(&bytes[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent += sent as u64;
        kept.sent_bytes += sent as u64;
        kept.blocked -= usize::from(std::mem::replace(&mut self.is_blocked, is_blocked));
        kept.blocked += usize::from(is_blocked);
        Ok(sent)
    }
}

/// Connections that take turns: each once in an interval, evenly apart.
struct Round {
    conns: Range<usize>,
    interval: Duration,
    began: Option<Instant>,
    /// Turns that have been taken.
    done: u64,
}

impl Round {
    /// Nobody takes part yet.
    fn new(interval: Duration) -> Round {
        Round { conns: 0..0, interval, began: None, done: 0 }
    }

    /// The first turn comes at once.
    fn begin(&mut self, conns: Range<usize>) {
        self.began = (!conns.is_empty()).then(Instant::now);
        self.conns = conns;
    }

    /// Who has a turn by now.
    fn due(&mut self, now: Instant) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.conns.start as u64, self.conns.len() as u64);
        let elapsed = self.began.map(|began| now.saturating_duration_since(began));
        let due = elapsed.map_or(0, |elapsed| {
            (elapsed.as_nanos() * u128::from(count) / self.interval.as_nanos()) as u64 + 1
        });
        // After a standstill each has one turn, not all those that were missed.
        let from = self.done.max(due.saturating_sub(count));
        self.done = self.done.max(due);
        (from..due).map(move |turn| (first + turn % count) as usize)
    }

    /// When the next turn is; none if nobody takes part.
    fn next(&self) -> Option<Instant> {
        let nanos = self.interval.as_nanos() * u128::from(self.done) / self.conns.len().max(1) as u128;
        self.began.map(|began| began + Duration::from_nanos(nanos as u64))
    }
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_over_the_interval() {
        let mut round = Round::new(Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!((round.due(now).count(), round.next()), (0, None));
        round.begin(10..14);
        let began = round.began.unwrap();
        let after = |ms| began + Duration::from_millis(ms);
        assert!(round.due(after(0)).eq([10]));
        assert_eq!(round.next(), Some(after(250)));
        assert_eq!(round.due(after(249)).count(), 0);
        assert!(round.due(after(510)).eq([11, 12]));
        assert!(round.due(after(1100)).eq([13, 10]));
        assert!(round.due(after(60_000)).eq([11, 12, 13, 10]), "once each");
        assert_eq!(round.next(), Some(after(60_250)));
    }
}
