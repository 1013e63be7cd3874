//! Long replies and chunks that are read piece by piece.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::payload::{Matrix, MatrixRows};
use slipring::{Channel, Config, ErrorKind, MessageReader, Pending, StreamTimeouts};

conformance! {
    everywhere: [
        a_reply_of_any_length_is_read_in_every_way,
        chunks_are_read_piece_by_piece_whole_and_half_in_any_order,
        a_chunk_that_is_dropped_half_way_frees_its_worker_and_the_ring,
        a_reply_that_is_dropped_half_way_is_cancelled,
        pieces_that_another_thread_has_read_come_in_their_place,
        what_another_thread_has_read_of_a_dropped_chunk_is_dropped,
        a_reader_that_pauses_between_pieces_holds_up_no_other_request,
        a_matrix_comes_out_of_the_pieces_row_by_row,
        an_error_in_the_middle_of_a_message_is_no_end_of_it,
        a_close_in_the_middle_of_a_message_is_no_end_of_it,
        a_stream_without_chunks_has_no_reader,
        a_slice_of_another_length_is_refused,
    ],
    one_at_a_time: [
        // Its handler needs a writer, which only serial handlers have.
        a_reply_without_a_length_is_read_to_its_end,
    ],
    processes: [
        a_death_in_the_middle_of_a_message_is_no_end_of_it,
        a_worker_that_stops_in_the_middle_of_a_message_is_a_timeout,
        what_another_thread_has_read_of_a_result_is_no_part_of_a_chunk,
    ],
}

fn configs() -> [Config; 3] {
    [tiny(4 << 10).build().unwrap(), Config::small(), Config::default()]
}

fn lengths(config: &Config) -> [usize; 9] {
    let (frame, window) = (config.max_reply_frame(), config.stream_window());
    let most = config.max_message().min(3 << 20);
    [0, 1, 96, 1000, frame, frame + 1, 2 * frame + 7, window + 1, most.min(3 * window + 5)]
}

fn ask(channel: &Channel, len: usize) -> Pending {
    channel.submit(BIG, &encode(&[len as u64]), LONG).unwrap()
}

fn pieces(reader: &mut MessageReader<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next_piece().unwrap() {
        bytes.extend(piece.into_vec());
    }
    bytes
}

fn a_reply_of_any_length_is_read_in_every_way(backend: Backend) {
    for config in configs() {
        let channel = backend.spawn(config);
        let mut kept = Vec::new();
        for len in lengths(channel.config()) {
            let expected = pattern(7, len);
            let mut reader = ask(&channel, len).wait_reader().unwrap();
            assert_eq!(reader.message_len(), Some(len));
            assert!(pieces(&mut reader) == expected, "{len}: pieces");
            assert!(reader.next_piece().unwrap().is_none(), "an end stays one");
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);

            let mut out = vec![0; len];
            ask(&channel, len).wait_reader().unwrap().copy_to(&mut out).unwrap();
            assert!(out == expected, "{len}: into a slice");

            kept.clear();
            let mut reader = ask(&channel, len).wait_reader().unwrap();
            assert_eq!(reader.append_to(&mut kept).unwrap(), len);
            assert!(kept == expected, "{len}: into a vector");

            // A part by itself, a piece, and the rest.
            let mut reader = ask(&channel, len).wait_reader().unwrap();
            let mut some = vec![0; len.min(700)];
            reader.read_exact(&mut some).unwrap();
            some.extend(
                reader.next_piece().unwrap().map(|piece| piece.to_vec()).unwrap_or_default(),
            );
            reader.read_to_end(&mut some).unwrap();
            assert!(some == expected, "{len}: mixed");

            let mut slow = Vec::new();
            let mut reader = ask(&channel, len).wait_reader().unwrap();
            let mut part = [0; 777];
            while let more @ 1.. = reader.read(&mut part).unwrap() {
                slow.extend_from_slice(&part[..more]);
            }
            assert!(slow == expected, "{len}: by `Read`");
        }
        assert_eq!(channel.in_flight(), 0);
        assert_usable(&channel);
        let stats = channel.stats();
        assert_eq!((stats.late_frames, stats.unknown_frames, stats.leases_held), (0, 0, 0));
    }
}

