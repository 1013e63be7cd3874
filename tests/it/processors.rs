//! The processors of the two sides decide whether they spin for each other.

use crate::common::*;
use slipring::{Channel, Config, WaitStrategy};

/// The number of counted calls. Some calls before them tell both sides where the other runs.
const CALLS: u64 = 200;

/// The processors that this process may use.
fn processors() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.unwrap().trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    });
    ranges.flatten().collect()
}

/// Binds this process, which runs no other test, to one processor.
fn bind(processor: usize) {
    // SAFETY: a set of processors is a plain set of bits.
    #[allow(unsafe_code, reason = "cpu_set_t")]
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a live set, and a processor that this one has.
    #[allow(unsafe_code, reason = "CPU_SET")]
    unsafe {
        libc::CPU_SET(processor, &mut set)
    };
    // The thread that starts workers inherits the processors of the main thread.
    for thread in [0, std::process::id() as i32] {
        // SAFETY: reads a live set.
        #[allow(unsafe_code, reason = "sched_setaffinity")]
        let code = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
        assert_eq!(code, 0);
    }
}

/// How often the parent spun and slept in calls that it has to wait for, with the two sides bound
/// to processors. `None` on a machine with too few processors.
fn spins_and_parks(wait: WaitStrategy, are_apart: bool) -> Option<(u64, u64)> {
    let processors = processors();
    let (parent, worker) =
        (processors[0], processors[usize::from(are_apart).min(processors.len() - 1)]);
    if are_apart && parent == worker {
        println!("skipped: one processor");
        return None;
    }
    bind(parent);
    let config = Config::builder().wait_strategy(wait).build().unwrap();
    let channel = spawner().cpus([worker as u32]).config(config).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    call(&channel, 20);
    let before = channel.stats();
    call(&channel, CALLS);
    let after = channel.stats();
    let found = (after.spins - before.spins, after.parks - before.parks);
    println!("{found:?}");
    Some(found)
}

fn call(channel: &Channel, count: u64) {
    for _ in 0..count {
        channel.call(NAP, &encode(&[20, 0]), LONG).unwrap();
    }
}

#[test]
fn by_default_a_parent_spins_for_a_worker_that_is_bound_to_another_core() {
    let name = name_of(by_default_a_parent_spins_for_a_worker_that_is_bound_to_another_core);
    if in_a_process_of_its_own(name)
        && let Some((spins, _)) = spins_and_parks(Config::default().wait_strategy(), true)
    {
        assert!(spins > CALLS / 2, "{spins}");
    }
}

#[test]
fn by_default_a_parent_does_not_spin_on_the_core_of_its_worker() {
    let name = name_of(by_default_a_parent_does_not_spin_on_the_core_of_its_worker);
    if in_a_process_of_its_own(name)
        && let Some((spins, parks)) = spins_and_parks(Config::default().wait_strategy(), false)
    {
        assert!(spins == 0 && parks > CALLS / 2, "{spins} and {parks}");
    }
}

#[test]
fn a_parent_that_only_spins_sleeps_on_the_core_of_its_worker() {
    let name = name_of(a_parent_that_only_spins_sleeps_on_the_core_of_its_worker);
    if in_a_process_of_its_own(name)
        && let Some((spins, parks)) = spins_and_parks(WaitStrategy::Spin, false)
    {
        assert!(spins == 0 && parks > CALLS / 2, "{spins} and {parks}");
    }
}

#[test]
fn a_parent_that_only_spins_never_sleeps_while_its_worker_runs_elsewhere() {
    let name = name_of(a_parent_that_only_spins_never_sleeps_while_its_worker_runs_elsewhere);
    if in_a_process_of_its_own(name)
        && let Some((spins, parks)) = spins_and_parks(WaitStrategy::Spin, true)
    {
        assert!(parks == 0 && spins > CALLS / 2, "{spins} and {parks}");
    }
}
