//! Status pages of other processes, which may have any bytes, and change while they are read.

use std::cell::Cell;
use std::io;

use crate::error::ErrorKind;
use crate::status_page::inside::{
    BLOCK_BYTES, CHECKED, CHECKSUM, Pages, WORDS, checksum, header, row_words, rows,
};
use crate::status_page::{Numbers, Row};

/// Some time of the monotonic clock.
const NOW: u64 = 1 << 60;
/// The magic number and the version of a page that is not refused for them.
const MAGIC: [u64; 2] = [u64::from_le_bytes(*b"SLIPSTAT"), 1];

/// The bytes of a page.
struct Bytes {
    bytes: Vec<u8>,
    /// How often it was read, if another byte is another one each time.
    reads: Option<Cell<usize>>,
}

impl Pages for Bytes {
    fn read(&self, into: &mut [u8], from: u64) -> io::Result<()> {
        let from = usize::try_from(from).unwrap();
        let found = self.bytes.get(from..).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        if let Some(reads) = &self.reads {
            reads.set(reads.get() + 1);
            let at = reads.get() * 8 % into.len();
            // Every few reads it stays as it is.
            into.get_mut(at)
                .filter(|_| reads.get() % 3 != 0)
                .into_iter()
                .for_each(|byte| *byte ^= 1);
        }
        Ok(())
    }
}

/// Reads the input, after its first byte, as a page. That byte says whether its checksums are made right,
/// so that what is behind them is reached, and whether it changes while it is read.
pub fn status_page(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if how & 1 != 0 {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let put = |bytes: &mut [u8], index: usize, word: u64| {
            bytes[8 * index..8 * (index + 1)].copy_from_slice(&word.to_le_bytes());
        };
        for (index, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            block[0] &= !1;
            for (at, word) in MAGIC.into_iter().enumerate().filter(|_| index == 0) {
                put(block, 2 + at, word);
            }
            let words = block.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
            let sum = checksum(words.skip(CHECKED));
            put(block, CHECKSUM, sum);
        }
    }
    let page = Bytes { bytes, reads: (how & 2 != 0).then(Cell::default) };
    let read = header(&page).and_then(|header| {
        let Some((header, library)) = header else { return Ok((Vec::new(), 0)) };
        check_text(&library);
        rows(&page, header.blocks, NOW)
    });
    match read {
        Ok((rows, torn)) => {
            assert!(rows.len() + usize::try_from(torn).unwrap() <= 2048);
            rows.iter().for_each(check_row);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Mismatch),
    }
}

fn check_text(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// What was read can be shown, and is the same again when it is written and read.
fn check_row(row: &Row) {
    [&row.role, &row.note].into_iter().for_each(|text| check_text(text));
    for times in [&row.first_times, &row.second_times] {
        let _ = (times.count(), times.quantile(0.5), times.quantile(0.99));
    }
    let mut words = row_words(row, NOW);
    words[CHECKSUM] = checksum(words.iter().skip(CHECKED).copied());
    let block: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(words.len(), WORDS);
    let bytes = [vec![0; BLOCK_BYTES], block].concat();
    let (again, torn) = rows(&Bytes { bytes, reads: None }, 1, NOW).unwrap();
    assert_eq!((again.len(), torn), (1, 0));
    let again = &again[0];
    assert_eq!((again.id, &again.numbers), (row.id, &row.numbers));
    assert_eq!((&again.first_times, &again.second_times), (&row.first_times, &row.second_times));
    // A character that takes the place of others may be longer, so that the text is cut.
    for (again, text) in [(&again.role, &row.role), (&again.note, &row.note)] {
        assert!(text.starts_with(again.as_str()) && (again == text || text.contains('\u{FFFD}')));
    }
    let number = |row: &Row| match row.numbers {
        Numbers::Channel(numbers) => numbers.iter().count(),
        Numbers::Role(numbers) => numbers.iter().count(),
    };
    assert_eq!(number(again), number(row));
}
