//! How fast the other side of a connection may send what carries nothing.
//!
//! HTTP/2 has frames that cost their sender nothing, and this side about as much as a request that it refuses:
//! PING, SETTINGS, WINDOW_UPDATE, RST_STREAM, short DATA, types that are unknown. TLS has records of a
//! byte. An honest peer sends them because of something: a request, an answer, time that goes by. So each of
//! them is paid for from an allowance, which is earned by these. A peer that has used it up is read from more
//! slowly, until the system's queues push back on it; other connections do not notice.
//!
//! What carries something earns a fixed number at most, so that what carries nothing never costs more than a
//! few times as much. An acknowledgement earns nothing.
//!
//! This lies between HTTP/2 and the stream of its bytes, and once more below TLS. It leaves the bytes as they
//! are: a peer that is taken for a hostile one loses time and nothing else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::Limits;
use super::headers::{FRAME, Format, Headers, RECORD};
use super::presence::Watch;

/// The types of frames that carry something.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;

/// The preface that a client sends before its first frame.
pub(super) const PREFACE: usize = 24;

/// Once the allowance is used up, reading goes on when there are so many frames again: each time costs more
/// than a frame does.
const AGAIN: i64 = 32;

/// After so many frames in a row the tasks of other connections have their turn.
const TURN: u32 = 1024;

/// So many bytes of payload earn a frame, in both directions.
const CARRIED: usize = 4096;

/// What a frame of this side earns that carries something. A client may update two windows for it, and ask how
/// long that takes.
pub(super) const SENT: i64 = 3;

/// How many frames the other side may send at once for each request that may be open: a cancel, and what a
/// client that had paused says of the windows of an answer.
const FOR_REQUEST: i64 = 16;

/// What a part of a stream, a frame or a record, earns (or costs) by its type and the length of its payload.
type Price = fn(u8, usize) -> i64;

/// How one layer of a connection is paced.
struct Prices {
    format: &'static Format,
    received: Price,
    sent: Price,
    /// How many there are at once, at least. A connection that is made anew has as many.
    least: i64,
    /// How long it takes to earn one by waiting.
    time: Duration,
}

/// Each request is paid for by itself. Its end may have no data.
const FRAMES_OF_CALLER: Prices = Prices {
    format: &FRAME,
    received: |kind, len| match kind {
        HEADERS => 3,
        // Padding cannot make it so long.
        DATA if len >= 1024 => carried(len),
        _ => -1,
    },
    sent: sent_frame,
    least: 4096,
    time: Duration::from_millis(4),
};

/// Answers are paid for by their requests, with headers before and behind. All may come at once, late, when
/// the requests were given up. The shortest chunk is the prefix of a message of gRPC.
const FRAMES_OF_GATEWAY: Prices = Prices {
    received: |kind, len| match kind {
        DATA if len >= 5 => carried(len),
        _ => -1,
    },
    least: 100_000,
    ..FRAMES_OF_CALLER
};

/// Records with a few bytes cost: some peers send each small frame in one, or the header of a longer frame.
/// Their requests and answers earn less than they do as frames, so that waiting earns more.
const RECORDS_OF_CALLER: Prices = Prices {
    format: &RECORD,
    received: |_, len| if len < TAG + 32 { -1 } else { 1 + carried(len) },
    // Those that a peer can ask for, with new keys, are shorter than a frame.
    sent: |_, len| if len < TAG + FRAME.len { 0 } else { SENT + carried(len) },
    least: 4096,
    time: Duration::from_millis(1),
};

/// A gateway may send each chunk of many streams in a record of its own.
const RECORDS_OF_GATEWAY: Prices = Prices {
    received: |_, len| if len < TAG + FRAME.len { -1 } else { 1 + carried(len) },
    least: 100_000,
    ..RECORDS_OF_CALLER
};

/// By how much TLS makes a record longer.
const TAG: usize = 17;

fn sent_frame(kind: u8, len: usize) -> i64 {
    if matches!(kind, DATA | HEADERS) { SENT + carried(len) } else { 0 }
}

/// What the length of a payload earns.
fn carried(len: usize) -> i64 {
    i64::try_from(len / CARRIED).unwrap_or(0)
}

/// A stream of bytes that is read as fast as the allowance of its other side permits.
pub(crate) struct Paced<T> {
    io: T,
    prices: &'static Prices,
    received: Headers,
    sent: Headers,
    pub(super) allowance: Allowance,
    /// How many frames came since nothing was there.
    in_a_row: u32,
    /// Until reading goes on.
    wait: Option<Pin<Box<Sleep>>>,
    /// Of the connection, whose peer cannot be heard meanwhile.
    watch: Watch,
    /// Called the first time that it does not.
    note: Option<Box<dyn FnOnce() + Send>>,
}

/// How many frames that carry nothing the other side may send now.
pub(super) struct Allowance {
    pub(super) left: i64,
    most: i64,
    /// How long it takes to earn one by waiting.
    time: Duration,
    /// When the last one was earned by waiting. `None` if all are left.
    since: Option<Instant>,
}

impl Allowance {
    fn add(&mut self, frames: i64) {
        self.left = self.left.saturating_add(frames).min(self.most);
    }

