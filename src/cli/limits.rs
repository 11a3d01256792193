//! The limits on the command line: options, their defaults, and which of them contradict each other.

use tidewheel::Limits;

use super::units::{Size, Time};

/// The smallest limits of output that leave room for a reply.
const OUTPUT_BYTES_MIN: usize = 1 << 10;

/// The longest line that may be asked for: each reactor has a buffer of that size.
const LINE_BYTES_MAX: usize = 1 << 30;

/// Descriptors that are not for connections: standard streams, the signals' pipe, what services open.
const DESCRIPTOR_RESERVE: usize = 64;

/// The event queue and the waker of a reactor.
const DESCRIPTORS_PER_REACTOR: usize = 2;

#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Limits (durations as 30s, 50ms, 2m; sizes as 64KiB, 1MiB; 0 for no limit)")]
pub struct LimitOptions {
    /// Connections open at once; one more is told so and closed [default: what the descriptor limit allows]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    max_connections: usize,

    /// Connections open at once from one IP address, in each reactor [default: no limit]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    max_connections_per_ip: usize,

    /// Close a connection on which no byte moved for so long [default: no limit; http: 60s]
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<Time>,

    /// How long a message may take from its first to its last byte, a request of HTTP that of its head (echo and
    /// uppercase know no messages)
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub read_deadline: Time,

    /// Close a connection whose peer has output waiting and took no byte of it for so long
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    progress_timeout: Time,

    /// After SIGTERM or SIGINT, how long replies may take to be delivered before connections are broken off
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub drain_deadline: Time,

    /// The longest line, and the longest head of an HTTP request; at least 1 byte
    #[arg(long, value_name = "SIZE", default_value = "32KiB")]
    pub max_line: Size,

    /// Output waiting on one connection above which it is closed after the soft grace
    #[arg(long, value_name = "SIZE", default_value = "256KiB")]
    output_soft_limit: Size,

    /// How long a connection may stay above its soft limit
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    output_soft_grace: Time,

    /// Output waiting on one connection above which it is closed at once
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    output_hard_limit: Size,

    /// Output waiting on all connections above which those with the most are closed
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    output_total_limit: Size,

    /// Datagrams answered in a second for each source prefix (/24 or /56), in each reactor; loopback is exempt
    #[arg(long, value_name = "N", default_value_t = 1000)]
    udp_replies_per_prefix: u32,
}

impl LimitOptions {
    /// The limits of each of `reactors` reactors, which share `descriptors`. What counts all connections is
    /// divided among them.
    ///
    /// # Errors
    /// A line about limits that contradict each other.
    pub fn limits(&self, reactors: usize, listeners: usize, descriptors: u64) -> Result<Vec<Limits>, String> {
        self.check(reactors)?;
        let defaults = Limits::default();
        let each = DESCRIPTORS_PER_REACTOR + listeners + defaults.refusals_max;
        let reserve = DESCRIPTOR_RESERVE + reactors * each;
        let spare = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(reserve).max(reactors);
        let connections = match self.max_connections {
            0 => spare,
            asked => {
                if asked > spare {
                    tracing::warn!(
                        "--max-connections {asked} is lowered to {spare}: the system allows {descriptors} \
                         descriptors (raise the limit with ulimit -n or LimitNOFILE=)"
                    );
                }
                asked.min(spare)
            }
        };

        // Reading from a peer pauses well below the limits at which it would be closed: what one piece of input
        // adds to its output may be twice the mark.
        let lowest = [self.output_soft_limit, self.output_hard_limit, self.output_total_limit]
            .into_iter()
            .filter_map(Size::limit)
            .min()
            .unwrap_or(usize::MAX);
        let high_water = defaults.output_high_water_bytes.min(lowest / 4);
        let count = |count: usize| (count > 0).then_some(count);
        let common = Limits {
            connections_per_ip_max: count(self.max_connections_per_ip),
            idle_timeout: self.idle_timeout.and_then(Time::limit),
            read_deadline: self.read_deadline.limit(),
            progress_timeout: self.progress_timeout.limit(),
            // A carriage return and a line feed come on top.
            input_bytes_max: self.max_line.0 + 2,
            output_high_water_bytes: high_water,
            output_low_water_bytes: defaults.output_low_water_bytes.min(high_water / 4),
            output_soft_bytes: self.output_soft_limit.limit(),
            output_soft_grace: self.output_soft_grace.0,
            output_hard_bytes: self.output_hard_limit.limit(),
            output_total_bytes: self.output_total_limit.limit().map(|total| total / reactors),
            udp_replies_per_prefix: (self.udp_replies_per_prefix > 0).then_some(self.udp_replies_per_prefix),
            ..defaults
        };
        Ok((0..reactors)
            .map(|index| Limits {
                connections_max: Some(connections / reactors + usize::from(index < connections % reactors)),
                ..common.clone()
            })
            .collect())
    }

