//! How large requests are: all alike, or drawn from a distribution.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand::distr::Distribution;
use rand_distr::Zipf;

use crate::units;

/// The largest request, in bytes.
pub const SIZE_MAX: usize = 1 << 30;

/// A distribution of sizes in bytes.
#[derive(Clone, Debug)]
pub struct Sizes {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(usize),
    Uniform {
        from: usize,
        to: usize,
    },
    /// The smallest is the most frequent; the k-th smallest has a k-th of its frequency.
    Zipf {
        from: usize,
        to: usize,
        ranks: Zipf<f64>,
    },
    /// Each size with the sum of the weights up to and with its own.
    Weighted {
        sizes: Vec<(usize, u64)>,
        total: u64,
    },
}

impl Sizes {
    /// All of one size.
    pub fn fixed(size: usize) -> Sizes {
        Sizes { text: size.to_string(), kind: Kind::Fixed(size) }
    }

    /// The size, if all are alike.
    #[inline]
    pub fn only(&self) -> Option<usize> {
        match self.kind {
            Kind::Fixed(size) => Some(size),
            _ => None,
        }
    }

    /// In words, with the unit of a bare number: `64 B`, `16KiB`, `uniform:64-1500 B`.
    pub fn words(text: &str) -> String {
        let last = text.split(',').next_back().and_then(|part| part.split(':').next());
        let size = if text.contains("-") { text } else { last.unwrap_or(text) };
        if size.ends_with(|last: char| last.is_ascii_digit()) { format!("{text} B") } else { text.to_owned() }
    }

    /// The smallest and the largest that can come.
    pub fn bounds(&self) -> (usize, usize) {
        match &self.kind {
            Kind::Fixed(size) => (*size, *size),
            Kind::Uniform { from, to } | Kind::Zipf { from, to, .. } => (*from, *to),
            Kind::Weighted { sizes, .. } => {
                let of = sizes.iter().map(|&(size, _)| size);
                (of.clone().min().unwrap_or_default(), of.max().unwrap_or_default())
            }
        }
    }

    /// The next size.
    pub fn draw(&self, random: &mut impl Rng) -> usize {
        match &self.kind {
            Kind::Fixed(size) => *size,
            Kind::Uniform { from, to } => random.random_range(*from..=*to),
            Kind::Zipf { from, ranks, .. } => from - 1 + ranks.sample(random) as usize,
            Kind::Weighted { sizes, total } => {
                let drawn = random.random_range(0..*total);
                let index = sizes.partition_point(|&(_, up_to)| up_to <= drawn);
                sizes[index].0
            }
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let range = |range: &str| -> Result<(usize, usize), String> {
            let (from, to) = range.split_once('-').ok_or("expected FROM-TO, such as 64-1500")?;
            let (from, to) = (size(from)?, size(to)?);
            if from > to { Err(format!("{from} is more than {to}")) } else { Ok((from, to)) }
        };
        let kind = if let Some(text) = text.strip_prefix("uniform:") {
            let (from, to) = range(text)?;
            Kind::Uniform { from, to }
        } else if let Some(text) = text.strip_prefix("zipf:") {
            let (from, to) = range(text)?;
            let ranks = Zipf::new((to - from + 1) as f64, 1.0).map_err(|error| error.to_string())?;
            Kind::Zipf { from, to, ranks }
        } else if text.contains(':') {
            let (mut sizes, mut total) = (Vec::new(), 0_u64);
            for part in text.split(',') {
                let (of, weight) = part.split_once(':').ok_or("expected SIZE:WEIGHT, such as 64:9,1500:1")?;
                let weight: u32 = weight.parse().map_err(|_| format!("{weight:?} is not a weight"))?;
                total += u64::from(weight);
                sizes.push((size(of)?, total));
            }
            if total == 0 {
                return Err("all weights are 0".into());
            }
            Kind::Weighted { sizes, total }
        } else {
            Kind::Fixed(size(text)?)
        };
        Ok(Sizes { text: text.to_owned(), kind })
    }
}

fn size(text: &str) -> Result<usize, String> {
    match units::size(text)? {
        size if size <= SIZE_MAX => Ok(size),
        _ => Err("must be at most 1GiB".into()),
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn drawn(text: &str) -> BTreeMap<usize, usize> {
        let sizes: Sizes = text.parse().unwrap();
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = BTreeMap::new();
        for _ in 0..100_000 {
            let size = sizes.draw(&mut random);
            *counts.entry(size).or_default() += 1;
        }
        counts
    }

    #[test]
    fn every_size_of_a_distribution_comes_as_often_as_it_should() {
        assert_eq!(drawn("16KiB"), [(16_384, 100_000)].into());
        let uniform = drawn("uniform:64-73");
        assert_eq!(uniform.keys().copied().collect::<Vec<_>>(), (64..=73).collect::<Vec<_>>());
        assert!(uniform.values().all(|&count| count.abs_diff(10_000) < 500), "{uniform:?}");
        let zipf = drawn("zipf:1-4");
        // 1 : 1/2 : 1/3 : 1/4
        assert_eq!(zipf.len(), 4);
        assert!(zipf[&1].abs_diff(48_000) < 1000 && zipf[&4].abs_diff(12_000) < 500, "{zipf:?}");
        assert_eq!("uniform:64-73".parse::<Sizes>().unwrap().bounds(), (64, 73));
        assert_eq!("64:9,1500:1,7:1".parse::<Sizes>().unwrap().bounds(), (7, 1500));
        let weighted = drawn("64:9,1500:1,7:0");
        assert_eq!(weighted.len(), 2);
        assert!(weighted[&64].abs_diff(90_000) < 500, "{weighted:?}");
    }

    #[test]
    fn the_bounds_are_those_of_the_distribution() {
        for (text, bounds) in [
            ("64", (64, 64)),
            ("uniform:12-70", (12, 70)),
            ("zipf:64-65536", (64, 65_536)),
            ("64:9,1500:1,16:3", (16, 1500)),
        ] {
            assert_eq!(text.parse::<Sizes>().unwrap().bounds(), bounds, "{text}");
        }
    }

    #[test]
    fn what_is_no_distribution_says_why() {
        for (text, reason) in [
            ("", "such as 64"),
            ("0", "at least 1"),
            ("64,128", "such as 64"),
            ("64:1,128", "SIZE:WEIGHT"),
            ("64:0", "all weights"),
            ("64:x", "not a weight"),
            ("uniform:64", "FROM-TO"),
            ("uniform:128-64", "more than"),
            ("zipf:0-64", "at least 1"),
            ("2GiB", "at most 1GiB"),
            ("2000MiB", "at most 1GiB"),
        ] {
            let error = text.parse::<Sizes>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
