//! Chat over real sockets: what people see of each other, and what they never see.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::sim::{self, Random};
use tidewheel::{CloseReason, Limits, Options};

use crate::fuzz::checks::chat::check;
use crate::harness::{Folder, Served, any_tcp, ask, expect, listen_with, read_to_end, tcp, unix, with};

/// Chat on TCP.
fn serve(language: Language, limits: ChatLimits) -> Served {
    Served::start(Limits::default(), move |reactor| {
        let chat = Framed::new(Chat::new(language, limits), Rules::default());
        vec![listen_with(reactor, chat, Options::new("chat"), &any_tcp())]
    })
}

/// In English, for people who type as fast as tests do.
fn serve_english() -> Served {
    serve(Language::English, with!(ChatLimits::default(), rate = 0))
}

/// Somebody whose every line is awaited.
struct Person(TcpStream);

impl Person {
    /// Somebody who has not said who it is.
    fn connect(served: &Served) -> Person {
        let mut person = Person(tcp(&served.addresses[0]));
        person.hears("nickname: ");
        person
    }

    /// Somebody who comes as the `people`-th into the lobby.
    fn enter(served: &Served, nick: &str, people: usize) -> Person {
        let mut person = Person::connect(served);
        person.says(nick);
        person.is_welcome(nick, people);
        person
    }

    #[track_caller]
    fn is_welcome(&mut self, nick: &str, people: usize) {
        let people = if people == 1 { "1 person".to_owned() } else { format!("{people} people") };
        self.hears(&format!("* welcome to lobby, {nick}: {people} here; /help lists the commands\n"));
    }

    #[track_caller]
    fn says(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).expect("the connection is open");
    }

    #[track_caller]
    fn hears(&mut self, text: &str) {
        expect(&mut self.0, text.as_bytes());
    }

    /// Says something and hears what the server has to say to it.
    #[track_caller]
    fn is_told(&mut self, line: &str, answer: &str) {
        self.says(line);
        self.hears(&format!("{answer}\n"));
    }
}

/// Three people in the lobby who know of each other.
fn three(served: &Served) -> [Person; 3] {
    let mut alice = Person::enter(served, "alice", 1);
    let mut bob = Person::enter(served, "bob", 2);
    alice.hears("* bob has joined\n");
    let carol = Person::enter(served, "carol", 3);
    alice.hears("* carol has joined\n");
    bob.hears("* carol has joined\n");
    [alice, bob, carol]
}

#[test]
fn what_is_said_reaches_everyone_else_and_what_is_private_one_alone() {
    let served = serve_english();
    let [mut alice, mut bob, mut carol] = three(&served);
    alice.says("hello, everybody");
    bob.hears("alice: hello, everybody\n");
    carol.hears("alice: hello, everybody\n");
    for private in
        ["@bob psst", "/msg bob psst", "bob:psst", "bob: psst", "BOB：psst", "bob： psst", " ｂｏｂ : psst"]
    {
        alice.says(private);
        bob.hears("alice -> you: psst\n");
    }
    // To nobody: told so, and nobody else hears of it.
    let nobody = |nick: &str| {
        format!("* nobody here is called {nick}, so nothing was sent; /say TEXT says TEXT to the room")
    };
    alice.is_told("dave: psst", &nobody("dave"));
    alice.is_told("@dave psst", &nobody("dave"));
    alice.is_told("/msg dave psst", &nobody("dave"));
    alice.is_told("note: this", &nobody("note"));
    alice.is_told("bob:", "* something is missing: NAME:TEXT");
    alice.is_told("/dance", "* there is no command /dance; /help lists those there are");
    alice.says("/say note: this");
    alice.says("see http://example.org");
    alice.says("https://example.org");
    alice.says("");
    alice.says("alice: to myself");
    alice.hears("alice -> you: to myself\n");
    alice.says("that is all");
    // The next thing that each of them hears is what is public: nothing else has come before it.
    for other in [&mut bob, &mut carol] {
        other.hears("alice: note: this\nalice: see http://example.org\nalice: https://example.org\n");
        other.hears("alice: that is all\n");
    }
    carol.says("fine");
    alice.hears("carol: fine\n");
    bob.hears("carol: fine\n");
    served.stop();
}

