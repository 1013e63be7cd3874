//! The lines of the input, read as a stream and cut into batches.
//!
//! A line is never held in memory beyond the cap, and never more than one at a
//! time.

mod format;

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::{Batch, Limits};
use crate::error::Error;
use crate::stdio::{self, Stdin};
use crate::sys;

const BUFFER: usize = 64 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// A line that is too long is counted to its end for the message, but not
/// beyond this length.
const COUNT_UP_TO: u64 = 1 << 30;

/// A source of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin,
    File(PathBuf),
}

impl Input {
    pub(crate) fn named(path: PathBuf) -> Self {
        let is_stdin = path == Path::new("-") || stdio::named(&path) == Some(0);
        if is_stdin { Self::Stdin } else { Self::File(path) }
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

/// The identity of an input's file, which does not depend on its path.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// All inputs, after a check that they can be read.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    open: VecDeque<Open>,
    pub(crate) identities: Vec<Identity>,
    /// The sum of their bytes, if every one is known.
    pub(crate) total_bytes: Option<u64>,
}

/// An input that is open, or will be opened when its turn comes.
#[derive(Debug)]
struct Open {
    input: Input,
    handle: Option<Handle>,
}

#[derive(Debug)]
enum Handle {
    Stdin(Stdin),
    File(File),
}

impl Inputs {
    /// Checks the inputs before any work is done. Regular files stay open, so that a file that
    /// is replaced later is still read as it was; if there are very many, only the first do.
    pub(crate) fn open(inputs: &[Input]) -> Result<Self, Error> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        // The workers need the rest of the descriptors.
        let mut handles = limit.map_or(u64::MAX, |limit| limit / 4);
        let mut this = Self { total_bytes: Some(0), ..Self::default() };
        for input in inputs {
            let (handle, metadata) = open(input)?;
            let size = metadata.as_ref().filter(|m| m.is_file()).map(Metadata::len);
            let size = size.filter(|_| *input != Input::Stdin);
            this.total_bytes = this.total_bytes.zip(size).map(|(sum, size)| sum + size);
            if let Some(metadata) = metadata {
                let (device, inode) = (metadata.dev(), metadata.ino());
                this.identities.push(Identity { name: input.to_string(), device, inode });
            }
            let is_spare = handles == 0 && matches!(handle, Some(Handle::File(_)));
            handles = handles.saturating_sub(1);
            let handle = handle.filter(|_| !is_spare);
            this.open.push_back(Open { input: input.clone(), handle });
        }
        Ok(this)
    }

    /// Returns whether an input is a terminal.
    pub(crate) fn is_typed(&self) -> bool {
        self.open.iter().any(|open| open.input == Input::Stdin) && io::stdin().is_terminal()
    }
}

/// Opens an input. Pipes and devices are not opened yet, because opening them has effects.
fn open(input: &Input) -> Result<(Option<Handle>, Option<Metadata>), Error> {
    let failed = |error| input.error(&error);
    let path = match input {
        Input::Stdin => {
            let stdin = Stdin::open()?;
            let copy = io::stdin().as_fd().try_clone_to_owned().map(File::from);
            let metadata = copy.and_then(|file| file.metadata()).ok();
            return Ok((Some(Handle::Stdin(stdin)), metadata));
        }
        Input::File(path) => path,
    };
    if stdio::named(path).is_some_and(sys::was_closed) {
        return Err(Error::failure(format!("cannot read {input}: it is closed")));
    }
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(Error::failure(format!("{input} is a directory")));
    }
    if !metadata.is_file() {
        // Opening and closing a pipe would end it.
        let identity = metadata.file_type().is_fifo().then_some(metadata);
        return Ok((None, identity));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    Ok((Some(Handle::File(file)), Some(metadata)))
}

impl Open {
    fn reader(self) -> Result<(Input, Box<dyn Read + Send>), Error> {
        let reader: Box<dyn Read + Send> = match (self.handle, &self.input) {
            (Some(Handle::Stdin(stdin)), _) => Box::new(stdin),
            (Some(Handle::File(file)), _) => Box::new(file),
            (None, Input::Stdin) => Box::new(Stdin::open()?),
            (None, Input::File(path)) => {
                Box::new(File::open(path).map_err(|e| self.input.error(&e))?)
            }
        };
        Ok((self.input, reader))
    }
}

/// All inputs, one after the other, as batches of lines.
pub(crate) struct Source {
    waiting: VecDeque<Open>,
    current: Option<Lines>,
    limits: Limits,
    /// Bytes of the inputs that are finished.
    finished: u64,
    /// The line that was read last, and whether it still wants a batch.
    line: Vec<u8>,
    held: bool,
}

