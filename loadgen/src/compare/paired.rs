//! The paired tier: short slices of the same fixed work at servers of both sides, which are alive at once.
//!
//! A life has four servers: two of the base and two of the head. Each round of it is a slice of each, in a drawn order, and
//! then in the reverse of it, so that what drifts evenly takes from all alike. A life ends with its servers, because where a
//! process's memory lies makes a difference that no repetition within its life takes away. What is compared is in one round:
//!
//! ```text
//!     change  = (ln head + ln head') / 2 - (ln base + ln base') / 2
//!     control = (ln base' - ln base + ln head' - ln head) / 2
//! ```
//!
//! The control compares servers that are the same, with the same four slices and thus the same precision. Under the null
//! hypothesis both are symmetrical about 0.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Metric;
use super::case::{Case, Side};
use crate::load::Amount;
use crate::machine::MachineClock;
use crate::placement::Placement;
use crate::report::Report;
use crate::server::Server;
use crate::service::Service;
use crate::standing::Standing;
use crate::verdict::Verdict;

/// The servers of a life: two of each side, the second of which is the control of the first.
pub const SEATS: [Side; 4] = [Side::Base, Side::Base, Side::Head, Side::Head];

/// Rounds of a life; even, because every second one is in the reverse order.
pub const ROUNDS: usize = 20;

/// A round in which the hypervisor took more than this share of the machine's time is set aside whole, whichever side it
/// was taken from. The system counts in hundredths of a second, of which a round has few.
const STEAL_SHARE_MAX: f64 = 0.08;

/// A slice has so many requests at least for each that is in flight.
const REQUESTS_MIN: u64 = 10;

/// How long it is measured how many requests a slice has.
const TRIAL: Duration = Duration::from_millis(200);

/// What was measured of one server in one slice.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// Of the server and its descendants, for each request; of a room, for each delivery.
    pub cpu_ns: f64,
    pub throughput_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The generator had too little CPU time.
    pub is_starved: bool,
}

impl Slice {
    fn of(report: &Report) -> Option<Slice> {
        let time = |quantile| report.times_us().and_then(|times| times.at(quantile));
        Some(Slice {
            cpu_ns: report.server_cpu_ns_per_delivery.or(report.server_cpu_ns_per_request)?,
            throughput_per_s: report.deliveries_per_s.unwrap_or(report.throughput_per_s),
            p50_us: time("p50")?,
            p99_us: time("p99")?,
            is_starved: report.verdict == Verdict::Invalid,
        })
    }

    /// The metric's value; none of what is counted and not timed.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Cpu => Some(self.cpu_ns),
            Metric::Throughput => Some(self.throughput_per_s),
            Metric::P50 => Some(self.p50_us),
            Metric::P99 => Some(self.p99_us),
            Metric::Instructions | Metric::Syscalls | Metric::Allocations => None,
        }
    }
}

/// A slice of each server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Round {
    /// In the order of [`SEATS`].
    pub slices: [Slice; 4],
    /// Of the CPU time of all processors, what the hypervisor gave to other machines; 0 where the system does not tell.
    pub steal_share: f64,
}

impl Round {
    pub fn is_set_aside(&self) -> bool {
        self.steal_share > STEAL_SHARE_MAX
    }

    /// By how much the head's logarithm is above the base's, and the second servers' above the first ones'.
    pub fn contrasts(&self, metric: Metric) -> Option<Contrasts> {
        let [base, base_again, head, head_again] = self.slices.map(|slice| slice.value(metric).map(f64::ln));
        let (base, base_again, head, head_again) = (base?, base_again?, head?, head_again?);
        let change = (head + head_again - base - base_again) / 2.0;
        let control = (base_again - base + head_again - head) / 2.0;
        // Less throughput is worse, more of the others is.
        let sign = if metric == Metric::Throughput { -1.0 } else { 1.0 };
        let contrasts = Contrasts { change: sign * change, control: sign * control };
        (contrasts.change.is_finite() && contrasts.control.is_finite()).then_some(contrasts)
    }
}

/// What one round says.
#[derive(Clone, Copy, Debug)]
pub struct Contrasts {
    pub change: f64,
    pub control: f64,
}

/// The rounds of four servers, from their start to their end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Life {
    pub rounds: Vec<Round>,
}

