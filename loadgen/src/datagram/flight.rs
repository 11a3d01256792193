//! The requests of one socket, by their sequence numbers: not yet sent, in flight, answered, lost.
//!
//! ```text
//!     0 … answered or lost … │ in flight, among them answered ones … │ not yet sent … │ next
//!                          first                                              first + requests
//! ```

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// A request on its way.
pub struct Request {
    /// `None` in a closed loop.
    pub planned_ns: Option<u64>,
    pub sent_ns: u64,
    pub size: usize,
    is_answered: bool,
}

impl Request {
    pub fn new(planned_ns: Option<u64>, size: usize) -> Request {
        Request { planned_ns, sent_ns: 0, size, is_answered: false }
    }

    fn is_overdue(&self, now_ns: u64, timeout: Duration) -> bool {
        self.planned_ns.unwrap_or(self.sent_ns).saturating_add(timeout.as_nanos() as u64) <= now_ns
    }
}

#[derive(Default)]
pub struct Flight {
    /// From the oldest that is neither answered nor lost to the newest.
    requests: VecDeque<Request>,
    /// The sequence number of the oldest.
    first: u64,
    /// Neither answered nor lost.
    pending: usize,
    /// Of these, the newest ones, which the socket has not taken.
    unsent: usize,
    lost: Ranges,
    /// One more than the newest that was answered.
    answered_up_to: u64,
}

/// What is known of a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    InFlight,
    Answered,
    Lost,
    /// No request has had it yet.
    Unasked,
}

/// What an answer ended.
pub struct Answered {
    pub planned_ns: Option<u64>,
    pub sent_ns: u64,
    /// A later request had been answered before.
    pub is_reordered: bool,
}

impl Flight {
    /// The sequence number of the next request.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.requests.len() as u64
    }

    /// How many are neither answered nor lost.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Of lost requests so many runs are remembered at most.
    pub fn new(ranges_max: usize) -> Flight {
        let lost = Ranges { most: ranges_max.clamp(1, RANGES_MAX), ..Ranges::default() };
        Flight { lost, ..Flight::default() }
    }

    /// How many are kept: also answered ones, if an older one is not.
    pub fn kept(&self) -> usize {
        self.requests.len()
    }

    pub fn push(&mut self, request: Request) {
        self.requests.push_back(request);
        self.pending += 1;
        self.unsent += 1;
    }

    pub fn unsent_count(&self) -> usize {
        self.unsent
    }

    /// The newest ones, which the socket has not taken, the oldest of them first.
    pub fn unsent(&self) -> impl Iterator<Item = (u64, &Request)> {
        let from = self.requests.len() - self.unsent;
        (self.first + from as u64..).zip(self.requests.range(from..))
    }

    /// Notes when the newest `count` were offered to the socket.
    pub fn offered(&mut self, count: usize, now_ns: u64) -> impl Iterator<Item = (u64, &Request)> {
        let from = self.requests.len() - count;
        (self.first + from as u64..).zip(self.requests.range_mut(from..)).map(move |(sequence, request)| {
            request.sent_ns = now_ns;
            (sequence, &*request)
        })
    }

    /// The socket has taken the oldest `count` of those that it had not.
    pub fn sent(&mut self, count: usize) {
        self.unsent -= count;
    }

    pub fn standing(&self, sequence: u64) -> Standing {
        match sequence.checked_sub(self.first) {
            None if self.lost.contains(sequence) => Standing::Lost,
            None => Standing::Answered,
            Some(index) => match self.requests.get(index as usize) {
                None => Standing::Unasked,
                Some(request) if request.is_answered => Standing::Answered,
                Some(_) => Standing::InFlight,
            },
        }
    }

    /// Those that wait for their reply, the oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = (u64, &Request)> {
        let sent = self.requests.len() - self.unsent;
        (self.first..).zip(self.requests.range(..sent)).filter(|(_, request)| !request.is_answered)
    }

    /// One in flight, of which nothing is known otherwise.
    pub fn get(&self, sequence: u64) -> Option<&Request> {
        let index = sequence.checked_sub(self.first)?;
        self.requests.get(index as usize).filter(|request| !request.is_answered)
    }

    /// A reply to one in flight has come.
    pub fn answer(&mut self, sequence: u64) -> Option<Answered> {
        let index = sequence.checked_sub(self.first)?;
        let request = self.requests.get_mut(index as usize).filter(|request| !request.is_answered)?;
        request.is_answered = true;
        let answered = Answered {
            planned_ns: request.planned_ns,
            sent_ns: request.sent_ns,
            is_reordered: sequence < self.answered_up_to,
        };
        self.answered_up_to = self.answered_up_to.max(sequence + 1);
        self.pending -= 1;
        while self.requests.front().is_some_and(|request| request.is_answered) {
            self.pop();
        }
        Some(answered)
    }

    /// Gives up the oldest one if it has waited for too long. Also tells whether the socket had taken it.
    pub fn lose_overdue(&mut self, now_ns: u64, timeout: Duration) -> Option<(u64, Request, bool)> {
        if !self.requests.front()?.is_overdue(now_ns, timeout) {
            return None;
        }
        let sequence = self.first;
        let was_sent = self.unsent < self.requests.len();
        self.lost.push(sequence);
        self.pending -= 1;
        let lost = self.pop()?;
        while self.requests.front().is_some_and(|request| request.is_answered) {
            self.pop();
        }
        Some((sequence, lost, was_sent))
    }

    /// A reply to a lost one has come after all; a further one will be a duplicate.
    pub fn answer_late(&mut self, sequence: u64) {
        self.lost.remove(sequence);
    }

    fn pop(&mut self) -> Option<Request> {
        let oldest = self.requests.pop_front()?;
        self.first += 1;
        self.unsent = self.unsent.min(self.requests.len());
        Some(oldest)
    }
}

