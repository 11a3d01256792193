//! Where a series changed: in a step, or creeping over many commits.
//!
//! Two tests look at a stretch. One takes the largest difference of means before and after a point (the CUSUM statistic of binary
//! segmentation: Scott and Knott 1974, Vostrikova 1981), or inside and outside of a window, so that what was made good again is seen
//! (circular binary segmentation: Olshen and others 2004). The other counts how many of all pairs of entries rose and how many fell
//! (Mann 1945, Kendall 1975). How large either gets by chance is found by drawing the noise anew, as E-divisive does by
//! permutation (Matteson and James 2014), here in a way that is right for chains too (`chain`). Drawing stops early where it is plain that
//! chance suffices (Besag and Clifford 1991).
//!
//! Where one of them says that something changed, the stretch is cut at that point and both parts are looked at in the same way. Whether the steps
//! that come of it or one slope says it better is decided by the Bayesian information criterion (Schwarz 1978), and so is which of
//! the steps are needed: a creep is no staircase.
//!
//! The error rate of a part is that of the whole by its share of the entries. So where nothing changed, in a whole series or in a part of
//! one, no more is found by chance than asked for.

use std::ops::Range;

use rand::rngs::SmallRng;

use super::chain::{Link, Stretch, dot};

/// Entries on either side of a step.
const SIDE_MIN: usize = 2;

/// How many beginnings and ends of a window are tried, evenly apart.
const WINDOW_PLACES: usize = 16;

/// What takes fewer commits is no creep.
const CREEP_MIN: usize = 5;

/// How many beginnings and ends of a creep are tried, evenly apart.
const CREEP_PLACES: usize = 24;

/// Drawing stops when chance has done as much so often.
const ENOUGH: usize = 20;

/// So many draws for each that is expected to do as much, at a significance.
const DRAWS_PER_EXPECTED: f64 = 10.0;

/// What is below one in so many cannot be told.
const DRAWS_MAX: f64 = 1e6;

/// Draws for an interval, of 95 %.
const INTERVAL_DRAWS: usize = 1000;
const INTERVAL: f64 = 0.95;

/// How levels changed, by their places in the series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// From here on.
    Step { at: usize },
    /// Evenly from one, which has nothing of it yet, to another, which has all of it.
    Creep { from: usize, to: usize },
}

impl Shape {
    /// The part of the change that is there.
    pub fn height(self, index: usize) -> f64 {
        match self {
            Shape::Step { at } => f64::from(index >= at),
            Shape::Creep { from, to } => {
                let since = index.saturating_sub(from) as f64;
                (since / (to - from) as f64).min(1.0)
            }
        }
    }

    /// The last entry that has nothing of it, and the first that has all of it.
    pub fn ends(self) -> (usize, usize) {
        match self {
            Shape::Step { at } => (at - 1, at),
            Shape::Creep { from, to } => (from, to),
        }
    }

    /// How many figures say it: how much, and where, of which a creep has two unless it is all of the range.
    fn figures(self, range: &Range<usize>) -> usize {
        match self {
            Shape::Step { .. } => 2,
            Shape::Creep { from, to } if from == range.start && to + 1 == range.end => 2,
            Shape::Creep { .. } => 3,
        }
    }
}

/// A change, in the units of the links.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub shape: Shape,
    pub size: f64,
    /// Half of its 95 % interval.
    pub half_width: f64,
    /// How often chance alone does as much, of both tests.
    pub p: f64,
    /// The entries around it up to its neighbours.
    pub around: Range<usize>,
}

/// All changes of a series, in order.
pub fn find(links: &[Link], significance: f64, random: &mut SmallRng) -> Vec<Change> {
    let search = Search { links, share: significance / links.len().max(1) as f64 };
    let shapes = search.shapes(0..links.len(), random);
    let begin = |index: usize| match index.checked_sub(1) {
        Some(before) => {
            let (shape, _): (Shape, f64) = shapes[before];
            shape.ends().1
        }
        None => 0,
    };
    let end = |index: usize| shapes.get(index + 1).map_or(links.len(), |(shape, _)| shape.ends().0 + 1);
    let changes = shapes.iter().enumerate().map(|(index, &(shape, p))| {
        let around = begin(index)..end(index);
        let (size, half_width) = estimate(&Stretch::of(links, around.clone()), shape, random);
        Change { shape, size, half_width, p, around }
    });
    changes.collect()
}

