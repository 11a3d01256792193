//! Chat: people with nicknames in rooms, who speak to the room or to one another.
//!
//! ```text
//!  message ─► flood: has its sender a token? ─► commands: what does it ask for? ─► Chat: who hears of it
//!                                                        │
//!                                                 names: is that a name?
//! ```
//!
//! What people see of each other is `nick: text` in the room and `nick -> you: text` in private; what begins with `* `
//! is said by the server. Each of these is a line that ends in LF. No text of a peer can begin or end a line, move the
//! cursor or turn the direction of writing: what could is replaced by U+FFFD.

pub(crate) mod commands;
mod flood;
mod names;
mod rooms;
mod texts;

use std::collections::HashMap;

use crate::connection::CloseReason;
use crate::framing::{Answer, Message, Next};
use crate::memory::REUSED_BYTES_MAX;
use crate::service::{Arrival, Context};
use crate::services::Language;
use crate::slots::{ConnId, ConnMap};
use crate::timer::Instant;
use commands::{Command, clean, parse};
use flood::{Bucket, Verdict};
use names::{NAME_CHARS_MAX, Name};
use rooms::{LOBBY, RoomId, Rooms, Seat};
use texts::{Text, prompt};

/// How many names or rooms one answer lists at most, so that a short question cannot ask for much.
const LISTED_MAX: usize = 100;

/// The limits of chat.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatLimits {
    /// Messages that a connection may send in a burst; at least 1. Default: 20.
    pub burst: u32,
    /// Messages per second after the burst; 0: no limit. Faster messages are delayed, and their sender is asked to slow
    /// down. A connection whose messages were all delayed for 10 s is closed for [`CloseReason::Flood`]. Default: 5.
    pub rate: u32,
    /// Members of a room above which joins, leaves and new names are not announced in it. Default: 500.
    pub announce_max: usize,
    /// The number of rooms, besides the lobby. Default: 10,000.
    pub rooms_max: usize,
}

impl Default for ChatLimits {
    fn default() -> ChatLimits {
        ChatLimits { burst: 20, rate: 5, announce_max: 500, rooms_max: 10_000 }
    }
}

/// Chat, for [`Framed`](crate::framing::Framed).
///
/// Names of people and rooms have 1 to 32 characters: letters, decimal digits, `_` and `-` of any script, in NFC, and
/// combining marks behind a letter, no more than four nonspacing ones. Names that differ in case, or in compatibility as
/// `bob` and full-width `ｂｏｂ` do, are the same. Letters of different scripts that look alike are not.
///
/// Every connection has at most one nickname and is in one room, so the memory of the chat is bounded by the limits of
/// connections and of rooms.
pub struct Chat {
    language: Language,
    limits: ChatLimits,
    conns: ConnMap<Conn>,
    /// The connection of everybody who has a name, by the key of the name. Only ever looked up: its order is random.
    by_nick: HashMap<String, ConnId>,
    rooms: Rooms,
    lobby: Name,
    /// What somebody says to others, in memory that is used again.
    line: String,
}

#[derive(Default)]
struct Conn {
    bucket: Bucket,
    /// Nobody until a nickname was given.
    person: Option<Person>,
}

struct Person {
    nick: Name,
    seat: Seat,
}

impl Chat {
    /// A chat with an empty lobby.
    pub fn new(language: Language, limits: ChatLimits) -> Chat {
        Chat {
            language,
            limits,
            conns: ConnMap::new(),
            by_nick: HashMap::new(),
            rooms: Rooms::default(),
            lobby: Name::parse(LOBBY).expect("it consists of letters"),
            line: String::new(),
        }
    }

    fn person(&self, conn: ConnId) -> Option<&Person> {
        self.conns.get(conn)?.person.as_ref()
    }

    // ---- what is said ----

    /// The server says something to one connection.
    fn tell(&self, conn: ConnId, text: &Text<'_>, cx: &mut Context<'_>) {
        cx.send(conn, text.lines(self.language).as_bytes());
    }

    /// The server says something about one person to everyone else in a room, unless so many are there that it would be
    /// noise.
    fn announce(&self, room: RoomId, about: ConnId, text: &Text<'_>, cx: &mut Context<'_>) {
        let room = self.rooms.get(room);
        if room.people() <= self.limits.announce_max {
            cx.publish(room.topic, text.lines(self.language).as_bytes(), Some(about));
        }
    }

    /// Somebody says something to everyone else in the room.
    fn say(&mut self, conn: ConnId, text: &str, cx: &mut Context<'_>) {
        let Some(Conn { person: Some(person), .. }) = self.conns.get(conn) else { return };
        self.line.clear();
        self.line.extend([person.nick.text(), ": ", text, "\n"]);
        cx.publish(self.rooms.get(person.seat.room).topic, self.line.as_bytes(), Some(conn));
    }

