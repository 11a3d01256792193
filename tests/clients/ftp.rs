//! `tidewheel ftp`, and `tidewheel get` of ftp://: against a small server that may misbehave, and those of Debian.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::net::{Ipv6Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::ftp_server::{ACCOUNT, Fault, FtpServer};
use super::run::{Ran, command, finish, names, prepared, run_in};
use super::screen::Screen;
use super::web_servers::{PYTHON3, python};
use crate::harness::program::{Server, tidewheel_through};
use crate::harness::skipped::skip;
use crate::harness::{Folder, await_that, pattern};

/// What is run on, what is served, and who serves it.
struct Scene {
    folder: Folder,
    served: Folder,
    server: FtpServer,
}

impl Scene {
    fn new(fault: Fault) -> Scene {
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
fn with_url<'a>(words: &[&'a str], url: &'a str) -> Vec<&'a str> {
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
fn works(folder: &Folder, served: &Path, ftp: impl Fn(&[&str], &str) -> Command) {
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

/// The variables of an account.
type Variables<'a> = &'a [(&'a str, &'a str)];
const BOB: Variables = &[("TIDEWHEEL_FTP_USER", ACCOUNT.0), ("TIDEWHEEL_FTP_PASSWORD", ACCOUNT.1)];

/// Runs it with variables, and without a terminal on which it could ask.
fn unattended(folder: &Folder, variables: Variables, args: &[&str]) -> Ran {
    let mut command = prepared(tidewheel_through(&["setsid", "--wait"], args), folder);
    command.envs(variables.iter().copied());
    finish(command)
}

#[test]
fn an_account_of_the_environment_is_for_servers_that_refuse_the_anonymous_login() {
    let folder = Folder::new();
    for (fault, reply, connections) in [
        (Fault::NoAnonymous, "530 Login incorrect.", 1),
        (Fault::HangsUp, "550 Nobody comes in here.", 2),
        (Fault::None, "", 1),
    ] {
        for args in [&["ftp", "get", "-o", "-"][..], &["get", "-o", "-"], &["ftp", "nlst"]] {
            let scene = Scene::new(fault);
            fs::write(scene.served.path("x"), "x\n").expect("the folder is there");
            let url = scene.server.url(if args.contains(&"nlst") { "/" } else { "/x" });
            let run = |variables: Variables| unattended(&folder, variables, &[args, &[&url]].concat());
            assert_eq!(run(BOB).well(), "x\n");
            assert_eq!(scene.server.connections(), connections, "{fault:?}");
            let said = scene.server.said();
            assert_eq!(said[0], "USER anonymous");
            assert_eq!(said.contains(&format!("PASS {}", ACCOUNT.1)), fault != Fault::None, "{said:?}");
            if fault == Fault::None {
                continue;
            }
            let wrong = [("TIDEWHEEL_FTP_USER", "eve"), ("TIDEWHEEL_FTP_PASSWORD", "a guess")];
            let line = run(&wrong).failed();
            let told = "the server does not let eve in: 530 Login incorrect.";
            assert!(line.starts_with(&format!("tidewheel: {url}: {told}")), "{line}");
            for some in [&[][..], &BOB[1..], &[("TIDEWHEEL_FTP_USER", ""), BOB[1]]] {
                let line = run(some).failed();
                let told = format!(
                    "the server wants an account, ftp://USER@HOST/PATH, or TIDEWHEEL_FTP_USER and TIDEWHEEL_FTP_PASSWORD: {reply}"
                );
                assert!(line.starts_with(&format!("tidewheel: {url}: {told}")), "{line}");
            }
            let line = run(&BOB[..1]).failed();
            assert!(line.contains("no password for bob@") && line.contains("set TIDEWHEEL_FTP_P"), "{line}");
            // What would be a second command is none.
            let line = run(&[("TIDEWHEEL_FTP_USER", "bob\r\nDELE x"), BOB[1]]).refused();
            assert!(line.contains("TIDEWHEEL_FTP_USER: it has control characters"), "{line}");
        }
    }
}

#[test]
fn no_account_is_for_a_server_that_a_list_names() {
    let scenes = [Scene::new(Fault::None), Scene::new(Fault::NoAnonymous)];
    let strange = scenes[1].server.url("/x");
    fs::write(scenes[0].served.path("list"), format!("[{strange:?}]")).expect("the folder is there");
    let list = scenes[0].server.url("/list");
    let args = ["get", "--list-from", &list, "--field", "[]"];
    let line = unattended(&scenes[0].folder, BOB, &args).failed();
    assert!(line.starts_with(&format!("tidewheel: {strange}: the server wants an account")), "{line}");
    assert!(!scenes[1].server.said().contains(&format!("USER {}", ACCOUNT.0)));
}

#[test]
fn an_account_is_asked_for_on_a_terminal() {
    let scene = Scene::new(Fault::BusyOnce);
    fs::write(scene.served.path("x"), "hello\n").expect("the folder is there");
    let (address, url) = (scene.server.address, scene.server.url("/x"));
    let (name, password) = (format!("User name at {address}:"), format!("Password of bob@{address}:"));
    // The second try does not ask again.
    let Some(screen) = Screen::start(&["get", "--retry", "1", "-o", "-", &url]) else { return };
    screen.await_last(&name);
    screen.type_text(ACCOUNT.0);
    screen.press("Enter");
    screen.await_last(&password);
    screen.type_secret(ACCOUNT.1);
    let lines = screen.await_end();
    assert!(lines.iter().any(|line| line == "hello"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("Password of")).count(), 1, "{lines:?}");
    assert!(!lines.concat().contains(ACCOUNT.1), "{lines:?}");
    assert_eq!(scene.server.connections(), 2);

    // Whoever types nothing is told what there is; the other login has not gone any further.
    let screen = Screen::start(&["ftp", "rm", &url]).expect("tmux was there a moment ago");
    screen.await_last(&name);
    screen.press("C-d");
    let told = screen.await_code(1).concat();
    assert!(told.contains(&format!("tidewheel: {url}: the server wants an account")), "{told}");
    let screen = Screen::start(&["ftp", "rm", &url]).expect("tmux was there a moment ago");
    screen.await_last(&name);
    screen.type_text("bob");
    screen.press("Enter");
    screen.await_last(&password);
    screen.type_secret("a guess");
    let told = screen.await_code(1).concat();
    assert!(told.contains("the server does not let bob in: 530 Login incorrect."), "{told}");
    assert_eq!(names(&scene.served.path("")), ["x"]);

    // Between the bars of several nobody is asked.
    let screen = Screen::start(&["get", "-o", "-", &url, &url]).expect("tmux was there a moment ago");
    let told = screen.await_code(1).concat();
    assert!(told.contains("2 of 2 could not be fetched") && !told.contains("User name"), "{told}");
}

#[test]
fn accounts_have_their_password_from_the_environment() {
    let scene = Scene::new(Fault::NoAnonymous);
    fs::write(scene.served.path("for bob"), "hello").expect("the folder is there");
    let url = scene.server.account_url("/for%20bob");
    let with = |password: &str, args: &[&str]| {
        let mut command = command(&scene.folder, args);
        command.env("TIDEWHEEL_FTP_PASSWORD", password);
        finish(command)
    };
    assert_eq!(with(ACCOUNT.1, &["ftp", "get", &url, "-o", "-"]).well(), "hello");
    assert_eq!(with(ACCOUNT.1, &["get", &url, "-o", "-"]).well(), "hello");
    let line = with("wrong", &["ftp", "get", &url]).failed();
    assert!(
        line.contains("the server does not let bob in: 530 Login incorrect.") && !line.contains("wrong"),
        "{line}"
    );
    let line = with("two\r\nDELE x", &["ftp", "get", &url]).refused();
    assert!(line.contains("control characters"), "{line}");
    assert!(names(&scene.folder.path("")).is_empty());

    // Without a terminal there is nobody to ask.
    let line = unattended(&scene.folder, &[], &["ftp", "ls", &url]).refused();
    let address = scene.server.address;
    assert!(line.contains(&format!("no password for bob@{address}: set TIDEWHEEL_FTP_PASSWORD")), "{line}");
    let line = run_in(&scene.folder, ["ftp", "ls", "ftp://bob:s3cret@127.0.0.1/"]).refused();
    assert!(line.contains("has a password") && !line.contains("s3cret"), "{line}");
}

/// Runs the program on a terminal of its own, the outer side of which is returned.
fn on_a_terminal(folder: &Folder, args: &[&str]) -> (File, JoinHandle<Ran>) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is ours");
    let name = ptsname(&terminal, Vec::new()).expect("it has a name").into_string().expect("it is ASCII");
    let inside = File::options().read(true).write(true).open(name).expect("it was unlocked");
    let mut program = prepared(tidewheel_through(&["setsid", "--ctty", "--wait"], args), folder);
    program.stdin(inside);
    (File::from(terminal), thread::spawn(move || finish(program)))
}

fn echoes(terminal: &File) -> bool {
    tcgetattr(terminal).expect("it is a terminal").local_modes.contains(LocalModes::ECHO)
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    let scene = Scene::new(Fault::NoAnonymous);
    fs::write(scene.served.path("x"), "hello\n").expect("the folder is there");
    let args = ["ftp", "get", &scene.server.account_url("/x"), "-o", "-"];
    let (mut outside, program) = on_a_terminal(&scene.folder, &args);
    let wanted = format!("Password of bob@{}: ", scene.server.address);
    let mut prompt = vec![0; wanted.len()];
    outside.read_exact(&mut prompt).expect("it asks");
    assert_eq!(prompt, wanted.as_bytes());
    // Who types before that sees it: so does everybody with every program.
    await_that("the terminal echoes nothing", || (!echoes(&outside)).then_some(()));
    outside.write_all(format!("{}\n", ACCOUNT.1).as_bytes()).expect("it reads");
    assert_eq!(program.join().expect("it was run").well(), "hello\n");
    // Whatever else has reached the terminal.
    fcntl_setfl(&outside, OFlags::NONBLOCK).expect("it is ours");
    let mut shown = Vec::new();
    let _ = outside.read_to_end(&mut shown);
    assert!(shown.iter().all(u8::is_ascii_whitespace), "{}", shown.escape_ascii());
}

#[test]
fn who_leaves_at_the_prompt_leaves_the_terminal_as_it_was() {
    let scene = Scene::new(Fault::None);
    let Some(screen) = Screen::start(&["ftp", "ls", &scene.server.account_url("/")]) else { return };
    screen.await_last(&format!("Password of bob@{}:", scene.server.address));
    screen.press("C-c");
    screen.await_code(130);
}

#[test]
fn who_has_typed_a_password_can_leave_as_before() {
    let scene = Scene::new(Fault::Silent);
    let args = ["ftp", "--timeout", "60s", "ls", &scene.server.account_url("/")];
    let (mut outside, program) = on_a_terminal(&scene.folder, &args);
    await_that("it asks", || (!echoes(&outside)).then_some(()));
    outside.write_all(b"secret\n").expect("it reads");
    await_that("it has asked", || echoes(&outside).then_some(()));
    outside.write_all(b"\x03").expect("it is a terminal");
    let ran = program.join().expect("it was run");
    assert!(ran.code != Some(0) && !ran.err.contains("no answer"), "{ran:?}");
}

#[test]
fn each_server_on_a_host_has_a_password_of_its_own() {
    let scenes = [Scene::new(Fault::None), Scene::new(Fault::None)];
    for scene in &scenes {
        fs::write(scene.served.path("x"), "hello\n").expect("the folder is there");
    }
    let urls = scenes.each_ref().map(|scene| scene.server.account_url("/x"));
    let Some(screen) = Screen::start(&["get", &urls[0], &urls[1], "-o", "-"]) else { return };
    for (scene, password) in scenes.iter().zip([ACCOUNT.1, "another"]) {
        screen.await_last(&format!("Password of bob@{}:", scene.server.address));
        screen.type_secret(password);
    }
    let lines = screen.await_code(1);
    assert!(lines.iter().any(|line| line == "hello"), "{lines:?}");
    for (scene, password) in scenes.iter().zip([ACCOUNT.1, "another"]) {
        let said = scene.server.said();
        assert!(said.contains(&format!("PASS {password}")), "{said:?}");
    }
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

// ---- the servers of Debian ----

/// Serves on a free port of loopback with a program that expects its connection as standard input, as inetd has it. The
/// port.
fn inetd(program: PathBuf, args: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection that came");
            let input = stream.try_clone().expect("there are descriptors");
            let (input, output): (OwnedFd, OwnedFd) = (input.into(), stream.into());
            let mut child = Command::new(&program)
                .args(&args)
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .stderr(Stdio::null())
                .spawn()
                .expect("the program is there");
            // It ends with its connection.
            thread::spawn(move || child.wait());
        }
    });
    port
}

