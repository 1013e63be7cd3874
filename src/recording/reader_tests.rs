use super::*;
use crate::recording::format::RECORD_HEAD;
use crate::recording::options::Payloads;
use crate::recording::testing::{Memory, begin};
use crate::recording::writer::{Lost, Writer};

/// The header of a frame.
fn frame(what: u8, kind: Kind, request: u64, len: u32) -> Head {
    Head { what, kind: kind.code(), request, len, at: 1000 * request, ..Head::default() }
}

/// A record as the queue has it.
fn queued(head: Head, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    head.write(0, payload, &mut bytes);
    bytes
}

/// `count` requests with answers, each with a payload of `len` bytes.
fn write_calls(writer: &mut Writer<Memory>, calls: std::ops::Range<u64>, len: u32) {
    for call in calls {
        let payload = vec![call.to_le_bytes()[0]; as_usize(u64::from(len))];
        let mut both = queued(frame(what::REQUEST, Kind::EMBED, call, len), &payload);
        both.extend(queued(frame(what::REPLY, Kind::RESULT, call, len), &payload));
        writer.write(&both);
    }
}

fn read(bytes: Vec<u8>) -> (Vec<Record>, ReadEnd) {
    let mut reader = RecordingReader::of_bytes(bytes).unwrap();
    let records = reader.by_ref().map(Result::unwrap).collect();
    (records, reader.end())
}

#[test]
fn a_recording_that_is_cut_is_read_up_to_the_cut() {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    write_calls(&mut Writer::new(memory.clone(), info.layout), 1..5, 21);
    let whole = memory.bytes();
    let (records, end) = read(whole.clone());
    assert_eq!((records.len(), end), (8, ReadEnd::Whole));
    let first = as_usize(info.layout.first);
    let mut counts = Vec::new();
    for cut in 0..whole.len() {
        let Ok(mut reader) = RecordingReader::of_bytes(&whole[..cut]) else {
            assert!(cut < first, "the header is whole at {cut}");
            continue;
        };
        let read: Vec<Record> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(read, records[..read.len()], "cut at {cut}");
        // Behind the last record, half of the end is as good as none.
        let is_cut = matches!(reader.end(), ReadEnd::Cut(_));
        assert!(is_cut || cut < first + SEGMENT_HEAD, "cut at {cut}: {:?}", reader.end());
        counts.push(read.len());
    }
    assert!(counts.is_sorted() && counts.last() == Some(&8), "each record as soon as it is there");
}

#[test]
fn no_flipped_bit_is_taken_for_a_record() {
    let (memory, info) = begin(40 << 10, (Payloads::Whole, Payloads::Hashed));
    let mut writer = Writer::new(memory.clone(), info.layout);
    // Into the second segment.
    let calls = info.layout.segment_len / 912;
    write_calls(&mut writer, 1..calls + 3, 400);
    let whole = memory.bytes();
    let (records, _) = read(whole.clone());
    assert!(records[0].index == 0 && as_u64(whole.len()) > info.layout.start_of(2));
    let places = (0..info.layout.first + 400).chain(info.layout.start_of(2)..as_u64(whole.len()));
    for place in places.step_by(7) {
        let mut bytes = whole.clone();
        bytes[as_usize(place)] ^= 1 << (place % 8);
        let Ok(mut reader) = RecordingReader::of_bytes(bytes) else { continue };
        let mut last = None;
        for record in reader.by_ref() {
            let record = record.unwrap();
            assert!(last < Some(record.index), "in order, at {place}");
            last = Some(record.index);
            let written = &records[usize::try_from(record.index).unwrap()];
            assert!(record.event == written.event, "flipped at {place}");
        }
    }
}

#[test]
fn damage_in_the_older_segment_leaves_the_newer_one() {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    let calls = info.layout.segment_len / 8192 + 10;
    write_calls(&mut Writer::new(memory.clone(), info.layout), 0..calls, 4000);
    let mut bytes = memory.bytes();
    let all = read(bytes.clone()).0.len();
    let place = as_usize(info.layout.first) + SEGMENT_HEAD + 5000;
    bytes[place] ^= 1;
    let (records, end) = read(bytes);
    let record = as_u64(place - (5000 - 4056));
    assert_eq!(end, ReadEnd::Damaged(record));
    assert!(records.len() > 2 && records.len() < all);
    assert_eq!((records[0].index, records[0].missing), (0, 0));
    assert_eq!(records[1].missing, as_u64(all - records.len()), "what the damage has cost");
}

#[test]
fn damage_in_the_header_of_a_segment_is_told() {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    let calls = info.layout.segment_len / 8192 + 10;
    write_calls(&mut Writer::new(memory.clone(), info.layout), 0..calls, 4000);
    let whole = memory.bytes();
    for place in [1, 2].map(|segment| info.layout.start_of(segment)) {
        let mut bytes = whole.clone();
        bytes[as_usize(place) + 9] ^= 1;
        let (records, end) = read(bytes);
        assert!(!records.is_empty() && records.len() < read(whole.clone()).0.len());
        assert_eq!(end, ReadEnd::Damaged(place));
    }
    // A first segment for which there was no room on the disk is a hole.
    let mut bytes = whole;
    let start = as_usize(info.layout.first);
    bytes[start..start + SEGMENT_HEAD].fill(0);
    assert_eq!(read(bytes).1, ReadEnd::Whole);
}

