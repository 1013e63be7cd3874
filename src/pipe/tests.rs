//! Both ends in one process, and what a peer that writes anything can do to the other one.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use super::layout::{ChunkHeader, Direction, PAGE, SMALLEST, longest_chunk};
use super::*;
use crate::error::ErrorKind;
use crate::shm::byte_ring::initialized;
use crate::shm::bytes::PeerBytes;
use crate::shm::shared_map;
use crate::sys::fd::{Ready, wait_ready};
use crate::sys::memfd;
use crate::sys::memfd::SEALS_UP;

const CAPACITY: usize = 4096;
const LONG: Duration = Duration::from_secs(20);

struct Rig {
    first: PipeEnd,
    second: PipeEnd,
    reader: PipeReader,
    writer: PipeWriter,
}

/// A pipe whose first end reads.
fn rig() -> Rig {
    let (first, second) = pair(CAPACITY, false).unwrap();
    let reader = first.attach().unwrap().reader.unwrap();
    let writer = second.attach().unwrap().writer.unwrap();
    Rig { first, second, reader, writer }
}

/// Another holder of an end, as another process is.
fn copy(end: &PipeEnd) -> PipeEnd {
    let copies = end.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
    PipeEnd::from_descriptors(copies, end.is_first())
}

fn send(writer: &mut PipeWriter, bytes: &[u8]) -> Result<()> {
    writer.begin(bytes.len() as u64, 7)?;
    let mut rest = PeerBytes::of(bytes);
    loop {
        let sent = writer.write(rest)?;
        rest = rest.split_at(sent).1;
        if !writer.is_sending() {
            return Ok(());
        }
        assert_ne!(writer.wait(LONG), Wake::Closed);
    }
}

