//! The work that two processes do together, and the loops of both sides.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::end::{End, put_stamp, stamp};
use crate::limits::{bytes, sys};
use crate::pattern::Pattern;

/// Round trips that are timed together where one takes less time than reading the clock.
pub const BATCH: u64 = 32;

/// Request and reply of an embedding call: 64 texts of 200 bytes, 64 × 384 f32.
pub const EMBED_REQUEST: usize = 12_800;
/// See [`EMBED_REQUEST`].
pub const EMBED_REPLY: usize = 64 * 384 * 4;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Messages of `len` bytes there and back, one at a time, both sides busy.
    RoundTrip {
        /// Bytes of the message.
        len: usize,
    },
    /// The same after both sides have slept for a millisecond.
    Wake {
        /// Bytes of the message.
        len: usize,
    },
    /// Messages of `len` bytes one way, copied in, in pieces of `piece` bytes.
    Stream {
        /// Bytes of the message.
        len: usize,
        /// Bytes that are sent at a time.
        piece: usize,
    },
    /// Messages of `len` bytes one way, written and summed where they lie.
    Generate {
        /// Bytes of the message.
        len: usize,
    },
    /// 12,800 bytes there, 98,304 back.
    Embed,
    /// The same, with texts and a matrix that are encoded, checked and decoded.
    EmbedTyped,
    /// First one end waits for a message, then the other.
    Idle {
        /// How long each waits, in milliseconds.
        millis: u64,
    },
}

impl Work {
    /// Bytes of one message.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::RoundTrip { len }
            | Self::Wake { len }
            | Self::Stream { len, .. }
            | Self::Generate { len } => len,
            Self::Embed | Self::EmbedTyped => EMBED_REPLY,
            Self::Idle { .. } => 0,
        }
    }

    /// Describes the messages and their sizes in words.
    #[must_use]
    pub fn sizes(self) -> String {
        let bytes = crate::report::bytes;
        match self {
            Self::RoundTrip { len } | Self::Wake { len } => {
                format!("{} there and back", bytes(len))
            }
            Self::Stream { len, piece } if piece < len => {
                format!("messages of {}, raw in pieces of {}", bytes(len), bytes(piece))
            }
            Self::Stream { len, .. } | Self::Generate { len } => {
                format!("messages of {}", bytes(len))
            }
            Self::Embed | Self::EmbedTyped => {
                format!("{} there, {} back", bytes(EMBED_REQUEST), bytes(EMBED_REPLY))
            }
            Self::Idle { millis } => format!("{millis} ms each"),
        }
    }

    /// Bytes of what is sent at a time.
    #[must_use]
    pub fn piece(self) -> usize {
        match self {
            Self::Stream { piece, .. } => piece,
            other => other.size(),
        }
    }

    /// Whether a higher figure is better.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream { .. } | Self::Generate { .. })
    }

    /// Whether both sides sleep during the work.
    #[must_use]
    pub fn sleeps(self) -> bool {
        matches!(self, Self::Wake { .. } | Self::Idle { .. })
    }
}

/// The times of one slice of work.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// Nanoseconds for one message: of each, of each batch, or of the whole stream.
    pub samples: Vec<f64>,
    /// The time of the whole slice.
    pub total: Duration,
    /// Messages that were sent, or sent and answered.
    pub messages: u64,
}

impl Slice {
    /// Returns the nanoseconds for a message: the median of the samples, so that moments in which
    /// another program ran do not count. A stream has one sample, the whole slice.
    #[must_use]
    pub fn typical_ns(&self) -> f64 {
        crate::figures::median(&mut self.samples.clone())
    }
}

/// One worker process and the link to it, as the parent holds them.
pub trait Session {
    /// The worker's process id.
    fn pid(&self) -> u32;

    /// Keeps the worker's thread on one processor.
    ///
    /// # Errors
    ///
    /// Fails if the link or the system call fails.
    fn pin(&mut self, cpu: usize) -> io::Result<()>;

    /// Does the work with `count` messages, and checks every byte.
    ///
    /// # Errors
    ///
    /// Fails if the link fails; with `InvalidData` if a byte is wrong; with `Unsupported` if
    /// the link cannot do this work.
    fn run(&mut self, work: Work, count: u64) -> io::Result<Slice>;

    /// Returns the routine with which messages of `len` bytes are copied, if the link finds that
    /// out by itself and tells.
    fn copies(&self, _len: usize) -> Option<String> {
        None
    }
}

/// A command to the worker's loop: four words, in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Command {
    mode: u64,
    count: u64,
    len: u64,
    source: u64,
}

/// Answers each message with an equal one.
const ECHO: u64 = 1;
/// Checks messages, then answers how many were right.
const SINK: u64 = 2;
/// The same for generated bytes.
const SINK_GENERATED: u64 = 3;
/// Answers requests with matrices.
const EMBED: u64 = 4;
/// Runs on processor `len` from now on.
const PIN: u64 = 5;
/// Sleeps for `len` milliseconds, then sends.
const SLEEP: u64 = 6;
/// Answers, and does nothing else.
const READY: u64 = 7;
/// Ends the process.
const QUIT: u64 = 8;
const COMMAND_LEN: usize = 32;

