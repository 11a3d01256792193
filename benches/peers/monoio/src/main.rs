//! An echo server on monoio: one thread, one task per connection, every read and write a request to io_uring.
//!
//!     peer-monoio [PORT]          PORT 0, the default, lets the system choose

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

/// As much as the floor reads at once.
const READ_BYTES_MAX: usize = 64 * 1024;
const BACKLOG: i32 = 4096;

/// Requests that the kernel is handed at once: one for each connection at most.
const RING_ENTRIES: u32 = 4096;

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().expect("usage: peer-monoio [PORT]"));
    // What has come is taken up when it is asked for, and interrupts nobody: from Linux 6.1 on, and a fifth cheaper here.
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let runtime = RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).with_entries(RING_ENTRIES);
    let mut runtime = runtime.build()?;
    runtime.block_on(serve(port))
}

async fn serve(port: u16) -> io::Result<()> {
    let options = ListenerOpts::new().reuse_port(false).backlog(BACKLOG);
    let listener = TcpListener::bind_with_config(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &options)?;
    println!("listening echo tcp://{}\nready", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(echo(stream));
    }
}

/// Until the peer ends, or something fails, which concerns this connection alone.
async fn echo(mut stream: TcpStream) {
    // The kernel owns it while it reads or writes, so each connection has its own. Pages that no read has reached cost
    // nothing.
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES_MAX);
    loop {
        let (read, filled) = stream.read(buffer).await;
        let Ok(1..) = read else { return };
        // A vector is written as far as it was read into.
        let (written, emptied) = stream.write_all(filled).await;
        if written.is_err() {
            return;
        }
        buffer = emptied;
    }
}
