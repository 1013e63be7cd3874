//! The channel.

use std::io;
use std::time::{Duration, Instant};

use slipring::payload::{
    ElementType, MatrixReader, MatrixShape, MatrixWriter, TextBatch, Texts, copy_from_slice,
};
use slipring::worker::{HandlerError, Worker};
use slipring::{Channel, Config, Kind, Payload, PeerBytes};

use super::{CLOSE, LONG, in_place, routine_for, spawner};
use crate::end::{put_stamp, stamp};
use crate::limits::{bytes, sys};
use crate::pattern::Pattern;
use crate::work::{
    BATCH, EMBED_REPLY, EMBED_REQUEST, Session, Slice, Work, embed_patterns, time_after_idling,
    time_all, time_batches, unsupported, wrong,
};

const ECHO: Kind = Kind::named("echo");
const MATRIX: Kind = Kind::named("matrix");
const CHUNKS: Kind = Kind::named("chunks");
const PIN: Kind = Kind::named("pin");
const SLEEP: Kind = Kind::named("sleep");
const WORK: Kind = Kind::named("work");

const ROWS: usize = 64;
const DIM: usize = 384;

/// A session over a channel.
#[derive(Debug)]
pub struct ChannelSession {
    channel: Channel,
    /// Chunks are sent and taken in batches.
    is_batched: bool,
    texts: Vec<String>,
    matrix: Vec<f32>,
    /// Long chunks are read piece by piece.
    is_in_pieces: bool,
}

/// Starts a worker with a channel whose long chunks are read piece by piece: `Stream::next_reader`.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn channel_in_pieces(config: &Config) -> io::Result<Box<dyn Session>> {
    let mut session = channel_cold(config)?;
    session.channel.wait_ready(LONG)?;
    session.is_in_pieces = true;
    Ok(session)
}

/// Starts a worker with a channel: `Channel::call`, `Channel::stream`.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn channel(config: &Config) -> io::Result<Box<dyn Session>> {
    let session = channel_cold(config)?;
    session.channel.wait_ready(LONG)?;
    Ok(session)
}

/// Does the same. Chunks are sent and taken in batches: `ReplyStream::send_all`,
/// `Stream::next_chunks`.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn channel_in_batches(config: &Config) -> io::Result<Box<dyn Session>> {
    let mut session = channel_cold(config)?;
    session.is_batched = true;
    session.channel.wait_ready(LONG)?;
    Ok(session)
}

/// Starts it, and returns as soon as the worker has attached, to measure how long that takes.
///
/// # Errors
///
/// Fails as `Spawner::spawn` does.
pub fn channel_cold(config: &Config) -> io::Result<Box<ChannelSession>> {
    let channel = spawner("channel", config)?.spawn()?;
    let texts = (0..ROWS).map(|row| text(row, EMBED_REQUEST / ROWS)).collect();
    let (is_batched, is_in_pieces, matrix) = (false, false, vec![0.0; ROWS * DIM]);
    Ok(Box::new(ChannelSession { channel, is_batched, texts, matrix, is_in_pieces }))
}

/// Starts a worker that serves the kinds of this module.
pub(crate) fn spawn_channel(config: &Config) -> slipring::Result<Channel> {
    let channel = spawner("channel", config)?.spawn()?;
    channel.wait_ready(LONG)?;
    Ok(channel)
}

/// Binds a channel's worker to one processor.
pub(crate) fn pin(channel: &Channel, cpu: usize) -> io::Result<()> {
    channel.call(PIN, &(cpu as u64).to_le_bytes(), LONG)?;
    Ok(())
}

/// Makes one checked round trip.
pub(crate) fn echo(channel: &Channel, message: &[u8]) -> io::Result<()> {
    let reply = channel.call(ECHO, message, LONG)?;
    if in_place(&reply.payload()) == message { Ok(()) } else { Err(wrong("an answer")) }
}

/// Makes one call whose handler computes for a while.
pub(crate) fn work(channel: &Channel, busy: Duration) -> io::Result<()> {
    let nanos = busy.as_nanos() as u64;
    let reply = channel.call(WORK, &nanos.to_le_bytes(), LONG)?;
    if in_place(&reply.payload()) == nanos.to_le_bytes() { Ok(()) } else { Err(wrong("an answer")) }
}

fn text(row: usize, len: usize) -> String {
    (0..len).map(|i| char::from(b'a' + ((row * 7 + i) % 26) as u8)).collect()
}

/// Returns the value at a place of the matrix of a typed call.
fn value(row: usize, col: usize, text: &str) -> f32 {
    let first = f32::from(text.as_bytes().first().copied().unwrap_or(0));
    first + (row * DIM + col) as f32
}

