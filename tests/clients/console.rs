//! A client with pipes for its standard streams.

use std::ffi::OsStr;
use std::io::{self, PipeWriter, Read, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::await_that;
use crate::harness::program::{Server, tidewheel};

/// A client that runs. It is killed when the test ends, or takes too long.
pub struct Client {
    program: Server,
    stdin: Option<PipeWriter>,
}

/// How a client ended, and what it had said that was not read yet.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Client {
    /// Starts a client.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Client {
        Client::spawn(tidewheel(args))
    }

    pub fn spawn(mut command: Command) -> Client {
        let (read, write) = io::pipe().expect("a pipe for the test");
        command.stdin(Stdio::from(read));
        Client { program: Server::spawn(command), stdin: Some(write) }
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the input has not been ended yet");
        stdin.write_all(text.as_bytes()).expect("the client reads");
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Reads as many bytes of standard output as the text has, which they must be.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        crate::harness::expect(self.program.out.as_mut().expect("it is piped"), text.as_bytes());
    }

    /// The next line on standard output.
    pub fn out_line(&mut self) -> String {
        self.program.out_line()
    }

    /// The next line on standard error.
    pub fn err_line(&mut self) -> String {
        self.program.err_line()
    }

    /// Where it listens, which is the first thing that it says.
    pub fn listening(&mut self) -> String {
        let line = self.err_line();
        line.strip_prefix("tidewheel: listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    /// Waits until it sleeps, and goes on doing so: what turns in vain is never seen asleep so often in a row.
    pub fn await_rest(&self) {
        let mut asleep = 0;
        await_that("it sleeps", || {
            asleep = if self.program.is_in_state('S') { asleep + 1 } else { 0 };
            (asleep == 20).then_some(())
        });
    }

    /// Reads its standard output no more.
    pub fn close_out(&mut self) {
        self.program.out = None;
    }

    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        // Neither is more than a pipe holds, so one can be read after the other.
        if let Some(mut stdout) = self.program.out.take() {
            stdout.read_to_string(&mut out).expect("it is UTF-8");
        }
        self.program.err.take().expect("it is piped").read_to_string(&mut err).expect("it is UTF-8");
        Ended { code: self.program.wait().code(), out, err }
    }

    /// Ends its input and waits until it ends.
    pub fn finish(mut self) -> Ended {
        self.end_input();
        self.wait()
    }
}

impl Ended {
    /// What it printed; all was well.
    #[track_caller]
    pub fn fine(self) -> String {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// The one line that tells what was wrong.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.matches('\n').count(), 1, "{self:?}");
        assert!(self.err.starts_with("tidewheel: "), "{self:?}");
        self.err
    }
}
