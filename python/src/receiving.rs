//! A message of a pipe on its way into Python objects.
//!
//! The bytes of a message go straight from the ring into new `bytes` and `bytearray` objects, which
//! nothing else knows before the message is whole. A message that was interrupted by a signal handler
//! stays here, and the next call goes on with it.

use std::sync::Arc;

use pyo3::exceptions::{PyEOFError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use slipring::pipe::{Message, PipeReader, PipeWatch, Progress, Wake};

use crate::error::exception;
use crate::fresh::Fresh;
use crate::packed;
use crate::turn::Recover;
use crate::wait::{FURTHER, Slices, look_time, released};

/// The kinds of messages.
pub(crate) const BYTES: u16 = 0;
/// A pickle and the buffers beside it.
pub(crate) const OBJECT: u16 = 1;

/// A message of this length or more is copied by a thread that is not attached.
pub(crate) const LONG: u64 = 256 << 10;

/// The reader of an end, and the message that it is taking.
pub(crate) struct Receiving {
    reader: PipeReader,
    incoming: Option<Incoming>,
}

/// A message that is whole.
pub(crate) struct Received {
    pub(crate) kind: u16,
    /// The bytes, or the pickle.
    pub(crate) bytes: Py<PyAny>,
    pub(crate) buffers: Vec<Py<PyAny>>,
}

/// Why no message was returned.
pub(crate) enum Refused {
    /// It is longer than the caller allows. It is still to be read.
    TooLong,
    Raised(PyErr),
}

struct Incoming {
    message: Message,
    stage: Stage,
    parts: Vec<Fresh>,
    /// The part that is being filled, and how much of it is.
    at: usize,
    filled: usize,
}

#[derive(Clone, Copy)]
enum Stage {
    Count,
    Lengths,
    Body,
}

enum Step {
    /// The parts are filled, and the message has more.
    Filled,
    Whole,
    Abandoned,
    Wait,
    Closed,
}

impl Receiving {
    pub(crate) fn new(reader: PipeReader) -> Self {
        Self { reader, incoming: None }
    }

    /// Waits for a message of at most `most` bytes.
    pub(crate) fn receive(&mut self, py: Python<'_>, most: u64) -> Result<Received, Refused> {
        let mut slices = Slices::new(py)?;
        loop {
            if self.incoming.is_none() {
                let message = self.wait_for_start(py, &mut slices)?;
                if message.len > most {
                    self.reader.forget();
                    return Err(Refused::TooLong);
                }
                match Incoming::new(py, message) {
                    Ok(incoming) => self.incoming = Some(incoming),
                    Err(error) => {
                        // There is no memory for it: the next one may be shorter.
                        self.reader.skip().map_err(|error| exception(py, &error))?;
                        return Err(error.into());
                    }
                }
            }
            match self.fill(py, &mut slices) {
                Ok(Some(received)) => return Ok(received),
                // A writer that gives up each of its messages must not hold the interpreter.
                Ok(None) => py.check_signals()?,
                Err(error) => {
                    // Nothing is lost: the message is in the ring, or what was taken of it is kept.
                    if !self.reader.has_begun() {
                        self.recover();
                    }
                    return Err(error.into());
                }
            }
        }
    }

    fn wait_for_start(&mut self, py: Python<'_>, slices: &mut Slices) -> PyResult<Message> {
        loop {
            if let Some(message) = self.reader.start().map_err(|error| exception(py, &error))? {
                return Ok(message);
            }
            // Bytes that begin no message must not, either.
            py.check_signals()?;
            let watch = Arc::clone(self.reader.watch());
            wait(py, &watch, slices)?;
        }
    }

    /// Fills the message; `None` if it was abandoned.
    fn fill(&mut self, py: Python<'_>, slices: &mut Slices) -> PyResult<Option<Received>> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Ok(None) };
            let reader = &mut self.reader;
            let is_long = incoming.message.len >= LONG;
            let longest = slices.next();
            let step = match is_long {
                true => py.detach(|| fill_and_wait(reader, incoming, longest)),
                false => incoming.step(reader),
            };
            match step.map_err(|error| exception(py, &error))? {
                Step::Whole => {
                    return self.incoming.take().map(|whole| whole.finish(py)).transpose();
                }
                Step::Abandoned => {
                    self.incoming = None;
                    return Ok(None);
                }
                Step::Filled => {
                    if let Err(error) = incoming.next_stage(py) {
                        self.incoming = None;
                        self.reader.skip().map_err(|error| exception(py, &error))?;
                        return Err(error);
                    }
                }
                Step::Wait if is_long => {
                    slices.lengthen();
                    py.check_signals()?;
                }
                Step::Wait => {
                    let watch = Arc::clone(reader.watch());
                    wait(py, &watch, slices)?;
                }
                Step::Closed => return Err(end_of_file()),
            }
        }
    }
}

impl Recover for Receiving {
    fn recover(&mut self) {
        self.incoming = None;
        self.reader.forget();
    }
}

