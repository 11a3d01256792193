//! A terminal of its own for a program, in tmux.

use std::ffi::OsStr;
use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::termios::{LocalModes, tcgetattr};

use crate::harness::await_that;
use crate::harness::skipped::skip;

/// A terminal of 80 columns and 24 rows in which a command line runs. It ends with the test.
pub struct Screen {
    /// The name of a tmux server that nobody else uses.
    name: String,
}

impl Screen {
    /// Runs a command of the program in a shell, and then tells its exit code and whether the terminal is as it was.
    /// `None`, and the calling test is skipped, where there is no tmux.
    #[track_caller]
    pub fn start(args: &[&str]) -> Option<Screen> {
        if Command::new("tmux").arg("-V").output().is_err() {
            skip("needs tmux: apt-get install tmux");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let screen = Screen { name: format!("tidewheel-{}-{number}", std::process::id()) };
        let words: Vec<_> = args.iter().map(|arg| format!("'{arg}'")).collect();
        let line = format!(
            "before=$(stty -g); '{}' {}; echo \"code $?\"; [ \"$before\" = \"$(stty -g)\" ] || stty -a; echo END; exec cat",
            env!("CARGO_BIN_EXE_tidewheel"),
            words.join(" ")
        );
        // The options of a server are set before its first session, or they come too late for it.
        let started = Command::new("tmux")
            .args(["-u", "-L", &screen.name, "-f", "/dev/null"])
            .args(["set-option", "-g", "history-limit", "100000", ";"])
            .args(["new-session", "-d", "-x", "80", "-y", "24", &line])
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("TIDEWHEEL_FTP_USER")
            .env_remove("TIDEWHEEL_FTP_PASSWORD")
            .output()
            .expect("tmux was there a moment ago");
        assert!(started.status.success(), "{started:?}");
        Some(screen)
    }

    fn tmux<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.name]).args(args).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command.output().expect("tmux was there a moment ago")
    }

    /// Types characters.
    pub fn type_text(&self, text: &str) {
        assert!(self.tmux(["send-keys", "-l", "--", text]).status.success());
    }

    /// Types a line once the terminal no longer echoes.
    pub fn type_secret(&self, line: &str) {
        let output = self.tmux(["display-message", "-p", "#{pane_tty}"]).stdout;
        let name = String::from_utf8(output).expect("names of terminals are ASCII");
        let terminal = File::open(name.trim()).expect("tmux has opened it");
        await_that("the terminal echoes nothing", || {
            let modes = tcgetattr(&terminal).expect("it is a terminal");
            (!modes.local_modes.contains(LocalModes::ECHO)).then_some(())
        });
        self.type_text(line);
        self.press("Enter");
    }

    /// Presses a key by its name: `Enter`, `Up`, `C-c`.
    pub fn press(&self, key: &str) {
        assert!(self.tmux(["send-keys", key]).status.success());
    }

    /// Sends bytes as no key would.
    pub fn send_bytes(&self, bytes: &[u8]) {
        let bytes = bytes.iter().map(|byte| format!("{byte:02x}"));
        assert!(self.tmux(["send-keys", "-H"].map(str::to_owned).into_iter().chain(bytes)).status.success());
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let [columns, rows] = [columns, rows].map(|size| size.to_string());
        assert!(self.tmux(["resize-window", "-x", &columns, "-y", &rows]).status.success());
    }

    /// The lines that are to be seen, and those above them that have gone, without empty ones at the end.
    pub fn lines(&self) -> Vec<String> {
        let output = self.tmux(["capture-pane", "-p", "-S", "-"]);
        let text = String::from_utf8(output.stdout).expect("it is UTF-8");
        text.trim_end().lines().map(str::to_owned).collect()
    }

    /// Waits until the lines are as they must become.
    #[track_caller]
    pub fn await_lines(&self, what: &str, reached: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut last = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            await_that(what, || {
                last = self.lines();
                reached(&last).then_some(())
            });
        }));
        assert!(found.is_ok(), "{what}:\n{}", last.join("\n"));
        last
    }

    /// Waits until there is such a line.
    #[track_caller]
    pub fn await_line(&self, line: &str) -> Vec<String> {
        self.await_lines(line, |lines| lines.iter().any(|found| found == line))
    }

    /// Waits until the last line is this one.
    #[track_caller]
    pub fn await_last(&self, line: &str) -> Vec<String> {
        self.await_lines(line, |lines| lines.last().is_some_and(|last| last == line))
    }

    /// Waits until the program has ended well and left the terminal as it was. Returns what is on it.
    #[track_caller]
    pub fn await_end(&self) -> Vec<String> {
        self.await_code(0)
    }

    /// The same where it has failed.
    #[track_caller]
    pub fn await_code(&self, code: u8) -> Vec<String> {
        let lines = self.await_last("END");
        assert_eq!(lines[lines.len() - 2..], [&format!("code {code}"), "END"], "{}", lines.join("\n"));
        lines
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(["kill-server"]);
    }
}
