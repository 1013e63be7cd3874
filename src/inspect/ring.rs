//! Reads one ring while both its ends go on.
//!
//! The cursors are read, then the frames from the head on, then the cursors again. If the head has moved
//! meanwhile, slots that were read may have been filled again, so that all is read once more. What looks
//! wrong counts only when two looks in a row find the same: a word that is copied while it is stored may
//! be torn.

use std::fmt::Write as _;
use std::io;

use super::memory::{Memory, u32_at, u64_at};
use super::report::{Check, FrameInRing, Options, RingMemory, Verdict, WaitWord};
use crate::config::{FRAME_HEADER, SLOT_ALIGN};
use crate::protocol::Kind;
use crate::protocol::kind::flags::TRACED;
use crate::ring::Header;
use crate::ring::commit::Commit;
use crate::ring::doorbell::BY_FD;
use crate::ring::position::{NEVER, span, to_end};
use crate::shm::layout::{RingLayout, as_u32, as_u64, as_usize, control};
use crate::trace_context::{CONTEXT_LEN, TraceContext};

/// How often a ring that moves on is read again.
const LOOKS: usize = 10;
/// Bytes that are read together: headers of short frames lie close to each other.
const WINDOW: usize = 4096;
/// The most bytes of a payload that are shown.
const MOST_PAYLOAD: usize = 64 << 10;

/// Where a ring is, and the words of both its ends.
pub(super) struct Place<'a> {
    pub(super) name: &'static str,
    /// The region of the ring's writer, in which the ring lies.
    pub(super) writer: &'a dyn Memory,
    pub(super) reader: &'a dyn Memory,
    pub(super) layout: RingLayout,
    /// The first control line of its side, in both regions.
    pub(super) lines: usize,
}

/// The words of both ends.
#[derive(Debug, Clone, Copy)]
struct Words {
    head: u64,
    notified: u64,
    sleep_at: u64,
    space_at: u64,
    bell: u32,
    reader_cpu: u32,
}

/// What lies between the head and the end.
#[derive(Debug)]
struct Walk {
    end: u64,
    count: u64,
    padding: u64,
    frames: Vec<FrameInRing>,
    fault: Option<String>,
}

