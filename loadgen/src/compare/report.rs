//! What came out: as text, as markdown for a pull request, and as a page. The words and the signs are the same everywhere.

mod markdown;
mod page;
mod text;

pub use markdown::write_markdown;
pub use page::page;
pub use text::End;

use crate::compare::{CaseResult, Changed, Compared, Culprit, Finding, Metric, Outcome};
use crate::report::html::short;
use crate::report::{counted, figures};

/// How to read changes.
pub const LEGEND: &str = "A positive change is worse (for throughput: less). The control is the difference between servers of the same side.";

impl Metric {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Metric::Syscalls => "system calls",
            other => other.name(),
        }
    }

    /// A value with its unit.
    pub fn value_words(self, value: f64) -> String {
        match self {
            Metric::Cpu => figures::time(value / 1e3),
            Metric::Throughput => figures::rate(value),
            Metric::P50 | Metric::P99 => figures::time(value),
            Metric::Instructions => format!("{value:.1}"),
            Metric::Syscalls | Metric::Allocations => format!("{value:.3}"),
        }
    }
}

/// `+1.10 %`, and `0.00 %` of what is as good as nothing.
pub fn signed_percent(fraction: f64) -> String {
    let words = format!("{:+.2} %", fraction * 100.0);
    if matches!(words.as_str(), "+0.00 %" | "-0.00 %") { "0.00 %".into() } else { words }
}

/// `+1 %`, of a mark: as few digits as tell it.
pub fn signed_short(fraction: f64) -> String {
    match short(fraction * 100.0) {
        words if words == "0" || words == "-0" => "0 %".into(),
        words if words.starts_with('-') => format!("{words} %"),
        words => format!("+{words} %"),
    }
}

/// `1.10 %`, of a bound.
pub fn percent(fraction: f64) -> String {
    let digits = format!("{:.4}", fraction * 100.0);
    format!("{} %", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// `+1.10 % [+0.80, +1.40]`; without an interval where that is as narrow as a point. Of one that is as good as without
/// bounds, no digits.
pub fn with_interval(change: f64, low: f64, high: f64) -> String {
    let words = signed_percent(change);
    let digits = |fraction: f64| match fraction {
        fraction if fraction > 10.0 => ">+1000".to_owned(),
        fraction => signed_percent(fraction).trim_end_matches(" %").to_owned(),
    };
    if digits(low) == digits(high) { words } else { format!("{words} [{}, {}]", digits(low), digits(high)) }
}

/// A count with its sign; `0` of what is as good as nothing.
fn signed_count(count: f64, decimals: usize) -> String {
    let words = format!("{count:+.decimals$}");
    if words.trim_start_matches(['+', '-']).parse() == Ok(0.0) { "0".into() } else { words }
}

impl Finding {
    /// The change with its interval. Of calls and allocations, of which there may be none, how many more there are.
    pub fn change_words(&self) -> String {
        match self.metric {
            Metric::Syscalls | Metric::Allocations => signed_count(self.head - self.base, 3),
            _ if !self.change.is_finite() => "–".into(),
            _ => with_interval(self.change, self.low, self.high),
        }
    }

    pub fn control_words(&self) -> String {
        self.control.map_or("–".into(), signed_percent)
    }

    /// `cpu of echo rose by 2.97 % [+2.10, +3.80]`, and why if that is not plain.
    fn sentence(&self, case: &CaseResult) -> String {
        let of = format!("{} of {}", self.metric.words(), case.name);
        let why = self.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        if self.outcome != Outcome::Fail {
            let change =
                if self.change.is_finite() { format!(", {}", self.change_words()) } else { String::new() };
            return format!("{of}{change}{why}");
        }
        let verb = if self.metric == Metric::Throughput { "fell" } else { "rose" };
        match self.metric {
            Metric::Syscalls | Metric::Allocations => {
                let [base, head] = [self.base, self.head].map(|value| self.metric.value_words(value));
                format!("{of} {verb} from {base} to {head} per request{why}")
            }
            _ => format!("{of} {verb} by {}{why}", self.change_words().trim_start_matches('+')),
        }
    }
}

impl CaseResult {
    /// How much was measured.
    fn effort(&self) -> String {
        if self.outcome == Outcome::Identical {
            return "not measured".into();
        }
        let mut words = Vec::new();
        if self.lives > 0 {
            let lives = if self.lives == 1 { "1 life".into() } else { format!("{} lives", self.lives) };
            words.push(format!("{} in {lives} of the servers", counted(self.rounds, "round")));
        }
        if self.rounds_set_aside > 0 {
            words.push(format!("{} set aside", self.rounds_set_aside));
        }
        words.push(figures::time(self.elapsed_s * 1e6));
        words.join(", ")
    }

    /// What is to be told of its findings, and of itself.
    fn remarks(&self) -> impl Iterator<Item = String> {
        let whys = self.findings.iter().filter_map(|finding| {
            finding.why.as_ref().map(|why| format!("{}: {why}", finding.metric.words()))
        });
        whys.chain(self.notes.iter().cloned())
    }
}

impl Changed {
    fn words(&self, decimals: usize) -> [String; 3] {
        // Adding zero makes a plain zero of a negative one.
        let count = |value: f64| {
            let rounded: f64 = format!("{value:.decimals$}").parse().unwrap_or(value);
            format!("{:.decimals$}", rounded + 0.0)
        };
        [count(self.base), count(self.head), signed_count(self.head - self.base, decimals)]
    }
}

/// What of a culprit can be put into a table: its heading, its decimals and its rows.
struct Part<'a> {
    heading: &'static str,
    rows: Vec<(&'a str, [String; 3])>,
}

impl Part<'_> {
    fn of<'a>(heading: &'static str, decimals: usize, all: &'a [Changed]) -> Option<Part<'a>> {
        let rows = all.iter().map(|changed| (changed.name.as_str(), changed.words(decimals)));
        (!all.is_empty()).then(|| Part { heading, rows: rows.collect() })
    }
}

impl Culprit {
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let functions = Part::of("instructions per request", 1, &self.functions);
        let calls = Part::of("system calls per request", 3, &self.system_calls);
        functions.into_iter().chain(calls)
    }
}

