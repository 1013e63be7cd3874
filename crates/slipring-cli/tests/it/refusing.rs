//! Makes system calls of a program fail as on an unusual file system, by a seccomp filter that
//! it inherits.

#![allow(unsafe_code, reason = "the filter is set between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call that fails with this error number.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    number: i64,
    /// If given: fails only if all these bits of this argument are set.
    argument: Option<(u32, u32)>,
    errno: i32,
}

impl Refusal {
    pub(crate) fn call(number: i64, errno: i32) -> Self {
        Self { number, argument: None, errno }
    }

    /// `openat` with `O_TMPFILE`.
    pub(crate) fn unnamed_files(errno: i32) -> Self {
        let bits = u32::try_from(libc::O_TMPFILE).unwrap();
        Self { argument: Some((2, bits)), ..Self::call(libc::SYS_openat, errno) }
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Makes these system calls fail in the program that will be started, and in its children.
pub(crate) fn refuse(command: &mut Command, refusals: &[Refusal]) {
    let mut filter = Vec::new();
    let mut push = |code: u32, jt: u8, jf: u8, k: u32| {
        filter.push(libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k });
    };
    for refusal in refusals {
        // The number stands first in `seccomp_data`, the arguments from byte 16 on.
        push(LOAD, 0, 0, 0);
        let number = u32::try_from(refusal.number).unwrap();
        match refusal.argument {
            Some((index, bits)) => {
                push(IF_EQUAL, 0, 4, number);
                push(LOAD, 0, 0, 16 + 8 * index);
                push(AND, 0, 0, bits);
                push(IF_EQUAL, 0, 1, bits);
            }
            None => push(IF_EQUAL, 0, 1, number),
        }
        let errno = u32::try_from(refusal.errno).unwrap();
        push(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno);
    }
    push(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or(0),
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: integers only.
        let granted = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program and its instructions live until the call returns.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        if granted == 0 && set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(install) };
}
