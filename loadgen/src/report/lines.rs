//! Text in lines that are no wider than there is room for, and tables for a terminal of 80 columns.

use std::fmt;

use console::{Style, measure_text_width};

/// As wide as the narrowest terminal that tables are made for.
const TERMINAL_WIDTH: usize = 80;

/// Between the edge and a table.
const INDENT: usize = 2;

/// A first column may be cut to this in favour of the others.
const FIRST_WIDTH_MAX: usize = 30;

/// Of figures: not parted from the number in front of them.
const UNITS: [&str; 12] = ["ns", "µs", "ms", "s", "%", "/s", "k/s", "M/s", "B", "KiB", "MiB", "GiB"];

/// Whether a word is the unit of the figure in front of it.
fn is_unit_of(figure: &str, word: &str) -> bool {
    figure.ends_with(|last: char| last.is_ascii_digit())
        && UNITS.contains(&word.trim_end_matches([',', '.', ';', ':', ')']))
}

/// The same text, with spaces before units at which no line may end.
pub fn unbroken(text: &str) -> String {
    let mut words = text.split(' ');
    let mut before = words.next().unwrap_or_default();
    let mut unbroken = before.to_owned();
    for word in words {
        unbroken.push(if is_unit_of(before, word) { '\u{a0}' } else { ' ' });
        unbroken += word;
        before = word;
    }
    unbroken
}

/// A text in lines of at most so many columns. A figure keeps its unit, and only a word that is longer than a line is cut.
pub fn folded(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(figure) if is_unit_of(figure, word) => {
                *figure += " ";
                *figure += word;
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines = vec![String::new()];
    for mut word in words {
        loop {
            let line = lines.last_mut().expect("there is a line from the beginning on");
            let used = measure_text_width(line);
            let space = usize::from(used > 0);
            let len = measure_text_width(&word);
            if used + space + len <= width {
                line.extend(std::iter::repeat_n(' ', space));
                line.push_str(&word);
                break;
            }
            if used > 0 {
                lines.push(String::new());
                continue;
            }
            let rest = word.split_off(word.char_indices().nth(width.max(1)).map_or(word.len(), |(at, _)| at));
            *line = std::mem::replace(&mut word, rest);
            if word.is_empty() {
                break;
            }
            lines.push(String::new());
        }
    }
    lines
}

/// A printed text in which no line is wider than the terminal. What follows in a folded line stands below where its words
/// begin: behind the name of a figure, if there is one.
pub fn fitted(text: &str, width: usize) -> String {
    let mut fitted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if measure_text_width(line) <= width {
            fitted.push_str(line);
        } else {
            let words_at = words_at(line).min(width / 2);
            let head: String = line.chars().take(words_at).collect();
            let rest = &line[head.len()..];
            for (index, part) in folded(rest, width - words_at).iter().enumerate() {
                if index > 0 {
                    fitted.push('\n');
                    fitted.extend(std::iter::repeat_n(' ', words_at));
                } else {
                    fitted.push_str(&head);
                }
                fitted.push_str(part);
            }
        }
        fitted.push_str(end);
    }
    fitted
}

/// Where the words of a line begin: `  name     words`.
fn words_at(line: &str) -> usize {
    let indent = line.chars().take_while(|&character| character == ' ').count();
    let after_indent = &line[indent..];
    let Some(gap_at) = after_indent.find("  ") else { return indent };
    let gap = after_indent[gap_at..].chars().take_while(|&character| character == ' ').count();
    let name = after_indent[..gap_at].chars().count();
    // Escape sequences take no room, but they begin no name either.
    let has_name = indent > 0 && !after_indent[..gap_at].contains('\x1b') && name <= FIRST_WIDTH_MAX;
    if has_name { indent + name + gap } else { indent }
}

/// A cell, and how it is shown where there is colour.
#[derive(Clone, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn styled(text: impl Into<String>, style: Style) -> Cell {
        Cell { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), style: Style::new() }
    }
}

/// A table of which each row has a name, and each column a head. Names, and what is in words, stand on the left of their
/// columns, figures on the right.
///
/// It is never wider than 80 columns: where it would be, columns stand closer, a long name is cut in front, and columns for
/// which there is still no room stand in further tables below.
pub struct Grid {
    heads: Vec<String>,
    /// Columns whose cells are words.
    words: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Grid {
    /// With the head of the names first.
    pub fn new<T: Into<String>>(heads: impl IntoIterator<Item = T>) -> Grid {
        Grid { heads: heads.into_iter().map(Into::into).collect(), words: vec![0], rows: Vec::new() }
    }

    /// The cells of this column, too, are words. The first one is 0.
    pub fn has_words_in(&mut self, column: usize) {
        self.words.push(column);
    }

    /// Adds a row, its name first.
    pub fn row<T: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn width_of(&self, column: usize) -> usize {
        let cells =
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(&cell.text));
        cells.chain([measure_text_width(&self.heads[column])]).max().unwrap_or_default()
    }

