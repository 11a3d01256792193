//! What was meant by a name that does not exist.

/// The name that `wrong` resembles most, if any does.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .map(|name| (strsim::jaro(name, &wrong), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        // The bound that clap uses for its own suggestions.
        .filter(|&(likeness, _)| likeness > 0.7)
        .map(|(_, name)| name)
}
