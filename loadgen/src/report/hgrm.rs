//! The percentile distribution as text, in the form that HdrHistogram's plotters read.

use std::io::{self, Write};

use hdrhistogram::Histogram;

use crate::record::{LOST_NS, histogram, note};

/// Lines for each halving of the distance to 100 %, as other implementations print it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// From the histogram's nanoseconds to the microseconds of the text.
const NS_PER_US: f64 = 1e3;

/// Sub-buckets of a histogram of three digits: the power of two from 2 × 10³ on.
const SUB_BUCKETS: u32 = 2048;

/// Writes the distribution of nanoseconds in microseconds, and that the run was interrupted, if it was: lines that begin
/// with # are comments to plotters. It ends where the lost replies begin, whose times have no value: what stands below is of the
/// others, and how many were lost.
pub fn write(out: &mut impl Write, times: &Histogram<u64>, interruption: Option<&str>) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for step in times.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        if step.value_iterated_to() >= LOST_NS {
            break;
        }
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / NS_PER_US;
        let quantile = step.quantile_iterated_to();
        write!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
        match quantile {
            quantile if quantile < 1.0 => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?,
            _ => writeln!(out)?,
        }
    }
    let answered = answered(times);
    let lost = times.len() - answered.len();
    let (mean, deviation) = (answered.mean() / NS_PER_US, answered.stdev() / NS_PER_US);
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(
        out,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        answered.max() as f64 / NS_PER_US,
        times.len()
    )?;
    if lost > 0 {
        writeln!(out, "#[Lost    = {lost:12}]")?;
    }
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {SUB_BUCKETS:12}]", answered.buckets())?;
    interruption.map_or(Ok(()), |words| writeln!(out, "#[Interrupted: {words}]"))
}

/// Without the lost replies.
fn answered(times: &Histogram<u64>) -> Histogram<u64> {
    if times.max() < LOST_NS {
        return times.clone();
    }
    let mut answered = histogram();
    for value in times.iter_recorded().take_while(|value| value.value_iterated_to() < LOST_NS) {
        note(&mut answered, value.value_iterated_to(), value.count_at_value());
    }
    answered
}
