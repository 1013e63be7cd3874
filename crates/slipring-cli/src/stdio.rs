//! The standard streams, and other descriptors that the program inherited. A stream can be
//! closed, open for the wrong direction, or non-blocking.
//!
//! Data does not go through std's own streams: they report success for a write to a
//! descriptor that is not open for writing, and an error for a descriptor that is full and
//! non-blocking.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use crate::error::Error;
use crate::sys;

/// As many links in a row as the kernel follows.
const MAX_LINKS: usize = 40;

/// Returns the number of the descriptor of this process that a path leads to, such as
/// `/dev/stdout`, or a symbolic link to it. If the descriptor was closed at the start, opening
/// the path would find what the runtime or this program has opened since.
pub(crate) fn named(path: &Path) -> Option<i32> {
    let mut path = path.to_path_buf();
    for _ in 0..=MAX_LINKS {
        if let Some(fd) = by_name(&path) {
            return Some(fd);
        }
        // The last part is read by hand, as the kernel would go on to the open file.
        let name = path.file_name()?;
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let directory = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        if has_descriptors(&directory) {
            return (0..sys::KNOWN).find(|fd| name == OsStr::new(&fd.to_string()));
        }
        let link = fs::read_link(directory.join(name)).ok()?;
        path = directory.join(link);
    }
    None
}

/// Returns whether this directory, a path without links, lists the descriptors of this process.
/// All its threads share them.
fn has_descriptors(directory: &Path) -> bool {
    let Ok(own) = fs::canonicalize("/proc/self") else { return false };
    let Ok(below) = directory.strip_prefix(own) else { return false };
    let parts: Vec<_> = below.iter().filter_map(OsStr::to_str).collect();
    matches!(*parts, ["fd"] | ["task", _, "fd"])
}

/// Returns the number of the standard stream that has this name, even if there is no `/proc`.
fn by_name(path: &Path) -> Option<i32> {
    let names = ["/dev/stdin", "/dev/stdout", "/dev/stderr"];
    (0..).zip(names).find_map(|(fd, name)| (path == Path::new(name)).then_some(fd))
}

/// Returns the path of the file that a descriptor stands for, if it has one.
pub(crate) fn path_of(fd: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{fd}")).ok().filter(|path| path.is_absolute())
}

/// Opens a copy of a descriptor that was open for writing at the start.
pub(crate) fn inherited(fd: i32) -> Result<OwnedFd, &'static str> {
    const CLOSED: &str = "it is closed";
    if sys::was_closed(fd) {
        return Err(CLOSED);
    }
    let copy = sys::copy(fd).map_err(|_| CLOSED)?;
    match mode(fd, &copy) {
        Some(OFlags::RDONLY) => Err("it is open for reading only"),
        _ => Ok(copy),
    }
}

/// Standard input, which was open for reading at the start.
#[derive(Debug)]
pub(crate) struct Stdin(());

impl Stdin {
    pub(crate) fn open() -> Result<Self, Error> {
        let why = match mode(0, io::stdin()) {
            None => "it is closed",
            Some(OFlags::WRONLY) => "it is open for writing only",
            Some(_) => return Ok(Self(())),
        };
        Err(Error::failure(format!("cannot read standard input: {why}")))
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            match rustix::io::read(&stdin, &mut *buffer) {
                Err(Errno::AGAIN) => wait(&stdin, PollFlags::IN)?,
                result => return Ok(result?),
            }
        }
    }
}

/// Standard output, which was open for writing at the start.
#[derive(Debug)]
pub(crate) struct Stdout(());

impl Stdout {
    pub(crate) fn open() -> Result<Self, Error> {
        let why = match mode(1, io::stdout()) {
            None => "it is closed",
            Some(OFlags::RDONLY) => "it is open for reading only",
            Some(_) => return Ok(Self(())),
        };
        Err(Error::failure(format!("cannot write standard output: {why}")))
    }

    /// Writes all bytes. Blocks until they are written, even if the descriptor is
    /// non-blocking.
    pub(crate) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(io::stdout(), bytes)
    }

    /// Returns an error that only closing reports.
    pub(crate) fn finish(&self) -> io::Result<()> {
        sys::flush_by_closing(io::stdout())
    }

    /// Writes a text, which is the whole output.
    pub(crate) fn print(&self, text: impl fmt::Display) -> Result<(), Error> {
        let written = self.write_all(text.to_string().as_bytes());
        written.and_then(|()| self.finish()).map_err(|e| Error::write("standard output", &e))
    }
}

/// Writes a text to standard error. An error is ignored: there is no other place to report
/// it.
pub(crate) fn warn(text: &str) {
    // The lock keeps lines of several threads apart.
    let stderr = io::stderr().lock();
    let _ = write_all(&stderr, text.as_bytes());
}

/// Returns the access mode of a descriptor, or `None` if it was closed at the start.
fn mode(fd: i32, stream: impl AsFd) -> Option<OFlags> {
    if sys::was_closed(fd) {
        return None;
    }
    // If the mode is unknown, the first read or write reports what is wrong.
    Some(fcntl_getfl(stream).map_or(OFlags::RDWR, |flags| flags & OFlags::RWMODE))
}

/// Writes all bytes to a descriptor, blocking even if the descriptor is non-blocking. That
/// flag is shared with other processes, so it is not changed here.
pub(crate) fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(&fd, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Blocks until the descriptor is ready or has an error, which the next call reports.
fn wait(fd: impl AsFd, ready: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&fd, ready)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_to_a_descriptor_is_known() {
        let named = |path: &str| named(Path::new(path));
        let own = std::process::id();
        for (path, fd) in [
            ("/dev/stdin", 0),
            ("/dev/fd/1", 1),
            ("/proc/self/fd/2", 2),
            ("/dev/../dev/stdout", 1),
            ("/proc/thread-self/fd/63", 63),
            (&format!("/proc/{own}/task/{own}/fd/7"), 7),
        ] {
            assert_eq!(named(path), Some(fd), "{path}");
        }
        let parent = format!("/proc/{}/fd/1", std::os::unix::process::parent_id());
        for other in [
            "/dev/null",
            "stdin",
            "/dev/",
            "/",
            "..",
            "",
            "/dev/fd",
            "/dev/fd/x",
            "/dev/fd/-1",
            "/dev/fd/64",
            "/proc/self/fdinfo/1",
            &parent,
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_is_written_to_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        write_all(&writer, &bytes).unwrap();
        drop(writer);
        assert!(read.join().unwrap().unwrap() == bytes);
    }
}
