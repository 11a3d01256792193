//! Where results can go: standard output, what cannot be renamed over, links, FIFOs, devices.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::outputs::Folder;
use super::{echo_server, loadgen};

/// What each output option of `run` writes begins with.
const FORMATS: [(&str, &str); 5] = [
    ("--json", "{"),
    ("--hgrm", "       Value"),
    ("--hlog", "#[Histogram log"),
    ("--csv", "start_s,"),
    ("--html", "<!doctype html>"),
];

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Measures a little, with these outputs.
fn run(arguments: &[&str]) -> Output {
    let target = format!("echo={}", echo_server());
    loadgen(&[&["run", &target, "-q", "-n", "20", "-w", "0"], arguments].concat())
}

/// That it measured, though the generator may have had too little CPU time.
fn assert_measured(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{stderr}");
    assert!(stderr.lines().all(|line| line.contains("INVALID")), "{stderr}");
}

/// Asks for what is refused before any load: nobody listens where it would go. Returns what it says.
fn refused(arguments: &[&str]) -> String {
    let output = loadgen(&[&["run", "echo=127.0.0.1:1"], arguments].concat());
    let stderr = text(output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    stderr
}

#[test]
fn every_output_of_a_run_takes_standard_output() {
    for (option, begin) in FORMATS {
        for path in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let output = run(&[option, path]);
            assert_measured(&output);
            let out = text(output.stdout);
            assert!(out.starts_with(begin), "{option} {path}: {out}");
            // Instead of the table.
            assert!(!out.contains("closed loop, depth 1\n"), "{option} {path}: {out}");
        }
    }
    assert!(!fs::exists("-").unwrap(), "a file named -");
}

#[test]
fn every_output_of_every_command_takes_standard_output() {
    let folder = Folder::new();
    let address = echo_server();
    let target = format!("echo={address}");
    let log = folder.path("log");
    loadgen(&["run", &target, "-n", "10", "-w", "0", "--hlog", &log]);
    let history = folder.path("history");
    fs::write(&history, super::history::lines("cpu", |_| 0.0, 20)).unwrap();
    let slowed = format!("'{}' be-the-slowed-server {{port}} 0", env!("CARGO_BIN_EXE_loadgen"));
    let commands: [(&[&str], &[&str]); 7] = [
        (
            &["run", "--reconnect", &target, "-n", "10", "-w", "0"],
            &["--json", "--hgrm", "--hlog", "--csv", "--html"],
        ),
        (&["run", &target, "-n", "10", "-w", "0", "--repeat", "2"], &["--json", "--csv", "--html"]),
        (&["search", &target, "--slo", "p99<10s", "-t", "10ms", "-w", "0", "--budget", "1ms"], &["--json"]),
        (
            &["idle", &address, "-c", "2", "--busy", "1", "-n", "10", "-w", "0"],
            &["--json", "--hgrm", "--hlog", "--csv", "--html"],
        ),
        (&["merge", &log], &["--json", "--hgrm", "--hlog", "--csv", "--html"]),
        (&["history", &history], &["--json", "--html", "--svg"]),
        (
            &["compare", "--metric", "cpu", "--budget", "1ms", "--base", &slowed, "--head", &slowed],
            &["--json", "--markdown", "--html", "--history"],
        ),
    ];
    for (arguments, options) in commands {
        for &option in options {
            let output = loadgen(&[arguments, &[option, "-"]].concat());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 1 | 3 | 4)), "{arguments:?} {option}: {stderr}");
            let out = text(output.stdout);
            let is_it = match option {
                "--json" => serde_json::from_str::<Value>(&out).is_ok(),
                "--history" => out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
                "--html" => out.starts_with("<!doctype html>") && out.trim_end().ends_with("</html>"),
                "--svg" => out.starts_with("<svg") && out.trim_end().ends_with("</svg>"),
                "--csv" => {
                    let columns = |line: &str| line.split(',').count();
                    out.lines().all(|line| {
                        columns(line) == columns(out.lines().next().unwrap()) && columns(line) > 5
                    })
                }
                "--markdown" => out.contains("|--"),
                _ => FORMATS.iter().any(|(of, begin)| *of == option && out.starts_with(begin)),
            };
            assert!(is_it && !out.is_empty(), "{arguments:?} {option}: {out}");
        }
    }
    assert!(!fs::exists("-").unwrap(), "a file named -");
}

