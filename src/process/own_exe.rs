//! The path by which the program of this process can be executed again.
//!
//! The program is the file that its code is mapped from. `/proc/self/exe` is another file if a
//! loader or an emulator, such as valgrind, was executed and has mapped the program. If the
//! program's file has been removed or replaced, `/proc/self/exe` is the only way to it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::maps::mapped_at;
use crate::sys::process::program_headers;

const LINK: &str = "/proc/self/exe";
/// The suffix that the kernel adds to the path of a removed file.
const GONE: &[u8] = b" (deleted)";

/// Returns the path to execute. It is valid until the file is moved, removed or replaced.
///
/// # Errors
///
/// Those of reading `/proc`, which may not be mounted.
pub(crate) fn path() -> io::Result<PathBuf> {
    // Kept, as the list of maps is long in a big host. As long as the program runs, no other
    // file gets its inode number.
    static MAPPED: OnceLock<Option<(PathBuf, u64)>> = OnceLock::new();
    let mapped = MAPPED.get_or_init(|| {
        let maps = fs::read("/proc/self/maps").ok()?;
        mapped_at(&maps, program_headers()).map(|file| (file.path.to_owned(), file.inode))
    });
    if let Some((path, inode)) = mapped
        && fs::metadata(path).is_ok_and(|found| found.ino() == *inode)
    {
        return Ok(path.clone());
    }
    let target = fs::read_link(LINK)?;
    // Some file systems show another inode number in the list of maps than elsewhere.
    match (fs::metadata(&target), fs::metadata(LINK)) {
        (Ok(by_path), Ok(own)) if (by_path.dev(), by_path.ino()) == (own.dev(), own.ino()) => {
            Ok(target)
        }
        _ => Ok(LINK.into()),
    }
}

/// Returns the path of the program's file, or the path that it had before it was removed.
///
/// # Errors
///
/// As [`path`].
pub(crate) fn name() -> io::Result<PathBuf> {
    let path = path()?;
    if path != Path::new(LINK) {
        return Ok(path);
    }
    let target = fs::read_link(LINK)?.into_os_string();
    let name = target.as_bytes();
    Ok(OsStr::from_bytes(name.strip_suffix(GONE).unwrap_or(name)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_runs_is_found_by_its_path() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(path().unwrap(), own);
        assert_eq!(name().unwrap(), own);
    }
}