#[test]
fn a_nickname_is_refused_with_the_reason_and_asked_for_again() {
    let served = serve_english();
    let mut alice = Person::enter(&served, "Zoé", 1);
    let mut bob = Person::connect(&served);
    let mut refused = |nick: &[u8], reason: &str| {
        bob.0.write_all(&[nick, b"\n"].concat()).unwrap();
        bob.hears(&format!("* {reason}\nnickname: "));
    };
    let length = "a name has 1 to 32 characters";
    let character = "a name consists of letters and digits of any script, _ and -";
    refused(b"", length);
    refused(b"   ", length);
    refused("x".repeat(33).as_bytes(), length);
    refused(b"two words", character);
    refused(b"/quit", character);
    refused(b"a\x1b[2Jb", character);
    refused("a\u{202e}b".as_bytes(), character);
    refused("a\u{200b}b".as_bytes(), character);
    refused(b"a\xffb", character);
    refused("Zoé".as_bytes(), "the name Zoé is taken");
    refused("ZOÉ".as_bytes(), "the name ZOÉ is taken");
    refused("zoe\u{301}".as_bytes(), "the name zoé is taken");
    bob.says(" bob\r");
    bob.is_welcome("bob", 2);
    alice.hears("* bob has joined\n");
    // A name is free again when its owner has gone, or has another.
    bob.is_told("/nick zoé", "* the name zoé is taken");
    bob.is_told("/nick :)", &format!("* {character}"));
    alice.is_told("/nick ZOÉ", "* you are now ZOÉ");
    bob.hears("* Zoé is now ZOÉ\n");
    alice.is_told("/nick ada", "* you are now ada");
    bob.hears("* ZOÉ is now ada\n");
    bob.is_told("/nick zoe\u{301}", "* you are now zoé");
    alice.hears("* bob is now zoé\n");
    bob.says("it is me");
    alice.hears("zoé: it is me\n");
    alice.says("Zoé: is it?");
    bob.hears("ada -> you: is it?\n");
    drop(bob);
    alice.hears("* zoé has left\n");
    let mut other = Person::enter(&served, "zoé", 2);
    alice.hears("* zoé has joined\n");
    other.says("another one");
    alice.hears("zoé: another one\n");
    served.stop();
}

#[test]
fn rooms_are_made_left_and_gone() {
    let served = serve_english();
    let [mut alice, mut bob, mut carol] = three(&served);
    alice.is_told("/join Rust", "* you are in Rust: 1 person here");
    bob.hears("* alice has left\n");
    carol.hears("* alice has left\n");
    bob.is_told("/join rust", "* you are in Rust: 2 people here");
    alice.hears("* bob has joined\n");
    carol.hears("* bob has left\n");
    bob.is_told("/join RUST", "* you are in Rust already");
    alice.says("only here");
    bob.hears("alice: only here\n");
    // Private words pass from room to room.
    alice.says("carol: over there");
    carol.hears("alice -> you: over there\n");
    alice.is_told("/who", "* 2 people in Rust: alice, bob");
    alice.is_told("/who lobby", "* 1 person in lobby: carol");
    alice.is_told("/who c++", "* there is no room c++; /rooms lists those there are");
    carol.is_told("/rooms", "* rooms: lobby (1), Rust (2)");
    carol.is_told("/join a b", "* a name consists of letters and digits of any script, _ and -");
    alice.is_told("/leave", "* you are in lobby: 2 people here");
    bob.hears("* alice has left\n");
    carol.hears("* alice has joined\n");
    alice.is_told("/leave", "* you are in lobby already");
    bob.says("alone");
    bob.is_told("/quit", "* goodbye");
    assert_eq!(read_to_end(&mut bob.0), (Vec::new(), false));
    // It is gone with the last one, and carol never heard a word of it.
    carol.is_told("/who", "* 2 people in lobby: carol, alice");
    carol.is_told("/rooms", "* rooms: lobby (2)");
    carol.is_told("/who rust", "* there is no room rust; /rooms lists those there are");
    drop(alice);
    carol.hears("* alice has left\n");
    let metrics = served.stop();
    assert_eq!(metrics.stale_effects, 0);
}

