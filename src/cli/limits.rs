//! The limits on the command line: options, their defaults, and which of them contradict each other.

use tidewheel::Limits;

use super::units::{Size, Time};

/// The smallest limits of output that leave room for a reply.
const OUTPUT_BYTES_MIN: usize = 1 << 10;

/// The longest line that may be asked for: offsets in a line have 32 bits.
const LINE_BYTES_MAX: usize = 1 << 30;

/// Descriptors that are kept free, if there are many.
const DESCRIPTOR_RESERVE: usize = 64;

/// The event queue, the waker, the alarm and the ring of a reactor.
const DESCRIPTORS_PER_REACTOR: usize = 4;

/// What is open at times beside all that lasts: time zones, lookups, a connection that is refused.
const DESCRIPTORS_IN_PASSING: usize = 4;

/// Below so many descriptors it is worth a line that they bound the connections.
const DESCRIPTORS_FEW: u64 = 1024;

/// The descriptors that there are, and those that are not for connections.
pub struct Descriptors {
    /// What the system allows this program.
    pub allowed: u64,
    /// What is open already.
    pub open: usize,
    /// What is opened once, whatever is served.
    pub fixed: usize,
    /// What the listeners of all reactors take.
    pub listeners: usize,
}

impl Descriptors {
    /// How many are left for connections.
    ///
    /// # Errors
    /// A line: there are not enough to begin with.
    fn spare(&self, reactors: usize) -> Result<usize, String> {
        let reactors_take = reactors * DESCRIPTORS_PER_REACTOR + DESCRIPTORS_IN_PASSING;
        let needed = self.open + self.fixed + self.listeners + reactors_take;
        let allowed = usize::try_from(self.allowed).unwrap_or(usize::MAX);
        allowed.checked_sub(needed).filter(|&spare| spare >= reactors).ok_or_else(|| {
            format!(
                "the limit of open descriptors is {allowed}, and {needed} are needed before the first connection: raise \
                 the limit (ulimit -n, LimitNOFILE=), or serve fewer addresses"
            )
        })
    }
}

#[derive(clap::Args, Debug, Clone)]
#[command(
    next_help_heading = "Limits (durations such as 30s, 1.5s, 50ms; sizes such as 64KiB, 1MiB; 0 = no limit)"
)]
pub struct LimitOptions {
    /// Open connections; further connections get a message and are closed [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    max_connections: usize,

    /// Open connections from one IPv4 address or one IPv6 /64, in each reactor [default: no limit]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    max_connections_per_ip: usize,

    /// Close a connection after this time without a byte sent or received [default: no limit; http: 60s]
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<Time>,

    /// Time from the first to the last byte of a message; for HTTP, of the request head, and the body must then arrive at
    /// 1 KiB/s or more, averaged over this time (does not apply to echo and uppercase)
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub read_deadline: Time,

    /// Close a connection with pending output, here or in the kernel, of which the peer acknowledged no byte for this time
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    progress_timeout: Time,

    /// After SIGTERM, SIGINT or SIGHUP: time to deliver pending replies before the remaining connections are closed
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub drain_deadline: Time,

    /// The longest line, and the longest head of an HTTP request; from 1 byte to 1GiB
    #[arg(long, value_name = "SIZE", default_value = "32KiB")]
    pub max_line: Size,

    /// Pending output of one connection; above it, the connection is closed after the soft grace [default: 256KiB, at most
    /// the hard limit]
    #[arg(long, value_name = "SIZE")]
    output_soft_limit: Option<Size>,

    /// How long a connection may stay above the soft limit
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    output_soft_grace: Time,

    /// Pending output of one connection; above it, the connection is closed immediately [default: 1MiB, at most --max-memory]
    #[arg(long, value_name = "SIZE")]
    output_hard_limit: Option<Size>,

    /// Memory for pending output and unconsumed input of all connections; above it, the connections that use the most are
    /// closed. Lowered to half of the cgroup's memory limit, unless 0
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    max_memory: Size,

    /// The former name of --max-memory
    #[arg(long, value_name = "SIZE", hide = true, num_args = 0..=1, default_missing_value = "", value_parser = renamed)]
    output_total_limit: Option<Size>,

    /// Datagrams answered per second for each source network (IPv4 /24 or IPv6 /64), in each reactor; loopback is exempt
    #[arg(long, value_name = "N", default_value_t = 1000)]
    udp_replies_per_prefix: u32,
}

