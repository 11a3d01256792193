//! Topics: lists of connections that receive the same messages.
//!
//! ```text
//!   topic    members  [ a │ b │ c │ d ]        each with the place up to which it has heard this turn's log
//!               │
//!               └► this turn's log  ┊ a: hello ┊ c: hi ┊ a: how are you ┊     each message once, see `log.rs`
//!                                     └──────── a's own ───┘               a chain, which a itself does not hear
//! ```
//!
//! Publishing a message costs one copy, however many members there are; in the flush phase each member gets what the
//! turn brought in one write. Joining and leaving cost the same however many members a topic has, because every membership
//! knows where it stands in the topic's list, and next to the same however many topics the connection is in. The end of a connection
//! costs time in proportion to its topics.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use slab::Slab;

use crate::arrears::Arrears;
use crate::log::{Logs, NO_LOG, Own, Rest};
use crate::memory::Ranking;
use crate::slots::{ConnId, ConnMap};

/// Identifies a topic of a reactor: [`Context::create_topic`](crate::Context::create_topic). It is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    slot: usize,
    serial: u64,
}

struct Topic {
    serial: u64,
    /// First those who attend, then those who were set aside.
    members: Vec<Member>,
    attending: usize,
    /// What those who were set aside have still to get.
    arrears: Rc<Arrears>,
    /// At which length of the arrears a limit of one of them is passed.
    alarms: BTreeSet<(u64, ConnId)>,
    /// Those who were set aside by the memory that they hold, see [`crate::arrears::Follower::rank`].
    ranks: BTreeSet<(i64, ConnId)>,
    /// This turn's log; that of another turn, or [`NO_LOG`], if nothing was published yet.
    log: u64,
}

/// One receiver of a topic.
pub(crate) struct Member {
    pub conn: ConnId,
    /// The log that the rest is about; of any other it has heard nothing yet, and nothing in it is its own.
    log: u64,
    /// What of it is not on its way to this member yet, and is not its own.
    rest: Rest,
    /// It is a member of other topics as well.
    has_others: bool,
}

impl Member {
    fn new(conn: ConnId) -> Member {
        Member { conn, log: NO_LOG, rest: Rest::ALL, has_others: false }
    }

    /// Whether it hears all of the log, and of no other.
    #[inline]
    pub fn hears_all(&self, log: u64) -> bool {
        self.log != log && !self.has_others
    }

    /// Makes what is noted about it be about this log.
    fn heed(&mut self, log: u64) {
        if self.log != log {
            (self.log, self.rest) = (log, Rest::ALL);
        }
    }

    /// Takes what it has still to hear of the log, which has so many bytes.
    fn take(&mut self, log: u64, end: u32) -> Rest {
        self.heed(log);
        std::mem::replace(&mut self.rest, Rest { from: end, own: Own::NONE })
    }
}

/// The topics of one connection, in order, each with where the connection stands in the topic's list. Nearly every connection
/// is in one or two, for which a list is the smallest; in a list of thousands each change would cost time in proportion to it.
enum Memberships {
    Few(Vec<(TopicId, usize)>),
    Many(BTreeMap<TopicId, usize>),
}

/// A list of memberships that would grow longer becomes a map.
const FEW_MAX: usize = 16;

impl Memberships {
    fn len(&self) -> usize {
        match self {
            Memberships::Few(list) => list.len(),
            Memberships::Many(map) => map.len(),
        }
    }

    #[inline]
    fn position(&self, topic: TopicId) -> Option<usize> {
        match self {
            Memberships::Few(list) => list.iter().find(|entry| entry.0 == topic).map(|entry| entry.1),
            Memberships::Many(map) => map.get(&topic).copied(),
        }
    }

    fn position_mut(&mut self, topic: TopicId) -> Option<&mut usize> {
        match self {
            Memberships::Few(list) => {
                list.iter_mut().find(|entry| entry.0 == topic).map(|entry| &mut entry.1)
            }
            Memberships::Many(map) => map.get_mut(&topic),
        }
    }

    /// Adds a topic that is not among them.
    fn insert(&mut self, topic: TopicId, position: usize) {
        match self {
            Memberships::Few(list) if list.len() < FEW_MAX => {
                let place = list.partition_point(|entry| entry.0 < topic);
                list.insert(place, (topic, position));
            }
            Memberships::Few(list) => {
                let mut map: BTreeMap<_, _> = list.drain(..).collect();
                map.insert(topic, position);
                *self = Memberships::Many(map);
            }
            Memberships::Many(map) => {
                map.insert(topic, position);
            }
        }
    }

