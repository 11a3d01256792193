//! Unix sockets of the program: who serves a path, who may connect, and who is answered.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::Signal;
use tidewheel::{Address, Limits, Options, Reactor, services::echo::Echo};

use crate::harness::program::{Server, refused, tidewheel, tidewheel_through};
use crate::harness::{Folder, PATIENCE, SetAtEnd, ask, await_that};

/// `echo=unix:PATH` or `echo=unix-dgram:PATH`.
fn echo(transport: &str, path: &Path) -> String {
    format!("echo={transport}:{}", path.display())
}

fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn assert_served(path: &Path) {
    let mut stream = UnixStream::connect(path).expect("somebody listens there");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&mut stream, b"hello", b"hello");
}

/// A socket's file that a program left behind.
fn leave_stale(transport: &str, path: &Path) {
    match transport {
        "unix" => drop(UnixListener::bind(path).unwrap()),
        _ => drop(UnixDatagram::bind(path).unwrap()),
    }
    assert!(path.exists());
}

// ---- who serves ----

#[test]
fn of_instances_that_start_together_one_serves() {
    let folder = Folder::new();
    for (round, transport) in ["unix", "unix-dgram"].into_iter().cycle().take(20).enumerate() {
        let path = folder.path(&format!("{round}.sock"));
        leave_stale(transport, &path);
        let both = [(); 3].map(|()| Server::spawn(tidewheel(["serve", &echo(transport, &path)])));
        let mut ready = Vec::new();
        for mut server in both {
            if server.out_line().is_empty() {
                let err = server.rest_of_err();
                assert_eq!(server.wait().code(), Some(2), "{err}");
                assert!(err.contains(&format!("has locked {}", lock_of(&path).display())), "{err}");
            } else {
                ready.push(server.ready());
            }
        }
        assert_eq!(ready.len(), 1, "so many serve");
        assert!(fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()));
        if transport == "unix" {
            assert_served(&path);
        }
        ready.remove(0).stop();
        assert!(!path.exists() && lock_of(&path).exists(), "the socket goes and the lock file stays");
    }
}

#[test]
fn a_server_that_was_killed_is_replaced_and_one_that_lives_is_not() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let first = Server::start([echo("unix", &path)]);
    let line = refused(["serve", &echo("unix", &path)]);
    assert!(line.contains("another program serves it"), "{line}");
    let line = refused(["serve", &echo("unix-dgram", &path)]);
    assert!(line.contains("another program serves it"), "of the other kind, too: {line}");
    assert_served(&path);
    first.signal(Signal::KILL);
    let mut first = first;
    first.wait();
    assert!(path.exists(), "a killed program leaves its file");
    let second = Server::start([echo("unix", &path)]);
    assert_served(&path);
    second.stop();
}

