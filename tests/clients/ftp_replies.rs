//! `tidewheel ftp`, and `tidewheel get` of ftp://, against the replies that servers give: in every form, late, or not
//! at all.

use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;

use super::ftp_script::{Rule, Scripted};
use super::run::{Ran, command, finish, names, run_in};
use crate::harness::skipped::skip;
use crate::harness::{Folder, await_that};

/// Runs `tidewheel ftp` or `get` in a folder of its own; `URL` among the words is the server's at `path`.
fn run(server: &Scripted, words: &[&str], path: &str) -> Ran {
    let url = server.url(path);
    run_in(&Folder::new(), words.iter().map(|&word| if word == "URL" { url.as_str() } else { word }))
}

/// Fetches a file to standard output from a server with these rules.
fn fetched(rules: &[Rule]) -> Ran {
    run(&Scripted::start(rules, b"hello\n"), &["get", "-o", "-", "URL"], "/x")
}

// ---- passive mode ----

#[test]
fn a_passive_address_is_found_in_any_form() {
    for reply in [
        &b"227 Entering Passive Mode (127,0,0,1,{port})\r\n"[..],
        b"227 Entering Passive Mode (127,0,0,1,{port}).\r\n",
        b"227 Entering Passive Mode 127,0,0,1,{port}\r\n",
        b"227 Entering Passive Mode. 127,0,0,1,{port} and more words\r\n",
        b"227 =127,0,0,1,{port}\r\n",
        b"227 127,0,0,1,{port}\r\n",
        b"227 Passive mode [127, 0, 0, 1, {port}]\r\n",
        b"227 Ok (2 of 3) (127,0,0,1,{port})\n",
        b"227-Passive\r\n 1,2,3\r\n227 (127,0,0,1,{port})\r\n",
        // The address of a host that cannot be reached: the data connection goes where the control connection went.
        b"227 Entering Passive Mode (192,0,2,1,{port})\r\n",
        b"227 Entering Passive Mode (0,0,0,0,{port})\r\n",
    ] {
        let out = fetched(&[("PASV", reply), ("EPSV", b"500 No\r\n")]).well();
        assert_eq!(out, "hello\n", "{}", reply.escape_ascii());
    }
}

#[test]
fn a_passive_address_that_is_none_is_an_error_with_the_reply() {
    for (reply, reason) in [
        ("227 Entering Passive Mode (127,0,0,1,256,1)", "a number above 255"),
        ("227 Entering Passive Mode (127,0,0,1,4,99999999999999999999)", "a number above 255"),
        ("227 Entering Passive Mode (300,0,0,1,4,1)", "a number above 255"),
        ("227 Entering Passive Mode (127,0,0,1,0,0)", "port 0"),
        ("227 Entering Passive Mode (127,0,0,1)", "no address"),
        ("227 Entering Passive Mode", "no address"),
    ] {
        let line = fetched(&[("PASV", format!("{reply}\r\n").as_bytes())]).failed();
        assert!(line.contains(reply) && line.contains(reason), "{line}");
    }
    for (reply, reason) in [
        ("229 Extended (|||70000|)", "no port"),
        ("229 Extended (|||0|)", "no port"),
        ("229 Extended (||)", "no port"),
        ("229 Extended", "no port"),
    ] {
        let rules: &[Rule] = &[("PASV", b"502 No\r\n"), ("EPSV", &format!("{reply}\r\n").into_bytes())];
        let line = fetched(rules).failed();
        assert!(line.contains(reply) && line.contains(reason), "{line}");
    }
}

#[test]
fn what_one_passive_command_refuses_the_other_is_asked_for() {
    for refusal in
        [&b"502 Not implemented\r\n"[..], b"425 Not now\r\n", b"500-No\r\n229 inside\r\n500 no\r\n"]
    {
        for extended in [
            &b"229 Entering Extended Passive Mode (|||{tcp}|)\r\n"[..],
            b"229 Extended |||{tcp}|\r\n",
            b"229 (!!!{tcp}!)\r\n",
            b"229 Extended (|1|127.0.0.1|{tcp}|)\r\n",
        ] {
            let server = Scripted::start(&[("PASV", refusal), ("EPSV", extended)], b"hello\n");
            assert_eq!(run(&server, &["get", "-o", "-", "URL"], "/x").well(), "hello\n");
        }
        // The other way round.
        assert_eq!(fetched(&[("EPSV", refusal)]).well(), "hello\n");
    }
    let line = fetched(&[("PASV", b"502 No PASV\r\n"), ("EPSV", b"522 No EPSV\r\n")]).failed();
    assert!(line.contains("the server says 502 No PASV") && line.contains("522 No EPSV"), "{line}");
}

