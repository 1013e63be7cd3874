//! What `-o` means: a format by the ending, and a place by what stands there.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Jsonl,
}

/// The value of `-o`, with a format that is known to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    File(PathBuf, Format),
}

/// Where the bytes go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Stdout,
    /// A device, a pipe: written as it is.
    Stream(PathBuf),
    /// A regular file, or none yet; symbolic links are followed.
    Regular(PathBuf),
}

/// As many links in a row as the kernel follows.
const MAX_LINKS: usize = 40;

impl Target {
    /// The ending of the name as given decides; a device or a pipe without a
    /// known ending takes JSON lines.
    pub(crate) fn parse(path: PathBuf) -> Result<Self, Error> {
        if path == Path::new("-") || path == Path::new("/dev/stdout") {
            return Ok(Self::Stdout);
        }
        let format = match path.extension().map(OsStrExt::as_bytes) {
            Some(b"npy") => Format::Npy,
            Some(b"jsonl") => Format::Jsonl,
            _ if is_special(&path) => Format::Jsonl,
            _ => {
                return Err(Error::usage(format!(
                    "cannot tell the format of {}: the ending must be .npy or .jsonl \
                     (or give - for standard output)",
                    path.display()
                )));
            }
        };
        Ok(Self::File(path, format))
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Stdout => Format::Jsonl,
            Self::File(_, format) => *format,
        }
    }

    /// Looks at what stands at the path now.
    pub(super) fn locate(&self) -> Result<Place, Error> {
        let Self::File(path, format) = self else {
            return Ok(Place::Stdout);
        };
        if path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Error::failure(format!("cannot write {self}: is a directory")));
        }
        if is_special(path) {
            if *format == Format::Npy {
                // The header holds the number of rows and is written last.
                return Err(Error::failure(format!(
                    "cannot write {self}: .npy needs a regular file, and this is a device or \
                     a pipe (write .jsonl to it)"
                )));
            }
            return Ok(Place::Stream(path.clone()));
        }
        let resolved = resolve(path).map_err(|e| Error::write(self, &e))?;
        // Replacing a file asks for write access to its directory alone; a file
        // that is write-protected is meant to stay.
        match OpenOptions::new().write(true).open(&resolved) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::write(self, &error)),
        }
        Ok(Place::Regular(resolved))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path, _) => write!(f, "{}", path.display()),
        }
    }
}

fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Follows symbolic links by hand: the last may point to a file that does not
/// exist yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            return Ok(path);
        }
        let link = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_on_the_format() {
        let parse = |path: &str| Target::parse(path.into());
        assert_eq!(parse("-").unwrap(), Target::Stdout);
        assert_eq!(parse("/dev/stdout").unwrap(), Target::Stdout);
        assert_eq!(parse("a.b.npy").unwrap().format(), Format::Npy);
        assert_eq!(parse("d/a.jsonl").unwrap().format(), Format::Jsonl);
        assert_eq!(parse("/dev/null").unwrap().format(), Format::Jsonl);
        for unknown in ["", "npy", ".npy", "a.NPY", "a.json", "/dev/nothing"] {
            assert_eq!(parse(unknown).unwrap_err().exit().code(), 2, "{unknown:?}");
        }
    }

    #[test]
    fn a_name_with_a_final_slash_is_a_directory() {
        let target = Target::parse("no-such.npy/".into()).unwrap();
        let error = target.locate().unwrap_err().to_string();
        assert_eq!(error, "cannot write no-such.npy/: is a directory");
    }
}
