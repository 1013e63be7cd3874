//! Reads status pages of other processes. Nothing that stands in one is trusted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::layout::{
    BLOCK_BYTES, BLOCKS, BUCKETS, CHECKED, CHECKSUM, MAGIC, SEQUENCE, VERSION, WORDS, block,
    checksum, header,
};
use super::numbers::{ChannelNumbers, RoleNumbers};
use super::row::{Numbers, Row, Times};
use super::writer::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::layout::as_u64;

/// How often a block that changes while it is copied is copied again.
const ATTEMPTS: usize = 100;

/// A block as it was copied.
pub(super) type Words = [u64; WORDS];

/// The words of a block; `None` if it was written meanwhile.
pub(super) fn words_of(bytes: &[u8; BLOCK_BYTES]) -> Option<Words> {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [sequence, sum] = [SEQUENCE, CHECKSUM].map(|index| at(&words, index));
    let is_whole = sequence % 2 == 0 && sum == checksum(words.iter().skip(CHECKED).copied());
    // Memory that was never written is all zeros.
    (is_whole || words == [0; WORDS]).then_some(words)
}

/// Copies a block, of which 0 is the header.
fn copy(file: &File, index: usize) -> Result<Words> {
    let mut bytes = [0; BLOCK_BYTES];
    for _ in 0..ATTEMPTS {
        file.read_exact_at(&mut bytes, as_u64(index * BLOCK_BYTES))
            .map_err(|e| Error::with_source(ErrorKind::Mismatch, "a status page that is cut", e))?;
        if let Some(words) = words_of(&bytes) {
            return Ok(words);
        }
        std::thread::yield_now();
    }
    Err(Error::mismatch(format!("block {index} of a status page has a wrong checksum")))
}

/// Reads the header, with the library's name.
pub(super) fn header(file: &File) -> Result<(Header, String)> {
    parse_header(&copy(file, 0)?)
}

pub(super) fn parse_header(words: &Words) -> Result<(Header, String)> {
    let word = |index| at(words, index);
    if word(header::MAGIC) != MAGIC {
        return Err(Error::mismatch("no status page: the magic number is another one"));
    }
    let version = word(header::VERSION);
    if version != VERSION {
        let message = format!("a status page of layout {version}, this program knows {VERSION}");
        return Err(Error::mismatch(message));
    }
    let blocks = usize::try_from(word(header::BLOCKS)).unwrap_or(usize::MAX);
    if blocks > BLOCKS {
        return Err(Error::mismatch(format!("a status page of {blocks} blocks, at most {BLOCKS}")));
    }
    let pid = u32::try_from(word(header::PID));
    let pid = pid.map_err(|_| Error::mismatch("a status page without a process id"))?;
    let said = Header {
        pid,
        start_time: word(header::START_TIME),
        heartbeat: word(header::HEARTBEAT),
        period: word(header::PERIOD),
        omitted: word(header::OMITTED),
        blocks,
    };
    Ok((said, text(words, header::LIBRARY)))
}

/// Reads the blocks that are in use.
pub(super) fn rows(file: &File, blocks: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for index in 1..=blocks {
        rows.extend(parse_row(&copy(file, index)?)?);
    }
    Ok(rows)
}

/// The row in a block; `None` for a block that is free, or of a kind that this version does not know.
pub(super) fn parse_row(words: &Words) -> Result<Option<Row>> {
    let count = usize::try_from(at(words, block::COUNT)).unwrap_or(usize::MAX);
    let numbers = words.get(block::NUMBERS).into_iter().flatten().copied().take(count);
    let numbers = match at(words, block::KIND) {
        1 => Numbers::Channel(ChannelNumbers::from_words(numbers)),
        2 => Numbers::Role(RoleNumbers::from_words(numbers)),
        _ => return Ok(None),
    };
    if count > block::NUMBERS.len() {
        return Err(Error::mismatch(format!("a block with {count} numbers")));
    }
    let errors = words.get(block::ERRORS).into_iter().flatten().copied().zip(0..);
    let errors = errors.filter(|(count, _)| *count != 0);
    let [first_times, second_times] = block::TIMES.map(|range| times(words, range));
    Ok(Some(Row {
        id: at(words, block::ID),
        role: text(words, block::ROLE),
        note: text(words, block::NOTE),
        numbers,
        errors: errors.map(|(count, code)| (ErrorKind::from_code(code), count)).collect(),
        first_times,
        second_times,
    }))
}

fn times(words: &Words, range: std::ops::Range<usize>) -> Times {
    let mut all = words.get(range).into_iter().flatten().copied();
    let sum_ns = all.next().unwrap_or(0);
    let mut buckets = [0; BUCKETS];
    buckets.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    Times { sum_ns, buckets }
}

/// A text without control characters: it is shown in terminals.
fn text(words: &Words, range: std::ops::Range<usize>) -> String {
    let bytes = words.get(range).into_iter().flatten().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    let shown = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    String::from_utf8_lossy(&bytes).chars().map(shown).collect()
}

fn at(words: &Words, index: usize) -> u64 {
    words.get(index).copied().unwrap_or(0)
}