impl From<PyErr> for Refused {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// Waits until there are bytes.
pub(crate) fn wait(py: Python<'_>, watch: &PipeWatch, slices: &mut Slices) -> PyResult<()> {
    if watch.spin(look_time()) {
        return Ok(());
    }
    loop {
        py.check_signals()?;
        let longest = slices.next();
        match released(py, || further(watch, longest)) {
            Wake::Ready => return Ok(()),
            Wake::Closed => return Err(end_of_file()),
            Wake::Look => slices.lengthen(),
        }
    }
}

/// Looks further without the interpreter lock, and sleeps then.
pub(crate) fn further(watch: &PipeWatch, longest: std::time::Duration) -> Wake {
    if watch.spin(FURTHER) { Wake::Ready } else { watch.wait(longest) }
}

fn fill_and_wait(
    reader: &mut PipeReader,
    incoming: &mut Incoming,
    longest: std::time::Duration,
) -> slipring::Result<Step> {
    loop {
        match incoming.step(reader)? {
            Step::Wait if reader.watch().spin(FURTHER) => {}
            Step::Wait => match reader.watch().wait(longest) {
                Wake::Ready => {}
                Wake::Closed => return Ok(Step::Closed),
                Wake::Look => return Ok(Step::Wait),
            },
            step => return Ok(step),
        }
    }
}

#[cold]
fn end_of_file() -> PyErr {
    PyEOFError::new_err("the other end of the pipe is closed")
}

impl Incoming {
    fn new(py: Python<'_>, message: Message) -> PyResult<Self> {
        let (stage, len) = match message.kind {
            OBJECT => (Stage::Count, 8),
            _ => (Stage::Body, message.len),
        };
        let len = usize::try_from(len).map_err(|_| garbled())?;
        Ok(Self { message, stage, parts: vec![Fresh::bytes(py, len)?], at: 0, filled: 0 })
    }

    /// Copies what has come.
    fn step(&mut self, reader: &mut PipeReader) -> slipring::Result<Step> {
        while let Some(part) = self.parts.get_mut(self.at) {
            let rest = part.rest(self.filled);
            let wanted = rest.len();
            match reader.read(rest)? {
                Progress::Whole(_) => return Ok(Step::Whole),
                Progress::Abandoned => return Ok(Step::Abandoned),
                Progress::Part(count) => {
                    self.filled += count;
                    if count < wanted {
                        return Ok(Step::Wait);
                    }
                    (self.at, self.filled) = (self.at + 1, 0);
                }
            }
        }
        Ok(Step::Filled)
    }

    /// Makes the parts that come next of those that are filled.
    fn next_stage(&mut self, py: Python<'_>) -> PyResult<()> {
        let words = std::mem::take(&mut self.parts).into_iter().next();
        let words = words.map(|part| words_of(py, part)).unwrap_or_default();
        (self.stage, self.parts) = match (self.stage, words.as_slice()) {
            (Stage::Count, [count]) => {
                let len = packed::lengths_len(*count).ok_or_else(garbled)?;
                (Stage::Lengths, vec![Fresh::bytes(py, len)?])
            }
            (Stage::Lengths, lengths) => {
                let found = packed::checked(lengths, self.message.len);
                let (pickle, buffers) = found.ok_or_else(garbled)?;
                let pickle = Fresh::bytes(py, pickle);
                let buffers = buffers.iter().map(|marked| packed::buffer(py, *marked));
                (Stage::Body, std::iter::once(pickle).chain(buffers).collect::<PyResult<_>>()?)
            }
            _ => return Err(garbled()),
        };
        (self.at, self.filled) = (0, 0);
        Ok(())
    }

    fn finish(self, _py: Python<'_>) -> PyResult<Received> {
        let is_body = matches!(self.stage, Stage::Body);
        let mut objects = self.parts.into_iter().map(Fresh::into_object);
        match objects.next() {
            Some(bytes) if is_body => {
                Ok(Received { kind: self.message.kind, bytes, buffers: objects.collect() })
            }
            _ => Err(garbled()),
        }
    }
}

#[cold]
fn garbled() -> PyErr {
    PyOSError::new_err("a message of the pipe is garbled")
}

impl Received {
    /// Returns the bytes and a list of the buffers, or `None` if it has none.
    pub(crate) fn into_parts(self, py: Python<'_>) -> PyResult<(Py<PyAny>, Option<Py<PyList>>)> {
        let buffers = match self.kind {
            OBJECT => Some(PyList::new(py, self.buffers)?.unbind()),
            _ => None,
        };
        Ok((self.bytes, buffers))
    }
}

/// The words that a filled part of bytes has.
fn words_of(py: Python<'_>, part: Fresh) -> Vec<u64> {
    let object = part.into_object();
    let bytes = object.bind(py).cast::<PyBytes>();
    let bytes = bytes.map(|bytes| bytes.as_bytes()).unwrap_or_default();
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}