    fn remove(&mut self, topic: TopicId) -> Option<usize> {
        match self {
            Memberships::Few(list) => {
                let index = list.iter().position(|entry| entry.0 == topic)?;
                Some(list.remove(index).1)
            }
            Memberships::Many(map) => map.remove(&topic),
        }
    }

    /// The topic that follows `after` in order, with the position in it; the first one for `None`.
    fn after(&self, after: Option<TopicId>) -> Option<(TopicId, usize)> {
        match self {
            Memberships::Few(list) => list.iter().find(|entry| Some(entry.0) > after).copied(),
            Memberships::Many(map) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                map.range((from, Bound::Unbounded)).next().map(|(topic, position)| (*topic, *position))
            }
        }
    }

    /// The only one.
    fn single(&self) -> Option<(TopicId, usize)> {
        if self.len() == 1 { self.after(None) } else { None }
    }
}

#[derive(Default)]
pub(crate) struct Topics {
    topics: Slab<Topic>,
    serials: u64,
    memberships: ConnMap<Memberships>,
    /// Members who were set aside, of all topics.
    aside: usize,
    /// The topics that have such members, by the memory that the largest of them holds.
    backlogs: Ranking<usize>,
}

impl Topics {
    pub fn create(&mut self) -> TopicId {
        self.serials += 1;
        let serial = self.serials;
        let topic = Topic {
            serial,
            members: Vec::new(),
            attending: 0,
            arrears: Rc::default(),
            alarms: BTreeSet::new(),
            ranks: BTreeSet::new(),
            log: NO_LOG,
        };
        TopicId { slot: self.topics.insert(topic), serial }
    }

    pub fn remove(&mut self, topic: TopicId) {
        if self.topic(topic).is_none() {
            return;
        }
        self.backlogs.set(topic.slot, topic.slot, 0);
        for member in self.topics.remove(topic.slot).members {
            if let Some(all) = self.memberships.get_mut(member.conn) {
                all.remove(topic);
            }
            self.count_others(member.conn);
        }
    }

    fn topic(&self, topic: TopicId) -> Option<&Topic> {
        self.topics.get(topic.slot).filter(|found| found.serial == topic.serial)
    }

    fn topic_mut(&mut self, topic: TopicId) -> Option<&mut Topic> {
        self.topics.get_mut(topic.slot).filter(|found| found.serial == topic.serial)
    }

    pub fn len(&self, topic: TopicId) -> usize {
        self.members(topic).len()
    }

    pub fn members(&self, topic: TopicId) -> &[Member] {
        self.topic(topic).map_or(&[], |topic| &topic.members)
    }

    /// The members to whom what a topic brings is delivered.
    pub fn attending(&self, topic: TopicId) -> &[Member] {
        self.topic(topic).map_or(&[], |topic| &topic.members[..topic.attending])
    }

    pub fn subscribe(&mut self, topic: TopicId, conn: ConnId, logs: &Logs) {
        let Some(Topic { members, log, .. }) = self.topic(topic) else { return };
        let (position, log) = (members.len(), *log);
        if self.memberships.get(conn).is_none() {
            self.memberships.insert(conn, Memberships::Few(Vec::new()));
        }
        let all = self.memberships.get_mut(conn).expect("it was put there above");
        if all.position(topic).is_some() {
            return;
        }
        all.insert(topic, position);
        let mut member = Member { has_others: all.len() > 1, ..Member::new(conn) };
        if logs.is_of(log, topic) {
            // What was published before is not for it.
            member.take(log, logs.end(log));
        }
        let found = &mut self.topics[topic.slot];
        found.members.push(member);
        found.attending += 1;
        let attending = found.attending;
        self.swap(topic, position, attending - 1);
        self.count_others(conn);
    }

    pub fn unsubscribe(&mut self, topic: TopicId, conn: ConnId) {
        let Some(all) = self.memberships.get_mut(conn) else { return };
        let Some(position) = all.remove(topic) else { return };
        self.count_others(conn);
        self.take_out(topic, position);
    }

    /// Takes a connection that ends out of all its topics.
    pub fn forget(&mut self, conn: ConnId) {
        match self.memberships.remove(conn) {
            Some(Memberships::Few(list)) => {
                list.into_iter().for_each(|(topic, position)| self.take_out(topic, position));
            }
            Some(Memberships::Many(map)) => {
                map.into_iter().for_each(|(topic, position)| self.take_out(topic, position));
            }
            None => {}
        }
    }

