//! A small HTTP server whose answers are the test's, sound or not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use socket2::SockRef;

use crate::harness::PATIENCE;

/// What was asked.
pub struct Request {
    /// From 0, over all connections.
    pub number: usize,
    pub path: String,
    /// All lines of it.
    pub head: String,
}

/// It serves until the tests end.
pub struct Web {
    pub port: u16,
    asked: Arc<AtomicUsize>,
}

impl Web {
    /// Each connection has one request, which `answer` answers; then it is closed.
    pub fn serve(answer: impl Fn(Request, &mut TcpStream) + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, count) = (Arc::new(answer), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection that came");
                let (answer, count) = (answer.clone(), count.clone());
                thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
                    let Some((path, head)) = read_head(&stream) else { return };
                    answer(Request { number: count.fetch_add(1, Ordering::SeqCst), path, head }, &mut stream);
                    // One that is to be reset is closed as it is.
                    if SockRef::from(&stream).linger().is_ok_and(|linger| linger.is_some()) {
                        return;
                    }
                    // What is closed with bytes unread is reset, and the answer with it.
                    let _ = stream.shutdown(Shutdown::Write);
                    let _ = stream.read(&mut [0]);
                });
            }
        });
        Web { port, asked }
    }

    /// A server that has one body, whatever is asked.
    pub fn of(body: &'static [u8]) -> Web {
        Web::serve(move |_, stream| give(stream, body))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// How many requests there were.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn read_head(stream: &TcpStream) -> Option<(String, String)> {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while lines.read_line(&mut head).ok()? > 2 {}
    let path = head.split(' ').nth(1)?.to_owned();
    Some((path, head))
}

/// A sound answer.
pub fn give(stream: &mut TcpStream, body: &[u8]) {
    put(stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    put(stream, body);
}

/// An answer without a body.
pub fn give_status(stream: &mut TcpStream, status: &str) {
    put(stream, format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
}

/// Sends bytes; whoever should read them may have gone.
pub fn put(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
