//! The standard streams as the program inherited them. A stream can be closed, open for the
//! wrong direction, or non-blocking.
//!
//! Data does not go through std's own streams: they report success for a write to a
//! descriptor that is not open for writing, and an error for a descriptor that is full and
//! non-blocking.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use crate::error::Error;
use crate::sys;

/// Returns the number of the standard stream that a path stands for. If that stream was
/// closed at the start, opening the path would find the runtime's `/dev/null`.
pub(crate) fn named(path: &Path) -> Option<i32> {
    let is_one_of = |names: [&str; 3]| names.iter().any(|name| path == Path::new(name));
    (0..3).find(|fd| {
        let name = ["stdin", "stdout", "stderr"].get(usize::try_from(*fd).unwrap_or(3));
        is_one_of([
            &format!("/dev/{}", name.unwrap_or(&"")),
            &format!("/dev/fd/{fd}"),
            &format!("/proc/self/fd/{fd}"),
        ])
    })
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

/// Returns the access mode of a standard stream, or `None` if it was closed at the start.
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
    fn a_path_that_stands_for_a_standard_stream_is_known() {
        let named = |path: &str| named(Path::new(path));
        assert_eq!(named("/dev/stdin"), Some(0));
        assert_eq!(named("/dev/fd/1"), Some(1));
        assert_eq!(named("/proc/self/fd/2"), Some(2));
        for other in ["/dev/fd/3", "/dev/null", "stdin", "/dev/", ""] {
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