struct Search<'a> {
    links: &'a [Link],
    /// The significance that an entry has.
    share: f64,
}

impl Search<'_> {
    /// What says best how a range changed, with the significance of the test that found it.
    fn shapes(&self, range: Range<usize>, random: &mut SmallRng) -> Vec<(Shape, f64)> {
        if range.len() < 2 * SIDE_MIN {
            return Vec::new();
        }
        let stretch = Stretch::of(self.links, range.clone());
        let significance = self.share * range.len() as f64;
        let each = significance / 2.0;
        let every = range.len().div_ceil(WINDOW_PLACES);
        let step = chance(&stretch, |levels| largest_step(levels, every).1, each, random);
        let trend = chance(&stretch, |levels| rises(levels).unsigned_abs() as f64, each, random);
        let p = (2.0 * step.min(trend)).min(1.0);
        if p > significance {
            return Vec::new();
        }
        let at = range.start + largest_step(&stretch.levels(&stretch.values), 1).0;
        let mut steps = self.shapes(range.start..at, random);
        steps.push((Shape::Step { at }, p));
        steps.extend(self.shapes(at..range.end, random));
        let steps = without_idle(&stretch, steps);
        let Some((from, to)) = best_creep(&stretch) else { return steps };
        let mut creep = self.shapes(range.start..from, random);
        creep.push((Shape::Creep { from, to }, p));
        creep.extend(self.shapes(to + 1..range.end, random));
        if cost(&stretch, &creep) < cost(&stretch, &steps) { creep } else { steps }
    }
}

/// How often a statistic of the levels is at least as large by chance. More than `significance` is told roughly.
fn chance(
    stretch: &Stretch,
    statistic: impl Fn(&[f64]) -> f64,
    significance: f64,
    random: &mut SmallRng,
) -> f64 {
    let observed = statistic(&stretch.levels(&stretch.values));
    // What is equal but for rounding is equal.
    let observed = observed - 1e-9 * observed.abs();
    let draws = (DRAWS_PER_EXPECTED / significance).clamp(1000.0, DRAWS_MAX) as usize;
    let mut values = stretch.values.clone();
    let mut as_large = 0;
    for drawn in 1..=draws {
        stretch.redraw(&mut values, random);
        as_large += usize::from(statistic(&stretch.levels(&values)) >= observed);
        if as_large == ENOUGH {
            return as_large as f64 / drawn as f64;
        }
    }
    (as_large + 1) as f64 / (draws + 1) as f64
}

/// How far the means inside and outside of a window differ, beside what chance may do; a step is a window that has an end in common
/// with the stretch. Windows inside are tried from every so many entries to every so many. Returns a point at which to cut as well.
fn largest_step(levels: &[f64], every: usize) -> (usize, f64) {
    let count = levels.len() as f64;
    let mean = levels.iter().sum::<f64>() / count;
    let sums = || {
        levels.iter().scan(0.0, |sum, level| {
            *sum += level - mean;
            Some(*sum)
        })
    };
    // A sum over a window, and how many entries it has.
    let size = |sum: f64, inside: usize| {
        let is_allowed = inside >= SIDE_MIN && inside + SIDE_MIN <= levels.len();
        let inside = inside as f64;
        if is_allowed { sum.abs() / (inside * (count - inside) / count).sqrt() } else { 0.0 }
    };
    let mut largest = (SIDE_MIN, 0.0);
    let mut places: Vec<(usize, f64)> = Vec::with_capacity(levels.len() / every + 1);
    for (index, sum) in sums().enumerate() {
        let end = index + 1;
        let step = size(sum, end);
        if step > largest.1 {
            largest = (end, step);
        }
        if end % every == 0 && end + SIDE_MIN <= levels.len() {
            for &(from, before) in &places {
                let window = size(sum - before, end - from);
                if window > largest.1 {
                    largest = (from, window);
                }
            }
            if end >= SIDE_MIN {
                places.push((end, sum));
            }
        }
    }
    largest
}

