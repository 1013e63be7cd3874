//! The place of a regular file: a name in a directory that is held open. What becomes of the
//! path that led there, or of the process's own directory, makes no difference any more.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// As many links in a row as the kernel follows.
const MAX_LINKS: usize = 40;

#[derive(Debug)]
pub(crate) struct Spot {
    directory: Arc<OwnedFd>,
    name: OsString,
    /// Where the path led, for messages.
    path: PathBuf,
    /// The file that stands there, open for writing but as it was.
    existing: Option<File>,
}

impl Spot {
    /// Follows symbolic links and opens the directory. A file that stands there and is
    /// write-protected is an error: to replace it would ask for write access to its
    /// directory alone, but it is meant to stay.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = resolve(path)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        let mut spot = Self { directory: Arc::new(directory), name, path, existing: None };
        spot.existing = match spot.file() {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(spot)
    }

    /// The file that stood there at the start.
    pub(super) fn existing(&self) -> Option<&File> {
        self.existing.as_ref()
    }

    /// The file that stands there now, open for writing.
    pub(super) fn file(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, &self.name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotSeekable.into()) }
    }

    /// A new file in the directory that has no name, and is gone if it never gets one.
    pub(super) fn unnamed(&self, mode: Mode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(openat(&self.directory, ".", flags, mode)?.into())
    }

    /// A new file in the directory under this name.
    pub(super) fn create(&self, name: &OsStr, mode: Mode) -> io::Result<(File, Named)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, mode)?;
        Ok((file.into(), self.named(name)))
    }

    /// Gives an unnamed file a name that no file has: this one, or the spot's own.
    pub(super) fn link(&self, file: &File, name: Option<&OsStr>) -> io::Result<Named> {
        use std::os::fd::AsRawFd;
        let name = name.unwrap_or(&self.name);
        // The other way, by the descriptor itself, asks for a privilege.
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, source, &*self.directory, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(self.named(name))
    }

    fn named(&self, name: &OsStr) -> Named {
        Named { directory: Arc::clone(&self.directory), name: name.to_owned() }
    }

    /// Puts a file of the directory in the place of this one.
    pub(super) fn replace_by(&self, file: &Named) -> io::Result<()> {
        Ok(renameat(&*self.directory, &file.name, &*self.directory, &self.name)?)
    }

    /// Has the directory's own changes written. Not all file systems can, and not every user
    /// may; the files' data do not depend on it.
    pub(super) fn sync_directory(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened: Result<OwnedFd, Errno> = openat(&*self.directory, ".", flags, Mode::empty());
        let _ = opened.and_then(rustix::fs::fsync);
    }

    /// How a message calls another file of the directory.
    pub(super) fn path_of(&self, file: &Named) -> PathBuf {
        self.path.with_file_name(&file.name)
    }
}

/// A file's name in a directory.
#[derive(Clone, Debug)]
pub(super) struct Named {
    directory: Arc<OwnedFd>,
    name: OsString,
}

impl Named {
    pub(super) fn remove(&self) {
        let _ = unlinkat(&*self.directory, &self.name, AtFlags::empty());
    }
}

/// Follows symbolic links by hand: the last may point to a file that does not
/// exist yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(path);
        }
        let link = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("too many symbolic links"))
}
