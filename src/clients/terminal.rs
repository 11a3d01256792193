//! A terminal at which somebody types a line while others are printed above it.
//!
//! ```text
//!  editor thread: rustyline ──lines──► queue, a byte to wake whoever waits
//!        ▲ paints above its line
//!        └── printer ◄── print(), from the thread of the conversation
//! ```
//!
//! The editor paints what is printed only while it edits. Between two lines the terminal is in its ordinary mode and the
//! printer would write past the editor, into the line or out of order: so nothing is printed then. The editor says
//! through its hooks when it has begun (the first look for a hint) and when it is about to end (a line is validated).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, ColorMode, Config, Context, Editor, ExternalPrinter, Helper, KeyEvent, Modifiers};

use super::console::Input;

/// What stands before the line that is typed.
const PROMPT: &str = "> ";

/// Lines that can be called back with the arrow keys.
const HISTORY_LINES_MAX: usize = 1000;

/// How long a line that is complete waits for one that is being printed. It is over at once, unless the printer itself
/// waits for the editor; then it is no danger.
const PRINTING_PATIENCE: Duration = Duration::from_millis(20);

/// How long the editor may take to notice that it is to end before it is told again: it does not hear between two
/// lines.
const ENDING_PAUSE: Duration = Duration::from_millis(20);

/// Up and down again: a message that changes nothing on the screen.
const NOTHING: &str = "\x1b[A\n";

/// Keys such as the arrows come as several bytes. After Escape alone, nothing follows for so long.
const ESCAPE_MS: u16 = 500;

pub type LineEditor = Editor<Hooks, DefaultHistory>;

/// A terminal that is being edited on.
pub struct Terminal {
    printer: Box<dyn ExternalPrinter + Send>,
    shared: Arc<Shared>,
    editor: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whoever waits for lines is woken by a byte in it.
    wake: UnixStream,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Input>,
    /// The editor has been called and has not begun.
    entering: bool,
    /// The editor takes keys, and paints what is printed.
    editing: bool,
    /// Somebody is about to print, or waits until the editor has taken what was printed before.
    printing: bool,
    /// Whoever types wants to leave, now.
    left: bool,
    /// The editor is to end.
    closing: bool,
    /// The editor has ended, and the terminal is as it was.
    ended: bool,
}

/// An editor for the standard streams, if they are a terminal on which that can be done.
pub fn editor() -> Option<(LineEditor, impl ExternalPrinter + Send + 'static)> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return None;
    }
    let config = Config::builder()
        .max_history_size(HISTORY_LINES_MAX)
        .ok()?
        .auto_add_history(true)
        .color_mode(ColorMode::Disabled)
        .keyseq_timeout(Some(ESCAPE_MS))
        .build();
    let mut editor = LineEditor::with_config(config).ok()?;
    // It refuses terminals that cannot move their cursor.
    let printer = editor.create_external_printer().ok()?;
    // While it searches, or waits for a second key, it paints nothing. So Ctrl-R and Ctrl-S go straight to the line that
    // begins as this one, and the keys that would wait for another do nothing. Only Alt with a digit cannot be bound: it waits
    // for the key that is to be repeated.
    for (key, command) in [
        (KeyEvent::ctrl('R'), Cmd::HistorySearchBackward),
        (KeyEvent::ctrl('S'), Cmd::HistorySearchForward),
        (KeyEvent::ctrl('Q'), Cmd::Noop),
        (KeyEvent::ctrl('V'), Cmd::Noop),
        (KeyEvent::ctrl('X'), Cmd::Noop),
        (KeyEvent::ctrl(']'), Cmd::Noop),
        (KeyEvent::new(']', Modifiers::CTRL_ALT), Cmd::Noop),
    ] {
        editor.bind_sequence(key, command);
    }
    Some((editor, printer))
}

