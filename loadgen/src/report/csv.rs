//! The intervals as comma-separated values, a row each, for spreadsheets and plotting programs.

use std::io::{self, Write};

use crate::interval::Interval;
use crate::report::Quantiles;

/// The columns; times are in microseconds, and empty where there are none.
pub fn write(out: &mut impl Write, intervals: &[Interval]) -> io::Result<()> {
    write!(out, "start_s,length_s,requests,answered,errors,lost,offered_per_s,throughput_per_s")?;
    for kind in ["response", "service", "lag"] {
        for (name, _) in Quantiles::default().named() {
            write!(out, ",{kind}_{name}_us")?;
        }
    }
    writeln!(out)?;
    for interval in intervals {
        let Interval { start_s, length_s, requests, answered, errors, lost, .. } = interval;
        write!(out, "{start_s:.3},{length_s:.3},{requests},{answered},{errors},{lost}")?;
        write!(out, ",{:.1},{:.1}", interval.offered_per_s(), interval.throughput_per_s())?;
        for times in [&interval.response_time_us, &interval.service_time_us, &interval.send_lag_us] {
            for (place, _) in Quantiles::default().named().iter().enumerate() {
                match times {
                    Some(times) => write!(out, ",{:.3}", times.named()[place].1)?,
                    None => write!(out, ",")?,
                }
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
