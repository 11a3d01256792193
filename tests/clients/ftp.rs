//! `tidewheel ftp`, and `tidewheel get` of ftp://: against a small server that may misbehave.

use std::ffi::OsStr;
use std::fs;
use std::io::{Write, pipe};
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::ftp_server::{Fault, FtpServer};
use super::run::{Ran, command, finish, names, run_in};
use crate::harness::program::Server;
use crate::harness::skipped::skip;
use crate::harness::{Folder, await_that, pattern};

/// What is run on, what is served, and who serves it.
pub struct Scene {
    pub folder: Folder,
    pub served: Folder,
    pub server: FtpServer,
}

impl Scene {
    pub fn new(fault: Fault) -> Scene {
        let served = Folder::new();
        let server = FtpServer::start(&served.path(""), fault);
        Scene { folder: Folder::new(), served, server }
    }

    /// Runs `tidewheel ftp` at a path, anonymously; `URL` among the words is its URL.
    fn ftp(&self, words: &[&str], path: &str) -> Ran {
        run_in(&self.folder, with_url(words, &self.server.url(path)))
    }
}

/// The words of `tidewheel ftp`, with a URL in its place.
pub fn with_url<'a>(words: &[&'a str], url: &'a str) -> Vec<&'a str> {
    ["ftp"].into_iter().chain(words.iter().map(|&word| if word == "URL" { url } else { word })).collect()
}

#[test]
fn files_and_folders_are_worked_with() {
    let scene = Scene::new(Fault::None);
    works(&scene.folder, &scene.served.path(""), |words, path| {
        command(&scene.folder, with_url(words, &scene.server.url(path)))
    });
    // A file has its name on the server once it is whole.
    let said = scene.server.said();
    let stored = said.iter().position(|line| line.starts_with("STOR .tidewheel-")).expect("it was stored");
    assert!(
        said[stored + 1].starts_with("RNFR .tidewheel-") && said[stored + 2] == "RNTO big.bin",
        "{said:?}"
    );
    assert!(said.iter().any(|line| line == "PASS anonymous@"), "{said:?}");
}

