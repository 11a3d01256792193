//! What `man` and shells are told of the commands.

use std::fs;
use std::process::Command;

use super::run::{names, run_in};
use crate::harness::Folder;

#[test]
fn every_command_has_a_man_page() {
    let folder = Folder::new();
    assert_eq!(run_in(&folder, ["man", "."]).well(), "");
    let pages = names(&folder.path(""));
    for page in [
        "tidewheel",
        "tidewheel-serve",
        "tidewheel-talk",
        "tidewheel-chat",
        "tidewheel-get",
        "tidewheel-ftp",
        "tidewheel-ftp-put",
    ] {
        assert!(pages.contains(&format!("{page}.1")), "{page}: {pages:?}");
    }
    let page = fs::read_to_string(folder.path("tidewheel-get.1")).expect("it was written");
    assert!(page.contains(r"\-\-retry") && page.contains("Examples:"), "{page}");
    assert!(run_in(&folder, ["man"]).well().contains(".TH tidewheel 1"));
    match Command::new("man")
        .args(["--warnings=all", "-l", "tidewheel-get.1"])
        .current_dir(folder.path(""))
        .output()
    {
        Ok(read) => assert!(read.status.success() && read.stderr.is_empty(), "{read:?}"),
        Err(_) => println!("left out: man is not installed"),
    }
    let line = run_in(&folder, ["man", "missing"]).failed();
    assert!(line.contains("cannot write man pages to missing: No such file or directory"), "{line}");
}

#[test]
fn shells_complete_the_commands() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_in(&folder, ["completions", shell]).well();
        assert!(script.contains("--list-from") || script.contains("list-from"), "{shell}");
        assert!(script.contains("rename") && script.contains("nick") && script.contains("until"), "{shell}");
    }
    let line = run_in(&folder, ["completions", "csh"]).refused();
    assert!(line.contains("possible values: bash"), "{line}");

    // What bash makes of it: the one command of ftp that begins with these letters.
    fs::write(folder.path("completions"), run_in(&folder, ["completions", "bash"]).out)
        .expect("the folder is there");
    let asked = "source completions; COMP_WORDS=(tidewheel ftp ren); COMP_CWORD=2; \
                 _tidewheel tidewheel ren ftp; echo \"${COMPREPLY[*]}\"";
    match Command::new("bash").args(["-c", asked]).current_dir(folder.path("")).output() {
        Ok(told) => assert_eq!(String::from_utf8_lossy(&told.stdout), "rename\n", "{told:?}"),
        Err(_) => println!("left out: bash is not installed"),
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let folder = Folder::new();
    for command in ["talk", "chat", "get", "completions", "man", "ftp"].iter().map(|name| vec![*name]).chain(
        ["pwd", "ls", "nlst", "get", "put", "rename", "rm", "mkdir", "rmdir"]
            .iter()
            .map(|name| vec!["ftp", *name]),
    ) {
        let help = run_in(&folder, command.iter().copied().chain(["--help"])).well();
        assert!(
            help.contains(&format!("  tidewheel {}", command.join(" ")))
                || help.contains("Example: tidewheel"),
            "{help}"
        );
    }
}
