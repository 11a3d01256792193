//! Conditions on the result, such as `p99>2ms`: with `--fail-if` they turn a run into a failure, with `--slo` they are to
//! be kept.

use std::fmt;
use std::str::FromStr;

use crate::report::{Quantiles, Report, figures};
use crate::units;

/// A figure of the result, how it is compared, and with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    metric: Metric,
    comparison: Comparison,
    /// In microseconds, a second, or pieces.
    bound: f64,
    /// As it was written.
    text: String,
}

/// One figure of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    Time(Times, Quantile),
    ServerCpu,
    Rate(Rate),
    Count(Count),
}

/// A kind of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// The response time in an open loop, the service time in a closed one.
    Either,
    Response,
    Service,
    Lag,
}

/// A quantile by its name in the report.
pub type Quantile = &'static str;

/// What happens so often a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    Throughput,
    Offered,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Count {
    Errors,
    Lost,
    Late,
    PeerClosed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    More,
    NotLess,
    Less,
    NotMore,
}

/// A result with figures that conditions can be about.
pub trait Figures {
    /// In microseconds, a second, or pieces; none where it is not known.
    fn figure(&self, metric: Metric) -> Option<f64>;
}

/// What a run is going to measure.
#[derive(Clone, Copy, Debug)]
pub struct Measures {
    pub open_loop: bool,
    pub server_cpu: bool,
}

impl Condition {
    /// Tells why the result will have no such figure, if it will not.
    pub fn check(&self, measures: Measures) -> Result<(), String> {
        match self.metric {
            Metric::Time(Times::Response | Times::Lag, _) if !measures.open_loop => {
                Err(format!("'{self}' needs --rate: a closed loop has no planned send times"))
            }
            Metric::ServerCpu if !measures.server_cpu => {
                Err(format!("'{self}' needs --pid or --spawn to measure the server's CPU time"))
            }
            _ => Ok(()),
        }
    }

    /// What the result has, in words, if the condition holds. It also holds on a figure that is not there: nobody may
    /// take for met what was not measured.
    pub fn held(&self, result: &impl Figures) -> Option<String> {
        let holds = self.figure(result).is_none_or(|figure| self.is_so(figure));
        holds.then(|| self.figure_in_words(result))
    }

    /// Whether the result is as the condition says. A figure that is not there is not.
    pub fn is_met(&self, result: &impl Figures) -> bool {
        self.figure(result).is_some_and(|figure| self.is_so(figure))
    }

    /// What the result has, in words: the name of the figure and its value.
    pub fn figure_in_words(&self, result: &impl Figures) -> String {
        let value = match (self.figure(result), self.metric) {
            (None, _) => "not known".into(),
            (Some(figure), Metric::Time(..) | Metric::ServerCpu) => figures::time(figure),
            (Some(figure), Metric::Rate(_)) => figures::rate(figure),
            (Some(figure), Metric::Count(_)) => figure.to_string(),
        };
        format!("{} is {value}", self.text.split(['<', '>']).next().unwrap_or_default().trim())
    }

    /// Whether the result has the figure.
    pub fn is_known(&self, result: &impl Figures) -> bool {
        self.figure(result).is_some()
    }

    fn figure(&self, result: &impl Figures) -> Option<f64> {
        result.figure(self.metric).filter(|figure| !figure.is_nan())
    }

    fn is_so(&self, figure: f64) -> bool {
        match self.comparison {
            Comparison::More => figure > self.bound,
            Comparison::NotLess => figure >= self.bound,
            Comparison::Less => figure < self.bound,
            Comparison::NotMore => figure <= self.bound,
        }
    }
}

impl Figures for Report {
    fn figure(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Time(times, quantile) => {
                let times = match times {
                    Times::Either => self.times_us(),
                    Times::Response => self.response_time_us.as_ref(),
                    Times::Service => self.service_time_us.as_ref(),
                    Times::Lag => self.send_lag_us.as_ref(),
                };
                times?.at(quantile)
            }
            Metric::ServerCpu => self.server_cpu_ns_per_request.map(|ns| ns / 1e3),
            Metric::Rate(Rate::Throughput) => Some(self.throughput_per_s),
            Metric::Rate(Rate::Offered) => Some(self.offered_per_s),
            Metric::Count(Count::Errors) => Some(self.errors as f64),
            Metric::Count(Count::Lost) => Some(self.lost as f64),
            Metric::Count(Count::Late) => Some(self.late as f64),
            Metric::Count(Count::PeerClosed) => Some(self.peer_closed as f64),
        }
    }
}