impl Compared {
    /// What was compared with what.
    pub fn sides(&self) -> String {
        let side = |name: &str, commit: &Option<String>| match commit {
            Some(commit) if commit.starts_with(name) => commit.clone(),
            // As a revision's label has it already.
            Some(commit) if commit.get(..10).is_some_and(|short| name.contains(short)) => name.to_owned(),
            Some(commit) => format!("{name} ({})", commit.get(..10).unwrap_or(commit)),
            None => name.to_owned(),
        };
        format!("{} against {}", side(&self.head, &self.head_commit), side(&self.base, &self.base_commit))
    }

    /// The SHA-256 of the binaries, as sha256sum prints them, if they were built for this.
    fn hashes(&self) -> Option<String> {
        let (base, head) = (self.base_sha256.as_ref()?, self.head_sha256.as_ref()?);
        Some(format!("SHA-256 of the binaries: base {base}, head {head}"))
    }

    /// By what it was judged.
    fn bounds(&self) -> String {
        format!(
            "FAIL: the change is {} or more and the whole interval is above 0. PASS: the whole interval is below {}. Budget {}. {}, {}",
            percent(self.floor),
            percent(self.margin),
            figures::time(self.budget_s * 1e6),
            self.machine,
            self.placement
        )
    }

    /// The outcome in one line: what is worst, and how many more there are of it.
    pub fn outcome_words(&self) -> String {
        let all =
            || self.cases.iter().flat_map(|case| case.findings.iter().map(move |finding| (case, finding)));
        let word = self.outcome;
        if self.outcome == Outcome::Identical {
            return format!("{word}: both revisions build the same binary, which was not measured");
        }
        if self.outcome == Outcome::Pass {
            return format!(
                "{word}: none of {} is worse by {} or more",
                counted(all().count(), "figure"),
                percent(self.margin)
            );
        }
        let mut worst: Vec<_> = all().filter(|(_, finding)| finding.outcome == self.outcome).collect();
        worst.sort_by(|(_, one), (_, other)| other.change.total_cmp(&one.change));
        match worst[..] {
            // A case may be so without any of its findings.
            [] => {
                let cases = self.cases.iter().filter(|case| case.outcome == self.outcome);
                let names: Vec<_> = cases.map(|case| case.name.as_str()).collect();
                format!("{word}: {}", names.join("; "))
            }
            [(case, finding)] => format!("{word}: {}", finding.sentence(case)),
            [(case, finding), ..] => {
                format!("{word}: {}, and {} more", finding.sentence(case), worst.len() - 1)
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::compare::paired::{Life, Round, Slice};

    /// A comparison in which one case FAILed, and one passed.
    pub fn compared() -> Compared {
        let finding =
            |metric, outcome, [base, head]: [f64; 2], [change, low, high]: [f64; 3], control| Finding {
                metric,
                unit: metric.unit(),
                outcome,
                base,
                head,
                change,
                low,
                high,
                control,
                why: None,
            };
        let changed = |name: &str, base, head| Changed { name: name.into(), base, head };
        let fails = vec![
            finding(Metric::Cpu, Outcome::Fail, [5720.0, 5890.0], [0.0297, 0.021, 0.038], Some(-0.001)),
            finding(Metric::Instructions, Outcome::Fail, [421.0, 433.0], [0.0285, 0.0285, 0.0285], None),
            finding(Metric::Syscalls, Outcome::Fail, [3.0, 4.0], [1.0 / 3.0; 3], None),
        ];
        let passes = vec![
            finding(Metric::Throughput, Outcome::Pass, [5e4, 4.99e4], [0.002, -0.011, 0.015], Some(0.0)),
            finding(Metric::Allocations, Outcome::Pass, [0.0, 0.0], [0.0; 3], None),
        ];
        // The second servers of both sides are a little slower.
        let slice =
            |cpu_ns| Slice { cpu_ns, throughput_per_s: 5e4, p50_us: 900.0, p99_us: 1e3, is_starved: false };
        let life = |head: f64| Life {
            rounds: vec![
                Round { slices: [5720.0, 5730.0, head, head + 10.0].map(slice), steal_share: 0.0 };
                3
            ],
        };
        let lives = vec![life(5890.0), life(5870.0)];
        let case = |name: &str, outcome, findings| CaseResult {
            name: name.into(),
            base: "old --port {port}".into(),
            head: "new --port {port}".into(),
            outcome,
            findings,
            notes: Vec::new(),
            requests_per_slice: Some(5000),
            lives: 2,
            rounds: 6,
            rounds_set_aside: 1,
            elapsed_s: 41.3,
            culprit: None,
            slices: lives.clone(),
        };
        let mut fail = case("echo, 50 connections, 64 B", Outcome::Fail, fails);
        fail.findings[2].why = Some("system calls that appeared: epoll_ctl 1.00".into());
        fail.culprit = Some(Culprit {
            functions: vec![changed("<a::B<u8> as C>::d|e", 100.0, 112.0), changed("gone", 3.0, 0.0)],
            system_calls: vec![changed("epoll_ctl", 0.0, 1.0)],
            flame_svg: Some("<svg height=\"300\"><script>init()</script></svg>".into()),
        });
        let mut pass = case("http, a page", Outcome::Pass, passes);
        pass.notes.push("valgrind is not installed".into());
        Compared {
            schema_version: 1,
            loadgen_version: "0.1.0",
            date: "2026-11-26T10:00:00Z".into(),
            machine: "a CPU, 2 processors, Linux 6".into(),
            placement: "on one processor each".into(),
            base: "main".into(),
            head: "HEAD".into(),
            base_commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            head_commit: None,
            base_sha256: Some("b".repeat(64)),
            head_sha256: Some("c".repeat(64)),
            outcome: Outcome::Fail,
            exit_code: 1,
            margin: 0.02,
            floor: 0.005,
            budget_s: 120.0,
            seed: 1,
            cases: vec![fail, pass],
        }
    }

    #[test]
    fn changes_have_a_sign_and_an_interval_where_they_have_one() {
        let compared = compared();
        let words = |case: usize, finding: usize| compared.cases[case].findings[finding].change_words();
        assert_eq!(words(0, 0), "+2.97 % [+2.10, +3.80]");
        assert_eq!(words(0, 1), "+2.85 %");
        assert_eq!(words(0, 2), "+1.000");
        assert_eq!(words(1, 0), "+0.20 % [-1.10, +1.50]");
        assert_eq!(words(1, 1), "0");
        assert_eq!(signed_percent(-0.000_01), "0.00 %");
        assert_eq!(
            (percent(0.02), percent(0.005), percent(0.1)),
            ("2 %".into(), "0.5 %".into(), "10 %".into())
        );
    }

    #[test]
    fn the_outcome_is_one_line() {
        let mut compared = compared();
        // A call where there were three is worse than all else.
        assert_eq!(
            compared.outcome_words(),
            "FAIL: system calls of echo, 50 connections, 64 B rose from 3.000 to 4.000 per request: system calls that \
             appeared: epoll_ctl 1.00, and 2 more"
        );
        compared.cases[0].findings.truncate(1);
        assert_eq!(
            compared.outcome_words(),
            "FAIL: cpu of echo, 50 connections, 64 B rose by 2.97 % [+2.10, +3.80]"
        );
        compared.cases.remove(0);
        compared.outcome = Outcome::Pass;
        assert_eq!(compared.outcome_words(), "PASS: none of 2 figures is worse by 2 % or more");
        compared.outcome = Outcome::Identical;
        assert_eq!(
            compared.outcome_words(),
            "IDENTICAL: both revisions build the same binary, which was not measured"
        );
        compared.outcome = Outcome::Inconclusive;
        compared.cases[0].findings[0].outcome = Outcome::Inconclusive;
        compared.cases[0].findings[0].why = Some("would need some 90 s more".into());
        assert_eq!(
            compared.outcome_words(),
            "INCONCLUSIVE: throughput of http, a page, +0.20 % [-1.10, +1.50]: would need some 90 s more"
        );
    }
}
