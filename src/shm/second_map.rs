//! A second map of a region, in which received bytes can stay when their slot is given back.
//!
//! A reply that is kept must not hold its slot for ever, and its bytes must stay at their address:
//! arrays of other languages point there. The ring's own map cannot give way, because the next lap is
//! read at the same addresses. So a reply that is kept is read through a map of its own, which is
//! private and read-only:
//!
//! ```text
//!   the ring's map   | a | b | c | d |      shared
//!   the file         | a | b | c | d |
//!   the second map   | a | B | c | d |      private; B is a copy that was made of b
//! ```
//!
//! A page of a private map is the file's page until it is written to. Then the kernel puts a copy in
//! its place, at the same address. [`PinnedBytes::leave_ring`] has the kernel do that without a change
//! of any byte (`MADV_POPULATE_WRITE`), while the slot is still held, so that the copy has the bytes of
//! the reply. `MADV_DONTNEED` puts the file's page back once no reply needs the copy.
//!
//! # Readers
//!
//! Other threads may read the bytes meanwhile. They see the same bytes at each moment, and never a
//! fault:
//!
//! * The kernel fills the copy before it maps it. It removes the entry of the old page and flushes it
//!   from all processors before it enters the copy, under the lock of the page table (`wp_page_copy` in
//!   `mm/memory.c`). A processor that finds no entry takes a fault, which waits for that lock and then
//!   finds the copy. When the call returns no processor reads the file's page here any more.
//! * `mprotect` makes the pages writable for that time. The area stays mapped and readable; a fault
//!   meanwhile waits for the lock of the area, or of all areas (`lock_vma_under_rcu` and `mmap_lock`).
//!
//! To move other pages there by `mremap` would do as well until it fails: it unmaps the old ones first,
//! and an error after that leaves a hole under an array.
//!
//! # Pages that several replies share
//!
//! A page is shared by replies that lie beside each other. So for each page there is a count of the
//! replies that are kept on it, and whether it may be a copy:
//!
//! ```text
//!            a reply on it leaves the ring
//!   file's  -------------------------------->  copy
//!           <--------------------------------
//!            no reply on it is kept any more
//! ```
//!
//! * All replies that are kept on a page when it becomes a copy have held their slots until then, or
//!   would have made it a copy earlier. So the copy has the bytes of all of them.
//! * No reply is kept on a page that is a copy: it may come of a later lap.
#![allow(unsafe_code, reason = "maps a file once more, and exchanges pages of that map")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::bytes::PeerBytes;
use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::sys::ability::Ability;
use crate::sys::{check, fork, memfd};

/// A private, read-only map of a region's file.
#[derive(Debug)]
pub(crate) struct SecondMap {
    map: MmapRaw,
    page_size: usize,
    /// Empty until it is needed.
    pages: Mutex<Vec<Page>>,
}

#[derive(Debug, Clone, Default)]
struct Page {
    /// Replies that are kept on it.
    users: u32,
    /// Not the file's page, or maybe not.
    is_copy: bool,
}

/// Bytes of a region that stay at their address as long as this lives.
#[derive(Debug)]
pub(crate) struct PinnedBytes {
    map: Arc<SecondMap>,
    offset: usize,
    len: usize,
}

impl SecondMap {
    /// Maps the first `len` bytes of a file, which must not be truncated while they are mapped. Takes
    /// addresses and no memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os).
    pub(crate) fn of(file: &File, len: usize) -> Result<Arc<Self>> {
        let mut options = MmapOptions::new();
        // Otherwise the kernel would account for the pages that were copied, one area for each.
        options.len(len).no_reserve_swap();
        // SAFETY: others write to the file, so that the bytes may change. Nothing borrows them as a
        // slice: they are reached by `PeerBytes` only. The file keeps its length: its seals say so, and
        // the caller.
        let map = unsafe { options.map_copy_read_only(file) };
        let map = map.map_err(|e| Error::os(format!("cannot map {len} bytes once more"), e))?;
        Ok(Arc::new(Self { map: map.into(), page_size: page_size(), pages: Mutex::default() }))
    }

