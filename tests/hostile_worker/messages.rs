//! Messages in pieces that lie or break off, and streams that send more than their credit.

use std::time::Duration;

use slipring::{Config, Error, ErrorKind};

use crate::common::*;
use crate::parent::*;

/// What becomes of a message that is read piece by piece, and then of its channel.
fn read_parts(case: &str, is_stream: bool) -> (Result<Vec<u8>, ErrorKind>, bool) {
    let channel = hostile();
    let name = format!("parts: {case}");
    let read = |mut reader: slipring::MessageReader<'_>| {
        let mut bytes = vec![9];
        let read = reader.append_to(&mut bytes);
        assert!(read.is_ok() || bytes == [9], "{case}: a part was left");
        let again = reader.append_to(&mut Vec::new());
        assert_eq!(
            again.map_err(|error| error.kind()).err(),
            read.as_ref().err().map(|e| e.kind())
        );
        read.map(|_| bytes[1..].to_vec())
    };
    let result = match is_stream {
        true => {
            let mut stream = channel.stream(CASE, &name, LONG).unwrap();
            let reader = stream.next_reader();
            reader.and_then(|reader| reader.map_or(Ok(Vec::new()), read))
        }
        false => channel.submit(CASE, &name, LONG).unwrap().wait_reader().and_then(read),
    };
    let is_usable = channel.call(HOSTILE_ECHO, b"x", LONG).is_ok();
    end(&channel, case);
    (result.map_err(|error| error.kind()), is_usable)
}

#[test]
fn a_message_that_lies_or_breaks_off_is_none_to_its_reader() {
    let _alone = one_at_a_time();
    let whole = || Ok(b"abcd".to_vec());
    for (case, expected) in [
        ("as announced", whole()),
        ("without a length", whole()),
        ("another length in the second", whole()),
        ("fewer than announced", Err(ErrorKind::Protocol)),
        ("more than announced", Err(ErrorKind::Protocol)),
        ("less than the first", Err(ErrorKind::Protocol)),
        ("an absurd length", Err(ErrorKind::Protocol)),
        ("another first piece", Err(ErrorKind::Protocol)),
        ("a whole result", Err(ErrorKind::Protocol)),
        ("a cancel", Err(ErrorKind::Cancelled)),
        ("a chunk", Err(ErrorKind::Protocol)),
    ] {
        assert_eq!(read_parts(case, false), (expected, true), "{case}");
    }
    for case in ["an end", "a short chunk", "another first piece of a chunk"] {
        assert_eq!(read_parts(case, true), (Err(ErrorKind::Protocol), true), "{case}");
    }
    assert_eq!(read_parts("a result for a chunk", true), (Err(ErrorKind::Protocol), true));
    // What no honest worker can write ends the channel.
    assert_eq!(read_parts("another kind", false), (Err(ErrorKind::PeerCorrupt), false));
    assert_eq!(read_parts("no start", true), (Err(ErrorKind::PeerCorrupt), false));
    // This one is late: the stream is dropped.
    assert_eq!(read_parts("one after the end", true), (whole(), true));
}

#[test]
fn empty_pieces_without_end_do_not_hold_their_reader() {
    let _alone = one_at_a_time();
    let channel = hostile();
    within_long("of a result", || {
        let pending = channel.submit(CASE, "empty parts without end: of a result", SHORT).unwrap();
        let read = pending.wait_reader().unwrap().append_to(&mut Vec::new());
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Protocol);
    });
    end(&channel, "of a result");
    let channel = hostile();
    within_long("of a chunk", || {
        let mut stream =
            channel.stream(CASE, "empty parts without end: of a chunk", SHORT).unwrap();
        let read = stream.next_reader().unwrap().unwrap().append_to(&mut Vec::new());
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Protocol);
    });
    end(&channel, "of a chunk");
}

#[test]
fn a_stream_reads_on_by_a_bounded_number_of_frames() {
    let _alone = one_at_a_time();
    let channel = hostile();
    let mut stream = channel.stream(CASE, "a chunk and fifty strangers", LONG).unwrap();
    // All frames are in the ring by then. With fewer frames the test shows less.
    std::thread::sleep(SHORT);
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), [7; 8]);
    let read = channel.stats().unknown_frames;
    assert!(
        read < 50,
        "{read} frames of unknown requests were read before the chunk was handed out"
    );
    drop(stream);
    channel.ping(LONG).unwrap();
    end(&channel, "fifty strangers");
}

