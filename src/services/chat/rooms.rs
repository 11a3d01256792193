//! The rooms, and who is in them.

use std::collections::BTreeMap;

use slab::Slab;

use super::names::Name;
use crate::slots::ConnId;
use crate::topic::TopicId;

/// Where everyone starts.
pub const LOBBY: &str = "lobby";

/// The rooms, in the order of their names.
#[derive(Default)]
pub struct Rooms {
    rooms: Slab<Room>,
    by_key: BTreeMap<String, RoomId>,
    /// How often somebody has entered a room: what tells the arrivals apart.
    arrivals: u64,
}

/// Names a room for as long as somebody is in it.
pub type RoomId = usize;

/// A room, with everybody who is in it.
pub struct Room {
    name: Name,
    /// Its members, as the engine knows them.
    pub topic: TopicId,
    /// In the order in which they came.
    members: BTreeMap<u64, ConnId>,
}

/// Somebody's place in a room.
#[derive(Clone, Copy)]
pub struct Seat {
    pub room: RoomId,
    arrival: u64,
}

impl Room {
    pub fn name(&self) -> &str {
        self.name.text()
    }

    /// How many people are in it.
    pub fn people(&self) -> usize {
        self.members.len()
    }

    /// Who is in it, in the order in which they came.
    pub fn members(&self) -> impl Iterator<Item = ConnId> {
        self.members.values().copied()
    }

    fn is_lobby(&self) -> bool {
        self.name.key() == LOBBY
    }
}

impl Rooms {
    pub fn find(&self, name: &Name) -> Option<RoomId> {
        self.by_key.get(name.key()).copied()
    }

    /// The room of somebody who has a seat there.
    pub fn get(&self, room: RoomId) -> &Room {
        &self.rooms[room]
    }

    /// All rooms, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Room> {
        self.by_key.values().map(|&room| &self.rooms[room])
    }

    /// How many there are, the lobby among them.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// How many rooms there would be besides the lobby if whoever has this seat were gone.
    pub fn others_without(&self, seat: Seat) -> usize {
        let room = self.get(seat.room);
        let goes_too = !room.is_lobby() && room.people() == 1;
        // Whoever has a seat began in the lobby.
        self.by_key.len() - 1 - usize::from(goes_too)
    }

    /// Makes a room of a name that no other has. It is there until the last one leaves; the lobby stays.
    pub fn make(&mut self, name: Name, topic: TopicId) -> RoomId {
        let key = name.key().to_owned();
        let room = self.rooms.insert(Room { name, topic, members: BTreeMap::new() });
        self.by_key.insert(key, room);
        room
    }

    pub fn enter(&mut self, room: RoomId, conn: ConnId) -> Seat {
        self.arrivals += 1;
        self.rooms[room].members.insert(self.arrivals, conn);
        Seat { room, arrival: self.arrivals }
    }

    /// Gives up a seat. Returns the room's topic if the room is gone with it.
    pub fn leave(&mut self, seat: Seat) -> Option<TopicId> {
        let room = &mut self.rooms[seat.room];
        room.members.remove(&seat.arrival);
        if room.is_lobby() || !room.members.is_empty() {
            return None;
        }
        let room = self.rooms.remove(seat.room);
        self.by_key.remove(room.name.key());
        Some(room.topic)
    }
}