impl LimitOptions {
    /// The limits of each of `reactors` reactors, which share the descriptors and the memory of the program's cgroup, where that
    /// is limited. What counts all connections is divided among them.
    ///
    /// # Errors
    /// A line about limits that contradict each other, or descriptors that do not suffice.
    pub fn limits(
        &self,
        reactors: usize,
        descriptors: &Descriptors,
        cgroup_bytes: Option<u64>,
    ) -> Result<Vec<Limits>, String> {
        let (soft, hard) = self.output_limits();
        self.check(reactors, soft, hard)?;
        let memory = self.memory(reactors, cgroup_bytes);
        let defaults = Limits::default();
        let spare = descriptors.spare(reactors)?;
        // A part is for connections that are being refused, and one for what nobody has thought of.
        let refusals_max = defaults.refusals_max.min(spare / reactors / 8);
        let most = spare - reactors * refusals_max - DESCRIPTOR_RESERVE.min(spare / 8);
        let allowed = descriptors.allowed;
        let remedy = "raise the limit with ulimit -n or LimitNOFILE=";
        let connections = match self.max_connections {
            0 => {
                if allowed < DESCRIPTORS_FEW {
                    tracing::warn!(
                        "the limit of open descriptors is {allowed}, enough for {most} connections ({remedy})"
                    );
                }
                most
            }
            asked => {
                if asked > most {
                    tracing::warn!(
                        "--max-connections {asked} is lowered to {most}: the limit of open descriptors is {allowed} \
                         ({remedy})"
                    );
                }
                asked.min(most)
            }
        };

        // Reading from a peer pauses well below the limits at which it would be closed: what one piece of input
        // adds to its output may be twice the mark.
        let lowest = [soft.limit(), hard.limit(), memory].into_iter().flatten().min().unwrap_or(usize::MAX);
        let high_water = defaults.output_high_water_bytes.min(lowest / 4);
        let count = |count: usize| (count > 0).then_some(count);
        let mut limits = defaults;
        limits.refusals_max = refusals_max;
        limits.connections_per_ip_max = count(self.max_connections_per_ip);
        limits.idle_timeout = self.idle_timeout.and_then(Time::limit);
        limits.read_deadline = self.read_deadline.limit();
        limits.progress_timeout = self.progress_timeout.limit();
        // A carriage return and a line feed come on top.
        limits.input_bytes_max = self.max_line.0 + 2;
        limits.output_high_water_bytes = high_water;
        limits.output_low_water_bytes = limits.output_low_water_bytes.min(high_water / 4);
        limits.output_soft_bytes = soft.limit();
        limits.output_soft_grace = self.output_soft_grace.0;
        limits.output_hard_bytes = hard.limit();
        limits.memory_bytes_max = memory;
        limits.udp_replies_per_prefix =
            (self.udp_replies_per_prefix > 0).then_some(self.udp_replies_per_prefix);
        let mut all = vec![limits; reactors];
        for (index, limits) in all.iter_mut().enumerate() {
            let share = connections / reactors + usize::from(index < connections % reactors);
            limits.connections_max = Some(share);
        }
        Ok(all)
    }

