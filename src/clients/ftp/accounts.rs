//! Accounts on FTP servers: from the URL, the environment or a terminal.

use std::env::{self, VarError};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use crate::clients::Failure;
use crate::clients::place::{self, FtpPlace};
use crate::clients::transfer::{Terms, Trouble, prompted};
use crate::clients::words::Notice;

/// Where the name of an account may be, for servers that let nobody in without one, and the password of any.
pub const USER_VARIABLE: &str = "TIDEWHEEL_FTP_USER";
pub const PASSWORD_VARIABLE: &str = "TIDEWHEEL_FTP_PASSWORD";

/// The terminal of the program, wherever its input and its output go.
const TERMINAL: &str = "/dev/tty";

/// Somebody whom a server knows.
#[derive(Clone)]
pub struct Account {
    pub user: String,
    pub password: String,
}

/// The account that is known before a server is asked: that of the place, or of the environment if the place names none.
///
/// # Errors
/// When there is no password for that of the place, or what the environment has cannot be said in FTP.
pub fn known_account(place: &FtpPlace, terms: Terms) -> Result<Option<Account>, Failure> {
    let (user, password) = match &place.user {
        Some(user) => (user.clone(), password(user, place, terms)?),
        None => {
            let Some(user) = variable(USER_VARIABLE)? else { return Ok(None) };
            let Some(password) = variable(PASSWORD_VARIABLE)? else { return Ok(None) };
            (user, password)
        }
    };
    Ok(Some(Account { user, password }))
}

/// The account that the user enters on the terminal: its name, unless it is in the environment, and its password.
/// `None` if nobody sits there, or types no name.
///
/// # Errors
/// When what is typed cannot be read or said in FTP, or there is no password.
pub fn typed_account(place: &FtpPlace, terms: Terms) -> Result<Option<Account>, Trouble> {
    let trouble = |failure: Failure| Trouble::lasting(failure.line().to_owned());
    let user = match variable(USER_VARIABLE).map_err(trouble)? {
        Some(user) => user,
        None => {
            let Ok(terminal) = File::options().read(true).write(true).open(TERMINAL) else { return Ok(None) };
            let prompt = Notice::User(&place.server()).text(terms.language);
            let user = typed_line(terminal, &prompt)
                .map_err(|error| Trouble::lasting(format!("cannot read a user name: {error}")))?;
            place::one_line(&user).map_err(|reason| Trouble::lasting(format!("the user name: {reason}")))?;
            user
        }
    };
    if user.is_empty() {
        return Ok(None);
    }
    let password = password(&user, place, terms).map_err(trouble)?;
    Ok(Some(Account { user, password }))
}

/// The password of an account: from the environment, or entered on the terminal.
fn password(user: &str, place: &FtpPlace, terms: Terms) -> Result<String, Failure> {
    if let Some(password) = variable(PASSWORD_VARIABLE)? {
        return Ok(password);
    }
    let account = format!("{user}@{}", place.server());
    let prompt = Notice::Password(&account).text(terms.language);
    let password = prompted(|| rpassword::prompt_password(prompt)).map_err(|error| {
        Failure::usage(format!(
            "there is no password for {account}: set {PASSWORD_VARIABLE}, or type it on a terminal ({error})"
        ))
    })?;
    place::one_line(&password)
        .map_err(|reason| Failure::usage(format!("the password of {account}: {reason}")))?;
    Ok(password)
}

/// A variable that becomes a part of an FTP command: one line of text. An empty one is none.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => match place::one_line(&text) {
            Ok(()) => Ok(Some(text)),
            Err(reason) => Err(Failure::usage(format!("{name}: {reason}"))),
        },
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::usage(format!("{name} is not UTF-8"))),
    }
}

/// What is typed on a terminal after a prompt; nothing at its end.
fn typed_line(mut terminal: File, prompt: &str) -> io::Result<String> {
    terminal.write_all(prompt.as_bytes())?;
    let mut line = String::new();
    // A terminal gives a line at a time: what is typed ahead stays in it.
    BufReader::new(&terminal).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => {
            // Whatever is said next begins on a line of its own.
            terminal.write_all(b"\n")?;
            Ok(line)
        }
    }
}
