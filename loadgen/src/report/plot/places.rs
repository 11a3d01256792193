//! Where values lie on an axis, and where it is marked.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// The quantile beyond which a plot says no more.
const QUANTILE_MAX: f64 = 0.999_999;

/// How values get their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Around the values, wherever they lie.
    Span,
    /// Of things that are numbered, with marks at whole numbers.
    Numbered,
    Log,
    /// Of values from 0 to 1: each nine as wide as the last.
    Quantile,
}

impl Scale {
    /// Whether a value has a place.
    pub fn has(self, value: f64) -> bool {
        value.is_finite() && (self != Scale::Log || value > 0.0)
    }

    pub fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear | Scale::Span | Scale::Numbered => value,
            Scale::Log => value.log10(),
            Scale::Quantile => -(1.0 - value.min(QUANTILE_MAX)).log10(),
        }
    }

    pub fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear | Scale::Span | Scale::Numbered => place,
            Scale::Log => 10_f64.powf(place),
            Scale::Quantile => 1.0 - 10_f64.powf(-place),
        }
    }
}

/// What an axis spans, and where it is marked.
pub struct Places {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Places {
    /// With room for so many marks.
    pub fn new(scale: Scale, places: impl Iterator<Item = f64>, marks_max: usize) -> Places {
        let (low, high) = places.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // Both ends are marked, and the last one may lie beyond the values.
        let parts = marks_max.saturating_sub(2).max(1) as f64;
        match scale {
            Scale::Linear => {
                let step = step(high, parts);
                let count = (high / step).ceil().max(1.0) as usize;
                let marks = (0..=count).map(|index| index as f64 * step).collect();
                Places { range: 0.0..count as f64 * step, marks }
            }
            Scale::Span => {
                // Values that are all alike lie in the middle.
                let around = if low < high { 0.0 } else { (0.01 * high.abs()).max(0.005) };
                let (low, high) = (low - around, high + around);
                let step = step(high - low, parts);
                let from = (low / step).floor();
                let count = ((high / step).ceil() - from).max(1.0) as usize;
                let marks = (0..=count).map(|index| (from + index as f64) * step).collect();
                Places { range: from * step..(from + count as f64) * step, marks }
            }
            Scale::Numbered => {
                let step = step(high - low, parts).max(1.0);
                let count = ((high - low) / step).floor() as usize;
                let marks = (0..=count).map(|index| low.round() + index as f64 * step).collect();
                Places { range: low - 0.5..high + 0.5, marks }
            }
            Scale::Log => Places::log(low, high, marks_max),
            Scale::Quantile => {
                // The logarithm of a round quantile is a little less or more than its nines.
                let high = (high * 1e6).round().max(1e6) / 1e6;
                let nines: Vec<f64> = (0..=high as usize).map(|nine| nine as f64).collect();
                let mut marks = thinned(&nines, marks_max);
                // It lies close to zero: only where there is plenty of room.
                if marks_max >= 8 && marks.len() < marks_max {
                    marks.push(Scale::Quantile.place(0.5));
                }
                Places { range: 0.0..high, marks }
            }
        }
    }

