//! The memory limit of the control group that the program runs in: that of a container, or of a service under systemd.
//!
//! A group has a limit, and so has each group around it: the lowest counts. Version 2 has one hierarchy for everything, version 1
//! one for memory. Where the hierarchy is mounted may be anywhere, and in a container its root may be the container's own group.

use std::fs;
use std::path::{Path, PathBuf};

/// What version 1 shows for no limit is the largest number of whole pages; no machine has as much as this.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit of this program's control group, in bytes; `None` if there is none, or no such group.
pub fn memory_limit() -> Option<u64> {
    memory_limit_in(Path::new("/"))
}

/// The same in a system whose files are below `root`.
fn memory_limit_in(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    // Both may be there, with memory in either of them.
    groups.lines().filter_map(|line| lowest_limit(root, line, &mounts)).min()
}

/// The lowest limit from a group up to the root of its hierarchy. `line` is one of /proc/self/cgroup: `0::/user.slice`,
/// `4:memory:/docker/5f3a`.
fn lowest_limit(root: &Path, line: &str, mounts: &str) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    let (kind, file) = match controllers {
        "" => ("cgroup2", "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => ("cgroup", "memory.limit_in_bytes"),
        _ => return None,
    };
    let (mount_root, mount_point) = mounts.lines().find_map(|line| mounted(line, kind))?;
    // Seen from within a container, the group may lie outside of what is mounted: then the root of that is its own.
    let below = Path::new(group).strip_prefix(&mount_root).unwrap_or(Path::new(""));
    let below = if below.starts_with("..") { Path::new("") } else { below };
    let top = root.join(mount_point.strip_prefix("/").unwrap_or(&mount_point));
    below.ancestors().filter_map(|group| limit(&top.join(group).join(file))).min()
}

/// The root and the mount point of a hierarchy, if a line of /proc/self/mountinfo is about one of this kind:
/// `35 24 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory`.
fn mounted(line: &str, kind: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut system = system.split(' ');
    let has_memory = match (system.next()?, system.nth(1)) {
        ("cgroup", Some(options)) => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
        (found, _) => found == kind && kind == "cgroup2",
    };
    let mut fields = mount.split(' ').skip(3);
    has_memory.then_some((unescaped(fields.next()?), unescaped(fields.next()?)))
}

/// Blanks and backslashes in paths are written as `\\040` and the like.
fn unescaped(path: &str) -> PathBuf {
    let path = path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    PathBuf::from(path.replace("\\134", "\\"))
}

/// What a file says: a number, or `max`.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|&bytes| bytes < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const V2: &str = "24 1 0:22 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    /// The limit in a system with these files.
    fn limit_of(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("tidewheel-cgroup-{}-{number}", std::process::id()));
        let all = [("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)];
        for (path, text) in all.iter().chain(files) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let limit = memory_limit_in(&root);
        fs::remove_dir_all(root).unwrap();
        limit
    }

    #[test]
    fn the_lowest_limit_of_the_group_and_those_around_it_counts() {
        let files = |inner, middle, outer| {
            [
                ("sys/fs/cgroup/a/b/c/memory.max", inner),
                ("sys/fs/cgroup/a/b/memory.max", middle),
                ("sys/fs/cgroup/a/memory.max", outer),
            ]
        };
        for (inner, middle, outer, expected) in [
            ("max\n", "max\n", "max\n", None),
            ("100000\n", "max\n", "max\n", Some(100_000)),
            ("max\n", "200000\n", "max\n", Some(200_000)),
            ("300000\n", "200000\n", "100000\n", Some(100_000)),
            ("300000\n", "max\n", "400000\n", Some(300_000)),
        ] {
            assert_eq!(limit_of("0::/a/b/c\n", V2, &files(inner, middle, outer)), expected);
        }
        // The root of all has no such file.
        assert_eq!(limit_of("0::/\n", V2, &[]), None);
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let groups = "5:cpu,cpuacct:/other\n4:memory:/docker/5f\n";
        let files = |inner, outer| {
            [
                ("sys/fs/cgroup/memory/docker/5f/memory.limit_in_bytes", inner),
                ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", outer),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/cpu,cpuacct/other/memory.limit_in_bytes", "1\n"),
            ]
        };
        let none = "9223372036854771712\n";
        assert_eq!(limit_of(groups, V1, &files(none, none)), None);
        assert_eq!(limit_of(groups, V1, &files("1000000\n", none)), Some(1_000_000));
        assert_eq!(limit_of(groups, V1, &files("1000000\n", "500000\n")), Some(500_000));
        // Beside version 2, as systemd's hybrid hierarchy has it.
        let both = format!("{V1}33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let groups = format!("{groups}0::/user.slice\n");
        assert_eq!(limit_of(&groups, &both, &files("1000000\n", none)), Some(1_000_000));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        // With a namespace of its own.
        let own = [("sys/fs/cgroup/memory.max", "123456\n")];
        assert_eq!(limit_of("0::/\n", V2, &own), Some(123_456));
        // Without one: the path is that of the host, of which a part is mounted.
        let mounts = "32 24 0:28 /docker/5f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let own = [("sys/fs/cgroup/memory/memory.limit_in_bytes", "123456\n")];
        assert_eq!(limit_of("4:memory:/docker/5f\n", mounts, &own), Some(123_456));
        // Moved to a group outside of what it sees.
        let own = [("sys/fs/cgroup/memory.max", "123456\n")];
        assert_eq!(limit_of("0::/../other\n", V2, &own), Some(123_456));
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        assert_eq!(limit_of("", "", &[]), None);
        assert_eq!(limit_of("0::/a\n", "", &[]), None);
        assert_eq!(limit_of("0::/a\n", V2, &[("sys/fs/cgroup/a/memory.max", "many\n")]), None);
        assert_eq!(limit_of("nonsense\n::\n", "nonsense - \n", &[]), None);
    }
}
