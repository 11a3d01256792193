//! What is made of several figures of one kind: their median, how sure it is, and how it compares to another server's.

use rand::Rng;
use rand::rngs::SmallRng;
use serde::Serialize;

/// How often the bootstrap draws anew.
const RESAMPLES: usize = 2000;

/// Of these, what lies outside of the interval on each side: 2.5 %.
const TAIL: usize = RESAMPLES / 40;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub median: f64,
    pub low95: f64,
    pub high95: f64,
}

impl Estimate {
    /// None of none. The interval is that of a bootstrap: of medians of as many values, drawn from these with repetition.
    pub fn of(values: &[f64], random: &mut SmallRng) -> Option<Estimate> {
        let median = median(&mut values.to_vec())?;
        let mut drawn = vec![0.0; values.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                drawn.fill_with(|| values[random.random_range(0..values.len())]);
                self::median(&mut drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        Some(Estimate { median, low95: medians[TAIL], high95: medians[RESAMPLES - 1 - TAIL] })
    }

    /// How values compare to those of another, pair by pair; none if there is nothing to compare to.
    pub fn of_ratios(own: &[f64], others: &[f64], random: &mut SmallRng) -> Option<Estimate> {
        let is_comparable = own.len() == others.len() && others.iter().all(|&other| other > 0.0);
        let ratios: Vec<f64> = own.iter().zip(others).map(|(own, other)| own / other).collect();
        is_comparable.then(|| Estimate::of(&ratios, random)).flatten()
    }
}

/// Sorts the values; none of none.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn random() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!(Estimate::of(&[], &mut random()), None);
        let alone = Estimate { median: 5.0, low95: 5.0, high95: 5.0 };
        assert_eq!(Estimate::of(&[5.0], &mut random()), Some(alone));
    }

    #[test]
    fn the_interval_holds_the_median_of_what_was_drawn_from_in_95_of_100_cases() {
        let mut random = random();
        let cases = 300;
        let held = (0..cases).filter(|_| {
            // Of even chances from 0 to 1, whose median is a half.
            let values: Vec<f64> = (0..25).map(|_| random.random()).collect();
            let estimate = Estimate::of(&values, &mut random).unwrap();
            assert!(estimate.low95 <= estimate.median && estimate.median <= estimate.high95);
            (estimate.low95..=estimate.high95).contains(&0.5)
        });
        let held = held.count();
        assert!((cases * 9 / 10..cases).contains(&held), "{held} of {cases}");
    }

    #[test]
    fn the_same_seed_is_the_same_interval() {
        let values: Vec<f64> = (0..15).map(|value| f64::from(value * value)).collect();
        assert_eq!(Estimate::of(&values, &mut random()), Estimate::of(&values, &mut random()));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // Both drift by far more than they differ.
        let (own, others) = ([11.0, 220.0, 3.3, 44.0, 55.0], [10.0, 200.0, 3.0, 40.0, 50.0]);
        let ratio = Estimate::of_ratios(&own, &others, &mut random()).unwrap();
        for figure in [ratio.median, ratio.low95, ratio.high95] {
            assert!((figure - 1.1).abs() < 1e-9, "{ratio:?}");
        }
        assert_eq!(Estimate::of_ratios(&own, &[10.0, 0.0, 3.0, 40.0, 50.0], &mut random()), None);
        assert_eq!(Estimate::of_ratios(&own, &[1.0], &mut random()), None);
    }
}
