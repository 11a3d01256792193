//! A page, taken apart: its fenced blocks, and the commands in its tables.

/// How a fenced block that is not run is marked, in the line before it.
const NOT_RUN: &str = "<!-- not run: ";

/// A command that is run at this place of a page though it is not shown.
const RUNS: &str = "<!-- runs: ";

/// A fenced block.
pub struct Block {
    /// What stands behind the fence: `sh`, `rust,no_run`.
    pub language: String,
    pub text: String,
    /// The line of the fence.
    pub line: usize,
    /// Why it is not run, if it is marked so.
    pub not_run: Option<String>,
}

/// Something to run.
#[derive(Debug)]
pub enum Step {
    /// A command of a shell, and what it must print.
    Shell { command: String, prints: Vec<String> },
    /// A program in Python, and what it must print.
    Python { program: String, prints: Vec<String> },
}

/// A part of a page, in its order.
enum Part<'a> {
    Block(Block),
    Line(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut before = "";
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let not_run = before.strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix(" -->"));
            let inside: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            parts.push(Part::Block(Block {
                language: language.to_owned(),
                text: inside.join("\n"),
                line: index + 1,
                not_run: not_run.map(str::to_owned),
            }));
        } else {
            parts.push(Part::Line(line));
        }
        before = line;
    }
    parts
}

/// The fenced blocks of a page.
pub fn blocks(text: &str) -> Vec<Block> {
    let blocks = parts(text).into_iter().filter_map(|part| match part {
        Part::Block(block) => Some(block),
        Part::Line(_) => None,
    });
    blocks.collect()
}

/// The lines of a page that are in no fenced block, numbered.
pub fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.push((index + 1, line));
        }
    }
    prose
}

/// Everything on a page that can be run, in its order.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in parts(text) {
        match part {
            Part::Block(Block { not_run: Some(_), .. }) => {}
            Part::Block(block) if block.language == "sh" => steps.extend(commands(&block.text)),
            Part::Block(block) if block.language == "python" => {
                let prints = block.text.lines().filter_map(printed).collect();
                steps.push(Step::Python { program: block.text, prints });
            }
            Part::Block(_) => {}
            Part::Line(line) if line.starts_with(RUNS) => {
                let command = line[RUNS.len()..].trim_end_matches(" -->").to_owned();
                steps.push(Step::Shell { command, prints: Vec::new() });
            }
            Part::Line(line) if line.starts_with('|') => steps.extend(commands_of_row(line)),
            Part::Line(_) => {}
        }
    }
    steps
}

/// What the comment behind a command or a statement says that it prints.
fn printed(line: &str) -> Option<String> {
    let (_, comment) = line.split_once("# ")?;
    let text = ["prints ", "输出 "].iter().find_map(|says| comment.strip_prefix(says));
    text.map(|text| text.trim_end().to_owned())
}

/// The commands of a block: one a line, unless the line ends with a backslash.
fn commands(text: &str) -> Vec<Step> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let step = |line: &str| Step::Shell {
        command: line.split_once(" # ").map_or(line, |(command, _)| command).trim().to_owned(),
        prints: printed(line).into_iter().collect(),
    };
    lines.map(step).collect()
}

/// The commands in a row of a table: code that begins with the name of a program and goes on.
fn commands_of_row(row: &str) -> Vec<Step> {
    const PROGRAMS: [&str; 5] = ["tidewheel serve ", "nc ", "printf ", "echo ", "curl "];
    let row = row.replace("\\|", "|");
    let mut steps = Vec::new();
    let pieces: Vec<&str> = row.split('`').collect();
    for (index, piece) in pieces.iter().enumerate().filter(|(index, _)| index % 2 == 1) {
        if PROGRAMS.iter().any(|program| piece.starts_with(program)) {
            let says = pieces.get(index + 1).is_some_and(|text| {
                let text = text.trim();
                text == "prints" || text == "，收到"
            });
            let prints = pieces.get(index + 2).filter(|_| says).map(|text| (*text).to_owned());
            steps.push(Step::Shell { command: (*piece).to_owned(), prints: prints.into_iter().collect() });
        }
    }
    steps
}