fn chunks_are_read_piece_by_piece_whole_and_half_in_any_order(backend: Backend) {
    for config in configs() {
        let channel = backend.spawn(config);
        for len in lengths(channel.config()) {
            let mut stream = channel.stream(COUNT, &encode(&[9, len as u64]), LONG).unwrap();
            for index in 0..9 {
                let expected = pattern(index, len);
                if index % 3 == 1 {
                    let chunk = stream.next_chunk().unwrap().unwrap();
                    assert!(chunk.to_vec() == expected, "chunk {index} of {len} bytes, whole");
                    continue;
                }
                let mut reader = stream.next_reader().unwrap().unwrap();
                if index % 3 == 0 {
                    assert!(pieces(&mut reader) == expected, "chunk {index} of {len} bytes");
                } else {
                    // Dropped with a part of it read.
                    let mut part = vec![0; len / 3];
                    reader.read_exact(&mut part).unwrap();
                    assert!(part == expected[..len / 3], "a part of chunk {index}, {len} bytes");
                }
            }
            assert!(stream.next_reader().unwrap().is_none());
            assert!(stream.next_chunk().unwrap().is_none());
        }
        assert_usable(&channel);
    }
}

fn a_chunk_that_is_dropped_half_way_frees_its_worker_and_the_ring(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message();
    let mut stream = channel.stream(COUNT, &encode(&[50, len as u64]), LONG).unwrap();
    for index in 0..50 {
        let mut reader = stream.next_reader().unwrap().unwrap();
        let piece = reader.next_piece().unwrap().unwrap();
        let expected = pattern(index, len);
        assert!(piece.to_vec() == expected[..piece.len()], "chunk {index}");
    }
    assert!(stream.next_reader().unwrap().is_none());
    assert_usable(&channel);
}

fn a_reply_that_is_dropped_half_way_is_cancelled(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message();
    for round in 1..20 {
        let mut reader = ask(&channel, len).wait_reader().unwrap();
        let piece = reader.next_piece().unwrap().unwrap();
        assert!(piece.to_vec() == pattern(7, len)[..piece.len()]);
        drop((reader, piece));
        assert_eq!(channel.in_flight(), 0);
        assert_usable(&channel);
        assert_eq!(channel.stats().cancels, round);
    }
}

fn pieces_that_another_thread_has_read_come_in_their_place(backend: Backend) {
    for config in configs() {
        let channel = backend.spawn(config);
        for len in lengths(channel.config()) {
            let expected = pattern(7, len);
            for taken in 0..3 {
                let pending = ask(&channel, len);
                if taken == 0 {
                    // Reads the reply, which comes first.
                    assert_usable(&channel);
                }
                let mut reader = pending.wait_reader().unwrap();
                let mut bytes = Vec::new();
                for _ in 0..taken {
                    bytes.extend(reader.next_piece().unwrap().map_or(vec![], |p| p.into_vec()));
                }
                if taken > 0 {
                    // Before, the reader may hold its first piece, which would hold up the call.
                    assert_usable(&channel);
                }
                bytes.extend(reader.next_piece().unwrap().map_or(vec![], |p| p.into_vec()));
                assert_usable(&channel);
                reader.append_to(&mut bytes).unwrap();
                assert!(bytes == expected, "{len} bytes, {taken} pieces first");

                let mut stream = channel.stream(COUNT, &encode(&[1, len as u64]), LONG).unwrap();
                let mut reader = stream.next_reader().unwrap().unwrap();
                let mut bytes = Vec::new();
                // At least one: a piece that is held would hold up the call.
                for _ in 0..taken.max(1) {
                    bytes.extend(reader.next_piece().unwrap().map_or(vec![], |p| p.into_vec()));
                }
                assert_usable(&channel);
                reader.append_to(&mut bytes).unwrap();
                assert!(bytes == pattern(0, len), "a chunk of {len} bytes, {taken} pieces first");
                drop(reader);
                assert!(stream.next_reader().unwrap().is_none());
            }
        }
    }
}

fn what_another_thread_has_read_of_a_dropped_chunk_is_dropped(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let timeout = Duration::from_millis(5);
    let len = 3 * channel.config().stream_window();
    let look = || {
        // Waits behind the stream, and reads its pieces meanwhile.
        let _ = channel.submit(ECHO, b"x", timeout).and_then(Pending::wait);
    };
    let mut stream = channel.stream(COUNT, &encode(&[12, len as u64]), LONG).unwrap();
    for index in 0..12 {
        let expected = pattern(index, len);
        let mut reader = stream.next_reader().unwrap().unwrap();
        let piece = reader.next_piece().unwrap().unwrap();
        assert!(expected.starts_with(&piece.to_vec()), "chunk {index}");
        drop(piece);
        if index % 2 == 0 {
            look();
        }
        if index % 3 == 0 {
            // None if the whole chunk had come before.
            let _ = reader.read(&mut [0; 10]).unwrap();
        }
        drop(reader);
        if index % 4 < 2 {
            look();
        }
    }
    assert!(stream.next_chunk().unwrap().is_none());
    assert_usable(&channel);
}

