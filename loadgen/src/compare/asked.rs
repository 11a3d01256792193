//! What is asked for: the cases of the command line or of a suite, each with the commands of its two servers.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

use super::case::{self, Case};
use super::revision::{self, BINARY, Built, default_command, with_binary};
use super::suite::{self, SuiteCase};
use crate::Usage;
use crate::address::Peer;
use crate::cli::{Compare, Run};
use crate::server::PORT;

/// All of it, ready to be started.
pub struct Asked {
    pub cases: Vec<Case>,
    /// The servers, if they were built for this; they are there as long as this is.
    pub built: Option<Built>,
}

/// Reads the suite, builds the revisions, and finds all of it good. Before anything is pinned to a processor: a build wants all
/// of them.
pub fn gather(asked: &Compare, stop: &AtomicBool) -> Result<Asked> {
    let written = match &asked.suite {
        Some(path) => suite::read(path)?,
        None => vec![SuiteCase::default()],
    };
    let is_built = asked.revisions.base_rev.is_some();
    // A build takes its time: what is wrong without it is told before.
    let yet_to_be = Path::new("{binary}");
    cases(asked, &written, is_built.then_some([yet_to_be; 2]))?;
    let built = is_built.then(|| revision::build(&asked.revisions, asked.quiet, stop)).transpose()?;
    let binaries = built.as_ref().map(|built| [built.base.as_path(), built.head.as_path()]);
    Ok(Asked { cases: cases(asked, &written, binaries)?, built })
}

fn cases(asked: &Compare, written: &[SuiteCase], binaries: Option<[&Path; 2]>) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for written in written {
        let case = case_of(asked, written, binaries)?;
        case.check().map_err(|words| Usage(format!("{}: {words}", case.name)))?;
        if cases.iter().any(|other| other.name == case.name) {
            return Err(
                Usage(format!("two cases have the name '{}': give them different names", case.name)).into()
            );
        }
        cases.push(case);
    }
    Ok(cases)
}

fn case_of(asked: &Compare, written: &SuiteCase, binaries: Option<[&Path; 2]>) -> Result<Case> {
    let target = written.service.iter().map(|service| match service.contains('=') {
        true => service.clone(),
        false => format!("{service}=127.0.0.1:{PORT}"),
    });
    let words = written.options.iter().cloned().chain(target);
    let run = asked.run.with(words).map_err(|error| Usage(suite::sentence(&error)))?;
    let name = written.name.clone().unwrap_or_else(|| case::title(&run));
    let told = |words: String| Usage(format!("{name}: {words}"));
    let [base, head] = match binaries {
        Some(binaries) => {
            if written.base.is_some() || written.head.is_some() {
                return Err(
                    told("--base-rev builds both servers: use command, not base and head".into()).into()
                );
            }
            let command = written.command.as_ref().or(asked.revisions.command.as_ref());
            let command = match command {
                Some(command) => command.as_str(),
                None => usual_command(&run).map_err(told)?,
            };
            [with_binary(command, binaries[0])?, with_binary(command, binaries[1])?]
        }
        None => {
            if written.command.is_some() {
                let words =
                    format!("command needs --base-rev, which builds {BINARY}; without it use base and head");
                return Err(told(words).into());
            }
            let base = written.base.as_ref().or(asked.base.as_ref());
            let head = written.head.as_ref().or(asked.head.as_ref());
            let (Some(base), Some(head)) = (base, head) else {
                let words = "give --base COMMAND and --head COMMAND, or --base-rev REV";
                return Err(Usage(words.into()).into());
            };
            [base.clone(), head.clone()]
        }
    };
    Ok(Case { name, run, base, head })
}

/// What serves it, if that needs no words of its own.
fn usual_command(run: &Run) -> Result<&'static str, String> {
    let target = &run.options.target;
    let is_usual = match &target.address.peer {
        Peer::Tcp(addresses) | Peer::Udp(addresses) => {
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            target.has_port && addresses.iter().all(|address| address.ip() == loopback)
        }
        Peer::Unix(_) | Peer::UnixDatagram(_) => false,
    };
    let command = default_command(target.service, target.address.takes_datagrams());
    command.filter(|_| is_usual).ok_or_else(|| {
        format!(
            "no default command for {} at {}: give --command '{BINARY} ...'",
            target.service, target.address
        )
    })
}
