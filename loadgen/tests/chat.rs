//! Chat: a small server that speaks as tidewheel's does and is right, and others that are wrong in one way each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{complaint, echo_server, loadgen, measure, serve};

/// What is on its way to one member: its number, and a line without its end.
type Delivery = (usize, String);

/// What happens to the line with this number, the first being 0, on its way to everybody in the room.
trait Way: FnMut(u64, &mut Vec<Delivery>, &Rooms) + Send + 'static {}

impl<F: FnMut(u64, &mut Vec<Delivery>, &Rooms) + Send + 'static> Way for F {}

/// The members, in the order in which they have come to a room; of several with one number the last counts.
#[derive(Default)]
struct Rooms(Vec<Member>);

struct Member {
    number: usize,
    room: String,
    stream: TcpStream,
}

impl Rooms {
    fn find(&self, number: usize) -> &Member {
        self.0.iter().rfind(|member| member.number == number).unwrap()
    }

    /// Everybody who is in the room of a member, but not this one.
    fn others(&self, number: usize) -> Vec<usize> {
        let room = &self.find(number).room;
        self.0.iter().filter(|it| it.room == *room && it.number != number).map(|it| it.number).collect()
    }

    fn tell(&self, number: usize, line: &str) {
        // Who has gone is told nothing.
        let _ = (&self.find(number).stream).write_all(format!("{line}\n").as_bytes());
    }
}

/// A chat without a fault; returns its HOST:PORT.
pub fn server() -> String {
    chat(|_, _, _| {})
}

/// A chat of as many rooms and members as come; returns its HOST:PORT.
fn chat(way: impl Way) -> String {
    struct State<W> {
        rooms: Rooms,
        lines: u64,
        way: W,
    }
    let state = Arc::new(Mutex::new(State { rooms: Rooms::default(), lines: 0, way }));
    serve(move |mut stream| {
        stream.write_all(b"nickname: ").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let nick = lines.next().unwrap();
        writeln!(stream, "* welcome to lobby, {nick}: 1 person here; /help lists the commands").unwrap();
        let room = lines.next().unwrap().strip_prefix("/join ").unwrap().to_owned();
        let number = nick.rsplit_once('-').unwrap().1.parse().unwrap();
        {
            let rooms = &mut state.lock().unwrap().rooms;
            rooms.0.push(Member { number, room: room.clone(), stream: stream.try_clone().unwrap() });
            rooms.tell(number, &format!("* you are in {room}: {} people here", rooms.0.len()));
            rooms.others(number).iter().for_each(|&other| rooms.tell(other, &format!("* {nick} has joined")));
        }
        for text in lines {
            let State { rooms, lines, way } = &mut *state.lock().unwrap();
            let others = rooms.others(number).into_iter();
            let mut deliveries = others.map(|other| (other, format!("{nick}: {text}"))).collect();
            way(*lines, &mut deliveries, rooms);
            *lines += 1;
            deliveries.iter().for_each(|(to, line)| rooms.tell(*to, line));
        }
    })
}

/// Runs without warm-up unless there is one in the arguments, whatever comes of it: the JSON and what was told on standard error.
fn outcome(address: &str, arguments: &[&str]) -> (Value, String) {
    let target = format!("chat={address}");
    let mut run = vec!["run", &target, "--json", "-"];
    for (option, value) in [("-w", "0"), ("--timeout", "1s")] {
        if !arguments.contains(&option) {
            run.extend([option, value]);
        }
    }
    run.extend(arguments);
    let Output { stdout, stderr, .. } = loadgen(&run);
    let told = String::from_utf8(stderr).unwrap();
    (serde_json::from_slice(&stdout).expect(&told), told)
}

