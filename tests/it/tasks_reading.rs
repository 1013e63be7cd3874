//! Batches of chunks, and long messages piece by piece, read by tasks.

use std::future::Future;
use std::time::Duration;

use crate::common::*;
use crate::executors::{all, nap, on_each, poll_times};
use slipring::tasks::{AsyncChannel, AsyncMessageReader, AsyncPending, AsyncStream};
use slipring::{Config, ErrorKind, Spawner};

fn plain() -> Spawner {
    spawner()
}

fn in_tiny_rings() -> Spawner {
    spawner().config(tiny(4096).build().unwrap())
}

fn start(config: Config) -> AsyncChannel {
    AsyncChannel::new(spawner().config(config).pollable().spawn().unwrap()).unwrap()
}

async fn assert_clean(channel: &AsyncChannel) {
    let bytes = pattern(channel.blocking().stats().cancels, 777);
    assert_eq!(channel.call(ECHO, &bytes, LONG).await.unwrap().to_vec(), bytes);
    let stats = channel.blocking().stats();
    assert_eq!(
        (channel.blocking().in_flight(), stats.leases_held, stats.unknown_frames),
        (0, 0, 0)
    );
}

/// Asks for chunks of these lengths, again and again.
async fn stream_of(channel: &AsyncChannel, count: u64, lens: &[u64]) -> AsyncStream {
    let request = encode(&[&[count], lens].concat());
    channel.stream(COUNT_ALL, &request, LONG).await.unwrap()
}

async fn ask(channel: &AsyncChannel, len: usize) -> AsyncPending {
    channel.submit(BIG, &encode(&[len as u64]), LONG).await.unwrap()
}

/// Takes a batch, compares its chunks from number `first` on, and returns the next number; `None`
/// at the end.
async fn batch(stream: &mut AsyncStream, first: u64, lens: &[u64]) -> Option<u64> {
    let chunks = stream.next_chunks().await.unwrap()?;
    assert!(!chunks.is_empty() && chunks.len() == chunks.iter().count());
    let mut next = first;
    for chunk in &chunks {
        let len = lens[next as usize % lens.len()];
        assert!(chunk.to_vec() == pattern(next, len as usize), "chunk {next} of {lens:?}");
        next += 1;
    }
    Some(next)
}

async fn assert_whole(mut stream: AsyncStream, from: u64, count: u64, lens: &[u64]) {
    let mut next = from;
    while let Some(after) = batch(&mut stream, next, lens).await {
        next = after;
    }
    assert_eq!(next, count, "{lens:?}");
    assert!(stream.next_chunks().await.unwrap().is_none(), "an ended stream stays ended");
}

/// Waits for `future` as an executor would, but polls it at most so often.
async fn only_polls<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let done = poll_times(polls, Duration::from_micros(50), future);
    nap(Duration::ZERO).await;
    done
}

#[test]
fn ten_thousand_chunks_come_in_batches_once_and_in_order() {
    on_each(plain, |channel| async move {
        for lens in [&[64][..], &[0], &[1, 64, 1000]] {
            let stream = stream_of(&channel, 10_000, lens).await;
            assert_whole(stream, 0, 10_000, lens).await;
            assert_clean(&channel).await;
        }
    });
}

#[test]
fn short_and_long_chunks_come_in_batches_over_both_edges_of_small_rings() {
    on_each(in_tiny_rings, |channel| async move {
        let lens = [5, 0, 500, 96, 97, 2016, 2017, 10_000, 64, 64, 64];
        assert_whole(stream_of(&channel, 600, &lens).await, 0, 600, &lens).await;
        assert_whole(stream_of(&channel, 0, &lens).await, 0, 0, &lens).await;
        assert_clean(&channel).await;
    });
}

