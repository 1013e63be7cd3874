//! How fast the other side of a connection may send frames that carry nothing.
//!
//! HTTP/2 has frames that cost this side about as much as a request does that it refuses, and its peer
//! nothing: PING, SETTINGS, WINDOW_UPDATE, RST_STREAM, DATA of a byte, types that are unknown. An honest
//! peer sends them because of something: a request, an answer, time that goes by. So each of them is paid
//! for from an allowance, which is earned by these. A peer that has used it up is read from more slowly,
//! until the system's queues push back on it; other connections do not notice.
//!
//! What carries something earns a fixed number of frames at most, so that frames that carry nothing never
//! cost more than a few times what the others do. An acknowledgement earns nothing.
//!
//! It lies between HTTP/2 and the stream of its bytes, which it leaves as they are: a peer that is taken for
//! a hostile one loses time and nothing else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::Limits;
use super::frame_headers::{DATA, FrameHeaders, HEADER, HEADERS};

/// How long it takes to earn a frame by waiting. 1,000 connections that do nothing else send 250,000 frames
/// a second: a fifth of a processor.
const FRAME_TIME: Duration = Duration::from_millis(4);

/// How many frames the other side may send at once for each request that may be open: a cancel, and what a
/// client that had paused says of the windows of an answer.
const FOR_REQUEST: i64 = 16;

/// Once the allowance is used up, reading goes on when there are so many frames again: each time costs more
/// than a frame does. It is not long enough to seem to be silence.
const AGAIN: i64 = 32;

/// What a frame of this side earns that carries something. A client may update two windows for it, and ask how
/// long that takes.
const SENT: i64 = 3;

/// So many bytes of payload earn a frame, in both directions.
const CARRIED: usize = 4096;

/// The preface that a client sends before its first frame.
const PREFACE: usize = 24;

/// What frames of the other side cost.
#[derive(Debug)]
struct Prices {
    /// What one with headers earns.
    headers: i64,
    /// Shorter ones with data cost a frame.
    short: usize,
    /// How many frames there are at once, at least. A connection that is made anew has as many.
    least: i64,
}

/// Each request is paid for by itself. Its end may have no data.
const OF_CALLER: Prices = Prices { headers: 3, short: 64, least: 4096 };

/// Answers are paid for by their requests, with headers before and behind. All of them may come at once, late, when
/// the requests were given up. The shortest chunk is the prefix of a message of gRPC.
const OF_GATEWAY: Prices = Prices { headers: -1, short: 5, least: 100_000 };

/// A stream of bytes of HTTP/2 that is read as fast as the allowance of its other side permits.
pub(crate) struct Paced<T> {
    io: T,
    prices: &'static Prices,
    received: FrameHeaders,
    sent: FrameHeaders,
    allowance: Allowance,
    /// Until reading goes on.
    wait: Option<Pin<Box<Sleep>>>,
    /// Called the first time that it does not.
    note: Option<Box<dyn FnOnce() + Send>>,
}

/// How many frames that carry nothing the other side may send now.
#[derive(Debug)]
struct Allowance {
    left: i64,
    most: i64,
    /// When the last one was earned by waiting. `None` if all are left.
    since: Option<Instant>,
}

impl Allowance {
    fn new(limits: &Limits, prices: &Prices) -> Self {
        let most = (FOR_REQUEST * i64::from(limits.max_streams)).max(prices.least);
        Self { left: most, most, since: None }
    }

    fn add(&mut self, frames: i64) {
        self.left = self.left.saturating_add(frames).min(self.most);
    }

