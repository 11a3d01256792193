//! Values that are tried one after the other: `10k,20k,50k`, or `10k..50k:5`, five of them evenly apart.

/// More than this would be a slip of the pen.
const STEPS_MAX: usize = 1000;

/// Reads a list of values, in whichever order; they come out in ascending order, each once.
pub fn steps(text: &str, value: impl Fn(&str) -> Result<f64, String>) -> Result<Vec<f64>, String> {
    let mut values = match text.split_once("..") {
        Some((from, rest)) => {
            let (to, count) = rest.split_once(':').ok_or("expected FROM..TO:STEPS, such as 10k..50k:5")?;
            let count: usize = count.parse().map_err(|_| format!("{count:?} is not a number of steps"))?;
            if !(2..=STEPS_MAX).contains(&count) {
                return Err(format!("the number of steps must be from 2 to {STEPS_MAX}"));
            }
            let (from, to) = (value(from)?, value(to)?);
            if from >= to {
                return Err("the first step must be less than the last".into());
            }
            let last = (count - 1) as f64;
            (0..count).map(|index| from + (to - from) * index as f64 / last).collect()
        }
        None => text.split(',').map(value).collect::<Result<Vec<_>, _>>()?,
    };
    values.sort_by(f64::total_cmp);
    values.dedup();
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::rate;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(steps("50k,10k,20k,10000", rate), Ok(vec![10e3, 20e3, 50e3]));
        assert_eq!(steps("700", rate), Ok(vec![700.0]));
        assert_eq!(steps("10k..50k:5", rate), Ok(vec![10e3, 20e3, 30e3, 40e3, 50e3]));
        for (text, reason) in [
            ("", "expected a rate"),
            ("10k,", "expected a rate"),
            ("10k..50k", "FROM..TO:STEPS"),
            ("10k..50k:1", "from 2"),
            ("10k..50k:x", "not a number of steps"),
            ("50k..10k:5", "less than"),
            ("..10k:5", "expected a rate"),
        ] {
            let error = steps(text, rate).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
