//! Where vectors go: a file that appears whole or not at all, or a stream.
//!
//! A regular file is written beside its target and takes its place at the end, so that no
//! failure leaves half a file or harms an existing one. A device, a pipe or standard output
//! is written straight through, as JSON lines.

mod jsonl;
mod keep;
mod npy;
mod sink;
mod spot;
mod target;
pub(crate) mod temporary;

use crate::error::Error;
use crate::input::Identity;
pub(crate) use sink::{Place, Sink};
pub(crate) use target::{Format, Target};

/// An output of vectors that is open.
pub(crate) struct Output {
    target: Target,
    sink: Sink,
    dim: usize,
    rows: u64,
    encoded: Vec<u8>,
}

impl Output {
    /// See [`Sink::open`].
    pub(crate) fn create(target: Target, dim: usize, inputs: &[Identity]) -> Result<Self, Error> {
        let sink = target.open(inputs)?;
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
    /// there is no file. Says what was written.
    pub(crate) fn finish(mut self) -> Result<String, Error> {
        let Self { target, rows, dim, .. } = &self;
        let elements = match target.format() {
            Format::Npy => "float32",
            Format::Jsonl => "numbers, JSON lines",
        };
        let what = format!("{target} has {rows} x {dim} {elements}");
        if target.format() == Format::Npy {
            self.sink.write_first(&npy::header(*rows, *dim))?;
        }
        self.sink.finish()?;
        Ok(what)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.sink.write_all(&self.encoded);
        self.encoded.clear();
        written
    }
}

#[cfg(test)]
#[path = "output/output_tests.rs"]
mod tests;
