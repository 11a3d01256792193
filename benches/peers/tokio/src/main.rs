//! An echo server on tokio: one thread (`current_thread`), one task per connection.
//!
//!     peer-tokio [PORT]          PORT 0, the default, lets the system choose

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// As much as the floor reads at once. A read that does not fill it has taken all, and tokio makes no other.
const READ_BYTES_MAX: usize = 64 * 1024;
const BACKLOG: u32 = 4096;

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().expect("usage: peer-tokio [PORT]"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(serve(port))
}

async fn serve(port: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening echo tcp://{}\nready", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(echo(stream));
    }
}

/// Until the peer ends, or something fails, which concerns this connection alone.
async fn echo(mut stream: TcpStream) {
    // Not zeroed: pages that no read has reached cost nothing.
    let mut buffer = Vec::with_capacity(READ_BYTES_MAX);
    while let Ok(1..) = stream.read_buf(&mut buffer).await {
        if stream.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
    }
}
