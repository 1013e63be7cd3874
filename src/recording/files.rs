//! The files of a directory of recordings.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::format::MAGIC;
use crate::error::{Error, Result};
use crate::sys::descriptor::open_above_stdio;

/// What the names of recordings end with.
const ENDING: &str = "sliprec";

/// Numbers that are given to the files of this process.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Makes the directory and a new file in it for a worker of this role, which is locked as long as it is
/// open. Removes the oldest ones that no process writes, so that there are no more than `most`.
pub(super) fn create(directory: &Path, role: &str, most: usize) -> Result<(File, PathBuf)> {
    let failed = |what: &str, path: &Path, error| {
        Error::os(format!("cannot make the {what} {}", path.display()), error)
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| failed("directory of recordings", directory, e))?;
    remove_oldest(directory, role, most);
    let mut options = OpenOptions::new();
    // A new file, whatever lies there: also no link is followed.
    options.read(true).write(true).create_new(true).mode(0o600);
    loop {
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{role}-{}-{number}.{ENDING}", std::process::id());
        let path = directory.join(name);
        match open_above_stdio(&options, &path) {
            Ok(file) => {
                // Nothing else knows of the file yet. A file system without locks is none the worse.
                let _ = file.try_lock();
                return Ok((file, path));
            }
            // That of an earlier process with this id.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("recording", &path, error)),
        }
    }
}

/// Leaves room for one more. What cannot be looked at or removed stays.
fn remove_oldest(directory: &Path, role: &str, most: usize) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| is_of(role, &entry.file_name().to_string_lossy()))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, entry.path()))
        })
        .collect();
    found.sort();
    let too_many = (found.len() + 1).saturating_sub(most);
    for (_, path) in found.into_iter().take(too_many) {
        if is_left(&path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a name is that of a recording of this role: `<role>-<number>-<number>.sliprec`.
fn is_of(role: &str, name: &str) -> bool {
    let numbers = name
        .strip_prefix(role)
        .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(ENDING)?.strip_suffix('.'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.and_then(|rest| rest.split_once('-')).is_some_and(|(a, b)| is_number(a) && is_number(b))
}

/// Whether this is a recording that no process writes any more.
fn is_left(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(mut file) = open_above_stdio(&options, path) else { return false };
    let mut first = [0; MAGIC.len()];
    file.read_exact(&mut first).is_ok() && first == MAGIC && file.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_role_s_recordings_count() {
        assert!(is_of("embed", "embed-12-3.sliprec"));
        for other in
            ["embed-x-12-3.sliprec", "embed-12-3", "embed-12.sliprec", "emb-12-3.sliprec", "embed"]
        {
            assert!(!is_of("embed", other), "{other}");
        }
        assert!(is_of("embed-x", "embed-x-12-3.sliprec"));
    }

    #[test]
    fn the_oldest_recordings_leave_and_none_that_is_written_nor_other_files() {
        let name = format!("slipring-recordings-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let make = || {
            let (mut file, path) = create(&directory, "r", 3).unwrap();
            std::io::Write::write_all(&mut file, &MAGIC).unwrap();
            (file, path)
        };
        let (kept, kept_path) = make();
        let foreign = directory.join("r-1-1.sliprec");
        fs::write(&foreign, "something else").unwrap();
        let closed: Vec<PathBuf> = (0..5).map(|_| make().1).collect();
        let is_there = |path: &PathBuf| path.exists();
        assert!(is_there(&kept_path) && is_there(&foreign), "in use; no recording");
        assert!(!is_there(&closed[0]) && is_there(&closed[4]));
        drop(kept);
        make();
        assert!(!is_there(&kept_path), "it is the oldest now");
        fs::remove_dir_all(directory).unwrap();
    }
}
