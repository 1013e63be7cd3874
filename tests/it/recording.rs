//! Recordings: what a host sent and got is in the file, whatever becomes of the worker or the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::*;
use slipring::pool::{Pool, Role};
use slipring::recording::{
    self, AnswerKind, ChannelEnd, EndKind, Event, FramePayload, Payloads, ReadEnd, Record,
    Recording, RecordingReader,
};
use slipring::status_page::Numbers;
use slipring::{Channel, Config, ErrorKind, ExitCause, RequestId, Spawner};

/// What a recording says of one request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    sent: Vec<u8>,
    got: Vec<u8>,
    chunks: usize,
    last: Option<AnswerKind>,
    is_cancelled: bool,
}

fn bytes_of(payload: &FramePayload) -> &[u8] {
    match payload {
        FramePayload::Whole(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn read(path: &Path) -> (Vec<Record>, ReadEnd) {
    let mut reader = RecordingReader::open(path).unwrap();
    let records = reader.by_ref().map(Result::unwrap).collect();
    (records, reader.end())
}

fn told(path: &Path) -> (BTreeMap<RequestId, Told>, Option<ChannelEnd>) {
    let (records, end) = read(path);
    assert_eq!(end, ReadEnd::Whole);
    let (mut told, mut ended) = (BTreeMap::<RequestId, Told>::new(), None);
    for record in records {
        match record.event {
            Event::Request(frame) => {
                assert_eq!(frame.len as usize, bytes_of(&frame.payload).len());
                told.entry(frame.request).or_default().sent.extend(bytes_of(&frame.payload));
            }
            Event::Reply(frame) => {
                let kind = frame.answer_kind().unwrap();
                let told = told.get_mut(&frame.request).expect("a request comes before its answer");
                told.got.extend(bytes_of(&frame.payload));
                told.chunks += usize::from(kind == AnswerKind::Chunk && !frame.has_more);
                if kind != AnswerKind::Chunk && !frame.has_more {
                    told.last = Some(kind);
                }
            }
            Event::Cancel(request) => told.get_mut(&request).unwrap().is_cancelled = true,
            Event::End(end) => ended = Some(end),
            other => panic!("{other:?}"),
        }
    }
    (told, ended)
}

/// How many frames a recording has.
fn frames(path: &Path) -> u64 {
    let is_frame = |record: &&Record| matches!(record.event, Event::Request(_) | Event::Reply(_));
    read(path).0.iter().filter(is_frame).count() as u64
}

fn answered(sent: Vec<u8>, got: Vec<u8>) -> Told {
    Told { sent, got, last: Some(AnswerKind::Result), ..Told::default() }
}

fn spawn_recorded(name: &str, config: Config) -> (Channel, PathBuf) {
    let recording = Recording::in_dir(temp_dir(name));
    let channel = spawner().config(config).record(recording).spawn().unwrap();
    let path = channel.recording_path().unwrap().to_owned();
    (channel, path)
}

#[test]
fn what_threads_send_and_get_is_recorded_in_one_frame_or_in_pieces() {
    let (channel, path) = spawn_recorded("record-calls", Config::small());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let channel = &channel;
            scope.spawn(move || {
                for call in 0..30 {
                    // Some are longer than a frame.
                    let len = if call % 10 == 0 { 50_000 } else { 7 * call };
                    let bytes = pattern(thread * 100 + call as u64, len);
                    assert_eq!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
                }
            });
        }
    });
    let mut writer = channel.write(ECHO, LONG).unwrap();
    (0..10).for_each(|part| writer.push(&pattern(part, 5000)).unwrap());
    let written = writer.finish().unwrap().wait().unwrap().to_vec();
    assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
    let (told, end) = told(&path);
    assert_eq!(told.len(), 4 * 30 + 1);
    let mut lens: Vec<usize> = told.values().map(|told| told.sent.len()).collect();
    lens.sort_unstable();
    assert_eq!(lens[119..], [50_000, 50_000]);
    for each in told.values() {
        assert_eq!(*each, answered(each.sent.clone(), each.sent.clone()));
    }
    assert!(told.values().any(|told| told.sent == written));
    let end = end.unwrap();
    assert_eq!((end.kind, end.cause), (EndKind::Closed, Some(ExitCause::Exited(0))));
    let stats = channel.recording_stats().unwrap();
    assert_eq!((stats.lost_frames, &stats.path), (0, &path));
    let frames = frames(&path);
    let counted = channel.stats();
    assert_eq!(
        (stats.frames, counted.recorded_frames, counted.unrecorded_frames),
        (frames, frames, 0)
    );
}

