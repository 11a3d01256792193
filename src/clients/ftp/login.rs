//! A login on an FTP server, from its beginning to its end, and what is done with it.

use std::io::{self, Read, Write};

use indicatif::ProgressBar;

use super::accounts::{Account, PASSWORD_VARIABLE, USER_VARIABLE};
use super::control::{Control, DataStream, Fault, is_timeout};
use super::text_mode::{FromNetwork, ToNetwork};
use crate::clients::place::{FtpPlace, UrlType};
use crate::clients::transfer::{Broken, Sink, Terms, Trouble, begin_bar};

/// Who logs in without an account, and the password that is customary then.
const ANONYMOUS: (&str, &str) = ("anonymous", "anonymous@");

/// How much is sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// How large the list of a folder may be.
const LISTING_BYTES_MAX: u64 = 64 << 20;

/// How files are transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Byte for byte.
    Binary,
    /// As lines, which end in CRLF on the network and in LF here.
    Text,
}

impl Mode {
    /// How a file is transferred whose URL has it as this; byte for byte if that says nothing.
    pub fn of(url_type: Option<UrlType>) -> Mode {
        if url_type == Some(UrlType::Text) { Mode::Text } else { Mode::Binary }
    }
}

/// A login that stands.
pub struct Login {
    control: Control,
    /// What the server said first.
    welcome: String,
    terms: Terms,
}

impl Login {
    /// Connects and logs in: with the account if the place names one, otherwise anonymously, and with the account where
    /// the server refuses that.
    ///
    /// # Errors
    /// Why there is no login.
    pub fn open(
        place: &FtpPlace,
        account: impl FnOnce() -> Result<Option<Account>, Trouble>,
        terms: Terms,
    ) -> Result<Login, Trouble> {
        let mut login = Login::greeted(place, terms)?;
        let refused = match place.user {
            None => login.identify(ANONYMOUS.0, ANONYMOUS.1).err(),
            Some(_) => None,
        };
        if place.user.is_some() || refused.is_some() {
            let reply = refused.map(|fault| refusal(fault, terms)).transpose()?.unwrap_or_default();
            let Some(account) = account()? else {
                return Err(Trouble::lasting(format!(
                    "the server wants an account, ftp://USER@HOST/PATH, or {USER_VARIABLE} and {PASSWORD_VARIABLE}: {reply}"
                )));
            };
            login.identify_with(&account, place)?;
        }
        // With a path that is not UTF-8, the server's own encoding is meant.
        if terms.names.is_utf8() && str::from_utf8(&place.path).is_ok() {
            login.agree_on_utf8().map_err(|fault| fault.trouble(terms))?;
        }
        Ok(login)
    }

    /// A connection on which nobody has logged in yet.
    fn greeted(place: &FtpPlace, terms: Terms) -> Result<Login, Trouble> {
        let (control, welcome) = Control::open(place, terms).map_err(|fault| fault.trouble(terms))?;
        Ok(Login { control, welcome: welcome.as_it_came(terms.names), terms })
    }

    fn identify(&mut self, user: &str, password: &str) -> Result<(), Fault> {
        let user = self.encoded(user)?;
        let reply = self.control.ask("USER", Some(&user))?;
        match reply.code {
            331 => {
                let password = self.encoded(password)?;
                self.control.order("PASS", Some(&password)).map(drop)
            }
            _ if reply.is_positive() => Ok(()),
            _ => Err(Fault::Refused(reply)),
        }
    }

    fn identify_with(&mut self, account: &Account, place: &FtpPlace) -> Result<(), Trouble> {
        let Account { user, password } = account;
        let mut ended = self.identify(user, password);
        // It may have closed the connection with its refusal of another, or while somebody typed.
        if place.user.is_none() && ended.as_ref().is_err_and(Fault::is_closed) {
            *self = Login::greeted(place, self.terms)?;
            ended = self.identify(user, password);
        }
        ended.or_else(|fault| {
            let reply = refusal(fault, self.terms)?;
            Err(Trouble::lasting(format!("the server does not let {user} in: {reply}")))
        })
    }

    /// Asks for names in UTF-8 where the server has that (RFC 2640); some send another encoding until they are asked.
    fn agree_on_utf8(&mut self) -> Result<(), Fault> {
        if self.control.ask("FEAT", None)?.lists("UTF8") {
            // A server that has no other encoding may refuse; its names are in UTF-8 all the same.
            self.control.ask("OPTS", Some(b"UTF8 ON"))?;
        }
        Ok(())
    }

