//! Links lead somewhere: to a file that is there, to a heading that it has, to a function that the source has.

use std::collections::HashSet;

use super::pages::prose;
use super::{assert_none, files_in, read, root};

/// Everything in Markdown that somebody may read.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "loadgen/README.md",
        "benches/README.md",
        "benches/peers/README.md",
        "benches/record/README.md",
        "benches/record/decisions.md",
        "tests/fuzz/README.md",
    ]
    .map(str::to_owned)
    .to_vec();
    pages.extend(files_in("docs", ".md"));
    pages
}

/// A link: what is shown, and where it leads.
fn links(line: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    for (at, _) in line.match_indices("](") {
        // It may have begun in the line before.
        let begin = line[..at].rfind('[').map_or(0, |begin| begin + 1);
        let Some((target, _)) = line[at + 2..].split_once(')') else { continue };
        links.push((&line[begin..at], target));
    }
    links
}

/// The file that a link leads to, from the top, and the part of it; `None` if it leads elsewhere.
fn resolve<'a>(page: &str, target: &'a str) -> Option<(String, &'a str)> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, part) = target.split_once('#').unwrap_or((target, ""));
    if path.is_empty() {
        return Some((page.to_owned(), part));
    }
    let mut folders: Vec<&str> = page.split('/').collect();
    folders.pop();
    for name in path.split('/') {
        match name {
            "." | "" => {}
            ".." => drop(folders.pop()),
            name => folders.push(name),
        }
    }
    Some((folders.join("/"), part))
}

/// What GitHub calls the headings of a page.
fn anchors(text: &str) -> HashSet<String> {
    let headings = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
    let anchors = headings.map(|(_, line)| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    });
    anchors.collect()
}

#[test]
fn links_lead_to_what_is_there() {
    let mut found = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for (number, line) in prose(&text) {
            for (_, target) in links(line) {
                let Some((path, part)) = resolve(&page, target) else { continue };
                count += 1;
                let is_there = root().join(&path).exists();
                let has_part = part.is_empty()
                    || path.ends_with(".md") && is_there && anchors(&read(&path)).contains(part);
                if !is_there || !has_part {
                    found.push(format!("{page}:{number}: {target}"));
                }
            }
        }
    }
    assert!(count > 50, "the pages have links, and few were seen");
    assert_none(&found, "There is no such file, or it has no such heading.");
}

/// Code in a link to a file of the source is a function, a type or a constant that the file has. So the tour of
/// docs/architecture.md leads to what is there.
#[test]
fn the_functions_that_pages_name_are_in_the_files_that_they_link() {
    const KINDS: [&str; 6] = ["fn", "struct", "enum", "trait", "const", "mod"];
    let mut found = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for (number, line) in prose(&text) {
            for (shown, target) in links(line) {
                let Some(code) = shown.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
                    continue;
                };
                let Some((path, _)) = resolve(&page, target).filter(|(path, _)| path.ends_with(".rs")) else {
                    continue;
                };
                let name = code.trim_end_matches("()").rsplit("::").next().unwrap_or(code);
                let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
                if !name.chars().all(is_name) {
                    continue;
                }
                count += 1;
                let source = read(&path);
                let has = KINDS.iter().any(|kind| {
                    let wanted = format!("{kind} {name}");
                    source
                        .match_indices(&wanted)
                        .any(|(at, _)| !source[at + wanted.len()..].starts_with(is_name))
                });
                if !has {
                    found.push(format!("{page}:{number}: {path} has no {name}"));
                }
            }
        }
    }
    assert!(count > 40, "docs/architecture.md names functions, and few were seen");
    assert_none(&found, "The code has moved on: so must the page.");
}

#[test]
fn headings_and_links_are_seen() {
    assert!(anchors("# One: two\n## `loadgen run`, a-b\n### 对照表\n").is_superset(&HashSet::from([
        "one-two".to_owned(),
        "loadgen-run-a-b".to_owned(),
        "对照表".to_owned(),
    ])));
    assert_eq!(links("see [`a`](../x.rs) and [b c](#d)."), [("`a`", "../x.rs"), ("b c", "#d")]);
    assert_eq!(resolve("docs/a.md", "../src/x.rs#L1"), Some(("src/x.rs".to_owned(), "L1")));
}
