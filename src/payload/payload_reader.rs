//! A source as a stream of `std::io`.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::Source;

/// How much [`BufRead`] copies at a time, in bytes.
const BUFFER: usize = 8 << 10;

/// Reads a [`Source`] from front to end: [`Read`], [`BufRead`] and [`Seek`].
///
/// It works over a reply, a request, [`PeerBytes`](crate::PeerBytes) or a reference to any of
/// them. Reads copy, so they are sound for memory that the peer can change. [`BufRead`] hands
/// out bytes of a private buffer of 8 KiB, which is allocated at its first use. Nothing blocks.
///
/// ```
/// use std::io::{BufRead, Read};
///
/// use slipring::payload::PayloadReader;
///
/// let mut reader = PayloadReader::new(b"first line\nthe rest".as_slice());
/// let mut line = String::new();
/// reader.read_line(&mut line)?;
/// assert_eq!(line, "first line\n");
/// let mut rest = String::new();
/// reader.read_to_string(&mut rest)?;
/// assert_eq!(rest, "the rest");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct PayloadReader<S> {
    source: S,
    /// Of the next byte that is handed out, from the start of the source.
    position: u64,
    /// A copy of what follows the position, of which `used` bytes lie before it.
    buffer: Vec<u8>,
    used: usize,
}

impl<S: Source> PayloadReader<S> {
    /// Starts at the first byte.
    pub const fn new(source: S) -> Self {
        Self { source, position: 0, buffer: Vec::new(), used: 0 }
    }

    /// Returns the position of the next byte. It may be beyond the end after a [`Seek`].
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Returns the number of bytes that are left to read.
    pub fn remaining(&self) -> usize {
        // A position that is no `usize` is beyond any end.
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        self.source.len().saturating_sub(position)
    }

    /// Returns the source.
    pub fn into_source(self) -> S {
        self.source
    }

    fn buffered(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Copies the next `out.len()` bytes, of which there must be as many.
    fn copy(&self, out: &mut [u8]) -> io::Result<()> {
        let offset = self.source.len() - self.remaining();
        Ok(self.source.read_at(offset, out)?)
    }

    fn advance(&mut self, len: usize) {
        self.position = self.position.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        self.used = self.used.saturating_add(len);
    }
}

impl<S: Source> Read for PayloadReader<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffered = self.buffered();
        let len = if buffered.is_empty() { self.remaining() } else { buffered.len() };
        let len = len.min(out.len());
        let out = out.get_mut(..len).unwrap_or_default();
        match buffered.get(..len) {
            Some(copy) if len > 0 => out.copy_from_slice(copy),
            _ => self.copy(out)?,
        }
        self.advance(len);
        Ok(len)
    }
}

impl<S: Source> BufRead for PayloadReader<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered().is_empty() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(self.remaining().min(BUFFER), 0);
            self.copy(&mut buffer)?;
            (self.buffer, self.used) = (buffer, 0);
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, len: usize) {
        self.advance(len.min(self.buffered().len()));
    }
}

/// A position beyond the end is allowed: reads there return no bytes.
impl<S: Source> Seek for PayloadReader<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = u64::try_from(self.source.len()).unwrap_or(u64::MAX);
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => len.checked_add_signed(offset),
        };
        let Some(position) = position else {
            let message = "a seek to a position before the start, or beyond 64 bits";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        self.position = position;
        self.buffer.clear();
        self.used = 0;
        Ok(position)
    }
}

