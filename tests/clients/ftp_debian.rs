//! `tidewheel ftp`, and `tidewheel get` of ftp://, with the FTP servers of Debian.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::ftp::{with_url, works};
use super::ftp_accounts::{BOB, unattended};
use super::ftp_server::ACCOUNT;
use super::run::{command, finish, names, run_in};
use super::web_servers::{PYTHON3, python};
use crate::harness::skipped::skip;
use crate::harness::{Folder, pattern};

/// Serves on a free port of loopback with a program that expects its connection as standard input, as inetd has it. The
/// port.
fn inetd(program: PathBuf, args: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection that came");
            let input = stream.try_clone().expect("there are descriptors");
            let (input, output): (OwnedFd, OwnedFd) = (input.into(), stream.into());
            let mut child = Command::new(&program)
                .args(&args)
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .stderr(Stdio::null())
                .spawn()
                .expect("the program is there");
            // It ends with its connection.
            thread::spawn(move || child.wait());
        }
    });
    port
}

/// Where a program is, if it is anywhere. Servers are not on everybody's path.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets the user that a server becomes write there.
fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).expect("it is ours");
}

#[test]
fn vsftpd_is_worked_with_anonymously() {
    let Some(vsftpd) = installed("vsftpd") else { return skip("needs vsftpd: apt-get install vsftpd") };
    let (folder, served) = (Folder::new(), Folder::new());
    // It refuses to serve a root that others can write to.
    let root = served.path("root");
    fs::create_dir_all(root.join("incoming")).expect("the folder is there");
    open_to_all(&root.join("incoming"));
    let config = served.path("vsftpd.conf");
    let settings = format!(
        "listen=NO\nanonymous_enable=YES\nanon_root={}\nwrite_enable=YES\nanon_upload_enable=YES\n\
         anon_mkdir_write_enable=YES\nanon_other_write_enable=YES\nanon_world_readable_only=NO\nanon_umask=022\n\
         ascii_download_enable=YES\nascii_upload_enable=YES\nrun_as_launching_user={}\n",
        root.display(),
        if is_root() { "NO" } else { "YES" },
    );
    fs::write(&config, settings).expect("the folder is there");
    let port = inetd(vsftpd, vec![config.display().to_string()]);
    let url = |path: &str| format!("ftp://127.0.0.1:{port}{path}");
    let run = |args: &[&str]| run_in(&folder, args);

    // Its root is the system's own where it is not run by root.
    let told = run(&["ftp", "pwd", &url("/incoming")]).well();
    assert!(if is_root() { told == "/incoming\n" } else { told.ends_with("/root/incoming\n") }, "{told}");
    let text = "one\ntwo\n";
    fs::write(folder.path("text"), text).expect("the folder is there");
    fs::write(folder.path("big"), pattern(5_000_000)).expect("the folder is there");
    run(&["ftp", "put", "big", &url("/incoming/")]).well();
    run(&["ftp", "put", "--ascii", "text", &url("/incoming/")]).well();
    assert_eq!(fs::read(root.join("incoming/text")).expect("it was stored"), text.as_bytes());
    assert_eq!(run(&["ftp", "get", "--ascii", &url("/incoming/text"), "-o", "-"]).well(), text);
    assert_eq!(run(&["ftp", "nlst", &url("/incoming")]).well(), "big\ntext\n");
    run(&["ftp", "mkdir", &url("/incoming/sub")]).well();
    run(&["ftp", "rename", &url("/incoming/text"), "incoming/sub/t"]).well();
    let listed = run(&["ftp", "ls", &url("/incoming/sub")]).well();
    assert!(listed.starts_with("-rw") && listed.ends_with(" t\n"), "{listed}");
    run(&["get", &url("/incoming/sub/t"), &url("/incoming/big"), "-o", "."]).well();
    assert_eq!(fs::read(folder.path("big-2")).expect("it was saved"), pattern(5_000_000));
    assert_eq!(fs::read(folder.path("t")).expect("it was saved"), text.as_bytes());

    let line = run(&["ftp", "ls", &url("/missing")]).failed();
    assert!(line.contains("the server says 550 "), "{line}");
    let line = run(&["ftp", "put", "text", &url("/missing/")]).failed();
    assert!(line.contains("the server says 553 "), "{line}");
    let mut account = command(&folder, ["ftp", "pwd", &format!("ftp://bob@127.0.0.1:{port}/")]);
    account.env("TIDEWHEEL_FTP_PASSWORD", "wrong");
    let line = finish(account).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");

    // Those who may come in are nobody else.
    let told = unattended(&folder, BOB, &["ftp", "nlst", &url("/incoming/sub")]).well();
    assert_eq!(told, "t\n");

    run(&["ftp", "rm", &url("/incoming/sub/t")]).well();
    run(&["ftp", "rmdir", &url("/incoming/sub")]).well();
    assert_eq!(names(&root.join("incoming")), ["big"]);
}

const PYFTPDLIB: &str = "
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user('bob', 's3cret word', '.', perm='elradfmwMT')
FTPHandler.auth_failed_timeout = 0
server = FTPServer(('127.0.0.1', 0), FTPHandler)
print(server.socket.getsockname()[1])
server.serve_forever()
";

#[test]
fn pyftpdlib_is_worked_with_as_an_account() {
    match Command::new(PYTHON3).args(["-c", "import pyftpdlib"]).output() {
        Ok(told) if told.status.success() => {}
        _ => return skip("needs pyftpdlib: apt-get install python3-pyftpdlib"),
    }
    let (folder, served) = (Folder::new(), Folder::new());
    let Some((_server, port)) = python(PYFTPDLIB, &served) else { return };
    let url = |path: &str| format!("ftp://{}@127.0.0.1:{port}{path}", ACCOUNT.0);
    let with = |password: &str, words: &[&str], path: &str| {
        let mut command = command(&folder, with_url(words, &url(path)));
        command.env("TIDEWHEEL_FTP_PASSWORD", password);
        command
    };
    works(&folder, &served.path(""), |words, path| with(ACCOUNT.1, words, path));
    let line = finish(with("wrong", &["ls", "URL"], "/")).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");
    let anonymous = format!("ftp://127.0.0.1:{port}/");
    let line = unattended(&folder, &[], &["ftp", "pwd", &anonymous]).failed();
    assert!(line.contains("the server wants an account"), "{line}");
    assert_eq!(unattended(&folder, BOB, &["ftp", "pwd", &anonymous]).well(), "/\n");
    let wrong = [BOB[0], ("TIDEWHEEL_FTP_PASSWORD", "wrong")];
    let line = unattended(&folder, &wrong, &["ftp", "pwd", &anonymous]).failed();
    assert!(line.contains("the server does not let bob in: 530 "), "{line}");
}