#[test]
fn over_ipv6_only_the_extended_command_is_used() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("needs IPv6 on loopback");
    }
    let server = Scripted::start_at("[::1]:0", &[("PASV", b"500 What?\r\n")], b"hello\n");
    assert_eq!(run(&server, &["get", "-o", "-", "URL"], "/x").well(), "hello\n");
    assert!(server.has_said(b"EPSV") && !server.has_said(b"PASV"));
    let server = Scripted::start_at("[::1]:0", &[("EPSV", b"502 No EPSV\r\n")], b"hello\n");
    let line = run(&server, &["get", "-o", "-", "URL"], "/x").failed();
    assert!(line.contains("the server says 502 No EPSV") && !server.has_said(b"PASV"), "{line}");
}

// ---- replies of several lines ----

#[test]
fn a_reply_of_several_lines_ends_with_its_own_code() {
    for reply in [
        &b"550-No\r\n200 folders are the most\r\n550 refused\r\n"[..],
        b"550-No\r\n257 \"/x\" created\r\n250-and more\r\n550-\r\n550refused\r\n550 refused\r\n",
        b"550-No\n200 folders are the most\n550 refused\n",
    ] {
        let server = Scripted::start(&[("MKD", reply)], b"");
        let line = run(&server, &["ftp", "mkdir", "URL"], "/x").failed();
        assert!(line.contains("the server says 550 No") && line.contains("refused"), "{line}");
    }
    let welcome = b"220-Welcome\r\n530 users are the most\r\n 220 not yet\r\n220-221 Bye\r\n220 Ready\r\n";
    let features = b"211-Features:\r\n MDTM\r\n500 is not an error here\r\n UTF8\r\n211 End\r\n";
    let login = b"230-\r\n\r\n421 users today\r\n230 Come in\r\n";
    let done = b"150-Opening\r\n550 bytes\r\n150 now\r\n{data}226-Done\r\n426 of them\r\n226 Done\r\n";
    let rules: &[Rule] = &[("", welcome), ("FEAT", features), ("PASS", login), ("RETR", done)];
    assert_eq!(fetched(rules).well(), "hello\n");
}

#[test]
fn a_reply_has_limits() {
    let long_line = [b"220 ", &[b'x'; 1 << 20][..], b"\r\n"].concat();
    let many_lines = [b"220-\r\n", &b" motd\r\n".repeat(100_000)[..], b"220 Ready\r\n"].concat();
    for (welcome, reason) in [(long_line, "longer than 8192 bytes"), (many_lines, "more than 1000 lines")] {
        let line = fetched(&[("", &welcome)]).failed();
        assert!(line.contains("the server's reply") && line.contains(reason), "{line}");
        assert!(line.len() < 500, "{}", line.len());
    }
}

