//! Whether the other side of a connection is there.
//!
//! Both sides ask each other by PINGs of HTTP/2. This looks only at bytes, where they enter and leave the
//! system, and so is the same for both sides, with TLS and without.
//!
//! An answer has a time limit, but a question may stand behind megabytes that this side has written
//! before it, and a slow line needs seconds for these. So the limit counts from when the question has
//! reached the other side's system: that confirms what it has, and the own system knows how much that is.
//! Until then the line must go on to take bytes. The limit is longer by twice the time that this took,
//! since the system that confirms may be that of a proxy with queues of its own. The other direction needs
//! no such care: whatever is heard shows that the other side is there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::socket::Kept;
use super::{Limits, MAX_FRAME};

/// How many times this side looks while it waits for an answer. Each look counts as its part of the
/// time limit and as no more, however late it is: a program that was held up has not heard what came.
const LOOKS: u32 = 5;

/// How many bytes may be written before a question that HTTP/2 has already: the rest of a frame, and
/// what TLS keeps and adds.
const BEFORE: u64 = MAX_FRAME as u64 + (96 << 10);

/// A stream of bytes whose reads and writes fail with `TimedOut` once the other side is gone.
pub(crate) struct Watched<T> {
    io: T,
    kept: fn(&T) -> Kept,
    watch: Watch,
    timer: Option<Pin<Box<Sleep>>>,
    read: u64,
    written: u64,
    silence: Silence,
}

/// Says when a stream is watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Watching>);

#[derive(Debug, Default)]
struct Watching {
    is_asked: AtomicBool,
    /// How many of those that read through the stream let the other side wait now.
    pauses: AtomicU32,
    /// Whether one has, since this was looked at last.
    was_paused: AtomicBool,
}

impl Watch {
    /// Begins to watch, from when the other side is asked whether it is there.
    pub(crate) fn begin(&self) {
        self.0.is_asked.store(true, Ordering::Relaxed);
    }

    /// Nothing is read for a while, so that nothing can be heard.
    pub(crate) fn pause(&self) {
        self.0.pauses.fetch_add(1, Ordering::Relaxed);
        self.0.was_paused.store(true, Ordering::Relaxed);
    }

    /// Reading goes on, after each [`pause`](Self::pause).
    pub(crate) fn go_on(&self) {
        self.0.pauses.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0.pauses.load(Ordering::Relaxed) > 0
    }

    /// Whether something may not have been heard since the last look.
    fn take_paused(&self) -> bool {
        self.0.was_paused.swap(false, Ordering::Relaxed) || self.is_paused()
    }
}

/// What was seen of a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// How many bytes have come, read or not.
    heard: u64,
    written: u64,
    /// How many of those the other side's system has.
    confirmed: u64,
}

/// How long the other side has been silent.
#[derive(Debug)]
struct Silence {
    interval: Duration,
    timeout: Duration,
    heard: u64,
    asked: Option<Asked>,
}

/// A question that was not answered yet.
#[derive(Debug)]
struct Asked {
    /// It is before this byte.
    end: u64,
    is_there: bool,
    confirmed: u64,
    /// How many looks it took to get there.
    on_the_way: u32,
    /// How many looks in a row have found nothing new.
    looks: u32,
}

impl Silence {
    fn new(limits: &Limits) -> Self {
        let (interval, timeout) = (limits.keep_alive_interval, limits.keep_alive_timeout);
        Self { interval, timeout, heard: 0, asked: None }
    }

    /// Nothing can be heard now. Returns when to look again.
    fn wait(&mut self) -> Duration {
        self.asked = None;
        self.interval
    }

    /// Looks at what was seen. Returns when to look again, or `None` if the other side is gone.
    ///
    /// Each side asks `interval` after it has last heard something, at the latest.
    fn look(&mut self, seen: Seen) -> Option<Duration> {
        if seen.heard != self.heard {
            self.heard = seen.heard;
            return Some(self.wait());
        }
        let asked = self.asked.get_or_insert(Asked {
            end: seen.written + BEFORE,
            is_there: false,
            confirmed: seen.confirmed,
            on_the_way: 0,
            looks: 0,
        });
        asked.looks += 1;
        if !asked.is_there {
            asked.is_there = seen.confirmed >= asked.end.min(seen.written);
            if asked.is_there || seen.confirmed != asked.confirmed {
                asked.confirmed = seen.confirmed;
                asked.looks = 1;
            }
            asked.on_the_way += u32::from(!asked.is_there);
        }
        // A proxy on a slow line has two queues, each of which may be as long as that of this side.
        let patience = if asked.is_there { LOOKS + 2 * asked.on_the_way } else { LOOKS };
        // The first look is at the beginning of the time.
        (asked.looks <= patience).then_some(self.timeout / LOOKS)
    }
}

impl Watched<TcpStream> {
    /// Watches a connection.
    pub(crate) fn tcp(io: TcpStream, limits: &Limits) -> Self {
        Self::new(io, Kept::of, limits)
    }
}

impl<T> Watched<T> {
    /// Watches a stream that says nothing of what it keeps.
    pub(crate) fn other(io: T, limits: &Limits) -> Self {
        Self::new(io, |_| Kept::default(), limits)
    }

    fn new(io: T, kept: fn(&T) -> Kept, limits: &Limits) -> Self {
        let (watch, silence) = (Watch::default(), Silence::new(limits));
        Self { io, kept, watch, timer: None, read: 0, written: 0, silence }
    }

