//! What `man` and shells are told of the commands.

use std::fs;
use std::process::Command;

use super::run::{names, run_in};
use crate::harness::Folder;
use crate::harness::skipped::skip;

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
        Err(_) => skip("needs man: apt-get install man-db"),
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

    // What shells make of it: the one command of ftp that begins with these letters.
    for (shell, asked, told) in [
        (
            "bash",
            "source completions.bash; COMP_WORDS=(tidewheel ftp ren); COMP_CWORD=2; \
             _tidewheel tidewheel ren ftp; echo \"${COMPREPLY[*]}\"",
            "rename\n",
        ),
        (
            "fish",
            "source completions.fish; complete -C 'tidewheel ftp ren'",
            "rename\tRename a file or a directory\n",
        ),
        // It completes for nobody but whoever sits at a terminal.
        (
            "zsh",
            "autoload compinit; compinit -D -u; source completions.zsh; echo $_comps[tidewheel]",
            "_tidewheel\n",
        ),
    ] {
        fs::write(folder.path(&format!("completions.{shell}")), run_in(&folder, ["completions", shell]).out)
            .expect("the folder is there");
        let mut command = Command::new(shell);
        command.args(["-c", asked]).current_dir(folder.path("")).env("HOME", folder.path(""));
        match command.output() {
            Ok(ran) => {
                assert_eq!(String::from_utf8_lossy(&ran.stdout), told, "{ran:?}");
                assert_eq!(String::from_utf8_lossy(&ran.stderr), "", "{ran:?}");
            }
            Err(_) => skip(&format!("needs {shell}: apt-get install {shell}")),
        }
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
