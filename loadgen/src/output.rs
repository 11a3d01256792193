//! Where results go: files that are whole or not there, and known to be writable before any load starts; devices and FIFOs;
//! standard output.

use std::env;
use std::fmt::Display;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use rustix::fs::{AtFlags, CWD, OFlags, StatxAttributes, StatxFlags};
use tempfile::{Builder, NamedTempFile, SpooledTempFile};

use crate::Usage;
use crate::message::message;
use crate::report::lines::fitted;

/// What stands for standard output.
pub const STDOUT: &str = "-";

/// As many links lead from one to another at most: as many as the system follows.
const LINKS_MAX: usize = 40;

/// How long a FIFO is waited for until somebody reads it.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether somebody does.
const READER_INTERVAL: Duration = Duration::from_millis(20);

/// Of what is to be written in place, as much is kept in memory.
const SPOOL_BYTES_MAX: usize = 1 << 20;

/// No table can be read in fewer columns, so what says that there are fewer is not believed.
const COLUMNS_MIN: usize = 20;

/// A result to be. A file keeps its old content until it is kept.
pub struct Output {
    /// The option and the path, for messages.
    name: String,
    place: Option<Place>,
    to: To,
}

/// Where it goes, as far as two results cannot both go there.
#[derive(PartialEq, Eq)]
enum Place {
    Stdout,
    /// Device and inode.
    There(u64, u64),
    New(PathBuf),
}

enum To {
    /// Beside the file, which it replaces in one step. Where that fails the old file is written, if there is one.
    Beside {
        file: BufWriter<NamedTempFile>,
        target: PathBuf,
        there: Option<File>,
    },
    /// The file is mounted, has other names, or is in a folder that cannot be written.
    InPlace {
        spool: BufWriter<SpooledTempFile>,
        there: File,
    },
    /// Devices and pipes are written as they are: there is nothing to replace.
    Straight(BufWriter<File>),
    Stdout(BufWriter<Stdout>),
}

/// What is shown on standard output unless one of the results goes there.
#[derive(Clone, Copy)]
pub struct Table {
    is_shown: bool,
}

/// Whether all results have been written. One that could not be keeps no other from it.
#[derive(Default)]
pub struct Written {
    failures: Vec<Error>,
}

/// Standard output. That nobody reads it any more is no failure.
struct Stdout;

impl Output {
    /// Opens a file for what no option names.
    pub fn open(path: &str) -> Result<Output> {
        let mut output = Output::find(path).with_context(|| format!("writing {path}"))?;
        output.name = format!("writing {path}");
        Ok(output)
    }