    /// The memory limit of each reactor.
    fn memory(&self, reactors: usize, cgroup_bytes: Option<u64>) -> Option<usize> {
        let asked = self.max_memory.limit()?;
        let half = cgroup_bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes / 2).unwrap_or(usize::MAX));
        if asked > half {
            tracing::warn!(
                "--max-memory {} is lowered to {}, half of the cgroup's memory limit (0 = no limit)",
                self.max_memory,
                Size(half)
            );
        }
        Some(asked.min(half) / reactors)
    }

    /// The limits of one connection's output, soft and hard. Those that nobody has set stay within the larger ones.
    fn output_limits(&self) -> (Size, Size) {
        let at_most = |default: Option<usize>, most: Size| {
            Size(default.unwrap_or(0).min(most.limit().unwrap_or(usize::MAX)))
        };
        let Limits { output_soft_bytes, output_hard_bytes, .. } = Limits::default();
        let hard = self.output_hard_limit.unwrap_or_else(|| at_most(output_hard_bytes, self.max_memory));
        let above = if hard.0 > 0 { hard } else { self.max_memory };
        (self.output_soft_limit.unwrap_or_else(|| at_most(output_soft_bytes, above)), hard)
    }

    fn check(&self, reactors: usize, soft: Size, hard: Size) -> Result<(), String> {
        if self.max_line.0 == 0 || self.max_line.0 > LINE_BYTES_MAX {
            return Err(format!("--max-line {} is out of range: choose 1 byte to 1GiB", self.max_line));
        }
        if self.max_connections > 0 && self.max_connections < reactors {
            return Err(format!(
                "--max-connections {} is less than --reactors {reactors}: each reactor needs one or more",
                self.max_connections
            ));
        }
        if soft.0 > 0 && self.output_soft_grace.0.is_zero() {
            return Err(
                "--output-soft-grace must be more than 0; to disable the soft limit, use --output-soft-limit 0".to_owned()
            );
        }
        let outputs =
            [("--output-soft-limit", soft), ("--output-hard-limit", hard), ("--max-memory", self.max_memory)];
        for (name, size) in outputs.iter().rev() {
            if size.limit().is_some_and(|bytes| bytes < OUTPUT_BYTES_MIN) {
                return Err(format!(
                    "{name} {size} is too small for replies: choose 1KiB or more, or 0 for no limit"
                ));
            }
        }
        let mut limited = outputs.iter().filter(|(_, size)| size.0 > 0).peekable();
        while let Some((name, size)) = limited.next() {
            if let Some((above, most)) = limited.peek()
                && size > most
            {
                return Err(format!(
                    "{name} {size} is more than {above} {most}: lower {name}, or raise {above}"
                ));
            }
        }
        Ok(())
    }
}

