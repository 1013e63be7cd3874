//! Where vectors go: a file that appears whole or not at all, or a stream.
//!
//! A regular file is written beside its target under another name and renamed
//! at the end, so that no failure leaves half a file or harms an existing one.
//! A device, a pipe or standard output is written straight through, as JSON
//! lines.

mod jsonl;
mod npy;
mod target;
pub(crate) mod temporary;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};

use crate::error::Error;
pub(crate) use target::{Format, Place, Target};
use temporary::Temporary;

/// An output that is open.
pub(crate) struct Output {
    target: Target,
    sink: Sink,
    dim: usize,
    rows: u64,
    encoded: Vec<u8>,
}

enum Sink {
    Stdout,
    Stream(File),
    Temporary(Temporary),
}

impl Output {
    /// Opens the output, and finds all that can be found wrong with it before
    /// any work is done. Blocks on a FIFO until it has a reader.
    pub(crate) fn create(target: Target, dim: usize) -> Result<Self, Error> {
        let sink = match target.locate()? {
            Place::Stdout => Sink::Stdout,
            Place::Stream(path) => {
                let opened = OpenOptions::new().write(true).open(path);
                Sink::Stream(opened.map_err(|e| Error::write(&target, &e))?)
            }
            Place::Regular(path) => {
                let created = Temporary::create(path);
                Sink::Temporary(created.map_err(|e| Error::write(&target, &e))?)
            }
        };
        let mut output = Self { target, sink, dim, rows: 0, encoded: Vec::new() };
        if output.target.format() == Format::Npy {
            // A place holder; the number of rows is known at the end.
            output.encoded.extend(npy::header(0, dim));
            output.flush()?;
        }
        Ok(output)
    }

    /// Writes whole rows. May block if the output is a stream.
    pub(crate) fn write_rows(&mut self, vectors: &[f32]) -> Result<(), Error> {
        for row in vectors.chunks_exact(self.dim) {
            match self.target.format() {
                Format::Npy => npy::push_row(row, &mut self.encoded),
                Format::Jsonl if jsonl::push_row(row, &mut self.encoded) => {}
                Format::Jsonl => {
                    return Err(Error::failure(format!(
                        "row {} is not finite, which JSON cannot say",
                        self.rows
                    )));
                }
            }
            self.rows += 1;
        }
        self.flush()
    }

    /// Completes the output; a file takes its place now. Without this call
    /// there is no file.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let header = npy::header(self.rows, self.dim);
        let Self { target, sink, .. } = &mut self;
        let done = match sink {
            Sink::Temporary(temporary) => {
                let patched = if target.format() == Format::Npy {
                    let file = temporary.file();
                    file.rewind().and_then(|()| file.write_all(&header))
                } else {
                    Ok(())
                };
                patched.and_then(|()| temporary.persist())
            }
            Sink::Stdout | Sink::Stream(_) => Ok(()),
        };
        done.map_err(|e| Error::write(target, &e))
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = match &mut self.sink {
            Sink::Stdout => {
                let mut stdout = io::stdout();
                let written = stdout.write_all(&self.encoded);
                written.and_then(|()| stdout.flush())
            }
            Sink::Stream(file) => file.write_all(&self.encoded),
            Sink::Temporary(temporary) => temporary.file().write_all(&self.encoded),
        };
        self.encoded.clear();
        written.map_err(|e| Error::write(&self.target, &e))
    }
}

#[cfg(test)]
#[path = "output/output_tests.rs"]
mod tests;
