//! Limits of this process and of the machine.

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::files::Files;
use super::item::{Item, State, bytes};

/// What one worker of a pool takes of its host: descriptors, areas of memory, threads of host and
/// worker, and addresses.
const DESCRIPTORS: u64 = 4;
const AREAS: u64 = 24;
const TASKS: u64 = 8;
const ADDRESSES: u64 = 96 << 20;
/// A file of memory of a channel with the default configuration is a bit over 4 MiB.
const RING_FILE: u64 = 5 << 20;
/// What a host takes for itself.
const OWN_DESCRIPTORS: u64 = 16;
/// Fewer workers than this are too few to say nothing.
const FEW: u64 = 64;

pub(super) fn items(files: &Files<'_>) -> Vec<Item> {
    let limit = |resource| {
        let limit = getrlimit(resource);
        Limit { soft: limit.current, hard: limit.maximum }
    };
    vec![
        descriptors(limit(Resource::Nofile)),
        processes(limit(Resource::Nproc)),
        addresses(limit(Resource::As)),
        file_size(limit(Resource::Fsize)),
        locked(limit(Resource::Memlock)),
        areas(files),
        pids(files),
        overcommit(files),
        named_memory(),
    ]
}

/// A limit of this process; `None` is no limit.
#[derive(Debug, Clone, Copy)]
struct Limit {
    soft: Option<u64>,
    hard: Option<u64>,
}

impl Limit {
    fn data(self) -> serde_json::Value {
        json!({ "soft": self.soft, "hard": self.hard })
    }

    fn value(self, show: impl Fn(u64) -> String) -> String {
        let show = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_owned(), &show);
        match (self.soft, self.hard) {
            (soft, hard) if soft == hard => show(soft),
            (soft, hard) => format!("{}, can be raised to {}", show(soft), show(hard)),
        }
    }
}

fn descriptors(limit: Limit) -> Item {
    let item = Item::ok("limits.nofile", limit.value(|n| n.to_string()), "").with(limit.data());
    let Some(soft) = limit.soft else {
        return Item { meaning: "Open descriptors are not limited.".into(), ..item };
    };
    let workers = soft.saturating_sub(OWN_DESCRIPTORS) / DESCRIPTORS;
    let meaning = format!("Open descriptors: enough for about {workers} workers of one host.");
    match workers {
        0 => item.but(
            State::Fail,
            meaning,
            "Raise it: ulimit -n 1024, or LimitNOFILE= of a service.",
        ),
        1..FEW => item.but(
            State::Warn,
            meaning,
            "Raise it: ulimit -n 1024, or LimitNOFILE= of a service.",
        ),
        _ => Item { meaning, ..item },
    }
}

fn processes(limit: Limit) -> Item {
    let item = Item::ok("limits.nproc", limit.value(|n| n.to_string()), "").with(limit.data());
    let Some(soft) = limit.soft else {
        return Item { meaning: "Processes and threads are not limited by user.".into(), ..item };
    };
    let meaning = format!(
        "Processes and threads of this user, of all programs together: a worker takes {TASKS} with its \
         host's threads. Root is not limited."
    );
    match soft {
        soft if soft < FEW * TASKS => {
            item.but(State::Warn, meaning, "Raise it: ulimit -u, or LimitNPROC= of a service.")
        }
        _ => Item { meaning, ..item },
    }
}

fn addresses(limit: Limit) -> Item {
    let item = Item::ok("limits.as", limit.value(bytes), "").with(limit.data());
    let Some(soft) = limit.soft else {
        return Item { meaning: "Addresses are not limited.".into(), ..item };
    };
    let workers = soft / ADDRESSES;
    let meaning = format!(
        "Addresses of a process: rings are mapped twice and threads have stacks, so that it is enough for \
         about {workers} workers, whatever memory is used."
    );
    match workers {
        0..FEW => {
            item.but(State::Warn, meaning, "Limit memory by a control group instead (memory.max).")
        }
        _ => Item { meaning, ..item },
    }
}

fn file_size(limit: Limit) -> Item {
    let item = Item::ok("limits.fsize", limit.value(bytes), "").with(limit.data());
    match limit.soft {
        None => Item { meaning: "The size of files is not limited.".into(), ..item },
        Some(soft) if soft < RING_FILE => item.but(
            State::Fail,
            "Rings are files to the kernel: a channel with the default configuration cannot be made.",
            "Raise it: ulimit -f unlimited, or use Config::small.",
        ),
        Some(_) => item.but(
            State::Note,
            "Rings are files to the kernel: larger ones cannot be made.",
            "Raise it if channels need larger rings: ulimit -f unlimited.",
        ),
    }
}

fn locked(limit: Limit) -> Item {
    let meaning =
        "slipring locks no memory. It matters to a host that calls mlockall: its rings count.";
    Item::ok("limits.memlock", limit.value(bytes), meaning).with(limit.data())
}

fn areas(files: &Files<'_>) -> Item {
    const NAME: &str = "limits.max_map_count";
    let Some(most) = files.number("/proc/sys/vm/max_map_count") else {
        let meaning = "Areas of memory of a process may be limited.";
        return Item::unknown(NAME, "/proc/sys does not tell", meaning);
    };
    let workers = most / AREAS;
    let meaning =
        format!("Areas of memory of a process: enough for about {workers} workers of one host.");
    let item = Item::ok(NAME, most.to_string(), meaning.clone()).with(json!({ "most": most }));
    match workers {
        0..FEW => item.but(State::Warn, meaning, "Raise it: sysctl vm.max_map_count=65530."),
        _ => item,
    }
}

