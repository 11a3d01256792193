//! The configuration file as a user meets it: what it may say, what counts more, how its mistakes are told.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::program::{Server, lonely_ip, refused, tidewheel};
use crate::harness::{Folder, ask, read_to_end};

/// A configuration file in `folder`.
fn file(folder: &Folder, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path("tidewheel.toml");
    fs::write(&path, text).expect("the folder is there");
    path
}

/// Starts the server with a configuration file and more arguments.
fn start(folder: &Folder, text: &str, args: &[&str]) -> Server {
    let mut command = tidewheel(["serve", "--config"]);
    command.arg(file(folder, text)).args(args);
    Server::spawn(command).ready()
}

/// What the server says to a configuration file that it refuses.
#[track_caller]
fn refusal(folder: &Folder, text: impl AsRef<[u8]>) -> String {
    let path = file(folder, text);
    refused(["serve", "--config", path.to_str().expect("the path is UTF-8")])
}

#[test]
fn the_file_says_what_the_command_line_says() {
    let folder = Folder::new();
    let text = r#"
        services = [
            "banner=127.0.0.1:0", # as on the command line
            "echo=127.0.0.1:0",
        ]
        lang = "zh"
        max-connections = 2
        max-connections-per-ip = "1"
        idle-timeout = "1h"
        progress-timeout = 0
        show = true
    "#;
    let mut server = start(&folder, text, &[]);
    let services: Vec<_> = server.listening.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(services, ["banner", "echo"]);
    assert_eq!(read_to_end(&mut server.tcp("banner")).0, "欢迎访问菜鸟教程！\r\n".as_bytes());
    assert!(server.out_line().ends_with(" connected"), "it shows what comes and goes");
    server.await_counters("the banner's connection is over", |counters| counters["connections_open"] == 0);
    let mut stream = server.tcp("echo");
    ask(&mut stream, b"hello\n", b"hello\n");
    let (refusal, _) = read_to_end(&mut server.tcp("echo"));
    assert_eq!(refusal, b"too many connections from your address, try again later\n");
    server.stop();
}

#[test]
fn the_command_line_counts_more() {
    let folder = Folder::new();
    let text = r#"
        services = ["echo=unix:/nowhere/echo.sock"]
        banner-text = "from the file"
        reply-text = "from the file"
        show = true
    "#;
    let args = ["banner=:0", "reply=:0", "--banner-text", "typed", "--show=false"];
    let mut server = start(&folder, text, &args);
    assert_eq!(server.listening.len(), 2, "{:?}", server.listening);
    assert_eq!(read_to_end(&mut server.tcp("banner")).0, b"typed\r\n");
    ask(&mut server.tcp("reply"), b"hello\n", b"from the file\n");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.out_line(), "", "it shows something");

    // Where to serve is one question: whoever answers it has answered all of it.
    let server = start(&folder, "bind = 'no-such-host.invalid'", &["echo=:0"]);
    assert_eq!(server.listening.len(), 1, "{:?}", server.listening);
    server.stop();
}

#[test]
fn the_environment_counts_more() {
    let folder = Folder::new();
    let path = file(&folder, "log-level = 'debug'\nservices = ['echo=:0']");
    let mut command = tidewheel(["serve", "--config"]);
    command.arg(&path).env("TIDEWHEEL_LOG", "off");
    let mut server = Server::spawn(command).ready();
    ask(&mut server.tcp("echo"), b"hello\n", b"hello\n");
    server.signal(Signal::TERM);
    assert_eq!(server.rest_of_err(), "");
    assert_eq!(server.wait().code(), Some(0));

    let mut server = start(&folder, "log-level = 'debug'\nservices = ['echo=:0']", &[]);
    ask(&mut server.tcp("echo"), b"hello\n", b"hello\n");
    server.await_err(" connected");
    server.stop();
}

#[test]
fn the_example_of_the_documents_serves() {
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md")).expect("it is there");
    let (_, example) = page.split_once("```toml\n").expect("the page has an example");
    let (example, _) = example.split_once("```").expect("the example ends");
    let folder = Folder::new();
    let server = start(&folder, &example.replace("127.0.0.1", &lonely_ip(6).to_string()), &[]);
    assert_eq!(server.listening.len(), example.matches("127.0.0.1").count(), "{:?}", server.listening);
    server.stop();
}

