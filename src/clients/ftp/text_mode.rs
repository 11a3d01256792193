//! Line ends of FTP's text mode: CRLF on the network, LF here.

use std::io::{self, Read};

/// Reads what comes from the network, with LF for each CRLF. A CR alone stays.
pub struct FromNetwork<R> {
    inner: R,
    /// The last byte was a CR, which is held back until it is known what follows.
    after_cr: bool,
    ended: bool,
}

impl<R: Read> FromNetwork<R> {
    pub fn new(inner: R) -> FromNetwork<R> {
        FromNetwork { inner, after_cr: false, ended: false }
    }
}

impl<R: Read> Read for FromNetwork<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Room for the byte held back, and for one more.
        let Some(room) = buffer.len().checked_sub(1).filter(|room| *room > 0) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer of two bytes at least"));
        };
        let mut piece = vec![0; room];
        while !self.ended {
            let len = self.inner.read(&mut piece)?;
            self.ended = len == 0;
            let mut filled = 0;
            for &byte in &piece[..len] {
                if self.after_cr && byte != b'\n' {
                    buffer[filled] = b'\r';
                    filled += 1;
                }
                self.after_cr = byte == b'\r';
                if !self.after_cr {
                    buffer[filled] = byte;
                    filled += 1;
                }
            }
            if self.ended && self.after_cr {
                buffer[filled] = b'\r';
                filled += 1;
            }
            if filled > 0 {
                return Ok(filled);
            }
        }
        Ok(0)
    }
}

/// Reads what goes to the network, with CRLF for each LF that is not part of one already.
pub struct ToNetwork<R> {
    inner: R,
    after_cr: bool,
}

impl<R: Read> ToNetwork<R> {
    pub fn new(inner: R) -> ToNetwork<R> {
        ToNetwork { inner, after_cr: false }
    }
}

impl<R: Read> Read for ToNetwork<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Each byte may become two.
        let room = buffer.len() / 2;
        if room == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer of two bytes at least"));
        }
        let mut piece = vec![0; room];
        let len = self.inner.read(&mut piece)?;
        let mut filled = 0;
        for &byte in &piece[..len] {
            if byte == b'\n' && !self.after_cr {
                buffer[filled] = b'\r';
                filled += 1;
            }
            buffer[filled] = byte;
            filled += 1;
            self.after_cr = byte == b'\r';
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(1);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn all(mut reader: impl Read) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            match reader.read(&mut buffer).expect("memory can be read") {
                0 => return all,
                len => all.extend_from_slice(&buffer[..len]),
            }
        }
    }

    #[test]
    fn lines_end_as_they_should_on_either_side() {
        for (here, network) in [
            (&b"one\ntwo\n"[..], &b"one\r\ntwo\r\n"[..]),
            (b"", b""),
            (b"\n", b"\r\n"),
            (b"\n\n\n", b"\r\n\r\n\r\n"),
            (b"a\rb", b"a\rb"),
            (b"no end", b"no end"),
            (b"cr at the end\r", b"cr at the end\r"),
        ] {
            assert_eq!(all(FromNetwork::new(network)), here);
            assert_eq!(all(FromNetwork::new(Slow(network))), here);
            assert_eq!(all(ToNetwork::new(here)), network);
            assert_eq!(all(ToNetwork::new(Slow(here))), network);
        }
        // What has the network's ends already keeps them.
        assert_eq!(all(ToNetwork::new(Slow(b"one\r\ntwo\r\n"))), b"one\r\ntwo\r\n");
        assert_eq!(all(FromNetwork::new(Slow(b"\r\r\n"))), b"\r\n");
    }
}