#[test]
fn a_stream_that_ignores_its_credit_costs_bounded_memory() {
    let _alone = one_at_a_time();
    let cases =
        ["chunks without end", "chunks in pieces without end", "chunks for the credit of results"];
    for (case, is_stream) in cases.iter().flat_map(|case| [(*case, true), (*case, false)]) {
        let config = Config::builder().max_in_flight(16).max_message(1 << 20).build().unwrap();
        let channel = hostile_spawner().config(config).spawn().unwrap();
        channel.call(HOSTILE_ECHO, b"x", LONG).unwrap();
        let before = resident_kib();
        // No thread waits for these. The call below reads the ring for them.
        let (stream, pending) = match is_stream {
            true => (Some(channel.stream(CASE, case, LONG).unwrap()), None),
            false => (None, Some(channel.submit(CASE, case, LONG).unwrap())),
        };
        let mut over = Overtime::default();
        let mut call = || {
            let called = over.in_time("flood", || channel.call(HOLD, b"", SHORT).map(drop));
            let error = called.unwrap_err();
            let kinds = [ErrorKind::Timeout, ErrorKind::PeerCorrupt];
            assert!(is_one_of(&error, &kinds), "{case}: {error}");
            error
        };
        // On a slow machine it can take several calls until the parent has read so far.
        let is_found = (0..100).any(|_| call().kind() == ErrorKind::PeerCorrupt);
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 24 << 10, "{case}: {grown} KiB for a window of 2 MiB");
        assert!(is_found, "{case}");
        drop((stream, pending));
        end(&channel, "flood");
    }
    assert_others_are_untouched();
}

#[test]
fn a_stream_that_ignores_its_credit_is_found_while_a_batch_is_held() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    let config = Config::builder().max_in_flight(16).build().unwrap();
    let channel = hostile_spawner().config(config).spawn().unwrap();
    let before = resident_kib();
    let mut stream = channel.stream(CASE, "chunks without end", LONG).unwrap();
    let chunks = stream.next_chunks().unwrap().unwrap();
    // The calls read what lies behind the batch.
    let is_found = (0..100).any(|_| {
        let called = over.in_time("flood", || channel.call(HOLD, b"", SHORT).map(drop));
        called.unwrap_err().kind() == ErrorKind::PeerCorrupt
    });
    assert!(is_found);
    assert!(chunks.iter().all(|chunk| chunk.to_vec() == [7; 64]));
    drop(chunks);
    // What came before the worker had no credit is still there.
    let mut slots = 0;
    let error = loop {
        let next = || Ok::<_, Error>(stream.next_chunks()?.map(|chunks| chunks.len()));
        match over.in_time("batch", next) {
            Ok(len) => slots += 128 * len.unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "{error}");
    assert!((1..=channel.config().stream_window()).contains(&slots), "{slots} bytes");
    assert!(resident_kib().saturating_sub(before) < 24 << 10);
    assert!(stream.next_chunks().unwrap().is_none());
    assert_eq!(channel.stats().leases_held, 0);
    drop(stream);
    end(&channel, "flood");
    assert_others_are_untouched();
}

#[test]
fn a_chunk_that_had_no_credit_is_not_handed_out_in_a_batch_either() {
    let _alone = one_at_a_time();
    let config = Config::builder().max_in_flight(16).stream_window(16 << 10).build().unwrap();
    for takes_batches in [true, false] {
        let is_found = (0..50).any(|_| {
            let channel = hostile_spawner().config(config.clone()).spawn().unwrap();
            let mut stream = channel.stream(CASE, "a short chunk and a long one", LONG).unwrap();
            // Then both are there, and a reader that does not wait gives no credit in between.
            std::thread::sleep(Duration::from_millis(20));
            let mut next = || match takes_batches {
                true => Ok(stream.next_chunks()?.map(|chunks| {
                    assert_eq!(chunks.len(), 1);
                    chunks.iter().map(|chunk| chunk.len()).sum::<usize>()
                })),
                false => Ok(stream.next_chunk()?.map(|chunk| chunk.len())),
            };
            assert_eq!(next().unwrap(), Some(8));
            match next() {
                Ok(len) => {
                    assert_eq!(len, Some(20 << 10));
                    false
                }
                Err(error) => {
                    let error: Error = error;
                    assert_eq!(error.kind(), ErrorKind::PeerCorrupt, "{error}");
                    assert!(next().unwrap().is_none());
                    assert_eq!(channel.stats().leases_held, 0);
                    true
                }
            }
        });
        assert!(is_found, "{takes_batches}");
    }
    assert_others_are_untouched();
}
