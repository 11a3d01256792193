//! Endless streams of messages, of which each part can be had at once: what a connection asks, and what the answers must be.

/// So much of a stream can be had in one piece.
pub const WINDOW_BYTES: usize = 256 << 10;

/// So many messages of a stream differ, so that one which is lost, doubled or another's is noticed.
const MESSAGES: usize = 31;

/// A stream in which the same messages come again and again.
pub struct Cycle {
    bytes: Vec<u8>,
    period: usize,
    message_len: usize,
}

impl Cycle {
    /// Made of messages of equal length.
    fn new(messages: impl IntoIterator<Item = Vec<u8>>) -> Cycle {
        let mut bytes = messages.into_iter().flatten().collect::<Vec<u8>>();
        let period = bytes.len();
        bytes = bytes.into_iter().cycle().take(period + WINDOW_BYTES).collect();
        Cycle { bytes, period, message_len: period / MESSAGES }
    }

    /// Messages of so many bytes: small letters, and a newline at the end.
    pub fn lines(len: usize) -> Cycle {
        Cycle::new((0..MESSAGES).map(|number| line(number, len)))
    }

    /// The same in capital letters.
    pub fn capital_lines(len: usize) -> Cycle {
        Cycle::new((0..MESSAGES).map(|number| line(number, len).to_ascii_uppercase()))
    }

    /// The same as somebody in a room hears them from `nick`.
    pub fn lines_of(nick: &str, len: usize) -> Cycle {
        Cycle::new((0..MESSAGES).map(|number| [nick.as_bytes(), b": ", &line(number, len)].concat()))
    }

    /// The length of each message.
    pub fn message_len(&self) -> u64 {
        self.message_len as u64
    }

    /// The bytes from a place in the stream on, as many as are wanted, [`WINDOW_BYTES`] at most.
    pub fn from(&self, place: u64, len: usize) -> &[u8] {
        let start = (place % self.period as u64) as usize;
        &self.bytes[start..start + len.min(WINDOW_BYTES)]
    }

    /// Where a stream begins for the connection with this index: neighbours begin with different messages.
    pub fn start(&self, index: usize) -> u64 {
        (index % MESSAGES * self.message_len) as u64
    }
}

/// Small letters in an order that has no period of its own.
fn line(number: usize, len: usize) -> Vec<u8> {
    let mut random = number as u32 + 1;
    let letter = |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (random >> 24) as u8 % 26
    };
    let mut line: Vec<u8> = (1..len).map(letter).collect();
    line.push(b'\n');
    line
}