/// Where a program is, if it is anywhere. Servers are not on everybody's path.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets the user that a server becomes write there.
fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).expect("it is ours");
}

#[test]
fn vsftpd_is_worked_with_anonymously() {
    let Some(vsftpd) = installed("vsftpd") else { return skip("needs vsftpd: apt-get install vsftpd") };
    let (folder, served) = (Folder::new(), Folder::new());
    // It refuses to serve a root that others can write to.
    let root = served.path("root");
    fs::create_dir_all(root.join("incoming")).expect("the folder is there");
    open_to_all(&root.join("incoming"));
    let config = served.path("vsftpd.conf");
    let settings = format!(
        "listen=NO\nanonymous_enable=YES\nanon_root={}\nwrite_enable=YES\nanon_upload_enable=YES\n\
         anon_mkdir_write_enable=YES\nanon_other_write_enable=YES\nanon_world_readable_only=NO\nanon_umask=022\n\
         ascii_download_enable=YES\nascii_upload_enable=YES\nrun_as_launching_user={}\n",
        root.display(),
        if is_root() { "NO" } else { "YES" },
    );
    fs::write(&config, settings).expect("the folder is there");
    let port = inetd(vsftpd, vec![config.display().to_string()]);
    let url = |path: &str| format!("ftp://127.0.0.1:{port}{path}");
    let run = |args: &[&str]| run_in(&folder, args);

    // Its root is the system's own where it is not run by root.
    let told = run(&["ftp", "pwd", &url("/incoming")]).well();
    assert!(if is_root() { told == "/incoming\n" } else { told.ends_with("/root/incoming\n") }, "{told}");
    let text = "one\ntwo\n";
    fs::write(folder.path("text"), text).expect("the folder is there");
    fs::write(folder.path("big"), pattern(5_000_000)).expect("the folder is there");
    run(&["ftp", "put", "big", &url("/incoming/")]).well();
    run(&["ftp", "put", "--ascii", "text", &url("/incoming/")]).well();
    assert_eq!(fs::read(root.join("incoming/text")).expect("it was stored"), text.as_bytes());
    assert_eq!(run(&["ftp", "get", "--ascii", &url("/incoming/text"), "-o", "-"]).well(), text);
    assert_eq!(run(&["ftp", "nlst", &url("/incoming")]).well(), "big\ntext\n");
    run(&["ftp", "mkdir", &url("/incoming/sub")]).well();
    run(&["ftp", "rename", &url("/incoming/text"), "incoming/sub/t"]).well();
    let listed = run(&["ftp", "ls", &url("/incoming/sub")]).well();
    assert!(listed.starts_with("-rw") && listed.ends_with(" t\n"), "{listed}");
    run(&["get", &url("/incoming/sub/t"), &url("/incoming/big"), "-o", "."]).well();
    assert_eq!(fs::read(folder.path("big-2")).expect("it was saved"), pattern(5_000_000));
    assert_eq!(fs::read(folder.path("t")).expect("it was saved"), text.as_bytes());

    let line = run(&["ftp", "ls", &url("/missing")]).failed();
    assert!(line.contains("the server says 550 "), "{line}");
    let line = run(&["ftp", "put", "text", &url("/missing/")]).failed();
    assert!(line.contains("the server says 553 "), "{line}");
    let mut account = command(&folder, ["ftp", "pwd", &format!("ftp://bob@127.0.0.1:{port}/")]);
    account.env("TIDEWHEEL_FTP_PASSWORD", "wrong");
    let line = finish(account).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");

    // Those who may come in are nobody else.
    let told = unattended(&folder, BOB, &["ftp", "nlst", &url("/incoming/sub")]).well();
    assert_eq!(told, "t\n");

    run(&["ftp", "rm", &url("/incoming/sub/t")]).well();
    run(&["ftp", "rmdir", &url("/incoming/sub")]).well();
    assert_eq!(names(&root.join("incoming")), ["big"]);
}

