//! A small seeded source of random numbers.

/// Random numbers that follow from a seed alone: splitmix64. For simulations, not for secrets.
///
/// ```
/// use tidewheel::sim::Random;
/// let (mut one, mut other) = (Random::new(7), Random::new(7));
/// assert_eq!(one.next_u64(), other.next_u64());
/// assert!(one.below(10) < 10);
/// ```
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that belong to this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but not including, `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The high half of the product is as even as the 64-bit number it comes from.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// True with this probability: never for 0, always for 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        // Nothing is drawn for what cannot happen, so that a run without faults costs nothing for them.
        probability > 0.0 && ((self.next_u64() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// This many random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next_u64() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_probabilities_hold() {
        let mut random = Random::new(1);
        let mut seen = [0; 3];
        let mut hits = 0;
        for _ in 0..3000 {
            seen[random.below(3)] += 1;
            hits += usize::from(random.chance(0.25));
            assert!(random.chance(1.0));
            assert!(!random.chance(0.0));
        }
        assert!(seen.iter().all(|&count| (900..1100).contains(&count)), "{seen:?}");
        assert!((650..850).contains(&hits), "{hits}");
        assert_eq!(random.below(0), 0);
    }
}