fn a_reader_that_pauses_between_pieces_holds_up_no_other_request(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message();
    let mut reader = ask(&channel, len).wait_reader().unwrap();
    let mut bytes = reader.next_piece().unwrap().unwrap().into_vec();
    for _ in 0..300 {
        assert_usable(&channel);
    }
    reader.append_to(&mut bytes).unwrap();
    assert!(bytes == pattern(7, len));
}

fn a_matrix_comes_out_of_the_pieces_row_by_row(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let (rows, cols) = (40, 1000);
    let values: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
    let matrix = Matrix::f32(rows, cols, &values).unwrap();
    let ask = || channel.submit(ECHO, &matrix, LONG).unwrap().wait_reader().unwrap();
    let mut rows_of = MatrixRows::new(ask()).unwrap();
    let mut row = vec![0.0; cols];
    for expected in values.chunks(cols) {
        rows_of.copy_rows(&mut row).unwrap();
        assert!(row == expected);
    }
    let mut all = vec![0.0; rows * cols];
    MatrixRows::new(ask()).unwrap().copy_rows(&mut all).unwrap();
    assert!(all == values);
    assert_usable(&channel);
}

/// Begins to read a message that is longer than the ring, and holds no piece.
fn begun(channel: &Channel) -> MessageReader<'static> {
    let mut reader = ask(channel, channel.config().max_message()).wait_reader().unwrap();
    assert!(reader.next_piece().unwrap().is_some());
    reader
}

fn assert_breaks_off(reader: &mut MessageReader<'_>, kind: ErrorKind) {
    let mut bytes = vec![1, 2, 3];
    let error = reader.append_to(&mut bytes).unwrap_err();
    assert_eq!((error.kind(), bytes.len()), (kind, 3), "{error}");
    assert_eq!(reader.next_piece().unwrap_err().kind(), kind, "again");
    assert_eq!(reader.copy_to(&mut [0; 3]).unwrap_err().kind(), kind, "whatever is wanted");
    assert!(reader.read(&mut [0]).is_err());
}

fn an_error_in_the_middle_of_a_message_is_no_end_of_it(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message();
    let mut stream = channel.stream(CHUNK_THEN_OTHER_ERROR, &encode(&[len as u64]), LONG).unwrap();
    stream.cancel();
    // The cancel may come before the first piece, and after the last.
    let mut bytes = Vec::new();
    let read = match stream.next_reader() {
        Ok(Some(mut reader)) => reader.append_to(&mut bytes).map(drop),
        other => other.map(drop),
    };
    assert!(read.is_err() || bytes == pattern(0, len));
    if read.is_ok() {
        let error = stream.next_reader().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    }
    assert!(stream.next_reader().unwrap().is_none(), "the stream is over");

    // A worker that is never out of room sends the whole message in spite of the abort.
    let is_cut_off = (0..1000).any(|_| {
        let mut reader = begun(&channel);
        channel.abort();
        let mut rest = Vec::new();
        let read = reader.append_to(&mut rest);
        channel.clear_abort();
        match read {
            Ok(read) => {
                assert!(pattern(7, len).ends_with(&rest) && read == rest.len());
                false
            }
            Err(error) => {
                assert_eq!((error.kind(), rest.len()), (ErrorKind::Cancelled, 0), "{error}");
                assert_breaks_off(&mut reader, ErrorKind::Cancelled);
                true
            }
        }
    });
    assert!(is_cut_off, "never in the middle of a message");
    assert_usable(&channel);
}

fn a_close_in_the_middle_of_a_message_is_no_end_of_it(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut reader = begun(&channel);
    channel.close(LONG).unwrap();
    assert_breaks_off(&mut reader, ErrorKind::Closed);
}

fn a_stream_without_chunks_has_no_reader(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut stream = channel.stream(COUNT, &encode(&[0, 0]), LONG).unwrap();
    assert!(stream.next_reader().unwrap().is_none());
    let mut stream = channel.stream(BIG, &encode(&[100_000]), LONG).unwrap();
    assert_eq!(stream.next_reader().unwrap_err().kind(), ErrorKind::Protocol);
    let pending = channel.submit(STREAM_ANYHOW, "", LONG).unwrap();
    assert_eq!(pending.wait_reader().unwrap_err().kind(), ErrorKind::Protocol);
    let pending = channel.submit(FAIL, "no", LONG).unwrap();
    assert_eq!(pending.wait_reader().unwrap_err().kind(), ErrorKind::HandlerFailed);
    assert_usable(&channel);
}

