//! The report for scripts. docs/loadgen-files.md says what each field is.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a report as one object and a line end.
pub fn write(out: &mut impl Write, report: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}
