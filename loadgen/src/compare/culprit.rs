//! What has changed most between two servers: functions, system calls, and stacks in the colours of their change.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use inferno::flamegraph::color::{BackgroundColor, Color};
use inferno::{differential, flamegraph};

use super::callgrind::Profile;
use super::{Changed, Culprit};
use crate::syscalls::SystemCalls;

/// Functions that are told.
const FUNCTIONS_MAX: usize = 20;

/// Instructions per request that a function must have more or less to be told.
const INSTRUCTIONS_MIN: f64 = 0.05;

/// System calls per request that one must have more or less to be told. A count of some thousand requests may have one
/// more or less at either end.
pub const CALLS_MIN: f64 = 0.005;

/// Flame graphs have whole numbers.
const FLAME_SCALE: f64 = 1000.0;

impl Changed {
    /// How many more the head has.
    fn by(&self) -> f64 {
        self.head - self.base
    }
}

/// Finds it in what was counted of base and head, in this order. Where nothing was counted there is none.
pub fn culprit(
    profiles: Option<(&Profile, &Profile)>,
    system_calls: Option<(&SystemCalls, &SystemCalls)>,
) -> Result<Culprit> {
    let mut culprit = Culprit { functions: Vec::new(), system_calls: Vec::new(), flame_svg: None };
    if let Some((base, head)) = profiles {
        culprit.functions = changed(&base.functions, &head.functions, INSTRUCTIONS_MIN);
        culprit.functions.truncate(FUNCTIONS_MAX);
        culprit.flame_svg = Some(flame_svg(base, head)?);
    }
    if let Some((base, head)) = system_calls {
        culprit.system_calls = changed_calls(base, head);
    }
    Ok(culprit)
}

/// Those system calls that differ.
pub fn changed_calls(base: &SystemCalls, head: &SystemCalls) -> Vec<Changed> {
    changed(base.by_name(), head.by_name(), CALLS_MIN)
}

/// What differs by more than `min`, the greatest difference first.
fn changed(base: &BTreeMap<String, f64>, head: &BTreeMap<String, f64>, min: f64) -> Vec<Changed> {
    let count = |counts: &BTreeMap<String, f64>, name| counts.get(name).copied().unwrap_or(0.0);
    let new = head.keys().filter(|name| !base.contains_key(*name));
    let mut all: Vec<_> = base
        .keys()
        .chain(new)
        .map(|name| Changed { name: name.clone(), base: count(base, name), head: count(head, name) })
        .filter(|changed| changed.by().abs() > min)
        .collect();
    all.sort_by(|one, other| {
        other.by().abs().total_cmp(&one.by().abs()).then_with(|| one.name.cmp(&other.name))
    });
    all
}

/// The head's stacks as a flame graph: as wide as their instructions, red where they are more than the base's, blue where
/// they are fewer. It needs no network.
pub fn flame_svg(base: &Profile, head: &Profile) -> Result<String> {
    let (base, head) = (folded(&base.stacks), folded(&head.stacks));
    let mut both = Vec::new();
    differential::from_readers(differential::Options::default(), base.as_bytes(), head.as_bytes(), &mut both)
        .context("the difference of two profiles")?;
    let mut options = flamegraph::Options::default();
    options.title = "Instructions of the head".to_owned();
    options.subtitle = Some("red: more than the base, blue: fewer".to_owned());
    // The page inverts its lightness on a dark screen, where a gradient would not match.
    options.bgcolors = Some(BackgroundColor::Flat(Color { r: 255, g: 255, b: 255 }));
    options.count_name = format!("instructions per {FLAME_SCALE} requests");
    let mut svg = Vec::new();
    flamegraph::from_reader(&mut options, both.as_slice(), &mut svg).context("the flame graph")?;
    String::from_utf8(svg).context("the flame graph")
}

/// A line for each stack.
fn folded(stacks: &BTreeMap<String, f64>) -> String {
    let counts = stacks.iter().map(|(stack, count)| (stack, (count * FLAME_SCALE).round() as u64));
    counts.filter(|&(_, count)| count > 0).map(|(stack, count)| format!("{stack} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(functions: &[(&str, f64)]) -> Profile {
        Profile {
            instructions: functions.iter().map(|(_, count)| count).sum(),
            allocations: None,
            functions: functions.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
            stacks: functions.iter().map(|&(name, count)| (format!("main;{name}"), count)).collect(),
        }
    }

    #[test]
    fn those_that_changed_most_are_first() {
        let base =
            profile(&[("same", 1000.0), ("gone", 7.0), ("less", 30.0), ("more", 100.0), ("a bit", 1.0)]);
        let head =
            profile(&[("same", 1000.0), ("less", 10.0), ("more", 125.0), ("new", 7.0), ("a bit", 1.04)]);
        let culprit = culprit(Some((&base, &head)), None).unwrap();
        let names: Vec<_> = culprit.functions.iter().map(|one| (one.name.as_str(), one.by())).collect();
        assert_eq!(names, [("more", 25.0), ("less", -20.0), ("gone", -7.0), ("new", 7.0)]);
        assert_eq!(culprit.functions[3], Changed { name: "new".into(), base: 0.0, head: 7.0 });
        assert!(culprit.system_calls.is_empty());
    }

    #[test]
    fn no_more_are_told_than_can_be_read() {
        let names: Vec<_> = (1..100).map(|number| format!("f{number}")).collect();
        let counts: Vec<_> =
            (1..).map(f64::from).zip(&names).map(|(count, name)| (name.as_str(), count)).collect();
        let culprit = culprit(Some((&profile(&[]), &profile(&counts))), None).unwrap();
        assert_eq!((culprit.functions.len(), culprit.functions[0].head), (20, 99.0));
    }

    #[test]
    fn system_calls_that_differ_are_told() {
        let calls = |calls: &[(&str, f64)]| {
            SystemCalls::of(calls.iter().map(|&(name, per)| (name.to_owned(), per)).collect())
        };
        let base = calls(&[("recvfrom", 1.0), ("sendto", 1.0), ("epoll_wait", 1.0)]);
        let head = calls(&[("recvfrom", 1.004), ("sendto", 1.01), ("getpid", 1.0)]);
        let culprit = culprit(None, Some((&base, &head))).unwrap();
        let names: Vec<_> = culprit.system_calls.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["epoll_wait", "getpid", "sendto"]);
        assert!(culprit.functions.is_empty() && culprit.flame_svg.is_none());
    }

    #[test]
    fn a_flame_graph_names_functions_and_their_change() {
        let base = profile(&[("parse<u8>", 100.0), ("write", 50.0)]);
        let head = profile(&[("parse<u8>", 100.0), ("write", 60.0), ("check", 40.0)]);
        let svg = flame_svg(&base, &head).unwrap();
        for words in ["<svg", "parse&lt;u8&gt;", "instructions per 1000 requests", "check", "40,000"] {
            assert!(svg.contains(words), "{words}: {svg}");
        }
    }
}