    /// Removes one entry from a topic's list; whoever moves into its place is told so. It attends: nobody ends or leaves
    /// while set aside.
    fn take_out(&mut self, topic: TopicId, position: usize) {
        let found = &mut self.topics[topic.slot];
        found.attending -= 1;
        let (attending, last) = (found.attending, found.members.len() - 1);
        self.swap(topic, position, attending);
        self.swap(topic, attending, last);
        self.topics[topic.slot].members.pop();
    }

    /// Lets two members of a topic change places, and tells them.
    fn swap(&mut self, topic: TopicId, one: usize, other: usize) {
        if one == other {
            return;
        }
        let members = &mut self.topics[topic.slot].members;
        members.swap(one, other);
        for position in [one, other] {
            if let Some(all) = self.memberships.get_mut(members[position].conn)
                && let Some(noted) = all.position_mut(topic)
            {
                *noted = position;
            }
        }
    }

    // ---- members who take nothing ----

    /// Sets a member aside whose only topic this is: what the topic brings is no longer delivered to it, but kept until
    /// it attends again. Returns the arrears.
    pub fn set_aside(&mut self, conn: ConnId) -> Option<&Rc<Arrears>> {
        let (topic, position) = self.memberships.get(conn)?.single()?;
        let found = &mut self.topics[topic.slot];
        found.attending -= 1;
        self.aside += 1;
        let attending = found.attending;
        self.swap(topic, position, attending);
        Some(&self.topics[topic.slot].arrears)
    }

    /// Lets a member who was set aside attend again.
    pub fn attend(&mut self, conn: ConnId, alarm: u64, rank: i64) {
        self.set_alarm(conn, alarm, u64::MAX);
        self.set_rank(conn, rank, None);
        let Some((topic, position)) = self.memberships.get(conn).and_then(Memberships::single) else {
            return;
        };
        let found = &mut self.topics[topic.slot];
        found.attending += 1;
        self.aside -= 1;
        let attending = found.attending;
        self.swap(topic, position, attending - 1);
    }

    /// Moves the alarm of a member who was set aside; none is at `u64::MAX`.
    pub fn set_alarm(&mut self, conn: ConnId, from: u64, to: u64) {
        let Some((topic, _)) = self.memberships.get(conn).and_then(Memberships::single) else { return };
        let alarms = &mut self.topics[topic.slot].alarms;
        alarms.remove(&(from, conn));
        if to < u64::MAX {
            alarms.insert((to, conn));
        }
    }

    /// Moves a member who was set aside among the others by the memory that it holds.
    pub fn set_rank(&mut self, conn: ConnId, from: i64, to: Option<i64>) {
        let Some((topic, _)) = self.memberships.get(conn).and_then(Memberships::single) else { return };
        let slot = topic.slot;
        let ranks = &mut self.topics[slot].ranks;
        ranks.remove(&(from, conn));
        if let Some(to) = to {
            ranks.insert((to, conn));
        }
        self.rank_topic(slot);
    }

    /// Takes note of what the largest of those who were set aside holds now.
    fn rank_topic(&mut self, slot: usize) {
        let Topic { ranks, arrears, .. } = &self.topics[slot];
        let size = ranks.last().map_or(0, |&(rank, _)| (rank + arrears.end() as i64).max(1));
        self.backlogs.set(slot, slot, size as usize);
    }

    /// A topic's arrears has grown.
    pub fn note_arrears(&mut self, topic: TopicId) {
        if self.topic(topic).is_some() {
            self.rank_topic(topic.slot);
        }
    }

    /// Who holds the most memory of all who were set aside, and how much.
    pub fn largest_aside(&self) -> Option<(usize, ConnId)> {
        let (size, slot) = self.backlogs.largest()?;
        let &(_, conn) = self.topics[slot].ranks.last()?;
        Some((size, conn))
    }

    /// Whether there are members who were set aside.
    #[inline]
    pub fn has_aside(&self) -> bool {
        self.aside > 0
    }

    /// How many they are.
    #[cfg(debug_assertions)]
    pub fn aside(&self) -> usize {
        debug_assert_eq!(self.aside, self.topics.iter().map(|(_, topic)| topic.ranks.len()).sum());
        self.aside
    }

