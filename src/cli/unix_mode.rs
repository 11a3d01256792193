//! The mode of a unix socket as it is written on the command line: `0660`, `660`.

use std::str::FromStr;

/// A mode, without the bits that mean nothing for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixMode(pub u32);

impl FromStr for UnixMode {
    type Err = String;

    fn from_str(text: &str) -> Result<UnixMode, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        // The parser of integers would also take a sign.
        let is_octal = !digits.is_empty() && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        is_octal
            .then(|| u32::from_str_radix(digits, 8).ok())
            .flatten()
            .filter(|&mode| mode <= 0o777)
            .map(UnixMode)
            .ok_or_else(|| "expected an octal mode from 0 to 0777, such as 0660".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_with_or_without_a_zero_in_front() {
        for (text, mode) in [("0660", 0o660), ("660", 0o660), ("0o777", 0o777), ("0", 0), ("00600", 0o600)] {
            assert_eq!(text.parse(), Ok(UnixMode(mode)), "{text}");
        }
        for bad in ["", "0o", "-1", "+660", "0680", "1777", "u=rw", "0x1ff", "99999999999999", " 660"] {
            assert!(bad.parse::<UnixMode>().is_err(), "{bad:?}");
        }
    }
}
