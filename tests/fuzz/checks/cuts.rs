//! Where an input is cut: its first bytes say so, so that a fuzzer can choose.

/// As many cuts as there may be.
pub const CUTS_MAX: usize = 7;

/// An input that is taken apart.
pub struct Cut<'a> {
    /// A number for the check to choose its parameters by.
    pub choice: u8,
    /// What is to be checked.
    pub whole: &'a [u8],
    /// The same in pieces, of which some may be empty.
    pub pieces: Vec<&'a [u8]>,
}

/// Takes an input apart: a choice, the number of cuts, where each is as a fraction of the whole, and the whole.
pub fn cut(bytes: &[u8]) -> Option<Cut<'_>> {
    let (&[choice, cuts], rest) = bytes.split_first_chunk()?;
    let (fractions, whole) = rest.split_at_checked(CUTS_MAX)?;
    let cuts = usize::from(cuts) % (CUTS_MAX + 1);
    let mut ends: Vec<usize> =
        fractions[..cuts].iter().map(|&fraction| whole.len() * usize::from(fraction) / 256).collect();
    ends.push(whole.len());
    ends.sort_unstable();
    let mut start = 0;
    let pieces = ends.into_iter().map(|end| &whole[std::mem::replace(&mut start, end)..end]).collect();
    Some(Cut { choice, whole, pieces })
}
