//! Floods are read slowly, and what honest peers send is not.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
    split,
};
use tokio::time::{Instant, timeout};

use super::Limits;
use super::headers::{FRAME, Format, Headers, RECORD};
use super::pacing::{DATA, HEADERS, PREFACE, Paced, SENT};
use super::presence::Watch;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, len: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(len).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, 0, 0, 0, 0, 1]);
    bytes.resize(FRAME.len + len, 7);
    bytes
}

fn frames(all: &[(u8, usize)]) -> Vec<u8> {
    all.iter().flat_map(|(kind, len)| frame(*kind, *len)).collect()
}

fn record(len: usize) -> Vec<u8> {
    let mut bytes = vec![23, 3, 3];
    bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
    bytes.resize(RECORD.len + len, 7);
    bytes
}

/// What is paced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Caller,
    Gateway,
    TlsCaller,
    TlsGateway,
}

use Side::{Caller, Gateway, TlsCaller, TlsGateway};

impl Side {
    fn format(self) -> &'static Format {
        if matches!(self, Caller | Gateway) { &FRAME } else { &RECORD }
    }

    /// What comes before its first frame.
    fn preface(self) -> &'static [u8] {
        if self == Caller { &[b'P'; PREFACE] } else { &[] }
    }

    /// What goes to it before the first frame.
    fn own_preface(self) -> &'static [u8] {
        if self == Gateway { &[b'P'; PREFACE] } else { &[] }
    }

    /// How many may come in a time.
    fn most(self, time: Duration) -> usize {
        let at_once = if matches!(self, Caller | TlsCaller) { 4_096 } else { 100_000 };
        let each = if matches!(self, Caller | Gateway) { 4 } else { 1 };
        at_once + usize::try_from(time.as_millis()).unwrap() / each
    }
}

/// The end of a connection that is paced, the other end, and whether it was.
fn paced(side: Side) -> (Paced<DuplexStream>, DuplexStream, Arc<AtomicBool>) {
    let (near, far) = duplex(64 << 10);
    let (limits, was_paced) = (Limits::default(), Arc::<AtomicBool>::default());
    let noted = Arc::clone(&was_paced);
    let note = move || assert!(!noted.swap(true, Ordering::Relaxed));
    let near = match side {
        Caller => Paced::caller(near, &limits, &Watch::default(), note),
        Gateway => Paced::gateway(near, &limits, &Watch::default(), note),
        TlsCaller => Paced::tls_caller(near, &limits, &Watch::default(), note),
        TlsGateway => Paced::tls_gateway(near, &limits, &Watch::default(), note),
    };
    (near, far, was_paced)
}

/// Reads for so long what comes without end, and acknowledges it. Returns how many frames or records came.
async fn flooded(side: Side, bytes: &[u8], longest: Duration) -> usize {
    flooded_by_parts(side, bytes, 8 << 10, longest).await
}

