//! What slipring will use on this machine, by what was found.

use super::cgroup::Groups;
use super::cores::Cores;
use super::item::{Item, State};

pub(super) fn items(found: &[Item], cores: &Cores, groups: &Groups) -> Vec<Item> {
    let works = |name: &str| {
        let item = found.iter().find(|item| item.name == name);
        item.is_some_and(|item| item.state == State::Ok)
    };
    vec![
        waiting(cores, groups),
        sleeping(works("kernel.futex_waitv")),
        deaths(works("kernel.robust_list"), works("kernel.pidfd")),
        memory(works("kernel.populate"), works("kernel.memfd_noexec")),
        copies(found),
        watching(works("visibility.proc")),
    ]
}

/// As the library decides: a process that is bound to one processor may have its peer beside it.
fn waiting(cores: &Cores, groups: &Groups) -> Item {
    const NAME: &str = "plan.waiting";
    let has_one = cores.online.as_ref().is_some_and(|online| online.len() == 1);
    let has_little = groups.quota.is_some_and(|quota| quota.whole() < 2);
    match (has_one || has_little, cores.allowed.len()) {
        (true, _) => Item::ok(
            NAME,
            "sleeps at once",
            "There is less than two processors' time, which spinning would take from the other side.",
        ),
        (false, 1) => Item::ok(
            NAME,
            "sleeps at once where both sides run on one processor",
            "As they do while they are bound to one.",
        ),
        (false, _) => Item::ok(
            NAME,
            "spins for 20 us, then sleeps",
            "That is the default. `Config::wait_strategy` has others.",
        ),
    }
}

fn sleeping(has_waitv: bool) -> Item {
    const NAME: &str = "plan.sleeping";
    match has_waitv {
        true => Item::ok(NAME, "futex_waitv", "An idle channel costs no time of processors."),
        false => Item::ok(
            NAME,
            "futex, for 100 ms at a time",
            "An idle channel wakes ten times a second.",
        ),
    }
}

fn deaths(has_robust: bool, has_pidfd: bool) -> Item {
    let value = match (has_robust, has_pidfd) {
        (true, true) => "a robust futex, and the pidfd besides",
        (true, false) => "a robust futex, and looks at the process besides",
        (false, true) => "the pidfd",
        (false, false) => "looks at the process",
    };
    Item::ok("plan.deaths", value, "By that the host learns that a worker has died.")
}

fn memory(has_populate: bool, has_noexec: bool) -> Item {
    let value = match has_populate {
        true => "sealed memfds that grow while a ring fills for the first time",
        false => "sealed memfds that are reserved when a channel is made",
    };
    let meaning = match has_noexec {
        true => "They cannot be run as programs, nor be written by the other side.",
        false => "They cannot be written by the other side.",
    };
    Item::ok("plan.memory", value, meaning)
}

fn copies(found: &[Item]) -> Item {
    let routines = found.iter().filter(|item| item.group() == "copies");
    let routines: Vec<_> = routines.filter_map(|item| item.data.get("routine")?.as_str()).collect();
    let value = match routines.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => (*first).to_owned(),
        [first, second, third] => {
            format!("{first} from 4 KiB on, {second} from 16 KiB on, {third} from 128 KiB on")
        }
        _ => "what each ring finds out".to_owned(),
    };
    let meaning = "Leave it to the rings: `Config::copy_routine` is for hosts that have measured.";
    Item::ok("plan.copies", value, meaning)
}

fn watching(has_proc: bool) -> Item {
    const NAME: &str = "plan.watching";
    match has_proc {
        true => Item::ok(NAME, "status pages", "`slipring top` shows hosts that keep one."),
        false => Item::ok(NAME, "none", "Without /proc the status pages of hosts cannot be found."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::Files;
    use super::*;

    fn cores(allowed: usize, online: usize) -> Cores {
        let (allowed, online) = ((0..allowed).collect(), Some((0..online).collect()));
        Cores { allowed, online, ..Cores::default() }
    }

    #[test]
    fn a_side_spins_only_where_the_other_has_a_processor() {
        let with_quota = |quota: &str| {
            let mount = "1 1 0:1 / /g rw - cgroup2 cgroup rw";
            let texts = [
                ("/proc/self/cgroup", "0::/"),
                ("/proc/self/mountinfo", mount),
                ("/g/cpu.max", quota),
            ];
            Groups::read(&Files::given(&texts))
        };
        for (cores, groups, value) in [
            (cores(4, 4), Groups::default(), "spins"),
            (cores(4, 4), with_quota("250000 100000"), "spins"),
            (cores(4, 4), with_quota("150000 100000"), "sleeps at once"),
            (cores(1, 1), Groups::default(), "sleeps at once"),
            (cores(1, 4), Groups::default(), "sleeps at once where both sides run on one"),
        ] {
            let item = waiting(&cores, &groups);
            assert!(item.value.starts_with(value), "{item:?}");
        }
    }

    #[test]
    fn the_plan_follows_from_what_was_found() {
        let found = |name, state, routine: &str| {
            let item = Item::ok(name, "", "").with(serde_json::json!({ "routine": routine }));
            Item { state, ..item }
        };
        let all = [
            found("kernel.futex_waitv", State::Warn, ""),
            found("kernel.robust_list", State::Ok, ""),
            found("copies.from_4_kib", State::Ok, "a"),
            found("copies.from_16_kib", State::Ok, "a"),
            found("copies.from_128_kib", State::Ok, "b"),
        ];
        let plan = items(&all, &cores(2, 2), &Groups::default());
        let values: Vec<&str> = plan.iter().map(|item| item.value.as_str()).collect();
        assert_eq!(
            values[1..5],
            [
                "futex, for 100 ms at a time",
                "a robust futex, and looks at the process besides",
                "sealed memfds that are reserved when a channel is made",
                "a from 4 KiB on, a from 16 KiB on, b from 128 KiB on",
            ]
        );
        let alike = all.map(|item| item.with(serde_json::json!({ "routine": "a" })));
        assert_eq!(copies(&alike).value, "a");
        assert_eq!(copies(&[]).value, "what each ring finds out");
    }
}