/// The whole round on a server that works, whose folder is `served`.
pub fn works(folder: &Folder, served: &Path, ftp: impl Fn(&[&str], &str) -> Command) {
    let run = |words: &[&str], path: &str| finish(ftp(words, path));
    let big = pattern(3_000_000);
    fs::write(folder.path("big.bin"), &big).expect("the folder is there");
    fs::write(folder.path("lines.txt"), "one\ntwo\n").expect("the folder is there");
    assert_eq!(run(&["pwd", "URL"], "/").well(), "/\n");
    assert_eq!(run(&["mkdir", "URL"], "/made%20here").well(), "");
    assert_eq!(run(&["pwd", "URL"], "/made%20here").well(), "/made here\n");
    assert_eq!(run(&["put", "big.bin", "URL"], "/").well(), "stored big.bin (3000000 bytes)\n");
    assert_eq!(fs::read(served.join("big.bin")).expect("it was stored"), big);
    run(&["put", "big.bin", "URL"], "/made%20here/b").well();
    run(&["put", "lines.txt", "URL", "--in-place"], "/made%20here/").well();
    // Some tell of the folder itself and of the one above it, too, and in any order.
    let listed = |path: &str| {
        let names = run(&["nlst", "URL"], path).well();
        let mut names: Vec<_> =
            names.lines().filter(|name| ![".", ".."].contains(name)).map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(listed("/made%20here/"), ["b", "lines.txt"]);
    let long = run(&["ls", "URL"], "/made%20here").well();
    for name in [" b", " lines.txt"] {
        assert!(long.lines().any(|line| line.starts_with("-rw") && line.ends_with(name)), "{long}");
    }

    let out = run(&["get", "URL", "-o", "back.bin"], "/made%20here/b").well();
    assert!(out.starts_with("saved back.bin (3000000 bytes) from ftp://"), "{out}");
    assert_eq!(fs::read(folder.path("back.bin")).expect("it was saved"), big);
    assert_eq!(run(&["get", "URL", "-o", "-"], "/made%20here/lines.txt").well(), "one\ntwo\n");
    // Whether the server changes line ends or only says so: they are as they were when the text is back.
    run(&["put", "lines.txt", "URL", "--ascii"], "/made%20here/lines.txt").well();
    assert_eq!(run(&["get", "URL", "-o", "-", "--ascii"], "/made%20here/lines.txt").well(), "one\ntwo\n");

    run(&["rename", "URL", "made here/c"], "/made%20here/b").well();
    assert_eq!(names(&served.join("made here")), ["c", "lines.txt"]);
    let line = run(&["rmdir", "URL"], "/made%20here").failed();
    assert!(line.contains("/made%20here: the server says 550 "), "{line}");
    for name in ["c", "lines.txt"] {
        run(&["rm", "URL"], &format!("/made%20here/{name}")).well();
    }
    assert!(listed("/made%20here").is_empty());
    run(&["rmdir", "URL"], "/made%20here").well();
    run(&["rm", "URL"], "/big.bin").well();
    assert!(names(served).is_empty());

    for (words, path) in [
        (&["ls", "URL"][..], "/missing/"),
        (&["nlst", "URL"], "/missing"),
        (&["pwd", "URL"], "/missing"),
        (&["get", "URL"], "/missing.txt"),
        (&["put", "big.bin", "URL"], "/missing/x"),
        (&["rename", "URL", "x"], "/missing"),
        (&["rm", "URL"], "/missing"),
        (&["rmdir", "URL"], "/missing"),
    ] {
        let line = run(words, path).failed();
        assert!(line.contains(&format!("{path}: the server says 55")), "{words:?}: {line}");
    }
    assert!(names(served).is_empty());
    assert_eq!(names(&folder.path("")), ["back.bin", "big.bin", "lines.txt"]);
}

#[test]
fn texts_change_their_line_ends_on_the_way() {
    let scene = Scene::new(Fault::None);
    fs::write(scene.folder.path("text"), "one\ntwo\n").expect("the folder is there");
    scene.ftp(&["put", "--ascii", "text", "URL"], "/").well();
    // The server stores what has come as it came.
    assert_eq!(fs::read(scene.served.path("text")).expect("it was stored"), b"one\r\ntwo\r\n");
    assert_eq!(scene.ftp(&["get", "--ascii", "URL", "-o", "-"], "/text").well(), "one\ntwo\n");
    assert_eq!(scene.ftp(&["get", "--binary", "URL", "-o", "-"], "/text").well(), "one\r\ntwo\r\n");
    assert!(scene.server.said().iter().any(|line| line == "TYPE A"));
    let line = scene.ftp(&["get", "--binary", "--ascii", "URL"], "/text").refused();
    assert!(line.contains("cannot be used with"), "{line}");
}

#[test]
fn nothing_is_left_of_a_file_that_is_cut() {
    for fault in [Fault::CutAndSaysSo, Fault::Vanishes] {
        let scene = Scene::new(fault);
        for name in ["one", "two"] {
            fs::write(scene.served.path(name), "").expect("the folder is there");
        }
        for list in ["ls", "nlst"] {
            // Not a part of it either.
            let line = scene.ftp(&[list, "URL"], "/").failed();
            assert!(line.contains("426 Broken off.") || line.contains("connection broke off"), "{line}");
        }
    }
    for (fault, told) in [
        (Fault::CutAndSaysSo, "the server says 426 Broken off."),
        (Fault::CutAndLies, "the connection broke off after 500 of 1000 bytes"),
        (Fault::Vanishes, "the connection broke off"),
    ] {
        let scene = Scene::new(fault);
        fs::write(scene.served.path("x"), pattern(1000)).expect("the folder is there");
        fs::write(scene.folder.path("kept"), "as it was").expect("the folder is there");
        for args in [&["ftp", "get"][..], &["get"]] {
            for output in [&["-o", "kept"][..], &[], &["-o", "-"]] {
                let url = scene.server.url("/x");
                let line = run_in(
                    &scene.folder,
                    args.iter().copied().chain([url.as_str()]).chain(output.iter().copied()),
                )
                .failed();
                assert!(line.starts_with(&format!("tidewheel: {url}: {told}")), "{fault:?}: {line}");
            }
        }
        assert_eq!(fs::read(scene.folder.path("kept")).expect("it is there"), b"as it was");
        assert_eq!(names(&scene.folder.path("")), ["kept"]);
    }
}

#[test]
fn nothing_is_left_on_a_server_that_does_not_take_a_file() {
    for (fault, told) in [
        (Fault::Full, "the server says 552 The disk is full."),
        (
            Fault::NoRename,
            "cannot give it its name (--in-place does without): the server says 550 Permission denied.",
        ),
    ] {
        let scene = Scene::new(fault);
        fs::write(scene.folder.path("x"), pattern(1 << 20)).expect("the folder is there");
        fs::write(scene.served.path("x"), "as it was").expect("the folder is there");
        let line = scene.ftp(&["put", "x", "URL"], "/").failed();
        assert!(line.contains(told) && !line.contains("may be left"), "{fault:?}: {line}");
        assert_eq!(names(&scene.served.path("")), ["x"]);
        assert_eq!(fs::read(scene.served.path("x")).expect("it is there"), b"as it was");
        if fault == Fault::NoRename {
            scene.ftp(&["put", "--in-place", "x", "URL"], "/").well();
            assert_eq!(fs::read(scene.served.path("x")).expect("it is there"), pattern(1 << 20));
        }
    }
    // A server that is gone cannot be asked to tidy up.
    let scene = Scene::new(Fault::Vanishes);
    fs::write(scene.folder.path("x"), pattern(1 << 20)).expect("the folder is there");
    let line = scene.ftp(&["put", "x", "URL"], "/").failed();
    assert!(line.contains("a part of it may be left there as .tidewheel-"), "{line}");
}

#[test]
fn a_signal_leaves_no_part_on_the_server() {
    for (args, name) in [(&["put", "-", "URL"][..], ".tidewheel-"), (&["put", "--in-place", "-", "URL"], "x")]
    {
        let scene = Scene::new(Fault::None);
        let mut command = command(&scene.folder, with_url(args, &scene.server.url("/x")));
        let (input, mut typed) = pipe().expect("there are descriptors");
        command.stdin(input);
        let mut program = Server::spawn(command);
        typed.write_all(b"the first half").expect("it reads");
        let said =
            |word: &str| scene.server.said().iter().any(|line| line.starts_with(&format!("{word} {name}")));
        await_that("it stores", || said("STOR").then_some(()));
        program.signal(Signal::INT);
        assert_eq!(program.wait().signal(), Some(Signal::INT.as_raw()));
        assert!(said("DELE"), "{:?}", scene.server.said());
        assert!(names(&scene.served.path("")).is_empty());
    }
}

#[test]
fn what_cannot_be_read_or_reached_is_told() {
    let scene = Scene::new(Fault::None);
    for (file, told) in
        [("missing", "cannot read missing: No such file"), (".", "cannot read .: it is a folder")]
    {
        let line = scene.ftp(&["put", file, "URL"], "/x").failed();
        assert!(line.contains(told), "{line}");
    }
    let line = scene.ftp(&["put", "-", "URL"], "/").refused();
    assert!(line.contains("write the whole path"), "{line}");
    scene.ftp(&["put", "-", "URL"], "/empty").well();
    assert_eq!(fs::read(scene.served.path("empty")).expect("it was stored"), b"");
    for words in [&["rm", "URL"][..], &["mkdir", "URL"], &["rmdir", "URL"], &["rename", "URL", "x"]] {
        let line = scene.ftp(words, "/").refused();
        assert!(line.contains("/ names no file or folder"), "{line}");
    }
    let line = scene.ftp(&["rename", "URL", ""], "/empty").refused();
    assert!(line.contains("the new path: it is empty"), "{line}");
    let line = scene.ftp(&["get", "URL"], "/").failed();
    assert!(line.contains("/: it names no file"), "{line}");
    let odd = scene.folder.path("").join(OsStr::from_bytes(b"odd\xFF"));
    fs::write(&odd, "").expect("the folder is there");
    let url = scene.server.url("/");
    let line =
        run_in(&scene.folder, [OsStr::new("ftp"), OsStr::new("put"), odd.as_os_str(), OsStr::new(&url)]);
    let line = line.refused();
    assert!(line.contains("write the whole path"), "{line}");
    // What would be a second command is none.
    let line = scene.ftp(&["rm", "URL"], "/x%0D%0ADELE%20empty").refused();
    assert!(line.contains("control characters"), "{line}");
    let line = scene.ftp(&["rename", "URL", "x\r\nDELE empty"], "/empty").refused();
    assert!(line.contains("control characters"), "{line}");
    assert_eq!(names(&scene.served.path("")), ["empty"]);

    let closed = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port").local_addr();
    let line =
        run_in(&scene.folder, ["ftp", "ls", &format!("ftp://{}/", closed.expect("it was bound"))]).failed();
    assert!(line.contains("cannot connect: Connection refused"), "{line}");
    let line = run_in(&scene.folder, ["ftp", "ls", "ftp://nowhere.invalid/"]).failed();
    assert!(line.contains("there is no such host"), "{line}");
    let line = run_in(&scene.folder, ["ftp", "ls", "http://127.0.0.1/"]).refused();
    assert!(line.contains("begins with none of ftp://"), "{line}");
    let line = Scene::new(Fault::NoFtp).ftp(&["ls", "URL"], "/").failed();
    assert!(line.contains("what came is not FTP"), "{line}");
    let line = Scene::new(Fault::Silent).ftp(&["ls", "--timeout", "300ms", "URL"], "/").failed();
    assert!(line.contains("no answer for 300ms"), "{line}");
}

#[test]
fn names_are_shown_as_they_are_unless_a_terminal_would_obey() {
    let scene = Scene::new(Fault::None);
    for name in ["e\u{301}te\u{301}", "\u{1b}[31m", "図 1"] {
        fs::write(scene.served.path(name), "").expect("the folder is there");
    }
    assert_eq!(scene.ftp(&["nlst", "URL"], "/").well(), "\\u{1b}[31m\ne\u{301}te\u{301}\n図 1\n");
}

#[test]
fn a_size_that_is_none_is_not_needed() {
    let scene = Scene::new(Fault::OddSize);
    fs::write(scene.served.path("x"), "hello").expect("the folder is there");
    assert_eq!(scene.ftp(&["get", "URL", "-o", "-"], "/x").well(), "hello");
}

#[test]
fn data_come_from_the_server_that_was_reached() {
    // The passive address of this one is nobody's.
    let scene = Scene::new(Fault::WrongAddress);
    fs::write(scene.served.path("x"), "hello").expect("the folder is there");
    assert_eq!(scene.ftp(&["get", "URL", "-o", "-"], "/x").well(), "hello");

    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("needs IPv6 on loopback");
    }
    let server = FtpServer::start_at("[::1]:0", &scene.served.path(""), Fault::None);
    assert_eq!(run_in(&scene.folder, ["get", &server.url("/x"), "-o", "-"]).well(), "hello");
    assert!(server.said().iter().any(|line| line == "EPSV"), "{:?}", server.said());
}