#[test]
fn the_socket_of_another_program_is_not_taken() {
    let folder = Folder::new();
    let path = folder.path("other.sock");
    let bound = || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        socket
    };
    let packets = || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        socket
    };
    let others: [&dyn Fn() -> Box<dyn std::any::Any>; 4] = [
        &|| Box::new(UnixListener::bind(&path).unwrap()),
        &|| Box::new(UnixDatagram::bind(&path).unwrap()),
        // It will listen in a moment.
        &|| Box::new(bound()),
        &|| Box::new(packets()),
    ];
    for (number, other) in others.into_iter().enumerate() {
        let other = other();
        let before = fs::symlink_metadata(&path).unwrap().ino();
        for transport in ["unix", "unix-dgram"] {
            let line = refused(["serve", &echo(transport, &path)]);
            assert!(line.contains("a program listens there"), "{number}: {line}");
            assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before, "{number}");
        }
        if let Some(listener) = other.downcast_ref::<UnixListener>() {
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "it was disturbed");
        }
        assert!(!lock_of(&path).exists(), "a lock file is left where nothing is served");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_in_the_way_is_named_and_left_alone() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    for transport in ["unix", "unix-dgram"] {
        fs::write(&path, "precious").unwrap();
        let line = refused(["serve", &echo(transport, &path)]);
        assert!(line.contains("not a socket"), "{line}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();

        // A lock file that is none.
        std::os::unix::fs::symlink("elsewhere", lock_of(&path)).unwrap();
        let line = refused(["serve", &echo(transport, &path)]);
        assert!(line.contains(&lock_of(&path).display().to_string()), "{line}");
        assert!(!folder.path("elsewhere").exists());
        fs::remove_file(lock_of(&path)).unwrap();
        fs::create_dir(lock_of(&path)).unwrap();
        let line = refused(["serve", &echo(transport, &path)]);
        assert!(line.contains(&lock_of(&path).display().to_string()), "{line}");
        fs::remove_dir(lock_of(&path)).unwrap();

        // A lock that somebody else holds.
        let held = File::create(lock_of(&path)).unwrap();
        flock(&held, FlockOperation::LockShared).unwrap();
        let line = refused(["serve", &echo(transport, &path)]);
        assert!(line.contains("has locked"), "{line}");
        assert!(!path.exists());
        drop(held);
        Server::start([echo(transport, &path)]).stop();
        fs::remove_file(lock_of(&path)).unwrap();
    }
}

#[test]
fn a_socket_that_is_no_longer_ours_is_left_at_exit() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let server = Server::start([echo("unix", &path)]);
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    server.stop();
    assert!(path.exists(), "the socket of somebody else is gone");
    drop(theirs);
}

#[test]
fn two_reactors_of_one_program_do_not_share_a_path() {
    let folder = Folder::new();
    let address = Address::Unix(folder.path("echo.sock"));
    let mut first = Reactor::new(Limits::default()).unwrap();
    let mut second = Reactor::new(Limits::default()).unwrap();
    let [one, other] =
        [&mut first, &mut second].map(|reactor| reactor.add_service(Echo, Options::new("echo")));
    let (listener, _) = first.listen(&address, one).unwrap();
    let error = second.listen(&address, other).unwrap_err().to_string();
    assert!(error.contains("another program serves it"), "{error}");
    first.unlisten(listener);
    second.listen(&address, other).unwrap();
    for not_a_path in ["", "\0name"] {
        let address = Address::Unix(not_a_path.into());
        let error = first.listen(&address, one).unwrap_err().to_string();
        assert!(error.contains("empty or contains a NUL"), "{error}");
    }
}

// ---- who may connect ----

/// The program, started with a umask.
fn under_umask(umask: &str, args: &[String]) -> Command {
    let start = format!("umask {umask}; exec \"$0\" serve \"$@\"");
    tidewheel_through(&["sh", "-c", &start], args)
}

#[test]
fn the_mode_is_the_one_that_is_asked_for_from_the_first_moment() {
    let folder = Folder::new();
    for (umask, option, mode) in [
        ("022", Some("0660"), 0o660),
        ("077", Some("666"), 0o666),
        ("000", Some("0600"), 0o600),
        ("022", Some("0777"), 0o777),
        ("022", None, 0o755),
        ("007", None, 0o770),
    ] {
        let paths = [folder.path("stream"), folder.path("datagrams")];
        let mut args = vec![echo("unix", &paths[0]), echo("unix-dgram", &paths[1])];
        args.extend(option.map(|option| format!("--unix-mode={option}")));
        let stop = AtomicBool::new(false);
        let server = thread::scope(|scope| {
            for path in &paths {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(found) = fs::symlink_metadata(path) {
                            let seen = found.permissions().mode() & 0o777;
                            assert_eq!(seen, mode, "{seen:o} in between");
                        }
                    }
                });
            }
            let _at_end = SetAtEnd(&stop);
            Server::spawn(under_umask(umask, &args)).ready()
        });
        for path in &paths {
            assert_eq!(mode_of(path), mode, "umask {umask}, --unix-mode {option:?}");
            assert_eq!(mode_of(&lock_of(path)), 0o600, "the lock is nobody else's");
        }
        assert_served(&paths[0]);
        server.stop();
    }
}