    /// Somebody says something to one person, wherever that one is.
    fn whisper(&mut self, conn: ConnId, to: &str, text: &str, cx: &mut Context<'_>) {
        let Some(Conn { person: Some(person), .. }) = self.conns.get(conn) else { return };
        let addressee = Name::parse(to).ok().and_then(|name| self.by_nick.get(name.key()));
        match addressee {
            Some(&addressee) => {
                self.line.clear();
                self.line.extend([person.nick.text(), " -> you: ", text, "\n"]);
                cx.send(addressee, self.line.as_bytes());
            }
            None => self.tell(conn, &Text::Nobody(shortened(to)), cx),
        }
    }

    // ---- who is where ----

    /// The nickname that `raw` stands for, if whoever is on `conn` may have it; if not, it is told why.
    fn free_nick(&self, conn: ConnId, raw: &str, cx: &mut Context<'_>) -> Option<Name> {
        match Name::parse(raw) {
            Ok(nick) if self.by_nick.get(nick.key()).is_none_or(|&owner| owner == conn) => return Some(nick),
            Ok(nick) => self.tell(conn, &Text::Taken(nick.text()), cx),
            Err(bad) => self.tell(conn, &Text::Bad(bad), cx),
        }
        None
    }

    /// The first message of a connection, and those after it until one is a nickname.
    fn introduce(&mut self, conn: ConnId, raw: &str, cx: &mut Context<'_>) {
        let Some(nick) = self.free_nick(conn, raw.trim(), cx) else {
            return cx.send(conn, prompt(self.language).as_bytes());
        };
        self.by_nick.insert(nick.key().to_owned(), conn);
        let lobby = self.lobby.clone();
        let seat = self.enter(conn, lobby, cx);
        let room = self.rooms.get(seat.room);
        let welcome = Text::Welcome { nick: nick.text(), room: room.name(), people: room.people() };
        self.tell(conn, &welcome, cx);
        self.announce(seat.room, conn, &Text::Joined(nick.text()), cx);
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.person = Some(Person { nick, seat });
        }
    }

    /// Gives a connection a seat in a room, which is made if there is none by that name.
    fn enter(&mut self, conn: ConnId, name: Name, cx: &mut Context<'_>) -> Seat {
        let room = self.rooms.find(&name).unwrap_or_else(|| self.rooms.make(name, cx.create_topic()));
        cx.subscribe(self.rooms.get(room).topic, conn);
        self.rooms.enter(room, conn)
    }

    /// Takes a person's seat away and tells the room.
    fn leave(&mut self, conn: ConnId, nick: &Name, seat: Seat, cx: &mut Context<'_>) {
        cx.unsubscribe(self.rooms.get(seat.room).topic, conn);
        self.announce(seat.room, conn, &Text::Left(nick.text()), cx);
        if let Some(topic) = self.rooms.leave(seat) {
            cx.remove_topic(topic);
        }
    }

    /// Somebody goes to another room.
    fn go(&mut self, conn: ConnId, name: Name, cx: &mut Context<'_>) {
        let Some(Person { nick, seat }) = self.person(conn) else { return };
        let (nick, seat) = (nick.clone(), *seat);
        match self.rooms.find(&name) {
            Some(room) if room == seat.room => {
                return self.tell(conn, &Text::InAlready(self.rooms.get(room).name()), cx);
            }
            None if self.rooms.others_without(seat) >= self.limits.rooms_max => {
                return self.tell(conn, &Text::TooManyRooms, cx);
            }
            _ => {}
        }
        self.leave(conn, &nick, seat, cx);
        let seat = self.enter(conn, name, cx);
        if let Some(Conn { person: Some(person), .. }) = self.conns.get_mut(conn) {
            person.seat = seat;
        }
        let room = self.rooms.get(seat.room);
        self.tell(conn, &Text::Entered { room: room.name(), people: room.people() }, cx);
        self.announce(seat.room, conn, &Text::Joined(nick.text()), cx);
    }

    /// Somebody wants another nickname.
    fn rename(&mut self, conn: ConnId, raw: &str, cx: &mut Context<'_>) {
        let Some(nick) = self.free_nick(conn, raw, cx) else { return };
        let Some(Conn { person: Some(person), .. }) = self.conns.get_mut(conn) else { return };
        let old = std::mem::replace(&mut person.nick, nick.clone());
        let room = person.seat.room;
        self.by_nick.remove(old.key());
        self.by_nick.insert(nick.key().to_owned(), conn);
        self.tell(conn, &Text::YouAre(nick.text()), cx);
        if old != nick {
            self.announce(room, conn, &Text::Renamed { from: old.text(), to: nick.text() }, cx);
        }
    }

    // ---- questions ----

    /// Who is in a room.
    fn list_people(&self, conn: ConnId, room: Option<&str>, cx: &mut Context<'_>) {
        let found = match room {
            Some(raw) => Name::parse(raw).ok().and_then(|name| self.rooms.find(&name)),
            None => self.person(conn).map(|person| person.seat.room),
        };
        let Some(room) = found.map(|room| self.rooms.get(room)) else {
            return self.tell(conn, &Text::NoRoom(shortened(room.unwrap_or_default())), cx);
        };
        let listed = room.members().take(LISTED_MAX);
        let nicks: Vec<_> =
            listed.filter_map(|member| self.person(member)).map(|person| person.nick.text()).collect();
        let text = Text::Who { room: room.name(), nicks: &nicks, more: room.people() - nicks.len() };
        self.tell(conn, &text, cx);
    }

    /// Which rooms there are.
    fn list_rooms(&self, conn: ConnId, cx: &mut Context<'_>) {
        let rooms: Vec<_> =
            self.rooms.iter().take(LISTED_MAX).map(|room| (room.name(), room.people())).collect();
        let text = Text::Rooms { rooms: &rooms, more: self.rooms.len() - rooms.len() };
        self.tell(conn, &text, cx);
    }

    fn obey(&mut self, conn: ConnId, command: Command<'_>, cx: &mut Context<'_>) -> Next {
        match command {
            Command::Nothing => {}
            Command::Say(text) => self.say(conn, text, cx),
            Command::Tell { to, text } => self.whisper(conn, to, text, cx),
            Command::Join(raw) => match Name::parse(raw) {
                Ok(room) => self.go(conn, room, cx),
                Err(bad) => self.tell(conn, &Text::Bad(bad), cx),
            },
            Command::Leave => self.go(conn, self.lobby.clone(), cx),
            Command::Rooms => self.list_rooms(conn, cx),
            Command::Who(room) => self.list_people(conn, room, cx),
            Command::Nick(raw) => self.rename(conn, raw, cx),
            Command::Help => self.tell(conn, &Text::Help, cx),
            Command::Quit => {
                self.tell(conn, &Text::Goodbye, cx);
                cx.close(conn);
                return Next::Nothing;
            }
            Command::Incomplete(form) => self.tell(conn, &Text::Incomplete(form), cx),
            Command::Unknown(name) => self.tell(conn, &Text::Unknown(shortened(name)), cx),
        }
        Next::Message
    }
}