    /// Keeps bytes at their address. `None` if a page of them is a copy, or if this kernel cannot
    /// exchange pages: before Linux 5.14.
    pub(crate) fn pin(self: &Arc<Self>, offset: usize, len: usize) -> Option<PinnedBytes> {
        let end = offset.checked_add(len)?;
        if len == 0 || end > self.map.len() || !can_exchange() {
            return None;
        }
        let mut pages = self.pages.lock();
        if pages.is_empty() {
            pages.resize(self.map.len().div_ceil(self.page_size), Page::default());
        }
        let pages = pages.get_mut(self.pages_of(offset, len))?;
        if pages.iter().any(|page| page.is_copy) {
            return None;
        }
        pages.iter_mut().for_each(|page| page.users += 1);
        Some(PinnedBytes { map: Arc::clone(self), offset, len })
    }

    fn pages_of(&self, offset: usize, len: usize) -> Range<usize> {
        offset / self.page_size..(offset + len).div_ceil(self.page_size)
    }

    fn bytes(&self, offset: usize, len: usize) -> PeerBytes<'_> {
        // Never null: memmap2 returns an error instead.
        let start = NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: `pin` has checked that the bytes lie in the map.
        let first = unsafe { start.byte_add(offset) };
        // SAFETY: as above; the map outlives the borrow of `self`.
        unsafe { PeerBytes::new(first, len) }
    }

    /// Puts private copies in the place of these pages. After an error some may be copies.
    fn copy(&self, pages: Range<usize>) -> io::Result<()> {
        let (start, len) = self.span(&pages);
        self.protect(&pages, libc::PROT_READ | libc::PROT_WRITE)?;
        let copied = loop {
            match self.map.advise_range(Advice::PopulateWrite, start, len) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                copied => break copied,
            }
        };
        // If that fails, code that writes to bytes that it may only read is not stopped.
        let _ = self.protect(&pages, libc::PROT_READ);
        copied
    }

    fn protect(&self, pages: &Range<usize>, protection: libc::c_int) -> io::Result<()> {
        let (start, len) = self.span(pages);
        let start = self.map.as_mut_ptr().wrapping_add(start).cast();
        // SAFETY: the pages lie in the map, which only this value has, and stay readable. No reference
        // leads to their bytes.
        check(unsafe { libc::mprotect(start, len, protection) }).map(drop)
    }

    /// Puts the file's pages in the place of copies that nothing reads any more.
    fn put_back(&self, pages: &Range<usize>) -> io::Result<()> {
        let (start, len) = self.span(pages);
        let start = self.map.as_mut_ptr().wrapping_add(start).cast();
        let put = |how| {
            // SAFETY: the pages lie in the map, which only this value has. The bytes there change,
            // which nothing depends on: the callers know of no `PinnedBytes` on these pages.
            check(unsafe { libc::madvise(start, len, how) }).map(drop)
        };
        // If a process locks all its memory only the first works, which needs Linux 5.18.
        put(libc::MADV_DONTNEED_LOCKED).or_else(|_| put(libc::MADV_DONTNEED))
    }

    /// Where pages start, and how many bytes they are.
    fn span(&self, pages: &Range<usize>) -> (usize, usize) {
        (pages.start * self.page_size, pages.len() * self.page_size)
    }
}

impl PinnedBytes {
    /// Returns the bytes, whose address is always the same.
    #[inline]
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        self.map.bytes(self.offset, self.len)
    }

    /// Copies the bytes to memory of this process, at the same address. Their slot, which must not
    /// have been given back before, is not needed after that. Takes about 2 µs for each page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if there is no memory. The slot is still needed.
    pub(crate) fn leave_ring(&self) -> Result<()> {
        let pages = self.map.pages_of(self.offset, self.len);
        let mut all = self.map.pages.lock();
        // Before that: an error can leave copies.
        all.get_mut(pages.clone()).into_iter().flatten().for_each(|page| page.is_copy = true);
        self.map.copy(pages).map_err(|e| {
            Error::os(format!("no memory for {} bytes of a reply that is kept", self.len), e)
        })
    }
}

impl Drop for PinnedBytes {
    fn drop(&mut self) {
        // A thread that does not exist there may hold the lock.
        if fork::is_forked_child() {
            return;
        }
        let range = self.map.pages_of(self.offset, self.len);
        let mut all = self.map.pages.lock();
        let Some(pages) = all.get_mut(range.clone()) else { return };
        pages.iter_mut().for_each(|page| page.users = page.users.saturating_sub(1));
        let mut first = range.start;
        for run in pages.chunk_by_mut(|a, b| a.is_unused_copy() == b.is_unused_copy()) {
            let next = first + run.len();
            // A copy that cannot be put back stays one: no reply is kept on it.
            if run.iter().all(Page::is_unused_copy) && self.map.put_back(&(first..next)).is_ok() {
                run.iter_mut().for_each(|page| page.is_copy = false);
            }
            first = next;
        }
    }
}