fn words(values: [u64; 4]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl ChannelSession {
    /// Measures a stream of messages to the parent.
    fn stream(&self, len: usize, is_generated: bool, count: u64) -> io::Result<Slice> {
        let pattern = Pattern::shared(len.max(16 << 10), len);
        let request =
            words([len as u64, count, u64::from(is_generated), u64::from(self.is_batched)]);
        // The worker makes its pattern at the first request.
        self.channel.call(CHUNKS, &request, LONG)?;
        time_all(count, || {
            let (mut right, mut pieces) = (0, (0..).zip(pattern.pieces()));
            let mut chunks = self.channel.stream(CHUNKS, &request, LONG)?;
            if self.is_in_pieces {
                for (seq, (_, sum)) in pieces.by_ref() {
                    let Some(mut reader) = chunks.next_reader()? else { break };
                    let (mut got, mut found) = (0, 0_u64);
                    while let Some(piece) = reader.next_piece()? {
                        let payload = piece.payload();
                        got += payload.len();
                        // Pieces are cut at whole words, so that their sums add up.
                        found = found.wrapping_add(bytes::sum(in_place(&payload)));
                    }
                    right += u64::from(got == len && found == sum.wrapping_add(seq));
                }
                return if right == count { Ok(()) } else { Err(wrong("a chunk")) };
            }
            let mut check = |message: &[u8]| {
                let Some((seq, (_, sum))) = pieces.next() else { return };
                let is_right = match is_generated {
                    true => bytes::sum(message) == bytes::generated_sum(len, seq),
                    false => pattern.is_piece(message, sum, seq),
                };
                right += u64::from(is_right);
            };
            if self.is_batched {
                while let Some(batch) = chunks.next_chunks()? {
                    batch.iter().for_each(|chunk| check(in_place(&chunk)));
                }
            } else {
                for chunk in chunks {
                    check(in_place(&chunk?.payload()));
                }
            }
            if right == count { Ok(()) } else { Err(wrong("a chunk")) }
        })
    }

    fn round_trip(&self, pattern: &Pattern, buffer: &mut [u8], seq: u64) -> io::Result<()> {
        if let Some((_, sum)) = pattern.pieces().next() {
            put_stamp(buffer, seq);
            let reply = self.channel.call(ECHO, buffer, LONG)?;
            if !pattern.is_piece(in_place(&reply.payload()), sum, seq) {
                return Err(wrong("an answer"));
            }
        }
        Ok(())
    }

    fn embed(&self, count: u64) -> io::Result<Slice> {
        let (request, reply) = embed_patterns();
        let (Some((texts, _)), Some((_, sum))) = (request.pieces().next(), reply.pieces().next())
        else {
            return Err(unsupported());
        };
        let mut texts = texts.to_vec();
        time_batches(count, 1, |seq| {
            put_stamp(&mut texts, seq);
            let matrix = self.channel.call(MATRIX, &texts, LONG)?;
            let is_right = reply.is_piece(in_place(&matrix.payload()), sum, seq);
            if is_right { Ok(()) } else { Err(wrong("a matrix")) }
        })
    }

    fn embed_typed(&mut self, count: u64) -> io::Result<Slice> {
        let Self { channel, texts, matrix, .. } = self;
        time_batches(count, 1, |_| {
            let batch = TextBatch::new(texts)?;
            let reply = channel.call(Kind::EMBED, &batch, LONG)?;
            MatrixReader::new(&reply)?.copy_to_f32(matrix)?;
            let expected = texts.iter().enumerate().flat_map(|(row, text)| {
                let first = value(row, 0, text);
                (0..DIM).map(move |col| first + col as f32)
            });
            if matrix.iter().copied().eq(expected) { Ok(()) } else { Err(wrong("a matrix")) }
        })
    }
}

impl Session for ChannelSession {
    fn pid(&self) -> u32 {
        self.channel.pid()
    }

    fn pin(&mut self, cpu: usize) -> io::Result<()> {
        pin(&self.channel, cpu)
    }

    fn copies(&self, len: usize) -> Option<String> {
        // The worker sends what is streamed.
        routine_for(len, self.channel.stats().reply_copies?)
    }

    fn run(&mut self, work: Work, count: u64) -> io::Result<Slice> {
        match work {
            Work::RoundTrip { len } | Work::Wake { len } => {
                let pattern = Pattern::shared(len, len);
                let mut buffer = pattern.pieces().next().map_or_else(Vec::new, |p| p.0.to_vec());
                let step = |seq| self.round_trip(&pattern, &mut buffer, seq);
                match work.sleeps() {
                    true => time_after_idling(count, step),
                    false => time_batches(count, BATCH, step),
                }
            }
            Work::Stream { len, .. } => self.stream(len, false, count),
            Work::Generate { len } => self.stream(len, true, count),
            Work::Embed => self.embed(count),
            Work::EmbedTyped => self.embed_typed(count),
            Work::Idle { millis } => time_all(2, || {
                std::thread::sleep(Duration::from_millis(millis));
                self.channel.call(SLEEP, &millis.to_le_bytes(), LONG)?;
                Ok(())
            }),
        }
    }
}

impl Drop for ChannelSession {
    fn drop(&mut self) {
        // The next measurement must not share its processor with this worker.
        let _ = self.channel.close(CLOSE);
    }
}

fn first_word(payload: &PeerBytes<'_>) -> Result<u64, HandlerError> {
    let mut word = [0; 8];
    payload.read_at(0, &mut word)?;
    Ok(u64::from_le_bytes(word))
}

/// A chunk that is copied in.
struct Piece<'a> {
    bytes: &'a [u8],
    seq: u64,
}

