//! Counts what a thread does on a hot path, one instruction at a time, with no regard to time.
//!
//! With its trap flag set, a processor stops after each instruction, and the kernel sends the
//! thread a signal. The handler only stores the registers. When the path is over, the stored
//! instructions are decoded: how many there were, which of them are atomic, which write to memory
//! that is shared with another process, and to which lines of it.
//!
//! [`mark`] divides what was done into frames. Only what lies between two marks is counted.
#![allow(unsafe_code, reason = "signal handlers, the trap flag, and the program's own code")]
#![allow(
    clippy::as_conversions,
    clippy::cast_possible_wrap,
    reason = "64-bit Linux only: registers, pointers and lengths are all of one size"
)]

use std::arch::asm;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::ops::{AddAssign, Range};
use std::ptr;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
    UsedMemory,
};
use libc::ucontext_t;

/// The trap flag in the processor's flags.
const TRAP: i64 = 0x100;
/// The place of a mark: an instruction without effect that no compiler makes.
const MARK: u64 = 0x5119_5119;
const LINE: u64 = 64;
/// The longest instruction.
const LONGEST: u64 = 15;

/// What was done between two marks, or several of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions. A string instruction counts once, and the kernel's code in this process
    /// (the vDSO) does not count: its clock may have to be read again.
    pub instructions: u64,
    /// Atomic read-modify-write operations.
    pub atomics: u64,
    /// Full fences.
    pub fences: u64,
    /// System calls.
    pub system_calls: u64,
    /// Calls of the kernel's code in this process: readings of the clock.
    pub clock_reads: u64,
    /// Lines of shared memory that were written to between two marks, each counted once.
    pub lines: u64,
}

impl Counts {
    /// The names of the counts, in order.
    pub const NAMES: [&str; 6] =
        ["instructions", "atomics", "fences", "system-calls", "clock-reads", "lines"];

    /// The counts, in the order of [`Counts::NAMES`].
    #[must_use]
    pub fn values(&self) -> [u64; 6] {
        let Self { instructions, atomics, fences, system_calls, clock_reads, lines } = *self;
        [instructions, atomics, fences, system_calls, clock_reads, lines]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.atomics += other.atomics;
        self.fences += other.fences;
        self.system_calls += other.system_calls;
        self.clock_reads += other.clock_reads;
        self.lines += other.lines;
    }
}

/// Ends what is counted as one, and begins the next.
#[inline(always)]
pub fn mark() {
    // `nop dword ptr [rax + MARK]`
    // SAFETY: the instruction does nothing.
    unsafe {
        asm!(".byte 0x0f, 0x1f, 0x80, 0x19, 0x51, 0x19, 0x51", options(nostack, preserves_flags));
    }
}

/// The registers before an instruction, as the kernel numbers them.
type Registers = [i64; 17];

/// The instructions of a thread.
struct Recording {
    steps: Vec<Registers>,
    mappings: Vec<Mapping>,
    is_full: bool,
}

thread_local! {
    static RECORDING: Cell<*mut Recording> = const { Cell::new(ptr::null_mut()) };
}

/// Begins to record the instructions of this thread, at most `most` of them. Shared memory is what
/// is mapped as such now. Until [`end`], the thread may not block the signal of the trap, as the C
/// library does when it starts a thread: the kernel would kill the process.
///
/// # Errors
///
/// Fails if a system call fails.
pub fn begin(most: usize) -> io::Result<()> {
    let recording = Recording {
        steps: Vec::with_capacity(most),
        mappings: mappings(&fs::read_to_string("/proc/self/maps")?),
        is_full: false,
    };
    install_handler()?;
    drop(take());
    RECORDING.set(Box::into_raw(Box::new(recording)));
    // SAFETY: the handler of the trap is installed.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    Ok(())
}

/// Ends the recording that this thread has begun, and counts what was done between each two
/// marks, in order.
///
/// # Errors
///
/// Fails if nothing was recorded on this thread, or not all of it.
pub fn end() -> io::Result<Vec<Counts>> {
    // SAFETY: the trap flag is not set by anything else.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    let recording = take().ok_or_else(|| io::Error::other("nothing was recorded here"))?;
    if recording.is_full {
        return Err(io::Error::other("there are more instructions than were to be recorded"));
    }
    Ok(Analysis::new(&recording.mappings).windows(&recording.steps))
}

fn take() -> Option<Box<Recording>> {
    let recording = RECORDING.replace(ptr::null_mut());
    // SAFETY: it is null or from `Box::into_raw`, and was taken out of its only place.
    (!recording.is_null()).then(|| unsafe { Box::from_raw(recording) })
}

fn install_handler() -> io::Result<()> {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    let handler: Handler = record;
    // SAFETY: all zeros are a valid value of this type.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler touches nothing but its thread's recording.
    match unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Handles the trap after an instruction.
extern "C" fn record(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the thread, which this handler alone uses.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    // SAFETY: it is null or the recording of this thread, which the handler interrupts.
    let recording = unsafe { RECORDING.get().as_mut() };
    let is_recorded = recording.is_some_and(|recording| {
        recording.is_full = recording.steps.len() == recording.steps.capacity();
        if let (false, Some(step)) = (recording.is_full, registers.first_chunk()) {
            recording.steps.push(*step);
        }
        !recording.is_full
    });
    // A thread without a recording has the flag if it was started by one with it.
    if let (false, Some(flags)) = (is_recorded, registers.get_mut(libc::REG_EFL as usize)) {
        *flags &= !TRAP;
    }
}

/// Memory of the process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    is_shared: bool,
    is_code: bool,
    is_vdso: bool,
}

