//! The grammar of Host and of the request target, production by production (RFC 3986, sections 2 and 3; RFC 9110, sections 4.2, 7.2
//! and 9.3.6; RFC 9112, section 3.2): what matches is answered, and each near miss is a 400.

use std::time::UNIX_EPOCH;

use tidewheel::services::http::{Http, Next, Progress};

/// What may stand for a host, in Host, in `http://HOST/` and in `CONNECT HOST:443`.
const HOSTS: &[&str] = &[
    // reg-name: unreserved, sub-delims, pct-encoded
    "me",
    "ME.example.COM",
    "a-b.c_d~e",
    "a..b.",
    "-",
    "%41%7a%00%fF",
    "xn--bcher-kva.example",
    "a!$&'()*+;=b",
    "a,b",
    // IPv4address, and what looks like one and is a reg-name
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "256.1.1.1",
    "1.2.3",
    "01.2.3.4",
    "1.2.3.4.5",
    // IPv6address: each of the nine forms, with h16 of one to four digits, and with an IPv4address in place of the last two
    "[1:2:3:4:5:6:7:8]",
    "[0001:0020:abc:ABCD:5:6:7:8]",
    "[1:2:3:4:5:6:1.2.3.4]",
    "[::2:3:4:5:6:7:8]",
    "[::2:3:4:5:6:1.2.3.4]",
    "[::3:4:5:6:7:8]",
    "[1::3:4:5:6:7:8]",
    "[::4:5:6:7:8]",
    "[1::4:5:6:7:8]",
    "[1:2::4:5:6:7:8]",
    "[1:2:3::5:6:7:8]",
    "[::5:6:7:8]",
    "[1:2:3:4::6:7:8]",
    "[::6:7:8]",
    "[1:2:3:4:5::7:8]",
    "[1:2:3:4:5::1.2.3.4]",
    "[::1.2.3.4]",
    "[::ffff:255.255.255.255]",
    "[1:2:3:4:5:6::8]",
    "[::8]",
    "[1:2:3:4:5:6:7::]",
    "[1::]",
    "[::]",
    // IPvFuture
    "[v1.a]",
    "[V1F.a:b]",
    "[vabc.-._~!$&'()*+,;=:]",
];

/// What may not: near misses of each form, characters of none, and a second part that could be a port.
const NO_HOSTS: &[&str] = &[
    // reg-name
    "a%",
    "a%4",
    "a%4g",
    "a%g4",
    "a%%41",
    "a b",
    "a\tb",
    "a/b",
    "a?b",
    "a#b",
    "a@b",
    "user:pass@b",
    "a[b",
    "a]b",
    "a\"b",
    "a<b",
    "a>b",
    "a\\b",
    "a^b",
    "a`b",
    "a{b",
    "a|b",
    "a}b",
    "b\u{fc}cher",
    "\u{4f60}\u{597d}",
    // An address without brackets, or with one.
    "::1",
    "::",
    "1:2:3:4:5:6:7:8",
    "[::1",
    "::1]",
    "[[::1]]",
    "[::1]]",
    "[[::1]",
    "x[::1]",
    "[::1]x",
    "[::1].",
    "[]",
    "[",
    "]",
    // IPv6address
    "[1:2:3:4:5:6:7]",
    "[1:2:3:4:5:6:7:8:9]",
    "[1:2:3:4:5:6:7:8::]",
    "[::1:2:3:4:5:6:7:8]",
    "[1:2:3:4::5:6:7:8]",
    "[1::2::3]",
    "[:::]",
    "[:::1]",
    "[1:::2]",
    "[:1]",
    "[1:]",
    "[:]",
    "[:1:2:3:4:5:6:7]",
    "[1:2:3:4:5:6:7:]",
    "[1]",
    "[12345::]",
    "[::12345]",
    "[g::]",
    "[-1::]",
    "[+1::]",
    "[ ::1]",
    "[::1 ]",
    "[%3A%3A1]",
    "[0x1::]",
    // with an IPv4address
    "[1.2.3.4]",
    "[::1.2.3]",
    "[::1.2.3.4.5]",
    "[::1.2.3.256]",
    "[::01.2.3.4]",
    "[::1.2.3.04]",
    "[::1..3.4]",
    "[::1.2.3.]",
    "[::.1.2.3]",
    "[::1.2.3.4:5]",
    "[1.2.3.4::]",
    "[1:2:3:4:5:6:7:1.2.3.4]",
    "[1:2:3:4:5:1.2.3.4]",
    "[1:2:3:4:5:6::1.2.3.4]",
    "[::1.2.3.a]",
    "[::1.2.3.1000]",
    // A zone is for the machine that it is a zone of.
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[fe80::1%]",
    // IPvFuture
    "[v.a]",
    "[v1.]",
    "[v1]",
    "[v1a]",
    "[vg.a]",
    "[v1.a/]",
    "[v1.%41]",
    "[v1.a@b]",
    "[v1.[]",
    "[w1.a]",
    "[1.a]",
    "[v-1.a]",
];

