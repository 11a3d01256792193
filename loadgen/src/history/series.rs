//! Entries of one case and metric, one after the other, on one scale.

use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;

use super::chain::Link;
use super::change::{self, Shape};
use super::entry::Entry;
use crate::compare::{Metric, Outcome};
use crate::report::counted;

/// With less than these nothing can be found.
const ENTRIES_MIN: usize = 5;

/// What so many entries were measured against is a release: they are a series of their own, whose noise does not depend on the one
/// measurement that ties the release to what was before.
const RELEASE_MIN: usize = 10;

/// What is drawn is drawn anew in every series, so that no series depends on another one.
const SEED: u64 = 1;

/// What is known of one metric of one case, in the order of the file.
#[derive(Serialize)]
pub struct Series {
    pub case: String,
    pub metric: Metric,
    /// Of levels: the count, or the part by which an entry lies above the base.
    pub unit: &'static str,
    /// What the levels count from; null: they are counts, or no commit was told.
    pub base: Option<String>,
    pub points: Vec<Point>,
    pub changes: Vec<Changed>,
    /// By how much it is worse at the end than before one of them.
    pub rise: Option<Rise>,
    /// Of its entries, how many FAILed when they were compared.
    pub failed: usize,
    #[serde(skip)]
    links: Vec<Link>,
}

/// An entry.
#[derive(Clone, Serialize)]
pub struct Point {
    pub date: String,
    pub commit: Option<String>,
    #[serde(skip)]
    machine: String,
    pub level: f64,
}

/// A change that was found. Changes are fractions, and positive is worse.
#[derive(Serialize)]
pub struct Changed {
    pub kind: Kind,
    /// Null if there was nothing of it before.
    pub change: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Mean levels.
    pub before: f64,
    pub after: f64,
    /// The last entry before it.
    pub from: Place,
    /// The first entry after it.
    pub to: Place,
    /// How often chance alone does as much in this series.
    pub p: f64,
    /// It came with another machine.
    pub has_other_machine: bool,
    #[serde(skip)]
    pub shape: Shape,
}

/// What changes come to, together.
#[derive(Serialize)]
pub struct Rise {
    /// Null if there was nothing of it before.
    pub change: Option<f64>,
    /// The last entry before it.
    pub from: Place,
    #[serde(skip)]
    size: f64,
}

/// How it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Step,
    Creep,
}

/// An entry of a series.
#[derive(Serialize)]
pub struct Place {
    /// From 0 on.
    pub index: usize,
    pub commit: Option<String>,
    pub date: String,
}