fn mappings(text: &str) -> Vec<Mapping> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let rights = words.next()?;
        Some(Mapping {
            addresses: address(from)?..address(to)?,
            is_shared: rights.ends_with('s'),
            is_code: rights.contains('x'),
            is_vdso: line.ends_with("[vdso]"),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// What an instruction is.
#[derive(Debug, Clone)]
struct Decoded {
    is_mark: bool,
    is_vdso: bool,
    is_repeated: bool,
    counts: Counts,
    writes: Vec<UsedMemory>,
}

struct Analysis<'a> {
    mappings: &'a [Mapping],
    decoded: HashMap<u64, Decoded>,
    factory: InstructionInfoFactory,
}

impl<'a> Analysis<'a> {
    fn new(mappings: &'a [Mapping]) -> Self {
        Self { mappings, decoded: HashMap::new(), factory: InstructionInfoFactory::new() }
    }

    fn windows(mut self, steps: &[Registers]) -> Vec<Counts> {
        let (mut windows, mut window) = (Vec::new(), None);
        let (mut lines, mut last, mut was_vdso) = (HashSet::new(), 0, false);
        for registers in steps {
            let rip = register(registers, libc::REG_RIP);
            let Decoded { is_mark, is_vdso, is_repeated, counts, writes } = self.decode(rip);
            let is_same = is_repeated && rip == last;
            last = rip;
            if is_mark {
                windows.extend(window.replace(Counts::default()));
                lines.clear();
                continue;
            }
            let Some(window) = &mut window else { continue };
            window.clock_reads += u64::from(is_vdso && !was_vdso);
            was_vdso = is_vdso;
            if !is_same {
                *window += counts;
            }
            for (first, size) in writes.iter().filter_map(|memory| written(memory, registers)) {
                if self.mappings.iter().any(|m| m.is_shared && m.addresses.contains(&first)) {
                    let all = first / LINE..=(first + size.max(1) - 1) / LINE;
                    window.lines += all.filter(|line| lines.insert(*line)).count() as u64;
                }
            }
        }
        windows
    }

    fn decode(&mut self, rip: u64) -> Decoded {
        if let Some(decoded) = self.decoded.get(&rip) {
            return decoded.clone();
        }
        let mapping = self.mappings.iter().find(|m| m.is_code && m.addresses.contains(&rip));
        let is_vdso = mapping.is_some_and(|mapping| mapping.is_vdso);
        let len = mapping.map_or(0, |mapping| (mapping.addresses.end - rip).min(LONGEST));
        // SAFETY: the bytes are code of this process, which was executed and does not change.
        let bytes = unsafe { std::slice::from_raw_parts(rip as *const u8, len as usize) };
        let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
        let is_write = |memory: &&UsedMemory| {
            use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
            matches!(memory.access(), Write | CondWrite | ReadWrite | ReadCondWrite)
        };
        let used = self.factory.info(&instruction).used_memory();
        let decoded = Decoded {
            is_mark: instruction.mnemonic() == Mnemonic::Nop
                && instruction.memory_displacement64() == MARK,
            is_vdso,
            is_repeated: instruction.has_rep_prefix() || instruction.has_repne_prefix(),
            counts: counts(&instruction, is_vdso),
            writes: used.iter().filter(is_write).copied().collect(),
        };
        self.decoded.insert(rip, decoded.clone());
        decoded
    }
}

/// What one execution of an instruction counts.
fn counts(instruction: &Instruction, is_vdso: bool) -> Counts {
    let has_memory = instruction.memory_base() != Register::None
        || instruction.memory_index() != Register::None
        || instruction.memory_displacement64() != 0;
    let is_atomic =
        instruction.has_lock_prefix() || (instruction.mnemonic() == Mnemonic::Xchg && has_memory);
    // `lock or dword ptr [rsp], 0` changes nothing, and is a full fence.
    let is_stack_fence = instruction.has_lock_prefix()
        && instruction.memory_base() == Register::RSP
        && matches!(instruction.mnemonic(), Mnemonic::Or | Mnemonic::Add)
        && instruction.try_immediate(1).is_ok_and(|value| value == 0);
    let is_fence = instruction.mnemonic() == Mnemonic::Mfence || is_stack_fence;
    Counts {
        instructions: u64::from(!is_vdso),
        atomics: u64::from(is_atomic && !is_stack_fence),
        fences: u64::from(is_fence),
        system_calls: u64::from(instruction.mnemonic() == Mnemonic::Syscall),
        clock_reads: 0,
        lines: 0,
    }
}

fn register(registers: &Registers, number: libc::c_int) -> u64 {
    registers.get(number as usize).map_or(0, |value| value.cast_unsigned())
}

/// Returns the first address that an instruction writes to, and the number of bytes; `None` for
/// memory of the thread's own, in a segment.
fn written(memory: &UsedMemory, registers: &Registers) -> Option<(u64, u64)> {
    let value = |name: Register, _, _| {
        let number = match name.full_register() {
            Register::RAX => libc::REG_RAX,
            Register::RBX => libc::REG_RBX,
            Register::RCX => libc::REG_RCX,
            Register::RDX => libc::REG_RDX,
            Register::RSI => libc::REG_RSI,
            Register::RDI => libc::REG_RDI,
            Register::RBP => libc::REG_RBP,
            Register::RSP => libc::REG_RSP,
            Register::R8 => libc::REG_R8,
            Register::R9 => libc::REG_R9,
            Register::R10 => libc::REG_R10,
            Register::R11 => libc::REG_R11,
            Register::R12 => libc::REG_R12,
            Register::R13 => libc::REG_R13,
            Register::R14 => libc::REG_R14,
            Register::R15 => libc::REG_R15,
            Register::CS | Register::DS | Register::ES | Register::SS => return Some(0),
            _ => return None,
        };
        Some(register(registers, number))
    };
    Some((memory.virtual_address(0, value)?, memory.memory_size().size() as u64))
}

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
