use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Instant;

use super::*;
use crate::limits::memory::Memory;

/// Counts what `work` does, beside what it takes to do nothing.
fn counted(work: impl FnOnce()) -> Counts {
    begin(100_000).unwrap();
    mark();
    work();
    mark();
    let windows = end().unwrap();
    assert_eq!(windows.len(), 1);
    windows[0]
}

/// Counts with the lines as they are and only a yes for instructions, which differ by build.
fn planted(work: impl FnOnce()) -> Counts {
    let counts = counted(work);
    assert!((1..1000).contains(&counts.instructions), "{counts:?}");
    Counts { instructions: 0, ..counts }
}

const NONE: Counts =
    Counts { instructions: 0, atomics: 0, fences: 0, system_calls: 0, clock_reads: 0, lines: 0 };

fn ignore<T>(_: T) {}

fn shared() -> Memory {
    Memory::create(4096).unwrap().0
}

#[test]
fn nothing_between_two_marks_counts_nothing() {
    begin(1000).unwrap();
    mark();
    mark();
    assert_eq!(end().unwrap(), [NONE]);
}

#[test]
fn instructions_are_counted_one_by_one() {
    begin(1000).unwrap();
    mark();
    // SAFETY: these instructions do nothing.
    unsafe { asm!("nop", "nop", "nop") };
    mark();
    // SAFETY: as above.
    unsafe { asm!("nop") };
    mark();
    let windows = end().unwrap();
    let counts = windows.iter().map(|window| window.instructions).collect::<Vec<_>>();
    assert_eq!(counts, [3, 1]);
}

#[test]
fn a_string_instruction_counts_once_and_writes_each_of_its_lines() {
    let memory = shared();
    let target = memory.bytes(0, 256).as_mut_ptr();
    begin(10_000).unwrap();
    mark();
    // SAFETY: 256 bytes are there.
    unsafe { asm!("rep stosb", inout("rcx") 256 => _, inout("rdi") target => _, in("al") 7_u8) };
    mark();
    let windows = end().unwrap();
    assert_eq!(windows[0].lines, 4);
    assert!(windows[0].instructions < 10, "{windows:?}");
}

#[test]
fn an_atomic_operation_that_is_planted_is_counted() {
    let private = AtomicU64::new(0);
    let add = || ignore(private.fetch_add(1, Ordering::Relaxed));
    assert_eq!(planted(add), Counts { atomics: 1, ..NONE });
    let swap = || ignore(private.swap(1, Ordering::AcqRel));
    assert_eq!(planted(swap), Counts { atomics: 1, ..NONE });
    let change = || ignore(private.compare_exchange(1, 2, Ordering::AcqRel, Ordering::Relaxed));
    assert_eq!(planted(change), Counts { atomics: 1, ..NONE });
    let store = || private.store(1, Ordering::Release);
    assert_eq!(planted(store), NONE);
}

#[test]
fn a_full_fence_that_is_planted_is_counted_whatever_it_is_made_of() {
    assert_eq!(planted(|| fence(Ordering::SeqCst)), Counts { fences: 1, ..NONE });
    // SAFETY: the instruction leaves the word as it is.
    let lock = || unsafe { asm!("lock or dword ptr [rsp - 64], 0") };
    assert_eq!(planted(lock), Counts { fences: 1, ..NONE });
    let compiler = || fence(Ordering::AcqRel);
    assert_eq!(planted(compiler), NONE);
}

#[test]
fn a_system_call_and_a_reading_of_the_clock_that_are_planted_are_counted() {
    // SAFETY: the call has no arguments.
    let call = || ignore(unsafe { libc::getppid() });
    assert_eq!(planted(call), Counts { system_calls: 1, ..NONE });
    let clock = || ignore(std::hint::black_box(Instant::now()));
    assert_eq!(planted(clock), Counts { clock_reads: 1, ..NONE });
}

#[test]
fn a_line_of_shared_memory_counts_once_and_private_memory_does_not() {
    let memory = shared();
    let store = |at| memory.word(at).store(1, Ordering::Relaxed);
    let mut private = [0_u8; 256];
    assert_eq!(planted(|| [0, 8, 56, 128].into_iter().for_each(store)).lines, 2);
    assert_eq!(planted(|| memory.bytes(0, 128).fill(3)).lines, 2);
    // A store across the border of two lines writes to both.
    let across = memory.bytes(0, 128).as_mut_ptr().wrapping_add(60).cast::<u64>();
    // SAFETY: eight bytes are there.
    assert_eq!(planted(|| unsafe { across.write_unaligned(1) }).lines, 2);
    assert_eq!(counted(|| std::hint::black_box(&mut private).fill(3)).lines, 0);
    begin(1000).unwrap();
    mark();
    store(0);
    mark();
    store(0);
    mark();
    // Written to in each of the two.
    assert_eq!(end().unwrap().iter().map(|window| window.lines).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn another_thread_is_not_counted_and_not_disturbed() {
    let (counter, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                ignore(counter.fetch_add(1, Ordering::Relaxed));
            }
        });
        while counter.load(Ordering::Relaxed) == 0 {}
        let counts = counted(|| (0..100).for_each(|number| ignore(std::hint::black_box(number))));
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(counts.atomics, 0);
    });
}

#[test]
fn more_than_was_to_be_recorded_is_an_error_and_no_smaller_count() {
    begin(10).unwrap();
    mark();
    (0..100_u64).for_each(|number| ignore(std::hint::black_box(number)));
    mark();
    assert!(end().is_err());
    assert!(end().is_err(), "nothing has begun");
}

#[test]
fn the_kernel_s_list_of_mappings_is_read() {
    let text = "7f00-8f00 rw-s 00000000 00:01 1026 /memfd:x (deleted)\n\
                9000-a000 r-xp 00000000 00:00 0 [vdso]\n";
    let mapping =
        |addresses, is_shared, is_code| Mapping { addresses, is_shared, is_code, is_vdso: is_code };
    let expected = [mapping(0x7f00..0x8f00, true, false), mapping(0x9000..0xa000, false, true)];
    assert_eq!(mappings(text), expected);
}
