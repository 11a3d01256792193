//! Chat on networks that cut, delay and break: who hears what, in which order, and who never does.

use std::time::Duration;

use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::sim::{self, Faults, Listener, PeerId, PeerState, Random, Sim};
use tidewheel::{CloseReason, Limits, Options};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{assert_nothing_leaks, kind_and_hostile, simulate};
use crate::fuzz::checks::chat::assert_orderly;
use crate::harness::with;

/// No limit to how fast people speak.
fn free() -> ChatLimits {
    with!(ChatLimits::default(), rate = 0, rooms_max = 100)
}

fn listen(sim: &mut Sim, limits: ChatLimits) -> Listener {
    let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
    sim.listen_with("127.0.0.1:25666", chat, Options::new("chat"))
}

/// Somebody who gives a nickname and has been let in, if the network allows.
fn enter(sim: &mut Sim, chat: Listener, nick: &str) -> PeerId {
    let peer = sim.connect(chat);
    sim.send(peer, format!("{nick}\n").as_bytes());
    sim.settle();
    peer
}

fn text(sim: &mut Sim, peer: PeerId) -> String {
    String::from_utf8(sim.received(peer).to_vec()).unwrap()
}

/// The whole lines that somebody has read which contain `word`.
fn lines_with(sim: &mut Sim, peer: PeerId, word: &str) -> Vec<String> {
    let text = text(sim, peer);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// Everybody sends everything at odd times, in pieces that are cut anywhere.
fn send_in_pieces(sim: &mut Sim, random: &mut Random, mut speeches: Vec<(PeerId, Vec<u8>)>) {
    while !speeches.is_empty() {
        let index = random.below(speeches.len());
        let (peer, speech) = &mut speeches[index];
        let cut = random.below(speech.len().min(60)) + 1;
        sim.try_send(*peer, &speech[..cut]);
        speech.drain(..cut);
        if speech.is_empty() {
            speeches.swap_remove(index);
        }
        if random.chance(0.2) {
            sim.run_for(Duration::from_micros(random.below(3_000) as u64));
        }
    }
}

/// People who all speak at once, to the room and in private. Returns how many were never cut off.
fn conversation(seed: u64, faults: Faults, limits: ChatLimits) -> usize {
    const PEOPLE: usize = 10;
    const LINES: usize = 12;
    let mut sim = simulate(seed, faults, Limits::default());
    let chat = listen(&mut sim, limits);
    let descriptors = sim.descriptors();
    let mut random = Random::new(!seed);
    let peers: Vec<_> = (0..PEOPLE).map(|number| enter(&mut sim, chat, &format!("p{number}"))).collect();
    let speeches = peers.iter().enumerate().map(|(from, &peer)| {
        let mut speech = String::new();
        for line in 0..LINES {
            let to = random.below(PEOPLE + 1);
            let secret = format!("secret to ={to}= from {from}, {line}");
            let padding = "x".repeat(random.below(100));
            speech += &match random.below(4) {
                0 => format!("p{to}: {secret}\n"),
                1 => format!("@P{to} {secret}\r\n"),
                2 => format!("/msg p{to} {secret}\n"),
                _ => format!("public {line} {padding}\n"),
            };
        }
        (peer, speech.into_bytes())
    });
    let speeches = speeches.collect();
    send_in_pieces(&mut sim, &mut random, speeches);
    sim.run_for(Duration::from_secs(60));

    let healthy: Vec<_> = (0..PEOPLE).filter(|&number| sim.state(peers[number]) == PeerState::Open).collect();
    // What the room heard, in the order in which two of them heard it who did not say it themselves.
    let not_by = |lines: &[String], numbers: &[usize]| -> Vec<String> {
        let by_these = |line: &String| numbers.iter().any(|number| line.starts_with(&format!("p{number}: ")));
        lines.iter().filter(|line| !by_these(line)).cloned().collect()
    };
    for &one in &healthy {
        assert_orderly(sim.received(peers[one]));
        let heard = lines_with(&mut sim, peers[one], "public");
        for from in (0..PEOPLE).filter(|&from| from != one) {
            let start = format!("p{from}: public ");
            let numbers = heard.iter().filter_map(|line| line.strip_prefix(&start));
            let numbers: Vec<usize> =
                numbers.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "{one} heard {from} out of order: {numbers:?}");
        }
        assert!(not_by(&heard, &[one]) == heard, "{one} heard itself");
        for &other in &healthy {
            let other_heard = lines_with(&mut sim, peers[other], "public");
            assert_eq!(
                not_by(&heard, &[one, other]),
                not_by(&other_heard, &[one, other]),
                "{one} and {other}"
            );
        }
    }
    for (number, &peer) in peers.iter().enumerate() {
        // Not even the beginning of another's, at the end of what came before it was cut off.
        let own = format!("{number}= from ");
        for secret in text(&mut sim, peer).split(" -> you: secret to =").skip(1) {
            assert!(secret.starts_with(&own) || own.starts_with(secret), "{number} heard {secret:?}");
        }
        assert!(
            lines_with(&mut sim, peer, "secret").iter().all(|line| line.contains(" -> you: secret to ="))
        );
        sim.finish(peer);
    }
    assert!(sim.run(), "it comes to an end");
    assert_nothing_leaks(&mut sim, descriptors);
    healthy.len()
}

