//! Turns what a source says into a block.

use super::layout::{BLOCKS, BUCKETS, CHECKED, CHECKSUM, NAME, WORDS, block, checksum, header};
use super::layout::{MAGIC, VERSION};
use super::numbers::{ChannelNumbers, RoleNumbers};
use super::row::{Numbers, Row};
use crate::error::Result;
use crate::shm::layout::as_u64;
use crate::shm::status_memory::StatusMemory;

/// The page of this process.
#[derive(Debug)]
pub(super) struct Writer {
    memory: StatusMemory<WORDS>,
    /// When this process began.
    pub(super) start_time: u64,
    /// Which blocks are in use, of those that were written so far.
    used: Vec<bool>,
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

impl Writer {
    pub(super) fn create(start_time: u64) -> Result<Self> {
        Ok(Self { memory: StatusMemory::create(NAME, BLOCKS + 1)?, start_time, used: Vec::new() })
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &std::fs::File {
        self.memory.file()
    }

    /// How many blocks there are from the start on.
    pub(super) fn blocks(&self) -> usize {
        self.used.len()
    }

    /// Frees a block. Returns whether it was in use.
    pub(super) fn free(&mut self, block: usize) -> Result<bool> {
        let was_used = self.used.get_mut(block).is_some_and(std::mem::take);
        if was_used { self.write(block + 1, [0; WORDS]) } else { Ok(false) }
    }

    pub(super) fn write_header(&mut self, said: &Header) -> Result<()> {
        let mut words = [0; WORDS];
        set(&mut words, header::MAGIC, MAGIC);
        set(&mut words, header::VERSION, VERSION);
        set(&mut words, header::PID, said.pid.into());
        set(&mut words, header::START_TIME, said.start_time);
        set(&mut words, header::BLOCKS, as_u64(said.blocks));
        set(&mut words, header::HEARTBEAT, said.heartbeat);
        set(&mut words, header::PERIOD, said.period);
        set(&mut words, header::OMITTED, said.omitted);
        set_text(&mut words, header::LIBRARY, concat!("slipring ", env!("CARGO_PKG_VERSION")));
        self.write(0, words).map(drop)
    }

    /// Writes a block. Returns whether it has changed.
    pub(super) fn write_row(&mut self, block: usize, row: &Row, now: u64) -> Result<bool> {
        let changed = self.write(block + 1, row_words(row, now))?;
        self.used.resize(self.used.len().max(block + 1), false);
        self.used.get_mut(block).into_iter().for_each(|used| *used = true);
        Ok(changed)
    }

    fn write(&mut self, index: usize, mut words: [u64; WORDS]) -> Result<bool> {
        let sum = checksum(words.iter().skip(CHECKED).copied());
        set(&mut words, CHECKSUM, sum);
        self.memory.write(index, &words)
    }
}

/// The words of a block, without those before what the checksum covers.
pub(crate) fn row_words(row: &Row, now: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let (kind, numbers) = match &row.numbers {
        Numbers::Channel(numbers) => (1, numbers.to_words(now)),
        Numbers::Role(numbers) => (2, numbers.to_words(now)),
    };
    set(&mut words, block::KIND, kind);
    set(&mut words, block::ID, row.id);
    set(&mut words, block::COUNT, as_u64(numbers.len()));
    set_text(&mut words, block::ROLE, &row.role);
    set_text(&mut words, block::NOTE, &row.note);
    set_all(&mut words, block::NUMBERS, numbers);
    for (kind, count) in &row.errors {
        let index = usize::try_from(kind.code()).unwrap_or(0);
        if let Some(word) = words.get_mut(block::ERRORS).and_then(|all| all.get_mut(index)) {
            *word = *count;
        }
    }
    for (range, times) in block::TIMES.into_iter().zip([&row.first_times, &row.second_times]) {
        set_all(&mut words, range, std::iter::once(times.sum_ns).chain(times.buckets));
    }
    words
}

fn set(words: &mut [u64; WORDS], index: usize, value: u64) {
    if let Some(word) = words.get_mut(index) {
        *word = value;
    }
}

fn set_all(
    words: &mut [u64; WORDS],
    range: std::ops::Range<usize>,
    values: impl IntoIterator<Item = u64>,
) {
    let places = words.get_mut(range).into_iter().flatten();
    places.zip(values).for_each(|(word, value)| *word = value);
}

/// Cuts a text at a character, if it is too long.
fn set_text(words: &mut [u64; WORDS], range: std::ops::Range<usize>, text: &str) {
    let text = text.get(..text.floor_char_boundary(range.len() * 8)).unwrap_or_default();
    let eights = text.as_bytes().chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(bytes)
    });
    set_all(words, range, eights);
}

// The lists fit their place in a block.
const _: () = {
    let room = block::NUMBERS.end - block::NUMBERS.start;
    assert!(ChannelNumbers::FIELDS.len() <= room && RoleNumbers::FIELDS.len() <= room);
    assert!(block::TIMES[0].end - block::TIMES[0].start == BUCKETS + 1);
    assert!(block::TIMES[1].end <= WORDS);
};
