//! The files of named segments: which file a name leads to, and whether it may be used.
//!
//! `shared_memory` opens a segment by its name and shows no descriptor. So the file is opened here
//! as well, checked, and compared with the file that was mapped: if another one was put in its
//! place in between, that is noticed. What processes of the same user do to the file later cannot
//! be noticed.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::process::maps::mapped_at;
use crate::shm::layout::as_u64;
use crate::sys::descriptor::open_above_stdio;
use crate::sys::process;

/// The directory in which segments are files.
pub(crate) const DIRECTORY: &str = "/dev/shm";

/// Tells a file from all others of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The file of the segment `id`.
pub(crate) fn path(id: &str) -> PathBuf {
    Path::new(DIRECTORY).join(id)
}

/// Opens the file of a segment for reading, without following a link. Returns `None` if there is
/// no file.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), with both values, unless it is a plain file
/// that belongs to this user and that no other user can open.
pub(crate) fn file_of(path: &Path) -> Result<Option<File>> {
    let found = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::os(format!("cannot look at {}", path.display()), e))?,
    };
    // Checked before it is opened, as another user's file may not allow that.
    check(path, &found)?;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match open_above_stdio(OpenOptions::new().read(true).custom_flags(flags), path) {
        Ok(file) => {
            // Another file may have taken its place.
            check(path, &metadata(&file)?)?;
            Ok(Some(file))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::os(format!("cannot open {}", path.display()), e)),
    }
}

fn check(path: &Path, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    if !kind.is_file() {
        let is = match () {
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_dir() => "a directory",
            () if kind.is_socket() => "a socket",
            () => "a special file",
        };
        return Err(mismatch(path, &format!("is {is}, expected a plain file")));
    }
    let own = process::user_id();
    if found.uid() != own {
        let owner = found.uid();
        return Err(mismatch(path, &format!("belongs to user {owner}, expected {own}")));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let text = format!("has mode {mode:04o}, expected no rights beyond 0700");
        return Err(mismatch(path, &text));
    }
    Ok(())
}

/// Checks that `file` is what is mapped at `start`, as both were opened by name.
pub(super) fn check_mapped(path: &Path, file: &File, start: *const u8) -> Result<FileId> {
    let expected = FileId::of(&metadata(file)?);
    let maps = std::fs::read("/proc/self/maps")
        .map_err(|e| Error::os("cannot read this process's maps", e))?;
    let found = mapped_at(&maps, as_u64(start.addr()));
    let found = found.map(|file| FileId { device: file.device, inode: file.inode });
    if found == Some(expected) {
        return Ok(expected);
    }
    Err(mismatch(path, &format!("was replaced: {found:?} is mapped, expected {expected:?}")))
}

pub(super) fn metadata(file: &File) -> Result<Metadata> {
    file.metadata().map_err(|e| Error::os("cannot stat a segment", e))
}

pub(super) fn mismatch(path: &Path, what: &str) -> Error {
    Error::mismatch(format!("segment {} {what}", path.display()))
}
