//! URLs: what is taken for one, and what those of FTP stand for.

use std::io;
use std::net::SocketAddr;

use percent_encoding::percent_decode_str;
use url::{ParseError, Url};

/// The port of FTP.
const FTP_PORT: u16 = 21;

/// Reads a URL of one of `schemes`.
///
/// # Errors
/// What is wrong with it. A password in it is not repeated.
pub fn url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) => {
            let mut shown = url.clone();
            let shown = match shown.set_password(None) {
                Ok(()) => shown.into(),
                // It can have none, but what is no URL of ours may have been meant as another.
                Err(()) => without_password(text),
            };
            accept(url, schemes).map_err(|reason| format!("{shown} {reason}"))
        }
        Err(error) => {
            let shown = without_password(text);
            Err(match error {
                ParseError::RelativeUrlWithoutBase => {
                    format!("'{shown}' is no URL: write {}://{shown}", schemes[0])
                }
                _ => format!("'{shown}' is no URL: {error}"),
            })
        }
    }
}

/// Whether a URL is one that we can go to; what is wrong with it otherwise, as it follows the URL in a sentence.
pub fn accept(url: Url, schemes: &[&str]) -> Result<Url, String> {
    if !schemes.contains(&url.scheme()) {
        let all = schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>();
        return Err(format!("begins with none of {}", all.join(", ")));
    }
    if url.password().is_some() {
        return Err(format!(
            "has a password, which others can read on a command line: leave it out{}",
            if url.scheme() == "ftp" {
                "; it is asked for, or taken from TIDEWHEEL_FTP_PASSWORD"
            } else {
                ""
            }
        ));
    }
    if url.scheme() == "ftp" {
        FtpPlace::of(&url).map_err(|reason| format!("cannot be used: {reason}"))?;
    } else if !url.username().is_empty() {
        return Err("names an account, which only ftp:// can use".to_owned());
    }
    Ok(url)
}

/// What is no URL, as it may be shown: without what may be a password, `user:HERE@host`.
fn without_password(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else { return text.to_owned() };
    let from = before.rfind('/').map_or(0, |slash| slash + 1);
    match before[from..].find(':') {
        Some(colon) => format!("{}:...@{after}", &before[..from + colon]),
        None => text.to_owned(),
    }
}

/// What an FTP URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FtpPlace {
    url: Url,
    /// `None` is anonymous.
    pub user: Option<String>,
    /// From the folder in which the login ends; from the top if it begins with a slash.
    pub path: String,
}

impl FtpPlace {
    /// # Errors
    /// What of it cannot be said in FTP.
    pub fn of(url: &Url) -> Result<FtpPlace, String> {
        // The slash after the host separates; one more is part of the path.
        let path = decoded(url.path().strip_prefix('/').unwrap_or_default())?;
        let user = decoded(url.username())?;
        Ok(FtpPlace { url: url.clone(), user: (!user.is_empty()).then_some(user), path })
    }

    /// The account and its server, as a person would name them.
    pub fn account(&self) -> String {
        let server = self.server();
        match &self.user {
            Some(user) => format!("{user}@{server}"),
            None => server,
        }
    }

    /// The host, and the port if it is not that of FTP: behind another one is another server.
    pub fn server(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Looks the host up.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.url.socket_addrs(|| Some(FTP_PORT))
    }
}

/// Decodes a part of a URL that becomes a part of an FTP command: one line of text.
fn decoded(part: &str) -> Result<String, String> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| "it is not UTF-8".to_owned())?;
    one_line(&text)?;
    Ok(text.into_owned())
}

/// # Errors
/// When the text would not stay within the line of its command.
pub fn one_line(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) { Err("it has control characters".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["http", "https", "ftp"];

    #[test]
    fn what_is_no_url_is_told_with_its_remedy() {
        for (text, reason) in [
            ("example.com/x", "write http://example.com/x"),
            ("localhost:8080/x", "begins with none of http://, https://, ftp://"),
            ("gopher://h/", "begins with none of"),
            ("http://", "is no URL"),
            ("http://h:99999/", "invalid port"),
            ("http://user@h/", "only ftp:// can use"),
            ("ftp://u:secret@h/x", "TIDEWHEEL_FTP_PASSWORD"),
            ("http://u:secret@h/x", "leave it out"),
            ("u@h/x:secret@h", "'u@h/x:...@h'"),
            ("u:secret@h/x", "u:...@h/x begins with none of"),
            ("ftp:/u:secret@h", "leave it out"),
            ("ftp://h/a%0D%0ADELE%20b", "control characters"),
            ("ftp://a%0Ab@h/", "control characters"),
            ("ftp://h/%FF", "not UTF-8"),
        ] {
            let told = url(text, &ALL).expect_err(text);
            assert!(told.contains(reason) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn what_ftp_urls_stand_for() {
        for (text, user, path) in [
            ("ftp://h", None, ""),
            ("ftp://h/", None, ""),
            ("ftp://h/a/b%20c", None, "a/b c"),
            ("ftp://bob@h:2121/a", Some("bob"), "a"),
            ("ftp://b%40x@h//etc/motd", Some("b@x"), "/etc/motd"),
            ("ftp://h/%2Fetc/motd", None, "/etc/motd"),
            ("ftp://h/图", None, "图"),
        ] {
            let place = FtpPlace::of(&url(text, &["ftp"]).expect(text)).expect(text);
            assert_eq!((place.user.as_deref(), place.path.as_str()), (user, path), "{text}");
        }
    }

    #[test]
    fn accounts_are_those_of_a_server_and_not_of_a_host() {
        for (text, account) in [
            ("ftp://bob@h", "bob@h"),
            ("ftp://bob@h:21/a", "bob@h"),
            ("ftp://bob@h:2121/a", "bob@h:2121"),
            ("ftp://[::1]:2121/a", "[::1]:2121"),
        ] {
            let place = FtpPlace::of(&url(text, &["ftp"]).expect(text)).expect(text);
            assert_eq!(place.account(), account);
        }
    }
}