/// The same with reads of so many bytes.
async fn flooded_by_parts(side: Side, bytes: &[u8], part: usize, longest: Duration) -> usize {
    let (near, far, was_paced) = paced(side);
    let ((mut reader, mut writer), (mut sink, mut source)) = (split(near), split(far));
    let flood = async {
        source.write_all(side.preface()).await.unwrap();
        loop {
            source.write_all(bytes).await.unwrap();
        }
    };
    let acknowledged = match side {
        Caller | Gateway => frames(&[(PING, 8), (SETTINGS, 0)]),
        // Of new keys.
        TlsCaller | TlsGateway => record(22),
    };
    let mut count = 0;
    let read = async {
        writer.write_all(side.own_preface()).await.unwrap();
        let mut headers = Headers::after(side.preface().len(), side.format());
        let mut part = vec![0; part];
        loop {
            let len = reader.read(&mut part).await.unwrap();
            assert!(len > 0);
            headers.follow(&part[..len], |_, _| count += 1);
            assert!(count < 1_000_000, "it is not paced");
            writer.write_all(&acknowledged).await.unwrap();
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
    let mut kinds = vec![(0, 0), (0, 1), (0, 4), (2, 5), (3, 4), (4, 0), (4, 6), (5, 4), (6, 8)];
    kinds.extend([(7, 8), (8, 4), (9, 0), (9, 1), (9, 16_000), (10, 0), (255, 0), (255, 9)]);
    let of_callers = kinds.iter().chain(&[(0, 63)]).map(|(kind, len)| (Caller, frame(*kind, *len)));
    let of_gateways =
        kinds.iter().chain(&[(1, 1)]).map(|(kind, len)| (Gateway, frame(*kind, *len)));
    let records = [(TlsCaller, 48), (TlsGateway, 25)].into_iter();
    let records = records
        .flat_map(|(side, longest)| [0, 17, 18, longest].map(move |len| (side, record(len))));
    for (side, bytes) in of_callers.chain(of_gateways).chain(records) {
        for time in [4, 10_000].map(Duration::from_millis) {
            let count = flooded(side, &bytes.repeat(100), time).await;
            // One may be read in part, and some are earned and not read yet.
            let most = side.most(time) + 2;
            let which = format!("{side:?}: {count} of {most} times {:?}", &bytes[..5]);
            assert!(count <= most && count + 40 >= most, "{which}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_buffer_full_of_frames_is_waited_for_after_it() {
    let settings = frame(SETTINGS, 0).repeat(7_000);
    let flood = |longest| flooded_by_parts(Caller, &settings, PREFACE + 60_000, longest);
    let at_once = 60_000 / FRAME.len;
    let (before, after) = (at_once - 4_096, 1_000);
    assert_eq!(flood(Duration::from_millis(4)).await, at_once);
    let count = flood(Duration::from_millis(4 * u64::try_from(before + after).unwrap())).await;
    assert!(count <= at_once + after + 2 && count + 40 >= at_once + after, "{count}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_carries_something_pays_for_few_that_do_not() {
    let pings = [(PING, 8); 16];
    let with_one = |one: (u8, usize)| frames(&[&[one], &pings[..]].concat());
    let small_records = record(20).repeat(16);
    let time = Duration::from_secs(10);
    for (side, bytes, paid) in [
        (Caller, with_one((HEADERS, 20)), 3),
        (Caller, with_one((DATA, 16 << 10)), 4),
        (Gateway, with_one((DATA, 16 << 10)), 4),
        (TlsCaller, [record(60), small_records.clone()].concat(), 1),
        (TlsGateway, [record(16 << 10), small_records].concat(), 5),
    ] {
        let count = flooded(side, &bytes, time).await * 16 / 17;
        let most = side.most(time) * 16 / (16 - paid) + 17;
        assert!(count <= most && count + 60 >= most, "{side:?}: {count} of {most}");
    }
}

/// Sends some frames, of which this side answers each with others, so often. It takes no time.
async fn exchanged(side: Side, came: &[u8], answer: &[u8], times: usize) {
    let began = Instant::now();
    let (mut near, mut far, was_paced) = paced(side);
    far.write_all(side.preface()).await.unwrap();
    near.read_exact(&mut vec![0; side.preface().len()]).await.unwrap();
    near.write_all(side.own_preface()).await.unwrap();
    far.read_exact(&mut vec![0; side.own_preface().len()]).await.unwrap();
    let (mut read, mut answered) = (vec![0; came.len()], vec![0; answer.len()]);
    for _ in 0..times {
        let write = async { far.write_all(came).await.unwrap() };
        tokio::join!(write, async { near.read_exact(&mut read).await.unwrap() });
        assert!(read == came);
        let write = async { near.write_all(answer).await.unwrap() };
        tokio::join!(write, async { far.read_exact(&mut answered).await.unwrap() });
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
        (vec![(DATA, 1024); 1_000], vec![update]),
        // A stream of tiny chunks, each of which is taken by itself.
        (vec![update, update, (PING, 8)], vec![(DATA, 7)]),
        // Long chunks, of a reader with short windows.
        (vec![update; 32], vec![(DATA, 128 << 10)]),
    ] {
        exchanged(Caller, &frames(&came), &frames(&answer), 300).await;
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
        exchanged(Gateway, &frames(&came), &frames(&answer), 300).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_honest_peers_send_by_tls_is_never_paced() {
    let (update, chunk) = (record(13 + 17), record(16 + 17));
    for (came, answer) in [
        // A call, and questions how long it takes.
        ([record(90), update.repeat(3)].concat(), record(70)),
        // Hundreds of calls at a time, all of which are cancelled.
        ([record(70), update.clone()].concat().repeat(256), Vec::new()),
        // An upload, with the headers of frames in records of their own.
        ([record(9 + 17), record(16 << 10)].concat().repeat(100), update.clone()),
        // Chunks that are taken one by one.
        (update.repeat(3), chunk.clone()),
    ] {
        for side in [TlsCaller, TlsGateway] {
            exchanged(side, &came, &answer, 300).await;
        }
    }
    // Many streams of tiny chunks, the shortest of which are empty.
    exchanged(TlsGateway, &record(9 + 5 + 17).repeat(1_000), &[], 300).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_paced_goes_on_as_soon_as_it_is_answered() {
    let (near, mut far, was_paced) = paced(Caller);
    let (mut reader, mut writer) = split(near);
    let began = Instant::now();
    let flood = [Caller.preface(), &frame(PING, 8).repeat(4_096 + 50)].concat();
    let mut read = vec![0; flood.len()];
    tokio::join!(
        async { far.write_all(&flood).await.unwrap() },
        async { reader.read_exact(&mut read).await.unwrap() },
        async {
            // By then it is.
            for _ in 0..100_000 {
                tokio::task::yield_now().await;
            }
            writer.write_all(&frame(HEADERS, 20).repeat(30)).await.unwrap();
        },
    );
    assert!(was_paced.load(Ordering::Relaxed));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn other_tasks_have_their_turn_while_frames_come_without_end() {
    // Records of type 1 with 257 bytes.
    let mut near =
        Paced::tls_caller(tokio::io::repeat(1), &Limits::default(), &Watch::default(), || {});
    let record = RECORD.len + 257;
    for _ in 0..3 {
        let mut turn = 0;
        poll_fn(|context| {
            let mut part = [0; 100];
            let mut part = ReadBuf::new(&mut part);
            let read = Pin::new(&mut near).poll_read(context, &mut part);
            turn += part.filled().len();
            if read.is_pending() || turn > 2_000 * record {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        assert!(turn.abs_diff(1_024 * record) <= record, "{turn} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_not_taken_for_silent_while_it_is_not_read() {
    let (watch, limits) = (Watch::default(), Limits::default());
    // Records without a byte.
    let mut near = Paced::tls_caller(tokio::io::repeat(0), &limits, &watch, || {});
    let mut part = [0; 1 << 10];
    for _ in 0..1_000 {
        _ = timeout(Duration::ZERO, near.read(&mut part)).await;
        if watch.is_paused() {
            break;
        }
    }
    assert!(watch.is_paused());
    near.read_exact(&mut part[..1]).await.unwrap();
    assert!(!watch.is_paused());
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
        let mut bytes = Caller.preface().to_vec();
        for _ in 0..below(200) {
            let kind = u8::try_from(below(11)).unwrap();
            let most = if round % 4 < 2 { 200 } else { [20, 140_000][below(40) / 39] };
            bytes.extend(frame(kind, below(most)));
        }
        // What follows is no frame.
        bytes.extend((0..below(100)).map(|_| u8::try_from(below(256)).unwrap()));
        let longest = [10, 100, 10_000, 200_000][round % 4];
        let cuts: Vec<_> = (0..100).map(|_| 1 + below(longest)).collect();
        let (near, far, _) = paced(Caller);
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
    let (mut near, mut far, _) = paced(Caller);
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
