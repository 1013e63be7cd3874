//! What slipring needs of the kernel: each is tried, as a version number says nothing of what a
//! distribution has added, or a container has taken away.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;

use memmap2::{Advice, MmapOptions};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{
    PidfdFlags, WaitId, WaitIdOptions, getpid, parent_process_death_signal, pidfd_open,
    set_parent_process_death_signal, waitid,
};
use rustix::thread::{futex, sched_getaffinity, sched_setaffinity};
use rustix::time::Timespec;

use super::files::Files;
use super::item::{Item, State};
use super::trial::{Outcome, Trial};
use crate::sys;

const PAGE: usize = 4096;

/// The trial that binds a thread to processors.
pub(super) const BINDING: &str = "kernel.affinity";

pub(super) const TRIALS: [Trial; 16] = [
    Trial {
        name: "kernel.memfd",
        run: || memfd().map(|_| String::new()),
        works: "Rings lie in anonymous files in memory.",
        without: State::Fail,
        lacks: "Rings lie in anonymous files in memory: there can be no channel.",
        change: "Allow memfd_create in the filter of this container or service.",
    },
    Trial {
        name: "kernel.memfd_noexec",
        run: || Ok(memfd_create("slipring-doctor", noexec()).map(|_| String::new())?),
        works: "Memory of rings can never be run as a program.",
        without: State::Note,
        lacks: "Memory of rings could be run as a program by one who may open it. Nothing else follows.",
        change: "Linux 6.3 has it.",
    },
    Trial {
        name: "kernel.seals",
        run: seals,
        works: "No worker can shrink, grow or write the host's memory (F_SEAL_FUTURE_WRITE).",
        without: State::Fail,
        lacks: "Workers could write the host's memory. slipring refuses that.",
        change: "Use Linux 5.1 or later.",
    },
    Trial {
        name: "kernel.reserve",
        run: || {
            let file = memfd()?;
            fallocate(&file, FallocateFlags::empty(), 0, 64 << 10)?;
            Ok(String::new())
        },
        works: "A lack of memory is an error when a channel is made, and no SIGBUS later.",
        without: State::Fail,
        lacks: "Memory cannot be reserved: no channel can be made.",
        change: "Allow fallocate, or give this container memory.",
    },
    Trial {
        name: "kernel.populate",
        run: populate,
        works: "Rings take memory as they fill for the first time; kept replies stay where they lie.",
        without: State::Note,
        lacks: "All memory of rings is taken at once, and replies that are kept are copied.",
        change: "Linux 5.14 has MADV_POPULATE_WRITE.",
    },
    Trial {
        name: "kernel.futex",
        run: shared_futex,
        works: "A side that waits sleeps until the other wakes it.",
        without: State::Fail,
        lacks: "A side that waits cannot sleep.",
        change: "Allow futex in the filter of this container or service.",
    },
    Trial {
        name: "kernel.futex_waitv",
        run: futex_waitv,
        works: "A thread sleeps for its ring and for its own process at once.",
        without: State::Warn,
        lacks: "A thread that waits for both its ring and its own process wakes every 100 ms to look.",
        change: "Linux 5.16 has it; allow it (number 449) in the filter of this container or service.",
    },
    Trial {
        name: "kernel.robust_list",
        run: || sys::register_robust_list_again().map(|()| String::new()),
        works: "The kernel tells of a worker's death at once, however big the worker is.",
        without: State::Warn,
        lacks: "A worker's death is noticed when the kernel has taken its memory apart, by the pidfd.",
        change: "Allow get_robust_list and set_robust_list in the filter.",
    },
    Trial {
        name: "kernel.pidfd",
        run: || {
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
            // This process is no child of its own. A kernel that cannot wait for a pidfd says so first.
            match waitid(
                WaitId::PidFd(pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            ) {
                Ok(_) | Err(Errno::CHILD) => Ok(String::new()),
                Err(error) => Err(error.into()),
            }
        },
        works: "The ends of workers are waited for, and signals cannot hit another process.",
        without: State::Warn,
        lacks: "The ends of workers are found by looking again and again.",
        change: "Linux 5.4 has it; allow pidfd_open (number 434) in the filter.",
    },
    Trial {
        name: "kernel.pidfd_group",
        run: || {
            let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
            match sys::may_signal_group(pidfd.as_fd()) {
                // This process leads no group; the kernel knows what it was asked.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(String::new()),
                asked => asked.map(|()| String::new()),
            }
        },
        works: "What a worker has started is killed with it, through its pidfd.",
        without: State::Note,
        lacks: "What a worker has started is killed by the number of its group, which could be a race if \
                the host reaps workers by itself.",
        change: "Linux 6.9 has it.",
    },
    Trial {
        name: "kernel.parent_death",
        run: || {
            set_parent_process_death_signal(parent_process_death_signal()?)?;
            Ok(String::new())
        },
        works: "A worker ends when its host does.",
        without: State::Fail,
        lacks: "Workers would outlive their host, so they refuse to start.",
        change: "Allow prctl(PR_SET_PDEATHSIG) in the filter.",
    },
    Trial {
        name: "kernel.events",
        run: events,
        works: "One thread waits for all workers; event loops can wait for channels.",
        without: State::Fail,
        lacks: "No thread can wait for workers.",
        change: "Allow eventfd2, epoll_create1, epoll_ctl and epoll_wait in the filter.",
    },
    Trial {
        name: "kernel.socket_pair",
        run: || {
            std::os::unix::net::UnixStream::pair()?;
            Ok(String::new())
        },
        works: "A worker gets the descriptors of its rings through its standard input.",
        without: State::Fail,
        lacks: "A worker cannot get the descriptors of its rings.",
        change: "Allow socketpair for AF_UNIX in the filter.",
    },
    Trial {
        name: "kernel.close_range",
        run: || sys::close_range_of_none().map(|()| String::new()),
        works: "A worker starts with three descriptors, however many the host has.",
        without: State::Note,
        lacks: "The C library closes the host's descriptors one by one when a worker starts.",
        change: "Linux 5.9 has it; allow close_range (number 436) in the filter.",
    },
    Trial {
        name: "kernel.ofd_locks",
        run: || sys::lock_description(&memfd()?).map(|()| String::new()),
        works: "Logs of workers are not overwritten while another worker writes them.",
        without: State::Note,
        lacks: "Two hosts with the same log directory could overwrite each other's logs.",
        change: "Give each host a log directory of its own.",
    },
    Trial {
        name: BINDING,
        run: || {
            sched_setaffinity(None, &sched_getaffinity(None)?)?;
            Ok(String::new())
        },
        works: "Workers can be bound to processors (Spawner::cpus).",
        without: State::Note,
        lacks: "Workers cannot be bound to processors (Spawner::cpus), nor is their latency measured here.",
        change: "Allow sched_setaffinity in the filter of this container or service.",
    },
];

fn noexec() -> MemfdFlags {
    MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL
}

/// A memfd of 16 pages, made as the library makes its own.
fn memfd() -> io::Result<File> {
    let name = "slipring-doctor";
    let file = match memfd_create(name, noexec()) {
        Err(Errno::INVAL) => memfd_create(name, noexec() - MemfdFlags::NOEXEC_SEAL)?,
        other => other?,
    };
    let file = File::from(file);
    file.set_len(16 * 4096)?;
    Ok(file)
}

fn seals() -> io::Result<String> {
    let mut file = memfd()?;
    let map = MmapOptions::new().len(PAGE).map_raw(&file)?;
    fcntl_add_seals(
        &file,
        SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let can = |what: &str| Err(io::Error::other(format!("a sealed file can be {what}")));
    if MmapOptions::new().len(PAGE).map_raw(&file).is_ok() {
        return can("mapped for writing");
    }
    if file.write_all(b"x").is_ok() {
        return can("written");
    }
    if file.set_len(0).is_ok() {
        return can("cut");
    }
    MmapOptions::new().len(PAGE).map_raw_read_only(&file)?;
    drop(map);
    Ok(String::new())
}

fn populate() -> io::Result<String> {
    let file = memfd()?;
    let map = MmapOptions::new().len(PAGE).map_raw(&file)?;
    map.advise(Advice::PopulateWrite)?;
    map.advise(Advice::PopulateRead)?;
    Ok(String::new())
}

fn shared_futex() -> io::Result<String> {
    let word = AtomicU32::new(1);
    let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    match futex::wait(&word, futex::Flags::empty(), 1, Some(&soon)) {
        Ok(()) | Err(Errno::TIMEDOUT | Errno::INTR | Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    futex::wake(&word, futex::Flags::empty(), 1)?;
    Ok(String::new())
}

/// The words have other values than those that are waited on, so that the call returns at once.
fn futex_waitv() -> io::Result<String> {
    let words = [AtomicU32::new(1), AtomicU32::new(1)];
    let waits = words.each_ref().map(|word| {
        let mut wait = futex::Wait::new();
        wait.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
        wait.flags = futex::WaitFlags::SIZE_U32;
        wait
    });
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let flags = futex::WaitvFlags::empty();
    match futex::waitv(&waits, flags, Some(&now), futex::ClockId::Monotonic) {
        Ok(_) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

fn events() -> io::Result<String> {
    let event = eventfd(1, EventfdFlags::CLOEXEC)?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, &event, epoll::EventData::new_u64(7), epoll::EventFlags::IN)?;
    let none =
        epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
    let mut found = [none; 2];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(&set, &mut found, Some(&now))? {
        1 => Ok(String::new()),
        count => Err(io::Error::other(format!("epoll tells of {count} events instead of one"))),
    }
}

/// The version, the filter of system calls, and how the trials went.
pub(super) fn items(files: &Files<'_>, outcomes: &[Outcome]) -> Vec<Item> {
    let mut items = vec![version(), filter(files)];
    items.extend(TRIALS.iter().zip(outcomes).map(|(trial, outcome)| item(trial, outcome)));
    items
}

fn item(trial: &Trial, outcome: &Outcome) -> Item {
    let Some(problem) = outcome.problem() else {
        return Item::ok(trial.name, "works", trial.works);
    };
    let item = Item::ok(trial.name, problem, "");
    match outcome {
        Outcome::Ended(_) => item.but(
            State::Fail,
            "slipring tries this too, as it cannot know, and would end as well.",
            "Let the filter answer with an error (EPERM) instead, or allow the call.",
        ),
        _ => item.but(trial.without, trial.lacks, trial.change),
    }
}

fn version() -> Item {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let (system, release, machine) =
        (text(name.sysname()), text(name.release()), text(name.machine()));
    let data = serde_json::json!({ "system": system, "release": release, "machine": machine });
    let meaning = "What follows was tried, not read from this.";
    Item::ok("kernel.version", format!("{system} {release} {machine}"), meaning).with(data)
}

fn filter(files: &Files<'_>) -> Item {
    const NAME: &str = "kernel.filter";
    match files.field("/proc/self/status", "Seccomp").as_deref() {
        Some("0") => Item::ok(NAME, "none", "No filter of system calls is set for this process."),
        Some("1" | "2") => Item::ok(
            NAME,
            "seccomp",
            "A filter of system calls is set, as in most containers. What it refuses of what slipring \
             uses stands below.",
        ),
        _ => Item::unknown(
            NAME,
            "/proc/self/status does not tell",
            "Calls may be refused; see below.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_fails_and_what_is_useful_does_not() {
        let refused = Outcome::Errno(libc::EPERM);
        for trial in &TRIALS {
            assert_eq!(item(trial, &Outcome::Works(String::new())).state, State::Ok);
            let item = item(trial, &refused);
            assert_eq!(item.state, trial.without);
            assert!(item.state > State::Ok && item.change.is_some(), "{item:?}");
            assert!(item.value.starts_with("refused: "), "{item:?}");
        }
        let deadly = Outcome::Ended("killed".into());
        assert!(TRIALS.iter().all(|trial| item(trial, &deadly).state == State::Fail));
    }

    #[test]
    fn a_filter_is_told_from_none_and_from_not_known() {
        let with = |text: &str| filter(&Files::given(&[("/proc/self/status", text)])).value;
        assert_eq!(with("Name:\tx\nSeccomp:\t0\n"), "none");
        assert_eq!(with("Seccomp:\t2\nSeccomp_filters:\t1\n"), "seccomp");
        assert!(with("Name:\tx\n").starts_with("not known"));
        assert!(filter(&Files::given(&[])).value.starts_with("not known"));
    }
}
