//! The control connection of FTP (RFC 959): commands go out, replies come in. Data connections are passive, and go to
//! the server that was reached, whatever address it names.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::reply::{CLOSING, NoReply, Replies, Reply};
use crate::clients::place::{self, FtpPlace};
use crate::clients::transfer::{Terms, Trouble};

/// How long to wait for the last reply on a connection that ends or breaks off: it may not come.
const PARTING_TIME_MAX: Duration = Duration::from_secs(1);

/// How many preliminary replies a server may send before the final one.
const PRELIMINARY_MAX: usize = 100;

/// Why a command was not done.
#[derive(Debug)]
pub enum Fault {
    /// The reply that says so.
    Refused(Reply),
    NoReply(NoReply),
    Other(Trouble),
}

impl Fault {
    /// In words.
    pub fn trouble(self, terms: Terms) -> Trouble {
        match self {
            Fault::Refused(reply) => Trouble {
                line: format!("the server says {}", reply.words(terms.names)),
                may_pass: reply.may_pass(),
            },
            Fault::NoReply(NoReply::Failed(error)) if is_timeout(&error) => terms.silence(0),
            Fault::NoReply(no_reply) => {
                let may_pass =
                    matches!(no_reply, NoReply::Failed(_) | NoReply::Closed | NoReply::ClosedWithin);
                Trouble { line: no_reply.line(), may_pass }
            }
            Fault::Other(trouble) => trouble,
        }
    }

    /// Whether this is the end of the connection, announced or not.
    pub fn is_closed(&self) -> bool {
        match self {
            Fault::Refused(reply) => reply.code == CLOSING,
            Fault::NoReply(NoReply::Failed(error)) => !is_timeout(error),
            Fault::NoReply(NoReply::Closed | NoReply::ClosedWithin) => true,
            _ => false,
        }
    }
}

/// A control connection on which the server has said its welcome.
pub struct Control {
    replies: Replies<TcpStream>,
    peer: SocketAddr,
    terms: Terms,
    /// PASV was refused, and EPSV was not.
    is_extended: bool,
    /// Which reply would belong to which command is not known any more, or none will come.
    has_ended: bool,
}

/// A data connection of a transfer that the server has begun.
pub struct DataStream {
    pub stream: TcpStream,
    /// The server has said already how it ended.
    has_reply: bool,
}

impl Control {
    /// Connects, and waits for the welcome, which is returned as well.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses it.
    pub fn open(place: &FtpPlace, terms: Terms) -> Result<(Control, Reply), Fault> {
        let stream = reach(place, terms).map_err(Fault::Other)?;
        let peer = stream.peer_addr().map_err(failed)?;
        let mut control = Control {
            replies: Replies::new(stream),
            peer,
            terms,
            is_extended: peer.ip().to_canonical().is_ipv6(),
            has_ended: false,
        };
        let welcome = done(control.answer()?)?;
        Ok((control, welcome))
    }

    /// Gives a command. The final reply to it, also one that refuses.
    ///
    /// # Errors
    /// When there is none, or the server closes the connection with it.
    pub fn ask(&mut self, command: &str, argument: Option<&[u8]>) -> Result<Reply, Fault> {
        self.tell(command, argument)?;
        self.answer()
    }

    /// Gives a command that is to be done.
    ///
    /// # Errors
    /// When it is not.
    pub fn order(&mut self, command: &str, argument: Option<&[u8]>) -> Result<Reply, Fault> {
        done(self.ask(command, argument)?)
    }

    fn tell(&mut self, command: &str, argument: Option<&[u8]>) -> Result<(), Fault> {
        if let Err(reason) = argument.map_or(Ok(()), place::without_ends) {
            return Err(Fault::Other(Trouble::lasting(format!("what follows {command}: {reason}"))));
        }
        if self.has_ended {
            return Err(Fault::NoReply(NoReply::Closed));
        }
        let mut line = command.as_bytes().to_vec();
        if let Some(argument) = argument {
            line.push(b' ');
            line.extend_from_slice(argument);
        }
        line.extend_from_slice(b"\r\n");
        let written = self.replies.get_ref().write_all(&line);
        written.map_err(|error| {
            // A server that closes the connection may have sent the reason.
            match self.last_words() {
                Some(reply) => Fault::Refused(reply),
                None => failed(error),
            }
        })
    }

    /// The next final reply.
    fn answer(&mut self) -> Result<Reply, Fault> {
        let mut reply = self.next()?;
        for _ in 0..PRELIMINARY_MAX {
            if !reply.is_preliminary() {
                return Ok(reply);
            }
            reply = self.next()?;
        }
        self.has_ended = true;
        let words = reply.words(self.terms.names);
        Err(Fault::Other(Trouble::lasting(format!(
            "no final reply after {PRELIMINARY_MAX} preliminary ones, the last of which was: {words}"
        ))))
    }

    /// The next reply, unless it closes the connection.
    fn next(&mut self) -> Result<Reply, Fault> {
        match self.replies.read() {
            Ok(reply) if reply.code == CLOSING => {
                self.has_ended = true;
                Err(Fault::Refused(reply))
            }
            Ok(reply) => Ok(reply),
            Err(no_reply) => {
                self.has_ended = true;
                Err(Fault::NoReply(no_reply))
            }
        }
    }

