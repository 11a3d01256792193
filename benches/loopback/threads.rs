//! The same services as blocking threads do them, one for each connection, as well as they can.
//!
//! Stacks are small, buffers belong to the threads and are used again, no thread is made while one is at rest, and nothing
//! is written in more calls than it takes. There are no limits and no deadlines, except that who takes nothing for some
//! seconds leaves the room: less than what the engine does for its connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{Builder, Scope};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidewheel::services::uppercase::uppercase_into;

/// The stack of a thread, in bytes: all buffers are elsewhere.
const STACK_BYTES: usize = 64 << 10;

/// Bytes that one read asks for: as many as the engine's.
const READ_BYTES: usize = 64 << 10;

/// How long a member of a room may take nothing of what it is sent. Meanwhile the room waits.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What a thread has for its connections, one after the other.
pub struct Memory {
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Serves every connection in a thread of its own until the listener is shut down and all connections are gone.
///
/// A thread that has served a connection accepts the next one. Another thread is made only when the last one that could
/// accept has something to do, so that connections that come and go cost no threads.
pub fn serve<F>(listener: &TcpListener, conversation: F)
where
    F: Fn(TcpStream, &mut Memory) -> io::Result<()> + Sync,
{
    let idle = AtomicUsize::new(0);
    let serving = Serving { listener, idle: &idle, conversation: &conversation };
    std::thread::scope(|scope| serving.accept_and_serve(scope));
}

struct Serving<'env, F> {
    listener: &'env TcpListener,
    /// How many threads wait in accept.
    idle: &'env AtomicUsize,
    conversation: &'env F,
}

impl<'env, F> Serving<'env, F>
where
    F: Fn(TcpStream, &mut Memory) -> io::Result<()> + Sync,
{
    fn accept_and_serve<'scope>(&self, scope: &'scope Scope<'scope, 'env>) {
        let mut memory = Memory { input: vec![0; READ_BYTES], output: Vec::new() };
        loop {
            self.idle.fetch_add(1, Ordering::Relaxed);
            let accepted = self.listener.accept();
            let was_last = self.idle.fetch_sub(1, Ordering::Relaxed) == 1;
            match accepted {
                Ok((stream, _)) => {
                    if was_last {
                        self.start_another(scope);
                    }
                    // A connection that fails concerns nobody else.
                    let _ = (self.conversation)(stream, &mut memory);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn start_another<'scope>(&self, scope: &'scope Scope<'scope, 'env>) {
        let serving = Serving { ..*self };
        Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, move || serving.accept_and_serve(scope))
            .expect("the system has room for one more thread");
    }
}

/// Sends everything back.
pub fn echo(mut stream: &TcpStream, memory: &mut Memory) -> io::Result<()> {
    loop {
        match stream.read(&mut memory.input)? {
            0 => return Ok(()),
            count => stream.write_all(&memory.input[..count])?,
        }
    }
}

/// Sends everything back in upper case, with the function that the engine's service uses as well.
pub fn uppercase(mut stream: &TcpStream, memory: &mut Memory) -> io::Result<()> {
    let Memory { input, output } = memory;
    // The first bytes of a code point whose others have not come yet.
    let mut kept = 0;
    loop {
        let count = stream.read(&mut input[kept..])?;
        if count == 0 {
            return stream.write_all(&input[..kept]);
        }
        let end = kept + count;
        output.clear();
        let consumed = uppercase_into(&input[..end], output);
        stream.write_all(output)?;
        input.copy_within(consumed..end, 0);
        kept = end - consumed;
    }
}

/// Sends each datagram back with the local time before it, until it is `stopping` and another one comes. One thread, as
/// there are no connections; a datagram is received behind the place of the time and sent from where it is.
pub fn tell_time(socket: &UdpSocket, stopping: &AtomicBool) -> io::Result<()> {
    let zone = TimeZone::system();
    let mut second = None;
    let mut datagram = vec![0; TIME_BYTES + READ_BYTES];
    loop {
        let (count, from) = socket.recv_from(&mut datagram[TIME_BYTES..])?;
        if stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = unix_seconds();
        if second.replace(now) != Some(now) {
            datagram[..TIME_BYTES].copy_from_slice(time_text(now, &zone).as_bytes());
        }
        // One that cannot be answered concerns nobody else.
        let _ = socket.send_to(&datagram[..TIME_BYTES + count], from);
    }
}

/// The length of `[Sat Nov 21 04:05:06 2026]`.
pub const TIME_BYTES: usize = 26;

/// The time in brackets, as C's ctime writes it.
pub fn time_text(unix_seconds: i64, zone: &TimeZone) -> String {
    let time = Timestamp::from_second(unix_seconds).expect("the clock is set to a year below 10,000");
    time.to_zoned(zone.clone()).strftime("[%a %b %e %H:%M:%S %Y]").to_string()
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "a program of its own reads the clock itself")]
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// The one room of the chat.
#[derive(Default)]
pub struct Room {
    members: Mutex<Vec<Arc<TcpStream>>>,
}

impl Room {
    fn members(&self) -> MutexGuard<'_, Vec<Arc<TcpStream>>> {
        self.members.lock().expect("nothing panics while it has the room")
    }

    /// Says something to all but the speaker.
    ///
    /// The thread that heard it writes it to each member itself. A thread for what a member is to be sent, behind a
    /// channel, would have to be woken for every delivery. The room is locked meanwhile, so that all hear the same in
    /// the same order.
    fn say(&self, speaker: &Arc<TcpStream>, lines: &[u8]) {
        for member in self.members().iter().filter(|member| !Arc::ptr_eq(member, speaker)) {
            if (&**member).write_all(lines).is_err() {
                // Its own thread hears of this and leaves the room.
                let _ = member.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

/// Asks for a nickname and passes each line on to all others in the room. There are no commands and no other rooms.
pub fn chat(stream: TcpStream, memory: &mut Memory, room: &Room) -> io::Result<()> {
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    (&stream).write_all(b"nickname: ")?;
    let stream = Arc::new(stream);
    let ended = converse(&stream, memory, room);
    room.members().retain(|member| !Arc::ptr_eq(member, &stream));
    ended
}

fn converse(stream: &Arc<TcpStream>, memory: &mut Memory, room: &Room) -> io::Result<()> {
    let Memory { input, output } = memory;
    let (mut nick, mut end) = (None, 0);
    loop {
        if end == input.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        let count = (&**stream).read(&mut input[end..])?;
        if count == 0 {
            return Ok(());
        }
        end += count;
        // All lines that have come together are passed on together.
        output.clear();
        let mut begin = 0;
        while let Some(len) = memchr::memchr(b'\n', &input[begin..end]) {
            let line = &input[begin..begin + len];
            begin += len + 1;
            match &nick {
                None => {
                    let name = String::from_utf8_lossy(line).into_owned();
                    // Nothing is said to the room that comes before the welcome.
                    let mut members = room.members();
                    let welcome = format!("* welcome to lobby, {name}: {} here\n", members.len() + 1);
                    (&**stream).write_all(welcome.as_bytes())?;
                    members.push(stream.clone());
                    nick = Some([name.as_bytes(), b": "].concat());
                }
                Some(nick) => {
                    output.extend_from_slice(nick);
                    output.extend_from_slice(line);
                    output.push(b'\n');
                }
            }
        }
        if !output.is_empty() {
            room.say(stream, output);
        }
        input.copy_within(begin..end, 0);
        end -= begin;
    }
}