/// As much of what somebody wrote as is repeated to them.
fn shortened(raw: &str) -> &str {
    raw.char_indices().nth(NAME_CHARS_MAX).map_or(raw, |(end, _)| &raw[..end])
}

impl Answer for Chat {
    fn open(&mut self, conn: ConnId, _: Arrival, cx: &mut Context<'_>) {
        self.conns.insert(conn, Conn::default());
        cx.send(conn, prompt(self.language).as_bytes());
    }

    fn message(&mut self, conn: ConnId, message: Message<'_>, cx: &mut Context<'_>) -> Next {
        if self.line.capacity() > REUSED_BYTES_MAX {
            self.line = String::new();
        }
        let Some(entry) = self.conns.get_mut(conn) else { return Next::Nothing };
        if entry.bucket.take(cx.now(), &self.limits) == Verdict::Flood {
            self.tell(conn, &Text::Flooded, cx);
            cx.close_for(conn, CloseReason::Flood);
            return Next::Nothing;
        }
        let text = clean(message.text);
        if entry.person.is_some() {
            return self.obey(conn, parse(&text), cx);
        }
        self.introduce(conn, &text, cx);
        Next::Message
    }

    fn hold(&mut self, conn: ConnId, cx: &mut Context<'_>) -> Option<Instant> {
        let wait = self.conns.get_mut(conn)?.bucket.hold(cx.now(), &self.limits)?;
        if wait.tell {
            self.tell(conn, &Text::SlowDown, cx);
        }
        Some(wait.until)
    }

    fn too_long(&mut self, conn: ConnId, cx: &mut Context<'_>) {
        self.tell(conn, &Text::TooLong, cx);
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason, cx: &mut Context<'_>) {
        if let Some(Person { nick, seat }) = self.conns.remove(conn).and_then(|entry| entry.person) {
            self.by_nick.remove(nick.key());
            self.leave(conn, &nick, seat, cx);
        }
    }
}