const PORTS: &[&str] = &["", ":", ":80", ":0", ":00080", ":65535", ":99999", ":4294967296000000000000"];

const NO_PORTS: &[&str] = &[
    ":b", ":b:c", ":80:", ":80:80", "::", ":-1", ":+80", ":8 0", ":80a", ":0x50", ":8%30", ":\u{660}", ":[1]",
];

/// Paths of origin-form, none of which is the page.
const PATHS: &[&str] = &[
    "//",
    "/a",
    "/a/",
    "/a//b",
    "/.",
    "/..",
    "/%2F",
    "/%00%fF",
    "/a:b@c",
    "/:",
    "/-._~",
    "/!$&'()*+,;=",
    "/;x",
    "/http://other/",
];

/// What is no part of a path, in one. A `?` begins a query.
const NO_PATHS: &[&str] = &[
    "/#",
    "/a#b",
    "/%",
    "/%4",
    "/%4g",
    "/%g4",
    "/%%41",
    "/a\"",
    "/<",
    "/>",
    "/\\",
    "/^",
    "/`",
    "/{",
    "/|",
    "/}",
    "/[",
    "/]",
    "/\u{fc}",
    "/\u{4f60}",
];

const QUERIES: &[&str] =
    &["?", "?x=1", "??", "?/?/", "?:@", "?-._~!$&'()*+,;=", "?%41%00", "?a=http://b/c?d", "?a//b"];

const NO_QUERIES: &[&str] = &[
    "?#", "?a#b", "#", "#?", "?%", "?%4", "?%4g", "?%%", "?\"", "?<", "?>", "?\\", "?^", "?`", "?{", "?|",
    "?}", "?[", "?]", "?a[]=1", "?\u{fc}",
];

/// The status of the answer to a request, and whether the connection stays.
#[track_caller]
fn ask(request: &str) -> (u16, bool) {
    let mut http = Http::default();
    let whole = answer(&mut http, [request.as_bytes()]);
    assert_eq!(whole, answer(&mut http, request.as_bytes().chunks(1)), "{request:?} byte by byte");
    whole
}

