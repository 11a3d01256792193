//! Measurements that are each of a difference: how they hang together, and what chance alone makes of them.
//!
//! A value says how far one entry lies above another one, its base, or above a ground of which nothing is known. Whoever compares each
//! commit with the one before it has a chain, whose noise adds up; whoever compares all with one release has a star, whose noise does
//! not; a count is measured by itself, which is a star as well. If nothing changed, then
//!
//! - what was measured against an entry inside of the stretch that is looked at is as likely up as down, because base and head could have
//!   changed places: its sign may be drawn anew;
//! - those that were measured against one and the same ground outside of it could have come in any order.
//!
//! Both together leave the distribution of the noise as it is, whatever it is. So the tests that are built on them need no
//! normal distribution and no level of noise, and do not take the wandering of a chain for a change (randomisation tests: Fisher, The Design of
//! Experiments, 1935).

use std::collections::BTreeMap;
use std::ops::Range;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub value: f64,
    /// The earlier entry against which it was measured; none: the ground.
    pub base: Option<usize>,
}

/// Neighbouring entries, seen without those around them.
pub struct Stretch {
    pub range: Range<usize>,
    /// Within it; none: a ground.
    bases: Vec<Option<usize>>,
    /// Those of the same ground.
    grounds: Vec<Vec<usize>>,
    /// As they were measured, those of one ground around their mean.
    pub values: Vec<f64>,
    /// The largest that was measured: what is far below is rounding.
    scale: f64,
}

