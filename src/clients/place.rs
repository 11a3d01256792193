//! URLs: what is taken for one, and what those of FTP stand for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use percent_encoding::percent_decode_str;
use url::{ParseError, Url};

use super::ftp::names::NameEncoding;
use crate::cli::address::look_up;

/// What stands before the type at the end of an FTP URL.
const TYPE_WORD: &str = ";type=";

/// The port of FTP.
const FTP_PORT: u16 = 21;

/// The interfaces of addresses of a link, as URLs of this command name them: URLs as they are kept have no place for them.
static INTERFACES: Mutex<BTreeMap<Ipv6Addr, u32>> = Mutex::new(BTreeMap::new());

/// The address with its interface, if a URL has named one.
pub fn with_interface(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(mut at) if at.scope_id() == 0 => {
            let interfaces = INTERFACES.lock().unwrap_or_else(PoisonError::into_inner);
            at.set_scope_id(interfaces.get(at.ip()).copied().unwrap_or(0));
            at.into()
        }
        address => address,
    }
}

/// Takes the interface out of a URL such as `http://[fe80::1%eth0]/`, and remembers it. In a URL the percent sign may be
/// written as `%25`.
fn without_interface(text: &str) -> Result<Cow<'_, str>, String> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(text.into()) };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let parts = || {
        let (before, host) = authority.split_once('[')?;
        let (host, after) = host.split_once(']')?;
        let (ip, interface) = host.split_once('%')?;
        let interface = interface.strip_prefix("25").filter(|rest| !rest.is_empty()).unwrap_or(interface);
        Some((before, ip.parse::<Ipv6Addr>().ok()?, interface, after))
    };
    let Some((before, ip, interface, after)) = parts() else { return Ok(text.into()) };
    let SocketAddr::V6(found) = look_up(&format!("{ip}%{interface}"), 0)? else { return Ok(text.into()) };
    let mut interfaces = INTERFACES.lock().unwrap_or_else(PoisonError::into_inner);
    if interfaces.insert(ip, found.scope_id()).is_some_and(|other| other != found.scope_id()) {
        return Err(format!("{ip} is given with two interfaces: use one command for each"));
    }
    Ok(format!("{scheme}://{before}[{ip}]{after}{path}").into())
}

/// Reads a URL of one of `schemes`. Characters in the path of an FTP URL that are not ASCII become bytes in the encoding
/// of `names`.
///
/// # Errors
/// What is wrong with it. A password in it is not repeated.
pub fn url(text: &str, schemes: &[&str], names: NameEncoding) -> Result<Url, String> {
    let text = &*without_interface(text)?;
    let text = &*in_encoding(text, names)?;
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
                    format!("'{shown}' is not a URL: write {}://{shown}", schemes[0])
                }
                _ => format!("'{shown}' is not a valid URL: {error}"),
            })
        }
    }
}

/// A URL of FTP with its path as bytes in an encoding; what is relative to one if it begins with two slashes.
fn in_encoding(text: &str, names: NameEncoding) -> Result<Cow<'_, str>, String> {
    let Some(host) = text.find("//").map(|slashes| slashes + 2).filter(|_| !text.is_ascii()) else {
        return Ok(text.into());
    };
    if !["", "ftp:"].contains(&&*text[..host - 2].trim_start().to_ascii_lowercase()) {
        return Ok(text.into());
    }
    let path = text[host..].find(['/', '\\', '?', '#']).map_or(text.len(), |at| host + at);
    Ok(format!("{}{}", &text[..path], names.percent_encode(&text[path..])?).into())
}

/// A URL relative to another, with names encoded as by [`url`].
///
/// # Errors
/// What is wrong with it.
pub fn joined(base: &Url, text: &str, names: NameEncoding) -> Result<Url, String> {
    let reason = |error: ParseError| error.to_string();
    let url = base.join(text).map_err(reason)?;
    if url.scheme() != "ftp" || text.is_ascii() {
        return Ok(url);
    }
    match in_encoding(text, names)? {
        Cow::Owned(encoded) => base.join(&encoded).map_err(reason),
        // It is a path.
        Cow::Borrowed(_) => base.join(&names.percent_encode(text)?).map_err(reason),
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
                "; the program asks for it, or reads TIDEWHEEL_FTP_PASSWORD"
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
    /// From the folder in which the login ends; from the top if it begins with a slash. In the encoding of the server,
    /// without what would end a command: CR, LF and NUL.
    pub path: Vec<u8>,
    /// What `;type=` at the end of the URL says.
    pub url_type: Option<UrlType>,
}

/// What an FTP URL is about, and how that is transferred (RFC 1738, 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlType {
    /// `;type=a`: a text.
    Text,
    /// `;type=i`: a file, byte for byte.
    Binary,
    /// `;type=d`: the names in a folder.
    Folder,
}