#[test]
fn streams_are_recorded_however_their_chunks_are_taken_and_so_are_cancels() {
    let (channel, path) = spawn_recorded("record-streams", Config::small());
    let wanted: Vec<u8> = (0..300).flat_map(|i| pattern(i, 100)).collect();
    let ask = encode(&[300, 100]);
    let one_by_one = channel.stream(COUNT, &ask, LONG).unwrap();
    assert_eq!(one_by_one.map(Result::unwrap).count(), 300);
    let mut in_batches = channel.stream(COUNT_ALL, &ask, LONG).unwrap();
    let mut count = 0;
    while let Some(chunks) = in_batches.next_chunks().unwrap() {
        count += chunks.len();
    }
    assert_eq!(count, 300);
    // Its chunks are read by the thread that waits for the other request. They fit the window.
    let for_others = channel.stream(COUNT, &encode(&[50, 100]), LONG).unwrap();
    channel.call(ECHO, b"meanwhile", LONG).unwrap();
    assert_eq!(for_others.map(Result::unwrap).count(), 50);
    let failed = channel.stream(COUNT_AND_FAIL, &encode(&[2, 10]), LONG).unwrap();
    assert!(failed.map(|chunk| chunk.is_ok()).eq([true, true, false]));
    let mut dropped = channel.stream(CHUNK_AND_STAY, b"", LONG).unwrap();
    dropped.next_chunk().unwrap();
    drop(dropped);
    close(&channel, LONG);
    let (told, _) = told(&path);
    let streams: Vec<&Told> = told.values().collect();
    assert_eq!(streams.len(), 6);
    for (index, chunks) in [(0, 300), (1, 300), (2, 50)] {
        assert_eq!((streams[index].chunks, streams[index].last), (chunks, Some(AnswerKind::End)));
        assert!(streams[index].got == wanted[..100 * chunks], "stream {index}");
    }
    assert_eq!((streams[4].chunks, streams[4].last), (2, Some(AnswerKind::Failed)));
    assert_eq!((streams[5].chunks, streams[5].is_cancelled), (1, true));
    assert!(streams[..5].iter().all(|told| !told.is_cancelled));
}

#[test]
fn an_error_of_a_death_comes_when_the_recording_has_its_cause() {
    let (channel, path) = spawn_recorded("record-death", Config::small());
    channel.call(ECHO, b"before", LONG).unwrap();
    let error = channel.call(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    let (_, end) = told(&path);
    let end = end.expect("the end is written before the error is told");
    assert_eq!((end.kind, end.cause), (EndKind::Died, Some(ExitCause::Signaled(libc::SIGSEGV))));
    // With all that was queued since.
    close(&channel, LONG);
    let (told, _) = told(&path);
    let last = told.values().next_back().unwrap();
    assert_eq!((last.sent.as_slice(), last.last), (&[libc::SIGSEGV as u8][..], None));
    assert!(!last.is_cancelled, "its owner has dropped it, which is no cancel");
    let last = recording::last(&path, 2, false).unwrap();
    assert!(matches!(&last[0].event, Event::Request(f) if f.payload == FramePayload::LeftOut));
    assert!(matches!(last[1].event, Event::End(_)));
}

#[test]
fn payloads_can_be_left_out_or_hashed_and_so_are_arguments_then() {
    let dir = temp_dir("record-private");
    let recording = Recording::in_dir(&dir).requests(Payloads::Hashed).replies(Payloads::Omitted);
    let channel = spawner().extra("key", "secret-value").record(recording).spawn().unwrap();
    channel.call(ECHO, b"secret-payload", LONG).unwrap();
    close(&channel, LONG);
    let path = channel.recording_path().unwrap();
    let text = std::fs::read(path).unwrap();
    assert!(!text.windows(6).any(|window| window == b"secret"));
    let reader = RecordingReader::open(path).unwrap();
    assert_eq!(reader.info().field("role"), Some("test"));
    assert_eq!(reader.info().field("arg"), None);
    assert_eq!(reader.info().config().unwrap().max_in_flight(), 1024);
    let hashes = read(path).0.into_iter().filter_map(|record| match record.event {
        Event::Request(frame) => match frame.payload {
            FramePayload::Hash(hash) => Some(hash),
            other => panic!("{other:?}"),
        },
        Event::Reply(frame) => {
            assert_eq!((frame.len, frame.payload), (14, FramePayload::LeftOut));
            None
        }
        _ => None,
    });
    let hashes: Vec<[u8; 16]> = hashes.collect();
    assert!(hashes.len() == 1 && reader.is_hash_of(hashes[0], b"secret-payload"));
}

#[test]
fn each_worker_of_a_pool_has_a_recording_of_its_own_also_after_a_death() {
    let dir = temp_dir("record-pool");
    let recorded = spawner().record(Recording::in_dir(&dir));
    let role = Role::new(move |_| Ok(recorded.clone()));
    let pool = Pool::builder().role("test", role).build().unwrap();
    let handle = pool.role("test").unwrap();
    handle.call(ECHO, b"first", LONG).unwrap();
    handle.call(EXIT, &[7], LONG).unwrap_err();
    handle.call(ECHO, b"second", LONG).unwrap();
    let counted = handle.metrics().channels;
    pool.close(LONG).unwrap();
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| std::fs::metadata(path).unwrap().created().unwrap());
    let told: Vec<_> = paths.iter().map(|path| told(path)).collect();
    let has = |index: usize, text: &[u8]| {
        told[index].0.values().any(|told| *told == answered(text.to_vec(), text.to_vec()))
    };
    assert!(has(0, b"first") && has(1, b"second"), "{told:?}");
    let cause = |index: usize| told[index].1.as_ref().unwrap().cause;
    assert_eq!((cause(0), told.len()), (Some(ExitCause::Exited(7)), 2));
    let frames: u64 = paths.iter().map(|path| frames(path)).sum();
    assert_eq!((counted.recorded_frames, counted.unrecorded_frames), (frames, 0));
}

