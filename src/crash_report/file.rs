//! The file of a report: written under another name first, so that a report is whole or is not there; and
//! the removal of old ones.
//!
//! ```text
//!   slipring-crash-<role>-<pid>-<time>.json         a report
//!   .slipring-crash-<role>-<pid>-<time>.json.tmp    one that is being written, or was never finished
//! ```
//!
//! Nothing but plain files of these names and of this user is ever removed. A symbolic link is neither
//! followed nor removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sys::descriptor::hold_free_stdio;
use crate::sys::utc::Utc;

const PREFIX: &str = "slipring-crash-";
const SUFFIX: &str = ".json";
const UNFINISHED: &str = ".tmp";

/// How old a file must be that was never finished. It is locked while it is written; this is for the
/// moment before that.
const UNFINISHED_AGE: Duration = Duration::from_secs(10);

/// What the name of a report says.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) role: String,
    pub(super) pid: u32,
    pub(super) time: SystemTime,
}

impl Name {
    fn file_name(&self) -> String {
        let Self { role, pid, time } = self;
        format!("{PREFIX}{role}-{pid}-{}{SUFFIX}", Utc::of(*time).name())
    }
}

/// Writes a report, which only its owner may read, and returns its path. Makes the directory if it is
/// missing. Blocks for as long as the file system does, until the report is on the disk.
pub(super) fn write(directory: &Path, name: &Name, text: &str) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let name = name.file_name();
    let path = directory.join(&name);
    let unfinished = directory.join(format!(".{name}{UNFINISHED}"));
    let mut options = OpenOptions::new();
    // A new file: neither a link nor what another process has put there.
    options.write(true).create_new(true).mode(0o600);
    let held = hold_free_stdio();
    let file = options.open(&unfinished)?;
    drop(held);
    fill(file, text).and_then(|()| fs::rename(&unfinished, &path)).inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })?;
    Ok(path)
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    // Errors mean that the file system has no locks.
    let _ = file.try_lock();
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes the oldest reports, so that `keep` are left, and what was never finished. What cannot be removed
/// stays. So does the one that was just `written`, also if the clock was set back since others were, and what
/// other users have put into the directory.
pub(super) fn prune(written: &Path, keep: usize) {
    if let Ok(metadata) = fs::symlink_metadata(written) {
        prune_of(written, keep, metadata.uid());
    }
}

fn prune_of(written: &Path, keep: usize, user: u32) {
    let Some(Ok(entries)) = written.parent().map(fs::read_dir) else { return };
    let mut reports = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (Some(name), Ok(kind)) = (name.to_str(), entry.file_type()) else { continue };
        let is_own = || entry.metadata().is_ok_and(|metadata| metadata.uid() == user);
        let is_candidate = time_of(name).is_some() || is_unfinished(name);
        if !kind.is_file() || !is_candidate || !is_own() {
            continue;
        }
        if let Some(time) = time_of(name) {
            reports.push((time.to_owned(), entry.path()));
        } else if is_unfinished(name) && is_left_behind(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    reports.sort_unstable();
    let surplus = reports.len().saturating_sub(keep);
    for (_, path) in reports.into_iter().take(surplus).filter(|(_, path)| path != written) {
        let _ = fs::remove_file(path);
    }
}

/// Returns the time in the name of a report, and `None` for all other names.
fn time_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (rest, time) = rest.rsplit_once('-')?;
    let (role, pid) = rest.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    (!role.is_empty() && is_number(pid) && shape == "00000000T000000.000000Z").then_some(time)
}

fn is_unfinished(name: &str) -> bool {
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED));
    name.is_some_and(|name| time_of(name).is_some())
}

