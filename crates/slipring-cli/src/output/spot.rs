//! The place of a regular file: a name in a directory that is held open. The place stays the
//! same if a directory on the path is renamed later.

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
    /// The path after its links were followed, for messages.
    path: PathBuf,
    /// The file at this place, open for writing but not truncated.
    existing: Option<File>,
}

impl Spot {
    /// Follows symbolic links and opens the directory. Returns an error if the file exists and
    /// is write-protected: replacing it would need write access to the directory only, but
    /// its owner wants it to stay.
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

    /// Returns the file that was at this place at the start.
    pub(super) fn existing(&self) -> Option<&File> {
        self.existing.as_ref()
    }

    /// Opens the file that is at this place now, for writing.
    pub(super) fn file(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, &self.name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotSeekable.into()) }
    }

    /// Creates a file without a name in the directory. It vanishes when it is closed, unless
    /// it has got a name by then.
    pub(super) fn unnamed(&self, mode: Mode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(openat(&self.directory, ".", flags, mode)?.into())
    }

    /// Creates a file with this name in the directory.
    pub(super) fn create(&self, name: &OsStr, mode: Mode) -> io::Result<(File, Named)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, mode)?;
        Ok((file.into(), self.named(name)))
    }

    /// Gives an unnamed file this name, or the name of this place. Returns an error if another
    /// file has the name.
    pub(super) fn link(&self, file: &File, name: Option<&OsStr>) -> io::Result<Named> {
        use std::os::fd::AsRawFd;
        let name = name.unwrap_or(&self.name);
        // Linking the descriptor itself (AT_EMPTY_PATH) needs a privilege.
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, source, &*self.directory, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(self.named(name))
    }

    fn named(&self, name: &OsStr) -> Named {
        Named { directory: Arc::clone(&self.directory), name: name.to_owned() }
    }

    /// Moves a file of the directory to this place.
    pub(super) fn replace_by(&self, file: &Named) -> io::Result<()> {
        Ok(renameat(&*self.directory, &file.name, &*self.directory, &self.name)?)
    }

    /// Makes the names in the directory durable. Errors are ignored: not every file system can
    /// do it, and the data of the files is safe without it.
    pub(super) fn sync_directory(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened: Result<OwnedFd, Errno> = openat(&*self.directory, ".", flags, Mode::empty());
        let _ = opened.and_then(rustix::fs::fsync);
    }

    /// Returns the path of another file of the directory, for messages.
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