#[test]
fn the_environment_has_a_host_record_that_knows_nothing_of_it() {
    let name = name_of(the_environment_has_a_host_record_that_knows_nothing_of_it);
    if is_rerun(name) {
        drop(spawner().spawn().unwrap());
        std::env::set_current_dir("elsewhere").unwrap();
        let channel = spawner().spawn().unwrap();
        channel.call(ECHO, b"unaware", LONG).unwrap();
        // A host that is killed leaves what was written.
        eventually("it is written", || channel.recording_stats().unwrap().records >= 2);
        send_signal(std::process::id(), libc::SIGKILL);
    }
    let dir = temp_dir("record-variable");
    std::fs::create_dir_all(dir.join("elsewhere")).unwrap();
    // Where the host was when it made its first channel.
    let mut host = rerun_command(name);
    let output = host.env("SLIPRING_RECORD", "made").current_dir(&dir).output().unwrap();
    assert!(!output.status.success());
    let files = std::fs::read_dir(dir.join("made")).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let [_, path] = &*paths else { panic!("{paths:?}: {output:?}") };
    let (told, end) = told(path);
    assert_eq!((told.len(), end), (1, None));
    assert!(told.values().all(|told| *told == answered(b"unaware".into(), b"unaware".into())));
}

#[test]
fn a_recording_that_cannot_be_made_is_an_error_of_the_spawn() {
    let refused = |spawner: Spawner| refused(&spawner).kind();
    assert_eq!(refused(spawner().record(Recording::in_dir("/proc/none"))), ErrorKind::Os);
    let short = Recording::in_dir(temp_dir("record-refused")).max_bytes(1);
    assert_eq!(refused(spawner().record(short)), ErrorKind::InvalidConfig);
}

