//! The clients as they are run: in a folder of their own, deaf to the proxies and accounts of whoever runs the tests.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::harness::Folder;
use crate::harness::program::{Server, tidewheel};

/// What became of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// It went well, and had nothing to complain about.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// It failed in one line.
    #[track_caller]
    pub fn failed(self) -> String {
        self.told(1)
    }

    /// The command line was no good.
    #[track_caller]
    pub fn refused(self) -> String {
        self.told(2)
    }

    #[track_caller]
    fn told(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        assert!(self.err.starts_with("tidewheel: ") && self.err.lines().count() == 1, "{self:?}");
        self.err
    }
}

/// A command that will run in a folder.
pub fn command<S: AsRef<OsStr>>(folder: &Folder, args: impl IntoIterator<Item = S>) -> Command {
    prepared(tidewheel(args), folder)
}

/// Makes a command one that will run in a folder, and knows of no proxy, no account and no password.
pub fn prepared(mut command: Command, folder: &Folder) -> Command {
    command.current_dir(folder.path(""));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in ["TIDEWHEEL_FTP_USER", "TIDEWHEEL_FTP_PASSWORD"] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub fn finish(command: Command) -> Ran {
    let mut program = Server::spawn(command);
    let mut err = program.err.take().expect("it is piped");
    // Either may be more than a pipe holds.
    let err = thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).expect("what the program says is UTF-8");
        text
    });
    let mut out = Vec::new();
    program.out.take().expect("it is piped").read_to_end(&mut out).expect("a pipe can be read");
    Ran {
        err: err.join().expect("it only reads"),
        out: String::from_utf8(out).expect("the tests' bodies are UTF-8"),
        code: program.wait().code(),
    }
}

/// Runs `tidewheel` in a folder.
pub fn run_in<S: AsRef<OsStr>>(folder: &Folder, args: impl IntoIterator<Item = S>) -> Ran {
    finish(command(folder, args))
}

/// The names in a folder, hidden ones too.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry.expect("a folder can be read to its end").file_name().to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}