#[test]
fn a_record_that_is_longer_than_any_frame_is_damage() {
    let (memory, info) = begin(1 << 40, (Payloads::Whole, Payloads::Whole));
    let mut bytes = memory.bytes();
    bytes.resize(as_usize(info.layout.first), 0);
    bytes.extend(crate::recording::format::segment_head(1, 0));
    let place = as_u64(bytes.len());
    let of = |len| {
        let mut bytes = bytes.clone();
        frame(what::REQUEST, Kind::EMBED, 1, len).write_head(1, &mut bytes);
        read(bytes).1
    };
    assert_eq!([of(1 << 29), of((1 << 29) + 1)], [ReadEnd::Cut(place), ReadEnd::Damaged(place)]);
}

#[test]
fn a_long_recording_keeps_its_end_and_its_length() {
    let limit = 256 << 10;
    let (memory, info) = begin(limit, (Payloads::Whole, Payloads::Whole));
    let mut writer = Writer::new(memory.clone(), info.layout);
    for call in 0..600 {
        write_calls(&mut writer, call..call + 1, 1000);
        if call % 97 == 0 || call > 590 {
            let bytes = memory.bytes();
            assert!(as_u64(bytes.len()) <= limit);
            let mut reader = RecordingReader::of_bytes(bytes).unwrap();
            let overwritten = reader.overwritten();
            let indices: Vec<u64> = reader.by_ref().map(|record| record.unwrap().index).collect();
            assert_eq!(reader.end(), ReadEnd::Whole);
            assert!(indices.iter().copied().eq(overwritten..2 * call + 2), "without a hole");
            let kept = as_u64(indices.len()) * 1056;
            assert!(overwritten == 0 || kept + 2000 > info.layout.segment_len, "{kept}");
        }
    }
}

#[test]
fn what_a_full_disk_has_cost_is_said_once_there_is_room() {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    let mut writer = Writer::new(memory.clone(), info.layout);
    write_calls(&mut writer, 1..3, 100);
    memory.set_limit(memory.bytes().len() + 200);
    write_calls(&mut writer, 3..6, 100);
    assert_eq!(writer.lost, Lost { frames: 6, bytes: 600 });
    let (records, _) = read(memory.bytes());
    assert!(records.len() >= 4, "what was there stays");
    memory.set_limit(usize::MAX);
    write_calls(&mut writer, 6..7, 100);
    let (records, end) = read(memory.bytes());
    assert_eq!((records.len(), end), (7, ReadEnd::Whole));
    assert_eq!(records[4].event, Event::Gap { frames: 6, bytes: 600 });
    assert!(records.is_sorted_by_key(|record| record.at), "a gap has the time of what follows it");
    assert!(records.iter().zip(0..).all(|(record, index)| record.index == index));
    assert_eq!(writer.lost, Lost { frames: 6, bytes: 600 }, "nothing is counted twice");
}

#[test]
fn hashes_tell_equal_payloads_from_others_and_lengths_are_always_known() {
    let (memory, info) = begin(1 << 20, (Payloads::Hashed, Payloads::Omitted));
    let mut writer = Writer::new(memory.clone(), info.layout);
    let head = Head { form: form::HASHED, ..frame(what::REQUEST, Kind::EMBED, 1, 6) };
    // The queue has the payload, whose hash the writer makes.
    let mut bytes = queued(Head { form: form::WHOLE, ..head }, b"secret");
    bytes[13] = form::HASHED;
    let left_out = frame(what::REPLY, Kind::RESULT, 1, 9);
    bytes.extend(queued(Head { form: form::LEFT_OUT, ..left_out }, b""));
    writer.write(&bytes);
    let file = memory.bytes();
    assert!(!file.windows(6).any(|window| window == b"secret"));
    let mut reader = RecordingReader::of_bytes(file).unwrap();
    let events: Vec<Event> = reader.by_ref().map(|record| record.unwrap().event).collect();
    let [Event::Request(request), Event::Reply(reply)] = &*events else { panic!("{events:?}") };
    let FramePayload::Hash(hash) = request.payload else { panic!("{request:?}") };
    assert!(reader.is_hash_of(hash, b"secret") && !reader.is_hash_of(hash, b"Secret"));
    assert_eq!((request.len, reply.len), (6, 9));
    assert_eq!(reply.payload, FramePayload::LeftOut);
}

#[test]
fn other_files_are_refused() {
    let (memory, info) = begin(1 << 20, (Payloads::Whole, Payloads::Whole));
    write_calls(&mut Writer::new(memory.clone(), info.layout), 1..2, 1);
    let whole = memory.bytes();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let error = RecordingReader::of_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        error.to_string()
    };
    assert!(refused(&|bytes| bytes.clear()).contains("cut"));
    assert!(refused(&|bytes| bytes[0] = 0).contains("no recording"));
    assert!(refused(&|bytes| bytes[8] = 2).contains("layout 2"));
    assert!(refused(&|bytes| bytes[12] ^= 1).contains("damaged header"));
    assert!(refused(&|bytes| bytes[43] = 0xff).contains("too long"));
    assert_eq!(RECORD_HEAD, 56, "docs/RECORDING.md says so");
}
