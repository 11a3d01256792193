//! People in a chat room who do not read: they are evicted, and the others hear everything meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidewheel::framing::{Framed, Rules};
use tidewheel::services::Language;
use tidewheel::services::chat::{Chat, ChatLimits};
use tidewheel::{Address, CloseReason, Limits, Options};

use crate::harness::with;

use crate::harness::load::stay_on;
use crate::harness::{PATIENCE, Served, any_tcp, ask, expect, listen_with, now, socket_address, tcp};

/// Chat without a limit to how fast people speak.
fn serve(limits: Limits, processor: Option<usize>) -> Served {
    Served::start(limits, move |reactor| {
        if let Some(processor) = processor {
            stay_on(processor);
        }
        let limits = with!(ChatLimits::default(), rate = 0, announce_max = 0);
        let chat = Framed::new(Chat::new(Language::English, limits), Rules::default());
        vec![listen_with(reactor, chat, Options::new("chat"), &any_tcp())]
    })
}

/// Somebody in the lobby.
pub fn enter(address: &Address, nick: &str, people: usize) -> TcpStream {
    let stream = tcp(address);
    stream.set_nodelay(true).unwrap();
    introduce(stream, nick, people)
}

/// Somebody in the lobby whose kernel buffers little of what is not read.
pub fn enter_to_stop(address: &Address, nick: &str, people: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&socket_address(address).into()).unwrap();
    introduce(socket.into(), nick, people)
}

fn introduce(mut stream: TcpStream, nick: &str, people: usize) -> TcpStream {
    let people = if people == 1 { "1 person".to_owned() } else { format!("{people} people") };
    let welcome = format!("nickname: * welcome to lobby, {nick}: {people} here; /help lists the commands\n");
    ask(&mut stream, format!("{nick}\n").as_bytes(), welcome.as_bytes());
    stream
}

#[test]
fn whoever_does_not_read_is_evicted_and_the_others_hear_everything() {
    const STOPPED: u64 = 3;
    let limits = with!(Limits::default(), output_hard_bytes = Some(128 << 10));
    let served = serve(limits.clone(), None);
    let mut talker = enter(&served.addresses[0], "talker", 1);
    let mut healthy: Vec<_> =
        (0..3).map(|number| enter(&served.addresses[0], &format!("h{number}"), number + 2)).collect();
    let stopped: Vec<_> = (0..STOPPED as usize)
        .map(|number| enter_to_stop(&served.addresses[0], &format!("s{number}"), number + 5))
        .collect();
    let text = "x".repeat(8 << 10);
    let begun = now();
    for number in 0.. {
        talker.write_all(format!("{number} {text}\n").as_bytes()).unwrap();
        for stream in &mut healthy {
            expect(stream, format!("talker: {number} {text}\n").as_bytes());
        }
        let metrics = served.metrics();
        if metrics.closed_for(CloseReason::OutputHardLimit) == STOPPED {
            // What waited for each of them was the limit, and the line that passed it.
            let each = limits.output_hard_bytes.unwrap() + text.len() + 100;
            assert!(metrics.bytes_unsent <= STOPPED * each as u64, "{} bytes waited", metrics.bytes_unsent);
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "after {number} lines they are still there");
    }
    talker.write_all(b"/who\n").unwrap();
    expect(&mut talker, b"* 4 people in lobby: talker, h0, h1, h2\n");
    drop(stopped);
}