#[test]
fn batches_single_chunks_and_readers_are_taken_in_turns() {
    on_each(in_tiny_rings, |channel| async move {
        let lens = [8, 100, 5000, 1000];
        let mut stream = stream_of(&channel, 900, &lens).await;
        let (mut next, mut bytes) = (0, Vec::new());
        while next < 800 {
            for turn in 0..3 {
                let expected = pattern(next, lens[next as usize % 4] as usize);
                match turn {
                    0 => bytes = stream.next_chunk().await.unwrap().unwrap().to_vec(),
                    _ => {
                        bytes.clear();
                        let mut reader = stream.next_reader().await.unwrap().unwrap();
                        assert_eq!(reader.message_len(), Some(expected.len()));
                        assert_eq!(reader.append_to(&mut bytes).await.unwrap(), expected.len());
                        assert!(reader.next_piece().await.unwrap().is_none(), "it stays over");
                    }
                }
                assert!(bytes == expected, "chunk {next}");
                next += 1;
            }
            next = batch(&mut stream, next, &lens).await.unwrap();
        }
        assert_whole(stream, next, 900, &lens).await;
        assert_clean(&channel).await;
    });
}

#[test]
fn a_batch_lies_in_the_ring_until_it_is_dropped_or_forgotten() {
    let channel = start(Config::small());
    pollster::block_on(async {
        let mut stream = channel.stream(COUNT, &encode(&[20_000, 100]), LONG).await.unwrap();
        let (mut taken, mut in_place) = (0, 0);
        for turn in 0.. {
            let Some(chunks) = stream.next_chunks().await.unwrap() else { break };
            taken += chunks.len();
            in_place += usize::from(channel.blocking().stats().leases_held == 1);
            match turn % 2 {
                0 => drop(chunks),
                _ => std::mem::forget(chunks),
            }
            if turn % 4 == 3 && stream.next_chunk().await.unwrap().is_some() {
                taken += 1;
            }
        }
        assert_eq!(taken, 20_000);
        assert!(in_place > 10, "{in_place}");
        assert_clean(&channel).await;
    });
}

#[test]
fn a_reader_that_pauses_holds_its_worker_at_the_window() {
    on_each(
        || spawner().config(Config::small()),
        |channel| async move {
            let window = channel.blocking().config().stream_window() as u64;
            let mut stream = channel.stream(COUNT, &encode(&[4000, 100]), LONG).await.unwrap();
            let (mut next, mut consumed) = (0, 0);
            while let Some(after) = batch(&mut stream, next, &[100]).await {
                consumed += (after - next) * 192;
                next = after;
                if next % 7 == 0 {
                    nap(Duration::from_millis(2)).await;
                    let sent = channel.blocking().health().bytes_sent / 100 * 192;
                    assert!(sent <= consumed + window, "{sent} bytes, {consumed} consumed");
                }
            }
            assert_eq!(next, 4000);
            assert_clean(&channel).await;
        },
    );
}

