//! The names of a channel's segments.

use std::io;
use std::path::{Path, PathBuf};

use crate::named::segment_file::{FileId, path};
use crate::protocol::role::is_name;
use crate::sys::fork;

const PREFIX: &str = "slipring.";
const DOWN: &str = ".down";
const UP: &str = ".up";

pub(super) fn down_id(name: &str) -> String {
    format!("{PREFIX}{name}{DOWN}")
}

pub(super) fn up_id(name: &str) -> String {
    format!("{PREFIX}{name}{UP}")
}

/// The channel to which a file of this name in `/dev/shm` belongs.
pub(super) fn channel_of(file: &str) -> Option<&str> {
    let rest = file.strip_prefix(PREFIX)?;
    let name = rest.strip_suffix(DOWN).or_else(|| rest.strip_suffix(UP))?;
    is_name(name).then_some(name)
}

/// The names of a channel's segments, which are removed when the value is dropped, unless they lead
/// to other files by then.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(PathBuf, FileId)>);

impl Names {
    pub(super) fn add(&mut self, id: &str, file: FileId) {
        self.0.push((path(id), file));
    }

    /// Removes the names now. A second call does nothing.
    pub(super) fn remove(&self) {
        if fork::is_forked_child() {
            return;
        }
        for (path, file) in &self.0 {
            // If this fails, `stale` finds the file later.
            let _ = remove_if(path, *file);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes a name if it leads to `file`, and returns whether it did. Another file can take its
/// place between the look and the removal only if another process removes this one's names.
pub(super) fn remove_if(path: &Path, file: FileId) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if FileId::of(&found) == file => std::fs::remove_file(path).map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_a_path_and_found_again_in_it() {
        for good in ["embed", "re-rank_2", "v1.0", "a.down", "x.up"] {
            assert!(is_name(good), "{good}");
            assert_eq!(channel_of(&down_id(good)), Some(good));
            assert_eq!(channel_of(&up_id(good)), Some(good));
        }
        for bad in ["", "..", ".hidden", "a/b", "a b", "ü", &"x".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
            assert_eq!(channel_of(&down_id(bad)), None);
        }
        assert_eq!(channel_of("slipring.embed"), None);
        assert_eq!(channel_of("other.embed.down"), None);
    }
}
