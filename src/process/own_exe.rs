//! The path by which the program of this process can be executed again.
//!
//! The program is the file that its code is mapped from. `/proc/self/exe` is another file if a
//! loader or an emulator, such as valgrind, was executed and has mapped the program. If the
//! program's file has been removed or replaced, `/proc/self/exe` is the only way to it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
        mapped_at(&maps, program_headers()).map(|(path, inode)| (path.to_owned(), inode))
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
    let mut target = fs::read_link(LINK)?.into_os_string().into_vec();
    if target.ends_with(GONE) {
        target.truncate(target.len() - GONE.len());
    }
    Ok(std::ffi::OsString::from_vec(target).into())
}

/// Returns the file, and its inode number, that the text of `/proc/self/maps` names for an
/// address.
fn mapped_at(maps: &[u8], address: u64) -> Option<(&Path, u64)> {
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        // The fields are range, rights, offset, device and inode; the path follows after blanks.
        let mut rest = line;
        let mut fields = [""; 5];
        for field in &mut fields {
            let end = rest.iter().position(|byte| *byte == b' ')?;
            *field = std::str::from_utf8(rest.get(..end)?).ok()?;
            rest = rest.get(end + 1..)?;
        }
        let [range, .., inode] = fields;
        let (from, to) = range.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        if !(hex(from)?..hex(to)?).contains(&address) {
            return None;
        }
        let path = Path::new(OsStr::from_bytes(rest.trim_ascii_start()));
        path.is_absolute().then_some((path, inode.parse().ok()?))
    })
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

    #[test]
    fn the_file_of_a_map_is_read_off_the_list_of_maps() {
        let maps = b"1000-2000 r--p 00000000 fe:00 18504        /a b/program\n\
                     2000-3000 rw-p 00000000 00:00 0 \n\
                     3000-4000 r--p 00000000 fe:00 7            [vdso]\n";
        assert_eq!(mapped_at(maps, 0x1000), Some((Path::new("/a b/program"), 18504)));
        assert_eq!(mapped_at(maps, 0x1fff), Some((Path::new("/a b/program"), 18504)));
        for elsewhere in [0xfff, 0x2000, 0x3000, 0x4000] {
            assert_eq!(mapped_at(maps, elsewhere), None, "{elsewhere:#x}");
        }
        assert_eq!(mapped_at(b"garbage", 1), None);
    }
}