const PYFTPDLIB: &str = "
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user('bob', 's3cret word', '.', perm='elradfmwMT')
FTPHandler.auth_failed_timeout = 0
server = FTPServer(('127.0.0.1', 0), FTPHandler)
print(server.socket.getsockname()[1])
server.serve_forever()
";

#[test]
fn pyftpdlib_is_worked_with_as_an_account() {
    match Command::new(PYTHON3).args(["-c", "import pyftpdlib"]).output() {
        Ok(told) if told.status.success() => {}
        _ => return skip("needs pyftpdlib: apt-get install python3-pyftpdlib"),
    }
    let (folder, served) = (Folder::new(), Folder::new());
    let Some((_server, port)) = python(PYFTPDLIB, &served) else { return };
    let url = |path: &str| format!("ftp://{}@127.0.0.1:{port}{path}", ACCOUNT.0);
    let with = |password: &str, words: &[&str], path: &str| {
        let mut command = command(&folder, with_url(words, &url(path)));
        command.env("TIDEWHEEL_FTP_PASSWORD", password);
        command
    };
    works(&folder, &served.path(""), |words, path| with(ACCOUNT.1, words, path));
    let line = finish(with("wrong", &["ls", "URL"], "/")).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");
    let anonymous = format!("ftp://127.0.0.1:{port}/");
    let line = unattended(&folder, &[], &["ftp", "pwd", &anonymous]).failed();
    assert!(line.contains("the server wants an account"), "{line}");
    assert_eq!(unattended(&folder, BOB, &["ftp", "pwd", &anonymous]).well(), "/\n");
    let wrong = [BOB[0], ("TIDEWHEEL_FTP_PASSWORD", "wrong")];
    let line = unattended(&folder, &wrong, &["ftp", "pwd", &anonymous]).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");
}
