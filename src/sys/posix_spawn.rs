//! `posix_spawn`, which starts a process without a copy of this one's address space.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::signal::SignalSet;

/// Turns the error that these calls return, and do not leave in `errno`, into a result.
fn checked(error: i32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// What the new process does with its descriptors and its directory before it runs the program,
/// in the order in which it was added.
pub(crate) struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    pub(crate) fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: `actions` has room for what the call writes.
        checked(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialised by the call. glibc's type has no pointer to itself, so that
        // it can be moved.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    pub(crate) fn duplicate(&mut self, from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
        let from = from.as_raw_fd();
        // SAFETY: initialised in `new`; the rest are integers.
        checked(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }

    pub(crate) fn change_directory(&mut self, path: &CStr) -> io::Result<()> {
        let path = path.as_ptr();
        // SAFETY: initialised in `new`; the path is live, and the call copies it.
        checked(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, path) })
    }

    pub(crate) fn close_from(&mut self, first: i32) -> io::Result<()> {
        // SAFETY: initialised in `new`; the rest is an integer.
        checked(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// Attributes of a process that has a group of its own, no blocked signals, and the default
/// action for each signal.
pub(crate) struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    pub(crate) fn detached() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: `attributes` has room for what the call writes.
        checked(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised by the call. glibc's type is plain data.
        let mut this = Self(unsafe { attributes.assume_init() });
        let all = SignalSet::full();
        let none = SignalSet::empty();
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = i16::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: initialised above; the rest is an integer.
        checked(unsafe { libc::posix_spawnattr_setflags(&raw mut this.0, flags) })?;
        // SAFETY: initialised above; group 0 stands for the new process's own id.
        checked(unsafe { libc::posix_spawnattr_setpgroup(&raw mut this.0, 0) })?;
        // SAFETY: both are initialised, and the set is only read.
        checked(unsafe { libc::posix_spawnattr_setsigmask(&raw mut this.0, none.as_ptr()) })?;
        // SAFETY: both are initialised, and the set is only read.
        checked(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut this.0, all.as_ptr()) })?;
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `detached`, and destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// Starts the program at `path` and returns the process id. If any action or the exec itself
/// fails, its error is returned and there is no process.
pub(crate) fn spawn(
    path: &CStr,
    arguments: &[CString],
    environment: &[CString],
    actions: &Actions,
    attributes: &Attributes,
) -> io::Result<u32> {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    let mut pid: libc::pid_t = 0;
    // SAFETY: the path and all strings of the two null-terminated arrays are live and only
    // read, the actions and attributes are initialised, and `pid` has room for the id.
    checked(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(pid.unsigned_abs())
}

fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}