#[test]
fn a_reply_of_any_length_is_read_by_tasks_in_every_way() {
    on_each(in_tiny_rings, |channel| async move {
        for len in [0, 1, 96, 2016, 2017, 5000, 100_000] {
            let expected = pattern(7, len);
            let mut reader = ask(&channel, len).await.wait_reader().await.unwrap();
            assert_eq!(reader.message_len(), Some(len));
            let mut bytes = Vec::new();
            while let Some(piece) = reader.next_piece().await.unwrap() {
                bytes.extend(piece.into_vec());
            }
            assert!(bytes == expected, "{len}: pieces");
            assert!(reader.next_piece().await.unwrap().is_none(), "an end stays one");

            let mut reader = ask(&channel, len).await.wait_reader().await.unwrap();
            let error = reader.copy_to(&mut vec![0; len + 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPayload);
            bytes.fill(0);
            reader.copy_to(&mut bytes).await.unwrap();
            assert!(bytes == expected, "{len}: into a slice");

            let (mut reader, mut part) =
                (ask(&channel, len).await.wait_reader().await.unwrap(), [0; 777]);
            bytes.clear();
            while let more @ 1.. = reader.read(&mut part).await.unwrap() {
                bytes.extend_from_slice(&part[..more]);
                if let Some(piece) = reader.next_piece().await.unwrap() {
                    bytes.extend(piece.into_vec());
                }
            }
            assert!(bytes == expected, "{len}: mixed");
        }
        assert_clean(&channel).await;
    });
}

/// Reads a message with futures that are dropped after so many polls.
async fn read_in_fits(reader: &mut AsyncMessageReader<'_>, polls: usize) -> Vec<u8> {
    let mut bytes = vec![1, 2, 3];
    for turn in 0.. {
        let rest = reader.message_len().unwrap() + 3 - bytes.len();
        match turn % 4 {
            0 => {
                let before = bytes.len();
                if only_polls(polls, reader.append_to(&mut bytes)).await.is_some() {
                    break;
                }
                assert_eq!(bytes.len(), before, "nothing was taken");
            }
            1 => {
                let mut out = vec![0; rest];
                if let Some(copied) = only_polls(polls, reader.copy_to(&mut out)).await {
                    copied.unwrap();
                    bytes.extend(out);
                    break;
                }
            }
            2 => {
                let mut out = [0; 1000];
                let read = only_polls(polls, reader.read(&mut out)).await;
                bytes.extend(&out[..read.map_or(0, Result::unwrap)]);
            }
            _ => {
                if let Some(piece) = only_polls(polls, reader.next_piece()).await {
                    bytes.extend(piece.unwrap().map_or(vec![], |piece| piece.into_vec()));
                }
            }
        }
    }
    assert!(reader.next_piece().await.unwrap().is_none());
    bytes.split_off(3)
}

#[test]
fn a_read_that_is_dropped_after_any_number_of_polls_has_taken_nothing() {
    let channel = start(tiny(4096).build().unwrap());
    pollster::block_on(async {
        for polls in 0..30 {
            let mut reader = ask(&channel, 40_000).await.wait_reader().await.unwrap();
            // Without a poll nothing ever comes.
            let _ = only_polls(0, reader.append_to(&mut Vec::new())).await;
            let read = read_in_fits(&mut reader, polls.max(1)).await;
            assert!(read == pattern(7, 40_000), "{polls} polls");
            drop(reader);

            let lens = [9000, 10, 40_000];
            let mut stream = stream_of(&channel, 6, &lens).await;
            for index in 0..6 {
                // Dropped before it is ready, and tried again in another way.
                let expected = pattern(index, lens[index as usize % 3] as usize);
                let reader = only_polls(polls % 3, stream.next_reader()).await;
                if let Some(reader) = reader {
                    let read = read_in_fits(&mut reader.unwrap().unwrap(), polls.max(1)).await;
                    assert!(read == expected, "chunk {index}, {polls} polls");
                    continue;
                }
                drop(reader);
                let chunk = stream.next_chunk().await.unwrap().unwrap();
                assert!(chunk.to_vec() == expected, "chunk {index}, whole");
            }
            assert!(stream.next_reader().await.unwrap().is_none());
            assert_clean(&channel).await;
        }
    });
}

#[test]
fn batches_that_are_not_awaited_to_their_end_are_not_lost() {
    on_each(plain, |channel| async move {
        let request = encode(&[300, 60, 20]);
        let mut stream = channel.stream(TRICKLE, &request, LONG).await.unwrap();
        let mut next = 0;
        while next < 60 {
            // The future is dropped after one poll.
            match only_polls(1, stream.next_chunks()).await {
                Some(chunks) => {
                    for chunk in &chunks.unwrap().unwrap() {
                        assert_eq!(chunk.to_vec(), pattern(next, 20));
                        next += 1;
                    }
                }
                None => nap(Duration::from_micros(100)).await,
            }
        }
        assert!(stream.next_chunks().await.unwrap().is_none());
        assert_clean(&channel).await;
    });
}

#[test]
fn a_reader_that_a_task_drops_half_way_frees_the_worker_and_the_ring() {
    on_each(in_tiny_rings, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[40, 50_000]), LONG).await.unwrap();
        for index in 0..40 {
            let mut reader = stream.next_reader().await.unwrap().unwrap();
            let piece = reader.next_piece().await.unwrap().unwrap();
            assert!(pattern(index, 50_000).starts_with(&piece.to_vec()), "chunk {index}");
        }
        assert!(stream.next_reader().await.unwrap().is_none());
        for _ in 0..9 {
            let mut reader = ask(&channel, 200_000).await.wait_reader().await.unwrap();
            assert!(reader.next_piece().await.unwrap().is_some());
            drop(reader);
            assert_clean(&channel).await;
        }
        // One whose last piece had come by then, read by the driver, has nothing to cancel.
        assert!(channel.blocking().stats().cancels > 0, "none was cancelled");
    });
}

