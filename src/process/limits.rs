//! The limits and properties that a worker applies to its own process when it attaches.
//!
//! The parent could only do this between fork and exec, and a fork would copy its address space.

use std::ffi::CString;
use std::fs;
use std::os::unix::process::parent_id;
use std::process;

use super::service::service_mask;
use crate::error::{Error, Result};
use crate::protocol::codec::cut;
use crate::sys::process as system;

pub(crate) use crate::sys::process::Resource;

/// Processors have numbers below this one.
pub(crate) const MAX_CPUS: usize = 64 * size_of::<system::CpuMask>() / size_of::<u64>();

/// Makes the kernel kill this process when the thread that started it ends, which is a thread of
/// `parent`. Returns `false` if `parent` is not this process's parent, or not any more.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os).
pub(crate) fn die_with_parent(parent: u32) -> Result<bool> {
    // Comparing with 1 would not do: an orphan's new parent can be any subreaper, and in a
    // container the process 1 can be the true parent.
    if parent_id() != parent {
        return Ok(false);
    }
    system::set_parent_death_signal(libc::SIGKILL)
        .map_err(|e| Error::os("cannot tie this process's life to its parent's", e))?;
    // The kernel says nothing of a parent that ended before the call.
    Ok(parent_id() == parent)
}

/// Switches core dumps off: the kernel tells of a death only when the dump is written.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os).
pub(crate) fn no_core_dumps() -> Result<()> {
    // One byte is too small for any file. It is also the one value at which the kernel does not
    // run a dump handler; it does so at a limit of zero.
    set_rlimit(libc::RLIMIT_CORE, 1)
}

/// Sets the soft and the hard limit to `value`, or to the present hard limit if that is lower.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os).
pub(crate) fn set_rlimit(resource: Resource, value: u64) -> Result<()> {
    let failed = |e| Error::os(format!("cannot set resource limit {resource} to {value}"), e);
    let (_, hard) = system::limit(resource).map_err(failed)?;
    let value = value.min(hard);
    system::set_limit(resource, value, value).map_err(failed)
}

/// Sets the nice value of the calling thread and of the threads that it will start.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if this process may not lower its nice value;
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for a value out of range, which
/// the kernel would clamp.
pub(crate) fn nice(value: i32) -> Result<()> {
    check_nice(value)?;
    system::set_nice(value).map_err(|e| Error::os(format!("cannot set nice value {value}"), e))
}

/// Checks that a nice value is in range.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig).
pub(crate) fn check_nice(value: i32) -> Result<()> {
    if (-20..=19).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid_config(format!("nice value {value}: it must be from -20 to 19")))
}

/// Binds the calling thread, and the threads that it will start, to these processors.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for an empty list or a number that
/// is too high, [`ErrorKind::Os`](crate::ErrorKind::Os) if this process may use none of them.
pub(crate) fn affinity(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Err(Error::invalid_config("a worker needs at least one processor"));
    }
    let mut mask = system::NO_CPUS;
    for &cpu in cpus {
        let Some(word) = mask.get_mut(cpu / 64) else {
            return Err(Error::invalid_config(format!(
                "there is no processor {cpu}; the last one is {}",
                MAX_CPUS - 1
            )));
        };
        *word |= 1 << (cpu % 64);
    }
    system::set_affinity(&mask)
        .map_err(|e| Error::os(format!("cannot bind the worker to processors {cpus:?}"), e))
}

/// Makes process lists show `role`, cut to 15 bytes, for this process. Best effort.
pub(crate) fn name_process(role: &str) {
    let role = cut(role, 15);
    // The main thread's name is the process's.
    if system::thread_id() == process::id() {
        if let Ok(name) = CString::new(role) {
            let _ = system::set_thread_name(&name);
        }
    } else {
        let _ = fs::write("/proc/self/comm", role);
    }
}

/// Blocks all signals in the calling thread, a thread of the library's own, except those by
/// which a fault of the thread itself is reported.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os).
pub(crate) fn block_all_signals() -> Result<()> {
    let blocked = service_mask().set_as_mask().map(drop);
    blocked.map_err(|e| Error::os("cannot block signals in a service thread", e))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::error::ErrorKind;
    use crate::process::testing::alone;
    use crate::process::testing::blocked_signals;

    #[test]
    fn only_a_child_dies_with_its_parent() {
        alone(|| {
            let parent = parent_id();
            assert!(!die_with_parent(parent + 1).unwrap());
            assert!(die_with_parent(parent).unwrap());
        });
    }

    #[test]
    fn limits_are_lowered_and_core_dumps_are_off_for_handlers_too() {
        alone(|| {
            no_core_dumps().unwrap();
            assert!(system::limit(libc::RLIMIT_CORE).unwrap().0 <= 1);
            set_rlimit(libc::RLIMIT_NOFILE, 64).unwrap();
            assert_eq!(system::limit(libc::RLIMIT_NOFILE).unwrap(), (64, 64));
            set_rlimit(libc::RLIMIT_NOFILE, 128).unwrap();
            assert_eq!(system::limit(libc::RLIMIT_NOFILE).unwrap(), (64, 64));
        });
    }

    #[test]
    fn affinity_binds_and_refuses_nonsense() {
        thread::spawn(|| {
            affinity(&[0]).unwrap();
            assert_eq!(system::affinity(0).unwrap()[0], 1);
            assert_eq!(affinity(&[]).unwrap_err().kind(), ErrorKind::InvalidConfig);
            assert_eq!(affinity(&[usize::MAX]).unwrap_err().kind(), ErrorKind::InvalidConfig);
            assert_eq!(affinity(&[MAX_CPUS - 1]).unwrap_err().kind(), ErrorKind::Os);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_process_is_named_from_any_thread_and_in_whole_characters() {
        alone(|| {
            let name = || fs::read_to_string("/proc/self/comm").unwrap();
            name_process("embedder");
            assert_eq!(name(), "embedder\n");
            thread::spawn(|| name_process("fourteen-bytes\u{E4}")).join().unwrap();
            assert_eq!(name(), "fourteen-bytes\n");
        });
    }

    #[test]
    fn a_nice_value_reaches_threads_started_later() {
        thread::spawn(|| {
            nice(3).unwrap();
            assert_eq!(nice(20).unwrap_err().kind(), ErrorKind::InvalidConfig);
            let stat = thread::spawn(|| fs::read_to_string("/proc/thread-self/stat").unwrap());
            let stat = stat.join().unwrap();
            let fields = stat.rsplit(')').next().unwrap();
            assert_eq!(fields.split_whitespace().nth(16), Some("3"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn signals_are_blocked_in_the_calling_thread_alone() {
        thread::spawn(|| {
            block_all_signals().unwrap();
            assert!(blocked_signals().contains(&libc::SIGINT));
        })
        .join()
        .unwrap();
        assert!(!blocked_signals().contains(&libc::SIGINT));
    }
}
