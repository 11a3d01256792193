//! What std does not offer: CPU clocks and the descriptor limit. The only unsafe code of the crate.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The kernel's own bound (PID_MAX_LIMIT).
const PID_MAX: i32 = 4 << 20;

/// The CPU time of a process: all its threads, user and system, in nanoseconds and exact to the moment of reading.
/// (/proc/PID/stat counts in ticks of 10 ms, /proc/PID/schedstat the first thread alone.)
#[derive(Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// This process.
    pub const OWN: CpuClock = CpuClock(libc::CLOCK_PROCESS_CPUTIME_ID);

    /// Another process of this machine.
    pub fn of_process(pid: i32) -> io::Result<CpuClock> {
        // The call takes 0 for the caller and makes other clocks of ids that no process can have: a server that is
        // not there must be an error instead.
        if !(1..=PID_MAX).contains(&pid) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut clock = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for one clockid_t, which is all that the call writes.
        match unsafe { libc::clock_getcpuclockid(pid, clock.as_mut_ptr()) } {
            // SAFETY: the call returned 0, so it has written the clock.
            0 => Ok(CpuClock(unsafe { clock.assume_init() })),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// CPU time since the process began. Fails once the process is gone.
    pub fn read(self) -> io::Result<Duration> {
        let mut time = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the pointer is valid for one timespec, which is all that the call writes.
        if unsafe { libc::clock_gettime(self.0, time.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned 0, so it has written the time.
        let time = unsafe { time.assume_init() };
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// How long the calling thread has been ready to run without running: what the kernel counts in
/// /proc/thread-self/schedstat. Where it does not, the delay is 0.
pub struct RunDelay(Duration);

impl RunDelay {
    pub fn read() -> RunDelay {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
        RunDelay(Duration::from_nanos(ns.unwrap_or_default()))
    }

    /// What has come on top.
    pub fn since(&self) -> Duration {
        RunDelay::read().0.saturating_sub(self.0)
    }
}

/// Descriptors beside the connections: the standard streams, the poll, a file to write.
const DESCRIPTORS_RESERVED: u64 = 16;

/// Raises the soft descriptor limit to the hard one and refuses to begin what that cannot hold.
pub fn raise_descriptor_limit(connections: usize) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error()).context("reading the descriptor limit");
    }
    let needed = connections as u64 + DESCRIPTORS_RESERVED;
    if limit.rlim_max < needed {
        bail!(
            "{connections} connections need {needed} descriptors and the hard limit is {}: raise it (ulimit -Hn) or open fewer",
            limit.rlim_max
        );
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error()).context("raising the descriptor limit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_clock_by_id_is_the_same_clock() {
        let by_id = CpuClock::of_process(std::process::id() as i32).unwrap();
        let first = CpuClock::OWN.read().unwrap();
        let between = by_id.read().unwrap();
        let last = CpuClock::OWN.read().unwrap();
        assert!(first <= between && between <= last, "{first:?} {between:?} {last:?}");
    }

    #[test]
    fn no_process_no_clock() {
        assert!(CpuClock::of_process(0).is_err());
        assert!(CpuClock::of_process(i32::MAX).is_err());
    }

    #[test]
    fn a_limit_that_cannot_be_reached_is_an_error() {
        let error = raise_descriptor_limit(usize::MAX >> 1).unwrap_err();
        assert!(error.to_string().contains("hard limit"), "{error}");
    }
}