#[test]
fn the_mode_stands_in_the_configuration_file_too() {
    let folder = Folder::new();
    let (file, path) = (folder.path("tide.toml"), folder.path("echo.sock"));
    for (setting, mode) in [("'0620'", 0o620), ("0o640", 0o640)] {
        let services = format!("services = ['{}']\nunix-mode = {setting}\n", echo("unix", &path));
        fs::write(&file, services).unwrap();
        let server = Server::start(["--config", file.to_str().unwrap()]);
        assert_eq!(mode_of(&path), mode);
        server.stop();
    }
    for bad in ["660", "'0999'", "'rw'", "true"] {
        fs::write(&file, format!("unix-mode = {bad}\n")).unwrap();
        let line = refused(["serve", "--config", file.to_str().unwrap()]);
        assert!(line.contains(":1:") && line.contains("0660"), "{line}");
    }
    let line = refused(["serve", "echo=:0", "--unix-mode", "0888"]);
    assert!(line.contains("such as 0660"), "{line}");
}

// ---- who is answered ----

#[test]
fn a_datagram_from_a_relative_name_is_not_answered() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let mut command = tidewheel(["serve", &echo("unix-dgram", &path)]);
    // Here a relative name means the socket of somebody else.
    let victim = UnixDatagram::bind(folder.path("victim")).unwrap();
    command.current_dir(folder.path(""));
    let mut server = Server::spawn(command).ready();

    let elsewhere = folder.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["victim", "./victim", "../victim"] {
        // Threads share their working directory: a program of its own sends.
        let sent = Command::new("python3")
            .args(["-c", "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\ns.sendto(b'forged', sys.argv[2])"])
            .args([name, path.to_str().unwrap()])
            .current_dir(&elsewhere)
            .output();
        let Ok(sent) = sent else {
            return crate::harness::skipped::skip("needs python3: apt-get install python3");
        };
        if name == "../victim" {
            // Its own name is taken: nothing is sent.
            assert!(!sent.status.success());
        } else if name == "victim" {
            assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        }
        let _ = fs::remove_file(elsewhere.join("victim"));
    }
    let counters = server
        .await_counters("both are dropped", |counters| counters["datagrams_dropped_relative_path"] == 2);
    assert_eq!(counters["datagrams_out"], 0);
    victim.set_nonblocking(true).unwrap();
    assert!(victim.recv(&mut [0; 10]).is_err(), "somebody else was answered");

    // Absolute and abstract names are answered as ever.
    let absolute = UnixDatagram::bind(folder.path("absolute")).unwrap();
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed()).unwrap();
    for peer in [absolute, UnixDatagram::from(socket)] {
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.send_to(b"hello", &path).unwrap();
        let mut answer = [0; 10];
        assert_eq!(peer.recv(&mut answer).unwrap(), 5);
    }
    server.stop();
}

#[test]
fn hang_up_removes_the_sockets() {
    let folder = Folder::new();
    let path = folder.path("echo.sock");
    let mut server = Server::start([echo("unix", &path), "echo=:0".to_owned()]);
    let mut stream = server.tcp("echo");
    ask(&mut stream, b"hello", b"hello");
    server.signal(Signal::HUP);
    server.await_err("SIGHUP: graceful shutdown");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored() {
    let mut server =
        Server::spawn(tidewheel_through(&["sh", "-c", "trap '' HUP; exec \"$0\" serve \"$@\""], ["echo=:0"]))
            .ready();
    let mut stream = server.tcp("echo");
    server.signal(Signal::HUP);
    ask(&mut stream, b"hello", b"hello");
    // What comes behind it has been seen to, and it has not.
    server.counters();
    ask(&mut stream, b"hello", b"hello");
    drop(stream);
    await_that("the connection is closed", || (server.counters()["connections_open"] == 0).then_some(()));
    server.stop();
}