fn pids(files: &Files<'_>) -> Item {
    const NAME: &str = "limits.pid_max";
    let of = |name: &str| files.number(&format!("/proc/sys/kernel/{name}"));
    let (Some(pids), threads) = (of("pid_max"), of("threads-max")) else {
        let meaning = "Processes and threads of the machine are limited.";
        return Item::unknown(NAME, "/proc/sys does not tell", meaning);
    };
    let most = threads.map_or(pids, |threads| threads.min(pids));
    let meaning = "Processes and threads of the whole machine.";
    let item = Item::ok(NAME, most.to_string(), meaning);
    let item = item.with(json!({ "pid_max": pids, "threads_max": threads }));
    match most {
        most if most < FEW * TASKS => {
            item.but(State::Warn, meaning, "Raise it: sysctl kernel.pid_max.")
        }
        _ => item,
    }
}

fn overcommit(files: &Files<'_>) -> Item {
    const NAME: &str = "limits.overcommit";
    match files.number("/proc/sys/vm/overcommit_memory") {
        Some(2) => Item::ok(NAME, "2, strict", "").with(json!({ "mode": 2 })).but(
            State::Note,
            "The kernel counts addresses as memory: the second map of each ring counts, and large hosts may \
             be refused more.",
            "Raise vm.overcommit_ratio if channels fail for want of memory.",
        ),
        Some(mode) => {
            Item::ok(NAME, mode.to_string(), "Addresses do not count as memory.").with(json!({ "mode": mode }))
        }
        None => Item::unknown(NAME, "/proc/sys does not tell", "Addresses may count as memory."),
    }
}

fn named_memory() -> Item {
    const NAME: &str = "limits.dev_shm";
    let only = "Only named channels lie there: those of a host and its workers do not.";
    let found = statvfs("/dev/shm").ok().filter(|found| found.f_blocks > 0);
    let writes = tempfile("/dev/shm");
    match (found, writes) {
        (Some(found), Ok(())) => {
            let size = found.f_blocks.saturating_mul(found.f_frsize);
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let value = format!("{}, {} free", bytes(size), bytes(free));
            let item = Item::ok(NAME, value, only).with(json!({ "size": size, "free": free }));
            match free {
                free if free < 32 << 20 => item.but(
                    State::Note,
                    format!("{only} Few of them find room."),
                    "Run the container with a larger one: --shm-size.",
                ),
                _ => item,
            }
        }
        (_, found) => {
            let why = found.err().map_or("it has no size".to_owned(), |error| error.to_string());
            let item = Item::ok(NAME, format!("cannot be used: {why}"), "");
            item.but(
                State::Note,
                format!("{only} Named channels cannot be made."),
                "Mount a tmpfs at /dev/shm if named channels are used.",
            )
        }
    }
}

/// Makes a file without a name, of which nothing is left behind.
fn tempfile(directory: &str) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(soft: u64) -> Limit {
        Limit { soft: Some(soft), hard: Some(soft) }
    }

    const NONE: Limit = Limit { soft: None, hard: None };

    #[test]
    fn low_limits_are_warned_of_with_what_to_do() {
        for (low, high) in [
            (descriptors(limit(64)), descriptors(limit(1024))),
            (processes(limit(100)), processes(limit(30_000))),
            (addresses(limit(1 << 30)), addresses(limit(1 << 40))),
        ] {
            assert_eq!((low.state, high.state), (State::Warn, State::Ok), "{low:?} {high:?}");
            assert!(low.change.is_some());
        }
        for item in [descriptors(limit(12)), file_size(limit(1 << 20))] {
            assert_eq!(item.state, State::Fail, "{item:?}");
        }
        for without in [descriptors(NONE), processes(NONE), addresses(NONE), file_size(NONE)] {
            assert_eq!((without.state, without.value.as_str()), (State::Ok, "no limit"));
        }
    }

    #[test]
    fn both_limits_are_told_if_they_differ() {
        let limit = Limit { soft: Some(1024), hard: Some(4096) };
        assert_eq!(descriptors(limit).value, "1024, can be raised to 4096");
        assert_eq!(locked(limit).value, "1 KiB, can be raised to 4 KiB");
    }

    #[test]
    fn limits_of_the_machine_are_read_or_not_known() {
        let texts = [
            ("/proc/sys/vm/max_map_count", "65530\n"),
            ("/proc/sys/kernel/pid_max", "32768\n"),
            ("/proc/sys/kernel/threads-max", "300\n"),
            ("/proc/sys/vm/overcommit_memory", "2\n"),
        ];
        let files = Files::given(&texts);
        assert_eq!(areas(&files).state, State::Ok);
        assert_eq!((pids(&files).state, pids(&files).value.as_str()), (State::Warn, "300"));
        assert_eq!(overcommit(&files).state, State::Note);
        let none = Files::given(&[]);
        for item in [areas(&none), pids(&none), overcommit(&none)] {
            assert!(item.value.starts_with("not known") && item.state == State::Note, "{item:?}");
        }
    }
}