    /// A name or a password as the server has it.
    fn encoded(&self, text: &str) -> Result<Vec<u8>, Fault> {
        let bytes = self.terms.names.encode(text);
        bytes.map(Into::into).map_err(|reason| Fault::Other(Trouble::lasting(reason)))
    }

    /// What the server said first.
    pub fn welcome(&self) -> &str {
        &self.welcome
    }

    /// Ends it in order.
    pub fn close(self) {
        self.control.quit();
    }

    /// Gives a command that is to be done.
    fn order(&mut self, command: &str, argument: &[u8]) -> Result<(), Trouble> {
        let ended = self.control.order(command, Some(argument));
        ended.map(drop).map_err(|fault| fault.trouble(self.terms))
    }

    /// The current folder.
    pub fn folder(&mut self) -> Result<String, Trouble> {
        let reply = self.control.order("PWD", None).map_err(|fault| fault.trouble(self.terms))?;
        let name = reply.quoted().ok_or_else(|| {
            self.control.unusable(&reply, "it names no folder in quotes").trouble(self.terms)
        })?;
        Ok(self.terms.names.decode(&name))
    }

    /// Goes to a folder; to no other if the path is empty.
    pub fn enter(&mut self, path: &[u8]) -> Result<(), Trouble> {
        if path.is_empty() { Ok(()) } else { self.order("CWD", path) }
    }

    /// The current folder as the server lists it.
    pub fn list(&mut self) -> Result<String, Trouble> {
        self.listing("LIST", &ProgressBar::hidden())
    }

    /// The names in the current folder, one a line.
    pub fn names(&mut self) -> Result<String, Trouble> {
        self.listing("NLST", &ProgressBar::hidden())
    }

    fn listing(&mut self, command: &str, bar: &ProgressBar) -> Result<String, Trouble> {
        match self.control.transfer(command, None) {
            Ok(data) => {
                let mut bytes = Vec::new();
                let mut sink = Sink { out: &mut bytes, bar, bytes: 0, bytes_max: LISTING_BYTES_MAX };
                // Without a word about the type of transfer it is a text.
                self.receive(data, Mode::Text, None, &mut sink)?;
                let lines = bytes.split_inclusive(|&byte| byte == b'\n');
                Ok(lines.map(|line| self.terms.names.decode(line)).collect())
            }
            // Some servers have a reply of its own for folders in which there is nothing.
            Err(Fault::Refused(reply)) if reply.code == 450 => Ok(String::new()),
            Err(fault) => Err(fault.trouble(self.terms)),
        }
    }

    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Trouble> {
        match self.control.ask("RNFR", Some(from)) {
            Ok(reply) if reply.code == 350 => self.order("RNTO", to),
            Ok(reply) => Err(Fault::Refused(reply).trouble(self.terms)),
            Err(fault) => Err(fault.trouble(self.terms)),
        }
    }

    pub fn remove(&mut self, path: &[u8]) -> Result<(), Trouble> {
        self.order("DELE", path)
    }

    pub fn make_folder(&mut self, path: &[u8]) -> Result<(), Trouble> {
        self.order("MKD", path)
    }

    pub fn remove_folder(&mut self, path: &[u8]) -> Result<(), Trouble> {
        self.order("RMD", path)
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), Trouble> {
        match mode {
            Mode::Binary => self.order("TYPE", b"I"),
            // Without the N of RFC 959, which is the default: some servers refuse it.
            Mode::Text => self.order("TYPE", b"A"),
        }
    }

    /// Fetches a file.
    pub fn retrieve(&mut self, path: &[u8], mode: Mode, sink: &mut Sink<'_>) -> Result<(), Trouble> {
        self.set_mode(mode)?;
        // Many servers tell it, and none has to. The size of a text depends on its line ends.
        let total = match mode {
            Mode::Binary => {
                self.control.ask("SIZE", Some(path)).map_err(|fault| fault.trouble(self.terms))?.size()
            }
            Mode::Text => None,
        };
        let data = self.control.transfer("RETR", Some(path)).map_err(|fault| fault.trouble(self.terms))?;
        begin_bar(sink.bar, total);
        self.receive(data, mode, total, sink)
    }