#[test]
fn everybody_hears_the_same_in_the_same_order_and_secrets_reach_one_alone() {
    sim::check(0..15, |seed| {
        for limits in [free(), with!(ChatLimits::default(), burst = 3)] {
            assert_eq!(conversation(seed, Faults::none(), limits.clone()), 10);
            assert_eq!(conversation(seed, Faults::hostile(), limits), 10);
        }
    });
}

#[test]
fn who_is_cut_off_spoils_it_for_nobody_else() {
    let mut healthy = 0;
    sim::check(0..30, |seed| {
        let faults = with!(Faults::lossy(), reset = 0.002);
        healthy += conversation(seed, faults, free());
        conversation(seed, Faults::lossy(), free());
    });
    assert!(
        healthy > 30 || std::env::var_os("TIDEWHEEL_SEED").is_some(),
        "hardly anybody was left: {healthy}"
    );
}

#[test]
fn people_who_come_and_go_leave_nothing_behind() {
    sim::check(0..30, |seed| {
        for faults in [Faults::hostile(), Faults::lossy()] {
            let mut sim = simulate(seed, faults, Limits::default());
            let chat = listen(&mut sim, with!(free(), rooms_max = 3, announce_max = 5));
            let descriptors = sim.descriptors();
            let mut random = Random::new(!seed);
            let mut peers = Vec::new();
            for _ in 0..150 {
                if peers.is_empty() || random.chance(0.2) {
                    let peer = sim.connect(chat);
                    sim.send(peer, format!("n{}\nm{}\n", random.below(10), random.next_u64()).as_bytes());
                    peers.push(peer);
                }
                let peer = peers[random.below(peers.len())];
                let number = random.below(6);
                let said = match random.below(12) {
                    0..3 => format!("/join r{number}\n"),
                    3 => "/leave\n".to_owned(),
                    4 => format!("/nick n{number}\n"),
                    5 => format!("n{number}: psst\n"),
                    6 => "/who\n/rooms\n".to_owned(),
                    7 => "/quit\n".to_owned(),
                    8 => {
                        sim.reset(peer);
                        continue;
                    }
                    _ => "hello\n".to_owned(),
                };
                sim.try_send(peer, said.as_bytes());
                if random.chance(0.3) {
                    sim.run_for(Duration::from_micros(random.below(10_000) as u64));
                }
            }
            sim.settle();
            for &peer in &peers {
                sim.finish(peer);
            }
            assert!(sim.run(), "it comes to an end");
            // Who comes now finds it as it was at first.
            *sim.faults() = Faults::none();
            let last = enter(&mut sim, chat, "n1");
            sim.send(last, b"/rooms\n/who\n/quit\n");
            assert!(sim.run(), "it comes to an end");
            let heard = text(&mut sim, last);
            assert!(heard.ends_with("* rooms: lobby (1)\n* 1 person in lobby: n1\n* goodbye\n"), "{heard}");
            assert_nothing_leaks(&mut sim, descriptors);
        }
    });
}