#[test]
fn the_number_of_rooms_is_exact() {
    let limits = with!(ChatLimits::default(), rooms_max = 2, rate = 0);
    let served = serve(Language::English, limits);
    let [mut alice, mut bob, mut carol] = three(&served);
    alice.is_told("/join one", "* you are in one: 1 person here");
    bob.hears("* alice has left\n");
    bob.is_told("/join two", "* you are in two: 1 person here");
    carol.hears("* alice has left\n* bob has left\n");
    let full = "* there are too many rooms; /rooms lists those there are";
    for _ in 0..1000 {
        carol.is_told("/join three", full);
    }
    carol.is_told("/join one", "* you are in one: 2 people here");
    alice.hears("* carol has joined\n");
    // Neither of the two leaves a room behind that would be gone; the last one in a room does.
    alice.is_told("/join three", full);
    bob.is_told("/join three", "* you are in three: 1 person here");
    carol.is_told("/rooms", "* rooms: lobby (0), one (2), three (1)");
    alice.is_told("/leave", "* you are in lobby: 1 person here");
    served.stop();
}

#[test]
fn large_rooms_do_not_tell_who_comes_and_goes() {
    let limits = with!(ChatLimits::default(), announce_max = 2);
    let served = serve(Language::English, limits);
    let mut alice = Person::enter(&served, "alice", 1);
    let mut bob = Person::enter(&served, "bob", 2);
    alice.hears("* bob has joined\n");
    let mut carol = Person::enter(&served, "carol", 3);
    carol.is_told("/nick cora", "* you are now cora");
    carol.is_told("/join elsewhere", "* you are in elsewhere: 1 person here");
    bob.is_told("/nick rob", "* you are now rob");
    alice.hears("* bob is now rob\n");
    drop(bob);
    alice.hears("* rob has left\n");
    served.stop();
}

#[test]
fn long_lists_are_cut_short() {
    let limits = with!(ChatLimits::default(), announce_max = 0, rate = 0);
    let served = serve(Language::English, limits);
    let mut people: Vec<_> =
        (0..105).map(|number| Person::enter(&served, &format!("p{number}"), number + 1)).collect();
    let first: Vec<_> = (0..100).map(|number| format!("p{number}")).collect();
    people[7].is_told("/who", &format!("* 105 people in lobby: {} ... and 5 more", first.join(", ")));
    for (number, person) in people.iter_mut().enumerate() {
        let room = format!("room{number:03}");
        person.is_told(&format!("/join {room}"), &format!("* you are in {room}: 1 person here"));
    }
    // The lobby is empty by now, and comes first by its name.
    let first: Vec<_> = (0..99).map(|number| format!("room{number:03} (1)")).collect();
    let list = format!("* rooms: lobby (0), {} ... and 6 more", first.join(", "));
    people[7].is_told("/rooms", &list);
    served.stop();
}

#[test]
fn simple_clients_need_no_newline() {
    let served = serve_english();
    let mut bob = Person(tcp(&served.addresses[0]));
    bob.hears("nickname: ");
    bob.0.write_all(b"bob").unwrap();
    bob.is_welcome("bob", 1);
    let mut tom = Person(tcp(&served.addresses[0]));
    tom.hears("nickname: ");
    tom.0.write_all(b"tom").unwrap();
    tom.is_welcome("tom", 2);
    bob.hears("* tom has joined\n");
    tom.0.write_all(b"bob:hello").unwrap();
    bob.hears("tom -> you: hello\n");
    bob.0.write_all(b"tom:hello yourself").unwrap();
    tom.hears("bob -> you: hello yourself\n");
    // The end of the stream ends a message too.
    tom.0.write_all(b"goodbye").unwrap();
    tom.0.shutdown(Shutdown::Write).unwrap();
    bob.hears("tom: goodbye\n* tom has left\n");
    served.stop();
}

#[test]
fn everything_is_said_in_chinese_too() {
    let served = serve(Language::Chinese, ChatLimits::default());
    let mut ming = tcp(&served.addresses[0]);
    expect(&mut ming, "请输入昵称:".as_bytes());
    ask(&mut ming, b"xiao ming\n", "* 名称只能由文字、数字、_ 和 - 组成\n请输入昵称:".as_bytes());
    ask(
        &mut ming,
        "小明\n".as_bytes(),
        "* 小明，欢迎来到 lobby，这里有 1 人；输入 /help 查看命令\n".as_bytes(),
    );
    let mut hong = tcp(&served.addresses[0]);
    expect(&mut hong, "请输入昵称:".as_bytes());
    ask(
        &mut hong,
        "小红\n".as_bytes(),
        "* 小红，欢迎来到 lobby，这里有 2 人；输入 /help 查看命令\n".as_bytes(),
    );
    expect(&mut ming, "* 小红 进入了房间\n".as_bytes());
    hong.write_all("小明：你好\n大家好\n".as_bytes()).unwrap();
    expect(&mut ming, "小红 -> you: 你好\n小红: 大家好\n".as_bytes());
    ask(&mut ming, b"/quit\n", "* 再见\n".as_bytes());
    expect(&mut hong, "* 小明 离开了房间\n".as_bytes());
    served.stop();
}

