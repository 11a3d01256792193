//! The intervals as comma-separated values, a row each, for spreadsheets and plotting programs.

use std::io::{self, Write};

use crate::interval::Interval;
use crate::report::{Quantiles, figures};

/// The columns; times are in microseconds, empty where there are none, and `lost` where they are longer than any. The last one is 1
/// in each row of a run that was interrupted.
pub fn write(out: &mut impl Write, intervals: &[Interval], interrupted: bool) -> io::Result<()> {
    write!(out, "start_s,length_s,requests,answered,errors,lost,offered_per_s,throughput_per_s")?;
    for kind in ["response", "service", "lag"] {
        for (name, _) in Quantiles::default().named() {
            write!(out, ",{kind}_{name}_us")?;
        }
    }
    writeln!(out, ",interrupted")?;
    // One that was interrupted at once has a row that says so.
    let none = [Interval::default()];
    for interval in if intervals.is_empty() && interrupted { &none } else { intervals } {
        let Interval { start_s, length_s, requests, answered, errors, lost, .. } = interval;
        write!(out, "{start_s:.3},{length_s:.3},{requests},{answered},{errors},{lost}")?;
        write!(out, ",{:.1},{:.1}", interval.offered_per_s(), interval.throughput_per_s())?;
        for times in [&interval.response_time_us, &interval.service_time_us, &interval.send_lag_us] {
            for (place, _) in Quantiles::default().named().iter().enumerate() {
                match times {
                    Some(times) => write!(out, ",{}", figures::csv_us(times.named()[place].1))?,
                    None => write!(out, ",")?,
                }
            }
        }
        writeln!(out, ",{}", u8::from(interrupted))?;
    }
    Ok(())
}
