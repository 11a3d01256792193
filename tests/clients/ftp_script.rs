//! An FTP server that replies what a test says, byte for byte, on loopback.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::PATIENCE;

/// The beginning of a command, and the replies to it; the first rule that fits is used. In replies there may be:
///
/// - `{port}`: opens a listener for the data connection; its port as `p1,p2`, as in 227
/// - `{tcp}`: the same as one number, as in 229
/// - `{data}`: sends the content on the data connection, which then ends
/// - `{take}`: reads the data connection to its end
/// - `{close}`: closes the control connection, and with it the data connection
///
/// The greeting is the reply to an empty command.
pub type Rule<'a> = (&'a str, &'a [u8]);

/// What it does where the test says nothing.
const USUAL: [(&str, &[u8]); 13] = [
    ("", b"220 Welcome\r\n"),
    ("USER ", b"331 And the password?\r\n"),
    ("PASS ", b"230 Come in\r\n"),
    ("TYPE ", b"200 As you like\r\n"),
    ("PASV", b"227 Entering Passive Mode (127,0,0,1,{port})\r\n"),
    ("EPSV", b"229 Entering Extended Passive Mode (|||{tcp}|)\r\n"),
    ("RETR ", b"150 Here it comes\r\n{data}226 Done\r\n"),
    ("NLST", b"150 Here it comes\r\n{data}226 Done\r\n"),
    ("LIST", b"150 Here it comes\r\n{data}226 Done\r\n"),
    ("STOR ", b"150 Send it\r\n{take}226 Stored\r\n"),
    ("CWD ", b"250 There we are\r\n"),
    ("QUIT", b"221 Bye\r\n{close}"),
    ("", b"502 Unknown command\r\n"),
];

/// It serves until the tests end.
pub struct Scripted {
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Scripted {
    /// Serves one content on 127.0.0.1.
    pub fn start(rules: &[Rule], content: &[u8]) -> Scripted {
        Scripted::start_at("127.0.0.1:0", rules, content)
    }

    pub fn start_at(address: &str, rules: &[Rule], content: &[u8]) -> Scripted {
        let listener = TcpListener::bind(address).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let said = Arc::new(Mutex::new(Vec::new()));
        let rules: Vec<(String, Vec<u8>)> = rules
            .iter()
            .chain(&USUAL)
            .map(|(command, replies)| ((*command).to_owned(), replies.to_vec()))
            .collect();
        let (log, content) = (said.clone(), content.to_vec());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection that came");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
                let (rules, log, content) = (rules.clone(), log.clone(), content.clone());
                thread::spawn(move || {
                    let end = match serve(stream, &rules, &log, &content) {
                        Ok(()) => b"<closed>".to_vec(),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => b"<silence>".to_vec(),
                        Err(_) => b"<broken>".to_vec(),
                    };
                    log.lock().expect("nobody panics with it").push(end);
                });
            }
        });
        Scripted { address, said }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ftp://{}{path}", self.address)
    }

    /// The commands that it was given so far, without their line ends; `<closed>` when a connection has ended.
    pub fn said(&self) -> Vec<Vec<u8>> {
        self.said.lock().expect("nobody panics with it").clone()
    }

    pub fn has_said(&self, line: &[u8]) -> bool {
        self.said().iter().any(|said| said == line)
    }
}

fn serve(
    stream: TcpStream,
    rules: &[(String, Vec<u8>)],
    log: &Mutex<Vec<Vec<u8>>>,
    content: &[u8],
) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut listener = None;
    let mut line = Vec::new();
    loop {
        // The last of the usual rules fits everything.
        let fits = |rule: &&(String, Vec<u8>)| {
            line.starts_with(rule.0.as_bytes()) && (!rule.0.is_empty() || line.is_empty())
        };
        let (_, replies) = rules.iter().find(fits).unwrap_or(&rules[rules.len() - 1]);
        if !reply(lines.get_mut(), replies, &mut listener, content)? {
            return Ok(());
        }
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
            line.pop();
        }
        log.lock().expect("nobody panics with it").push(line.clone());
    }
}

/// Does what stands in a rule. Whether the connection goes on.
fn reply(
    control: &mut TcpStream,
    mut replies: &[u8],
    listener: &mut Option<TcpListener>,
    content: &[u8],
) -> io::Result<bool> {
    let nobody = || io::Error::other("there is no listener");
    while let Some(open) = replies.iter().position(|&byte| byte == b'{') {
        let close = replies.iter().position(|&byte| byte == b'}').expect("a word ends");
        control.write_all(&replies[..open])?;
        match &replies[open + 1..close] {
            word @ (b"port" | b"tcp") => {
                let ip = control.local_addr()?.ip();
                let opened = TcpListener::bind((ip, 0))?;
                let port = opened.local_addr()?.port();
                *listener = Some(opened);
                let text =
                    if word == b"tcp" { port.to_string() } else { format!("{},{}", port / 256, port % 256) };
                control.write_all(text.as_bytes())?;
            }
            b"data" => listener.take().ok_or_else(nobody)?.accept()?.0.write_all(content)?,
            b"take" => {
                let (mut data, _) = listener.take().ok_or_else(nobody)?.accept()?;
                data.set_read_timeout(Some(PATIENCE))?;
                data.read_to_end(&mut Vec::new())?;
            }
            b"close" => return Ok(false),
            word => panic!("no such word: {}", word.escape_ascii()),
        }
        replies = &replies[close + 1..];
    }
    control.write_all(replies)?;
    Ok(true)
}