impl FtpPlace {
    /// # Errors
    /// What of it cannot be said in FTP.
    pub fn of(url: &Url) -> Result<FtpPlace, String> {
        // The slash after the host separates; one more is part of the path.
        let (path, url_type) = path_and_type(url)?;
        let path = Cow::from(percent_decode_str(path.strip_prefix('/').unwrap_or_default())).into_owned();
        without_ends(&path)?;
        let user = decoded(url.username())?;
        Ok(FtpPlace { url: url.clone(), user: (!user.is_empty()).then_some(user), path, url_type })
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
        let all = self.url.socket_addrs(|| Some(FTP_PORT))?;
        Ok(all.into_iter().map(with_interface).collect())
    }
}

/// The path of an FTP URL as it is written, and what `;type=` at its end says. FTP has no queries: a question mark is a
/// part of the name.
///
/// # Errors
/// When what follows `;type=` is unknown.
pub fn path_and_type(url: &Url) -> Result<(String, Option<UrlType>), String> {
    let mut path = url.path().to_owned();
    if let Some(query) = url.query() {
        path.push('?');
        path.push_str(query);
    }
    // Letters keep their places when their case changes.
    let Some(at) = path.to_ascii_lowercase().rfind(TYPE_WORD) else { return Ok((path, None)) };
    let url_type = match &path[at + TYPE_WORD.len()..] {
        "a" | "A" => UrlType::Text,
        "i" | "I" => UrlType::Binary,
        "d" | "D" => UrlType::Folder,
        // Not at the end.
        within if within.contains('/') => return Ok((path, None)),
        other => {
            return Err(format!("unknown ;type={other} at its end: use a, i or d, and %3Btype= in a name"));
        }
    };
    path.truncate(at);
    Ok((path, Some(url_type)))
}

/// Decodes a part of a URL that becomes a part of an FTP command: one line of text.
fn decoded(part: &str) -> Result<String, String> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| "it is not UTF-8".to_owned())?;
    one_line(&text)?;
    Ok(text.into_owned())
}

/// # Errors
/// When a name on an FTP server has what would end its command.
pub fn without_ends(name: &[u8]) -> Result<(), String> {
    if name.iter().any(|byte| b"\r\n\0".contains(byte)) {
        Err("it has control characters that end a command: CR, LF or NUL".to_owned())
    } else {
        Ok(())
    }
}

