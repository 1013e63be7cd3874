//! Reads status pages of other processes. Nothing that stands in one is trusted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::layout::{
    BLOCK_BYTES, BLOCKS, BUCKETS, CHECKED, CHECKSUM, MAGIC, SEQUENCE, VERSION, WORDS, block,
    checksum, header,
};
use super::numbers::{ChannelNumbers, RoleNumbers};
use super::row::{Numbers, Row, Times};
use super::writer::Header;
use crate::error::{Error, ErrorKind, Result, shown};
use crate::shm::layout::as_u64;

/// How often a block that changes while it is copied is copied again.
const ATTEMPTS: usize = 100;
/// How often all blocks of a page together. Its host writes one at a time, so that many that are half
/// written are no honest host's, and must not keep the reader busy.
const ATTEMPTS_OF_ALL: usize = 1000;

/// What pages are copied from.
pub(crate) trait Pages {
    /// Fills the buffer from this place on.
    fn read(&self, into: &mut [u8], from: u64) -> io::Result<()>;
}

impl Pages for File {
    fn read(&self, into: &mut [u8], from: u64) -> io::Result<()> {
        self.read_exact_at(into, from)
    }
}

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

/// Copies a block, of which 0 is the header; `None` if it changes again and again while it is copied, or
/// stays half written.
fn copy(pages: &impl Pages, index: usize, left: &mut usize) -> Result<Option<Words>> {
    let mut bytes = [0; BLOCK_BYTES];
    for _ in 0..=ATTEMPTS {
        pages
            .read(&mut bytes, as_u64(index * BLOCK_BYTES))
            .map_err(|e| Error::with_source(ErrorKind::Mismatch, "a status page that is cut", e))?;
        if let Some(words) = words_of(&bytes) {
            return Ok(Some(words));
        }
        let Some(fewer) = left.checked_sub(1) else { break };
        *left = fewer;
        std::thread::yield_now();
    }
    Ok(None)
}

/// Reads the header, with the library's name; `None` if the page was not written yet.
pub(crate) fn header(pages: &impl Pages) -> Result<Option<(Header, String)>> {
    match copy(pages, 0, &mut ATTEMPTS.clone())? {
        None => Err(Error::mismatch("the header of a status page has a wrong checksum")),
        Some(words) if words == [0; WORDS] => Ok(None),
        Some(words) => parse_header(&words).map(Some),
    }
}

