//! What a file says, for a person at a terminal.

use std::fmt;

use console::style;

use super::Told;
use super::series::{Changed, Kind, Place, Series};
use crate::compare::Metric;
use crate::compare::report::{percent, signed_percent, with_interval};
use crate::report::{counted, figures};

/// As wide as a change with its interval gets.
const CHANGE_WIDTH: usize = 28;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", style(self.title()).bold())?;
        writeln!(f, "{}", style(self.legend()).dim())?;
        for series in self.series.iter().filter(|series| !series.changes.is_empty()) {
            writeln!(f, "\n{}", style(series.title()).bold())?;
            for changed in &series.changes {
                let kind = changed.kind.word();
                let change = format!("{:<CHANGE_WIDTH$}", changed.change_words());
                let change = if changed.change.is_none_or(|change| change > 0.0) {
                    style(change).red()
                } else {
                    style(change).green()
                };
                let levels = changed.levels_words(series.metric);
                writeln!(f, "  {kind:<5}  {change} {levels}")?;
                writeln!(f, "  {:<5}  {}", "", changed.place_words())?;
            }
            if let Some(words) = series.rise_words() {
                writeln!(f, "  {words}")?;
            }
        }
        let still = self.still();
        if !still.is_empty() {
            writeln!(f, "\nNo change in {}", still.join("; "))?;
        }
        for note in self.remarks() {
            writeln!(f, "{}", style(note).dim())?;
        }
        let words = self.outcome();
        let words = if self.worse().next().is_some() { style(words).red() } else { style(words).green() };
        writeln!(f, "\n{}", words.bold())
    }
}

impl Told {
    pub fn title(&self) -> String {
        format!("{}: {}", self.file, counted(self.entries, "measurement"))
    }

    /// How to read it.
    pub fn legend(&self) -> String {
        if self.series.is_empty() {
            return "There are no series to analyse.".into();
        }
        let together = match self.series.len() {
            1 => String::new(),
            count => format!(", over all {count} series (Bonferroni)"),
        };
        format!(
            "A positive change is worse (for throughput: less). The false-alarm rate is {} per file{together}. \
             Intervals are of 95 %.",
            figures::share(self.significance),
        )
    }

    /// The series in which nothing was found.
    pub fn still(&self) -> Vec<String> {
        let still = self.series.iter().filter(|series| series.changes.is_empty());
        still.map(Series::title).collect()
    }

    /// What to keep in mind.
    pub fn remarks(&self) -> Vec<String> {
        let short = (self.short_series > 0)
            .then(|| format!("{} series with too few entries: skipped", self.short_series));
        self.notes.iter().cloned().chain(short).collect()
    }

    pub fn outcome(&self) -> String {
        let worse: Vec<_> = self.worse().map(Series::worse_words).collect();
        match worse.len() {
            0 => format!("Nothing is worse by more than {}", percent(self.min_change)),
            _ => format!("Worse: {}", worse.join("; ")),
        }
    }
}

/// Where one series has entries from several machines.
pub fn machines(series: &[Series]) -> Option<String> {
    let most = series.iter().map(Series::machines).max().filter(|&most| most > 1)?;
    Some(format!(
        "The entries of one series come from up to {most} machines: timed metrics are relative to the base on the same machine, but \
         counts of instructions may differ between processors"
    ))
}

impl Series {
    pub fn title(&self) -> String {
        let against = match &self.base {
            Some(base) => format!(" against {}", short(base)),
            None => String::new(),
        };
        let entries = self.points.len();
        format!("{}: {}{against}, {}", self.case, self.metric.words(), counted(entries, "measurement"))
    }

    /// What several changes come to.
    pub fn rise_words(&self) -> Option<String> {
        let rise = self.rise.as_ref().filter(|_| self.changes.len() > 1)?;
        let change = rise.change.map_or("from nothing".into(), signed_percent);
        Some(format!("in all {change} since {}", rise.from.words()))
    }

    /// That it is worse, in a few words.
    fn worse_words(&self) -> String {
        let change = self.rise.as_ref().and_then(|rise| rise.change);
        let by = change.map_or("from nothing".into(), |change| {
            format!("by {}", signed_percent(change).trim_start_matches('+'))
        });
        format!("{} of {} {by}", self.metric.words(), self.case)
    }
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Step => "step",
            Kind::Creep => "creep",
        }
    }
}

impl Changed {
    /// `+1.10 % [+0.80, +1.40]`.
    pub fn change_words(&self) -> String {
        match (self.change, self.low, self.high) {
            (Some(change), Some(low), Some(high)) => with_interval(change, low, high),
            _ => "from nothing".into(),
        }
    }

    pub fn levels_words(&self, metric: Metric) -> String {
        let words = |level: f64| {
            if metric.is_exact() { metric.value_words(level) } else { signed_percent(level) }
        };
        format!("{} → {}", words(self.before), words(self.after))
    }

    /// Between which commits it lies.
    pub fn place_words(&self) -> String {
        let place = match self.kind {
            Kind::Step => format!("at {}, after {}", self.to.words(), self.from.words()),
            Kind::Creep => {
                let commits = self.to.index - self.from.index;
                format!(
                    "over {}, from {} to {}",
                    counted(commits, "commit"),
                    self.from.words(),
                    self.to.words()
                )
            }
        };
        if self.has_other_machine { place + ", on another machine" } else { place }
    }
}

impl Place {
    /// The commit with its day, or what there is of it.
    fn words(&self) -> String {
        let day = self.date.get(..10).unwrap_or(&self.date);
        match &self.commit {
            Some(commit) => format!("{} ({day})", short(commit)),
            None => format!("entry {} ({day})", self.index + 1),
        }
    }
}

/// As much of a commit's name as people write.
fn short(commit: &str) -> &str {
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &commit[..10] } else { commit }
}