impl<S: Source> fmt::Debug for PayloadReader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadReader({} of {} bytes)", self.position, self.source.len())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(len: usize) -> (Vec<u8>, PayloadReader<Vec<u8>>) {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        (bytes.clone(), PayloadReader::new(bytes))
    }

    #[test]
    fn everything_is_read_once_in_order_by_each_kind_of_read() {
        for len in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 5] {
            let (bytes, mut whole) = reader(len);
            let mut out = Vec::new();
            whole.read_to_end(&mut out).unwrap();
            assert!(out == bytes && whole.buffer.capacity() == 0, "no buffer for {len} bytes");
            let (_, mut buffered) = reader(len);
            out.clear();
            while let more @ 1.. = buffered.fill_buf().unwrap().len() {
                out.extend_from_slice(buffered.fill_buf().unwrap());
                buffered.consume(more);
            }
            assert!(out == bytes && buffered.remaining() == 0, "{len}");
        }
    }

    #[test]
    fn a_seek_moves_buffered_reads_too_and_not_before_the_start() {
        let (bytes, mut reader) = reader(3 * BUFFER);
        let mut out = [0; 2];
        reader.fill_buf().unwrap();
        reader.consume(7);
        assert_eq!(reader.seek(SeekFrom::Current(-2)).unwrap(), 5);
        reader.read_exact(&mut out).unwrap();
        assert_eq!(out, bytes[5..7]);
        assert_eq!(reader.seek(SeekFrom::End(-2)).unwrap(), 24_574);
        reader.read_exact(&mut out).unwrap();
        assert_eq!(out, bytes[3 * BUFFER - 2..]);
        assert_eq!(reader.fill_buf().unwrap(), b"");
        for beyond in [SeekFrom::End(5), SeekFrom::Start(u64::MAX)] {
            reader.seek(beyond).unwrap();
            assert_eq!((reader.read(&mut out).unwrap(), reader.remaining()), (0, 0));
            assert_eq!(reader.fill_buf().unwrap(), b"");
        }
        reader.rewind().unwrap();
        for wrong in [SeekFrom::Current(-1), SeekFrom::End(i64::MIN)] {
            assert_eq!(reader.seek(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(format!("{reader:?}"), "PayloadReader(0 of 24576 bytes)");
    }

    #[test]
    fn a_consumer_that_takes_too_much_is_held_at_the_buffers_end() {
        let (_, mut reader) = reader(10);
        reader.consume(3);
        assert_eq!(reader.position(), 0);
        reader.fill_buf().unwrap();
        reader.consume(usize::MAX);
        assert_eq!((reader.position(), reader.remaining()), (10, 0));
    }

    proptest! {
        #[test]
        fn it_reads_as_a_cursor_over_the_same_bytes_does(
            len in 0..40_usize,
            moves in prop::collection::vec((0..5_u8, 0..50_i64), 0..30),
        ) {
            let (bytes, mut ours) = reader(len);
            let mut theirs = io::Cursor::new(bytes);
            for (what, amount) in moves {
                let count = usize::try_from(amount).unwrap();
                match what {
                    0 => {
                        let (mut a, mut b) = (vec![0; count], vec![0; count]);
                        let (a_len, b_len) = (ours.read(&mut a)?, theirs.read(&mut b)?);
                        // What is buffered may be less than what there is.
                        prop_assert!(a_len == b_len || a_len == ours.used);
                        prop_assert_eq!(&a[..a_len], &b[..a_len]);
                        theirs.seek(SeekFrom::Start(ours.position()))?;
                    }
                    1 => {
                        let available = ours.fill_buf()?.to_vec();
                        prop_assert_eq!(&available, theirs.fill_buf()?);
                        ours.consume(count.min(available.len()));
                        theirs.consume(count.min(available.len()));
                    }
                    2 => prop_assert_eq!(
                        ours.seek(SeekFrom::Current(amount - 25)).ok(),
                        theirs.seek(SeekFrom::Current(amount - 25)).ok()
                    ),
                    3 => prop_assert_eq!(
                        ours.seek(SeekFrom::End(amount - 25)).ok(),
                        theirs.seek(SeekFrom::End(amount - 25)).ok()
                    ),
                    _ => prop_assert_eq!(
                        ours.seek(SeekFrom::Start(amount.unsigned_abs())).ok(),
                        theirs.seek(SeekFrom::Start(amount.unsigned_abs())).ok()
                    ),
                }
                prop_assert_eq!(ours.position(), theirs.position());
            }
        }
    }
}
