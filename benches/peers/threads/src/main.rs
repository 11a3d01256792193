//! An echo server with a thread for each connection, which blocks: the standard library and nothing else.
//!
//!     peer-threads [PORT]          PORT 0, the default, lets the system choose

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

/// Enough for the largest request of any case. More would be zeroed, and be memory, for nothing.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The buffer is not on it. Less is not enough for the standard library.
const STACK_BYTES: usize = 32 * 1024;

fn main() -> io::Result<()> {
    let port: u16 =
        std::env::args().nth(1).map_or(0, |port| port.parse().expect("usage: peer-threads [PORT]"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("listening echo tcp://{}\nready", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        thread::Builder::new().stack_size(STACK_BYTES).spawn(|| echo(stream))?;
    }
    Ok(())
}

/// Until the peer ends, or something fails, which concerns this connection alone.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; READ_BYTES_MAX];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}