#[test]
fn a_mistake_is_one_line_that_names_its_place() {
    let folder = Folder::new();
    for (text, line, parts) in [
        ("max-conections = 5", 1, &["'max-conections'", "did you mean 'max-connections'?"][..]),
        ("\n\nmax_connections = 5", 3, &["did you mean 'max-connections'?"]),
        ("service = ['echo=:0']", 1, &["did you mean 'services'?"]),
        ("\noutput-total-limit = '8MiB'", 2, &["this option is now --max-memory"]),
        ("output-total-limit = 0", 1, &["this option is now --max-memory"]),
        ("help = true", 1, &["unknown option 'help'"]),
        ("[limits]\nmax-line = 5", 1, &["unknown option 'limits'"]),
        ("config = 'other.toml'", 1, &["cannot name another"]),
        // The first of several.
        ("show = true\nreactors = 0\nlang = 'fr'", 2, &["--reactors", "0 is not in 1..=1024"]),
        ("lang = 'fr'", 1, &["--lang", "[possible values: en, zh]"]),
        ("idle-timeout = 30", 1, &["--idle-timeout", "such as 30s"]),
        ("max-line = '1KB'", 1, &["--max-line", "such as 64KiB"]),
        ("max-connections = -1", 1, &["--max-connections"]),
        ("max-connections = 99999999999999999999999999999999999999999", 1, &["max-connections"]),
        ("max-line = 1.5", 1, &["max-line must be a string or a whole number"]),
        ("lang = ['zh']", 1, &["lang must be a string"]),
        ("show = 'true'", 1, &["show must be true or false"]),
        ("banner-text = 5", 1, &["banner-text must be a string"]),
        ("services = 'echo=:0'", 1, &["services must be a list"]),
        ("services = []", 1, &["services must be a list"]),
        ("services = [7007]", 1, &["services must be a list"]),
        ("services = [\n'echo=:0',\n'ecco=:0']", 3, &["did you mean 'echo'?"]),
        ("services = ['--show']", 1, &["write SERVICE=ADDRESS"]),
        ("lang = zh", 1, &["quoted"]),
        ("show = true\nshow = true", 2, &["duplicate"]),
        ("show = true\n=", 2, &["key"]),
    ] {
        let told = refusal(&folder, text);
        let place = format!("tidewheel: {}:{line}: ", folder.path("tidewheel.toml").display());
        assert!(told.starts_with(&place), "{text:?}: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{text:?}: {told}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let folder = Folder::new();
    for (text, parts) in [
        ("bind = '::1'\nservices = ['echo=:0']", ["tidewheel.toml: ", "--bind"]),
        ("output-soft-limit = '2MiB'", ["--output-soft-limit 2MiB", "--output-hard-limit 1MiB"]),
    ] {
        let told = refusal(&folder, text);
        assert!(parts.iter().all(|part| told.contains(part)), "{text:?}: {told}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    let missing = folder.path("missing.toml");
    let told = refused(["serve", "--config", missing.to_str().expect("the path is UTF-8")]);
    assert!(told.contains(&format!("{}: No such file", missing.display())), "{told}");
    let told = refused(["serve", "--config", "/"]);
    assert!(told.contains("file /: Is a directory"), "{told}");
    let told = refused(["serve", "--config", "/dev/zero"]);
    assert!(told.contains("larger than 1MiB"), "{told}");
    assert!(refusal(&folder, b"show = true # \xff").contains("not valid UTF-8"));
}

#[test]
fn a_mistake_has_no_power_over_the_terminal() {
    let folder = Folder::new();
    for text in [
        r#""\u001b[2J\u009b2J\u202e" = 1"#,
        r#"lang = "\u001b]0;title\u0007\u009b2J\u202e""#,
        r#"services = ["echo=\u001b[2J:0\u2028"]"#,
        r#"bind = "\u001b[2J\nready""#,
        "\x1b[2J = 1",
        "show = \"\x1b[2J\"",
    ] {
        let told = refusal(&folder, text);
        assert!(!told.trim_end_matches('\n').contains(is_powerful), "{told:?}");
    }

    fn is_powerful(character: char) -> bool {
        character.is_control() || matches!(character, '\u{2028}' | '\u{202e}')
    }
}

#[test]
fn a_mistake_that_is_overridden_is_a_mistake_still() {
    let folder = Folder::new();
    let path = file(&folder, "lang = 'fr'");
    let told = refused(["serve", "--lang", "zh", "--config", path.to_str().expect("the path is UTF-8")]);
    assert!(told.contains("en, zh"), "{told}");
}