    /// Adds those that were earned by waiting.
    fn refill(&mut self) {
        if let Some(since) = &mut self.since {
            let earned = since.elapsed().as_millis() / self.time.as_millis();
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            *since += self.time * earned;
            self.add(earned.into());
        }
        self.look();
    }

    /// Takes the time from when the first one is missing.
    fn look(&mut self) {
        if self.left >= self.most {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }
}

impl<T> Paced<T> {
    /// Paces the frames that a caller sends. `note` is called the first time that one has to wait.
    pub(crate) fn caller(
        io: T,
        limits: &Limits,
        watch: &Watch,
        note: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::new(io, limits, watch, &FRAMES_OF_CALLER, (PREFACE, 0), Box::new(note))
    }

    /// Paces the frames that a gateway sends.
    pub(crate) fn gateway(
        io: T,
        limits: &Limits,
        watch: &Watch,
        note: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::new(io, limits, watch, &FRAMES_OF_GATEWAY, (0, PREFACE), Box::new(note))
    }

    /// Paces the records of TLS that a caller sends.
    pub(crate) fn tls_caller(
        io: T,
        limits: &Limits,
        watch: &Watch,
        note: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::new(io, limits, watch, &RECORDS_OF_CALLER, (0, 0), Box::new(note))
    }

    /// Paces the records of TLS that a gateway sends.
    pub(crate) fn tls_gateway(
        io: T,
        limits: &Limits,
        watch: &Watch,
        note: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::new(io, limits, watch, &RECORDS_OF_GATEWAY, (0, 0), Box::new(note))
    }

    /// What comes and goes before the first frames has lengths of its own.
    fn new(
        io: T,
        limits: &Limits,
        watch: &Watch,
        prices: &'static Prices,
        (received, sent): (usize, usize),
        note: Box<dyn FnOnce() + Send>,
    ) -> Self {
        let headers = |before| Headers::after(before, prices.format);
        let most = (FOR_REQUEST * i64::from(limits.max_streams)).max(prices.least);
        let allowance = Allowance { left: most, most, time: prices.time, since: None };
        let (received, sent) = (headers(received), headers(sent));
        let (watch, note) = (watch.clone(), Some(note));
        Self { io, prices, received, sent, allowance, in_a_row: 0, wait: None, watch, note }
    }

    /// Waits until there is an allowance, and other tasks have had their turn.
    fn poll_allowance(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.allowance.refill();
        if self.wait.is_none() {
            // The rest of a payload is paid for.
            if self.allowance.left > 0 || self.received.before() > 0 {
                return self.poll_turn(context);
            }
            if let Some(note) = self.note.take() {
                note();
            }
            self.watch.pause();
            let missing = u32::try_from(AGAIN - self.allowance.left).unwrap_or(u32::MAX);
            self.wait = Some(Box::pin(sleep(self.allowance.time * missing)));
        }
        if let Some(wait) = &mut self.wait
            && self.allowance.left < AGAIN
        {
            ready!(wait.as_mut().poll(context));
        }
        if self.wait.take().is_some() {
            self.watch.go_on();
        }
        self.poll_turn(context)
    }

    fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.in_a_row < TURN {
            return Poll::Ready(());
        }
        self.in_a_row = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// How many bytes are read at once, at most: not more frames can lie in them than are left. A peer that has
    /// used none fills the whole buffer, which costs a long payload nothing. More frames than it has can lie in
    /// that, and are waited for after it.
    fn readable(&self) -> usize {
        if self.allowance.since.is_none() {
            return usize::MAX;
        }
        let left = usize::try_from(self.allowance.left).unwrap_or(0);
        // One without a byte would be the end of the stream.
        self.received.before().saturating_add(left.saturating_mul(self.prices.format.len)).max(1)
    }

    fn note_received(&mut self, bytes: &[u8]) {
        self.received.follow(bytes, |kind, len| {
            self.in_a_row += 1;
            self.allowance.add((self.prices.received)(kind, len));
        });
        self.allowance.look();
    }

    /// Notes what was written of some parts, of which these are the bytes.
    fn note_sent<'a>(
        &mut self,
        context: &Context<'_>,
        parts: impl Iterator<Item = &'a [u8]>,
        mut count: usize,
    ) {
        for part in parts {
            let (written, _) = part.split_at_checked(count).unwrap_or((part, &[]));
            count -= written.len();
            self.sent.follow(written, |kind, len| {
                self.allowance.add((self.prices.sent)(kind, len));
            });
        }
        if self.wait.is_some() && self.allowance.left >= AGAIN {
            context.waker().wake_by_ref();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_allowance(context));
        let most = self.readable();
        let read = if most >= buffer.remaining() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.io).poll_read(context, buffer);
            self.note_received(buffer.filled().get(before..).unwrap_or_default());
            read
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            let read = Pin::new(&mut self.io).poll_read(context, &mut part);
            let count = part.filled().len();
            self.note_received(part.filled());
            buffer.advance(count);
            read
        };
        if read.is_pending() {
            self.in_a_row = 0;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        self.note_sent(context, std::iter::once(bytes), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(context, parts))?;
        self.note_sent(context, parts.iter().map(|part| &**part), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
