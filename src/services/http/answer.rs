//! What requests are answered with: statuses, and their texts with the date of the second.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The page at `/`.
const PAGE: &str = "<h1>Hello world!</h1>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    HeadTooLarge,
    NotImplemented,
    VersionNotSupported,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::NotImplemented => "501 Not Implemented",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// What becomes of the connection behind an answer, and whether the answer says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It stays, as is usual in HTTP/1.1.
    Stays,
    /// It stays, which a peer that speaks HTTP/1.0 has to be told.
    StaysAsAsked,
    /// It is closed.
    Closes,
}

impl Persistence {
    const ALL: [Persistence; 3] = [Persistence::Stays, Persistence::StaysAsAsked, Persistence::Closes];

    fn field(self) -> &'static str {
        match self {
            Persistence::Stays => "",
            Persistence::StaysAsAsked => "Connection: keep-alive\r\n",
            Persistence::Closes => "Connection: close\r\n",
        }
    }
}

/// The answer to one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub status: Status,
    /// The request was HEAD: the answer has no body.
    pub is_head: bool,
    pub persistence: Persistence,
}

/// The texts of all answers. That of the page is made once a second, not once a request.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// The second since 1970 that `date` and `pages` are of.
    second: Option<u64>,
    date: String,
    /// The page in each [`Persistence`], in the order of [`Persistence::ALL`].
    pages: [Vec<u8>; 3],
    /// Any other answer, in memory that is used again.
    other: Vec<u8>,
}

impl Texts {
    /// The answer in full, at the time `wall`.
    pub fn text(&mut self, answer: Answer, wall: SystemTime) -> &[u8] {
        // A clock that is set before 1970 is told as 1970.
        let second = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            self.date = imf_fixdate(second);
            for (page, persistence) in self.pages.iter_mut().zip(Persistence::ALL) {
                write(page, Status::Ok, persistence, &self.date, PAGE);
            }
        }
        let (text, body_len) = if answer.status == Status::Ok {
            (&self.pages[answer.persistence as usize], PAGE.len())
        } else {
            // The reason alone: nothing of the request comes back.
            let body = answer.status.line();
            write(&mut self.other, answer.status, answer.persistence, &self.date, body);
            (&self.other, body.len())
        };
        if answer.is_head { &text[..text.len() - body_len] } else { text }
    }
}

fn write(out: &mut Vec<u8>, status: Status, persistence: Persistence, date: &str, body: &str) {
    let kind = if status == Status::Ok { "html" } else { "plain" };
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {}\r\nServer: tidewheel\r\nDate: {date}\r\nContent-Type: text/{kind}; charset=utf-8\r\n\
         Content-Length: {}\r\n{allow}{}\r\n{body}",
        status.line(),
        body.len(),
        persistence.field(),
    );
    out.clear();
    out.extend_from_slice(text.as_bytes());
}

/// The date in the one form that HTTP wants: `Sat, 21 Nov 2026 04:05:06 GMT`.
fn imf_fixdate(second: u64) -> String {
    // A clock that is set beyond the year 9999 is told as the end of it.
    let second = i64::try_from(second).unwrap_or(i64::MAX);
    let timestamp = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(texts: &mut Texts, status: Status, wall: SystemTime) -> String {
        let answer = Answer { status, is_head: false, persistence: Persistence::Stays };
        String::from_utf8_lossy(texts.text(answer, wall)).into_owned()
    }

    #[test]
    fn dates_are_imf_fixdates() {
        for (second, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_795_233_906, "Sat, 21 Nov 2026 04:05:06 GMT"),
        ] {
            assert_eq!(imf_fixdate(second), date);
        }
        assert!(imf_fixdate(u64::MAX).contains(" 9999 "));
    }

    #[test]
    fn the_page_is_made_once_a_second_and_follows_a_clock_that_is_set_back() {
        let mut texts = Texts::default();
        let start = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert!(text(&mut texts, Status::Ok, start).contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
        texts.pages[0][0] = b'X';
        assert!(text(&mut texts, Status::Ok, start + Duration::from_millis(999)).starts_with("XTTP"));
        for (wall, date) in [
            (start + Duration::from_secs(1), "Sun, 06 Nov 1994 08:49:38 GMT"),
            (start - Duration::from_secs(1), "Sun, 06 Nov 1994 08:49:36 GMT"),
            (UNIX_EPOCH - Duration::from_secs(1), "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            for status in [Status::Ok, Status::NotFound] {
                assert!(text(&mut texts, status, wall).contains(&format!("\r\nDate: {date}\r\n")));
            }
        }
    }
}