#[test]
fn what_is_no_reply_is_shown() {
    for (welcome, shown) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "SSH-2.0-OpenSSH_9.2"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400"),
        (b"99 bottles\r\n", "99 bottles"),
        (b"999 bottles\r\n", "999 bottles"),
        (b"2200 bottles\r\n", "2200 bottles"),
        (b"\x1b[2Jx\r\n", "[2Jx"),
    ] {
        let line = fetched(&[("", welcome)]).failed();
        assert!(line.contains("what came is not FTP") && line.contains(shown), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
}

// ---- folders ----

#[test]
fn the_name_of_a_folder_is_shown_without_its_quoting() {
    for (reply, shown) in [
        (&br#"257 "/tmp/ab""s""#[..], "/tmp/ab\"s\n"),
        (br#"257 "/" is the current directory"#, "/\n"),
        (br#"257 Folder is "/a b" (not "/c")"#, "/a b\n"),
        (br#"257 """" it is"#, "\"\n"),
        (br#"257 "a""""b""#, "a\"\"b\n"),
        ("257 \"/文\"".as_bytes(), "/文\n"),
        (b"257 \"/\xce\xc4\"", "/%CE%C4\n"),
        (b"257 \"/\x1b[31m\"", "/\\u{1b}[31m\n"),
    ] {
        let server = Scripted::start(&[("PWD", &[reply, b"\r\n"].concat())], b"");
        assert_eq!(run(&server, &["ftp", "pwd", "URL"], "/").well(), shown);
    }
    let server = Scripted::start(&[("PWD", b"257 no quotes\r\n")], b"");
    let line = run(&server, &["ftp", "pwd", "URL"], "/").failed();
    assert!(line.contains("names no folder") && line.contains("257 no quotes"), "{line}");
}

// ---- names in other encodings ----

#[test]
fn names_that_are_not_utf8_are_shown_and_fetched_byte_by_byte() {
    // 文.txt in GBK, and a name in UTF-8.
    let listing = b"\xce\xc4.txt\r\n\xe6\x96\x87\r\n";
    let server = Scripted::start(&[], listing);
    assert_eq!(run(&server, &["ftp", "nlst", "URL"], "/").well(), "%CE%C4.txt\n文\n");
    assert_eq!(run(&server, &["ftp", "ls", "URL"], "/%CE%C4/").well(), "%CE%C4.txt\n文\n");
    assert!(server.has_said(b"CWD \xce\xc4/"));

    let folder = Folder::new();
    let server = Scripted::start(&[], b"hello\n");
    let told = run_in(&folder, ["get", &server.url("/%CE%C4.txt")]).well();
    assert!(told.starts_with("saved %CE%C4.txt (6 bytes)"), "{told}");
    assert!(server.has_said(b"RETR \xce\xc4.txt"));
    assert_eq!(names(&folder.path("")), ["%CE%C4.txt"]);
    assert_eq!(run_in(&folder, ["ftp", "get", &server.url("/%ff%FE"), "-o", "-"]).well(), "hello\n");
    assert!(server.has_said(b"RETR \xff\xfe"));
}

#[test]
fn names_are_in_the_encoding_that_is_given() {
    let folder = Folder::new();
    fs::write(folder.path("文.txt"), "hello\n").expect("the folder is there");
    for (label, name) in [
        ("gbk", &b"\xce\xc4"[..]),
        ("GB2312", b"\xce\xc4"),
        ("big5", b"\xa4\xe5"),
        ("shift_jis", b"\x95\xb6"),
        ("utf-8", "文".as_bytes()),
    ] {
        let shown = "文";
        let listing = [name, b".txt\r\n"].concat();
        let quoted = [b"257 \"/", name, b"\"\r\n"].concat();
        let refusal = [b"550 ", name, b" is here\r\n"].concat();
        let rules: &[Rule] =
            &[("PWD", &quoted), ("MKD", &refusal), ("RNFR", b"350 Go on\r\n"), ("RNTO", b"250 Ok\r\n")];
        let server = Scripted::start(rules, &listing);
        let ftp = |words: &[&str], path: &str| {
            let url = server.url(path);
            let words = words.iter().map(|&word| if word == "URL" { url.as_str() } else { word });
            run_in(&folder, ["ftp", "--encoding", label].into_iter().chain(words))
        };
        let path = format!("/{shown}");
        assert_eq!(ftp(&["nlst", "URL"], &path).well(), format!("{shown}.txt\n"));
        assert!(server.has_said(&[b"CWD ", name].concat()), "{label}");
        assert_eq!(ftp(&["pwd", "URL"], "/").well(), format!("/{shown}\n"));
        let line = ftp(&["mkdir", "URL"], &path).failed();
        assert!(line.contains(&format!("the server says 550 {shown} is here")), "{line}");
        ftp(&["rename", "URL", &format!("{shown}2")], &path).well();
        assert!(server.has_said(&[b"RNFR ", name].concat()));
        assert!(server.has_said(&[b"RNTO ", name, b"2"].concat()));
        // Bytes of the URL are what they are.
        ftp(&["get", "-o", "listing", "URL"], "/%CE%C4").well();
        assert!(server.has_said(b"RETR \xce\xc4"));
    }
    let server = Scripted::start(&[], b"hello\n");
    let told = run_in(&folder, ["get", "--encoding", "gbk", &server.url("/文件.txt")]).well();
    assert!(told.starts_with("saved 文件.txt (6 bytes)"), "{told}");
    let told = run_in(&folder, ["get", "--encoding", "gbk", &server.url("/%CE%C4")]).well();
    assert!(told.starts_with("saved 文 (6 bytes)"), "{told}");
    assert!(server.has_said(b"RETR \xce\xc4\xbc\xfe.txt"));
    run_in(&folder, ["ftp", "put", "--in-place", "文.txt", &server.url("/"), "--encoding", "gbk"]).well();
    assert!(server.has_said(b"STOR \xce\xc4.txt"));
    // Accounts, too.
    let url = format!("ftp://文@{}/", server.address);
    let mut account = command(&folder, ["ftp", "nlst", "--encoding", "gbk", &url]);
    account.env("TIDEWHEEL_FTP_PASSWORD", "件");
    finish(account).well();
    assert!(server.has_said(b"USER \xce\xc4") && server.has_said(b"PASS \xbc\xfe"));
}

#[test]
fn an_encoding_that_cannot_be_used_is_refused() {
    let server = Scripted::start(&[], b"");
    let with = |label: &str, path: &str| run(&server, &["ftp", "--encoding", label, "ls", "URL"], path);
    for label in ["klingon", "", "utf-16le", "utf-16", "replacement"] {
        let ran = with(label, "/");
        assert!(ran.code == Some(2) && ran.err.contains("--encoding"), "{ran:?}");
    }
    let line = with("latin1", "/文").refused();
    assert!(line.contains("'文' cannot be written in windows-1252"), "{line}");
    let line = run(&server, &["ftp", "--encoding", "gbk", "rename", "URL", "a🙂"], "/x").refused();
    assert!(line.contains("'🙂' cannot be written in GBK"), "{line}");
    assert!(server.said().is_empty());
}

#[test]
fn a_server_that_speaks_utf8_is_asked_to() {
    let features = b"211-Features:\r\n SIZE\r\n utf8\r\n211 End\r\n";
    let server = Scripted::start(&[("FEAT", features), ("OPTS", b"200 Ok\r\n")], b"hello\n");
    assert_eq!(run(&server, &["get", "-o", "-", "URL"], "/文").well(), "hello\n");
    let said = server.said();
    let at = |line: &[u8]| said.iter().position(|said| said == line).unwrap_or_else(|| panic!("{said:?}"));
    assert!(at(b"FEAT") < at(b"OPTS UTF8 ON") && at(b"OPTS UTF8 ON") < at("RETR 文".as_bytes()));
    // Neither for bytes that are no UTF-8, nor in another encoding, nor where the server does not list it.
    for (words, path) in
        [(&["get", "-o", "-", "URL"][..], "/%CE%C4"), (&["get", "-o", "-", "--encoding", "gbk", "URL"], "/x")]
    {
        let server = Scripted::start(&[("FEAT", features)], b"hello\n");
        run(&server, words, path).well();
        assert!(!server.has_said(b"OPTS UTF8 ON"));
    }
    for features in [&b"211 None\r\n"[..], b"500 What?\r\n", b"211-Features:\r\n XUTF8\r\n211 End\r\n"] {
        let server = Scripted::start(&[("FEAT", features)], b"hello\n");
        run(&server, &["get", "-o", "-", "URL"], "/x").well();
        assert!(!server.has_said(b"OPTS UTF8 ON"));
    }
}

// ---- URLs ----

#[test]
fn the_type_of_a_url_is_no_part_of_the_name() {
    for (path, kind, command, out) in [
        ("/x;type=i", "TYPE I", "RETR x", "a\r\nb\r\n"),
        ("/x;type=I", "TYPE I", "RETR x", "a\r\nb\r\n"),
        ("/x;type=a", "TYPE A", "RETR x", "a\nb\n"),
        ("/x;TYPE=A", "TYPE A", "RETR x", "a\nb\n"),
        ("/x;type=d", "", "NLST", "a\nb\n"),
        ("/;type=d", "", "NLST", "a\nb\n"),
        ("/x;y;type=i", "TYPE I", "RETR x;y", "a\r\nb\r\n"),
        ("/x%3Btype=a", "TYPE I", "RETR x;type=a", "a\r\nb\r\n"),
        ("/x;typ=a", "TYPE I", "RETR x;typ=a", "a\r\nb\r\n"),
        ("/x?y", "TYPE I", "RETR x?y", "a\r\nb\r\n"),
    ] {
        for words in [&["get", "-o", "-", "URL"][..], &["ftp", "get", "-o", "-", "URL"]] {
            let server = Scripted::start(&[], b"a\r\nb\r\n");
            assert_eq!(run(&server, words, path).well(), out, "{path}");
            assert!(server.has_said(command.as_bytes()), "{path}: {command}");
            assert!(kind.is_empty() || server.has_said(kind.as_bytes()), "{path}: {kind}");
        }
    }
    // An option takes precedence.
    let server = Scripted::start(&[], b"a\r\n");
    assert_eq!(run(&server, &["ftp", "get", "--ascii", "-o", "-", "URL"], "/x;type=i").well(), "a\n");
    assert_eq!(run(&server, &["ftp", "get", "--binary", "-o", "-", "URL"], "/x;type=a").well(), "a\r\n");

    let folder = Folder::new();
    fs::write(folder.path("text"), "one\n").expect("the folder is there");
    run_in(&folder, ["get", &server.url("/x.txt;type=i")]).well();
    assert_eq!(names(&folder.path("")), ["text", "x.txt"]);
    let server = Scripted::start(&[("RNFR", b"350 Go on\r\n"), ("RNTO", b"250 Ok\r\n")], b"");
    run_in(&folder, ["ftp", "put", "text", &server.url("/;type=a")]).well();
    assert!(server.has_said(b"TYPE A") && server.has_said(b"RNTO text"));
    let line = run_in(&folder, ["ftp", "put", "text", &server.url("/y;type=d")]).refused();
    assert!(line.contains("type=d"), "{line}");
    for path in ["/x;type=x", "/x;type=", "/x;type=ai"] {
        let line = run(&server, &["get", "URL"], path).refused();
        assert!(line.contains("type=") && line.contains("a, i or d"), "{line}");
    }
}

#[test]
fn no_name_brings_a_second_command() {
    for (words, path) in [
        (&["get", "URL"][..], "/x%0D%0ADELE%20y"),
        (&["get", "URL"], "/x%0ADELE%20y"),
        (&["get", "URL"], "/x%0D"),
        (&["get", "URL"], "/x%00"),
        (&["get", "URL"], "/%CE%C4%0Ax"),
        (&["ftp", "--encoding", "gbk", "ls", "URL"], "/x%0Ay"),
        (&["ftp", "rm", "URL"], "/x%0D%0ADELE%20y;type=i"),
        (&["ftp", "rename", "URL", "a\nDELE b"], "/x"),
        (&["ftp", "rename", "URL", "a\rDELE b"], "/x"),
        (&["ftp", "ls", "URL"], "/x?%0Ay"),
    ] {
        let server = Scripted::start(&[], b"");
        let line = run(&server, words, path).refused();
        assert!(line.contains("control characters"), "{line}");
        assert!(server.said().is_empty(), "{:?}", server.said());
    }
    let folder = Folder::new();
    let odd = folder.path("").join(std::ffi::OsStr::from_bytes(b"odd\nDELE x"));
    fs::write(&odd, "").expect("the folder is there");
    let server = Scripted::start(&[], b"");
    let args = ["ftp".as_ref(), "put".as_ref(), odd.as_os_str(), server.url("/").as_ref()]
        .map(std::ffi::OsStr::to_owned);
    assert!(run_in(&folder, args).refused().contains("write the whole path"));
    // Anything else is a name.
    let server = Scripted::start(&[], b"hello\n");
    assert_eq!(run(&server, &["get", "-o", "-", "URL"], "/a%09%1b%7f").well(), "hello\n");
    assert!(server.has_said(b"RETR a\t\x1b\x7f"));
}

// ---- early, late and missing replies ----

#[test]
fn a_quit_that_is_not_answered_is_not_waited_for() {
    for words in [&["get", "-o", "-", "--timeout", "0", "URL"][..], &["ftp", "--timeout", "0", "nlst", "URL"]]
    {
        let server = Scripted::start(&[("QUIT", b"")], b"hello\n");
        assert_eq!(run(&server, words, "/x").well(), "hello\n");
        // It closed the connection: the server did not get tired of it.
        let end =
            await_that("the connection ends", || server.said().pop().filter(|line| line.starts_with(b"<")));
        assert_eq!(end, b"<closed>");
        assert!(server.has_said(b"QUIT"));
    }
}

#[test]
fn replies_that_promise_another_are_not_the_last() {
    let rules: &[Rule] = &[
        ("", b"120 Ready in a minute\r\n220 Ready\r\n"),
        ("PASS", b"110 Wait\r\n230 Come in\r\n"),
        ("RETR", b"110 MARK 1 = 1\r\n125 Already open\r\n{data}110 MARK 2 = 2\r\n250 Done\r\n"),
    ];
    assert_eq!(fetched(rules).well(), "hello\n");
    // All at once.
    assert_eq!(fetched(&[("RETR", b"150 Here\r\n226 Done\r\n{data}")]).well(), "hello\n");
    assert_eq!(fetched(&[("RETR", b"226 Done\r\n{data}")]).well(), "hello\n");
    let line = fetched(&[("USER", &b"120 Wait\r\n".repeat(10_000))]).failed();
    assert!(line.contains("120 Wait") && line.contains("no final reply"), "{line}");
}

#[test]
fn the_words_of_the_server_say_why_it_failed() {
    for (rules, words) in [
        (&[("RETR", &b"150 Here\r\n{data}426 Aborted\r\n"[..])][..], "the server says 426 Aborted"),
        (
            &[("RETR", b"150 Here\r\n{data}451 Disk \x1b[31merror\r\n")],
            "the server says 451 Disk \\u{1b}[31merror",
        ),
        (&[("RETR", b"150 Here\r\n{data}550-So\r\n550 sorry\r\n")], "the server says 550 So sorry"),
        (&[("RETR", b"550 \xce\xc4: no such file\r\n")], "the server says 550 %CE%C4: no such file"),
        (&[("RETR", b"350 Odd\r\n")], "the server says 350 Odd"),
        (&[("", b"421 Too many users\r\n{close}")], "the server says 421 Too many users"),
        (&[("", b"530 Go away\r\n")], "the server says 530 Go away"),
        (&[("TYPE", b"421 Timeout\r\n{close}")], "the server says 421 Timeout"),
        (&[("SIZE", b"421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        (&[("FEAT", b"421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        (&[("PASV", b"421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        // Before the command that it is not an answer to.
        (&[("PASS", b"230 Come in\r\n421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        (&[("RETR", b"150 Here\r\n421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        (&[("RETR", b"150 Here\r\n{data}{close}")], "the server closed the connection without a reply"),
        (&[("RETR", b"{close}")], "the server closed the connection without a reply"),
        (&[("PASV", b"{close}")], "the server closed the connection without a reply"),
        (&[("", b"{close}")], "the server closed the connection without a reply"),
        (
            &[("RETR", b"150-Here\r\n it\r\n{close}")],
            "the server closed the connection in the middle of a reply",
        ),
        (&[("PASS", b"332 ACCT, please\r\n")], "332 ACCT, please"),
        (&[("USER", b"530 Nobody\r\n")], "530 Nobody"),
    ] {
        let line = fetched(rules).failed();
        assert!(line.contains(words), "{words}: {line}");
        let told = run(&Scripted::start(rules, b"hello\n"), &["ftp", "get", "URL", "-o", "-"], "/x").failed();
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn a_transfer_that_is_not_confirmed_has_failed() {
    let folder = Folder::new();
    fs::write(folder.path("x"), "hello\n").expect("the folder is there");
    let rules: &[Rule] = &[("RETR", b"150 Here\r\n{data}"), ("STOR", b"150 Send it\r\n{take}")];
    let server = Scripted::start(rules, b"hello\n");
    let url = server.url("/x");
    for args in [&["get", "-o", "y", &url][..], &["ftp", "put", "x", &url]] {
        let line = run_in(&folder, [args, &["--timeout", "300ms"]].concat()).failed();
        assert!(line.contains("the server did not confirm it for 300ms"), "{line}");
    }
    assert_eq!(names(&folder.path("")), ["x"]);
}

#[test]
fn a_failed_upload_says_what_the_server_said() {
    for (rules, words) in [
        (&[("STOR", &b"150 Send it\r\n{take}452 Disk full\r\n"[..])][..], "the server says 452 Disk full"),
        (&[("STOR", b"150 Send it\r\n{take}426 Aborted\r\n")], "the server says 426 Aborted"),
        (&[("STOR", b"150 Send it\r\n{take}{close}")], "the server closed the connection without a reply"),
        (&[("STOR", b"150 Send it\r\n421 Shutting down\r\n{close}")], "the server says 421 Shutting down"),
        (&[("STOR", b"553 No\r\n")], "the server says 553 No"),
    ] {
        let folder = Folder::new();
        fs::write(folder.path("x"), vec![b'x'; 16 << 20]).expect("the folder is there");
        let server = Scripted::start(rules, b"");
        let line = run_in(&folder, ["ftp", "put", "x", &server.url("/")]).failed();
        assert!(line.contains(words), "{words}: {line}");
    }
}