impl Command {
    /// Sends the command, and waits until the worker has it. Returns the worker's process id.
    fn send<E: End>(self, end: &mut E) -> io::Result<u32> {
        let Self { mode, count, len, source } = self;
        end.send(COMMAND_LEN, |slot| {
            for (to, word) in slot.as_chunks_mut().0.iter_mut().zip([mode, count, len, source]) {
                *to = word.to_le_bytes();
            }
        })?;
        let pid = end.recv(|message| (message.len() == 8).then(|| stamp(message)))?;
        pid.and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| wrong("the worker's id"))
    }

    fn recv<E: End>(end: &mut E) -> io::Result<Self> {
        let words = end.recv(|message| {
            let mut words = [0; 4];
            for (to, word) in words.iter_mut().zip(message.as_chunks().0) {
                *to = u64::from_le_bytes(*word);
            }
            (message.len() == COMMAND_LEN).then_some(words)
        })?;
        let [mode, count, len, source] = words.ok_or_else(|| wrong("a command's length"))?;
        Ok(Self { mode, count, len, source })
    }
}

#[cold]
pub(crate) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not what was sent"))
}

pub(crate) fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "not for this link")
}

/// Runs the worker's side: executes commands until the parent is gone.
///
/// # Errors
///
/// Fails if the link fails, at the latest when the other side is gone.
pub fn serve<E: End>(end: &mut E) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Command { mode, count, len, source } = Command::recv(end)?;
        let size = len as usize;
        if mode == SINK {
            // Made before the worker says that it is ready.
            drop(Pattern::shared(source as usize, size));
        }
        send_report(end, u64::from(std::process::id()))?;
        match mode {
            READY => {}
            QUIT => return Ok(()),
            ECHO => {
                buffer.resize(size, 0);
                for _ in 0..count {
                    end.recv(|message| copy_out(&mut buffer, message))?;
                    let first = stamp(&buffer);
                    end.send_copy(&buffer, first)?;
                }
            }
            SINK => {
                let pattern = Pattern::shared(source as usize, size);
                let (mut right, mut pieces) = (0, (0..count).zip(pattern.pieces()));
                end.recv_all(count, |message| {
                    if let Some((seq, (_, sum))) = pieces.next() {
                        right += u64::from(pattern.is_piece(message, sum, seq));
                    }
                })?;
                send_report(end, right)?;
            }
            SINK_GENERATED => {
                let mut right = 0;
                for seq in 0..count {
                    let sum = end.recv(bytes::sum)?;
                    right += u64::from(sum == bytes::generated_sum(size, seq));
                }
                send_report(end, right)?;
            }
            EMBED => {
                let (request, reply) = embed_patterns();
                for (seq, (_, sum)) in (0..count).zip(request.pieces()) {
                    let is_right = end.recv(|m| request.is_piece(m, sum, seq))?;
                    if let (true, Some((matrix, _))) = (is_right, reply.pieces().next()) {
                        end.send_copy(matrix, seq)?;
                    } else {
                        send_report(end, 0)?;
                    }
                }
            }
            PIN => {
                sys::run_on(&[size])?;
                end.recv(|_| ())?;
                send_report(end, 0)?;
            }
            SLEEP => {
                std::thread::sleep(Duration::from_millis(len));
                send_report(end, 0)?;
            }
            _ => return Err(wrong("a command")),
        }
    }
}

fn copy_out(buffer: &mut [u8], message: &[u8]) {
    // The parent compares the message, so that a wrong length is noticed there.
    if message.len() == buffer.len() {
        buffer.copy_from_slice(message);
    }
}

fn send_report<E: End>(end: &mut E, number: u64) -> io::Result<()> {
    end.send(8, |slot| put_stamp(slot, number))
}

/// Returns what an embedding call sends, and what it gets.
#[must_use]
pub fn embed_patterns() -> (Arc<Pattern>, Arc<Pattern>) {
    (Pattern::shared(EMBED_REQUEST, EMBED_REQUEST), Pattern::shared(EMBED_REPLY, EMBED_REPLY))
}

