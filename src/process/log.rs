//! A worker's log: the file for its standard output and error, whose end errors show when the
//! worker has died.
//!
//! A log file belongs to one worker at a time. Two locks say so, each of which belongs to an open
//! file description. One is the worker's standard output and error: the kernel releases its lock
//! when the worker and all that it has started have let go. The other is this process's, which
//! releases its lock itself once the line about the worker's end is written; what else has that
//! description, such as a child that another thread forks at that moment, does not matter. So
//! everything that was appended while there is a lock is this worker's. If the file is locked
//! already, the worker gets the next one of a numbered series. Released files are used again, so
//! there are never more files than there were workers at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::service::lock;
use crate::error::{Error, ExitCause, Result};
use crate::sys::descriptor::open_above_stdio;
use crate::sys::fd::{set_blocking_append, try_lock_byte, unlock_byte};
use crate::sys::fork::is_forked_child;

/// The most bytes of a log's end that an error shows.
const TAIL: u64 = 4096;

/// The start of the line about a worker's end.
const REASON: &str = "[supervisor] ";

/// The most workers that can have a log of the same name at a time.
const MOST: u32 = 10_000;

/// The byte of the file that this process locks. It need not exist: where locks forbid others to write,
/// it must not.
const HOSTS_BYTE: i64 = 1 << 62;

/// The byte that is locked by the worker's standard output and error.
const WORKERS_BYTE: i64 = HOSTS_BYTE + 1;

/// One worker's part of a log file: everything that was appended since it was locked.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// What the worker gets.
    output: Option<File>,
    state: Mutex<LogState>,
}

#[derive(Debug)]
enum LogState {
    Open(Part),
    /// The worker has ended. The tail, if it could be read.
    Ended(Option<String>),
}

/// The open file, which stays the same when its name is changed or removed.
#[derive(Debug)]
struct Part {
    file: File,
    /// The file's length when it was locked. Bytes before that are an earlier worker's.
    start: u64,
}

