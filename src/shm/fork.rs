//! Noticing that this process is a fork of the one that mapped the regions.
//!
//! A page that the kernel wipes in a forked child says so for the price of a load;
//! asking for the process id would be a system call for every request.

#![allow(unsafe_code, reason = "madvise: memmap2 does not know MADV_WIPEONFORK")]

use std::sync::OnceLock;

use memmap2::MmapMut;

/// Whether this process was forked, without exec, from one that has used the library.
#[inline]
pub(crate) fn is_forked_child() -> bool {
    match PAGE.get() {
        Some(Some(page)) => page.first() == Some(&0),
        _ => false,
    }
}

static PAGE: OnceLock<Option<MmapMut>> = OnceLock::new();

/// Makes the page; to be called before anything that a child could inherit exists.
/// Where the kernel cannot wipe pages a forked child is not noticed here.
pub(crate) fn watch() {
    PAGE.get_or_init(|| {
        let mut page = MmapMut::map_anon(4096).ok()?;
        let (start, len) = (page.as_mut_ptr().cast(), page.len());
        // SAFETY: the range is exactly the private anonymous mapping that `page` owns, and
        // what a child finds in it are zeros, which are valid bytes.
        if unsafe { libc::madvise(start, len, libc::MADV_WIPEONFORK) } != 0 {
            return None;
        }
        *page.first_mut()? = 1;
        Some(page)
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_process_itself_is_no_fork() {
        watch();
        assert!(!is_forked_child());
        assert!(PAGE.get().is_some_and(Option::is_some), "this kernel wipes pages");
    }
}
