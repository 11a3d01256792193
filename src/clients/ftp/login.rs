//! A login on an FTP server, from its beginning to its end. Data connections are passive, and go to the server that
//! was reached, whatever address it names.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use indicatif::ProgressBar;
use suppaftp::types::Response;
use suppaftp::{FtpError, FtpStream, Status, TlsStream, TransferStream};

use super::accounts::{Account, PASSWORD_VARIABLE, USER_VARIABLE};
use super::text_mode::{FromNetwork, ToNetwork};
use crate::clients::place::{self, FtpPlace};
use crate::clients::transfer::{Broken, Sink, Terms, Trouble, begin_bar};

/// What a server says when a connection for data is made.
const OPENED: [Status; 2] = [Status::AboutToSend, Status::AlreadyOpen];

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

/// A login that stands.
pub struct Login {
    ftp: FtpStream,
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
        let mut ftp = greeted(place, terms)?;
        let mut reply = String::new();
        if place.user.is_none() {
            match ftp.login(ANONYMOUS.0, ANONYMOUS.1) {
                Ok(()) => return Ok(Login { ftp, terms }),
                Err(error) => reply = refusal(error, terms)?,
            }
        }
        let Some(Account { user, password }) = account()? else {
            return Err(Trouble::lasting(format!(
                "the server wants an account, ftp://USER@HOST/PATH, or {USER_VARIABLE} and {PASSWORD_VARIABLE}: {reply}"
            )));
        };
        let mut ended = ftp.login(&user, &password);
        // It may have closed the connection with its refusal, or while somebody typed.
        if place.user.is_none() && ended.as_ref().is_err_and(is_closed) {
            ftp = greeted(place, terms)?;
            ended = ftp.login(&user, &password);
        }
        match ended {
            Ok(()) => Ok(Login { ftp, terms }),
            Err(error) => {
                let reply = refusal(error, terms)?;
                Err(Trouble::lasting(format!("the server does not let {user} in: {reply}")))
            }
        }
    }

    /// What the server said first.
    pub fn welcome(&self) -> &str {
        self.ftp.get_welcome_msg().unwrap_or_default()
    }

    /// Ends it in order.
    pub fn close(mut self) {
        // All is done; what the server says to it is of no interest.
        let _ = self.ftp.quit();
    }

    /// The current folder.
    pub fn folder(&mut self) -> Result<String, Trouble> {
        self.ftp.pwd().map_err(|error| trouble(error, self.terms))
    }

    /// Goes to a folder; to no other if the path is empty.
    pub fn enter(&mut self, path: &str) -> Result<(), Trouble> {
        if path.is_empty() { Ok(()) } else { self.ftp.cwd(path).map_err(|error| trouble(error, self.terms)) }
    }

    /// The current folder as the server lists it.
    pub fn list(&mut self) -> Result<String, Trouble> {
        self.listing("LIST")
    }

    /// The names in the current folder, one a line.
    pub fn names(&mut self) -> Result<String, Trouble> {
        self.listing("NLST")
    }

    fn listing(&mut self, command: &str) -> Result<String, Trouble> {
        match self.ftp.custom_data_command(command, &OPENED) {
            Ok((_, stream)) => {
                let mut bytes = Vec::new();
                let bar = ProgressBar::hidden();
                let mut sink = Sink { out: &mut bytes, bar: &bar, bytes: 0, bytes_max: LISTING_BYTES_MAX };
                // Without a word about the type of transfer it is a text.
                self.receive(stream, Mode::Text, None, &mut sink)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            // Some servers have a reply of its own for folders in which there is nothing.
            Err(FtpError::UnexpectedResponse(reply)) if reply.status == Status::RequestFileActionIgnored => {
                Ok(String::new())
            }
            Err(error) => Err(trouble(error, self.terms)),
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Trouble> {
        self.ftp.rename(from, to).map_err(|error| trouble(error, self.terms))
    }

    pub fn remove(&mut self, path: &str) -> Result<(), Trouble> {
        self.ftp.rm(path).map_err(|error| trouble(error, self.terms))
    }

    pub fn make_folder(&mut self, path: &str) -> Result<(), Trouble> {
        self.ftp.mkdir(path).map_err(|error| trouble(error, self.terms))
    }

    pub fn remove_folder(&mut self, path: &str) -> Result<(), Trouble> {
        self.ftp.rmdir(path).map_err(|error| trouble(error, self.terms))
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), Trouble> {
        // Said here, because the library's word for texts, `TYPE A N`, is refused by some servers.
        let wanted = match mode {
            Mode::Binary => "TYPE I",
            Mode::Text => "TYPE A",
        };
        let set = self.ftp.custom_command(wanted, &[Status::CommandOk]);
        set.map(drop).map_err(|error| trouble(error, self.terms))
    }

    /// Fetches a file.
    pub fn retrieve(&mut self, path: &str, mode: Mode, sink: &mut Sink<'_>) -> Result<(), Trouble> {
        self.set_mode(mode)?;
        // Many servers tell it, and none has to. The size of a text depends on its line ends.
        let total = match mode {
            Mode::Binary => match self.ftp.size(path) {
                Ok(bytes) => Some(bytes as u64),
                Err(FtpError::UnexpectedResponse(_) | FtpError::BadResponse) => None,
                Err(error) => return Err(trouble(error, self.terms)),
            },
            Mode::Text => None,
        };
        let stream = self.ftp.retr_as_stream(path).map_err(|error| trouble(error, self.terms))?;
        begin_bar(sink.bar, total);
        self.receive(stream, mode, total, sink)
    }

    /// Takes all that comes on a connection for data, and what the server says of it; `total` is how much that should be.
    fn receive(
        &self,
        mut stream: TransferStream<impl TlsStream>,
        mode: Mode,
        total: Option<u64>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Trouble> {
        let filled = match mode {
            Mode::Binary => sink.fill(&mut stream),
            Mode::Text => sink.fill(&mut FromNetwork::new(&mut stream)),
        };
        if let Err(broken) = filled {
            // What the server says to it is not waited for; it may say nothing.
            let _ = self.ftp.get_ref().shutdown(Shutdown::Both);
            return Err(match broken {
                Broken::Sink(trouble) => trouble,
                Broken::Source(error) if is_timeout(&error) => self.terms.silence(sink.bytes),
                Broken::Source(_) => self.terms.cut(sink.bytes, total),
            });
        }
        // A connection for data ends in the same way whether all has been sent or not: this tells which.
        stream.finish().map_err(|error| trouble(error, self.terms))?;
        match total {
            Some(total) if sink.bytes < total => Err(self.terms.cut(sink.bytes, Some(total))),
            _ => Ok(()),
        }
    }

    /// Has the server open a file to store something in.
    pub fn begin_to_store(
        &mut self,
        path: &str,
        mode: Mode,
    ) -> Result<TransferStream<impl TlsStream + use<>>, Trouble> {
        self.set_mode(mode)?;
        self.ftp.put_with_stream(path).map_err(|error| trouble(error, self.terms))
    }

    /// Stores what a source has in the file that was opened for it. How many bytes were sent.
    pub fn store(
        &self,
        mut stream: TransferStream<impl TlsStream>,
        mode: Mode,
        source: &mut impl Read,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<u64, Trouble> {
        let sent = match mode {
            Mode::Binary => send(source, &mut stream, &mut on_bytes),
            Mode::Text => send(&mut ToNetwork::new(source), &mut stream, &mut on_bytes),
        };
        // In any case: a server that takes no more says why.
        let ended = stream.finish();
        match (sent, ended) {
            (Ok(bytes), Ok(())) => Ok(bytes),
            (Err(Unsent::Read(error)), _) => Err(Trouble::lasting(format!("cannot read: {error}"))),
            (_, Err(error @ FtpError::UnexpectedResponse(_))) => Err(trouble(error, self.terms)),
            (Err(Unsent::Write(error)), _) if is_timeout(&error) => {
                let patience = self.terms.patience();
                Err(Trouble::passing(format!("the server took nothing more for {patience}")))
            }
            (Err(Unsent::Write(error)), _) => {
                Err(Trouble::passing(format!("the connection broke off: {error}")))
            }
            (Ok(_), Err(error)) => Err(trouble(error, self.terms)),
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

/// A connection on which the server has said its welcome.
fn greeted(place: &FtpPlace, terms: Terms) -> Result<FtpStream, Trouble> {
    let stream = reach(place, terms)?;
    // Passive addresses without a host, which IPv6 needs.
    let is_ipv6 = stream.peer_addr().is_ok_and(|address| address.is_ipv6());
    let mut ftp = FtpStream::connect_with_stream(stream).map_err(|error| trouble(error, terms))?;
    ftp.set_mode(if is_ipv6 { suppaftp::Mode::ExtendedPassive } else { suppaftp::Mode::Passive });
    ftp.set_passive_nat_workaround(true);
    let Terms { timeout, .. } = terms;
    Ok(ftp.passive_stream_builder(move |address| {
        connect(place::with_interface(address), timeout).map_err(FtpError::ConnectionError)
    }))
}

/// The reply with which a login is refused.
///
/// # Errors
/// What else kept it from being made.
fn refusal(error: FtpError, terms: Terms) -> Result<String, Trouble> {
    match error {
        // Of those that are for now, only the one about a name and its password.
        FtpError::UnexpectedResponse(reply)
            if reply.status == Status::InvalidCredentials || !is_for_now(&reply) =>
        {
            Ok(told(&reply))
        }
        other => Err(trouble(other, terms)),
    }
}

/// Whether this is the end of a connection, announced or not.
fn is_closed(error: &FtpError) -> bool {
    match error {
        FtpError::UnexpectedResponse(reply) => reply.status == Status::NotAvailable,
        FtpError::ConnectionError(error) => !is_timeout(error),
        _ => false,
    }
}

/// Connects to the first address of a place that takes the connection.
fn reach(place: &FtpPlace, terms: Terms) -> Result<TcpStream, Trouble> {
    let addresses = place.addresses().map_err(|error| Trouble::unreachable(&error))?;
    let mut refused = Trouble::lasting("there is no such host".to_owned());
    for address in addresses {
        match connect(address, terms.timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_timeout(&error) => {
                let patience = terms.patience();
                refused = Trouble::passing(format!("no connection for {patience}"));
            }
            Err(error) => refused = Trouble::unreachable(&error),
        }
    }
    Err(refused)
}

/// A connection on which nothing takes longer than the timeout.
fn connect(address: SocketAddr, timeout: Option<Duration>) -> io::Result<TcpStream> {
    let stream = match timeout {
        Some(timeout) => TcpStream::connect_timeout(&address, timeout)?,
        None => TcpStream::connect(address)?,
    };
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)?;
    Ok(stream)
}

/// A socket says `WouldBlock` when its timeout is over, and a connect `TimedOut`.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An error in words.
fn trouble(error: FtpError, terms: Terms) -> Trouble {
    match error {
        FtpError::UnexpectedResponse(reply) => {
            let may_pass = is_for_now(&reply);
            let reply = told(&reply);
            Trouble { line: format!("the server says {reply}"), may_pass }
        }
        FtpError::ConnectionError(error) if is_timeout(&error) => terms.silence(0),
        FtpError::ConnectionError(error) => Trouble::passing(format!("the connection broke off: {error}")),
        // Nothing at all is one, too.
        FtpError::BadResponse => Trouble::passing("the connection ended, or what came is not FTP".to_owned()),
        other => Trouble::lasting(other.to_string()),
    }
}

/// The fours are for now, the fives for good.
fn is_for_now(reply: &Response) -> bool {
    (400..500).contains(&reply.status.code())
}

/// A reply as one line.
fn told(reply: &Response) -> String {
    String::from_utf8_lossy(&reply.body).split_whitespace().collect::<Vec<_>>().join(" ")
}
