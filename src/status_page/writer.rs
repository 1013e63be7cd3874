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
    /// How many blocks were written so far.
    blocks: usize,
}

/// What the header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) heartbeat: u64,
    pub(super) period: u64,
    pub(super) omitted: u64,
    /// How many blocks there are.
    pub(super) blocks: usize,
}

impl Writer {
    pub(super) fn create() -> Result<Self> {
        Ok(Self { memory: StatusMemory::create(NAME, BLOCKS + 1)?, blocks: 0 })
    }

    /// How many blocks there are from the start on.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Writes each row into the block of its place, and frees all other blocks.
    pub(super) fn write_rows(&mut self, rows: &[Option<Row>]) -> Result<()> {
        for index in 0..rows.len().max(self.blocks) {
            match rows.get(index).and_then(Option::as_ref) {
                Some(row) => self.write_row(index, row)?,
                None => self.write(index + 1, [0; WORDS])?,
            }
        }
        self.blocks = self.blocks.max(rows.len());
        Ok(())
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
        self.write(0, words)
    }

    fn write_row(&mut self, index: usize, row: &Row) -> Result<()> {
        let mut words = [0; WORDS];
        let (kind, numbers): (u64, Vec<u64>) = match &row.numbers {
            Numbers::Channel(numbers) => (1, numbers.iter().map(|(_, number)| number).collect()),
            Numbers::Role(numbers) => (2, numbers.iter().map(|(_, number)| number).collect()),
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
        self.write(index + 1, words)
    }

    fn write(&mut self, index: usize, mut words: [u64; WORDS]) -> Result<()> {
        let sum = checksum(words.iter().skip(CHECKED).copied());
        set(&mut words, CHECKSUM, sum);
        self.memory.write(index, &words)
    }
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
