//! `tidewheel get` from servers that others wrote: Python's, with and without TLS, and nginx.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::run::{command, finish, names, run_in};
use crate::harness::skipped::skip;
use crate::harness::{Folder, await_that, pattern};

/// A server that ends with the test.
pub struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The system's own, for which the packages are.
pub const PYTHON3: &str = "/usr/bin/python3";

/// Runs a script that serves, and prints its port as its first line. `None`, and the calling test is skipped, where there is no Python.
#[track_caller]
pub fn python(script: &str, folder: &Folder) -> Option<(Ending, u16)> {
    let child = Command::new(PYTHON3)
        .args(["-u", "-c", script])
        .current_dir(folder.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        skip("needs python3: apt-get install python3");
        return None;
    };
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    out.read_line(&mut line).expect("it writes text");
    let port = line.trim().parse().unwrap_or_else(|_| panic!("python3 says {line:?}"));
    Some((Ending(child), port))
}

const PYTHON: &str = "
import http.server
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port)
server.serve_forever()
";

const PYTHON_TLS: &str = "
import http.server, ssl
class Files(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/down':
            self.send_response(302)
            self.send_header('Location', 'http://127.0.0.1:1/')
            self.send_header('Content-Length', '0')
            self.end_headers()
        else:
            super().do_GET()
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Files)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('certificate.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port)
server.serve_forever()
";

#[test]
fn pythons_server_is_fetched_from() {
    let (folder, served) = (Folder::new(), Folder::new());
    fs::write(served.path("big.bin"), pattern(5_000_000)).expect("the folder is there");
    fs::write(served.path("图片.txt"), "hello").expect("the folder is there");
    let Some((_server, port)) = python(PYTHON, &served) else { return };
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let ran = run_in(&folder, ["get", "-i", &url("big.bin"), &url("图片.txt"), &url("missing")]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("/missing: the server answers 404 Not Found\n"), "{ran:?}");
    assert!(
        ran.err.contains("HTTP/1.0 200 OK\n") && ran.err.contains("content-length: 5000000\n"),
        "{ran:?}"
    );
    assert_eq!(names(&folder.path("")), ["big.bin", "图片.txt"]);
    assert_eq!(fs::read(folder.path("big.bin")).expect("it was saved"), pattern(5_000_000));
}

#[test]
fn certificates_are_those_that_the_system_trusts() {
    let (folder, served) = (Folder::new(), Folder::new());
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(served.path(""))
        .output();
    match made {
        Err(_) => return skip("needs openssl: apt-get install openssl"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    fs::write(served.path("x"), "hello").expect("the folder is there");
    let Some((_server, port)) = python(PYTHON_TLS, &served) else { return };
    let get_at = |host: &str, path: &str| {
        let mut command = command(&folder, ["get", "-o", "-", &format!("https://{host}:{port}/{path}")]);
        command.env("SSL_CERT_FILE", served.path("certificate.pem")).env_remove("SSL_CERT_DIR");
        command
    };
    let get = |host: &str| get_at(host, "x");
    assert_eq!(finish(get("localhost")).well(), "hello");
    // Nobody is taken out of TLS.
    let line = finish(get_at("localhost", "down")).failed();
    assert!(line.contains("it sends on to http://127.0.0.1:1/, without TLS"), "{line}");
    // Whose certificate it is counts, and who vouches for it.
    let line = finish(get("127.0.0.1")).failed();
    assert!(
        line.contains("the server's certificate is not trusted") && line.contains("not valid for name"),
        "{line}"
    );
    let mut stranger = get("localhost");
    stranger.env_remove("SSL_CERT_FILE");
    let line = finish(stranger).failed();
    assert!(line.contains("the server's certificate is not trusted"), "{line}");
    // A file that was meant to have certificates, and a folder.
    fs::write(served.path("empty.pem"), "").expect("the folder is there");
    for (name, value, told) in [
        ("SSL_CERT_FILE", served.path("missing.pem"), "No such file"),
        ("SSL_CERT_FILE", served.path("empty.pem"), "it has no certificate in PEM"),
        ("SSL_CERT_FILE", served.path(""), "Is a directory"),
        ("SSL_CERT_DIR", served.path("missing"), "No such file"),
    ] {
        let mut blind = get("localhost");
        blind.env_remove("SSL_CERT_FILE").env(name, &value);
        let line = finish(blind).failed();
        assert!(line.contains(&format!("{name}={}: {told}", value.display())), "{line}");
    }
    // A server that speaks no TLS.
    let Some((_plain, port)) = python(PYTHON, &served) else { return };
    let line = run_in(&folder, ["get", &format!("https://127.0.0.1:{port}/x")]).failed();
    assert!(line.contains("TLS: "), "{line}");
    assert!(names(&folder.path("")).is_empty());
}

#[test]
fn nginx_is_fetched_from() {
    let (folder, served) = (Folder::new(), Folder::new());
    let nginx =
        ["nginx", "/usr/sbin/nginx"].into_iter().find(|nginx| Command::new(nginx).arg("-v").output().is_ok());
    let Some(nginx) = nginx else { return skip("needs nginx: apt-get install nginx") };
    for index in 0..20 {
        fs::write(served.path(&format!("{index}.bin")), pattern(10_000 * index))
            .expect("the folder is there");
    }
    // Nothing gives nginx a port of its own choice: a unix socket is beside the point, so one that was free just now.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let port = port.expect("loopback has a free port").port();
    let at = served.path("");
    let at = at.display();
    let settings = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/log;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4;\n\
         scgi_temp_path {at}/t5; server {{ listen 127.0.0.1:{port}; root {at};\n\
         location /moved {{ return 301 /3.bin; }} }} }}\n"
    );
    fs::write(served.path("nginx.conf"), settings).expect("the folder is there");
    let child = Command::new(nginx)
        .args(["-p", &at.to_string(), "-c", &format!("{at}/nginx.conf")])
        .stderr(Stdio::null())
        .spawn()
        .expect("it was there just now");
    let _server = Ending(child);
    await_that("nginx listens", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
    let urls: Vec<_> = (0..20).map(|index| format!("http://127.0.0.1:{port}/{index}.bin")).collect();
    run_in(&folder, ["get", "--at-once", "5"].into_iter().chain(urls.iter().map(String::as_str))).well();
    for index in 0..20 {
        let saved = fs::read(folder.path(&format!("{index}.bin"))).expect("it was saved");
        assert_eq!(saved, pattern(10_000 * index));
    }
    run_in(&folder, ["get", &format!("http://127.0.0.1:{port}/moved")]).well();
    assert_eq!(fs::read(folder.path("moved")).expect("it was saved"), pattern(30_000));
}