#[track_caller]
fn answer<'a>(http: &mut Http, pieces: impl IntoIterator<Item = &'a [u8]>) -> (u16, bool) {
    let (mut progress, mut kept) = (Progress::default(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let step = http.next(&mut progress, &kept, UNIX_EPOCH);
        if !step.answer.is_empty() {
            let status = std::str::from_utf8(&step.answer[9..12]).expect("a status is text");
            return (status.parse().expect("a status is a number"), step.next == Next::Request);
        }
        kept.drain(..step.consumed);
    }
    panic!("{} is not answered", kept.escape_ascii());
}

#[track_caller]
fn assert_answer(request: &str, status: u16) {
    let stays = matches!(status, 200 | 404 | 405);
    assert_eq!(ask(request), (status, stays), "{request:?}");
}

/// A request of origin-form with this Host.
fn with_host(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A request for this target.
fn with_target(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: me\r\n\r\n")
}

#[test]
fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
    for host in HOSTS {
        for port in PORTS {
            assert_answer(&with_host(&format!("{host}{port}")), 200);
        }
        for port in NO_PORTS {
            assert_answer(&with_host(&format!("{host}{port}")), 400);
        }
    }
    for host in NO_HOSTS {
        for port in ["", ":", ":80"] {
            assert_answer(&with_host(&format!("{host}{port}")), 400);
        }
    }
}

#[test]
fn an_http_target_names_its_host() {
    for scheme in ["http", "HTTP", "https", "hTTpS"] {
        for (target, status) in
            [("/", 200), ("", 200), ("/a", 404), ("?x", 200), ("/?x", 200), ("//", 404), ("/%2f", 404)]
        {
            assert_answer(&with_target("GET", &format!("{scheme}://host:1{target}")), status);
        }
    }
    for host in HOSTS {
        for port in PORTS {
            assert_answer(&with_target("GET", &format!("http://{host}{port}/")), 200);
            assert_answer(&with_target("OPTIONS", &format!("http://{host}{port}")), 405);
        }
        for port in NO_PORTS {
            assert_answer(&with_target("GET", &format!("http://{host}{port}/")), 400);
        }
    }
    // What ends an authority is no near miss of a host here, but of a path or of a query.
    for host in NO_HOSTS.iter().filter(|host| !["a/b", "a?b"].contains(host)) {
        for port in ["", ":", ":80"] {
            for path in ["", "/", "?x"] {
                assert_answer(&with_target("GET", &format!("http://{host}{port}{path}")), 400);
            }
        }
    }
    for target in [
        "http://",
        "http:///",
        "http://:80/",
        "http://:/",
        "http://?x",
        "http:/host/",
        "http:host",
        "http:",
        "http",
        "http//host/",
        "://host/",
        "//",
        "1http://host/",
        "http ://host/",
        "ht_tp://host/",
        "ftp://host/",
        "httpx://host/",
        "ws://host/",
        "urn:a:b",
        "mailto:a@b",
        "/http:",
        "http://host/#",
        "http://host#",
        "http://host/?#",
    ] {
        let status = if target.starts_with('/') { 404 } else { 400 };
        assert_answer(&with_target("GET", target), status);
    }
}

#[test]
fn the_host_of_the_target_comes_before_that_of_the_field() {
    for host in ["", "other", "other:81", "[::1]"] {
        assert_answer(&format!("GET http://me/ HTTP/1.1\r\nHost: {host}\r\n\r\n"), 200);
    }
    // It must be there, once and well-formed, all the same.
    for fields in
        ["", "Host: me\r\nHost: me\r\n", "Host: a:b:c\r\n", "Host: [::1\r\n", "Host: me\r\nhOsT: you\r\n"]
    {
        assert_answer(&format!("GET http://me/ HTTP/1.1\r\n{fields}\r\n"), 400);
        assert_answer(&format!("GET / HTTP/1.1\r\n{fields}\r\n"), 400);
        assert_answer(&format!("OPTIONS * HTTP/1.1\r\n{fields}\r\n"), 400);
        assert_answer(&format!("CONNECT me:443 HTTP/1.1\r\n{fields}\r\n"), 400);
    }
}

#[test]
fn a_host_may_be_empty_and_in_http_1_0_it_may_be_missing() {
    for field in ["Host:", "Host: ", "Host:\t \t", "hOST:me", "Host: me\t", "Host:\t me:80 "] {
        assert_answer(&format!("GET / HTTP/1.1\r\n{field}\r\n\r\n"), 200);
    }
    // A port of nobody.
    for field in ["Host: :", "Host: :80"] {
        assert_answer(&format!("GET / HTTP/1.1\r\n{field}\r\n\r\n"), 400);
    }
    let keep = "Connection: keep-alive\r\n";
    assert_answer(&format!("GET / HTTP/1.0\r\n{keep}\r\n"), 200);
    assert_answer(&format!("GET / HTTP/1.0\r\n{keep}Host: me:80\r\n\r\n"), 200);
    for fields in ["Host: a:b:c\r\n", "Host: me\r\nHost: me\r\n"] {
        assert_answer(&format!("GET / HTTP/1.0\r\n{keep}{fields}\r\n"), 400);
    }
}

#[test]
fn a_path_and_a_query_have_their_characters() {
    for path in PATHS {
        for query in QUERIES.iter().chain(&[""]) {
            assert_answer(&with_target("GET", &format!("{path}{query}")), 404);
            assert_answer(&with_target("GET", &format!("http://me{path}{query}")), 404);
        }
    }
    for path in NO_PATHS {
        for query in ["", "?", "?x"] {
            assert_answer(&with_target("GET", &format!("{path}{query}")), 400);
            assert_answer(&with_target("GET", &format!("http://me{path}{query}")), 400);
        }
    }
    for query in QUERIES {
        assert_answer(&with_target("GET", &format!("/{query}")), 200);
        assert_answer(&with_target("HEAD", &format!("http://me{query}")), 200);
        assert_answer(&with_target("POST", &format!("/{query}")), 405);
    }
    for query in NO_QUERIES {
        for path in ["/", "/a", "http://me/", "http://me"] {
            assert_answer(&with_target("GET", &format!("{path}{query}")), 400);
        }
        // Nor for a method that is not known.
        assert_answer(&with_target("BREW", &format!("/{query}")), 400);
    }
    for target in ["a", "a/", ".", "?", "?x", "index.html", "me/", "%2f"] {
        assert_answer(&with_target("GET", target), 400);
    }
}

#[test]
fn the_asterisk_is_for_options_alone() {
    assert_answer(&with_target("OPTIONS", "*"), 405);
    for target in ["*?", "*?x", "*/", "/*#", "**", "*a", "http://*#"] {
        assert_answer(&with_target("OPTIONS", target), 400);
    }
    assert_answer(&with_target("OPTIONS", "/*"), 404);
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"] {
        assert_answer(&with_target(method, "*"), 400);
    }
}

