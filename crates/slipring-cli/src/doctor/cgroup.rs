//! The limits of the control groups that this process is in: of its own groups and of those around
//! them, of the first version, of the second, or of both at once.

use serde_json::json;

use super::files::{Files, list_of, numbers_of};
use super::item::{Item, State, bytes};

/// The controllers whose limits are read.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "cpuset"];
/// More than any hierarchy is deep.
const DEEPEST: usize = 64;

/// Where the groups of this process are, and their limits.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Groups {
    /// `v1`, `v2`, `v1 and v2`, or nothing if none can be read.
    pub(super) version: &'static str,
    pub(super) memory: Use,
    pub(super) pids: Use,
    /// Processors' worth of time in each period.
    pub(super) quota: Option<Quota>,
    pub(super) cpus: Option<Vec<usize>>,
}

/// A limit and what is used of it; `None` for no limit, and for what is not known.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Use {
    pub(super) most: Option<u64>,
    pub(super) used: Option<u64>,
}

impl Use {
    fn room(self) -> Option<u64> {
        Some(self.most?.saturating_sub(self.used.unwrap_or(0)))
    }
}

/// Microseconds of processor time in a period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quota {
    quota: u64,
    period: u64,
}

impl Quota {
    /// Hundredths of a processor.
    fn hundredths(self) -> u64 {
        self.quota.saturating_mul(100).checked_div(self.period).unwrap_or(u64::MAX)
    }

    /// Whole processors, as the library counts them.
    pub(super) fn whole(self) -> u64 {
        self.hundredths() / 100
    }
}

/// A mounted hierarchy.
struct Mount {
    /// The group that is mounted.
    root: String,
    at: String,
    /// The controllers of a hierarchy of the first version; `None` for the second version.
    controllers: Option<Vec<String>>,
}

impl Mount {
    /// Whether it is of the second version, and can be seen.
    fn is_second_version(&self, files: &Files<'_>) -> bool {
        let list = || files.text(&format!("{}/cgroup.controllers", self.at));
        self.controllers.is_none() && list().is_some()
    }
}

impl Groups {
    pub(super) fn read(files: &Files<'_>) -> Self {
        let Some(own) = files.text("/proc/self/cgroup") else { return Self::default() };
        let mounts = mounts(&files.text("/proc/self/mountinfo").unwrap_or_default());
        let mut found = Self::default();
        let (mut has_first, mut has_second) = (false, false);
        for controller in CONTROLLERS {
            let Some((directories, is_second)) = directories(&own, &mounts, controller) else {
                continue;
            };
            // Without a file of the group it is a hierarchy without this controller, or out of reach.
            let sees = found.read_controller(files, controller, &directories, is_second);
            has_first |= sees && !is_second;
            has_second |= sees && is_second;
        }
        found.version = match (has_first, has_second) {
            (true, true) => "v1 and v2",
            (true, false) => "v1",
            (false, true) => "v2",
            // At the root of the second version there are no files of limits.
            (false, false) if mounts.iter().any(|mount| mount.is_second_version(files)) => "v2",
            (false, false) => "",
        };
        found
    }

    /// Reads the limits in these groups, its own first. Returns whether there is any.
    fn read_controller(
        &mut self,
        files: &Files<'_>,
        controller: &str,
        directories: &[String],
        is_second: bool,
    ) -> bool {
        let names = match (controller, is_second) {
            ("memory", true) => ["memory.max", "memory.current"],
            ("memory", false) => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            ("pids", _) => ["pids.max", "pids.current"],
            ("cpu", true) => ["cpu.max", ""],
            ("cpu", false) => ["cpu.cfs_quota_us", "cpu.cfs_period_us"],
            (_, true) => ["cpuset.cpus.effective", ""],
            (_, false) => ["cpuset.effective_cpus", "cpuset.cpus"],
        };
        let mut is_there = false;
        for directory in directories {
            let [first, second] = names.map(|name| files.text(&format!("{directory}/{name}")));
            is_there |= first.is_some();
            let number = |text: &Option<String>| text.as_deref().and_then(limit);
            match controller {
                "memory" => self.memory.narrow(number(&first), number(&second)),
                "pids" => self.pids.narrow(number(&first), number(&second)),
                "cpu" => {
                    let quota = match is_second {
                        true => first.as_deref().and_then(quota_of),
                        false => quota(number(&first), number(&second)),
                    };
                    let all = self.quota.into_iter().chain(quota);
                    self.quota = all.min_by_key(|quota| quota.hundredths());
                }
                _ => {
                    let list = first.or(second).filter(|list| !list.is_empty());
                    // Those of the own group are the narrowest.
                    self.cpus = self.cpus.take().or_else(|| numbers_of(&list?));
                }
            }
        }
        is_there
    }
}

impl Use {
    /// Takes the limit of a group if it leaves less room.
    fn narrow(&mut self, most: Option<u64>, used: Option<u64>) {
        let other = Self { most, used };
        let leaves_less = |room: u64| self.room().is_none_or(|own| room < own);
        if other.room().is_some_and(leaves_less) {
            *self = other;
        }
    }
}

/// A limit; `None` for `max`, -1, and the number that the first version has for none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|number| *number < 1 << 62)
}

/// `150000 100000`, or `max 100000`.
fn quota_of(text: &str) -> Option<Quota> {
    let (first, second) = text.split_once(' ')?;
    quota(limit(first), limit(second))
}

fn quota(quota: Option<u64>, period: Option<u64>) -> Option<Quota> {
    Some(Quota { quota: quota?, period: period.filter(|period| *period > 0)? })
}