    /// The arrears of a topic, if somebody is to get what it brings later.
    pub fn arrears(&self, topic: TopicId) -> Option<&Arrears> {
        let found = self.topic(topic)?;
        (found.attending < found.members.len()).then_some(&found.arrears)
    }

    /// Takes one whose limit is passed by what the arrears has now.
    pub fn next_alarm(&mut self, topic: TopicId) -> Option<ConnId> {
        let found = self.topic_mut(topic)?;
        let &(alarm, conn) = found.alarms.first()?;
        if alarm >= found.arrears.end() {
            return None;
        }
        found.alarms.pop_first();
        Some(conn)
    }

    /// Notes in a connection's memberships whether there are others, after one was added or removed. From the third on each
    /// is made with that knowledge.
    fn count_others(&mut self, conn: ConnId) {
        let Some(all) = self.memberships.get(conn) else { return };
        let len = all.len();
        if len == 0 {
            self.memberships.remove(conn);
            return;
        }
        let mut next = all.after(None);
        while let Some((topic, position)) = next.filter(|_| len <= 2) {
            self.topics[topic.slot].members[position].has_others = len > 1;
            next = all.after(Some(topic));
        }
    }

    /// Adds a message to this turn's log of a topic, for everybody but one. Returns how many hear it.
    pub fn publish(
        &mut self,
        topic: TopicId,
        bytes: &[u8],
        except: Option<ConnId>,
        logs: &mut Logs,
    ) -> usize {
        let Some(found) = self.topic_mut(topic) else { return 0 };
        let members = found.members.len();
        // What nobody receives takes no memory.
        let is_heard = match &found.members[..] {
            [] => false,
            [only] => Some(only.conn) != except,
            _ => true,
        };
        if !is_heard || bytes.is_empty() {
            return 0;
        }
        if !logs.is_of(found.log, topic) {
            found.log = logs.begin(topic);
        }
        let log = found.log;
        let message = logs.add(log, bytes);
        let Some(member) = except.and_then(|conn| self.member_mut(topic, conn)) else { return members };
        member.heed(log);
        member.rest.own = logs.chain(log, member.rest.own, message);
        members - 1
    }

    #[inline]
    fn member_mut(&mut self, topic: TopicId, conn: ConnId) -> Option<&mut Member> {
        let position = self.memberships.get(conn)?.position(topic)?;
        self.topics[topic.slot].members.get_mut(position)
    }

    /// Takes what a connection has still to hear of one topic in this turn: which log, and what of it. `None` if that is
    /// nothing.
    pub fn take(&mut self, topic: TopicId, conn: ConnId, logs: &Logs) -> Option<(u64, Rest)> {
        let log = self.topic(topic)?.log;
        if !logs.is_of(log, topic) {
            return None;
        }
        let rest = self.member_mut(topic, conn)?.take(log, logs.end(log));
        Some((log, rest))
    }

    /// What is wrong with the lists, if anything. `look` says of a member whether it may be one, and if it was set aside
    /// its alarm.
    pub fn check(&self, look: impl Fn(ConnId) -> (bool, Option<u64>)) -> Result<(), String> {
        let (mut aside, mut members) = (0, 0);
        for (slot, topic) in &self.topics {
            let of = TopicId { slot, serial: topic.serial };
            aside += topic.members.len() - topic.attending;
            members += topic.members.len();
            let mut alarms = BTreeSet::new();
            for (position, member) in topic.members.iter().enumerate() {
                let conn = member.conn;
                let all = self.memberships.get(conn);
                if all.and_then(|all| all.position(of)) != Some(position) {
                    return Err(format!("{conn} does not know where it stands in {of:?}"));
                }
                let count = all.map_or(0, Memberships::len);
                if member.has_others != (count > 1) {
                    return Err(format!("{conn} is in {count} topics, and {of:?} takes it otherwise"));
                }
                let (may_be, alarm) = look(conn);
                if !may_be {
                    return Err(format!("{conn} is in {of:?}, but over"));
                }
                if alarm.is_some() != (position >= topic.attending) {
                    return Err(format!("{conn} was set aside by {of:?}, or is, and not both: {alarm:?}"));
                }
                alarms.extend(alarm.filter(|&alarm| alarm < u64::MAX).map(|alarm| (alarm, conn)));
            }
            if topic.alarms != alarms {
                return Err(format!("{of:?} has the alarms {:?} instead of {alarms:?}", topic.alarms));
            }
        }
        let memberships: usize = self.memberships.iter().map(|(_, all)| all.len()).sum();
        if self.aside != aside || memberships != members {
            return Err(format!(
                "{} of {memberships} members are set aside, counted again {aside} of {members}",
                self.aside
            ));
        }
        Ok(())
    }