/// # Errors
/// When the text of an account has more than one line.
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
            ("http://", "is not a valid URL"),
            ("http://h:99999/", "invalid port"),
            ("http://user@h/", "only ftp:// can use"),
            ("ftp://u:secret@h/x", "TIDEWHEEL_FTP_PASSWORD"),
            ("http://u:secret@h/x", "leave it out"),
            ("u@h/x:secret@h", "'u@h/x:...@h'"),
            ("u:secret@h/x", "u:...@h/x begins with none of"),
            ("ftp:/u:secret@h", "leave it out"),
            ("ftp://h/a%0D%0ADELE%20b", "control characters"),
            ("ftp://a%0Ab@h/", "control characters"),
            ("ftp://h/a%00", "control characters"),
            ("ftp://%FF@h/", "not UTF-8"),
            ("ftp://h/a;type=x", "use a, i or d"),
        ] {
            let told = url(text, &ALL, NameEncoding::default()).expect_err(text);
            assert!(told.contains(reason) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn an_interface_in_a_url_is_kept_beside_it() {
        // lo is the first interface everywhere. Each text has an address of its own, as the memory is one for all.
        for (text, left, interface) in [
            ("http://[fe80::a1%25lo]:80/x%20y", "http://[fe80::a1]/x%20y", 1),
            ("ftp://u@[fe80::a2%lo]/", "ftp://u@[fe80::a2]/", 1),
            ("http://[fe80::a3%1]/?a=[b%c]", "http://[fe80::a3]/?a=[b%c]", 1),
            ("http://[fe80::a4]/%25lo", "http://[fe80::a4]/%25lo", 0),
        ] {
            let url = url(text, &ALL, NameEncoding::default()).expect(text);
            assert_eq!(url.as_str(), left);
            let address = url.socket_addrs(|| Some(FTP_PORT)).expect(text)[0];
            let SocketAddr::V6(address) = with_interface(address) else { panic!("{text}") };
            assert_eq!(address.scope_id(), interface, "{text}");
        }
        let told =
            url("http://[fe80::a5%no-such-link]/", &ALL, NameEncoding::default()).expect_err("no link");
        assert!(told.contains("no-such-link"), "{told}");
    }

    #[test]
    fn what_ftp_urls_stand_for() {
        for (text, user, path, kind) in [
            ("ftp://h", None, &b""[..], None),
            ("ftp://h/", None, b"", None),
            ("ftp://h/a/b%20c", None, b"a/b c", None),
            ("ftp://bob@h:2121/a", Some("bob"), b"a", None),
            ("ftp://b%40x@h//etc/motd", Some("b@x"), b"/etc/motd", None),
            ("ftp://h/%2Fetc/motd", None, b"/etc/motd", None),
            ("ftp://h/文", None, "文".as_bytes(), None),
            ("ftp://h/%CE%c4", None, b"\xce\xc4", None),
            ("ftp://h/a?b", None, b"a?b", None),
            ("ftp://h/a;type=i", None, b"a", Some(UrlType::Binary)),
            ("ftp://h/a;TYPE=A", None, b"a", Some(UrlType::Text)),
            ("ftp://h/;type=d", None, b"", Some(UrlType::Folder)),
            ("ftp://h/a%3Btype=i", None, b"a;type=i", None),
            ("ftp://h/a;type=i/b", None, b"a;type=i/b", None),
        ] {
            let url = url(text, &["ftp"], NameEncoding::default()).expect(text);
            let place = FtpPlace::of(&url).expect(text);
            assert_eq!(
                (place.user.as_deref(), &place.path[..], place.url_type),
                (user, path, kind),
                "{text}"
            );
        }
    }

    #[test]
    fn names_in_urls_of_ftp_are_encoded_as_the_server_has_them() {
        let gbk: NameEncoding = "gbk".parse().expect("a label");
        for (text, encoded) in [
            ("ftp://h/文/%41", "ftp://h/%CE%C4/%41"),
            ("FTP://h/文?文", "ftp://h/%CE%C4?%CE%C4"),
            ("ftp://h\\文", "ftp://h/%CE%C4"),
            ("http://h/文", "http://h/%E6%96%87"),
            ("ftp://文@h/", "ftp://%E6%96%87@h/"),
        ] {
            assert_eq!(url(text, &ALL, gbk).expect(text).as_str(), encoded);
        }
        let base = Url::parse("ftp://h/list/all.json").expect("a URL");
        for (text, encoded) in [
            ("文", "ftp://h/list/%CE%C4"),
            ("/文", "ftp://h/%CE%C4"),
            ("/a//文", "ftp://h/a//%CE%C4"),
            ("//x/文", "ftp://x/%CE%C4"),
            ("ftp://x/文", "ftp://x/%CE%C4"),
            ("http://x/文", "http://x/%E6%96%87"),
        ] {
            assert_eq!(joined(&base, text, gbk).expect(text).as_str(), encoded);
        }
        assert!(url("ftp://h/a🙂", &ALL, gbk).expect_err("none").contains("cannot be written in GBK"));
    }

    #[test]
    fn accounts_are_those_of_a_server_and_not_of_a_host() {
        for (text, account) in [
            ("ftp://bob@h", "bob@h"),
            ("ftp://bob@h:21/a", "bob@h"),
            ("ftp://bob@h:2121/a", "bob@h:2121"),
            ("ftp://[::1]:2121/a", "[::1]:2121"),
        ] {
            let place = FtpPlace::of(&url(text, &["ftp"], NameEncoding::default()).expect(text)).expect(text);
            assert_eq!(place.account(), account);
        }
    }
}