/// What was found wrong, by what was checked.
type Faults = Vec<(&'static str, String)>;

/// What is checked of each ring.
const CHECKS: [&str; 4] = ["cursors", "frames", "reader's wait", "writer's wait"];

impl Place<'_> {
    /// Reads the ring, and checks it.
    pub(super) fn read(&self, options: &Options) -> io::Result<(RingMemory, Vec<Check>)> {
        let (mut last, mut left) = (None, LOOKS);
        loop {
            left -= 1;
            let words = self.words()?;
            let walk = self.walk(words.head, options)?;
            let is_moving = self.words()?.head != words.head;
            let faults = self.faults(&words, &walk);
            let is_sure = !is_moving && (faults.is_empty() || last.as_ref() == Some(&faults));
            if is_sure || left == 0 {
                let checks = self.checks(&faults, is_sure);
                return Ok((self.memory(words, walk, is_moving)?, checks));
            }
            last = (!is_moving).then_some(faults);
        }
    }

    fn words(&self) -> io::Result<Words> {
        // The writer's first: what it has published by then is found by the walk.
        let lines = |memory: &dyn Memory| -> io::Result<[u8; 4 * control::LINE]> {
            let mut lines = [0; 4 * control::LINE];
            memory.read_at(as_u64(self.lines), &mut lines)?;
            Ok(lines)
        };
        let (writer, reader) = (lines(self.writer)?, lines(self.reader)?);
        Ok(Words {
            head: u64_at(&reader, control::HEAD),
            notified: u64_at(&writer, control::CHECKED),
            sleep_at: u64_at(&reader, control::SLEEP_AT),
            space_at: u64_at(&writer, control::SPACE_AT),
            bell: u32_at(&writer, control::BELL),
            reader_cpu: u32_at(&reader, control::CPU),
        })
    }

    /// Goes from frame to frame, at most once around.
    fn walk(&self, head: u64, options: &Options) -> io::Result<Walk> {
        let RingLayout { capacity, max_frame, .. } = self.layout;
        let mut window = Window { place: self, from: 0, bytes: Vec::new() };
        let mut walk = Walk { end: head, count: 0, padding: 0, frames: Vec::new(), fault: None };
        let longest = span(as_usize(u64::from(max_frame)));
        let mut padded_from = None;
        if !head.is_multiple_of(as_u64(SLOT_ALIGN)) {
            return Ok(walk);
        }
        loop {
            let at = walk.end;
            let [word, rest @ ..] = window.words_at(at)?;
            let fault = match Commit::read(word, at, capacity) {
                Commit::Nothing => {
                    if let Some(from) = padded_from {
                        walk.fault = Some(format!("padding at {from} with nothing behind it"));
                    }
                    return Ok(walk);
                }
                Commit::Padding => {
                    let len = to_end(at, capacity);
                    padded_from = Some(at);
                    walk.padding += len;
                    walk.end = at.wrapping_add(len);
                    // Of an empty ring, all that is left of the lap may be padding.
                    (len >= longest && at != head).then(|| {
                        format!("padding of {len} bytes at {at}, where the longest frame fits")
                    })
                }
                Commit::Frame => {
                    padded_from = None;
                    let header = Header::from_words(rest);
                    let len = as_usize(u64::from(header.len));
                    if header.len > max_frame || span(len) > to_end(at, capacity) {
                        Some(format!(
                            "a frame of {len} bytes at {at}: the cap is {max_frame}, and {} are left \
                             before the ring's end",
                            to_end(at, capacity)
                        ))
                    } else {
                        walk.count += 1;
                        walk.end = at.wrapping_add(span(len));
                        if walk.frames.len() < options.frames {
                            walk.frames.push(self.frame(at, header, options)?);
                        }
                        None
                    }
                }
                Commit::Corrupt => Some(format!("the commit word at {at} is {word:#x}")),
            };
            // One line stays free: the commit word behind the last frame lies there.
            let used = walk.end.wrapping_sub(head);
            let fault = fault.or_else(|| {
                (used > capacity - span(0))
                    .then(|| format!("{used} bytes of frames in a ring of {capacity}"))
            });
            if fault.is_some() {
                walk.fault = fault;
                return Ok(walk);
            }
        }
    }

    fn frame(&self, position: u64, header: Header, options: &Options) -> io::Result<FrameInRing> {
        let Header { len, kind, flags, request, aux } = header;
        let payload_at = self.offset(position) + as_u64(FRAME_HEADER);
        let (mut len, mut trace) = (len, None);
        let is_traced = flags & TRACED != 0 && Kind::from_code(kind).is_request();
        if is_traced && let Some(left) = len.checked_sub(as_u32(CONTEXT_LEN)) {
            let mut context = [0; CONTEXT_LEN];
            self.writer.read_at(payload_at + u64::from(left), &mut context)?;
            trace = TraceContext::from_bytes(&context).map(|context| context.to_string());
            len = left;
        }
        let shown = as_usize(u64::from(len)).min(options.payload_bytes).min(MOST_PAYLOAD);
        let mut bytes = vec![0; shown];
        self.writer.read_at(payload_at, &mut bytes)?;
        let mut payload = String::with_capacity(2 * shown);
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(payload, "{byte:02x}");
        }
        let kind_name = Kind::from_code(kind).to_string();
        let stage = None;
        Ok(FrameInRing {
            position,
            kind,
            kind_name,
            flags,
            len,
            request,
            aux,
            stage,
            trace,
            payload,
        })
    }

    fn offset(&self, position: u64) -> u64 {
        self.layout.offset + (position & (self.layout.capacity - 1))
    }

    /// What cannot be. Positions are compared on the circle of all u64.
    fn faults(&self, words: &Words, walk: &Walk) -> Faults {
        let Words { head, notified, sleep_at, space_at, .. } = *words;
        let capacity = self.layout.capacity;
        let is_line = |position: u64| position.is_multiple_of(as_u64(SLOT_ALIGN));
        let [cursors, frames, reader, writer] = CHECKS;
        let mut faults = Vec::new();
        let mut wrong = |what, is_wrong: bool, why: &dyn Fn() -> String| {
            if is_wrong {
                faults.push((what, why()));
            }
        };
        wrong(cursors, !is_line(head), &|| format!("head {head}, which is no multiple of 64"));
        wrong(cursors, !is_line(notified), &|| format!("notified {notified}, no multiple of 64"));
        let ahead = notified.wrapping_sub(head).cast_signed();
        wrong(cursors, ahead.unsigned_abs() > capacity, &|| {
            format!("head {head} and notified {notified} in a ring of {capacity} bytes")
        });
        match &walk.fault {
            Some(fault) => wrong(frames, true, &|| fault.clone()),
            None => {
                let missing = notified.wrapping_sub(walk.end).cast_signed();
                let is_missing = missing > 0 && ahead.unsigned_abs() <= capacity;
                wrong(frames, is_line(head) && is_missing, &|| {
                    format!("frames up to {notified} were published, and end at {}", walk.end)
                });
            }
        }
        let is_announced = |word: u64| word == NEVER || is_line(word & !BY_FD);
        wrong(reader, !is_announced(sleep_at), &|| format!("it waits for {sleep_at}, no position"));
        let beyond = (sleep_at & !BY_FD).wrapping_sub(walk.end).cast_signed();
        let is_beyond = sleep_at != NEVER && beyond > 0 && walk.fault.is_none();
        wrong(reader, is_announced(sleep_at) && is_beyond, &|| {
            format!("it waits for a frame at {}, and frames end at {}", sleep_at & !BY_FD, walk.end)
        });
        wrong(writer, !is_announced(space_at), &|| format!("it waits for {space_at}, no position"));
        let beyond = (space_at & !BY_FD).wrapping_sub(walk.end).cast_signed();
        let is_beyond = space_at != NEVER && beyond > 0 && walk.fault.is_none();
        wrong(writer, is_announced(space_at) && is_beyond, &|| {
            format!("it waits for a head of {}, and frames end at {}", space_at & !BY_FD, walk.end)
        });
        faults
    }

    fn checks(&self, faults: &Faults, is_sure: bool) -> Vec<Check> {
        let check = |what: &&'static str| {
            let found: Vec<&str> =
                faults.iter().filter(|(at, _)| at == what).map(|(_, why)| why.as_str()).collect();
            let (verdict, why) = match (found.is_empty(), is_sure) {
                (true, _) => (Verdict::Ok, String::new()),
                (false, true) => (Verdict::Wrong, found.join("; ")),
                (false, false) => (Verdict::Moved, format!("it moved on: {}", found.join("; "))),
            };
            Check { name: format!("{}: {what}", self.name), verdict, why }
        };
        CHECKS.iter().map(check).collect()
    }

    fn memory(&self, words: Words, walk: Walk, is_moving: bool) -> io::Result<RingMemory> {
        let RingLayout { offset, capacity, max_frame, .. } = self.layout;
        let now = self.words()?;
        let is_kept = |frame: &FrameInRing| {
            !is_moving || frame.position.wrapping_sub(now.head).cast_signed() >= 0
        };
        let wait = |word: u64, is_to_come: bool| {
            let (position, by_descriptor) = (word & !BY_FD, word & BY_FD != 0);
            (word != NEVER).then_some(WaitWord { position, by_descriptor, is_to_come })
        };
        let (frame, room) = (words.sleep_at & !BY_FD, words.space_at & !BY_FD);
        let is_room_to_come = room.wrapping_sub(words.head).cast_signed() > 0;
        Ok(RingMemory {
            name: self.name,
            offset,
            capacity,
            max_frame,
            head: words.head,
            notified: words.notified,
            end: walk.end,
            frame_count: walk.count,
            padding: walk.padding,
            frames: walk.frames.into_iter().filter(is_kept).collect(),
            reader_waits: wait(words.sleep_at, frame == walk.end),
            writer_waits: wait(words.space_at, is_room_to_come),
            bell: words.bell,
            reader_cpu: words.reader_cpu.checked_sub(1),
            is_moving,
        })
    }
}

/// A part of a ring, read at once.
struct Window<'a> {
    place: &'a Place<'a>,
    /// Where it begins in the region.
    from: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The first words of the slot at a position.
    fn words_at(&mut self, position: u64) -> io::Result<[u64; 4]> {
        let offset = self.place.offset(position);
        let is_inside = offset >= self.from && offset + 32 <= self.from + as_u64(self.bytes.len());
        if !is_inside {
            let left = as_usize(to_end(position, self.place.layout.capacity));
            self.bytes.resize(left.min(WINDOW), 0);
            self.place.writer.read_at(offset, &mut self.bytes)?;
            self.from = offset;
        }
        let at = as_usize(offset - self.from);
        Ok([0, 8, 16, 24].map(|word| u64_at(&self.bytes, at + word)))
    }
}
