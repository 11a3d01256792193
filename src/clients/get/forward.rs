//! Plain HTTP through a proxy: the request names the whole URL (RFC 9112, 3.2.2), so that the proxy need not allow CONNECT to
//! port 80, which many refuse.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Proxy, ProxyProtocol};
use url::{Position, Url};

use super::http::WithInterfaces;

/// Whether a document is asked for in this way.
pub fn is_for(url: &Url, proxy: &Proxy) -> bool {
    url.scheme() == "http" && proxy.protocol() == ProxyProtocol::Http
}

/// Finds the proxy, whatever host is asked for.
#[derive(Debug)]
pub struct ToProxy {
    proxy: Uri,
    resolver: WithInterfaces,
}

impl ToProxy {
    pub fn new(proxy: &Proxy) -> ToProxy {
        ToProxy { proxy: proxy.uri().clone(), resolver: WithInterfaces::default() }
    }
}

impl Resolver for ToProxy {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.resolver.resolve(&self.proxy, config, timeout)
    }
}

/// Makes connections whose first request is for a proxy.
pub struct Forward {
    /// What stands in front of the path: `http://HOST:PORT`.
    origin: String,
    /// Headers for the proxy, each with its end.
    headers: String,
}

impl Forward {
    pub fn new(url: &Url, proxy: &Proxy) -> Forward {
        let headers = match (proxy.username(), proxy.password()) {
            (None, None) => String::new(),
            (user, password) => {
                let account = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
                format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(account))
            }
        };
        Forward { origin: url[..Position::BeforePath].to_owned(), headers }
    }
}

/// Without the password.
impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl<In: Transport> Connector<In> for Forward {
    type Out = Forwarded<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let wrap = |inner| Forwarded {
            inner,
            origin: self.origin.clone(),
            headers: self.headers.clone(),
            has_begun: false,
        };
        Ok(chained.map(wrap))
    }
}

/// A connection to a proxy, for one request.
pub struct Forwarded<In> {
    inner: In,
    origin: String,
    headers: String,
    /// The request line has been sent.
    has_begun: bool,
}

impl<In> fmt::Debug for Forwarded<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl<In: Transport> Transport for Forwarded<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut amount = amount;
        if !std::mem::replace(&mut self.has_begun, true) {
            amount = rewrite(self.inner.buffers().output(), amount, &self.origin, &self.headers)
                .ok_or(Error::Other("the request is too long for a proxy".into()))?;
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        // It is not used again.
        false
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Puts the origin in front of the path and the headers behind the request line of what begins a request. Returns how long it is
/// then; `None` if it does not fit.
fn rewrite(output: &mut [u8], len: usize, origin: &str, headers: &str) -> Option<usize> {
    let head = output.get(..len)?;
    let method = head.iter().position(|&byte| byte == b' ')? + 1;
    let line = head.windows(2).position(|end| end == b"\r\n")? + 2;
    let rewritten =
        [&head[..method], origin.as_bytes(), &head[method..line], headers.as_bytes(), &head[line..]].concat();
    output.get_mut(..rewritten.len())?.copy_from_slice(&rewritten);
    Some(rewritten.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_whole_url_and_what_does_not_fit_is_told() {
        let head = b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut output = [0; 120];
        output[..head.len()].copy_from_slice(head);
        let len = rewrite(&mut output, head.len(), "http://a:81", "X: y\r\n").expect("it fits");
        assert_eq!(&output[..len], b"GET http://a:81/a?b HTTP/1.1\r\nX: y\r\nhost: a\r\n\r\n");
        output[..head.len()].copy_from_slice(head);
        assert_eq!(rewrite(&mut output[..40], head.len(), "http://a:81", "X: y\r\n"), None);
    }
}