/// The faults of each kind, and the deliveries that were right.
fn counts(result: &Value) -> [u64; 7] {
    let chat = &result["chat"];
    let kinds = ["deliveries", "corrupted", "duplicated", "reordered", "wrong_room", "unexpected"];
    let [deliveries, corrupted, duplicated, reordered, wrong_room, unexpected] =
        kinds.map(|kind| chat[kind].as_u64().unwrap());
    let lost = result["lost"].as_u64().unwrap();
    assert_eq!(result["deliveries"], deliveries);
    assert_eq!(result["errors"], corrupted + duplicated + reordered + wrong_room + unexpected, "{result}");
    [deliveries, corrupted, duplicated, reordered, wrong_room, unexpected, lost]
}

#[test]
fn every_line_comes_to_everybody_else_in_the_room_in_both_loops() {
    let address = chat(|_, _: &mut Vec<Delivery>, _: &Rooms| {});
    let target = format!("chat={address}");
    let shape = ["-c", "14", "--rooms", "4", "--senders", "2", "--threads", "2", "-s", "uniform:1-300"];
    for pace in [&["-d", "3", "-n", "600"][..], &["-r", "2k", "-n", "600"]] {
        let result = measure(&target, &[&shape, pace].concat());
        let chat = &result["chat"];
        assert_eq!(
            (&chat["rooms"], &chat["senders"], &result["requests"]),
            (&4.into(), &2.into(), &600.into())
        );
        // Two rooms have four members and two have three, and each line comes to all but one. Who says how many in a
        // closed loop is a matter of who is faster.
        let [deliveries, faults @ ..] = counts(&result);
        assert!((1200..=1800).contains(&deliveries) && faults == [0; 6], "{result}");
        assert!(pace[0] == "-d" || deliveries == 1500, "{result}");
        assert_eq!(result["response_time_us"].is_null(), pace[0] == "-d");
        assert!(result["deliveries_per_s"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_warm_up_is_not_in_the_result_and_announcements_are_no_lines() {
    let address = chat(|number, deliveries: &mut Vec<Delivery>, _: &Rooms| {
        if number.is_multiple_of(10) {
            deliveries.insert(1, (2, "* nothing is wrong".to_owned()));
        }
    });
    let target = format!("chat={address}");
    let result = measure(&target, &["-c", "4", "-n", "100"]);
    assert_eq!((counts(&result), &result["chat"]["announcements"]), ([300, 0, 0, 0, 0, 0, 0], &10.into()));
    let (result, _) = outcome(&address, &["-c", "4", "-n", "100", "-w", "50ms", "--senders", "4"]);
    assert_eq!((counts(&result), &result["chat"]["announcements"]), ([300, 0, 0, 0, 0, 0, 0], &10.into()));
}

#[test]
fn a_line_that_one_receiver_never_gets_is_lost_once() {
    let drops = |number: u64, deliveries: &mut Vec<Delivery>, _: &Rooms| {
        deliveries.retain(|(to, _)| !(*to == 3 && [50, 99].contains(&number)));
    };
    let (result, told) = outcome(&chat(drops), &["-c", "5", "-n", "100"]);
    assert_eq!(counts(&result), [398, 0, 0, 0, 0, 0, 2]);
    assert_eq!((&result["verdict"], &result["limiter"]), (&"invalid".into(), &"server".into()));
    assert!(told.contains("-3: line 50 of") && told.contains("did not come within 1s"), "{told}");
    // Nobody waits for it in an open loop.
    let (result, _) = outcome(&chat(drops), &["-c", "5", "-n", "100", "-r", "2k"]);
    assert_eq!(counts(&result), [398, 0, 0, 0, 0, 0, 2]);
    assert_eq!(result["response_time_us"]["max"], "lost");
    // One in which nothing comes to anybody has shown nothing.
    let nothing = chat(|_, deliveries: &mut Vec<Delivery>, _: &Rooms| deliveries.clear());
    for pace in [&[][..], &["-r", "200"]] {
        let (result, told) = outcome(&nothing, &[&["-c", "3", "-n", "4"], pace].concat());
        assert_eq!((&result["verdict"], &result["limiter"]), (&"invalid".into(), &"server".into()));
        assert!(told.contains("no replies"), "{told}");
    }
}

#[test]
fn a_receiver_that_gets_nothing_does_not_hold_up_the_others_for_ever() {
    let address = chat(|_, deliveries: &mut Vec<Delivery>, _: &Rooms| deliveries.retain(|(to, _)| *to != 3));
    let (result, _) = outcome(&address, &["-c", "5", "-n", "1000", "--timeout", "500ms"]);
    assert_eq!(counts(&result), [3000, 0, 0, 0, 0, 0, 1000]);
}

#[test]
fn what_comes_twice_is_counted_as_often_as_it_does() {
    let address = chat(|number, deliveries: &mut Vec<Delivery>, _: &Rooms| {
        if number % 25 == 24 {
            deliveries.push(deliveries[2].clone());
        }
    });
    for pace in ["-d", "-r"] {
        let (result, told) = outcome(&address, &["-c", "5", "-n", "100", pace, "1000"]);
        assert_eq!(counts(&result), [400, 0, 4, 0, 0, 0, 0], "{told}");
        assert_eq!(result["limiter"], "wrong replies");
        assert!(told.contains("4 wrong replies, the first on") && told.contains("once more"), "{told}");
    }
}

#[test]
fn what_is_overtaken_is_reordered() {
    let mut held = Vec::new();
    let address = chat(move |number, deliveries: &mut Vec<Delivery>, _: &Rooms| {
        if number % 20 == 5 {
            held.push(deliveries.pop().unwrap());
        } else {
            deliveries.append(&mut held);
        }
    });
    let (result, told) = outcome(&address, &["-c", "4", "-n", "100", "-d", "2"]);
    assert_eq!(counts(&result), [295, 0, 0, 5, 0, 0, 0], "{told}");
    assert!(told.contains("line 5 of") && told.contains("after a later one"), "{told}");
}

#[test]
fn what_crosses_into_another_room_or_comes_back_is_seen() {
    let address = chat(|number, deliveries: &mut Vec<Delivery>, rooms: &Rooms| {
        if number % 50 == 10 {
            let receiver = deliveries[0].0;
            let room = &rooms.find(receiver).room;
            let stranger = rooms.0.iter().rfind(|member| member.room != *room).unwrap().number;
            deliveries.push((stranger, deliveries[0].1.clone()));
        }
        if number == 70 {
            let (nick, _) = deliveries[0].1.split_once(':').unwrap();
            let sender = nick.rsplit_once('-').unwrap().1.parse().unwrap();
            deliveries.push((sender, deliveries[0].1.clone()));
        }
    });
    let (result, told) = outcome(&address, &["-c", "6", "--rooms", "2", "-n", "100"]);
    assert_eq!(counts(&result), [200, 0, 0, 0, 2, 1, 0], "{told}");
    assert!(told.contains("who is in another room"), "{told}");
    // Rooms of another thread are other rooms all the same.
    let (result, told) =
        outcome(&address, &["-c", "6", "--rooms", "2", "--threads", "2", "-r", "1k", "-n", "100"]);
    assert_eq!(counts(&result), [200, 0, 0, 0, 2, 0, 0], "{told}");
}

#[test]
fn wrong_bytes_are_told_with_their_place() {
    // In the payload, in the nickname, in the number; too few, too many; and a line from nowhere.
    let address = chat(|number, deliveries: &mut Vec<Delivery>, _: &Rooms| {
        let line = &mut deliveries[0].1;
        let payload = line.len() - 64;
        match number {
            20 => line.replace_range(payload + 3..payload + 4, "!"),
            30 => line.replace_range(0..1, "L"),
            40 => line.replace_range(payload - 3..payload - 2, "9"),
            50 => line.truncate(payload + 5),
            60 => line.push('!'),
            70 => deliveries.push((1, "hello".to_owned())),
            _ => {}
        }
    });
    let (result, told) = outcome(&address, &["-c", "4", "-n", "100"]);
    assert_eq!(counts(&result), [295, 5, 0, 0, 0, 1, 0], "{told}");
    assert!(told.contains("of line 20 of") && told.contains("is 0x21, not 0x"), "{told}");
}

#[test]
fn a_member_whose_connection_is_closed_is_told_with_the_last_words() {
    let address = chat(|number, deliveries: &mut Vec<Delivery>, rooms: &Rooms| {
        if number == 10 {
            rooms.tell(2, "* goodbye");
            rooms.find(2).stream.shutdown(Shutdown::Both).unwrap();
            deliveries.retain(|(to, _)| *to != 2);
        }
    });
    let (result, told) = outcome(&address, &["-c", "4", "-n", "100"]);
    assert_eq!(
        (&result["requests"], &result["peer_closed"], &result["lost"]),
        (&100.into(), &1.into(), &1.into())
    );
    assert_eq!(counts(&result)[0], 10 * 3 + 90 * 2);
    assert_eq!(result["limiter"], "peer closed");
    assert!(told.contains("it last sent \"* goodbye\""), "{told}");
}

#[test]
fn flood_control_is_named_with_the_way_to_turn_it_off() {
    for (words, limiter) in [
        (&["* slow down"][..], "flood control"),
        (&["* slow down", "* you did not slow down, goodbye"], "flood control"),
        (&["* 请慢一点"], "flood control"),
    ] {
        let address = chat(move |number, deliveries: &mut Vec<Delivery>, rooms: &Rooms| {
            if number == 10 {
                words.iter().for_each(|line| rooms.tell(0, line));
            }
            if words.len() > 1 && number >= 10 {
                let _ = rooms.find(0).stream.shutdown(Shutdown::Both);
                deliveries.clear();
            }
        });
        let (result, told) = outcome(&address, &["-c", "3", "-n", "20"]);
        assert_eq!(result["limiter"], limiter, "{told}");
        assert!(told.contains("slow down") || told.contains("请慢一点"), "{told}");
        assert!(told.contains("--chat-rate 0"), "{told}");
    }
}

#[test]
fn whoever_is_not_let_in_is_told_why() {
    let run = |address: &str| {
        let target = format!("chat={address}");
        complaint(&["run", &target, "-c", "2", "-n", "1", "--timeout", "500ms"], 3)
    };
    let told = run(&echo_server());
    assert!(told.contains("is refused: the server sent \"lg"), "{told}");
    let told = run(&serve(|mut stream| {
        stream.write_all(b"nickname: * the name is taken\nnickname: ").unwrap();
        wait_for_end(stream);
    }));
    assert!(told.contains("is refused: the server sent \"nickname: * the name is taken\""), "{told}");
    let told = run(&serve(wait_for_end));
    assert!(told.contains("-0 is in no room after 500ms: the server sent nothing"), "{told}");
    let told = run(&serve(|mut stream| stream.write_all(b"* we are full\n").unwrap()));
    assert!(told.contains("* we are full"), "{told}");
}

/// Says nothing more.
fn wait_for_end(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn options_that_cannot_be_are_bad_usage() {
    for (arguments, words) in [
        (&["chat=127.0.0.1:1"][..], "-c 2"),
        (&["chat=127.0.0.1:1", "-c", "5", "--rooms", "3"], "-c 6"),
        (&["chat=127.0.0.1:1", "-c", "5", "--senders", "6"], "--senders 6"),
        (&["chat=udp://127.0.0.1:1", "-c", "2"], "not served over datagrams"),
        (&["echo=127.0.0.1:1", "--rooms", "1"], "--rooms is for chat"),
        (&["echo=127.0.0.1:1", "--senders", "1"], "--senders is for chat"),
    ] {
        let told = complaint(&[&["run"], arguments].concat(), 2);
        assert!(told.contains(words), "{told}");
    }
}