#[test]
fn a_task_that_reads_long_messages_slowly_holds_up_no_other() {
    on_each(
        || small().env(THREADS, "yes"),
        |channel| async move {
            let mut reader = ask(&channel, 200_000).await.wait_reader().await.unwrap();
            let mut stream = channel.stream(COUNT, &encode(&[2, 200_000]), LONG).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(piece) = reader.next_piece().await.unwrap() {
                bytes.extend(piece.into_vec());
                nap(Duration::from_millis(1)).await;
                assert_eq!(channel.call(ECHO, &[7; 50], LONG).await.unwrap().to_vec(), [7; 50]);
            }
            assert!(bytes == pattern(7, 200_000));
            for index in 0..2 {
                bytes.clear();
                let (mut reader, mut part) =
                    (stream.next_reader().await.unwrap().unwrap(), [0; 3000]);
                while let more @ 1.. = reader.read(&mut part).await.unwrap() {
                    bytes.extend_from_slice(&part[..more]);
                    nap(Duration::from_micros(300)).await;
                }
                assert!(bytes == pattern(index, 200_000), "chunk {index}");
            }
            assert!(stream.next_reader().await.unwrap().is_none());
            assert_clean(&channel).await;
        },
    );
}

#[test]
fn streams_readers_and_calls_of_many_tasks_do_not_get_mixed_up() {
    on_each(
        || small().env(THREADS, "yes"),
        |channel| async move {
            let tasks = (0..9_u64).map(|task| {
                let channel = channel.clone();
                async move {
                    let lens = [64, 10, 30_000, 500];
                    match task % 3 {
                        0 => {
                            let stream = stream_of(&channel, 400, &lens).await;
                            assert_whole(stream, 0, 400, &lens).await;
                        }
                        1 => {
                            let mut stream = stream_of(&channel, 40, &lens).await;
                            for index in 0..40 {
                                let mut out = vec![0; lens[index as usize % 4] as usize];
                                let mut reader = stream.next_reader().await.unwrap().unwrap();
                                reader.copy_to(&mut out).await.unwrap();
                                assert!(out == pattern(index, out.len()), "chunk {index}");
                            }
                        }
                        _ => {
                            for len in [100_000, 10, 70_000] {
                                let reader = ask(&channel, len).await.wait_reader().await;
                                let mut bytes = Vec::new();
                                reader.unwrap().append_to(&mut bytes).await.unwrap();
                                assert!(bytes == pattern(7, len));
                                let request = pattern(task, 900);
                                let reply = channel.call(ECHO, &request, LONG).await.unwrap();
                                assert!(reply.to_vec() == request);
                            }
                        }
                    }
                }
            });
            all(tasks.collect()).await;
            assert_clean(&channel).await;
        },
    );
}