    /// Returns what says when it is watched.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn seen(&self) -> Seen {
        let kept = (self.kept)(&self.io);
        Seen {
            heard: self.read + kept.unread,
            written: self.written,
            confirmed: self.written.saturating_sub(kept.unconfirmed),
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.timer.is_none() {
            if !self.watch.0.is_asked.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.silence.heard = self.seen().heard;
            self.timer = Some(Box::pin(sleep(self.silence.interval)));
        }
        let Some(mut timer) = self.timer.take() else { return Ok(()) };
        while timer.as_mut().poll(context).is_ready() {
            let looked = match self.watch.take_paused() {
                true => Some(self.silence.wait()),
                false => self.silence.look(self.seen()),
            };
            let Some(next) = looked else {
                let silent = format!("no answer for {:?}", self.silence.timeout);
                return Err(io::Error::new(io::ErrorKind::TimedOut, silent));
            };
            timer.as_mut().reset(Instant::now() + next);
        }
        self.timer = Some(timer);
        Ok(())
    }

    fn wrote(&mut self, count: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = count {
            self.written += u64::try_from(count).unwrap_or(0);
        }
        count
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        self.read += u64::try_from(count).unwrap_or(0);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // HTTP/2 does not read before it has written what it must.
        self.check(context)?;
        let count = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let count = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.wrote(count)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(300);
    const TIMEOUT: Duration = Duration::from_millis(500);

    fn limits() -> Limits {
        Limits { keep_alive_interval: INTERVAL, keep_alive_timeout: TIMEOUT, ..Limits::default() }
    }

    /// Looks as long as the other side is there. `seen` says what is seen after a time.
    fn gone_after(mut seen: impl FnMut(Duration) -> Seen) -> Option<Duration> {
        let mut silence = Silence::new(&limits());
        let mut now = INTERVAL;
        while now < Duration::from_secs(60) {
            let Some(next) = silence.look(seen(now)) else { return Some(now) };
            now += next;
        }
        None
    }

    fn millis(time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap()
    }

    #[test]
    fn a_side_that_is_not_heard_is_gone() {
        assert_eq!(gone_after(|_| Seen::default()), Some(INTERVAL + TIMEOUT));
        assert_eq!(gone_after(|now| Seen { heard: millis(now), ..Seen::default() }), None);
    }

    #[test]
    fn a_question_behind_other_bytes_has_its_time_once_it_is_there() {
        // A slow line, whose queue never ends.
        let seen = |now| Seen {
            heard: 0,
            written: 4_000_000 + 1_000 * millis(now),
            confirmed: 1_000 * millis(now),
        };
        let gone = millis(gone_after(seen).unwrap());
        let there = 4_000 + millis(INTERVAL) + BEFORE / 1_000;
        let (first, last) = (3 * there - 300, 3 * there + 300);
        assert!((first..=last).contains(&gone), "{first} to {last}: {gone}");
        // An answer in time.
        let answered = |now| Seen { heard: millis(now) / (there + 300), ..seen(now) };
        assert_eq!(gone_after(answered), None);
    }

    #[test]
    fn a_line_that_takes_no_byte_is_gone() {
        let moves = 2_000;
        let seen = |now| {
            let confirmed = 1_000 * millis(now).min(moves);
            Seen { heard: 0, written: 4_000_000, confirmed }
        };
        let gone = gone_after(seen).unwrap();
        let (first, last) = (Duration::from_millis(2_400), Duration::from_millis(2_600));
        assert!((first..=last).contains(&gone), "{gone:?}");
    }

    #[test]
    fn a_question_behind_nothing_has_no_more_time_for_bytes_after_it() {
        // A system that takes all, for a program that is stopped.
        let seen =
            |now| Seen { heard: 0, written: 100 * millis(now), confirmed: 100 * millis(now) };
        assert_eq!(gone_after(seen), Some(INTERVAL + TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_fails_once_the_other_side_is_gone() {
        let (near, mut far) = duplex(1);
        let mut near = Watched::other(near, &limits());
        let began = Instant::now();
        // It is not watched before it is asked.
        tokio::time::timeout(TIMEOUT * 9, near.read_u8()).await.unwrap_err();
        near.watch().begin();
        let say = async {
            for _ in 0..4 {
                tokio::time::sleep(TIMEOUT).await;
                far.write_all(b"x").await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let listen = async {
            loop {
                if let Err(error) = near.read_u8().await {
                    return error;
                }
            }
        };
        let error = tokio::select! {
            () = say => unreachable!(),
            error = listen => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no answer for 500ms");
        let said = began + TIMEOUT * (9 + 4);
        let silent = said.elapsed();
        assert!(silent > TIMEOUT && silent <= 2 * INTERVAL + TIMEOUT, "{silent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_not_read_is_there_until_it_is_read_again() {
        let (near, _far) = duplex(1);
        let mut near = Watched::other(near, &limits());
        let watch = near.watch();
        watch.begin();
        watch.pause();
        tokio::time::timeout(TIMEOUT * 99, near.read_u8()).await.unwrap_err();
        watch.go_on();
        assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_was_held_up_hears_what_came_meanwhile() {
        let (near, mut far) = duplex(1);
        let mut near = Watched::other(near, &limits());
        near.watch().begin();
        tokio::time::timeout(INTERVAL * 5 / 4, near.read_u8()).await.unwrap_err();
        far.write_all(b"x").await.unwrap();
        tokio::time::advance(TIMEOUT * 9).await;
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
