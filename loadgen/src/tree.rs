//! What a server uses: the CPU time and the context switches of a process and all its descendants.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::CpuClock;

/// What has been used since the processes began. Of one that has ended it is what was seen of it last, and one that its
/// parent has left behind is lost sight of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub switches: Switches,
}

/// Context switches of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Nothing was left to do.
    pub voluntary: u64,
    /// Another thread had its turn.
    pub involuntary: u64,
}

impl Switches {
    pub fn since(self, before: Switches) -> Switches {
        Switches {
            voluntary: self.voluntary.saturating_sub(before.voluntary),
            involuntary: self.involuntary.saturating_sub(before.involuntary),
        }
    }
}

pub struct Tree {
    root: i32,
    used: Usage,
    /// By process, as last seen.
    clocks: HashMap<i32, Duration>,
    /// By thread, as last seen.
    switches: HashMap<i32, Switches>,
}

impl Tree {
    /// Fails if there is no such process.
    pub fn of(root: i32) -> io::Result<Tree> {
        let mut tree =
            Tree { root, used: Usage::default(), clocks: HashMap::new(), switches: HashMap::new() };
        tree.look()?;
        Ok(tree)
    }

    /// The processes, as of the last look.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.clocks.keys().copied()
    }

    /// Adds what has been used since the last look. Fails once the first process is gone.
    pub fn look(&mut self) -> io::Result<Usage> {
        let (mut clocks, mut switches) = (HashMap::new(), HashMap::new());
        let mut pids = vec![self.root];
        while let Some(pid) = pids.pop() {
            let cpu = match CpuClock::of_process(pid).and_then(CpuClock::read) {
                Ok(cpu) => cpu,
                Err(error) if pid == self.root => return Err(error),
                Err(_) => continue,
            };
            // Less than before is another process, of the same id.
            let before = self.clocks.get(&pid).filter(|before| **before <= cpu);
            self.used.cpu += cpu - before.copied().unwrap_or_default();
            clocks.insert(pid, cpu);
            for (thread, now, children) in threads(pid) {
                let before = self.switches.get(&thread).filter(|before| before.voluntary <= now.voluntary);
                let new = now.since(before.copied().unwrap_or_default());
                self.used.switches.voluntary += new.voluntary;
                self.used.switches.involuntary += new.involuntary;
                switches.insert(thread, now);
                // What starts the generator is not served by it.
                let own = std::process::id() as i32;
                pids.extend(
                    children.into_iter().filter(|child| *child != own && !clocks.contains_key(child)),
                );
            }
        }
        (self.clocks, self.switches) = (clocks, switches);
        Ok(self.used)
    }

    /// The processes that were there at the last look.
    pub fn processes(&self) -> Vec<i32> {
        self.clocks.keys().copied().collect()
    }

    /// Whether no thread of these is running, ready to run, or held by whoever traces it.
    pub fn is_asleep(&self) -> bool {
        self.clocks.keys().all(|&pid| {
            let statuses = tasks(pid).filter_map(|task| fs::read_to_string(task.join("status")).ok());
            let mut states = statuses.filter_map(|status| {
                let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
                state.trim_start().chars().next()
            });
            // Sleeping, idle in the kernel, or ended and not waited for.
            states.all(|state| matches!(state, 'S' | 'I' | 'Z' | 'X'))
        })
    }
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    threads(pid).flat_map(|(_, _, children)| children).collect()
}

/// The children of a process, and theirs.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut all = children(root);
    let mut at = 0;
    while at < all.len() {
        // A process that was reparented meanwhile is seen twice.
        let found: Vec<_> = children(all[at]).into_iter().filter(|child| !all.contains(child)).collect();
        all.extend(found);
        at += 1;
    }
    all
}

/// Whether a process is there and has not ended: one that nobody has waited for yet has.
pub fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

fn tasks(pid: i32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The threads of a process: their ids, context switches and children. Those that end meanwhile are left out.
fn threads(pid: i32) -> impl Iterator<Item = (i32, Switches, Vec<i32>)> {
    tasks(pid).filter_map(|task| {
        let thread = task.file_name()?.to_str()?.parse().ok()?;
        let switches = switches(&task)?;
        let children = fs::read_to_string(task.join("children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok()).collect();
        Some((thread, switches, children))
    })
}

fn switches(task: &Path) -> Option<Switches> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let count = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    };
    Some(Switches {
        voluntary: count("voluntary_ctxt_switches:"),
        involuntary: count("nonvoluntary_ctxt_switches:"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that is told line by line what to do, and says `done` after each.
    struct Shell(Child);

    impl Shell {
        fn new() -> Shell {
            let mut command = Command::new("sh");
            Shell(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        }

        fn does(&mut self, what: &str) {
            writeln!(self.0.stdin.as_mut().unwrap(), "{what}; echo done").unwrap();
            let mut line = String::new();
            BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "done\n");
        }
    }

    /// Takes some processor time.
    const BUSY: &str = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done";

    #[test]
    fn descendants_count_and_those_that_have_ended_still_do() {
        let mut shell = Shell::new();
        let mut tree = Tree::of(shell.0.id() as i32).unwrap();
        let before = tree.look().unwrap();
        let folder = std::env::temp_dir().join(format!("loadgen-tree-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Pipes with names: who opens one waits for whoever opens its other end.
        let (hold, ready) = (folder.join("hold"), folder.join("ready"));
        shell.does(&format!("mkfifo {} {}", hold.display(), ready.display()));
        // A grandchild that says when it has been busy, and then waits.
        let grandchild = format!("{BUSY}; echo > {}; read line < {}", ready.display(), hold.display());
        shell.does(&format!("sh -c '{{ {grandchild}; }} & wait' & read line < {}", ready.display()));
        let own = CpuClock::of_process(shell.0.id() as i32).unwrap();
        let with_descendants = tree.look().unwrap();
        assert!(with_descendants.cpu - before.cpu > own.read().unwrap(), "{with_descendants:?}");
        assert!(with_descendants.switches.voluntary > before.switches.voluntary);
        shell.does(&format!("echo > {}; wait", hold.display()));
        let after = tree.look().unwrap();
        // A sum over those that are left would be less.
        assert!(after.cpu >= with_descendants.cpu, "{after:?}");
        assert!(after.switches.voluntary >= with_descendants.switches.voluntary, "{after:?}");
        drop(shell.0.stdin.take());
        shell.0.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        shell.0.wait().unwrap();
        assert!(tree.look().is_err(), "the shell is gone");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn no_process_no_tree() {
        assert!(Tree::of(0).is_err());
    }
}