fn parse_header(words: &Words) -> Result<(Header, String)> {
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

/// Reads the blocks that are in use, as they are at `now`. Also returns how many of them are torn.
pub(crate) fn rows(pages: &impl Pages, blocks: usize, now: u64) -> Result<(Vec<Row>, u64)> {
    let (mut rows, mut torn, mut left) = (Vec::new(), 0, ATTEMPTS_OF_ALL);
    for index in 1..=blocks {
        match copy(pages, index, &mut left)? {
            Some(words) => rows.extend(parse_row(&words, now)?),
            None => torn += 1,
        }
    }
    Ok((rows, torn))
}

/// The row in a block; `None` for a block that is free, or of a kind that this version does not know.
fn parse_row(words: &Words, now: u64) -> Result<Option<Row>> {
    let count = usize::try_from(at(words, block::COUNT)).unwrap_or(usize::MAX);
    let numbers = words.get(block::NUMBERS).into_iter().flatten().copied().take(count);
    let numbers = match at(words, block::KIND) {
        1 => Numbers::Channel(ChannelNumbers::from_words(numbers, now)),
        2 => Numbers::Role(RoleNumbers::from_words(numbers, now)),
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
        pid: None,
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

/// A text that may be shown.
fn text(words: &Words, range: std::ops::Range<usize>) -> String {
    let bytes = words.get(range).into_iter().flatten().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    shown(&String::from_utf8_lossy(&bytes))
}

fn at(words: &Words, index: usize) -> u64 {
    words.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::writer::{Writer, block_of, row_words};
    use super::*;
    use crate::sys::memfd::{SEALS_DOWN, check_seals};

    /// Some time of the monotonic clock.
    const NOW: u64 = 1 << 50;

    impl Pages for Vec<u8> {
        fn read(&self, into: &mut [u8], from: u64) -> io::Result<()> {
            let from = usize::try_from(from).unwrap();
            let found = self.get(from..).and_then(|bytes| bytes.get(..into.len()));
            into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn row(id: u64, number: u64) -> Row {
        let numbers = ChannelNumbers::from_words(std::iter::repeat(number), NOW);
        Row {
            id,
            pid: None,
            role: "embed\u{1B}[2J\u{61C}\u{202E}\u{2028}".into(),
            note: "n\u{E4}".repeat(1000),
            numbers: Numbers::Channel(numbers),
            errors: vec![(ErrorKind::Timeout, 3)],
            first_times: Times { sum_ns: number, buckets: [number; BUCKETS] },
            second_times: Times::default(),
        }
    }

    fn whole(mut words: Words) -> Words {
        words[CHECKSUM] = checksum(words[CHECKED..].iter().copied());
        words
    }

    fn header_words(magic: u64, version: u64, blocks: u64) -> Words {
        let mut words = [0; WORDS];
        words[header::MAGIC] = magic;
        (words[header::VERSION], words[header::BLOCKS]) = (version, blocks);
        whole(words)
    }

    fn page(blocks: &[Words]) -> Vec<u8> {
        blocks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// What is read of a page: how many rows, and how many of them are torn; or why it is refused.
    fn read(page: &Vec<u8>) -> std::result::Result<(usize, u64), String> {
        let read = header(page).and_then(|header| match header {
            Some((header, _)) => rows(page, header.blocks, NOW),
            None => Ok((Vec::new(), 0)),
        });
        read.map(|(rows, torn)| (rows.len(), torn)).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            error.to_string()
        })
    }

    #[test]
    fn a_page_that_is_not_as_it_must_be_is_refused_and_says_why() {
        let good = header_words(MAGIC, VERSION, 1);
        let row = whole(row_words(&row(1, 5), NOW));
        let many = {
            let mut words = row;
            words[block::COUNT] = 65;
            whole(words)
        };
        let torn = {
            let mut words = good;
            words[SEQUENCE] = 1;
            words
        };
        let cut = page(&[good, row])[..2 * BLOCK_BYTES - 1].to_vec();
        for (page, why) in [
            (Vec::new(), "is cut"),
            (page(&[good])[..100].to_vec(), "is cut"),
            (page(&[good]), "is cut"),
            (cut, "is cut"),
            (page(&[[7; WORDS]]), "wrong checksum"),
            (page(&[torn]), "wrong checksum"),
            (page(&[header_words(MAGIC + 1, VERSION, 0)]), "the magic number"),
            (page(&[header_words(MAGIC, 2, 0)]), "layout 2, this program knows 1"),
            (page(&[header_words(MAGIC, VERSION, 2049)]), "of 2049 blocks"),
            (page(&[header_words(MAGIC, VERSION, u64::MAX)]), "blocks"),
            (page(&[good, many]), "with 65 numbers"),
        ] {
            let error = read(&page).unwrap_err();
            assert!(error.contains(why), "{error}: {why}");
        }
        assert_eq!(read(&page(&[good, row])), Ok((1, 0)));
        assert_eq!(read(&page(&[[0; WORDS]])), Ok((0, 0)), "nothing was written yet");
    }

    #[test]
    fn a_row_that_stays_half_written_does_not_hide_the_others() {
        let row = whole(row_words(&row(1, 5), NOW));
        let (mut begun, mut mixed, mut unknown) = (row, row, row);
        begun[SEQUENCE] = 7;
        mixed[block::NUMBERS.start] += 1;
        unknown[block::KIND] = 9;
        let blocks = [header_words(MAGIC, VERSION, 6), row, begun, mixed, [0; WORDS], row];
        let blocks = [&blocks[..], &[whole(unknown)]].concat();
        assert_eq!(read(&page(&blocks)), Ok((2, 2)));
    }

    /// A page that counts how often it is read.
    struct Counted(Vec<u8>, std::cell::Cell<usize>);

    impl Pages for Counted {
        fn read(&self, into: &mut [u8], from: u64) -> io::Result<()> {
            self.1.set(self.1.get() + 1);
            self.0.read(into, from)
        }
    }

    #[test]
    fn a_page_of_half_written_rows_is_not_read_again_and_again() {
        let page = Counted(page(&[[7; WORDS]; BLOCKS + 1]), 0.into());
        let (rows, torn) = rows(&page, BLOCKS, NOW).unwrap();
        assert_eq!((rows.len(), torn), (0, as_u64(BLOCKS)));
        assert!(page.1.get() <= BLOCKS + ATTEMPTS_OF_ALL, "{:?}", page.1);
    }

    #[test]
    fn a_row_reads_back_and_its_texts_can_be_shown() {
        let written = row(1, 5);
        let words = whole(row_words(&written, NOW));
        let found = parse_row(&words, NOW).unwrap().unwrap();
        assert_eq!(found.role, "embed\u{FFFD}[2J\u{FFFD}\u{FFFD}\u{FFFD}");
        assert!(written.note.starts_with(&found.note) && found.note.len() > 380);
        assert_eq!(found, Row { role: found.role.clone(), note: found.note.clone(), ..written });
        // What goes on has a time in the page, from which its length follows.
        let Numbers::Channel(numbers) = found.numbers else { panic!() };
        assert_eq!((numbers.busy_for, words[block::NUMBERS.start + 3]), (NOW - 5, 5));
        let later = parse_row(&words, NOW + 10).unwrap().unwrap();
        assert!(matches!(later.numbers, Numbers::Channel(it) if it.busy_for == NOW + 5));
    }

    #[test]
    fn what_is_read_while_it_is_written_is_all_of_one_moment() {
        let mut writer = Writer::create(0).unwrap();
        assert!(writer.write_row(0, &block_of(&row(1, 1), NOW)));
        assert!(!writer.write_row(0, &block_of(&row(1, 1), NOW)), "it has that already");
        let path = format!("/proc/self/fd/{}", writer.file().as_raw_fd());
        let file = File::open(path).unwrap();
        check_seals(&file, SEALS_DOWN).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 2.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    writer.write_row(0, &block_of(&row(number, number), NOW));
                }
            });
            let mut last = 0;
            let mut found = 0;
            while found < 300 {
                let (rows, _) = rows(&file, 1, NOW).unwrap();
                let Some(row) = rows.first() else { continue };
                found += 1;
                assert!(row.id >= last);
                last = row.id;
                let Numbers::Channel(numbers) = row.numbers else { panic!() };
                assert_eq!((numbers.pid_inside, numbers.leases), (row.id, row.id));
                assert_eq!(row.first_times.buckets, [row.id; BUCKETS]);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
