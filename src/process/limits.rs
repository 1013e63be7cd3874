//! What a worker applies to itself when it attaches. The parent cannot do it for it
//! without copying its own address space for a moment.

use std::ffi::CString;
use std::fs;
use std::process;

use super::service::service_mask;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::process as system;

pub(crate) use crate::sys::process::Resource;

/// Processors beyond this number do not exist.
pub(crate) const MAX_CPUS: usize = 64 * size_of::<system::CpuMask>() / size_of::<u64>();

/// Has the kernel kill this process when the thread that started it ends, and with it
/// `parent`. `false`: that is not, or not any more, the process that started this one, and
/// nothing is asked of the kernel.
///
/// # Errors
///
/// [`ErrorKind::Os`].
pub(crate) fn die_with_parent(parent: u32) -> Result<bool> {
    // Compared with its id and not with 1: orphans can go to any subreaper, and in a
    // container the parent itself may be 1.
    if system::parent_id() != parent {
        return Ok(false);
    }
    system::set_parent_death_signal(libc::SIGKILL)
        .map_err(|e| Error::os("cannot tie this process's life to its parent's", e))?;
    // The kernel's promise is only about an end that is still to come.
    Ok(system::parent_id() == parent)
}

/// Allows no core dumps: the kernel announces no death before a dump is written.
///
/// # Errors
///
/// [`ErrorKind::Os`].
pub(crate) fn no_core_dumps() -> Result<()> {
    // One byte and not zero: too small for any file, and the one value with which the
    // kernel skips a dump handler as well, to which a limit of zero means nothing.
    set_rlimit(libc::RLIMIT_CORE, 1)
}

/// Lowers a limit to `value`, the soft and the hard one; never raises the hard one.
///
/// # Errors
///
/// [`ErrorKind::Os`].
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
/// [`ErrorKind::Os`], when a value lower than the present one is not allowed;
/// [`ErrorKind::InvalidConfig`] for one that there is not, which the kernel would change.
pub(crate) fn nice(value: i32) -> Result<()> {
    check_nice(value)?;
    system::set_nice(value).map_err(|e| Error::os(format!("cannot set nice value {value}"), e))
}

/// # Errors
///
/// [`ErrorKind::InvalidConfig`] for a nice value that there is not.
pub(crate) fn check_nice(value: i32) -> Result<()> {
    if (-20..=19).contains(&value) {
        return Ok(());
    }
    let message = format!("niceness {value}: it must be from -20 to 19");
    Err(Error::new(ErrorKind::InvalidConfig, message))
}

/// Binds the calling thread, and the threads that it will start, to these processors.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`] for no processor or an impossible one, [`ErrorKind::Os`]
/// when this process may use none of them.
pub(crate) fn affinity(cpus: &[usize]) -> Result<()> {
    if cpus.is_empty() {
        return Err(Error::new(ErrorKind::InvalidConfig, "a worker needs at least one processor"));
    }
    let mut mask = system::NO_CPUS;
    for &cpu in cpus {
        let Some(word) = mask.get_mut(cpu / 64) else {
            let message = format!("there is no processor {cpu}; the last one is {}", MAX_CPUS - 1);
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        };
        *word |= 1 << (cpu % 64);
    }
    system::set_affinity(&mask)
        .map_err(|e| Error::os(format!("cannot bind the worker to processors {cpus:?}"), e))
}

/// Makes process lists show `role`, or the first 15 bytes of it. Best effort.
pub(crate) fn name_process(role: &str) {
    let mut end = role.len().min(15);
    while !role.is_char_boundary(end) {
        end -= 1;
    }
    let role = role.get(..end).unwrap_or_default();
    // The main thread's name is the process's.
    if system::thread_id() == process::id() {
        if let Ok(name) = CString::new(role) {
            let _ = system::set_thread_name(&name);
        }
    } else {
        let _ = fs::write("/proc/self/comm", role);
    }
}

/// Blocks signals in the calling thread, which serves the library and not the program,
/// except those by which the thread's own faults are reported.
///
/// # Errors
///
/// [`ErrorKind::Os`].
pub(crate) fn block_all_signals() -> Result<()> {
    match service_mask().set_as_mask() {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::os("cannot block signals in a service thread", e)),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::process::testing::alone;
    use crate::sys::signal::SignalSet;

    #[test]
    fn only_a_child_dies_with_its_parent() {
        alone(|| {
            let parent = system::parent_id();
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
    fn the_process_is_named_from_any_thread_and_never_in_the_middle_of_a_character() {
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
            assert!(SignalSet::of_thread().has(libc::SIGINT));
        })
        .join()
        .unwrap();
        assert!(!SignalSet::of_thread().has(libc::SIGINT));
    }
}
