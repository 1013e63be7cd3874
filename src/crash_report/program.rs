//! What a program's file says of itself: the build id, by which its debug information is found, and the
//! compilers that made it.
//!
//! The file can be any file. All that is read of it is checked and bounded; what does not fit is left out.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::json::{Json, object};

/// The most bytes of a section, and of the table of sections, that are read.
const MOST: usize = 16 << 10;
/// Bytes of the header of a section.
const SECTION: usize = 64;
/// The type of a section of notes, and that of the note with the build id.
const NOTES: u32 = 7;
const BUILD_ID: u32 = 3;
/// The most compilers that are named.
const MOST_COMPILERS: usize = 8;

/// Describes the program in this file; null if it is none.
pub(super) fn describe(path: &Path) -> Json {
    let Some(program) = Program::open(path) else { return Json::Null };
    object! {
        "build_id": program.build_id(),
        "compilers": program.compilers().into_iter().collect::<Json>(),
    }
}

/// A file in the format ELF, of 64 bits and little-endian.
struct Program {
    file: File,
    sections: Vec<Section>,
}

#[derive(Clone, Copy)]
struct Section {
    name: u32,
    kind: u32,
    offset: u64,
    len: u64,
}

impl Program {
    fn open(path: &Path) -> Option<Self> {
        // Opening a device or a FIFO can block otherwise.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let head = read(&file, 0, 64).filter(|head| head.starts_with(b"\x7fELF\x02\x01"))?;
        let (table, count) = (u64_at(&head, 0x28)?, usize::from(u16_at(&head, 0x3c)?));
        if usize::from(u16_at(&head, 0x3a)?) != SECTION || count * SECTION > MOST {
            return None;
        }
        let table = read(&file, table, count * SECTION)?;
        let section = |at: &[u8]| {
            Some(Section {
                name: u32_at(at, 0)?,
                kind: u32_at(at, 4)?,
                offset: u64_at(at, 0x18)?,
                len: u64_at(at, 0x20)?,
            })
        };
        let mut sections: Vec<_> = table.chunks_exact(SECTION).filter_map(section).collect();
        // The names are in a section of their own. Only that of `.comment` is needed.
        let names = *sections.get(usize::from(u16_at(&head, 0x3e)?))?;
        let names = read(&file, names.offset, usize::try_from(names.len).ok()?.min(MOST))?;
        let is_wanted = |section: &Section| {
            let name = usize::try_from(section.name).ok().and_then(|at| names.get(at..));
            section.kind == NOTES || name.is_some_and(|name| name.starts_with(b".comment\0"))
        };
        sections.retain(is_wanted);
        Some(Self { file, sections })
    }

    fn bytes(&self, section: &Section) -> Option<Vec<u8>> {
        read(&self.file, section.offset, usize::try_from(section.len).ok()?.min(MOST))
    }

    fn build_id(&self) -> Option<String> {
        let notes = self.sections.iter().filter(|section| section.kind == NOTES);
        notes.filter_map(|section| build_id_in(&self.bytes(section)?)).next()
    }

    /// The compilers' own words, such as `rustc version 1.95.0 (…)`.
    fn compilers(&self) -> Vec<String> {
        let comments = self.sections.iter().filter(|section| section.kind != NOTES);
        let Some(bytes) = comments.filter_map(|section| self.bytes(section)).next() else {
            return Vec::new();
        };
        let texts = bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty());
        let texts = texts.take(MOST_COMPILERS).map(|text| {
            let text = String::from_utf8_lossy(text);
            text.chars().take(120).collect()
        });
        texts.collect()
    }
}

/// Finds the build id among notes.
fn build_id_in(mut notes: &[u8]) -> Option<String> {
    loop {
        let (name, len) = (u32_at(notes, 0)?, u32_at(notes, 4)?);
        let kind = u32_at(notes, 8)?;
        let (name, len) = (usize::try_from(name).ok()?, usize::try_from(len).ok()?);
        let rest = notes.get(12..)?;
        let id_at = name.checked_next_multiple_of(4)?;
        let id = rest.get(id_at..)?.get(..len)?;
        if kind == BUILD_ID && rest.starts_with(b"GNU\0") && name == 4 {
            return Some(id.iter().take(64).map(|byte| format!("{byte:02x}")).collect());
        }
        notes = rest.get(id_at.checked_add(len.checked_next_multiple_of(4)?)?..)?;
    }
}

fn read(file: &File, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::process::testing::TempDir;

    #[test]
    fn this_program_names_its_compiler_and_its_build() {
        let program = Program::open(Path::new("/proc/self/exe")).unwrap();
        let compilers = program.compilers();
        let has_rustc = |text: &String| text.starts_with("rustc version 1.");
        assert!(compilers.iter().any(has_rustc), "{compilers:?}");
        if let Some(id) = program.build_id() {
            assert!(id.len() >= 16 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
        }
    }

    #[test]
    fn a_build_id_is_found_behind_other_notes() {
        let note = |name: &[u8], kind: u32, id: &[u8]| {
            let mut note = Vec::new();
            for word in [u32::try_from(name.len()).unwrap(), u32::try_from(id.len()).unwrap(), kind]
            {
                note.extend(word.to_le_bytes());
            }
            for part in [name, id] {
                note.extend(part);
                note.resize(note.len().next_multiple_of(4), 0);
            }
            note
        };
        let other = [note(b"GNU\0", 1, &[9; 16]), note(b"FreeBSD\0", 3, &[8; 5])].concat();
        let all = [other.clone(), note(b"GNU\0", 3, &[0xab, 0xcd, 1])].concat();
        assert_eq!(build_id_in(&all).unwrap(), "abcd01");
        assert_eq!(build_id_in(&other), None);
        for cut in 0..all.len() {
            assert!(build_id_in(&all[..cut]).is_none_or(|id| id == "abcd01"));
        }
    }

    #[test]
    fn a_file_of_anything_is_no_program_and_does_no_harm() {
        let dir = TempDir::new();
        let path = dir.path().join("file");
        let own = std::fs::read("/proc/self/exe").unwrap();
        let head = own[..64].to_vec();
        assert_eq!(describe(Path::new("/no/such/file")), Json::Null);
        assert_eq!(describe(dir.path()), Json::Null);
        std::fs::write(&path, &head).unwrap();
        assert_eq!(describe(&path), Json::Null, "its sections are missing");
        // Each byte of the head changed, with all of the sections behind it.
        let len = own.len();
        let (table, count) = (u64_at(&own, 0x28).unwrap(), u16_at(&own, 0x3c).unwrap());
        let table = usize::try_from(table).unwrap();
        let sections = own[table..len.min(table + usize::from(count) * SECTION)].to_vec();
        let mut small = [head, sections].concat();
        small[0x28..0x30].copy_from_slice(&64_u64.to_le_bytes());
        for at in 4..small.len() {
            let before = small[at];
            for value in [0, 0xff, before ^ 1] {
                small[at] = value;
                std::fs::write(&path, &small).unwrap();
                let _ = describe(&path);
            }
            small[at] = before;
        }
    }
}