impl Source {
    pub(crate) fn new(inputs: Inputs, limits: Limits) -> Self {
        Self {
            waiting: inputs.open,
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
            let Some(lines) = self.current.as_ref().filter(|_| !self.held) else { break };
            batch.note_line(&lines.input, lines.number);
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
    input: Arc<Input>,
    reader: BufReader<Box<dyn Read + Send>>,
    /// Bytes and lines read so far.
    offset: u64,
    number: u64,
}

impl Lines {
    fn open(open: Open) -> Result<Self, Error> {
        let (input, reader) = open.reader()?;
        let reader = BufReader::with_capacity(BUFFER, reader);
        Ok(Self { input: Arc::new(input), reader, offset: 0, number: 0 })
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
        if self.number == 1
            && let Some(format) = format::of(line)
        {
            return Err(format.refuse(&self.input));
        }

        let ending = strip_ending(line);
        let mut before = 0;
        if self.number == 1 && line.starts_with(BOM) {
            line.drain(..BOM.len());
            before = BOM.len();
        }
        if line.len() > max_line {
            return Err(self.too_long(line, ending, max_line));
        }
        if before > 0 && line.is_empty() && ending == Ending::Input {
            // A program that had nothing to say may still have written its mark.
            return Ok(false);
        }
        if self.has_only_carriage_returns(line, ending)? {
            return Err(format::Foreign::CARRIAGE_RETURNS.refuse(&self.input));
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
    fn too_long(&mut self, read: &[u8], ending: Ending, max_line: usize) -> Error {
        let mut length = u64::try_from(read.len()).unwrap_or(u64::MAX);
        let mut more_than = "";
        let mut ending = Some(ending);
        if ending == Some(Ending::Input) {
            match self.skip_line(read.ends_with(b"\r")) {
                Ok(Some(skipped)) => {
                    length = length.saturating_add_signed(skipped.bytes);
                    ending = Some(skipped.ending);
                }
                Ok(None) => {
                    length = COUNT_UP_TO;
                    more_than = "more than ";
                    ending = None;
                }
                Err(error) => return self.input.error(&error),
            }
        }
        match ending.map_or(Ok(false), |ending| self.has_only_carriage_returns(read, ending)) {
            Ok(false) => {}
            Ok(true) => return format::Foreign::CARRIAGE_RETURNS.refuse(&self.input),
            Err(error) => return error,
        }
        Error::failure(format!(
            "{}: line {} has {more_than}{length} bytes; the limit is {max_line} bytes \
             (raise it with --max-line)",
            self.input, self.number
        ))
    }

    /// Returns whether the line is the only one of its input, has carriage returns inside and
    /// does not end with one and a line feed. Beside other lines, or in an input whose lines
    /// end with both, a carriage return is part of the text.
    fn has_only_carriage_returns(&mut self, line: &[u8], ending: Ending) -> Result<bool, Error> {
        let inside = line.split_last().map_or(&[][..], |(_, rest)| rest);
        if self.number > 1 || !inside.contains(&b'\r') {
            return Ok(false);
        }
        match ending {
            Ending::Input => Ok(true),
            Ending::CrLf => Ok(false),
            Ending::Lf => self.is_at_end().map_err(|error| self.input.error(&error)),
        }
    }

    /// Returns whether the input has no more bytes. Blocks while the input does.
    fn is_at_end(&mut self) -> io::Result<bool> {
        loop {
            match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                chunk => return Ok(chunk?.is_empty()),
            }
        }
    }

    /// Counts what is left of the line without keeping it; `None` if that is
    /// more than `COUNT_UP_TO`. The `\r` of an ending may have been read
    /// already: then the count is -1.
    fn skip_line(&mut self, mut after_cr: bool) -> io::Result<Option<Skipped>> {
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
            self.reader.consume(here + usize::from(newline.is_some()));
            let ending = match newline {
                Some(_) if after_cr => Ending::CrLf,
                Some(_) => Ending::Lf,
                None if at_end => Ending::Input,
                None => continue,
            };
            let carriage_return = i64::from(ending == Ending::CrLf);
            let bytes = i64::try_from(skipped).ok().map(|n| n - carriage_return);
            return Ok(bytes.map(|bytes| Skipped { bytes, ending }));
        }
        Ok(None)
    }
}

/// The end of a line that is too long, which was skipped.
struct Skipped {
    bytes: i64,
    ending: Ending,
}

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Lf,
    CrLf,
    /// The end of the input, or of what was read of a line that is too long.
    Input,
}

/// Removes `\n` or `\r\n`.
fn strip_ending(line: &mut Vec<u8>) -> Ending {
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Ending::Input;
    }
    match line.pop_if(|last| *last == b'\r') {
        Some(_) => Ending::CrLf,
        None => Ending::Lf,
    }
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
