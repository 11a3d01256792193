//! `tidewheel get` through proxies, as the environment names them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::run::{Ran, command, finish};
use super::web::{Web, give, give_status, put};
use crate::harness::Folder;

const VARIABLES: [&str; 7] =
    ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

/// Fetches to standard output, with these variables and no others about proxies.
fn get(folder: &Folder, url: &str, variables: &[(&str, String)]) -> Ran {
    let mut command = command(folder, ["get", "-o", "-", url]);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    finish(command)
}

/// A proxy for plain HTTP that answers by itself, by path, and refuses CONNECT, as Squid does for port 80. What it was asked is
/// noted.
fn forwarding() -> (Web, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = heads.clone();
    let proxy = Web::serve(move |request, stream| {
        noted.lock().expect("nobody panics with it").push(request.head.clone());
        let path = request.path.as_str();
        match request.head.split(' ').next() {
            Some("CONNECT") => give_status(stream, "403 Forbidden"),
            _ if path.ends_with("/moved") => {
                put(stream, b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/x?y\r\nContent-Length: 0\r\n\r\n");
            }
            _ if path.ends_with("/locked") => give_status(stream, "407 Proxy Authentication Required"),
            _ => give(stream, path.as_bytes()),
        }
    });
    (proxy, heads)
}

#[test]
fn plain_http_is_asked_for_with_the_whole_url() {
    let folder = Folder::new();
    let (proxy, heads) = forwarding();
    let http_proxy =
        |account: &str| vec![("http_proxy", proxy.url("/").replace("http://", &format!("http://{account}")))];
    for (url, asked) in [
        ("http://nowhere.example/", "http://nowhere.example/"),
        ("http://nowhere.example:81/a%20b?c=d#e", "http://nowhere.example:81/a%20b?c=d"),
        ("http://[2001:db8::1]:81/a", "http://[2001:db8::1]:81/a"),
        ("http://nowhere.example/moved", "http://elsewhere.example/x?y"),
    ] {
        assert_eq!(get(&folder, url, &http_proxy("")).well(), asked);
    }
    let all = heads.lock().expect("nobody panics with it").join("");
    assert!(all.to_lowercase().contains("\r\nhost: nowhere.example:81\r\n"), "{all}");
    assert!(!all.contains("CONNECT") && !all.contains("Proxy-Authorization"), "{all}");

    get(&folder, "http://nowhere.example/", &http_proxy("ada:love%20lace@")).well();
    let last = heads.lock().expect("nobody panics with it").pop().unwrap_or_default();
    assert!(last.contains("\r\nProxy-Authorization: Basic YWRhOmxvdmUgbGFjZQ==\r\n"), "{last}");

    let line = get(&folder, "http://nowhere.example/locked", &http_proxy("")).failed();
    assert!(line.contains("407 Proxy Authentication Required"), "{line}");
    // With TLS the proxy is asked for a tunnel, which this one has not.
    let variables = [("https_proxy", proxy.url("/"))];
    get(&folder, "https://nowhere.example/", &variables).failed();
    let last = heads.lock().expect("nobody panics with it").pop().unwrap_or_default();
    assert!(last.starts_with("CONNECT nowhere.example:443 "), "{last}");
}

/// A SOCKS5 proxy that passes one connection on to an address of this machine, whatever it was asked for.
fn socks5(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("the client connects");
        let mut greeting = [0; 2];
        peer.read_exact(&mut greeting).expect("a greeting");
        peer.read_exact(&mut vec![0; greeting[1].into()]).expect("its methods");
        peer.write_all(&[5, 0]).expect("it is open");
        let mut request = [0; 5];
        peer.read_exact(&mut request).expect("a request");
        assert_eq!(request[..4], [5, 1, 0, 3], "the proxy is to find the host");
        let mut rest = vec![0; usize::from(request[4]) + 2];
        peer.read_exact(&mut rest).expect("a host and a port");
        assert!(rest.starts_with(b"nowhere.example"), "{rest:?}");
        peer.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).expect("it is open");
        let mut server = TcpStream::connect(to).expect("it listens");
        let (mut from_peer, mut to_server) =
            (peer.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
        thread::spawn(move || _ = std::io::copy(&mut from_peer, &mut to_server));
        let _ = std::io::copy(&mut server, &mut peer);
    });
    address
}

#[test]
fn a_proxy_from_the_environment_is_used_and_never_passed_over() {
    let folder = Folder::new();
    let web = Web::of(b"through it");
    let origin = web.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let get = |url: &str, variables: &[(&str, String)]| get(&folder, url, variables);
    let proxy = format!("socks5h://{}", socks5(origin));
    assert_eq!(get("http://nowhere.example/", &[("ALL_PROXY", proxy)]).well(), "through it");
    // Nobody is there: it is not gone around.
    let nobody = || "socks5://127.0.0.1:1".to_owned();
    let asked = web.asked();
    get(&web.url("/"), &[("ALL_PROXY", nobody())]).failed();
    get(&web.url("/"), &[("http_proxy", "127.0.0.1:1".to_owned())]).failed();
    let line = get(&web.url("/"), &[("all_proxy", "gopher://secret@127.0.0.1:1".to_owned())]).failed();
    assert!(line.contains("all_proxy names no proxy that can be used") && !line.contains("secret"), "{line}");
    assert_eq!(web.asked(), asked);
    // What is for others, and what is excepted.
    for other in [("https_proxy", nobody()), ("HTTP_PROXY", nobody())] {
        get(&web.url("/"), &[other]).well();
    }
    get(&web.url("/"), &[("http_proxy", nobody()), ("no_proxy", "127.0.0.0/8".to_owned())]).well();
}
