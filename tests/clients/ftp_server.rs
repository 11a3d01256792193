//! A small FTP server on a folder, which can misbehave.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::harness::{PATIENCE, reset};

/// How it misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It lets nobody in without an account.
    NoAnonymous,
    /// The same, with another reply to the name already, after which it is gone.
    HangsUp,
    /// The same, and then it is too busy for a file once.
    BusyOnce,
    /// It ends a file early, and says so.
    CutAndSaysSo,
    /// It ends a file early, and says that all is well.
    CutAndLies,
    /// It resets the connection of the file after some of it, and the other too.
    Vanishes,
    /// It takes some of a file, and says that its disk is full.
    Full,
    /// It renames nothing.
    NoRename,
    /// It says nothing at all.
    Silent,
    /// It says something, but not in FTP.
    NoFtp,
    /// Its passive address is another host's.
    WrongAddress,
    /// It has a size for every file, which is no size.
    OddSize,
}

/// The account that it knows.
pub const ACCOUNT: (&str, &str) = ("bob", "s3cret word");

/// It serves until the tests end.
pub struct FtpServer {
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl FtpServer {
    pub fn start(folder: &Path, fault: Fault) -> FtpServer {
        FtpServer::start_at("127.0.0.1:0", folder, fault)
    }

    pub fn start_at(address: &str, folder: &Path, fault: Fault) -> FtpServer {
        let listener = TcpListener::bind(address).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let said = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (folder, log, counter) = (folder.to_owned(), said.clone(), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection that came");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
                let conversation = Conversation {
                    lines: BufReader::new(stream),
                    root: folder.clone(),
                    current: "/".to_owned(),
                    fault,
                    log: log.clone(),
                    number: counter.fetch_add(1, Ordering::SeqCst) + 1,
                    data: None,
                    text: false,
                };
                // The other may go at any time, as this may.
                thread::spawn(move || conversation.run());
            }
        });
        FtpServer { address, said, connections }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ftp://{}{path}", self.address)
    }

    pub fn account_url(&self, path: &str) -> String {
        format!("ftp://{}@{}{path}", ACCOUNT.0, self.address)
    }

    /// How often somebody connected so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The commands that it was given so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("nobody panics with it").clone()
    }
}

struct Conversation {
    lines: BufReader<TcpStream>,
    root: PathBuf,
    current: String,
    fault: Fault,
    log: Arc<Mutex<Vec<String>>>,
    /// 1 is the first.
    number: usize,
    data: Option<TcpListener>,
    text: bool,
}

impl Conversation {
    fn say(&mut self, reply: &str) -> Option<()> {
        self.lines.get_mut().write_all(format!("{reply}\r\n").as_bytes()).ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        let full = if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", self.current) };
        self.root.join(full.trim_start_matches('/'))
    }

