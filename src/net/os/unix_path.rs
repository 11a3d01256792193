//! Sockets in the file system, each of which one program serves.
//!
//! ```text
//!  PATH.lock   locked (flock) as long as PATH is served; it stays when that ends
//!  PATH        the socket; a stale one is replaced, and the own one is removed at the end
//! ```
//!
//! Whoever holds the lock may replace what is at PATH, so of programs that start at the same time one serves. A program
//! that knows nothing of the lock keeps its socket as long as it has it open.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// How often the lock file may be replaced by somebody else while it is being locked.
const LOCK_TRIES: usize = 100;

/// Others may not hold the lock: it decides who serves.
const LOCK_MODE: u32 = 0o600;

/// A path that this program serves: the socket's file, which is removed with this if it is still the one that was made,
/// and the lock.
#[derive(Debug)]
pub struct UnixPath {
    path: PathBuf,
    identity: (u64, u64),
    /// Unlocked when it is closed, which comes after the file was removed.
    _lock: File,
}

/// Binds a stream socket to a path. Nobody can connect until it listens.
///
/// # Errors
/// As the reactor's `listen`: a line that says what is in the way.
pub fn bind_stream(path: &Path) -> io::Result<(OwnedFd, UnixPath)> {
    bind(path, Type::STREAM, None).map(|(socket, file)| (socket.into(), file))
}

/// Binds a datagram socket to a path.
///
/// # Errors
/// As [`bind_stream`].
pub fn bind_datagrams(path: &Path) -> io::Result<(OwnedFd, UnixPath)> {
    bind(path, Type::DGRAM, None).map(|(socket, file)| (socket.into(), file))
}

/// Binds a socket to a path, with a mode if one is given.
pub(super) fn bind(path: &Path, kind: Type, mode: Option<u32>) -> io::Result<(Socket, UnixPath)> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is empty or contains a NUL"));
    }
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, kind.nonblocking(), None)?;
    let lock_path = lock_path(path);
    let is_locked_at_times = || fs::symlink_metadata(&lock_path).is_ok();
    if !is_locked_at_times()
        && let Err(taken) = is_stale(path, &address)
        && !is_locked_at_times()
    {
        // No lock file is made where there is no socket to be had.
        return Err(taken);
    }
    let lock = lock(&lock_path)?;
    if is_stale(path, &address)? {
        remove(path)?;
    }
    bind_with_mode(&socket, &address, mode).map_err(|error| match error.kind() {
        // It was made since it was looked for.
        io::ErrorKind::AddrInUse => in_use("a program listens there (choose another path)"),
        _ => error,
    })?;
    let found = fs::symlink_metadata(path)?;
    let file = UnixPath { path: path.to_owned(), identity: identity(&found), _lock: lock };
    if let Some(mode) = mode
        && found.permissions().mode() & 0o777 != mode
    {
        // Where the folder has default permissions of its own (an access control list), they decide instead.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok((socket, file))
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // A file that somebody else removes at the same moment is gone all the same.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn in_use(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("the path is in use: {how}"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a path is a socket that nobody has open, which is what a program that was killed leaves behind; not if there is
/// nothing.
///
/// # Errors
/// When the path is taken.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(found) if found.is_symlink() => {
            return Err(in_use("it is a symbolic link (choose another path, or remove it)"));
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(in_use("a file that is not a socket is there (choose another path, or remove it)"));
        }
        Ok(_) => {}
    }
    // A listener of streams is no peer for a datagram socket, and the kernel says so without disturbing it. It says that of
    // one that does not listen yet as well.
    match Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(io::Error::new(error.kind(), "a socket of another user is there"))
        }
        _ => Err(in_use("a program listens there (choose another path)")),
    }
}

/// `PATH.lock`.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Locks a file, which is made if it is not there.
fn lock(path: &Path) -> io::Result<File> {
    let named = |error: io::Error| match error.kind() {
        // What is missing is the folder, of the socket too.
        io::ErrorKind::NotFound => error,
        kind => io::Error::new(kind, format!("cannot lock {}: {error}", path.display())),
    };
    for _ in 0..LOCK_TRIES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(LOCK_MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(named)?;
        let ours = file.metadata().map_err(named)?;
        if !ours.is_file() {
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(&format!(
                    "another program serves it and has locked {} (stop that one, or choose another path)",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(named(error)),
        }
        // A lock counts if it is that of the file which others find under this name.
        if fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == identity(&ours)) {
            return Ok(file);
        }
    }
    Err(named(io::Error::other("another program replaces it repeatedly")))
}

/// Binds so that the file has this mode from the moment that it is there. Without one the umask decides.
fn bind_with_mode(socket: &Socket, address: &SockAddr, mode: Option<u32>) -> io::Result<()> {
    /// The umask is that of the whole process.
    static UMASK: Mutex<()> = Mutex::new(());

    let Some(mode) = mode else { return socket.bind(address) };
    // The file's mode is the socket's less the umask. Another thread that creates a file at this moment has this umask, too:
    // servers bind before they begin with anything else.
    set_mode(socket, mode)?;
    let _alone = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = set_umask(!mode & 0o777);
    let bound = socket.bind(address);
    set_umask(before);
    bound
}

fn set_mode(socket: &Socket, mode: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the call takes numbers alone.
    match unsafe { libc::fchmod(SockRef::from(socket).as_raw_fd(), mode) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_umask(mask: u32) -> u32 {
    // SAFETY: the call takes and returns numbers, and cannot fail.
    unsafe { libc::umask(mask) }
}