impl Terminal {
    /// Begins to edit.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        (mut editor, printer): (LineEditor, impl ExternalPrinter + Send + 'static),
        wake: UnixStream,
    ) -> io::Result<Terminal> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake });
        editor.set_helper(Some(Hooks { shared: shared.clone() }));
        let at_editor = shared.clone();
        let thread =
            thread::Builder::new().name("editor".to_owned()).spawn(move || at_editor.edit(editor))?;
        Ok(Terminal { printer: Box::new(printer), shared, editor: Some(thread) })
    }

    /// The next line that was typed.
    pub fn take(&mut self) -> Option<Input> {
        self.shared.lock().lines.pop_front()
    }

    /// Looks at what is next without taking it.
    pub fn next_is(&self, is: impl FnOnce(&Input) -> bool) -> bool {
        self.shared.lock().lines.front().is_some_and(is)
    }

    /// Whether Ctrl-C was pressed, or Ctrl-D twice.
    pub fn has_left(&self) -> bool {
        self.shared.lock().left
    }

    /// Prints lines above the one that is typed.
    pub fn print(&mut self, lines: String) -> io::Result<()> {
        let state = self.shared.lock();
        let mut state = self.shared.wait_while(state, |state| !state.editing && !state.ended);
        if state.ended {
            drop(state);
            return io::stdout().write_all(lines.as_bytes());
        }
        state.printing = true;
        drop(state);
        let printed = self.printer.print(lines).map_err(io::Error::other);
        let mut state = self.shared.lock();
        state.printing = false;
        self.shared.changed.notify_all();
        // Whoever pressed Ctrl-C meanwhile wants to see no more.
        if state.ended { Ok(()) } else { printed }
    }

    /// Ends the editor, once it has painted everything. The terminal is as it was then.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(editor) = self.editor.take() else { return };
        // The printer takes one message before the editor has taken the last: after this the last has been painted.
        let _ = self.print(NOTHING.to_owned());
        let mut state = self.shared.lock();
        state.closing = true;
        while !state.ended {
            // While it edits, it is this signal that ends a line; at other times it is ours, and does nothing.
            let _ = kill_process(getpid(), Signal::INT);
            let waited = self.shared.changed.wait_timeout(state, ENDING_PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // Whether it panicked has been told by the panic.
        let _ = editor.join();
    }
}

/// However the conversation ends, the terminal is left as it was found.
impl Drop for Terminal {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.changed.wait_while(state, condition).unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves what was typed to whoever waits for it.
    fn put(&self, inputs: impl IntoIterator<Item = Input>) {
        self.lock().lines.extend(inputs);
        self.wake();
    }

    fn leave(&self) {
        self.lock().left = true;
        self.wake();
    }

    fn wake(&self) {
        // If it is full of bytes already, one more would wake nobody sooner.
        let _ = (&self.wake).write(&[0]);
    }

    /// The thread of the editor.
    fn edit(&self, mut editor: LineEditor) {
        let _ended = Ended(self);
        let mut prompt = PROMPT;
        loop {
            let mut state = self.lock();
            if state.closing {
                return;
            }
            state.entering = true;
            drop(state);
            let read = editor.readline(prompt);
            self.change(|state| state.editing = false);
            match read {
                // After the end of input it goes on for what is still printed, and for Ctrl-C.
                Ok(_) if prompt.is_empty() => {}
                // What was pasted may be several lines.
                Ok(text) => self.put(text.split('\n').map(|line| Input::Line(line.as_bytes().to_vec()))),
                Err(ReadlineError::Eof) if !prompt.is_empty() => {
                    prompt = "";
                    self.put([Input::End]);
                }
                // Ctrl-C, or the end of the conversation, which looks no more; Ctrl-D once more, or the terminal has
                // gone, of which nothing else will ever be read.
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return self.leave(),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    self.put([Input::Invalid]);
                }
                Err(error) => return self.put([Input::Failed(error.to_string())]),
            }
        }
    }
}

/// Tells that the editor has ended, also in a panic.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.change(|state| (state.editing, state.ended) = (false, true));
        self.0.wake();
    }
}

/// What the editor calls in the course of a line.
pub struct Hooks {
    shared: Arc<Shared>,
}

impl Hinter for Hooks {
    type Hint = String;

    fn hint(&self, _line: &str, _pos: usize, _: &Context<'_>) -> Option<String> {
        self.shared.change(|state| {
            if std::mem::take(&mut state.entering) {
                state.editing = true;
            }
        });
        None
    }
}

impl Validator for Hooks {
    fn validate(&self, _: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let mut state = self.shared.lock();
        state.editing = false;
        drop(self.shared.changed.wait_timeout_while(state, PRINTING_PATIENCE, |state| state.printing));
        Ok(ValidationResult::Valid(None))
    }
}

impl Completer for Hooks {
    type Candidate = String;
}

impl Highlighter for Hooks {}

impl Helper for Hooks {}
