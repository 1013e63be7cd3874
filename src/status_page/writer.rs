//! Turns what a source says into a block. Nothing here allocates once the page is made.

use std::fmt::{self, Write};
use std::ops::Range;

use super::layout::{BLOCKS, BUCKETS, CHECKED, CHECKSUM, NAME, WORDS, block, checksum, header};
use super::layout::{MAGIC, VERSION};
use super::numbers::{ChannelNumbers, RoleNumbers};
#[cfg(any(test, slipring_fuzzing))]
use super::row::{Numbers, Row};
use crate::error::{ErrorKind, Result};
use crate::shm::layout::as_u64;
use crate::shm::status_memory::StatusMemory;

/// The page of this process.
#[derive(Debug)]
pub(super) struct Writer {
    memory: StatusMemory<WORDS>,
    pid: u32,
    /// When this process began.
    start_time: u64,
}

/// What the header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) heartbeat: u64,
    pub(crate) period: u64,
    pub(crate) omitted: u64,
    /// How many blocks there are.
    pub(crate) blocks: usize,
}

/// What changes of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beat {
    pub(super) heartbeat: u64,
    pub(super) period: u64,
    pub(super) omitted: u64,
    pub(super) blocks: usize,
}

impl Writer {
    /// Makes the page, with room for its first blocks.
    pub(super) fn create(start_time: u64) -> Result<Self> {
        let mut memory = StatusMemory::create(NAME, BLOCKS + 1)?;
        memory.make_ready(1)?;
        Ok(Self { memory, pid: std::process::id(), start_time })
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &std::fs::File {
        self.memory.file()
    }

    /// How many blocks can be written.
    pub(super) fn blocks(&self) -> usize {
        self.memory.ready().saturating_sub(1).min(BLOCKS)
    }

    /// Makes room for so many blocks, if there is memory, up to the most that a page has.
    pub(super) fn make_room(&mut self, blocks: usize) {
        // What has no room is counted in the header.
        let _ = self.memory.make_ready(blocks.min(BLOCKS) + 1);
    }

    /// Frees a block that was written.
    pub(super) fn free(&mut self, block: usize) {
        self.write(block + 1, [0; WORDS]);
    }

    pub(super) fn write_header(&mut self, beat: Beat) {
        let mut words = [0; WORDS];
        set(&mut words, header::MAGIC, MAGIC);
        set(&mut words, header::VERSION, VERSION);
        set(&mut words, header::PID, self.pid.into());
        set(&mut words, header::START_TIME, self.start_time);
        set(&mut words, header::BLOCKS, as_u64(beat.blocks));
        set(&mut words, header::HEARTBEAT, beat.heartbeat);
        set(&mut words, header::PERIOD, beat.period);
        set(&mut words, header::OMITTED, beat.omitted);
        set_text(&mut words, header::LIBRARY, concat!("slipring ", env!("CARGO_PKG_VERSION")));
        self.write(0, words);
    }

    /// Writes a block. Returns whether it has changed.
    pub(super) fn write_row(&mut self, block: usize, row: &Block) -> bool {
        self.write(block + 1, row.words)
    }

    fn write(&mut self, index: usize, mut words: [u64; WORDS]) -> bool {
        let sum = checksum(words.iter().skip(CHECKED).copied());
        set(&mut words, CHECKSUM, sum);
        self.memory.write(index, &words)
    }
}

/// A block while it is filled.
#[derive(Debug)]
pub(crate) struct Block {
    words: [u64; WORDS],
    is_settled: bool,
}

impl Block {
    pub(super) fn new(id: u64) -> Self {
        let mut words = [0; WORDS];
        set(&mut words, block::ID, id);
        Self { words, is_settled: false }
    }

    /// Whether nothing of what it describes changes before the host does something with it.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    pub(crate) fn set_channel(&mut self, numbers: &ChannelNumbers, now: u64) {
        self.is_settled = numbers.is_settled();
        self.set_numbers(1, &numbers.to_words(now));
    }

    pub(crate) fn set_role(&mut self, numbers: &RoleNumbers, now: u64) {
        self.is_settled = numbers.is_settled();
        self.set_numbers(2, &numbers.to_words(now));
    }

    fn set_numbers(&mut self, kind: u64, numbers: &[u64]) {
        set(&mut self.words, block::KIND, kind);
        set(&mut self.words, block::COUNT, as_u64(numbers.len()));
        set_all(&mut self.words, block::NUMBERS, numbers.iter().copied());
    }

