//! Topics: lists of connections that receive the same messages.
//!
//! Joining, leaving and the end of a connection cost time in proportion to the topics of that one connection,
//! however many members a topic has: every membership knows where it stands in the topic's list.

use slab::Slab;

use crate::slots::{ConnId, ConnMap};

/// Names a topic. It is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    slot: usize,
    serial: u64,
}

struct Topic {
    serial: u64,
    members: Vec<ConnId>,
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
}

impl Topics {
    pub fn create(&mut self) -> TopicId {
        self.serials += 1;
        let serial = self.serials;
        TopicId { slot: self.topics.insert(Topic { serial, members: Vec::new() }), serial }
    }

    pub fn remove(&mut self, topic: TopicId) {
        if self.topic(topic).is_none() {
            return;
        }
        for member in self.topics.remove(topic.slot).members {
            let left = self.memberships.get_mut(member).map(|all| {
                all.retain(|membership| membership.topic != topic);
                all.len()
            });
            if left == Some(0) {
                self.memberships.remove(member);
            }
        }
    }

    fn topic(&self, topic: TopicId) -> Option<&Topic> {
        self.topics.get(topic.slot).filter(|found| found.serial == topic.serial)
    }

    pub fn len(&self, topic: TopicId) -> usize {
        self.topic(topic).map_or(0, |topic| topic.members.len())
    }

    /// The member at `index`, for walking a topic while other things change.
    pub fn member(&self, topic: TopicId, index: usize) -> Option<ConnId> {
        self.topic(topic)?.members.get(index).copied()
    }

    pub fn subscribe(&mut self, topic: TopicId, conn: ConnId) {
        let Some(position) = self.topic(topic).map(|topic| topic.members.len()) else { return };
        if self.memberships.get(conn).is_none() {
            self.memberships.insert(conn, Vec::new());
        }
        let all = self.memberships.get_mut(conn).expect("it was put there above");
        if all.iter().all(|membership| membership.topic != topic) {
            all.push(Membership { topic, position });
            self.topics[topic.slot].members.push(conn);
        }
    }

    pub fn unsubscribe(&mut self, topic: TopicId, conn: ConnId) {
        let Some(all) = self.memberships.get_mut(conn) else { return };
        let Some(index) = all.iter().position(|membership| membership.topic == topic) else { return };
        let membership = all.swap_remove(index);
        if all.is_empty() {
            self.memberships.remove(conn);
        }
        self.take_out(&membership);
    }

    /// Takes a connection that ends out of all its topics.
    pub fn forget(&mut self, conn: ConnId) {
        for membership in self.memberships.remove(conn).unwrap_or_default() {
            self.take_out(&membership);
        }
    }

    /// Removes one entry from a topic's list; the last member moves into its place and is told so.
    fn take_out(&mut self, membership: &Membership) {
        let members = &mut self.topics[membership.topic.slot].members;
        members.swap_remove(membership.position);
        if let Some(&moved) = members.get(membership.position)
            && let Some(all) = self.memberships.get_mut(moved)
            && let Some(entry) = all.iter_mut().find(|entry| entry.topic == membership.topic)
        {
            entry.position = membership.position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u64) -> ConnId {
        ConnId::from_token(1 << 32 | slot).unwrap()
    }

    fn members(topics: &Topics, topic: TopicId) -> Vec<usize> {
        let mut all: Vec<_> =
            (0..topics.len(topic)).map(|index| topics.member(topic, index).unwrap().slot()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn members_join_once_and_leave() {
        let mut topics = Topics::default();
        let (red, blue) = (topics.create(), topics.create());
        for slot in 0..5 {
            topics.subscribe(red, conn(slot));
            topics.subscribe(red, conn(slot));
        }
        topics.subscribe(blue, conn(2));
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
        let mut topics = Topics::default();
        let old = topics.create();
        topics.subscribe(old, conn(1));
        topics.remove(old);
        let new = topics.create();
        topics.subscribe(old, conn(2));
        assert_eq!((topics.len(old), topics.len(new)), (0, 0));
        topics.forget(conn(1));
        topics.forget(conn(2));
        assert!(topics.memberships.is_empty());
    }
}