#[test]
fn connect_names_a_host_and_a_port_and_is_not_served() {
    for host in HOSTS {
        for port in [":443", ":1", ":65535", ":00080"] {
            assert_answer(&with_target("CONNECT", &format!("{host}{port}")), 501);
        }
        // RFC 9110, section 9.3.6: a port that is empty or invalid.
        for port in ["", ":", ":0", ":65536", ":99999", ":4294967739"].iter().chain(NO_PORTS) {
            assert_answer(&with_target("CONNECT", &format!("{host}{port}")), 400);
        }
    }
    for host in NO_HOSTS {
        for port in ["", ":443"] {
            assert_answer(&with_target("CONNECT", &format!("{host}{port}")), 400);
        }
    }
    for target in
        ["/", ":443", "http://me:443/", "http://me:443", "me:443/", "me:443?x", "me:443#", "//me:443"]
    {
        assert_answer(&with_target("CONNECT", target), 400);
    }
    // authority-form is for nobody else.
    for method in ["GET", "HEAD", "POST", "OPTIONS"] {
        assert_answer(&with_target(method, "me:443"), 400);
    }
}

#[test]
fn a_method_that_is_not_known_may_have_a_target_of_any_form() {
    for target in ["/", "/a?b", "http://me/", "ftp://host/a", "urn:a:b", "*", "me:443"] {
        assert_answer(&with_target("BREW", target), 501);
        assert_answer(&with_target("get", target), 501);
    }
    for target in ["a", "a?", "/#", "http://a:b:c/", "http:///", "[::1", "1:2:3"] {
        assert_answer(&with_target("BREW", target), 400);
    }
}