/// Of all pairs of entries, how many rise more than fall: Kendall's S.
fn rises(levels: &[f64]) -> i64 {
    let mut sorted = levels.to_vec();
    let falls = sort_counting_falls(&mut sorted);
    let pairs = |count: usize| (count * (count.saturating_sub(1)) / 2) as i64;
    let ties: i64 = sorted.chunk_by(|one, next| one == next).map(|equal| pairs(equal.len())).sum();
    pairs(levels.len()) - ties - 2 * falls
}

/// So few are sorted where they are.
const FEW: usize = 16;

/// Sorts by merging, and counts the pairs that stood in falling order.
fn sort_counting_falls(values: &mut [f64]) -> i64 {
    let mut falls = 0;
    if values.len() <= FEW {
        for end in 1..values.len() {
            let mut at = end;
            while at > 0 && values[at - 1] > values[at] {
                values.swap(at - 1, at);
                at -= 1;
            }
            falls += (end - at) as i64;
        }
        return falls;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    falls += sort_counting_falls(left) + sort_counting_falls(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut of_left, mut of_right) = (0, 0);
    while of_left < left.len() && of_right < right.len() {
        if left[of_left] <= right[of_right] {
            merged.push(left[of_left]);
            of_left += 1;
        } else {
            // All that is left of the left half is larger.
            falls += (left.len() - of_left) as i64;
            merged.push(right[of_right]);
            of_right += 1;
        }
    }
    merged.extend_from_slice(&left[of_left..]);
    merged.extend_from_slice(&right[of_right..]);
    values.copy_from_slice(&merged);
    falls
}

/// From where to where a creep says it best.
fn best_creep(stretch: &Stretch) -> Option<(usize, usize)> {
    let (first, last) = (stretch.range.start, stretch.range.end - 1);
    let apart = ((last - first) as f64 / CREEP_PLACES as f64).max(1.0);
    let mut places: Vec<usize> =
        (0..=CREEP_PLACES).map(|place| first + (place as f64 * apart).round() as usize).collect();
    places.retain(|&place| place <= last);
    places.dedup();
    let pairs = places.iter().flat_map(|&from| places.iter().map(move |&to| (from, to)));
    let creeps = pairs.filter(|&(from, to)| to >= from + CREEP_MIN).map(|(from, to)| {
        let shape = Shape::Creep { from, to };
        (cost(stretch, &[(shape, 0.0)]), (from, to))
    });
    creeps.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, ends)| ends)
}

/// Without those that say no more than the others: of the two ends of a window one may have been the end of nothing. One stays.
fn without_idle(stretch: &Stretch, mut shapes: Vec<(Shape, f64)>) -> Vec<(Shape, f64)> {
    while shapes.len() > 1 {
        let without = |index: usize| {
            let mut rest = shapes.clone();
            rest.remove(index);
            (cost(stretch, &rest), rest)
        };
        let best = (0..shapes.len()).map(without).min_by(|one, other| one.0.total_cmp(&other.0));
        match best {
            Some((less, rest)) if less < cost(stretch, &shapes) => shapes = rest,
            _ => break,
        }
    }
    shapes
}

/// By the Bayesian information criterion: what shapes do not explain, and how many figures they take.
fn cost(stretch: &Stretch, shapes: &[(Shape, f64)]) -> f64 {
    let count = stretch.len() as f64;
    let all_seen = shapes.iter().map(|(shape, _)| stretch.seen(|index| shape.height(index))).collect();
    let figures: usize = shapes.iter().map(|(shape, _)| shape.figures(&stretch.range)).sum();
    count * (stretch.unexplained(all_seen) / count).ln() + figures as f64 * count.ln()
}

