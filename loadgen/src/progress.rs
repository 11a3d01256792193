//! What a run is doing, while it does it, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::Amount;
use crate::message::message;
use crate::record::{Record, quantile_us};
use crate::report::{figures, of_many};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks of the bar.
pub const TICK: Duration = Duration::from_millis(100);

/// The rate that is shown is of so long.
const RATE_INTERVAL: Duration = Duration::from_secs(1);

/// Parts of the bar: of a window of time or of requests.
const BAR_PARTS: u64 = 1000;

pub struct Progress {
    display: Display,
    window: Option<Window>,
    /// When it is to be shown again.
    next: Instant,
    /// What was answered a second, lately; none before there is a lately.
    rate_per_s: Option<f64>,
    /// What had been answered when the rate was last taken.
    mark: (Instant, u64),
}

enum Display {
    None,
    Bar(ProgressBar),
    Lines,
}

#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    amount: Amount,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let display = if quiet {
            Display::None
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(BAR_PARTS), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix}{wide_bar} {msg}").ok();
            bar.set_style(style.unwrap_or_else(ProgressStyle::default_bar));
            Display::Bar(bar)
        } else {
            Display::Lines
        };
        let now = Instant::now();
        Progress { display, window: None, next: now, rate_per_s: None, mark: (now, 0) }
    }

    /// Has the bar say what it is about.
    pub fn of(self, words: &str) -> Progress {
        if let Display::Bar(bar) = &self.display {
            bar.set_prefix(format!("{words} "));
        }
        self
    }

    /// Whether there is anybody to show it to.
    pub fn is_shown(&self) -> bool {
        !matches!(self.display, Display::None)
    }

    /// How old figures may be that are shown.
    pub fn patience(&self) -> Duration {
        if matches!(self.display, Display::Bar(_)) { 2 * TICK } else { RATE_INTERVAL }
    }

    /// The warm-up begins.
    pub fn warm_up(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.set_message("warming up");
        }
    }

    /// The window begins.
    pub fn begin(&mut self, amount: Amount) {
        let now = Instant::now();
        self.window = Some(Window { began: now, amount });
        self.next = now + self.interval();
        self.mark = (now, 0);
    }

    fn interval(&self) -> Duration {
        if matches!(self.display, Display::Lines) { LINE_INTERVAL } else { TICK }
    }

    /// Shows how far the run is, if it is time to.
    pub fn show(&mut self, total: &Record) {
        let now = Instant::now();
        let Some(Window { began, amount }) = self.window.filter(|_| self.is_shown() && now >= self.next)
        else {
            return;
        };
        self.next = now + self.interval();
        let since = now - self.mark.0;
        let lately = (total.answered - self.mark.1) as f64 / since.as_secs_f64();
        if since >= RATE_INTERVAL {
            self.rate_per_s = Some(lately);
            self.mark = (now, total.answered);
        }
        let (part, reached) = match amount {
            Amount::Time(whole) => {
                let (at, whole) = ((now - began).min(whole).as_secs_f64(), whole.as_secs_f64());
                (at / whole, format!("{at:.1}/{whole} s"))
            }
            Amount::Requests(whole) => {
                let done = total.answered + total.errors + total.lost;
                (done as f64 / whole as f64, format!("{done}/{whole}"))
            }
        };
        let words = format!("{reached}  {}", words(total, self.rate_per_s.unwrap_or(lately)));
        if let Display::Bar(bar) = &self.display {
            bar.set_position((part * BAR_PARTS as f64) as u64);
            bar.set_message(words);
        } else {
            message!("{words}");
        }
    }
}

impl Drop for Progress {
    /// Leaves the line to what follows.
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

/// The figures so far.
fn words(total: &Record, rate_per_s: f64) -> String {
    // A closed loop has no response times.
    let times = if total.response_times.is_empty() { &total.service_times } else { &total.response_times };
    format!(
        "{}  p99 {}  {}  {} lost",
        figures::rate(rate_per_s),
        figures::time(quantile_us(times, 0.99)),
        of_many(total.errors, "error"),
        total.lost
    )
}