    fn check(&self, reactors: usize) -> Result<(), String> {
        if self.max_line.0 == 0 || self.max_line.0 > LINE_BYTES_MAX {
            return Err(format!("--max-line {} is out of range: choose 1 byte to 1GiB", self.max_line));
        }
        if self.max_connections > 0 && self.max_connections < reactors {
            return Err(format!(
                "--max-connections {} is less than --reactors {reactors}: each reactor needs one or more",
                self.max_connections
            ));
        }
        if self.output_soft_limit.0 > 0 && self.output_soft_grace.0.is_zero() {
            return Err(
                "--output-soft-grace 0 is no limit: to have none, say --output-soft-limit 0".to_owned()
            );
        }
        let outputs = [
            ("--output-soft-limit", self.output_soft_limit),
            ("--output-hard-limit", self.output_hard_limit),
            ("--output-total-limit", self.output_total_limit),
        ];
        for (name, size) in outputs {
            if size.limit().is_some_and(|bytes| bytes < OUTPUT_BYTES_MIN) {
                return Err(format!(
                    "{name} {size} leaves no room for replies: choose 1KiB or more, or 0 for no limit"
                ));
            }
        }
        let mut limited = outputs.iter().filter(|(_, size)| size.0 > 0).peekable();
        while let Some((name, size)) = limited.next() {
            if let Some((above, most)) = limited.peek()
                && size > most
            {
                return Err(format!(
                    "{name} {size} is more than {above} {most}: raise the one or lower the other"
                ));
            }
        }
        Ok(())
    }
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
        line.limits.limits(1, 10, 10_000)
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let limits = parse("").expect("the defaults do not contradict each other").remove(0);
        let engine_defaults = Limits::default();
        let differences = Limits {
            connections_max: limits.connections_max,
            input_bytes_max: (32 << 10) + 2, // lines, where the library means any input
            ..engine_defaults
        };
        assert_eq!(limits, differences);
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = parse(
            "--max-connections 0 --max-connections-per-ip 0 --idle-timeout 0 --read-deadline 0 \
             --progress-timeout 0s --output-soft-limit 0 --output-hard-limit 0 --output-total-limit 0 \
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
        assert_eq!(limits.output_total_bytes, None);
        assert_eq!(limits.udp_replies_per_prefix, None);
        assert_eq!(limits.output_high_water_bytes, Limits::default().output_high_water_bytes);
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
        let line = Line::try_parse_from(["limits", "--max-connections", "7", "--output-total-limit", "8MiB"])
            .unwrap_or_else(|error| panic!("{error}"));
        let limits = line.limits.limits(3, 2, 10_000).expect("7 is enough for 3");
        let shares: Vec<_> = limits.iter().map(|limits| limits.connections_max).collect();
        assert_eq!(shares, [Some(3), Some(2), Some(2)]);
        assert_eq!(limits[2].output_total_bytes, Some((8 << 20) / 3));
        assert!(line.limits.limits(8, 2, 10_000).is_err_and(|error| error.contains("--reactors 8")));
        // However few descriptors there are, every reactor takes somebody.
        let limits = line.limits.limits(3, 2, 20).expect("few descriptors are no contradiction");
        assert!(limits.iter().all(|limits| limits.connections_max == Some(1)));
    }

    #[test]
    fn contradictions_are_named() {
        for (options, expected) in [
            ("--output-soft-limit 2MiB", "--output-soft-limit 2MiB is more than --output-hard-limit 1MiB"),
            ("--output-hard-limit 1GiB", "--output-hard-limit 1GiB is more than --output-total-limit 256MiB"),
            ("--output-hard-limit 0 --output-soft-limit 1GiB", "is more than --output-total-limit 256MiB"),
            ("--output-hard-limit 1", "--output-hard-limit 1 leaves no room"),
            ("--output-soft-grace 0", "--output-soft-limit 0"),
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