impl Page {
    fn is_unused_copy(&self) -> bool {
        self.is_copy && self.users == 0
    }
}

/// Whether this kernel shows what others write to the file in a private map, until it is told to copy
/// a page, and then again when it is told to forget the copy. The manual leaves the first open; Linux
/// has always mapped the file's own page. So it is tried.
fn can_exchange() -> bool {
    static CAN: Ability = Ability::unknown();
    CAN.is_there(|| try_exchange().map(|seen| seen == [1, 2, 2, 3]))
}

/// What is seen of one byte that is 1, then 2, then 3 in the file, with a copy before the last change,
/// and after the copy was given up.
fn try_exchange() -> Result<[u8; 4]> {
    let failed = |e| Error::os("cannot exchange pages of a map", e);
    let len = page_size();
    let file = memfd::create(c"slipring-trial", crate::shm::layout::as_u64(len))?;
    let map = SecondMap::of(&file, len)?;
    let mut seen = [0; 4];
    let [first, second, copied, put_back] = &mut seen;
    let look = |seen: &mut u8| map.bytes(0, 1).copy_to(std::slice::from_mut(seen));
    let write = |byte| file.write_all_at(&[byte], 0).map_err(failed);
    write(1)?;
    look(first)?;
    write(2)?;
    look(second)?;
    map.copy(0..1).map_err(failed)?;
    write(3)?;
    look(copied)?;
    map.put_back(&(0..1)).map_err(failed)?;
    look(put_back)?;
    Ok(seen)
}

