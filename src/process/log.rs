//! A worker's log: where its standard output and error go, and what is read back of it
//! when it has died.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::sys::fd::set_blocking_append;
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::shm::descriptor::open_above_stdio;

/// How much of the end of a log is kept for an error.
const TAIL: u64 = 4096;

/// How the line about a worker's end begins.
const REASON: &[u8] = b"[supervisor] ";

/// One worker's part of a log file: all that was appended since it was opened.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// Length of the file when it was opened; what stands before is an earlier worker's.
    start: u64,
    /// Device and inode: a file that was put in its place is not this log.
    identity: (u64, u64),
    /// Open until the worker has it.
    file: Option<File>,
    /// Where the line about this worker's own end begins, once it is written.
    own_reason: OnceLock<u64>,
}

impl Log {
    /// Opens `worker-<role>.log`, or `worker-<role>-<instance>.log`, for appending; makes
    /// it, for the owner only, and its directories, when they are missing. A symbolic link
    /// in the file's place is refused, and so is anything else that is not a plain file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`] with the path and the cause; [`ErrorKind::InvalidConfig`] when the
    /// path is taken by something that is no plain file.
    pub(crate) fn open(directory: &Path, role: &str, instance: Option<u32>) -> Result<Self> {
        let name = match instance {
            None => format!("worker-{role}.log"),
            Some(number) => format!("worker-{role}-{number}.log"),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| {
            Error::os(format!("cannot make the log directory {}", directory.display()), e)
        })?;
        let path = directory.join(name);
        match Self::open_file(&path) {
            Ok(Some(log)) => Ok(log),
            Ok(None) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("the log {} is no plain file", path.display()),
            )),
            Err(e) => Err(Error::os(format!("cannot open the log {}", path.display()), e)),
        }
    }

    /// `None`: not a plain file.
    fn open_file(path: &Path) -> io::Result<Option<Self>> {
        // Non-blocking, or the open of a named pipe would wait for its reader.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = open_above_stdio(&options, path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        set_blocking_append(file.as_fd())?;
        Ok(Some(Self {
            path: path.to_path_buf(),
            start: meta.len(),
            identity: (meta.dev(), meta.ino()),
            file: Some(file),
            own_reason: OnceLock::new(),
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For the worker's standard output and error; `None` once it was released.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Closes this process's descriptor: the worker has its own.
    pub(crate) fn release_fd(&mut self) {
        self.file = None;
    }

    /// The last 4096 bytes that were written since the log was opened, lossily decoded;
    /// `None` when they cannot be read. Without lines about the end of other workers: that
    /// of an earlier one is written when the kernel has torn it down, by which time this
    /// one may long be running.
    pub(crate) fn tail(&self) -> Option<String> {
        let (file, length) = self.reopen(OpenOptions::new().read(true))?;
        let start = self.start_in(length);
        let from = length.saturating_sub(TAIL).max(start);
        let mut bytes = vec![0; usize::try_from(length - from).ok()?];
        let read = read_at_most(&file, &mut bytes, from)?;
        bytes.truncate(read);
        let mut at = from;
        let mut own = Vec::new();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !line.starts_with(REASON) || self.own_reason.get() == Some(&at) {
                own.extend_from_slice(line);
            }
            at += u64::try_from(line.len()).ok()?;
        }
        let mut rest = own.as_slice();
        if from > start {
            // A cut in the middle of a character leaves up to three bytes of it.
            let cut = rest.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count();
            rest = rest.get(cut..).unwrap_or_default();
        }
        Some(String::from_utf8_lossy(rest).into_owned())
    }

    /// Appends the line that tells how the worker ended; best effort, as the disk may be
    /// the very thing that is full.
    pub(crate) fn append_reason(&self, cause: &ExitCause) {
        let Some((mut file, length)) = self.reopen(OpenOptions::new().read(true).append(true))
        else {
            return;
        };
        let mut last = [b'\n'];
        if length > self.start_in(length) {
            let _ = file.read_at(&mut last, length - 1);
        }
        let mut text = if last == [b'\n'] { Vec::new() } else { vec![b'\n'] };
        let line_at = text.len();
        text.extend_from_slice(REASON);
        text.extend_from_slice(format!("{cause}\n").as_bytes());
        // One write, so that lines of others cannot come between.
        let written = file.write_all(&text).and_then(|()| file.stream_position());
        let line_length = u64::try_from(text.len() - line_at).unwrap_or(u64::MAX);
        if let Some(at) = written.ok().and_then(|end| end.checked_sub(line_length)) {
            // There is one end, and so one such line.
            let _ = self.own_reason.set(at);
        }
    }

    /// The file and its length, when it is still the one that was opened.
    fn reopen(&self, options: &mut OpenOptions) -> Option<(File, u64)> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.custom_flags(flags).open(&self.path).ok()?;
        let meta = file.metadata().ok()?;
        ((meta.dev(), meta.ino()) == self.identity).then_some((file, meta.len()))
    }

    /// Where this worker's part begins: at the very start, when the file was truncated.
    fn start_in(&self, length: u64) -> u64 {
        if length < self.start { 0 } else { self.start }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], from: u64) -> Option<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + u64::try_from(read).ok()?) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::process::testing::{TempDir, make_fifo};

    fn write(log: &Log, text: impl AsRef<[u8]>) {
        log.file.as_ref().unwrap().write_all(text.as_ref()).unwrap();
    }

    #[test]
    fn a_log_is_named_after_role_and_instance_and_is_the_owners_alone() {
        let dir = TempDir::new();
        let deep = dir.path().join("a/b");
        let one = Log::open(&deep, "embed", None).unwrap();
        let two = Log::open(&deep, "embed", Some(3)).unwrap();
        assert_eq!(one.path(), deep.join("worker-embed.log"));
        assert_eq!(two.path(), deep.join("worker-embed-3.log"));
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_tail_never_shows_lines_of_an_earlier_worker() {
        let dir = TempDir::new();
        let first = Log::open(dir.path(), "r", None).unwrap();
        write(&first, "secret of the first\n");
        let second = Log::open(dir.path(), "r", None).unwrap();
        assert_eq!(second.tail().unwrap(), "");
        write(&second, "mine\n");
        assert_eq!(second.tail().unwrap(), "mine\n");
        assert_eq!(first.tail().unwrap(), "secret of the first\nmine\n");
    }

    #[test]
    fn the_tail_is_4096_bytes_and_begins_with_a_whole_character() {
        let dir = TempDir::new();
        let log = Log::open(dir.path(), "r", None).unwrap();
        write(&log, format!("{}{}", "\u{20AC}".repeat(2000), "xyz!"));
        let tail = log.tail().unwrap();
        assert!(tail.len() <= 4096 && tail.len() > 4092, "{}", tail.len());
        assert!(tail.starts_with('\u{20AC}') && tail.ends_with("xyz!"));
        write(&log, [0xFF, b'!']);
        assert!(log.tail().unwrap().ends_with("xyz!\u{FFFD}!"));
    }

    #[test]
    fn the_reason_is_a_line_of_its_own() {
        let dir = TempDir::new();
        let mut log = Log::open(dir.path(), "r", None).unwrap();
        write(&log, "no newline");
        log.release_fd();
        assert!(log.fd().is_none());
        log.append_reason(&ExitCause::Signaled(9));
        let expected = "no newline\n[supervisor] killed by signal SIGKILL (9)\n";
        assert_eq!(log.tail().unwrap(), expected);
        assert_eq!(fs::read_to_string(log.path()).unwrap(), expected);
    }

    #[test]
    fn a_tail_tells_of_the_end_of_its_own_worker_alone() {
        let dir = TempDir::new();
        let first = Log::open(dir.path(), "r", None).unwrap();
        let second = Log::open(dir.path(), "r", None).unwrap();
        write(&second, "started\n");
        first.append_reason(&ExitCause::Signaled(11));
        assert_eq!(second.tail().unwrap(), "started\n");
        second.append_reason(&ExitCause::Exited(3));
        let expected = "started\n[supervisor] exited with code 3\n";
        assert_eq!(second.tail().unwrap(), expected);
        assert_eq!(fs::read_to_string(first.path()).unwrap().lines().count(), 3);
    }

    #[test]
    fn links_pipes_and_directories_in_its_place_are_refused() {
        let dir = TempDir::new();
        fs::write(dir.path().join("target"), "").unwrap();
        symlink(dir.path().join("target"), dir.path().join("worker-link.log")).unwrap();
        fs::create_dir(dir.path().join("worker-dir.log")).unwrap();
        make_fifo(&dir.path().join("worker-pipe.log"));
        for role in ["link", "dir", "pipe"] {
            let error = Log::open(dir.path(), role, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Os, "{error}");
        }
        let _reader =
            File::options().read(true).write(true).open(dir.path().join("worker-pipe.log"));
        let error = Log::open(dir.path(), "pipe", None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }

    #[test]
    fn a_replaced_log_is_neither_read_nor_written_and_a_truncated_one_is_read_anew() {
        let dir = TempDir::new();
        fs::write(dir.path().join("worker-r.log"), "old old old\n").unwrap();
        let log = Log::open(dir.path(), "r", None).unwrap();
        write(&log, "new\n");
        File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
        write(&log, "again\n");
        assert_eq!(log.tail().unwrap(), "again\n");
        fs::rename(log.path(), dir.path().join("rotated")).unwrap();
        fs::write(log.path(), "another's").unwrap();
        assert_eq!(log.tail(), None);
        log.append_reason(&ExitCause::Unknown);
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "another's");
    }
}