    fn log(low: f64, high: f64, marks_max: usize) -> Places {
        let factors: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (low.floor() as i32 - 1)..=(high.ceil() as i32 + 1);
        let all: Vec<f64> = decades
            .flat_map(|decade| factors.iter().map(move |factor| f64::from(decade) + factor.log10()))
            .collect();
        // From one mark to another around all that there is.
        let from = all.iter().rposition(|&mark| mark <= low).unwrap_or(0);
        let to = all.iter().position(|&mark| mark >= high && mark > all[from]).unwrap_or(all.len() - 1);
        let marks = &all[from..=to];
        // Powers of ten are easier to read than every second one of 1, 2 and 5.
        let decades: Vec<f64> = marks.iter().copied().filter(|mark| mark.fract() == 0.0).collect();
        let fits = marks.len() <= marks_max || decades.len() < 2;
        Places { range: all[from]..all[to], marks: thinned(if fits { marks } else { &decades }, marks_max) }
    }
}

/// Every second of them, or every third, until no more are left than there is room for.
fn thinned(marks: &[f64], marks_max: usize) -> Vec<f64> {
    marks.iter().copied().step_by(marks.len().div_ceil(marks_max).max(1)).collect()
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (place - self.range.start) / (self.range.end - self.range.start);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.marks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// A round distance of about one of so many parts: 1, 2 or 5 times a power of ten.
fn step(high: f64, parts: f64) -> f64 {
    let fair = (high / parts).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(fair.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= fair).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_marks(scale: Scale, marks_max: usize, values: &[f64], expected: &[f64]) {
        let places = values.iter().map(|&value| scale.place(value));
        let Places { range, mut marks } = Places::new(scale, places, marks_max);
        marks.sort_by(f64::total_cmp);
        let marked: Vec<f64> = marks.iter().map(|&mark| scale.value(mark)).collect();
        assert_eq!(marked.len(), expected.len(), "{scale:?} {values:?}: {marked:?}");
        for (mark, expected) in marked.iter().zip(expected) {
            assert!((mark - expected).abs() < 1e-9 * expected.max(1.0), "{scale:?} {values:?}: {marked:?}");
        }
        assert!(marks.iter().all(|mark| (range.start..=range.end).contains(mark)));
    }

    #[test]
    fn axes_are_marked_at_round_values() {
        assert_marks(Scale::Linear, 8, &[3.0, 5.0], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_marks(Scale::Linear, 8, &[49_900.0], &[0.0, 10e3, 20e3, 30e3, 40e3, 50e3]);
        assert_marks(Scale::Span, 8, &[-0.012, 0.031], &[-0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04]);
        assert_marks(
            Scale::Span,
            8,
            &[421.0, 433.0],
            &[420.0, 422.0, 424.0, 426.0, 428.0, 430.0, 432.0, 434.0],
        );
        assert_marks(Scale::Span, 8, &[0.0], &[-0.006, -0.004, -0.002, 0.0, 0.002, 0.004, 0.006]);
        assert_marks(Scale::Log, 8, &[12.0, 90.0], &[10.0, 20.0, 50.0, 100.0]);
        assert_marks(Scale::Log, 8, &[12.0, 90_000.0], &[10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        assert_marks(Scale::Log, 8, &[10.0], &[10.0, 20.0]);
        assert_marks(Scale::Log, 8, &[17.0, 4_500.0], &[10.0, 100.0, 1000.0]);
        assert_marks(Scale::Quantile, 8, &[0.0, 0.999], &[0.0, 0.5, 0.9, 0.99, 0.999]);
    }

    #[test]
    fn things_that_are_numbered_are_marked_at_whole_numbers_that_there_are() {
        assert_marks(Scale::Numbered, 8, &[1.0, 2.0], &[1.0, 2.0]);
        assert_marks(Scale::Numbered, 8, &[1.0, 40.0], &[1.0, 11.0, 21.0, 31.0]);
        assert_marks(Scale::Numbered, 5, &[1.0, 5.0], &[1.0, 3.0, 5.0]);
    }

    #[test]
    fn no_more_marks_are_made_than_there_is_room_for() {
        assert_marks(Scale::Quantile, 5, &[0.0, 0.999_999], &[0.0, 0.99, 0.9999, 0.999_999]);
        assert_marks(Scale::Linear, 5, &[49_900.0], &[0.0, 20e3, 40e3, 60e3]);
        for marks_max in [3, 5, 8] {
            for high in [2.0, 3.0, 49_900.0, 1e9] {
                for scale in [Scale::Linear, Scale::Span, Scale::Numbered, Scale::Log] {
                    let places = [1.0, high].map(|value| scale.place(value));
                    let marks = Places::new(scale, places.into_iter(), marks_max).marks;
                    assert!(marks.len() <= marks_max, "{scale:?} {high} {marks_max}: {marks:?}");
                }
            }
        }
    }
}