pub(super) fn page_size() -> usize {
    // SAFETY: takes an integer and only reports.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Never: the kernel has one. Pages of a wrong size are refused by it.
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const LEN: usize = 8 * 4096;

    /// A file of eight pages, each filled with its number, and its second map.
    fn pages() -> (File, Arc<SecondMap>) {
        assert_eq!(page_size(), 4096, "the tests count in pages of this size");
        let file = memfd::create(c"test", 8 * 4096).unwrap();
        for page in 0..8 {
            fill(&file, page, u8::try_from(page).unwrap());
        }
        let map = SecondMap::of(&file, LEN).unwrap();
        (file, map)
    }

    fn fill(file: &File, page: u64, byte: u8) {
        file.write_all_at(&[byte; 4096], page * 4096).unwrap();
    }

    /// How many areas of memory this process has in its files of this test.
    /// How many areas of memory the file has. Other tests have files of that name at the same time.
    fn areas(file: &File) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let inode = file.metadata().unwrap().ino().to_string();
        maps.lines().filter(|line| line.split_whitespace().nth(4) == Some(&inode)).count()
    }

    #[test]
    fn this_kernel_can_exchange_pages() {
        assert_eq!(try_exchange().unwrap(), [1, 2, 2, 3]);
    }

    #[test]
    fn bytes_follow_the_file_until_they_leave_it_and_stay_then() {
        let (file, map) = pages();
        let pinned = map.pin(4096, 4096).unwrap();
        let address = pinned.bytes().as_ptr();
        assert_eq!(pinned.bytes().to_vec(), [1; 4096]);
        fill(&file, 1, 9);
        assert_eq!(pinned.bytes().to_vec(), [9; 4096]);
        pinned.leave_ring().unwrap();
        fill(&file, 1, 10);
        assert_eq!(pinned.bytes().to_vec(), [9; 4096]);
        assert_eq!(pinned.bytes().as_ptr(), address);
        pinned.leave_ring().unwrap();
        assert_eq!(pinned.bytes().to_vec(), [9; 4096], "the second time does nothing");
        drop(pinned);
        assert_eq!(map.pin(4096, 4096).unwrap().bytes().to_vec(), [10; 4096]);
    }

    #[test]
    fn a_page_is_the_files_again_only_when_no_reply_needs_its_copy() {
        let (file, map) = pages();
        // Two that share page 2, and one beside them.
        let first = map.pin(2 * 4096 - 100, 200).unwrap();
        let second = map.pin(2 * 4096 + 100, 4096).unwrap();
        let other = map.pin(4 * 4096, 100).unwrap();
        first.leave_ring().unwrap();
        (0..8).for_each(|page| fill(&file, page, 20));
        assert_eq!(first.bytes().to_vec(), [[1; 100], [2; 100]].concat());
        // Its page 3 is still the file's.
        assert_eq!(second.bytes().to_vec(), [vec![2; 3996], vec![20; 100]].concat());
        assert_eq!(other.bytes().to_vec(), [20; 100]);
        for (offset, len) in [(4096, 1), (2 * 4096, 1), (3 * 4096 - 1, 1), (0, LEN)] {
            assert!(map.pin(offset, len).is_none(), "{len} bytes at {offset}");
        }
        assert!(map.pin(3 * 4096, LEN - 3 * 4096).is_some());
        drop(first);
        assert!(map.pin(4096, 4096).is_some(), "no other reply was on this page");
        assert!(map.pin(2 * 4096, 1).is_none());
        drop(second);
        assert_eq!(map.pin(2 * 4096, 100).unwrap().bytes().to_vec(), [20; 100]);
    }

    #[test]
    fn what_lies_outside_of_the_map_cannot_be_pinned() {
        let (_file, map) = pages();
        for (offset, len) in [(0, 0), (0, LEN + 1), (LEN, 1), (usize::MAX, 2), (1, usize::MAX)] {
            assert!(map.pin(offset, len).is_none(), "{len} bytes at {offset}");
        }
        assert!(map.pin(LEN - 1, 1).is_some());
    }

    #[test]
    fn a_hole_that_the_peer_punches_takes_no_byte_that_has_left() {
        let (file, map) = pages();
        let (left, stays) = (map.pin(4096, 8192).unwrap(), map.pin(4 * 4096, 4096).unwrap());
        left.leave_ring().unwrap();
        let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a system call on a descriptor that is open.
        check(unsafe { libc::fallocate(file.as_raw_fd(), hole, 0, 8 * 4096) }).unwrap();
        assert_eq!(left.bytes().to_vec(), [[1; 4096], [2; 4096]].concat());
        assert_eq!(stays.bytes().to_vec(), [0; 4096], "the file's page");
        stays.leave_ring().unwrap();
        fill(&file, 4, 9);
        assert_eq!(stays.bytes().to_vec(), [0; 4096]);
    }

    #[test]
    fn bytes_of_a_last_page_that_the_file_does_not_fill_leave_too() {
        let len = 2 * 4096 + 100;
        let file = memfd::create(c"test", len).unwrap();
        let map = SecondMap::of(&file, crate::shm::layout::as_usize(len)).unwrap();
        for round in 1..4 {
            file.write_all_at(&[round; 100], 2 * 4096).unwrap();
            let pinned = map.pin(2 * 4096 - 10, 110).unwrap();
            pinned.leave_ring().unwrap();
            file.write_all_at(&[77; 100], 2 * 4096).unwrap();
            assert_eq!(pinned.bytes().to_vec(), [vec![0; 10], vec![round; 100]].concat());
        }
    }

    #[test]
    fn readers_see_the_same_bytes_while_pages_are_exchanged() {
        use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
        let (file, map) = pages();
        let expected = map.pin(100, LEN - 200).unwrap().bytes().to_vec();
        for _ in 0..50 {
            let pinned = map.pin(100, LEN - 200).unwrap();
            let (is_over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        assert_eq!(pinned.bytes().to_vec(), expected);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let read_on = |from: u64| {
                    while rounds.load(Ordering::Relaxed) < from + 2 {
                        std::hint::spin_loop();
                    }
                };
                read_on(0);
                pinned.leave_ring().unwrap();
                (0..8).for_each(|page| fill(&file, page, 77));
                read_on(rounds.load(Ordering::Relaxed));
                is_over.store(true, Ordering::Relaxed);
            });
            (0..8).for_each(|page| fill(&file, page, u8::try_from(page).unwrap()));
        }
    }

    #[test]
    fn thousands_of_exchanges_leave_one_area_of_memory() {
        let (file, map) = pages();
        let before = areas(&file);
        assert!(before > 0);
        for round in 0..5000 {
            let start = round * 37 % (LEN - 5000);
            let (first, second) = (map.pin(start, 3000).unwrap(), map.pin(start, 5000).unwrap());
            first.leave_ring().unwrap();
            if round % 3 == 0 {
                second.leave_ring().unwrap();
            }
        }
        assert_eq!(areas(&file), before);
        assert!(map.pin(0, LEN).is_some(), "all pages are the file's");
    }
}
