//! The accounts of `tidewheel ftp`, and of `tidewheel get` of ftp://: from the environment, a URL or a terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::thread::{self, JoinHandle};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::ftp::Scene;
use super::ftp_server::{ACCOUNT, Fault};
use super::run::{Ran, command, finish, names, prepared, run_in};
use super::screen::Screen;
use crate::harness::program::tidewheel_through;
use crate::harness::{Folder, await_that};

/// The variables of an account.
pub type Variables<'a> = &'a [(&'a str, &'a str)];
pub const BOB: Variables = &[("TIDEWHEEL_FTP_USER", ACCOUNT.0), ("TIDEWHEEL_FTP_PASSWORD", ACCOUNT.1)];

/// Runs it with variables, and without a terminal on which it could ask.
pub fn unattended(folder: &Folder, variables: Variables, args: &[&str]) -> Ran {
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

    // Empty input at the prompt is an error; the other login has not continued.
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
