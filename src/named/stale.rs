//! Segments that killed processes have left behind.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Error, Result};
use crate::named::layout::{MAGIC, MAKER, MakerLine, VERSION};
use crate::named::names::{channel_of, remove_if};
use crate::named::peer::Process;
use crate::named::segment_file::{DIRECTORY, FileId, file_of};
use crate::shm::layout::as_u64;

/// The age from which a segment that names no maker counts as left behind. Making one takes
/// microseconds, so that its maker was killed just then.
const IN_THE_MAKING: Duration = Duration::from_secs(60);

/// The segments of a channel that a process has left behind: it was killed, or ended without
/// dropping the channel.
#[derive(Debug, Clone)]
pub struct Stale {
    name: String,
    pid: Option<u32>,
    bytes: u64,
    files: Vec<(PathBuf, FileId)>,
}

/// Finds the segments that processes of this user have left in `/dev/shm` when they were killed.
/// Channels whose maker lives, and those of other pid namespaces, are not listed. A process is
/// told from a later one with the same id by its start time. Blocks only while `/dev/shm` and
/// `/proc` are read.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if `/dev/shm` cannot be read;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without `/proc`.
pub fn stale() -> Result<Vec<Stale>> {
    let this = Process::this()?;
    let unreadable = |e| Error::os(format!("cannot list {DIRECTORY}"), e);
    let mut found: Vec<Stale> = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let file = path.file_name().and_then(|name| name.to_str());
        let Some(name) = file.and_then(channel_of).map(str::to_owned) else { continue };
        let Some(Left { pid, bytes, file }) = judge(&path, &this) else { continue };
        match found.iter_mut().find(|stale| stale.name == name) {
            Some(stale) => {
                stale.pid = stale.pid.or(pid);
                stale.bytes += bytes;
                stale.files.push((path, file));
            }
            None => found.push(Stale { name, pid, bytes, files: vec![(path, file)] }),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Stale {
    /// Returns the channel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of the process that made the segments; `None` if it was killed before it had
    /// stored its id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Returns how many bytes of memory the segments hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the segments. Files that are gone already, or that were replaced by others, are no
    /// error and stay as they are. A worker that is still attached ends by itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if a file cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for (path, file) in &self.files {
            remove_if(path, *file)
                .map_err(|e| Error::os(format!("cannot remove {}", path.display()), e))?;
        }
        Ok(())
    }
}

struct Left {
    pid: Option<u32>,
    bytes: u64,
    file: FileId,
}

/// Returns what a file tells if a process that is gone has left it; `None` too if the file cannot
/// be read, belongs to another user, or has a maker line that this version does not know.
fn judge(path: &Path, this: &Process) -> Option<Left> {
    let opened = file_of(path).ok()??;
    let metadata = opened.metadata().ok()?;
    let (file, bytes) = (FileId::of(&metadata), metadata.len());
    let line = line_of(&opened);
    if line.magic == 0 {
        let changed = u64::try_from(metadata.ctime()).unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_secs(changed));
        return (age > IN_THE_MAKING).then_some(Left { pid: None, bytes, file });
    }
    let maker = process_of(&line)?;
    let is_left = maker.namespace == this.namespace && !maker.is_alive();
    is_left.then_some(Left { pid: Some(maker.pid), bytes, file })
}

/// The process that made the segment in this file, if the file tells.
pub(super) fn maker_of(path: &Path) -> Option<Process> {
    process_of(&line_of(&file_of(path).ok()??))
}

pub(super) fn process_of(line: &MakerLine) -> Option<Process> {
    let MakerLine { pid, start_time, namespace, .. } = *line;
    let is_known = line.magic == MAGIC && line.version == VERSION;
    is_known.then_some(Process { pid, start_time, namespace })
}

/// The maker line; zeros if the file is too short. It is read, not mapped, so that a file that is
/// truncated meanwhile does no harm.
pub(super) fn line_of(file: &File) -> MakerLine {
    let mut line = MakerLine::new_zeroed();
    match file.read_exact_at(line.as_mut_bytes(), as_u64(MAKER)) {
        Ok(()) => line,
        Err(_) => MakerLine::new_zeroed(),
    }
}