#[test]
fn two_results_cannot_go_to_one_place() {
    let folder = Folder::new();
    let path = folder.path("file");
    symlink("file", folder.path("link")).unwrap();
    fs::write(folder.path("there"), "older").unwrap();
    fs::hard_link(folder.path("there"), folder.path("same")).unwrap();
    for (one, other) in [
        ("-", "-"),
        ("-", "/dev/stdout"),
        ("/dev/fd/1", "/proc/self/fd/1"),
        (path.as_str(), path.as_str()),
        (&path, &folder.path("./file")),
        (&path, &folder.path("link")),
        (&folder.path("there"), &folder.path("same")),
    ] {
        let told = refused(&["--json", one, "--csv", other]);
        assert!(told.contains("--json") && told.contains("--csv"), "{one} {other}: {told}");
    }
    assert_eq!(folder.read("there"), "older");
}

#[test]
fn a_dangling_link_is_followed_and_stays() {
    let folder = Folder::new();
    fs::create_dir(folder.path("sub")).unwrap();
    // Relative to where the link is, over a second link, and absolute.
    symlink("../second", folder.path("sub/first")).unwrap();
    symlink(folder.path("sub/file"), folder.path("second")).unwrap();
    assert_measured(&run(&["--json", &folder.path("sub/first")]));
    for link in ["sub/first", "second"] {
        assert!(fs::symlink_metadata(folder.path(link)).unwrap().is_symlink(), "{link}");
    }
    let _: Value = serde_json::from_str(&folder.read("sub/file")).unwrap();
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(folder.path("sub")).unwrap().count(), 2);

    symlink("gone/file", folder.path("nowhere")).unwrap();
    assert!(refused(&["--json", &folder.path("nowhere")]).contains("No such file"));
    symlink("loop", folder.path("loop")).unwrap();
    assert!(refused(&["--json", &folder.path("loop")]).contains("symbolic links"));
}

#[test]
fn a_replaced_file_keeps_its_permissions_its_owner_and_its_names() {
    let folder = Folder::new();
    let path = folder.path("file");
    for mode in [0o600, 0o640, 0o664, 0o755] {
        fs::write(&path, "older").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        // Only root may give it away.
        let _ = std::os::unix::fs::chown(&path, Some(65_534), Some(65_534));
        let before = fs::metadata(&path).unwrap();
        assert_measured(&run(&["--json", &path]));
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        let _: Value = serde_json::from_str(&folder.read("file")).unwrap();
    }
    fs::hard_link(&path, folder.path("other")).unwrap();
    assert_measured(&run(&["--csv", &path]));
    assert!(folder.read("other").starts_with("start_s,"), "the other name of the file");
}

#[test]
fn devices_are_written_or_refused_before_the_load() {
    assert!(refused(&["--json", "/dev/full"]).contains("No space left"));
    assert_measured(&run(&["--json", "/dev/null", "--csv", "/dev/null"]));
    let output = run(&["--json", "/dev/stderr"]);
    let json = text(output.stderr);
    let json = &json[..=json.rfind('}').unwrap()];
    let _: Value = serde_json::from_str(json).unwrap();
}

#[test]
fn what_no_file_can_be_is_refused_before_the_load() {
    let folder = Folder::new();
    let socket = folder.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::write(folder.path("file"), "").unwrap();
    for (path, words) in [
        (folder.path(""), "directory"),
        (folder.path("new/"), "directory"),
        (folder.path("missing/file"), "No such file"),
        (folder.path("file/file"), "Not a directory"),
        (String::new(), "name"),
        (socket, "No such device"),
        (folder.path(&"x".repeat(300)), "too long"),
        ("/proc/sys/file".into(), ""),
    ] {
        for (option, _) in FORMATS {
            let told = refused(&[option, &path]);
            assert!(told.contains(words) && told.contains(option), "{path}: {told}");
        }
    }
}