impl Log {
    /// Opens `worker-<role>.log`, or `worker-<role>-<instance>.log`, for appending. Makes the
    /// file, with access for its owner only, and its directories if they are missing. While
    /// another worker has it, also one of another host, the file is `worker-<role>.2.log`, and
    /// so on. Refuses symbolic links and everything else that is not a plain file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) with the path and the cause;
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if there is something at the
    /// path that is no plain file, or 10,000 workers have logs of this name.
    pub(crate) fn open(directory: &Path, role: &str, instance: Option<u32>) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| {
            Error::os(format!("cannot make the log directory {}", directory.display()), e)
        })?;
        let name = match instance {
            None => format!("worker-{role}"),
            Some(number) => format!("worker-{role}-{number}"),
        };
        for number in 1..=MOST {
            let path = match number {
                1 => directory.join(format!("{name}.log")),
                _ => directory.join(format!("{name}.{number}.log")),
            };
            if let Some(log) = Self::open_file(path)? {
                return Ok(log);
            }
        }
        let path = directory.join(name);
        Err(Error::invalid_config(format!("{MOST} workers have the log {}", path.display())))
    }

    /// Returns `None` if another worker has this file.
    fn open_file(path: PathBuf) -> Result<Option<Self>> {
        let failed = |e| Error::os(format!("cannot open the log {}", path.display()), e);
        let mut options = OpenOptions::new();
        // Readable, as the tail is read through this very file.
        options.read(true).append(true).create(true).mode(0o600);
        // Non-blocking, as opening a device or a FIFO can block otherwise.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let open = || open_above_stdio(&options, &path).map_err(failed);
        let file = open()?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::invalid_config(format!(
                "the log {} is no plain file",
                path.display()
            )));
        }
        let output = open()?;
        let of_the_output = output.metadata().map_err(failed)?;
        if (metadata.dev(), metadata.ino()) != (of_the_output.dev(), of_the_output.ino()) {
            // Another process has just put another file in its place.
            return Ok(None);
        }
        // Errors mean that the file system has no locks. The lines of workers that run at the same
        // time mix there, unless the workers have instance numbers.
        let is_ours = |file: &File, byte| try_lock_byte(file.as_fd(), byte).unwrap_or(true);
        if !is_ours(&file, HOSTS_BYTE) {
            return Ok(None);
        }
        let mut part = Part { file, start: 0 };
        if !is_ours(&output, WORKERS_BYTE) {
            return Ok(None);
        }
        set_blocking_append(output.as_fd()).map_err(failed)?;
        // Read when it is locked: the line about its last worker's end may have come just now.
        part.start = part.file.metadata().map_err(failed)?.len();
        Ok(Some(Self { path, output: Some(output), state: Mutex::new(LogState::Open(part)) }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file for the worker's standard output and error; `None` the second time. Only the
    /// worker may keep it.
    pub(crate) fn take_output(&mut self) -> Option<File> {
        self.output.take()
    }

    /// Returns the last 4096 bytes of the worker's part, which include the line about its end,
    /// lossily decoded; `None` if they cannot be read.
    pub(crate) fn tail(&self) -> Option<String> {
        match &mut *lock(&self.state) {
            LogState::Open(part) => part.tail(),
            LogState::Ended(tail) => tail.clone(),
        }
    }

    /// Appends the line that tells how the worker ended, reads the tail, and closes the file.
    /// Best effort: a full disk may be what has ended the worker.
    pub(crate) fn append_reason(&self, cause: &ExitCause) {
        let mut state = lock(&self.state);
        if let LogState::Open(part) = &mut *state {
            part.append_line(&format!("{REASON}{cause}"));
            *state = LogState::Ended(part.tail());
        }
    }
}

impl Part {
    /// Returns the file's length. If the file was truncated, all that it has now is this
    /// worker's.
    fn length(&mut self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        if length < self.start {
            self.start = 0;
        }
        Ok(length)
    }

    fn tail(&mut self) -> Option<String> {
        let length = self.length().ok()?;
        let from = length.saturating_sub(TAIL).max(self.start);
        let mut bytes = vec![0; usize::try_from(length - from).ok()?];
        self.file.read_exact_at(&mut bytes, from).ok()?;
        let mut rest = bytes.as_slice();
        if from > self.start {
            // Up to three bytes of a character that was cut are skipped.
            let cut = rest.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count();
            rest = rest.get(cut..).unwrap_or_default();
        }
        Some(String::from_utf8_lossy(rest).into_owned())
    }

    fn append_line(&mut self, line: &str) {
        let Ok(length) = self.length() else { return };
        let mut last = [b'\n'];
        if length > self.start {
            let _ = self.file.read_at(&mut last, length - 1);
        }
        let text = if last == [b'\n'] { format!("{line}\n") } else { format!("\n{line}\n") };
        // At the end, even if the worker has changed the flags of the file.
        let _ = self.file.write_all_at(text.as_bytes(), length);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Closing it would leave the lock with each child that has inherited the descriptor. In such a
        // child it is the parent's.
        if !is_forked_child() {
            let _ = unlock_byte(self.file.as_fd(), HOSTS_BYTE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::error::ErrorKind;
    use crate::process::testing::{TempDir, alone, clear_status_flags, fork, make_fifo};

    fn open(dir: &TempDir) -> Log {
        Log::open(dir.path(), "r", None).unwrap()
    }

    fn write(log: &Log, text: impl AsRef<[u8]>) {
        log.output.as_ref().unwrap().write_all(text.as_ref()).unwrap();
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
        let mut first = open(&dir);
        write(&first, "secret of the first\n");
        drop(first.take_output());
        first.append_reason(&ExitCause::Exited(0));
        let second = open(&dir);
        assert_eq!(second.path(), first.path());
        assert_eq!(second.tail().unwrap(), "");
        write(&second, "mine\n");
        assert_eq!(second.tail().unwrap(), "mine\n");
        let expected = "secret of the first\n[supervisor] exited with code 0\n";
        assert_eq!(first.tail().unwrap(), expected);
        assert_eq!(fs::read_to_string(first.path()).unwrap(), format!("{expected}mine\n"));
    }

    #[test]
    fn a_log_belongs_to_one_worker_until_all_that_have_it_have_let_go() {
        let dir = TempDir::new();
        let mut logs: Vec<Log> = (0..3).map(|_| open(&dir)).collect();
        let name = |log: &Log| log.path().file_name().unwrap().to_str().unwrap().to_owned();
        let names: Vec<_> = logs.iter().map(name).collect();
        assert_eq!(names, ["worker-r.log", "worker-r.2.log", "worker-r.3.log"]);
        let of_the_worker = logs[0].take_output().unwrap();
        logs[0].append_reason(&ExitCause::Unknown);
        assert_eq!(name(&open(&dir)), "worker-r.4.log", "something still has the first");
        drop(of_the_worker);
        assert_eq!(name(&open(&dir)), "worker-r.log");
        drop(logs.remove(1));
        assert_eq!(name(&open(&dir)), "worker-r.log");
        let numbered = [(); 2].map(|()| Log::open(dir.path(), "r", Some(7)).unwrap());
        assert_eq!(numbered.each_ref().map(name), ["worker-r-7.log", "worker-r-7.2.log"]);
    }

    #[test]
    fn a_log_is_free_again_though_a_forked_child_has_what_this_process_had() {
        let dir = TempDir::new();
        let mut log = open(&dir);
        drop(log.take_output());
        let of_a_child = match &*lock(&log.state) {
            LogState::Open(part) => part.file.try_clone().unwrap(),
            LogState::Ended(_) => unreachable!(),
        };
        assert_ne!(open(&dir).path(), log.path(), "the line about the end has not come");
        log.append_reason(&ExitCause::Unknown);
        let next = open(&dir);
        assert_eq!(next.path(), log.path());
        let unstarted = next.path().to_owned();
        drop((next, of_a_child));
        assert_eq!(open(&dir).path(), unstarted);
    }

    #[test]
    fn a_forked_child_that_drops_a_log_does_not_free_it() {
        alone(|| {
            crate::sys::fork::watch().unwrap();
            let dir = TempDir::new();
            let mut log = open(&dir);
            // The worker has ended, and the line about that has not come.
            drop(log.take_output());
            let mut log = Some(log);
            let code = fork(|| {
                drop(log.take());
                0
            });
            assert_eq!(code, 0);
            assert_ne!(open(&dir).path(), log.unwrap().path());
        });
    }

    #[test]
    fn the_tail_is_4096_bytes_and_begins_with_a_whole_character() {
        let dir = TempDir::new();
        let log = open(&dir);
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
        let log = open(&dir);
        write(&log, "no newline");
        log.append_reason(&ExitCause::Signaled(9));
        let expected = "no newline\n[supervisor] killed by signal SIGKILL (9)\n";
        assert_eq!(log.tail().unwrap(), expected);
        assert_eq!(fs::read_to_string(log.path()).unwrap(), expected);
        // There is one end.
        log.append_reason(&ExitCause::Unknown);
        assert_eq!(fs::read_to_string(log.path()).unwrap(), expected);
    }

    #[test]
    fn the_reason_is_the_last_line_whatever_flags_the_worker_has_set() {
        let dir = TempDir::new();
        let log = open(&dir);
        write(&log, "first\n");
        clear_status_flags(log.output.as_ref().unwrap().as_fd());
        log.append_reason(&ExitCause::Exited(3));
        let expected = "first\n[supervisor] exited with code 3\n";
        assert_eq!(fs::read_to_string(log.path()).unwrap(), expected);
    }

    #[test]
    fn links_pipes_and_directories_in_its_place_are_refused() {
        let dir = TempDir::new();
        fs::write(dir.path().join("target"), "").unwrap();
        symlink(dir.path().join("target"), dir.path().join("worker-link.log")).unwrap();
        fs::create_dir(dir.path().join("worker-dir.log")).unwrap();
        make_fifo(&dir.path().join("worker-pipe.log"));
        for (role, kind) in
            [("link", ErrorKind::Os), ("dir", ErrorKind::Os), ("pipe", ErrorKind::InvalidConfig)]
        {
            let error = Log::open(dir.path(), role, None).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn a_log_is_the_file_that_was_opened_whatever_becomes_of_its_name() {
        let dir = TempDir::new();
        fs::write(dir.path().join("worker-r.log"), "old old old\n").unwrap();
        let log = open(&dir);
        write(&log, "new\n");
        File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
        write(&log, "again\n");
        assert_eq!(log.tail().unwrap(), "again\n");
        let rotated = dir.path().join("rotated");
        fs::rename(log.path(), &rotated).unwrap();
        fs::write(log.path(), "another's").unwrap();
        assert_eq!(log.tail().unwrap(), "again\n");
        log.append_reason(&ExitCause::Exited(1));
        let expected = "again\n[supervisor] exited with code 1\n";
        assert_eq!(fs::read_to_string(rotated).unwrap(), expected);
        assert_eq!(log.tail().unwrap(), expected);
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "another's");
    }
}