    /// Adds those that were earned by waiting.
    fn refill(&mut self) {
        if let Some(since) = &mut self.since {
            let earned = since.elapsed().as_millis() / FRAME_TIME.as_millis();
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            *since += FRAME_TIME * earned;
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

/// What the length of a payload earns.
fn carried(len: usize) -> i64 {
    i64::try_from(len / CARRIED).unwrap_or(0)
}

impl<T> Paced<T> {
    /// Paces what a caller sends. `note` is called if that is ever needed.
    pub(crate) fn caller(io: T, limits: &Limits, note: impl FnOnce() + Send + 'static) -> Self {
        let (received, sent) = (FrameHeaders::after(PREFACE), FrameHeaders::after(0));
        Self::new(io, limits, &OF_CALLER, (received, sent), Box::new(note))
    }

    /// Paces what a gateway sends.
    pub(crate) fn gateway(io: T, limits: &Limits, note: impl FnOnce() + Send + 'static) -> Self {
        let (received, sent) = (FrameHeaders::after(0), FrameHeaders::after(PREFACE));
        Self::new(io, limits, &OF_GATEWAY, (received, sent), Box::new(note))
    }

    fn new(
        io: T,
        limits: &Limits,
        prices: &'static Prices,
        (received, sent): (FrameHeaders, FrameHeaders),
        note: Box<dyn FnOnce() + Send>,
    ) -> Self {
        let allowance = Allowance::new(limits, prices);
        Self { io, prices, received, sent, allowance, wait: None, note: Some(note) }
    }

    /// Waits until there is an allowance.
    fn poll_allowance(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.allowance.refill();
        if self.wait.is_none() {
            // The rest of a payload is paid for.
            if self.allowance.left > 0 || self.received.before() > 0 {
                return Poll::Ready(());
            }
            if let Some(note) = self.note.take() {
                note();
            }
            let missing = u32::try_from(AGAIN - self.allowance.left).unwrap_or(u32::MAX);
            self.wait = Some(Box::pin(sleep(FRAME_TIME * missing)));
        }
        if let Some(wait) = &mut self.wait
            && self.allowance.left < AGAIN
        {
            ready!(wait.as_mut().poll(context));
        }
        self.wait = None;
        Poll::Ready(())
    }

    /// How many bytes are read at once, at most: not more frames can lie in them than are left.
    fn readable(&self) -> usize {
        let left = usize::try_from(self.allowance.left).unwrap_or(0);
        // One without a byte would be the end of the stream.
        self.received.before().saturating_add(left.saturating_mul(HEADER)).max(1)
    }

    fn note_received(&mut self, bytes: &[u8]) {
        let (prices, allowance) = (self.prices, &mut self.allowance);
        self.received.follow(bytes, |kind, len| {
            allowance.add(match kind {
                HEADERS => prices.headers,
                DATA if len >= prices.short => carried(len),
                _ => -1,
            });
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
                if matches!(kind, DATA | HEADERS) {
                    self.allowance.add(SENT + carried(len));
                }
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
        if most >= buffer.remaining() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
            self.note_received(buffer.filled().get(before..).unwrap_or_default());
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            ready!(Pin::new(&mut self.io).poll_read(context, &mut part))?;
            let count = part.filled().len();
            self.note_received(part.filled());
            buffer.advance(count);
        }
        Poll::Ready(Ok(()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
    use tokio::time::timeout;

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.resize(HEADER + len, 7);
        bytes
    }

    fn frames(all: &[(u8, usize)]) -> Vec<u8> {
        all.iter().flat_map(|(kind, len)| frame(*kind, *len)).collect()
    }

    /// The end of a connection that is paced, the other end, and whether it was.
    fn paced(is_caller: bool) -> (Paced<DuplexStream>, DuplexStream, Arc<AtomicBool>) {
        let (near, far) = duplex(64 << 10);
        let (limits, was_paced) = (Limits::default(), Arc::<AtomicBool>::default());
        let noted = Arc::clone(&was_paced);
        let note = move || assert!(!noted.swap(true, Ordering::Relaxed));
        let near = match is_caller {
            true => Paced::caller(near, &limits, note),
            false => Paced::gateway(near, &limits, note),
        };
        (near, far, was_paced)
    }

    /// The preface of the side that has one.
    fn preface(is_sent: bool) -> &'static [u8] {
        if is_sent { &[b'P'; PREFACE] } else { &[] }
    }

    /// Reads for so long what comes without end. Each byte is answered with one. Returns how many frames came.
    async fn flooded(is_caller: bool, bytes: &[u8], longest: Duration) -> usize {
        let (near, far, was_paced) = paced(is_caller);
        let ((mut reader, mut writer), (mut sink, mut source)) = (split(near), split(far));
        let flood = async {
            source.write_all(preface(is_caller)).await.unwrap();
            loop {
                source.write_all(bytes).await.unwrap();
            }
        };
        let mut count = 0;
        let read = async {
            writer.write_all(preface(!is_caller)).await.unwrap();
            let mut headers = FrameHeaders::after(preface(is_caller).len());
            let mut part = vec![0; 100_000];
            loop {
                let len = reader.read(&mut part).await.unwrap();
                assert!(len > 0);
                headers.follow(&part[..len], |_, _| count += 1);
                // As acknowledgements are.
                writer.write_all(&frame(PING, 8)).await.unwrap();
                writer.write_all(&frame(SETTINGS, 0)).await.unwrap();
            }
        };
        let answers = async { while sink.read(&mut [0; 1_000]).await.unwrap() > 0 {} };
        let all = async { tokio::join!(flood, read, answers) };
        timeout(longest, all).await.map(drop).unwrap_err();
        assert!(was_paced.load(Ordering::Relaxed));
        count
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_come_as_fast_as_they_are_earned() {
        let mut kinds =
            vec![(0, 0), (0, 1), (0, 4), (2, 5), (3, 4), (4, 0), (4, 6), (5, 4), (6, 8)];
        kinds.extend([(7, 8), (8, 4), (9, 0), (9, 1), (9, 16_000), (10, 0), (255, 0), (255, 9)]);
        let of_callers = kinds.iter().chain(&[(0, 63)]).map(|kind| (true, *kind));
        let of_gateways = kinds.iter().chain(&[(1, 1)]).map(|kind| (false, *kind));
        for (is_caller, (kind, len)) in of_callers.chain(of_gateways) {
            for seconds in [0, 10] {
                let longest = Duration::from_secs(seconds) + FRAME_TIME;
                let count = flooded(is_caller, &frame(kind, len).repeat(100), longest).await;
                // By waiting: 250 a second, and those that are not read yet.
                let at_once = if is_caller { 4_096 } else { 100_000 };
                let most = at_once + 250 * usize::try_from(seconds).unwrap() + 2;
                let which = format!("type {kind} of {len} bytes, {seconds} s: {count}");
                assert!(count <= most && count + 32 >= most - 2, "{which}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_carries_something_pays_for_few_that_do_not() {
        let pings = [(PING, 8); 16];
        let with_one = |one: (u8, usize)| frames(&[&[one], &pings[..]].concat());
        for (is_caller, one, paid) in
            [(true, (HEADERS, 20), 3), (true, (DATA, 16 << 10), 4), (false, (DATA, 16 << 10), 4)]
        {
            let ten_seconds = Duration::from_secs(10);
            let pings = flooded(is_caller, &with_one(one), ten_seconds).await * 16 / 17;
            let at_once = if is_caller { 4_096 } else { 100_000 };
            let most = (at_once + 2_500) * 16 / (16 - paid) + 17;
            assert!(pings <= most && pings + 50 >= most, "{one:?}: {pings} of {most}");
        }
    }

    /// Sends some frames, of which this side answers each with others, so often. It takes no time.
    async fn exchanged(is_caller: bool, came: &[u8], answer: &[u8], times: usize) {
        let began = Instant::now();
        let (mut near, mut far, was_paced) = paced(is_caller);
        far.write_all(preface(is_caller)).await.unwrap();
        near.read_exact(&mut vec![0; preface(is_caller).len()]).await.unwrap();
        near.write_all(preface(!is_caller)).await.unwrap();
        far.read_exact(&mut vec![0; preface(!is_caller).len()]).await.unwrap();
        let (mut read, mut answered) = (vec![0; came.len()], vec![0; answer.len()]);
        for _ in 0..times {
            tokio::join!(async { far.write_all(came).await.unwrap() }, async {
                near.read_exact(&mut read).await.unwrap()
            },);
            assert!(read == came);
            tokio::join!(async { near.write_all(answer).await.unwrap() }, async {
                far.read_exact(&mut answered).await.unwrap()
            },);
            assert!(answered == answer);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!was_paced.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn what_honest_callers_send_is_never_paced() {
        let call = [(HEADERS, 60), (DATA, 20), (DATA, 0)];
        let cancel = (RST_STREAM, 4);
        let update = (WINDOW_UPDATE, 4);
        for (came, answer) in [
            // Calls, with questions how long they take.
            ([&call[..], &[update, update, (PING, 8)]].concat(), vec![(1, 30), (0, 20), (1, 25)]),
            // Hundreds at a time, all of which are cancelled.
            ([&call.repeat(256)[..], &[cancel; 256]].concat(), Vec::new()),
            // An upload in pieces, whose frames are cut.
            ([(DATA, 16 << 10), (DATA, 16 << 10), (DATA, 12)].repeat(100), vec![update]),
            (vec![(DATA, 64); 1_000], vec![update]),
            // A stream of tiny chunks, each of which is taken by itself.
            (vec![update, update, (PING, 8)], vec![(DATA, 7)]),
            // Long chunks, of a reader with short windows.
            (vec![update; 32], vec![(DATA, 128 << 10)]),
        ] {
            exchanged(true, &frames(&came), &frames(&answer), 300).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_honest_gateways_send_is_never_paced() {
        let update = (WINDOW_UPDATE, 4);
        let answers = [(HEADERS, 30), (DATA, 20), (HEADERS, 25), (RST_STREAM, 4)];
        for (came, answer) in [
            (answers.repeat(256), [(HEADERS, 60), (DATA, 20)].repeat(256)),
            (vec![(DATA, 5); 1_000], vec![update]),
            (vec![update; 32], vec![(DATA, 128 << 10)]),
        ] {
            exchanged(false, &frames(&came), &frames(&answer), 300).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_paced_goes_on_as_soon_as_it_is_answered() {
        let (near, mut far, was_paced) = paced(true);
        let (mut reader, mut writer) = split(near);
        let began = Instant::now();
        let flood = [preface(true), &frame(PING, 8).repeat(4_096 + 50)].concat();
        let mut read = vec![0; flood.len()];
        tokio::join!(
            async { far.write_all(&flood).await.unwrap() },
            async { reader.read_exact(&mut read).await.unwrap() },
            async {
                while !was_paced.load(Ordering::Relaxed) {
                    tokio::task::yield_now().await;
                }
                writer.write_all(&frame(HEADERS, 20).repeat(30)).await.unwrap();
            },
        );
        assert!(was_paced.load(Ordering::Relaxed));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    async fn write_cut(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cuts: &[usize]) {
        let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            to.write_all(part).await.unwrap();
            rest = after;
        }
        to.shutdown().await.unwrap();
    }

    async fn read_cut(from: &mut (impl AsyncRead + Unpin), cuts: &[usize]) -> Vec<u8> {
        let (mut read, mut cuts) = (Vec::new(), cuts.iter().rev().cycle());
        loop {
            let mut part = vec![0; *cuts.next().unwrap()];
            match from.read(&mut part).await.unwrap() {
                0 => return read,
                count => read.extend(&part[..count]),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_stay_as_they_are_however_they_are_cut() {
        let mut random = 7_u32;
        let mut below = |most: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(random >> 8).unwrap() % most
        };
        for round in 0..200 {
            let mut bytes = preface(true).to_vec();
            for _ in 0..below(200) {
                let kind = u8::try_from(below(11)).unwrap();
                let most = if round % 4 < 2 { 200 } else { [20, 140_000][below(40) / 39] };
                bytes.extend(frame(kind, below(most)));
            }
            // What follows is no frame.
            bytes.extend((0..below(100)).map(|_| u8::try_from(below(256)).unwrap()));
            let longest = [10, 100, 10_000, 200_000][round % 4];
            let cuts: Vec<_> = (0..100).map(|_| 1 + below(longest)).collect();
            let (near, far, _) = paced(true);
            let ((mut reader, mut writer), (mut sink, mut source)) = (split(near), split(far));
            let ((), (), came, answered) = tokio::join!(
                write_cut(&mut source, &bytes, &cuts),
                write_cut(&mut writer, &bytes, &cuts),
                read_cut(&mut reader, &cuts),
                read_cut(&mut sink, &cuts),
            );
            assert!(came == bytes && answered == bytes, "round {round}");
        }
    }

    #[tokio::test]
    async fn parts_that_are_written_together_are_followed() {
        let (mut near, mut far, _) = paced(true);
        near.allowance.left = 0;
        let (first, second) = (frame(HEADERS, 20), frame(DATA, 9_000));
        let all = [&first[..], &second].concat();
        let mut parts = [&all[..3], &all[3..40], &all[40..]].map(io::IoSlice::new);
        let mut rest = &mut parts[..];
        while !rest.is_empty() {
            let count = near.write_vectored(rest).await.unwrap();
            io::IoSlice::advance_slices(&mut rest, count);
        }
        assert_eq!(near.allowance.left, 2 * SENT + 2);
        let mut read = vec![0; all.len()];
        far.read_exact(&mut read).await.unwrap();
        assert!(read == all && near.is_write_vectored());
    }
}
