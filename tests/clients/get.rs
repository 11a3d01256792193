//! `tidewheel get`: what is saved, what is said, and what is left when something goes wrong.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::run::{command, finish, names, prepared, run_in};
use super::web::{Web, give, give_status, put};
use crate::harness::program::{Server, tidewheel_through};
use crate::harness::{Folder, await_that, pattern, reset};

/// What is in a file of the folder.
#[track_caller]
fn content(folder: &Folder, name: &str) -> Vec<u8> {
    fs::read(folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn several_documents_are_saved_under_their_names() {
    let folder = Folder::new();
    let web = Web::serve(|request, stream| give(stream, &pattern(100_000 + request.path.len())));
    let urls: Vec<_> = (0..9).map(|number| web.url(&format!("/a/{number}.bin"))).collect();
    let out = run_in(&folder, ["get"].into_iter().chain(urls.iter().map(String::as_str))).well();
    assert_eq!(out.lines().count(), 9, "{out}");
    for (number, url) in urls.iter().enumerate() {
        let (name, len) = (format!("{number}.bin"), 100_000 + format!("/a/{number}.bin").len());
        assert_eq!(content(&folder, &name), pattern(len), "{name}");
        assert!(out.contains(&format!("saved {name} ({len} bytes) from {url}\n")), "{out}");
    }
    assert_eq!(names(&folder.path("")).len(), 9);
}

#[test]
fn the_services_of_tidewheel_can_be_fetched_from() {
    let folder = Folder::new();
    let server = Server::start(["http=127.0.0.1:0"]);
    let url = format!("http://{}/", server.address("http", "tcp://"));
    assert_eq!(run_in(&folder, ["get", &url, "-o", "-"]).well(), "<h1>Hello world!</h1>");
    run_in(&folder, ["get", &url]).well();
    assert_eq!(content(&folder, "index.html"), b"<h1>Hello world!</h1>");
    server.stop();
}

#[test]
fn headers_are_shown_apart_from_the_body() {
    let folder = Folder::new();
    let web = Web::serve(|_, stream| {
        put(
            stream,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Strange: \xc2\x9b31m\xff\r\nX-Odd: 1\r\n\r\nhello",
        );
    });
    let ran = run_in(&folder, ["get", "-i", "-o", "-", &web.url("/")]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "hello"), "{ran:?}");
    for line in [&*web.url("/"), "HTTP/1.1 200 OK", "content-length: 5", "x-odd: 1"] {
        assert!(ran.err.lines().any(|told| told == line), "{line}: {}", ran.err);
    }
    assert!(!ran.err.contains('\u{9b}'), "a server reaches the terminal: {}", ran.err);

    let gone = Web::serve(|_, stream| give_status(stream, "410 Gone"));
    let ran = run_in(&folder, ["get", "-i", &gone.url("/")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("\nHTTP/1.1 410 Gone\n"), "{}", ran.err);
}

#[test]
fn a_file_that_is_named_is_replaced_and_others_stay() {
    let folder = Folder::new();
    let web = Web::of(b"new");
    fs::write(folder.path("page"), "old, and longer").expect("the folder is there");
    symlink("page", folder.path("link")).expect("the folder is there");
    // What was for its owner's eyes alone stays so.
    fs::set_permissions(folder.path("page"), PermissionsExt::from_mode(0o600)).expect("it is ours");
    run_in(&folder, ["get", &web.url("/x"), "-o", "link"]).well();
    assert_eq!(content(&folder, "page"), b"new");
    let mode = fs::metadata(folder.path("page")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(fs::symlink_metadata(folder.path("link")).expect("it is there").is_symlink());

    // A name that nobody typed replaces nothing.
    for expected in ["page-2", "page-3"] {
        let out = run_in(&folder, ["get", &web.url("/page")]).well();
        assert!(out.starts_with(&format!("saved {expected} ")), "{out}");
    }
    run_in(&folder, ["get", &web.url("/.profile"), &web.url("/..%2fescaped")]).well();
    assert_eq!(names(&folder.path("")), ["_escaped", "link", "page", "page-2", "page-3", "profile"]);

    fs::create_dir(folder.path("pictures")).expect("the folder is there");
    run_in(&folder, ["get", &web.url("/1.jpg?size=2"), &web.url("/1.jpg"), "-o", "pictures"]).well();
    assert_eq!(names(&folder.path("pictures")), ["1-2.jpg", "1.jpg"]);
    // What is no file is written to, and stays what it is.
    run_in(&folder, ["get", &web.url("/"), "-o", "/dev/null"]).well();
    assert!(!fs::metadata("/dev/null").expect("every system has it").is_file());
}

#[test]
fn nothing_is_left_of_a_transfer_that_breaks() {
    let folder = Folder::new();
    let cut = Web::serve(|request, stream| match request.path.as_str() {
        "/length" => put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789"),
        "/chunks" => put(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "/in-a-chunk" => put(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello"),
        "/bad-chunk" => put(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello"),
        "/head" => put(stream, b"HTTP/1.1 200 OK\r\nContent-Le"),
        "/nothing" => {}
        "/no-http" => put(stream, b"SSH-2.0-OpenSSH_9.2\r\n"),
        other => panic!("{other}"),
    });
    fs::write(folder.path("kept"), "as it was").expect("the folder is there");
    for (path, told) in [
        ("/length", "the connection broke off after 10 of 1000 bytes"),
        ("/chunks", "the connection broke off after 5 bytes"),
        ("/in-a-chunk", "the connection broke off after 5 bytes"),
        ("/bad-chunk", "the answer is not sound HTTP"),
        ("/head", "the server closed the connection without an answer"),
        ("/nothing", "the server closed the connection without an answer"),
        ("/no-http", "the answer is not sound HTTP"),
    ] {
        for output in [&["-o", "kept"][..], &[], &["-o", "-"]] {
            let url = cut.url(path);
            let line = run_in(&folder, ["get", &url].into_iter().chain(output.iter().copied())).failed();
            assert!(line.starts_with(&format!("tidewheel: {url}: {told}")), "{line}");
        }
    }
    assert_eq!(content(&folder, "kept"), b"as it was");
    assert_eq!(names(&folder.path("")), ["kept"]);
}

#[test]
fn a_reset_is_no_end_of_a_body() {
    let folder = Folder::new();
    let (seen, has_seen) = mpsc::channel::<()>();
    let has_seen = std::sync::Mutex::new(has_seen);
    let web = Web::serve(move |_, stream| {
        put(stream, b"HTTP/1.1 200 OK\r\n\r\n0123456789");
        let _ = has_seen.lock().map(|seen| seen.recv());
        reset(stream.try_clone().expect("there are descriptors"));
    });
    let mut program = Server::spawn(command(&folder, ["get", &web.url("/x")]));
    // The reset must not overtake what came before it.
    await_that("a draft has the bytes", || {
        let draft = names(&folder.path("")).into_iter().next()?;
        (fs::metadata(folder.path(&draft)).ok()?.len() == 10).then_some(())
    });
    drop(seen);
    program.await_err("the connection broke off after 10 bytes");
    assert_eq!(program.wait().code(), Some(1));
    assert!(names(&folder.path("")).is_empty());
}

#[test]
fn a_body_ends_where_its_length_says() {
    let folder = Folder::new();
    let web =
        Web::serve(|_, stream| put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more"));
    assert_eq!(run_in(&folder, ["get", "-o", "-", &web.url("/")]).well(), "hello");
    let part = Web::serve(|_, stream| {
        put(
            stream,
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nhello",
        );
    });
    let line = run_in(&folder, ["get", "-o", "part", &part.url("/")]).failed();
    assert!(line.contains("the server answers 206 Partial Content"), "{line}");
    let empty = Web::serve(|_, stream| put(stream, b"HTTP/1.1 204 No Content\r\n\r\n"));
    run_in(&folder, ["get", "-o", "empty", &empty.url("/")]).well();
    assert_eq!(content(&folder, "empty"), b"");
    // Nothing is compressed for whoever has not asked for it; where it is all the same, that is told.
    let packed = Web::serve(|_, stream| {
        put(
            stream,
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        );
    });
    let ran = run_in(&folder, ["get", "-o", "packed", &packed.url("/")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(": the server sends it as gzip, and it stays so\n"), "{ran:?}");
    assert_eq!(content(&folder, "packed"), b"\x1f\x8b\x08\x00");
    // What was made smaller for the way alone is refused: it would be saved as it is.
    let squeezed = Web::serve(|_, stream| {
        put(
            stream,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n4\r\n\x1f\x8b\x08\x00\r\n0\r\n\r\n",
        );
    });
    let line = run_in(&folder, ["get", "-o", "squeezed", &squeezed.url("/")]).failed();
    assert!(line.contains("unsupported Transfer-Encoding: gzip, chunked"), "{line}");
    let asked = Web::serve(|request, stream| give(stream, request.head.as_bytes()));
    let head = run_in(&folder, ["get", "-o", "-", &asked.url("/"), "--user-agent", "tide/7"]).well();
    assert!(head.contains("tide/7\r\n") && !head.to_lowercase().contains("accept-encoding"), "{head}");
}

#[test]
fn an_answer_has_up_to_128_headers() {
    let folder = Folder::new();
    let web = Web::serve(|request, stream| {
        let count: usize = request.path[1..].parse().expect("a number");
        let more: String = (1..count).map(|number| format!("X-{number}: 1\r\n")).collect();
        put(stream, format!("HTTP/1.1 200 OK\r\n{more}Content-Length: 2\r\n\r\nok").as_bytes());
    });
    assert_eq!(run_in(&folder, ["get", "-o", "-", &web.url("/128")]).well(), "ok");
    let line = run_in(&folder, ["get", "-o", "-", &web.url("/151")]).failed();
    assert!(line.contains("the answer has more than 128 headers"), "{line}");
}

#[test]
fn each_has_a_connection_of_its_own() {
    let folder = Folder::new();
    // What comes on a connection that was used is no longer answered.
    let web = Web::serve(|request, stream| {
        give(stream, request.path.as_bytes());
        let _ = stream.read(&mut [0]);
    });
    run_in(&folder, ["get", "--at-once", "1", &web.url("/a"), &web.url("/b"), &web.url("/c")]).well();
    assert_eq!(names(&folder.path("")), ["a", "b", "c"]);
}

#[test]
fn one_that_fails_harms_no_other() {
    let folder = Folder::new();
    let web = Web::serve(|request, stream| match request.path.as_str() {
        "/lost" => give_status(stream, "404 Not Found"),
        path => give(stream, path.as_bytes()),
    });
    let closed = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port").local_addr();
    let closed = format!("http://{}/c", closed.expect("it was bound"));
    let ran = run_in(
        &folder,
        ["get", "--retry", "3", &web.url("/a"), &web.url("/lost"), "http://nowhere.invalid/", &web.url("/b")],
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains(&format!("tidewheel: {}: the server answers 404 Not Found\n", web.url("/lost"))),
        "{ran:?}"
    );
    assert!(ran.err.contains("tidewheel: http://nowhere.invalid/: "), "{ran:?}");
    assert!(ran.err.ends_with("tidewheel: 2 of 4 could not be fetched\n"), "{ran:?}");
    assert_eq!(names(&folder.path("")), ["a", "b"]);
    assert_eq!(web.asked(), 3, "what is not there is not asked for again");

    let line = run_in(&folder, ["get", "-o", "c", &closed]).failed();
    assert!(line.contains(&format!("{closed}: cannot connect: Connection refused")), "{line}");
}

#[test]
fn what_may_pass_is_tried_again() {
    let folder = Folder::new();
    let flaky = || {
        Web::serve(|request, stream| match request.number {
            0 => give_status(stream, "503 Service Unavailable"),
            1 => put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf of it"),
            _ => give(stream, b"all of it"),
        })
    };
    let web = flaky();
    let ran = run_in(&folder, ["get", "--retry", "2", "-o", "-", &web.url("/")]);
    assert_eq!((ran.code, ran.out.as_str(), web.asked()), (Some(0), "all of it", 3), "{ran:?}");
    assert!(ran.err.contains("the server answers 503 Service Unavailable; trying again (2 left)"), "{ran:?}");
    assert!(ran.err.contains("broke off after 10 of 50 bytes; trying again (1 left)"), "{ran:?}");

    let web = flaky();
    let ran = run_in(&folder, ["get", "--retry", "1", "-o", "x", &web.url("/")]);
    assert_eq!((ran.code, web.asked()), (Some(1), 2), "{ran:?}");
    let web = flaky();
    let ran = run_in(&folder, ["get", "-o", "x", &web.url("/")]);
    assert_eq!((ran.code, web.asked()), (Some(1), 1), "{ran:?}");
    assert!(names(&folder.path("")).is_empty());
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let folder = Folder::new();
    let web = Web::serve(|request, stream| {
        let to = match request.path.as_str() {
            "/from" => "/to/there.txt",
            "/to/there.txt" => return give(stream, b"there"),
            "/mail" => "mailto:somebody@there",
            _ => "/round",
        };
        put(stream, format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    });
    let out = run_in(&folder, ["get", &web.url("/from")]).well();
    assert!(out.starts_with("saved from (5 bytes)"), "{out}");
    assert_eq!(content(&folder, "from"), b"there");
    let line = run_in(&folder, ["get", &web.url("/round")]).failed();
    assert!(line.contains("from one address to the next without end"), "{line}");
    let line = run_in(&folder, ["get", &web.url("/mail")]).failed();
    assert!(line.contains("it sends on to an address of mailto:, which begins with none of"), "{line}");
    assert_eq!(names(&folder.path("")), ["from"]);
}

#[test]
fn silence_is_not_waited_out_but_slowness_is() {
    let folder = Folder::new();
    let (end, ended) = mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let web = Web::serve(move |request, stream| match request.path.as_str() {
        "/silent" => drop(ended.lock().map(|ended| ended.recv())),
        "/stops" => {
            put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf");
            drop(ended.lock().map(|ended| ended.recv()));
        }
        _ => {
            put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");
            for piece in b"slow, steady".chunks(1) {
                thread::sleep(Duration::from_millis(250));
                put(stream, piece);
            }
        }
    });
    let line = run_in(&folder, ["get", "--timeout", "300ms", &web.url("/silent")]).failed();
    assert!(line.contains("no answer for 300ms"), "{line}");
    // The one before it holds the lock: it waits as well.
    let line = run_in(&folder, ["get", "--timeout", "300ms", &web.url("/stops")]).failed();
    assert!(line.contains("nothing more came for 300ms, after 4 bytes"), "{line}");
    drop(end);
    // Three seconds in all, a fraction of one at a time.
    assert_eq!(
        run_in(&folder, ["get", "--timeout", "2500ms", "-o", "-", &web.url("/slow")]).well(),
        "slow, steady"
    );
}

#[test]
fn what_cannot_be_written_is_told_before_anything_is_fetched() {
    let folder = Folder::new();
    let web = Web::of(b"hello");
    for (output, told) in [("missing/x", "missing"), ("missing/", "missing/")] {
        let line = run_in(&folder, ["get", "-o", output, &web.url("/")]).failed();
        assert!(line.contains(&format!("cannot write {told}: No such file or directory")), "{line}");
    }
    assert_eq!(web.asked(), 0);
    let line = run_in(&folder, ["get", "-o", "/dev/full", &web.url("/")]).failed();
    assert!(line.contains("cannot write /dev/full: No space left on device"), "{line}");
    let line = run_in(&folder, ["get", "-o", "one", &web.url("/a"), &web.url("/b")]).refused();
    assert!(line.contains("name a folder that is there"), "{line}");
    assert!(names(&folder.path("")).is_empty());
}

#[test]
fn nothing_is_left_of_a_file_for_which_there_is_no_room() {
    let folder = Folder::new();
    let web = Web::serve(|_, stream| give(stream, &pattern(100_000)));
    fs::write(folder.path("kept"), "as it was").expect("the folder is there");
    for (output, told) in [(&[][..], "."), (&["-o", "kept"], "kept")] {
        // As much room as eight blocks; a signal would end it otherwise.
        let starter = ["sh", "-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"];
        let url = web.url("/x");
        let args = ["get", "--retry", "3", &url].into_iter().chain(output.iter().copied());
        let line = finish(prepared(tidewheel_through(&starter, args), &folder)).failed();
        assert!(line.contains(&format!("{url}: cannot write {told}: File too large")), "{line}");
    }
    assert_eq!(web.asked(), 2, "room does not come by asking again");
    assert_eq!(content(&folder, "kept"), b"as it was");
    assert_eq!(names(&folder.path("")), ["kept"]);
}

#[test]
fn a_bad_command_line_is_refused_in_words() {
    let folder = Folder::new();
    for (args, told) in [
        (&["get"][..], "<URL>"),
        (&["get", "example.com/x"], "write http://example.com/x"),
        (&["get", "gopher://h/"], "begins with none of http://, https://, ftp://"),
        (&["get", "http://u:secret@127.0.0.1:1/"], "has a password"),
        (&["get", "ftp://u:secret@127.0.0.1:1/"], "TIDEWHEEL_FTP_PASSWORD"),
        (&["get", "http://h/", "--list-from", "http://h/"], "--field"),
        (&["get", "--list-from", "http://h/", "--field", "a[x]"], "newslist[].picUrl"),
        (&["get", "http://h/", "--at-once", "0"], "0 is not in 1..=64"),
        (&["get", "http://h/", "--timeout", "soon"], "30s"),
        (&["get", "http://h/", "--user-agent", "a\nb"], "one line"),
        (&["get", "ftp://bob@127.0.0.1:1/x"], "no password for bob@127.0.0.1:1: set TIDEWHEEL_FTP_PASSWORD"),
    ] {
        // Without a terminal there is nobody to ask for a password.
        let command = tidewheel_through(&["setsid", "--wait"], args);
        let line = finish(prepared(command, &folder)).refused();
        assert!(line.contains(told) && !line.contains("secret"), "{args:?}: {line}");
    }
}

#[test]
fn a_list_names_what_is_fetched() {
    let folder = Folder::new();
    fs::create_dir(folder.path("pictures")).expect("the folder is there");
    let web = Web::serve(|request, stream| {
        match request.path.as_str() {
        "/news" => put(stream, b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /api/news\r\nContent-Length: 0\r\n\r\n"),
        "/api/news" => give(
            stream,
            br#"{"newslist": [{"picUrl": "/1.jpg"}, {"picUrl": "2.jpg"}, {"title": "none"}, {"picUrl": "/1.jpg"},
                {"picUrl": "ftp://root@127.0.0.1:1/x"}, {"picUrl": "file:///etc/passwd"}]}"#,
        ),
        "/page" => give(stream, b"<html>"),
        path => give(stream, path.as_bytes()),
    }
    });
    let list = |path: &str, field: &str| {
        let args = ["get", "-o", "pictures", "--list-from", &web.url(path), "--field", field];
        let mut command = command(&folder, args);
        // Not for strangers.
        command.env("TIDEWHEEL_FTP_PASSWORD", "secret");
        finish(command)
    };
    // What is relative is so to where the list was found.
    let ran = list("/news", "newslist[].picUrl");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("tidewheel: 127.0.0.1 in the list names an account\n"), "{ran:?}");
    assert!(ran.err.contains("'file:///etc/passwd' in the list begins with none of"), "{ran:?}");
    assert!(ran.err.ends_with("tidewheel: 2 of 4 could not be fetched\n"), "{ran:?}");
    assert_eq!(names(&folder.path("pictures")), ["1.jpg", "2.jpg"]);
    assert_eq!(content(&folder, "pictures/2.jpg"), b"/api/2.jpg");

    let line = list("/page", "[]").failed();
    assert!(line.contains("/page: it is no JSON: expected value at line 1 column 1"), "{line}");
    let line = list("/api/news", "newslist[].url").failed();
    assert!(line.contains("there are no addresses at newslist[].url"), "{line}");
}

#[test]
fn it_speaks_the_language_that_is_asked_for() {
    let folder = Folder::new();
    let web = Web::serve(|request, stream| match request.path.as_str() {
        "/lost" => give_status(stream, "404 Not Found"),
        _ => give(stream, b"hello"),
    });
    let ran = run_in(&folder, ["get", "--lang", "zh", &web.url("/a"), &web.url("/lost")]);
    assert_eq!(ran.out, format!("已保存 a（5 字节），来自 {}\n", web.url("/a")));
    assert!(ran.err.contains("the server answers 404 Not Found"), "{ran:?}");
    let mut command = command(&folder, ["get", &web.url("/b")]);
    command.env("LANG", "zh_CN.UTF-8");
    assert!(finish(command).well().starts_with("已保存 b"));
}

#[test]
fn a_signal_leaves_no_draft_behind() {
    let folder = Folder::new();
    let (end, ended) = mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let web = Web::serve(move |_, stream| {
        put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf");
        drop(ended.lock().map(|ended| ended.recv()));
    });
    let mut program = Server::spawn(command(&folder, ["get", &web.url("/x")]));
    await_that("a draft is there", || {
        let names = names(&folder.path(""));
        assert!(
            names.iter().all(|name| name.starts_with(".tidewheel-") && name.ends_with(".part")),
            "{names:?}"
        );
        (!names.is_empty()).then_some(())
    });
    // The signal is caught before the first draft.
    program.signal(Signal::INT);
    assert_eq!(program.wait().signal(), Some(Signal::INT.as_raw()));
    assert!(names(&folder.path("")).is_empty());
    drop(end);
}

#[test]
fn a_signal_that_is_to_be_ignored_ends_nothing() {
    let folder = Folder::new();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let goes_on = std::sync::Mutex::new(goes_on);
    let web = Web::serve(move |_, stream| {
        put(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        drop(goes_on.lock().map(|goes_on| goes_on.recv()));
        put(stream, b"half");
    });
    let args = ["get", &web.url("/x")];
    let mut program = Server::spawn(prepared(tidewheel_through(&["nohup"], args), &folder));
    await_that("a draft is there", || (!names(&folder.path("")).is_empty()).then_some(()));
    program.signal(Signal::HUP);
    drop(go_on);
    assert_eq!(program.wait().code(), Some(0));
    assert_eq!(content(&folder, "x"), b"halfhalf");
}