    /// Fetches the names in a folder, one a line, as what `;type=d` stands for (RFC 1738, 3.2.2).
    pub fn retrieve_names(&mut self, path: &[u8], sink: &mut Sink<'_>) -> Result<(), Trouble> {
        self.enter(path)?;
        let names = self.listing("NLST", sink.bar)?;
        sink.bar.set_position(0);
        sink.fill(&mut names.as_bytes()).map_err(|broken| match broken {
            Broken::Sink(trouble) => trouble,
            Broken::Source(error) => Trouble::lasting(error.to_string()),
        })
    }

    /// Takes all that comes on a data connection, and what the server says of it; `total` is how much that should be.
    fn receive(
        &mut self,
        mut data: DataStream,
        mode: Mode,
        total: Option<u64>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Trouble> {
        let filled = match mode {
            Mode::Binary => sink.fill(&mut data.stream),
            Mode::Text => sink.fill(&mut FromNetwork::new(&mut data.stream)),
        };
        match filled {
            Ok(()) => {}
            Err(Broken::Sink(trouble)) => {
                // What the server says to it is not waited for.
                self.control.cut();
                return Err(trouble);
            }
            Err(Broken::Source(error)) => {
                drop(data);
                return Err(match self.control.last_words() {
                    Some(reply) => Fault::Refused(reply).trouble(self.terms),
                    None if is_timeout(&error) => self.terms.silence(sink.bytes),
                    None => self.terms.cut(sink.bytes, total),
                });
            }
        }
        // A data connection ends in the same way whether all has been sent or not: the reply tells which.
        self.control.finish(data).map_err(|fault| fault.trouble(self.terms))?;
        match total {
            Some(total) if sink.bytes < total => Err(self.terms.cut(sink.bytes, Some(total))),
            _ => Ok(()),
        }
    }

    /// Has the server open a file to store something in.
    pub fn begin_to_store(&mut self, path: &[u8], mode: Mode) -> Result<DataStream, Trouble> {
        self.set_mode(mode)?;
        self.control.transfer("STOR", Some(path)).map_err(|fault| fault.trouble(self.terms))
    }

    /// Stores what a source has in the file that was opened for it. How many bytes were sent.
    pub fn store(
        &mut self,
        mut data: DataStream,
        mode: Mode,
        source: &mut impl Read,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<u64, Trouble> {
        let sent = match mode {
            Mode::Binary => send(source, &mut data.stream, &mut on_bytes),
            Mode::Text => send(&mut ToNetwork::new(source), &mut data.stream, &mut on_bytes),
        };
        match sent {
            Ok(bytes) => {
                let ended = self.control.finish(data);
                ended.map(|()| bytes).map_err(|fault| fault.trouble(self.terms))
            }
            Err(Unsent::Read(error)) => {
                // The file is as long as it is now once the server says so, and can be removed.
                let _ = self.control.finish(data);
                Err(Trouble::lasting(format!("cannot read: {error}")))
            }
            Err(Unsent::Write(error)) => {
                drop(data);
                // A server that takes no more says why.
                Err(match self.control.last_words() {
                    Some(reply) => Fault::Refused(reply).trouble(self.terms),
                    None if is_timeout(&error) => {
                        let patience = self.terms.patience();
                        Trouble::passing(format!("the server took nothing more for {patience}"))
                    }
                    None => Trouble::passing(format!("the connection broke off: {error}")),
                })
            }
        }
    }
}

/// What went wrong on the way to the server.
enum Unsent {
    Read(io::Error),
    Write(io::Error),
}

fn send(
    source: &mut impl Read,
    stream: &mut impl Write,
    on_bytes: &mut impl FnMut(u64),
) -> Result<u64, Unsent> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let len = match source.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Unsent::Read(error)),
        };
        stream.write_all(&piece[..len]).map_err(Unsent::Write)?;
        bytes += len as u64;
        on_bytes(len as u64);
    }
}

/// The reply with which a login is refused.
///
/// # Errors
/// What else kept it from being made.
fn refusal(fault: Fault, terms: Terms) -> Result<String, Trouble> {
    match fault {
        // Of those that are for now, only the one about a name and its password.
        Fault::Refused(reply) if reply.code == 430 || !reply.may_pass() => Ok(reply.words(terms.names)),
        other => Err(other.trouble(terms)),
    }
}