impl Series {
    /// All series of a file, and what is to be told of it.
    pub fn all_of(entries: &[Entry]) -> (Vec<Series>, Vec<String>) {
        let mut all: Vec<Series> = Vec::new();
        let mut by_case = BTreeMap::<(&str, Metric), Heads<'_>>::new();
        let mut by_base = HashMap::<(&str, &str, Option<&str>), usize>::new();
        for entry in entries {
            *by_base.entry((&entry.case, &entry.metric, entry.base.as_deref())).or_default() += 1;
        }
        let mut unknown = 0;
        let mut without_value = 0;
        let mut unreliable = 0;
        for entry in entries {
            let Some(metric) = entry.metric() else {
                unknown += 1;
                continue;
            };
            let measured_against = |commit| {
                by_base
                    .get(&(entry.case.as_str(), entry.metric.as_str(), commit))
                    .copied()
                    .unwrap_or_default()
            };
            // Others may stand on it.
            let is_needed = entry.head.as_deref().is_some_and(|head| measured_against(Some(head)) > 0);
            if entry.outcome == Outcome::Unreliable.to_string() && !metric.is_exact() && !is_needed {
                unreliable += 1;
                continue;
            }
            let value = if metric.is_exact() {
                entry.head_value
            } else {
                entry.change.filter(|&change| change > -1.0).map(f64::ln_1p)
            };
            let Some(value) = value else {
                without_value += 1;
                continue;
            };
            let heads = by_case.entry((&entry.case, metric)).or_default();
            let base = if metric.is_exact() { None } else { entry.base.as_deref() };
            // An entry that was measured, or else a ground: a release, or a base that is the head of no earlier entry.
            let is_release = measured_against(entry.base.as_deref()) >= RELEASE_MIN;
            let known = base.filter(|_| !is_release).and_then(|base| heads.entries.get(base));
            let (series, link) = match known {
                Some(&(series, index)) => (series, Link { value, base: Some(index) }),
                None => {
                    let series = *heads.grounds.entry(base).or_insert_with(|| {
                        all.push(Series::new(entry, metric, base));
                        all.len() - 1
                    });
                    (series, Link { value, base: None })
                }
            };
            all[series].push(entry, link);
            if let Some(head) = &entry.head {
                heads.entries.insert(head, (series, all[series].links.len() - 1));
            }
        }
        let mut notes = Vec::new();
        if unreliable > 0 {
            notes.push(format!("UNRELIABLE, skipped: {}", counted(unreliable, "measurement")));
        }
        if unknown > 0 {
            notes.push(format!(
                "{} of metrics that this version does not support: skipped",
                counted(unknown, "measurement")
            ));
        }
        if without_value > 0 {
            notes.push(format!("{} without a value: skipped", counted(without_value, "measurement")));
        }
        (all, notes)
    }

    fn new(entry: &Entry, metric: Metric, base: Option<&str>) -> Series {
        Series {
            case: entry.case.clone(),
            metric,
            unit: if metric.is_exact() { "count" } else { "fraction" },
            base: base.map(str::to_owned),
            points: Vec::new(),
            changes: Vec::new(),
            rise: None,
            failed: 0,
            links: Vec::new(),
        }
    }

    fn push(&mut self, entry: &Entry, link: Link) {
        let below = link.base.map_or(0.0, |base| self.log_level(base));
        let level = if self.metric.is_exact() { link.value } else { (below + link.value).exp_m1() };
        self.links.push(link);
        self.failed += usize::from(entry.outcome == Outcome::Fail.to_string());
        self.points.push(Point {
            date: entry.date.clone(),
            commit: entry.head.clone(),
            machine: entry.machine.clone(),
            level,
        });
    }

    /// In the unit of the links of what is timed.
    fn log_level(&self, index: usize) -> f64 {
        self.points[index].level.ln_1p()
    }

    /// Whether anything could be found in it.
    pub fn is_long_enough(&self) -> bool {
        self.points.len() >= ENTRIES_MIN
    }

    /// Looks for changes.
    pub fn look(&mut self, significance: f64) {
        let found = change::find(&self.links, significance, &mut SmallRng::seed_from_u64(SEED));
        let is_exact = self.metric.is_exact();
        for (index, change) in found.iter().enumerate() {
            let levels = change.around.clone().map(|at| {
                let level = if is_exact { self.points[at].level } else { self.log_level(at) };
                level - change.size * change.shape.height(at)
            });
            let before = levels.sum::<f64>() / change.around.len() as f64;
            let (from, to) = change.shape.ends();
            let level = |log_or_count: f64| if is_exact { log_or_count } else { log_or_count.exp_m1() };
            self.changes.push(Changed {
                kind: if matches!(change.shape, Shape::Step { .. }) { Kind::Step } else { Kind::Creep },
                change: self.fraction(before, change.size),
                low: self.fraction(before, change.size - change.half_width),
                high: self.fraction(before, change.size + change.half_width),
                before: level(before),
                after: level(before + change.size),
                from: self.place(from),
                to: self.place(to),
                p: change.p,
                has_other_machine: self.points[from].machine != self.points[to].machine,
                shape: change.shape,
            });
            // What is left of it at the end, with all that followed.
            let left = found[index..].iter().map(|change| change.size).sum();
            if left > 0.0 && self.rise.as_ref().is_none_or(|rise| rise.size < left) {
                self.rise =
                    Some(Rise { change: self.fraction(before, left), from: self.place(from), size: left });
            }
        }
    }

