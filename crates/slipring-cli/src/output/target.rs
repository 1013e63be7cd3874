//! What `-o` means: a format by the ending, and a place.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::sink::{Place, Sink};
use crate::error::Error;
use crate::input::Identity;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Jsonl,
}

/// The value of `-o`, with a format that is known to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    place: Place,
    format: Format,
}

impl Target {
    /// The ending of the name as given decides; standard output, a device or a pipe without
    /// a known ending takes JSON lines.
    pub(crate) fn parse(path: PathBuf) -> Result<Self, Error> {
        let ending = path.extension().map(|ending| ending.as_bytes().to_vec());
        let place = Place::of(path);
        let format = match ending.as_deref() {
            _ if place == Place::Stdout => Format::Jsonl,
            Some(b"npy") => Format::Npy,
            Some(b"jsonl") => Format::Jsonl,
            _ if place.is_special() => Format::Jsonl,
            _ => {
                return Err(Error::usage(format!(
                    "cannot tell the format of {place}: the ending must be .npy or .jsonl \
                     (or give - for standard output)"
                )));
            }
        };
        Ok(Self { place, format })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// See [`Sink::open`].
    pub(super) fn open(&self, inputs: &[Identity]) -> Result<Sink, Error> {
        if self.format == Format::Npy && self.place.is_special() {
            // The header holds the number of rows and is written last.
            return Err(Error::failure(format!(
                "cannot write {self}: .npy needs a regular file, and this is a device or \
                 a pipe (write .jsonl to it)"
            )));
        }
        Sink::open(&self.place, inputs)
    }
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
