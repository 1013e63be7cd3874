//! Counts the instructions of the hot paths, and what costs more than an instruction: atomic
//! operations, fences, system calls, readings of the clock, and lines of shared memory that are
//! written to. The counts do not depend on the load of the machine.
//!
//!     slipring-instructions            compare with the baseline
//!     slipring-instructions --update   write a new baseline
//!
//! The paths are the parent's, and those of a worker with serial handlers. Each runs in a process
//! of its own, one instruction at a time: see `slipring_bench::counts`. The other side does
//! nothing meanwhile: the ring has room for all frames, so that neither side waits or is woken. A
//! worker that is counted finds all requests in its ring when it starts. On a system that cannot
//! run single instructions the program prints `SKIPPED` and succeeds. The counts hold for one
//! compiler, with optimisation.
// Counts become floats, so `as` is allowed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_arch = "x86_64")]
    return counting::main();
    #[cfg(not(target_arch = "x86_64"))]
    {
        println!("SKIPPED: only instructions of x86-64 can be counted");
        ExitCode::SUCCESS
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "slipring-instructions/counting.rs"]
mod counting;