#[test]
fn chat_is_the_same_for_the_same_seed() {
    let run = || {
        let mut sim = simulate(7, Faults::lossy(), Limits::default());
        let chat = listen(&mut sim, ChatLimits::default());
        let peers: Vec<_> = (0..20).map(|number| enter(&mut sim, chat, &format!("p{number}"))).collect();
        for (number, &peer) in peers.iter().enumerate() {
            sim.try_send(
                peer,
                format!("/join r{}\n/who\n/rooms\nhello\n/nick q{number}\n", number % 7).as_bytes(),
            );
            sim.finish(peer);
        }
        sim.run();
        sim.trace().clone()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_room_that_is_left_takes_its_topic_with_it() {
    let mut sim = simulate(0, Faults::none(), Limits::default());
    let chat = listen(&mut sim, free());
    let create_topic =
        |sim: &mut Sim| sim.reactor().with(chat.service, |_: &mut Framed<Chat>, cx| cx.create_topic());
    let peer = enter(&mut sim, chat, "somebody");
    sim.send(peer, b"/join room\n");
    sim.settle();
    let later = create_topic(&mut sim);
    sim.send(peer, b"/leave\n");
    sim.settle();
    // A new topic takes the place of one that is gone, and topics are in the order of their places.
    assert!(create_topic(&mut sim) < later, "the room's topic is still there");
}

#[test]
fn a_flood_is_closed_after_ten_seconds_and_a_talkative_person_is_not() {
    kind_and_hostile(&Limits::default(), |sim| {
        let chat = listen(sim, ChatLimits::default());
        let [quiet, talker, flooder] = ["quiet", "talker", "flooder"].map(|nick| enter(sim, chat, nick));
        let begun = sim.now();
        sim.send(flooder, &b"spam\n".repeat(2_000));
        for number in 0..100 {
            sim.send(talker, format!("talk {number}\n").as_bytes());
            sim.run_for(Duration::from_millis(250));
        }
        assert!(sim.now() - begun >= Duration::from_secs(25));
        assert_eq!(sim.reactor().metrics().closed_for(CloseReason::Flood), 1);
        let told = text(sim, flooder).replace("talker: talk", "");
        assert!(
            told.contains("* slow down\n") && told.ends_with("* you did not slow down, goodbye\n"),
            "{told}"
        );
        assert_eq!(told.matches("* slow down\n").count(), 1);
        // Twenty at once, of which one was its name, and five a second for ten seconds, of which the last was too much.
        let spam = lines_with(sim, quiet, "flooder: spam").len();
        assert!((60..=70).contains(&spam), "{spam}");
        assert_eq!(lines_with(sim, quiet, "talker: talk").len(), 100);
        assert_eq!(lines_with(sim, quiet, "flooder has left").len(), 1);
        assert!(!text(sim, talker).contains("slow down"));
    });
}

#[test]
fn who_does_not_read_is_closed_and_the_room_told() {
    let limits = with!(
        Limits::default(),
        output_soft_bytes = Some(20_000),
        output_soft_grace = Duration::from_secs(2),
        output_hard_bytes = Some(40_000)
    );
    for (lines, reason) in [(35, CloseReason::OutputSoftLimit), (60, CloseReason::OutputHardLimit)] {
        kind_and_hostile(&limits, |sim| {
            let few = with!(sim.faults().clone(), send_buffer_bytes = 1500, receive_buffer_bytes = 2000);
            *sim.faults() = few;
            let chat = listen(sim, free());
            let [talker, reader, sloth] = ["talker", "reader", "sloth"].map(|nick| enter(sim, chat, nick));
            sim.stop_reading(sloth);
            let line = [&[b'x'; 999][..], b"\n"].concat();
            for _ in 0..lines {
                sim.send(talker, &line);
                sim.run_for(Duration::from_millis(10));
            }
            sim.run_for(Duration::from_secs(3));
            assert_eq!(sim.reactor().metrics().closed_for(reason), 1, "{reason:?}");
            assert_eq!(lines_with(sim, reader, "talker: xxx").len(), lines);
            assert_eq!(lines_with(sim, reader, "sloth has left").len(), 1);
            assert_eq!(sim.reactor().connections(), 2);
        });
    }
}

#[test]
fn an_endless_line_is_refused_at_the_limit() {
    kind_and_hostile(&Limits::default(), |sim| {
        let chat = listen(sim, free());
        let named = enter(sim, chat, "named");
        let nameless = sim.connect(chat);
        let before = sim.reactor().metrics().bytes_in;
        for peer in [named, nameless] {
            // It ends neither with a newline nor with a pause.
            for _ in 0..100 {
                sim.try_send(peer, &[b'x'; 2_000]);
                sim.run_for(Duration::from_millis(5));
            }
            assert!(text(sim, peer).ends_with("* that message is too long, goodbye\n"));
        }
        sim.run();
        let metrics = sim.reactor().metrics();
        assert_eq!(metrics.closed_for(CloseReason::InputLimit), 2);
        // No more was read than one line and what one read brings.
        assert!(metrics.bytes_in - before <= 2 * ((32 << 10) + (64 << 10)), "{}", metrics.bytes_in - before);
    });
}

#[test]
fn no_control_or_format_character_reaches_anybody_in_a_name_nor_forges_a_line() {
    let characters: Vec<char> = (char::MIN..=char::MAX)
        .filter(|character| {
            matches!(
                character.general_category(),
                GeneralCategory::Control
                    | GeneralCategory::Format
                    | GeneralCategory::LineSeparator
                    | GeneralCategory::ParagraphSeparator
            )
        })
        .collect();
    assert!(characters.len() > 200, "{} of them", characters.len());
    kind_and_hostile(&Limits::default(), |sim| {
        let chat = listen(sim, free());
        let descriptors = sim.descriptors();
        let [watcher, speaker] = ["watcher", "speaker"].map(|nick| enter(sim, chat, nick));
        let nameless = sim.connect(chat);
        for character in &characters {
            let evil = format!("a{character}* watcher: b");
            for form in
                ["", "/say ", "watcher: ", "@watcher ", "/msg watcher ", "/nick ", "/join ", "/who ", "/"]
            {
                sim.send(speaker, format!("{form}{evil}\n").as_bytes());
            }
            sim.send(
                speaker,
                format!("/nick a{character}b\n/join a{character}b\na{character}b: c\n").as_bytes(),
            );
            // What a line feed parts is two names, and good ones.
            if *character != '\n' {
                sim.send(nameless, format!("a{character}b\n").as_bytes());
            }
            sim.settle();
        }
        sim.settle();
        for peer in [watcher, speaker, nameless] {
            assert_orderly(sim.received(peer));
        }
        let refusals = text(sim, nameless).matches("* a name consists of").count();
        assert_eq!(refusals, characters.len() - 1);
        // A line feed ends what is before it, which is a line of its sender; nothing else begins a line.
        for line in text(sim, watcher).trim_start_matches("nickname: ").lines() {
            let is_true =
                ["speaker: ", "speaker -> you: ", "* speaker ", "* welcome ", "* a ", "a: ", "a -> you: "];
            assert!(is_true.iter().any(|start| line.starts_with(start)), "{line:?}");
        }
        for peer in [watcher, speaker, nameless] {
            sim.finish(peer);
        }
        sim.run();
        assert_nothing_leaks(sim, descriptors);
    });
}
