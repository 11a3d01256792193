//! What a server has in memory: its own pages, and not what the kernel keeps for its sockets.

use std::fs;

use serde::Serialize;

/// How memory is counted. One way is chosen at first and kept: the two are not comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    /// Exact; pages that processes share are divided among them. The kernel tells it to whoever may trace them.
    Pss,
    /// Shared pages count in each process.
    Rss,
}

impl Count {
    /// The better one that is to be had.
    pub fn of(pids: impl Iterator<Item = i32> + Clone) -> Option<Count> {
        [Count::Pss, Count::Rss].into_iter().find(|count| count.bytes(pids.clone()).is_some())
    }

    /// The memory of all these processes; none if there is none that can be read. Those that end meanwhile are left
    /// out.
    pub fn bytes(self, pids: impl Iterator<Item = i32>) -> Option<u64> {
        pids.filter_map(|pid| self.of_process(pid)).reduce(|sum, bytes| sum + bytes)
    }

    fn of_process(self, pid: i32) -> Option<u64> {
        let (file, name) = match self {
            Count::Pss => ("smaps_rollup", "Pss:"),
            Count::Rss => ("status", "VmRSS:"),
        };
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        Some(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_to_counts() {
        let own = std::iter::once(std::process::id() as i32);
        let count = Count::of(own.clone()).unwrap();
        let before = count.bytes(own.clone()).unwrap();
        let written = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = count.bytes(own).unwrap();
        // Other tests of this process give memory back meanwhile, but not as much.
        assert!(after > before + (written.len() / 2) as u64, "{before} {after}");
    }

    #[test]
    fn no_process_no_memory() {
        assert_eq!(Count::of([i32::MAX].into_iter()), None);
        assert_eq!(Count::Rss.bytes([i32::MAX].into_iter()), None);
    }
}
