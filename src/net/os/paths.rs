//! Ways to peers on which the kernel does not cut a message into datagrams of any size.
//!
//! Each datagram that a message is cut into (UDP_SEGMENT) must fit the path to the peer; the kernel says EMSGSIZE (older ones
//! EINVAL) if it does not, and EIO where the path has no means to cut at all, as with IPsec. That holds for this peer
//! alone: all others go on getting long messages. What is known of a path is forgotten after a while, as the kernel does with
//! the path's MTU, since routes change.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

/// So many paths are known at once. One more takes the place of another, which the kernel refuses one message to then.
const PATHS_MAX: usize = 256;

/// How long what is known of a path holds: as long as the kernel's own knowledge (net.ipv4.route.mtu_expires).
const KEPT: Duration = Duration::from_secs(600);

/// What is known of paths. Time is an argument, counted from any beginning.
#[derive(Default)]
pub(super) struct Paths {
    /// Each has its place by a random hash. Empty until one is known.
    paths: Box<[Option<Path>]>,
    random: RandomState,
}

#[derive(Clone, Copy)]
struct Path {
    to: IpAddr,
    segment_bytes_max: usize,
    until: Duration,
}

impl Paths {
    /// Whether nothing is known of any path.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The largest datagram that a message to this address may be cut into, if it is known to be limited; 0 where it
    /// cannot be cut.
    pub fn segment_bytes_max(&self, to: IpAddr, now: impl FnOnce() -> Duration) -> Option<usize> {
        let path = self.paths.get(self.place(to))?.filter(|path| path.to == to)?;
        (now() < path.until).then_some(path.segment_bytes_max)
    }

    /// Notes that a message to this address may be cut into datagrams of at most so many bytes.
    pub fn limit(&mut self, to: IpAddr, segment_bytes_max: usize, now: Duration) {
        if self.paths.is_empty() {
            self.paths = vec![None; PATHS_MAX].into();
        }
        let place = self.place(to);
        self.paths[place] = Some(Path { to, segment_bytes_max, until: now + KEPT });
    }

    fn place(&self, to: IpAddr) -> usize {
        self.random.hash_one(to) as usize % PATHS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const START: Duration = Duration::from_secs(1000);

    fn known(paths: &Paths, to: IpAddr, now: Duration) -> Option<usize> {
        paths.segment_bytes_max(to, || now)
    }

    #[test]
    fn a_path_is_limited_for_a_while_and_no_other_is() {
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut paths = Paths::default();
        assert!(paths.is_empty());
        assert_eq!(known(&paths, one, START), None);
        paths.limit(one, 600, START);
        assert!(!paths.is_empty());
        assert_eq!(known(&paths, one, START), Some(600));
        assert_eq!(known(&paths, other, START), None);
        // It shrinks once more, and the time begins anew.
        paths.limit(one, 0, START + KEPT / 2);
        assert_eq!(known(&paths, one, START + KEPT), Some(0));
        assert_eq!(known(&paths, one, START + KEPT / 2 + KEPT), None);
        paths.limit(one, 500, START + 2 * KEPT);
        assert_eq!(known(&paths, one, START + 2 * KEPT), Some(500));
    }

    #[test]
    fn memory_is_bounded_and_the_last_one_is_always_known() {
        let mut paths = Paths::default();
        for number in 0..100_000_u32 {
            let to = Ipv4Addr::from_bits(number).into();
            paths.limit(to, 600, START);
            assert_eq!(known(&paths, to, START), Some(600));
        }
        assert_eq!(paths.paths.len(), PATHS_MAX);
    }
}
