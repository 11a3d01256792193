//! Starts that the system refuses. Mistakes on the command line are shown in [`command_line`](crate::command_line).

use std::fs;
use std::process::Command;

use crate::harness::Folder;
use crate::harness::program::{Server, tidewheel, tidewheel_through};

/// What a start that is refused says: one line, and nothing has been announced.
#[track_caller]
fn refusal(command: Command) -> String {
    let mut server = Server::spawn(command);
    assert_eq!(server.out_line(), "", "it announced something");
    let err = server.rest_of_err();
    assert_eq!(server.wait().code(), Some(2), "{err}");
    assert_eq!(err.matches('\n').count(), 1, "{err}");
    assert!(err.starts_with("tidewheel: "), "{err}");
    err
}

#[test]
fn a_port_that_only_root_may_take_is_refused_with_its_address() {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim().parse::<u16>().is_ok_and(|lowest| lowest <= 7) {
        return eprintln!("skipped: everybody may take any port here");
    }
    let folder = Folder::new();
    let path = folder.path("echo");
    let unix = format!("echo=unix:{}", path.display());
    let args = ["serve", unix.as_str(), "echo=127.0.0.1:7"];
    // Root gives the right away; whoever is not root has not got it.
    let privileged = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    let can_drop = Command::new(privileged[0]).args(&privileged[1..]).arg("true").output();
    let command = match can_drop.is_ok_and(|output| output.status.success()) {
        true => tidewheel_through(&privileged, args),
        false if rustix::process::geteuid().is_root() => {
            return eprintln!("skipped: root cannot give its rights away without setpriv");
        }
        false => tidewheel(args),
    };
    let line = refusal(command);
    assert!(line.contains("tcp://127.0.0.1:7"), "{line}");
    assert!(!path.exists(), "the unix socket was bound before the failure, and is left");
}

#[test]
fn a_folder_that_is_not_there_is_refused_with_its_path() {
    let folder = Folder::new();
    let path = folder.path("no/such/folder");
    let line = refusal(tidewheel(["serve".to_owned(), format!("echo=unix:{}", path.display())]));
    assert!(line.contains(&path.display().to_string()), "{line}");
}

#[test]
fn too_few_descriptors_to_start_are_told_so() {
    for limit in 3..12 {
        let start = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut server = Server::spawn(tidewheel_through(&["sh", "-c", &start], ["serve", "echo=:0"]));
        let first = server.out_line();
        if first.is_empty() {
            let err = server.rest_of_err();
            assert_ne!(server.wait().code(), Some(0), "with {limit} descriptors: {err}");
            assert!(!err.contains("panicked"), "with {limit} descriptors: {err}");
        } else {
            // It has all that it needs to start, if not for connections.
            assert_eq!(server.out_line(), "ready", "with {limit} descriptors");
            server.stop();
        }
    }
}