/// Does work over a link's parent end. `count` counts messages.
///
/// # Errors
///
/// Fails as [`Session::run`] does.
pub fn drive<E: End>(end: &mut E, work: Work, count: u64) -> io::Result<Slice> {
    match work {
        Work::RoundTrip { len } => {
            Command { mode: ECHO, count, len: len as u64, source: 0 }.send(end)?;
            let pattern = Pattern::shared(len, len);
            time_batches(count, BATCH, |seq| round_trip(end, &pattern, seq))
        }
        Work::Wake { len } => {
            Command { mode: ECHO, count, len: len as u64, source: 0 }.send(end)?;
            let pattern = Pattern::shared(len, len);
            time_after_idling(count, |seq| round_trip(end, &pattern, seq))
        }
        Work::Stream { len, piece } => stream(end, len, piece, count),
        Work::Generate { len } => {
            Command { mode: SINK_GENERATED, count, len: len as u64, source: 0 }.send(end)?;
            time_all(count, || {
                end.set_streaming(true)?;
                for seq in 0..count {
                    end.send(len, |slot| bytes::generate(slot, seq))?;
                }
                end.set_streaming(false)?;
                expect_report(end, count)
            })
        }
        Work::Embed => {
            Command { mode: EMBED, count, len: 0, source: 0 }.send(end)?;
            let (request, reply) = embed_patterns();
            time_batches(count, 1, |seq| {
                let (Some((texts, _)), Some((_, sum))) =
                    (request.pieces().next(), reply.pieces().next())
                else {
                    return Ok(());
                };
                end.send_copy(texts, seq)?;
                let is_right = end.recv(|m| reply.is_piece(m, sum, seq))?;
                if is_right { Ok(()) } else { Err(wrong("a matrix")) }
            })
        }
        Work::EmbedTyped => Err(unsupported()),
        Work::Idle { millis } => time_all(2, || {
            // The worker waits while this thread sleeps, then the other way round.
            std::thread::sleep(Duration::from_millis(millis));
            Command { mode: SLEEP, count: 1, len: millis, source: 0 }.send(end)?;
            expect_report(end, 0)
        }),
    }
}

/// Binds the worker's thread to one processor.
///
/// # Errors
///
/// Fails if the link fails.
pub fn pin<E: End>(end: &mut E, cpu: usize) -> io::Result<()> {
    Command { mode: PIN, count: 1, len: cpu as u64, source: 0 }.send(end)?;
    end.send(8, |slot| put_stamp(slot, 0))?;
    expect_report(end, 0)
}

/// Waits until the worker answers, and returns its process id.
///
/// # Errors
///
/// Fails if the link fails.
pub fn ready<E: End>(end: &mut E) -> io::Result<u32> {
    Command { mode: READY, count: 0, len: 0, source: 0 }.send(end)
}

/// Ends the worker in good order.
///
/// # Errors
///
/// Fails if the link fails.
pub fn quit<E: End>(end: &mut E) -> io::Result<()> {
    Command { mode: QUIT, count: 0, len: 0, source: 0 }.send(end).map(drop)
}

fn stream<E: End>(end: &mut E, len: usize, piece: usize, count: u64) -> io::Result<Slice> {
    let pieces = (len / piece.max(1)).max(1) as u64 * count;
    // Several small messages, so that they lie on more than one cache line.
    let source = len.max(16 << 10);
    let pattern = Pattern::shared(source, piece);
    Command { mode: SINK, count: pieces, len: piece as u64, source: source as u64 }.send(end)?;
    time_all(count, || {
        end.set_streaming(true)?;
        let messages = (0..).zip(pattern.pieces().map(|(bytes, _)| bytes));
        end.send_all(piece, pieces, messages)?;
        end.set_streaming(false)?;
        expect_report(end, pieces)
    })
}

#[inline]
fn round_trip<E: End>(end: &mut E, pattern: &Pattern, seq: u64) -> io::Result<()> {
    if let Some((bytes, sum)) = pattern.pieces().next() {
        end.send_copy(bytes, seq)?;
        if !end.recv(|message| pattern.is_piece(message, sum, seq))? {
            return Err(wrong("an answer"));
        }
    }
    Ok(())
}

fn expect_report<E: End>(end: &mut E, number: u64) -> io::Result<()> {
    let found = end.recv(|message| (message.len() == 8).then(|| stamp(message)))?;
    if found == Some(number) {
        return Ok(());
    }
    Err(wrong(&format!("{found:?} instead of {number} messages")))
}

/// Measures the time of work as a whole.
pub(crate) fn time_all(messages: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<Slice> {
    let start = Instant::now();
    work()?;
    let total = start.elapsed();
    let each = total.as_nanos() as f64 / messages.max(1) as f64;
    Ok(Slice { samples: vec![each], total, messages })
}

/// Measures the time of each of `count` steps, or of each batch of them.
pub(crate) fn time_batches(
    count: u64,
    batch: u64,
    mut step: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Slice> {
    let mut samples = Vec::with_capacity((count / batch + 1) as usize);
    let start = Instant::now();
    let mut last = start;
    let mut seq = 0;
    while seq < count {
        let upto = (seq + batch).min(count);
        let steps = (upto - seq) as f64;
        while seq < upto {
            step(seq)?;
            seq += 1;
        }
        let now = Instant::now();
        samples.push((now - last).as_nanos() as f64 / steps);
        last = now;
    }
    Ok(Slice { samples, total: last - start, messages: count })
}

/// Measures the time of each step, after a millisecond of sleep.
pub(crate) fn time_after_idling(
    count: u64,
    mut step: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Slice> {
    let mut slice = Slice { messages: count, ..Slice::default() };
    for seq in 0..count {
        std::thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        step(seq)?;
        let took = start.elapsed();
        slice.total += took;
        slice.samples.push(took.as_nanos() as f64);
    }
    Ok(slice)
}
