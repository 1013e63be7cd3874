//! Finds the workers of hosts in pid namespaces below the reader's, as those of containers are. A page has
//! the ids that workers have in their host's namespace. Here, another process can have the same id.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use super::process;
use super::row::{Numbers, Row};

/// A channel's states before its worker has ended.
const OPEN_OR_CLOSING: [u64; 2] = [1, 2];

/// What one look at the hosts has found of all processes, once it has to know that: the processes by their
/// pid namespace, and their id there.
pub(super) type Processes = Option<HashMap<(u64, u32), u32>>;

/// Puts the ids that workers have here into the rows of a host. `depth` is the number of ids that the host
/// has: one in each namespace from the reader's to its own.
pub(super) fn find_workers(rows: &mut [Row], host: u32, depth: usize, all: &mut Processes) {
    if depth == 1 {
        rows.iter_mut().for_each(|row| row.pid = id_inside(row));
        return;
    }
    let children = children(host, depth);
    for row in rows {
        let Some(inside) = id_inside(row) else { continue };
        row.pid = children.get(&inside).copied().or_else(|| {
            // The worker of a channel by name is not the host's child.
            let mut ids =
                || all.get_or_insert_with(processes).get(&(namespace(host)?, inside)).copied();
            if is_alive(row) { ids() } else { None }
        });
    }
}

/// The id of a worker that the page has.
fn id_inside(row: &Row) -> Option<u32> {
    let Numbers::Channel(numbers) = &row.numbers else { return None };
    u32::try_from(numbers.pid_inside).ok().filter(|pid| *pid != 0)
}

fn is_alive(row: &Row) -> bool {
    matches!(&row.numbers, Numbers::Channel(numbers) if OPEN_OR_CLOSING.contains(&numbers.state))
}

/// The children of all threads of a process, by their ids in the namespace of this depth. One that has
/// ended, and was not reaped, still has its id. Empty with kernels that do not tell.
fn children(pid: u32, depth: usize) -> HashMap<u32, u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut found = HashMap::new();
    for child in lists.flat_map(|list| process::numbers(&list)) {
        let ids = process::ids(child).unwrap_or_default();
        found.extend(depth.checked_sub(1).and_then(|own| ids.get(own)).map(|id| (*id, child)));
    }
    found
}

/// All processes of pid namespaces below this one that this process may look into.
fn processes() -> HashMap<(u64, u32), u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let place = |pid| match process::ids(pid).ok()?.as_slice() {
        [_, .., own] => Some(((namespace(pid)?, *own), pid)),
        _ => None,
    };
    pids.filter_map(place).collect()
}

/// The number of the pid namespace that a process runs in.
fn namespace(pid: u32) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino())
}