#[test]
fn a_thread_and_a_task_read_at_the_same_time() {
    let channel = start(Config::small());
    let calls = std::thread::spawn({
        let channel = channel.clone();
        move || {
            let mut calls = 0;
            while channel.blocking().in_flight() > 0 || calls < 10 {
                assert_usable(channel.blocking());
                calls += 1;
            }
        }
    });
    pollster::block_on(async {
        for _ in 0..5 {
            let lens = [64, 0, 30_000];
            let mut stream = stream_of(&channel, 300, &lens).await;
            let mut next = 0;
            while next < 250 {
                next = batch(&mut stream, next, &lens).await.unwrap();
                let mut reader = stream.next_reader().await.unwrap().unwrap();
                let mut bytes = Vec::new();
                reader.append_to(&mut bytes).await.unwrap();
                assert!(bytes == pattern(next, lens[next as usize % 3] as usize));
                next += 1;
            }
            assert_whole(stream, next, 300, &lens).await;
        }
    });
    calls.join().unwrap();
}

/// Begins to read a message whose end does not come, and holds no piece.
async fn begun(channel: &AsyncChannel) -> AsyncMessageReader<'static> {
    let pending = channel.submit(HALF_A_REPLY, b"", LONG).await.unwrap();
    let mut reader = pending.wait_reader().await.unwrap();
    assert!(reader.next_piece().await.unwrap().is_some());
    reader
}

async fn assert_breaks_off(reader: &mut AsyncMessageReader<'_>, kind: ErrorKind) {
    assert!(breaks_off(reader, kind).await, "the message is whole");
}

/// Whether the message is not whole: then all ways to read it tell of that.
async fn breaks_off(reader: &mut AsyncMessageReader<'_>, kind: ErrorKind) -> bool {
    let mut bytes = vec![1, 2, 3];
    let Err(error) = reader.append_to(&mut bytes).await else { return false };
    assert_eq!((error.kind(), bytes.len()), (kind, 3), "{error}");
    assert_eq!(reader.next_piece().await.unwrap_err().kind(), kind, "again");
    assert_eq!(reader.copy_to(&mut [0; 3]).await.unwrap_err().kind(), kind);
    assert_eq!(reader.read(&mut [0]).await.unwrap_err().kind(), kind);
    true
}

#[test]
fn a_death_in_the_middle_of_what_a_task_reads_is_no_end_of_it() {
    on_each(in_tiny_rings, |channel| async move {
        let mut reader = begun(&channel).await;
        send_signal(channel.blocking().pid(), libc::SIGKILL);
        assert_breaks_off(&mut reader, ErrorKind::PeerDied).await;
    });
    on_each(in_tiny_rings, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[9, 1 << 20]), LONG).await.unwrap();
        let mut reader = stream.next_reader().await.unwrap().unwrap();
        assert!(reader.next_piece().await.unwrap().is_some());
        send_signal(channel.blocking().pid(), libc::SIGKILL);
        assert_breaks_off(&mut reader, ErrorKind::PeerDied).await;
        drop(reader);
        assert!(stream.next_chunks().await.unwrap().is_none(), "the stream is over");
    });
    on_each(plain, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 100]), LONG).await.unwrap();
        let mut next = batch(&mut stream, 0, &[100]).await.unwrap();
        send_signal(channel.blocking().pid(), libc::SIGKILL);
        let error = loop {
            match stream.next_chunks().await {
                Ok(chunks) => {
                    for chunk in &chunks.unwrap() {
                        assert!(chunk.to_vec() == pattern(next, 100), "chunk {next}");
                        next += 1;
                    }
                }
                Err(error) => break error,
            }
        };
        assert!(error.is_peer_dead(), "{error}");
        assert!(stream.next_chunks().await.unwrap().is_none());
    });
}