/// Whoever uses the former name is given the new one.
fn renamed(_: &str) -> Result<Size, String> {
    Err("this option is now --max-memory, which counts output and unconsumed input together".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn parse(options: &str) -> Result<Vec<Limits>, String> {
        let words = std::iter::once("limits").chain(options.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.limits.limits(1, &descriptors(10_000), None)
    }

    /// So many in all, of which twenty are for other things than reactors and connections.
    fn descriptors(allowed: u64) -> Descriptors {
        Descriptors { allowed, open: 10, fixed: 6, listeners: 4 }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let limits = parse("").expect("the defaults do not contradict each other").remove(0);
        let mut expected = Limits::default();
        expected.connections_max = limits.connections_max;
        // Lines, where the library means any input.
        expected.input_bytes_max = (32 << 10) + 2;
        assert_eq!(limits, expected);
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = parse(
            "--max-connections 0 --max-connections-per-ip 0 --idle-timeout 0 --read-deadline 0 \
             --progress-timeout 0s --output-soft-limit 0 --output-hard-limit 0 --max-memory 0 \
             --udp-replies-per-prefix 0",
        )
        .expect("all of them may be 0")
        .remove(0);
        assert_eq!(limits.connections_per_ip_max, None);
        assert_eq!(limits.idle_timeout, None);
        assert_eq!(limits.read_deadline, None);
        assert_eq!(limits.progress_timeout, None);
        assert_eq!(limits.output_soft_bytes, None);
        assert_eq!(limits.output_hard_bytes, None);
        assert_eq!(limits.memory_bytes_max, None);
        assert_eq!(limits.udp_replies_per_prefix, None);
        assert_eq!(limits.output_high_water_bytes, Limits::default().output_high_water_bytes);
    }

    #[test]
    fn limits_of_output_that_nobody_has_set_stay_within_those_that_somebody_has() {
        let outputs = |options: &str| {
            let limits = parse(options).unwrap_or_else(|error| panic!("{options}: {error}")).remove(0);
            (limits.output_soft_bytes, limits.output_hard_bytes, limits.memory_bytes_max)
        };
        let kib = |kib: usize| Some(kib << 10);
        assert_eq!(outputs("--max-memory 64KiB"), (kib(64), kib(64), kib(64)));
        assert_eq!(outputs("--max-memory 512KiB"), (kib(256), kib(512), kib(512)));
        assert_eq!(outputs("--output-hard-limit 8KiB"), (kib(8), kib(8), kib(256 << 10)));
        assert_eq!(outputs("--output-hard-limit 0 --max-memory 4KiB"), (kib(4), None, kib(4)));
        assert_eq!(outputs("--max-memory 0"), (kib(256), kib(1024), None));
    }

    #[test]
    fn input_pauses_below_the_limits_of_output() {
        let limits =
            parse("--output-soft-limit 4KiB --output-hard-limit 8KiB").expect("soft < hard").remove(0);
        assert_eq!(limits.output_high_water_bytes, 1 << 10);
        assert!(limits.output_low_water_bytes < limits.output_high_water_bytes);
    }

    #[test]
    fn reactors_share_what_counts_all_connections() {
        let line = Line::try_parse_from(["limits", "--max-connections", "7", "--max-memory", "8MiB"])
            .unwrap_or_else(|error| panic!("{error}"));
        let limits = line.limits.limits(3, &descriptors(10_000), None).expect("7 is enough for 3");
        let shares: Vec<_> = limits.iter().map(|limits| limits.connections_max).collect();
        assert_eq!(shares, [Some(3), Some(2), Some(2)]);
        assert_eq!(limits[2].memory_bytes_max, Some((8 << 20) / 3));
        assert!(
            line.limits
                .limits(8, &descriptors(10_000), None)
                .is_err_and(|error| error.contains("--reactors 8"))
        );
    }

    #[test]
    fn few_descriptors_are_all_made_use_of_and_too_few_are_refused() {
        let line = Line::try_parse_from(["limits"]).unwrap_or_else(|error| panic!("{error}"));
        let connections = |reactors, allowed| {
            let limits = line.limits.limits(reactors, &descriptors(allowed), None)?;
            Ok(limits.iter().map(|limits| limits.connections_max.unwrap_or(0)).sum::<usize>())
        };
        for allowed in 29..2000 {
            let most = connections(1, allowed).unwrap_or_else(|error: String| panic!("{allowed}: {error}"));
            assert!(most >= 1 && most as u64 >= (allowed - 28) / 2, "{most} with {allowed}");
        }
        assert_eq!(connections(3, 39), Ok(3), "one for each");
        for (reactors, allowed) in [(1, 0), (1, 28), (3, 38)] {
            let error = connections(reactors, allowed).expect_err("too few");
            assert!(error.contains(&format!("descriptors is {allowed},")), "{error}");
        }
    }

    #[test]
    fn memory_is_at_most_half_of_the_cgroups() {
        let share = |options: &str, reactors, cgroup| {
            let words = std::iter::once("limits").chain(options.split_whitespace());
            let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
            line.limits
                .limits(reactors, &descriptors(10_000), cgroup)
                .unwrap_or_else(|error| panic!("{error}"))[0]
                .memory_bytes_max
        };
        for (options, reactors, cgroup, expected) in [
            ("", 1, None, Some(256 << 20)),
            ("", 1, Some(1 << 30), Some(256 << 20)),
            ("", 1, Some(512 << 20), Some(256 << 20)),
            ("", 1, Some(100 << 20), Some(50 << 20)),
            ("", 4, Some(100 << 20), Some((50 << 20) / 4)),
            ("--max-memory 1GiB", 1, Some(1 << 30), Some(512 << 20)),
            ("--max-memory 8MiB", 1, Some(1 << 30), Some(8 << 20)),
            ("--max-memory 0", 1, Some(100 << 20), None),
        ] {
            assert_eq!(share(options, reactors, cgroup), expected, "{options:?}, {reactors}, {cgroup:?}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        for (options, expected) in [
            ("--output-soft-limit 2MiB", "--output-soft-limit 2MiB is more than --output-hard-limit 1MiB"),
            ("--output-hard-limit 1GiB", "--output-hard-limit 1GiB is more than --max-memory 256MiB"),
            ("--output-hard-limit 0 --output-soft-limit 1GiB", "is more than --max-memory 256MiB"),
            ("--output-hard-limit 1", "--output-hard-limit 1 is too small"),
            ("--output-soft-grace 0", "--output-soft-limit 0"),
            ("--output-total-limit 8MiB", "this option is now --max-memory"),
            ("--output-total-limit", "this option is now --max-memory"),
            ("--output-total-limit=0", "this option is now --max-memory"),
            ("--max-memory 1", "--max-memory 1 is too small"),
            ("--max-line 0", "--max-line 0 is out of range"),
            ("--max-line 2GiB", "--max-line 2GiB is out of range"),
            ("--idle-timeout 30", "such as 30s"),
            ("--max-line 10KB", "such as 64KiB"),
            ("--udp-replies-per-prefix -1", "-1"),
        ] {
            let error = parse(options).expect_err(options);
            assert!(error.contains(expected), "{options}: {error}");
        }
    }
}