/// Whether no process writes it any more.
fn is_left_behind(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(file) = options.open(path) else { return false };
    let written = file.metadata().and_then(|metadata| metadata.modified());
    let age = written.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
    age >= UNFINISHED_AGE && file.try_lock().is_ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::process::testing::TempDir;

    fn name(role: &str, seconds: u64) -> Name {
        Name { role: role.to_owned(), pid: 7, time: UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    fn names(dir: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_report_is_the_owners_alone_and_leaves_nothing_else() {
        let dir = TempDir::new();
        let deep = dir.path().join("a/b");
        let path = write(&deep, &name("embed-2", 951_782_400), "text").unwrap();
        assert_eq!(path, deep.join("slipring-crash-embed-2-7-20000229T000000.000000Z.json"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(deep).unwrap().count(), 1);
    }

    #[test]
    fn the_oldest_reports_are_removed_and_nothing_that_is_not_one() {
        let dir = TempDir::new();
        let others = [
            "slipring-crash-r-7-20000101T000000.000000Z.json.bak",
            "slipring-crash-r-x-20000101T000000.000000Z.json",
            "slipring-crash-r-7-2000.json",
            "slipring-crash--7-20000101T000000.000000Z.json",
            "a-20000101T000000.000000Z.json",
            ".slipring-crash-r-7.json.tmp",
        ];
        for other in others {
            fs::write(dir.path().join(other), "").unwrap();
        }
        // Neither a link nor a directory of such a name is a report.
        let target = dir.path().join("target");
        fs::write(&target, "kept").unwrap();
        symlink(&target, dir.path().join("slipring-crash-r-1-19990101T000000.000000Z.json"))
            .unwrap();
        fs::create_dir(dir.path().join("slipring-crash-r-2-19990101T000000.000000Z.json")).unwrap();
        let before = names(&dir);
        // The role that comes last in the alphabet is the oldest.
        let mut last = PathBuf::new();
        for (role, seconds) in [("z", 1), ("y", 3), ("b", 2), ("a", 4)] {
            last = write(dir.path(), &name(role, seconds), "").unwrap();
        }
        prune(&last, 2);
        let left: Vec<_> = names(&dir).into_iter().filter(|name| !before.contains(name)).collect();
        let expected = ["a-7-19700101T000004", "y-7-19700101T000003"];
        assert_eq!(left, expected.map(|name| format!("slipring-crash-{name}.000000Z.json")));
        assert!(before.iter().all(|name| names(&dir).contains(name)));
    }

    #[test]
    fn what_was_never_finished_is_removed_once_nobody_writes_it() {
        let dir = TempDir::new();
        let path = dir.path().join(".slipring-crash-r-7-20000101T000000.000000Z.json.tmp");
        let file = File::create(&path).unwrap();
        let last = write(dir.path(), &name("r", 1), "").unwrap();
        prune(&last, 5);
        assert!(path.exists(), "it may have been made just now");
        file.set_modified(SystemTime::now() - 2 * UNFINISHED_AGE).unwrap();
        file.try_lock().unwrap();
        prune(&last, 5);
        assert!(path.exists(), "it is being written");
        drop(file);
        prune(&last, 5);
        assert!(!path.exists());
    }

    #[test]
    fn a_report_stays_that_was_written_after_the_clock_was_set_back() {
        let dir = TempDir::new();
        for seconds in 1000..1005 {
            write(dir.path(), &name("r", seconds), "").unwrap();
        }
        let mut before = PathBuf::new();
        for seconds in [2, 1] {
            let last = write(dir.path(), &name("r", seconds), "").unwrap();
            prune(&last, 3);
            assert!(last.exists() && !before.exists() && names(&dir).len() == 4);
            before = last;
        }
    }

    #[test]
    fn what_other_users_have_put_there_neither_counts_nor_goes() {
        let dir = TempDir::new();
        let old = write(dir.path(), &name("r", 1), "").unwrap();
        let unfinished = dir.path().join(".slipring-crash-r-7-20000101T000000.000000Z.json.tmp");
        let file = File::create(&unfinished).unwrap();
        file.set_modified(SystemTime::now() - 2 * UNFINISHED_AGE).unwrap();
        drop(file);
        let last = write(dir.path(), &name("r", 2), "").unwrap();
        let user = fs::metadata(&last).unwrap().uid();
        // As if those were another's.
        prune_of(&last, 1, user.wrapping_add(1));
        assert!(old.exists() && unfinished.exists() && last.exists());
        prune_of(&last, 1, user);
        assert!(!old.exists() && !unfinished.exists() && last.exists());
    }

    #[test]
    fn neither_a_link_nor_a_file_in_the_way_is_written_to() {
        let dir = TempDir::new();
        let (name, target) = (name("r", 1), dir.path().join("target"));
        fs::write(&target, "kept").unwrap();
        let unfinished = dir.path().join(format!(".{}.tmp", name.file_name()));
        symlink(&target, &unfinished).unwrap();
        assert_eq!(
            write(dir.path(), &name, "text").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        fs::remove_file(&unfinished).unwrap();
        // A link in the place of the report itself is replaced, and not followed.
        symlink(&target, dir.path().join(name.file_name())).unwrap();
        let path = write(dir.path(), &name, "text").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }
}
