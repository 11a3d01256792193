//! Which processors the server and the generator have. Apart, where there are two or more, neither waits for the other.

use std::fmt;
use std::io;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// By their numbers; the same ones for both where they cannot be apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placement {
    server_cpus: Vec<usize>,
    loadgen_cpus: Vec<usize>,
}

impl Placement {
    /// Of the processors that this thread may use, the first is the server's, and the others are the generator's.
    pub fn choose() -> Result<Placement> {
        let allowed = sched_getaffinity(None).context("asking which processors loadgen may use")?;
        Ok(Placement::of((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()))
    }

    fn of(allowed: Vec<usize>) -> Placement {
        match allowed.as_slice() {
            [first, others @ ..] if !others.is_empty() => {
                Placement { server_cpus: vec![*first], loadgen_cpus: others.to_vec() }
            }
            _ => Placement { server_cpus: allowed.clone(), loadgen_cpus: allowed },
        }
    }

    /// Whether neither takes the other's time.
    pub fn is_apart(&self) -> bool {
        self.server_cpus != self.loadgen_cpus
    }

    /// The processes that the calling thread starts from now on have the server's.
    pub fn pin_server(&self) -> Result<()> {
        pin(&self.server_cpus).context("pinning the server")
    }

    /// Does what starts a process that may run on either's.
    pub fn unpinned<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        let all: Vec<usize> = self.server_cpus.iter().chain(&self.loadgen_cpus).copied().collect();
        pin(&all).context("setting processors free")?;
        let started = start();
        self.pin_loadgen()?;
        started
    }

    /// The calling thread has the generator's, and so have the threads that it starts.
    pub fn pin_loadgen(&self) -> Result<()> {
        pin(&self.loadgen_cpus).context("pinning loadgen")
    }
}

fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, loadgen) = (list(&self.server_cpus), list(&self.loadgen_cpus));
        if self.is_apart() {
            write!(f, "the server on CPU {server}, loadgen on CPU {loadgen}")
        } else {
            write!(f, "server and loadgen both on CPU {server}, the only one: they wait for each other")
        }
    }
}

/// Numbers in ascending order, with those that follow on each other as a range: `1-3,7`.
fn list(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|one, next| one + 1 == *next).map(|range| match range {
        [first, .., last] => format!("{first}-{last}"),
        single => single.iter().map(usize::to_string).collect(),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_apart_where_there_are_two_processors() {
        let placement = Placement::of(vec![2, 4, 5, 6, 9]);
        assert_eq!(placement.to_string(), "the server on CPU 2, loadgen on CPU 4-6,9");
        let placement = Placement::of(vec![3]);
        assert!(!placement.is_apart());
        assert!(placement.to_string().contains("both on CPU 3"), "{placement}");
    }
}
