//! Files for results: whole or not there, and known to be writable before any load starts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::{Builder, NamedTempFile};

/// A file to be. Until it is kept nothing of it can be seen, and what was there before stays.
pub struct Output {
    path: PathBuf,
    to: To,
}

enum To {
    /// Beside the place where it goes, so that it gets there in one step.
    Beside(BufWriter<NamedTempFile>),
    /// Devices and pipes are written as they are: there is nothing to replace.
    Straight(BufWriter<File>),
}

impl Output {
    /// Fails if the path cannot be written.
    pub fn open(path: &str) -> Result<Output> {
        let told = || format!("writing {path}");
        // A link stays, and what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        let to = match fs::metadata(&path) {
            Ok(there) if there.is_dir() => {
                Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(told)?
            }
            Ok(there) if !there.is_file() => {
                To::Straight(BufWriter::new(OpenOptions::new().write(true).open(&path).with_context(told)?))
            }
            _ => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                // As any new file: the system takes away what the user's mask forbids.
                let all_may = fs::Permissions::from_mode(0o666);
                let file = Builder::new()
                    .prefix(".loadgen-")
                    .permissions(all_may)
                    .tempfile_in(folder.unwrap_or(Path::new(".")))
                    // It would also name the file beside, of which nobody knows.
                    .map_err(|error| io::Error::from(error.kind()))
                    .with_context(told)?;
                To::Beside(BufWriter::new(file))
            }
        };
        Ok(Output { path, to })
    }

    /// Opens those that were asked for. No two may go to one place.
    pub fn open_all<const N: usize>(paths: [Option<&str>; N]) -> Result<[Option<Output>; N]> {
        let mut outputs = [const { None }; N];
        for (index, path) in paths.into_iter().enumerate() {
            let Some(path) = path else { continue };
            let output = Output::open(path)?;
            ensure!(
                !outputs.iter().flatten().any(|other: &Output| other.path == output.path),
                "two results would go to {path}"
            );
            outputs[index] = Some(output);
        }
        Ok(outputs)
    }

    /// Puts it, whole and with this content, where it goes.
    pub fn keep_with(mut self, content: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
        content(&mut self).with_context(|| format!("writing {}", self.path.display()))?;
        self.keep()
    }

    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it, whole, where it goes.
    pub fn keep(self) -> Result<()> {
        let kept = match self.to {
            To::Straight(mut file) => file.flush(),
            To::Beside(file) => file.into_inner().map_err(io::Error::from).and_then(|file| {
                file.as_file().sync_all()?;
                file.persist(&self.path).map(|_| ()).map_err(io::Error::from)
            }),
        };
        kept.with_context(|| format!("writing {}", self.path.display()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Beside(file) => file.write(bytes),
            To::Straight(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Beside(file) => file.flush(),
            To::Straight(file) => file.flush(),
        }
    }
}