    /// A change as a part of what was before; none of nothing.
    fn fraction(&self, before: f64, size: f64) -> Option<f64> {
        let fraction = if self.metric.is_exact() { size / before } else { size.exp_m1() };
        fraction.is_finite().then_some(fraction)
    }

    fn place(&self, index: usize) -> Place {
        let Point { commit, date, .. } = &self.points[index];
        Place { index, commit: commit.clone(), date: date.clone() }
    }

    /// How many machines its entries are from.
    pub fn machines(&self) -> usize {
        let mut machines: Vec<_> = self.points.iter().map(|point| &point.machine).collect();
        machines.sort();
        machines.dedup();
        machines.len()
    }
}

/// What entries of a case and metric can be measured against.
#[derive(Default)]
struct Heads<'a> {
    /// By commit, the last one of it: its series, and its place there.
    entries: HashMap<&'a str, (usize, usize)>,
    /// The series that stands on a base.
    grounds: HashMap<Option<&'a str>, usize>,
}

impl Series {
    /// Whether it is worse at the end than it once was, by more than so much.
    pub fn is_worse(&self, change_min: f64) -> bool {
        self.rise.as_ref().is_some_and(|rise| rise.change.is_none_or(|change| change > change_min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(base: &str, head: &str, metric: &str, value: f64) -> Entry {
        let commit = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Entry {
            date: "2026-11-26T10:00:00Z".into(),
            base: commit(base),
            head: commit(head),
            machine: "a machine".into(),
            case: "echo".into(),
            metric: metric.into(),
            unit: "ns".into(),
            base_value: Some(100.0),
            head_value: Some(value),
            change: Some(value / 100.0 - 1.0),
            low: None,
            high: None,
            outcome: "PASS".into(),
        }
    }

    fn levels(series: &Series) -> Vec<f64> {
        series.points.iter().map(|point| (point.level * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn levels_stand_on_those_of_the_commit_that_they_were_measured_against() {
        let entries = [
            entry("a", "b", "cpu", 110.0),
            entry("b", "c", "cpu", 110.0),
            entry("a", "d", "cpu", 105.0),
            entry("d", "e", "cpu", 100.0),
        ];
        let (all, notes) = Series::all_of(&entries);
        assert_eq!((all.len(), notes), (1, vec![]));
        assert_eq!(levels(&all[0]), [0.1, 0.21, 0.05, 0.05]);
        assert_eq!(all[0].base.as_deref(), Some("a"));
    }

    #[test]
    fn where_a_base_is_not_known_another_series_begins() {
        let entries = [
            entry("a", "b", "cpu", 110.0),
            entry("x", "y", "cpu", 120.0),
            entry("b", "c", "cpu", 110.0),
            entry("y", "z", "cpu", 100.0),
            entry("", "", "cpu", 103.0),
            entry("", "", "cpu", 104.0),
        ];
        let (all, _) = Series::all_of(&entries);
        let told: Vec<_> = all.iter().map(|series| (series.base.as_deref(), levels(series))).collect();
        assert_eq!(told[0], (Some("a"), vec![0.1, 0.21]));
        assert_eq!(told[1], (Some("x"), vec![0.2, 0.2]));
        assert_eq!(told[2], (None, vec![0.03, 0.04]));
    }

    #[test]
    fn what_many_are_measured_against_is_a_series_of_its_own() {
        let after = |base: &str, count: usize| {
            (0..count)
                .map(move |index| entry("", &format!("{base}{index}"), "cpu", 100.0))
                .collect::<Vec<_>>()
        };
        let with_base = |base: &str, mut entries: Vec<Entry>| {
            entries.iter_mut().for_each(|entry| entry.base = Some(base.into()));
            entries
        };
        let first = with_base("a", after("b", RELEASE_MIN));
        for (count, series) in [(RELEASE_MIN - 1, 1), (RELEASE_MIN, 2)] {
            let entries = [first.clone(), with_base("b3", after("c", count))].concat();
            assert_eq!(Series::all_of(&entries).0.len(), series, "{count}");
        }
    }

    #[test]
    fn what_is_unreliable_is_there_only_for_those_that_stand_on_it() {
        let unreliable = |base: &str, head: &str| Entry {
            outcome: "UNRELIABLE".into(),
            ..entry(base, head, "cpu", 150.0)
        };
        let entries = [unreliable("a", "b"), unreliable("a", "c"), entry("c", "d", "cpu", 100.0)];
        let (all, notes) = Series::all_of(&entries);
        assert_eq!((all.len(), levels(&all[0])), (1, vec![0.5, 0.5]));
        assert_eq!(notes, ["UNRELIABLE, skipped: 1 measurement"]);
    }

    #[test]
    fn counts_stand_on_nothing_but_themselves() {
        let entries = [
            entry("a", "b", "instructions", 421.0),
            entry("x", "y", "instructions", 433.0),
            entry("x", "y", "something new", 433.0),
            Entry { head_value: None, ..entry("x", "y", "syscalls", 0.0) },
        ];
        let (all, notes) = Series::all_of(&entries);
        assert_eq!((all.len(), levels(&all[0])), (1, vec![421.0, 433.0]));
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    /// A series of these counts, ten of each.
    fn looked_at(counts: &[f64]) -> Series {
        let counts = counts.iter().flat_map(|&count| vec![count; 10]);
        let entries: Vec<_> = counts.map(|count| entry("a", "b", "instructions", count)).collect();
        let (mut all, _) = Series::all_of(&entries);
        all[0].look(0.01);
        all.remove(0)
    }

    #[test]
    fn what_is_worse_at_the_end_counts() {
        for (counts, changes, worse) in [
            (&[400.0, 440.0, 440.0][..], &[0.1][..], Some(0.1)),
            // Made good again, in part or wholly.
            (&[400.0, 440.0, 420.0], &[0.1, -20.0 / 440.0], Some(0.05)),
            (&[400.0, 440.0, 400.0], &[0.1, -40.0 / 440.0], None),
            // Little by little.
            (&[400.0, 404.0, 408.0], &[0.01, 4.0 / 404.0], Some(0.02)),
            (&[400.0, 300.0, 330.0], &[-0.25, 0.1], Some(0.1)),
            (&[400.0, 300.0], &[-0.25], None),
        ] {
            let series = looked_at(counts);
            let told: Vec<_> = series.changes.iter().map(|changed| changed.change.unwrap()).collect();
            let is_close = |one: f64, other: f64| (one - other).abs() < 1e-9;
            assert!(
                told.len() == changes.len()
                    && told.iter().zip(changes).all(|(&one, &other)| is_close(one, other)),
                "{counts:?}: {told:?}"
            );
            let rise = series.rise.as_ref().map(|rise| rise.change.unwrap());
            assert_eq!(rise.is_some(), worse.is_some(), "{counts:?}: {rise:?}");
            if let (Some(rise), Some(worse)) = (rise, worse) {
                assert!(is_close(rise, worse), "{counts:?}: {rise}");
                assert!(series.is_worse(worse - 0.001) && !series.is_worse(worse + 0.001));
            }
        }
    }

    #[test]
    fn what_was_not_there_before_is_worse() {
        let series = looked_at(&[0.0, 1.0]);
        let [changed] = &series.changes[..] else { panic!() };
        assert_eq!((changed.change, changed.before, changed.after), (None, 0.0, 1.0));
        assert!(series.is_worse(0.5));
    }
}
