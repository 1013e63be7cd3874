//! An output of bytes: a file that appears when it is complete, or a stream.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::spot::Spot;
use super::temporary::{Misplaced, Temporary};
use crate::error::Error;
use crate::input::Identity;
use crate::stdio::{self, Stdout};
use crate::sys;

/// An output that is open.
pub(crate) struct Sink {
    to: To,
    /// The name in messages.
    name: String,
}

enum To {
    Stdout(Stdout),
    /// A device or a pipe, which is written directly.
    Stream(File),
    /// A regular file, which is replaced at the end.
    Temporary(Temporary),
}

/// Standard output, under any of its names, or another descriptor or path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Stdout,
    /// An inherited descriptor, and the path that leads to it.
    Descriptor(i32, PathBuf),
    Path(PathBuf),
}

impl Place {
    pub(crate) fn of(path: PathBuf) -> Self {
        match stdio::named(&path) {
            _ if path == Path::new("-") => Self::Stdout,
            Some(1) => Self::Stdout,
            Some(fd) => Self::Descriptor(fd, path),
            None => Self::Path(path),
        }
    }

    /// Returns whether this is a descriptor that was closed at the start.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Stdout => sys::was_closed(1),
            Self::Descriptor(fd, _) => sys::was_closed(*fd),
            Self::Path(_) => false,
        }
    }

    /// Returns whether this is a device, a pipe or another special file.
    pub(crate) fn is_special(&self) -> bool {
        match self {
            Self::Stdout => true,
            Self::Descriptor(_, path) | Self::Path(path) => {
                fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Descriptor(_, path) | Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Sink {
    /// Opens the output. Reports before any work is done whatever can be known to be wrong, an
    /// output that is also an input included. Blocks on a FIFO until it has a reader.
    pub(crate) fn open(place: &Place, inputs: &[Identity]) -> Result<Self, Error> {
        let to = match place {
            Place::Stdout => {
                let stdout = Stdout::open()?;
                let fd = std::io::stdout().as_fd().try_clone_to_owned();
                if let Ok(metadata) = fd.map(File::from).and_then(|file| file.metadata()) {
                    refuse_input(&metadata, inputs)?;
                }
                To::Stdout(stdout)
            }
            // The descriptor itself: it may append, and others may write to it too.
            Place::Descriptor(fd, _) => {
                let file = stdio::inherited(*fd)
                    .map(File::from)
                    .map_err(|why| Error::failure(format!("cannot write {place}: {why}")))?;
                if let Ok(metadata) = file.metadata() {
                    refuse_input(&metadata, inputs)?;
                }
                To::Stream(file)
            }
            Place::Path(path) => open_path(place, path, inputs)?,
        };
        Ok(Self { to, name: place.to_string() })
    }

    /// Writes all bytes. May block if the output is a stream.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = match &mut self.to {
            To::Stdout(stdout) => stdout.write_all(bytes),
            To::Stream(file) => stdio::write_all(file, bytes),
            To::Temporary(temporary) => temporary.file().write_all(bytes),
        };
        written.map_err(|e| Error::write(&self.name, &e))
    }

    /// Writes over the first bytes of a regular file.
    pub(crate) fn write_first(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let To::Temporary(temporary) = &mut self.to else { return Ok(()) };
        let file = temporary.file();
        let written = file.rewind().and_then(|()| file.write_all(bytes));
        let written = written.and_then(|()| file.seek(SeekFrom::End(0)).map(drop));
        written.map_err(|e| Error::write(&self.name, &e))
    }

    /// Completes the output: a regular file appears now, and only by this call.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let name = self.name;
        let finished = match self.to {
            To::Stdout(stdout) => stdout.finish().map_err(Misplaced::from),
            To::Stream(file) => sys::flush_by_closing(&file).map_err(Misplaced::from),
            To::Temporary(temporary) => temporary.persist(),
        };
        finished.map_err(|Misplaced { error, kept }| match kept {
            None => Error::write(name, &error),
            Some(path) => Error::failure(format!(
                "cannot write {name}: {error}; the result is in {}",
                path.display()
            )),
        })
    }
}

fn open_path(place: &Place, path: &Path, inputs: &[Identity]) -> Result<To, Error> {
    if path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Error::failure(format!("cannot write {place}: is a directory")));
    }
    let failed = |e| Error::write(place, &e);
    if !place.is_special() {
        let spot = Spot::open(path).map_err(failed)?;
        return Temporary::create(spot).map(To::Temporary).map_err(failed);
    }
    match fs::metadata(path) {
        // Opening would wait for a reader, and this program would be the only one.
        Ok(metadata) if metadata.file_type().is_fifo() => refuse_input(&metadata, inputs)?,
        _ => {}
    }
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path);
    opened.map(To::Stream).map_err(failed)
}

/// Returns an error if the output is one of the inputs: the run would never end, or destroy
/// the input.
fn refuse_input(output: &fs::Metadata, inputs: &[Identity]) -> Result<(), Error> {
    if !output.is_file() && !output.file_type().is_fifo() {
        return Ok(());
    }
    match inputs.iter().find(|input| (input.device, input.inode) == (output.dev(), output.ino())) {
        Some(input) => Err(Error::failure(format!("{} is also the output", input.name))),
        None => Ok(()),
    }
}
