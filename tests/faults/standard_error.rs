//! Standard error or output on a disk that is full. That nobody reads them is shown in
//! [`command_line`](crate::command_line).

use std::fs::OpenOptions;
use std::process::Stdio;

use rustix::process::Signal;

use super::assert_served;
use crate::harness::program::{Server, tidewheel};
use crate::harness::{Folder, unix};

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_full_disk_under_standard_error_stops_nothing() {
    let mut command = tidewheel(["serve", "--log-level", "debug", "echo=:0"]);
    command.stderr(full_disk());
    let mut server = Server::spawn(command).ready();
    let mut stream = server.tcp("echo");
    for _ in 0..50 {
        server.signal(Signal::USR1);
        assert_served(&mut stream);
        assert_served(&mut server.tcp("echo"));
    }
    drop(stream);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_full_disk_under_standard_output_stops_nothing() {
    let folder = Folder::new();
    let mut command = tidewheel(["serve", "--show"]);
    command.arg(format!("echo={}", folder.unix("echo"))).stdout(full_disk());
    let mut server = Server::spawn(command);
    server.await_err("serving 1 address");
    for _ in 0..50 {
        assert_served(&mut unix(&folder.unix("echo")));
    }
    assert!(server.counters()["output_lines_lost"] > 0);
    server.stop();
}

#[test]
#[ignore = "long: the longest stall while nobody reads standard error"]
fn the_longest_stall() {
    use std::io::{self, Write};
    use std::time::Duration;

    use crate::harness::load::{ask_together, describe};
    use crate::harness::now;

    let measure = |stderr: Stdio| {
        let mut command = tidewheel(["serve", "--log-level", "debug", "echo=:0"]);
        command.stderr(stderr);
        let server = Server::spawn(command).ready();
        let mut streams = [server.tcp("echo")];
        let begun = now();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            // Each connection is two lines of the log.
            let churn = scope.spawn(|| {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_served(&mut server.tcp("echo"));
                    count += 1;
                }
                count
            });
            let times = ask_together(&mut streams, Duration::from_secs(5));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (times, churn.join().unwrap())
        });
        (times.0, times.1, begun.elapsed())
    };
    let (times, lines, _) = measure(Stdio::null());
    println!("row 24: read at once: {}, {} lines", describe(&times), 2 * lines);
    let (_reader, mut writer) = io::pipe().unwrap();
    let capacity = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    writer.write_all(&vec![b'\n'; capacity]).unwrap();
    let (times, lines, _) = measure(writer.into());
    println!("row 24: never read: {}, {} lines", describe(&times), 2 * lines);
    let (times, lines, _) = measure(full_disk());
    println!("row 24: full disk: {}, {} lines", describe(&times), 2 * lines);
}
