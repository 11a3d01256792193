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
//! turn brought in one write. Joining, leaving and the end of a connection cost time in proportion to the topics of that
//! one connection, however many members a topic has: every membership knows where it stands in the topic's list.

use std::collections::BTreeSet;
use std::rc::Rc;

use slab::Slab;

use crate::arrears::Arrears;
use crate::log::{Logs, NO_LOG, Own, Rest};
use crate::slots::{ConnId, ConnMap};

/// Names a topic. It is never used twice.
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

struct Membership {
    topic: TopicId,
    position: usize,
}

#[derive(Default)]
pub(crate) struct Topics {
    topics: Slab<Topic>,
    serials: u64,
    memberships: ConnMap<Vec<Membership>>,
    /// Members who were set aside, of all topics.
    aside: usize,
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
            log: NO_LOG,
        };
        TopicId { slot: self.topics.insert(topic), serial }
    }

    pub fn remove(&mut self, topic: TopicId) {
        if self.topic(topic).is_none() {
            return;
        }
        for member in self.topics.remove(topic.slot).members {
            if let Some(all) = self.memberships.get_mut(member.conn) {
                all.retain(|membership| membership.topic != topic);
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
            self.memberships.insert(conn, Vec::new());
        }
        let all = self.memberships.get_mut(conn).expect("it was put there above");
        if all.iter().any(|membership| membership.topic == topic) {
            return;
        }
        all.push(Membership { topic, position });
        let mut member = Member::new(conn);
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
        let Some(index) = all.iter().position(|membership| membership.topic == topic) else { return };
        let membership = all.swap_remove(index);
        self.count_others(conn);
        self.take_out(&membership);
    }

    /// Takes a connection that ends out of all its topics.
    pub fn forget(&mut self, conn: ConnId) {
        for membership in self.memberships.remove(conn).unwrap_or_default() {
            self.take_out(&membership);
        }
    }

    /// Removes one entry from a topic's list; whoever moves into its place is told so. It attends: nobody ends or leaves
    /// while set aside.
    fn take_out(&mut self, membership: &Membership) {
        let topic = membership.topic;
        let found = &mut self.topics[topic.slot];
        found.attending -= 1;
        let (attending, last) = (found.attending, found.members.len() - 1);
        self.swap(topic, membership.position, attending);
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
                && let Some(entry) = all.iter_mut().find(|entry| entry.topic == topic)
            {
                entry.position = position;
            }
        }
    }

    // ---- members who take nothing ----

    /// Sets a member aside whose only topic this is: what the topic brings is no longer delivered to it, but kept until
    /// it attends again. Returns the arrears.
    pub fn set_aside(&mut self, conn: ConnId) -> Option<&Rc<Arrears>> {
        let [membership] = &self.memberships.get(conn)?[..] else { return None };
        let Membership { topic, position } = *membership;
        let found = &mut self.topics[topic.slot];
        found.attending -= 1;
        self.aside += 1;
        let attending = found.attending;
        self.swap(topic, position, attending);
        Some(&self.topics[topic.slot].arrears)
    }

    /// Lets a member who was set aside attend again.
    pub fn attend(&mut self, conn: ConnId, alarm: u64) {
        self.set_alarm(conn, alarm, u64::MAX);
        let Some([membership]) = self.memberships.get(conn).map(Vec::as_slice) else { return };
        let Membership { topic, position } = *membership;
        let found = &mut self.topics[topic.slot];
        found.attending += 1;
        self.aside -= 1;
        let attending = found.attending;
        self.swap(topic, position, attending - 1);
    }

    /// Moves the alarm of a member who was set aside; none is at `u64::MAX`.
    pub fn set_alarm(&mut self, conn: ConnId, from: u64, to: u64) {
        let Some([membership]) = self.memberships.get(conn).map(Vec::as_slice) else { return };
        let alarms = &mut self.topics[membership.topic.slot].alarms;
        alarms.remove(&(from, conn));
        if to < u64::MAX {
            alarms.insert((to, conn));
        }
    }

    /// Whether there are members who were set aside.
    #[inline]
    pub fn has_aside(&self) -> bool {
        self.aside > 0
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

    /// Notes in each of a connection's memberships whether there are others.
    fn count_others(&mut self, conn: ConnId) {
        let Some(all) = self.memberships.get(conn) else { return };
        if all.is_empty() {
            self.memberships.remove(conn);
            return;
        }
        for membership in all {
            let member = &mut self.topics[membership.topic.slot].members[membership.position];
            member.has_others = all.len() > 1;
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
        if members == 0 || bytes.is_empty() {
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

    fn member_mut(&mut self, topic: TopicId, conn: ConnId) -> Option<&mut Member> {
        let all = self.memberships.get(conn)?;
        let membership = all.iter().find(|membership| membership.topic == topic)?;
        self.topics[topic.slot].members.get_mut(membership.position)
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

    /// One of a connection's topics.
    pub fn topic_of(&self, conn: ConnId, index: usize) -> Option<TopicId> {
        Some(self.memberships.get(conn)?.get(index)?.topic)
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