impl Life {
    /// Those that are not set aside.
    pub fn contrasts(&self, metric: Metric) -> Vec<Contrasts> {
        self.rounds
            .iter()
            .filter(|round| !round.is_set_aside())
            .filter_map(|round| round.contrasts(metric))
            .collect()
    }
}

/// Measures lives of a case, all with the same requests in each slice.
pub struct Paired<'a> {
    pub case: Case,
    placement: &'a Placement,
    stop: &'a AtomicBool,
}

/// A server with its connections, which end before it: a server that is told to end may wait for them.
struct Seat {
    load: Standing,
    server: Server,
}

impl<'a> Paired<'a> {
    /// Finds out how many requests a slice has: what the base answers in the time that a slice is to take.
    pub fn prepare(case: &Case, placement: &'a Placement, stop: &'a AtomicBool) -> Result<Paired<'a>> {
        let mut paired = Paired { case: case.clone(), placement, stop };
        let run = &case.run;
        if run.rate.is_none() && run.options.requests.is_none() {
            let mut base = paired.seat(Side::Base)?;
            base.slice(Amount::Time(TRIAL), stop)?;
            let report = base.slice(Amount::Time(TRIAL), stop)?;
            let options = &run.options;
            let who_ask = match options.target.service {
                Service::Chat => options.rooms.unwrap_or(1) * options.senders.unwrap_or(1),
                _ => run.connections,
            };
            let in_flight = (who_ask * run.pacing.depth) as u64;
            let requests = (report.throughput_per_s * options.duration.as_secs_f64()) as u64;
            paired.case.run.options.requests = Some(requests.max(in_flight * REQUESTS_MIN));
        }
        Ok(paired)
    }

    /// One life. `random` draws the orders.
    pub fn life(&self, random: &mut SmallRng) -> Result<Life> {
        let mut order: Vec<usize> = (0..SEATS.len()).collect();
        // Who is started first has the lower ids and ports.
        order.shuffle(random);
        let mut seats = Vec::with_capacity(SEATS.len());
        for &index in &order {
            seats.push((index, self.seat(SEATS[index])?));
        }
        seats.sort_by_key(|(index, _)| *index);
        let mut seats: Vec<Seat> = seats.into_iter().map(|(_, seat)| seat).collect();
        let options = &self.case.run.options;
        let (warmup, amount) = (Amount::Time(options.warmup), options.amount());
        // The first slice of a life pages in what the others find there.
        for seat in &mut seats {
            seat.slice(amount, self.stop)?;
        }
        let mut life = Life::default();
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                order.shuffle(random);
            } else {
                order.reverse();
            }
            let machine = MachineClock::read();
            let mut slices = [None; SEATS.len()];
            for &index in &order {
                // Another server's working set is in the caches.
                if !options.warmup.is_zero() {
                    seats[index].slice(warmup, self.stop)?;
                }
                slices[index] = Slice::of(&seats[index].slice(amount, self.stop)?);
            }
            let shares = machine.zip(MachineClock::read());
            let shares = shares.and_then(|(before, now)| now.since(&before, Duration::ZERO));
            if let [Some(base), Some(base_again), Some(head), Some(head_again)] = slices {
                let slices = [base, base_again, head, head_again];
                life.rounds.push(Round { slices, steal_share: shares.map_or(0.0, |shares| shares.stolen) });
            }
        }
        Ok(life)
    }

    /// Lives until `is_enough` says so, given all of them, or the time is over; at least one. Whether there is time for one
    /// more is judged by how long they take.
    pub fn lives(
        &self,
        until: Instant,
        random: &mut SmallRng,
        mut is_enough: impl FnMut(&[Life]) -> bool,
    ) -> Result<Vec<Life>> {
        let began = Instant::now();
        let mut lives = Vec::new();
        loop {
            lives.push(self.life(random)?);
            ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
            let each = began.elapsed() / lives.len() as u32;
            if is_enough(&lives) || Instant::now() + each > until {
                return Ok(lives);
            }
        }
    }

    /// Starts a server where servers belong, and connects to it.
    fn seat(&self, side: Side) -> Result<Seat> {
        self.placement.pin_server()?;
        let started = self.case.start(side, "", self.stop);
        self.placement.pin_loadgen()?;
        let (server, run) = started?;
        let load = Standing::connect(run, &server)?;
        Ok(Seat { load, server })
    }
}

impl Seat {
    fn slice(&mut self, amount: Amount, stop: &AtomicBool) -> Result<Report> {
        self.load.measure(&mut self.server, amount, stop)
    }
}
