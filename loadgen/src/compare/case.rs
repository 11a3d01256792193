//! One thing that both servers are asked to do, and how they are started for it.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::Serialize;

use crate::Usage;
use crate::cli::Run;
use crate::report::figures;
use crate::server::{CommandLine, PORT, Ready, Server, find_port};
use crate::service::Service;
use crate::trial::first_reply;

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Base,
    Head,
}

/// One thing that both servers are asked to do.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    /// As `loadgen run` has it; the address may have `{port}` in it.
    pub run: Run,
    /// The servers' commands, which may have `{port}` in them.
    pub base: String,
    pub head: String,
}

impl Case {
    pub fn command(&self, side: Side) -> &str {
        match side {
            Side::Base => &self.base,
            Side::Head => &self.head,
        }
    }

    /// Fails if the options do not suit the service, or a command or the address lacks the port that the other has.
    pub fn check(&self) -> Result<(), String> {
        let has_port = self.run.options.target.has_port;
        for side in [Side::Base, Side::Head] {
            let command = self.command(side);
            command.parse::<CommandLine>().map_err(|words| format!("the command {command:?} {words}"))?;
            match (has_port, command.contains(PORT)) {
                (true, false) => {
                    return Err(format!("the command {command:?} has no {{port}}, the port to listen on"));
                }
                (false, true) => {
                    return Err(format!(
                        "{{port}} is in the command {command:?} but not in the address {}",
                        self.run.options.target.address
                    ));
                }
                (false, false) => {
                    return Err(format!(
                        "two servers of each side run at once: write {{port}} in the command {command:?} and in the address"
                    ));
                }
                (true, true) => {}
            }
        }
        self.run_at(find_port())?.asked().map(|_| ())
    }

    /// The run at a server that has this port.
    fn run_at(&self, port: u16) -> Result<Run, String> {
        let mut run = self.run.clone();
        run.options.target = run.options.target.at(port)?;
        Ok(run)
    }

    /// Starts a server of this side on a free port and the processors that the calling thread has, under the tool that
    /// `prefix` is, if it is any. Returns it with the run that drives it.
    pub fn start(&self, side: Side, prefix: &str, stop: &AtomicBool) -> Result<(Server, Run)> {
        let port = find_port();
        let run = self.run_at(port).map_err(Usage)?;
        let text = self.command(side).replace(PORT, &port.to_string());
        let command = text.parse().and_then(|command: CommandLine| command.under(prefix));
        let command = command.map_err(|words: String| Usage(format!("the command {text:?} {words}")))?;
        let (address, timeout) = (&run.options.target.address, run.options.start_timeout());
        let first_reply = first_reply(&run);
        let ready = Ready { address, first_reply: &first_reply, timeout, stop };
        let server = Server::start_silent(&command, &ready)?;
        drop(first_reply);
        Ok((server, run))
    }
}

/// What is driven, and how, in a few words.
pub fn title(run: &Run) -> String {
    let options = &run.options;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut words =
        format!("{}, {} connection{}", options.target.service, run.connections, plural(run.connections));
    if options.target.address.takes_datagrams() {
        words = format!(
            "{} by datagrams, {} source{}",
            options.target.service,
            run.connections,
            plural(run.connections)
        );
    }
    match run.rate {
        Some(rate) => words += &format!(", {}", figures::rate(rate)),
        None if run.pacing.depth > 1 => words += &format!(", depth {}", run.pacing.depth),
        None => {}
    }
    if !matches!(options.target.service, Service::Http | Service::Daytime | Service::Banner) {
        words += &format!(", {} B", options.size);
    }
    words
}