impl Metric {
    /// The unit's factor to that of the bound.
    fn factor(self, unit: &str) -> Result<f64, &'static str> {
        match (self, unit) {
            (Metric::Time(..) | Metric::ServerCpu, "ns") => Ok(1e-3),
            (Metric::Time(..) | Metric::ServerCpu, "us" | "µs") => Ok(1.0),
            (Metric::Time(..) | Metric::ServerCpu, "ms") => Ok(1e3),
            (Metric::Time(..) | Metric::ServerCpu, "s") => Ok(1e6),
            (Metric::Time(..) | Metric::ServerCpu, _) => Err("a time: a number with ns, us, ms or s"),
            (_, "") => Ok(1.0),
            (_, "k" | "K") => Ok(1e3),
            (_, "M") => Ok(1e6),
            _ => Err("a number, optionally with k or M"),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Metric, String> {
        let (times, name) = match text.split_once('_') {
            Some(("response", name)) => (Times::Response, name),
            Some(("service", name)) => (Times::Service, name),
            Some(("lag", name)) => (Times::Lag, name),
            _ => (Times::Either, text),
        };
        // The table writes it with a point.
        let name = if name == "p99.9" { "p999" } else { name };
        if let Some((quantile, _)) =
            Quantiles::default().named().into_iter().find(|(known, _)| *known == name)
        {
            return Ok(Metric::Time(times, quantile));
        }
        match text {
            "cpu" => Ok(Metric::ServerCpu),
            "throughput" => Ok(Metric::Rate(Rate::Throughput)),
            "offered" => Ok(Metric::Rate(Rate::Offered)),
            "errors" => Ok(Metric::Count(Count::Errors)),
            "lost" => Ok(Metric::Count(Count::Lost)),
            "late" => Ok(Metric::Count(Count::Late)),
            "peer_closed" => Ok(Metric::Count(Count::PeerClosed)),
            _ => Err(format!(
                "unknown figure '{text}'; the figures are p50, p90, p99, p999, max and mean (also with the prefix \
                 response_, service_ or lag_), throughput, offered, errors, lost, late, peer_closed and cpu"
            )),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        let comparisons = [
            (">=", Comparison::NotLess),
            ("<=", Comparison::NotMore),
            (">", Comparison::More),
            ("<", Comparison::Less),
        ];
        let at = text.find(['<', '>']).ok_or("expected a comparison, such as p99>2ms")?;
        let (metric, rest) = text.split_at(at);
        let metric: Metric = metric.trim().parse()?;
        let (comparison, bound) = comparisons
            .into_iter()
            .find_map(|(sign, comparison)| Some((comparison, rest.strip_prefix(sign)?.trim())))
            .ok_or("expected >, >=, < or <=")?;
        let end = bound.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bound.len());
        let (number, unit) = bound.split_at(end);
        let expected = |form| format!("{bound:?} is not {form}");
        let text = text.trim();
        // A time may also be written as every other is: 1m, 1m30s.
        if let (Metric::Time(..) | Metric::ServerCpu, Ok(time)) = (metric, units::duration(bound)) {
            return Ok(Condition { metric, comparison, bound: time.as_secs_f64() * 1e6, text: text.into() });
        }
        let factor = metric.factor(unit.trim()).map_err(expected)?;
        let number: f64 = number.parse().map_err(|_| expected("a number with its unit"))?;
        Ok(Condition { metric, comparison, bound: number * factor, text: text.into() })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> Condition {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn figures_comparisons_and_units() {
        for (text, metric, comparison, bound) in [
            ("p99>2ms", Metric::Time(Times::Either, "p99"), Comparison::More, 2000.0),
            ("p99.9 >= 1.5s", Metric::Time(Times::Either, "p999"), Comparison::NotLess, 1.5e6),
            ("service_mean<10us", Metric::Time(Times::Service, "mean"), Comparison::Less, 10.0),
            ("response_max<=10µs", Metric::Time(Times::Response, "max"), Comparison::NotMore, 10.0),
            ("p99>1m30s", Metric::Time(Times::Either, "p99"), Comparison::More, 90e6),
            ("p99<0.5ns", Metric::Time(Times::Either, "p99"), Comparison::Less, 0.0005),
            ("lag_p50>500ns", Metric::Time(Times::Lag, "p50"), Comparison::More, 0.5),
            ("cpu>5us", Metric::ServerCpu, Comparison::More, 5.0),
            ("throughput<50k", Metric::Rate(Rate::Throughput), Comparison::Less, 50_000.0),
            ("offered<1.2M", Metric::Rate(Rate::Offered), Comparison::Less, 1_200_000.0),
            ("errors>0", Metric::Count(Count::Errors), Comparison::More, 0.0),
            ("peer_closed>0", Metric::Count(Count::PeerClosed), Comparison::More, 0.0),
        ] {
            let parsed = condition(text);
            assert_eq!((parsed.metric, parsed.comparison), (metric, comparison), "{text}");
            assert!((parsed.bound - bound).abs() < 1e-6, "{text}: {}", parsed.bound);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("", "comparison"),
            ("p99", "comparison"),
            ("p99=2ms", "comparison"),
            ("p98>2ms", "the figures are p50"),
            ("lag_errors>2", "the figures are p50"),
            (">2ms", "the figures are p50"),
            ("p99>2", "ns, us, ms or s"),
            ("p99>", "ns, us, ms or s"),
            ("p99>ms", "a number"),
            ("p99>1.2.3ms", "a number"),
            ("p99>-2ms", "ns, us, ms or s"),
            ("p99=>2ms", "the figures are p50"),
            ("p99>>2ms", "ns, us, ms or s"),
            ("errors>1ms", "k or M"),
            ("throughput<50k/s", "k or M"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn what_the_run_does_not_measure_is_refused() {
        let neither = Measures { open_loop: false, server_cpu: false };
        let both = Measures { open_loop: true, server_cpu: true };
        for (text, needed) in
            [("cpu>5us", "--pid"), ("response_p99>1ms", "--rate"), ("lag_max>1ms", "--rate")]
        {
            assert!(condition(text).check(neither).unwrap_err().contains(needed), "{text}");
            assert_eq!(condition(text).check(both), Ok(()));
        }
        for text in ["p99>1ms", "service_p50>1ms", "errors>0"] {
            assert_eq!(condition(text).check(neither), Ok(()));
        }
    }
}