    fn run(mut self) -> Option<()> {
        match self.fault {
            Fault::Silent => return self.lines.read_line(&mut String::new()).ok().map(drop),
            Fault::NoFtp => return self.say("SSH-2.0-OpenSSH_9.2"),
            _ => self.say("220-Welcome\r\n220 to the test")?,
        }
        let mut user = String::new();
        let mut from = PathBuf::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return Some(());
            }
            let line = line.trim_end_matches("\r\n").to_owned();
            self.log.lock().expect("nobody panics with it").push(line.clone());
            let (command, name) = line.split_once(' ').unwrap_or((&line, ""));
            match command {
                "USER" if self.fault == Fault::HangsUp && name == "anonymous" => {
                    return self.say("550 Nobody comes in here.");
                }
                "USER" => {
                    user = name.to_owned();
                    self.say("331 And the password?")?;
                }
                "PASS" => {
                    let is_welcome = match user.as_str() {
                        "anonymous" => !matches!(self.fault, Fault::NoAnonymous | Fault::BusyOnce),
                        user => (user, name) == ACCOUNT,
                    };
                    self.say(if is_welcome { "230 Come in." } else { "530 Login incorrect." })?;
                }
                "PWD" => {
                    let reply = format!("257 \"{}\" is it", self.current);
                    self.say(&reply)?;
                }
                "CWD" if self.path(name).is_dir() => {
                    self.current = format!("/{}", self.path(name).strip_prefix(&self.root).ok()?.display());
                    self.say("250 There we are.")?;
                }
                "TYPE" => {
                    self.text = name.starts_with('A');
                    self.say("200 As you like.")?;
                }
                "PASV" | "EPSV" => {
                    let ip = self.lines.get_ref().local_addr().ok()?.ip();
                    let data = TcpListener::bind((ip, 0)).ok()?;
                    let port = data.local_addr().ok()?.port();
                    self.data = Some(data);
                    let host = if self.fault == Fault::WrongAddress { "192,0,2,1" } else { "127,0,0,1" };
                    self.say(&match command {
                        "EPSV" => format!("229 Come (|||{port}|)"),
                        _ => format!("227 Come ({host},{},{})", port / 256, port % 256),
                    })?;
                }
                "SIZE" if self.fault == Fault::OddSize => self.say("213 99999999999999999999999")?,
                "SIZE" if self.path(name).is_file() => {
                    let reply = format!("213 {}", fs::metadata(self.path(name)).ok()?.len());
                    self.say(&reply)?;
                }
                "RETR" if self.fault == Fault::BusyOnce && self.number == 1 => self.say("450 Not now.")?,
                "RETR" if self.path(name).is_file() => {
                    let content = fs::read(self.path(name)).ok()?;
                    self.send(&content)?;
                }
                "LIST" | "NLST" => {
                    let mut names: Vec<_> = fs::read_dir(self.path(""))
                        .ok()?
                        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                        .collect();
                    names.sort();
                    let detail = if command == "LIST" { "-rw-r--r-- 1 ftp ftp 5 Jan  1 12:00 " } else { "" };
                    let listing: String = names.iter().map(|name| format!("{detail}{name}\r\n")).collect();
                    self.send(listing.as_bytes())?;
                }
                "STOR" if self.path(name).parent()?.is_dir() => self.take(name)?,
                "RNFR" if self.path(name).exists() => {
                    from = self.path(name);
                    self.say("350 To what?")?;
                }
                "RNTO" if self.fault == Fault::NoRename => self.say("550 Permission denied.")?,
                "RNTO" => self.done(fs::rename(&from, self.path(name)))?,
                "DELE" => self.done(fs::remove_file(self.path(name)))?,
                "MKD" if fs::create_dir(self.path(name)).is_ok() => self.say("257 It is made.")?,
                "RMD" => self.done(fs::remove_dir(self.path(name)))?,
                "QUIT" => return self.say("221 Bye."),
                "CWD" | "SIZE" | "RETR" | "STOR" | "RNFR" | "MKD" => {
                    self.say("550 There is no such thing.")?
                }
                _ => self.say("502 What?")?,
            }
        }
    }

    fn done(&mut self, result: std::io::Result<()>) -> Option<()> {
        match result {
            Ok(()) => self.say("250 Done."),
            Err(error) => self.say(&format!("550 {error}")),
        }
    }

    fn accept(&mut self) -> Option<TcpStream> {
        let (data, _) = self.data.take()?.accept().ok()?;
        data.set_read_timeout(Some(PATIENCE)).ok()?;
        self.say("150 Here it comes.")?;
        Some(data)
    }

    fn send(&mut self, content: &[u8]) -> Option<()> {
        let mut data = self.accept()?;
        let half = &content[..content.len() / 2];
        match self.fault {
            Fault::CutAndSaysSo => {
                data.write_all(half).ok()?;
                drop(data);
                self.say("426 Broken off.")
            }
            Fault::CutAndLies => {
                data.write_all(half).ok()?;
                drop(data);
                self.say("226 Complete.")
            }
            Fault::Vanishes => {
                data.write_all(half).ok()?;
                reset(data);
                None
            }
            _ => {
                data.write_all(content).ok()?;
                drop(data);
                self.say("226 Complete.")
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<()> {
        let path = self.path(name);
        let mut data = self.accept()?;
        if matches!(self.fault, Fault::Full | Fault::Vanishes) {
            let mut some = [0; 10];
            data.read_exact(&mut some).ok()?;
            fs::write(&path, some).ok()?;
            if self.fault == Fault::Vanishes {
                return None;
            }
            drop(data);
            return self.say("552 The disk is full.");
        }
        let mut content = Vec::new();
        data.read_to_end(&mut content).ok()?;
        fs::write(&path, content).ok()?;
        self.say("226 Complete.")
    }
}
