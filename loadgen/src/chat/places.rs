//! Some of the places in a room: a bit for each.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    words: Box<[u64]>,
    len: usize,
}

impl Places {
    /// None of so many.
    pub fn none(of: usize) -> Places {
        Places { words: vec![0; of.div_ceil(64)].into(), len: 0 }
    }

    /// The first ones, so many.
    pub fn all(count: usize) -> Places {
        let mut all = Places::none(count);
        (0..count).for_each(|place| {
            all.insert(place);
        });
        all
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, place: usize) -> bool {
        self.words[place / 64] & bit(place) != 0
    }

    /// Returns whether it was not there.
    pub fn insert(&mut self, place: usize) -> bool {
        let is_new = !self.contains(place);
        self.words[place / 64] |= bit(place);
        self.len += usize::from(is_new);
        is_new
    }

    /// Returns whether it was there.
    pub fn remove(&mut self, place: usize) -> bool {
        let was_there = self.contains(place);
        self.words[place / 64] &= !bit(place);
        self.len -= usize::from(was_there);
        was_there
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
        self.len = 0;
    }

    /// Whether all of them are among others, of the same room.
    pub fn are_among(&self, others: &Places) -> bool {
        self.len <= others.len
            && self.words.iter().zip(&others.words).all(|(ours, theirs)| ours & !theirs == 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.words.len() * 64).filter(|&place| self.contains(place))
    }
}

fn bit(place: usize) -> u64 {
    1 << (place % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_once() {
        let mut some = Places::none(130);
        assert!(some.insert(0) && some.insert(129) && some.insert(64) && !some.insert(129));
        assert_eq!((some.len(), some.iter().collect::<Vec<_>>()), (3, vec![0, 64, 129]));
        assert!(some.are_among(&Places::all(130)) && !Places::all(130).are_among(&some));
        assert!(some.remove(64) && !some.remove(64) && !some.contains(64));
        assert_eq!(some.len(), 2);
        some.clear();
        assert!(some.is_empty() && some.are_among(&Places::none(130)));
    }
}
