//! What is counted of connections, beside what is counted of every load.

use hdrhistogram::Histogram;

use crate::record::histogram;

/// Of the window.
#[derive(Clone)]
pub struct Counts {
    /// From the beginning of a connect to its end, in nanoseconds.
    pub connect_times: Histogram<u64>,
    /// Connects that the server's machine refused.
    pub refused: u64,
    /// Connections that were reset before the whole reply.
    pub reset: u64,
    /// Not connected, or not answered, within the timeout.
    pub timed_out: u64,
    /// Connects that failed in another way, such as for want of a route.
    pub failed: u64,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { connect_times: histogram(), refused: 0, reset: 0, timed_out: 0, failed: 0 }
    }
}

impl Counts {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Counts) {
        self.connect_times.add(&other.connect_times).expect("all histograms have the same bounds");
        self.refused += other.refused;
        self.reset += other.reset;
        self.timed_out += other.timed_out;
        self.failed += other.failed;
    }
}
