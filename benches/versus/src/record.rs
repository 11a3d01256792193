//! Where and when it was measured, and the records that are kept of it.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Compared, Effort, page, table};
use crate::arguments::Versus;
use loadgen::machine::{Host, date};
use loadgen::output::Output;
use loadgen::placement::Placement;
use loadgen::report::json;

/// What the figures depend on. Field names end in their unit; they are the JSON's.
#[derive(Serialize)]
pub struct Conditions {
    /// In UTC.
    pub date: String,
    /// Of the repository, with a + if files have changed since; null outside of it.
    pub commit: Option<String>,
    #[serde(flatten)]
    host: Host,
    #[serde(flatten)]
    placement: Placement,
    #[serde(skip)]
    placed: String,
    pub seed: u64,
    pub rounds: u32,
    pub slice_s: f64,
    /// Too short for the figures to mean anything.
    pub is_quick: bool,
}

impl Conditions {
    /// Those of here and now.
    pub fn of(placement: &Placement, root: Option<&Path>, asked: &Versus, effort: Effort) -> Conditions {
        Conditions {
            date: date(),
            commit: root.and_then(commit),
            host: Host::here(),
            placement: placement.clone(),
            placed: placement.to_string(),
            seed: asked.seed,
            rounds: effort.rounds,
            slice_s: effort.slice.as_secs_f64(),
            is_quick: asked.quick,
        }
    }

    /// The machine and when it was, in a line.
    pub fn machine(&self) -> String {
        let commit = self.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
        format!("{}; {} UTC{commit}", self.host, self.date)
    }

    /// How it was measured, in a line.
    pub fn way(&self) -> String {
        let quick = if self.is_quick { " --quick: the figures are not meaningful." } else { "" };
        format!(
            "{} rounds of slices of about {} s in random order, seed {}, {}.{quick}",
            self.rounds, self.slice_s, self.seed, self.placed
        )
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.machine(), self.way())
    }
}

fn commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let has_changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|told| !told.is_empty());
    Some(if has_changed { commit + "+" } else { commit })
}

/// Keeps the JSON, the tables and the chart in the folder of the records, named by the date and the commit.
pub fn keep(compared: &Compared, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let conditions = &compared.conditions;
    let (day, _) = conditions.date.split_once(' ').unwrap_or((&conditions.date, ""));
    let commit = conditions.commit.as_deref().unwrap_or("unknown");
    let path = |ending: &str| format!("{}/{day}-{commit}.{ending}", folder.display());
    Output::open(&path("json"))?.keep_with(|out| json::write(out, compared))?;
    Output::open(&path("md"))?.keep_with(|out| table::write_markdown(out, compared))?;
    let chart = page::chart(compared);
    Output::open(&path("svg"))?.keep_with(|out| out.write_all(chart.as_bytes()))?;
    message!("kept {}, and the tables and the chart beside it", path("json"));
    Ok(())
}