impl Payload for Piece<'_> {
    fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        copy_from_slice(out, self.bytes);
        put_stamp(out, self.seq);
        Ok(())
    }
}

/// A chunk that is generated in place.
struct Generated {
    len: usize,
    seq: u64,
}

impl Payload for Generated {
    fn encoded_len(&self) -> usize {
        self.len
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        bytes::generate(out, self.seq);
        Ok(())
    }
}

pub(super) fn serve_channel() -> slipring::Result<()> {
    Worker::new(|_| Ok((Texts::new(), embed_patterns(), Vec::new())))
        .on(ECHO, |_, request, responder| {
            let mut slot = responder.claim(request.len())?;
            request.payload().copy_to(slot.payload())?;
            Ok(slot.send())
        })
        .on(MATRIX, |(_, (texts, matrix), _), request, responder| {
            let message = in_place(&request.payload());
            let seq = stamp(message);
            let (Some((_, sum)), Some((values, _))) =
                (texts.pieces().next(), matrix.pieces().next())
            else {
                return Err(wrong("a pattern").into());
            };
            if !texts.is_piece(message, sum, seq) {
                return Err(wrong("a request").into());
            }
            let mut slot = responder.claim(EMBED_REPLY)?;
            copy_from_slice(slot.payload(), values);
            put_stamp(slot.payload(), seq);
            Ok(slot.send())
        })
        .on(Kind::EMBED, |(texts, ..), request, responder| {
            texts.decode_from(request)?;
            let shape = MatrixShape::new(texts.len(), DIM, ElementType::F32)?;
            let mut slot = responder.claim(shape.encoded_len())?;
            let mut matrix = MatrixWriter::new(slot.payload(), shape)?;
            for (row, text) in texts.iter().enumerate() {
                let first = value(row, 0, text);
                for (col, out) in matrix.row_f32_mut(row)?.iter_mut().enumerate() {
                    *out = first + col as f32;
                }
            }
            Ok(slot.send())
        })
        .on(CHUNKS, |(.., long), request, responder| {
            let mut words = [0; 32];
            request.payload().read_at(0, &mut words)?;
            let mut words = words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            let mut word = || words.next().unwrap_or(0);
            let (len, count, is_generated) = (word() as usize, word(), word() != 0);
            let is_batched = word() != 0;
            let pattern = Pattern::shared(len.max(16 << 10), len);
            if !request.is_stream() {
                return Ok(responder.send(&())?);
            }
            let mut chunks = responder.stream();
            if is_batched {
                let pieces = (0..count).zip(pattern.pieces());
                match is_generated {
                    true => chunks.send_all((0..count).map(|seq| Generated { len, seq }))?,
                    false => {
                        chunks.send_all(pieces.map(|(seq, (bytes, _))| Piece { bytes, seq }))?
                    }
                }
                return Ok(chunks.end()?);
            }
            for (seq, (bytes, _)) in (0..count).zip(pattern.pieces()) {
                if is_generated {
                    chunks.send_with(len, |slot| bytes::generate(slot, seq))?;
                } else if len <= Config::default().max_reply_frame() {
                    chunks.send_with(len, |slot| {
                        copy_from_slice(slot, bytes);
                        put_stamp(slot, seq);
                    })?;
                } else {
                    // Made once: a new copy each time would take a page fault for every 4 KiB,
                    // which a worker with a result at hand does not have.
                    if long.len() != len {
                        *long = bytes.to_vec();
                    }
                    put_stamp(long, seq);
                    chunks.send(&*long)?;
                }
            }
            Ok(chunks.end()?)
        })
        .on(PIN, |_, request, responder| {
            sys::run_on(&[first_word(&request.payload())? as usize])?;
            Ok(responder.send(&())?)
        })
        .on(WORK, |_, request, responder| {
            let (start, nanos) = (Instant::now(), first_word(&request.payload())?);
            while start.elapsed() < Duration::from_nanos(nanos) {}
            Ok(responder.send(&nanos.to_le_bytes())?)
        })
        .on(SLEEP, |_, request, responder| {
            std::thread::sleep(Duration::from_millis(first_word(&request.payload())?));
            Ok(responder.send(&())?)
        })
        .serve()
}
