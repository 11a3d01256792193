//! A time to be reported among the other events, by a timerfd: so no wait has to reckon with it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub fn new() -> io::Result<Alarm> {
        // SAFETY: the call takes no pointer.
        let timer =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor has just been made, and nobody else knows it.
        Ok(Alarm(unsafe { OwnedFd::from_raw_fd(timer) }))
    }

    /// Makes the descriptor readable after this time, once.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        // A time of zero would switch it off.
        let after = after.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(after.subsec_nanos() as i32),
        };
        let once =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the first pointer is to a valid itimerspec, which the call only reads; the second may be null.
        let result =
            unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    use super::*;

    /// Whether the alarm is reported within a time.
    fn rings(poll: &mut Poll, within: Duration) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(within)).unwrap();
        events.iter().any(|event| event.token() == Token(7) && event.is_readable())
    }

    #[test]
    fn it_is_reported_once_each_time_that_it_is_set_though_nobody_reads_it() {
        let (mut poll, alarm) = (Poll::new().unwrap(), Alarm::new().unwrap());
        let descriptor = alarm.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), Token(7), Interest::READABLE).unwrap();
        for after in [Duration::ZERO, Duration::from_millis(1), Duration::ZERO] {
            alarm.set(after).unwrap();
            assert!(rings(&mut poll, Duration::from_secs(60)));
            assert!(!rings(&mut poll, Duration::ZERO));
        }
        alarm.set(Duration::MAX).unwrap();
        assert!(!rings(&mut poll, Duration::ZERO));
    }
}
