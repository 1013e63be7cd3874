//! A map of a file: the pages of a memfd in this process.
#![allow(unsafe_code, reason = "promises that a mapping stays where it is")]

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::error::{Error, Result};
use crate::shm::transport::Backing;
use crate::sys::ability::Ability;
use crate::sys::fork::{self, Kept};

#[derive(Debug)]
struct FileMap {
    /// Dropped first: what takes the place of the map in forked children must not be put
    /// where there is none. `None` if the map is read-only.
    kept: Option<Kept>,
    map: MmapRaw,
    /// Descriptors for other processes to look at the memory.
    files: OnceLock<[File; 2]>,
}

/// Maps the first `len` bytes of a file, which must not be truncated while they are mapped.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os); also if a seal forbids a writable map.
pub(super) fn map(file: &File, len: usize, is_writable: bool) -> Result<Arc<dyn Backing>> {
    fork::watch()?;
    let mut options = MmapOptions::new();
    options.len(len);
    let map = if is_writable { options.map_raw(file) } else { options.map_raw_read_only(file) };
    let map = map.map_err(|e| Error::os(format!("cannot map {len} bytes"), e))?;
    // A host that forks without exec would otherwise share the map with its child, in spite
    // of the seal. What can only be read stays readable there: replies that the child
    // inherited lie in it.
    let kept = is_writable.then_some(NonNull::new(map.as_mut_ptr())).flatten().map(|start| {
        // SAFETY: a whole map, which is dropped after what is returned. Its words are
        // atomics, its payloads bytes, all of which may have any value.
        unsafe { fork::keep(start, map.len()) }
    });
    Ok(Arc::new(FileMap { kept, map, files: OnceLock::new() }))
}

/// Whether the kernel makes pages when it is asked to, and tells if there is no memory: Linux 5.14
/// and later.
pub(super) fn can_make_pages() -> bool {
    static CAN: Ability = Ability::unknown();
    CAN.is_there(|| {
        let map = MmapOptions::new().len(1).map_anon();
        let made = map.and_then(|map| map.advise(Advice::PopulateRead));
        made.map(|()| true).map_err(|e| Error::os("cannot make a page", e))
    })
}

impl FileMap {
    fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let how = if self.kept.is_some() { Advice::PopulateWrite } else { Advice::PopulateRead };
        loop {
            match self.map.advise_range(how, offset, len) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

// SAFETY: `map` is a map of `map.len()` bytes, at a page's start, which is unmapped when the
// value is dropped and never moved before that. It is writable exactly if `kept` is there. Its file
// keeps its length: the files of regions are sealed, and `map` asks its callers for it.
unsafe impl Backing for FileMap {
    fn start(&self) -> NonNull<u8> {
        // Never null: memmap2 returns an error instead.
        NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn is_writable(&self) -> bool {
        self.kept.is_some()
    }

    fn keep_open(&self, files: [File; 2]) {
        // Called once for a map.
        let _ = self.files.set(files);
    }

    /// Does nothing on kernels before 5.14, which take a fault for each page.
    fn prefault(&self, offset: usize, len: usize) {
        // In a forked child there would be private pages, which nothing uses.
        if !fork::is_forked_child() {
            // Nothing depends on it.
            let _ = self.populate(offset, len);
        }
    }

    fn make_pages(&self, offset: usize, len: usize) -> Result<()> {
        match self.populate(offset, len) {
            // As in `can_make_pages`: all of them were made with the file.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            made => made.map_err(|e| {
                Error::os(format!("no memory for {len} bytes more of a ring of shared memory"), e)
            }),
        }
    }
}