    /// The name of the role.
    pub(crate) fn set_name(&mut self, name: &str) {
        set_text(&mut self.words, block::ROLE, name);
    }

    /// Words about the last failure, which are cut to fit.
    pub(crate) fn set_note(&mut self, note: fmt::Arguments<'_>) {
        let mut place = TextPlace::new(&mut self.words, block::NOTE);
        // It fails only if what is formatted does.
        let _ = place.write_fmt(note);
    }

    pub(crate) fn put_note(&mut self, note: Note) {
        set_all(&mut self.words, block::NOTE, note.words);
    }

    pub(crate) fn set_errors(&mut self, errors: impl Iterator<Item = (ErrorKind, u64)>) {
        for (kind, count) in errors {
            let index = usize::try_from(kind.code()).unwrap_or(0);
            let all = self.words.get_mut(block::ERRORS);
            if let Some(word) = all.and_then(|all| all.get_mut(index)) {
                *word = count;
            }
        }
    }

    /// The two histograms, each with its sum in nanoseconds.
    pub(crate) fn set_times(&mut self, times: [(u64, [u64; BUCKETS]); 2]) {
        for (range, (sum_ns, buckets)) in block::TIMES.into_iter().zip(times) {
            set_all(&mut self.words, range, std::iter::once(sum_ns).chain(buckets));
        }
    }
}

/// Words about a failure, as a block has room for: made when it happens, so that the thread of the page need
/// only copy them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    words: [u64; block::NOTE.end - block::NOTE.start],
}

impl Note {
    pub(crate) const EMPTY: Self = Self { words: [0; block::NOTE.end - block::NOTE.start] };

    pub(crate) fn of(failure: &impl fmt::Display) -> Self {
        let mut note = Self::EMPTY;
        // As in `Block::set_note`.
        let _ = write!(TextPlace { words: &mut note.words, len: 0 }, "{failure}");
        note
    }
}

/// The words of a block, without those before what the checksum covers.
#[cfg(any(test, slipring_fuzzing))]
pub(crate) fn row_words(row: &Row, now: u64) -> [u64; WORDS] {
    block_of(row, now).words
}

#[cfg(any(test, slipring_fuzzing))]
pub(super) fn block_of(row: &Row, now: u64) -> Block {
    let mut block = Block::new(row.id);
    match &row.numbers {
        Numbers::Channel(numbers) => block.set_channel(numbers, now),
        Numbers::Role(numbers) => block.set_role(numbers, now),
    }
    block.set_name(&row.role);
    block.set_note(format_args!("{}", row.note));
    block.set_errors(row.errors.iter().copied());
    block.set_times([&row.first_times, &row.second_times].map(|it| (it.sum_ns, it.buckets)));
    block
}

fn set(words: &mut [u64; WORDS], index: usize, value: u64) {
    if let Some(word) = words.get_mut(index) {
        *word = value;
    }
}

fn set_all(words: &mut [u64; WORDS], range: Range<usize>, values: impl IntoIterator<Item = u64>) {
    let places = words.get_mut(range).into_iter().flatten();
    places.zip(values).for_each(|(word, value)| *word = value);
}

fn set_text(words: &mut [u64; WORDS], range: Range<usize>, text: &str) {
    // It never fails.
    let _ = TextPlace::new(words, range).write_str(text);
}

/// A place for a text, which is cut at a character if it is too long.
struct TextPlace<'a> {
    words: &'a mut [u64],
    /// Bytes that are written; more than there is room for once the text is cut.
    len: usize,
}

impl<'a> TextPlace<'a> {
    fn new(words: &'a mut [u64; WORDS], range: Range<usize>) -> Self {
        Self { words: words.get_mut(range).unwrap_or_default(), len: 0 }
    }
}

impl Write for TextPlace<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.words.len() * 8;
        let fitting = text.floor_char_boundary(room.saturating_sub(self.len));
        for (at, byte) in (self.len..).zip(text.bytes().take(fitting)) {
            if let Some(word) = self.words.get_mut(at / 8) {
                *word |= u64::from(byte) << (8 * (at % 8));
            }
        }
        let is_cut = fitting < text.len();
        self.len = if is_cut { room } else { self.len + fitting };
        Ok(())
    }
}

// The lists fit their place in a block.
const _: () = {
    let room = block::NUMBERS.end - block::NUMBERS.start;
    assert!(ChannelNumbers::FIELDS.len() <= room && RoleNumbers::FIELDS.len() <= room);
    assert!(block::TIMES[0].end - block::TIMES[0].start == BUCKETS + 1);
    assert!(block::TIMES[1].end <= WORDS);
};
