//! What the machine is, and what all of it did meanwhile: time stolen by the hypervisor, and the load of other processes.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::os::clock_ticks_per_second;

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The kind of its processors.
    machine: &'static str,
    cpu: String,
    cpus: usize,
    kernel: String,
}

impl Host {
    /// This one.
    pub fn here() -> Host {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Host {
            machine: std::env::consts::ARCH,
            cpu: model.map_or("unknown CPU".into(), |(_, model)| model.trim().to_owned()),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} CPUs, {}, {}", self.cpu, self.cpus, self.machine, self.kernel)
    }
}

/// Here and now, in UTC and to the second, as programs read it.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The same, to the minute, as people do.
pub fn date() -> String {
    Timestamp::now().strftime("%Y-%m-%d %H:%M").to_string()
}

/// The CPU time of all processors since boot, as /proc/stat has it, in ticks.
#[derive(Clone, Copy)]
pub struct MachineClock {
    all: u64,
    busy: u64,
    stolen: u64,
}

/// Shares of the CPU time that all processors had together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineShares {
    /// Wanted by this machine, and given to another by the hypervisor.
    pub stolen: f64,
    /// Used by processes other than those that are told apart.
    pub others: f64,
}

impl MachineClock {
    /// None where there is no such file.
    pub fn read() -> Option<MachineClock> {
        MachineClock::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(text: &str) -> Option<MachineClock> {
        let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        // The time of guests, which comes after these, is in the user's already.
        let &[user, nice, system, idle, iowait, irq, softirq, stolen] = ticks.get(..8)? else { return None };
        let busy = user + nice + system + irq + softirq;
        Some(MachineClock { all: busy + idle + iowait + stolen, busy, stolen })
    }

    /// What has come on top, without that of processes whose CPU time is known. None if no tick has passed.
    pub fn since(&self, before: &MachineClock, known: Duration) -> Option<MachineShares> {
        let ticks = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let all = ticks(self.all, before.all);
        let known = known.as_secs_f64() * clock_ticks_per_second() as f64;
        (all > 0.0).then(|| MachineShares {
            stolen: ticks(self.stolen, before.stolen) / all,
            // Ticks are coarse: over a short window what is known may seem to be more than all there was.
            others: (ticks(self.busy, before.busy) - known).max(0.0) / all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_processors() {
        let clock = |line: &str| MachineClock::parse(line).unwrap();
        let before = clock("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\n");
        let after = clock("cpu  150 10 130 890 10 5 5 100 40 0\n");
        let ticks_per_s = clock_ticks_per_second();
        let known = Duration::from_secs(30) / ticks_per_s as u32;
        let shares = after.since(&before, known).unwrap();
        // 300 ticks passed: 100 busy, of which 30 are known, 100 stolen.
        assert!((shares.others - 70.0 / 300.0).abs() < 1e-9, "{shares:?}");
        assert!((shares.stolen - 100.0 / 300.0).abs() < 1e-9, "{shares:?}");
        assert_eq!(after.since(&before, Duration::from_secs(3600)).unwrap().others, 0.0);
        assert_eq!(after.since(&after, Duration::ZERO), None);
    }

    #[test]
    fn anything_else_is_not_known() {
        for text in ["", "cpu\n", "cpu  1 2 3\n", "cpux 1 2 3 4 5 6 7 8\n"] {
            assert!(MachineClock::parse(text).is_none(), "{text}");
        }
    }
}