/// Numbers that were added in rising order, as ranges: of a server that answers nothing at all there is one.
struct Ranges {
    held: VecDeque<Range<u64>>,
    /// Beyond so many ranges the oldest is forgotten: a reply to one in it would count as a duplicate, not as late.
    most: usize,
}

const RANGES_MAX: usize = 65_536;

impl Default for Ranges {
    fn default() -> Ranges {
        Ranges { held: VecDeque::new(), most: RANGES_MAX }
    }
}

impl Ranges {
    fn push(&mut self, number: u64) {
        match self.held.back_mut() {
            Some(range) if range.end == number => range.end += 1,
            _ => {
                if self.held.len() == self.most {
                    self.held.pop_front();
                }
                self.held.push_back(number..number + 1);
            }
        }
    }

    fn index(&self, number: u64) -> Option<usize> {
        let index = self.held.partition_point(|range| range.end <= number);
        self.held.get(index).is_some_and(|range| range.contains(&number)).then_some(index)
    }

    fn contains(&self, number: u64) -> bool {
        self.index(number).is_some()
    }

    fn remove(&mut self, number: u64) {
        let Some(index) = self.index(number) else { return };
        let Some(range) = self.held.remove(index) else { return };
        for rest in [number + 1..range.end, range.start..number] {
            if !rest.is_empty() {
                self.held.insert(index, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_nanos(100);

    /// Requests that were sent at 1, 2, 3 ...
    fn flight(requests: u64) -> Flight {
        let mut flight = Flight::default();
        for sent_ns in 1..=requests {
            flight.push(Request::new(None, 64));
            assert_eq!(flight.offered(1, sent_ns).count(), 1);
            flight.sent(1);
        }
        flight
    }

    #[test]
    fn a_reply_is_reordered_if_a_later_one_came_before() {
        let mut flight = flight(4);
        let mut is_reordered = |sequence| flight.answer(sequence).map(|answered| answered.is_reordered);
        assert_eq!([1, 0, 3, 2].map(&mut is_reordered), [false, true, false, true].map(Some));
        assert_eq!(is_reordered(2), None);
        assert_eq!((flight.pending(), flight.next_sequence()), (0, 4));
        assert_eq!(flight.standing(3), Standing::Answered);
        assert_eq!(flight.standing(4), Standing::Unasked);
    }

    #[test]
    fn what_is_overdue_is_lost_then_late_then_answered() {
        let mut flight = flight(6);
        flight.answer(1);
        flight.answer(4);
        let mut lost = Vec::new();
        while let Some((sequence, request, was_sent)) = flight.lose_overdue(104, TIMEOUT) {
            assert_eq!((request.sent_ns, was_sent), (sequence + 1, true));
            lost.push(sequence);
        }
        assert_eq!(lost, [0, 2, 3]);
        assert_eq!(flight.in_flight().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [5]);
        for sequence in [2, 0] {
            assert_eq!(flight.standing(sequence), Standing::Lost);
            flight.answer_late(sequence);
            assert_eq!(flight.standing(sequence), Standing::Answered);
        }
        assert_eq!(flight.standing(3), Standing::Lost);
        assert_eq!(flight.pending(), 1);
    }

    #[test]
    fn what_is_lost_before_it_was_sent_is_sent_no_more() {
        let mut flight = flight(1);
        for _ in 0..3 {
            flight.push(Request::new(Some(1), 64));
        }
        assert_eq!(flight.unsent().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [1, 2, 3]);
        let mut was_sent = || flight.lose_overdue(102, TIMEOUT).map(|(.., was_sent)| was_sent);
        assert_eq!([was_sent(), was_sent()], [Some(true), Some(false)]);
        assert_eq!(flight.unsent().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [2, 3]);
        flight.sent(1);
        assert_eq!(flight.unsent().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn ranges_hold_what_was_added_and_not_removed() {
        let mut ranges = Ranges::default();
        let added = [1, 2, 3, 7, 9, 10];
        added.iter().for_each(|&number| ranges.push(number));
        assert_eq!(ranges.held, [1..4, 7..8, 9..11]);
        for removed in [2, 7, 10, 8] {
            ranges.remove(removed);
        }
        assert_eq!(ranges.held, [1..2, 3..4, 9..10]);
        let held: Vec<_> = (0..12).filter(|&number| ranges.contains(number)).collect();
        assert_eq!(held, [1, 3, 9]);
    }
}