#[test]
fn a_fifo_without_a_reader_is_refused_in_words_and_one_with_a_reader_is_written() {
    let folder = Folder::new();
    let path = folder.path("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let output = loadgen(&["run", "echo=127.0.0.1:1", "--json", &path]);
    let told = text(output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].contains("waiting") && lines[0].contains("fifo"), "{told}");
    assert!(lines[1].contains("has no reader"), "{told}");

    // The reader comes when the writer waits already.
    let target = format!("echo={}", echo_server());
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", &target, "-q", "-n", "20", "-w", "0", "--json", &path])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 20];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    let json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(json["requests"], 20);
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 3)));
    assert!(fs::metadata(&path).unwrap().mode() & 0o170_000 == 0o010_000, "it is a FIFO still");
}

/// Runs a script in a mount namespace of its own, where that is allowed.
fn in_namespace(script: &str) -> Option<String> {
    let unshare = |script: &str| {
        Command::new("unshare").args(["--mount", "--map-root-user", "sh", "-ec", script]).output()
    };
    if !unshare("mount --bind /tmp /mnt").is_ok_and(|output| output.status.success()) {
        crate::skipped::skip("needs a mount namespace, with unshare and the right to use it");
        return None;
    }
    let output = unshare(script).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    Some(text(output.stdout))
}

#[test]
fn a_file_in_a_folder_that_cannot_be_written_is_written_in_place() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    fs::write(folder.path("folder/file"), "older").unwrap();
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let target = format!("echo={}", echo_server());
    // A file system that is read-only but for one file; root may write to any folder.
    let (inner, file) = (folder.path("folder"), folder.path("folder/file"));
    let outer = folder.path("outer");
    fs::write(&outer, "").unwrap();
    let script = format!(
        "mount --bind {inner} {inner}
         mount --bind {outer} {file}
         mount -o remount,ro,bind {inner}
         '{loadgen}' run {target} -q -n 20 -w 0 --json {file} > /dev/null || test $? = 3
         '{loadgen}' run echo=127.0.0.1:1 --json {inner}/new 2>&1 || test $? = 2"
    );
    let Some(told) = in_namespace(&script) else { return };
    assert!(told.contains("read-only") && told.lines().count() == 1, "{told}");
    let json: Value = serde_json::from_str(&folder.read("outer")).unwrap();
    assert_eq!(json["requests"], 20);
}

#[test]
fn a_file_that_is_mounted_is_written_in_place() {
    let folder = Folder::new();
    let (there, here) = (folder.path("there"), folder.path("here"));
    fs::write(&there, "older, and longer than what follows".repeat(1000)).unwrap();
    fs::write(&here, "").unwrap();
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let target = format!("echo={}", echo_server());
    // A run that fails leaves it as it was.
    let script = format!(
        "mount --bind {there} {here}
         '{loadgen}' run echo=127.0.0.1:1 --hlog {here} && exit 1
         grep -q older {here}
         '{loadgen}' run {target} -q -n 20 -w 0 --json {here} > /dev/null || test $? = 3
         '{loadgen}' run {target} -q -n 20 -w 0 --json {here} > /dev/null || test $? = 3
         mount -o remount,ro,bind {here}
         '{loadgen}' run echo=127.0.0.1:1 --json {here} 2>&1 || test $? = 2"
    );
    let Some(told) = in_namespace(&script) else { return };
    assert!(told.contains("Read-only") && told.lines().count() == 1, "{told}");
    let json: Value = serde_json::from_str(&folder.read("there")).unwrap();
    assert_eq!(json["requests"], 20);
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 2, "nothing is left beside it");
}