impl Stretch {
    pub fn of(links: &[Link], range: Range<usize>) -> Stretch {
        let mut by_ground = BTreeMap::<Option<usize>, Vec<usize>>::new();
        let mut bases = Vec::with_capacity(range.len());
        for (index, link) in links[range.clone()].iter().enumerate() {
            let inside = link.base.and_then(|base| base.checked_sub(range.start));
            if inside.is_none() {
                by_ground.entry(link.base).or_default().push(index);
            }
            bases.push(inside);
        }
        let raw = links[range.clone()].iter().map(|link| link.value);
        let scale = raw.clone().fold(0.0, |most, value| value.abs().max(most));
        let mut stretch =
            Stretch { range, bases, grounds: by_ground.into_values().collect(), values: Vec::new(), scale };
        stretch.values = stretch.centred(raw.collect());
        stretch
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// With those of one ground around their mean: how high it lies nobody knows.
    fn centred(&self, mut values: Vec<f64>) -> Vec<f64> {
        for members in &self.grounds {
            let mean = members.iter().map(|&at| values[at]).sum::<f64>() / members.len() as f64;
            members.iter().for_each(|&at| values[at] -= mean);
        }
        values
    }

    /// How high each entry lies.
    pub fn levels(&self, values: &[f64]) -> Vec<f64> {
        let mut levels = Vec::with_capacity(values.len());
        for (value, base) in values.iter().zip(&self.bases) {
            let ground = base.map_or(0.0, |base: usize| levels[base]);
            levels.push(ground + value);
        }
        levels
    }

    /// What could have been measured as well, if nothing changed.
    pub fn redraw(&self, values: &mut [f64], random: &mut SmallRng) {
        let mut pool = Vec::new();
        for members in &self.grounds {
            pool.clear();
            pool.extend(members.iter().map(|&at| values[at]));
            pool.shuffle(random);
            members.iter().zip(&pool).for_each(|(&at, &value)| values[at] = value);
        }
        for (value, base) in values.iter_mut().zip(&self.bases) {
            if base.is_some() && random.random() {
                *value = -*value;
            }
        }
    }

    /// What would be measured, without noise, of levels of this height.
    pub fn seen(&self, height: impl Fn(usize) -> f64) -> Vec<f64> {
        let height = |index: usize| height(self.range.start + index);
        let seen = self.bases.iter().enumerate();
        self.centred(
            seen.map(|(index, base)| height(index) - base.map_or(0.0, &height)).collect::<Vec<f64>>(),
        )
    }

    /// The square sum of what these do not explain, by least squares.
    pub fn unexplained(&self, all_seen: Vec<Vec<f64>>) -> f64 {
        let mut rest = self.values.clone();
        let mut directions: Vec<Vec<f64>> = Vec::new();
        for mut seen in all_seen {
            let whole = dot(&seen, &seen);
            for direction in &directions {
                take_away(&mut seen, direction);
            }
            let square = dot(&seen, &seen);
            // One that the others contain explains nothing.
            if square > 1e-12 * whole {
                let length = square.sqrt();
                seen.iter_mut().for_each(|part| *part /= length);
                take_away(&mut rest, &seen);
                directions.push(seen);
            }
        }
        let rounding = 1e-9 * self.scale;
        dot(&rest, &rest).max(rounding * rounding)
    }

    /// How many figures the grounds take.
    pub fn grounds(&self) -> usize {
        self.grounds.len()
    }
}

pub fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// Takes away what lies in a direction of length 1.
fn take_away(values: &mut [f64], direction: &[f64]) {
    let part = dot(values, direction);
    values.iter_mut().zip(direction).for_each(|(value, direction)| *value -= part * direction);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn links(links: &[(f64, Option<usize>)]) -> Vec<Link> {
        links.iter().map(|&(value, base)| Link { value, base }).collect()
    }

    #[test]
    fn levels_are_built_on_those_of_the_base() {
        let links = links(&[(3.0, None), (1.0, Some(0)), (0.5, Some(1)), (5.0, None), (0.25, Some(1))]);
        let stretch = Stretch::of(&links, 0..5);
        // The two that are measured against the ground lie around it.
        assert_eq!(stretch.levels(&stretch.values), [-1.0, 0.0, 0.5, 1.0, 0.25]);
        // Of the first ones nothing is known here: the last two stand on one ground.
        let stretch = Stretch::of(&links, 2..5);
        assert_eq!(stretch.levels(&stretch.values), [0.125, 0.0, -0.125]);
        assert_eq!(stretch.grounds(), 2);
    }

    #[test]
    fn what_is_drawn_anew_keeps_its_size_and_its_ground() {
        let links = links(&[(1.0, None), (2.0, Some(0)), (4.0, None), (8.0, Some(1)), (16.0, None)]);
        let stretch = Stretch::of(&links, 0..5);
        let mut random = SmallRng::seed_from_u64(1);
        let mut values = stretch.values.clone();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            stretch.redraw(&mut values, &mut random);
            assert_eq!((values[1].abs(), values[3].abs()), (2.0, 8.0));
            let mut ground = [values[0], values[2], values[4]];
            ground.sort_by(f64::total_cmp);
            assert_eq!(ground, [-6.0, -3.0, 9.0]);
            seen.insert(format!("{values:?}"));
        }
        // Six orders, and two signs of either of two.
        assert_eq!(seen.len(), 24);
    }

    #[test]
    fn a_step_is_seen_once_in_a_chain_and_ever_after_on_a_ground() {
        let step = |index| f64::from(index >= 2);
        let chain = links(&[(0.0, None), (0.0, Some(0)), (7.0, Some(1)), (0.0, Some(2))]);
        let stretch = Stretch::of(&chain, 0..4);
        let seen = stretch.seen(step);
        assert_eq!(seen, [0.0, 0.0, 1.0, 0.0]);
        assert!(stretch.unexplained(vec![seen]) < 1e-9);
        let star = links(&[(1.0, None), (1.0, None), (8.0, None), (8.0, None)]);
        let stretch = Stretch::of(&star, 0..4);
        assert_eq!(stretch.seen(step), [-0.5, -0.5, 0.5, 0.5]);
        assert!(stretch.unexplained(vec![stretch.seen(step)]) < 1e-9);
        assert!((stretch.unexplained(vec![]) - 49.0).abs() < 1e-9);
    }
}