#[test]
fn help_lists_every_command_and_unix_sockets_do_as_well() {
    let folder = Folder::new();
    let path = folder.unix("chat");
    let served = Served::start(Limits::default(), move |reactor| {
        let chat = Framed::new(Chat::new(Language::English, ChatLimits::default()), Rules::default());
        vec![listen_with(reactor, chat, Options::new("chat"), &path)]
    });
    let mut stream = unix(&served.addresses[0]);
    stream.write_all(b"bob\n/help\n/quit\n").unwrap();
    let (heard, _) = read_to_end(&mut stream);
    let heard = String::from_utf8(heard).unwrap();
    for command in ["@NAME", "/msg", "/say", "/join", "/leave", "/rooms", "/who", "/nick", "/help", "/quit"] {
        assert!(heard.contains(command), "{command} is not in {heard}");
    }
    served.stop();
}

#[test]
fn a_flood_is_slowed_and_nothing_of_it_is_lost() {
    // One message a millisecond after the first two: all come, later than they were sent.
    let limits = with!(ChatLimits::default(), burst = 2, rate = 1000);
    let served = serve(Language::English, limits);
    let mut alice = Person::enter(&served, "alice", 1);
    let mut bob = Person::enter(&served, "bob", 2);
    alice.hears("* bob has joined\n");
    let said: Vec<_> = (0..300).map(|number| format!("{number}\n")).collect();
    bob.0.write_all(said.concat().as_bytes()).unwrap();
    bob.0.shutdown(Shutdown::Write).unwrap();
    for line in &said {
        alice.hears(&format!("bob: {line}"));
    }
    alice.hears("* bob has left\n");
    let mut told = String::new();
    bob.0.read_to_string(&mut told).unwrap();
    // Once, and again only if the bucket has been full in between.
    assert!(told.starts_with("* slow down\n") && told.lines().all(|line| line == "* slow down"), "{told}");
    served.stop();
}

#[test]
fn a_line_that_is_too_long_ends_the_connection_and_no_other() {
    let served = serve_english();
    let [mut alice, mut bob, _carol] = three(&served);
    let longest = "x".repeat(32 << 10);
    alice.says(&longest);
    bob.hears(&format!("alice: {longest}\n"));
    // Its last byte is one too many, and what follows it is never looked at.
    alice.0.write_all(&[longest.as_bytes(), b"x"].concat()).unwrap();
    alice.hears("* that message is too long, goodbye\n");
    assert_eq!(read_to_end(&mut alice.0), (Vec::new(), false));
    bob.hears("* alice has left\n");
    bob.is_told("/who", "* 2 people in lobby: bob, carol");
    drop(alice);
    served.await_metrics("it is counted", |metrics| metrics.closed_for(CloseReason::InputLimit) == 1);
}

/// Messages in which nearly everything that chat looks for happens, often in the wrong place.
fn mischief(random: &mut Random) -> Vec<u8> {
    const PIECES: [&str; 40] = [
        "\n",
        "\n",
        "\n",
        "\r\n",
        "\r",
        "\0",
        "\x1b[2J",
        "\x07",
        "\x7f",
        "\t",
        " ",
        ":",
        "：",
        "@",
        "＠",
        "/",
        "* ",
        " -> you: ",
        "watcher",
        "sender",
        "nickname: ",
        "lobby",
        "/say ",
        "/msg ",
        "/join ",
        "/leave",
        "/rooms",
        "/who ",
        "/nick ",
        "/help",
        "/quit",
        "//",
        "\u{85}",
        "\u{9b}",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{200d}",
        "e\u{301}",
        "漢",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.below(40) {
        match random.below(20) {
            0 => bytes.push(random.next_u64() as u8),
            1 => {
                let character = char::from_u32(random.below(0x11_0000) as u32).unwrap_or('\u{fffd}');
                bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => bytes.extend(PIECES[random.below(PIECES.len())].as_bytes()),
        }
    }
    bytes
}

#[test]
fn nothing_that_somebody_sends_shows_as_what_it_is_not() {
    sim::check(0..300, |seed| {
        let mut random = Random::new(seed);
        check(&mischief(&mut random));
        let noise = random.bytes(100);
        check(&noise);
    });
}