fn a_slice_of_another_length_is_refused(backend: Backend) {
    let channel = backend.spawn(Config::small());
    for len in [10, 50_000] {
        let mut reader = ask(&channel, len).wait_reader().unwrap();
        for wrong in [0, len - 1, len + 1] {
            let error = reader.copy_to(&mut vec![0; wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPayload, "{error}");
        }
        // Nothing was read.
        assert!(pieces(&mut reader) == pattern(7, len));
    }
}

fn a_reply_without_a_length_is_read_to_its_end(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let frame = channel.config().max_reply_frame();
    let mut kept = Vec::new();
    for len in [0, 1, frame - 1, frame, frame + 1, 3 * frame, channel.config().max_message()] {
        let (expected, is_long) = (pattern(7, len), len > frame);
        let write = || {
            let asked = encode(&[len as u64, 777]);
            channel.submit(WRITE, &asked, LONG).unwrap().wait_reader().unwrap()
        };
        let mut reader = write();
        assert_eq!(reader.message_len(), (!is_long).then_some(len), "{len}");
        assert!(pieces(&mut reader) == expected, "{len}: pieces");
        kept.clear();
        assert_eq!(write().append_to(&mut kept).unwrap(), len);
        assert!(kept == expected, "{len}: into a vector");
        let mut out = vec![0; len];
        write().copy_to(&mut out).unwrap();
        assert!(out == expected, "{len}: into a slice");
        // It is neither cut off nor filled up.
        for wrong in [len.checked_sub(1), Some(len + 1)].into_iter().flatten() {
            let error = write().copy_to(&mut vec![0; wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPayload, "{len}: {error}");
        }
    }
    assert_usable(&channel);

    let pending = channel.submit(WRITE_WHEN_CANCELLED, "", LONG).unwrap();
    pending.cancel();
    // The writer of this one fails at its first full frame.
    assert!(pending.wait_reader().is_err());
    assert_usable(&channel);
}

fn a_death_in_the_middle_of_a_message_is_no_end_of_it(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let mut reader = begun(&channel);
    send_signal(channel.pid(), libc::SIGKILL);
    channel.wait_exit(LONG).unwrap();
    assert_breaks_off(&mut reader, ErrorKind::PeerDied);
}

/// Stops the worker, and waits until it has stopped.
fn stop(channel: &Channel) {
    send_signal(channel.pid(), libc::SIGSTOP);
    let stat = format!("/proc/{}/stat", channel.pid());
    let is_stopped = || fs::read_to_string(&stat).unwrap().contains(") T ");
    while !is_stopped() {
        std::thread::yield_now();
    }
}

fn a_worker_that_stops_in_the_middle_of_a_message_is_a_timeout(backend: Backend) {
    let channel = backend.spawn(Config::small());
    let len = channel.config().max_message() as u64;
    channel.wait_ready(LONG).unwrap();
    let timeout = Duration::from_millis(300);
    let start = Instant::now();
    // A worker of a busy machine may not send the first piece in time.
    let submit = || channel.submit(BIG, &encode(&[len]), timeout).unwrap().wait_reader();
    let mut reader = loop {
        match submit() {
            Ok(reader) => break reader,
            Err(error) => assert!(error.is_timeout() && start.elapsed() < LONG, "{error}"),
        }
    };
    stop(&channel);
    assert_breaks_off(&mut reader, ErrorKind::Timeout);
    assert!(start.elapsed() >= timeout);
    send_signal(channel.pid(), libc::SIGCONT);
    assert_usable(&channel);

    let timeouts = StreamTimeouts::from(timeout).first_chunk(LONG);
    let mut stream = channel.stream(COUNT, &encode(&[1, len]), timeouts).unwrap();
    let mut reader = stream.next_reader().unwrap().unwrap();
    stop(&channel);
    assert_breaks_off(&mut reader, ErrorKind::Stalled);
    drop(reader);
    assert!(stream.next_reader().unwrap().is_none(), "it is over");
    send_signal(channel.pid(), libc::SIGCONT);
    assert_usable(&channel);
}

fn what_another_thread_has_read_of_a_result_is_no_part_of_a_chunk(backend: Backend) {
    let channel = backend.spawn(tiny(4 << 10).build().unwrap());
    let mut stream = channel.stream(BIG, &encode(&[100_000]), LONG).unwrap();
    // A piece is counted just before it is in the ring: the first is there when the second is counted.
    let piece = channel.config().max_reply_frame() as u64;
    eventually("the first piece is in the ring", || channel.health().bytes_sent > piece);
    stop(&channel);
    // It reads them before its time is up.
    let late = channel.call(ECHO, b"", Duration::from_millis(50)).unwrap_err();
    assert!(late.is_timeout(), "{late}");
    let read = stream.next_reader();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Protocol);
    send_signal(channel.pid(), libc::SIGCONT);
    drop(stream);
    assert_usable(&channel);
}
