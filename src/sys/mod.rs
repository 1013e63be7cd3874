//! What the kernel and the processor offer, in safe functions.
//!
//! Nothing here knows of rings or workers. Each system call is wrapped by itself, without a
//! policy: there is no retry and no fallback, and `EINTR` is an error, unless the text of a
//! function says otherwise.
//!
//! A file whose name ends with `_loom` stands in for the one without in builds for the model
//! checker.

pub(crate) mod ability;
#[cfg_attr(target_arch = "aarch64", path = "arch_aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "arch_other.rs")]
pub(crate) mod arch;
#[cfg(not(target_arch = "x86_64"))]
mod arch_fallback;
pub(crate) mod clock;
pub(crate) mod copy;
pub(crate) mod cpu;
pub(crate) mod descriptor;
pub(crate) mod memfd;

cfg_if! {
    if #[cfg(loom)] {
        #[path = "activity_loom.rs"]
        pub(crate) mod activity;
        #[path = "fork_loom.rs"]
        pub(crate) mod fork;
        #[path = "futex_loom.rs"]
        pub(crate) mod futex;
        #[path = "wake_fd_loom.rs"]
        pub(crate) mod wake_fd;
        #[path = "wake_socket_loom.rs"]
        pub(crate) mod wake_socket;
    } else {
        pub(crate) mod activity;
        pub(crate) mod exit;
        pub(crate) mod fd;
        pub(crate) mod fork;
        pub(crate) mod fork_once;
        pub(crate) mod futex;
        pub(crate) mod posix_spawn;
        pub(crate) mod process;
        pub(crate) mod variables;
        pub(crate) mod signal;
        pub(crate) mod thread;
        pub(crate) mod utc;
        pub(crate) mod wake_fd;
        #[cfg(feature = "pipe")]
        pub(crate) mod wake_socket;
    }
}

/// Turns the `-1` of a call into the error in `errno`.
pub(crate) fn check<T: Copy + PartialOrd + From<i8>>(result: T) -> std::io::Result<T> {
    if result < T::from(0) { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
