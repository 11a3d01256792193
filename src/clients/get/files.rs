//! Where downloads end up. A file has its name once it is whole; until then it is a draft beside it.

use std::borrow::Cow;
use std::env;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tempfile::NamedTempFile;

use crate::clients::ftp::names::NameEncoding;
use crate::clients::text;
use crate::clients::transfer::{ending_signals, leave_sigint};

/// How many files of one name there may be in a folder.
const NAMESAKES_MAX: u32 = 10_000;

/// The name of what has none, `http://HOST/`.
const NAMELESS: &str = "index.html";

/// The longest name, in bytes, less room for a number.
const NAME_BYTES_MAX: usize = 200;

/// What stands behind the last dot of a name is its extension, which is kept when the name is shortened, if it has no more bytes
/// with the dot.
const EXTENSION_BYTES_MAX: usize = 16;

/// The drafts there are, for when a signal ends the program.
static DRAFTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Where all downloads of a command go.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    StandardOutput,
    /// A regular file, which is replaced if it is there.
    File(PathBuf),
    /// Something that is there and must not be replaced: a device, a pipe.
    Device(PathBuf),
    /// Each under its own name; what is there stays.
    Folder(PathBuf),
}

impl Destination {
    /// What `-o` stands for.
    ///
    /// # Errors
    /// What the system says of it.
    pub fn of(output: Option<&Path>) -> io::Result<Destination> {
        let Some(path) = output else { return Ok(Destination::Folder(PathBuf::from("."))) };
        if path == "-" {
            return Ok(Destination::StandardOutput);
        }
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => Ok(Destination::Folder(path.to_owned())),
            // What a symbolic link leads to: the link stays one.
            Ok(there) if there.is_file() && path.is_symlink() => {
                fs::canonicalize(path).map(Destination::File)
            }
            Ok(there) if there.is_file() => Ok(Destination::File(path.to_owned())),
            Ok(_) => Ok(Destination::Device(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match path.as_os_str().as_encoded_bytes() {
                    [.., b'/'] | [] => Err(error),
                    _ => Ok(Destination::File(path.to_owned())),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Begins a file that is to become `name` where that is for us to choose.
    ///
    /// # Errors
    /// Which file it is about, and what the system says of it.
    pub fn draft<'a>(&'a self, name: &'a str) -> io::Result<Draft<'a>> {
        // Opened now: whether it can be written shows before anything is fetched.
        let open = |path: &Path| OpenOptions::new().write(true).open(path).map_err(of(path.display()));
        Ok(match self {
            Destination::StandardOutput => Draft::Copied { file: unnamed()?, to: None },
            Destination::Device(path) => Draft::Copied { to: Some((open(path)?, path)), file: unnamed()? },
            Destination::File(path) => {
                // What is replaced may be for its owner alone, or a program.
                let there = if path.exists() { Some(open(path)?) } else { None };
                let file = Beside::new(parent(path))?;
                if let Some(there) = there {
                    let permissions = there.metadata().map(|there| there.permissions());
                    let kept =
                        permissions.and_then(|permissions| file.0.as_file().set_permissions(permissions));
                    kept.map_err(of(path.display()))?;
                }
                Draft::Replacing { file, path }
            }
            Destination::Folder(path) => Draft::Named { file: Beside::new(path)?, folder: path, name },
        })
    }
}

/// Makes an error one of this place.
fn of(place: impl Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// A file without a name.
fn unnamed() -> io::Result<File> {
    tempfile::tempfile().map_err(of(env::temp_dir().display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != "").unwrap_or(Path::new("."))
}

/// A file that is not whole yet. It is gone when this is dropped. Its errors begin with the place that they are about.
pub enum Draft<'a> {
    Copied { file: File, to: Option<(File, &'a Path)> },
    Replacing { file: Beside, path: &'a Path },
    Named { file: Beside, folder: &'a Path, name: &'a str },
}

impl Draft<'_> {
    fn file(&mut self) -> &mut File {
        match self {
            Draft::Copied { file, .. } => file,
            Draft::Replacing { file, .. } | Draft::Named { file, .. } => file.0.as_file_mut(),
        }
    }

    /// Where its bytes are until it is whole.
    fn place(&self) -> PathBuf {
        match self {
            Draft::Copied { .. } => env::temp_dir(),
            Draft::Replacing { path, .. } => path.to_path_buf(),
            Draft::Named { folder, .. } => folder.to_path_buf(),
        }
    }

    /// Makes it empty again.
    ///
    /// # Errors
    /// What the system says.
    pub fn restart(&mut self) -> io::Result<()> {
        let file = self.file();
        file.set_len(0).and_then(|()| file.rewind()).map_err(|error| of(self.place().display())(error))
    }

    /// It is whole: gives it its name, or copies it to where it belongs. The path that it has, if it has one.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> io::Result<Option<PathBuf>> {
        match self {
            Draft::Copied { mut file, to: Some((mut device, path)) } => file
                .rewind()
                .and_then(|()| io::copy(&mut file, &mut device))
                .map(|_| None)
                .map_err(of(path.display())),
            Draft::Copied { mut file, to: None } => {
                let mut out = io::stdout().lock();
                file.rewind()
                    .and_then(|()| io::copy(&mut file, &mut out))
                    .and_then(|_| out.flush())
                    .map(|()| None)
                    .map_err(of("to standard output"))
            }
            Draft::Replacing { file, path } => {
                file.replace(path).map(|()| Some(path.to_owned())).map_err(of(path.display()))
            }
            Draft::Named { file, folder, name } => {
                file.become_new(folder, name).map(Some).map_err(of(folder.join(name).display()))
            }
        }
    }
}

impl Write for Draft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes).map_err(|error| match error.kind() {
            // Not to be told, but tried again.
            io::ErrorKind::Interrupted => error,
            _ => of(self.place().display())(error),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// A draft in the folder of what it is to become, so that to become it is to be renamed.
pub struct Beside(NamedTempFile);

impl Beside {
    fn new(folder: &Path) -> io::Result<Beside> {
        // One step for whoever looks at the list: no draft is without its entry. An entry stays when its draft is gone;
        // nobody else takes such a name.
        let mut drafts = drafts();
        let file = tempfile::Builder::new()
            .prefix(".tidewheel-")
            .suffix(".part")
            // As any file is created: for whom, the umask says.
            .make_in(folder, |path| OpenOptions::new().write(true).create_new(true).open(path))
            .map_err(of(folder.display()))?;
        drafts.push(file.path().to_owned());
        Ok(Beside(file))
    }

    fn replace(self, path: &Path) -> io::Result<()> {
        self.0.persist(path).map(drop).map_err(|refused| refused.error)
    }

    /// Takes the first free one of `name`, `name-2`, `name-3`, with the number before the extension.
    fn become_new(self, folder: &Path, name: &str) -> io::Result<PathBuf> {
        let mut file = self.0;
        for number in 1..=NAMESAKES_MAX {
            let path = folder.join(numbered(name, number));
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(path.strip_prefix(".").map(Path::to_owned).unwrap_or(path)),
                Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => file = taken.file,
                Err(refused) => return Err(refused.error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "there are too many files of its name"))
    }
}

fn numbered(name: &str, number: u32) -> String {
    match (number, name.rsplit_once('.')) {
        (1, _) => name.to_owned(),
        (_, Some((stem, extension))) => format!("{stem}-{number}.{extension}"),
        (_, None) => format!("{name}-{number}"),
    }
}

/// The name under which the document at a path of a URL is saved. Whoever made up the URL may have been a stranger: the
/// name is one of a visible file in this folder, whatever they wrote.
pub fn name_for(path: &str, names: NameEncoding) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let decoded = names.decode(&Cow::from(percent_encoding::percent_decode_str(last)));
    let name: String = decoded
        .chars()
        .map(|character| match character {
            '/' | '\t' => '_',
            character if text::is_harmless(character) => character,
            // What turns the direction of writing makes one name look like another.
            _ => '_',
        })
        .collect();
    let name = name.trim().trim_start_matches('.');
    if name.is_empty() {
        return NAMELESS.to_owned();
    }
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if name.len() - dot <= EXTENSION_BYTES_MAX => name.split_at(dot),
        _ => (name, ""),
    };
    let end = stem.floor_char_boundary(NAME_BYTES_MAX - extension.len());
    format!("{}{extension}", &stem[..end])
}

fn drafts() -> MutexGuard<'static, Vec<PathBuf>> {
    // A panic while it was pushed to leaves the list whole.
    DRAFTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has drafts removed when a signal ends the program.
///
/// # Errors
/// When signals cannot be caught.
pub fn remove_on_signals() -> io::Result<()> {
    let mut signals = Signals::new(ending_signals())?;
    leave_sigint();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // Held to the end: from here on there are no new ones.
            let drafts = drafts();
            for path in drafts.iter() {
                // Most are gone already.
                let _ = fs::remove_file(path);
            }
            // Ends the program as if the signal had not been caught.
            let _ = low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_choose_no_hidden_and_no_distant_file() {
        let name_for = |path: &str| name_for(path, NameEncoding::default());
        for (path, name) in [
            ("/a/pic.jpg", "pic.jpg"),
            ("/a/", "index.html"),
            ("", "index.html"),
            ("/%E5%9B%BE%E7%89%87.jpg", "图片.jpg"),
            ("/..%2F..%2Fetc%2Fpasswd", "_.._etc_passwd"),
            ("/.bashrc", "bashrc"),
            ("/..", "index.html"),
            ("/%2e%2e", "index.html"),
            ("/a%0Ab%00%1b%09", "a_b___"),
            ("/a%E2%80%AEgpj.exe", "a_gpj.exe"),
            ("/%20", "index.html"),
            ("/%CE%C4.txt", "%CE%C4.txt"),
        ] {
            assert_eq!(name_for(path), name, "{path}");
        }
        let long = name_for(&format!("/{}", "图".repeat(500)));
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with('图'), "{long}");
        for (extension, kept) in [(".jpg", ".jpg"), (".图片", ".图片"), (".tar.gz", ".gz")] {
            let long = name_for(&format!("/{}{extension}", "图".repeat(500)));
            assert!(long.len() <= NAME_BYTES_MAX && long.ends_with(kept), "{long}");
        }
        let all_dots = name_for(&format!("/a.{}", "b".repeat(500)));
        assert_eq!(all_dots.len(), NAME_BYTES_MAX, "that is no extension");
    }

    #[test]
    fn namesakes_are_numbered_before_the_extension() {
        assert_eq!(numbered("pic.jpg", 1), "pic.jpg");
        assert_eq!(numbered("pic.jpg", 2), "pic-2.jpg");
        assert_eq!(numbered("a.tar.gz", 3), "a.tar-3.gz");
        assert_eq!(numbered("README", 12), "README-12");
    }
}
