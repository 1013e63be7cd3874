//! Copies of payloads.
#![allow(unsafe_code, reason = "copies between raw pointers")]

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::ptr::NonNull;

use super::arch;
use crate::config::CopyRoutine;

/// Lengths that are copied by a few moves: a call of the C library's copy takes longer.
const SHORT: RangeInclusive<usize> = HALF..=2 * HALF;
const HALF: usize = 32;

/// Bytes of a cache line.
const LINE: usize = 64;

/// From here on a ring chooses the routine.
const CHOSEN_FROM: usize = 4 << 10;

/// The routine of a ring that has found out nothing yet.
pub(crate) const FIRST_ROUTINE: CopyRoutine = CopyRoutine::FIRST;

/// The routines that differ on this processor.
pub(crate) fn available_routines() -> impl Iterator<Item = CopyRoutine> {
    let are_all = arch::has_vectors();
    CopyRoutine::ALL.into_iter().filter(move |routine| are_all || *routine == FIRST_ROUTINE)
}

thread_local! {
    /// The routine for the slot that this thread has claimed last.
    static ROUTINE: Cell<CopyRoutine> = const { Cell::new(FIRST_ROUTINE) };
}

/// Sets the routine for the copies that this thread makes into the slot that it has just claimed.
#[inline]
pub(crate) fn use_routine(routine: CopyRoutine) {
    ROUTINE.set(routine);
}

/// Copies `len` bytes.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`], except that another process may write to `from`
/// meanwhile: then the copy is any mix of old and new bytes.
#[inline]
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    if arch::has_vectors_for(len) {
        // SAFETY: it may be called, as just asked; the rest is the caller's promise.
        return unsafe { arch::copy_vectors(from, to, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// Copies `source` to `target`, which has the same length, as [`slice::copy_from_slice`] does.
/// It is made for a target in a slot of a ring.
///
/// From 4 KiB on it uses the [`CopyRoutine`] that the ring has chosen for the slot that this
/// thread has claimed last.
///
/// # Panics
///
/// If the lengths differ.
#[inline]
pub fn copy_from_slice(target: &mut [u8], source: &[u8]) {
    assert_eq!(target.len(), source.len(), "source and target have the same length");
    if SHORT.contains(&source.len()) {
        return copy_short(target, source);
    }
    if source.len() >= CHOSEN_FROM {
        return copy_long(target, source, ROUTINE.get());
    }
    copy_through_caches(target, source);
}

/// Copies between slices of the same length, of at least [`CHOSEN_FROM`] bytes.
fn copy_long(target: &mut [u8], source: &[u8], routine: CopyRoutine) {
    let len = source.len().min(target.len());
    match routine {
        CopyRoutine::PastCaches if arch::has_vectors() => {
            // The first line has the frame's header in it, which is stored through the caches.
            let start = target.as_ptr().align_offset(LINE).min(len);
            let (to_first, to) = target.split_at_mut(start);
            let (from_first, from) = source.split_at(start);
            let (to_lines, to_last) = to.as_chunks_mut::<LINE>();
            let (from_lines, from_last) = from.as_chunks::<LINE>();
            to_first.copy_from_slice(from_first);
            to_last.copy_from_slice(from_last);
            // SAFETY: it may be called, as just asked; `start` is where a line starts.
            unsafe { arch::copy_lines_past_caches(to_lines, from_lines) };
        }
        CopyRoutine::Vectors if arch::has_vectors() && len >= CHOSEN_FROM => {
            let (from, to) = (NonNull::from(source).cast(), NonNull::from(&mut *target).cast());
            // SAFETY: it may be called, as just asked; both are valid for `len` bytes, and a mutable
            // borrow overlaps no other.
            unsafe { arch::copy_vectors(from, to, len) }
        }
        _ => target.copy_from_slice(source),
    }
}

/// Copies the first [`HALF`] bytes and the last, which may overlap.
#[inline]
fn copy_short(target: &mut [u8], source: &[u8]) {
    if let (Some(from), Some(to)) = (source.first_chunk::<HALF>(), target.first_chunk_mut()) {
        *to = *from;
    }
    if let (Some(from), Some(to)) = (source.last_chunk::<HALF>(), target.last_chunk_mut()) {
        *to = *from;
    }
}

/// As [`copy_from_slice`], for any target.
#[inline]
pub(crate) fn copy_through_caches(target: &mut [u8], source: &[u8]) {
    assert_eq!(target.len(), source.len(), "source and target have the same length");
    let (from, to) = (NonNull::from(source).cast(), NonNull::from(target).cast());
    // SAFETY: both are valid for `source.len()` bytes, as just checked, and a mutable borrow
    // overlaps no other.
    unsafe { copy(from, to, source.len()) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_routine_copies_every_byte() {
        let source: Vec<u8> = (0..160).flat_map(|i| (0..=250_u8).map(move |j| j ^ i)).collect();
        for routine in CopyRoutine::ALL {
            use_routine(routine);
            for len in [CHOSEN_FROM, CHOSEN_FROM + 1, CHOSEN_FROM + 95, 39_900] {
                for (from, to) in [(0, 0), (1, 32), (33, 7), (3, 63)] {
                    let mut target = vec![0xee; len + 128];
                    copy_from_slice(&mut target[to..to + len], &source[from..from + len]);
                    assert!(target[to..to + len] == source[from..from + len], "{routine:?} {len}");
                    assert!(target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xee));
                }
            }
        }
        use_routine(FIRST_ROUTINE);
    }

    #[test]
    fn every_byte_is_copied_at_every_length_and_alignment() {
        let source: Vec<u8> = (0..36).flat_map(|i| (0..=250_u8).map(move |j| j ^ i)).collect();
        for len in (0..300).chain(2040..2320).chain([4096, 8191]) {
            for (from, to) in [(0, 0), (1, 32), (33, 7)] {
                let mut target = vec![0xee; len + 64];
                copy_from_slice(&mut target[to..to + len], &source[from..from + len]);
                assert_eq!(&target[to..to + len], &source[from..from + len], "{len}");
                assert!(target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xee));
            }
        }
    }

    #[test]
    #[should_panic(expected = "same length")]
    fn lengths_that_differ_are_the_callers_mistake() {
        copy_from_slice(&mut [0; 3], b"four");
    }
}