#[test]
fn when_all_together_hold_too_much_the_largest_goes_first_and_what_they_share_counts_once() {
    const TOTAL: usize = 256 << 10;
    const LATE: usize = 3;
    let limits = with!(
        Limits::default(),
        output_soft_bytes = None,
        output_hard_bytes = None,
        memory_bytes_max = Some(TOTAL)
    );
    let served = serve(limits, None);
    let address = &served.addresses[0];
    let mut talker = enter(address, "talker", 1);
    let mut healthy: Vec<_> =
        (0..3).map(|number| enter(address, &format!("h{number}"), number + 2)).collect();
    let early = enter_to_stop(address, "early", 5);
    let mut late: Vec<_> =
        (0..LATE).map(|number| enter_to_stop(address, &format!("l{number}"), number + 6)).collect();
    let text = "x".repeat(8 << 10);
    let mut lines = 0;
    let mut say = |talker: &mut TcpStream, late: &mut [TcpStream]| {
        talker.write_all(format!("{lines} {text}\n").as_bytes()).unwrap();
        for stream in healthy.iter_mut().chain(late) {
            expect(stream, format!("talker: {lines} {text}\n").as_bytes());
        }
        lines += 1;
    };
    let begun = now();
    let say_until =
        |say: &mut dyn FnMut(&mut TcpStream, &mut [TcpStream]), talker: &mut TcpStream, evicted: usize| {
            while served.metrics().closed_for(CloseReason::MemoryLimit) < evicted as u64 {
                say(talker, &mut []);
                assert!(begun.elapsed() < PATIENCE, "{evicted} are never too much");
            }
            served.metrics()
        };
    // The late ones hear a half of what may wait, and stop then.
    (0..TOTAL / text.len() / 2).for_each(|_| say(&mut talker, &mut late));
    let metrics = say_until(&mut say, &mut talker, 1);
    // Its line is whole or cut, and one more is there before it is known to be gone.
    let (unsent, lines_of_slack) = (metrics.bytes_unsent as usize, 2 * (text.len() + 100));
    assert!(unsent <= TOTAL + lines_of_slack, "{unsent} bytes waited for one");
    assert!(unsent + lines_of_slack >= TOTAL, "after {unsent} bytes it was too much");
    assert_eq!(metrics.closed_for(CloseReason::MemoryLimit), 1);
    ask(&mut talker, b"/who\n", b"* 7 people in lobby: talker, h0, h1, h2, l0, l1, l2\n");
    let metrics = say_until(&mut say, &mut talker, 1 + LATE);
    assert!(metrics.bytes_unsent as usize <= (1 + LATE) * (TOTAL + lines_of_slack));
    ask(&mut talker, b"/who\n", b"* 4 people in lobby: talker, h0, h1, h2\n");
    say(&mut talker, &mut []);
    drop((early, late));
    let metrics = served.stop();
    assert_eq!(metrics.closed_for(CloseReason::OutputHardLimit), 0);
}

#[test]
#[ignore = "long: the longest gap of those who read"]
fn the_longest_gap_beside_one_who_does_not_read() {
    const EVERY: Duration = Duration::from_millis(1);
    const DURING: Duration = Duration::from_secs(10);
    let text = "x".repeat(1 << 10);
    for with_stopped in [false, true, false, true] {
        let served = serve(Limits::default(), Some(0));
        stay_on(1);
        let address = &served.addresses[0];
        let mut talker = enter(address, "talker", 1);
        let mut healthy: Vec<_> =
            (0..20).map(|number| enter(address, &format!("h{number}"), number + 2)).collect();
        let stopped = with_stopped.then(|| enter_to_stop(address, "stopped", 22));
        healthy.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        let begun = now();
        let mut heard_at = vec![begun; healthy.len()];
        let mut longest = Duration::ZERO;
        let (mut due, mut lines) = (begun, 0_u64);
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        // How long the system kept this thread from looking: no gap can be told to be shorter than that.
        let (mut looked_at, mut not_looking) = (begun, Duration::ZERO);
        while begun.elapsed() < DURING {
            not_looking = not_looking.max(looked_at.elapsed());
            looked_at = now();
            if looked_at >= due {
                due += EVERY;
                lines += 1;
                talker.write_all(format!("{text}\n").as_bytes()).unwrap();
            }
            for (stream, heard_at) in healthy.iter_mut().zip(&mut heard_at) {
                match stream.read(&mut buffer) {
                    Ok(0) => panic!("somebody who reads was closed"),
                    Ok(count) => {
                        bytes += count;
                        longest = longest.max(heard_at.elapsed());
                        *heard_at = now();
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
        let metrics = served.metrics();
        println!(
            "row 11: {lines} lines to {} who read, {} MB, {} who do not, {} evicted: longest gap {:.1} ms, \
             longest turn {:.1} ms, longest time without looking {:.1} ms",
            healthy.len(),
            bytes / 1_000_000,
            u8::from(with_stopped),
            metrics.closed_for(CloseReason::OutputHardLimit)
                + metrics.closed_for(CloseReason::OutputSoftLimit),
            longest.as_secs_f64() * 1e3,
            metrics.busy_ns.max() as f64 / 1e6,
            not_looking.as_secs_f64() * 1e3
        );
        drop(stopped);
        served.stop();
    }
}
