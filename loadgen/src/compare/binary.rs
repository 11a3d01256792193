//! The files that a build makes: what lay there before is not taken for it, and what is kept has a hash.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A place where a build is to put a file. What was there before is out of the way; it comes back if the build puts nothing
/// there.
pub struct Cleared {
    pub place: PathBuf,
    /// Where it was put, if there was anything.
    aside: Option<PathBuf>,
}

impl Cleared {
    /// Fails if there is something that cannot be moved.
    pub fn at(place: PathBuf) -> Result<Cleared, String> {
        let told =
            |error: io::Error| format!("{} cannot be deleted before the build: {error}", place.display());
        match fs::symlink_metadata(&place) {
            Ok(there) if there.is_dir() => return Err(told(ErrorKind::IsADirectory.into())),
            Ok(_) => {}
            // A path through something that is no folder is nothing either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Cleared { place, aside: None });
            }
            Err(error) => return Err(told(error)),
        }
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        // In the same folder, so that it is one step, there and back.
        let aside = place.with_file_name(format!(".{name}.before-{}", std::process::id()));
        fs::rename(&place, &aside).map_err(told)?;
        Ok(Cleared { place, aside: Some(aside) })
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        let Some(aside) = &self.aside else { return };
        // There is nobody to tell.
        let _ = match fs::symlink_metadata(&self.place) {
            Ok(_) => fs::remove_file(aside),
            Err(_) => fs::rename(aside, &self.place),
        };
    }
}

/// The SHA-256 of a file, as sha256sum prints it.
pub fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_comes_back_unless_something_new_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("srv");
        let files = || fs::read_dir(folder.path()).unwrap().count();
        for new in [false, true] {
            fs::write(&place, "old").unwrap();
            let cleared = Cleared::at(place.clone()).unwrap();
            assert!(!cleared.place.exists());
            if new {
                fs::write(&place, "new").unwrap();
            }
            drop(cleared);
            assert_eq!(fs::read_to_string(&place).unwrap(), if new { "new" } else { "old" });
            assert_eq!(files(), 1);
        }
        drop(Cleared::at(folder.path().join("none")).unwrap());
        drop(Cleared::at(place.join("none")).unwrap());
        assert!(Cleared::at(folder.path().to_owned()).err().unwrap().contains("cannot be deleted"));
    }

    #[test]
    fn the_hash_is_that_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("abc"), "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&folder.path().join("abc")).unwrap(), abc);
    }
}