#[test]
fn a_close_in_the_middle_of_what_a_task_reads_is_no_end_of_it() {
    on_each(in_tiny_rings, |channel| async move {
        let mut reader = begun(&channel).await;
        channel.close(LONG).await.unwrap();
        assert_breaks_off(&mut reader, ErrorKind::Closed).await;
    });
    on_each(plain, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 100]), LONG).await.unwrap();
        let chunks = stream.next_chunks().await.unwrap().unwrap();
        channel.close(LONG).await.unwrap();
        for (number, chunk) in chunks.iter().enumerate() {
            assert!(chunk.to_vec() == pattern(number as u64, 100), "{number}");
        }
        drop(chunks);
        assert_eq!(stream.next_chunks().await.unwrap_err().kind(), ErrorKind::Closed);
        assert!(stream.next_chunks().await.unwrap().is_none());
    });
}

#[test]
fn a_worker_that_stops_in_the_middle_of_a_message_is_a_timeout_for_tasks() {
    on_each(in_tiny_rings, |channel| async move {
        let timeout = Duration::from_millis(800);
        let pending = channel.submit(HALF_A_REPLY, b"", timeout).await.unwrap();
        let mut reader = pending.wait_reader().await.unwrap();
        assert!(reader.next_piece().await.unwrap().is_some());
        stop(channel.blocking().pid());
        assert_breaks_off(&mut reader, ErrorKind::Timeout).await;
        send_signal(channel.blocking().pid(), libc::SIGCONT);
        drop(reader);
        assert_clean(&channel).await;

        let mut stream = channel.stream(COUNT, &encode(&[1, 100_000]), timeout).await.unwrap();
        let mut reader = stream.next_reader().await.unwrap().unwrap();
        assert!(reader.next_piece().await.unwrap().is_some());
        stop(channel.blocking().pid());
        if !breaks_off(&mut reader, ErrorKind::Stalled).await {
            return println!("not in the middle: the library's thread had read all of it");
        }
        drop(reader);
        send_signal(channel.blocking().pid(), libc::SIGCONT);
        assert!(stream.next_chunks().await.unwrap().is_none(), "the stream is over");
        drop(stream);
        assert_clean(&channel).await;

        let mut silent = channel.stream(UNTIL_CANCELLED, b"", timeout / 8).await.unwrap();
        assert_eq!(silent.next_chunks().await.unwrap_err().kind(), ErrorKind::Stalled);
        drop(silent);
        assert_clean(&channel).await;
    });
}

#[test]
fn the_errors_that_end_what_a_task_reads_are_those_of_the_blocking_view() {
    on_each(in_tiny_rings, |channel| async move {
        let mut stream = channel.stream(COUNT, &encode(&[1 << 40, 100]), LONG).await.unwrap();
        assert!(batch(&mut stream, 0, &[100]).await.is_some());
        stream.cancel();
        let error = loop {
            match stream.next_chunks().await {
                Ok(chunks) => drop(chunks.unwrap()),
                Err(error) => break error,
            }
        };
        assert!(error.is_cancelled());
        drop(stream);
        for (count, len) in [(0, 0), (1, 10), (100, 1000), (7, 40_000)] {
            let request = encode(&[count, len]);
            let mut stream = channel.stream(COUNT_AND_FAIL, &request, LONG).await.unwrap();
            let mut next = 0;
            while next < count {
                next = batch(&mut stream, next, &[len]).await.unwrap();
            }
            let error = stream.next_chunks().await.unwrap_err();
            assert_eq!(error.handler_failure().unwrap().message, "after all chunks");
            assert!(stream.next_reader().await.unwrap().is_none());
        }
        let failed = channel.submit(FAIL, "no", LONG).await.unwrap().wait_reader().await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::HandlerFailed);
        let wrong = channel.submit(STREAM_ANYHOW, "", LONG).await.unwrap().wait_reader().await;
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Protocol);
        let mut stream = channel.stream(BIG, &encode(&[100_000]), LONG).await.unwrap();
        assert_eq!(stream.next_reader().await.unwrap_err().kind(), ErrorKind::Protocol);
        let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).await.unwrap();
        pending.cancel();
        assert!(pending.wait_reader().await.unwrap_err().is_cancelled());
        assert_clean(&channel).await;
    });
}