/// How large a change is by least squares, and half of its interval: what the noise that it leaves would make of nothing.
fn estimate(stretch: &Stretch, shape: Shape, random: &mut SmallRng) -> (f64, f64) {
    let seen = stretch.seen(|index| shape.height(index));
    let square = dot(&seen, &seen);
    if square == 0.0 {
        return (0.0, f64::INFINITY);
    }
    let size = dot(&seen, &stretch.values) / square;
    // What is left is smaller than the noise was, by what was taken out of it.
    let free = stretch.len().saturating_sub(stretch.grounds() + 1).max(1);
    let grow = (stretch.len() as f64 / free as f64).sqrt();
    let mut noise: Vec<f64> =
        stretch.values.iter().zip(&seen).map(|(value, seen)| grow * (value - size * seen)).collect();
    let mut sizes: Vec<f64> = (0..INTERVAL_DRAWS)
        .map(|_| {
            stretch.redraw(&mut noise, random);
            (dot(&seen, &noise) / square).abs()
        })
        .collect();
    sizes.sort_by(f64::total_cmp);
    (size, sizes[(INTERVAL_DRAWS as f64 * INTERVAL) as usize - 1])
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    const SIGNIFICANCE: f64 = 0.01;

    /// How entries are measured.
    #[derive(Clone, Copy)]
    enum Against {
        One,
        EachTheLast,
        /// Some one release, some the last one, some an earlier one.
        Mixed,
    }

    /// Levels, as they are measured with noise.
    fn measured(levels: &[f64], noise: f64, against: Against, random: &mut SmallRng) -> Vec<Link> {
        let links = levels.iter().enumerate().map(|(index, level)| {
            let base = match (against, index) {
                (Against::One, _) | (_, 0) => None,
                (Against::EachTheLast, _) => Some(index - 1),
                (Against::Mixed, _) => match index % 3 {
                    0 => None,
                    1 => Some(index - 1),
                    _ => Some(index / 2),
                },
            };
            let error: f64 = StandardNormal.sample(random);
            Link { value: level - base.map_or(0.0, |base| levels[base]) + noise * error, base }
        });
        links.collect()
    }

    fn found(links: &[Link], seed: u64) -> Vec<Change> {
        find(links, SIGNIFICANCE, &mut SmallRng::seed_from_u64(seed))
    }

    fn flat(count: usize) -> Vec<f64> {
        vec![0.0; count]
    }

    /// In how many of so many series of nothing but noise something is found.
    fn false_alarms(series: u64, against: Against) -> usize {
        let alarms = (0..series).filter(|&seed| {
            let links = measured(&flat(40), 0.005, against, &mut SmallRng::seed_from_u64(seed));
            !found(&links, seed).is_empty()
        });
        alarms.count()
    }

    #[test]
    fn in_noise_hardly_anything_is_found_however_it_was_measured() {
        // One or so of these is expected at most; more than five come by chance in 1 of 500 cases, and the seeds are fixed.
        for against in [Against::One, Against::EachTheLast, Against::Mixed] {
            let alarms = false_alarms(120, against);
            assert!(alarms <= 5, "{alarms} of 120");
        }
    }

    #[test]
    fn a_step_in_noise_of_half_its_size_is_found_where_it_is() {
        let mut found_ones = 0;
        let mut near = 0;
        let mut held = 0;
        for seed in 0..50 {
            let levels = [flat(30), vec![0.01; 30]].concat();
            let links = measured(&levels, 0.005, Against::One, &mut SmallRng::seed_from_u64(seed));
            if let [Change { shape: Shape::Step { at }, size, half_width, .. }] = found(&links, seed)[..] {
                found_ones += 1;
                near += usize::from(at.abs_diff(30) <= 3);
                held += usize::from((size - 0.01).abs() <= half_width);
                assert!(half_width < 0.01, "{half_width}");
            }
        }
        assert!(found_ones >= 47 && near >= 42 && held >= 42, "{found_ones} {near} {held} of 50");
    }

    #[test]
    fn a_creep_is_told_as_one_and_no_commit_of_it_as_a_step() {
        let levels: Vec<f64> = (0..41).map(|index| f64::from(index) * 0.001).collect();
        let mut creeps = 0;
        let mut held = 0;
        for seed in 0..50 {
            let links = measured(&levels, 0.005, Against::One, &mut SmallRng::seed_from_u64(seed));
            if let [Change { shape: Shape::Creep { from, to }, size, half_width, .. }] =
                found(&links, seed)[..]
            {
                creeps += 1;
                assert!(to - from >= 20, "{from} {to}");
                held += usize::from((size - (levels[to] - levels[from])).abs() <= half_width);
            }
        }
        assert!(creeps >= 45 && held >= 40, "{creeps} {held} of 50");
    }

    #[test]
    fn a_chain_that_drifts_is_told_from_one_that_wanders() {
        // Against the last one, noise adds up: it takes a creep that is large beside it.
        let levels: Vec<f64> = (0..60).map(|index| f64::from(index) * 0.002).collect();
        let found_ones = (0..20).filter(|&seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            let links = measured(&levels, 0.002, Against::EachTheLast, &mut random);
            matches!(found(&links, seed)[..], [Change { shape: Shape::Creep { .. }, size, .. }] if size > 0.05)
        });
        let found_ones = found_ones.count();
        assert!(found_ones >= 18, "{found_ones} of 20");
    }

    #[test]
    fn counts_without_noise_are_told_exactly() {
        let counts = [vec![421.0; 20], vec![433.0; 20], vec![430.0; 20]].concat();
        let links: Vec<_> = counts.iter().map(|&value| Link { value, base: None }).collect();
        let changes = found(&links, 1);
        let told: Vec<_> = changes.iter().map(|change| (change.shape, change.size)).collect();
        assert_eq!(told, [(Shape::Step { at: 20 }, 12.0), (Shape::Step { at: 40 }, -3.0)]);
        assert!(changes.iter().all(|change| change.half_width < 1e-9), "{changes:?}");
        assert_eq!(found(&links[..20], 1), []);
        // The very last entry alone could be anything; a few more and it is one.
        assert_eq!(found(&links[..21], 1), []);
        assert_eq!(found(&links[..25], 1).len(), 1);
    }

    #[test]
    fn steps_up_and_down_are_all_found() {
        let levels = [flat(40), vec![0.03; 40], vec![0.01; 40]].concat();
        let links = measured(&levels, 0.005, Against::One, &mut SmallRng::seed_from_u64(3));
        let told: Vec<_> = found(&links, 3).iter().map(|change| change.shape).collect();
        let [Shape::Step { at: first }, Shape::Step { at: second }] = told[..] else { panic!("{told:?}") };
        assert!(first.abs_diff(40) <= 1 && second.abs_diff(80) <= 1, "{told:?}");
    }

    #[test]
    fn the_same_seed_finds_the_same() {
        let links = measured(
            &[flat(20), vec![0.02; 20]].concat(),
            0.005,
            Against::One,
            &mut SmallRng::seed_from_u64(5),
        );
        assert_eq!(found(&links, 9), found(&links, 9));
    }

    #[test]
    fn pairs_that_rise_are_counted_like_one_by_one() {
        let mut random = SmallRng::seed_from_u64(2);
        for count in 0..60 {
            // Coarse, so that some are equal.
            let levels: Vec<f64> = (0..count)
                .map(|_| {
                    let level: f64 = StandardNormal.sample(&mut random);
                    (level * 3.0).round() + 0.0
                })
                .collect();
            let pairs = (0..count).flat_map(|later| (0..later).map(move |earlier| (earlier, later)));
            let expected: i64 = pairs
                .map(|(earlier, later)| match levels[later].total_cmp(&levels[earlier]) {
                    std::cmp::Ordering::Less => -1,
                    std::cmp::Ordering::Equal => 0,
                    std::cmp::Ordering::Greater => 1,
                })
                .sum();
            assert_eq!(rises(&levels), expected, "{levels:?}");
        }
    }
}