    fn parting_time(&self) -> Duration {
        self.terms.timeout.map_or(PARTING_TIME_MAX, |timeout| timeout.min(PARTING_TIME_MAX))
    }

    /// What the server says to a transfer or a connection that broke off, if it does so at once.
    pub fn last_words(&mut self) -> Option<Reply> {
        self.replies.get_ref().set_read_timeout(Some(self.parting_time())).ok()?;
        let reply = self.answer();
        self.replies.get_ref().set_read_timeout(self.terms.timeout).ok()?;
        match reply {
            Ok(reply) | Err(Fault::Refused(reply)) => (!reply.is_positive()).then_some(reply),
            Err(_) => None,
        }
    }

    /// Ends it in order. The reply is waited for only shortly: many servers have none.
    pub fn quit(mut self) {
        if self.tell("QUIT", None).is_ok() {
            let mut stream = self.replies.get_ref();
            let wait = Some(self.parting_time());
            // All is done; what the server says to it is of no interest.
            let _ = stream.set_read_timeout(wait).and_then(|()| stream.read(&mut [0; 512]));
        }
    }

    /// Ends it at once.
    pub fn cut(&mut self) {
        self.has_ended = true;
        // It may have ended before.
        let _ = self.replies.get_ref().shutdown(Shutdown::Both);
    }

    /// Gives a command that needs a data connection.
    ///
    /// # Errors
    /// When there is none, or the server does not begin.
    pub fn transfer(&mut self, command: &str, argument: Option<&[u8]>) -> Result<DataStream, Fault> {
        let stream = self.data_stream()?;
        self.tell(command, argument)?;
        for _ in 0..PRELIMINARY_MAX {
            let reply = self.next()?;
            match reply.code {
                // A restart marker, and a delay.
                110 | 120 => {}
                _ if reply.is_preliminary() => return Ok(DataStream { stream, has_reply: false }),
                // All at once.
                _ => return done(reply).map(|_| DataStream { stream, has_reply: true }),
            }
        }
        self.has_ended = true;
        let line = format!("no beginning of a transfer after {PRELIMINARY_MAX} preliminary replies");
        Err(Fault::Other(Trouble::lasting(line)))
    }

    /// Closes a data connection, and waits for what the server says of the transfer.
    ///
    /// # Errors
    /// When it has failed.
    pub fn finish(&mut self, data: DataStream) -> Result<(), Fault> {
        drop(data.stream);
        if data.has_reply {
            return Ok(());
        }
        match self.answer().and_then(done) {
            Err(Fault::NoReply(NoReply::Failed(error))) if is_timeout(&error) => {
                let patience = self.terms.patience();
                let line = format!("all was transferred, but the server did not confirm it for {patience}");
                Err(Fault::Other(Trouble::passing(line)))
            }
            ended => ended.map(drop),
        }
    }

    /// Opens a data connection. Addresses of IPv6 do not fit into the reply to PASV; of IPv4, EPSV is for servers that
    /// refuse PASV.
    fn data_stream(&mut self) -> Result<TcpStream, Fault> {
        let port = if self.is_extended { self.extended_port()? } else { self.passive_port()? };
        let Terms { timeout, .. } = self.terms;
        // With the interface of the other connection.
        let mut address = self.peer;
        address.set_port(port);
        connect(address, timeout).map_err(|error| {
            let line = if is_timeout(&error) {
                format!("no data connection to {address} for {}", self.terms.patience())
            } else {
                format!("cannot open the data connection to {address}: {error}")
            };
            Fault::Other(Trouble::passing(line))
        })
    }

    fn passive_port(&mut self) -> Result<u16, Fault> {
        let reply = self.ask("PASV", None)?;
        if reply.code == 227 {
            return reply.passive_port().map_err(|reason| self.unusable(&reply, reason));
        }
        match self.extended_port() {
            Ok(port) => {
                self.is_extended = true;
                Ok(port)
            }
            Err(Fault::Refused(other)) if other.code != CLOSING => {
                let names = self.terms.names;
                let line = format!(
                    "the server says {} to PASV, and {} to EPSV",
                    reply.words(names),
                    other.words(names)
                );
                Err(Fault::Other(Trouble { line, may_pass: reply.may_pass() || other.may_pass() }))
            }
            Err(fault) => Err(fault),
        }
    }

    fn extended_port(&mut self) -> Result<u16, Fault> {
        let reply = self.ask("EPSV", None)?;
        match reply.code {
            229 => reply.extended_port().map_err(|reason| self.unusable(&reply, reason)),
            _ => Err(Fault::Refused(reply)),
        }
    }

    /// A reply that is not what it should be.
    pub fn unusable(&self, reply: &Reply, reason: &str) -> Fault {
        let words = reply.words(self.terms.names);
        Fault::Other(Trouble::lasting(format!("the server says {words}: {reason}")))
    }
}

fn done(reply: Reply) -> Result<Reply, Fault> {
    if reply.is_positive() { Ok(reply) } else { Err(Fault::Refused(reply)) }
}

fn failed(error: io::Error) -> Fault {
    Fault::NoReply(NoReply::Failed(error))
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
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