    /// Opens those that were asked for, each with the name of its option; and what is shown beside them. No two may go to
    /// one place.
    pub fn open_all<const N: usize>(
        asked: [(&'static str, Option<&str>); N],
    ) -> Result<([Option<Output>; N], Table)> {
        let mut outputs = [const { None }; N];
        for (index, (option, path)) in asked.into_iter().enumerate() {
            let Some(path) = path else { continue };
            let name = format!("{option} {path}");
            let mut output = Output::find(path).map_err(|error| Usage(format!("{name}: {error:#}")))?;
            output.name = name;
            let is_same = |other: &Option<Output>| {
                other.as_ref().is_some_and(|other| other.place.is_some() && other.place == output.place)
            };
            if let Some(other) = outputs.iter().position(is_same) {
                let place = match output.place {
                    Some(Place::Stdout) => "standard output",
                    _ => path,
                };
                let other = asked[other].0;
                return Err(Usage(format!("{other} and {option} have the same file: {place}")).into());
            }
            outputs[index] = Some(output);
        }
        let is_stdout = |output: &Output| matches!(output.to, To::Stdout(_));
        let is_shown = !outputs.iter().flatten().any(is_stdout);
        Ok((outputs, Table { is_shown }))
    }

    fn find(path: &str) -> Result<Output> {
        if path == STDOUT {
            return Ok(Output::new(Some(Place::Stdout), To::Stdout(BufWriter::new(Stdout))));
        }
        if path.is_empty() {
            return Err(anyhow!("a file needs a name"));
        }
        let target = follow(path)?;
        if let Some(number) = descriptor(&target) {
            return Output::of_descriptor(number, &target);
        }
        match fs::metadata(&target) {
            Ok(there) if there.is_dir() || path.ends_with('/') => {
                Err(io::Error::from(ErrorKind::IsADirectory).into())
            }
            Ok(there) if there.file_type().is_block_device() => {
                Err(anyhow!("it is a block device, which would be overwritten"))
            }
            Ok(there) if is_stdout(&there) => Output::find(STDOUT),
            Ok(there) if there.is_file() => replace(target, &there),
            Ok(there) => straight(OpenOptions::new().write(true), &target, &there),
            Err(_) if path.ends_with('/') => Err(io::Error::from(ErrorKind::IsADirectory).into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // As any new file: the system takes away what the user's mask forbids.
                let file = beside(&target, 0o666)?;
                let place = Place::New(target.clone());
                Ok(Output::new(Some(place), To::Beside { file: BufWriter::new(file), target, there: None }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor inherited from the parent process. It is not opened again if it has an offset of its own.
    fn of_descriptor(number: u32, path: &Path) -> Result<Output> {
        match number {
            1 => Output::find(STDOUT),
            2 => {
                let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
                Ok(Output::new(None, To::Straight(BufWriter::new(file))))
            }
            _ => straight(OpenOptions::new().append(true), path, &fs::metadata(path)?),
        }
    }

    fn new(place: Option<Place>, to: To) -> Output {
        Output { name: String::new(), place, to }
    }

    /// Puts it, whole and with this content, where it goes.
    pub fn keep_with(mut self, content: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
        content(&mut self).with_context(|| self.name.clone())?;
        self.keep()
    }

    /// The option and the path, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts it, whole, where it goes.
    pub fn keep(self) -> Result<()> {
        let kept = match self.to {
            To::Stdout(mut out) => out.flush(),
            To::Straight(mut file) => file.flush(),
            To::InPlace { spool, there } => {
                spool.into_inner().map_err(io::Error::from).and_then(|mut spool| copy(&mut spool, there))
            }
            To::Beside { file, target, there } => {
                file.into_inner().map_err(io::Error::from).and_then(|file| {
                    file.as_file().sync_all()?;
                    match (file.persist(&target), there) {
                        (Ok(_), _) => Ok(()),
                        (Err(refused), Some(there)) => copy(&mut refused.file.into_file(), there),
                        (Err(refused), None) => Err(refused.error),
                    }
                })
            }
        };
        kept.context(self.name)
    }
}

impl Table {
    /// Whether standard output is free for it.
    pub fn is_shown(self) -> bool {
        self.is_shown
    }

    /// Prints it, unless a result goes there.
    pub fn print(self, table: impl Display) -> Result<()> {
        if !self.is_shown {
            return Ok(());
        }
        let mut text = table.to_string();
        if let Some(width) = width() {
            text = fitted(&text, width);
        }
        let mut out = BufWriter::new(Stdout);
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
    }
}

/// The columns of the terminal: what COLUMNS says, if it says it. Without either, lines are as long as they are.
fn width() -> Option<usize> {
    let said = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    // Its width alone: a terminal may not know its height.
    let columns =
        said.or_else(|| Some(usize::from(rustix::termios::tcgetwinsize(io::stdout()).ok()?.ws_col)));
    columns.filter(|&columns| columns >= COLUMNS_MIN)
}

impl Written {
    pub fn add(&mut self, written: Result<()>) {
        self.failures.extend(written.err());
    }

    /// What could not be written, all in a line.
    pub fn all(self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let words: Vec<_> = self.failures.iter().map(|error| format!("{error:#}")).collect();
        Err(anyhow!(words.join("; ")))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Beside { file, .. } => file.write(bytes),
            To::InPlace { spool, .. } => spool.write(bytes),
            To::Straight(file) => file.write(bytes),
            To::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Beside { file, .. } => file.flush(),
            To::InPlace { spool, .. } => spool.flush(),
            To::Straight(file) => file.flush(),
            To::Stdout(out) => out.flush(),
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where links lead, also where there is nothing yet.
fn follow(path: &str) -> Result<PathBuf> {
    let mut path = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        if descriptor(&path).is_some() {
            return Ok(path);
        }
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        match fs::read_link(&path) {
            Ok(to) => path = folder.join(to),
            Err(_) => {
                return Ok(match path.file_name() {
                    Some(name) => fs::canonicalize(folder)?.join(name),
                    None => fs::canonicalize(path)?,
                });
            }
        }
    }
    Err(anyhow!("too many levels of symbolic links"))
}

/// The number of a descriptor that is named by a path.
fn descriptor(path: &Path) -> Option<u32> {
    match path.to_str()? {
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        path => path.strip_prefix("/dev/fd/").or(path.strip_prefix("/proc/self/fd/"))?.parse().ok(),
    }
}

/// Whether it is what standard output goes to, and two who write there would be in each other's way.
fn is_stdout(there: &Metadata) -> bool {
    let file_type = there.file_type();
    let is_shared = there.is_file() || file_type.is_fifo() || io::stdout().is_terminal();
    is_shared
        && rustix::fs::fstat(io::stdout())
            .is_ok_and(|stdout| (stdout.st_dev, stdout.st_ino) == (there.dev(), there.ino()))
}

/// Opens what is there already and is no file.
fn straight(how: &mut OpenOptions, path: &Path, there: &Metadata) -> Result<Output> {
    let is_fifo = there.file_type().is_fifo();
    // Opening a FIFO for writing blocks until it has a reader.
    let how = how.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    let until = Instant::now() + READER_PATIENCE;
    let mut is_told = false;
    let file = loop {
        match how.open(path) {
            Ok(file) => break file,
            Err(error) if is_fifo && error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                if Instant::now() >= until {
                    return Err(anyhow!("this FIFO has no reader: start the reader first"));
                }
                if !is_told {
                    message!("{}: waiting for a reader of this FIFO", path.display());
                    is_told = true;
                }
                thread::sleep(READER_INTERVAL);
            }
            Err(error) => return Err(error.into()),
        }
    };
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    let is_device = there.file_type().is_char_device();
    if is_device {
        // A device that takes nothing at all, as /dev/full, says so.
        rustix::io::write(&file, &[]).map_err(io::Error::from)?;
    }
    let place = (!is_device).then_some(Place::There(there.dev(), there.ino()));
    Ok(Output::new(place, To::Straight(BufWriter::new(file))))
}

/// Opens a file to be replaced, or to be written in place where that cannot be.
fn replace(target: PathBuf, there: &Metadata) -> Result<Output> {
    let place = Some(Place::There(there.dev(), there.ino()));
    let file = OpenOptions::new().write(true).open(&target)?;
    let is_alone = there.nlink() == 1 && !is_mounted(&target) && !has_access_list(&target);
    let replacement = if is_alone { beside_like(&target, there)? } else { None };
    Ok(Output::new(
        place,
        match replacement {
            Some(replacement) => To::Beside { file: BufWriter::new(replacement), target, there: Some(file) },
            None => To::InPlace { spool: BufWriter::new(spool()), there: file },
        },
    ))
}

/// A file beside another, with its permissions and its owner; none where that is not allowed.
fn beside_like(target: &Path, there: &Metadata) -> Result<Option<NamedTempFile>> {
    let file = match beside(target, 0o600) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let own = file.as_file().metadata()?;
    if (own.uid(), own.gid()) != (there.uid(), there.gid())
        && fchown(file.as_file(), Some(there.uid()), Some(there.gid())).is_err()
    {
        return Ok(None);
    }
    let mode = Permissions::from_mode(there.mode() & 0o7777);
    Ok(file.as_file().set_permissions(mode).is_ok().then_some(file))
}

/// A file in the same folder.
fn beside(target: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    let permissions = Permissions::from_mode(mode);
    let made = Builder::new().prefix(".loadgen-").permissions(permissions).tempfile_in(folder);
    // It would also name the file beside, of which nobody knows.
    made.map_err(|error| match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::from(error.kind()),
    })
}

/// Whether it is mounted there, as containers do with single files: then nothing can take its place.
fn is_mounted(target: &Path) -> bool {
    rustix::fs::statx(CWD, target, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .is_ok_and(|file| file.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether more than its mode says who may do what with it.
fn has_access_list(target: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::getxattr(target, "system.posix_acl_access", &mut none[..]).is_ok_and(|length| length > 0)
}

/// Where the content waits until all of it is there. Without a folder for such files it waits in memory.
fn spool() -> SpooledTempFile {
    let has_folder = tempfile::tempfile().is_ok();
    SpooledTempFile::new(if has_folder { SPOOL_BYTES_MAX } else { usize::MAX })
}

/// Writes a file in place.
fn copy(from: &mut (impl io::Read + Seek), mut there: File) -> io::Result<()> {
    from.seek(SeekFrom::Start(0))?;
    let length = io::copy(from, &mut there)?;
    there.set_len(length)?;
    there.sync_all()
}
