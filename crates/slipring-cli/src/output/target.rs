//! The meaning of `-o`: a format, chosen by the ending, and a place.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::sink::{Place, Sink};
use crate::error::Error;
use crate::input::Identity;
use crate::stdio;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Jsonl,
}

impl Format {
    /// Returns the format for the ending of a name.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.as_bytes() {
            b"npy" => Some(Self::Npy),
            b"jsonl" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// The value of `-o`, with a format that is known to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    place: Place,
    format: Format,
}

impl Target {
    /// The ending of the name as given decides. Without a known ending, standard output, a
    /// device or a pipe takes JSON lines, and a descriptor the format of its file's name.
    pub(crate) fn parse(path: PathBuf) -> Result<Self, Error> {
        let given = Format::of(&path);
        let place = Place::of(path);
        let format = match given {
            Some(format) => format,
            // Opening it reports that it is closed.
            None if place.is_special() || place.is_closed() => Format::Jsonl,
            None => {
                let file = match &place {
                    Place::Descriptor(fd, _) => stdio::path_of(*fd),
                    Place::Stdout | Place::Path(_) => None,
                };
                file.as_deref()
                    .and_then(Format::of)
                    .ok_or_else(|| unknown(&place, file.as_deref()))?
            }
        };
        Ok(Self { place, format })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// See [`Sink::open`].
    pub(super) fn open(&self, inputs: &[Identity]) -> Result<Sink, Error> {
        if self.format == Format::Jsonl || self.place.is_closed() {
            return Sink::open(&self.place, inputs);
        }
        if self.place.is_special() {
            // The header holds the number of rows and is written last.
            return Err(Error::failure(format!(
                "cannot write {self}: .npy needs a regular file, and this is a device, a pipe \
                 or standard output (write .jsonl to it)"
            )));
        }
        match &self.place {
            // A descriptor may be at any position of its file, or append.
            Place::Descriptor(_, path) => Sink::open(&Place::Path(path.clone()), inputs),
            place => Sink::open(place, inputs),
        }
    }
}

/// The error for a name without a known ending.
fn unknown(place: &Place, file: Option<&Path>) -> Error {
    let file = file.map(|file| format!(", which is {}", file.display())).unwrap_or_default();
    Error::usage(format!(
        "cannot tell the format of {place}{file}: the ending must be .npy or .jsonl \
         (or give - for standard output)"
    ))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_on_the_format() {
        let parse = |path: &str| Target::parse(path.into());
        for stdout in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let target = parse(stdout).unwrap();
            assert_eq!((target.place, target.format), (Place::Stdout, Format::Jsonl));
        }
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
        let error = target.open(&[]).err().unwrap().to_string();
        assert_eq!(error, "cannot write no-such.npy/: is a directory");
    }
}
