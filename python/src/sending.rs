//! A message of Python objects on its way into a pipe.
#![allow(unsafe_code, reason = "reads the memory of Python objects")]

use std::ptr::NonNull;
use std::time::Duration;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBrokenPipeError, PyBufferError, PyValueError};
use pyo3::prelude::*;
use slipring::pipe::{PipeWriter, Wake};
use slipring::{ErrorKind, PeerBytes};

use crate::buffer;
use crate::error::exception;
use crate::packed;
use crate::receiving::{LONG, OBJECT};
use crate::turn::Recover;
use crate::wait::{FURTHER, Slices, look_time, released};

/// A message of several parts that is shorter than this is put together first.
const SHORT: usize = 4096;

/// The writer of an end.
pub(crate) struct Sending(pub(crate) PipeWriter);

/// The memory of an object, or a part of it.
pub(crate) struct Lent {
    buffer: PyUntypedBuffer,
    offset: usize,
    len: usize,
}

impl Lent {
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = buffer::lend(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the memory of the object is not contiguous"));
        }
        let len = buffer.len_bytes();
        Ok(Self { buffer, offset: 0, len })
    }

    /// As `send_bytes` of `multiprocessing`.
    pub(crate) fn part(self, offset: isize, size: Option<isize>) -> PyResult<Self> {
        let invalid = |message| Err(PyValueError::new_err(message));
        let Ok(offset) = usize::try_from(offset) else { return invalid("offset is negative") };
        let Some(most) = self.len.checked_sub(offset) else {
            return invalid("buffer length < offset");
        };
        let len = match size.map(usize::try_from) {
            None => most,
            Some(Err(_)) => return invalid("size is negative"),
            Some(Ok(size)) if size > most => return invalid("buffer length < offset + size"),
            Some(Ok(size)) => size,
        };
        Ok(Self { offset, len, ..self })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.buffer.readonly()
    }

    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        let start = NonNull::new(self.buffer.buf_ptr().cast::<u8>());
        let Some(start) = start.filter(|_| self.len > 0) else { return PeerBytes::empty() };
        // SAFETY: `part` has checked that the offset lies inside of what the exporter lends.
        let start = unsafe { start.byte_add(self.offset) };
        // SAFETY: the exporter lends so many contiguous bytes until the buffer is released, which the
        // borrow of `self` outlives. Others may write to them.
        unsafe { PeerBytes::from_raw_parts(start, self.len) }
    }
}

impl Sending {
    /// Sends the parts as one message of bytes.
    pub(crate) fn send_bytes(&mut self, py: Python<'_>, kind: u16, parts: &[Lent]) -> PyResult<()> {
        let bytes: Vec<_> = parts.iter().map(Lent::bytes).collect();
        self.send(py, kind, &bytes)
    }

    /// Sends a pickle in several parts, and the buffers that belong to it.
    pub(crate) fn send_object(
        &mut self,
        py: Python<'_>,
        pickle: &[Lent],
        buffers: &[Lent],
    ) -> PyResult<()> {
        let table = packed::table(pickle, buffers);
        let parts = pickle.iter().chain(buffers).map(Lent::bytes);
        let all: Vec<_> = std::iter::once(PeerBytes::of(&table)).chain(parts).collect();
        self.send(py, OBJECT, &all)
    }

    fn send(&mut self, py: Python<'_>, kind: u16, parts: &[PeerBytes<'_>]) -> PyResult<()> {
        let len = parts.iter().map(PeerBytes::len).sum::<usize>();
        if parts.len() != 1 && len <= SHORT {
            let mut together = Vec::with_capacity(len);
            parts.iter().for_each(|part| part.append_to(&mut together));
            return self.send_parts(py, kind, len, &[PeerBytes::of(&together)]);
        }
        self.send_parts(py, kind, len, parts)
    }

    fn send_parts(
        &mut self,
        py: Python<'_>,
        kind: u16,
        len: usize,
        parts: &[PeerBytes<'_>],
    ) -> PyResult<()> {
        let writer = &mut self.0;
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        writer.begin(len, kind).map_err(|error| raised(py, &error))?;
        let mut slices = Slices::new(py)?;
        let mut left = Left { parts: parts.iter(), rest: None };
        loop {
            let longest = slices.next();
            let step = match len >= LONG {
                true => py.detach(|| left.send_and_wait(writer, longest)),
                false => left.send(writer),
            };
            match step.map_err(|error| raised(py, &error))? {
                Wake::Ready => return Ok(()),
                Wake::Closed => return Err(broken("the other end of the pipe is closed")),
                Wake::Look => {}
            }
            // There is no room.
            if len < LONG && writer.spin(look_time()) {
                continue;
            }
            py.check_signals().inspect_err(|_| writer.forget())?;
            if len < LONG && released(py, || writer.wait(longest)) == Wake::Closed {
                return Err(broken("the other end of the pipe is closed"));
            }
            slices.lengthen();
        }
    }
}

/// What of a message is not sent.
struct Left<'a> {
    parts: std::slice::Iter<'a, PeerBytes<'a>>,
    rest: Option<PeerBytes<'a>>,
}

impl Left<'_> {
    /// Sends as much as there is room for. `Ready` if that was all.
    fn send(&mut self, writer: &mut PipeWriter) -> slipring::Result<Wake> {
        while writer.is_sending() {
            let rest = self.rest.take().filter(|rest| !rest.is_empty());
            let part = rest.or_else(|| self.parts.next().copied()).unwrap_or(PeerBytes::empty());
            let sent = writer.write(part)?;
            let (_, rest) = part.split_at(sent);
            if !rest.is_empty() || (sent == 0 && writer.is_sending() && self.parts.len() == 0) {
                self.rest = Some(rest);
                return Ok(Wake::Look);
            }
        }
        Ok(Wake::Ready)
    }

    fn send_and_wait(
        &mut self,
        writer: &mut PipeWriter,
        longest: Duration,
    ) -> slipring::Result<Wake> {
        loop {
            match self.send(writer)? {
                Wake::Look if writer.spin(FURTHER) => {}
                Wake::Look => match writer.wait(longest) {
                    Wake::Ready => {}
                    wake => return Ok(wake),
                },
                wake => return Ok(wake),
            }
        }
    }
}

impl Recover for Sending {
    fn recover(&mut self) {
        self.0.forget();
    }
}

fn raised(py: Python<'_>, error: &slipring::Error) -> PyErr {
    match error.kind() {
        ErrorKind::Closed => broken(&error.to_string()),
        _ => exception(py, error),
    }
}

fn broken(message: &str) -> PyErr {
    // With an error number, as the operating system's.
    const EPIPE: i32 = 32;
    PyBrokenPipeError::new_err((EPIPE, message.to_owned()))
}