    /// How the table fits.
    fn layout(&self) -> Layout {
        let widths: Vec<usize> = (0..self.heads.len()).map(|column| self.width_of(column)).collect();
        let others: usize = widths[1..].iter().sum();
        let first = widths[0].min(FIRST_WIDTH_MAX);
        for gap in [2, 1] {
            let room = TERMINAL_WIDTH.saturating_sub(INDENT + others + gap * (widths.len() - 1));
            if room >= first {
                return Layout { parts: vec![(1..widths.len()).collect()], first: widths[0].min(room), gap };
            }
        }
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut used = TERMINAL_WIDTH;
        for (column, width) in widths.iter().enumerate().skip(1) {
            used += 2 + width;
            match parts.last_mut() {
                Some(part) if used <= TERMINAL_WIDTH => part.push(column),
                _ => {
                    parts.push(vec![column]);
                    used = INDENT + first + 2 + width;
                }
            }
        }
        Layout { parts, first, gap: 2 }
    }

    fn write_row(
        &self,
        f: &mut fmt::Formatter<'_>,
        cells: &[Cell],
        columns: &[usize],
        &Layout { first, gap, .. }: &Layout,
    ) -> fmt::Result {
        let mut line = String::new();
        for (place, &column) in [0].iter().chain(columns).enumerate() {
            let width = if column == 0 { first } else { self.width_of(column) };
            let cell = cells.get(column).cloned().unwrap_or_default();
            let text = cut(&cell.text, width);
            let room = " ".repeat(width - measure_text_width(&text));
            let styled = cell.style.apply_to(text).to_string();
            line += &" ".repeat(if place == 0 { INDENT } else { gap });
            line += &if self.words.contains(&column) { styled + &room } else { room + &styled };
        }
        writeln!(f, "{}", line.trim_end())
    }
}

/// How a table fits: its columns after the first one, table by table, and how wide that and the space between columns are.
struct Layout {
    parts: Vec<Vec<usize>>,
    first: usize,
    gap: usize,
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<Cell> = self.heads.iter().map(|head| head.as_str().into()).collect();
        let layout = self.layout();
        for (index, columns) in layout.parts.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            for cells in std::iter::once(&heads).chain(&self.rows) {
                self.write_row(f, cells, columns, &layout)?;
            }
        }
        Ok(())
    }
}

/// A name with its end, which says more than its beginning.
fn cut(name: &str, width: usize) -> String {
    let len = name.chars().count();
    if measure_text_width(name) <= width {
        return name.to_owned();
    }
    let kept: String = name.chars().skip((len + 1).saturating_sub(width)).collect();
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_folded_and_only_one_that_is_too_long_is_cut() {
        assert_eq!(folded("one two three", 7), ["one two", "three"]);
        assert_eq!(folded("a bcdefgh i", 4), ["a", "bcde", "fgh", "i"]);
        assert_eq!(folded("", 4), [""]);
        // Microseconds are one column wide, whatever their bytes.
        assert_eq!(folded("5 µs 6 µs", 9), ["5 µs 6 µs"]);
        assert_eq!(folded("waiting for 1.06 s, then", 17), ["waiting for", "1.06 s, then"]);
        assert_eq!(unbroken("for 1.06 s, 2 %  and s"), "for 1.06\u{a0}s, 2\u{a0}%  and s");
    }

    #[test]
    fn what_is_folded_stands_below_its_words() {
        let text = "title\n  requests       1000 in 1.0 s, 0 wrong replies\n  a remark of many words\n";
        let lines = "title\n  requests       1000 in 1.0 s, 0\n                 wrong replies\n  a remark of many words\n";
        assert_eq!(fitted(text, 34), lines);
        assert_eq!(fitted("  a remark of many words", 12), "  a remark\n  of many\n  words");
        assert_eq!(fitted("\x1b[1mone two\x1b[0m", 4), "\x1b[1mone\ntwo\x1b[0m");
    }

    #[test]
    fn a_table_gives_way_before_it_is_too_wide() {
        let heads = |count: usize| {
            std::iter::once("server".to_owned()).chain((0..count).map(|at| format!("head {at}")))
        };
        let table = |name: &str, columns: usize, cell: &str| {
            let mut grid = Grid::new(heads(columns));
            grid.row(std::iter::once(name.to_owned()).chain((0..columns).map(|_| cell.to_owned())));
            grid.to_string()
        };
        assert_eq!(table("one", 2, "45.1 µs"), "  server   head 0   head 1\n  one     45.1 µs  45.1 µs\n");
        for (name, columns, cell, lines) in [
            ("one", 7, "12345678", 2),
            ("one", 9, "12345678", 5),
            (&"n".repeat(200), 3, "12345678", 2),
            ("one", 20, "123456789012345", 14),
        ] {
            let text = table(name, columns, cell);
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(text.lines().all(|line| measure_text_width(line) <= TERMINAL_WIDTH), "{text}");
            assert_eq!(text.matches(cell).count(), columns, "{text}");
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("{}::the_end", "x".repeat(100));
        assert!(cut(&name, 20).starts_with('…') && cut(&name, 20).ends_with("x::the_end"));
        assert_eq!(cut(&name, 20).chars().count(), 20);
        assert_eq!(cut("short", 20), "short");
    }
}