/// The mounted hierarchies of `/proc/self/mountinfo`.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, at) = (front.next()?.to_owned(), front.next()?.to_owned());
        let mut back = back.split(' ');
        let kind = back.next()?;
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => Some(back.nth(1)?.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        Some(Mount { root, at, controllers })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// The directories of this process's group with a controller and of the groups around it, and whether
/// they are of the second version. `own` is `/proc/self/cgroup`.
fn directories(own: &str, mounts: &[Mount], controller: &str) -> Option<(Vec<String>, bool)> {
    let groups = || {
        own.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        })
    };
    // A controller belongs to one of both versions; a list of the first one names its own.
    let first = groups().find(|(list, _)| list.split(',').any(|name| name == controller));
    let (list, path) = first.or_else(|| groups().find(|(list, _)| list.is_empty()))?;
    let is_second = list.is_empty();
    let mount = mounts.iter().find(|mount| match &mount.controllers {
        None => is_second,
        Some(names) => !is_second && names.iter().any(|name| name == controller),
    })?;
    // In a container the group that is mounted may be the container's own, of which the path tells from
    // outside, or the path may be from the container's own root.
    let below = match mount.root.as_str() {
        "/" => path,
        root => path.strip_prefix(root).unwrap_or(""),
    };
    let below = below.trim_matches('/');
    // A path with `..` leads to a group outside of what is mounted.
    let below = if below.split('/').any(|part| part == "..") { "" } else { below };
    let mut directories = Vec::new();
    let mut rest = below;
    while !rest.is_empty() && directories.len() < DEEPEST {
        directories.push(format!("{}/{rest}", mount.at));
        rest = rest.rsplit_once('/').map_or("", |(rest, _)| rest);
    }
    directories.push(mount.at.clone());
    Some((directories, is_second))
}

pub(super) fn items(files: &Files<'_>, groups: &Groups) -> Vec<Item> {
    let version = match groups.version {
        "" if files.text("/proc/self/cgroup").is_none() => {
            let meaning = "Memory, processors and processes may be limited.";
            Item::unknown("cgroup.version", "/proc/self/cgroup is not there", meaning)
        }
        "" => {
            let meaning = "Memory, processors and processes may be limited.";
            Item::unknown(
                "cgroup.version",
                "no hierarchy is mounted where this process sees it",
                meaning,
            )
        }
        version => {
            Item::ok("cgroup.version", version, "The least limit of all groups around counts.")
        }
    };
    let mut items = vec![version];
    if !groups.version.is_empty() {
        items.extend([memory(groups.memory), cpu(groups.quota), pids(groups.pids), cpuset(groups)]);
    }
    items
}

fn memory(memory: Use) -> Item {
    const NAME: &str = "cgroup.memory";
    let data = json!({ "max": memory.most, "current": memory.used });
    let (Some(most), Some(room)) = (memory.most, memory.room()) else {
        return Item::ok(NAME, "no limit", "Memory of rings counts where it is first used.")
            .with(data);
    };
    let value = format!("{}, {} free", bytes(most), bytes(room));
    let meaning = "Host, workers and rings together, 8.1 MiB for a channel with the default configuration. \
                   When it is used up, the kernel kills one of them.";
    let item = Item::ok(NAME, value, meaning).with(data);
    match room {
        room if room < 64 << 20 => {
            item.but(State::Warn, meaning, "Raise memory.max, or use smaller rings: Config::small.")
        }
        _ => item,
    }
}

fn cpu(quota: Option<Quota>) -> Item {
    const NAME: &str = "cgroup.cpu";
    let Some(quota) = quota else {
        return Item::ok(NAME, "no limit", "Time of processors is not limited.");
    };
    let hundredths = quota.hundredths();
    let value = format!("{}.{:02} processors", hundredths / 100, hundredths % 100);
    let item = Item::ok(NAME, value, "")
        .with(json!({ "quota_us": quota.quota, "period_us": quota.period }));
    match quota.whole() {
        0 | 1 => item.but(
            State::Warn,
            "Host and worker share the time of less than two processors: neither spins, and a call takes \
             two switches between them. When the time of a period is used up, all stop until the next.",
            "Give the group two processors or more (cpu.max).",
        ),
        _ => item.but(
            State::Note,
            "When the time of a period is used up, host and workers stop until the next: calls then take \
             up to a period.",
            "",
        ),
    }
}

fn pids(pids: Use) -> Item {
    const NAME: &str = "cgroup.pids";
    let data = json!({ "max": pids.most, "current": pids.used });
    let (Some(most), Some(room)) = (pids.most, pids.room()) else {
        return Item::ok(NAME, "no limit", "Processes and threads are not limited.").with(data);
    };
    let value = format!("{most}, {room} free");
    let meaning = format!(
        "Processes and threads: enough for about {} workers more, with their threads and their host's.",
        room / 8
    );
    let item = Item::ok(NAME, value, meaning.clone()).with(data);
    match room {
        room if room < 128 => item.but(State::Warn, meaning, "Raise pids.max, or --pids-limit."),
        _ => item,
    }
}

fn cpuset(groups: &Groups) -> Item {
    const NAME: &str = "cgroup.cpuset";
    match &groups.cpus {
        Some(cpus) => Item::ok(NAME, list_of(cpus), "The processors that the group may use.")
            .with(json!({ "cpus": cpus })),
        None => Item::ok(NAME, "no limit", "The group may use all processors."),
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
