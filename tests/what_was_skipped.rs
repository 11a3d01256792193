//! The last test target of each package: lists the tests of this run that were skipped because this machine lacks what
//! they need, and why others are ignored. It is no test and never fails.

use std::collections::BTreeMap;
use std::path::Path;

#[path = "harness/skipped.rs"]
mod skipped;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Whoever asks what tests there are: none.
        return;
    }
    let skipped = skipped::skipped();
    println!();
    for test in &skipped {
        println!("skipped: {test}");
    }
    println!("{} skipped for want of something on this machine", skipped.len());

    // What a filter leaves out is not ignored.
    if arguments.iter().all(|argument| argument.starts_with('-')) {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let reasons =
            ["src", "tests"].map(|folder| skipped::reasons_to_ignore(&package.join(folder))).concat();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in &reasons {
            *kinds.entry(reason.split(':').next().unwrap_or(reason)).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!(
            "{} ignored in {} (cargo test --release -- --ignored): {}",
            reasons.len(),
            env!("CARGO_PKG_NAME"),
            kinds.join(", ")
        );
    }
    println!();
}