#[test]
fn a_file_that_may_not_grow_costs_frames_and_no_call() {
    if !in_a_process_of_its_own(name_of(a_file_that_may_not_grow_costs_frames_and_no_call)) {
        return;
    }
    let (channel, path) = spawn_recorded("record-limit", Config::default());
    let limit = libc::rlimit { rlim_cur: 100_000, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live limit that is only read.
    #[allow(unsafe_code, reason = "setrlimit")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(set, 0);
    for call in 0..100 {
        // The signal of a file that is too long ends a process that does not block it.
        let bytes = pattern(call, 10_000);
        assert_eq!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
    }
    eventually("frames are lost", || channel.recording_stats().unwrap().lost_frames > 150);
    eventually("the page says so", || {
        let host = slipring::status_page::host(std::process::id()).unwrap().unwrap();
        // The page may be older than the channel.
        let Some(row) = host.rows.first() else { return false };
        let Numbers::Channel(it) = row.numbers else { panic!("{host:?}") };
        let stats = channel.recording_stats().unwrap();
        let wanted = (stats.frames, stats.lost_frames, 200, 1);
        (it.recorded_frames, it.unrecorded_frames, stats.frames + stats.lost_frames, it.is_recorded)
            == wanted
    });
    let (records, _) = read(&path);
    assert!(records.len() > 2, "{}", records.len());
}

#[test]
fn a_forked_child_drops_a_recorded_channel_without_a_wait() {
    if !in_a_process_of_its_own(name_of(a_forked_child_drops_a_recorded_channel_without_a_wait)) {
        return;
    }
    let (channel, path) = spawn_recorded("record-fork", Config::small());
    channel.call(ECHO, b"parent", LONG).unwrap();
    let mut channel = Some(channel);
    in_fork(|| {
        let channel = channel.take().unwrap();
        let is_silent = channel.recording_stats().is_none();
        drop(channel);
        is_silent
    });
    let channel = channel.unwrap();
    channel.call(ECHO, b"again", LONG).unwrap();
    close(&channel, LONG);
    assert_eq!(told(&path).0.len(), 2);
}

#[cfg(feature = "tokio")]
#[test]
fn what_tasks_send_and_get_is_recorded() {
    use slipring::tasks::AsyncChannel;
    let (channel, path) = spawn_recorded("record-tasks", Config::small());
    drop(channel);
    let dir = path.parent().unwrap();
    let spawner = spawner().config(Config::small()).record(Recording::in_dir(dir)).pollable();
    let (long, short) = (pattern(1, 60_000), pattern(2, 60));
    let path = pollster::block_on(async {
        let channel = AsyncChannel::new(spawner.spawn().unwrap()).unwrap();
        for bytes in [&long, &short] {
            assert_eq!(channel.call(ECHO, bytes, LONG).await.unwrap().to_vec(), *bytes);
        }
        let mut stream = channel.stream(COUNT, &encode(&[5, 50]), LONG).await.unwrap();
        while stream.next_chunk().await.unwrap().is_some() {}
        close(channel.blocking(), LONG);
        channel.blocking().recording_path().unwrap().to_owned()
    });
    let (told, _) = told(&path);
    let told: Vec<&Told> = told.values().collect();
    assert_eq!(*told[0], answered(long.clone(), long));
    assert_eq!(*told[1], answered(short.clone(), short));
    assert_eq!((told[2].chunks, told[2].last), (5, Some(AnswerKind::End)));
}

/// Files that another program has made, after `docs/RECORDING.md` alone.
#[test]
fn files_that_the_document_describes_are_read() {
    let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let (records, end) = read(&data("one_segment.sliprec"));
    assert_eq!((records.len(), end), (8, ReadEnd::Whole));
    let Event::Request(first) = &records[0].event else { panic!("{records:?}") };
    assert_eq!((first.kind, bytes_of(&first.payload)), (slipring::Kind::EMBED, &b"hello"[..]));
    assert_eq!(first.time_left.unwrap().as_nanos(), 9000 - 5000 - 10);
    let Event::Request(piece) = &records[2].event else { panic!("{records:?}") };
    assert!(piece.is_stream && piece.has_more && !piece.is_continued);
    let Event::Reply(chunk) = &records[4].event else { panic!("{records:?}") };
    assert_eq!(chunk.answer_kind(), Some(AnswerKind::Chunk));
    assert_eq!(records[6].event, Event::Gap { frames: 7, bytes: 700 });
    let Event::End(end) = &records[7].event else { panic!("{records:?}") };
    assert_eq!((end.cause, end.message.as_str()), (Some(ExitCause::Signaled(11)), "killed"));

    let mut reader = RecordingReader::open(data("two_segments.sliprec")).unwrap();
    assert_eq!((reader.overwritten(), reader.info().replies), (38, Payloads::Omitted));
    assert_eq!(reader.info().field("extra.dim"), Some("384"));
    let indices: Vec<u64> = reader.by_ref().map(|record| record.unwrap().index).collect();
    assert_eq!((indices, reader.end()), (vec![38, 39, 40, 41], ReadEnd::Whole));
}