    /// How many topics a connection is in.
    pub fn count_of(&self, conn: ConnId) -> usize {
        self.memberships.get(conn).map_or(0, Memberships::len)
    }

    /// The topic of a connection that follows `after` in order; its first one for `None`.
    pub fn topic_after(&self, conn: ConnId, after: Option<TopicId>) -> Option<TopicId> {
        Some(self.memberships.get(conn)?.after(after)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u64) -> ConnId {
        ConnId::from_token(1 << 32 | slot).unwrap()
    }

    fn members(topics: &Topics, topic: TopicId) -> Vec<usize> {
        let mut all: Vec<_> = topics.members(topic).iter().map(|member| member.conn.slot()).collect();
        all.sort_unstable();
        all
    }

    /// What a member hears of a topic when it is asked now.
    fn heard(topics: &mut Topics, topic: TopicId, slot: u64, logs: &Logs) -> String {
        let Some((log, mut rest)) = topics.take(topic, conn(slot), logs) else { return String::new() };
        let parts = std::iter::from_fn(|| logs.next_part(log, &mut rest));
        let bytes: Vec<_> = parts.flat_map(|part| logs.bytes(log)[part].to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn members_join_once_and_leave() {
        let (mut topics, logs) = (Topics::default(), Logs::default());
        let (red, blue) = (topics.create(), topics.create());
        for slot in 0..5 {
            topics.subscribe(red, conn(slot), &logs);
            topics.subscribe(red, conn(slot), &logs);
        }
        topics.subscribe(blue, conn(2), &logs);
        topics.unsubscribe(red, conn(0));
        topics.unsubscribe(red, conn(0));
        assert_eq!(members(&topics, red), [1, 2, 3, 4]);
        topics.forget(conn(2));
        assert_eq!(members(&topics, red), [1, 3, 4]);
        assert_eq!(members(&topics, blue), []);
        topics.unsubscribe(red, conn(4));
        topics.unsubscribe(red, conn(1));
        assert_eq!(members(&topics, red), [3]);
    }

    #[test]
    fn a_removed_topic_is_never_found_again() {
        let (mut topics, logs) = (Topics::default(), Logs::default());
        let old = topics.create();
        topics.subscribe(old, conn(1), &logs);
        topics.remove(old);
        let new = topics.create();
        topics.subscribe(old, conn(2), &logs);
        assert_eq!((topics.len(old), topics.len(new)), (0, 0));
        topics.forget(conn(1));
        topics.forget(conn(2));
        assert!(topics.memberships.is_empty());
    }

    #[test]
    fn everybody_hears_what_comes_while_they_are_there_and_is_not_their_own() {
        let (mut topics, mut logs) = (Topics::default(), Logs::default());
        let topic = topics.create();
        for slot in 1..=3 {
            topics.subscribe(topic, conn(slot), &logs);
        }
        let say = |topics: &mut Topics, logs: &mut Logs, slot, text: &str| {
            topics.publish(topic, text.as_bytes(), Some(conn(slot)), logs)
        };
        assert_eq!(say(&mut topics, &mut logs, 1, "a"), 2);
        assert_eq!(say(&mut topics, &mut logs, 2, "b"), 2);
        assert_eq!(heard(&mut topics, topic, 1, &logs), "b");
        topics.subscribe(topic, conn(4), &logs);
        assert_eq!(say(&mut topics, &mut logs, 1, "c"), 3);
        assert_eq!(say(&mut topics, &mut logs, 9, "d"), 4);
        assert_eq!(say(&mut topics, &mut logs, 1, "e"), 3);
        let all = [1, 2, 3, 4, 5].map(|slot| heard(&mut topics, topic, slot, &logs));
        assert_eq!(all, ["d", "acde", "abcde", "cde", ""]);
        assert_eq!(heard(&mut topics, topic, 3, &logs), "", "it has heard that");
        logs.end_turn();
        assert_eq!(heard(&mut topics, topic, 2, &logs), "", "that was another turn");
        say(&mut topics, &mut logs, 3, "f");
        assert_eq!([2, 3].map(|slot| heard(&mut topics, topic, slot, &logs)), ["f", ""]);
    }
}
