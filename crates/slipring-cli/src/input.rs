//! The lines of the input, read as a stream and cut into batches.
//!
//! A line is never held in memory beyond the cap, and never more than one at a
//! time.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::batch::{Batch, Limits};
use crate::error::Error;

const BUFFER: usize = 64 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// A line that is too long is counted to its end for the message; a stream
/// without an end is given up here.
const COUNT_UP_TO: u64 = 1 << 30;

/// Where lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin,
    File(PathBuf),
}

impl Input {
    pub(crate) fn named(path: PathBuf) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path) }
    }

    /// Finds what is wrong with the input before any work is done, and how
    /// many bytes it has, if that is known.
    pub(crate) fn check(&self) -> Result<Option<u64>, Error> {
        let Self::File(path) = self else {
            return Ok(None);
        };
        let metadata = fs::metadata(path).map_err(|e| self.error(&e))?;
        if metadata.is_dir() {
            return Err(Error::failure(format!("{self} is a directory")));
        }
        if !metadata.is_file() {
            // Opening and closing a pipe would end it.
            return Ok(None);
        }
        File::open(path).map_err(|e| self.error(&e))?;
        Ok(Some(metadata.len()))
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Error> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::File(path) => Box::new(File::open(path).map_err(|e| self.error(&e))?),
        })
    }

    fn error(&self, error: &io::Error) -> Error {
        Error::failure(format!("cannot read {self}: {error}"))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// All inputs, one after the other, as batches of lines.
pub(crate) struct Source {
    waiting: VecDeque<Input>,
    current: Option<Lines>,
    limits: Limits,
    /// Bytes of the inputs that are finished.
    finished: u64,
    /// The line that was read last, and whether it still wants a batch.
    line: Vec<u8>,
    held: bool,
}

impl Source {
    pub(crate) fn new(inputs: impl IntoIterator<Item = Input>, limits: Limits) -> Self {
        Self {
            waiting: inputs.into_iter().collect(),
            current: None,
            limits,
            finished: 0,
            line: Vec::new(),
            held: false,
        }
    }

    /// Fills an empty batch with the next lines; `false` at the end of the
    /// input. Blocks while the input does.
    pub(crate) fn fill(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        while batch.rows() < self.limits.texts && (self.held || self.next_line()?) {
            // Checked when it was read.
            let text = std::str::from_utf8(&self.line).unwrap_or_default();
            self.held = !batch.try_push(text, &self.limits);
            if self.held {
                break;
            }
        }
        batch.consumed = self.finished + self.current.as_ref().map_or(0, |lines| lines.offset);
        Ok(batch.rows() > 0)
    }

    fn next_line(&mut self) -> Result<bool, Error> {
        loop {
            if let Some(lines) = &mut self.current {
                if lines.next(&mut self.line, self.limits.max_line)? {
                    return Ok(true);
                }
                self.finished += lines.offset;
                self.current = None;
            }
            let Some(input) = self.waiting.pop_front() else {
                return Ok(false);
            };
            self.current = Some(Lines::open(input)?);
        }
    }
}

/// The lines of one input.
struct Lines {
    input: Input,
    reader: BufReader<Box<dyn Read + Send>>,
    /// Bytes and lines read so far.
    offset: u64,
    number: u64,
}

impl Lines {
    fn open(input: Input) -> Result<Self, Error> {
        let reader = BufReader::with_capacity(BUFFER, input.open()?);
        Ok(Self { input, reader, offset: 0, number: 0 })
    }

    /// Reads the next line, without its ending, into `line`; `false` at the
    /// end of the input.
    fn next(&mut self, line: &mut Vec<u8>, max_line: usize) -> Result<bool, Error> {
        line.clear();
        let longest = max_line + BOM.len() + b"\r\n".len();
        let start = self.offset;
        let mut limited = (&mut self.reader).take(u64::try_from(longest).unwrap_or(u64::MAX));
        let read = limited.read_until(b'\n', line);
        let read = read.map_err(|e| self.input.error(&e))?;
        if read == 0 {
            return Ok(false);
        }
        self.offset += u64::try_from(read).unwrap_or(u64::MAX);
        self.number += 1;

        let complete = strip_ending(line);
        let mut before = 0;
        if self.number == 1 && line.starts_with(BOM) {
            line.drain(..BOM.len());
            before = BOM.len();
        }
        if line.len() > max_line {
            return Err(self.too_long(line, complete, max_line));
        }
        if let Err(error) = std::str::from_utf8(line) {
            let at = error.valid_up_to() + before;
            let in_input = start + u64::try_from(at).unwrap_or(u64::MAX);
            return Err(Error::failure(format!(
                "{}: line {}: invalid UTF-8 at byte offset {at} of the line \
                 ({in_input} of the input)",
                self.input, self.number
            )));
        }
        Ok(true)
    }

    #[cold]
    fn too_long(&mut self, read: &[u8], complete: bool, max_line: usize) -> Error {
        let mut length = u64::try_from(read.len()).unwrap_or(u64::MAX);
        let mut more_than = "";
        if !complete {
            match self.skip_line(read.ends_with(b"\r")) {
                Ok(Some(skipped)) => length = length.saturating_add_signed(skipped),
                Ok(None) => {
                    length = COUNT_UP_TO;
                    more_than = "more than ";
                }
                Err(error) => return self.input.error(&error),
            }
        }
        Error::failure(format!(
            "{}: line {} has {more_than}{length} bytes; the limit is {max_line} bytes \
             (raise it with --max-line)",
            self.input, self.number
        ))
    }

    /// Counts what is left of the line without keeping it; `None` if that is
    /// more than `COUNT_UP_TO`. The `\r` of an ending may have been read
    /// already: then the count is -1.
    fn skip_line(&mut self, mut after_cr: bool) -> io::Result<Option<i64>> {
        let mut skipped = 0;
        while skipped <= COUNT_UP_TO {
            let chunk = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            let newline = chunk.iter().position(|&byte| byte == b'\n');
            let here = newline.unwrap_or(chunk.len());
            if let Some(last) = chunk.get(..here).and_then(<[u8]>::last) {
                after_cr = *last == b'\r';
            }
            skipped += u64::try_from(here).unwrap_or(u64::MAX);
            let at_end = chunk.is_empty();
            self.reader.consume(here);
            if newline.is_some() || at_end {
                let crlf = newline.is_some() && after_cr;
                return Ok(i64::try_from(skipped).ok().map(|n| n - i64::from(crlf)));
            }
        }
        Ok(None)
    }
}

/// Removes `\n` or `\r\n`; `false` if there is none.
fn strip_ending(line: &mut Vec<u8>) -> bool {
    let complete = line.ends_with(b"\n");
    if complete {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    complete
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