fn receive(reader: &mut PipeReader) -> Result<Vec<u8>> {
    loop {
        let Some(message) = reader.start()? else {
            match reader.watch().wait(LONG) {
                Wake::Closed => return Err(crate::Error::new(ErrorKind::Closed, "the end")),
                _ => continue,
            }
        };
        assert_eq!(message.kind, 7);
        let mut bytes = vec![MaybeUninit::new(0); message.len as usize];
        let mut filled = 0;
        loop {
            match reader.read(&mut bytes[filled..])? {
                Progress::Whole(count) => {
                    assert_eq!(filled + count, bytes.len());
                    return Ok(initialized(&bytes));
                }
                Progress::Part(count) => filled += count,
                Progress::Abandoned => break,
            }
            if reader.watch().wait(LONG) == Wake::Closed {
                return Err(crate::Error::new(ErrorKind::Closed, "the end, within a message"));
            }
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

fn is_readable(watch: &PipeWatch) -> bool {
    let polled = wait_ready(watch.poll_fd(), Ready::Read, Some(Instant::now()));
    polled.unwrap()
}

#[test]
fn messages_of_any_length_arrive_as_they_were_sent() {
    let Rig { mut reader, mut writer, .. } = rig();
    let lengths = [0, 1, 47, 48, 49, 1007, 1008, 1009, 4095, 4096, 4097, 100_000, 0, 3_000_000];
    let sender = thread::spawn(move || {
        for len in lengths {
            send(&mut writer, &pattern(len)).unwrap();
        }
        writer
    });
    for len in lengths {
        assert!(receive(&mut reader).unwrap() == pattern(len), "{len} bytes");
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_duplex_pipe_carries_messages_both_ways() {
    let (first, second) = pair(CAPACITY, true).unwrap();
    let (mut one, mut other) = (first.attach().unwrap(), second.attach().unwrap());
    let (to, from) = (one.writer.as_mut().unwrap(), one.reader.as_mut().unwrap());
    send(to, b"there").unwrap();
    assert_eq!(receive(other.reader.as_mut().unwrap()).unwrap(), b"there");
    send(other.writer.as_mut().unwrap(), b"back").unwrap();
    assert_eq!(receive(from).unwrap(), b"back");
}

#[test]
fn a_simple_pipe_is_read_at_its_first_end_and_written_at_its_second() {
    let (first, second) = pair(CAPACITY, false).unwrap();
    assert!(first.attach().unwrap().writer.is_none());
    assert!(second.attach().unwrap().reader.is_none());
}

#[test]
fn the_holders_of_an_end_go_on_where_the_last_one_stopped() {
    let Rig { first, second, mut reader, mut writer } = rig();
    let (other_first, other_second) = (copy(&first), copy(&second));
    let mut other_reader = other_first.attach().unwrap().reader.unwrap();
    let mut other_writer = other_second.attach().unwrap().writer.unwrap();
    for turn in 0..2000_u32 {
        let writer = if turn % 3 == 0 { &mut writer } else { &mut other_writer };
        let reader = if turn % 5 < 2 { &mut reader } else { &mut other_reader };
        let bytes = turn.to_le_bytes().repeat(turn as usize % 200);
        send(writer, &bytes).unwrap();
        assert_eq!(receive(reader).unwrap(), bytes);
    }
}

#[test]
fn an_end_is_closed_when_its_last_holder_has_dropped_it() {
    let Rig { first, second, mut reader, mut writer } = rig();
    let other = copy(&second);
    send(&mut writer, b"last words").unwrap();
    drop((second, writer));
    assert_eq!(reader.watch().look(), Wake::Ready);
    assert_eq!(receive(&mut reader).unwrap(), b"last words");
    assert_eq!(reader.watch().look(), Wake::Look, "a copy is held");
    drop(other);
    assert_eq!(reader.watch().look(), Wake::Closed);
    assert_eq!(receive(&mut reader).unwrap_err().kind(), ErrorKind::Closed);
    drop(first);
}

#[test]
fn a_writer_notices_at_once_that_the_reader_has_closed() {
    let Rig { first, second, reader, mut writer } = rig();
    send(&mut writer, b"one").unwrap();
    drop((first, reader));
    assert_eq!(send(&mut writer, b"two").unwrap_err().kind(), ErrorKind::Closed);
    drop(second);
    let (first, second) = pair(CAPACITY, false).unwrap();
    let mut writer = second.attach().unwrap().writer.unwrap();
    send(&mut writer, b"one").unwrap();
    drop(first);
    assert_eq!(send(&mut writer, b"two").unwrap_err().kind(), ErrorKind::Closed, "never used");
}

#[test]
fn a_writer_that_waits_for_room_notices_that_the_reader_is_gone() {
    let Rig { first, second, reader, mut writer } = rig();
    writer.begin(1 << 20, 7).unwrap();
    let bytes = pattern(1 << 20);
    let sent = writer.write(PeerBytes::of(&bytes)).unwrap();
    assert!(sent < CAPACITY && writer.is_sending());
    let closer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop((first, reader));
    });
    while writer.wait(LONG) != Wake::Closed {}
    closer.join().unwrap();
    drop(second);
}

#[test]
fn a_message_that_its_writer_has_given_up_makes_way_for_the_next() {
    let Rig { mut reader, mut writer, .. } = rig();
    let bytes = pattern(10_000);
    writer.begin(10_000, 7).unwrap();
    writer.write(PeerBytes::of(&bytes)).unwrap();
    let message = reader.start().unwrap().unwrap();
    let mut out = vec![MaybeUninit::uninit(); message.len as usize];
    assert!(matches!(reader.read(&mut out).unwrap(), Progress::Part(_)));
    send(&mut writer, b"next").unwrap();
    assert_eq!(reader.read(&mut out).unwrap(), Progress::Abandoned);
    assert_eq!(receive(&mut reader).unwrap(), b"next");
}

#[test]
fn the_rest_of_a_message_whose_reader_is_gone_is_skipped() {
    let Rig { first, second: _second, mut reader, mut writer } = rig();
    let other = copy(&first);
    let bytes = pattern(10_000);
    writer.begin(10_000, 7).unwrap();
    let sent = writer.write(PeerBytes::of(&bytes)).unwrap();
    reader.start().unwrap().unwrap();
    let mut out = [MaybeUninit::uninit(); 2000];
    assert_eq!(reader.read(&mut out).unwrap(), Progress::Part(2000));
    assert!(reader.has_begun());
    drop((first, reader));
    let mut next = other.attach().unwrap().reader.unwrap();
    assert_eq!(next.start().unwrap(), None);
    let rest = PeerBytes::of(&bytes).split_at(sent).1;
    assert_eq!(writer.write(rest).unwrap() % longest_chunk(CAPACITY as u64), 0);
    assert_eq!(next.start().unwrap(), None);
    send(&mut writer, b"next").unwrap();
    assert_eq!(receive(&mut next).unwrap(), b"next");
}

#[test]
fn a_message_that_is_read_in_part_can_be_read_again() {
    let Rig { mut reader, mut writer, .. } = rig();
    send(&mut writer, b"a message").unwrap();
    reader.start().unwrap();
    assert_eq!(reader.read(&mut [MaybeUninit::uninit(); 4]).unwrap(), Progress::Part(4));
    reader.forget();
    assert_eq!(receive(&mut reader).unwrap(), b"a message");
}

#[test]
fn a_message_that_is_skipped_is_never_seen_again() {
    for taken in [0, 4, 2000] {
        let Rig { mut reader, mut writer, .. } = rig();
        let bytes = pattern(3000);
        send(&mut writer, &bytes).unwrap();
        send(&mut writer, b"next").unwrap();
        reader.start().unwrap();
        let mut out = vec![MaybeUninit::uninit(); taken];
        assert_eq!(reader.read(&mut out).unwrap(), Progress::Part(taken));
        reader.skip().unwrap();
        reader.skip().unwrap();
        assert_eq!(receive(&mut reader).unwrap(), b"next");
    }
}

#[test]
fn the_descriptor_is_readable_exactly_while_there_are_bytes() {
    let Rig { first, second, mut reader, mut writer } = rig();
    // Before the first poll there were messages that nothing polled for.
    send(&mut writer, b"before").unwrap();
    send(&mut writer, b"before").unwrap();
    receive(&mut reader).unwrap();
    assert!(is_readable(reader.watch()));
    receive(&mut reader).unwrap();
    reader.watch().settle();
    assert!(!is_readable(reader.watch()));
    for round in 0..300 {
        for _ in 0..round % 4 + 1 {
            send(&mut writer, b"a frame").unwrap();
        }
        for _ in 0..round % 4 + 1 {
            assert!(is_readable(reader.watch()), "{round}");
            receive(&mut reader).unwrap();
            reader.watch().settle();
        }
        assert!(!is_readable(reader.watch()), "{round}");
        assert_eq!(reader.watch().look(), Wake::Look);
    }
    drop((second, writer));
    assert!(is_readable(reader.watch()));
    drop(first);
}

#[test]
fn no_wake_is_missed_and_none_is_made_up_while_messages_come() {
    let Rig { mut reader, mut writer, .. } = rig();
    let count = 20_000;
    let sender = thread::spawn(move || {
        for i in 0..count {
            send(&mut writer, &pattern(i % 90)).unwrap();
        }
        writer
    });
    let mut polls = 0;
    let mut received = 0;
    while received < count {
        let fd = reader.watch().poll_fd();
        assert!(wait_ready(fd, Ready::Read, Some(Instant::now() + LONG)).unwrap());
        polls += 1;
        assert_eq!(reader.watch().look(), Wake::Ready, "{polls}");
        assert_eq!(receive(&mut reader).unwrap(), pattern(received % 90));
        received += 1;
        reader.watch().settle();
    }
    assert!(!is_readable(reader.watch()));
    drop(sender.join().unwrap());
}

#[test]
fn bytes_that_do_not_belong_in_a_socket_do_no_more_than_wake() {
    let Rig { second, mut reader, mut writer, .. } = rig();
    let [_, bytes, _] = second.descriptors();
    let stray = crate::sys::wake_socket::WakeSocket::of(bytes.try_clone_to_owned().unwrap());
    reader.watch().poll_fd().as_fd();
    (0..5).for_each(|_| assert!(stray.send_byte()));
    send(&mut writer, b"one").unwrap();
    assert_eq!(receive(&mut reader).unwrap(), b"one");
    for _ in 0..20 {
        let _ = reader.watch().look();
    }
    assert!(!is_readable(reader.watch()));
    send(&mut writer, b"two").unwrap();
    assert!(is_readable(reader.watch()));
    assert_eq!(receive(&mut reader).unwrap(), b"two");
}

/// The words and the ring of the only direction of a pipe, for a process that writes anything.
struct Hostile {
    memory: OwnRegion,
    at: Direction,
}

impl Hostile {
    fn of(end: &PipeEnd) -> Self {
        let [memory, ..] = end.descriptors();
        let (file, len) = memfd::adopt(memory.try_clone_to_owned().unwrap(), SEALS_UP).unwrap();
        let memory = shared_map::map(&file, len as usize).unwrap();
        Self { memory, at: Direction::new(0, CAPACITY) }
    }

    fn set(&self, word: usize, value: u64) {
        self.memory.u64_at(word).unwrap().store(value, Ordering::SeqCst);
    }

    fn chunk(&self, at: u64, header: [u64; 2]) {
        let ring = self.memory.byte_ring(self.at.ring, CAPACITY).unwrap();
        ring.write(at, PeerBytes::of(&header.map(u64::to_le_bytes).concat()));
    }
}

#[test]
fn a_message_of_a_killed_writer_is_shown_by_the_next_one_or_by_the_end() {
    for has_next in [true, false] {
        let Rig { first, second, mut reader, mut writer } = rig();
        let hostile = Hostile::of(&first);
        assert!(!is_readable(reader.watch()));
        // A writer that another process holds publishes, and is killed before it sends the byte.
        hostile.set(hostile.at.bytes_bell, QUIET);
        send(&mut writer, b"left").unwrap();
        hostile.set(hostile.at.bytes_bell, bell::RINGING);
        assert!(!is_readable(reader.watch()) && reader.watch().has_bytes());
        if has_next {
            send(&mut writer, b"next").unwrap();
        } else {
            drop((second, writer));
        }
        assert!(is_readable(reader.watch()));
        assert_eq!(receive(&mut reader).unwrap(), b"left");
        reader.watch().settle();
        assert!(is_readable(reader.watch()));
        assert_eq!(receive(&mut reader).is_ok(), has_next);
        reader.watch().settle();
        assert_eq!(is_readable(reader.watch()), !has_next, "nothing is there but the end");
    }
}

#[test]
fn positions_that_cannot_be_are_corruption_on_both_sides() {
    for (tail, head) in [(1, 0), (4096 + 64, 0), (0, 64), (u64::MAX, 0), (64, 1), (0, u64::MAX)] {
        let Rig { first, mut reader, mut writer, .. } = rig();
        let hostile = Hostile::of(&first);
        hostile.set(hostile.at.tail, tail);
        hostile.set(hostile.at.head, head);
        assert_eq!(reader.start().unwrap_err().kind(), ErrorKind::PeerCorrupt, "{tail} {head}");
        writer.begin(5000, 7).unwrap();
        let bytes = pattern(5000);
        let found = writer.write(PeerBytes::of(&bytes));
        let found = found.and_then(|_| writer.write(PeerBytes::of(&bytes)));
        // The writer may fit what it sees; it never writes outside of the ring.
        if let Err(error) = found {
            assert_eq!(error.kind(), ErrorKind::PeerCorrupt);
        }
        let _ = writer.wait(Duration::from_millis(1));
    }
}

#[test]
fn a_chunk_that_no_writer_makes_is_corruption() {
    let first = 1_u64 << 48;
    let wrong = [
        [first | 100, 50],     // more bytes than the message has
        [first, 10],           // an empty chunk of a message with bytes
        [first << 1 | 10, 10], // flags that do not exist
        [first | 2000, 2000],  // longer than a chunk may be
        [first | 0xffff_ffff, u64::MAX],
        [first | 500, 500], // more than is published
    ];
    for header in wrong {
        let Rig { first, mut reader, .. } = rig();
        let hostile = Hostile::of(&first);
        hostile.chunk(0, header);
        hostile.set(hostile.at.tail, 128);
        assert_eq!(reader.start().unwrap_err().kind(), ErrorKind::PeerCorrupt, "{header:x?}");
        assert_eq!(reader.start().unwrap_err().kind(), ErrorKind::PeerCorrupt);
    }
}

#[test]
fn words_of_any_value_neither_panic_nor_hold_anything_up() {
    let mut random = 1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..300 {
        let Rig { first, mut reader, mut writer, .. } = rig();
        let hostile = Hostile::of(&first);
        let step = Duration::from_micros(1);
        for _ in 0..8 {
            let value = match next() % 3 {
                0 => next(),
                1 => next() % 8192,
                _ => (next() % 128) * 64,
            };
            let line = 512 + (next() % 64) as usize * 8;
            hostile.set(line, value);
            hostile
                .chunk(next() % 64 * 64, [(next() % 5000) | ((next() % 3) << 48), next() % 9000]);
            let _ = writer.begin(next() % 5000, 1);
            let _ = writer.write(PeerBytes::of(&[1; 3000]));
            let _ = writer.wait(step);
            let _ = reader.watch().look();
            let _ = reader.watch().wait(step);
            if let Ok(Some(_)) = reader.start() {
                let _ = reader.read(&mut [MaybeUninit::uninit(); 3000]);
            }
            let _ = reader.watch().poll_fd();
        }
    }
}

#[test]
fn memory_that_is_not_a_pipes_is_refused() {
    let (first, _second) = pair(CAPACITY, true).unwrap();
    let attach = |memory| {
        let [_, bytes, room] = first.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
        PipeEnd::from_descriptors([memory, bytes, room], true).attach().unwrap_err().kind()
    };
    let unsealed = memfd::create(c"test", 8192).unwrap();
    assert_eq!(attach(unsealed.try_clone().unwrap().into()), ErrorKind::Mismatch);
    memfd::seal(&unsealed, memfd::SEALS_UP).unwrap();
    assert_eq!(attach(unsealed.into()), ErrorKind::Mismatch);
    for (word, value) in [(0, 1), (8, 2), (16, 8192), (16, 100), (24, 1), (24, u64::MAX)] {
        let (first, _second) = pair(CAPACITY, true).unwrap();
        Hostile::of(&first).set(word, value);
        assert_eq!(first.attach().unwrap_err().kind(), ErrorKind::Mismatch, "{word} {value}");
    }
}

#[test]
fn a_capacity_must_be_a_power_of_two_within_its_limits() {
    for capacity in [0, 1, 2048, 5000, SMALLEST + 64, 1 << 31] {
        assert_eq!(pair(capacity, true).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    assert!(pair(SMALLEST, true).is_ok());
}

#[test]
fn the_lines_of_two_sides_are_apart_and_outside_of_the_rings() {
    let [one, other] = [0, 1].map(|index| Direction::new(index, CAPACITY));
    assert!(one.room_bell + 128 <= other.tail && other.room_bell + 128 <= PAGE);
    for at in [one, other] {
        assert!(at.writer_cpu < at.head && at.head + 128 <= at.bytes_bell);
        assert!(at.reader_cpu < at.bytes_bell && at.reader_closed < at.room_bell);
    }
    assert_eq!((one.ring, other.ring), (PAGE, PAGE + CAPACITY));
    assert_eq!(ChunkHeader::span(longest_chunk(CAPACITY as u64)), CAPACITY as u64 / 4);
}
